// SPDX-License-Identifier: MIT OR Apache-2.0
//! Buffers for pieces that are read, used again and again: to have a new one of 1 MiB zeroed and mapped for each costs a
//! tenth of the time that reading takes.

use std::mem;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;

use super::MAX_AHEAD;

/// Those that nobody uses; at most [`MAX_AHEAD`].
#[derive(Default)]
pub(super) struct Buffers(Mutex<Vec<Vec<u8>>>);

/// One that somebody uses. It comes back when the last part of it is dropped.
pub(super) struct Lent {
    bytes: Vec<u8>,
    to: Arc<Buffers>,
}

impl Buffers {
    /// One, with whatever was in it.
    pub(super) fn lend(self: &Arc<Self>) -> Lent {
        let bytes = self.0.lock().unwrap_or_else(PoisonError::into_inner).pop().unwrap_or_default();
        Lent { bytes, to: Arc::clone(self) }
    }
}

impl Lent {
    /// What is to be written over.
    pub(super) fn bytes(&mut self) -> &mut Vec<u8> {
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
        let mut lent = buffers.lend();
        lent.bytes().extend_from_slice(b"piece");
        let whole = Bytes::from(lent);
        let part = whole.slice(1..3);
        drop(whole);
        assert_eq!((&part[..], idle()), (&b"ie"[..], 0));
        drop(part);
        assert_eq!((idle(), buffers.lend().as_ref().len()), (1, 5));
        let many: Vec<_> = (0..MAX_AHEAD + 5).map(|_| buffers.lend()).collect();
        drop(many);
        assert_eq!(idle(), MAX_AHEAD);
    }
}
