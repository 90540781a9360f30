//! How much waits for a worker that is away: a window of bulk, and few of the packets that come one by one.

mod support;

use std::net::UdpSocket;

use podway_engine::{Batch, DropReason, Verdict};
use podway_xsk::WorkerEdge;
use support::Namespace;
use support::traffic::{add, edge, load, settle};

const NOBODY: &str = "10.0.0.9";

/// Sends `count` datagrams of `length` bytes to somebody who is not there.
fn burst(pod: &Namespace, count: u32, length: usize) {
    pod.inside(|| {
        let socket = UdpSocket::bind("0.0.0.0:0").expect("bind");
        let bytes = vec![7; length];
        for _ in 0..count {
            let _ = socket.send_to(&bytes, (NOBODY, 9));
        }
    });
}

/// Takes in all that waits.
fn take(edge: &mut WorkerEdge) {
    let mut drop = |batch: &mut Batch<'_, '_>| {
        for packet in batch.packets.iter_mut() {
            packet.verdict = Verdict::Drop(DropReason::NoRoute);
        }
    };
    while edge.turn(&mut drop) > 0 {}
}

/// How many datagrams of this length wait of a burst without end, once the port knows such.
fn waits(pod: &Namespace, edge: &mut WorkerEdge, length: usize) -> u64 {
    for _ in 0..8 {
        burst(pod, 3_000, length);
        take(edge);
    }
    let before = edge.port_statistics()[0].rx_packets;
    burst(pod, 20_000, length);
    take(edge);
    edge.port_statistics()[0].rx_packets - before
}

#[test]
fn a_window_of_bulk_waits_for_a_worker_that_is_away() {
    if !podway_needs::root() {
        return;
    }
    let node = Namespace::new("bursts");
    let one = node.pod("pod1", "10.0.0.1/24", 1500);
    one.run(&format!(
        "ip neigh add {NOBODY} lladdr 02:00:00:00:00:09 dev eth0"
    ));
    let mut edge = node.inside(|| {
        let redirect = load();
        let mut edge = edge(&redirect, 8192);
        add(&mut edge, &redirect, 1, "pod1");
        edge
    });
    let short = waits(&one, &mut edge, 100);
    assert!((448..=512).contains(&short), "{short} short ones");
    let long = waits(&one, &mut edge, 1_400);
    assert!((1_984..=2_048).contains(&long), "{long} long ones");
    let short = waits(&one, &mut edge, 100);
    assert!((448..=512).contains(&short), "{short} short ones again");
    settle(&mut edge);
}
