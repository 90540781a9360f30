//! What services make of a new flow: which backend it has, and whom that sees as the source.

use podway_tables::{
    Backend, Choice, ClusterIpMasquerade, Found, Frontend, FrontendKind, Hop, Reach, Service,
    ServiceKey, Snapshot,
};
use podway_wire::icmp::IcmpError;
use podway_wire::{Addr, FlowKey};

use crate::DropReason;
use crate::decide::{Arrival, Decision, Reply, Stop};

/// Whom the target sees as the source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceNat {
    /// The source itself, by its own port.
    Keep,
    /// The gateway: a client that is its own backend (S19), or a backend that is a node and would answer past us (S22).
    Hairpin(Addr),
    /// This node, by a port of ours that is yet to be found.
    Masquerade(Addr),
}

/// The service port that a packet is for, by its cluster address, and how long its clients stay with their backends, in seconds (S14).
///
/// `None` if it is for none, or for one whose clients don't stay: then nothing is remembered of it.
pub fn affinity(snapshot: &Snapshot, arrival: Arrival, key: &FlowKey) -> Option<(ServiceKey, u32)> {
    let Ok(Some(frontend)) = frontend(snapshot, arrival, key) else {
        return None;
    };
    let service = snapshot.services.service(frontend.service)?;
    Some((service.key, service.affinity_timeout_s?))
}

/// What a service says of a packet's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Source {
    /// It may keep it.
    Own,
    /// Replies have to come back to this node.
    Node,
}

/// The frontend that a packet is for.
pub(crate) fn frontend(
    snapshot: &Snapshot,
    arrival: Arrival,
    key: &FlowKey,
) -> Result<Option<Frontend>, Stop> {
    const UNALLOCATED: Stop = Stop::Drop(DropReason::UnallocatedVip);
    let found = match key.protocol.has_ports() {
        true => snapshot.services.find(&ServiceKey {
            addr: key.target,
            port: key.target_port,
            protocol: key.protocol,
        }),
        false => snapshot.services.find_addr(&key.target),
    };
    // A packet out of the tunnel was translated where it entered, unless it is for this very node.
    if let Arrival::Peer(_) = arrival {
        return Ok(match found {
            Found::Frontend(frontend) if frontend.kind == FrontendKind::NodePort => Some(frontend),
            Found::Frontend(_) | Found::WrongPort | Found::Unallocated | Found::Nothing => None,
        });
    }
    match found {
        Found::Frontend(frontend) => Ok(Some(frontend)),
        Found::Nothing => Ok(None),
        Found::WrongPort if key.protocol.has_ports() => Err(refused()),
        Found::WrongPort => Err(Stop::Drop(DropReason::VipProtocol)),
        Found::Unallocated => Err(UNALLOCATED),
    }
}

/// Gives the packet a backend; says what becomes of its source.
pub(crate) fn choose(
    snapshot: &Snapshot,
    frontend: Frontend,
    affinity: Option<Backend>,
    decision: &mut Decision,
) -> Result<Source, Stop> {
    let Frontend { service: id, kind } = frontend;
    let Decision {
        arrival, original, ..
    } = *decision;
    decision.service = Some(id);
    decision.kind = Some(kind);
    let service = snapshot.services.service(id);
    let service = service.ok_or(Stop::Drop(DropReason::ServiceDrop))?;
    if !service.admits(kind, &original.source) {
        return Err(Stop::Drop(DropReason::SourceRange));
    }
    let client = arrival.client();
    let last = affinity.filter(|last| service.candidates(kind, client).contains(last));
    let choice = match last {
        Some(last) => Choice::Backend(last),
        None => service.choose(kind, client, original.entropy()),
    };
    let backend = match choice {
        Choice::Backend(backend) => backend,
        Choice::Reject => return Err(refused()),
        Choice::Drop => return Err(Stop::Drop(DropReason::ServiceDrop)),
    };
    decision.backend = Some(backend);
    decision.translated.target = backend.addr;
    decision.translated.target_port = backend.port;
    Ok(source_for(snapshot, service, kind, arrival))
}

/// S20: what kube-proxy marks for masquerade.
fn source_for(
    snapshot: &Snapshot,
    service: &Service,
    kind: FrontendKind,
    arrival: Arrival,
) -> Source {
    match kind {
        FrontendKind::ClusterIp => match (snapshot.node.cluster_ip_masquerade, arrival) {
            (ClusterIpMasquerade::All, _) => Source::Node,
            (ClusterIpMasquerade::None, _) => Source::Own,
            (ClusterIpMasquerade::Foreign, Arrival::Endpoint(_)) => Source::Own,
            (ClusterIpMasquerade::Foreign, Arrival::Host | Arrival::Peer(_) | Arrival::World) => {
                Source::Node
            }
        },
        FrontendKind::LoadBalancer | FrontendKind::ExternalIp | FrontendKind::NodePort => {
            match (service.external, arrival) {
                (Reach::Cluster, _) | (Reach::Local, Arrival::Host) => Source::Node,
                (Reach::Local, Arrival::Endpoint(_) | Arrival::Peer(_) | Arrival::World) => {
                    Source::Own
                }
            }
        }
    }
}

/// Whom the target has to see so that its replies come back through us.
pub(crate) fn source_nat(
    snapshot: &Snapshot,
    decision: &Decision,
    hop: Hop,
    source: Source,
) -> Result<SourceNat, Stop> {
    let node = &snapshot.node;
    let Decision {
        original, arrival, ..
    } = decision;
    let family = original.source.family();
    let own = node.address(family).ok_or(Stop::Drop(DropReason::NoRoute));
    let gateway = || node.gateway(family).map_or(own, Ok);
    let target = &decision.translated.target;
    let served = decision.backend.is_some();
    // S19: a pod that reaches itself must see somebody else as the source, or its stack answers inwardly.
    if served && *target == original.source {
        return Ok(SourceNat::Hairpin(gateway()?));
    }
    if let Hop::World(id) = hop {
        // R1: the address that the route prefers.
        let preferred = snapshot.world.to(id).and_then(|next| next.source);
        let own = preferred.map_or(own, Ok);
        let exempt = |addr: &Addr| {
            let mut ranges = node.masquerade_exempt.iter();
            ranges.any(|range| range.contains(&addr.ip()))
        };
        let from_pod = matches!(arrival, Arrival::Endpoint(_));
        return match from_pod && source == Source::Own && exempt(target) {
            true => Ok(SourceNat::Keep),
            false => Ok(SourceNat::Masquerade(own?)),
        };
    }
    // S22: a node's stack answers pods and gateways through us, everybody else by its own routes; and it takes
    // no packet from outside that has its own address.
    if served && is_node_at(snapshot, hop, target) {
        return match source == Source::Node || !is_pod(snapshot, *arrival, &original.source) {
            true => Ok(SourceNat::Hairpin(gateway()?)),
            false => Ok(SourceNat::Keep),
        };
    }
    // What comes from an address of ours has it already.
    let ours = *arrival == Arrival::Host && snapshot.routes.hop(&original.source) == Hop::Host;
    match source {
        Source::Node if !ours => Ok(SourceNat::Masquerade(own?)),
        Source::Node | Source::Own => Ok(SourceNat::Keep),
    }
}

fn is_pod(snapshot: &Snapshot, arrival: Arrival, source: &Addr) -> bool {
    match arrival {
        Arrival::Endpoint(_) => true,
        Arrival::Peer(_) => !is_node_at(snapshot, arrival.hop(), source),
        Arrival::Host | Arrival::World => false,
    }
}

/// True if an address with this hop is a node's own.
pub(crate) fn is_node_at(snapshot: &Snapshot, hop: Hop, addr: &Addr) -> bool {
    match hop {
        Hop::Host => true,
        Hop::Peer(id) => snapshot
            .peer(id)
            .is_some_and(|peer| peer.addresses.contains(addr)),
        Hop::Endpoint(_) | Hop::Gateway | Hop::Unallocated | Hop::World(_) => false,
    }
}

fn refused() -> Stop {
    Stop::Reply(Reply::Error(IcmpError::PortUnreachable))
}
