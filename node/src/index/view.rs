// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index as it stands at one moment, for several questions in a row, by one read transaction.

use std::sync::Arc;

use potluck_keys::signed::Signed;
use potluck_protocol::action::ActionId;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::Entry;

use super::file::Reading;
use super::{Index, IndexError, MAX_CLAIMS, laid, open, slab};

/// The index at one moment. What is committed later does not show in it, and its pages stay as long as it lives: it is
/// for one look-up, not for keeping.
pub struct View<'i> {
    index: &'i Index,
    read: Arc<Reading>,
    /// How often Blobs that waited had been committed before.
    landings: u64,
    /// How often Blobs had been removed before.
    removals: u64,
}

impl Index {
    /// The index as it stands now.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn view(&self) -> Result<View<'_>, IndexError> {
        let (landings, removals) = (self.pending.landings(), self.recent.removals());
        let read = self.db.begin_read().map_err(|error| self.redb(error))?;
        Ok(View { index: self, read, landings, removals })
    }
}

impl View<'_> {
    /// All Entries about an action.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn entries(&self, action: &ActionId) -> Result<Vec<Signed<Entry>>, IndexError> {
        if !self.index.presence.maybe(action) {
            return Ok(Vec::new());
        }
        let mut entries = self.with_waiting(action, self.entry_rows(action)?)?;
        let mut landings = self.landings;
        // Some may have waited until just now.
        while self.index.pending.landings() != landings {
            let now = self.index.view()?;
            entries = now.with_waiting(action, now.entry_rows(action)?)?;
            landings = now.landings;
        }
        Ok(entries)
    }

    /// Adds the Entries that wait for the next change.
    fn with_waiting(
        &self,
        action: &ActionId,
        mut entries: Vec<Signed<Entry>>,
    ) -> Result<Vec<Signed<Entry>>, IndexError> {
        for claimed in self.index.pending.claims(action) {
            let entry = self.index.entry(&claimed.row)?;
            if entries.len() < MAX_CLAIMS && entries.iter().all(|known| known.bytes() != entry.bytes()) {
                entries.push(entry);
            }
        }
        Ok(entries)
    }

    fn entry_rows(&self, action: &ActionId) -> Result<Vec<Signed<Entry>>, IndexError> {
        open::guarded(&self.index.path, || {
            let fail = |error: redb::Error| self.index.redb(error);
            let table = self.read.entries().map_err(fail)?;
            let (low, high) = ([0; 32], [0xff; 32]);
            let range = (action.as_bytes(), &low, &low)..=(action.as_bytes(), &high, &high);
            let found = table.range(range).map_err(|error| fail(error.into()))?;
            let mut entries = Vec::new();
            for row in found.take(MAX_CLAIMS) {
                let row = row.map_err(|error| fail(error.into()))?.1;
                entries.push(self.index.entry(row.value())?);
            }
            Ok(entries)
        })
    }

    /// The bytes of a small Blob.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn small(&self, digest: &Digest) -> Result<Option<Vec<u8>>, IndexError> {
        self.with_small(digest, <[u8]>::to_vec)
    }

    /// Whether a small Blob is here.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn has_small(&self, digest: &Digest) -> Result<bool, IndexError> {
        if self.index.recent.has(digest) {
            return Ok(true);
        }
        let waits = self.index.pending.get(digest).is_some();
        let here = waits || self.in_rows(|view| view.has_row(digest))?.is_some();
        if here {
            self.index.recent.note([*digest], self.removals);
        }
        Ok(here)
    }

    /// Whether a small Blob has these bytes, if it is here.
    pub(super) fn is_small(&self, digest: &Digest, bytes: &[u8]) -> Result<Option<bool>, IndexError> {
        self.with_small(digest, |now| now == bytes)
    }

    /// Whether a Blob belongs to one of the Projects that `shared` picks.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn belongs(&self, digest: &Digest, shared: impl Fn(&str) -> bool) -> Result<bool, IndexError> {
        if self.row_belongs(digest, &shared)? || self.index.pending.belongs(digest, &shared) {
            return Ok(true);
        }
        // It may have waited until just now.
        if self.index.pending.landings() == self.landings {
            Ok(false)
        } else {
            self.index.belongs(digest, shared)
        }
    }

    /// The same, as the table has it.
    pub(super) fn row_belongs(
        &self,
        digest: &Digest,
        shared: impl Fn(&str) -> bool,
    ) -> Result<bool, IndexError> {
        let fail = |error: redb::Error| self.index.redb(error);
        let table = self.read.belongs().map_err(fail)?;
        for row in table.range((digest.as_bytes(), "")..).map_err(|error| fail(error.into()))? {
            let row = row.map_err(|error| fail(error.into()))?;
            let (found, project) = row.0.value();
            if found != digest.as_bytes() {
                break;
            }
            if shared(project) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// A small Blob wherever it is: among those that wait, in the index, or in the index because it waited until just
    /// now. Those that wait are looked at first: that is the shorter way, and what just came is asked for most.
    fn with_small<T>(&self, digest: &Digest, take: impl Fn(&[u8]) -> T) -> Result<Option<T>, IndexError> {
        if let Some(bytes) = self.index.pending.get(digest) {
            return Ok(Some(take(&bytes)));
        }
        self.in_rows(|view| view.with_row(digest, &take))
    }

    /// What is found in the rows, or in them as they are now if something waited until just now.
    fn in_rows<T>(
        &self,
        find: impl Fn(&View<'_>) -> Result<Option<T>, IndexError>,
    ) -> Result<Option<T>, IndexError> {
        let found = find(self)?;
        if found.is_some() || self.index.pending.landings() == self.landings {
            return Ok(found);
        }
        find(&self.index.view()?)
    }

    /// Whether there is a row of a small Blob, wherever its bytes lie.
    fn has_row(&self, digest: &Digest) -> Result<Option<()>, IndexError> {
        open::guarded(&self.index.path, || {
            let fail = |error: redb::Error| self.index.redb(error);
            let table = self.read.small().map_err(fail)?;
            let row = table.get(digest.as_bytes()).map_err(|error| fail(error.into()))?;
            Ok(row.map(|_| ()))
        })
    }

    fn with_row<T>(&self, digest: &Digest, take: impl Fn(&[u8]) -> T) -> Result<Option<T>, IndexError> {
        open::guarded(&self.index.path, || {
            let fail = |error: redb::Error| self.index.redb(error);
            let table = self.read.small().map_err(fail)?;
            let row = table.get(digest.as_bytes()).map_err(|error| fail(error.into()))?;
            let Some(row) = row else { return Ok(None) };
            let slabs = self.read.slabs().map_err(fail)?;
            slab::with(laid::lies(row.value())?, slabs, take).map_err(fail)
        })
    }
}
