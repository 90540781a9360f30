//! Things by number, with gaps: ports by their ids, packet memories by the places that ports know them by.

use std::ops::{Index, IndexMut};

/// Values by a number that they keep for as long as they are there.
#[derive(Debug)]
pub(crate) struct Shelf<T>(Vec<Option<T>>);

impl<T> Shelf<T> {
    /// An empty one.
    pub(crate) fn new() -> Shelf<T> {
        Shelf(Vec::new())
    }

    /// A bound on the numbers.
    pub(crate) fn end(&self) -> usize {
        self.0.len()
    }

    /// What has the number, if anything has.
    #[inline]
    pub(crate) fn get(&self, place: usize) -> Option<&T> {
        self.0.get(place)?.as_ref()
    }

    /// The same, to change.
    #[inline]
    pub(crate) fn get_mut(&mut self, place: usize) -> Option<&mut T> {
        self.0.get_mut(place)?.as_mut()
    }

    /// What has these two numbers, if they differ and both are taken.
    pub(crate) fn two_mut(&mut self, places: [usize; 2]) -> Option<[&mut T; 2]> {
        let [one, other] = self.0.get_disjoint_mut(places).ok()?;
        Some([one.as_mut()?, other.as_mut()?])
    }

    /// Gives `value` a number of its own, in place of what has it.
    pub(crate) fn put(&mut self, place: usize, value: T) {
        if self.0.len() <= place {
            self.0.resize_with(place + 1, || None);
        }
        self.0[place] = Some(value);
    }

    /// Takes what has the number, and frees it.
    pub(crate) fn take(&mut self, place: usize) -> Option<T> {
        self.0.get_mut(place)?.take()
    }

    /// The lowest number that nothing has.
    pub(crate) fn free_place(&self) -> usize {
        let gap = self.0.iter().position(Option::is_none);
        gap.unwrap_or(self.0.len())
    }

    /// The number of the first that is so.
    pub(crate) fn position(&self, mut is_so: impl FnMut(&T) -> bool) -> Option<usize> {
        self.0
            .iter()
            .position(|it| it.as_ref().is_some_and(&mut is_so))
    }

    /// All of them with their numbers, in order.
    #[inline]
    pub(crate) fn numbered(&self) -> impl Iterator<Item = (usize, &T)> {
        let all = self.0.iter().enumerate();
        all.filter_map(|(place, it)| Some((place, it.as_ref()?)))
    }

    /// All of them, in order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = &T> {
        self.0.iter().flatten()
    }

    /// All of them, in order, to change.
    pub(crate) fn iter_mut(&mut self) -> impl Iterator<Item = &mut T> {
        self.0.iter_mut().flatten()
    }
}

/// For numbers that were just looked up, or are kept only for as long as the value is there: others are our bug.
impl<T> Index<usize> for Shelf<T> {
    type Output = T;

    #[inline]
    fn index(&self, place: usize) -> &T {
        self.get(place).expect("a number that is taken")
    }
}

impl<T> IndexMut<usize> for Shelf<T> {
    #[inline]
    fn index_mut(&mut self, place: usize) -> &mut T {
        self.get_mut(place).expect("a number that is taken")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_stay_until_they_are_taken_and_are_given_again() {
        let mut shelf = Shelf::new();
        shelf.put(2, 'c');
        assert_eq!((shelf.free_place(), shelf.end()), (0, 3));
        shelf.put(0, 'a');
        shelf.put(1, 'b');
        assert_eq!(shelf.free_place(), 3);
        assert_eq!(shelf.position(|it| *it == 'c'), Some(2));
        assert_eq!(shelf.two_mut([2, 0]), Some([&mut 'c', &mut 'a']));
        assert_eq!(shelf.two_mut([1, 1]), None);
        assert_eq!(shelf.two_mut([1, 9]), None);
        assert_eq!(
            (shelf.take(1), shelf.take(1), shelf.get(1)),
            (Some('b'), None, None)
        );
        assert_eq!(shelf.iter().collect::<String>(), "ac");
        assert_eq!(shelf.free_place(), 1);
    }

    #[test]
    #[should_panic(expected = "a number that is taken")]
    fn a_number_that_nothing_has_is_our_bug() {
        assert_eq!(Shelf::<u8>::new()[0], 0);
    }
}
