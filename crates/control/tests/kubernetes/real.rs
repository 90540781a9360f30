//! The same against a real kube-apiserver and etcd, when KUBEBUILDER_ASSETS names a folder with them, as for envtest.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::{Duration, Instant};

use http::{Method, Request, header};
use kube::config::{KubeConfigOptions, Kubeconfig};
use podway_api_server::{Assets, DEFINITIONS, Real, RealSettings, definition, real_kubeconfig};
use podway_control::Kind;
use podway_intent::Change;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::bench::{QUICK, View, cluster_policy, namespace, node, pod, policy, service, slice};

/// How long a server may take to be ready.
const PATIENCE: Duration = Duration::from_secs(90);
const TAINT: &str = "node.podway.dev/not-ready";

/// A real control plane, and a client of it.
struct Served {
    real: Real,
    client: kube::Client,
    kubeconfig: String,
    _folder: TempDir,
}

impl Served {
    /// Starts it; `None` without the programs.
    async fn start() -> Option<Served> {
        if !podway_needs::asked_for_by("KUBEBUILDER_ASSETS") {
            return None;
        }
        let assets = Assets::named()?;
        let folder = tempfile::tempdir().expect("a folder");
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
        let address: SocketAddr = listener.local_addr().expect("an address");
        drop(listener);
        let real = assets.start(RealSettings {
            folder: folder.path(),
            address,
            advertised: address.ip(),
            service_ranges: &["10.96.0.0/16".to_owned()],
        });
        let real = real.expect("the programs of KUBEBUILDER_ASSETS start");
        let kubeconfig = real_kubeconfig(address);
        let file = Kubeconfig::from_yaml(&kubeconfig).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await;
        let client = kube::Client::try_from(config.expect("a configuration")).expect("a client");
        let served = Served {
            real,
            client,
            kubeconfig,
            _folder: folder,
        };
        served.ready().await;
        Some(served)
    }

    async fn ready(&self) {
        let start = Instant::now();
        loop {
            let request = Request::get("/readyz").body(Vec::new()).expect("a request");
            match self.client.request_text(request).await {
                Ok(text) if text == "ok" => return,
                said => assert!(start.elapsed() < PATIENCE, "not ready: {said:?}"),
            }
            sleep(Duration::from_millis(200)).await;
        }
    }

    /// Kills the API server, and starts another on the same state.
    async fn restart(&mut self) {
        self.real.stop();
        sleep(Duration::from_secs(2)).await;
        self.real.restart().expect("it starts again");
        self.ready().await;
    }

    async fn ask(&self, method: Method, path: &str, value: &Value) -> Result<Value, kube::Error> {
        let content = match method {
            Method::PATCH => "application/merge-patch+json",
            _ => "application/json",
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::CONTENT_TYPE, content)
            .body(value.to_string().into_bytes());
        self.client.request(request.expect("a request")).await
    }

    async fn must(&self, method: Method, path: &str, value: &Value) -> Value {
        let answer = self.ask(method.clone(), path, value).await;
        answer.unwrap_or_else(|error| panic!("{method} {path}: {error}"))
    }

    /// Makes an object, and gives it its status, which is a part of its own.
    async fn create(&self, path: &str, object: &Value) {
        self.must(Method::POST, path, object).await;
        if object["status"].is_object() {
            let name = object["metadata"]["name"].as_str().expect("a name");
            let status = json!({"status": object["status"]});
            let path = format!("{path}/{name}/status");
            self.must(Method::PATCH, &path, &status).await;
        }
    }
}

fn said(view: &View, text: &str) -> bool {
    let mut changes = view.changes.iter();
    changes.any(|change| format!("{change:?}").contains(text))
}

#[tokio::test]
async fn a1_a_real_api_server_is_followed_over_changes_a_definition_and_a_restart() {
    let Some(mut real) = Served::start().await else {
        return;
    };
    let shop = |group: &str, plural: &str| format!("{group}/namespaces/shop/{plural}");
    let services = shop("/api/v1", "services");
    let slices = shop("/apis/discovery.k8s.io/v1", "endpointslices");
    real.create("/api/v1/namespaces", &namespace("shop")).await;
    let mut tainted = node("n1", "192.168.50.1");
    tainted["spec"]["taints"] = json!([{"key": TAINT, "effect": "NoSchedule"}]);
    real.create("/api/v1/nodes", &tainted).await;
    let pods = shop("/api/v1", "pods");
    for number in 0..5 {
        let (name, address) = (format!("s{number}"), format!("10.244.1.{}", number + 2));
        real.create(&pods, &pod(&name, &address)).await;
        let at = format!("10.96.0.{}", number + 50);
        real.create(&services, &service(&name, &at)).await;
        real.create(&slices, &slice(&name, &name, &address)).await;
    }
    let policies = shop("/apis/networking.k8s.io/v1", "networkpolicies");
    real.create(&policies, &policy("closed")).await;

    let mut view = View::of(&real.kubeconfig, QUICK).await;
    view.whole().await;
    let known = view.services();
    assert!(
        (0..5).all(|number| known.contains(&format!("s{number}"))),
        "{known:?}"
    );
    assert_eq!(view.cluster.pods().len(), 5);
    assert_eq!(view.cluster.policies().len(), 1);
    assert_eq!(view.last.versions["ClusterNetworkPolicy"], "absent");

    let moved = json!({"endpoints": slice("s1", "s1", "10.244.1.99")["endpoints"]});
    real.must(Method::PATCH, &format!("{slices}/s1"), &moved)
        .await;
    view.until("the endpoint moved", |view| said(view, "10.244.1.99"))
        .await;

    let kind = Kind::ClusterNetworkPolicy;
    let definition = definition(kind.group(), kind.version(), kind.name(), kind.plural());
    real.create(DEFINITIONS, &definition).await;
    let path = kind.path();
    let start = Instant::now();
    while let Err(error) = real
        .ask(Method::POST, &path, &cluster_policy("closed"))
        .await
    {
        assert!(start.elapsed() < PATIENCE, "{error}");
        sleep(Duration::from_millis(200)).await;
    }
    view.until("the definition is noticed", |view| {
        view.cluster.cluster_policies().len() == 1
    })
    .await;

    view.changes.clear();
    real.restart().await;
    real.create(&services, &service("later", "10.96.0.90"))
        .await;
    view.until("it is followed again", |view| {
        view.services().contains(&"later".to_owned())
    })
    .await;
    let is_gone = |change: &Change| matches!(change, Change::Gone(_));
    assert!(!view.changes.iter().any(is_gone), "{:?}", view.changes);

    let gone = format!("{services}/later");
    real.must(Method::DELETE, &gone, &json!({})).await;
    view.until("it is gone", |view| {
        !view.services().contains(&"later".to_owned())
    })
    .await;

    view.announcer()
        .announce("n1", TAINT)
        .await
        .expect("it is told");
    let told = real.must(Method::GET, "/api/v1/nodes/n1", &json!({})).await;
    let conditions = told["status"]["conditions"].as_array().expect("conditions");
    let mut types = conditions.iter().map(|it| &it["type"]);
    assert!(types.any(|it| it == "NetworkUnavailable"), "{told}");
    let taints = told["spec"]["taints"].as_array();
    let mut keys = taints.into_iter().flatten().map(|taint| &taint["key"]);
    assert!(!keys.any(|key| key == TAINT), "{told}");
}
