// SPDX-License-Identifier: MIT OR Apache-2.0
//! Parts of Blobs on the disk, which a later run may take up: two files each in staging, of which those stay that are
//! new enough, as far as there is room for them.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, MutexGuard, PoisonError};
use std::time::{Duration, SystemTime};

use potluck_protocol::digest::Digest;

use super::{DiskContent, DiskDraft, Folders, gone, list};
use crate::content::ContentError;
use crate::content::files::Files;
use crate::observe::clock;

/// How the files of a part end: its pieces, and the notes about them.
const PART: &str = "part";
pub(super) const LIST: &str = "list";

/// Most parts that nobody is busy with.
pub const MAX_PARTS: usize = 32;
/// Most bytes of them.
pub const MAX_PART_BYTES: u64 = 8 << 30;
/// How long a part stays after its last piece came.
pub const PART_LIFE: Duration = Duration::from_secs(3 * 24 * 60 * 60);

/// A part as it lies there.
#[derive(Debug, Clone, Copy, Default)]
struct Lies {
    /// When something was written last.
    changed: Option<SystemTime>,
    bytes: u64,
    files: u8,
}

/// The notes on a Blob of which more is to come.
#[derive(Debug)]
pub(super) struct Part {
    pub(super) digest: Digest,
    pub(super) list: File,
    pub(super) path: PathBuf,
    pub(super) len: u64,
    /// Whether nothing of it is to be taken up any more.
    pub(super) spent: bool,
}

impl Part {
    /// Adds to the notes.
    pub(super) fn note(&mut self, files: &Files, note: &[u8]) -> Result<(), ContentError> {
        let written = files.write_at((&self.list, &self.path), self.len, note);
        written.map_err(|error| ContentError::io("write", &self.path, error))?;
        self.len += note.len() as u64;
        Ok(())
    }

    /// Throws them away.
    pub(super) fn clear(&mut self, files: &Files) -> Result<(), ContentError> {
        let cut = files.set_len((&self.list, &self.path), 0);
        cut.map_err(|error| ContentError::io("cut", &self.path, error))?;
        self.len = 0;
        Ok(())
    }
}

/// The Blob of which a file in staging is a part, by its name.
pub(super) fn part_name(path: &Path) -> Option<Digest> {
    let of = path.extension().is_some_and(|ending| ending == PART || ending == LIST);
    path.file_stem().filter(|_| of)?.to_str()?.parse().ok()
}

impl Folders {
    pub(super) fn parts(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        // It is changed in one step.
        self.parts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn part(&self, digest: &Digest, ending: &str) -> PathBuf {
        self.staging.join(format!("{digest}.{ending}"))
    }

    /// Every part.
    fn all_parts(&self) -> Result<BTreeMap<Digest, Lies>, ContentError> {
        let mut parts: BTreeMap<Digest, Lies> = BTreeMap::new();
        list(&self.staging, |entry, bytes| {
            let Some(digest) = part_name(&entry.path()) else { return };
            let changed = entry.metadata().and_then(|found| found.modified()).ok();
            let part = parts.entry(digest).or_default();
            part.changed = part.changed.max(changed);
            (part.bytes, part.files) = (part.bytes + bytes, part.files + 1);
        })?;
        Ok(parts)
    }

    /// The parts that are to stay besides those in use: the newest, as far as there is room for them.
    pub(super) fn worth_keeping(&self, in_use: &BTreeSet<Digest>) -> Result<BTreeSet<Digest>, ContentError> {
        let mut parts = self.all_parts()?;
        parts.retain(|digest, _| !in_use.contains(digest));
        let now = clock::now();
        let fresh = |changed: &Option<SystemTime>| {
            changed.is_some_and(|changed| now.since(changed.into()) < PART_LIFE)
        };
        // One file without the other is worth nothing.
        let pairs = parts.into_iter().filter(|(_, part)| part.files == 2 && fresh(&part.changed));
        let mut pairs: Vec<_> = pairs.map(|(digest, part)| (part.changed, part.bytes, digest)).collect();
        pairs.sort_unstable_by(|one, other| other.cmp(one));
        let mut room = MAX_PART_BYTES;
        pairs.truncate(MAX_PARTS);
        pairs.retain(|(_, bytes, _)| room.checked_sub(*bytes).map(|left| room = left).is_some());
        Ok(pairs.into_iter().map(|(_, _, digest)| digest).collect())
    }

    /// Removes parts that are not in use and that there is no room for any more.
    fn thin_parts(&self) -> Result<(), ContentError> {
        // Nobody takes one up meanwhile.
        let in_use = self.parts();
        let kept = self.worth_keeping(&in_use)?;
        let mut over = Vec::new();
        list(&self.staging, |entry, _| over.push(entry.path()))?;
        for path in over {
            if part_name(&path).is_some_and(|digest| !in_use.contains(&digest) && !kept.contains(&digest)) {
                gone(|path| self.files.remove(path), &path, "remove")?;
            }
        }
        Ok(())
    }
}

/// What became of parts when room was needed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Thinned {
    /// Bytes of those that went, or would.
    pub freed: u64,
    /// Bytes of those that are left, or would be.
    pub left: u64,
}

impl DiskContent {
    /// How many bytes the parts of Blobs take that are not whole yet. Looks at each: not for every look-up.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn part_bytes(&self) -> Result<u64, ContentError> {
        Ok(self.folders.all_parts()?.values().map(|part| part.bytes).sum())
    }

    /// Removes parts that nobody is busy with, those first to which nothing came for longest, until so many bytes are
    /// free; with `dry`, says what that would be.
    ///
    /// # Errors
    /// [`ContentError`].
    pub fn drop_parts(&self, bytes: u64, dry: bool) -> Result<Thinned, ContentError> {
        let folders = &self.folders;
        // Nobody takes one up meanwhile.
        let in_use = folders.parts();
        let all = folders.all_parts()?;
        let mut thinned = Thinned { freed: 0, left: all.values().map(|part| part.bytes).sum() };
        let idle = all.into_iter().filter(|(digest, _)| !in_use.contains(digest));
        let mut idle: Vec<_> = idle.map(|(digest, part)| (part.changed, part.bytes, digest)).collect();
        idle.sort_unstable();
        for (_, part, digest) in idle {
            if thinned.freed >= bytes {
                break;
            }
            // Without its notes the rest is worth nothing, should it end here.
            for ending in [LIST, PART].into_iter().filter(|_| !dry) {
                gone(|path| folders.files.remove(path), &folders.part(&digest, ending), "remove")?;
            }
            thinned = Thinned { freed: thinned.freed + part, left: thinned.left - part };
        }
        Ok(thinned)
    }

    /// Opens or makes the files of a part, which nobody else has.
    pub(super) fn part_of(&self, digest: &Digest, limit: u64) -> Result<(DiskDraft, Vec<u8>), ContentError> {
        let folders = &self.folders;
        folders.thin_parts()?;
        folders.make(&folders.staging)?;
        let open = |path: &Path| {
            let file = match File::options().read(true).write(true).open(path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => folders.files.create(path),
                file => file,
            };
            file.map_err(|error| ContentError::io("write to", path, error))
        };
        let (path, list_path) = (folders.part(digest, PART), folders.part(digest, LIST));
        let (file, list) = (open(&path)?, open(&list_path)?);
        let fail = |error| ContentError::io("read", &list_path, error);
        let mut notes = Vec::new();
        (&list).take(limit).read_to_end(&mut notes).map_err(fail)?;
        let written = file.metadata().map_err(fail)?.len();
        let part =
            Some(Part { digest: *digest, list, path: list_path, len: notes.len() as u64, spent: false });
        let (folders, guard) = (Arc::clone(&self.folders), Arc::clone(&self.guard));
        Ok((DiskDraft { file, path, named: false, written, ahead: written, part, folders, guard }, notes))
    }
}
