//! `edit::translate_error`: an ICMP error follows its flow through the translation, both ways.

use etherparse::{Ipv4HeaderSlice, PacketBuilder};
use podway_wire::edit::{translate, translate_error};
use podway_wire::{Addr, Embedded, Family, FlowKey, Icmp, Protocol, embedded, icmp};
use proptest::prelude::*;

use crate::packets::{ETHERNET, ip, key, packet, packet_with, parsed, translations, wrong_sums};

/// Port unreachable from `source` to `target`, quoting this much of a packet.
fn error(source: Addr, target: Addr, quote: &[u8]) -> Vec<u8> {
    let outer = FlowKey {
        source,
        target,
        source_port: 0,
        target_port: 0,
        protocol: Protocol(0),
    };
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ip(ip(&outer, &[]));
    let mut bytes = Vec::new();
    match source.family() {
        Family::V4 => builder.icmpv4_raw(3, 3, [0; 4]).write(&mut bytes, quote),
        Family::V6 => builder.icmpv6_raw(1, 4, [0; 4]).write(&mut bytes, quote),
    }
    .expect("a packet");
    bytes
}

/// What the error embeds.
fn quoted(bytes: &[u8]) -> Embedded {
    let outer = parsed(bytes);
    assert_eq!(outer.icmp, Icmp::Error);
    embedded(bytes, &outer).expect("a quoted packet")
}

fn router(family: Family, low: u8) -> Addr {
    match family {
        Family::V4 => Addr::v4([100, 64, 0, low]),
        Family::V6 => Addr::v6([0xfd, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, low]),
    }
}

proptest! {
    #[test]
    fn d1_the_quote_is_what_the_packet_itself_translates_to(
        (from, to) in translations(),
        options in prop_oneof![Just(&[][..]), Just(&[1, 1, 1, 0][..])],
        payload in prop::collection::vec(any::<u8>(), 0..64),
        // Half of TCP's checksum, after 9 more bytes, stays as it is.
        beyond_8 in prop_oneof![0..9usize, 10..100usize],
        no_sum in any::<bool>(),
    ) {
        let family = from.source.family();
        let mut whole = packet_with(&from, options, &payload);
        let before = parsed(&whole);
        let l4 = before.l4 as usize;
        if no_sum && from.protocol == Protocol::UDP {
            whole[l4 + 6..l4 + 8].fill(0);
        }
        let cut = (l4 + 8 + beyond_8).min(whole.len());
        let start = error(router(family, 1), from.source, &whole[ETHERNET..cut]);
        let mut bytes = start.clone();
        let (outer, inner) = (parsed(&bytes), quoted(&bytes));
        prop_assert_eq!(inner.key, from);
        prop_assert_eq!(inner.length as usize, whole.len() - ETHERNET);
        prop_assert!(icmp::is_sound(&start, &outer));

        translate_error(&mut bytes, &outer, (&router(family, 2), &to.source), &inner, &to);
        prop_assert_eq!(wrong_sums(&bytes), Vec::<&str>::new());
        prop_assert_eq!(quoted(&bytes).key, to);
        let there = parsed(&bytes);
        prop_assert_eq!((there.key.source, there.key.target), (router(family, 2), to.source));
        let sctp_sum = (from.protocol == Protocol::SCTP).then(|| whole[l4 + 8..l4 + 12].to_vec());
        translate(&mut whole, &before, &to);
        if let Some(sum) = sctp_sum {
            // A quote seldom has the whole packet, and nobody checks this sum in one.
            whole[l4 + 8..l4 + 12].copy_from_slice(&sum);
        }
        prop_assert_eq!(&bytes[inner.l3 as usize..], &whole[ETHERNET..cut]);
        if family == Family::V4 {
            let header = Ipv4HeaderSlice::from_slice(&bytes[inner.l3 as usize..]).expect("IPv4");
            prop_assert_eq!(header.to_header().calc_header_checksum(), header.header_checksum());
        }

        let inner = quoted(&bytes);
        translate_error(&mut bytes, &there, (&router(family, 1), &from.source), &inner, &from);
        prop_assert_eq!(bytes, start);
    }
}

#[test]
fn d1_a_quoted_udp_sum_never_becomes_the_zero_that_says_none() {
    for (from, mut to) in [
        (
            key(Protocol::UDP, ("10.0.0.1", 4000), ("10.0.0.2", 53)),
            key(Protocol::UDP, ("10.0.0.1", 4000), ("10.0.0.3", 53)),
        ),
        (
            key(Protocol::UDP, ("fd00::1", 4000), ("fd00::2", 53)),
            key(Protocol::UDP, ("fd00::1", 4000), ("fd00::3", 53)),
        ),
    ] {
        let quote = packet(&from, b"asked");
        let start = error(from.target, from.source, &quote[ETHERNET..]);
        for port in 1..=u16::MAX {
            to.target_port = port;
            let mut bytes = start.clone();
            let (outer, inner) = (parsed(&bytes), quoted(&bytes));
            translate_error(&mut bytes, &outer, (&to.target, &to.source), &inner, &to);
            let sum = inner.l4 as usize + 6;
            assert_ne!(bytes[sum..sum + 2], [0, 0], "port {port}");
        }
    }
}

#[test]
fn d1_a_quote_of_less_than_ports_or_of_another_family_is_none() {
    let flow = key(Protocol::TCP, ("10.0.0.1", 4000), ("10.0.0.2", 80));
    let whole = packet(&flow, b"");
    for cut in 0..28 {
        let bytes = error(flow.target, flow.source, &whole[ETHERNET..ETHERNET + cut]);
        assert_eq!(embedded(&bytes, &parsed(&bytes)), None, "{cut} bytes");
    }
    let six = key(Protocol::TCP, ("fd00::1", 4000), ("fd00::2", 80));
    let bytes = error(six.target, six.source, &whole[ETHERNET..]);
    assert_eq!(embedded(&bytes, &parsed(&bytes)), None);
    let bytes = error(flow.target, flow.source, &packet(&six, b"")[ETHERNET..]);
    assert_eq!(embedded(&bytes, &parsed(&bytes)), None);
}

#[test]
fn d1_a_quote_in_the_ethernet_padding_is_none() {
    let flow = key(Protocol::UDP, ("10.0.0.1", 4000), ("10.0.0.2", 53));
    let mut bytes = error(flow.target, flow.source, &[]);
    bytes.extend(&packet(&flow, b"padding")[ETHERNET..]);
    assert_eq!(embedded(&bytes, &parsed(&bytes)), None);
}

#[test]
fn d1_a_quote_of_mapped_addresses_is_none() {
    // It would be found under the key of an IPv4 flow.
    let outer = key(Protocol::UDP, ("fd00::1", 0), ("fd00::2", 0));
    let flow = key(Protocol::UDP, ("fd00::2", 4000), ("fd00::3", 53));
    for at in [8, 24] {
        let mut quote = packet(&flow, b"")[ETHERNET..].to_vec();
        quote[at..at + 16].copy_from_slice(&Addr::v4([10, 0, 0, 1]).octets());
        let bytes = error(outer.source, outer.target, &quote);
        assert_eq!(embedded(&bytes, &parsed(&bytes)), None);
    }
}

#[test]
fn d1_a_quoted_error_or_icmp_of_the_other_family_is_none() {
    for (outer, message) in [
        (
            key(Protocol::ICMP, ("10.0.0.1", 9), ("10.0.0.2", 0)),
            [3, 3],
        ),
        (
            key(Protocol::ICMPV6, ("fd00::1", 9), ("fd00::2", 0)),
            [1, 4],
        ),
    ] {
        let mut echo = packet(&outer, b"echo");
        let at = parsed(&echo).l4 as usize;
        let bytes = error(outer.target, outer.source, &echo[ETHERNET..]);
        assert_eq!(quoted(&bytes).key, outer);
        echo[at..at + 2].copy_from_slice(&message);
        let bytes = error(outer.target, outer.source, &echo[ETHERNET..]);
        assert_eq!(embedded(&bytes, &parsed(&bytes)), None);
    }
    let mut outer = key(Protocol::ICMP, ("fd00::1", 9), ("fd00::2", 0));
    outer.protocol = Protocol::ICMP;
    let bytes = error(outer.target, outer.source, &packet(&outer, b"")[ETHERNET..]);
    assert_eq!(embedded(&bytes, &parsed(&bytes)), None);
}

#[test]
fn d1_a_quoted_later_fragment_is_none() {
    let flow = key(Protocol::UDP, ("10.0.0.1", 4000), ("10.0.0.2", 53));
    let mut quote = packet(&flow, b"part")[ETHERNET..].to_vec();
    quote[7] = 1;
    let bytes = error(flow.target, flow.source, &quote);
    assert_eq!(embedded(&bytes, &parsed(&bytes)), None);

    let flow = key(Protocol::UDP, ("fd00::1", 4000), ("fd00::2", 53));
    let mut quote = packet(&flow, b"part")[ETHERNET..].to_vec();
    // A fragment header between IP and UDP: a first fragment has a flow, a later one has none.
    quote[6] = 44;
    for (offset, expected) in [(1, Some(flow)), (9, None)] {
        let fragment = [&quote[..40], &[17, 0, 0, offset, 0, 0, 0, 1], &quote[40..]].concat();
        let bytes = error(flow.target, flow.source, &fragment);
        let read = embedded(&bytes, &parsed(&bytes)).map(|inner| inner.key);
        assert_eq!(read, expected);
    }
}

/// An error of a type and a code about some UDP, with the second word of its header.
fn error_of(family: Family, kind: (u8, u8), word: [u8; 4]) -> Vec<u8> {
    let (source, target) = (router(family, 1), router(family, 2));
    let about = FlowKey {
        source: target,
        target: router(family, 3),
        source_port: 50_000,
        target_port: 4789,
        protocol: Protocol::UDP,
    };
    let quote = &packet(&about, &[7; 30])[ETHERNET..];
    let outer = FlowKey {
        source,
        target,
        source_port: 0,
        target_port: 0,
        protocol: Protocol(0),
    };
    let builder = PacketBuilder::ethernet2([2; 6], [4; 6]).ip(ip(&outer, &[]));
    let mut bytes = Vec::new();
    match family {
        Family::V4 => builder
            .icmpv4_raw(kind.0, kind.1, word)
            .write(&mut bytes, quote),
        Family::V6 => builder
            .icmpv6_raw(kind.0, kind.1, word)
            .write(&mut bytes, quote),
    }
    .expect("a packet");
    bytes
}

#[test]
fn r6_only_errors_about_size_say_what_passes() {
    let word = [0xab, 0xcd, 0x05, 0x78];
    for (family, kind, expected) in [
        (Family::V4, (3, 4), Some(1_400)),
        (Family::V4, (3, 3), None),
        (Family::V4, (11, 4), None),
        (Family::V4, (2, 0), None),
        (Family::V6, (2, 0), Some(0xabcd_0578)),
        (Family::V6, (2, 9), Some(0xabcd_0578)),
        (Family::V6, (3, 4), None),
        (Family::V6, (1, 4), None),
    ] {
        let bytes = error_of(family, kind, word);
        let outer = parsed(&bytes);
        assert_eq!(
            icmp::too_big(&bytes, &outer),
            expected,
            "{family:?} {kind:?}"
        );
    }
}

#[test]
fn d5_an_error_is_sound_only_if_every_byte_is_as_it_was() {
    for family in [Family::V4, Family::V6] {
        let bytes = error_of(family, (3, 4), [0, 0, 5, 0x78]);
        let outer = parsed(&bytes);
        assert!(icmp::is_sound(&bytes, &outer));
        for at in outer.l4 as usize..bytes.len() {
            let mut damaged = bytes.clone();
            damaged[at] ^= 0x10;
            assert!(!icmp::is_sound(&damaged, &outer), "byte {at}");
        }
        assert!(
            !icmp::is_sound(&bytes[..bytes.len() - 1], &outer),
            "not all here"
        );
        let padded = [&bytes[..], &[0xff; 9]].concat();
        assert!(
            icmp::is_sound(&padded, &outer),
            "padding counts for nothing"
        );
    }
}
