//! NetworkPolicies.
//!
//! N19: what is not understood allows nothing, and a policy about nobody knows whom is about everybody.

use std::collections::BTreeSet;

use k8s_openapi::api::networking::v1::{IPBlock, NetworkPolicyPeer, NetworkPolicyPort};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{LabelSelector, ObjectMeta};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use podway_intent::{PolicyMode, PolicyPeer, PolicyPort, PolicyRule, Ports, Selector};
use serde_json::{Map, Value};

use crate::PolicyObject;
use crate::convert::part::{List, list, mapping, part};
use crate::convert::{Reading, Trust, name};
use crate::fields::{label_value, port, port_name, protocol, range, selector};
use crate::problem::Findings;

/// The annotation that says whether a policy is in force.
const MODE: &str = "podway.dev/mode";

/// The fields of a `spec`.
const SPEC: [&str; 4] = ["podSelector", "ingress", "egress", "policyTypes"];

pub(crate) fn policy_into(
    policy: &PolicyObject,
    findings: &mut Findings<'_>,
) -> Reading<podway_intent::NetworkPolicy> {
    let nothing = Map::new();
    let spec = match policy.spec().is_null() {
        true => Some(&nothing),
        false => policy.spec().as_object(),
    };
    if spec.is_none() {
        findings.note("spec", "expected a mapping");
    }
    let is_mapping = spec.is_some();
    let directions = spec.map_or(Directions::BOTH, |spec| directions(spec, findings));
    let spec = spec.unwrap_or(&nothing);
    let is_known = mapping(&Value::Object(spec.clone()), &SPEC, "spec", findings).is_some();
    let mut rules = |direction: &Written| {
        let rules = rules(spec, direction, findings);
        match is_known {
            true => rules,
            // A field that we don't know may be a condition of all of them.
            false => rules.iter().map(|_| nobody()).collect(),
        }
    };
    let (ingress, egress) = (rules(&INGRESS), rules(&EGRESS));
    let subject = match is_mapping {
        true => subject(spec, findings),
        false => None,
    };
    Reading {
        trust: Trust::of(subject.is_some()),
        value: podway_intent::NetworkPolicy {
            name: name(&policy.metadata),
            subject: subject.unwrap_or_default(),
            ingress: directions.ingress.then_some(ingress),
            egress: directions.egress.then_some(egress),
            mode: mode(&policy.metadata, findings),
        },
    }
}

fn subject(spec: &Map<String, Value>, findings: &mut Findings<'_>) -> Option<Selector> {
    let at = "spec.podSelector";
    match spec.get("podSelector") {
        None | Some(Value::Null) => Some(Selector::default()),
        Some(value) => selector(&part(value, at, findings)?, at, findings),
    }
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
#[derive(Clone, Copy)]
struct Directions {
    ingress: bool,
    egress: bool,
}

impl Directions {
    const BOTH: Directions = Directions {
        ingress: true,
        egress: true,
    };
}

/// N2: Ingress always, and Egress with egress rules, unless `policyTypes` says which; both if that is not understood.
fn directions(spec: &Map<String, Value>, findings: &mut Findings<'_>) -> Directions {
    let types = match list(spec, "policyTypes", "spec", findings) {
        List::Of(types) => types,
        List::Unknown => return Directions::BOTH,
        List::Empty => {
            let absent = matches!(spec.get("egress"), None | Some(Value::Null));
            let empty = spec
                .get("egress")
                .is_some_and(|it| *it == Value::Array(Vec::new()));
            return Directions {
                ingress: true,
                egress: !absent && !empty,
            };
        }
    };
    let mut named = BTreeSet::new();
    for (index, entry) in types.iter().enumerate() {
        match entry.as_str() {
            Some(type_ @ ("Ingress" | "Egress")) => named.insert(type_),
            _ => {
                let message = format!("expected Ingress or Egress, found {entry}");
                findings.note(&format!("spec.policyTypes[{index}]"), message);
                named.extend(["Ingress", "Egress"]);
                continue;
            }
        };
    }
    Directions {
        ingress: named.contains("Ingress"),
        egress: named.contains("Egress"),
    }
}

/// How rules of a direction are written.
struct Written {
    list: &'static str,
    peers: &'static str,
}

const INGRESS: Written = Written {
    list: "ingress",
    peers: "from",
};

const EGRESS: Written = Written {
    list: "egress",
    peers: "to",
};

fn rules(
    spec: &Map<String, Value>,
    written: &Written,
    findings: &mut Findings<'_>,
) -> Vec<PolicyRule> {
    let rules = match list(spec, written.list, "spec", findings) {
        List::Empty | List::Unknown => return Vec::new(),
        List::Of(rules) => rules,
    };
    let rules = rules.iter().enumerate().map(|(index, value)| {
        let at = format!("spec.{}[{index}]", written.list);
        rule(value, written, &at, findings).unwrap_or_else(nobody)
    });
    rules.collect()
}

/// A rule that allows nobody: one that is not understood keeps its place.
fn nobody() -> PolicyRule {
    PolicyRule {
        peers: Some(Vec::new()),
        ports: Some(Vec::new()),
    }
}

/// N4: absent or empty peers and ports are all; one that was not understood is nobody and nothing.
fn rule(
    value: &Value,
    written: &Written,
    at: &str,
    findings: &mut Findings<'_>,
) -> Option<PolicyRule> {
    let fields = mapping(value, &[written.peers, "ports"], at, findings)?;
    let at_peers = format!("{at}.{}", written.peers);
    let peers = entries(list(fields, written.peers, at, findings), |index, value| {
        peer(value, &format!("{at_peers}[{index}]"), findings)
    });
    let ports = entries(list(fields, "ports", at, findings), |index, value| {
        policy_port(value, &format!("{at}.ports[{index}]"), findings)
    });
    Some(PolicyRule { peers, ports })
}

/// Those entries of a list that are understood; `None` only if there are none at all.
fn entries<T>(list: List<'_>, mut entry: impl FnMut(usize, &Value) -> Option<T>) -> Option<Vec<T>> {
    match list {
        List::Empty => None,
        List::Unknown => Some(Vec::new()),
        List::Of(values) => {
            let all = values.iter().enumerate();
            Some(
                all.filter_map(|(index, value)| entry(index, value))
                    .collect(),
            )
        }
    }
}

fn peer(value: &Value, at: &str, findings: &mut Findings<'_>) -> Option<PolicyPeer> {
    let peer: NetworkPolicyPeer = part(value, at, findings)?;
    match (&peer.ip_block, &peer.namespace_selector, &peer.pod_selector) {
        (Some(block), None, None) => ip_block(block, at, findings),
        (Some(_), _, _) => {
            let message = "an ipBlock stands alone: give podSelector and namespaceSelector a peer of their own";
            findings.note(&format!("{at}.ipBlock"), message);
            None
        }
        (None, None, None) => {
            let message = "expected podSelector, namespaceSelector or ipBlock; an empty podSelector is all pods";
            findings.note(at, message);
            None
        }
        (None, namespaces, pods) => {
            let mut of = |labels: &Option<LabelSelector>, field: &str| match labels {
                None => Some(None),
                Some(labels) => {
                    peers_selector(labels, &format!("{at}.{field}"), findings).map(Some)
                }
            };
            let namespaces = of(namespaces, "namespaceSelector")?;
            let pods = of(pods, "podSelector")?.unwrap_or_default();
            Some(PolicyPeer::Pods { namespaces, pods })
        }
    }
}

/// The selector of a peer: a value that is none matches nothing, and of `In` the others still do.
fn peers_selector(
    labels: &LabelSelector,
    at: &str,
    findings: &mut Findings<'_>,
) -> Option<Selector> {
    let mut labels = labels.clone();
    let expressions = labels.match_expressions.iter_mut().flatten();
    for (index, expression) in expressions
        .enumerate()
        .filter(|(_, it)| it.operator == "In")
    {
        let values = expression.values.iter_mut().flatten();
        let (legal, illegal): (Vec<_>, Vec<_>) = values
            .map(std::mem::take)
            .partition(|value| label_value(value).is_ok());
        let field = format!("{at}.matchExpressions[{index}].values");
        if legal.is_empty() {
            expression.values = Some(illegal);
            continue;
        }
        for value in illegal {
            findings.take_remarked(&field, label_value(&value));
        }
        expression.values = Some(legal);
    }
    selector(&labels, at, findings)
}

/// A range without its exceptions; as long as one of those is not understood, nobody knows what is left.
fn ip_block(block: &IPBlock, at: &str, findings: &mut Findings<'_>) -> Option<PolicyPeer> {
    let covering = findings.take_noted(&format!("{at}.ipBlock.cidr"), range(&block.cidr))?;
    let mut except = Vec::new();
    for (index, text) in block.except.iter().flatten().enumerate() {
        let field = format!("{at}.ipBlock.except[{index}]");
        let exception = findings.take_noted(&field, range(text))?;
        if !covering.contains(&exception) || exception == covering {
            let message = format!("expected a range strictly inside {covering}, found {exception}");
            findings.note(&field, message);
        }
        except.push(exception);
    }
    Some(PolicyPeer::Block {
        range: covering,
        except,
    })
}

fn policy_port(value: &Value, at: &str, findings: &mut Findings<'_>) -> Option<PolicyPort> {
    let entry: NetworkPolicyPort = part(value, at, findings)?;
    let protocol = findings.take_noted(
        &format!("{at}.protocol"),
        protocol(entry.protocol.as_deref()),
    );
    let at_port = format!("{at}.port");
    let at_end = format!("{at}.endPort");
    let ports = match (&entry.port, entry.end_port) {
        (None, None) => Ports::All,
        (Some(IntOrString::Int(number)), None) => {
            let port = findings.take_noted(&at_port, port(*number))?;
            Ports::Range(port, port)
        }
        (Some(IntOrString::String(name)), None) => {
            findings.take_noted(&at_port, port_name(name))?;
            Ports::Named((**name).into())
        }
        (Some(IntOrString::Int(first)), Some(last)) => {
            let first = findings.take_noted(&at_port, port(*first))?;
            let last = findings.take_noted(&at_end, port(last))?;
            if last < first {
                let message = format!("expected {first} (the port) or more, found {last}");
                findings.note(&at_end, message);
                return None;
            }
            Ports::Range(first, last)
        }
        // N6: a range is of numbers.
        (Some(IntOrString::String(_)) | None, Some(_)) => {
            findings.note(&at_end, "needs a port that is a number, to be its last");
            return None;
        }
    };
    let protocol = protocol?;
    Some(PolicyPort { protocol, ports })
}
