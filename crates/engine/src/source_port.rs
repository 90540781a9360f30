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
    let numbered = key.protocol.has_ports() || key.source_port != 0;
    let (own, first, count, tries) = match source {
        SourceNat::Keep | SourceNat::Hairpin(_) => (Some(key.source_port), 1_024, 64_512, OTHERS),
        SourceNat::Masquerade(_) => match snapshot.node.snat_ports {
            Some((first, last)) => (None, first, u64::from(last - first) + 1, OURS),
            None => (None, 0, 1, 0),
        },
    };
    // What has no port keeps none, and can't be masqueraded: its answers would not be known for ours. An echo's
    // identifier is as good as a port.
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
