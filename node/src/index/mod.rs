// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index: claims, small Blobs, and what must be remembered across a restart, in one redb file.
//!
//! It stores Signed claims and never a verdict: the Policy is asked again at each use. The same code runs on a file
//! and in memory, by redb's own backends.
//!
//! * this file: what is kept, and how it is changed;
//! * `group`: changes that share a transaction;
//! * `view`: several questions to one state;
//! * `pending`: small Blobs, and Entries of others, that go along with the next change;
//! * `presence`: which actions may have Entries, and `recent`: which small Blobs are here, both in memory;
//! * `slab`: small Blobs that lie together; [`laid`]: how they do;
//! * `alias`: other names of Blobs;
//! * `heads`: those of Catalogs that are followed;
//! * `note`: what was counted, and who contradicted himself;
//! * `file`: the file, and each step on it; `open`: files in any state; `shrink`: a smaller one in its place;
//! * `collect`, [`scan`]: page by page, for collection and for verification;
//! * `rows`: all tables.

mod alias;
mod file;
mod group;
mod heads;
pub mod laid;
mod note;
mod open;
mod pending;
mod presence;
mod recent;
mod rows;
pub mod scan;
mod shrink;
mod slab;
#[cfg(test)]
mod tests;
mod view;

use std::collections::BTreeMap;
use std::ops::Bound;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
pub use collect::{EntryName, EntryPage, Forgotten, Kept};
use file::Db;
pub use note::{KeptTally, MAX_CONTRADICTIONS, MAX_TALLIES};
pub use open::set_aside;
use potluck_keys::signed::{ClaimError, SealKey, Signed};
use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Entry, claim_digest};
use redb::{ReadableTable as _, WriteTransaction};
pub use rows::{Contradiction, MAX_INLINE_BYTES, OwnCatalog, PinRow, RowError, Tally};
pub use shrink::{Shrunk, WORTH};
use slab::Smalls;
pub use view::View;

use crate::content::Durability;
use crate::content::files::Files;

/// Most claims about one action that are kept, of all signers together.
pub const MAX_CLAIMS: usize = 64;

/// Most Blobs of which it waits for the next change to which Project they belong; more are worth one of their own.
const SOON_BLOBS: usize = 64;

/// Why the index did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IndexError {
    /// redb cannot read or write its file.
    #[error("cannot use the index {path}: {source}", path = path.display())]
    Redb {
        /// The file.
        path: PathBuf,
        /// Why.
        source: Box<redb::Error>,
    },
    /// The file was made by a later version.
    #[error("the index {path} was made by a later version of potluck (tables {found})", path = path.display())]
    Later {
        /// The file.
        path: PathBuf,
        /// The version of its tables.
        found: u64,
    },
    /// The file, or some of it, is not what redb has written.
    #[error("the index {path} is damaged: {why}", path = path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What redb says about it.
        why: String,
    },
    /// A row cannot be read.
    #[error("a row of the index is damaged: {0}")]
    Row(#[from] RowError),
    /// A claim in the index is no claim.
    #[error("a claim in the index is damaged: {0}")]
    Claim(#[from] ClaimError),
}

/// The index.
pub struct Index {
    db: Db,
    path: PathBuf,
    group: group::Group,
    pending: Arc<pending::Pending>,
    presence: presence::Presence,
    recent: Arc<recent::Recent>,
    /// Whether somebody is going to make room, or does.
    making_room: AtomicBool,
    /// The last action that [`Index::learn`] has put into the set.
    learnt: Mutex<Option<ActionId>>,
    seal: Option<SealKey>,
}

/// Turns any of redb's errors into one of ours.
macro_rules! redb {
    ($self:ident, $call:expr) => {
        $call.map_err(|error| $self.redb(error.into()))
    };
}
use redb;

/// An error within a transaction: redb's own says nothing of the file.
enum Trouble {
    Redb(redb::Error),
    Index(IndexError),
}

impl From<redb::Error> for Trouble {
    fn from(error: redb::Error) -> Self {
        Self::Redb(error)
    }
}

pub(crate) mod collect;

impl Index {
    /// Opens or makes the index at `path`.
    ///
    /// # Errors
    /// [`IndexError`]; the file is then as it was.
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        Self::open_by(path, &Files::default())
    }

    /// The same by a way to the file system that may be watched.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn open_by(path: &Path, files: &Files) -> Result<Self, IndexError> {
        open::is_sane(path)?;
        open::guarded(path, || {
            let fail = |error| open::opening(path, error);
            shrink::sweep(path, files).map_err(|error| open::judge(path, redb::Error::Io(error)))?;
            file::make(path, files, |db| Self::with(db, path, None).map(drop)).map_err(fail)??;
            Self::with(Db::open(path, files).map_err(fail)?, path, open::seal_key(path, files))
        })
    }

    /// An index that lives as long as the process.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn in_memory() -> Result<Self, IndexError> {
        let path = PathBuf::from("(in memory)");
        let db = Db::in_memory()
            .map_err(|error| IndexError::Redb { path: path.clone(), source: Box::new(error.into()) })?;
        Self::with(db, &path, SealKey::generate().ok())
    }

    fn with(db: Db, path: &Path, seal: Option<SealKey>) -> Result<Self, IndexError> {
        let recent = Arc::new(recent::Recent::default());
        let pending = Arc::new(pending::Pending::new(Arc::clone(&recent)));
        let this = Self {
            db,
            path: path.to_owned(),
            group: group::Group::new(group::MAX_JOBS, Arc::clone(&pending)),
            pending,
            recent,
            making_room: AtomicBool::new(false),
            presence: presence::Presence::new(presence::MAX_KEYS),
            learnt: Mutex::default(),
            seal,
        };
        this.change(Durability::Durable, |change| {
            let mut meta = redb!(this, change.open_table(rows::META))?;
            let found = redb!(this, meta.get("schema"))?.map(|row| row.value());
            match found {
                Some(found) if found > rows::SCHEMA => {
                    return Err(IndexError::Later { path: this.path.clone(), found });
                }
                Some(rows::SCHEMA) => {}
                _ => drop(redb!(this, meta.insert("schema", rows::SCHEMA))?),
            }
            // Readers may then rely on every table being there.
            redb!(this, change.open_table(rows::SMALL))?;
            redb!(this, change.open_table(rows::SLABS))?;
            redb!(this, change.open_table(rows::NAMED))?;
            redb!(this, change.open_table(rows::BELONGS))?;
            redb!(this, change.open_table(rows::ENTRIES))?;
            redb!(this, change.open_table(rows::OUTBOX))?;
            redb!(this, change.open_table(rows::CATALOGS))?;
            redb!(this, change.open_table(rows::HEADS))?;
            redb!(this, change.open_table(rows::CONTRADICTIONS))?;
            redb!(this, change.open_table(rows::TALLIES))?;
            redb!(this, change.open_table(rows::USES))?;
            redb!(this, change.open_table(rows::PINS))?;
            redb!(this, change.open_table(rows::WITHDRAWN))?;
            redb!(this, change.open_table(rows::ALIASES))?;
            redb!(this, change.open_table(rows::ALIASED))?;
            Ok(())
        })?;
        Ok(this)
    }

    fn redb(&self, source: redb::Error) -> IndexError {
        open::judge(&self.path, source)
    }

    /// Makes several changes or none, in one transaction with those of others; see [`group`]. When another one's goes
    /// wrong, `work` is done again.
    fn change<T>(
        &self,
        durability: Durability,
        mut work: impl FnMut(&WriteTransaction) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let mut made = None;
        let mut job = |change: &WriteTransaction| {
            made = Some(work(change).map_err(Trouble::Index)?);
            Ok(())
        };
        let done = self.group.run(&self.db, durability, &mut job);
        done.map_err(|trouble| self.told(trouble))?;
        Ok(made.expect("what was committed was made"))
    }

    fn told(&self, trouble: Trouble) -> IndexError {
        match trouble {
            Trouble::Redb(error) => self.redb(error),
            Trouble::Index(error) => error,
        }
    }

    /// Makes everything durable that was to be so soon.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn settle(&self) -> Result<(), IndexError> {
        self.group.settle(&self.db).map_err(|trouble| self.told(trouble))
    }

    /// The bytes of a small Blob.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn small(&self, digest: &Digest) -> Result<Option<Vec<u8>>, IndexError> {
        self.view()?.small(digest)
    }

    /// Keeps a small Blob; gives whether it is a new one. It goes along with the next change; one that may not be lost is
    /// waited for until then.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn keep_small(
        &self,
        digest: &Digest,
        bytes: &[u8],
        durability: Durability,
    ) -> Result<bool, IndexError> {
        let new = self.keep_small_soon(digest, bytes)?;
        if durability == Durability::Durable {
            self.group.ride(&self.db).map_err(|trouble| self.told(trouble))?;
        }
        Ok(new)
    }

    fn keep_small_soon(&self, digest: &Digest, bytes: &[u8]) -> Result<bool, IndexError> {
        if self.is_full() {
            self.land()?;
        }
        let known = self.small(digest)?;
        if known.as_deref() == Some(bytes) {
            return Ok(false);
        }
        Ok(self.pending.put(digest, Bytes::copy_from_slice(bytes)) && known.is_none())
    }

    /// Keeps small Blobs that may be lost, all of which go along with the next change; gives how many bytes are new.
    ///
    /// # Errors
    /// [`IndexError`].
    pub(crate) fn keep_smalls(&self, blobs: &[(Digest, Bytes)]) -> Result<u64, IndexError> {
        if self.is_full() {
            self.land()?;
        }
        let view = self.view()?;
        let mut new = 0;
        for (digest, bytes) in blobs {
            let known = view.is_small(digest, bytes)?;
            if known != Some(true) && self.pending.put(digest, bytes.clone()) && known.is_none() {
                new += bytes.len() as u64;
            }
        }
        Ok(new)
    }

    /// Whether as much waits for the next change as may: whoever keeps more has to wait for the disk.
    pub fn is_full(&self) -> bool {
        self.pending.is_full()
    }

    /// Whether so much waits that room should be made before nobody can keep more, and whether nobody does so yet: who
    /// hears that it should calls [`Index::make_room`].
    pub(crate) fn wants_room(&self) -> bool {
        self.pending.is_much() && !self.making_room.swap(true, Ordering::AcqRel)
    }

    /// Puts what waits into the index, so that more may wait.
    ///
    /// # Errors
    /// [`IndexError`].
    pub(crate) fn make_room(&self) -> Result<(), IndexError> {
        let made = self.land();
        self.making_room.store(false, Ordering::Release);
        made
    }

    /// Puts everything that waits for the next change into the index.
    fn land(&self) -> Result<(), IndexError> {
        if self.pending.is_empty() { Ok(()) } else { self.change(Durability::Fast, |_| Ok(())) }
    }

    /// Forgets a small Blob; gives whether it was there.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn forget_small(&self, digest: &Digest) -> Result<bool, IndexError> {
        let waited = !self.pending.forget(&[*digest]).is_empty();
        let was = self.change(Durability::Durable, |change| {
            let mut small = redb!(self, Smalls::open(change))?;
            let was = redb!(self, small.remove(digest))?.is_some();
            redb!(self, small.tidy())?;
            Ok(was || waited)
        });
        self.recent.gone(&[*digest]);
        was
    }

    /// Bytes of all small Blobs.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn small_bytes(&self) -> Result<u64, IndexError> {
        self.land()?;
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::SMALL))?;
        let mut bytes = 0;
        for row in redb!(self, table.iter())? {
            bytes += laid::lies(redb!(self, row)?.1.value())?.count() as u64;
        }
        Ok(bytes)
    }

    /// Notes that Blobs belong to a Project, and may go to those it is shared with.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn belong(
        &self,
        digests: &[Digest],
        project: &Project,
        durability: Durability,
    ) -> Result<(), IndexError> {
        if durability == Durability::Fast && digests.len() <= SOON_BLOBS {
            if self.is_full() {
                self.land()?;
            }
            self.pending.belong(digests, project);
            return Ok(());
        }
        self.change(durability, |change| self.belong_in(change, digests, project))
    }

    fn belong_in(
        &self,
        change: &WriteTransaction,
        digests: &[Digest],
        project: &Project,
    ) -> Result<(), IndexError> {
        let mut table = redb!(self, change.open_table(rows::BELONGS))?;
        for digest in digests {
            redb!(self, table.insert((digest.as_bytes(), project.as_str()), ()))?;
        }
        Ok(())
    }

    /// Whether a Blob belongs to one of the Projects that `shared` picks.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn belongs(&self, digest: &Digest, shared: impl Fn(&str) -> bool) -> Result<bool, IndexError> {
        // What leaves here in between is in the index by then.
        Ok(self.pending.belongs(digest, &shared) || self.view()?.row_belongs(digest, shared)?)
    }

    /// All Entries about an action.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn entries(&self, action: &ActionId) -> Result<Vec<Signed<Entry>>, IndexError> {
        if self.maybe(action) { self.view()?.entries(action) } else { Ok(Vec::new()) }
    }

    /// Whether there may be Entries about an action; answered from memory. "No" is certain, and never said before
    /// [`Index::learn`] has seen all.
    pub fn maybe(&self, action: &ActionId) -> bool {
        self.presence.maybe(action)
    }

    /// Learns which actions have Entries, as far as the next `most` of them; gives whether that were all. What is kept
    /// in the meantime is known already.
    ///
    /// # Errors
    /// [`IndexError`].
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn learn(&self, most: usize) -> Result<bool, IndexError> {
        let mut learnt = self.learnt.lock().expect("nobody panics while learning");
        if self.presence.is_settled() {
            return Ok(true);
        }
        let last = open::guarded(&self.path, || {
            let read = redb!(self, self.db.begin_read())?;
            let table = redb!(self, read.open_table(rows::ENTRIES))?;
            let (low, high) = ([0; 32], [0xff; 32]);
            let rest = match learnt.as_ref() {
                Some(last) => redb!(self, table.range((last.as_bytes(), &high, &high)..))?,
                None => redb!(self, table.range((&low, &low, &low)..))?,
            };
            let mut last = None;
            for row in rest.take(most) {
                let action = ActionId::from_bytes(*redb!(self, row)?.0.value().0);
                self.presence.insert(&action);
                last = Some(action);
            }
            Ok(last)
        })?;
        match last {
            // The row that was asked for as the beginning may come once more, and then nothing new did.
            Some(_) if last != *learnt => *learnt = last,
            _ => self.presence.complete(),
        }
        Ok(self.presence.is_settled())
    }

    /// At most `most` actions about which there are Entries, in order, from the one that follows `after`.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn actions(&self, after: Option<&ActionId>, most: usize) -> Result<Vec<ActionId>, IndexError> {
        self.land()?;
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::ENTRIES))?;
        let high = [0xff; 32];
        let from = match after {
            None => Bound::Unbounded,
            Some(after) => Bound::Excluded((after.as_bytes(), &high, &high)),
        };
        let mut actions: Vec<ActionId> = Vec::new();
        let rows = table.range::<(&[u8; 32], &[u8; 32], &[u8; 32])>((from, Bound::Unbounded));
        for row in redb!(self, rows)? {
            let action = ActionId::from_bytes(*redb!(self, row)?.0.value().0);
            if actions.last() != Some(&action) {
                if actions.len() == most {
                    break;
                }
                actions.push(action);
            }
        }
        Ok(actions)
    }

    /// Keeps what came from elsewhere in one change: small Blobs, which the caller has checked, and Entries with the
    /// Blobs that belong to their Projects. What it was may still be lost in a power cut; see [`Self::settle`].
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn keep_all(
        &self,
        small: &BTreeMap<Digest, Bytes>,
        entries: &[(Signed<Entry>, Vec<Digest>)],
    ) -> Result<(), IndexError> {
        self.change(Durability::Fast, |change| {
            redb!(self, redb!(self, Smalls::open(change))?.keep(small))?;
            for (entry, blobs) in entries {
                self.keep_entry_in(change, entry, blobs)?;
            }
            Ok(())
        })
    }

    /// The Entry in a row; its signatures count as verified when its seal fits.
    fn entry(&self, row: &[u8]) -> Result<Signed<Entry>, IndexError> {
        let (seal, bytes) = rows::sealed(row)?;
        Ok(match (seal, &self.seal) {
            (Some(seal), Some(key)) => Signed::decode_sealed(bytes, seal, key)?,
            _ => Signed::decode(bytes)?,
        })
    }

    /// Keeps an Entry of somebody, with the Blobs that it names belonging to its Project. What may be lost goes along
    /// with the next change.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn keep_entry(
        &self,
        entry: &Signed<Entry>,
        blobs: &[Digest],
        durability: Durability,
    ) -> Result<(), IndexError> {
        if durability == Durability::Fast && blobs.len() <= SOON_BLOBS {
            return self.keep_entry_soon(entry, blobs, false);
        }
        self.change(durability, |change| self.keep_entry_in(change, entry, blobs))
    }

    fn keep_entry_soon(&self, entry: &Signed<Entry>, blobs: &[Digest], own: bool) -> Result<(), IndexError> {
        let claim = entry.authentic()?;
        if self.is_full() {
            self.land()?;
        }
        self.presence.insert(&claim.action);
        let claimed = pending::Claimed {
            action: claim.action,
            signers: entry.signers().collect(),
            name: claim_digest(entry),
            row: self.entry_row(entry),
        };
        self.pending.claim(claimed, (blobs, &claim.project), own);
        Ok(())
    }

    fn entry_row(&self, entry: &Signed<Entry>) -> Vec<u8> {
        rows::entry(self.seal.as_ref().and_then(|key| entry.seal(key)), entry.bytes())
    }

    fn keep_entry_in(
        &self,
        change: &WriteTransaction,
        entry: &Signed<Entry>,
        blobs: &[Digest],
    ) -> Result<(), IndexError> {
        let claim = entry.authentic()?;
        self.presence.insert(&claim.action);
        self.belong_in(change, blobs, &claim.project)?;
        let mut table = redb!(self, change.open_table(rows::ENTRIES))?;
        let name = claim_digest(entry);
        let row = self.entry_row(entry);
        for signer in entry.signers() {
            let key = (claim.action.as_bytes(), signer.as_bytes(), name.as_bytes());
            redb!(self, table.insert(key, row.as_slice()))?;
        }
        Ok(())
    }

    /// Keeps an Entry of this node's own, and that a Catalog has yet to list it: both or neither. They go along with the
    /// next change; those that may not be lost are waited for until then.
    ///
    /// # Errors
    /// [`IndexError`]. The Entry may be kept by a later change all the same.
    pub fn publish(
        &self,
        entry: &Signed<Entry>,
        blobs: &[Digest],
        durability: Durability,
    ) -> Result<(), IndexError> {
        if blobs.len() <= SOON_BLOBS {
            self.keep_entry_soon(entry, blobs, true)?;
            return match durability {
                Durability::Durable => self.group.ride(&self.db).map_err(|trouble| self.told(trouble)),
                Durability::Fast => Ok(()),
            };
        }
        if self.pending.lists(&entry.authentic()?.action) {
            // An older one that went along would be listed in the place of this one.
            self.land()?;
        }
        self.change(durability, |change| {
            self.keep_entry_in(change, entry, blobs)?;
            let claim = entry.authentic()?;
            let mut outbox = redb!(self, change.open_table(rows::OUTBOX))?;
            let key = (claim.project.as_str(), claim.action.as_bytes());
            redb!(self, outbox.insert(key, claim_digest(entry).as_bytes()))?;
            Ok(())
        })
    }

    /// At most `most` own Entries of a Project that no Catalog lists yet.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn outbox(&self, project: &Project, most: usize) -> Result<Vec<(ActionId, Digest)>, IndexError> {
        self.land()?;
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::OUTBOX))?;
        let (low, high) = ([0; 32], [0xff; 32]);
        let range = (project.as_str(), &low)..=(project.as_str(), &high);
        let mut found = Vec::new();
        for row in redb!(self, table.range(range))?.take(most) {
            let (key, claim) = redb!(self, row)?;
            found.push((ActionId::from_bytes(*key.value().1), Digest::from_bytes(*claim.value())));
        }
        Ok(found)
    }

    /// The own Catalog of a Project.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn own_catalog(&self, project: &Project) -> Result<Option<OwnCatalog>, IndexError> {
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::CATALOGS))?;
        let row = redb!(self, table.get(project.as_str()))?;
        row.map(|row| Ok(rows::value(row.value(), rows::MAX_OWN_CATALOG_BYTES)?)).transpose()
    }

    /// Puts a new own Catalog in place of the old one. What of the outbox it lists leaves the outbox, in one change.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn flush(
        &self,
        catalog: &OwnCatalog,
        listed: &[(ActionId, Digest)],
        blobs: &[Digest],
    ) -> Result<(), IndexError> {
        let project = &catalog.catalog.project;
        self.change(Durability::Durable, |change| {
            self.belong_in(change, blobs, project)?;
            let mut table = redb!(self, change.open_table(rows::CATALOGS))?;
            redb!(self, table.insert(project.as_str(), rows::row(catalog).as_slice()))?;
            let mut outbox = redb!(self, change.open_table(rows::OUTBOX))?;
            for (action, claim) in listed {
                let key = (project.as_str(), action.as_bytes());
                // A newer Entry may have come since the list was made.
                let same = redb!(self, outbox.get(key))?.is_some_and(|row| row.value() == claim.as_bytes());
                if same {
                    redb!(self, outbox.remove(key))?;
                }
            }
            Ok(())
        })
    }
}

impl Drop for Index {
    /// What waits goes into the file, as redb puts there what was committed and may be lost.
    fn drop(&mut self) {
        if let Err(error) = self.land() {
            tracing::warn!(%error, "what waited for the next change is lost");
        }
    }
}
