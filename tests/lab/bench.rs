//! What the tests of this suite stand on: one lab at a time, commands run in it, and a promise to take it down.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use serde_json::Value;

/// A lab that is up, and goes down with this value.
pub(crate) struct Lab {
    _alone: File,
}

/// The repository's root.
pub(crate) fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// The binary that was built with this test.
pub(crate) fn podway() -> PathBuf {
    let test = std::env::current_exe().expect("a test has a path");
    let built = test
        .parent()
        .and_then(Path::parent)
        .expect("target/PROFILE/deps");
    let binary = built.join("podway");
    assert!(
        binary.exists(),
        "build it first: cargo build --package podway"
    );
    binary
}

fn run(arguments: &[&str]) -> Output {
    let output = Command::new(podway())
        .args(arguments)
        .stdin(Stdio::null())
        .output();
    output.expect("podway runs")
}

impl Lab {
    /// Brings a lab up from a directory of manifests.
    pub(crate) fn up(manifests: &Path) -> Lab {
        Lab::up_with(manifests, &[])
    }

    /// The same with more arguments.
    pub(crate) fn up_with(manifests: &Path, more: &[&str]) -> Lab {
        // Labs share one name: tests of other processes wait here.
        let alone = File::create("/run/podway-test.lock").expect("root can lock");
        alone.lock().expect("a lock");
        let lab = Lab { _alone: alone };
        let manifests = manifests.to_str().expect("UTF-8");
        let up = run(&[&["lab", "up", manifests], more].concat());
        assert!(
            up.status.success(),
            "{}",
            String::from_utf8_lossy(&up.stderr)
        );
        lab
    }

    /// Starts a command in a pod, a node or the world.
    pub(crate) fn spawn(&self, target: &str, command: &[&str]) -> Child {
        let mut lab = Command::new(podway());
        lab.args(["lab", "exec", target, "--"]).args(command);
        lab.stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped());
        lab.spawn().expect("podway runs")
    }

    /// Runs a command in a pod, a node or the world, and gives what it prints; it must succeed.
    pub(crate) fn must(&self, target: &str, command: &[&str]) -> String {
        let output = self.exec(target, command);
        assert!(
            output.status.success(),
            "{target}: {command:?}: {}{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        String::from_utf8_lossy(&output.stdout).into_owned()
    }

    /// Runs a command in a pod, a node or the world.
    pub(crate) fn exec(&self, target: &str, command: &[&str]) -> Output {
        run(&[&["lab", "exec", target, "--"], command].concat())
    }

    /// True if a pod or node gets something from an HTTP server within two seconds.
    pub(crate) fn gets(&self, from: &str, url: &str) -> bool {
        let curl = [
            "curl",
            "--silent",
            "--fail",
            "--max-time",
            "2",
            "--output",
            "/dev/null",
            url,
        ];
        self.exec(from, &curl).status.success()
    }

    /// True if a pod or node is answered a ping within a second.
    pub(crate) fn pings(&self, from: &str, address: &str) -> bool {
        self.exec(from, &["ping", "-c", "1", "-W", "1", "-q", address])
            .status
            .success()
    }

    pub(crate) fn check(&self) -> Value {
        json(&run(&["lab", "check", "-o", "json"]).stdout)
    }

    pub(crate) fn status(&self) -> Value {
        json(&run(&["lab", "status", "-o", "json"]).stdout)
    }

    /// A pod's address of the family that `wanted` holds of.
    pub(crate) fn address(&self, pod: &str, wanted: fn(&str) -> bool) -> String {
        let status = self.status();
        let pods = status["pods"].as_array().expect("pods").iter();
        let addresses = pods.filter(|found| found["name"] == pod).flat_map(|found| {
            found["addresses"]
                .as_array()
                .expect("addresses")
                .iter()
                .filter_map(Value::as_str)
        });
        addresses
            .map(str::to_owned)
            .find(|address| wanted(address))
            .expect("the pod's address")
    }

    /// A node of the status.
    pub(crate) fn node(&self, name: &str) -> Value {
        let status = self.status();
        let mut nodes = status["nodes"].as_array().expect("nodes").iter();
        nodes
            .find(|node| node["name"] == name)
            .expect("the node")
            .clone()
    }

    /// What the agent of a node says.
    pub(crate) fn show(&self, node: &str, topic: &str) -> Value {
        let node = self.node(node);
        let socket = node["socket"].as_str().expect("a socket");
        let output = run(&["show", topic, "-o", "json", "--socket", socket]);
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
        json(&output.stdout)
    }

    /// The process id of a node's agent.
    pub(crate) fn agent(&self, node: &str) -> i32 {
        self.node(node)["agent"]["pid"]
            .as_i64()
            .expect("a process id") as i32
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let down = run(&["lab", "down"]);
        let left = leftovers();
        if !std::thread::panicking() {
            assert!(
                down.status.success(),
                "{}",
                String::from_utf8_lossy(&down.stderr)
            );
            assert_eq!(left, Vec::<String>::new(), "what the lab left behind");
        }
    }
}

/// Namespaces and processes of labs that are there now.
fn leftovers() -> Vec<String> {
    let namespaces = Command::new("ip")
        .args(["netns", "list"])
        .output()
        .expect("ip runs");
    let text = String::from_utf8_lossy(&namespaces.stdout).into_owned();
    text.lines()
        .filter(|line| line.starts_with("podway-lab"))
        .map(str::to_owned)
        .collect()
}

fn json(bytes: &[u8]) -> Value {
    serde_json::from_slice(bytes)
        .unwrap_or_else(|error| panic!("{error}: {}", String::from_utf8_lossy(bytes)))
}

/// Waits until something holds; false if it does not within `patience`.
pub(crate) fn eventually(patience: Duration, mut holds: impl FnMut() -> bool) -> bool {
    let start = Instant::now();
    while start.elapsed() < patience {
        if holds() {
            return true;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    holds()
}

/// What an iperf3 client with these arguments reports.
///
/// A server ends a test some time after its client, and turns others away meanwhile; of that the exit code says nothing.
pub(crate) fn iperf3(lab: &Lab, from: &str, more: &[&str]) -> Value {
    let command = [&["iperf3", "--json"], more].concat();
    let mut report = Value::Null;
    let is_taken = eventually(Duration::from_secs(10), || {
        report = serde_json::from_str(&lab.must(from, &command)).expect("iperf3 prints JSON");
        report["error"] != "the server is busy running a test. try again later"
    });
    assert!(is_taken, "{report}");
    report
}

/// The memory of a process that is in RAM.
pub(crate) fn resident_kib(pid: i32) -> u64 {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).expect("the agent's status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number.expect("VmRSS in kB").parse().expect("a number")
}

/// True if all that ping sent was answered, but for one: the last was on its way when it was told to end.
pub(crate) fn lost_nothing(summary: &str) -> bool {
    let count = |what: &str| {
        let (before, _) = summary.split_once(what)?;
        before.rsplit([' ', '\n']).next()?.parse::<u64>().ok()
    };
    let sent = count(" packets transmitted").expect("ping sums up");
    let answered = count(" received").expect("ping sums up");
    answered > 0 && sent - answered <= 1
}

/// Every cell of the lab is as the manifests say; how many there are.
pub(crate) fn no_wrong_cell(lab: &Lab) -> usize {
    let report = lab.check();
    let cells = report["cells"].as_array().expect("cells");
    let wrong: Vec<_> = cells
        .iter()
        .filter(|cell| cell["expected"] != cell["seen"])
        .collect();
    assert_eq!((report["wrong"].as_u64(), &wrong), (Some(0), &Vec::new()));
    println!("{} cells", cells.len());
    cells.len()
}
