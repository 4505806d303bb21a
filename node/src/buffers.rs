// SPDX-License-Identifier: MIT OR Apache-2.0
//! Buffers for pieces that are read, come or go, used again and again by all of the process: to have a new one of 1 MiB
//! zeroed and mapped for each costs a tenth of the time that reading takes.

use std::fmt;
use std::mem;
use std::ops::{Deref, DerefMut};
use std::sync::{Mutex, PoisonError};

use bytes::Bytes;

use potluck_protocol::piece::PIECE_BYTES;

/// Buffers that have room for less are not kept: new ones cost nothing.
const WORTH_KEEPING: usize = 64 * 1024;
/// Whoever reads a stream needs room for more than may come, to find its end.
const SPARE: usize = 64;
/// Nor are those that have room for more than this.
const MOST_KEPT: usize = 2 * PIECE_BYTES;

/// Most that are kept while nobody uses them.
const MOST_IDLE: usize = 32;

/// Those that nobody uses.
static IDLE: Buffers = Buffers(Mutex::new(Vec::new()));

struct Buffers(Mutex<Vec<Vec<u8>>>);

/// One that somebody uses. It comes back when the last part of it is dropped.
pub struct Lent {
    bytes: Vec<u8>,
    to: &'static Buffers,
}

/// A buffer that is used again and again, with whatever was in it.
pub fn lend() -> Lent {
    IDLE.lend()
}

/// The same, with `bytes` at least.
pub fn filled(bytes: usize) -> Lent {
    let mut lent = lend();
    lent.fill(bytes);
    lent
}

/// An empty one that has room for so many bytes, at most a piece, and a little more.
pub fn room(bytes: usize) -> Lent {
    IDLE.room(bytes)
}

impl Buffers {
    fn lend(&'static self) -> Lent {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        Lent { bytes, to: self }
    }

    fn room(&'static self, bytes: usize) -> Lent {
        if bytes > WORTH_KEEPING - SPARE {
            let mut lent = self.lend();
            lent.clear();
            lent.reserve(bytes + SPARE);
            return lent;
        }
        Lent { bytes: Vec::with_capacity(bytes + SPARE), to: self }
    }
}

impl Lent {
    /// Makes it as long as that at least, with zeros after what was in it.
    pub fn fill(&mut self, bytes: usize) {
        if self.bytes.len() < bytes {
            self.bytes.resize(bytes, 0);
        }
    }

    /// Its first bytes, to be kept and shared. It keeps its length, so that nothing has to be cleared the next time.
    pub fn first(self, bytes: usize) -> Bytes {
        Bytes::from(self).split_to(bytes)
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
        if idle.len() < MOST_IDLE {
            idle.push(mem::take(&mut self.bytes));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_buffer_is_used_again_when_all_parts_of_it_are_gone() {
        let buffers: &'static Buffers = Box::leak(Box::new(Buffers(Mutex::default())));
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
        let mut longer = buffers.lend();
        longer.fill(9);
        assert_eq!(&longer.first(7)[..], b"piece\0\0");
        assert_eq!(buffers.lend().len(), 9);
        let many: Vec<_> = (0..MOST_IDLE + 5).map(|_| large()).collect();
        drop(many);
        assert_eq!(idle(), MOST_IDLE);
    }

    #[test]
    fn what_is_small_or_has_grown_too_large_is_not_kept() {
        let buffers: &'static Buffers = Box::leak(Box::new(Buffers(Mutex::default())));
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
