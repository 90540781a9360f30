//! Packets between nodes of one subnet, without the tunnel: they arrive as they would through it, and nobody else's do.

use etherparse::Icmpv4Type;
use podway_engine::{DropReason, Verdict};
use podway_intent::{Change, Key, NodeSetup, TrafficPolicy, Tunnel};
use podway_tables::PortId;
use podway_wire::{Mac, Protocol, macs};

use crate::answers::{icmp_v4, unreachable};
use crate::outside;
use crate::world::{
    GATEWAY_MAC, HOST, TestNode, UPLINK, across, addr, egress_policy, ingress_policy, key, key_of,
    name, node, packet, packet_ttl, parsed, pod_mac, service, slice,
};

const CLIENT: PortId = PortId(2);
const WEB1: PortId = PortId(3);
const WEB2: PortId = PortId(2);
/// A pod of each node, by family.
pub(crate) const PODS: [(&str, &str); 2] = [
    ("10.244.1.10", "10.244.2.12"),
    ("fd44:0:0:1::10", "fd44:0:0:2::12"),
];

/// The Ethernet address of a node's uplink.
pub(crate) fn uplink_mac(number: u8) -> Mac {
    Mac([2, 0, 0, 0, 2, number])
}

/// Sets how a node's packets get to others: the nodes of the tests are in 192.168.50.0/24.
fn choose(node: &mut TestNode, tunnel: Tunnel, subnet: &str) {
    let setup = node.cluster.setup().expect("a set-up").clone();
    node.change([Change::Setup(NodeSetup {
        tunnel,
        subnets: vec![subnet.parse().expect("a subnet")],
        ..setup
    })]);
}

/// Two nodes of one subnet whose packets get to each other this way.
pub(crate) fn nodes_that(tunnel: Tunnel, more: &[Change]) -> [TestNode; 2] {
    outside::nodes(more).map(|mut node| {
        choose(&mut node, tunnel, "192.168.50.0/24");
        node
    })
}

/// Two nodes of one subnet without a tunnel between them.
pub(crate) fn direct(more: &[Change]) -> [TestNode; 2] {
    nodes_that(Tunnel::Direct, more)
}

/// A packet as node `number` puts it on the wire to the other one.
fn on_wire(number: u8, mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[..6].copy_from_slice(&uplink_mac(3 - number).0);
    bytes[6..12].copy_from_slice(&uplink_mac(number).0);
    bytes
}

#[test]
fn a_service_on_the_other_node_answers_without_a_tunnel() {
    for (protocol, flags) in [(Protocol::TCP, 2), (Protocol::UDP, 0)] {
        for ((client, backend), vip) in PODS.into_iter().zip(["10.96.0.5", "fd96::5"]) {
            let mut nodes = direct(&[service("web", 5), slice("web", "web-1", &[backend])]);
            let dialled = key(protocol, (client, 4000), (vip, 80));
            let seen = key(protocol, (client, 4000), (backend, 8080));
            let first = packet(CLIENT, &dialled, flags, b"");
            let (wire, moved) = nodes[0].send_counted(CLIENT, &first);
            assert_eq!(wire.verdict, Verdict::Transmit(UPLINK));
            assert_eq!(
                moved,
                ["received", "transmitted", "flow-miss", "flow-remembered"]
            );
            assert_eq!((key_of(&wire.bytes), parsed(&wire.bytes).ttl), (seen, 63));
            assert_eq!(macs(&wire.bytes), Some((uplink_mac(2), uplink_mac(1))));

            let (arrived, moved) = nodes[1].send_counted(UPLINK, &wire.bytes);
            assert_eq!(arrived.verdict, Verdict::Transmit(WEB2));
            assert_eq!(
                moved,
                ["received", "transmitted", "flow-miss", "flow-remembered"]
            );
            assert_eq!(macs(&arrived.bytes), Some((pod_mac(WEB2), GATEWAY_MAC)));
            assert_eq!(
                (key_of(&arrived.bytes), parsed(&arrived.bytes).ttl),
                (seen, 62),
                "a hop on each node (D7)"
            );

            let answer = packet(WEB2, &seen.reverse(), 18, b"data");
            let wire = nodes[1].send(WEB2, &answer);
            assert_eq!(macs(&wire.bytes), Some((uplink_mac(1), uplink_mac(2))));
            let (back, moved) = nodes[0].send_counted(UPLINK, &wire.bytes);
            assert_eq!(back.verdict, Verdict::Transmit(CLIENT));
            assert_eq!(key_of(&back.bytes), dialled.reverse());
            assert_eq!(moved, ["received", "transmitted", "flow-hit"]);
        }
    }
}

#[test]
fn s20_nodes_and_their_clients_reach_pods_directly_and_are_answered() {
    let mut nodes = direct(&[service("web", 5), slice("web", "web-1", &["10.244.2.12"])]);
    // A process of the node, by a service; a pod and the other node's own address; the gateway of the other node.
    let dialled = key(Protocol::TCP, ("192.168.50.1", 4000), ("10.96.0.5", 80));
    let sent = across(&mut nodes, 0, HOST, &packet(HOST, &dialled, 2, b""));
    assert_eq!(sent.verdict, Verdict::Transmit(WEB2));
    let answer = key_of(&sent.bytes).reverse();
    let back = across(&mut nodes, 1, WEB2, &packet(WEB2, &answer, 18, b""));
    assert_eq!(back.verdict, Verdict::Transmit(HOST));
    assert_eq!(key_of(&back.bytes), dialled.reverse());

    let to_node = key(Protocol::TCP, ("10.244.1.10", 4002), ("192.168.50.2", 22));
    let sent = across(&mut nodes, 0, CLIENT, &packet(CLIENT, &to_node, 2, b""));
    assert_eq!(sent.verdict, Verdict::Transmit(HOST));
    let mut answer = packet(HOST, &to_node.reverse(), 18, b"");
    answer[6..12].copy_from_slice(&[2, 0, 0, 0, 3, 2]);
    let back = across(&mut nodes, 1, HOST, &answer);
    assert_eq!(back.verdict, Verdict::Transmit(CLIENT));

    let ping = key(Protocol::ICMP, ("10.244.1.10", 7), ("10.244.2.1", 0));
    let back = across(&mut nodes, 0, CLIENT, &packet(CLIENT, &ping, 0, b""));
    assert_eq!(
        back.verdict,
        Verdict::Transmit(UPLINK),
        "the gateway answers"
    );
    let home = nodes[0].send(UPLINK, &back.bytes);
    assert_eq!(home.verdict, Verdict::Transmit(CLIENT));
}

#[test]
fn s20_what_was_masqueraded_comes_back_to_the_node_that_did_it() {
    for tunnel in [Tunnel::Direct, Tunnel::Auto] {
        let mut nodes = nodes_that(
            tunnel,
            &[
                outside::outward(TrafficPolicy::Cluster),
                slice("web", "web-1", &["10.244.2.12"]),
            ],
        );
        let dialled = key(
            Protocol::TCP,
            ("203.0.113.7", 5_000),
            ("192.168.50.1", 30_080),
        );
        let mut syn = packet(CLIENT, &dialled, 2, b"");
        syn[6..12].copy_from_slice(&[2, 0, 0, 0, 8, 8]);
        let arrived = across(&mut nodes, 0, UPLINK, &syn);
        assert_eq!(arrived.verdict, Verdict::Transmit(WEB2));
        let seen = key_of(&arrived.bytes);
        assert_eq!(seen.source, addr("192.168.50.1"));
        let back = across(&mut nodes, 1, WEB2, &packet(WEB2, &seen.reverse(), 18, b""));
        assert_eq!(back.verdict, Verdict::Transmit(UPLINK));
        assert_eq!(key_of(&back.bytes), dialled.reverse());
        assert_eq!(
            macs(&back.bytes),
            Some((Mac([2, 0, 0, 0, 9, 9]), uplink_mac(1)))
        );
    }
}

#[test]
fn d8_a_direct_packet_is_of_a_direct_peer_its_ethernet_address_and_its_pods() {
    let [mut near, _] = direct(&[]);
    let from = |source| key(Protocol::UDP, (source, 4000), ("10.244.1.10", 53));
    let sound = on_wire(2, packet(CLIENT, &from("10.244.2.12"), 0, b"q"));

    let mut stranger = sound.clone();
    stranger[11] = 9;
    near.drops(UPLINK, &stranger, DropReason::Spoofed);
    // Our own pods and gateway, a range without a node, ourselves.
    for source in ["10.244.1.11", "10.244.1.1", "10.244.1.77", "192.168.50.1"] {
        let foreign = on_wire(2, packet(CLIENT, &from(source), 0, b"q"));
        near.drops(UPLINK, &foreign, DropReason::Spoofed);
    }
    // The node itself, but under another's Ethernet address.
    let mut forged = on_wire(2, packet(CLIENT, &from("192.168.50.2"), 0, b"q"));
    forged[11] = 9;
    near.drops(UPLINK, &forged, DropReason::Spoofed);
    // Not ours to carry: another peer's pod, the world, a service that its own node should have translated.
    near.change([node(3)]);
    for target in ["10.244.3.9", "203.0.113.5", "10.96.0.5"] {
        let transit = key(Protocol::UDP, ("10.244.2.12", 4000), (target, 53));
        let transit = on_wire(2, packet(CLIENT, &transit, 0, b"q"));
        near.drops(UPLINK, &transit, DropReason::NoRoute);
    }
    // A peer under another peer's addresses.
    let third = on_wire(2, packet(CLIENT, &from("10.244.3.9"), 0, b"q"));
    near.drops(UPLINK, &third, DropReason::Spoofed);
    // A peer that is reached by VXLAN, and one whose Ethernet address is not known.
    choose(&mut near, Tunnel::Vxlan, "192.168.50.0/24");
    near.drops(UPLINK, &sound, DropReason::Spoofed);
    choose(&mut near, Tunnel::Auto, "192.168.51.0/24");
    near.drops(UPLINK, &sound, DropReason::Spoofed);
    choose(&mut near, Tunnel::Direct, "192.168.51.0/24");
    near.drops(UPLINK, &sound, DropReason::Spoofed);
    choose(&mut near, Tunnel::Direct, "192.168.50.0/24");
    let neighbour = Key::Neighbour("192.168.50.2".parse().expect("address"));
    near.change([Change::Gone(neighbour.clone())]);
    near.drops(UPLINK, &sound, DropReason::Spoofed);
    near.change([Change::Neighbour(
        "192.168.50.2".parse().expect("address"),
        uplink_mac(2),
    )]);
    assert_eq!(near.send(UPLINK, &sound).verdict, Verdict::Transmit(CLIENT));
}

#[test]
fn d8_a_direct_peers_tunnel_is_opened_and_answered_directly() {
    for tunnel in [Tunnel::Direct, Tunnel::Auto] {
        let mut nodes = nodes_that(tunnel, &[]);
        choose(&mut nodes[1], Tunnel::Vxlan, "192.168.50.0/24");
        let flow = key(Protocol::UDP, ("10.244.2.12", 4000), ("10.244.1.10", 53));
        let wire = nodes[1].send(WEB2, &packet(WEB2, &flow, 0, b"q"));
        assert_eq!(parsed(&wire.bytes).key.target_port, 4789);
        let (arrived, moved) = nodes[0].send_counted(UPLINK, &wire.bytes);
        assert_eq!(arrived.verdict, Verdict::Transmit(CLIENT));
        assert!(moved.contains(&"tunnel-opened".to_owned()), "{moved:?}");
        let answer = nodes[0].send(CLIENT, &packet(CLIENT, &flow.reverse(), 0, b"a"));
        assert_eq!(key_of(&answer.bytes), flow.reverse());
    }
}

#[test]
fn n1_direct_packets_are_judged_at_both_ends() {
    let [mut near, mut far] = direct(&[egress_policy("client"), ingress_policy("web2", None)]);
    let denied = key(Protocol::TCP, ("10.244.1.10", 4000), ("10.244.2.13", 8080));
    near.drops(
        CLIENT,
        &packet(CLIENT, &denied, 2, b""),
        DropReason::EgressDenied,
    );
    let from_web1 = key(Protocol::TCP, ("10.244.1.11", 4000), ("10.244.2.12", 8080));
    let wire = near.send(WEB1, &packet(WEB1, &from_web1, 2, b""));
    assert_eq!(wire.verdict, Verdict::Transmit(UPLINK));
    far.drops(UPLINK, &wire.bytes, DropReason::IngressDenied);
    // N1 by labels: the sender is known as the pod that it is.
    far.change([ingress_policy("web2", Some("web1"))]);
    assert_eq!(
        far.send(UPLINK, &wire.bytes).verdict,
        Verdict::Transmit(WEB2)
    );
}

#[test]
fn d7_time_exceeded_of_the_other_node_comes_back_directly() {
    let mut nodes = direct(&[]);
    let probe = key(
        Protocol::UDP,
        ("10.244.1.10", 4000),
        ("10.244.2.12", 33_434),
    );
    let expired = packet_ttl(CLIENT, &probe, 0, b"x", 2);
    let wire = across(&mut nodes, 0, CLIENT, &expired);
    assert_eq!(wire.verdict, Verdict::Transmit(UPLINK));
    assert_eq!(key_of(&wire.bytes).source, addr("10.244.2.1"));
    let home = nodes[0].send(UPLINK, &wire.bytes);
    assert_eq!(home.verdict, Verdict::Transmit(CLIENT));
    assert!(matches!(icmp_v4(&home.bytes), Icmpv4Type::TimeExceeded(_)));
    let about = podway_wire::embedded(&home.bytes, &parsed(&home.bytes)).expect("embedded");
    assert_eq!(about.key, probe);
}

#[test]
fn d1_an_error_about_a_translated_packet_comes_back_directly_as_the_client_knows_it() {
    for ((client, backend), vip) in PODS.into_iter().zip(["10.96.0.5", "fd96::5"]) {
        let mut nodes = direct(&[service("web", 5), slice("web", "web-1", &[backend])]);
        let probe = key(Protocol::UDP, (client, 4000), (vip, 80));
        let question = packet(CLIENT, &probe, 0, b"question");
        let arrived = across(&mut nodes, 0, CLIENT, &question);
        let back = key_of(&arrived.bytes).reverse();
        let error = unreachable(WEB2, &arrived.bytes, &back);
        let home = across(&mut nodes, 1, WEB2, &error);
        assert_eq!(home.verdict, Verdict::Transmit(CLIENT));
        let outer = parsed(&home.bytes);
        assert_eq!(
            (outer.key.source, outer.key.target),
            (addr(vip), addr(client))
        );
        let about = podway_wire::embedded(&home.bytes, &outer).expect("embedded");
        assert_eq!(about.key, probe);
    }
}

#[test]
fn what_is_to_go_directly_and_is_in_no_subnet_goes_nowhere() {
    let mut nodes = direct(&[service("web", 5), slice("web", "web-1", &["10.244.2.12"])]);
    choose(&mut nodes[0], Tunnel::Direct, "192.168.51.0/24");
    for target in ["10.244.2.12", "10.244.2.99", "192.168.50.2", "10.96.0.5"] {
        let flow = key(Protocol::UDP, ("10.244.1.10", 4000), (target, 80));
        nodes[0].drops(
            CLIENT,
            &packet(CLIENT, &flow, 0, b""),
            DropReason::OffSubnet,
        );
    }
    let problems: Vec<String> = nodes[0]
        .compiled
        .problems
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(
        problems,
        [
            "node node2: nothing leads there: 192.168.50.2 is in none of the uplink's subnets (192.168.51.0/24); set `tunnel` to \"auto\" or \"vxlan\""
        ]
    );
}

#[test]
fn a_flow_goes_the_way_that_is_chosen_now() {
    let mut nodes = direct(&[]);
    let flow = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.244.2.12", 53));
    let bytes = packet(CLIENT, &flow, 0, b"q");
    for (tunnel, port) in [
        (Tunnel::Direct, 53),
        (Tunnel::Vxlan, 4789),
        (Tunnel::Auto, 53),
    ] {
        choose(&mut nodes[0], tunnel, "192.168.50.0/24");
        let sent = nodes[0].send(CLIENT, &bytes);
        assert_eq!(parsed(&sent.bytes).key.target_port, port, "{tunnel}");
        assert_eq!(nodes[0].flows.iter().count(), 1);
    }
}

#[test]
fn a_peer_that_goes_is_forgotten_with_the_next_snapshot() {
    for tunnel in [Tunnel::Direct, Tunnel::Vxlan] {
        let [mut near, mut far] = nodes_that(tunnel, &[]);
        let flow = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.244.2.12", 53));
        let forth = packet(CLIENT, &flow, 0, b"q");
        let wire = near.send(CLIENT, &forth);
        far.send(UPLINK, &wire.bytes);
        let back = far
            .send(WEB2, &packet(WEB2, &flow.reverse(), 0, b"a"))
            .bytes;
        let other = key(Protocol::UDP, ("10.244.2.13", 5), ("10.244.1.10", 53));
        let other = far
            .send(PortId(3), &packet(PortId(3), &other, 0, b"q"))
            .bytes;
        assert_eq!(near.send(UPLINK, &back).verdict, Verdict::Transmit(CLIENT));
        assert_eq!(near.send(UPLINK, &other).verdict, Verdict::Transmit(CLIENT));

        near.change([Change::Gone(Key::Node("node2".into()))]);
        let reason = match tunnel {
            Tunnel::Vxlan => DropReason::UnknownPeer,
            Tunnel::Direct | Tunnel::Auto => DropReason::Spoofed,
        };
        near.drops(UPLINK, &back, reason);
        near.drops(UPLINK, &other, reason);
        // Its pods are known to be pods still, and are nobody else's to answer for.
        assert_eq!(
            near.send(CLIENT, &forth).verdict,
            Verdict::Drop(DropReason::NoSuchPod)
        );
        let fresh = key(Protocol::UDP, ("10.244.1.11", 4000), ("10.244.2.12", 53));
        near.drops(WEB1, &packet(WEB1, &fresh, 0, b"q"), DropReason::NoSuchPod);
        // Then they go, too, and their addresses are like any outside of the cluster: masqueraded, to the gateway.
        for pod in ["web2", "other"] {
            near.change([Change::Gone(Key::Pod(name("shop", pod)))]);
        }
        let sent = near.send(WEB1, &packet(WEB1, &fresh, 0, b"q"));
        assert_eq!(key_of(&sent.bytes).source, addr("192.168.50.1"));
    }
}
