//! How slots come back: idle flows end, dead ones leave the index, and their slots can be taken again.

use super::{FlowTable, Share};
use crate::slot::{Direction, Phase, State};

impl Share {
    /// Looks at the next `budget` slots, and says how many it freed.
    ///
    /// `timeout_ms` says how long a flow with this tracking word may be idle.
    pub fn sweep(
        &self,
        budget: usize,
        now_ms: u32,
        timeout_ms: impl Fn(u32, Phase) -> u32,
    ) -> usize {
        let (own, table) = (self.own(), self.table());
        let mut freed = 0;
        for _ in 0..budget.min(own.size()) {
            let slot = own.next_to_sweep();
            table.expire(slot, now_ms, &timeout_ms);
            let is_dead = table.slots[slot as usize].meta().state() == State::Dead;
            if is_dead && self.bury(slot).is_some() {
                freed += 1;
            }
        }
        freed
    }

    /// Takes a dead slot out of the index and empties it; `None`, until the next sweep, if its decision is being written.
    pub(super) fn bury(&self, slot: u32) -> Option<()> {
        let (own, table) = (self.own(), self.table());
        let dead = &table.slots[slot as usize];
        dead.close()?;
        if dead.meta().phase() == Phase::Embryonic {
            own.relieve();
        }
        let [original, reply] = dead.own_keys();
        let index = &table.index;
        index.clear(table.hash(&original), slot, Direction::Original);
        index.clear(table.hash(&reply), slot, Direction::Reply);
        own.give_back(&table.slots, slot);
        Some(())
    }
}

impl FlowTable {
    fn expire(&self, slot: u32, now_ms: u32, timeout_ms: &impl Fn(u32, Phase) -> u32) {
        let slot = &self.slots[slot as usize];
        let meta = slot.meta();
        if meta.state() != State::Live {
            return;
        }
        // Another worker's clock may be a little ahead of ours.
        let idle_ms = now_ms.wrapping_sub(slot.seen()).cast_signed().max(0);
        if idle_ms.cast_unsigned() >= timeout_ms(meta.tracking(), meta.phase()) {
            // It fails if the flow is being tracked right now, which shows that it is not idle.
            let _ = slot.exchange(meta, meta.in_state(State::Dead));
        }
    }
}

#[cfg(all(test, not(loom)))]
mod tests {
    use std::sync::Arc;

    use crate::{Decision, FlowTable, NewFlow, Phase, Refused};

    const NEVER: fn(u32, Phase) -> u32 = |_, _| u32::MAX;
    const AT_ONCE: fn(u32, Phase) -> u32 = |_, _| 0;

    fn flow(number: u64) -> NewFlow {
        NewFlow {
            original: [0, number, 0, 0, 1],
            reply: [0, number, 0, 0, 2],
            decision: Decision {
                words: [number; 4],
                sequence: 1,
            },
            tracking: 0,
        }
    }

    /// The bound on memory and the shortness of the window go together: this is what they cost.
    #[test]
    fn a_full_table_has_room_for_every_key_and_is_empty_again_after_a_sweep() {
        let table = Arc::new(FlowTable::new(1 << 16, 2, 7));
        for round in 0..3 {
            for number in 0..1 << 16 {
                let worker = (number % 2) as usize;
                let inserted = table.share(worker).insert(&flow(number << 2 | round), 0);
                table.answered(inserted.expect("room")).expect("alive");
            }
            assert_eq!(
                table.share(0).insert(&flow(u64::MAX), 0),
                Err(Refused::Full)
            );
            let (entries, displaced) = table.index.load();
            assert_eq!((table.len(), entries), (1 << 16, 2 << 16));
            assert!(displaced < entries / 6, "{displaced} of {entries}");
            assert_eq!(table.share(0).sweep(usize::MAX, 0, NEVER), 0);
            for worker in 0..2 {
                assert_eq!(table.share(worker).sweep(usize::MAX, 0, AT_ONCE), 1 << 15);
            }
            assert_eq!((table.len(), table.index.load()), (0, (0, 0)));
        }
    }

    #[test]
    fn a_sweep_goes_on_where_the_last_one_stopped() {
        let table = Arc::new(FlowTable::new(64, 1, 7));
        for number in 0..16 {
            table.share(0).insert(&flow(number), 0).expect("room");
        }
        let freed = [5, 5, 5, 5].map(|budget| table.share(0).sweep(budget, 0, AT_ONCE));
        assert_eq!((freed, table.embryonic()), ([5, 5, 5, 1], 0));
    }

    #[test]
    fn a_flow_whose_decision_is_being_written_is_buried_later() {
        let table = Arc::new(FlowTable::new(4, 1, 7));
        let handle = table.share(0).insert(&flow(1), 0).expect("room");
        let newer = Decision {
            words: [9; 4],
            sequence: 2,
        };
        table.slots[0].decide(&newer, |_| {
            assert_eq!(table.remove(handle), Ok(()));
            assert_eq!(table.share(0).sweep(4, 0, NEVER), 0);
            true
        });
        assert_eq!((table.share(0).sweep(4, 0, NEVER), table.len()), (1, 0));
    }
}
