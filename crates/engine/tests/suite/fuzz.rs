//! Any bytes at any port, many in a row: no panic, and the books balance.

use std::sync::Mutex;

use podway_engine::{BATCH, Batch, Packet};
use podway_tables::PortId;
use podway_wire::{Frame, Protocol};

use crate::direct::direct;
use crate::world::{
    HEADROOM, TestNode, UPLINK, assert_balanced, ingress_policy, key, packet_ttl, service, slice,
    two_nodes,
};

/// What a fuzz case does: which port each packet comes in by, which real packet it starts from, and how it is spoilt.
#[derive(Debug, Clone, bolero::TypeGenerator)]
struct Spoilt {
    port: u8,
    base: u8,
    cut: u16,
    carried: u16,
    edits: Vec<(u16, u8)>,
}

fn bases(near: &mut TestNode) -> Vec<Vec<u8>> {
    let client = PortId(2);
    let keys = [
        key(Protocol::TCP, ("10.244.1.10", 4000), ("10.96.0.5", 80)),
        key(Protocol::UDP, ("10.244.1.10", 4000), ("10.244.2.12", 53)),
        key(Protocol::ICMP, ("10.244.1.10", 4), ("10.244.1.1", 0)),
        key(Protocol::TCP, ("fd44:0:0:1::10", 4000), ("fd96::5", 80)),
        key(
            Protocol::ICMPV6,
            ("fd44:0:0:1::10", 4),
            ("fd44:0:0:1::1", 0),
        ),
    ];
    // As they come from the pod; and what goes out for them: tunnelled packets, answers, ICMP errors.
    let mut bases = Vec::new();
    for (key, ttl) in keys.iter().flat_map(|key| [(key, 64), (key, 1)]) {
        let base = packet_ttl(client, key, 2, b"some payload", ttl);
        bases.push(near.send(client, &base).bytes);
        bases.push(base);
    }
    bases
}

#[test]
fn d13_no_bytes_panic_and_every_packet_is_accounted_for() {
    let state = [
        service("web", 5),
        slice("web", "web-1", &["10.244.2.12", "10.244.1.11"]),
    ];
    let [near, _] = two_nodes(&[&state[..], &[ingress_policy("web1", Some("client"))]].concat());
    let [mut maker, _] = two_nodes(&state);
    let bases = bases(&mut maker);
    account_for_all(near, &bases);
}

#[test]
fn d13_no_bytes_from_a_direct_peer_panic_and_every_packet_is_accounted_for() {
    let state = [
        service("web", 5),
        slice("web", "web-1", &["10.244.2.12", "10.244.1.11"]),
        ingress_policy("web1", Some("client")),
    ];
    let [near, mut far] = direct(&state);
    let web2 = PortId(2);
    let keys = [
        key(Protocol::TCP, ("10.244.2.12", 4000), ("10.244.1.11", 80)),
        key(Protocol::UDP, ("10.244.2.12", 4000), ("192.168.50.1", 53)),
        key(
            Protocol::ICMPV6,
            ("fd44:0:0:2::12", 4),
            ("fd44:0:0:1::1", 0),
        ),
    ];
    let sent = keys.map(|key| {
        let base = packet_ttl(web2, &key, 2, b"some payload", 64);
        far.send(web2, &base).bytes
    });
    account_for_all(near, &sent);
}

fn account_for_all(near: TestNode, bases: &[Vec<u8>]) {
    let near = Mutex::new(near);
    bolero::check!()
        .with_type::<Vec<Spoilt>>()
        .for_each(|cases| {
            let mut near = near.lock().expect("one thread");
            let mut chunks = vec![vec![0u8; 4096]; cases.len()];
            let mut packets = Vec::new();
            for (case, chunk) in cases.iter().zip(&mut chunks) {
                let base = &bases[usize::from(case.base) % bases.len()];
                let end = HEADROOM + base.len();
                chunk[HEADROOM..end].copy_from_slice(base);
                for (at, value) in &case.edits {
                    chunk[HEADROOM + usize::from(*at) % base.len()] = *value;
                }
                let cut = base.len()
                    - usize::from(case.cut) % (base.len() + 1) * usize::from(case.cut & 1);
                let carried = usize::from(case.carried) * usize::from(case.carried & 1);
                let frame = Frame::new(chunk, HEADROOM, HEADROOM + cut, carried).expect("fits");
                let ingress = match case.port % 5 {
                    4 => UPLINK,
                    port => PortId(u16::from(port)),
                };
                packets.push(Packet::received(frame, ingress));
            }
            let before = near.totals();
            let snapshot = near.compiled.snapshot.clone();
            let now_ms = near.now_ms;
            let mut spares = vec![[0u8; 4096]; usize::from(cases.len() as u8 % 8)];
            let mut free = spares.iter_mut();
            let mut spare = || Frame::new(free.next()?, HEADROOM, HEADROOM, 0);
            for batch in packets.chunks_mut(BATCH) {
                let mut batch = Batch::new(batch, &mut spare);
                near.engine.process(&snapshot, &mut batch, now_ms);
            }
            near.now_ms = now_ms.wrapping_add(250);
            near.engine.sweep(64, now_ms);
            let moved: Vec<u64> = near
                .totals()
                .iter()
                .zip(&before)
                .map(|(after, before)| after - before)
                .collect();
            assert_balanced(&moved, packets.len() as u64);
        });
}
