//! The flow table by one thread: what each operation does and refuses.
#![cfg(not(loom))]

use std::sync::Arc;

use podway_state::{
    Decision, Direction, Flow, FlowTable, Gone, Handle, Hit, Key, NewFlow, Phase, Refused, Tracked,
};

const CLIENT: Key = [0, 1, 0, 2, 10];
const ANSWER: Key = [0, 3, 0, 1, 20];

fn flow(original: Key, reply: Key) -> NewFlow {
    NewFlow {
        original,
        reply,
        decision: decision(1),
        tracking: 40,
    }
}

fn decision(sequence: u32) -> Decision {
    Decision {
        words: [u64::from(sequence), 2, 3, 4],
        sequence,
    }
}

fn table(capacity: usize) -> Arc<FlowTable> {
    Arc::new(FlowTable::new(capacity, 1, 1))
}

fn lookup(table: &FlowTable, key: Key) -> Option<Hit> {
    table.lookup(&key, table.hash(&key))
}

fn end(table: &Arc<FlowTable>, flow: Handle) {
    table.remove(flow).expect("alive");
    assert_eq!(table.share(0).sweep(usize::MAX, 0, |_, _| u32::MAX), 1);
}

#[test]
fn both_directions_find_one_flow() {
    let table = table(8);
    let handle = table
        .share(0)
        .insert(&flow(CLIENT, ANSWER), 0)
        .expect("room");
    let there = lookup(&table, CLIENT).expect("original");
    let back = lookup(&table, ANSWER).expect("reply");
    assert_eq!((there.flow, back.flow), (handle, handle));
    assert_eq!(
        (there.direction, there.other),
        (Direction::Original, ANSWER)
    );
    assert_eq!((back.direction, back.other), (Direction::Reply, CLIENT));
    assert_eq!((back.decision, back.tracking), (Some(decision(1)), 40));
    assert_eq!(back.phase, Phase::Embryonic);
    assert_eq!(lookup(&table, [0; 5]), None);
    table.prefetch(table.hash(&CLIENT));
}

#[test]
fn a_key_belongs_to_one_flow_in_either_direction() {
    let table = table(32);
    table
        .share(0)
        .insert(&flow(CLIENT, ANSWER), 0)
        .expect("room");
    let there = lookup(&table, CLIENT).expect("original");
    let back = lookup(&table, ANSWER).expect("reply");
    for (original, reply, refused) in [
        (CLIENT, [9; 5], Refused::Exists(there)),
        (ANSWER, CLIENT, Refused::Exists(back)),
        ([9; 5], ANSWER, Refused::ReplyClash),
        ([9; 5], CLIENT, Refused::ReplyClash),
    ] {
        assert_eq!(
            table.share(0).insert(&flow(original, reply), 0),
            Err(refused)
        );
    }
    assert_eq!((table.len(), table.embryonic()), (1, 1));
    assert_eq!(lookup(&table, [9; 5]), None, "neither direction");
}

#[test]
fn a_packet_that_is_its_own_answer_is_one_flow() {
    let table = table(8);
    let handle = table
        .share(0)
        .insert(&flow(CLIENT, CLIENT), 0)
        .expect("room");
    let hit = lookup(&table, CLIENT).expect("flow");
    assert_eq!((hit.flow, hit.direction), (handle, Direction::Original));
    end(&table, handle);
    assert_eq!(lookup(&table, CLIENT), None);
    table
        .share(0)
        .insert(&flow(CLIENT, ANSWER), 0)
        .expect("room");
}

#[test]
fn a_handle_does_nothing_to_the_slots_next_flow() {
    let table = table(2);
    let old = table
        .share(0)
        .insert(&flow(CLIENT, ANSWER), 0)
        .expect("room");
    assert_eq!(table.remove(old), Ok(()));
    assert_eq!(table.remove(old), Err(Gone), "once");
    assert_eq!((lookup(&table, CLIENT), table.len()), (None, 1));
    assert_eq!(table.share(0).sweep(2, 0, |_, _| u32::MAX), 1);
    let new = table
        .share(0)
        .insert(&flow(CLIENT, ANSWER), 0)
        .expect("room");
    assert_ne!(old, new);
    assert_eq!(table.track(old, 40, 41), Tracked::Gone);
    assert_eq!(table.answered(old), Err(Gone));
    assert_eq!(table.set_decision(old, &decision(2)), Err(Gone));
    assert_eq!(table.remove(old), Err(Gone));
    let hit = lookup(&table, CLIENT).expect("the new one");
    assert_eq!(
        (hit.flow, hit.tracking, hit.decision),
        (new, 40, Some(decision(1)))
    );
    assert_eq!(table.embryonic(), 1);
}

#[test]
fn a_removed_flow_can_come_back_before_it_is_swept() {
    let table = table(8);
    let old = table
        .share(0)
        .insert(&flow(CLIENT, ANSWER), 0)
        .expect("room");
    table.remove(old).expect("alive");
    let new = table
        .share(0)
        .insert(&flow(CLIENT, ANSWER), 0)
        .expect("room");
    assert_eq!(table.len(), 2);
    assert_eq!(table.share(0).sweep(usize::MAX, 0, |_, _| u32::MAX), 1);
    let found = [CLIENT, ANSWER].map(|key| lookup(&table, key).map(|hit| hit.flow));
    assert_eq!(found, [Some(new); 2]);
}

#[test]
fn tracking_changes_only_from_what_was_expected() {
    let table = table(8);
    let handle = table
        .share(0)
        .insert(&flow(CLIENT, ANSWER), 0)
        .expect("room");
    assert_eq!(table.track(handle, 40, u32::MAX), Tracked::Done);
    assert_eq!(table.track(handle, 40, 0), Tracked::Changed(u32::MAX));
    let hit = lookup(&table, CLIENT).expect("flow");
    assert_eq!((hit.tracking, hit.phase), (u32::MAX, Phase::Embryonic));
}

#[test]
fn decisions_only_get_newer() {
    let table = table(8);
    let handle = table
        .share(0)
        .insert(&flow(CLIENT, ANSWER), 0)
        .expect("room");
    for (set, found) in [(3, 3), (2, 3), (3, 3), (4, 4)] {
        table.set_decision(handle, &decision(set)).expect("alive");
        let hit = lookup(&table, ANSWER).expect("flow");
        assert_eq!(hit.decision, Some(decision(found)));
    }
}

/// BEHAVIOURS F14.
#[test]
fn a_quarter_may_wait_for_answers_and_no_flow_gives_way_to_a_new_one() {
    let table = table(16);
    let key = |number: u64| [number, 0, 0, 0, 1];
    let new = |number: u64| flow(key(number), [number, 0, 0, 0, 2]);
    let mut flows = Vec::new();
    for number in 0..16 {
        if number % 4 == 0 {
            for flow in &flows {
                table.answered(*flow).expect("alive");
                table.answered(*flow).expect("counted once");
            }
            assert_eq!(table.embryonic(), 0);
        }
        flows.push(table.share(0).insert(&new(number), 0).expect("room"));
        let refused = match number {
            15 => Err(Refused::Full),
            _ if number % 4 == 3 => Err(Refused::EmbryonicQuota),
            _ => continue,
        };
        assert_eq!(table.share(0).insert(&new(99), 0), refused);
    }
    assert!((0..16).all(|number| lookup(&table, key(number)).is_some()));
    end(&table, flows[15]);
    assert!(table.share(0).insert(&new(99), 0).is_ok());
}

#[test]
fn shares_are_even_and_apart() {
    let table = Arc::new(FlowTable::new(12, 3, 1));
    assert_eq!(table.capacity(), 15, "three shares of a power of two");
    let new = |number: u64| flow([number, 0, 0, 0, 1], [number, 0, 0, 0, 2]);
    for number in 0..5 {
        let inserted = table.share(1).insert(&new(number), 0).expect("room");
        table.answered(inserted).expect("alive");
    }
    assert_eq!(table.share(1).insert(&new(9), 0), Err(Refused::Full));
    assert!(table.share(2).insert(&new(9), 0).is_ok());
    assert_eq!(table.share(0).sweep(usize::MAX, 0, |_, _| 0), 0);
    assert_eq!(table.share(1).sweep(usize::MAX, 0, |_, _| 0), 5);
}

#[test]
fn flows_end_when_idle_for_their_timeout_also_across_the_clocks_end() {
    let start = u32::MAX - 500;
    let timeout = |tracking, phase| match phase {
        Phase::Embryonic => tracking,
        Phase::Answered => 10 * tracking,
    };
    for answered in [false, true] {
        let table = table(4);
        let handle = table
            .share(0)
            .insert(&flow(CLIENT, ANSWER), start)
            .expect("room");
        assert_eq!(table.track(handle, 40, 1000), Tracked::Done);
        if answered {
            table.answered(handle).expect("alive");
        }
        let last = start.wrapping_add(900);
        table.touch(handle, last);
        table.touch(handle, last.wrapping_add(63));
        let timeout_ms = if answered { 10_000 } else { 1000 };
        let sweep = |now: u32| table.share(0).sweep(4, now, timeout);
        assert_eq!(sweep(last.wrapping_sub(5)), 0, "a clock behind");
        assert_eq!(sweep(last.wrapping_add(timeout_ms - 1)), 0);
        assert_eq!(sweep(last.wrapping_add(timeout_ms)), 1);
        assert!(lookup(&table, CLIENT).is_none() && table.is_empty());
    }
}

#[test]
fn iteration_shows_what_is_alive() {
    let table = table(8);
    let first = table
        .share(0)
        .insert(&flow(CLIENT, ANSWER), 5)
        .expect("room");
    let second = table
        .share(0)
        .insert(&flow([7; 5], [8; 5]), 6)
        .expect("room");
    table.remove(first).expect("alive");
    let expected = Flow {
        flow: second,
        original: [7; 5],
        reply: [8; 5],
        decision: Some(decision(1)),
        tracking: 40,
        phase: Phase::Embryonic,
        seen_ms: 6,
    };
    assert_eq!(table.iter().collect::<Vec<_>>(), [expected]);
    assert_eq!(format!("{table:?}"), "FlowTable(2 of 8)");
}
