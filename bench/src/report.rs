//! What is printed and kept of a run, and what moved since the baseline.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context, ensure};
use serde::{Deserialize, Serialize};

use crate::machine::Machine;
use crate::statistics::percent;
use crate::{bulk, follow, footprint, latency, pipeline, policies, wire};

/// Changes below this, in per cent, are not told.
const MOVED_PERCENT: f64 = 2.0;
/// Below this share of its core a measured thread was held up by others.
pub(crate) const UNDISTURBED: f64 = 0.97;

/// One run: where, how, and what came of it.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Report {
    pub(crate) machine: Machine,
    /// How long and how often things were measured, in words.
    pub(crate) settings: String,
    /// Versions of what podway is compared with.
    #[serde(default)]
    pub(crate) peers: BTreeMap<String, String>,
    /// The engine alone.
    pub(crate) pipeline: Vec<pipeline::Row>,
    /// Through the kernel.
    pub(crate) wire: Vec<wire::Row>,
    /// How long things take.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) latency: Vec<latency::Row>,
    /// How much TCP and HTTP carry.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) bulk: Vec<bulk::Row>,
    /// What policies cost.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub(crate) policies: Option<policies::Figures>,
    /// What following a large cluster costs.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) cluster: Vec<follow::Figures>,
    /// What flows, pods and an idle node cost.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub(crate) footprint: Vec<footprint::Figures>,
}

impl Report {
    /// A report of nothing yet.
    pub(crate) fn empty(machine: Machine) -> Report {
        Report {
            machine,
            settings: String::new(),
            peers: BTreeMap::new(),
            pipeline: Vec::new(),
            wire: Vec::new(),
            latency: Vec::new(),
            bulk: Vec::new(),
            policies: None,
            cluster: Vec::new(),
            footprint: Vec::new(),
        }
    }

    /// This report with the parts that another has, in their place; an error if they are of two machines or commits.
    pub(crate) fn with(self, other: Report) -> anyhow::Result<Report> {
        let is_same =
            self.machine.is_like(&other.machine) && self.machine.commit == other.machine.commit;
        ensure!(
            is_same,
            "a report of another machine, kernel, build or commit"
        );
        let settings = match self.settings == other.settings {
            true => self.settings,
            false => format!("{}; {}", self.settings, other.settings),
        };
        Ok(Report {
            machine: self.machine,
            settings,
            peers: self.peers,
            pipeline: or(other.pipeline, self.pipeline),
            wire: rows(self.wire, other.wire),
            latency: or(other.latency, self.latency),
            bulk: or(other.bulk, self.bulk),
            policies: other.policies.or(self.policies),
            cluster: or(other.cluster, self.cluster),
            footprint: or(other.footprint, self.footprint),
        })
    }

    /// Reads a report that was written before.
    pub(crate) fn read(path: &Path) -> anyhow::Result<Report> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("{}: cannot read it", path.display()))?;
        serde_json::from_str(&text)
            .with_context(|| format!("{}: not a report of this version", path.display()))
    }

    /// Writes the report, and makes its directory if that is missing.
    pub(crate) fn write(&self, path: &Path) -> anyhow::Result<()> {
        let failed = || format!("{}: cannot write it", path.display());
        let text = serde_json::to_string_pretty(self).with_context(failed)? + "\n";
        fs::create_dir_all(path.parent().unwrap_or(Path::new("."))).with_context(failed)?;
        fs::write(path, text).with_context(failed)
    }

    /// Keeps the report among others in a directory, and as the latest; where the first is.
    pub(crate) fn keep(&self, directory: &Path) -> anyhow::Result<PathBuf> {
        self.write(&directory.join("latest.json"))?;
        let path = directory.join(format!(
            "{}-{}.json",
            self.machine.time_s, self.machine.commit
        ));
        self.write(&path)?;
        Ok(path)
    }

    /// The tables.
    pub(crate) fn text(&self) -> String {
        let Machine {
            cpu,
            cores,
            kernel,
            commit,
            profile,
            busy_percent,
            ..
        } = &self.machine;
        let mut text = format!(
            "{cpu}, {cores} cores, Linux {kernel}; commit {commit} ({profile}), {busy_percent:.0} % busy before\n"
        );
        writeln!(text, "{}", self.settings).expect("a string takes all");
        if !self.pipeline.is_empty() {
            text += &self.pipeline_text();
        }
        if !self.wire.is_empty() {
            text += &self.wire_text();
        }
        if !self.latency.is_empty() {
            text += &latency::text(&self.latency);
        }
        if !self.bulk.is_empty() {
            text += &bulk::text(&self.bulk);
        }
        if let Some(figures) = &self.policies {
            text += &figures.text();
        }
        for figures in &self.cluster {
            text += &figures.text();
        }
        if !self.footprint.is_empty() {
            text += &footprint::text(&self.footprint);
        }
        text
    }

    fn pipeline_text(&self) -> String {
        let mut text = format!(
            "\n{:<12} {:>9} {:>10} {:>8} {:>13}\n",
            "pipeline", "flows", "ns/packet", "spread", "instr/packet"
        );
        for row in &self.pipeline {
            let cells = row.ns.map_or(["-".to_owned(), "-".to_owned()], |ns| {
                [
                    format!("{:.1}", ns.median),
                    format!("{:.1} %", ns.spread_percent),
                ]
            });
            let instructions = row
                .instructions
                .map_or("-".to_owned(), |count| format!("{count:.1}"));
            let [ns, spread] = cells;
            writeln!(
                text,
                "{:<12} {:>9} {ns:>10} {spread:>8} {instructions:>13}",
                row.kind, row.flows
            )
            .expect("a string takes all");
        }
        text
    }

    fn wire_text(&self) -> String {
        let mut text = format!(
            "\n{:<14} {:<5} {:>9} {:>6} {:>7} {:>7} {:>8} {:>8} {:>8}  {}\n",
            "wire",
            "way",
            "flows",
            "bytes",
            "workers",
            "Mpps",
            "spread",
            "of bare",
            "offered",
            "counted"
        );
        for row in &self.wire {
            let flows = match row.way {
                wire::Way::Out | wire::Way::Back => row.flows.to_string(),
                wire::Way::Fresh => "new".to_owned(),
            };
            let head = format!(
                "{:<14} {:<5} {flows:>9} {:>6} {:>7}",
                row.system, row.way, row.length, row.workers
            );
            let line = match (row.mpps, &row.missing) {
                (Some(mpps), _) => {
                    let figure = |figure: Option<f64>| {
                        figure.map_or("-".to_owned(), |figure| format!("{figure:.3}"))
                    };
                    format!(
                        "{head} {:>7.3} {:>6.1} % {:>8} {:>8}  {}",
                        mpps.median,
                        mpps.spread_percent,
                        figure(row.of_bare),
                        figure(row.offered_mpps),
                        told(row)
                    )
                }
                (None, missing) => format!(
                    "{head}  not measured: {}",
                    missing.as_deref().unwrap_or("no rounds")
                ),
            };
            writeln!(text, "{}", line.trim_end()).expect("a string takes all");
        }
        text
    }

    /// True if every kind of packet was timed and counted.
    pub(crate) fn is_complete(&self) -> bool {
        let has = |kind, figure: fn(&pipeline::Row) -> bool| {
            self.pipeline
                .iter()
                .any(|row| row.kind == kind && figure(row))
        };
        let mut kinds = pipeline::Kind::ALL.iter();
        kinds.all(|&kind| {
            has(kind, |row| row.ns.is_some()) && has(kind, |row| row.instructions.is_some())
        })
    }

    /// A line for each figure of the pipeline that moved since `before`, times only if the machine is the same.
    pub(crate) fn moved(&self, before: &Report) -> Vec<String> {
        let mut lines = Vec::new();
        for now in &self.pipeline {
            let same = |then: &&pipeline::Row| (then.kind, then.flows) == (now.kind, now.flows);
            let Some(then) = before.pipeline.iter().find(same) else {
                continue;
            };
            let what = format!("{} at {} flows", now.kind, now.flows);
            if let (Some(now), Some(then)) = (now.instructions, then.instructions) {
                lines.extend(change(&format!("{what}: instructions"), now, then));
            }
            if let (Some(now), Some(then), true) =
                (now.ns, then.ns, self.machine.is_like(&before.machine))
            {
                let noise = now.spread_percent.max(then.spread_percent);
                let line = change(&format!("{what}: ns"), now.median, then.median);
                lines.extend(line.map(|line| format!("{line}, spread {noise:.1} %")));
            }
        }
        lines
    }
}

/// Rows of two reports; of what both have, the later one's.
fn rows(before: Vec<wire::Row>, after: Vec<wire::Row>) -> Vec<wire::Row> {
    let key = |row: &wire::Row| (row.system, row.way, row.flows, row.length, row.workers);
    let mut rows = before;
    rows.retain(|row| after.iter().all(|other| key(other) != key(row)));
    rows.extend(after);
    rows
}

fn or<T>(these: Vec<T>, otherwise: Vec<T>) -> Vec<T> {
    match these.is_empty() {
        true => otherwise,
        false => these,
    }
}

/// What of the counted is worth a place in the table: packets a call, and everything that went wrong.
fn told(row: &wire::Row) -> String {
    let wanted = |name: &str| {
        let trouble = ["ring-full", "fill-empty", "unsendable", "kernel-", "drop/"];
        let told = [
            "packets-per-sendto",
            "endpoints-a-second",
            "snapshots-a-second",
        ];
        told.contains(&name) || trouble.iter().any(|start| name.starts_with(start))
    };
    let share = row.core_share.filter(|&share| share < UNDISTURBED);
    let disturbed = share.map(|share| format!("DISTURBED: {:.0} % of its core", share * 100.0));
    let counted = row.counted.iter().filter(|(name, _)| wanted(name));
    let counted = counted.map(|(name, value)| format!("{name} {}", (value * 10.0).round() / 10.0));
    disturbed
        .into_iter()
        .chain(counted)
        .collect::<Vec<_>>()
        .join(", ")
}

fn change(what: &str, now: f64, then: f64) -> Option<String> {
    let moved = percent(now - then, then);
    (moved.abs() > MOVED_PERCENT).then(|| format!("{what} {then:.1} → {now:.1} ({moved:+.1} %)"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipeline::{Kind, Row};
    use crate::statistics::Summary;

    fn report(ns: f64, instructions: f64) -> Report {
        let ns = Some(Summary {
            median: ns,
            spread_percent: 1.0,
        });
        let row = Row {
            kind: Kind::NatPush,
            flows: 1_000,
            ns,
            instructions: Some(instructions),
        };
        Report {
            pipeline: vec![row],
            ..Report::empty(Machine::here())
        }
    }

    #[test]
    fn only_what_moved_is_told() {
        let before = report(40.0, 300.0);
        assert_eq!(report(40.7, 305.9).moved(&before), Vec::<String>::new());
        assert_eq!(
            report(44.0, 290.0).moved(&before),
            [
                "nat-push at 1000 flows: instructions 300.0 → 290.0 (-3.3 %)",
                "nat-push at 1000 flows: ns 40.0 → 44.0 (+10.0 %), spread 1.0 %",
            ]
        );
    }

    #[test]
    fn a_kind_alone_is_not_complete() {
        let mut report = report(40.0, 300.0);
        assert!(!report.is_complete());
        let row = report.pipeline[0].clone();
        report.pipeline = Kind::ALL
            .iter()
            .map(|&kind| Row {
                kind,
                ..row.clone()
            })
            .collect();
        assert!(report.is_complete());
        report.pipeline[3].instructions = None;
        assert!(!report.is_complete());
    }

    #[test]
    fn times_of_another_machine_are_not_compared() {
        let mut before = report(40.0, 300.0);
        before.machine.cpu = "another".to_owned();
        assert_eq!(report(80.0, 300.0).moved(&before), Vec::<String>::new());
    }

    #[test]
    fn reports_come_back_as_they_were_written() {
        let report = report(40.0, 300.0);
        let text = serde_json::to_string(&report).expect("JSON");
        let again: Report = serde_json::from_str(&text).expect("report");
        assert_eq!(again.text(), report.text());
        assert!(report.text().contains("nat-push"), "{}", report.text());
    }

    #[test]
    fn parts_of_one_machine_and_commit_are_joined() {
        let parts = Report::empty(Machine::here());
        let joined = report(40.0, 300.0).with(parts.clone()).expect("the same");
        assert_eq!(joined.pipeline.len(), 1);
        let mut other = parts;
        other.machine.commit = "another".to_owned();
        assert!(report(40.0, 300.0).with(other).is_err());
    }
}
