//! What waits for a neighbour, and what becomes of it (R1).

use podway_wire::icmp::IcmpError;
use podway_wire::{Fragment, Parsed};

use super::{Engine, Halt, Moment};
use crate::count::Event;
use crate::decide::{Arrival, Reply, Stop};
use crate::parked::{Patience, Waited};
use crate::receive::{Kind, receive};
use crate::{DropReason, Packet, Spares, Verdict};

impl Engine {
    /// Has a packet wait until the kernel has resolved its neighbour.
    #[cold]
    pub(super) fn wait(
        &mut self,
        moment: Moment<'_>,
        packet: &Packet<'_>,
        (parsed, arrival): (&Parsed, Arrival),
    ) -> Verdict {
        let is_as_it_came = match (parsed.fragment, arrival) {
            (Fragment::Whole, Arrival::Endpoint(_) | Arrival::Host | Arrival::World) => true,
            // Out of a tunnel, or with another's ports, it would be taken for something else the next time.
            (Fragment::Whole, Arrival::Peer(_)) | (Fragment::First | Fragment::Later, _) => false,
        };
        let generation = moment.snapshot.world.generation;
        if !is_as_it_came || !self.parked.take(packet, moment.now_ms, generation) {
            return self.verdict(Err(DropReason::NoNeighbour));
        }
        self.count(Event::Waits);
        Verdict::Waits
    }

    /// Sends on what waited for a neighbour that is known now, and answers what nobody was found for.
    #[cold]
    pub(super) fn try_again(&mut self, moment: Moment<'_>, spares: &mut Spares<'_, '_>) {
        for _ in 0..self
            .parked
            .due(moment.snapshot.world.generation, moment.now_ms)
        {
            let Some(mut packet) = spares.take() else {
                return self.parked.postpone();
            };
            self.count(Event::Made);
            packet.verdict = match self.parked.next(&mut packet, moment.now_ms) {
                Some(waited) => self.retry(moment, &mut packet, waited),
                None => self.verdict(Err(DropReason::NoFrame)),
            };
            spares.put(packet);
        }
    }

    fn retry(&mut self, moment: Moment<'_>, packet: &mut Packet<'_>, waited: Waited) -> Verdict {
        let mut parsed = Parsed::BLANK;
        let arrival = match receive(moment.snapshot, packet, &mut parsed) {
            Ok((Kind::Ip, arrival)) => arrival,
            // Its port has become another's.
            Ok((Kind::Opened | Kind::Neighbour | Kind::Arp, _)) => {
                return self.verdict(Err(DropReason::NoNeighbour));
            }
            Err(reason) => return self.verdict(Err(reason)),
        };
        let hash = self.flows.prefetch(&parsed.key);
        let stop = match self.carry(moment, packet, (&parsed, arrival), hash) {
            Ok(port) => return self.verdict(Ok(port)),
            Err(Halt::Stop(stop)) => stop,
            Err(Halt::Unresolved) => match waited.patience {
                // From when it came.
                Patience::Left => {
                    let came = Moment {
                        now_ms: waited.since_ms,
                        ..moment
                    };
                    return self.wait(came, packet, (&parsed, arrival));
                }
                Patience::Over => Stop::Reply(Reply::Error(IcmpError::AddressUnreachable)),
            },
        };
        let result = match stop {
            Stop::Drop(reason) => Err(reason),
            Stop::Reply(reply) => self.answer(moment, packet, &parsed, arrival, reply),
        };
        self.verdict(result)
    }
}
