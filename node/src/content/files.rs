// SPDX-License-Identifier: MIT OR Apache-2.0
//! Every step by which the store changes files goes through here, so that a test can see each of them before it is
//! done, write it down or refuse it, and so can say what a crash at that step leaves behind. What the steps are for,
//! and in which order they make sense, is decided by those who take them.

use std::fmt;
use std::fs::{self, DirBuilder, File};
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileExt as _, OpenOptionsExt as _};
use std::path::Path;
use std::sync::Arc;

use tempfile::TempPath;

/// Only the owner reads and writes.
const FILE_MODE: u32 = 0o600;
/// The same for folders.
pub const FOLDER_MODE: u32 = 0o700;

/// Most bytes that are written by one call. The system takes memory for them in one block, where it can, and blocks of a
/// mebibyte are a virtual machine's last resort: they lie where it has given memory back to its host, which has to be
/// asked for each page of them (measured: 2.4 ms a MiB, and 0.24 by smaller calls).
pub(crate) const WRITE_BYTES: usize = 128 * 1024;

/// One change of the file system.
#[derive(Debug, Clone, Copy)]
pub enum Step<'a> {
    /// Makes a folder in one that is there.
    Make(&'a Path),
    /// Makes an empty file.
    Create(&'a Path),
    /// Writes to a file.
    Write {
        /// The file.
        path: &'a Path,
        /// Where, in bytes.
        offset: u64,
        /// What.
        bytes: &'a [u8],
    },
    /// Cuts a file off, or makes it longer by zeros.
    Length {
        /// The file.
        path: &'a Path,
        /// Its length then, in bytes.
        len: u64,
    },
    /// Waits until all of a file has reached the disk; its name need not have.
    Sync(&'a Path),
    /// Waits until the names in a folder have reached the disk.
    SyncFolder(&'a Path),
    /// Gives a file another name, which nothing has.
    Name {
        /// The old name.
        from: &'a Path,
        /// The new one.
        to: &'a Path,
    },
    /// Gives a file another name, in place of what has it.
    Rename {
        /// The old name.
        from: &'a Path,
        /// The new one.
        to: &'a Path,
    },
    /// Takes a file's name away.
    Remove(&'a Path),
}

/// Sees each step before it is done.
pub trait Witness: fmt::Debug + Send + Sync {
    /// Does the step by calling `act` once, or refuses it.
    ///
    /// # Errors
    /// What `act` says, or whatever the witness wants the one who takes the step to hear.
    fn step(&self, step: Step<'_>, act: &mut dyn FnMut() -> io::Result<()>) -> io::Result<()>;
}

/// The way to the file system, which is a plain one unless a test watches it. Clones share the witness.
#[derive(Debug, Clone, Default)]
pub struct Files {
    witness: Option<Arc<dyn Witness>>,
}

impl Files {
    /// Shows every step to a witness.
    pub fn watched(witness: Arc<dyn Witness>) -> Self {
        Self { witness: Some(witness) }
    }

    /// Takes a step. Those who change a file by other means than this type call it themselves.
    ///
    /// # Errors
    /// What the system or the witness says.
    ///
    /// # Panics
    /// When a witness neither takes a step nor refuses it, or takes it twice.
    pub fn take<T>(&self, step: Step<'_>, act: impl FnOnce() -> io::Result<T>) -> io::Result<T> {
        let Some(witness) = &self.witness else { return act() };
        let (mut act, mut done) = (Some(act), None);
        witness.step(step, &mut || {
            let act = act.take().expect("a witness takes each step once");
            done = Some(act()?);
            Ok(())
        })?;
        Ok(done.expect("a witness that does not refuse a step takes it"))
    }

    /// Makes a folder in one that is there, for the owner only; it may be there already.
    ///
    /// # Errors
    /// What the system or the witness says.
    pub fn make_folder(&self, path: &Path) -> io::Result<()> {
        let made = self.take(Step::Make(path), || DirBuilder::new().mode(FOLDER_MODE).create(path));
        match made {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(()),
            made => made,
        }
    }

    /// Makes an empty file, for the owner only. It must not be there.
    ///
    /// # Errors
    /// What the system or the witness says.
    pub fn create(&self, path: &Path) -> io::Result<File> {
        let mut options = File::options();
        options.read(true).write(true).create_new(true).mode(FILE_MODE);
        self.take(Step::Create(path), || options.open(path))
    }

    /// Writes all of `bytes`. A part may have been written when it fails.
    ///
    /// # Errors
    /// What the system or the witness says.
    pub fn write_at(&self, file: (&File, &Path), offset: u64, bytes: &[u8]) -> io::Result<()> {
        let (file, path) = file;
        self.take(Step::Write { path, offset, bytes }, || {
            let mut at = offset;
            for stretch in bytes.chunks(WRITE_BYTES) {
                file.write_all_at(stretch, at)?;
                at += stretch.len() as u64;
            }
            Ok(())
        })
    }

    /// Sets the length of a file.
    ///
    /// # Errors
    /// What the system or the witness says.
    pub fn set_len(&self, (file, path): (&File, &Path), len: u64) -> io::Result<()> {
        self.take(Step::Length { path, len }, || file.set_len(len))
    }

    /// Waits until all of a file has reached the disk.
    ///
    /// # Errors
    /// What the system or the witness says.
    pub fn sync(&self, (file, path): (&File, &Path)) -> io::Result<()> {
        self.take(Step::Sync(path), || file.sync_all())
    }

    /// Waits until the names in a folder have reached the disk.
    ///
    /// # Errors
    /// What the system or the witness says.
    pub fn sync_folder(&self, path: &Path) -> io::Result<()> {
        self.take(Step::SyncFolder(path), || File::open(path)?.sync_all())
    }

    /// Gives a file a name that nothing has.
    ///
    /// # Errors
    /// What the system or the witness says.
    pub fn name(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.take(Step::Name { from, to }, || {
            TempPath::try_from_path(from)?.persist_noclobber(to).map_err(|failed| {
                // Dropping it would remove the file, which is a step of its own.
                let error = failed.error;
                let _ = failed.path.keep();
                error
            })
        })
    }

    /// Gives a file a name that something else may have.
    ///
    /// # Errors
    /// What the system or the witness says.
    pub fn rename(&self, from: &Path, to: &Path) -> io::Result<()> {
        self.take(Step::Rename { from, to }, || fs::rename(from, to))
    }

    /// Takes a file's name away.
    ///
    /// # Errors
    /// What the system or the witness says.
    pub fn remove(&self, path: &Path) -> io::Result<()> {
        self.take(Step::Remove(path), || fs::remove_file(path))
    }
}
