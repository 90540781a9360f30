//! What policies cost: 4 800 of them for 2 400 pods, against ten.

mod world;

use std::time::{Duration, Instant};

use anyhow::{Context, ensure};
use arrayvec::ArrayVec;
use podway_engine::{BATCH, Batch, Engine, Packet, Settings, Shared, Verdict};
use podway_intent::{Change, Cluster, Compiler};
use podway_tables::Snapshot;
use podway_wire::Frame;
use serde::{Deserialize, Serialize};

use crate::cluster::GATEWAY_MAC;
use crate::packets::{Ends, Traffic, Varied};
use crate::process::resident_mb;
use crate::statistics::Summary;

/// Policies of the small set; all of them are of the first namespace, whose pods send.
const FEW: u32 = 10;
/// The goal: a miss among all policies costs at most so many times what it costs among few.
pub(crate) const GOAL: f64 = 1.3;
/// Flows that are decided in one repetition, none of them twice.
const FLOWS: usize = 8_192;
const REPETITIONS: usize = 15;
const LENGTH: usize = 64;
const CHUNK: usize = 2_048;
const HEADROOM: usize = 256;
const SEED: u64 = 7;

/// What was measured.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Compiling the whole cluster, in milliseconds.
    pub(crate) compile_ms: f64,
    /// Compiling again after one pod's labels changed, in milliseconds.
    pub(crate) label_ms: Summary,
    /// What the compiler and its tables take, in MB.
    pub(crate) memory_mb: f64,
    /// The first packet of a flow through the whole engine, in nanoseconds: among ten policies, and among all.
    pub(crate) few_ns: Summary,
    pub(crate) all_ns: Summary,
}

impl Figures {
    /// How many times dearer a miss is among all policies.
    pub(crate) fn ratio(&self) -> f64 {
        self.all_ns.median / self.few_ns.median
    }

    /// A line for each figure.
    pub(crate) fn text(&self) -> String {
        format!(
            "\npolicies: 4 800 of them, 2 400 pods, 2 000 on this node\n  compile everything {:>10.1} ms\n  one pod's labels   {:>10.2} ms\n  memory             {:>10.1} MB\n  a miss             {:>10.1} ns, {:.1} ns among {FEW} policies: {:.2} times (goal: {GOAL})\n",
            self.compile_ms,
            self.label_ms.median,
            self.memory_mb,
            self.all_ns.median,
            self.few_ns.median,
            self.ratio()
        )
    }
}

/// Measures all of it.
pub(crate) fn measure() -> anyhow::Result<Figures> {
    let before = resident_mb()?;
    let mut cluster = world::cluster(|_| true);
    let facts = resident_mb()?;
    let mut compiler = Compiler::new("here");
    let (compiled, compile_ms) = timed(|| compiler.compile(&cluster));
    let memory_mb = resident_mb()? - facts;
    eprintln!("policies: facts take {:.1} MB", facts - before);
    let label_ms = labels(&mut cluster, &mut compiler)?;
    let few = Compiler::new("here").compile(&world::cluster(|number| number < FEW));
    let (mut few_ns, mut all_ns) = (Vec::new(), Vec::new());
    // In turns, so that what else goes on meets both.
    for _ in 0..REPETITIONS {
        few_ns.push(miss(&few.snapshot)?);
        all_ns.push(miss(&compiled.snapshot)?);
    }
    Ok(Figures {
        compile_ms,
        label_ms,
        memory_mb,
        few_ns: Summary::of(&few_ns).context("no repetitions")?,
        all_ns: Summary::of(&all_ns).context("no repetitions")?,
    })
}

/// Compiling again after each of some label changes.
fn labels(cluster: &mut Cluster, compiler: &mut Compiler) -> anyhow::Result<Summary> {
    let mut figures = Vec::new();
    for number in (5..1_999).step_by(133) {
        for pod in [world::relabelled(number), world::pod(number)] {
            cluster.apply(Change::Pod(pod));
            let (_, took_ms) = timed(|| compiler.compile(cluster));
            figures.push(took_ms);
        }
    }
    Summary::of(&figures).context("no label changes")
}

/// Nanoseconds of a flow's first packet, which the pod's policies allow: decided, remembered, put into the tunnel.
fn miss(snapshot: &Snapshot) -> anyhow::Result<f64> {
    let part = Shared::new(FLOWS * 8, 1, SEED).part(0);
    let settings = Settings {
        timeouts: Default::default(),
        existing: Default::default(),
    };
    let mut engine = Engine::new(settings, part);
    let targets: Vec<_> = (0..FEW).flat_map(world::allowed).collect();
    ensure!(targets.len() > 100, "{} targets", targets.len());
    let mut memory = vec![0; BATCH * CHUNK];
    let mut took = Duration::ZERO;
    for batch in 0..FLOWS / BATCH {
        let mut packets: ArrayVec<Packet<'_>, BATCH> = ArrayVec::new();
        for (place, chunk) in memory.chunks_exact_mut(CHUNK).enumerate() {
            let flow = batch * BATCH + place;
            let pod = flow as u32 % world::PODS_EACH;
            let (ingress, source_mac) = world::device(pod);
            let (target, target_port) = targets[flow * 7 % targets.len()];
            let ends = Ends {
                source_mac,
                target_mac: GATEWAY_MAC,
                source: world::address(pod),
                target,
                server_port: target_port,
            };
            let traffic = Traffic::udp(&ends, Varied::Target, LENGTH, FLOWS as u32);
            traffic.write(flow as u32, &mut chunk[HEADROOM..]);
            let frame = Frame::new(chunk, HEADROOM, HEADROOM + LENGTH, 0).context("too long")?;
            packets.push(Packet::received(frame, ingress));
        }
        let start = Instant::now();
        engine.process(snapshot, &mut Batch::new(&mut packets, &mut || None), 1);
        took += start.elapsed();
        for packet in &packets {
            let sent = matches!(packet.verdict, Verdict::Transmit(_));
            ensure!(
                sent,
                "the engine did not send a packet: {:?}",
                packet.verdict
            );
        }
    }
    Ok(took.as_nanos() as f64 / FLOWS as f64)
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, f64) {
    let started = Instant::now();
    let done = work();
    (done, started.elapsed().as_secs_f64() * 1e3)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Every packet of the measurement is a miss that is allowed, under few policies as under all.
    #[test]
    fn what_is_measured_is_sent_and_remembered() {
        let few = Compiler::new("here").compile(&world::cluster(|number| number < FEW));
        assert_eq!(few.problems, []);
        miss(&few.snapshot).expect("sent");
        let own = world::cluster(|number| number < world::POLICIES_EACH);
        miss(&Compiler::new("here").compile(&own).snapshot).expect("sent");
    }
}
