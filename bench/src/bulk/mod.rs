//! TCP streams and HTTP requests from pod to pod, on one node and across two: podway beside its peers.

mod lab;
mod load;
mod peers;

use std::fmt;
use std::time::Duration;

use podway_host::Namespace;
use serde::{Deserialize, Serialize};

use crate::statistics::Summary;
use crate::wire::{System, Turn};

pub(crate) use self::lab::Lab;

/// Between which pods.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Place {
    SameNode,
    AcrossNodes,
}

/// Who carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Carrier {
    /// Agents of podway.
    Podway,
    /// A Linux bridge with all offloads.
    Bridge,
    /// Linux with a vxlan device and all offloads.
    Vxlan,
    /// The same without segmentation and receive offloads on the underlay, which AF_XDP does not have either.
    VxlanPlain,
    /// Open vSwitch with AF_XDP ports.
    Ovs,
}

/// What is measured at once.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Setting {
    pub(crate) carrier: Carrier,
    pub(crate) pod_mtu: u32,
    pub(crate) underlay_mtu: u32,
}

/// What a client does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Work {
    /// So many TCP streams (iperf3).
    Streams(u32),
    /// HTTP requests on 64 connections, 1 KiB each (wrk, nginx).
    Requests,
}

pub(crate) const WORKS: [Work; 3] = [Work::Streams(1), Work::Streams(8), Work::Requests];

/// All settings: what pods of podway send at most is what its labs default to.
pub(crate) const SETTINGS: [Setting; 9] = [
    setting(Carrier::Podway, 61_000, 1_500),
    setting(Carrier::Podway, 1_500, 1_500),
    setting(Carrier::Podway, 61_000, 9_000),
    setting(Carrier::Bridge, 1_500, 1_500),
    setting(Carrier::Vxlan, 1_450, 1_500),
    setting(Carrier::Vxlan, 8_950, 9_000),
    setting(Carrier::VxlanPlain, 1_450, 1_500),
    setting(Carrier::VxlanPlain, 8_950, 9_000),
    setting(Carrier::Ovs, 1_450, 1_500),
];

const fn setting(carrier: Carrier, pod_mtu: u32, underlay_mtu: u32) -> Setting {
    Setting {
        carrier,
        pod_mtu,
        underlay_mtu,
    }
}

impl Carrier {
    fn name(self) -> &'static str {
        match self {
            Carrier::Podway => "podway",
            Carrier::Bridge => "linux bridge",
            Carrier::Vxlan => "linux vxlan",
            Carrier::VxlanPlain => "linux vxlan, no GSO/GRO",
            Carrier::Ovs => "ovs",
        }
    }

    /// The system that has to be chosen for it to be measured.
    pub(crate) fn system(self) -> System {
        match self {
            Carrier::Podway => System::Podway,
            Carrier::Bridge | Carrier::Vxlan | Carrier::VxlanPlain => System::Linux,
            Carrier::Ovs => System::Ovs,
        }
    }
}

impl Setting {
    /// Between which pods it is measured: on one node, the wire to others is no matter.
    fn places(self) -> &'static [Place] {
        match self.carrier {
            Carrier::Podway if self.underlay_mtu > 1_500 => &[Place::AcrossNodes],
            Carrier::Podway | Carrier::Ovs => &[Place::SameNode, Place::AcrossNodes],
            Carrier::Bridge => &[Place::SameNode],
            Carrier::Vxlan | Carrier::VxlanPlain => &[Place::AcrossNodes],
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Place::SameNode => "same node",
            Place::AcrossNodes => "across",
        })
    }
}

impl fmt::Display for Work {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Work::Streams(1) => f.pad("1 stream"),
            Work::Streams(streams) => f.pad(&format!("{streams} streams")),
            Work::Requests => f.pad("requests"),
        }
    }
}

/// What is measured, and how long.
#[derive(Clone, Debug)]
pub(crate) struct Plan {
    pub(crate) systems: Vec<System>,
    pub(crate) settings: Vec<Setting>,
    pub(crate) works: Vec<Work>,
    pub(crate) rounds: usize,
    pub(crate) time: Duration,
}

/// What came of one kind of work in one setting.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Row {
    pub(crate) setting: Setting,
    pub(crate) place: Place,
    pub(crate) work: Work,
    /// Gbit/s, or thousands of requests a second; `None` if it was not measured.
    pub(crate) rate: Option<Summary>,
    /// The same of each round.
    pub(crate) rounds: Vec<f64>,
    /// Segments that were sent again in one run.
    pub(crate) retransmissions: Option<Summary>,
    /// Seconds of all cores for a gigabyte, beyond what the system takes when it is idle.
    pub(crate) cpu_s_per_gb: Option<Summary>,
    /// Why it was not measured.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) missing: Option<String>,
}

/// What one run came to.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sample {
    /// Gbit/s, or requests a second.
    pub(crate) rate: f64,
    pub(crate) bytes: f64,
    pub(crate) retransmissions: Option<f64>,
    pub(crate) cpu_s_per_gb: Option<f64>,
}

/// Pods that are joined by a carrier; it is gone with them.
pub(crate) struct Pods {
    pub(crate) client: Namespace,
    /// A server, and its address, in each place that the carrier reaches.
    pub(crate) servers: Vec<(Place, Namespace, String)>,
    /// What has to live as long.
    pub(crate) _carrier: Box<dyn std::any::Any>,
}

/// Measures all of it, settings in turn within each round; `said` is told of each run.
pub(crate) fn measure(plan: &Plan, mut said: impl FnMut(&str)) -> anyhow::Result<Vec<Row>> {
    let turn = Turn::take()?;
    let mut rows: Vec<Row> = plan
        .settings
        .iter()
        .filter(|setting| plan.systems.contains(&setting.carrier.system()))
        .flat_map(|&setting| {
            let places = setting.places().iter();
            places.flat_map(move |&place| {
                let works = plan.works.iter();
                works.map(move |&work| empty(setting, place, work))
            })
        })
        .collect();
    let mut samples: Vec<Vec<Sample>> = vec![Vec::new(); rows.len()];
    for round in 1..=plan.rounds {
        for &setting in &plan.settings {
            let own = |row: &Row| row.setting == setting && row.missing.is_none();
            if !rows.iter().any(own) {
                continue;
            }
            let failed = match pods(&turn, setting) {
                Err(error) => Some(format!("{error:#}")),
                Ok(pods) => {
                    let places = rows.iter().zip(&mut samples).filter(|(row, _)| own(row));
                    let mut all = places.map(|(row, samples)| (row.place, row.work, samples));
                    all.find_map(|(place, work, samples)| {
                        let sample = once(&pods, place, work, plan.time);
                        let carrier = setting.carrier.name();
                        match sample {
                            Err(error) => Some(format!("failed: {place}, {work}: {error:#}")),
                            Ok(sample) => {
                                said(&format!("round {round}: {carrier}, MTU {}, underlay {}: {place}, {work}: {:.2}",
                                    setting.pod_mtu, setting.underlay_mtu, sample.rate));
                                samples.push(sample);
                                None
                            }
                        }
                    })
                }
            };
            if let Some(why) = failed {
                said(&format!("round {round}: {}: {why}", setting.carrier.name()));
                let failed = rows.iter_mut().filter(|row| row.setting == setting);
                failed.for_each(|row| row.missing = Some(why.clone()));
            }
        }
    }
    for (row, samples) in rows.iter_mut().zip(&samples) {
        fill(row, samples);
    }
    Ok(rows)
}

fn pods(turn: &Turn, setting: Setting) -> anyhow::Result<Pods> {
    for (program, package) in [
        ("iperf3", "iperf3"),
        ("wrk", "wrk"),
        ("nginx", "nginx-light"),
    ] {
        anyhow::ensure!(
            crate::process::finds(program),
            "no `{program}` here: apt-get install {package}, or scripts/setup --bench"
        );
    }
    if let Some(missing) = setting.carrier.system().not_installed() {
        anyhow::bail!(missing);
    }
    match setting.carrier {
        Carrier::Podway => lab::pods(turn, setting),
        Carrier::Bridge => peers::bridge(turn),
        Carrier::Vxlan => peers::vxlan(turn, setting, peers::Offloads::All),
        Carrier::VxlanPlain => peers::vxlan(turn, setting, peers::Offloads::None),
        Carrier::Ovs => peers::ovs(turn, setting),
    }
}

fn once(pods: &Pods, place: Place, work: Work, time: Duration) -> anyhow::Result<Sample> {
    let mut servers = pods.servers.iter();
    let (_, server, address) = servers
        .find(|(its, ..)| *its == place)
        .expect("a server in each of the carrier's places");
    let _servers = load::Servers::start(server, address)?;
    load::run(&pods.client, address, work, time)
}

fn empty(setting: Setting, place: Place, work: Work) -> Row {
    Row {
        setting,
        place,
        work,
        rate: None,
        rounds: Vec::new(),
        retransmissions: None,
        cpu_s_per_gb: None,
        missing: None,
    }
}

fn fill(row: &mut Row, samples: &[Sample]) {
    if row.missing.is_some() {
        return;
    }
    let scale = match row.work {
        Work::Streams(_) => 1.0,
        Work::Requests => 1e-3,
    };
    row.rounds = samples.iter().map(|sample| sample.rate * scale).collect();
    row.rate = Summary::of(&row.rounds);
    let of = |figure: fn(&Sample) -> Option<f64>| {
        let figures: Vec<f64> = samples.iter().filter_map(figure).collect();
        Summary::of(&figures)
    };
    row.retransmissions = of(|sample| sample.retransmissions);
    row.cpu_s_per_gb = of(|sample| sample.cpu_s_per_gb);
}

/// The table.
pub(crate) fn text(rows: &[Row]) -> String {
    let mut text = format!(
        "\n{:<24} {:>7} {:>8} {:<10} {:<10} {:>14} {:>8} {:>8} {:>9}\n",
        "bulk", "pod MTU", "underlay", "place", "work", "rate", "spread", "re-sent", "CPU s/GB"
    );
    for row in rows {
        let Setting {
            carrier,
            pod_mtu,
            underlay_mtu,
        } = row.setting;
        let head = format!(
            "{:<24} {pod_mtu:>7} {underlay_mtu:>8} {:<10} {:<10}",
            carrier.name(),
            row.place,
            row.work
        );
        let line = match (row.rate, &row.missing) {
            (Some(rate), _) => {
                let unit = match row.work {
                    Work::Streams(_) => "Gbit/s",
                    Work::Requests => "k/s",
                };
                let figure = |figure: Option<Summary>, digits: usize| {
                    figure.map_or("-".to_owned(), |it| format!("{:.digits$}", it.median))
                };
                format!(
                    "{head} {:>7.2} {unit:<6} {:>6.1} % {:>8} {:>9}",
                    rate.median,
                    rate.spread_percent,
                    figure(row.retransmissions, 0),
                    figure(row.cpu_s_per_gb, 2)
                )
            }
            (None, missing) => format!(
                "{head}  not measured: {}",
                missing.as_deref().unwrap_or("no rounds")
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

    /// Streams and requests come through every carrier that is installed, on one node and across two.
    #[test]
    fn every_carrier_carries() {
        let Some(_alone) = alone() else {
            return;
        };
        let plan = Plan {
            systems: System::ALL.to_vec(),
            settings: SETTINGS
                .into_iter()
                .filter(|setting| setting.underlay_mtu == 1_500)
                .collect(),
            works: vec![Work::Streams(1), Work::Requests],
            rounds: 1,
            time: Duration::from_secs(1),
        };
        let rows = measure(&plan, |line| println!("{line}")).expect("rows");
        assert_eq!(rows.len(), 18);
        for row in &rows {
            let why = row.missing.as_deref().unwrap_or_default();
            assert!(row.rate.is_some() != row.missing.is_some(), "{row:?}");
            assert!(!why.starts_with("failed"), "{row:?}");
        }
    }
}
