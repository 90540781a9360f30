//! A table in memory that outlives the process: the flows of an earlier one go on (F9).
//!
//! Only the slots are there. Index, free lists and counts follow from them, so that a process that is killed at any
//! instruction leaves nothing to mend but the slots it was about to fill or to empty, which are free again. What it
//! decided means nothing to the next one, whose tables number things anew: such decisions are [`INHERITED`](crate::INHERITED).

use std::fmt;

use super::{FlowTable, share};
use crate::slot::{Direction, Slot, State};
use crate::slots::Slots;
use crate::sync::{AtomicU64, Ordering};

/// "podflow" and the layout's version: it changes with whatever a slot's words mean, to the engine, too.
const MAGIC: u64 = u64::from_be_bytes(*b"podflow\x01");

/// Words before the first slot; a slot's size, for the alignment.
const HEADER: usize = size_of::<Slot>() / size_of::<u64>();

/// What a table found in the memory that it was lent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Resumed {
    /// So many flows, which go on.
    Flows(usize),
    /// None that it could use.
    Empty(Foreign),
}

/// Why memory holds no flows that can go on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Foreign {
    /// It is no table's yet, or one's of another layout.
    Layout,
    /// It is a table of another size.
    Size,
    /// Its times are of another clock.
    Clock,
}

impl fmt::Display for Foreign {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Foreign::Layout => "there is none of this version",
            Foreign::Size => "it has another size",
            Foreign::Clock => "it is from before the machine started",
        })
    }
}

impl FlowTable {
    /// How many words of memory [`FlowTable::resume`] needs.
    ///
    /// # Panics
    /// As [`FlowTable::new`].
    pub fn words(capacity: usize, workers: usize) -> usize {
        HEADER + share(capacity, workers) * workers * HEADER
    }

    /// A table that lives in `memory`, with the flows that an earlier one has left there, if it was like this one.
    ///
    /// `clock` names the clock that times are of. Decisions that were found have the sequence number [`INHERITED`](crate::INHERITED), and
    /// words of the earlier process, or zeros if it died while it wrote them. Nobody else may use the memory.
    ///
    /// # Panics
    /// As [`FlowTable::new`], and if the memory has another length or begins at an address that 128 does not divide.
    pub fn resume(
        memory: &'static [AtomicU64],
        (capacity, workers): (usize, usize),
        seed: u64,
        clock: [u64; 2],
    ) -> (FlowTable, Resumed) {
        let share = share(capacity, workers);
        let words = FlowTable::words(capacity, workers);
        assert_eq!(memory.len(), words, "words of memory");
        let (header, body) = memory.split_at(HEADER);
        let slots = Slots::lent(body).expect("memory at a multiple of 128 bytes");
        let wanted = [MAGIC, slots.len() as u64, clock[0], clock[1]];
        let foreign = foreign(header, wanted);
        if foreign.is_some() {
            // In this order: a process that dies half-way leaves no header.
            header[0].store(0, Ordering::Release);
            body.iter()
                .for_each(|word| word.store(0, Ordering::Relaxed));
            for place in (0..wanted.len()).rev() {
                header[place].store(wanted[place], Ordering::Release);
            }
        }
        let table = FlowTable::over(slots, share, seed);
        table.take_over();
        let resumed = match foreign {
            Some(foreign) => Resumed::Empty(foreign),
            None => Resumed::Flows(table.len()),
        };
        (table, resumed)
    }

    /// Enters live flows in the index, and frees all other slots.
    fn take_over(&self) {
        for own in &self.partitions {
            for slot in own.range().rev() {
                let meta = self.slots[slot as usize].meta();
                let lives = meta.state() == State::Live && self.index_again(slot).is_some();
                match lives {
                    true => own.inherit(meta.phase()),
                    false => own.free(&self.slots, slot),
                }
            }
        }
    }

    /// Enters both keys of a slot; `None`, and neither, if there is no room for them.
    fn index_again(&self, slot: u32) -> Option<()> {
        let found = &self.slots[slot as usize];
        let [original, reply] = found.own_keys();
        let hashes = [self.hash(&original), self.hash(&reply)];
        let place = |direction: Direction| {
            let hash = hashes[direction as usize];
            self.index.place(hash, slot, direction).ok()
        };
        place(Direction::Original)?;
        if original != reply && place(Direction::Reply).is_none() {
            self.index.clear(hashes[0], slot, Direction::Original);
            return None;
        }
        found.inherit();
        Some(())
    }
}

fn foreign(header: &[AtomicU64], wanted: [u64; 4]) -> Option<Foreign> {
    let found: [u64; 4] = std::array::from_fn(|word| header[word].load(Ordering::Acquire));
    match (found[0] == wanted[0], found[1] == wanted[1]) {
        (false, _) => Some(Foreign::Layout),
        (true, false) => Some(Foreign::Size),
        (true, true) => (found[2..] != wanted[2..]).then_some(Foreign::Clock),
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use proptest::prelude::*;

    use super::*;
    use crate::{Decision, INHERITED, NewFlow, Phase, Refused};

    const SIZE: (usize, usize) = (64, 2);
    const CLOCK: [u64; 2] = [3, 4];

    fn memory() -> &'static [AtomicU64] {
        let words = FlowTable::words(SIZE.0, SIZE.1);
        let room = (0..words + HEADER).map(|_| AtomicU64::new(0));
        let room = Vec::leak(room.collect::<Vec<_>>());
        let start = room.as_ptr().align_offset(align_of::<Slot>());
        &room[start..start + words]
    }

    fn resume(memory: &'static [AtomicU64], seed: u64) -> (Arc<FlowTable>, Resumed) {
        let (table, resumed) = FlowTable::resume(memory, SIZE, seed, CLOCK);
        (Arc::new(table), resumed)
    }

    fn flow(number: u64) -> NewFlow {
        NewFlow {
            original: [0, number, 0, 0, 1],
            reply: [0, number, 0, 0, 2],
            decision: Decision {
                words: [number; 4],
                sequence: 500,
            },
            tracking: number as u32,
        }
    }

    #[test]
    fn f9_flows_go_on_by_both_keys_with_what_was_tracked_and_when_they_were_seen() {
        let memory = memory();
        let (first, resumed) = resume(memory, 1);
        assert_eq!(resumed, Resumed::Empty(Foreign::Layout));
        for number in 0..6 {
            let worker = (number % 2) as usize;
            let handle = first
                .share(worker)
                .insert(&flow(number), 1_000)
                .expect("room");
            if number < 3 {
                first.answered(handle).expect("alive");
            }
        }
        drop(first);
        let (second, resumed) = resume(memory, 2);
        assert_eq!(resumed, Resumed::Flows(6));
        assert_eq!((second.len(), second.embryonic()), (6, 3));
        for number in 0..6 {
            let NewFlow {
                original, reply, ..
            } = flow(number);
            let hit = second.lookup(&reply, second.hash(&reply)).expect("a flow");
            assert_eq!((hit.other, hit.tracking), (original, number as u32));
            let inherited = Decision {
                words: [number; 4],
                sequence: INHERITED,
            };
            assert_eq!(hit.decision, Some(inherited));
            let again = second.share(0).insert(&flow(number), 1_000);
            assert!(matches!(again, Err(Refused::Exists(_))));
        }
        let idle_ms = |_: u32, phase: Phase| match phase {
            Phase::Embryonic => 500,
            Phase::Answered => 5_000,
        };
        let swept = [0, 1].map(|worker| second.share(worker).sweep(64, 2_000, idle_ms));
        assert_eq!(swept.iter().sum::<usize>(), 3, "time went on meanwhile");
        assert_eq!(second.len(), 3);
    }

    #[test]
    fn f9_another_size_version_or_clock_starts_empty() {
        let memory = memory();
        let fill = |seed| {
            let (table, resumed) = resume(memory, seed);
            let _ = table.share(0).insert(&flow(1), 0);
            resumed
        };
        fill(1);
        assert_eq!(fill(1), Resumed::Flows(1));
        memory[0].store(MAGIC + 1, Ordering::Relaxed);
        assert_eq!(fill(1), Resumed::Empty(Foreign::Layout));
        memory[1].store(65, Ordering::Relaxed);
        assert_eq!(fill(1), Resumed::Empty(Foreign::Size));
        let (table, resumed) = FlowTable::resume(memory, SIZE, 1, [3, 5]);
        assert_eq!((resumed, table.len()), (Resumed::Empty(Foreign::Clock), 0));
        Arc::new(table).share(0).insert(&flow(1), 0).expect("room");
    }

    #[test]
    fn f9_a_decision_that_was_being_written_is_lost_and_its_flow_is_not() {
        let memory = memory();
        let (first, _) = resume(memory, 1);
        let handle = first.share(0).insert(&flow(7), 0).expect("room");
        let newer = Decision {
            words: [8; 4],
            sequence: 501,
        };
        first.slots[handle.slot as usize].decide(&newer, |_| {
            // Here it dies.
            let (second, resumed) = resume(memory, 1);
            assert_eq!(resumed, Resumed::Flows(1));
            let found = second.iter().next().expect("a flow").decision;
            let lost = Decision {
                words: [0; 4],
                sequence: INHERITED,
            };
            assert_eq!(found, Some(lost));
            false
        });
    }

    proptest! {
        /// A kill at any instruction leaves some prefix of its stores; no bits whatever do harm.
        #[test]
        fn f9_whatever_a_kill_leaves_no_slot_is_lost_and_none_is_in_two_places(
            states in prop::collection::vec((0u64..8, 0u64..2, any::<u32>()), 64),
        ) {
            let memory = memory();
            drop(resume(memory, 1));
            let slots = Slots::lent(&memory[HEADER..]).expect("slots");
            for (number, (slot, (state, embryonic, tracking))) in slots.iter().zip(&states).enumerate() {
                let NewFlow { original, reply, decision, .. } = flow(number as u64);
                slot.fill([&original, &reply], &decision, *tracking, 0);
                let word = &memory[HEADER + number * HEADER];
                word.store(state << 32 | embryonic << 35 | u64::from(*tracking), Ordering::Relaxed);
            }
            let live = states.iter().filter(|(state, _, _)| *state == State::Live as u64);
            let embryonic = live.clone().filter(|(_, embryonic, _)| *embryonic == 1).count();
            let live = live.count();
            let (table, resumed) = resume(memory, 3);
            prop_assert_eq!(resumed, Resumed::Flows(live));
            prop_assert_eq!((table.len(), table.embryonic()), (live, embryonic));
            let swept: usize = [0, 1].map(|worker| table.share(worker).sweep(64, 0, |_, _| 0)).iter().sum();
            prop_assert_eq!(swept, live);
            for number in 0..64 {
                let handle = table.share((number % 2) as usize).insert(&flow(1_000 + number), 0);
                table.answered(handle.expect("every slot can be taken")).expect("alive");
            }
            prop_assert_eq!(table.share(0).insert(&flow(9_999), 0), Err(Refused::Full));
        }
    }
}
