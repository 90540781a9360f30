//! Source ports: the client's own where it can stay, one of ours where replies have to find back to this node.
//!
//! There is no allocator: the flow table refuses a flow whose replies would look like another's, so that a port is in
//! use only towards the targets that it is in use for, and it is free again with its flow.

use podway_state::spread;
use podway_tables::{Found, ServiceKey, Snapshot};
use podway_wire::{FlowKey, Protocol};

use crate::serve::SourceNat;

/// How many other ports are tried when a flow's replies would look like another's (S21).
const OTHERS: u64 = 16;
/// How many of our own are tried: one of 64 000 that are all in use but 1 in 100 is found with 99 of 100.
const OURS: u64 = 512;

/// The source ports that a new flow may take, in the order in which they are tried.
pub(crate) fn source_ports(
    snapshot: &Snapshot,
    key: &FlowKey,
    source: SourceNat,
) -> impl Iterator<Item = u16> {
    let entropy = key.entropy();
    let numbered = is_numbered(key);
    let (own, first, count, tries) = match source {
        SourceNat::Keep | SourceNat::Hairpin(_) => (Some(key.source_port), 1_024, 64_512, OTHERS),
        // R5: what has no port is told by its peer alone, so that one flow at a time has it.
        SourceNat::Masquerade(_) if !numbered => (Some(0), 0, 1, 0),
        SourceNat::Masquerade(_) => match snapshot.node.snat_ports {
            Some((first, last)) => (None, first, u64::from(last - first) + 1, OURS),
            None => (None, 0, 1, 0),
        },
    };
    // What has no port keeps none. An echo's identifier is as good as a port.
    let tries = if numbered { tries } else { 0 };
    let others = (0..tries).map(move |attempt| first + (spread(entropy ^ attempt) % count) as u16);
    // F10, R3: a host port may be among ours, and a port of the host's own sockets.
    let others = others.filter(move |port| {
        !is_served(snapshot, key.protocol, source, *port)
            && !is_hosts(snapshot, key.protocol, source, *port)
    });
    own.into_iter().chain(others)
}

/// True of a port at which the host's own stack answers, or is answered.
fn is_hosts(snapshot: &Snapshot, protocol: Protocol, source: SourceNat, port: u16) -> bool {
    match source {
        SourceNat::Masquerade(_) => snapshot.node.host_ports.contains(&(protocol, port)),
        SourceNat::Keep | SourceNat::Hairpin(_) => false,
    }
}

/// True of a flow with a port, or an echo's identifier.
pub(crate) fn is_numbered(key: &FlowKey) -> bool {
    key.protocol.has_ports() || key.source_port != 0
}

/// True of a protocol without ports that gets along with another source address than its sender's: it has no checksum
/// over the addresses, and is not about the link that it is sent on.
pub(crate) fn is_masqueradable(protocol: Protocol) -> bool {
    /// IGMP (RFC 9776).
    const IGMP: Protocol = Protocol(2);
    /// DCCP (RFC 4340), UDP-Lite (RFC 3828): they have ports, under a checksum with the addresses.
    const DCCP: Protocol = Protocol(33);
    const UDP_LITE: Protocol = Protocol(136);
    /// OSPF (RFC 5340), PIM (RFC 7761), VRRP (RFC 9568): checksums with the addresses, among neighbours.
    const OSPF: Protocol = Protocol(89);
    const PIM: Protocol = Protocol(103);
    const VRRP: Protocol = Protocol(112);
    let never = [
        Protocol::ICMP,
        Protocol::ICMPV6,
        IGMP,
        DCCP,
        UDP_LITE,
        OSPF,
        PIM,
        VRRP,
    ];
    !never.contains(&protocol)
}

/// True of a port at which a service or pod answers under the node's address.
fn is_served(snapshot: &Snapshot, protocol: Protocol, source: SourceNat, port: u16) -> bool {
    let SourceNat::Masquerade(addr) = source else {
        return false;
    };
    let dialled = ServiceKey {
        addr,
        port,
        protocol,
    };
    match snapshot.services.find(&dialled) {
        Found::Frontend(_) => true,
        Found::WrongPort | Found::Unallocated | Found::Nothing => false,
    }
}
