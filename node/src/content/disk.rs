// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs as files.
//!
//! | path | what |
//! |---|---|
//! | `blobs/ab/<Digest>` | a Blob in its [`crate::content::form`]; `ab` are the first two digits of its name |
//! | `staging/` | what is being written, under names of no meaning |
//! | `staging/<Digest>.part`, `.list` | what came of a Blob of which more is to come, and its `content::part` |
//! | `quarantine/<Digest>` | a Blob that was found damaged |
//!
//! Files have mode 0600 and folders 0700. A file appears in `blobs` whole, by being renamed from `staging`, and is
//! never changed there; one that holds the same Blob packed may be renamed over it. One process owns the folder; others must not write there.

mod kept;
mod parts;

use std::collections::BTreeSet;
use std::fs::{self, DirBuilder, DirEntry, File};
use std::io;
use std::num::NonZeroU64;
use std::ops::Range;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

pub use kept::DiskKept;
use parts::{LIST, Part, part_name};
pub use parts::{MAX_PART_BYTES, MAX_PARTS, PART_LIFE, Thinned};
use potluck_protocol::digest::Digest;
use rustix::fs::{Advice, fadvise};

use crate::content::files::{FOLDER_MODE, Files};
use crate::content::pack::Packers;
use crate::content::{Arrival, Content, ContentError, Draft, Durability, Opened, Swept};
use crate::gc::protect::Protected;

/// Most files in quarantine; a Blob that is found damaged beyond that is removed.
pub const MAX_QUARANTINED: usize = 16;

/// How much of a file is written before the system is told to begin bringing it to the disk, in bytes: so that whoever
/// waits for all of it waits for the last stretch only.
const AHEAD_BYTES: u64 = 1 << 20;
/// Of a file that does not become longer than this the whole is such a stretch, in bytes.
const AHEAD_FROM: u64 = 2 << 20;

#[derive(Debug)]
struct Folders {
    blobs: PathBuf,
    staging: PathBuf,
    quarantine: PathBuf,
    /// One for each folder below `blobs`.
    shards: [Shard; 256],
    packers: Arc<Packers>,
    files: Files,
    /// The Blobs whose parts are in use.
    parts: Mutex<BTreeSet<Digest>>,
}

/// What is known of a folder below `blobs`.
#[derive(Debug, Default)]
struct Shard {
    /// Whether its own name is known to have reached the disk.
    settled: AtomicBool,
    /// Bytes of the files in it, once they have been counted. Whoever adds, replaces or takes away a file holds this.
    bytes: Mutex<Option<u64>>,
}

impl Shard {
    fn lock(&self) -> MutexGuard<'_, Option<u64>> {
        // It is changed in one step, after the file was.
        self.bytes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Counts a change, if there is a count already.
fn tally(bytes: &mut Option<u64>, less: u64, more: u64) {
    *bytes = bytes.map(|bytes| bytes.saturating_sub(less).saturating_add(more));
}

/// Blobs as files below one folder; clones share it.
#[derive(Debug, Clone)]
pub struct DiskContent {
    folders: Arc<Folders>,
    guard: Arc<Protected>,
}

impl DiskContent {
    /// Uses the folder `root`, and makes what is missing of it. [`Content::sweep`] has to follow.
    ///
    /// # Errors
    /// When a folder can neither be found nor made.
    pub fn open(root: &Path) -> Result<Self, ContentError> {
        let make = DirBuilder::new().recursive(true).mode(FOLDER_MODE).create(root);
        make.map_err(|error| ContentError::io("make", root, error))?;
        Self::open_by(root, Files::default())
    }

    /// The same in a folder that is there, by a way to the file system that may be watched.
    ///
    /// # Errors
    /// As [`DiskContent::open`].
    pub fn open_by(root: &Path, files: Files) -> Result<Self, ContentError> {
        let [blobs, staging, quarantine] = ["blobs", "staging", "quarantine"].map(|name| root.join(name));
        let (shards, packers) = (std::array::from_fn(|_| Shard::default()), Arc::default());
        let parts = Mutex::default();
        let folders = Folders { blobs, staging, quarantine, shards, packers, files, parts };
        for folder in [&folders.blobs, &folders.staging, &folders.quarantine] {
            folders.make(folder)?;
        }
        folders.sync_folder(root)?;
        Ok(Self { folders: Arc::new(folders), guard: Arc::default() })
    }

    /// Has what it names protected from collection.
    #[must_use]
    pub fn guarded(self, guard: Arc<Protected>) -> Self {
        Self { guard, ..self }
    }

    /// Shows every Blob whose Digest begins with a byte, as [`Content::each`] does.
    ///
    /// # Errors
    /// When the backend cannot list them.
    pub fn each_of(&self, shard: u8, visit: &mut dyn FnMut(Digest, u64)) -> Result<(), ContentError> {
        self.folders.each_in(shard, visit)
    }

    /// About how many Blobs there are, by their names alone.
    ///
    /// # Errors
    /// When the backend cannot list them.
    pub fn about(&self) -> Result<u64, ContentError> {
        let mut about = 0;
        for shard in 0..=u8::MAX {
            let path = self.folders.blobs.join(format!("{shard:02x}"));
            about += match fs::read_dir(&path) {
                Ok(names) => names.count() as u64,
                Err(error) if error.kind() == io::ErrorKind::NotFound => 0,
                Err(error) => return Err(ContentError::io("list", &path, error)),
            };
        }
        Ok(about)
    }

    /// The folder of all Blobs.
    pub(crate) fn place(&self) -> &Path {
        &self.folders.blobs
    }

    /// Makes every Blob durable that was kept [`Durability::Fast`], by one wait for the whole file system.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn settle(&self) -> Result<(), ContentError> {
        let path = &self.folders.blobs;
        let failed = |error| ContentError::io("sync", path, error);
        let folder = File::open(path).map_err(failed)?;
        #[cfg(target_os = "linux")]
        rustix::fs::syncfs(&folder).map_err(|error| failed(error.into()))?;
        // Elsewhere this only begins to write, and the folder itself is waited for.
        #[cfg(not(target_os = "linux"))]
        rustix::fs::sync();
        folder.sync_all().map_err(failed)
    }
}

/// Does `remove` and says whether there was something.
fn gone(
    remove: impl FnOnce(&Path) -> io::Result<()>,
    path: &Path,
    what: &'static str,
) -> Result<bool, ContentError> {
    match remove(path) {
        Ok(()) => Ok(true),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
        Err(error) => Err(ContentError::io(what, path, error)),
    }
}

/// Shows every entry of a folder with its length; a folder that is not there has none.
fn list(path: &Path, mut visit: impl FnMut(&DirEntry, u64)) -> Result<(), ContentError> {
    let failed = |error| ContentError::io("list", path, error);
    let entries = match fs::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries.map_err(failed)?,
    };
    for entry in entries {
        let entry = entry.map_err(failed)?;
        match entry.metadata() {
            Ok(found) => visit(&entry, found.len()),
            // Removed since it was listed.
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            Err(error) => return Err(failed(error)),
        }
    }
    Ok(())
}

impl Folders {
    fn shard(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(format!("{:02x}", digest.as_bytes()[0]))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let mut path = self.shard(digest);
        path.push(digest.to_string());
        path
    }

    fn of(&self, digest: &Digest) -> &Shard {
        &self.shards[usize::from(digest.as_bytes()[0])]
    }

    /// Takes the file of a Blob away by `take`, and says whether there was one.
    fn take(
        &self,
        digest: &Digest,
        take: impl FnOnce(&Path) -> io::Result<()>,
        what: &'static str,
    ) -> Result<bool, ContentError> {
        let path = self.path(digest);
        let mut bytes = self.of(digest).lock();
        let len = fs::metadata(&path).map_or(0, |found| found.len());
        let was = gone(take, &path, what)?;
        if was {
            tally(&mut bytes, len, 0);
        }
        Ok(was)
    }

    /// Makes a folder in one that is there, unless it is there itself.
    fn make(&self, path: &Path) -> Result<(), ContentError> {
        self.files.make_folder(path).map_err(|error| ContentError::io("make", path, error))
    }

    fn sync_folder(&self, path: &Path) -> Result<(), ContentError> {
        self.files.sync_folder(path).map_err(|error| ContentError::io("sync", path, error))
    }

    fn remove(&self, digest: &Digest) -> Result<bool, ContentError> {
        self.take(digest, |path| self.files.remove(path), "remove")
    }

    fn make_shard(&self, digest: &Digest) -> Result<(), ContentError> {
        self.make(&self.blobs)?;
        self.make(&self.shard(digest))?;
        // Whoever syncs next must see that this folder is a new one.
        self.of(digest).settled.store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Shows every Blob in one of the folders.
    fn each_in(&self, shard: u8, visit: &mut dyn FnMut(Digest, u64)) -> Result<(), ContentError> {
        list(&self.blobs.join(format!("{shard:02x}")), |entry, bytes| {
            // Files of other names are not ours, and one in another's folder is never found.
            let digest = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
            if let Some(digest) = digest.filter(|digest| digest.as_bytes()[0] == shard) {
                visit(digest, bytes);
            }
        })
    }

    /// Sees to it that the name of a Blob survives a power cut, along with the folder that it is in.
    fn sync_name(&self, digest: &Digest) -> Result<(), ContentError> {
        self.sync_folder(&self.shard(digest))?;
        let settled = &self.of(digest).settled;
        if !settled.load(Ordering::SeqCst) {
            self.sync_folder(&self.blobs)?;
            settled.store(true, Ordering::SeqCst);
        }
        Ok(())
    }

    fn kept(&self, digest: &Digest) -> Result<Option<DiskKept>, ContentError> {
        let path = self.path(digest);
        let opened = File::open(&path).and_then(|file| Ok((file.metadata()?.len(), file)));
        match opened {
            Ok((len, file)) => Ok(Some(DiskKept { file, len, path })),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(ContentError::io("open", &path, error)),
        }
    }

    /// What takes the name of a Blob that was just written, if its table is sound. If it is not, it loses its name.
    fn known(&self, digest: &Digest) -> Result<Option<u64>, ContentError> {
        let Some(kept) = self.kept(digest)? else { return Ok(None) };
        let opened = Opened::new(kept, digest, Arc::clone(&self.packers));
        if let Err(ContentError::Damaged { .. }) = opened {
            self.quarantine(digest)?;
            return Ok(None);
        }
        Ok(Some(opened?.stored_bytes()))
    }

    fn quarantine(&self, digest: &Digest) -> Result<bool, ContentError> {
        self.make(&self.quarantine)?;
        let mut there = 0;
        list(&self.quarantine, |_, _| there += 1)?;
        if there >= MAX_QUARANTINED {
            return self.remove(digest);
        }
        let to = self.quarantine.join(digest.to_string());
        match self.take(digest, |path| self.files.rename(path, &to), "quarantine") {
            // A damaged Blob that keeps its name is worse than one that nobody can look at: the next one who brings
            // it would be told that it is there.
            Err(_) => self.remove(digest),
            done => done,
        }
    }
}

/// A Blob that is being written.
#[derive(Debug)]
pub struct DiskDraft {
    file: File,
    path: PathBuf,
    /// Whether the file has got its name, so that nothing is to be removed from staging.
    named: bool,
    /// Bytes that are written, and how many of them are on their way to the disk.
    written: u64,
    ahead: u64,
    /// What is noted of it, when it can be taken up.
    part: Option<Part>,
    folders: Arc<Folders>,
    guard: Arc<Protected>,
}

impl DiskDraft {
    /// Has the system begin to bring to the disk what it has not yet. Of what is being written that is all that this
    /// advice does: pages that have not reached the disk are not dropped. That it works does not matter.
    fn go_ahead(&mut self) {
        if self.written.saturating_sub(self.ahead) >= AHEAD_BYTES && self.written >= AHEAD_FROM {
            self.begin_to_bring(self.ahead..self.written);
            self.ahead = self.written;
        }
    }

    /// Writes some of the first pieces, of which several threads write at once and in any order. When it fails, all of the
    /// draft is to be dropped.
    pub(crate) fn write_beside(&self, offset: u64, bytes: &[u8]) -> Result<(), ContentError> {
        let written = self.folders.files.write_at((&self.file, &self.path), offset, bytes);
        written.map_err(|error| ContentError::io("write", &self.path, error))
    }

    /// All before `end` was written that way, and is on its way to the disk.
    pub(crate) fn brought(&mut self, end: u64) {
        (self.written, self.ahead) = (end, end);
    }

    /// Has the system begin to bring this stretch to the disk, as [`DiskDraft::go_ahead`] does.
    pub(crate) fn begin_to_bring(&self, range: Range<u64>) {
        let _ = fadvise(&self.file, range.start, NonZeroU64::new(range.end - range.start), Advice::DontNeed);
    }

    /// Waits until all of the file has reached the disk.
    fn sync(&self) -> Result<(), ContentError> {
        let sync = self.folders.files.sync((&self.file, &self.path));
        sync.map_err(|error| ContentError::io("sync", &self.path, error))
    }

    /// Puts the file, which is durable, in the place of the Blob; gives its length, or nothing when there is none.
    fn over(mut self, digest: &Digest) -> Result<Option<u64>, ContentError> {
        let path = self.folders.path(digest);
        let fail = |error| ContentError::io("replace", &path, error);
        let after = self.file.metadata().map_err(fail)?.len();
        let folders = Arc::clone(&self.folders);
        let mut bytes = folders.of(digest).lock();
        let before = match fs::metadata(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            found => found.map_err(fail)?.len(),
        };
        folders.files.rename(&self.path, &path).map_err(fail)?;
        self.named = true;
        tally(&mut bytes, before, after);
        Ok(Some(after))
    }
}

impl Drop for DiskDraft {
    fn drop(&mut self) {
        // What cannot be removed is swept at the next start.
        // A part with nothing in it is worth nothing.
        let stays = |part: &Part| !part.spent && self.written > 0;
        if !self.named && !self.part.as_ref().is_some_and(stays) {
            let _ = self.folders.files.remove(&self.path);
        }
        if let Some(part) = &self.part {
            if !stays(part) {
                let _ = self.folders.files.remove(&part.path);
            }
            self.folders.parts().remove(&part.digest);
        }
    }
}

impl Draft for DiskDraft {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ContentError> {
        let (files, file) = (&self.folders.files, (&self.file, self.path.as_path()));
        files.write_at(file, offset, bytes).map_err(|error| {
            // A part may have been written. It must not stay behind a shorter end; and where the disk is full,
            // everybody is better off without it. That this works as well does not matter to the first error.
            let _ = files.set_len(file, offset);
            ContentError::io("write", &self.path, error)
        })?;
        self.written = offset + bytes.len() as u64;
        self.go_ahead();
        Ok(())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), ContentError> {
        let read = self.file.read_exact_at(bytes, offset);
        read.map_err(|error| ContentError::io("read", &self.path, error))
    }

    fn cut(&mut self, len: u64) -> Result<(), ContentError> {
        let cut = self.folders.files.set_len((&self.file, &self.path), len);
        cut.map_err(|error| ContentError::io("cut", &self.path, error))?;
        self.written = len;
        self.ahead = self.ahead.min(len);
        let part = self.part.as_mut().filter(|_| len == 0);
        part.map_or(Ok(()), |part| part.clear(&self.folders.files))
    }

    fn note(&mut self, note: &[u8]) -> Result<(), ContentError> {
        self.part.as_mut().map_or(Ok(()), |part| part.note(&self.folders.files, note))
    }

    fn keep(mut self, digest: &Digest, durability: Durability) -> Result<Arrival, ContentError> {
        if let Some(part) = &mut self.part {
            part.spent = true;
        }
        // The name may be taken by a Blob that is being removed just now.
        self.guard.write(digest);
        if durability == Durability::Durable {
            self.sync()?;
        }
        let folders = Arc::clone(&self.folders);
        let path = folders.path(digest);
        let mut made = false;
        loop {
            let mut bytes = folders.of(digest).lock();
            let Err(error) = folders.files.name(&self.path, &path) else {
                tally(&mut bytes, 0, self.written);
                break;
            };
            drop(bytes);
            match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    let Some(stored_bytes) = folders.known(digest)? else { continue };
                    if durability == Durability::Fast {
                        return Ok(Arrival::Known { stored_bytes });
                    }
                    // Whether its pieces are sound, and on the disk, is known only of the draft: who wrote the other
                    // one may not have cared, and then the power was cut. So a durable draft takes its place.
                    let stored_bytes = self.over(digest)?.unwrap_or(stored_bytes);
                    folders.sync_name(digest)?;
                    return Ok(Arrival::Known { stored_bytes });
                }
                io::ErrorKind::NotFound if !made => {
                    folders.make_shard(digest)?;
                    made = true;
                }
                _ => return Err(ContentError::io("name", &path, error)),
            }
        }
        self.named = true;
        if durability == Durability::Durable {
            folders.sync_name(digest)?;
        }
        Ok(Arrival::New)
    }

    fn replace(self, digest: &Digest) -> Result<bool, ContentError> {
        // The old file may be durable: the new one must be before it takes the name.
        self.sync()?;
        Ok(self.over(digest)?.is_some())
    }
}

impl Content for DiskContent {
    type Draft = DiskDraft;
    type Kept = DiskKept;

    fn draft(&self) -> Result<DiskDraft, ContentError> {
        let Folders { staging, files, .. } = &*self.folders;
        let create = || tempfile::Builder::new().make_in(staging, |path| files.create(path));
        let file = match create() {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                self.folders.make(staging)?;
                create()
            }
            file => file,
        };
        let (file, path) = file
            .and_then(|file| Ok(file.keep()?))
            .map_err(|error| ContentError::io("write to", staging, error))?;
        let (folders, guard) = (Arc::clone(&self.folders), Arc::clone(&self.guard));
        Ok(DiskDraft { file, path, named: false, written: 0, ahead: 0, part: None, folders, guard })
    }

    fn part(&self, digest: &Digest, limit: u64) -> Result<(DiskDraft, Vec<u8>), ContentError> {
        if !self.folders.parts().insert(*digest) {
            return Ok((self.draft()?, Vec::new()));
        }
        self.part_of(digest, limit).inspect_err(|_| {
            self.folders.parts().remove(digest);
        })
    }

    fn has_part(&self, digest: &Digest) -> bool {
        self.folders.part(digest, LIST).exists()
    }

    fn kept(&self, digest: &Digest) -> Result<Option<DiskKept>, ContentError> {
        self.folders.kept(digest)
    }

    fn packers(&self) -> &Arc<Packers> {
        &self.folders.packers
    }

    fn has(&self, digest: &Digest) -> bool {
        self.folders.path(digest).exists()
    }

    fn remove(&self, digest: &Digest) -> Result<bool, ContentError> {
        self.folders.remove(digest)
    }

    fn quarantine(&self, digest: &Digest) -> Result<bool, ContentError> {
        self.folders.quarantine(digest)
    }

    fn sweep(&self) -> Result<Swept, ContentError> {
        let mut swept = Swept::default();
        let mut leftovers = Vec::new();
        list(&self.folders.staging, |entry, bytes| leftovers.push((entry.path(), bytes)))?;
        let kept = self.folders.worth_keeping(&BTreeSet::new())?;
        leftovers.retain(|(path, _)| !part_name(path).is_some_and(|digest| kept.contains(&digest)));
        for (path, bytes) in leftovers {
            if gone(|path| self.folders.files.remove(path), &path, "remove")? {
                swept.removed += 1;
                swept.removed_bytes += bytes;
            }
        }
        list(&self.folders.quarantine, |_, bytes| {
            swept.quarantined += 1;
            swept.quarantined_bytes += bytes;
        })?;
        Ok(swept)
    }

    fn used(&self) -> Option<u64> {
        self.folders.shards.iter().map(|shard| *shard.lock()).sum()
    }

    fn count(&self) -> Result<(), ContentError> {
        for (shard, name) in self.folders.shards.iter().zip(0..=u8::MAX) {
            let mut bytes = shard.lock();
            let mut sum = 0;
            self.folders.each_in(name, &mut |_, len| sum += len)?;
            *bytes = Some(sum);
        }
        Ok(())
    }

    fn sync(&self, digest: &Digest) -> Result<bool, ContentError> {
        let Some(kept) = self.folders.kept(digest)? else { return Ok(false) };
        let sync = self.folders.files.sync((&kept.file, &kept.path));
        sync.map_err(|error| ContentError::io("sync", &kept.path, error))?;
        Ok(true)
    }

    fn sync_names(&self, digests: &[Digest]) -> Result<(), ContentError> {
        let mut last = None;
        let mut digests: Vec<_> = digests.iter().collect();
        digests.sort_unstable();
        for digest in digests {
            if last.replace(digest.as_bytes()[0]) != Some(digest.as_bytes()[0]) {
                self.folders.sync_name(digest)?;
            }
        }
        Ok(())
    }

    fn each(&self, visit: &mut dyn FnMut(Digest, u64)) -> Result<(), ContentError> {
        (0..=u8::MAX).try_for_each(|shard| self.folders.each_in(shard, visit))
    }
}

#[cfg(test)]
mod tests;
