//! What an API server says is known, soon and completely.

use podway_control::Kind;
use podway_intent::Change;
use serde_json::json;

use crate::bench::{
    QUICK, View, cluster_policy, fill, namespace, node, pod, resource, serve, service, store,
};

#[tokio::test]
async fn lists_are_read_page_by_page_and_nothing_is_whole_before_all_kinds_are() {
    let store = store();
    fill(&store);
    let server = serve(&store).await;
    let mut view = View::open(&server, QUICK).await;
    view.whole().await;
    let cluster = &view.cluster;
    let counts = [
        cluster.nodes().len(),
        cluster.namespaces().len(),
        cluster.pods().len(),
        cluster.services().len(),
        cluster.slices().len(),
        cluster.policies().len(),
        cluster.cluster_policies().len(),
    ];
    assert_eq!(counts, [1, 1, 10, 10, 10, 1, 0]);
    assert_eq!(
        store.requests("list", &resource(Kind::Pod)),
        4,
        "ten objects in pages of three"
    );
    assert_eq!(view.last.versions.len(), Kind::ALL.len());
    assert_eq!(view.last.versions["ClusterNetworkPolicy"], "absent");
    assert_eq!(view.problems(), "");
}

#[tokio::test]
async fn what_is_added_changed_and_deleted_is_known_with_its_time_and_version() {
    let store = store();
    fill(&store);
    let server = serve(&store).await;
    let mut view = View::open(&server, QUICK).await;
    view.whole().await;
    assert_eq!(view.last.received, [], "a list is no event");

    store.apply(&resource(Kind::Service), service("new", "10.96.0.99"));
    view.until("it is there", |view| {
        view.services().contains(&"new".to_owned())
    })
    .await;
    assert_eq!(view.last.received.len(), 1);
    assert_eq!(view.last.versions["Service"], store.version().to_string());

    store.apply(&resource(Kind::Service), service("new", "10.96.0.98"));
    let moved = |view: &View| {
        let services = view.cluster.services();
        let new = services.iter().find(|it| &*it.name.name == "new");
        new.is_some_and(|it| it.cluster_ips[0].to_string() == "10.96.0.98")
    };
    view.until("it has moved", moved).await;

    let deleted = store.delete(&resource(Kind::Service), "shop", "new");
    deleted.expect("it is there");
    view.until("it is gone", |view| view.services().len() == 10)
        .await;
}

#[tokio::test]
async fn bookmarks_bring_versions_up_to_date() {
    let store = store();
    fill(&store);
    let server = serve(&store).await;
    let mut view = View::open(&server, QUICK).await;
    view.whole().await;
    // Of another kind: only a bookmark tells the watch of services.
    store.apply(&resource(Kind::Pod), pod("late", "10.244.1.99"));
    let version = store.version().to_string();
    view.until("services are known up to the pod's version", |view| {
        view.last.versions["Service"] == version
    })
    .await;
    assert_eq!(view.services().len(), 10);
}

#[tokio::test]
async fn a1_a_kind_that_appears_is_noticed_and_one_that_goes_is_forgotten() {
    let store = store();
    fill(&store);
    let server = serve(&store).await;
    let mut view = View::open(&server, QUICK).await;
    view.whole().await;

    let kind = resource(Kind::ClusterNetworkPolicy);
    store.serve(kind.clone());
    store.apply(&kind, cluster_policy("closed"));
    view.until("it is noticed", |view| {
        view.cluster.cluster_policies().len() == 1
    })
    .await;

    store.withdraw(&kind);
    view.until("it is forgotten", |view| {
        view.cluster.cluster_policies().is_empty()
    })
    .await;
    assert_eq!(view.services().len(), 10, "nothing else is touched");
}

#[tokio::test]
async fn a_malformed_object_is_named_and_its_last_good_version_stays() {
    let store = store();
    fill(&store);
    let services = resource(Kind::Service);
    let mut broken = service("never", "10.96.0.50");
    broken["spec"]["ports"][0]["port"] = json!("http");
    store.apply(&services, broken);
    let server = serve(&store).await;
    let mut view = View::open(&server, QUICK).await;
    view.whole().await;
    assert_eq!(view.services().len(), 10, "the others are there");
    let said = "Service shop/never: spec.ports[0].port: invalid type";
    assert!(view.problems().contains(said), "{}", view.problems());
    assert!(view.problems().contains("it is left out"));

    let mut broken = service("s3", "10.96.0.4");
    broken["spec"]["ports"] = json!("http");
    store.apply(&services, broken);
    view.until("both are named", |view| view.last.problems.len() == 2)
        .await;
    let said = "Service shop/s3: spec.ports: invalid type";
    assert!(view.problems().contains(said), "{}", view.problems());
    assert!(
        view.problems()
            .contains("its last good version stays in force")
    );
    assert!(view.services().contains(&"s3".to_owned()));

    let deleted = store.delete(&services, "shop", "never");
    deleted.expect("it is there");
    store.apply(&services, service("s3", "10.96.0.4"));
    view.until("both are mended", |view| view.last.problems.is_empty())
        .await;
}

#[tokio::test]
async fn s17_a_service_that_becomes_headless_goes() {
    let store = store();
    fill(&store);
    let server = serve(&store).await;
    let mut view = View::open(&server, QUICK).await;
    view.whole().await;
    store.apply(&resource(Kind::Service), service("s3", "None"));
    view.until("it goes", |view| view.services().len() == 9)
        .await;
}

#[tokio::test]
async fn the_order_in_which_kinds_arrive_does_not_matter() {
    use podway_api_server::Fault;
    let store = store();
    let server = serve(&store).await;
    let mut view = View::open(&server, QUICK).await;
    view.whole().await;
    let mut other = View::open(&server, QUICK).await;
    // Watches of these kinds lag behind the others from their next answer on.
    for kind in [Kind::Node, Kind::Namespace, Kind::EndpointSlice] {
        let slow = Fault::Slow {
            chunk: 7,
            pause: std::time::Duration::from_millis(1),
        };
        store.trouble_with(&resource(kind), slow);
    }
    fill(&store);
    store.apply(&resource(Kind::Node), node("n2", "192.168.50.2"));
    store.apply(&resource(Kind::Namespace), namespace("other"));
    let complete = |view: &View| {
        view.cluster.slices().len() == 10
            && view.cluster.nodes().len() == 2
            && view.cluster.namespaces().len() == 2
    };
    view.until("all is there", complete).await;
    other.until("all is there", complete).await;
    view.settle().await;
    other.settle().await;
    let compiled = |view: &View| {
        let compiled = podway_intent::compile(&view.cluster, "n1");
        (compiled.plan, format!("{:?}", compiled.problems))
    };
    assert_eq!(compiled(&view), compiled(&other));
    let is_gone = |change: &&Change| matches!(change, Change::Gone(_));
    assert_eq!(view.changes.iter().find(is_gone), None);
}
