//! The node's kernel in network namespaces of our own making.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::Namespace;

use super::*;

/// How long the kernel may take to find a neighbour: it asks again each second.
const PATIENCE: Duration = Duration::from_secs(10);

/// Two namespaces, the node's and a peer's, joined by `eth0` on both sides; gone when dropped.
pub(crate) struct Wire {
    node: String,
    peer: String,
}

impl Wire {
    pub(crate) fn new(test: &str) -> Wire {
        let wire = Wire {
            node: format!("podway-test-{test}-node"),
            peer: format!("podway-test-{test}-peer"),
        };
        wire.remove();
        let (node, peer) = (&wire.node, &wire.peer);
        for line in [
            format!("netns add {node}"),
            format!("netns add {peer}"),
            format!("-n {node} link add eth0 type veth peer name eth0 netns {peer}"),
            format!("-n {node} link set lo up"),
            format!("-n {node} addr add 192.168.50.1/24 dev eth0"),
            format!("-n {node} addr add fd50::1/64 dev eth0 nodad"),
            format!("-n {peer} addr add 192.168.50.2/24 dev eth0"),
            format!("-n {peer} addr add fd50::2/64 dev eth0 nodad"),
            format!("-n {node} link set eth0 up"),
            format!("-n {peer} link set eth0 address 02:00:00:00:00:02 up"),
        ] {
            ip(&line);
        }
        wire
    }

    fn remove(&self) {
        for name in [&self.node, &self.peer] {
            let _ = Command::new("ip").args(["netns", "del", name]).output();
        }
    }

    /// Runs a future inside the node's namespace.
    pub(crate) fn inside<F: Future<Output = ()>>(&self, work: impl FnOnce() -> F + Send) {
        let namespace = Namespace::named(&self.node).expect("namespace");
        namespace
            .inside(|| {
                tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .expect("runtime")
                    .block_on(work());
            })
            .expect("entered");
    }

    fn shown(&self, line: &str) -> String {
        ip(&format!("-n {} {line}", self.node))
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.remove();
    }
}

pub(crate) fn ip(line: &str) -> String {
    let output = Command::new("ip")
        .args(line.split_whitespace())
        .output()
        .expect("iproute2 is installed");
    assert!(
        output.status.success(),
        "ip {line}: {}",
        String::from_utf8_lossy(&output.stderr)
    );
    String::from_utf8(output.stdout).expect("text")
}

#[test]
fn the_uplink_is_the_default_routes_device_of_the_least_metric() {
    if !podway_needs::root() {
        return;
    }
    let wire = Wire::new("default");
    let unnamed = || Settings {
        uplink: None,
        ..settings(1)
    };
    wire.shown("link add other type bridge");
    wire.shown("addr add 192.168.60.1/24 dev other");
    wire.shown("link set other up");
    wire.shown("-6 route add default via fd50::2 dev eth0");
    for (route, expected) in [
        ("link show lo", "eth0"),
        ("route add default via 192.168.60.2 metric 200", "other"),
        ("route add default via 192.168.50.2 metric 100", "eth0"),
    ] {
        wire.shown(route);
        wire.inside(|| async {
            let node = Node::open(unnamed()).await.expect("open");
            assert_eq!(node.uplink().name, expected, "{route}");
        });
    }
}

fn settings(queues: u32) -> Settings {
    Settings {
        uplink: Some("eth0".to_owned()),
        host_interface: "podway-host".to_owned(),
        queues,
        tunnel: Tunnel::Vxlan,
        pod_mtu: 1400,
        node: "node1".to_owned(),
        proc_sys: "/proc/sys".into(),
    }
}

fn addresses(texts: &[&str]) -> Vec<IpAddr> {
    texts
        .iter()
        .map(|text| text.parse().expect("address"))
        .collect()
}

fn wanted(ranges: &[&str], vteps: &[&str]) -> Wanted {
    Wanted {
        ranges: ranges
            .iter()
            .map(|text| text.parse().expect("range"))
            .collect(),
        addresses: addresses(&["192.168.50.1", "fd50::1"]),
        vteps: addresses(vteps).into_iter().collect(),
        direct: Default::default(),
    }
}

#[test]
fn the_pair_is_made_once_and_adopted_afterwards() {
    if !podway_needs::root() {
        return;
    }
    let wire = Wire::new("pair");
    wire.inside(|| async {
        let first = Node::open(settings(2)).await.expect("made");
        assert_eq!((first.host().mtu, first.dataplane().mtu), (1450, 1450));
        let second = Node::open(settings(2)).await.expect("adopted");
        assert_eq!(first.host(), second.host());
        for (tunnel, mtu) in [
            (Tunnel::Direct, 1500),
            (Tunnel::Auto, 1500),
            (Tunnel::Vxlan, 1450),
        ] {
            let settings = Settings {
                tunnel,
                ..settings(2)
            };
            let node = Node::open(settings).await.expect("adopted");
            assert_eq!(
                (node.host().mtu, node.dataplane().mtu),
                (mtu, mtu),
                "{tunnel}"
            );
        }
        let third = Node::open(settings(1))
            .await
            .expect("made anew: other queues");
        assert_ne!(first.host().ifindex, third.host().ifindex);
        assert_eq!(first.host().mac, third.host().mac);
    });
    let host = wire.shown("-d link show podway-host");
    assert!(
        host.contains("UP") && host.contains("numtxqueues 1"),
        "{host}"
    );
    let features = Command::new("ip")
        .args(["netns", "exec", &wire.node, "ethtool", "-k", "podway-host"])
        .output();
    if let Ok(features) = features {
        let text = String::from_utf8_lossy(&features.stdout).into_owned();
        assert!(text.contains("tx-checksumming: off"), "{text}");
    }
}

#[test]
fn the_pair_follows_the_uplinks_mtu_and_comes_back() {
    if !podway_needs::root() {
        return;
    }
    let wire = Wire::new("follow");
    wire.inside(|| async {
        let mut node = Node::open(settings(1)).await.expect("made");
        let wanted = wanted(&["10.96.0.0/16"], &[]);
        node.reconcile(&wanted).await.expect("reconciled");
        let first = node.host().clone();

        ip("link set eth0 mtu 1400");
        node.reconcile(&wanted).await.expect("reconciled");
        assert_eq!((node.host().mtu, node.dataplane().mtu), (1350, 1350));
        assert_eq!(node.host().ifindex, first.ifindex);

        ip("link del podway-host");
        node.reconcile(&wanted).await.expect("reconciled");
        assert_ne!(node.host().ifindex, first.ifindex);
        assert_eq!(node.host().mac, first.mac);
        assert!(ip("-4 route show dev podway-host").contains("10.96.0.0/16"));
    });
}

#[test]
fn somebody_elses_device_is_left_alone() {
    if !podway_needs::root() {
        return;
    }
    let wire = Wire::new("foreign");
    wire.shown("link add podway-host type bridge");
    wire.inside(|| async {
        let error = Node::open(settings(1)).await.err().expect("refused");
        assert_eq!(
            error.to_string(),
            "podway-host exists and is no veth device: rename it, or set `host_interface` to another name"
        );
        let other = Settings {
            uplink: Some("eth7".to_owned()),
            ..settings(1)
        };
        let error = Node::open(other).await.err().expect("refused");
        assert_eq!(
            error.to_string(),
            "there is no device eth7: set `uplink` to the device that leads to the other nodes"
        );
    });
}

#[test]
fn routes_follow_what_is_wanted() {
    if !podway_needs::root() {
        return;
    }
    let wire = Wire::new("routes");
    wire.inside(|| async {
        let mut node = Node::open(settings(1)).await.expect("made");
        let both = wanted(&["10.244.0.0/24", "10.96.0.0/16", "fd44:0:0:1::/64"], &[]);
        let seen = node.reconcile(&both).await.expect("reconciled");
        assert_eq!(seen.problems, Vec::<String>::new());
        let gateway = node.dataplane().mac.to_string();
        let routes = ip("-4 route show dev podway-host");
        assert!(
            routes.contains("10.244.0.0/24 via 169.254.112.1 proto 112 src 192.168.50.1 onlink"),
            "{routes}"
        );
        let routes = ip("-6 route show dev podway-host");
        assert!(
            routes.contains("fd44:0:0:1::/64 via fe80::112:1 proto 112 src fd50::1"),
            "{routes}"
        );
        let neighbours = ip("neigh show dev podway-host nud permanent");
        assert_eq!(neighbours.matches(&gateway).count(), 2, "{neighbours}");

        ip("route add 10.9.0.0/16 via 169.254.112.1 dev podway-host onlink");
        let fewer = wanted(&["10.96.0.0/16"], &[]);
        node.reconcile(&fewer).await.expect("reconciled");
        let routes = ip("-4 route show dev podway-host");
        assert!(!routes.contains("10.244.0.0/24"), "{routes}");
        assert!(routes.contains("10.96.0.0/16"), "{routes}");
        assert!(
            routes.contains("10.9.0.0/16"),
            "not ours to remove: {routes}"
        );
        assert_eq!(ip("-6 route show dev podway-host proto 112"), "");

        ip("route del 10.96.0.0/16 dev podway-host");
        node.reconcile(&fewer).await.expect("reconciled");
        assert!(ip("-4 route show dev podway-host").contains("10.96.0.0/16"));
    });
}

#[test]
fn next_hops_are_resolved_kept_and_given_back() {
    if !podway_needs::root() {
        return;
    }
    let wire = Wire::new("hops");
    wire.inside(|| async {
        ip("route add 192.168.70.0/24 via 192.168.50.2");
        let mut node = Node::open(settings(1)).await.expect("made");
        let direct: IpAddr = "192.168.50.2".parse().expect("address");
        let behind: IpAddr = "192.168.70.9".parse().expect("address");
        let six: IpAddr = "fd50::2".parse().expect("address");
        let all = wanted(
            &[],
            &["192.168.50.2", "192.168.70.9", "fd50::2", "203.0.113.1"],
        );
        let mut seen = node.reconcile(&all).await.expect("reconciled");
        let start = Instant::now();
        while seen.next_hops.len() < 3 && start.elapsed() < PATIENCE {
            let _ = tokio::time::timeout(Duration::from_millis(100), node.changed()).await;
            seen = node.reconcile(&all).await.expect("reconciled");
        }
        let mac = Mac([2, 0, 0, 0, 0, 2]);
        assert_eq!(
            seen.next_hops,
            BTreeMap::from([(direct, mac), (behind, mac), (six, mac)])
        );
        assert_eq!(
            seen.problems,
            ["no route to the node at 203.0.113.1: add one through eth0"]
        );
        assert!(ip("-d neigh show 192.168.50.2 dev eth0").contains("managed"));

        let quiet = tokio::time::timeout(Duration::from_millis(300), async {
            loop {
                node.changed().await;
                let before = node.reconcile(&all).await.expect("reconciled");
                assert_eq!(before.next_hops.len(), 3);
            }
        });
        assert!(quiet.await.is_err(), "looking again is without end");

        // A node in a subnet of the uplink is its own next hop, even where a route says otherwise.
        ip("route add 192.168.50.3/32 via 192.168.50.2");
        let mut near = wanted(&[], &["192.168.50.3", "192.168.70.9"]);
        near.direct = addresses(&["192.168.50.3"]).into_iter().collect();
        let seen = node.reconcile(&near).await.expect("reconciled");
        let next_hops = BTreeMap::from([(behind, mac)]);
        assert_eq!(seen.next_hops, next_hops, "nobody is 192.168.50.3");
        assert!(ip("-d neigh show 192.168.50.3 dev eth0").contains("managed"));
        node.reconcile(&wanted(&[], &[])).await.expect("reconciled");
        assert_eq!(ip("-d neigh show 192.168.50.2 dev eth0"), "");
    });
}

#[test]
fn r1_a_node_without_a_default_route_has_the_only_device_that_leads_anywhere_as_its_uplink() {
    if !podway_needs::root() {
        return;
    }
    let wire = Wire::new("no-default");
    wire.inside(|| async {
        let unnamed = || Settings {
            uplink: None,
            ..settings(1)
        };
        let node = Node::open(unnamed()).await.expect("made");
        assert_eq!(node.uplink().name, "eth0");
        drop(node);
        // The pair that is there by now is no way out; another device may be.
        let node = Node::open(unnamed()).await.expect("made again");
        assert_eq!(node.uplink().name, "eth0");
        ip("link add other type bridge");
        ip("addr add 192.168.60.1/24 dev other");
        ip("link set other up");
        let refused = Node::open(unnamed()).await.err().expect("not just one");
        assert!(refused.to_string().contains("set `uplink`"), "{refused}");
        ip("route add default via 192.168.50.2");
        let node = Node::open(unnamed()).await.expect("made");
        assert_eq!(node.uplink().name, "eth0");
    });
}

#[test]
fn r1_only_routes_that_nodes_or_ours_go_by_are_looked_at_again() {
    if !podway_needs::root() {
        return;
    }
    let wire = Wire::new("churn");
    wire.inside(|| async {
        let mut node = Node::open(settings(1)).await.expect("made");
        let peers = wanted(&["10.244.0.0/24"], &["192.168.70.9"]);
        ip("route add 192.168.70.0/24 via 192.168.50.2");
        let settle = async |node: &mut Node| {
            let quiet = Duration::from_millis(300);
            while tokio::time::timeout(quiet, node.changed()).await.is_ok() {
                node.reconcile(&peers).await.expect("reconciled");
            }
        };
        node.reconcile(&peers).await.expect("reconciled");
        settle(&mut node).await;
        for (line, concerns) in [
            ("route add 10.60.0.0/16 via 192.168.50.2", false),
            ("route add 192.168.70.0/26 via 192.168.50.2", true),
            ("route del 192.168.70.0/24", true),
            ("route add 192.168.80.0/24 dev eth0", true),
            ("route add default via 192.168.50.2", true),
            ("route del 10.244.0.0/24 dev podway-host", true),
            ("route del 10.60.0.0/16", false),
        ] {
            ip(line);
            let heard = tokio::time::timeout(Duration::from_millis(500), node.changed()).await;
            assert_eq!(heard.is_ok(), concerns, "{line}");
            node.reconcile(&peers).await.expect("reconciled");
            settle(&mut node).await;
        }
    });
}

#[test]
fn what_the_uplink_reaches_without_a_gateway_is_told_as_it_is_now() {
    if !podway_needs::root() {
        return;
    }
    let wire = Wire::new("subnets");
    wire.inside(|| async {
        let mut node = Node::open(settings(1)).await.expect("made");
        let none = wanted(&[], &[]);
        ip("route add default via 192.168.50.2 dev eth0");
        ip("route add 192.168.70.0/24 via 192.168.50.2");
        ip("route add 192.168.80.0/24 dev eth0");
        ip("route add 192.168.90.0/24 dev podway-host");
        let subnets =
            |seen: Seen| -> Vec<String> { seen.subnets.iter().map(ToString::to_string).collect() };
        let seen = node.reconcile(&none).await.expect("reconciled");
        assert_eq!(
            subnets(seen),
            ["192.168.50.0/24", "192.168.80.0/24", "fd50::/64"]
        );
        ip("addr add 192.168.60.1/26 dev eth0");
        ip("route del 192.168.80.0/24 dev eth0");
        let seen = node.reconcile(&none).await.expect("reconciled");
        assert_eq!(
            subnets(seen),
            ["192.168.50.0/24", "192.168.60.0/26", "fd50::/64"]
        );
    });
}
