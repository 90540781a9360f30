//! The rows of the behaviour contract that are decided where Kubernetes' objects become ours.

use std::net::IpAddr;

use podway_control::convert::{self, Converted};
use podway_intent::{
    Affinity, IpMode, NetworkPolicy, PodNetwork, PodPhase, PolicyPeer, PolicyPort, Ports,
    Requirement, Selector, Serving, TrafficPolicy,
};
use podway_wire::Protocol;
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

fn typed<T: DeserializeOwned>(api_version: &str, kind: &str, mut rest: Value) -> T {
    rest["apiVersion"] = api_version.into();
    rest["kind"] = kind.into();
    if rest["metadata"].is_null() {
        rest["metadata"] = json!({});
    }
    rest["metadata"]["name"] = "a".into();
    rest["metadata"]["namespace"] = "ns".into();
    serde_json::from_value(rest).unwrap()
}

fn policy(spec: Value) -> NetworkPolicy {
    let policy = typed(
        "networking.k8s.io/v1",
        "NetworkPolicy",
        json!({ "spec": spec }),
    );
    convert::network_policy(&policy).value()
}

fn service(metadata: Value, spec: Value) -> Option<podway_intent::Service> {
    let service = json!({"metadata": metadata, "spec": spec});
    convert::service(&typed("v1", "Service", service)).map(Converted::value)
}

fn slice(labels: Value, rest: Value) -> Option<podway_intent::EndpointSlice> {
    let mut slice = rest;
    slice["metadata"] = json!({ "labels": labels });
    let slice = convert::endpoint_slice(&typed("discovery.k8s.io/v1", "EndpointSlice", slice));
    slice.unwrap().map(Converted::value)
}

fn pod(spec: Value, status: Value) -> podway_intent::Pod {
    convert::pod(&typed("v1", "Pod", json!({"spec": spec, "status": status}))).value()
}

fn ip(text: &str) -> IpAddr {
    text.parse().unwrap()
}

#[test]
fn n2_policy_types_default_to_ingress_and_egress_only_with_rules() {
    let isolates = |spec: Value| {
        let policy = policy(spec);
        (policy.ingress.is_some(), policy.egress.is_some())
    };
    assert_eq!(isolates(json!({"podSelector": {}})), (true, false));
    assert_eq!(
        isolates(json!({"podSelector": {}, "egress": []})),
        (true, false)
    );
    assert_eq!(
        isolates(json!({"podSelector": {}, "egress": [{}]})),
        (true, true)
    );
    assert_eq!(
        isolates(json!({"podSelector": {}, "policyTypes": []})),
        (true, false)
    );
    assert_eq!(
        isolates(json!({"podSelector": {}, "policyTypes": ["Egress"]})),
        (false, true)
    );
    let both = json!({"podSelector": {}, "policyTypes": ["Egress", "Ingress"]});
    assert_eq!(isolates(both), (true, true));
    // Rules of a direction that policyTypes leaves out isolate nobody.
    let ingress_only = json!({"podSelector": {}, "egress": [{}], "policyTypes": ["Ingress"]});
    assert_eq!(isolates(ingress_only), (true, false));
}

#[test]
fn n4_empty_is_everything_but_an_empty_selector_is_a_peer() {
    let rule = |rule: Value| {
        policy(json!({"ingress": [rule]}))
            .ingress
            .unwrap()
            .remove(0)
    };
    for everything in [json!({}), json!({"from": [], "ports": []})] {
        let rule = rule(everything);
        assert_eq!((rule.peers, rule.ports), (None, None));
    }
    let all_pods_here = PolicyPeer::Pods {
        namespaces: None,
        pods: Selector::default(),
    };
    assert_eq!(
        rule(json!({"from": [{"podSelector": {}}]})).peers,
        Some(vec![all_pods_here])
    );
    let all_pods = PolicyPeer::Pods {
        namespaces: Some(Selector::default()),
        pods: Selector::default(),
    };
    assert_eq!(
        rule(json!({"from": [{"namespaceSelector": {}}]})).peers,
        Some(vec![all_pods])
    );
    // No rules at all is an isolated pod, not an open one.
    assert_eq!(policy(json!({"podSelector": {}})).ingress, Some(vec![]));
    assert_eq!(policy(json!({})).subject, Selector::default());
}

#[test]
fn n4_protocol_is_tcp_by_default_and_n6_n7_ports() {
    let ports = |ports: Value| {
        policy(json!({"ingress": [{ "ports": ports }]}))
            .ingress
            .unwrap()[0]
            .ports
            .clone()
    };
    let expected = |protocol, ports| Some(vec![PolicyPort { protocol, ports }]);
    assert_eq!(
        ports(json!([{"port": 80}])),
        expected(Protocol::TCP, Ports::Range(80, 80))
    );
    assert_eq!(
        ports(json!([{"protocol": "UDP"}])),
        expected(Protocol::UDP, Ports::All)
    );
    assert_eq!(
        ports(json!([{"port": 80, "endPort": 90, "protocol": "SCTP"}])),
        expected(Protocol::SCTP, Ports::Range(80, 90))
    );
    assert_eq!(
        ports(json!([{"port": "http"}])),
        expected(Protocol::TCP, Ports::Named("http".into()))
    );
}

#[test]
fn n3_selectors_and_n8_blocks() {
    let peers = policy(json!({"egress": [{"to": [
        {"namespaceSelector": {"matchLabels": {"a": "b"}}, "podSelector": {"matchExpressions": [
            {"key": "c", "operator": "NotIn", "values": ["d"]}, {"key": "e", "operator": "DoesNotExist"}]}},
        {"ipBlock": {"cidr": "10.0.0.5/8", "except": ["10.1.0.0/16"]}},
    ]}]})).egress.unwrap().remove(0).peers.unwrap();
    let select = |requirements| Selector { requirements };
    assert_eq!(
        peers,
        [
            PolicyPeer::Pods {
                namespaces: Some(select(vec![Requirement::In("a".into(), vec!["b".into()])])),
                pods: select(vec![
                    Requirement::NotIn("c".into(), vec!["d".into()]),
                    Requirement::Absent("e".into())
                ]),
            },
            PolicyPeer::Block {
                range: "10.0.0.0/8".parse().unwrap(),
                except: vec!["10.1.0.0/16".parse().unwrap()],
            },
        ]
    );
}

#[test]
fn s15_a_slice_port_without_number_is_skipped() {
    let ports = json!([{"name": "a", "port": null}, {"name": "b", "port": 80, "protocol": "UDP"}, {"port": 81}]);
    let slice = slice(
        json!({"kubernetes.io/service-name": "web"}),
        json!({"addressType": "IPv4", "ports": ports}),
    )
    .unwrap();
    let ports: Vec<_> = slice
        .ports
        .iter()
        .map(|port| (&*port.name, port.protocol, port.port))
        .collect();
    assert_eq!(ports, [("b", Protocol::UDP, 80), ("", Protocol::TCP, 81)]);
    assert_eq!(
        (&*slice.service.namespace, &*slice.service.name),
        ("ns", "web")
    );
}

#[test]
fn s16_nil_ready_is_ready_and_host_names_are_ignored() {
    let web = || json!({"kubernetes.io/service-name": "web"});
    let endpoint = |conditions: Value| json!({"addresses": ["10.0.0.1"], "conditions": conditions});
    let serving = |conditions: Value| {
        let rest = json!({"addressType": "IPv4", "endpoints": [endpoint(conditions)]});
        slice(web(), rest).unwrap().endpoints[0].serving
    };
    assert_eq!(serving(json!({})), Serving::Ready);
    assert_eq!(
        serving(json!({"ready": true, "terminating": true})),
        Serving::Ready
    );
    assert_eq!(serving(json!({"ready": false})), Serving::Unready);
    let neither = json!({"ready": false, "serving": false});
    assert_eq!(serving(neither), Serving::No);
    assert_eq!(
        serving(json!({"ready": false, "terminating": true})),
        Serving::Terminating
    );
    let ended = json!({"ready": false, "serving": false, "terminating": true});
    assert_eq!(serving(ended), Serving::No);
    let fqdn = json!({"addressType": "FQDN", "endpoints": [{"addresses": ["a.example"]}]});
    assert_eq!(slice(web(), fqdn), None);
}

#[test]
fn s17_foreign_headless_and_external_names_are_ignored() {
    let ports = json!([{"port": 80}]);
    let ours = json!({"clusterIP": "10.96.0.1", "clusterIPs": ["10.96.0.1"], "ports": ports});
    assert!(service(json!({}), ours.clone()).is_some());
    let foreign = json!({"labels": {"service.kubernetes.io/service-proxy-name": ""}});
    assert_eq!(service(foreign.clone(), ours), None);
    for spec in [
        json!({"clusterIP": "None", "ports": ports}),
        json!({"clusterIPs": ["None"], "ports": ports}),
        json!({"type": "ExternalName", "externalName": "a.example"}),
    ] {
        assert_eq!(service(json!({}), spec), None);
    }
    let v4 = || json!({"addressType": "IPv4"});
    let name = "kubernetes.io/service-name";
    assert!(slice(json!({name: "web"}), v4()).is_some());
    assert_eq!(slice(json!({}), v4()), None);
    assert_eq!(
        slice(
            json!({name: "web", "service.kubernetes.io/headless": ""}),
            v4()
        ),
        None
    );
    assert_eq!(
        slice(
            json!({name: "web", "service.kubernetes.io/service-proxy-name": "x"}),
            v4()
        ),
        None
    );
}

#[test]
fn a_services_fields_arrive() {
    let spec = json!({
        "type": "LoadBalancer", "clusterIPs": ["10.96.0.1", "fd96::1"], "externalIPs": ["192.0.2.9"],
        "ports": [{"name": "a", "port": 80, "nodePort": 30080}],
        "loadBalancerSourceRanges": [" 192.0.2.0/24 ", "203.0.113.000/025"],
        "internalTrafficPolicy": "Local", "externalTrafficPolicy": "Local", "healthCheckNodePort": 30000,
        "sessionAffinity": "ClientIP",
    });
    let status = json!({"loadBalancer": {"ingress": [
        {"ip": "1.2.3.4"}, {"ip": "1.2.3.5", "ipMode": "Proxy"}, {"hostname": "lb.example"}]}});
    let metadata = json!({"creationTimestamp": "1970-01-02T00:00:00Z"});
    let object = json!({"metadata": metadata, "spec": spec, "status": status});
    let service = convert::service(&typed("v1", "Service", object));
    let service = service.unwrap().value();
    assert_eq!(service.created_s, 86_400);
    assert_eq!(service.cluster_ips, [ip("10.96.0.1"), ip("fd96::1")]);
    assert_eq!(service.external_ips, [ip("192.0.2.9")]);
    assert_eq!(
        service.load_balancer_ips,
        [(ip("1.2.3.4"), IpMode::Vip), (ip("1.2.3.5"), IpMode::Proxy)]
    );
    let ranges: Vec<String> = service
        .source_ranges
        .iter()
        .map(|range| range.to_string())
        .collect();
    assert_eq!(ranges, ["192.0.2.0/24", "203.0.113.0/25"]);
    assert_eq!(
        (service.internal, service.external),
        (TrafficPolicy::Local, TrafficPolicy::Local)
    );
    assert_eq!(service.affinity, Affinity::ClientIp { timeout_s: 10_800 });
    assert_eq!(service.health_check_port, Some(30_000));
    assert_eq!(service.ports[0].node_port, Some(30_080));
}

#[test]
fn addresses_that_are_none_are_left_out_of_what_an_api_server_gave() {
    let spec = json!({"clusterIPs": ["10.096.0.01"], "externalIPs": ["x", "192.0.2.1"], "ports": [{"port": 80}]});
    let service = service(json!({}), spec).unwrap();
    assert_eq!(service.cluster_ips, [ip("10.96.0.1")]);
    assert_eq!(service.external_ips, [ip("192.0.2.1")]);
}

#[test]
fn s13_n19_source_ranges_that_are_none_let_nobody_in() {
    let ranges = |ranges: Value| {
        let spec = json!({"clusterIP": "10.96.0.1", "loadBalancerSourceRanges": ranges, "ports": [{"port": 80}]});
        let service = service(json!({}), spec).unwrap();
        assert_eq!(service.cluster_ips, [ip("10.96.0.1")]);
        let ranges = service.source_ranges.iter();
        ranges.map(|range| range.to_string()).collect::<Vec<_>>()
    };
    assert_eq!(ranges(json!([])), [""; 0]);
    assert_eq!(ranges(json!(["x"])), ["0.0.0.0/32", "::/128"]);
    let some = json!(["x", "192.0.2.77/24"]);
    assert_eq!(ranges(some), ["0.0.0.0/32", "::/128", "192.0.2.0/24"]);
}

#[test]
fn n19_objects_are_used_as_far_as_they_are_understood() {
    let spec = json!({
        "clusterIPs": ["10.96.0.1"], "internalTrafficPolicy": "local", "sessionAffinity": "Client",
        "type": "Nodeport", "ports": [{"port": 0}, {"port": 80, "protocol": "tcp"}, {"port": 81}],
    });
    let object = typed("v1", "Service", json!({ "spec": spec }));
    let converted = convert::service(&object).unwrap();
    assert_eq!(converted.problems.len(), 5, "{:?}", converted.problems);
    let service = converted.value();
    assert_eq!(service.internal, TrafficPolicy::Cluster);
    assert_eq!(service.affinity, Affinity::None);
    assert_eq!(service.ports.len(), 1);

    // Nobody knows whether such a pod has ended, and its labels hold in any case.
    let status = json!({"phase": "Resting", "podIPs": [{"ip": "10.0.0.1"}, {"ip": "10.0.0.2"}, {"ip": "x"}]});
    let spec =
        json!({"containers": [{"name": "c", "ports": [{"containerPort": 99999, "name": "a"}]}]});
    let pod = pod(spec, status);
    assert_eq!(
        (pod.phase, pod.addresses),
        (PodPhase::Alive, vec![ip("10.0.0.1")])
    );

    let node = json!({
        "spec": {"podCIDRs": ["10.244.1.9/24", "10.244.2.0/24", "x"]},
        "status": {"addresses": [{"type": "InternalIP", "address": "x"}, {"type": "InternalIP", "address": "192.0.2.1"}]},
    });
    let node = convert::node(&typed("v1", "Node", node));
    assert_eq!(node.problems.len(), 3);
    let node = node.value();
    assert_eq!(node.addresses, [ip("192.0.2.1")]);
    assert_eq!(node.pod_ranges, ["10.244.1.0/24".parse().unwrap()]);
}

#[test]
fn pods_on_the_host_network_and_ended_ones_are_known_as_such() {
    let on_host = pod(
        json!({"hostNetwork": true, "nodeName": "n", "containers": []}),
        json!({}),
    );
    assert_eq!(
        (on_host.network, on_host.node.as_deref()),
        (PodNetwork::Host, Some("n"))
    );
    let status =
        |phase: &str| json!({"phase": phase, "podIPs": [{"ip": "10.0.0.1"}, {"ip": "fd00::1"}]});
    for (phase, expected) in [
        ("Pending", PodPhase::Alive),
        ("Running", PodPhase::Alive),
        ("Succeeded", PodPhase::Ended),
        ("Failed", PodPhase::Ended),
    ] {
        let pod = pod(json!({"containers": []}), status(phase));
        assert_eq!((pod.phase, pod.network), (expected, PodNetwork::Own));
        assert_eq!(pod.addresses, [ip("10.0.0.1"), ip("fd00::1")]);
    }
}

#[test]
fn n16_a_namespace_has_its_name_as_a_label_whatever_it_says() {
    let labels = json!({"labels": {"kubernetes.io/metadata.name": "other"}});
    let namespace = typed("v1", "Namespace", json!({ "metadata": labels }));
    let namespace = convert::namespace(&namespace).value();
    assert_eq!(
        namespace
            .labels
            .get("kubernetes.io/metadata.name")
            .map(|name| &**name),
        Some("a")
    );
}

#[test]
fn s7_a_nodes_taints_are_known_by_their_keys() {
    let key = "ToBeDeletedByClusterAutoscaler";
    let taint = json!({"key": key, "value": "1", "effect": "NoSchedule"});
    let node = typed("v1", "Node", json!({"spec": {"taints": [taint]}}));
    let taints = convert::node(&node).value().taints;
    assert_eq!(taints, [key.into()]);
    let node = typed("v1", "Node", json!({}));
    assert_eq!(convert::node(&node).value().taints, []);
}

#[test]
fn r7_a_service_cidrs_ranges_arrive_and_one_that_is_none_is_named() {
    let converted = |cidrs: Value| {
        let object = json!({"spec": {"cidrs": cidrs}});
        convert::service_cidr(&typed("networking.k8s.io/v1", "ServiceCIDR", object))
    };
    let both = converted(json!(["10.96.0.0/16", "fd96::/112"]));
    assert_eq!(both.problems, []);
    let both = both.value();
    assert_eq!((&*both.name, both.ranges.len()), ("a", 2));
    let one = converted(json!(["10.96.0.0/16", "everything"]));
    assert_eq!(one.problems.len(), 1);
    assert_eq!(one.value().ranges, ["10.96.0.0/16".parse().unwrap()]);
}
