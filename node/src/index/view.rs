// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index as it stands at one moment, for several questions in a row: one read transaction, each table opened once.

use std::cell::OnceCell;

use potluck_keys::signed::Signed;
use potluck_protocol::action::ActionId;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::Entry;
use redb::ReadOnlyTable;

use super::file::Reading;
use super::{Index, IndexError, MAX_CLAIMS, open, rows};

/// The index at one moment. What is committed later does not show in it, and its pages stay as long as it lives: it is
/// for one look-up, not for keeping.
pub struct View<'i> {
    index: &'i Index,
    read: Reading,
    /// How often Blobs that waited had been committed before.
    landings: u64,
    small: OnceCell<ReadOnlyTable<&'static [u8; 32], &'static [u8]>>,
}

impl Index {
    /// The index as it stands now.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn view(&self) -> Result<View<'_>, IndexError> {
        let landings = self.pending.landings();
        let read = self.db.begin_read().map_err(|error| self.redb(error))?;
        Ok(View { index: self, read, landings, small: OnceCell::new() })
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
        open::guarded(&self.index.path, || {
            let fail = |error: redb::Error| self.index.redb(error);
            let table = self.read.open_table(rows::ENTRIES).map_err(|error| fail(error.into()))?;
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
        Ok(self.with_small(digest, |_| ())?.is_some())
    }

    /// A small Blob wherever it is: in the index, among those that wait, or in the index because it waited until just
    /// now.
    fn with_small<T>(&self, digest: &Digest, take: impl Fn(&[u8]) -> T) -> Result<Option<T>, IndexError> {
        if let Some(found) = self.with_row(digest, &take)? {
            return Ok(Some(found));
        }
        if let Some(bytes) = self.index.pending.get(digest) {
            return Ok(Some(take(&bytes)));
        }
        if self.index.pending.landings() == self.landings {
            return Ok(None);
        }
        self.index.view()?.with_row(digest, &take)
    }

    fn with_row<T>(&self, digest: &Digest, take: impl Fn(&[u8]) -> T) -> Result<Option<T>, IndexError> {
        open::guarded(&self.index.path, || {
            let fail = |error: redb::Error| self.index.redb(error);
            let table = match self.small.get() {
                Some(table) => table,
                None => {
                    let opened = self.read.open_table(rows::SMALL).map_err(|error| fail(error.into()))?;
                    self.small.get_or_init(|| opened)
                }
            };
            let row = table.get(digest.as_bytes()).map_err(|error| fail(error.into()))?;
            row.map(|row| Ok(take(rows::bytes(row.value())?))).transpose()
        })
    }
}
