//! A hash map whose clones share all that they have in common.

use std::borrow::Borrow;
use std::collections::HashMap;
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;

use foldhash::fast::FixedState;

/// How many parts a map has: a change copies one of them and the list of them all.
const SHARDS: usize = 256;

type Shard<K, V> = HashMap<K, V, FixedState>;

/// A hash map that is cheap to clone and to change afterwards: a change copies one shard in 256.
///
/// The hasher is fixed: keys come from the cluster, and equal input must give equal tables.
#[derive(Clone, Debug)]
pub struct SharedMap<K, V> {
    shards: Arc<[Arc<Shard<K, V>>]>,
    len: usize,
}

impl<K, V> Default for SharedMap<K, V> {
    fn default() -> Self {
        let empty = Arc::new(Shard::with_hasher(FixedState::default()));
        SharedMap {
            shards: vec![empty; SHARDS].into(),
            len: 0,
        }
    }
}

impl<K: Hash + Eq + Clone, V: Clone> SharedMap<K, V> {
    /// The value at `key`.
    #[inline]
    pub fn get<Q: Hash + Eq + ?Sized>(&self, key: &Q) -> Option<&V>
    where
        K: Borrow<Q>,
    {
        if self.is_empty() {
            return None;
        }
        self.shards[shard_of(key)].get(key)
    }

    /// Puts `value` at `key` and gives what was there.
    pub fn insert(&mut self, key: K, value: V) -> Option<V> {
        let old = self.shard_mut(shard_of(&key)).insert(key, value);
        self.len += usize::from(old.is_none());
        old
    }

    /// Takes what is at `key`.
    pub fn remove<Q: Hash + Eq + ?Sized>(&mut self, key: &Q) -> Option<V>
    where
        K: Borrow<Q>,
    {
        self.get(key)?;
        let old = self.shard_mut(shard_of(key)).remove(key);
        self.len -= usize::from(old.is_some());
        old
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        self.len
    }

    /// True if there are none.
    pub fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// All entries, in no order that means anything.
    pub fn iter(&self) -> impl Iterator<Item = (&K, &V)> {
        self.shards.iter().flat_map(|shard| shard.iter())
    }

    /// The keys whose values are not what they were in `old`; what both share is not looked at.
    pub fn changed(&self, old: &Self) -> Vec<K>
    where
        V: PartialEq,
    {
        let mut keys = Vec::new();
        for (now, then) in self.shards.iter().zip(old.shards.iter()) {
            if Arc::ptr_eq(now, then) {
                continue;
            }
            let altered = now
                .iter()
                .filter(|(key, value)| then.get(*key) != Some(value));
            keys.extend(altered.map(|(key, _)| key.clone()));
            keys.extend(then.keys().filter(|key| !now.contains_key(*key)).cloned());
        }
        keys
    }

    fn shard_mut(&mut self, index: usize) -> &mut Shard<K, V> {
        let shards = Arc::make_mut(&mut self.shards);
        Arc::make_mut(&mut shards[index])
    }
}

/// The middle of the hash: its ends are what the shard itself goes by.
#[inline]
fn shard_of<Q: Hash + ?Sized>(key: &Q) -> usize {
    (FixedState::default().hash_one(key) >> 28) as usize % SHARDS
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_what_it_had_and_the_difference_is_found() {
        let mut old = SharedMap::default();
        for key in 0..10_000u32 {
            old.insert(key, key);
        }
        let mut new = old.clone();
        assert!(new.changed(&old).is_empty());
        new.insert(7, 8);
        new.insert(10_000, 0);
        new.remove(&9);
        new.remove(&77_777);
        let mut changed = new.changed(&old);
        changed.sort();
        assert_eq!(changed, [7, 9, 10_000]);
        assert_eq!(
            (old.get(&7), old.get(&9), old.len()),
            (Some(&7), Some(&9), 10_000)
        );
        assert_eq!(
            (new.get(&7), new.get(&9), new.len()),
            (Some(&8), None, 10_000)
        );
        let shared = new.shards.iter().zip(old.shards.iter());
        assert!(shared.filter(|(a, b)| !Arc::ptr_eq(a, b)).count() <= 3);
    }
}
