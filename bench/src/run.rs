//! `podway-bench run`: what is chosen, measured, kept and compared.

use std::path::PathBuf;
use std::time::Duration;

use anyhow::ensure;

use crate::machine::{self, Machine};
use crate::names::{Chosen, Name, Part};
use crate::packets::PORTS;
use crate::pipeline::{Effort, Kind, Pipeline};
use crate::report::Report;
use crate::wire::{Case, System, Way};
use crate::{
    bulk, cluster, follow, footprint, instructions, latency, pipeline, policies, results, wire,
};

/// Flows of measurements in full.
const FLOWS: [u32; 5] = [1, 1_000, 20_000, 200_000, 1_000_000];
/// Flows at which longer packets and two workers are measured.
const FEW: [u32; 2] = [1_000, 20_000];
/// Lengths of packets in bytes.
const SHORT: u16 = 64;
const LONG: u16 = 1_400;
/// Flows at which instructions are counted: the count hardly depends on them.
const COUNTED_FLOWS: u32 = 1_000;
const _: () = assert!(PORTS as u64 * cluster::TARGETS as u64 >= FLOWS[4] as u64);

/// What to measure, and what to do with the figures.
#[derive(Debug, clap::Args)]
pub(crate) struct Run {
    /// Fewer flows and repetitions: less than three minutes.
    #[arg(long)]
    quick: bool,
    /// Only these: pipeline, instructions, wire, policies, cluster, footprint, latency, bulk, kinds of packets or
    /// systems, separated by commas.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<Name>,
    /// Numbers of flows.
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    flows: Vec<u32>,
    /// Lengths of packets in bytes, Ethernet header included: from the headers to what fits the tunnel.
    #[arg(long, value_delimiter = ',', value_name = "BYTES",
          value_parser = clap::value_parser!(u16).range(42..=1_464))]
    length: Vec<u16>,
    /// Ways of packets on the wire.
    #[arg(long, value_delimiter = ',', value_name = "WAY")]
    way: Vec<Way>,
    /// Numbers of workers, sources and queues; two share both cores.
    #[arg(long, value_delimiter = ',', value_name = "N", value_parser = clap::value_parser!(u8).range(1..=2))]
    workers: Vec<u8>,
    /// How often everything on the wire is measured.
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u8).range(1..=100))]
    rounds: Option<u8>,
    /// Where reports are kept.
    #[arg(long, value_name = "DIR", default_value = "target/bench")]
    output: PathBuf,
    /// Where results are saved.
    #[arg(long, value_name = "DIR", default_value = "bench/results")]
    results: PathBuf,
    /// What to compare the pipeline with.
    #[arg(long, value_name = "FILE", default_value = "bench/baseline.json")]
    baseline: PathBuf,
    /// Keep the report, the table of goals and plots as bench/results/NAME.json, .md and .svg.
    #[arg(long, value_name = "NAME", value_parser = results::name)]
    save_results: Option<String>,
    /// Make the pipeline's figures the new baseline.
    #[arg(long)]
    save_baseline: bool,
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
            settings: self.settings(),
            peers: machine::peers(),
            ..Report::empty(machine)
        };
        self.time(&chosen.timed, &mut report)?;
        self.count(&chosen.counted, &mut report);
        if !chosen.systems.is_empty() {
            let plan = self.plan(&chosen.systems);
            report.wire = wire::measure(&plan, |line| eprintln!("{line}"))?;
        }
        if chosen.has(Part::Policies) {
            report.policies = Some(policies::measure()?);
        }
        if chosen.has(Part::Cluster) {
            let rounds = if self.save_results.is_some() {
                self.rounds()
            } else {
                1
            };
            for _ in 0..rounds {
                report.cluster.push(follow::measure()?);
            }
        }
        if chosen.has(Part::Footprint) {
            report.footprint = footprint::measure(self.rounds(), self.effort())?;
        }
        if chosen.has(Part::Latency) {
            let plan = latency::Plan {
                systems: chosen.compared.clone(),
                rounds: self.rounds(),
                time: self.latency_time(),
            };
            report.latency = latency::measure(&plan, |line| eprintln!("{line}"))?;
        }
        if chosen.has(Part::Bulk) {
            let plan = bulk::Plan {
                systems: chosen.compared.clone(),
                settings: bulk::SETTINGS.to_vec(),
                works: bulk::WORKS.to_vec(),
                rounds: self.rounds(),
                time: self.bulk_time(),
            };
            report.bulk = bulk::measure(&plan, |line| eprintln!("{line}"))?;
        }
        print!("{}", report.text());
        println!("\nkept as {}", report.keep(&self.output)?.display());
        if let Some(name) = &self.save_results {
            for path in results::save(&report, &self.results, name)? {
                println!("saved as {}", path.display());
            }
        }
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
                pipeline: report.pipeline,
                settings: report.settings,
                ..Report::empty(report.machine)
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

    fn plan(&self, systems: &[System]) -> wire::Plan {
        let time = match self.quick {
            true => Duration::from_millis(500),
            false => Duration::from_secs(2),
        };
        wire::Plan {
            systems: systems.to_vec(),
            cases: self.cases(),
            rounds: self.rounds(),
            time,
        }
    }

    fn latency_time(&self) -> Duration {
        match self.quick {
            true => Duration::from_millis(500),
            false => Duration::from_secs(2),
        }
    }

    fn bulk_time(&self) -> Duration {
        match self.quick {
            true => Duration::from_secs(1),
            false => Duration::from_secs(4),
        }
    }

    fn rounds(&self) -> usize {
        let rounds = if self.quick { 3 } else { 5 };
        self.rounds.map_or(rounds, usize::from)
    }

    /// All that was asked for; or what the goals and the table need.
    fn cases(&self) -> Vec<Case> {
        let case = |(way, flows, length, workers)| Case {
            way,
            flows,
            length: usize::from(length),
            workers: usize::from(workers),
        };
        let chosen = !self.way.is_empty()
            || !self.flows.is_empty()
            || !self.length.is_empty()
            || !self.workers.is_empty();
        if chosen {
            let ways = or(&self.way, &[Way::Out]);
            let (flows, lengths) = (or(&self.flows, &[1_000]), or(&self.length, &[SHORT]));
            let workers = or(&self.workers, &[1]);
            return product(&product(&ways, &flows), &product(&lengths, &workers))
                .into_iter()
                .map(|((way, flows), (length, workers))| case((way, flows, length, workers)))
                .collect();
        }
        let out = (Way::Out, FEW[0], SHORT, 1);
        if self.quick {
            return vec![case(out)];
        }
        let all = product(&[Way::Out, Way::Back], &FLOWS).into_iter();
        all.map(|(way, flows)| (way, flows, SHORT, 1))
            .chain(FEW.map(|flows| (Way::Out, flows, LONG, 1)))
            .chain(FEW.map(|flows| (Way::Out, flows, SHORT, 2)))
            .chain([(Way::Back, FEW[0], LONG, 1), (Way::Fresh, 1, SHORT, 1)])
            .map(case)
            .collect()
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
        let plan = self.plan(&[]);
        format!(
            "pipeline: {repetitions} × {time:?} of batches of 64; all else {} rounds, systems in turn: wire {:?}, latency {:?}, bulk {:?} each; source, clients and servers on core 0, forwarder on core 1",
            plan.rounds,
            plan.time,
            self.latency_time(),
            self.bulk_time()
        )
    }
}

fn or<T: Clone>(given: &[T], otherwise: &[T]) -> Vec<T> {
    match given.is_empty() {
        true => otherwise.to_vec(),
        false => given.to_vec(),
    }
}

fn product<A: Copy, B: Copy>(these: &[A], those: &[B]) -> Vec<(A, B)> {
    let with = |&this: &A| those.iter().map(move |&that| (this, that));
    these.iter().flat_map(with).collect()
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
        assert!(some.counted.is_empty() && some.parts.is_empty());
        let cluster = chosen(&["--only", "cluster"]).expect("a name");
        assert_eq!(cluster.parts, [Part::Cluster]);
        let all = chosen(&[]).expect("all");
        assert_eq!(
            (all.timed.len(), all.counted.len(), all.systems.len()),
            (7, 7, 8)
        );
    }

    #[test]
    fn bad_usage_is_refused_with_what_to_give() {
        let error = chosen(&["--only", "nonsense"]).expect_err("no such thing");
        assert_eq!(error.exit_code(), 2);
        assert!(
            error
                .to_string()
                .contains("give pipeline, instructions, wire, policies, cluster, footprint, latency, bulk, plain"),
            "{error}"
        );
        for bad in [
            ["--length", "41"],
            ["--length", "1465"],
            ["--flows", "0"],
            ["--flows", "1000001"],
            ["--workers", "3"],
            ["--way", "aside"],
        ] {
            assert_eq!(
                chosen(&bad).expect_err("out of range").exit_code(),
                2,
                "{bad:?}"
            );
        }
    }
}
