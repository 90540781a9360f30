//! VXLAN (RFC 7348): an Ethernet frame inside UDP.

use crate::bytes::{put_words, u16_at};
use crate::checksum::checksum_of;
use crate::parse::{ETHERNET, Fragment, Parsed};
use crate::{Addr, Embedded, Family, Frame, Mac, NoRoom, Protocol};

/// UDP and VXLAN headers, in bytes.
const UDP_AND_VXLAN: usize = 16;
/// The first of the source ports that carry flows' entropy: all are dynamic ones (RFC 7348, 5).
pub const FIRST_SOURCE_PORT: u16 = 49_152;
/// The outer packet's hop limit.
const OUTER_TTL: u8 = 64;

/// What the headers around a tunnelled frame say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Outer {
    /// The next hop's Ethernet address.
    pub target_mac: Mac,
    /// The uplink's Ethernet address.
    pub source_mac: Mac,
    /// The local end.
    pub source: Addr,
    /// The remote end.
    pub target: Addr,
    /// Carries the flow's entropy (RFC 7348, 5): 49152-65535.
    pub source_port: u16,
    /// The tunnel's port.
    pub target_port: u16,
    /// VXLAN network identifier, 24 bits.
    pub vni: u32,
    /// DSCP and ECN, copied from the inner packet (RFC 2983, RFC 6040).
    pub traffic_class: u8,
}

/// How many bytes [`push`] puts in front of a frame.
#[inline]
pub fn overhead(family: Family) -> usize {
    match family {
        Family::V4 => ETHERNET + 20 + UDP_AND_VXLAN,
        Family::V6 => ETHERNET + 40 + UDP_AND_VXLAN,
    }
}

/// Puts the tunnel's headers in front of an Ethernet frame.
///
/// The outer packet must not be fragmented (DF; its identification is then free, RFC 6864), and carries no UDP
/// checksum: the inner one protects the payload (RFC 7348, 5; RFC 6935 for IPv6). [`NoRoom`] also says that the
/// outer packet would be longer than its length field can say.
#[inline(always)]
pub fn push(frame: &mut Frame<'_>, outer: &Outer) -> Result<(), NoRoom> {
    let udp_length = frame.len() + UDP_AND_VXLAN;
    let family = outer.target.family();
    let length = match family {
        Family::V4 => udp_length + 20,
        Family::V6 => udp_length,
    };
    let length = u16::try_from(length).map_err(|_| NoRoom)?;
    let count = overhead(family);
    let bytes = &mut frame.push(count)?[..count];
    crate::edit::ethernet(bytes, outer.target_mac, outer.source_mac, family);
    match family {
        Family::V4 => ipv4(&mut bytes[ETHERNET..], outer, length),
        Family::V6 => ipv6(&mut bytes[ETHERNET..], outer, length),
    }
    let udp = &mut bytes[count - UDP_AND_VXLAN..];
    let words = [
        u32::from(outer.source_port) << 16 | u32::from(outer.target_port),
        (udp_length as u32) << 16,
        0x0800_0000,
        outer.vni << 8,
    ];
    put_words(udp, words);
    Ok(())
}

#[inline]
fn ipv4(header: &mut [u8], outer: &Outer, length: u16) {
    let mut words = [
        0x4500_0000 | u32::from(outer.traffic_class) << 16 | u32::from(length),
        0x0000_4000,
        u32::from_be_bytes([OUTER_TTL, Protocol::UDP.0, 0, 0]),
        u32::from_be_bytes(outer.source.low_bytes()),
        u32::from_be_bytes(outer.target.low_bytes()),
    ];
    words[2] |= u32::from(checksum_of(words));
    put_words(header, words);
}

#[inline]
fn ipv6(header: &mut [u8], outer: &Outer, length: u16) {
    let words = [
        0x6000_0000 | u32::from(outer.traffic_class) << 20,
        u32::from(length) << 16 | u32::from_be_bytes([0, 0, Protocol::UDP.0, OUTER_TTL]),
    ];
    put_words(header, words);
    header[8..24].copy_from_slice(&outer.source.octets());
    header[24..40].copy_from_slice(&outer.target.octets());
}

/// Why a packet to the tunnel's port is no VXLAN packet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OpenError {
    /// It ends before the VXLAN header or the inner Ethernet header do.
    Truncated,
    /// The VNI flag is not set.
    Malformed,
}

/// What a tunnel packet says of itself, and how much to pull to get at the frame inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opened {
    /// VXLAN network identifier.
    pub vni: u32,
    /// Length of all outer headers, in bytes.
    pub headers: usize,
}

/// Looks into a UDP packet to the tunnel's port.
#[inline]
pub fn open(bytes: &[u8], outer: &Parsed) -> Result<Opened, OpenError> {
    debug_assert!(outer.fragment == Fragment::Whole && outer.key.protocol == Protocol::UDP);
    let vxlan = outer.l4 as usize + 8;
    let headers = vxlan + 8;
    let inner = headers + ETHERNET;
    let udp_length = u16_at(bytes, outer.l4 as usize + 4).ok_or(OpenError::Truncated)?;
    if inner > bytes.len() || inner > outer.l4 as usize + usize::from(udp_length) {
        return Err(OpenError::Truncated);
    }
    // RFC 7348, 5: I set; the reserved flags and fields are ignored.
    if bytes[vxlan] & 0x08 == 0 {
        return Err(OpenError::Malformed);
    }
    let vni = u32::from_be_bytes([0, bytes[vxlan + 4], bytes[vxlan + 5], bytes[vxlan + 6]]);
    Ok(Opened { vni, headers })
}

/// The VNI of a tunnel packet that an ICMP error embeds; `None` if the quote ends before it.
pub fn quoted_vni(bytes: &[u8], embedded: &Embedded) -> Option<u32> {
    let vxlan = embedded.l4 as usize + 8;
    let header: &[u8; 8] = bytes.get(vxlan..)?.first_chunk()?;
    Some(u32::from_be_bytes([0, header[4], header[5], header[6]]))
}

/// The inner packet's traffic class after the tunnel (RFC 6040, 4.2); `None` says drop: congestion that can't be told.
#[inline]
pub fn inner_traffic_class(outer: u8, inner: u8) -> Option<u8> {
    const NOT_ECT: u8 = 0;
    const CE: u8 = 3;
    // Nearly all: neither ECT(1) nor CE is outside.
    if outer & 1 == 0 {
        return Some(inner);
    }
    match (outer & 3, inner & 3) {
        (CE, NOT_ECT) => None,
        (CE, _) => Some(inner | CE),
        // ECT(1) outside an ECT(0) is passed on.
        (1, 2) => Some(inner & !3 | 1),
        (_, _) => Some(inner),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn d8_the_outer_packet_is_what_etherparse_reads() {
        for (source, target) in [
            (Addr::v4([192, 168, 0, 1]), Addr::v4([192, 168, 0, 2])),
            (Addr::v6([0xfd; 16]), Addr::v6([0xfe; 16])),
        ] {
            let mut memory = [0xaau8; 200];
            let mut frame = Frame::new(&mut memory, 100, 160, 0).expect("frame");
            let outer = Outer {
                source,
                target,
                vni: 0x12_3456,
                traffic_class: 0xb9,
                ..outer()
            };
            push(&mut frame, &outer).expect("room");
            let sliced = etherparse::SlicedPacket::from_ethernet(frame.bytes()).expect("a packet");
            let Some(etherparse::TransportSlice::Udp(udp)) = &sliced.transport else {
                panic!("not UDP")
            };
            assert_eq!((udp.source_port(), udp.destination_port()), (50_000, 4789));
            assert_eq!(udp.length() as usize, 60 + 16);
            match &sliced.net {
                Some(etherparse::NetSlice::Ipv4(ip)) => {
                    assert_eq!(
                        ip.header().header_checksum(),
                        ip.header().to_header().calc_header_checksum()
                    );
                    assert!(ip.header().dont_fragment());
                    assert_eq!(
                        ip.header().dcp().value() << 2 | ip.header().ecn().value(),
                        0xb9
                    );
                }
                Some(etherparse::NetSlice::Ipv6(ip)) => {
                    assert_eq!(ip.header().traffic_class(), 0xb9);
                }
                _ => panic!("not IP"),
            }
            let crate::Content::Ip(parsed) = Parsed::frame(&frame).expect("parses") else {
                panic!("not IP")
            };
            assert_eq!((parsed.key.source, parsed.key.target), (source, target));
            let opened = open(frame.bytes(), &parsed).expect("opens");
            assert_eq!(
                opened,
                Opened {
                    vni: 0x12_3456,
                    headers: overhead(target.family())
                }
            );
            drop(sliced);
            frame.pull(opened.headers).expect("there");
            assert_eq!(frame.bytes(), [0xaa; 60]);
        }
    }

    fn outer() -> Outer {
        Outer {
            target_mac: Mac([2; 6]),
            source_mac: Mac([4; 6]),
            source: Addr::v4([192, 168, 0, 1]),
            target: Addr::v4([192, 168, 0, 2]),
            source_port: 50_000,
            target_port: 4789,
            vni: 7,
            traffic_class: 0,
        }
    }

    #[test]
    fn d8_what_is_no_tunnel_packet_is_not_opened() {
        let mut memory = [0; 64 + ETHERNET];
        let mut frame = Frame::new(&mut memory, 64, 64 + ETHERNET, 0).expect("frame");
        push(&mut frame, &outer()).expect("room");
        let Ok(crate::Content::Ip(parsed)) = Parsed::frame(&frame) else {
            panic!("not IP")
        };
        let bytes = frame.bytes();
        let opened = Opened {
            vni: 7,
            headers: 50,
        };
        assert_eq!(open(bytes, &parsed), Ok(opened));
        for length in parsed.l4 as usize + 8..bytes.len() {
            assert_eq!(open(&bytes[..length], &parsed), Err(OpenError::Truncated));
        }
        let patched = |at: usize, value: u8| {
            let mut bytes = bytes.to_vec();
            bytes[parsed.l4 as usize + at] = value;
            open(&bytes, &parsed)
        };
        // UDP's length, VXLAN's flag, and the fields that a receiver ignores.
        assert_eq!(patched(5, 29), Err(OpenError::Truncated));
        assert_eq!(patched(8, 0xf7), Err(OpenError::Malformed));
        for (at, value) in [(8, 0xff), (9, 0xff), (11, 0xff), (15, 0xff)] {
            assert_eq!(patched(at, value), Ok(opened), "byte {at}");
        }
    }

    #[test]
    fn r6_a_quote_says_its_vni_if_it_reaches_that_far() {
        let bytes: Vec<u8> = (0..60).collect();
        let embedded = Embedded {
            key: crate::FlowKey {
                source: Addr::v4([192, 168, 0, 1]),
                target: Addr::v4([192, 168, 0, 2]),
                source_port: 50_000,
                target_port: 4789,
                protocol: Protocol::UDP,
            },
            l3: 10,
            l4: 30,
            length: 1_500,
        };
        assert_eq!(quoted_vni(&bytes, &embedded), Some(0x2a_2b2c));
        for end in 0..46 {
            assert_eq!(quoted_vni(&bytes[..end], &embedded), None);
        }
    }

    #[test]
    fn d2_a_tunnel_packet_is_never_longer_than_it_can_say() {
        let mut memory = [0; 200];
        for (target, longest) in [
            (Addr::v4([192, 168, 0, 2]), 65_535 - 36),
            (Addr::v6([0xfe; 16]), 65_535 - 16),
        ] {
            let mut outer = outer();
            outer.target = target;
            for (length, expected) in [(longest, Ok(())), (longest + 1, Err(NoRoom))] {
                let mut frame = Frame::new(&mut memory, 100, 160, length - 60).expect("frame");
                assert_eq!(push(&mut frame, &outer), expected);
            }
            let mut frame = Frame::new(&mut memory, overhead(target.family()) - 1, 160, 0);
            let frame = frame.as_mut().expect("frame");
            assert_eq!(push(frame, &outer), Err(NoRoom));
        }
    }

    #[test]
    fn congestion_crosses_the_tunnel_as_rfc_6040_says() {
        // Figure 4 there: rows are inner Not-ECT, ECT(1), ECT(0) and CE; columns are the same outside.
        let table = [
            [Some(0), Some(0), Some(0), None],
            [Some(1), Some(1), Some(1), Some(3)],
            [Some(2), Some(1), Some(2), Some(3)],
            [Some(3), Some(3), Some(3), Some(3)],
        ];
        for (inner, row) in (0..).zip(table) {
            for (outer, expected) in (0..).zip(row) {
                let read = inner_traffic_class(0xa8 | outer, 0x58 | inner);
                assert_eq!(read, expected.map(|ecn: u8| 0x58 | ecn), "{outer} {inner}");
            }
        }
    }
}
