// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pieces of a Blob as they are read, unpacked and checked.

use bytes::Bytes;

use super::{Blob, Store, StoreError};
use crate::buffers;

impl Store {
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

    /// As [`Store::piece`], into a buffer that is used again and again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn piece_into(&self, blob: &Blob, index: u64, bytes: &mut Vec<u8>) -> Result<(), StoreError> {
        match blob {
            Blob::Small(pieces, small) => {
                pieces.check(index, small)?;
                bytes.clone_from(small);
                Ok(())
            }
            Blob::Large(opened) => {
                let read = opened.read_into(index, bytes);
                read.map_err(|error| self.aside(opened.pieces().digest(), error))
            }
        }
    }

    /// As [`Store::piece`], in a buffer that is used again once nobody holds a part of it any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn lend_piece(&self, blob: &Blob, index: u64) -> Result<Bytes, StoreError> {
        let mut lent = buffers::lend();
        self.piece_into(blob, index, &mut lent)?;
        Ok(lent.into())
    }

    /// The same, if it is stored as it is and the system has all of it in memory, so that nobody waits for a disk. What
    /// else is in the way, [`Store::lend_piece`] tells.
    pub fn lend_piece_at_once(&self, blob: &Blob, index: u64) -> Option<Bytes> {
        let Blob::Large(opened) = blob else { return None };
        let mut lent = buffers::lend();
        opened.read_at_once(index, &mut lent).then(|| lent.into())
    }
}
