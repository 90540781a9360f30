//! Packets cut into parts: an independent receiver gets the same bytes, and etherparse finds nothing wrong.

use std::collections::BTreeMap;

use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use podway_wire::cut::{Cut, Cutting, parts};
use podway_wire::vxlan::{self, Outer};
use podway_wire::{Addr, Content, Family, Frame, Mac, Parsed};
use proptest::prelude::*;

const FIN: u8 = 1;
const PSH: u8 = 8;
const ACK: u8 = 16;
const ECE: u8 = 64;
const CWR: u8 = 128;

/// A TCP segment as a pod hands it over.
#[derive(Clone, Debug)]
pub(crate) struct Segment {
    pub(crate) family: Family,
    pub(crate) sequence: u32,
    pub(crate) flags: u8,
    /// Timestamps and padding, or none.
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
}

pub(crate) fn bytes_of(segment: &Segment) -> Vec<u8> {
    let ethernet = PacketBuilder::ethernet2([2; 6], [4; 6]);
    let ip = match segment.family {
        Family::V4 => ethernet.ipv4([10, 0, 0, 1], [10, 0, 0, 2], 63),
        Family::V6 => ethernet.ipv6([0xfd; 16], [0xfe; 16], 63),
    };
    let mut tcp = ip.tcp(4000, 80, segment.sequence, 1024).ack(77);
    let flags = segment.flags;
    if flags & FIN != 0 {
        tcp = tcp.fin();
    }
    if flags & PSH != 0 {
        tcp = tcp.psh();
    }
    if flags & CWR != 0 {
        tcp = tcp.cwr();
    }
    if flags & ECE != 0 {
        tcp = tcp.ece();
    }
    let tcp = tcp.options_raw(&segment.options).expect("options fit");
    let mut bytes = Vec::new();
    tcp.write(&mut bytes, &segment.payload).expect("a packet");
    bytes
}

pub(crate) fn read(bytes: &[u8]) -> Parsed {
    let mut copy = bytes.to_vec();
    let length = copy.len();
    let frame = Frame::new(&mut copy, 0, length, 0).expect("a frame");
    match Parsed::frame(&frame) {
        Ok(Content::Ip(parsed)) => parsed,
        other => panic!("{other:?}"),
    }
}

/// What etherparse reads of a segment, all checksums right.
#[derive(Debug)]
pub(crate) struct Seen {
    pub(crate) sequence: u32,
    pub(crate) flags: u8,
    pub(crate) options: Vec<u8>,
    pub(crate) payload: Vec<u8>,
    pub(crate) identification: u16,
}

pub(crate) fn seen(bytes: &[u8]) -> Seen {
    let slice = SlicedPacket::from_ethernet(bytes).expect("etherparse reads it");
    let Some(TransportSlice::Tcp(tcp)) = &slice.transport else {
        panic!("TCP")
    };
    let (sum, identification) = match &slice.net {
        Some(NetSlice::Ipv4(ip)) => {
            let header = ip.header().to_header();
            assert_eq!(header.header_checksum, header.calc_header_checksum());
            assert_eq!(usize::from(header.total_len), bytes.len() - 14);
            assert!(header.dont_fragment, "R6: no router may cut a segment");
            let sum = tcp.calc_checksum_ipv4(header.source, header.destination);
            (sum, header.identification)
        }
        Some(NetSlice::Ipv6(ip)) => {
            let header = ip.header();
            assert_eq!(usize::from(header.payload_length()), bytes.len() - 54);
            (
                tcp.calc_checksum_ipv6(header.source(), header.destination()),
                0,
            )
        }
        _ => panic!("IP"),
    };
    assert_eq!(sum, Ok(tcp.checksum()));
    Seen {
        sequence: tcp.sequence_number(),
        flags: tcp.slice()[13],
        options: tcp.options().to_vec(),
        payload: tcp.payload().to_vec(),
        identification,
    }
}

/// A receiver that knows nothing of us: bytes by sequence number, each the same whenever it comes.
#[derive(Default)]
pub(crate) struct Receiver {
    bytes: BTreeMap<u32, u8>,
    ended: Vec<u32>,
}

impl Receiver {
    pub(crate) fn take(&mut self, first: u32, seen: &Seen) {
        let start = seen.sequence.wrapping_sub(first);
        for (at, byte) in (start..).zip(&seen.payload) {
            let before = self.bytes.insert(at, *byte);
            assert!(before.is_none_or(|before| before == *byte), "byte {at}");
        }
        if seen.flags & FIN != 0 {
            self.ended.push(start + seen.payload.len() as u32);
        }
    }

    /// All that came, and where the stream ended.
    pub(crate) fn held(&self) -> (BTreeMap<u32, u8>, Vec<u32>) {
        let mut ended = self.ended.clone();
        ended.dedup();
        (self.bytes.clone(), ended)
    }

    /// The stream without gaps from its start, and where it ended.
    pub(crate) fn stream(&self) -> (Vec<u8>, Vec<u32>) {
        let bytes = (0..)
            .zip(&self.bytes)
            .map_while(|(wanted, (at, byte))| (wanted == *at).then_some(*byte));
        (bytes.collect(), self.ended.clone())
    }
}

fn outer(family: Family) -> Outer {
    let (source, target) = match family {
        Family::V4 => (Addr::v4([192, 168, 0, 1]), Addr::v4([192, 168, 0, 2])),
        Family::V6 => (Addr::v6([0xfc; 16]), Addr::v6([0xfb; 16])),
    };
    Outer {
        target_mac: Mac([6; 6]),
        source_mac: Mac([8; 6]),
        source,
        target,
        source_port: 50_000,
        target_port: 4789,
        vni: 7,
        traffic_class: 0,
    }
}

/// A packet inside a tunnel.
fn tunnelled(bytes: &[u8], outer: &Outer) -> Vec<u8> {
    let mut chunk = vec![0; 128 + bytes.len()];
    chunk[128..].copy_from_slice(bytes);
    let end = chunk.len();
    let mut frame = Frame::new(&mut chunk, 128, end, 0).expect("a frame");
    vxlan::push(&mut frame, outer).expect("room");
    frame.bytes().to_vec()
}

/// The frame inside a tunnel packet whose own lengths and checksums are right.
fn opened<'b>(bytes: &'b [u8], outer: &Outer) -> &'b [u8] {
    let slice = SlicedPacket::from_ethernet(bytes).expect("etherparse reads it");
    if let Some(NetSlice::Ipv4(ip)) = &slice.net {
        let header = ip.header().to_header();
        assert_eq!(header.header_checksum, header.calc_header_checksum());
    }
    let Some(TransportSlice::Udp(udp)) = &slice.transport else {
        panic!("UDP")
    };
    assert_eq!(udp.source_port(), outer.source_port);
    let headers = vxlan::overhead(outer.target.family());
    assert_eq!(usize::from(udp.length()), bytes.len() - headers + 16);
    &bytes[headers..]
}

pub(crate) fn segments() -> impl Strategy<Value = Segment> {
    let family = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let flags = prop::sample::subsequence(vec![FIN, PSH, ECE, CWR], 0..=4);
    let options = prop_oneof![
        Just(Vec::new()),
        any::<[u8; 8]>().prop_map(|stamps| [&[1, 1, 8, 10][..], &stamps].concat()),
    ];
    let payload = prop::collection::vec(any::<u8>(), 1..9_000);
    (family, any::<u32>(), flags, options, payload).prop_map(
        |(family, sequence, flags, options, payload)| Segment {
            family,
            sequence,
            flags: flags.iter().fold(ACK, |all, flag| all | flag),
            options,
            payload,
        },
    )
}

fn tunnels() -> impl Strategy<Value = Option<Family>> {
    prop_oneof![Just(None), Just(Some(Family::V4)), Just(Some(Family::V6))]
}

proptest! {
    #[test]
    fn segments_carry_the_stream_and_nothing_else(
        segment in segments(), tunnel in tunnels(), longest in 100_usize..2_000,
    ) {
        let whole = bytes_of(&segment);
        let outer = tunnel.map(outer);
        let packet = outer.map_or(whole.clone(), |outer| tunnelled(&whole, &outer));
        let cut = Cut::segments(&whole, &read(&whole), longest).expect("room");
        let cut = cut.behind(packet.len() - whole.len());
        let all = parts(&packet, cut).expect("sound");

        let mut receiver = Receiver::default();
        let mut identification = None;
        for (index, part) in all.iter().enumerate() {
            let inner = outer.as_ref().map_or(&part[..], |outer| opened(part, outer));
            prop_assert!(inner.len() - 14 <= longest);
            let seen = seen(inner);
            let (first, last) = (index == 0, index == all.len() - 1);
            let expected = segment.flags
                & if first { !0 } else { !CWR }
                & if last { !0 } else { !(FIN | PSH) };
            prop_assert_eq!(seen.flags, expected);
            prop_assert_eq!(&seen.options, &segment.options);
            if segment.family == Family::V4 {
                let expected = identification.map_or(seen.identification, |last: u16| last.wrapping_add(1));
                prop_assert_eq!(seen.identification, expected);
                identification = Some(expected);
            }
            if !last {
                prop_assert_eq!(inner.len() - 14, longest.min(whole.len() - 14), "as long as may be");
            }
            receiver.take(segment.sequence, &seen);
        }
        let ends = if segment.flags & FIN == 0 { vec![] } else { vec![segment.payload.len() as u32] };
        prop_assert_eq!(receiver.stream(), (segment.payload, ends));
    }

    #[test]
    fn where_pieces_begin_makes_no_difference(
        segment in segments(), longest in 100_usize..2_000, mut at in prop::collection::vec(0_usize..9_000, 0..6),
        steps in prop::collection::vec(1_usize..1_500, 1..4),
    ) {
        let whole = bytes_of(&segment);
        let cut = Cut::segments(&whole, &read(&whole), longest).expect("room");
        let expected = parts(&whole, cut).expect("sound");
        at.retain(|at| (100..whole.len()).contains(at));
        at.extend([0, whole.len()]);
        at.sort();
        let pieces: Vec<&[u8]> = at.windows(2).map(|ends| &whole[ends[0]..ends[1]]).collect();
        let mut cutting = Cutting::new(&pieces, cut).expect("the same packet");
        prop_assert_eq!(cutting.count(), expected.len());
        for expected in expected {
            let mut part = cutting.next_part().expect("one more");
            let mut bytes = vec![0; cutting.headers()];
            for step in steps.iter().cycle() {
                let mut into = vec![0; *step];
                let count = cutting.copy(&mut part, &mut into);
                bytes.extend(&into[..count]);
                if count == 0 {
                    break;
                }
            }
            cutting.write_headers(&part, &mut bytes);
            prop_assert_eq!(bytes, expected);
        }
        prop_assert!(cutting.next_part().is_none() && cutting.is_sound());
    }

    #[test]
    fn d4_a_wrong_checksum_is_not_made_right(
        segment in segments(), at in any::<prop::sample::Index>(), by in 1_u8..255,
    ) {
        let mut whole = bytes_of(&segment);
        let cut = Cut::segments(&whole, &read(&whole), 576).expect("room");
        let payload = whole.len() - segment.payload.len();
        let at = payload + at.index(segment.payload.len());
        whole[at] = whole[at].wrapping_add(by);
        prop_assert!(parts(&whole, cut).is_none());
    }
}

#[test]
fn only_data_is_cut_into_segments() {
    let segment = Segment {
        family: Family::V4,
        sequence: 1,
        flags: ACK,
        options: Vec::new(),
        payload: vec![7; 600],
    };
    let whole = bytes_of(&segment);
    for flag in [2, 4, 32] {
        let mut other = whole.clone();
        other[14 + 20 + 13] |= flag;
        assert_eq!(
            Cut::segments(&other, &read(&other), 576),
            None,
            "flag {flag}"
        );
    }
    assert_eq!(Cut::segments(&whole, &read(&whole), 40), None, "no room");
    let cut = Cut::segments(&whole, &read(&whole), 41).expect("a byte a segment");
    assert_eq!(parts(&whole, cut).expect("sound").len(), 600);
    assert!(parts(&whole[..500], cut).is_none(), "another length");
}
