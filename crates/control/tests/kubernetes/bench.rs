//! What these tests stand on: a server, an agent's view of it, and objects.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use podway_api_server::{ApiServer, Resource, Store};
use podway_control::{Announcer, Batch, Kind, Kubernetes, KubernetesSettings, Pace, Standing};
use podway_intent::{Change, Cluster};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::time::timeout;

/// How long something may take that must happen: failing, not a measure.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);

/// Everything at once, so that tests don't wait.
pub(crate) const QUICK: Pace = Pace {
    page: 3,
    first_delay: Duration::from_millis(5),
    longest_delay: Duration::from_millis(50),
    patience: Duration::from_secs(5),
    watch: Duration::from_secs(60),
    silence: Duration::from_secs(30),
    absent: Duration::from_millis(20),
};

pub(crate) fn resource(kind: Kind) -> Resource {
    Resource::of_path(&kind.path()).expect("a path")
}

/// A store that serves every kind but ClusterNetworkPolicies, as a cluster without their definition does.
pub(crate) fn store() -> Arc<Store> {
    let built_in = Kind::ALL
        .into_iter()
        .filter(|kind| *kind != Kind::ClusterNetworkPolicy);
    Arc::new(Store::new(built_in.map(resource)))
}

pub(crate) async fn serve(store: &Arc<Store>) -> ApiServer {
    serve_at(store, SocketAddr::from((Ipv4Addr::LOCALHOST, 0))).await
}

pub(crate) async fn serve_at(store: &Arc<Store>, address: SocketAddr) -> ApiServer {
    let server = ApiServer::start(store.clone(), address).await;
    server.expect("it listens")
}

/// What an agent makes of what it is told.
pub(crate) struct View {
    pub(crate) cluster: Cluster,
    pub(crate) last: Batch,
    /// All changes so far.
    pub(crate) changes: Vec<Change>,
    kubernetes: Kubernetes,
    _folder: TempDir,
}

impl View {
    pub(crate) async fn open(server: &ApiServer, pace: Pace) -> View {
        View::of(&server.kubeconfig(), pace).await
    }

    pub(crate) async fn of(kubeconfig: &str, pace: Pace) -> View {
        View::keeping(kubeconfig, pace, None).await
    }

    /// One that keeps what it knows in a file.
    pub(crate) async fn keeping(kubeconfig: &str, pace: Pace, kept: Option<PathBuf>) -> View {
        let folder = tempfile::tempdir().expect("a folder");
        let path: PathBuf = folder.path().join("kubeconfig");
        std::fs::write(&path, kubeconfig).expect("written");
        let settings = KubernetesSettings {
            kubeconfig: Some(path),
            pace,
            kept,
        };
        let kubernetes = Kubernetes::open(&settings).await.expect("a client");
        View {
            cluster: Cluster::default(),
            last: Batch {
                standing: Standing::Partial,
                ..Batch::default()
            },
            changes: Vec::new(),
            kubernetes,
            _folder: folder,
        }
    }

    pub(crate) fn announcer(&self) -> Announcer {
        self.kubernetes.announcer()
    }

    /// Takes batches until something holds.
    pub(crate) async fn until(&mut self, what: &str, holds: impl Fn(&View) -> bool) {
        let taking = async {
            while !holds(self) {
                self.step().await;
            }
        };
        let done = timeout(PATIENCE, taking).await;
        assert!(done.is_ok(), "{what}: {:?}", self.last);
    }

    /// Takes batches until something holds elsewhere.
    pub(crate) async fn until_polled(
        &mut self,
        what: &str,
        holds: impl Fn() -> bool,
        within: Duration,
    ) {
        let taking = async {
            while !holds() {
                let _ = timeout(Duration::from_millis(10), self.step()).await;
            }
        };
        let done = timeout(within, taking).await;
        assert!(done.is_ok(), "{what}: {:?}", self.last);
    }

    pub(crate) async fn whole(&mut self) {
        self.until("all kinds are listed", View::is_whole).await;
    }

    pub(crate) fn is_whole(&self) -> bool {
        self.last.standing == Standing::Whole
    }

    /// Takes what comes until nothing came for a moment, or for long enough.
    pub(crate) async fn settle(&mut self) {
        for _ in 0..100 {
            if timeout(Duration::from_millis(200), self.step())
                .await
                .is_err()
            {
                return;
            }
        }
    }

    /// Takes what comes next.
    pub(crate) async fn step(&mut self) {
        let batch = self.kubernetes.next().await;
        for change in &batch.changes {
            self.cluster.apply(change.clone());
            self.changes.push(change.clone());
        }
        self.last = batch;
    }

    pub(crate) fn services(&self) -> Vec<String> {
        let services = self.cluster.services().into_iter();
        services.map(|it| it.name.name.to_string()).collect()
    }

    pub(crate) fn problems(&self) -> String {
        let problems = self.last.problems.iter();
        problems
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join("\n")
    }
}

pub(crate) fn node(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Node", "metadata": {"name": name},
        "status": {"addresses": [{"type": "InternalIP", "address": address}]},
    })
}

pub(crate) fn namespace(name: &str) -> Value {
    json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name}})
}

pub(crate) fn service(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": {"name": name, "namespace": "shop"},
        "spec": {"clusterIP": address, "clusterIPs": [address], "ports": [{"name": "http", "port": 80}]},
    })
}

pub(crate) fn pod(name: &str, address: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "namespace": "shop", "labels": {"app": "web"}},
        "spec": {"nodeName": "n1", "containers": [{"name": "c", "image": "none"}]},
        "status": {"phase": "Running", "podIP": address, "podIPs": [{"ip": address}]},
    })
}

pub(crate) fn slice(name: &str, service: &str, address: &str) -> Value {
    json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": {"name": name, "namespace": "shop", "labels": {"kubernetes.io/service-name": service}},
        "ports": [{"name": "http", "port": 8080, "protocol": "TCP"}],
        "endpoints": [{"addresses": [address], "conditions": {"ready": true}}],
    })
}

pub(crate) fn policy(name: &str) -> Value {
    json!({
        "apiVersion": "networking.k8s.io/v1", "kind": "NetworkPolicy",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {"podSelector": {}, "policyTypes": ["Ingress"]},
    })
}

pub(crate) fn cluster_policy(name: &str) -> Value {
    json!({
        "apiVersion": "policy.networking.k8s.io/v1alpha2", "kind": "ClusterNetworkPolicy",
        "metadata": {"name": name},
        "spec": {"tier": "Admin", "priority": 5, "subject": {"namespaces": {}},
            "ingress": [{"action": "Deny", "from": [{"namespaces": {}}]}]},
    })
}

/// Ten services with a slice and a pod each, and what they stand on.
pub(crate) fn fill(store: &Store) {
    store.apply(&resource(Kind::Node), node("n1", "192.168.50.1"));
    store.apply(&resource(Kind::Namespace), namespace("shop"));
    store.apply(&resource(Kind::NetworkPolicy), policy("closed"));
    for number in 0..10 {
        let (name, address) = (format!("s{number}"), format!("10.244.1.{}", number + 2));
        let at = format!("10.96.0.{}", number + 1);
        store.apply(&resource(Kind::Pod), pod(&name, &address));
        store.apply(&resource(Kind::Service), service(&name, &at));
        store.apply(
            &resource(Kind::EndpointSlice),
            slice(&name, &name, &address),
        );
    }
}
