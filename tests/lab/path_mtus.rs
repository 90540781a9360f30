//! R6: paths that shrink and grow again under real transfers, between nodes and into the world, both families.

use std::fs;
use std::path::PathBuf;
use std::process::{Child, Command, Output, Stdio};
use std::time::Duration;

use serde_json::Value;

use crate::bench::{Lab, eventually, podway, root};
use crate::capture::{Capture, WIRE};
use crate::deaths::{kill, kill_agent, restart};
use crate::direct::{both_families, counter};
use crate::transfers::{SCRIPT, Transfers};

/// Bytes of a transfer each way.
const BYTES: &str = "24000000";
const PATIENCE: Duration = Duration::from_secs(30);

/// The cluster of two subnets with a router between them; without the nodes' IPv4 addresses its tunnels are IPv6.
fn manifests(family: &str) -> PathBuf {
    let name = format!("podway-test-apart-{family}-{}", std::process::id());
    let directory = std::env::temp_dir().join(name);
    fs::create_dir_all(&directory).expect("a directory");
    let path = root().join("tests/manifests/apart/cluster.yaml");
    let text = fs::read_to_string(path).expect("manifests");
    let nodes = match family {
        "v6" => &["192.168.50.1", "192.168.50.2", "192.168.51.3"][..],
        _ => &[],
    };
    let text = nodes.iter().fold(text, |text, address| {
        text.replace(&format!("{{ type: InternalIP, address: {address} }}, "), "")
    });
    fs::write(directory.join("cluster.yaml"), text).expect("written");
    directory
}

/// A restarted agent.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        kill(self.0.id() as i32, "-TERM");
        let _ = self.0.wait();
    }
}

/// Starts a node's agent anew, for which narrow paths count for so many seconds.
fn forgets_after(lab: &Lab, node: &str, seconds: u32) -> Agent {
    kill_agent(lab, node);
    let path = format!("/run/podway-lab/{node}.toml");
    let text = fs::read_to_string(&path).expect("the configuration");
    let text = format!("path_mtu_lifetime = {seconds}\n{text}");
    fs::write(&path, text).expect("written");
    Agent(restart(lab, node))
}

/// The paths that a node takes to be narrow: to whom, how, and what fits.
fn narrow_paths(lab: &Lab, node: &str) -> Vec<(String, String, u64)> {
    let status = lab.show(node, "status");
    let paths = status["path_mtus"].as_array().expect("paths").iter();
    let text = |path: &Value, key: &str| path[key].as_str().expect("text").to_owned();
    paths
        .map(|path| {
            let mtu = path["mtu"].as_u64().expect("a number");
            (text(path, "to"), text(path, "by"), mtu)
        })
        .collect()
}

/// A transfer that is under way.
struct Transfer(Child);

impl Transfer {
    fn begin(lab: &Lab, from: &str, host: &str) -> Transfer {
        let before = counter(lab, "node1", "cut");
        let ask = ["python3", "-c", SCRIPT, "ask", host, "7000", BYTES, "1"];
        let transfer = Transfer(lab.spawn(from, &ask));
        let is_under_way = || counter(lab, "node1", "cut") > before + 20;
        assert!(eventually(PATIENCE, is_under_way), "{host}");
        transfer
    }

    /// Waits for its end: all bytes arrived as they were sent.
    fn end(self) {
        let output = self.0.wait_with_output().expect("it ends");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        print!("{}", text(&output.stdout));
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
}

/// What the router lets through between the two subnets.
fn router_takes(lab: &Lab, mtu: &str) {
    for (family, range, metric) in [
        ("-4", "192.168.50.0/24", "0"),
        ("-4", "192.168.51.0/24", "0"),
        ("-6", "fd50::/64", "256"),
        ("-6", "fd51::/64", "256"),
    ] {
        let there = lab.must("world", &["ip", family, "route", "show", range]);
        // Nodes have no addresses of the other family where there is no such route.
        if !there.is_empty() {
            let mut replace = vec!["ip", family, "route", "replace", range];
            replace.extend(["dev", "eth0", "metric", metric, "mtu", mtu]);
            lab.must("world", &replace);
        }
    }
}

/// Datagrams of a pod that may not be cut: what their sender learns, and that those that may be get through.
fn learns(lab: &Lab, from: &str, host: &str, mtu: u32) {
    let most = mtu.to_string();
    let script = include_str!("big_datagrams.py");
    let said = lab.must(from, &["python3", "-c", script, host, &most]);
    assert!(said.contains(&format!("learnt {mtu}")), "{said}");
}

/// Has pods' own stacks forget what they learnt, which they keep for ten minutes.
fn forget_learnt(lab: &Lab, pods: &[&str]) {
    for pod in pods {
        lab.must(pod, &["ip", "route", "flush", "cache"]);
        lab.must(pod, &["ip", "-6", "route", "flush", "cache"]);
    }
}

fn serves(lab: &Lab, target: &str) -> [Child; 2] {
    let program = podway();
    let program = program.to_str().expect("UTF-8");
    let echo = [program, "lab", "serve", "udp-echo", "--port", "7"];
    let servers = [
        lab.spawn(target, &["python3", "-c", SCRIPT, "serve", "7000"]),
        lab.spawn(target, &echo),
    ];
    let listens = || {
        let sockets = lab.must(target, &["ss", "-Hltun"]);
        sockets.contains(":7000") && sockets.contains(":7 ")
    };
    assert!(eventually(PATIENCE, listens), "{target}");
    servers
}

/// An underlay whose router lets 1 400 bytes through in the middle of a transfer, and then 1 500 again.
fn shrinks_and_grows(family: &str, far_node: &str, headers: u32, full: &str) {
    let directory = manifests(family);
    let lab = Lab::up_with(&directory, &["--underlay", "routed"]);
    let agents = ["node1", "node3"].map(|node| forgets_after(&lab, node, 8));
    let servers = serves(&lab, "default/web3");
    let far = both_families(&lab, "default/web3");
    for host in &far {
        let reached = || lab.pings("default/web1", host);
        assert!(eventually(PATIENCE, reached), "{host}");
    }

    let [v4, v6] = &far;
    let under_way = Transfer::begin(&lab, "default/web1", v4);
    router_takes(&lab, "1400");
    let narrow = (far_node.to_owned(), "tunnel".to_owned(), 1_400);
    let knows = || narrow_paths(&lab, "node1") == [narrow.clone()];
    assert!(
        eventually(PATIENCE, knows),
        "{:?}",
        narrow_paths(&lab, "node1")
    );
    under_way.end();
    Transfer::begin(&lab, "default/web1", v6).end();
    for host in &far {
        learns(&lab, "default/web1", host, 1_400 - headers);
    }
    assert!(counter(&lab, "node1", "path-mtu-lowered") > 0);
    assert!(counter(&lab, "node1", "drop/tunnel-too-big") > 0);

    router_takes(&lab, "1500");
    forget_learnt(&lab, &["default/web1", "default/web3"]);
    let under_way = Transfer::begin(&lab, "default/web1", v6);
    let knows_none = || narrow_paths(&lab, "node1").is_empty();
    assert!(
        eventually(PATIENCE, knows_none),
        "{:?}",
        narrow_paths(&lab, "node1")
    );
    under_way.end();
    let capture = Capture::of(WIRE, full);
    Transfer::begin(&lab, "default/web1", v4).end();
    assert!(capture.lines().len() > 100, "segments fill the wire again");
    for node in ["node1", "node3"] {
        assert_eq!(counter(&lab, node, "drop/implausible-mtu"), 0, "{node}");
        assert_eq!(counter(&lab, node, "drop/fragment"), 0, "{node}");
    }
    drop(agents);
    end_all(servers);
    drop(lab);
    fs::remove_dir_all(directory).expect("removed");
}

fn end_all(servers: impl IntoIterator<Item = Child>) {
    for mut server in servers {
        let _ = server.kill();
        let _ = server.wait();
    }
}

#[test]
fn r6_an_underlay_shrinks_to_1400_and_grows_again_under_transfers() {
    if !podway_needs::root() {
        return;
    }
    let full = "udp port 4789 and ip[2:2] = 1500";
    shrinks_and_grows("v4", "192.168.51.3", 50, full);
}

#[test]
fn r6_an_ipv6_underlay_shrinks_to_1400_and_grows_again_under_transfers() {
    if !podway_needs::root() {
        return;
    }
    let full = "udp port 4789 and ip6[4:2] = 1460";
    shrinks_and_grows("v6", "fd51::3", 70, full);
}

/// A router behind the world, and a machine behind that: the way between world and router can be narrow.
struct Beyond;

impl Beyond {
    const FAR: [&str; 2] = ["203.0.113.2", "2001:db8:9::2"];

    fn new() -> Beyond {
        let beyond = Beyond;
        for line in include_str!("beyond.sh").lines() {
            run("sh", &["-ec", line]);
        }
        beyond
    }

    fn is_as_wide_as(&self, mtu: &str) {
        for (namespace, device) in [("podway-lab-world", "beyond"), ("podway-beyond", "world")] {
            run("ip", &["-n", namespace, "link", "set", device, "mtu", mtu]);
        }
    }

    /// Fragments that the router dropped.
    fn dropped(&self) -> String {
        let shown = run(
            "ip",
            &["netns", "exec", "podway-beyond", "nft", "list", "ruleset"],
        );
        String::from_utf8_lossy(&shown.stdout).into_owned()
    }

    fn spawn(&self, command: &[&str]) -> Child {
        let mut child = Command::new("ip");
        child
            .args(["netns", "exec", "podway-beyond-far"])
            .args(command);
        child.stdin(Stdio::null()).stdout(Stdio::null());
        child.spawn().expect("it starts")
    }
}

impl Drop for Beyond {
    fn drop(&mut self) {
        for namespace in ["podway-beyond", "podway-beyond-far"] {
            let _ = Command::new("ip")
                .args(["netns", "del", namespace])
                .status();
        }
    }
}

fn run(program: &str, arguments: &[&str]) -> Output {
    let output = Command::new(program).args(arguments).output();
    let output = output.expect("it runs");
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    output
}

#[test]
fn r6_uploads_pass_a_hop_of_1400_behind_which_fragments_are_dropped() {
    if !podway_needs::root() {
        return;
    }
    let all = Transfers::up(&[]);
    let lab = &all.lab;
    let _agents = ["node1", "node2"].map(|node| forgets_after(lab, node, 8));
    let reached = || lab.pings("default/client", "192.168.50.254");
    assert!(eventually(PATIENCE, reached));
    let beyond = Beyond::new();
    let program = podway();
    let program = program.to_str().expect("UTF-8");
    let servers = [
        beyond.spawn(&["python3", "-c", SCRIPT, "serve", "7000"]),
        beyond.spawn(&[program, "lab", "serve", "udp-echo", "--port", "7"]),
    ];
    for host in Beyond::FAR {
        let reached = || lab.pings("default/client", host);
        assert!(eventually(PATIENCE, reached), "{host}");

        // It shrinks in the middle of one, and has a pod of the other node find it so.
        let under_way = Transfer::begin(lab, "default/client", host);
        beyond.is_as_wide_as("1400");
        let narrow = (host.to_owned(), "wire".to_owned(), 1_400);
        let knows = || narrow_paths(lab, "node1") == [narrow.clone()];
        assert!(
            eventually(PATIENCE, knows),
            "{:?}",
            narrow_paths(lab, "node1")
        );
        under_way.end();
        let ask = ["python3", "-c", SCRIPT, "ask", host, "7000", BYTES, "1"];
        print!("{}", lab.must("default/far", &ask));
        let discover = include_str!("discovers.py");
        let said = lab.must("default/client", &["python3", "-c", discover, host, "1400"]);
        print!("{host}: {said}");

        beyond.is_as_wide_as("1500");
        let knows_none = || narrow_paths(lab, "node1").is_empty();
        assert!(
            eventually(PATIENCE, knows_none),
            "{:?}",
            narrow_paths(lab, "node1")
        );
        forget_learnt(lab, &["default/client", "default/near"]);
        Transfer::begin(lab, "default/near", host).end();
        assert!(narrow_paths(lab, "node1").is_empty(), "no error came");
    }
    let rules = beyond.dropped();
    assert_eq!(
        rules.matches("counter packets 0 bytes 0 drop").count(),
        2,
        "{rules}"
    );
    for node in ["node1", "node2"] {
        assert_eq!(counter(lab, node, "drop/implausible-mtu"), 0, "{node}");
    }
    end_all(servers);
}
