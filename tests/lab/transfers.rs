//! Bulk transfers whose bytes are compared: everywhere a pod can send to, in large packets.
//!
//! A stream moves 64 MB each way, where there are many cases less; `PODWAY_TRANSFER_BYTES=1000000000` makes that a gigabyte.

use std::process::Child;
use std::time::Duration;

use serde_json::Value;

use crate::bench::{Lab, eventually, root};

pub(crate) const SCRIPT: &str = include_str!("transfer.py");
/// Bytes of each transfer and way, unless `PODWAY_TRANSFER_BYTES` says otherwise.
const BYTES: u64 = 64_000_000;
/// Where the world is, and where the nodes are: the lower half of their network.
pub(crate) const WORLD: [(&str, &str); 2] = [
    ("192.168.50.254", "192.168.50.0/25"),
    ("fd50::254", "fd50::/96"),
];

/// A lab with servers in `near`, `far`, the world and on node 1 itself.
pub(crate) struct Transfers {
    servers: Vec<Child>,
    pub(crate) lab: Lab,
    bytes: u64,
}

impl Transfers {
    pub(crate) fn up(arguments: &[&str]) -> Transfers {
        let lab = Lab::up_with(&root().join("tests/manifests/bulk"), arguments);
        let serve = |target: &str| lab.spawn(target, &["python3", "-c", SCRIPT, "serve", "7000"]);
        let targets = ["default/near", "default/far", "world", "node:node1"];
        let servers = targets.map(serve).into();
        for target in targets {
            let listens = || {
                let sockets = lab.must(target, &["ss", "-Hltn"]);
                sockets.contains(":7000")
            };
            assert!(eventually(Duration::from_secs(10), listens), "{target}");
        }
        let bytes = std::env::var("PODWAY_TRANSFER_BYTES").map_or(BYTES, |bytes| {
            bytes.parse().expect("PODWAY_TRANSFER_BYTES is a number")
        });
        Transfers {
            servers,
            lab,
            bytes,
        }
    }

    /// Moves bytes between the client and a server, both ways, in one stream.
    fn moves(&self, host: &str, port: &str) {
        self.moves_some(host, port, 1, 1);
    }

    /// The same with a fraction of the bytes, in so many streams.
    pub(crate) fn moves_some(&self, host: &str, port: &str, fraction: u64, streams: u32) {
        self.moves_from("default/client", (host, port), fraction, streams);
    }

    /// The same from any pod or node.
    fn moves_from(&self, client: &str, (host, port): (&str, &str), fraction: u64, streams: u32) {
        let (bytes, streams) = ((self.bytes / fraction).to_string(), streams.to_string());
        let ask = ["python3", "-c", SCRIPT, "ask", host, port, &bytes, &streams];
        let said = self.lab.must(client, &ask);
        print!("{client} to {host} {port}: {said}");
    }

    /// The addresses of a pod.
    pub(crate) fn addresses(&self, pod: &str) -> [String; 2] {
        let of = |wanted: fn(&str) -> bool| self.lab.address(pod, wanted);
        [of(|ip| !ip.contains(':')), of(|ip| ip.contains(':'))]
    }

    /// Has the world offer segments of this size to the nodes.
    pub(crate) fn world_offers(&self, range: &str, size: &str) {
        let route = [
            "ip", "route", "replace", range, "dev", "eth0", "advmss", size,
        ];
        self.lab.must("world", &route);
    }

    /// Sets what the stacks of both pods do.
    pub(crate) fn set(&self, setting: &str) {
        for pod in ["default/client", "default/far"] {
            self.lab.must(pod, &["sysctl", "-qw", setting]);
        }
        println!("{setting}");
    }

    /// A counter of all ports of a node.
    fn counted(&self, node: &str, name: &str) -> u64 {
        let ports = self.lab.show(node, "ports");
        let rows = ports.as_array().expect("ports").iter();
        rows.map(|port| number(port, name)).sum()
    }
}

impl Drop for Transfers {
    fn drop(&mut self) {
        for server in &mut self.servers {
            let _ = server.kill();
            let _ = server.wait();
        }
    }
}

fn number(port: &Value, name: &str) -> u64 {
    port[name]
        .as_u64()
        .unwrap_or_else(|| panic!("{name} is not in {port}"))
}

/// What is tried alone, and what the kernel's default is.
pub(crate) const SETTINGS: [(&str, &str); 4] = [
    ("net.ipv4.tcp_sack=0", "net.ipv4.tcp_sack=1"),
    ("net.ipv4.tcp_timestamps=0", "net.ipv4.tcp_timestamps=1"),
    ("net.ipv4.tcp_ecn=1", "net.ipv4.tcp_ecn=2"),
    ("net.ipv4.tcp_ecn=0", "net.ipv4.tcp_ecn=2"),
];

#[test]
fn bytes_arrive_as_they_were_sent_on_every_way() {
    if !podway_needs::root() {
        return;
    }
    let all = Transfers::up(&[]);
    for host in all.addresses("default/near") {
        all.moves(&host, "7000");
        all.moves_some(&host, "7000", 4, 8);
    }
    assert_eq!(
        all.counted("node1", "cut_packets"),
        0,
        "nothing is too long"
    );
    for host in all.addresses("default/far") {
        all.moves(&host, "7000");
        all.moves_some(&host, "7000", 4, 8);
    }
    for host in ["10.96.0.70", "fd96::70"] {
        all.moves(host, "70");
        all.moves_some(host, "70", 4, 8);
    }
    for node in ["node1", "node2"] {
        let (cut, parts) = (
            all.counted(node, "cut_packets"),
            all.counted(node, "cut_parts"),
        );
        println!("{node}: {cut} packets in {parts} parts");
        assert!(
            cut > 100 && parts > 10 * cut,
            "pods hand over large segments"
        );
        assert_eq!(
            all.counted(node, "unsound") + all.counted(node, "unsendable"),
            0
        );
    }
}

#[test]
fn bytes_arrive_between_nodes_without_a_tunnel() {
    if !podway_needs::root() {
        return;
    }
    let all = Transfers::up(&["--tunnel", "direct"]);
    for host in all.addresses("default/far") {
        all.moves(&host, "7000");
        all.moves_some(&host, "7000", 4, 8);
    }
    for host in ["10.96.0.70", "fd96::70"] {
        all.moves_some(host, "70", 4, 1);
    }
    for node in ["node1", "node2"] {
        let of = |name| all.counted(node, name);
        let (cut, parts) = (of("cut_packets"), of("cut_parts"));
        let (joined, segments) = (of("joined_packets"), of("joined_parts"));
        println!("{node}: {cut} packets in {parts} parts, {joined} of {segments} segments");
        assert!(cut > 100 && parts > 10 * cut && segments > joined);
        assert_eq!(of("unsound") + of("unsendable"), 0);
    }
}

#[test]
fn bytes_arrive_over_a_wire_of_9000() {
    if !podway_needs::root() {
        return;
    }
    let all = Transfers::up(&["--underlay-mtu", "9000"]);
    for host in all.addresses("default/far") {
        all.moves(&host, "7000");
        all.moves_some(&host, "7000", 4, 8);
    }
    all.moves("10.96.0.70", "70");
    let (cut, parts) = (
        all.counted("node1", "cut_packets"),
        all.counted("node1", "cut_parts"),
    );
    assert!(
        cut > 100 && parts > 2 * cut,
        "{cut} packets in {parts} parts"
    );
}

#[test]
fn bytes_arrive_outside_whatever_segments_the_peer_takes() {
    if !podway_needs::root() {
        return;
    }
    let all = Transfers::up(&[]);
    for (world, range) in WORLD {
        for size in ["1460", "536"] {
            all.world_offers(range, size);
            println!("segments of {size}");
            all.moves(world, "7000");
            all.moves_some(world, "7000", 4, 8);
        }
    }
}

#[test]
fn bytes_arrive_with_and_without_tcps_options() {
    if !podway_needs::root() {
        return;
    }
    let all = Transfers::up(&[]);
    for (setting, default) in SETTINGS {
        all.set(setting);
        for host in all.addresses("default/far") {
            all.moves_some(&host, "7000", 4, 1);
        }
        all.set(default);
    }
}

/// S22: a node's own processes reach pods and services as pods do, in large packets.
#[test]
fn s22_bytes_arrive_between_pods_and_a_nodes_own_processes() {
    if !podway_needs::root() {
        return;
    }
    let all = Transfers::up(&[]);
    let near = all.addresses("default/near");
    let far = all.addresses("default/far");
    for host in near.iter().chain(&far) {
        all.moves_from("node:node1", (host, "7000"), 2, 1);
    }
    for host in ["10.96.0.70", "fd96::70"] {
        all.moves_from("node:node1", (host, "70"), 2, 1);
    }
    for host in ["192.168.50.1", "fd50::1"] {
        all.moves_some(host, "7000", 2, 1);
    }
    let ports = all.lab.show("node1", "ports");
    let mut ports = ports.as_array().expect("ports").iter();
    let host = ports.find(|port| port["name"] == "host").expect("a port");
    for (bytes, packets) in [("rx_bytes", "rx_packets"), ("tx_bytes", "tx_packets")] {
        let (bytes, packets) = (number(host, bytes), number(host, packets));
        // Acknowledgements are among them.
        assert!(bytes > 3_000 * packets, "{bytes} in {packets} packets");
    }
}

#[test]
fn bytes_arrive_between_pods_of_1500_and_nothing_is_cut() {
    if !podway_needs::root() {
        return;
    }
    let all = Transfers::up(&["--pod-mtu", "1500"]);
    let [near, _] = all.addresses("default/near");
    let [far, _] = all.addresses("default/far");
    for host in [near, far] {
        all.moves(&host, "7000");
        all.moves_some(&host, "7000", 4, 8);
    }
    let cut = all.counted("node1", "cut_packets") + all.counted("node2", "cut_packets");
    assert_eq!(cut, 0);
}
