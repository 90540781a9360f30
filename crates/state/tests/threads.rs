//! The flow table under real threads that all want the same few keys.
#![cfg(not(loom))]

use std::collections::HashSet;
use std::sync::{Arc, Barrier};
use std::thread;
use std::time::{Duration, Instant};

use podway_state::{Decision, Direction, FlowTable, Handle, Hit, Key, NewFlow, Refused};

const WORKERS: usize = 4;
const KEYS: u64 = 40;
const SALT: u64 = 0x5bd1_e995_9bd1_e995;

fn key(number: u64) -> Key {
    [number; 5]
}

/// Words that show whether they belong together, and to which flow and sequence.
fn decision(original: u64, reply: u64, sequence: u32) -> Decision {
    let value = original << 48 | reply << 32 | u64::from(sequence);
    Decision {
        words: std::array::from_fn(|word| value.rotate_left(word as u32 * 16) ^ SALT),
        sequence,
    }
}

fn flow(original: u64, reply: u64) -> NewFlow {
    NewFlow {
        original: key(original),
        reply: key(reply),
        decision: decision(original, reply, 1),
        tracking: 0,
    }
}

/// The flow's two keys.
fn keys_of(number: u64, hit: &Hit) -> [u64; 2] {
    match hit.direction {
        Direction::Original => [number, hit.other[0]],
        Direction::Reply => [hit.other[0], number],
    }
}

fn assert_whole(number: u64, hit: &Hit) {
    assert_eq!(hit.other, [hit.other[0]; 5]);
    let [original, reply] = keys_of(number, hit);
    if let Some(found) = hit.decision {
        assert_eq!(found, decision(original, reply, found.sequence));
    }
}

fn xorshift(state: &mut u64) -> u64 {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    *state
}

/// What one worker did.
#[derive(Default)]
struct Tally {
    inserted: usize,
    clashed: usize,
    removed: usize,
}

fn work(table: &Arc<FlowTable>, worker: usize, until: Instant) -> Tally {
    let share = table.share(worker);
    let mut tally = Tally::default();
    let mut chance = 0x9e37_79b9 + worker as u64;
    let mut sequence = 1;
    while Instant::now() < until {
        for _ in 0..1000 {
            let random = xorshift(&mut chance);
            let [original, reply] = [random >> 8, random >> 40].map(|bits| (bits & 0xffff) % KEYS);
            let lookup = || table.lookup(&key(original), table.hash(&key(original)));
            let Some(hit) = lookup() else {
                match share.insert(&flow(original, reply), 0) {
                    Ok(_) => tally.inserted += 1,
                    Err(Refused::Exists(hit)) => {
                        assert_whole(original, &hit);
                    }
                    Err(Refused::ReplyClash) => tally.clashed += 1,
                    Err(Refused::Full | Refused::EmbryonicQuota) => {
                        share.sweep(64, 0, |_, _| u32::MAX);
                    }
                    Err(Refused::Contested) => panic!("sixteen times in a row"),
                }
                continue;
            };
            assert_whole(original, &hit);
            match random % 8 {
                0 | 1 => tally.removed += usize::from(table.remove(hit.flow).is_ok()),
                2 | 3 => {
                    sequence += 1;
                    let [original, reply] = keys_of(original, &hit);
                    let _ = table.set_decision(hit.flow, &decision(original, reply, sequence));
                }
                4 => _ = table.track(hit.flow, hit.tracking, random as u32),
                5 => _ = table.answered(hit.flow),
                6 => _ = share.sweep(16, 0, |_, _| u32::MAX),
                _ => table.touch(hit.flow, 0),
            }
        }
    }
    tally
}

#[test]
fn flows_stay_whole_while_everyone_inserts_judges_removes_and_sweeps() {
    let table = Arc::new(FlowTable::new(256, WORKERS, 7));
    let until = Instant::now() + Duration::from_millis(1500);
    let tallies: Vec<Tally> = thread::scope(|scope| {
        let work = |worker| {
            let table = &table;
            scope.spawn(move || work(table, worker, until))
        };
        let workers: Vec<_> = (0..WORKERS).map(work).collect();
        let join = |worker: thread::ScopedJoinHandle<'_, Tally>| worker.join().expect("no panic");
        workers.into_iter().map(join).collect()
    });
    let sum = |count: fn(&Tally) -> usize| tallies.iter().map(count).sum::<usize>();
    let left = table.iter().count();
    assert_eq!(sum(|one| one.inserted), sum(|one| one.removed) + left);
    assert!(sum(|one| one.clashed) > 0 && sum(|one| one.inserted) > 1000);

    let mut keys = HashSet::new();
    for flow in table.iter() {
        assert!(keys.insert(flow.original));
        assert!(flow.reply == flow.original || keys.insert(flow.reply));
    }
    (0..WORKERS).for_each(|worker| _ = table.share(worker).sweep(64, 0, |_, _| 0));
    assert_eq!((table.len(), table.embryonic()), (0, 0));
}

/// What an insertion came to: who won, or whose mapping it got.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Outcome {
    Won(Handle),
    Given(Handle),
    Refused(Refused),
}

fn insert(table: &Arc<FlowTable>, worker: usize, new: &NewFlow) -> Outcome {
    match table.share(worker).insert(new, 0) {
        Ok(flow) => Outcome::Won(flow),
        Err(Refused::Exists(hit)) => Outcome::Given(hit.flow),
        Err(refused) => Outcome::Refused(refused),
    }
}

/// Lets all workers insert at the same time, ten thousand times; gives each one's outcomes.
fn race(new: [NewFlow; WORKERS]) -> [Vec<Outcome>; WORKERS] {
    let table = Arc::new(FlowTable::new(64, WORKERS, 7));
    let barrier = Barrier::new(WORKERS);
    let run = |worker: usize| {
        let round = |_| {
            barrier.wait();
            let outcome = insert(&table, worker, &new[worker]);
            barrier.wait();
            // No panic between barriers: the others would wait for ever.
            if let Outcome::Won(flow) = outcome {
                let _ = table.remove(flow);
            }
            barrier.wait();
            table.share(worker).sweep(16, 0, |_, _| u32::MAX);
            outcome
        };
        (0..10_000).map(round).collect()
    };
    let outcomes = thread::scope(|scope| {
        let workers: [_; WORKERS] = std::array::from_fn(|worker| {
            let run = &run;
            scope.spawn(move || run(worker))
        });
        workers.map(|worker| worker.join().expect("no panic"))
    });
    assert!(table.is_empty());
    outcomes
}

/// BEHAVIOURS F12 and S21: two workers have the same packet and choose other addresses for its answer; two have
/// other packets and choose the same.
#[test]
fn of_workers_that_insert_at_once_one_wins() {
    let [a, b, c, d] = race([flow(1, 2), flow(1, 3), flow(10, 20), flow(11, 20)]);
    for (first, second) in a.into_iter().zip(b) {
        match (first, second) {
            (Outcome::Won(won), Outcome::Given(given))
            | (Outcome::Given(given), Outcome::Won(won)) => assert_eq!(won, given),
            otherwise => panic!("{otherwise:?}"),
        }
    }
    for (first, second) in c.into_iter().zip(d) {
        match (first, second) {
            (Outcome::Won(_), Outcome::Refused(Refused::ReplyClash))
            | (Outcome::Refused(Refused::ReplyClash), Outcome::Won(_)) => {}
            otherwise => panic!("{otherwise:?}"),
        }
    }
}
