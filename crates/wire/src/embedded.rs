//! The packet inside an ICMP error, whose flow the error belongs to.

use crate::parse::{Fragment, Icmp, Parsed, extensions, icmp_v4, icmp_v6, ports_of};
use crate::{Addr, Family, FlowKey, Protocol};

/// A packet inside an ICMP error.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Embedded {
    /// Who talked to whom.
    pub key: FlowKey,
    /// Where its IP header starts in the frame.
    pub l3: u16,
    /// Where its transport header starts in the frame.
    pub l4: u16,
    /// How long its header says that it is, in bytes; the quote may be shorter.
    pub length: u32,
}

/// The flow key of a packet that an ICMP error embeds, and where its headers are.
///
/// The embedded packet may be cut after 8 bytes of its transport header (RFC 792), so only ports are read.
pub fn embedded(bytes: &[u8], outer: &Parsed) -> Option<Embedded> {
    // What follows the packet is Ethernet padding.
    let bytes = &bytes[..bytes.len().min(outer.end())];
    let l3 = outer.l4 as usize + 8;
    let first = *bytes.get(l3)?;
    let (source, target, protocol, l4, length) = match (first >> 4, outer.family) {
        (4, Family::V4) => {
            let header = bytes.get(l3..l3 + 20)?;
            let header_length = (header[0] & 0x0f) as usize * 4;
            let later = u16::from_be_bytes([header[6], header[7]]) & 0x1fff != 0;
            if header_length < 20 || later {
                return None;
            }
            let source = Addr::v4(header[12..16].try_into().ok()?);
            let target = Addr::v4(header[16..20].try_into().ok()?);
            let length = u16::from_be_bytes([header[2], header[3]]);
            let l4 = l3 + header_length;
            (source, target, Protocol(header[9]), l4, u32::from(length))
        }
        (6, Family::V6) => {
            let header = bytes.get(l3..l3 + 40)?;
            let source = Addr::v6(header[8..24].try_into().ok()?);
            let target = Addr::v6(header[24..40].try_into().ok()?);
            // A mapped address would name a flow of the other family.
            if source.family() == Family::V4 || target.family() == Family::V4 {
                return None;
            }
            let chain = extensions(bytes, l3 + 40, header[6]).ok()?;
            if chain.fragment == Fragment::Later {
                return None;
            }
            let length = 40 + u32::from(u16::from_be_bytes([header[4], header[5]]));
            (source, target, chain.protocol, chain.l4, length)
        }
        (_, _) => return None,
    };
    let header = bytes.get(l4..l4 + 8)?;
    let (icmp, ports) = match (protocol, outer.family) {
        (Protocol::TCP | Protocol::UDP | Protocol::SCTP, _) => (Icmp::No, ports_of(header)),
        (Protocol::ICMP, Family::V4) => icmp_v4(header),
        (Protocol::ICMPV6, Family::V6) => icmp_v6(header),
        // ICMP of the other family is a contradiction.
        (Protocol::ICMP | Protocol::ICMPV6, _) => return None,
        (_, _) => (Icmp::No, (0, 0)),
    };
    // No error is about an error (RFC 1122, 3.2.2; RFC 4443, 2.4 e).
    if matches!(icmp, Icmp::Error | Icmp::Neighbour) {
        return None;
    }
    let key = FlowKey {
        source,
        target,
        source_port: ports.0,
        target_port: ports.1,
        protocol,
    };
    Some(Embedded {
        key,
        l3: l3 as u16,
        l4: l4 as u16,
        length,
    })
}
