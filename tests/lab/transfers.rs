//! Bulk transfers whose bytes are compared: everywhere a pod can send to, in large packets.

use std::process::Child;
use std::time::Duration;

use serde_json::Value;

use crate::bench::{Lab, eventually, root, unprivileged};

const SCRIPT: &str = include_str!("transfer.py");
/// Bytes of each transfer and way, unless `PODWAY_TRANSFER_BYTES` says otherwise.
const BYTES: &str = "64000000";

/// A lab with servers in `near`, `far` and the world.
struct Transfers {
    servers: Vec<Child>,
    lab: Lab,
    bytes: String,
}

impl Transfers {
    fn up(arguments: &[&str]) -> Transfers {
        let lab = Lab::up_with(&root().join("tests/manifests/bulk"), arguments);
        let serve = |target: &str| lab.spawn(target, &["python3", "-c", SCRIPT, "serve", "7000"]);
        let servers = ["default/near", "default/far", "world"].map(serve).into();
        for target in ["default/near", "default/far", "world"] {
            let listens = || {
                let sockets = lab.must(target, &["ss", "-Hltn"]);
                sockets.contains(":7000")
            };
            assert!(eventually(Duration::from_secs(10), listens), "{target}");
        }
        let bytes = std::env::var("PODWAY_TRANSFER_BYTES").unwrap_or_else(|_| BYTES.to_owned());
        Transfers {
            servers,
            lab,
            bytes,
        }
    }

    /// Moves bytes between a pod and a server, both ways.
    fn between(&self, client: &str, host: &str, port: &str) {
        let command = ["python3", "-c", SCRIPT, "ask", host, port, &self.bytes];
        let said = self.lab.must(client, &command);
        print!("{client} and {host} {port}: {said}");
    }

    /// The addresses of a pod.
    fn addresses(&self, pod: &str) -> [String; 2] {
        let of = |wanted: fn(&str) -> bool| self.lab.address(pod, wanted);
        [of(|ip| !ip.contains(':')), of(|ip| ip.contains(':'))]
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

#[test]
fn bytes_arrive_as_they_were_sent_on_every_way() {
    if unprivileged() {
        return;
    }
    let all = Transfers::up(&[]);
    for host in all.addresses("default/near") {
        all.between("default/client", &host, "7000");
    }
    assert_eq!(
        all.counted("node1", "cut_packets"),
        0,
        "nothing is too long"
    );
    for host in all.addresses("default/far") {
        all.between("default/client", &host, "7000");
    }
    for host in ["10.96.0.70", "fd96::70"] {
        all.between("default/client", host, "70");
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
fn bytes_arrive_over_a_wire_of_9000() {
    if unprivileged() {
        return;
    }
    let all = Transfers::up(&["--underlay-mtu", "9000"]);
    for host in all.addresses("default/far") {
        all.between("default/client", &host, "7000");
    }
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
    if unprivileged() {
        return;
    }
    let all = Transfers::up(&[]);
    for (world, range) in [
        ("192.168.50.254", "192.168.50.0/25"),
        ("fd50::254", "fd50::/96"),
    ] {
        for size in ["1460", "536"] {
            // The nodes are in the lower half of their network.
            let route = [
                "ip", "route", "replace", range, "dev", "eth0", "advmss", size,
            ];
            all.lab.must("world", &route);
            all.between("default/client", world, "7000");
        }
    }
}

#[test]
fn bytes_arrive_with_and_without_tcps_options() {
    if unprivileged() {
        return;
    }
    let all = Transfers::up(&[]);
    let [far, _] = all.addresses("default/far");
    for setting in [
        "net.ipv4.tcp_sack=0",
        "net.ipv4.tcp_timestamps=0",
        "net.ipv4.tcp_ecn=1",
    ] {
        for pod in ["default/client", "default/far"] {
            all.lab.must(pod, &["sysctl", "-qw", setting]);
        }
        println!("{setting}");
        all.between("default/client", &far, "7000");
    }
}

#[test]
fn bytes_arrive_between_pods_of_1500_and_nothing_is_cut() {
    if unprivileged() {
        return;
    }
    let all = Transfers::up(&["--pod-mtu", "1500"]);
    let [near, _] = all.addresses("default/near");
    let [far, _] = all.addresses("default/far");
    for host in [near, far] {
        all.between("default/client", &host, "7000");
    }
    let cut = all.counted("node1", "cut_packets") + all.counted("node2", "cut_packets");
    assert_eq!(cut, 0);
}
