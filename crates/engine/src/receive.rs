//! The first steps of the walk: which port, out of which tunnel, whose packet.

use podway_tables::{Endpoint, Hop, PeerId, PortKind, Snapshot, Via};
use podway_wire::vxlan::{self, OpenError};
use podway_wire::{
    Addr, Content, Family, FlowKey, Fragment, Icmp, ParseError, Parsed, Protocol, macs,
};

use crate::decide::Arrival;
use crate::{DropReason, Packet};

/// A packet as the engine first sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Received {
    /// An IP packet that came without a tunnel.
    Ip(Parsed, Arrival),
    /// An IP packet whose tunnel was taken off.
    Opened(Parsed, Arrival),
    /// A question or answer of ARP or neighbour discovery, from a pod or the host.
    Neighbour(Arrival, Option<Parsed>),
}

/// Reads a packet's headers and checks that it may come from where it came.
#[inline]
pub(crate) fn receive(
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
) -> Result<Received, DropReason> {
    let port = snapshot
        .port(packet.ingress)
        .ok_or(DropReason::UnknownPort)?;
    let content = parse(packet)?;
    let received = match port.kind {
        PortKind::Pod(id) => {
            let id = id.ok_or(DropReason::UnknownPort)?;
            let endpoint = snapshot.endpoint(id).ok_or(DropReason::UnknownPort)?;
            from_pod(endpoint, packet, content, Arrival::Endpoint(id))?
        }
        PortKind::Host => from_host(snapshot, content)?,
        PortKind::Uplink => from_uplink(snapshot, packet, content)?,
    };
    if let Received::Ip(parsed, _) | Received::Opened(parsed, _) = &received {
        trim(packet, parsed)?;
        if parsed.key.target.is_multicast() {
            return Err(DropReason::Multicast);
        }
        if parsed.family == Family::V6 && lacks_checksum(packet, parsed) {
            return Err(DropReason::NoChecksum);
        }
    }
    Ok(received)
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
    content: Content,
    arrival: Arrival,
) -> Result<Received, DropReason> {
    let (_, source) = macs(packet.frame.bytes()).ok_or(DropReason::Truncated)?;
    if source != endpoint.mac {
        return Err(DropReason::Spoofed);
    }
    let parsed = match content {
        Content::Arp => return Ok(Received::Neighbour(arrival, None)),
        Content::Ip(parsed) => parsed,
    };
    if endpoint.addresses.contains(&parsed.key.source) {
        return Ok(match parsed.icmp {
            Icmp::Neighbour => Received::Neighbour(arrival, Some(parsed)),
            Icmp::No | Icmp::EchoRequest | Icmp::EchoReply | Icmp::Error | Icmp::Other => {
                Received::Ip(parsed, arrival)
            }
        });
    }
    // Neighbour discovery is asked from link-local addresses and, for duplicates, from nobody.
    let local = parsed.key.source.is_link_local() || parsed.key.source.bits() == 0;
    match parsed.icmp {
        Icmp::Neighbour if local => Ok(Received::Neighbour(arrival, Some(parsed))),
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
fn from_host(snapshot: &Snapshot, content: Content) -> Result<Received, DropReason> {
    let parsed = match content {
        Content::Arp => return Ok(Received::Neighbour(Arrival::Host, None)),
        Content::Ip(parsed) if parsed.icmp == Icmp::Neighbour => {
            return Ok(Received::Neighbour(Arrival::Host, Some(parsed)));
        }
        Content::Ip(parsed) => parsed,
    };
    let source = &parsed.key.source;
    let may_send = match snapshot.routes.hop(source) {
        Hop::Host | Hop::World | Hop::Gateway => true,
        Hop::Peer(id) => is_node(snapshot, id, source),
        Hop::Endpoint(_) | Hop::Unallocated => false,
    };
    match may_send {
        true => Ok(Received::Ip(parsed, Arrival::Host)),
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
    content: Content,
) -> Result<Received, DropReason> {
    let Content::Ip(outer) = content else {
        return Err(DropReason::NeighbourIgnored);
    };
    let node = &snapshot.node;
    let tunnelled = outer.key.protocol == Protocol::UDP
        && outer.key.target_port == node.tunnel_port
        && node.addresses.contains(&outer.key.target);
    if !tunnelled {
        let arrival = untunnelled(snapshot, packet, &outer.key)?;
        return Ok(Received::Ip(outer, arrival));
    }
    if outer.fragment != Fragment::Whole {
        return Err(DropReason::Fragment);
    }
    let (parsed, peer) = open(snapshot, packet, &outer)?;
    Ok(Received::Opened(parsed, Arrival::Peer(peer)))
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
        Hop::World => return Ok(Arrival::World),
        Hop::Peer(id) => id,
        Hop::Endpoint(_) | Hop::Host | Hop::Gateway | Hop::Unallocated => {
            return Err(DropReason::Spoofed);
        }
    };
    let peer = snapshot.peer(id).ok_or(DropReason::Spoofed)?;
    if peer.addresses.contains(&key.source) {
        let target = snapshot.routes.hop(&key.target);
        if matches!(target, Hop::Host | Hop::World) {
            return Ok(Arrival::World);
        }
    }
    let (_, sender) = macs(packet.frame.bytes()).ok_or(DropReason::Truncated)?;
    match peer.via {
        Via::Direct if peer.next_hop == Some(sender) => Ok(Arrival::Peer(id)),
        Via::Direct | Via::Vxlan | Via::Nothing => Err(DropReason::Spoofed),
    }
}

/// D8: the outer source is a current peer, and the inner source is one of its addresses.
#[inline]
fn open(
    snapshot: &Snapshot,
    packet: &mut Packet<'_>,
    outer: &Parsed,
) -> Result<(Parsed, PeerId), DropReason> {
    let Hop::Peer(peer) = snapshot.routes.hop(&outer.key.source) else {
        return Err(DropReason::UnknownPeer);
    };
    if snapshot
        .peer(peer)
        .is_none_or(|peer| peer.vtep != outer.key.source)
    {
        return Err(DropReason::UnknownPeer);
    }
    let opened = vxlan::open(packet.frame.bytes(), outer).map_err(|error| match error {
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
    let Content::Ip(mut inner) = parse(packet)? else {
        return Err(DropReason::NeighbourIgnored);
    };
    if snapshot.routes.hop(&inner.key.source) != Hop::Peer(peer) {
        return Err(DropReason::ForeignSource);
    }
    let class = vxlan::inner_traffic_class(outer.traffic_class, inner.traffic_class)
        .ok_or(DropReason::Congestion)?;
    if class != inner.traffic_class {
        podway_wire::edit::traffic_class(packet.frame.bytes_mut(), &mut inner, class);
    }
    Ok((inner, peer))
}

#[inline(always)]
fn parse(packet: &Packet<'_>) -> Result<Content, DropReason> {
    Parsed::frame(&packet.frame).map_err(|error| match error {
        ParseError::Truncated => DropReason::Truncated,
        ParseError::Malformed => DropReason::Malformed,
        ParseError::NotIp => DropReason::NotIp,
        ParseError::VlanTag => DropReason::VlanTag,
        ParseError::ExtensionHeaders => DropReason::ExtensionHeaders,
    })
}
