// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs on their way into the store: written from their beginning, or received piece by piece.

use std::io;

use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Packing;
use potluck_protocol::piece::{PIECE_BYTES, PieceError, Pieces};

use super::{Lent, Store, StoreError};
use crate::content::{Content as _, ContentError, Durability, Incoming, Staging, disk};
use crate::index::MAX_INLINE_BYTES;

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

    /// Takes all that `from` gives, which keeps nobody waiting. Of a large Blob one thread reads and hashes while another
    /// one writes.
    ///
    /// # Errors
    /// [`PourError`]; nothing more can be written then.
    ///
    /// # Panics
    /// When something was written before.
    pub fn pour(&mut self, mut from: impl io::Read) -> Result<(), PourError> {
        let mut first = self.store.lend();
        if !piece(&mut from, &mut first)? {
            return Ok(self.write(&first)?);
        }
        assert!(self.is_empty(), "nothing was written before");
        let staging = self.staging.insert(self.store.content.begin()?);
        let (store, mut first) = (&self.store, Some(first));
        let rooms = [store.lend(), store.lend(), store.lend()];
        staging.pour(rooms, &mut |room: &mut Lent| {
            store.stir();
            match first.take() {
                Some(first) => *room = first,
                None => drop(piece(&mut from, room)?),
            }
            Ok(store.known.room.take(room.len() as u64)?)
        })
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

/// Reads a piece, or what is left; gives whether it was a whole one. Vectors that grow as they are read into would be
/// copied on the way.
fn piece(from: &mut impl io::Read, into: &mut Vec<u8>) -> Result<bool, PourError> {
    into.resize(PIECE_BYTES, 0);
    let mut read = 0;
    while read < PIECE_BYTES {
        match from.read(&mut into[read..]) {
            Ok(0) => break,
            Ok(more) => read += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(PourError::Source(error)),
        }
    }
    into.truncate(read);
    Ok(read == PIECE_BYTES)
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
