//! Internet checksums (RFC 1071), and their change by what was edited (RFC 1624).

use crate::{Addr, Protocol};

/// The one's complement sum of what was taken out of a packet and what was put in.
#[derive(Clone, Copy, Debug, Default)]
pub struct Delta(u64);

impl Delta {
    /// A 16-bit field was `before` and is `after`.
    #[inline]
    pub fn word(&mut self, before: u16, after: u16) {
        self.0 += u64::from(!before) + u64::from(after);
    }

    /// An address was `before` and is `after`, of one family.
    #[inline]
    pub fn addr(&mut self, before: &Addr, after: &Addr) {
        // The mapped prefix of IPv4 is equal on both sides and cancels out.
        let taken = before
            .octets()
            .chunks_exact(2)
            .map(|pair| u64::from(!pair_word(pair)));
        let given = after
            .octets()
            .chunks_exact(2)
            .map(|pair| u64::from(pair_word(pair)));
        self.0 += taken.sum::<u64>() + given.sum::<u64>();
    }

    /// The checksum field that was `before`, after all of it.
    #[inline]
    pub fn apply(&self, before: u16) -> u16 {
        !fold(self.0 + u64::from(!before))
    }
}

#[inline]
fn pair_word(pair: &[u8]) -> u16 {
    u16::from_be_bytes([pair[0], pair[1]])
}

#[inline]
fn fold(mut sum: u64) -> u16 {
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    sum as u16
}

/// The one's complement sum of bytes, an odd last one padded with zero; not yet complemented.
pub fn sum(bytes: &[u8]) -> u64 {
    let mut pairs = bytes.chunks_exact(2);
    let mut total: u64 = pairs.by_ref().map(|pair| u64::from(pair_word(pair))).sum();
    if let [last] = pairs.remainder() {
        total += u64::from(*last) << 8;
    }
    total
}

/// The checksum of bytes whose own checksum field is zero.
pub fn checksum(bytes: &[u8]) -> u16 {
    !fold(sum(bytes))
}

/// The checksum of a transport segment whose own checksum field is zero, with its pseudo-header (RFC 8200, 8.1).
pub fn transport(source: &Addr, target: &Addr, protocol: Protocol, segment: &[u8]) -> u16 {
    let pseudo = sum(source.wire_bytes())
        + sum(target.wire_bytes())
        + u64::from(protocol.0)
        + segment.len() as u64;
    !fold(pseudo + sum(segment))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_delta_gives_what_summing_again_gives() {
        // Every pair of values that makes the two zeros of one's complement meet, and some ordinary ones.
        for before in [0x0000, 0x0001, 0x1234, 0xfffe, 0xffff] {
            for after in [0x0000u16, 0x0001, 0xabcd, 0xfffe, 0xffff] {
                let mut bytes = [0x45, 0, 0, 0, 0x12, 0x34, 0, 0];
                bytes[2..4].copy_from_slice(&u16::to_be_bytes(before));
                let old = checksum(&bytes);
                bytes[2..4].copy_from_slice(&after.to_be_bytes());
                let mut delta = Delta::default();
                delta.word(before, after);
                assert_eq!(
                    delta.apply(old),
                    checksum(&bytes),
                    "{before:x} to {after:x}"
                );
            }
        }
    }

    #[test]
    fn addresses_of_both_families_change_it_rightly() {
        let pairs = [
            (Addr::v4([10, 0, 0, 1]), Addr::v4([172, 16, 255, 254])),
            (Addr::v6([0xfd; 16]), Addr::v6([7; 16])),
        ];
        for (before, after) in pairs {
            let target = before;
            let segment = [0x30, 0x39, 0, 53, 0, 9, 0, 0, 0x41];
            let old = transport(&before, &target, Protocol::UDP, &segment);
            let mut delta = Delta::default();
            delta.addr(&before, &after);
            let new = transport(&after, &target, Protocol::UDP, &segment);
            assert_eq!(delta.apply(old), new);
        }
    }
}
