//! Checksums that a sender's kernel has left to its device (CHECKSUM_PARTIAL), completed in software (D4).
//!
//! Linux puts the pseudo-header's sum, not complemented, into TCP's and UDP's field, and zero into SCTP's; what the device
//! would add is the segment's own. A veth passes such packets on as they are. A field that looks so may also be a finished
//! checksum, once in 65 536: completing that gives the same one again.

use crate::checksum::{self, transport};
use crate::parse::{Fragment, Parsed};
use crate::{Frame, Protocol};

/// What became of a packet's checksum.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Completed {
    /// It was finished, or there is none.
    Finished,
    /// It was unfinished, and is right now.
    Now,
    /// It is unfinished, and the packet goes on in other chunks.
    Elsewhere,
}

/// Completes the transport checksum of a packet if its sender has not.
pub fn complete(frame: &mut Frame<'_>, parsed: &Parsed) -> Completed {
    let l4 = parsed.l4 as usize;
    let key = &parsed.key;
    // A kernel completes what it cuts into fragments.
    if parsed.fragment != Fragment::Whole {
        return Completed::Finished;
    }
    let offset = match key.protocol {
        Protocol::TCP => 16,
        Protocol::UDP => 6,
        Protocol::SCTP => 8,
        _ => return Completed::Finished,
    };
    let (at, end) = (l4 + offset, parsed.end());
    let width = match key.protocol {
        Protocol::SCTP => 4,
        _ => 2,
    };
    let bytes = frame.bytes();
    let Some(field) = bytes.get(at..at + width) else {
        return Completed::Finished;
    };
    let mut before = [0; 4];
    before[..width].copy_from_slice(field);
    let left = match key.protocol {
        Protocol::SCTP => [0; 4],
        protocol => {
            let pseudo = checksum::pseudo(&key.source, &key.target, protocol, end - l4);
            let [high, low] = pseudo.to_be_bytes();
            [high, low, 0, 0]
        }
    };
    if before != left {
        return Completed::Finished;
    }
    if end > bytes.len() {
        return Completed::Elsewhere;
    }
    let bytes = frame.bytes_mut();
    bytes[at..at + width].fill(0);
    let segment = &bytes[l4..end];
    let mut after = [0; 4];
    match key.protocol {
        Protocol::SCTP => after = crc32c::crc32c(segment).to_le_bytes(),
        protocol => {
            let sum = match transport(&key.source, &key.target, protocol, segment) {
                // Zero says that there is none (RFC 768).
                0 if protocol == Protocol::UDP => 0xffff,
                sum => sum,
            };
            after[..2].copy_from_slice(&sum.to_be_bytes());
        }
    }
    bytes[at..at + width].copy_from_slice(&after[..width]);
    match before == after {
        true => Completed::Finished,
        false => Completed::Now,
    }
}

#[cfg(test)]
mod tests {
    use etherparse::PacketBuilder;

    use super::*;
    use crate::Content;

    fn completed(bytes: &mut [u8]) -> Completed {
        let length = bytes.len();
        let mut frame = Frame::new(bytes, 0, length, 0).expect("a frame");
        let Ok(Content::Ip(parsed)) = Parsed::frame(&frame) else {
            panic!("a packet")
        };
        complete(&mut frame, &parsed)
    }

    /// A finished packet, the place of its checksum, and what a kernel leaves there for its device.
    fn packets() -> Vec<(Vec<u8>, usize, u16)> {
        let pseudo = |protocol: u8, length: u16, addresses: &[u8]| {
            let words = addresses
                .chunks(2)
                .map(|pair| u32::from(u16::from_be_bytes([pair[0], pair[1]])));
            let sum: u32 = words.sum::<u32>() + u32::from(protocol) + u32::from(length);
            let sum = (sum & 0xffff) + (sum >> 16);
            ((sum & 0xffff) + (sum >> 16)) as u16
        };
        let mut all = Vec::new();
        for payload in [&b""[..], b"a", b"some payload"] {
            let ethernet = || PacketBuilder::ethernet2([2; 6], [4; 6]);
            let v4 = || ethernet().ipv4([10, 0, 0, 1], [203, 0, 113, 250], 64);
            let v6 = || ethernet().ipv6([0xfd; 16], [0xfe; 16], 64);
            let length = payload.len() as u16;
            let mut tcp = Vec::new();
            let builder = v4().tcp(1000, 80, 7, 1024);
            builder.write(&mut tcp, payload).expect("a packet");
            let left = pseudo(6, 20 + length, &tcp[26..34]);
            all.push((tcp, 50, left));
            let mut udp = Vec::new();
            v4().udp(1000, 53)
                .write(&mut udp, payload)
                .expect("a packet");
            let left = pseudo(17, 8 + length, &udp[26..34]);
            all.push((udp, 40, left));
            let mut six = Vec::new();
            let builder = v6().tcp(1000, 80, 7, 1024);
            builder.write(&mut six, payload).expect("a packet");
            let left = pseudo(6, 20 + length, &six[22..54]);
            all.push((six, 70, left));
            let mut six = Vec::new();
            v6().udp(1000, 53)
                .write(&mut six, payload)
                .expect("a packet");
            let left = pseudo(17, 8 + length, &six[22..54]);
            all.push((six, 60, left));
        }
        all
    }

    #[test]
    fn d4_what_was_left_to_a_device_is_completed_and_nothing_else_is_touched() {
        for (finished, at, left) in packets() {
            let mut bytes = finished.clone();
            assert_eq!(completed(&mut bytes), Completed::Finished);
            assert_eq!(bytes, finished);
            bytes[at..at + 2].copy_from_slice(&left.to_be_bytes());
            assert_eq!(completed(&mut bytes), Completed::Now);
            assert_eq!(bytes, finished);
            // A wrong one stays wrong: whoever gets the packet drops it.
            bytes[at + 1] ^= 1;
            let wrong = bytes.clone();
            assert_eq!(completed(&mut bytes), Completed::Finished);
            assert_eq!(bytes, wrong);
        }
    }

    #[test]
    fn d4_a_finished_checksum_that_looks_unfinished_stays_what_it_is() {
        let (mut bytes, at, left) = packets().swap_remove(9);
        // The payload that makes the finished sum the pseudo-header's.
        let found = (0..=u16::MAX).find(|word| {
            bytes[42..44].copy_from_slice(&word.to_be_bytes());
            bytes[at..at + 2].copy_from_slice(&left.to_be_bytes());
            completed(&mut bytes) == Completed::Finished
        });
        assert!(found.is_some());
        assert_eq!(bytes[at..at + 2], left.to_be_bytes());
    }

    #[test]
    fn d4_sctp_is_left_to_a_device_with_a_zero() {
        let chunk = [0x1f, 0x90, 0, 80, 1, 2, 3, 4, 0, 0, 0, 0, 1, 0, 0, 4];
        let builder =
            PacketBuilder::ethernet2([2; 6], [4; 6]).ipv4([10, 0, 0, 1], [10, 0, 0, 2], 64);
        let mut bytes = Vec::new();
        builder
            .write(&mut bytes, 132.into(), &chunk)
            .expect("a packet");
        assert_eq!(completed(&mut bytes), Completed::Now);
        assert_eq!(bytes[42..46], crc32c::crc32c(&chunk).to_le_bytes());
        assert_eq!(completed(&mut bytes), Completed::Finished);
    }
}
