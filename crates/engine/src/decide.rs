//! What becomes of a new flow: one pure function for the packet path, for `explain` and for a dry run.

use podway_tables::{
    Backend, Client, Direction, EndpointId, Exit, FrontendKind, Hop, Judgement, NextHopId, NoWay,
    PeerId, RuleId, ServiceId, Snapshot,
};
use podway_wire::icmp::IcmpError;
use podway_wire::{Addr, FlowKey, Icmp, Parsed, Protocol};

use crate::DropReason;
use crate::serve::{Source, SourceNat, choose, frontend, is_node_at, source_nat};
use crate::source_port::{is_masqueradable, is_numbered};

/// Where a packet came in, its tunnel taken off.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Arrival {
    /// From a pod on this node.
    Endpoint(EndpointId),
    /// From this node's own stack.
    Host,
    /// From a peer, out of the tunnel or directly.
    Peer(PeerId),
    /// From the wire, and from no pod of the cluster.
    World,
}

impl Arrival {
    /// The hop that leads back there.
    pub fn hop(self) -> Hop {
        match self {
            Arrival::Endpoint(id) => Hop::Endpoint(id),
            Arrival::Host => Hop::Host,
            Arrival::Peer(id) => Hop::Peer(id),
            Arrival::World => Hop::WORLD,
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
        Hop::Peer(_) | Hop::Host | Hop::Gateway | Hop::Unallocated | Hop::World(_) => None,
    }
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
    own_address(snapshot, decision)?;
    pod_tunnel(snapshot, decision)?;
    let frontend = frontend(snapshot, decision.arrival, &decision.original)?;
    let source = match frontend {
        Some(frontend) => choose(snapshot, frontend, affinity, decision)?,
        None => Source::Own,
    };
    let hop = snapshot.hop(&decision.translated.target);
    decision.hop = Some(hop);
    judge_egress(snapshot, decision)?;
    reachable(snapshot, parsed, decision, hop)?;
    decision.source = source_nat(snapshot, decision, hop, source)?;
    match decision.source {
        SourceNat::Keep => {}
        SourceNat::Hairpin(addr) | SourceNat::Masquerade(addr) => decision.translated.source = addr,
    }
    masqueradable(decision)?;
    answerable(decision)?;
    judge_ingress(snapshot, decision)
}

/// F18: a pod that is over, but whose device is still here, begins nothing under an address that is another's by now.
fn own_address(snapshot: &Snapshot, decision: &Decision) -> Result<(), Stop> {
    match decision.arrival {
        Arrival::Endpoint(_)
            if snapshot.routes.hop(&decision.original.source) != decision.arrival.hop() =>
        {
            Err(Stop::Drop(DropReason::AddressLost))
        }
        Arrival::Endpoint(_) | Arrival::Host | Arrival::Peer(_) | Arrival::World => Ok(()),
    }
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

fn reachable(
    snapshot: &Snapshot,
    parsed: &Parsed,
    decision: &Decision,
    hop: Hop,
) -> Result<(), Stop> {
    const NO_ROUTE: Result<(), Stop> = Err(Stop::Drop(DropReason::NoRoute));
    let served = decision.backend.is_some();
    match (hop, decision.arrival) {
        (Hop::Gateway, _) if parsed.icmp == Icmp::EchoRequest => Err(Stop::Reply(Reply::Echo)),
        (Hop::Unallocated, _) => Err(Stop::Drop(DropReason::NoSuchPod)),
        (Hop::Gateway, _) => NO_ROUTE,
        // No transit: what came from outside goes to this node or nowhere, unless a service sends it on.
        (Hop::Peer(_), Arrival::Peer(_) | Arrival::World) if !served => NO_ROUTE,
        (Hop::World(_), Arrival::Host | Arrival::Peer(_) | Arrival::World) if !served => NO_ROUTE,
        // S10: what came to a port of this node that is no service's is the node's own.
        (Hop::Host, Arrival::Host) if !served => NO_ROUTE,
        (Hop::World(id), _) => leads_out(snapshot, id),
        (Hop::Endpoint(_) | Hop::Host | Hop::Peer(_), _) => Ok(()),
    }
}

/// Whether a way out of the cluster can be taken.
fn leads_out(snapshot: &Snapshot, id: NextHopId) -> Result<(), Stop> {
    match snapshot.world.exit(id) {
        Some(Exit::To(_)) => Ok(()),
        Some(Exit::Refused(why)) => Err(no_way(*why)),
        None => Err(no_way(NoWay::NoRoute)),
    }
}

/// Why a packet goes no further.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Halt {
    /// It ends here.
    Stop(Stop),
    /// The Ethernet address of whom it is for, outside of the cluster, is not known yet.
    Unresolved,
}

impl From<Stop> for Halt {
    fn from(stop: Stop) -> Halt {
        Halt::Stop(stop)
    }
}

/// What the sender of a packet is told that no way is open to (R1): what the kernel would tell it.
pub(crate) fn no_way(why: NoWay) -> Stop {
    match why {
        NoWay::NoRoute => Stop::Reply(Reply::Error(IcmpError::NetUnreachable)),
        NoWay::Unreachable => Stop::Reply(Reply::Error(IcmpError::HostUnreachable)),
        NoWay::Prohibited => Stop::Reply(Reply::Error(IcmpError::Prohibited)),
        NoWay::Blackhole => Stop::Drop(DropReason::Blackhole),
    }
}

/// R5: what has no ports leaves under this node's address only if it gets along with that.
fn masqueradable(decision: &Decision) -> Result<(), Stop> {
    let key = &decision.original;
    match decision.source {
        SourceNat::Masquerade(_) if !is_numbered(key) && !is_masqueradable(key.protocol) => {
            Err(Stop::Drop(DropReason::NotMasqueradable))
        }
        SourceNat::Masquerade(_) | SourceNat::Keep | SourceNat::Hairpin(_) => Ok(()),
    }
}

/// S26: nobody beyond this node's own stack can answer its loopback.
fn answerable(decision: &Decision) -> Result<(), Stop> {
    match decision.translated.source.is_loopback() {
        true => Err(Stop::Drop(DropReason::NoRoute)),
        false => Ok(()),
    }
}

/// What the source pod's policies say, after DNAT (N10).
pub(crate) fn judge_egress(snapshot: &Snapshot, decision: &mut Decision) -> Result<(), Stop> {
    let Some(question) = egress_question(decision) else {
        return Ok(());
    };
    decision.egress = question.judge(snapshot);
    match decision.egress {
        Judgement::Deny(_) => Err(Stop::Drop(DropReason::EgressDenied)),
        Judgement::None | Judgement::Allow(_) => Ok(()),
    }
}

/// What the target pod's policies say, before SNAT (N10).
pub(crate) fn judge_ingress(snapshot: &Snapshot, decision: &mut Decision) -> Result<(), Stop> {
    let Some(question) = ingress_question(snapshot, decision) else {
        return Ok(());
    };
    decision.ingress = question.judge(snapshot);
    match decision.ingress {
        Judgement::Deny(_) => Err(Stop::Drop(DropReason::IngressDenied)),
        Judgement::None | Judgement::Allow(_) => Ok(()),
    }
}

/// What one end's policies are asked.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question {
    pub(crate) endpoint: EndpointId,
    pub(crate) direction: Direction,
    peer: Addr,
    protocol: Protocol,
    port: u16,
}

impl Question {
    fn judge(&self, snapshot: &Snapshot) -> Judgement {
        let policies = &snapshot.policies;
        policies.judge(
            self.endpoint,
            self.direction,
            &self.peer,
            self.protocol,
            self.port,
        )
    }

    /// The rule by which observed policies would stop what those in force let through.
    pub(crate) fn observe(&self, snapshot: &Snapshot) -> Option<RuleId> {
        let policies = &snapshot.policies;
        policies.observe(
            self.endpoint,
            self.direction,
            &self.peer,
            self.protocol,
            self.port,
        )
    }
}

/// What the source pod's policies are asked; nothing if there is no such pod, or if it reaches itself (N13).
pub(crate) fn egress_question(decision: &Decision) -> Option<Question> {
    let endpoint = decision.source_endpoint()?;
    let translated = &decision.translated;
    (decision.target_endpoint() != Some(endpoint)).then(|| Question {
        endpoint,
        direction: Direction::Egress,
        peer: translated.target,
        protocol: translated.protocol,
        port: policy_port(translated),
    })
}

/// What the target pod's policies are asked; nothing of the pod itself, nor of its own node (N13).
pub(crate) fn ingress_question(snapshot: &Snapshot, decision: &Decision) -> Option<Question> {
    let endpoint = decision.target_endpoint()?;
    let source = decision.original.source;
    // Nobody else's link-local address gets here: routers send none on.
    let is_own = || {
        snapshot.routes.hop(&source) == Hop::Host || source.is_link_local() || source.is_loopback()
    };
    let own_node = decision.arrival == Arrival::Host && is_own();
    let translated = &decision.translated;
    (!own_node && decision.source_endpoint() != Some(endpoint)).then(|| Question {
        endpoint,
        direction: Direction::Ingress,
        peer: source,
        protocol: translated.protocol,
        port: policy_port(translated),
    })
}

/// The port to judge by; ICMP has none, its key holds an echo identifier there.
fn policy_port(key: &FlowKey) -> u16 {
    if key.protocol.has_ports() {
        key.target_port
    } else {
        0
    }
}
