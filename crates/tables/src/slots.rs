//! Values by dense id, in an array whose clones share all that they have in common.

use std::sync::Arc;

/// How many values are copied when one changes.
const CHUNK: usize = 64;

/// An array with gaps that is cheap to clone and to change afterwards: a change copies 64 values.
#[derive(Clone, Debug)]
pub struct Slots<T> {
    chunks: Vec<Arc<[Option<T>]>>,
}

impl<T> Default for Slots<T> {
    fn default() -> Self {
        Slots { chunks: Vec::new() }
    }
}

impl<T: Clone> Slots<T> {
    /// The value with this id.
    #[inline]
    pub fn get(&self, id: u32) -> Option<&T> {
        self.chunks.get(id as usize / CHUNK)?[id as usize % CHUNK].as_ref()
    }

    /// Puts a value at `id`, or with `None` frees it.
    pub fn set(&mut self, id: u32, value: Option<T>) {
        let index = id as usize;
        while value.is_some() && self.chunks.len() <= index / CHUNK {
            self.chunks.push(vec![None; CHUNK].into());
        }
        if let Some(chunk) = self.chunks.get_mut(index / CHUNK) {
            Arc::make_mut(chunk)[index % CHUNK] = value;
        }
    }

    /// The ids whose values are not the same in two arrays, in order; what they share is not looked at.
    pub fn differing<'a>(&'a self, other: &'a Slots<T>) -> impl Iterator<Item = u32>
    where
        T: PartialEq,
    {
        let chunks = self.chunks.len().max(other.chunks.len());
        let shared = move |chunk: &usize| match (self.chunks.get(*chunk), other.chunks.get(*chunk))
        {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (_, _) => false,
        };
        let ids = |chunk: usize| (chunk * CHUNK) as u32..((chunk + 1) * CHUNK) as u32;
        let candidates = (0..chunks)
            .filter(move |chunk| !shared(chunk))
            .flat_map(ids);
        candidates.filter(move |id| self.get(*id) != other.get(*id))
    }

    /// All values with their ids, in order.
    pub fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        let all = self.chunks.iter().flat_map(|chunk| chunk.iter());
        all.zip(0..)
            .filter_map(|(slot, id)| Some((id, slot.as_ref()?)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_gaps_and_clones_keep_what_they_had() {
        let mut old = Slots::default();
        old.set(3, Some('a'));
        old.set(200, Some('b'));
        old.set(9_000, None);
        let mut new = old.clone();
        new.set(3, None);
        new.set(199, Some('c'));
        assert_eq!(old.iter().collect::<Vec<_>>(), [(3, &'a'), (200, &'b')]);
        assert_eq!(new.iter().collect::<Vec<_>>(), [(199, &'c'), (200, &'b')]);
        assert_eq!(
            (new.get(3), new.get(200), new.get(9_000)),
            (None, Some(&'b'), None)
        );
        assert!(Arc::ptr_eq(&old.chunks[1], &new.chunks[1]));
        assert_eq!(old.differing(&new).collect::<Vec<_>>(), [3, 199]);
        assert_eq!(
            Slots::default().differing(&old).collect::<Vec<_>>(),
            [3, 200]
        );
    }
}
