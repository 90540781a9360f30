//! What the engine answers itself, and the ICMP errors that it carries for others.

use etherparse::{Icmpv4Type, Icmpv6Type, SlicedPacket, TransportSlice, icmpv4, icmpv6};
use podway_engine::{DropReason, Verdict};
use podway_tables::PortId;
use podway_wire::{FlowKey, Protocol, macs};

use crate::world::{
    GATEWAY_MAC, UPLINK, across, addr, key, key_of, packet, packet_ttl, parsed, pod_mac, service,
    slice, two_nodes,
};

const CLIENT: PortId = PortId(2);
const WEB1: PortId = PortId(3);

pub(crate) fn icmp_v4(bytes: &[u8]) -> Icmpv4Type {
    match SlicedPacket::from_ethernet(bytes)
        .expect("a packet")
        .transport
    {
        Some(TransportSlice::Icmpv4(icmp)) => icmp.icmp_type(),
        other => panic!("not ICMP: {other:?}"),
    }
}

pub(crate) fn icmp_v6(bytes: &[u8]) -> Icmpv6Type {
    match SlicedPacket::from_ethernet(bytes)
        .expect("a packet")
        .transport
    {
        Some(TransportSlice::Icmpv6(icmp)) => icmp.icmp_type(),
        other => panic!("not ICMPv6: {other:?}"),
    }
}

#[test]
fn d6_the_gateway_answers_arp_and_nobody_else_is_answered_for() {
    let [mut node, _] = two_nodes(&[]);
    let arp = |sender: [u8; 4], target: [u8; 4]| {
        let mac = pod_mac(CLIENT).0;
        let mut bytes = [&[0xff; 6], &mac[..], &[8, 6, 0, 1, 8, 0, 6, 4, 0, 1], &mac].concat();
        bytes.extend([sender, [0; 4]].concat());
        bytes.extend([0, 0]);
        bytes.extend(target);
        bytes
    };
    let (sent, moved) = node.send_counted(CLIENT, &arp([10, 244, 1, 10], [10, 244, 1, 1]));
    assert_eq!(sent.verdict, Verdict::Transmit(CLIENT));
    assert_eq!(moved, ["received", "transmitted", "answered"]);
    let mac = pod_mac(CLIENT).0;
    let gateway = GATEWAY_MAC.0;
    let expected = [
        &mac[..],
        &gateway,
        &[8, 6, 0, 1, 8, 0, 6, 4, 0, 2],
        &gateway,
        &[10, 244, 1, 1],
        &mac,
        &[10, 244, 1, 10],
    ];
    assert_eq!(sent.bytes, expected.concat());
    node.drops(
        CLIENT,
        &arp([10, 244, 1, 10], [10, 244, 1, 11]),
        DropReason::NeighbourIgnored,
    );
    node.drops(
        CLIENT,
        &arp([10, 244, 1, 11], [10, 244, 1, 1]),
        DropReason::Spoofed,
    );
}

#[test]
fn d6_the_gateway_answers_neighbour_solicitations_and_routers_of_pods_are_ignored() {
    let [mut node, _] = two_nodes(&[]);
    let solicitation = |source: &str, kind: u8| {
        let mut message = vec![kind, 0, 0, 0, 0, 0, 0, 0];
        message.extend(addr("fd44:0:0:1::1").octets());
        message.extend([1, 1]);
        message.extend(pod_mac(CLIENT).0);
        let group = [0x33, 0x33, 0xff, 0, 0, 1];
        let mut bytes = [&group[..], &pod_mac(CLIENT).0, &[0x86, 0xdd]].concat();
        bytes.extend([0x60, 0, 0, 0, 0, message.len() as u8, 58, 255]);
        bytes.extend(addr(source).octets());
        bytes.extend(addr("ff02::1:ff00:1").octets());
        let (source, target) = (addr(source), addr("ff02::1:ff00:1"));
        let sum = podway_wire::checksum::transport(&source, &target, Protocol::ICMPV6, &message);
        message[2..4].copy_from_slice(&sum.to_be_bytes());
        bytes.extend(message);
        bytes
    };
    for (source, answered_to) in [
        ("fd44:0:0:1::10", "fd44:0:0:1::10"),
        ("fe80::ff:fe00:102", "fe80::ff:fe00:102"),
        ("::", "ff02::1"),
    ] {
        let sent = node.send(CLIENT, &solicitation(source, 135));
        assert_eq!(sent.verdict, Verdict::Transmit(CLIENT));
        let answer = parsed(&sent.bytes);
        assert_eq!(answer.key.source, addr("fd44:0:0:1::1"));
        assert_eq!((answer.key.target, answer.ttl), (addr(answered_to), 255));
        assert_eq!(sent.bytes[sent.bytes.len() - 6..], GATEWAY_MAC.0);
    }
    let advertisement = solicitation("fe80::ff:fe00:102", 134);
    node.drops(CLIENT, &advertisement, DropReason::NeighbourIgnored);
    node.drops(
        CLIENT,
        &solicitation("fd44:0:0:1::11", 135),
        DropReason::Spoofed,
    );
}

#[test]
fn the_gateway_answers_pings_from_both_nodes() {
    let mut nodes = two_nodes(&[]);
    for (client, gateway, echo) in [
        ("10.244.1.10", "10.244.1.1", Protocol::ICMP),
        ("fd44:0:0:1::10", "fd44:0:0:1::1", Protocol::ICMPV6),
    ] {
        let ping = key(echo, (client, 7), (gateway, 0));
        let (sent, moved) = nodes[0].send_counted(CLIENT, &packet(CLIENT, &ping, 0, b"abc"));
        assert_eq!(sent.verdict, Verdict::Transmit(CLIENT));
        assert_eq!(key_of(&sent.bytes), ping.reverse());
        assert_eq!(macs(&sent.bytes), Some((pod_mac(CLIENT), GATEWAY_MAC)));
        assert_eq!(moved, ["received", "transmitted", "answered", "flow-miss"]);
    }
    let far = key(Protocol::ICMP, ("10.244.1.10", 7), ("10.244.2.1", 0));
    let echo = across(&mut nodes, 0, CLIENT, &packet(CLIENT, &far, 0, b""));
    assert_eq!(
        echo.verdict,
        Verdict::Transmit(UPLINK),
        "the answer goes back into the tunnel"
    );
    let home = nodes[0].send(UPLINK, &echo.bytes);
    assert_eq!(
        (home.verdict, key_of(&home.bytes)),
        (Verdict::Transmit(CLIENT), far.reverse())
    );
}

#[test]
fn s1_a_service_without_endpoints_refuses_and_so_does_a_wrong_port() {
    let [mut node, _] = two_nodes(&[service("web", 5)]);
    for (client, vip) in [("10.244.1.10", "10.96.0.5"), ("fd44:0:0:1::10", "fd96::5")] {
        for port in [80, 81] {
            for protocol in [Protocol::TCP, Protocol::UDP] {
                let dialled = key(protocol, (client, 4000), (vip, port));
                let sent = node.send(CLIENT, &packet(CLIENT, &dialled, 2, b"payload"));
                assert_eq!(sent.verdict, Verdict::Transmit(CLIENT));
                assert_eq!(key_of(&sent.bytes).target, addr(client));
                let embedded = podway_wire::embedded(&sent.bytes, &parsed(&sent.bytes));
                assert_eq!(embedded.expect("embedded").key, dialled);
                match vip.contains(':') {
                    false => assert_eq!(
                        icmp_v4(&sent.bytes),
                        Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port)
                    ),
                    true => assert_eq!(
                        icmp_v6(&sent.bytes),
                        Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port)
                    ),
                }
                assert_eq!(node.flows.iter().count(), 0);
            }
        }
    }
}

#[test]
fn d2_what_does_not_fit_the_tunnel_is_told_the_inner_mtu() {
    let [mut node, _] = two_nodes(&[]);
    for (client, far) in [
        ("10.244.1.10", "10.244.2.12"),
        ("fd44:0:0:1::10", "fd44:0:0:2::12"),
    ] {
        let to = key(Protocol::UDP, (client, 4000), (far, 53));
        let bytes = packet(CLIENT, &to, 0, &[7; 1500]);
        if !far.contains(':') {
            // etherparse sets DF; without it this would be a case for fragments.
            assert_eq!(bytes[20] & 0x40, 0x40);
        }
        let sent = node.send(CLIENT, &bytes);
        assert_eq!(sent.verdict, Verdict::Transmit(CLIENT));
        match far.contains(':') {
            false => {
                let expected =
                    icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu: 1450 };
                assert_eq!(
                    icmp_v4(&sent.bytes),
                    Icmpv4Type::DestinationUnreachable(expected)
                );
                assert_eq!(sent.bytes.len(), 14 + 576);
            }
            true => {
                assert_eq!(icmp_v6(&sent.bytes), Icmpv6Type::PacketTooBig { mtu: 1450 });
                assert_eq!(sent.bytes.len(), 14 + 1280);
            }
        }
    }
}

#[test]
fn d7_time_exceeded_comes_from_each_node_and_is_rate_limited() {
    let mut nodes = two_nodes(&[service("web", 5), slice("web", "web-1", &["10.244.2.12"])]);
    let probe = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.96.0.5", 80));
    let first = nodes[0].send(CLIENT, &packet_ttl(CLIENT, &probe, 0, b"x", 1));
    assert_eq!(first.verdict, Verdict::Transmit(CLIENT));
    assert_eq!(key_of(&first.bytes).source, addr("10.244.1.1"));
    assert!(matches!(icmp_v4(&first.bytes), Icmpv4Type::TimeExceeded(_)));
    assert_eq!(nodes[0].flows.iter().count(), 0);

    // The second node's error goes back through the tunnel and is about the packet as the client sent it (D1).
    let second = across(
        &mut nodes,
        0,
        CLIENT,
        &packet_ttl(CLIENT, &probe, 0, b"x", 2),
    );
    assert_eq!(second.verdict, Verdict::Transmit(UPLINK));
    let home = nodes[0].send(UPLINK, &second.bytes);
    assert_eq!(home.verdict, Verdict::Transmit(CLIENT));
    assert_eq!(key_of(&home.bytes).source, addr("10.244.2.1"));
    assert!(matches!(icmp_v4(&home.bytes), Icmpv4Type::TimeExceeded(_)));
    let about = podway_wire::embedded(&home.bytes, &parsed(&home.bytes)).expect("embedded");
    assert_eq!(about.key, probe);

    let expired = packet_ttl(CLIENT, &probe, 0, b"x", 1);
    let answered =
        (0..2_000).filter(|_| nodes[0].send(CLIENT, &expired).verdict == Verdict::Transmit(CLIENT));
    assert!((990..=1_000).contains(&answered.count()));
}

/// An ICMP port unreachable about `about`, from its target.
pub(crate) fn unreachable(port: PortId, about: &[u8], source: &FlowKey) -> Vec<u8> {
    let packet = &about[14..];
    let v4 = source.source.family() == podway_wire::Family::V4;
    let builder = etherparse::PacketBuilder::ethernet2(pod_mac(port).0, GATEWAY_MAC.0);
    let mut bytes = Vec::new();
    match v4 {
        true => {
            let (from, to) = (source.source.low_bytes(), source.target.low_bytes());
            let kind = Icmpv4Type::DestinationUnreachable(icmpv4::DestUnreachableHeader::Port);
            // Only 8 bytes of the transport header come back from old stacks.
            builder
                .ipv4(from, to, 64)
                .icmpv4(kind)
                .write(&mut bytes, &packet[..28])
        }
        false => {
            let (from, to) = (source.source.octets(), source.target.octets());
            let kind = Icmpv6Type::DestinationUnreachable(icmpv6::DestUnreachableCode::Port);
            builder
                .ipv6(from, to, 64)
                .icmpv6(kind)
                .write(&mut bytes, packet)
        }
    }
    .expect("a packet");
    bytes
}

#[test]
fn d1_an_error_about_a_translated_packet_comes_back_as_the_client_knows_it() {
    for (client, vip, backend) in [
        ("10.244.1.10", "10.96.0.5", "10.244.2.12"),
        ("fd44:0:0:1::10", "fd96::5", "fd44:0:0:2::12"),
    ] {
        let mut nodes = two_nodes(&[service("web", 5), slice("web", "web-1", &[backend])]);
        let probe = key(Protocol::UDP, (client, 4000), (vip, 80));
        let arrived = across(
            &mut nodes,
            0,
            CLIENT,
            &packet(CLIENT, &probe, 0, b"question"),
        );
        let back = key(Protocol::UDP, (backend, 8080), (client, 4000));
        let error = unreachable(CLIENT, &arrived.bytes, &back);
        let home = across(&mut nodes, 1, PortId(2), &error);
        assert_eq!(home.verdict, Verdict::Transmit(CLIENT));
        let outer = parsed(&home.bytes);
        assert_eq!(
            (outer.key.source, outer.key.target),
            (addr(vip), addr(client))
        );
        let about = podway_wire::embedded(&home.bytes, &outer).expect("embedded");
        assert_eq!(about.key, probe);
        // The other way round: the client complains about an answer.
        let answer = packet(PortId(2), &back, 0, b"answer");
        let answered = across(&mut nodes, 1, PortId(2), &answer);
        let error = unreachable(CLIENT, &answered.bytes, &probe);
        let there = across(&mut nodes, 0, CLIENT, &error);
        assert_eq!(there.verdict, Verdict::Transmit(PortId(2)));
        let outer = parsed(&there.bytes);
        assert_eq!(
            (outer.key.source, outer.key.target),
            (addr(client), addr(backend))
        );
        let about = podway_wire::embedded(&there.bytes, &outer).expect("embedded");
        assert_eq!(about.key, back);
    }
}

#[test]
fn n11_an_error_about_nothing_that_was_sent_goes_nowhere() {
    let [mut node, _] = two_nodes(&[]);
    let never = key(Protocol::UDP, ("10.244.1.11", 5000), ("10.244.1.10", 53));
    let error = unreachable(CLIENT, &packet(WEB1, &never, 0, b""), &never.reverse());
    node.drops(CLIENT, &error, DropReason::UnrelatedIcmp);
}

#[test]
fn errors_are_not_answered_with_errors() {
    let [mut node, _] = two_nodes(&[]);
    let probe = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.244.1.11", 53));
    let there = node.send(CLIENT, &packet(CLIENT, &probe, 0, b""));
    let mut error = unreachable(WEB1, &there.bytes, &probe.reverse());
    error[22] = 1;
    // TTL 64 became 1: the header checksum follows.
    let sum = u16::from_be_bytes([error[24], error[25]]);
    error[24..26].copy_from_slice(&(sum.wrapping_add(63 << 8)).to_be_bytes());
    node.drops(WEB1, &error, DropReason::Unanswered);
}
