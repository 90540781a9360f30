//! A pod's router is its node: the kinds of routes, a default route that goes, addresses that come and go.

use std::io::Write;

use crate::bench::{Lab, eventually, root};
use crate::storage::{
    PATIENCE, POD, Running, Storage, TELLS_PEER, all_are_reached, node_ip, refusal, serves, told,
};

const SAYS_WHO: &str = include_str!("says_who.py");
const CLAIMS: &str = include_str!("claims.py");
const ASKS_WHO: &str = include_str!("asks_who.py");

#[test]
fn r1_pods_reach_what_their_node_reaches_by_any_device_under_the_source_that_the_route_prefers() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("tests/manifests/plain"));
    let storage = Storage::join(&lab);
    let _server = storage.tells_peers();
    all_are_reached(&lab, "by its own device");
    // A way that is closed is answered as the kernel would.
    for line in [
        "route add unreachable 10.31.0.0/16",
        "route add prohibit 10.32.0.0/16",
        "route add unreachable fd31::/64",
    ] {
        node_ip(&lab, line);
    }
    for (target, text) in [
        ("10.31.0.1", "No route to host"),
        ("10.32.0.1", "No route to host"),
        ("fd31::1", "Network is unreachable"),
    ] {
        let answered = eventually(PATIENCE, || refusal(&lab, target) == text);
        assert!(answered, "{target}: {:?}", refusal(&lab, target));
    }
}

#[test]
fn r1_a_default_route_goes_and_comes_and_moves_to_another_device() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("tests/manifests/plain"));
    let storage = Storage::join(&lab);
    let _world = serves(Running::at("world", &["python3", "-c", TELLS_PEER, "7000"]));
    let _storage = storage.tells_peers();
    for (family, out, by_first, by_second, near, router) in [
        (
            "-4",
            "198.51.100.1",
            "192.168.50.1",
            "10.9.0.1",
            "192.168.50.254",
            "10.9.0.2",
        ),
        (
            "-6",
            "2001:db8:99::1",
            "fd50::1",
            "fd09::1",
            "fd50::254",
            "fd09::2",
        ),
    ] {
        lab.must("world", &["ip", "addr", "add", out, "dev", "lo"]);
        let is_told = |source: &str| eventually(PATIENCE, || told(&lab, out, 7000) == source);
        assert!(is_told(by_first), "{out}");
        let default = node_ip(&lab, &format!("{family} route show default"));
        let default = default.trim();
        let unreachable = default.replace("default", "delete default");
        node_ip(&lab, &format!("{family} route {unreachable}"));
        let answered = eventually(PATIENCE, || refusal(&lab, out) == "Network is unreachable");
        assert!(answered, "{:?}", refusal(&lab, out));
        assert_eq!(told(&lab, near, 7000), by_first, "on-link");
        // The same address is by another device now.
        storage.ip(&format!("addr add {out} dev lo"));
        node_ip(&lab, &format!("{family} route add default via {router}"));
        assert!(is_told(by_second), "{out}");
        node_ip(&lab, &format!("{family} route delete default"));
        node_ip(&lab, &format!("{family} route add {default}"));
        assert!(is_told(by_first), "{out}");
    }
    let counters = lab.show("node1", "counters");
    assert!(
        counters["engine"]["unreachable"].as_u64() > Some(0),
        "{counters}"
    );
}

#[test]
fn r1_of_every_kind_of_route_the_one_counts_that_the_kernel_takes() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("tests/manifests/plain"));
    let storage = Storage::join(&lab);
    let _server = storage.tells_peers();
    for line in [
        "addr add 10.99.0.2/32 dev eth0",
        "addr add fe80::2/64 dev eth0 nodad",
    ] {
        storage.ip(line);
    }
    for line in [
        "addr add 10.9.0.77/24 dev eth1",
        "nexthop add id 7 via 10.9.0.2 dev eth1",
        "rule add preference 90 lookup 100",
        "-6 rule add preference 90 lookup 100",
    ] {
        node_ip(&lab, line);
    }
    // Each takes over from what only the metric, the length or the table of the next one beats.
    for (range, server, source, routes) in [
        (
            "10.40.0.0/16",
            "10.40.0.1",
            "10.9.0.1",
            &["via 10.9.0.66 metric 50", "via 10.9.0.2 metric 10"][..],
        ),
        (
            "10.41.0.0/16",
            "10.41.0.1",
            "10.9.0.1",
            &["via 10.99.0.2 dev eth1 onlink"],
        ),
        (
            "10.42.0.0/16",
            "10.42.0.1",
            "10.9.0.77",
            &["via 10.9.0.2 src 10.9.0.77"],
        ),
        (
            "10.43.0.0/16",
            "10.43.0.1",
            "10.9.0.1",
            &["nexthop via 10.9.0.2 dev eth1 nexthop via 192.168.50.254 dev eth0"],
        ),
        ("10.44.0.0/16", "10.44.0.1", "10.9.0.1", &["nhid 7"]),
        (
            "10.45.0.0/16",
            "10.45.0.1",
            "10.9.0.1",
            &["via inet6 fe80::2 dev eth1"],
        ),
        (
            "10.46.0.0/16",
            "10.46.0.1",
            "10.9.0.1",
            &["via 10.9.0.66", "via 10.9.0.2 table 100"],
        ),
        ("10.47.0.0/16", "10.47.0.1", "10.9.0.1", &["via 10.9.0.2"]),
        ("fd40::/64", "fd40::1", "fd09::1", &["via fe80::2 dev eth1"]),
        (
            "fd41::/64",
            "fd41::1",
            "fd09::1",
            &["via fd09::66 metric 50", "via fd09::2 metric 10"],
        ),
        (
            "fd42::/64",
            "fd42::1",
            "fd09::1",
            &["via fd09::66", "via fd09::2 table 100"],
        ),
    ] {
        storage.ip(&format!("addr add {server} dev lo"));
        for route in routes {
            node_ip(&lab, &format!("route add {range} {route}"));
        }
        let reached = eventually(PATIENCE, || told(&lab, server, 7000) == source);
        assert!(
            reached,
            "{range} {routes:?}: {:?}",
            told(&lab, server, 7000)
        );
    }
    node_ip(&lab, "route add unreachable 10.47.0.0/24");
    node_ip(&lab, "route add throw 10.47.0.0/24 table 100");
    assert!(eventually(PATIENCE, || refusal(&lab, "10.47.0.1")
        == "No route to host"));
    node_ip(&lab, "route add 10.47.0.1/32 via 10.9.0.2");
    assert!(eventually(PATIENCE, || told(&lab, "10.47.0.1", 7000) == "10.9.0.1"));
    let flows = lab.show("node1", "flows").to_string();
    assert!(flows.contains("10.47.0.1/32 dev eth1"), "{flows}");

    // What is dropped, and what is not followed, has a name.
    node_ip(&lab, "route add blackhole 10.48.0.0/16");
    let lost = || {
        let _ = refusal(&lab, "10.48.0.1");
        lab.show("node1", "counters")["engine"]["drop/blackhole"].as_u64() > Some(0)
    };
    assert!(eventually(PATIENCE, lost));
    node_ip(&lab, "rule add preference 80 fwmark 7 lookup 101");
    node_ip(&lab, "tuntap add tun0 mode tun");
    node_ip(&lab, "link set tun0 up");
    node_ip(&lab, "route add 10.49.0.0/16 dev tun0");
    assert!(eventually(PATIENCE, || refusal(&lab, "10.49.0.1")
        == "Network is unreachable"));
    let problems = lab.show("node1", "status")["node_problems"].to_string();
    for named in ["rule 80 of the routing policy", "tun0, no Ethernet device"] {
        assert!(problems.contains(named), "{problems}");
    }
}

#[test]
fn r2_an_address_that_moves_between_nodes_is_followed_under_traffic() {
    if !podway_needs::root() {
        return;
    }
    let lab = Lab::up(&root().join("tests/manifests/plain"));
    for (vip, length) in [("192.168.50.100", "32"), ("fd50::100", "128")] {
        let vip_range = format!("{vip}/{length}");
        let has = |at: &str, verb: &str| {
            let more: &[&str] = if verb == "add" && length == "128" {
                &["nodad"]
            } else {
                &[]
            };
            let command = [&["ip", "addr", verb, &vip_range, "dev", "eth0"], more].concat();
            lab.must(at, &command);
        };
        let machines = ["node:node1", "node:node2", "world"];
        let _servers = machines.map(|at| {
            let command = ["python3", "-c", SAYS_WHO, vip, "7053", at];
            serves(Running::at(at, &command))
        });
        has("node:node1", "add");
        let mut asks = Running::at(POD, &["python3", "-c", ASKS_WHO, vip, "7053"]);
        assert_eq!(asks.line(), "node:node1", "{vip}");
        has("node:node1", "del");
        has("node:node2", "add");
        assert_eq!(asks.line(), "node:node2", "{vip}");
        // From one neighbour to another, who says so.
        has("node:node2", "del");
        has("world", "add");
        let mut claims = Running::at("world", &["python3", "-c", CLAIMS, vip]);
        assert_eq!(claims.line(), "claims");
        assert_eq!(asks.line(), "world", "{vip}");
        drop(claims);
        has("world", "del");
        has("node:node1", "add");
        assert_eq!(asks.line(), "node:node1", "{vip}");
        let _ = asks.child.stdin.take().map(|mut it| it.write_all(b"\n"));
        has("node:node1", "del");
    }
}

#[test]
fn r2_pods_reach_an_address_that_only_a_device_of_their_node_has() {
    if !podway_needs::root() {
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
