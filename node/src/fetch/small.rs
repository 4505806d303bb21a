// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small Blobs that are to be fetched from the same peer go together: while some are on their way, the next ones wait
//! here, and then all of them that fit go with one question.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Mutex, MutexGuard, PoisonError};

use potluck_protocol::peer::MAX_INLINE;

use super::event::Need;
use crate::peer::Peer;

/// Questions under way to one peer: one is answered while the next is on its way.
const AT_A_TIME: usize = 2;
/// Most bytes that one question asks for, but for a single Blob.
const MAX_BYTES: u64 = 1 << 20;

/// The Blobs of one question, with the numbers of their transfers.
pub(super) type Batch = Vec<(u64, Need)>;

#[derive(Default)]
struct Line {
    waiting: VecDeque<(u64, Need)>,
    asking: usize,
}

/// All that waits.
#[derive(Default)]
pub(super) struct Lines(Mutex<BTreeMap<Peer, Line>>);

impl Lines {
    fn lock(&self) -> MutexGuard<'_, BTreeMap<Peer, Line>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One more is to be fetched; gives whether one more is to go and ask, until [`Self::next`] gives nothing.
    #[must_use]
    pub(super) fn add(&self, peer: &Peer, transfer: u64, need: Need) -> bool {
        let mut lines = self.lock();
        let line = lines.entry(peer.clone()).or_default();
        line.waiting.push_back((transfer, need));
        let more = line.asking < AT_A_TIME;
        line.asking += usize::from(more);
        more
    }

    /// What to ask for next; nothing when whoever asks is not needed any more.
    pub(super) fn next(&self, peer: &Peer) -> Option<Batch> {
        let mut lines = self.lock();
        let line = lines.get_mut(peer)?;
        let (mut batch, mut bytes) = (Vec::new(), 0);
        while let Some((_, need)) = line.waiting.front()
            && batch.len() < MAX_INLINE
            && (batch.is_empty() || bytes + need.size <= MAX_BYTES)
        {
            bytes += need.size;
            batch.extend(line.waiting.pop_front());
        }
        if batch.is_empty() {
            line.asking -= 1;
            if line.asking == 0 {
                lines.remove(peer);
            }
            return None;
        }
        Some(batch)
    }
}

#[cfg(test)]
mod tests {
    use potluck_protocol::digest::Digest;

    use super::*;

    fn need(number: u64, size: u64) -> Need {
        Need { digest: Digest::of(&number.to_le_bytes()), size }
    }

    #[test]
    fn what_waits_goes_together_and_nothing_is_asked_for_twice() {
        let (lines, ann) = (Lines::default(), Peer { network: "office".into(), id: "ann".into() });
        let started = (0..1000).filter(|n| lines.add(&ann, *n, need(*n, 100))).count();
        assert_eq!(started, AT_A_TIME, "the others wait");
        let batches: Vec<_> = std::iter::from_fn(|| lines.next(&ann)).collect();
        assert!(batches.iter().all(|batch| batch.len() <= MAX_INLINE));
        assert_eq!(batches.len(), 1000_usize.div_ceil(MAX_INLINE));
        let numbers: Vec<_> = batches.iter().flatten().map(|(number, _)| *number).collect();
        assert_eq!(numbers, (0..1000).collect::<Vec<_>>());
        assert_eq!(lines.next(&ann), None);
        assert!(lines.lock().is_empty(), "nothing stays behind");
        assert!(lines.add(&ann, 1, need(1, 1)));
    }

    #[test]
    fn a_question_asks_for_no_more_bytes_than_it_may() {
        let (lines, ann) = (Lines::default(), Peer { network: "office".into(), id: "ann".into() });
        for number in 0..40 {
            let _ = lines.add(&ann, number, need(number, 64 * 1024));
        }
        assert_eq!(lines.next(&ann).unwrap().len(), 16);
        assert!(lines.add(&ann, 50, need(50, 2 * MAX_BYTES)) || lines.next(&ann).is_some());
    }
}
