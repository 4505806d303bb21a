// SPDX-License-Identifier: MIT OR Apache-2.0
//! A Blob of several pieces on its way here: whoever brings pieces of it and whoever wants some that are here already
//! share it. What came stays on the disk when the last of them goes, and is taken up by the next one who begins.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use bytes::Bytes;
use potluck_protocol::action::Project;
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Packing;
use potluck_protocol::piece::Pieces;

use super::{Store, StoreError};
use crate::content::{Content as _, Durability, Incoming, disk, staging};
use crate::fetch::bits::Bits;

/// A Blob of which pieces come, from anybody and in any order. Clones share it.
#[derive(Clone)]
pub struct Arriving(Arc<Inner>);

pub(super) struct Inner {
    store: Store,
    pieces: Pieces,
    /// The Projects for which it comes.
    projects: Mutex<BTreeSet<Project>>,
    /// Nothing once it is whole, or could not be kept.
    state: Mutex<Option<State>>,
}

struct State {
    incoming: Incoming<disk::DiskDraft>,
    bits: Bits,
}

impl Drop for Inner {
    fn drop(&mut self) {
        let mut all = self.store.known.arriving();
        // Another may have begun with the same name since.
        if all.get(self.pieces.digest()).is_some_and(|one| one.strong_count() == 0) {
            all.remove(self.pieces.digest());
        }
    }
}

impl super::Known {
    pub(super) fn arriving(&self) -> MutexGuard<'_, BTreeMap<Digest, Weak<Inner>>> {
        self.arriving.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Store {
    /// A Blob that is coming just now.
    pub fn arriving(&self, digest: &Digest) -> Option<Arriving> {
        let found = self.known.arriving().get(digest)?.upgrade();
        found.map(Arriving)
    }

    /// Takes up a Blob of which pieces are here, from an earlier run or by others who are bringing it; nothing when
    /// there are none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn take_up(&self, digest: &Digest, size: u64) -> Result<Option<Arriving>, StoreError> {
        if let Some(found) = self.arriving(digest) {
            return Ok(Some(found).filter(|found| found.pieces().size() == size));
        }
        let Some(incoming) = self.content.take_up(digest, size)? else { return Ok(None) };
        Ok(Some(self.share(incoming)))
    }

    /// Begins to take a Blob, or joins those who do.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn arrive(&self, pieces: Pieces) -> Result<Arriving, StoreError> {
        if let Some(found) = self.arriving(pieces.digest()).filter(|found| *found.pieces() == pieces) {
            return Ok(found);
        }
        self.known.room.take(0)?;
        Ok(self.share(self.content.begin_part(pieces)?))
    }

    /// Has others find it; whoever was a moment faster stays.
    fn share(&self, incoming: Incoming<disk::DiskDraft>) -> Arriving {
        let pieces = incoming.pieces().clone();
        let mut bits = Bits::none(pieces.count());
        for index in (0..pieces.count()).filter(|index| incoming.has(*index)) {
            bits.set(index);
        }
        let state = Mutex::new(Some(State { incoming, bits }));
        let projects = Mutex::default();
        let new = Arc::new(Inner { store: self.clone(), pieces, projects, state });
        let mut all = self.known.arriving();
        let known = all.get(new.pieces.digest()).and_then(Weak::upgrade);
        if let Some(known) = known.filter(|known| known.pieces == new.pieces) {
            // Ending the other one looks at the list as well.
            drop(all);
            return Arriving(known);
        }
        all.insert(*new.pieces.digest(), Arc::downgrade(&new));
        drop(all);
        Arriving(new)
    }
}

impl std::fmt::Debug for Arriving {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_tuple("Arriving").field(self.pieces().digest()).finish()
    }
}

impl Arriving {
    fn state(&self) -> MutexGuard<'_, Option<State>> {
        // A piece that was not noted is missing, whatever was written of it.
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The Blob's name, size and chaining values.
    pub fn pieces(&self) -> &Pieces {
        &self.0.pieces
    }

    /// Notes for which Projects it comes: where one of them is shared, what came may be passed on.
    pub fn is_for(&self, projects: &BTreeSet<Project>) {
        self.projects().extend(projects.iter().cloned());
    }

    /// Whether it comes for a Project of which `shared` says that it is.
    pub fn belongs(&self, shared: impl Fn(&str) -> bool) -> bool {
        self.projects().iter().any(|project| shared(project.as_str()))
    }

    fn projects(&self) -> MutexGuard<'_, BTreeSet<Project>> {
        self.0.projects.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Which pieces are here; none any more once it is whole, and in the store as any other Blob.
    pub fn bits(&self) -> Bits {
        let none = || Bits::none(self.pieces().count());
        self.state().as_ref().map_or_else(none, |state| state.bits.clone())
    }

    /// A piece that is here, as it came; nothing when it is not. Not checked again.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn packed(&self, index: u64) -> Result<Option<(Packing, Bytes)>, StoreError> {
        match &*self.state() {
            Some(state) => Ok(state.incoming.packed(index)?),
            None => Ok(None),
        }
    }

    /// Takes a piece, if it is the right one; gives whether it was the last one that was missing. Pieces of several
    /// peers are checked at a time.
    ///
    /// # Errors
    /// [`StoreError`]; see [`StoreError::is_refusal`].
    pub fn put(&self, index: u64, packing: Packing, packed: &[u8]) -> Result<bool, StoreError> {
        let Inner { store, pieces, .. } = &*self.0;
        store.stir();
        let packers = match &*self.state() {
            Some(state) if !state.bits.has(index) => Arc::clone(state.incoming.packers()),
            _ => return Ok(false),
        };
        staging::check(&packers, pieces, (index, packing, packed))?;
        store.known.room.take(packed.len() as u64)?;
        let mut state = self.state();
        let Some(state) = &mut *state else { return Ok(false) };
        let new = state.incoming.take(index, packing, packed)?;
        state.bits.set(index);
        Ok(new && state.incoming.missing() == 0)
    }

    /// Whether no piece is missing, but nobody has ended it yet.
    pub fn is_complete(&self) -> bool {
        self.state().as_ref().is_some_and(|state| state.incoming.missing() == 0)
    }

    /// Ends the Blob once all its pieces came. What can be fetched again need not be durable at once.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn finish(&self) -> Result<(), StoreError> {
        let store = &self.0.store;
        // Those who look for it meanwhile wait here, and find it in the store then.
        let mut state = self.state();
        let Some(ended) = state.take() else { return Ok(()) };
        let stored = ended.incoming.finish(Durability::Fast)?;
        if stored.new {
            store.written(stored.digest, Durability::Fast, false);
        }
        for project in self.projects().iter() {
            store.index().belong(&[stored.digest], project, Durability::Fast)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use potluck_protocol::piece::{PIECE_BYTES, PieceHasher};

    use super::*;
    use crate::content::contract::random;

    fn blob(count: usize) -> (Vec<u8>, Pieces) {
        let data = random(count * PIECE_BYTES + 9);
        let mut hasher = PieceHasher::new();
        hasher.update(&data);
        (data, hasher.finish().unwrap())
    }

    fn put(arriving: &Arriving, data: &[u8], index: usize) -> bool {
        let piece = data.chunks(PIECE_BYTES).nth(index).unwrap();
        arriving.put(index as u64, Packing::Raw, piece).unwrap()
    }

    #[test]
    fn what_came_is_taken_up_by_the_next_run_and_what_was_spoilt_is_not() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let (data, pieces) = blob(4);
        let digest = *pieces.digest();
        {
            let store = Store::open(&root).unwrap().0;
            assert!(store.take_up(&digest, pieces.size()).unwrap().is_none());
            let arriving = store.arrive(pieces.clone()).unwrap();
            assert!([3, 1, 0].map(|index| put(&arriving, &data, index)).iter().all(|last| !last));
            assert_eq!(store.arrive(pieces.clone()).unwrap().bits().ones(), 3, "who joins sees what came");
            assert_eq!(
                store.arriving(&digest).unwrap().packed(1).unwrap().unwrap().1,
                data[1 << 20..2 << 20]
            );
        }
        // Piece 1 was the second to come.
        let part = root.join(format!("staging/{digest}.part"));
        let mut bytes = std::fs::read(&part).unwrap();
        bytes[PIECE_BYTES + 5] ^= 1;
        std::fs::write(&part, bytes).unwrap();
        let store = Store::open(&root).unwrap().0;
        assert!(store.take_up(&digest, pieces.size() + 1).unwrap().is_none());
        let arriving = store.take_up(&digest, pieces.size()).unwrap().unwrap();
        let here: Vec<_> = (0..5).filter(|index| arriving.bits().has(*index)).collect();
        assert_eq!(here, [0, 3]);
        assert!([1, 2].map(|index| put(&arriving, &data, index)).iter().all(|last| !last));
        assert!(put(&arriving, &data, 4) && arriving.is_complete());
        arriving.finish().unwrap();
        assert_eq!(store.bytes(&digest, u64::MAX).unwrap().unwrap(), data);
        drop(arriving);
        assert!(store.arriving(&digest).is_none());
        assert_eq!(std::fs::read_dir(root.join("staging")).unwrap().count(), 0);
    }

    #[test]
    fn parts_are_bounded_and_one_without_its_notes_is_swept() {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("store");
        let store = Store::open(&root).unwrap().0;
        let staged = || std::fs::read_dir(root.join("staging")).unwrap().count();
        for number in 0..u8::try_from(disk::MAX_PARTS + 3).unwrap() {
            let mut data = random(2 * PIECE_BYTES);
            data[0] = number;
            let mut hasher = PieceHasher::new();
            hasher.update(&data);
            put(&store.arrive(hasher.finish().unwrap()).unwrap(), &data, 1);
        }
        // One more than stay may be there until the next one begins.
        assert!(staged() <= 2 * (disk::MAX_PARTS + 1));
        let list = std::fs::read_dir(root.join("staging")).unwrap().map(|entry| entry.unwrap().path());
        let lists: Vec<_> = list.filter(|path| path.extension().is_some_and(|end| end == "list")).collect();
        std::fs::remove_file(&lists[0]).unwrap();
        let old = std::time::SystemTime::UNIX_EPOCH;
        for path in [lists[1].clone(), lists[1].with_extension("part")] {
            std::fs::File::options().write(true).open(path).unwrap().set_modified(old).unwrap();
        }
        drop(store);
        let (_, swept) = Store::open(&root).unwrap();
        assert!(swept.removed >= 3, "{swept:?}");
        assert!(!lists[0].with_extension("part").exists() && !lists[1].exists());
    }
}
