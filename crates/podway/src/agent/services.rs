//! What `podway show services` is answered.

use std::collections::BTreeMap;

use podway_intent::Compiled;
use podway_tables::{Backends, Client, FrontendKind, Reach, ServiceId};
use serde_json::{Value, json};

use super::endpoint_text;

/// A row for each service port: where it answers, whom it gives packets to, and by which policies.
pub(super) fn services(compiled: &Compiled) -> Value {
    let services = &compiled.snapshot.services;
    let mut external: BTreeMap<ServiceId, Vec<(FrontendKind, String)>> = BTreeMap::new();
    for (key, frontend) in services.frontends() {
        if frontend.kind != FrontendKind::ClusterIp {
            let at = external.entry(frontend.service).or_default();
            at.push((frontend.kind, endpoint_text(&key.addr, key.port)));
        }
    }
    let rows = services.iter().map(|(id, service)| {
        let mut at = external.remove(&id).unwrap_or_default();
        at.sort();
        let outside = service.candidates(FrontendKind::NodePort, Client::Outside);
        json!({
            "service": compiled.names.service(id),
            "address": service.key.addr.to_string(),
            "port": service.key.port,
            "protocol": service.key.protocol.to_string(),
            "external_addresses": at.iter().map(|(kind, at)| format!("{} {at}", kind_name(*kind))).collect::<Vec<_>>(),
            "internal_policy": policy_name(service.internal),
            "external_policy": policy_name(service.external),
            "affinity_s": service.affinity_timeout_s,
            "source_ranges": service.sources.is_some(),
            "backends": texts(service.candidates(FrontendKind::ClusterIp, Client::Inside)),
            "external_backends": match at.is_empty() {
                true => Vec::new(),
                false => texts(outside),
            },
        })
    });
    rows.collect()
}

fn texts(backends: &Backends) -> Vec<String> {
    let all = backends.all().iter();
    all.map(|it| endpoint_text(&it.addr, it.port)).collect()
}

fn kind_name(kind: FrontendKind) -> &'static str {
    match kind {
        FrontendKind::ClusterIp => "cluster-ip",
        FrontendKind::LoadBalancer => "load-balancer",
        FrontendKind::ExternalIp => "external-ip",
        FrontendKind::NodePort => "node-port",
    }
}

fn policy_name(reach: Reach) -> &'static str {
    match reach {
        Reach::Cluster => "cluster",
        Reach::Local => "local",
    }
}

#[cfg(test)]
mod tests {
    use podway_intent::{Cluster, NodeSetup, compile};

    use super::*;

    const CLUSTER: &str = r#"
kind: Node
apiVersion: v1
metadata: { name: n1 }
spec: { podCIDRs: [10.244.1.0/24] }
status: { addresses: [{ type: InternalIP, address: 192.168.50.1 }] }
---
kind: Pod
apiVersion: v1
metadata: { name: web, namespace: shop, labels: { app: web } }
spec: { nodeName: n2, containers: [{ name: c, image: none }] }
status: { podIP: 10.244.2.9, podIPs: [{ ip: 10.244.2.9 }] }
---
kind: Service
apiVersion: v1
metadata: { name: web, namespace: shop }
spec:
  type: LoadBalancer
  clusterIP: 10.96.0.10
  externalTrafficPolicy: Local
  sessionAffinity: ClientIP
  selector: { app: web }
  ports: [{ port: 80, targetPort: 8080, nodePort: 30080 }]
status: { loadBalancer: { ingress: [{ ip: 203.0.113.9 }] } }
"#;

    #[test]
    fn a_service_is_shown_with_all_its_addresses_and_policies() {
        let folder = tempfile::tempdir().expect("folder");
        std::fs::write(folder.path().join("all.yaml"), CLUSTER).expect("written");
        let mut cluster = Cluster::default();
        for change in podway_control::load(folder.path()).expect("legal") {
            cluster.apply(change);
        }
        cluster.apply(podway_intent::Change::Setup(NodeSetup::default()));
        let shown = services(&compile(&cluster, "n1"));
        let expected = json!([{
            "service": "shop/web:80",
            "address": "10.96.0.10",
            "port": 80,
            "protocol": "tcp",
            "external_addresses": ["load-balancer 203.0.113.9:80", "node-port 192.168.50.1:30080"],
            "internal_policy": "cluster",
            "external_policy": "local",
            "affinity_s": 10800,
            "source_ranges": false,
            "backends": ["10.244.2.9:8080"],
            "external_backends": [],
        }]);
        assert_eq!(shown, expected);
    }
}
