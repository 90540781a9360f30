//! ClusterNetworkPolicies.
//!
//! What a newer API server may say and we don't know is noted and fails closed (A4, N19); a manifest must not have it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use podway_intent::{
    ClusterAction, ClusterPeer, ClusterPort, ClusterRule, ClusterTier, PodSet, Selector,
};
use podway_wire::Protocol;
use serde_json::{Map, Value};

use crate::PolicyObject;
use crate::cluster_policy::{
    NamespacedPod, Peer, PortNumbers, PortOf, ProtocolMatch, Rule, Subject,
};
use crate::convert::part::{List, list, mapping, part};
use crate::convert::policy::mode;
use crate::convert::{Reading, Trust, shared};
use crate::fields::{port, port_name, range, selector};
use crate::problem::Findings;

/// How many rules, peers, protocols or ranges a list has at most.
const MOST: usize = 25;

/// The characters of a rule's name at most.
const LONGEST_NAME: usize = 100;

/// The fields of a `spec`.
const SPEC: [&str; 5] = ["tier", "priority", "subject", "ingress", "egress"];

pub(crate) fn cluster_policy_into(
    policy: &PolicyObject,
    findings: &mut Findings<'_>,
) -> Reading<podway_intent::ClusterNetworkPolicy> {
    let nothing = Map::new();
    let spec = policy.spec().as_object();
    if spec.is_none() {
        findings.note("spec", "expected a mapping");
    }
    let of = spec.unwrap_or(&nothing);
    let is_known = mapping(&Value::Object(of.clone()), &SPEC, "spec", findings).is_some();
    let (tier, priority) = (tier(of, findings), priority(of, findings));
    let subject = subject(of, findings);
    let mut rules = |written: &Written| match spec {
        None => vec![denies_all()],
        Some(spec) => {
            let mut rules = rules(spec, written, findings);
            if !is_known {
                // A field that we don't know may be a condition of all of them.
                rules
                    .iter_mut()
                    .for_each(|rule| rule.peers.push(ClusterPeer::Unknown));
            }
            rules
        }
    };
    let (ingress, egress) = (rules(&INGRESS), rules(&EGRESS));
    let trust = Trust::of(tier.is_some() && priority.is_some() && subject.is_some());
    let lasting = |rules| match trust {
        Trust::Understood => rules,
        Trust::Closed => denials(rules),
    };
    Reading {
        trust,
        value: podway_intent::ClusterNetworkPolicy {
            name: shared(policy.metadata.name.as_ref()),
            tier: tier.unwrap_or(ClusterTier::Admin),
            priority: priority.unwrap_or_default(),
            subject: subject.unwrap_or_else(everybody),
            ingress: lasting(ingress),
            egress: lasting(egress),
            mode: mode(&policy.metadata, findings),
        },
    }
}

fn tier(spec: &Map<String, Value>, findings: &mut Findings<'_>) -> Option<ClusterTier> {
    let tier = match spec.get("tier") {
        Some(Value::String(tier)) if tier == "Admin" => Ok(ClusterTier::Admin),
        Some(Value::String(tier)) if tier == "Baseline" => Ok(ClusterTier::Baseline),
        None | Some(Value::Null) => Err("is missing: expected Admin or Baseline".to_owned()),
        Some(other) => Err(format!("expected Admin or Baseline, found {other}")),
    };
    findings.take_noted("spec.tier", tier)
}

fn priority(spec: &Map<String, Value>, findings: &mut Findings<'_>) -> Option<u16> {
    let priority = match spec.get("priority") {
        None | Some(Value::Null) => Err("is missing: expected a number 0-1000".to_owned()),
        Some(value) => match value.as_u64().map(u16::try_from) {
            Some(Ok(priority @ 0..=1000)) => Ok(priority),
            _ => Err(format!("expected a number 0-1000, found {value}")),
        },
    };
    findings.take_noted("spec.priority", priority)
}

/// What still holds of rules about nobody knows whom: what they deny, for everybody.
///
/// Without the others, nothing gets through that the policy would have stopped for whomever it is about.
fn denials(rules: Vec<ClusterRule>) -> Vec<ClusterRule> {
    let fails_closed = |rule: &ClusterRule| {
        let unknown_ports = rule
            .ports
            .iter()
            .flatten()
            .any(|port| *port == ClusterPort::Unknown);
        unknown_ports || rule.peers.is_empty() || rule.peers.contains(&ClusterPeer::Unknown)
    };
    let denies = |rule: &ClusterRule| match rule.action {
        ClusterAction::Deny => true,
        ClusterAction::Pass => fails_closed(rule),
        ClusterAction::Accept => false,
    };
    rules.into_iter().filter(denies).collect()
}

/// A rule of which nothing is understood.
fn denies_all() -> ClusterRule {
    ClusterRule {
        action: ClusterAction::Deny,
        peers: vec![ClusterPeer::Unknown],
        ports: None,
    }
}

fn everybody() -> PodSet {
    PodSet {
        namespaces: Selector::default(),
        pods: Selector::default(),
    }
}

/// How rules of a direction are written.
struct Written {
    list: &'static str,
    peers: &'static str,
    foreign: &'static str,
    peers_of: fn(&Rule) -> Option<&[Peer]>,
    foreign_of: fn(&Rule) -> Option<&[Peer]>,
    peer: fn(&Peer, &str, &mut Findings<'_>) -> Option<ClusterPeer>,
}

const INGRESS: Written = Written {
    list: "ingress",
    peers: "from",
    foreign: "to",
    peers_of: |rule| rule.from.as_deref(),
    foreign_of: |rule| rule.to.as_deref(),
    peer: ingress_peer,
};

const EGRESS: Written = Written {
    list: "egress",
    peers: "to",
    foreign: "from",
    peers_of: |rule| rule.to.as_deref(),
    foreign_of: |rule| rule.from.as_deref(),
    peer: egress_peer,
};

/// The pods that a policy is about; `None` and notes if that is not understood.
fn subject(spec: &Map<String, Value>, findings: &mut Findings<'_>) -> Option<PodSet> {
    let empty = Value::Object(Map::new());
    let value = spec.get("subject").filter(|it| !it.is_null());
    let subject: Subject = part(value.unwrap_or(&empty), "spec.subject", findings)?;
    if !is_known(&subject.unknown, "spec.subject", findings) {
        return None;
    }
    match (&subject.namespaces, &subject.pods) {
        (Some(namespaces), None) => of_namespaces(namespaces, "spec.subject", findings),
        (None, Some(pods)) => of_pods(pods, "spec.subject.pods", findings),
        (Some(_), Some(_)) | (None, None) => {
            let message = "expected either namespaces or pods; an empty namespaces is all pods";
            findings.note("spec.subject", message);
            None
        }
    }
}

fn rules(
    spec: &Map<String, Value>,
    written: &Written,
    findings: &mut Findings<'_>,
) -> Vec<ClusterRule> {
    let at = format!("spec.{}", written.list);
    let rules = match list(spec, written.list, "spec", findings) {
        List::Empty => return Vec::new(),
        List::Unknown => return vec![denies_all()],
        List::Of(rules) => rules,
    };
    at_most(MOST, rules.len(), &at, findings);
    let rules = rules.iter().enumerate().map(|(index, value)| {
        let at = format!("{at}[{index}]");
        match part::<Rule>(value, &at, findings) {
            Some(rule) => cluster_rule(&rule, &at, written, findings),
            None => ClusterRule {
                action: action(value["action"].as_str()).unwrap_or(ClusterAction::Deny),
                ..denies_all()
            },
        }
    });
    rules.collect()
}

fn action(text: Option<&str>) -> Result<ClusterAction, String> {
    match text {
        Some("Accept") => Ok(ClusterAction::Accept),
        Some("Deny") => Ok(ClusterAction::Deny),
        Some("Pass") => Ok(ClusterAction::Pass),
        None => Err("is missing: expected Accept, Deny or Pass".to_owned()),
        Some(other) => Err(format!("expected Accept, Deny or Pass, found \"{other}\"")),
    }
}

/// An action that is not understood denies.
fn cluster_rule(
    rule: &Rule,
    at: &str,
    written: &Written,
    findings: &mut Findings<'_>,
) -> ClusterRule {
    let action = findings.take_noted(&format!("{at}.action"), action(rule.action.as_deref()));
    let name = rule.name.as_deref().unwrap_or_default();
    if name.chars().count() > LONGEST_NAME {
        findings.note(
            &format!("{at}.name"),
            "has more than 100 characters: shorten it",
        );
    }
    let at_peers = format!("{at}.{}", written.peers);
    let given = (written.peers_of)(rule).unwrap_or_default();
    if given.is_empty() {
        let message = "is empty, so the rule fails closed: name at least one peer";
        findings.note(&at_peers, message);
    }
    at_most(MOST, given.len(), &at_peers, findings);
    let mut peers = Vec::new();
    for (index, peer) in given.iter().enumerate() {
        let converted = (written.peer)(peer, &format!("{at_peers}[{index}]"), findings);
        peers.push(converted.unwrap_or(ClusterPeer::Unknown));
    }
    if (written.foreign_of)(rule).is_some() {
        let field = format!("{at}.{}", written.foreign);
        findings.note(
            &field,
            format!("is not of this direction: use {}", written.peers),
        );
        peers.push(ClusterPeer::Unknown);
    }
    if !is_known(&rule.unknown, at, findings) {
        peers.push(ClusterPeer::Unknown);
    }
    let at_ports = format!("{at}.protocols");
    let given = rule.protocols.as_deref().filter(|ports| !ports.is_empty());
    at_most(MOST, given.map_or(0, <[_]>::len), &at_ports, findings);
    let ports = given.map(|given| {
        let convert = |(index, entry)| {
            let converted = protocol_match(entry, &format!("{at_ports}[{index}]"), findings);
            converted.unwrap_or(ClusterPort::Unknown)
        };
        given.iter().enumerate().map(convert).collect::<Vec<_>>()
    });
    let by_name = |port: &ClusterPort| matches!(port, ClusterPort::Named(_));
    let without_names =
        |peer: &ClusterPeer| matches!(peer, ClusterPeer::Networks(_) | ClusterPeer::Nodes(_));
    if ports.iter().flatten().any(by_name) && peers.iter().any(without_names) {
        let message =
            "networks and nodes have no named ports: give the number, or a rule of its own";
        findings.note(&at_ports, message);
    }
    ClusterRule {
        action: action.unwrap_or(ClusterAction::Deny),
        peers,
        ports,
    }
}

fn ingress_peer(peer: &Peer, at: &str, findings: &mut Findings<'_>) -> Option<ClusterPeer> {
    if peer.nodes.is_some() || peer.networks.is_some() {
        let message = "can't be told on ingress, so the rule fails closed: use namespaces or pods";
        findings.note(at, message);
        return None;
    }
    egress_peer(peer, at, findings)
}

/// `None` and a note if it is not understood.
fn egress_peer(peer: &Peer, at: &str, findings: &mut Findings<'_>) -> Option<ClusterPeer> {
    if peer.unknown.contains_key("domainNames") {
        let message = "is not supported, so the rule fails closed: use networks";
        findings.note(&format!("{at}.domainNames"), message);
        return None;
    }
    if !is_known(&peer.unknown, at, findings) {
        return None;
    }
    match (&peer.namespaces, &peer.pods, &peer.nodes, &peer.networks) {
        (Some(labels), None, None, None) => {
            of_namespaces(labels, at, findings).map(ClusterPeer::Pods)
        }
        (None, Some(pods), None, None) => {
            of_pods(pods, &format!("{at}.pods"), findings).map(ClusterPeer::Pods)
        }
        (None, None, Some(labels), None) => {
            selector(labels, &format!("{at}.nodes"), findings).map(ClusterPeer::Nodes)
        }
        (None, None, None, Some(texts)) => networks(texts, &format!("{at}.networks"), findings),
        _ => {
            let message = "expected exactly one kind of peer, so the rule fails closed; an empty namespaces is all pods";
            findings.note(at, message);
            None
        }
    }
}

fn networks(texts: &[String], at: &str, findings: &mut Findings<'_>) -> Option<ClusterPeer> {
    at_most(MOST, texts.len(), at, findings);
    if texts.is_empty() {
        findings.note(at, "is empty, so the rule fails closed: name a range");
        return None;
    }
    let mut ranges = Vec::new();
    for (index, text) in texts.iter().enumerate() {
        ranges.push(findings.take_noted(&format!("{at}[{index}]"), range(text))?);
    }
    Some(ClusterPeer::Networks(ranges))
}

fn of_namespaces(labels: &LabelSelector, at: &str, findings: &mut Findings<'_>) -> Option<PodSet> {
    Some(PodSet {
        namespaces: selector(labels, &format!("{at}.namespaces"), findings)?,
        pods: Selector::default(),
    })
}

fn of_pods(pods: &NamespacedPod, at: &str, findings: &mut Findings<'_>) -> Option<PodSet> {
    if !is_known(&pods.unknown, at, findings) {
        return None;
    }
    let namespaces = pods.namespace_selector.as_ref();
    let namespaces =
        namespaces.map(|it| selector(it, &format!("{at}.namespaceSelector"), findings));
    let Some(own) = &pods.pod_selector else {
        findings.note(
            &format!("{at}.podSelector"),
            "is missing: an empty one is all pods",
        );
        return None;
    };
    Some(PodSet {
        namespaces: namespaces.unwrap_or(Some(Selector::default()))?,
        pods: selector(own, &format!("{at}.podSelector"), findings)?,
    })
}

/// `None` and a note if it is not understood.
fn protocol_match(
    entry: &ProtocolMatch,
    at: &str,
    findings: &mut Findings<'_>,
) -> Option<ClusterPort> {
    if !is_known(&entry.unknown, at, findings) {
        return None;
    }
    let name = entry.destination_named_port.as_ref();
    match (&entry.tcp, &entry.udp, &entry.sctp, name) {
        (Some(port), None, None, None) => {
            ports(Protocol::TCP, port, &format!("{at}.tcp"), findings)
        }
        (None, Some(port), None, None) => {
            ports(Protocol::UDP, port, &format!("{at}.udp"), findings)
        }
        (None, None, Some(port), None) => {
            ports(Protocol::SCTP, port, &format!("{at}.sctp"), findings)
        }
        (None, None, None, Some(name)) => {
            let field = format!("{at}.destinationNamedPort");
            findings.take_noted(&field, port_name(name))?;
            Some(ClusterPort::Named((**name).into()))
        }
        _ => {
            let message = "expected exactly one of tcp, udp, sctp and destinationNamedPort, so the rule fails closed";
            findings.note(at, message);
            None
        }
    }
}

fn ports(
    protocol: Protocol,
    of: &PortOf,
    at: &str,
    findings: &mut Findings<'_>,
) -> Option<ClusterPort> {
    if !is_known(&of.unknown, at, findings) {
        return None;
    }
    let Some(numbers) = &of.destination_port else {
        return Some(ClusterPort::Range(protocol, 0, u16::MAX));
    };
    let at = format!("{at}.destinationPort");
    if !is_known(&numbers.unknown, &at, findings) {
        return None;
    }
    match first_and_last(numbers) {
        Ok((first, last)) => Some(ClusterPort::Range(protocol, first, last)),
        Err(message) => {
            findings.note(&at, message);
            None
        }
    }
}

fn first_and_last(numbers: &PortNumbers) -> Result<(u16, u16), String> {
    match (numbers.number, numbers.range) {
        (Some(number), None) => port(number).map(|port| (port, port)),
        (None, Some(range)) => match (port(range.start)?, port(range.end)?) {
            (start, end) if start < end => Ok((start, end)),
            (start, end) => Err(format!("expected an end above {start}, found {end}")),
        },
        (Some(_), Some(_)) | (None, None) => Err("expected either number or range".to_owned()),
    }
}

/// False and a note if there are fields that we don't know.
fn is_known(unknown: &Map<String, Value>, at: &str, findings: &mut Findings<'_>) -> bool {
    for field in unknown.keys() {
        let message =
            "is not known, so the rule fails closed: look for a misspelling, or remove it";
        findings.note(&format!("{at}.{field}"), message);
    }
    unknown.is_empty()
}

fn at_most(most: usize, count: usize, at: &str, findings: &mut Findings<'_>) {
    if count > most {
        findings.note(at, format!("has {count} entries: the API allows {most}"));
    }
}
