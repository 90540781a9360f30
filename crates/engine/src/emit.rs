//! The last steps of the walk: TTL, size, Ethernet addresses, tunnel.

use podway_tables::{Hop, PortId, Snapshot};
use podway_wire::icmp::IcmpError;
use podway_wire::vxlan::{self, Outer};
use podway_wire::{Frame, Mac, Parsed, edit};

use crate::DropReason;
use crate::decide::{Reply, Stop};

/// A hop resolved to a device and the Ethernet addresses to put on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Egress {
    hop: Hop,
    port: PortId,
    mac: Mac,
    /// The largest IP packet, in bytes.
    mtu: u32,
    tunnel: Option<Outer>,
}

/// Resolves a hop; `entropy` chooses the tunnel's source port.
#[inline]
pub(crate) fn egress(snapshot: &Snapshot, hop: Hop, entropy: u64) -> Result<Egress, DropReason> {
    let node = &snapshot.node;
    match hop {
        Hop::Endpoint(id) => {
            let endpoint = snapshot.endpoint(id).ok_or(DropReason::NoSuchPod)?;
            let port = endpoint.port.ok_or(DropReason::PodNotAttached)?;
            Ok(Egress {
                hop,
                port,
                mac: endpoint.mac,
                mtu: endpoint.mtu,
                tunnel: None,
            })
        }
        Hop::Host => {
            let port = node.host.ok_or(DropReason::NoRoute)?;
            Ok(Egress {
                hop,
                port,
                mac: node.host_mac,
                mtu: node.host_mtu,
                tunnel: None,
            })
        }
        Hop::Peer(id) => {
            let peer = snapshot.peer(id).ok_or(DropReason::NoRoute)?;
            let port = node.uplink.ok_or(DropReason::NoRoute)?;
            let outer = Outer {
                target_mac: peer.next_hop.ok_or(DropReason::NoNeighbour)?,
                source_mac: node.uplink_mac,
                source: peer.source,
                target: peer.vtep,
                source_port: 49_152 | (entropy as u16 & 0x3fff),
                target_port: node.tunnel_port,
                vni: node.vni,
                traffic_class: 0,
            };
            let mtu = u32::from(node.tunnel_mtu);
            Ok(Egress {
                hop,
                port,
                mac: node.gateway_mac,
                mtu,
                tunnel: Some(outer),
            })
        }
        Hop::Gateway | Hop::Unallocated | Hop::World => Err(DropReason::NoRoute),
    }
}

/// How a packet fits where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// As it is.
    Whole,
    /// In parts of this many bytes.
    Parts(usize),
}

/// Checks what a router checks before it sends on: hops left, and size.
#[inline]
pub(crate) fn fit(frame: &Frame<'_>, parsed: &Parsed, egress: &Egress) -> Result<Fit, Stop> {
    // What is delivered to this node's own stack makes no hop.
    if parsed.ttl <= 1 && egress.hop != Hop::Host {
        return Err(Stop::Reply(Reply::Error(IcmpError::TimeExceeded)));
    }
    if parsed.length <= egress.mtu {
        return Ok(Fit::Whole);
    }
    if parsed.forbids_fragments(frame.bytes()) {
        let mtu = egress.mtu.min(u32::from(u16::MAX)) as u16;
        return Err(Stop::Reply(Reply::Error(IcmpError::TooBig { mtu })));
    }
    // The payload in other chunks can't be seen from here.
    match frame.carried() {
        0 => Ok(Fit::Parts(egress.mtu as usize)),
        _ => Err(Stop::Drop(DropReason::TooBig)),
    }
}

/// Takes one from the TTL, puts the Ethernet header on and the tunnel's around it; gives the port to send by.
#[inline]
pub(crate) fn send(
    snapshot: &Snapshot,
    frame: &mut Frame<'_>,
    parsed: &Parsed,
    egress: &Egress,
) -> Result<PortId, DropReason> {
    if egress.hop != Hop::Host {
        edit::decrement_ttl(frame.bytes_mut(), parsed);
    }
    edit::ethernet(
        frame.bytes_mut(),
        egress.mac,
        snapshot.node.gateway_mac,
        parsed.family,
    );
    if let Some(mut outer) = egress.tunnel {
        outer.traffic_class = parsed.traffic_class;
        vxlan::push(frame, &outer).map_err(|_| DropReason::NoHeadroom)?;
    }
    Ok(egress.port)
}

impl Egress {
    /// True if it leads into the tunnel.
    #[inline]
    pub(crate) fn tunnels(&self) -> bool {
        self.tunnel.is_some()
    }
}
