// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pure: who put something here, and how much of the room that takes.

use std::collections::{BTreeMap, BTreeSet};

use crate::dht::group::Group;
use crate::dht::{MAX_PEER_BYTES, bounded};

/// What is known about a peer that put something here.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Source {
    /// Where it is connected from.
    pub group: Option<Group>,
    /// Where it says that it listens.
    pub addresses: Vec<Vec<u8>>,
}

impl Source {
    fn weight(&self) -> usize {
        self.addresses.iter().map(Vec::len).sum()
    }
}

/// A number for a peer, as long as something of it is here. In bytes, since it stands in every record beside a key,
/// and alignment would cost as much again.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Who([u8; 4]);

impl Who {
    pub(super) const FIRST: Self = Self([0; 4]);
    pub(super) const LAST: Self = Self([u8::MAX; 4]);
}

/// Those who share a share: an IP group, or a peer that has none. In bytes for the same reason.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Lot([u8; 7]);

impl Lot {
    fn of(who: Who, group: Option<Group>) -> Self {
        let bytes = group.map_or_else(|| who.0.to_vec(), Group::to_bytes);
        let mut lot = [0; 7];
        // Those of each kind have a length of their own.
        lot[0] = u8::try_from(bytes.len()).unwrap_or(u8::MAX);
        lot[1..=bytes.len()].copy_from_slice(&bytes);
        Self(lot)
    }
}

#[derive(Debug)]
struct Known {
    peer: Box<[u8]>,
    source: Source,
    lot: Lot,
    /// What its records and its addresses take.
    weight: usize,
    changed: bool,
}

impl Known {
    fn is_idle(&self) -> bool {
        self.weight <= self.source.weight()
    }
}

/// All of them.
#[derive(Debug, Default)]
pub(super) struct Sources {
    by_peer: BTreeMap<Box<[u8]>, Who>,
    all: BTreeMap<Who, Known>,
    next: u32,
    lots: BTreeMap<Lot, usize>,
    ranks: BTreeSet<(usize, Lot)>,
    weight: usize,
}

impl Sources {
    /// The number of a peer, which gets one if it has none, and takes on what is known of it now; none for one that
    /// cannot be a peer. It pays for its addresses when it is first charged for anything.
    pub(super) fn meet(&mut self, peer: &[u8], mut source: Source) -> Option<Who> {
        if peer.is_empty() || peer.len() > MAX_PEER_BYTES {
            return None;
        }
        source.addresses = bounded(source.addresses);
        if let Some(who) = self.known(peer) {
            let known = self.all.get_mut(&who)?;
            // A share once taken stays where it is, whatever address the peer comes from later.
            let group = known.source.group;
            source.group = group;
            if known.source != source && !source.addresses.is_empty() {
                let (before, after) = (known.source.weight(), source.weight());
                known.source = source;
                known.changed = true;
                self.refund(who, before);
                self.charge(who, after);
            }
            return Some(who);
        }
        let mut who = Who(self.next.to_le_bytes());
        while self.all.contains_key(&who) {
            self.next = self.next.wrapping_add(1);
            who = Who(self.next.to_le_bytes());
        }
        self.next = self.next.wrapping_add(1);
        let lot = Lot::of(who, source.group);
        let weight = source.weight();
        self.by_peer.insert(peer.into(), who);
        self.all.insert(who, Known { peer: peer.into(), source, lot, weight: 0, changed: true });
        self.charge(who, weight);
        Some(who)
    }

    pub(super) fn known(&self, peer: &[u8]) -> Option<Who> {
        self.by_peer.get(peer).copied()
    }

    pub(super) fn get(&self, who: Who) -> Option<(&[u8], &Source)> {
        self.all.get(&who).map(|known| (&*known.peer, &known.source))
    }

    pub(super) fn lot(&self, who: Who) -> Lot {
        self.all.get(&who).map_or_else(|| Lot::of(who, None), |known| known.lot)
    }

    /// What the peer takes, and its lot.
    pub(super) fn weights(&self, who: Who) -> (usize, usize) {
        let own = self.all.get(&who).map_or(0, |known| known.weight);
        (own, self.lots.get(&self.lot(who)).copied().unwrap_or(0))
    }

    /// What all of them take.
    pub(super) fn all(&self) -> usize {
        self.weight
    }

    /// The lot that takes most.
    pub(super) fn largest(&self) -> Option<(usize, Lot)> {
        self.ranks.last().copied()
    }

    pub(super) fn charge(&mut self, who: Who, weight: usize) {
        self.weigh(who, |now| now + weight);
    }

    pub(super) fn refund(&mut self, who: Who, weight: usize) {
        self.weigh(who, |now| now.saturating_sub(weight));
    }

    fn weigh(&mut self, who: Who, change: impl Fn(usize) -> usize) {
        let Some(known) = self.all.get_mut(&who) else { return };
        known.weight = change(known.weight);
        self.weight = change(self.weight);
        let lot = known.lot;
        let before = self.lots.get(&lot).copied().unwrap_or(0);
        self.ranks.remove(&(before, lot));
        match change(before) {
            0 => drop(self.lots.remove(&lot)),
            after => {
                self.lots.insert(lot, after);
                self.ranks.insert((after, lot));
            }
        }
    }

    /// What is to be written about them, and forgets those of whom nothing is here. To be called only when nothing
    /// else refers to their numbers.
    pub(super) fn changes(&mut self) -> impl Iterator<Item = (Vec<u8>, Option<Source>)> {
        let idle: Vec<_> =
            self.all.iter().filter(|(_, known)| known.is_idle()).map(|(who, _)| *who).collect();
        let mut rows = Vec::new();
        for who in idle {
            let weight = self.weights(who).0;
            self.refund(who, weight);
            if let Some(known) = self.all.remove(&who) {
                self.by_peer.remove(&known.peer);
                rows.push((known.peer.into(), None));
            }
        }
        for known in self.all.values_mut() {
            if std::mem::take(&mut known.changed) {
                rows.push((known.peer.to_vec(), Some(known.source.clone())));
            }
        }
        rows.into_iter()
    }
}
