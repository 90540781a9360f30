//! Fragments: what part of a datagram one is (RFC 791, RFC 8200).

use crate::bytes::u16_at;
use crate::parse::{Fragment, Parsed};
use crate::{Family, ParseError};

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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cut::{Cut, parts};
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
        bytes[24..26].fill(0);
        let sum = crate::checksum::checksum(&bytes[14..34]);
        bytes[24..26].copy_from_slice(&sum.to_be_bytes());
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
                let cut = Cut::fragments(&read, mtu).expect("room for payload");
                for part in parts(&whole, cut).expect("parts") {
                    let (part, length) = (&part[..], part.len());
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
