//! N19: whatever is broken of a policy, nothing gets through that the whole one would have stopped.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use podway_control::PolicyObject;
use podway_control::convert::{self, Trust};
use podway_intent::{Labels, NetworkPolicy, PolicyPeer, PolicyRule, Ports};
use podway_wire::Protocol;
use proptest::prelude::*;
use serde_json::{Value, json};

/// What doesn't belong anywhere in a policy.
fn junk() -> impl Strategy<Value = Value> {
    prop_oneof![
        Just(json!(-7)),
        Just(json!("not a value!")),
        Just(json!({"unknown": ["field"]})),
        Just(json!([[1]])),
        Just(json!(true)),
    ]
}

/// A policy with something of everything.
fn whole() -> Value {
    let labels = json!({"matchLabels": {"app": "web"}});
    let expressions = json!({"matchExpressions": [
        {"key": "app", "operator": "In", "values": ["web", "db"]},
        {"key": "tier", "operator": "NotIn", "values": ["back"]},
        {"key": "odd", "operator": "DoesNotExist"},
    ]});
    let rule = |peers: &str| {
        json!([
            {peers: [{"podSelector": labels}, {"namespaceSelector": expressions, "podSelector": expressions}],
                "ports": [{"port": 80}, {"port": "http", "protocol": "UDP"}]},
            {peers: [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["10.1.0.0/16"]}}, {"podSelector": {}}],
                "ports": [{"port": 1000, "endPort": 2000, "protocol": "SCTP"}]},
            {"ports": [{"port": 53, "protocol": "UDP"}]},
            {peers: [{"podSelector": expressions}]},
        ])
    };
    json!({
        "metadata": {"name": "a", "namespace": "shop"},
        "spec": {
            "podSelector": labels,
            "policyTypes": ["Ingress", "Egress"],
            "ingress": rule("from"),
            "egress": rule("to"),
        },
    })
}

/// The paths to all parts of a value.
fn paths(value: &Value, at: &str, all: &mut Vec<String>) {
    let mut each = |name: &str, value: &Value| {
        let path = format!("{at}/{name}");
        all.push(path.clone());
        paths(value, &path, all);
    };
    match value {
        Value::Object(fields) => fields.iter().for_each(|(name, value)| each(name, value)),
        Value::Array(entries) => {
            let entries = entries.iter().enumerate();
            entries.for_each(|(index, value)| each(&index.to_string(), value));
        }
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
    }
}

/// Puts junk in the place of a part, or a field that nobody knows beside it.
fn broken(path: usize, junk: &Value, beside: bool) -> (Value, String) {
    let mut policy = whole();
    let mut all = vec!["/spec".to_owned()];
    paths(&policy["spec"], "/spec", &mut all);
    let path = all[path % all.len()].clone();
    let part = policy.pointer_mut(&path).expect("a path");
    match part.as_object_mut().filter(|_| beside) {
        Some(fields) => drop(fields.insert("unknown".to_owned(), junk.clone())),
        None => *part = junk.clone(),
    }
    (policy, path)
}

fn read(policy: Value) -> convert::Converted<NetworkPolicy> {
    let policy: PolicyObject = serde_json::from_value(policy).expect("it has a name");
    convert::network_policy(&policy)
}

/// A peer as rules see it.
#[derive(Clone, Debug)]
struct Peer {
    namespace: &'static str,
    namespace_labels: Labels,
    labels: Labels,
    address: IpAddr,
}

fn peers() -> Vec<Peer> {
    let of = |pairs: &[(&str, &str)]| -> Labels {
        let pairs = pairs.iter();
        pairs
            .map(|(key, value)| (Arc::from(*key), Arc::from(*value)))
            .collect()
    };
    let sets = [
        of(&[]),
        of(&[("app", "web")]),
        of(&[("app", "db"), ("tier", "back")]),
        of(&[("app", "web"), ("odd", "1")]),
        of(&[("unknown", "field")]),
    ];
    let mut all = Vec::new();
    for namespace in ["shop", "other"] {
        for namespace_labels in &sets {
            for (labels, last) in sets.iter().zip(0..) {
                all.push(Peer {
                    namespace,
                    namespace_labels: namespace_labels.clone(),
                    labels: labels.clone(),
                    address: Ipv4Addr::new(10, last % 3, 0, 1).into(),
                });
            }
        }
    }
    all
}

fn lets(rule: &PolicyRule, peer: &Peer, protocol: Protocol, port: u16) -> bool {
    let is_peer = |it: &PolicyPeer| match it {
        PolicyPeer::Pods { namespaces, pods } => {
            let there = match namespaces {
                None => peer.namespace == "shop",
                Some(selector) => selector.matches(&peer.namespace_labels),
            };
            there && pods.matches(&peer.labels)
        }
        PolicyPeer::Block { range, except } => {
            range.contains(&peer.address) && !except.iter().any(|it| it.contains(&peer.address))
        }
    };
    // Every pod calls its port 8080 "http".
    let is_port = |ports: &Ports| match ports {
        Ports::All => true,
        Ports::Range(first, last) => (*first..=*last).contains(&port),
        Ports::Named(name) => &**name == "http" && port == 8080,
    };
    rule.peers
        .as_ref()
        .is_none_or(|peers| peers.iter().any(is_peer))
        && rule.ports.as_ref().is_none_or(|ports| {
            ports
                .iter()
                .any(|it| it.protocol == protocol && is_port(&it.ports))
        })
}

/// What a policy lets through of pods with these labels, by direction; all of it if it doesn't select them.
fn allowed(policy: &NetworkPolicy, labels: &Labels) -> BTreeMap<(usize, usize, usize, u16), bool> {
    let mut all = BTreeMap::new();
    let selects = policy.subject.matches(labels);
    for (direction, rules) in [&policy.ingress, &policy.egress].into_iter().enumerate() {
        for (number, peer) in peers().iter().enumerate() {
            for (kind, protocol) in [Protocol::TCP, Protocol::UDP, Protocol::SCTP]
                .into_iter()
                .enumerate()
            {
                for port in [53, 80, 1000, 1500, 8080, 9999] {
                    let lets = match rules {
                        Some(rules) if selects => {
                            rules.iter().any(|rule| lets(rule, peer, protocol, port))
                        }
                        Some(_) | None => true,
                    };
                    all.insert((direction, number, kind, port), lets);
                }
            }
        }
    }
    all
}

proptest! {
    #[test]
    fn n19_a_broken_policy_lets_through_no_more_than_the_whole_one(
        path in 0_usize..500, junk in junk(), beside in any::<bool>(),
    ) {
        let original = read(whole());
        prop_assert_eq!(&original.problems, &vec![]);
        let original = original.value();
        let (policy, path) = broken(path, &junk, beside);
        // A whole spec of other fields is another policy: it says nothing of egress, which this one isolates (N2).
        prop_assume!(path != "/spec" || beside || !junk.is_object());
        let converted = read(policy);
        prop_assert!(!converted.problems.is_empty(), "{} is not named", path);
        if converted.reading.trust == Trust::Closed {
            let subject = &converted.reading.value.subject;
            prop_assert!(subject.requirements.is_empty(), "{}: all pods", path);
        }
        let closed = converted.value();
        // The labels that there are.
        for peer in peers().iter().take(5) {
            let before = allowed(&original, &peer.labels);
            let now = allowed(&closed, &peer.labels);
            for (question, lets) in &now {
                prop_assert!(!lets || before[question], "{} opens {:?} of {:?}", path, question, peer.labels);
            }
        }
    }

    #[test]
    fn n19_no_policy_makes_the_reading_panic(junk in junk(), more in junk(), path in 0_usize..500) {
        let (mut policy, _) = broken(path, &junk, true);
        policy["spec"]["egress"] = more.clone();
        read(policy.clone());
        let policy: PolicyObject = serde_json::from_value(policy).expect("it has a name");
        convert::cluster_network_policy(&policy);
    }
}
