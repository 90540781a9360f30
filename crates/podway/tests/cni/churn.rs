//! Many at once, with plugins and agents killed at random points: nothing is left and nothing is stuck.

use std::env;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::place::{Place, said};

/// Containers that are added and deleted at the same time.
const PARALLEL: usize = 50;

/// SplitMix64: the same choices in every run of one seed.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: u64) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        (z ^ (z >> 31)) % limit
    }
}

#[derive(Default)]
struct Tally {
    adds_ms: Mutex<Vec<u64>>,
    rounds: AtomicUsize,
    killed: AtomicUsize,
    /// ADDs that the agent's absence stopped.
    told_to_wait: AtomicUsize,
}

/// Runs a command and kills it after up to so many milliseconds.
fn killed(place: &Place, command: &str, pod: usize, within_ms: u64, dice: &mut Dice) {
    let mut child = place.spawn(command, pod, &place.network("1.1.0", Value::Null));
    thread::sleep(Duration::from_millis(dice.below(within_ms)));
    let _ = child.kill();
    let _ = child.wait();
}

/// One container is added and deleted, each perhaps first by a plugin that is killed.
fn round(place: &Place, pod: usize, tally: &Tally, dice: &mut Dice) {
    if dice.below(4) == 0 {
        killed(place, "ADD", pod, 200, dice);
        tally.killed.fetch_add(1, Ordering::Relaxed);
        // Runtimes delete what failed; but what died half-way must not be in a new one's way either.
        if dice.below(2) == 0 || place.is_added(pod) {
            place.delete(pod).done();
        }
    }
    let began = Instant::now();
    let child = place.spawn("ADD", pod, &place.network("1.1.0", Value::Null));
    let added = said(child.wait_with_output().expect("it ends"));
    if added.exit == Some(0) {
        tally
            .adds_ms
            .lock()
            .expect("no panic")
            .push(began.elapsed().as_millis() as u64);
    } else {
        assert_eq!(added.error().0, 11, "{added:?}");
        tally.told_to_wait.fetch_add(1, Ordering::Relaxed);
    }
    if dice.below(4) == 0 {
        killed(place, "DEL", pod, 100, dice);
        tally.killed.fetch_add(1, Ordering::Relaxed);
    }
    place.delete(pod).done();
    tally.rounds.fetch_add(1, Ordering::Relaxed);
}

#[test]
fn c1_c2_nothing_is_left_of_many_containers_whose_plugins_and_agents_are_killed() {
    if !podway_needs::root() {
        return;
    }
    let wanted = env::var("PODWAY_CNI_ROUNDS").ok();
    let wanted: usize = wanted.map_or(300, |text| text.parse().expect("a number"));
    let place = Place::new("churn", "10.244.1.0/24, \"fd44:0:0:1::/64\"", PARALLEL);
    let mut agent = place.start();
    let before = place
        .sh("ip rule; ip -6 rule; ip route show table all | grep -v fe80:; ip -o link | wc -l");
    let (tally, done, next) = (
        Tally::default(),
        AtomicBool::new(false),
        AtomicUsize::new(0),
    );
    let mut kills = 0;
    thread::scope(|scope| {
        let workers: Vec<_> = (0..PARALLEL)
            .map(|pod| {
                let (place, tally, next) = (&place, &tally, &next);
                let mut dice = Dice(pod as u64);
                scope.spawn(move || {
                    while next.fetch_add(1, Ordering::Relaxed) < wanted {
                        round(place, pod, tally, &mut dice);
                    }
                })
            })
            .collect();
        let reaper = scope.spawn(|| {
            let mut dice = Dice(4711);
            while !done.load(Ordering::Relaxed) {
                thread::sleep(Duration::from_millis(500 + dice.below(3_000)));
                agent.kill();
                thread::sleep(Duration::from_millis(dice.below(300)));
                agent = place.start();
                kills += 1;
            }
        });
        let ended: Vec<_> = workers.into_iter().map(|worker| worker.join()).collect();
        done.store(true, Ordering::Relaxed);
        reaper.join().expect("agents start again");
        for end in ended {
            end.expect("each DEL succeeds, each ADD does or says 11");
        }
    });

    place.until("rid of all ports", || place.ports() == 0);
    place.is_clean();
    let after = place
        .sh("ip rule; ip -6 rule; ip route show table all | grep -v fe80:; ip -o link | wc -l");
    assert_eq!(before, after);
    for pod in 0..PARALLEL {
        place.add(pod).result();
    }
    assert_eq!((place.wires(), place.ports()), (PARALLEL, PARALLEL));
    for pod in 0..PARALLEL {
        place.delete(pod).done();
    }
    place.is_clean();

    let mut adds = tally.adds_ms.into_inner().expect("no panic");
    adds.sort_unstable();
    let share = |percent: usize| adds[(adds.len() - 1) * percent / 100];
    println!(
        "{} rounds, {PARALLEL} at once: {} ADDs done, p50 {} ms, p99 {} ms; {} told to try again; {} plugins and {kills} agents killed",
        tally.rounds.into_inner(),
        adds.len(),
        share(50),
        share(99),
        tally.told_to_wait.into_inner(),
        tally.killed.into_inner(),
    );
}
