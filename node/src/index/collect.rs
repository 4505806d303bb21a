// SPDX-License-Identifier: MIT OR Apache-2.0
//! What collection needs of the index: its Entries and small Blobs page by page, when they were last used, what is
//! pinned, and their removal.
//!
//! Each page is read in a transaction of its own, which holds up nobody and is held up by nobody. What comes between
//! two pages is seen or not.

use std::ops::Bound;

use potluck_keys::pair::Signer;
use potluck_keys::signed::Signed;
use potluck_keys::time::Time;
use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::Entry;
use redb::{ReadableTable as _, ReadableTableMetadata as _, WriteTransaction};

use super::laid;
use super::rows::{self, PinRow};
use super::slab::Smalls;
use super::{Index, IndexError};
use crate::content::Durability;

/// Where an Entry lies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EntryName {
    /// The action.
    pub action: ActionId,
    /// One of those who signed it.
    pub signer: Signer,
    /// The Digest of its payload.
    pub claim: Digest,
}

/// An Entry of a page.
#[derive(Debug)]
pub struct Kept {
    /// Where it lies.
    pub name: EntryName,
    /// The Entry.
    pub entry: Signed<Entry>,
    /// When its action was last used, as far as that has been written down.
    pub last: Option<Time>,
}

/// Some Entries, in the order of their names.
#[derive(Debug)]
pub struct EntryPage {
    /// They.
    pub entries: Vec<Kept>,
    /// Whether there are no more after these.
    pub last: bool,
}

/// What came of removing Entries.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Forgotten {
    /// How many were there.
    pub entries: u64,
    /// Projects whose own Catalog lists some of them still.
    pub projects: Vec<Project>,
}

/// In the outbox this stands for "no longer claimed", as it does in Segments.
const NO_CLAIM: [u8; 32] = [0; 32];

impl Index {
    /// At most `most` Entries after one of them, or from the first one on.
    ///
    /// # Errors
    /// [`IndexError`], also when one of them is damaged.
    pub fn entry_page(&self, after: Option<&EntryName>, most: usize) -> Result<EntryPage, IndexError> {
        self.land()?;
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::ENTRIES))?;
        let uses = redb!(self, read.open_table(rows::USES))?;
        let key = after.map(|name| (name.action.as_bytes(), name.signer.as_bytes(), name.claim.as_bytes()));
        let from = key.map_or(Bound::Unbounded, Bound::Excluded);
        let mut page = EntryPage { entries: Vec::new(), last: true };
        let mut use_of: Option<(ActionId, Option<Time>)> = None;
        for row in redb!(self, table.range((from, Bound::Unbounded)))? {
            if page.entries.len() >= most {
                page.last = false;
                break;
            }
            let (key, row) = redb!(self, row)?;
            let (action, signer, claim) = key.value();
            let action = ActionId::from_bytes(*action);
            let last = match use_of {
                Some((same, last)) if same == action => last,
                _ => redb!(self, uses.get(action.as_bytes()))?.map(|row| Time::from_millis(row.value())),
            };
            use_of = Some((action, last));
            let name =
                EntryName { action, signer: Signer::from_bytes(*signer), claim: Digest::from_bytes(*claim) };
            let entry = self.entry(row.value())?;
            page.entries.push(Kept { name, entry, last });
        }
        Ok(page)
    }

    /// How many Entries there are.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn entry_count(&self) -> Result<u64, IndexError> {
        self.land()?;
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::ENTRIES))?;
        Ok(redb!(self, table.len())?)
    }

    /// Removes Entries for good before it returns. Of those that `own` has signed it is remembered that others may
    /// know them, and their Catalogs are to drop them.
    ///
    /// # Errors
    /// [`IndexError`]; then none is removed.
    pub fn forget_entries(
        &self,
        names: Vec<EntryName>,
        own: Option<Signer>,
    ) -> Result<Forgotten, IndexError> {
        self.land()?;
        self.change(Durability::Durable, move |change| {
            let mut forgotten = Forgotten::default();
            for name in &names {
                let Some(project) = self.forget_entry_in(change, name, own)? else { continue };
                forgotten.entries += 1;
                if let Some(project) = project
                    && !forgotten.projects.contains(&project)
                {
                    forgotten.projects.push(project);
                }
            }
            Ok(forgotten)
        })
    }

    /// Removes one; gives whether it was there, and the Project whose own Catalog has to be written for it.
    fn forget_entry_in(
        &self,
        change: &WriteTransaction,
        name: &EntryName,
        own: Option<Signer>,
    ) -> Result<Option<Option<Project>>, IndexError> {
        let mut table = redb!(self, change.open_table(rows::ENTRIES))?;
        let (action, signer) = (name.action.as_bytes(), name.signer.as_bytes());
        let key = (action, signer, name.claim.as_bytes());
        let row = redb!(self, table.remove(key))?.map(|row| row.value().to_vec());
        let Some(row) = row else { return Ok(None) };
        let (low, high) = ([0; 32], [0xff; 32]);
        let mut left = Vec::new();
        for row in redb!(self, table.range((action, &low, &low)..=(action, &high, &high)))? {
            let row = redb!(self, row)?.0;
            left.push((*row.value().1, *row.value().2));
        }
        if left.is_empty() {
            redb!(self, redb!(self, change.open_table(rows::USES))?.remove(action))?;
        }
        if own != Some(name.signer) {
            return Ok(Some(None));
        }
        // A damaged one is no claim that anybody could know.
        let signed = self.entry(&row)?;
        let entry = signed.authentic()?;
        let left = left.into_iter().find(|(left, _)| left == signer).map(|(_, claim)| claim);
        let project = self.withdraw_in(change, entry, (name, left))?;
        Ok(Some(project))
    }

    /// Sees to it that no Catalog lists an own Entry that is gone. Another own Entry about the same action may be left.
    fn withdraw_in(
        &self,
        change: &WriteTransaction,
        entry: &Entry,
        (name, left): (&EntryName, Option<[u8; 32]>),
    ) -> Result<Option<Project>, IndexError> {
        let key = (entry.project.as_str(), entry.action.as_bytes());
        let mut outbox = redb!(self, change.open_table(rows::OUTBOX))?;
        if let Some(left) = left {
            let waits = redb!(self, outbox.get(key))?.is_some_and(|row| row.value() == name.claim.as_bytes());
            if waits {
                redb!(self, outbox.insert(key, &left))?;
            }
            return Ok(None);
        }
        let mut withdrawn = redb!(self, change.open_table(rows::WITHDRAWN))?;
        let row = (name.claim.as_bytes(), entry.not_after.as_millis());
        redb!(self, withdrawn.insert(entry.action.as_bytes(), row))?;
        let catalogs = redb!(self, change.open_table(rows::CATALOGS))?;
        if redb!(self, catalogs.get(entry.project.as_str()))?.is_some() {
            redb!(self, outbox.insert(key, &NO_CLAIM))?;
            return Ok(Some(entry.project.clone()));
        }
        // Nobody was told of it.
        redb!(self, outbox.remove(key))?;
        Ok(None)
    }

    /// The own Entry about an action that is no longer here but may be remembered by others: whatever is claimed now
    /// replaces it.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn withdrawn(&self, action: &ActionId) -> Result<Option<Digest>, IndexError> {
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::WITHDRAWN))?;
        let row = redb!(self, table.get(action.as_bytes()))?;
        Ok(row.map(|row| Digest::from_bytes(*row.value().0)))
    }

    /// Forgets those withdrawn Entries whose actions begin with a byte and that nobody can use any more at `now`.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn prune_withdrawn(&self, first: u8, now: Time) -> Result<(), IndexError> {
        let (mut low, mut high) = ([0; 32], [0xff; 32]);
        (low[0], high[0]) = (first, first);
        let expired: Vec<[u8; 32]> = {
            let read = redb!(self, self.db.begin_read())?;
            let table = redb!(self, read.open_table(rows::WITHDRAWN))?;
            let mut expired = Vec::new();
            for row in redb!(self, table.range::<&[u8; 32]>(&low..=&high))? {
                let (action, row) = redb!(self, row)?;
                if row.value().1 < now.as_millis() {
                    expired.push(*action.value());
                }
            }
            expired
        };
        if expired.is_empty() {
            return Ok(());
        }
        self.change(Durability::Fast, move |change| {
            let mut table = redb!(self, change.open_table(rows::WITHDRAWN))?;
            for action in &expired {
                redb!(self, table.remove(action))?;
            }
            Ok(())
        })
    }

    /// How many small Blobs there are.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn small_count(&self) -> Result<u64, IndexError> {
        self.land()?;
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::SMALL))?;
        Ok(redb!(self, table.len())?)
    }

    /// At most `most` small Blobs after one of them, each with the bytes that it takes, and whether there are no more.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn small_page(
        &self,
        after: Option<&Digest>,
        most: usize,
    ) -> Result<(Vec<(Digest, u64)>, bool), IndexError> {
        self.land()?;
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::SMALL))?;
        let from = after.map_or(Bound::Unbounded, |digest| Bound::Excluded(digest.as_bytes()));
        let mut page = Vec::new();
        for row in redb!(self, table.range::<&[u8; 32]>((from, Bound::Unbounded)))? {
            if page.len() >= most {
                return Ok((page, false));
            }
            let (digest, row) = redb!(self, row)?;
            page.push((Digest::from_bytes(*digest.value()), laid::lies(row.value())?.count() as u64));
        }
        Ok((page, true))
    }

    /// Removes small Blobs, and of all these Blobs to which Projects they belonged; gives how many bytes the small ones
    /// had. A power cut may bring them back, until the next round.
    ///
    /// # Errors
    /// [`IndexError`]; then nothing is removed.
    pub fn forget_blobs(&self, digests: &[Digest]) -> Result<u64, IndexError> {
        let waited = self.pending.forget(digests);
        let bytes = self.change(Durability::Fast, |change| {
            let mut bytes = 0;
            let mut small = redb!(self, Smalls::open(change))?;
            let mut belongs = redb!(self, change.open_table(rows::BELONGS))?;
            self.forget_aliases(change, digests)?;
            for digest in digests {
                let was = redb!(self, small.remove(digest))?;
                bytes += was.or_else(|| waited.get(digest).copied()).unwrap_or_default() as u64;
                let mut projects = Vec::new();
                for row in redb!(self, belongs.range((digest.as_bytes(), "")..))? {
                    let row = redb!(self, row)?.0;
                    let (found, project) = row.value();
                    if found != digest.as_bytes() {
                        break;
                    }
                    projects.push(project.to_owned());
                }
                for project in projects {
                    redb!(self, belongs.remove((digest.as_bytes(), project.as_str())))?;
                }
            }
            redb!(self, small.tidy())?;
            Ok(bytes)
        });
        self.recent.gone(digests);
        bytes
    }

    /// All own Catalogs. There is one a Project.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn own_catalogs(&self) -> Result<Vec<rows::OwnCatalog>, IndexError> {
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::CATALOGS))?;
        let mut catalogs = Vec::new();
        for row in redb!(self, table.iter())? {
            let row = redb!(self, row)?.1;
            catalogs.push(rows::value(row.value(), rows::MAX_OWN_CATALOG_BYTES)?);
        }
        Ok(catalogs)
    }

    /// Writes down when actions were last used.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn keep_uses(&self, uses: Vec<(ActionId, Time)>) -> Result<(), IndexError> {
        self.change(Durability::Fast, move |change| {
            let mut table = redb!(self, change.open_table(rows::USES))?;
            for (action, time) in &uses {
                redb!(self, table.insert(action.as_bytes(), time.as_millis()))?;
            }
            Ok(())
        })
    }

    /// When an action was last used, as far as that has been written down.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn last_use(&self, action: &ActionId) -> Result<Option<Time>, IndexError> {
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::USES))?;
        let row = redb!(self, table.get(action.as_bytes()))?;
        Ok(row.map(|row| Time::from_millis(row.value())))
    }

    /// Pins a Blob, unless there are `most` pins already and this would be one more; gives whether it is pinned.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn pin(&self, digest: Digest, pin: &PinRow, most: u64) -> Result<bool, IndexError> {
        let row = rows::row(pin);
        self.change(Durability::Durable, move |change| {
            let mut table = redb!(self, change.open_table(rows::PINS))?;
            let known = redb!(self, table.get(digest.as_bytes()))?.is_some();
            let room = known || redb!(self, table.len())? < most;
            if room {
                redb!(self, table.insert(digest.as_bytes(), row.as_slice()))?;
            }
            Ok(room)
        })
    }

    /// Removes a pin; gives whether there was one.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn unpin(&self, digest: Digest) -> Result<bool, IndexError> {
        self.change(Durability::Durable, move |change| {
            let mut table = redb!(self, change.open_table(rows::PINS))?;
            let was = redb!(self, table.remove(digest.as_bytes()))?.is_some();
            Ok(was)
        })
    }

    /// All pins.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn pins(&self) -> Result<Vec<(Digest, PinRow)>, IndexError> {
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::PINS))?;
        let mut pins = Vec::new();
        for row in redb!(self, table.iter())? {
            let (digest, row) = redb!(self, row)?;
            let pin = rows::value(row.value(), rows::MAX_PIN_BYTES)?;
            pins.push((Digest::from_bytes(*digest.value()), pin));
        }
        Ok(pins)
    }
}
