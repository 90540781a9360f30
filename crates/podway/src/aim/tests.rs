//! The order of steps, carried out in memory: whatever happens, and wherever it is interrupted.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use podway_control::{Batch, Standing};
use podway_host::node::{Device, Seen};
use podway_host::router::{Interface, News};
use podway_intent::{
    Affinity, Change, Compiler, Key, Name, Node, NodeSetup, Pod, PodNetwork, PodPhase, Service,
    ServicePort, TrafficPolicy,
};
use podway_tables::{EndpointId, PortId};
use podway_wire::{Mac, Protocol};
use podway_xsk::{Bind, Bound, Capabilities, Channels, Nic, Plan, Setting, Spread};
use proptest::prelude::*;

use super::*;

const WORKERS: usize = 2;

/// Something that happens while the agent is on its way.
#[derive(Clone, Debug)]
enum Happening {
    /// The source tells of a service, with a node port or without one, or that it is gone.
    Service(u8, Option<bool>),
    /// Of this node's pod range.
    Range(u8),
    /// Of this node's address.
    Address(u8),
    /// A pod gets a wire with this device.
    Attach(u8, u8),
    /// A pod's wire goes.
    Detach(u8),
    /// A pod's device vanishes.
    Vanish(u8),
    /// The uplink is another device.
    Replace,
    /// The kernel's routes lead to these devices.
    Routes(Vec<u8>),
    /// A device is gone that routes led to.
    Unplug(u8),
    /// Somebody gives a NIC so many queues, and it takes to changes in this manner.
    Queues(u8, u32, Manner),
    /// So many steps are carried out, then something else happens.
    Walk(u8),
    /// The next step is begun, and fails half-way.
    Fail,
    /// One worker takes the last tables up.
    TakeUp(bool),
}

fn happening() -> impl Strategy<Value = Happening> {
    prop_oneof![
        3 => (0..4u8, proptest::option::of(any::<bool>()))
            .prop_map(|(service, port)| Happening::Service(service, port)),
        1 => (0..3u8).prop_map(Happening::Range),
        1 => (0..2u8).prop_map(Happening::Address),
        3 => (0..3u8, 0..4u8).prop_map(|(pod, device)| Happening::Attach(pod, device)),
        2 => (0..3u8).prop_map(Happening::Detach),
        1 => (0..3u8).prop_map(Happening::Vanish),
        1 => Just(Happening::Replace),
        3 => proptest::collection::vec(0..20u8, 0..20).prop_map(Happening::Routes),
        1 => (0..20u8).prop_map(Happening::Unplug),
        3 => (0..6u8, 1..5u32, manner())
            .prop_map(|(nic, queues, manner)| Happening::Queues(nic, queues, manner)),
        6 => (1..6u8).prop_map(Happening::Walk),
        2 => Just(Happening::Fail),
        2 => any::<bool>().prop_map(Happening::TakeUp),
    ]
}

/// How a driver takes to changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Manner {
    /// It has a table of RSS, and changes it.
    Table,
    /// It has none, and changes its queues.
    Queues,
    /// It refuses both.
    Refuses,
    /// It says that it changes both, and doesn't.
    Ignores,
}

fn manner() -> impl Strategy<Value = Manner> {
    prop_oneof![
        Just(Manner::Table),
        Just(Manner::Queues),
        Just(Manner::Refuses),
        Just(Manner::Ignores),
    ]
}

/// A NIC in truth.
#[derive(Clone, Debug)]
struct Metal {
    queues: u32,
    table: Vec<u32>,
    manner: Manner,
}

impl Metal {
    fn with(queues: u32, manner: Manner) -> Metal {
        Metal {
            queues,
            table: (0..8).map(|at| at % queues).collect(),
            manner,
        }
    }

    fn seen(&self, interface: &str) -> Nic {
        Nic {
            interface: interface.to_owned(),
            spread: Spread {
                queues: Some(self.queues),
                table: (self.manner != Manner::Queues).then(|| self.table.clone()),
                channels: Some(Channels {
                    combined: self.queues,
                    max_combined: 8,
                    ..Channels::default()
                }),
            },
            ..Nic::default()
        }
    }

    /// Whether each queue that a packet may come in by has a worker.
    fn is_owned(&self) -> bool {
        let workers = WORKERS as u32;
        let by_table = self.manner != Manner::Queues && self.table.iter().all(|it| *it < workers);
        self.queues == workers || (self.queues > workers && by_table)
    }

    /// Refuses it, or not.
    fn takes(&mut self, setting: &Setting) -> bool {
        match (self.manner, setting) {
            (Manner::Refuses, _) => return false,
            (Manner::Ignores, _) => {}
            (_, Setting::Table(table)) => self.table.clone_from(table),
            (_, Setting::Queues(channels)) => *self = Metal::with(channels.combined, self.manner),
            (_, Setting::Off(_) | Setting::HashPorts) => {}
        }
        true
    }
}

/// A node in memory.
struct World {
    facts: Facts,
    compiler: Compiler,
    tables: Arc<Tables>,
    in_force: InForce,
    /// What the XDP program redirects in truth.
    plan: Plan,
    /// What each worker decides by in truth.
    workers: Vec<Option<Arc<Tables>>>,
    /// Which device each open port has in truth.
    open: BTreeMap<PortId, u32>,
    uplink: u32,
    /// NICs that somebody changed, by name.
    nics: BTreeMap<String, Metal>,
    /// All that was desired since everything was in force.
    since: Vec<Desired>,
}

impl World {
    fn new() -> World {
        let mut facts = Facts::new("n1", WORKERS, NodeSetup::default());
        facts.take(looked(2, &[], BTreeMap::new()));
        let mut compiler = Compiler::new("n1");
        World {
            tables: Arc::new(Tables::of(&facts, &mut compiler)),
            facts,
            compiler,
            in_force: InForce::default(),
            plan: Plan::default(),
            workers: vec![None; WORKERS],
            open: BTreeMap::new(),
            uplink: 2,
            nics: BTreeMap::new(),
            since: Vec::new(),
        }
    }

    fn take(&mut self, event: Event) {
        // A settled burst is as good as one that is due now.
        if self.facts.take(event) != Due::Nothing && self.facts.stage() != Stage::Waiting {
            self.tables = Arc::new(Tables::of(&self.facts, &mut self.compiler));
        }
        self.since.push(desired(&self.facts, &self.tables));
    }

    fn happens(&mut self, happening: &Happening) {
        let told = |change| {
            Event::Source(Batch {
                changes: vec![change],
                standing: Standing::Whole,
                ..Batch::default()
            })
        };
        match happening {
            Happening::Service(index, Some(port)) => self.take(told(service(*index, *port))),
            Happening::Service(index, None) => {
                self.take(told(Change::Gone(Key::Service(name("service", *index)))));
            }
            Happening::Range(index) => self.take(told(node(*index, 0))),
            Happening::Address(index) => self.take(told(node(0, *index))),
            Happening::Attach(pod, device) => self.take(Event::Attach(wire(*pod, *device))),
            Happening::Detach(index) => {
                if let Some(port) = self.facts.port_of(&name("pod", *index)) {
                    self.take(Event::Detach(port));
                }
            }
            Happening::Vanish(index) => {
                let port = self.facts.port_of(&name("pod", *index));
                let gone: Vec<PortId> = port.into_iter().collect();
                self.look(&gone);
            }
            Happening::Replace => {
                self.uplink = 5 - self.uplink;
                self.look(&[]);
            }
            Happening::Routes(devices) => self.take(Event::Routing(News {
                uplinks: devices.iter().map(|it| interface(*it)).collect(),
                ..News::default()
            })),
            Happening::Unplug(index) => {
                let mut uplinks = self.facts.uplinks();
                let gone = uplinks.find(|(_, it)| **it == interface(*index));
                if let Some((port, _)) = gone {
                    drop(uplinks);
                    self.take(Event::Routing(News::default()));
                    self.look(&[port]);
                }
            }
            Happening::Queues(nic, queues, manner) => {
                let name = format!("eth{nic}");
                self.nics.insert(name, Metal::with(*queues, *manner));
                self.look(&[]);
            }
            Happening::Walk(count) => (0..*count).for_each(|_| {
                self.walk();
            }),
            Happening::Fail => self.fail(),
            Happening::TakeUp(first) => self.take_up(usize::from(*first)),
        }
        self.check();
    }

    /// What a look shows, begun when the uplinks are those of now.
    fn look(&mut self, gone: &[PortId]) {
        let uplinks = self.facts.uplink_devices().into_iter();
        let nics = uplinks.map(|(ifindex, name)| (ifindex, vec![self.metal(&name).seen(&name)]));
        let nics = nics.collect();
        self.take(looked(self.uplink, gone, nics));
    }

    fn metal(&self, name: &str) -> Metal {
        let untouched = || Metal::with(WORKERS as u32, Manner::Table);
        self.nics.get(name).cloned().unwrap_or_else(untouched)
    }

    /// Has a NIC be otherwise, as its driver takes to it.
    fn prepare(&mut self, name: &str, asked: &[Setting]) {
        let mut metal = self.metal(name);
        let refused = asked.iter().filter(|setting| !metal.takes(setting));
        let refused = refused.map(|setting| (setting.clone(), "no".to_owned()));
        let refused = refused.collect();
        let nic = metal.seen(name);
        self.nics.insert(name.to_owned(), metal);
        self.take(Event::Prepared(Prepared {
            asked: asked.to_vec(),
            refused,
            nic,
        }));
    }

    fn next(&self) -> Option<Step> {
        let desired = desired(&self.facts, &self.tables);
        steps(&self.in_force, &desired).into_iter().next()
    }

    /// Carries out the next step; false if there is none.
    fn walk(&mut self) -> bool {
        self.forget_closed();
        let Some(step) = self.next() else {
            return false;
        };
        match &step {
            Step::Start(tables) => self.workers.fill(Some(tables.clone())),
            Step::Narrow(plan) | Step::Widen(plan) => self.plan.clone_from(plan),
            Step::Publish(_) | Step::Listen(_) | Step::Raise(..) => {}
            Step::Await(_) => (0..WORKERS).for_each(|worker| self.take_up(worker)),
            Step::Close(id, _) => drop(self.open.remove(id)),
            Step::Open(id, port) => {
                let before = self.open.insert(*id, port.ifindex);
                assert_eq!(before, None, "a port is closed before it is opened anew");
            }
            Step::Look(_) | Step::Prepare(..) => {}
        }
        self.in_force.carried(&step);
        match &step {
            Step::Open(id, _) => self.take(Event::Opened(*id)),
            Step::Close(id, _) => self.take(Event::Closed(*id)),
            Step::Look(_) => self.look(&[]),
            Step::Prepare(nic, settings) => self.prepare(nic, settings),
            Step::Start(_)
            | Step::Narrow(_)
            | Step::Publish(_)
            | Step::Await(_)
            | Step::Widen(_)
            | Step::Listen(_)
            | Step::Raise(..) => {}
        }
        self.check();
        true
    }

    /// The next step does half of its work.
    fn fail(&mut self) {
        let Some(step) = self.next() else {
            return;
        };
        match &step {
            // It adds first, and removes afterwards.
            Step::Narrow(plan) | Step::Widen(plan) => self.plan.local.extend(&plan.local),
            Step::Await(_) => self.take_up(0),
            Step::Open(id, _) => self.take(Event::NotOpened(*id, "busy".to_owned())),
            Step::Start(_)
            | Step::Publish(_)
            | Step::Listen(_)
            | Step::Close(..)
            | Step::Prepare(..)
            | Step::Raise(..)
            | Step::Look(_) => {}
        }
        self.in_force.failed(&step);
    }

    fn take_up(&mut self, worker: usize) {
        if let (Some(tables), Some(_)) = (self.in_force.tables.last(), &self.workers[worker]) {
            self.workers[worker] = Some(tables.clone());
        }
    }

    fn forget_closed(&mut self) {
        let ports: Vec<PortId> = self.facts.ports().collect();
        for port in ports {
            if !self.open.contains_key(&port) {
                self.take(Event::Closed(port));
            }
        }
    }

    fn check(&self) {
        for tables in self.workers.iter().flatten() {
            // What is redirected and a worker doesn't know is lost: it may be the node's own.
            for (what, redirected, known) in [
                ("ranges", texts(&self.plan.local), texts(&tables.plan.local)),
                (
                    "node ports",
                    texts(&self.plan.node_ports),
                    texts(&tables.plan.node_ports),
                ),
                (
                    "addresses",
                    texts(&self.plan.node_addresses),
                    texts(&tables.plan.node_addresses),
                ),
            ] {
                assert!(
                    redirected.is_subset(&known),
                    "{what}: {redirected:?} are redirected, and a worker knows {known:?}"
                );
            }
            // R1: what is sent to a port that no worker has is lost.
            let uplinks = &tables.compiled.snapshot.world.uplinks;
            for uplink in uplinks.iter().filter(|it| it.port != UPLINK) {
                assert!(self.open.contains_key(&uplink.port), "{uplink:?} is closed");
            }
            for passing in self.passing(tables) {
                let would = |it: &Desired| through(it).contains(&passing);
                assert!(
                    self.since.iter().any(would),
                    "nobody asked for {passing:?} to be let through"
                );
            }
        }
    }

    /// The devices from which packets pass as a pod's, if a worker decides by these tables.
    fn passing(&self, tables: &Tables) -> Vec<(u32, Name)> {
        let given = given(tables);
        let open = self.open.iter();
        let pods = open.filter_map(|(port, device)| Some((*device, given.get(port)?.clone())));
        pods.collect()
    }
}

/// The devices from which packets pass as a pod's, once this is in force.
fn through(desired: &Desired) -> Vec<(u32, Name)> {
    let given = desired
        .tables
        .as_ref()
        .map(|it| given(it))
        .unwrap_or_default();
    let ports = desired.ports.iter();
    let pods = ports.filter_map(|(id, port)| Some((port.ifindex, given.get(id)?.clone())));
    pods.collect()
}

/// The pods that tables give packets of ports to.
fn given(tables: &Tables) -> BTreeMap<PortId, Name> {
    let endpoints = &tables.compiled.snapshot.endpoints;
    let endpoints = (0..).map(EndpointId).zip(endpoints);
    let named = endpoints.filter_map(|(id, endpoint)| {
        let port = endpoint.as_ref()?.port?;
        Some((port, tables.compiled.names.endpoint(id)?.clone()))
    });
    named.collect()
}

fn texts<T: std::fmt::Debug>(items: &[T]) -> BTreeSet<String> {
    items.iter().map(|item| format!("{item:?}")).collect()
}

fn name(kind: &str, index: u8) -> Name {
    Name {
        namespace: "shop".into(),
        name: format!("{kind}-{index}").into(),
    }
}

fn service(index: u8, has_node_port: bool) -> Change {
    Change::Service(Service {
        name: name("service", index),
        created_s: 0,
        cluster_ips: vec![Ipv4Addr::new(10, 96, 0, 1 + index).into()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::TCP,
            port: 80,
            node_port: has_node_port.then_some(30_000 + u16::from(index)),
        }],
        internal: TrafficPolicy::Cluster,
        external: TrafficPolicy::Cluster,
        affinity: Affinity::None,
        health_check_port: has_node_port.then_some(31_000 + u16::from(index)),
    })
}

fn node(range: u8, address: u8) -> Change {
    let range = format!("10.244.{range}.0/24");
    Change::Node(Node {
        name: "n1".into(),
        labels: Default::default(),
        addresses: vec![Ipv4Addr::new(192, 168, 50, 1 + address).into()],
        taints: Vec::new(),
        pod_ranges: vec![range.parse().expect("range")],
    })
}

fn pod(index: u8) -> Change {
    Change::Pod(Pod {
        name: name("pod", index),
        uid: "".into(),
        node: Some("n1".into()),
        labels: Default::default(),
        addresses: vec![pod_address(index)],
        ports: [].into(),
        host_ports: Vec::new(),
        network: PodNetwork::Own,
        phase: PodPhase::Alive,
    })
}

fn pod_address(index: u8) -> IpAddr {
    Ipv4Addr::new(10, 244, 0, 10 + index).into()
}

fn wire(pod: u8, device: u8) -> Wire {
    Wire {
        pod: name("pod", pod),
        interface: format!("pw{device}"),
        ifindex: 10 + u32::from(device),
        mac: Mac([2, 0, 0, 0, 0, pod]),
        mtu: 1_500,
        addresses: vec![pod_address(pod)],
    }
}

/// A device that routes may lead to: two of them are the uplink now and then.
fn interface(index: u8) -> Interface {
    let ifindex = match index {
        0 | 1 => 2 + u32::from(index),
        index => 30 + u32::from(index),
    };
    Interface {
        ifindex,
        name: format!("eth{index}"),
        mac: Mac([2, 0, 0, 0, 1, index]),
        mtu: 1_500,
    }
}

fn looked(uplink: u32, gone: &[PortId], nics: BTreeMap<u32, Vec<Nic>>) -> Event {
    let device = |name: &str, ifindex| Device {
        ifindex,
        name: name.to_owned(),
        mac: Mac([2, 0, 0, 0, 1, ifindex as u8]),
        mtu: 1_500,
        alias: String::new(),
        program: 0,
        master: 0,
        below: 0,
        is_up: true,
    };
    Event::Looked(Box::new(Looked {
        seen: Seen {
            uplink: device("eth0", uplink),
            host: device("podway-host", 8),
            dataplane: device("podway-dp", 9),
            subnets: Vec::new(),
            next_hops: BTreeMap::new(),
            mended: Vec::new(),
            problems: Vec::new(),
        },
        gone: gone.iter().copied().collect(),
        uplink_closed: 0,
        nics,
    }))
}

/// A node whose cluster is known.
fn known() -> World {
    let mut world = World::new();
    world.take(Event::Source(Batch {
        changes: [node(0, 0)].into_iter().chain((0..3).map(pod)).collect(),
        standing: Standing::Whole,
        ..Batch::default()
    }));
    world
}

proptest! {
    #[test]
    fn d10_nothing_opens_on_the_way_and_the_node_is_never_cut_off(
        happenings in proptest::collection::vec(happening(), 1..40)
    ) {
        let mut world = known();
        for happening in &happenings {
            world.happens(happening);
            if world.next().is_none() {
                world.since = vec![desired(&world.facts, &world.tables)];
            }
        }
        let mut left = 200;
        while world.walk() {
            left -= 1;
            prop_assert!(left > 0, "there is no end of steps: {:?}", world.next());
        }
        let desired = desired(&world.facts, &world.tables);
        prop_assert_eq!(&world.plan, &world.tables.plan);
        let open: BTreeMap<PortId, u32> =
            desired.ports.iter().map(|(id, port)| (*id, port.ifindex)).collect();
        prop_assert_eq!(&world.open, &open);
        prop_assert!(open.contains_key(&UPLINK), "whatever its queues, the uplink opens");
        let unowned = desired.uplinks.values().filter(|it| !world.metal(it).is_owned()).count();
        prop_assert_eq!(desired.unowned.is_some(), unowned > 0, "no queue is without a worker in silence");
        for worker in world.workers.iter().flatten() {
            prop_assert_eq!(worker.sequence(), world.tables.sequence());
        }
    }
}

fn words(steps: &[Step]) -> Vec<&'static str> {
    let word = |step: &Step| match step {
        Step::Start(_) => "start",
        Step::Narrow(_) => "narrow",
        Step::Publish(_) => "publish",
        Step::Await(_) => "await",
        Step::Widen(_) => "widen",
        Step::Listen(_) => "listen",
        Step::Close(..) => "close",
        Step::Prepare(..) => "prepare",
        Step::Open(..) => "open",
        Step::Raise(..) => "raise",
        Step::Look(_) => "look",
    };
    steps.iter().map(word).collect()
}

#[test]
fn nothing_is_done_before_the_whole_cluster_is_known() {
    let mut world = World::new();
    world.take(Event::Source(Batch {
        changes: vec![node(0, 0)],
        standing: Standing::Partial,
        ..Batch::default()
    }));
    assert_eq!(
        words(&steps(
            &world.in_force,
            &desired(&world.facts, &world.tables)
        )),
        [""; 0]
    );
}

#[test]
fn d10_workers_start_with_tables_the_host_opens_first_and_the_uplink_last() {
    let mut world = World::new();
    world.take(Event::Attach(wire(0, 0)));
    let four = Metal::with(4, Manner::Table);
    world.nics.insert("eth0".to_owned(), four);
    world.take(Event::Source(Batch {
        changes: vec![node(0, 0), pod(0)],
        standing: Standing::Whole,
        ..Batch::default()
    }));
    let mut order = Vec::new();
    while let Some(step) = world.next() {
        let port = match &step {
            Step::Open(id, _) | Step::Raise(id, _) => Some(id.0),
            Step::Start(_)
            | Step::Narrow(_)
            | Step::Publish(_)
            | Step::Await(_)
            | Step::Widen(_)
            | Step::Listen(_)
            | Step::Close(..)
            | Step::Prepare(..)
            | Step::Look(_) => None,
        };
        order.push((words(&[step])[0], port));
        world.walk();
    }
    let pod = Some(HOST.0 + 1);
    assert_eq!(
        order,
        [
            ("start", None),
            ("await", None),
            ("widen", None),
            ("open", Some(HOST.0)),
            ("open", pod),
            ("publish", None),
            ("await", None),
            ("raise", pod),
            ("look", None),
            ("prepare", None),
            ("open", Some(UPLINK.0)),
        ]
    );
}

#[test]
fn d10_the_program_lets_go_before_workers_forget_and_takes_once_all_know() {
    let mut world = known();
    world.happens(&Happening::Service(0, Some(true)));
    while world.walk() {}
    world.happens(&Happening::Service(0, None));
    world.happens(&Happening::Service(1, Some(true)));
    let steps = steps(&world.in_force, &desired(&world.facts, &world.tables));
    assert_eq!(
        words(&steps),
        ["narrow", "publish", "await", "widen", "listen", "look"]
    );
}

#[test]
fn nic4_an_mtu_beyond_one_buffer_opens_the_uplink_anew_as_one_that_carries_it() {
    let mut world = known();
    let of_mtu = |world: &World, mtu| {
        let nic = Nic {
            capabilities: Capabilities {
                features: 1 << 3,
                segments: 1,
            },
            ..world.metal("eth0").seen("eth0")
        };
        let nics = BTreeMap::from([(world.uplink, vec![nic])]);
        let Event::Looked(mut looked) = looked(world.uplink, &[], nics) else {
            panic!("a look");
        };
        looked.seen.uplink.mtu = mtu;
        desired_after(world, Event::Looked(looked))
    };
    while world.walk() {}
    let small = of_mtu(&world, 1_500);
    assert_eq!(small.ports[&UPLINK].bind, Bind::Nic(Bound::ZeroCopySingle));
    let large = of_mtu(&world, 9_000);
    assert_eq!(large.ports[&UPLINK].bind, Bind::Nic(Bound::Copy));
    world.in_force.ports = small.ports;
    let shown = words(&steps(&world.in_force, &large));
    assert_eq!(shown[..2], ["close", "open"]);
}

/// What is desired once something has happened.
fn desired_after(world: &World, event: Event) -> Desired {
    let mut facts = world.facts.clone();
    facts.take(event);
    desired(&facts, &world.tables)
}
