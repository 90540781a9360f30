//! What a slot says about the packets of its key: how they are rewritten, and where they leave.

/// How many words that takes.
pub const FORWARD_WORDS: usize = if cfg!(loom) { 2 } else { 8 };

/// One thing that is done to a packet besides translating it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// It came out of a tunnel: the outer headers go.
    Pull = 1,
    /// It goes into a tunnel: the template's headers are put in front.
    Push = 2,
    /// It goes into a pod of this node, by the far end of its pair.
    Peer = 4,
}

/// A set of [`Act`]s.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Acts(u8);

impl Acts {
    /// This one as well.
    pub fn with(self, act: Act) -> Acts {
        Acts(self.0 | act as u8)
    }

    /// True if this one is among them.
    pub fn has(self, act: Act) -> bool {
        self.0 & act as u8 != 0
    }

    pub(crate) fn bits(self) -> u8 {
        self.0
    }

    pub(crate) fn of_bits(bits: u8) -> Acts {
        Acts(bits)
    }
}

/// The rewriting of a packet, as words in the layout of `struct express_forward`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Forward {
    /// The key that it leaves with, in the words of its flow's key.
    pub translated: [u64; 5],
    /// Whom it is sent to on the wire.
    pub target_mac: [u8; 6],
    /// Who sends it on the wire.
    pub source_mac: [u8; 6],
    /// The largest IP packet, in bytes; of a packet that will be segmented: the largest segment.
    pub max_length: u16,
    /// The headers of the tunnel, for [`Act::Push`].
    pub template: u16,
    /// What the translation adds to the IPv4 header's sum (RFC 1624).
    pub network_delta: u16,
    /// What it adds to the transport's sum (RFC 1624).
    pub transport_delta: u16,
}

#[cfg(not(loom))]
impl Forward {
    /// The words for a slot.
    pub fn words(&self) -> [u64; FORWARD_WORDS] {
        let mac = |mac: [u8; 6]| {
            let [a, b, c, d, e, f] = mac;
            u64::from_le_bytes([a, b, c, d, e, f, 0, 0])
        };
        let [a, b, c, d, e] = self.translated;
        let target = mac(self.target_mac) | u64::from(self.max_length) << 48;
        let source = mac(self.source_mac) | u64::from(self.template) << 48;
        let deltas = u64::from(self.network_delta) | u64::from(self.transport_delta) << 16;
        [a, b, c, d, e, target, source, deltas]
    }

    /// What [`Forward::words`] packed.
    pub fn of_words(words: [u64; FORWARD_WORDS]) -> Forward {
        let mac = |word: u64| {
            let [a, b, c, d, e, f, ..] = word.to_le_bytes();
            [a, b, c, d, e, f]
        };
        let [a, b, c, d, e, target, source, deltas] = words;
        Forward {
            translated: [a, b, c, d, e],
            target_mac: mac(target),
            source_mac: mac(source),
            max_length: (target >> 48) as u16,
            template: (source >> 48) as u16,
            network_delta: deltas as u16,
            transport_delta: (deltas >> 16) as u16,
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn words_round_trip(words in any::<[u64; FORWARD_WORDS]>()) {
            let forward = Forward::of_words(words);
            let mut kept = words;
            kept[7] &= 0xffff_ffff;
            prop_assert_eq!(forward.words(), kept);
            prop_assert_eq!(Forward::of_words(forward.words()), forward);
        }
    }
}
