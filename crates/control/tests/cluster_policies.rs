//! ClusterNetworkPolicies: from an API server, where what is not understood fails closed, and from manifests, where it is refused.

use std::fs;

use podway_control::convert::Trust;
use podway_control::{PolicyObject, convert, load};
use podway_intent::{
    Change, ClusterAction, ClusterPeer, ClusterPort, ClusterTier, PolicyMode, Requirement,
};
use podway_wire::Protocol;
use serde_json::{Value, json};

fn object(spec: Value) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2",
        "kind": "ClusterNetworkPolicy",
        "metadata": { "name": "x" },
        "spec": spec,
    })
}

/// The policy of one egress rule, as an API server gives it.
fn converted(rule: Value) -> podway_intent::ClusterNetworkPolicy {
    let policy: PolicyObject = serde_json::from_value(object(whole(rule))).unwrap();
    convert::cluster_network_policy(&policy).value()
}

fn whole(rule: Value) -> Value {
    json!({ "tier": "Admin", "priority": 7, "subject": { "namespaces": {} }, "egress": [rule] })
}

/// What is wrong with a manifest.
fn refused(spec: Value) -> String {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.json");
    fs::write(&file, object(spec).to_string()).unwrap();
    match load(&file) {
        Ok(_) => String::new(),
        Err(problems) => problems.to_string(),
    }
}

#[test]
fn a_whole_policy_arrives() {
    let policy = converted(json!({
        "name": "dns",
        "action": "Pass",
        "to": [
            { "namespaces": { "matchLabels": { "a": "b" } } },
            { "pods": { "namespaceSelector": {}, "podSelector": { "matchLabels": { "c": "d" } } } },
            { "networks": ["10.0.0.0/8", "fd00::/8"] },
            { "nodes": {} },
        ],
        "protocols": [
            { "tcp": { "destinationPort": { "number": 53 } } },
            { "udp": { "destinationPort": { "range": { "start": 53, "end": 54 } } } },
            { "sctp": {} },
        ],
    }));
    assert_eq!((policy.tier, policy.priority), (ClusterTier::Admin, 7));
    assert_eq!(policy.mode, PolicyMode::Enforce);
    let rule = &policy.egress[0];
    assert_eq!(rule.action, ClusterAction::Pass);
    let [
        ClusterPeer::Pods(of_namespaces),
        ClusterPeer::Pods(of_pods),
        ClusterPeer::Networks(ranges),
        ClusterPeer::Nodes(_),
    ] = &rule.peers[..]
    else {
        panic!("{:?}", rule.peers);
    };
    let is = |key: &str, value: &str| vec![Requirement::In(key.into(), vec![value.into()])];
    assert_eq!(of_namespaces.namespaces.requirements, is("a", "b"));
    assert_eq!(of_pods.pods.requirements, is("c", "d"));
    assert_eq!(ranges.len(), 2);
    assert_eq!(
        rule.ports.as_deref(),
        Some(
            &[
                ClusterPort::Range(Protocol::TCP, 53, 53),
                ClusterPort::Range(Protocol::UDP, 53, 54),
                ClusterPort::Range(Protocol::SCTP, 0, u16::MAX),
            ][..]
        )
    );
}

#[test]
fn a4_peers_and_ports_that_are_not_understood_are_known_as_such_and_refused_in_manifests() {
    let to = |peer: Value| json!({ "action": "Accept", "to": [peer] });
    for (peer, said) in [
        (json!({}), "to[0]: expected exactly one kind of peer"),
        (
            json!({ "serviceAccounts": {} }),
            "to[0].serviceAccounts: is not known",
        ),
        (
            json!({ "domainNames": ["a.org"] }),
            "to[0].domainNames: is not supported",
        ),
        (
            json!({ "namespaces": {}, "nodes": {} }),
            "to[0]: expected exactly one kind of peer",
        ),
        (json!({ "networks": [] }), "networks: is empty"),
        (
            json!({ "networks": ["10.0.0.0/33"] }),
            "networks[0]: expected a range",
        ),
        (
            json!({ "pods": { "namespaceSelector": {} } }),
            "podSelector: is missing",
        ),
    ] {
        assert_eq!(
            converted(to(peer.clone())).egress[0].peers,
            [ClusterPeer::Unknown]
        );
        let problems = refused(whole(to(peer)));
        assert!(problems.contains(said), "{problems}");
    }
    let at = |port: Value| json!({ "action": "Accept", "to": [{ "namespaces": {} }], "protocols": [port] });
    for (port, said) in [
        (json!({}), "protocols[0]: expected exactly one of tcp"),
        (json!({ "icmp": {} }), "protocols[0].icmp: is not known"),
        (
            json!({ "tcp": { "destinationPort": { "range": { "start": 9, "end": 9 } } } }),
            "destinationPort: expected an end above 9, found 9",
        ),
        (
            json!({ "destinationNamedPort": "NO" }),
            "destinationNamedPort: expected",
        ),
    ] {
        let rule = &converted(at(port.clone())).egress[0];
        assert_eq!(rule.ports.as_deref(), Some(&[ClusterPort::Unknown][..]));
        let problems = refused(whole(at(port)));
        assert!(problems.contains(said), "{problems}");
    }
    let nobody = converted(json!({ "action": "Deny", "to": [] }));
    assert_eq!(nobody.egress[0].peers, []);
}

/// A policy that accepts some, passes some and denies the others, with one field of another value.
fn otherwise(field: &str, value: Value) -> Value {
    let all = json!([{ "namespaces": {} }]);
    let mut spec = whole(json!({ "action": "Deny", "to": all }));
    spec["egress"] = json!([
        { "action": "Accept", "to": [{ "networks": ["10.0.0.0/8"] }] },
        { "action": "Pass", "to": [{ "networks": ["10.0.0.0/8"] }] },
        { "action": "Deny", "to": all },
    ]);
    spec[field] = value;
    spec
}

#[test]
fn n19_a_policy_about_nobody_knows_whom_denies_everybody_what_it_denies() {
    for (field, value, said) in [
        (
            "tier",
            json!("Other"),
            "spec.tier: expected Admin or Baseline",
        ),
        (
            "priority",
            json!(1001),
            "spec.priority: expected a number 0-1000",
        ),
        ("priority", Value::Null, "spec.priority: is missing"),
        (
            "subject",
            json!({}),
            "spec.subject: expected either namespaces or pods",
        ),
        (
            "subject",
            json!({ "pods": { "podSelector": { "matchExpressions": [{ "key": "a", "operator": "Gt", "values": ["1"] }] } } }),
            "spec.subject.pods.podSelector.matchExpressions[0].operator: expected In, NotIn",
        ),
        (
            "subject",
            json!({ "namespaces": { "matchLabels": { "a b": "c" } } }),
            "spec.subject.namespaces.matchLabels.a b: expected a label",
        ),
        (
            "subject",
            json!({ "serviceAccounts": {} }),
            "spec.subject.serviceAccounts: is not known",
        ),
    ] {
        let problems = refused(otherwise(field, value.clone()));
        assert!(problems.contains(said), "{problems}");
        let policy = serde_json::from_value(object(otherwise(field, value))).unwrap();
        let policy = convert::cluster_network_policy(&policy);
        assert_eq!(policy.reading.trust, Trust::Closed, "{field}");
        let named = policy
            .problems
            .iter()
            .any(|it| it.to_string().contains(said));
        assert!(named, "{:?}", policy.problems);
        let policy = policy.value();
        if field == "subject" {
            assert_eq!(policy.subject.pods.requirements, []);
            assert_eq!(policy.subject.namespaces.requirements, []);
        }
        let actions: Vec<_> = policy.egress.iter().map(|rule| rule.action).collect();
        assert_eq!(actions, [ClusterAction::Deny], "{field}");
    }
}

#[test]
fn n19_what_is_not_understood_of_rules_denies() {
    let converted = |field: &str, value: Value| {
        let policy = serde_json::from_value(object(otherwise(field, value))).unwrap();
        let policy = convert::cluster_network_policy(&policy);
        assert_eq!(policy.reading.trust, Trust::Understood, "{field}");
        assert_ne!(policy.problems, [], "{field}");
        policy.value()
    };
    // Of an unknown action the peers count, of rules that are none nothing does.
    let log = json!([{ "action": "Log", "to": [{ "namespaces": {} }] }]);
    let rule = converted("egress", log).egress.remove(0);
    assert_eq!(rule.action, ClusterAction::Deny);
    assert!(matches!(rule.peers[..], [ClusterPeer::Pods(_)]));
    for junk in [
        json!("all"),
        json!([7]),
        json!([{ "action": "Deny", "to": "all" }]),
    ] {
        let rule = converted("egress", junk).egress.remove(0);
        assert_eq!(rule.action, ClusterAction::Deny);
        assert_eq!(rule.peers, [ClusterPeer::Unknown]);
    }
    let accepts = json!([{ "action": "Accept", "to": 7 }]);
    let rule = converted("egress", accepts).egress.remove(0);
    assert_eq!(
        (rule.action, &rule.peers[..]),
        (ClusterAction::Accept, &[ClusterPeer::Unknown][..])
    );
    // A field of the whole that we don't know may be a condition of each rule.
    let conditional = converted("schedule", json!("nightly"));
    let unknown = |peers: &[ClusterPeer]| peers.contains(&ClusterPeer::Unknown);
    assert!(conditional.egress.iter().all(|rule| unknown(&rule.peers)));
    assert!(
        refused(otherwise("schedule", json!("nightly"))).contains("spec.schedule: is not a field")
    );
}

#[test]
fn n19_a_policy_that_says_nothing_readable_closes_all() {
    let mut policy = object(Value::Null);
    policy["spec"] = json!("deny");
    let policy = convert::cluster_network_policy(&serde_json::from_value(policy).unwrap());
    assert_eq!(policy.reading.trust, Trust::Closed);
    let policy = policy.value();
    for rules in [&policy.ingress, &policy.egress] {
        assert_eq!(rules[0].action, ClusterAction::Deny);
        assert_eq!(rules[0].peers, [ClusterPeer::Unknown]);
    }
}

#[test]
fn the_annotation_says_whether_a_policy_is_in_force() {
    let mut policy = object(whole(
        json!({ "action": "Deny", "to": [{ "namespaces": {} }] }),
    ));
    policy["metadata"]["annotations"] = json!({ "podway.dev/mode": "observe" });
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.json");
    fs::write(&file, policy.to_string()).unwrap();
    let changes = load(&file).unwrap();
    let modes: Vec<_> = changes
        .iter()
        .filter_map(|change| {
            let Change::ClusterNetworkPolicy(policy) = change else {
                return None;
            };
            Some(policy.mode)
        })
        .collect();
    assert_eq!(modes, [PolicyMode::Observe]);
    policy["metadata"]["annotations"] = json!({ "podway.dev/mode": "dry" });
    fs::write(&file, policy.to_string()).unwrap();
    let problems = load(&file).unwrap_err().to_string();
    assert!(
        problems.contains("expected enforce or observe, found \"dry\""),
        "{problems}"
    );
}
