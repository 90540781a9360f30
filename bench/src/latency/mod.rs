//! How long a packet and a connection take: from a client through a service of one endpoint to a pod on the same node.
//!
//! client `out` → `in` node `wire` → `end` server. Client and server are threads with real-time priority on the
//! source's core, the system forwards on the other one.

mod bed;
mod ping;

use std::fmt;
use std::time::Duration;

use clap::ValueEnum;
use serde::{Deserialize, Serialize};

use crate::statistics::{Quantiles, Summary};
use crate::wire::{System, Turn};

/// What is timed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, ValueEnum, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum What {
    /// A datagram there and back, and nothing else on its way.
    Idle,
    /// The same while others take half of what the system can.
    HalfLoad,
    /// A TCP connection's handshake.
    Connect,
}

impl fmt::Display for What {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().expect("none is hidden").get_name())
    }
}

/// What is measured, and how long.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) systems: Vec<System>,
    pub(crate) rounds: usize,
    /// How long each of the three is timed.
    pub(crate) time: Duration,
}

/// How long one thing took through one system.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) system: System,
    pub(crate) what: What,
    /// Microseconds, summed up over rounds; `None` if it was not measured.
    pub(crate) p50_us: Option<Summary>,
    pub(crate) p99_us: Option<Summary>,
    pub(crate) p999_us: Option<Summary>,
    /// How many were timed, and how many of all never came back.
    pub(crate) timed: usize,
    pub(crate) lost: usize,
    /// Millions of packets a second beside it, the median.
    pub(crate) load_mpps: Option<f64>,
    /// Why it was not measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) missing: Option<String>,
}

/// What one round came to.
#[derive(Clone, Debug)]
pub(crate) struct Sample {
    pub(crate) what: What,
    pub(crate) us: Quantiles,
    pub(crate) lost: usize,
    pub(crate) load_mpps: Option<f64>,
}

/// The systems that can be measured like this.
pub(crate) const SYSTEMS: &[System] = &[
    System::Bare,
    System::Podway,
    System::Linux,
    System::LinuxIptables,
    System::Ovs,
];

/// Measures all of it, systems in turn within each round; `said` is told of each.
pub(crate) fn measure(plan: &Plan, mut said: impl FnMut(&str)) -> anyhow::Result<Vec<Row>> {
    let turn = Turn::take()?;
    let systems = || plan.systems.iter().filter(|it| SYSTEMS.contains(it));
    let mut seen: Vec<(System, anyhow::Result<Vec<Sample>, String>)> = Vec::new();
    for round in 1..=plan.rounds {
        for &system in systems() {
            let failed =
                |it: &(System, Result<Vec<Sample>, String>)| it.0 == system && it.1.is_err();
            if seen.iter().any(failed) {
                continue;
            }
            let missing = system.not_installed().map_or(Ok(()), Err);
            let samples = missing.and_then(|()| {
                bed::samples(&turn, system, plan.time).map_err(|error| format!("failed: {error:#}"))
            });
            match &samples {
                Ok(samples) => samples.iter().for_each(|it| {
                    let (what, us) = (it.what, it.us);
                    said(&format!(
                        "round {round}: {system}, {what}: p50 {:.1} µs, p99 {:.1} µs",
                        us.p50, us.p99
                    ));
                }),
                Err(why) => said(&format!("round {round}: {system}: {why}")),
            }
            seen.push((system, samples));
        }
    }
    let whats = What::value_variants();
    let rows = systems().flat_map(|&system| whats.iter().map(move |&what| (system, what)));
    Ok(rows
        .map(|(system, what)| row(system, what, &seen))
        .collect())
}

fn row(system: System, what: What, seen: &[(System, Result<Vec<Sample>, String>)]) -> Row {
    let own = || seen.iter().filter(|(it, _)| *it == system);
    let missing = own().find_map(|(_, samples)| samples.as_ref().err().cloned());
    let samples: Vec<&Sample> = match missing {
        Some(_) => Vec::new(),
        None => own()
            .filter_map(|(_, samples)| samples.as_ref().ok())
            .flatten()
            .filter(|sample| sample.what == what)
            .collect(),
    };
    let of = |figure: fn(&Quantiles) -> f64| {
        let figures: Vec<f64> = samples.iter().map(|sample| figure(&sample.us)).collect();
        Summary::of(&figures)
    };
    let loads: Vec<f64> = samples
        .iter()
        .filter_map(|sample| sample.load_mpps)
        .collect();
    Row {
        system,
        what,
        p50_us: of(|us| us.p50),
        p99_us: of(|us| us.p99),
        p999_us: of(|us| us.p999),
        timed: samples.iter().map(|sample| sample.us.count).sum(),
        lost: samples.iter().map(|sample| sample.lost).sum(),
        load_mpps: Summary::of(&loads).map(|it| it.median),
        missing,
    }
}

/// The table.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut text = format!(
        "\n{:<14} {:<10} {:>8} {:>8} {:>8} {:>9} {:>6} {:>10}\n",
        "latency", "of", "p50 µs", "p99 µs", "p99.9 µs", "timed", "lost", "load Mpps"
    );
    for row in rows {
        let head = format!("{:<14} {:<10}", row.system, row.what);
        let figure = |figure: Option<Summary>| {
            figure.map_or("-".to_owned(), |it| format!("{:.1}", it.median))
        };
        let line = match &row.missing {
            Some(why) => format!("{head}  not measured: {why}"),
            None => format!(
                "{head} {:>8} {:>8} {:>8} {:>9} {:>6} {:>10}",
                figure(row.p50_us),
                figure(row.p99_us),
                figure(row.p999_us),
                row.timed,
                row.lost,
                row.load_mpps
                    .map_or("-".to_owned(), |load| format!("{load:.3}"))
            ),
        };
        text += line.trim_end();
        text += "\n";
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::process::alone;

    /// Datagrams and connections come through every system that is installed.
    #[test]
    fn every_system_answers_in_time() {
        let Some(_alone) = alone() else {
            return;
        };
        let plan = Plan {
            systems: SYSTEMS.to_vec(),
            rounds: 1,
            time: Duration::from_millis(50),
        };
        let rows = measure(&plan, |line| println!("{line}")).expect("rows");
        assert_eq!(rows.len(), 15);
        for row in &rows {
            let why = row.missing.as_deref().unwrap_or_default();
            assert!(row.p50_us.is_some() != row.missing.is_some(), "{row:?}");
            assert!(!why.starts_with("failed"), "{row:?}");
        }
    }
}
