//! Prints what 4 800 policies cost for 2 400 pods, all of them on this node: compiling, a label's change, memory, judging.
//!
//! `cargo run --release -p podway-intent --example policies`

use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};
use std::time::{Duration, Instant};

use podway_intent::*;
use podway_tables::{Direction, EndpointId, Judgement, Policies};
use podway_wire::{Addr, Protocol};

const NODE: &str = "node";
const NAMESPACES: u32 = 240;
const PODS_EACH: u32 = 10;
const POLICIES_EACH: u32 = 20;
/// Of each kind in a rule: ports, ranges, namespaces, pods, CIDRs.
const OF_EACH: u32 = 5;
const JUDGEMENTS: u32 = 1_000_000;

fn main() {
    // The pods of the first namespace, which are judged below, have the same policies in both.
    let few = cluster(10, |number| number < 10);
    let own = cluster(POLICIES_EACH, |number| number < POLICIES_EACH);
    let all = cluster(POLICIES_EACH, |_| true);
    let (ten, _) = measure("10 policies", few);
    let (twenty, _) = measure("20 policies, all of one namespace", own);
    let (many, mut rest) = measure("4 800 policies, 20 of each namespace", all);
    println!("judge, 4 800 against 20 {:>6.2} times", many / twenty);
    println!("judge, 4 800 against 10 {:>6.2} times", many / ten);
    let (cluster, compiler) = &mut rest;
    let mut change = |what: &str, change: Change| {
        cluster.apply(change);
        let (_, took) = timed(|| compiler.compile(cluster));
        println!("{what:<24}{took:>10.2?}");
    };
    let relabelled = |number| Pod {
        labels: [("app".into(), "another".into())].into(),
        ..pod(number)
    };
    change("one pod's labels", Change::Pod(relabelled(1_234)));
    change("and back", Change::Pod(pod(1_234)));
    change(
        "one namespace's labels",
        Change::Namespace(namespace(7, "x")),
    );
    change(
        "one policy gone",
        Change::Gone(Key::NetworkPolicy(policy(77).name)),
    );
    change("one policy more", Change::NetworkPolicy(policy(77)));
    change("nothing", Change::Pod(pod(1_234)));
}

/// Compiles and judges; gives ns a judgement, and what is needed to go on.
fn measure(what: &str, cluster: Cluster) -> (f64, (Cluster, Compiler)) {
    println!("{what}");
    let before = resident_mb();
    let mut compiler = Compiler::new(NODE);
    let (compiled, took) = timed(|| compiler.compile(&cluster));
    println!("  compile everything    {took:>10.2?}");
    println!("  memory                {:>7} MB", resident_mb() - before);
    let policies = &compiled.snapshot.policies;
    let subjects: Vec<EndpointId> = (0..PODS_EACH)
        .filter_map(|number| compiled.names.endpoint_of(&pod(number).name))
        .collect();
    let mut best = f64::MAX;
    let mut allowed = 0;
    for _ in 0..5 {
        let ((), took) = timed(|| allowed = judge(policies, &subjects));
        best = best.min(took.as_nanos() as f64 / f64::from(JUDGEMENTS));
    }
    println!("  judge                 {best:>7.1} ns ({allowed} of {JUDGEMENTS} allowed)");
    (best, (cluster, compiler))
}

/// Judges connections of pods with pods of all namespaces and with others.
fn judge(policies: &Policies, subjects: &[EndpointId]) -> u32 {
    let mut allowed = 0;
    let mut chance = 1u32;
    for turn in 0..JUDGEMENTS {
        chance = chance.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        let peer: Addr = match turn % 8 {
            0 => IpAddr::from(Ipv4Addr::from(chance)).into(),
            _ => address((chance >> 8) % (NAMESPACES * PODS_EACH)).into(),
        };
        let direction = match turn % 2 {
            0 => Direction::Ingress,
            _ => Direction::Egress,
        };
        let subject = subjects[(chance >> 4) as usize % subjects.len()];
        let port = (chance >> 16) as u16;
        let said = policies.judge(subject, direction, &peer, Protocol::TCP, port);
        allowed += u32::from(matches!(black_box(said), Judgement::Allow(_)));
    }
    allowed
}

fn timed<T>(work: impl FnOnce() -> T) -> (T, Duration) {
    let started = Instant::now();
    let done = work();
    (done, started.elapsed())
}

fn resident_mb() -> u64 {
    let statm = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
    let pages = statm.split(' ').nth(1).and_then(|text| text.parse().ok());
    pages.unwrap_or(0u64) * 4096 / 1_000_000
}

fn cluster(policies_each: u32, has: impl Fn(u32) -> bool) -> Cluster {
    let mut cluster = Cluster::default();
    for number in 0..NAMESPACES {
        cluster.apply(Change::Namespace(namespace(number, "team")));
    }
    for number in 0..NAMESPACES * PODS_EACH {
        cluster.apply(Change::Pod(pod(number)));
    }
    for number in (0..NAMESPACES * policies_each).filter(|number| has(*number)) {
        cluster.apply(Change::NetworkPolicy(policy(number)));
    }
    cluster
}

fn in_namespace(number: u32, name: String) -> Name {
    Name {
        namespace: format!("ns-{number}").into(),
        name: name.into(),
    }
}

fn namespace(number: u32, team: &str) -> Namespace {
    let name = format!("ns-{number}").into();
    let team = format!("{team}-{}", number % 40);
    Namespace {
        name,
        labels: [("team".into(), team.into())].into(),
        phase: NamespacePhase::Active,
    }
}

fn address(pod: u32) -> IpAddr {
    Ipv4Addr::from(0x0a40_000a + pod).into()
}

/// Each has labels of its own.
fn pod(number: u32) -> Pod {
    let app = format!("app-{}", number % PODS_EACH);
    let own = format!("pod-{number}");
    Pod {
        name: in_namespace(number / PODS_EACH, own.clone()),
        uid: "".into(),
        node: Some(NODE.into()),
        labels: [("app".into(), app.into()), ("pod".into(), own.into())].into(),
        addresses: vec![address(number)],
        ports: Vec::new(),
        host_ports: Vec::new(),
        network: PodNetwork::Own,
        phase: PodPhase::Alive,
    }
}

/// Each selects all pods of its namespace.
fn policy(number: u32) -> NetworkPolicy {
    let one_of = |key: &str, value: String| Selector {
        requirements: vec![Requirement::In(key.into(), vec![value.into()])],
    };
    let by_name = "kubernetes.io/metadata.name";
    let mut peers = Vec::new();
    let mut ports = Vec::new();
    for index in 0..OF_EACH {
        let mixed = number
            .wrapping_mul(2_654_435_761)
            .wrapping_add(index * 40_503)
            >> 7;
        peers.push(PolicyPeer::Pods {
            namespaces: Some(one_of(by_name, format!("ns-{}", mixed % NAMESPACES))),
            pods: Selector::default(),
        });
        peers.push(PolicyPeer::Pods {
            namespaces: Some(one_of("team", format!("team-{}", mixed % 40))),
            pods: one_of("app", format!("app-{}", mixed % PODS_EACH)),
        });
        let range = format!("{}.{}.0.0/{}", 11 + mixed % 200, index, 16 + mixed % 8);
        peers.push(PolicyPeer::Block {
            range: range.parse().expect("range"),
            except: Vec::new(),
        });
        let first = (1 + mixed % 60_000) as u16;
        for last in [first, first + 1 + (mixed % 500) as u16] {
            ports.push(PolicyPort {
                protocol: Protocol::TCP,
                ports: Ports::Range(first, last),
            });
        }
    }
    let rules = vec![PolicyRule {
        peers: Some(peers),
        ports: Some(ports),
    }];
    NetworkPolicy {
        name: in_namespace(
            number / POLICIES_EACH % NAMESPACES,
            format!("policy-{number}"),
        ),
        subject: Selector::default(),
        ingress: Some(rules.clone()),
        egress: Some(rules),
        mode: PolicyMode::Enforce,
    }
}
