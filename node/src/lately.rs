// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was noted of late, in two generations, so that forgetting costs nothing: when the young one is full it becomes
//! the old one, and what was that is forgotten.

use std::collections::HashSet;
use std::hash::Hash;

/// A set of those that were noted last: at least `most` of them, at most twice as many.
#[derive(Debug)]
pub(crate) struct Lately<T> {
    young: HashSet<T>,
    old: HashSet<T>,
    most: usize,
}

impl<T: Eq + Hash> Lately<T> {
    /// Nothing; `most` is the size of a generation.
    pub(crate) fn new(most: usize) -> Self {
        Self { young: HashSet::new(), old: HashSet::new(), most }
    }

    /// Whether this is known.
    pub(crate) fn contains(&self, one: &T) -> bool {
        self.young.contains(one) || self.old.contains(one)
    }

    /// Notes it.
    pub(crate) fn insert(&mut self, one: T) {
        if self.young.len() >= self.most && !self.young.contains(&one) {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.insert(one);
    }

    /// Forgets it.
    pub(crate) fn remove(&mut self, one: &T) {
        self.young.remove(one);
        self.old.remove(one);
    }

    /// How many are known; whatever was noted again counts twice.
    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.young.len() + self.old.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_ones_are_known_and_no_more_than_twice_as_many() {
        let mut lately = Lately::new(10);
        for n in 0..1000 {
            lately.insert(n);
            assert!((n - 9..=n).filter(|n| *n >= 0).all(|n| lately.contains(&n)));
            assert!(lately.len() <= 20);
        }
        lately.insert(999);
        lately.remove(&999);
        lately.remove(&985);
        assert!(!lately.contains(&999) && !lately.contains(&985) && lately.contains(&998));
    }
}
