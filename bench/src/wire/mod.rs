//! Packets through the kernel: what each system forwards in the same minutes of the same machine.

mod bed;
mod case;
mod churn;
mod count;
mod dataplane;
mod kube_proxy;
mod linux;
mod ovs;
mod source;
mod system;
mod workers;

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::ensure;
use podway_tables::PortKind;
use podway_wire::ETHERNET;
use serde::{Deserialize, Serialize};

use self::count::Sample;
use self::dataplane::Device;
use self::source::Ceiling;
use crate::cluster::{CHANGING, CLIENT, Isolation, SERVICE_PORT, UPLINK, facts};
use crate::statistics::Summary;

pub(crate) use self::bed::{Bed, End, PREFIX, Turn, feed, ip, sweep};
pub(crate) use self::case::{Case, Way};
pub(crate) use self::count::{Stream, count, settle};
pub(crate) use self::dataplane::Behind;
pub(crate) use self::kube_proxy::Shape;
pub(crate) use self::linux::{Rules, forwarding, receive_apart, translate};
pub(crate) use self::source::Pace;
pub(crate) use self::system::System;
pub(crate) use self::workers::{Elsewhere, Workers, beside};

/// The core that makes the traffic: the first source's.
pub(crate) const SOURCE_CORE: usize = 0;
/// Cores that are used.
const CORES: usize = 2;
const DEVICES: [Device; 2] = [
    (CLIENT, "in", PortKind::Pod(None)),
    (UPLINK, "wire", PortKind::Uplink),
];
/// At least this part of what comes back must have been translated.
const TRANSLATED: f64 = 0.99;

/// The core that a worker forwards on: not its source's, but with two of each, another's.
pub(crate) fn forwarder_core(worker: usize) -> usize {
    (SOURCE_CORE + 1 + worker) % CORES
}

/// What is measured, and how long.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) systems: Vec<System>,
    pub(crate) cases: Vec<Case>,
    /// Each system has one measurement in each round.
    pub(crate) rounds: usize,
    /// How long packets are counted.
    pub(crate) time: Duration,
}

/// What one system did in one case.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) system: System,
    pub(crate) way: Way,
    pub(crate) flows: u32,
    pub(crate) length: usize,
    pub(crate) workers: usize,
    /// Millions of packets a second that arrived; `None` if it was not measured.
    pub(crate) mpps: Option<Summary>,
    /// The same of each round.
    pub(crate) rounds: Vec<f64>,
    /// Millions of packets a second that were sent, the median.
    pub(crate) offered_mpps: Option<f64>,
    /// The median of its ratio to the bare forwarder of the same round.
    pub(crate) of_bare: Option<f64>,
    /// How much of its core's time the source or the forwarder had, the least of all rounds: below 1, others took
    /// part; `None` if they share cores.
    pub(crate) core_share: Option<f64>,
    /// What else was counted, from start to end of the last measurement.
    pub(crate) counted: BTreeMap<String, f64>,
    /// Why it was not measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) missing: Option<String>,
}

/// Measures all of it, systems in turn within each round; `said` is told of each measurement.
///
/// A system that fails is named with the reason, and the others go on.
pub(crate) fn measure(plan: &Plan, mut said: impl FnMut(&str)) -> anyhow::Result<Vec<Row>> {
    ensure!(
        core_affinity::get_core_ids().is_some_and(|cores| cores.len() >= CORES),
        "the wire needs two cores: one that sends, one that forwards"
    );
    let turn = Turn::take()?;
    let mut rows = Vec::new();
    for case in &plan.cases {
        let mut samples: BTreeMap<System, Vec<Sample>> = BTreeMap::new();
        let mut missing: BTreeMap<System, String> = BTreeMap::new();
        for &system in &plan.systems {
            missing.extend(system.missing(case).map(|why| (system, why)));
        }
        for round in 1..=plan.rounds {
            for &system in &plan.systems {
                if missing.contains_key(&system) {
                    continue;
                }
                match once(&turn, system, case, plan.time) {
                    Ok(sample) => {
                        said(&format!(
                            "round {round}: {system}, {case}: {:.3} Mpps",
                            sample.mpps
                        ));
                        samples.entry(system).or_default().push(sample);
                    }
                    Err(error) => {
                        said(&format!(
                            "round {round}: {system}, {case}: FAILED: {error:#}"
                        ));
                        samples.remove(&system);
                        missing.insert(system, format!("failed: {error:#}"));
                    }
                }
            }
        }
        let row = |&system| row(system, case, &samples, missing.get(&system).cloned());
        rows.extend(plan.systems.iter().map(row));
    }
    Ok(rows)
}

fn row(
    system: System,
    case: &Case,
    samples: &BTreeMap<System, Vec<Sample>>,
    missing: Option<String>,
) -> Row {
    let of = |system| samples.get(&system).map(Vec::as_slice).unwrap_or_default();
    let (own, bare) = (of(system), of(System::Bare));
    let median = |figures: Vec<f64>| Summary::of(&figures).map(|it| it.median);
    let rounds: Vec<f64> = own.iter().map(|sample| sample.mpps).collect();
    let of_bare = own.iter().zip(bare).map(|(it, bare)| it.mpps / bare.mpps);
    Row {
        system,
        way: case.way,
        flows: case.flows,
        length: case.length,
        workers: case.workers,
        mpps: Summary::of(&rounds),
        rounds,
        offered_mpps: median(own.iter().map(|sample| sample.offered_mpps).collect()),
        of_bare: median(of_bare.collect()),
        core_share: own
            .iter()
            .map(|sample| sample.core_share)
            .reduce(f64::min)
            .filter(|_| case.workers == 1),
        counted: own
            .last()
            .map(|sample| sample.counted.clone())
            .unwrap_or_default(),
        missing,
    }
}

/// Builds a bed, lets one system forward on it, counts and takes it down.
fn once(turn: &Turn, system: System, case: &Case, time: Duration) -> anyhow::Result<Sample> {
    let bed = Bed::make(turn, case.workers)?;
    let stream = case.stream();
    let (from, to) = case.ends();
    if system != System::Devmap {
        bed.count(to, &expected(system, case.way))?;
    }
    let at_end = || bed.arrived(to).map(|arrived| arrived.packets);
    let counted = || {
        if case.way == Way::Back && system.translates() {
            let at_wire = || bed.arrived(from).map(|arrived| arrived.packets);
            bed.count(from, "")?;
            case.out().introduce(&bed, &at_wire)?;
        }
        count(&bed, &stream, time, &at_end)
    };
    let workers = |behind, elsewhere| {
        let scale = match elsewhere {
            Elsewhere::Quiet => case.scale(),
            Elsewhere::Changing => CHANGING,
        };
        let workers = Workers {
            behind,
            count: case.workers,
            room: case.room(),
            devices: DEVICES,
            elsewhere,
        };
        let beside = beside(&bed, workers, facts(scale, Isolation::Isolated), counted)?;
        Ok::<_, anyhow::Error>(Sample {
            core_share: beside.core_share.min(beside.measured.core_share),
            counted: beside.counted,
            ..beside.measured
        })
    };
    let sample = match system {
        System::Bare => workers(Behind::Nothing, Elsewhere::Quiet)?,
        System::Podway => workers(Behind::Engine, Elsewhere::Quiet)?,
        System::PodwayChurn => workers(Behind::Engine, Elsewhere::Changing)?,
        System::Devmap => {
            let ceiling = Ceiling::attach(&bed, from, to)?;
            return count(&bed, &stream, time, &|| ceiling.sunk());
        }
        System::Linux => {
            linux::configure(&bed, Rules::Nftables, case)?;
            counted()?
        }
        System::LinuxIptables => {
            linux::configure(&bed, Rules::Iptables, case)?;
            counted()?
        }
        System::Ovs => {
            let _switch = ovs::start(&bed, case)?;
            counted()?
        }
        System::Vpp => anyhow::bail!("it is not built here"),
    };
    check(&bed, system, case)?;
    Ok(sample)
}

/// What of the arriving packets is as it should be, in the words of nftables.
fn expected(system: System, way: Way) -> String {
    match (way, system.translates()) {
        (Way::Back, true) => format!("udp sport {SERVICE_PORT}"),
        (Way::Back, false) | (Way::Out | Way::Fresh, _) => String::new(),
    }
}

/// An error unless all was done to the packets that was to be done.
fn check(bed: &Bed, system: System, case: &Case) -> anyhow::Result<()> {
    let (_, to) = case.ends();
    let arrived = bed.arrived(to)?;
    let packets = arrived.packets.max(1) as f64;
    let part = packets / (packets + arrived.others as f64);
    ensure!(
        part >= TRANSLATED,
        "only {:.0} % of what came back was translated",
        part * 100.0
    );
    let expected = system.length_at_end(case) - ETHERNET;
    let length = arrived.bytes as f64 / packets;
    // A stray packet among millions is no matter.
    ensure!(
        (length - expected as f64).abs() < 1.0,
        "packets of {length:.1} instead of {expected} bytes arrived: not what was to be measured"
    );
    Ok(())
}

#[cfg(test)]
mod tests {
    use podway_host::Namespace;

    use super::*;
    use crate::process::alone;

    /// What arrives is of the right length, or measuring fails; the engine counts what it did.
    #[test]
    fn every_system_forwards_what_it_should() {
        let Some(_alone) = alone() else {
            return;
        };
        let rows = forwarded(System::ALL, Way::Out, 1);
        let counted = &rows[1].counted;
        assert_eq!(counted["flow-miss"], 100.0, "{counted:?}");
        assert_eq!(
            counted["tunnel-pushed"], counted["transmitted"],
            "{counted:?}"
        );
        let rows = forwarded(&[System::Podway, System::Linux, System::Ovs], Way::Back, 1);
        let counted = &rows[0].counted;
        assert_eq!(counted["flow-miss"], 100.0, "{counted:?}");
        let rows = forwarded(&[System::Podway], Way::Fresh, 1);
        let counted = &rows[0].counted;
        assert_eq!(counted["flow-miss"], counted["received"], "{counted:?}");
        forwarded(&[System::Podway], Way::Out, 2);
        assert!(Namespace::names(PREFIX).is_empty());
    }

    /// What systems did for a moment: all of it, unless they are not installed.
    fn forwarded(systems: &[System], way: Way, workers: usize) -> Vec<Row> {
        let case = Case {
            way,
            flows: 100,
            length: 64,
            workers,
        };
        let plan = Plan {
            systems: systems.to_vec(),
            cases: vec![case],
            rounds: 1,
            time: Duration::from_millis(100),
        };
        let rows = measure(&plan, |line| println!("{line}")).expect("rows");
        for row in &rows {
            let why = row.missing.as_deref().unwrap_or_default();
            assert!(row.mpps.is_some() != row.missing.is_some(), "{row:?}");
            assert!(!why.starts_with("failed"), "{row:?}");
        }
        rows
    }
}
