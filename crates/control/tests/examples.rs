//! The manifests of the demo and of the lab's tests are whole clusters.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use podway_control::{Manifests, container_ports, load, processes};

fn folder(name: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../..")
        .join(name)
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
            assert!(
                processes(pod)
                    .iter()
                    .all(|process| !process.command.is_empty())
            );
        }
        assert!(!load(&folder(name)).unwrap().is_empty(), "{name}");
    }
}

#[test]
fn the_demo_has_a_web_server_on_each_node() {
    let cluster = cluster("config/lab");
    let web = |name: &str| {
        let is_it =
            |pod: &&k8s_openapi::api::core::v1::Pod| pod.metadata.name.as_deref() == Some(name);
        cluster.pods.iter().find(is_it).unwrap()
    };
    let node = |name: &str| web(name).spec.as_ref().unwrap().node_name.clone();
    assert_ne!(node("web-0"), node("web-1"));
    assert_eq!(container_ports(web("web-0"))[0].port, 8080);
    assert_eq!(
        processes(web("echo"))[0].command,
        ["podway", "lab", "serve", "udp-echo", "--port", "7777"]
    );
}
