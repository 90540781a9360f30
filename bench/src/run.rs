//! `podway-bench run`: what is chosen, measured, kept and compared.

use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use anyhow::ensure;
use clap::ValueEnum;

use crate::machine::Machine;
use crate::packets::PORTS;
use crate::pipeline::{Effort, Kind, Pipeline};
use crate::report::Report;
use crate::wire::System;
use crate::{cluster, follow, instructions, pipeline, policies, wire};

/// Flows of measurements in full.
const FLOWS: [u32; 4] = [1, 1_000, 20_000, 1_000_000];
/// Flows at which instructions are counted: the count hardly depends on them.
const COUNTED_FLOWS: u32 = 1_000;
const _: () = assert!(PORTS as u64 * cluster::TARGETS as u64 >= FLOWS[3] as u64);

/// What to measure, and what to do with the figures.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Fewer flows and repetitions: less than three minutes.
    #[arg(long)]
    quick: bool,
    /// Only these: pipeline, instructions, wire, policies, cluster, kinds of packets or systems, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<Name>,
    /// Numbers of flows.
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    flows: Vec<u32>,
    /// Lengths of packets in bytes, Ethernet header included: from the headers to what fits the tunnel.
    #[arg(long, value_delimiter = ',', value_name = "BYTES", default_value = "64",
          value_parser = clap::value_parser!(u16).range(42..=1_464))]
    length: Vec<u16>,
    /// Where reports are kept.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    output: PathBuf,
    /// What to compare the pipeline with.
    #[arg(long, value_name = "FILE", default_value = "bench/baseline.json")]
    baseline: PathBuf,
    /// Make the pipeline's figures the new baseline.
    #[arg(long)]
    save_baseline: bool,
}

/// What `--only` takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Name {
    /// Times of all kinds.
    Pipeline,
    /// Instructions of all kinds.
    Instructions,
    /// All systems.
    Wire,
    /// What policies cost.
    Policies,
    /// What following a large cluster costs.
    Cluster,
    /// Times of one kind.
    Kind(Kind),
    /// One system.
    System(System),
}

/// What a run measures.
#[derive(Debug, Default)]
struct Chosen {
    timed: Vec<Kind>,
    counted: Vec<Kind>,
    systems: Vec<System>,
    policies: bool,
    cluster: bool,
}

impl Run {
    /// Measures, prints, keeps and compares.
    pub(crate) fn measure(&self) -> anyhow::Result<()> {
        let chosen = Chosen::of(&self.only, self.quick);
        let machine = Machine::here();
        machine
            .doubts()
            .iter()
            .for_each(|doubt| eprintln!("note: {doubt}"));
        let mut report = Report {
            machine,
            settings: self.settings(),
            pipeline: Vec::new(),
            wire: Vec::new(),
            policies: None,
            cluster: None,
        };
        self.time(&chosen.timed, &mut report)?;
        self.count(&chosen.counted, &mut report);
        for &length in self.length.iter().filter(|_| !chosen.systems.is_empty()) {
            let plan = self.plan(&chosen.systems, length.into());
            report
                .wire
                .extend(wire::measure(&plan, |line| eprintln!("{line}"))?);
        }
        if chosen.policies {
            report.policies = Some(policies::measure()?);
        }
        if chosen.cluster {
            report.cluster = Some(follow::measure()?);
        }
        print!("{}", report.text());
        println!("\nkept as {}", report.keep(&self.output)?.display());
        self.compare(report)
    }

    fn time(&self, kinds: &[Kind], report: &mut Report) -> anyhow::Result<()> {
        for &kind in kinds {
            for flows in self.flows_of(kind) {
                let ns = Pipeline::new(kind, flows)?.measure(self.effort())?;
                eprintln!("pipeline: {kind}, {flows} flows: {:.1} ns", ns.median);
                report.pipeline.push(pipeline::Row {
                    kind,
                    flows,
                    ns: Some(ns),
                    instructions: None,
                });
            }
        }
        Ok(())
    }

    /// Adds instruction counts to the rows; who has no valgrind is told so, and has the rest.
    fn count(&self, kinds: &[Kind], report: &mut Report) {
        for &kind in kinds {
            let flows = COUNTED_FLOWS;
            let count = match instructions::count(kind, flows) {
                Ok(count) => count,
                Err(error) => {
                    eprintln!("instructions: {kind} is not counted: {error:#}");
                    continue;
                }
            };
            eprintln!("instructions: {kind}, {flows} flows: {count:.1}");
            match report
                .pipeline
                .iter_mut()
                .find(|row| (row.kind, row.flows) == (kind, flows))
            {
                Some(row) => row.instructions = Some(count),
                None => report.pipeline.push(pipeline::Row {
                    kind,
                    flows,
                    ns: None,
                    instructions: Some(count),
                }),
            }
        }
    }

    fn compare(&self, report: Report) -> anyhow::Result<()> {
        if self.save_baseline {
            ensure!(
                report.machine.profile == "release",
                "a debug build is no baseline: run scripts/bench --save-baseline"
            );
            ensure!(
                report.is_complete(),
                "a baseline has all kinds: run scripts/bench --only pipeline,instructions --save-baseline, with valgrind"
            );
            let baseline = Report {
                wire: Vec::new(),
                policies: None,
                cluster: None,
                ..report
            };
            println!(
                "the baseline is now these figures: {}",
                self.baseline.display()
            );
            return baseline.write(&self.baseline);
        }
        if report.pipeline.is_empty() || !self.baseline.exists() {
            return Ok(());
        }
        let before = Report::read(&self.baseline)?;
        let moved = report.moved(&before);
        match moved.is_empty() {
            true => println!(
                "nothing moved by more than 2 % since {}",
                before.machine.commit
            ),
            false => println!(
                "moved since {}:\n  {}",
                before.machine.commit,
                moved.join("\n  ")
            ),
        }
        Ok(())
    }

    fn effort(&self) -> Effort {
        match self.quick {
            true => Effort {
                repetitions: 5,
                time: Duration::from_millis(20),
            },
            false => Effort {
                repetitions: 9,
                time: Duration::from_millis(150),
            },
        }
    }

    fn plan(&self, systems: &[System], length: usize) -> wire::Plan {
        let (rounds, time) = match self.quick {
            true => (3, Duration::from_secs(1)),
            false => (5, Duration::from_secs(2)),
        };
        let flows = match (self.flows.is_empty(), self.quick) {
            (false, _) => self.flows.clone(),
            (true, true) => vec![1_000],
            (true, false) => FLOWS.to_vec(),
        };
        wire::Plan {
            systems: systems.to_vec(),
            flows,
            length,
            rounds,
            time,
        }
    }

    fn flows_of(&self, kind: Kind) -> Vec<u32> {
        let all = match (self.flows.is_empty(), self.quick) {
            (false, _) => self.flows.clone(),
            (true, true) => vec![1_000, 1_000_000],
            (true, false) => FLOWS.to_vec(),
        };
        // A batch of first packets needs as many flows.
        let least = if kind.is_first_packets() { 64 } else { 1 };
        all.into_iter().filter(|&flows| flows >= least).collect()
    }

    fn settings(&self) -> String {
        let Effort { repetitions, time } = self.effort();
        let plan = self.plan(&[], 0);
        format!(
            "pipeline: {repetitions} × {time:?} of batches of 64; wire: {} rounds of {:?}, source on core 0, forwarder on core 1",
            plan.rounds, plan.time
        )
    }
}

impl Chosen {
    /// What the names stand for; all of it without names.
    fn of(names: &[Name], quick: bool) -> Chosen {
        let quickly = |kind: &&Kind| !quick || **kind != Kind::MissLarge;
        let kinds: Vec<Kind> = Kind::ALL.iter().filter(quickly).copied().collect();
        let systems = System::ALL.to_vec();
        if names.is_empty() {
            return Chosen {
                timed: kinds.clone(),
                counted: kinds,
                systems,
                policies: !quick,
                cluster: !quick,
            };
        }
        let mut chosen = Chosen::default();
        for name in names {
            match name {
                Name::Pipeline => chosen.timed.clone_from(&kinds),
                Name::Instructions => chosen.counted.clone_from(&kinds),
                Name::Wire => chosen.systems.clone_from(&systems),
                Name::Policies => chosen.policies = true,
                Name::Cluster => chosen.cluster = true,
                Name::Kind(kind) => chosen.timed.push(*kind),
                Name::System(system) => chosen.systems.push(*system),
            }
        }
        chosen
    }
}

impl FromStr for Name {
    type Err = String;

    fn from_str(name: &str) -> Result<Name, String> {
        match name {
            "pipeline" => return Ok(Name::Pipeline),
            "instructions" => return Ok(Name::Instructions),
            "wire" => return Ok(Name::Wire),
            "policies" => return Ok(Name::Policies),
            "cluster" => return Ok(Name::Cluster),
            _ => {}
        }
        let kind = || <Kind as ValueEnum>::from_str(name, false).map(Name::Kind);
        let system = || <System as ValueEnum>::from_str(name, false).map(Name::System);
        kind().or_else(|_| system()).map_err(|_| {
            let kinds = Kind::ALL.iter().map(Kind::to_string);
            let names: Vec<_> = kinds
                .chain(System::ALL.iter().map(System::to_string))
                .collect();
            format!(
                "give pipeline, instructions, wire, policies, cluster, {}",
                names.join(", ")
            )
        })
    }
}

#[cfg(test)]
mod tests {
    use clap::{CommandFactory, Parser};

    use super::*;
    use crate::{Arguments, Command};

    #[test]
    fn arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    fn chosen(arguments: &[&str]) -> Result<Chosen, clap::Error> {
        let all = [&["podway-bench", "run"], arguments].concat();
        let Command::Run(run) = Arguments::try_parse_from(all)?.command else {
            unreachable!("it was asked to run");
        };
        Ok(Chosen::of(&run.only, run.quick))
    }

    #[test]
    fn names_choose_what_they_say() {
        let some = chosen(&["--only", "nat-push,bare,podway"]).expect("names");
        assert_eq!(some.timed, [Kind::NatPush]);
        assert_eq!(some.systems, [System::Bare, System::Podway]);
        assert!(some.counted.is_empty() && !some.cluster);
        assert!(chosen(&["--only", "cluster"]).expect("a name").cluster);
        let all = chosen(&[]).expect("all");
        assert_eq!(
            (all.timed.len(), all.counted.len(), all.systems.len()),
            (7, 7, 5)
        );
    }

    #[test]
    fn bad_usage_is_refused_with_what_to_give() {
        let error = chosen(&["--only", "nonsense"]).expect_err("no such thing");
        assert_eq!(error.exit_code(), 2);
        assert!(
            error
                .to_string()
                .contains("give pipeline, instructions, wire, policies, cluster, plain"),
            "{error}"
        );
        for bad in [
            ["--length", "41"],
            ["--length", "1465"],
            ["--flows", "0"],
            ["--flows", "1000001"],
        ] {
            assert_eq!(
                chosen(&bad).expect_err("out of range").exit_code(),
                2,
                "{bad:?}"
            );
        }
    }
}
