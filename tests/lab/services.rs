//! Services of every kind and policy with real clients and servers, from pods, nodes and the world (S1-S23).

use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::bench::{Lab, eventually, iperf3, podway, root};
use crate::world::up;

/// What a client of the web server gets: whose address the server saw, or that nobody answered or refused.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Seen {
    As(String),
    Refused,
    Silence,
    Else(String),
}

fn get(lab: &Lab, from: &str, at: &str) -> Seen {
    let url = format!("http://{at}/");
    let Output { status, stdout, .. } =
        lab.exec(from, &["curl", "--silent", "--max-time", "1", &url]);
    // curl(1): 7 is a refused connection, 28 a timeout.
    match status.code() {
        Some(0) => Seen::As(String::from_utf8_lossy(&stdout).into_owned()),
        Some(7) => Seen::Refused,
        Some(28) => Seen::Silence,
        other => Seen::Else(format!("{other:?}")),
    }
}

#[test]
fn services_of_every_kind_answer_everybody_as_their_policies_say() {
    if !podway_needs::root() {
        return;
    }
    let lab = up();
    let v4 = lab.address("default/client", |ip| !ip.contains(':'));
    let v6 = lab.address("default/client", |ip| ip.contains(':'));
    let remote4 = lab.address("default/remote", |ip| !ip.contains(':'));
    let seen_as = |ip: &str| Seen::As(ip.to_owned());
    let (node1, node2) = (|| seen_as("192.168.50.1"), || seen_as("192.168.50.2"));
    let (pod, remote, world) = ("default/client", "default/remote", "world");
    let cells = [
        // A pod is seen by its own address through a cluster address (S20).
        ("S20", pod, "10.96.0.80", seen_as(&v4)),
        ("S20", pod, "[fd96::80]", seen_as(&v6)),
        ("S22", "node:node1", "10.96.0.80", node1()),
        ("S22", "node:node1", "[fd96::80]", seen_as("fd50::1")),
        // Policy Cluster: by way of either node, whose address is the source (S20).
        ("S20", world, "192.168.50.1:30080", node1()),
        ("S20", world, "192.168.50.2:30080", node2()),
        ("S20", world, "[fd50::1]:30080", seen_as("fd50::1")),
        ("S20", world, "[fd50::2]:30080", seen_as("fd50::2")),
        ("S12", pod, "192.168.50.2:30080", node2()),
        ("S12", "node:node1", "192.168.50.2:30080", node2()),
        ("S10", world, "203.0.113.80", node1()),
        ("S10", world, "[2001:db8::80]", seen_as("fd50::1")),
        ("S10", "node:node2", "203.0.113.80", node2()),
        ("S10", world, "203.0.113.80:81", Seen::Silence),
        ("S23", world, "198.51.100.80", node1()),
        ("S23", world, "[2001:db8:1::80]", seen_as("fd50::1")),
        // Policy Local: where an endpoint is the client is seen, elsewhere there is silence (S2, S20).
        ("S2", world, "192.168.50.1:30081", Seen::Silence),
        ("S2", world, "[fd50::1]:30081", Seen::Silence),
        ("S2", world, "203.0.113.81", Seen::Silence),
        (
            "S20",
            world,
            "192.168.50.2:30081",
            seen_as("192.168.50.254"),
        ),
        ("S20", world, "[fd50::2]:30081", seen_as("fd50::254")),
        // Inside, policy Local is the cluster address's only (S3, S4).
        ("S3", pod, "10.96.0.81", Seen::Silence),
        ("S3", pod, "[fd96::81]", Seen::Silence),
        ("S3", "node:node1", "10.96.0.81", Seen::Silence),
        ("S4", remote, "10.96.0.81", seen_as(&remote4)),
        ("S4", "node:node2", "10.96.0.81", node2()),
        // What a pod sends to an external address is cluster traffic (S9).
        ("S9", pod, "203.0.113.81", seen_as(&v4)),
        ("S9", pod, "[2001:db8::81]", seen_as(&v6)),
        // Source ranges guard the balancer's address only (S13).
        ("S13", world, "203.0.113.82", Seen::Silence),
        ("S13", pod, "203.0.113.82", Seen::Silence),
        ("S13", world, "192.168.50.1:30082", node1()),
        // A host port is the pod's on its own node only, and its clients are seen.
        (
            "host port",
            world,
            "192.168.50.2:8088",
            seen_as("192.168.50.254"),
        ),
        ("host port", world, "[fd50::2]:8088", seen_as("fd50::254")),
        ("host port", pod, "192.168.50.2:8088", seen_as(&v4)),
        ("host port", "node:node1", "192.168.50.2:8088", node1()),
        ("host port", world, "192.168.50.1:8088", Seen::Refused),
        ("S1", pod, "10.96.0.99", Seen::Refused),
        ("S1", world, "192.168.50.1:30099", Seen::Refused),
        ("S1", world, "[fd50::1]:30099", Seen::Refused),
        ("S11", pod, "10.96.0.80:81", Seen::Refused),
        ("S11", pod, "10.96.77.77", Seen::Silence),
    ];
    let mut wrong = Vec::new();
    for (row, from, at, expected) in cells {
        let seen = get(&lab, from, at);
        if seen != expected {
            wrong.push(format!("{row}: {from} to {at}: {seen:?}, not {expected:?}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn s20_pods_reach_the_world_under_their_nodes_address() {
    if !podway_needs::root() {
        return;
    }
    let lab = up();
    lab.must(
        "world",
        &["ip", "address", "add", "192.0.2.9/32", "dev", "lo"],
    );
    let server = "import http.server as h
class S(h.BaseHTTPRequestHandler):
    def do_GET(s):
        s.send_response(200); s.end_headers(); s.wfile.write(s.client_address[0].encode())
h.HTTPServer(('192.0.2.9', 80), S).serve_forever()";
    let mut server = lab.spawn("world", &["python3", "-c", server]);
    let at = "192.0.2.9";
    let answered = eventually(Duration::from_secs(5), || {
        get(&lab, "default/client", at) == Seen::As("192.168.50.1".into())
    });
    let remote = get(&lab, "default/remote", at);
    let flows = lab.show("node1", "flows");
    server.kill().expect("it runs");
    let _ = server.wait();
    assert!(answered, "{:?}", get(&lab, "default/client", at));
    assert_eq!(remote, Seen::As("192.168.50.2".into()));
    assert!(lab.pings("default/client", at), "echoes, too");
    let rows = flows["flows"].as_array().expect("flows").iter();
    let sources: Vec<&str> = rows
        .filter(|flow| flow["target"] == "192.0.2.9:80")
        .filter_map(|flow| flow["translated_source"].as_str())
        .collect();
    assert!(!sources.is_empty());
    for source in sources {
        let port = source.strip_prefix("192.168.50.1:").expect("the node's");
        let port: u16 = port.parse().expect("a port");
        assert!(port >= 61_000, "F10: {source}");
    }
}

/// Where a server on node2 is, behind a service of policy Cluster and one of policy Local.
fn clients(last: [u16; 2], port: u16, node_ports: [u16; 2]) -> Vec<(&'static str, String)> {
    let [open, local] = last;
    let [open_port, local_port] = node_ports;
    let mut all = vec![
        ("node:node1", format!("10.96.0.{open}:{port}")),
        ("default/client", format!("10.96.0.{open}:{port}")),
        ("default/client", format!("[fd96::{open}]:{port}")),
        ("default/remote", format!("10.96.0.{local}:{port}")),
        ("default/remote", format!("[fd96::{local}]:{port}")),
        ("default/client", format!("203.0.113.{local}:{port}")),
        ("world", format!("192.168.50.1:{open_port}")),
        ("world", format!("[fd50::1]:{open_port}")),
        ("world", format!("192.168.50.2:{local_port}")),
        ("world", format!("[fd50::2]:{local_port}")),
        ("world", format!("198.51.100.{open}:{port}")),
        ("world", format!("[2001:db8:1::{open}]:{port}")),
    ];
    for last in [open, local] {
        all.push(("world", format!("203.0.113.{last}:{port}")));
        all.push(("world", format!("[2001:db8::{last}]:{port}")));
    }
    all
}

/// The address and the port of a socket's.
fn parts(server: &str) -> (&str, &str) {
    let (host, port) = server.rsplit_once(':').expect("a port");
    (host.trim_matches(['[', ']']), port)
}

/// The addresses of services of policy Local are announced by the node that has the servers.
fn announce(lab: &Lab, last: u16) {
    for (address, node) in [
        (format!("203.0.113.{last}/32"), "192.168.50.2"),
        (format!("2001:db8::{last}/128"), "fd50::2"),
    ] {
        lab.must("world", &["ip", "route", "add", &address, "via", node]);
    }
}

/// S4, S9, S10, S12, S20, S22, S23 with a name server and a speed meter.
#[test]
fn names_are_resolved_and_streams_flow_through_services_of_every_kind_and_policy() {
    if !podway_needs::root() {
        return;
    }
    let lab = up();
    announce(&lab, 54);
    announce(&lab, 51);
    for (from, server) in clients([53, 54], 53, [30_053, 30_054]) {
        let (host, port) = parts(&server);
        for transport in ["udp", "tcp"] {
            lab.must(from, &["python3", "-c", ASK, host, port, transport, "10"]);
        }
    }
    for (from, server) in clients([52, 51], 5201, [30_201, 30_202]) {
        let (host, port) = parts(&server);
        let dial = ["--time", "1", "--client", host, "--port", port];
        let report = iperf3(&lab, from, &dial);
        let rate = report["end"]["sum_received"]["bits_per_second"].as_f64();
        println!("{from} to {host}: {:.0} Mbit/s", rate.unwrap_or(0.0) / 1e6);
        assert!(rate.is_some_and(|rate| rate > 1e6), "{report}");
    }
}

/// Asks a name server for A and AAAA from one socket at once, so many times (F12), and fails if anything is lost.
pub(crate) const ASK: &str = include_str!("ask_names.py");

#[test]
fn explain_says_of_node_ports_what_the_dataplane_does() {
    let manifests = root().join("tests/manifests/services");
    let explain = |node: &str, target: &str, port: u16| -> Value {
        let packet = format!(
            r#"{{"ingress":"uplink","src":"192.168.50.254","sport":40000,"dst":"{target}","dport":{port},"protocol":"tcp"}}"#
        );
        let output = std::process::Command::new(podway())
            .args([
                "explain",
                "--node",
                node,
                "--packet",
                &packet,
                "--manifests",
            ])
            .arg(&manifests)
            .output()
            .expect("podway runs");
        serde_json::from_slice(&output.stdout).expect("JSON")
    };
    for (target, port) in [("192.168.50.1", 30_080), ("203.0.113.80", 80)] {
        let answer = explain("node1", target, port);
        assert_eq!(answer["verdict"], "forward", "{answer}");
        assert_eq!(answer["source"], "192.168.50.1", "S20: {answer}");
        assert_eq!(answer["egress"], "node:node2");
        assert_eq!(answer["service"], "default/web:http");
        assert_eq!(answer["candidates"].as_array().map(Vec::len), Some(1));
    }
    let answer = explain("node1", "192.168.50.1", 30_081);
    assert_eq!(answer["verdict"], "drop", "S2: {answer}");
    assert_eq!(answer["candidates"].as_array().map(Vec::len), Some(0));
    let answer = explain("node2", "192.168.50.2", 30_081);
    assert_eq!(answer["source"], "192.168.50.254", "S20: {answer}");
    assert_eq!(answer["egress"], "pod:default/web");
    let answer = explain("node2", "192.168.50.2", 8088);
    assert_eq!(answer["service"], "pod:default/web:8088", "{answer}");
    assert_eq!(answer["source"], "192.168.50.254", "{answer}");
    assert_eq!(answer["egress"], "pod:default/web");
    let answer = explain("node1", "192.168.50.1", 30_099);
    assert_eq!(answer["verdict"], "reject", "S1: {answer}");
}
