//! A small shop, and flows in it at random.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};

use podway_wire::Protocol;
use proptest::prelude::*;
use proptest::sample::select;
use serde_json::json;

use super::*;
use crate::arguments::Output;
use crate::lab::Ended;

/// Labels of some pods are those of others and more.
const PODS: [(&str, &str, &str); 6] = [
    ("shop/web-1", "app: web", "10.244.1.10"),
    ("shop/web-2", "app: web", "10.244.2.10"),
    ("shop/canary", "app: web, track: canary", "10.244.1.11"),
    ("shop/plain", "", "10.244.1.12"),
    ("back/web", "app: web", "10.244.2.20"),
    ("back/store", "app: store", "10.244.2.21"),
];

const NODES: &str = r#"
kind: Node
apiVersion: v1
metadata: { name: n1 }
spec: { podCIDRs: [10.244.1.0/24] }
status: { addresses: [{ type: InternalIP, address: 192.168.50.1 }] }
---
kind: Node
apiVersion: v1
metadata: { name: n2 }
spec: { podCIDRs: [10.244.2.0/24] }
status: { addresses: [{ type: InternalIP, address: 192.168.50.2 }] }
"#;

/// A folder with the shop and these further manifests.
fn shop(further: &str) -> tempfile::TempDir {
    let mut text = NODES.to_owned();
    for (name, labels, address) in PODS {
        let (namespace, name) = name.split_once('/').expect("namespace/name");
        let node = if address.starts_with("10.244.1") {
            "n1"
        } else {
            "n2"
        };
        text += &format!(
            "---\nkind: Pod\napiVersion: v1\nmetadata: {{ name: {name}, namespace: {namespace}, labels: {{ {labels} }} }}\nspec: {{ nodeName: {node}, containers: [{{ name: c, image: none, ports: [{{ containerPort: 80 }}] }}] }}\nstatus: {{ podIP: {address} }}\n"
        );
    }
    let folder = tempfile::tempdir().expect("folder");
    fs::write(folder.path().join("shop.yaml"), text).expect("written");
    fs::write(folder.path().join("more.yaml"), further).expect("written");
    folder
}

fn flows_file(folder: &Path, flows: &[Flow]) -> PathBuf {
    let row = |flow: &Flow| {
        json!({
            "protocol": flow.protocol.to_string(),
            "source": format!("{}:40000", flow.source),
            "target": "10.96.0.1:80",
            "translated_source": "192.168.50.1:1",
            "translated_target": format!("{}:{}", flow.target, flow.port),
        })
    };
    let rows: Vec<_> = flows.iter().map(row).collect();
    let path = folder.join("flows.txt");
    let answer = json!({"total": rows.len(), "flows": rows});
    fs::write(&path, answer.to_string()).expect("written");
    path
}

/// Pods that have the same labels in the same namespace.
fn kind(pod: &str) -> (&'static str, &'static str) {
    let found = PODS.iter().find(|(name, ..)| *name == pod).expect("a pod");
    (found.0.split('/').next().expect("namespace"), found.1)
}

fn flow() -> impl Strategy<Value = (usize, usize, Protocol, u16)> {
    let protocol = select(vec![Protocol::TCP, Protocol::UDP, Protocol::SCTP]);
    (
        0..PODS.len(),
        0..PODS.len(),
        protocol,
        select(vec![53, 80, 81, 65_535]),
    )
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 40, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_suggestion_allows_exactly_the_flows_that_were_seen(
        seen in prop::collection::vec(flow(), 0..12),
    ) {
        let seen: Vec<_> = seen.into_iter().filter(|(from, to, ..)| from != to).collect();
        let flow = |(from, to, protocol, port): &(usize, usize, Protocol, u16)| Flow {
            source: PODS[*from].2.parse().expect("address"),
            target: PODS[*to].2.parse().expect("address"),
            protocol: *protocol,
            port: *port,
        };
        let flows: Vec<Flow> = seen.iter().map(flow).collect();
        let bare = shop("");
        let file = flows_file(bare.path(), &flows);
        let yaml = suggest(bare.path(), &[file], Subjects::All).expect("policies");
        let guarded = shop(&yaml);
        let reach = Reach::of_manifests(guarded.path()).expect("legal");
        let wanted: Wanted = seen
            .iter()
            .map(|(from, to, protocol, port)| {
                (kind(PODS[*from].0), kind(PODS[*to].0), protocol.to_string(), *port)
            })
            .collect();
        for cell in cells(&reach, &[]) {
            let place = &cell.place;
            let allowed = wanted.contains(&(
                kind(&place.from),
                kind(&place.to),
                place.protocol.to_owned(),
                place.first,
            ));
            let whole = place.ports == place.first.to_string() || cell.verdict == Verdict::Deny;
            prop_assert!(whole || wanted_range(&wanted, place), "{:?}", cell);
            prop_assert_eq!(cell.verdict == Verdict::Allow, allowed, "{:?}", cell);
        }
    }
}

/// Client, server, protocol and port, by kinds of pods.
type Wanted = BTreeSet<(
    (&'static str, &'static str),
    (&'static str, &'static str),
    String,
    u16,
)>;

/// True if each port of a cell was wanted: neighbouring ports are in one cell.
fn wanted_range(wanted: &Wanted, place: &Place) -> bool {
    let (first, last) = place.ports.split_once('-').expect("several ports");
    let (first, last): (u16, u16) = (first.parse().expect("port"), last.parse().expect("port"));
    (first..=last).all(|port| {
        let (from, to) = (kind(&place.from), kind(&place.to));
        wanted.contains(&(from, to, place.protocol.to_owned(), port))
    })
}

const ONLY_WEB: &str = r#"
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: { name: only-web, namespace: back }
spec:
  podSelector: { matchLabels: { app: store } }
  ingress: [{ from: [{ podSelector: { matchLabels: { app: web } } }], ports: [{ port: 80 }] }]
---
kind: ClusterNetworkPolicy
apiVersion: policy.networking.k8s.io/v1alpha2
metadata: { name: no-canaries }
spec:
  tier: Admin
  priority: 5
  subject: { pods: { podSelector: { matchLabels: { track: canary } } } }
  egress: [{ action: Deny, to: [{ namespaces: {} }] }]
"#;

#[test]
fn a_check_names_rules_and_tiers() {
    let reach = Reach::of_manifests(shop(ONLY_WEB).path()).expect("legal");
    let all = cells(&reach, &[]);
    let told = |from: &str, to: &str| -> Vec<(String, &str, Verdict, String)> {
        let of = all
            .iter()
            .filter(|cell| cell.place.from == from && cell.place.to == to);
        let tcp = of.filter(|cell| cell.place.protocol == "tcp");
        tcp.map(|cell| {
            let place = &cell.place;
            (
                place.ports.clone(),
                place.family,
                cell.verdict,
                cell.by.join(", "),
            )
        })
        .collect()
    };
    let line = |ports: &str, verdict, by: &str| (ports.to_owned(), "ipv4", verdict, by.to_owned());
    let isolation = "back/store ingress isolation";
    assert_eq!(
        told("back/web", "back/store"),
        [
            line("1-79", Verdict::Deny, isolation),
            line("80", Verdict::Allow, "back/only-web ingress[0]"),
            line("81-65535", Verdict::Deny, isolation),
        ]
    );
    let denied = "no-canaries egress[0] of the Admin tier";
    assert_eq!(
        told("shop/canary", "shop/plain"),
        [line("1-65535", Verdict::Deny, denied)]
    );
    assert_eq!(
        told("shop/plain", "back/web"),
        [line("1-65535", Verdict::Allow, "")]
    );
}

#[test]
fn against_another_set_only_what_differs_is_told() {
    let (old, new) = (
        shop(ONLY_WEB),
        shop(&ONLY_WEB.replace("port: 80", "port: 81")),
    );
    let same = check(new.path(), Some(new.path()), Output::Json).expect("legal");
    assert!(matches!(same, Ended::Well(text) if text == r#"{"changed":[]}"#));
    let Ended::Wrong(text, line) =
        check(new.path(), Some(old.path()), Output::Json).expect("legal")
    else {
        panic!("they differ");
    };
    assert!(line.starts_with("2 cells differ from "), "{line}");
    let changed: serde_json::Value = serde_json::from_str(&text).expect("JSON");
    let cell = |ports, before, after, by| {
        json!({
            "from": "back/web", "to": "back/store", "family": "ipv4", "protocol": "tcp",
            "ports": ports, "before": before, "after": after, "by": [by],
        })
    };
    let isolation = "back/store ingress isolation";
    assert_eq!(
        changed["changed"],
        json!([
            cell("80", "allow", "deny", isolation),
            cell("81", "deny", "allow", "back/only-web ingress[0]"),
        ])
    );
}

#[test]
fn what_policies_cannot_name_and_flows_that_are_none_are_told() {
    let folder = shop("");
    let ping = Flow {
        source: "10.244.1.10".parse().expect("address"),
        target: "8.8.8.8".parse().expect("address"),
        protocol: Protocol::ICMP,
        port: 0,
    };
    let web = Flow {
        protocol: Protocol::TCP,
        port: 443,
        ..ping
    };
    let file = flows_file(folder.path(), &[ping, web]);
    let yaml = suggest(folder.path(), &[file], Subjects::Seen).expect("policies");
    assert!(
        yaml.contains("- ipBlock: { cidr: \"8.8.8.8/32\" }"),
        "{yaml}"
    );
    assert!(
        yaml.ends_with("can't name it: icmp from 10.244.1.10 to 8.8.8.8\n"),
        "{yaml}"
    );
    assert_eq!(yaml.matches("kind: NetworkPolicy").count(), 1);
    let error =
        parse(r#"{"flows":[{"protocol":"tcp","source":"x","translated_target":"1.1.1.1:1"}]}"#);
    assert!(error.is_err_and(|text| text.contains("found \"x\"")));
}

#[test]
fn m4_suggestions_outlive_a_rollout_and_pass_our_own_check() {
    let long = "x".repeat(250);
    let pod = |name: &str, labels: &str, address: &str| {
        format!(
            "---\nkind: Pod\napiVersion: v1\nmetadata: {{ name: {name}, namespace: back, labels: {{ {labels} }} }}\nspec: {{ nodeName: n2, containers: [{{ name: c, image: none }}] }}\nstatus: {{ podIP: {address} }}\n"
        )
    };
    let further = [
        pod("api-7d4f-a", "app: api, pod-template-hash: 7d4f", "10.244.2.30"),
        pod("api-8c55-b", "app: api, pod-template-hash: 8c55", "10.244.2.31"),
        pod("db-0", "app: db, controller-revision-hash: db-1, statefulset.kubernetes.io/pod-name: db-0, apps.kubernetes.io/pod-index: '0'", "10.244.2.32"),
        pod("job-a", "job-name: nightly-1, batch.kubernetes.io/controller-uid: u, controller-uid: u", "10.244.2.33"),
        pod(&long, "app: long", "10.244.2.34"),
    ]
    .concat();
    let folder = shop(&further);
    let flow = |source: &str, target: &str, port| Flow {
        source: source.parse().expect("address"),
        target: target.parse().expect("address"),
        protocol: Protocol::TCP,
        port,
    };
    let flows = [
        flow("10.244.2.30", "10.244.2.32", 5432),
        flow("10.244.2.33", "10.244.2.31", 80),
        flow("192.168.50.1", "10.244.2.34", 80),
    ];
    let file = flows_file(folder.path(), &flows);
    let yaml = suggest(folder.path(), &[file], Subjects::Seen).expect("policies");
    for passing in [
        "hash",
        "pod-name",
        "pod-index",
        "job-name",
        "controller-uid",
    ] {
        assert!(!yaml.contains(passing), "{passing} in {yaml}");
    }
    assert_eq!(yaml.matches("kind: NetworkPolicy").count(), 4, "{yaml}");
    assert!(yaml.ends_with("# 192.168.50.1 is Node n1's: whoever is on its network is meant, and a node in its place is not\n"), "{yaml}");
    fs::write(folder.path().join("suggested.yaml"), &yaml).expect("written");
    let reach = Reach::of_manifests(folder.path()).expect("its own check takes it");
    let verdict = |from: &str, to: &str, port| {
        let end = |name: &str| {
            let mut ends = reach.ends().iter();
            ends.find(|end| *end.name.name == *name)
                .expect("a pod")
                .clone()
        };
        let (from, to) = (end(from), end(to));
        let (source, target) = (from.addresses[0], to.addresses[0]);
        reach
            .say((&from, source), (&to, target), Protocol::TCP, port)
            .verdict
    };
    // Pods of the next rollout are let through as those that were seen.
    assert_eq!(verdict("api-8c55-b", "db-0", 5432), Verdict::Allow);
    assert_eq!(verdict("api-8c55-b", "db-0", 5433), Verdict::Deny);
    assert_eq!(verdict("job-a", "api-7d4f-a", 80), Verdict::Allow);
    assert_eq!(verdict("job-a", "db-0", 5432), Verdict::Deny);
}

#[test]
fn m4_flows_of_protocols_that_policies_lack_stop_nothing() {
    let row = |protocol: &str, end: &str| json!({"protocol": protocol, "source": format!("10.244.1.10{end}"), "translated_target": format!("10.244.2.10{end}")});
    let rows = [
        row("tcp", ":80"),
        row("protocol 47", ""),
        row("esp", ""),
        row("icmp", ""),
    ];
    let flows = parse(&json!({"flows": rows}).to_string()).expect("flows");
    let protocols: Vec<u8> = flows.iter().map(|flow| flow.protocol.0).collect();
    assert_eq!(protocols, [6, 47, 50, 1]);
    let folder = shop("");
    let file = folder.path().join("flows.txt");
    fs::write(&file, json!({"flows": rows}).to_string()).expect("written");
    let yaml = suggest(folder.path(), &[file], Subjects::Seen).expect("policies");
    assert!(yaml.contains("port: 80"), "{yaml}");
    assert_eq!(
        yaml.matches("# left out, for policies can't name it: ")
            .count(),
        3,
        "{yaml}"
    );
}
