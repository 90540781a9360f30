//! Fragments (D2, D3): one way for a datagram, whichever fragment comes first, and packets that are cut to fit.

use podway_engine::{DropReason, Verdict};
use podway_tables::PortId;
use podway_wire::cut::{Cut, parts};
use podway_wire::{Protocol, checksum};

use crate::world::{
    TestNode, UPLINK, addr, ingress_policy, key, packet, parsed, service, slice, two_nodes,
};

const CLIENT: PortId = PortId(2);
const WEB1: PortId = PortId(3);
const WEB2: PortId = PortId(2);

/// An IPv4 packet without DF, and with an identification.
pub(crate) fn may_be_cut(mut bytes: Vec<u8>) -> Vec<u8> {
    bytes[18..22].copy_from_slice(&[0x12, 0x34, 0, 0]);
    bytes[24..26].fill(0);
    let sum = checksum::checksum(&bytes[14..34]);
    bytes[24..26].copy_from_slice(&sum.to_be_bytes());
    bytes
}

/// A UDP datagram to a service, as IPv4 packets of 8 + 24, 24, … bytes of payload.
fn fragments(target: &str, payload: &[u8]) -> Vec<Vec<u8>> {
    let whole = packet(
        CLIENT,
        &key(Protocol::UDP, ("10.244.1.10", 4000), (target, 80)),
        0,
        payload,
    );
    let whole = may_be_cut(whole);
    let read = parsed(&whole);
    let cut = Cut::fragments(&read, 20 + 32).expect("room");
    parts(&whole, cut).expect("parts")
}

/// IPv6 fragments of a UDP datagram, cut after `at` bytes of its transport part.
fn fragments_v6(at: usize) -> [Vec<u8>; 2] {
    let flow = key(Protocol::UDP, ("fd44:0:0:1::10", 4000), ("fd96::5", 80));
    let whole = packet(CLIENT, &flow, 0, &[7; 100]);
    let part = |offset: usize, payload: &[u8], more: u8| {
        let mut bytes = whole[..54].to_vec();
        bytes[18..20].copy_from_slice(&(payload.len() as u16 + 8).to_be_bytes());
        bytes[20] = 44;
        let offset_and_more = (offset as u16) | u16::from(more);
        bytes.extend([17, 0]);
        bytes.extend(offset_and_more.to_be_bytes());
        bytes.extend([0, 0, 0, 9]);
        bytes.extend(payload);
        bytes
    };
    [
        part(0, &whole[54..54 + at], 1),
        part(at, &whole[54 + at..], 0),
    ]
}

/// What came out for a packet: itself and what was made, as (payload offset in bytes, target).
fn out(node: &mut TestNode, port: PortId, bytes: &[u8]) -> Vec<(u16, String)> {
    let sent = node.send(port, bytes);
    let own = matches!(sent.verdict, Verdict::Transmit(_)).then_some(sent.bytes);
    let made = node.made.iter().map(|sent| sent.bytes.clone());
    own.into_iter()
        .chain(made)
        .map(|bytes| {
            let offset = u16::from_be_bytes([bytes[20], bytes[21]]) << 3;
            (offset, parsed(&bytes).key.target.to_string())
        })
        .collect()
}

fn web() -> [podway_intent::Change; 2] {
    [service("web", 5), slice("web", "web-1", &["10.244.1.11"])]
}

#[test]
fn d3_fragments_in_any_order_go_the_way_of_the_first() {
    let orders: [&[usize]; 5] = [
        &[0, 1, 2, 3],
        &[1, 2, 3, 0],
        &[3, 0, 2, 1],
        &[0, 1, 1, 2, 3],
        &[3, 2, 1, 0],
    ];
    for order in orders {
        let [mut node, _] = two_nodes(&web());
        let parts = fragments("10.96.0.5", &[7; 100]);
        assert_eq!(parts.len(), 4);
        let mut came = Vec::new();
        for index in order {
            came.extend(out(&mut node, CLIENT, &parts[*index]));
        }
        assert!(
            came.iter().all(|(_, target)| target == "10.244.1.11"),
            "{came:?}"
        );
        came.sort();
        came.dedup();
        let offsets: Vec<u16> = came.iter().map(|(offset, _)| *offset).collect();
        assert_eq!(offsets, [0, 32, 64, 96], "{order:?}");
        assert_eq!(node.flows.iter().count(), 1);
    }
}

#[test]
fn d3_ipv6_fragments_in_both_orders_go_the_way_of_the_first() {
    for order in [[0, 1], [1, 0]] {
        let [mut node, _] = two_nodes(&[
            service("web", 5),
            slice("web", "web-1", &["fd44:0:0:1::11"]),
        ]);
        let parts = fragments_v6(64);
        let mut came = 0;
        for index in order {
            let sent = node.send(CLIENT, &parts[index]);
            for sent in [&sent].into_iter().chain(&node.made) {
                if sent.verdict == Verdict::Transmit(WEB1) {
                    assert_eq!(parsed(&sent.bytes).key.target, addr("fd44:0:0:1::11"));
                    came += 1;
                }
            }
        }
        assert_eq!(came, 2, "{order:?}");
    }
}

#[test]
fn d3_fragments_cross_the_tunnel_and_wait_there_too() {
    let mut nodes = two_nodes(&[service("web", 5), slice("web", "web-1", &["10.244.2.12"])]);
    let parts = fragments("10.96.0.5", &[7; 40]);
    let wire: Vec<Vec<u8>> = parts
        .iter()
        .map(|part| nodes[0].send(CLIENT, part).bytes)
        .collect();
    assert_eq!(nodes[1].send(UPLINK, &wire[1]).verdict, Verdict::Waits);
    let sent = nodes[1].send(UPLINK, &wire[0]);
    assert_eq!(sent.verdict, Verdict::Transmit(WEB2));
    assert_eq!(nodes[1].made.len(), 1);
    assert_eq!(nodes[1].made[0].verdict, Verdict::Transmit(WEB2));
}

#[test]
fn d3_overlaps_drop_the_datagram_and_policy_judges_all_of_it() {
    let [mut node, _] = two_nodes(&web());
    let parts = fragments("10.96.0.5", &[7; 100]);
    node.send(CLIENT, &parts[0]);
    let mut overlapping = fragments("10.96.0.5", &[9; 140]).remove(1);
    overlapping[21] -= 1;
    // One 8-byte unit less: the header checksum grows by one.
    let sum = u16::from_be_bytes([overlapping[24], overlapping[25]]) + 1;
    overlapping[24..26].copy_from_slice(&sum.to_be_bytes());
    let sent = node.send(CLIENT, &overlapping);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::FragmentOverlap));
    let sent = node.send(CLIENT, &parts[2]);
    assert_eq!(sent.verdict, Verdict::Drop(DropReason::FragmentOverlap));

    let [mut node, _] = two_nodes(&[ingress_policy("web1", None)]);
    for part in fragments("10.244.1.11", &[7; 100]) {
        let sent = node.send(CLIENT, &part);
        assert_eq!(sent.verdict, Verdict::Drop(DropReason::IngressDenied));
    }
}

#[test]
fn d3_a_first_fragment_without_its_ports_is_dropped_and_so_is_an_outer_fragment() {
    let [mut node, mut far] = two_nodes(&web());
    let mut short = fragments("10.96.0.5", &[7; 100]).remove(0);
    short.truncate(14 + 20 + 6);
    short[17] = 26;
    node.drops(CLIENT, &short, DropReason::Truncated);
    let to_web2 = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.244.2.12", 53));
    let mut wire = node.send(CLIENT, &packet(CLIENT, &to_web2, 0, b"q")).bytes;
    wire[20] |= 0x20;
    far.drops(UPLINK, &wire, DropReason::Fragment);
}

#[test]
fn d2_what_may_be_cut_is_cut_to_fit_the_tunnel_and_arrives_whole() {
    let mut nodes = two_nodes(&[service("web", 5), slice("web", "web-1", &["10.244.2.12"])]);
    let flow = key(Protocol::UDP, ("10.244.1.10", 4000), ("10.96.0.5", 80));
    let payload: Vec<u8> = (0..3_000).map(|byte| byte as u8).collect();
    let bytes = may_be_cut(packet(CLIENT, &flow, 0, &payload));
    let (head, moved) = nodes[0].send_counted(CLIENT, &bytes);
    assert_eq!(
        moved,
        [
            "received",
            "transmitted",
            "flow-miss",
            "flow-remembered",
            "tunnel-pushed",
            "cut"
        ]
    );
    let parts = std::mem::take(&mut nodes[0].made);
    assert_eq!((head.verdict, parts.len()), (Verdict::Transmit(UPLINK), 2));
    let mut together = vec![0; 8 + 3_000];
    for part in [head].into_iter().chain(parts) {
        assert!(part.bytes.len() <= 1_514, "it fits the wire");
        let arrived = nodes[1].send(UPLINK, &part.bytes);
        assert_eq!(arrived.verdict, Verdict::Transmit(WEB2));
        let at =
            usize::from(u16::from_be_bytes([arrived.bytes[20], arrived.bytes[21]]) & 0x1fff) * 8;
        together[at..at + arrived.bytes.len() - 34].copy_from_slice(&arrived.bytes[34..]);
    }
    assert_eq!(together[8..], payload);
    let sum = checksum::transport(
        &addr("10.244.1.10"),
        &addr("10.244.2.12"),
        Protocol::UDP,
        &together,
    );
    assert_eq!(sum, 0, "UDP's checksum is right over the whole datagram");
}
