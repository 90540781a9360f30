//! A keyed hash that eBPF can compute, too: 64-bit products, no wider ones.

use crate::slot::{KEY_WORDS, Key};

/// How many secret words the hash takes: one for each half of a key's words, and one more.
pub const SECRETS: usize = 2 * KEY_WORDS + 1;

/// The secret words of one table.
///
/// The hash is multilinear over 32-bit halves, of which the upper half is strongly universal (Lemire and Kaser, 2014):
/// whoever doesn't know the secret finds two keys that meet with a chance of 2^-32 only, however he chooses them.
#[derive(Clone, Copy)]
pub struct Secret(pub [u64; SECRETS]);

impl Secret {
    /// The key's hash.
    #[inline]
    pub fn hash(&self, key: &Key) -> u32 {
        let Secret(secret) = self;
        let mut sum = secret[0];
        for (word, pair) in key.iter().zip(secret[1..].chunks_exact(2)) {
            sum = sum
                .wrapping_add(pair[0].wrapping_mul(word & 0xffff_ffff))
                .wrapping_add(pair[1].wrapping_mul(word >> 32));
        }
        (sum >> 32) as u32
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// The numbers that xdp-redirect/express.h must give, too.
    #[test]
    fn known_answers() {
        let secret = Secret(std::array::from_fn(|word| {
            0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(word as u64 + 1)
        }));
        assert_eq!(secret.hash(&[0; 5]), 0x9e37_79b9);
        let key = [0, 1 << 63, u64::MAX, 7, 80 << 8 | 6];
        let slow = key.iter().enumerate().fold(secret.0[0], |sum, (at, word)| {
            let low = u128::from(secret.0[2 * at + 1]) * u128::from(*word as u32);
            let high = u128::from(secret.0[2 * at + 2]) * u128::from(word >> 32);
            (u128::from(sum) + low + high) as u64
        });
        assert_eq!(secret.hash(&key), (slow >> 32) as u32);
    }

    #[test]
    fn every_half_of_every_word_counts() {
        let secret = Secret(std::array::from_fn(|word| {
            0x9e37_79b9_7f4a_7c15_u64.wrapping_mul(word as u64 + 1) | 1
        }));
        let hash = secret.hash(&[1, 2, 3, 4, 5]);
        for bit in 0..320 {
            let mut key = [1, 2, 3, 4, 5];
            key[bit / 64] ^= 1 << (bit % 64);
            assert_ne!(secret.hash(&key), hash, "bit {bit}");
        }
    }
}
