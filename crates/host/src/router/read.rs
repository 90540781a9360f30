//! From netlink's messages to what is told of the kernel.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::IpNet;
use podway_intent::LinkAddress;
use podway_tables::NoWay;
use podway_wire::{Family, Mac};
use rtnetlink::packet_route::AddressFamily;
use rtnetlink::packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressScope,
};
use rtnetlink::packet_route::link::{LinkAttribute, LinkFlags, LinkLayerType, LinkMessage};
use rtnetlink::packet_route::neighbour::NeighbourMessage;
use rtnetlink::packet_route::route::{
    RouteAttribute, RouteFlags, RouteMessage, RouteMetric, RouteNextHopFlags, RoutePreference,
    RouteType, RouteVia,
};
use rtnetlink::packet_route::rule::{RuleAction, RuleAttribute, RuleFlags, RuleMessage};

use super::Interface;
use super::facts::{Address, Asks, Kind, Link, Medium, Neighbour, Route, Rule, UseAsSource, Way};
use crate::node::{ip_of, ip_of_route, is_kept, mac_of};

/// A rule that suppresses nothing has this there.
const NOTHING: u32 = u32::MAX;

pub(super) fn rule(message: &RuleMessage) -> Option<Rule> {
    let header = &message.header;
    let family = family(header.family)?;
    let mut table = u32::from(header.table);
    let mut preference = 0;
    let mut source = None;
    let mut is_own = false;
    let mut is_plain = header.dst_len == 0
        && header.tos == 0
        && header.action == RuleAction::ToTable
        && !header.flags.contains(RuleFlags::Invert);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Table(number) => table = *number,
            RuleAttribute::Priority(number) => preference = *number,
            RuleAttribute::Source(address) => source = Some(*address),
            RuleAttribute::Iifname(name) if name == "lo" => is_own = true,
            RuleAttribute::Protocol(_) => {}
            RuleAttribute::SuppressPrefixLen(NOTHING)
            | RuleAttribute::SuppressIfGroup(NOTHING)
            | RuleAttribute::FwMark(0)
            | RuleAttribute::FwMask(_) => {}
            _ => is_plain = false,
        }
    }
    let from = source.and_then(|address| IpNet::new(address, header.src_len).ok());
    let asks = match (is_own, from, is_plain) {
        (true, _, _) => Asks::OwnPackets,
        (false, Some(range), _) => Asks::From(range),
        (false, None, true) => Asks::Table(table),
        (false, None, false) => Asks::Other,
    };
    Some(Rule {
        family,
        preference,
        asks,
    })
}

pub(super) fn route(message: &RouteMessage) -> Option<Route> {
    let header = &message.header;
    let is_cached = header.flags.contains(RouteFlags::Cloned);
    if is_cached || header.tos != 0 || header.source_prefix_length != 0 {
        return None;
    }
    let nothing: IpAddr = match family(header.address_family)? {
        Family::V4 => Ipv4Addr::UNSPECIFIED.into(),
        Family::V6 => Ipv6Addr::UNSPECIFIED.into(),
    };
    let mut target = nothing;
    let mut table = u32::from(header.table);
    let (mut metric, mut preference) = (0, preference_of(RoutePreference::Medium));
    let (mut source, mut mtu) = (None, None);
    let mut is_encapsulated = false;
    let mut several: Option<Vec<Way>> = None;
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(address) => target = ip_of_route(address)?,
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Preference(number) => preference = preference_of(*number),
            RouteAttribute::PrefSource(address) => source = ip_of_route(address),
            RouteAttribute::Metrics(metrics) => mtu = metrics.iter().find_map(mtu_of),
            RouteAttribute::EncapType(_) => is_encapsulated = true,
            RouteAttribute::MultiPath(hops) => {
                let usable = hops
                    .iter()
                    .filter(|hop| !hop.flags.contains(RouteNextHopFlags::Dead));
                is_encapsulated |= hops.iter().any(|hop| encapsulates(&hop.attributes));
                several = Some(
                    usable
                        .map(|hop| Way {
                            device: hop.interface_index,
                            gateway: hop.attributes.iter().find_map(gateway_of),
                        })
                        .collect(),
                );
            }
            _ => {}
        }
    }
    let is_dead = header.flags.contains(RouteFlags::Dead);
    let single = message
        .attributes
        .iter()
        .find_map(|attribute| match attribute {
            RouteAttribute::Oif(index) if !is_dead => Some(Way {
                device: *index,
                gateway: message.attributes.iter().find_map(gateway_of),
            }),
            _ => None,
        });
    let kind = match header.kind {
        RouteType::Unicast if is_encapsulated => Kind::Encapsulated,
        RouteType::Unicast => Kind::Ways(several.unwrap_or(Vec::from_iter(single))),
        RouteType::Local | RouteType::Anycast => Kind::Local(single.map(|way| way.device)),
        RouteType::Broadcast => Kind::Broadcast,
        RouteType::BlackHole => Kind::Refused(NoWay::Blackhole),
        RouteType::Unreachable => Kind::Refused(NoWay::Unreachable),
        RouteType::Prohibit => Kind::Refused(NoWay::Prohibited),
        RouteType::Throw => Kind::Throw,
        _ => return None,
    };
    let range = IpNet::new(target, header.destination_prefix_length).ok()?;
    Some(Route {
        table,
        range: range.trunc(),
        metric,
        preference,
        kind,
        source,
        mtu,
    })
}

pub(super) fn link(message: &LinkMessage) -> Link {
    let header = &message.header;
    let flags = header.flags;
    let is_ethernet = header.link_layer_type == LinkLayerType::Ether
        && !flags.intersects(LinkFlags::Noarp | LinkFlags::Loopback | LinkFlags::Pointopoint);
    let medium = match (is_ethernet, flags.contains(LinkFlags::LowerUp)) {
        (true, true) => Medium::Ethernet,
        (true, false) => Medium::Unplugged,
        (false, _) => Medium::Other,
    };
    let mut link = Link {
        interface: Interface {
            ifindex: header.index,
            name: String::new(),
            mac: Mac::default(),
            mtu: 0,
        },
        alias: String::new(),
        medium,
    };
    let interface = &mut link.interface;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => interface.name.clone_from(name),
            LinkAttribute::IfAlias(alias) => link.alias.clone_from(alias),
            LinkAttribute::Mtu(mtu) => interface.mtu = *mtu,
            LinkAttribute::Address(bytes) => {
                interface.mac = bytes.as_slice().try_into().map_or(interface.mac, Mac);
            }
            _ => {}
        }
    }
    link
}

pub(super) fn address(message: &AddressMessage) -> Option<Address> {
    let header = &message.header;
    let mut flags = AddressFlags::from_bits_retain(u32::from(header.flags.bits()));
    let (mut address, mut local) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Address(ip) => address = Some(*ip),
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Flags(all) => flags = *all,
            _ => {}
        }
    }
    // Of a temporary IPv6 address this flag says so, too.
    let unfit = AddressFlags::Secondary
        | AddressFlags::Deprecated
        | AddressFlags::Tentative
        | AddressFlags::Dadfailed;
    let is_global = matches!(header.scope, AddressScope::Universe | AddressScope::Site);
    let use_as_source = match flags.intersects(unfit) || !is_global {
        true => UseAsSource::No,
        false => UseAsSource::Yes,
    };
    Some(Address {
        device: header.index,
        network: IpNet::new(local.or(address)?, header.prefix_len).ok()?,
        use_as_source,
    })
}

pub(super) fn neighbour(message: &NeighbourMessage) -> Option<Neighbour> {
    let at = LinkAddress {
        device: message.header.ifindex,
        address: ip_of(message)?,
    };
    Some(Neighbour {
        at,
        mac: mac_of(message),
        is_kept: is_kept(message),
    })
}

fn family(family: AddressFamily) -> Option<Family> {
    match family {
        AddressFamily::Inet => Some(Family::V4),
        AddressFamily::Inet6 => Some(Family::V6),
        _ => None,
    }
}

fn preference_of(preference: RoutePreference) -> u8 {
    match preference {
        RoutePreference::High => 0,
        RoutePreference::Low => 2,
        _ => 1,
    }
}

fn gateway_of(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(address) => ip_of_route(address),
        RouteAttribute::Via(RouteVia::Inet6(v6)) => Some(IpAddr::V6(*v6)),
        _ => None,
    }
}

fn encapsulates(attributes: &[RouteAttribute]) -> bool {
    let mut all = attributes.iter();
    all.any(|attribute| matches!(attribute, RouteAttribute::EncapType(_)))
}

fn mtu_of(metric: &RouteMetric) -> Option<u32> {
    match metric {
        RouteMetric::Mtu(mtu) if *mtu > 0 => Some(*mtu),
        _ => None,
    }
}
