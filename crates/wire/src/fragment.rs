//! Fragments: what part of a datagram one is, and cutting an IPv4 packet into several (RFC 791, RFC 8200).

use crate::bytes::{put_u16, u16_at};
use crate::checksum::checksum;
use crate::parse::{Fragment, Parsed};
use crate::{Family, ParseError, Protocol};

/// A fragment's place in its datagram.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece {
    /// What its datagram's fragments have in common, beside the addresses: identification, and on IPv4 the protocol.
    pub datagram: u64,
    /// The first byte of the datagram's payload that it carries.
    pub start: u32,
    /// The byte after the last one.
    pub end: u32,
}

/// Where a fragment belongs; an error for one that no datagram can have.
pub fn piece(bytes: &[u8], parsed: &Parsed) -> Result<Piece, ParseError> {
    debug_assert!(parsed.fragment != Fragment::Whole);
    let l3 = parsed.l3 as usize;
    let (bits, datagram, payload_at) = match parsed.family {
        Family::V4 => {
            let bits = u16_at(bytes, l3 + 6).ok_or(ParseError::Truncated)?;
            let identification = u16_at(bytes, l3 + 4).ok_or(ParseError::Truncated)?;
            let datagram = u64::from(identification) << 8 | u64::from(parsed.key.protocol.0);
            (
                (bits << 3, bits & 0x2000 != 0),
                datagram,
                parsed.l4 as usize,
            )
        }
        Family::V6 => {
            let at = fragment_header(bytes, parsed).ok_or(ParseError::Malformed)?;
            let bits = u16_at(bytes, at + 2).ok_or(ParseError::Truncated)?;
            let high = u16_at(bytes, at + 4).ok_or(ParseError::Truncated)?;
            let low = u16_at(bytes, at + 6).ok_or(ParseError::Truncated)?;
            let datagram = u64::from(high) << 16 | u64::from(low);
            ((bits & !7, bits & 1 != 0), datagram, at + 8)
        }
    };
    let (start, more) = (u32::from(bits.0), bits.1);
    let length = parsed
        .end()
        .checked_sub(payload_at)
        .ok_or(ParseError::Malformed)? as u32;
    let end = start + length;
    if length == 0 || end > u32::from(u16::MAX) || (more && !length.is_multiple_of(8)) {
        return Err(ParseError::Malformed);
    }
    Ok(Piece {
        datagram,
        start,
        end,
    })
}

/// Where the IPv6 fragment header is; the chain was followed once before.
fn fragment_header(bytes: &[u8], parsed: &Parsed) -> Option<usize> {
    let l3 = parsed.l3 as usize;
    let (mut at, mut next) = (l3 + 40, *bytes.get(l3 + 6)?);
    while at < parsed.l4 as usize {
        let length = match next {
            44 => return Some(at),
            51 => (*bytes.get(at + 1)? as usize + 2) * 4,
            _ => (*bytes.get(at + 1)? as usize + 1) * 8,
        };
        next = *bytes.get(at)?;
        at += length;
    }
    None
}

/// A part of a packet's payload, in bytes from the end of its IP header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Cut {
    start: usize,
    end: usize,
}

/// The parts that an IPv4 packet is cut into so that each fits `mtu` bytes; at least one.
pub fn cuts(parsed: &Parsed, mtu: usize) -> impl Iterator<Item = Cut> {
    let payload = parsed.end() - parsed.l4 as usize;
    let header = (parsed.l4 - parsed.l3) as usize;
    let step = (mtu.saturating_sub(header) & !7).max(8);
    (0..payload.max(1)).step_by(step).map(move |start| Cut {
        start,
        end: payload.min(start + step),
    })
}

/// Writes one part of the IPv4 packet `whole` as a packet of its own, Ethernet header and all; its length in bytes.
///
/// `None` if it does not fit. All options go with each part: a receiver ignores those that it need not see twice.
pub fn write(whole: &[u8], parsed: &Parsed, cut: Cut, into: &mut [u8]) -> Option<usize> {
    let l4 = parsed.l4 as usize;
    let length = l4 + (cut.end - cut.start);
    let part = into.get_mut(..length)?;
    part[..l4].copy_from_slice(&whole[..l4]);
    part[l4..].copy_from_slice(whole.get(l4 + cut.start..l4 + cut.end)?);
    head(part, parsed, cut);
    Some(length)
}

/// Makes a packet's header that of its part `cut`; the payload is the caller's.
pub fn head(bytes: &mut [u8], parsed: &Parsed, cut: Cut) {
    debug_assert!(parsed.family == Family::V4 && parsed.key.protocol != Protocol(0));
    let (l3, l4) = (parsed.l3 as usize, parsed.l4 as usize);
    let bits = u16_at(bytes, l3 + 6).expect("parsed");
    let is_last = l4 + cut.end == parsed.end();
    let more = if is_last { bits & 0x2000 } else { 0x2000 };
    let offset = (bits & 0x1fff) + (cut.start / 8) as u16;
    put_u16(bytes, l3 + 2, (l4 - l3 + cut.end - cut.start) as u16);
    put_u16(bytes, l3 + 6, more | offset & 0x1fff);
    put_u16(bytes, l3 + 10, 0);
    let sum = checksum(&bytes[l3..l4]);
    put_u16(bytes, l3 + 10, sum);
}

impl Cut {
    /// True of the part that has the transport header.
    pub fn is_first(&self) -> bool {
        self.start == 0
    }

    /// The frame's length once it carries this part only, in bytes.
    pub fn frame_length(&self, parsed: &Parsed) -> usize {
        parsed.l4 as usize + self.end - self.start
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Content, Frame};

    fn parsed(bytes: &[u8]) -> Parsed {
        let mut copy = bytes.to_vec();
        let length = copy.len();
        let frame = Frame::new(&mut copy, 0, length, 0).expect("a frame");
        match Parsed::frame(&frame) {
            Ok(Content::Ip(parsed)) => parsed,
            other => panic!("{other:?}"),
        }
    }

    fn datagram(payload: usize) -> Vec<u8> {
        let payload: Vec<u8> = (0..payload).map(|byte| byte as u8).collect();
        let mut bytes = Vec::new();
        let builder = etherparse::PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .udp(1000, 2000);
        builder.write(&mut bytes, &payload).expect("a packet");
        // Without DF, with an identification.
        bytes[18..22].copy_from_slice(&[0x12, 0x34, 0, 0]);
        bytes
    }

    #[test]
    fn d2_the_parts_put_together_are_the_packet() {
        for payload in [0, 1, 7, 8, 500, 1471, 4000] {
            for mtu in [68, 576, 1450] {
                let whole = datagram(payload);
                let read = parsed(&whole);
                let mut together = vec![0; whole.len() - 34];
                let (mut reached, mut count) = (0, 0);
                for cut in cuts(&read, mtu) {
                    let mut part = [0; 2048];
                    let length = write(&whole, &read, cut, &mut part).expect("it fits");
                    let part = &part[..length];
                    assert!(length - 14 <= mtu);
                    let slice = etherparse::SlicedPacket::from_ethernet(part).expect("a packet");
                    let Some(etherparse::NetSlice::Ipv4(ip)) = slice.net else {
                        panic!("IPv4")
                    };
                    let header = ip.header().to_header();
                    assert_eq!(header.header_checksum, header.calc_header_checksum());
                    let at = usize::from(header.fragment_offset.value()) * 8;
                    assert_eq!(at, reached);
                    reached = at + length - 34;
                    together[at..reached].copy_from_slice(&part[34..]);
                    assert_eq!(header.more_fragments, reached < together.len());
                    count += 1;
                    if header.more_fragments || at > 0 {
                        let piece = piece(part, &parsed(part)).expect("a piece");
                        assert_eq!((piece.start as usize, piece.end as usize), (at, reached));
                        assert_eq!(piece.datagram, 0x12_3411);
                    }
                }
                assert_eq!(together, whole[34..]);
                assert_eq!(count, (payload + 8).div_ceil((mtu - 20) & !7));
            }
        }
    }

    #[test]
    fn d3_pieces_that_no_datagram_can_have_are_malformed() {
        let mut bytes = datagram(64);
        // More fragments follow, but 72 - 3 bytes are no multiple of 8.
        bytes[20] = 0x20;
        bytes[17] -= 3;
        assert_eq!(piece(&bytes, &parsed(&bytes)), Err(ParseError::Malformed));
        let mut beyond = datagram(64);
        beyond[20..22].copy_from_slice(&0x1ffe_u16.to_be_bytes());
        assert_eq!(piece(&beyond, &parsed(&beyond)), Err(ParseError::Malformed));
    }
}
