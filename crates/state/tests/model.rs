//! The flow table against a naive one: a list of flows, searched from end to end.
#![cfg(not(loom))]

use std::sync::Arc;

use podway_state::{
    Decision, Direction, FlowTable, Gone, Handle, Key, NewFlow, Phase, Refused, Tracked,
};
use proptest::collection::vec;
use proptest::prelude::*;

const WORKERS: usize = 2;
const SHARE: usize = 16;
const TIMEOUT_MS: u32 = 1000;

/// Few keys, so that flows meet; flows are named by their age, so that handles of old ones are tried too.
#[derive(Clone, Debug)]
enum Step {
    Insert {
        worker: usize,
        original: u64,
        reply: u64,
    },
    Lookup {
        key: u64,
    },
    Answered {
        flow: usize,
    },
    Track {
        flow: usize,
        expected: u32,
        new: u32,
    },
    Decide {
        flow: usize,
        sequence: u32,
    },
    Touch {
        flow: usize,
    },
    Remove {
        flow: usize,
    },
    Wait {
        ms: u32,
    },
    Sweep {
        worker: usize,
    },
}

fn step() -> impl Strategy<Value = Step> {
    let (worker, key, flow) = (0..WORKERS, 0..24u64, 0..48usize);
    prop_oneof![
        6 => (worker.clone(), key.clone(), key.clone())
            .prop_map(|(worker, original, reply)| Step::Insert { worker, original, reply }),
        4 => key.prop_map(|key| Step::Lookup { key }),
        3 => flow.clone().prop_map(|flow| Step::Answered { flow }),
        1 => (flow.clone(), 0..3u32, 0..3u32)
            .prop_map(|(flow, expected, new)| Step::Track { flow, expected, new }),
        1 => (flow.clone(), 0..4u32).prop_map(|(flow, sequence)| Step::Decide { flow, sequence }),
        2 => flow.clone().prop_map(|flow| Step::Touch { flow }),
        1 => flow.prop_map(|flow| Step::Remove { flow }),
        1 => (0..TIMEOUT_MS).prop_map(|ms| Step::Wait { ms }),
        1 => worker.prop_map(|worker| Step::Sweep { worker }),
    ]
}

/// A flow of the naive table; all that ever were are kept.
#[derive(Clone, Copy, Debug)]
struct Known {
    handle: Handle,
    worker: usize,
    original: u64,
    reply: u64,
    decision: Decision,
    tracking: u32,
    phase: Phase,
    seen_ms: u32,
    life: Life,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Life {
    Live,
    Dead,
    Swept,
}

#[derive(Default)]
struct Naive {
    flows: Vec<Known>,
}

impl Naive {
    fn find(&self, key: u64) -> Option<(&Known, Direction)> {
        let mut live = self.flows.iter().filter(|flow| flow.life == Life::Live);
        live.find_map(|flow| match key {
            key if key == flow.original => Some((flow, Direction::Original)),
            key if key == flow.reply => Some((flow, Direction::Reply)),
            _ => None,
        })
    }

    fn live(&mut self, flow: usize) -> Result<&mut Known, Gone> {
        let flow = self.flows.get_mut(flow).ok_or(Gone)?;
        if flow.life == Life::Live {
            Ok(flow)
        } else {
            Err(Gone)
        }
    }

    fn taken(&self, worker: usize) -> impl Iterator<Item = &Known> {
        let taken = self.flows.iter().filter(|flow| flow.life != Life::Swept);
        taken.filter(move |flow| flow.worker == worker)
    }

    fn refusal(&self, worker: usize, original: u64, reply: u64) -> Option<Refused> {
        if self.find(original).is_some() {
            return None;
        }
        let embryonic = self
            .taken(worker)
            .filter(|flow| flow.phase == Phase::Embryonic);
        match (
            self.find(reply),
            self.taken(worker).count(),
            embryonic.count(),
        ) {
            (Some(_), _, _) => Some(Refused::ReplyClash),
            (_, taken, _) if taken == SHARE => Some(Refused::Full),
            (_, _, embryonic) if embryonic == SHARE / 4 => Some(Refused::EmbryonicQuota),
            _ => None,
        }
    }
}

fn key(number: u64) -> Key {
    [number % 3, 0, number, 0, 6]
}

fn check(table: &FlowTable, naive: &Naive, number: u64) {
    let key_words = key(number);
    let hit = table.lookup(&key_words, table.hash(&key_words));
    match (hit, naive.find(number)) {
        (None, None) => {}
        (Some(hit), Some((flow, direction))) => {
            let other = match direction {
                Direction::Original => flow.reply,
                Direction::Reply => flow.original,
            };
            assert_eq!((hit.flow, hit.direction), (flow.handle, direction));
            assert_eq!((hit.other, hit.decision), (key(other), Some(flow.decision)));
            assert_eq!((hit.tracking, hit.phase), (flow.tracking, flow.phase));
        }
        (hit, known) => panic!("{number}: {hit:?}, not {known:?}"),
    }
}

fn run(steps: Vec<Step>, seed: u64) {
    let table = Arc::new(FlowTable::new(WORKERS * SHARE, WORKERS, seed));
    let mut naive = Naive::default();
    let mut now_ms = u32::MAX - 2 * TIMEOUT_MS;
    for step in steps {
        match step {
            Step::Insert {
                worker,
                original,
                reply,
            } => {
                let decision = Decision {
                    words: [original, reply, 3, 4],
                    sequence: 1,
                };
                let (original_key, reply_key) = (key(original), key(reply));
                let new = NewFlow {
                    original: original_key,
                    reply: reply_key,
                    decision,
                    tracking: 0,
                };
                let refusal = naive.refusal(worker, original, reply);
                match (table.share(worker).insert(&new, now_ms), refusal) {
                    (Err(Refused::Exists(hit)), None) => {
                        let (flow, direction) = naive.find(original).expect("no other reason");
                        assert_eq!((hit.flow, hit.direction), (flow.handle, direction));
                    }
                    (Ok(handle), None) if naive.find(original).is_none() => {
                        naive.flows.push(Known {
                            handle,
                            worker,
                            original,
                            reply,
                            decision,
                            tracking: 0,
                            phase: Phase::Embryonic,
                            seen_ms: now_ms,
                            life: Life::Live,
                        });
                    }
                    (result, refusal) => assert_eq!(result.err(), refusal),
                }
            }
            Step::Lookup { key } => check(&table, &naive, key),
            Step::Wait { ms } => now_ms = now_ms.wrapping_add(ms),
            Step::Sweep { worker } => {
                let swept = table.share(worker).sweep(SHARE, now_ms, |_, _| TIMEOUT_MS);
                let before = naive.taken(worker).count();
                for flow in naive.flows.iter_mut().filter(|flow| flow.worker == worker) {
                    let idle_ms = now_ms.wrapping_sub(flow.seen_ms);
                    if flow.life == Life::Dead || idle_ms >= TIMEOUT_MS {
                        flow.life = Life::Swept;
                    }
                }
                assert_eq!(swept, before - naive.taken(worker).count());
            }
            Step::Answered { flow }
            | Step::Track { flow, .. }
            | Step::Decide { flow, .. }
            | Step::Touch { flow }
            | Step::Remove { flow } => {
                // A flow that never was has no handle to try.
                let Some(handle) = naive.flows.get(flow).map(|flow| flow.handle) else {
                    continue;
                };
                change(&table, handle, naive.live(flow), &step, now_ms);
            }
        }
    }
    (0..24).for_each(|number| check(&table, &naive, number));
    let taken = |worker| naive.taken(worker).count();
    assert_eq!(table.len(), (0..WORKERS).map(taken).sum::<usize>());
    let live = naive
        .flows
        .iter()
        .filter(|flow| flow.life == Life::Live)
        .count();
    assert_eq!(table.iter().count(), live);
    (0..WORKERS).for_each(|worker| _ = table.share(worker).sweep(SHARE, now_ms, |_, _| 0));
    assert_eq!((table.len(), table.embryonic()), (0, 0));
}

/// A step on one flow, in the table and in its naive copy.
fn change(
    table: &FlowTable,
    handle: Handle,
    known: Result<&mut Known, Gone>,
    step: &Step,
    now_ms: u32,
) {
    match *step {
        Step::Answered { .. } => {
            let known = known.map(|flow| flow.phase = Phase::Answered);
            assert_eq!(table.answered(handle), known);
        }
        Step::Track { expected, new, .. } => {
            let tracked = match known {
                Err(Gone) => Tracked::Gone,
                Ok(flow) if flow.tracking != expected => Tracked::Changed(flow.tracking),
                Ok(flow) => {
                    flow.tracking = new;
                    Tracked::Done
                }
            };
            assert_eq!(table.track(handle, expected, new), tracked);
        }
        Step::Decide { sequence, .. } => {
            let decision = Decision {
                words: [sequence.into(); 4],
                sequence,
            };
            let known = known.map(|flow| {
                if sequence > flow.decision.sequence {
                    flow.decision = decision;
                }
            });
            assert_eq!(table.set_decision(handle, &decision), known);
        }
        Step::Touch { .. } => {
            // A stale handle may touch the slot's next flow: that is allowed, and not modelled.
            if let Ok(flow) = known {
                table.touch(handle, now_ms);
                if now_ms.wrapping_sub(flow.seen_ms) >= 64 {
                    flow.seen_ms = now_ms;
                }
            }
        }
        Step::Remove { .. } => {
            let known = known.map(|flow| flow.life = Life::Dead);
            assert_eq!(table.remove(handle), known);
        }
        Step::Insert { .. } | Step::Lookup { .. } | Step::Wait { .. } | Step::Sweep { .. } => {
            unreachable!("not on one flow")
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, ..ProptestConfig::default() })]

    #[test]
    fn the_table_does_what_a_list_would(steps in vec(step(), 1..300), seed: u64) {
        run(steps, seed);
    }
}
