//! ICMP (RFC 792) and ICMPv6 (RFC 4443) messages of our own, made in place of the packet they are about.

use crate::bytes::{put_u16, u16_at};
use crate::checksum::{Delta, checksum, transport};
use crate::edit::{apply, apply_icmp};
use crate::parse::{ETHERNET, Fragment, Icmp, Parsed};
use crate::{Addr, Family, Frame, NoRoom, Protocol};

/// What a sender is told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IcmpError {
    /// The TTL or hop limit ran out.
    TimeExceeded,
    /// Nobody serves at the port.
    PortUnreachable,
    /// No way leads to the target's network.
    NetUnreachable,
    /// The way to the target is closed.
    HostUnreachable,
    /// Nobody on the target's wire has its address.
    AddressUnreachable,
    /// The way to the target is forbidden.
    Prohibited,
    /// The packet is larger than what follows takes, in bytes (RFC 1191, RFC 8201).
    TooBig {
        /// The largest IP packet that fits, in bytes.
        mtu: u16,
    },
}

/// Turns an echo request into its reply: addresses swapped, type changed, Ethernet header left to the caller.
pub fn echo_reply(bytes: &mut [u8], parsed: &Parsed) {
    debug_assert_eq!(parsed.icmp, Icmp::EchoRequest);
    let (l3, l4) = (parsed.l3 as usize, parsed.l4 as usize);
    let (reply, swapped) = match parsed.family {
        Family::V4 => (0, l3 + 12..l3 + 20),
        Family::V6 => (129, l3 + 8..l3 + 40),
    };
    let half = swapped.len() / 2;
    bytes[swapped].rotate_left(half);
    let before = u16_at(bytes, l4).expect("parsed");
    bytes[l4] = reply;
    let mut delta = Delta::default();
    delta.word(before, u16_at(bytes, l4).expect("parsed"));
    apply_icmp(bytes, parsed, &delta);
    // RFC 1812, 4.3.2.5: a fresh TTL.
    match parsed.family {
        Family::V4 => {
            let before = u16_at(bytes, l3 + 8).expect("parsed");
            bytes[l3 + 8] = 64;
            let mut delta = Delta::default();
            delta.word(before, u16_at(bytes, l3 + 8).expect("parsed"));
            apply(bytes, l3 + 10, &delta);
        }
        Family::V6 => bytes[l3 + 7] = 64,
    }
}

/// True if this packet may be answered by an ICMP error: not an error itself, not a later fragment, not to or from a
/// group or nobody (RFC 1122, 3.2.2; RFC 4443, 2.4 e).
pub fn may_be_answered(parsed: &Parsed) -> bool {
    let answerable = match parsed.icmp {
        Icmp::Error | Icmp::Neighbour => false,
        Icmp::No | Icmp::EchoRequest | Icmp::EchoReply | Icmp::Other => true,
    };
    let source = parsed.key.source;
    let nobody =
        source.low_bytes() == [0; 4] && source.family() == Family::V4 || source.bits() == 0;
    answerable
        && parsed.fragment != Fragment::Later
        && !nobody
        && !source.is_multicast()
        && !parsed.key.target.is_multicast()
}

/// Replaces the packet in the frame by the error `kind` about it, from `sender` to the packet's source.
///
/// The Ethernet header is left to the caller. As much of the packet is embedded as keeps the error within 576 bytes
/// on IPv4 (RFC 1812, 4.3.2.3) and 1280 on IPv6 (RFC 4443, 2.4 c); what was carried in other chunks is dropped.
pub fn error(
    frame: &mut Frame<'_>,
    parsed: &Parsed,
    sender: &Addr,
    kind: IcmpError,
) -> Result<Parsed, NoRoom> {
    let (header, limit, protocol) = match parsed.family {
        Family::V4 => (20, 576, Protocol::ICMP),
        Family::V6 => (40, 1280, Protocol::ICMPV6),
    };
    let quoted_in_chunk = frame.bytes().len().min(parsed.end()) - ETHERNET;
    let quote = quoted_in_chunk.min(limit - header - 8);
    let headers = header + 8;
    frame.push(headers)?;
    frame.resize(headers + ETHERNET + quote)?;
    let bytes = frame.bytes_mut();
    let message = ETHERNET + header;
    // The quoted packet lies where it was; the old Ethernet header, in front of it, is overwritten.
    let (code_type, rest) = code(parsed.family, kind);
    bytes[message..message + 2].copy_from_slice(&code_type);
    bytes[message + 2..message + 4].fill(0);
    bytes[message + 4..message + 8].copy_from_slice(&rest.to_be_bytes());
    let target = parsed.key.source;
    let length = header + 8 + quote;
    match parsed.family {
        Family::V4 => {
            let total = checksum(&bytes[message..]);
            put_u16(bytes, message + 2, total);
            let ip = &mut bytes[ETHERNET..message];
            ip.fill(0);
            ip[0] = 0x45;
            // RFC 1812, 4.3.2.5: precedence 6.
            ip[1] = 0xc0;
            put_u16(ip, 2, length as u16);
            ip[8] = 64;
            ip[9] = protocol.0;
            ip[12..16].copy_from_slice(&sender.low_bytes());
            ip[16..20].copy_from_slice(&target.low_bytes());
            let sum = checksum(ip);
            put_u16(ip, 10, sum);
        }
        Family::V6 => {
            let total = transport(sender, &target, protocol, &bytes[message..]);
            put_u16(bytes, message + 2, total);
            let ip = &mut bytes[ETHERNET..message];
            ip[..4].copy_from_slice(&[0x6c, 0, 0, 0]);
            put_u16(ip, 4, (8 + quote) as u16);
            ip[6] = protocol.0;
            ip[7] = 64;
            ip[8..24].copy_from_slice(&sender.octets());
            ip[24..40].copy_from_slice(&target.octets());
        }
    }
    put_u16(
        bytes,
        12,
        if parsed.family == Family::V4 {
            0x0800
        } else {
            0x86dd
        },
    );

    Ok(Parsed {
        key: crate::FlowKey {
            source: *sender,
            target,
            source_port: 0,
            target_port: 0,
            protocol,
        },
        l3: ETHERNET as u16,
        l4: message as u16,
        length: length as u32,
        family: parsed.family,
        traffic_class: 0xc0,
        ttl: 64,
        tcp_flags: 0,
        fragment: Fragment::Whole,
        icmp: Icmp::Error,
    })
}

/// The largest packet that passes a path, by an error that says that one was too big for it; `None` of other messages.
pub fn too_big(bytes: &[u8], parsed: &Parsed) -> Option<u32> {
    let l4 = parsed.l4 as usize;
    let header: &[u8; 8] = bytes.get(l4..)?.first_chunk()?;
    let [kind, code, _, _, rest @ ..] = *header;
    match (parsed.family, kind, code) {
        // RFC 1191, 4: the other half is unused.
        (Family::V4, 3, 4) => Some(u32::from(u16::from_be_bytes([rest[2], rest[3]]))),
        // RFC 4443, 3.2: the code is ignored.
        (Family::V6, 2, _) => Some(u32::from_be_bytes(rest)),
        (Family::V4 | Family::V6, _, _) => None,
    }
}

/// True if a message's checksum is right, and all of it is here.
pub fn is_sound(bytes: &[u8], parsed: &Parsed) -> bool {
    let Some(message) = bytes.get(parsed.l4 as usize..parsed.end()) else {
        return false;
    };
    let key = &parsed.key;
    match parsed.family {
        Family::V4 => checksum(message) == 0,
        Family::V6 => transport(&key.source, &key.target, key.protocol, message) == 0,
    }
}

fn code(family: Family, kind: IcmpError) -> ([u8; 2], u32) {
    match (family, kind) {
        (Family::V4, IcmpError::TimeExceeded) => ([11, 0], 0),
        (Family::V4, IcmpError::PortUnreachable) => ([3, 3], 0),
        (Family::V4, IcmpError::NetUnreachable) => ([3, 0], 0),
        (Family::V4, IcmpError::HostUnreachable | IcmpError::AddressUnreachable) => ([3, 1], 0),
        (Family::V4, IcmpError::Prohibited) => ([3, 13], 0),
        (Family::V4, IcmpError::TooBig { mtu }) => ([3, 4], u32::from(mtu)),
        (Family::V6, IcmpError::TimeExceeded) => ([3, 0], 0),
        (Family::V6, IcmpError::PortUnreachable) => ([1, 4], 0),
        // As Linux has it: RFC 4443 knows no unreachable host but one whose address is not resolved.
        (Family::V6, IcmpError::NetUnreachable | IcmpError::HostUnreachable) => ([1, 0], 0),
        (Family::V6, IcmpError::AddressUnreachable) => ([1, 3], 0),
        (Family::V6, IcmpError::Prohibited) => ([1, 1], 0),
        (Family::V6, IcmpError::TooBig { mtu }) => ([2, 0], u32::from(mtu)),
    }
}
