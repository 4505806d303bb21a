// SPDX-License-Identifier: MIT OR Apache-2.0
//! Questions that have not been answered yet. Each is closed exactly once, by its last answer or by the end.

use std::collections::BTreeMap;

/// Open questions by their ids, at most as many as was said at birth.
#[derive(Debug)]
pub struct Pending<T> {
    open: BTreeMap<u64, T>,
    next: u64,
    most: usize,
}

impl<T> Pending<T> {
    /// None open; at most `most` at a time.
    pub fn new(most: usize) -> Self {
        Self { open: BTreeMap::new(), next: 1, most }
    }

    /// Opens a question; gives its id, which is never used again, or nothing when too many are open.
    pub fn open(&mut self, waiting: T) -> Option<u64> {
        if self.open.len() >= self.most {
            return None;
        }
        let id = self.next;
        self.next += 1;
        self.open.insert(id, waiting);
        Some(id)
    }

    /// Who waits for the answer, if the question is open.
    pub fn get(&self, id: u64) -> Option<&T> {
        self.open.get(&id)
    }

    /// Closes a question; gives who waited.
    pub fn close(&mut self, id: u64) -> Option<T> {
        self.open.remove(&id)
    }

    /// Closes those for which `over` says so.
    pub fn purge(&mut self, over: impl Fn(&T) -> bool) {
        self.open.retain(|_, waiting| !over(waiting));
    }

    /// Whether a question of this id was ever opened.
    pub fn was_opened(&self, id: u64) -> bool {
        (1..self.next).contains(&id)
    }

    /// Some question that is open.
    pub fn any(&self) -> Option<(u64, &T)> {
        self.open.first_key_value().map(|(id, waiting)| (*id, waiting))
    }

    /// How many are open.
    pub fn len(&self) -> usize {
        self.open.len()
    }

    /// Whether none is.
    pub fn is_empty(&self) -> bool {
        self.open.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_is_closed_once_and_there_are_never_too_many() {
        let mut pending = Pending::new(2);
        let (one, two) = (pending.open('a').unwrap(), pending.open('b').unwrap());
        assert_ne!(one, two);
        assert_eq!(pending.open('c'), None);
        assert_eq!(pending.close(one), Some('a'));
        assert_eq!(pending.close(one), None);
        let three = pending.open('c').unwrap();
        assert!(three != one && three != two && pending.get(three) == Some(&'c'));
        assert_eq!(pending.len(), 2);
        assert_eq!([0, one, three, three + 1].map(|id| pending.was_opened(id)), [false, true, true, false]);
        pending.purge(|waiting| *waiting == 'b');
        assert_eq!(pending.any(), Some((three, &'c')));
    }
}
