// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is to be looked at when: one moment a key, the earliest first.

use std::collections::{BTreeMap, BTreeSet};

use crate::plan::Moment;

/// At most one alarm for each key.
pub(super) struct Alarms<K> {
    order: BTreeSet<(Moment, K)>,
    at: BTreeMap<K, Moment>,
}

impl<K> Default for Alarms<K> {
    fn default() -> Self {
        Self { order: BTreeSet::new(), at: BTreeMap::new() }
    }
}

impl<K: Ord + Clone> Alarms<K> {
    /// Sets the alarm of a key in place of the one before, or takes it away.
    pub(super) fn set(&mut self, key: K, at: Option<Moment>) {
        let before = match at {
            Some(at) => self.at.insert(key.clone(), at),
            None => self.at.remove(&key),
        };
        if let Some(before) = before {
            self.order.remove(&(before, key.clone()));
        }
        if let Some(at) = at {
            self.order.insert((at, key));
        }
    }

    /// Sets the alarm of a key, unless it has an earlier one.
    pub(super) fn set_first(&mut self, key: K, at: Moment) {
        if self.at.get(&key).is_none_or(|before| *before > at) {
            self.set(key, Some(at));
        }
    }

    /// Takes one whose time has come.
    pub(super) fn due(&mut self, now: Moment) -> Option<K> {
        let (_, key) = self.order.first().filter(|(at, _)| *at <= now)?.clone();
        self.set(key.clone(), None);
        Some(key)
    }

    /// When the next one is due.
    pub(super) fn next(&self) -> Option<Moment> {
        self.order.first().map(|(at, _)| *at)
    }

    /// How many there are.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.order.len(), self.at.len());
        self.order.len()
    }
}
