//! What the rows say, the slow way: from the objects alone, without tables.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use podway_engine::DropReason;
use podway_intent::{EndpointSlice, IpMode, Service, ServicePort, Serving, TrafficPolicy};
use podway_tables::ClusterIpMasquerade;
use podway_wire::Protocol;

use crate::packets::{Origin, Packet};
use crate::world::{HERE, World};

type Address = (IpAddr, u16);

/// The source that the target sees, or why it sees nothing.
type Fate = Result<IpAddr, DropReason>;

/// What should become of a packet.
#[derive(Debug)]
pub(crate) enum Expected {
    /// One of these, each with what follows if it is the one.
    Served(BTreeMap<Address, Fate>),
    /// An ICMP port unreachable.
    Refused,
    /// Silence, by the service's word.
    Dropped(DropReason),
    /// No service has anything to do with it.
    Alone(Fate),
}

/// What was decided about a packet.
#[derive(Debug)]
pub(crate) enum Seen {
    Served(BTreeSet<Address>, Address, Fate),
    Refused,
    Dropped(DropReason),
    Alone(Fate),
    Echo,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    ClusterIp,
    LoadBalancer,
    ExternalIp,
    NodePort,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    PodHere,
    PodThere,
    OwnNode,
    OtherNode,
    Gateway,
    Nobody,
    World,
}

pub(crate) fn expected(world: &World, packet: &Packet) -> Expected {
    let has_ports = [Protocol::TCP, Protocol::UDP, Protocol::SCTP].contains(&packet.protocol);
    let service = match has_ports {
        true => at(world, packet),
        false => None,
    };
    // What comes out of a tunnel was translated where it went in, but for this node's own ports.
    let service =
        service.filter(|(_, _, kind)| packet.origin != Origin::Peer || *kind == Kind::NodePort);
    if let Some((service, port, kind)) = service {
        return served(world, packet, service, port, kind);
    }
    if packet.origin != Origin::Peer {
        // S11
        let mut with_ports = world.services.iter().filter(|it| !it.ports.is_empty());
        if with_ports.any(|it| it.cluster_ips.contains(&packet.target)) {
            return match has_ports {
                true => Expected::Refused,
                false => Expected::Dropped(DropReason::VipProtocol),
            };
        }
        let mut ranges = world.setup.service_ranges.iter();
        if ranges.any(|range| range.contains(&packet.target)) {
            return Expected::Dropped(DropReason::UnallocatedVip);
        }
    }
    Expected::Alone(alone(world, packet))
}

/// S24: the oldest service, then the first by name.
fn at<'a>(world: &'a World, packet: &Packet) -> Option<(&'a Service, &'a ServicePort, Kind)> {
    let mut services: Vec<&Service> = world.services.iter().collect();
    services.sort_by_key(|service| (service.created_s, &service.name));
    let target = packet.target;
    for service in services {
        // S16: a service exists in the families of its cluster addresses only.
        let mut families = service.cluster_ips.iter();
        if !families.any(|ip| ip.is_ipv4() == target.is_ipv4()) {
            continue;
        }
        let allowed = world.setup.allowed_external_ips.iter();
        let kinds = [
            (Kind::ClusterIp, service.cluster_ips.contains(&target)),
            // S9
            (
                Kind::LoadBalancer,
                service.load_balancer_ips.contains(&(target, IpMode::Vip)),
            ),
            // S23
            (
                Kind::ExternalIp,
                service.external_ips.contains(&target)
                    && allowed.clone().any(|it| it.contains(&target)),
            ),
            (Kind::NodePort, answers_node_ports(world, target)),
        ];
        for (kind, _) in kinds.iter().filter(|(_, here)| *here) {
            for port in &service.ports {
                let number = match kind {
                    Kind::NodePort => port.node_port,
                    Kind::ClusterIp | Kind::LoadBalancer | Kind::ExternalIp => Some(port.port),
                };
                // S18
                if number == Some(packet.target_port) && port.protocol == packet.protocol {
                    return Some((service, port, *kind));
                }
            }
        }
    }
    None
}

/// S12: on the chosen addresses of the node, or on the primary ones.
fn answers_node_ports(world: &World, target: IpAddr) -> bool {
    let own = &world.node.addresses;
    let chosen = &world.setup.node_port_addresses;
    if chosen.is_empty() {
        return primary(world, target) == target;
    }
    own.contains(&target) && chosen.iter().any(|range| range.contains(&target))
}

/// The node's address in the family of another one.
fn primary(world: &World, like: IpAddr) -> IpAddr {
    let mut own = world.node.addresses.iter();
    *own.find(|ip| ip.is_ipv4() == like.is_ipv4())
        .expect("both families")
}

fn served(
    world: &World,
    packet: &Packet,
    service: &Service,
    port: &ServicePort,
    kind: Kind,
) -> Expected {
    // S13
    let ranges: Vec<_> = service
        .source_ranges
        .iter()
        .filter(|it| it.addr().is_ipv4() == packet.source.is_ipv4())
        .collect();
    if kind == Kind::LoadBalancer && !ranges.is_empty() {
        let own_allowed = ranges
            .iter()
            .any(|it| it.contains(&primary(world, packet.source)));
        let is_balancer = service
            .load_balancer_ips
            .iter()
            .any(|(ip, _)| *ip == packet.source);
        let inside = ranges.iter().any(|it| it.contains(&packet.source));
        let by_own_balancer = own_allowed && is_balancer;
        if !inside && !by_own_balancer {
            return Expected::Dropped(DropReason::SourceRange);
        }
    }
    let inside = matches!(packet.origin, Origin::Pod | Origin::Host);
    // S4, S9
    let local = match kind {
        Kind::ClusterIp => service.internal == TrafficPolicy::Local,
        Kind::LoadBalancer | Kind::ExternalIp | Kind::NodePort => {
            service.external == TrafficPolicy::Local && !inside
        }
    };
    let members = members(world, service, port, packet.target.is_ipv4());
    let backends = match local {
        true => usable(&members, |it| it.local),
        false => cluster(world, &members),
    };
    if backends.is_empty() {
        // S1, S2, S3
        return match usable(&members, |_| true).is_empty() {
            true => Expected::Refused,
            false => Expected::Dropped(DropReason::ServiceDrop),
        };
    }
    // S20
    let masquerade = match (kind, world.setup.cluster_ip_masquerade) {
        (Kind::ClusterIp, ClusterIpMasquerade::All) => true,
        (Kind::ClusterIp, ClusterIpMasquerade::None) => false,
        (Kind::ClusterIp, ClusterIpMasquerade::Foreign) => packet.origin != Origin::Pod,
        (_, _) => service.external == TrafficPolicy::Cluster || packet.origin == Origin::Host,
    };
    let fates = backends
        .into_iter()
        .map(|backend| (backend, fate(world, packet, backend, masquerade)));
    Expected::Served(fates.collect())
}

struct Member {
    address: Address,
    serving: Serving,
    local: bool,
    zones: Vec<String>,
    nodes: Vec<String>,
}

/// S15, S16, S25: by the port's name and protocol, of the family, nothing special; of namesakes the readiest counts.
fn members(world: &World, service: &Service, port: &ServicePort, v4: bool) -> Vec<Member> {
    let mut all: Vec<Member> = Vec::new();
    // Of namesakes that are as ready as each other, the first slice's hints count.
    let ours = |slice: &&EndpointSlice| slice.service == service.name;
    let mut slices: Vec<&EndpointSlice> = world.slices.iter().filter(ours).collect();
    slices.sort_by_key(|slice| &slice.name);
    for slice in slices {
        for slice_port in &slice.ports {
            if slice_port.name != port.name || slice_port.protocol != port.protocol {
                continue;
            }
            for endpoint in &slice.endpoints {
                let ip = endpoint.address;
                let special = ip.is_loopback() || ip.to_string().starts_with("fe80");
                if ip.is_ipv4() != v4 || special {
                    continue;
                }
                let texts =
                    |all: &[std::sync::Arc<str>]| all.iter().map(|it| it.to_string()).collect();
                let member = Member {
                    address: (ip, slice_port.port),
                    serving: endpoint.serving,
                    local: endpoint.node.as_deref() == Some(HERE),
                    zones: texts(&endpoint.zone_hints),
                    nodes: texts(&endpoint.node_hints),
                };
                match all.iter_mut().find(|it| it.address == member.address) {
                    None => all.push(member),
                    Some(known) => {
                        let rank = |serving| {
                            [
                                Serving::No,
                                Serving::Terminating,
                                Serving::Unready,
                                Serving::Ready,
                            ]
                            .iter()
                            .position(|it| *it == serving)
                        };
                        if rank(member.serving) == rank(known.serving) {
                            known.local |= member.local;
                        }
                        if rank(member.serving) > rank(known.serving) {
                            *known = member;
                        }
                    }
                }
            }
        }
    }
    all
}

/// S5
fn usable(members: &[Member], some: impl Fn(&Member) -> bool) -> BTreeSet<Address> {
    let of = |serving| {
        let all = members
            .iter()
            .filter(|it| it.serving == serving && some(it));
        all.map(|it| it.address).collect::<BTreeSet<_>>()
    };
    let ready = of(Serving::Ready);
    if ready.is_empty() {
        of(Serving::Terminating)
    } else {
        ready
    }
}

/// S8
fn cluster(world: &World, members: &[Member]) -> BTreeSet<Address> {
    let zone = world
        .node
        .labels
        .get("topology.kubernetes.io/zone")
        .map(|it| it.to_string());
    let zone = zone.filter(|zone| !zone.is_empty());
    let ready: Vec<&Member> = members
        .iter()
        .filter(|it| it.serving == Serving::Ready)
        .collect();
    let hinted = |of: fn(&Member) -> &Vec<String>, wanted: &str| -> Option<BTreeSet<Address>> {
        if ready.iter().any(|it| of(it).is_empty()) {
            return None;
        }
        let ours = ready
            .iter()
            .filter(|it| of(it).iter().any(|hint| hint == wanted));
        let ours: BTreeSet<Address> = ours.map(|it| it.address).collect();
        (!ours.is_empty()).then_some(ours)
    };
    let by_node = hinted(|it| &it.nodes, HERE);
    let by_zone = zone.and_then(|zone| hinted(|it| &it.zones, &zone));
    by_node
        .or(by_zone)
        .unwrap_or_else(|| usable(members, |_| true))
}

fn place(ip: IpAddr) -> Place {
    match ip.to_string().as_str() {
        "10.244.1.10" | "10.244.1.11" | "fd44:0:0:1::10" | "fd44:0:0:1::11" => Place::PodHere,
        "10.244.1.1" | "fd44:0:0:1::1" => Place::Gateway,
        "192.168.0.1" | "192.168.0.3" | "fd50::1" => Place::OwnNode,
        "192.168.0.2" | "192.168.0.4" | "fd50::2" => Place::OtherNode,
        text if text.starts_with("10.244.1.") => Place::Nobody,
        text if text.starts_with("10.244.2.") || text.starts_with("fd44:0:0:2:") => Place::PodThere,
        _ => Place::World,
    }
}

fn gateway(like: IpAddr) -> IpAddr {
    let text = if like.is_ipv4() {
        "10.244.1.1"
    } else {
        "fd44:0:0:1::1"
    };
    text.parse().expect("address")
}

/// What becomes of a packet that a service sends to a backend.
fn fate(world: &World, packet: &Packet, backend: Address, masquerade: bool) -> Fate {
    let place = place(backend.0);
    match place {
        Place::Nobody => return Err(DropReason::NoSuchPod),
        Place::Gateway => return Err(DropReason::NoRoute),
        Place::PodHere | Place::PodThere | Place::OwnNode | Place::OtherNode | Place::World => {}
    }
    let from_pod = match packet.origin {
        Origin::Pod => true,
        Origin::Peer => self::place(packet.source) == Place::PodThere,
        Origin::Host | Origin::World => false,
    };
    // S19
    if backend.0 == packet.source {
        return Ok(gateway(packet.source));
    }
    let to_node = matches!(place, Place::OwnNode | Place::OtherNode);
    let from_node = packet.origin == Origin::Host && self::place(packet.source) == Place::OwnNode;
    if place == Place::World {
        return Ok(to_world(world, packet, backend.0, masquerade));
    }
    // S22: a node's stack answers pods and the gateway through us, and nobody else.
    if to_node && (masquerade || !from_pod) {
        return Ok(gateway(packet.source));
    }
    Ok(match masquerade && !from_node {
        true => primary(world, packet.source),
        false => packet.source,
    })
}

fn to_world(world: &World, packet: &Packet, target: IpAddr, masquerade: bool) -> IpAddr {
    let mut exempt = world.setup.masquerade_exempt.iter();
    match packet.origin == Origin::Pod && !masquerade && exempt.any(|it| it.contains(&target)) {
        true => packet.source,
        false => primary(world, packet.source),
    }
}

/// What becomes of a packet that is for no service: no transit, and out only from pods.
fn alone(world: &World, packet: &Packet) -> Fate {
    let allowed = match place(packet.target) {
        Place::Nobody => return Err(DropReason::NoSuchPod),
        Place::Gateway => false,
        Place::PodHere => true,
        Place::PodThere | Place::OtherNode => matches!(packet.origin, Origin::Pod | Origin::Host),
        Place::OwnNode => packet.origin != Origin::Host,
        Place::World if packet.origin == Origin::Pod => {
            return Ok(to_world(world, packet, packet.target, false));
        }
        Place::World => false,
    };
    match allowed {
        true => Ok(packet.source),
        false => Err(DropReason::NoRoute),
    }
}
