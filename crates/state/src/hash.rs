//! A seeded hash of a flow's key, in a few nanoseconds.

use crate::slot::Key;

/// The secret of one table: without it nobody can choose ports that meet in one bucket.
#[derive(Clone, Copy)]
pub(crate) struct Seed([u64; 6]);

impl Seed {
    /// A secret that is stretched from 64 random bits.
    pub(crate) fn new(seed: u64) -> Seed {
        Seed(std::array::from_fn(|word| {
            spread(seed.wrapping_add((word as u64).wrapping_mul(STEP)))
        }))
    }

    /// The hash of `key`: all 64 bits of it are good.
    #[cfg(not(loom))]
    #[inline]
    pub(crate) fn hash(&self, key: &Key) -> u64 {
        let [a, b, c, d, e, f] = self.0;
        let source = fold(key[0] ^ a, key[1] ^ b);
        let target = fold(key[2] ^ c, key[3] ^ d);
        let all = fold(source ^ target.rotate_left(32) ^ e, key[4] ^ f);
        fold(all ^ a, f | 1)
    }

    /// The hash of a model's short key.
    #[cfg(loom)]
    pub(crate) fn hash(&self, key: &Key) -> u64 {
        fold(key[0] ^ self.0[0], self.0[1] | 1)
    }
}

/// What splitmix64 adds from one number to the next: 2^64 divided by the golden ratio.
const STEP: u64 = 0x9e37_79b9_7f4a_7c15;

/// A permutation of all 64-bit numbers that leaves no pattern (splitmix64: Steele et al., OOPSLA 2014).
#[inline]
pub fn spread(word: u64) -> u64 {
    let word = word.wrapping_add(STEP);
    let word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}

/// Both halves of the product, one upon the other.
#[inline(always)]
fn fold(left: u64, right: u64) -> u64 {
    let product = left as u128 * right as u128;
    product as u64 ^ (product >> 64) as u64
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    /// Neighbouring addresses and ports are what real keys differ in.
    #[test]
    fn neighbouring_keys_spread_evenly_over_buckets_and_tags() {
        for seed in [0, 1, u64::MAX] {
            let seed = Seed::new(seed);
            let mut low = [0u32; 1024];
            let mut high = [0u32; 1024];
            for address in 0..64u64 {
                for port in 0..1024u64 {
                    let key = [7, address << 56, 7, 9 << 32, port << 24 | 80 << 8 | 6];
                    let hash = seed.hash(&key);
                    low[(hash & 1023) as usize] += 1;
                    high[(hash >> 54) as usize] += 1;
                }
            }
            for counts in [low, high] {
                let chi_square: f64 = counts
                    .iter()
                    .map(|&count| (f64::from(count) - 64.0).powi(2) / 64.0)
                    .sum();
                // 1023 degrees of freedom: a mean of 1023 and a deviation of 45.
                assert!((700.0..1350.0).contains(&chi_square), "{chi_square}");
            }
        }
    }

    #[test]
    fn every_word_and_the_seed_count() {
        let key = [1, 2, 3, 4, 5];
        let seed = Seed::new(1);
        assert_eq!(seed.hash(&key), seed.hash(&key));
        assert_ne!(seed.hash(&key), Seed::new(2).hash(&key));
        assert_ne!(seed.hash(&key), seed.hash(&[3, 4, 1, 2, 5]));
        for word in 0..5 {
            let mut other = key;
            other[word] ^= 1 << 40;
            assert_ne!(seed.hash(&key), seed.hash(&other));
        }
    }
}
