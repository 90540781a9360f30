//! Every interleaving of a program that looks a packet up with those who write and revoke, on a table of two slots.
//!
//! `RUSTFLAGS="--cfg loom" cargo test -p podway-lane --release --test loom --target-dir target/loom`
#![cfg(loom)]

use std::sync::Arc;

use loom::sync::atomic::{AtomicU64, Ordering};
use loom::thread;
use podway_lane::{
    Acts, Entry, Generation, Keeper, Lane, Limits, Memory, Pair, SECRETS, Secret, Shape, WATCHED,
};

const WATCHES: [Generation; WATCHED] = [Generation::Port(1); WATCHED];

fn model(run: impl Fn() + Sync + Send + 'static) {
    let mut builder = loom::model::Builder::new();
    builder.preemption_bound = Some(3);
    builder.max_branches = 50_000;
    builder.check(run);
}

/// An open lane, and its owner, who lets slots rest for no time: only tags keep readers from two flows in one.
fn lane() -> (Arc<Lane>, Keeper) {
    let shape = Shape::new(2).expect("a power of two");
    let secret = Secret(std::array::from_fn::<u64, SECRETS, _>(|word| {
        [0, 1 << 32, 0][word]
    }));
    let lane = Arc::new(Lane::new(Memory::own(shape), secret));
    lane.hold(u64::MAX);
    let limits = Limits {
        slots_per_port: 8,
        rest_ns: 0,
    };
    let mut keeper = Keeper::new(lane.clone(), limits, 0);
    keeper.sweep(2, 0, |_| ());
    (lane, keeper)
}

/// Has the owner find what was revoked, and then find that it has rested.
fn rest(keeper: &mut Keeper) {
    for _ in 0..2 {
        keeper.sweep(2, 0, |_| ());
    }
}

fn pair(original: u64, value: u64) -> Pair {
    let entry = |key| Entry {
        key: [key],
        port: value as u16,
        acts: Acts::default(),
        forward: [value; 2],
    };
    Pair {
        original: entry(original),
        reply: entry(original + 1),
        charged: 1,
        token: value,
    }
}

fn judged(lane: &Lane) -> podway_lane::Mark {
    lane.judged(WATCHES, || true).expect("it is current")
}

/// What a key leads to, checked to be of one piece.
fn look(lane: &Lane, key: u64) -> Option<u64> {
    let ride = lane.lookup(&[key], 0)?;
    assert!(
        ride.forward
            .iter()
            .all(|word| *word == u64::from(ride.port))
    );
    Some(ride.forward[0])
}

/// A program looks `key` up while the slots of flow 7 are taken back and written for flow 8.
fn look_while_slots_change_hands(key: u64, may_find: Option<u64>) {
    model(move || {
        let (lane, mut keeper) = lane();
        let [original, _] = keeper.promote(&pair(0, 7), judged(&lane)).expect("room");
        let reader = thread::spawn({
            let lane = lane.clone();
            move || look(&lane, key)
        });
        assert!(lane.revoke(original));
        rest(&mut keeper);
        keeper.promote(&pair(2, 8), judged(&lane)).expect("room");
        let found = reader.join().expect("no panic");
        assert!(found.is_none() || found == may_find, "{found:?}");
        assert_eq!([look(&lane, 0), look(&lane, 2)], [None, Some(8)]);
    });
}

#[test]
fn a_slot_that_is_taken_back_and_written_anew_is_never_read_as_two_flows_in_one() {
    look_while_slots_change_hands(0, Some(7));
}

#[test]
fn a_slot_that_is_being_written_is_never_read_before_it_is_whole() {
    look_while_slots_change_hands(2, Some(8));
}

#[test]
fn of_two_who_revoke_one_does_and_the_next_flow_in_the_slot_stays() {
    model(|| {
        let (lane, mut keeper) = lane();
        let tickets = keeper.promote(&pair(0, 7), judged(&lane)).expect("room");
        let other = thread::spawn({
            let lane = lane.clone();
            move || lane.revoke(tickets[0])
        });
        let own = lane.revoke(tickets[0]);
        rest(&mut keeper);
        keeper.promote(&pair(2, 8), judged(&lane)).expect("room");
        let other = other.join().expect("no panic");
        assert!(own != other, "exactly one");
        assert_eq!([look(&lane, 2), look(&lane, 3)], [Some(8); 2]);
    });
}

/// A worker promotes by the snapshot that it has while control publishes another and revokes: nothing rides by the old.
#[test]
fn no_slot_of_an_old_snapshot_outlives_the_publication_of_the_next() {
    model(|| {
        let (lane, mut keeper) = lane();
        let published = Arc::new(AtomicU64::new(1));
        let control = thread::spawn({
            let (lane, published) = (lane.clone(), published.clone());
            move || {
                published.store(2, Ordering::Release);
                lane.revoke_all(Generation::Port(1));
            }
        });
        let snapshot = published.load(Ordering::Acquire);
        let mark = lane.judged(WATCHES, || published.load(Ordering::Acquire) == snapshot);
        if let Some(mark) = mark {
            keeper.promote(&pair(0, snapshot), mark).expect("room");
        }
        control.join().expect("no panic");
        let rides = [look(&lane, 0), look(&lane, 1)];
        assert!(
            rides.iter().all(|by| matches!(by, None | Some(2))),
            "{rides:?}"
        );
    });
}
