//! Segments of a flow that come in one batch on their way to a pod: which of them leave as one packet, and what is counted.

use etherparse::{IpHeaders, Ipv4Header, Ipv6Header, PacketBuilder};
use podway_engine::{Batch, Packet, Parts, Verdict};
use podway_intent::{Attachment, Change};
use podway_tables::PortId;
use podway_wire::join::{Run, Taken};
use podway_wire::{Family, FlowKey, Frame, Protocol, TCP_ACK, TCP_FIN, TCP_PSH, TCP_SYN};

use crate::world::{
    GATEWAY_MAC, HEADROOM, TestNode, UPLINK, across, assert_balanced, assert_sound, attachment,
    key, pod_mac, two_nodes,
};

const CLIENT: PortId = PortId(2);
const WEB2: PortId = PortId(2);
/// Payload of a segment, unless the test says otherwise.
const SIZE: usize = 1_000;
/// IP and TCP headers.
const HEADERS: usize = 40;

/// A segment as the client's stack makes it.
#[derive(Clone, Debug)]
struct Segment {
    flow: FlowKey,
    sequence: u32,
    flags: u8,
    acknowledges: u32,
    window: u16,
    options: Vec<u8>,
    traffic_class: u8,
    payload: usize,
}

/// Segment `number` of a stream of [`SIZE`] each.
fn segment(number: u32) -> Segment {
    Segment {
        flow: flow(Family::V4),
        sequence: number * SIZE as u32,
        flags: TCP_ACK,
        acknowledges: 7,
        window: 1_024,
        options: Vec::new(),
        traffic_class: 0,
        payload: SIZE,
    }
}

/// From node 1's client to node 2's pod.
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

fn bytes_of(segment: &Segment) -> Vec<u8> {
    let (source, target) = (segment.flow.source.ip(), segment.flow.target.ip());
    let headers = match (source, target) {
        (std::net::IpAddr::V4(source), std::net::IpAddr::V4(target)) => {
            let [source, target] = [source, target].map(|ip| ip.octets());
            let mut ip = Ipv4Header::new(0, 64, etherparse::IpNumber::TCP, source, target)
                .expect("a header");
            ip.dscp = (segment.traffic_class >> 2).try_into().expect("6 bits");
            ip.ecn = (segment.traffic_class & 3).try_into().expect("2 bits");
            IpHeaders::Ipv4(ip, Default::default())
        }
        (std::net::IpAddr::V6(source), std::net::IpAddr::V6(target)) => {
            let ip = Ipv6Header {
                traffic_class: segment.traffic_class,
                hop_limit: 64,
                source: source.octets(),
                destination: target.octets(),
                ..Default::default()
            };
            IpHeaders::Ipv6(ip, Default::default())
        }
        _ => panic!("one family"),
    };
    let (from, to) = (segment.flow.source_port, segment.flow.target_port);
    let mut tcp = PacketBuilder::ethernet2(pod_mac(CLIENT).0, GATEWAY_MAC.0)
        .ip(headers)
        .tcp(from, to, segment.sequence, segment.window);
    if segment.flags & TCP_SYN != 0 {
        tcp = tcp.syn();
    }
    if segment.flags & TCP_ACK != 0 {
        tcp = tcp.ack(segment.acknowledges);
    }
    if segment.flags & TCP_PSH != 0 {
        tcp = tcp.psh();
    }
    if segment.flags & TCP_FIN != 0 {
        tcp = tcp.fin();
    }
    let first = segment.sequence as usize;
    let payload: Vec<u8> = (first..first + segment.payload)
        .map(|at| (at % 251) as u8)
        .collect();
    let mut bytes = Vec::new();
    tcp.options_raw(&segment.options)
        .expect("options fit")
        .write(&mut bytes, &payload)
        .expect("a packet");
    bytes
}

/// Two nodes that saw these flows begin between large pods.
fn connected(flows: &[FlowKey]) -> [TestNode; 2] {
    let mut nodes = two_nodes(&[]);
    for flow in flows {
        let opens = Segment {
            flow: *flow,
            flags: TCP_SYN,
            options: vec![2, 4, 0xee, 0],
            payload: 0,
            ..segment(0)
        };
        across(&mut nodes, 0, CLIENT, &bytes_of(&opens));
        let answers = Segment {
            flow: flow.reverse(),
            flags: TCP_SYN | TCP_ACK,
            ..opens
        };
        across(&mut nodes, 1, WEB2, &bytes_of(&answers));
    }
    nodes
}

/// What left for the pod, each as the edge would send it.
struct Left {
    packets: Vec<Vec<u8>>,
    /// The counters that moved, and by how much.
    moved: Vec<(String, u64)>,
}

impl Left {
    fn counted(&self) -> Vec<(&str, u64)> {
        let moved = self.moved.iter();
        moved.map(|(name, count)| (name.as_str(), *count)).collect()
    }

    /// The lengths of what left, without headers.
    fn payloads(&self) -> Vec<usize> {
        let of = |packet: &Vec<u8>| packet.len() - 14 - HEADERS;
        self.packets.iter().map(of).collect()
    }
}

/// Brings packets that are on the wire to a node in one batch.
fn arrive(node: &mut TestNode, wire: &[Vec<u8>]) -> Left {
    let before = node.totals();
    let mut chunks: Vec<_> = wire.iter().map(|_| vec![0xEE; 4096]).collect();
    let frames = chunks.iter_mut().zip(wire).map(|(chunk, bytes)| {
        let end = HEADROOM + bytes.len();
        chunk[HEADROOM..end].copy_from_slice(bytes);
        Packet::received(Frame::new(chunk, HEADROOM, end, 0).expect("fits"), UPLINK)
    });
    let mut packets: Vec<_> = frames.collect();
    let mut spare = || None;
    let mut batch = Batch::new(&mut packets, &mut spare);
    let now_ms = node.now_ms;
    node.engine
        .process(&node.compiled.snapshot, &mut batch, now_ms);
    assert!(batch.into_made().is_empty());
    let totals = node.totals();
    let moved: Vec<u64> = totals
        .iter()
        .zip(&before)
        .map(|(now, then)| now - then)
        .collect();
    assert_balanced(&moved, wire.len() as u64);
    let names = podway_engine::counter_names();
    let moved = names.into_iter().zip(moved).filter(|(_, count)| *count > 0);
    let packets = joined(&packets);
    for packet in &packets {
        assert_sound(packet);
    }
    Left {
        packets,
        moved: moved.collect(),
    }
}

/// What an edge makes of these packets, which all go to one pod: it joins only neighbours that the engine lets it.
fn joined(packets: &[Packet<'_>]) -> Vec<Vec<u8>> {
    let mut left = Vec::new();
    let mut rest = packets;
    while let Some((first, mut behind)) = rest.split_first() {
        assert_eq!(first.verdict, Verdict::Transmit(WEB2));
        let mut bytes = first.frame.bytes().to_vec();
        if let Parts::Joined { longest } = first.parts
            && let Some(mut run) = Run::begin(&bytes, longest as usize)
        {
            let mut payload: Vec<u8> = Vec::new();
            while let Some((next, others)) = behind.split_first()
                && next.parts != Parts::Whole
            {
                let taken = run.take(&bytes, next.frame.bytes());
                if taken == Taken::No {
                    break;
                }
                payload.extend(&next.frame.bytes()[run.headers()..]);
                behind = others;
                if taken == Taken::Last {
                    break;
                }
            }
            assert_eq!(run.finish(&mut bytes), payload.len());
            bytes.extend(payload);
        }
        left.push(bytes);
        rest = behind;
    }
    left
}

/// Sends segments from node 1's client, and brings them to node 2 in one batch.
fn together(nodes: &mut [TestNode; 2], segments: &[Segment]) -> Left {
    let [near, far] = nodes;
    let wire: Vec<_> = segments
        .iter()
        .map(|segment| {
            let sent = near.send(CLIENT, &bytes_of(segment));
            assert_eq!(sent.verdict, Verdict::Transmit(UPLINK));
            sent.bytes
        })
        .collect();
    arrive(far, &wire)
}

/// The payloads that four segments leave in, after the third was changed.
fn with_third(change: impl Fn(&mut Segment)) -> Vec<usize> {
    let mut nodes = connected(&[flow(Family::V4)]);
    let mut segments: Vec<_> = (1..=4).map(segment).collect();
    change(&mut segments[2]);
    together(&mut nodes, &segments).payloads()
}

/// D13: what leaves as one packet was counted as what it was.
#[test]
fn d13_segments_in_order_leave_as_one_and_each_is_counted() {
    for family in [Family::V4, Family::V6] {
        let mut nodes = connected(&[flow(family)]);
        let segments = |from: u32| {
            let of = |number| Segment {
                flow: flow(family),
                ..segment(number)
            };
            (from..from + 5).map(of).collect::<Vec<_>>()
        };
        let left = together(&mut nodes, &segments(1));
        let expected = [
            ("received", 5),
            ("transmitted", 5),
            ("flow-hit", 5),
            ("tunnel-opened", 5),
        ];
        assert_eq!((left.packets.len(), left.counted()), (1, expected.to_vec()));
        let packet = &left.packets[0];
        let payload: Vec<u8> = (SIZE..6 * SIZE).map(|at| (at % 251) as u8).collect();
        assert!(packet.ends_with(&payload));
    }
}

#[test]
fn push_and_fin_end_a_packet() {
    for flag in [TCP_PSH, TCP_FIN] {
        let left = with_third(|third| third.flags |= flag);
        assert_eq!(left, [3 * SIZE, SIZE], "flag {flag}");
    }
}

#[test]
fn a_shorter_segment_is_the_last_of_its_packet() {
    let left = with_third(|third| third.payload = 700);
    assert_eq!(left, [2 * SIZE + 700, SIZE]);
    let left = with_third(|third| third.payload = 1_200);
    assert_eq!(left, [2 * SIZE, 1_200, SIZE]);
}

#[test]
fn a_gap_and_what_comes_twice_or_out_of_order_stay_apart() {
    let left = with_third(|third| third.sequence += 1);
    assert_eq!(left, [2 * SIZE, SIZE, SIZE]);
    let left = with_third(|third| third.sequence = segment(2).sequence);
    assert_eq!(left, [2 * SIZE, SIZE, SIZE]);
    let left = with_third(|third| third.sequence = segment(5).sequence);
    assert_eq!(left, [2 * SIZE, SIZE, SIZE]);
}

#[test]
fn another_acknowledgement_window_or_option_stays_apart() {
    for change in [
        (|third| third.acknowledges += 1) as fn(&mut Segment),
        |third| third.window -= 1,
        |third| third.options = vec![8, 10, 0, 0, 0, 1, 0, 0, 0, 2, 1, 1],
    ] {
        let left = with_third(change);
        assert_eq!((left[0], left.len()), (2 * SIZE, 3), "{left:?}");
    }
}

/// D9: a mark of congestion reaches the pod on the segment that has it.
#[test]
fn d9_marks_of_congestion_stay_apart() {
    for mark in [1, 2, 3] {
        let left = with_third(|third| third.traffic_class = mark);
        assert_eq!(left, [2 * SIZE, SIZE, SIZE], "mark {mark}");
    }
    let mut nodes = connected(&[flow(Family::V4)]);
    let marked = |number| Segment {
        traffic_class: 2,
        ..segment(number)
    };
    let left = together(&mut nodes, &[1, 2, 3].map(marked));
    assert_eq!(left.payloads(), [3 * SIZE], "all are marked");
}

#[test]
fn other_flows_in_between_stay_apart() {
    let flow = flow(Family::V4);
    let second = FlowKey {
        source_port: 4001,
        ..flow
    };
    let mut nodes = connected(&[flow, second]);
    let other = |number| Segment {
        flow: second,
        ..segment(number)
    };
    let segments = [segment(1), segment(2), other(3), segment(3), segment(4)];
    let left = together(&mut nodes, &segments);
    assert_eq!(left.payloads(), [2 * SIZE, SIZE, 2 * SIZE]);
}

#[test]
fn a_packet_is_never_longer_than_the_pods_device_takes() {
    let mut nodes = connected(&[flow(Family::V4)]);
    let Change::Attachment(attachment) = attachment("web2", WEB2.0) else {
        panic!("an attachment")
    };
    let mtu = (HEADERS + 3 * SIZE) as u32;
    for (mtu, expected) in [(mtu, vec![3, 3, 1]), (mtu - 1, vec![2, 2, 2, 1])] {
        nodes[1].change([Change::Attachment(Attachment {
            mtu,
            ..attachment.clone()
        })]);
        let segments: Vec<_> = (1..=7).map(segment).collect();
        let left = together(&mut nodes, &segments);
        let expected: Vec<_> = expected.iter().map(|count| count * SIZE).collect();
        assert_eq!(left.payloads(), expected);
    }
}

/// D3: a fragment is passed on as the fragment that it is.
#[test]
fn d3_a_fragment_stays_apart() {
    let mut nodes = connected(&[flow(Family::V4)]);
    let [near, far] = &mut nodes;
    // What is before other fragments is a multiple of eight bytes long.
    let lengths = [SIZE, SIZE + 4, SIZE];
    let segments = (1..).zip(lengths).map(|(number, payload)| Segment {
        payload,
        ..segment(number)
    });
    let mut wire: Vec<_> = segments
        .map(|segment| near.send(CLIENT, &bytes_of(&segment)).bytes)
        .collect();
    let header = &mut wire[1][50 + 14..][..20];
    let (mut fragment, _) = Ipv4Header::from_slice(header).expect("IPv4");
    (fragment.dont_fragment, fragment.more_fragments) = (false, true);
    fragment.header_checksum = fragment.calc_header_checksum();
    header.copy_from_slice(&fragment.to_bytes());
    let left = arrive(far, &wire);
    assert_eq!(left.payloads(), lengths);
}
