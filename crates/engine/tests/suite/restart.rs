//! A flow table that is handed from an engine that died to one with other tables (F9).

use std::sync::atomic::{AtomicU64, Ordering};

use podway_engine::{DropReason, Existing, Verdict};
use podway_intent::{Affinity, Change, Key};
use podway_state::{FlowTable, Resumed};
use podway_tables::PortId;
use podway_wire::{FlowKey, Mac, Protocol};

use crate::world::{
    TestNode, UPLINK, attachment, ingress_policy, key, key_of, name, packet, pod, service, slice,
    two_nodes, way_out,
};

const CLIENT: PortId = PortId(2);
const WEB1: PortId = PortId(3);
const OUTSIDE: &str = "203.0.113.7";
const SIZE: (usize, usize) = (1024, 1);
const SLOT_WORDS: usize = 16;

fn memory() -> &'static [AtomicU64] {
    let words = FlowTable::words(SIZE.0, SIZE.1);
    let room = (0..words + SLOT_WORDS).map(|_| AtomicU64::new(0));
    let room = Vec::leak(room.collect::<Vec<_>>());
    let start = room.as_ptr().align_offset(128);
    &room[start..start + words]
}

/// Node 1 as an agent finds it that starts on this memory; `first` come before all else, so that numbers differ.
fn started(memory: &'static [AtomicU64], first: &[Change], more: &[Change]) -> (TestNode, Resumed) {
    let (flows, resumed) = FlowTable::resume(memory, SIZE, 42, [1, 2]);
    let mut node = TestNode::with("node1", flows, Existing::Judge);
    for change in first {
        node.change([change.clone()]);
    }
    let [known, _] = two_nodes(more);
    node.cluster = known.cluster;
    for change in first {
        node.cluster.apply(change.clone());
    }
    node.change(way_out(1, Mac([2, 0, 0, 0, 9, 9])));
    (node, resumed)
}

/// What makes pods, peers and services have other numbers than before.
fn earlier_numbers() -> Vec<Change> {
    vec![
        pod("first", 1, 90),
        attachment("first", 9),
        service("aaa", 77),
        slice("aaa", "aaa-1", &["10.244.1.90"]),
    ]
}

fn served() -> Vec<Change> {
    vec![
        service("web", 5),
        slice("web", "web-1", &["10.244.1.11", "10.244.2.12"]),
    ]
}

/// What a packet looks like as it leaves for its backend, and which way it goes.
fn sent(node: &mut TestNode, from: PortId, flow: &FlowKey, flags: u8) -> (Verdict, FlowKey) {
    let sent = node.send(from, &packet(from, flow, flags, b"x"));
    let mut bytes = sent.bytes;
    // VXLAN's Ethernet type, addresses, UDP port.
    if sent.verdict == Verdict::Transmit(UPLINK) && bytes[36..38] == 4789_u16.to_be_bytes() {
        bytes.drain(..50);
    }
    (sent.verdict, key_of(&bytes))
}

#[test]
fn f9_flows_through_services_and_out_into_the_world_keep_their_translation() {
    let memory = memory();
    let (mut before, _) = started(memory, &[], &served());
    let dials: Vec<FlowKey> = (4_000..4_040)
        .map(|port| key(Protocol::TCP, ("10.244.1.10", port), ("10.96.0.5", 80)))
        .chain((4_000..4_010).map(|port| key(Protocol::UDP, ("10.244.1.10", port), (OUTSIDE, 53))))
        .collect();
    let seen: Vec<_> = dials
        .iter()
        .map(|flow| sent(&mut before, CLIENT, flow, 2))
        .collect();
    assert!(
        seen.iter()
            .any(|(verdict, _)| *verdict == Verdict::Transmit(WEB1))
    );
    assert!(
        seen.iter()
            .any(|(verdict, _)| *verdict == Verdict::Transmit(UPLINK))
    );
    drop(before);

    // Nobody would be given these backends now, and nothing is numbered as before.
    let alone = slice("web", "web-1", &["10.244.2.13"]);
    let (mut after, resumed) = started(memory, &earlier_numbers(), &[service("web", 5), alone]);
    assert_eq!(resumed, Resumed::Flows(50));
    for (flow, expected) in dials.iter().zip(&seen) {
        assert_eq!(sent(&mut after, CLIENT, flow, 16), *expected, "{flow:?}");
    }
    let (_, to_web1) = seen
        .iter()
        .find(|(verdict, _)| *verdict == Verdict::Transmit(WEB1))
        .expect("one of 40");
    let back = after.send(WEB1, &packet(WEB1, &to_web1.reverse(), 16, b"x"));
    assert_eq!(back.verdict, Verdict::Transmit(CLIENT));
    assert_eq!(key_of(&back.bytes).source.to_string(), "10.96.0.5");
    let (_, moved) = after.send_counted(CLIENT, &packet(CLIENT, &dials[0], 16, b"x"));
    assert!(moved.contains(&"flow-hit".to_owned()) && !moved.contains(&"flow-judged".to_owned()));
    assert_eq!(after.flows.len(), 50, "none is new");
}

#[test]
fn f8_f9_what_changed_meanwhile_counts_for_the_first_packet_after_it() {
    let memory = memory();
    let (mut before, _) = started(memory, &[], &served());
    let to_web1 = key(Protocol::TCP, ("10.244.1.10", 4_000), ("10.244.1.11", 8080));
    let to_web2 = key(Protocol::TCP, ("10.244.1.10", 4_000), ("10.244.2.12", 8080));
    let asked = key(Protocol::UDP, ("10.244.1.10", 4_001), ("10.96.0.5", 80));
    for flow in [&to_web1, &to_web2, &asked] {
        sent(&mut before, CLIENT, flow, 2);
    }
    drop(before);
    let (mut after, _) = started(
        memory,
        &earlier_numbers(),
        &[service("web", 5), slice("web", "web-1", &["10.244.2.13"])],
    );
    // F1: its backend went while nobody looked. N12: a policy came.
    let (_, moved) = sent(&mut after, CLIENT, &asked, 0);
    assert_eq!(moved.target.to_string(), "10.244.2.13");
    after.change([ingress_policy("web1", None)]);
    let denied = after.send(CLIENT, &packet(CLIENT, &to_web1, 16, b"x"));
    assert_eq!(denied.verdict, Verdict::Drop(DropReason::IngressDenied));
    // Its node has left the cluster, and then the pod: nothing is for outside that is a pod's, nor under a pod's address.
    after.change([Change::Gone(Key::Node("node2".into()))]);
    let reset = after.send(CLIENT, &packet(CLIENT, &to_web2, 16, b"x"));
    assert_eq!(reset.verdict, Verdict::Transmit(CLIENT), "F18");
    let closed = after.send(CLIENT, &packet(CLIENT, &to_web2, 2, b"x"));
    assert_eq!(closed.verdict, Verdict::Drop(DropReason::NoSuchPod));
    after.change([Change::Gone(Key::Pod(name("shop", "web2")))]);
    let (_, outward) = sent(&mut after, CLIENT, &to_web2, 2);
    assert_eq!(outward.source.to_string(), "192.168.50.1");
}

#[test]
fn f9_a_decision_that_was_being_written_is_made_again() {
    let memory = memory();
    let (mut before, _) = started(memory, &[], &served());
    let flow = key(Protocol::TCP, ("10.244.1.10", 4_000), ("10.96.0.5", 80));
    let expected = sent(&mut before, CLIENT, &flow, 2);
    drop(before);
    // The word that says that a decision is being written: RST and all else of the flow stays as it is.
    let live = memory
        .chunks(SLOT_WORDS)
        .skip(1)
        .find(|slot| slot[0].load(Ordering::Relaxed) >> 32 & 7 == 3)
        .expect("a live flow");
    live[1].fetch_or(0xffff_ffff << 32, Ordering::Relaxed);
    let (mut after, resumed) = started(memory, &earlier_numbers(), &served());
    assert_eq!(resumed, Resumed::Flows(1));
    assert_eq!(sent(&mut after, CLIENT, &flow, 16), expected);
}

#[test]
fn f9_s14_a_client_stays_with_its_backend() {
    let memory = memory();
    let Change::Service(mut sticky) = service("web", 5) else {
        panic!("a service")
    };
    sticky.affinity = Affinity::ClientIp { timeout_s: 600 };
    let changes = [Change::Service(sticky), served().remove(1)];
    let (mut before, _) = started(memory, &[], &changes);
    let dial = |port| key(Protocol::TCP, ("10.244.1.10", port), ("10.96.0.5", 80));
    let (_, first) = sent(&mut before, CLIENT, &dial(4_000), 2);
    drop(before);
    let (mut after, _) = started(memory, &earlier_numbers(), &changes);
    for port in 5_000..5_032 {
        let (_, again) = sent(&mut after, CLIENT, &dial(port), 2);
        assert_eq!(again.target, first.target);
    }
}
