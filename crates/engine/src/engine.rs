//! The engine: a batch in, a verdict for each packet out.

use std::sync::Arc;

use arrayvec::ArrayVec;
use podway_state::{Counters, FlowTable};
use podway_tables::{PortId, Snapshot};
use podway_wire::{Parsed, edit, embedded, icmp, neighbour};

use crate::allowance::Allowance;
use crate::count::{Event, drop_index, event_index};
use crate::decide::{Arrival, Decision, Reply, Stop};
use crate::emit::{egress, passable, send};
use crate::flow::{Flows, Way};
use crate::receive::{Received, receive};
use crate::related::related;
use crate::track::Timeouts;
use crate::{BATCH, DropReason, Packet, Verdict};

/// ICMP errors of our own that a worker sends in a second at most (RFC 1812, 4.3.2.8).
const ERRORS_PER_S: u32 = 1_000;

/// What an engine is made with.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// The worker's index: it owns this part of the flow table and this row of counters.
    pub worker: usize,
    /// How long idle flows are kept.
    pub timeouts: Timeouts,
}

/// One worker's engine.
pub struct Engine {
    flows: Flows,
    counters: Arc<Counters>,
    worker: usize,
    errors: Allowance,
}

/// The batch's tables and time.
#[derive(Clone, Copy)]
pub(crate) struct Moment<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) now_ms: u32,
}

impl Engine {
    /// An engine on shared flows and counters (a row of [`crate::COUNTERS`] for each worker).
    pub fn new(settings: Settings, flows: Arc<FlowTable>, counters: Arc<Counters>) -> Engine {
        let Settings { worker, timeouts } = settings;
        Engine {
            flows: Flows::new(flows, worker, timeouts),
            counters,
            worker,
            errors: Allowance::new(ERRORS_PER_S),
        }
    }

    /// The last decision that was made for a packet without a remembered one, for `explain`.
    pub fn last_decision(&self) -> Option<&Decision> {
        self.flows.last_decision()
    }

    /// Decides on every packet and edits it; `now_ms` is of any clock, and may wrap.
    pub fn process(&mut self, snapshot: &Snapshot, packets: &mut [Packet<'_>], now_ms: u32) {
        let moment = Moment { snapshot, now_ms };
        for batch in packets.chunks_mut(BATCH) {
            let mut received: ArrayVec<(Result<Received, DropReason>, u64), BATCH> =
                ArrayVec::new();
            for packet in batch.iter_mut() {
                let outcome = receive(snapshot, packet);
                let hash = match &outcome {
                    Ok(Received::Ip(parsed, _)) => self.flows.prefetch(&parsed.key),
                    Ok(Received::Neighbour(..)) | Err(_) => 0,
                };
                received.push((outcome, hash));
            }
            for (packet, (outcome, hash)) in batch.iter_mut().zip(received) {
                self.count(Event::Received);
                packet.verdict = match self.conclude(moment, packet, outcome, hash) {
                    Ok(port) => {
                        self.count(Event::Transmitted);
                        Verdict::Transmit(port)
                    }
                    Err(reason) => {
                        self.counters.add(self.worker, drop_index(reason), 1);
                        Verdict::Drop(reason)
                    }
                };
            }
        }
    }

    /// Looks at some slots of the worker's flows and frees those that have been idle for too long.
    pub fn sweep(&mut self, slots: usize, now_ms: u32) {
        self.flows.sweep(slots, now_ms);
    }

    fn conclude(
        &mut self,
        moment: Moment<'_>,
        packet: &mut Packet<'_>,
        outcome: Result<Received, DropReason>,
        hash: u64,
    ) -> Result<PortId, DropReason> {
        let (parsed, arrival) = match outcome? {
            Received::Ip(parsed, arrival) => (parsed, arrival),
            Received::Neighbour(arrival, parsed) => {
                return self.neighbour(moment.snapshot, packet, arrival, parsed);
            }
        };
        if let Arrival::Peer(_) = arrival {
            self.count(Event::Opened);
        }
        match self.carry(moment, packet, &parsed, arrival, hash) {
            Ok(port) => Ok(port),
            Err(Stop::Drop(reason)) => Err(reason),
            Err(Stop::Reply(reply)) => self.answer(moment, packet, &parsed, arrival, reply),
        }
    }

    /// The happy path: find the way, check that it can be gone, remember, edit, send.
    fn carry(
        &mut self,
        moment: Moment<'_>,
        packet: &mut Packet<'_>,
        parsed: &Parsed,
        arrival: Arrival,
        hash: u64,
    ) -> Result<PortId, Stop> {
        if parsed.icmp == podway_wire::Icmp::Error {
            return self.carry_error(moment, packet, parsed);
        }
        let way = match self.flows.known(moment, parsed, hash)? {
            Some(way) => {
                self.count(Event::Hit);
                way
            }
            None => {
                self.count(Event::Miss);
                self.flows.decided(moment, parsed, arrival)?
            }
        };
        let egress = egress(moment.snapshot, way.hop, hash).map_err(Stop::Drop)?;
        passable(packet.frame.bytes(), parsed, &egress)?;
        let Way { translated, .. } = self.flows.remembered(moment, parsed, way)?;
        if translated != parsed.key {
            edit::translate(packet.frame.bytes_mut(), parsed, &translated);
        }
        if egress.tunnels() {
            self.count(Event::Pushed);
        }
        send(moment.snapshot, &mut packet.frame, parsed, &egress).map_err(Stop::Drop)
    }

    /// An ICMP error goes where the packets of the flow that it is about come from, and nowhere without one (N11).
    fn carry_error(
        &mut self,
        moment: Moment<'_>,
        packet: &mut Packet<'_>,
        parsed: &Parsed,
    ) -> Result<PortId, Stop> {
        const UNRELATED: Stop = Stop::Drop(DropReason::UnrelatedIcmp);
        let embedded = embedded(packet.frame.bytes(), parsed).ok_or(UNRELATED)?;
        let (other, hop) = self
            .flows
            .of_error(moment, &embedded.key.reverse())?
            .ok_or(UNRELATED)?;
        let entropy = embedded.key.entropy();
        let egress = egress(moment.snapshot, hop, entropy).map_err(Stop::Drop)?;
        passable(packet.frame.bytes(), parsed, &egress)?;
        let related = related(&parsed.key, &embedded, &other);
        edit::translate_error(
            packet.frame.bytes_mut(),
            parsed,
            (&related.outer.source, &related.outer.target),
            &embedded,
            &related.inner,
        );
        if egress.tunnels() {
            self.count(Event::Pushed);
        }
        send(moment.snapshot, &mut packet.frame, parsed, &egress).map_err(Stop::Drop)
    }

    /// Sends an answer of our own back in the packet's place.
    fn answer(
        &mut self,
        moment: Moment<'_>,
        packet: &mut Packet<'_>,
        parsed: &Parsed,
        arrival: Arrival,
        reply: Reply,
    ) -> Result<PortId, DropReason> {
        let snapshot = moment.snapshot;
        let answer = match reply {
            Reply::Echo => {
                icmp::echo_reply(packet.frame.bytes_mut(), parsed);
                Parsed {
                    key: parsed.key.reverse(),
                    ttl: 64,
                    ..*parsed
                }
            }
            Reply::Error(kind) => {
                if !icmp::may_be_answered(parsed) || !self.errors.take(moment.now_ms) {
                    return Err(DropReason::Unanswered);
                }
                let node = &snapshot.node;
                let ours = node.gateways.iter().chain(&node.addresses);
                let sender = ours.copied().find(|addr| addr.family() == parsed.family);
                let sender = sender.ok_or(DropReason::Unanswered)?;
                icmp::error(&mut packet.frame, parsed, &sender, kind)
                    .map_err(|_| DropReason::NoHeadroom)?
            }
        };
        let egress = egress(snapshot, arrival.hop(), parsed.key.entropy())?;
        if egress.tunnels() {
            self.count(Event::Pushed);
        }
        self.count(Event::Answered);
        send(snapshot, &mut packet.frame, &answer, &egress)
    }

    /// D6: the gateway's addresses are answered for; nobody else's are.
    fn neighbour(
        &mut self,
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
        if !snapshot.node.gateways.contains(&question.target) {
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

    #[inline]
    fn count(&self, event: Event) {
        self.counters.add(self.worker, event_index(event), 1);
    }
}
