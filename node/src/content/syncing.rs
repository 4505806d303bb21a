// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making Blobs durable that were written without waiting for the disk: once each, and for several who wait at once.

use std::collections::BTreeSet;
use std::mem;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use potluck_protocol::digest::Digest;

use crate::lately::Lately;

/// Most Blobs that are known to be durable, twice. One that was forgotten is synced once more, which costs little.
const MAX_KNOWN: usize = 32_768;

#[derive(Debug)]
struct State {
    /// Blobs known to be durable.
    known: Lately<Digest>,
    /// Blobs that this process has written and not synced yet.
    fresh: BTreeSet<Digest>,
    /// What those want who wait for the one that is at it.
    wanted: BTreeSet<Digest>,
    /// What is being synced and has not been written anew since.
    under_way: BTreeSet<Digest>,
    leading: bool,
}

impl Default for State {
    fn default() -> Self {
        let (fresh, wanted, under_way) = Default::default();
        Self { known: Lately::new(MAX_KNOWN), fresh, wanted, under_way, leading: false }
    }
}

impl State {
    fn knows(&self, digest: &Digest) -> bool {
        self.known.contains(digest)
    }

    fn know(&mut self, digest: Digest) {
        self.fresh.remove(&digest);
        self.known.insert(digest);
    }
}

/// What is durable, as far as this process knows. At its start it knows nothing: whatever is then asked for is synced.
#[derive(Debug, Default)]
pub(crate) struct Syncing {
    state: Mutex<State>,
    ended: Condvar,
}

/// One of those that wait syncs for all.
struct Lead<'a>(&'a Syncing);

impl Drop for Lead<'_> {
    fn drop(&mut self) {
        let mut state = self.0.state();
        state.leading = false;
        state.under_way.clear();
        drop(state);
        self.0.ended.notify_all();
    }
}

impl Syncing {
    fn state(&self) -> MutexGuard<'_, State> {
        // Whatever a panic leaves, a Blob is known only after it was synced.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// A Blob is durable.
    pub(crate) fn know(&self, digest: Digest) {
        self.state().know(digest);
    }

    #[cfg(test)]
    pub(crate) fn knows(&self, digest: &Digest) -> bool {
        self.state().knows(digest)
    }

    /// A Blob was written anew, or removed: what was done for it counts for nothing.
    pub(crate) fn forget(&self, digest: &Digest) {
        let mut state = self.state();
        state.known.remove(digest);
        state.under_way.remove(digest);
        state.fresh.remove(digest);
    }

    /// A Blob was written anew, by this process.
    pub(crate) fn written(&self, digest: Digest) {
        self.forget(&digest);
        let mut state = self.state();
        if state.fresh.len() < MAX_KNOWN {
            state.fresh.insert(digest);
        }
    }

    /// Whether this process has written a Blob. One that an earlier one has written and not synced may have been torn by
    /// a power cut in between.
    pub(crate) fn is_fresh(&self, digest: &Digest) -> bool {
        self.state().fresh.contains(digest)
    }

    /// Returns once these Blobs are durable. `sync` syncs several and gives those that it could not; it is called by one
    /// at a time, for everybody who waits.
    ///
    /// # Errors
    /// What `sync` gives for one of them.
    pub(crate) fn settle<E>(
        &self,
        digests: &[Digest],
        sync: impl FnOnce(&[Digest]) -> Vec<(Digest, E)>,
    ) -> Result<(), E> {
        let mut state = self.state();
        loop {
            let mut mine = digests.iter().filter(|digest| !state.knows(digest)).peekable();
            if mine.peek().is_none() {
                return Ok(());
            }
            let more: Vec<_> = mine.copied().collect();
            state.wanted.extend(more);
            if !state.leading {
                break;
            }
            state = self.ended.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.leading = true;
        let all = mem::take(&mut state.wanted);
        let batch: Vec<_> = all.iter().copied().collect();
        state.under_way = all;
        drop(state);
        let lead = Lead(self);
        let failed = sync(&batch);
        let mut state = self.state();
        for digest in batch {
            if state.under_way.contains(&digest) && failed.iter().all(|(other, _)| *other != digest) {
                state.know(digest);
            }
        }
        drop(state);
        drop(lead);
        // Whoever else waited finds it unknown, and asks for itself.
        failed
            .into_iter()
            .find(|(digest, _)| digests.contains(digest))
            .map_or(Ok(()), |(_, error)| Err(error))
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::sync::mpsc;
    use std::thread;

    use super::*;

    fn digest(n: usize) -> Digest {
        Digest::of(&n.to_le_bytes())
    }

    fn never(_: &[Digest]) -> Vec<(Digest, ())> {
        panic!("there is nothing to do")
    }

    #[test]
    fn each_is_synced_once_until_it_is_written_again() {
        let syncing = Syncing::default();
        let mut synced = Vec::new();
        let mut settle = |digests: &[Digest]| {
            syncing
                .settle::<()>(digests, |batch| {
                    synced.extend_from_slice(batch);
                    Vec::new()
                })
                .unwrap();
            mem::take(&mut synced)
        };
        assert_eq!(settle(&[]), []);
        assert_eq!(settle(&[digest(1), digest(1)]), [digest(1)]);
        assert_eq!(settle(&[digest(1), digest(2)]), [digest(2)]);
        syncing.forget(&digest(1));
        assert_eq!(settle(&[digest(1), digest(2)]), [digest(1)]);
        syncing.know(digest(3));
        syncing.settle(&[digest(3)], never).unwrap();
    }

    #[test]
    fn a_failure_is_told_and_tried_again() {
        let syncing = Syncing::default();
        let both = [digest(1), digest(2)];
        assert_eq!(syncing.settle(&both, |_| vec![(digest(2), "full")]), Err("full"));
        syncing.settle(&both[..1], never).unwrap();
        assert_eq!(
            syncing.settle(&both, |batch| batch.iter().map(|one| (*one, "still")).collect()),
            Err("still")
        );
        syncing
            .settle::<()>(&both, |batch| {
                assert_eq!(batch, [digest(2)]);
                Vec::new()
            })
            .unwrap();
    }

    #[test]
    fn what_is_written_again_while_it_is_synced_is_not_durable() {
        let syncing = Syncing::default();
        syncing
            .settle::<()>(&[digest(1)], |_| {
                syncing.forget(&digest(1));
                Vec::new()
            })
            .unwrap();
        let mut again = false;
        syncing
            .settle::<()>(&[digest(1)], |_| {
                again = true;
                Vec::new()
            })
            .unwrap();
        assert!(again);
    }

    #[test]
    fn those_who_wait_share_one_sync() {
        const MANY: usize = 16;
        let syncing = Syncing::default();
        let calls = AtomicUsize::new(0);
        let (go, gone) = mpsc::channel();
        thread::scope(|scope| {
            let (syncing, calls) = (&syncing, &calls);
            scope.spawn(move || {
                syncing
                    .settle::<()>(&[digest(0)], |_| {
                        gone.recv().unwrap();
                        Vec::new()
                    })
                    .unwrap();
            });
            while !syncing.state().leading {
                thread::yield_now();
            }
            for n in 1..=MANY {
                scope.spawn(move || {
                    let sync = |_: &[Digest]| {
                        calls.fetch_add(1, Ordering::SeqCst);
                        Vec::new()
                    };
                    syncing.settle::<()>(&[digest(n)], sync).unwrap();
                });
            }
            while syncing.state().wanted.len() < MANY {
                thread::yield_now();
            }
            go.send(()).unwrap();
        });
        assert_eq!(calls.load(Ordering::SeqCst), 1);
    }

    #[test]
    fn a_leader_that_dies_leaves_the_way_free() {
        let syncing = Syncing::default();
        let died = thread::scope(|scope| {
            scope.spawn(|| syncing.settle::<()>(&[digest(1)], |_| panic!("as a fault would"))).join()
        });
        assert!(died.is_err());
        syncing.settle::<()>(&[digest(1)], |_| Vec::new()).unwrap();
    }

    #[test]
    fn no_more_are_known_than_allowed() {
        let syncing = Syncing::default();
        let all: Vec<_> = (0..3 * MAX_KNOWN).map(digest).collect();
        syncing.settle::<()>(&all, |_| Vec::new()).unwrap();
        let state = syncing.state();
        assert!(state.known.len() <= 2 * MAX_KNOWN);
        assert!(state.wanted.is_empty() && state.under_way.is_empty());
    }
}
