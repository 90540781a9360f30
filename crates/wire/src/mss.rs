//! TCP's maximum segment size option (RFC 9293, 3.7.1).

use crate::Family;
use crate::bytes::{put_u16, u16_at};
use crate::checksum::Delta;
use crate::edit::apply;
use crate::parse::Parsed;

/// What a sender must assume of a peer that says nothing (RFC 9293, 3.7.1; MUST-15).
pub fn default(family: Family) -> u16 {
    match family {
        Family::V4 => 536,
        Family::V6 => 1220,
    }
}

/// The headers that a segment size leaves room for: IP's and TCP's without options (RFC 6691).
pub fn headers(family: Family) -> u16 {
    match family {
        Family::V4 => 40,
        Family::V6 => 60,
    }
}

/// The segment size that a SYN offers; `None` if it offers none.
pub fn offered(bytes: &[u8], parsed: &Parsed) -> Option<u16> {
    u16_at(bytes, place(bytes, parsed)?)
}

/// Makes a SYN that offers a segment size offer another one; the checksum changes by what changed.
pub fn offer(bytes: &mut [u8], parsed: &Parsed, size: u16) {
    let Some(at) = place(bytes, parsed) else {
        return;
    };
    // An option may begin anywhere, the checksum is of whole words.
    let l4 = parsed.l4 as usize;
    let words = [at, at + 1].map(|at| at - (at - l4) % 2);
    let count = if words[0] == words[1] { 1 } else { 2 };
    let read =
        |bytes: &[u8], word: usize| u16_at(bytes, words[word]).expect("options end with a word");
    let before = [read(bytes, 0), read(bytes, count - 1)];
    put_u16(bytes, at, size);
    let mut delta = Delta::default();
    for (word, before) in before.into_iter().enumerate().take(count) {
        delta.word(before, read(bytes, word));
    }
    apply(bytes, l4 + 16, &delta);
}

/// Where the option's value is.
fn place(bytes: &[u8], parsed: &Parsed) -> Option<usize> {
    const END: u8 = 0;
    const NOTHING: u8 = 1;
    const SIZE: u8 = 2;
    let l4 = parsed.l4 as usize;
    let end = l4 + (*bytes.get(l4 + 12)? >> 4) as usize * 4;
    let options = bytes.get(..end)?;
    let mut at = l4 + 20;
    loop {
        at += match (*options.get(at)?, options.get(at + 1).copied()) {
            (END, _) => return None,
            (NOTHING, _) => 1,
            (SIZE, Some(4)) if at + 4 <= end => return Some(at + 2),
            (_, Some(length @ 2..)) => usize::from(length),
            (_, _) => return None,
        };
    }
}

#[cfg(test)]
mod tests {
    use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};

    use super::*;
    use crate::{Content, Frame};

    fn syn(options: &[u8]) -> (Vec<u8>, Parsed) {
        let builder = PacketBuilder::ethernet2([2; 6], [4; 6])
            .ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64)
            .tcp(4000, 80, 7, 1024)
            .syn()
            .options_raw(options)
            .expect("options fit");
        let mut bytes = Vec::new();
        builder.write(&mut bytes, &[]).expect("a packet");
        let mut copy = bytes.clone();
        let length = copy.len();
        let frame = Frame::new(&mut copy, 0, length, 0).expect("a frame");
        match Parsed::frame(&frame) {
            Ok(Content::Ip(parsed)) => (bytes, parsed),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn an_offer_is_found_and_replaced_wherever_it_begins() {
        for options in [
            &[2, 4, 5, 0xb4][..],
            &[1, 2, 4, 5, 0xb4, 1, 1, 1],
            &[1, 1, 4, 2, 2, 4, 5, 0xb4],
            &[8, 10, 0, 0, 0, 0, 0, 0, 0, 0, 1, 2, 4, 5, 0xb4, 0],
        ] {
            let (mut bytes, parsed) = syn(options);
            assert_eq!(offered(&bytes, &parsed), Some(1460), "{options:?}");
            for size in [536, 1460, 60_960, 0, u16::MAX] {
                offer(&mut bytes, &parsed, size);
                assert_eq!(offered(&bytes, &parsed), Some(size));
                let slice = SlicedPacket::from_ethernet(&bytes).expect("a packet");
                let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Tcp(tcp))) =
                    (&slice.net, &slice.transport)
                else {
                    panic!("TCP")
                };
                let (source, target) = (ip.header().source(), ip.header().destination());
                assert_eq!(tcp.calc_checksum_ipv4(source, target), Ok(tcp.checksum()));
            }
        }
    }

    #[test]
    fn no_offer_is_none() {
        for options in [
            &[][..],
            &[1, 1, 1, 1],
            &[0, 2, 4, 5],
            &[8, 1, 2, 4],
            &[1, 1, 1, 2],
            &[2, 3, 5, 1],
            &[1, 2, 4, 5],
            &[4, 40, 2, 4],
        ] {
            let (bytes, parsed) = syn(options);
            let mut same = bytes.clone();
            offer(&mut same, &parsed, 1);
            assert_eq!(
                (offered(&bytes, &parsed), same),
                (None, bytes),
                "{options:?}"
            );
        }
    }
}
