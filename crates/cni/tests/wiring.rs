//! Pods are wired between real namespaces; a stand-in for the agent only sets host ends up. Needs root.

use std::num::NonZeroU16;
use std::process::Command;

use std::time::Duration;

use podway_cni::{PodWiring, pod_mac, unwire, wire};
use podway_host::{Namespace, NetlinkError, Network};

const INTERFACE: &str = "pwtest0";

/// Namespaces of one test, removed when it ends, and before it begins.
struct Place {
    names: [String; 2],
}

impl Place {
    fn new(test: &str) -> (Self, Namespace, Namespace) {
        let names = ["node", "pod"].map(|end| format!("podway-test-{test}-{end}"));
        names
            .iter()
            .for_each(|name| Namespace::remove(name).unwrap());
        let [node, pod] = names
            .each_ref()
            .map(|name| Namespace::create(name).unwrap());
        (Self { names }, node, pod)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        self.names
            .iter()
            .for_each(|name| Namespace::remove(name).unwrap());
    }
}

fn output(namespace: &Namespace, command: &str) -> String {
    let run = || Command::new("sh").args(["-c", command]).output().unwrap();
    let output = namespace.inside(run).unwrap();
    String::from_utf8(output.stdout).unwrap() + &String::from_utf8(output.stderr).unwrap()
}

fn wiring<'a>(
    node: &'a Namespace,
    pod: &'a Namespace,
    addresses: &'a [std::net::IpAddr],
    pod_ranges: &'a [ipnet::IpNet],
) -> PodWiring<'a> {
    PodWiring {
        pod: "shop/web-0",
        interface: INTERFACE,
        device: "eth0",
        node_namespace: node,
        pod_namespace: pod,
        mac: pod_mac("shop/web-0"),
        addresses,
        pod_ranges,
        gateway_mac: Some([2, 0, 0, 0, 0, 1]),
        queues: NonZeroU16::new(2).unwrap(),
        pod_mtu: 61_000,
        tunnel_mtu: 1_450,
    }
}

#[test]
fn a_pod_is_wired_with_both_families() {
    if !podway_needs::root() {
        return;
    }
    let (_place, node, pod) = Place::new("wire");
    let addresses = [
        "10.244.1.7".parse().unwrap(),
        "fd44:0:0:1::7".parse().unwrap(),
    ];
    let ranges = [
        "10.244.1.0/24".parse().unwrap(),
        "fd44:0:0:1::/64".parse().unwrap(),
    ];
    let wiring = wiring(&node, &pod, &addresses, &ranges);

    wire(&wiring).unwrap();

    let host = output(&node, &format!("ip -d link show {INTERFACE}"));
    assert!(
        host.contains("mtu 61000") && host.contains("state DOWN"),
        "{host}"
    );
    assert!(
        host.contains("numtxqueues 2") && host.contains("numrxqueues 2"),
        "{host}"
    );
    assert!(host.contains("alias podway:shop/web-0"), "{host}");

    let link = output(&pod, "ip -d link show eth0");
    assert!(link.contains("mtu 61000") && link.contains(",UP"), "{link}");
    assert!(
        link.contains("numtxqueues 2") && link.contains("numrxqueues 2"),
        "{link}"
    );
    assert!(
        link.contains(&podway_cni::agent::mac_text(wiring.mac)),
        "{link}"
    );
    let features = output(&pod, "ethtool -k eth0");
    assert!(features.contains("tx-checksumming: off"), "{features}");

    output(&node, &format!("ip link set {INTERFACE} up"));
    let v4 = output(&pod, "ip -4 route");
    assert!(v4.contains("default via 10.244.1.1 dev eth0"), "{v4}");
    assert_eq!(v4.matches("mtu 61000").count(), 2, "{v4}");
    assert!(!v4.contains("lock"), "R6: the stack learns of paths: {v4}");
    assert!(v4.contains("10.244.1.0/24 via 10.244.1.1 dev eth0"), "{v4}");
    let v6 = output(&pod, "ip -6 route");
    assert!(v6.contains("default via fd44:0:0:1::1 dev eth0"), "{v6}");
    assert!(
        v6.contains("fd44:0:0:1::/64 via fd44:0:0:1::1 dev eth0"),
        "{v6}"
    );
    let far = output(&pod, "ip route get 10.96.0.1; ip -6 route get fd96::1");
    assert_eq!(far.matches("mtu 61000").count(), 2, "{far}");
    let near = output(
        &pod,
        "ip route get 10.244.1.9; ip -6 route get fd44:0:0:1::9",
    );
    assert_eq!(near.matches("mtu 61000").count(), 2, "{near}");
    let own = output(&pod, "ip address show eth0");
    assert!(
        own.contains("inet 10.244.1.7/32") && own.contains("inet6 fd44:0:0:1::7/128"),
        "{own}"
    );
    assert!(!own.contains("tentative"), "{own}");
    let neighbours = output(&pod, "ip neighbour show nud permanent");
    for gateway in ["10.244.1.1", "fd44:0:0:1::1"] {
        let line = format!("{gateway} dev eth0 lladdr 02:00:00:00:00:01 PERMANENT");
        assert!(neighbours.contains(&line), "{neighbours}");
    }
    assert!(output(&pod, "ip link show lo").contains(",UP"));
}

#[test]
fn an_ipv6_pod_needs_no_ipv4() {
    if !podway_needs::root() {
        return;
    }
    let (_place, node, pod) = Place::new("six");
    let addresses = ["fd44:0:0:1::7".parse().unwrap()];
    let ranges = [
        "10.244.1.0/24".parse().unwrap(),
        "fd44:0:0:1::/64".parse().unwrap(),
    ];

    wire(&wiring(&node, &pod, &addresses, &ranges)).unwrap();

    assert_eq!(output(&pod, "ip -4 route"), "");
    assert!(output(&pod, "ip -6 route").contains("default via fd44:0:0:1::1 dev eth0"));
}

#[test]
fn a_failed_wire_leaves_nothing_behind() {
    if !podway_needs::root() {
        return;
    }
    let (_place, node, pod) = Place::new("fail");
    // The same address twice: the second one fails, after the links were made.
    let addresses = ["10.244.1.7".parse().unwrap(), "10.244.1.7".parse().unwrap()];
    let ranges = ["10.244.1.0/24".parse().unwrap()];

    let error = wire(&wiring(&node, &pod, &addresses, &ranges))
        .unwrap_err()
        .to_string();

    assert!(
        error.starts_with("pod shop/web-0: cannot add address 10.244.1.7/32: "),
        "{error}"
    );
    assert!(!output(&node, "ip -o link").contains("pw"));
    assert!(!output(&pod, "ip -o link").contains("eth0"));
}

#[test]
fn a_pod_without_a_range_is_refused_before_anything_is_made() {
    if !podway_needs::root() {
        return;
    }
    let (_place, node, pod) = Place::new("range");
    let addresses = ["fd44:0:0:1::7".parse().unwrap()];
    let ranges = ["10.244.1.0/24".parse().unwrap()];

    let error = wire(&wiring(&node, &pod, &addresses, &ranges))
        .unwrap_err()
        .to_string();

    assert!(
        error.contains("give the node one in spec.podCIDRs"),
        "{error}"
    );
    assert!(!output(&node, "ip -o link").contains("pw"));
}

#[test]
fn a_wire_is_taken_away_once_and_again() {
    if !podway_needs::root() {
        return;
    }
    let (_place, node, pod) = Place::new("unwire");
    let addresses = ["10.244.1.7".parse().unwrap()];
    let ranges = ["10.244.1.0/24".parse().unwrap()];
    wire(&wiring(&node, &pod, &addresses, &ranges)).unwrap();

    unwire(&node, INTERFACE).unwrap();
    unwire(&node, INTERFACE).unwrap();

    assert!(!output(&node, "ip -o link").contains("pw"));
    assert!(!output(&pod, "ip -o link").contains("eth0"));
}

/// Whether the kernel starts a link in time.
fn started(namespace: &Namespace, link: &str, within: Duration) -> Result<(), NetlinkError> {
    Network::of(namespace, async |network: Network| {
        network.started(link, within).await
    })
}

#[test]
fn a_wire_carries_packets_once_both_ends_are_up_and_started() {
    if !podway_needs::root() {
        return;
    }
    let (_place, node, pod) = Place::new("start");
    let addresses = ["10.244.1.7".parse().unwrap()];
    let ranges = ["10.244.1.0/24".parse().unwrap()];
    wire(&wiring(&node, &pod, &addresses, &ranges)).unwrap();

    let error = started(&pod, "eth0", Duration::from_millis(50)).unwrap_err();
    assert!(matches!(error, NetlinkError::NotStarted { .. }), "{error}");
    let text = error.to_string();
    assert!(
        text.starts_with("interface eth0 carries no packets after 0.05 s: "),
        "{text}"
    );
    std::thread::scope(|scope| {
        let waits = scope.spawn(|| started(&pod, "eth0", Duration::from_secs(30)));
        output(&node, &format!("ip link set {INTERFACE} up"));
        waits.join().unwrap().unwrap();
    });
    started(&node, INTERFACE, Duration::from_secs(30)).unwrap();

    std::thread::scope(|scope| {
        output(&node, &format!("ip link set {INTERFACE} down"));
        let waits = scope.spawn(|| started(&pod, "eth0", Duration::from_secs(30)));
        unwire(&node, INTERFACE).unwrap();
        let gone = waits.join().unwrap();
        // Taken away before it was looked for, or while it was waited for.
        assert!(gone.is_err(), "{gone:?}");
    });
}
