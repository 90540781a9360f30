//! What following a large cluster costs.

use std::fs;

use podway_control::{Kind, Kubernetes, KubernetesSettings, Standing};
use podway_intent::Cluster;

use crate::bench::{namespace, pod, resource, serve, store};

const PODS: u32 = 150_000;
/// What they may cost, in KiB.
const BUDGET: u64 = 120 << 10;

/// The memory of this process that is in RAM.
fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").expect("our status");
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let number = line.and_then(|line| line.trim().strip_suffix(" kB"));
    number.expect("VmRSS in kB").parse().expect("a number")
}

/// Counts what the server of the same process takes to answer, too: an upper bound.
#[tokio::test]
async fn a_hundred_and_fifty_thousand_pods_cost_at_most_120_mb() {
    let store = store();
    store.apply(&resource(Kind::Namespace), namespace("shop"));
    for number in 0..PODS {
        let [_, b, c, d] = ((10 << 24) | (number + 2)).to_be_bytes();
        let mut object = pod(
            &format!("web-5d9c7b6f4-{number}"),
            &format!("10.{b}.{c}.{d}"),
        );
        let labels = &mut object["metadata"]["labels"];
        labels["app.kubernetes.io/name"] = format!("web-{}", number / 50).into();
        labels["pod-template-hash"] = format!("5d9c7b{}", number / 50).into();
        store.apply(&resource(Kind::Pod), object);
    }
    let server = serve(&store).await;
    let before = resident_kib();
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("kubeconfig");
    fs::write(&path, server.kubeconfig()).expect("written");
    let settings = KubernetesSettings {
        kubeconfig: Some(path),
        ..KubernetesSettings::default()
    };
    let mut kubernetes = Kubernetes::open(&settings).await.expect("a client");
    let mut cluster = Cluster::default();
    loop {
        let batch = kubernetes.next().await;
        for change in batch.changes {
            cluster.apply(change);
        }
        if batch.standing == Standing::Whole {
            break;
        }
    }
    let cost = resident_kib().saturating_sub(before);
    println!("{} pods: {cost} KiB", cluster.pods().len());
    assert_eq!(cluster.pods().len(), PODS as usize);
    assert!(cost <= BUDGET, "{cost} KiB");
}
