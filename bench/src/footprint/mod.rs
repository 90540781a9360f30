//! What flows, pods and an idle node cost, and a service with very many endpoints.

mod node;
mod pods;

use anyhow::Context;
use podway_state::FlowTable;
use serde::{Deserialize, Serialize};

use crate::cluster::{Isolation, Scale};
use crate::pipeline::{Effort, Kind, Pipeline};
use crate::process::mapped_bytes;
use crate::statistics::Summary;
use crate::wire::Turn;

/// Flows of the table whose memory is looked at.
const FLOWS: usize = 1 << 22;
/// First packets that are timed among few endpoints and among many.
const FIRST_PACKETS: u32 = 16_384;
const FEW: u32 = 10;
const MANY: u32 = 100_000;

/// The goals.
pub(crate) const FLOW_GOAL_BYTES: f64 = 128.0;
pub(crate) const POD_GOAL_MIB: f64 = 4.0;
pub(crate) const IDLE_GOAL_PERCENT: f64 = 2.0;

/// What was measured once.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Figures {
    /// Memory of a flow table, by the flows that it has room for.
    pub(crate) flow_bytes: f64,
    /// Memory that the machine has less for each pod's port of a worker, in MiB.
    pub(crate) pod_mib: f64,
    /// The first packet of a flow to a service with ten endpoints, and with a hundred thousand, in nanoseconds.
    pub(crate) few_ns: f64,
    pub(crate) many_ns: f64,
    /// An agent whose node has 110 pods that do nothing.
    pub(crate) idle: node::Idle,
}

/// Measures all of it, so many times.
pub(crate) fn measure(rounds: usize, effort: Effort) -> anyhow::Result<Vec<Figures>> {
    let turn = Turn::take()?;
    let miss = |endpoints| {
        let scale = Scale {
            services: 1,
            endpoints,
            policies: 0,
        };
        Pipeline::among(scale, Isolation::Isolated, Kind::Miss, FIRST_PACKETS)
    };
    let (mut few, mut many) = (miss(FEW)?, miss(MANY)?);
    let mut all = Vec::new();
    for round in 1..=rounds {
        let effort = Effort {
            repetitions: 1,
            ..effort
        };
        let figures = Figures {
            flow_bytes: flow_bytes()?,
            pod_mib: pods::mib(&turn)?,
            few_ns: few.measure(effort)?.median,
            many_ns: many.measure(effort)?.median,
            idle: node::idle(&turn)?,
        };
        eprintln!("footprint: round {round}: {figures:?}");
        all.push(figures);
    }
    Ok(all)
}

fn flow_bytes() -> anyhow::Result<f64> {
    let before = mapped_bytes()?;
    let table = FlowTable::new(FLOWS, 1, 7);
    let bytes = mapped_bytes()? - before;
    Ok(bytes / table.capacity() as f64)
}

/// A line for each figure.
pub(crate) fn text(all: &[Figures]) -> String {
    let of = |figure: fn(&Figures) -> f64| {
        let figures: Vec<f64> = all.iter().map(figure).collect();
        Summary::of(&figures).map_or("-".to_owned(), |it| {
            format!("{:.2} (spread {:.1} %)", it.median, it.spread_percent)
        })
    };
    format!(
        "\nfootprint, {} rounds\n  a flow                       {} B (goal: {FLOW_GOAL_BYTES})\n  a pod and worker             {} MiB (goal: {POD_GOAL_MIB})\n  first packet, {FEW} endpoints   {} ns\n  the same, {MANY} endpoints  {} ns\n  idle node, {} pods          {} % of a core (goal: {IDLE_GOAL_PERCENT}); agent {} MB\n",
        all.len(),
        of(|it| it.flow_bytes),
        of(|it| it.pod_mib),
        of(|it| it.few_ns),
        of(|it| it.many_ns),
        node::PODS,
        of(|it| it.idle.core_percent),
        of(|it| it.idle.agent_mb),
    )
}

/// The ratio of a first packet's cost among many endpoints to that among few, of each round.
pub(crate) fn endpoint_ratios(all: &[Figures]) -> Vec<f64> {
    all.iter().map(|it| it.many_ns / it.few_ns).collect()
}

/// The figures of a process that somebody else started.
pub(crate) fn memory_mb(process: i32) -> anyhow::Result<f64> {
    let text = std::fs::read_to_string(format!("/proc/{process}/status"))
        .with_context(|| format!("process {process} is gone"))?;
    crate::process::field_mb(&text, "VmRSS:")
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The table is what it is said to be: its slots and its index, and nothing else.
    #[test]
    fn a_flow_takes_more_than_its_keys_and_less_than_a_page() {
        let bytes = flow_bytes().expect("figures");
        assert!((64.0..4_096.0).contains(&bytes), "{bytes}");
    }
}
