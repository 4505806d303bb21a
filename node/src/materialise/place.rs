// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where something is to appear, and what stands beside it until it is whole.
//!
//! A temporary lies in the same folder as the place, is locked while somebody works on it, and begins with
//! [`UNFINISHED`]. One that nobody holds was left by a process that died: whoever writes to the same folder next removes
//! it.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Dir, FileType, FlockOperation, Mode, OFlags, RenameFlags, Stat};
use rustix::io::{Errno, Result};

use super::RestoreError;
use super::beneath::{ALL, NO_RUN};

/// How the names of temporaries begin. Sixteen hexadecimal digits follow.
pub const UNFINISHED: &str = ".potluck-unfinished-";
const DIGITS: usize = 16;
/// Most folders within each other that are removed.
const MAX_DEPTH: usize = 512;
/// How often another name is tried when somebody sweeps away a temporary before it is locked.
const ATTEMPTS: usize = 8;

const OPEN: OFlags = OFlags::RDONLY.union(OFlags::NOFOLLOW).union(OFlags::CLOEXEC);

/// A name in a folder that is open.
#[derive(Debug)]
pub struct Place {
    folder: OwnedFd,
    name: OsString,
    path: PathBuf,
}

impl Place {
    /// The place at a path. The folder that holds it has to be there; links on the way to it are followed, since they
    /// are in what the caller named, but the last component is never.
    ///
    /// # Errors
    /// [`RestoreError::Unnamed`] when the path does not end with a name, [`RestoreError::Write`] when the folder cannot
    /// be opened.
    pub fn new(path: &Path) -> std::result::Result<Self, RestoreError> {
        let Some(name) = path.file_name() else { return Err(RestoreError::Unnamed(path.to_owned())) };
        let folder = path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let folder = folder.unwrap_or(Path::new("."));
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let open = rustix::fs::open(folder, flags, Mode::empty());
        let open = open.map_err(|error| RestoreError::write("open", folder, error))?;
        Ok(Self { folder: open, name: name.to_owned(), path: path.to_owned() })
    }

    /// The path, for people.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Device and inode of the folder that holds the place.
    ///
    /// # Errors
    /// [`RestoreError::Write`].
    pub fn folder_id(&self) -> std::result::Result<(u64, u64), RestoreError> {
        let stat = rustix::fs::fstat(&self.folder);
        Ok(id(&stat.map_err(|error| RestoreError::write("look at", &self.path, error))?))
    }

    /// What stands there, without following it.
    pub(super) fn stat(&self) -> Result<Option<Stat>> {
        match rustix::fs::statat(&self.folder, &self.name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(stat)),
            Err(Errno::NOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// That a folder can be put there: nothing or an empty folder is there, or a folder that may be replaced.
    ///
    /// # Errors
    /// [`RestoreError::NotEmpty`], [`RestoreError::Other`], or [`RestoreError::Write`] when it cannot be found out.
    pub fn is_free(&self, replace: bool) -> std::result::Result<(), RestoreError> {
        let fail = |error: Errno| RestoreError::write("look at", &self.path, error);
        let Some(stat) = self.stat().map_err(fail)? else { return Ok(()) };
        if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
            return Err(RestoreError::Other { path: self.path.clone(), is: "no folder" });
        }
        if replace {
            return Ok(());
        }
        let open = rustix::fs::openat(&self.folder, &self.name, OPEN | OFlags::DIRECTORY, Mode::empty());
        match open.and_then(|folder| Ok(names(&folder)?.next().is_some())) {
            Ok(false) => Ok(()),
            Ok(true) => Err(RestoreError::NotEmpty(self.path.clone())),
            Err(error) => Err(fail(error)),
        }
    }

    /// Removes what processes that died left in this folder. It is no reason to stop when that does not work.
    pub(super) fn sweep(&self) {
        let Ok(entries) = names(&self.folder) else { return };
        for name in entries.filter(|name| is_temporary(name)) {
            let flags = OPEN | OFlags::NONBLOCK;
            let Ok(open) = rustix::fs::openat(&self.folder, &name, flags, Mode::empty()) else { continue };
            let own = |stat: Stat| stat.st_uid == rustix::process::geteuid().as_raw();
            let own = rustix::fs::fstat(&open).is_ok_and(own);
            if own && rustix::fs::flock(&open, FlockOperation::NonBlockingLockExclusive).is_ok() {
                let removed = remove(self.folder.as_fd(), &name, 0);
                tracing::info!(folder = %self.path.display(), ?name, ?removed, "an unfinished temporary");
            }
        }
    }

    /// Makes a folder beside the place. Until [`Temporary::show`] nobody but its owner may look into it or write there.
    pub(super) fn temporary_folder(&self) -> Result<Temporary<'_>> {
        self.temporary(|folder, name| {
            rustix::fs::mkdirat(folder, name, ALL)?;
            let flags = OPEN | OFlags::DIRECTORY;
            let open = rustix::fs::openat(folder, name, flags, Mode::empty())?;
            let mode = Mode::from_raw_mode(rustix::fs::fstat(&open)?.st_mode);
            rustix::fs::fchmod(&open, Mode::RWXU)?;
            Ok((open, Some(mode)))
        })
    }

    /// Makes a file beside the place.
    pub(super) fn temporary_file(&self) -> Result<Temporary<'_>> {
        self.temporary(|folder, name| {
            let flags = OFlags::RDWR | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            Ok((rustix::fs::openat(folder, name, flags, NO_RUN)?, None))
        })
    }

    fn temporary(
        &self,
        make: impl Fn(BorrowedFd<'_>, &OsStr) -> Result<(OwnedFd, Option<Mode>)>,
    ) -> Result<Temporary<'_>> {
        let mut attempt = 0;
        loop {
            attempt += 1;
            let mut random = [0; 8];
            getrandom::fill(&mut random).map_err(|_| Errno::IO)?;
            let name = OsString::from(format!("{UNFINISHED}{:016x}", u64::from_ne_bytes(random)));
            match make(self.folder.as_fd(), &name) {
                Ok((open, mode)) => {
                    // Without locks on this file system nobody else locks it either, and then nobody removes it.
                    let _ = rustix::fs::flock(&open, FlockOperation::NonBlockingLockExclusive);
                    let temporary = Temporary { place: self, open, name, mode, done: false };
                    if attempt == ATTEMPTS || temporary.stands()? {
                        return Ok(temporary);
                    }
                }
                Err(Errno::EXIST | Errno::NOENT) if attempt < ATTEMPTS => {}
                Err(error) => return Err(error),
            }
        }
    }
}

/// Something that is not whole yet. Dropping it removes it.
#[derive(Debug)]
pub(super) struct Temporary<'a> {
    place: &'a Place,
    open: OwnedFd,
    name: OsString,
    /// What a folder may be used for once it is shown.
    mode: Option<Mode>,
    /// Whether nothing is left to remove.
    done: bool,
}

impl Temporary<'_> {
    /// Another descriptor of it.
    pub(super) fn open(&self) -> io::Result<File> {
        Ok(self.open.try_clone()?.into())
    }

    /// Whether it still stands where it was made.
    fn stands(&self) -> Result<bool> {
        let (folder, name) = (&self.place.folder, &self.name);
        match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(id(&stat) == id(&rustix::fs::fstat(&self.open)?)),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Puts it in its place. A file takes the place of a file or a link; a folder only that of an empty folder, or with
    /// `replace` that of any folder, which is removed afterwards. Gives where something could not be removed.
    pub(super) fn show(mut self, replace: bool) -> Result<Option<PathBuf>> {
        if !self.stands()? {
            return Err(Errno::NOENT);
        }
        if let Some(mode) = self.mode {
            rustix::fs::fchmod(&self.open, mode)?;
        }
        let Place { folder, name, path } = self.place;
        if !replace || self.mode.is_none() || self.place.stat()?.is_none() {
            // A folder takes no other place than that of an empty folder, in one step.
            rustix::fs::renameat(folder, &self.name, folder, name)?;
            self.done = true;
            return Ok(None);
        }
        rustix::fs::renameat_with(folder, &self.name, folder, name, RenameFlags::EXCHANGE)?;
        self.done = true;
        let left = remove(folder.as_fd(), &self.name, 0).is_err();
        Ok(left.then(|| path.with_file_name(&self.name)))
    }
}

impl Drop for Temporary<'_> {
    fn drop(&mut self) {
        if !self.done
            && let Err(error) = remove(self.place.folder.as_fd(), &self.name, 0)
        {
            tracing::warn!(name = ?self.name, %error, "cannot be removed");
        }
    }
}

fn id(stat: &Stat) -> (u64, u64) {
    (stat.st_dev, stat.st_ino)
}

fn is_temporary(name: &OsStr) -> bool {
    let digits = name.as_bytes().strip_prefix(UNFINISHED.as_bytes());
    digits.is_some_and(|digits| digits.len() == DIGITS && digits.iter().all(u8::is_ascii_hexdigit))
}

/// What lies in a folder.
fn names(folder: impl AsFd) -> Result<impl Iterator<Item = OsString>> {
    let entries = Dir::read_from(folder)?.map_while(Result::ok);
    let name = |entry: rustix::fs::DirEntry| OsStr::from_bytes(entry.file_name().to_bytes()).to_owned();
    Ok(entries.map(name).filter(|name| name != "." && name != ".."))
}

/// Removes a file, a link, or a folder with all that is in it. Links are removed, never followed.
fn remove(folder: BorrowedFd<'_>, name: &OsStr, depth: usize) -> Result<()> {
    let stat = match rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW) {
        Err(Errno::NOENT) => return Ok(()),
        stat => stat?,
    };
    if FileType::from_raw_mode(stat.st_mode) != FileType::Directory {
        return gone(rustix::fs::unlinkat(folder, name, AtFlags::empty()));
    }
    if depth == MAX_DEPTH {
        return Err(Errno::NAMETOOLONG);
    }
    let open = match rustix::fs::openat(folder, name, OPEN | OFlags::DIRECTORY, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(()),
        open => open?,
    };
    for name in names(&open)?.collect::<Vec<_>>() {
        remove(open.as_fd(), &name, depth + 1)?;
    }
    gone(rustix::fs::unlinkat(folder, name, AtFlags::REMOVEDIR))
}

/// That somebody else was faster is no error.
fn gone(removed: Result<()>) -> Result<()> {
    match removed {
        Err(Errno::NOENT) => Ok(()),
        removed => removed,
    }
}
