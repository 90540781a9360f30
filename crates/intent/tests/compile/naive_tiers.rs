//! What the texts of both policy APIs say together, evaluated the slow way and sharing no code with the tables.

use std::net::IpAddr;

use podway_intent::*;
use podway_tables::Direction;
use podway_wire::Protocol;

use crate::naive::{allowed, matches, namespace_labels, pod_at};

/// A connection as one of its ends sees it.
#[derive(Clone, Copy)]
pub(crate) struct Question<'a> {
    pub(crate) subject: &'a Pod,
    pub(crate) direction: Direction,
    pub(crate) peer: IpAddr,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

/// What is said of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Said {
    Nothing,
    /// By NetworkPolicies together.
    Namespaced(bool),
    /// By one rule of a ClusterNetworkPolicy.
    Cluster(bool, RuleName),
}

impl Said {
    pub(crate) fn denies(&self) -> bool {
        matches!(self, Said::Namespaced(false) | Said::Cluster(false, _))
    }
}

/// What the policies of these modes say.
pub(crate) fn say(cluster: &Cluster, question: Question<'_>, modes: &[PolicyMode]) -> Said {
    if let Some(said) = tier(cluster, question, modes, ClusterTier::Admin) {
        return said;
    }
    let Question {
        subject,
        direction,
        peer,
        protocol,
        port,
    } = question;
    if let Some(said) = allowed(cluster, subject, direction, peer, protocol, port, modes) {
        return Said::Namespaced(said);
    }
    tier(cluster, question, modes, ClusterTier::Baseline).unwrap_or(Said::Nothing)
}

fn tier(
    cluster: &Cluster,
    question: Question<'_>,
    modes: &[PolicyMode],
    tier: ClusterTier,
) -> Option<Said> {
    let mut policies = cluster.cluster_policies();
    policies.sort_by(|one, other| {
        let by_priority = one.priority.cmp(&other.priority);
        by_priority.then(one.name.cmp(&other.name))
    });
    for policy in policies {
        let concerns = policy.tier == tier
            && modes.contains(&policy.mode)
            && in_set(cluster, &policy.subject, question.subject);
        if !concerns {
            continue;
        }
        let rules = match question.direction {
            Direction::Ingress => &policy.ingress,
            Direction::Egress => &policy.egress,
        };
        for (index, rule) in rules.iter().enumerate() {
            let name = RuleName {
                policy: PolicyName::Cluster(tier, policy.name.clone()),
                direction: question.direction,
                place: RulePlace::Rule(index as u32),
            };
            match (is_understood(rule), rule.action) {
                (false, ClusterAction::Accept) => continue,
                (false, ClusterAction::Deny | ClusterAction::Pass) => {
                    return Some(Said::Cluster(false, name));
                }
                (true, _) => {}
            }
            if !rule_matches(cluster, rule, question) {
                continue;
            }
            return match rule.action {
                ClusterAction::Accept => Some(Said::Cluster(true, name)),
                ClusterAction::Deny => Some(Said::Cluster(false, name)),
                ClusterAction::Pass => None,
            };
        }
    }
    None
}

/// A4.
fn is_understood(rule: &ClusterRule) -> bool {
    let strange = |peer: &ClusterPeer| match peer {
        ClusterPeer::Unknown => true,
        ClusterPeer::Networks(ranges) => ranges.is_empty(),
        ClusterPeer::Pods(_) | ClusterPeer::Nodes(_) => false,
    };
    let ports = rule.ports.as_deref();
    !rule.peers.is_empty()
        && !rule.peers.iter().any(strange)
        && ports.is_none_or(|all| !all.is_empty() && !all.contains(&ClusterPort::Unknown))
}

fn rule_matches(cluster: &Cluster, rule: &ClusterRule, question: Question<'_>) -> bool {
    let Question { peer, port, .. } = question;
    let peer_pod = pod_at(cluster, peer);
    let target = match question.direction {
        Direction::Ingress => Some(question.subject),
        Direction::Egress => peer_pod,
    };
    let is_peer = |it: &ClusterPeer| match it {
        ClusterPeer::Pods(set) => peer_pod.is_some_and(|pod| in_set(cluster, set, pod)),
        ClusterPeer::Networks(ranges) => ranges.iter().any(|range| range.contains(&peer)),
        ClusterPeer::Nodes(selector) => {
            let mut nodes = cluster.nodes().into_iter();
            nodes.any(|node| matches(selector, &node.labels) && node.addresses.contains(&peer))
        }
        ClusterPeer::Unknown => false,
    };
    let is_port = |it: &ClusterPort| match it {
        ClusterPort::Range(protocol, first, last) => {
            *protocol == question.protocol && *first <= port && port <= *last
        }
        ClusterPort::Named(name) => target.is_some_and(|pod| {
            let mut named = pod.ports.iter();
            named.any(|it| (&it.name, it.protocol, it.port) == (name, question.protocol, port))
        }),
        ClusterPort::Unknown => false,
    };
    rule.peers.iter().any(is_peer)
        && rule
            .ports
            .as_ref()
            .is_none_or(|ports| ports.iter().any(is_port))
}

fn in_set(cluster: &Cluster, set: &PodSet, pod: &Pod) -> bool {
    matches(&set.namespaces, &namespace_labels(cluster, pod)) && matches(&set.pods, &pod.labels)
}
