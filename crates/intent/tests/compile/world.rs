//! Small clusters at random: few names, so that objects meet.

use std::sync::Arc;

use podway_intent::*;
use podway_tables::{NoWay, Upkeep};
use podway_wire::{Mac, Protocol};
use proptest::prelude::*;
use proptest::sample::select;

use crate::build::{self, ip, name, named, net};
use crate::tier_world::{cluster_policy, cluster_policy_key, mode};

/// The node that the tests compile for.
pub(crate) const NODE: &str = "n1";

/// The address that pods of different names fight for.
pub(crate) const SHARED: &str = "10.244.1.99";

const NAMESPACES: [&str; 3] = ["a", "b", "c"];
const PODS: u8 = 8;

/// Addresses worth asking about: pods', nodes', gateways' and others.
pub(crate) fn probes() -> Vec<std::net::IpAddr> {
    let mut all = build::ips(
        "10.244.1.0 10.244.1.1 10.244.1.200 10.244.2.7 10.244.3.7 192.168.0.1 192.168.0.2 192.168.0.9 8.8.8.8 fd00::1 10.96.0.1 10.96.0.9",
    );
    for number in 0..PODS {
        all.extend([1, 2, 3].map(|node| ip(&pod_address(node, number))));
        all.push(ip(&pod_address_v6(1 + number % 3, number)));
    }
    all.push(ip(SHARED));
    all
}

fn pod_address(node: u8, number: u8) -> String {
    format!("10.244.{node}.{}", 10 + number)
}

fn pod_address_v6(node: u8, number: u8) -> String {
    format!("fd44:0:0:{node}::{}", 10 + number)
}

pub(crate) fn protocol() -> impl Strategy<Value = Protocol> {
    select(vec![Protocol::TCP, Protocol::UDP, Protocol::SCTP])
}

/// A port's name and protocol, mostly the same, so that services and slices join.
fn joint() -> impl Strategy<Value = (&'static str, Protocol)> {
    prop_oneof![
        3 => Just(("", Protocol::TCP)),
        1 => (select(vec!["", "dns"]), protocol()),
    ]
}

fn labels() -> impl Strategy<Value = Labels> {
    select(vec!["", "app=x", "app=y", "app=x tier=z", "tier=z"]).prop_map(build::labels)
}

pub(crate) fn any_selector() -> impl Strategy<Value = Selector> {
    let key = || select(vec!["app", "tier", "kubernetes.io/metadata.name"]);
    let values = || prop::collection::vec(select(vec!["x", "y", "z", "a"]), 0..3);
    let arcs = |values: Vec<&str>| values.into_iter().map(Arc::from).collect::<Vec<_>>();
    let one = prop_oneof![
        (key(), values()).prop_map(move |(key, all)| Requirement::In(key.into(), arcs(all))),
        (key(), values()).prop_map(move |(key, all)| Requirement::NotIn(key.into(), arcs(all))),
        key().prop_map(|key| Requirement::Exists(key.into())),
        key().prop_map(|key| Requirement::Absent(key.into())),
    ];
    prop::collection::vec(one, 0..2).prop_map(|requirements| Selector { requirements })
}

fn node() -> impl Strategy<Value = Change> {
    let range = select(vec!["", "10.244.1.0/24", "10.244.2.0/24", "10.244.3.0/24"]);
    let zone = select(vec!["", "za", "zb"]);
    (1u8..=3, any::<bool>(), range, zone).prop_map(|(number, usual, range, zone)| {
        let own = format!("10.244.{number}.0/24");
        let addresses = match usual {
            true => format!("192.168.0.{number}"),
            false => format!("192.168.0.9 fd00::{number}"),
        };
        let range = if usual { &own } else { range };
        let named = build::node(&format!("n{number}"), &addresses, range);
        let Change::Node(node) = named else {
            panic!("a node");
        };
        let labels = build::labels(&format!("topology.kubernetes.io/zone={zone}"));
        Change::Node(Node { labels, ..node })
    })
}

/// A pod; on its own address or, if `clash` says so, on one that others want.
fn pod(clash: u32) -> impl Strategy<Value = Pod> {
    let ports = prop::collection::vec(
        (protocol(), select(vec![80, 81])).prop_map(|(it, port)| named("web", it, port)),
        0..2,
    );
    let life = select(vec![PodPhase::Alive, PodPhase::Leaving, PodPhase::Ended]);
    let network = select(vec![PodNetwork::Own, PodNetwork::Own, PodNetwork::Host]);
    let shared = prop::bool::weighted(f64::from(clash) / 10.0);
    let place = (0..PODS, 1u8..=3, shared);
    (
        place,
        labels(),
        ports,
        life,
        prop::collection::vec(host_port(), 0..2),
        network,
        select(vec!["u", "v"]),
    )
        .prop_map(
            |((number, node, shared), labels, ports, phase, host_ports, network, uid)| {
                let address = match shared {
                    true => SHARED.to_owned(),
                    false => {
                        let (v4, v6) = (pod_address(node, number), pod_address_v6(node, number));
                        format!("{v4} {v6}")
                    }
                };
                Pod {
                    uid: uid.into(),
                    labels: labels.into(),
                    ports: ports.into(),
                    phase,
                    host_ports,
                    network,
                    ..build::pod(&pod_name(number), &format!("n{node}"), &address, "")
                }
            },
        )
}

/// A host port that services' node ports may want, too.
fn host_port() -> impl Strategy<Value = HostPort> {
    let ip = select(vec![None, Some("192.168.0.1"), Some("192.168.0.77")]);
    (ip, protocol(), select(vec![30_080, 30_081, 8080])).prop_map(|(ip, protocol, port)| HostPort {
        ip: ip.map(build::ip),
        protocol,
        port,
        target: 80,
    })
}

fn pod_name(number: u8) -> String {
    let namespace = NAMESPACES[usize::from(number) % NAMESPACES.len()];
    format!("{namespace}/p{number}")
}

fn policy() -> impl Strategy<Value = NetworkPolicy> {
    let block = || {
        select(vec![
            "0.0.0.0/0",
            "10.244.0.0/16",
            "10.244.2.0/24",
            "10.244.2.12/32",
        ])
    };
    let peer = prop_oneof![
        (prop::option::of(any_selector()), any_selector())
            .prop_map(|(namespaces, pods)| PolicyPeer::Pods { namespaces, pods }),
        (block(), prop::collection::vec(block(), 0..2)).prop_map(|(range, except)| {
            let except = except.into_iter().map(net).collect();
            PolicyPeer::Block {
                range: net(range),
                except,
            }
        }),
    ];
    let ports = prop_oneof![
        Just(Ports::All),
        Just(Ports::Range(80, 80)),
        Just(Ports::Range(81, 8080)),
        Just(Ports::Named("web".into())),
    ];
    let port = (protocol(), ports).prop_map(|(protocol, ports)| PolicyPort { protocol, ports });
    let rule = (
        prop::option::of(prop::collection::vec(peer, 0..3)),
        prop::option::of(prop::collection::vec(port, 0..3)),
    );
    let rule = rule.prop_map(|(peers, ports)| PolicyRule { peers, ports });
    let rules = prop::option::of(prop::collection::vec(rule, 0..3)).boxed();
    let place = (select(NAMESPACES.to_vec()), 0u8..3);
    (place, any_selector(), rules.clone(), rules, mode()).prop_map(
        |((namespace, number), subject, ingress, egress, mode)| NetworkPolicy {
            name: name(&format!("{namespace}/policy{number}")),
            subject,
            ingress,
            egress,
            mode,
        },
    )
}

fn traffic() -> impl Strategy<Value = TrafficPolicy> {
    select(vec![TrafficPolicy::Cluster, TrafficPolicy::Local])
}

fn service() -> impl Strategy<Value = Service> {
    let ports = prop::collection::vec((joint(), select(vec![53, 80])), 0..3);
    let vips = select(vec![
        "10.96.0.1",
        "10.96.0.2",
        "10.96.0.1 fd96::1",
        "fd96::2",
    ]);
    let outward = (
        select(vec!["", "198.51.100.1", "198.51.100.2 192.168.0.1"]),
        select(vec!["", "198.51.100.1", "8.8.8.8"]),
        select(vec![None, Some(30_000), Some(30_001)]),
        traffic(),
    );
    (0u8..4, 0i64..3, vips, ports, traffic(), outward).prop_map(
        |(number, created_s, vips, ports, internal, outward)| {
            let (balancers, external_ips, node_port, external) = outward;
            let port = |((name, protocol), port)| ServicePort {
                node_port,
                ..build::service_port(name, protocol, port)
            };
            Service {
                created_s,
                internal,
                external,
                external_ips: build::ips(external_ips),
                load_balancer_ips: build::ips(balancers)
                    .into_iter()
                    .map(|ip| (ip, IpMode::Vip))
                    .collect(),
                ports: ports.into_iter().map(port).collect(),
                ..build::service(&format!("a/s{number}"), vips)
            }
        },
    )
}

fn slice() -> impl Strategy<Value = EndpointSlice> {
    let serving = select(vec![Serving::Ready, Serving::Terminating, Serving::No]);
    let address = select(vec![
        "10.244.1.10",
        "10.244.2.11",
        "10.244.2.12",
        "fd01::1",
        "127.0.0.1",
    ]);
    let hints = select(vec!["", "", "za", "zb"]);
    let endpoint = (address, select(vec!["n1", "n2"]), serving, hints).prop_map(
        |(addr, node, serving, zone)| Endpoint {
            zone_hints: zone.split_whitespace().map(Into::into).collect(),
            ..build::endpoint(addr, node, serving)
        },
    );
    let port = (joint(), select(vec![5353, 8080]));
    let port = port.prop_map(|((name, protocol), port)| SlicePort {
        name: name.into(),
        protocol,
        port,
    });
    let ports = prop::collection::vec(port, 0..3);
    (0u8..6, 0u8..4, ports, prop::collection::vec(endpoint, 0..4)).prop_map(
        |(number, service, ports, endpoints)| EndpointSlice {
            ports,
            ..build::slice(&format!("a/e{number}"), &format!("a/s{service}"), endpoints)
        },
    )
}

fn namespace() -> impl Strategy<Value = Change> {
    let names = select(NAMESPACES.to_vec());
    (names, labels()).prop_map(|(name, labels)| {
        let name = name.into();
        let phase = NamespacePhase::Active;
        Change::Namespace(Namespace {
            name,
            labels,
            phase,
        })
    })
}

fn gone() -> impl Strategy<Value = Change> {
    let key = prop_oneof![
        (1u8..=3).prop_map(|number| Key::Node(format!("n{number}").into())),
        select(NAMESPACES.to_vec()).prop_map(|it| Key::Namespace(it.into())),
        (0..PODS).prop_map(|number| Key::Pod(name(&pod_name(number)))),
        (0u8..4).prop_map(|number| Key::Service(name(&format!("a/s{number}")))),
        (0u8..6).prop_map(|number| Key::EndpointSlice(name(&format!("a/e{number}")))),
        (0u8..3).prop_map(|number| Key::NetworkPolicy(name(&format!("a/policy{number}")))),
        (0..PODS).prop_map(|number| Key::Attachment(name(&pod_name(number)))),
        (1u8..=3).prop_map(|number| Key::Neighbour(ip(&format!("192.168.0.{number}")))),
        cluster_policy_key(),
        route_key().prop_map(Key::Route),
        link_address().prop_map(Key::LinkNeighbour),
        own_address().prop_map(Key::OwnAddress),
    ];
    key.prop_map(Change::Gone)
}

/// Routes whose ranges nest and repeat, in two tables; one that a probe is in.
fn route_key() -> impl Strategy<Value = RouteKey> {
    let ranges = [
        "0.0.0.0/0",
        "192.168.0.0/24",
        "192.168.0.2/32",
        "::/0",
        "10.250.0.0/16",
    ];
    let range = select(ranges.map(net).to_vec());
    (0u8..2, range).prop_map(|(table, range)| RouteKey { table, range })
}

fn host_route() -> impl Strategy<Value = HostRoute> {
    let device = select(vec![7, 8, 9]);
    let leads = (device, 0u8..6).prop_map(|(device, kind)| match kind {
        0 | 1 => RouteLeads::Gateway {
            device,
            address: ip("192.168.0.3"),
        },
        2 | 3 => RouteLeads::Link { device },
        4 => RouteLeads::Refused(NoWay::Prohibited),
        _ => RouteLeads::Onwards,
    });
    let source = select(vec![None, Some(ip("192.168.0.1"))]);
    let mtu = select(vec![None, Some(1400)]);
    (leads, source, mtu).prop_map(|(leads, source, mtu)| HostRoute { leads, source, mtu })
}

fn link_address() -> impl Strategy<Value = LinkAddress> {
    (select(vec![7, 8]), 1u8..=4).prop_map(|(device, number)| LinkAddress {
        device,
        address: ip(&format!("192.168.0.{number}")),
    })
}

fn resolved() -> impl Strategy<Value = Resolved> {
    let upkeep = select(vec![Upkeep::Kept, Upkeep::Unasked]);
    (0u8..2, upkeep).prop_map(|(last, upkeep)| Resolved {
        mac: Mac([2, 8, 0, 0, 0, last]),
        upkeep,
    })
}

fn own_address() -> impl Strategy<Value = std::net::IpAddr> {
    select(vec![
        ip("192.168.0.1"),
        ip("192.168.0.2"),
        ip("203.0.113.1"),
        ip("10.244.1.1"),
    ])
}

/// A change; `clash` in ten pods want an address that others want too.
pub(crate) fn change(clash: u32) -> impl Strategy<Value = Change> {
    let ways = select(vec![Tunnel::Vxlan, Tunnel::Direct, Tunnel::Auto]);
    let setup = (select(vec![1500, 9000]), any::<bool>(), ways).prop_map(|(mtu, allowed, way)| {
        let mut setup = build::setup();
        setup.tunnel = way;
        setup.subnets = vec![net("192.168.0.2/31")];
        if allowed {
            setup.allowed_external_ips = vec![net("198.51.100.0/24")];
            setup.node_port_addresses = vec![net("192.168.0.0/29")];
        }
        setup.uplinks = vec![build::uplink(0, 7, mtu), build::uplink(20, 8, 1500)];
        setup.uplinks.truncate(1 + usize::from(allowed));
        setup.uplink = setup.uplink.map(|(port, mac, _)| (port, mac, mtu));
        Change::Setup(setup)
    });
    let attachment =
        (0..PODS, 0u16..12).prop_map(|(number, port)| build::attachment(&pod_name(number), port));
    let neighbour = (1u8..=3, 0u8..2).prop_map(|(number, last)| {
        Change::Neighbour(
            ip(&format!("192.168.0.{number}")),
            Mac([2, 9, 0, 0, 0, last]),
        )
    });
    prop_oneof![
        2 => node(),
        2 => namespace(),
        8 => pod(clash).prop_map(Change::Pod),
        6 => policy().prop_map(Change::NetworkPolicy),
        3 => cluster_policy().prop_map(Change::ClusterNetworkPolicy),
        4 => service().prop_map(Change::Service),
        5 => slice().prop_map(Change::EndpointSlice),
        3 => attachment,
        1 => neighbour,
        6 => (route_key(), host_route()).prop_map(|(key, route)| Change::Route(key, route)),
        3 => (link_address(), resolved()).prop_map(|(key, it)| Change::LinkNeighbour(key, it)),
        1 => own_address().prop_map(Change::OwnAddress),
        1 => setup,
        6 => gone(),
    ]
}

/// The facts of a cluster as changes, in the order of their kinds and names.
pub(crate) fn facts(cluster: &Cluster) -> Vec<Change> {
    let mut all = Vec::new();
    all.extend(cluster.nodes().into_iter().cloned().map(Change::Node));
    all.extend(
        cluster
            .namespaces()
            .into_iter()
            .cloned()
            .map(Change::Namespace),
    );
    all.extend(cluster.pods().into_iter().cloned().map(Change::Pod));
    all.extend(cluster.services().into_iter().cloned().map(Change::Service));
    all.extend(
        cluster
            .slices()
            .into_iter()
            .cloned()
            .map(Change::EndpointSlice),
    );
    all.extend(
        cluster
            .policies()
            .into_iter()
            .cloned()
            .map(Change::NetworkPolicy),
    );
    let cluster_policies = cluster.cluster_policies().into_iter().cloned();
    all.extend(cluster_policies.map(Change::ClusterNetworkPolicy));
    all.extend(
        cluster
            .attachments()
            .into_iter()
            .cloned()
            .map(Change::Attachment),
    );
    for addr in ["192.168.0.1", "192.168.0.2", "192.168.0.3"].map(ip) {
        all.extend(
            cluster
                .neighbour(&addr)
                .map(|mac| Change::Neighbour(addr, mac)),
        );
    }
    all.extend(cluster.host_facts());
    all.extend(cluster.setup().cloned().map(Change::Setup));
    all
}
