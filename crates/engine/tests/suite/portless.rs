//! Protocols without ports: any of them between pods, and to the world what gets along with the node's address (R5).

use podway_engine::{DropReason, Portless, Verdict};
use podway_tables::PortId;
use podway_wire::{FlowKey, Protocol};

use crate::outside::nodes;
use crate::world::{HOST, UPLINK, across, addr, ingress_policy, key, key_of, packet};

const CLIENT: PortId = PortId(2);
const WEB1: PortId = PortId(3);
const WEB2: PortId = PortId(2);
const OUTSIDE: &str = "203.0.113.7";
const GRE: Protocol = Protocol(47);
const ESP: Protocol = Protocol(50);
const AH: Protocol = Protocol(51);

/// What a packet of a protocol carries: AH is a header that has to be sound.
fn carried(protocol: Protocol) -> &'static [u8] {
    match protocol {
        AH => b"\x3b\x01\0\0\0\0\0\x07\0\0\0\x01",
        _ => b"12345678",
    }
}

/// A packet of the flow.
fn sends(port: PortId, flow: &FlowKey) -> Vec<u8> {
    packet(port, flow, 0, carried(flow.protocol))
}

fn flow(protocol: Protocol, source: &str, target: &str) -> FlowKey {
    key(protocol, (source, 0), (target, 0))
}

#[test]
fn r5_any_protocol_passes_between_pods() {
    let mut nodes = nodes(&[]);
    for number in (0..=255).filter(|number| ![1, 4, 6, 17, 41, 132].contains(number)) {
        for (source, target) in [
            ("10.244.1.10", "10.244.2.12"),
            ("fd44:0:0:1::10", "fd44:0:0:2::12"),
        ] {
            // Extension headers of IPv6, and ICMP of the other family.
            let is_other = [0, 43, 44, 51, 58, 60, 135, 139, 140, 253, 254].contains(&number);
            if is_other && (target.contains(':') || number == 58) {
                continue;
            }
            let out = flow(Protocol(number), source, target);
            let sent = across(&mut nodes, 0, CLIENT, &sends(CLIENT, &out));
            assert_eq!(sent.verdict, Verdict::Transmit(WEB2), "{out}");
            let back = sends(WEB2, &out.reverse());
            let back = across(&mut nodes, 1, WEB2, &back);
            assert_eq!(back.verdict, Verdict::Transmit(CLIENT), "{out}");
        }
    }
}

#[test]
fn r5_what_has_no_ports_leaves_under_the_nodes_address_for_one_pod_a_peer() {
    let [mut node, _] = nodes(&[]);
    for protocol in [GRE, ESP, AH, Protocol(4), Protocol(115)] {
        let first = flow(protocol, "10.244.1.10", OUTSIDE);
        let sent = node.send(CLIENT, &sends(CLIENT, &first));
        assert_eq!(sent.verdict, Verdict::Transmit(UPLINK), "{protocol}");
        let seen = flow(protocol, "192.168.50.1", OUTSIDE);
        assert_eq!(key_of(&sent.bytes), seen);
        let claimed = Portless {
            peer: addr(OUTSIDE),
            protocol,
        };
        assert_eq!(node.engine.portless(), [claimed]);
        let back = node.send(UPLINK, &sends(CLIENT, &seen.reverse()));
        assert_eq!(back.verdict, Verdict::Transmit(CLIENT));
        assert_eq!(key_of(&back.bytes), first.reverse());
        // Nothing tells another pod's answers from these.
        let second = flow(protocol, "10.244.1.11", OUTSIDE);
        let bytes = sends(WEB1, &second);
        node.drops(WEB1, &bytes, DropReason::ProtocolTaken);
        let elsewhere = flow(protocol, "10.244.1.11", "203.0.113.8");
        let sent = node.send(WEB1, &sends(WEB1, &elsewhere));
        assert_eq!(sent.verdict, Verdict::Transmit(UPLINK));
        node.engine.portless();
        // What another peer sends is the host's own.
        let stray = flow(protocol, "203.0.113.9", "192.168.50.1");
        let stray = node.send(UPLINK, &sends(CLIENT, &stray));
        assert_eq!(stray.verdict, Verdict::Transmit(HOST));
    }
    // Once the first is silent for long enough, it is the other's turn.
    node.now_ms += 600_000;
    node.engine.sweep(1_024, node.now_ms);
    let second = flow(GRE, "10.244.1.11", OUTSIDE);
    let sent = node.send(WEB1, &sends(WEB1, &second));
    assert_eq!(sent.verdict, Verdict::Transmit(UPLINK));
}

#[test]
fn r5_what_holds_the_senders_address_inside_is_dropped_by_its_own_name() {
    let [mut node, _] = nodes(&[ingress_policy("web1", None)]);
    for protocol in [2, 33, 89, 103, 112, 136].map(Protocol) {
        let out = flow(protocol, "10.244.1.10", OUTSIDE);
        let bytes = sends(CLIENT, &out);
        node.drops(CLIENT, &bytes, DropReason::NotMasqueradable);
    }
    let denied = flow(GRE, "10.244.1.10", "10.244.1.11");
    let bytes = sends(CLIENT, &denied);
    node.drops(CLIENT, &bytes, DropReason::IngressDenied);
}
