//! From a packet to its way: a remembered decision that still holds, or a new one that is then remembered.

use std::sync::Arc;

use podway_state::{Counters, Direction, FlowTable, Hit, INHERITED, NewFlow, Refused};
use podway_tables::{Backend, Found, Hop, ServiceKey, Snapshot};
use podway_wire::{Addr, Family, FlowKey, Mac, Parsed, Protocol, macs};

use crate::affinity::{Client, Stays};
use crate::count::event_index;
use crate::decide::{Arrival, Decision, Reply, Stop, decide, judge_egress, judge_ingress};
use crate::emit::Towards;
use crate::engine::{Existing, Moment, Settings, Shared};
use crate::inherit::inherited;
use crate::judged::Judged;
use crate::remember::Remembered;
use crate::segment_size::{begins_midstream, is_large, shown};
use crate::serve::{SourceNat, affinity};
use crate::source_port::source_ports;
use crate::track::{Heading, Timeouts, Track};
use crate::{DropReason, Event, Observed, Packet};

/// How a packet goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// The key that it goes on with.
    pub(crate) translated: FlowKey,
    /// Where it goes.
    pub(crate) hop: Hop,
    /// Whom on the wire, if that was learnt.
    pub(crate) wire: Option<Mac>,
}

impl Way {
    /// Where that is, for a packet of this family; `entropy` is its flow's.
    #[inline]
    pub(crate) fn towards(&self, family: Family, entropy: u64) -> Towards {
        Towards {
            hop: self.hop,
            family,
            wire: self.wire,
            entropy,
        }
    }
}

/// A decision that is not remembered yet, and whose source port may have to be found.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Fresh {
    remembered: Remembered,
    source: SourceNat,
    stay: Option<Stay>,
}

/// A client that is to stay with the backend that it was given.
#[derive(Clone, Copy, Debug)]
struct Stay {
    client: Client,
    last: Option<Stays>,
    backend: Backend,
    timeout_s: u32,
}

/// What a second look at a remembered decision says.
enum Second {
    /// It holds.
    Holds,
    /// It was about a pod or backend that is no more: forget it and decide anew.
    Gone,
    /// The backend of a connection is no more.
    Ended,
    /// What policies say of it now.
    Judged(Decision),
}

/// The flow table, as one worker uses it.
pub(crate) struct Flows {
    table: Arc<FlowTable>,
    counters: Arc<Counters>,
    worker: usize,
    timeouts: Timeouts,
    existing: Existing,
    last: Option<Decision>,
    judged: Judged,
}

impl Flows {
    pub(crate) fn new(shared: &Shared, settings: Settings) -> Flows {
        let Settings {
            worker,
            timeouts,
            existing,
        } = settings;
        Flows {
            table: shared.flows.clone(),
            counters: shared.counters.clone(),
            worker,
            timeouts,
            existing,
            last: None,
            judged: Judged::new(shared.hits.clone(), worker),
        }
    }

    pub(crate) fn last_decision(&self) -> Option<&Decision> {
        self.last.as_ref()
    }

    pub(crate) fn observed(&self) -> Vec<Observed> {
        self.judged.observed()
    }

    /// Starts to fetch what [`Flows::known`] will read, and gives the key's hash for it.
    #[inline]
    pub(crate) fn prefetch(&self, key: &FlowKey) -> u64 {
        let hash = self.hash(key);
        self.table.prefetch(hash);
        hash
    }

    pub(crate) fn table(&self) -> &FlowTable {
        &self.table
    }

    #[inline]
    pub(crate) fn hash(&self, key: &FlowKey) -> u64 {
        self.table.hash(&key.words())
    }

    /// What is remembered of a packet's flow.
    #[inline]
    pub(crate) fn find(&self, key: &FlowKey, hash: u64) -> Option<Hit> {
        self.table.lookup(&key.words(), hash)
    }

    /// The way that was remembered, judged again if what decided it has changed since; `None` if it holds no more.
    #[inline]
    pub(crate) fn known(
        &self,
        moment: Moment<'_>,
        key: &FlowKey,
        hit: &Hit,
    ) -> Result<Option<Way>, Stop> {
        let Some(words) = self.current(moment, key, hit)? else {
            return Ok(None);
        };
        let way = Remembered::way(&words, hit.direction);
        Ok(way.map(|(hop, wire)| Way {
            translated: FlowKey::of_words(hit.other).reverse(),
            hop,
            wire,
        }))
    }

    /// The way of an ICMP error about a packet of the flow with this (reversed) key, and the flow's other key.
    pub(crate) fn of_error(
        &self,
        moment: Moment<'_>,
        key: &FlowKey,
    ) -> Result<Option<(FlowKey, Way)>, Stop> {
        let Some(hit) = self.find(key, self.hash(key)) else {
            return Ok(None);
        };
        let way = self.known(moment, key, &hit)?;
        Ok(way.map(|way| (FlowKey::of_words(hit.other), way)))
    }

    /// The way of a packet that nothing is remembered for.
    pub(crate) fn decided(
        &mut self,
        moment: Moment<'_>,
        packet: &Packet<'_>,
        parsed: &Parsed,
        arrival: Arrival,
    ) -> Result<(Way, Fresh), Stop> {
        let snapshot = moment.snapshot;
        let stays = affinity(snapshot, arrival, &parsed.key).map(|(service, timeout_s)| {
            let client = Client {
                addr: parsed.key.source,
                service,
            };
            (
                client,
                timeout_s,
                client.stays(&self.table, (timeout_s, moment.now_ms)),
            )
        });
        let last = stays.and_then(|(_, _, last)| last);
        let decision = decide(snapshot, arrival, parsed, last.map(|last| last.backend));
        self.last = Some(decision);
        self.judged.first(moment, &decision);
        decision.outcome?;
        let stay = stays
            .zip(decision.backend)
            .map(|((client, timeout_s, last), backend)| Stay {
                client,
                last,
                backend,
                timeout_s,
            });
        let hop = decision.hop.ok_or(Stop::Drop(DropReason::NoRoute))?;
        let wire = match arrival {
            Arrival::World => macs(packet.frame.bytes()).map(|(_, source)| source),
            Arrival::Endpoint(_) | Arrival::Host | Arrival::Peer(_) => None,
        };
        let remembered = Remembered::of(&decision, hop, wire);
        let source = decision.source;
        let translated = decision.translated;
        let way = Way {
            translated,
            hop,
            wire: None,
        };
        let fresh = Fresh {
            remembered,
            source,
            stay,
        };
        Ok((way, fresh))
    }

    /// Notes that a packet of a remembered flow goes its way.
    #[inline]
    pub(crate) fn see(&self, hit: &Hit, parsed: &Parsed, now_ms: u32) {
        self.table.touch(hit.flow, now_ms);
        let heading = Heading::of(hit.direction);
        let track = Track(hit.tracking);
        let mut next = track.next(heading, parsed.tcp_flags);
        if next.is_midstream() {
            next = shown(next, heading, parsed);
        }
        if next != track {
            // Another worker may have noted something meanwhile: then the next packet will note this.
            self.table.track(hit.flow, track.0, next.0);
        }
        if next.is_answered() && !track.is_answered() {
            let _ = self.table.answered(hit.flow);
        }
    }

    /// Remembers a new flow as its first packet goes its way.
    ///
    /// The way that comes back differs if another worker remembered the flow first (F12), or if another flow's
    /// replies look like this one's and it had to take another source port (S21).
    #[cold]
    pub(crate) fn remember(
        &self,
        moment: Moment<'_>,
        parsed: &Parsed,
        mut way: Way,
        fresh: Fresh,
    ) -> Result<Way, Stop> {
        let Fresh {
            remembered,
            source,
            stay,
        } = fresh;
        let original = parsed.key.words();
        let mut track = Track::new(parsed.key.protocol).next(Heading::Forward, parsed.tcp_flags);
        let ends = [remembered.forward, remembered.backward];
        let large = ends.iter().any(|hop| is_large(moment.snapshot, *hop));
        if begins_midstream(parsed, large) {
            track = shown(track.begun_before(), Heading::Forward, parsed);
        }
        for port in source_ports(moment.snapshot, &parsed.key, source) {
            way.translated.source_port = port;
            let flow = NewFlow {
                original,
                reply: way.translated.reverse().words(),
                decision: podway_state::Decision {
                    words: remembered.words(),
                    sequence: moment.snapshot.sequence,
                },
                tracking: track.0,
            };
            match self.table.insert(self.worker, &flow, moment.now_ms) {
                Ok(_) => {
                    self.count(Event::Remembered);
                    if let Some(stay) = stay {
                        self.stay(stay, moment.now_ms);
                    }
                    return Ok(way);
                }
                Err(Refused::Exists(hit)) => {
                    self.see(&hit, parsed, moment.now_ms);
                    let known = self.known(moment, &parsed.key, &hit)?;
                    return known.ok_or(Stop::Drop(DropReason::FlowTableFull));
                }
                Err(Refused::Contested) => return Err(Stop::Drop(DropReason::Contested)),
                Err(Refused::Full) => return Err(Stop::Drop(DropReason::FlowTableFull)),
                Err(Refused::EmbryonicQuota) => return Err(Stop::Drop(DropReason::EmbryonicQuota)),
                Err(Refused::ReplyClash) => {}
            }
        }
        Err(Stop::Drop(DropReason::SourcePorts))
    }

    fn stay(&self, stay: Stay, now_ms: u32) {
        let Stay {
            client,
            last,
            backend,
            timeout_s,
        } = stay;
        client.note(&self.table, self.worker, last, backend, (timeout_s, now_ms));
    }

    /// The decision of a flow, if it still holds, in [`Remembered`]'s words; a flow that no longer does is forgotten.
    #[inline]
    fn current(
        &self,
        moment: Moment<'_>,
        key: &FlowKey,
        hit: &Hit,
    ) -> Result<Option<[u64; 4]>, Stop> {
        if let Some(decision) = hit.decision
            && decision.sequence == moment.snapshot.sequence
        {
            return Ok(Some(decision.words));
        }
        let again = self.again(moment, key, hit)?;
        Ok(again.map(|remembered| remembered.words()))
    }

    #[cold]
    fn again(
        &self,
        moment: Moment<'_>,
        key: &FlowKey,
        hit: &Hit,
    ) -> Result<Option<Remembered>, Stop> {
        let snapshot = moment.snapshot;
        let Some(decision) = self.settled(key, hit) else {
            let _ = self.table.remove(hit.flow);
            return Ok(None);
        };
        let pair = Pair::of(key, hit);
        let remembered = match decision.sequence {
            INHERITED => inherited(snapshot, &pair, decision.words),
            _ => Remembered::of_words(decision.words),
        };
        let Some(remembered) = remembered else {
            let _ = self.table.remove(hit.flow);
            return Ok(None);
        };
        let current = decision.sequence != INHERITED
            && remembered.is_current(snapshot, decision.sequence)
            && !remembered.awaits_service(key.protocol);
        let second = match current {
            true => Second::Holds,
            false => {
                self.count(Event::Judged);
                second_look(snapshot, &pair, remembered, self.existing)
            }
        };
        let outcome = match second {
            Second::Holds => Ok(()),
            Second::Judged(decision) => {
                self.judged.again(moment, &decision);
                decision.outcome
            }
            Second::Ended => {
                let _ = self.table.remove(hit.flow);
                return Err(Stop::Reply(Reply::Reset));
            }
            Second::Gone => {
                let _ = self.table.remove(hit.flow);
                return Ok(None);
            }
        };
        match outcome {
            Ok(()) => {
                let decision = podway_state::Decision {
                    words: remembered.words(),
                    sequence: snapshot.sequence,
                };
                let _ = self.table.set_decision(hit.flow, &decision);
                Ok(Some(remembered))
            }
            // N12: it is remembered while its packets come, or the other end's would begin it anew the other way round.
            Err(stop) => {
                self.table.touch(hit.flow, moment.now_ms);
                Err(stop)
            }
        }
    }

    /// The flow's decision, after whoever is writing it has finished: that takes nanoseconds, unless it died there.
    fn settled(&self, key: &FlowKey, hit: &Hit) -> Option<podway_state::Decision> {
        const TRIES: usize = 1_000;
        let hash = self.hash(key);
        let again = || self.find(key, hash)?.decision;
        hit.decision.or_else(|| {
            (0..TRIES).find_map(|_| {
                std::hint::spin_loop();
                again()
            })
        })
    }

    fn count(&self, event: Event) {
        self.counters.add(self.worker, event_index(event), 1);
    }

    pub(crate) fn sweep(&self, slots: usize, now_ms: u32) {
        let timeouts = &self.timeouts;
        self.table.sweep(self.worker, slots, now_ms, |tracking, _| {
            Track(tracking).timeout_ms(timeouts)
        });
    }
}

/// The keys of a known flow.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Pair {
    /// As packets of its original direction come.
    pub(crate) original: FlowKey,
    /// As they go on.
    pub(crate) translated: FlowKey,
    /// Which way the packet at hand goes.
    direction: Direction,
}

impl Pair {
    fn of(key: &FlowKey, hit: &Hit) -> Pair {
        let other = FlowKey::of_words(hit.other);
        let (original, reply) = match hit.direction {
            Direction::Original => (*key, other),
            Direction::Reply => (other, *key),
        };
        Pair {
            original,
            translated: reply.reverse(),
            direction: hit.direction,
        }
    }
}

/// Judges a live flow again: the pods must be the same ones, the backend must not have gone under UDP (F1, F5), and
/// both policies must still allow it, unless flows are kept that they once allowed (N12).
fn second_look(
    snapshot: &Snapshot,
    pair: &Pair,
    remembered: Remembered,
    existing: Existing,
) -> Second {
    let Pair {
        original,
        translated,
        direction,
    } = *pair;
    let arrival = match remembered.backward {
        Hop::Endpoint(id) => Arrival::Endpoint(id),
        Hop::Peer(id) => Arrival::Peer(id),
        Hop::Host => Arrival::Host,
        Hop::World => Arrival::World,
        Hop::Gateway | Hop::Unallocated => return Second::Gone,
    };
    // F11: an address that is another pod's now has another hop.
    let here = |addr: &Addr, hop: Hop| hop == Hop::World || snapshot.routes.hop(addr) == hop;
    let same_pods =
        here(&translated.target, remembered.forward) && here(&original.source, remembered.backward);
    if !same_pods {
        return Second::Gone;
    }
    if remembered.service.is_some()
        && original.protocol == Protocol::TCP
        && direction == Direction::Original
        && is_gone(snapshot, &translated.target, remembered.forward)
    {
        return Second::Ended;
    }
    if let Some(id) = remembered.service
        && original.protocol == Protocol::UDP
    {
        let backend = Backend {
            addr: translated.target,
            port: translated.target_port,
        };
        let dialled = ServiceKey {
            addr: original.target,
            port: original.target_port,
            protocol: original.protocol,
        };
        if !snapshot.services.serves(id, &dialled, &backend) {
            return Second::Gone;
        }
    }
    // F3: what went on as it was, because nothing matched, is a service's now.
    if remembered.awaits_service(original.protocol)
        && translated.target == original.target
        && is_served(snapshot, arrival, &original)
    {
        return Second::Gone;
    }
    if existing == Existing::Keep {
        return Second::Holds;
    }
    let mut decision = Decision {
        service: remembered.service,
        translated,
        hop: Some(remembered.forward),
        ..Decision::new(arrival, original)
    };
    decision.outcome =
        judge_egress(snapshot, &mut decision).and_then(|()| judge_ingress(snapshot, &mut decision));
    Second::Judged(decision)
}

/// True if a new flow like this one would be given a backend.
fn is_served(snapshot: &Snapshot, arrival: Arrival, original: &FlowKey) -> bool {
    let dialled = ServiceKey {
        addr: original.target,
        port: original.target_port,
        protocol: original.protocol,
    };
    let Found::Frontend(frontend) = snapshot.services.find(&dialled) else {
        return false;
    };
    let service = snapshot.services.service(frontend.service);
    service.is_some_and(|service| {
        let candidates = service.candidates(frontend.kind, arrival.client());
        !candidates.all().is_empty()
    })
}

/// True if a backend was a pod, and no pod of the cluster has its address any more (F5).
fn is_gone(snapshot: &Snapshot, addr: &Addr, hop: Hop) -> bool {
    let is_node = match hop {
        Hop::Peer(id) => {
            let peer = snapshot.peer(id);
            peer.is_some_and(|peer| peer.addresses.contains(addr))
        }
        Hop::Host | Hop::World | Hop::Gateway => true,
        Hop::Endpoint(_) | Hop::Unallocated => false,
    };
    !is_node && snapshot.policies.identity(addr).is_none()
}
