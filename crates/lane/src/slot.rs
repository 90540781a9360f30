//! One direction of a flow in two cache lines: written once, read by programs, revoked by one store.
//!
//! `tagged` decides: 0 is no flow, anything else is one incarnation of the slot and where its packets leave. It is
//! written last and cleared first, and no two incarnations have the same, so that a reader who finds it unchanged has
//! read one flow.

use crate::forward::{Acts, FORWARD_WORDS};
use crate::generations::Mark;
use crate::sync::{AtomicU64, Ordering, fence};

/// How many words a key has; one in loom's models.
pub const KEY_WORDS: usize = if cfg!(loom) { 1 } else { 5 };

/// A packet's key and whence it came, as words that are equal for equal ones only.
pub type Key = [u64; KEY_WORDS];

const TAGGED: usize = KEY_WORDS;
const WATCHED: usize = TAGGED + 1;
const SUM: usize = WATCHED + 1;
const FORWARD: usize = SUM + 1;

/// Words of a slot.
pub(crate) const SLOT_WORDS: usize = FORWARD + FORWARD_WORDS;

/// Words of a slot's counts: packets, bytes, ns of the kernel's clock when the last one came.
pub(crate) const COUNT_WORDS: usize = 3;

#[cfg(not(loom))]
const _: () = assert!(SLOT_WORDS * size_of::<u64>() == 128, "two cache lines");

/// What a slot is to hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Entry {
    /// Which packets.
    pub key: Key,
    /// The port that they leave by.
    pub port: u16,
    /// What is done to them besides translating.
    pub acts: Acts,
    /// How they are rewritten.
    pub forward: [u64; FORWARD_WORDS],
}

/// One incarnation of one slot, to revoke it by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Ticket {
    pub(crate) slot: u32,
    pub(crate) tag: u32,
}

/// A slot's words.
pub(crate) struct Slot<'a>(pub(crate) &'a [AtomicU64]);

impl Slot<'_> {
    /// The incarnation; 0 of none.
    pub(crate) fn tag(&self) -> u32 {
        self.0[TAGGED].load(Ordering::Acquire) as u32
    }

    /// The owner's: writes an entry into a slot that nobody reads any more.
    pub(crate) fn fill(&self, entry: &Entry, mark: Mark, tag: u32) {
        let Slot(words) = self;
        // Whoever reads a word written below must find the tag gone, or another, when looking again.
        fence(Ordering::Release);
        let body = entry
            .key
            .iter()
            .chain([&0, &mark.watched, &mark.sum])
            .chain(&entry.forward);
        for (at, (word, value)) in words.iter().zip(body).enumerate() {
            if at != TAGGED {
                word.store(*value, Ordering::Relaxed);
            }
        }
        let leaves = u64::from(entry.port) | u64::from(entry.acts.bits()) << 16;
        words[TAGGED].store(leaves << 32 | u64::from(tag), Ordering::Release);
    }

    /// Takes the flow out if it still is this incarnation; false if it was out already.
    pub(crate) fn clear(&self, tag: u32) -> bool {
        let tagged = self.0[TAGGED].load(Ordering::Relaxed);
        tagged as u32 == tag
            && self.0[TAGGED]
                .compare_exchange(tagged, 0, Ordering::AcqRel, Ordering::Relaxed)
                .is_ok()
    }

    /// The entry of this key and what it was judged with; `None` if the slot has another or none, or is being taken back.
    pub(crate) fn matching(&self, key: &Key) -> Option<(Entry, Mark)> {
        let Slot(words) = self;
        let tagged = words[TAGGED].load(Ordering::Acquire);
        let load = |at: usize| words[at].load(Ordering::Relaxed);
        if tagged == 0 || (0..KEY_WORDS).any(|word| load(word) != key[word]) {
            return None;
        }
        let mark = Mark {
            watched: load(WATCHED),
            sum: load(SUM),
        };
        let forward = std::array::from_fn(|word| load(FORWARD + word));
        fence(Ordering::Acquire);
        let entry = Entry {
            key: *key,
            port: (tagged >> 32) as u16,
            acts: Acts::of_bits((tagged >> 48) as u8),
            forward,
        };
        (load(TAGGED) == tagged).then_some((entry, mark))
    }

    /// The owner's: what the entry in it was judged with.
    pub(crate) fn mark(&self) -> Mark {
        Mark {
            watched: self.0[WATCHED].load(Ordering::Relaxed),
            sum: self.0[SUM].load(Ordering::Relaxed),
        }
    }
}
