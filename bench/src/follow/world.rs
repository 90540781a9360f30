//! The objects of a large cluster as an API server has them.

use podway_api_server::{Resource, Store};
use podway_control::Kind;
use serde_json::{Value, json};

use crate::cluster::{
    BACKEND_PORT, ENDPOINTS, ENDPOINTS_OF_NODE, NODE, PEER, REMOTE_SERVICE, SERVICE_PORT, after,
    endpoint, peer_name, range,
};

/// The node that is followed for.
pub(super) const HERE: &str = "here";
const NAMESPACE: &str = "bench";
/// Services between two changes, so that none has a second one for long.
const STRIDE: u32 = 47;

/// Whether the last endpoint of a service serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Last {
    Ready,
    Stopped,
}

/// A store that serves every kind and has so many services, their endpoints, pods and nodes.
pub(super) fn store(services: u32) -> Store {
    let store = Store::new(Kind::ALL.map(resource));
    for (kind, object) in objects(services) {
        store.apply(&resource(kind), object);
    }
    // Who lists begins with a history that is empty, as after a while in a real one.
    store.compact();
    store
}

/// How many objects there are with so many services.
pub(super) fn count(services: u32) -> usize {
    let endpoints = services * ENDPOINTS;
    (2 + nodes(services) + 2 * services + endpoints) as usize
}

/// Has one endpoint stop serving, another service's with each number; the version of that.
pub(super) fn change(store: &Store, services: u32, number: u32) -> u64 {
    let service = changed(services, number);
    store.apply(
        &resource(Kind::EndpointSlice),
        slice(service, Last::Stopped),
    )
}

/// The service that a change is about.
pub(super) fn changed(services: u32, number: u32) -> u32 {
    (number * STRIDE) % services
}

fn resource(kind: Kind) -> Resource {
    Resource::of_path(&kind.path()).expect("a path")
}

/// How many other nodes there are.
pub(super) fn nodes(services: u32) -> u32 {
    (services * ENDPOINTS).div_ceil(ENDPOINTS_OF_NODE)
}

fn objects(services: u32) -> impl Iterator<Item = (Kind, Value)> {
    let here = node(HERE, NODE.to_string(), "10.244.1.0/24".to_owned());
    let others = (0..nodes(services)).map(|index| {
        let address = after(PEER, index).to_string();
        let object = node(&peer_name(index), address, range(index).to_string());
        (Kind::Node, object)
    });
    [(Kind::Namespace, namespace()), (Kind::Node, here)]
        .into_iter()
        .chain(others)
        .chain((0..services * ENDPOINTS).map(|member| (Kind::Pod, pod(member))))
        .chain((0..services).map(|index| (Kind::Service, service(index))))
        .chain((0..services).map(|index| (Kind::EndpointSlice, slice(index, Last::Ready))))
}

fn namespace() -> Value {
    json!({
        "metadata": {"name": NAMESPACE, "labels": {"kubernetes.io/metadata.name": NAMESPACE}},
        "status": {"phase": "Active"},
    })
}

fn node(name: &str, address: String, range: String) -> Value {
    json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}},
        "spec": {"podCIDR": &range, "podCIDRs": [&range]},
        "status": {"addresses": [
            {"type": "InternalIP", "address": address},
            {"type": "Hostname", "address": name},
        ]},
    })
}

fn pod(member: u32) -> Value {
    let service = member / ENDPOINTS;
    let address = endpoint(member).to_string();
    json!({
        "metadata": {
            "name": pod_name(member), "namespace": NAMESPACE,
            "labels": {"app": service_name(service), "tier": "backend", "pod-template-hash": format!("5d9c7b{service}")},
        },
        "spec": {
            "nodeName": peer_name(member / ENDPOINTS_OF_NODE),
            "serviceAccountName": "default",
            "restartPolicy": "Always",
            "containers": [{
                "name": "server", "image": "registry.example/server:1",
                "ports": [{"name": "http", "containerPort": BACKEND_PORT, "protocol": "TCP"}],
                "resources": {"requests": {"cpu": "100m", "memory": "64Mi"}},
            }],
        },
        "status": {
            "phase": "Running",
            "conditions": [{"type": "Ready", "status": "True"}],
            "podIP": &address, "podIPs": [{"ip": &address}],
        },
    })
}

fn service(index: u32) -> Value {
    let address = after(REMOTE_SERVICE, index).to_string();
    json!({
        "metadata": {"name": service_name(index), "namespace": NAMESPACE, "creationTimestamp": "2026-01-01T00:00:00Z"},
        "spec": {
            "type": "ClusterIP", "clusterIP": &address, "clusterIPs": [&address], "ipFamilies": ["IPv4"],
            "selector": {"app": service_name(index)},
            "ports": [{"name": "http", "protocol": "TCP", "port": SERVICE_PORT, "targetPort": "http"}],
        },
    })
}

fn slice(index: u32, last: Last) -> Value {
    let first = index * ENDPOINTS;
    let endpoints: Vec<Value> = (0..ENDPOINTS)
        .map(|place| {
            let serves = place + 1 < ENDPOINTS || last == Last::Ready;
            json!({
                "addresses": [endpoint(first + place).to_string()],
                "conditions": {"ready": serves, "serving": serves, "terminating": false},
                "nodeName": peer_name((first + place) / ENDPOINTS_OF_NODE),
                "targetRef": {"kind": "Pod", "namespace": NAMESPACE, "name": pod_name(first + place)},
            })
        })
        .collect();
    json!({
        "metadata": {
            "name": format!("{}-1", service_name(index)), "namespace": NAMESPACE,
            "labels": {"kubernetes.io/service-name": service_name(index)},
        },
        "addressType": "IPv4",
        "ports": [{"name": "http", "protocol": "TCP", "port": BACKEND_PORT}],
        "endpoints": endpoints,
    })
}

fn service_name(index: u32) -> String {
    format!("remote-{index}")
}

fn pod_name(member: u32) -> String {
    format!("remote-{}-5d9c7b-{member}", member / ENDPOINTS)
}
