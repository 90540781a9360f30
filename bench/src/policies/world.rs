//! A cluster of 2 400 pods in 240 namespaces, with 20 policies in each: ports, ranges, namespaces, pods and CIDRs.

use std::net::{IpAddr, Ipv4Addr};

use podway_intent::*;
use podway_tables::PortId;
use podway_wire::{Mac, Protocol};

use crate::cluster::{GATEWAY_MAC, NODE, PEER, PEER_MAC, TUNNEL_PORT, UPLINK, UPLINK_MAC, VNI};

const NAMESPACES: u32 = 240;
/// The namespaces whose pods are on this node; those of the others are on another.
const HERE: u32 = 200;
pub(crate) const PODS_EACH: u32 = 10;
pub(crate) const POLICIES_EACH: u32 = 20;
/// Of each kind in a rule: ports, ranges, namespaces, pods, CIDRs.
const OF_EACH: u32 = 5;
/// The device of the first pod; those after it are the next pods'.
const FIRST_PORT: u16 = 2;

/// The device and Ethernet address of one of the first namespace's pods.
pub(crate) fn device(pod: u32) -> (PortId, Mac) {
    let port = PortId(FIRST_PORT + pod as u16);
    (port, Mac([2, 0, 0, 0, 9, pod as u8]))
}

/// The cluster with those of its policies that `has` is true of, by number; 20 in a row are of one namespace.
pub(crate) fn cluster(has: impl Fn(u32) -> bool) -> Cluster {
    let mut cluster = Cluster::default();
    cluster.apply(Change::Setup(NodeSetup {
        uplink: Some((UPLINK, UPLINK_MAC, 1_500)),
        gateway_mac: GATEWAY_MAC,
        vni: VNI,
        tunnel_port: TUNNEL_PORT,
        ..NodeSetup::default()
    }));
    for (name, address, range) in [
        ("here", NODE, "10.64.0.0/18"),
        ("there", PEER, "10.65.0.0/18"),
    ] {
        cluster.apply(Change::Node(Node {
            name: name.into(),
            labels: Labels::new(),
            addresses: vec![address.into()],
            taints: Vec::new(),
            pod_ranges: vec![range.parse().expect("a range")],
        }));
    }
    cluster.apply(Change::Neighbour(PEER.into(), PEER_MAC));
    for number in 0..NAMESPACES {
        cluster.apply(Change::Namespace(namespace(number)));
    }
    for number in 0..NAMESPACES * PODS_EACH {
        cluster.apply(Change::Pod(pod(number)));
    }
    for number in 0..PODS_EACH {
        let (port, mac) = device(number);
        cluster.apply(Change::Attachment(Attachment {
            pod: pod(number).name,
            port,
            mac,
            mtu: 61_000,
            addresses: Vec::new(),
        }));
    }
    for number in (0..NAMESPACES * POLICIES_EACH).filter(|number| has(*number)) {
        cluster.apply(Change::NetworkPolicy(policy(number)));
    }
    cluster
}

/// Pods on the other node that a policy lets its own pods send to, and the ports at which.
pub(crate) fn allowed(number: u32) -> Vec<(Ipv4Addr, u16)> {
    let ports: Vec<u16> = (0..OF_EACH)
        .map(|index| first_port(mixed(number, index)))
        .collect();
    let namespaces = (0..OF_EACH).map(|index| mixed(number, index) % NAMESPACES);
    let remote = namespaces.filter(|namespace| *namespace >= HERE);
    let pods =
        remote.flat_map(|namespace| (0..PODS_EACH).map(move |pod| namespace * PODS_EACH + pod));
    pods.flat_map(|pod| ports.iter().map(move |port| (address(pod), *port)))
        .collect()
}

/// A pod with other labels.
pub(crate) fn relabelled(number: u32) -> Pod {
    Pod {
        labels: Labels::from([("app".into(), "another".into())]).into(),
        ..pod(number)
    }
}

fn in_namespace(number: u32, name: String) -> Name {
    Name {
        namespace: format!("ns-{number}").into(),
        name: name.into(),
    }
}

fn namespace(number: u32) -> Namespace {
    let name = format!("ns-{number}").into();
    let team = format!("team-{}", number % 40);
    Namespace {
        name,
        labels: [("team".into(), team.into())].into(),
        phase: NamespacePhase::Active,
    }
}

pub(crate) fn address(pod: u32) -> Ipv4Addr {
    let first: u32 = if pod / PODS_EACH < HERE {
        0x0a40_000a
    } else {
        0x0a41_000a
    };
    Ipv4Addr::from(first + pod)
}

/// Something that differs from policy to policy and from one item of its lists to the next.
fn mixed(policy: u32, index: u32) -> u32 {
    policy
        .wrapping_mul(2_654_435_761)
        .wrapping_add(index * 40_503)
        >> 7
}

fn first_port(mixed: u32) -> u16 {
    (1 + mixed % 60_000) as u16
}

/// Each has labels of its own.
pub(crate) fn pod(number: u32) -> Pod {
    let app = format!("app-{}", number % PODS_EACH);
    let own = format!("pod-{number}");
    Pod {
        name: in_namespace(number / PODS_EACH, own.clone()),
        uid: "".into(),
        node: Some(
            if number / PODS_EACH < HERE {
                "here"
            } else {
                "there"
            }
            .into(),
        ),
        labels: Labels::from([("app".into(), app.into()), ("pod".into(), own.into())]).into(),
        addresses: vec![IpAddr::from(address(number))],
        ports: [].into(),
        network: PodNetwork::Own,
        host_ports: Vec::new(),
        phase: PodPhase::Alive,
    }
}

/// Each selects all pods of its namespace.
pub(crate) fn policy(number: u32) -> NetworkPolicy {
    let one_of = |key: &str, value: String| Selector {
        requirements: vec![Requirement::In(key.into(), vec![value.into()])],
    };
    let by_name = "kubernetes.io/metadata.name";
    let mut peers = Vec::new();
    let mut ports = Vec::new();
    for index in 0..OF_EACH {
        let mixed = mixed(number, index);
        peers.push(PolicyPeer::Pods {
            namespaces: Some(one_of(by_name, format!("ns-{}", mixed % NAMESPACES))),
            pods: Selector::default(),
        });
        peers.push(PolicyPeer::Pods {
            namespaces: Some(one_of("team", format!("team-{}", mixed % 40))),
            pods: one_of("app", format!("app-{}", mixed % PODS_EACH)),
        });
        let range = format!("{}.{}.0.0/{}", 11 + mixed % 200, index, 16 + mixed % 8);
        peers.push(PolicyPeer::Block {
            range: range.parse().expect("range"),
            except: Vec::new(),
        });
        let first = first_port(mixed);
        for last in [first, first + 1 + (mixed % 500) as u16] {
            ports.push(PolicyPort {
                protocol: Protocol::UDP,
                ports: Ports::Range(first, last),
            });
        }
    }
    let rules = vec![PolicyRule {
        peers: Some(peers),
        ports: Some(ports),
    }];
    NetworkPolicy {
        name: in_namespace(number / POLICIES_EACH, format!("policy-{number}")),
        subject: Selector::default(),
        ingress: Some(rules.clone()),
        egress: Some(rules),
        mode: PolicyMode::Enforce,
    }
}
