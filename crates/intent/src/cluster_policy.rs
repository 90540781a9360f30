//! Policies of the whole cluster (network-policy-api, policy.networking.k8s.io/v1alpha2).

use std::sync::Arc;

use ipnet::IpNet;
use podway_wire::Protocol;

use crate::{PolicyMode, Selector};

/// A ClusterNetworkPolicy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterNetworkPolicy {
    /// Its name; it has no namespace.
    pub name: Arc<str>,
    /// When it is asked.
    pub tier: ClusterTier,
    /// Its place in the tier, 0-1000, the lowest first; of equal ones the first by name.
    pub priority: u16,
    /// The pods that it is about.
    pub subject: PodSet,
    /// Ingress rules, the first that matches decides.
    pub ingress: Vec<ClusterRule>,
    /// Egress rules, the first that matches decides.
    pub egress: Vec<ClusterRule>,
    /// Whether it is in force.
    pub mode: PolicyMode,
}

/// When a ClusterNetworkPolicy is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum ClusterTier {
    /// Before NetworkPolicies.
    Admin,
    /// After them, for pods that none selects.
    Baseline,
}

/// Pods of their own network that both selectors match.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct PodSet {
    /// By the labels of their namespaces.
    pub namespaces: Selector,
    /// By their own labels.
    pub pods: Selector,
}

/// A rule of a ClusterNetworkPolicy: any of the peers at any of the ports.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterRule {
    /// What it does.
    pub action: ClusterAction,
    /// Who it is about; none at all is not understood (A4).
    pub peers: Vec<ClusterPeer>,
    /// `None` (absent): everything.
    pub ports: Option<Vec<ClusterPort>>,
}

/// What a rule does with a connection that it matches.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClusterAction {
    /// Lets it through, whatever later rules and tiers say.
    Accept,
    /// Stops it.
    Deny,
    /// Leaves it to the next tier.
    Pass,
}

/// Who a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterPeer {
    /// Pods.
    Pods(PodSet),
    /// The addresses of nodes that the selector matches, and so of pods on their network.
    Nodes(Selector),
    /// Addresses in any of these ranges, pods among them (A5).
    Networks(Vec<IpNet>),
    /// A peer that we can't tell, so that its rule fails closed (A4).
    Unknown,
}

/// Which ports a rule is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ClusterPort {
    /// The ports of a protocol from the first to the last, both included.
    Range(Protocol, u16, u16),
    /// The target pod's own port with this name, of any protocol.
    Named(Arc<str>),
    /// Something that we can't tell, so that its rule fails closed (A4).
    Unknown,
}
