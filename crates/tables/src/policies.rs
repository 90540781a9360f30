//! Who may talk to whom, resolved per local pod at compile time and read on a flow's first packet only.

use std::sync::Arc;

use podway_wire::{Addr, Protocol};

use crate::{EndpointId, SharedMap, Slots, Verdicts};

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

/// Pods that no policy can tell apart: same namespace, labels and named ports.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct IdentityId(pub u32);

/// A pair of selectors (of namespaces and of pods) that some rule names its peers by.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SelectorId(pub u32);

/// The name of a container port.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PortNameId(pub u32);

/// What rules can see of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Identity {
    /// The selectors that match it, in order.
    pub selectors: Vec<SelectorId>,
    /// Its named ports.
    pub ports: Vec<(PortNameId, Protocol, u16)>,
}

/// The compiled policies of the pods on this node.
///
/// Their size is pods + identities + rules, never pods × pods: an identity carries the selectors that match it, and
/// a local pod's verdicts go by selector.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    addresses: SharedMap<Addr, IdentityId>,
    identities: Slots<Arc<Identity>>,
    subjects: Slots<Subject>,
}

/// What holds for a local pod in one direction.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Judged {
    /// What is in force; `None` without policies.
    pub enforced: Option<Arc<Verdicts>>,
    /// What would be if the policies that are only observed were in force, too; `None` without such policies.
    pub observed: Option<Arc<Verdicts>>,
}

#[derive(Clone, Debug, Default)]
struct Subject {
    ingress: Judged,
    egress: Judged,
}

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
        match self.verdicts(endpoint, direction) {
            Some(verdicts) => verdicts.judge(peer, self.identity(peer), protocol, port),
            None => Judgement::None,
        }
    }

    /// The rule of an observed policy by which a connection would be denied, if those policies were in force, too.
    ///
    /// `None` if it would go through, and if what is in force denies it anyway. The arguments are those of [`Policies::judge`].
    pub fn observe(
        &self,
        endpoint: EndpointId,
        direction: Direction,
        peer: &Addr,
        protocol: Protocol,
        port: u16,
    ) -> Option<RuleId> {
        let observed = self.judged(endpoint, direction)?.observed.as_ref()?;
        let identity = self.identity(peer);
        let rule = observed.denier(peer, identity, protocol, port)?;
        match self.judge(endpoint, direction, peer, protocol, port) {
            Judgement::None | Judgement::Allow(_) => Some(rule),
            Judgement::Deny(_) => None,
        }
    }

    /// What rules can see of the pod with this address; `None` if no pod of the cluster has it.
    #[inline]
    pub fn identity(&self, addr: &Addr) -> Option<&Identity> {
        self.record(self.identity_id(addr)?)
    }

    /// The identity of the pod with this address.
    #[inline]
    pub fn identity_id(&self, addr: &Addr) -> Option<IdentityId> {
        self.addresses.get(addr).copied()
    }

    /// What rules can see of an identity.
    #[inline]
    pub fn record(&self, id: IdentityId) -> Option<&Identity> {
        self.identities.get(id.0).map(Arc::as_ref)
    }

    /// What is in force for a local pod; `None` if no policy selects it.
    #[inline]
    pub fn verdicts(&self, endpoint: EndpointId, direction: Direction) -> Option<&Arc<Verdicts>> {
        self.judged(endpoint, direction)?.enforced.as_ref()
    }

    /// What holds for a local pod; `None` if no policy selects it in either direction.
    #[inline]
    pub fn judged(&self, endpoint: EndpointId, direction: Direction) -> Option<&Judged> {
        let subject = self.subjects.get(endpoint.0)?;
        match direction {
            Direction::Ingress => Some(&subject.ingress),
            Direction::Egress => Some(&subject.egress),
        }
    }

    /// Gives an address to the pods of an identity, or with `None` to nobody.
    pub fn set_address(&mut self, addr: Addr, identity: Option<IdentityId>) {
        match identity {
            Some(identity) => self.addresses.insert(addr, identity),
            None => self.addresses.remove(&addr),
        };
    }

    /// Says what an identity is, or with `None` that its id is free.
    pub fn set_identity(&mut self, id: IdentityId, identity: Option<Arc<Identity>>) {
        self.identities.set(id.0, identity);
    }

    /// Says what holds for a local pod in both directions.
    pub fn set_subject(&mut self, endpoint: EndpointId, ingress: Judged, egress: Judged) {
        let nothing = Judged::default();
        let judged = ingress != nothing || egress != nothing;
        let subject = judged.then_some(Subject { ingress, egress });
        self.subjects.set(endpoint.0, subject);
    }
}
