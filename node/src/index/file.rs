// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file of the index: redb's own backend, whose steps go the way of all others, and how such a file comes to be.

use std::fs::File;
use std::io;
use std::ops::{Bound, Deref, DerefMut};
use std::os::unix::fs::MetadataExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock, RwLockReadGuard};
use std::thread;
use std::time::Duration;

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    BackendError, Database, DatabaseError, ReadOnlyTable, ReadTransaction, ReadableDatabase as _,
    StorageBackend, TableDefinition, WriteTransaction,
};

use super::open::builder;
use super::rows::{self, BelongsKey, EntryKey};
use crate::content::files::{Files, Step};

/// Where an index is made before it gets its name.
const UNFINISHED: &str = "unfinished";

/// How often, and how long in between, it is looked whether nobody reads or writes just now.
const TRIES: usize = 50;
const BETWEEN: Duration = Duration::from_millis(2);

/// redb's file. Reading and locking are not steps: they change nothing.
#[derive(Debug)]
struct IndexFile {
    inner: FileBackend,
    /// The same file.
    file: File,
    files: Files,
    path: PathBuf,
    failed: Arc<Failed>,
}

impl IndexFile {
    /// Remembers that something failed.
    fn tell<T>(&self, done: io::Result<T>) -> io::Result<T> {
        done.inspect_err(|error| self.failed.tell(error))
    }
}

/// Whether a file could not be read or written, and why at last.
#[derive(Debug, Default)]
struct Failed {
    yes: AtomicBool,
    why: Mutex<Option<(io::ErrorKind, String)>>,
}

impl Failed {
    fn tell(&self, error: &io::Error) {
        *self.why.lock().unwrap_or_else(PoisonError::into_inner) = Some((error.kind(), error.to_string()));
        self.yes.store(true, Ordering::SeqCst);
    }

    fn is_so(&self) -> bool {
        self.yes.load(Ordering::SeqCst)
    }

    fn forget(&self) {
        self.yes.store(false, Ordering::SeqCst);
    }

    /// The same as an error, where redb swallows its own: when a file is closed.
    fn told(&self) -> Result<(), redb::Error> {
        let why = self.why.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match why.filter(|_| self.is_so()) {
            Some((kind, text)) => Err(redb::Error::Io(io::Error::new(kind, text))),
            None => Ok(()),
        }
    }
}

/// The database, which is opened anew after its file could not be read or written.
///
/// redb does nothing any more after such an error, not even look-ups, until it is opened again, which brings it back
/// to the last durable change. A disk that was full for a moment must not end the index for as long as the daemon runs.
pub(super) struct Db {
    /// What was read last, and how many changes had ended before.
    latest: Mutex<Option<(u64, Arc<Reading>)>>,
    slot: RwLock<Option<Database>>,
    /// Held by everybody who reads or writes.
    live: Arc<()>,
    /// How many changes have ended, whether well or not.
    ended: Arc<AtomicU64>,
    failed: Arc<Failed>,
    /// Where it can be opened again, unless it is in memory.
    place: Option<(PathBuf, Files)>,
}

impl Db {
    /// Opens the database at `path`, which must be there.
    pub(super) fn open(path: &Path, files: &Files) -> Result<Self, DatabaseError> {
        Self::over(File::options().read(true).write(true).open(path)?, path, files)
    }

    /// A database in a file that is open.
    pub(super) fn over(file: File, path: &Path, files: &Files) -> Result<Self, DatabaseError> {
        let failed = Arc::<Failed>::default();
        let db = database(file, path, files, &failed)?;
        let place = Some((path.to_owned(), files.clone()));
        let (latest, live, ended) = Default::default();
        Ok(Self { latest, slot: RwLock::new(Some(db)), live, ended, failed, place })
    }

    /// One that lives as long as the process.
    pub(super) fn in_memory() -> Result<Self, DatabaseError> {
        let db = builder().create_with_backend(InMemoryBackend::new())?;
        let (latest, live, ended, failed) = Default::default();
        Ok(Self { latest, slot: RwLock::new(Some(db)), live, ended, failed, place: None })
    }

    /// Begins to read, together with all who do until something changes. To begin takes locks of redb's that whoever
    /// changes something takes again and again for each page: each time that it got one in between would cost a look-up
    /// the time in which a thread wakes.
    pub(super) fn begin_read(&self) -> Result<Arc<Reading>, redb::Error> {
        let slot = self.db()?;
        let mut latest = self.latest();
        let ended = self.ended();
        if let Some((_, reading)) = latest.as_ref().filter(|(before, _)| *before == ended) {
            return Ok(Arc::clone(reading));
        }
        let transaction = slot.as_ref().ok_or(redb::Error::DatabaseClosed)?.begin_read()?;
        let reading =
            Arc::new(Reading { tables: Tables::default(), transaction, _live: Arc::clone(&self.live) });
        *latest = Some((ended, Arc::clone(&reading)));
        Ok(reading)
    }

    fn latest(&self) -> MutexGuard<'_, Option<(u64, Arc<Reading>)>> {
        // It is changed in one step.
        self.latest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Begins to write, when nobody else does.
    pub(super) fn begin_write(&self) -> Result<Writing, redb::Error> {
        let slot = self.db()?;
        // What was read before the last change would keep pages that can be used again.
        drop(self.latest().take_if(|(before, _)| *before != self.ended()));
        let ends = Ends { _live: Arc::clone(&self.live), ended: Arc::clone(&self.ended) };
        let transaction = slot.as_ref().ok_or(redb::Error::DatabaseClosed)?.begin_write()?;
        Ok(Writing { transaction, ends })
    }

    /// Closes it, which redb does by writing what makes the next opening fast.
    pub(super) fn close(mut self) -> Result<(), redb::Error> {
        self.shut();
        self.failed.told()
    }

    fn shut(&mut self) {
        drop(self.latest().take());
        let database = self.slot.get_mut().unwrap_or_else(PoisonError::into_inner).take();
        // A damaged file may make it panic, and whoever opens it next finds out.
        if catch_unwind(AssertUnwindSafe(|| drop(database))).is_err() {
            tracing::warn!("the index could not be closed in good order");
        }
    }

    /// Where it lies, unless it is in memory.
    pub(super) fn place(&self) -> Option<&(PathBuf, Files)> {
        self.place.as_ref()
    }

    /// How many changes have ended. Whoever begins to read after this and finds the same number later has seen all.
    pub(super) fn ended(&self) -> u64 {
        self.ended.load(Ordering::SeqCst)
    }

    /// Puts another file in the place of this one, if no more than `ended` changes have ended and nobody reads or writes;
    /// gives whether it did. Whoever comes meanwhile waits: for as long as it takes to close one file and to open another.
    ///
    /// # Errors
    /// When the file cannot be put there; the one that was there is used on then.
    pub(super) fn replace(&self, by: &Path, ended: u64) -> Result<bool, redb::Error> {
        let Some((path, files)) = &self.place else { return Ok(false) };
        for _ in 0..TRIES {
            let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
            if self.ended() != ended || self.failed.is_so() {
                return Ok(false);
            }
            drop(self.latest().take());
            if Arc::strong_count(&self.live) > 1 {
                drop(slot);
                thread::sleep(BETWEEN);
                continue;
            }
            *slot = None;
            // Whoever comes next opens it again.
            self.failed.told()?;
            let moved = files.rename(by, path);
            // Nothing may be written to the new one that a power cut would take back along with its name.
            let moved = moved.and_then(|()| files.sync_folder(path.parent().unwrap_or(Path::new("."))));
            let file = File::options().read(true).write(true).open(path);
            let opened = file.map_err(DatabaseError::from).and_then(|file| {
                self.failed.forget();
                database(file, path, files, &self.failed)
            });
            // One that cannot be opened now is tried again by whoever comes next.
            *slot = Some(opened.inspect_err(|error| self.failed.tell(&io::Error::other(error.to_string())))?);
            moved.map_err(redb::Error::Io)?;
            return Ok(true);
        }
        Ok(false)
    }

    fn db(&self) -> Result<RwLockReadGuard<'_, Option<Database>>, redb::Error> {
        if self.failed.is_so()
            && let Some((path, files)) = &self.place
        {
            let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
            if self.failed.is_so() {
                // The old one lets go of the file first.
                drop(self.latest().take());
                *slot = None;
                let file = File::options().read(true).write(true).open(path)?;
                self.failed.forget();
                let opened = database(file, path, files, &self.failed);
                *slot =
                    Some(opened.inspect_err(|error| self.failed.tell(&io::Error::other(error.to_string())))?);
                tracing::warn!(path = %path.display(), "the index was opened again after an error");
            }
        }
        Ok(self.slot.read().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Drop for Db {
    fn drop(&mut self) {
        self.shut();
    }
}

/// A read transaction, as long as which the file stays open.
pub(super) struct Reading {
    /// The tables that each look-up reads: to open one takes longer than to find a row in it.
    tables: Tables,
    transaction: ReadTransaction,
    _live: Arc<()>,
}

#[derive(Default)]
struct Tables {
    entries: OnceLock<ReadOnlyTable<EntryKey, &'static [u8]>>,
    small: OnceLock<ReadOnlyTable<&'static [u8; 32], &'static [u8]>>,
    slabs: OnceLock<ReadOnlyTable<u64, &'static [u8]>>,
    belongs: OnceLock<ReadOnlyTable<BelongsKey, ()>>,
}

impl Reading {
    /// The Entries.
    pub(super) fn entries(&self) -> Result<&ReadOnlyTable<EntryKey, &'static [u8]>, redb::Error> {
        self.opened(&self.tables.entries, rows::ENTRIES)
    }

    /// The small Blobs.
    pub(super) fn small(&self) -> Result<&ReadOnlyTable<&'static [u8; 32], &'static [u8]>, redb::Error> {
        self.opened(&self.tables.small, rows::SMALL)
    }

    /// In which many of them lie.
    pub(super) fn slabs(&self) -> Result<&ReadOnlyTable<u64, &'static [u8]>, redb::Error> {
        self.opened(&self.tables.slabs, rows::SLABS)
    }

    /// Which Blob belongs to which Project.
    pub(super) fn belongs(&self) -> Result<&ReadOnlyTable<BelongsKey, ()>, redb::Error> {
        self.opened(&self.tables.belongs, rows::BELONGS)
    }

    fn opened<'t, K: redb::Key, V: redb::Value>(
        &self,
        table: &'t OnceLock<ReadOnlyTable<K, V>>,
        name: TableDefinition<'_, K, V>,
    ) -> Result<&'t ReadOnlyTable<K, V>, redb::Error> {
        if let Some(table) = table.get() {
            return Ok(table);
        }
        let opened = self.transaction.open_table(name)?;
        Ok(table.get_or_init(|| opened))
    }
}

impl Deref for Reading {
    type Target = ReadTransaction;

    fn deref(&self) -> &ReadTransaction {
        &self.transaction
    }
}

/// A write transaction, as long as which the file stays open.
pub(super) struct Writing {
    transaction: WriteTransaction,
    /// Dropped after the transaction, so that what was counted is over.
    ends: Ends,
}

struct Ends {
    _live: Arc<()>,
    ended: Arc<AtomicU64>,
}

impl Drop for Ends {
    fn drop(&mut self) {
        self.ended.fetch_add(1, Ordering::SeqCst);
    }
}

impl Writing {
    /// Commits what was written.
    pub(super) fn commit(self) -> Result<(), redb::Error> {
        let Self { transaction, ends } = self;
        let done = transaction.commit();
        drop(ends);
        Ok(done?)
    }
}

impl Deref for Writing {
    type Target = WriteTransaction;

    fn deref(&self) -> &WriteTransaction {
        &self.transaction
    }
}

impl DerefMut for Writing {
    fn deref_mut(&mut self) -> &mut WriteTransaction {
        &mut self.transaction
    }
}

/// Makes a database at `path` if nothing is there, and what belongs in every one of them by `furnish`.
///
/// redb takes several steps to begin a file, and refuses one whose beginning was interrupted. So the file gets its name
/// when it is complete, and what an earlier attempt left is removed.
///
/// # Errors
/// Within, what `furnish` says.
pub(super) fn make<E>(
    path: &Path,
    files: &Files,
    furnish: impl FnOnce(Db) -> Result<(), E>,
) -> Result<Result<(), E>, DatabaseError> {
    if path.try_exists()? {
        return Ok(Ok(()));
    }
    let unfinished = path.with_extension(UNFINISHED);
    match files.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error.into()),
        _ => {}
    }
    let file = files.create(&unfinished)?;
    let again = file.try_clone()?;
    if let Err(error) = furnish(Db::over(file, &unfinished, files)?) {
        return Ok(Err(error));
    }
    files.sync((&again, &unfinished))?;
    files.name(&unfinished, path)?;
    files.sync_folder(path.parent().unwrap_or(Path::new(".")))?;
    Ok(Ok(()))
}

fn database(file: File, path: &Path, files: &Files, failed: &Arc<Failed>) -> Result<Database, DatabaseError> {
    let (again, path, failed) = (file.try_clone()?, path.to_owned(), Arc::clone(failed));
    let file = IndexFile { inner: FileBackend::new(file)?, file: again, files: files.clone(), path, failed };
    builder().create_with_backend(file)
}

impl StorageBackend for IndexFile {
    fn len(&self) -> io::Result<u64> {
        self.tell(self.inner.len())
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.tell(self.inner.read(offset, out))
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.tell(self.files.take(Step::Length { path: &self.path, len }, || self.inner.set_len(len)))
    }

    fn sync_data(&self) -> io::Result<()> {
        let sync = || {
            self.inner.sync_data()?;
            // One that somebody has removed can be written and read as before, and is lost with this process.
            if self.file.metadata()?.nlink() == 0 { Err(io::ErrorKind::NotFound.into()) } else { Ok(()) }
        };
        self.tell(self.files.take(Step::Sync(&self.path), sync))
    }

    fn write(&self, offset: u64, bytes: &[u8]) -> io::Result<()> {
        let step = Step::Write { path: &self.path, offset, bytes };
        self.tell(self.files.take(step, || self.inner.write(offset, bytes)))
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<(), BackendError> {
        self.inner.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Result<bool, BackendError> {
        self.inner.query_lock_range(start, end)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use potluck_protocol::digest::Digest;

    use super::super::{Index, IndexError};
    use super::Db;
    use crate::content::Durability;

    #[test]
    fn those_who_read_share_what_they_see_until_something_changes() {
        let db = Db::in_memory().unwrap();
        let [one, same] = [(); 2].map(|()| db.begin_read().unwrap());
        assert!(Arc::ptr_eq(&one, &same));
        db.begin_write().unwrap().commit().unwrap();
        let next = db.begin_read().unwrap();
        assert!(!Arc::ptr_eq(&one, &next));
        // Nothing is kept that was seen before the last change.
        let seen = Arc::downgrade(&next);
        drop(next);
        let change = db.begin_write().unwrap();
        assert!(seen.upgrade().is_some(), "who reads meanwhile sees the same");
        change.commit().unwrap();
        let change = db.begin_write().unwrap();
        assert!(seen.upgrade().is_none());
        drop(change);
        db.close().unwrap();
    }

    #[test]
    fn what_is_written_to_an_index_that_was_removed_is_not_called_durable() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.redb");
        let index = Index::open(&path).unwrap();
        let keep = |index: &Index| index.keep_small(&Digest::of(b"x"), b"x", Durability::Durable);
        keep(&index).unwrap();
        std::fs::remove_file(&path).unwrap();
        for _ in 0..2 {
            assert!(matches!(keep(&index), Err(IndexError::Redb { .. })));
        }
        drop(index);
        keep(&Index::open(&path).unwrap()).unwrap();
    }

    #[test]
    fn an_index_whose_making_was_interrupted_is_made_anew() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("index.redb");
        std::fs::write(path.with_extension(super::UNFINISHED), [0; 5000]).unwrap();
        drop(Index::open(&path).unwrap());
        assert!(!path.with_extension(super::UNFINISHED).exists());
        // What has its name and is none is not touched.
        std::fs::write(&path, [0; 5000]).unwrap();
        assert!(matches!(Index::open(&path), Err(IndexError::Damaged { .. })));
        assert_eq!(std::fs::read(&path).unwrap(), [0; 5000]);
    }
}
