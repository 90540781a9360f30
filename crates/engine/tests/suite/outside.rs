//! Traffic from and to outside of the cluster: node ports, load balancers, masquerade, and clients that stay.

use std::sync::Arc;

use podway_engine::{DropReason, Verdict};
use podway_intent::{Affinity, Change, IpMode, Key, NodeSetup, Service, TrafficPolicy};
use podway_tables::PortId;
use podway_wire::{FlowKey, Mac, Protocol, TCP_RST, macs};

use crate::world::{
    TestNode, UPLINK, across, addr, key, key_of, name, packet, parsed, pod_mac, service, slice,
    two_nodes, way_out,
};

const CLIENT: PortId = PortId(2);
const WEB1: PortId = PortId(3);
const WEB2: PortId = PortId(2);
const GATEWAY: Mac = Mac([2, 0, 0, 0, 9, 9]);
const OUTSIDE: &str = "203.0.113.7";
const NODE_PORT: u16 = 30_080;

fn altered(change: Change, alter: impl FnOnce(&mut Service)) -> Change {
    let Change::Service(mut service) = change else {
        panic!("a service")
    };
    alter(&mut service);
    Change::Service(service)
}

/// The slice with its endpoints on node 1.
fn local(change: Change) -> Change {
    let Change::EndpointSlice(mut slice) = change else {
        panic!("a slice")
    };
    for endpoint in &mut slice.endpoints {
        endpoint.node = Some("node1".into());
    }
    Change::EndpointSlice(slice)
}

/// The service of the tests with a node port and a load balancer's address.
pub(crate) fn outward(external: TrafficPolicy) -> Change {
    altered(service("web", 5), |service| {
        service.external = external;
        service.load_balancer_ips = vec![("198.51.100.5".parse().expect("address"), IpMode::Vip)];
        for port in &mut service.ports {
            port.node_port = Some(NODE_PORT);
        }
    })
}

/// Two nodes with a way out and source ports of their own.
pub(crate) fn nodes(more: &[Change]) -> [TestNode; 2] {
    let mut number = 0;
    two_nodes(more).map(|mut node| {
        number += 1;
        node.change(way_out(number, GATEWAY));
        node
    })
}

/// A packet from the wire, sent by the router of the tests.
fn from_wire(flow: &FlowKey, flags: u8) -> Vec<u8> {
    let mut bytes = packet(CLIENT, flow, flags, b"x");
    bytes[6..12].copy_from_slice(&[2, 0, 0, 0, 8, 8]);
    bytes
}

#[test]
fn s20_two_nats_in_a_row_and_the_reply_finds_back() {
    let mut nodes = nodes(&[
        outward(TrafficPolicy::Cluster),
        slice("web", "web-1", &["10.244.2.12"]),
    ]);
    for target in [("192.168.50.1", NODE_PORT), ("198.51.100.5", 80)] {
        let dialled = key(Protocol::TCP, (OUTSIDE, 5_000), target);
        let arrived = across(&mut nodes, 0, UPLINK, &from_wire(&dialled, 2));
        assert_eq!(arrived.verdict, Verdict::Transmit(WEB2));
        let seen = key_of(&arrived.bytes);
        assert_eq!(
            (seen.source, seen.target),
            (addr("192.168.50.1"), addr("10.244.2.12"))
        );
        assert!((61_000..=61_063).contains(&seen.source_port));
        assert_eq!(seen.target_port, 8080);
        let back = across(&mut nodes, 1, WEB2, &packet(WEB2, &seen.reverse(), 18, b""));
        assert_eq!(back.verdict, Verdict::Transmit(UPLINK));
        assert_eq!(key_of(&back.bytes), dialled.reverse());
        assert_eq!(macs(&back.bytes), Some((GATEWAY, Mac([2, 0, 0, 0, 2, 1]))));
    }
}

#[test]
fn s20_a_local_policy_keeps_the_clients_address_and_s2_drops_where_nobody_is() {
    let mut nodes = nodes(&[
        outward(TrafficPolicy::Local),
        local(slice("web", "web-1", &["10.244.1.11"])),
    ]);
    let dialled = key(Protocol::TCP, (OUTSIDE, 5_000), ("192.168.50.1", NODE_PORT));
    let sent = nodes[0].send(UPLINK, &from_wire(&dialled, 2));
    let expected = key(Protocol::TCP, (OUTSIDE, 5_000), ("10.244.1.11", 8080));
    assert_eq!(
        (sent.verdict, key_of(&sent.bytes)),
        (Verdict::Transmit(WEB1), expected)
    );
    let back = nodes[0].send(WEB1, &packet(WEB1, &expected.reverse(), 18, b""));
    assert_eq!(key_of(&back.bytes), dialled.reverse());
    let elsewhere = key(Protocol::TCP, (OUTSIDE, 5_000), ("192.168.50.2", NODE_PORT));
    nodes[1].drops(UPLINK, &from_wire(&elsewhere, 2), DropReason::ServiceDrop);
}

#[test]
fn a_pod_reaches_the_world_under_its_nodes_address_and_is_answered() {
    let [mut node, _] = nodes(&[]);
    for (protocol, ports) in [
        (Protocol::TCP, (5_000, 443)),
        (Protocol::UDP, (5_000, 53)),
        (Protocol::ICMP, (77, 0)),
    ] {
        let out = key(protocol, ("10.244.1.10", ports.0), (OUTSIDE, ports.1));
        let sent = node.send(CLIENT, &packet(CLIENT, &out, 2, b"q"));
        assert_eq!(sent.verdict, Verdict::Transmit(UPLINK));
        assert_eq!(macs(&sent.bytes), Some((GATEWAY, Mac([2, 0, 0, 0, 2, 1]))));
        let seen = key_of(&sent.bytes);
        assert_eq!(
            (seen.source, seen.target),
            (addr("192.168.50.1"), addr(OUTSIDE))
        );
        assert!((61_000..=61_063).contains(&seen.source_port));
        let back = node.send(UPLINK, &from_wire(&seen.reverse(), 18));
        assert_eq!(back.verdict, Verdict::Transmit(CLIENT));
        assert_eq!(key_of(&back.bytes), out.reverse());
        assert_eq!(
            macs(&back.bytes).map(|(target, _)| target),
            Some(pod_mac(CLIENT))
        );
    }
}

#[test]
fn source_ports_are_used_again_for_each_target_and_end_by_name() {
    let [mut node, _] = nodes(&[]);
    let mut out = |port: u16, target_port: u16| {
        let out = key(Protocol::UDP, ("10.244.1.10", port), (OUTSIDE, target_port));
        node.send(CLIENT, &packet(CLIENT, &out, 0, b"q")).verdict
    };
    let sent = (5_000..5_064)
        .filter(|port| out(*port, 53) == Verdict::Transmit(UPLINK))
        .count();
    assert!(sent >= 62, "{sent} of 64 ports were found");
    let refused =
        (6_000..6_010).filter(|port| out(*port, 53) == Verdict::Drop(DropReason::SourcePorts));
    assert!(refused.count() >= 8);
    assert_eq!(
        out(7_000, 54),
        Verdict::Transmit(UPLINK),
        "another target has all ports"
    );
}

#[test]
fn s10_what_no_service_has_at_a_node_port_is_the_nodes_own() {
    let [mut node, _] = nodes(&[]);
    let stray = key(Protocol::TCP, (OUTSIDE, 5_000), ("192.168.50.1", 61_005));
    let sent = node.send(UPLINK, &from_wire(&stray, 2));
    assert_eq!(sent.verdict, Verdict::Transmit(crate::world::HOST));
}

#[test]
fn s14_a_client_stays_with_its_backend_until_time_or_the_backend_goes() {
    let backends = ["10.244.1.11", "10.244.2.12", "10.244.2.13"];
    let sticky = altered(service("web", 5), |service| {
        service.affinity = Affinity::ClientIp { timeout_s: 60 };
    });
    let [mut node, _] = two_nodes(&[sticky.clone(), slice("web", "web-1", &backends)]);
    let mut port = 4_000;
    let mut backend = |node: &mut TestNode| {
        port += 1;
        let flow = key(Protocol::TCP, ("10.244.1.10", port), ("10.96.0.5", 80));
        let sent = node.send(CLIENT, &packet(CLIENT, &flow, 2, b""));
        let mut bytes = sent.bytes;
        if sent.verdict == Verdict::Transmit(UPLINK) {
            bytes.drain(..50);
        }
        key_of(&bytes).target.to_string()
    };
    let first = backend(&mut node);
    for _ in 0..20 {
        node.now_ms += 50_000;
        node.engine.sweep(1_024, node.now_ms);
        assert_eq!(backend(&mut node), first, "each use counts as new");
    }
    // Off and on again: it is still known.
    node.change([service("web", 5)]);
    node.change([sticky]);
    assert_eq!(backend(&mut node), first);
    let others: Vec<&str> = backends
        .into_iter()
        .filter(|other| *other != first)
        .collect();
    node.change([slice("web", "web-1", &others)]);
    let second = backend(&mut node);
    assert_ne!(second, first, "its backend went");
    node.change([slice("web", "web-1", &backends)]);
    assert_eq!(backend(&mut node), second);
    // Nothing is swept: that may be seconds late.
    let seen: std::collections::BTreeSet<String> = (0..30)
        .map(|_| {
            node.now_ms += 60_000;
            backend(&mut node)
        })
        .collect();
    assert!(seen.len() > 1, "after its time a client is anybody's");
}

#[test]
fn f5_a_client_of_a_pod_that_is_gone_is_reset() {
    let [mut node, _] = two_nodes(&[service("web", 5), slice("web", "web-1", &["10.244.2.12"])]);
    let flow = key(Protocol::TCP, ("10.244.1.10", 4_000), ("10.96.0.5", 80));
    node.send(CLIENT, &packet(CLIENT, &flow, 2, b""));
    node.change([
        Change::Gone(Key::Pod(name("shop", "web2"))),
        slice("web", "web-1", &["10.244.1.11"]),
    ]);
    let sent = node.send(CLIENT, &packet(CLIENT, &flow, 16, b"data"));
    assert_eq!(sent.verdict, Verdict::Transmit(CLIENT));
    assert_eq!(key_of(&sent.bytes), flow.reverse());
    assert_eq!(parsed(&sent.bytes).tcp_flags, TCP_RST);
    let again = node.send(CLIENT, &packet(CLIENT, &flow, 2, b""));
    assert_eq!(
        again.verdict,
        Verdict::Transmit(WEB1),
        "and finds the new pod"
    );
}

#[test]
fn r3_nothing_leaves_by_a_port_of_the_hosts_own_sockets() {
    let [mut node, _] = nodes(&[]);
    let Some(Change::Setup(setup)) = way_out(1, GATEWAY).pop() else {
        panic!("a set-up")
    };
    let own = |protocol, first| (first..=61_062).map(move |port| (protocol, port));
    node.change([Change::Setup(NodeSetup {
        host_ports: Arc::new(
            own(Protocol::TCP, 61_000)
                .chain(own(Protocol::UDP, 61_050))
                .collect(),
        ),
        ..setup
    })]);
    for (protocol, fits) in [
        (Protocol::TCP, vec![61_063]),
        (
            Protocol::UDP,
            (61_000..61_050).chain([61_063]).collect::<Vec<_>>(),
        ),
    ] {
        for number in 0..8 {
            let dialled = key(protocol, ("10.244.1.10", 4_000), (OUTSIDE, 80 + number));
            let sent = node.send(CLIENT, &packet(CLIENT, &dialled, 2, b""));
            assert_eq!(sent.verdict, Verdict::Transmit(UPLINK));
            let port = key_of(&sent.bytes).source_port;
            assert!(fits.contains(&port), "{protocol} {port}");
        }
    }
}
