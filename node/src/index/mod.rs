// SPDX-License-Identifier: MIT OR Apache-2.0
//! The index: claims, small Blobs, and what must be remembered across a restart, in one redb file.
//!
//! It stores Signed claims and never a verdict: the Policy is asked again at each use. The same code runs on a file
//! and in memory, by redb's own backends.

mod file;
mod rows;
pub mod scan;

use std::path::{Path, PathBuf};

use file::Db;
use potluck_keys::pair::Signer;
use potluck_keys::signed::{ClaimError, Signed};
use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Entry, claim_digest};
use potluck_protocol::head::Head;
use redb::{DatabaseError, ReadableTable as _, WriteTransaction};
pub use rows::{MAX_INLINE_BYTES, OwnCatalog, RowError};

use crate::content::Durability;
use crate::content::files::Files;

/// Most claims about one action that are kept, of all signers together.
pub const MAX_CLAIMS: usize = 64;

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
}

/// Turns any of redb's errors into one of ours.
macro_rules! redb {
    ($self:ident, $call:expr) => {
        $call.map_err(|error| $self.redb(error.into()))
    };
}

use redb;

impl Index {
    /// Opens or makes the index at `path`.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn open(path: &Path) -> Result<Self, IndexError> {
        Self::open_by(path, &Files::default())
    }

    /// The same by a way to the file system that may be watched.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn open_by(path: &Path, files: &Files) -> Result<Self, IndexError> {
        let fail =
            |error: DatabaseError| IndexError::Redb { path: path.to_owned(), source: Box::new(error.into()) };
        file::make(path, files, |db| Self::with(db, path).map(drop)).map_err(fail)??;
        Self::with(Db::open(path, files).map_err(fail)?, path)
    }

    /// An index that lives as long as the process.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn in_memory() -> Result<Self, IndexError> {
        let path = PathBuf::from("(in memory)");
        let db = Db::in_memory()
            .map_err(|error| IndexError::Redb { path: path.clone(), source: Box::new(error.into()) })?;
        Self::with(db, &path)
    }

    fn with(db: Db, path: &Path) -> Result<Self, IndexError> {
        let this = Self { db, path: path.to_owned() };
        this.change(Durability::Durable, |change| {
            let mut meta = redb!(this, change.open_table(rows::META))?;
            let found = redb!(this, meta.get("schema"))?.map(|row| row.value());
            match found {
                None => drop(redb!(this, meta.insert("schema", rows::SCHEMA))?),
                Some(found) if found > rows::SCHEMA => {
                    return Err(IndexError::Later { path: this.path.clone(), found });
                }
                Some(_) => {}
            }
            // Readers may then rely on every table being there.
            redb!(this, change.open_table(rows::SMALL))?;
            redb!(this, change.open_table(rows::BELONGS))?;
            redb!(this, change.open_table(rows::ENTRIES))?;
            redb!(this, change.open_table(rows::OUTBOX))?;
            redb!(this, change.open_table(rows::CATALOGS))?;
            redb!(this, change.open_table(rows::HEADS))?;
            redb!(this, change.open_table(rows::COUNTS))?;
            Ok(())
        })?;
        Ok(this)
    }

    fn redb(&self, source: redb::Error) -> IndexError {
        IndexError::Redb { path: self.path.clone(), source: Box::new(source) }
    }

    /// Makes several changes or none.
    fn change<T>(
        &self,
        durability: Durability,
        work: impl FnOnce(&WriteTransaction) -> Result<T, IndexError>,
    ) -> Result<T, IndexError> {
        let mut change = redb!(self, self.db.begin_write())?;
        if durability == Durability::Fast {
            redb!(self, change.set_durability(redb::Durability::None))?;
        }
        let done = work(&change)?;
        redb!(self, change.commit())?;
        Ok(done)
    }

    /// Makes everything durable that was to be so soon.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn settle(&self) -> Result<(), IndexError> {
        self.change(Durability::Durable, |_| Ok(()))
    }

    /// The bytes of a small Blob.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn small(&self, digest: &Digest) -> Result<Option<Vec<u8>>, IndexError> {
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::SMALL))?;
        let row = redb!(self, table.get(digest.as_bytes()))?;
        row.map(|row| Ok(rows::bytes(row.value())?.to_vec())).transpose()
    }

    /// Keeps a small Blob.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn keep_small(
        &self,
        digest: &Digest,
        bytes: &[u8],
        durability: Durability,
    ) -> Result<(), IndexError> {
        self.change(durability, |change| {
            let mut table = redb!(self, change.open_table(rows::SMALL))?;
            redb!(self, table.insert(digest.as_bytes(), rows::plain(bytes).as_slice()))?;
            Ok(())
        })
    }

    /// Forgets a small Blob; gives whether it was there.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn forget_small(&self, digest: &Digest) -> Result<bool, IndexError> {
        self.change(Durability::Durable, |change| {
            let mut table = redb!(self, change.open_table(rows::SMALL))?;
            let was = redb!(self, table.remove(digest.as_bytes()))?.is_some();
            Ok(was)
        })
    }

    /// Bytes of all small Blobs.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn small_bytes(&self) -> Result<u64, IndexError> {
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::SMALL))?;
        let mut bytes = 0;
        for row in redb!(self, table.iter())? {
            bytes += redb!(self, row)?.1.value().len() as u64;
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
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::BELONGS))?;
        for row in redb!(self, table.range((digest.as_bytes(), "")..))? {
            let row = redb!(self, row)?;
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

    /// All Entries about an action.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn entries(&self, action: &ActionId) -> Result<Vec<Signed<Entry>>, IndexError> {
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::ENTRIES))?;
        let (low, high) = ([0; 32], [0xff; 32]);
        let range = (action.as_bytes(), &low, &low)..=(action.as_bytes(), &high, &high);
        let mut entries = Vec::new();
        for row in redb!(self, table.range(range))?.take(MAX_CLAIMS) {
            let row = redb!(self, row)?.1;
            entries.push(Signed::decode(rows::bytes(row.value())?)?);
        }
        Ok(entries)
    }

    /// Keeps an Entry of somebody, with the Blobs that it names belonging to its Project.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn keep_entry(
        &self,
        entry: &Signed<Entry>,
        blobs: &[Digest],
        durability: Durability,
    ) -> Result<(), IndexError> {
        self.change(durability, |change| self.keep_entry_in(change, entry, blobs))
    }

    fn keep_entry_in(
        &self,
        change: &WriteTransaction,
        entry: &Signed<Entry>,
        blobs: &[Digest],
    ) -> Result<(), IndexError> {
        let claim = entry.authentic()?;
        self.belong_in(change, blobs, &claim.project)?;
        let mut table = redb!(self, change.open_table(rows::ENTRIES))?;
        let name = claim_digest(entry);
        for signer in entry.signers() {
            let key = (claim.action.as_bytes(), signer.as_bytes(), name.as_bytes());
            redb!(self, table.insert(key, rows::plain(entry.bytes()).as_slice()))?;
        }
        Ok(())
    }

    /// Keeps an Entry of this node's own, and that a Catalog has yet to list it: both or neither.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn publish(&self, entry: &Signed<Entry>, blobs: &[Digest]) -> Result<(), IndexError> {
        self.change(Durability::Durable, |change| {
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

    /// Remembers a Catalog Head of somebody who is followed, so that an older one can never be passed off as new.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn keep_head(&self, signer: &Signer, head: &Signed<Head>) -> Result<(), IndexError> {
        let claim = head.authentic()?;
        self.change(Durability::Durable, |change| {
            let mut table = redb!(self, change.open_table(rows::HEADS))?;
            let key = (signer.as_bytes(), claim.project.as_str(), claim.instance.as_bytes());
            redb!(self, table.insert(key, rows::plain(head.bytes()).as_slice()))?;
            Ok(())
        })
    }

    /// All Catalog Heads that were remembered, with those whose they are.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn heads(&self) -> Result<Vec<(Signer, Signed<Head>)>, IndexError> {
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::HEADS))?;
        let mut heads = Vec::new();
        for row in redb!(self, table.iter())? {
            let (key, row) = redb!(self, row)?;
            let signer = Signer::from_bytes(*key.value().0);
            heads.push((signer, Signed::decode(rows::bytes(row.value())?)?));
        }
        Ok(heads)
    }

    /// Adds to numbers that only grow.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn count(&self, more: &[(&str, u64)]) -> Result<(), IndexError> {
        self.change(Durability::Fast, |change| {
            let mut table = redb!(self, change.open_table(rows::COUNTS))?;
            for (name, more) in more {
                let now = redb!(self, table.get(name))?.map_or(0, |row| row.value());
                redb!(self, table.insert(name, now.saturating_add(*more)))?;
            }
            Ok(())
        })
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use potluck_keys::pair::Pair;
    use potluck_keys::time::Time;
    use potluck_protocol::action::Recipe;
    use potluck_protocol::entry::{BlobOutput, Labels, Output};

    use super::*;

    fn project(name: &str) -> Project {
        Project::new(name).unwrap()
    }

    fn entry(pair: &Pair, action: u8, blob: &[u8]) -> Signed<Entry> {
        let issued = Time::from_millis(1_000_000);
        let entry = Entry {
            project: project("p"),
            recipe: Recipe::new("r@1").unwrap(),
            action: ActionId::from_bytes([action; 32]),
            output: Output::Blob(BlobOutput { digest: Digest::of(blob), size: blob.len() as u64 }),
            labels: Labels::default(),
            taints: Vec::new(),
            issued,
            not_after: issued.plus(Duration::from_secs(60)),
            replaces: None,
        };
        Signed::sign(&entry, &[pair]).unwrap()
    }

    #[test]
    fn entries_are_found_by_their_action() {
        let index = Index::in_memory().unwrap();
        let (ann, ben) = (Pair::from_seed(&[1; 32], ""), Pair::from_seed(&[2; 32], ""));
        for entry in [entry(&ann, 1, b"a"), entry(&ben, 1, b"b"), entry(&ann, 2, b"c"), entry(&ann, 1, b"a")]
        {
            index.keep_entry(&entry, &[], Durability::Fast).unwrap();
        }
        let found = |action| index.entries(&ActionId::from_bytes([action; 32])).unwrap().len();
        assert_eq!((found(0), found(1), found(2), found(3)), (0, 2, 1, 0));
    }

    #[test]
    fn the_outbox_keeps_what_came_while_a_catalog_was_made() {
        let index = Index::in_memory().unwrap();
        let ann = Pair::from_seed(&[1; 32], "");
        index.publish(&entry(&ann, 1, b"a"), &[]).unwrap();
        index.publish(&entry(&ann, 2, b"b"), &[]).unwrap();
        let listed = index.outbox(&project("p"), 10).unwrap();
        assert_eq!(listed.len(), 2);
        assert!(index.outbox(&project("q"), 10).unwrap().is_empty());
        index.publish(&entry(&ann, 2, b"newer"), &[]).unwrap();
        let head = potluck_protocol::codec::Bytes::new(vec![1]).unwrap();
        let catalog = OwnCatalog { catalog: Catalog { project: project("p"), segments: Vec::new() }, head };
        index.flush(&catalog, &listed, &[]).unwrap();
        assert_eq!(index.own_catalog(&project("p")).unwrap(), Some(catalog));
        let left = index.outbox(&project("p"), 10).unwrap();
        assert_eq!(left.len(), 1);
        assert_eq!(left[0].0, ActionId::from_bytes([2; 32]));
    }

    #[test]
    fn blobs_go_only_where_their_project_is_shared() {
        let index = Index::in_memory().unwrap();
        let (one, other) = (Digest::of(b"1"), Digest::of(b"2"));
        index.belong(&[one], &project("a"), Durability::Fast).unwrap();
        index.belong(&[one, other], &project("b"), Durability::Fast).unwrap();
        let in_a = |digest| index.belongs(digest, |name| name == "a").unwrap();
        assert!(in_a(&one) && !in_a(&other) && !in_a(&Digest::of(b"3")));
    }

    #[test]
    fn what_was_kept_is_there_after_reopening_and_later_versions_are_left_alone() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.redb");
        let digest = Digest::of(b"small");
        let index = Index::open(&path).unwrap();
        index.keep_small(&digest, b"small", Durability::Durable).unwrap();
        drop(index);
        let index = Index::open(&path).unwrap();
        assert_eq!(index.small(&digest).unwrap().as_deref(), Some(&b"small"[..]));
        assert!(index.forget_small(&digest).unwrap() && !index.forget_small(&digest).unwrap());
        let raise = |change: &WriteTransaction| {
            change.open_table(rows::META).unwrap().insert("schema", rows::SCHEMA + 1).unwrap();
            Ok(())
        };
        index.change(Durability::Durable, raise).unwrap();
        drop(index);
        assert!(matches!(Index::open(&path), Err(IndexError::Later { found: 2, .. })));
    }

    use potluck_protocol::catalog::Catalog;
}
