// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the driver has under way: the Blobs that come piece by piece, and how to stop transfers.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use potluck_protocol::action::Project;
use potluck_protocol::piece::{Pieces, piece_count};
use tokio::sync::oneshot;

use super::bits::Bits;
use super::event::{Need, Opened};
use crate::store::{Arriving, Store, StoreError};

/// A Blob of several pieces that somebody here needs.
#[derive(Debug)]
pub struct Download {
    projects: BTreeSet<Project>,
    /// What came; nothing as long as nobody has given the list of its pieces.
    arriving: Mutex<Option<Arriving>>,
}

impl Download {
    fn lock(&self) -> MutexGuard<'_, Option<Arriving>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What came, once the list of its pieces is known.
    pub fn arriving(&self) -> Option<Arriving> {
        self.lock().clone()
    }

    /// Here is the list; whoever was first has given it. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn listed(&self, store: &Store, pieces: Pieces) -> Result<Arriving, StoreError> {
        let mut arriving = self.lock();
        if let Some(arriving) = &*arriving {
            return Ok(arriving.clone());
        }
        let new = store.arrive(pieces)?;
        new.is_for(&self.projects);
        Ok(arriving.insert(new).clone())
    }

    /// Looks at what is here. Blocks.
    fn open(&self, store: &Store, need: &Need) -> Result<Opened, StoreError> {
        if store.has(&need.digest)? {
            return Ok(Opened::Here);
        }
        let Some(arriving) = store.take_up(&need.digest, need.size)? else {
            return Ok(Opened::Part(Bits::none(piece_count(need.size))));
        };
        arriving.is_for(&self.projects);
        if arriving.is_complete() {
            arriving.finish()?;
            return Ok(Opened::Here);
        }
        // Somebody may have been about to end it when it was looked for.
        if store.has(&need.digest)? {
            return Ok(Opened::Here);
        }
        let bits = arriving.bits();
        *self.lock() = Some(arriving);
        Ok(Opened::Part(bits))
    }
}

/// All of it.
#[derive(Default)]
pub(super) struct Downloads {
    open: Mutex<BTreeMap<Need, Arc<Download>>>,
    stops: Mutex<BTreeMap<u64, oneshot::Sender<()>>>,
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Downloads {
    /// Begins a Blob.
    pub(super) fn begin(&self, need: &Need, projects: BTreeSet<Project>) -> Arc<Download> {
        let new = Arc::new(Download { projects, arriving: Mutex::default() });
        lock(&self.open).insert(*need, Arc::clone(&new));
        new
    }

    /// Looks at what is here of it; nothing when it cannot be kept here. Blocks.
    pub(super) fn look(download: &Download, store: &Store, need: &Need) -> Option<Opened> {
        download
            .open(store, need)
            .map_err(|error| tracing::warn!(blob = %need.digest, %error, "it cannot be kept"))
            .ok()
    }

    /// A Blob that was begun.
    pub(super) fn of(&self, need: &Need) -> Option<Arc<Download>> {
        lock(&self.open).get(need).cloned()
    }

    /// Nobody needs it any more.
    pub(super) fn close(&self, need: &Need) {
        // Outside of the lock: what came is closed with it.
        let closed = lock(&self.open).remove(need);
        drop(closed);
    }

    /// A transfer begins; what it gets ends when it is to stop.
    pub(super) fn started(&self, transfer: u64) -> oneshot::Receiver<()> {
        let (stop, stopped) = oneshot::channel();
        lock(&self.stops).insert(transfer, stop);
        stopped
    }

    /// It is to stop, or has ended.
    pub(super) fn stop(&self, transfer: u64) {
        lock(&self.stops).remove(&transfer);
    }
}

#[cfg(test)]
mod tests {
    use potluck_protocol::digest::Digest;
    use potluck_protocol::piece::PIECE_BYTES;

    use super::*;

    /// Whoever claims a size says what is looked for, and one who is wrong must not be in the way of one who is right.
    #[test]
    fn a_blob_of_another_size_is_another_download() {
        let downloads = Downloads::default();
        let digest = Digest::of(b"large");
        let [right, wrong] = [3, 2].map(|pieces| Need { digest, size: pieces * PIECE_BYTES as u64 });
        let of_right = downloads.begin(&right, BTreeSet::new());
        let of_wrong = downloads.begin(&wrong, BTreeSet::new());
        assert!(Arc::ptr_eq(&downloads.of(&right).unwrap(), &of_right));
        assert!(Arc::ptr_eq(&downloads.of(&wrong).unwrap(), &of_wrong));
        downloads.close(&wrong);
        assert!(downloads.of(&wrong).is_none());
        assert!(Arc::ptr_eq(&downloads.of(&right).unwrap(), &of_right));
    }
}
