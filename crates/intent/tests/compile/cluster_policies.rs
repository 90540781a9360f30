//! ClusterNetworkPolicy row by row, and both APIs against the naive evaluator.

use std::cell::Cell;

use podway_intent::*;
use podway_tables::{Direction, Judgement};
use podway_wire::Protocol;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseResult, TestRunner};

use crate::build::*;
use crate::naive;
use crate::naive_tiers::{Question, Said, say};
use crate::view::{PORTS, PROTOCOLS};
use crate::world::{NODE, change, probes};

const ALL: [PolicyMode; 2] = [PolicyMode::Enforce, PolicyMode::Observe];

/// Clusters that are compared if `PODWAY_POLICY_CASES` doesn't say how many; each is some 2 000 pairs.
const CASES: u32 = 300;

/// N1-N10, A1-A5 and dry run, as the texts of both APIs have them.
#[test]
fn tables_judge_as_the_apis_say() {
    let asked = std::env::var("PODWAY_POLICY_CASES").ok();
    let cases = asked.map_or(CASES, |text| text.parse().expect("a number of cases"));
    let pairs = Cell::new(0);
    let mut runner = TestRunner::new(Config {
        cases,
        failure_persistence: None,
        ..Config::default()
    });
    let outcome = runner.run(&prop::collection::vec(change(0), 0..90), |changes| {
        compare(&cluster(changes), &pairs)
    });
    println!("{} pairs of policy set and packet compared", pairs.get());
    outcome.unwrap_or_else(|error| panic!("{error}"));
}

fn compare(cluster: &Cluster, pairs: &Cell<u64>) -> TestCaseResult {
    let compiled = compile(cluster, NODE);
    let policies = &compiled.snapshot.policies;
    let name = |rule| compiled.names.rule(rule).expect("a rule's name");
    for (id, pod) in local(cluster, &compiled) {
        for question in questions(pod) {
            let Question {
                direction,
                peer,
                protocol,
                port,
                ..
            } = question;
            pairs.set(pairs.get() + 1);
            let judged = policies.judge(id, direction, &peer.into(), protocol, port);
            let naive = say(cluster, question, &[PolicyMode::Enforce]);
            let said = match judged {
                Judgement::None => Said::Nothing,
                Judgement::Deny(None) => Said::Namespaced(false),
                Judgement::Deny(Some(rule)) => Said::Cluster(false, name(rule).clone()),
                Judgement::Allow(rule) => match &name(rule).policy {
                    PolicyName::Namespaced(_) => {
                        prop_assert!(rule_matches(cluster, name(rule), question));
                        Said::Namespaced(true)
                    }
                    PolicyName::Cluster(..) => Said::Cluster(true, name(rule).clone()),
                },
            };
            prop_assert_eq!(&said, &naive);
            let observed = policies.observe(id, direction, &peer.into(), protocol, port);
            let would = say(cluster, question, &ALL);
            prop_assert_eq!(observed.is_some(), would.denies() && !naive.denies());
            let Some(blamed) = observed.map(name) else {
                continue;
            };
            prop_assert!(is_observed(cluster, &blamed.policy), "{}", blamed);
            match would {
                Said::Cluster(_, rule) if is_observed(cluster, &rule.policy) => {
                    prop_assert_eq!(blamed, &rule);
                }
                Said::Nothing | Said::Namespaced(_) if blamed.place == RulePlace::Isolation => {}
                // What is in force denies it only because an observed rule passed it on.
                Said::Nothing | Said::Namespaced(_) | Said::Cluster(..) => {
                    prop_assert_eq!(action(cluster, blamed), Some(Pass));
                }
            }
        }
    }
    Ok(())
}

fn is_observed(cluster: &Cluster, policy: &PolicyName) -> bool {
    let mode = match policy {
        PolicyName::Namespaced(name) => {
            let all = cluster.policies();
            all.iter().find(|it| it.name == *name).map(|it| it.mode)
        }
        PolicyName::Cluster(_, name) => {
            let all = cluster.cluster_policies();
            all.iter().find(|it| it.name == *name).map(|it| it.mode)
        }
    };
    mode == Some(PolicyMode::Observe)
}

/// What a rule of a ClusterNetworkPolicy does.
fn action(cluster: &Cluster, rule: &RuleName) -> Option<ClusterAction> {
    let (PolicyName::Cluster(_, name), RulePlace::Rule(index)) = (&rule.policy, rule.place) else {
        return None;
    };
    let all = cluster.cluster_policies();
    let policy = all.iter().find(|it| it.name == *name)?;
    let rules = match rule.direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    };
    rules.get(index as usize).map(|it| it.action)
}

fn local<'a>(
    cluster: &'a Cluster,
    compiled: &Compiled,
) -> Vec<(podway_tables::EndpointId, &'a Pod)> {
    let pods = cluster.pods().into_iter().filter(|pod| {
        pod.node.as_deref() == Some(NODE)
            && pod.network == PodNetwork::Own
            && pod.phase != PodPhase::Ended
    });
    let id = |pod: &Pod| compiled.names.endpoint_of(&pod.name).expect("an endpoint");
    pods.map(|pod| (id(pod), pod)).collect()
}

fn questions(subject: &Pod) -> Vec<Question<'_>> {
    let mut all = Vec::new();
    for direction in [Direction::Ingress, Direction::Egress] {
        for peer in probes() {
            for protocol in PROTOCOLS {
                all.extend(PORTS.map(|port| Question {
                    subject,
                    direction,
                    peer,
                    protocol,
                    port,
                }));
            }
        }
    }
    all
}

fn rule_matches(cluster: &Cluster, named: &RuleName, question: Question<'_>) -> bool {
    let Question {
        subject,
        direction,
        peer,
        protocol,
        port,
    } = question;
    let all = cluster.policies();
    let named_so = |it: &&&NetworkPolicy| named.policy == PolicyName::Namespaced(it.name.clone());
    let policy = all.iter().find(named_so).expect("the policy");
    let rules = match direction {
        Direction::Ingress => &policy.ingress,
        Direction::Egress => &policy.egress,
    };
    let RulePlace::Rule(index) = named.place else {
        panic!("isolation allows nobody");
    };
    assert_eq!(named.direction, direction);
    let rule = &rules.as_ref().expect("rules")[index as usize];
    naive::rule_matches(
        cluster, policy, rule, subject, direction, peer, protocol, port,
    )
}

proptest! {
    #![proptest_config(Config::with_cases(60))]

    #[test]
    fn what_is_only_observed_changes_no_verdict(
        changes in prop::collection::vec(change(0), 0..90),
    ) {
        let with = cluster(changes);
        let mut without = with.clone();
        for policy in with.policies().into_iter().filter(|it| it.mode == PolicyMode::Observe) {
            without.apply(Change::Gone(Key::NetworkPolicy(policy.name.clone())));
        }
        let observed = with.cluster_policies().into_iter();
        for policy in observed.filter(|it| it.mode == PolicyMode::Observe) {
            without.apply(Change::Gone(Key::ClusterNetworkPolicy(policy.name.clone())));
        }
        let judged = |cluster: &Cluster| {
            let compiled = compile(cluster, NODE);
            let policies = &compiled.snapshot.policies;
            let mut all = Vec::new();
            for (id, pod) in local(cluster, &compiled) {
                for it in questions(pod) {
                    let peer = it.peer.into();
                    let judged = policies.judge(id, it.direction, &peer, it.protocol, it.port);
                    all.push(std::mem::discriminant(&judged));
                }
            }
            all
        };
        prop_assert_eq!(judged(&with), judged(&without));
    }
}

const CLIENT: &str = "10.244.1.10";
const FRIEND: &str = "10.244.2.20";
const STRANGER: &str = "10.244.2.21";

/// A pod here and two elsewhere, and what these policies say of its ingress on TCP.
fn judged(policies: Vec<Change>) -> impl Fn(&str, u16) -> Option<String> {
    let facts = cluster(pods().into_iter().chain(policies));
    let compiled = compile(&facts, "n1");
    let pod = name("a/client");
    let id = compiled.names.endpoint_of(&pod).expect("an endpoint");
    move |peer, port| {
        let policies = &compiled.snapshot.policies;
        let peer = addr(peer);
        let judged = policies.judge(id, Direction::Ingress, &peer, Protocol::TCP, port);
        let named = |rule| compiled.names.rule(rule).expect("a rule's name");
        match judged {
            Judgement::None => None,
            Judgement::Allow(rule) => Some(format!("allowed by {}", named(rule))),
            Judgement::Deny(None) => Some("isolated".to_owned()),
            Judgement::Deny(Some(rule)) => Some(format!("denied by {}", named(rule))),
        }
    }
}

fn pods() -> Vec<Change> {
    vec![
        Change::Setup(setup()),
        node("n1", "192.168.0.1", "10.244.1.0/24"),
        node("n2", "192.168.0.2", "10.244.2.0/24"),
        namespace("b", "team=blue"),
        Change::Pod(Pod {
            ports: [named("web", Protocol::TCP, 8080)].into(),
            ..pod("a/client", "n1", CLIENT, "app=client")
        }),
        Change::Pod(pod("b/friend", "n2", FRIEND, "app=friend")),
        Change::Pod(pod("c/stranger", "n2", STRANGER, "app=stranger")),
    ]
}

fn of_namespaces(text: &str) -> ClusterPeer {
    ClusterPeer::Pods(PodSet {
        namespaces: selector(text),
        pods: selector(""),
    })
}

fn rule(action: ClusterAction, peers: Vec<ClusterPeer>) -> ClusterRule {
    let ports = None;
    ClusterRule {
        action,
        peers,
        ports,
    }
}

fn everyone(action: ClusterAction) -> ClusterRule {
    rule(action, vec![of_namespaces("")])
}

fn policy(name: &str, tier: ClusterTier, priority: u16, ingress: Vec<ClusterRule>) -> Change {
    Change::ClusterNetworkPolicy(ClusterNetworkPolicy {
        name: name.into(),
        tier,
        priority,
        subject: PodSet {
            namespaces: selector(""),
            pods: selector("app=client"),
        },
        ingress,
        egress: Vec::new(),
        mode: PolicyMode::Enforce,
    })
}

fn namespaced(policy: &str, mode: PolicyMode) -> Change {
    Change::NetworkPolicy(NetworkPolicy {
        name: name(policy),
        subject: selector("app=client"),
        ingress: Some(vec![]),
        egress: None,
        mode,
    })
}

use ClusterAction::{Accept, Deny, Pass};
use ClusterTier::{Admin, Baseline};

#[test]
fn a1_a3_the_admin_tier_goes_before_networkpolicies_and_these_before_the_baseline() {
    let isolated = || namespaced("a/isolated", PolicyMode::Enforce);
    let baseline = || policy("base", Baseline, 0, vec![everyone(Deny)]);
    let admin = |action| policy("rule", Admin, 0, vec![everyone(action)]);
    let said = |policies| judged(policies)(FRIEND, 80);
    let allowed = Some("allowed by rule ingress[0] of the Admin tier".to_owned());
    assert_eq!(said(vec![admin(Accept), isolated(), baseline()]), allowed);
    let isolation = Some("isolated".to_owned());
    assert_eq!(said(vec![admin(Pass), isolated(), baseline()]), isolation);
    let denied = Some("denied by base ingress[0] of the Baseline tier".to_owned());
    assert_eq!(said(vec![admin(Pass), baseline()]), denied);
    let leave = policy("base", Baseline, 0, vec![everyone(Pass), everyone(Deny)]);
    assert_eq!(said(vec![leave]), None);
    // A pass leaves the whole tier, not its policy only.
    let later = policy("zz", Admin, 9, vec![everyone(Deny)]);
    assert_eq!(said(vec![admin(Pass), later]), None);
}

#[test]
fn a2_low_priorities_go_first_then_names_then_the_order_of_rules() {
    let open = |name, priority| policy(name, Admin, priority, vec![everyone(Accept)]);
    let shut = |name, priority| policy(name, Admin, priority, vec![everyone(Deny)]);
    let by = |policies| judged(policies)(FRIEND, 80).expect("a rule");
    assert!(by(vec![open("x", 1000), shut("y", 0)]).contains("denied by y"));
    assert!(by(vec![open("b", 7), shut("a", 7)]).contains("denied by a"));
    assert!(by(vec![shut("b", 7), open("a", 7)]).contains("allowed by a"));
    let list = vec![everyone(Accept), everyone(Deny)];
    assert!(by(vec![policy("x", Admin, 0, list)]).contains("ingress[0]"));
}

#[test]
fn a4_a_rule_that_is_not_understood_accepts_nobody_and_else_denies_everybody() {
    let whole = [
        rule(Accept, vec![]),
        rule(Accept, vec![ClusterPeer::Unknown, of_namespaces("")]),
        ClusterRule {
            ports: Some(vec![ClusterPort::Unknown]),
            ..everyone(Accept)
        },
    ];
    for accept in whole {
        let only = |action| {
            let rule = ClusterRule {
                action,
                ..accept.clone()
            };
            judged(vec![policy("x", Admin, 0, vec![rule])])
        };
        assert_eq!(only(Accept)(FRIEND, 80), None);
        for action in [Deny, Pass] {
            for peer in [FRIEND, "8.8.8.8"] {
                let said = only(action)(peer, 80).expect("a rule");
                assert_eq!(said, "denied by x ingress[0] of the Admin tier");
            }
        }
    }
}

#[test]
fn a5_networks_match_pods_too_and_nodes_their_addresses() {
    let networks = ClusterPeer::Networks(vec![net("10.244.2.20/32")]);
    let judge = judged(vec![policy(
        "x",
        Admin,
        0,
        vec![rule(Deny, vec![networks])],
    )]);
    assert!(judge(FRIEND, 80).is_some() && judge(STRANGER, 80).is_none());
    let nodes = ClusterPeer::Nodes(selector(""));
    let judge = judged(vec![policy("x", Admin, 0, vec![rule(Deny, vec![nodes])])]);
    assert!(judge("192.168.0.2", 80).is_some() && judge(FRIEND, 80).is_none());
}

#[test]
fn a_nodes_labels_and_a_namespaces_count_at_once() {
    let nodes = ClusterPeer::Nodes(selector("zone=x"));
    let deny = policy(
        "x",
        Admin,
        0,
        vec![rule(Deny, vec![nodes, of_namespaces("team=red")])],
    );
    let mut facts = cluster(pods().into_iter().chain([deny]));
    let mut compiler = Compiler::new("n1");
    let mut denies = |facts: &Cluster, peer| {
        let compiled = compiler.compile(facts);
        let id = compiled
            .names
            .endpoint_of(&name("a/client"))
            .expect("an endpoint");
        let policies = &compiled.snapshot.policies;
        let said = policies.judge(id, Direction::Ingress, &addr(peer), Protocol::TCP, 80);
        matches!(said, Judgement::Deny(Some(_)))
    };
    assert!(!denies(&facts, "192.168.0.2") && !denies(&facts, FRIEND));
    facts.apply(Change::Node(Node {
        name: "n2".into(),
        labels: labels("zone=x"),
        addresses: ips("192.168.0.2"),
        taints: Vec::new(),
        pod_ranges: vec![net("10.244.2.0/24")],
    }));
    facts.apply(namespace("b", "team=red"));
    assert!(denies(&facts, "192.168.0.2") && denies(&facts, FRIEND));
}

#[test]
fn named_ports_are_the_targets_own_of_any_protocol() {
    let web = ClusterRule {
        ports: Some(vec![ClusterPort::Named("web".into())]),
        ..everyone(Deny)
    };
    let judge = judged(vec![policy("x", Admin, 0, vec![web])]);
    assert!(judge(FRIEND, 8080).is_some() && judge(FRIEND, 8081).is_none());
}

#[test]
fn a_dry_run_names_the_policy_that_would_deny() {
    let enforced = judged(vec![namespaced("a/trial", PolicyMode::Observe)]);
    assert_eq!(enforced(FRIEND, 80), None);
    let trial = namespaced("a/trial", PolicyMode::Observe);
    let facts = cluster(pods().into_iter().chain([trial]));
    let compiled = compile(&facts, "n1");
    let id = compiled
        .names
        .endpoint_of(&name("a/client"))
        .expect("an endpoint");
    let policies = &compiled.snapshot.policies;
    let would = policies.observe(id, Direction::Ingress, &addr(FRIEND), Protocol::TCP, 80);
    let named = compiled.names.rule(would.expect("a rule")).expect("a name");
    assert_eq!(named.to_string(), "a/trial ingress isolation");
}

#[test]
fn n18_a_namespace_that_is_deleted_stays_enforced_until_its_pods_are_gone() {
    let isolated = namespaced("a/isolated", PolicyMode::Enforce);
    let mut facts = cluster(pods().into_iter().chain([namespace("a", ""), isolated]));
    let mut compiler = Compiler::new("n1");
    let mut compiled = |facts: &Cluster| {
        let compiled = compiler.compile(facts);
        let id = compiled.names.endpoint_of(&name("a/client"))?;
        let policies = &compiled.snapshot.policies;
        Some(policies.judge(id, Direction::Ingress, &addr(FRIEND), Protocol::TCP, 80))
    };
    let isolation = Some(Judgement::Deny(None));
    assert_eq!(compiled(&facts), isolation);
    // The policy may go in the same round as the news that the namespace goes.
    facts.apply(Change::Namespace(Namespace {
        name: "a".into(),
        labels: labels(""),
        phase: NamespacePhase::Terminating,
    }));
    facts.apply(Change::Gone(Key::NetworkPolicy(name("a/isolated"))));
    assert_eq!(compiled(&facts), isolation);
    facts.apply(Change::Gone(Key::Namespace("a".into())));
    assert_eq!(compiled(&facts), isolation);
    facts.apply(Change::Gone(Key::Pod(name("a/client"))));
    assert_eq!(compiled(&facts), None);
    // A namesake starts without it.
    facts.apply(namespace("a", ""));
    facts.apply(Change::Pod(pod("a/client", "n1", CLIENT, "app=client")));
    assert_eq!(compiled(&facts), Some(Judgement::None));
    // While the namespace stays, a policy that goes is gone.
    facts.apply(namespaced("a/isolated", PolicyMode::Enforce));
    assert_eq!(compiled(&facts), isolation);
    facts.apply(Change::Gone(Key::NetworkPolicy(name("a/isolated"))));
    assert_eq!(compiled(&facts), Some(Judgement::None));
}
