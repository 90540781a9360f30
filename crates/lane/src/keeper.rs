//! The owner of the slots: writes both directions of a flow or neither, reads counts back, and takes slots back once
//! no program can be at them any more.

use std::sync::Arc;

use crate::generations::Mark;
use crate::lane::Lane;
use crate::place::{Place, Tenant};
use crate::slot::{Entry, Key, Ticket};

/// What an owner holds to.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// How many slots the flows of one port may have.
    pub slots_per_port: u32,
    /// For how long a revoked slot is left alone: longer than any program runs.
    pub rest_ns: u64,
}

/// A flow to promote.
#[derive(Clone, Copy, Debug)]
pub struct Pair {
    /// The direction of the first packet.
    pub original: Entry,
    /// The answers'.
    pub reply: Entry,
    /// The port whose quota it counts against.
    pub charged: u16,
    /// The caller's name for it, in reports.
    pub token: u64,
}

/// Why a flow stays with the engine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refused {
    /// One of its keys has a slot already.
    Rides,
    /// Its port has as many slots as it may.
    Quota,
    /// All slots that a key may have are taken.
    NoRoom,
}

/// Whether a slot that is reported still carries packets.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fate {
    /// It does.
    Rides,
    /// It doesn't, and this is the last that was counted.
    Over,
}

/// What one direction of a flow carried since the last report of it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The name that the caller gave.
    pub token: u64,
    /// The slot, to revoke it by.
    pub ticket: Ticket,
    /// Packets.
    pub packets: u64,
    /// Bytes of IP.
    pub bytes: u64,
    /// When the last one came; `None` if none did since the last report.
    pub seen_ns: Option<u64>,
    /// Whether it goes on.
    pub fate: Fate,
}

/// The one who writes a lane's slots.
pub struct Keeper {
    lane: Arc<Lane>,
    limits: Limits,
    places: Box<[Place]>,
    charged: Box<[u32]>,
    tag: u32,
    cursor: usize,
}

impl Keeper {
    /// The owner of a lane: whatever an earlier one left in it is revoked, and rests first.
    pub fn new(lane: Arc<Lane>, limits: Limits, now_ns: u64) -> Keeper {
        let slots = lane.shape().slots();
        let mut tag = 0;
        for slot in 0..slots {
            let left = lane.slot(slot).tag();
            tag = tag.max(left);
            lane.slot(slot).clear(left);
        }
        let rests = Place::Retired {
            tenant: None,
            since_ns: now_ns,
        };
        Keeper {
            lane,
            limits,
            places: vec![rests; slots].into(),
            charged: vec![0; usize::from(u16::MAX) + 1].into(),
            tag,
            cursor: 0,
        }
    }

    /// Gives a flow its two slots: the answers' first, so that a packet that rides is answered by one that may.
    pub fn promote(&mut self, pair: &Pair, mark: Mark) -> Result<[Ticket; 2], Refused> {
        if self.rides(&pair.original.key) || self.rides(&pair.reply.key) {
            return Err(Refused::Rides);
        }
        let charged = self.charged[usize::from(pair.charged)];
        if charged + 2 > self.limits.slots_per_port {
            return Err(Refused::Quota);
        }
        let reply = self.free(&pair.reply.key, None).ok_or(Refused::NoRoom)?;
        let original = self
            .free(&pair.original.key, Some(reply))
            .ok_or(Refused::NoRoom)?;
        let reply = self.ticket(reply);
        let original = self.ticket(original);
        self.fill(pair, (&pair.reply, mark), [reply, original]);
        self.fill(pair, (&pair.original, mark), [original, reply]);
        self.charged[usize::from(pair.charged)] = charged + 2;
        Ok([original, reply])
    }

    /// Looks at `count` more slots, round and round: reports what they carried, revokes what depends on something that
    /// changed and what lost its other direction, and frees what has rested.
    pub fn sweep(&mut self, count: usize, now_ns: u64, mut report: impl FnMut(Report)) {
        for _ in 0..count.min(self.places.len()) {
            let slot = self.cursor;
            self.cursor = (slot + 1) % self.places.len();
            let place = self.places[slot];
            self.places[slot] = match place {
                Place::Free => Place::Free,
                Place::Taken(tenant) => self.visit(slot, tenant, now_ns, &mut report),
                Place::Retired { since_ns, .. }
                    if now_ns.saturating_sub(since_ns) < self.limits.rest_ns =>
                {
                    place
                }
                Place::Retired { tenant, .. } => {
                    if let Some(tenant) = tenant {
                        self.charged[usize::from(tenant.charged)] -= 1;
                        report(self.report(slot, &tenant, Fate::Over));
                    }
                    Place::Free
                }
            };
        }
    }

    /// How many slots the flows of a port have, with those that rest.
    pub fn slots_of(&self, port: u16) -> u32 {
        self.charged[usize::from(port)]
    }

    fn visit(
        &self,
        slot: usize,
        mut tenant: Tenant,
        now_ns: u64,
        report: &mut impl FnMut(Report),
    ) -> Place {
        let partner = self.lane.slot(tenant.partner.slot as usize).tag();
        let holds = self.lane.holds(self.lane.slot(slot).mark()) && partner == tenant.partner.tag;
        if !holds {
            self.lane.revoke(tenant.ticket);
        }
        if self.lane.slot(slot).tag() != tenant.ticket.tag {
            return Place::Retired {
                tenant: Some(tenant),
                since_ns: now_ns,
            };
        }
        let carried = self.report(slot, &tenant, Fate::Rides);
        tenant.reported[0] = tenant.reported[0].wrapping_add(carried.packets);
        tenant.reported[1] = tenant.reported[1].wrapping_add(carried.bytes);
        tenant.reported[2] = carried.seen_ns.unwrap_or(tenant.reported[2]);
        report(carried);
        Place::Taken(tenant)
    }

    fn report(&self, slot: usize, tenant: &Tenant, fate: Fate) -> Report {
        let [packets, bytes, seen_ns] = self.lane.counts(slot);
        Report {
            token: tenant.token,
            ticket: tenant.ticket,
            packets: packets.wrapping_sub(tenant.reported[0]),
            bytes: bytes.wrapping_sub(tenant.reported[1]),
            seen_ns: (seen_ns != tenant.reported[2]).then_some(seen_ns),
            fate,
        }
    }

    /// True if a slot that is not revoked has this key, however out of date: two must never have.
    fn rides(&self, key: &Key) -> bool {
        let mut slots = self.lane.candidates(key);
        slots.any(|slot| self.lane.slot(slot).matching(key).is_some())
    }

    fn free(&self, key: &Key, but: Option<usize>) -> Option<usize> {
        let mut slots = self.lane.candidates(key);
        slots.find(|slot| Some(*slot) != but && matches!(self.places[*slot], Place::Free))
    }

    /// The next incarnation of a slot; 0 stands for none.
    fn ticket(&mut self, slot: usize) -> Ticket {
        self.tag = self.tag.checked_add(1).unwrap_or(1);
        Ticket {
            slot: slot as u32,
            tag: self.tag,
        }
    }

    fn fill(&mut self, pair: &Pair, (entry, mark): (&Entry, Mark), tickets: [Ticket; 2]) {
        let [ticket, partner] = tickets;
        let slot = ticket.slot as usize;
        self.places[slot] = Place::Taken(Tenant {
            token: pair.token,
            ticket,
            partner,
            charged: pair.charged,
            reported: self.lane.counts(slot),
        });
        self.lane.slot(slot).fill(entry, mark, ticket.tag);
    }
}
