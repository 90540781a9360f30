//! The engine: a batch in, a verdict for each packet out.

mod answer;
mod wait;

use std::cell::Cell;
use std::sync::Arc;

use podway_state::{Fragments, PathMtus};
use podway_tables::{Hop, PortId, Snapshot};
use podway_wire::unfinished::Completed;
use podway_wire::{Addr, Fragment, Icmp, Parsed, TCP_SYN, edit, embedded};

use crate::allowance::Allowance;
use crate::count::{Event, drop_index, event_index};
use crate::decide::{Arrival, Decision, Halt, Reply, Stop};
use crate::emit::{Egress, Fit, Limits, Towards, closed, egress, fit, send};
use crate::flow::{Flows, Heard, begins_anew, is_hosts_own};
use crate::parked::Parked;
use crate::path_mtu::{Paths, carries_anything, claimed, speaks_of_the_wire, tunnelled_to};
use crate::reassembly::{Placed, place, released};
use crate::receive::{Kind, receive};
use crate::related::related;
use crate::remember::PackedLastHop;
use crate::segment_size::{longest, offer};
use crate::shared::Part;
use crate::sums::Watched;
use crate::track::{Timeouts, begins};
use crate::wants::Wants;
use crate::{BATCH, Batch, DropReason, Observed, Packet, Parts, Portless, Spares, Verdict};

/// ICMP errors of our own that a worker sends in a second at most (RFC 1812, 4.3.2.8).
const ERRORS_PER_S: u32 = 1_000;

/// What an engine is made with.
#[derive(Clone, Copy, Debug)]
pub struct Settings {
    /// How long idle flows are kept.
    pub timeouts: Timeouts,
    /// What a change of policy means for flows that were allowed before it.
    pub existing: Existing,
}

/// What a change of policy means for flows that were allowed before it (N12).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Existing {
    /// They are judged again, and stop at once if they are no longer allowed.
    #[default]
    Judge,
    /// They go on for as long as they live.
    Keep,
}

/// One worker's engine.
pub struct Engine {
    flows: Flows,
    fragments: Arc<Fragments>,
    paths: Arc<Paths>,
    /// What the batch has counted so far.
    tally: [Cell<u32>; Event::ALL.len()],
    errors: Allowance,
    watched: Watched,
    /// What the first look at a batch found, packet by packet.
    received: Vec<Received>,
    wants: Wants,
    /// Packets that wait for a neighbour.
    parked: Parked,
}

/// What the first look at a packet found.
#[derive(Clone)]
struct Received {
    parsed: Parsed,
    outcome: Result<(Kind, Arrival), DropReason>,
    /// Of its key.
    hash: u64,
}

impl Received {
    const NOTHING: Received = Received {
        parsed: Parsed::BLANK,
        outcome: Err(DropReason::UnknownPort),
        hash: 0,
    };
}

/// The batch's tables and time.
#[derive(Clone, Copy)]
pub(crate) struct Moment<'a> {
    pub(crate) snapshot: &'a Snapshot,
    pub(crate) now_ms: u32,
}

impl Engine {
    /// A worker's engine, with its part of what all share.
    pub fn new(settings: Settings, part: Part) -> Engine {
        let Part {
            flows,
            fragments,
            paths,
            counters,
            hits,
        } = part;
        Engine {
            flows: Flows::new(flows, counters, hits, settings),
            fragments,
            paths,
            tally: std::array::from_fn(|_| Cell::new(0)),
            errors: Allowance::new(ERRORS_PER_S),
            watched: Watched::new(),
            received: vec![Received::NOTHING; BATCH],
            wants: Wants::default(),
            parked: Parked::new(),
        }
    }

    /// The last decision that was made for a packet without a remembered one, for `explain`.
    pub fn last_decision(&self) -> Option<&Decision> {
        self.flows.last_decision()
    }

    /// The last flows that observed policies would have stopped.
    pub fn observed(&self) -> Vec<Observed> {
        self.flows.observed()
    }

    /// Neighbours that packets were for since this was last asked, and that the kernel is to resolve.
    pub fn wanted(&mut self) -> &mut Wants {
        &mut self.wants
    }

    /// True while packets wait for a neighbour: batches are to be processed then, if only empty ones.
    #[inline]
    pub fn has_waiting(&self) -> bool {
        !self.parked.is_empty()
    }

    /// Decides on every packet and edits it; `now_ms` is of any clock, and may wrap.
    pub fn process(&mut self, snapshot: &Snapshot, batch: &mut Batch<'_, '_>, now_ms: u32) {
        let moment = Moment { snapshot, now_ms };
        let Batch { packets, spares } = batch;
        assert!(packets.len() <= BATCH, "{} packets", packets.len());
        if !self.parked.is_empty() {
            self.try_again(moment, spares);
        }
        let mut received = std::mem::take(&mut self.received);
        for (packet, received) in packets.iter_mut().zip(&mut received) {
            let Received {
                parsed,
                outcome,
                hash,
            } = received;
            *outcome = receive(snapshot, packet, parsed);
            match *outcome {
                Ok((Kind::Ip | Kind::Opened, _)) => *hash = self.flows.prefetch(&parsed.key),
                Ok((Kind::Neighbour | Kind::Arp, _)) | Err(_) => {}
            }
        }
        for (packet, received) in packets.iter_mut().zip(&received) {
            self.count(Event::Received);
            let parsed = &received.parsed;
            packet.verdict = match received.outcome {
                Ok((kind @ (Kind::Ip | Kind::Opened), arrival)) => {
                    if kind == Kind::Opened {
                        self.count(Event::Opened);
                    }
                    match parsed.fragment {
                        Fragment::Whole => {
                            self.conclude(moment, packet, (parsed, arrival), received.hash)
                        }
                        Fragment::First | Fragment::Later => {
                            self.fragment(moment, packet, (*parsed, arrival), spares)
                        }
                    }
                }
                Ok((Kind::Neighbour, arrival)) => {
                    self.verdict(self.neighbour(snapshot, packet, arrival, Some(*parsed)))
                }
                Ok((Kind::Arp, arrival)) => {
                    self.verdict(self.neighbour(snapshot, packet, arrival, None))
                }
                Err(reason) => self.verdict(Err(reason)),
            };
        }
        self.received = received;
        self.flush();
    }

    #[inline]
    fn verdict(&self, result: Result<PortId, DropReason>) -> Verdict {
        match result {
            Ok(port) => {
                self.count(Event::Transmitted);
                Verdict::Transmit(port)
            }
            Err(reason) => {
                self.flows.counters().add(drop_index(reason), 1);
                Verdict::Drop(reason)
            }
        }
    }

    /// Looks at some slots of the worker's flows and frees those that have been idle for too long; at some paths, too.
    pub fn sweep(&mut self, slots: usize, now_ms: u32) {
        self.flows.sweep(slots, now_ms);
        self.paths.sweep(now_ms);
    }

    /// A fragment goes the way of its datagram's first one, and waits for that if it has to (D3).
    #[cold]
    fn fragment(
        &mut self,
        moment: Moment<'_>,
        packet: &mut Packet<'_>,
        (mut parsed, arrival): (Parsed, Arrival),
        spares: &mut Spares<'_, '_>,
    ) -> Verdict {
        let placed = place(&self.fragments, packet, &mut parsed, arrival, moment.now_ms);
        let hash = self.flows.prefetch(&parsed.key);
        match placed {
            Err(reason) => self.verdict(Err(reason)),
            Ok(Placed::Waits) => {
                self.count(Event::Waits);
                Verdict::Waits
            }
            Ok(Placed::Later) => self.conclude(moment, packet, (&parsed, arrival), hash),
            Ok(Placed::First(release)) => {
                let verdict = self.conclude(moment, packet, (&parsed, arrival), hash);
                while let Some((mut waited, parsed, arrival)) =
                    released(&self.fragments, &release, spares)
                {
                    self.count(Event::Made);
                    waited.verdict = self.conclude(moment, &mut waited, (&parsed, arrival), hash);
                    spares.put(waited);
                }
                verdict
            }
        }
    }

    fn conclude(
        &mut self,
        moment: Moment<'_>,
        packet: &mut Packet<'_>,
        (parsed, arrival): (&Parsed, Arrival),
        hash: u64,
    ) -> Verdict {
        let result = match self.carry(moment, packet, (parsed, arrival), hash) {
            Ok(port) => Ok(port),
            Err(Halt::Stop(Stop::Drop(reason))) => Err(reason),
            Err(Halt::Stop(Stop::Reply(reply))) => {
                self.answer(moment, packet, parsed, arrival, reply)
            }
            Err(Halt::Unresolved) => return self.wait(moment, packet, (parsed, arrival)),
        };
        self.verdict(result)
    }

    /// The happy path: find the way, check that it can be gone, remember, edit, send.
    #[inline(always)]
    fn carry(
        &mut self,
        moment: Moment<'_>,
        packet: &mut Packet<'_>,
        (parsed, arrival): (&Parsed, Arrival),
        hash: u64,
    ) -> Result<PortId, Halt> {
        if parsed.icmp == Icmp::Error {
            return Ok(self.carry_error(moment, packet, (parsed, arrival))?);
        }
        if self.watched.watches(packet.ingress) {
            self.complete(packet, parsed)?;
        }
        let hit = self.flows.find(&parsed.key, hash);
        let known = match &hit {
            Some(hit) if !begins_anew(hit, parsed) => {
                match self.flows.known(moment, &parsed.key, hit) {
                    Ok(known) => known,
                    Err(stop) => {
                        dials_again(stop, parsed)?;
                        None
                    }
                }
            }
            Some(_) | None => None,
        };
        // What is remembered of the packet's flow, and what is to be.
        let (mut seen, mut fresh) = (hit.as_ref(), None);
        let mut way = match known {
            Some(way) => {
                self.count(Event::Hit);
                way
            }
            None => {
                self.count(Event::Miss);
                self.complete(packet, parsed)?;
                let (way, new) = self.flows.decided(moment, packet, parsed, arrival)?;
                fresh = new;
                if fresh.is_none() {
                    self.count(Event::HostOwn);
                    seen = None;
                }
                self.wants
                    .note(moment.snapshot, way.hop, way.translated.target);
                way
            }
        };
        let towards = way.towards(hash);
        let target = way.translated.target;
        let egress = match egress(moment.snapshot, towards) {
            Ok(egress) => egress,
            Err(reason) => {
                self.wants.note(moment.snapshot, way.hop, target);
                return Err(closed(moment.snapshot, way.hop, reason));
            }
        };
        let limits = || match egress.leads_out() {
            true => Limits {
                path: self.path_mtu(moment, &egress, target),
                segment: longest(moment.snapshot, seen, parsed, arrival),
            },
            false => egress.limits(),
        };
        let fit = fit(&packet.frame, parsed, &egress, limits)?;
        if let Some(fresh) = fresh {
            way = self.flows.remember(moment, (parsed, seen), way, fresh)?;
        } else if let Some(hit) = seen
            && self.flows.see(hit, parsed, moment.now_ms) == Heard::First
        {
            self.complete(packet, parsed)?;
        }
        if way.translated != parsed.key {
            edit::translate(packet.frame.bytes_mut(), parsed, &way.translated);
        }
        if parsed.tcp_flags & TCP_SYN != 0 {
            offer(&self.flows, moment, packet, (parsed, arrival), &egress);
        }
        match fit {
            Fit::Whole => {}
            Fit::Loose => {
                packet.parts = Parts::Joined {
                    longest: egress.mtu(),
                }
            }
            Fit::Cut(cut) => {
                self.count(Event::Cut);
                packet.parts = Parts::Cut(cut.behind(egress.headers()));
            }
        }
        Ok(self.send(packet, parsed, &egress).map_err(Stop::Drop)?)
    }

    /// Completes the checksum of a packet whose sender has left that to a device (D4).
    #[cold]
    fn complete(&self, packet: &mut Packet<'_>, parsed: &Parsed) -> Result<(), Stop> {
        match self.watched.look(packet, parsed).map_err(Stop::Drop)? {
            Completed::Now => self.count(Event::Completed),
            Completed::Finished | Completed::Elsewhere => {}
        }
        Ok(())
    }

    /// The flows that were remembered since the last call and have no ports: their answers have to be taken off the wire.
    pub fn portless(&mut self) -> Vec<Portless> {
        self.flows.portless()
    }

    #[inline]
    fn send(
        &self,
        packet: &mut Packet<'_>,
        parsed: &Parsed,
        egress: &Egress<'_>,
    ) -> Result<PortId, DropReason> {
        if egress.tunnels() {
            self.count(Event::Pushed);
        }
        send(&mut packet.frame, parsed, egress)
    }

    /// An ICMP error goes where the packets of the flow that it is about come from, and nowhere without one (N11).
    #[cold]
    fn carry_error(
        &mut self,
        moment: Moment<'_>,
        packet: &mut Packet<'_>,
        (parsed, arrival): (&Parsed, Arrival),
    ) -> Result<PortId, Stop> {
        const UNRELATED: Stop = Stop::Drop(DropReason::UnrelatedIcmp);
        let bytes = packet.frame.bytes();
        let embedded = embedded(bytes, parsed).ok_or(UNRELATED)?;
        let snapshot = moment.snapshot;
        if let Some(peer) = tunnelled_to(snapshot, arrival, bytes, parsed, &embedded) {
            let mtu = claimed(bytes, parsed, &embedded).map_err(Stop::Drop)?;
            let mtu = mtu.ok_or(UNRELATED)?;
            if !carries_anything(mtu, peer) {
                return Err(Stop::Drop(DropReason::ImplausibleMtu));
            }
            self.lower(&self.paths.tunnels, &peer.vtep, mtu, moment);
            return Err(Stop::Drop(DropReason::TunnelTooBig));
        }
        let Some((other, way)) = self.flows.of_error(moment, &embedded.key.reverse())? else {
            let own = embedded.key.source == parsed.key.target;
            return match own && is_hosts_own(snapshot, arrival, &parsed.key) {
                true => self.to_host(moment, packet, parsed),
                false => Err(UNRELATED),
            };
        };
        let mtu = claimed(bytes, parsed, &embedded).map_err(Stop::Drop)?;
        if let Some(mtu) = mtu.filter(|_| speaks_of_the_wire(snapshot, arrival)) {
            self.lower(&self.paths.plain, &embedded.key.target, mtu, moment);
        }
        let towards = way.towards(embedded.key.entropy());
        let egress = egress(snapshot, towards).map_err(Stop::Drop)?;
        match fit(&packet.frame, parsed, &egress, || egress.limits())? {
            Fit::Whole | Fit::Loose => {}
            Fit::Cut(_) => return Err(Stop::Drop(DropReason::TooBig)),
        }
        let related = related(&parsed.key, &embedded, &other);
        edit::translate_error(
            packet.frame.bytes_mut(),
            parsed,
            (&related.outer.source, &related.outer.target),
            &embedded,
            &related.inner,
        );
        self.send(packet, parsed, &egress).map_err(Stop::Drop)
    }

    /// The largest IP packet to `target` that gets there.
    // Apart, so that the way of short packets stays as short as it is.
    #[inline(never)]
    fn path_mtu(&self, moment: Moment<'_>, egress: &Egress<'_>, target: Addr) -> u32 {
        self.paths.mtu(&self.flows, egress, &target, moment.now_ms)
    }

    /// Notes what a router said of the path to `target`.
    fn lower(&self, paths: &PathMtus, target: &Addr, mtu: u16, moment: Moment<'_>) {
        let hash = self.flows.hash_of(target);
        if paths.lower(target.words(), hash, mtu, moment.now_ms) {
            self.count(Event::PathLowered);
        }
    }

    /// R3: an error about what this node's own stack sent is its own, whatever the port was.
    #[cold]
    fn to_host(
        &self,
        moment: Moment<'_>,
        packet: &mut Packet<'_>,
        parsed: &Parsed,
    ) -> Result<PortId, Stop> {
        self.count(Event::HostOwn);
        let towards = Towards {
            hop: Hop::Host,
            last_hop: PackedLastHop::NONE,
            entropy: 0,
        };
        let egress = egress(moment.snapshot, towards).map_err(Stop::Drop)?;
        self.send(packet, parsed, &egress).map_err(Stop::Drop)
    }

    #[inline]
    fn count(&self, event: Event) {
        let counted = &self.tally[event_index(event)];
        counted.set(counted.get() + 1);
    }

    /// Shows others what the batch has counted: one addition an event, not one a packet.
    fn flush(&self) {
        for (index, counted) in self.tally.iter().enumerate() {
            match counted.take() {
                0 => {}
                count => self.flows.counters().add(index, u64::from(count)),
            }
        }
    }
}

/// F6: who dials again what is gone is no stranger to what is there now; everybody else is told that it is gone.
#[cold]
fn dials_again(stop: Stop, parsed: &Parsed) -> Result<(), Stop> {
    match stop {
        Stop::Reply(Reply::Reset) if begins(parsed) => Ok(()),
        Stop::Reply(_) | Stop::Drop(_) => Err(stop),
    }
}
