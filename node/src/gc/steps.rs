// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the Plan says, done on a real store. Everything here blocks, for no longer than a page or a shelf takes.

use std::collections::BTreeSet;
use std::sync::Arc;

use potluck_keys::signed::Signed;
use potluck_keys::time::Time;
use potluck_protocol::digest::Digest;
use potluck_protocol::head::Head;
use potluck_protocol::tree::{Kind, Tree};

use super::budget::{Amount, Floor};
use super::plan::{Action, Event, Room, Row, Shelf};
use super::protect::Protected;
use super::score::Subject;
use crate::content::ContentError;
use crate::content::disk::Thinned;
use crate::engine::{Engine, MAX_TREE_BYTES, News};
use crate::index::{EntryName, IndexError, Kept};
use crate::observe::clock;
use crate::store::{Store, StoreError};

/// Entries in a page.
pub const PAGE: usize = 1024;
/// Small Blobs on a shelf.
pub const SHELF: usize = 4096;
/// So many files of Trees are listed at a time; then those of one Tree more may come.
pub const MAX_LISTED: usize = 1 << 18;

/// Why a step was not done.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StepError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A claim in the index is none.
    #[error("a claim in the index is damaged: {0}")]
    Claim(#[from] potluck_keys::signed::ClaimError),
}

impl From<IndexError> for StepError {
    fn from(error: IndexError) -> Self {
        Self::Store(error.into())
    }
}

impl From<ContentError> for StepError {
    fn from(error: ContentError) -> Self {
        Self::Store(error.into())
    }
}

/// How much room there may be.
#[derive(Debug, Clone)]
pub struct Limits {
    /// What Blobs may take.
    pub budget: Amount,
    /// What should be left of the disk.
    pub floor: Floor,
}

impl Limits {
    /// The room there is, where whole Blobs take so many bytes, and parts of others so many. Blocks.
    ///
    /// # Errors
    /// [`StepError`].
    pub fn room(&self, store: &Store, (blobs, parts): (u64, u64)) -> Result<Room, StepError> {
        let disk = store.room()?;
        let (budget, floor) = (self.budget.of(disk.total), self.floor.of(disk.total));
        Ok(Room { used: blobs.saturating_add(parts), parts, budget, free: disk.free, floor })
    }
}

/// The store to work on.
pub struct Steps {
    engine: Arc<Engine>,
    limits: Limits,
    /// When the round began.
    began: Time,
    /// Whether a round is under way.
    round: bool,
    /// What is pinned in it.
    pins: BTreeSet<Digest>,
}

impl Drop for Steps {
    fn drop(&mut self) {
        self.end();
    }
}

/// Blobs that count as absent, until this is dropped.
struct Going<'a>(&'a Protected, Vec<Digest>);

impl Drop for Going<'_> {
    fn drop(&mut self) {
        self.0.gone(&self.1);
    }
}

impl Steps {
    /// Works on an engine's store.
    pub fn new(engine: Arc<Engine>, limits: Limits) -> Self {
        Self { engine, limits, began: Time::MAX, round: false, pins: BTreeSet::new() }
    }

    /// Does what is to be answered by an event.
    pub fn perform(&mut self, action: Action) -> Option<Event> {
        let done = match action {
            Action::Look => self.look(),
            Action::Parts { bytes, dry } => self.parts(bytes, dry),
            Action::Begin => self.begin(),
            Action::Page(after) => self.page(after),
            Action::Doom { names, spare } => self.doom(names, spare),
            Action::Read(trees) => self.read(trees),
            Action::List(shelf) => self.list(shelf),
            Action::Remove { blobs, dry } => self.remove(&blobs, dry),
            Action::End => {
                self.end();
                return None;
            }
            Action::Report(..) => return None,
        };
        Some(done.unwrap_or_else(|error| Event::Failed(error.to_string())))
    }

    fn look(&self) -> Result<Event, StepError> {
        let store = self.engine.store();
        let used = store.used().map_or_else(|| store.total(), Ok)?;
        Ok(Event::Room(self.limits.room(store, (used, store.content().part_bytes()?))?))
    }

    fn parts(&self, bytes: u64, dry: bool) -> Result<Event, StepError> {
        let Thinned { freed, left } = self.engine.store().content().drop_parts(bytes, dry)?;
        Ok(Event::Parts { freed, left })
    }

    fn begin(&mut self) -> Result<Event, StepError> {
        self.engine.store().protected().begin_round();
        self.round = true;
        self.began = clock::now();
        let roots = self.roots();
        if roots.is_err() {
            self.end();
        }
        roots
    }

    fn end(&mut self) {
        if std::mem::take(&mut self.round) {
            self.engine.store().protected().end_round();
        }
    }

    /// What is wanted beside what Entries name: Catalogs, own and followed, and pins.
    fn roots(&mut self) -> Result<Event, StepError> {
        let index = self.engine.store().index();
        let (mut blobs, mut trees) = (Vec::new(), Vec::new());
        let mut catalog = |catalog: &potluck_protocol::catalog::Catalog| {
            blobs.extend(catalog.segments.iter().flat_map(|segment| [segment.digest, segment.filter]));
        };
        let mut heads = Vec::new();
        for own in index.own_catalogs()? {
            catalog(&own.catalog);
            heads.push(Signed::<Head>::decode(&own.head)?.authentic()?.root);
        }
        for listing in self.engine.followed().listings() {
            catalog(&listing.catalog);
        }
        for (_, head) in index.heads()? {
            let head = head.authentic()?;
            heads.push(head.root);
            // One that is not followed just now may be again after the next start.
            if let Some(bytes) = self.engine.store().peek_bytes(&head.root, head.size)?
                && let Ok(listed) = potluck_protocol::codec::decode(&bytes, bytes.len())
            {
                catalog(&listed);
            }
        }
        blobs.extend(heads);
        self.pins.clear();
        for (digest, pin) in index.pins()? {
            self.pins.insert(digest);
            if pin.tree { trees.push(digest) } else { blobs.push(digest) }
        }
        // Entries say nothing of how many Blobs they name: a Tree may have a hundred thousand members.
        let about = index.small_count()?.saturating_add(self.engine.store().content().about()?);
        let seed = self.began.as_millis().wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Ok(Event::Roots { now: self.began, blobs, trees, about, seed })
    }

    fn page(&self, after: Option<EntryName>) -> Result<Event, StepError> {
        let page = self.engine.store().index().entry_page(after.as_ref(), PAGE)?;
        let policy = self.engine.trusting().now();
        let mut rows = Vec::with_capacity(page.entries.len());
        for Kept { name, entry, last } in page.entries {
            let fresh = self.engine.uses().last(&name.action);
            let claim = entry.authentic()?;
            let standing = self.engine.standing_of(&policy, &entry, self.began);
            let last = fresh.or(last).unwrap_or(claim.issued);
            let text =
                |label: &Option<potluck_protocol::codec::Text<64>>| label.as_ref().map(ToString::to_string);
            rows.push(Row {
                name,
                project: claim.project.clone(),
                tool: text(&claim.labels.tool),
                toolchain: text(&claim.labels.toolchain),
                subject: Subject {
                    last,
                    bytes: claim.output.total(),
                    cost_ms: claim.labels.cost_ms,
                    standing,
                },
                output: *claim.output.digest(),
                is_tree: matches!(claim.output, potluck_protocol::entry::Output::Tree(_)),
                own: Some(name.signer) == self.engine.signer(),
                used: self.was_used(&name),
                pinned: self.pins.contains(claim.output.digest()),
            });
        }
        Ok(Event::Page { rows, last: page.last })
    }

    /// Whether an Entry was used since the round began.
    fn was_used(&self, name: &EntryName) -> bool {
        self.engine.uses().last(&name.action).is_some_and(|last| last >= self.began)
    }

    fn doom(&self, names: Vec<EntryName>, spare: bool) -> Result<Event, StepError> {
        let (spared, doomed): (Vec<_>, Vec<_>) =
            names.into_iter().partition(|name| spare && self.was_used(name));
        let forgotten = self.engine.store().index().forget_entries(doomed, self.engine.signer())?;
        for project in forgotten.projects {
            self.engine.tell(News::Published(project));
        }
        Ok(Event::Doomed(spared))
    }

    fn read(&self, mut trees: Vec<Digest>) -> Result<Event, StepError> {
        let mut files = Vec::new();
        while files.len() < MAX_LISTED
            && let Some(digest) = trees.pop()
        {
            // One that is not here lists nothing that anybody could use. So does what is no Tree.
            let bytes = self.engine.store().peek_bytes(&digest, MAX_TREE_BYTES)?;
            let Some(tree) = bytes.and_then(|bytes| Tree::decode(&bytes).ok()) else { continue };
            files.extend(tree.members().iter().filter_map(|member| match &member.kind {
                Kind::File { digest, .. } => Some(*digest),
                _ => None,
            }));
        }
        Ok(Event::Read { files, unread: trees })
    }

    fn list(&self, shelf: Shelf) -> Result<Event, StepError> {
        let store = self.engine.store();
        let mut blobs = Vec::new();
        let next = match shelf {
            Shelf::Files(shard) => {
                store.content().each_of(shard, &mut |digest, bytes| blobs.push((digest, bytes)))?;
                store.index().prune_withdrawn(shard, self.began)?;
                Some(shard.checked_add(1).map_or(Shelf::Small(None), Shelf::Files))
            }
            Shelf::Small(after) => {
                let (page, last) = store.index().small_page(after.as_ref(), SHELF)?;
                blobs = page;
                let end = blobs.last().map(|(digest, _)| *digest);
                end.filter(|_| !last).map(|end| Shelf::Small(Some(end)))
            }
        };
        Ok(Event::Listed { blobs, next })
    }

    fn remove(&self, blobs: &[(Digest, u64)], dry: bool) -> Result<Event, StepError> {
        let store = self.engine.store();
        let digests: Vec<_> = blobs.iter().map(|(digest, _)| *digest).collect();
        let verdict = store.protected().may_go(&digests, !dry);
        let sum = |of: &[Digest]| {
            let of = blobs.iter().filter(|(digest, _)| of.contains(digest));
            of.fold(0_u64, |sum, (_, bytes)| sum.saturating_add(*bytes))
        };
        let (freed, held) = (sum(&verdict.free), sum(&verdict.held));
        if !dry && !verdict.free.is_empty() {
            let going = Going(store.protected(), verdict.free);
            store.remove_all(&going.1)?;
        }
        Ok(Event::Removed { freed, held, crowded: verdict.crowded })
    }
}
