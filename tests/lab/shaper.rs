//! A bad wire: between a node and the lab's switch, a worker's edge that loses, exchanges and repeats frames.

use std::process::Command;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;
use std::time::Duration;

use fastrand::Rng;
use podway_engine::{Batch, DropReason, Verdict};
use podway_host::Namespace;
use podway_tables::{PortId, PortKind};
use podway_xsk::{Bind, Redirect, RedirectSettings, Waker, WorkerEdge, WorkerSettings};
use serde_json::Value;

use crate::bench::{Lab, eventually};

pub(crate) const SWITCH: &str = "podway-lab-switch";
const NODE: PortId = PortId(1);
const REST: PortId = PortId(2);
const FRAMES: u32 = 8192;
/// Turns without a packet after which the shaper sleeps.
const IDLE_TURNS: u32 = 256;

/// How often what is done, in 10 000 frames.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Policy {
    pub(crate) lost: u32,
    /// Exchanged with one behind it.
    pub(crate) exchanged: u32,
    /// Sent a second time, behind others.
    pub(crate) repeated: u32,
}

/// What became of frames.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Shaped {
    pub(crate) came: u64,
    pub(crate) lost: u64,
    pub(crate) exchanged: u64,
    pub(crate) repeated: u64,
}

/// A running shaper; the wire is dead without it, until the lab goes down.
pub(crate) struct Shaper {
    shared: Arc<Shared>,
    waker: Waker,
    thread: Option<JoinHandle<()>>,
}

#[derive(Default)]
struct Shared {
    ends: AtomicBool,
    state: Mutex<(Policy, Shaped)>,
}

impl Shaper {
    /// Puts a shaper that does nothing yet into a node's wire of this MTU.
    pub(crate) fn into_wire_of(lab: &Lab, node: &str, mtu: &str, seed: u64) -> Shaper {
        let port = switch_port(lab, node);
        rewire(&port, mtu);
        let shared = Arc::new(Shared::default());
        let namespace = Namespace::named(SWITCH).expect("the lab's switch");
        let (redirect, edge) = namespace
            .inside(|| ports([(NODE, &port), (REST, "shaper")]))
            .expect("root enters it");
        let waker = edge.waker();
        let thread = std::thread::spawn({
            let shared = shared.clone();
            move || {
                let _program = redirect;
                run(edge, &shared, Rng::with_seed(seed));
            }
        });
        let shaper = Shaper {
            shared,
            waker,
            thread: Some(thread),
        };
        let goes = || lab.pings(node, "192.168.50.254");
        assert!(eventually(Duration::from_secs(5), goes), "by the shaper");
        shaper
    }

    /// Does this to every frame from now on, in both directions; what was done before.
    pub(crate) fn change(&self, policy: Policy) -> Shaped {
        std::mem::replace(&mut *self.state(), (policy, Shaped::default())).1
    }

    fn state(&self) -> MutexGuard<'_, (Policy, Shaped)> {
        self.shared.state.lock().expect("the shaper runs")
    }
}

impl Drop for Shaper {
    fn drop(&mut self) {
        self.shared.ends.store(true, Ordering::Relaxed);
        self.waker.wake();
        let ended = self.thread.take().expect("not ended yet").join();
        assert!(ended.is_ok() || std::thread::panicking(), "the shaper");
    }
}

/// The switch's end of a node's wire.
pub(crate) fn switch_port(lab: &Lab, node: &str) -> String {
    let links = |text: &str| serde_json::from_str::<Value>(text).expect("ip prints JSON");
    let uplink = lab.must(node, &["ip", "-json", "link", "show", "eth0"]);
    let index = &links(&uplink)[0]["link_index"];
    let all = links(&ip(&["-json", "link", "show"]));
    let mut ports = all.as_array().expect("links").iter();
    let port = ports.find(|port| &port["ifindex"] == index);
    port.and_then(|port| port["ifname"].as_str())
        .expect("the other end")
        .to_owned()
}

/// Takes a port off the bridge and puts one end of a new pair there: the shaper joins the port to the other end.
fn rewire(port: &str, mtu: &str) {
    let pair = ["link", "add", "shaper", "mtu", mtu, "type", "veth"];
    ip(&[&pair[..], &["peer", "name", "shaped", "mtu", mtu]].concat());
    for device in ["shaper", "shaped"] {
        ip(&["link", "set", device, "addrgenmode", "none", "up"]);
    }
    ip(&["link", "set", port, "nomaster"]);
    ip(&["link", "set", "shaped", "master", "pwbridge"]);
}

fn ip(arguments: &[&str]) -> String {
    let output = Command::new("ip")
        .args(["-n", SWITCH])
        .args(arguments)
        .output()
        .expect("ip runs");
    assert!(output.status.success(), "{arguments:?}: {output:?}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// An edge that everything which comes to these devices goes to.
fn ports(devices: [(PortId, &str); 2]) -> (Redirect, WorkerEdge) {
    let settings = RedirectSettings {
        queues: 1,
        ports: 8,
    };
    let redirect = Redirect::load(settings).expect("the program");
    let settings = WorkerSettings {
        queue: 0,
        frames: FRAMES,
        sockets: redirect.sockets(),
    };
    let mut edge = WorkerEdge::new(settings).expect("an edge");
    for (port, device) in devices {
        edge.add_port(port, device, Bind::Copy, Duration::from_secs(2))
            .expect("a socket");
        redirect
            .attach(device, PortKind::Pod(None), port)
            .expect("attached");
    }
    (redirect, edge)
}

fn run(mut edge: WorkerEdge, shared: &Shared, mut chance: Rng) {
    let mut idle = 0;
    while !shared.ends.load(Ordering::Relaxed) {
        let came = edge.turn(&mut |batch| {
            let mut state = shared.state.lock().expect("tests only read it");
            let (policy, shaped) = &mut *state;
            shape(batch, *policy, shaped, &mut chance);
        });
        idle = if came == 0 { idle + 1 } else { 0 };
        if idle >= IDLE_TURNS {
            idle = 0;
            edge.sleep(Duration::from_millis(100)).expect("sleeps");
        }
    }
}

fn shape(batch: &mut Batch<'_, '_>, policy: Policy, shaped: &mut Shaped, chance: &mut Rng) {
    let mut happens = |rate: u32| chance.u32(..10_000) < rate;
    let last = batch.packets.len() - 1;
    for at in 0..last {
        if happens(policy.exchanged) {
            batch.packets.swap(at, (at + 4).min(last));
            shaped.exchanged += 1;
        }
    }
    for packet in batch.packets.iter_mut() {
        shaped.came += 1;
        if happens(policy.lost) {
            shaped.lost += 1;
            packet.verdict = Verdict::Drop(DropReason::NoRoute);
            continue;
        }
        let target = match packet.ingress {
            NODE => REST,
            _ => NODE,
        };
        packet.verdict = Verdict::Transmit(target);
        if happens(policy.repeated)
            && packet.frame.carried() == 0
            && let Some(mut copy) = batch.spares.take()
        {
            let bytes = packet.frame.bytes();
            copy.frame.resize(bytes.len()).expect("as long as a frame");
            copy.frame.bytes_mut().copy_from_slice(bytes);
            copy.verdict = packet.verdict;
            batch.spares.put(copy);
            shaped.repeated += 1;
        }
    }
}
