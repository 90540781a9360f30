//! Where an address is: on this node, behind a peer, or nowhere.

use ipnet::IpNet;
use podway_wire::Addr;

use crate::{EndpointId, PeerId};

/// Where a packet goes next.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Hop {
    /// A pod on this node.
    Endpoint(EndpointId),
    /// Through the tunnel to a peer.
    Peer(PeerId),
    /// This node's own stack.
    Host,
    /// The gateway itself: us.
    Gateway,
    /// An address of this node's pod ranges that no pod has, or of a peer's that we don't know.
    Unallocated,
    /// An address outside the cluster.
    World,
}

/// Longest-prefix match from addresses to hops.
#[derive(Clone, Debug, Default)]
pub struct Routes {
    #[allow(dead_code)]
    placeholder: Vec<(IpNet, Hop)>,
}

impl Routes {
    /// Where `addr` is; [`Hop::World`] if no route covers it.
    #[inline]
    pub fn hop(&self, addr: &Addr) -> Hop {
        let _ = addr;
        Hop::World
    }
}
