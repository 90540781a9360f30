//! What was measured on: figures of two machines, or of two moments of one, can't be compared.

use std::fs;
use std::process::Command;
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

/// The machine's fingerprint.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub(crate) struct Machine {
    /// The processor's model.
    pub(crate) cpu: String,
    /// How many of its cores there are.
    pub(crate) cores: usize,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// Whether there is a hypervisor below.
    pub(crate) hypervisor: String,
    /// The load of the last minute before the measurement: above 0.5 others took part in the figures.
    pub(crate) load: f64,
    /// The commit, with `+` if files differ from it.
    pub(crate) commit: String,
    /// Seconds since the epoch.
    pub(crate) time_s: u64,
    /// Whether the figures are of optimised code.
    pub(crate) profile: String,
}

impl Machine {
    /// This machine, now.
    pub(crate) fn here() -> Machine {
        let read = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let information = read("/proc/cpuinfo");
        let field = |text: &str, name: &str| {
            let line = text
                .lines()
                .find(|line| line.starts_with(name))
                .unwrap_or_default();
            line.split_once(':')
                .map_or("unknown", |(_, value)| value.trim())
                .to_owned()
        };
        let memory_kib = field(&read("/proc/meminfo"), "MemTotal").replace(" kB", "");
        let hypervisor = match field(&information, "flags")
            .split(' ')
            .any(|flag| flag == "hypervisor")
        {
            true => "yes",
            false => "no",
        };
        Machine {
            cpu: field(&information, "model name"),
            cores: information
                .lines()
                .filter(|line| line.starts_with("processor"))
                .count(),
            kernel: read("/proc/sys/kernel/osrelease").trim().to_owned(),
            memory_mib: memory_kib.parse::<u64>().unwrap_or(0) / 1_024,
            hypervisor: hypervisor.to_owned(),
            load: read("/proc/loadavg")
                .split(' ')
                .next()
                .and_then(|word| word.parse().ok())
                .unwrap_or(0.0),
            commit: commit(),
            time_s: SystemTime::now()
                .duration_since(UNIX_EPOCH)
                .map_or(0, |passed| passed.as_secs()),
            profile: if cfg!(debug_assertions) {
                "debug"
            } else {
                "release"
            }
            .to_owned(),
        }
    }

    /// What makes the figures doubtful, if anything does.
    pub(crate) fn doubts(&self) -> Vec<String> {
        let mut doubts = Vec::new();
        if self.load > 0.5 {
            doubts.push(format!(
                "the machine is busy (load {:.2}): a smoke test, no measurement",
                self.load
            ));
        }
        if self.profile != "release" {
            doubts.push(
                "this is a debug build: run scripts/bench, which builds a release".to_owned(),
            );
        }
        doubts
    }

    /// True if times measured on both can be compared.
    pub(crate) fn is_like(&self, other: &Machine) -> bool {
        (&self.cpu, &self.kernel, &self.profile) == (&other.cpu, &other.kernel, &other.profile)
    }
}

fn commit() -> String {
    let git = |arguments: &[&str]| {
        let output = Command::new("git").args(arguments).output().ok()?;
        output
            .status
            .success()
            .then(|| String::from_utf8_lossy(&output.stdout).trim().to_owned())
    };
    let Some(commit) = git(&["rev-parse", "--short=12", "HEAD"]) else {
        return "unknown".to_owned();
    };
    match git(&["status", "--porcelain", "--untracked-files=no"]) {
        Some(changes) if changes.is_empty() => commit,
        _ => commit + "+",
    }
}
