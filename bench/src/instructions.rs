//! Instructions a packet, counted by callgrind: the same number each time, on any machine.

use std::env;
use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context, bail};
use clap::ValueEnum;
use podway_engine::BATCH;

use crate::pipeline::Kind;

/// Batches of the two runs whose difference is counted: what only warms up is in both.
const RUNS: [u32; 2] = [20, 60];

/// Counts a kind's instructions a packet, in a process of its own under valgrind.
pub(crate) fn count(kind: Kind, flows: u32) -> anyhow::Result<f64> {
    let [few, many] = RUNS.map(|batches| total(kind, flows, batches));
    let packets = f64::from(RUNS[1] - RUNS[0]) * BATCH as f64;
    Ok((many? - few?) as f64 / packets)
}

fn total(kind: Kind, flows: u32, batches: u32) -> anyhow::Result<i64> {
    let name = kind
        .to_possible_value()
        .expect("none is hidden")
        .get_name()
        .to_owned();
    let out = env::temp_dir().join(format!("podway-bench-callgrind-{}", std::process::id()));
    let output = Command::new("valgrind")
        .args([
            "--tool=callgrind",
            "--toggle-collect=*podway_bench::pipeline::process*",
        ])
        .arg(format!("--callgrind-out-file={}", out.display()))
        .arg(env::current_exe().context("where this program is")?)
        .args(["batches", &name, &flows.to_string(), &batches.to_string()])
        .stdin(Stdio::null())
        .output()
        .context("cannot run `valgrind`; install it, or leave `instructions` out")?;
    let text = fs::read_to_string(&out);
    let _ = fs::remove_file(&out);
    if !output.status.success() {
        bail!(
            "under valgrind: {}",
            String::from_utf8_lossy(&output.stderr).trim()
        );
    }
    total_of(&text.context("callgrind's output")?)
        .context("callgrind counted nothing; is the symbol there?")
}

/// The line `totals: N`, or in older versions `summary: N`.
fn total_of(text: &str) -> Option<i64> {
    let mut lines = text.lines();
    let line = lines.find_map(|line| {
        line.strip_prefix("totals:")
            .or(line.strip_prefix("summary:"))
    })?;
    line.trim().parse().ok().filter(|&total| total > 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn totals_are_read() {
        assert_eq!(
            total_of("events: Ir\nfn=(1) x\n0 1\ntotals: 170\n"),
            Some(170)
        );
        assert_eq!(total_of("summary: 17\n"), Some(17));
        assert_eq!(total_of("totals: 0\n"), None);
        assert_eq!(total_of(""), None);
    }
}
