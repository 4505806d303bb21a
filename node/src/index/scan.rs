// SPDX-License-Identifier: MIT OR Apache-2.0
//! Going through whole tables, a stretch at a time: whoever does so takes long, and must not hold on to old pages of
//! the file meanwhile. What changes in between may be seen or not.

use std::ops::Bound;

use potluck_keys::signed::Signed;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::Entry;

use super::{Index, IndexError, RowError, redb, rows};
use crate::content::Durability;

/// The place of an Entry in its table: ActionId, Signer and name of the claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct EntryPlace([u8; 32], [u8; 32], [u8; 32]);

/// An Entry in its place, or why it is none.
pub type PlacedEntry = (EntryPlace, Result<Signed<Entry>, IndexError>);

impl Index {
    /// The names of at most `most` small Blobs that follow `after`, in order.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn smalls(&self, after: Option<&Digest>, most: usize) -> Result<Vec<Digest>, IndexError> {
        self.land()?;
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::SMALL))?;
        let from = after.map_or(Bound::Unbounded, |after| Bound::Excluded(after.as_bytes()));
        let mut found = Vec::new();
        for row in redb!(self, table.range::<&[u8; 32]>((from, Bound::Unbounded)))?.take(most) {
            found.push(Digest::from_bytes(*redb!(self, row)?.0.value()));
        }
        Ok(found)
    }

    /// At most `most` Entries that follow `after`, in order; those that cannot be read as well. Signatures are not
    /// verified here.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn all_entries(
        &self,
        after: Option<&EntryPlace>,
        most: usize,
    ) -> Result<Vec<PlacedEntry>, IndexError> {
        self.land()?;
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::ENTRIES))?;
        let from = after.map_or(Bound::Unbounded, |EntryPlace(action, signer, name)| {
            Bound::Excluded((action, signer, name))
        });
        let range = (from, Bound::Unbounded);
        let mut found = Vec::new();
        for row in redb!(self, table.range::<(&[u8; 32], &[u8; 32], &[u8; 32])>(range))?.take(most) {
            let (key, row) = redb!(self, row)?;
            let (action, signer, name) = key.value();
            // A seal would spare the very work that whoever looks at all of them wants done.
            let bytes = rows::sealed(row.value()).map_err(IndexError::from);
            let entry = bytes.and_then(|(_, bytes)| Ok(Signed::decode(bytes)?));
            found.push((EntryPlace(*action, *signer, *name), entry));
        }
        Ok(found)
    }

    /// Forgets what stands in the place of an Entry; says whether anything did.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn forget_entry(&self, EntryPlace(action, signer, name): &EntryPlace) -> Result<bool, IndexError> {
        self.land()?;
        self.change(Durability::Durable, |change| {
            let mut table = redb!(self, change.open_table(rows::ENTRIES))?;
            let was = redb!(self, table.remove((action, signer, name)))?.is_some();
            Ok(was)
        })
    }
}

impl IndexError {
    /// Whether a row was written by a later version, which can read it.
    pub fn is_of_later(&self) -> bool {
        matches!(self, Self::Row(RowError::Form(_)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_small_blobs_are_seen_once_by_stretches() {
        let index = Index::in_memory().unwrap();
        let mut all: Vec<_> = (0..10_u8).map(|n| Digest::of(&[n])).collect();
        for (n, digest) in (0..10_u8).zip(&all) {
            index.keep_small(digest, &[n], Durability::Fast).unwrap();
        }
        all.sort_unstable();
        let (mut seen, mut after) = (Vec::new(), None);
        loop {
            let stretch = index.smalls(after.as_ref(), 3).unwrap();
            let Some(last) = stretch.last() else { break };
            after = Some(*last);
            seen.extend(stretch);
        }
        assert_eq!(seen, all);
    }
}
