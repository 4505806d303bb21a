// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs on their way into the store: written from their beginning, or received piece by piece.

use std::fs::{File, Metadata};
use std::io::{self, Seek as _, SeekFrom};

use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Packing;
use potluck_protocol::piece::{PIECE_BYTES, PieceError, Pieces};

use super::{Store, StoreError};
use crate::buffers::{self, Lent};
use crate::content::files::WRITE_BYTES;
use crate::content::lanes::{LaneError, MAX_LANES};
use crate::content::{Content as _, ContentError, Durability, Incoming, Staging, disk};
use crate::index::MAX_INLINE_BYTES;
use crate::observe::span;

/// A Blob that is being written. Dropping it leaves nothing.
pub struct Writing {
    pub(super) store: Store,
    /// The bytes so far, while they may still be those of a small Blob.
    pub(super) head: Vec<u8>,
    pub(super) staging: Option<Staging<disk::DiskDraft>>,
}

impl Writing {
    /// Whether nothing was written yet.
    pub(crate) fn is_empty(&self) -> bool {
        self.head.is_empty() && self.staging.is_none()
    }

    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), StoreError> {
        self.store.stir();
        if self.staging.is_some() || self.head.len() + bytes.len() > MAX_INLINE_BYTES {
            self.store.known.room.take(bytes.len() as u64)?;
        }
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

    /// Takes all of a file, which is open at its beginning and keeps nobody waiting: stretches that stay in the
    /// processor's cache from being read until they are written, of a large one by several threads.
    ///
    /// # Errors
    /// [`PourError`]; nothing more can be written then.
    ///
    /// # Panics
    /// When something was written before.
    pub fn pour(&mut self, mut file: File) -> Result<(), PourError> {
        assert!(self.is_empty(), "nothing was written before");
        let len = file.metadata().ok().filter(Metadata::is_file).map_or(0, |found| found.len());
        // The last piece, whole or not, is written below, with whatever has been added meanwhile.
        let pieces = len.saturating_sub(1) / PIECE_BYTES as u64;
        let lanes = span::cores().min(MAX_LANES).min(usize::try_from(pieces).unwrap_or(MAX_LANES));
        let mut rooms: Vec<_> = (0..lanes.max(1)).map(|_| buffers::lend()).collect();
        let mut rooms: Vec<_> = rooms.iter_mut().map(stretch).collect();
        if lanes > 1 {
            self.store.stir();
            let staging = self.staging.insert(self.store.content.begin()?);
            let leave = |bytes| self.store.known.room.take(bytes);
            staging.take_pieces((&file, pieces), &mut rooms, &leave)?;
            file.seek(SeekFrom::Start(pieces * PIECE_BYTES as u64)).map_err(PourError::Source)?;
        }
        loop {
            let read = fill(&mut file, rooms[0]).map_err(PourError::Source)?;
            self.write(&rooms[0][..read])?;
            if read < WRITE_BYTES {
                return Ok(());
            }
        }
    }

    /// Ends the Blob; gives its name and size.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn finish(self, durability: Durability) -> Result<(Digest, u64), StoreError> {
        match self.staging {
            Some(staging) => {
                let stored = staging.finish(durability)?;
                if stored.new {
                    self.store.written(stored.digest, durability, true);
                }
                Ok((stored.digest, stored.size))
            }
            None => {
                let digest = Digest::of(&self.head);
                self.store.keep_small(&digest, &self.head, durability)?;
                Ok((digest, self.head.len() as u64))
            }
        }
    }
}

/// Room for a stretch.
fn stretch(lent: &mut Lent) -> &mut [u8] {
    if lent.len() < WRITE_BYTES {
        lent.resize(WRITE_BYTES, 0);
    }
    &mut lent[..WRITE_BYTES]
}

/// Reads until there is no room or no more; gives how much came.
fn fill(from: &mut impl io::Read, room: &mut [u8]) -> io::Result<usize> {
    let mut read = 0;
    while read < room.len() {
        match from.read(&mut room[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(read)
}

/// Why not all of something was written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PourError {
    /// It cannot be read.
    #[error(transparent)]
    Source(io::Error),
    /// It cannot be stored.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl From<ContentError> for PourError {
    fn from(error: ContentError) -> Self {
        Self::Store(error.into())
    }
}

impl From<LaneError> for PourError {
    fn from(error: LaneError) -> Self {
        match error {
            LaneError::Source(error) => Self::Source(error),
            LaneError::Content(error) => error.into(),
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
    Large {
        /// Where it goes.
        store: Store,
        /// What came of it.
        incoming: Incoming<disk::DiskDraft>,
    },
}

impl Store {
    /// Starts to take a Blob whose pieces come from elsewhere, in any order.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn receive(&self, pieces: Pieces) -> Result<Receiving, StoreError> {
        self.known.room.take(0)?;
        if pieces.size() <= MAX_INLINE_BYTES as u64 {
            return Ok(Receiving::Small { store: self.clone(), pieces, bytes: None });
        }
        Ok(Receiving::Large { store: self.clone(), incoming: self.content.begin_known(pieces)? })
    }
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
            Self::Large { store, incoming } => {
                store.stir();
                store.known.room.take(packed.len() as u64)?;
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
                store.keep_small(pieces.digest(), &bytes.ok_or(missing)?, Durability::Fast)?;
            }
            Self::Large { store, incoming } => {
                let stored = incoming.finish(Durability::Fast)?;
                if stored.new {
                    store.written(stored.digest, Durability::Fast, false);
                }
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
