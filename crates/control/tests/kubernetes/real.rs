//! The same against a real kube-apiserver and etcd, when KUBEBUILDER_ASSETS names a folder with them, as for envtest.

use std::fs::File;
use std::net::{Ipv4Addr, TcpListener};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use http::{Method, Request, header};
use kube::config::{KubeConfigOptions, Kubeconfig};
use podway_control::Kind;
use podway_intent::Change;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::sleep;

use crate::bench::{QUICK, View, cluster_policy, namespace, node, pod, policy, service, slice};

/// How long a server may take to be ready.
const PATIENCE: Duration = Duration::from_secs(90);
const TOKEN: &str = "podway-test-token";
const TAINT: &str = "node.podway.dev/not-ready";
const DEFINITIONS: &str = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";

/// A control plane of one etcd and one API server, which end with this value.
struct Real {
    api_server: Child,
    etcd: Child,
    start: Command,
    client: kube::Client,
    kubeconfig: String,
    _folder: TempDir,
}

impl Real {
    /// Starts both; `None` without the folder.
    async fn start() -> Option<Real> {
        let Some(assets) = std::env::var_os("KUBEBUILDER_ASSETS").map(PathBuf::from) else {
            println!("not run: KUBEBUILDER_ASSETS names no folder with kube-apiserver and etcd");
            return None;
        };
        let folder = tempfile::tempdir().expect("a folder");
        let [etcd_port, port] = [free_port(), free_port()];
        let etcd_url = format!("http://127.0.0.1:{etcd_port}");
        let mut etcd = logged(&assets.join("etcd"), folder.path());
        etcd.args([
            "--unsafe-no-fsync=true",
            "--listen-peer-urls=http://127.0.0.1:0",
        ])
        .arg(format!("--listen-client-urls={etcd_url}"))
        .arg(format!("--advertise-client-urls={etcd_url}"))
        .arg(format!(
            "--data-dir={}",
            folder.path().join("data").display()
        ));
        let etcd = etcd.spawn().expect("etcd of KUBEBUILDER_ASSETS starts");

        let key = folder.path().join("accounts.key");
        let made = Command::new("openssl")
            .args(["genrsa", "-out"])
            .arg(&key)
            .arg("2048")
            .stderr(Stdio::null())
            .status();
        assert!(made.is_ok_and(|it| it.success()), "openssl makes a key");
        let tokens = folder.path().join("tokens.csv");
        let line = format!("{TOKEN},podway-test,podway-test,system:masters\n");
        std::fs::write(&tokens, line).expect("written");
        let mut start = logged(&assets.join("kube-apiserver"), folder.path());
        start
            .args([
                "--bind-address=127.0.0.1",
                "--advertise-address=127.0.0.1",
                "--authorization-mode=RBAC",
                "--disable-admission-plugins=ServiceAccount",
                "--service-account-issuer=https://127.0.0.1/",
                "--service-cluster-ip-range=10.96.0.0/16",
            ])
            .arg(format!("--secure-port={port}"))
            .arg(format!("--etcd-servers={etcd_url}"))
            .arg(format!(
                "--cert-dir={}",
                folder.path().join("certs").display()
            ))
            .arg(format!("--token-auth-file={}", tokens.display()))
            .arg(format!("--service-account-key-file={}", key.display()))
            .arg(format!(
                "--service-account-signing-key-file={}",
                key.display()
            ));
        let api_server = start
            .spawn()
            .expect("kube-apiserver of KUBEBUILDER_ASSETS starts");
        let kubeconfig = kubeconfig(port);
        let file = Kubeconfig::from_yaml(&kubeconfig).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(file, &options).await;
        let client = kube::Client::try_from(config.expect("a configuration")).expect("a client");
        let real = Real {
            api_server,
            etcd,
            start,
            client,
            kubeconfig,
            _folder: folder,
        };
        real.ready().await;
        Some(real)
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
        end(&mut self.api_server);
        sleep(Duration::from_secs(2)).await;
        self.api_server = self.start.spawn().expect("it starts again");
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

impl Drop for Real {
    fn drop(&mut self) {
        end(&mut self.api_server);
        end(&mut self.etcd);
    }
}

fn end(child: &mut Child) {
    // One that ended by itself is ended.
    let _ = child.kill();
    let _ = child.wait();
}

fn free_port() -> u16 {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// A program whose output is in the folder.
fn logged(program: &Path, folder: &Path) -> Command {
    let name = program.file_name().expect("a name").to_string_lossy();
    let log = File::create(folder.join(format!("{name}.log"))).expect("a log");
    let mut command = Command::new(program);
    command.stdin(Stdio::null());
    command.stdout(log.try_clone().expect("a log")).stderr(log);
    command
}

/// The server signs its own certificate.
fn kubeconfig(port: u16) -> String {
    format!(
        r#"apiVersion: v1
kind: Config
clusters: [{{ name: real, cluster: {{ server: "https://127.0.0.1:{port}", insecure-skip-tls-verify: true }} }}]
users: [{{ name: real, user: {{ token: {TOKEN} }} }}]
contexts: [{{ name: real, context: {{ cluster: real, user: real }} }}]
current-context: real
"#
    )
}

/// What defines ClusterNetworkPolicies, without a schema: what is right is ours to say.
fn definition() -> Value {
    let kind = Kind::ClusterNetworkPolicy;
    let schema = json!({"type": "object", "x-kubernetes-preserve-unknown-fields": true});
    json!({
        "apiVersion": "apiextensions.k8s.io/v1", "kind": "CustomResourceDefinition",
        "metadata": {
            "name": format!("{}.{}", kind.plural(), kind.group()),
            "annotations": {"api-approved.kubernetes.io": "unapproved, for tests"},
        },
        "spec": {
            "group": kind.group(), "scope": "Cluster",
            "names": {"plural": kind.plural(), "singular": "clusternetworkpolicy", "kind": kind.name(),
                "listKind": "ClusterNetworkPolicyList"},
            "versions": [{"name": kind.version(), "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema}}],
        },
    })
}

fn said(view: &View, text: &str) -> bool {
    let mut changes = view.changes.iter();
    changes.any(|change| format!("{change:?}").contains(text))
}

#[tokio::test]
async fn a1_a_real_api_server_is_followed_over_changes_a_definition_and_a_restart() {
    let Some(mut real) = Real::start().await else {
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

    real.create(DEFINITIONS, &definition()).await;
    let path = Kind::ClusterNetworkPolicy.path();
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
