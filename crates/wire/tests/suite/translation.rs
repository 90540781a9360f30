//! `edit`: what is translated has the checksums that etherparse computes, and goes back to the byte.

use podway_wire::edit::{decrement_ttl, traffic_class, translate};
use podway_wire::{Family, FlowKey, Fragment, Protocol};
use proptest::prelude::*;

use crate::packets::{
    ETHERNET, content_carrying, ip_of, key, packet, packet_with, parsed, translations, wrong_sums,
};

proptest! {
    #[test]
    fn d4_sums_are_right_and_the_way_back_restores(
        (from, to) in translations(),
        options in prop_oneof![Just(&[][..]), Just(&[1, 1, 1, 0][..])],
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let before = packet_with(&from, options, &payload);
        let mut bytes = before.clone();
        prop_assert_eq!(parsed(&bytes).key, from);
        translate(&mut bytes, &parsed(&before), &to);
        prop_assert_eq!(wrong_sums(&bytes), Vec::<&str>::new());
        let there = parsed(&bytes);
        prop_assert_eq!(there.key, to);
        translate(&mut bytes, &there, &from);
        prop_assert_eq!(bytes, before);
    }

    #[test]
    fn d5_a_wrong_sum_stays_wrong(
        (from, to) in translations(),
        noise in 1..0xffffu16,
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let mut bytes = packet(&from, &payload);
        let at = parsed(&bytes).l4 as usize + sum_offset(from.protocol);
        let right = u16::from_be_bytes([bytes[at], bytes[at + 1]]);
        let wrong = right.wrapping_add(noise);
        // Both zeros say the same, and a zero says nothing in UDP.
        prop_assume!(wrong != 0 && !(right == 0 && wrong == 0xffff));
        bytes[at..at + 2].copy_from_slice(&wrong.to_be_bytes());
        let before = parsed(&bytes);
        translate(&mut bytes, &before, &to);
        prop_assert_eq!(wrong_sums(&bytes), ["transport"]);
    }

    #[test]
    fn d3_fragments_translate_to_the_datagram_that_the_whole_translates_to(
        (from, to) in translations(),
        payload in prop::collection::vec(any::<u8>(), 64..128),
    ) {
        // IPv6's differ only in how they are told apart, which `parsing` tests. SCTP's checksum depends on the
        // datagram's length, which a first fragment doesn't tell.
        if from.source.family() == Family::V6 || from.protocol == Protocol::SCTP {
            return Ok(());
        }
        let mut whole = packet(&from, &payload);
        let (mut first, mut later) = split(&whole, 32);
        prop_assert_eq!(parsed(&first).fragment, Fragment::First);
        prop_assert_eq!(parsed(&later).fragment, Fragment::Later);
        for bytes in [&mut whole, &mut first, &mut later] {
            let before = parsed(bytes);
            translate(bytes, &before, &to);
        }
        prop_assert_eq!(&wrong_sums(&first)[..], &[][..] as &[&str], "of the IP header");
        let joined = [&first[ETHERNET + 20..], &later[ETHERNET + 20..]].concat();
        prop_assert_eq!(&joined, &whole[ETHERNET + 20..]);
        prop_assert_eq!(&later[ETHERNET + 12..ETHERNET + 20], &whole[ETHERNET + 12..ETHERNET + 20]);
    }

    #[test]
    fn carried_bytes_are_covered_by_the_sums_and_untouched(
        (from, to) in translations(),
        payload in prop::collection::vec(any::<u8>(), 200),
    ) {
        let mut whole = packet(&from, &payload);
        let (head, tail) = whole.split_at_mut(120);
        let before = ip_of(content_carrying(head, tail.len()));
        translate(head, &before, &to);
        prop_assert_eq!(wrong_sums(&whole), Vec::<&str>::new());
    }

    #[test]
    fn d8_the_traffic_class_is_set_alone((from, _) in translations(), class in any::<u8>()) {
        let before = packet(&from, b"class");
        let mut bytes = before.clone();
        let mut now = parsed(&bytes);
        traffic_class(&mut bytes, &mut now, class);
        prop_assert_eq!(parsed(&bytes), now);
        prop_assert_eq!(now.traffic_class, class);
        prop_assert_eq!(wrong_sums(&bytes), Vec::<&str>::new());
        traffic_class(&mut bytes, &mut now, 0);
        prop_assert_eq!(bytes, before);
    }
}

/// Where the transport checksum is in its header.
fn sum_offset(protocol: Protocol) -> usize {
    match protocol {
        Protocol::TCP => 16,
        Protocol::UDP => 6,
        Protocol::SCTP => 8,
        _ => 2,
    }
}

/// Two IPv4 fragments, the first with `count` bytes of the IP payload.
fn split(whole: &[u8], count: usize) -> (Vec<u8>, Vec<u8>) {
    let (headers, payload) = whole.split_at(ETHERNET + 20);
    let fragment = |part: &[u8], bits: u16| {
        let mut header = etherparse::Ipv4Header::from_slice(&headers[ETHERNET..])
            .expect("IPv4")
            .0;
        header.total_len = (20 + part.len()) as u16;
        header.dont_fragment = false;
        header.more_fragments = bits & 0x2000 != 0;
        header.fragment_offset = (bits & 0x1fff).try_into().expect("13 bits");
        header.header_checksum = header.calc_header_checksum();
        [&headers[..ETHERNET], &header.to_bytes(), part].concat()
    };
    let (first, later) = payload.split_at(count);
    (fragment(first, 0x2000), fragment(later, count as u16 / 8))
}

#[test]
fn d4_udp_has_no_sum_before_and_none_after() {
    for (from, to) in udp_pairs() {
        let mut bytes = packet(&from, b"no sum");
        let at = parsed(&bytes).l4 as usize + 6;
        bytes[at..at + 2].fill(0);
        let before = parsed(&bytes);
        translate(&mut bytes, &before, &to);
        assert_eq!(bytes[at..at + 2], [0, 0]);
        assert_eq!(parsed(&bytes).key, to);
        assert_eq!(wrong_sums(&bytes), ["transport"]);
    }
}

#[test]
fn d4_udp_never_gets_a_zero_that_would_say_no_sum() {
    for (from, to) in udp_pairs() {
        let start = packet(&from, b"every port");
        let (mut bytes, mut before) = (start.clone(), parsed(&start));
        let at = before.l4 as usize + 6;
        let mut ones = 0;
        for port in 1..=u16::MAX {
            let mut to = to;
            to.target_port = port;
            translate(&mut bytes, &before, &to);
            before.key = to;
            assert_ne!(bytes[at..at + 2], [0, 0], "port {port}");
            if bytes[at..at + 2] == [0xff, 0xff] {
                assert_eq!(wrong_sums(&bytes), Vec::<&str>::new());
                ones += 1;
            }
        }
        // One port makes the sum all ones.
        assert_eq!(ones, 1);
        translate(&mut bytes, &before, &from);
        assert_eq!(bytes, start);
    }
}

fn udp_pairs() -> [(FlowKey, FlowKey); 2] {
    [
        (
            key(Protocol::UDP, ("10.244.1.7", 4000), ("10.96.0.10", 53)),
            key(Protocol::UDP, ("10.244.1.7", 4000), ("10.244.2.9", 5353)),
        ),
        (
            key(Protocol::UDP, ("fd00::7", 4000), ("fd96::a", 53)),
            key(Protocol::UDP, ("fd00::7", 4000), ("fd00:2::9", 5353)),
        ),
    ]
}

#[test]
fn d7_every_ttl_counts_down_with_a_right_sum() {
    for flow in [
        key(Protocol::UDP, ("10.0.0.1", 1), ("10.0.0.2", 2)),
        key(Protocol::UDP, ("fd00::1", 1), ("fd00::2", 2)),
    ] {
        for ttl in 1..=u8::MAX {
            let mut bytes = packet(&flow, b"");
            match flow.source.family() {
                Family::V4 => {
                    bytes[ETHERNET + 8] = ttl;
                    let header = etherparse::Ipv4Header::from_slice(&bytes[ETHERNET..]);
                    let sum = header.expect("IPv4").0.calc_header_checksum();
                    bytes[ETHERNET + 10..ETHERNET + 12].copy_from_slice(&sum.to_be_bytes());
                }
                Family::V6 => bytes[ETHERNET + 7] = ttl,
            }
            let before = parsed(&bytes);
            assert_eq!(before.ttl, ttl);
            decrement_ttl(&mut bytes, &before);
            let mut expected = before;
            expected.ttl = ttl - 1;
            assert_eq!(parsed(&bytes), expected);
            assert_eq!(wrong_sums(&bytes), Vec::<&str>::new(), "from {ttl}");
        }
    }
}
