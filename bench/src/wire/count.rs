//! One measurement: packets from the source, counted at the sink.

use std::fs;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{Sender, channel};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context, bail, ensure};
use core_affinity::CoreId;
use podway_host::Namespace;

use super::SOURCE_CORE;
use super::bed::{Bed, End};
use super::dataplane::Counted;
use super::source::{Pace, Source};
use crate::packets::Traffic;

/// Packets before anything is counted; they also say how fast the source is.
const WARM_UP: u32 = 1_000_000;
/// The same for each flow: the forwarder sees but a part of what is sent, and should know all flows.
const WARM_UP_PER_FLOW: u32 = 12;
/// Nanoseconds between packets, each time that flows are introduced where answers to them are measured.
const INTRODUCTIONS_NS: [u32; 10] = [
    3_000, 6_000, 12_000, 12_000, 24_000, 24_000, 24_000, 24_000, 24_000, 24_000,
];
/// How long flows are introduced, but for what has begun by then.
const INTRODUCTION_LIMIT: Duration = Duration::from_secs(20);
/// The part of them that has to arrive.
const INTRODUCED: f64 = 0.998;
/// Times that the source's program runs in one call while it introduces flows, and how long it goes on after the last.
const INTRODUCTION_RUNS: u32 = 1_000_000;
const INTRODUCED_MARGIN: Duration = Duration::from_millis(20);
/// What the source sends beyond the time that is counted.
const MARGIN: Duration = Duration::from_millis(400);
/// Most packets of one measurement: a minute at what no source here reaches.
const MOST: f64 = 600e6;
/// How often a measurement is tried.
const ATTEMPTS: usize = 4;

/// How many packets have arrived.
pub(crate) type Sunk<'a> = &'a dyn Fn() -> anyhow::Result<u64>;

/// What is sent into a bed.
#[derive(Clone, Debug)]
pub(crate) struct Stream {
    pub(crate) from: End,
    /// One for each source; each source has a core, and with it a queue, of its own.
    pub(crate) traffic: Vec<Traffic>,
    pub(crate) pace: Pace,
}

impl Stream {
    /// The core of a source.
    pub(crate) fn core(source: usize) -> usize {
        SOURCE_CORE + source
    }

    /// Sends at its pace until `stop`, from the first source; its program runs so many times in one call.
    pub(crate) fn send_until(&self, bed: &Bed, runs: u32, stop: &AtomicBool) -> anyhow::Result<()> {
        settle(bed.namespace(self.from), Stream::core(0))?;
        let mut source = Source::new(self.from.device(), &self.traffic[0], self.pace)?;
        while !stop.load(Ordering::Relaxed) {
            source.send(runs)?;
        }
        Ok(())
    }

    /// Has each flow's packet sent, slowly, until nearly all of one pass have `arrived` at the other end: then the
    /// forwarder knows all flows. Who measures the answers sees whether that is so.
    pub(crate) fn introduce(
        &self,
        bed: &Bed,
        arrived: &(dyn Fn() -> anyhow::Result<u64> + Sync),
    ) -> anyhow::Result<()> {
        thread::scope(|scope| {
            let introduced = scope.spawn(|| {
                settle(bed.namespace(self.from), Stream::core(0))?;
                for traffic in &self.traffic {
                    let start = Instant::now();
                    for interval_ns in INTRODUCTIONS_NS {
                        if start.elapsed() > INTRODUCTION_LIMIT {
                            break;
                        }
                        let before = arrived()?;
                        introduce(self.from, traffic, interval_ns)?;
                        let passed = arrived()? - before;
                        if passed as f64 >= f64::from(traffic.flows()) * INTRODUCED {
                            break;
                        }
                    }
                }
                Ok(())
            });
            introduced.join().expect("the source does not panic")
        })
    }
}

/// Sends each flow's packet about once.
fn introduce(from: End, traffic: &Traffic, interval_ns: u32) -> anyhow::Result<()> {
    let mut source = Source::new(from.device(), traffic, Pace::OnceEvery(interval_ns))?;
    let time = Duration::from_nanos(u64::from(traffic.flows()) * u64::from(interval_ns));
    let start = Instant::now();
    // Each run of the program is far shorter than the time between two packets.
    while start.elapsed() < time + INTRODUCED_MARGIN {
        if source.send(INTRODUCTION_RUNS)?.is_none() {
            bail!("a signal ended the source");
        }
    }
    Ok(())
}

/// What one measurement came to.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    /// Millions of packets a second that arrived.
    pub(crate) mpps: f64,
    /// Millions of packets a second that the sources sent, or more if they were paced.
    pub(crate) offered_mpps: f64,
    /// See [`CoreShare`]: the sources' or the forwarders', the least one.
    pub(crate) core_share: f64,
    /// What the forwarder counted.
    pub(crate) counted: Counted,
}

/// What a source did.
struct Sent {
    until: Instant,
    mpps: f64,
    core_share: f64,
}

/// Sends through the bed and counts at its end; again if a source went faster than it had led to expect.
pub(crate) fn count(
    bed: &Bed,
    stream: &Stream,
    time: Duration,
    sunk: Sunk<'_>,
) -> anyhow::Result<Sample> {
    for _ in 0..ATTEMPTS {
        if let Some(sample) = attempt(bed, stream, time, sunk)? {
            return Ok(sample);
        }
    }
    bail!("the source's speed is never the same; the machine is too busy to measure")
}

/// What is counted while the sources send; `None` if one ended before that.
fn attempt(
    bed: &Bed,
    stream: &Stream,
    time: Duration,
    sunk: Sunk<'_>,
) -> anyhow::Result<Option<Sample>> {
    thread::scope(|scope| {
        let (warm, is_warm) = channel();
        let sources: Vec<_> = (0..stream.traffic.len())
            .map(|source| {
                let warm = warm.clone();
                scope.spawn(move || send(bed, stream, source, time + MARGIN, &warm))
            })
            .collect();
        drop(warm);
        // If a source ends instead, it says why.
        let all_warm = sources.iter().all(|_| is_warm.recv().is_ok());
        let counted = all_warm.then(|| {
            thread::sleep(MARGIN / 4);
            rate_at_sink(sunk, time)
        });
        let mut all = Vec::new();
        for source in sources {
            match source.join().expect("a source does not panic")? {
                Some(sent) => all.push(sent),
                None => return Ok(None),
            }
        }
        let Some(counted) = counted else {
            return Ok(None);
        };
        let (counted_until, mpps) = counted?;
        if all.iter().any(|sent| sent.until < counted_until) {
            return Ok(None);
        }
        ensure!(mpps > 0.0, "nothing arrived");
        Ok(Some(Sample {
            mpps,
            offered_mpps: all.iter().map(|sent| sent.mpps).sum(),
            core_share: all.iter().map(|sent| sent.core_share).fold(1.0, f64::min),
            counted: Counted::new(),
        }))
    })
}

/// Sends for about `time` after a warm-up, which it reports; `None` if a signal ended it early.
fn send(
    bed: &Bed,
    stream: &Stream,
    source: usize,
    time: Duration,
    warm: &Sender<()>,
) -> anyhow::Result<Option<Sent>> {
    settle(bed.namespace(stream.from), Stream::core(source))?;
    let traffic = &stream.traffic[source];
    let share = CoreShare::start();
    let mut source = Source::new(stream.from.device(), traffic, stream.pace)?;
    let first = match stream.pace {
        Pace::Full => WARM_UP.max(traffic.flows() * WARM_UP_PER_FLOW),
        Pace::Every(_) | Pace::OnceEvery(_) => WARM_UP,
    };
    let Some(took) = source.send(first)? else {
        return Ok(None);
    };
    // One long call: each call begins with a pause of some 18 ms, in which the forwarder would catch up.
    let packets = f64::from(first) * time.as_secs_f64() / took.as_secs_f64();
    let packets = packets.min(MOST) as u32;
    warm.send(()).context("nobody waits")?;
    let took = source.send(packets)?;
    let offered = |took: Duration| match stream.pace {
        Pace::Full => f64::from(packets) / took.as_secs_f64() / 1e6,
        Pace::Every(interval_ns) | Pace::OnceEvery(interval_ns) => 1e3 / f64::from(interval_ns),
    };
    Ok(took.map(|took| Sent {
        until: Instant::now(),
        mpps: offered(took),
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
