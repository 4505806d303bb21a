// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small Blobs that were written and may still be lost: they wait in memory and go along with the next change of the
//! index, whoever makes it. A publication of sixteen of them is one change then and not seventeen, and all that several
//! publish at a time is one.
//!
//! Nobody can tell the difference but by the time that it takes. Whoever reads looks here as well, and what is listed or
//! counted page by page is put into the index first. What a process that is killed takes along is what a transaction
//! that was not durable would have lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use potluck_protocol::digest::Digest;
use redb::{ReadableTable as _, WriteTransaction};

use super::rows;

/// Most bytes that wait; whoever writes more puts them into the index.
const MAX_BYTES: usize = 4 << 20;
/// Most Blobs that wait.
const MAX_BLOBS: usize = 1024;

/// The Blobs that wait.
#[derive(Default)]
pub(super) struct Pending {
    blobs: RwLock<Blobs>,
    /// How often some of them were committed.
    landings: AtomicU64,
}

#[derive(Default)]
struct Blobs {
    waiting: HashMap<Digest, Arc<[u8]>>,
    bytes: usize,
}

/// Those that go with a transaction.
pub(super) struct Landing(Vec<(Digest, Arc<[u8]>)>);

impl Pending {
    fn read(&self) -> RwLockReadGuard<'_, Blobs> {
        self.blobs.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Blobs> {
        self.blobs.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether none waits.
    pub(super) fn is_empty(&self) -> bool {
        self.read().waiting.is_empty()
    }

    /// Whether there are as many as may wait.
    pub(super) fn is_full(&self) -> bool {
        let blobs = self.read();
        blobs.waiting.len() >= MAX_BLOBS || blobs.bytes >= MAX_BYTES
    }

    /// The bytes of one.
    pub(super) fn get(&self, digest: &Digest) -> Option<Arc<[u8]>> {
        self.read().waiting.get(digest).cloned()
    }

    /// Takes one; gives whether it was not here.
    pub(super) fn put(&self, digest: &Digest, bytes: &[u8]) -> bool {
        let mut blobs = self.write();
        if blobs.waiting.contains_key(digest) {
            return false;
        }
        blobs.waiting.insert(*digest, bytes.into());
        blobs.bytes += bytes.len();
        true
    }

    /// Forgets some; gives how many bytes each had. One that is just being committed is in the index afterwards.
    pub(super) fn forget(&self, digests: &[Digest]) -> HashMap<Digest, usize> {
        let mut blobs = self.write();
        let mut gone = HashMap::new();
        for digest in digests {
            if let Some(bytes) = blobs.waiting.remove(digest) {
                blobs.bytes -= bytes.len();
                gone.insert(*digest, bytes.len());
            }
        }
        gone
    }

    /// How often some were committed. Who looked into the index before this number moved, and finds a Blob neither there
    /// nor here, has to look again.
    pub(super) fn landings(&self) -> u64 {
        self.landings.load(Ordering::Acquire)
    }

    /// Puts all of them into a transaction. They stay here until that is committed.
    pub(super) fn land(&self, change: &WriteTransaction) -> Result<Landing, redb::Error> {
        let all: Vec<_> =
            self.read().waiting.iter().map(|(name, bytes)| (*name, Arc::clone(bytes))).collect();
        if !all.is_empty() {
            let mut table = change.open_table(rows::SMALL)?;
            for (digest, bytes) in &all {
                // A Blob cannot change, and writing it again would cost its pages twice.
                let known = table.get(digest.as_bytes())?;
                let same = known.is_some_and(|row| row.value().get(1..) == Some(bytes));
                if !same {
                    let mut row = table.insert_reserve(digest.as_bytes(), 1 + bytes.len())?;
                    rows::put_plain(row.as_mut(), bytes);
                }
            }
        }
        Ok(Landing(all))
    }

    /// The transaction was committed.
    pub(super) fn landed(&self, Landing(all): Landing) {
        if all.is_empty() {
            return;
        }
        // Before they go: see `landings`.
        self.landings.fetch_add(1, Ordering::AcqRel);
        let mut blobs = self.write();
        for (digest, bytes) in all {
            // It may have been forgotten and written again since.
            if blobs.waiting.get(&digest).is_some_and(|now| Arc::ptr_eq(now, &bytes)) {
                blobs.waiting.remove(&digest);
                blobs.bytes -= bytes.len();
            }
        }
    }
}
