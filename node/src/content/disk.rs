// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs as files.
//!
//! | path | what |
//! |---|---|
//! | `blobs/ab/<Digest>` | a Blob in its [`crate::content::form`]; `ab` are the first two digits of its name |
//! | `staging/` | what is being written, under names of no meaning |
//! | `quarantine/<Digest>` | a Blob that was found damaged |
//!
//! Files have mode 0600 and folders 0700. A file appears in `blobs` whole, by being renamed from `staging`, and is
//! never changed there. One process owns the folder; others must not write there.

use std::fs::{self, DirBuilder, DirEntry, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use crate::content::files::{FOLDER_MODE, Files};
use crate::content::pack::Packers;
use crate::content::{Arrival, Content, ContentError, Draft, Durability, Kept, Opened, Swept};
use potluck_protocol::digest::Digest;

/// Most files in quarantine; a Blob that is found damaged beyond that is removed.
pub const MAX_QUARANTINED: usize = 16;

#[derive(Debug)]
struct Folders {
    blobs: PathBuf,
    staging: PathBuf,
    quarantine: PathBuf,
    /// For each folder below `blobs`, whether its own name is known to have reached the disk.
    settled: [AtomicBool; 256],
    packers: Arc<Packers>,
    files: Files,
}

/// Blobs as files below one folder; clones share it.
#[derive(Debug, Clone)]
pub struct DiskContent {
    folders: Arc<Folders>,
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
        let settled = [const { AtomicBool::new(false) }; 256];
        let folders = Folders { blobs, staging, quarantine, settled, packers: Arc::default(), files };
        for folder in [&folders.blobs, &folders.staging, &folders.quarantine] {
            folders.make(folder)?;
        }
        folders.sync_folder(root)?;
        Ok(Self { folders: Arc::new(folders) })
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
    /// Makes a folder in one that is there, unless it is there itself.
    fn make(&self, path: &Path) -> Result<(), ContentError> {
        self.files.make_folder(path).map_err(|error| ContentError::io("make", path, error))
    }

    fn sync_folder(&self, path: &Path) -> Result<(), ContentError> {
        self.files.sync_folder(path).map_err(|error| ContentError::io("sync", path, error))
    }

    fn remove(&self, path: &Path) -> Result<bool, ContentError> {
        gone(|path| self.files.remove(path), path, "remove")
    }

    fn shard(&self, digest: &Digest) -> PathBuf {
        self.blobs.join(format!("{:02x}", digest.as_bytes()[0]))
    }

    fn path(&self, digest: &Digest) -> PathBuf {
        let mut path = self.shard(digest);
        path.push(digest.to_string());
        path
    }

    fn settled(&self, digest: &Digest) -> &AtomicBool {
        &self.settled[usize::from(digest.as_bytes()[0])]
    }

    fn make_shard(&self, digest: &Digest) -> Result<(), ContentError> {
        self.make(&self.blobs)?;
        self.make(&self.shard(digest))?;
        // Whoever syncs next must see that this folder is a new one.
        self.settled(digest).store(false, Ordering::SeqCst);
        Ok(())
    }

    /// Sees to it that the name of a Blob survives a power cut, along with the folder that it is in.
    fn sync_name(&self, digest: &Digest) -> Result<(), ContentError> {
        self.sync_folder(&self.shard(digest))?;
        let settled = self.settled(digest);
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
        match Opened::new(kept, digest, Arc::clone(&self.packers)) {
            Ok(opened) => Ok(Some(opened.stored_bytes())),
            Err(ContentError::Damaged { .. }) => {
                self.quarantine(digest)?;
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    fn quarantine(&self, digest: &Digest) -> Result<bool, ContentError> {
        self.make(&self.quarantine)?;
        let mut there = 0;
        list(&self.quarantine, |_, _| there += 1)?;
        let path = self.path(digest);
        if there >= MAX_QUARANTINED {
            return self.remove(&path);
        }
        let to = self.quarantine.join(digest.to_string());
        match gone(|path| self.files.rename(path, &to), &path, "quarantine") {
            // A damaged Blob that keeps its name is worse than one that nobody can look at: the next one who brings
            // it would be told that it is there.
            Err(_) => self.remove(&path),
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
    folders: Arc<Folders>,
}

impl Drop for DiskDraft {
    fn drop(&mut self) {
        if !self.named {
            // What cannot be removed is swept at the next start.
            let _ = self.folders.files.remove(&self.path);
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
        })
    }

    fn keep(mut self, digest: &Digest, durability: Durability) -> Result<Arrival, ContentError> {
        let folders = Arc::clone(&self.folders);
        if durability == Durability::Durable {
            let sync = folders.files.sync((&self.file, &self.path));
            sync.map_err(|error| ContentError::io("sync", &self.path, error))?;
        }
        let path = folders.path(digest);
        let mut made = false;
        while let Err(error) = folders.files.name(&self.path, &path) {
            match error.kind() {
                io::ErrorKind::AlreadyExists => {
                    if let Some(stored_bytes) = folders.known(digest)? {
                        return self.known(digest, durability, stored_bytes);
                    }
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
}

impl DiskDraft {
    /// Ends a draft of a Blob that is there. Whether its pieces are sound, and on the disk, is known only of the draft:
    /// who wrote the other one may not have cared, and then the power was cut. So a durable draft takes its place.
    fn known(
        mut self,
        digest: &Digest,
        durability: Durability,
        stored_bytes: u64,
    ) -> Result<Arrival, ContentError> {
        if durability == Durability::Fast {
            return Ok(Arrival::Known { stored_bytes });
        }
        let path = self.folders.path(digest);
        let io = |error| ContentError::io("name", &path, error);
        let stored_bytes = self.file.metadata().map_err(io)?.len();
        self.folders.files.rename(&self.path, &path).map_err(io)?;
        self.named = true;
        self.folders.sync_name(digest)?;
        Ok(Arrival::Known { stored_bytes })
    }
}

/// A Blob that is being read.
#[derive(Debug)]
pub struct DiskKept {
    file: File,
    len: u64,
    path: PathBuf,
}

impl Kept for DiskKept {
    fn stored_bytes(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), ContentError> {
        let read = self.file.read_exact_at(bytes, offset);
        read.map_err(|error| ContentError::io("read", &self.path, error))
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
        Ok(DiskDraft { file, path, named: false, folders: Arc::clone(&self.folders) })
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
        self.folders.remove(&self.folders.path(digest))
    }

    fn quarantine(&self, digest: &Digest) -> Result<bool, ContentError> {
        self.folders.quarantine(digest)
    }

    fn sweep(&self) -> Result<Swept, ContentError> {
        let mut swept = Swept::default();
        let mut leftovers = Vec::new();
        list(&self.folders.staging, |entry, bytes| leftovers.push((entry.path(), bytes)))?;
        for (path, bytes) in leftovers {
            if self.folders.remove(&path)? {
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

    fn each(&self, visit: &mut dyn FnMut(Digest, u64)) -> Result<(), ContentError> {
        for shard in 0..=u8::MAX {
            list(&self.folders.blobs.join(format!("{shard:02x}")), |entry, bytes| {
                // Files of other names are not ours, and one in another's folder is never found.
                let digest = entry.file_name().to_str().and_then(|name| name.parse::<Digest>().ok());
                if let Some(digest) = digest.filter(|digest| digest.as_bytes()[0] == shard) {
                    visit(digest, bytes);
                }
            })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use potluck_protocol::piece::PIECE_BYTES;

    use super::*;
    use crate::content::Damage;
    use crate::content::contract::{contract, random, store, text};

    fn files(path: &Path) -> Vec<PathBuf> {
        let mut files = Vec::new();
        list(path, |entry, _| files.push(entry.path())).unwrap();
        files
    }

    fn fresh() -> (tempfile::TempDir, DiskContent) {
        let folder = tempfile::tempdir().unwrap();
        let content = DiskContent::open(&folder.path().join("a/content")).unwrap();
        (folder, content)
    }

    /// Changes one byte of a stored Blob, counted from its end when `at` is negative.
    fn flip(content: &DiskContent, digest: &Digest, at: i64) {
        let path = content.folders.path(digest);
        let mut bytes = fs::read(&path).unwrap();
        let at =
            if at < 0 { bytes.len() - usize::try_from(-at).unwrap() } else { usize::try_from(at).unwrap() };
        bytes[at] ^= 0x10;
        fs::write(&path, bytes).unwrap();
    }

    #[test]
    fn keeps_the_contract() {
        let folder = tempfile::tempdir().unwrap();
        let made = std::cell::Cell::new(0);
        contract(|| {
            made.set(made.get() + 1);
            DiskContent::open(&folder.path().join(made.get().to_string())).unwrap()
        });
    }

    #[test]
    fn files_are_the_owner_s_and_lie_where_they_should() {
        let (_folder, content) = fresh();
        let digest = store(&content, b"hello").digest;
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let Folders { blobs, staging, quarantine, .. } = &*content.folders;
        let shard = blobs.join(&digest.to_string()[..2]);
        for folder in [blobs, staging, quarantine, &shard, &blobs.join("..")] {
            assert_eq!(mode(folder), 0o700, "{folder:?}");
        }
        assert_eq!(files(&shard), [shard.join(digest.to_string())]);
        assert_eq!(mode(&files(&shard)[0]), 0o600);
    }

    #[test]
    fn what_is_dropped_leaves_no_file() {
        let (_folder, content) = fresh();
        let mut staging = content.begin().unwrap();
        staging.write(&random(3 * PIECE_BYTES)).unwrap();
        assert_eq!(files(&content.folders.staging).len(), 1);
        drop(staging);
        assert!(files(&content.folders.staging).is_empty());
        // Nor does what turns out to be there already.
        store(&content, b"twice");
        store(&content, b"twice");
        assert!(files(&content.folders.staging).is_empty());
    }

    #[test]
    fn sweeping_removes_leftovers_and_says_so() {
        let (_folder, content) = fresh();
        let digest = store(&content, b"stays").digest;
        let lost = store(&content, b"lost").digest;
        assert!(content.quarantine(&lost).unwrap());
        let mut staging = content.begin().unwrap();
        staging.write(&random(PIECE_BYTES)).unwrap();
        // As a process that dies leaves it.
        std::mem::forget(staging);
        let swept = content.sweep().unwrap();
        assert_eq!((swept.removed, swept.removed_bytes, swept.quarantined), (1, PIECE_BYTES as u64, 1));
        assert!(swept.quarantined_bytes > 4);
        assert_eq!(content.sweep().unwrap(), Swept { removed: 0, removed_bytes: 0, ..swept });
        assert!(content.has(&digest));
    }

    #[test]
    fn a_flipped_byte_is_found_wherever_it_is() {
        for data in [random(3 * PIECE_BYTES + 9), text(3 * PIECE_BYTES + 9)] {
            let (_folder, content) = fresh();
            let digest = store(&content, &data).digest;
            flip(&content, &digest, 1000);
            let opened = content.open(&digest).unwrap().unwrap();
            let error = opened.read(0).map(drop).unwrap_err();
            assert!(
                matches!(error, ContentError::Damaged { source: Damage::Piece { index: 0, .. }, .. }),
                "{error}"
            );
            assert!(opened.packed(0).is_ok(), "the receiver finds it out");
            assert_eq!(opened.read(1).unwrap(), data[PIECE_BYTES..2 * PIECE_BYTES]);
            flip(&content, &digest, 1000);
            assert!(content.open(&digest).unwrap().unwrap().read(0).is_ok());
            // Trailer: check, Digest, size, count, version, magic. Table: last value, first offset.
            for at in [-1, -33, -65, -73, -77, -81, -89, -88 - 4 * 45] {
                flip(&content, &digest, at);
                let error = content.open(&digest).unwrap_err();
                assert!(matches!(error, ContentError::Damaged { .. }), "{at}: {error}");
                flip(&content, &digest, at);
            }
        }
    }

    #[test]
    fn a_damaged_blob_makes_way_for_a_sound_one() {
        let (_folder, content) = fresh();
        let digest = store(&content, b"sound").digest;
        for spoil in [|bytes: &[u8]| bytes[..bytes.len() - 1].to_vec(), |_: &[u8]| Vec::new()] {
            let path = content.folders.path(&digest);
            fs::write(&path, spoil(&fs::read(&path).unwrap())).unwrap();
            assert!(matches!(content.open(&digest), Err(ContentError::Damaged { .. })));
            assert!(store(&content, b"sound").new);
            assert_eq!(content.open(&digest).unwrap().unwrap().read(0).unwrap(), b"sound");
        }
        assert_eq!(content.sweep().unwrap().quarantined, 1, "the name is the same");
    }

    #[test]
    fn a_durable_write_heals_what_nobody_has_read() {
        let (_folder, content) = fresh();
        let data = random(2 * PIECE_BYTES);
        let digest = store(&content, &data).digest;
        flip(&content, &digest, 1000);
        let mut staging = content.begin().unwrap();
        staging.write(&data).unwrap();
        assert!(!staging.finish(Durability::Durable).unwrap().new);
        assert_eq!(content.open(&digest).unwrap().unwrap().read(0).unwrap(), data[..PIECE_BYTES]);
        assert!(files(&content.folders.staging).is_empty());
    }

    #[test]
    fn a_file_cut_off_while_it_is_open_is_damaged() {
        let (_folder, content) = fresh();
        let digest = store(&content, &random(2 * PIECE_BYTES)).digest;
        let opened = content.open(&digest).unwrap().unwrap();
        File::options().write(true).open(content.folders.path(&digest)).unwrap().set_len(9).unwrap();
        assert!(matches!(opened.read(1), Err(ContentError::Damaged { .. })));
        assert!(matches!(opened.packed(1), Err(ContentError::Damaged { .. })));
    }

    #[test]
    fn quarantine_is_bounded() {
        let (_folder, content) = fresh();
        for n in 0..=MAX_QUARANTINED {
            let digest = store(&content, n.to_string().as_bytes()).digest;
            assert!(content.quarantine(&digest).unwrap());
            assert!(!content.has(&digest));
        }
        assert_eq!(content.sweep().unwrap().quarantined, MAX_QUARANTINED as u64);
    }

    #[test]
    fn folders_that_vanish_come_back() {
        let (_folder, content) = fresh();
        store(&content, b"one");
        for durability in [Durability::Durable, Durability::Fast] {
            for folder in ["blobs", "staging", "quarantine"] {
                fs::remove_dir_all(content.folders.blobs.with_file_name(folder)).unwrap();
            }
            assert!(!content.has(&Digest::of(b"one")));
            assert_eq!(content.sweep().unwrap(), Swept::default());
            content.each(&mut |_, _| panic!("nothing is left")).unwrap();
            let mut staging = content.begin().unwrap();
            staging.write(b"one").unwrap();
            assert!(staging.finish(durability).unwrap().new);
            assert!(content.quarantine(&Digest::of(b"one")).unwrap());
            store(&content, b"one");
        }
    }

    #[test]
    fn what_cannot_be_written_names_the_place() {
        let (folder, content) = fresh();
        let staging = &content.folders.staging;
        fs::remove_dir(staging).unwrap();
        fs::write(staging, "").unwrap();
        let error = content.begin().unwrap_err();
        assert!(matches!(&error, ContentError::Io { path, .. } if path == staging), "{error}");
        fs::remove_file(staging).unwrap();
        // A Blob whose staging file is gone cannot be kept; that is an error and no endless loop.
        let mut lost = content.begin().unwrap();
        lost.write(b"x").unwrap();
        fs::remove_dir_all(staging).unwrap();
        assert!(matches!(lost.finish(Durability::Fast), Err(ContentError::Io { .. })));
        // The folder that holds all is not made again: it may be a disk that is not there.
        fs::remove_dir_all(folder.path().join("a")).unwrap();
        assert!(matches!(content.begin(), Err(ContentError::Io { .. })));
        assert!(DiskContent::open(&folder.path().join("a")).is_ok());
        fs::write(folder.path().join("file"), "").unwrap();
        assert!(DiskContent::open(&folder.path().join("file/x")).is_err());
    }

    #[test]
    fn files_of_others_are_not_listed() {
        let (_folder, content) = fresh();
        let digest = store(&content, b"ours").digest;
        let shard = content.folders.shard(&digest);
        fs::write(shard.join("notes.txt"), "x").unwrap();
        let wrong = Digest::from_bytes([!digest.as_bytes()[0]; 32]);
        fs::write(shard.join(wrong.to_string()), "x").unwrap();
        let mut listed = Vec::new();
        content.each(&mut |digest, _| listed.push(digest)).unwrap();
        assert_eq!(listed, [digest]);
    }
}
