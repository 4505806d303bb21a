// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs in memory, in the same form as on disk: for simulations, tests, and nodes that keep nothing.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use potluck_protocol::digest::Digest;

use crate::content::pack::Packers;
use crate::content::{Arrival, Content, ContentError, Draft, Durability, Kept, Swept};

#[derive(Debug, Default)]
struct Shelves {
    blobs: BTreeMap<Digest, Arc<Vec<u8>>>,
    /// How much they took.
    quarantined: BTreeMap<Digest, u64>,
}

/// Blobs in memory; clones share them. There is no bound but memory, and no half-written Blob to sweep. Of a Blob in
/// quarantine only its size is kept.
#[derive(Debug, Clone, Default)]
pub struct MemoryContent {
    shelves: Arc<Mutex<Shelves>>,
    packers: Arc<Packers>,
}

fn lock(shelves: &Mutex<Shelves>) -> MutexGuard<'_, Shelves> {
    // No step between two changes can panic, so what a poisoned lock guards is whole.
    shelves.lock().unwrap_or_else(PoisonError::into_inner)
}

/// A Blob that is being written.
#[derive(Debug)]
pub struct MemoryDraft {
    bytes: Vec<u8>,
    shelves: Arc<Mutex<Shelves>>,
}

impl Draft for MemoryDraft {
    fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ContentError> {
        self.bytes.truncate(usize::try_from(offset).expect("an offset in memory"));
        self.bytes.extend_from_slice(bytes);
        Ok(())
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), ContentError> {
        read(&self.bytes, offset, bytes)
    }

    fn cut(&mut self, len: u64) -> Result<(), ContentError> {
        self.bytes.truncate(usize::try_from(len).unwrap_or(usize::MAX));
        Ok(())
    }

    fn keep(mut self, digest: &Digest, _: Durability) -> Result<Arrival, ContentError> {
        let mut shelves = lock(&self.shelves);
        if let Some(known) = shelves.blobs.get(digest) {
            return Ok(Arrival::Known { stored_bytes: known.len() as u64 });
        }
        self.bytes.shrink_to_fit();
        shelves.blobs.insert(*digest, Arc::new(self.bytes));
        Ok(Arrival::New)
    }

    fn replace(mut self, digest: &Digest) -> Result<bool, ContentError> {
        self.bytes.shrink_to_fit();
        let mut shelves = lock(&self.shelves);
        let Some(there) = shelves.blobs.get_mut(digest) else { return Ok(false) };
        *there = Arc::new(self.bytes);
        Ok(true)
    }
}

fn read(from: &[u8], offset: u64, bytes: &mut [u8]) -> Result<(), ContentError> {
    let start = usize::try_from(offset).unwrap_or(usize::MAX);
    let stretch = start.checked_add(bytes.len()).and_then(|end| from.get(start..end));
    let stretch = stretch
        .ok_or_else(|| ContentError::io("read", Path::new("memory"), io::ErrorKind::UnexpectedEof.into()))?;
    bytes.copy_from_slice(stretch);
    Ok(())
}

/// A Blob that is being read.
#[derive(Debug, Clone)]
pub struct MemoryKept(Arc<Vec<u8>>);

impl MemoryKept {
    #[cfg(test)]
    pub(crate) fn new(bytes: Vec<u8>) -> Self {
        Self(Arc::new(bytes))
    }
}

impl Kept for MemoryKept {
    fn stored_bytes(&self) -> u64 {
        self.0.len() as u64
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), ContentError> {
        read(&self.0, offset, bytes)
    }

    fn read_at_once(&self, offset: u64, bytes: &mut [u8]) -> bool {
        self.read_at(offset, bytes).is_ok()
    }
}

impl Content for MemoryContent {
    type Draft = MemoryDraft;
    type Kept = MemoryKept;

    fn draft(&self) -> Result<MemoryDraft, ContentError> {
        Ok(MemoryDraft { bytes: Vec::new(), shelves: Arc::clone(&self.shelves) })
    }

    fn kept(&self, digest: &Digest) -> Result<Option<MemoryKept>, ContentError> {
        Ok(lock(&self.shelves).blobs.get(digest).map(|bytes| MemoryKept(Arc::clone(bytes))))
    }

    fn packers(&self) -> &Arc<Packers> {
        &self.packers
    }

    fn has(&self, digest: &Digest) -> bool {
        lock(&self.shelves).blobs.contains_key(digest)
    }

    fn remove(&self, digest: &Digest) -> Result<bool, ContentError> {
        Ok(lock(&self.shelves).blobs.remove(digest).is_some())
    }

    fn quarantine(&self, digest: &Digest) -> Result<bool, ContentError> {
        let mut shelves = lock(&self.shelves);
        let Some(bytes) = shelves.blobs.remove(digest) else { return Ok(false) };
        shelves.quarantined.insert(*digest, bytes.len() as u64);
        Ok(true)
    }

    fn sweep(&self) -> Result<Swept, ContentError> {
        let quarantined = &lock(&self.shelves).quarantined;
        let (count, bytes) = (quarantined.len() as u64, quarantined.values().sum());
        Ok(Swept { quarantined: count, quarantined_bytes: bytes, ..Swept::default() })
    }

    fn used(&self) -> Option<u64> {
        Some(lock(&self.shelves).blobs.values().map(|bytes| bytes.len() as u64).sum())
    }

    fn count(&self) -> Result<(), ContentError> {
        Ok(())
    }

    fn sync(&self, digest: &Digest) -> Result<bool, ContentError> {
        Ok(self.has(digest))
    }

    fn sync_names(&self, _: &[Digest]) -> Result<(), ContentError> {
        Ok(())
    }

    fn each(&self, visit: &mut dyn FnMut(Digest, u64)) -> Result<(), ContentError> {
        // What `visit` does must not happen under the lock: it may well ask this content.
        let all: Vec<_> =
            lock(&self.shelves).blobs.iter().map(|(digest, bytes)| (*digest, bytes.len())).collect();
        all.into_iter().for_each(|(digest, bytes)| visit(digest, bytes as u64));
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::contract::contract;

    #[test]
    fn keeps_the_contract() {
        contract(MemoryContent::default);
    }
}
