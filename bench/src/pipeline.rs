//! The pipeline alone: the real engine on batches in memory, without rings and without a kernel.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use arrayvec::ArrayVec;
use clap::ValueEnum;
use podway_engine::{BATCH, Batch, Engine, Event, Packet, Settings, Shared, Verdict, event_index};
use podway_state::Counters;
use podway_tables::{PortId, Snapshot};
use podway_wire::{Addr, Frame, vxlan};
use podway_xsk::use_huge_pages;
use serde::{Deserialize, Serialize};

use crate::cluster::{self, Isolation, LARGE, SMALL, Scale};
use crate::packets::{Ends, Traffic, Varied};
use crate::statistics::Summary;

/// Bytes of a chunk, and of them before a packet, as the kernel leaves them.
const CHUNK: usize = 4_096;
const HEADROOM: usize = 256;
/// Chunks in turn: what a worker's rings keep in use.
const CHUNKS: usize = 512;
/// Length of the packets, in bytes.
const LENGTH: usize = 64;
/// The engine's clock goes on by a millisecond with this many batches: about a million packets a second.
const BATCHES_PER_MS: u64 = 16;
/// The flow table's secret: the same each time, so that instruction counts repeat.
const SEED: u64 = 7;

/// What is measured.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Kind {
    /// A remembered flow from pod to pod on one node.
    Plain,
    /// A remembered flow to a ClusterIP whose endpoint is here.
    Nat,
    /// A remembered flow to a ClusterIP whose endpoint is on another node.
    NatPush,
    /// The same from a pod that a policy of a hundred rules isolates.
    Policy,
    /// A remembered flow that comes out of the tunnel to a pod.
    Open,
    /// The first packet of each flow: decide and remember; ClusterIP, policy and tunnel.
    Miss,
    /// The same among 10 000 services, 100 000 endpoints and 4 800 policies.
    MissLarge,
}

impl Kind {
    /// All of them, in the order of reports.
    pub(crate) const ALL: &'static [Kind] = &[
        Kind::Plain,
        Kind::Nat,
        Kind::NatPush,
        Kind::Policy,
        Kind::Open,
        Kind::Miss,
        Kind::MissLarge,
    ];

    /// True of kinds that need at least a batch of flows, because each packet begins one.
    pub(crate) fn is_first_packets(self) -> bool {
        self.memory() == Memory::Miss
    }

    /// Whether packets meet what is remembered.
    fn memory(self) -> Memory {
        match self {
            Kind::Plain | Kind::Nat | Kind::NatPush | Kind::Policy | Kind::Open => Memory::Hit,
            Kind::Miss | Kind::MissLarge => Memory::Miss,
        }
    }

    fn cluster(self) -> (Scale, Isolation) {
        match self {
            Kind::Plain | Kind::Nat | Kind::NatPush | Kind::Open => (SMALL, Isolation::Open),
            Kind::Policy | Kind::Miss => (SMALL, Isolation::Isolated),
            Kind::MissLarge => (LARGE, Isolation::Isolated),
        }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().expect("none is hidden").get_name())
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Memory {
    Hit,
    Miss,
}

/// How long and how often.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Effort {
    /// Measurements of each kind and number of flows.
    pub(crate) repetitions: usize,
    /// Time inside the engine of each, at least; all around it takes up to four times that.
    pub(crate) time: Duration,
}

/// What came of one kind and number of flows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) kind: Kind,
    pub(crate) flows: u32,
    /// Nanoseconds a packet, if they were measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) ns: Option<Summary>,
    /// Instructions a packet, if they were counted.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) instructions: Option<f64>,
}

/// The engine, its tables and the packets of one kind.
pub(crate) struct Pipeline {
    kind: Kind,
    snapshot: Arc<Snapshot>,
    traffic: Traffic,
    ingress: PortId,
    engine: Engine,
    counters: Arc<Counters>,
    memory: Box<[u8]>,
    /// Packets made so far, and those of them since the flow table was last empty.
    made: u64,
    fresh: u64,
    now_ms: u32,
}

impl Pipeline {
    /// The pipeline for a kind and number of flows, warm: flows that are to be hit are remembered.
    pub(crate) fn new(kind: Kind, flows: u32) -> anyhow::Result<Pipeline> {
        let (scale, isolation) = kind.cluster();
        Pipeline::among(scale, isolation, kind, flows)
    }

    /// The same in another cluster than the kind's own.
    pub(crate) fn among(
        scale: Scale,
        isolation: Isolation,
        kind: Kind,
        flows: u32,
    ) -> anyhow::Result<Pipeline> {
        let compiled = cluster::compiled(scale, isolation);
        ensure!(
            compiled.problems.is_empty(),
            "the measured cluster has problems: {:?}",
            compiled.problems
        );
        let (ingress, traffic) = traffic(kind, flows);
        let (engine, counters) = engine(flows);
        let mut pipeline = Pipeline {
            kind,
            snapshot: compiled.snapshot,
            traffic,
            ingress,
            engine,
            counters,
            memory: vec![0; CHUNKS * CHUNK].into(),
            made: 0,
            fresh: 0,
            now_ms: 0,
        };
        if kind.memory() == Memory::Hit {
            while pipeline.made < u64::from(flows) * 2 {
                pipeline.batch()?;
            }
        }
        Ok(pipeline)
    }

    /// Nanoseconds a packet, each figure over `effort.time` at least.
    pub(crate) fn measure(&mut self, effort: Effort) -> anyhow::Result<Summary> {
        let clock = clock_cost();
        let mut figures = Vec::new();
        for _ in 0..effort.repetitions {
            let mut inside = Duration::ZERO;
            let mut packets = 0;
            let deadline = Instant::now() + effort.time * 4;
            while inside < effort.time && Instant::now() < deadline {
                inside += self.batch()?.saturating_sub(clock);
                packets += BATCH;
            }
            figures.push(inside.as_nanos() as f64 / packets as f64);
        }
        Summary::of(&figures).context("no repetitions were asked for")
    }

    /// Runs a number of batches, for who counts instructions.
    pub(crate) fn run(&mut self, batches: u32) -> anyhow::Result<()> {
        (0..batches).try_for_each(|_| self.batch().map(drop))
    }

    /// Makes a batch, has it processed and gives the time that took.
    fn batch(&mut self) -> anyhow::Result<Duration> {
        if self.kind.memory() == Memory::Miss && self.fresh + BATCH as u64 > self.room() {
            (self.engine, self.counters) = engine(self.traffic.flows());
            self.fresh = 0;
        }
        let before = counted(&self.counters);
        let group = (self.made / BATCH as u64) as usize % (CHUNKS / BATCH) * BATCH * CHUNK;
        let chunks = self.memory[group..group + BATCH * CHUNK].chunks_exact_mut(CHUNK);
        let mut packets: ArrayVec<Packet<'_>, BATCH> = ArrayVec::new();
        for (index, chunk) in chunks.enumerate() {
            let flow = self.traffic.flow_of(self.made + index as u64);
            self.traffic.write(flow, &mut chunk[HEADROOM..]);
            let frame = Frame::new(chunk, HEADROOM, HEADROOM + self.traffic.length(), 0)
                .expect("inside its chunk");
            packets.push(Packet::received(frame, self.ingress));
        }
        self.made += BATCH as u64;
        self.fresh += BATCH as u64;
        self.now_ms = (self.made / BATCH as u64 / BATCHES_PER_MS) as u32;

        let start = Instant::now();
        process(&mut self.engine, &self.snapshot, &mut packets, self.now_ms);
        let took = start.elapsed();

        for packet in &packets {
            let Verdict::Transmit(_) = packet.verdict else {
                bail!(
                    "{}: the engine did not send a packet: {:?}",
                    self.kind,
                    packet.verdict
                );
            };
        }
        let [hits, misses] = counted(&self.counters);
        let warm = self.made > u64::from(self.traffic.flows()) + BATCH as u64;
        let (seen, what) = match self.kind.memory() {
            Memory::Hit if !warm => return Ok(took),
            Memory::Hit => (hits - before[0], "hit"),
            Memory::Miss => (misses - before[1], "miss"),
        };
        ensure!(
            seen == BATCH as u64,
            "{}: {seen} of {BATCH} packets were a {what}",
            self.kind
        );
        Ok(took)
    }

    /// How many packets find nothing remembered before the table must be emptied.
    fn room(&self) -> u64 {
        u64::from(self.traffic.flows())
    }
}

/// Packets that met something remembered, and those that did not.
fn counted(counters: &Counters) -> [u64; 2] {
    [Event::Hit, Event::Miss].map(|event| counters.of(0, event_index(event)))
}

/// What is timed, and nothing else; callgrind counts what happens in here.
#[inline(never)]
fn process(engine: &mut Engine, snapshot: &Snapshot, packets: &mut [Packet<'_>], now_ms: u32) {
    engine.process(snapshot, &mut Batch::new(packets, &mut || None), now_ms);
}

/// An engine with an empty table that takes all flows, none of which will be answered.
fn engine(flows: u32) -> (Engine, Arc<Counters>) {
    let capacity = (flows as usize * 4).max(1_024);
    let shared = Shared::new(capacity, 1, SEED);
    // As the agent does; a kernel without huge pages is measured without.
    let _ = shared.flows.memory().map(use_huge_pages);
    let counters = shared.counters.clone();
    let settings = Settings {
        timeouts: Default::default(),
        existing: Default::default(),
    };
    (Engine::new(settings, shared.part(0)), counters)
}

/// The packets of a kind, and where they come in.
fn traffic(kind: Kind, flows: u32) -> (PortId, Traffic) {
    let from_client = |target, server_port| {
        let ends = Ends {
            source_mac: cluster::CLIENT_MAC,
            target_mac: cluster::GATEWAY_MAC,
            source: cluster::CLIENT_ADDRESS,
            target,
            server_port,
        };
        (
            cluster::CLIENT,
            Traffic::udp(&ends, Varied::Target, LENGTH, flows),
        )
    };
    match kind {
        Kind::Plain => from_client(cluster::FIRST_LOCAL_POD, cluster::BACKEND_PORT),
        Kind::Nat => from_client(cluster::LOCAL_SERVICE, cluster::SERVICE_PORT),
        Kind::NatPush | Kind::Policy | Kind::Miss | Kind::MissLarge => {
            from_client(cluster::REMOTE_SERVICE, cluster::SERVICE_PORT)
        }
        Kind::Open => {
            let ends = Ends {
                source_mac: cluster::PEER_MAC,
                target_mac: cluster::GATEWAY_MAC,
                source: cluster::endpoint(0),
                target: cluster::FIRST_LOCAL_POD,
                server_port: cluster::BACKEND_PORT,
            };
            let outer = vxlan::Outer {
                target_mac: cluster::UPLINK_MAC,
                source_mac: cluster::PEER_MAC,
                source: Addr::from(cluster::PEER),
                target: Addr::from(cluster::NODE),
                source_port: 50_000,
                target_port: cluster::TUNNEL_PORT,
                vni: cluster::VNI,
                traffic_class: 0,
            };
            (
                cluster::UPLINK,
                Traffic::udp(&ends, Varied::Source, LENGTH, flows).tunnelled(&outer),
            )
        }
    }
}

/// What reading the clock twice costs by itself.
fn clock_cost() -> Duration {
    let cost = || {
        let start = Instant::now();
        start.elapsed()
    };
    let mut costs: Vec<_> = (0..1_001).map(|_| cost()).collect();
    costs.sort();
    costs[costs.len() / 2]
}

#[cfg(test)]
mod tests {
    use podway_engine::{DropReason, counter_names, drop_index};

    use super::*;

    /// Every kind does what it is called, or its figures are of something else.
    #[test]
    fn kinds_move_the_counters_that_they_are_about() {
        const FLOWS: u32 = 256;
        for &kind in Kind::ALL.iter().filter(|&&kind| kind != Kind::MissLarge) {
            let mut pipeline = Pipeline::new(kind, FLOWS).expect("pipeline");
            let before = pipeline.counters.totals();
            pipeline.run(2).expect("run");
            let moved: Vec<_> = counter_names()
                .into_iter()
                .zip(pipeline.counters.totals().iter().zip(before))
                .filter(|(name, (now, before))| *now != before && name != "flow-remembered")
                .map(|(name, (now, before))| (name, now - before))
                .collect();
            let mut expected = vec!["received", "transmitted"];
            match kind.memory() {
                Memory::Hit => expected.push("flow-hit"),
                Memory::Miss => expected.push("flow-miss"),
            }
            match kind {
                Kind::Plain | Kind::Nat => {}
                Kind::NatPush | Kind::Policy | Kind::Miss | Kind::MissLarge => {
                    expected.push("tunnel-pushed")
                }
                Kind::Open => expected.push("tunnel-opened"),
            }
            let all: Vec<_> = expected
                .iter()
                .map(|name| (name.to_string(), 128))
                .collect();
            assert_eq!(moved, all, "{kind}");
        }
    }

    #[test]
    fn misses_start_over_before_the_table_is_full() {
        let mut pipeline = Pipeline::new(Kind::Miss, 128).expect("pipeline");
        pipeline.run(7).expect("all of them miss");
        assert_eq!(
            pipeline
                .counters
                .of(0, drop_index(DropReason::EmbryonicQuota)),
            0
        );
    }

    #[test]
    fn a_measurement_is_a_time() {
        let effort = Effort {
            repetitions: 3,
            time: Duration::from_millis(2),
        };
        let summary = Pipeline::new(Kind::Plain, 1)
            .and_then(|mut it| it.measure(effort))
            .expect("summary");
        assert!(summary.median > 0.0, "{summary:?}");
    }
}
