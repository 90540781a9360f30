//! What is known: of the cluster, of the kernel, and of the wires that pods were given.

mod nics;
mod uplinks;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podway_control::{Batch, Problem, Standing};
use podway_host::node::Seen;
use podway_host::router::News;
use podway_intent::{Attachment, Change, Cluster, Key, Name, NodeSetup};
use podway_tables::PortId;
use podway_wire::{Mac, Protocol};
use podway_xsk::Nic;

use self::nics::Nics;
pub use self::nics::Prepared;
use self::uplinks::Uplinks;
use super::{HOST, PORTS, UPLINK};

/// Something that happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The source told of changes.
    Source(Batch),
    /// The kernel was looked at, and made what was wanted.
    Looked(Box<Looked>),
    /// The kernel could not be made what was wanted, and why.
    NotLooked(String),
    /// A NIC was to be otherwise.
    Prepared(Prepared),
    /// The kernel's routes, neighbours or addresses are others.
    Routing(News),
    /// Ports of the masquerading range are the host's now, or no more.
    HostPorts(HostPorts),
    /// No flow of ours uses these of them any more.
    LetGo(BTreeSet<(Protocol, u16)>),
    /// Services' health can't be answered at some ports, and why.
    NotListening(Vec<String>),
    /// A pod has a wire.
    Attach(Wire),
    /// A pod's wire goes.
    Detach(PortId),
    /// A port is open.
    Opened(PortId),
    /// A port of a pod or of an uplink beside the first can't be opened, and why.
    NotOpened(PortId, String),
    /// A port is closed.
    Closed(PortId),
}

/// What a look at the kernel showed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Looked {
    /// The node's devices, routes and neighbours.
    pub seen: Seen,
    /// Ports whose devices are gone.
    pub gone: BTreeSet<PortId>,
    /// Packets of the uplink so far that the XDP program had no socket for.
    pub uplink_closed: u64,
    /// What uplinks are like as NICs, by index: their own device first, then those that it is made of.
    pub nics: BTreeMap<u32, Vec<Nic>>,
}

/// What of the masquerading range is the host's (R3).
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct HostPorts {
    /// Ports by which nothing may leave that is masqueraded.
    pub taken: Arc<BTreeSet<(Protocol, u16)>>,
    /// What is wrong, in words.
    pub problems: Vec<String>,
}

/// A pod's device.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wire {
    /// The pod.
    pub pod: Name,
    /// The device's name.
    pub interface: String,
    /// What the device is told apart by from others of that name.
    pub ifindex: u32,
    /// The pod's Ethernet address.
    pub mac: Mac,
    /// What it takes, in bytes.
    pub mtu: u32,
    /// The addresses that it was given; none: those of the Pod object.
    pub addresses: Vec<IpAddr>,
}

/// How far a pod's wire has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WireState {
    /// It was asked for; no table knows of it.
    Asked,
    /// Its port is open, so that tables may give it packets. It was asked for so many times, and is to be set up as often.
    Open(u32),
    /// It goes: first from the tables, then its port is closed.
    Leaving,
}

/// How far the agent has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// The source has not told of the whole cluster: nothing is to be in force.
    Waiting,
    /// The host's port and those of the pods that are there open; the wire to other nodes is left alone.
    Opening,
    /// All of it.
    Running,
}

/// When what follows from facts is to be in force.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Due {
    /// Nothing follows.
    Nothing,
    /// Once no more changes come.
    Soon,
    /// Somebody waits for it.
    Now,
}

/// All that is known.
#[derive(Clone, Debug)]
pub struct Facts {
    /// This node's name, and how many workers it has.
    node: String,
    workers: usize,
    /// What the configuration says of the node.
    configured: NodeSetup,
    stage: Stage,
    cluster: Cluster,
    wires: BTreeMap<PortId, (Wire, WireState)>,
    uplinks: Uplinks,
    nics: Nics,
    kernel: Option<Looked>,
    /// Packets of the uplink that had no socket, at the last look since its port is open.
    uplink_closed: Option<u64>,
    source_problems: Vec<Problem>,
    /// Of the kernel, its routes, its queues, and the ports of health checks.
    kernel_problems: Vec<String>,
    routing_problems: Vec<String>,
    queue_problem: Option<String>,
    listener_problems: Vec<String>,
    host_ports: HostPorts,
    /// Those of the host's ports that no flow of ours uses: the XDP program leaves them to it.
    let_go: BTreeSet<(Protocol, u16)>,
    /// Where the configuration says that services have their addresses, if it does.
    named_ranges: Option<Vec<IpNet>>,
}

impl Facts {
    /// Of the node with this name and so many workers: nothing but its configuration is known.
    pub fn new(node: &str, workers: usize, configured: NodeSetup) -> Facts {
        let mut cluster = Cluster::default();
        cluster.apply(Change::Setup(configured.clone()));
        Facts {
            node: node.to_owned(),
            workers,
            configured,
            stage: Stage::Waiting,
            cluster,
            wires: BTreeMap::new(),
            uplinks: Uplinks::default(),
            nics: Nics::default(),
            kernel: None,
            uplink_closed: None,
            source_problems: Vec::new(),
            kernel_problems: Vec::new(),
            routing_problems: Vec::new(),
            queue_problem: None,
            listener_problems: Vec::new(),
            host_ports: HostPorts::default(),
            let_go: BTreeSet::new(),
            named_ranges: None,
        }
    }

    /// The same, where the configuration names the ranges of services' addresses.
    pub fn with_service_ranges(mut self, named: &[IpNet]) -> Facts {
        let mut named: Vec<IpNet> = named.iter().map(IpNet::trunc).collect();
        named.sort_unstable();
        self.named_ranges = Some(named);
        self
    }

    /// Takes an event in, and says when what follows from it is due.
    pub fn take(&mut self, event: Event) -> Due {
        let due = match event {
            Event::Source(batch) => self.told(batch),
            Event::Looked(looked) => self.looked(*looked),
            Event::NotLooked(problem) => {
                self.kernel_problems = vec![problem];
                Due::Nothing
            }
            Event::Prepared(prepared) => self.prepared(prepared),
            Event::Routing(news) => self.routed(news),
            Event::HostPorts(found) => self.host_ports(found),
            Event::LetGo(ports) => self.let_go(ports),
            Event::NotListening(problems) => {
                self.listener_problems = problems;
                Due::Nothing
            }
            Event::Attach(wire) => self.attach(wire),
            Event::Detach(port) => self.leave(port),
            Event::Opened(port) => self.opened(port),
            Event::NotOpened(port, why) => self.not_opened(port, why),
            Event::Closed(port) => self.closed(port),
        };
        let opens = self.wires.values().any(|(_, it)| *it == WireState::Asked);
        if self.stage == Stage::Opening && !opens {
            self.stage = Stage::Running;
            return Due::Now;
        }
        due
    }

    fn told(&mut self, batch: Batch) -> Due {
        let due = match batch.changes.is_empty() {
            true => Due::Nothing,
            false => Due::Soon,
        };
        for change in batch.changes {
            self.cluster.apply(change);
        }
        self.source_problems = batch.problems;
        if self.stage == Stage::Waiting && batch.standing == Standing::Whole {
            self.stage = Stage::Opening;
            return Due::Now;
        }
        due
    }

    fn looked(&mut self, looked: Looked) -> Due {
        let mut due = Due::Nothing;
        let seen = &looked.seen;
        let setup = NodeSetup {
            uplink: Some((UPLINK, seen.uplink.mac, seen.uplink.mtu)),
            host: Some((HOST, seen.host.mac, seen.host.mtu)),
            gateway_mac: seen.dataplane.mac,
            subnets: seen.subnets.clone(),
            uplinks: self
                .cluster
                .setup()
                .map_or_else(Vec::new, |it| it.uplinks.clone()),
            ..self.configured.clone()
        };
        if self.cluster.setup() != Some(&setup) {
            self.cluster.apply(Change::Setup(setup));
            due = Due::Soon;
        }
        let none = BTreeMap::new();
        let before = self.kernel.as_ref().map_or(&none, |it| &it.seen.next_hops);
        for (vtep, mac) in &seen.next_hops {
            if before.get(vtep) != Some(mac) {
                self.cluster.apply(Change::Neighbour(*vtep, *mac));
                due = Due::Soon;
            }
        }
        for vtep in before.keys().filter(|it| !seen.next_hops.contains_key(it)) {
            self.cluster.apply(Change::Gone(Key::Neighbour(*vtep)));
            due = Due::Soon;
        }
        for port in &looked.gone {
            due = due.max(self.leave(*port));
        }
        let before = self.uplink_closed.replace(looked.uplink_closed);
        let is_more = before.is_some_and(|before| looked.uplink_closed > before);
        self.queue_problem = is_more.then(|| {
            let (uplink, workers) = (&seen.uplink.name, self.workers);
            format!(
                "packets came in by queues of {uplink} that no worker has: if that goes on, take filters off that choose such queues (`ethtool -n {uplink}`), set `workers` to the number of its queues, or `ethtool -L {uplink} combined {workers}`"
            )
        });
        self.kernel_problems.clone_from(&seen.problems);
        self.nics.looked(&looked.nics);
        self.kernel = Some(looked);
        due.max(self.follow_uplinks())
    }

    fn host_ports(&mut self, found: HostPorts) -> Due {
        self.host_ports = found;
        let taken = &self.host_ports.taken;
        self.let_go.retain(|port| taken.contains(port));
        self.configured.host_ports = taken.clone();
        let Some(setup) = self.cluster.setup().filter(|it| it.host_ports != *taken) else {
            return Due::Nothing;
        };
        let setup = NodeSetup {
            host_ports: taken.clone(),
            ..setup.clone()
        };
        self.cluster.apply(Change::Setup(setup));
        Due::Soon
    }

    fn let_go(&mut self, ports: BTreeSet<(Protocol, u16)>) -> Due {
        let taken = &self.host_ports.taken;
        let before = self.let_go.len();
        let ours = ports.into_iter().filter(|port| taken.contains(port));
        self.let_go.extend(ours);
        match self.let_go.len() > before {
            true => Due::Soon,
            false => Due::Nothing,
        }
    }

    fn attach(&mut self, wire: Wire) -> Due {
        let same = self.wires.iter_mut().find(|(_, (known, state))| {
            *state != WireState::Leaving && (&known.pod, known.ifindex) == (&wire.pod, wire.ifindex)
        });
        if let Some((port, (known, state))) = same {
            *known = wire;
            let WireState::Open(asked) = state else {
                return Due::Nothing;
            };
            *asked += 1;
            let port = *port;
            return self.give(port);
        }
        // A pod has one wire, and a device one pod: whoever had it before lets go.
        let others = self.wires.iter().filter(|(_, (other, state))| {
            *state != WireState::Leaving && (other.pod == wire.pod || other.ifindex == wire.ifindex)
        });
        let others: Vec<PortId> = others.map(|(port, _)| *port).collect();
        let mut due = Due::Nothing;
        for port in others {
            due = due.max(self.leave(port));
        }
        let taken: BTreeSet<PortId> = self.ports().collect();
        let mut ids = (HOST.0 + 1..PORTS).map(PortId);
        if let Some(port) = ids.find(|id| !taken.contains(id)) {
            self.wires.insert(port, (wire, WireState::Asked));
            due = Due::Now;
        }
        due
    }

    fn opened(&mut self, port: PortId) -> Due {
        if port == UPLINK {
            // What came before the socket was there says nothing about queues.
            self.uplink_closed = None;
        }
        if self.uplinks.opened(port) {
            return self.follow_uplinks();
        }
        match self.wires.get_mut(&port) {
            Some((_, state)) if *state == WireState::Asked => {
                *state = WireState::Open(1);
                self.give(port)
            }
            Some(_) | None => Due::Nothing,
        }
    }

    /// Has the tables give a pod its port.
    fn give(&mut self, port: PortId) -> Due {
        let (wire, _) = &self.wires[&port];
        self.cluster.apply(Change::Attachment(Attachment {
            pod: wire.pod.clone(),
            port,
            mac: wire.mac,
            mtu: wire.mtu,
            addresses: wire.addresses.clone(),
        }));
        Due::Now
    }

    fn leave(&mut self, port: PortId) -> Due {
        if self.uplinks.leave(port) {
            return self.follow_uplinks().max(Due::Now);
        }
        let Some((wire, state)) = self.wires.get_mut(&port) else {
            return Due::Nothing;
        };
        match std::mem::replace(state, WireState::Leaving) {
            WireState::Open(_) => {
                let key = Key::Attachment(wire.pod.clone());
                self.cluster.apply(Change::Gone(key));
                Due::Now
            }
            WireState::Asked => Due::Now,
            WireState::Leaving => Due::Nothing,
        }
    }

    fn forget(&mut self, port: PortId, expected: WireState) -> Due {
        match self.wires.get(&port) {
            Some((_, state)) if *state == expected => {
                self.wires.remove(&port);
                Due::Now
            }
            Some(_) | None => Due::Nothing,
        }
    }

    /// Those of the host's ports that no flow of ours uses.
    pub fn ports_let_go(&self) -> &BTreeSet<(Protocol, u16)> {
        &self.let_go
    }

    /// R7: the configuration names ranges, and the cluster others.
    fn other_service_ranges(&self) -> Option<String> {
        let text = |ranges: &[IpNet]| {
            let texts: Vec<String> = ranges.iter().map(ToString::to_string).collect();
            texts.join(", ")
        };
        let named = self.named_ranges.as_ref()?;
        let said = self.cluster.service_ranges();
        let differ = !self.cluster.service_cidrs().is_empty() && said != *named;
        differ.then(|| {
            format!(
                "service_ranges: the configuration says {}, and the cluster's ServiceCIDRs {}, which count: remove `service_ranges`",
                text(named),
                text(&said)
            )
        })
    }

    /// This node's name.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// How far the agent has come.
    pub fn stage(&self) -> Stage {
        self.stage
    }

    /// The cluster, with this node's set-up, neighbours and pods' devices.
    pub fn cluster(&self) -> &Cluster {
        &self.cluster
    }

    /// The kernel, once it was looked at.
    pub fn kernel(&self) -> Option<&Looked> {
        self.kernel.as_ref()
    }

    /// Pods' wires, by port.
    pub fn wires(&self) -> impl Iterator<Item = (PortId, &Wire, WireState)> {
        self.wires
            .iter()
            .map(|(port, (wire, state))| (*port, wire, *state))
    }

    /// How far the wire at a port has come; `None` if there is none.
    pub fn wire_at(&self, port: PortId) -> Option<WireState> {
        self.wires.get(&port).map(|(_, state)| *state)
    }

    /// The port of a pod's wire that stays.
    pub fn port_of(&self, pod: &Name) -> Option<PortId> {
        let mut staying = self.wires().filter(|(_, _, it)| *it != WireState::Leaving);
        staying
            .find(|(_, wire, _)| wire.pod == *pod)
            .map(|(port, ..)| port)
    }

    /// What is wrong with the source.
    pub fn source_problems(&self) -> &[Problem] {
        &self.source_problems
    }

    /// What is not as it should be on the node, in words.
    pub fn node_problems(&self) -> Vec<String> {
        let mut problems = self.kernel_problems.clone();
        problems.extend(self.routing_problems.iter().cloned());
        problems.extend(self.uplinks.problems());
        problems.extend(self.nic_problems());
        problems.extend(self.queue_problem.clone());
        problems.extend(self.listener_problems.iter().cloned());
        problems.extend(self.host_ports.problems.iter().cloned());
        problems.extend(self.other_service_ranges());
        if self.cluster.node(&self.node).is_none() {
            problems.push(format!(
                "the source has no Node {:?}: set `node` to the name of one, or add it",
                self.node
            ));
        }
        problems
    }
}
