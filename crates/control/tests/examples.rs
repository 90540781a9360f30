//! The manifests of the demo and of the lab's tests are whole clusters.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use k8s_openapi::api::core::v1::{Container, Pod};
use podway_control::{Manifests, load};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name)
}

fn containers(pod: &Pod) -> &[Container] {
    &pod.spec.as_ref().unwrap().containers
}

fn cluster(name: &str) -> Manifests {
    Manifests::read(&folder(name)).unwrap_or_else(|problems| panic!("{problems}"))
}

#[test]
fn every_example_is_a_cluster_on_two_nodes() {
    for name in [
        "config/lab",
        "tests/manifests/plain",
        "tests/manifests/isolated",
        "tests/manifests/mixed",
    ] {
        let cluster = cluster(name);
        assert_eq!(cluster.nodes.len(), 2, "{name}");
        assert!(
            (4..=12).contains(&cluster.pods.len()),
            "{name}: {} pods",
            cluster.pods.len()
        );
        let nodes: BTreeSet<_> = cluster
            .pods
            .iter()
            .map(|pod| pod.spec.as_ref().unwrap().node_name.clone().unwrap())
            .collect();
        assert_eq!(nodes.len(), 2, "{name}: pods on {nodes:?}");
        for pod in &cluster.pods {
            assert_eq!(
                pod.status.as_ref().unwrap().pod_ips.as_ref().unwrap().len(),
                2
            );
            assert!(containers(pod).iter().all(|one| one.command.is_some()));
        }
        assert!(!load(&folder(name)).unwrap().is_empty(), "{name}");
    }
}

#[test]
fn the_demo_has_a_web_server_on_each_node() {
    let cluster = cluster("config/lab");
    let web = |name: &str| {
        let is_it = |pod: &&Pod| pod.metadata.name.as_deref() == Some(name);
        cluster.pods.iter().find(is_it).unwrap()
    };
    let node = |name: &str| web(name).spec.as_ref().unwrap().node_name.clone();
    assert_ne!(node("web-0"), node("web-1"));
    let ports = containers(web("web-0"))[0].ports.clone().unwrap();
    assert_eq!(ports[0].container_port, 8080);
    let echo = &containers(web("echo"))[0];
    let command = echo.command.iter().chain(&echo.args).flatten();
    assert_eq!(
        command.collect::<Vec<_>>(),
        ["podway", "lab", "serve", "udp-echo", "--port", "7777"]
    );
}

#[test]
fn what_kubectl_writes_is_read() {
    let dump = r#"
apiVersion: v1
kind: List
metadata: {resourceVersion: ""}
items:
- apiVersion: v1
  kind: Pod
  metadata:
    annotations: {a.example/b: "1"}
    creationTimestamp: "2026-01-02T03:04:05Z"
    generateName: web-5d4f8c7b9-
    labels: {app: web, pod-template-hash: 5d4f8c7b9}
    managedFields:
    - {apiVersion: v1, fieldsType: FieldsV1, fieldsV1: {"f:metadata": {"f:labels": {".": {}}}}, manager: x, operation: Update, time: "2026-01-02T03:04:05Z"}
    name: web-5d4f8c7b9-abcde
    namespace: default
    ownerReferences: [{apiVersion: apps/v1, blockOwnerDeletion: true, controller: true, kind: ReplicaSet, name: web-5d4f8c7b9, uid: 1-2}]
    resourceVersion: "1234"
    uid: 0f0e0d0c-0000-4000-8000-000000000001
  spec:
    affinity: {}
    containers:
    - image: nginx
      imagePullPolicy: Always
      livenessProbe: {failureThreshold: 3, httpGet: {path: /, port: http, scheme: HTTP}}
      name: nginx
      ports: [{containerPort: 80, name: http, protocol: TCP}]
      resources: {limits: {cpu: 500m, memory: 1Gi}, requests: {cpu: "1"}}
      volumeMounts: [{mountPath: /x, name: x, readOnly: true}]
    nodeName: gone
    securityContext: {}
    tolerations: [{effect: NoExecute, key: node.kubernetes.io/not-ready, operator: Exists, tolerationSeconds: 300}]
    volumes: [{emptyDir: {}, name: x}]
  status:
    conditions: [{lastProbeTime: null, lastTransitionTime: "2026-01-02T03:04:05Z", status: "True", type: Ready}]
    containerStatuses:
    - {image: nginx, imageID: x, lastState: {}, name: nginx, ready: true, restartCount: 0, started: true, state: {running: {startedAt: "2026-01-02T03:04:05Z"}}}
    phase: Running
    podIP: 10.0.0.7
    podIPs: [{ip: 10.0.0.7}]
    qosClass: Burstable
    startTime: "2026-01-02T03:04:05Z"
- {apiVersion: rbac.authorization.k8s.io/v1, kind: Role, metadata: {name: not-ours}, rules: 7}
"#;
    let file = tempfile::Builder::new().suffix(".yaml").tempfile().unwrap();
    std::fs::write(file.path(), dump).unwrap();
    let cluster = Manifests::read(file.path()).unwrap_or_else(|problems| panic!("{problems}"));
    assert_eq!(cluster.pods.len(), 1);
    assert_eq!(
        containers(&cluster.pods[0])[0].command,
        None,
        "the image knows"
    );
}
