//! Edits a packet in place: translation, TTL, Ethernet addresses.

use crate::bytes::{put_u16, u16_at};
use crate::checksum::Delta;
use crate::parse::{Fragment, Parsed};
use crate::{Addr, Embedded, Family, FlowKey, Mac, Protocol};

/// Writes the Ethernet header of a packet of this family.
#[inline]
pub fn ethernet(bytes: &mut [u8], target: Mac, source: Mac, family: Family) {
    bytes[0..6].copy_from_slice(&target.0);
    bytes[6..12].copy_from_slice(&source.0);
    let ethertype = match family {
        Family::V4 => 0x0800,
        Family::V6 => 0x86dd,
    };
    put_u16(bytes, 12, ethertype);
}

/// Takes one from TTL or hop limit, which must not be 0 (RFC 1812, 5.3.1).
#[inline]
pub fn decrement_ttl(bytes: &mut [u8], parsed: &Parsed) {
    let l3 = parsed.l3 as usize;
    match parsed.family {
        Family::V4 => {
            let before = u16_at(bytes, l3 + 8).expect("parsed");
            bytes[l3 + 8] -= 1;
            let mut delta = Delta::default();
            delta.word(before, before - 0x0100);
            apply(bytes, l3 + 10, &delta);
        }
        Family::V6 => bytes[l3 + 7] -= 1,
    }
}

/// Sets DSCP and ECN.
pub fn traffic_class(bytes: &mut [u8], parsed: &mut Parsed, class: u8) {
    let l3 = parsed.l3 as usize;
    parsed.traffic_class = class;
    match parsed.family {
        Family::V4 => {
            let before = u16_at(bytes, l3).expect("parsed");
            bytes[l3 + 1] = class;
            let mut delta = Delta::default();
            delta.word(before, u16_at(bytes, l3).expect("parsed"));
            apply(bytes, l3 + 10, &delta);
        }
        Family::V6 => {
            bytes[l3] = bytes[l3] & 0xf0 | class >> 4;
            bytes[l3 + 1] = bytes[l3 + 1] & 0x0f | class << 4;
        }
    }
}

/// Gives the packet, whose key is `parsed.key`, the addresses and ports of `to`; checksums follow.
///
/// Checksums change by what changed: a wrong one stays wrong, and UDP's zero stays zero on IPv4 (RFC 768).
#[inline]
pub fn translate(bytes: &mut [u8], parsed: &Parsed, to: &FlowKey) {
    let mut addresses = Delta::default();
    addresses.addr(&parsed.key.source, &to.source);
    addresses.addr(&parsed.key.target, &to.target);
    let l3 = parsed.l3 as usize;
    put_addresses(bytes, l3, &to.source, &to.target);
    if parsed.family == Family::V4 {
        apply(bytes, l3 + 10, &addresses);
    }
    if parsed.fragment == Fragment::Later {
        return;
    }
    let l4 = parsed.l4 as usize;
    match parsed.key.protocol {
        Protocol::TCP => {
            ports(bytes, l4, &parsed.key, to, &mut addresses);
            apply(bytes, l4 + 16, &addresses);
        }
        Protocol::UDP => {
            ports(bytes, l4, &parsed.key, to, &mut addresses);
            apply_udp(bytes, l4 + 6, &addresses);
        }
        Protocol::SCTP => {
            let before = crc32c::crc32c(&bytes[l4..l4 + 4]);
            ports(bytes, l4, &parsed.key, to, &mut Delta::default());
            let change = before ^ crc32c::crc32c(&bytes[l4..l4 + 4]);
            if change != 0 {
                apply_sctp(bytes, parsed, change);
            }
        }
        Protocol::ICMP => {
            // ICMP has no pseudo-header.
            let mut delta = Delta::default();
            identifier(bytes, l4, &parsed.key, to, &mut delta);
            apply_icmp(bytes, parsed, &delta);
        }
        Protocol::ICMPV6 => {
            identifier(bytes, l4, &parsed.key, to, &mut addresses);
            apply(bytes, l4 + 2, &addresses);
        }
        _ => {}
    }
}

/// Translates an ICMP error: its outer addresses to `source` and `target`, the packet it embeds to `inner`.
///
/// The error's own checksum covers the embedded bytes, so it changes by what changed in them (RFC 5508, 4.2).
pub fn translate_error(
    bytes: &mut [u8],
    outer: &Parsed,
    (source, target): (&Addr, &Addr),
    embedded: &Embedded,
    inner: &FlowKey,
) {
    let mut addresses = Delta::default();
    addresses.addr(&outer.key.source, source);
    addresses.addr(&outer.key.target, target);
    let l3 = outer.l3 as usize;
    put_addresses(bytes, l3, source, target);
    let mut whole = match outer.family {
        Family::V4 => {
            apply(bytes, l3 + 10, &addresses);
            Delta::default()
        }
        Family::V6 => addresses,
    };

    let (inner_l3, inner_l4) = (embedded.l3 as usize, embedded.l4 as usize);
    let mut moved = Delta::default();
    moved.addr(&embedded.key.source, &inner.source);
    moved.addr(&embedded.key.target, &inner.target);
    whole.addr(&embedded.key.source, &inner.source);
    whole.addr(&embedded.key.target, &inner.target);
    put_addresses(bytes, inner_l3, &inner.source, &inner.target);
    if outer.family == Family::V4 {
        covered(bytes, inner_l3 + 10, apply, &moved, &mut whole);
    }
    match embedded.key.protocol {
        Protocol::TCP | Protocol::UDP | Protocol::SCTP => {
            ports(bytes, inner_l4, &embedded.key, inner, &mut moved);
            whole.word(embedded.key.source_port, inner.source_port);
            whole.word(embedded.key.target_port, inner.target_port);
            let end = bytes.len().min(outer.end());
            match embedded.key.protocol {
                Protocol::UDP => covered(bytes, inner_l4 + 6, apply_udp, &moved, &mut whole),
                // The quote may end before TCP's checksum does.
                Protocol::TCP if inner_l4 + 18 <= end => {
                    covered(bytes, inner_l4 + 16, apply, &moved, &mut whole);
                }
                _ => {}
            }
        }
        Protocol::ICMP | Protocol::ICMPV6 => {
            let mut delta = match embedded.key.protocol {
                Protocol::ICMPV6 => moved,
                _ => Delta::default(),
            };
            let before = u16_at(bytes, inner_l4 + 4).expect("parsed");
            identifier(bytes, inner_l4, &embedded.key, inner, &mut delta);
            let after = u16_at(bytes, inner_l4 + 4).expect("parsed");
            whole.word(before, after);
            covered(bytes, inner_l4 + 2, apply, &delta, &mut whole);
        }
        _ => {}
    }
    apply(bytes, outer.l4 as usize + 2, &whole);
}

/// Changes, by `apply`, a checksum field that a second checksum covers.
fn covered(
    bytes: &mut [u8],
    at: usize,
    apply: fn(&mut [u8], usize, &Delta),
    delta: &Delta,
    whole: &mut Delta,
) {
    let before = u16_at(bytes, at).expect("bounds were checked");
    apply(bytes, at, delta);
    whole.word(before, u16_at(bytes, at).expect("bounds were checked"));
}

#[inline]
fn put_addresses(bytes: &mut [u8], l3: usize, source: &Addr, target: &Addr) {
    match source.family() {
        Family::V4 => {
            bytes[l3 + 12..l3 + 16].copy_from_slice(&source.low_bytes());
            bytes[l3 + 16..l3 + 20].copy_from_slice(&target.low_bytes());
        }
        Family::V6 => {
            bytes[l3 + 8..l3 + 24].copy_from_slice(&source.octets());
            bytes[l3 + 24..l3 + 40].copy_from_slice(&target.octets());
        }
    }
}

#[inline]
fn ports(bytes: &mut [u8], l4: usize, from: &FlowKey, to: &FlowKey, delta: &mut Delta) {
    delta.word(from.source_port, to.source_port);
    delta.word(from.target_port, to.target_port);
    put_u16(bytes, l4, to.source_port);
    put_u16(bytes, l4 + 2, to.target_port);
}

/// An echo's identifier is in one port of its key, the other is 0: their sum is the identifier.
#[inline]
fn identifier(bytes: &mut [u8], l4: usize, from: &FlowKey, to: &FlowKey, delta: &mut Delta) {
    let (before, after) = (
        from.source_port | from.target_port,
        to.source_port | to.target_port,
    );
    if before != after {
        delta.word(before, after);
        put_u16(bytes, l4 + 4, after);
    }
}

#[inline]
pub(crate) fn apply(bytes: &mut [u8], at: usize, delta: &Delta) {
    let before = u16_at(bytes, at).expect("parsed");
    put_u16(bytes, at, delta.apply(before));
}

/// Zero says that there is no checksum, and all ones stands for zero (RFC 768).
#[inline]
fn apply_udp(bytes: &mut [u8], at: usize, delta: &Delta) {
    let before = u16_at(bytes, at).expect("parsed");
    if before != 0 {
        let after = delta.apply(before);
        put_u16(bytes, at, if after == 0 { 0xffff } else { after });
    }
}

/// A message of zeros alone, as an echo reply may be, sums to zero: its checksum is all ones, which no delta can tell
/// from zero (RFC 1624, 3).
#[inline]
pub(crate) fn apply_icmp(bytes: &mut [u8], parsed: &Parsed, delta: &Delta) {
    let l4 = parsed.l4 as usize;
    apply(bytes, l4 + 2, delta);
    let all_here = parsed.fragment == Fragment::Whole && parsed.end() <= bytes.len();
    if all_here && bytes[l4..parsed.end()].iter().all(|byte| *byte == 0) {
        put_u16(bytes, l4 + 2, 0xffff);
    }
}

/// CRC32c (RFC 9260, 6.8) is linear: what changed in that of the ports, moved over all that follows them, changes the
/// checksum. A first fragment doesn't tell how much follows: its datagram's checksum comes out wrong.
#[inline]
fn apply_sctp(bytes: &mut [u8], parsed: &Parsed, change: u32) {
    let l4 = parsed.l4 as usize;
    let change = crc32c::crc32c_combine(change, 0, parsed.end() - l4 - 4);
    let sum = u32::from_le_bytes(bytes[l4 + 8..l4 + 12].try_into().expect("parsed"));
    bytes[l4 + 8..l4 + 12].copy_from_slice(&(sum ^ change).to_le_bytes());
}
