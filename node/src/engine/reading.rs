// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Blob on its way to whoever reads it: some pieces ahead, each unpacked and checked by one of as many threads as can
//! run at once.

use std::collections::VecDeque;
use std::ops::Range;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker, ready};

use bytes::Bytes;
use potluck_protocol::control::MAX_DATA_BYTES;
use potluck_protocol::piece::PIECE_BYTES;
use tokio::sync::OwnedSemaphorePermit;

use crate::cache::CacheError;
use crate::observe::span;
use crate::store::{Blob, Store};

/// Most pieces of a Blob that are ahead of whoever reads it; see also [`crate::store::MAX_AHEAD`].
const READ_AHEAD: usize = 4;

type Read = Result<Bytes, CacheError>;

/// Stretches of a Blob as they are read. Dropped before the end, it stops reading.
pub(super) struct Reading {
    work: Arc<Work>,
    /// What is left of the piece that was taken last.
    rest: Bytes,
}

/// What those who read the pieces share with the one who takes them.
struct Work {
    store: Store,
    blob: Blob,
    /// Which bytes are wanted.
    range: Range<u64>,
    ahead: Mutex<Ahead>,
}

#[derive(Default)]
struct Ahead {
    /// The piece that nobody reads yet.
    next: u64,
    /// Those before it that were not taken yet, in order.
    pieces: VecDeque<Slot>,
    /// How many threads are reading.
    readers: usize,
    /// Nobody wants any more.
    over: bool,
    waker: Option<Waker>,
}

/// A piece that is being read, or was.
struct Slot {
    index: u64,
    read: Option<Read>,
    /// Leave to be ahead.
    _leave: Option<OwnedSemaphorePermit>,
}

impl Reading {
    /// Reads the first piece at once: to have another thread do that would take longer, for most Blobs. Blocks.
    pub(super) fn begin(store: Store, blob: Blob, range: Range<u64>) -> Self {
        let end = range.end.min(blob.pieces().size());
        let range = range.start.min(end)..end;
        let next = range.start / PIECE_BYTES as u64;
        let work = Work { store, blob, range, ahead: Mutex::new(Ahead { next, ..Ahead::default() }) };
        let first = work.next(&mut work.ahead());
        if let Some(index) = first {
            let read = work.read(index);
            work.ahead().put(index, read);
        }
        Self { work: Arc::new(work), rest: Bytes::new() }
    }
}

impl Drop for Reading {
    fn drop(&mut self) {
        self.work.ahead().over = true;
    }
}

impl Reading {
    /// The next stretch, none at the end or after an error.
    pub(super) fn poll(&mut self, context: &Context<'_>) -> Poll<Option<Read>> {
        while self.rest.is_empty() {
            match ready!(self.work.poll_piece(context)) {
                Some(Ok(piece)) => self.rest = piece,
                end => return Poll::Ready(end),
            }
        }
        Poll::Ready(Some(Ok(self.rest.split_to(self.rest.len().min(MAX_DATA_BYTES)))))
    }
}

impl Ahead {
    /// Notes what became of a piece.
    fn put(&mut self, index: u64, read: Read) {
        let first = self.pieces.front().map_or(0, |slot| slot.index);
        let slot = usize::try_from(index - first).ok().and_then(|at| self.pieces.get_mut(at));
        slot.expect("a piece that is being read has a place").read = Some(read);
        if index == first
            && let Some(waker) = self.waker.take()
        {
            waker.wake();
        }
    }
}

impl Work {
    fn ahead(&self) -> MutexGuard<'_, Ahead> {
        self.ahead.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes the next piece to be read, if somebody wants it and it is not too far ahead.
    fn next(&self, ahead: &mut Ahead) -> Option<u64> {
        let index = ahead.next;
        let wanted = self.blob.pieces().range(index).is_some_and(|place| place.start < self.range.end);
        if ahead.over || !wanted || ahead.pieces.len() >= READ_AHEAD {
            return None;
        }
        // One is always allowed, or nobody would get on.
        let leave = if ahead.pieces.is_empty() { None } else { Some(self.store.ahead()?) };
        ahead.pieces.push_back(Slot { index, read: None, _leave: leave });
        ahead.next += 1;
        Some(index)
    }

    /// What is wanted of a piece.
    fn read(&self, index: u64) -> Read {
        let read = catch_unwind(AssertUnwindSafe(|| self.store.lend_piece(&self.blob, index)));
        // Whoever reads sees that the Blob is not whole.
        let piece =
            read.map_err(|_| CacheError::Store("reading a blob came to an unexpected end".to_owned()))??;
        let start = index * PIECE_BYTES as u64;
        let within =
            |at: u64| usize::try_from(at.saturating_sub(start)).unwrap_or(usize::MAX).min(piece.len());
        Ok(piece.slice(within(self.range.start)..within(self.range.end)))
    }

    /// Reads pieces as long as they are taken as fast: somebody who reads slowly must not keep a thread.
    fn run(&self, mut index: u64) {
        loop {
            let read = self.read(index);
            let mut ahead = self.ahead();
            ahead.put(index, read);
            match self.next(&mut ahead) {
                Some(next) => index = next,
                None => {
                    ahead.readers -= 1;
                    return;
                }
            }
        }
    }

    /// The next piece, none after the last one or an error.
    fn poll_piece(self: &Arc<Self>, context: &Context<'_>) -> Poll<Option<Read>> {
        let mut ahead = self.ahead();
        if ahead.over {
            return Poll::Ready(None);
        }
        let read = ahead.pieces.front_mut().and_then(|slot| slot.read.take());
        if let Some(read) = &read {
            ahead.pieces.pop_front();
            ahead.over |= read.is_err();
        }
        while ahead.readers < span::cores()
            && let Some(index) = self.next(&mut ahead)
        {
            ahead.readers += 1;
            let work = Arc::clone(self);
            span::blocking_task(move || work.run(index));
        }
        if read.is_some() {
            return Poll::Ready(read);
        }
        if ahead.pieces.is_empty() {
            return Poll::Ready(None);
        }
        ahead.waker = Some(context.waker().clone());
        Poll::Pending
    }
}

#[cfg(test)]
mod tests {
    use std::future::poll_fn;

    use super::*;
    use crate::content::Durability;
    use crate::store::MAX_AHEAD;

    const PIECES: usize = 9;

    fn bytes() -> Vec<u8> {
        (0..=250).cycle().take(PIECES * PIECE_BYTES).collect()
    }

    fn reading(store: &Store) -> Reading {
        let digest = store.keep(&bytes(), Durability::Fast).unwrap();
        Reading::begin(store.clone(), store.blob(&digest).unwrap().unwrap(), 0..u64::MAX)
    }

    async fn next(reading: &mut Reading) -> Option<Read> {
        poll_fn(|context| reading.poll(context)).await
    }

    /// All that comes, and the error at its end if there is one.
    async fn rest(reading: &mut Reading) -> (Vec<u8>, Option<CacheError>) {
        let mut all = Vec::new();
        while let Some(stretch) = next(reading).await {
            match stretch {
                Ok(stretch) => all.extend_from_slice(&stretch),
                Err(error) => return (all, Some(error)),
            }
        }
        (all, None)
    }

    /// Waits for those who read, which are threads of their own.
    fn settle(work: &Work) {
        while work.ahead().readers > 0 {
            std::thread::yield_now();
        }
    }

    #[tokio::test]
    async fn who_reads_slowly_keeps_no_thread_and_finds_a_few_pieces_ahead() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap().0;
        let mut reading = reading(&store);
        assert!(next(&mut reading).await.unwrap().unwrap() == bytes()[..MAX_DATA_BYTES]);
        let work = Arc::clone(&reading.work);
        settle(&work);
        let ahead = work.ahead().pieces.iter().filter(|slot| slot.read.is_some()).count();
        assert_eq!(ahead, READ_AHEAD);
        let (rest, error) = rest(&mut reading).await;
        assert!(rest == bytes()[MAX_DATA_BYTES..] && error.is_none());
        assert!(next(&mut reading).await.is_none());
    }

    #[tokio::test]
    async fn who_may_not_be_ahead_gets_on_all_the_same() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap().0;
        let held: Vec<_> = std::iter::from_fn(|| store.ahead()).collect();
        assert_eq!(held.len(), MAX_AHEAD);
        let mut reading = reading(&store);
        let first = next(&mut reading).await.unwrap().unwrap();
        let work = Arc::clone(&reading.work);
        settle(&work);
        assert_eq!(work.ahead().pieces.len(), 1);
        let (rest, error) = rest(&mut reading).await;
        assert!([&first[..], &rest].concat() == bytes() && error.is_none());
    }

    #[tokio::test]
    async fn nothing_is_read_for_who_has_gone_and_nothing_after_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap().0;
        let gone = reading(&store);
        let work = Arc::clone(&gone.work);
        drop(gone);
        assert_eq!(work.next(&mut work.ahead()), None);
        let mut failing = reading(&store);
        let digest = *failing.work.blob.pieces().digest();
        let name = digest.to_string();
        let path = folder.path().join("store/blobs").join(&name[..2]).join(&name);
        std::fs::File::options().write(true).open(path).unwrap().set_len(5 * PIECE_BYTES as u64).unwrap();
        let (before, error) = rest(&mut failing).await;
        assert!(error.is_some() && before == bytes()[..before.len()]);
        assert!(next(&mut failing).await.is_none());
        assert!(!store.has(&digest).unwrap(), "it was put aside");
    }
}
