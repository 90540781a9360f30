//! How a flow gets both of its keys, or neither, while other workers want the same ones.
//!
//! 1. Write the slot, then enter both keys in the index: the flow is *pending*, and lookups pass it by.
//! 2. Look for rivals: other pending or live slots with one of the keys. A live one has won. A pending one is killed;
//!    it is waited for instead, a bounded while, if its slot has the lower number, so that two don't kill each other.
//! 3. Turn live, unless a rival has won or has killed us meanwhile; then begin anew, and find who it was.
//!
//! Two with the same key can't both turn live: each enters its keys before it looks, with a fence between, so that at
//! least one sees the other, and goes on only when that one is dead. A worker that is stopped half-way holds nobody
//! up for longer than the wait.

use super::{FlowTable, Handle, NewFlow, Refused, Share, handle};
use crate::index::Crowded;
use crate::partition::Shortage;
use crate::slot::{Direction, Key, Meta, State};
use crate::sync::{Ordering, fence, spin_loop};

/// Beginnings: each but the first follows a defeat by a rival.
const ATTEMPTS: usize = 16;

/// How long to wait for a rival that takes precedence: ~50 µs, a thousand times what it needs unless it is stopped.
const SPINS: usize = if cfg!(loom) { 2 } else { 2_000 };

/// What every step needs of the flow to be.
struct Claim<'a> {
    new: &'a NewFlow,
    hashes: [u64; 2],
}

/// Why a claim failed.
enum Lost {
    /// A rival has won or has killed it.
    Rival,
    /// The index has no room.
    Crowded,
}

impl Share {
    /// Remembers a flow.
    pub fn insert(&self, new: &NewFlow, now_ms: u32) -> Result<Handle, Refused> {
        let table = self.table();
        let hashes = [table.hash(&new.original), table.hash(&new.reply)];
        let claim = Claim { new, hashes };
        for _ in 0..ATTEMPTS {
            table.check_live(&claim)?;
            let slot = match self.own().take(&table.slots) {
                Ok(slot) => slot,
                Err(Shortage::Full) => return Err(Refused::Full),
                Err(Shortage::EmbryonicQuota) => return Err(Refused::EmbryonicQuota),
            };
            let lost = match table.claim(slot, &claim, now_ms) {
                Ok(flow) => return Ok(flow),
                Err(lost) => lost,
            };
            self.withdraw(slot);
            match lost {
                Lost::Rival => continue,
                Lost::Crowded => return Err(Refused::Full),
            }
        }
        Err(Refused::Contested)
    }

    /// Gives the slot of a lost claim back.
    fn withdraw(&self, slot: u32) {
        let own = &self.table.slots[slot as usize];
        let pending = own.meta();
        // It fails if a rival was faster.
        let _ = own.exchange(pending, pending.in_state(State::Dead));
        self.bury(slot);
    }
}

impl FlowTable {
    /// Refuses what collides with a live flow.
    fn check_live(&self, claim: &Claim<'_>) -> Result<(), Refused> {
        // In this order: a flow of these keys the other way round, which turns live between the two, is a hit.
        let clash = self.lookup(&claim.new.reply, claim.hashes[1]);
        if let Some(hit) = self.lookup(&claim.new.original, claim.hashes[0]) {
            return Err(Refused::Exists(hit));
        }
        match clash {
            Some(_) => Err(Refused::ReplyClash),
            None => Ok(()),
        }
    }

    fn claim(&self, slot: u32, claim: &Claim<'_>, now_ms: u32) -> Result<Handle, Lost> {
        let NewFlow {
            original,
            reply,
            decision,
            tracking,
        } = claim.new;
        let own = &self.slots[slot as usize];
        own.fill([original, reply], decision, *tracking, now_ms);
        let pending = own.meta();
        self.enter(slot, Direction::Original, claim.hashes[0])?;
        // A packet from a socket to itself is its own answer.
        if original != reply {
            self.enter(slot, Direction::Reply, claim.hashes[1])?;
        }
        fence(Ordering::SeqCst);
        self.contest(slot, original, claim.hashes[0])?;
        self.contest(slot, reply, claim.hashes[1])?;
        let live = pending.in_state(State::Live);
        own.exchange(pending, live).map_err(|_| Lost::Rival)?;
        Ok(handle(slot, live))
    }

    fn enter(&self, slot: u32, direction: Direction, hash: u64) -> Result<(), Lost> {
        let placed = self.index.place(hash, slot, direction);
        placed.map_err(|Crowded| Lost::Crowded)
    }

    /// Returns once nobody else has the key, or once the claim is lost.
    fn contest(&self, slot: u32, key: &Key, hash: u64) -> Result<(), Lost> {
        // Ends: each round kills a rival, finds it settled, or finds us beaten.
        while let Some((rival, meta)) = self.rival(slot, key, hash) {
            if meta.state() == State::Live {
                return Err(Lost::Rival);
            }
            if rival < slot {
                self.wait_for(rival, meta);
            }
            if self.slots[slot as usize].meta().state() == State::Dead {
                return Err(Lost::Rival);
            }
            let _ = self.slots[rival as usize].exchange(meta, meta.in_state(State::Dead));
        }
        Ok(())
    }

    /// Another slot that is pending or live and has the key.
    fn rival(&self, slot: u32, key: &Key, hash: u64) -> Option<(u32, Meta)> {
        self.index.find(hash, |rival, direction| {
            if rival == slot {
                return None;
            }
            let contents = self.slots[rival as usize].contents()?;
            (contents.keys[direction as usize] == *key).then_some((rival, contents.meta))
        })
    }

    fn wait_for(&self, rival: u32, pending: Meta) {
        for _ in 0..SPINS {
            if self.slots[rival as usize].meta() != pending {
                return;
            }
            spin_loop();
        }
    }
}
