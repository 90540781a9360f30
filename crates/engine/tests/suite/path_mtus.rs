//! R6: what routers on the wire say of narrower paths holds for tunnels, segments and senders; what they can't mean
//! changes nothing.

use etherparse::{Icmpv4Type, Icmpv6Type, PacketBuilder, icmpv4};
use podway_engine::{DropReason, Verdict};
use podway_intent::{Change, TrafficPolicy};
use podway_tables::PortId;
use podway_wire::{Addr, Family, FlowKey, Mac, Protocol, checksum, embedded, icmp, mss};

use crate::answers::{icmp_v4, icmp_v6};
use crate::direct::{PODS, direct};
use crate::fragments::may_be_cut;
use crate::outside::{nodes, outward};
use crate::world::{
    HOST, Sent, TestNode, UPLINK, addr, key, node, packet, parsed, slice, two_nodes,
};

const CLIENT: PortId = PortId(2);
const TEN_MINUTES_MS: u32 = 600_000;
/// Pods of node 1 and targets outside, by family.
const OUTSIDE: [(&str, &str); 2] = [
    ("10.244.1.10", "203.0.113.7"),
    ("fd44:0:0:1::10", "2001:db8::7"),
];

/// What a router on the way says of a frame that it could not send on: fragmentation needed, or packet too big.
fn too_big(frame: &[u8], mtu: u32) -> Vec<u8> {
    match parsed(frame).family {
        Family::V4 => too_big_quoting(548, frame, mtu),
        Family::V6 => too_big_quoting(1_232, frame, mtu),
    }
}

/// The same, with so many bytes of the packet at most.
fn too_big_quoting(most: usize, frame: &[u8], mtu: u32) -> Vec<u8> {
    let about = parsed(frame).key;
    let builder = PacketBuilder::ethernet2([2, 0, 0, 0, 8, 8], [2, 0, 0, 0, 2, 1]);
    let mut bytes = Vec::new();
    let quote = &frame[14..frame.len().min(14 + most)];
    match about.source.family() {
        Family::V4 => {
            let next_hop_mtu = mtu as u16;
            let kind = icmpv4::DestUnreachableHeader::FragmentationNeeded { next_hop_mtu };
            let builder = builder.ipv4([100, 64, 0, 1], about.source.low_bytes(), 60);
            let kind = Icmpv4Type::DestinationUnreachable(kind);
            builder.icmpv4(kind).write(&mut bytes, quote)
        }
        Family::V6 => {
            let router = addr("2001:db8:ffff::1").octets();
            let builder = builder.ipv6(router, about.source.octets(), 60);
            let kind = Icmpv6Type::PacketTooBig { mtu };
            builder.icmpv6(kind).write(&mut bytes, quote)
        }
    }
    .expect("a packet");
    bytes
}

/// All frames that a packet leaves in.
fn frames(node: &mut TestNode, bytes: &[u8]) -> Vec<Vec<u8>> {
    let sent = node.send(CLIENT, bytes);
    let all = [sent].into_iter().chain(std::mem::take(&mut node.made));
    let frame = |sent: Sent| {
        assert_eq!(sent.verdict, Verdict::Transmit(UPLINK));
        sent.bytes
    };
    all.map(frame).collect()
}

/// The length of the longest IP packet on the wire that a pod's packet leaves in.
fn longest(node: &mut TestNode, bytes: &[u8]) -> u32 {
    let lengths = frames(node, bytes);
    let lengths = lengths.iter().map(|frame| parsed(frame).length);
    lengths.max().expect("a frame")
}

/// The MTU that a pod is told for a packet; `None` if it is sent.
fn told(node: &mut TestNode, bytes: &[u8]) -> Option<u32> {
    let sent = node.send(CLIENT, bytes);
    if sent.verdict == Verdict::Transmit(UPLINK) {
        return None;
    }
    assert_eq!(sent.verdict, Verdict::Transmit(CLIENT));
    let told = icmp::too_big(&sent.bytes, &parsed(&sent.bytes));
    Some(told.expect("too big"))
}

/// A datagram that makes an IP packet of so many bytes; on IPv4 with DF.
fn datagram(flow: &FlowKey, length: usize) -> Vec<u8> {
    let headers = usize::from(mss::headers(flow.source.family())) - 12;
    packet(CLIENT, flow, 0, &vec![7; length - headers])
}

fn large_segment(flow: &FlowKey) -> Vec<u8> {
    packet(CLIENT, flow, 16, &[7; 20_000])
}

/// A flow whose handshake was seen, so that segments may be as long as the path takes.
fn open(nodes: &mut TestNode, flow: &FlowKey) {
    nodes.send(CLIENT, &packet(CLIENT, flow, 2, b""));
}

/// Two nodes whose tunnel is by IPv6.
fn over_ipv6() -> [TestNode; 2] {
    let only_ipv6 = |number| {
        let Change::Node(mut node) = node(number) else {
            panic!("a node")
        };
        node.addresses.retain(|address| address.is_ipv6());
        Change::Node(node)
    };
    let mut number = 0;
    two_nodes(&[only_ipv6(1), only_ipv6(2)]).map(|mut node| {
        number += 1;
        let peer = format!("fd50::{}", 3 - number).parse().expect("address");
        let mac = Mac([2, 0, 0, 0, 2, 3 - number]);
        node.change([Change::Neighbour(peer, mac)]);
        node
    })
}

/// Two nodes, and what their tunnel's headers take.
fn underlays() -> [(TestNode, u32); 2] {
    let [over_ipv4, _] = two_nodes(&[]);
    let [over_ipv6, _] = over_ipv6();
    [(over_ipv4, 50), (over_ipv6, 70)]
}

#[test]
fn r6_a_narrower_underlay_is_what_fits_into_the_tunnel_for_ten_minutes() {
    for (mut node, headers) in underlays() {
        let flows = PODS.map(|(client, far)| {
            let to = |protocol| key(protocol, (client, 4_000), (far, 80));
            (to(Protocol::TCP), to(Protocol::UDP))
        });
        let all_are = |node: &mut TestNode, outer: u32| {
            let inner = outer - headers;
            for (tcp, udp) in &flows {
                open(node, tcp);
                assert_eq!(longest(node, &large_segment(tcp)), outer);
                assert_eq!(told(node, &datagram(udp, inner as usize)), None);
                let more = datagram(udp, inner as usize + 1);
                assert_eq!(told(node, &more), Some(inner));
                if udp.source.family() == Family::V4 {
                    let most = longest(node, &may_be_cut(more));
                    assert!(most <= outer && most > outer - 8, "{most}");
                }
            }
        };
        all_are(&mut node, 1_500);
        let frame = frames(&mut node, &large_segment(&flows[0].0)).swap_remove(0);
        let (sent, moved) = node.send_counted(UPLINK, &too_big(&frame, 1_400));
        assert_eq!(sent.verdict, Verdict::Drop(DropReason::TunnelTooBig));
        assert_eq!(
            moved,
            ["received", "path-mtu-lowered", "drop/tunnel-too-big"]
        );
        all_are(&mut node, 1_400);

        // It shrinks further, and does not grow by what is said.
        for (said, is) in [(1_360, 1_360), (1_380, 1_360)] {
            node.send(UPLINK, &too_big(&frame, said));
            all_are(&mut node, is);
        }
        node.now_ms += TEN_MINUTES_MS - 1;
        all_are(&mut node, 1_360);
        node.now_ms += 1;
        all_are(&mut node, 1_500);
        node.send(UPLINK, &too_big(&frame, 1_380));
        all_are(&mut node, 1_380);
    }
}

#[test]
fn r6_a_router_that_quotes_no_more_than_ports_is_heard() {
    let [mut node, _] = two_nodes(&[]);
    let tcp = key(Protocol::TCP, ("10.244.1.10", 4_000), ("10.244.2.12", 80));
    open(&mut node, &tcp);
    let frame = frames(&mut node, &large_segment(&tcp)).swap_remove(0);
    let short = too_big_quoting(28, &frame, 1_400);
    let sent = node.send(UPLINK, &short);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::TunnelTooBig));
    assert_eq!(longest(&mut node, &large_segment(&tcp)), 1_400);
}

#[test]
fn r6_an_underlay_below_ipv6s_least_still_carries_segments_and_says_1280() {
    let [mut node, _] = two_nodes(&[]);
    let [v4, v6] = PODS.map(|(client, far)| key(Protocol::TCP, (client, 4_000), (far, 80)));
    open(&mut node, &v4);
    open(&mut node, &v6);
    let frame = frames(&mut node, &large_segment(&v4)).swap_remove(0);
    node.send(UPLINK, &too_big(&frame, 1_300));
    for flow in [v4, v6] {
        assert_eq!(longest(&mut node, &large_segment(&flow)), 1_300);
        let udp = FlowKey {
            protocol: Protocol::UDP,
            ..flow
        };
        let least = match flow.source.family() {
            Family::V4 => 1_250,
            // RFC 8200, 5: no sender has to go below.
            Family::V6 => 1_280,
        };
        assert_eq!(told(&mut node, &datagram(&udp, least)), None);
        let more = datagram(&udp, least + 1);
        assert_eq!(told(&mut node, &more), Some(least as u32));
    }
}

/// What can't be so of a path on which a packet of 1 500 bytes was too big.
fn lies(family: Family) -> &'static [u32] {
    match family {
        Family::V4 => &[0, 68, 575, 1_500, 1_501, 9_000, 65_535],
        Family::V6 => &[0, 68, 1_279, 1_500, 1_501, 9_000, 65_536, u32::MAX],
    }
}

/// Errors that lie, and one that got damaged.
fn false_errors(frame: &[u8]) -> Vec<Vec<u8>> {
    let family = parsed(frame).family;
    let mut errors: Vec<_> = lies(family)
        .iter()
        .map(|mtu| too_big(frame, *mtu))
        .collect();
    let mut damaged = too_big(frame, 1_400);
    *damaged.last_mut().expect("a byte") ^= 1;
    errors.push(damaged);
    errors
}

#[test]
fn r6_what_cannot_be_so_of_the_underlay_changes_nothing_and_is_counted() {
    for (mut node, headers) in underlays() {
        let flow = key(Protocol::TCP, ("10.244.1.10", 4_000), ("10.244.2.12", 80));
        open(&mut node, &flow);
        let frame = frames(&mut node, &large_segment(&flow)).swap_remove(0);
        let mut errors = false_errors(&frame);
        if headers == 50 {
            // Inside, 575 would be left.
            errors.push(too_big(&frame, 625));
        }
        for error in &errors {
            let (sent, moved) = node.send_counted(UPLINK, error);
            assert_eq!(sent.verdict, Verdict::Drop(DropReason::ImplausibleMtu));
            assert_eq!(moved, ["received", "drop/implausible-mtu"]);
        }
        assert_eq!(longest(&mut node, &large_segment(&flow)), 1_500);
    }
}

/// The frame with other bytes at a place of its IPv4 packet, whose checksum follows.
fn altered(frame: &[u8], at: usize, bytes: &[u8]) -> Vec<u8> {
    let mut frame = frame.to_vec();
    frame[14 + at..14 + at + bytes.len()].copy_from_slice(bytes);
    frame[24..26].fill(0);
    let sum = checksum::checksum(&frame[14..34]);
    frame[24..26].copy_from_slice(&sum.to_be_bytes());
    frame
}

/// An error about what this node's address sent, and we did not: its own stack's to know (R3).
fn is_the_hosts(node: &mut TestNode, error: &[u8]) {
    let (sent, moved) = node.send_counted(UPLINK, error);
    assert_eq!(sent.verdict, Verdict::Transmit(HOST));
    assert_eq!(moved, ["received", "transmitted", "host-own"]);
}

#[test]
fn r6_errors_about_tunnel_packets_that_we_did_not_send_change_nothing_and_are_counted() {
    let [mut node, _] = two_nodes(&[]);
    let flow = key(Protocol::TCP, ("10.244.1.10", 4_000), ("10.244.2.12", 80));
    open(&mut node, &flow);
    let frame = frames(&mut node, &large_segment(&flow)).swap_remove(0);
    // To whom is no peer, from a port that is none of the tunnel's, to another port, of another VNI.
    for (at, bytes) in [
        (16, &[192, 168, 50, 9][..]),
        (20, &[0x12, 0xb5]),
        (22, &[0x12, 0xb6]),
        (32, &[0, 0, 8]),
    ] {
        let error = too_big(&altered(&frame, at, bytes), 1_400);
        is_the_hosts(&mut node, &error);
    }
    // To us, about what somebody else sent.
    let mut error = too_big(&altered(&frame, 12, &[192, 168, 50, 8]), 1_400);
    error = altered(&error, 16, &[192, 168, 50, 1]);
    node.drops(UPLINK, &error, DropReason::UnrelatedIcmp);
    // From one of our own pods.
    let mut error = too_big(&frame, 1_400);
    error[6..12].copy_from_slice(&crate::world::pod_mac(CLIENT).0);
    let error = altered(&error, 12, &[10, 244, 1, 10]);
    node.drops(CLIENT, &error, DropReason::UnrelatedIcmp);
    assert_eq!(longest(&mut node, &large_segment(&flow)), 1_500);
}

#[test]
fn r6_the_world_tells_pods_of_narrower_paths_and_segments_are_cut_to_them() {
    for (client, outside) in OUTSIDE {
        let [mut node, _] = nodes(&[]);
        let to = |protocol, last: u16| key(protocol, (client, 4_000), (outside, last));
        let (tcp, udp) = (to(Protocol::TCP, 80), to(Protocol::UDP, 53));
        open(&mut node, &tcp);
        let all = frames(&mut node, &large_segment(&tcp));
        for frame in &all {
            let read = parsed(frame);
            assert!(read.length <= 1_500 && read.forbids_fragments(frame));
        }

        let (home, moved) = node.send_counted(UPLINK, &too_big(&all[3], 1_400));
        assert_eq!(home.verdict, Verdict::Transmit(CLIENT));
        assert_eq!(moved, ["received", "transmitted", "path-mtu-lowered"]);
        let outer = parsed(&home.bytes);
        assert_eq!(outer.key.target, addr(client));
        assert_eq!(icmp::too_big(&home.bytes, &outer), Some(1_400));
        let about = embedded(&home.bytes, &outer).expect("a quote");
        assert_eq!(about.key, tcp, "D1: it is told of its own packet");

        assert_eq!(longest(&mut node, &large_segment(&tcp)), 1_400);
        let other = to(Protocol::TCP, 81);
        open(&mut node, &other);
        assert_eq!(longest(&mut node, &large_segment(&other)), 1_400);
        assert_eq!(told(&mut node, &datagram(&udp, 1_400)), None);
        assert_eq!(told(&mut node, &datagram(&udp, 1_401)), Some(1_400));
        let elsewhere = FlowKey {
            target: addr(if client.contains(':') {
                "2001:db8::8"
            } else {
                "203.0.113.8"
            }),
            ..tcp
        };
        open(&mut node, &elsewhere);
        assert_eq!(longest(&mut node, &large_segment(&elsewhere)), 1_500);

        node.now_ms += TEN_MINUTES_MS;
        open(&mut node, &tcp);
        assert_eq!(longest(&mut node, &large_segment(&tcp)), 1_500);
        assert_eq!(told(&mut node, &datagram(&udp, 1_401)), None);
    }
}

#[test]
fn r6_what_cannot_be_so_of_the_world_changes_nothing_reaches_no_pod_and_is_counted() {
    for (client, outside) in OUTSIDE {
        let [mut node, _] = nodes(&[]);
        let tcp = key(Protocol::TCP, (client, 4_000), (outside, 80));
        open(&mut node, &tcp);
        let frame = frames(&mut node, &large_segment(&tcp)).swap_remove(0);
        for error in false_errors(&frame) {
            let (sent, moved) = node.send_counted(UPLINK, &error);
            assert_eq!(sent.verdict, Verdict::Drop(DropReason::ImplausibleMtu));
            assert_eq!(moved, ["received", "drop/implausible-mtu"]);
        }
        // About a flow that is not there.
        let never = key(Protocol::TCP, ("192.168.50.1", 61_001), ("203.0.113.9", 80));
        let never = large_segment(&never)[..1_514].to_vec();
        let error = too_big(&altered(&never, 2, &1_500u16.to_be_bytes()), 1_400);
        is_the_hosts(&mut node, &error);
        assert_eq!(longest(&mut node, &large_segment(&tcp)), 1_500);
    }
}

#[test]
fn r6_without_a_tunnel_errors_about_pods_packets_reach_them_and_segments_obey() {
    for (client, far) in PODS {
        let [mut node, _] = direct(&[]);
        let tcp = key(Protocol::TCP, (client, 4_000), (far, 80));
        open(&mut node, &tcp);
        let frame = frames(&mut node, &large_segment(&tcp)).swap_remove(0);
        let (home, moved) = node.send_counted(UPLINK, &too_big(&frame, 1_400));
        assert_eq!(home.verdict, Verdict::Transmit(CLIENT));
        assert_eq!(moved, ["received", "transmitted", "path-mtu-lowered"]);
        let outer = parsed(&home.bytes);
        assert_eq!(icmp::too_big(&home.bytes, &outer), Some(1_400));
        assert_eq!(longest(&mut node, &large_segment(&tcp)), 1_400);
    }
}

#[test]
fn r6_segments_are_never_sent_in_fragments() {
    let [mut node, _] = nodes(&[]);
    let (client, outside) = OUTSIDE[0];
    let tcp = key(Protocol::TCP, (client, 4_000), (outside, 80));
    // A SYN with data can't be cut, whatever its sender allows.
    let syn = may_be_cut(packet(CLIENT, &tcp, 2, &[7; 3_000]));
    assert_eq!(told(&mut node, &syn), Some(1_500));
    open(&mut node, &tcp);
    for frame in frames(&mut node, &may_be_cut(large_segment(&tcp))) {
        assert!(parsed(&frame).forbids_fragments(&frame));
    }
}

#[test]
fn r6_a_client_outside_is_told_by_the_node_that_it_knows() {
    let service = [
        outward(TrafficPolicy::Cluster),
        slice("web", "web-1", &["10.244.2.12", "fd44:0:0:2::12"]),
    ];
    for (client, balancer, ours) in [
        ("203.0.113.7", "198.51.100.5", "192.168.50.1"),
        ("2001:db8::7", "fd50::1", "fd50::1"),
    ] {
        let [mut node, _] = nodes(&service);
        let port = if balancer.contains(':') { 30_080 } else { 80 };
        let asked = key(Protocol::UDP, (client, 5_000), (balancer, port));
        let sent = node.send(UPLINK, &datagram(&asked, 1_500));
        assert_eq!(sent.verdict, Verdict::Transmit(UPLINK));
        let told = parsed(&sent.bytes);
        assert_eq!(
            (told.key.source, told.key.target),
            (addr(ours), addr(client))
        );
        match told.family {
            Family::V4 => {
                let kind = icmpv4::DestUnreachableHeader::FragmentationNeeded {
                    next_hop_mtu: 1_450,
                };
                assert_eq!(
                    icmp_v4(&sent.bytes),
                    Icmpv4Type::DestinationUnreachable(kind)
                );
            }
            Family::V6 => {
                assert_eq!(
                    icmp_v6(&sent.bytes),
                    Icmpv6Type::PacketTooBig { mtu: 1_450 }
                );
            }
        }
    }
}

#[test]
fn r6_the_nodes_own_processes_are_told_of_a_narrower_underlay() {
    let [mut node, _] = two_nodes(&[]);
    let tcp = key(Protocol::TCP, ("10.244.1.10", 4_000), ("10.244.2.12", 80));
    open(&mut node, &tcp);
    let frame = frames(&mut node, &large_segment(&tcp)).swap_remove(0);
    node.send(UPLINK, &too_big(&frame, 1_400));
    let udp = key(Protocol::UDP, ("192.168.50.1", 4_000), ("10.244.2.12", 53));
    let sent = node.send(HOST, &packet(HOST, &udp, 0, &[7; 1_400]));
    assert_eq!(sent.verdict, Verdict::Transmit(HOST));
    let told = icmp::too_big(&sent.bytes, &parsed(&sent.bytes));
    assert_eq!(told, Some(1_350));
    let known: Vec<_> = node.paths.tunnels.iter(node.now_ms).collect();
    assert_eq!(known.len(), 1);
    let end = Addr::of_words(known[0].target);
    assert_eq!((end, known[0].mtu), (addr("192.168.50.2"), 1_400));
}
