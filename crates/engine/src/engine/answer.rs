//! What the engine answers itself: echoes, errors, resets, and whose Ethernet address is asked for.

use podway_tables::{Hop, PortId, Snapshot};
use podway_wire::icmp::IcmpError;
use podway_wire::{Addr, Family, Parsed, icmp, neighbour, reset};

use super::{Engine, Moment};
use crate::count::Event;
use crate::decide::{Arrival, Reply};
use crate::emit::{Towards, egress};
use crate::remember::PackedLastHop;
use crate::{DropReason, Packet};

impl Engine {
    /// Sends an answer of our own back in the packet's place.
    #[cold]
    pub(super) fn answer(
        &mut self,
        moment: Moment<'_>,
        packet: &mut Packet<'_>,
        parsed: &Parsed,
        arrival: Arrival,
        reply: Reply,
    ) -> Result<PortId, DropReason> {
        let snapshot = moment.snapshot;
        let last_hop = packet.last_hop();
        let answer = match reply {
            Reply::Echo => {
                icmp::echo_reply(packet.frame.bytes_mut(), parsed);
                Parsed {
                    key: parsed.key.reverse(),
                    ttl: 64,
                    ..*parsed
                }
            }
            Reply::Reset => {
                if !reset::may_be_answered(parsed) || !self.errors.take(moment.now_ms) {
                    return Err(DropReason::Unanswered);
                }
                reset::answer(&mut packet.frame, parsed).map_err(|_| DropReason::NoHeadroom)?
            }
            Reply::Error(kind) => {
                if !icmp::may_be_answered(parsed) || !self.errors.take(moment.now_ms) {
                    return Err(DropReason::Unanswered);
                }
                let sender = speaker(snapshot, arrival, parsed.family);
                let sender = sender.ok_or(DropReason::Unanswered)?;
                let answer = icmp::error(&mut packet.frame, parsed, &sender, kind)
                    .map_err(|_| DropReason::NoHeadroom)?;
                match kind {
                    IcmpError::NetUnreachable
                    | IcmpError::HostUnreachable
                    | IcmpError::AddressUnreachable
                    | IcmpError::Prohibited => self.count(Event::Unreachable),
                    IcmpError::TimeExceeded
                    | IcmpError::PortUnreachable
                    | IcmpError::TooBig { .. } => {}
                }
                answer
            }
        };
        let towards = Towards {
            hop: arrival.hop(),
            last_hop: PackedLastHop::of(last_hop),
            entropy: parsed.key.entropy(),
        };
        let egress = egress(snapshot, towards).map_err(|_| DropReason::Unanswered)?;
        self.count(Event::Answered);
        self.send(packet, &answer, &egress)
    }

    /// D6: the gateway's addresses are answered for; nobody else's are.
    pub(super) fn neighbour(
        &self,
        snapshot: &Snapshot,
        packet: &mut Packet<'_>,
        arrival: Arrival,
        parsed: Option<Parsed>,
    ) -> Result<PortId, DropReason> {
        let ingress = packet.ingress;
        let mac = snapshot.node.gateway_mac;
        let bytes = packet.frame.bytes();
        let question = match &parsed {
            None => neighbour::arp_request(bytes),
            Some(parsed) => neighbour::solicitation(bytes, parsed),
        };
        let question = question.ok_or(DropReason::NeighbourIgnored)?;
        if let Arrival::Endpoint(id) = arrival {
            let endpoint = snapshot.endpoint(id).ok_or(DropReason::UnknownPort)?;
            let nobody = question.sender.bits() == 0 || question.sender.low_bytes() == [0; 4];
            let own = endpoint.addresses.contains(&question.sender)
                || question.sender.is_link_local()
                || nobody;
            if question.sender_mac != endpoint.mac || !own {
                return Err(DropReason::Spoofed);
            }
        }
        // A pod answers the node's link-local addresses on its own wire.
        let is_own =
            question.target.is_link_local() && snapshot.routes.hop(&question.target) == Hop::Host;
        if !is_own && !snapshot.node.gateways.contains(&question.target) {
            return Err(DropReason::NeighbourIgnored);
        }
        match parsed {
            None => neighbour::arp_answer(packet.frame.bytes_mut(), &question, mac),
            Some(_) => neighbour::advertisement(&mut packet.frame, &question, mac)
                .map_err(|_| DropReason::NoHeadroom)?,
        }
        self.count(Event::Answered);
        Ok(ingress)
    }
}

/// Under which of our addresses errors go to whoever is there: pods know their gateway, and the world knows the node.
fn speaker(snapshot: &Snapshot, arrival: Arrival, family: Family) -> Option<Addr> {
    let node = &snapshot.node;
    let (gateway, address) = (node.gateway(family), node.address(family));
    match arrival {
        Arrival::World => address.or(gateway),
        Arrival::Endpoint(_) | Arrival::Host | Arrival::Peer(_) => gateway.or(address),
    }
}
