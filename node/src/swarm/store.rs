// SPDX-License-Identifier: MIT OR Apache-2.0
//! The shelf as libp2p wants to see it. What comes this way is this node's own: what others put goes past libp2p to
//! `driver::keeping`, which judges it first.

use std::borrow::Cow;
use std::time::Instant;

use libp2p::kad::store::{Error, RecordStore, Result};
use libp2p::kad::{ProviderRecord, Record, RecordKey};
use libp2p::{Multiaddr, PeerId};
use potluck_keys::time::Time;
use potluck_protocol::head::MAX_HEAD_SET_BYTES;
use potluck_protocol::names::DhtKey;

use super::limits;
use crate::dht::shelf::{Bounds, Shelf};
use crate::observe::clock;

/// What this node keeps for the DHT.
pub(super) struct Store {
    own: PeerId,
    pub(super) shelf: Shelf,
}

/// A key as libp2p writes it.
pub(super) fn key(key: &DhtKey) -> RecordKey {
    RecordKey::new(key.as_bytes())
}

/// The other way round; nothing of a key that is none of ours.
pub(super) fn name(key: &RecordKey) -> Option<DhtKey> {
    <[u8; 32]>::try_from(key.as_ref()).ok().map(DhtKey::from_bytes)
}

/// By libp2p's clock; nothing of what never ends.
pub(super) fn until(expires: Option<Instant>) -> Time {
    let now = tokio::time::Instant::now().into_std();
    let rest = expires.map_or(limits::MAX_DHT_LIFE, |expires| expires.saturating_duration_since(now));
    clock::now().plus(rest.min(limits::MAX_DHT_LIFE))
}

fn expires(until: Time) -> Instant {
    tokio::time::Instant::now().into_std() + until.since(clock::now())
}

impl Store {
    pub(super) fn new(own: PeerId) -> Self {
        let bounds = Bounds {
            all: limits::MAX_DHT_BYTES,
            lot: limits::MAX_DHT_BYTES_PER_GROUP,
            source: limits::MAX_DHT_BYTES_PER_PEER,
            own: limits::MAX_OWN_DHT_KEYS,
        };
        Self { own, shelf: Shelf::new(bounds) }
    }

    fn record(&self, name: &DhtKey) -> Option<Record> {
        let (value, until) = self.shelf.value(name)?;
        let expires = Some(expires(until));
        Some(Record { key: key(name), value: value.to_vec(), publisher: None, expires })
    }
}

impl RecordStore for Store {
    type RecordsIter<'a> = Box<dyn Iterator<Item = Cow<'a, Record>> + 'a>;
    type ProvidedIter<'a> = Box<dyn Iterator<Item = Cow<'a, ProviderRecord>> + 'a>;

    fn get(&self, key: &RecordKey) -> Option<Cow<'_, Record>> {
        self.record(&name(key)?).map(Cow::Owned)
    }

    fn put(&mut self, record: Record) -> Result<()> {
        if record.value.len() > MAX_HEAD_SET_BYTES {
            return Err(Error::ValueTooLarge);
        }
        let name = name(&record.key).ok_or(Error::MaxRecords)?;
        match self.shelf.put_own(name, record.value, until(record.expires)) {
            true => Ok(()),
            false => Err(Error::MaxRecords),
        }
    }

    fn remove(&mut self, key: &RecordKey) {
        if let Some(name) = name(key) {
            self.shelf.remove(&name);
        }
    }

    fn records(&self) -> Self::RecordsIter<'_> {
        Box::new(self.shelf.values().filter_map(|name| self.record(name)).map(Cow::Owned))
    }

    fn add_provider(&mut self, record: ProviderRecord) -> Result<()> {
        let name = name(&record.key).filter(|_| record.provider == self.own);
        match name.is_some_and(|name| self.shelf.provide(name)) {
            true => Ok(()),
            false => Err(Error::MaxProvidedKeys),
        }
    }

    fn providers(&self, key: &RecordKey) -> Vec<ProviderRecord> {
        let Some(name) = name(key) else { return Vec::new() };
        // libp2p fills in where this node is.
        let own = self.shelf.provides(&name);
        let own = own.then(|| ProviderRecord::new(key.clone(), self.own, Vec::new()));
        let others = self.shelf.providers(&name).filter_map(|provider| {
            let addresses = provider.addresses.iter();
            let addresses = addresses.filter_map(|bytes| Multiaddr::try_from(bytes.clone()).ok()).collect();
            Some(ProviderRecord {
                key: key.clone(),
                provider: PeerId::from_bytes(provider.peer).ok()?,
                expires: Some(expires(provider.until)),
                addresses,
            })
        });
        own.into_iter().chain(others).collect()
    }

    fn provided(&self) -> Self::ProvidedIter<'_> {
        let record = |name| ProviderRecord::new(key(name), self.own, Vec::new());
        Box::new(self.shelf.provided().map(record).map(Cow::Owned))
    }

    fn remove_provider(&mut self, key: &RecordKey, provider: &PeerId) {
        let Some(name) = name(key) else { return };
        if *provider == self.own {
            self.shelf.withdraw(&name);
        } else {
            self.shelf.leave(&name, &provider.to_bytes());
        }
    }
}
