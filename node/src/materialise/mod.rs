// SPDX-License-Identifier: MIT OR Apache-2.0
//! From the store to a folder and back.
//!
//! * [`tree`] writes a Tree, [`file()`] a Blob; both appear whole in their [`Place`], or not at all.
//! * [`Source`] is where the bytes come from: the daemon's store, or the door in a process of its own.
//! * [`job`] is what the daemon does for somebody who asks for a Tree.
//! * [`gather`] makes a Tree of a folder.
//!
//! Everything but the jobs blocks.

mod beneath;
pub mod gather;
pub mod job;
mod place;
mod source;
mod write;

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use potluck_keys::time::Time;
use potluck_protocol::digest::Digest;
use potluck_protocol::tree::Tree;
use rustix::fs::{FileType, Timespec, Timestamps};
use rustix::io::Errno;

use crate::cache::CacheError;
pub use place::{Place, UNFINISHED};
pub use source::{Door, Fault, Sink, Source};

/// Why something did not appear in its place. Nothing did then.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum RestoreError {
    /// The path does not end with a name.
    #[error("{path} does not end with the name of a file or folder", path = .0.display())]
    Unnamed(PathBuf),
    /// There is a folder with something in it, and it was not to be replaced.
    #[error("{path} is not empty", path = .0.display())]
    NotEmpty(PathBuf),
    /// Something that is no folder stands where one should be, or the other way round.
    #[error("{path} is {is}", path = path.display())]
    Other {
        /// Where.
        path: PathBuf,
        /// What it is.
        is: &'static str,
    },
    /// The file system cannot swap two folders in one step.
    #[error("the file system of {path} cannot swap two folders", path = .0.display())]
    NoSwap(PathBuf),
    /// The file system takes paths for one that are two.
    #[error("the file system takes {one:?} and {other:?} for one")]
    Clash {
        /// One path.
        one: String,
        /// The other.
        other: String,
    },
    /// A Blob cannot be had.
    #[error("{path}: {source}", path = path.display())]
    Source {
        /// The file that it is.
        path: PathBuf,
        /// Why.
        source: CacheError,
    },
    /// A Blob is not as large as the Tree or the Entry says.
    #[error("{path}: the blob is not of {size} bytes, as is claimed", path = path.display())]
    Size {
        /// The file that it is.
        path: PathBuf,
        /// What they say.
        size: u64,
    },
    /// Something cannot be written.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Write {
        /// What was to be done.
        what: &'static str,
        /// With what.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// Nobody wants it any more.
    #[error("it is no longer wanted")]
    Stopped,
}

impl RestoreError {
    pub(crate) fn write(what: &'static str, path: &Path, source: impl Into<io::Error>) -> Self {
        Self::Write { what, path: path.to_owned(), source: source.into() }
    }
}

/// How a Tree is to be written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Manner {
    /// Whether a folder that is there is to be replaced, with all that is in it.
    pub replace: bool,
    /// When everything was last changed; that of writing when absent.
    pub modified: Option<Time>,
}

/// How far it is, or what was done.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Done {
    /// Files.
    pub files: u64,
    /// Bytes in files.
    pub bytes: u64,
}

/// Told how far it is, by several threads; gives whether to go on.
pub type Told<'a> = &'a (dyn Fn(Done) -> bool + Sync);

/// What was put in its place.
#[derive(Debug)]
pub struct Restored {
    /// How much.
    pub done: Done,
    /// What was replaced and could not be removed.
    pub leftover: Option<PathBuf>,
}

/// Writes a Tree to a folder that is not there or empty, or replaces one. Modes are what the umask leaves of 0777 and
/// 0666; the folder takes its place in one step, with everything in it.
///
/// # Errors
/// [`RestoreError`].
pub fn tree<S: Source>(
    source: &S,
    tree: &Tree,
    (place, manner): (&Place, Manner),
    told: Told<'_>,
) -> Result<Restored, RestoreError> {
    restore(source, tree, (place, manner, write::folds_case), told)
}

/// Whether a file system takes different paths for one.
type Folds = fn(&beneath::Beneath) -> rustix::io::Result<bool>;

/// [`tree`] with another way to find out whether a file system folds case.
fn restore<S: Source>(
    source: &S,
    tree: &Tree,
    (place, manner, folds): (&Place, Manner, Folds),
    told: Told<'_>,
) -> Result<Restored, RestoreError> {
    place.is_free(manner.replace)?;
    let path = place.path();
    let fail = |error: Errno| RestoreError::write("make", path, error);
    place.sweep();
    let temporary = place.temporary_folder().map_err(fail)?;
    let root = temporary.open().map_err(|error| RestoreError::write("make", path, error))?;
    let beneath = beneath::Beneath::new(root.into());
    if folds(&beneath).map_err(fail)?
        && let Some((one, other)) = tree.case_clashes().first()
    {
        return Err(RestoreError::Clash { one: (*one).to_owned(), other: (*other).to_owned() });
    }
    let times = manner.modified.map(timestamps);
    let done = write::write(source, tree, &write::Into { beneath: &beneath, path, times }, told)?;
    match temporary.show(manner.replace) {
        Ok(leftover) => Ok(Restored { done, leftover }),
        Err(Errno::NOTEMPTY | Errno::EXIST) => Err(RestoreError::NotEmpty(path.to_owned())),
        Err(Errno::INVAL | Errno::NOSYS) if manner.replace => Err(RestoreError::NoSwap(path.to_owned())),
        Err(error) => Err(fail(error)),
    }
}

/// Writes a Blob to a file, in place of one that is there; gives its size. That is checked when it is known before.
///
/// # Errors
/// [`RestoreError`].
pub fn file<S: Source>(
    source: &S,
    (digest, size): (&Digest, Option<u64>),
    place: &Place,
    told: Told<'_>,
) -> Result<u64, RestoreError> {
    let path = place.path();
    let fail = |error: Errno| RestoreError::write("write", path, error);
    let is_folder = |mode| FileType::from_raw_mode(mode) == FileType::Directory;
    if place.stat().map_err(fail)?.is_some_and(|stat| is_folder(stat.st_mode)) {
        return Err(RestoreError::Other { path: path.to_owned(), is: "a folder" });
    }
    place.sweep();
    let temporary = place.temporary_file().map_err(fail)?;
    let to = temporary.open().map_err(|error| RestoreError::write("write", path, error))?;
    let size = write::one(source, (digest, size, path), to, told)?;
    temporary.show(false).map_err(fail)?;
    Ok(size)
}

/// Writes a Blob to a file that is open, empty, and lies at `path`; gives its size. That is checked when it is known before.
///
/// # Errors
/// [`RestoreError`]; the file is of no use then.
pub fn into<S: Source>(
    source: &S,
    (digest, size): (&Digest, Option<u64>),
    (file, path): (File, &Path),
    told: Told<'_>,
) -> Result<u64, RestoreError> {
    write::one(source, (digest, size, path), file, told)
}

fn timestamps(time: Time) -> Timestamps {
    let millis = i64::try_from(time.as_millis()).unwrap_or(i64::MAX);
    let time = Timespec { tv_sec: millis / 1000, tv_nsec: (millis % 1000) * 1_000_000 };
    Timestamps { last_access: time, last_modification: time }
}

/// What a process takes from the mode of whatever it makes, where that can be found out without changing it.
pub fn umask() -> Option<u32> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("Umask:"))?;
    u32::from_str_radix(line.trim(), 8).ok()
}

#[cfg(test)]
mod tests;
