//! `Parsed`: what is read is what etherparse reads, and what can't be read says why.

use etherparse::{NetSlice, SlicedPacket, TransportSlice};
use podway_wire::{
    Content, Family, FlowKey, Fragment, Icmp, Mac, ParseError, Parsed, Protocol, TCP_ACK, macs,
};
use proptest::prelude::*;

use crate::packets::{
    ETHERNET, content, content_carrying, ip_of, key, packet, packet_with, parsed, translations,
};

fn four(protocol: Protocol) -> FlowKey {
    key(protocol, ("10.0.0.1", 1000), ("10.0.0.2", 2000))
}

fn six(protocol: Protocol) -> FlowKey {
    key(protocol, ("fd00::1", 1000), ("fd00::2", 2000))
}

/// An IPv6 UDP packet with these extension headers, each a type and its bytes but for the first, which names the next.
fn chained(headers: &[(u8, &[u8])]) -> Vec<u8> {
    let plain = packet(&six(Protocol::UDP), b"payload");
    let mut bytes = plain[..ETHERNET + 40].to_vec();
    let types = headers.iter().map(|(kind, _)| *kind).chain([17]);
    bytes[ETHERNET + 6] = types.clone().next().expect("one");
    for ((_, rest), next) in headers.iter().zip(types.skip(1)) {
        bytes.push(next);
        bytes.extend(*rest);
    }
    bytes.extend(&plain[ETHERNET + 40..]);
    let payload = (bytes.len() - ETHERNET - 40) as u16;
    bytes[ETHERNET + 4..ETHERNET + 6].copy_from_slice(&payload.to_be_bytes());
    bytes
}

const OPTIONS: &[u8] = &[0, 1, 4, 0, 0, 0, 0];
const LONG_OPTIONS: &[u8] = &[1, 1, 12, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];
const ROUTED: &[u8] = &[0, 4, 0, 0, 0, 0, 0];
const ROUTING: &[u8] = &[0, 4, 1, 0, 0, 0, 0];
const AUTHENTICATION: &[u8] = &[1, 0, 0, 0, 0, 0, 1, 0, 0, 0, 1];
const ATOMIC: &[u8] = &[0, 0, 0, 0, 0, 0, 9];
const FIRST: &[u8] = &[0, 0, 1, 0, 0, 0, 9];
const LATER: &[u8] = &[0, 0, 8, 0, 0, 0, 9];

proptest! {
    #[test]
    fn d9_the_fields_are_what_etherparse_reads(
        (flow, _) in translations(),
        options in prop_oneof![Just(&[][..]), Just(&[1, 1, 1, 0][..])],
        payload in prop::collection::vec(any::<u8>(), 0..64),
        padding in 0..20usize,
    ) {
        let bytes = packet_with(&flow, options, &payload);
        let read = parsed(&bytes);
        prop_assert_eq!(read.key, flow);
        prop_assert_eq!((read.ttl, read.fragment, read.end()), (64, Fragment::Whole, bytes.len()));
        let sliced = SlicedPacket::from_ethernet(&bytes).expect("etherparse reads it");
        let payload = match sliced.net.as_ref().expect("IP") {
            NetSlice::Ipv4(ip) => ip.payload().payload,
            NetSlice::Ipv6(ip) => ip.payload().payload,
            other => panic!("not IP: {other:?}"),
        };
        prop_assert_eq!(&bytes[read.l4 as usize..], payload);
        let (flags, icmp) = match sliced.transport {
            Some(TransportSlice::Tcp(_)) => (TCP_ACK, Icmp::No),
            Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)) if flow.target_port == 0 => {
                (0, Icmp::EchoRequest)
            }
            Some(TransportSlice::Icmpv4(_) | TransportSlice::Icmpv6(_)) => (0, Icmp::EchoReply),
            _ => (0, Icmp::No),
        };
        prop_assert_eq!((read.tcp_flags, read.icmp), (flags, icmp));

        let padded = [&bytes[..], &vec![0xee; padding]].concat();
        prop_assert_eq!(parsed(&padded), read);
    }

    #[test]
    fn d9_truncation_is_told_at_every_length_and_carried_bytes_only_count(
        (flow, _) in translations(),
        options in prop_oneof![Just(&[][..]), Just(&[1, 1, 1, 0][..])],
        payload in prop::collection::vec(any::<u8>(), 0..64),
    ) {
        let bytes = packet_with(&flow, options, &payload);
        let read = parsed(&bytes);
        let header = match flow.protocol {
            Protocol::TCP => 20,
            Protocol::SCTP => 12,
            _ => 8,
        };
        for length in 0..bytes.len() {
            let here = &bytes[..length];
            prop_assert_eq!(content(here), Err(ParseError::Truncated), "{} bytes", length);
            let carried = content_carrying(here, bytes.len() - length);
            if length < read.l4 as usize + header {
                prop_assert_eq!(carried, Err(ParseError::Truncated), "{} bytes", length);
            } else {
                prop_assert_eq!(carried, Ok(Content::Ip(read)), "{} bytes", length);
            }
        }
    }

    #[test]
    fn d9_bytes_of_any_kind_are_read_or_refused(
        mut bytes in prop::collection::vec(any::<u8>(), 14..128),
        ethertype in prop_oneof![Just([0x08, 0x00]), Just([0x86, 0xdd])],
        carried in 0..2000usize,
    ) {
        bytes[12..14].copy_from_slice(&ethertype);
        if let Ok(Content::Ip(read)) = content_carrying(&bytes, carried) {
            prop_assert!((read.l4 as usize) <= bytes.len());
            prop_assert!((read.l4 as usize) <= read.end());
            prop_assert!(read.end() <= bytes.len() + carried);
        }
    }
}

#[test]
fn d9_up_to_eight_extension_headers_are_followed() {
    let kinds: [(u8, &[u8]); 5] = [
        (0, OPTIONS),
        (60, LONG_OPTIONS),
        (43, ROUTED),
        (51, AUTHENTICATION),
        (44, ATOMIC),
    ];
    let bytes = chained(&kinds);
    let read = parsed(&bytes);
    assert_eq!(
        (read.key, read.fragment),
        (six(Protocol::UDP), Fragment::Whole)
    );
    let Some(NetSlice::Ipv6(ip)) = SlicedPacket::from_ethernet(&bytes)
        .expect("it reads it")
        .net
    else {
        panic!("not IPv6")
    };
    assert_eq!(&bytes[read.l4 as usize..], ip.payload().payload);

    for count in 0..=12 {
        let read = content(&chained(&vec![(60, OPTIONS); count]));
        if count <= 8 {
            assert_eq!(ip_of(read).l4 as usize, ETHERNET + 40 + 8 * count);
        } else {
            assert_eq!(read, Err(ParseError::ExtensionHeaders), "{count} headers");
        }
    }
}

#[test]
fn d9_chains_that_can_not_be_followed_are_refused() {
    for kind in [135, 139, 140, 253, 254] {
        let read = content(&chained(&[(kind, OPTIONS)]));
        assert_eq!(read, Err(ParseError::ExtensionHeaders), "{kind}");
    }
    // The packet is on its way to another target than the one in its header.
    let read = content(&chained(&[(43, ROUTING)]));
    assert_eq!(read, Err(ParseError::ExtensionHeaders));
    // A fragment of a fragment.
    for second in [ATOMIC, FIRST] {
        let read = content(&chained(&[(44, FIRST), (44, second)]));
        assert_eq!(read, Err(ParseError::Malformed));
    }
    let bytes = chained(&[(60, LONG_OPTIONS), (51, AUTHENTICATION), (44, ATOMIC)]);
    for length in 0..bytes.len() {
        assert_eq!(content(&bytes[..length]), Err(ParseError::Truncated));
    }
    // The chain leads beyond the packet, into the padding.
    let mut bytes = chained(&[(60, OPTIONS)]);
    bytes[ETHERNET + 5] = 4;
    assert_eq!(content(&bytes), Err(ParseError::Truncated));
}

#[test]
fn d3_fragments_of_ipv6_are_told_apart() {
    let first = parsed(&chained(&[(60, OPTIONS), (44, FIRST)]));
    assert_eq!(
        (first.fragment, first.key),
        (Fragment::First, six(Protocol::UDP))
    );
    let later = parsed(&chained(&[(60, OPTIONS), (44, LATER)]));
    let mut without_ports = six(Protocol::UDP);
    (without_ports.source_port, without_ports.target_port) = (0, 0);
    assert_eq!(
        (later.fragment, later.key),
        (Fragment::Later, without_ports)
    );
    // Whatever a later fragment starts with is no header.
    let later = parsed(&chained(&[(44, LATER), (135, OPTIONS)]));
    assert_eq!(later.fragment, Fragment::Later);
}

#[test]
fn d3_fragments_of_ipv4_are_told_apart() {
    for (bits, expected) in [
        (0x0000u16, Fragment::Whole),
        (0x4000, Fragment::Whole),
        (0x2000, Fragment::First),
        (0x2001, Fragment::Later),
        (0x0001, Fragment::Later),
        (0x1fff, Fragment::Later),
    ] {
        let mut bytes = packet(&four(Protocol::TCP), b"payload");
        bytes[ETHERNET + 6..ETHERNET + 8].copy_from_slice(&bits.to_be_bytes());
        let read = parsed(&bytes);
        assert_eq!(read.fragment, expected, "{bits:04x}");
        assert_eq!(read.forbids_fragments(&bytes), bits & 0x4000 != 0);
        let ports = (read.key.source_port, read.key.target_port);
        match expected {
            Fragment::Later => assert_eq!(ports, (0, 0)),
            Fragment::Whole | Fragment::First => assert_eq!(ports, (1000, 2000)),
        }
    }
}

#[test]
fn d3_a_first_fragment_has_its_transport_header() {
    for (protocol, header) in [
        (Protocol::TCP, 20),
        (Protocol::UDP, 8),
        (Protocol::SCTP, 12),
    ] {
        for payload in 0..=header {
            let mut bytes = packet(&four(protocol), b"payload");
            bytes[ETHERNET + 3] = 20 + payload;
            bytes[ETHERNET + 6] = 0x20;
            let expected = if payload < header {
                Err(ParseError::Truncated)
            } else {
                Ok(Content::Ip(parsed(&bytes)))
            };
            assert_eq!(content(&bytes), expected, "{protocol}, {payload} bytes");
        }
    }
}

/// The packet's verdict after its byte at `at`, from the IP header on, is `value`.
fn patched(packet: &[u8], patches: &[(usize, u8)]) -> Result<Content, ParseError> {
    let mut bytes = packet.to_vec();
    for (at, value) in patches {
        bytes[ETHERNET + at] = *value;
    }
    content(&bytes)
}

#[test]
fn d9_lengths_that_lie_are_refused() {
    use ParseError::{Malformed, Truncated};
    let tcp = packet(&four(Protocol::TCP), b"payload");
    let udp = packet(&four(Protocol::UDP), b"payload");
    let udp6 = packet(&six(Protocol::UDP), b"payload");
    for (packet, patches, expected) in [
        // IPv4: version, header length, total length.
        (&tcp, &[(0, 0x55)][..], Malformed),
        (&tcp, &[(0, 0x44)], Malformed),
        (&tcp, &[(3, 19)], Malformed),
        (&tcp, &[(3, 48)], Truncated),
        (&tcp, &[(2, 0xff)], Truncated),
        (&udp, &[(0, 0x4f)], Malformed),
        // IPv6: version, payload length.
        (&udp6, &[(0, 0x40)], Malformed),
        (&udp6, &[(5, 16)], Truncated),
        (&udp6, &[(5, 7)], Truncated),
        // TCP's data offset: less than a header, more than the packet.
        (&tcp, &[(32, 0x40)], Malformed),
        (&tcp, &[(32, 0x70)], Malformed),
        // UDP's length: less than a header, more than the packet.
        (&udp, &[(25, 7)], Malformed),
        (&udp, &[(25, 16)], Malformed),
        (&udp, &[(24, 1)], Malformed),
    ] {
        assert_eq!(patched(packet, patches), Err(expected), "{patches:?}");
    }
    // TCP options that fit, a UDP datagram that is longer than its first fragment, and a shorter one.
    for (packet, patches) in [
        (&tcp, &[(32, 0x60)][..]),
        (&udp, &[(24, 1), (6, 0x20)]),
        (&udp, &[(25, 8)]),
    ] {
        assert!(patched(packet, patches).is_ok(), "{patches:?}");
    }
}

#[test]
fn d9_ports_of_nobody_are_refused_but_in_udp() {
    for (protocol, expected) in [
        (Protocol::TCP, false),
        (Protocol::SCTP, false),
        (Protocol::UDP, true),
    ] {
        let bytes = packet(&four(protocol), b"");
        for at in [20, 22] {
            let read = patched(&bytes, &[(at, 0), (at + 1, 0)]);
            assert_eq!(read.is_ok(), expected, "{protocol}");
        }
    }
}

#[test]
fn addresses_that_no_wire_has_are_refused() {
    for (source, target) in [
        ("224.0.0.1", "10.0.0.2"),
        ("255.255.255.255", "10.0.0.2"),
        ("::1", "fd00::2"),
        ("fd00::1", "::1"),
        ("fd00::1", "::"),
        ("ff02::1", "fd00::2"),
    ] {
        let bytes = packet(&key(Protocol::UDP, (source, 1), (target, 2)), b"");
        assert_eq!(
            content(&bytes),
            Err(ParseError::Malformed),
            "{source} {target}"
        );
    }
    for (source, target) in [
        ("0.0.0.0", "255.255.255.255"),
        ("10.0.0.1", "224.0.0.251"),
        // From this node's own stack alone, which is not the parser's to know.
        ("127.0.0.1", "127.0.0.1"),
        ("::", "ff02::1:ff00:1"),
        ("fe80::1", "ff02::1"),
    ] {
        let flow = key(Protocol::UDP, (source, 1), (target, 2));
        assert_eq!(parsed(&packet(&flow, b"")).key, flow);
    }
    // Mapped addresses: they would be taken for IPv4.
    let bytes = packet(&six(Protocol::UDP), b"");
    let mapped = four(Protocol::UDP).source.octets();
    for at in [8, 24] {
        let mut bytes = bytes.clone();
        bytes[ETHERNET + at..ETHERNET + at + 16].copy_from_slice(&mapped);
        assert_eq!(content(&bytes), Err(ParseError::Malformed));
    }
}

#[test]
fn what_is_no_ip_packet_says_so() {
    let bytes = packet(&four(Protocol::UDP), b"");
    for (ethertype, expected) in [
        ([0x08, 0x06], Ok(Content::Arp)),
        ([0x81, 0x00], Err(ParseError::VlanTag)),
        ([0x88, 0xa8], Err(ParseError::VlanTag)),
        ([0x88, 0xcc], Err(ParseError::NotIp)),
        ([0x86, 0xdd], Err(ParseError::Truncated)),
    ] {
        let mut other = bytes.clone();
        other[12..14].copy_from_slice(&ethertype);
        assert_eq!(content(&other), expected);
    }
    // ICMP of the other family.
    assert_eq!(patched(&bytes, &[(9, 58)]), Err(ParseError::Malformed));
    let bytes6 = packet(&six(Protocol::UDP), b"");
    assert_eq!(patched(&bytes6, &[(6, 1)]), Err(ParseError::Malformed));
    assert_eq!(
        macs(&bytes),
        Some((Mac([2, 0, 0, 0, 0, 2]), Mac([2, 0, 0, 0, 0, 1])))
    );
    assert_eq!(macs(&bytes[..11]), None);
}

#[test]
fn protocols_without_ports_have_none() {
    for (flow, family) in [
        (four(Protocol(47)), Family::V4),
        (six(Protocol(59)), Family::V6),
    ] {
        let Parsed {
            key, family: read, ..
        } = parsed(&packet(&flow, b""));
        assert_eq!((key.source_port, key.target_port), (0, 0));
        assert_eq!((key.protocol, read), (flow.protocol, family));
    }
}
