//! Where a key's flow is: buckets of one cache line, open addressing in a short window.
//!
//! A bucket has seven entries and a word that counts, for each of the eight buckets after it, how many entries stand
//! there because this one was full. So a miss ends after one line unless the bucket has really overflowed, and
//! nothing needs a tombstone. Entries are placed by anyone and cleared by the slot's owner only.

use std::ptr::NonNull;

use crate::prefetch::prefetch;
use crate::slot::Direction;
use crate::slots::bytes;
use crate::sync::{AtomicU64, Ordering};

const ENTRIES: usize = if cfg!(loom) { 4 } else { 7 };
const WINDOW: usize = 8;

#[repr(C, align(64))]
struct Bucket {
    /// An entry: the hash's upper half, then slot and direction plus one; 0 is free.
    entries: [AtomicU64; ENTRIES],
    /// Byte *d* counts the entries whose home this is, in the bucket *d* + 1 places on; at most 7, and one for each
    /// worker that is just placing one.
    displaced: AtomicU64,
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Bucket>() == 64);

pub(crate) struct Index {
    buckets: Box<[Bucket]>,
}

/// Every bucket of the window is full.
#[derive(Debug)]
pub(crate) struct Crowded;

impl Index {
    /// An index for two keys of each of `flows` flows, a power of two: 32 bytes a flow, load 4/7 when all are there.
    pub(crate) fn new(flows: usize) -> Index {
        assert!(flows.is_power_of_two());
        let bucket = |_| Bucket {
            entries: std::array::from_fn(|_| AtomicU64::new(0)),
            displaced: AtomicU64::new(0),
        };
        Index {
            buckets: (0..(flows / 2).max(1)).map(bucket).collect(),
        }
    }

    /// Where it is.
    pub(crate) fn memory(&self) -> NonNull<[u8]> {
        bytes(&self.buckets)
    }

    /// Starts to load the home bucket of `hash`.
    #[inline]
    pub(crate) fn prefetch(&self, hash: u64) {
        prefetch(self.bucket(hash, 0));
    }

    /// The first thing that `accept` makes of an entry with this hash; it may be shown entries of other keys.
    #[inline]
    pub(crate) fn find<R>(
        &self,
        hash: u64,
        mut accept: impl FnMut(u32, Direction) -> Option<R>,
    ) -> Option<R> {
        let home = self.bucket(hash, 0);
        if let Some(found) = home.find(hash, &mut accept) {
            return Some(found);
        }
        let mut displaced = home.displaced.load(Ordering::Acquire);
        while displaced != 0 {
            let place = displaced.trailing_zeros() as usize / 8;
            if let Some(found) = self.bucket(hash, place + 1).find(hash, &mut accept) {
                return Some(found);
            }
            displaced &= !(0xff << (place * 8));
        }
        None
    }

    /// Enters a slot's key.
    pub(crate) fn place(&self, hash: u64, slot: u32, direction: Direction) -> Result<(), Crowded> {
        let entry = entry(hash, slot, direction);
        let home = self.bucket(hash, 0);
        if home.place(entry) {
            return Ok(());
        }
        for distance in 1..=self.reach() {
            let bucket = self.bucket(hash, distance);
            if bucket.is_full() {
                continue;
            }
            // Before the entry, so that no reader who could see that one stops short of it.
            home.displaced.fetch_add(one_at(distance), Ordering::AcqRel);
            if bucket.place(entry) {
                return Ok(());
            }
            home.displaced.fetch_sub(one_at(distance), Ordering::AcqRel);
        }
        Err(Crowded)
    }

    /// Takes a slot's key out, if it is in; for the slot's owner only.
    pub(crate) fn clear(&self, hash: u64, slot: u32, direction: Direction) {
        let entry = entry(hash, slot, direction);
        let home = self.bucket(hash, 0);
        if home.clear(entry) {
            return;
        }
        for distance in 1..=self.reach() {
            if self.bucket(hash, distance).clear(entry) {
                home.displaced.fetch_sub(one_at(distance), Ordering::AcqRel);
                return;
            }
        }
    }

    #[inline(always)]
    fn bucket(&self, hash: u64, distance: usize) -> &Bucket {
        &self.buckets[(hash as usize + distance) & (self.buckets.len() - 1)]
    }

    fn reach(&self) -> usize {
        WINDOW.min(self.buckets.len() - 1)
    }

    /// How many entries are in, and how many of them are displaced.
    #[cfg(all(test, not(loom)))]
    pub(crate) fn load(&self) -> (usize, usize) {
        let entries = self.buckets.iter().flat_map(|bucket| &bucket.entries);
        let displaced = self.buckets.iter().map(|bucket| {
            let counts = bucket.displaced.load(Ordering::Relaxed).to_ne_bytes();
            counts.into_iter().map(usize::from).sum::<usize>()
        });
        let used = entries.filter(|entry| entry.load(Ordering::Relaxed) != 0);
        (used.count(), displaced.sum())
    }
}

impl Bucket {
    #[inline(always)]
    fn find<R>(
        &self,
        hash: u64,
        accept: &mut impl FnMut(u32, Direction) -> Option<R>,
    ) -> Option<R> {
        let entries: [u64; ENTRIES] =
            std::array::from_fn(|place| self.entries[place].load(Ordering::Acquire));
        // All at once: which place it is can't be predicted, and a branch for each would be.
        let same = |place: usize| u32::from(entries[place] >> 32 == hash >> 32) << place;
        let mut matches = (0..ENTRIES).fold(0, |matches, place| matches | same(place));
        while matches != 0 {
            let entry = entries[matches.trailing_zeros() as usize];
            matches &= matches - 1;
            if entry as u32 == 0 {
                continue;
            }
            let (slot, direction) = place_of(entry);
            if let Some(found) = accept(slot, direction) {
                return Some(found);
            }
        }
        None
    }

    fn place(&self, entry: u64) -> bool {
        self.entries.iter().any(|place| {
            place.load(Ordering::Relaxed) == 0
                && place
                    .compare_exchange(0, entry, Ordering::AcqRel, Ordering::Relaxed)
                    .is_ok()
        })
    }

    fn clear(&self, entry: u64) -> bool {
        let mut places = self.entries.iter();
        let place = places.find(|place| place.load(Ordering::Relaxed) == entry);
        place
            .inspect(|place| place.store(0, Ordering::Release))
            .is_some()
    }

    fn is_full(&self) -> bool {
        let mut places = self.entries.iter();
        places.all(|place| place.load(Ordering::Relaxed) != 0)
    }
}

fn entry(hash: u64, slot: u32, direction: Direction) -> u64 {
    let direction = match direction {
        Direction::Original => 0,
        Direction::Reply => 1,
    };
    hash & !u64::from(u32::MAX) | u64::from((slot << 1 | direction) + 1)
}

#[inline(always)]
fn place_of(entry: u64) -> (u32, Direction) {
    let place = entry as u32 - 1;
    let direction = match place & 1 {
        0 => Direction::Original,
        _ => Direction::Reply,
    };
    (place >> 1, direction)
}

fn one_at(distance: usize) -> u64 {
    1 << ((distance - 1) * 8)
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    fn slots(index: &Index, hash: u64) -> Vec<(u32, Direction)> {
        let mut all = Vec::new();
        index.find(hash, |slot, direction| {
            all.push((slot, direction));
            None::<()>
        });
        all
    }

    #[test]
    fn a_full_bucket_overflows_into_its_window_and_back() {
        let index = Index::new(64);
        let hash = |tag: u64| tag << 32 | 30;
        let window = ((WINDOW + 1) * ENTRIES) as u32;
        for slot in 0..window {
            let placed = index.place(hash(slot.into()), slot, Direction::Reply);
            assert!(placed.is_ok());
        }
        assert!(index.place(hash(0), 99, Direction::Original).is_err());
        assert_eq!(index.load(), (window as usize, WINDOW * ENTRIES));
        for slot in 0..window {
            assert_eq!(slots(&index, hash(slot.into())), [(slot, Direction::Reply)]);
        }
        // A hole near home hides nothing that stands farther on.
        index.clear(hash(0), 0, Direction::Reply);
        let last = window - 1;
        assert_eq!(slots(&index, hash(last.into())).len(), 1);
        for slot in 0..window {
            index.clear(hash(slot.into()), slot, Direction::Reply);
            assert_eq!(slots(&index, hash(slot.into())), []);
        }
        assert_eq!(index.load(), (0, 0));
    }

    #[test]
    fn only_the_right_entry_is_cleared() {
        let index = Index::new(2);
        for direction in [Direction::Original, Direction::Reply] {
            index.place(0, 0, direction).expect("room");
        }
        index.place(0, 1, Direction::Original).expect("room");
        index.clear(1 << 32, 0, Direction::Original);
        index.clear(0, 0, Direction::Original);
        let left = [(0, Direction::Reply), (1, Direction::Original)];
        assert_eq!(slots(&index, 0), left);
        assert_eq!(slots(&index, 1 << 32), []);
    }
}
