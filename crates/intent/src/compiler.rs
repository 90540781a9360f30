//! From facts to tables, again whenever facts change, at the cost of what changed.

use std::collections::{BTreeSet, HashSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podway_tables::{FrontendKind, Hop, Port, PortId, PortKind, Slots, Snapshot};

use crate::address::single;
use crate::lingering::Lingering;
use crate::pods::PodTable;
use crate::policies::PolicyTable;
use crate::round::{Round, Touched};
use crate::service_ranges::{Ranges, ServiceRanges};
use crate::services::ServiceTable;
use crate::topology::Topology;
use crate::world::WorldTable;
use crate::{Cluster, Compiled, Key, Names, Plan, Problem};

/// Addresses of this node's at which the XDP program knows what is ours (`addresses` of redirect.bpf.c).
const OWN_ADDRESSES: usize = 4096;

/// Compiles a cluster for one node and remembers what it made of it, so that the next time costs only what changed.
///
/// Ids stay with their objects from one compilation to the next; what takes over an id has a new generation.
#[derive(Debug)]
pub struct Compiler {
    node: Arc<str>,
    last: Cluster,
    lingering: Lingering,
    snapshot: Snapshot,
    names: Names,
    world: WorldTable,
    topology: Topology,
    pods: PodTable,
    ranges: ServiceRanges,
    services: ServiceTable,
    policies: PolicyTable,
}

impl Compiler {
    /// The compiler of the node with this name.
    pub fn new(node: &str) -> Compiler {
        Compiler {
            node: node.into(),
            last: Cluster::default(),
            lingering: Lingering::default(),
            snapshot: Snapshot::default(),
            names: Names::default(),
            world: WorldTable::default(),
            topology: Topology::default(),
            pods: PodTable::default(),
            ranges: ServiceRanges::default(),
            services: ServiceTable::default(),
            policies: PolicyTable::default(),
        }
    }

    /// Tables for the cluster as it now is; their sequence number is one more than that of the last ones.
    pub fn compile(&mut self, cluster: &Cluster) -> Compiled {
        let cluster = &self.lingering.in_force(cluster, &self.node);
        let before = std::mem::replace(&mut self.last, cluster.clone());
        self.snapshot.sequence += 1;
        let round = Round {
            node: &self.node,
            sequence: self.snapshot.sequence,
            before: &before,
            now: cluster,
            touched: Touched::between(&before, cluster),
        };
        let (snapshot, names) = (&mut self.snapshot, &mut self.names);
        self.world.update(&round, &mut snapshot.world);
        let moved = self.topology.update(&round, snapshot, &mut names.peers);
        let addresses = self.pods.update(
            &round,
            &self.topology,
            moved,
            snapshot,
            &mut names.endpoints,
        );
        self.policies.update(
            &round,
            &self.topology,
            &self.pods,
            &addresses,
            snapshot,
            &mut names.rules,
        );
        match self.ranges.update(&round) {
            Ranges::Different => snapshot.services.set_ranges(self.ranges.ranges()),
            Ranges::Same => {}
        }
        self.services
            .update(&round, &mut snapshot.services, &mut names.services);
        let mut problems = self.attach(cluster);
        problems.extend(self.topology.problems());
        problems.extend(self.pods.problems(&self.topology));
        problems.extend(self.ranges.problems());
        problems.extend(self.services.problems());
        let own = self.own_outside(cluster);
        problems.extend(too_many(&own));
        problems.sort_unstable();
        problems.dedup();
        Compiled {
            snapshot: Arc::new(self.snapshot.clone()),
            plan: self.plan(cluster, own),
            names: self.names.clone(),
            problems,
        }
    }

    /// Says what each device is; gives the attachments that want one that is taken.
    fn attach(&mut self, cluster: &Cluster) -> Vec<Problem> {
        let mut ports = Vec::new();
        let mut names = Slots::default();
        let mut problems = Vec::new();
        let setup = cluster.setup();
        let uplink = setup.and_then(|setup| setup.uplink).map(|(id, _, _)| id);
        let host = setup.and_then(|setup| setup.host).map(|(id, _, _)| id);
        let fixed = uplink.map(|id| (id, PortKind::Uplink, "uplink"));
        let more = setup.map_or(&[][..], |setup| &setup.uplinks).iter();
        let more = more.filter(|it| Some(it.port) != uplink);
        let more = more.map(|it| (it.port, PortKind::Uplink, "uplink"));
        for (id, kind, name) in fixed
            .into_iter()
            .chain(more)
            .chain(host.map(|id| (id, PortKind::Host, "host")))
        {
            place(&mut ports, id, kind);
            names.set(u32::from(id.0), Some(Arc::from(name)));
        }
        for attachment in cluster.attachments() {
            let id = attachment.port;
            if let Some(taken) = names.get(u32::from(id.0)) {
                problems.push(Problem {
                    object: Key::Attachment(attachment.pod.clone()),
                    text: format!("port {} is already {taken}; attach the pod again", id.0),
                });
                continue;
            }
            let endpoint = self.pods.endpoint(&attachment.pod);
            place(&mut ports, id, PortKind::Pod(endpoint));
            names.set(
                u32::from(id.0),
                Some(format!("pod:{}", attachment.pod).into()),
            );
        }
        self.snapshot.ports = ports;
        self.names.ports = names;
        problems
    }

    /// This node's own addresses outside of its ranges, those of the Node object first.
    fn own_outside(&self, cluster: &Cluster) -> Vec<IpAddr> {
        let node = cluster.node(&self.node);
        let ranges = node.map_or(&[][..], |node| &node.pod_ranges);
        let services = self.ranges.ranges();
        let is_told = |ip: &IpAddr| node.is_some_and(|node| node.addresses.contains(ip));
        let mut own = self.topology.own().to_vec();
        own.retain(|ip| {
            !ranges
                .iter()
                .chain(services)
                .any(|range| range.contains(ip))
        });
        own.sort_by_key(|ip| !is_told(ip));
        own
    }

    fn plan(&self, cluster: &Cluster, mut node_addresses: Vec<IpAddr>) -> Plan {
        node_addresses.truncate(OWN_ADDRESSES);
        let own = cluster.node(&self.node);
        let ranges: Vec<IpNet> = own.map_or_else(Vec::new, |own| own.pod_ranges.clone());
        let endpoints = self.snapshot.endpoints.iter().flatten();
        let outside = endpoints
            .flat_map(|endpoint| endpoint.addresses.iter().map(single))
            .filter(|addr| !ranges.iter().any(|range| range.contains(addr)));
        let mut local: BTreeSet<IpNet> = outside.collect();
        local.extend(ranges.iter().map(IpNet::trunc));
        let setup = cluster.setup();
        local.extend(self.ranges.taken(cluster));
        let nodes = cluster.nodes.iter().flat_map(|(_, node)| &node.addresses);
        let nodes: HashSet<&IpAddr> = nodes.collect();
        let mut node_ports = BTreeSet::new();
        let mut own_ports = BTreeSet::new();
        for (key, kind) in self.services.outward() {
            let address = key.addr.ip();
            let is_own = self.snapshot.routes.hop(&key.addr) == Hop::Host;
            if is_own || address.is_loopback() {
                own_ports.insert((address, key.protocol, key.port));
            }
            if address.is_loopback() {
                continue;
            }
            // Of an address that is the node's own only the service's port is ours (S10, D10).
            if kind == FrontendKind::NodePort || is_own {
                node_ports.insert((key.protocol, key.port));
            } else if !nodes.contains(&key.addr.ip()) {
                // Another node's is that node's to answer, and the way to it the kernel's.
                local.insert(single(&key.addr));
            }
        }
        Plan {
            node_addresses,
            local: local.into_iter().collect(),
            direct: self.topology.direct().to_vec(),
            tunnel_port: setup.map_or(0, |setup| setup.tunnel_port),
            node_ports: node_ports.into_iter().collect(),
            own_ports: own_ports.into_iter().collect(),
            host_ports: setup.map_or_else(Default::default, |setup| setup.host_ports.clone()),
            snat_ports: setup.and_then(|setup| setup.snat_ports),
        }
    }
}

/// What is said of addresses that the XDP program has no room for.
fn too_many(own: &[IpAddr]) -> Option<Problem> {
    let first = own.get(OWN_ADDRESSES)?;
    let all = own.len();
    Some(Problem {
        object: Key::OwnAddress(*first),
        text: format!(
            "the node has {all} addresses: services' ports answer from outside, and masqueraded connections work, at {OWN_ADDRESSES} of them; have fewer"
        ),
    })
}

/// Tables for a cluster and the node with this name, made from nothing.
pub fn compile(cluster: &Cluster, node: &str) -> Compiled {
    Compiler::new(node).compile(cluster)
}

fn place(ports: &mut Vec<Option<Port>>, id: PortId, kind: PortKind) {
    let index = usize::from(id.0);
    if ports.len() <= index {
        ports.resize(index + 1, None);
    }
    ports[index] = Some(Port { kind });
}
