// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opening the file of the index, whatever state it is in.
//!
//! A file that cannot be opened is left as it is: nothing here deletes or mends one. The way out is [`set_aside`].

use std::fs::{self, File};
use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use potluck_keys::ring;
use potluck_keys::signed::SealKey;
use redb::{Builder, DatabaseError, StorageError};

use super::IndexError;
use crate::content::files::Files;
use crate::observe::clock;

/// How much of the file redb keeps in memory, in bytes. Its own default is 1 GiB. What does not fit comes from the page
/// cache of the system, at some microseconds a page.
const CACHE_BYTES: usize = 64 << 20;

/// The name of the file with the [`SealKey`], beside the index.
const SEAL: &str = "seal";

/// What redb is opened with.
pub(super) fn builder() -> Builder {
    let mut builder = Builder::new();
    builder.set_cache_size(CACHE_BYTES);
    builder
}

/// Refuses what cannot be an index, and in which redb would begin a new one.
pub(super) fn is_sane(path: &Path) -> Result<(), IndexError> {
    let damaged = |why: &str| IndexError::Damaged { path: path.to_owned(), why: why.to_owned() };
    match fs::metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => {
            let source = Box::new(redb::Error::Io(error));
            Err(IndexError::Redb { path: path.to_owned(), source })
        }
        Ok(found) if !found.is_file() => Err(damaged("it is not a file")),
        // One that is made appears whole, so this was longer once.
        Ok(found) if found.len() == 0 => Err(damaged("it is empty")),
        Ok(_) => Ok(()),
    }
}

/// Does something that reads the file. redb trusts what it reads as long as it can, and may panic on a damaged file.
pub(super) fn guarded<T>(path: &Path, work: impl FnOnce() -> Result<T, IndexError>) -> Result<T, IndexError> {
    catch_unwind(AssertUnwindSafe(work)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let why = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("it makes no sense");
        // One line, since it becomes part of a sentence.
        let why = why.lines().next().unwrap_or_default().to_owned();
        Err(IndexError::Damaged { path: path.to_owned(), why })
    })
}

pub(super) fn opening(path: &Path, error: DatabaseError) -> IndexError {
    match error {
        DatabaseError::Storage(error) => storage(path, error),
        DatabaseError::UpgradeRequired(_) | DatabaseError::RepairAborted => {
            IndexError::Damaged { path: path.to_owned(), why: error.to_string() }
        }
        other => IndexError::Redb { path: path.to_owned(), source: Box::new(other.into()) },
    }
}

fn storage(path: &Path, error: StorageError) -> IndexError {
    judge(path, error.into())
}

/// Tells what is wrong with the bytes from what is wrong with the disk.
pub(super) fn judge(path: &Path, error: redb::Error) -> IndexError {
    let bad = match &error {
        redb::Error::Corrupted(_) => true,
        redb::Error::Io(error) => {
            matches!(error.kind(), io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof)
        }
        _ => false,
    };
    let path = path.to_owned();
    if bad {
        IndexError::Damaged { path, why: error.to_string() }
    } else {
        IndexError::Redb { path, source: Box::new(error) }
    }
}

/// The key that seals rows, made when it is missing. Without one everything works, and signatures are verified at each
/// use.
pub(super) fn seal_key(index: &Path, files: &Files) -> Option<SealKey> {
    let path = index.with_file_name(SEAL);
    let read = || match ring::read(&path, 32) {
        Ok(bytes) => <[u8; 32]>::try_from(bytes).ok().map(|bytes| SealKey::from_bytes(&bytes)),
        Err(_) => None,
    };
    if let Some(key) = read() {
        return Some(key);
    }
    let made = SealKey::generate().ok().and_then(|key| keep_seal(&path, &key, files).ok());
    // Read again, since another process may have been faster; a damaged one is not replaced.
    let key = made.and_then(|_| read());
    if key.is_none() {
        tracing::warn!(path = %path.display(), "cannot be used: signatures are verified at each use");
    }
    key
}

/// Gives the key a file, which appears whole.
fn keep_seal(path: &Path, key: &SealKey, files: &Files) -> io::Result<()> {
    let unfinished = path.with_extension("unfinished");
    match files.remove(&unfinished) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let file = files.create(&unfinished)?;
    files.write_at((&file, &unfinished), 0, key.expose())?;
    files.sync((&file, &unfinished))?;
    match files.name(&unfinished, path) {
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => files.remove(&unfinished),
        named => named,
    }
}

/// Moves an index aside, file or whatever it is, so that the next opening begins an empty one; gives where it went, or
/// nothing when there was none.
///
/// # Errors
/// [`io::Error`].
pub fn set_aside(path: &Path) -> io::Result<Option<PathBuf>> {
    if let Err(error) = fs::symlink_metadata(path) {
        return if error.kind() == io::ErrorKind::NotFound { Ok(None) } else { Err(error) };
    }
    let mut name = path.file_name().unwrap_or_default().to_owned();
    name.push(format!(".damaged-{}", clock::now().as_millis()));
    let aside = path.with_file_name(name);
    fs::rename(path, &aside)?;
    if let Some(folder) = path.parent() {
        File::open(folder)?.sync_all()?;
    }
    Ok(Some(aside))
}
