//! Prints how long compiling takes at 10 000 services, 100 000 endpoints and 4 800 policies, and after one change.
//!
//! `cargo run --release -p podway-intent --example scale`

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use podway_intent::*;
use podway_wire::Protocol;

const SERVICES: u32 = 10_000;
const PODS_EACH: u32 = 10;
const NODES: u32 = 1_000;
const POLICIES: u32 = 4_800;

fn main() {
    let mut cluster = Cluster::default();
    let started = Instant::now();
    for number in 0..NODES {
        cluster.apply(Change::Node(node(number)));
    }
    for number in 0..SERVICES {
        cluster.apply(Change::Service(service(number)));
        cluster.apply(Change::EndpointSlice(slice(number, PODS_EACH)));
        for member in 0..PODS_EACH {
            cluster.apply(Change::Pod(pod(number * PODS_EACH + member)));
        }
    }
    for number in 0..POLICIES {
        cluster.apply(Change::NetworkPolicy(policy(number)));
    }
    println!("facts applied       {:>10.3?}", started.elapsed());
    let mut compiler = Compiler::new("node-7");
    let mut compile = |what: &str, cluster: &Cluster| {
        let started = Instant::now();
        let compiled = compiler.compile(cluster);
        println!("{what:<19} {:>10.3?}", started.elapsed());
        assert_eq!(compiled.problems, []);
    };
    compile("everything", &cluster);
    compile("nothing changed", &cluster);
    let mut change = |what: &str, change: Change| {
        cluster.apply(change);
        compile(what, &cluster);
    };
    change(
        "an endpoint",
        Change::EndpointSlice(slice(77, PODS_EACH - 1)),
    );
    change("a pod elsewhere", Change::Gone(Key::Pod(pod(78).name)));
    change("a new identity", Change::Pod(relabelled(pod(79))));
    change("a pod here", Change::Pod(relabelled(pod(7))));
    change(
        "a policy",
        Change::NetworkPolicy(NetworkPolicy {
            egress: Some(vec![]),
            ..policy(7)
        }),
    );
    change(
        "a node",
        Change::Node(Node {
            taints: Vec::new(),
            pod_ranges: vec![],
            ..node(9)
        }),
    );
}

fn named(namespace: u32, name: String) -> Name {
    Name {
        namespace: format!("ns-{}", namespace % 200).into(),
        name: name.into(),
    }
}

fn node(number: u32) -> Node {
    let range = format!("10.{}.{}.0/24", 64 + number / 256, number % 256);
    Node {
        name: format!("node-{number}").into(),
        labels: Labels::new(),
        addresses: vec![Ipv4Addr::from(0xac10_0001 + number).into()],
        taints: Vec::new(),
        pod_ranges: vec![range.parse().expect("range")],
    }
}

/// Pods are dealt to the nodes one by one.
fn address(pod: u32) -> IpAddr {
    let (node, place) = (pod % NODES, pod / NODES);
    IpAddr::from([10, (64 + node / 256) as u8, node as u8, 10 + place as u8])
}

fn pod(number: u32) -> Pod {
    let service = number / PODS_EACH;
    Pod {
        name: named(service, format!("pod-{number}")),
        uid: "".into(),
        node: Some(format!("node-{}", number % NODES).into()),
        labels: Labels::from([("app".into(), format!("app-{service}").into())]).into(),
        addresses: vec![address(number)],
        ports: [].into(),
        host_ports: Vec::new(),
        network: PodNetwork::Own,
        phase: PodPhase::Alive,
    }
}

fn relabelled(pod: Pod) -> Pod {
    let labels = Labels::from([("app".into(), "another".into())]).into();
    Pod { labels, ..pod }
}

fn service(number: u32) -> Service {
    Service {
        name: named(number, format!("service-{number}")),
        created_s: 0,
        cluster_ips: vec![Ipv4Addr::from(0x0a60_0001 + number).into()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![ServicePort {
            name: "".into(),
            protocol: Protocol::TCP,
            port: 80,
            node_port: None,
        }],
        internal: TrafficPolicy::Cluster,
        external: TrafficPolicy::Cluster,
        affinity: Affinity::None,
        health_check_port: None,
    }
}

fn slice(number: u32, count: u32) -> EndpointSlice {
    let endpoint = |member| Endpoint {
        address: address(number * PODS_EACH + member),
        serving: Serving::Ready,
        node: None,
        pod: None,
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
    };
    EndpointSlice {
        name: named(number, format!("slice-{number}")),
        service: named(number, format!("service-{number}")),
        ports: vec![SlicePort {
            name: "".into(),
            protocol: Protocol::TCP,
            port: 8080,
        }],
        endpoints: (0..count).map(endpoint).collect(),
    }
}

/// Each selects the pods of one service and lets in those of another, and all of one namespace.
fn policy(number: u32) -> NetworkPolicy {
    let app = |number: u32| Selector {
        requirements: vec![Requirement::In(
            "app".into(),
            vec![format!("app-{number}").into()],
        )],
    };
    let of_namespace = Requirement::In(
        "kubernetes.io/metadata.name".into(),
        vec![format!("ns-{}", number % 150).into()],
    );
    let peers = vec![
        PolicyPeer::Pods {
            namespaces: None,
            pods: app(number + 200),
        },
        PolicyPeer::Pods {
            namespaces: Some(Selector {
                requirements: vec![of_namespace],
            }),
            pods: Selector::default(),
        },
    ];
    let rule = PolicyRule {
        peers: Some(peers),
        ports: None,
    };
    NetworkPolicy {
        name: named(number, format!("policy-{number}")),
        subject: app(number),
        ingress: Some(vec![rule]),
        egress: None,
        mode: PolicyMode::Enforce,
    }
}
