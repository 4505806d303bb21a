// SPDX-License-Identifier: MIT OR Apache-2.0
//! A folder that is open, and paths below it that lead nowhere else: no symbolic link is passed, whoever made it and
//! whenever. The kernel resolves a path in one go (`openat2`); where it cannot, the path is walked component by
//! component, each opened without following.

use std::fs::File;
use std::sync::atomic::{AtomicBool, Ordering};

use rustix::fd::{AsFd, BorrowedFd, OwnedFd};
use rustix::fs::{AtFlags, Mode, OFlags, Timestamps};
use rustix::io::{Errno, Result};

/// What a file or folder may be used for before the umask takes its part.
pub(super) const ALL: Mode = Mode::from_raw_mode(0o777);
/// A file that is not to be run.
pub(super) const NO_RUN: Mode = Mode::from_raw_mode(0o666);

const FOLDER: OFlags = OFlags::RDONLY.union(OFlags::DIRECTORY);

/// An open folder.
#[derive(Debug)]
pub(super) struct Beneath {
    root: OwnedFd,
    /// Whether the kernel does not know `openat2`.
    stepwise: AtomicBool,
}

impl Beneath {
    /// Works below this folder.
    pub(super) fn new(root: OwnedFd) -> Self {
        Self { root, stepwise: AtomicBool::new(false) }
    }

    /// The same without `openat2`, as on a kernel that does not know it.
    #[cfg(test)]
    pub(super) fn stepwise(root: OwnedFd) -> Self {
        Self { root, stepwise: AtomicBool::new(true) }
    }

    /// The folder itself.
    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Makes a file that is not there yet. Unless it is to be `run`, nobody may.
    pub(super) fn file(&self, path: &str, run: bool) -> Result<File> {
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL;
        Ok(self.open(path, flags, if run { ALL } else { NO_RUN })?.into())
    }

    /// Makes a folder that is not there yet, in one that is.
    pub(super) fn folder(&self, path: &str) -> Result<()> {
        self.inside(path, |folder, name| rustix::fs::mkdirat(folder, name, ALL))
    }

    /// Makes a symbolic link that is not there yet.
    pub(super) fn link(&self, path: &str, target: &str) -> Result<()> {
        self.inside(path, |folder, name| rustix::fs::symlinkat(target, folder, name))
    }

    /// Sets the times of what is there, of a link itself and not of what it leads to.
    pub(super) fn times(&self, path: &str, times: &Timestamps) -> Result<()> {
        self.inside(path, |folder, name| {
            rustix::fs::utimensat(folder, name, times, AtFlags::SYMLINK_NOFOLLOW)
        })
    }

    /// Does something with a name in the folder that holds it.
    fn inside(&self, path: &str, work: impl FnOnce(BorrowedFd<'_>, &str) -> Result<()>) -> Result<()> {
        match path.rsplit_once('/') {
            None => work(self.root(), path),
            Some((folder, name)) => work(self.open(folder, FOLDER, Mode::empty())?.as_fd(), name),
        }
    }

    fn open(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        #[cfg(target_os = "linux")]
        if !self.stepwise.load(Ordering::Relaxed) {
            use rustix::fs::ResolveFlags;
            let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS | ResolveFlags::NO_MAGICLINKS;
            match rustix::fs::openat2(&self.root, path, flags | OFlags::CLOEXEC, mode, resolve) {
                // Some containers forbid what they do not know. If it is the folder that forbids, it says so again.
                Err(Errno::NOSYS | Errno::PERM) => self.stepwise.store(true, Ordering::Relaxed),
                opened => return opened,
            }
        }
        self.step(path, flags, mode)
    }

    fn step(&self, path: &str, flags: OFlags, mode: Mode) -> Result<OwnedFd> {
        let unfollowed = OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let mut at: Option<OwnedFd> = None;
        let mut rest = path;
        while let Some((component, below)) = rest.split_once('/') {
            let folder = at.as_ref().map_or(self.root(), AsFd::as_fd);
            at = Some(rustix::fs::openat(folder, component, FOLDER | unfollowed, Mode::empty())?);
            rest = below;
        }
        let folder = at.as_ref().map_or(self.root(), AsFd::as_fd);
        rustix::fs::openat(folder, rest, flags | unfollowed, mode)
    }
}

#[cfg(test)]
mod tests {
    use std::fs;
    use std::os::unix::fs::symlink;
    use std::path::Path;

    use super::*;

    fn open(path: &Path) -> OwnedFd {
        File::open(path).unwrap().into()
    }

    #[test]
    fn no_link_is_passed_and_nothing_is_made_twice() {
        for kind in [Beneath::new, Beneath::stepwise] {
            let folder = tempfile::tempdir().unwrap();
            let (inside, outside) = (folder.path().join("inside"), folder.path().join("outside"));
            fs::create_dir_all(&inside).unwrap();
            fs::create_dir_all(&outside).unwrap();
            symlink(&outside, inside.join("absolute")).unwrap();
            symlink("../outside", inside.join("relative")).unwrap();
            symlink("../outside/new", inside.join("dangling")).unwrap();
            symlink("real", inside.join("within")).unwrap();
            let beneath = kind(open(&inside));
            beneath.folder("real").unwrap();
            for link in ["absolute", "relative", "within"] {
                let path = format!("{link}/x");
                assert!(beneath.file(&path, false).is_err(), "{path}");
                assert!(beneath.folder(&path).is_err(), "{path}");
                assert!(beneath.link(&path, "y").is_err(), "{path}");
                assert!(beneath.file(link, false).is_err(), "{link}");
            }
            assert!(beneath.file("dangling", false).is_err());
            beneath.file("real/x", false).unwrap();
            assert_eq!(beneath.file("real/x", false).map(drop), Err(Errno::EXIST));
            assert_eq!(beneath.folder("real"), Err(Errno::EXIST));
            assert_eq!(beneath.file("none/x", false).map(drop), Err(Errno::NOENT));
            assert_eq!(fs::read_dir(&outside).unwrap().count(), 0);
        }
    }
}
