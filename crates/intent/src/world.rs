//! The host's routes and neighbours become ways out of the cluster, at the cost of what changed.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;

use podway_tables::{self as tables, Exit, Leads, NextHop, NextHopId, NoWay, Upkeep, World};
use podway_wire::Addr;

use crate::ids::Ids;
use crate::round::Round;
use crate::{Cluster, HostRoute, LinkAddress, RouteKey, RouteLeads, Uplink};

/// What is remembered of ways out from one compilation to the next.
#[derive(Debug, Default)]
pub(crate) struct WorldTable {
    ids: Ids<Way>,
    /// How many routes and neighbours lead each way.
    users: HashMap<Way, usize>,
    /// The way to each neighbour that is known.
    neighbours: BTreeMap<IpAddr, Way>,
}

/// What makes ways out differ.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
enum Way {
    /// To a gateway.
    Gateway(View, IpAddr),
    /// To a neighbour that is known.
    Neighbour(View, IpAddr),
    /// To those that are not known yet.
    Link(View),
    /// Nowhere.
    Refused(NoWay),
}

/// How a route sees its device.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct View {
    device: u32,
    source: Option<IpAddr>,
    mtu: Option<u32>,
}

impl WorldTable {
    /// Brings the ways out up to date.
    pub(crate) fn update(&mut self, round: &Round<'_>, world: &mut World) {
        let touched = &round.touched;
        let uplinks = |cluster: &Cluster| cluster.setup().map(|setup| setup.uplinks.clone());
        let now = uplinks(round.now).unwrap_or_default();
        let same_uplinks = uplinks(round.before).unwrap_or_default() == now;
        if touched.routes.is_empty() && touched.link_neighbours.is_empty() && same_uplinks {
            return;
        }
        world.generation = round.sequence;
        world.uplinks = now.iter().map(uplink).collect();
        for key in &touched.routes {
            self.set_route(round, *key, world);
        }
        self.set_neighbours(round, world);
        for (way, id) in self.ids.iter() {
            let exit = exit(round.now, &now, way);
            if world.exit(NextHopId(id)) != Some(&exit) {
                world.set_exit(NextHopId(id), Some(exit));
            }
        }
    }

    fn set_route(&mut self, round: &Round<'_>, key: RouteKey, world: &mut World) {
        let leads = match round.now.routes.get(&key).map(|route| (route, way(route))) {
            Some((route, Some(way))) => {
                let id = self.take(way);
                Some(match route.leads {
                    RouteLeads::Link { .. } => Leads::Neighbours(id),
                    RouteLeads::Gateway { .. } | RouteLeads::Refused(_) | RouteLeads::Onwards => {
                        Leads::To(id)
                    }
                })
            }
            Some((_, None)) => Some(Leads::Onwards),
            None => None,
        };
        world.set_route(key.table, &key.range, leads);
        if let Some(before) = round.before.routes.get(&key).and_then(way) {
            self.give_back(&before, world);
        }
    }

    /// The neighbours to which a route leads without a gateway.
    fn set_neighbours(&mut self, round: &Round<'_>, world: &mut World) {
        let mut wanted = BTreeMap::new();
        for (neighbour, _) in round.now.link_neighbours.iter() {
            if let Some(view) = self.link_to(neighbour, world) {
                let address = neighbour.address;
                wanted.insert(address, Way::Neighbour(view, address));
            }
        }
        let before = std::mem::take(&mut self.neighbours);
        for (address, way) in &wanted {
            if before.get(address) != Some(way) {
                let id = self.take(*way);
                world.set_neighbour((*address).into(), Some(id));
            }
        }
        for (address, way) in before {
            let now = wanted.get(&address);
            if now.is_none() {
                world.set_neighbour(address.into(), None);
            }
            if now != Some(&way) {
                self.give_back(&way, world);
            }
        }
        self.neighbours = wanted;
    }

    /// How the route to a neighbour sees its device; `None` if it is reached by another device, or by a gateway.
    fn link_to(&self, neighbour: &LinkAddress, world: &World) -> Option<View> {
        let Some(Leads::Neighbours(id)) = world.leads(&neighbour.address.into()) else {
            return None;
        };
        let Some(Way::Link(view)) = self.ids.key(id.0) else {
            return None;
        };
        (view.device == neighbour.device).then_some(*view)
    }

    fn take(&mut self, way: Way) -> NextHopId {
        *self.users.entry(way).or_default() += 1;
        NextHopId(self.ids.assign(&way).0)
    }

    fn give_back(&mut self, way: &Way, world: &mut World) {
        let Some(users) = self.users.get_mut(way) else {
            return;
        };
        *users -= 1;
        if *users > 0 {
            return;
        }
        self.users.remove(way);
        if let Some(id) = self.ids.release(way) {
            world.set_exit(NextHopId(id), None);
        }
    }
}

fn uplink(uplink: &Uplink) -> tables::Uplink {
    tables::Uplink {
        port: uplink.port,
        mac: uplink.mac,
        mtu: uplink.mtu,
    }
}

/// The way that a route leads; `None` if it leads to the next table.
fn way(route: &HostRoute) -> Option<Way> {
    let view = |device| View {
        device,
        source: route.source,
        mtu: route.mtu,
    };
    match route.leads {
        RouteLeads::Gateway { device, address } => Some(Way::Gateway(view(device), address)),
        RouteLeads::Link { device } => Some(Way::Link(view(device))),
        RouteLeads::Refused(why) => Some(Way::Refused(why)),
        RouteLeads::Onwards => None,
    }
}

fn exit(cluster: &Cluster, uplinks: &[Uplink], way: &Way) -> Exit {
    let (view, address) = match way {
        Way::Refused(why) => return Exit::Refused(*why),
        Way::Gateway(view, address) | Way::Neighbour(view, address) => (view, Some(*address)),
        Way::Link(view) => (view, None),
    };
    let device = view.device;
    let Some(uplink) = uplinks.iter().find(|uplink| uplink.device == device) else {
        // Its device is none that the dataplane can send by.
        return Exit::Refused(NoWay::NoRoute);
    };
    let resolved = address.and_then(|address| {
        let neighbour = LinkAddress { device, address };
        cluster.link_neighbours.get(&neighbour).copied()
    });
    let upkeep = match way {
        // Control has gateways kept as long as a route leads there.
        Way::Gateway(..) | Way::Refused(_) => Upkeep::Kept,
        Way::Neighbour(..) | Way::Link(_) => resolved.map_or(Upkeep::Unasked, |it| it.upkeep),
    };
    Exit::To(NextHop {
        port: uplink.port,
        source_mac: uplink.mac,
        mac: resolved.map(|it| it.mac),
        mtu: view.mtu.map_or(uplink.mtu, |mtu| mtu.min(uplink.mtu)),
        source: view.source.map(Addr::from),
        upkeep,
    })
}
