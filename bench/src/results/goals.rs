//! The goals, and what a report says of each.

use crate::bulk::{self, Carrier, Place, Setting, Work};
use crate::footprint::{self, endpoint_ratios};
use crate::pipeline::Kind;
use crate::report::{Report, UNDISTURBED};
use crate::statistics::Summary;
use crate::wire::{Row, System, Way};

/// What has to hold of a figure.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Bound {
    AtLeast(f64),
    AtMost(f64),
}

/// A goal, and its figure of each round.
#[derive(Clone, Debug)]
pub(super) struct Goal {
    pub(super) what: String,
    pub(super) bound: Bound,
    pub(super) unit: &'static str,
    pub(super) figures: Vec<f64>,
    /// What the peers did in the same run.
    pub(super) beside: String,
    /// Why there are no figures, if there are none.
    pub(super) missing: String,
}

impl Goal {
    /// The figures' summary, or why there is none.
    pub(super) fn summary(&self) -> Result<Summary, String> {
        Summary::of(&self.figures).ok_or_else(|| self.missing.clone())
    }

    /// True if a figure is as it should be.
    pub(super) fn is_reached(&self, figure: f64) -> bool {
        match self.bound {
            Bound::AtLeast(least) => figure >= least,
            Bound::AtMost(most) => figure <= most,
        }
    }

    pub(super) fn bound_text(&self) -> String {
        let (sign, bound) = match self.bound {
            Bound::AtLeast(least) => ("≥", least),
            Bound::AtMost(most) => ("≤", most),
        };
        format!("{sign} {bound} {}", self.unit)
            .trim_end()
            .to_owned()
    }

    /// A figure with as many digits as mean something.
    pub(super) fn number(&self, figure: f64) -> String {
        let digits = match figure.abs() {
            figure if figure >= 1_000.0 => 0,
            figure if figure >= 10.0 => 1,
            figure if figure >= 1.0 => 2,
            _ => 3,
        };
        format!("{figure:.digits$} {}", self.unit)
            .trim_end()
            .to_owned()
    }
}

/// All goals (PERFORMANCE), in its order.
pub(super) fn goals(report: &Report) -> Vec<Goal> {
    let mut goals = Vec::new();
    for flows in [1, 1_000, 20_000, 1_000_000] {
        goals.push(beside(report, System::Bare, flows, 0.97));
    }
    goals.push(beside(report, System::Ovs, 1, 1.05));
    goals.push(beside(report, System::Ovs, 20_000, 1.5));
    goals.push(beside(report, System::Vpp, 1_000, 1.14));
    goals.push(beside(report, System::Vpp, 20_000, 1.25));
    goals.push(beside(report, System::Linux, 1, 2.7));
    goals.push(beside(report, System::Linux, 20_000, 3.0));
    goals.push(churn(report));
    goals.extend(pipeline(report));
    goals.extend(control(report));
    goals.extend(bulk_goals(report));
    goals.extend(footprint_goals(report));
    goals
}

/// The row of small packets on their way out through one worker.
fn row(report: &Report, system: System, flows: u32) -> Option<&Row> {
    report.wire.iter().find(|row| {
        (row.system, row.way, row.flows, row.length, row.workers)
            == (system, Way::Out, flows, 64, 1)
    })
}

fn ratios(these: &[f64], those: &[f64]) -> Vec<f64> {
    these
        .iter()
        .zip(those)
        .map(|(this, that)| this / that)
        .collect()
}

fn missing(row: Option<&Row>, otherwise: &str) -> String {
    row.and_then(|row| row.missing.clone())
        .unwrap_or_else(|| otherwise.to_owned())
}

/// podway against another system, round by round.
fn beside(report: &Report, other: System, flows: u32, least: f64) -> Goal {
    let (own, its) = (
        row(report, System::Podway, flows),
        row(report, other, flows),
    );
    let rounds = |row: Option<&Row>| row.map(|row| row.rounds.clone()).unwrap_or_default();
    let mpps = |row: Option<&Row>| row.and_then(|row| row.mpps).map(|it| it.median);
    let figure = |row| mpps(row).map_or("-".to_owned(), |mpps| format!("{mpps:.3} Mpps"));
    Goal {
        what: format!("service, policies and VXLAN, one worker, {flows} flows: against {other}"),
        bound: Bound::AtLeast(least),
        unit: "",
        figures: ratios(&rounds(own), &rounds(its)),
        beside: format!(
            "podway {}, {other} {}{}",
            figure(own),
            figure(its),
            disturbed(&[own, its])
        ),
        missing: other.not_installed().unwrap_or_else(|| missing(its, "-")),
    }
}

/// Says so if others had a part of the cores: such figures are worth nothing.
fn disturbed(rows: &[Option<&Row>]) -> &'static str {
    let mut shares = rows.iter().flatten().filter_map(|row| row.core_share);
    match shares.any(|share| share < UNDISTURBED) {
        true => "; DISTURBED",
        false => "",
    }
}

fn churn(report: &Report) -> Goal {
    let flows = 1_000;
    let rounds = |system| {
        row(report, system, flows)
            .map(|row| row.rounds.clone())
            .unwrap_or_default()
    };
    let changing = row(report, System::PodwayChurn, flows);
    let speed = changing.and_then(|row| row.counted.get("endpoints-a-second"));
    Goal {
        what: "throughput while 10 000 endpoints a second change elsewhere, of quiet".to_owned(),
        bound: Bound::AtLeast(0.9),
        unit: "",
        figures: ratios(&rounds(System::PodwayChurn), &rounds(System::Podway)),
        beside: speed.map_or("-".to_owned(), |speed| {
            let quiet = row(report, System::Podway, flows);
            format!("{speed:.0} endpoints/s{}", disturbed(&[changing, quiet]))
        }),
        missing: missing(changing, "-"),
    }
}

/// Times of the engine alone; only their median is kept, with the spread of its repetitions beside it.
fn pipeline(report: &Report) -> Vec<Goal> {
    let ns = |kind, flows| {
        let mut rows = report.pipeline.iter();
        rows.find(|row| (row.kind, row.flows) == (kind, flows))
            .and_then(|row| row.ns)
    };
    let goal = |what: &str, kind, flows, most| {
        let ns = ns(kind, flows);
        Goal {
            what: what.to_owned(),
            bound: Bound::AtMost(most),
            unit: "ns",
            figures: ns.map(|ns| ns.median).into_iter().collect(),
            beside: ns.map_or("-".to_owned(), |ns| {
                format!("spread of repetitions {:.1} %", ns.spread_percent)
            }),
            missing: "-".to_owned(),
        }
    };
    let (large, small) = (ns(Kind::MissLarge, 20_000), ns(Kind::Miss, 20_000));
    let ratio = large
        .zip(small)
        .map(|(large, small)| large.median / small.median);
    vec![
        goal(
            "pipeline, hit with NAT and VXLAN, 1 000 flows",
            Kind::NatPush,
            1_000,
            45.0,
        ),
        goal("the same, 1 000 000 flows", Kind::NatPush, 1_000_000, 80.0),
        goal(
            "miss among 10 000 services, 100 000 endpoints, 4 800 policies",
            Kind::MissLarge,
            20_000,
            500.0,
        ),
        Goal {
            what: "the same against a miss among 20 services".to_owned(),
            bound: Bound::AtMost(1.3),
            unit: "",
            figures: ratio.into_iter().collect(),
            beside: "-".to_owned(),
            missing: "-".to_owned(),
        },
        Goal {
            what: "miss among 4 800 policies, against 10".to_owned(),
            bound: Bound::AtMost(crate::policies::GOAL),
            unit: "",
            figures: report
                .policies
                .iter()
                .map(|figures| figures.ratio())
                .collect(),
            beside: "-".to_owned(),
            missing: "-".to_owned(),
        },
    ]
}

fn control(report: &Report) -> Vec<Goal> {
    let goal = |what: &str, most, unit, figure: fn(&crate::follow::Figures) -> f64| Goal {
        what: what.to_owned(),
        bound: Bound::AtMost(most),
        unit,
        figures: report.cluster.iter().map(figure).collect(),
        beside: "-".to_owned(),
        missing: "-".to_owned(),
    };
    vec![
        goal(
            "compile everything: 10 000 services, 100 000 endpoints",
            1_000.0,
            "ms",
            |it| it.compile_ms,
        ),
        goal(
            "one endpoint changed: compiled and published, p50",
            2.0,
            "ms",
            |it| it.tables_ms.p50,
        ),
        goal("the same, p99", 2.0, "ms", |it| it.tables_ms.p99),
        goal("memory of control at that size", 150.0, "MB", |it| {
            it.memory_mb
        }),
    ]
}

fn bulk_goals(report: &Report) -> Vec<Goal> {
    let row = |carrier, mtu, place| {
        report.bulk.iter().find(|row| {
            let Setting {
                carrier: its,
                pod_mtu,
                underlay_mtu,
            } = row.setting;
            (its, pod_mtu, underlay_mtu) == (carrier, mtu, 1_500)
                && (row.place, row.work) == (place, Work::Streams(1))
        })
    };
    let figure = |row: Option<&bulk::Row>| {
        let rate = row.and_then(|row| row.rate);
        rate.map_or("-".to_owned(), |rate| format!("{:.2} Gbit/s", rate.median))
    };
    let goal = |what: &str, place, least, (carrier, mtu): (Carrier, u32), beside: String| {
        let (own, its) = (
            row(Carrier::Podway, 61_000, place),
            row(carrier, mtu, place),
        );
        let rounds =
            |row: Option<&bulk::Row>| row.map(|row| row.rounds.clone()).unwrap_or_default();
        let missing = its.and_then(|row| row.missing.clone());
        Goal {
            what: what.to_owned(),
            bound: Bound::AtLeast(least),
            unit: "",
            figures: ratios(&rounds(own), &rounds(its)),
            beside: format!("podway {}, {}{beside}", figure(own), figure(its)),
            missing: missing.unwrap_or_else(|| "-".to_owned()),
        }
    };
    let vxlan = figure(row(Carrier::Vxlan, 1_450, Place::AcrossNodes));
    let plain = figure(row(Carrier::VxlanPlain, 1_450, Place::AcrossNodes));
    let linux = format!("; Linux vxlan {vxlan}, without GSO and GRO {plain}");
    vec![
        goal(
            "bulk TCP, same node, against the Linux bridge with all offloads",
            Place::SameNode,
            0.8,
            (Carrier::Bridge, 1_500),
            String::new(),
        ),
        goal(
            "the same against Open vSwitch AF_XDP",
            Place::SameNode,
            4.0,
            (Carrier::Ovs, 1_450),
            String::new(),
        ),
        goal(
            "bulk TCP, across nodes over VXLAN, against Open vSwitch AF_XDP",
            Place::AcrossNodes,
            2.0,
            (Carrier::Ovs, 1_450),
            linux,
        ),
    ]
}

fn footprint_goals(report: &Report) -> Vec<Goal> {
    let goal = |what: &str, most, unit, figures: Vec<f64>, beside: String| Goal {
        what: what.to_owned(),
        bound: Bound::AtMost(most),
        unit,
        figures,
        beside,
        missing: "-".to_owned(),
    };
    let of = |figure: fn(&footprint::Figures) -> f64| -> Vec<f64> {
        report.footprint.iter().map(figure).collect()
    };
    let ns = |figure| {
        Summary::of(&of(figure)).map_or("-".to_owned(), |ns| format!("{:.0} ns", ns.median))
    };
    let costs = format!("{} against {}", ns(|it| it.many_ns), ns(|it| it.few_ns));
    vec![
        // As fast, but for what tables that no cache holds cost.
        goal(
            "first packet to a service with 100 000 endpoints, against 10",
            1.1,
            "",
            endpoint_ratios(&report.footprint),
            costs,
        ),
        goal(
            "memory of a flow entry",
            footprint::FLOW_GOAL_BYTES,
            "B",
            of(|it| it.flow_bytes),
            "with the index that finds it; its slot alone is 128 B".to_owned(),
        ),
        goal(
            "memory of a pod and worker",
            footprint::POD_GOAL_MIB,
            "MiB",
            of(|it| it.pod_mib),
            "-".to_owned(),
        ),
        goal(
            "idle node with 110 pods, of a core",
            footprint::IDLE_GOAL_PERCENT,
            "%",
            of(|it| it.idle.core_percent),
            "-".to_owned(),
        ),
    ]
}
