//! Internet checksums (RFC 1071), and their change by what was edited (RFC 1624).

use crate::{Addr, Protocol};

/// The one's complement sum of what was taken out of a packet and what was put in.
///
/// Sums are of 64-bit words in the machine's byte order, whatever that is: neither matters to them (RFC 1071, 2).
#[derive(Clone, Copy, Debug, Default)]
pub struct Delta(u64);

impl Delta {
    /// A 16-bit word became another.
    #[inline]
    pub fn word(&mut self, before: u16, after: u16) {
        self.0 = add(
            self.0,
            u64::from(!before.to_be()) + u64::from(after.to_be()),
        );
    }

    /// An address became another one of its family.
    #[inline]
    pub fn addr(&mut self, before: &Addr, after: &Addr) {
        // The mapped prefix of IPv4 is equal on both sides and cancels out.
        let ([a, b], [c, d]) = (before.words(), after.words());
        self.0 = add(add(add(add(self.0, !a), !b), c), d);
    }

    /// The checksum field after the change (RFC 1624, equation 3).
    #[inline]
    pub fn apply(&self, before: u16) -> u16 {
        u16::from_be(!fold(add(self.0, u64::from(!before.to_be()))))
    }
}

/// Adds with the carry going around.
#[inline]
fn add(sum: u64, word: u64) -> u64 {
    let (sum, carry) = sum.overflowing_add(word);
    sum + u64::from(carry)
}

/// The sum of a sum's four words; 0 of 0 only.
#[inline]
fn fold(sum: u64) -> u16 {
    let (sum, carry) = ((sum >> 32) as u32).overflowing_add(sum as u32);
    let sum = sum + u32::from(carry);
    let (sum, carry) = ((sum >> 16) as u16).overflowing_add(sum as u16);
    sum + u16::from(carry)
}

/// The one's complement sum of bytes, an odd last one padded with zero; not yet complemented.
fn sum(bytes: &[u8]) -> u64 {
    let (words, rest) = bytes.as_chunks();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let words = words.iter().chain([&last]);
    words.fold(0, |sum, word| add(sum, u64::from_ne_bytes(*word)))
}

/// The checksum of bytes whose own checksum field is zero.
pub fn checksum(bytes: &[u8]) -> u16 {
    u16::from_be(!fold(sum(bytes)))
}

/// The checksum of a header that is still in words, its own field zero.
#[inline]
pub(crate) fn checksum_of(words: [u32; 5]) -> u16 {
    let [a, b, c, d, e] = words.map(u64::from);
    !fold(a + b + c + d + e)
}

/// The checksum of a transport segment whose own checksum field is zero, with its pseudo-header (RFC 8200, 8.1).
pub fn transport(source: &Addr, target: &Addr, protocol: Protocol, segment: &[u8]) -> u16 {
    let pseudo = pseudo_sum(source, target, protocol, segment.len());
    u16::from_be(!fold(add(sum(segment), pseudo)))
}

/// The sum of a segment's pseudo-header alone, not complemented: what a kernel leaves to its device.
#[inline]
pub(crate) fn pseudo(source: &Addr, target: &Addr, protocol: Protocol, length: usize) -> u16 {
    u16::from_be(fold(pseudo_sum(source, target, protocol, length)))
}

#[inline]
fn pseudo_sum(source: &Addr, target: &Addr, protocol: Protocol, length: usize) -> u64 {
    // The mapped prefix of IPv4 is all ones, which add nothing.
    let ([a, b], [c, d]) = (source.words(), target.words());
    let [protocol, length] =
        [u16::from(protocol.0), length as u16].map(|word| u64::from(word.to_be()));
    add(add(add(add(a, b), c), d), protocol + length)
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
