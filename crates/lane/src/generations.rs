//! What slots depend on, as numbers that only grow: one store revokes every slot that depends on it.
//!
//! A slot keeps the sum of the generations that it was judged with. As each of them only grows, the sum is the same
//! only while all of them are, so that a program compares one number however many things a flow depends on.

use crate::sync::{AtomicU64, Ordering};

/// How many generations a slot depends on, besides [`Generation::All`].
pub const WATCHED: usize = 4;

const PORTS: u16 = 4096;
const SERVICES: u16 = 4096;
const ADDRESSES: u16 = 4096;
const PEERS: u16 = 4094;

/// How many there are.
pub(crate) const GENERATIONS: usize = ALL as usize + 1;

const FIRST_SERVICE: u16 = PORTS;
const FIRST_ADDRESS: u16 = FIRST_SERVICE + SERVICES;
const FIRST_PEER: u16 = FIRST_ADDRESS + ADDRESSES;
const WORLD: u16 = FIRST_PEER + PEERS;
const ALL: u16 = WORLD + 1;

/// Something that flows depend on.
///
/// Those that are more than numbers share them: revoking one then revokes the other's flows, too.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Generation {
    /// A pod of this node: its policies, its address, its labels, its device.
    Port(u16),
    /// A service: its backends.
    Service(u32),
    /// An address elsewhere, by a hash: whose it is, and so what policies say of it.
    Address(u32),
    /// Another node: its address, its next hop, its pod ranges.
    Peer(u16),
    /// The ways out of the cluster.
    World,
    /// Everything.
    All,
}

impl Generation {
    pub(crate) fn index(self) -> u16 {
        match self {
            Generation::Port(port) => port % PORTS,
            Generation::Service(service) => FIRST_SERVICE + (service % u32::from(SERVICES)) as u16,
            Generation::Address(hash) => FIRST_ADDRESS + (hash % u32::from(ADDRESSES)) as u16,
            Generation::Peer(peer) => FIRST_PEER + peer % PEERS,
            Generation::World => WORLD,
            Generation::All => ALL,
        }
    }
}

/// What a decision depends on and the generations of that when it was known to hold.
///
/// Only [`crate::Lane::judged`] makes one, so that none is of a decision that was out of date already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    pub(crate) watched: u64,
    pub(crate) sum: u64,
}

/// Four indices of 16 bits.
pub(crate) fn pack(watched: [Generation; WATCHED]) -> u64 {
    watched
        .iter()
        .fold(0, |word, one| word << 16 | u64::from(one.index()))
}

/// The sum of what `watched` names and of [`Generation::All`].
pub(crate) fn sum(generations: &[AtomicU64], watched: u64) -> u64 {
    let watched = (0..WATCHED).map(|at| (watched >> (16 * at)) as u16);
    watched.chain([ALL]).fold(0, |sum, index| {
        let generation = generations[usize::from(index) % GENERATIONS].load(Ordering::Acquire);
        sum.wrapping_add(generation)
    })
}

/// Makes the next generation of one of them.
pub(crate) fn advance(generations: &[AtomicU64], one: Generation) {
    generations[usize::from(one.index())].fetch_add(1, Ordering::AcqRel);
}

#[cfg(all(test, not(loom)))]
mod tests {
    use super::*;

    #[test]
    fn each_kind_has_numbers_of_its_own() {
        assert_eq!(
            GENERATIONS,
            1 << 14,
            "a power of two: programs mask indices"
        );
        let ends = [
            [Generation::Port(0), Generation::Port(4095)],
            [Generation::Service(0), Generation::Service(4095)],
            [Generation::Address(0), Generation::Address(4095)],
            [Generation::Peer(0), Generation::Peer(4093)],
            [Generation::World, Generation::World],
            [Generation::All, Generation::All],
        ];
        let mut next = 0;
        for [first, last] in ends {
            assert_eq!(first.index(), next, "{first:?}");
            next = last.index() + 1;
        }
        assert_eq!(usize::from(next), GENERATIONS);
        let wrapped = [
            Generation::Port(4096),
            Generation::Service(4096),
            Generation::Address(4096),
            Generation::Peer(4094),
        ];
        let firsts = [0, 4096, 8192, 12288];
        assert_eq!(wrapped.map(Generation::index), firsts);
    }

    #[test]
    fn a_sum_changes_with_each_of_its_parts_and_with_no_other() {
        let generations: Vec<AtomicU64> = (0..GENERATIONS).map(|_| AtomicU64::new(0)).collect();
        let watched = [
            Generation::Port(1),
            Generation::Port(2),
            Generation::Service(3),
            Generation::Address(4),
        ];
        let mut last = sum(&generations, pack(watched));
        for one in watched.into_iter().chain([Generation::All]) {
            advance(&generations, one);
            let now = sum(&generations, pack(watched));
            assert_eq!(now, last + 1, "{one:?}");
            last = now;
        }
        advance(&generations, Generation::Port(3));
        advance(&generations, Generation::Peer(4));
        advance(&generations, Generation::World);
        assert_eq!(sum(&generations, pack(watched)), last);
    }
}
