//! A worker's share of the slots: only that worker takes them and gives them back.

use std::ops::Range;

#[cfg(not(loom))]
use crate::slot::Phase;
use crate::slot::Slot;
use crate::sync::{AtomicU32, Ordering};

const NONE: u32 = u32::MAX;

pub(crate) struct Partition {
    range: Range<u32>,
    /// Head of the list of empty slots, last in first out, or [`NONE`]; the owner's.
    free: AtomicU32,
    /// Slots that are not empty; written by the owner.
    used: AtomicU32,
    /// Slots whose flow has not been answered; raised by the owner only.
    embryonic: AtomicU32,
    /// The slot that the next sweep begins with; the owner's.
    cursor: AtomicU32,
}

/// Why there is no slot.
pub(crate) enum Shortage {
    /// All are taken.
    Full,
    /// A quarter of them is embryonic.
    EmbryonicQuota,
}

impl Partition {
    /// The partition of the slots of `range`, of which none is in its free list yet, and none taken.
    pub(crate) fn new(range: Range<u32>) -> Partition {
        Partition {
            free: AtomicU32::new(NONE),
            used: AtomicU32::new(0),
            embryonic: AtomicU32::new(0),
            cursor: AtomicU32::new(range.start),
            range,
        }
    }

    /// Its slots.
    pub(crate) fn range(&self) -> Range<u32> {
        self.range.clone()
    }

    /// Puts a slot into the free list that nobody knows of yet.
    pub(crate) fn free(&self, slots: &[Slot], slot: u32) {
        slots[slot as usize].empty(self.free.load(Ordering::Relaxed));
        self.free.store(slot, Ordering::Relaxed);
    }

    /// Counts a slot that was found to be a flow's already.
    #[cfg(not(loom))]
    pub(crate) fn inherit(&self, phase: Phase) {
        self.used.store(self.used() + 1, Ordering::Relaxed);
        match phase {
            Phase::Embryonic => drop(self.embryonic.fetch_add(1, Ordering::Relaxed)),
            Phase::Answered => {}
        }
    }

    /// Takes an empty slot for an embryonic flow.
    pub(crate) fn take(&self, slots: &[Slot]) -> Result<u32, Shortage> {
        let slot = self.free.load(Ordering::Relaxed);
        if slot == NONE {
            return Err(Shortage::Full);
        }
        if self.embryonic() >= self.quota() {
            return Err(Shortage::EmbryonicQuota);
        }
        self.free
            .store(slots[slot as usize].next_free(), Ordering::Relaxed);
        self.used.store(self.used() + 1, Ordering::Relaxed);
        self.embryonic.fetch_add(1, Ordering::Relaxed);
        Ok(slot)
    }

    /// Takes back a slot that is dead, closed and out of the index.
    pub(crate) fn give_back(&self, slots: &[Slot], slot: u32) {
        self.free(slots, slot);
        self.used.store(self.used() - 1, Ordering::Relaxed);
    }

    /// Takes one flow out of the quota.
    pub(crate) fn relieve(&self) {
        self.embryonic.fetch_sub(1, Ordering::Relaxed);
    }

    /// The slot to sweep now; round and round.
    pub(crate) fn next_to_sweep(&self) -> u32 {
        let slot = self.cursor.load(Ordering::Relaxed);
        let next = match slot + 1 == self.range.end {
            true => self.range.start,
            false => slot + 1,
        };
        self.cursor.store(next, Ordering::Relaxed);
        slot
    }

    pub(crate) fn size(&self) -> usize {
        self.range.len()
    }

    pub(crate) fn used(&self) -> u32 {
        self.used.load(Ordering::Relaxed)
    }

    pub(crate) fn embryonic(&self) -> u32 {
        self.embryonic.load(Ordering::Relaxed)
    }

    fn quota(&self) -> u32 {
        (self.range.len() as u32 / 4).max(1)
    }
}
