//! A set of backends and the consistent choice among them.

use std::hash::BuildHasher;

use foldhash::quality::FixedState;
use podway_wire::Addr;

/// One that serves: a pod's address and the port of its EndpointSlice.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Backend {
    /// The address.
    pub addr: Addr,
    /// The port, in host order.
    pub port: u16,
}

/// A set of backends and the Maglev table over it (Eisenbud et al., NSDI 2016, 3.4).
///
/// The table's size goes up in steps, so that most changes of the set keep it and move few flows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Backends {
    all: Vec<Backend>,
    table: Table,
}

/// Places of backends in [`Backends::all`], as narrow as their number allows.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum Table {
    /// Nothing to choose from: at most one backend.
    #[default]
    None,
    Narrow(Box<[u8]>),
    Middle(Box<[u16]>),
    Wide(Box<[u32]>),
}

impl Backends {
    /// The set of these; order and repetition don't matter.
    pub fn new(mut all: Vec<Backend>) -> Backends {
        all.sort_unstable();
        all.dedup();
        all.shrink_to_fit();
        let table = match all.len() {
            0 | 1 => Table::None,
            count if count <= usize::from(u8::MAX) => {
                Table::Narrow(maglev(&all).iter().map(|place| *place as u8).collect())
            }
            count if count <= usize::from(u16::MAX) => {
                Table::Middle(maglev(&all).iter().map(|place| *place as u16).collect())
            }
            _ => Table::Wide(maglev(&all).into()),
        };
        Backends { all, table }
    }

    /// Every backend, in order.
    pub fn all(&self) -> &[Backend] {
        &self.all
    }

    /// The backend for a flow's hash; `None` if there are none.
    #[inline]
    pub fn pick(&self, hash: u64) -> Option<Backend> {
        let place = match &self.table {
            Table::None => return self.all.first().copied(),
            Table::Narrow(table) => usize::from(table[slot(hash, table.len())]),
            Table::Middle(table) => usize::from(table[slot(hash, table.len())]),
            Table::Wide(table) => table[slot(hash, table.len())] as usize,
        };
        self.all.get(place).copied()
    }

    /// True if it is one of them.
    pub fn contains(&self, backend: &Backend) -> bool {
        self.all.binary_search(backend).is_ok()
    }
}

/// Spreads any hash, even a small number, over `length` slots without a division.
#[inline]
fn slot(hash: u64, length: usize) -> usize {
    let mixed = hash.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    ((u128::from(mixed) * length as u128) >> 64) as usize
}

/// Every slot's backend: each in turn takes the next slot of its own permutation that is still free.
fn maglev(all: &[Backend]) -> Vec<u32> {
    const FREE: u32 = u32::MAX;
    let size = table_size(all.len());
    let hasher = FixedState::default();
    let mut walks: Vec<(u32, u32)> = all
        .iter()
        .map(|backend| {
            let hash = hasher.hash_one(backend);
            let offset = (hash >> 32) as u32 % size;
            (offset, hash as u32 % (size - 1) + 1)
        })
        .collect();
    let mut table = vec![FREE; size as usize];
    let mut free = size;
    'full: loop {
        for (place, (next, skip)) in walks.iter_mut().enumerate() {
            while table[*next as usize] != FREE {
                *next = step(*next, *skip, size);
            }
            table[*next as usize] = place as u32;
            free -= 1;
            if free == 0 {
                break 'full table;
            }
        }
    }
}

/// The slot after `from` in a permutation; `size` is prime, so that any skip visits all of them.
#[inline]
fn step(from: u32, skip: u32, size: u32) -> u32 {
    let next = from + skip;
    if next >= size { next - size } else { next }
}

/// A prime of 100 slots or more a backend, of 10 where that would be over 64 Ki; the same for up to 10, 20, 50, … backends.
///
/// Another size moves most flows: small sets, which are most of them, never change it.
fn table_size(count: usize) -> u32 {
    let class = (1..)
        .flat_map(|power| [1, 2, 5].map(|digit| digit * 10u64.pow(power)))
        .find(|class| *class >= count as u64)
        .expect("classes go on");
    let slots = (100 * class).min(65_000).max(10 * class);
    let prime = (slots..).find(|number| is_prime(*number));
    u32::try_from(prime.expect("primes go on")).expect("fewer than 400 million backends")
}

fn is_prime(number: u64) -> bool {
    let divisors = (2..).take_while(|divisor| divisor * divisor <= number);
    number > 1
        && divisors
            .into_iter()
            .all(|divisor| !number.is_multiple_of(divisor))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::HashMap;

    fn backends(count: u32) -> Vec<Backend> {
        (0..count)
            .map(|number| Backend {
                addr: Addr::v4((0x0af4_0000 + number).to_be_bytes()),
                port: 8080,
            })
            .collect()
    }

    #[test]
    fn every_backend_occurs_evenly_and_no_other() {
        assert_eq!(Backends::new(Vec::new()).pick(3), None);
        for count in [1, 2, 3, 10, 11, 97, 700, 3_000] {
            let all = backends(count);
            let set = Backends::new(all.iter().rev().chain(&all).copied().collect());
            assert_eq!(set.all(), all);
            let mut seen: HashMap<Backend, u64> = HashMap::new();
            let picks = u64::from(count) * 500;
            for hash in 0..picks {
                *seen.entry(set.pick(hash).expect("a backend")).or_default() += 1;
            }
            assert_eq!(seen.len(), all.len());
            assert!(seen.keys().all(|backend| set.contains(backend)));
            let (least, most) = (seen.values().min(), seen.values().max());
            assert!(
                least >= Some(&400) && most <= Some(&600),
                "{count}: {least:?} {most:?}"
            );
        }
    }

    /// Prints, for the record, which part of all flows gets another backend; ideally only those of the one that goes.
    #[test]
    fn few_flows_move_when_one_of_many_goes() {
        for count in [2u32, 3, 6, 10, 50, 100] {
            let all = backends(count);
            let before = Backends::new(all.clone());
            let gone = all[count as usize / 3];
            let after = Backends::new(all.into_iter().filter(|one| *one != gone).collect());
            let flows = 100_000u64;
            let moves = |hash: &u64| before.pick(*hash) != after.pick(*hash);
            let moved = (0..flows).filter(moves).count() as f64 / flows as f64;
            let ideal = 1.0 / f64::from(count);
            println!("1 of {count} goes: {moved:.3} of the flows move, ideally {ideal:.3}");
            // With 100 slots a backend, of the others 5 in a hundred move with it.
            assert!(
                (ideal - 0.06..ideal + 0.06).contains(&moved),
                "{count}: {moved}"
            );
        }
    }

    #[test]
    fn sizes_are_primes_in_steps_and_ten_thousand_services_stay_near_10_mb() {
        let sizes = [2, 3, 5, 10, 11, 500, 501, 5_000, 100_000].map(table_size);
        assert_eq!(
            sizes,
            [
                1009, 1009, 1009, 1009, 2003, 50_021, 65_003, 65_003, 1_000_003
            ]
        );
        assert_eq!(
            table_size(10) as usize * size_of::<u8>() * 10_000,
            10_090_000
        );
    }

    #[test]
    fn more_backends_than_a_narrow_table_names_still_all_occur() {
        let set = Backends::new(backends(70_000));
        let Table::Wide(table) = &set.table else {
            panic!("a wide table");
        };
        let mut places: Vec<u32> = table.to_vec();
        places.sort_unstable();
        places.dedup();
        assert_eq!(places.len(), 70_000);
    }
}
