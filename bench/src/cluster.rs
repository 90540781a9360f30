//! The cluster that is measured, built in code: one node's view of services whose endpoints are elsewhere and here.

use std::net::Ipv4Addr;
use std::sync::Arc;

use ipnet::{IpNet, Ipv4Net};
use podway_intent::{
    Affinity, Attachment, Change, Cluster, Compiled, Compiler, Endpoint, EndpointSlice, Labels,
    Name, Namespace, NetworkPolicy, Node, NodeSetup, Pod, PodNetwork, PodPhase, PolicyPeer,
    PolicyPort, PolicyRule, Ports, Requirement, Selector, Service, ServicePort, Serving, SlicePort,
    TrafficPolicy,
};
use podway_tables::PortId;
use podway_wire::{Mac, Protocol};

/// The device towards the other nodes.
pub(crate) const UPLINK: PortId = PortId(0);
/// The device towards the node's own stack.
pub(crate) const HOST: PortId = PortId(1);
/// The device of the pod that sends.
pub(crate) const CLIENT: PortId = PortId(2);
/// Devices of other pods here: this one and those after it.
const FIRST_LOCAL: u16 = 3;

pub(crate) const CLIENT_MAC: Mac = Mac([2, 0, 0, 0, 1, 5]);
pub(crate) const GATEWAY_MAC: Mac = Mac([2, 0, 0, 0, 1, 1]);
pub(crate) const UPLINK_MAC: Mac = Mac([2, 0, 0, 0, 2, 1]);
/// The next hop towards every other node.
pub(crate) const PEER_MAC: Mac = Mac([2, 0, 0, 0, 2, 2]);

pub(crate) const NODE: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 1);
/// The first of the other nodes; the others follow.
pub(crate) const PEER: Ipv4Addr = Ipv4Addr::new(192, 168, 77, 2);
pub(crate) const CLIENT_ADDRESS: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 5);
/// The first of the other pods here.
pub(crate) const FIRST_LOCAL_POD: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 20);
/// The cluster address of the first service whose endpoints are on other nodes.
pub(crate) const REMOTE_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 97, 0, 10);
/// The cluster address of the first service whose endpoints are here.
pub(crate) const LOCAL_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 0, 10);
/// The cluster address of a TCP service whose endpoint is the first pod here.
pub(crate) const LOCAL_TCP_SERVICE: Ipv4Addr = Ipv4Addr::new(10, 96, 1, 10);
/// What pods send everything to.
pub(crate) const GATEWAY: Ipv4Addr = Ipv4Addr::new(10, 244, 1, 1);
/// What clients dial, and where endpoints listen.
pub(crate) const SERVICE_PORT: u16 = 80;
pub(crate) const BACKEND_PORT: u16 = 8_080;

pub(crate) const VNI: u32 = 1;
pub(crate) const TUNNEL_PORT: u16 = 4_789;

/// Services that flows are spread over, and pods here: enough for a million flows of one client.
pub(crate) const TARGETS: u32 = 20;
/// Endpoints of each service.
pub(crate) const ENDPOINTS: u32 = 10;
/// Endpoints on each of the other nodes.
pub(crate) const ENDPOINTS_OF_NODE: u32 = 1_000;
/// The other nodes' pod ranges have this many addresses each.
const RANGE: u32 = 1_024;
const FIRST_RANGE: Ipv4Addr = Ipv4Addr::new(10, 128, 0, 0);
/// Rules of the client's own policy.
const RULES: u32 = 100;

/// How large the cluster is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Scale {
    /// Services with endpoints on other nodes.
    pub(crate) services: u32,
    /// Endpoints of each.
    pub(crate) endpoints: u32,
    /// Policies about other pods than the client.
    pub(crate) policies: u32,
}

/// What most measurements run in.
pub(crate) const SMALL: Scale = Scale {
    services: TARGETS,
    endpoints: ENDPOINTS,
    policies: 0,
};
/// The same with one endpoint each, so that what a flow is answered by is known beforehand.
pub(crate) const SINGLE: Scale = Scale {
    endpoints: 1,
    ..SMALL
};
/// Enough services for each packet of a measurement to begin a flow; their endpoints are on one node.
pub(crate) const FRESH: Scale = Scale {
    services: 100,
    ..SMALL
};
/// Ten thousand endpoints, which change while others are measured.
pub(crate) const CHANGING: Scale = Scale {
    services: 1_000,
    ..SMALL
};
/// What the goals for misses are stated for (PERFORMANCE): 100 000 endpoints.
pub(crate) const LARGE: Scale = Scale {
    services: 10_000,
    endpoints: ENDPOINTS,
    policies: 4_800,
};

/// Whether the client is isolated.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Isolation {
    /// No policy selects it.
    Open,
    /// A policy of a hundred egress rules selects it; the last one allows what it sends.
    Isolated,
}

/// This node's tables.
pub(crate) fn compiled(scale: Scale, isolation: Isolation) -> Compiled {
    Compiler::new("here").compile(&facts(scale, isolation))
}

/// What this node knows of its cluster.
pub(crate) fn facts(scale: Scale, isolation: Isolation) -> Cluster {
    let mut cluster = Cluster::default();
    for change in changes(scale, isolation) {
        cluster.apply(change);
    }
    cluster
}

/// What this node knows of a cluster that has a TCP service, too; nobody is isolated.
pub(crate) fn with_tcp() -> Cluster {
    let mut cluster = facts(SMALL, Isolation::Open);
    let ends = vec![ready(FIRST_LOCAL_POD, "here", "local-0")];
    for change in service("tcp", LOCAL_TCP_SERVICE, ends, Protocol::TCP) {
        cluster.apply(change);
    }
    cluster
}

/// The device of one of the other pods here.
pub(crate) fn local_port(index: u32) -> PortId {
    PortId(FIRST_LOCAL + index as u16)
}

/// The Ethernet address of one of the other pods here.
pub(crate) fn local_mac(index: u32) -> Mac {
    Mac([2, 0, 0, 0, 3, index as u8])
}

/// The address of an endpoint on another node.
pub(crate) fn endpoint(index: u32) -> Ipv4Addr {
    let (node, place) = (index / ENDPOINTS_OF_NODE, index % ENDPOINTS_OF_NODE);
    after(FIRST_RANGE, node * RANGE + 2 + place)
}

/// The pod range of another node.
pub(crate) fn range(node: u32) -> Ipv4Net {
    Ipv4Net::new(after(FIRST_RANGE, node * RANGE), 22).expect("22 is a prefix length")
}

/// The address that comes `count` after another.
pub(crate) fn after(first: Ipv4Addr, count: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(first) + count)
}

fn changes(scale: Scale, isolation: Isolation) -> Vec<Change> {
    let mut all = vec![
        Change::Setup(setup()),
        Change::Namespace(Namespace {
            name: "bench".into(),
            labels: labels(&[("kubernetes.io/metadata.name", "bench")]),
            phase: Default::default(),
        }),
        Change::Node(node(
            "here",
            NODE,
            Ipv4Net::new(Ipv4Addr::new(10, 244, 1, 0), 24).expect("prefix"),
        )),
    ];
    let endpoints = scale.services * scale.endpoints;
    for peer in 0..endpoints.div_ceil(ENDPOINTS_OF_NODE) {
        let address = after(PEER, peer);
        all.push(Change::Node(node(&peer_name(peer), address, range(peer))));
        all.push(Change::Neighbour(address.into(), PEER_MAC));
    }
    all.extend(local_pod(
        "client",
        CLIENT_ADDRESS,
        CLIENT,
        CLIENT_MAC,
        &[("role", "client")],
    ));
    for index in 0..TARGETS {
        let (mac, port) = (local_mac(index), local_port(index));
        let address = after(FIRST_LOCAL_POD, index);
        all.extend(local_pod(
            &format!("local-{index}"),
            address,
            port,
            mac,
            &[("role", "local")],
        ));
        let endpoint = ready(address, "here", &format!("local-{index}"));
        all.extend(service(
            &format!("local-{index}"),
            after(LOCAL_SERVICE, index),
            vec![endpoint],
            Protocol::UDP,
        ));
    }
    for index in 0..scale.services {
        let name = remote_name(index);
        for member in index * scale.endpoints..(index + 1) * scale.endpoints {
            let own = labels(&[("tier", "backend"), ("app", &name)]);
            let home = peer_name(member / ENDPOINTS_OF_NODE);
            let pod = this_pod(&remote_pod(member), &home, endpoint(member), own);
            all.push(Change::Pod(pod));
        }
        let (address, ends) = (after(REMOTE_SERVICE, index), remote_ends(scale, index));
        all.extend(service(&name, address, ends, Protocol::UDP));
    }
    all.extend((0..scale.policies).map(|index| Change::NetworkPolicy(policy_of_others(index))));
    if isolation == Isolation::Isolated {
        all.push(Change::NetworkPolicy(policy_of_client()));
    }
    all
}

fn remote_name(index: u32) -> String {
    format!("remote-{index}")
}

fn remote_pod(member: u32) -> String {
    format!("pod-{member}")
}

fn remote_ends(scale: Scale, service: u32) -> Vec<Endpoint> {
    (service * scale.endpoints..(service + 1) * scale.endpoints)
        .map(|member| {
            let home = peer_name(member / ENDPOINTS_OF_NODE);
            ready(endpoint(member), &home, &remote_pod(member))
        })
        .collect()
}

/// One endpoint of a service turned to something else, the others ready.
pub(crate) fn turned(scale: Scale, service: u32, place: u32, serving: Serving) -> Change {
    let mut ends = remote_ends(scale, service);
    ends[place as usize].serving = serving;
    Change::EndpointSlice(slice(&remote_name(service), ends, Protocol::UDP))
}

/// What the node itself says.
pub(crate) fn setup() -> NodeSetup {
    let range = |text: &str| text.parse().expect("a range");
    NodeSetup {
        uplink: Some((UPLINK, UPLINK_MAC, 1_500)),
        host: Some((HOST, Mac([2, 0, 0, 0, 1, 2]), 1_500)),
        gateway_mac: GATEWAY_MAC,
        vni: VNI,
        tunnel_port: TUNNEL_PORT,
        service_ranges: vec![range("10.96.0.0/15")],
        ..NodeSetup::default()
    }
}

fn node(name: &str, address: Ipv4Addr, range: Ipv4Net) -> Node {
    Node {
        name: name.into(),
        labels: Labels::new(),
        addresses: vec![address.into()],
        taints: Vec::new(),
        pod_ranges: vec![range.into()],
    }
}

/// What another node is called.
pub(crate) fn peer_name(index: u32) -> String {
    format!("there-{index}")
}

fn local_pod(
    name: &str,
    address: Ipv4Addr,
    port: PortId,
    mac: Mac,
    own: &[(&str, &str)],
) -> [Change; 2] {
    let pod = this_pod(name, "here", address, labels(own));
    let attachment = Attachment {
        pod: pod.name.clone(),
        port,
        mac,
        mtu: 1_500,
        addresses: Vec::new(),
    };
    [Change::Pod(pod), Change::Attachment(attachment)]
}

fn this_pod(name: &str, node: &str, address: Ipv4Addr, labels: Labels) -> Pod {
    Pod {
        name: named(name),
        uid: name.into(),
        node: Some(node.into()),
        labels: labels.into(),
        addresses: vec![address.into()],
        ports: [].into(),
        host_ports: Vec::new(),
        network: PodNetwork::Own,
        phase: PodPhase::Alive,
    }
}

fn service(
    name: &str,
    address: Ipv4Addr,
    endpoints: Vec<Endpoint>,
    protocol: Protocol,
) -> [Change; 2] {
    let service = Service {
        name: named(name),
        created_s: 0,
        cluster_ips: vec![address.into()],
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![ServicePort {
            name: "".into(),
            protocol,
            port: SERVICE_PORT,
            node_port: None,
        }],
        internal: TrafficPolicy::Cluster,
        external: TrafficPolicy::Cluster,
        affinity: Affinity::None,
        health_check_port: None,
    };
    let slice = slice(name, endpoints, protocol);
    [Change::Service(service), Change::EndpointSlice(slice)]
}

fn slice(service: &str, endpoints: Vec<Endpoint>, protocol: Protocol) -> EndpointSlice {
    EndpointSlice {
        name: named(&format!("{service}-1")),
        service: named(service),
        ports: vec![SlicePort {
            name: "".into(),
            protocol,
            port: BACKEND_PORT,
        }],
        endpoints,
    }
}

fn ready(address: Ipv4Addr, node: &str, pod: &str) -> Endpoint {
    Endpoint {
        address: address.into(),
        serving: Serving::Ready,
        node: Some(node.into()),
        pod: Some(named(pod)),
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
    }
}

/// A hundred rules: ranges that are nobody's, and at last the backends.
fn policy_of_client() -> NetworkPolicy {
    let port = |port| {
        Some(vec![PolicyPort {
            protocol: Protocol::UDP,
            ports: Ports::Range(port, port),
        }])
    };
    let nobody = (1..RULES).map(|index| PolicyRule {
        peers: Some(vec![PolicyPeer::Block {
            range: block(index),
            except: Vec::new(),
        }]),
        ports: port(9_000 + index as u16),
    });
    let backends = [("tier", "backend"), ("role", "local")].map(|(key, value)| PolicyPeer::Pods {
        namespaces: None,
        pods: having(key, value),
    });
    let last = PolicyRule {
        peers: Some(backends.into()),
        ports: port(BACKEND_PORT),
    };
    NetworkPolicy {
        name: named("client"),
        subject: having("role", "client"),
        ingress: None,
        egress: Some(nobody.chain([last]).collect()),
        mode: Default::default(),
    }
}

fn block(index: u32) -> IpNet {
    Ipv4Net::new(Ipv4Addr::from(0xcb00_0000 + (index << 8)), 24)
        .expect("24 is a prefix length")
        .into()
}

fn policy_of_others(index: u32) -> NetworkPolicy {
    let app = format!("remote-{index}");
    let rule = PolicyRule {
        peers: Some(vec![PolicyPeer::Pods {
            namespaces: None,
            pods: having("role", "client"),
        }]),
        ports: Some(vec![PolicyPort {
            protocol: Protocol::UDP,
            ports: Ports::Range(BACKEND_PORT, BACKEND_PORT),
        }]),
    };
    NetworkPolicy {
        name: named(&format!("allow-{index}")),
        subject: having("app", &app),
        ingress: Some(vec![rule]),
        egress: None,
        mode: Default::default(),
    }
}

fn having(key: &str, value: &str) -> Selector {
    Selector {
        requirements: vec![Requirement::In(key.into(), vec![value.into()])],
    }
}

fn labels(pairs: &[(&str, &str)]) -> Labels {
    pairs
        .iter()
        .map(|&(key, value)| (Arc::from(key), Arc::from(value)))
        .collect()
}

fn named(name: &str) -> Name {
    Name {
        namespace: "bench".into(),
        name: name.into(),
    }
}

/// What the XDP program is told of all this.
pub(crate) fn plan(compiled: &Compiled) -> podway_xsk::Plan {
    let plan = &compiled.plan;
    podway_xsk::Plan {
        direct: plan.direct.clone(),
        local: plan.local.clone(),
        node_addresses: plan.node_addresses.clone(),
        tunnel_port: Some(plan.tunnel_port),
        node_ports: plan.node_ports.clone(),
        snat_ports: None,
        ..podway_xsk::Plan::default()
    }
}
