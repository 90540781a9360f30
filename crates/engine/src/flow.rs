//! From a packet to its way: a remembered decision that still holds, or a new one that is then remembered.

use std::cell::RefCell;

use podway_state::{FlowTable, Hit, INHERITED, NewFlow, Refused, Row, Share};
use podway_tables::{Backend, Hop, Snapshot};
use podway_wire::{Addr, FlowKey, Parsed, Protocol};

use crate::affinity::{self, Client, Stays};
use crate::count::event_index;
use crate::decide::{Arrival, Decision, Reply, Stop, decide};
use crate::emit::Towards;
use crate::engine::{Existing, Moment, Settings};
use crate::hits::OwnHits;
use crate::inherit::inherited;
use crate::judged::Judged;
use crate::remember::{Known, PackedLastHop, Remembered};
use crate::second_look::{Pair, Second, Seen, second_look};
use crate::segment_size::{begins_midstream, is_large, shown};
use crate::serve::{self, SourceNat};
use crate::source_port::{is_numbered, source_ports};
use crate::track::{Heading, Timeouts, Track, begins};
use crate::{BATCH, DropReason, Event, Observed, Packet};

/// How a packet goes on.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Way {
    /// The key that it goes on with.
    pub(crate) translated: FlowKey,
    /// Where it goes.
    pub(crate) hop: Hop,
    /// Whom the flow's packets came from on the wire, if they did.
    pub(crate) last_hop: PackedLastHop,
}

impl Way {
    /// Where that is; `entropy` is its flow's.
    #[inline]
    pub(crate) fn towards(&self, entropy: u64) -> Towards {
        Towards {
            hop: self.hop,
            last_hop: self.last_hop,
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

/// What a packet was to its flow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Heard {
    /// The first answer.
    First,
    /// Any other packet.
    More,
}

/// A flow to the world by a protocol without ports: its answers are told by their sender only (R5).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Portless {
    /// Whom it is to.
    pub peer: Addr,
    /// By which protocol.
    pub protocol: Protocol,
}

impl Portless {
    /// What a remembered flow is of it; `None` if it has ports, or doesn't leave under this node's address.
    pub fn of(original: &FlowKey, translated: &FlowKey, forward: Hop) -> Option<Portless> {
        let numbered = original.protocol.has_ports() || translated.source_port != 0;
        let ours = matches!(forward, Hop::World(_)) && original.source != translated.source;
        let is_packets = original.protocol != affinity::PROTOCOL;
        (ours && is_packets && !numbered).then_some(Portless {
            peer: translated.target,
            protocol: translated.protocol,
        })
    }
}

/// The flow table, as one worker uses it.
pub(crate) struct Flows {
    share: Share,
    counters: Row,
    timeouts: Timeouts,
    existing: Existing,
    last: Option<Decision>,
    judged: Judged,
    portless: RefCell<Vec<Portless>>,
}

impl Flows {
    pub(crate) fn new(share: Share, counters: Row, hits: OwnHits, settings: Settings) -> Flows {
        let Settings { timeouts, existing } = settings;
        Flows {
            share,
            counters,
            timeouts,
            existing,
            last: None,
            judged: Judged::new(hits),
            portless: RefCell::default(),
        }
    }

    pub(crate) fn last_decision(&self) -> Option<&Decision> {
        self.last.as_ref()
    }

    pub(crate) fn observed(&self) -> Vec<Observed> {
        self.judged.observed()
    }

    pub(crate) fn portless(&mut self) -> Vec<Portless> {
        std::mem::take(self.portless.get_mut())
    }

    /// Starts to fetch what [`Flows::known`] will read, and gives the key's hash for it.
    #[inline]
    pub(crate) fn prefetch(&self, key: &FlowKey) -> u64 {
        let hash = self.hash(key);
        self.table().prefetch(hash);
        hash
    }

    #[inline]
    pub(crate) fn table(&self) -> &FlowTable {
        self.share.table()
    }

    #[inline]
    pub(crate) fn hash(&self, key: &FlowKey) -> u64 {
        self.table().hash(&key.words())
    }

    /// The hash of an address alone.
    pub(crate) fn hash_of(&self, addr: &Addr) -> u64 {
        let [high, low] = addr.words();
        self.table().hash(&[high, low, 0, 0, 0])
    }

    /// What is remembered of a packet's flow.
    #[inline]
    pub(crate) fn find(&self, key: &FlowKey, hash: u64) -> Option<Hit> {
        self.table().lookup(&key.words(), hash)
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
        Ok(way.map(|(hop, last_hop)| Way {
            translated: FlowKey::of_words(hit.other).reverse(),
            hop,
            last_hop,
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

    /// The way of a packet that nothing is remembered for, and what to remember of it: nothing if it is for this node's
    /// own stack (R3), which answers past us.
    pub(crate) fn decided(
        &mut self,
        moment: Moment<'_>,
        packet: &Packet<'_>,
        parsed: &Parsed,
        arrival: Arrival,
    ) -> Result<(Way, Option<Fresh>), Stop> {
        let snapshot = moment.snapshot;
        let stays = serve::affinity(snapshot, arrival, &parsed.key).map(|(service, timeout_s)| {
            let client = Client {
                addr: parsed.key.source,
                service,
            };
            (
                client,
                timeout_s,
                client.stays(self.table(), (timeout_s, moment.now_ms)),
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
        let last_hop = match arrival {
            Arrival::World => packet.last_hop(),
            Arrival::Endpoint(_) | Arrival::Host | Arrival::Peer(_) => None,
        };
        let remembered = Remembered {
            known: Known::of(snapshot, &decision, hop),
            ..Remembered::of(snapshot, &decision, hop, last_hop)
        };
        let source = decision.source;
        let translated = decision.translated;
        let way = Way {
            translated,
            hop,
            last_hop: PackedLastHop::NONE,
        };
        let fresh = Fresh {
            remembered,
            source,
            stay,
        };
        let unclaimed = decision.backend.is_none() && is_hosts_own(snapshot, arrival, &parsed.key);
        Ok((way, (!unclaimed).then_some(fresh)))
    }

    /// Notes that a packet of a remembered flow goes its way.
    #[inline]
    pub(crate) fn see(&self, hit: &Hit, parsed: &Parsed, now_ms: u32) -> Heard {
        self.table().touch(hit.flow, now_ms);
        let heading = Heading::of(hit.direction);
        let track = Track(hit.tracking);
        let mut next = track.next(heading, parsed.tcp_flags);
        if next.is_midstream() {
            next = shown(next, heading, parsed);
        }
        if next != track {
            // Another worker may have noted something meanwhile: then the next packet will note this.
            self.table().track(hit.flow, track.0, next.0);
        }
        if next.is_answered() && !track.is_answered() {
            let _ = self.table().answered(hit.flow);
            return Heard::First;
        }
        Heard::More
    }

    /// Remembers a new flow as its first packet goes its way; `before` is the flow that had its key, and is over.
    ///
    /// The way that comes back differs if another worker remembered the flow first (F12), or if another flow's
    /// replies look like this one's and it had to take another source port (S21).
    #[cold]
    pub(crate) fn remember(
        &self,
        moment: Moment<'_>,
        (parsed, before): (&Parsed, Option<&Hit>),
        mut way: Way,
        fresh: Fresh,
    ) -> Result<Way, Stop> {
        let Fresh {
            remembered,
            source,
            stay,
        } = fresh;
        if let Some(before) = before {
            let _ = self.table().remove(before.flow);
        }
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
            match self.share.insert(&flow, moment.now_ms) {
                Ok(_) => {
                    self.count(Event::Remembered);
                    let portless = Portless::of(&parsed.key, &way.translated, remembered.forward);
                    self.note(portless);
                    if let Some(stay) = stay {
                        self.stay(stay, moment.now_ms);
                    }
                    return Ok(way);
                }
                Err(Refused::Exists(hit)) => {
                    let _ = self.see(&hit, parsed, moment.now_ms);
                    let known = self.known(moment, &parsed.key, &hit)?;
                    return known.ok_or(Stop::Drop(DropReason::FlowVanished));
                }
                Err(Refused::Contested) => return Err(Stop::Drop(DropReason::Contested)),
                Err(Refused::Full) => return Err(Stop::Drop(DropReason::FlowTableFull)),
                Err(Refused::EmbryonicQuota) => return Err(Stop::Drop(DropReason::EmbryonicQuota)),
                Err(Refused::ReplyClash) => {}
            }
        }
        Err(Stop::Drop(match is_numbered(&parsed.key) {
            true => DropReason::SourcePorts,
            false => DropReason::ProtocolTaken,
        }))
    }

    /// Keeps a flow without ports for whoever asks next; a batch has no more of them than packets.
    fn note(&self, portless: Option<Portless>) {
        let mut noted = self.portless.borrow_mut();
        if noted.len() < BATCH {
            noted.extend(portless);
        }
    }

    fn stay(&self, stay: Stay, now_ms: u32) {
        let Stay {
            client,
            last,
            backend,
            timeout_s,
        } = stay;
        client.note(&self.share, last, backend, (timeout_s, now_ms));
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
            let _ = self.table().remove(hit.flow);
            return Ok(None);
        };
        let pair = Pair::of(key, hit);
        let track = Track(hit.tracking);
        let remembered = match decision.sequence {
            INHERITED => inherited(snapshot, &pair, decision.words),
            _ => Remembered::of_words(decision.words),
        };
        let (second, remembered) = match remembered {
            None => (Second::lost(key.protocol), None),
            Some(remembered) => {
                let current = decision.sequence != INHERITED
                    && remembered.is_current(snapshot, decision.sequence)
                    && !remembered.awaits_service(key.protocol, track);
                let remembered = match current {
                    true => remembered,
                    false => remembered.rerouted(snapshot, &pair),
                };
                let second = match current {
                    true => Second::Holds,
                    false => {
                        self.count(Event::Judged);
                        let seen = Seen {
                            pair,
                            remembered,
                            decided: decision.sequence,
                            track,
                        };
                        second_look(snapshot, &seen, self.existing)
                    }
                };
                let known = match current {
                    true => remembered.known,
                    false => pair.known(snapshot, &remembered),
                };
                (
                    second,
                    Some(Remembered {
                        known,
                        ..remembered
                    }),
                )
            }
        };
        let outcome = match second {
            Second::Holds => Ok(()),
            Second::Passes => return Ok(remembered),
            Second::Judged(decision) => {
                self.judged.again(moment, &decision);
                decision.outcome
            }
            // It stays, so that whatever else comes for it is answered, too.
            Second::Ended => return Err(Stop::Reply(Reply::Reset)),
            Second::Gone => {
                let _ = self.table().remove(hit.flow);
                return Ok(None);
            }
        };
        let Some(remembered) = remembered else {
            return Ok(None);
        };
        match outcome {
            Ok(()) => {
                let decision = podway_state::Decision {
                    words: remembered.words(),
                    sequence: snapshot.sequence,
                };
                let _ = self.table().set_decision(hit.flow, &decision);
                Ok(Some(remembered))
            }
            // N12: it is remembered while its packets come, or the other end's would begin it anew the other way round.
            Err(stop) => {
                self.table().touch(hit.flow, moment.now_ms);
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
        self.counters.add(event_index(event), 1);
    }

    /// What the worker counts in.
    #[inline]
    pub(crate) fn counters(&self) -> &Row {
        &self.counters
    }

    pub(crate) fn sweep(&self, slots: usize, now_ms: u32) {
        let timeouts = &self.timeouts;
        self.share.sweep(slots, now_ms, |tracking, _| {
            Track(tracking).timeout_ms(timeouts)
        });
    }
}

/// True of what comes from the world to an address of this node's own, whose stack answers it without us.
pub(crate) fn is_hosts_own(snapshot: &Snapshot, arrival: Arrival, key: &FlowKey) -> bool {
    arrival == Arrival::World && snapshot.routes.hop(&key.target) == Hop::Host
}

/// True if a packet of this flow begins another one, which is decided anew: a SYN where a connection is over (F15).
///
/// Sequence numbers are not kept, so that RFC 6191's test is left to the one who gets the SYN. An RST that an ordinary
/// packet has followed was spurious (F13), and a SYN after that is the flow's own.
#[inline]
pub(crate) fn begins_anew(hit: &Hit, parsed: &Parsed) -> bool {
    begins(parsed) && Track(hit.tracking).is_over()
}
