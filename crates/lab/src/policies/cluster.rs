//! ClusterNetworkPolicy: policy.networking.k8s.io/v1alpha2.

use ipnet::IpNet;
use podway_control::cluster_policy::{
    ClusterNetworkPolicy, NamespacedPod, Peer, PortOf, ProtocolMatch, Rule,
};

use super::{Direction, Question, in_force, selects};
use crate::cluster::{Cluster, Labels, Pod, Protocol};

/// What a rule says of a connection.
enum Says {
    Nothing,
    Accept,
    Deny,
    Pass,
}

impl Cluster {
    /// What a tier says: the first rule that matches decides, by priority, name and place in the object (A2).
    pub(super) fn tier(&self, tier: &str, question: &Question<'_>) -> Option<bool> {
        let mut policies: Vec<&ClusterNetworkPolicy> = self.cluster_policies.iter().collect();
        policies.sort_by_key(|policy| (policy.spec.priority, policy.metadata.name.clone()));
        for policy in policies {
            let spec = &policy.spec;
            if spec.tier.as_deref() != Some(tier)
                || !in_force(&policy.metadata)
                || !self.is_subject(policy, question.subject)
            {
                continue;
            }
            let rules = match question.direction {
                Direction::Ingress => &spec.ingress,
                Direction::Egress => &spec.egress,
            };
            for rule in rules.iter().flatten() {
                match self.says(rule, question) {
                    Says::Nothing => {}
                    Says::Accept => return Some(true),
                    Says::Deny => return Some(false),
                    Says::Pass => return None,
                }
            }
        }
        None
    }

    fn is_subject(&self, policy: &ClusterNetworkPolicy, pod: &Pod) -> bool {
        let subject = &policy.spec.subject;
        let namespaces = subject.namespaces.as_ref();
        let pods = subject.pods.as_ref();
        namespaces.is_some_and(|it| selects(it, &self.labels_of(&pod.namespace)))
            || pods.is_some_and(|it| selects_pod(it, pod, &self.labels_of(&pod.namespace)))
    }

    /// What a rule says; one that is not understood accepts nobody and stops everybody (A4).
    fn says(&self, rule: &Rule, question: &Question<'_>) -> Says {
        let peers = match question.direction {
            Direction::Ingress => rule.from.as_deref(),
            Direction::Egress => rule.to.as_deref(),
        };
        let peers = peers.unwrap_or_default();
        let matches: Option<Vec<bool>> = peers
            .iter()
            .map(|it| self.is_peer_of(it, question))
            .collect();
        let ports = rule.protocols.as_deref().unwrap_or_default();
        let at: Option<Vec<bool>> = ports.iter().map(|it| is_at(it, question)).collect();
        let understood = matches
            .zip(at)
            .filter(|_| !peers.is_empty() && rule.unknown.is_empty());
        let action = rule.action.as_deref();
        let Some((matches, at)) = understood else {
            return match action {
                Some("Accept") => Says::Nothing,
                _ => Says::Deny,
            };
        };
        if !matches.contains(&true) || !(at.is_empty() || at.contains(&true)) {
            return Says::Nothing;
        }
        match action {
            Some("Accept") => Says::Accept,
            Some("Pass") => Says::Pass,
            _ => Says::Deny,
        }
    }

    /// `None` if it is not understood.
    fn is_peer_of(&self, peer: &Peer, question: &Question<'_>) -> Option<bool> {
        let Peer {
            namespaces,
            pods,
            nodes,
            networks,
            unknown,
        } = peer;
        let fields = [
            namespaces.is_some(),
            pods.is_some(),
            nodes.is_some(),
            networks.is_some(),
        ];
        let given = fields.iter().filter(|given| **given).count();
        if given != 1 || !unknown.is_empty() {
            return None;
        }
        let pod = question.peer.policed();
        if let Some(selector) = namespaces {
            return Some(pod.is_some_and(|pod| selects(selector, &self.labels_of(&pod.namespace))));
        }
        if let Some(set) = pods {
            let is_in = |pod: &Pod| selects_pod(set, pod, &self.labels_of(&pod.namespace));
            return Some(pod.is_some_and(is_in));
        }
        if question.direction == Direction::Ingress {
            return None;
        }
        let address = &question.peer_address;
        if let Some(selector) = nodes {
            let mut chosen = self
                .nodes
                .iter()
                .filter(|node| selects(selector, &node.labels));
            return Some(chosen.any(|node| node.addresses.contains(address)));
        }
        let ranges: Option<Vec<IpNet>> = networks
            .iter()
            .flatten()
            .map(|range| range.parse().ok())
            .collect();
        let ranges = ranges.filter(|ranges| !ranges.is_empty())?;
        Some(ranges.iter().any(|range| range.contains(address)))
    }
}

fn selects_pod(set: &NamespacedPod, pod: &Pod, namespace: &Labels) -> bool {
    let namespaces = set.namespace_selector.as_ref();
    let pods = set.pod_selector.as_ref();
    namespaces.is_none_or(|it| selects(it, namespace))
        && pods.is_some_and(|it| selects(it, &pod.labels))
}

/// `None` if it is not understood.
fn is_at(ports: &ProtocolMatch, question: &Question<'_>) -> Option<bool> {
    let Question {
        target,
        protocol,
        port,
        ..
    } = *question;
    if !ports.unknown.is_empty() {
        return None;
    }
    if let Some(name) = &ports.destination_named_port {
        return Some(
            target.ports().any(|it| {
                (it.name.as_ref(), it.protocol, it.number) == (Some(name), protocol, port)
            }),
        );
    }
    let of_protocol = [
        (Protocol::Tcp, &ports.tcp),
        (Protocol::Udp, &ports.udp),
        (Protocol::Sctp, &ports.sctp),
    ];
    let mut given = of_protocol
        .iter()
        .filter_map(|(it, ports)| Some((*it, ports.as_ref()?)));
    let (of, ports) = given.next()?;
    Some(of == protocol && holds(ports, port)?)
}

/// `None` if it is not understood.
fn holds(ports: &PortOf, port: u16) -> Option<bool> {
    if !ports.unknown.is_empty() {
        return None;
    }
    let Some(numbers) = &ports.destination_port else {
        return Some(true);
    };
    let port = i32::from(port);
    match (numbers.number, numbers.range) {
        (Some(number), None) => Some(number == port),
        (None, Some(range)) => Some((range.start..=range.end).contains(&port)),
        (_, _) => None,
    }
}
