//! A pod's router is its node: a second device, static routes, a default route that goes, addresses that come and go.

use std::io::{BufRead, BufReader, Write};
use std::process::{Child, ChildStdout, Command, Stdio};
use std::time::Duration;

use podway_host::{Namespace, Network};

use crate::bench::{Lab, eventually, podway, root, unprivileged};

const POD: &str = "default/caller";
const TELLS_PEER: &str = include_str!("tells_peer.py");
const SAYS_WHO: &str = include_str!("says_who.py");
const ASKS_WHO: &str = include_str!("asks_who.py");
const STORAGE: &str = "podway-test-storage";
/// How long a change of the kernel's may take to be in force on a busy machine.
const PATIENCE: Duration = Duration::from_secs(20);

/// A process in a pod, a node, the world or another namespace; gone when dropped.
struct Running {
    child: Child,
    lines: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Running {
        command.stdin(Stdio::piped()).stdout(Stdio::piped());
        let mut child = command.spawn().expect("it runs");
        let lines = BufReader::new(child.stdout.take().expect("piped"));
        Running { child, lines }
    }

    fn at(target: &str, command: &[&str]) -> Running {
        let mut lab = Command::new(podway());
        lab.args(["lab", "exec", target, "--"]).args(command);
        Running::start(lab)
    }

    /// The next line that it prints.
    fn line(&mut self) -> String {
        let mut line = String::new();
        self.lines.read_line(&mut line).expect("a line");
        line.trim().to_owned()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// A machine on a wire of its own to node1's `eth1`: 10.9.0.2 and fd09::2, and behind it 10.20.0.1 and fd20::1.
struct Storage;

impl Storage {
    fn join(lab: &Lab) -> Storage {
        let ip = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            let output = Command::new("ip").args(&words).output().expect("ip runs");
            let error = String::from_utf8_lossy(&output.stderr).into_owned();
            assert!(output.status.success(), "ip {line}: {error}");
        };
        let _ = Command::new("ip").args(["netns", "del", STORAGE]).output();
        ip(&format!("netns add {STORAGE}"));
        let node = |line: &str| {
            let words: Vec<&str> = line.split(' ').collect();
            lab.must("node:node1", &[&["ip"], &words[..]].concat());
        };
        node(&format!(
            "link add eth1 type veth peer name eth0 netns {STORAGE}"
        ));
        node("addr add 10.9.0.1/24 dev eth1");
        node("addr add fd09::1/64 dev eth1 nodad");
        for line in [
            "link set lo up",
            "addr add 10.20.0.1/32 dev lo",
            "addr add fd20::1/128 dev lo nodad",
            "addr add 10.9.0.2/24 dev eth0",
            "addr add fd09::2/64 dev eth0 nodad",
            "link set eth0 up",
        ] {
            ip(&format!("-n {STORAGE} {line}"));
        }
        let storage = Namespace::named(STORAGE).expect("made");
        Network::of(&storage, async |network: Network| {
            network.checksum_in_software(network.index("eth0")?).await
        })
        .expect("no device completes checksums on the way");
        node("link set eth1 up");
        node("route add 10.20.0.0/16 via 10.9.0.2");
        node("route add fd20::/64 via fd09::2");
        Storage
    }

    fn run(&self, command: &[&str]) -> Running {
        let mut inside = Command::new("ip");
        inside.args(["netns", "exec", STORAGE]).args(command);
        Running::start(inside)
    }
}

impl Drop for Storage {
    fn drop(&mut self) {
        let _ = Command::new("ip").args(["netns", "del", STORAGE]).output();
    }
}

/// What a server tells a pod that dials it; empty if it can't be dialled.
fn told(lab: &Lab, address: &str, port: u16) -> String {
    let program = "import socket,sys; print(socket.create_connection((sys.argv[1], int(sys.argv[2])), 3).recv(64).decode())";
    let port = port.to_string();
    let output = lab.exec(POD, &["python3", "-c", program, address, &port]);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// What a pod is told that can't dial.
fn refusal(lab: &Lab, address: &str) -> String {
    let program = "import socket,sys\ntry: socket.create_connection((sys.argv[1], 9), 3)\nexcept OSError as error: print(error.strerror or error)";
    let output = lab.exec(POD, &["python3", "-c", program, address]);
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

fn serves(mut running: Running) -> Running {
    assert_eq!(running.line(), "listens");
    running
}

#[test]
fn r1_pods_reach_what_their_node_reaches_by_any_device_under_the_source_that_the_route_prefers() {
    if unprivileged() {
        return;
    }
    let lab = Lab::up(&root().join("tests/manifests/plain"));
    let storage = Storage::join(&lab);
    let _server = serves(storage.run(&["python3", "-c", TELLS_PEER, "7000"]));
    for (target, source) in [
        ("10.9.0.2", "10.9.0.1"),
        ("10.20.0.1", "10.9.0.1"),
        ("fd09::2", "fd09::1"),
        ("fd20::1", "fd09::1"),
    ] {
        let reached = eventually(PATIENCE, || told(&lab, target, 7000) == source);
        assert!(reached, "{target}: {:?}", told(&lab, target, 7000));
    }
    // A way that is closed is answered as the kernel would.
    lab.must(
        "node:node1",
        &["ip", "route", "add", "unreachable", "10.31.0.0/16"],
    );
    lab.must(
        "node:node1",
        &["ip", "route", "add", "prohibit", "10.32.0.0/16"],
    );
    for (target, text) in [
        ("10.31.0.1", "No route to host"),
        ("10.32.0.1", "No route to host"),
    ] {
        let answered = eventually(PATIENCE, || refusal(&lab, target) == text);
        assert!(answered, "{target}: {:?}", refusal(&lab, target));
    }
}

#[test]
fn r1_a_default_route_goes_and_comes_and_moves_to_another_device() {
    if unprivileged() {
        return;
    }
    let lab = Lab::up(&root().join("tests/manifests/plain"));
    let storage = Storage::join(&lab);
    let _world = serves(Running::at("world", &["python3", "-c", TELLS_PEER, "7000"]));
    let _storage = serves(storage.run(&["python3", "-c", TELLS_PEER, "7000"]));
    lab.must(
        "world",
        &["ip", "addr", "add", "198.51.100.1/32", "dev", "lo"],
    );
    let out = "198.51.100.1";
    assert!(eventually(PATIENCE, || told(&lab, out, 7000) == "192.168.50.1"));
    let before = lab.must("node:node1", &["ip", "-4", "route", "show", "default"]);
    lab.must("node:node1", &["ip", "route", "del", "default"]);
    let answered = eventually(PATIENCE, || refusal(&lab, out) == "Network is unreachable");
    assert!(answered, "{:?}", refusal(&lab, out));
    assert!(
        told(&lab, "192.168.50.254", 7000) == "192.168.50.1",
        "on-link"
    );
    let counters = lab.show("node1", "counters");
    assert!(
        counters["engine"]["unreachable"].as_u64() > Some(0),
        "{counters}"
    );
    // The same address is by another device now.
    let ip = [
        "netns",
        "exec",
        STORAGE,
        "ip",
        "addr",
        "add",
        "198.51.100.1/32",
        "dev",
        "lo",
    ];
    assert!(Command::new("ip").args(ip).status().expect("ip").success());
    let default = ["ip", "route", "add", "default", "via", "10.9.0.2"];
    lab.must("node:node1", &default);
    assert!(eventually(PATIENCE, || told(&lab, out, 7000) == "10.9.0.1"));
    lab.must("node:node1", &["ip", "route", "del", "default"]);
    let words: Vec<&str> = before.split_whitespace().collect();
    lab.must(
        "node:node1",
        &[&["ip", "route", "add"], &words[..]].concat(),
    );
    assert!(eventually(PATIENCE, || told(&lab, out, 7000) == "192.168.50.1"));
}

#[test]
fn r2_an_address_that_moves_between_nodes_is_followed_under_traffic() {
    if unprivileged() {
        return;
    }
    let lab = Lab::up(&root().join("tests/manifests/plain"));
    for (vip, length) in [("192.168.50.100", "32"), ("fd50::100", "128")] {
        let vip_range = format!("{vip}/{length}");
        let has = |node: &str, verb: &str| {
            let more: &[&str] = if verb == "add" && length == "128" {
                &["nodad"]
            } else {
                &[]
            };
            let command = [&["ip", "addr", verb, &vip_range, "dev", "eth0"], more].concat();
            lab.must(&format!("node:{node}"), &command);
        };
        let server = |node: &str| {
            let command = ["python3", "-c", SAYS_WHO, vip, "7053", node];
            serves(Running::at(&format!("node:{node}"), &command))
        };
        let _servers = [server("node1"), server("node2")];
        has("node1", "add");
        let mut asks = Running::at(POD, &["python3", "-c", ASKS_WHO, vip, "7053"]);
        assert_eq!(asks.line(), "node1", "{vip}");
        has("node1", "del");
        has("node2", "add");
        assert_eq!(asks.line(), "node2", "{vip}");
        has("node2", "del");
        has("node1", "add");
        assert_eq!(asks.line(), "node1", "{vip}");
        let _ = asks.child.stdin.take().map(|mut it| it.write_all(b"\n"));
        has("node1", "del");
    }
}

#[test]
fn r2_pods_reach_an_address_that_only_a_device_of_their_node_has() {
    if unprivileged() {
        return;
    }
    let lab = Lab::up(&root().join("tests/manifests/plain"));
    // NodeLocal DNS has a dummy device; not every kernel has those, and a bridge does as well.
    let device = |kind: &str| {
        lab.exec(
            "node:node1",
            &["ip", "link", "add", "nodelocaldns", "type", kind],
        )
    };
    assert!(device("dummy").status.success() || device("bridge").status.success());
    for (address, length) in [("169.254.20.10", "32"), ("fd00:20::10", "128")] {
        let range = format!("{address}/{length}");
        lab.must(
            "node:node1",
            &["ip", "addr", "add", &range, "dev", "nodelocaldns"],
        );
    }
    lab.must("node:node1", &["ip", "link", "set", "nodelocaldns", "up"]);
    for address in ["169.254.20.10", "fd00:20::10"] {
        let command = ["python3", "-c", SAYS_WHO, address, "53", "local"];
        let _server = serves(Running::at("node:node1", &command));
        let mut asks = Running::at(POD, &["python3", "-c", ASKS_WHO, address, "53"]);
        assert_eq!(asks.line(), "local", "{address}");
    }
}
