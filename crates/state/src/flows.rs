//! The flow table: remembered decisions, found by either of a flow's two keys, shared by all workers without locks.
//!
//! Each worker takes and gives back slots of its own [`Share`] only, whose size is the capacity divided by the workers.
//! Everything else may be done to any flow by anyone who has its handle; a handle of a flow that is gone does nothing.
//! Times are milliseconds of one clock that may wrap; timeouts stay below 2^31 ms (24 days).

mod insert;
#[cfg(not(loom))]
mod resume;
mod sweep;

use std::cell::Cell;
use std::fmt;
use std::marker::PhantomData;
use std::ptr::NonNull;
use std::sync::Arc;

use crossbeam_utils::CachePadded;

use crate::hash::Seed;
use crate::index::Index;
use crate::owners::Owners;
use crate::partition::Partition;
use crate::slot::{Decision, Direction, Key, Meta, Phase, State};
use crate::slots::Slots;

#[cfg(not(loom))]
pub use self::resume::{Foreign, Resumed};

/// How stale the time of a flow's last packet may be, in milliseconds: it saves writes to a shared cache line.
const TICK_MS: u32 = 64;

/// The most workers that can share a table.
const MAX_WORKERS: usize = 128;

/// All flows of a node.
pub struct FlowTable {
    seed: Seed,
    index: Index,
    slots: Slots,
    partitions: Box<[CachePadded<Partition>]>,
    owners: Owners,
}

/// A worker's share of the table: flows are remembered in it, and those that are over swept out of it, by nobody else.
#[derive(Debug)]
pub struct Share {
    table: Arc<FlowTable>,
    worker: usize,
    /// It may go to another thread, but not be used by two.
    of_one_thread: PhantomData<Cell<()>>,
}

/// Names one flow for as long as it lives; of no effect afterwards.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Handle {
    slot: u32,
    incarnation: u32,
}

/// What the table knows of a packet's flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Hit {
    /// The flow.
    pub flow: Handle,
    /// Which of the flow's keys was looked up.
    pub direction: Direction,
    /// The flow's key of the other direction: its reverse is what this packet must look like when it leaves.
    pub other: Key,
    /// What was decided; `None` while another worker is judging the flow again, so that this packet must be judged anew.
    pub decision: Option<Decision>,
    /// The tracking word.
    pub tracking: u32,
    /// Whether it was answered.
    pub phase: Phase,
}

/// A flow to remember; it starts out embryonic.
#[derive(Clone, Copy, Debug)]
pub struct NewFlow {
    /// The key of packets like the first one.
    pub original: Key,
    /// The key that answers will have.
    pub reply: Key,
    /// What was decided.
    pub decision: Decision,
    /// The tracking word, which belongs to the engine.
    pub tracking: u32,
}

/// Why a flow was not remembered.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refused {
    /// The worker's share of the table is full.
    Full,
    /// A quarter of the worker's share waits for an answer.
    EmbryonicQuota,
    /// The original key belongs to this flow, maybe since a moment ago: treat the packet as this hit.
    Exists(Hit),
    /// The reply key belongs to another flow, whose answers would be mistaken.
    ReplyClash,
    /// Other workers claimed the same keys again and again.
    Contested,
}

/// There is no such flow any more.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gone;

/// What became of an attempt to change a tracking word.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tracked {
    /// It is changed.
    Done,
    /// It was this, not what was expected.
    Changed(u32),
    /// There is no such flow any more.
    Gone,
}

/// A copy of one flow, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flow {
    /// The flow.
    pub flow: Handle,
    /// The key of packets like the first one.
    pub original: Key,
    /// The key of answers.
    pub reply: Key,
    /// What was decided; `None` while it is being judged again.
    pub decision: Option<Decision>,
    /// The tracking word.
    pub tracking: u32,
    /// Whether it was answered.
    pub phase: Phase,
    /// When its last packet came, in milliseconds, up to 64 too early.
    pub seen_ms: u32,
}

impl FlowTable {
    /// A table for `capacity` flows, rounded up to a power of two, at 160 bytes each; `seed` is random and secret.
    ///
    /// # Panics
    /// If there are no workers, more than 128, more than flows, or more than 2^30 flows.
    pub fn new(capacity: usize, workers: usize, seed: u64) -> FlowTable {
        let share = share(capacity, workers);
        let table = FlowTable::over(Slots::own(share * workers), share, seed);
        for own in &table.partitions {
            own.range()
                .rev()
                .for_each(|slot| own.free(&table.slots, slot));
        }
        table
    }

    /// A table over these slots, so many for each worker, with nothing in its index and its free lists.
    fn over(slots: Slots, share: usize, seed: u64) -> FlowTable {
        let workers = slots.len() / share;
        let range = |worker: usize| (worker * share) as u32..((worker + 1) * share) as u32;
        let partitions = (0..workers).map(|worker| CachePadded::new(Partition::new(range(worker))));
        FlowTable {
            seed: Seed::new(seed),
            index: Index::new(slots.len().next_power_of_two()),
            partitions: partitions.collect(),
            owners: Owners::new(workers),
            slots,
        }
    }

    /// A worker's share; the next one can have it when it is dropped.
    ///
    /// # Panics
    /// If there is no such worker, or if its share is another's.
    pub fn share(self: &Arc<FlowTable>, worker: usize) -> Share {
        self.owners.take(worker);
        Share {
            table: self.clone(),
            worker,
            of_one_thread: PhantomData,
        }
    }

    /// Where its memory is: each packet reads a line or two of it at random, which huge pages make cheaper.
    pub fn memory(&self) -> [NonNull<[u8]>; 2] {
        [self.index.memory(), self.slots.memory()]
    }

    /// The hash of a key in this table.
    #[inline]
    pub fn hash(&self, key: &Key) -> u64 {
        self.seed.hash(key)
    }

    /// Starts to load the bucket of `hash`: a batch is looked up faster so.
    #[inline]
    pub fn prefetch(&self, hash: u64) {
        self.index.prefetch(hash);
    }

    /// The flow that packets with this key belong to; `hash` is the key's.
    #[inline]
    pub fn lookup(&self, key: &Key, hash: u64) -> Option<Hit> {
        debug_assert_eq!(hash, self.hash(key));
        self.index.find(hash, |slot, direction| {
            let (meta, other, decision) = self.slots[slot as usize].matching(key, direction)?;
            Some(hit(slot, direction, meta, (other, decision)))
        })
    }

    /// How long ago the flow's last packet came, in ms.
    pub fn idle_ms(&self, flow: Handle, now_ms: u32) -> u32 {
        // Without a look at the incarnation, and another worker's clock may be a little ahead of ours.
        let seen_ms = self.slots[flow.slot as usize].seen();
        let idle_ms = now_ms.wrapping_sub(seen_ms).cast_signed().max(0);
        idle_ms.cast_unsigned()
    }

    /// Notes that a packet of the flow came; writes nothing if one came just now.
    #[inline]
    pub fn touch(&self, flow: Handle, now_ms: u32) {
        // Without a look at the incarnation: at worst a newer flow looks as fresh as `now`.
        let slot = &self.slots[flow.slot as usize];
        if now_ms.wrapping_sub(slot.seen()).cast_signed() >= TICK_MS.cast_signed() {
            slot.see(now_ms);
        }
    }

    /// Replaces the tracking word if it is `expected`.
    pub fn track(&self, flow: Handle, expected: u32, new: u32) -> Tracked {
        match self.change(flow, |meta| {
            (meta.tracking() == expected).then(|| meta.tracked(new))
        }) {
            Ok(Ok(_)) => Tracked::Done,
            Ok(Err(unchanged)) => Tracked::Changed(unchanged.tracking()),
            Err(Gone) => Tracked::Gone,
        }
    }

    /// Notes that the flow was answered, which takes it out of the quota once.
    pub fn answered(&self, flow: Handle) -> Result<(), Gone> {
        let changed = self.change(flow, |meta| match meta.phase() {
            Phase::Embryonic => Some(meta.answered()),
            Phase::Answered => None,
        })?;
        if changed.is_ok() {
            self.owner(flow.slot).relieve();
        }
        Ok(())
    }

    /// Replaces the decision, or only its sequence, by a newer one.
    ///
    /// Fine, too, if another worker has put one there that is at least as new, or is about to.
    pub fn set_decision(&self, flow: Handle, decision: &Decision) -> Result<(), Gone> {
        self.current(flow)?;
        let is_current = |meta: Meta| flow.names(meta);
        self.slots[flow.slot as usize].decide(decision, is_current);
        Ok(())
    }

    /// Ends the flow; of all who try, one succeeds.
    pub fn remove(&self, flow: Handle) -> Result<(), Gone> {
        self.change(flow, |meta| Some(meta.in_state(State::Dead)))
            .map(drop)
    }

    /// A copy of each flow, consistent in itself; flows that come or go meanwhile may be in or not.
    pub fn iter(&self) -> impl Iterator<Item = Flow> {
        (0..).zip(self.slots.iter()).filter_map(|(slot, contents)| {
            let contents = contents.contents()?;
            let [original, reply] = contents.keys;
            (contents.meta.state() == State::Live).then(|| Flow {
                flow: handle(slot, contents.meta),
                original,
                reply,
                decision: contents.decision,
                tracking: contents.meta.tracking(),
                phase: contents.meta.phase(),
                seen_ms: contents.seen,
            })
        })
    }

    /// How many slots are taken: flows, and dead ones that are not swept yet.
    pub fn len(&self) -> usize {
        self.sum(Partition::used)
    }

    /// True if no slot is taken.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many of the taken slots have flows that were not answered.
    pub fn embryonic(&self) -> usize {
        self.sum(Partition::embryonic)
    }

    /// How many flows there is room for.
    pub fn capacity(&self) -> usize {
        self.slots.len()
    }

    /// Changes the flow's `meta` to what `change` makes of it; what it is if `change` makes nothing of it.
    fn change(
        &self,
        flow: Handle,
        change: impl Fn(Meta) -> Option<Meta>,
    ) -> Result<Result<Meta, Meta>, Gone> {
        let mut meta = self.current(flow)?;
        // Ends: whenever an exchange fails, another worker's has succeeded.
        while let Some(changed) = change(meta) {
            match self.slots[flow.slot as usize].exchange(meta, changed) {
                Ok(()) => return Ok(Ok(changed)),
                Err(now) if flow.names(now) => meta = now,
                Err(_) => return Err(Gone),
            }
        }
        Ok(Err(meta))
    }

    fn current(&self, flow: Handle) -> Result<Meta, Gone> {
        let meta = self.slots[flow.slot as usize].meta();
        flow.names(meta).then_some(meta).ok_or(Gone)
    }

    fn owner(&self, slot: u32) -> &Partition {
        &self.partitions[slot as usize / self.partitions[0].size()]
    }

    fn sum(&self, count: impl Fn(&Partition) -> u32) -> usize {
        let counts = self.partitions.iter().map(|partition| count(partition));
        counts.map(|count| count as usize).sum()
    }
}

impl Share {
    /// The whole table.
    #[inline]
    pub fn table(&self) -> &FlowTable {
        &self.table
    }

    fn own(&self) -> &Partition {
        &self.table.partitions[self.worker]
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.table.owners.give_back(self.worker);
    }
}

impl Handle {
    fn names(self, meta: Meta) -> bool {
        meta.state() == State::Live && meta.incarnation() == self.incarnation
    }
}

impl fmt::Debug for FlowTable {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "FlowTable({} of {})", self.len(), self.capacity())
    }
}

/// How many slots each worker has.
fn share(capacity: usize, workers: usize) -> usize {
    assert!((1..=MAX_WORKERS).contains(&workers), "{workers} workers");
    let capacity = capacity.next_power_of_two();
    assert!((workers..=1 << 30).contains(&capacity), "{capacity} flows");
    capacity / workers
}

fn handle(slot: u32, meta: Meta) -> Handle {
    let incarnation = meta.incarnation();
    Handle { slot, incarnation }
}

#[inline(always)]
fn hit(
    slot: u32,
    direction: Direction,
    meta: Meta,
    (other, decision): (Key, Option<Decision>),
) -> Hit {
    Hit {
        flow: handle(slot, meta),
        direction,
        other,
        decision,
        tracking: meta.tracking(),
        phase: meta.phase(),
    }
}
