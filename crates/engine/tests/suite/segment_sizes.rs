//! Large TCP packets: what SYNs offer on their way, and what becomes of large segments on theirs.

use etherparse::PacketBuilder;
use podway_engine::Verdict;
use podway_intent::{Attachment, Change, NodeSetup};
use podway_tables::PortId;
use podway_wire::{Family, FlowKey, Mac, Protocol, TCP_ACK, TCP_SYN, mss};

use crate::outside::nodes;
use crate::world::{
    GATEWAY_MAC, HOST, Sent, TestNode, UPLINK, across, attachment, key, parsed, pod_mac, service,
    setup, slice, two_nodes,
};

const HOST_MAC: Mac = Mac([2, 0, 0, 0, 3, 1]);
const CLIENT: PortId = PortId(2);
const WEB2: PortId = PortId(2);
/// What a pod's stack offers whose device takes 61 000 bytes.
const LARGE: u16 = 61_000 - 40;

/// A segment of the flow from the pod at `port`; `offer` is the size that it offers.
fn segment(port: PortId, flow: &FlowKey, flags: u8, offer: Option<u16>, payload: &[u8]) -> Vec<u8> {
    let source = match port {
        HOST => HOST_MAC,
        port => pod_mac(port),
    };
    let ethernet = PacketBuilder::ethernet2(source.0, GATEWAY_MAC.0);
    let ip = match (flow.source.ip(), flow.target.ip()) {
        (std::net::IpAddr::V4(source), std::net::IpAddr::V4(target)) => {
            ethernet.ipv4(source.octets(), target.octets(), 64)
        }
        (std::net::IpAddr::V6(source), std::net::IpAddr::V6(target)) => {
            ethernet.ipv6(source.octets(), target.octets(), 64)
        }
        _ => panic!("one family"),
    };
    let mut tcp = ip.tcp(flow.source_port, flow.target_port, 1, 1024);
    if flags & TCP_SYN != 0 {
        tcp = tcp.syn();
    }
    if flags & TCP_ACK != 0 {
        tcp = tcp.ack(1);
    }
    let options = offer.map(|size| [&[2, 4][..], &size.to_be_bytes()].concat());
    let tcp = tcp.options_raw(&options.unwrap_or_default());
    let mut bytes = Vec::new();
    tcp.expect("options fit")
        .write(&mut bytes, payload)
        .expect("a packet");
    bytes
}

fn offered(sent: &Sent) -> Option<u16> {
    assert!(
        matches!(sent.verdict, Verdict::Transmit(_)),
        "{:?}",
        sent.verdict
    );
    mss::offered(&sent.bytes, &parsed(&sent.bytes))
}

/// The lengths of the IP packets that a packet leaves in, without their tunnel.
fn lengths(node: &mut TestNode, port: PortId, bytes: &[u8]) -> Vec<usize> {
    let sent = node.send(port, bytes);
    let all = [sent].into_iter().chain(std::mem::take(&mut node.made));
    all.map(|sent| {
        assert_eq!(sent.verdict, Verdict::Transmit(UPLINK));
        let inner = match parsed(&sent.bytes).key.target_port {
            4789 => &sent.bytes[50..],
            _ => &sent.bytes,
        };
        parsed(inner).length as usize
    })
    .collect()
}

/// A pod with a device of 1 500 bytes.
fn small(name: &str, port: u16) -> Change {
    let Change::Attachment(attachment) = attachment(name, port) else {
        panic!("an attachment")
    };
    Change::Attachment(Attachment {
        mtu: 1500,
        ..attachment
    })
}

/// The flow from node 1's client to node 2's pod as that sees it.
fn flow(family: Family) -> FlowKey {
    match family {
        Family::V4 => key(Protocol::TCP, ("10.244.1.10", 4000), ("10.244.2.12", 80)),
        Family::V6 => key(
            Protocol::TCP,
            ("fd44:0:0:1::10", 4000),
            ("fd44:0:0:2::12", 80),
        ),
    }
}

#[test]
fn between_nodes_syns_offer_what_the_tunnel_takes_on_the_wire_and_all_at_the_pods() {
    for family in [Family::V4, Family::V6] {
        let headers = mss::headers(family);
        let large = 61_000 - headers;
        let mut nodes = two_nodes(&[]);
        let flow = flow(family);
        let wire = nodes[0].send(CLIENT, &segment(CLIENT, &flow, TCP_SYN, Some(large), b""));
        let inner = Sent {
            bytes: wire.bytes[50..].to_vec(),
            ..wire
        };
        assert_eq!(offered(&inner), Some(1450 - headers));
        let arrived = nodes[1].send(UPLINK, &wire.bytes);
        assert_eq!(offered(&arrived), Some(large));
        let answer = segment(WEB2, &flow.reverse(), TCP_SYN | TCP_ACK, Some(large), b"");
        let answered = across(&mut nodes, 1, WEB2, &answer);
        assert_eq!(offered(&answered), Some(large));

        let (forth, back) = (flow, flow.reverse());
        let count = 20_000_usize.div_ceil(1450 - usize::from(headers));
        for (node, port, flow) in [(0, CLIENT, forth), (1, WEB2, back)] {
            let bytes = segment(port, &flow, TCP_ACK, None, &[7; 20_000]);
            let sent = lengths(&mut nodes[node], port, &bytes);
            assert_eq!(sent.len(), count, "{sent:?}");
            assert!(sent[..count - 1].iter().all(|length| *length == 1450));
            let small = segment(port, &flow, TCP_ACK, None, &[7; 1_000]);
            assert_eq!(lengths(&mut nodes[node], port, &small).len(), 1);
        }
    }
}

#[test]
fn a_peer_outside_gets_no_longer_segments_than_it_offered() {
    for (peer, longest) in [(1460, 1500), (536, 576), (9_000, 1500)] {
        let [mut node, _] = nodes(&[]);
        let flow = key(Protocol::TCP, ("10.244.1.10", 4000), ("203.0.113.7", 80));
        let syn = node.send(CLIENT, &segment(CLIENT, &flow, TCP_SYN, Some(LARGE), b""));
        assert_eq!(offered(&syn), Some(1460));
        let seen = parsed(&syn.bytes).key;
        let answer = segment(CLIENT, &seen.reverse(), TCP_SYN | TCP_ACK, Some(peer), b"");
        for _ in 0..2 {
            assert_eq!(offered(&node.send(UPLINK, &answer)), Some(LARGE));
        }
        for payload in [600, 1_400, 5_000, 40_000] {
            let bytes = segment(CLIENT, &flow, TCP_ACK, None, &vec![7; payload]);
            let sent = lengths(&mut node, CLIENT, &bytes);
            assert_eq!(
                sent.len(),
                payload.div_ceil(longest - 40),
                "{payload} bytes"
            );
            assert!(sent.iter().all(|length| *length <= longest), "{sent:?}");
        }
    }
}

#[test]
fn options_take_their_room_from_the_payload() {
    let [mut node, _] = nodes(&[]);
    let flow = key(Protocol::TCP, ("10.244.1.10", 4000), ("203.0.113.7", 80));
    let syn = node.send(CLIENT, &segment(CLIENT, &flow, TCP_SYN, Some(LARGE), b""));
    let back = parsed(&syn.bytes).key.reverse();
    node.send(
        UPLINK,
        &segment(CLIENT, &back, TCP_SYN | TCP_ACK, Some(536), b""),
    );
    // Four bytes of options; the option itself means nothing here.
    let bytes = segment(CLIENT, &flow, TCP_ACK, Some(1), &[7; 532 * 3]);
    assert_eq!(lengths(&mut node, CLIENT, &bytes), [576; 3]);
}

#[test]
fn an_offer_too_small_to_cut_to_reaches_the_pod_as_it_is() {
    let [mut node, _] = nodes(&[]);
    let flow = key(Protocol::TCP, ("10.244.1.10", 4000), ("203.0.113.7", 80));
    let syn = node.send(CLIENT, &segment(CLIENT, &flow, TCP_SYN, Some(LARGE), b""));
    let back = parsed(&syn.bytes).key.reverse();
    for offer in [Some(48), Some(535), None] {
        let answer = segment(CLIENT, &back, TCP_SYN | TCP_ACK, offer, b"");
        assert_eq!(offered(&node.send(UPLINK, &answer)), offer);
    }
}

#[test]
fn of_a_flow_whose_syn_was_not_seen_segments_are_as_long_as_the_peers_own() {
    for (family, default) in [(Family::V4, 576), (Family::V6, 1280)] {
        let headers = mss::headers(family);
        let [mut node, mut far] = two_nodes(&[]);
        far.change([small("web2", 2)]);
        let flow = flow(family);
        let bytes = segment(CLIENT, &flow, TCP_ACK, None, &[7; 20_000]);
        for _ in 0..2 {
            let sent = lengths(&mut node, CLIENT, &bytes);
            assert!(sent.iter().all(|length| *length <= default), "{sent:?}");
            assert_eq!(sent[0], default);
        }
        for payload in [100, 1350_usize, 200] {
            let answer = segment(WEB2, &flow.reverse(), TCP_ACK, None, &vec![7; payload]);
            let wire = far.send(WEB2, &answer);
            node.send(UPLINK, &wire.bytes);
        }
        let sent = lengths(&mut node, CLIENT, &bytes);
        assert_eq!(sent[0], 1350 + usize::from(headers), "{sent:?}");
    }
}

/// S22: a node's own processes hand over large segments as pods do, if the pair to them takes such.
#[test]
fn s22_a_nodes_own_processes_are_offered_what_their_pair_takes() {
    for (mtu, cut) in [(1450, 1), (61_000, 15)] {
        let mut nodes = two_nodes(&[]);
        let Change::Setup(setup) = setup(1) else {
            panic!("a setup")
        };
        nodes[0].change([Change::Setup(NodeSetup {
            host: Some((HOST, HOST_MAC, mtu)),
            ..setup
        })]);
        let flow = key(Protocol::TCP, ("192.168.50.1", 4000), ("10.244.2.12", 80));
        let fits = mtu as u16 - 40;
        let syn = segment(HOST, &flow, TCP_SYN, Some(fits), b"");
        assert_eq!(offered(&across(&mut nodes, 0, HOST, &syn)), Some(LARGE));
        let answer = segment(WEB2, &flow.reverse(), TCP_SYN | TCP_ACK, Some(LARGE), b"");
        assert_eq!(offered(&across(&mut nodes, 1, WEB2, &answer)), Some(fits));
        let payload = vec![7; usize::from(fits).min(20_000)];
        let bytes = segment(HOST, &flow, TCP_ACK, None, &payload);
        assert_eq!(lengths(&mut nodes[0], HOST, &bytes).len(), cut);
    }
}

#[test]
fn nothing_is_raised_or_cut_for_pods_with_small_devices() {
    let mut nodes = two_nodes(&[]);
    nodes[0].change([small("client", 2)]);
    nodes[1].change([small("web2", 2)]);
    let flow = flow(Family::V4);
    let syn = segment(CLIENT, &flow, TCP_SYN, Some(1410), b"");
    assert_eq!(offered(&across(&mut nodes, 0, CLIENT, &syn)), Some(1410));
    let other = key(Protocol::TCP, ("10.244.1.10", 4001), ("10.244.2.12", 80));
    for flow in [flow, other] {
        let bytes = segment(CLIENT, &flow, TCP_ACK, None, &[7; 1_410]);
        assert_eq!(lengths(&mut nodes[0], CLIENT, &bytes), [1450]);
    }
}

#[test]
fn d2_a_service_takes_large_segments_for_a_backend_elsewhere() {
    let mut nodes = two_nodes(&[service("web", 5), slice("web", "web-1", &["10.244.2.12"])]);
    let flow = key(Protocol::TCP, ("10.244.1.10", 4000), ("10.96.0.5", 80));
    across(
        &mut nodes,
        0,
        CLIENT,
        &segment(CLIENT, &flow, TCP_SYN, Some(LARGE), b""),
    );
    let bytes = segment(CLIENT, &flow, TCP_ACK, None, &[7; 60_000]);
    let (first, moved) = nodes[0].send_counted(CLIENT, &bytes);
    assert_eq!(
        moved,
        [
            "received",
            "transmitted",
            "flow-hit",
            "tunnel-pushed",
            "cut"
        ]
    );
    let parts = std::mem::take(&mut nodes[0].made);
    assert_eq!(parts.len(), 42);
    let mut came = 0;
    for part in [first].into_iter().chain(parts) {
        let arrived = nodes[1].send(UPLINK, &part.bytes);
        assert_eq!(arrived.verdict, Verdict::Transmit(WEB2));
        came += arrived.bytes.len() - 54;
    }
    assert_eq!(came, 60_000);
}
