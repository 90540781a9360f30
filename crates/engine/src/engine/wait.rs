//! What waits for a neighbour, and what becomes of it (R1).

use podway_wire::icmp::IcmpError;
use podway_wire::{Fragment, Parsed};

use super::{Engine, Moment};
use crate::count::Event;
use crate::decide::{Arrival, Reply};
use crate::parked::Patience;
use crate::receive::{Kind, receive};
use crate::{DropReason, Packet, Spares, Verdict};

impl Engine {
    /// Has a packet wait until the kernel has resolved its neighbour, or answers one that has waited for too long.
    #[cold]
    pub(super) fn wait(
        &mut self,
        moment: Moment<'_>,
        packet: &mut Packet<'_>,
        (parsed, arrival): (&Parsed, Arrival),
    ) -> Verdict {
        match self.parked.patience(moment.now_ms) {
            Patience::Left => {}
            Patience::Over => {
                let reply = Reply::Error(IcmpError::AddressUnreachable);
                let answered = self.answer(moment, packet, parsed, arrival, reply);
                return self.verdict(answered);
            }
        }
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
        let generation = moment.snapshot.world.generation;
        for _ in 0..self.parked.due(generation, moment.now_ms) {
            let Some(mut packet) = spares.take() else {
                return self.parked.postpone();
            };
            self.count(Event::Made);
            packet.verdict = match self.parked.next(&mut packet) {
                Some(()) => self.receive_again(moment, &mut packet),
                None => self.verdict(Err(DropReason::NoFrame)),
            };
            self.parked.settle();
            spares.put(packet);
        }
    }

    fn receive_again(&mut self, moment: Moment<'_>, packet: &mut Packet<'_>) -> Verdict {
        let mut parsed = Parsed::BLANK;
        match receive(moment.snapshot, packet, &mut parsed) {
            Ok((Kind::Ip, arrival)) => {
                let hash = self.flows.prefetch(&parsed.key);
                self.conclude(moment, packet, (&parsed, arrival), hash)
            }
            // Its port has become another's.
            Ok((Kind::Opened | Kind::Neighbour | Kind::Arp, _)) => {
                self.verdict(Err(DropReason::NoNeighbour))
            }
            Err(reason) => self.verdict(Err(reason)),
        }
    }
}
