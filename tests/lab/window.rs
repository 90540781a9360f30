//! Pods that send from the moment they exist: nothing gets past a deny that was there before them.

use std::fmt::Write as _;
use std::fs;
use std::time::Duration;

use serde_json::Value;

use crate::bench::{Lab, eventually, root};

/// How many pods start if `PODWAY_STARTS` doesn't say.
const STARTS: usize = 50;
/// Names and addresses that pods have in turn.
const PODS: usize = 50;
/// The first pod's address; the target is x/a's neighbour y/a, on the same node.
const FIRST: &str = "10.244.1.100";
const TARGET: &str = "10.244.1.11";

/// The pods, which the agent is told of before they start, and a policy that lets them send to UDP port 9998 only.
fn manifests() -> String {
    let mut text = String::from(
        "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: { name: window, namespace: x }\nspec:\n  podSelector: { matchLabels: { pod: window } }\n  policyTypes: [Egress]\n  egress: [{ ports: [{ port: 9998, protocol: UDP }] }]\n",
    );
    for number in 0..PODS {
        let _ = write!(
            text,
            "---\napiVersion: v1\nkind: Pod\nmetadata: {{ name: window-{number}, namespace: x, labels: {{ pod: window }} }}\nspec:\n  nodeName: node1\n  containers: [{{ name: idle, command: [sleep, infinity] }}]\nstatus: {{ podIPs: [{{ ip: 10.244.1.{} }}] }}\n",
            100 + number
        );
    }
    text
}

/// N15: enforced from the first packet.
#[test]
fn n15_no_packet_of_a_starting_pod_gets_past_a_deny_that_was_there_before() {
    if !podway_needs::root() {
        return;
    }
    let asked = std::env::var("PODWAY_STARTS").ok();
    let starts = asked.map_or(STARTS, |text| text.parse().expect("a number of starts"));
    let name = format!("podway-test-window-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    fs::create_dir_all(&directory).expect("a directory");
    let cluster = root().join("tests/manifests/policies/cluster.yaml");
    fs::copy(cluster, directory.join("cluster.yaml")).expect("a copy");
    let lab = Lab::up(&directory);
    fs::write(directory.join("window.yaml"), manifests()).expect("written");
    let known = || {
        let shown = lab.show("node1", "endpoints").to_string();
        shown.contains(&format!("x/window-{}\"", PODS - 1))
    };
    assert!(eventually(Duration::from_secs(10), known), "pods are known");

    let file = directory.join("counts.json");
    let path = file.to_str().expect("UTF-8");
    let mut receiver = lab.spawn("y/a", &["python3", "-c", include_str!("counts.py"), path]);
    let counts = || -> Value {
        let text = fs::read_to_string(&file).unwrap_or_default();
        serde_json::from_str(&text).unwrap_or_default()
    };
    assert!(eventually(Duration::from_secs(10), || counts().is_object()));
    let node = lab.node("node1");
    let socket = node["socket"].as_str().expect("a socket");
    let (starts_text, pods) = (starts.to_string(), PODS.to_string());
    let script = include_str!("starts.py");
    let told = lab.must(
        "node:node1",
        &[
            "python3",
            "-c",
            script,
            socket,
            &starts_text,
            &pods,
            FIRST,
            TARGET,
        ],
    );
    // What is on its way arrives within a moment.
    let sources = |port: &str| counts()[port].as_object().map_or(0, serde_json::Map::len);
    let all = starts.min(PODS);
    let arrived = eventually(Duration::from_secs(5), || sources("9998") == all);
    let seen = counts();
    receiver.kill().expect("it runs");
    let _ = receiver.wait();
    let denied = lab.show("node1", "counters")["engine"]["drop/egress-denied"].as_u64();
    let received: u64 = seen["9998"]
        .as_object()
        .into_iter()
        .flatten()
        .filter_map(|(_, it)| it.as_u64())
        .sum();
    println!(
        "{told}received {received} allowed datagrams; {denied:?} that are not allowed were dropped"
    );
    let told: Value = serde_json::from_str(&told).expect("JSON");
    assert_eq!(seen["9999"], serde_json::json!({}), "past the deny");
    assert!(
        arrived,
        "every pod was heard at the port that it may send to: {seen}"
    );
    assert_eq!(told["sent_before_the_agent"], starts, "each sent before");
    assert!(received >= starts as u64 && denied >= Some(starts as u64));
    drop(lab);
    fs::remove_dir_all(directory).expect("removed");
}
