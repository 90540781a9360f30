//! Pods that come and go under traffic: nothing leaks.

use std::fs;
use std::process::{Command, Stdio};

use serde_json::Value;

use crate::bench::{Lab, lost_nothing, resident_kib, root};

const PODS: usize = 200;

fn descriptors(pid: i32) -> usize {
    fs::read_dir(format!("/proc/{pid}/fd"))
        .expect("the agent's descriptors")
        .count()
}

fn in_node(arguments: &[&str]) {
    let output = Command::new("ip")
        .args(arguments)
        .output()
        .expect("ip runs");
    assert!(
        output.status.success(),
        "{arguments:?}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
}

/// One request to an agent's socket, in its words.
fn ask(socket: &str, request: &Value) -> Value {
    use std::io::{BufRead, BufReader, Write};
    let mut stream = std::os::unix::net::UnixStream::connect(socket).expect("the agent listens");
    writeln!(stream, "{request}").expect("it reads");
    let mut answer = String::new();
    BufReader::new(stream)
        .read_line(&mut answer)
        .expect("it answers");
    serde_json::from_str(&answer).expect("JSON")
}

/// A node where pods come and go.
pub(crate) struct Place {
    socket: String,
    namespace: String,
}

impl Place {
    pub(crate) fn of(lab: &Lab, node: &str) -> Place {
        let node = lab.node(node);
        let text = |field: &str| node[field].as_str().expect("text").to_owned();
        Place {
            socket: text("socket"),
            namespace: text("namespace"),
        }
    }

    /// A pod comes and goes.
    pub(crate) fn visit(&self, number: usize) {
        // A veth pair with both ends in the node's namespace is a pod's device as far as the agent is concerned.
        let (host, pod) = (format!("pwtest{number}"), format!("pwpeer{number}"));
        let namespace = &self.namespace;
        in_node(&[
            "-n", namespace, "link", "add", &host, "mtu", "9000", "type", "veth", "peer", "name",
            &pod,
        ]);
        in_node(&["-n", namespace, "link", "set", &pod, "up"]);
        let name = format!("shop/churn-{number}");
        let attach = serde_json::json!({"attach": {
            "pod": name, "interface": host, "mac": "02:00:00:00:77:01", "mtu": 9000,
        }});
        let answer = ask(&self.socket, &attach);
        assert!(
            answer["ok"].is_object() || answer["ok"].is_null(),
            "{answer}"
        );
        assert!(answer.get("error").is_none(), "{answer}");
        let answer = ask(&self.socket, &serde_json::json!({"detach": {"pod": name}}));
        assert!(answer.get("error").is_none(), "{answer}");
        in_node(&["-n", namespace, "link", "del", &host]);
    }
}

#[test]
fn two_hundred_pods_come_and_go_under_traffic_and_leak_nothing() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("config/lab"));
    let pid = lab.agent("node1");
    let place = Place::of(&lab, "node1");
    let address = lab.address("ops/bulk", |address| !address.contains(':'));
    let mut flood = Command::new(crate::bench::podway());
    let flood = flood.args([
        "lab",
        "exec",
        "shop/client",
        "--",
        "ping",
        "-q",
        "-i",
        "0.002",
        &address,
    ]);
    let flood = flood.stdout(Stdio::piped()).spawn().expect("ping runs");

    let one = |number| place.visit(number);
    (0..20).for_each(one);
    let (descriptors_before, memory_before) = (descriptors(pid), resident_kib(pid));
    let ports_before = lab.show("node1", "ports").as_array().map(Vec::len);
    (20..20 + PODS).for_each(one);
    let (descriptors_after, memory_after) = (descriptors(pid), resident_kib(pid));

    let _ = Command::new("pkill")
        .args(["-INT", "-f", &format!("ping -q -i 0.002 {address}")])
        .status();
    let output = flood.wait_with_output().expect("ping ends");
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    println!(
        "{text}\ndescriptors {descriptors_before} > {descriptors_after}, resident {memory_before} > {memory_after} KiB"
    );
    assert!(
        descriptors_after <= descriptors_before + 2,
        "descriptors leak"
    );
    assert!(memory_after <= memory_before + 4_096, "memory leaks");
    assert_eq!(
        lab.show("node1", "ports").as_array().map(Vec::len),
        ports_before
    );
    assert!(
        lost_nothing(&text),
        "traffic of others is not disturbed: {text}"
    );
    assert_eq!(lab.check()["wrong"].as_u64(), Some(0));
}
