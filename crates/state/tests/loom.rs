//! Every interleaving of two or three threads that matters, on tables small enough for that.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p podway-state --release --test loom --target-dir target/loom`
#![cfg(loom)]

use std::sync::Arc;

use loom::thread;
use podway_state::{
    Decision, FlowTable, Gone, Handle, Key, NewFlow, PathMtus, Phase, Publication, Refused, Tracked,
};

/// Enough preemptions for each known way to get this wrong; the models' sizes follow from it.
const PREEMPTIONS: usize = 3;

fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(PREEMPTIONS);
    builder.max_branches = 20_000;
    builder.check(run);
}

const fn key(number: u64) -> Key {
    [number]
}

fn decision(value: u64, sequence: u32) -> Decision {
    Decision {
        words: [value; 2],
        sequence,
    }
}

fn flow(original: u64, reply: u64, value: u64) -> NewFlow {
    NewFlow {
        original: key(original),
        reply: key(reply),
        decision: decision(value, 1),
        tracking: 0,
    }
}

/// What `key` finds: the decision, checked to be of one piece.
fn find(table: &FlowTable, number: u64) -> Option<(Handle, Key, Option<Decision>)> {
    let key = key(number);
    let hit = table.lookup(&key, table.hash(&key))?;
    assert!(hit.other.iter().all(|word| *word == hit.other[0]));
    let decision = hit.decision;
    assert!(decision.is_none_or(|one| one.words.iter().all(|word| *word == one.words[0])));
    Some((hit.flow, hit.other, decision))
}

fn insert_both(table: &Arc<FlowTable>, flows: [NewFlow; 2]) -> [Result<Handle, Refused>; 2] {
    let [first, second] = flows;
    let other = thread::spawn({
        let table = table.clone();
        move || table.share(1).insert(&second, 0)
    });
    let first = table.share(0).insert(&first, 0);
    [first, other.join().expect("no panic")]
}

/// BEHAVIOURS F12.
#[test]
fn two_workers_insert_one_flow_and_both_have_the_same() {
    model(|| {
        let table = Arc::new(FlowTable::new(2, 2, 1));
        let results = insert_both(&table, [flow(1, 2, 10), flow(1, 3, 20)]);
        let (winner, other, value) = match results {
            [Ok(flow), Err(Refused::Exists(hit))] if hit.flow == flow => (flow, 2, 10),
            [Err(Refused::Exists(hit)), Ok(flow)] if hit.flow == flow => (flow, 3, 20),
            otherwise => panic!("{otherwise:?}"),
        };
        let found = Some((winner, key(other), Some(decision(value, 1))));
        assert_eq!(find(&table, 1), found);
        assert_eq!(find(&table, other).map(|found| found.0), Some(winner));
        assert_eq!(find(&table, 5 - other), None, "neither direction");
        assert_eq!((table.len(), table.embryonic()), (1, 1));
    });
}

/// BEHAVIOURS S21.
#[test]
fn of_two_flows_with_one_reply_key_one_wins() {
    model(|| {
        let table = Arc::new(FlowTable::new(2, 2, 1));
        let results = insert_both(&table, [flow(1, 3, 10), flow(2, 3, 20)]);
        let (winner, original) = match results {
            [Ok(flow), Err(Refused::ReplyClash)] => (flow, 1),
            [Err(Refused::ReplyClash), Ok(flow)] => (flow, 2),
            otherwise => panic!("{otherwise:?}"),
        };
        assert_eq!(
            find(&table, 3).map(|found| (found.0, found.1)),
            Some((winner, key(original)))
        );
        assert_eq!(find(&table, original).map(|found| found.0), Some(winner));
        assert_eq!(find(&table, 3 - original), None);
        assert_eq!(table.len(), 1);
    });
}

/// The index's entries of the two stand in different places then, so that neither write meets the other.
#[test]
fn one_wins_also_when_an_older_flow_makes_room_for_one_of_them() {
    model(|| {
        let table = Arc::new(FlowTable::new(2, 2, 1));
        let older = table.share(0).insert(&flow(8, 9, 5), 0).expect("room");
        let other = thread::spawn({
            let table = table.clone();
            move || table.share(1).insert(&flow(1, 3, 20), 0)
        });
        table.remove(older).expect("alive");
        assert_eq!(table.share(0).sweep(1, 0, |_, _| u32::MAX), 1);
        match [
            table.share(0).insert(&flow(1, 2, 10), 0),
            other.join().expect("no panic"),
        ] {
            [Ok(flow), Err(Refused::Exists(hit))] | [Err(Refused::Exists(hit)), Ok(flow)] => {
                assert_eq!(hit.flow, flow);
            }
            otherwise => panic!("{otherwise:?}"),
        }
    });
}

#[test]
fn two_ends_that_call_each_other_share_one_flow() {
    model(|| {
        let table = Arc::new(FlowTable::new(2, 2, 1));
        match insert_both(&table, [flow(1, 2, 10), flow(2, 1, 20)]) {
            [Ok(flow), Err(Refused::Exists(hit))] | [Err(Refused::Exists(hit)), Ok(flow)] => {
                assert_eq!(hit.flow, flow);
            }
            otherwise => panic!("{otherwise:?}"),
        }
        assert_eq!(
            find(&table, 1).map(|found| found.0),
            find(&table, 2).map(|found| found.0)
        );
    });
}

#[test]
fn a_reader_never_sees_two_flows_in_one_while_a_slot_is_reused() {
    model(|| {
        let table = Arc::new(FlowTable::new(1, 1, 1));
        let first = table.share(0).insert(&flow(1, 2, 10), 0).expect("room");
        let reader = thread::spawn({
            let table = table.clone();
            move || find(&table, 1)
        });
        table.remove(first).expect("alive");
        assert_eq!(table.share(0).sweep(1, 0, |_, _| u32::MAX), 1);
        let second = table.share(0).insert(&flow(1, 3, 20), 0).expect("room");
        match reader.join().expect("no panic") {
            None => {}
            Some((flow, other, decided)) if flow == first => {
                assert_eq!(other, key(2));
                assert!(decided.is_none_or(|one| one == decision(10, 1)));
            }
            Some((flow, other, decided)) => {
                assert_eq!((flow, other), (second, key(3)));
                assert_eq!(decided, Some(decision(20, 1)));
            }
        }
    });
}

#[test]
fn a_reader_sees_a_whole_decision_or_none() {
    model(|| {
        let table = Arc::new(FlowTable::new(1, 1, 1));
        let handle = table.share(0).insert(&flow(1, 2, 1), 0).expect("room");
        let writers = [2, 3].map(|sequence| {
            let table = table.clone();
            thread::spawn(move || {
                let newer = decision(sequence.into(), sequence);
                table.set_decision(handle, &newer).expect("alive");
            })
        });
        let (_, _, seen) = find(&table, 2).expect("alive");
        assert!(seen.is_none_or(|one| one.words[0] == one.sequence.into()));
        for writer in writers {
            writer.join().expect("no panic");
        }
        let (_, _, last) = find(&table, 2).expect("alive");
        assert!(last.is_some_and(|one| one.sequence > 1 && one.words[0] == one.sequence.into()));
    });
}

#[test]
fn a_late_worker_changes_nothing_of_the_slots_next_flow() {
    model(|| {
        let table = Arc::new(FlowTable::new(1, 1, 1));
        let first = table.share(0).insert(&flow(1, 2, 10), 0).expect("room");
        let late = thread::spawn({
            let table = table.clone();
            move || {
                let _ = table.set_decision(first, &decision(11, 2));
                table.track(first, 0, 7)
            }
        });
        table.remove(first).expect("alive");
        // The late one may be writing the decision just now, and the slot then waits.
        if table.share(0).sweep(1, 0, |_, _| u32::MAX) == 0 {
            late.join().expect("no panic");
            assert_eq!(table.share(0).sweep(1, 0, |_, _| u32::MAX), 1);
            return;
        }
        table.share(0).insert(&flow(1, 3, 20), 0).expect("room");
        late.join().expect("no panic");
        assert_eq!(
            find(&table, 1).map(|found| found.2),
            Some(Some(decision(20, 1)))
        );
        assert_eq!(table.iter().next().map(|flow| flow.tracking), Some(0));
    });
}

#[test]
fn a_flow_is_answered_once_tracked_once_and_removed_once() {
    model(|| {
        let table = Arc::new(FlowTable::new(1, 1, 1));
        let handle = table.share(0).insert(&flow(1, 2, 10), 0).expect("room");
        let both = || {
            let answered = table.answered(handle);
            (answered, table.track(handle, 0, 1), table.remove(handle))
        };
        let other = thread::spawn({
            let table = table.clone();
            move || {
                (
                    table.answered(handle),
                    table.track(handle, 0, 1),
                    table.remove(handle),
                )
            }
        });
        let (first, second) = (both(), other.join().expect("no panic"));
        let tracked = [first.1, second.1];
        assert_eq!(
            tracked.iter().filter(|one| **one == Tracked::Done).count(),
            1
        );
        let removed = [first.2, second.2];
        assert_eq!(removed.iter().filter(|one| **one == Err(Gone)).count(), 1);
        assert_eq!(table.embryonic(), 0);
        assert_eq!(table.share(0).sweep(1, 0, |_, _: Phase| u32::MAX), 1);
        assert_eq!((table.len(), table.embryonic()), (0, 0));
    });
}

/// May be dropped by its maker only.
struct Homesick(u64, thread::ThreadId);

impl Drop for Homesick {
    fn drop(&mut self) {
        assert_eq!(thread::current().id(), self.1);
    }
}

#[test]
fn readers_move_on_sleep_and_come_back_and_never_drop_the_last() {
    model(|| {
        let value = |number| loom::sync::Arc::new(Homesick(number, thread::current().id()));
        let (mut publication, mut readers) = Publication::new(value(1), 1);
        let mut reader = readers.pop().expect("one");
        let reading = thread::spawn(move || {
            let first = reader.latest().0;
            let second = reader.latest().0;
            reader.offline(|| ());
            let third = reader.latest().0;
            ([first, second, third], reader)
        });
        for number in 2..=3 {
            assert_eq!(publication.publish(value(number)), number);
            let reached = publication.reached(number);
            let retired = publication.collect();
            assert!(retired < number as usize && !(reached && retired > 0));
        }
        let (seen, mut reader) = reading.join().expect("no panic");
        assert!(seen.is_sorted());
        assert_eq!(reader.latest().0, 3);
        assert!(publication.reached(3));
        assert_eq!(publication.collect(), 0);
    });
}

/// R6: what is read of a path is what somebody wrote of that path, never half of it.
#[test]
fn a_path_mtu_is_read_whole_or_not_at_all() {
    model(|| {
        let paths = Arc::new(PathMtus::new(2, 10));
        paths.lower([1, 1], 0, 1_301, 1);
        paths.lower([2, 2], 0, 1_302, 2);
        let other = thread::spawn({
            let paths = paths.clone();
            // The first of the full set makes room.
            move || paths.lower([3, 3], 0, 1_303, 3)
        });
        for number in [1, 3] {
            let read = paths.of([number; 2], 0, 3);
            assert!(read.is_none_or(|mtu| u64::from(mtu) == 1_300 + number));
        }
        assert!(other.join().expect("no panic"));
        let known = [1, 2, 3].map(|number| paths.of([number; 2], 0, 3));
        assert_eq!(known, [None, Some(1_302), Some(1_303)]);
    });
}
