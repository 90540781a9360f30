//! What becomes of a new flow: one pure function for the packet path, for `explain` and for a dry run.

use podway_tables::{
    Backend, Choice, Client, ClusterIpMasquerade, Direction, EndpointId, Found, Frontend,
    FrontendKind, Hop, Judgement, PeerId, Reach, Service, ServiceId, ServiceKey, Snapshot,
};
use podway_wire::icmp::IcmpError;
use podway_wire::{Addr, FlowKey, Icmp, Parsed, Protocol};

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

    /// What that is to services.
    pub fn client(self) -> Client {
        match self {
            Arrival::Endpoint(_) | Arrival::Host => Client::Inside,
            Arrival::Peer(_) | Arrival::World => Client::Outside,
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
    /// A TCP reset: whom the segment is for is gone.
    Reset,
}

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

/// All that was decided about a flow, in the order in which it was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Decision {
    /// Where it came from.
    pub arrival: Arrival,
    /// The packet's key.
    pub original: FlowKey,
    /// The service that it was for.
    pub service: Option<ServiceId>,
    /// What the dialled address is to that service.
    pub kind: Option<FrontendKind>,
    /// The backend that was chosen.
    pub backend: Option<Backend>,
    /// Whom the target sees.
    pub source: SourceNat,
    /// The key that it goes on with; its source port is the packet's own.
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
    /// The decision to let a packet go on as it is, before anything was looked at.
    pub fn new(arrival: Arrival, original: FlowKey) -> Decision {
        Decision {
            arrival,
            original,
            service: None,
            kind: None,
            backend: None,
            source: SourceNat::Keep,
            translated: original,
            egress: Judgement::None,
            ingress: Judgement::None,
            hop: None,
            outcome: Ok(()),
        }
    }

    /// Every backend that the packet could have been given, and no other; none if it was given none.
    pub fn candidates<'a>(&self, snapshot: &'a Snapshot) -> &'a [Backend] {
        let service = self.service.and_then(|id| snapshot.services.service(id));
        match (service, self.kind, self.backend) {
            (Some(service), Some(kind), Some(_)) => {
                service.candidates(kind, self.arrival.client()).all()
            }
            (_, _, _) => &[],
        }
    }

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

/// The service port that a packet is for and how long its clients stay with their backends, in seconds (S14).
///
/// `None` if it is for none, or for one whose clients don't stay: then nothing is remembered of it.
pub fn affinity(snapshot: &Snapshot, arrival: Arrival, key: &FlowKey) -> Option<(ServiceId, u32)> {
    let Ok(Some(frontend)) = frontend(snapshot, arrival, key) else {
        return None;
    };
    let service = snapshot.services.service(frontend.service)?;
    Some((frontend.service, service.affinity_timeout_s?))
}

/// Decides on the first packet of a flow; reads tables only.
///
/// `affinity` is the backend that the packet's client had last; it has it again if it may (S14).
pub fn decide(
    snapshot: &Snapshot,
    arrival: Arrival,
    parsed: &Parsed,
    affinity: Option<Backend>,
) -> Decision {
    let mut decision = Decision::new(arrival, parsed.key);
    decision.outcome = run(snapshot, parsed, affinity, &mut decision);
    decision
}

fn run(
    snapshot: &Snapshot,
    parsed: &Parsed,
    affinity: Option<Backend>,
    decision: &mut Decision,
) -> Result<(), Stop> {
    pod_tunnel(snapshot, decision)?;
    let frontend = frontend(snapshot, decision.arrival, &decision.original)?;
    let source = match frontend {
        Some(frontend) => choose(snapshot, frontend, affinity, decision)?,
        None => Source::Own,
    };
    let hop = snapshot.routes.hop(&decision.translated.target);
    decision.hop = Some(hop);
    judge_egress(snapshot, decision)?;
    reachable(parsed, decision, hop)?;
    decision.source = source_nat(snapshot, decision, hop, source)?;
    match decision.source {
        SourceNat::Keep => {}
        SourceNat::Hairpin(addr) | SourceNat::Masquerade(addr) => decision.translated.source = addr,
    }
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
    is_node_at(snapshot, snapshot.routes.hop(&key.target), &key.target)
}

/// True if an address with this hop is a node's own.
fn is_node_at(snapshot: &Snapshot, hop: Hop, addr: &Addr) -> bool {
    match hop {
        Hop::Host => true,
        Hop::Peer(id) => snapshot
            .peer(id)
            .is_some_and(|peer| peer.addresses.contains(addr)),
        Hop::Endpoint(_) | Hop::Gateway | Hop::Unallocated | Hop::World => false,
    }
}

/// What a service says of a packet's source.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Source {
    /// It may keep it.
    Own,
    /// Replies have to come back to this node.
    Node,
}

/// The frontend that a packet is for.
fn frontend(
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
fn choose(
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
fn source_nat(
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
    if hop == Hop::World {
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
    let ours = *arrival == Arrival::Host && node.addresses.contains(&original.source);
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

fn refused() -> Stop {
    Stop::Reply(Reply::Error(IcmpError::PortUnreachable))
}

fn reachable(parsed: &Parsed, decision: &Decision, hop: Hop) -> Result<(), Stop> {
    const NO_ROUTE: Result<(), Stop> = Err(Stop::Drop(DropReason::NoRoute));
    let served = decision.backend.is_some();
    match (hop, decision.arrival) {
        (Hop::Gateway, _) if parsed.icmp == Icmp::EchoRequest => Err(Stop::Reply(Reply::Echo)),
        (Hop::Unallocated, _) => Err(Stop::Drop(DropReason::NoSuchPod)),
        (Hop::Gateway, _) => NO_ROUTE,
        // No transit: what came from outside goes to this node or nowhere, unless a service sends it on.
        (Hop::Peer(_), Arrival::Peer(_) | Arrival::World) if !served => NO_ROUTE,
        (Hop::World, Arrival::Host | Arrival::Peer(_) | Arrival::World) if !served => NO_ROUTE,
        // S10: what came to a port of this node that is no service's is the node's own.
        (Hop::Host, Arrival::Host) if !served => NO_ROUTE,
        (Hop::Endpoint(_) | Hop::Host | Hop::Peer(_) | Hop::World, _) => Ok(()),
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
