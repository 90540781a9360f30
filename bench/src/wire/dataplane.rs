//! AF_XDP systems: podway's own edge, with the engine or with next to nothing behind it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::Sender;
use std::time::{Duration, Instant};

use anyhow::Context;
use podway_engine::{Batch, Engine, Settings, Shared, Verdict, counter_names};
use podway_state::{Counters, Publication, Reader};
use podway_tables::{PortId, PortKind, Snapshot};
use podway_xsk::{
    Bind, PortStatistics, Redirect, RedirectSettings, Sockets, WorkerEdge, WorkerSettings,
    use_huge_pages,
};

use crate::cluster::plan;
use podway_intent::Compiled;

/// Frames of a worker's packet memory.
const FRAMES: u32 = 8_192;
/// Ports that the XDP program is loaded for.
const PORTS: u16 = 64;
/// How long it takes to look at every flow for idleness once, as the agent's workers do it.
const SWEEP_MS: u64 = 10_000;
/// Turns without a packet before a worker goes to sleep, and for how long at most: the agent's.
const IDLE_TURNS: u32 = 256;
const SLEEP: Duration = Duration::from_millis(100);
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

/// A device, and what it is to the dataplane.
pub(crate) type Device = (PortId, &'static str, PortKind);

/// What workers counted from their start to their end, by name.
pub(crate) type Counted = BTreeMap<String, f64>;

/// What the workers of a node share; they end with it.
pub(crate) struct Dataplane {
    pub(crate) publication: Publication<Snapshot>,
    /// One for each worker, in their order.
    pub(crate) workers: Vec<Worker>,
    pub(crate) counters: Arc<Counters>,
    /// Stays attached for as long as this value lives.
    pub(crate) redirect: Redirect,
}

/// What a worker's thread begins with.
pub(crate) struct Worker {
    index: usize,
    behind: Behind,
    devices: [Device; 2],
    sockets: Sockets,
    shared: Shared,
    reader: Reader<Snapshot>,
}

impl Dataplane {
    /// Redirects what comes in by two devices to workers that are yet to run. In the node's namespace.
    pub(crate) fn new(
        behind: Behind,
        workers: usize,
        room: usize,
        compiled: &Compiled,
        devices: [Device; 2],
    ) -> anyhow::Result<Dataplane> {
        let redirect = Redirect::load(RedirectSettings {
            queues: workers as u32,
            ports: PORTS,
        })?;
        redirect.reconcile(&plan(compiled))?;
        for (port, device, kind) in devices {
            redirect.attach(device, kind, port)?;
        }
        // Flows that nobody answers have a quarter of it.
        let shared = Shared::new((room * 4).max(65_536), workers, 7);
        // As the agent does; a kernel without huge pages is measured without.
        let _ = shared.flows.memory().map(use_huge_pages);
        let (publication, readers) = Publication::new(compiled.snapshot.clone(), workers);
        let workers = readers
            .into_iter()
            .enumerate()
            .map(|(index, reader)| Worker {
                index,
                behind,
                devices,
                sockets: redirect.sockets(),
                shared: shared.clone(),
                reader,
            });
        Ok(Dataplane {
            workers: workers.collect(),
            publication,
            counters: shared.counters,
            redirect,
        })
    }
}

impl Worker {
    /// Forwards until `stop`, and says so to `ready` once it does; what its ports did. In the node's namespace.
    pub(crate) fn forward(
        self,
        stop: &AtomicBool,
        ready: &Sender<()>,
    ) -> anyhow::Result<Vec<PortStatistics>> {
        let mut edge = WorkerEdge::new(WorkerSettings {
            queue: self.index as u32,
            frames: FRAMES,
            sockets: self.sockets.clone(),
        })?;
        for (port, device, _) in self.devices {
            edge.add_port(port, device, Bind::Copy, PATIENCE)?;
        }
        ready.send(()).context("nobody waits")?;
        match self.behind {
            Behind::Nothing => {
                let [one, other] = self.devices.map(|(port, ..)| port);
                let mut swap = |batch: &mut Batch<'_, '_>| {
                    for packet in batch.packets.iter_mut() {
                        let target = if packet.ingress == one { other } else { one };
                        packet.verdict = Verdict::Transmit(target);
                    }
                };
                while !stop.load(Ordering::Relaxed) {
                    edge.turn(&mut swap);
                }
            }
            Behind::Engine => self.run(&mut edge, stop)?,
        }
        Ok(edge.port_statistics())
    }

    /// The turns of the agent's worker: look at the clock, sweep, carry a batch, sleep when there is nothing to do.
    fn run(self, edge: &mut WorkerEdge, stop: &AtomicBool) -> anyhow::Result<()> {
        let workers = self.shared.counters.workers();
        let share = (self.shared.flows.capacity() / workers) as u64;
        let settings = Settings {
            timeouts: Default::default(),
            existing: Default::default(),
        };
        let mut engine = Engine::new(settings, self.shared.part(self.index));
        let mut reader = self.reader;
        let start = Instant::now();
        let (mut swept, mut idle_turns) = (0, 0);
        while !stop.load(Ordering::Relaxed) {
            let now_ms = start.elapsed().as_millis() as u64;
            let due = now_ms * share / SWEEP_MS;
            engine.sweep((due - swept) as usize, now_ms as u32);
            swept = due;
            let snapshot = reader.latest();
            match edge.turn(&mut |batch| engine.process(snapshot, batch, now_ms as u32)) {
                0 => idle_turns += 1,
                _ => idle_turns = 0,
            }
            if idle_turns >= IDLE_TURNS {
                idle_turns = 0;
                reader.offline(|| edge.sleep(SLEEP)).context("poll")?;
            }
        }
        Ok(())
    }
}

/// What ports and engines counted, all workers together.
pub(crate) fn counted(ports: &[PortStatistics], counters: &Counters) -> Counted {
    let mut all = Counted::new();
    let mut add = |name: &str, value: u64| *all.entry(name.to_owned()).or_default() += value as f64;
    let (mut sent, mut sends, mut received, mut polls) = (0, 0, 0, 0);
    for port in ports {
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
