//! Hands immutable snapshots from one thread that makes them to many that read them.
//!
//! Readers look at one atomic number per batch and take the lock only when it has changed. The publisher keeps every
//! retired snapshot until no reader can hold it: memory is given back on the publisher's thread, never on a reader's.

use std::collections::VecDeque;
use std::fmt;
use std::mem;

use crossbeam_utils::CachePadded;

use crate::sync::{Arc, AtomicU64, Mutex, Ordering};

/// A reader that holds nothing counts as if it were ahead of every publication.
const OFFLINE: u64 = u64::MAX;

/// The publishing side: it belongs to control.
pub struct Publication<T> {
    shared: Arc<Shared<T>>,
    sequence: u64,
    retired: VecDeque<(u64, Arc<T>)>,
}

/// The reading side: it belongs to one worker.
pub struct Reader<T> {
    shared: Arc<Shared<T>>,
    index: usize,
    /// 0 while nothing is held.
    sequence: u64,
    held: Option<Arc<T>>,
}

struct Shared<T> {
    /// Of the current value; published values count from 1 up.
    sequence: CachePadded<AtomicU64>,
    current: Mutex<(u64, Arc<T>)>,
    /// By reader: the sequence of what it holds, or [`OFFLINE`].
    reached: Box<[CachePadded<AtomicU64>]>,
}

impl<T> Publication<T> {
    /// Publishes `first` as number 1, and makes the readers, who hold nothing until they first ask.
    pub fn new(first: Arc<T>, readers: usize) -> (Publication<T>, Vec<Reader<T>>) {
        let shared = Arc::new(Shared {
            sequence: CachePadded::new(AtomicU64::new(1)),
            current: Mutex::new((1, first)),
            reached: (0..readers)
                .map(|_| CachePadded::new(AtomicU64::new(OFFLINE)))
                .collect(),
        });
        let readers = (0..readers).map(|index| Reader {
            shared: shared.clone(),
            index,
            sequence: 0,
            held: None,
        });
        let readers = readers.collect();
        let publication = Publication {
            shared,
            sequence: 1,
            retired: VecDeque::new(),
        };
        (publication, readers)
    }

    /// Makes `value` the current one and gives its number, for [`Publication::reached`].
    ///
    /// Retired values pile up as long as a reader neither moves on nor sleeps: who wants a bound on them waits for
    /// the last number to be reached before publishing again.
    pub fn publish(&mut self, value: Arc<T>) -> u64 {
        let retired = self.sequence;
        self.sequence += 1;
        let mut current = self.shared.current.lock().expect("no reader panics inside");
        let (_, old) = mem::replace(&mut *current, (self.sequence, value));
        self.shared.sequence.store(self.sequence, Ordering::Release);
        drop(current);
        self.retired.push_back((retired, old));
        self.collect();
        self.sequence
    }

    /// True once every reader holds publication `sequence` or a later one, or sleeps.
    pub fn reached(&self, sequence: u64) -> bool {
        self.slowest() >= sequence
    }

    /// Drops what no reader can hold any more, and says how many retired values are left.
    pub fn collect(&mut self) -> usize {
        let slowest = self.slowest();
        while self.retired.front().is_some_and(|old| old.0 < slowest) {
            self.retired.pop_front();
        }
        self.retired.len()
    }

    fn slowest(&self) -> u64 {
        let reached = self.shared.reached.iter();
        reached
            .map(|sequence| sequence.load(Ordering::Acquire))
            .min()
            .unwrap_or(OFFLINE)
    }
}

impl<T> Reader<T> {
    /// The current value; call it once per batch, since it is what tells the publisher that the last one is done with.
    #[inline]
    pub fn latest(&mut self) -> &T {
        if self.shared.sequence.load(Ordering::Acquire) != self.sequence {
            self.renew();
        }
        self.held.as_deref().expect("renewed above")
    }

    /// Runs `sleep` while holding nothing, so that nobody waits for this reader.
    pub fn offline<R>(&mut self, sleep: impl FnOnce() -> R) -> R {
        self.release();
        sleep()
    }

    #[cold]
    fn renew(&mut self) {
        let current = self
            .shared
            .current
            .lock()
            .expect("no publisher panics inside");
        let (sequence, value) = &*current;
        self.sequence = *sequence;
        self.held = Some(value.clone());
        // Still under the lock: a reader that comes back must be seen before the next publication retires this value.
        self.shared.reached[self.index].store(*sequence, Ordering::Release);
    }

    fn release(&mut self) {
        self.held = None;
        self.sequence = 0;
        self.shared.reached[self.index].store(OFFLINE, Ordering::Release);
    }
}

impl<T> Drop for Reader<T> {
    fn drop(&mut self) {
        self.release();
    }
}

impl<T> fmt::Debug for Publication<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (sequence, retired) = (self.sequence, self.retired.len());
        write!(f, "Publication({sequence}, {retired} retired)")
    }
}

impl<T> fmt::Debug for Reader<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Reader({} at {})", self.index, self.sequence)
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::atomic::AtomicUsize;
    use std::thread;

    use super::*;

    #[test]
    fn retired_values_live_until_the_slowest_reader_moves_on() {
        let first = Arc::new(1);
        let weak = Arc::downgrade(&first);
        let (mut publication, mut readers) = Publication::new(first, 2);
        let mut slow = readers.pop().expect("reader");
        let mut fast = readers.pop().expect("reader");
        assert_eq!((*slow.latest(), *fast.latest()), (1, 1));
        let second = publication.publish(Arc::new(2));
        assert_eq!((second, *fast.latest()), (2, 2));
        assert!(!publication.reached(second) && publication.reached(1));
        assert_eq!((publication.collect(), weak.strong_count()), (1, 2));
        assert_eq!(*slow.latest(), 2);
        assert_eq!(weak.strong_count(), 1, "the publisher's");
        assert!(publication.reached(second));
        assert_eq!((publication.collect(), weak.strong_count()), (0, 0));
    }

    #[test]
    fn nobody_waits_for_a_reader_that_sleeps_or_is_gone() {
        let (mut publication, mut readers) = Publication::new(Arc::new(1), 2);
        drop(readers.pop());
        let mut sleeper = readers.pop().expect("reader");
        assert!(publication.reached(1), "held nothing so far");
        assert_eq!(*sleeper.latest(), 1);
        let second = publication.publish(Arc::new(2));
        assert!(!publication.reached(second));
        sleeper.offline(|| {
            assert!(publication.reached(second));
            assert_eq!(publication.collect(), 0);
        });
        assert_eq!(*sleeper.latest(), 2);
    }

    /// Counts drops on other threads than its maker's.
    struct Homesick(thread::ThreadId, Arc<AtomicUsize>);

    impl Drop for Homesick {
        fn drop(&mut self) {
            if thread::current().id() != self.0 {
                self.1.fetch_add(1, Ordering::Relaxed);
            }
        }
    }

    #[test]
    fn only_the_publisher_drops() {
        let abroad = Arc::new(AtomicUsize::new(0));
        let value = || Arc::new(Homesick(thread::current().id(), abroad.clone()));
        let (mut publication, readers) = Publication::new(value(), 3);
        let done = AtomicUsize::new(0);
        thread::scope(|scope| {
            for mut reader in readers {
                let done = &done;
                scope.spawn(move || {
                    while done.load(Ordering::Relaxed) == 0 {
                        for _ in 0..10 {
                            reader.latest();
                        }
                        reader.offline(thread::yield_now);
                    }
                });
            }
            for _ in 0..5_000 {
                publication.publish(value());
            }
            done.store(1, Ordering::Relaxed);
        });
        assert_eq!(publication.collect(), 0);
        assert_eq!(abroad.load(Ordering::Relaxed), 0);
    }
}
