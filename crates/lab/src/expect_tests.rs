//! The naive evaluator against the API's text, case by case.

use k8s_openapi::api::core::v1::Service;
use serde_json::{Value, json};

use super::*;
use crate::cluster::{Container, Port};

fn pod(title: &str, node: &str, address: &str, labels: &[(&str, &str)]) -> Pod {
    let (namespace, name) = title.split_once('/').unwrap();
    let own = |text: &str| text.to_owned();
    let ports = vec![
        Port {
            name: Some(own("http")),
            protocol: Protocol::Tcp,
            number: 8080,
        },
        Port {
            name: Some(own("echo")),
            protocol: Protocol::Udp,
            number: 7777,
        },
    ];
    let environment = Vec::new();
    let container = Container {
        name: own("main"),
        command: Vec::new(),
        environment,
        directory: None,
        ports,
    };
    Pod {
        namespace: own(namespace),
        name: own(name),
        node: own(node),
        labels: labels
            .iter()
            .map(|(key, value)| (own(key), own(value)))
            .collect(),
        network: Network::Own,
        addresses: vec![address.parse().unwrap()],
        containers: vec![container],
    }
}

/// Two nodes; shop has web and client, ops has admin, and node2 has a pod on its own network.
fn cluster(policies: &[Value]) -> Cluster {
    let node = |name: &str, address: &str| Node {
        name: name.to_owned(),
        labels: [("role".to_owned(), name.to_owned())].into(),
        addresses: vec![address.parse().unwrap()],
        pod_ranges: Vec::new(),
    };
    let labels = |name: &str| {
        [("kubernetes.io/metadata.name", name), ("team", name)]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into()
    };
    let host = pod("ops/host", "node2", "192.168.50.2", &[("app", "web")]);
    Cluster {
        nodes: vec![node("node1", "192.168.50.1"), node("node2", "192.168.50.2")],
        pods: vec![
            pod("shop/web", "node1", "10.244.1.2", &[("app", "web")]),
            pod("shop/client", "node2", "10.244.2.2", &[("app", "client")]),
            pod("ops/admin", "node2", "10.244.2.3", &[("app", "admin")]),
            Pod {
                network: Network::Host,
                ..host
            },
        ],
        namespaces: ["shop", "ops"]
            .map(|name| (name.to_owned(), labels(name)))
            .into(),
        policies: policies
            .iter()
            .map(|spec| {
                let policy = json!({"metadata": {"name": "p", "namespace": "shop"}, "spec": spec});
                serde_json::from_value(policy).unwrap()
            })
            .collect(),
        ..Cluster::default()
    }
}

impl Cluster {
    fn end(&self, name: &str) -> End<'_> {
        match name.strip_prefix("node:") {
            Some(name) => End::Node(self.node(name).unwrap()),
            None => End::Pod(self.pods.iter().find(|pod| pod.title() == name).unwrap()),
        }
    }

    fn tcp(&self, source: &str, target: &str) -> bool {
        self.connects(source, target, Protocol::Tcp, 8080)
    }

    fn connects(&self, source: &str, target: &str, protocol: Protocol, port: u16) -> bool {
        let target = self.pods.iter().find(|pod| pod.title() == target).unwrap();
        let (source, address) = (self.end(source), target.addresses[0]);
        self.allows(Connection {
            source,
            target,
            address,
            protocol,
            port,
        })
    }
}

#[test]
fn without_policies_all_is_open() {
    let cluster = cluster(&[]);
    assert!(cluster.tcp("ops/admin", "shop/web"));
    assert!(cluster.tcp("node:node2", "shop/web"));
}

#[test]
fn n1_an_isolated_pod_is_closed_but_to_itself_and_its_node() {
    let cluster = cluster(&[json!({"podSelector": {"matchLabels": {"app": "web"}}})]);
    assert!(!cluster.tcp("shop/client", "shop/web"));
    assert!(!cluster.tcp("node:node2", "shop/web"));
    assert!(!cluster.tcp("ops/host", "shop/web"));
    assert!(cluster.tcp("node:node1", "shop/web"), "n13");
    assert!(cluster.tcp("shop/web", "shop/web"), "n13");
    assert!(cluster.tcp("shop/web", "shop/client"), "only ingress");
}

#[test]
fn n2_policy_types_follow_the_rules_when_absent() {
    let egress = |spec: Value| cluster(&[spec]).tcp("shop/web", "shop/client");
    assert!(egress(json!({"podSelector": {}, "ingress": [{}]})));
    assert!(egress(
        json!({"podSelector": {}, "ingress": [{}], "egress": []})
    ));
    assert!(!egress(
        json!({"podSelector": {}, "ingress": [{}], "egress": [{"ports": [{"port": 1}]}]})
    ));
    assert!(!egress(
        json!({"podSelector": {}, "policyTypes": ["Egress"]})
    ));
}

#[test]
fn n1_allows_are_a_union_and_both_ends_must_allow() {
    let closed = json!({"podSelector": {}, "policyTypes": ["Ingress", "Egress"]});
    let leave = json!({"podSelector": {}, "policyTypes": ["Egress"], "egress": [{}]});
    let enter = json!({"podSelector": {}, "ingress": [{}]});
    assert!(!cluster(&[closed.clone(), leave.clone()]).tcp("shop/client", "shop/web"));
    assert!(!cluster(&[closed.clone(), enter.clone()]).tcp("shop/client", "shop/web"));
    assert!(cluster(&[closed, leave, enter]).tcp("shop/client", "shop/web"));
}

fn from(peers: Value) -> Cluster {
    cluster(&[
        json!({"podSelector": {"matchLabels": {"app": "web"}}, "ingress": [{"from": peers}]}),
    ])
}

#[test]
fn n3_selectors_of_one_peer_must_both_match() {
    let admin = json!({"matchLabels": {"app": "admin"}});
    let ops = json!({"matchLabels": {"kubernetes.io/metadata.name": "ops"}});
    assert!(
        !from(json!([{"podSelector": admin}])).tcp("ops/admin", "shop/web"),
        "own namespace only"
    );
    let both = json!([{"podSelector": admin, "namespaceSelector": ops}]);
    assert!(from(both).tcp("ops/admin", "shop/web"));
    let shop =
        json!({"matchExpressions": [{"key": "team", "operator": "NotIn", "values": ["ops"]}]});
    let neither = json!([{"podSelector": admin, "namespaceSelector": shop}]);
    assert!(!from(neither).tcp("ops/admin", "shop/web"));
    let either = json!([{"podSelector": admin}, {"namespaceSelector": ops}]);
    assert!(from(either).tcp("ops/admin", "shop/web"));
}

#[test]
fn n4_empty_is_all_but_an_unmatched_selector_is_nobody() {
    assert!(from(json!([])).tcp("ops/admin", "shop/web"));
    assert!(from(json!([{"podSelector": {}}])).tcp("shop/client", "shop/web"));
    assert!(!from(json!([{"podSelector": {}}])).tcp("ops/admin", "shop/web"));
    assert!(
        !from(json!([{"podSelector": {"matchLabels": {"a": "b"}}}])).tcp("shop/client", "shop/web")
    );
}

#[test]
fn n8_n9_blocks_match_addresses_of_pods_and_nodes_but_exceptions() {
    let all = json!([{"ipBlock": {"cidr": "10.244.0.0/16", "except": ["10.244.2.3/32"]}}]);
    assert!(from(all.clone()).tcp("shop/client", "shop/web"));
    assert!(!from(all.clone()).tcp("ops/admin", "shop/web"));
    assert!(!from(all).tcp("node:node2", "shop/web"));
    let nodes = json!([{"ipBlock": {"cidr": "192.168.50.0/24"}}]);
    assert!(from(nodes.clone()).tcp("node:node2", "shop/web"));
    assert!(from(nodes).tcp("ops/host", "shop/web"), "n14");
    assert!(
        !from(json!([{"podSelector": {}, "namespaceSelector": {}}])).tcp("ops/host", "shop/web"),
        "n14"
    );
}

#[test]
fn n5_n6_n7_ports_have_protocols_ranges_and_names() {
    let connects = |ports: Value, protocol, port| {
        let spec = json!({"podSelector": {}, "ingress": [{"ports": ports}]});
        cluster(&[spec]).connects("ops/admin", "shop/web", protocol, port)
    };
    let (tcp, udp) = (Protocol::Tcp, Protocol::Udp);
    assert!(!connects(json!([{"protocol": "UDP"}]), tcp, 8080));
    assert!(connects(json!([{"protocol": "UDP"}]), udp, 1));
    assert!(connects(json!([{"port": 8080}]), tcp, 8080));
    assert!(!connects(json!([{"port": 8080}]), udp, 8080));
    assert!(connects(
        json!([{"port": 8000, "endPort": 8080}]),
        tcp,
        8080
    ));
    assert!(!connects(
        json!([{"port": 8000, "endPort": 8079}]),
        tcp,
        8080
    ));
    assert!(connects(json!([{"port": "http"}]), tcp, 8080));
    assert!(!connects(
        json!([{"port": "http", "protocol": "UDP"}]),
        udp,
        8080
    ));
    assert!(!connects(json!([{"port": "nobody"}]), tcp, 8080));
}

/// The same cluster with policies of the whole cluster: name, tier, priority, and what more the spec says.
fn with_cluster_policies(own: &[Value], all: &[(&str, &str, i32, Value)]) -> Cluster {
    let policy = |(name, tier, priority, more): &(&str, &str, i32, Value)| {
        let mut spec = json!({"tier": tier, "priority": priority, "subject": {"namespaces": {}}});
        let fields = more.as_object().unwrap().clone();
        spec.as_object_mut().unwrap().extend(fields);
        serde_json::from_value(json!({"metadata": {"name": name}, "spec": spec})).unwrap()
    };
    Cluster {
        cluster_policies: all.iter().map(policy).collect(),
        ..cluster(own)
    }
}

fn everyone(action: &str) -> Value {
    json!({"ingress": [{"action": action, "from": [{"namespaces": {}}]}]})
}

#[test]
fn a1_a3_tiers_and_what_passes_from_one_to_the_next() {
    let isolated = json!({"podSelector": {}});
    let open = |own: &[Value], all: &[(&str, &str, i32, Value)]| {
        with_cluster_policies(own, all).tcp("ops/admin", "shop/web")
    };
    let admin = |action| ("a", "Admin", 5, everyone(action));
    let base = |action| ("b", "Baseline", 5, everyone(action));
    assert!(open(std::slice::from_ref(&isolated), &[admin("Accept")]));
    assert!(!open(&[], &[admin("Deny")]));
    assert!(!open(std::slice::from_ref(&isolated), &[admin("Pass")]));
    assert!(!open(&[], &[admin("Pass"), base("Deny")]));
    assert!(open(&[], &[base("Pass")]));
    let allowed = json!({"podSelector": {}, "ingress": [{}]});
    assert!(open(&[allowed], &[base("Deny")]), "NetworkPolicy is final");
    let first = ("z", "Admin", 1, everyone("Deny"));
    assert!(!open(&[], &[admin("Accept"), first]), "a2");
    let namesake = ("A", "Admin", 5, everyone("Deny"));
    assert!(!open(&[], &[admin("Accept"), namesake]), "a2: by name");
}

#[test]
fn a4_what_is_not_understood_fails_closed() {
    let open = |rule: Value| {
        let spec = json!({"ingress": [rule]});
        with_cluster_policies(&[], &[("a", "Admin", 1, spec)]).tcp("ops/admin", "shop/web")
    };
    let strange = json!([{"planets": {}}]);
    assert!(!open(json!({"action": "Deny", "from": strange})));
    assert!(!open(json!({"action": "Pass", "from": []})));
    assert!(!open(json!({"action": "Deny", "from": [{}]})));
    let closed = json!({"podSelector": {}});
    let accept = json!({"ingress": [{"action": "Accept", "from": strange}]});
    let cluster = with_cluster_policies(&[closed], &[("a", "Admin", 1, accept)]);
    assert!(!cluster.tcp("ops/admin", "shop/web"));
}

#[test]
fn a5_networks_nodes_named_ports_and_ranges() {
    let denied = |to: Value, protocols: Value, target: &str| {
        let rule = json!({"action": "Deny", "to": to, "protocols": protocols});
        let spec = json!({"egress": [rule]});
        !with_cluster_policies(&[], &[("a", "Admin", 1, spec)]).tcp("shop/client", target)
    };
    let any = json!([{"tcp": {}}]);
    assert!(denied(
        json!([{"networks": ["10.244.1.0/24"]}]),
        any.clone(),
        "shop/web"
    ));
    assert!(!denied(
        json!([{"networks": ["10.244.2.0/24"]}]),
        any.clone(),
        "shop/web"
    ));
    let node2 = json!([{"nodes": {"matchLabels": {"role": "node2"}}}]);
    assert!(denied(node2.clone(), any.clone(), "ops/host"), "n14");
    assert!(!denied(node2, any.clone(), "ops/admin"));
    let web = json!([{"pods": {"podSelector": {"matchLabels": {"app": "web"}}}}]);
    assert!(denied(web.clone(), any, "shop/web"));
    assert!(denied(
        web.clone(),
        json!([{"destinationNamedPort": "http"}]),
        "shop/web"
    ));
    assert!(!denied(
        web.clone(),
        json!([{"destinationNamedPort": "echo"}]),
        "shop/web"
    ));
    let ports = |start: u16, end: u16| json!([{"tcp": {"destinationPort": {"range": {"start": start, "end": end}}}}]);
    assert!(denied(web.clone(), ports(8000, 8080), "shop/web"));
    assert!(!denied(web.clone(), ports(8000, 8079), "shop/web"));
    let udp = json!([{"udp": {"destinationPort": {"number": 8080}}}]);
    assert!(!denied(web, udp, "shop/web"));
}

#[test]
fn what_is_only_observed_says_nothing() {
    let observe = json!({"podway.dev/mode": "observe"});
    let mut cluster = with_cluster_policies(
        &[json!({"podSelector": {}})],
        &[("a", "Admin", 1, everyone("Deny"))],
    );
    assert!(!cluster.tcp("ops/admin", "shop/web"));
    let annotations = serde_json::from_value(observe).unwrap();
    cluster.policies[0].metadata.annotations = Some(annotations);
    assert!(!cluster.tcp("ops/admin", "shop/web"));
    cluster.cluster_policies[0].metadata.annotations =
        cluster.policies[0].metadata.annotations.clone();
    assert!(cluster.tcp("ops/admin", "shop/web"));
}

fn service(endpoints: Value, policy: &str) -> (Cluster, Service) {
    let service = json!({
        "metadata": {"name": "web", "namespace": "shop"},
        "spec": {"internalTrafficPolicy": policy, "ports": [{"name": "http", "port": 80}]}
    });
    let slice = json!({
        "metadata": {"name": "web-1", "namespace": "shop", "labels": {"kubernetes.io/service-name": "web"}},
        "addressType": "IPv4",
        "ports": [{"name": "http", "port": 8080}, {"name": "other", "port": 1}],
        "endpoints": endpoints
    });
    let mut cluster = cluster(&[]);
    cluster.slices.push(serde_json::from_value(slice).unwrap());
    (cluster, serde_json::from_value(service).unwrap())
}

fn at(endpoints: Value, policy: &str, family_of: &str, node: &str) -> Endpoints {
    let (cluster, service) = service(endpoints, policy);
    let port = service.spec.as_ref().unwrap().ports.as_ref().unwrap()[0].clone();
    cluster.endpoints(&service, &port, family_of.parse().unwrap(), node)
}

#[test]
fn s1_s5_s16_usable_endpoints_are_ready_or_the_last_to_serve() {
    let one = json!({"addresses": ["10.244.1.2"]});
    let gone = json!({"addresses": ["10.244.1.3"], "conditions": {"ready": false}});
    let conditions = json!({"ready": false, "serving": true, "terminating": true});
    let last = json!({"addresses": ["10.244.1.4"], "conditions": conditions});
    let address = |text: &str| Endpoints::At(vec![(text.parse().unwrap(), 8080)]);
    let all = json!([one, gone, last]);
    assert_eq!(
        at(all.clone(), "Cluster", "10.96.0.1", "node1"),
        address("10.244.1.2")
    );
    assert_eq!(
        at(json!([gone, last]), "Cluster", "10.96.0.1", "node1"),
        address("10.244.1.4")
    );
    assert_eq!(
        at(json!([gone]), "Cluster", "10.96.0.1", "node1"),
        Endpoints::Nowhere
    );
    assert_eq!(
        at(all, "Cluster", "fd96::1", "node1"),
        Endpoints::Nowhere,
        "no NAT between families"
    );
}

#[test]
fn s3_local_services_lead_to_local_endpoints_only() {
    let one = json!([{"addresses": ["10.244.1.2"], "nodeName": "node1"}]);
    let here = Endpoints::At(vec![("10.244.1.2".parse().unwrap(), 8080)]);
    assert_eq!(at(one.clone(), "Local", "10.96.0.1", "node1"), here);
    assert_eq!(at(one, "Local", "10.96.0.1", "node2"), Endpoints::Elsewhere);
    assert_eq!(
        at(json!([]), "Local", "10.96.0.1", "node2"),
        Endpoints::Nowhere
    );
}
