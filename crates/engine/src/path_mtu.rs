//! Path MTU discovery (RFC 1191, RFC 8201) by who is the router: what errors from the wire say of paths is kept, and holds
//! for the packets that we put into tunnels and the segments that we cut (R6).

use podway_state::PathMtus;
use podway_tables::{Hop, Peer, Snapshot, Via};
use podway_wire::{Addr, Embedded, Family, Parsed, Protocol, icmp, vxlan};

use crate::DropReason;
use crate::decide::Arrival;
use crate::emit::{Egress, SHORT};
use crate::flow::Flows;

/// Peers, and targets outside, whose path MTUs are known at a time.
const PEERS: usize = 1_024;
const TARGETS: usize = 8_192;
/// How long a path is taken to be narrow, in milliseconds, unless that is heard again (RFC 1191, 6.3; RFC 8201, 4).
const LIFETIME_MS: u32 = 600_000;

/// The paths on which less fits than on our own wire.
#[derive(Debug)]
pub struct Paths {
    /// To peers' ends of the tunnel, by their address: what may be around an inner packet, outer headers included.
    pub tunnels: PathMtus,
    /// Without a tunnel, by where packets go.
    pub plain: PathMtus,
}

impl Paths {
    /// Room for a node's paths, each kept for so many milliseconds after it was last heard of.
    pub fn new(lifetime_ms: u32) -> Paths {
        Paths {
            tunnels: PathMtus::new(PEERS, lifetime_ms),
            plain: PathMtus::new(TARGETS, lifetime_ms),
        }
    }

    /// Room for a few, as `explain` needs it.
    pub fn brief() -> Paths {
        Paths {
            tunnels: PathMtus::new(1, LIFETIME_MS),
            plain: PathMtus::new(1, LIFETIME_MS),
        }
    }

    /// The largest IP packet to `target` that gets there by this way.
    pub(crate) fn mtu(
        &self,
        flows: &Flows,
        egress: &Egress<'_>,
        target: &Addr,
        now_ms: u32,
    ) -> u32 {
        let (paths, target) = match egress.tunnel_end() {
            Some(end) => (&self.tunnels, end),
            None => (&self.plain, target),
        };
        if paths.is_empty() {
            return egress.mtu();
        }
        let learnt = paths.of(target.words(), flows.hash_of(target), now_ms);
        let inside = |mtu: u16| u32::from(mtu) - egress.headers() as u32;
        learnt.map_or(egress.mtu(), |mtu| egress.mtu().min(inside(mtu)))
    }

    /// Looks at one set of paths and forgets those that were not heard of for too long.
    pub(crate) fn sweep(&self, now_ms: u32) {
        self.tunnels.sweep(now_ms);
        self.plain.sweep(now_ms);
    }
}

impl Default for Paths {
    fn default() -> Paths {
        Paths::new(LIFETIME_MS)
    }
}

/// The largest packet that passes a path, by an error about one that was too big for it; `None` of other errors.
///
/// What can't be so is refused, whoever it is for: less than every path takes (RFC 8899, 4.6.1), no less than the packet
/// had that it quotes, a wrong checksum (D5).
pub(crate) fn claimed(
    bytes: &[u8],
    outer: &Parsed,
    embedded: &Embedded,
) -> Result<Option<u16>, DropReason> {
    let Some(mtu) = icmp::too_big(bytes, outer) else {
        return Ok(None);
    };
    let least = match outer.family {
        Family::V4 => SHORT,
        // RFC 8201, 4: a node must not reduce its estimate below that.
        Family::V6 => 1280,
    };
    let is_plausible = mtu >= least && mtu < embedded.length && icmp::is_sound(bytes, outer);
    let mtu = u16::try_from(mtu).ok().filter(|_| is_plausible);
    mtu.map(Some).ok_or(DropReason::ImplausibleMtu)
}

/// True of an arrival whose errors are about packets as they were on the wire: it was in no tunnel.
pub(crate) fn speaks_of_the_wire(snapshot: &Snapshot, arrival: Arrival) -> bool {
    match arrival {
        Arrival::World => true,
        Arrival::Peer(id) => snapshot.peer(id).is_some_and(|it| it.via == Via::Direct),
        Arrival::Endpoint(_) | Arrival::Host => false,
    }
}

/// The peer for which the packet was that an error from the wire is about, if it was one of our tunnel's, as far as the
/// quote tells: anybody can send an error, but has to know that much.
pub(crate) fn tunnelled_to<'a>(
    snapshot: &'a Snapshot,
    arrival: Arrival,
    bytes: &[u8],
    outer: &Parsed,
    embedded: &Embedded,
) -> Option<&'a Peer> {
    let (node, key) = (&snapshot.node, &embedded.key);
    let is_vxlan = key.protocol == Protocol::UDP
        && key.target_port == node.tunnel_port
        && key.source_port >= vxlan::FIRST_SOURCE_PORT;
    if arrival != Arrival::World || !is_vxlan {
        return None;
    }
    let Hop::Peer(id) = snapshot.routes.hop(&key.target) else {
        return None;
    };
    let peer = snapshot.peer(id)?;
    let is_ours = peer.vtep == key.target
        && peer.source == key.source
        && outer.key.target == key.source
        && vxlan::quoted_vni(bytes, embedded).is_none_or(|vni| vni == node.vni);
    is_ours.then_some(peer)
}

/// True if an inner packet of a tunnel that takes this much has the size that every path takes.
pub(crate) fn carries_anything(mtu: u16, peer: &Peer) -> bool {
    usize::from(mtu) >= SHORT as usize + vxlan::overhead(peer.vtep.family())
}
