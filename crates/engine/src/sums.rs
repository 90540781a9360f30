//! Which ports bring packets whose checksums are unfinished: learnt where it costs nothing, at first packets (D4).
//!
//! A port whose peer leaves checksums to its device does so for the first packet of a flow and for the first answer, too.
//! From then on each of its packets is looked at; the packets of all other ports are not.

use std::cell::Cell;

use podway_tables::PortId;
use podway_wire::Parsed;
use podway_wire::unfinished::{Completed, complete};

use crate::{DropReason, Packet};

/// Ports that can be watched; more are not, and their first packets only are completed.
const PORTS: usize = 1_024;

/// The ports of which each packet is looked at.
pub(crate) struct Watched {
    any: Cell<bool>,
    ports: [Cell<bool>; PORTS],
}

impl Watched {
    pub(crate) fn new() -> Watched {
        Watched {
            any: Cell::new(false),
            ports: [const { Cell::new(false) }; PORTS],
        }
    }

    /// True if each packet of this port is to be looked at.
    #[inline]
    pub(crate) fn watches(&self, port: PortId) -> bool {
        self.any.get() && self.ports.get(usize::from(port.0)).is_some_and(Cell::get)
    }

    /// Completes a packet's checksum if it is unfinished, and watches its port from then on; says whether it was.
    #[cold]
    pub(crate) fn look(
        &self,
        packet: &mut Packet<'_>,
        parsed: &Parsed,
    ) -> Result<Completed, DropReason> {
        let completed = complete(&mut packet.frame, parsed);
        match completed {
            Completed::Finished => return Ok(completed),
            Completed::Now | Completed::Elsewhere => {}
        }
        if let Some(port) = self.ports.get(usize::from(packet.ingress.0)) {
            port.set(true);
            self.any.set(true);
        }
        match completed {
            Completed::Elsewhere => Err(DropReason::UnfinishedChecksum),
            Completed::Finished | Completed::Now => Ok(completed),
        }
    }
}
