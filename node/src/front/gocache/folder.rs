// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the files lie that go is shown. go reads them long after it was told of them, and may even take one away to
//! where it was asked to build, with other permissions: so these are copies, and never what the store has.
//!
//! `ab/DIGEST/SHA256` is a file whose folder is its Digest and whose name is what go calls it. A file appears whole and
//! is never written again. Each process checks the bytes of a file before it shows it the first time, unless one has done
//! so lately; see [`super::checked`], whose record is the file `checked`. A file's time of change is when its action was
//! last said to give it; that of access is when it was last shown.
//!
//! `lists/` has what goes were given; see [`super::expected`].
//!
//! As long as a process lives it holds a shared lock here: whoever makes room knows by it whether he is alone.

use std::collections::HashSet;
use std::fs::{self, File, FileTimes, Metadata, TryLockError};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, OnceLock};
use std::time::{Duration, SystemTime};

use potluck_keys::time::Time;
use potluck_protocol::digest::{Digest, Sha256};
use sha2::Digest as _;
use tempfile::{NamedTempFile, TempDir};

use super::checked::{Checked, MAX_RECORD_BYTES, START_BYTES, State};
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

/// What the folder remembers of checks.
#[derive(Debug)]
struct Record {
    /// This start of the system.
    start: [u8; START_BYTES],
    checked: Mutex<Checked>,
}

/// The folder.
#[derive(Debug)]
pub struct Folder {
    root: PathBuf,
    /// Files whose bytes this process has checked.
    checked: Mutex<HashSet<Digest>>,
    /// What was checked lately by any process, where the system says when it was started.
    record: OnceLock<Option<Record>>,
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
        let (checked, record, stretch) = Default::default();
        Ok(Self { root, checked, record, lock, stretch, _temporary: None })
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
        self.find_at(digest, size, clock::now())
    }

    fn find_at(&self, digest: &Digest, size: u64, now: Time) -> Option<Shown> {
        self.known(digest, size, now).or_else(|| self.read(digest, size, now))
    }

    /// The same, if it was checked lately.
    fn known(&self, digest: &Digest, size: u64, now: Time) -> Option<Shown> {
        let (sha256, before) = self.remembered(now)?.find(digest, now)?;
        let path = self.place(digest).join(sha256.to_string());
        let metadata = fs::symlink_metadata(&path).ok()?;
        if !metadata.is_file() || metadata.len() != size || State::of(&metadata) != before {
            return None;
        }
        if is_long_ago(&metadata, now)
            && let Some(after) = File::open(&path).ok().and_then(|file| touch(&file, now))
        {
            self.remembered(now)?.told(digest, after);
        }
        Some(Shown { path: text(&path).ok()?, sha256, size, time: metadata.modified().ok()?.into() })
    }

    /// The same, by its bytes, unless this process has read them before.
    fn read(&self, digest: &Digest, size: u64, now: Time) -> Option<Shown> {
        let entry = fs::read_dir(self.place(digest)).ok()?.next()?.ok()?;
        let sha256: Sha256 = entry.file_name().to_str()?.parse().ok()?;
        let (path, metadata) = (entry.path(), entry.metadata().ok()?);
        if !metadata.is_file() || metadata.len() != size {
            return None;
        }
        if !self.checked().contains(digest) {
            let mut file = File::open(&path).ok()?;
            let before = State::of(&file.metadata().ok()?);
            let mut stretch = std::mem::take(&mut *self.stretch());
            let held = Digest::of_file(&mut file, &mut stretch);
            *self.stretch() = stretch;
            if held? != (*digest, size) {
                tracing::warn!(path = %path.display(), "a file for go is damaged");
                let _ = fs::remove_file(&path);
                return None;
            }
            self.checked().insert(*digest);
            let touched = if is_long_ago(&metadata, now) { touch(&file, now) } else { None };
            if let Some(mut remembered) = self.remembered(now) {
                remembered.note(*digest, (sha256, before), now);
                touched.into_iter().for_each(|after| remembered.told(digest, after));
            }
        }
        Some(Shown { path: text(&path).ok()?, sha256, size, time: metadata.modified().ok()?.into() })
    }

    fn record(&self, now: Time) -> Option<&Record> {
        let read = || {
            let start = fs::read("/proc/sys/kernel/random/boot_id").ok()?;
            let start = *start.first_chunk()?;
            let record = read_up_to(&self.root.join(CHECKED), MAX_RECORD_BYTES);
            Some(Record { start, checked: Mutex::new(Checked::new(&record, &start, now)) })
        };
        self.record.get_or_init(read).as_ref()
    }

    fn remembered(&self, now: Time) -> Option<MutexGuard<'_, Checked>> {
        let record = self.record(now)?;
        Some(record.checked.lock().expect("nobody panics while holding it"))
    }

    /// Remembers for the next process what was checked. It is of use only, and not needed.
    pub fn keep_checked(&self) {
        self.keep_checked_at(clock::now());
    }

    fn keep_checked_at(&self, now: Time) {
        let Some(record) = self.record.get().and_then(Option::as_ref) else { return };
        let new = self.remembered(now).and_then(|checked| checked.record(&record.start, now));
        if let Some(Err(error)) = new.map(|new| self.replace(&self.root.join(CHECKED), &new)) {
            tracing::debug!(%error, "what was checked is not remembered");
        }
    }

    /// Writes a file of the folder's own, which appears whole.
    fn replace(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = tempfile::Builder::new().prefix(UNFINISHED).tempfile_in(&self.root)?;
        file.write_all(bytes)?;
        file.persist(path).map_err(|error| error.error)?;
        Ok(())
    }

    /// Notes that an action was said anew to give what was shown at this path.
    pub fn renew(&self, path: &str) {
        let now: SystemTime = clock::now().into_system();
        let times = FileTimes::new().set_modified(now).set_accessed(now);
        if let Err(error) = File::open(path).and_then(|file| file.set_times(times)) {
            tracing::debug!(%error, path, "cannot renew");
        }
    }

    fn stretch(&self) -> MutexGuard<'_, Vec<u8>> {
        self.stretch.lock().expect("nobody panics while holding it")
    }

    /// What go was given the last time that it was started so; nothing when that is not known.
    pub fn list(&self, of: &Digest) -> Vec<u8> {
        read_up_to(&self.list_path(of), MAX_LIST_BYTES)
    }

    /// Keeps that for the next time. It is of use only, and not needed.
    pub fn keep_list(&self, of: &Digest, list: &[u8]) {
        let kept = fs::create_dir_all(self.root.join(LISTS));
        let kept = kept.and_then(|()| self.replace(&self.list_path(of), list));
        if let Err(error) = kept {
            tracing::debug!(%error, "what go asks for is not remembered");
        }
    }

    fn list_path(&self, of: &Digest) -> PathBuf {
        self.root.join(LISTS).join(of.to_string())
    }

    fn checked(&self) -> MutexGuard<'_, HashSet<Digest>> {
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

/// The file of what was checked lately; see [`super::checked`].
const CHECKED: &str = "checked";

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

/// What a file holds, up to so many bytes; nothing when it cannot be read.
fn read_up_to(path: &Path, limit: usize) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = File::open(path).and_then(|file| file.take(limit as u64).read_to_end(&mut bytes));
    if read.is_ok() { bytes } else { Vec::new() }
}

/// Whether it is not known well enough any more when a file was last shown.
fn is_long_ago(metadata: &Metadata, now: Time) -> bool {
    metadata.accessed().is_ok_and(|last| now.since(last.into()) > NOTED)
}

/// Notes when a file was last shown; gives its state after that.
fn touch(file: &File, now: Time) -> Option<State> {
    file.set_times(FileTimes::new().set_accessed(now.into_system())).ok()?;
    file.metadata().ok().as_ref().map(State::of)
}

/// States as the system gives them.
trait OfMetadata {
    /// What the system says of a file.
    fn of(metadata: &Metadata) -> Self;
}

impl OfMetadata for State {
    fn of(metadata: &Metadata) -> Self {
        Self {
            file: (metadata.dev(), metadata.ino()),
            size: metadata.size(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }
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
    fn of_file(file: &mut File, stretch: &mut Vec<u8>) -> Option<(Self, u64)>;
}

impl OfFile for Digest {
    fn of_file(file: &mut File, stretch: &mut Vec<u8>) -> Option<(Self, u64)> {
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

    #[cfg(target_os = "linux")]
    #[test]
    fn what_was_checked_lately_is_not_read_again_unless_it_was_touched() {
        let home = tempfile::tempdir().unwrap();
        let open = || Folder::open(Some(home.path())).unwrap();
        let bytes = b"an archive".as_slice();
        let (digest, kept) = (Digest::of(bytes), keep(&open(), bytes));
        let later = |seconds| clock::now().plus(Duration::from_secs(seconds));
        assert_eq!(open().known(&digest, 10, later(0)), None, "nobody has read it");
        let reads = |at: Time| {
            let folder = open();
            let shown = folder.known(&digest, 10, at);
            let found = folder.find_at(&digest, 10, at);
            folder.keep_checked_at(at);
            assert!(shown.is_none() || shown == found);
            (shown.is_none(), found.map(|found| (found.path, found.sha256)))
        };
        let found = Some((kept.path.clone(), kept.sha256));
        assert_eq!(reads(later(0)), (true, found.clone()), "it was written just now");
        assert_eq!(reads(later(10)), (true, found.clone()));
        assert_eq!(reads(later(20)), (false, found.clone()));
        // That it is noted when it was shown makes no difference.
        assert_eq!(reads(later(1200)), (false, found.clone()));
        assert_eq!(reads(later(1300)), (false, found.clone()));
        fs::set_permissions(&kept.path, fs::Permissions::from_mode(0o600)).unwrap();
        assert_eq!(reads(later(1310)), (true, found.clone()));
        assert_eq!(reads(later(1320)), (false, found.clone()));
        assert_eq!(reads(later(6000)), (true, found.clone()), "an hour is over");
        assert_eq!(reads(later(6010)), (false, found));
        fs::write(&kept.path, b"An archive").unwrap();
        assert_eq!(reads(later(6020)), (true, None));
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
