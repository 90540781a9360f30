//! One measurement: packets from the source, counted at the sink.

use std::fs;
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use core_affinity::CoreId;
use podway_cni::Namespace;

use super::SOURCE_CORE;
use super::bed::Bed;
use super::dataplane::Counted;
use super::source::Source;
use crate::packets::Traffic;

/// Packets before anything is counted; they also say how fast the source is.
const WARM_UP: u32 = 1_000_000;
/// The same for each flow: the forwarder sees but a part of what is sent, and should know all flows.
const WARM_UP_PER_FLOW: u32 = 12;
/// What the source sends beyond the time that is counted.
const MARGIN: Duration = Duration::from_millis(400);
/// Most packets of one measurement: a minute at what no source here reaches.
const MOST: f64 = 600e6;
/// How often a measurement is tried.
const ATTEMPTS: usize = 4;

/// How many packets have reached the sink.
pub(crate) type Sunk<'a> = &'a dyn Fn() -> anyhow::Result<u64>;

/// What one measurement came to.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Millions of packets a second at the sink.
    pub(crate) mpps: f64,
    /// Millions of packets a second that the source sent.
    pub(crate) offered_mpps: f64,
    /// See [`CoreShare`]: the source's or the forwarder's, the lesser one.
    pub(crate) core_share: f64,
    /// What the forwarder counted.
    pub(crate) counted: Counted,
}

/// What the source did.
struct Sent {
    until: Instant,
    mpps: f64,
    core_share: f64,
}

/// Sends through the bed and counts at its end; again if the source went faster than it had led to expect.
pub(crate) fn count(
    bed: &Bed,
    traffic: &Traffic,
    time: Duration,
    sunk: Sunk<'_>,
) -> anyhow::Result<Sample> {
    for _ in 0..ATTEMPTS {
        if let Some(sample) = attempt(bed, traffic, time, sunk)? {
            return Ok(sample);
        }
    }
    bail!("the source's speed is never the same; the machine is too busy to measure")
}

/// What is counted while the source sends; `None` if it ended before that.
fn attempt(
    bed: &Bed,
    traffic: &Traffic,
    time: Duration,
    sunk: Sunk<'_>,
) -> anyhow::Result<Option<Sample>> {
    thread::scope(|scope| {
        let (warm, is_warm) = channel();
        let source = scope.spawn(move || send(bed, traffic, time + MARGIN, &warm));
        // If the source ends instead, it says why.
        let counted = is_warm.recv().ok().map(|()| {
            thread::sleep(MARGIN / 4);
            rate_at_sink(sunk, time)
        });
        let sent = source.join().expect("the source does not panic")?;
        let (Some(sent), Some(counted)) = (sent, counted) else {
            return Ok(None);
        };
        let (counted_until, mpps) = counted?;
        if sent.until < counted_until {
            return Ok(None);
        }
        ensure!(mpps > 0.0, "nothing reached the sink");
        Ok(Some(Sample {
            mpps,
            offered_mpps: sent.mpps,
            core_share: sent.core_share,
            counted: Counted::new(),
        }))
    })
}

/// Sends for about `time` after a warm-up, which it reports; `None` if a signal ended it early.
fn send(
    bed: &Bed,
    traffic: &Traffic,
    time: Duration,
    warm: &Sender<()>,
) -> anyhow::Result<Option<Sent>> {
    settle(&bed.source, SOURCE_CORE)?;
    let share = CoreShare::start();
    let mut source = Source::new("out", traffic)?;
    let first = WARM_UP.max(traffic.flows() * WARM_UP_PER_FLOW);
    let Some(took) = source.send(first)? else {
        return Ok(None);
    };
    // One long call: each call begins with a pause of some 18 ms, in which the forwarder would catch up.
    let packets = f64::from(first) * time.as_secs_f64() / took.as_secs_f64();
    let packets = packets.min(MOST) as u32;
    warm.send(()).context("nobody waits")?;
    let took = source.send(packets)?;
    Ok(took.map(|took| Sent {
        until: Instant::now(),
        mpps: f64::from(packets) / took.as_secs_f64() / 1e6,
        core_share: share.end(),
    }))
}

/// Counts for `time`; when that was over, and how many millions of packets a second there were.
fn rate_at_sink(sunk: Sunk<'_>, time: Duration) -> anyhow::Result<(Instant, f64)> {
    let (start, before) = (Instant::now(), sunk()?);
    thread::sleep(time);
    let (end, after) = (Instant::now(), sunk()?);
    let packets = after.saturating_sub(before) as f64;
    Ok((end, packets / (end - start).as_secs_f64() / 1e6))
}

/// How much of the time that it wanted to run a thread did: less than 1 where others had its core.
#[derive(Debug)]
pub(crate) struct CoreShare {
    ran_ns: u64,
    waited_ns: u64,
}

impl CoreShare {
    /// From now on, for the calling thread.
    pub(crate) fn start() -> CoreShare {
        let text = fs::read_to_string("/proc/thread-self/schedstat").unwrap_or_default();
        let mut words = text.split(' ').map(|word| word.parse().unwrap_or(0));
        let mut next = || words.next().unwrap_or(0);
        CoreShare {
            ran_ns: next(),
            waited_ns: next(),
        }
    }

    /// Until now, by the same thread; 1 if the kernel doesn't say.
    pub(crate) fn end(self) -> f64 {
        let now = CoreShare::start();
        let (ran, waited) = (now.ran_ns - self.ran_ns, now.waited_ns - self.waited_ns);
        match ran + waited {
            0 => 1.0,
            all => ran as f64 / all as f64,
        }
    }
}

/// Moves the calling thread to a namespace and a core for good.
pub(crate) fn settle(namespace: &Namespace, core: usize) -> anyhow::Result<()> {
    namespace.enter()?;
    ensure!(
        core_affinity::set_for_current(CoreId { id: core }),
        "this process may not run on core {core}"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_share_is_a_part() {
        let share = CoreShare::start();
        let start = Instant::now();
        while start.elapsed() < Duration::from_millis(5) {}
        let share = share.end();
        assert!(share > 0.0 && share <= 1.0, "{share}");
    }
}
