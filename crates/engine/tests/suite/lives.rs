//! The whole lives of flows: how they end, and what comes for them afterwards (F15, F16, F18, F19).

use podway_engine::{DropReason, Verdict};
use podway_intent::{Change, IpMode, Key, PodPhase, ServicePort, SlicePort, TrafficPolicy};
use podway_tables::PortId;
use podway_wire::{FlowKey, Protocol, TCP_ACK, TCP_FIN, TCP_RST, TCP_SYN};

use crate::outside::{nodes, outward};
use crate::world::{
    TestNode, UPLINK, across, attachment, ingress_policy, key, key_of, name, packet, parsed, pod,
    service, slice, two_nodes,
};

const CLIENT: PortId = PortId(2);
const WEB1: PortId = PortId(3);
const WEB2: PortId = PortId(2);
const OUTSIDE: &str = "198.51.100.9";

fn dialled(port: u16) -> FlowKey {
    key(Protocol::TCP, ("10.244.1.10", port), ("10.96.0.5", 80))
}

/// What web1 answers to what was dialled through the service.
fn answered(port: u16) -> FlowKey {
    key(Protocol::TCP, ("10.244.1.11", 8080), ("10.244.1.10", port))
}

fn served_by(addresses: &[&str]) -> Change {
    slice("web", "web-1", addresses)
}

fn sends(node: &mut TestNode, flow: &FlowKey, flags: u8) -> Verdict {
    node.send(CLIENT, &packet(CLIENT, flow, flags, b"")).verdict
}

fn answers(node: &mut TestNode, flow: &FlowKey, flags: u8) -> Verdict {
    node.send(WEB1, &packet(WEB1, flow, flags, b"")).verdict
}

/// A connection through the service to web1, both sides heard.
fn open(node: &mut TestNode, port: u16) {
    assert_eq!(
        sends(node, &dialled(port), TCP_SYN),
        Verdict::Transmit(WEB1)
    );
    let heard = answers(node, &answered(port), TCP_SYN | TCP_ACK);
    assert_eq!(heard, Verdict::Transmit(CLIENT));
    sends(node, &dialled(port), TCP_ACK);
}

fn close(node: &mut TestNode, port: u16) {
    sends(node, &dialled(port), TCP_FIN | TCP_ACK);
    answers(node, &answered(port), TCP_FIN | TCP_ACK);
    sends(node, &dialled(port), TCP_ACK);
}

/// True of a reset that went back to the client.
fn is_reset(node: &mut TestNode, flow: &FlowKey, flags: u8) -> bool {
    let sent = node.send(CLIENT, &packet(CLIENT, flow, flags, b""));
    sent.verdict == Verdict::Transmit(CLIENT)
        && key_of(&sent.bytes) == flow.reverse()
        && parsed(&sent.bytes).tcp_flags & TCP_RST != 0
}

#[test]
fn f15_a_syn_where_a_connection_is_over_is_given_a_backend_anew() {
    let [mut node, _] = two_nodes(&[service("web", 5), served_by(&["10.244.1.11"])]);
    open(&mut node, 4_000);
    close(&mut node, 4_000);
    open(&mut node, 4_001);
    answers(&mut node, &answered(4_001), TCP_RST);
    open(&mut node, 4_002);
    open(&mut node, 4_003);
    answers(&mut node, &answered(4_003), TCP_RST);
    sends(&mut node, &dialled(4_003), TCP_ACK);
    node.change([served_by(&["10.244.2.12"])]);
    let late = sends(&mut node, &dialled(4_000), TCP_ACK);
    assert_eq!(
        late,
        Verdict::Transmit(WEB1),
        "the last ACK is the old one's"
    );
    for (port, expected) in [
        (4_000, UPLINK),
        (4_001, UPLINK),
        (4_002, WEB1),
        // F13: that reset was spurious.
        (4_003, WEB1),
    ] {
        let syn = sends(&mut node, &dialled(port), TCP_SYN);
        assert_eq!(syn, Verdict::Transmit(expected), "{port}");
        let again = sends(&mut node, &dialled(port), TCP_SYN);
        assert_eq!(again, Verdict::Transmit(expected), "{port} once more");
    }
    assert_eq!(node.flows.iter().count(), 4, "none is left of the old ones");
}

#[test]
fn f15_policies_are_asked_anew_and_either_end_may_begin() {
    let [mut node, _] = two_nodes(&[service("web", 5), served_by(&["10.244.1.11"])]);
    open(&mut node, 4_000);
    close(&mut node, 4_000);
    // What answers looked like is a connection of web1's own now.
    let back = answers(&mut node, &answered(4_000), TCP_SYN);
    assert_eq!(back, Verdict::Transmit(CLIENT));
    let seen = node.send(
        CLIENT,
        &packet(CLIENT, &answered(4_000).reverse(), TCP_SYN | TCP_ACK, b""),
    );
    assert_eq!(key_of(&seen.bytes), answered(4_000).reverse());
    open(&mut node, 4_001);
    close(&mut node, 4_001);
    node.change([ingress_policy("web1", None)]);
    let denied = sends(&mut node, &dialled(4_001), TCP_SYN);
    assert_eq!(denied, Verdict::Drop(DropReason::IngressDenied));
}

#[test]
fn f15_a_masqueraded_connection_begins_again_under_a_port_of_its_own() {
    let [mut node, _] = nodes(&[]);
    let out = key(Protocol::TCP, ("10.244.1.10", 5_000), (OUTSIDE, 443));
    let syn = |node: &mut TestNode| {
        let sent = node.send(CLIENT, &packet(CLIENT, &out, TCP_SYN, b""));
        assert_eq!(sent.verdict, Verdict::Transmit(UPLINK));
        key_of(&sent.bytes)
    };
    let seen = syn(&mut node);
    for flags in [TCP_SYN | TCP_ACK, TCP_RST] {
        node.send(UPLINK, &packet(CLIENT, &seen.reverse(), flags, b""));
    }
    let again = syn(&mut node);
    assert_eq!(node.flows.iter().count(), 1);
    let answer = node.send(
        UPLINK,
        &packet(CLIENT, &again.reverse(), TCP_SYN | TCP_ACK, b""),
    );
    assert_eq!(key_of(&answer.bytes), out.reverse());
}

#[test]
fn f16_a_half_closed_connection_outlives_an_hours_silence_and_a_closed_one_does_not() {
    let [mut node, _] = two_nodes(&[service("web", 5), served_by(&["10.244.1.11"])]);
    open(&mut node, 4_000);
    sends(&mut node, &dialled(4_000), TCP_FIN | TCP_ACK);
    let left_after = |node: &mut TestNode, seconds: u32| {
        node.now_ms += seconds * 1_000;
        node.engine.sweep(1_024, node.now_ms);
        node.flows.iter().count()
    };
    assert_eq!(left_after(&mut node, 3_590), 1);
    let data = answers(&mut node, &answered(4_000), TCP_ACK);
    assert_eq!(data, Verdict::Transmit(CLIENT), "the other half goes on");
    assert_eq!(left_after(&mut node, 3_590), 1);
    answers(&mut node, &answered(4_000), TCP_FIN | TCP_ACK);
    assert_eq!(left_after(&mut node, 29), 1);
    assert_eq!(left_after(&mut node, 2), 0);
}

#[test]
fn f18_a_connection_to_a_pod_of_another_node_is_reset_when_that_is_gone_and_others_are_decided_anew()
 {
    let Change::Service(mut all) = service("web", 5) else {
        panic!("a service")
    };
    all.ports.push(ServicePort {
        name: "sig".into(),
        protocol: Protocol::SCTP,
        port: 80,
        node_port: None,
    });
    let backends = |address: &str| {
        let Change::EndpointSlice(mut slice) = served_by(&[address]) else {
            panic!("a slice")
        };
        slice.ports.push(SlicePort {
            name: "sig".into(),
            protocol: Protocol::SCTP,
            port: 8080,
        });
        Change::EndpointSlice(slice)
    };
    let [mut node, _] = two_nodes(&[Change::Service(all), backends("10.244.2.12")]);
    let direct = key(Protocol::TCP, ("10.244.1.10", 4_000), ("10.244.2.12", 8080));
    let served = dialled(4_001);
    let sctp = FlowKey {
        protocol: Protocol::SCTP,
        ..dialled(4_002)
    };
    for flow in [&direct, &served, &sctp] {
        assert_eq!(sends(&mut node, flow, TCP_SYN), Verdict::Transmit(UPLINK));
    }
    node.change([Change::Gone(Key::Pod(name("shop", "web2")))]);
    for flow in [&direct, &served] {
        assert!(is_reset(&mut node, flow, TCP_ACK));
        assert!(is_reset(&mut node, flow, TCP_ACK), "each time");
    }
    node.change([backends("10.244.1.11")]);
    assert_eq!(sends(&mut node, &sctp, 0), Verdict::Transmit(WEB1));
    assert!(is_reset(&mut node, &served, TCP_ACK));
    // F6: whoever dials again reaches who is there.
    let again = sends(&mut node, &served, TCP_SYN);
    assert_eq!(again, Verdict::Transmit(WEB1));
    // Its node is gone, too.
    node.change([Change::Gone(Key::Node("node2".into()))]);
    assert!(is_reset(&mut node, &direct, TCP_ACK));
}

#[test]
fn f18_a_pod_whose_object_is_not_here_yet_is_not_gone() {
    let [mut node, _] = two_nodes(&[]);
    node.change([Change::Gone(Key::Pod(name("shop", "web2")))]);
    let direct = key(Protocol::TCP, ("10.244.1.10", 4_000), ("10.244.2.12", 8080));
    sends(&mut node, &direct, TCP_SYN);
    node.change([Change::Gone(Key::Pod(name("shop", "other")))]);
    let data = sends(&mut node, &direct, TCP_ACK);
    assert_eq!(data, Verdict::Transmit(UPLINK));
}

#[test]
fn f18_what_an_ending_pod_of_another_node_still_sends_passes_and_is_answered() {
    let mut nodes = two_nodes(&[service("web", 5), served_by(&["10.244.2.12"])]);
    let flow = dialled(4_000);
    let seen = across(&mut nodes, 0, CLIENT, &packet(CLIENT, &flow, TCP_SYN, b""));
    assert_eq!(seen.verdict, Verdict::Transmit(WEB2));
    let back = key_of(&seen.bytes).reverse();
    let reply = |nodes: &mut [TestNode; 2], flags| {
        let sent = across(nodes, 1, WEB2, &packet(WEB2, &back, flags, b""));
        (sent.verdict, key_of(&sent.bytes))
    };
    let translated = (Verdict::Transmit(CLIENT), flow.reverse());
    assert_eq!(reply(&mut nodes, TCP_SYN | TCP_ACK), translated);
    // Its object goes before its device, and it has not sent its FIN yet.
    for node in &mut nodes {
        node.change([Change::Gone(Key::Pod(name("shop", "web2"))), served_by(&[])]);
    }
    assert_eq!(reply(&mut nodes, TCP_FIN | TCP_ACK), translated);
    let acked = across(&mut nodes, 0, CLIENT, &packet(CLIENT, &flow, TCP_ACK, b""));
    assert_eq!(acked.verdict, Verdict::Transmit(WEB2));
    nodes[1].change([Change::Gone(Key::Attachment(name("shop", "web2")))]);
    let sent = nodes[0].send(CLIENT, &packet(CLIENT, &flow, TCP_ACK, b"more"));
    assert_eq!(sent.verdict, Verdict::Transmit(UPLINK));
    let reset = nodes[1].send(UPLINK, &sent.bytes);
    assert_eq!(reset.verdict, Verdict::Transmit(UPLINK));
    let reset = nodes[0].send(UPLINK, &reset.bytes);
    assert_eq!((reset.verdict, key_of(&reset.bytes)), translated);
    assert!(parsed(&reset.bytes).tcp_flags & TCP_RST != 0);
}

#[test]
fn f18_what_an_ending_pod_here_sends_passes_until_its_device_goes_even_if_its_address_is_anothers()
{
    for over in [PodPhase::Ended, PodPhase::Ending] {
        let [mut node, _] = two_nodes(&[service("web", 5), served_by(&["10.244.1.11"])]);
        let asked = FlowKey {
            protocol: Protocol::UDP,
            ..dialled(4_001)
        };
        open(&mut node, 4_000);
        assert_eq!(sends(&mut node, &asked, 0), Verdict::Transmit(WEB1));
        match over {
            PodPhase::Ended => {
                let Change::Pod(mut ended) = pod("web1", 1, 11) else {
                    panic!("a pod")
                };
                ended.phase = over;
                node.change([Change::Pod(ended), served_by(&[])]);
            }
            PodPhase::Alive | PodPhase::Leaving | PodPhase::Ending => {
                node.change([Change::Gone(Key::Pod(name("shop", "web1"))), served_by(&[])]);
            }
        }
        let fin = answers(&mut node, &answered(4_000), TCP_FIN | TCP_ACK);
        assert_eq!(fin, Verdict::Transmit(CLIENT));
        let late = FlowKey {
            protocol: Protocol::UDP,
            ..answered(4_001)
        };
        let sent = node.send(WEB1, &packet(WEB1, &late, 0, b"late"));
        assert_eq!(
            (sent.verdict, key_of(&sent.bytes)),
            (Verdict::Transmit(CLIENT), asked.reverse())
        );
        let acked = sends(&mut node, &dialled(4_000), TCP_ACK);
        assert_eq!(acked, Verdict::Transmit(WEB1));

        node.change([pod("heir", 1, 11), attachment("heir", 7)]);
        let fin = answers(&mut node, &answered(4_000), TCP_FIN | TCP_ACK);
        assert_eq!(fin, Verdict::Transmit(CLIENT));
        let acked = sends(&mut node, &dialled(4_000), TCP_ACK);
        assert_eq!(acked, Verdict::Transmit(WEB1), "F11: not to the heir");
        let own = key(Protocol::TCP, ("10.244.1.11", 9_000), ("10.244.1.10", 80));
        let begun = answers(&mut node, &own, TCP_SYN);
        assert_eq!(begun, Verdict::Drop(DropReason::AddressLost));

        node.change([Change::Gone(Key::Attachment(name("shop", "web1")))]);
        assert!(is_reset(&mut node, &dialled(4_000), TCP_ACK));
        let fin = answers(&mut node, &answered(4_000), TCP_FIN | TCP_ACK);
        assert_eq!(fin, Verdict::Drop(DropReason::UnknownPort));
    }
}

#[test]
fn f19_what_nobody_answered_is_a_services_as_soon_as_it_claims_the_address() {
    for protocol in [Protocol::TCP, Protocol::UDP, Protocol::SCTP] {
        let [mut node, _] = nodes(&[]);
        let Change::Service(mut outward) = service("web", 5) else {
            panic!("a service")
        };
        let address = OUTSIDE.parse().expect("address");
        outward.load_balancer_ips = vec![(address, IpMode::Vip)];
        outward.ports.push(ServicePort {
            name: "sig".into(),
            protocol: Protocol::SCTP,
            port: 80,
            node_port: None,
        });
        let Change::EndpointSlice(mut ready) = served_by(&["10.244.1.11"]) else {
            panic!("a slice")
        };
        ready.ports.push(SlicePort {
            name: "sig".into(),
            protocol: Protocol::SCTP,
            port: 8080,
        });
        let to = |port| key(protocol, ("10.244.1.10", port), (OUTSIDE, 80));
        let (waiting, taken) = (to(4_000), to(4_001));
        for flow in [&waiting, &taken] {
            assert_eq!(sends(&mut node, flow, TCP_SYN), Verdict::Transmit(UPLINK));
        }
        let sent = node.send(CLIENT, &packet(CLIENT, &taken, TCP_SYN, b""));
        let answer = key_of(&sent.bytes).reverse();
        let heard = node.send(UPLINK, &packet(CLIENT, &answer, TCP_SYN | TCP_ACK, b""));
        assert_eq!(heard.verdict, Verdict::Transmit(CLIENT));
        node.change([Change::Service(outward), Change::EndpointSlice(ready)]);
        let again = sends(&mut node, &waiting, TCP_SYN);
        assert_eq!(again, Verdict::Transmit(WEB1), "{protocol}");
        // F5: what somebody answers goes on, but for datagrams (F3).
        let expected = match protocol {
            Protocol::UDP => WEB1,
            _ => UPLINK,
        };
        let data = sends(&mut node, &taken, TCP_ACK);
        assert_eq!(data, Verdict::Transmit(expected), "{protocol}");
    }
}

#[test]
fn f19_datagrams_that_keep_coming_reach_an_endpoint_as_soon_as_it_is_on_this_node() {
    let on = |address: &str, node: &str| {
        let Change::EndpointSlice(mut slice) = served_by(&[address]) else {
            panic!("a slice")
        };
        for endpoint in &mut slice.endpoints {
            endpoint.node = Some(node.into());
        }
        Change::EndpointSlice(slice)
    };
    let far = on("10.244.2.12", "node2");
    let [mut node, _] = nodes(&[outward(TrafficPolicy::Local), far.clone()]);
    let asked = key(Protocol::UDP, ("203.0.113.7", 5_060), ("198.51.100.5", 80));
    let bytes = packet(CLIENT, &asked, 0, b"who");
    for _ in 0..3 {
        node.drops(UPLINK, &bytes, DropReason::ServiceDrop);
    }
    node.change([on("10.244.1.11", "node1")]);
    assert_eq!(node.send(UPLINK, &bytes).verdict, Verdict::Transmit(WEB1));
    let answer = key(Protocol::UDP, ("10.244.1.11", 8080), ("203.0.113.7", 5_060));
    let sent = node.send(WEB1, &packet(WEB1, &answer, 0, b"me"));
    assert_eq!(key_of(&sent.bytes), asked.reverse());
    node.change([far]);
    node.send(UPLINK, &bytes);
    assert_eq!(node.flows.iter().count(), 0, "F1: and it ends with it");
}
