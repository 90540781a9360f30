//! The table as everyone sees it: look up, revoke, hold, count.

use crate::forward::{Acts, FORWARD_WORDS};
use crate::generations::{Generation, Mark, WATCHED, advance, pack, sum};
use crate::hash::Secret;
use crate::memory::{FIRST_SECRET, HOLD_UNTIL, Memory, Shape, WAYS};
use crate::slot::{COUNT_WORDS, Key, SLOT_WORDS, Slot, Ticket};
use crate::sync::Ordering;

/// The lane's table, shared by its owner, those who revoke, and the programs.
pub struct Lane {
    memory: Memory,
    secret: Secret,
}

/// What a packet that hits is to become, and by which slot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ride {
    /// The slot, for [`Lane::count`].
    pub slot: usize,
    /// The port that it leaves by.
    pub port: u16,
    /// What is done to it besides translating.
    pub acts: Acts,
    /// How it is rewritten.
    pub forward: [u64; FORWARD_WORDS],
}

impl Lane {
    /// A table in this memory: closed until [`Lane::hold`], and keyed by `secret` from now on.
    pub fn new(memory: Memory, secret: Secret) -> Lane {
        memory.control[HOLD_UNTIL].store(0, Ordering::SeqCst);
        for (at, word) in secret.0.iter().enumerate() {
            memory.control[FIRST_SECRET + at].store(*word, Ordering::Relaxed);
        }
        Lane { memory, secret }
    }

    /// How many slots there are.
    pub fn shape(&self) -> Shape {
        self.memory.shape
    }

    /// Lets slots hold until then, in ns of the kernel's monotonic clock, which goes on when we don't; 0 closes the lane.
    pub fn hold(&self, until_ns: u64) {
        self.memory.control[HOLD_UNTIL].store(until_ns, Ordering::Release);
    }

    /// Revokes every slot that depends on this; publish what changed first.
    pub fn revoke_all(&self, of: Generation) {
        advance(&self.memory.generations, of);
    }

    /// Revokes one slot; false if it was already.
    pub fn revoke(&self, ticket: Ticket) -> bool {
        self.slot(ticket.slot as usize).clear(ticket.tag)
    }

    /// The mark for a slot of a decision; `None` if the decision is not `is_current` any more.
    ///
    /// The order is what makes it safe: generations first, then whether the newest snapshot still is the one that was
    /// judged with. Who publishes one advances the generations afterwards, and so revokes what this mark was given for.
    pub fn judged(
        &self,
        watched: [Generation; WATCHED],
        is_current: impl FnOnce() -> bool,
    ) -> Option<Mark> {
        let watched = pack(watched);
        let sum = sum(&self.memory.generations, watched);
        is_current().then_some(Mark { watched, sum })
    }

    /// What becomes of a packet with this key, as the programs have it; `None` if the engine is to say.
    pub fn lookup(&self, key: &Key, now_ns: u64) -> Option<Ride> {
        if now_ns >= self.memory.control[HOLD_UNTIL].load(Ordering::Acquire) {
            return None;
        }
        self.candidates(key).find_map(|slot| {
            let (entry, mark) = self.slot(slot).matching(key)?;
            self.holds(mark).then_some(Ride {
                slot,
                port: entry.port,
                acts: entry.acts,
                forward: entry.forward,
            })
        })
    }

    /// Notes a packet of a slot, as the programs do.
    pub fn count(&self, slot: usize, bytes: u64, now_ns: u64) {
        let first = slot * COUNT_WORDS;
        self.memory.counts[first].fetch_add(1, Ordering::Relaxed);
        self.memory.counts[first + 1].fetch_add(bytes, Ordering::Relaxed);
        self.memory.counts[first + 2].store(now_ns, Ordering::Relaxed);
    }

    /// Packets, bytes and when the last came, over all that ever was in a slot.
    pub(crate) fn counts(&self, slot: usize) -> [u64; COUNT_WORDS] {
        std::array::from_fn(|word| {
            self.memory.counts[slot * COUNT_WORDS + word].load(Ordering::Relaxed)
        })
    }

    /// True while nothing has changed that a slot with this mark depends on.
    pub(crate) fn holds(&self, mark: Mark) -> bool {
        sum(&self.memory.generations, mark.watched) == mark.sum
    }

    /// The slots that may have a key, in the order in which they are looked at.
    pub(crate) fn candidates(&self, key: &Key) -> impl Iterator<Item = usize> + use<> {
        let hash = self.secret.hash(key) as usize;
        let buckets = self.memory.shape.slots() / WAYS;
        [hash, hash >> 16].into_iter().flat_map(move |hash| {
            let first = (hash & (buckets - 1)) * WAYS;
            first..first + WAYS
        })
    }

    pub(crate) fn slot(&self, slot: usize) -> Slot<'_> {
        Slot(&self.memory.slots[slot * SLOT_WORDS..][..SLOT_WORDS])
    }
}
