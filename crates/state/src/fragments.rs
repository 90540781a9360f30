//! What is known of datagrams that come in fragments: the ports of the first one, what has come, and what waits for it.
//!
//! Bounded in every way: sets of datagrams behind one lock each, ranges of a datagram, bytes that wait. Fragments are
//! rare and their workers differ, so a lock a fragment is what they cost; whole packets never get here.

use crate::slot::Key;
use crate::sync::{Mutex, MutexGuard};

/// Datagrams of a set: one lock.
const WAYS: usize = 16;
/// Fragments of one datagram (65 535 bytes in pieces of 1 232 are 54).
const RANGES: usize = 64;
/// Fragments of all datagrams of a set that wait for their firsts.
const WAITING: usize = 64;
/// The longest packet that can wait, in bytes.
pub const WAITING_BYTES: usize = 2_048;
/// How long a datagram is known, in milliseconds (Linux' ipfrag_time).
const LIFETIME_MS: u32 = 30_000;

/// Part of a datagram's payload: the first byte, and the one after the last.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// Where it starts, in bytes.
    pub start: u32,
    /// Where it ends, in bytes.
    pub end: u32,
}

/// Why a fragment goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// It overlaps another one of its datagram: no more of that datagram passes (RFC 5722).
    Overlap,
    /// There is no room: too many datagrams, fragments of one, or bytes that wait.
    Full,
}

/// What is to be done with a fragment that is not the first.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Later {
    /// The datagram's first fragment carried this word.
    Known(u32),
    /// The first fragment has not come: a copy of this one waits for it.
    Waits,
}

/// Datagrams whose fragments are on their way.
pub struct Fragments {
    sets: Box<[Mutex<Set>]>,
}

struct Set {
    datagrams: [Datagram; WAYS],
    waiting: Box<[Waiting]>,
}

struct Datagram {
    key: Key,
    since_ms: u32,
    state: State,
    ranges: [Range; RANGES],
    ranges_len: usize,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    Free,
    /// The first fragment has not come.
    Headless,
    /// The first fragment carried this.
    Known(u32),
    /// Fragments overlapped.
    Spoilt,
}

/// A copy of a packet.
struct Waiting {
    /// The place of its datagram.
    datagram: Option<usize>,
    origin: u64,
    length: usize,
    bytes: Box<[u8]>,
}

impl Fragments {
    /// Room for this many datagrams, rounded up to a power of two of at least 16.
    pub fn new(datagrams: usize) -> Fragments {
        let sets = datagrams.div_ceil(WAYS).next_power_of_two();
        let set = |_| Mutex::new(Set::new());
        Fragments {
            sets: (0..sets).map(set).collect(),
        }
    }

    /// A first fragment, whose ports (or whatever else later ones lack) are `word`.
    ///
    /// Those that waited for it are to be had from [`Fragments::released`].
    pub fn first(
        &self,
        key: &Key,
        hash: u64,
        word: u32,
        range: Range,
        now_ms: u32,
    ) -> Result<(), Refusal> {
        let mut set = self.set(hash);
        let place = set.place(key, now_ms).ok_or(Refusal::Full)?;
        set.add(place, range)?;
        set.datagrams[place].state = State::Known(word);
        Ok(())
    }

    /// A fragment that is not the first; `packet` is what waits if it has to, with a word on its `origin`.
    pub fn later(
        &self,
        key: &Key,
        hash: u64,
        range: Range,
        (origin, packet): (u64, &[u8]),
        now_ms: u32,
    ) -> Result<Later, Refusal> {
        let mut set = self.set(hash);
        let place = set.place(key, now_ms).ok_or(Refusal::Full)?;
        if let State::Known(word) = set.datagrams[place].state {
            set.add(place, range)?;
            return Ok(Later::Known(word));
        }
        let free = set.waiting.iter().position(|it| it.datagram.is_none());
        let (Some(free), true) = (free, packet.len() <= WAITING_BYTES) else {
            return Err(Refusal::Full);
        };
        set.add(place, range)?;
        let copy = &mut set.waiting[free];
        copy.bytes[..packet.len()].copy_from_slice(packet);
        (copy.datagram, copy.origin, copy.length) = (Some(place), origin, packet.len());
        Ok(Later::Waits)
    }

    /// Copies a fragment that need not wait any more into `into`: the word on its origin, and its length.
    pub fn released(&self, key: &Key, hash: u64, into: &mut [u8]) -> Option<(u64, usize)> {
        let mut set = self.set(hash);
        let Set { datagrams, waiting } = &mut *set;
        let place = datagrams
            .iter()
            .position(|it| it.state != State::Free && it.key == *key)?;
        let State::Known(_) = datagrams[place].state else {
            return None;
        };
        let copy = waiting.iter_mut().find(|it| it.datagram == Some(place))?;
        into.get_mut(..copy.length)?
            .copy_from_slice(&copy.bytes[..copy.length]);
        copy.datagram = None;
        Some((copy.origin, copy.length))
    }

    fn set(&self, hash: u64) -> MutexGuard<'_, Set> {
        let index = hash as usize & (self.sets.len() - 1);
        // A worker that panics takes the process with it: there is nobody to see what it left.
        self.sets[index]
            .lock()
            .unwrap_or_else(|poisoned| poisoned.into_inner())
    }
}

impl Set {
    fn new() -> Set {
        let datagram = |_| Datagram {
            key: Key::default(),
            since_ms: 0,
            state: State::Free,
            ranges: [Range { start: 0, end: 0 }; RANGES],
            ranges_len: 0,
        };
        let waiting = |_| Waiting {
            datagram: None,
            origin: 0,
            length: 0,
            bytes: vec![0; WAITING_BYTES].into_boxed_slice(),
        };
        Set {
            datagrams: std::array::from_fn(datagram),
            waiting: (0..WAITING).map(waiting).collect(),
        }
    }

    /// The datagram's own place, or one that is free or has been kept for too long.
    fn place(&mut self, key: &Key, now_ms: u32) -> Option<usize> {
        let lives = |it: &Datagram| {
            it.state != State::Free && now_ms.wrapping_sub(it.since_ms) < LIFETIME_MS
        };
        let own = self
            .datagrams
            .iter()
            .position(|it| lives(it) && it.key == *key);
        if own.is_some() {
            return own;
        }
        let place = self.datagrams.iter().position(|it| !lives(it))?;
        self.forget_waiting(place);
        let datagram = &mut self.datagrams[place];
        (datagram.key, datagram.since_ms) = (*key, now_ms);
        (datagram.state, datagram.ranges_len) = (State::Headless, 0);
        Some(place)
    }

    /// Notes that a range has come; exact duplicates are fine (RFC 8200, 4.5).
    fn add(&mut self, place: usize, range: Range) -> Result<(), Refusal> {
        let datagram = &mut self.datagrams[place];
        if datagram.state == State::Spoilt {
            return Err(Refusal::Overlap);
        }
        let known = &datagram.ranges[..datagram.ranges_len];
        if known.contains(&range) {
            return Ok(());
        }
        if known
            .iter()
            .any(|it| it.start < range.end && range.start < it.end)
        {
            datagram.state = State::Spoilt;
            self.forget_waiting(place);
            return Err(Refusal::Overlap);
        }
        let free = datagram
            .ranges
            .get_mut(datagram.ranges_len)
            .ok_or(Refusal::Full)?;
        *free = range;
        datagram.ranges_len += 1;
        Ok(())
    }

    fn forget_waiting(&mut self, place: usize) {
        for copy in self
            .waiting
            .iter_mut()
            .filter(|it| it.datagram == Some(place))
        {
            copy.datagram = None;
        }
    }
}

impl std::fmt::Debug for Fragments {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Fragments({} datagrams)", self.sets.len() * WAYS)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const KEY: Key = [1, 2, 3, 4, 5];

    fn range(start: u32, end: u32) -> Range {
        Range { start, end }
    }

    #[test]
    fn later_fragments_wait_for_the_first_and_then_know_its_word() {
        let fragments = Fragments::new(16);
        let later = |from, packet| fragments.later(&KEY, 9, range(from, from + 8), (3, packet), 0);
        assert_eq!(later(8, b"one"), Ok(Later::Waits));
        assert_eq!(later(16, b"three"), Ok(Later::Waits));
        let mut into = [0; WAITING_BYTES];
        assert_eq!(fragments.released(&KEY, 9, &mut into), None);
        assert_eq!(fragments.first(&KEY, 9, 77, range(0, 8), 0), Ok(()));
        assert_eq!(fragments.released(&KEY, 9, &mut into), Some((3, 3)));
        assert_eq!(&into[..3], b"one");
        assert_eq!(fragments.released(&KEY, 9, &mut into), Some((3, 5)));
        assert_eq!(fragments.released(&KEY, 9, &mut into), None);
        assert_eq!(later(24, b"four"), Ok(Later::Known(77)));
        assert_eq!(
            later(24, b"four"),
            Ok(Later::Known(77)),
            "an exact duplicate"
        );
    }

    #[test]
    fn an_overlap_spoils_the_datagram_and_time_forgets_it() {
        let fragments = Fragments::new(16);
        assert_eq!(fragments.first(&KEY, 9, 77, range(0, 16), 0), Ok(()));
        let later = |from, to, now| fragments.later(&KEY, 9, range(from, to), (0, b""), now);
        assert_eq!(later(8, 24, 0), Err(Refusal::Overlap));
        assert_eq!(later(24, 32, 0), Err(Refusal::Overlap));
        assert_eq!(
            fragments.first(&KEY, 9, 77, range(0, 16), 0),
            Err(Refusal::Overlap)
        );
        assert_eq!(
            later(24, 32, LIFETIME_MS),
            Ok(Later::Waits),
            "the identification is used again"
        );
    }

    #[test]
    fn every_kind_of_room_ends() {
        let fragments = Fragments::new(16);
        let waiting = |number: u32| {
            fragments.later(
                &KEY,
                0,
                range(number * 8 + 8, number * 8 + 16),
                (0, b"x"),
                0,
            )
        };
        for number in 0..RANGES as u32 {
            assert_eq!(waiting(number), Ok(Later::Waits));
        }
        assert_eq!(waiting(99), Err(Refusal::Full));
        let long = vec![0; WAITING_BYTES + 1];
        let other = [9; 5];
        assert_eq!(
            fragments.later(&other, 0, range(8, 16), (0, &long), 0),
            Err(Refusal::Full)
        );
        for number in 0..WAYS as u64 - 2 {
            let key = [number + 100; 5];
            assert_eq!(fragments.first(&key, 0, 1, range(0, 8), 0), Ok(()));
        }
        assert_eq!(
            fragments.first(&[77; 5], 0, 1, range(0, 8), 0),
            Err(Refusal::Full)
        );
        let known = [100; 5];
        for number in 1..RANGES as u32 {
            let later = fragments.later(&known, 0, range(number * 8, number * 8 + 8), (0, b""), 0);
            assert_eq!(later, Ok(Later::Known(1)));
        }
        let more = fragments.later(&known, 0, range(8_000, 8_008), (0, b""), 0);
        assert_eq!(more, Err(Refusal::Full));
    }
}
