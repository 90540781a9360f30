//! Dense ids for keys.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;

/// Gives each key the lowest free id and keeps it until the key is released.
#[derive(Debug)]
pub(crate) struct Ids<K> {
    of: HashMap<K, u32>,
    keys: Vec<Option<K>>,
    free: BTreeSet<u32>,
    next: u32,
}

impl<K> Default for Ids<K> {
    fn default() -> Self {
        Ids {
            of: HashMap::new(),
            keys: Vec::new(),
            free: BTreeSet::new(),
            next: 0,
        }
    }
}

impl<K: Hash + Eq + Clone> Ids<K> {
    /// The id of a key, which is given one if it has none; the second says whether it was.
    pub(crate) fn assign(&mut self, key: &K) -> (u32, Assigned) {
        if let Some(id) = self.of.get(key) {
            return (*id, Assigned::Before);
        }
        let id = self.free.pop_first().unwrap_or(self.next);
        self.next = self.next.max(id + 1);
        self.of.insert(key.clone(), id);
        if self.keys.len() <= id as usize {
            self.keys.resize(id as usize + 1, None);
        }
        self.keys[id as usize] = Some(key.clone());
        (id, Assigned::Now)
    }

    /// The id of a key.
    pub(crate) fn of(&self, key: &K) -> Option<u32> {
        self.of.get(key).copied()
    }

    /// The key with an id.
    pub(crate) fn key(&self, id: u32) -> Option<&K> {
        self.keys.get(id as usize)?.as_ref()
    }

    /// Takes the id of a key back.
    pub(crate) fn release(&mut self, key: &K) -> Option<u32> {
        let id = self.of.remove(key)?;
        self.keys[id as usize] = None;
        self.free.insert(id);
        Some(id)
    }

    /// All keys and their ids, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&K, u32)> {
        self.of.iter().map(|(key, id)| (key, *id))
    }
}

/// Whether a key had its id already.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Assigned {
    Before,
    Now,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_stay_and_the_lowest_free_one_is_next() {
        let mut ids = Ids::default();
        assert_eq!(ids.assign(&'a'), (0, Assigned::Now));
        assert_eq!(ids.assign(&'b'), (1, Assigned::Now));
        assert_eq!(ids.assign(&'a'), (0, Assigned::Before));
        assert_eq!((ids.release(&'a'), ids.release(&'a')), (Some(0), None));
        assert_eq!(ids.assign(&'c'), (0, Assigned::Now));
        assert_eq!(ids.assign(&'a'), (2, Assigned::Now));
        assert_eq!((ids.of(&'b'), ids.of(&'x')), (Some(1), None));
        assert_eq!((ids.key(1), ids.key(9)), (Some(&'b'), None));
    }
}
