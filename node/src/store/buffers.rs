// SPDX-License-Identifier: MIT OR Apache-2.0
//! Buffers for pieces that are read or come, used again and again: to have a new one of 1 MiB zeroed and mapped for each
//! costs a tenth of the time that reading takes.

use std::fmt;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use potluck_protocol::piece::PIECE_BYTES;

use super::{Blob, MAX_AHEAD, Store, StoreError};

/// Buffers that have room for less are not kept: new ones cost nothing.
const WORTH_KEEPING: usize = 64 * 1024;
/// Whoever reads a stream needs room for more than may come, to find its end.
const SPARE: usize = 64;
/// Nor are those that have room for more than this.
const MOST_KEPT: usize = 2 * PIECE_BYTES;

/// Those that nobody uses; at most [`MAX_AHEAD`].
#[derive(Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

/// One that somebody uses. It comes back when the last part of it is dropped.
pub struct Lent {
    bytes: Vec<u8>,
    to: Arc<Buffers>,
}

impl Store {
    /// As [`Store::piece`], in a buffer that is used again once nobody holds a part of it any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn lend_piece(&self, blob: &Blob, index: u64) -> Result<Bytes, StoreError> {
        let mut lent = self.lend();
        self.piece_into(blob, index, &mut lent)?;
        Ok(lent.into())
    }

    /// The same, if it is stored as it is and the system has all of it in memory, so that nobody waits for a disk. What
    /// else is in the way, [`Store::lend_piece`] tells.
    pub fn lend_piece_at_once(&self, blob: &Blob, index: u64) -> Option<Bytes> {
        let Blob::Large(opened) = blob else { return None };
        let mut lent = self.lend();
        opened.read_at_once(index, &mut lent).then(|| lent.into())
    }

    /// A buffer that is used again and again, with whatever was in it.
    pub(crate) fn lend(&self) -> Lent {
        self.known.buffers.lend()
    }

    /// An empty one that has room for so many bytes, at most a piece, and a little more.
    pub(crate) fn lend_room(&self, bytes: usize) -> Lent {
        self.known.buffers.room(bytes)
    }
}

impl Buffers {
    /// One, with whatever was in it.
    pub(super) fn lend(self: &Arc<Self>) -> Lent {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        Lent { bytes, to: Arc::clone(self) }
    }

    /// An empty one that has room for so many bytes and a little more.
    pub(super) fn room(self: &Arc<Self>, bytes: usize) -> Lent {
        if bytes > WORTH_KEEPING - SPARE {
            let mut lent = self.lend();
            lent.clear();
            lent.reserve(bytes + SPARE);
            return lent;
        }
        Lent { bytes: Vec::with_capacity(bytes + SPARE), to: Arc::clone(self) }
    }
}

impl fmt::Debug for Lent {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "Lent({} bytes)", self.bytes.len())
    }
}

/// What was in it is to be written over.
impl Deref for Lent {
    type Target = Vec<u8>;

    fn deref(&self) -> &Vec<u8> {
        &self.bytes
    }
}

impl DerefMut for Lent {
    fn deref_mut(&mut self) -> &mut Vec<u8> {
        &mut self.bytes
    }
}

impl AsRef<[u8]> for Lent {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}

impl From<Lent> for Bytes {
    fn from(lent: Lent) -> Self {
        Self::from_owner(lent)
    }
}

impl Drop for Lent {
    fn drop(&mut self) {
        if !(WORTH_KEEPING..=MOST_KEPT).contains(&self.bytes.capacity()) {
            return;
        }
        let mut idle = self.to.0.lock().unwrap_or_else(PoisonError::into_inner);
        if idle.len() < MAX_AHEAD {
            idle.push(mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_all_parts_of_it_are_gone() {
        let buffers = Arc::<Buffers>::default();
        let idle = || buffers.0.lock().unwrap().len();
        let large = || {
            let mut lent = buffers.room(PIECE_BYTES);
            lent.extend_from_slice(b"piece");
            assert!(lent.capacity() > PIECE_BYTES);
            lent
        };
        let whole = Bytes::from(large());
        let part = whole.slice(1..3);
        drop(whole);
        assert_eq!((&part[..], idle()), (&b"ie"[..], 0));
        drop(part);
        assert_eq!((idle(), buffers.lend().len()), (1, 5));
        let many: Vec<_> = (0..MAX_AHEAD + 5).map(|_| large()).collect();
        drop(many);
        assert_eq!(idle(), MAX_AHEAD);
    }

    #[test]
    fn what_is_small_or_has_grown_too_large_is_not_kept() {
        let buffers = Arc::<Buffers>::default();
        let idle = || buffers.0.lock().unwrap().len();
        let mut small = buffers.room(5);
        small.extend_from_slice(b"small");
        drop(small);
        let mut large = buffers.lend();
        large.reserve_exact(MOST_KEPT + 1);
        drop(large);
        assert_eq!(idle(), 0);
        buffers.lend().reserve_exact(MOST_KEPT);
        assert_eq!(idle(), 1);
    }
}
