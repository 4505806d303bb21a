// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small Blobs that were seen in the index of late: a set in memory. That one is here is asked again and again, of each
//! file of a folder that is put a second time and of each Blob that was just fetched, and the row that answers lies in a
//! page with the bytes of its neighbours, which would be read from the file for one bit.
//!
//! What the set names is in the index. A removal takes it out after the row has gone and before anybody is told that it
//! has; whoever saw the row before that and would name it afterwards is turned away by the number of removals.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

use potluck_protocol::digest::Digest;

use crate::lately::Lately;

/// Most Blobs of one generation: four megabytes each.
const MAX_KNOWN: usize = 1 << 16;

/// The set.
pub(super) struct Recent {
    known: Mutex<Lately<Digest>>,
    removals: AtomicU64,
}

impl Default for Recent {
    fn default() -> Self {
        Self { known: Mutex::new(Lately::new(MAX_KNOWN)), removals: AtomicU64::new(0) }
    }
}

impl Recent {
    fn lock(&self) -> MutexGuard<'_, Lately<Digest>> {
        // Each change is one step, so what a poisoned lock guards is whole.
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether this Blob is in the index for certain.
    pub(super) fn has(&self, digest: &Digest) -> bool {
        self.lock().contains(digest)
    }

    /// How often something was removed. To be asked before looking for what is noted afterwards.
    pub(super) fn removals(&self) -> u64 {
        self.removals.load(Ordering::Acquire)
    }

    /// These were seen in the index, after there had been so many removals.
    pub(super) fn note(&self, seen: impl IntoIterator<Item = Digest>, removals: u64) {
        let mut known = self.lock();
        if self.removals() == removals {
            seen.into_iter().for_each(|digest| known.insert(digest));
        }
    }

    /// These were removed, or may have been.
    pub(super) fn gone(&self, digests: &[Digest]) {
        let mut known = self.lock();
        self.removals.fetch_add(1, Ordering::AcqRel);
        digests.iter().for_each(|digest| known.remove(digest));
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;
    use std::thread;

    use super::super::Index;
    use super::super::tests::both;
    use super::*;
    use crate::content::Durability;

    #[test]
    fn what_was_seen_before_a_removal_is_not_noted_after_it() {
        let recent = Recent::default();
        let [one, two] = [Digest::of(b"one"), Digest::of(b"two")];
        let before = recent.removals();
        recent.note([one], before);
        assert!(recent.has(&one) && !recent.has(&two));
        recent.gone(&[one]);
        assert!(!recent.has(&one));
        recent.note([one, two], before);
        assert!(!recent.has(&one) && !recent.has(&two));
        recent.note([two], recent.removals());
        assert!(recent.has(&two));
    }

    #[test]
    fn what_was_removed_is_not_remembered_to_be_here() {
        let (_folder, indices) = both();
        let blob = |n: u32| (Digest::of(&n.to_be_bytes()), n.to_be_bytes());
        for index in indices {
            let [(one, bytes), (two, others)] = [blob(1), blob(2)];
            index.keep_small(&one, &bytes, Durability::Fast).unwrap();
            index.keep_small(&two, &others, Durability::Fast).unwrap();
            index.land().unwrap();
            assert!(index.recent.has(&one) && index.recent.has(&two));
            let before = index.view().unwrap();
            assert!(index.forget_small(&one).unwrap());
            assert_eq!(index.forget_blobs(&[two]).unwrap(), 4);
            assert!(!index.recent.has(&one) && !index.recent.has(&two));
            // Whoever looked before still sees it, and that counts for nothing afterwards.
            assert!(before.has_small(&one).unwrap() && before.has_small(&two).unwrap());
            let now = index.view().unwrap();
            assert!(!now.has_small(&one).unwrap() && !now.has_small(&two).unwrap());
            index.keep_small(&one, &bytes, Durability::Fast).unwrap();
            assert!(index.view().unwrap().has_small(&one).unwrap());
        }
    }

    #[test]
    fn while_some_write_and_some_remove_nobody_remembers_what_is_gone() {
        let index = Index::in_memory().unwrap();
        let blobs: Vec<_> = (0..8_u32).map(|n| (Digest::of(&n.to_be_bytes()), n.to_be_bytes())).collect();
        let done = AtomicBool::new(false);
        thread::scope(|scope| {
            scope.spawn(|| {
                while !done.load(Ordering::Acquire) {
                    let view = index.view().unwrap();
                    for (digest, _) in &blobs {
                        let _ = view.has_small(digest).unwrap();
                    }
                }
            });
            for _ in 0..300 {
                for (digest, bytes) in &blobs {
                    index.keep_small(digest, bytes, Durability::Fast).unwrap();
                }
                index.land().unwrap();
                let (some, others) = blobs.split_at(4);
                index.forget_blobs(&some.iter().map(|(digest, _)| *digest).collect::<Vec<_>>()).unwrap();
                assert!(some.iter().all(|(digest, _)| !index.view().unwrap().has_small(digest).unwrap()));
                assert!(others.iter().all(|(digest, _)| index.view().unwrap().has_small(digest).unwrap()));
            }
            done.store(true, Ordering::Release);
        });
    }
}
