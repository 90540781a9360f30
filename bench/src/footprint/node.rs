//! An agent on a node whose pods do nothing.

use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use anyhow::Context;
use serde::{Deserialize, Serialize};

use super::memory_mb;
use crate::bulk::{Lab, SETTINGS};
use crate::machine::TICKS_A_SECOND;
use crate::wire::Turn;

/// As many as a node has at most, unless it is told otherwise.
pub(super) const PODS: usize = 110;
/// How long it is left alone, and watched.
const SETTLING: Duration = Duration::from_secs(3);
const WATCHED: Duration = Duration::from_secs(10);

/// What an idle node costs.
#[derive(Clone, Copy, Debug, Serialize, Deserialize)]
pub(crate) struct Idle {
    /// Time of the agent, workers and control together, in per cent of a core.
    pub(crate) core_percent: f64,
    /// What of it is in RAM, in MB.
    pub(crate) agent_mb: f64,
}

pub(super) fn idle(_turn: &Turn) -> anyhow::Result<Idle> {
    let pods: Vec<_> = (0..PODS)
        .map(|pod| ("node1", format!("idle-{pod}")))
        .collect();
    let lab = Lab::up(&pods, SETTINGS[0])?;
    let status = lab.status()?;
    let node = status.nodes.iter().find(|node| node.name == "node1");
    let agent = node.and_then(|node| node.agent.as_ref());
    let agent = agent.context("the lab's agent does not run")?.pid;
    thread::sleep(SETTLING);
    let (before, start) = (ticks(agent)?, Instant::now());
    thread::sleep(WATCHED);
    let worked = (ticks(agent)? - before) as f64 / TICKS_A_SECOND;
    Ok(Idle {
        core_percent: 100.0 * worked / start.elapsed().as_secs_f64(),
        agent_mb: memory_mb(agent)?,
    })
}

/// Ticks that a process worked so far.
fn ticks(process: i32) -> anyhow::Result<u64> {
    let stat = fs::read_to_string(format!("/proc/{process}/stat"))
        .with_context(|| format!("process {process} is gone"))?;
    ticks_of(&stat).context("/proc/PID/stat is not as proc(5) says")
}

/// Fields 14 and 15 (proc(5)); the second may hold anything, but for its last parenthesis.
fn ticks_of(stat: &str) -> Option<u64> {
    let (_, rest) = stat.rsplit_once(')')?;
    let mut words = rest.split_whitespace().skip(11);
    let user: u64 = words.next()?.parse().ok()?;
    let system: u64 = words.next()?.parse().ok()?;
    Some(user + system)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ticks_are_read_past_any_name() {
        let stat = "7 (a ) b) S 1 7 7 0 -1 4194304 100 0 0 0 250 50 0 0 20 0 3 0 99 1 2";
        assert_eq!(ticks_of(stat), Some(300));
        assert_eq!(ticks_of("7 (a"), None);
    }
}
