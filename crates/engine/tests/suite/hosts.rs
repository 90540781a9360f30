//! Backends that are nodes, and node ports of other nodes: whoever answers must answer through the dataplane (S22).

use podway_engine::{DropReason, Verdict};
use podway_intent::{Change, HostPort, NodeSetup, Pod, TrafficPolicy};
use podway_tables::PortId;
use podway_wire::{FlowKey, Protocol, TCP_ACK, TCP_SYN};

use crate::world::{
    HOST, TestNode, UPLINK, across, ingress_policy, key, key_of, packet, pod, service, setup,
    slice, two_nodes,
};

const CLIENT: PortId = PortId(2);
const WEB1: PortId = PortId(3);
const OTHER: PortId = PortId(3);
const NODE_PORT: u16 = 30_080;

/// Two nodes with source ports of their own.
fn nodes(more: &[Change]) -> [TestNode; 2] {
    let mut number = 0;
    two_nodes(more).map(|mut node| {
        number += 1;
        let Change::Setup(setup) = setup(number) else {
            panic!("a set-up")
        };
        node.change([Change::Setup(NodeSetup {
            snat_ports: Some((50_000, 59_999)),
            ..setup
        })]);
        node
    })
}

fn tcp(source: (&str, u16), target: (&str, u16)) -> FlowKey {
    key(Protocol::TCP, source, target)
}

/// Sends a SYN and its answer between two ports of the nodes; gives the keys that each side received.
fn round_trip(
    nodes: &mut [TestNode; 2],
    (from, client): (usize, PortId),
    (to, server): (usize, PortId),
    dialled: &FlowKey,
) -> (FlowKey, FlowKey) {
    let syn = packet(client, dialled, TCP_SYN, &[]);
    let there = across(nodes, from, client, &syn);
    assert_eq!(there.verdict, Verdict::Transmit(server), "{dialled}");
    let received = key_of(&there.bytes);
    let answer = packet(server, &received.reverse(), TCP_SYN | TCP_ACK, &[]);
    let back = across(nodes, to, server, &answer);
    assert_eq!(back.verdict, Verdict::Transmit(client), "{dialled}");
    (received, key_of(&back.bytes))
}

#[test]
fn s22_a_node_reaches_itself_and_other_nodes_behind_a_cluster_address_and_is_answered_through_us() {
    for (backend, to, vip, own, gateway) in [
        ("192.168.50.1", 0, "10.96.0.5", "192.168.50.1", "10.244.1.1"),
        ("192.168.50.2", 1, "10.96.0.5", "192.168.50.1", "10.244.1.1"),
        ("fd50::1", 0, "fd96::5", "fd50::1", "fd44:0:0:1::1"),
        ("fd50::2", 1, "fd96::5", "fd50::1", "fd44:0:0:1::1"),
    ] {
        let facts = [service("web", 5), slice("web", "web-1", &[backend])];
        let mut nodes = nodes(&facts);
        let dialled = tcp((own, 40_000), (vip, 80));
        let (received, answered) = round_trip(&mut nodes, (0, HOST), (to, HOST), &dialled);
        assert_eq!(received, tcp((gateway, 40_000), (backend, 8080)));
        assert_eq!(answered, dialled.reverse());
    }
}

#[test]
fn s22_a_node_reaches_pods_behind_a_cluster_address_with_its_own_address() {
    for (backend, to, server) in [("10.244.1.11", 0, WEB1), ("10.244.2.13", 1, OTHER)] {
        let facts = [service("web", 5), slice("web", "web-1", &[backend])];
        let mut nodes = nodes(&facts);
        let dialled = tcp(("192.168.50.1", 40_000), ("10.96.0.5", 80));
        let (received, answered) = round_trip(&mut nodes, (0, HOST), (to, server), &dialled);
        assert_eq!(received, tcp(("192.168.50.1", 40_000), (backend, 8080)));
        assert_eq!(answered, dialled.reverse());
    }
}

#[test]
fn s20_a_pod_reaches_nodes_behind_a_cluster_address_with_its_own_address() {
    for (backend, to) in [("192.168.50.1", 0), ("192.168.50.2", 1)] {
        let facts = [service("web", 5), slice("web", "web-1", &[backend])];
        let mut nodes = nodes(&facts);
        let dialled = tcp(("10.244.1.10", 40_000), ("10.96.0.5", 80));
        let (received, answered) = round_trip(&mut nodes, (0, CLIENT), (to, HOST), &dialled);
        assert_eq!(received, tcp(("10.244.1.10", 40_000), (backend, 8080)));
        assert_eq!(answered, dialled.reverse());
    }
}

/// The service at node port 30080, with this policy for external traffic.
fn at_node_port(external: TrafficPolicy) -> Change {
    let Change::Service(mut service) = service("web", 5) else {
        panic!("a service")
    };
    service.external = external;
    service.ports[0].node_port = Some(NODE_PORT);
    Change::Service(service)
}

#[test]
fn s12_s20_a_pod_reaches_the_node_port_of_its_own_and_of_another_node() {
    let facts = [
        at_node_port(TrafficPolicy::Cluster),
        slice("web", "web-1", &["10.244.1.11"]),
    ];
    // From node 2 the packet goes through the tunnel untranslated, and node 1 makes it its own.
    for (from, client, source) in [(0, CLIENT, "10.244.1.10"), (1, OTHER, "10.244.2.13")] {
        let mut nodes = nodes(&facts);
        let dialled = tcp((source, 40_000), ("192.168.50.1", NODE_PORT));
        let (received, answered) = round_trip(&mut nodes, (from, client), (0, WEB1), &dialled);
        let port = received.source_port;
        assert_eq!(received, tcp(("192.168.50.1", port), ("10.244.1.11", 8080)));
        assert!((50_000..60_000).contains(&port), "{port}");
        assert_eq!(answered, dialled.reverse());
    }
}

#[test]
fn s9_a_pods_traffic_to_a_local_node_port_goes_anywhere_and_keeps_its_address() {
    let facts = [
        at_node_port(TrafficPolicy::Local),
        slice("web", "web-1", &["10.244.2.13"]),
    ];
    let mut nodes = nodes(&facts);
    let dialled = tcp(("10.244.1.10", 40_000), ("192.168.50.1", NODE_PORT));
    let (received, answered) = round_trip(&mut nodes, (0, CLIENT), (1, OTHER), &dialled);
    assert_eq!(
        received,
        tcp(("10.244.1.10", 40_000), ("10.244.2.13", 8080))
    );
    assert_eq!(answered, dialled.reverse());
}

/// A pod of the first node that answers at port 8088 of all its addresses.
fn host_port() -> Change {
    let Change::Pod(web) = pod("web1", 1, 11) else {
        panic!("a pod")
    };
    Change::Pod(Pod {
        host_ports: vec![HostPort {
            ip: None,
            protocol: Protocol::TCP,
            port: 8_088,
            target: 8_080,
        }],
        ..web
    })
}

#[test]
fn s26_n13_a_node_reaches_its_own_node_port_and_a_host_port_at_its_own_addresses() {
    let facts = [
        host_port(),
        at_node_port(TrafficPolicy::Cluster),
        slice("web", "web-1", &["10.244.1.11", "fd44:0:0:1::11"]),
        // The node is always let in.
        ingress_policy("web1", None),
    ];
    for (own, port, backend) in [
        ("192.168.50.1", NODE_PORT, "10.244.1.11"),
        ("192.168.50.1", 8_088, "10.244.1.11"),
        ("fd50::1", NODE_PORT, "fd44:0:0:1::11"),
    ] {
        let mut nodes = nodes(&facts);
        let dialled = tcp((own, 40_000), (own, port));
        let (received, answered) = round_trip(&mut nodes, (0, HOST), (0, WEB1), &dialled);
        assert_eq!(received, tcp((own, 40_000), (backend, 8080)));
        assert_eq!(answered, dialled.reverse());
    }
    // Nobody could answer a loopback: the pod sees the node.
    let mut nodes = nodes(&facts);
    for source in ["127.0.0.1", "127.9.9.9"] {
        let dialled = tcp((source, 40_000), ("127.0.0.1", 8_088));
        let (received, answered) = round_trip(&mut nodes, (0, HOST), (0, WEB1), &dialled);
        assert_eq!(received.source.ip().to_string(), "192.168.50.1");
        assert_eq!(received.target, tcp((source, 1), ("10.244.1.11", 1)).target);
        assert_eq!(answered, dialled.reverse());
    }
}

#[test]
fn s26_a_loopback_is_reached_from_its_own_node_alone() {
    let [mut node, _] = nodes(&[host_port()]);
    for (port, source, target, reason) in [
        (CLIENT, "10.244.1.10", "127.0.0.1", DropReason::Malformed),
        (UPLINK, "192.168.50.254", "127.0.0.1", DropReason::Malformed),
        (UPLINK, "127.0.0.1", "192.168.50.1", DropReason::Malformed),
        (CLIENT, "127.0.0.1", "192.168.50.1", DropReason::Spoofed),
        (HOST, "127.0.0.1", "127.0.0.2", DropReason::NoRoute),
        (HOST, "127.0.0.1", "10.244.1.11", DropReason::NoRoute),
    ] {
        let dialled = tcp((source, 40_000), (target, 8_088));
        node.drops(port, &packet(port, &dialled, TCP_SYN, b""), reason);
    }
}
