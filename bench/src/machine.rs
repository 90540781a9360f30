//! What was measured on: figures of two machines, or of two moments of one, can't be compared.

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

use crate::statistics::percent;

/// Busier than this, others take part in the figures.
const QUIET_PERCENT: f64 = 5.0;
/// How long the machine is looked at.
const MOMENT: Duration = Duration::from_millis(500);

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
    /// How busy its cores were right before, in per cent: of a busy machine the figures are worth nothing.
    pub(crate) busy_percent: f64,
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
            busy_percent: busy_percent(),
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
        if self.busy_percent > QUIET_PERCENT {
            let busy = self.busy_percent;
            doubts.push(format!(
                "others keep the cores busy ({busy:.0} %): a smoke test, no measurement"
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

/// How busy all cores are for a moment in which this process does nothing.
fn busy_percent() -> f64 {
    let stat = || fs::read_to_string("/proc/stat").unwrap_or_default();
    let (all_before, idle_before) = ticks(&stat());
    thread::sleep(MOMENT);
    let (all, idle) = ticks(&stat());
    // Ticks of waiting for I/O may even fall.
    let all = all.saturating_sub(all_before);
    let idle = idle.saturating_sub(idle_before).min(all);
    percent((all - idle) as f64, all as f64)
}

/// Ticks of /proc/stat in a second, on every Linux (USER_HZ).
pub(crate) const TICKS_A_SECOND: f64 = 100.0;

/// Ticks that all cores together worked since they started.
pub(crate) fn busy_ticks() -> u64 {
    let (all, idle) = ticks(&fs::read_to_string("/proc/stat").unwrap_or_default());
    all - idle
}

/// Ticks in all, and of them idle ones, from the first line of /proc/stat (proc(5)).
fn ticks(stat: &str) -> (u64, u64) {
    let line = stat.lines().next().unwrap_or_default();
    let words = line
        .split_whitespace()
        .skip(1)
        .map(|word| word.parse().unwrap_or(0));
    let ticks: Vec<u64> = words.take(8).collect();
    let idle = ticks.iter().skip(3).take(2).sum();
    (ticks.iter().sum(), idle)
}

/// Versions of the peers' programs, those that are there.
pub(crate) fn peers() -> BTreeMap<String, String> {
    let programs = [
        ("Open vSwitch", "ovs-vswitchd"),
        ("nftables", "nft"),
        ("iptables", "iptables-nft"),
        ("iperf3", "iperf3"),
        ("nginx", "nginx"),
    ];
    let version = |program: &str| {
        let flag = if program == "nginx" {
            "-v"
        } else {
            "--version"
        };
        let output = Command::new(program).arg(flag).output().ok()?;
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        text.lines().next().map(|line| line.trim().to_owned())
    };
    let known = programs.into_iter();
    known
        .filter_map(|(name, program)| Some((name.to_owned(), version(program)?)))
        .collect()
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn idle_and_waiting_ticks_are_not_busy() {
        let stat = "cpu  10 1 20 300 40 5 6 7 0 0\ncpu0 1 1 1 1 1 1 1 1 0 0\n";
        assert_eq!(ticks(stat), (389, 340));
        assert_eq!(ticks(""), (0, 0));
    }
}
