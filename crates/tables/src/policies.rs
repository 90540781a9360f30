//! Who may talk to whom, resolved per local pod at compile time and read on a flow's first packet only.

use podway_wire::{Addr, Protocol};

use crate::EndpointId;

/// From the pod's point of view.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Direction {
    /// Towards the pod.
    Ingress,
    /// From the pod.
    Egress,
}

/// The rule that decided; names stay in `intent`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleId(pub u32);

/// What the policies of one direction say of a new connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Judgement {
    /// No policy has anything to say.
    None,
    /// A rule allows it.
    Allow(RuleId),
    /// A rule denies it, or (`None`) the pod is isolated and no rule matches.
    Deny(Option<RuleId>),
}

/// The compiled policies of the pods on this node.
#[derive(Clone, Debug, Default)]
pub struct Policies {}

impl Policies {
    /// Judges a connection of `endpoint` with `peer`; `port` is the target's port (after DNAT), 0 without ports.
    pub fn judge(
        &self,
        endpoint: EndpointId,
        direction: Direction,
        peer: &Addr,
        protocol: Protocol,
        port: u16,
    ) -> Judgement {
        let _ = (endpoint, direction, peer, protocol, port);
        Judgement::None
    }
}
