//! Who has a worker's part of something that all workers share: nobody, or one.

// Not loom's: a part is taken before its worker's thread begins, and given back after it.
use std::sync::atomic::{AtomicBool, Ordering};

/// Whether each worker's part is taken.
#[derive(Debug)]
pub(crate) struct Owners(Box<[AtomicBool]>);

impl Owners {
    /// So many workers' parts, all free.
    pub(crate) fn new(workers: usize) -> Owners {
        Owners((0..workers).map(|_| AtomicBool::new(false)).collect())
    }

    /// Takes a worker's part.
    ///
    /// # Panics
    /// If there is no such worker, or if its part is taken.
    pub(crate) fn take(&self, worker: usize) {
        let taken = self.0[worker].swap(true, Ordering::Acquire);
        assert!(!taken, "worker {worker}'s part is another's");
    }

    /// Gives it back; whoever takes it next sees all that was written to it.
    pub(crate) fn give_back(&self, worker: usize) {
        self.0[worker].store(false, Ordering::Release);
    }
}
