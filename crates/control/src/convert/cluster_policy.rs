//! ClusterNetworkPolicies.
//!
//! What a newer API server may say and we don't know is noted and fails closed (A4); a manifest must not have it.

use k8s_openapi::apimachinery::pkg::apis::meta::v1::LabelSelector;
use podway_intent::{
    ClusterAction, ClusterPeer, ClusterPort, ClusterRule, ClusterTier, PodSet, Selector,
};
use podway_wire::Protocol;
use serde_json::{Map, Value};

use crate::cluster_policy::{
    ClusterNetworkPolicy, NamespacedPod, Peer, PortNumbers, PortOf, ProtocolMatch, Rule, Subject,
};
use crate::convert::policy::mode;
use crate::convert::shared;
use crate::fields::{port, port_name, range, selector};
use crate::problem::Findings;

/// How many rules, peers, protocols or ranges a list has at most.
const MOST: usize = 25;

/// The characters of a rule's name at most.
const LONGEST_NAME: usize = 100;

pub(crate) fn cluster_policy_into(
    policy: &ClusterNetworkPolicy,
    findings: &mut Findings<'_>,
) -> Option<podway_intent::ClusterNetworkPolicy> {
    let spec = &policy.spec;
    let tier = match spec.tier.as_deref() {
        Some("Admin") => Ok(ClusterTier::Admin),
        Some("Baseline") => Ok(ClusterTier::Baseline),
        None => Err("is missing: expected Admin or Baseline".to_owned()),
        Some(other) => Err(format!("expected Admin or Baseline, found \"{other}\"")),
    };
    let tier = findings.take("spec.tier", tier);
    let priority = match spec.priority.map(|it| (it, u16::try_from(it))) {
        Some((_, Ok(priority @ 0..=1000))) => Ok(priority),
        None => Err("is missing: expected a number 0-1000".to_owned()),
        Some((other, _)) => Err(format!("expected a number 0-1000, found {other}")),
    };
    let priority = findings.take("spec.priority", priority);
    let subject = subject(&spec.subject, findings);
    let ingress = rules(spec.ingress.as_deref(), &INGRESS, findings);
    let egress = rules(spec.egress.as_deref(), &EGRESS, findings);
    Some(podway_intent::ClusterNetworkPolicy {
        name: shared(policy.metadata.name.as_ref()),
        tier: tier?,
        priority: priority?,
        subject: subject?,
        ingress: ingress?,
        egress: egress?,
        mode: mode(&policy.metadata, findings),
    })
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
    list: "spec.ingress",
    peers: "from",
    foreign: "to",
    peers_of: |rule| rule.from.as_deref(),
    foreign_of: |rule| rule.to.as_deref(),
    peer: ingress_peer,
};

const EGRESS: Written = Written {
    list: "spec.egress",
    peers: "to",
    foreign: "from",
    peers_of: |rule| rule.to.as_deref(),
    foreign_of: |rule| rule.from.as_deref(),
    peer: egress_peer,
};

/// A subject that is not understood is a problem: nobody knows whom the policy would leave out.
fn subject(subject: &Subject, findings: &mut Findings<'_>) -> Option<PodSet> {
    let set = match (&subject.namespaces, &subject.pods) {
        (Some(namespaces), None) if subject.unknown.is_empty() => {
            of_namespaces(namespaces, "spec.subject", findings)
        }
        (None, Some(pods)) if subject.unknown.is_empty() => {
            of_pods(pods, "spec.subject.pods", findings)
        }
        _ => {
            let message = "expected either namespaces or pods; an empty namespaces is all pods";
            findings.problem("spec.subject", message);
            return None;
        }
    };
    if set.is_none() {
        // Whatever a note said of it, a policy about nobody in particular is none.
        findings.problem("spec.subject", "is not understood: correct it");
    }
    set
}

/// `None` and problems if an action is unknown, for then nobody knows what the rest of the list means.
fn rules(
    rules: Option<&[Rule]>,
    written: &Written,
    findings: &mut Findings<'_>,
) -> Option<Vec<ClusterRule>> {
    let rules = rules.unwrap_or_default();
    at_most(MOST, rules.len(), written.list, findings);
    let mut converted = Vec::new();
    for (index, rule) in rules.iter().enumerate() {
        converted.push(cluster_rule(
            rule,
            &format!("{}[{index}]", written.list),
            written,
            findings,
        ));
    }
    converted.into_iter().collect()
}

fn cluster_rule(
    rule: &Rule,
    at: &str,
    written: &Written,
    findings: &mut Findings<'_>,
) -> Option<ClusterRule> {
    let action = match rule.action.as_deref() {
        Some("Accept") => Ok(ClusterAction::Accept),
        Some("Deny") => Ok(ClusterAction::Deny),
        Some("Pass") => Ok(ClusterAction::Pass),
        None => Err("is missing: expected Accept, Deny or Pass".to_owned()),
        Some(other) => Err(format!("expected Accept, Deny or Pass, found \"{other}\"")),
    };
    let action = findings.take(&format!("{at}.action"), action);
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
    Some(ClusterRule {
        action: action?,
        peers,
        ports,
    })
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
            noted(labels, &format!("{at}.nodes"), findings).map(ClusterPeer::Nodes)
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
        ranges.push(findings.take_leniently(&format!("{at}[{index}]"), text, range)?);
    }
    Some(ClusterPeer::Networks(ranges))
}

fn of_namespaces(labels: &LabelSelector, at: &str, findings: &mut Findings<'_>) -> Option<PodSet> {
    Some(PodSet {
        namespaces: noted(labels, &format!("{at}.namespaces"), findings)?,
        pods: Selector::default(),
    })
}

fn of_pods(pods: &NamespacedPod, at: &str, findings: &mut Findings<'_>) -> Option<PodSet> {
    if !is_known(&pods.unknown, at, findings) {
        return None;
    }
    let namespaces = pods.namespace_selector.as_ref();
    let namespaces = namespaces.map(|it| noted(it, &format!("{at}.namespaceSelector"), findings));
    let Some(own) = &pods.pod_selector else {
        findings.note(
            &format!("{at}.podSelector"),
            "is missing: an empty one is all pods",
        );
        return None;
    };
    Some(PodSet {
        namespaces: namespaces.unwrap_or(Some(Selector::default()))?,
        pods: noted(own, &format!("{at}.podSelector"), findings)?,
    })
}

/// A selector; `None` and notes if it is not one, for its rule fails closed and the others hold.
fn noted(labels: &LabelSelector, at: &str, findings: &mut Findings<'_>) -> Option<Selector> {
    let before = findings.problems.len();
    let converted = selector(labels, at, findings);
    let problems = findings.problems.split_off(before);
    findings.notes.extend(problems);
    converted
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
            let legal = port_name(name);
            legal
                .map_err(|message| findings.note(&field, message))
                .ok()?;
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
