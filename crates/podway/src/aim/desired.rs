//! What the facts ask for.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podway_host::node::Wanted;
use podway_intent::{Cluster, Compiled, Compiler, Name};
use podway_tables::{PortId, PortKind, Via};
use podway_wire::Addr;
use podway_xsk::{Bind, Mode, Plan, Setting, choose};

use super::{Facts, HOST, Stage, UPLINK, WireState};

/// What the agent is to have in force.
#[derive(Clone, Debug)]
pub struct Desired {
    /// What workers read, and what follows from the same facts; nothing before the whole cluster is known.
    pub tables: Option<Arc<Tables>>,
    /// The devices that are the dataplane's.
    pub ports: BTreeMap<PortId, Port>,
    /// The uplinks' devices, by index: looks show what they are like as NICs.
    pub uplinks: BTreeMap<u32, String>,
    /// Those that no look has shown yet.
    pub unknown: BTreeSet<u32>,
    /// What is to be set of NICs, by device.
    pub nics: BTreeMap<String, Vec<Setting>>,
    /// Why some packets would find no worker all the same; the node is not ready for it.
    pub unowned: Option<String>,
}

/// What follows from a cluster.
#[derive(Debug)]
pub struct Tables {
    /// The cluster.
    pub cluster: Cluster,
    /// What workers read.
    pub compiled: Compiled,
    /// What the XDP program redirects.
    pub plan: Plan,
    /// Routes and next hops that the node needs.
    pub host: Wanted,
    /// The services whose health is answered, by port; of two with one port the older one.
    pub listeners: BTreeMap<u16, Name>,
}

/// A device of the dataplane.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Port {
    /// Its name.
    pub interface: String,
    /// What it is told apart by from others of that name.
    pub ifindex: u32,
    /// What it leads to.
    pub kind: PortKind,
    /// How sockets are bound to it.
    pub bind: Bind,
    /// How often it is to be set up, once tables give it packets.
    pub raises: u32,
}

impl Tables {
    /// What follows from the cluster as it now is. The compiler remembers which ids it gave, and nothing else.
    pub fn of(facts: &Facts, compiler: &mut Compiler) -> Tables {
        let cluster = facts.cluster().clone();
        let compiled = compiler.compile(&cluster);
        Tables {
            plan: plan(&compiled.plan, facts),
            host: of_host(&cluster, &compiled),
            listeners: listeners(&cluster),
            compiled,
            cluster,
        }
    }

    /// The number of the tables.
    pub fn sequence(&self) -> u32 {
        self.compiled.snapshot.sequence
    }
}

/// What the facts ask for, with the tables that were last made of them.
pub fn desired(facts: &Facts, tables: &Arc<Tables>) -> Desired {
    match facts.stage() {
        Stage::Waiting => Desired {
            tables: None,
            ports: BTreeMap::new(),
            uplinks: BTreeMap::new(),
            unknown: BTreeSet::new(),
            nics: BTreeMap::new(),
            unowned: None,
        },
        Stage::Opening | Stage::Running => Desired {
            tables: Some(tables.clone()),
            ports: ports(facts),
            unknown: facts.unknown_nics(),
            uplinks: facts.uplink_devices(),
            nics: facts.settings(),
            unowned: facts.unowned(),
        },
    }
}

fn ports(facts: &Facts) -> BTreeMap<PortId, Port> {
    let mut ports = BTreeMap::new();
    if let Some(looked) = facts.kernel() {
        let host = &looked.seen.dataplane;
        let port = port(&host.name, host.ifindex, PortKind::Host);
        ports.insert(HOST, port);
    }
    if let (Some(looked), Stage::Running) = (facts.kernel(), facts.stage()) {
        let first = &looked.seen.uplink;
        let first = (UPLINK, first.name.as_str(), first.ifindex, first.mtu);
        let more = facts.uplinks();
        let more = more.map(|(id, it)| (id, it.name.as_str(), it.ifindex, it.mtu));
        // What is not known as a NIC is looked at first.
        let known = [first].into_iter().chain(more);
        ports.extend(known.filter_map(|(id, name, ifindex, mtu)| {
            let can = facts.nic(ifindex)?.capabilities;
            // Another one opens the port anew: what the driver can, and the link needs.
            let (bound, _) = choose(Mode::Native, can, mtu);
            let port = Port {
                bind: Bind::Nic(bound),
                ..port(name, ifindex, PortKind::Uplink)
            };
            Some((id, port))
        }));
    }
    for (id, wire, state) in facts.wires() {
        let raises = match state {
            WireState::Asked => 0,
            WireState::Open(asked) => asked,
            WireState::Leaving => continue,
        };
        let port = Port {
            raises,
            ..port(&wire.interface, wire.ifindex, PortKind::Pod(None))
        };
        ports.insert(id, port);
    }
    ports
}

fn port(interface: &str, ifindex: u32, kind: PortKind) -> Port {
    Port {
        interface: interface.to_owned(),
        ifindex,
        kind,
        bind: Bind::Copy,
        raises: 0,
    }
}

/// The XDP program's plan from the compiler's.
fn plan(compiled: &podway_intent::Plan, facts: &Facts) -> Plan {
    let hosts = compiled.host_ports.intersection(facts.ports_let_go());
    Plan {
        local: compiled.local.clone(),
        node_addresses: compiled.node_addresses.clone(),
        direct: compiled.direct.clone(),
        tunnel_port: (compiled.tunnel_port != 0).then_some(compiled.tunnel_port),
        node_ports: compiled.node_ports.clone(),
        own_ports: compiled.own_ports.clone(),
        host_ifindex: facts.kernel().map(|it| it.seen.host.ifindex),
        host_ports: hosts.copied().collect(),
        snat_ports: compiled.snat_ports.map(|(first, last)| first..=last),
    }
}

/// Routes and next hops that the node needs.
fn of_host(cluster: &Cluster, compiled: &Compiled) -> Wanted {
    let snapshot = &compiled.snapshot;
    let addresses: Vec<IpAddr> = snapshot.node.addresses.iter().map(Addr::ip).collect();
    let ranges = cluster
        .nodes()
        .into_iter()
        .flat_map(|node| node.pod_ranges.iter())
        // Services answer at addresses outside of all ranges, too.
        .chain(&compiled.plan.local)
        .map(IpNet::trunc)
        .filter(|range| {
            let family = |address: &IpAddr| address.is_ipv4() == range.addr().is_ipv4();
            addresses.iter().any(family)
        })
        .collect();
    let peers = || snapshot.peers.iter().flatten();
    let direct = peers().filter(|peer| peer.via == Via::Direct);
    Wanted {
        ranges,
        addresses,
        vteps: peers().map(|peer| peer.vtep.ip()).collect::<BTreeSet<_>>(),
        direct: direct.map(|peer| peer.vtep.ip()).collect(),
    }
}

fn listeners(cluster: &Cluster) -> BTreeMap<u16, Name> {
    let mut services = cluster.services();
    services.sort_by_key(|service| service.created_s);
    let mut wanted = BTreeMap::new();
    for service in services {
        if let Some(port) = service.health_check_port {
            wanted.entry(port).or_insert_with(|| service.name.clone());
        }
    }
    wanted
}

#[cfg(test)]
mod tests {
    use podway_intent::{Change, Node, NodeSetup, compile};

    use super::*;

    fn node(name: &str, addresses: &[&str], range: &str) -> Change {
        Change::Node(Node {
            name: name.into(),
            labels: Default::default(),
            addresses: addresses
                .iter()
                .map(|text| text.parse().expect("address"))
                .collect(),
            taints: Vec::new(),
            pod_ranges: vec![range.parse().expect("range")],
        })
    }

    #[test]
    fn the_node_wants_all_ranges_of_its_families_and_other_nodes_tunnels() {
        let mut cluster = Cluster::default();
        for change in [
            node("n1", &["10.0.0.1"], "10.244.1.0/24"),
            node("n2", &["fd50::2", "10.0.0.2"], "10.244.2.0/24"),
            node("n3", &["fd50::3"], "fd44::/64"),
        ] {
            cluster.apply(change);
        }
        let services = ["10.96.0.0/16", "fd96::/112"].map(|text| text.parse().expect("range"));
        cluster.apply(Change::Setup(NodeSetup {
            service_ranges: services.into(),
            ..NodeSetup::default()
        }));
        let of = |name: &str| of_host(&cluster, &compile(&cluster, name));
        let wanted = of("n1");
        let shown: Vec<String> = wanted.ranges.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.96.0.0/16", "10.244.1.0/24", "10.244.2.0/24"]);
        let shown: Vec<String> = wanted.vteps.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.0.0.2"], "n1 has no address of n3's family");
        assert_eq!(of("n9").ranges.len(), 0);
    }
}
