//! Measures podway: the engine alone in memory, and packets through the kernel beside its peers.

mod bulk;
mod cluster;
mod follow;
mod footprint;
mod instructions;
mod latency;
mod machine;
mod names;
mod packets;
mod pipeline;
mod policies;
mod process;
mod report;
mod results;
mod run;
mod statistics;
mod switch;
mod wire;

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use clap::{Parser, Subcommand};

use crate::machine::Machine;
use crate::pipeline::{Kind, Pipeline};
use crate::run::Run;
use crate::wire::System;

/// Measures podway. Everything is bounded in time, and runs in namespaces of its own.
#[derive(Debug, Parser)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Measures, prints tables, keeps JSON and says what moved since the baseline.
    Run(Box<Run>),
    /// Saves reports that were kept as one: of each part the last one that has it.
    Results {
        /// What to call them.
        #[arg(value_parser = results::name)]
        name: String,
        /// Reports of one machine and commit (target/bench/*.json).
        #[arg(required = true)]
        reports: Vec<PathBuf>,
        /// Where results are saved.
        #[arg(long, value_name = "DIR", default_value = "bench/results")]
        results: PathBuf,
    },
    /// Packet rate of small UDP through service, policy and VXLAN, and of a bare forward in the same run.
    Rate {
        /// Print one JSON value.
        #[arg(long)]
        json: bool,
    },
    /// Runs batches through the engine, for who counts instructions.
    #[command(hide = true)]
    Batches {
        kind: Kind,
        flows: u32,
        batches: u32,
    },
    /// Follows an API server as an agent does, and prints figures as JSON.
    #[command(hide = true)]
    Follow,
    /// Serves a large cluster and changes it as it is asked to.
    #[command(hide = true)]
    ServeCluster { services: u32 },
}

fn main() -> ExitCode {
    let Arguments { command } = Arguments::parse();
    let done = match command {
        Command::Run(run) => run.measure(),
        Command::Results {
            name,
            reports,
            results,
        } => results::join(&name, &reports, &results),
        Command::Rate { json } => rate(json),
        Command::Batches {
            kind,
            flows,
            batches,
        } => Pipeline::new(kind, flows).and_then(|mut it| it.run(batches)),
        Command::Follow => follow::follow(),
        Command::ServeCluster { services } => follow::serve(services),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("podway-bench: {error:#}");
            ExitCode::FAILURE
        }
    }
}

/// For scripts/demo: two figures of one run.
fn rate(json: bool) -> anyhow::Result<()> {
    let plan = wire::Plan {
        systems: vec![System::Bare, System::Podway],
        cases: vec![wire::Case {
            way: wire::Way::Out,
            flows: 1_000,
            length: 64,
            workers: 1,
        }],
        rounds: 3,
        time: Duration::from_secs(1),
    };
    let machine = Machine::here();
    let rows = wire::measure(&plan, |_| ())?;
    let mpps = |row: &wire::Row| {
        let why = row.missing.clone().unwrap_or_default();
        row.mpps.map(|mpps| mpps.median).context(why)
    };
    let (bare, podway) = (mpps(&rows[0])?, mpps(&rows[1])?);
    let spread = |row: &wire::Row| row.mpps.map_or(0.0, |mpps| mpps.spread_percent);
    let ratio = rows[1].of_bare.context("no rounds")?;
    let core_share = rows
        .iter()
        .filter_map(|row| row.core_share)
        .reduce(f64::min);
    if json {
        let value = serde_json::json!({
            "podway_mpps": podway,
            "bare_mpps": bare,
            "of_bare": ratio,
            "core_share": core_share,
            "flows": 1_000,
            "bytes": 64,
            "machine": machine,
        });
        println!("{value}");
        return Ok(());
    }
    // scripts/demo makes a row of its table of each line: what, a colon, the result.
    println!(
        "64-byte UDP through service, policy and VXLAN, one worker: {podway:.3} Mpps, spread {:.0} % ({ratio:.2} of bare)",
        spread(&rows[1])
    );
    println!(
        "64-byte UDP through a bare AF_XDP forward, in the same run: {bare:.3} Mpps, spread {:.0} %",
        spread(&rows[0])
    );
    Ok(())
}
