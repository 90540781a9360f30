//! A second look at a remembered decision, once something that decided it has changed: does it still hold?
//!
//! A packet leads from one end of its flow to the other. The end that it leads to has to be there: a connection to what is
//! gone is answered by a reset, and all else is decided anew (F18). The end that it comes from has to be the one that it
//! was (F11), and may be on its way out: what it still sends passes for as long as its device is there.

use podway_state::{Direction, Hit, INHERITED};
use podway_tables::{Backend, Found, Hop, ServiceKey, Snapshot};
use podway_wire::{Addr, FlowKey, Protocol};

use crate::decide::{Arrival, Decision, judge_egress, judge_ingress};
use crate::engine::Existing;
use crate::remember::{Known, Remembered, is_known};
use crate::serve::frontend;
use crate::track::{Heading, Track};

/// What a second look at a remembered decision says.
pub(crate) enum Second {
    /// It holds.
    Holds,
    /// This packet passes; the next one is looked at again.
    Passes,
    /// It was about a pod or backend that is no more: forget it and decide anew.
    Gone,
    /// What a connection leads to is no more.
    Ended,
    /// What policies say of it now.
    Judged(Decision),
}

impl Second {
    /// Of a flow that leads to what is no more.
    pub(crate) fn lost(protocol: Protocol) -> Second {
        match protocol {
            Protocol::TCP => Second::Ended,
            _ => Second::Gone,
        }
    }
}

/// The keys of a known flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    /// As packets of its original direction come.
    pub(crate) original: FlowKey,
    /// As they go on.
    pub(crate) translated: FlowKey,
    /// Which way the packet at hand goes.
    direction: Direction,
}

/// A flow as it is remembered, met by a packet.
pub(crate) struct Seen {
    pub(crate) pair: Pair,
    pub(crate) remembered: Remembered,
    /// The sequence number of the snapshot that it was decided by.
    pub(crate) decided: u32,
    pub(crate) track: Track,
}

/// One end of a flow.
#[derive(Clone, Copy)]
struct End {
    addr: Addr,
    hop: Hop,
    /// Whether its pod was known by name.
    known: bool,
    /// The way of the packets that it sends.
    sends: Heading,
}

/// What has become of the end that a packet leads to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Presence {
    There,
    /// A pod without a device.
    Detached,
    Gone,
}

impl Pair {
    pub(crate) fn of(key: &FlowKey, hit: &Hit) -> Pair {
        let other = FlowKey::of_words(hit.other);
        let (original, reply) = match hit.direction {
            Direction::Original => (*key, other),
            Direction::Reply => (other, *key),
        };
        Pair {
            original,
            translated: reply.reverse(),
            direction: hit.direction,
        }
    }

    /// Which of its ends are known by name now.
    pub(crate) fn known(&self, snapshot: &Snapshot, remembered: &Remembered) -> Known {
        Known {
            source: is_known(snapshot, &self.original.source, remembered.backward),
            target: is_known(snapshot, &self.translated.target, remembered.forward),
        }
    }
}

impl Seen {
    /// The end that the packet at hand comes from, and the one that it leads to.
    fn ends(&self) -> (End, End) {
        let Remembered {
            forward,
            backward,
            known,
            ..
        } = self.remembered;
        let source = End {
            addr: self.pair.original.source,
            hop: backward,
            known: known.source,
            sends: Heading::Forward,
        };
        let target = End {
            addr: self.pair.translated.target,
            hop: forward,
            known: known.target,
            sends: Heading::Backward,
        };
        match self.pair.direction {
            Direction::Original => (source, target),
            Direction::Reply => (target, source),
        }
    }

    /// What is there of the end that a packet leads to.
    fn presence(&self, snapshot: &Snapshot, end: &End) -> Presence {
        let there = match end.hop {
            Hop::World(_) => self.is_same(snapshot, end),
            Hop::Host => self.is_same(snapshot, end),
            Hop::Endpoint(_) => self.is_same(snapshot, end),
            Hop::Peer(_) => {
                // Who has sent its FIN knows what it does: its node has the last word.
                let is_there = !end.known
                    || self.track.has_fin(end.sends)
                    || is_known(snapshot, &end.addr, end.hop);
                is_there && self.is_same(snapshot, end)
            }
            Hop::Gateway | Hop::Unallocated => false,
        };
        match (there, end.hop) {
            (false, _) => Presence::Gone,
            (true, Hop::Endpoint(id)) => {
                match snapshot.endpoint(id).and_then(|endpoint| endpoint.port) {
                    Some(_) => Presence::There,
                    None => Presence::Detached,
                }
            }
            (true, Hop::World(_) | Hop::Host | Hop::Peer(_) | Hop::Gateway | Hop::Unallocated) => {
                Presence::There
            }
        }
    }

    /// F11: whether an end is who it was, though it may be about to go.
    fn is_same(&self, snapshot: &Snapshot, end: &End) -> bool {
        match end.hop {
            Hop::World(_) => match end.sends {
                Heading::Forward => true,
                Heading::Backward => self.is_out_there(snapshot, end),
            },
            Hop::Host => match end.sends {
                Heading::Forward => is_host(snapshot, &end.addr),
                // R2: an address that has left this node is to be found on the wire.
                Heading::Backward => snapshot.routes.hop(&end.addr) == Hop::Host,
            },
            // Not by its address, which may be another pod's by now, on another node.
            Hop::Endpoint(id) => snapshot.endpoint(id).is_some_and(|endpoint| {
                let same_pod = self.decided == INHERITED || endpoint.since <= self.decided;
                same_pod && endpoint.addresses.contains(&end.addr)
            }),
            Hop::Peer(_) => snapshot.routes.hop(&end.addr) == end.hop,
            Hop::Gateway | Hop::Unallocated => false,
        }
    }
}

impl Seen {
    /// Whether what a flow leads to outside of the cluster is still there, and answers to it still come here (R2).
    fn is_out_there(&self, snapshot: &Snapshot, end: &End) -> bool {
        let Pair {
            original,
            translated,
            ..
        } = &self.pair;
        let is_own = |addr: &Addr| snapshot.routes.hop(addr) == Hop::Host;
        let answers_come = translated.source == original.source || is_own(&translated.source);
        !is_own(&end.addr) && answers_come
    }
}

/// Judges a live flow again: its ends must be there, the backend must not have gone under UDP (F1), no service may have
/// come for it (F3, F19), and both policies must still allow it, unless flows are kept that they once allowed (N12).
pub(crate) fn second_look(snapshot: &Snapshot, seen: &Seen, existing: Existing) -> Second {
    let Seen {
        pair: Pair {
            original,
            translated,
            direction,
        },
        remembered,
        decided,
        ..
    } = seen;
    let Some(arrival) = arrival(remembered.backward) else {
        return Second::Gone;
    };
    let (from, to) = seen.ends();
    match seen.presence(snapshot, &to) {
        Presence::There => {}
        // After a restart, pods are attached one by one.
        Presence::Detached if *decided == INHERITED => return Second::Passes,
        Presence::Detached | Presence::Gone => return Second::lost(original.protocol),
    }
    if !seen.is_same(snapshot, &from) {
        return Second::Gone;
    }
    if is_unserved(snapshot, seen) || is_awaited(snapshot, seen, arrival) {
        return match direction {
            Direction::Original => Second::Gone,
            // F18: a late answer is still one.
            Direction::Reply => Second::Passes,
        };
    }
    if existing == Existing::Keep {
        return Second::Holds;
    }
    let mut decision = Decision {
        service: remembered.service,
        translated: *translated,
        hop: Some(remembered.forward),
        ..Decision::new(arrival, *original)
    };
    decision.outcome =
        judge_egress(snapshot, &mut decision).and_then(|()| judge_ingress(snapshot, &mut decision));
    Second::Judged(decision)
}

fn arrival(backward: Hop) -> Option<Arrival> {
    match backward {
        Hop::Endpoint(id) => Some(Arrival::Endpoint(id)),
        Hop::Peer(id) => Some(Arrival::Peer(id)),
        Hop::Host => Some(Arrival::Host),
        Hop::World(_) => Some(Arrival::World),
        Hop::Gateway | Hop::Unallocated => None,
    }
}

/// True of an address that the host answers for, or forwards for.
fn is_host(snapshot: &Snapshot, addr: &Addr) -> bool {
    match snapshot.routes.hop(addr) {
        Hop::Host | Hop::World(_) | Hop::Gateway => true,
        Hop::Endpoint(_) | Hop::Peer(_) | Hop::Unallocated => false,
    }
}

/// F1: whether datagrams go to a backend that the service doesn't have any more.
fn is_unserved(snapshot: &Snapshot, seen: &Seen) -> bool {
    let Pair {
        original,
        translated,
        ..
    } = &seen.pair;
    let Some(id) = seen.remembered.service else {
        return false;
    };
    let backend = Backend {
        addr: translated.target,
        port: translated.target_port,
    };
    original.protocol == Protocol::UDP
        && !snapshot.services.serves(id, &dialled(original), &backend)
}

/// Whether a service has come for what went on as it was because nothing matched: it claims what nobody has answered
/// (F19), and datagrams that somebody has as soon as it has an endpoint (F3). Ports that it doesn't have it leaves alone,
/// as kube-proxy does.
fn is_awaited(snapshot: &Snapshot, seen: &Seen, arrival: Arrival) -> bool {
    let original = &seen.pair.original;
    let claimed = || matches!(frontend(snapshot, arrival, original), Ok(Some(_)));
    seen.remembered
        .awaits_service(original.protocol, seen.track)
        && match seen.track.is_answered() {
            true => is_served(snapshot, arrival, original),
            false => claimed(),
        }
}

/// True if a new flow like this one would be given a backend.
fn is_served(snapshot: &Snapshot, arrival: Arrival, original: &FlowKey) -> bool {
    let Found::Frontend(frontend) = snapshot.services.find(&dialled(original)) else {
        return false;
    };
    let service = snapshot.services.service(frontend.service);
    service.is_some_and(|service| {
        let candidates = service.candidates(frontend.kind, arrival.client());
        !candidates.all().is_empty()
    })
}

fn dialled(original: &FlowKey) -> ServiceKey {
    ServiceKey {
        addr: original.target,
        port: original.target_port,
        protocol: original.protocol,
    }
}
