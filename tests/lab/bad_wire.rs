//! Bulk over a wire that loses, exchanges and repeats frames: what arrives is what was sent.

use crate::shaper::{Policy, Shaper};
use crate::transfers::{SETTINGS, Transfers, WORLD};

const SEED: u64 = 6;
/// What part of the bytes of other transfers is moved.
const FRACTION: u64 = 8;

const LOSES: Policy = Policy {
    lost: 20,
    exchanged: 0,
    repeated: 0,
};
const EXCHANGES: Policy = Policy {
    lost: 0,
    exchanged: 100,
    repeated: 0,
};
const REPEATS: Policy = Policy {
    lost: 0,
    exchanged: 0,
    repeated: 100,
};
const ALL: Policy = Policy {
    lost: 20,
    exchanged: 100,
    repeated: 100,
};

/// Has a wire do something, and asserts that it did that and nothing else.
fn over(shaper: &Shaper, policy: Policy, transfer: impl FnOnce()) {
    println!("{policy:?}");
    shaper.change(policy);
    transfer();
    let shaped = shaper.change(Policy::default());
    println!("{shaped:?}");
    for (rate, count) in [
        (policy.lost, shaped.lost),
        (policy.exchanged, shaped.exchanged),
        (policy.repeated, shaped.repeated),
    ] {
        assert_eq!(rate > 0, count > 0, "{policy:?}: {shaped:?}");
    }
}

#[test]
fn bytes_arrive_whatever_the_wire_does_to_frames() {
    if !podway_needs::root() {
        return;
    }
    let all = Transfers::up(&[]);
    let shaper = Shaper::into_wire_of(&all.lab, "node:node1", "1500", SEED);
    let [v4, v6] = all.addresses("default/far");
    for policy in [LOSES, EXCHANGES, REPEATS, ALL] {
        for (host, port) in [
            (v4.as_str(), "7000"),
            (&v6, "7000"),
            ("10.96.0.70", "70"),
            ("fd96::70", "70"),
        ] {
            over(&shaper, policy, || all.moves_some(host, port, FRACTION, 1));
        }
    }
    over(&shaper, ALL, || all.moves_some(&v4, "7000", FRACTION, 8));
}

#[test]
fn bytes_arrive_outside_whatever_the_wire_does_to_frames() {
    if !podway_needs::root() {
        return;
    }
    let all = Transfers::up(&[]);
    let shaper = Shaper::into_wire_of(&all.lab, "node:node1", "1500", SEED);
    for (world, range) in WORLD {
        for size in ["1460", "536"] {
            all.world_offers(range, size);
            for policy in [LOSES, EXCHANGES, REPEATS] {
                over(&shaper, policy, || {
                    all.moves_some(world, "7000", FRACTION, 1)
                });
            }
        }
    }
}

#[test]
fn bytes_arrive_over_a_bad_wire_with_and_without_tcps_options() {
    if !podway_needs::root() {
        return;
    }
    let all = Transfers::up(&[]);
    let shaper = Shaper::into_wire_of(&all.lab, "node:node1", "1500", SEED);
    let [v4, _] = all.addresses("default/far");
    for (setting, default) in SETTINGS {
        all.set(setting);
        over(&shaper, ALL, || all.moves_some(&v4, "7000", FRACTION, 1));
        all.set(default);
    }
}

#[test]
fn bytes_arrive_over_a_bad_wire_of_9000() {
    if !podway_needs::root() {
        return;
    }
    let all = Transfers::up(&["--underlay-mtu", "9000"]);
    let shaper = Shaper::into_wire_of(&all.lab, "node:node1", "9000", SEED);
    for host in all.addresses("default/far") {
        for policy in [LOSES, EXCHANGES] {
            over(&shaper, policy, || {
                all.moves_some(&host, "7000", FRACTION, 1)
            });
        }
    }
}
