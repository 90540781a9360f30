//! Packets through the kernel: what each system forwards in the same minutes of the same machine.

mod bed;
mod count;
mod dataplane;
mod linux;
mod ovs;
mod source;

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, channel};
use std::thread;
use std::time::Duration;

use anyhow::{Context, anyhow, ensure};
use clap::ValueEnum;
use podway_wire::{ETHERNET, Family, vxlan};
use serde::{Deserialize, Serialize};

use self::bed::{Bed, Turn};
use self::count::{CoreShare, Sample, Sunk, count, settle};
use self::dataplane::{Behind, forward};
use self::ovs::OpenVswitch;
use self::source::Ceiling;
use crate::cluster::{CLIENT_ADDRESS, CLIENT_MAC, GATEWAY_MAC, REMOTE_SERVICE, SERVICE_PORT};
use crate::packets::{Ends, Traffic, Varied};
use crate::statistics::Summary;

/// The core that makes the traffic, and the one that forwards it.
const SOURCE_CORE: usize = 0;
const FORWARDER_CORE: usize = 1;
/// Flows at most that Linux's table takes, whose size can't be set for a namespace.
const LINUX_FLOWS: u32 = 200_000;
/// How long a forwarder may take to be ready.
const PATIENCE: Duration = Duration::from_secs(20);

/// Who forwards.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, ValueEnum, Serialize, Deserialize,
)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum System {
    /// AF_XDP in copy mode, nothing done to packets: the limit of any AF_XDP dataplane here.
    Bare,
    /// podway: service, policies of a hundred rules, and VXLAN.
    Podway,
    /// XDP redirect through a devmap: the kernel's ceiling, no userspace.
    Devmap,
    /// Linux: kube-proxy's nftables DNAT and a vxlan device.
    Linux,
    /// Open vSwitch with AF_XDP ports.
    Ovs,
}

impl System {
    /// All of them, in the order of reports.
    pub(crate) const ALL: &'static [System] = &[
        System::Bare,
        System::Podway,
        System::Devmap,
        System::Linux,
        System::Ovs,
    ];

    /// How long a packet of `length` bytes is when it arrives, if all that was to be done to it was done.
    fn length_at_sink(self, length: usize) -> usize {
        match self {
            System::Bare | System::Devmap => length,
            System::Podway | System::Linux | System::Ovs => length + vxlan::overhead(Family::V4),
        }
    }

    /// Why it can't be measured here, if so.
    pub(crate) fn missing(self, flows: u32) -> Option<String> {
        match self {
            System::Bare | System::Podway | System::Devmap => None,
            System::Linux if flows > LINUX_FLOWS => Some(format!(
                "more than {LINUX_FLOWS} flows need nf_conntrack_max, which is the whole machine's"
            )),
            System::Linux => lacks("ethtool", "ethtool"),
            System::Ovs => lacks("ovs-vswitchd", "openvswitch-switch"),
        }
    }
}

impl fmt::Display for System {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.to_possible_value().expect("none is hidden").get_name())
    }
}

/// What is measured, and how long.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) systems: Vec<System>,
    pub(crate) flows: Vec<u32>,
    /// Length of the packets in bytes, Ethernet header included.
    pub(crate) length: usize,
    /// Each system has one measurement in each round.
    pub(crate) rounds: usize,
    /// How long packets are counted.
    pub(crate) time: Duration,
}

/// What one system did at one number of flows.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) system: System,
    pub(crate) flows: u32,
    pub(crate) length: usize,
    /// Millions of packets a second at the sink; `None` if it was not measured.
    pub(crate) mpps: Option<Summary>,
    /// Millions of packets a second that the source sent, the median.
    pub(crate) offered_mpps: Option<f64>,
    /// The median of its ratio to the bare forwarder of the same round.
    pub(crate) of_bare: Option<f64>,
    /// How much of its core's time the source or the forwarder had, the least of all rounds: below 1, others took part.
    pub(crate) core_share: Option<f64>,
    /// What else was counted, from start to end of the last measurement.
    pub(crate) counted: BTreeMap<String, f64>,
    /// Why it was not measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) missing: Option<String>,
}

/// Measures all of it, systems in turn within each round; `said` is told of each measurement.
pub(crate) fn measure(plan: &Plan, mut said: impl FnMut(&str)) -> anyhow::Result<Vec<Row>> {
    ensure!(
        core_affinity::get_core_ids().is_some_and(|cores| cores.len() > FORWARDER_CORE),
        "the wire needs two cores: one that sends, one that forwards"
    );
    let turn = Turn::take()?;
    let mut rows = Vec::new();
    for &flows in &plan.flows {
        let mut samples: BTreeMap<System, Vec<Sample>> = BTreeMap::new();
        for round in 1..=plan.rounds {
            for &system in plan.systems.iter().filter(|it| it.missing(flows).is_none()) {
                let sample = once(&turn, system, flows, plan)
                    .with_context(|| format!("{system} at {flows} flows"))?;
                said(&format!(
                    "round {round}: {system}, {flows} flows: {:.3} Mpps",
                    sample.mpps
                ));
                samples.entry(system).or_default().push(sample);
            }
        }
        rows.extend(
            plan.systems
                .iter()
                .map(|&system| row(system, flows, plan.length, &samples)),
        );
    }
    Ok(rows)
}

fn row(system: System, flows: u32, length: usize, samples: &BTreeMap<System, Vec<Sample>>) -> Row {
    let own = samples.get(&system).map(Vec::as_slice).unwrap_or_default();
    let bare = samples
        .get(&System::Bare)
        .map(Vec::as_slice)
        .unwrap_or_default();
    let median = |figures: Vec<f64>| Summary::of(&figures);
    Row {
        system,
        flows,
        length,
        mpps: median(own.iter().map(|sample| sample.mpps).collect()),
        offered_mpps: median(own.iter().map(|sample| sample.offered_mpps).collect())
            .map(|it| it.median),
        of_bare: median(
            own.iter()
                .zip(bare)
                .map(|(it, bare)| it.mpps / bare.mpps)
                .collect(),
        )
        .map(|it| it.median),
        core_share: own.iter().map(|sample| sample.core_share).reduce(f64::min),
        counted: own
            .last()
            .map(|sample| sample.counted.clone())
            .unwrap_or_default(),
        missing: system.missing(flows),
    }
}

/// Builds a bed, lets one system forward on it, counts and takes it down.
fn once(turn: &Turn, system: System, flows: u32, plan: &Plan) -> anyhow::Result<Sample> {
    let bed = Bed::make(turn)?;
    let ends = Ends {
        source_mac: CLIENT_MAC,
        target_mac: GATEWAY_MAC,
        source: CLIENT_ADDRESS,
        target: REMOTE_SERVICE,
        target_port: SERVICE_PORT,
    };
    let traffic = Traffic::udp(&ends, Varied::Target, plan.length, flows);
    let at_sink = || bed.sunk().map(|sunk| sunk.packets);
    let sample = match system {
        System::Bare => beside_worker(&bed, Behind::Nothing, &traffic, plan.time, &at_sink)?,
        System::Podway => beside_worker(&bed, Behind::Engine, &traffic, plan.time, &at_sink)?,
        System::Devmap => {
            let ceiling = Ceiling::attach(&bed)?;
            return count(&bed, &traffic, plan.time, &|| ceiling.sunk());
        }
        System::Linux => {
            linux::configure(&bed)?;
            count(&bed, &traffic, plan.time, &at_sink)?
        }
        System::Ovs => {
            let _switch = OpenVswitch::start(&bed)?;
            count(&bed, &traffic, plan.time, &at_sink)?
        }
    };
    let expected = system.length_at_sink(plan.length) - ETHERNET;
    let sunk = bed.sunk()?;
    let length = sunk.bytes as f64 / sunk.packets.max(1) as f64;
    // A stray packet among millions is no matter.
    ensure!(
        (length - expected as f64).abs() < 1.0,
        "packets of {length:.1} instead of {expected} bytes arrived: not what was to be measured"
    );
    Ok(sample)
}

/// Counts while a worker of podway's forwards.
fn beside_worker(
    bed: &Bed,
    behind: Behind,
    traffic: &Traffic,
    time: Duration,
    at_sink: Sunk<'_>,
) -> anyhow::Result<Sample> {
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (ready, is_ready) = channel();
        let stop = &stop;
        let worker = scope.spawn(move || {
            settle(&bed.node, FORWARDER_CORE)?;
            let share = CoreShare::start();
            let counted = forward(behind, traffic.flows(), stop, &ready)?;
            Ok::<_, anyhow::Error>((counted, share.end()))
        });
        let sample = match is_ready.recv_timeout(PATIENCE) {
            Ok(()) => count(bed, traffic, time, at_sink),
            Err(RecvTimeoutError::Timeout) => {
                Err(anyhow!("the worker is not ready after {PATIENCE:?}"))
            }
            // Its own error says more.
            Err(RecvTimeoutError::Disconnected) => Err(anyhow!("the worker ended")),
        };
        stop.store(true, Ordering::Relaxed);
        let (counted, share) = worker.join().expect("the worker does not panic")?;
        let sample = sample?;
        let core_share = sample.core_share.min(share);
        Ok(Sample {
            counted,
            core_share,
            ..sample
        })
    })
}

/// Says how to get a program that is not there.
fn lacks(program: &str, package: &str) -> Option<String> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let mut directories = std::env::split_paths(&path).chain(["/usr/sbin".into(), "/sbin".into()]);
    match directories.any(|directory| directory.join(program).is_file()) {
        true => None,
        false => Some(format!(
            "no `{program}` here: install the package {package}"
        )),
    }
}

#[cfg(test)]
mod tests {
    use podway_cni::Namespace;

    use super::*;

    /// What arrives is of the right length, or measuring fails; the engine counts what it did.
    #[test]
    #[ignore = "as root, keeps two cores busy for half a minute: cargo test -p podway-bench -- --ignored"]
    fn every_system_forwards_what_it_should() {
        let plan = Plan {
            systems: System::ALL.to_vec(),
            flows: vec![100],
            length: 64,
            rounds: 1,
            time: Duration::from_millis(200),
        };
        let rows = measure(&plan, |_| ()).expect("rows");
        for row in &rows {
            assert!(row.mpps.is_some() != row.missing.is_some(), "{row:?}");
        }
        let counted = &rows[1].counted;
        assert_eq!(counted["flow-miss"], 100.0, "{counted:?}");
        assert_eq!(
            counted["tunnel-pushed"], counted["transmitted"],
            "{counted:?}"
        );
        assert!(Namespace::names("podway-bench-").is_empty());
    }
}
