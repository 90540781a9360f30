//! Packets that etherparse makes, its verdict on their checksums, and random flows.

use etherparse::{
    IpHeaders, IpNumber, Ipv4Extensions, Ipv4Header, Ipv6Extensions, Ipv6FlowLabel, Ipv6Header,
    NetSlice, PacketBuilder, SlicedPacket, TransportSlice,
};
use podway_wire::{Addr, Content, Family, FlowKey, Fragment, Frame, ParseError, Parsed, Protocol};
use proptest::prelude::*;

/// The Ethernet header's length, in bytes.
pub(crate) const ETHERNET: usize = 14;

/// An Ethernet frame of this flow, all checksums right; ICMP is an echo, all others are SCTP.
pub(crate) fn packet(key: &FlowKey, payload: &[u8]) -> Vec<u8> {
    packet_with(key, &[], payload)
}

/// Like [`packet`], with IPv4 options (a multiple of 4 bytes) or one IPv6 destination options header around them.
pub(crate) fn packet_with(key: &FlowKey, options: &[u8], payload: &[u8]) -> Vec<u8> {
    let builder =
        PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]).ip(ip(key, options));
    let mut bytes = Vec::new();
    let (source, target) = (key.source_port, key.target_port);
    let written = match key.protocol {
        Protocol::TCP => builder
            .tcp(source, target, 7, 1024)
            .ack(9)
            .write(&mut bytes, payload),
        Protocol::UDP => builder.udp(source, target).write(&mut bytes, payload),
        Protocol::ICMP if target == 0 => builder
            .icmpv4_echo_request(source, 1)
            .write(&mut bytes, payload),
        Protocol::ICMP => builder
            .icmpv4_echo_reply(target, 1)
            .write(&mut bytes, payload),
        Protocol::ICMPV6 if target == 0 => builder
            .icmpv6_echo_request(source, 1)
            .write(&mut bytes, payload),
        Protocol::ICMPV6 => builder
            .icmpv6_echo_reply(target, 1)
            .write(&mut bytes, payload),
        Protocol(other) => {
            let mut transport = [source.to_be_bytes(), target.to_be_bytes()].concat();
            transport.extend([0x5c, 0x5c, 0x5c, 0x5c, 0, 0, 0, 0]);
            transport.extend(payload);
            let sum = crc32c(&transport);
            transport[8..12].copy_from_slice(&sum.to_le_bytes());
            builder.write(&mut bytes, IpNumber(other), &transport)
        }
    };
    written.expect("a packet");
    bytes
}

/// The IP header of packets of this flow.
pub(crate) fn ip(key: &FlowKey, options: &[u8]) -> IpHeaders {
    match key.source.family() {
        Family::V4 => IpHeaders::Ipv4(
            Ipv4Header {
                source: key.source.low_bytes(),
                destination: key.target.low_bytes(),
                time_to_live: 64,
                options: options.try_into().expect("options"),
                ..Ipv4Header::default()
            },
            Ipv4Extensions::default(),
        ),
        Family::V6 => IpHeaders::Ipv6(
            Ipv6Header {
                source: key.source.octets(),
                destination: key.target.octets(),
                hop_limit: 64,
                flow_label: Ipv6FlowLabel::try_new(0xabcde).expect("20 bits"),
                ..Ipv6Header::default()
            },
            Ipv6Extensions {
                destination_options: (!options.is_empty()).then(|| {
                    etherparse::Ipv6RawExtHeader::new_raw(IpNumber(0), &[1, 4, 0, 0, 0, 0])
                        .expect("an extension header")
                }),
                ..Ipv6Extensions::default()
            },
        ),
    }
}

/// What our parser says of the bytes.
pub(crate) fn content(bytes: &[u8]) -> Result<Content, ParseError> {
    content_carrying(bytes, 0)
}

/// What our parser says if `carried` more bytes follow in other chunks.
pub(crate) fn content_carrying(bytes: &[u8], carried: usize) -> Result<Content, ParseError> {
    let mut chunk = bytes.to_vec();
    Parsed::frame(&Frame::new(&mut chunk, 0, bytes.len(), carried).expect("a frame"))
}

/// What our parser says of an IP packet.
pub(crate) fn parsed(bytes: &[u8]) -> Parsed {
    ip_of(content(bytes))
}

/// The IP packet in a frame.
pub(crate) fn ip_of(content: Result<Content, ParseError>) -> Parsed {
    match content {
        Ok(Content::Ip(parsed)) => parsed,
        other => panic!("not an IP packet: {other:?}"),
    }
}

/// The names of the checksums that are not what etherparse computes; UDP without a checksum is named too.
pub(crate) fn wrong_sums(bytes: &[u8]) -> Vec<&'static str> {
    let sliced = SlicedPacket::from_ethernet(bytes).expect("etherparse reads it");
    let mut wrong = Vec::new();
    let transport_is_right = match sliced.net.as_ref().expect("IP") {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            if header.to_header().calc_header_checksum() != header.header_checksum() {
                wrong.push("ip");
            }
            let (source, target) = (header.source(), header.destination());
            match sliced.transport.as_ref() {
                Some(TransportSlice::Tcp(tcp)) => {
                    tcp.calc_checksum_ipv4(source, target) == Ok(tcp.checksum())
                }
                Some(TransportSlice::Udp(udp)) => {
                    let payload = udp.payload();
                    let right = udp
                        .to_header()
                        .calc_checksum_ipv4_raw(source, target, payload);
                    right == Ok(udp.checksum())
                }
                Some(TransportSlice::Icmpv4(icmp)) => {
                    icmp.icmp_type().calc_checksum(icmp.payload()) == icmp.checksum()
                }
                _ => true,
            }
        }
        NetSlice::Ipv6(ip) => {
            let (source, target) = (ip.header().source(), ip.header().destination());
            match sliced.transport.as_ref() {
                Some(TransportSlice::Tcp(tcp)) => {
                    tcp.calc_checksum_ipv6(source, target) == Ok(tcp.checksum())
                }
                Some(TransportSlice::Udp(udp)) => {
                    let payload = udp.payload();
                    let right = udp
                        .to_header()
                        .calc_checksum_ipv6_raw(source, target, payload);
                    right == Ok(udp.checksum())
                }
                Some(TransportSlice::Icmpv6(icmp)) => icmp.is_checksum_valid(source, target),
                _ => true,
            }
        }
        other => panic!("not IP: {other:?}"),
    };
    let sctp = parsed(bytes);
    let sctp_is_right =
        sctp.key.protocol != Protocol::SCTP || sctp.fragment != Fragment::Whole || {
            let mut message = bytes[sctp.l4 as usize..sctp.end()].to_vec();
            let sum: [u8; 4] = message[8..12].try_into().expect("4 bytes");
            message[8..12].fill(0);
            crc32c(&message).to_le_bytes() == sum
        };
    if !transport_is_right || !sctp_is_right {
        wrong.push("transport");
    }
    wrong
}

/// CRC32c as RFC 9260, appendix A, describes it, bit by bit.
fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = u32::MAX;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0x82f6_3b78 * (sum & 1));
        }
    }
    !sum
}

/// The key of these addresses and ports.
pub(crate) fn key(protocol: Protocol, source: (&str, u16), target: (&str, u16)) -> FlowKey {
    let addr = |text: &str| -> Addr {
        let ip: std::net::IpAddr = text.parse().expect("an address");
        ip.into()
    };
    FlowKey {
        source: addr(source.0),
        target: addr(target.0),
        source_port: source.1,
        target_port: target.1,
        protocol,
    }
}

/// A random flow, and another of the same family and protocol that it may be translated to.
pub(crate) fn translations() -> impl Strategy<Value = (FlowKey, FlowKey)> {
    let families = prop_oneof![Just(Family::V4), Just(Family::V6)];
    let protocols = 0..5usize;
    (families, protocols).prop_flat_map(|(family, protocol)| {
        let protocol = match (protocol, family) {
            (0, _) => Protocol::TCP,
            (1, _) => Protocol::UDP,
            (2, _) => Protocol::SCTP,
            (_, Family::V4) => Protocol::ICMP,
            (_, Family::V6) => Protocol::ICMPV6,
        };
        let ends = (addr(family), addr(family), port(), port());
        (ends.clone(), ends, any::<bool>())
            .prop_map(move |(a, b, reply)| (flow(a, protocol, reply), flow(b, protocol, reply)))
    })
}

fn flow(
    (source, target, source_port, target_port): (Addr, Addr, u16, u16),
    protocol: Protocol,
    reply: bool,
) -> FlowKey {
    let echo = !protocol.has_ports();
    FlowKey {
        source,
        target,
        source_port: if echo && reply { 0 } else { source_port },
        target_port: if echo && !reply { 0 } else { target_port },
        protocol,
    }
}

fn port() -> impl Strategy<Value = u16> + Clone {
    prop_oneof![1..=u16::MAX, Just(1), Just(u16::MAX)]
}

/// Addresses of all sorts, among them those whose words are the two zeros of one's complement.
fn addr(family: Family) -> BoxedStrategy<Addr> {
    let word = prop_oneof![any::<u16>(), Just(0), Just(u16::MAX)];
    match family {
        Family::V4 => (1..=126u8, any::<u8>(), word)
            .prop_map(|(first, second, low)| {
                let [third, fourth] = low.to_be_bytes();
                Addr::v4([first, second, third, fourth])
            })
            .boxed(),
        Family::V6 => (0x20..=0xfdu8, prop::array::uniform7(word))
            .prop_map(|(first, words)| {
                let mut bytes = [0; 16];
                bytes[0] = first;
                for (pair, word) in bytes[2..].chunks_exact_mut(2).zip(words) {
                    pair.copy_from_slice(&word.to_be_bytes());
                }
                Addr::v6(bytes)
            })
            .boxed(),
    }
}
