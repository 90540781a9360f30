//! N19: what an API server took and we don't understand closes pods, and never opens them.

use std::time::Duration;

use podway_api_server::Resource;
use podway_control::Kind;
use podway_intent::NetworkPolicy;
use serde_json::{Value, json};
use tokio::time::timeout;

use crate::bench::{
    PATIENCE, QUICK, View, cluster_policy, fill, namespace, policy, resource, serve, store,
};

fn events() -> Resource {
    Resource::of_path("/api/v1/events").expect("a path")
}

/// What is in force of the policy `shop/odd`.
fn odd(view: &View) -> Option<NetworkPolicy> {
    let policies = view.cluster.policies();
    let mut odd = policies.iter().filter(|it| &*it.name.name == "odd");
    odd.next().map(|it| (*it).clone())
}

fn with(field: &str, value: Value) -> Value {
    let mut policy = policy("odd");
    policy["metadata"]["uid"] = json!("u1");
    policy["spec"]["podSelector"] = json!({"matchLabels": {"app": "web"}});
    policy["spec"][field] = value;
    policy
}

#[tokio::test]
async fn n19_a_policy_is_never_left_out_and_what_is_not_understood_allows_nobody() {
    let store = store();
    fill(&store);
    store.serve(events());
    let policies = resource(Kind::NetworkPolicy);
    let rules = json!([
        {"from": [{"podSelector": {"matchLabels": {"app": "not a value!"}}}]},
        {"from": [{"ipBlock": {"cidr": "10.0.0.0/8", "except": ["some"]}}]},
        {"from": [{"podSelector": {}}], "schedule": "nightly"},
        {"from": [{"podSelector": {}}], "ports": [{"protocol": "QUIC"}]},
    ]);
    store.apply(&policies, with("ingress", rules));
    let server = serve(&store).await;
    let mut view = View::open(&server, QUICK).await;
    view.whole().await;
    let in_force = odd(&view).expect("it is in force");
    let rules = in_force.ingress.expect("it isolates");
    let lets_nobody = |rule: &podway_intent::PolicyRule| {
        rule.peers == Some(Vec::new()) || rule.ports == Some(Vec::new())
    };
    assert!(
        rules.len() == 4 && rules.iter().all(lets_nobody),
        "{rules:?}"
    );
    assert_eq!(view.last.not_as_written["NetworkPolicy"], 1);
    assert!(
        view.problems()
            .contains("NetworkPolicy shop/odd: spec.ingress"),
        "{}",
        view.problems()
    );
    // The cluster is told by an Event on the object.
    let told = async {
        while store.places(&events()).is_empty() {
            let _ = timeout(Duration::from_millis(5), view.step()).await;
        }
    };
    timeout(PATIENCE, told).await.expect("an Event tells");
    let (place, name) = store.places(&events()).remove(0);
    let event = store.object(&events(), &place, &name).expect("the Event");
    assert_eq!(event["involvedObject"]["name"], "odd");
    assert_eq!(event["involvedObject"]["uid"], "u1");
    assert_eq!(
        (&event["type"], &event["reason"]),
        (&json!("Warning"), &json!("NotAsWritten"))
    );

    store.apply(&policies, with("ingress", json!([])));
    view.until("it is mended", |view| view.problems().is_empty())
        .await;
    assert_eq!(view.last.not_as_written["NetworkPolicy"], 0);
}

#[tokio::test]
async fn n19_of_a_selector_that_is_not_understood_the_last_good_version_counts_else_all_pods_are_isolated()
 {
    let store = store();
    fill(&store);
    let policies = resource(Kind::NetworkPolicy);
    let unknown = json!({"matchExpressions": [{"key": "app", "operator": "Gt", "values": ["1"]}]});
    let egress = json!(["Egress"]);
    let mut never = with("podSelector", unknown.clone());
    never["spec"]["policyTypes"] = egress;
    store.apply(&policies, never);
    let server = serve(&store).await;
    let folder = tempfile::tempdir().expect("a folder");
    let kept = folder.path().join("facts");
    let mut view = View::keeping(&server.kubeconfig(), QUICK, Some(kept.clone())).await;
    view.whole().await;
    let closed = odd(&view).expect("it is in force");
    assert_eq!(closed.subject.requirements, [], "all pods of the namespace");
    assert_eq!((closed.ingress, closed.egress), (None, Some(vec![])));
    assert!(
        view.problems().contains("until it is corrected"),
        "{}",
        view.problems()
    );

    let good = with("policyTypes", json!(["Ingress"]));
    store.apply(&policies, good.clone());
    view.until("a good version is in force", |view| {
        view.problems().is_empty()
    })
    .await;
    store.apply(&policies, with("podSelector", unknown.clone()));
    view.until("it is named", |view| {
        view.problems()
            .contains("its last good version stays in force")
    })
    .await;
    let last_good = odd(&view).expect("it is in force");
    assert_eq!(last_good.subject.requirements.len(), 1);

    // An agent that starts knows it, too, whether or not the server is there.
    drop(view);
    let mut view = View::keeping(&server.kubeconfig(), QUICK, Some(kept.clone())).await;
    view.whole().await;
    view.settle().await;
    assert_eq!(odd(&view), Some(last_good));
    drop(view);
    // One that has no file knows no good version.
    let mut view = View::open(&server, QUICK).await;
    view.whole().await;
    assert_eq!(odd(&view).expect("it is in force").subject.requirements, []);

    store.delete(&policies, "shop", "odd").expect("it is there");
    view.until("it is gone", |view| odd(view).is_none()).await;
    assert_eq!(view.problems(), "");
}

#[tokio::test]
async fn n19_what_closes_a_namespace_is_kept_over_a_restart_without_a_server() {
    let store = store();
    fill(&store);
    store.apply(
        &resource(Kind::NetworkPolicy),
        with("podSelector", json!("web")),
    );
    let mut never = policy("unreadable");
    never["spec"] = json!(["deny"]);
    never["metadata"]["labels"] = json!(["none"]);
    store.apply(&resource(Kind::NetworkPolicy), never);
    let server = serve(&store).await;
    let kubeconfig = server.kubeconfig();
    let folder = tempfile::tempdir().expect("a folder");
    let kept = folder.path().join("facts");
    let mut view = View::keeping(&kubeconfig, QUICK, Some(kept.clone())).await;
    view.whole().await;
    let before: Vec<NetworkPolicy> = view.cluster.policies().into_iter().cloned().collect();
    let unreadable = before.iter().find(|it| &*it.name.name == "unreadable");
    let unreadable = unreadable.expect("it closes its namespace");
    assert_eq!(
        (&unreadable.ingress, &unreadable.egress),
        (&Some(vec![]), &Some(vec![]))
    );
    // All of it is on the disk once a later change is.
    store.apply(&resource(Kind::Namespace), namespace("late"));
    let on_disk = async {
        while !std::fs::read_to_string(&kept).is_ok_and(|text| text.contains("late")) {
            let _ = timeout(Duration::from_millis(5), view.step()).await;
        }
    };
    timeout(PATIENCE, on_disk).await.expect("the disk has it");
    drop((view, server));
    let mut view = View::keeping(&kubeconfig, QUICK, Some(kept)).await;
    view.whole().await;
    let after: Vec<NetworkPolicy> = view.cluster.policies().into_iter().cloned().collect();
    assert_eq!(after, before);
}

#[tokio::test]
async fn n19_a_cluster_policy_about_nobody_knows_whom_denies_everybody() {
    let store = store();
    fill(&store);
    let kind = resource(Kind::ClusterNetworkPolicy);
    store.serve(kind.clone());
    let mut closed = cluster_policy("closed");
    closed["spec"]["subject"] = json!({"serviceAccounts": {}});
    store.apply(&kind, closed);
    let server = serve(&store).await;
    let mut view = View::open(&server, QUICK).await;
    view.whole().await;
    let policies = view.cluster.cluster_policies();
    assert_eq!(policies[0].ingress.len(), 1);
    assert_eq!(policies[0].subject.pods.requirements, []);
}

#[tokio::test]
async fn n20_policies_that_others_are_to_enforce_are_counted_and_named() {
    let store = store();
    fill(&store);
    let groups = Resource::of_path("/apis/cilium.io/v2/ciliumnetworkpolicies").expect("a path");
    store.serve(groups.clone());
    for name in ["one", "two"] {
        let object = json!({"apiVersion": "cilium.io/v2", "kind": "CiliumNetworkPolicy", "metadata": {"name": name, "namespace": "shop"}});
        store.apply(&groups, object);
    }
    let server = serve(&store).await;
    let mut view = View::open(&server, QUICK).await;
    view.until("they are named", |view| {
        view.problems().contains(
            "2 of kind CiliumNetworkPolicy (cilium.io): podway does not enforce them, so more may pass than they say",
        )
    })
    .await;
}
