//! A flow entry is a remembered decision: how one is packed into the words that the flow table keeps.

use podway_tables::{Direction, EndpointId, Hop, NextHopId, PeerId, PortId, ServiceId, Snapshot};
use podway_wire::{Addr, Mac, Protocol};

use crate::decide::{Decision, endpoint_of};
use crate::second_look::Pair;
use crate::serve::is_node_at;
use crate::track::Track;

/// What later packets of a flow need of its decision; the translation is in the flow's two keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Where packets of the original direction go.
    pub forward: Hop,
    /// Where replies go.
    pub backward: Hop,
    /// The service that chose the backend.
    pub service: Option<ServiceId>,
    /// Whom the first packet came from on the wire, if it came from there.
    pub last_hop: Option<LastHop>,
    /// Which of its ends were known by name.
    pub known: Known,
}

/// Which ends of a flow are pods of other nodes that the cluster knows, so that they are known to be gone later (F18).
///
/// A pod may be dialled before its object is here, and an ending one sends after its object has gone.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Known {
    /// The one that dialled.
    pub source: bool,
    /// The one that it leads to.
    pub target: bool,
}

impl Known {
    /// Of a decision to go on to this hop.
    pub(crate) fn of(snapshot: &Snapshot, decision: &Decision, hop: Hop) -> Known {
        Known {
            source: is_known(snapshot, &decision.original.source, decision.arrival.hop()),
            target: is_known(snapshot, &decision.translated.target, hop),
        }
    }
}

/// True of an address behind a peer that is the peer's own, or a pod's that the cluster knows.
pub(crate) fn is_known(snapshot: &Snapshot, addr: &Addr, hop: Hop) -> bool {
    match hop {
        Hop::Peer(_) => {
            snapshot.policies.identity(addr).is_some() || is_node_at(snapshot, hop, addr)
        }
        Hop::Endpoint(_) | Hop::Host | Hop::Gateway | Hop::Unallocated | Hop::World(_) => false,
    }
}

/// Who handed a packet to us on the wire: replies go back there where no route says better.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct LastHop {
    /// The uplink.
    pub port: PortId,
    /// The sender's Ethernet address.
    pub mac: Mac,
}

impl LastHop {
    /// The way back to `addr`: the host's own, if that leads by the same uplink, and else to whom it came from.
    pub(crate) fn way_back(self, snapshot: &Snapshot, addr: &Addr) -> Hop {
        let id = snapshot.world.next_hop(addr);
        match snapshot.world.to(id) {
            Some(next) if next.port == self.port => Hop::World(id),
            Some(_) | None => Hop::WORLD,
        }
    }
}

/// A [`LastHop`], or none, as the flow table keeps it: few packets need to know what it says.
///
/// The highest bit says that there is one; the port has the other fifteen before the Ethernet address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct PackedLastHop(u64);

impl PackedLastHop {
    pub(crate) const NONE: PackedLastHop = PackedLastHop(0);
    const SOME: u64 = 1 << 63;

    pub(crate) fn of(last_hop: Option<LastHop>) -> PackedLastHop {
        let Some(last) = last_hop else {
            return PackedLastHop::NONE;
        };
        let [a, b, c, d, e, f] = last.mac.0;
        let [high, low] = last.port.0.to_be_bytes();
        PackedLastHop(PackedLastHop::SOME | u64::from_be_bytes([high, low, a, b, c, d, e, f]))
    }

    #[inline]
    pub(crate) fn unpack(self) -> Option<LastHop> {
        let [high, low, a, b, c, d, e, f] = self.0.to_be_bytes();
        let port = PortId(u16::from_be_bytes([high & 0x7f, low]));
        let mac = Mac([a, b, c, d, e, f]);
        (self.0 & PackedLastHop::SOME != 0).then_some(LastHop { port, mac })
    }
}

impl Remembered {
    /// What to keep of a decision to forward.
    pub(crate) fn of(
        snapshot: &Snapshot,
        decision: &Decision,
        hop: Hop,
        last_hop: Option<LastHop>,
    ) -> Remembered {
        let back = last_hop.map(|last| last.way_back(snapshot, &decision.original.source));
        Remembered {
            forward: hop,
            backward: back.unwrap_or(decision.arrival.hop()),
            service: decision.service,
            last_hop,
            known: Known::default(),
        }
    }

    /// The same by the ways out of the cluster that there are now (R1).
    pub(crate) fn rerouted(self, snapshot: &Snapshot, pair: &Pair) -> Remembered {
        let way = |addr: &Addr| Hop::World(snapshot.world.next_hop(addr));
        let forward = match self.forward {
            Hop::World(_) => way(&pair.translated.target),
            hop @ (Hop::Endpoint(_)
            | Hop::Peer(_)
            | Hop::Host
            | Hop::Gateway
            | Hop::Unallocated) => hop,
        };
        let backward = match (self.backward, self.last_hop) {
            (Hop::World(_), Some(last)) => last.way_back(snapshot, &pair.original.source),
            (Hop::World(_), None) => way(&pair.original.source),
            (hop, _) => hop,
        };
        Remembered {
            forward,
            backward,
            ..self
        }
    }

    /// The words for the flow table.
    #[inline]
    pub fn words(&self) -> [u64; 4] {
        let hops = u64::from(hop_word(self.forward)) << 32 | u64::from(hop_word(self.backward));
        let service = self.service.map_or(0, |id| u64::from(id.0) + 1);
        let known = u64::from(self.known.source) | u64::from(self.known.target) << 1;
        [hops, service, PackedLastHop::of(self.last_hop).0, known]
    }

    /// What [`Remembered::words`] packed; `None` of words that it can't have made.
    #[inline]
    pub fn of_words(words: [u64; 4]) -> Option<Remembered> {
        Some(Remembered {
            forward: word_hop((words[0] >> 32) as u32)?,
            backward: word_hop(words[0] as u32)?,
            service: words[1].checked_sub(1).map(|id| ServiceId(id as u32)),
            last_hop: PackedLastHop(words[2]).unpack(),
            known: Known {
                source: words[3] & 1 != 0,
                target: words[3] & 2 != 0,
            },
        })
    }

    /// Where packets of a direction go by these words, and whom to on the wire: what every packet asks for.
    #[inline]
    pub(crate) fn way(
        words: &[u64; 4],
        direction: podway_state::Direction,
    ) -> Option<(Hop, PackedLastHop)> {
        let hop = match direction {
            podway_state::Direction::Original => words[0] >> 32,
            podway_state::Direction::Reply => words[0],
        };
        Some((word_hop(hop as u32)?, PackedLastHop(words[2])))
    }

    /// True of a flow to no pod and through no service, which a service may claim as soon as there is one (F3, F19).
    ///
    /// What was answered is left alone, but for datagrams, which have no end of their own.
    pub(crate) fn awaits_service(&self, protocol: Protocol, track: Track) -> bool {
        self.service.is_none()
            && (protocol == Protocol::UDP || !track.is_answered())
            && matches!(self.forward, Hop::World(_) | Hop::Host | Hop::Peer(_))
    }

    /// True if nothing that decided it can have changed after `decided`, a snapshot's sequence number.
    ///
    /// Never of a flow of an isolated pod: what its rules say of a peer changes with the peer's labels, too.
    pub fn is_current(&self, snapshot: &Snapshot, decided: u32) -> bool {
        let isolated = |hop: Hop, direction: Direction| {
            endpoint_of(hop).is_some_and(|id| snapshot.policies.verdicts(id, direction).is_some())
        };
        if isolated(self.forward, Direction::Ingress) || isolated(self.backward, Direction::Egress)
        {
            return false;
        }
        let hop = |hop: Hop| match hop {
            Hop::Endpoint(id) => snapshot.endpoint(id).map(|endpoint| endpoint.generation),
            Hop::Peer(id) => snapshot.peer(id).map(|peer| peer.generation),
            Hop::World(_) => Some(snapshot.world.generation),
            Hop::Host | Hop::Gateway | Hop::Unallocated => Some(0),
        };
        let service = match self.service {
            Some(id) => snapshot
                .services
                .service(id)
                .map(|service| service.generation),
            None => Some(0),
        };
        [hop(self.forward), hop(self.backward), service]
            .iter()
            .all(|generation| generation.is_some_and(|generation| generation <= decided))
    }
}

const ENDPOINT: u32 = 1 << 28;
const PEER: u32 = 2 << 28;
const HOST: u32 = 3 << 28;
const WORLD: u32 = 4 << 28;

fn hop_word(hop: Hop) -> u32 {
    match hop {
        Hop::Endpoint(id) => ENDPOINT | id.0,
        Hop::Peer(id) => PEER | u32::from(id.0),
        Hop::Host => HOST,
        Hop::World(id) => WORLD | id.0,
        Hop::Gateway | Hop::Unallocated => 0,
    }
}

#[inline]
fn word_hop(word: u32) -> Option<Hop> {
    let id = word & 0x0fff_ffff;
    match word & 0xf000_0000 {
        ENDPOINT => Some(Hop::Endpoint(EndpointId(id))),
        PEER => Some(Hop::Peer(PeerId(id as u16))),
        HOST => Some(Hop::Host),
        WORLD => Some(Hop::World(NextHopId(id))),
        _ => None,
    }
}
