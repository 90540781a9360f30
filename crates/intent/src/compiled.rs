//! What compiling gives: tables for workers, a plan for the kernel, and names for people.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podway_tables::{Direction, EndpointId, PeerId, PortId, RuleId, ServiceId, Slots, Snapshot};
use podway_wire::Protocol;

use crate::{ClusterTier, Key, Name};

/// A cluster as one node needs it.
#[derive(Clone, Debug, Default)]
pub struct Compiled {
    /// What workers read.
    pub snapshot: Arc<Snapshot>,
    /// What the XDP program redirects.
    pub plan: Plan,
    /// What ids are called.
    pub names: Names,
    /// What contradicts itself, in the order of objects.
    pub problems: Vec<Problem>,
}

/// Which packets that come in by the uplink are ours.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// Our pod ranges, addresses of our pods outside of them, the service ranges and cluster addresses outside of those; in order.
    pub local: Vec<IpNet>,
    /// This node's own addresses.
    pub node_addresses: Vec<IpAddr>,
    /// The pod ranges of nodes that send directly: what comes from there to this node's own addresses is ours, too.
    pub direct: Vec<IpNet>,
    /// The UDP port that tunnels arrive at.
    pub tunnel_port: u16,
    /// Node ports, in order.
    pub node_ports: Vec<(Protocol, u16)>,
    /// Ports of services and pods at the node's own addresses, 127.0.0.1 among them: the node's own processes reach them by us (S26).
    pub own_ports: Vec<(IpAddr, Protocol, u16)>,
    /// Those of `snat_ports` that are the host's.
    pub host_ports: Arc<BTreeSet<(Protocol, u16)>>,
    /// The first and last of our own source ports: answers to them are ours.
    pub snat_ports: Option<(u16, u16)>,
}

/// Something in the cluster that cannot be as it says, and what was made of it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// The object that loses by it.
    pub object: Key,
    /// What is wrong and what to do.
    pub text: String,
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.object, self.text)
    }
}

/// What the ids of a snapshot are called.
#[derive(Clone, Debug, Default)]
pub struct Names {
    pub(crate) services: Slots<Arc<str>>,
    pub(crate) endpoints: Slots<Name>,
    pub(crate) peers: Slots<Arc<str>>,
    pub(crate) rules: Slots<RuleName>,
    pub(crate) ports: Slots<Arc<str>>,
}

/// A policy object of either kind.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PolicyName {
    /// A NetworkPolicy.
    Namespaced(Name),
    /// A ClusterNetworkPolicy of a tier.
    Cluster(ClusterTier, Arc<str>),
}

impl fmt::Display for PolicyName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            PolicyName::Namespaced(name) => write!(f, "{name}"),
            PolicyName::Cluster(_, name) => f.write_str(name),
        }
    }
}

/// Where a rule is written.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleName {
    /// The policy object.
    pub policy: PolicyName,
    /// The list that it is in.
    pub direction: Direction,
    /// What of that list it is.
    pub place: RulePlace,
}

/// What of a policy's list of rules is meant.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum RulePlace {
    /// The rule at this index, from 0.
    Rule(u32),
    /// That a NetworkPolicy which selects a pod denies what no rule allows.
    Isolation,
}

/// Such as `shop/web ingress[0]`, `shop/web ingress isolation` or `deny-all egress[1] of the Admin tier`.
impl fmt::Display for RuleName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let list = match self.direction {
            Direction::Ingress => "ingress",
            Direction::Egress => "egress",
        };
        write!(f, "{} {list}", self.policy)?;
        match self.place {
            RulePlace::Rule(index) => write!(f, "[{index}]")?,
            RulePlace::Isolation => f.write_str(" isolation")?,
        }
        match &self.policy {
            PolicyName::Namespaced(_) => Ok(()),
            PolicyName::Cluster(ClusterTier::Admin, _) => f.write_str(" of the Admin tier"),
            PolicyName::Cluster(ClusterTier::Baseline, _) => f.write_str(" of the Baseline tier"),
        }
    }
}

impl Names {
    /// A service port as `namespace/name:port`, the port by its name if it has one.
    pub fn service(&self, id: ServiceId) -> Option<&str> {
        self.services.get(id.0).map(Arc::as_ref)
    }

    /// The pod that an endpoint is.
    pub fn endpoint(&self, id: EndpointId) -> Option<&Name> {
        self.endpoints.get(id.0)
    }

    /// The endpoint that a pod is.
    pub fn endpoint_of(&self, pod: &Name) -> Option<EndpointId> {
        let mut all = self.endpoints.iter();
        all.find_map(|(id, name)| (name == pod).then_some(EndpointId(id)))
    }

    /// The node that a peer is.
    pub fn peer(&self, id: PeerId) -> Option<&str> {
        self.peers.get(u32::from(id.0)).map(Arc::as_ref)
    }

    /// The peer that a node is.
    pub fn peer_of(&self, node: &str) -> Option<PeerId> {
        let mut all = self.peers.iter();
        all.find_map(|(id, name)| (name.as_ref() == node).then_some(PeerId(id as u16)))
    }

    /// Where a rule is written.
    pub fn rule(&self, id: RuleId) -> Option<&RuleName> {
        self.rules.get(id.0)
    }

    /// All rules that are written somewhere.
    pub fn rules(&self) -> impl Iterator<Item = (RuleId, &RuleName)> {
        self.rules.iter().map(|(id, name)| (RuleId(id), name))
    }

    /// The ids that mean another rule, or none, than they did before.
    pub fn renamed_rules<'a>(&'a self, before: &'a Names) -> impl Iterator<Item = RuleId> + 'a {
        self.rules.differing(&before.rules).map(RuleId)
    }

    /// The ids that mean another pod, or none, than they did before.
    pub fn renamed_endpoints<'a>(
        &'a self,
        before: &'a Names,
    ) -> impl Iterator<Item = EndpointId> + 'a {
        self.endpoints.differing(&before.endpoints).map(EndpointId)
    }

    /// A port as `uplink`, `host` or `pod:namespace/name`.
    pub fn port(&self, id: PortId) -> Option<&str> {
        self.ports.get(u32::from(id.0)).map(Arc::as_ref)
    }
}
