//! How a flow gets both of its keys, or neither, while other workers want the same ones.
//!
//! 1. Write the slot, then enter both keys in the index: the flow is *pending*, and lookups pass it by.
//! 2. Look for rivals: other pending or live slots with one of the keys. A live one has won. A pending one is killed;
//!    it is waited for instead, a bounded while, if its slot has the lower number, so that two don't kill each other.
//! 3. Turn live, unless a rival has killed us meanwhile; then begin anew.
//!
//! Two with the same key can't both turn live: each enters its keys before it looks, with a fence between, so that at
//! least one sees the other, and goes on only when that one is dead. A worker that is stopped half-way holds nobody
//! up for longer than the wait.

use super::{FlowTable, Handle, NewFlow, Refused, handle, hit};
use crate::partition::Shortage;
use crate::slot::{Contents, Direction, Key, Meta, State};
use crate::sync::{Ordering, fence, spin_loop};

/// Beginnings: each but the first follows a kill by a rival.
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
    /// A rival killed it.
    Killed,
    Refused(Refused),
}

impl FlowTable {
    /// Remembers a flow; for this worker's thread only.
    pub fn insert(&self, worker: usize, new: &NewFlow, now_ms: u32) -> Result<Handle, Refused> {
        let hashes = [self.hash(&new.original), self.hash(&new.reply)];
        let claim = Claim { new, hashes };
        for _ in 0..ATTEMPTS {
            self.check_live(&claim)?;
            let slot = match self.partitions[worker].take(&self.slots) {
                Ok(slot) => slot,
                Err(Shortage::Full) => return Err(Refused::Full),
                Err(Shortage::EmbryonicQuota) => return Err(Refused::EmbryonicQuota),
            };
            let lost = match self.claim(slot, &claim, now_ms) {
                Ok(flow) => return Ok(flow),
                Err(lost) => lost,
            };
            self.withdraw(worker, slot);
            match lost {
                Lost::Killed => continue,
                Lost::Refused(refused) => return Err(refused),
            }
        }
        Err(Refused::Contested)
    }

    /// Spares the slot where the answer is known at once, and answers right when there is none.
    fn check_live(&self, claim: &Claim<'_>) -> Result<(), Refused> {
        if let Some(hit) = self.lookup(&claim.new.original, claim.hashes[0]) {
            return Err(Refused::Exists(hit));
        }
        match self.lookup(&claim.new.reply, claim.hashes[1]) {
            Some(_) => Err(Refused::ReplyClash),
            None => Ok(()),
        }
    }

    fn claim(&self, slot: u32, claim: &Claim<'_>, now_ms: u32) -> Result<Handle, Lost> {
        let crowded = |_| Lost::Refused(Refused::Full);
        let NewFlow {
            original,
            reply,
            decision,
            tracking,
        } = claim.new;
        let own = &self.slots[slot as usize];
        own.fill([original, reply], decision, *tracking, now_ms);
        let pending = own.meta();
        self.index
            .place(claim.hashes[0], slot, Direction::Original)
            .map_err(crowded)?;
        // A packet from a socket to itself is its own answer.
        if original != reply {
            self.index
                .place(claim.hashes[1], slot, Direction::Reply)
                .map_err(crowded)?;
        }
        fence(Ordering::SeqCst);
        self.contest(slot, original, claim.hashes[0], Refused::Exists)?;
        self.contest(slot, reply, claim.hashes[1], |_| Refused::ReplyClash)?;
        let live = pending.in_state(State::Live);
        own.exchange(pending, live).map_err(|_| Lost::Killed)?;
        Ok(handle(slot, live))
    }

    /// Returns once nobody else has the key, or once the claim is lost.
    fn contest(
        &self,
        slot: u32,
        key: &Key,
        hash: u64,
        refused: impl Fn(super::Hit) -> Refused,
    ) -> Result<(), Lost> {
        // Ends: each round kills a rival, finds it settled, or finds us killed.
        while let Some((rival, direction, contents)) = self.rival(slot, key, hash) {
            if contents.meta.state() == State::Live {
                return Err(Lost::Refused(refused(hit(rival, direction, &contents))));
            }
            if rival < slot {
                self.wait_for(rival, contents.meta);
            }
            if self.slots[slot as usize].meta().state() == State::Dead {
                return Err(Lost::Killed);
            }
            let dead = contents.meta.in_state(State::Dead);
            let _ = self.slots[rival as usize].exchange(contents.meta, dead);
        }
        Ok(())
    }

    fn rival(&self, slot: u32, key: &Key, hash: u64) -> Option<(u32, Direction, Contents)> {
        self.index.find(hash, |rival, direction| {
            if rival == slot {
                return None;
            }
            let contents = self.slots[rival as usize].contents()?;
            (contents.keys[direction as usize] == *key).then_some((rival, direction, contents))
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

    /// Gives the slot of a lost claim back.
    fn withdraw(&self, worker: usize, slot: u32) {
        let own = &self.slots[slot as usize];
        let pending = own.meta();
        // It fails if a rival was faster.
        let _ = own.exchange(pending, pending.in_state(State::Dead));
        self.bury(&self.partitions[worker], slot);
    }
}
