//! Random services, endpoints and packets: what `decide()` says over compiled tables against what the rows say.
//!
//! `PODWAY_PACKETS` sets how many packets are tried (100 000 unless given), `PODWAY_SEED` where the dice start.
#![allow(missing_docs)]

mod naive;
mod packets;
mod world;

use podway_engine::{Arrival, Decision, DropReason, Reply, SourceNat, Stop, decide};
use podway_intent::{Compiler, Name};
use podway_tables::{Backend, Snapshot};
use podway_wire::icmp::IcmpError;

use crate::naive::{Expected, Seen};
use crate::packets::Origin;
use crate::world::{Dice, HERE, World};

const PACKETS: u64 = 100_000;
const PACKETS_OF_A_WORLD: u64 = 500;
/// Worlds that one compiler sees, each as an update of the one before.
const WORLDS_OF_A_COMPILER: u64 = 4;

fn number(name: &str, otherwise: u64) -> u64 {
    let given = std::env::var(name).ok();
    given.map_or(otherwise, |text| text.parse().expect("a number"))
}

#[test]
fn services_do_what_the_rows_say() {
    let (packets, first) = (number("PODWAY_PACKETS", PACKETS), number("PODWAY_SEED", 1));
    let mut compiler = Compiler::new(HERE);
    let mut before: Option<World> = None;
    let mut forwarded = 0;
    for seed in first..first + packets.div_ceil(PACKETS_OF_A_WORLD) {
        if seed % WORLDS_OF_A_COMPILER == 0 {
            compiler = Compiler::new(HERE);
            before = None;
        }
        let mut dice = Dice::new(seed);
        let world = World::random(&mut dice, before.as_ref());
        let compiled = compiler.compile(&world.cluster);
        let client = Name {
            namespace: "a".into(),
            name: "here-0".into(),
        };
        let client = compiled.names.endpoint_of(&client).expect("the client");
        let peer = compiled.names.peer_of("n2").expect("a peer");
        for _ in 0..PACKETS_OF_A_WORLD {
            let packet = packets::packet(&mut dice);
            let arrival = match packet.origin {
                Origin::Pod => Arrival::Endpoint(client),
                Origin::Host => Arrival::Host,
                Origin::World => Arrival::World,
                Origin::Peer => Arrival::Peer(peer),
            };
            let some = world::endpoint(&mut dice);
            let last = dice.of(&[None, None, Some(some)]);
            let last = last.map(|(ip, port)| Backend {
                addr: ip.into(),
                port,
            });
            let decision = decide(&compiled.snapshot, arrival, &packet.parsed(), last);
            let expected = naive::expected(&world, &packet);
            let seen = seen(&compiled.snapshot, &decision);
            forwarded += u64::from(decision.backend.is_some());
            assert!(
                agree(&expected, &seen, last),
                "seed {seed}: {packet:?}, last {last:?}\nexpected {expected:?}\nseen     {seen:?}\n{decision:?}"
            );
        }
        before = Some(world);
    }
    assert!(
        forwarded > packets / 20,
        "only {forwarded} were for services"
    );
}

/// Exactly the candidates, one of them, the last one if it is among them; and what follows from the one.
fn agree(expected: &Expected, seen: &Seen, last: Option<Backend>) -> bool {
    match (expected, seen) {
        (Expected::Refused, Seen::Refused) => true,
        (Expected::Dropped(expected), Seen::Dropped(seen)) => expected == seen,
        (Expected::Alone(expected), Seen::Alone(seen)) => expected == seen,
        (Expected::Served(expected), Seen::Served(candidates, chosen, fate)) => {
            let last = last.map(|last| (last.addr.ip(), last.port));
            let right = last.filter(|last| expected.contains_key(last));
            candidates.iter().eq(expected.keys())
                && expected.get(chosen) == Some(fate)
                && right.is_none_or(|right| right == *chosen)
        }
        (_, _) => false,
    }
}

fn seen(snapshot: &Snapshot, decision: &Decision) -> Seen {
    let fate = match decision.outcome {
        Ok(()) => Ok(match decision.source {
            SourceNat::Keep => decision.original.source.ip(),
            SourceNat::Hairpin(addr) | SourceNat::Masquerade(addr) => addr.ip(),
        }),
        Err(Stop::Drop(reason)) => Err(reason),
        Err(Stop::Reply(Reply::Echo)) => return Seen::Echo,
        Err(Stop::Reply(Reply::Error(IcmpError::PortUnreachable))) => return Seen::Refused,
        Err(Stop::Reply(reply)) => panic!("{reply:?} to a service"),
    };
    assert!(fate.is_err() || Some(decision.translated.source.ip()) == fate.ok());
    assert_eq!(
        decision.translated.source_port,
        decision.original.source_port
    );
    match (decision.backend, fate) {
        (Some(backend), fate) => {
            let chosen = (backend.addr.ip(), backend.port);
            let target = &decision.translated;
            assert_eq!(
                (target.target, target.target_port),
                (backend.addr, backend.port)
            );
            let candidates = decision.candidates(snapshot).iter();
            let candidates = candidates.map(|it| (it.addr.ip(), it.port)).collect();
            Seen::Served(candidates, chosen, fate)
        }
        (None, Err(reason @ (DropReason::NoRoute | DropReason::NoSuchPod))) => {
            Seen::Alone(Err(reason))
        }
        (None, Err(reason)) => Seen::Dropped(reason),
        (None, Ok(source)) => {
            assert_eq!(decision.translated.target, decision.original.target);
            Seen::Alone(Ok(source))
        }
    }
}
