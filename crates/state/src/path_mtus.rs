//! What routers said of paths on which less fits than on our own wire: the largest packet for each target, for a while.
//!
//! Bounded: sets of a few slots, of which the oldest makes room. Reading is lock-free, and one load while nothing is
//! known; writing is rare, and one at a time.

use crate::sync::{AtomicU32, AtomicU64, Mutex, Ordering, fence};

/// Slots of a set; a model's are few.
#[cfg(not(loom))]
const WAYS: usize = 8;
#[cfg(loom)]
const WAYS: usize = 2;
/// The bit of a slot's value that says that there is one.
const KNOWN: u64 = 1 << 63;

/// Whom a path leads to, in words of whoever asks.
pub type Target = [u64; 2];

/// The path MTUs that are known.
pub struct PathMtus {
    sets: Box<[[Slot; WAYS]]>,
    lifetime_ms: u32,
    /// How many slots are taken.
    known: AtomicU32,
    /// Held by who writes: the set that is swept next.
    writing: Mutex<usize>,
}

/// What is known of one path; `turn` is odd while it is written.
struct Slot {
    turn: AtomicU32,
    words: [AtomicU64; 3],
}

/// A path on which less fits.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PathMtu {
    /// Whom it leads to.
    pub target: Target,
    /// The largest packet that fits, in bytes.
    pub mtu: u16,
    /// When that was learnt.
    since_ms: u32,
}

impl PathMtu {
    /// How long ago it was learnt, in milliseconds.
    pub fn age_ms(&self, now_ms: u32) -> u32 {
        now_ms.wrapping_sub(self.since_ms)
    }
}

impl PathMtus {
    /// Room for this many paths, rounded up to a power of two of at least 8; each is forgotten `lifetime_ms` after it was
    /// last heard of (RFC 1191, 6.3; RFC 8201, 5.3).
    pub fn new(paths: usize, lifetime_ms: u32) -> PathMtus {
        let sets = paths.div_ceil(WAYS).next_power_of_two();
        PathMtus {
            sets: (0..sets)
                .map(|_| std::array::from_fn(|_| Slot::new()))
                .collect(),
            lifetime_ms,
            known: AtomicU32::new(0),
            writing: Mutex::new(0),
        }
    }

    /// True while nothing is known of any path.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.known.load(Ordering::Relaxed) == 0
    }

    /// The largest packet for this target, if less fits on its path; `hash` is the target's.
    ///
    /// A slot that is being written is passed over: the packet at hand then goes as if nothing were known yet.
    pub fn of(&self, target: Target, hash: u64, now_ms: u32) -> Option<u16> {
        let mut paths = self.set(hash).iter().filter_map(Slot::read);
        let path = paths.find(|path| path.target == target)?;
        self.is_in_force(&path, now_ms).then_some(path.mtu)
    }

    /// Notes that packets to this target may have so many bytes at most; true if fewer than what was known.
    ///
    /// A path is never widened by what is said of it, only by time; to hear the same again keeps it.
    pub fn lower(&self, target: Target, hash: u64, mtu: u16, now_ms: u32) -> bool {
        let path = PathMtu {
            target,
            mtu,
            since_ms: now_ms,
        };
        let _writing = self.writing.lock();
        let set = self.set(hash);
        let known = set
            .iter()
            .find_map(|slot| Some((slot, slot.read()?)).filter(|(_, it)| it.target == target));
        if let Some((slot, before)) = known {
            let is_over = !self.is_in_force(&before, now_ms);
            if is_over || mtu <= before.mtu {
                slot.write(Some(path));
            }
            return is_over || mtu < before.mtu;
        }
        let free = set.iter().find(|slot| slot.read().is_none());
        if free.is_some() {
            self.known.fetch_add(1, Ordering::Relaxed);
        }
        let age = |slot: &&Slot| slot.read().map_or(u32::MAX, |path| path.age_ms(now_ms));
        let slot = free.or_else(|| set.iter().max_by_key(age));
        slot.expect("a set has slots").write(Some(path));
        true
    }

    /// Forgets those of one set that are over; after as many calls as there are sets, all are gone through.
    pub fn sweep(&self, now_ms: u32) {
        if self.is_empty() {
            return;
        }
        let Ok(mut next) = self.writing.lock() else {
            return;
        };
        *next = (*next + 1) % self.sets.len();
        for slot in &self.sets[*next] {
            if slot.read().is_some_and(|it| !self.is_in_force(&it, now_ms)) {
                slot.write(None);
                self.known.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }

    /// All that is known.
    pub fn iter(&self, now_ms: u32) -> impl Iterator<Item = PathMtu> {
        let slots = self.sets.iter().flatten();
        let paths = slots.filter_map(Slot::read);
        paths.filter(move |path| self.is_in_force(path, now_ms))
    }

    /// How long what is known counts, in milliseconds.
    pub fn lifetime_ms(&self) -> u32 {
        self.lifetime_ms
    }

    fn is_in_force(&self, path: &PathMtu, now_ms: u32) -> bool {
        path.age_ms(now_ms) < self.lifetime_ms
    }

    fn set(&self, hash: u64) -> &[Slot; WAYS] {
        &self.sets[hash as usize & (self.sets.len() - 1)]
    }
}

impl Slot {
    fn new() -> Slot {
        Slot {
            turn: AtomicU32::new(0),
            words: std::array::from_fn(|_| AtomicU64::new(0)),
        }
    }

    /// What is here; nothing, too, while it is written.
    fn read(&self) -> Option<PathMtu> {
        let turn = self.turn.load(Ordering::Acquire);
        let [high, low, value] = self.words.each_ref().map(|it| it.load(Ordering::Relaxed));
        fence(Ordering::Acquire);
        let is_whole = turn.is_multiple_of(2) && self.turn.load(Ordering::Relaxed) == turn;
        (is_whole && value & KNOWN != 0).then_some(PathMtu {
            target: [high, low],
            mtu: (value >> 32) as u16,
            since_ms: value as u32,
        })
    }

    /// Writes what is here, for one thread at a time.
    fn write(&self, path: Option<PathMtu>) {
        let words = path.map_or([0; 3], |path| {
            let [high, low] = path.target;
            let value = KNOWN | u64::from(path.mtu) << 32 | u64::from(path.since_ms);
            [high, low, value]
        });
        let turn = self.turn.load(Ordering::Relaxed);
        self.turn.store(turn.wrapping_add(1), Ordering::Relaxed);
        fence(Ordering::Release);
        for (place, word) in self.words.iter().zip(words) {
            place.store(word, Ordering::Relaxed);
        }
        self.turn.store(turn.wrapping_add(2), Ordering::Release);
    }
}

impl std::fmt::Debug for PathMtus {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "PathMtus(room for {})", self.sets.len() * WAYS)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const LIFETIME_MS: u32 = 600_000;
    const TARGET: Target = [1, 2];

    #[test]
    fn r6_a_path_is_as_narrow_as_was_last_said_until_its_time_is_over() {
        // The clock wraps meanwhile.
        let start = u32::MAX - 1_000;
        let paths = PathMtus::new(64, LIFETIME_MS);
        assert!(paths.is_empty());
        assert_eq!(paths.of(TARGET, 5, start), None);
        assert!(paths.lower(TARGET, 5, 1_400, start));
        assert!(!paths.is_empty());
        assert_eq!(paths.of(TARGET, 5, start), Some(1_400));
        assert_eq!(paths.of([1, 3], 5, start), None, "another target");
        assert!(!paths.lower(TARGET, 5, 1_450, start), "it is not widened");
        assert_eq!(paths.of(TARGET, 5, start), Some(1_400));
        let later = start.wrapping_add(2_000);
        assert!(paths.lower(TARGET, 5, 1_300, later));
        let last = later.wrapping_add(LIFETIME_MS - 1);
        assert_eq!(paths.of(TARGET, 5, last), Some(1_300));
        let over = later.wrapping_add(LIFETIME_MS);
        assert_eq!(paths.of(TARGET, 5, over), None);
        assert!(paths.lower(TARGET, 5, 1_480, over), "it grew in between");
        assert_eq!(paths.of(TARGET, 5, over), Some(1_480));
    }

    #[test]
    fn r6_to_hear_the_same_again_keeps_a_path_and_to_hear_more_does_not() {
        let paths = PathMtus::new(8, LIFETIME_MS);
        paths.lower(TARGET, 0, 1_400, 0);
        assert!(!paths.lower(TARGET, 0, 1_400, LIFETIME_MS - 1));
        assert!(!paths.lower(TARGET, 0, 1_401, LIFETIME_MS));
        assert_eq!(paths.of(TARGET, 0, 2 * LIFETIME_MS - 2), Some(1_400));
        assert_eq!(paths.of(TARGET, 0, 2 * LIFETIME_MS - 1), None);
    }

    #[test]
    fn r6_room_is_bounded_and_the_oldest_goes_first() {
        let paths = PathMtus::new(1, LIFETIME_MS);
        for number in 0..=WAYS as u64 {
            paths.lower([0, number], 7, 1_400, number as u32);
        }
        let known = |number: u64| paths.of([0, number], 7, 100).is_some();
        assert!(!known(0), "it was the oldest");
        assert!((1..=WAYS as u64).all(known));
        assert_eq!(paths.iter(100).count(), WAYS);
    }

    #[test]
    fn r6_what_is_over_is_swept_away() {
        let paths = PathMtus::new(64, LIFETIME_MS);
        for number in 0..16 {
            paths.lower([0, number], number, 1_400, number as u32 / 8 * 1_000);
        }
        let sweep_all = |now_ms| (0..8).for_each(|_| paths.sweep(now_ms));
        sweep_all(LIFETIME_MS);
        assert_eq!(paths.iter(1_000).count(), 8);
        assert!(!paths.is_empty());
        sweep_all(LIFETIME_MS + 1_000);
        assert!(paths.is_empty());
        assert_eq!(paths.iter(1_000).count(), 0);
    }
}
