//! Where an address is: on this node, behind a peer, or nowhere.

use std::sync::Arc;

use ipnet::IpNet;
use podway_wire::Addr;

use crate::{EndpointId, NextHopId, PeerId, PrefixMap, SharedMap};

/// Where a packet goes next.
// Two words: copies in smaller pieces stall whoever reads them as words.
#[repr(u32)]
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// A pod on this node.
    Endpoint(EndpointId),
    /// To a peer.
    Peer(PeerId),
    /// This node's own stack.
    Host,
    /// The gateway itself: us.
    Gateway,
    /// An address of this node's pod ranges that no pod has, or of a peer's that we don't know.
    Unallocated,
    /// An address outside the cluster, and the way there if it was looked for.
    World(NextHopId),
}

impl Hop {
    /// Outside of the cluster, wherever that leads.
    pub const WORLD: Hop = Hop::World(NextHopId::NONE);
}

/// Longest-prefix match from addresses to hops; whole addresses are apart from ranges and looked at first.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    addresses: SharedMap<Addr, Hop>,
    ranges: Arc<PrefixMap<Hop>>,
}

impl Routes {
    /// Where `addr` is; [`Hop::WORLD`] if that is outside of the cluster: the way there is [`crate::Snapshot::hop`]'s to say.
    #[inline]
    pub fn hop(&self, addr: &Addr) -> Hop {
        if let Some(hop) = self.addresses.get(addr) {
            return *hop;
        }
        self.range_hop(addr)
    }

    /// Where `addr` is by the ranges alone.
    #[inline]
    pub fn range_hop(&self, addr: &Addr) -> Hop {
        self.ranges.longest(addr).copied().unwrap_or(Hop::WORLD)
    }

    /// Routes one address, or with `None` leaves it to the ranges; gives what was there.
    pub fn set_address(&mut self, addr: Addr, hop: Option<Hop>) -> Option<Hop> {
        let before = self.addresses.get(&addr).copied();
        if before == hop {
            return before;
        }
        match hop {
            Some(hop) => self.addresses.insert(addr, hop),
            None => self.addresses.remove(&addr),
        }
    }

    /// Replaces the routes of all ranges; of two routes for one range the later one counts.
    pub fn set_ranges(&mut self, routes: impl IntoIterator<Item = (IpNet, Hop)>) {
        let mut ranges = PrefixMap::default();
        for (range, hop) in routes {
            ranges.insert(range, hop);
        }
        self.ranges = Arc::new(ranges);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_goes_before_ranges_and_a_long_range_before_a_short_one() {
        let net = |text: &str| -> IpNet { text.parse().expect("range") };
        let mut routes = Routes::default();
        routes.set_ranges([
            (net("10.0.0.0/8"), Hop::Unallocated),
            (net("10.1.0.0/16"), Hop::Peer(PeerId(1))),
            (net("::/0"), Hop::Peer(PeerId(6))),
        ]);
        let pod = Addr::v4([10, 1, 0, 9]);
        routes.set_address(pod, Some(Hop::Endpoint(EndpointId(4))));
        assert_eq!(routes.hop(&pod), Hop::Endpoint(EndpointId(4)));
        assert_eq!(routes.hop(&Addr::v4([10, 1, 0, 8])), Hop::Peer(PeerId(1)));
        assert_eq!(routes.hop(&Addr::v4([10, 2, 0, 8])), Hop::Unallocated);
        assert_eq!(routes.hop(&Addr::v4([11, 0, 0, 1])), Hop::WORLD);
        assert_eq!(routes.hop(&Addr::v6([0xfd; 16])), Hop::Peer(PeerId(6)));
        assert_eq!(
            routes.set_address(pod, None),
            Some(Hop::Endpoint(EndpointId(4)))
        );
        assert_eq!(routes.hop(&pod), Hop::Peer(PeerId(1)));
    }
}
