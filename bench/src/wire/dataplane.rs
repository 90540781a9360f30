//! AF_XDP systems: podway's own edge, with the engine or with next to nothing behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::Context;
use podway_engine::{Batch, Edge, Engine, Settings, Shared, Verdict, counter_names};
use podway_state::{Counters, Publication};
use podway_tables::{PortId, PortKind, Snapshot};
use podway_xsk::{Bind, Redirect, RedirectSettings, WorkerEdge, WorkerSettings};

use crate::cluster::{CLIENT, Isolation, SMALL, UPLINK, compiled, plan};

/// Frames of the worker's packet memory.
const FRAMES: u32 = 8_192;
/// Ports that the XDP program is loaded for.
const PORTS: u16 = 64;
/// How long it takes to look at every flow for idleness once, as the agent's workers do it.
const SWEEP_MS: u64 = 10_000;
/// How long the kernel may take to let go of a queue.
const PATIENCE: Duration = Duration::from_secs(2);

/// What stands behind the rings.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Behind {
    /// Packets go out of the other port as they came: what AF_XDP itself can do here.
    Nothing,
    /// The engine: service, policies and tunnel.
    Engine,
}

/// What a worker counted from its start to its end, by name.
pub(crate) type Counted = BTreeMap<String, f64>;

/// Forwards between `in` and `wire` until `stop`; says so to `ready` once it does. In the node's namespace.
pub(crate) fn forward(
    behind: Behind,
    flows: u32,
    stop: &AtomicBool,
    ready: &Sender<()>,
) -> anyhow::Result<Counted> {
    let compiled = compiled(SMALL, Isolation::Isolated);
    let redirect = Redirect::load(RedirectSettings {
        queues: 1,
        ports: PORTS,
    })?;
    redirect.reconcile(&plan(&compiled))?;
    let settings = WorkerSettings {
        queue: 0,
        frames: FRAMES,
        sockets: redirect.sockets(),
    };
    let mut edge = WorkerEdge::new(settings)?;
    for (port, device, kind) in [
        (CLIENT, "in", PortKind::Pod(None)),
        (UPLINK, "wire", PortKind::Uplink),
    ] {
        redirect.attach(device, kind, port)?;
        edge.add_port(port, device, Bind::Copy, PATIENCE)?;
    }
    let capacity = (flows as usize * 4).max(65_536);
    let shared = Shared::new(capacity, 1, 7);
    let counters = shared.counters.clone();
    ready.send(()).context("nobody waits")?;
    match behind {
        Behind::Nothing => {
            while !stop.load(Ordering::Relaxed) {
                edge.turn(&mut swap);
            }
        }
        Behind::Engine => run(&mut edge, compiled.snapshot, shared, stop),
    }
    Ok(counted(&edge, &counters))
}

/// The turns of the agent's worker: look at the clock, sweep, carry a batch.
fn run(edge: &mut WorkerEdge, snapshot: Arc<Snapshot>, shared: Shared, stop: &AtomicBool) {
    let capacity = shared.flows.capacity();
    let settings = Settings {
        worker: 0,
        timeouts: Default::default(),
        existing: Default::default(),
    };
    let mut engine = Engine::new(settings, shared);
    let (_publication, mut readers) = Publication::new(snapshot, 1);
    let mut reader = readers.pop().expect("one was asked for");
    let start = Instant::now();
    let mut swept = 0;
    while !stop.load(Ordering::Relaxed) {
        let now_ms = start.elapsed().as_millis() as u64;
        let due = now_ms * capacity as u64 / SWEEP_MS;
        engine.sweep((due - swept) as usize, now_ms as u32);
        swept = due;
        let snapshot = reader.latest();
        edge.turn(&mut |batch| engine.process(snapshot, batch, now_ms as u32));
    }
}

fn swap(batch: &mut Batch<'_, '_>) {
    for packet in batch.packets.iter_mut() {
        packet.verdict = Verdict::Transmit(other(packet.ingress));
    }
}

fn other(port: PortId) -> PortId {
    match port == CLIENT {
        true => UPLINK,
        false => CLIENT,
    }
}

fn counted(edge: &WorkerEdge, counters: &Counters) -> Counted {
    let mut all = Counted::new();
    let mut add = |name: &str, value: u64| *all.entry(name.to_owned()).or_default() += value as f64;
    let (mut sent, mut sends, mut received, mut polls) = (0, 0, 0, 0);
    for port in edge.port_statistics() {
        add("ring-full", port.ring_full);
        add("unsendable", port.unsendable + port.unsound);
        add("fill-empty", port.fill_empty);
        add("kernel-rx-dropped", port.kernel.rx_dropped);
        add("kernel-rx-ring-full", port.kernel.rx_ring_full);
        add("kernel-fill-ring-empty", port.kernel.fill_ring_empty);
        add(
            "kernel-invalid",
            port.kernel.rx_invalid + port.kernel.tx_invalid,
        );
        (sent, sends) = (sent + port.tx_packets, sends + port.sends);
        (received, polls) = (received + port.rx_packets, polls + port.polls);
    }
    for (name, value) in counter_names().iter().zip(counters.totals()) {
        add(name, value);
    }
    all.retain(|_, value| *value != 0.0);
    let ratio = |part: u64, whole: u64| part as f64 / whole.max(1) as f64;
    all.insert("packets-per-sendto".to_owned(), ratio(sent, sends));
    all.insert("packets-per-poll".to_owned(), ratio(received, polls));
    all
}
