//! From what was read to what the compiler takes: which route of a range counts, by which devices, from which address.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::net::{IpAddr, Ipv6Addr};

use ipnet::{IpNet, Ipv6Net};
use podway_intent::{HostRoute, LinkAddress, Resolved, RouteKey, RouteLeads};
use podway_tables::{NoWay, Upkeep};
use podway_wire::{Addr, Family};

use super::Interface;
use super::facts::{
    Address, Asks, Kind, Link, Medium, Neighbour, Read, Route, Rule, UseAsSource, Way,
};
use crate::node::DATAPLANE_INTERFACE;
use crate::pod_of_alias;

/// Routes that are followed.
pub(super) const ROUTES: usize = 131_072;
/// Neighbours that are known.
pub(super) const NEIGHBOURS: usize = 4_096;
/// Gateways that are kept resolved.
const GATEWAYS: usize = 1_024;
/// Addresses of the node's that are known.
pub(super) const ADDRESSES: usize = 16_384;
/// Tables that are asked.
const TABLES: usize = 16;
/// Things that one problem names.
const NAMED: usize = 8;
/// The kernel's table of what is the node's own.
const LOCAL: u32 = 255;
/// What no router sends on (RFC 4291, 2.5.6), whatever default route there is.
const LINK_LOCAL: RouteKey = RouteKey {
    table: 0,
    range: IpNet::V6(Ipv6Net::new_assert(
        Ipv6Addr::new(0xfe80, 0, 0, 0, 0, 0, 0, 0),
        10,
    )),
};
const NO_ROUTE: HostRoute = HostRoute {
    leads: RouteLeads::Refused(NoWay::NoRoute),
    source: None,
    mtu: None,
};
/// The tables that a kernel without rules asks.
const DEFAULT: [u32; 2] = [LOCAL, 254];

/// What the node's routing is.
#[derive(Clone, Debug, Default)]
pub(super) struct Table {
    pub(super) routes: HashMap<RouteKey, HostRoute>,
    pub(super) own: BTreeSet<IpAddr>,
    /// The devices that routes lead to and that can be an uplink.
    pub(super) uplinks: BTreeMap<u32, Interface>,
    /// The gateways of all routes.
    pub(super) gateways: BTreeSet<LinkAddress>,
    pub(super) problems: Vec<String>,
    /// Gateways beyond the bound.
    gateways_left_out: usize,
}

/// Makes of what was read what is followed; routes to `host_interface` are the dataplane's own.
pub(super) fn table(read: &Read, host_interface: &str) -> Table {
    let mut table = Table::default();
    let links: HashMap<u32, &Link> = read
        .links
        .iter()
        .map(|link| (link.interface.ifindex, link))
        .collect();
    let ours = read.links.iter();
    let ours = ours.filter(|link| is_ours(link, host_interface));
    let ours: BTreeSet<u32> = ours.map(|link| link.interface.ifindex).collect();
    table.own(read, host_interface);
    let places = table.places(&read.rules);
    let mut best: BTreeMap<RouteKey, &Route> = BTreeMap::new();
    for route in &read.routes {
        let family = Addr::from(route.range.addr()).family();
        let Some(place) = places.get(&(family, route.table)) else {
            continue;
        };
        if !is_followed(route, &ours) {
            continue;
        }
        let key = RouteKey {
            table: *place,
            range: route.range,
        };
        if best.len() >= ROUTES && !best.contains_key(&key) {
            continue;
        }
        let order = |route: &Route| (route.metric, route.preference);
        let known = best.entry(key).or_insert(route);
        if order(route) < order(known) {
            *known = route;
        }
    }
    if best.len() >= ROUTES {
        table.problems.push(format!("more than {ROUTES} routes: pods' packets go by shorter ones where a route is beyond that number; have fewer of them in the kernel"));
    }
    table.routes.insert(LINK_LOCAL, NO_ROUTE);
    let (mut closed, mut unplugged) = (BTreeSet::new(), BTreeSet::new());
    for (key, route) in best {
        let leads = leads(route, &links, (&mut closed, &mut unplugged));
        table.note_device(leads, &links);
        let source = route
            .source
            .or_else(|| source(leads, &route.range, &read.addresses));
        let host_route = HostRoute {
            leads,
            source,
            mtu: route.mtu,
        };
        table.routes.insert(key, host_route);
    }
    if table.gateways_left_out > 0 {
        table.problems.push(format!("routes have more than {GATEWAYS} gateways: the others are not resolved, and what is for them is dropped (`drop/no-neighbour`)"));
    }
    table.problems.extend(list(&closed).map(|list| {
        format!("routes lead where the dataplane can't send: {list}: pods that send there are told that the net is unreachable")
    }));
    table.problems.extend(list(&unplugged).map(|list| {
        format!("routes lead to devices without a carrier: {list}: what pods send there does not arrive until they have one")
    }));
    table
}

/// The first of some things, and how many more there are; `None` if there are none.
fn list(all: &BTreeSet<String>) -> Option<String> {
    let named: Vec<&str> = all.iter().take(NAMED).map(String::as_str).collect();
    let more = match all.len() - named.len() {
        0 => String::new(),
        more => format!(", and {more} more"),
    };
    (!named.is_empty()).then(|| named.join(", ") + &more)
}

impl Table {
    /// Takes up by which device a route leads, and to which gateway.
    fn note_device(&mut self, leads: RouteLeads, links: &HashMap<u32, &Link>) {
        let device = match leads {
            RouteLeads::Gateway { device, address } => {
                let gateway = LinkAddress { device, address };
                if self.gateways.len() < GATEWAYS {
                    self.gateways.insert(gateway);
                } else if !self.gateways.contains(&gateway) {
                    self.gateways_left_out += 1;
                }
                device
            }
            RouteLeads::Link { device } => device,
            RouteLeads::Onwards | RouteLeads::Refused(_) => return,
        };
        // What is open stays so without a carrier; nothing is opened for a wire that isn't there.
        if let Some(link) = links
            .get(&device)
            .filter(|it| it.medium == Medium::Ethernet)
        {
            self.uplinks.insert(device, link.interface.clone());
        }
    }

    /// The node's own addresses: what the table `local` hands to it.
    fn own(&mut self, read: &Read, host_interface: &str) {
        // Pods' wire ends at the pair to the host, so that no link-local address of another device reaches them.
        let pair = read.links.iter();
        let mut pair = pair.filter(|link| link.interface.name == host_interface);
        let pair = pair.next().map(|link| link.interface.ifindex);
        let mut all = 0;
        for route in read.routes.iter().filter(|route| route.table == LOCAL) {
            let ip = route.range.addr();
            let device = match route.kind {
                Kind::Local(device) if !ip.is_loopback() => device,
                Kind::Local(_)
                | Kind::Ways(_)
                | Kind::Broadcast
                | Kind::Throw
                | Kind::Refused(_)
                | Kind::Encapsulated => continue,
            };
            if ip.is_ipv6() && Addr::from(ip).is_link_local() && device != pair {
                continue;
            }
            if route.range.prefix_len() != route.range.max_prefix_len() {
                self.problems.push(format!(
                    "the node takes all of {} for its own, which is not followed: add the addresses one by one",
                    route.range
                ));
                continue;
            }
            all += 1;
            if self.own.len() < ADDRESSES {
                self.own.insert(ip);
            }
        }
        if all > ADDRESSES {
            self.problems.push(format!("the node has {all} addresses: {ADDRESSES} are known, the others are like any outside of it"));
        }
    }

    /// The place of each table in the order in which rules ask them.
    fn places(&mut self, rules: &[Rule]) -> HashMap<(Family, u32), u8> {
        let mut places = HashMap::new();
        for family in [Family::V4, Family::V6] {
            let mut rules: Vec<&Rule> = rules.iter().filter(|it| it.family == family).collect();
            rules.sort_by_key(|rule| rule.preference);
            let mut order = Vec::new();
            for rule in &rules {
                match &rule.asks {
                    Asks::Table(table) if !order.contains(table) => order.push(*table),
                    Asks::Table(_) | Asks::OwnPackets => {}
                    // Rules for what the node itself sends from one of its addresses don't concern pods.
                    Asks::From(range) if self.is_own(range) => {}
                    Asks::From(_) | Asks::Other => self.problems.push(format!(
                        "rule {} of the routing policy is not followed: pods' packets go as the rules without conditions say",
                        rule.preference
                    )),
                }
            }
            if rules.is_empty() {
                order.extend(DEFAULT);
            }
            if order.len() > TABLES {
                self.problems.push(format!(
                    "rules ask {} tables: the first {TABLES} are followed",
                    order.len()
                ));
            }
            let asked = order.into_iter().take(TABLES).zip(0u8..);
            places.extend(asked.map(|(table, place)| ((family, table), place)));
        }
        places
    }

    fn is_own(&self, range: &IpNet) -> bool {
        range.prefix_len() == range.max_prefix_len() && self.own.contains(&range.addr())
    }
}

/// The neighbours on uplinks that are resolved: if there are too many those that are kept.
pub(super) fn resolved(
    uplinks: &BTreeMap<u32, Interface>,
    neighbours: &[Neighbour],
) -> HashMap<LinkAddress, Resolved> {
    let mut all: Vec<_> = neighbours
        .iter()
        .filter(|neighbour| uplinks.contains_key(&neighbour.at.device))
        .filter_map(|neighbour| Some((neighbour, neighbour.mac?)))
        .collect();
    if all.len() > NEIGHBOURS {
        all.sort_by_key(|(neighbour, _)| (!neighbour.is_kept, neighbour.at));
    }
    let known = all.into_iter().take(NEIGHBOURS).map(|(neighbour, mac)| {
        let upkeep = match neighbour.is_kept {
            true => Upkeep::Kept,
            false => Upkeep::Unasked,
        };
        (neighbour.at, Resolved { mac, upkeep })
    });
    known.collect()
}

/// True of a device that the dataplane or a pod has.
fn is_ours(link: &Link, host_interface: &str) -> bool {
    let name = &link.interface.name;
    name == host_interface || name == DATAPLANE_INTERFACE || pod_of_alias(&link.alias).is_some()
}

/// True of a route that says something of the world outside.
fn is_followed(route: &Route, ours: &BTreeSet<u32>) -> bool {
    let first = Addr::from(route.range.addr());
    // Nobody sends on what is for a link-local address of IPv6, or for a group.
    let stays = first.is_multicast() || route.range.addr().is_ipv6() && first.is_link_local();
    let is_known = match &route.kind {
        Kind::Ways(ways) => ways.iter().any(|way| !ours.contains(&way.device)),
        // Whole addresses are known as the node's own.
        Kind::Local(_) => route.range.addr().is_loopback(),
        Kind::Broadcast | Kind::Throw | Kind::Refused(_) | Kind::Encapsulated => true,
    };
    is_known && !stays
}

/// Where a route leads; takes up in words what can't be sent to, and what has no carrier.
fn leads(
    route: &Route,
    links: &HashMap<u32, &Link>,
    (closed, unplugged): (&mut BTreeSet<String>, &mut BTreeSet<String>),
) -> RouteLeads {
    let ways = match &route.kind {
        Kind::Ways(ways) => ways,
        // Nobody but the node itself may send there.
        Kind::Local(_) | Kind::Broadcast => return RouteLeads::Refused(NoWay::Blackhole),
        Kind::Throw => return RouteLeads::Onwards,
        Kind::Refused(why) => return RouteLeads::Refused(*why),
        Kind::Encapsulated => {
            closed.insert(format!("{} in an encapsulation", route.range));
            return RouteLeads::Refused(NoWay::NoRoute);
        }
    };
    let medium = |way: &&Way| links.get(&way.device).map(|link| link.medium);
    let mut able = ways
        .iter()
        .filter(|way| medium(way) == Some(Medium::Ethernet));
    let without = || {
        let mut ways = ways.iter();
        let way = ways.find(|way| medium(way) == Some(Medium::Unplugged))?;
        unplugged.insert(links.get(&way.device)?.interface.name.clone());
        Some(way)
    };
    // Of several ways one is enough: flows need not be spread.
    let Some(way) = able.next().or_else(without) else {
        let known = ways.iter().filter_map(|way| links.get(&way.device));
        closed.extend(known.map(|it| format!("{}, no Ethernet device", it.interface.name)));
        if ways.is_empty() {
            closed.insert(format!("{} by a way that is down", route.range));
        }
        return RouteLeads::Refused(NoWay::NoRoute);
    };
    let device = way.device;
    match way.gateway {
        Some(address) => RouteLeads::Gateway { device, address },
        None => RouteLeads::Link { device },
    }
}

/// The address that packets by a route leave from if it names none: of its device, best in the gateway's network.
fn source(leads: RouteLeads, range: &IpNet, addresses: &[Address]) -> Option<IpAddr> {
    let (device, near) = match leads {
        RouteLeads::Gateway { device, address } => (device, address),
        RouteLeads::Link { device } => (device, range.addr()),
        RouteLeads::Onwards | RouteLeads::Refused(_) => return None,
    };
    let v4 = range.addr().is_ipv4();
    let fit = addresses
        .iter()
        .filter(|it| it.use_as_source == UseAsSource::Yes && it.network.addr().is_ipv4() == v4);
    let here = fit.clone().filter(|it| it.device == device);
    let in_network = here.clone().find(|it| it.network.contains(&near));
    let chosen = in_network
        .or_else(|| here.clone().next())
        .or_else(|| fit.clone().next());
    chosen.map(|it| it.network.addr())
}
