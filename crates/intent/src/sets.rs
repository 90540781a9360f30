//! Sets of values by key, most of which have one value.

use std::collections::{BTreeSet, HashMap};
use std::hash::Hash;
use std::iter;

/// The values of each key, in order.
#[derive(Debug)]
pub(crate) struct Sets<K, V>(HashMap<K, Set<V>>);

/// A set that is not empty; alone, its first value takes no memory of its own.
#[derive(Debug)]
struct Set<V> {
    first: V,
    /// All others.
    rest: BTreeSet<V>,
}

impl<K, V> Default for Sets<K, V> {
    fn default() -> Self {
        Sets(HashMap::new())
    }
}

impl<K: Hash + Eq, V: Ord> Sets<K, V> {
    /// Puts a value into the set of a key.
    pub(crate) fn insert(&mut self, key: K, value: V) {
        let Some(set) = self.0.get_mut(&key) else {
            let rest = BTreeSet::new();
            self.0.insert(key, Set { first: value, rest });
            return;
        };
        if value < set.first {
            let second = std::mem::replace(&mut set.first, value);
            set.rest.insert(second);
        } else if value > set.first {
            set.rest.insert(value);
        }
    }

    /// Takes a value out of the set of a key.
    pub(crate) fn remove(&mut self, key: &K, value: &V) {
        let Some(set) = self.0.get_mut(key) else {
            return;
        };
        if *value != set.first {
            set.rest.remove(value);
        } else if let Some(second) = set.rest.pop_first() {
            set.first = second;
        } else {
            self.0.remove(key);
        }
    }

    /// The first value of a key.
    pub(crate) fn first(&self, key: &K) -> Option<&V> {
        Some(&self.0.get(key)?.first)
    }

    /// The values of a key, in order.
    pub(crate) fn of(&self, key: &K) -> impl Iterator<Item = &V> {
        let set = self.0.get(key).into_iter();
        set.flat_map(|set| iter::once(&set.first).chain(&set.rest))
    }

    /// The keys that have values, in no order.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &K> {
        self.0.keys()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_key_has_what_was_put_in_and_not_taken_out(steps in prop::collection::vec((0u8..3, 0u8..6, any::<bool>()), 0..60)) {
            let mut sets = Sets::default();
            let mut plain: BTreeMap<u8, BTreeSet<u8>> = BTreeMap::new();
            for (key, value, is_put) in steps {
                let values = plain.entry(key).or_default();
                match is_put {
                    true => {
                        sets.insert(key, value);
                        values.insert(value);
                    }
                    false => {
                        sets.remove(&key, &value);
                        values.remove(&value);
                    }
                }
                prop_assert!(sets.of(&key).eq(values.iter()));
                prop_assert_eq!(sets.first(&key), values.first());
                plain.retain(|_, values| !values.is_empty());
                let keys: BTreeSet<&u8> = sets.keys().collect();
                prop_assert!(keys.into_iter().eq(plain.keys()));
            }
        }
    }
}
