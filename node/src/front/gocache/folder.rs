// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the files lie that go is shown. go reads them long after it was told of them, and may even take one away to
//! where it was asked to build, with other permissions: so these are copies, and never what the store has.
//!
//! `ab/DIGEST/SHA256` is a file whose folder is its Digest and whose name is what go calls it. A file appears whole and
//! is never written again. Each process checks the bytes of a file before it shows it the first time. A file's time of
//! change is when its action was last said to give it; that of access is when it was last shown.
//!
//! `lists/` has what goes were given; see [`super::expected`].
//!
//! As long as a process lives it holds a shared lock here: whoever makes room knows by it whether he is alone.

use std::collections::HashSet;
use std::fs::{self, File, FileTimes, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::{Duration, SystemTime};

use potluck_keys::time::Time;
use potluck_protocol::digest::{Digest, Sha256};
use sha2::Digest as _;
use tempfile::{NamedTempFile, TempDir};

use super::expected::MAX_LIST_BYTES;
use crate::observe::clock;

/// What the files may take together, in bytes, but for those that somebody may still need.
pub const BUDGET: u64 = 4 << 30;
/// How long a file was not shown that may go when nobody else is here.
const IDLE: Duration = Duration::from_secs(3600);
/// The same when somebody is: no go runs for so long.
const IDLE_FOR_ALL: Duration = Duration::from_secs(2 * 86_400);
/// How exactly it is known when a file was last shown.
const NOTED: Duration = Duration::from_secs(600);
/// How often room is made.
const SELDOM: Duration = Duration::from_secs(3600);
/// What is read at a time, in bytes.
const STRETCH: usize = 256 * 1024;

/// A file that may be shown.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Where; absolute, and UTF-8.
    pub path: String,
    /// Its SHA-256.
    pub sha256: Sha256,
    /// Its size in bytes.
    pub size: u64,
    /// When its action was last said to give it.
    pub time: Time,
}

/// The folder.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    /// Files whose bytes this process has checked.
    checked: Mutex<HashSet<Digest>>,
    /// Shared, as long as this process lives.
    lock: Option<File>,
    /// Where files are read to: a new one of that size would be zeroed for each.
    stretch: Mutex<Vec<u8>>,
    /// Removed with all that is in it when this process ends well.
    _temporary: Option<TempDir>,
}

impl Folder {
    /// The folder at `root`, which is made if need be; or a temporary one, where that cannot be.
    ///
    /// # Errors
    /// When neither can be had.
    pub fn open(root: Option<&Path>) -> io::Result<Self> {
        if let Some(root) = root {
            match Self::at(root) {
                Ok(folder) => return Ok(folder),
                Err(error) => tracing::debug!(%error, path = %root.display(), "there is no folder for go"),
            }
        }
        let temporary = tempfile::Builder::new().prefix("potluck-go-").tempdir()?;
        let folder = Self::at(temporary.path())?;
        Ok(Self { _temporary: Some(temporary), ..folder })
    }

    fn at(root: &Path) -> io::Result<Self> {
        let root = std::path::absolute(root)?;
        // go's protocol is JSON.
        if root.to_str().is_none() {
            return Err(io::ErrorKind::InvalidFilename.into());
        }
        fs::create_dir_all(&root)?;
        let lock = File::options().create(true).truncate(false).write(true).open(root.join("lock"))?;
        // Whoever makes room has it for a moment; a process without the lock is only a little less safe.
        let lock = lock.try_lock_shared().is_ok().then_some(lock);
        Ok(Self { root, checked: Mutex::default(), lock, stretch: Mutex::default(), _temporary: None })
    }

    fn place(&self, digest: &Digest) -> PathBuf {
        let name = digest.to_string();
        self.root.join(&name[..2]).join(name)
    }

    /// A file that is not whole yet.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn begin(&self) -> io::Result<Growing> {
        let mut named = tempfile::Builder::new();
        // It may be a program, which go would run where it is.
        let named = named.prefix(UNFINISHED).permissions(fs::Permissions::from_mode(0o555));
        let file = named.tempfile_in(&self.root)?;
        Ok(Growing { file, blake3: blake3::Hasher::new(), sha256: sha2::Sha256::new(), size: 0 })
    }

    /// Puts a file in its place. Whatever was there was the same, or was damaged.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn keep(&self, whole: Whole) -> io::Result<Shown> {
        let folder = self.place(&whole.digest);
        let path = folder.join(whole.sha256.to_string());
        let placed = match fs::create_dir_all(&folder) {
            Ok(()) => whole.file.persist(&path).map_err(|error| error.file),
            Err(_) => Err(whole.file),
        };
        let path = match placed {
            Ok(_) => path,
            // It is whole where it is, only nobody will find it.
            Err(file) => file.keep().map_err(|error| error.error)?.1,
        };
        self.checked().insert(whole.digest);
        Ok(Shown { path: text(&path)?, sha256: whole.sha256, size: whole.size, time: clock::now() })
    }

    /// The file of this Digest and size, if it is here and as it should be.
    pub fn find(&self, digest: &Digest, size: u64) -> Option<Shown> {
        let entry = fs::read_dir(self.place(digest)).ok()?.next()?.ok()?;
        let sha256: Sha256 = entry.file_name().to_str()?.parse().ok()?;
        let (path, metadata) = (entry.path(), entry.metadata().ok()?);
        if !metadata.is_file() || metadata.len() != size {
            return None;
        }
        if !self.checked().contains(digest) {
            let file = File::open(&path).ok()?;
            let now = clock::now();
            if metadata.accessed().is_ok_and(|last| now.since(last.into()) > NOTED) {
                let _ = file.set_times(FileTimes::new().set_accessed(now.into_system()));
            }
            let mut stretch = std::mem::take(&mut *self.stretch());
            let held = Digest::of_file(file, &mut stretch);
            *self.stretch() = stretch;
            if held? != (*digest, size) {
                tracing::warn!(path = %path.display(), "a file for go is damaged");
                let _ = fs::remove_file(&path);
                return None;
            }
            self.checked().insert(*digest);
        }
        Some(Shown { path: text(&path).ok()?, sha256, size, time: metadata.modified().ok()?.into() })
    }

    /// Notes that an action was said anew to give what was shown at this path.
    pub fn renew(&self, path: &str) {
        let now: SystemTime = clock::now().into_system();
        let times = FileTimes::new().set_modified(now).set_accessed(now);
        if let Err(error) = File::open(path).and_then(|file| file.set_times(times)) {
            tracing::debug!(%error, path, "cannot renew");
        }
    }

    fn stretch(&self) -> std::sync::MutexGuard<'_, Vec<u8>> {
        self.stretch.lock().expect("nobody panics while holding it")
    }

    /// What go was given the last time that it was started so; nothing when that is not known.
    pub fn list(&self, of: &Digest) -> Vec<u8> {
        let mut list = Vec::new();
        let read = File::open(self.list_path(of))
            .and_then(|file| file.take(MAX_LIST_BYTES as u64).read_to_end(&mut list));
        if read.is_ok() { list } else { Vec::new() }
    }

    /// Keeps that for the next time. It is of use only, and not needed.
    pub fn keep_list(&self, of: &Digest, list: &[u8]) {
        let path = self.list_path(of);
        let kept = fs::create_dir_all(self.root.join(LISTS)).and_then(|()| {
            let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.root)?;
            file.write_all(list)?;
            file.persist(path).map_err(|error| error.error)
        });
        if let Err(error) = kept {
            tracing::debug!(%error, "what go asks for is not remembered");
        }
    }

    fn list_path(&self, of: &Digest) -> PathBuf {
        self.root.join(LISTS).join(of.to_string())
    }

    fn checked(&self) -> std::sync::MutexGuard<'_, HashSet<Digest>> {
        self.checked.lock().expect("nobody panics while holding it")
    }

    /// Makes room if that was not done lately: what was not shown for longest goes first, and nothing that anybody may
    /// still need. Whoever calls this shows nothing any more.
    pub fn trim(self) {
        let mark = self.root.join("trimmed");
        let last = fs::metadata(&mark).and_then(|metadata| metadata.modified());
        if last.is_ok_and(|at| clock::now().since(at.into()) < SELDOM) {
            return;
        }
        if let Err(error) = File::create(&mark) {
            tracing::debug!(%error, "cannot note that room is made");
            return;
        }
        let alone = self.is_alone();
        trim(&self.root, BUDGET, if alone { IDLE } else { IDLE_FOR_ALL });
    }

    fn is_alone(&self) -> bool {
        let Some(lock) = &self.lock else { return false };
        let _ = lock.unlock();
        match lock.try_lock() {
            Ok(()) => true,
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => false,
        }
    }
}

/// The folder of the lists; see [`super::expected`].
const LISTS: &str = "lists";
/// How long a list stays that still holds, or is of no use to anybody.
const LISTED: Duration = Duration::from_secs(30 * 86_400);

/// Most lists that stay, the newest: each may have half a megabyte, and somebody may build in a new folder each time.
const MAX_LISTS: usize = 64;

/// How the names of files begin that are not whole yet.
const UNFINISHED: &str = "unfinished-";

fn text(path: &Path) -> io::Result<String> {
    path.to_str().map(str::to_owned).ok_or_else(|| io::ErrorKind::InvalidFilename.into())
}

/// Removes files until the others fit, those first that were not shown for longest; none that was shown less than
/// `idle` ago.
fn trim(root: &Path, budget: u64, idle: Duration) {
    let now = clock::now();
    let read = |folder: &Path| fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    let mut files = Vec::new();
    let mut total = 0;
    let kept = |list: &fs::DirEntry| list.metadata().and_then(|metadata| metadata.modified()).ok();
    let mut lists: Vec<_> = read(&root.join(LISTS)).map(|list| (kept(&list), list.path())).collect();
    lists.sort_unstable_by(|one, other| other.cmp(one));
    for (number, (at, path)) in lists.into_iter().enumerate() {
        if number >= MAX_LISTS || at.is_some_and(|at| now.since(at.into()) > LISTED) {
            let _ = fs::remove_file(path);
        }
    }
    for entry in read(root).filter(|entry| entry.file_name() != LISTS) {
        let path = entry.path();
        if entry.file_name().to_str().is_some_and(|name| name.starts_with(UNFINISHED)) {
            // Somebody was killed. It is never older than its process otherwise.
            let age = entry.metadata().and_then(|metadata| metadata.modified());
            if age.is_ok_and(|at| now.since(at.into()) > idle) {
                let _ = fs::remove_file(&path);
            }
            continue;
        }
        for digest in read(&path).flat_map(|folder| read(&folder.path()).collect::<Vec<_>>()) {
            let Ok(metadata) = digest.metadata() else { continue };
            let latest = metadata.accessed().into_iter().chain(metadata.modified()).max();
            let Some(latest) = latest else { continue };
            total += metadata.len();
            files.push((Time::from(latest), metadata.len(), digest.path()));
        }
    }
    files.sort();
    for (latest, size, path) in files {
        if total <= budget || now.since(latest) <= idle {
            return;
        }
        if fs::remove_file(&path).is_ok() {
            total -= size;
            // Only if it is empty, which it is unless somebody has just come with the same file.
            let _ = path.parent().map(fs::remove_dir);
        }
    }
}

/// A file that is being written.
pub struct Growing {
    file: NamedTempFile,
    blake3: blake3::Hasher,
    sha256: sha2::Sha256,
    size: u64,
}

impl Growing {
    /// Adds to it. When that fails nothing was added, and it can still be moved.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn write(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        self.blake3.update(bytes);
        self.sha256.update(bytes);
        self.size += bytes.len() as u64;
        Ok(())
    }

    /// Takes what there is of it to another folder.
    ///
    /// # Errors
    /// Those of the disk.
    pub fn move_to(&mut self, folder: &Folder) -> io::Result<()> {
        let mut there = folder.begin()?;
        self.file.rewind()?;
        let copied = io::copy(&mut self.file.as_file_mut().take(self.size), &mut there.file)?;
        if copied != self.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.file = there.file;
        Ok(())
    }

    /// That was all.
    pub fn end(self) -> Whole {
        let Self { file, blake3, sha256, size } = self;
        let sha256 = Sha256::from_bytes(sha256.finalize().into());
        Whole { file, digest: blake3.finalize().into(), sha256, size }
    }
}

/// A file that is written and not in its place yet.
pub struct Whole {
    file: NamedTempFile,
    /// What is in it.
    pub digest: Digest,
    /// The same, as go says it.
    pub sha256: Sha256,
    /// Its size in bytes.
    pub size: u64,
}

/// What a file holds.
trait OfFile: Sized {
    /// The Digest and the size of a file, which is read to `stretch`.
    fn of_file(file: File, stretch: &mut Vec<u8>) -> Option<(Self, u64)>;
}

impl OfFile for Digest {
    fn of_file(mut file: File, stretch: &mut Vec<u8>) -> Option<(Self, u64)> {
        stretch.resize(STRETCH, 0);
        let mut hasher = blake3::Hasher::new();
        let mut size = 0;
        loop {
            let read = file.read(stretch).ok()?;
            if read == 0 {
                return Some((hasher.finalize().into(), size));
            }
            hasher.update(&stretch[..read]);
            size += read as u64;
        }
    }
}

/// Instants as files have them.
trait IntoSystem {
    fn into_system(self) -> SystemTime;
}

impl IntoSystem for Time {
    fn into_system(self) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_millis(self.as_millis())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keep(folder: &Folder, bytes: &[u8]) -> Shown {
        let mut growing = folder.begin().unwrap();
        growing.write(bytes).unwrap();
        folder.keep(growing.end()).unwrap()
    }

    fn age(path: &Path, by: Duration) {
        let then = clock::now().into_system() - by;
        let times = FileTimes::new().set_modified(then).set_accessed(then);
        File::open(path).unwrap().set_times(times).unwrap();
    }

    #[test]
    fn of_lists_only_the_newest_stay_and_none_for_ever() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::open(Some(home.path())).unwrap();
        let names: Vec<_> = (0..MAX_LISTS + 5).map(|number| Digest::of(&number.to_le_bytes())).collect();
        for (seconds, name) in names.iter().enumerate() {
            folder.keep_list(name, b"a list");
            age(&folder.list_path(name), Duration::from_secs(seconds as u64));
        }
        age(&folder.list_path(&names[3]), 2 * LISTED);
        trim(home.path(), BUDGET, IDLE);
        let left: Vec<_> =
            (0..names.len()).filter(|number| !folder.list(&names[*number]).is_empty()).collect();
        let newest: Vec<_> = (0..=MAX_LISTS).filter(|number| *number != 3).collect();
        assert_eq!(left, newest);
    }

    #[test]
    fn files_are_found_again_and_damaged_ones_are_not_shown() {
        let home = tempfile::tempdir().unwrap();
        let root = home.path().join("go");
        let bytes = b"an archive".as_slice();
        let digest = Digest::of(bytes);
        let kept = {
            let folder = Folder::open(Some(&root)).unwrap();
            assert_eq!(folder.find(&digest, 10), None);
            keep(&folder, bytes)
        };
        assert_eq!(fs::read(&kept.path).unwrap(), bytes);
        let hash: [u8; 32] = sha2::Sha256::digest(bytes).into();
        assert_eq!(kept.sha256.as_bytes(), &hash);
        let folder = Folder::open(Some(&root)).unwrap();
        let found = folder.find(&digest, 10).unwrap();
        assert_eq!((&found.path, found.sha256), (&kept.path, kept.sha256));
        assert_eq!(folder.find(&digest, 11), None, "another size");

        fs::set_permissions(&kept.path, fs::Permissions::from_mode(0o600)).unwrap();
        fs::write(&kept.path, b"An archive").unwrap();
        let folder = Folder::open(Some(&root)).unwrap();
        assert_eq!(folder.find(&digest, 10), None);
        keep(&folder, bytes);
        assert_eq!(fs::read(&folder.find(&digest, 10).unwrap().path).unwrap(), bytes);
        // go takes a file away.
        fs::rename(&kept.path, home.path().join("built")).unwrap();
        assert_eq!(folder.find(&digest, 10), None);
        keep(&folder, bytes);
        assert!(folder.find(&digest, 10).is_some());
    }

    #[test]
    fn room_is_made_for_what_was_shown_last() {
        let home = tempfile::tempdir().unwrap();
        let folder = Folder::open(Some(home.path())).unwrap();
        let old: Vec<_> = (0..4_u8).map(|n| keep(&folder, &[n; 100])).collect();
        for (n, shown) in (1..).zip(&old) {
            age(Path::new(&shown.path), Duration::from_secs(10_000 - n));
        }
        let new = keep(&folder, &[9; 1000]);
        let abandoned = home.path().join("unfinished-x");
        fs::write(&abandoned, "").unwrap();
        age(&abandoned, Duration::from_secs(10_000));
        trim(home.path(), 1200, IDLE);
        let there = |shown: &Shown| Path::new(&shown.path).exists();
        assert_eq!(old.iter().map(there).collect::<Vec<_>>(), [false, false, true, true]);
        // What was shown just now stays, whatever the budget.
        trim(home.path(), 0, IDLE);
        assert_eq!(old.iter().chain([&new]).filter(|shown| there(shown)).count(), 1);
        assert!(there(&new) && !abandoned.exists());
    }

    #[test]
    fn whoever_makes_room_knows_whether_he_is_alone() {
        let home = tempfile::tempdir().unwrap();
        let (one, other) =
            (Folder::open(Some(home.path())).unwrap(), Folder::open(Some(home.path())).unwrap());
        assert!(!one.is_alone());
        drop(other);
        assert!(one.is_alone());
    }

    #[test]
    fn a_file_may_move_while_it_grows() {
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        let (one, other) =
            (Folder::open(Some(one.path())).unwrap(), Folder::open(Some(other.path())).unwrap());
        let mut growing = one.begin().unwrap();
        growing.write(b"half ").unwrap();
        growing.move_to(&other).unwrap();
        growing.write(b"and half").unwrap();
        let whole = growing.end();
        assert_eq!(whole.digest, Digest::of(b"half and half"));
        assert_eq!(fs::read(other.keep(whole).unwrap().path).unwrap(), b"half and half");
    }

    #[test]
    fn where_no_folder_can_be_there_is_a_temporary_one() {
        let home = tempfile::tempdir().unwrap();
        fs::write(home.path().join("file"), "").unwrap();
        let folder = Folder::open(Some(&home.path().join("file"))).unwrap();
        let shown = keep(&folder, b"x");
        assert!(Path::new(&shown.path).is_absolute() && Path::new(&shown.path).exists());
        drop(folder);
        assert!(!Path::new(&shown.path).exists());
    }
}
