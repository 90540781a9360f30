//! The bytes of a described packet, as they would come in.

use std::net::IpAddr;

use etherparse::{IpHeaders, IpNumber, Ipv4Header, Ipv6Header, PacketBuilder, PacketBuilderStep};
use podway_wire::Mac;

use super::question::{Kind, Question};

const PAYLOAD: &[u8] = b"podway explain";
const TTL: u8 = 64;

/// Ethernet addresses of a frame.
#[derive(Clone, Copy)]
pub(super) struct Link {
    pub(super) source: Mac,
    pub(super) target: Mac,
}

/// The outside of a tunnelled frame.
#[derive(Clone, Copy)]
pub(super) struct Outside {
    pub(super) link: Link,
    pub(super) source: IpAddr,
    pub(super) target: IpAddr,
    pub(super) port: u16,
    pub(super) vni: u32,
}

/// The frame that the question describes: the first packet of a connection.
pub(super) fn frame(question: &Question, link: Link) -> Vec<u8> {
    let ip = start(link, question.source, question.target);
    let (source, target) = (question.source_port, question.target_port);
    let mut bytes = Vec::new();
    let written = match question.kind {
        Kind::Tcp => ip
            .tcp(source, target, 1, 64_240)
            .syn()
            .write(&mut bytes, &[]),
        Kind::Udp => ip.udp(source, target).write(&mut bytes, PAYLOAD),
        Kind::Icmp if question.source.is_ipv4() => {
            ip.icmpv4_echo_request(source, 1).write(&mut bytes, PAYLOAD)
        }
        Kind::Icmp => ip.icmpv6_echo_request(source, 1).write(&mut bytes, PAYLOAD),
        Kind::Sctp => ip.write(&mut bytes, IpNumber::SCTP, &sctp_init(source, target)),
    };
    written.expect("a small packet of one family, into memory");
    bytes
}

/// The frame inside VXLAN (RFC 7348).
pub(super) fn tunnelled(frame: &[u8], outside: Outside) -> Vec<u8> {
    let mut inside = vec![0x08, 0, 0, 0];
    inside.extend((outside.vni << 8).to_be_bytes());
    inside.extend(frame);
    let mut bytes = Vec::new();
    start(outside.link, outside.source, outside.target)
        .udp(50_000, outside.port)
        .write(&mut bytes, &inside)
        .expect("a small packet of one family, into memory");
    bytes
}

fn start(link: Link, source: IpAddr, target: IpAddr) -> PacketBuilderStep<IpHeaders> {
    let ip = match (source, target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            // The builder fills lengths and protocol in.
            let header = Ipv4Header::new(0, TTL, IpNumber::UDP, source.octets(), target.octets())
                .expect("no payload yet");
            IpHeaders::Ipv4(header, Default::default())
        }
        (source, target) => {
            let header = Ipv6Header {
                hop_limit: TTL,
                source: v6(source),
                destination: v6(target),
                ..Default::default()
            };
            IpHeaders::Ipv6(header, Default::default())
        }
    };
    PacketBuilder::ethernet2(link.source.0, link.target.0).ip(ip)
}

fn v6(address: IpAddr) -> [u8; 16] {
    match address {
        IpAddr::V4(v4) => v4.to_ipv6_mapped().octets(),
        IpAddr::V6(v6) => v6.octets(),
    }
}

/// An SCTP packet with an INIT chunk (RFC 9260, 3.3.2) and its CRC32c (RFC 9260, appendix A).
fn sctp_init(source: u16, target: u16) -> Vec<u8> {
    let mut bytes = Vec::new();
    bytes.extend(source.to_be_bytes());
    bytes.extend(target.to_be_bytes());
    bytes.extend([0; 8]);
    bytes.extend([1, 0, 0, 20]);
    bytes.extend(1u32.to_be_bytes());
    bytes.extend(65_536u32.to_be_bytes());
    bytes.extend([0, 1, 0, 1]);
    bytes.extend(1u32.to_be_bytes());
    let sum = crc32c(&bytes);
    bytes[8..12].copy_from_slice(&sum.to_le_bytes());
    bytes
}

fn crc32c(bytes: &[u8]) -> u32 {
    let mut sum = !0u32;
    for byte in bytes {
        sum ^= u32::from(*byte);
        for _ in 0..8 {
            sum = (sum >> 1) ^ (0x82f6_3b78 & (sum & 1).wrapping_neg());
        }
    }
    !sum
}

#[cfg(test)]
mod tests {
    use podway_wire::{Content, Frame, Parsed};

    use super::*;

    const LINK: Link = Link {
        source: Mac([2, 0, 0, 0, 0, 1]),
        target: Mac([2, 0, 0, 0, 0, 2]),
    };

    fn parsed(bytes: &mut [u8]) -> Parsed {
        let length = bytes.len();
        let frame = Frame::new(bytes, 0, length, 0).expect("inside");
        match Parsed::frame(&frame) {
            Ok(Content::Ip(parsed)) => parsed,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_kind_and_family_parses_as_what_was_asked() {
        for (source, target) in [("10.0.0.1", "10.0.0.2"), ("fd00::1", "fd00::2")] {
            for (kind, port) in [("tcp", 80), ("udp", 80), ("sctp", 80), ("icmp", 0)] {
                let question = Question::parse(&format!(
                    r#"{{"ingress":"host","src":"{source}","sport":5,"dst":"{target}","dport":80,"protocol":"{kind}"}}"#
                ))
                .expect("legal");
                let mut bytes = frame(&question, LINK);
                let parsed = parsed(&mut bytes);
                assert_eq!(parsed.key.source.to_string(), source);
                assert_eq!(parsed.key.target.to_string(), target);
                assert_eq!((parsed.key.source_port, parsed.key.target_port), (5, port));
                assert_eq!(parsed.end(), bytes.len(), "{kind}");
            }
        }
    }

    #[test]
    fn sctp_has_its_checksum() {
        // RFC 3720, B.4: 32 bytes of zeroes.
        assert_eq!(crc32c(&[0; 32]), 0x8a91_36aa);
    }

    #[test]
    fn a_tunnelled_frame_is_opened_again() {
        let question = Question::parse(
            r#"{"ingress":"host","src":"10.0.0.1","dst":"10.0.0.2","dport":80,"protocol":"udp"}"#,
        )
        .expect("legal");
        let inner = frame(&question, LINK);
        let outside = Outside {
            link: LINK,
            source: "192.168.50.2".parse().expect("address"),
            target: "192.168.50.1".parse().expect("address"),
            port: 4789,
            vni: 77,
        };
        let mut outer = tunnelled(&inner, outside);
        let parsed = parsed(&mut outer);
        assert_eq!(parsed.key.target_port, 4789);
        let opened = podway_wire::vxlan::open(&outer, &parsed).expect("VXLAN");
        assert_eq!(opened.vni, 77);
        assert_eq!(outer[opened.headers..], inner);
    }
}
