// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading a stored Blob, piece by piece and in any order.

use std::io;
use std::sync::Arc;

use bytes::Bytes;
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Packing;
use potluck_protocol::piece::{PIECE_BYTES, Pieces};

use crate::buffers;
use crate::content::form::{Form, Place, read_ending};
use crate::content::pack::{Flaw, LINE_LEVEL, Packers, piece_bytes};
use crate::content::{ContentError, Damage, Kept};

/// Bytes that are read and hashed together: they are still in the processor's own cache when they are looked at again.
const STRETCH: usize = 128 * 1024;

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

    pub(crate) fn packers(&self) -> &Arc<Packers> {
        &self.packers
    }

    pub(crate) fn kept(&self) -> &K {
        &self.kept
    }

    /// Whether the file begins with all bytes of the Blob as they are: no piece is packed, and each is in its order.
    pub(crate) fn is_as_it_is(&self) -> bool {
        let starts = (0..).step_by(PIECE_BYTES);
        let raw = |(place, start): (&Place, u64)| place.form != Form::Zstd && place.offset == start;
        self.places.iter().zip(starts).all(raw)
    }

    /// Whether any piece waits to be packed.
    pub fn waits(&self) -> bool {
        self.places.iter().any(|place| place.form == Form::Waiting)
    }

    /// One piece as it goes to a peer, at most [`potluck_protocol::piece::PIECE_BYTES`] long: as it is stored, or packed
    /// on the way out when it waits for that, since a slow line gains from it. It is **not verified**: whoever receives
    /// it does that anyway, and a serving node need not unpack it.
    ///
    /// # Errors
    /// [`ContentError::NoSuchPiece`]; [`ContentError::Damaged`] when the file has become shorter; or what the backend
    /// says.
    pub fn packed(&self, index: u64) -> Result<(Packing, Bytes), ContentError> {
        let place = self.place(index)?;
        let len = place.len as usize;
        let mut lent = buffers::filled(len);
        self.read_at(index, place, &mut lent[..len])?;
        let bytes = lent.first(len);
        if place.form != Form::Waiting {
            return Ok((place.form.packing(), bytes));
        }
        let packed = self.packers.with(|packer| match packer.pack(&bytes, LINE_LEVEL) {
            (Packing::Zstd, packed) => Some(Bytes::copy_from_slice(packed)),
            (Packing::Raw, _) => None,
        });
        Ok(packed.map_or((Packing::Raw, bytes), |packed| (Packing::Zstd, packed)))
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
        self.place(index)?;
        bytes.resize(self.len(index), 0);
        self.read_to(index, bytes)
    }

    /// How many bytes a piece that has a place has.
    fn len(&self, index: u64) -> usize {
        piece_bytes(&self.pieces, index).expect("a piece that has a place")
    }

    /// As [`Opened::read_into`], if the piece is stored as it is and the system has all of it in memory: nobody waits for
    /// a disk. Gives whether it was read; if not, the buffer means nothing, and [`Opened::read_into`] tells why.
    pub fn read_at_once(&self, index: u64, bytes: &mut Vec<u8>) -> bool {
        if !self.place(index).is_ok_and(|place| place.form.packing() == Packing::Raw) {
            return false;
        }
        bytes.resize(self.len(index), 0);
        let read = |place: Place, stretch: &mut [u8]| Ok(self.kept.read_at_once(place.offset, stretch));
        self.read_raw(index, bytes, read).unwrap_or(false)
    }

    /// Reads a piece that is stored as it is, as far as `read` can, and checks it; gives whether all of it could be read.
    fn read_raw(
        &self,
        index: u64,
        bytes: &mut [u8],
        read: impl Fn(Place, &mut [u8]) -> Result<bool, ContentError>,
    ) -> Result<bool, ContentError> {
        let wrong = |error| self.damaged(index, Flaw::Piece(error));
        let (mut place, mut check) = (self.place(index)?, self.pieces.checker(index).map_err(wrong)?);
        for stretch in bytes.chunks_mut(STRETCH) {
            if !read(place, stretch)? {
                return Ok(false);
            }
            check.update(stretch).map_err(wrong)?;
            place.offset += stretch.len() as u64;
        }
        check.finish().map_err(wrong)?;
        Ok(true)
    }

    /// One piece, unpacked and verified, into `bytes`, which must have its length. After an error they mean nothing.
    pub(crate) fn read_to(&self, index: u64, bytes: &mut [u8]) -> Result<(), ContentError> {
        let place = self.place(index)?;
        if place.form.packing() == Packing::Raw {
            let read = |place, stretch: &mut [u8]| self.read_at(index, place, stretch).map(|()| true);
            return self.read_raw(index, bytes, read).map(drop);
        }
        self.packers.with(|packer| {
            let len = place.len as usize;
            self.read_at(index, place, packer.room(len))?;
            packer.unzstd(len, bytes).map_err(|flaw| self.damaged(index, flaw))
        })?;
        self.pieces.check(index, bytes).map_err(|error| self.damaged(index, Flaw::Piece(error)))
    }

    pub(crate) fn place(&self, index: u64) -> Result<Place, ContentError> {
        let place = usize::try_from(index).ok().and_then(|at| self.places.get(at)).copied();
        let digest = *self.pieces.digest();
        place.ok_or(ContentError::NoSuchPiece { digest, index, count: self.pieces.count() })
    }

    pub(crate) fn read_at(&self, index: u64, place: Place, bytes: &mut [u8]) -> Result<(), ContentError> {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::contract::{store, text};
    use crate::content::pack::REST_LEVEL;
    use crate::content::{Content as _, MemoryContent};

    #[test]
    fn at_once_is_read_what_need_not_be_unpacked() {
        let (content, data) = (MemoryContent::default(), text(PIECE_BYTES + 3 * STRETCH + 5));
        let digest = store(&content, &data).digest;
        let opened = content.open(&digest).unwrap().unwrap();
        let mut bytes = vec![7; 9];
        for (index, piece) in (0..).zip(data.chunks(PIECE_BYTES)) {
            assert!(opened.read_at_once(index, &mut bytes) && bytes == piece);
        }
        assert!(!opened.read_at_once(2, &mut bytes), "there are two");
        content.pack(&digest, REST_LEVEL, &mut || true).unwrap();
        let packed = content.open(&digest).unwrap().unwrap();
        assert!(!packed.read_at_once(0, &mut bytes));
        assert!(packed.read(0).unwrap() == data[..PIECE_BYTES]);
    }
}
