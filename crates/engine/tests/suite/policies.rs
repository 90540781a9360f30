//! What is counted of policies, what a dry run finds, and what a change means for flows that are there.

use podway_engine::{Cause, DropReason, Existing, Verdict};
use podway_intent::{Change, Key, NetworkPolicy, PolicyMode};
use podway_tables::{Direction, PortId, RuleId};
use podway_wire::{FlowKey, Protocol};
use proptest::prelude::*;

use crate::world::{
    TestNode, egress_policy, ingress_policy, key, name, packet, two_nodes, two_nodes_that,
};

const CLIENT: PortId = PortId(2);
const WEB1: PortId = PortId(3);

fn flow(port: u16, target_port: u16) -> FlowKey {
    let target = ("10.244.1.11", target_port);
    key(Protocol::TCP, ("10.244.1.10", port), target)
}

fn syn(node: &mut TestNode, flow: &FlowKey) -> Verdict {
    node.send(CLIENT, &packet(CLIENT, flow, 2, b"")).verdict
}

fn data(node: &mut TestNode, flow: &FlowKey) -> Verdict {
    node.send(CLIENT, &packet(CLIENT, flow, 16, b"x")).verdict
}

fn observed(policy: Change) -> Change {
    let Change::NetworkPolicy(policy) = policy else {
        panic!("a NetworkPolicy");
    };
    Change::NetworkPolicy(NetworkPolicy {
        mode: PolicyMode::Observe,
        ..policy
    })
}

/// The id of the only rule with this name.
fn rule(node: &TestNode, wanted: &str) -> RuleId {
    let mut rules = node.compiled.names.rules();
    let found = rules.find(|(_, name)| name.to_string() == wanted);
    found.expect("the rule").0
}

fn isolation(node: &TestNode, pod: &str) -> Cause {
    let id = node.compiled.names.endpoint_of(&name("shop", pod));
    Cause::Isolation(id.expect("an endpoint"), Direction::Ingress)
}

#[test]
fn a_rule_is_counted_for_each_flow_and_isolation_for_each_packet_that_it_stops() {
    let [mut node, _] = two_nodes(&[ingress_policy("web1", Some("client"))]);
    let allowed = Cause::Rule(rule(&node, "shop/web1-ingress ingress[0]"));
    let stopped = isolation(&node, "web1");
    for port in [4000, 4001] {
        assert_eq!(syn(&mut node, &flow(port, 8080)), Verdict::Transmit(WEB1));
        for _ in 0..3 {
            data(&mut node, &flow(port, 8080));
        }
    }
    for _ in 0..3 {
        let denied = syn(&mut node, &flow(4002, 22));
        assert_eq!(denied, Verdict::Drop(DropReason::IngressDenied));
    }
    let counts = |node: &TestNode| [allowed, stopped].map(|it| node.hits.of(it));
    assert_eq!(counts(&node), [Some(2), Some(3)]);
    assert_eq!(node.hits.elsewhere(), 0);
    // A change that concerns nobody: the flow is looked at again, and nothing is counted for it.
    node.change([egress_policy("nobody")]);
    data(&mut node, &flow(4000, 8080));
    assert_eq!(counts(&node), [Some(2), Some(3)]);
}

#[test]
fn n12_a_flow_that_is_cut_is_counted_for_what_cut_it() {
    let [mut node, _] = two_nodes(&[]);
    syn(&mut node, &flow(4000, 8080));
    node.change([ingress_policy("web1", None)]);
    let cut = data(&mut node, &flow(4000, 8080));
    assert_eq!(cut, Verdict::Drop(DropReason::IngressDenied));
    assert_eq!(node.hits.of(isolation(&node, "web1")), Some(1));
}

#[test]
fn n12_a_node_that_keeps_connections_judges_new_ones_only() {
    let [mut node, _] = two_nodes_that(Existing::Keep, &[]);
    let old = flow(4000, 8080);
    syn(&mut node, &old);
    node.send(WEB1, &packet(WEB1, &old.reverse(), 18, b""));
    node.change([ingress_policy("web1", None)]);
    assert_eq!(data(&mut node, &old), Verdict::Transmit(WEB1));
    let answer = node.send(WEB1, &packet(WEB1, &old.reverse(), 16, b"y"));
    assert_eq!(answer.verdict, Verdict::Transmit(CLIENT));
    let new = syn(&mut node, &flow(4001, 8080));
    assert_eq!(new, Verdict::Drop(DropReason::IngressDenied));
    // F11: whose pod is gone ends all the same.
    node.change([Change::Gone(Key::Pod(name("shop", "web1")))]);
    assert_eq!(data(&mut node, &old), Verdict::Transmit(WEB1));
    node.change([Change::Gone(Key::Attachment(name("shop", "web1")))]);
    assert_eq!(
        data(&mut node, &old),
        Verdict::Transmit(CLIENT),
        "F18: a reset"
    );
}

#[test]
fn a_dry_run_lists_each_flow_with_the_rule_and_lets_it_through() {
    let trial = observed(ingress_policy("web1", Some("client")));
    let [mut node, _] = two_nodes(&[trial]);
    let would = Cause::Observed(rule(&node, "shop/web1-ingress ingress isolation"));
    assert_eq!(syn(&mut node, &flow(4000, 8080)), Verdict::Transmit(WEB1));
    assert_eq!(node.engine.observed(), []);
    for port in [22, 23] {
        assert_eq!(syn(&mut node, &flow(4001, port)), Verdict::Transmit(WEB1));
        data(&mut node, &flow(4001, port));
    }
    let mut seen = node.engine.observed();
    seen.sort_by_key(|it| it.key.target_port);
    let keys: Vec<_> = seen.iter().map(|it| (it.key, it.times)).collect();
    assert_eq!(keys, [(flow(4001, 22), 1), (flow(4001, 23), 1)]);
    assert!(seen.iter().all(|it| Cause::Observed(it.rule) == would));
    assert_eq!(node.hits.of(would), Some(2));
}

#[test]
fn a_dry_run_that_begins_finds_flows_that_are_there_and_counts_each_once() {
    let [mut node, _] = two_nodes(&[]);
    let old = flow(4000, 22);
    syn(&mut node, &old);
    node.change([observed(ingress_policy("web1", Some("client")))]);
    let would = Cause::Observed(rule(&node, "shop/web1-ingress ingress isolation"));
    assert_eq!(data(&mut node, &old), Verdict::Transmit(WEB1));
    assert_eq!(node.hits.of(would), Some(1));
    // Another policy of the pod: the flow is looked at again, and is in the list already.
    node.change([observed(egress_policy("web1"))]);
    assert_eq!(data(&mut node, &old), Verdict::Transmit(WEB1));
    assert_eq!(node.hits.of(would), Some(1));
    assert_eq!(node.engine.observed().len(), 1);
}

/// What a sequence of packets and changes of policy may hold.
#[derive(Clone, Debug)]
enum Step {
    Packet {
        port: u16,
        target_port: u16,
        flags: u8,
    },
    Observe(Change),
    Enforce(Change),
}

fn step() -> impl Strategy<Value = Step> {
    let policy = || {
        prop_oneof![
            Just(ingress_policy("web1", None)),
            Just(ingress_policy("web1", Some("client"))),
            Just(ingress_policy("web1", Some("other"))),
            Just(egress_policy("client")),
            Just(Change::Gone(Key::NetworkPolicy(name(
                "shop",
                "web1-ingress"
            )))),
            Just(Change::Gone(Key::NetworkPolicy(name(
                "shop",
                "client-egress"
            )))),
        ]
    };
    let ports = prop::sample::select(vec![22u16, 8080]);
    prop_oneof![
        6 => (4000u16..4004, ports, prop::sample::select(vec![2u8, 16])).prop_map(
            |(port, target_port, flags)| Step::Packet { port, target_port, flags }
        ),
        1 => policy().prop_map(Step::Observe),
        1 => policy().prop_map(Step::Enforce),
    ]
}

/// The same policy under another name, observed.
fn trial(change: Change) -> Change {
    let renamed = |policy: &str| name("shop", &format!("trial-{policy}"));
    if let Change::Gone(Key::NetworkPolicy(it)) = &change {
        return Change::Gone(Key::NetworkPolicy(renamed(&it.name)));
    }
    let Change::NetworkPolicy(policy) = change else {
        panic!("a NetworkPolicy");
    };
    observed(Change::NetworkPolicy(NetworkPolicy {
        name: renamed(&policy.name.name),
        ..policy
    }))
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(200) })]

    /// A dry run has no effect: with and without observed policies every packet has the same verdict and bytes.
    #[test]
    fn a_dry_run_changes_no_packets_verdict(steps in prop::collection::vec(step(), 1..60)) {
        let [mut with, _] = two_nodes(&[]);
        let [mut without, _] = two_nodes(&[]);
        for step in steps {
            match step {
                Step::Packet { port, target_port, flags } => {
                    let bytes = packet(CLIENT, &flow(port, target_port), flags, b"x");
                    prop_assert_eq!(with.send(CLIENT, &bytes), without.send(CLIENT, &bytes));
                }
                Step::Observe(change) => with.change([trial(change)]),
                Step::Enforce(change) => {
                    with.change([change.clone()]);
                    without.change([change]);
                }
            }
        }
        prop_assert_eq!(without.engine.observed(), vec![]);
    }
}
