//! One flow in two cache lines, written by few and copied whole by anyone.
//!
//! A slot goes `Empty → Busy → Pending → Live → Dead → Empty`. Only its owner takes it and gives it back; anyone may
//! kill it. Two sequence locks guard what readers copy: `meta` (incarnation and state) guards the keys, and `decided`
//! guards the decision, which changes under a flow's feet whenever it is judged again.

use crate::sync::{AtomicU32, AtomicU64, Ordering, fence};

/// How many words a key has; one in loom's models, which try every value that each load could give.
const KEY_WORDS: usize = if cfg!(loom) { 1 } else { 5 };

/// How many words a decision has.
const DECISION_WORDS: usize = if cfg!(loom) { 2 } else { 4 };

/// A flow's key in one direction, as words that are equal for equal keys only.
pub type Key = [u64; KEY_WORDS];

/// Which of a flow's two keys a packet carries.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Direction {
    /// The first packet's.
    Original,
    /// The answer's.
    Reply,
}

/// Whether a flow has been answered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// Not yet: it counts against the quota.
    Embryonic,
    /// It has.
    Answered,
}

/// What was decided about a flow: words that only the engine reads, as of a snapshot.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// The decision.
    pub words: [u64; DECISION_WORDS],
    /// The sequence number of the snapshot that it follows from, below `u32::MAX`.
    pub sequence: u32,
}

/// The sequence number of a decision that an earlier process made, whose snapshots nobody has: none has this number.
pub const INHERITED: u32 = 0;

/// In `decided`: someone is writing the decision, or there is none.
const UNDECIDED: u32 = u32::MAX;

/// A slot's state; the values are part of the table's layout.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum State {
    /// In the free list.
    Empty = 0,
    /// Its owner writes it.
    Busy = 1,
    /// Written, in the index, and claiming its keys; a rival may kill it.
    Pending = 2,
    /// A flow.
    Live = 3,
    /// Not a flow any more; its owner will take it out of the index.
    Dead = 4,
}

/// The word that decides all races: tracking (32 bits), state (3), embryonic (1), incarnation (28).
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) struct Meta(u64);

impl Meta {
    const STATE: u64 = 0b111 << 32;
    const EMBRYONIC: u64 = 1 << 35;
    const INCARNATION: u64 = 1 << 36;

    pub(crate) fn state(self) -> State {
        match (self.0 & Meta::STATE) >> 32 {
            0 => State::Empty,
            1 => State::Busy,
            2 => State::Pending,
            3 => State::Live,
            _ => State::Dead,
        }
    }

    /// [`State::Live`], asked for every packet.
    #[inline(always)]
    fn is_live(self) -> bool {
        self.0 & Meta::STATE == (State::Live as u64) << 32
    }

    /// True if the flow and its state are the same, whatever was noted of it.
    #[inline(always)]
    fn is_same(self, before: Meta) -> bool {
        let noted = u64::from(u32::MAX) | Meta::EMBRYONIC;
        (self.0 ^ before.0) & !noted == 0
    }

    pub(crate) fn phase(self) -> Phase {
        match self.0 & Meta::EMBRYONIC {
            0 => Phase::Answered,
            _ => Phase::Embryonic,
        }
    }

    pub(crate) fn tracking(self) -> u32 {
        self.0 as u32
    }

    pub(crate) fn incarnation(self) -> u32 {
        (self.0 >> 36) as u32
    }

    pub(crate) fn in_state(self, state: State) -> Meta {
        Meta(self.0 & !Meta::STATE | (state as u64) << 32)
    }

    pub(crate) fn answered(self) -> Meta {
        Meta(self.0 & !Meta::EMBRYONIC)
    }

    pub(crate) fn tracked(self, tracking: u32) -> Meta {
        Meta(self.0 & !u64::from(u32::MAX) | u64::from(tracking))
    }

    /// The next flow's in this slot: busy, embryonic, another incarnation.
    fn next(self, tracking: u32) -> Meta {
        let incarnation = self.0.wrapping_add(Meta::INCARNATION) & !(Meta::INCARNATION - 1);
        Meta(incarnation | Meta::EMBRYONIC)
            .in_state(State::Busy)
            .tracked(tracking)
    }

    /// True while the keys are complete and stand for something.
    fn claims(self) -> bool {
        match self.state() {
            State::Pending | State::Live => true,
            State::Empty | State::Busy | State::Dead => false,
        }
    }
}

/// A consistent copy of a slot whose state is pending or live.
#[derive(Clone, Copy)]
pub(crate) struct Contents {
    pub(crate) meta: Meta,
    pub(crate) seen: u32,
    /// By [`Direction`].
    pub(crate) keys: [Key; 2],
    /// `None` while someone was writing it.
    pub(crate) decision: Option<Decision>,
}

/// Room for one flow: 128 bytes, no pointers.
#[repr(C, align(128))]
pub(crate) struct Slot {
    meta: AtomicU64,
    /// When the last packet came, in milliseconds, wrapping.
    seen: AtomicU32,
    /// The decision's sequence number, or [`UNDECIDED`].
    decided: AtomicU32,
    keys: [[AtomicU64; KEY_WORDS]; 2],
    decision: [AtomicU64; DECISION_WORDS],
}

#[cfg(not(loom))]
const _: () = assert!(size_of::<Slot>() == 128);

impl Slot {
    /// An empty slot, in no free list.
    pub(crate) fn new() -> Slot {
        let word = |_| AtomicU64::new(0);
        Slot {
            meta: AtomicU64::new(0),
            seen: AtomicU32::new(0),
            decided: AtomicU32::new(UNDECIDED),
            keys: std::array::from_fn(|_| std::array::from_fn(word)),
            decision: std::array::from_fn(word),
        }
    }

    /// Makes a live flow's decision one that an earlier process made; words that it died writing become 0.
    #[cfg(not(loom))]
    pub(crate) fn inherit(&self) {
        if self.decided.load(Ordering::Relaxed) == UNDECIDED {
            store(&self.decision, &[0; DECISION_WORDS]);
        }
        self.decided.store(INHERITED, Ordering::Relaxed);
    }

    #[inline]
    pub(crate) fn meta(&self) -> Meta {
        Meta(self.meta.load(Ordering::Acquire))
    }

    /// Changes `meta` if it still is `from`; otherwise gives what it is.
    pub(crate) fn exchange(&self, from: Meta, to: Meta) -> Result<(), Meta> {
        self.meta
            .compare_exchange(from.0, to.0, Ordering::AcqRel, Ordering::Acquire)
            .map(drop)
            .map_err(Meta)
    }

    #[inline]
    pub(crate) fn seen(&self) -> u32 {
        self.seen.load(Ordering::Relaxed)
    }

    #[inline]
    pub(crate) fn see(&self, now: u32) {
        self.seen.store(now, Ordering::Relaxed);
    }

    /// A consistent copy; `None` if it is neither pending nor live, or became another flow meanwhile.
    #[inline]
    pub(crate) fn contents(&self) -> Option<Contents> {
        let before = self.meta();
        if !before.claims() {
            return None;
        }
        let sequence = self.decided.load(Ordering::Acquire);
        let keys = [load(&self.keys[0]), load(&self.keys[1])];
        let words = load(&self.decision);
        let seen = self.seen();
        fence(Ordering::Acquire);
        let settled = self.decided.load(Ordering::Relaxed) == sequence && sequence != UNDECIDED;
        // Acquired: who finds the flow live finds its other key too.
        let meta = self.meta();
        (meta.claims() && meta.incarnation() == before.incarnation()).then_some(Contents {
            meta,
            seen,
            keys,
            decision: settled.then_some(Decision { words, sequence }),
        })
    }

    /// The rest of a live flow whose key of this direction is `key`: the other key, and the decision as in [`Contents`].
    #[inline(always)]
    pub(crate) fn matching(
        &self,
        key: &Key,
        direction: Direction,
    ) -> Option<(Meta, Key, Option<Decision>)> {
        let before = self.meta();
        if !before.is_live() {
            return None;
        }
        let (own, other) = match direction {
            Direction::Original => (&self.keys[0], &self.keys[1]),
            Direction::Reply => (&self.keys[1], &self.keys[0]),
        };
        let words = own.iter().zip(key);
        let differ = words.fold(0, |differ, (own, word)| {
            differ | own.load(Ordering::Relaxed) ^ word
        });
        if differ != 0 {
            return None;
        }
        let sequence = self.decided.load(Ordering::Acquire);
        let other = load(other);
        let words = load(&self.decision);
        fence(Ordering::Acquire);
        let settled = self.decided.load(Ordering::Relaxed) == sequence && sequence != UNDECIDED;
        let meta = Meta(self.meta.load(Ordering::Relaxed));
        let lives = meta.is_same(before);
        let decision = settled.then_some(Decision { words, sequence });
        lives.then_some((meta, other, decision))
    }

    /// The owner's: writes a flow into an empty slot and makes it pending.
    pub(crate) fn fill(&self, keys: [&Key; 2], decision: &Decision, tracking: u32, now: u32) {
        assert_ne!(decision.sequence, UNDECIDED, "sequences stay below it");
        let busy = self.meta().next(tracking);
        self.meta.store(busy.0, Ordering::Relaxed);
        // Whoever reads a word written below must find that the slot is busy, or later, when looking again.
        fence(Ordering::Release);
        store(&self.keys[0], keys[0]);
        store(&self.keys[1], keys[1]);
        store(&self.decision, &decision.words);
        self.see(now);
        self.decided.store(decision.sequence, Ordering::Relaxed);
        let pending = busy.in_state(State::Pending);
        self.meta.store(pending.0, Ordering::Release);
    }

    /// The owner's: the keys of a slot that it has filled.
    pub(crate) fn own_keys(&self) -> [Key; 2] {
        [load(&self.keys[0]), load(&self.keys[1])]
    }

    /// The owner's: keeps everyone from writing the decision of a dead slot; `None` if someone is at it right now.
    pub(crate) fn close(&self) -> Option<()> {
        let sequence = self.decided.load(Ordering::Relaxed);
        (sequence != UNDECIDED).then_some(())?;
        self.lock_decision(sequence)
    }

    /// The owner's: empties a dead, closed slot and links it to the next one of the free list.
    pub(crate) fn empty(&self, next_free: u32) {
        let empty = self.meta().answered().in_state(State::Empty);
        self.meta.store(empty.0, Ordering::Relaxed);
        fence(Ordering::Release);
        self.link().store(next_free.into(), Ordering::Relaxed);
    }

    /// The owner's: the next slot of the free list, of one that is empty.
    pub(crate) fn next_free(&self) -> u32 {
        self.link().load(Ordering::Relaxed) as u32
    }

    /// Replaces the decision of the flow that `is_current` recognises, unless it is as recent already or being written.
    pub(crate) fn decide(&self, decision: &Decision, is_current: impl Fn(Meta) -> bool) {
        assert_ne!(decision.sequence, UNDECIDED, "sequences stay below it");
        let sequence = self.decided.load(Ordering::Relaxed);
        if sequence >= decision.sequence || self.lock_decision(sequence).is_none() {
            return;
        }
        // The slot can't be emptied while we hold the lock, so that this holds until the end.
        if !is_current(self.meta()) {
            self.decided.store(sequence, Ordering::Release);
            return;
        }
        fence(Ordering::Release);
        store(&self.decision, &decision.words);
        self.decided.store(decision.sequence, Ordering::Release);
    }

    fn lock_decision(&self, sequence: u32) -> Option<()> {
        self.decided
            .compare_exchange(sequence, UNDECIDED, Ordering::Acquire, Ordering::Relaxed)
            .ok()
            .map(drop)
    }

    /// Links the free list through a word that only the owner writes.
    fn link(&self) -> &AtomicU64 {
        &self.keys[0][0]
    }
}

#[inline(always)]
fn load<const N: usize>(words: &[AtomicU64; N]) -> [u64; N] {
    std::array::from_fn(|word| words[word].load(Ordering::Relaxed))
}

#[inline(always)]
fn store<const N: usize>(words: &[AtomicU64; N], values: &[u64; N]) {
    for (word, value) in words.iter().zip(values) {
        word.store(*value, Ordering::Relaxed);
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    const KEYS: [&Key; 2] = [&[1; 5], &[2; 5]];

    fn decision(sequence: u32) -> Decision {
        Decision {
            words: [u64::from(sequence); 4],
            sequence,
        }
    }

    #[test]
    fn meta_keeps_its_parts_apart() {
        let meta = Meta(u64::MAX).next(7);
        assert_eq!((meta.incarnation(), meta.tracking()), (0, 7), "it wraps");
        assert_eq!(
            (meta.state(), meta.phase()),
            (State::Busy, Phase::Embryonic)
        );
        let meta = meta
            .answered()
            .tracked(u32::MAX)
            .in_state(State::Dead)
            .next(0);
        assert_eq!((meta.incarnation(), meta.tracking()), (1, 0));
        assert_eq!(
            (meta.state(), meta.phase()),
            (State::Busy, Phase::Embryonic)
        );
    }

    #[test]
    fn decisions_only_get_newer_and_only_the_current_flows_change() {
        let slot = Slot::new();
        assert!(slot.contents().is_none());
        slot.fill(KEYS, &decision(5), 0, 0);
        let decided = || slot.contents().expect("pending").decision;
        slot.decide(&decision(5), |_| panic!("no newer"));
        slot.decide(&decision(6), |_| false);
        assert_eq!(decided(), Some(decision(5)));
        slot.decide(&decision(7), |meta| meta.incarnation() == 1);
        assert_eq!(decided(), Some(decision(7)));
        slot.decide(&decision(9), |_| {
            assert_eq!(decided(), None, "while it is written");
            assert_eq!(slot.close(), None);
            slot.decide(&decision(10), |_| panic!("one at a time"));
            true
        });
        assert_eq!(decided(), Some(decision(9)));
        assert_eq!(slot.close(), Some(()));
        slot.decide(&decision(11), |_| panic!("closed"));
    }
}
