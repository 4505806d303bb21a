// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was written and may still be lost waits in memory and goes along with the next change of the index, whoever
//! makes it: small Blobs, Entries, which of them a Catalog has yet to list, and to which Projects Blobs belong. A publication of sixteen Blobs is one
//! change then and not seventeen, all that several publish at a time is one, and what a peer told is answered before
//! there is any.
//!
//! Nobody can tell the difference but by the time that it takes. Whoever reads looks here as well, and what is listed or
//! counted page by page is put into the index first. What a process that is killed takes along is what a transaction
//! that was not durable would have lost.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};

use bytes::Bytes;
use potluck_keys::pair::Signer;
use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::digest::Digest;
use redb::WriteTransaction;

use super::recent::Recent;
use super::rows;
use super::slab::Smalls;

/// Most bytes that wait; whoever writes more puts them into the index.
const MAX_BYTES: usize = 4 * MUCH_BYTES;
/// Most rows that wait.
pub(super) const MAX_ROWS: usize = 16 * MUCH_ROWS;
/// So many bytes are worth a change that nobody waits for: there is room for more while it is made.
const MUCH_BYTES: usize = 4 << 20;
/// So many rows are.
const MUCH_ROWS: usize = 1024;

/// What waits.
#[derive(Default)]
pub(super) struct Pending {
    waiting: RwLock<Waiting>,
    /// Who is told which Blobs are in the index now.
    recent: Arc<Recent>,
    /// How often some of it was committed.
    landings: AtomicU64,
}

#[derive(Default)]
struct Waiting {
    blobs: HashMap<Digest, Came>,
    claims: HashMap<ActionId, Vec<Arc<Claimed>>>,
    /// The Projects of Blobs. Who is told from his equal by where he lies.
    belongs: HashMap<Digest, Vec<Arc<str>>>,
    /// Own Entries that a Catalog has yet to list: the newest about each action.
    listings: HashMap<ActionId, Arc<Listing>>,
    bytes: usize,
    rows: usize,
    /// How many Blobs came so far.
    turns: u64,
}

/// A small Blob.
#[derive(Clone)]
struct Came {
    /// The how-manieth it is. Who is told from his equal, which was forgotten and came again, by this.
    turn: u64,
    bytes: Bytes,
}

/// An Entry as it is going to stand in the index.
pub(super) struct Claimed {
    pub(super) action: ActionId,
    /// Everybody who signed it: there is a row for each.
    pub(super) signers: Vec<Signer>,
    /// The Digest of its payload.
    pub(super) name: Digest,
    pub(super) row: Vec<u8>,
}

/// An own Entry that a Catalog has yet to list. Its action says in which Project.
struct Listing {
    project: Arc<str>,
    action: ActionId,
    /// The Digest of its payload.
    name: Digest,
}

/// What goes with a transaction.
#[derive(Default)]
pub(super) struct Landing {
    blobs: Vec<(Digest, Came)>,
    claims: Vec<Arc<Claimed>>,
    belongs: Vec<(Digest, Arc<str>)>,
    listings: Vec<Arc<Listing>>,
    /// How often Blobs had been removed before.
    removals: u64,
}

impl Waiting {
    fn is_empty(&self) -> bool {
        self.blobs.is_empty() && self.claims.is_empty() && self.belongs.is_empty() && self.listings.is_empty()
    }

    fn came(&mut self, bytes: usize) {
        self.bytes += bytes;
        self.rows += 1;
    }

    fn went(&mut self, bytes: usize) {
        self.bytes -= bytes;
        self.rows -= 1;
    }

    /// Takes an Entry, in place of its equal.
    fn claim(&mut self, claimed: Claimed) {
        let bytes = claimed.row.len();
        let claims = self.claims.entry(claimed.action).or_default();
        let equal = |other: &Arc<Claimed>| other.name == claimed.name && other.signers == claimed.signers;
        match claims.iter_mut().find(|other| equal(other)) {
            Some(other) => {
                let before = std::mem::replace(other, Arc::new(claimed));
                self.went(before.row.len());
            }
            None => claims.push(Arc::new(claimed)),
        }
        self.came(bytes);
    }

    fn belong(&mut self, digests: &[Digest], project: &Arc<str>) {
        for digest in digests {
            let projects = self.belongs.entry(*digest).or_default();
            if !projects.iter().any(|known| **known == **project) {
                // One of its own for each Blob: they are told apart by where they lie.
                projects.push(Arc::from(&**project));
                self.came(project.len());
            }
        }
    }

    /// Forgets that a Blob belongs to those Projects of which `gone` says so.
    fn part(&mut self, digest: &Digest, gone: impl Fn(&Arc<str>) -> bool) {
        let Some(projects) = self.belongs.get_mut(digest) else { return };
        let left: Vec<_> = projects.extract_if(.., |project| gone(project)).collect();
        if projects.is_empty() {
            self.belongs.remove(digest);
        }
        left.iter().for_each(|project| self.went(project.len()));
    }
}

impl Pending {
    /// Nothing waits; `recent` is told of the Blobs that no longer do.
    pub(super) fn new(recent: Arc<Recent>) -> Self {
        Self { waiting: RwLock::default(), recent, landings: AtomicU64::new(0) }
    }

    fn read(&self) -> RwLockReadGuard<'_, Waiting> {
        self.waiting.read().unwrap_or_else(PoisonError::into_inner)
    }

    fn write(&self) -> RwLockWriteGuard<'_, Waiting> {
        self.waiting.write().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether nothing waits.
    pub(super) fn is_empty(&self) -> bool {
        self.read().is_empty()
    }

    /// Whether there is as much as may wait.
    pub(super) fn is_full(&self) -> bool {
        let waiting = self.read();
        waiting.rows >= MAX_ROWS || waiting.bytes >= MAX_BYTES
    }

    /// Whether there is so much that it had better be committed before there is as much as may wait.
    pub(super) fn is_much(&self) -> bool {
        let waiting = self.read();
        waiting.rows >= MUCH_ROWS || waiting.bytes >= MUCH_BYTES
    }

    /// How many rows wait.
    #[cfg(test)]
    pub(super) fn rows(&self) -> usize {
        let waiting = self.read();
        let claims = waiting.claims.values().map(Vec::len).sum::<usize>();
        let belongs = waiting.belongs.values().map(Vec::len).sum::<usize>();
        assert_eq!(waiting.rows, waiting.blobs.len() + claims + belongs + waiting.listings.len());
        assert!(waiting.rows > 0 || waiting.bytes == 0);
        waiting.rows
    }

    /// The bytes of a Blob.
    pub(super) fn get(&self, digest: &Digest) -> Option<Bytes> {
        self.read().blobs.get(digest).map(|came| came.bytes.clone())
    }

    /// The Entries about an action.
    pub(super) fn claims(&self, action: &ActionId) -> Vec<Arc<Claimed>> {
        self.read().claims.get(action).cloned().unwrap_or_default()
    }

    /// Whether a Blob belongs to one of the Projects that `shared` picks, as far as that waits.
    pub(super) fn belongs(&self, digest: &Digest, shared: impl Fn(&str) -> bool) -> bool {
        self.read().belongs.get(digest).is_some_and(|projects| projects.iter().any(|project| shared(project)))
    }

    /// Takes a Blob; gives whether it was not here.
    pub(super) fn put(&self, digest: &Digest, bytes: Bytes) -> bool {
        let mut waiting = self.write();
        if waiting.blobs.contains_key(digest) {
            return false;
        }
        waiting.came(bytes.len());
        waiting.turns += 1;
        let turn = waiting.turns;
        waiting.blobs.insert(*digest, Came { turn, bytes });
        true
    }

    /// Takes an Entry, in place of its equal, with the Blobs that belong to its Project. `own` is one that a Catalog of
    /// this node has yet to list.
    pub(super) fn claim(&self, claimed: Claimed, (blobs, project): (&[Digest], &Project), own: bool) {
        let project: Arc<str> = project.as_str().into();
        let (action, name) = (claimed.action, claimed.name);
        // Under one lock: all of it goes with the same transaction.
        let mut waiting = self.write();
        waiting.belong(blobs, &project);
        waiting.claim(claimed);
        if own {
            let bytes = project.len();
            let listing = Arc::new(Listing { project, action, name });
            if let Some(before) = waiting.listings.insert(action, listing) {
                waiting.went(before.project.len());
            }
            waiting.came(bytes);
        }
    }

    /// Whether an own Entry about an action waits that a Catalog has yet to list.
    pub(super) fn lists(&self, action: &ActionId) -> bool {
        self.read().listings.contains_key(action)
    }

    /// Notes that Blobs belong to a Project.
    pub(super) fn belong(&self, digests: &[Digest], project: &Project) {
        self.write().belong(digests, &project.as_str().into());
    }

    /// Forgets some Blobs, and where they belong; gives how many bytes each had. One that is just being committed is in
    /// the index afterwards.
    pub(super) fn forget(&self, digests: &[Digest]) -> HashMap<Digest, usize> {
        let mut waiting = self.write();
        let mut gone = HashMap::new();
        for digest in digests {
            waiting.part(digest, |_| true);
            if let Some(Came { bytes, .. }) = waiting.blobs.remove(digest) {
                waiting.went(bytes.len());
                gone.insert(*digest, bytes.len());
            }
        }
        gone
    }

    /// How often something was committed. Who looked into the index before this number moved, and finds what he looks
    /// for neither there nor here, has to look again.
    pub(super) fn landings(&self) -> u64 {
        self.landings.load(Ordering::Acquire)
    }

    /// Puts all of it into a transaction. It stays here until that is committed.
    pub(super) fn land(&self, change: &WriteTransaction) -> Result<Landing, redb::Error> {
        let removals = self.recent.removals();
        let landing = {
            let waiting = self.read();
            let belongs = waiting.belongs.iter();
            let pairs =
                belongs.flat_map(|(digest, projects)| projects.iter().map(|one| (*digest, Arc::clone(one))));
            let mut blobs: Vec<_> = waiting.blobs.iter().map(|(name, came)| (*name, came.clone())).collect();
            let mut belongs: Vec<_> = pairs.collect();
            let mut claims: Vec<_> = waiting.claims.values().flatten().cloned().collect();
            let mut listings: Vec<_> = waiting.listings.values().cloned().collect();
            drop(waiting);
            // What came together is wanted together.
            blobs.sort_unstable_by_key(|(_, came)| came.turn);
            // Neighbours in a table come to lie on one page, which is then at hand.
            belongs.sort_unstable();
            claims.sort_unstable_by_key(|claimed| claimed.action);
            listings.sort_unstable_by(|one, other| {
                (&one.project, &one.action).cmp(&(&other.project, &other.action))
            });
            Landing { blobs, claims, belongs, listings, removals }
        };
        if !landing.blobs.is_empty() {
            let blobs = landing.blobs.iter().map(|(digest, came)| (digest, &came.bytes));
            Smalls::open(change)?.keep(blobs)?;
        }
        if !landing.claims.is_empty() {
            let mut table = change.open_table(rows::ENTRIES)?;
            for claimed in &landing.claims {
                for signer in &claimed.signers {
                    let key = (claimed.action.as_bytes(), signer.as_bytes(), claimed.name.as_bytes());
                    table.insert(key, claimed.row.as_slice())?;
                }
            }
        }
        if !landing.belongs.is_empty() {
            let mut table = change.open_table(rows::BELONGS)?;
            for (digest, project) in &landing.belongs {
                table.insert((digest.as_bytes(), &**project), ())?;
            }
        }
        if !landing.listings.is_empty() {
            let mut table = change.open_table(rows::OUTBOX)?;
            for listing in &landing.listings {
                table.insert((&*listing.project, listing.action.as_bytes()), listing.name.as_bytes())?;
            }
        }
        Ok(landing)
    }

    /// The transaction was committed.
    pub(super) fn landed(&self, Landing { blobs, claims, belongs, listings, removals }: Landing) {
        if blobs.is_empty() && claims.is_empty() && belongs.is_empty() && listings.is_empty() {
            return;
        }
        self.recent.note(blobs.iter().map(|(digest, _)| *digest), removals);
        // Before they go: see `landings`.
        self.landings.fetch_add(1, Ordering::AcqRel);
        let mut waiting = self.write();
        // Any of them may have been forgotten and written again since.
        for (digest, came) in blobs {
            if waiting.blobs.get(&digest).is_some_and(|now| now.turn == came.turn) {
                waiting.blobs.remove(&digest);
                waiting.went(came.bytes.len());
            }
        }
        for claimed in claims {
            let Some(now) = waiting.claims.get_mut(&claimed.action) else { continue };
            let before = now.len();
            now.retain(|one| !Arc::ptr_eq(one, &claimed));
            let went = before > now.len();
            if now.is_empty() {
                waiting.claims.remove(&claimed.action);
            }
            if went {
                waiting.went(claimed.row.len());
            }
        }
        for (digest, project) in belongs {
            waiting.part(&digest, |now| Arc::ptr_eq(now, &project));
        }
        for listing in listings {
            if waiting.listings.get(&listing.action).is_some_and(|now| Arc::ptr_eq(now, &listing)) {
                waiting.listings.remove(&listing.action);
                waiting.went(listing.project.len());
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use potluck_protocol::digest::Digest;

    use super::super::Index;
    use crate::content::Durability;

    #[test]
    fn room_is_made_before_there_is_none_by_one_at_a_time() {
        let index = Index::in_memory().unwrap();
        let keep = |number: u64| {
            let name = Digest::of(&number.to_be_bytes());
            index.keep_small(&name, b"small", Durability::Fast).unwrap();
            index.wants_room()
        };
        let first = (0..).find(|number| keep(*number)).unwrap();
        assert!(!index.is_full() && first > 100, "{first}");
        assert!(!keep(first + 1), "somebody was told already");
        index.make_room().unwrap();
        assert!(index.pending.is_empty() && !index.wants_room());
        assert!((first + 2..).any(keep), "there is much again");
    }
}
