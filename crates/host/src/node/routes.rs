//! Routes of the node's own processes to pods and services, by way of the dataplane.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use podway_wire::{Addr, Mac};
use rtnetlink::packet_route::neighbour::{NeighbourAttribute, NeighbourMessage, NeighbourState};
use rtnetlink::packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};
use rtnetlink::{Handle, RouteMessageBuilder};

use super::mend::{Mend, Ours};
use super::neighbours::ip_of;
use super::{Device, NodeError, Wanted};
use crate::ask::{collect, done};
use crate::{Network, PathMtu};

/// The mark of our routes (rtm_protocol): what carries it on the host interface is ours to remove.
const OURS: RouteProtocol = RouteProtocol::Other(112);

/// Link-local next hops that stand for the dataplane; they exist on the pair only.
const GATEWAYS: [IpAddr; 2] = [
    IpAddr::V4(Ipv4Addr::new(169, 254, 112, 1)),
    IpAddr::V6(Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0x112, 1)),
];

/// What a route is for us: where it leads, and how.
pub(super) type Routes = BTreeMap<IpNet, How>;

/// From which address packets go, and to which MTU their way is locked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct How {
    source: Option<IpAddr>,
    mtu: Option<u32>,
}

/// Makes the routes out of the host interface equal to `wanted`, by difference; `put` are those that we had put there last.
pub(super) async fn reconcile(
    network: &Network,
    (host, uplink_mtu): (&Device, u32),
    gateway: Mac,
    (wanted, put): (&Wanted, &mut Routes),
    (mended, problems): (&mut Vec<Mend>, &mut Vec<String>),
) -> Result<(), NodeError> {
    let handle = network.handle();
    let present = present(network, host.ifindex).await?;
    let large = (host.mtu > uplink_mtu).then_some(host.mtu);
    let wanted = routes(wanted, large, problems);
    let (add, remove) = difference(&present, &wanted);
    let resolved = resolve_gateways(handle, host.ifindex, gateway).await?;
    if !put.is_empty() {
        mended.extend(Mend::of_many(Ours::Neighbour, &resolved));
    }
    let is_lost = |(range, how): &&(IpNet, How)| put.get(range) == Some(how);
    let lost: Vec<IpNet> = add
        .iter()
        .filter(is_lost)
        .map(|(range, _)| *range)
        .collect();
    mended.extend(Mend::of_many(Ours::Route, &lost));
    for (range, how) in add {
        let what = format!("route {range} to {}", host.name);
        let route = message(range, how, host.ifindex);
        let request = handle.route().add(route).replace().execute();
        if let Err(error) = done(&what, request).await {
            problems.push(error.to_string());
        }
    }
    for range in remove {
        let what = format!("remove the route of {range} to {}", host.name);
        let request = handle
            .route()
            .del(message(range, How::default(), host.ifindex));
        if let Err(error) = done(&what, request.execute()).await {
            problems.push(error.to_string());
        }
    }
    *put = wanted;
    Ok(())
}

/// The ranges that a device reaches without a gateway, in order.
pub(super) async fn subnets(network: &Network, ifindex: u32) -> Result<Vec<IpNet>, NodeError> {
    let routes = network.routes_out_of(ifindex).await?;
    let subnets = routes.iter().filter_map(|route| subnet(route, ifindex));
    Ok(subnets.collect::<BTreeSet<_>>().into_iter().collect())
}

/// True of a route whose coming or going changes how nodes at these addresses are reached, or what we put there ourselves.
pub(super) fn concerns(
    route: &RouteMessage,
    uplink: u32,
    host: u32,
    vteps: &BTreeSet<IpAddr>,
) -> bool {
    let length = route.header.destination_prefix_length;
    let (mut device, mut target, mut has_gateway) = (None, None, false);
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => target = ip_of_route(address),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => has_gateway = true,
            _ => (),
        }
    }
    let range = target.and_then(|target| IpNet::new(target, length).ok());
    // A default route may be another uplink's, too.
    let Some(range) = range.filter(|_| length > 0) else {
        return true;
    };
    device == Some(host)
        || device == Some(uplink) && !has_gateway
        || vteps.iter().any(|vtep| range.contains(vtep))
}

/// The devices that lead to something without a gateway, but for those of our own routes.
pub(super) async fn connected(handle: &Handle) -> Result<BTreeSet<u32>, NodeError> {
    let mut devices = BTreeSet::new();
    for question in all_families() {
        let dump = handle.route().get(question).execute();
        let routes = collect("list routes", dump).await?;
        for route in routes.iter().filter(|it| it.header.protocol != OURS) {
            let out = route.attributes.iter().find_map(|it| match it {
                RouteAttribute::Oif(index) => Some(*index),
                _ => None,
            });
            devices.extend(out.filter(|device| subnet(route, *device).is_some()));
        }
    }
    Ok(devices)
}

/// The device of the default route of the least metric, of IPv4 if there is one.
pub(super) async fn default_device(handle: &Handle) -> Result<Option<u32>, NodeError> {
    for question in all_families() {
        let dump = handle.route().get(question).execute();
        let routes = collect("list routes", dump).await?;
        let ways = routes.iter().flat_map(default_ways);
        if let Some((_, device)) = ways.min_by_key(|(metric, _)| *metric) {
            return Ok(Some(device));
        }
    }
    Ok(None)
}

/// What a route of the main table leads to without a gateway; a default route names no subnet, and no node is known by
/// its link-local address.
fn subnet(route: &RouteMessage, ifindex: u32) -> Option<IpNet> {
    let header = &route.header;
    let is_plain = header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast
        && header.destination_prefix_length > 0;
    let mut target = None;
    let mut device = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => target = ip_of_route(address),
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(_) | RouteAttribute::Via(_) => return None,
            _ => (),
        }
    }
    let target = target?;
    let is_link_local = Addr::from(target).is_link_local();
    let range = IpNet::new(target, header.destination_prefix_length).ok()?;
    (is_plain && !is_link_local && device == Some(ifindex)).then_some(range)
}

/// The metric and the device of each way of a default route of the main table; none for other routes.
fn default_ways(route: &RouteMessage) -> Vec<(u32, u32)> {
    let header = &route.header;
    let usable = header.destination_prefix_length == 0
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast;
    if !usable {
        return Vec::new();
    }
    let mut metric = 0;
    let mut devices = Vec::new();
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Priority(value) => metric = *value,
            RouteAttribute::Oif(index) => devices.push(*index),
            RouteAttribute::MultiPath(ways) => {
                devices.extend(ways.iter().map(|way| way.interface_index));
            }
            _ => (),
        }
    }
    devices.into_iter().map(|device| (metric, device)).collect()
}

fn routes(wanted: &Wanted, large: Option<u32>, problems: &mut Vec<String>) -> Routes {
    let source = |range: &IpNet| {
        wanted
            .addresses
            .iter()
            .copied()
            .find(|address| address.is_ipv4() == range.addr().is_ipv4())
    };
    let mut routes = Routes::new();
    for range in &wanted.ranges {
        match source(range) {
            Some(source) => {
                // No way to the world, whose paths are the stack's to learn: pods and services are behind the dataplane,
                // which knows how large packets get there and cuts for all that allow it; IPv6 has no such way.
                let how = How {
                    source: Some(source),
                    mtu: large.filter(|_| source.is_ipv4()),
                };
                routes.insert(*range, how);
            }
            None if wanted.addresses.is_empty() => (),
            None => problems.push(format!(
                "no route to {range} for the node's processes: the Node object has no InternalIP of that family"
            )),
        }
    }
    routes
}

fn difference(present: &Routes, wanted: &Routes) -> (Vec<(IpNet, How)>, Vec<IpNet>) {
    let add = wanted
        .iter()
        .filter(|(range, how)| present.get(range) != Some(how))
        .map(|(range, how)| (*range, *how))
        .collect();
    let remove = present
        .keys()
        .filter(|range| !wanted.contains_key(range))
        .copied()
        .collect();
    (add, remove)
}

async fn present(network: &Network, ifindex: u32) -> Result<Routes, NodeError> {
    let routes = network.routes_out_of(ifindex).await?;
    Ok(routes
        .iter()
        .filter_map(|route| ours(route, ifindex))
        .collect())
}

fn all_families() -> [RouteMessage; 2] {
    [
        RouteMessageBuilder::<Ipv4Addr>::new().build(),
        RouteMessageBuilder::<Ipv6Addr>::new().build(),
    ]
}

fn ours(route: &RouteMessage, ifindex: u32) -> Option<(IpNet, How)> {
    if route.header.protocol != OURS {
        return None;
    }
    let mut target = None;
    let mut how = How::default();
    let mut device = None;
    for attribute in &route.attributes {
        match attribute {
            RouteAttribute::Destination(address) => target = ip_of_route(address),
            RouteAttribute::PrefSource(address) => how.source = ip_of_route(address),
            RouteAttribute::Metrics(metrics) => {
                how.mtu = PathMtu::of_metrics(metrics).map(PathMtu::bytes)
            }
            RouteAttribute::Oif(index) => device = Some(*index),
            _ => (),
        }
    }
    let range = IpNet::new(target?, route.header.destination_prefix_length).ok()?;
    (device == Some(ifindex)).then_some((range, how))
}

pub(crate) fn ip_of_route(address: &RouteAddress) -> Option<IpAddr> {
    match address {
        RouteAddress::Inet(v4) => Some(IpAddr::V4(*v4)),
        RouteAddress::Inet6(v6) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn message(range: IpNet, how: How, ifindex: u32) -> RouteMessage {
    let gateway = GATEWAYS[usize::from(range.addr().is_ipv6())];
    let route = RouteMessageBuilder::<IpAddr>::new()
        .destination_prefix(range.network(), range.prefix_len())
        .and_then(|route| route.gateway(gateway))
        .and_then(|route| match how.source {
            Some(source) => route.pref_source(source),
            None => Ok(route),
        })
        .expect("one family, and a length that IpNet has checked");
    let mut message = route
        .output_interface(ifindex)
        .protocol(OURS)
        .onlink()
        .build();
    if let Some(mtu) = how.mtu {
        let metrics = RouteAttribute::Metrics(PathMtu::Locked(mtu).metrics());
        message.attributes.push(metrics);
    }
    message
}

/// Makes the gateways' Ethernet address known; gives those for which it was not.
async fn resolve_gateways(
    handle: &Handle,
    ifindex: u32,
    mac: Mac,
) -> Result<Vec<IpAddr>, NodeError> {
    let mut resolved = Vec::new();
    let known = collect("list neighbours", handle.neighbours().get().execute()).await?;
    for gateway in GATEWAYS {
        if known.iter().any(|it| is_so(it, ifindex, gateway, mac)) {
            continue;
        }
        let request = handle
            .neighbours()
            .add(ifindex, gateway)
            .state(NeighbourState::Permanent)
            .link_layer_address(&mac.0)
            .replace()
            .execute();
        done(&format!("make {mac} the neighbour {gateway}"), request).await?;
        resolved.push(gateway);
    }
    Ok(resolved)
}

fn is_so(neighbour: &NeighbourMessage, ifindex: u32, address: IpAddr, mac: Mac) -> bool {
    neighbour.header.ifindex == ifindex
        && neighbour.header.state == NeighbourState::Permanent
        && ip_of(neighbour) == Some(address)
        && neighbour
            .attributes
            .contains(&NeighbourAttribute::LinkLayerAddress(mac.0.to_vec()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> IpNet {
        text.parse().expect("range")
    }

    #[test]
    fn only_what_differs_is_touched() {
        let source = How {
            source: Some("10.0.0.1".parse().expect("address")),
            mtu: None,
        };
        let large = How {
            mtu: Some(61_000),
            ..source
        };
        let present = Routes::from([
            (net("10.244.1.0/24"), source),
            (net("10.244.2.0/24"), How::default()),
            (net("10.244.3.0/24"), source),
        ]);
        let wanted = Routes::from([
            (net("10.244.1.0/24"), source),
            (net("10.244.2.0/24"), source),
            (net("10.244.4.0/24"), large),
        ]);
        let (add, remove) = difference(&present, &wanted);
        assert_eq!(
            add,
            vec![
                (net("10.244.2.0/24"), source),
                (net("10.244.4.0/24"), large)
            ]
        );
        assert_eq!(remove, vec![net("10.244.3.0/24")]);
        assert_eq!(difference(&wanted, &wanted), (vec![], vec![]));
        for (range, how) in [(net("10.244.4.0/24"), large), (net("fd44::/64"), source)] {
            let how = How {
                source: how
                    .source
                    .filter(|source| source.is_ipv4() == range.addr().is_ipv4()),
                ..how
            };
            assert_eq!(ours(&message(range, how, 7), 7), Some((range, how)));
        }
    }

    #[test]
    fn a_family_without_an_address_is_a_problem_in_words() {
        let mut problems = Vec::new();
        let wanted = Wanted {
            ranges: [net("10.244.1.0/24"), net("fd44::/64")].into(),
            addresses: vec!["10.0.0.1".parse().expect("address")],
            ..Wanted::default()
        };
        assert_eq!(routes(&wanted, None, &mut problems).len(), 1);
        assert_eq!(
            problems,
            [
                "no route to fd44::/64 for the node's processes: the Node object has no InternalIP of that family"
            ]
        );
    }
}
