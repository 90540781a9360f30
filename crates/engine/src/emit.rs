//! The last steps of the walk: TTL, size, Ethernet addresses, tunnel.

use podway_tables::{Exit, Hop, NoWay, Node, Peer, PortId, Snapshot, Via};
use podway_wire::cut::Cut;
use podway_wire::icmp::IcmpError;
use podway_wire::vxlan::{self, Outer};
use podway_wire::{Addr, Family, Fragment, Frame, Mac, Parsed, Protocol, edit};

use crate::DropReason;
use crate::decide::{Halt, Reply, Stop, no_way};
use crate::remember::{LastHop, PackedLastHop};

/// A hop resolved to a device and the Ethernet addresses to put on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Egress<'a> {
    hop: Hop,
    port: PortId,
    target: Mac,
    source: Mac,
    /// The largest IP packet, in bytes.
    mtu: u32,
    tunnel: Option<Tunnel<'a>>,
}

/// The tunnel to a peer.
#[derive(Clone, Copy, Debug)]
struct Tunnel<'a> {
    node: &'a Node,
    peer: &'a Peer,
    next_hop: Mac,
    source_port: u16,
}

/// Where a packet goes: the hop, and what a hop alone doesn't say.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Towards {
    pub(crate) hop: Hop,
    /// Whom its flow's packets came from on the wire, if they did.
    pub(crate) last_hop: PackedLastHop,
    /// Chooses the tunnel's source port.
    pub(crate) entropy: u64,
}

/// Resolves where a packet goes to a device; what its sender is told if it can't be is [`closed`]'s matter.
#[inline(always)]
pub(crate) fn egress(snapshot: &Snapshot, towards: Towards) -> Result<Egress<'_>, DropReason> {
    let node = &snapshot.node;
    let hop = towards.hop;
    let plain = |port, target, mtu| Egress {
        hop,
        port,
        target,
        source: node.gateway_mac,
        mtu,
        tunnel: None,
    };
    match hop {
        Hop::Endpoint(id) => {
            let endpoint = snapshot.endpoint(id).ok_or(DropReason::NoSuchPod)?;
            let port = endpoint.port.ok_or(DropReason::PodNotAttached)?;
            Ok(plain(port, endpoint.mac, endpoint.mtu))
        }
        Hop::Host => {
            let port = node.host.ok_or(DropReason::NoRoute)?;
            Ok(plain(port, node.host_mac, node.host_mtu))
        }
        Hop::Peer(id) => {
            let peer = snapshot.peer(id).ok_or(DropReason::NoRoute)?;
            let port = peer.port.ok_or(DropReason::NoRoute)?;
            let next_hop = || peer.next_hop.ok_or(DropReason::NoNeighbour);
            match peer.via {
                Via::Vxlan => {}
                Via::Direct => {
                    return Ok(Egress {
                        source: peer.source_mac,
                        ..plain(port, next_hop()?, peer.mtu)
                    });
                }
                Via::Nothing => return Err(DropReason::OffSubnet),
            }
            let tunnel = Tunnel {
                node,
                peer,
                next_hop: next_hop()?,
                source_port: vxlan::FIRST_SOURCE_PORT | (towards.entropy as u16 & 0x3fff),
            };
            let inside = plain(port, node.gateway_mac, peer.mtu);
            Ok(Egress {
                tunnel: Some(tunnel),
                ..inside
            })
        }
        Hop::World(id) => {
            let next = match snapshot.world.exit(id) {
                Some(Exit::To(next)) => next,
                Some(Exit::Refused(_)) => return Err(DropReason::NoRoute),
                None => {
                    let last_hop = towards.last_hop.unpack();
                    return back(snapshot, hop, last_hop).ok_or(DropReason::NoRoute);
                }
            };
            // Answers need not wait until the way back is resolved: they go to whom the flow's packets come from.
            let is_same = |last: &LastHop| last.port == next.port;
            let learnt = || towards.last_hop.unpack().filter(is_same);
            let target = next.mac.or_else(|| learnt().map(|last| last.mac));
            let target = target.ok_or(DropReason::NoNeighbour)?;
            Ok(Egress {
                source: next.source_mac,
                ..plain(next.port, target, next.mtu)
            })
        }
        Hop::Gateway | Hop::Unallocated => Err(DropReason::NoRoute),
    }
}

/// What becomes of a packet that has no egress for this reason: a way out of the cluster says so itself (R1).
#[cold]
pub(crate) fn closed(snapshot: &Snapshot, hop: Hop, reason: DropReason) -> Halt {
    let Hop::World(id) = hop else {
        return Halt::Stop(Stop::Drop(reason));
    };
    match snapshot.world.exit(id) {
        Some(Exit::To(_)) => Halt::Unresolved,
        Some(Exit::Refused(why)) => Halt::Stop(no_way(*why)),
        None => Halt::Stop(no_way(NoWay::NoRoute)),
    }
}

/// The way back to whom a flow's packets come from on the wire, where no route leads there.
#[cold]
fn back(snapshot: &Snapshot, hop: Hop, last_hop: Option<LastHop>) -> Option<Egress<'_>> {
    let LastHop { port, mac } = last_hop?;
    let uplink = snapshot.world.uplink(port)?;
    Some(Egress {
        hop,
        port,
        target: mac,
        source: uplink.mac,
        mtu: uplink.mtu,
        tunnel: None,
    })
}

/// How a packet fits where it goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Fit {
    /// As it is.
    Whole,
    /// As it is, or as the beginning of a larger packet.
    Loose,
    /// In parts.
    Cut(Cut),
}

/// No flow's segments have to be shorter than this, in bytes of IP packet, and no path is believed to take less (RFC
/// 1122, 3.3.2).
pub(crate) const SHORT: u32 = 576;

/// How long packets may be, in bytes.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limits {
    /// On the path, whatever they are.
    pub(crate) path: u32,
    /// Those of the flow, if they are TCP segments.
    pub(crate) segment: u32,
}

/// Checks what a router checks before it sends on: hops left, and size; `limits` is asked of packets that are not short.
#[inline]
pub(crate) fn fit(
    frame: &Frame<'_>,
    parsed: &Parsed,
    egress: &Egress<'_>,
    limits: impl FnOnce() -> Limits,
) -> Result<Fit, Stop> {
    // What is delivered to this node's own stack makes no hop.
    if parsed.ttl <= 1 && egress.hop != Hop::Host {
        return Err(Stop::Reply(Reply::Error(IcmpError::TimeExceeded)));
    }
    if parsed.length <= egress.mtu.min(SHORT) {
        return Ok(Fit::Whole);
    }
    let limits = limits();
    if parsed.length > limits.segment.min(limits.path) {
        return cut(frame.bytes(), parsed, limits, egress.mtu);
    }
    let data = parsed.key.protocol == Protocol::TCP && parsed.fragment == Fragment::Whole;
    match data && !egress.leads_out() && parsed.length * 2 <= egress.mtu {
        true => Ok(Fit::Loose),
        false => Ok(Fit::Whole),
    }
}

/// How a packet is cut that is too long: TCP into segments, and else what its sender allows (D2). `wire` is what our own
/// wire takes.
#[cold]
fn cut(bytes: &[u8], parsed: &Parsed, limits: Limits, wire: u32) -> Result<Fit, Stop> {
    let longest = limits.segment.min(limits.path);
    if let Some(segments) = Cut::segments(bytes, parsed, longest as usize) {
        return Ok(Fit::Cut(segments));
    }
    let mtu = match parsed.family {
        Family::V4 => limits.path,
        // Nobody has to send less (RFC 8200, 5): a narrower tunnel gets what our own wire takes, and drops it.
        Family::V6 => limits.path.max(1280).min(wire),
    };
    if parsed.length <= mtu {
        return Ok(Fit::Whole);
    }
    // Segments are never sent in fragments, of which each one that is lost costs all, and some paths drop every one (R6).
    let is_segment = parsed.key.protocol == Protocol::TCP && parsed.fragment == Fragment::Whole;
    if is_segment || parsed.forbids_fragments(bytes) {
        let mtu = mtu.min(u32::from(u16::MAX)) as u16;
        return Err(Stop::Reply(Reply::Error(IcmpError::TooBig { mtu })));
    }
    let fragments = Cut::fragments(parsed, mtu as usize).map(Fit::Cut);
    fragments.ok_or(Stop::Drop(DropReason::TooBig))
}

/// Takes one from the TTL, puts the Ethernet header on and the tunnel's around it; gives the port to send by.
#[inline(always)]
pub(crate) fn send(
    frame: &mut Frame<'_>,
    parsed: &Parsed,
    egress: &Egress<'_>,
) -> Result<PortId, DropReason> {
    if egress.hop != Hop::Host {
        edit::decrement_ttl(frame.bytes_mut(), parsed);
    }
    edit::ethernet(
        frame.bytes_mut(),
        egress.target,
        egress.source,
        parsed.family,
    );
    if let Some(tunnel) = &egress.tunnel {
        let outer = tunnel.outer(parsed.traffic_class);
        vxlan::push(frame, &outer).map_err(|_| DropReason::NoHeadroom)?;
    }
    Ok(egress.port)
}

impl Tunnel<'_> {
    /// The headers around a packet of this traffic class.
    #[inline(always)]
    fn outer(&self, traffic_class: u8) -> Outer {
        let Tunnel { node, peer, .. } = self;
        Outer {
            target_mac: self.next_hop,
            source_mac: peer.source_mac,
            source: peer.source,
            target: peer.vtep,
            source_port: self.source_port,
            target_port: node.tunnel_port,
            vni: node.vni,
            traffic_class,
        }
    }
}

impl Egress<'_> {
    /// True if it leads into the tunnel.
    #[inline]
    pub(crate) fn tunnels(&self) -> bool {
        self.tunnel.is_some()
    }

    /// The far end of the tunnel that it leads into.
    pub(crate) fn tunnel_end(&self) -> Option<&Addr> {
        self.tunnel.as_ref().map(|tunnel| &tunnel.peer.vtep)
    }

    /// Where it leads.
    pub(crate) fn hop(&self) -> Hop {
        self.hop
    }

    /// The largest IP packet, in bytes.
    pub(crate) fn mtu(&self) -> u32 {
        self.mtu
    }

    /// How long packets may be of which nothing else is known.
    pub(crate) fn limits(&self) -> Limits {
        Limits {
            path: self.mtu,
            segment: u32::MAX,
        }
    }

    /// True if it leads to the wire.
    #[inline]
    pub(crate) fn leads_out(&self) -> bool {
        match self.hop {
            Hop::Peer(_) | Hop::World(_) => true,
            Hop::Endpoint(_) | Hop::Host | Hop::Gateway | Hop::Unallocated => false,
        }
    }

    /// How many bytes of headers are put in front of a packet that goes there.
    pub(crate) fn headers(&self) -> usize {
        let tunnel = self.tunnel.as_ref();
        tunnel.map_or(0, |tunnel| vxlan::overhead(tunnel.peer.vtep.family()))
    }
}
