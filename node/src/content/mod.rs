// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs at rest: named by their Digest, checked whenever they are read, each piece packed alone.
//!
//! A piece that is packed alone can be served as it is stored and read without touching the others. What a Blob looks
//! like at rest is decided once, in [`form`]; [`staging`] writes that form and [`opened`] reads it. A backend only has
//! to keep such forms: [`disk`] in files, [`memory`] in memory. Which Blobs are worth keeping, which small ones are
//! kept elsewhere, and how much room there is, are not decided here.
//!
//! Everything here blocks: drivers call it on threads that may.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use potluck_protocol::digest::{Digest, MAX_BLOB_BYTES};
use potluck_protocol::piece::{PieceError, Pieces};
use serde::Deserialize;

pub mod disk;
pub mod files;
pub mod form;
pub(crate) mod lanes;
pub mod memory;
pub mod opened;
pub mod pack;
mod part;
mod repack;
pub mod room;
pub mod staging;
pub(crate) mod syncing;

pub use disk::DiskContent;
pub use memory::MemoryContent;
pub use opened::Opened;
pub use room::Space;
pub use staging::{Incoming, Staging};

use pack::{Flaw, Packers};

/// Why content could not be written or read. That a Blob is absent is not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ContentError {
    /// There is no room left, on the disk or in the user's share of it.
    #[error("no room to {what} {path}: {source}", path = path.display())]
    Full {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The folder is read-only, or not this user's.
    #[error("not allowed to {what} {path}: {source}", path = path.display())]
    Denied {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// The disk is so full that what is left is kept free for others.
    #[error(
        "no room to write below {path}: {free} bytes are free, and {floor} are to stay so",
        path = path.display()
    )]
    Floor {
        /// The folder.
        path: PathBuf,
        /// Bytes that are free.
        free: u64,
        /// Bytes that are to stay free.
        floor: u64,
    },
    /// The system refused for another reason.
    #[error("cannot {what} {path}: {source}", path = path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// What is stored is not what was: quarantine it.
    #[error("blob {digest} is damaged at rest: {source}")]
    Damaged {
        /// The Blob.
        digest: Digest,
        /// Where and how.
        source: Damage,
    },
    /// A piece that was handed in is not the one at that place. Nothing of it was kept.
    #[error("piece {index} of blob {digest} is refused: {source}")]
    Refused {
        /// The Blob.
        digest: Digest,
        /// The piece's place.
        index: u64,
        /// What is wrong with it.
        source: Flaw,
    },
    /// The Blob has no such piece.
    #[error("there is no piece {index} in blob {digest}, it has {count}")]
    NoSuchPiece {
        /// The Blob.
        digest: Digest,
        /// The one asked for.
        index: u64,
        /// How many there are.
        count: u64,
    },
    /// An incoming Blob was ended too early.
    #[error("{missing} pieces of blob {digest} have not come")]
    Missing {
        /// The Blob.
        digest: Digest,
        /// How many pieces are missing.
        missing: u64,
    },
    /// The stream is longer than any Blob.
    #[error("a blob has at most {MAX_BLOB_BYTES} bytes")]
    TooLarge,
    /// An earlier write to this staging failed, so that it has a gap.
    #[error("an earlier write failed, this one cannot be taken up again")]
    Abandoned,
}

impl ContentError {
    /// Sorts what the system said by what can be done about it.
    pub(crate) fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        let path = path.to_owned();
        match source.kind() {
            io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded => Self::Full { what, path, source },
            io::ErrorKind::ReadOnlyFilesystem | io::ErrorKind::PermissionDenied => {
                Self::Denied { what, path, source }
            }
            _ => Self::Io { what, path, source },
        }
    }
}

/// How a stored Blob is damaged.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Damage {
    /// It is too short to hold its table, as a file that was cut off or never reached the disk.
    #[error("it is cut off, only {0} bytes are left")]
    Short(u64),
    /// It does not end like a packed Blob.
    #[error("it is not a packed blob")]
    Magic,
    /// It has a form that this program does not know. It may be sound, and written by a later program.
    #[error("it has version {0}")]
    Version(u32),
    /// It is another Blob than its name says.
    #[error("it holds {0}")]
    OtherBlob(Digest),
    /// The number of pieces does not fit the size.
    #[error("it says that it has {size} bytes in {count} pieces")]
    Count {
        /// The size it claims, in bytes.
        size: u64,
        /// The pieces it claims.
        count: u32,
    },
    /// Table or trailer are not as they were written.
    #[error("its table is not as it was written")]
    Check,
    /// The table points to where a piece cannot be.
    #[error("its table has no sensible place for piece {0}")]
    Place(u64),
    /// The table's chaining values do not make up the Digest.
    #[error(transparent)]
    Values(PieceError),
    /// One piece; the others may be sound.
    #[error("piece {index}: {flaw}")]
    Piece {
        /// Which.
        index: u64,
        /// What is wrong with it.
        #[source]
        flaw: Flaw,
    },
}

/// What a Blob has to survive once it is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Deserialize)]
pub enum Durability {
    /// A power cut.
    #[default]
    #[serde(rename = "crash-safe")]
    Durable,
    /// The end of this process; when it is killed, what lies in the index may lose its last half second. After a power
    /// cut the Blob may be absent or damaged, which every read finds out.
    #[serde(rename = "fast")]
    Fast,
}

/// A Blob that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Stored {
    /// Its name.
    pub digest: Digest,
    /// Its size in bytes, proven by all of its pieces.
    pub size: u64,
    /// Bytes it takes at rest. If it was there before, of the form that was kept.
    pub stored_bytes: u64,
    /// Whether it was not there before. Of several that write one Blob at a time, exactly one sees `true`.
    pub new: bool,
}

/// What [`Content::sweep`] did and found.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Swept {
    /// Half-written Blobs that were removed.
    pub removed: u64,
    /// Bytes that they took.
    pub removed_bytes: u64,
    /// Blobs in quarantine, which stay there.
    pub quarantined: u64,
    /// Bytes that they take.
    pub quarantined_bytes: u64,
}

/// What became of a finished [`Draft`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Arrival {
    /// It is kept.
    New,
    /// The Blob was there before and is sound as far as its table tells; the draft is gone.
    Known {
        /// Bytes that the one that is there takes.
        stored_bytes: u64,
    },
}

/// What came of packing a Blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Repacked {
    /// It takes so many bytes now.
    Done {
        /// Bytes that it took.
        before: u64,
        /// Bytes that it takes.
        after: u64,
    },
    /// It is not there, or was removed meanwhile.
    Gone,
    /// It was told to stop.
    Stopped,
}

/// A backend's part of a Blob that is being written. Dropped, it leaves nothing, unless it is of [`Content::part`].
pub trait Draft: Send {
    /// Writes `bytes` at `offset`, which is where the last write that succeeded ended.
    ///
    /// # Errors
    /// When the backend cannot; the same offset may be tried again.
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ContentError>;

    /// Fills `bytes` from `offset` on, of what was written.
    ///
    /// # Errors
    /// When the backend cannot, or nothing was written there.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), ContentError>;

    /// Throws away what was written beyond `len` bytes; with all that was written, what was noted as well.
    ///
    /// # Errors
    /// When the backend cannot.
    fn cut(&mut self, len: u64) -> Result<(), ContentError>;

    /// Notes something for whoever takes the draft up later, after what was noted before. A draft that cannot be taken
    /// up has no use for it.
    ///
    /// # Errors
    /// When the backend cannot.
    fn note(&mut self, _note: &[u8]) -> Result<(), ContentError> {
        Ok(())
    }

    /// Ends the draft and gives it its name, in one step.
    ///
    /// # Errors
    /// When the backend cannot; the draft is gone then.
    fn keep(self, digest: &Digest, durability: Durability) -> Result<Arrival, ContentError>;

    /// Ends the draft and puts it, in one step, in the place of the Blob of that name, or says that there is none: what
    /// was removed does not come back. Those who have the old one open read on. It is as durable as what it replaces.
    ///
    /// # Errors
    /// When the backend cannot; the draft is gone then, and the old one stays.
    fn replace(self, digest: &Digest) -> Result<bool, ContentError>;
}

/// A backend's part of a Blob that is being read. It can be read to the end, even if the Blob is removed meanwhile.
pub trait Kept: Send + Sync {
    /// Its length in bytes as it is stored.
    fn stored_bytes(&self) -> u64;

    /// Fills `bytes` from `offset` on.
    ///
    /// # Errors
    /// [`ContentError::Io`] of the kind [`io::ErrorKind::UnexpectedEof`] when it ends before, or what the system says.
    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), ContentError>;

    /// The same, if the bytes are in memory; gives whether they are. What else is in the way, [`Kept::read_at`] tells.
    fn read_at_once(&self, offset: u64, bytes: &mut [u8]) -> bool;
}

/// A place that keeps Blobs. Clones are cheap where a backend has them, and all methods may be called from any thread.
///
/// A backend implements what keeps and finds forms; how Blobs are packed, checked and laid out is the same for all,
/// which is why [`Staging`], [`Incoming`] and [`Opened`] are types here and not traits.
pub trait Content: Send + Sync {
    /// A Blob that is being written.
    type Draft: Draft;
    /// A Blob that is being read.
    type Kept: Kept;

    /// Room for a new Blob.
    ///
    /// # Errors
    /// When the backend cannot write.
    fn draft(&self) -> Result<Self::Draft, ContentError>;

    /// The stored form of a Blob, or nothing when it is absent. Nothing of it is checked.
    ///
    /// # Errors
    /// When the backend cannot read.
    fn kept(&self, digest: &Digest) -> Result<Option<Self::Kept>, ContentError>;

    /// What packs and unpacks for this content.
    fn packers(&self) -> &Arc<Packers>;

    /// Whether there is such a Blob. It may still turn out to be damaged.
    fn has(&self, digest: &Digest) -> bool;

    /// Removes a Blob and says whether it was there. Those who have it open can read on.
    ///
    /// # Errors
    /// When the backend cannot remove it.
    fn remove(&self, digest: &Digest) -> Result<bool, ContentError>;

    /// Puts a damaged Blob where it is never served again, for somebody to look at, and says whether it was there.
    /// Beyond a bound on the number of such Blobs it is removed instead.
    ///
    /// # Errors
    /// When the backend cannot move it.
    fn quarantine(&self, digest: &Digest) -> Result<bool, ContentError>;

    /// Removes what a process that died left half-written. Only for the start: it would remove what is being written.
    ///
    /// # Errors
    /// When the backend cannot remove it.
    fn sweep(&self) -> Result<Swept, ContentError>;

    /// Bytes that all Blobs take as they are stored, or nothing as long as [`Content::count`] has not ended.
    fn used(&self) -> Option<u64>;

    /// Counts what [`Content::used`] gives. After that it is kept up with each change.
    ///
    /// # Errors
    /// When the backend cannot list them.
    fn count(&self) -> Result<(), ContentError>;

    /// Makes a Blob durable that was written [`Durability::Fast`], all but the folder that it is in, and says whether it
    /// is there.
    ///
    /// # Errors
    /// When the backend cannot.
    fn sync(&self, digest: &Digest) -> Result<bool, ContentError>;

    /// Makes the names of Blobs durable.
    ///
    /// # Errors
    /// When the backend cannot.
    fn sync_names(&self, digests: &[Digest]) -> Result<(), ContentError>;

    /// Shows every Blob with the bytes that it takes, in no order, without reading any.
    ///
    /// # Errors
    /// When the backend cannot list them.
    fn each(&self, visit: &mut dyn FnMut(Digest, u64)) -> Result<(), ContentError>;

    /// Starts a Blob whose name and length will turn out.
    ///
    /// # Errors
    /// When the backend cannot write.
    fn begin(&self) -> Result<Staging<Self::Draft>, ContentError> {
        Ok(Staging::new(self.draft()?))
    }

    /// Starts a Blob that others have, by the list of its pieces.
    ///
    /// # Errors
    /// When the backend cannot write.
    fn begin_known(&self, pieces: Pieces) -> Result<Incoming<Self::Draft>, ContentError> {
        Ok(Incoming::new(self.draft()?, pieces, Arc::clone(self.packers())))
    }

    /// A draft of a Blob whose name is known, that may be taken up when it was dropped before its end, by a later process
    /// as well; with what was noted of it, at most `limit` bytes. Where a backend has no such thing, or somebody has it
    /// just now, it is an ordinary draft of which nothing is noted.
    ///
    /// # Errors
    /// When the backend cannot write.
    fn part(&self, _digest: &Digest, _limit: u64) -> Result<(Self::Draft, Vec<u8>), ContentError> {
        Ok((self.draft()?, Vec::new()))
    }

    /// Whether there may be something of a Blob that [`Content::take_up`] finds.
    fn has_part(&self, _digest: &Digest) -> bool {
        false
    }

    /// Starts a Blob that others have, by the list of its pieces, so that it can be taken up.
    ///
    /// # Errors
    /// When the backend cannot write.
    fn begin_part(&self, pieces: Pieces) -> Result<Incoming<Self::Draft>, ContentError> {
        let (draft, _) = self.part(pieces.digest(), 0)?;
        Incoming::begin(draft, pieces, Arc::clone(self.packers()))
    }

    /// Takes up a Blob of `size` bytes that was not ended. Each piece is checked; those that are not what they should be
    /// are missing. Nothing when there is nothing of it.
    ///
    /// # Errors
    /// When the backend cannot read or write.
    fn take_up(&self, digest: &Digest, size: u64) -> Result<Option<Incoming<Self::Draft>>, ContentError> {
        if !self.has_part(digest) {
            return Ok(None);
        }
        let (draft, notes) = self.part(digest, part::max_bytes(size))?;
        Incoming::take_up(draft, (&notes, digest, size), Arc::clone(self.packers()))
    }

    /// Packs the pieces of a Blob that wait for it, and puts the result in its place. `go` is asked before each piece
    /// whether to go on, and may wait. A Blob that nothing is to be done about counts as packed.
    ///
    /// # Errors
    /// [`ContentError::Damaged`] when the Blob is; else when the backend cannot read or write. The Blob stays as it is.
    fn pack(
        &self,
        digest: &Digest,
        level: i32,
        go: &mut dyn FnMut() -> bool,
    ) -> Result<Repacked, ContentError> {
        let Some(opened) = self.open(digest)? else { return Ok(Repacked::Gone) };
        repack::repack(&opened, || self.draft(), level, go)
    }

    /// Whether pieces of a Blob wait to be packed, by a look at its end.
    ///
    /// # Errors
    /// When the backend cannot read.
    fn waits(&self, digest: &Digest) -> Result<bool, ContentError> {
        self.kept(digest)?.map_or(Ok(false), |kept| form::waits(&kept, digest))
    }

    /// Opens a Blob, or says that it is absent. Its table is checked against its name, its pieces when they are read.
    ///
    /// # Errors
    /// [`ContentError::Damaged`] when the table is; else when the backend cannot read.
    fn open(&self, digest: &Digest) -> Result<Option<Opened<Self::Kept>>, ContentError> {
        let Some(kept) = self.kept(digest)? else { return Ok(None) };
        Opened::new(kept, digest, Arc::clone(self.packers())).map(Some)
    }
}

#[cfg(test)]
pub(crate) mod contract;
#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_the_system_says_is_sorted() {
        let sort = |kind: io::ErrorKind| ContentError::io("write", Path::new("x"), kind.into());
        assert!(matches!(sort(io::ErrorKind::StorageFull), ContentError::Full { .. }));
        assert!(matches!(sort(io::ErrorKind::QuotaExceeded), ContentError::Full { .. }));
        assert!(matches!(sort(io::ErrorKind::ReadOnlyFilesystem), ContentError::Denied { .. }));
        assert!(matches!(sort(io::ErrorKind::PermissionDenied), ContentError::Denied { .. }));
        assert!(matches!(sort(io::ErrorKind::NotFound), ContentError::Io { .. }));
        assert!(sort(io::ErrorKind::StorageFull).to_string().starts_with("no room to write x: "));
    }
}
