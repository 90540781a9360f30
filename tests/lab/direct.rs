//! Labs whose nodes send to each other directly, or by the tunnel only where they have to.

use std::fs;
use std::process::Child;
use std::time::Duration;

use serde_json::Value;

use crate::bench::{Lab, eventually, no_wrong_cell, root};
use crate::capture::{Capture, WIRE};
use crate::datagrams::shows_every_hop;
use crate::deaths::{is_gone, kill, restart};
use crate::world::up_with;

const DIRECT: [&str; 2] = ["--tunnel", "direct"];
const SEND: &str = include_str!("sends_directly.py");

/// The modes of a node's peers by their nodes.
fn modes(lab: &Lab, node: &str) -> Vec<(String, String)> {
    let status = lab.show(node, "status");
    let peers = status["peers"].as_array().expect("peers").iter();
    let text = |peer: &Value, key: &str| peer[key].as_str().expect("text").to_owned();
    let mut modes: Vec<_> = peers
        .map(|peer| (text(peer, "node"), text(peer, "mode")))
        .collect();
    modes.sort();
    modes
}

pub(crate) fn counter(lab: &Lab, node: &str, name: &str) -> u64 {
    let counters = lab.show(node, "counters");
    counters["engine"][name].as_u64().expect("a counter")
}

pub(crate) fn both_families(lab: &Lab, pod: &str) -> [String; 2] {
    [
        lab.address(pod, |ip| !ip.contains(':')),
        lab.address(pod, |ip| ip.contains(':')),
    ]
}

#[test]
fn every_cell_is_right_without_a_tunnel_and_nothing_is_encapsulated_on_the_wire() {
    if !podway_needs::root() {
        return;
    }
    for manifests in ["config/lab", "tests/manifests/six", "tests/manifests/mixed"] {
        let lab = Lab::up_with(&root().join(manifests), &DIRECT);
        let tunnelled = Capture::of(WIRE, "udp port 4789");
        let plain = Capture::of(WIRE, "tcp");
        no_wrong_cell(&lab);
        assert_eq!(tunnelled.lines(), Vec::<String>::new());
        assert!(plain.lines().len() > 10);
        let status = lab.status();
        for node in status["nodes"].as_array().expect("nodes") {
            let node = node["name"].as_str().expect("a name");
            let peers = modes(&lab, node);
            assert!(peers.iter().all(|(_, mode)| mode == "direct"), "{peers:?}");
            assert_eq!(counter(&lab, node, "tunnel-pushed"), 0);
            assert_eq!(counter(&lab, node, "drop/spoofed"), 0);
        }
    }
}

#[test]
fn pods_and_nodes_reach_each_other_directly_at_the_wires_mtu() {
    if !podway_needs::root() {
        return;
    }
    let manifests = root().join("tests/manifests/services");
    let lab = up_with(&manifests, &[&DIRECT[..], &["--pod-mtu", "1500"]].concat());
    // A strict host: what comes to the node from a pod must come in where the way back leads.
    for node in ["node:node1", "node:node2"] {
        lab.must(node, &["sysctl", "-qw", "net.ipv4.conf.all.rp_filter=1"]);
        lab.must(node, &["sysctl", "-qw", "net.ipv4.conf.eth0.rp_filter=1"]);
    }
    let far = both_families(&lab, "default/remote");
    for (from, to) in [
        ("default/client", "192.168.50.2"),
        ("default/client", "fd50::2"),
        ("default/client", "10.244.2.1"),
        ("node:node1", &far[0]),
        ("node:node1", &far[1]),
        ("default/client", &far[0]),
        ("default/client", &far[1]),
    ] {
        assert!(lab.pings(from, to), "{from} to {to}");
    }
    for (address, size) in [(&far[0], 1_472), (&far[1], 1_452)] {
        for from in ["default/client", "node:node1"] {
            let ping = |size: u32| {
                let size = size.to_string();
                let command = [
                    "ping", "-c", "1", "-W", "1", "-M", "do", "-s", &size, address,
                ];
                lab.exec(from, &command).status.success()
            };
            assert!(ping(size), "{from}: 1500 bytes to {address}");
            assert!(!ping(size + 1), "{from}: 1501 bytes to {address}");
        }
    }
    let route = lab.must("default/client", &["ip", "route", "get", &far[0]]);
    assert!(route.contains("mtu 1500"), "{route}");
}

#[test]
fn d2_d7_s20_clients_of_services_on_direct_nodes_meet_what_they_should() {
    if !podway_needs::root() {
        return;
    }
    let lab = up_with(&root().join("tests/manifests/services"), &DIRECT);
    // Two translations in a row: the backend on node2 sees node1, and the answer comes back by it.
    for (node, url) in [
        ("192.168.50.1", "http://192.168.50.1:30080/"),
        ("fd50::1", "http://[fd50::1]:30080/"),
    ] {
        let curl = ["curl", "--silent", "--fail", "--max-time", "2", url];
        assert_eq!(lab.must("world", &curl), node);
    }
    for host in ["10.96.0.7", "fd96::7"] {
        let script = include_str!("big_datagrams.py");
        let said = lab.must("default/client", &["python3", "-c", script, host, "1500"]);
        println!("{host}: {said}");
        assert!(said.contains("learnt 1500"), "{said}");
    }
    shows_every_hop(&lab);
    for node in ["node1", "node2"] {
        assert_eq!(counter(&lab, node, "tunnel-pushed"), 0);
    }
}

#[test]
fn auto_uses_the_tunnel_between_subnets_only() {
    if !podway_needs::root() {
        return;
    }
    let manifests = root().join("tests/manifests/apart");
    let lab = Lab::up_with(&manifests, &["--tunnel", "auto", "--underlay", "routed"]);
    let pair = |node: &str, mode: &str| (node.to_owned(), mode.to_owned());
    let (near, far) = ("direct", "vxlan");
    for (node, expected) in [
        ("node1", [pair("node2", near), pair("node3", far)]),
        ("node2", [pair("node1", near), pair("node3", far)]),
        ("node3", [pair("node1", far), pair("node2", far)]),
    ] {
        assert_eq!(modes(&lab, node), expected, "{node}");
    }
    let tunnelled = Capture::of(WIRE, "udp port 4789 and host 192.168.50.1");
    no_wrong_cell(&lab);
    let tunnelled = tunnelled.lines();
    assert!(tunnelled.len() > 10, "{tunnelled:?}");
    let between = tunnelled
        .iter()
        .filter(|line| line.contains("192.168.50.2.4789"));
    assert_eq!(between.count(), 0, "{tunnelled:?}");
    // D2: each peer's own MTU is told.
    for (pod, size) in [("default/web2", 1_472), ("default/web3", 1_422)] {
        let address = lab.address(pod, |ip| !ip.contains(':'));
        let ping = |size: u32| {
            let size = size.to_string();
            let command = [
                "ping", "-c", "1", "-W", "1", "-M", "do", "-s", &size, &address,
            ];
            lab.exec("default/web1", &command)
        };
        assert!(ping(size).status.success(), "{pod}");
        let told = ping(size + 1);
        let told = String::from_utf8_lossy(&told.stdout).into_owned();
        assert!(told.contains(&format!("mtu = {}", size + 28)), "{told}");
    }
}

#[test]
fn a_node_that_is_to_be_reached_directly_and_cannot_be_is_named_and_nothing_leaks() {
    if !podway_needs::root() {
        return;
    }
    let manifests = root().join("tests/manifests/apart");
    let lab = Lab::up_with(&manifests, &["--tunnel", "direct", "--underlay", "routed"]);
    let pods = Capture::of(WIRE, "net 10.244.0.0/16 or ip6 net fd44::/48");
    for address in both_families(&lab, "default/web3") {
        let url = match address.contains(':') {
            true => format!("http://[{address}]:8080/"),
            false => format!("http://{address}:8080/"),
        };
        assert!(!lab.gets("default/web1", &url));
    }
    for address in both_families(&lab, "default/web2") {
        assert!(lab.pings("default/web1", &address));
    }
    let pods = pods.lines();
    let of = |range: &str| pods.iter().filter(|line| line.contains(range)).count();
    for (near, far) in [
        (" 10.244.2.", " 10.244.3."),
        (" fd44:0:0:2:", " fd44:0:0:3:"),
    ] {
        assert!(of(near) > 0, "{near} is reached by the wire: {pods:?}");
        assert_eq!(of(far), 0, "{far} is not to leave: {pods:?}");
    }
    assert!(counter(&lab, "node1", "drop/off-subnet") > 1);
    let status = lab.show("node1", "status");
    let problems = status["cluster_problems"].to_string();
    assert!(
        problems.contains("node node3: nothing leads there"),
        "{problems}"
    );
    let far = ("node3".to_owned(), "unreachable".to_owned());
    assert!(modes(&lab, "node1").contains(&far));
}

/// What a pod's stack got for ports that nobody listens on.
fn no_ports(lab: &Lab, pod: &str) -> u64 {
    let text = lab.must(pod, &["cat", "/proc/thread-self/net/snmp"]);
    let mut lines = text.lines().filter(|line| line.starts_with("Udp:"));
    let (heads, values) = (lines.next().expect("heads"), lines.next().expect("values"));
    let mut pairs = heads.split(' ').zip(values.split(' '));
    let (_, value) = pairs.find(|(head, _)| *head == "NoPorts").expect("NoPorts");
    value.parse().expect("a number")
}

/// Sends from node2, as it is, what is said to be from `source`, to node1's Ethernet address; gives how many packets of
/// ten a pod of node1 got, and how many node1 dropped as spoofed.
fn sends(lab: &Lab, node1: &str, source: &str, mac: Option<&str>) -> (u64, u64) {
    let target = lab.address("default/client", |ip| !ip.contains(':'));
    let mut command = vec!["python3", "-c", SEND, node1, source, &target];
    command.extend(mac);
    let seen = || {
        let spoofed = counter(lab, "node1", "drop/spoofed");
        (no_ports(lab, "default/client"), spoofed)
    };
    let before = seen();
    lab.must("node:node2", &command);
    let is_done = || {
        let (got, spoofed) = seen();
        got - before.0 + spoofed - before.1 == 10
    };
    let patience = Duration::from_secs(3);
    assert!(eventually(patience, is_done), "{source}: {:?}", seen());
    let after = seen();
    (after.0 - before.0, after.1 - before.1)
}

#[test]
fn d8_a_node_that_is_deleted_under_traffic_is_forgotten_and_nobody_sends_in_its_place() {
    if !podway_needs::root() {
        return;
    }
    let manifests = root().join("tests/manifests/services");
    let lab = up_with(
        &manifests,
        &[&DIRECT[..], &["--source", "kubernetes"]].concat(),
    );
    let far = lab.address("default/remote", |ip| !ip.contains(':'));
    let own = lab.address("default/client", |ip| !ip.contains(':'));
    let status = lab.show("node2", "status");
    let node1 = status["peers"][0]["next_hop"].as_str().expect("a MAC");
    let sends = |source: &str, mac| sends(&lab, node1, source, mac);
    assert_eq!(sends(&far, None), (10, 0), "it is a direct peer");
    for (source, mac) in [
        (&far, Some("02:00:00:00:00:77")),
        (&own, None),
        (&"10.244.1.200".to_owned(), None),
    ] {
        assert_eq!(sends(source, mac), (0, 10), "{source} {mac:?}");
    }

    let pings = lab.spawn("default/client", &["ping", "-q", "-i", "0.01", &far]);
    let filter = "icmp and net 10.244.2.0/24";
    let seen = Capture::of(WIRE, filter);
    let remembered = || counter(&lab, "node1", "flow-hit");
    let (before, under_way) = (remembered(), Duration::from_secs(5));
    assert!(eventually(under_way, || remembered() > before + 20));
    assert!(seen.lines().len() > 10, "pings are seen before");
    let unreached = || counter(&lab, "node1", "drop/no-such-pod");
    let before = unreached();
    let node = "http://192.168.50.254:6443/api/v1/nodes/node2";
    lab.must(
        "world",
        &["curl", "--silent", "--fail", "-X", "DELETE", node],
    );
    let is_gone = || modes(&lab, "node1").is_empty() && unreached() > before;
    assert!(eventually(Duration::from_secs(5), is_gone));
    let leaked = Capture::of(WIRE, filter);
    let before = unreached();
    assert!(eventually(under_way, || unreached() > before + 20));
    assert_eq!(
        leaked.lines(),
        Vec::<String>::new(),
        "and nothing goes elsewhere"
    );
    kill(pings.id() as i32, "-INT");
    let said = pings.wait_with_output().expect("it ends").stdout;
    let said = String::from_utf8_lossy(&said).into_owned();
    println!("{}", said.trim());

    assert!(said.contains(" received"), "{said}");
    // The machine is still there, and sends on.
    assert_eq!(sends(&far, None), (0, 10), "its pods are nobody's now");
}

/// Ends a node's agent and starts it again with another way to its peers.
fn restart_with(lab: &Lab, node: &str, agent: i32, tunnel: &str) -> Child {
    kill(agent, "-KILL");
    assert!(eventually(Duration::from_secs(3), || is_gone(agent)));
    let path = format!("/run/podway-lab/{node}.toml");
    let text = fs::read_to_string(&path).expect("the configuration");
    let set = |line: &str| match line.starts_with("tunnel = ") {
        true => format!("tunnel = \"{tunnel}\"\n"),
        false => format!("{line}\n"),
    };
    fs::write(&path, text.lines().map(set).collect::<String>()).expect("written");
    let again = restart(lab, node);
    let has_peers = || lab.pings("default/remote", "10.244.2.1") && !modes(lab, node).is_empty();
    assert!(
        eventually(Duration::from_secs(5), has_peers),
        "{node} is back"
    );
    again
}

#[test]
fn d8_a_tunnel_from_a_direct_peer_is_opened_while_a_change_of_the_setting_goes_round() {
    if !podway_needs::root() {
        return;
    }
    let lab = up_with(&root().join("tests/manifests/services"), &DIRECT);
    let own = lab.address("default/client", |ip| !ip.contains(':'));
    assert!(lab.pings("default/remote", &own));

    let mut changed = restart_with(&lab, "node2", lab.agent("node2"), "vxlan");
    let seen = || {
        let opened = counter(&lab, "node1", "tunnel-opened");
        (opened, counter(&lab, "node2", "drop/spoofed"))
    };
    let before = seen();
    assert!(!lab.pings("default/remote", &own), "node1 answers directly");
    let after = seen();
    assert!(
        after.0 > before.0 && after.1 > before.1,
        "{before:?} {after:?}"
    );

    let mut back = restart_with(&lab, "node2", changed.id() as i32, "direct");
    let _ = changed.wait();
    let has_traffic = || lab.pings("default/remote", &own);
    assert!(eventually(Duration::from_secs(5), has_traffic));
    assert_eq!(lab.check()["wrong"].as_u64(), Some(0));
    kill(back.id() as i32, "-TERM");
    assert!(back.wait().expect("it ends").success());
}
