//! What becomes of a new flow: one pure function for the packet path, for `explain` and for a dry run.

use podway_tables::{
    Backend, Choice, Direction, EndpointId, Found, Hop, Judgement, PeerId, ServiceId, ServiceKey,
    Snapshot,
};
use podway_wire::icmp::IcmpError;
use podway_wire::{FlowKey, Icmp, Parsed, Protocol};

use crate::DropReason;

/// Where a packet came in, after its tunnel was opened.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// From a pod on this node.
    Endpoint(EndpointId),
    /// From this node's own stack.
    Host,
    /// Out of the tunnel from a peer.
    Peer(PeerId),
    /// From the wire, without a tunnel.
    World,
}

impl Arrival {
    /// The hop that leads back there.
    pub fn hop(self) -> Hop {
        match self {
            Arrival::Endpoint(id) => Hop::Endpoint(id),
            Arrival::Host => Hop::Host,
            Arrival::Peer(id) => Hop::Peer(id),
            Arrival::World => Hop::World,
        }
    }
}

/// Why a packet goes no further.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// It is dropped.
    Drop(DropReason),
    /// An answer goes back in its place.
    Reply(Reply),
}

/// What the engine itself answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reply {
    /// The gateway's echo reply.
    Echo,
    /// An ICMP error about the packet.
    Error(IcmpError),
}

/// All that was decided about a flow, in the order in which it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Where it came from.
    pub arrival: Arrival,
    /// The packet's key.
    pub original: FlowKey,
    /// The service that it was for.
    pub service: Option<ServiceId>,
    /// The backend that was chosen.
    pub backend: Option<Backend>,
    /// The key that it goes on with.
    pub translated: FlowKey,
    /// What the source pod's policies say; judged on the translated target.
    pub egress: Judgement,
    /// What the target pod's policies say; judged on the original source.
    pub ingress: Judgement,
    /// Where it goes; `None` if it stopped before that was known.
    pub hop: Option<Hop>,
    /// Whether it goes there.
    pub outcome: Result<(), Stop>,
}

impl Decision {
    /// The pod on this node that it came from.
    pub fn source_endpoint(&self) -> Option<EndpointId> {
        match self.arrival {
            Arrival::Endpoint(id) => Some(id),
            Arrival::Host | Arrival::Peer(_) | Arrival::World => None,
        }
    }

    /// The pod on this node that it goes to.
    pub fn target_endpoint(&self) -> Option<EndpointId> {
        endpoint_of(self.hop?)
    }
}

pub(crate) fn endpoint_of(hop: Hop) -> Option<EndpointId> {
    match hop {
        Hop::Endpoint(id) => Some(id),
        Hop::Peer(_) | Hop::Host | Hop::Gateway | Hop::Unallocated | Hop::World => None,
    }
}

/// Decides on the first packet of a flow; reads tables only.
pub fn decide(snapshot: &Snapshot, arrival: Arrival, parsed: &Parsed) -> Decision {
    let mut decision = Decision {
        arrival,
        original: parsed.key,
        service: None,
        backend: None,
        translated: parsed.key,
        egress: Judgement::None,
        ingress: Judgement::None,
        hop: None,
        outcome: Ok(()),
    };
    decision.outcome = run(snapshot, parsed, &mut decision);
    decision
}

fn run(snapshot: &Snapshot, parsed: &Parsed, decision: &mut Decision) -> Result<(), Stop> {
    pod_tunnel(snapshot, decision)?;
    // A packet out of the tunnel was translated where it entered.
    if !matches!(decision.arrival, Arrival::Peer(_)) {
        choose(snapshot, decision)?;
    }
    let hop = snapshot.routes.hop(&decision.translated.target);
    decision.hop = Some(hop);
    judge_egress(snapshot, decision)?;
    reachable(parsed, decision.arrival, hop)?;
    judge_ingress(snapshot, decision)
}

/// D12: the tunnel is the nodes', whatever a pod puts into its packets.
fn pod_tunnel(snapshot: &Snapshot, decision: &Decision) -> Result<(), Stop> {
    const IPIP: Protocol = Protocol(4);
    const IPV6_IN_IP: Protocol = Protocol(41);
    let Arrival::Endpoint(_) = decision.arrival else {
        return Ok(());
    };
    let key = &decision.original;
    let tunnels = match key.protocol {
        Protocol::UDP => key.target_port == snapshot.node.tunnel_port,
        IPIP | IPV6_IN_IP => true,
        _ => false,
    };
    if tunnels && is_node(snapshot, key) {
        return Err(Stop::Drop(DropReason::PodTunnel));
    }
    Ok(())
}

fn is_node(snapshot: &Snapshot, key: &FlowKey) -> bool {
    match snapshot.routes.hop(&key.target) {
        Hop::Host => true,
        Hop::Peer(id) => snapshot
            .peer(id)
            .is_some_and(|peer| peer.vtep == key.target),
        Hop::Endpoint(_) | Hop::Gateway | Hop::Unallocated | Hop::World => false,
    }
}

fn choose(snapshot: &Snapshot, decision: &mut Decision) -> Result<(), Stop> {
    let key = decision.original;
    if !key.protocol.has_ports() {
        return match snapshot.services.find_addr(&key.target) {
            Found::Nothing => Ok(()),
            Found::Service(_) | Found::WrongPort => Err(Stop::Drop(DropReason::VipProtocol)),
            Found::Unallocated => Err(Stop::Drop(DropReason::UnallocatedVip)),
        };
    }
    let dialled = ServiceKey {
        addr: key.target,
        port: key.target_port,
        protocol: key.protocol,
    };
    let id = match snapshot.services.find(&dialled) {
        Found::Nothing => return Ok(()),
        Found::Service(id) => id,
        Found::WrongPort => return Err(refused()),
        Found::Unallocated => return Err(Stop::Drop(DropReason::UnallocatedVip)),
    };
    decision.service = Some(id);
    let service = snapshot
        .services
        .service(id)
        .ok_or(Stop::Drop(DropReason::ServiceDrop))?;
    let backend = match service.choose(key.entropy()) {
        Choice::Backend(backend) => backend,
        Choice::Reject => return Err(refused()),
        Choice::Drop => return Err(Stop::Drop(DropReason::ServiceDrop)),
    };
    decision.backend = Some(backend);
    decision.translated.target = backend.addr;
    decision.translated.target_port = backend.port;
    // S19: a pod that reaches itself must see somebody else as the source, or its stack answers inwardly.
    if backend.addr == key.source {
        let family = key.source.family();
        let gateway = snapshot
            .node
            .gateways
            .iter()
            .find(|gateway| gateway.family() == family);
        decision.translated.source = *gateway.ok_or(Stop::Drop(DropReason::NoRoute))?;
    }
    Ok(())
}

fn refused() -> Stop {
    Stop::Reply(Reply::Error(IcmpError::PortUnreachable))
}

fn reachable(parsed: &Parsed, arrival: Arrival, hop: Hop) -> Result<(), Stop> {
    match (hop, arrival) {
        (Hop::Gateway, _) if parsed.icmp == Icmp::EchoRequest => Err(Stop::Reply(Reply::Echo)),
        (Hop::Unallocated, _) => Err(Stop::Drop(DropReason::NoSuchPod)),
        (Hop::Gateway | Hop::World, _) => Err(Stop::Drop(DropReason::NoRoute)),
        // No transit: what came from outside goes to this node or nowhere.
        (Hop::Peer(_), Arrival::Peer(_) | Arrival::World) => Err(Stop::Drop(DropReason::NoRoute)),
        (Hop::Host, Arrival::Host | Arrival::World) => Err(Stop::Drop(DropReason::NoRoute)),
        (Hop::Endpoint(_) | Hop::Host | Hop::Peer(_), _) => Ok(()),
    }
}

/// What the source pod's policies say, after DNAT (N10).
pub(crate) fn judge_egress(snapshot: &Snapshot, decision: &mut Decision) -> Result<(), Stop> {
    let Some(id) = decision.source_endpoint() else {
        return Ok(());
    };
    // N13: a pod reaches itself.
    if decision.target_endpoint() == Some(id) {
        return Ok(());
    }
    let Decision { translated, .. } = *decision;
    let (protocol, port) = (translated.protocol, policy_port(&translated));
    let policies = &snapshot.policies;
    decision.egress = policies.judge(id, Direction::Egress, &translated.target, protocol, port);
    match decision.egress {
        Judgement::Deny(_) => Err(Stop::Drop(DropReason::EgressDenied)),
        Judgement::None | Judgement::Allow(_) => Ok(()),
    }
}

/// What the target pod's policies say, before SNAT (N10).
pub(crate) fn judge_ingress(snapshot: &Snapshot, decision: &mut Decision) -> Result<(), Stop> {
    let Some(id) = decision.target_endpoint() else {
        return Ok(());
    };
    let Decision {
        original,
        translated,
        arrival,
        ..
    } = *decision;
    // N13: a pod reaches itself, and its own node always reaches it.
    let own_node = arrival == Arrival::Host && snapshot.node.addresses.contains(&original.source);
    if own_node || decision.source_endpoint() == Some(id) {
        return Ok(());
    }
    let (protocol, port) = (translated.protocol, policy_port(&translated));
    let policies = &snapshot.policies;
    decision.ingress = policies.judge(id, Direction::Ingress, &original.source, protocol, port);
    match decision.ingress {
        Judgement::Deny(_) => Err(Stop::Drop(DropReason::IngressDenied)),
        Judgement::None | Judgement::Allow(_) => Ok(()),
    }
}

/// The port to judge by; ICMP has none, its key holds an echo identifier there.
fn policy_port(key: &FlowKey) -> u16 {
    if key.protocol.has_ports() {
        key.target_port
    } else {
        0
    }
}
