//! The first steps of the walk: which port, out of which tunnel, whose packet.

use podway_tables::{Endpoint, Hop, PeerId, PortKind, Snapshot, Via};
use podway_wire::vxlan::{self, OpenError};
use podway_wire::{
    Addr, Carries, Family, FlowKey, Fragment, Icmp, ParseError, Parsed, Protocol, macs,
};

use crate::decide::Arrival;
use crate::{DropReason, Packet};

/// What a packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// An IP packet that came without a tunnel.
    Ip,
    /// An IP packet whose tunnel was taken off.
    Opened,
    /// A question or answer of neighbour discovery, from a pod or the host.
    Neighbour,
    /// One of ARP, of which nothing was parsed.
    Arp,
}

/// Reads a packet's headers into `parsed` and checks that it may come from where it came.
#[inline]
pub(crate) fn receive(
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    parsed: &mut Parsed,
) -> Result<(Kind, Arrival), DropReason> {
    let port = snapshot
        .port(packet.ingress)
        .ok_or(DropReason::UnknownPort)?;
    let carries = read(packet, parsed)?;
    let (kind, arrival) = match port.kind {
        PortKind::Pod(id) => {
            let id = id.ok_or(DropReason::UnknownPort)?;
            let endpoint = snapshot.endpoint(id).ok_or(DropReason::UnknownPort)?;
            let kind = from_pod(endpoint, packet, carries, parsed)?;
            (kind, Arrival::Endpoint(id))
        }
        PortKind::Host => (from_host(snapshot, carries, parsed)?, Arrival::Host),
        PortKind::Uplink => from_uplink(snapshot, packet, carries, parsed)?,
    };
    match kind {
        Kind::Ip | Kind::Opened => {}
        Kind::Neighbour | Kind::Arp => return Ok((kind, arrival)),
    }
    trim(packet, parsed)?;
    if is_odd(packet, parsed) {
        refuse_odd(packet, parsed, arrival)?;
    }
    Ok((kind, arrival))
}

/// True of all packets that [`refuse_odd`] has something against, and of few others.
#[inline(always)]
fn is_odd(packet: &Packet<'_>, parsed: &Parsed) -> bool {
    let target = &parsed.key.target;
    match parsed.family {
        Family::V4 => target.low_bytes()[0] == 127 || target.low_bytes()[0] >= 224,
        Family::V6 => {
            target.words()[0] == 0 || target.octets()[0] == 0xff || lacks_checksum(packet, parsed)
        }
    }
}

#[cold]
fn refuse_odd(packet: &Packet<'_>, parsed: &Parsed, arrival: Arrival) -> Result<(), DropReason> {
    let target = &parsed.key.target;
    if target.is_multicast() {
        return Err(DropReason::Multicast);
    }
    // S26: this node's own processes alone reach what is at its loopback.
    if target.is_loopback() && arrival != Arrival::Host {
        return Err(DropReason::Malformed);
    }
    match parsed.family == Family::V6 && lacks_checksum(packet, parsed) {
        true => Err(DropReason::NoChecksum),
        false => Ok(()),
    }
}

/// D4: UDP's zero says "none", which IPv6 forbids to all but tunnels.
fn lacks_checksum(packet: &Packet<'_>, parsed: &Parsed) -> bool {
    let at = parsed.l4 as usize + 6;
    parsed.key.protocol == Protocol::UDP
        && parsed.fragment != Fragment::Later
        && packet.frame.bytes().get(at..at + 2) == Some(&[0, 0])
}

/// Takes Ethernet padding off, which must not go into a tunnel.
#[inline]
fn trim(packet: &mut Packet<'_>, parsed: &Parsed) -> Result<(), DropReason> {
    if packet.frame.len() == parsed.end() {
        return Ok(());
    }
    // Padding makes a frame 60 bytes long: nobody pads one that spans chunks.
    if packet.frame.carried() > 0 {
        return Err(DropReason::Malformed);
    }
    packet
        .frame
        .resize(parsed.end())
        .map_err(|_| DropReason::Malformed)
}

/// D11: a pod sends with its own addresses, or it leaves no trace.
#[inline]
fn from_pod(
    endpoint: &Endpoint,
    packet: &Packet<'_>,
    carries: Carries,
    parsed: &Parsed,
) -> Result<Kind, DropReason> {
    let (_, source) = macs(packet.frame.bytes()).ok_or(DropReason::Truncated)?;
    if source != endpoint.mac {
        return Err(DropReason::Spoofed);
    }
    if carries == Carries::Arp {
        return Ok(Kind::Arp);
    }
    if endpoint.addresses.contains(&parsed.key.source) {
        return Ok(match parsed.icmp {
            Icmp::Neighbour => Kind::Neighbour,
            Icmp::No | Icmp::EchoRequest | Icmp::EchoReply | Icmp::Error | Icmp::Other => Kind::Ip,
        });
    }
    // Neighbour discovery is asked from link-local addresses and, for duplicates, from nobody.
    let local = parsed.key.source.is_link_local() || parsed.key.source.bits() == 0;
    match parsed.icmp {
        Icmp::Neighbour if local => Ok(Kind::Neighbour),
        Icmp::Neighbour
        | Icmp::No
        | Icmp::EchoRequest
        | Icmp::EchoReply
        | Icmp::Error
        | Icmp::Other => Err(DropReason::Spoofed),
    }
}

/// D11: the host sends as itself and forwards for the world; pods have ports of their own, and others' pods a tunnel.
#[inline]
fn from_host(snapshot: &Snapshot, carries: Carries, parsed: &Parsed) -> Result<Kind, DropReason> {
    match carries {
        Carries::Arp => return Ok(Kind::Arp),
        Carries::Ip if parsed.icmp == Icmp::Neighbour => return Ok(Kind::Neighbour),
        Carries::Ip => {}
    }
    let source = &parsed.key.source;
    let may_send = match snapshot.routes.hop(source) {
        Hop::Host | Hop::World(_) | Hop::Gateway => true,
        Hop::Peer(id) => is_node(snapshot, id, source),
        Hop::Endpoint(_) | Hop::Unallocated => false,
    };
    match may_send {
        true => Ok(Kind::Ip),
        false => Err(DropReason::Spoofed),
    }
}

/// True if an address behind a peer is the peer's own, not a pod's.
fn is_node(snapshot: &Snapshot, peer: PeerId, addr: &Addr) -> bool {
    let peer = snapshot.peer(peer);
    peer.is_some_and(|peer| peer.addresses.contains(addr))
}

#[inline]
fn from_uplink(
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    carries: Carries,
    parsed: &mut Parsed,
) -> Result<(Kind, Arrival), DropReason> {
    if carries == Carries::Arp {
        return Err(DropReason::NeighbourIgnored);
    }
    let node = &snapshot.node;
    let tunnelled = parsed.key.protocol == Protocol::UDP
        && parsed.key.target_port == node.tunnel_port
        && node.addresses.contains(&parsed.key.target);
    if !tunnelled {
        let arrival = untunnelled(snapshot, packet, &parsed.key)?;
        return Ok((Kind::Ip, arrival));
    }
    if parsed.fragment != Fragment::Whole {
        return Err(DropReason::Fragment);
    }
    let peer = open(snapshot, packet, parsed)?;
    Ok((Kind::Opened, Arrival::Peer(peer)))
}

/// Who sends a packet that comes from the wire without a tunnel.
///
/// From an address outside of the cluster that is the world, and so it is from another node to what is this node's or
/// nobody's in the cluster (a node port, a load balancer's address). Else an address of the cluster comes through the
/// tunnel, from one of our ports, or from the peer that it belongs to, if that sends directly (D8).
#[inline]
fn untunnelled(
    snapshot: &Snapshot,
    packet: &Packet<'_>,
    key: &FlowKey,
) -> Result<Arrival, DropReason> {
    let id = match snapshot.routes.hop(&key.source) {
        Hop::World(_) if key.source.is_loopback() => return Err(DropReason::Malformed),
        Hop::World(_) => return Ok(Arrival::World),
        Hop::Peer(id) => id,
        Hop::Endpoint(_) | Hop::Host | Hop::Gateway | Hop::Unallocated => {
            return Err(DropReason::Spoofed);
        }
    };
    let peer = snapshot.peer(id).ok_or(DropReason::Spoofed)?;
    if peer.addresses.contains(&key.source) {
        let target = snapshot.routes.hop(&key.target);
        if matches!(target, Hop::Host | Hop::World(_)) {
            return Ok(Arrival::World);
        }
    }
    let (_, sender) = macs(packet.frame.bytes()).ok_or(DropReason::Truncated)?;
    match peer.via {
        Via::Direct if peer.next_hop == Some(sender) => Ok(Arrival::Peer(id)),
        Via::Direct | Via::Vxlan | Via::Nothing => Err(DropReason::Spoofed),
    }
}

/// D8: the outer source is a current peer, and the inner source is one of its addresses. `parsed` is of the outer packet
/// before, and of the inner one after it.
#[inline]
fn open(
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    parsed: &mut Parsed,
) -> Result<PeerId, DropReason> {
    let Hop::Peer(peer) = snapshot.routes.hop(&parsed.key.source) else {
        return Err(DropReason::UnknownPeer);
    };
    if snapshot
        .peer(peer)
        .is_none_or(|peer| peer.vtep != parsed.key.source)
    {
        return Err(DropReason::UnknownPeer);
    }
    let outer_class = parsed.traffic_class;
    let opened = vxlan::open(packet.frame.bytes(), parsed).map_err(|error| match error {
        OpenError::Truncated => DropReason::Truncated,
        OpenError::Malformed => DropReason::Malformed,
    })?;
    if opened.vni != snapshot.node.vni {
        return Err(DropReason::WrongVni);
    }
    packet
        .frame
        .pull(opened.headers)
        .map_err(|_| DropReason::Truncated)?;
    if read(packet, parsed)? == Carries::Arp {
        return Err(DropReason::NeighbourIgnored);
    }
    if snapshot.routes.hop(&parsed.key.source) != Hop::Peer(peer) {
        return Err(DropReason::ForeignSource);
    }
    let class = vxlan::inner_traffic_class(outer_class, parsed.traffic_class)
        .ok_or(DropReason::Congestion)?;
    if class != parsed.traffic_class {
        podway_wire::edit::traffic_class(packet.frame.bytes_mut(), parsed, class);
    }
    Ok(peer)
}

#[inline(always)]
fn read(packet: &Packet<'_>, parsed: &mut Parsed) -> Result<Carries, DropReason> {
    parsed.read(&packet.frame).map_err(|error| match error {
        ParseError::Truncated => DropReason::Truncated,
        ParseError::Malformed => DropReason::Malformed,
        ParseError::NotIp => DropReason::NotIp,
        ParseError::VlanTag => DropReason::VlanTag,
        ParseError::ExtensionHeaders => DropReason::ExtensionHeaders,
    })
}
