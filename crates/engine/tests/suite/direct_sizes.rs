//! How large packets between nodes of one subnet may be: as large as the wire takes, and what is larger is cut or told.

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4};
use podway_engine::Verdict;
use podway_intent::{Change, Tunnel};
use podway_tables::PortId;
use podway_wire::{Mac, Protocol, TCP_SYN, macs, mss};

use crate::answers::{icmp_v4, icmp_v6};
use crate::direct::{PODS, direct, nodes_that, uplink_mac};
use crate::world::{GATEWAY_MAC, UPLINK, key, node, packet, parsed, pod, pod_mac};

const CLIENT: PortId = PortId(2);
const WEB2: PortId = PortId(2);

#[test]
fn auto_leads_around_by_the_tunnel_what_is_in_no_subnet_of_the_uplink() {
    let [mut near, _] = nodes_that(Tunnel::Auto, &[]);
    let Change::Node(mut third) = node(3) else {
        panic!("a node")
    };
    third.addresses = vec!["192.168.51.3".parse().expect("address")];
    let router = Mac([2, 0, 0, 0, 8, 8]);
    near.change([
        Change::Node(third),
        pod("third", 3, 14),
        Change::Neighbour("192.168.51.3".parse().expect("address"), router),
    ]);
    for (target, mac, tunnelled, largest) in [
        ("10.244.2.12", uplink_mac(2), false, 1_500),
        ("10.244.3.14", router, true, 1_450),
    ] {
        let flow = key(Protocol::UDP, ("10.244.1.10", 4000), (target, 53));
        let fits = packet(CLIENT, &flow, 0, &vec![7; largest - 28]);
        let (sent, moved) = near.send_counted(CLIENT, &fits);
        assert_eq!(sent.verdict, Verdict::Transmit(UPLINK));
        assert_eq!(macs(&sent.bytes), Some((mac, uplink_mac(1))));
        assert_eq!(moved.contains(&"tunnel-pushed".to_owned()), tunnelled);
        assert_eq!(parsed(&sent.bytes).length, 1_500, "the wire is full");
        // D2: and a byte more is told that peer's MTU.
        let more = packet(CLIENT, &flow, 0, &vec![7; largest - 27]);
        let told = near.send(CLIENT, &more);
        assert_eq!(told.verdict, Verdict::Transmit(CLIENT));
        let next_hop_mtu = largest as u16;
        let expected = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu };
        assert_eq!(
            icmp_v4(&told.bytes),
            Icmpv4Type::DestinationUnreachable(expected)
        );
    }
}

#[test]
fn d2_what_is_larger_than_the_wire_is_told_the_wires_mtu() {
    let [mut node, _] = direct(&[]);
    let [_, (client, far)] = PODS;
    let flow = key(Protocol::UDP, (client, 4000), (far, 53));
    let whole = node.send(CLIENT, &packet(CLIENT, &flow, 0, &[7; 1_500 - 48]));
    assert_eq!(whole.verdict, Verdict::Transmit(UPLINK));
    let told = node.send(CLIENT, &packet(CLIENT, &flow, 0, &[7; 1_500 - 47]));
    assert_eq!(told.verdict, Verdict::Transmit(CLIENT));
    assert_eq!(icmp_v6(&told.bytes), Icmpv6Type::PacketTooBig { mtu: 1500 });
}

#[test]
fn segments_fill_the_wire_and_syns_offer_what_it_takes() {
    for (client, far) in PODS {
        let mut nodes = direct(&[]);
        let flow = key(Protocol::TCP, (client, 4000), (far, 80));
        let headers = mss::headers(flow.source.family());
        let syn = |port, flow: &podway_wire::FlowKey| with_offer(packet(port, flow, 2, b""));
        let wire = nodes[0].send(CLIENT, &syn(CLIENT, &flow));
        let offered = mss::offered(&wire.bytes, &parsed(&wire.bytes));
        assert_eq!(offered, Some(1_500 - headers));
        nodes[1].send(UPLINK, &wire.bytes);
        let large = packet(CLIENT, &flow, 16, &[7; 4 * 1_000]);
        let first = nodes[0].send(CLIENT, &large);
        let all = [first]
            .into_iter()
            .chain(std::mem::take(&mut nodes[0].made));
        let lengths: Vec<u32> = all.map(|sent| parsed(&sent.bytes).length).collect();
        let last = 4_000 - 2 * (1_500 - u32::from(headers)) + u32::from(headers);
        assert_eq!(lengths, [1_500, 1_500, last]);
    }
}

/// A SYN that offers all that a large device takes.
fn with_offer(bytes: Vec<u8>) -> Vec<u8> {
    let read = parsed(&bytes);
    assert_eq!(read.tcp_flags & TCP_SYN, TCP_SYN);
    let headers = mss::headers(read.family);
    let size = 61_000 - headers;
    let ethernet = PacketBuilder::ethernet2(pod_mac(CLIENT).0, GATEWAY_MAC.0);
    let ip = match (read.key.source.ip(), read.key.target.ip()) {
        (std::net::IpAddr::V4(source), std::net::IpAddr::V4(target)) => {
            ethernet.ipv4(source.octets(), target.octets(), 64)
        }
        (std::net::IpAddr::V6(source), std::net::IpAddr::V6(target)) => {
            ethernet.ipv6(source.octets(), target.octets(), 64)
        }
        _ => panic!("one family"),
    };
    let [high, low] = size.to_be_bytes();
    let tcp = ip
        .tcp(read.key.source_port, read.key.target_port, 1, 1024)
        .syn();
    let mut bytes = Vec::new();
    tcp.options_raw(&[2, 4, high, low])
        .expect("options fit")
        .write(&mut bytes, b"")
        .expect("a packet");
    bytes
}

#[test]
fn d3_a_datagram_in_fragments_is_put_on_the_wire_and_taken_off_whole() {
    let mut nodes = direct(&[]);
    let flow = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.244.2.12", 53));
    let whole = crate::fragments::may_be_cut(packet(CLIENT, &flow, 0, &[7; 4_000]));
    let first = nodes[0].send(CLIENT, &whole);
    let made = std::mem::take(&mut nodes[0].made);
    let parts: Vec<_> = [first].into_iter().chain(made).collect();
    assert_eq!(parts.len(), 3);
    assert!(parts.iter().all(|part| parsed(&part.bytes).length <= 1_500));
    // The last one comes first, and waits for the one that has the ports.
    let [first, middle, last] = &parts[..] else {
        panic!("three parts")
    };
    assert_eq!(nodes[1].send(UPLINK, &last.bytes).verdict, Verdict::Waits);
    assert_eq!(
        nodes[1].send(UPLINK, &first.bytes).verdict,
        Verdict::Transmit(WEB2)
    );
    assert_eq!(nodes[1].made.len(), 1);
    assert_eq!(
        nodes[1].send(UPLINK, &middle.bytes).verdict,
        Verdict::Transmit(WEB2)
    );
}
