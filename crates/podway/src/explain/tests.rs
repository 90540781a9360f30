//! Questions to a small cluster of two nodes.

use std::fs;

use super::*;

const CLUSTER: &str = r#"
kind: Node
apiVersion: v1
metadata: { name: n1 }
spec: { podCIDRs: [10.244.1.0/24, "fd44:0:0:1::/64"] }
status: { addresses: [{ type: InternalIP, address: 192.168.50.1 }, { type: InternalIP, address: "fd50::1" }] }
---
kind: Node
apiVersion: v1
metadata: { name: n2 }
spec: { podCIDRs: [10.244.2.0/24, "fd44:0:0:2::/64"] }
status: { addresses: [{ type: InternalIP, address: 192.168.50.2 }, { type: InternalIP, address: "fd50::2" }] }
---
kind: Pod
apiVersion: v1
metadata: { name: client, namespace: shop, labels: { app: client } }
spec: { nodeName: n1, containers: [{ name: c, image: none }] }
status: { podIP: 10.244.1.9, podIPs: [{ ip: 10.244.1.9 }, { ip: "fd44:0:0:1::9" }] }
---
kind: Pod
apiVersion: v1
metadata: { name: web-a, namespace: shop, labels: { app: web } }
spec: { nodeName: n1, containers: [{ name: c, image: none, ports: [{ name: http, containerPort: 8080 }] }] }
status: { podIP: 10.244.1.10, podIPs: [{ ip: 10.244.1.10 }, { ip: "fd44:0:0:1::10" }] }
---
kind: Pod
apiVersion: v1
metadata: { name: web-b, namespace: shop, labels: { app: web } }
spec: { nodeName: n2, containers: [{ name: c, image: none, ports: [{ name: http, containerPort: 8080 }] }] }
status: { podIP: 10.244.2.10, podIPs: [{ ip: 10.244.2.10 }, { ip: "fd44:0:0:2::10" }] }
---
kind: Service
apiVersion: v1
metadata: { name: web, namespace: shop }
spec: { clusterIP: 10.96.0.10, selector: { app: web }, ports: [{ name: http, port: 80, targetPort: http }] }
---
kind: Service
apiVersion: v1
metadata: { name: empty, namespace: shop }
spec: { clusterIP: 10.96.0.11, selector: { app: nobody }, ports: [{ port: 80 }] }
---
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: { name: web-from-client, namespace: shop }
spec:
  podSelector: { matchLabels: { app: web } }
  ingress: [{ from: [{ podSelector: { matchLabels: { app: client } } }], ports: [{ port: 8080 }] }]
"#;

fn explainer(node: &str) -> Explainer {
    explainer_that(node, Tunnel::Vxlan, "")
}

/// The cluster with further objects, and this choice of who is reached through the tunnel.
fn explainer_that(node: &str, tunnel: Tunnel, further: &str) -> Explainer {
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("cluster.yaml");
    fs::write(&file, format!("{CLUSTER}---{further}")).expect("written");
    Explainer::of_manifests(&file, node, tunnel).expect("legal")
}

fn ask(explainer: &Explainer, ingress: &str, from: &str, to: &str, port: u16) -> Answer {
    ask_from(explainer, ingress, from, 40_000, to, port)
}

fn ask_from(
    explainer: &Explainer,
    ingress: &str,
    from: &str,
    source_port: u16,
    to: &str,
    port: u16,
) -> Answer {
    let question = format!(
        r#"{{"id":1,"ingress":"{ingress}","src":"{from}","sport":{source_port},"dst":"{to}","dport":{port},"protocol":"tcp"}}"#
    );
    let question = Question::parse(&question).expect("legal");
    explainer.explain(&question).expect("known")
}

#[test]
fn a_service_gives_each_candidate_and_no_other() {
    let explainer = explainer("n1");
    let mut seen = std::collections::BTreeSet::new();
    for source_port in 1..200 {
        let answer = ask_from(
            &explainer,
            "pod:shop/client",
            "10.244.1.9",
            source_port,
            "10.96.0.10",
            80,
        );
        assert_eq!(
            (answer.verdict, answer.reason),
            ("forward", "forwarded"),
            "{answer:?}"
        );
        assert_eq!(answer.service.as_deref(), Some("shop/web:http"));
        assert_eq!(answer.candidates, ["10.244.1.10:8080", "10.244.2.10:8080"]);
        assert_eq!(answer.source, "10.244.1.9");
        let local = answer.backend.as_deref() == Some("10.244.1.10:8080");
        let (egress, judged) = match local {
            true => ("pod:shop/web-a", "allow"),
            // The other node judges its own pods.
            false => ("node:n2", "none"),
        };
        assert_eq!(answer.egress.as_deref(), Some(egress));
        assert_eq!(answer.policy.ingress, judged);
        seen.insert(answer.backend);
    }
    assert_eq!(seen.len(), 2);
}

#[test]
fn s1_a_service_without_endpoints_rejects() {
    let answer = ask(
        &explainer("n1"),
        "pod:shop/client",
        "10.244.1.9",
        "10.96.0.11",
        80,
    );
    assert_eq!(
        (answer.verdict, answer.reason),
        ("reject", "port-unreachable")
    );
    assert_eq!(answer.service.as_deref(), Some("shop/empty:80"));
    assert_eq!((answer.backend, answer.egress), (None, None));
}

#[test]
fn policies_name_who_decided() {
    let explainer = explainer("n1");
    let denied = ask(
        &explainer,
        "pod:shop/client",
        "10.244.1.9",
        "10.244.1.10",
        22,
    );
    assert_eq!((denied.verdict, denied.reason), ("drop", "ingress-denied"));
    assert_eq!(denied.policy.ingress, "deny");
    let isolation =
        "ingress policy: deny by the isolation of shop/web-from-client, no rule matches";
    assert!(
        denied.steps.iter().any(|step| step == isolation),
        "{:?}",
        denied.steps
    );
    assert_eq!(denied.policy.by, ["shop/web-from-client"]);
    let node = ask(&explainer, "host", "192.168.50.1", "10.244.1.10", 22);
    assert_eq!(node.verdict, "forward", "N13: {node:?}");
    assert_eq!(node.policy.ingress, "none");
}

const TIERS: &str = r#"
kind: NetworkPolicy
apiVersion: networking.k8s.io/v1
metadata: { name: to-web, namespace: shop }
spec:
  podSelector: { matchLabels: { app: client } }
  policyTypes: [Egress]
  egress: [{ to: [{ podSelector: { matchLabels: { app: web } } }], ports: [{ port: 8080 }] }]
---
kind: ClusterNetworkPolicy
apiVersion: policy.networking.k8s.io/v1alpha2
metadata: { name: no-ssh }
spec:
  tier: Admin
  priority: 1
  subject: { namespaces: {} }
  ingress: [{ action: Deny, from: [{ namespaces: {} }], protocols: [{ tcp: { destinationPort: { number: 22 } } }] }]
"#;

#[test]
fn n10_egress_is_judged_at_the_backends_port_and_a1_tiers_are_named() {
    let explainer = explainer_that("n1", Tunnel::Vxlan, TIERS);
    let client = "pod:shop/client";
    let web = ask(&explainer, client, "10.244.1.9", "10.96.0.10", 80);
    assert_eq!(
        (web.verdict, web.policy.egress),
        ("forward", "allow"),
        "{web:?}"
    );
    let rule = "egress policy: allow by shop/to-web egress[0]";
    assert!(web.steps.iter().any(|step| step == rule), "{:?}", web.steps);
    let from_web = "pod:shop/web-a";
    let ssh = ask(&explainer, from_web, "10.244.1.10", "10.244.1.9", 22);
    assert_eq!((ssh.verdict, ssh.reason), ("drop", "ingress-denied"));
    assert_eq!(ssh.policy.by, ["no-ssh"]);
    let rule = "ingress policy: deny by no-ssh ingress[0] of the Admin tier";
    assert!(ssh.steps.iter().any(|step| step == rule), "{:?}", ssh.steps);
}

#[test]
fn tunnels_are_opened_and_their_sources_checked() {
    let explainer = explainer("n2");
    let from_client = ask(&explainer, "tunnel:n1", "10.244.1.9", "10.244.2.10", 8080);
    assert_eq!(
        from_client.egress.as_deref(),
        Some("pod:shop/web-b"),
        "{from_client:?}"
    );
    assert_eq!(from_client.policy.by, ["shop/web-from-client"]);
    let six = ask(
        &explainer,
        "tunnel:n1",
        "fd44:0:0:1::9",
        "fd44:0:0:2::10",
        8080,
    );
    assert_eq!(six.egress.as_deref(), Some("pod:shop/web-b"));
    let foreign = ask(&explainer, "tunnel:n1", "10.244.2.9", "10.244.2.10", 8080);
    assert_eq!(
        (foreign.verdict, foreign.reason),
        ("drop", "foreign-source")
    );
}

#[test]
fn the_way_to_another_node_is_told_and_what_comes_from_it_directly_is_taken_if_it_is_reached_so() {
    for (tunnel, way, reason) in [
        (Tunnel::Vxlan, "forward: vxlan to n2", "spoofed"),
        (Tunnel::Direct, "forward: direct to n2", "forwarded"),
        (Tunnel::Auto, "forward: direct to n2", "forwarded"),
    ] {
        let explainer = explainer_that("n1", tunnel, "");
        for (client, far) in [
            ("10.244.1.9", "10.244.2.10"),
            ("fd44:0:0:1::9", "fd44:0:0:2::10"),
        ] {
            let sent = ask(&explainer, "pod:shop/client", client, far, 8080);
            assert_eq!(sent.egress.as_deref(), Some("node:n2"));
            assert_eq!(sent.steps.last().map(String::as_str), Some(way));
            let came = ask(&explainer, "uplink", far, client, 8080);
            assert_eq!(came.reason, reason, "{came:?}");
            let tunnelled = ask(&explainer, "tunnel:n2", far, client, 8080);
            assert_eq!(tunnelled.reason, "forwarded");
        }
        let near = ask(
            &explainer,
            "pod:shop/client",
            "10.244.1.9",
            "10.244.1.10",
            8080,
        );
        let last = near.steps.last().map(String::as_str);
        assert_eq!(last, Some("forward: to pod:shop/web-a"));
    }
}

#[test]
fn who_is_not_here_cannot_send() {
    let explainer = explainer("n1");
    for (ingress, said) in [
        (
            "pod:shop/web-b",
            "ingress: no pod shop/web-b is on this node: give a pod of it, or tunnel:NODE for one of another node",
        ),
        (
            "tunnel:n9",
            "ingress: no tunnel leads to n9: give the name of another node of the cluster",
        ),
    ] {
        let question = format!(
            r#"{{"ingress":"{ingress}","src":"10.0.0.1","dst":"10.0.0.2","dport":1,"protocol":"udp"}}"#
        );
        let question = Question::parse(&question).expect("legal");
        let error = explainer.explain(&question).expect_err("not here");
        assert_eq!(error.to_string(), said);
    }
}
