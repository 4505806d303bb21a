// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs that somebody is about to claim: on the disk, and whole.

use std::{io, thread};

use potluck_protocol::digest::Digest;

use super::{Store, StoreError};
use crate::content::{Content as _, ContentError, Opened};

/// Files that are synced at a time: they share what the disk does.
const SYNC_THREADS: usize = 4;

impl Store {
    /// Returns once these Blobs survive a power cut. One that an earlier process left is looked at first, and put aside
    /// when it is damaged: nobody claims what a power cut has torn. What several want at a time is done once for all of them. Small
    /// Blobs become durable with whatever is next committed to the index durably; absent ones are passed over.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn sync(&self, digests: &[Digest]) -> Result<(), StoreError> {
        let synced = self.known.syncing.settle(digests, |batch| self.sync_all(batch));
        synced.map_err(|error| match error {
            ContentError::Damaged { digest, .. } => self.aside(&digest, error),
            error => error.into(),
        })
    }

    /// Whether a Blob is known to survive a power cut.
    #[cfg(test)]
    pub(crate) fn is_synced(&self, digest: &Digest) -> bool {
        self.known.syncing.knows(digest)
    }

    /// Whether a Blob is what its name says, as far as that is in doubt: one that was packed here was durable before it got
    /// its name, and of one that came from a peer the table at its end is looked at, which is written last.
    fn is_sound(&self, digest: &Digest) -> Result<(), ContentError> {
        if self.known.syncing.is_fresh(digest) {
            return Ok(());
        }
        let Some(doubtful) = self.content.open(digest)?.filter(Opened::waits) else { return Ok(()) };
        let mut piece = Vec::new();
        (0..doubtful.pieces().count()).try_for_each(|index| doubtful.read_into(index, &mut piece))
    }

    /// Gives those that it could not sync, or all when it could not their names.
    fn sync_all(&self, batch: &[Digest]) -> Vec<(Digest, ContentError)> {
        // Those that are absent are small, or were removed meanwhile.
        let here: Vec<_> = batch.iter().filter(|digest| self.content.has(digest)).copied().collect();
        if here.is_empty() {
            return Vec::new();
        }
        let one = |digest: &Digest| (*digest, self.is_sound(digest).and_then(|()| self.content.sync(digest)));
        let per_thread = here.len().div_ceil(SYNC_THREADS).max(2);
        let (first, rest) = here.split_at(here.len().min(per_thread));
        // Files and folders at once: the file system then brings all of them to the disk in one go.
        let (outcomes, names) = thread::scope(|scope| {
            let names = scope.spawn(|| self.content.sync_names(&here));
            let others = rest.chunks(per_thread);
            let others: Vec<_> =
                others.map(|some| scope.spawn(move || some.iter().map(one).collect::<Vec<_>>())).collect();
            let mut outcomes: Vec<_> = first.iter().map(one).collect();
            for other in others {
                outcomes.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
            }
            (outcomes, names.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
        });
        let failed = outcomes.into_iter().filter_map(|(digest, outcome)| Some((digest, outcome.err()?)));
        let mut failed: Vec<_> = failed.collect();
        if let Err(error) = names {
            let path = self.content.place();
            let again = |digest: &Digest| {
                let error = io::Error::other(error.to_string());
                (*digest, ContentError::io("sync names in", path, error))
            };
            failed.extend(here.iter().map(again));
        }
        failed
    }
}
