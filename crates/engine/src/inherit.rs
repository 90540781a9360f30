//! What an earlier process decided about a flow that lives on, in the words of the tables there are now (F9).
//!
//! Translation stays: it is in the flow's keys. Numbers of pods, peers and services are others now, and are found again
//! by the addresses that they stood for.

use podway_tables::{Found, Hop, ServiceId, ServiceKey, Snapshot};
use podway_wire::{Addr, FlowKey};

use crate::remember::Remembered;
use crate::second_look::Pair;

/// The decision of these words as it would be remembered now; `None` if nothing leads to one of the flow's ends any more.
///
/// Words that the earlier process did not finish are zeros: then addresses alone say where the flow's ends are.
pub(crate) fn inherited(snapshot: &Snapshot, pair: &Pair, words: [u64; 4]) -> Option<Remembered> {
    let earlier = Remembered::of_words(words);
    let Pair {
        original,
        translated,
        ..
    } = pair;
    let served = match &earlier {
        Some(earlier) => earlier.service.is_some(),
        None => original.target != translated.target,
    };
    // Ports are others, too, but for the one uplink that each agent begins with.
    let last_hop = earlier.and_then(|earlier| earlier.last_hop);
    let last_hop = last_hop.filter(|last| snapshot.node.uplink == Some(last.port));
    Some(Remembered {
        forward: found(snapshot, &translated.target, earlier.map(|it| it.forward))?,
        backward: match earlier.map(|it| it.backward) {
            // A peer that dialled from the wire has the peer's address.
            Some(Hop::Host) => Hop::Host,
            Some(Hop::World(_)) => match last_hop {
                Some(last) => last.way_back(snapshot, &original.source),
                None => Hop::World(snapshot.world.next_hop(&original.source)),
            },
            pod @ (Some(Hop::Endpoint(_) | Hop::Peer(_) | Hop::Gateway | Hop::Unallocated)
            | None) => found(snapshot, &original.source, pod)?,
        },
        service: served.then(|| service(snapshot, original)).flatten(),
        last_hop,
        known: earlier.map_or_else(Default::default, |earlier| earlier.known),
    })
}

/// Where an address is now; `None` if that is elsewhere altogether: what was for a pod must not leave the cluster.
fn found(snapshot: &Snapshot, addr: &Addr, earlier: Option<Hop>) -> Option<Hop> {
    let now = snapshot.hop(addr);
    let is_pod = |hop: Hop| match hop {
        Hop::Endpoint(_) | Hop::Peer(_) => Some(true),
        Hop::Host | Hop::World(_) => Some(false),
        Hop::Gateway | Hop::Unallocated => None,
    };
    let was_pod = earlier.map_or(is_pod(now), is_pod);
    (is_pod(now)? == was_pod?).then_some(now)
}

/// The service that answers where the flow's client dialled.
fn service(snapshot: &Snapshot, original: &FlowKey) -> Option<ServiceId> {
    let dialled = ServiceKey {
        addr: original.target,
        port: original.target_port,
        protocol: original.protocol,
    };
    match snapshot.services.find(&dialled) {
        Found::Frontend(frontend) => Some(frontend.service),
        Found::WrongPort | Found::Unallocated | Found::Nothing => None,
    }
}
