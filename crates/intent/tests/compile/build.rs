//! Short ways to write objects down.

use std::net::IpAddr;
use std::sync::Arc;

use ipnet::IpNet;
use podway_intent::*;
use podway_tables::PortId;
use podway_wire::{Addr, Mac, Protocol};

pub(crate) fn name(text: &str) -> Name {
    let (namespace, name) = text.split_once('/').expect("namespace/name");
    Name {
        namespace: namespace.into(),
        name: name.into(),
    }
}

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().expect("address")
}

pub(crate) fn addr(text: &str) -> Addr {
    ip(text).into()
}

pub(crate) fn net(text: &str) -> IpNet {
    text.parse().expect("range")
}

pub(crate) fn ips(text: &str) -> Vec<IpAddr> {
    text.split_whitespace().map(ip).collect()
}

/// `key=value key=value`.
pub(crate) fn labels(text: &str) -> Labels {
    let pairs = text.split_whitespace();
    let split = pairs.map(|pair| pair.split_once('=').expect("key=value"));
    split
        .map(|(key, value)| (key.into(), value.into()))
        .collect()
}

/// A selector as `matchLabels`.
pub(crate) fn selector(text: &str) -> Selector {
    let requirements = labels(text).into_iter();
    Selector {
        requirements: requirements
            .map(|(key, value)| Requirement::In(key, vec![value]))
            .collect(),
    }
}

pub(crate) fn node(name: &str, addresses: &str, ranges: &str) -> Change {
    Change::Node(Node {
        name: name.into(),
        labels: Labels::new(),
        addresses: ips(addresses),
        taints: Vec::new(),
        pod_ranges: ranges.split_whitespace().map(net).collect(),
    })
}

pub(crate) fn namespace(name: &str, text: &str) -> Change {
    Change::Namespace(Namespace {
        name: name.into(),
        labels: labels(text),
        phase: NamespacePhase::Active,
    })
}

pub(crate) fn pod(pod: &str, node: &str, addresses: &str, text: &str) -> Pod {
    Pod {
        name: name(pod),
        uid: "".into(),
        node: Some(node.into()),
        labels: labels(text).into(),
        addresses: ips(addresses),
        ports: [].into(),
        host_ports: Vec::new(),
        network: PodNetwork::Own,
        phase: PodPhase::Alive,
    }
}

pub(crate) fn named(port: &str, protocol: Protocol, number: u16) -> NamedPort {
    NamedPort {
        name: port.into(),
        protocol,
        port: number,
    }
}

pub(crate) fn attachment(pod: &str, port: u16) -> Change {
    Change::Attachment(Attachment {
        pod: name(pod),
        port: PortId(port),
        mac: Mac([2, 0, 0, 0, 0, port as u8]),
        mtu: 9000,
        addresses: Vec::new(),
    })
}

pub(crate) fn setup() -> NodeSetup {
    NodeSetup {
        uplink: Some((PortId(0), Mac([2, 1, 0, 0, 0, 0]), 1500)),
        host: Some((PortId(1), Mac([2, 1, 0, 0, 0, 1]), 65_000)),
        gateway_mac: Mac([2, 1, 0, 0, 0, 2]),
        vni: 4096,
        tunnel_port: 4789,
        service_ranges: vec![net("10.96.0.0/16"), net("fd96::/112")],
        ..NodeSetup::default()
    }
}

/// An uplink at a port that the kernel knows by this number.
pub(crate) fn uplink(port: u16, device: u32, mtu: u32) -> Uplink {
    Uplink {
        port: PortId(port),
        device,
        mac: Mac([2, 1, 0, 0, 1, port as u8]),
        mtu,
    }
}

/// A service with one port, 80/TCP without a name.
pub(crate) fn service(service: &str, cluster_ips: &str) -> Service {
    Service {
        name: name(service),
        created_s: 0,
        cluster_ips: ips(cluster_ips),
        external_ips: Vec::new(),
        load_balancer_ips: Vec::new(),
        source_ranges: Vec::new(),
        ports: vec![service_port("", Protocol::TCP, 80)],
        internal: TrafficPolicy::Cluster,
        external: TrafficPolicy::Cluster,
        affinity: Affinity::None,
        health_check_port: None,
    }
}

pub(crate) fn service_port(port: &str, protocol: Protocol, number: u16) -> ServicePort {
    ServicePort {
        name: port.into(),
        protocol,
        port: number,
        node_port: None,
    }
}

/// A slice with one port, 8080/TCP without a name.
pub(crate) fn slice(slice: &str, service: &str, endpoints: Vec<Endpoint>) -> EndpointSlice {
    EndpointSlice {
        name: name(slice),
        service: name(service),
        ports: vec![SlicePort {
            name: "".into(),
            protocol: Protocol::TCP,
            port: 8080,
        }],
        endpoints,
    }
}

pub(crate) fn endpoint(address: &str, node: &str, serving: Serving) -> Endpoint {
    Endpoint {
        address: ip(address),
        serving,
        node: Some(Arc::from(node)),
        pod: None,
        zone_hints: Vec::new(),
        node_hints: Vec::new(),
    }
}

pub(crate) fn cluster(changes: impl IntoIterator<Item = Change>) -> Cluster {
    let mut cluster = Cluster::default();
    changes.into_iter().for_each(|change| cluster.apply(change));
    cluster
}
