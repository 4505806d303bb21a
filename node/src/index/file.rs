// SPDX-License-Identifier: MIT OR Apache-2.0
//! The file of the index: redb's own backend, whose steps go the way of all others, and how such a file comes to be.

use std::fs::File;
use std::io;
use std::ops::Bound;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard};

use redb::backends::{FileBackend, InMemoryBackend};
use redb::{
    BackendError, Database, DatabaseError, ReadTransaction, ReadableDatabase as _, StorageBackend,
    WriteTransaction,
};

use super::open::builder;
use crate::content::files::{Files, Step};

/// Where an index is made before it gets its name.
const UNFINISHED: &str = "unfinished";

/// redb's file. Reading and locking are not steps: they change nothing.
#[derive(Debug)]
struct IndexFile {
    inner: FileBackend,
    /// The same file.
    file: File,
    files: Files,
    path: PathBuf,
    failed: Arc<AtomicBool>,
}

impl IndexFile {
    /// Remembers that something failed.
    fn tell<T>(&self, done: io::Result<T>) -> io::Result<T> {
        if done.is_err() {
            self.failed.store(true, Ordering::SeqCst);
        }
        done
    }
}

/// The database, which is opened anew after its file could not be read or written.
///
/// redb does nothing any more after such an error, not even look-ups, until it is opened again, which brings it back
/// to the last durable change. A disk that was full for a moment must not end the index for as long as the daemon runs.
pub(super) struct Db {
    slot: RwLock<Option<Database>>,
    failed: Arc<AtomicBool>,
    /// Where it can be opened again, unless it is in memory.
    place: Option<(PathBuf, Files)>,
}

impl Db {
    /// Opens the database at `path`, which must be there.
    pub(super) fn open(path: &Path, files: &Files) -> Result<Self, DatabaseError> {
        Self::over(File::options().read(true).write(true).open(path)?, path, files)
    }

    fn over(file: File, path: &Path, files: &Files) -> Result<Self, DatabaseError> {
        let failed = Arc::default();
        let db = database(file, path, files, &failed)?;
        Ok(Self { slot: RwLock::new(Some(db)), failed, place: Some((path.to_owned(), files.clone())) })
    }

    /// One that lives as long as the process.
    pub(super) fn in_memory() -> Result<Self, DatabaseError> {
        let db = builder().create_with_backend(InMemoryBackend::new())?;
        Ok(Self { slot: RwLock::new(Some(db)), failed: Arc::default(), place: None })
    }

    /// Begins to read.
    pub(super) fn begin_read(&self) -> Result<ReadTransaction, redb::Error> {
        Ok(self.db()?.as_ref().ok_or(redb::Error::DatabaseClosed)?.begin_read()?)
    }

    /// Begins to write, when nobody else does.
    pub(super) fn begin_write(&self) -> Result<WriteTransaction, redb::Error> {
        Ok(self.db()?.as_ref().ok_or(redb::Error::DatabaseClosed)?.begin_write()?)
    }

    fn db(&self) -> Result<RwLockReadGuard<'_, Option<Database>>, redb::Error> {
        if self.failed.load(Ordering::SeqCst)
            && let Some((path, files)) = &self.place
        {
            let mut slot = self.slot.write().unwrap_or_else(PoisonError::into_inner);
            if self.failed.load(Ordering::SeqCst) {
                // The old one lets go of the file first.
                *slot = None;
                let file = File::options().read(true).write(true).open(path)?;
                self.failed.store(false, Ordering::SeqCst);
                let opened = database(file, path, files, &self.failed);
                *slot = Some(opened.inspect_err(|_| self.failed.store(true, Ordering::SeqCst))?);
                tracing::warn!(path = %path.display(), "the index was opened again after an error");
            }
        }
        Ok(self.slot.read().unwrap_or_else(PoisonError::into_inner))
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

fn database(
    file: File,
    path: &Path,
    files: &Files,
    failed: &Arc<AtomicBool>,
) -> Result<Database, DatabaseError> {
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
    use potluck_protocol::digest::Digest;

    use super::super::{Index, IndexError};
    use crate::content::Durability;

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
