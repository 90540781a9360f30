//! The cluster is told that a node is ready, and nothing else of it is touched.

use podway_api_server::{ApiServer, Fault};
use podway_control::{Announcer, Kind};
use serde_json::{Value, json};

use crate::bench::{QUICK, View, node, resource, serve, store};

const TAINT: &str = "node.podway.dev/not-ready";

fn tainted(keys: &[&str]) -> Value {
    let mut node = node("n1", "192.168.50.1");
    let taints = keys.iter();
    node["spec"]["taints"] = taints
        .map(|key| json!({"key": key, "effect": "NoSchedule"}))
        .collect();
    node["status"]["conditions"] = json!([{"type": "Ready", "status": "True"}]);
    node
}

async fn announcer(server: &ApiServer) -> Announcer {
    View::open(server, QUICK).await.announcer()
}

#[tokio::test]
async fn the_node_gets_its_condition_and_loses_our_taint_only() {
    let store = store();
    let nodes = resource(Kind::Node);
    store.apply(&nodes, tainted(&["a", TAINT, "b"]));
    let server = serve(&store).await;
    let announcer = announcer(&server).await;
    announcer.announce("n1", TAINT).await.expect("it is told");
    let object = store.object(&nodes, "", "n1").expect("the node");
    let keys: Vec<_> = object["spec"]["taints"]
        .as_array()
        .expect("taints")
        .iter()
        .map(|taint| taint["key"].as_str().expect("a key"))
        .collect();
    assert_eq!(keys, ["a", "b"]);
    let conditions = &object["status"]["conditions"];
    assert_eq!(conditions[0], json!({"type": "Ready", "status": "True"}));
    assert_eq!(conditions[1]["type"], "NetworkUnavailable");
    assert_eq!(conditions[1]["status"], "False");
    assert_eq!(conditions[1]["reason"], "PodwayIsReady");
    assert_eq!(object["status"]["addresses"][0]["address"], "192.168.50.1");

    let patches = store.requests("patch", &nodes);
    announcer.announce("n1", TAINT).await.expect("it is told");
    assert_eq!(
        store.requests("patch", &nodes),
        patches,
        "what is so already is left alone"
    );
}

#[tokio::test]
async fn a_refusal_names_what_was_asked_for() {
    let store = store();
    let nodes = resource(Kind::Node);
    let server = serve(&store).await;
    let announcer = announcer(&server).await;
    let error = announcer.announce("n1", TAINT).await.expect_err("no node");
    assert_eq!(
        error.to_string(),
        "the API server refuses to get nodes: 404 Not Found (there is no such object)"
    );
    store.trouble_with(&nodes, Fault::Refuse { status: 403 });
    let error = announcer.announce("n1", TAINT).await.expect_err("refused");
    assert!(error.to_string().contains("403 Forbidden"), "{error}");
    drop(server);
    let error = announcer.announce("n1", TAINT).await.expect_err("away");
    assert!(error.to_string().contains("can't be reached"), "{error}");
}
