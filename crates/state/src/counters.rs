//! Counters that one thread each writes and anybody sums.

use std::cell::Cell;
use std::marker::PhantomData;
use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::owners::Owners;
use crate::sync::{AtomicU64, Ordering};

const LINE: usize = 16;

/// A row of counters for each worker, in cache lines of its own.
#[derive(Debug)]
pub struct Counters {
    lines: Box<[CachePadded<[AtomicU64; LINE]>]>,
    lines_per_worker: usize,
    count: usize,
    owners: Owners,
}

/// A worker's row, to count in; nobody else can write it, so that additions are a load and a store, without a bus lock.
#[derive(Debug)]
pub struct Row {
    counters: Arc<Counters>,
    worker: usize,
    /// It may go to another thread, but not be used by two.
    of_one_thread: PhantomData<Cell<()>>,
}

impl Counters {
    /// `count` counters for each of `workers`, all 0.
    pub fn new(workers: usize, count: usize) -> Counters {
        let lines_per_worker = count.div_ceil(LINE);
        Counters {
            lines: (0..workers * lines_per_worker)
                .map(|_| CachePadded::new(std::array::from_fn(|_| AtomicU64::new(0))))
                .collect(),
            lines_per_worker,
            count,
            owners: Owners::new(workers),
        }
    }

    /// A worker's row; the next one can have it when it is dropped.
    ///
    /// # Panics
    /// If there is no such worker, or if its row is another's.
    pub fn row(self: &Arc<Counters>, worker: usize) -> Row {
        self.owners.take(worker);
        Row {
            counters: self.clone(),
            worker,
            of_one_thread: PhantomData,
        }
    }

    /// One worker's counter.
    ///
    /// # Panics
    /// If there is no such worker or counter.
    #[inline]
    pub fn of(&self, worker: usize, counter: usize) -> u64 {
        self.cell(worker, counter).load(Ordering::Relaxed)
    }

    /// One counter, summed over the workers.
    ///
    /// # Panics
    /// If there is no such counter.
    pub fn total(&self, counter: usize) -> u64 {
        (0..self.workers()).fold(0, |sum: u64, worker| {
            sum.wrapping_add(self.of(worker, counter))
        })
    }

    /// All counters in order, each summed over the workers.
    pub fn totals(&self) -> Vec<u64> {
        (0..self.count).map(|counter| self.total(counter)).collect()
    }

    /// How many workers have a row.
    pub fn workers(&self) -> usize {
        match self.lines_per_worker {
            0 => 0,
            lines => self.lines.len() / lines,
        }
    }

    #[inline]
    fn cell(&self, worker: usize, counter: usize) -> &AtomicU64 {
        assert!(counter < self.count, "no counter {counter}");
        &self.lines[worker * self.lines_per_worker + counter / LINE][counter % LINE]
    }
}

impl Row {
    /// Adds `amount` to a counter.
    ///
    /// # Panics
    /// If there is no such counter.
    #[inline]
    pub fn add(&self, counter: usize, amount: u64) {
        let cell = self.counters.cell(self.worker, counter);
        let sum = cell.load(Ordering::Relaxed).wrapping_add(amount);
        cell.store(sum, Ordering::Relaxed);
    }
}

impl Drop for Row {
    fn drop(&mut self) {
        self.counters.owners.give_back(self.worker);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn rows_are_apart_and_totals_are_their_sums() {
        let counters = Arc::new(Counters::new(3, 20));
        let [first, _, third] = [0, 1, 2].map(|worker| counters.row(worker));
        first.add(19, 2);
        third.add(19, 40);
        third.add(0, 1);
        assert_eq!(counters.workers(), 3);
        assert_eq!((counters.of(0, 19), counters.of(1, 19)), (2, 0));
        let mut totals = vec![0; 20];
        (totals[0], totals[19]) = (1, 42);
        assert_eq!(counters.totals(), totals);
        assert_eq!(Counters::new(4, 0).totals(), []);
    }

    #[test]
    #[should_panic(expected = "no counter 20")]
    fn a_counter_that_does_not_exist_is_not_a_neighbours() {
        Arc::new(Counters::new(2, 20)).row(0).add(20, 1);
    }

    #[test]
    fn a_row_that_was_dropped_is_the_next_ones() {
        let counters = Arc::new(Counters::new(1, 1));
        (0..2).for_each(|_| counters.row(0).add(0, 1));
        assert_eq!(counters.total(0), 2);
    }

    #[test]
    #[should_panic(expected = "worker 1's part is another's")]
    fn no_two_have_one_row() {
        let counters = Arc::new(Counters::new(2, 1));
        let _rows = [counters.row(1), counters.row(1)];
    }

    #[test]
    fn what_other_threads_read_only_grows() {
        let counters = Arc::new(Counters::new(2, 1));
        std::thread::scope(|scope| {
            for row in [0, 1].map(|worker| counters.row(worker)) {
                scope.spawn(move || (0..100_000).for_each(|_| row.add(0, 1)));
            }
            let mut last = 0;
            while last < 200_000 {
                let total = counters.total(0);
                assert!(total >= last);
                last = total;
            }
        });
    }
}
