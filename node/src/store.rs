// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs wherever they lie: small ones in the index, larger ones as files of pieces. Everything here blocks.

use std::io;
use std::path::Path;
use std::sync::Arc;

use potluck_keys::ring::{self, RingError};
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Packing;
use potluck_protocol::piece::{PIECE_BYTES, PieceError, PieceList, Pieces};

use crate::content::files::Files;
use crate::content::{
    Content as _, ContentError, DiskContent, Durability, Incoming, Opened, Staging, Swept, disk,
};
use crate::index::{Index, IndexError, MAX_INLINE_BYTES};

/// Why the store did not do what was asked. That a Blob is absent is not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file of content.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A folder of the store.
    #[error(transparent)]
    Folder(#[from] RingError),
    /// A small Blob is not what its name says.
    #[error("blob {0} is damaged in the index")]
    Damaged(Digest),
    /// A Blob that came does not have the name or the pieces it should have.
    #[error("it is not the blob that was asked for: {0}")]
    Piece(#[from] PieceError),
}

impl StoreError {
    /// Whether a Blob was damaged, and is put aside.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::Content(ContentError::Damaged { .. }))
    }

    /// Whether the fault is in what was handed in, and not here.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Content(ContentError::Refused { .. }) | Self::Piece(_))
    }
}

/// The store of a home.
#[derive(Clone)]
pub struct Store {
    content: DiskContent,
    index: Arc<Index>,
}

/// A Blob that is here.
pub enum Blob {
    /// A small one, checked.
    Small(Pieces, Vec<u8>),
    /// A larger one, whose pieces are checked as they are read.
    Large(Opened<disk::DiskKept>),
}

impl Store {
    /// Opens or makes the store below `folder`, and removes what an interrupted run left behind.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(folder: &Path) -> Result<(Self, Swept), StoreError> {
        Self::open_by(folder, &Files::default())
    }

    /// The same by a way to the file system that may be watched.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open_by(folder: &Path, files: &Files) -> Result<(Self, Swept), StoreError> {
        match files.make_folder(folder) {
            // Even the folder around it has to be made.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ContentError::io("make", folder, error).into());
            }
            _ => ring::make_folder(folder)?,
        }
        if let Some(around) = folder.parent() {
            let sync = files.sync_folder(around);
            sync.map_err(|error| ContentError::io("sync", around, error))?;
        }
        let content = DiskContent::open_by(folder, files.clone())?;
        let swept = content.sweep()?;
        let index = Arc::new(Index::open_by(&folder.join("index.redb"), files)?);
        Ok((Self { content, index }, swept))
    }

    /// The index.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// Whether a Blob is here.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn has(&self, digest: &Digest) -> Result<bool, StoreError> {
        Ok(self.content.has(digest) || self.index.small(digest)?.is_some())
    }

    /// A Blob. One that is damaged is put aside and is not here any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn blob(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        if let Some(bytes) = self.index.small(digest)? {
            if Digest::of(&bytes) != *digest {
                self.index.forget_small(digest)?;
                return Err(StoreError::Damaged(*digest));
            }
            let list = PieceList { size: bytes.len() as u64, values: Vec::new() };
            return Ok(Some(Blob::Small(list.verify(digest)?, bytes)));
        }
        match self.content.open(digest) {
            Ok(opened) => Ok(opened.map(Blob::Large)),
            Err(error) => Err(self.aside(digest, error)),
        }
    }

    /// All bytes of a Blob of at most `limit` bytes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn bytes(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(blob) = self.blob(digest)?.filter(|blob| blob.pieces().size() <= limit) else {
            return Ok(None);
        };
        let mut bytes = Vec::new();
        for index in 0..blob.pieces().count() {
            bytes.extend(self.piece(&blob, index)?);
        }
        Ok(Some(bytes))
    }

    /// One piece of a Blob, unpacked and checked. A Blob with a bad piece is put aside.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn piece(&self, blob: &Blob, index: u64) -> Result<Vec<u8>, StoreError> {
        match blob {
            Blob::Small(pieces, bytes) => {
                pieces.check(index, bytes)?;
                Ok(bytes.clone())
            }
            Blob::Large(opened) => {
                opened.read(index).map_err(|error| self.aside(opened.pieces().digest(), error))
            }
        }
    }

    /// Puts a damaged Blob aside, so that it is never read again.
    fn aside(&self, digest: &Digest, error: ContentError) -> StoreError {
        if let ContentError::Damaged { .. } = error {
            tracing::warn!(blob = %digest, %error, "put aside");
            if let Err(error) = self.content.quarantine(digest) {
                tracing::warn!(blob = %digest, %error, "cannot be put aside");
            }
        }
        error.into()
    }

    /// Starts to write a Blob of unknown length.
    pub fn begin(&self) -> Writing {
        Writing { store: self.clone(), head: Vec::new(), staging: None }
    }

    /// Stores a Blob that is in memory.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn keep(&self, bytes: &[u8], durability: Durability) -> Result<Digest, StoreError> {
        let mut writing = self.begin();
        writing.write(bytes)?;
        Ok(writing.finish(durability)?.0)
    }

    /// Starts to take a Blob whose pieces come from elsewhere, in any order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn receive(&self, pieces: Pieces) -> Result<Receiving, StoreError> {
        if pieces.size() <= MAX_INLINE_BYTES as u64 {
            return Ok(Receiving::Small { store: self.clone(), pieces, bytes: None });
        }
        Ok(Receiving::Large(self.content.begin_known(pieces)?))
    }

    /// Every Blob that is a file, with the bytes that it takes. The others are listed by the index.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn larges(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        let mut all = Vec::new();
        self.content.each(&mut |digest, stored| all.push((digest, stored)))?;
        Ok(all)
    }

    /// How many bytes all Blobs take as they are stored. Looks at each file: not for every look-up.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn total(&self) -> Result<u64, StoreError> {
        let mut bytes = self.index.small_bytes()?;
        self.content.each(&mut |_, stored| bytes += stored)?;
        Ok(bytes)
    }
}

impl Blob {
    /// Its pieces.
    pub fn pieces(&self) -> &Pieces {
        match self {
            Self::Small(pieces, _) => pieces,
            Self::Large(opened) => opened.pieces(),
        }
    }

    /// One piece as it is stored. It is **not** checked: whoever it is sent to checks it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn packed(&self, index: u64) -> Result<(Packing, Vec<u8>), StoreError> {
        match self {
            Self::Small(_, bytes) => Ok((Packing::Raw, bytes.clone())),
            Self::Large(opened) => Ok(opened.packed(index)?),
        }
    }
}

/// A Blob that is being written. Dropping it leaves nothing.
pub struct Writing {
    store: Store,
    /// The bytes so far, while they may still be those of a small Blob.
    head: Vec<u8>,
    staging: Option<Staging<disk::DiskDraft>>,
}

impl Writing {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        if let Some(staging) = &mut self.staging {
            return Ok(staging.write(bytes)?);
        }
        if self.head.len() + bytes.len() <= MAX_INLINE_BYTES {
            self.head.extend_from_slice(bytes);
            return Ok(());
        }
        let mut staging = self.store.content.begin()?;
        staging.write(&std::mem::take(&mut self.head))?;
        staging.write(bytes)?;
        self.staging = Some(staging);
        Ok(())
    }

    /// Ends the Blob; gives its name and size.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn finish(self, durability: Durability) -> Result<(Digest, u64), StoreError> {
        match self.staging {
            Some(staging) => {
                let stored = staging.finish(durability)?;
                Ok((stored.digest, stored.size))
            }
            None => {
                let digest = Digest::of(&self.head);
                self.store.index.keep_small(&digest, &self.head, durability)?;
                Ok((digest, self.head.len() as u64))
            }
        }
    }
}

/// A Blob that comes in pieces. Dropping it leaves nothing.
pub enum Receiving {
    /// A small one.
    Small {
        /// Where it goes.
        store: Store,
        /// Its only piece.
        pieces: Pieces,
        /// That piece, once it came.
        bytes: Option<Vec<u8>>,
    },
    /// A larger one.
    Large(Incoming<disk::DiskDraft>),
}

impl Receiving {
    /// Takes a piece, if it is the right one.
    ///
    /// # Errors
    /// [`StoreError`]; see [`StoreError::is_refusal`].
    pub fn put(&mut self, index: u64, packing: Packing, packed: &[u8]) -> Result<(), StoreError> {
        match self {
            Self::Small { pieces, bytes, .. } => {
                let unpacked = unpack(packing, packed, pieces.size())?;
                pieces.check(index, &unpacked)?;
                *bytes = Some(unpacked);
            }
            Self::Large(incoming) => {
                incoming.put(index, packing, packed)?;
            }
        }
        Ok(())
    }

    /// Ends the Blob once all its pieces came. What can be fetched again need not be durable at once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn finish(self) -> Result<(), StoreError> {
        match self {
            Self::Small { store, pieces, bytes } => {
                let missing = PieceError::WrongLength { index: 0, got: 0, want: pieces.size() };
                store.index.keep_small(pieces.digest(), &bytes.ok_or(missing)?, Durability::Fast)?;
            }
            Self::Large(incoming) => {
                incoming.finish(Durability::Fast)?;
            }
        }
        Ok(())
    }
}

/// The bytes of a packed stretch that must unpack to exactly `size` bytes, at most a piece.
///
/// # Errors
/// [`StoreError::Piece`].
pub fn unpack(packing: Packing, packed: &[u8], size: u64) -> Result<Vec<u8>, StoreError> {
    let wrong = |got: usize| PieceError::WrongLength { index: 0, got: got as u64, want: size };
    let limit = usize::try_from(size).ok().filter(|size| *size <= PIECE_BYTES);
    let limit = limit.ok_or(PieceError::TooLarge(size))?;
    let bytes = match packing {
        Packing::Raw => packed.to_vec(),
        // One byte more than there may be: enough to see that there are too many, and a bomb ends there.
        Packing::Zstd => {
            zstd::bulk::decompress(packed, limit + 1).map_err(|_: io::Error| wrong(limit + 1))?
        }
    };
    if bytes.len() == limit { Ok(bytes) } else { Err(wrong(bytes.len()).into()) }
}

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap().0;
        (folder, store)
    }

    #[test]
    fn small_and_large_are_read_alike() {
        let (_folder, store) = store();
        for size in [0, 1, MAX_INLINE_BYTES, MAX_INLINE_BYTES + 1, PIECE_BYTES, PIECE_BYTES + 1] {
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            let digest = store.keep(&bytes, Durability::Fast).unwrap();
            assert_eq!(digest, Digest::of(&bytes));
            assert!(store.has(&digest).unwrap());
            assert_eq!(store.bytes(&digest, size as u64).unwrap().unwrap(), bytes);
            assert!(size == 0 || store.bytes(&digest, size as u64 - 1).unwrap().is_none());
        }
        assert!(!store.has(&Digest::of(b"absent")).unwrap());
        assert!(store.blob(&Digest::of(b"absent")).unwrap().is_none());
        assert!(store.total().unwrap() > 0);
    }

    #[test]
    fn what_is_sent_packed_is_taken_piece_by_piece() {
        let ((_a, from), (_b, to)) = (store(), store());
        for size in [1, 5000, 3 * PIECE_BYTES + 7] {
            let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
            let digest = from.keep(&bytes, Durability::Fast).unwrap();
            let blob = from.blob(&digest).unwrap().unwrap();
            let mut receiving = to.receive(blob.pieces().clone()).unwrap();
            let mut wrong = blob.packed(0).unwrap().1;
            wrong[0] ^= 1;
            assert!(receiving.put(0, Packing::Raw, &wrong).unwrap_err().is_refusal());
            for index in 0..blob.pieces().count() {
                let (packing, packed) = blob.packed(index).unwrap();
                receiving.put(index, packing, &packed).unwrap();
            }
            receiving.finish().unwrap();
            assert_eq!(to.bytes(&digest, u64::MAX).unwrap().unwrap(), bytes);
        }
    }

    #[test]
    fn bombs_end_early() {
        let bomb = zstd::bulk::compress(&vec![0; PIECE_BYTES + 1], 1).unwrap();
        assert!(unpack(Packing::Zstd, &bomb, 100).is_err());
        assert!(unpack(Packing::Zstd, &bomb, PIECE_BYTES as u64).is_err());
        assert!(unpack(Packing::Zstd, &bomb, PIECE_BYTES as u64 + 1).is_err(), "beyond a piece");
        assert!(unpack(Packing::Zstd, b"no frame", 100).is_err());
        assert!(unpack(Packing::Raw, b"four", 3).is_err() && unpack(Packing::Raw, b"four", 5).is_err());
    }
}
