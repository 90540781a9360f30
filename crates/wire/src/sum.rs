//! One's complement sums of bytes that come in pieces (RFC 1071), made while they are copied.

/// A running sum; pieces follow each other, each wherever the one before ended.
///
/// Words are added as the machine reads them: the sum's byte order is that of its words (RFC 1071, 2 B).
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Sum {
    words: u64,
    /// How many bytes there were so far.
    length: usize,
}

impl Sum {
    /// The sum of so many bytes that has this [value](Sum::value).
    #[inline]
    pub(crate) fn of(value: u16, length: usize) -> Sum {
        Sum {
            words: u64::from(u16::from_ne_bytes(value.to_be_bytes())),
            length,
        }
    }

    /// Adds the next bytes.
    #[inline]
    pub(crate) fn add(&mut self, bytes: &[u8]) {
        let mut words = bytes.chunks_exact(4);
        let mut total: u64 = words
            .by_ref()
            .map(|word| u64::from(u32::from_ne_bytes(word.try_into().expect("4 bytes"))))
            .sum();
        let mut last = [0; 4];
        last[..words.remainder().len()].copy_from_slice(words.remainder());
        total += u64::from(u32::from_ne_bytes(last));
        self.append(Sum {
            words: total,
            length: bytes.len(),
        });
    }

    /// Copies the next bytes, and adds them.
    #[inline]
    pub(crate) fn copy(&mut self, from: &[u8], into: &mut [u8]) {
        into.copy_from_slice(from);
        self.add(from);
    }

    /// Adds a 16-bit number as it would lie in the packet.
    #[inline]
    pub(crate) fn word(&mut self, value: u16) {
        self.add(&value.to_be_bytes());
    }

    /// Adds what another sum is of, as the next bytes.
    #[inline]
    pub(crate) fn append(&mut self, next: Sum) {
        let folded = next.folded();
        let folded = match self.length % 2 {
            0 => folded,
            // What starts in the middle of a word has its bytes in each other's places.
            _ => folded.swap_bytes(),
        };
        self.words += u64::from(folded);
        self.length += next.length;
    }

    /// The sum as a number of the packet's byte order, not complemented.
    #[inline]
    pub(crate) fn value(self) -> u16 {
        u16::from_be_bytes(self.folded().to_ne_bytes())
    }

    #[inline]
    fn folded(self) -> u16 {
        let mut sum = self.words;
        while sum >> 16 != 0 {
            sum = (sum & 0xffff) + (sum >> 16);
        }
        sum as u16
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::checksum::checksum;

    #[test]
    fn pieces_of_any_length_sum_to_what_the_whole_does() {
        let bytes: Vec<u8> = (0..997_u32).map(|byte| (byte * 31 % 251) as u8).collect();
        for step in [1, 2, 3, 4, 5, 7, 64, 333, 997] {
            let (mut sum, mut copy) = (Sum::default(), Vec::new());
            for piece in bytes.chunks(step) {
                let mut into = vec![0; piece.len()];
                sum.copy(piece, &mut into);
                copy.extend(into);
            }
            assert_eq!(!sum.value(), checksum(&bytes), "in steps of {step}");
            assert_eq!(copy, bytes);
        }
    }
}
