//! Packets that arrive: on one node, across nodes, through services, both ways, both families.

use podway_engine::Verdict;
use podway_tables::PortId;
use podway_wire::{Mac, Protocol, macs};

use crate::world::{
    GATEWAY_MAC, HOST, UPLINK, across, addr, key, key_of, packet, parsed, pod_mac, service, slice,
    two_nodes,
};

const CLIENT: PortId = PortId(2);
const WEB1: PortId = PortId(3);
const WEB2: PortId = PortId(2);

#[test]
fn a_pod_reaches_a_pod_of_its_node_and_is_answered() {
    let [mut node, _] = two_nodes(&[]);
    let families = [
        ("10.244.1.10", "10.244.1.11", Protocol::ICMP),
        ("fd44:0:0:1::10", "fd44:0:0:1::11", Protocol::ICMPV6),
    ];
    for (client, web, echo) in families {
        let request = key(echo, (client, 77), (web, 0));
        let (sent, moved) = node.send_counted(CLIENT, &packet(CLIENT, &request, 0, b"hello"));
        assert_eq!(sent.verdict, Verdict::Transmit(WEB1));
        assert_eq!(macs(&sent.bytes), Some((pod_mac(WEB1), GATEWAY_MAC)));
        assert_eq!(
            (key_of(&sent.bytes), parsed(&sent.bytes).ttl),
            (request, 63)
        );
        assert_eq!(
            moved,
            ["received", "transmitted", "flow-miss", "flow-remembered"]
        );

        let (sent, moved) = node.send_counted(WEB1, &packet(WEB1, &request.reverse(), 0, b"hello"));
        assert_eq!(sent.verdict, Verdict::Transmit(CLIENT));
        assert_eq!(key_of(&sent.bytes), request.reverse());
        assert_eq!(moved, ["received", "transmitted", "flow-hit"]);
    }
}

#[test]
fn a_service_on_the_other_node_answers_under_its_own_name() {
    for (protocol, flags) in [(Protocol::TCP, 2), (Protocol::UDP, 0)] {
        for (client, vip, backend) in [
            ("10.244.1.10", "10.96.0.5", "10.244.2.12"),
            ("fd44:0:0:1::10", "fd96::5", "fd44:0:0:2::12"),
        ] {
            let mut nodes = two_nodes(&[service("web", 5), slice("web", "web-1", &[backend])]);
            let dialled = key(protocol, (client, 4000), (vip, 80));
            let syn = packet(CLIENT, &dialled, flags, b"");
            let on_wire = nodes[0].send(CLIENT, &syn);
            assert_eq!(on_wire.verdict, Verdict::Transmit(UPLINK));
            let outer = parsed(&on_wire.bytes);
            assert_eq!(outer.key.source, addr("192.168.50.1"));
            assert_eq!(outer.key.target, addr("192.168.50.2"));
            assert_eq!(outer.key.target_port, 4789);
            assert!(outer.key.source_port >= 49_152);
            assert_eq!(
                macs(&on_wire.bytes),
                Some((Mac([2, 0, 0, 0, 2, 2]), Mac([2, 0, 0, 0, 2, 1])))
            );

            let (arrived, moved) = nodes[1].send_counted(UPLINK, &on_wire.bytes);
            assert_eq!(arrived.verdict, Verdict::Transmit(WEB2));
            assert_eq!(
                key_of(&arrived.bytes),
                key(protocol, (client, 4000), (backend, 8080))
            );
            assert_eq!(parsed(&arrived.bytes).ttl, 62, "a hop on each node (D7)");
            assert_eq!(
                moved,
                [
                    "received",
                    "transmitted",
                    "flow-miss",
                    "flow-remembered",
                    "tunnel-opened"
                ]
            );

            let answer = key(protocol, (backend, 8080), (client, 4000));
            let back = across(&mut nodes, 1, WEB2, &packet(WEB2, &answer, 18, b"data"));
            assert_eq!(back.verdict, Verdict::Transmit(CLIENT));
            assert_eq!(key_of(&back.bytes), dialled.reverse());
        }
    }
}

#[test]
fn s22_processes_of_the_node_reach_services_and_pods_of_both_nodes() {
    let mut nodes = two_nodes(&[service("web", 5), slice("web", "web-1", &["10.244.2.12"])]);
    let dialled = key(Protocol::TCP, ("192.168.50.1", 4000), ("10.96.0.5", 80));
    let sent = across(&mut nodes, 0, HOST, &packet(HOST, &dialled, 2, b""));
    assert_eq!(sent.verdict, Verdict::Transmit(WEB2));
    let answer = key(Protocol::TCP, ("10.244.2.12", 8080), ("192.168.50.1", 4000));
    assert_eq!(key_of(&sent.bytes), answer.reverse());
    let back = across(&mut nodes, 1, WEB2, &packet(WEB2, &answer, 18, b""));
    assert_eq!(back.verdict, Verdict::Transmit(HOST));
    assert_eq!(key_of(&back.bytes), dialled.reverse());

    let near = key(Protocol::TCP, ("192.168.50.1", 4001), ("10.244.1.11", 8080));
    let sent = nodes[0].send(HOST, &packet(HOST, &near, 2, b""));
    assert_eq!(sent.verdict, Verdict::Transmit(WEB1));
    let to_node = key(Protocol::TCP, ("10.244.1.10", 4002), ("192.168.50.2", 22));
    let sent = across(&mut nodes, 0, CLIENT, &packet(CLIENT, &to_node, 2, b""));
    assert_eq!(
        sent.verdict,
        Verdict::Transmit(HOST),
        "a pod reaches another node"
    );
}

#[test]
fn s19_a_pod_that_reaches_itself_sees_the_gateway() {
    let [mut node, _] = two_nodes(&[service("web", 5), slice("web", "web-1", &["10.244.1.11"])]);
    let dialled = key(Protocol::TCP, ("10.244.1.11", 4000), ("10.96.0.5", 80));
    let sent = node.send(WEB1, &packet(WEB1, &dialled, 2, b""));
    assert_eq!(sent.verdict, Verdict::Transmit(WEB1));
    let seen = key_of(&sent.bytes);
    assert_eq!(
        seen,
        key(Protocol::TCP, ("10.244.1.1", 4000), ("10.244.1.11", 8080))
    );
    let back = node.send(WEB1, &packet(WEB1, &seen.reverse(), 18, b""));
    assert_eq!(back.verdict, Verdict::Transmit(WEB1));
    assert_eq!(key_of(&back.bytes), dialled.reverse());
}

#[test]
fn s21_two_services_one_backend_one_client_port_stay_two_flows() {
    let [mut node, _] = two_nodes(&[
        service("one", 5),
        service("two", 6),
        slice("one", "one-1", &["10.244.1.11"]),
        slice("two", "two-1", &["10.244.1.11"]),
    ]);
    let dial = |vip| key(Protocol::UDP, ("10.244.1.10", 4000), (vip, 80));
    let seen = ["10.96.0.5", "10.96.0.6"].map(|vip| {
        let sent = node.send(CLIENT, &packet(CLIENT, &dial(vip), 0, b"q"));
        assert_eq!(sent.verdict, Verdict::Transmit(WEB1));
        key_of(&sent.bytes)
    });
    assert_ne!(seen[0], seen[1]);
    for (seen, vip) in seen.iter().zip(["10.96.0.5", "10.96.0.6"]) {
        let back = node.send(WEB1, &packet(WEB1, &seen.reverse(), 0, b"a"));
        assert_eq!(key_of(&back.bytes), dial(vip).reverse());
    }
}

#[test]
fn d8_the_tunnel_carries_the_traffic_class() {
    let mut nodes = two_nodes(&[]);
    let to_web2 = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.244.2.12", 53));
    let mut bytes = packet(CLIENT, &to_web2, 0, b"q");
    // DSCP 46 with ECT(0), and the header checksum that goes with it.
    bytes[15] = 0xba;
    let sum = u16::from_be_bytes([bytes[24], bytes[25]]);
    let changed = (u32::from(!sum) + 0xba) as u16;
    bytes[24..26].copy_from_slice(&(!changed).to_be_bytes());
    let mut on_wire = nodes[0].send(CLIENT, &bytes);
    assert_eq!(parsed(&on_wire.bytes).traffic_class, 0xba);
    // A router on the wire marks congestion: the inner packet says so on arrival (RFC 6040).
    on_wire.bytes[15] |= 3;
    let sum = u16::from_be_bytes([on_wire.bytes[24], on_wire.bytes[25]]);
    on_wire.bytes[24..26].copy_from_slice(&(sum - 1).to_be_bytes());
    let arrived = nodes[1].send(UPLINK, &on_wire.bytes);
    assert_eq!(parsed(&arrived.bytes).traffic_class, 0xbb);
}

#[test]
fn d9_ethernet_padding_stays_outside_the_tunnel() {
    let mut nodes = two_nodes(&[]);
    let to_web2 = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.244.2.12", 53));
    let mut bytes = packet(CLIENT, &to_web2, 0, b"q");
    let length = bytes.len();
    bytes.resize(60, 0);
    let on_wire = nodes[0].send(CLIENT, &bytes);
    assert_eq!(on_wire.bytes.len(), length + 50);
    assert_eq!(nodes[1].send(UPLINK, &on_wire.bytes).bytes.len(), length);
}
