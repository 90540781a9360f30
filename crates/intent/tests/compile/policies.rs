//! NetworkPolicy, row by row.

use podway_intent::*;
use podway_tables::{Direction, Judgement};
use podway_wire::Protocol;

use crate::build::*;

const CLIENT: &str = "10.244.1.10";
const FRIEND: &str = "10.244.2.20";
const STRANGER: &str = "10.244.2.21";
const NEIGHBOUR: &str = "10.244.2.30";

/// A pod here, one in its namespace and two in another, and the policy of one list of rules.
fn judged(policy: NetworkPolicy) -> impl Fn(Direction, &str, Protocol, u16) -> Judgement {
    let with_ports = |pod: Pod, ports: Vec<NamedPort>| {
        let ports = ports.into();
        Change::Pod(Pod { ports, ..pod })
    };
    let friend = pod("b/friend", "n2", FRIEND, "app=friend");
    let cluster = cluster([
        Change::Setup(setup()),
        node("n1", "192.168.0.1", "10.244.1.0/24"),
        node("n2", "192.168.0.2", "10.244.2.0/24"),
        namespace("b", "team=blue"),
        with_ports(
            pod("a/client", "n1", CLIENT, "app=client"),
            vec![named("web", Protocol::TCP, 8080)],
        ),
        with_ports(
            friend,
            vec![
                named("web", Protocol::TCP, 8081),
                named("web", Protocol::UDP, 53),
            ],
        ),
        Change::Pod(pod("b/stranger", "n2", STRANGER, "app=stranger")),
        Change::Pod(pod("a/neighbour", "n2", NEIGHBOUR, "app=friend")),
        Change::Pod(Pod {
            network: PodNetwork::Host,
            ..pod("b/agent", "n2", "192.168.0.2", "app=friend")
        }),
        Change::NetworkPolicy(policy),
    ]);
    let compiled = compile(&cluster, "n1");
    let id = compiled
        .names
        .endpoint_of(&name("a/client"))
        .expect("an endpoint");
    move |direction, peer, protocol, port| {
        compiled
            .snapshot
            .policies
            .judge(id, direction, &addr(peer), protocol, port)
    }
}

fn policy(ingress: Option<Vec<PolicyRule>>, egress: Option<Vec<PolicyRule>>) -> NetworkPolicy {
    NetworkPolicy {
        name: name("a/policy"),
        subject: selector("app=client"),
        ingress,
        egress,
        mode: PolicyMode::Enforce,
    }
}

fn pods(namespaces: Option<&str>, pods: &str) -> PolicyPeer {
    PolicyPeer::Pods {
        namespaces: namespaces.map(selector),
        pods: selector(pods),
    }
}

fn rule(peers: Option<Vec<PolicyPeer>>, ports: Option<Vec<(Protocol, Ports)>>) -> PolicyRule {
    let port = |(protocol, ports)| PolicyPort { protocol, ports };
    PolicyRule {
        peers,
        ports: ports.map(|all| all.into_iter().map(port).collect()),
    }
}

const DENY: Judgement = Judgement::Deny(None);

fn allows(judgement: Judgement) -> bool {
    matches!(judgement, Judgement::Allow(_))
}

#[test]
fn n1_only_the_isolated_direction_of_a_selected_pod_is_judged() {
    let judge = judged(policy(Some(vec![]), None));
    assert_eq!(judge(Direction::Ingress, FRIEND, Protocol::TCP, 80), DENY);
    assert_eq!(
        judge(Direction::Egress, FRIEND, Protocol::TCP, 80),
        Judgement::None
    );
    let elsewhere = NetworkPolicy {
        name: name("b/policy"),
        ..policy(Some(vec![]), None)
    };
    assert_eq!(
        judged(elsewhere)(Direction::Ingress, FRIEND, Protocol::TCP, 80),
        Judgement::None
    );
}

#[test]
fn n3_both_selectors_of_a_peer_must_match_and_a_lone_one_means_the_own_namespace() {
    let both = rule(Some(vec![pods(Some("team=blue"), "app=friend")]), None);
    let judge = judged(policy(Some(vec![both]), None));
    assert!(allows(judge(Direction::Ingress, FRIEND, Protocol::TCP, 80)));
    assert_eq!(judge(Direction::Ingress, STRANGER, Protocol::TCP, 80), DENY);
    assert_eq!(
        judge(Direction::Ingress, NEIGHBOUR, Protocol::TCP, 80),
        DENY
    );
    let alone = rule(Some(vec![pods(None, "app=friend")]), None);
    let judge = judged(policy(Some(vec![alone]), None));
    assert!(allows(judge(
        Direction::Ingress,
        NEIGHBOUR,
        Protocol::TCP,
        80
    )));
    assert_eq!(judge(Direction::Ingress, FRIEND, Protocol::TCP, 80), DENY);
}

#[test]
fn n4_an_empty_list_inside_is_nothing_and_an_absent_one_is_all() {
    let judge = judged(policy(Some(vec![rule(Some(vec![]), None)]), None));
    assert_eq!(judge(Direction::Ingress, FRIEND, Protocol::TCP, 80), DENY);
    let judge = judged(policy(Some(vec![rule(None, Some(vec![]))]), None));
    assert_eq!(judge(Direction::Ingress, FRIEND, Protocol::TCP, 80), DENY);
    let judge = judged(policy(Some(vec![rule(None, None)]), None));
    assert!(allows(judge(
        Direction::Ingress,
        "8.8.8.8",
        Protocol::ICMP,
        0
    )));
}

#[test]
fn n5_n17_a_rule_for_udp_still_isolates_tcp_and_icmp() {
    let udp = rule(None, Some(vec![(Protocol::UDP, Ports::All)]));
    let judge = judged(policy(Some(vec![udp]), None));
    assert!(allows(judge(Direction::Ingress, FRIEND, Protocol::UDP, 9)));
    assert_eq!(judge(Direction::Ingress, FRIEND, Protocol::TCP, 9), DENY);
    assert_eq!(judge(Direction::Ingress, FRIEND, Protocol::ICMP, 0), DENY);
}

#[test]
fn n6_a_range_of_ports_holds_both_its_ends() {
    let range = rule(None, Some(vec![(Protocol::TCP, Ports::Range(80, 90))]));
    let judge = judged(policy(None, Some(vec![range])));
    let open = |port| allows(judge(Direction::Egress, FRIEND, Protocol::TCP, port));
    assert_eq!([79, 80, 90, 91].map(open), [false, true, true, false]);
}

#[test]
fn n7_a_name_is_the_port_of_the_target_by_protocol() {
    let web = |protocol| vec![(protocol, Ports::Named("web".into()))];
    let judge = judged(policy(
        Some(vec![rule(None, Some(web(Protocol::TCP)))]),
        Some(vec![rule(None, Some(web(Protocol::TCP)))]),
    ));
    assert!(allows(judge(
        Direction::Ingress,
        FRIEND,
        Protocol::TCP,
        8080
    )));
    assert_eq!(judge(Direction::Ingress, FRIEND, Protocol::TCP, 8081), DENY);
    assert!(allows(judge(
        Direction::Egress,
        FRIEND,
        Protocol::TCP,
        8081
    )));
    assert_eq!(judge(Direction::Egress, FRIEND, Protocol::TCP, 53), DENY);
    assert_eq!(judge(Direction::Egress, FRIEND, Protocol::UDP, 53), DENY);
    assert_eq!(
        judge(Direction::Egress, STRANGER, Protocol::TCP, 8081),
        DENY
    );
    assert_eq!(
        judge(Direction::Egress, "8.8.8.8", Protocol::TCP, 8081),
        DENY
    );
}

#[test]
fn n8_n9_n14_a_block_holds_pods_and_nodes_and_another_rule_may_let_in_what_it_excepts() {
    let block = |range, except| PolicyPeer::Block {
        range: net(range),
        except: vec![net(except)],
    };
    let blocks = vec![
        block("10.244.0.0/16", "10.244.2.20/31"),
        block("192.168.0.2/32", "10.0.0.0/8"),
    ];
    let judge = judged(policy(Some(vec![rule(Some(blocks.clone()), None)]), None));
    assert!(allows(judge(
        Direction::Ingress,
        NEIGHBOUR,
        Protocol::TCP,
        80
    )));
    assert!(allows(judge(
        Direction::Ingress,
        "192.168.0.2",
        Protocol::TCP,
        80
    )));
    assert_eq!(judge(Direction::Ingress, FRIEND, Protocol::TCP, 80), DENY);
    let union = vec![
        rule(Some(blocks), None),
        rule(Some(vec![pods(Some(""), "app=friend")]), None),
    ];
    let judge = judged(policy(Some(union), None));
    assert!(allows(judge(Direction::Ingress, FRIEND, Protocol::TCP, 80)));
    assert_eq!(judge(Direction::Ingress, STRANGER, Protocol::TCP, 80), DENY);
    // A pod on its node's network is the node, so selectors don't see it.
    let selector = judged(policy(
        Some(vec![rule(Some(vec![pods(Some(""), "")]), None)]),
        None,
    ));
    assert_eq!(
        selector(Direction::Ingress, "192.168.0.2", Protocol::TCP, 80),
        DENY
    );
}

#[test]
fn n16_labels_count_at_once_and_every_namespace_has_its_name() {
    let by_name = "kubernetes.io/metadata.name=b";
    let peers = vec![pods(Some(by_name), ""), pods(Some("team=green"), "")];
    let policy = policy(Some(vec![rule(Some(peers), None)]), None);
    let mut facts = cluster([
        Change::Setup(setup()),
        node("n1", "192.168.0.1", "10.244.1.0/24"),
        Change::Pod(pod("a/client", "n1", CLIENT, "app=client")),
        Change::Pod(pod("b/friend", "n2", FRIEND, "")),
        Change::Pod(pod("c/stranger", "n2", STRANGER, "")),
        Change::NetworkPolicy(policy),
    ]);
    let mut compiler = Compiler::new("n1");
    let mut judge = |facts: &Cluster, peer| {
        let compiled = compiler.compile(facts);
        let id = compiled
            .names
            .endpoint_of(&name("a/client"))
            .expect("an endpoint");
        let endpoint = compiled.snapshot.endpoint(id).expect("an endpoint");
        let policies = &compiled.snapshot.policies;
        let judgement = policies.judge(id, Direction::Ingress, &addr(peer), Protocol::TCP, 80);
        (allows(judgement), endpoint.generation)
    };
    assert_eq!(judge(&facts, FRIEND), (true, 1));
    assert_eq!(judge(&facts, STRANGER), (false, 1));
    facts.apply(namespace("c", "team=green"));
    assert_eq!(judge(&facts, STRANGER), (true, 3));
    facts.apply(Change::Pod(pod("a/client", "n1", CLIENT, "app=free")));
    let compiled = compiler.compile(&facts);
    let id = compiled
        .names
        .endpoint_of(&name("a/client"))
        .expect("an endpoint");
    let policies = &compiled.snapshot.policies;
    let free = policies.judge(id, Direction::Ingress, &addr(FRIEND), Protocol::TCP, 80);
    assert_eq!(free, Judgement::None);
}
