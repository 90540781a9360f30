//! Runs the test tables of other projects (see CONTRACT, test vectors) through the real engine over compiled tables.
//!
//! The folder is `PODWAY_VECTORS`, or `shared/vectors` beside the checkout. Without it nothing runs, and in CI that is
//! a failure. Each suite ends with a line `SUITE: N passed, N failed, N unsupported`.

mod conntrack;
mod cyclonus;
mod dataplane;
mod policies;
mod services;
mod services_world;

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context, Result};
use serde::de::DeserializeOwned;

/// What became of a suite's rows.
#[derive(Debug, Default)]
pub(crate) struct Tally {
    passed: usize,
    failed: usize,
    unsupported: usize,
}

/// A failed row is told in a line; further ones are only counted.
const TOLD: usize = 10;

impl Tally {
    pub(crate) fn row(&mut self, name: &str, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(why) => {
                self.failed += 1;
                if self.failed <= TOLD {
                    println!("  {name}: {why}");
                }
            }
        }
    }

    pub(crate) fn unsupported(&mut self) {
        self.unsupported += 1;
    }
}

/// The rows of a file that has one JSON object a line.
pub(crate) fn rows<T: DeserializeOwned>(file: &Path) -> Result<Vec<T>> {
    let text = std::fs::read_to_string(file).with_context(|| file.display().to_string())?;
    let lines = text
        .lines()
        .enumerate()
        .filter(|(_, line)| !line.trim().is_empty());
    lines
        .map(|(number, line)| {
            serde_json::from_str(line).with_context(|| format!("{}:{}", file.display(), number + 1))
        })
        .collect()
}

fn main() -> ExitCode {
    let beside = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/vectors");
    let folder = std::env::var_os("PODWAY_VECTORS").map_or(beside, PathBuf::from);
    if !podway_needs::vectors(&folder) {
        return ExitCode::SUCCESS;
    }
    match run(&folder) {
        Ok(0) => ExitCode::SUCCESS,
        Ok(failed) => {
            eprintln!("{failed} rows failed");
            ExitCode::FAILURE
        }
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

type Suite = fn(&Path, &mut Tally) -> Result<()>;

const SUITES: [(&str, Suite); 8] = [
    ("network-policies.jsonl", policies::run),
    ("cluster-network-policies.jsonl", policies::run),
    ("cyclonus.jsonl", cyclonus::run),
    ("kube-proxy-nftables.jsonl", services::run),
    ("kube-proxy-nftables-derived.jsonl", services::run),
    ("kube-proxy-iptables.jsonl", services::run),
    ("kube-proxy-topology.jsonl", services::run),
    ("kube-proxy-conntrack.json", conntrack::run),
];

fn run(folder: &Path) -> Result<usize> {
    let mut failed = 0;
    for (file, suite) in SUITES {
        let file_path = folder.join(file);
        if !file_path.is_file() {
            continue;
        }
        let mut tally = Tally::default();
        suite(&file_path, &mut tally)?;
        let name = file.split('.').next().unwrap_or(file).to_uppercase();
        let Tally {
            passed,
            failed: wrong,
            unsupported,
        } = tally;
        println!("{name}: {passed} passed, {wrong} failed, {unsupported} unsupported");
        failed += wrong;
    }
    Ok(failed)
}
