// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pure: what stands on the DHT as far as this node keeps it, in memory.
//!
//! libp2p's own store takes 3.8 KB a key, and when others have filled it, this node can say nothing any more. Here a
//! record takes some hundred bytes; whoever puts much is stopped at a share of his own, and when there is no room at all
//! he loses some of it to those who have less. What this node says itself has a place that others cannot take.

mod source;

use std::collections::{BTreeMap, BTreeSet};

use potluck_keys::time::Time;
use potluck_protocol::names::DhtKey;

pub use source::Source;
use source::{Lot, Sources, Who};

/// What a record counts for beside its value, in bytes: its place here, and what it takes until it is written to disk.
pub const RECORD: usize = 200;
/// How many records are looked at for one to throw away.
const MAX_SCAN: usize = 4096;
/// Most providers of one key. The first ones stay: a crowd that comes later cannot hide them.
pub const MAX_PROVIDERS: usize = 20;

/// How much of others' is kept, in bytes. A record counts as [`RECORD`], and what its value and its source's addresses
/// take.
#[derive(Debug, Clone, Copy)]
pub struct Bounds {
    /// In all.
    pub all: usize,
    /// Of one IP group; a peer without one stands for itself.
    pub lot: usize,
    /// Of one peer.
    pub source: usize,
    /// How many own values, and as many own providers, are kept.
    pub own: usize,
}

#[derive(Debug)]
struct Value {
    bytes: Box<[u8]>,
    until: Time,
    /// Who put it here first; nobody when it is this node's own.
    by: Option<Who>,
}

impl Value {
    fn weight(&self) -> usize {
        RECORD + self.bytes.len()
    }
}

/// Something that is not yet on disk as it is here.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Mark {
    Value(DhtKey),
    Provider(DhtKey, Who),
    Own(DhtKey),
}

/// A line of the file: how something is from now on; with nothing, it is gone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Row {
    /// A value, until when it holds, and who put it here; nobody when it is this node's own.
    Value(DhtKey, Option<(Vec<u8>, Time, Option<Vec<u8>>)>),
    /// A peer that provides a key, and until when.
    Provider(DhtKey, Vec<u8>, Option<Time>),
    /// A key that this node provides.
    Own(DhtKey, bool),
    /// What is known about a peer.
    Source(Vec<u8>, Option<Source>),
}

/// Somebody who provides a key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Provider<'a> {
    /// Who, as bytes.
    pub peer: &'a [u8],
    /// Where he says that he is.
    pub addresses: &'a [Vec<u8>],
    /// Until when that holds.
    pub until: Time,
}

/// All of it.
#[derive(Debug)]
pub struct Shelf {
    bounds: Bounds,
    values: BTreeMap<DhtKey, Value>,
    /// Until when, in whole seconds since 1970.
    providers: BTreeMap<(DhtKey, Who), u32>,
    own: BTreeSet<DhtKey>,
    own_values: usize,
    sources: Sources,
    marks: BTreeSet<Mark>,
}

fn seconds(time: Time) -> u32 {
    u32::try_from(time.as_millis() / 1000).unwrap_or(u32::MAX)
}

fn time(seconds: u32) -> Time {
    Time::from_millis(u64::from(seconds) * 1000)
}

impl Shelf {
    /// An empty one.
    pub fn new(bounds: Bounds) -> Self {
        Self {
            bounds,
            values: BTreeMap::new(),
            providers: BTreeMap::new(),
            own: BTreeSet::new(),
            own_values: 0,
            sources: Sources::default(),
            marks: BTreeSet::new(),
        }
    }

    /// The value under a key, and until when it holds.
    pub fn value(&self, key: &DhtKey) -> Option<(&[u8], Time)> {
        self.values.get(key).map(|value| (&*value.bytes, value.until))
    }

    /// Keeps a value that a peer put, which was judged and merged with what stood there; gives whether there was room.
    /// What is this node's own stays that. Whoever brings news pays for the value from then on: otherwise somebody who
    /// put much and nothing more can be taken from could keep a value from being renewed. Nobody can have one go sooner
    /// than it would have gone.
    pub fn put(
        &mut self,
        (peer, from): (&[u8], Source),
        key: DhtKey,
        (bytes, until): (Vec<u8>, Time),
    ) -> bool {
        let standing = self.values.get(&key).map(|value| (value.by, *value.bytes == *bytes, value.until));
        let until = standing.map_or(until, |(_, _, before)| before.max(until));
        if let Some((None, ..) | (_, true, _)) = standing {
            return self.replace(key, bytes, until);
        }
        let Some(by) = self.sources.meet(peer, from) else { return false };
        let value = Value { bytes: bytes.into(), until, by: Some(by) };
        if !self.make_room(&key, by, value.weight()) {
            return false;
        }
        self.remove(&key);
        self.sources.charge(by, value.weight());
        self.values.insert(key, value);
        self.marks.insert(Mark::Value(key));
        true
    }

    fn replace(&mut self, key: DhtKey, bytes: Vec<u8>, until: Time) -> bool {
        let Some(standing) = self.values.get_mut(&key) else { return false };
        let before = standing.weight();
        standing.bytes = bytes.into();
        standing.until = until;
        if let Some(by) = standing.by {
            self.sources.refund(by, before);
            self.sources.charge(by, standing.weight());
        }
        self.marks.insert(Mark::Value(key));
        true
    }

    /// Keeps a value of this node's own; gives whether there was room, which others cannot take.
    pub fn put_own(&mut self, key: DhtKey, bytes: Vec<u8>, until: Time) -> bool {
        let own = self.values.get(&key).is_some_and(|standing| standing.by.is_none());
        if !own && self.own_values >= self.bounds.own {
            return false;
        }
        self.remove(&key);
        self.own_values += 1;
        self.values.insert(key, Value { bytes: bytes.into(), until, by: None });
        self.marks.insert(Mark::Value(key));
        true
    }

    /// Removes the value under a key.
    pub fn remove(&mut self, key: &DhtKey) {
        let Some(value) = self.values.remove(key) else { return };
        match value.by {
            Some(by) => self.sources.refund(by, value.weight()),
            None => self.own_values -= 1,
        }
        self.marks.insert(Mark::Value(*key));
    }

    /// Notes that a peer provides a key; gives whether there was room.
    pub fn lodge(&mut self, (peer, from): (&[u8], Source), key: DhtKey, until: Time) -> bool {
        let Some(by) = self.sources.meet(peer, from) else { return false };
        if !self.providers.contains_key(&(key, by)) {
            if self.of(&key).count() >= MAX_PROVIDERS || !self.make_room(&key, by, RECORD) {
                return false;
            }
            self.sources.charge(by, RECORD);
        }
        self.providers.insert((key, by), seconds(until));
        self.marks.insert(Mark::Provider(key, by));
        true
    }

    /// Notes that this node provides a key; gives whether there was room, which others cannot take.
    pub fn provide(&mut self, key: DhtKey) -> bool {
        if self.own.contains(&key) {
            return true;
        }
        if self.own.len() >= self.bounds.own {
            return false;
        }
        self.own.insert(key);
        self.marks.insert(Mark::Own(key));
        true
    }

    /// This node provides a key no more.
    pub fn withdraw(&mut self, key: &DhtKey) {
        if self.own.remove(key) {
            self.marks.insert(Mark::Own(*key));
        }
    }

    /// The peer provides a key no more.
    pub fn leave(&mut self, key: &DhtKey, peer: &[u8]) {
        if let Some(by) = self.sources.known(peer) {
            self.dislodge(*key, by);
        }
    }

    fn dislodge(&mut self, key: DhtKey, by: Who) {
        if self.providers.remove(&(key, by)).is_some() {
            self.sources.refund(by, RECORD);
            self.marks.insert(Mark::Provider(key, by));
        }
    }

    fn of(&self, key: &DhtKey) -> impl Iterator<Item = (Who, u32)> + '_ {
        let range = (*key, Who::FIRST)..=(*key, Who::LAST);
        self.providers.range(range).map(|((_, by), until)| (*by, *until))
    }

    /// The other peers that provide a key, at most [`MAX_PROVIDERS`].
    pub fn providers(&self, key: &DhtKey) -> impl Iterator<Item = Provider<'_>> {
        self.of(key).filter_map(|(by, until)| {
            let (peer, source) = self.sources.get(by)?;
            Some(Provider { peer, addresses: &source.addresses, until: time(until) })
        })
    }

    /// Whether this node provides a key.
    pub fn provides(&self, key: &DhtKey) -> bool {
        self.own.contains(key)
    }

    /// The keys that this node provides.
    pub fn provided(&self) -> impl Iterator<Item = &DhtKey> {
        self.own.iter()
    }

    /// The keys of all values, own and others'.
    pub fn values(&self) -> impl Iterator<Item = &DhtKey> {
        self.values.keys()
    }

    /// Whether `by` may have so much more. Takes some from those who have most, if they have more than he would then.
    fn make_room(&mut self, near: &DhtKey, by: Who, more: usize) -> bool {
        let (own, lot) = self.sources.weights(by);
        if own + more > self.bounds.source || lot + more > self.bounds.lot {
            return false;
        }
        while self.sources.all() + more > self.bounds.all {
            match self.sources.largest() {
                Some((most, largest)) if most > lot + more && self.displace(near, largest) => {}
                _ => return false,
            }
        }
        true
    }

    /// Throws away one record of a lot; gives whether one was found. It is looked for from some key on, and not far: the
    /// largest lot has many, and a place of its own for each record would double what that takes.
    fn displace(&mut self, near: &DhtKey, lot: Lot) -> bool {
        let is_his = |by: &Who| self.sources.lot(*by) == lot;
        let after = self.providers.range((*near, Who::FIRST)..).chain(&self.providers).take(MAX_SCAN);
        if let Some((key, by)) = after.map(|(name, _)| *name).find(|(_, by)| is_his(by)) {
            self.dislodge(key, by);
            return true;
        }
        let after = self.values.range(near..).chain(&self.values).take(MAX_SCAN);
        let mut his = after.filter(|(_, value)| value.by.as_ref().is_some_and(is_his)).map(|(key, _)| *key);
        let found = his.next();
        if let Some(key) = found {
            self.remove(&key);
        }
        found.is_some()
    }

    /// Throws away what holds no more; gives how much that was.
    pub fn sweep(&mut self, now: Time) -> usize {
        let values = self.values.iter().filter(|(_, value)| value.until <= now).map(|(key, _)| *key);
        let values: Vec<_> = values.collect();
        let late = seconds(now);
        let providers = self.providers.iter().filter(|(_, until)| **until <= late);
        let providers: Vec<_> = providers.map(|((key, by), _)| (*key, *by)).collect();
        for key in &values {
            self.remove(key);
        }
        for (key, by) in &providers {
            self.dislodge(*key, *by);
        }
        values.len() + providers.len()
    }

    /// Throws away everything that a peer put here.
    pub fn forget_source(&mut self, peer: &[u8]) {
        let Some(by) = self.sources.known(peer) else { return };
        let values = self.values.iter().filter(|(_, value)| value.by == Some(by)).map(|(key, _)| *key);
        let values: Vec<_> = values.collect();
        let providers = self.providers.keys().filter(|(_, of)| *of == by).map(|(key, _)| *key);
        let providers: Vec<_> = providers.collect();
        for key in &values {
            self.remove(key);
        }
        for key in providers {
            self.dislodge(key, by);
        }
    }

    /// How many records there are, others' and own.
    pub fn len(&self) -> usize {
        self.values.len() + self.providers.len() + self.own.len()
    }

    /// What those of others count for, in bytes.
    pub fn weight(&self) -> usize {
        self.sources.all()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many changes wait to be written.
    pub fn waiting(&self) -> usize {
        self.marks.len()
    }

    /// At most so many of the changes since the last time, as they are to be written. Once there is none, the peers of
    /// whom nothing is kept any more are forgotten.
    pub fn changes(&mut self, most: usize) -> Vec<Row> {
        let mut rows = Vec::with_capacity(self.marks.len().min(most));
        while rows.len() < most {
            let Some(mark) = self.marks.pop_first() else { break };
            rows.extend(self.row(mark));
        }
        if self.marks.is_empty() {
            rows.extend(self.sources.changes().map(|(peer, source)| Row::Source(peer, source)));
        }
        rows
    }

    fn row(&self, mark: Mark) -> Option<Row> {
        Some(match mark {
            Mark::Value(key) => {
                let peer = |by| self.sources.get(by).map(|(peer, _)| peer.to_vec());
                let row = |value: &Value| (value.bytes.to_vec(), value.until, value.by.and_then(peer));
                Row::Value(key, self.values.get(&key).map(row))
            }
            Mark::Provider(key, by) => {
                let until = self.providers.get(&(key, by)).map(|until| time(*until));
                Row::Provider(key, self.sources.get(by)?.0.to_vec(), until)
            }
            Mark::Own(key) => Row::Own(key, self.own.contains(&key)),
        })
    }

    /// Puts back what a file holds, within the same bounds; what holds no more at `now` is left out. The sources come
    /// first.
    pub fn restore(&mut self, rows: impl IntoIterator<Item = Row>, now: Time) {
        let mut sources = BTreeMap::new();
        for row in rows {
            let from = |sources: &BTreeMap<Vec<u8>, Source>, peer: &Vec<u8>| {
                sources.get(peer).cloned().unwrap_or_default()
            };
            match row {
                Row::Source(peer, Some(source)) => drop(sources.insert(peer, source)),
                Row::Value(key, Some((bytes, until, by))) if until > now => {
                    match by {
                        Some(peer) => self.put((&peer, from(&sources, &peer)), key, (bytes, until)),
                        None => self.put_own(key, bytes, until),
                    };
                }
                Row::Provider(key, peer, Some(until)) if until > now => {
                    self.lodge((&peer, from(&sources, &peer)), key, until);
                }
                Row::Own(key, true) => drop(self.provide(key)),
                _ => {}
            }
        }
        // What was just read need not be written again.
        self.marks.clear();
        let _ = self.sources.changes().count();
    }
}

#[cfg(test)]
mod tests;
