// SPDX-License-Identifier: MIT OR Apache-2.0
//! Makes the file of the index smaller once much of it is free.
//!
//! redb gives pages back only at the end of its file, and its own compaction wants the file for itself, for seconds. So
//! what is in it is copied into a new one, by a reader who is in nobody's way, and that one takes its place in a moment
//! in which nobody reads or writes. When something was changed meanwhile, the copy is worth nothing and goes.

use std::collections::BTreeSet;
use std::io;
use std::path::{Path, PathBuf};

use redb::{
    Key, ReadTransaction, ReadableTableMetadata as _, TableDefinition, TableHandle as _, UntypedTableHandle,
    Value, WriteTransaction,
};

use super::file::Db;
use super::{Index, IndexError, open, rows};
use crate::content::files::Files;

/// How a copy is called, as long as it is none.
const COPY: &str = "copy";
/// A file that is not longer than this is not worth the trouble, in bytes.
pub const WORTH: u64 = 16 << 20;
/// So many rows are copied before it is asked whether to go on.
const ROWS: usize = 256;

/// What came of it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shrunk {
    /// There is too little to win.
    Tight,
    /// The file has become smaller.
    Done {
        /// Its bytes before.
        before: u64,
        /// Its bytes now.
        after: u64,
    },
    /// Somebody came, or changed something meanwhile.
    Spoilt,
}

/// Whether a file of `len` bytes in which there are `stored` bytes of keys and values may become much smaller. A file
/// that was written in no order takes up to twice what is in it.
fn is_worth(len: u64, stored: u64) -> bool {
    stored.saturating_mul(3) < len
}

/// Does something with every table there is. Whatever is not here would be lost.
macro_rules! each_table {
    ($with:ident!) => {
        $with!(
            META,
            SMALL,
            SLABS,
            NAMED,
            BELONGS,
            ENTRIES,
            OUTBOX,
            CATALOGS,
            HEADS,
            CONTRADICTIONS,
            TALLIES,
            USES,
            PINS,
            WITHDRAWN,
            ALIASES,
            ALIASED
        )
    };
}

/// Removes a copy that an earlier process did not finish.
pub(super) fn sweep(index: &Path, files: &Files) -> io::Result<()> {
    let copy = index.with_extension(COPY);
    if copy.try_exists()? { files.remove(&copy) } else { Ok(()) }
}

/// A copy that is being made; dropped, it leaves nothing.
struct Copy<'a> {
    path: PathBuf,
    files: &'a Files,
}

impl Drop for Copy<'_> {
    fn drop(&mut self) {
        // After it took the place of the other one there is nothing to remove.
        if self.path.exists()
            && let Err(error) = self.files.remove(&self.path)
        {
            tracing::warn!(path = %self.path.display(), %error, "cannot be removed");
        }
    }
}

impl Index {
    /// Makes the file smaller if it is longer than `least` bytes and that is worth it. `room` is told how many bytes the copy may take, and refuses when that
    /// is too much. `go` is asked now and then whether to go on: nobody who comes must wait. Blocks, and reads everything.
    ///
    /// # Errors
    /// [`IndexError`], or what `room` says; the file is then as it was.
    pub fn shrink<E: From<IndexError>>(
        &self,
        least: u64,
        room: impl FnOnce(u64) -> Result<(), E>,
        go: &mut dyn FnMut() -> bool,
    ) -> Result<Shrunk, E> {
        self.land().map_err(E::from)?;
        let Some((path, files)) = self.db.place() else { return Ok(Shrunk::Tight) };
        let ended = self.db.ended();
        let read = self.db.begin_read().map_err(|error| self.redb(error))?;
        let length = |path: &Path| path.metadata().map_err(|error| self.redb(redb::Error::Io(error)));
        let before = length(path)?.len();
        if before <= least {
            return Ok(Shrunk::Tight);
        }
        let Some(stored) = open::guarded(path, || self.stored(&read, go))? else {
            return Ok(Shrunk::Spoilt);
        };
        if !is_worth(before, stored) {
            return Ok(Shrunk::Tight);
        }
        room(stored.saturating_mul(2))?;
        sweep(path, files).map_err(|error| self.redb(redb::Error::Io(error)))?;
        let copy = Copy { path: path.with_extension(COPY), files };
        if !open::guarded(path, || self.copy((&read, &copy.path), files, go))? || !go() {
            return Ok(Shrunk::Spoilt);
        }
        drop(read);
        let replaced = self.db.replace(&copy.path, ended);
        if !replaced.map_err(|error| self.redb(error))? {
            return Ok(Shrunk::Spoilt);
        }
        Ok(Shrunk::Done { before, after: length(path)?.len() })
    }

    /// Bytes of all keys and values, or nothing when it was told to stop.
    fn stored(
        &self,
        read: &ReadTransaction,
        go: &mut dyn FnMut() -> bool,
    ) -> Result<Option<u64>, IndexError> {
        let mut stored = 0;
        macro_rules! measure {
            ($($table:ident),*) => {$(
                if !go() {
                    return Ok(None);
                }
                let table = read.open_table(rows::$table).map_err(|error| self.redb(error.into()))?;
                stored += table.stats().map_err(|error| self.redb(error.into()))?.stored_bytes();
            )*};
        }
        each_table!(measure!);
        Ok(Some(stored))
    }

    /// Copies all tables into a new file, and has that reach the disk; gives whether it was not told to stop.
    fn copy(
        &self,
        (read, to): (&ReadTransaction, &Path),
        files: &Files,
        go: &mut dyn FnMut() -> bool,
    ) -> Result<bool, IndexError> {
        let failed = |error: redb::Error| self.redb(error);
        let file = files.create(to).map_err(|error| failed(redb::Error::Io(error)))?;
        let again = file.try_clone().map_err(|error| failed(redb::Error::Io(error)))?;
        let db = Db::over(file, to, files).map_err(|error| failed(error.into()))?;
        let change = db.begin_write().map_err(failed)?;
        let mut known = BTreeSet::new();
        macro_rules! copy {
            ($($table:ident),*) => {$(
                known.insert(rows::$table.name());
                if !copy_table((read, &change), rows::$table, go).map_err(failed)? {
                    return Ok(false);
                }
            )*};
        }
        each_table!(copy!);
        let all = read.list_tables().map_err(|error| failed(error.into()))?;
        for table in all.filter(|table| !known.contains(table.name())) {
            if !is_empty(read, table).map_err(failed)? {
                // A later version has been here. What it knows of is not ours to lose.
                return Ok(false);
            }
        }
        change.commit().map_err(failed)?;
        db.close().map_err(failed)?;
        files.sync((&again, to)).map_err(|error| failed(redb::Error::Io(error)))?;
        Ok(true)
    }
}

fn is_empty(read: &ReadTransaction, table: UntypedTableHandle) -> Result<bool, redb::Error> {
    Ok(read.open_untyped_table(table)?.is_empty()?)
}

/// Copies one table; gives whether it was not told to stop.
fn copy_table<K: Key + 'static, V: Value + 'static>(
    (read, change): (&ReadTransaction, &WriteTransaction),
    table: TableDefinition<'_, K, V>,
    go: &mut dyn FnMut() -> bool,
) -> Result<bool, redb::Error> {
    let from = read.open_table(table)?;
    let mut to = change.open_table(table)?;
    for (number, row) in from.range::<K::SelfType<'_>>(..)?.enumerate() {
        if number % ROWS == 0 && !go() {
            return Ok(false);
        }
        let (key, value) = row?;
        to.insert(key.value(), value.value())?;
    }
    if to.len()? == from.len()? {
        Ok(true)
    } else {
        Err(redb::Error::Corrupted("rows are missing".to_owned()))
    }
}

#[cfg(test)]
mod tests {
    use potluck_protocol::digest::Digest;

    use super::*;
    use crate::content::Durability;

    const BLOB: usize = 8 * 1024;
    const MANY: u64 = 1000;

    fn blob(number: u64) -> (Digest, Vec<u8>) {
        let mut bytes = vec![7; BLOB];
        bytes[..8].copy_from_slice(&number.to_le_bytes());
        (Digest::of(&bytes), bytes)
    }

    /// An index in which there was much, and of which every twentieth Blob is left.
    fn sparse(path: &Path) -> Index {
        let index = Index::open(path).unwrap();
        for number in 0..MANY {
            let (digest, bytes) = blob(number);
            index.keep_small(&digest, &bytes, Durability::Fast).unwrap();
        }
        index.settle().unwrap();
        let gone: Vec<_> = (0..MANY).filter(|number| number % 20 != 0).map(|number| blob(number).0).collect();
        index.forget_blobs(&gone).unwrap();
        index
    }

    #[track_caller]
    fn has_what_is_left(index: &Index) {
        for number in 0..MANY {
            let (digest, bytes) = blob(number);
            let left = (number % 20 == 0).then_some(bytes);
            assert_eq!(index.small(&digest).unwrap(), left, "{number}");
        }
    }

    #[expect(clippy::unnecessary_wraps, reason = "a disk may have no room")]
    fn room(_: u64) -> Result<(), IndexError> {
        Ok(())
    }

    #[test]
    fn what_is_left_of_much_takes_little_and_nothing_is_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.redb");
        let index = sparse(&path);
        let len = || path.metadata().unwrap().len();
        let before = len();
        assert_eq!(index.shrink(before, room, &mut || true).unwrap(), Shrunk::Tight, "it is short");
        // One who reads while the copy takes the place of the file is waited for.
        let done = std::sync::atomic::AtomicBool::new(false);
        let shrunk = std::thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(std::sync::atomic::Ordering::Relaxed) {
                    assert!(index.small(&blob(20).0).unwrap().is_some());
                }
            });
            let shrunk = index.shrink(0, room, &mut || true);
            done.store(true, std::sync::atomic::Ordering::Relaxed);
            shrunk.unwrap()
        });
        // Somebody who reads without a pause may have kept it from taking place.
        if shrunk == Shrunk::Spoilt {
            assert!(matches!(index.shrink(0, room, &mut || true), Ok(Shrunk::Done { .. })));
        }
        assert!(len() * 4 < before, "{before} to {}", len());
        has_what_is_left(&index);
        let (digest, bytes) = blob(MANY + 1);
        index.keep_small(&digest, &bytes, Durability::Durable).unwrap();
        drop(index);
        let index = Index::open(&path).unwrap();
        has_what_is_left(&index);
        assert_eq!(index.small(&digest).unwrap(), Some(bytes));
        assert_eq!(index.shrink(0, room, &mut || true).unwrap(), Shrunk::Tight, "once is enough");
    }

    #[test]
    fn a_copy_in_the_middle_of_which_something_happens_is_given_up() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.redb");
        let index = sparse(&path);
        let copy = path.with_extension(COPY);
        let before = path.metadata().unwrap().len();
        // Whenever somebody comes.
        for patience in 0..16 {
            let mut left = patience;
            let mut go = || {
                left -= 1;
                left >= 0
            };
            let shrunk = index.shrink(0, room, &mut go).unwrap();
            assert!(shrunk == Shrunk::Spoilt && !copy.exists(), "{patience}: {shrunk:?}");
        }
        // Something is written once everything was copied.
        let (digest, bytes) = blob(MANY + 1);
        let mut calls = 0;
        let mut write = || {
            calls += 1;
            index.keep_small(&blob(MANY + calls).0, &blob(MANY + calls).1, Durability::Durable).unwrap();
            true
        };
        assert_eq!(index.shrink(0, room, &mut write).unwrap(), Shrunk::Spoilt);
        assert_eq!(index.small(&digest).unwrap(), Some(bytes));
        // No room.
        let full = |_| Err(IndexError::Damaged { path: path.clone(), why: "no room".to_owned() });
        assert!(index.shrink(0, full, &mut || true).is_err());
        assert!(!copy.exists() && path.metadata().unwrap().len() >= before);
        has_what_is_left(&index);
    }

    #[test]
    fn what_a_later_version_knows_of_is_not_lost() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.redb");
        let index = sparse(&path);
        const LATER: TableDefinition<'_, &str, u64> = TableDefinition::new("something new");
        let change = |index: &Index| {
            let change = index.db.begin_write().unwrap();
            change.open_table(LATER).unwrap().insert("a", 1).unwrap();
            change.commit().unwrap();
        };
        change(&index);
        assert_eq!(index.shrink(0, room, &mut || true).unwrap(), Shrunk::Spoilt);
        let read = index.db.begin_read().unwrap();
        assert_eq!(read.open_table(LATER).unwrap().len().unwrap(), 1);
    }

    #[test]
    fn a_copy_that_was_left_behind_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.redb");
        drop(Index::open(&path).unwrap());
        std::fs::write(path.with_extension(COPY), "half").unwrap();
        drop(Index::open(&path).unwrap());
        assert!(!path.with_extension(COPY).exists());
    }

    #[test]
    fn a_file_is_copied_when_that_is_worth_it() {
        assert!(is_worth(1, 0));
        assert!(!is_worth(100, 40), "redb needs some room");
        assert!(is_worth(100, 30));
        assert!(!is_worth(u64::MAX, u64::MAX));
    }
}
