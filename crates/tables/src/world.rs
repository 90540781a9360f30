//! The ways out of the cluster, as the host's own routing tables have them: a pod's router is its node (R1).

use ipnet::IpNet;
use podway_wire::{Addr, Family, Mac};

use crate::prefixes::mask_and_bits;
use crate::{PortId, SharedMap, Slots};

/// A way out of the cluster, by its place in [`World`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NextHopId(pub u32);

impl NextHopId {
    /// No way that the tables know of; what came from the wire may still be answered to whom it came from.
    pub const NONE: NextHopId = NextHopId(0x0fff_ffff);
}

/// What a route says of packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// They go there.
    To(NextHop),
    /// They don't go.
    Refused(NoWay),
}

/// Whom packets are sent to, and how.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NextHop {
    /// The uplink's port.
    pub port: PortId,
    /// The uplink's own Ethernet address.
    pub source_mac: Mac,
    /// The Ethernet address of the gateway, or of the target itself; `None` until the kernel has resolved it.
    pub mac: Option<Mac>,
    /// The largest IP packet, in bytes.
    pub mtu: u32,
    /// The address of ours that the route prefers; `None`: the node's first.
    pub source: Option<Addr>,
    /// Whether the kernel was asked to keep it resolved.
    pub upkeep: Upkeep,
}

/// Whether the kernel keeps a neighbour's Ethernet address up to date for us.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Upkeep {
    /// It was asked to.
    Kept,
    /// Nobody has asked for it: what is known may grow old.
    Unasked,
}

/// Why packets don't go.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum NoWay {
    /// No route leads there, or one whose device the dataplane can't send by.
    NoRoute,
    /// A route of type `unreachable`.
    Unreachable,
    /// A route of type `prohibit`.
    Prohibited,
    /// A route of type `blackhole`: nobody is told.
    Blackhole,
}

/// What a routing table says of a range.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Leads {
    /// All of it goes one way.
    To(NextHopId),
    /// Each address is a neighbour of its own; those that are not known yet have this way.
    Neighbours(NextHopId),
    /// The next table is asked (a route of type `throw`).
    Onwards,
}

/// An uplink: how what came by it is answered if no route leads back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Uplink {
    /// Its port.
    pub port: PortId,
    /// Its own Ethernet address.
    pub mac: Mac,
    /// The largest IP packet on its wire, in bytes.
    pub mtu: u32,
}

/// The host's routing tables and what they lead to; a clone shares what it has in common with others.
#[derive(Clone, Debug, Default)]
pub struct World {
    /// In the order in which they are asked.
    tables: Vec<RouteTable>,
    /// Neighbours that are known.
    neighbours: SharedMap<Addr, NextHopId>,
    exits: Slots<Exit>,
    /// The devices that lead out.
    pub uplinks: Vec<Uplink>,
    /// When anything of it last changed.
    pub generation: u32,
}

impl World {
    /// The way to an address outside of the cluster: of the longest range in the first table that has one.
    pub fn next_hop(&self, addr: &Addr) -> NextHopId {
        match self.leads(addr) {
            Some(Leads::To(id)) => id,
            Some(Leads::Neighbours(id)) => self.neighbours.get(addr).copied().unwrap_or(id),
            Some(Leads::Onwards) | None => NextHopId::NONE,
        }
    }

    /// What the first table that covers an address says of it.
    pub fn leads(&self, addr: &Addr) -> Option<Leads> {
        self.taken(addr).map(|(_, leads)| leads)
    }

    /// The range of the route that an address is sent by.
    pub fn route(&self, addr: &Addr) -> Option<IpNet> {
        let (mask, _) = self.taken(addr)?;
        let host_bits = mask.trailing_zeros().min(128) as u8;
        let whole = IpNet::from(addr.ip());
        let length = whole.max_prefix_len().saturating_sub(host_bits);
        IpNet::new(addr.ip(), length).ok().map(|it| it.trunc())
    }

    /// The mask of the route that an address is sent by, and what it says.
    fn taken(&self, addr: &Addr) -> Option<(u128, Leads)> {
        let mut all = self.tables.iter().filter_map(|table| table.longest(addr));
        all.find(|(_, leads)| *leads != Leads::Onwards)
    }

    /// What becomes of packets that take a way; `None` for [`NextHopId::NONE`].
    #[inline]
    pub fn exit(&self, id: NextHopId) -> Option<&Exit> {
        self.exits.get(id.0)
    }

    /// Where packets that take a way are sent.
    #[inline]
    pub fn to(&self, id: NextHopId) -> Option<&NextHop> {
        match self.exits.get(id.0) {
            Some(Exit::To(next)) => Some(next),
            Some(Exit::Refused(_)) | None => None,
        }
    }

    /// The uplink at a port.
    pub fn uplink(&self, port: PortId) -> Option<&Uplink> {
        self.uplinks.iter().find(|uplink| uplink.port == port)
    }

    /// Puts a route into the table asked at this place, or with `None` takes it out; host bits are ignored.
    pub fn set_route(&mut self, table: u8, range: &IpNet, leads: Option<Leads>) {
        let index = usize::from(table);
        if self.tables.len() <= index {
            self.tables.resize_with(index + 1, RouteTable::default);
        }
        self.tables[index].set(range, leads);
    }

    /// Says by which way a neighbour is reached; with `None` it is not known any more.
    pub fn set_neighbour(&mut self, addr: Addr, id: Option<NextHopId>) {
        match id {
            Some(id) => self.neighbours.insert(addr, id),
            None => self.neighbours.remove(&addr),
        };
    }

    /// Says what becomes of packets that take a way.
    pub fn set_exit(&mut self, id: NextHopId, exit: Option<Exit>) {
        self.exits.set(id.0, exit);
    }
}

/// Longest-prefix match whose clones share their entries: a change copies a small part of one length's ranges.
#[derive(Clone, Debug, Default)]
struct RouteTable {
    v4: Vec<Length>,
    v6: Vec<Length>,
}

/// All ranges of one length, by the address bits that they fix.
#[derive(Clone, Debug)]
struct Length {
    mask: u128,
    ranges: SharedMap<u128, Leads>,
}

impl RouteTable {
    /// The mask of the longest range that covers an address, and where it leads.
    fn longest(&self, addr: &Addr) -> Option<(u128, Leads)> {
        let lengths = match addr.family() {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        };
        let bits = addr.bits();
        let mut found = lengths
            .iter()
            .filter_map(|length| Some((length.mask, *length.ranges.get(&(bits & length.mask))?)));
        found.next()
    }

    fn set(&mut self, range: &IpNet, leads: Option<Leads>) {
        let (mask, bits) = mask_and_bits(range);
        let lengths = match range {
            IpNet::V4(_) => &mut self.v4,
            IpNet::V6(_) => &mut self.v6,
        };
        // Longer masks are larger numbers, and go first.
        let index = lengths.partition_point(|length| length.mask > mask);
        let is_there = lengths.get(index).is_some_and(|length| length.mask == mask);
        match leads {
            Some(leads) => {
                if !is_there {
                    let ranges = SharedMap::default();
                    lengths.insert(index, Length { mask, ranges });
                }
                lengths[index].ranges.insert(bits, leads);
            }
            None if is_there => {
                lengths[index].ranges.remove(&bits);
                if lengths[index].ranges.is_empty() {
                    lengths.remove(index);
                }
            }
            None => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

    /// Few distinct addresses, so that ranges nest, meet and repeat.
    fn address() -> impl Strategy<Value = IpAddr> {
        let v4 = (0u32..64).prop_map(|bits| IpAddr::V4(Ipv4Addr::from(bits * 0x0410_0401)));
        let v6 = (0u128..64).prop_map(|bits| IpAddr::V6(Ipv6Addr::from(bits << 120 | bits)));
        prop_oneof![v4, v6]
    }

    fn route() -> impl Strategy<Value = (u8, IpNet, Leads)> {
        let leads = (0u32..3, 0u32..20).prop_map(|(kind, id)| match kind {
            0 => Leads::To(NextHopId(id)),
            1 => Leads::Neighbours(NextHopId(id)),
            _ => Leads::Onwards,
        });
        (0u8..3, address(), 0u8..=128, leads).prop_map(|(table, addr, length, leads)| {
            let most = if addr.is_ipv4() { 32 } else { 128 };
            let range = IpNet::new(addr, length.min(most)).expect("length fits");
            (table, range.trunc(), leads)
        })
    }

    /// What the kernel would say: table by table, in each the longest range that covers the address; and which that is.
    fn naive(
        routes: &[(u8, IpNet, Leads)],
        neighbours: &[(IpAddr, u32)],
        probe: &IpAddr,
    ) -> (NextHopId, Option<IpNet>) {
        for table in 0..3 {
            let covering = routes
                .iter()
                .filter(|(at, range, _)| *at == table && range.contains(probe));
            let Some((_, range, leads)) = covering.max_by_key(|(_, range, _)| range.prefix_len())
            else {
                continue;
            };
            match leads {
                Leads::To(id) => return (*id, Some(*range)),
                Leads::Neighbours(id) => {
                    let known = neighbours.iter().rev().find(|(addr, _)| addr == probe);
                    let id = known.map_or(*id, |(_, id)| NextHopId(*id));
                    return (id, Some(*range));
                }
                Leads::Onwards => {}
            }
        }
        (NextHopId::NONE, None)
    }

    proptest! {
        #[test]
        fn r1_the_longest_range_of_the_first_table_wins_as_in_a_scan(
            routes in prop::collection::vec(route(), 0..40),
            gone in prop::collection::vec(0usize..40, 0..10),
            neighbours in prop::collection::vec((address(), 100u32..200), 0..10),
            probes in prop::collection::vec(address(), 1..40),
        ) {
            let mut world = World::default();
            let mut list: Vec<(u8, IpNet, Leads)> = Vec::new();
            for route in &routes {
                let (table, range, leads) = route;
                world.set_route(*table, range, Some(*leads));
                list.retain(|(at, other, _)| (at, other) != (table, range));
                list.push(*route);
            }
            let before = world.clone();
            let kept = list.clone();
            for (table, range, _) in gone.iter().filter_map(|index| routes.get(*index)) {
                world.set_route(*table, range, None);
                list.retain(|(at, other, _)| (at, other) != (table, range));
            }
            for (addr, id) in &neighbours {
                world.set_neighbour((*addr).into(), Some(NextHopId(*id)));
            }
            for probe in probes {
                let addr = Addr::from(probe);
                let answer = |world: &World| (world.next_hop(&addr), world.route(&addr));
                prop_assert_eq!(answer(&world), naive(&list, &neighbours, &probe));
                prop_assert_eq!(answer(&before), naive(&kept, &[], &probe));
            }
        }
    }
}
