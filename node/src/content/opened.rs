// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading a stored Blob, piece by piece and in any order.

use std::io;
use std::sync::Arc;

use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Packing;
use potluck_protocol::piece::Pieces;

use crate::content::form::{Place, read_ending};
use crate::content::pack::{Flaw, Packers, piece_bytes};
use crate::content::{ContentError, Damage, Kept};

/// A Blob whose table was checked against its name. It can be read from several threads at once, and to its end even
/// when it is removed meanwhile.
#[derive(Debug)]
pub struct Opened<K> {
    kept: K,
    pieces: Pieces,
    /// One a piece.
    places: Vec<Place>,
    packers: Arc<Packers>,
}

impl<K: Kept> Opened<K> {
    pub(crate) fn new(kept: K, digest: &Digest, packers: Arc<Packers>) -> Result<Self, ContentError> {
        let (pieces, places) = read_ending(&kept, digest)?;
        Ok(Self { kept, pieces, places, packers })
    }

    /// The Blob's name, size and chaining values.
    pub fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// Bytes that the Blob takes at rest, with its table.
    pub fn stored_bytes(&self) -> u64 {
        self.kept.stored_bytes()
    }

    /// One piece as it is stored, at most [`potluck_protocol::piece::PIECE_BYTES`] long. It is **not verified**:
    /// whoever receives it does that anyway, and a serving node need not unpack it.
    ///
    /// # Errors
    /// [`ContentError::NoSuchPiece`]; [`ContentError::Damaged`] when the file has become shorter; or what the backend
    /// says.
    pub fn packed(&self, index: u64) -> Result<(Packing, Vec<u8>), ContentError> {
        let place = self.place(index)?;
        let mut bytes = vec![0; place.len as usize];
        self.read_at(index, place, &mut bytes)?;
        Ok((place.packing, bytes))
    }

    /// One piece, unpacked and verified.
    ///
    /// # Errors
    /// As [`Opened::read_into`].
    pub fn read(&self, index: u64) -> Result<Vec<u8>, ContentError> {
        let mut bytes = Vec::new();
        self.read_into(index, &mut bytes)?;
        Ok(bytes)
    }

    /// One piece, unpacked and verified, into a buffer that is used again and again. After an error the buffer holds
    /// nothing.
    ///
    /// # Errors
    /// [`ContentError::Damaged`] with [`Damage::Piece`] when it is not what was written; [`ContentError::NoSuchPiece`];
    /// or what the backend says.
    pub fn read_into(&self, index: u64, bytes: &mut Vec<u8>) -> Result<(), ContentError> {
        let read = self.fill(index, bytes);
        if read.is_err() {
            bytes.clear();
        }
        read
    }

    fn fill(&self, index: u64, bytes: &mut Vec<u8>) -> Result<(), ContentError> {
        let place = self.place(index)?;
        bytes.resize(piece_bytes(&self.pieces, index).expect("a piece that has a place"), 0);
        if place.packing == Packing::Raw {
            self.read_at(index, place, bytes)?;
        } else {
            self.packers.with(|packer| {
                let len = place.len as usize;
                self.read_at(index, place, packer.room(len))?;
                packer.unzstd(len, bytes).map_err(|flaw| self.damaged(index, flaw))
            })?;
        }
        self.pieces.check(index, bytes).map_err(|error| self.damaged(index, Flaw::Piece(error)))
    }

    fn place(&self, index: u64) -> Result<Place, ContentError> {
        let place = usize::try_from(index).ok().and_then(|at| self.places.get(at)).copied();
        let digest = *self.pieces.digest();
        place.ok_or(ContentError::NoSuchPiece { digest, index, count: self.pieces.count() })
    }

    fn read_at(&self, index: u64, place: Place, bytes: &mut [u8]) -> Result<(), ContentError> {
        self.kept.read_at(place.offset, bytes).map_err(|error| match error {
            // The place was within the file when it was opened.
            ContentError::Io { source, .. } if source.kind() == io::ErrorKind::UnexpectedEof => {
                self.damaged(index, Flaw::Length { packed: 0, size: bytes.len() })
            }
            error => error,
        })
    }

    fn damaged(&self, index: u64, flaw: Flaw) -> ContentError {
        let source = Damage::Piece { index, flaw };
        ContentError::Damaged { digest: *self.pieces.digest(), source }
    }
}
