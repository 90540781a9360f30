//! NetworkPolicies.

use k8s_openapi::api::networking::v1::{
    IPBlock, NetworkPolicy, NetworkPolicyPeer, NetworkPolicyPort,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::ObjectMeta;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use podway_intent::{PolicyMode, PolicyPeer, PolicyPort, PolicyRule, Ports, Selector};

use crate::convert::name;
use crate::fields::{port, port_name, protocol, range, selector};
use crate::problem::Findings;

/// The annotation that says whether a policy is in force.
const MODE: &str = "podway.dev/mode";

pub(crate) fn policy_into(
    policy: &NetworkPolicy,
    findings: &mut Findings<'_>,
) -> Option<podway_intent::NetworkPolicy> {
    let spec = policy.spec.clone().unwrap_or_default();
    let subject = selector(
        &spec.pod_selector.unwrap_or_default(),
        "spec.podSelector",
        findings,
    );
    let egress_rules = spec.egress.unwrap_or_default();
    let directions = directions(
        spec.policy_types.as_deref(),
        !egress_rules.is_empty(),
        findings,
    );

    let mut ingress = Vec::new();
    for (index, rule) in spec.ingress.iter().flatten().enumerate() {
        let at = |name: &str| format!("spec.ingress[{index}].{name}");
        ingress.push(PolicyRule {
            peers: peers(rule.from.as_deref(), &at("from"), findings),
            ports: ports(rule.ports.as_deref(), &at("ports"), findings),
        });
    }
    let mut egress = Vec::new();
    for (index, rule) in egress_rules.iter().enumerate() {
        let at = |name: &str| format!("spec.egress[{index}].{name}");
        egress.push(PolicyRule {
            peers: peers(rule.to.as_deref(), &at("to"), findings),
            ports: ports(rule.ports.as_deref(), &at("ports"), findings),
        });
    }
    Some(podway_intent::NetworkPolicy {
        name: name(&policy.metadata),
        subject: subject?,
        ingress: directions.ingress.then_some(ingress),
        egress: directions.egress.then_some(egress),
        mode: mode(&policy.metadata, findings),
    })
}

/// Whether a policy is in force: unless its annotation says otherwise, it is.
pub(super) fn mode(metadata: &ObjectMeta, findings: &mut Findings<'_>) -> PolicyMode {
    let annotations = metadata.annotations.iter().flatten();
    let said = annotations
        .filter(|(key, _)| *key == MODE)
        .map(|(_, value)| &**value)
        .next();
    match said {
        None | Some("enforce") => PolicyMode::Enforce,
        Some("observe") => PolicyMode::Observe,
        Some(other) => {
            let message = format!("expected enforce or observe, found \"{other}\"");
            findings.note(&format!("metadata.annotations.{MODE}"), message);
            PolicyMode::Enforce
        }
    }
}

/// Which directions a policy isolates.
#[derive(Default)]
struct Directions {
    ingress: bool,
    egress: bool,
}

/// N2: Ingress always, and Egress with egress rules, unless `policyTypes` says which.
fn directions(
    types: Option<&[String]>,
    has_egress: bool,
    findings: &mut Findings<'_>,
) -> Directions {
    let Some(types @ [_, ..]) = types else {
        return Directions {
            ingress: true,
            egress: has_egress,
        };
    };
    let mut directions = Directions::default();
    for (index, type_) in types.iter().enumerate() {
        match &**type_ {
            "Ingress" => directions.ingress = true,
            "Egress" => directions.egress = true,
            other => findings.problem(
                &format!("spec.policyTypes[{index}]"),
                format!("expected Ingress or Egress, found \"{other}\""),
            ),
        }
    }
    directions
}

/// N4: absent or empty is everybody; a peer that was not understood is a problem and never nobody or everybody.
fn peers(
    peers: Option<&[NetworkPolicyPeer]>,
    at: &str,
    findings: &mut Findings<'_>,
) -> Option<Vec<PolicyPeer>> {
    let peers = peers.filter(|peers| !peers.is_empty())?;
    let converted = peers.iter().enumerate();
    Some(
        converted
            .filter_map(|(index, entry)| peer(entry, &format!("{at}[{index}]"), findings))
            .collect(),
    )
}

fn peer(peer: &NetworkPolicyPeer, at: &str, findings: &mut Findings<'_>) -> Option<PolicyPeer> {
    match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
        (Some(block), None, None) => ip_block(block, at, findings),
        (Some(_), _, _) => {
            let message = "an ipBlock stands alone: give podSelector and namespaceSelector a peer of their own";
            findings.problem(&format!("{at}.ipBlock"), message);
            None
        }
        (None, None, None) => {
            let message = "expected podSelector, namespaceSelector or ipBlock; an empty podSelector is all pods";
            findings.problem(at, message);
            None
        }
        (None, namespaces, pods) => {
            let namespaces = match namespaces {
                None => None,
                Some(labels) => Some(selector(
                    labels,
                    &format!("{at}.namespaceSelector"),
                    findings,
                )?),
            };
            let pods = match pods {
                None => Selector::default(),
                Some(labels) => selector(labels, &format!("{at}.podSelector"), findings)?,
            };
            Some(PolicyPeer::Pods { namespaces, pods })
        }
    }
}

fn ip_block(block: &IPBlock, at: &str, findings: &mut Findings<'_>) -> Option<PolicyPeer> {
    let covering = findings.take_or_fail(&format!("{at}.ipBlock.cidr"), &block.cidr, range)?;
    let mut except = Vec::new();
    for (index, text) in block.except.iter().flatten().enumerate() {
        let field = format!("{at}.ipBlock.except[{index}]");
        let exception = findings.take_or_fail(&field, text, range)?;
        if !covering.contains(&exception) || exception == covering {
            let message = format!("expected a range strictly inside {covering}, found {exception}");
            findings.problem(&field, message);
        }
        except.push(exception);
    }
    Some(PolicyPeer::Block {
        range: covering,
        except,
    })
}

/// N4: absent or empty is every port.
fn ports(
    ports: Option<&[NetworkPolicyPort]>,
    at: &str,
    findings: &mut Findings<'_>,
) -> Option<Vec<PolicyPort>> {
    let ports = ports.filter(|ports| !ports.is_empty())?;
    let converted = ports.iter().enumerate();
    Some(
        converted
            .filter_map(|(index, entry)| policy_port(entry, &format!("{at}[{index}]"), findings))
            .collect(),
    )
}

fn policy_port(
    entry: &NetworkPolicyPort,
    at: &str,
    findings: &mut Findings<'_>,
) -> Option<PolicyPort> {
    let protocol = findings.take(
        &format!("{at}.protocol"),
        protocol(entry.protocol.as_deref()),
    );
    let at_port = format!("{at}.port");
    let at_end = format!("{at}.endPort");
    let ports = match (&entry.port, entry.end_port) {
        (None, None) => Ports::All,
        (Some(IntOrString::Int(number)), None) => {
            let port = findings.take(&at_port, port(*number))?;
            Ports::Range(port, port)
        }
        (Some(IntOrString::String(name)), None) => {
            findings.take(&at_port, port_name(name))?;
            Ports::Named((**name).into())
        }
        (Some(IntOrString::Int(first)), Some(last)) => {
            let first = findings.take(&at_port, port(*first))?;
            let last = findings.take(&at_end, port(last))?;
            if last < first {
                let message = format!("expected {first} (the port) or more, found {last}");
                findings.problem(&at_end, message);
                return None;
            }
            Ports::Range(first, last)
        }
        // N6: a range is of numbers.
        (Some(IntOrString::String(_)) | None, Some(_)) => {
            findings.problem(&at_end, "needs a port that is a number, to be its last");
            return None;
        }
    };
    let protocol = protocol?;
    Some(PolicyPort { protocol, ports })
}
