//! What the policies of one pod say of a connection, read naively off the texts of both APIs.

mod cluster;

use std::net::IpAddr;

use ipnet::IpNet;
use k8s_openapi::api::networking::v1::{NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{
    LabelSelector, LabelSelectorRequirement, ObjectMeta,
};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use crate::cluster::{Cluster, Labels, Pod, Protocol};
use crate::expect::End;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Direction {
    Ingress,
    Egress,
}

/// A connection as one of its ends sees it.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Question<'a> {
    pub(crate) direction: Direction,
    /// The pod whose policies are asked.
    pub(crate) subject: &'a Pod,
    pub(crate) peer: End<'a>,
    pub(crate) peer_address: IpAddr,
    /// The server, whichever end it is.
    pub(crate) target: &'a Pod,
    pub(crate) protocol: Protocol,
    pub(crate) port: u16,
}

impl Cluster {
    /// True if a pod's policies let a connection through: Admin tier, NetworkPolicies, Baseline tier, default (A1).
    pub(crate) fn passes(&self, question: &Question<'_>) -> bool {
        let admin = self.tier("Admin", question);
        let namespaced = || self.namespaced(question);
        let baseline = || self.tier("Baseline", question);
        admin.or_else(namespaced).or_else(baseline).unwrap_or(true)
    }

    /// True if a rule allows the peer, false if the pod is isolated and none does (N1); `None` if it is not isolated.
    fn namespaced(&self, question: &Question<'_>) -> Option<bool> {
        let Question {
            direction, subject, ..
        } = *question;
        let mut said = None;
        for policy in self.policies.iter().filter(|it| in_force(&it.metadata)) {
            let namespace = policy.metadata.namespace.as_deref().unwrap_or("default");
            let spec = policy.spec.clone().unwrap_or_default();
            let chosen = spec.pod_selector.unwrap_or_default();
            if namespace != subject.namespace
                || !selects(&chosen, &subject.labels)
                || !affects(policy, direction)
            {
                continue;
            }
            let rules: Vec<_> = match direction {
                Direction::Ingress => {
                    let rules = spec.ingress.unwrap_or_default().into_iter();
                    rules.map(|rule| (rule.from, rule.ports)).collect()
                }
                Direction::Egress => {
                    let rules = spec.egress.unwrap_or_default().into_iter();
                    rules.map(|rule| (rule.to, rule.ports)).collect()
                }
            };
            let allowed = rules.into_iter().any(|(peers, ports)| {
                let (peers, ports) = (peers.unwrap_or_default(), ports.unwrap_or_default());
                let is_peer = |one| self.is_peer(one, namespace, question);
                let is_port = |one| is_port(one, question);
                (peers.is_empty() || peers.iter().any(is_peer))
                    && (ports.is_empty() || ports.iter().any(is_port))
            });
            said = Some(said.unwrap_or(false) || allowed);
        }
        said
    }

    fn is_peer(&self, peer: &NetworkPolicyPeer, namespace: &str, question: &Question<'_>) -> bool {
        if let Some(block) = &peer.ip_block {
            let address = &question.peer_address;
            let within = |range: &String| range.parse::<IpNet>().is_ok_and(|r| r.contains(address));
            let excepted = block.except.iter().flatten().any(within);
            return within(&block.cidr) && !excepted;
        }
        let Some(pod) = question.peer.policed() else {
            return false;
        };
        let of_namespace = match &peer.namespace_selector {
            None => pod.namespace == namespace,
            Some(selector) => selects(selector, &self.labels_of(&pod.namespace)),
        };
        let selector = peer.pod_selector.as_ref();
        of_namespace && selector.is_none_or(|it| selects(it, &pod.labels))
    }

    fn labels_of(&self, namespace: &str) -> Labels {
        self.namespaces.get(namespace).cloned().unwrap_or_default()
    }
}

/// True unless a policy is only observed.
fn in_force(policy: &ObjectMeta) -> bool {
    let annotations = policy.annotations.as_ref();
    let mode = annotations.and_then(|all| all.get("podway.dev/mode"));
    mode.is_none_or(|mode| mode != "observe")
}

/// True if a policy isolates in that direction (N2).
fn affects(policy: &NetworkPolicy, direction: Direction) -> bool {
    let Some(spec) = &policy.spec else {
        return direction == Direction::Ingress;
    };
    let types = spec.policy_types.as_deref().unwrap_or_default();
    match (direction, types.is_empty()) {
        (Direction::Ingress, true) => true,
        (Direction::Egress, true) => spec.egress.as_ref().is_some_and(|rules| !rules.is_empty()),
        (Direction::Ingress, false) => types.iter().any(|kind| kind == "Ingress"),
        (Direction::Egress, false) => types.iter().any(|kind| kind == "Egress"),
    }
}

fn selects(selector: &LabelSelector, labels: &Labels) -> bool {
    let has = |(key, value): (&String, &String)| labels.get(key) == Some(value);
    let holds = |requirement: &LabelSelectorRequirement| {
        let value = labels.get(&requirement.key);
        let values = requirement.values.as_deref().unwrap_or_default();
        match requirement.operator.as_str() {
            "In" => value.is_some_and(|value| values.contains(value)),
            "NotIn" => value.is_none_or(|value| !values.contains(value)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    };
    selector.match_labels.iter().flatten().all(has)
        && selector.match_expressions.iter().flatten().all(holds)
}

fn is_port(port: &NetworkPolicyPort, question: &Question<'_>) -> bool {
    let Question {
        target,
        protocol,
        port: number,
        ..
    } = *question;
    if Protocol::of(port.protocol.as_deref()) != Some(protocol) {
        return false;
    }
    match &port.port {
        None => true,
        Some(IntOrString::Int(first)) => {
            (*first..=port.end_port.unwrap_or(*first)).contains(&i32::from(number))
        }
        Some(IntOrString::String(name)) => target.ports().any(|port| {
            port.name.as_ref() == Some(name) && port.protocol == protocol && port.number == number
        }),
    }
}
