//! Neighbours that the kernel is to resolve, or to keep resolved, because packets are for them.

use arrayvec::ArrayVec;
use podway_tables::{Hop, PortId, Snapshot, Upkeep};
use podway_wire::Addr;

/// How many are noted between two times that control is told; what doesn't fit is wanted again by its next packet.
const NOTED: usize = 32;

/// A neighbour on the wire of an uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Want {
    /// The uplink's port.
    pub port: PortId,
    /// The neighbour's address.
    pub addr: Addr,
}

/// What was noted since control was last told.
#[derive(Debug, Default)]
pub struct Wants(ArrayVec<Want, NOTED>);

impl Wants {
    /// Notes whom a packet is for, if it goes to a neighbour that nobody keeps resolved.
    #[cold]
    pub(crate) fn note(&mut self, snapshot: &Snapshot, hop: Hop, addr: Addr) {
        let id = match hop {
            Hop::World(id) => id,
            Hop::Endpoint(_) | Hop::Peer(_) | Hop::Host | Hop::Gateway | Hop::Unallocated => return,
        };
        let Some(next) = snapshot.world.to(id) else {
            return;
        };
        let want = Want {
            port: next.port,
            addr,
        };
        match next.upkeep {
            Upkeep::Kept => {}
            Upkeep::Unasked if self.0.contains(&want) => {}
            Upkeep::Unasked => drop(self.0.try_push(want)),
        }
    }

    /// True if nothing was noted.
    #[inline]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Takes what was noted.
    pub fn take(&mut self) -> impl Iterator<Item = Want> + use<> {
        std::mem::take(&mut self.0).into_iter()
    }
}
