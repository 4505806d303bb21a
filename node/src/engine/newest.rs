// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values that change under one key, and outputs that their tool says anew.
//!
//! Most Entries are answered by "first wins": builds are often not deterministic, and two answers to one question help
//! nobody. Some tools keep something under a key that grows, such as the manifests of ccache. They have a Recipe in
//! `CHANGING`; of all acceptable claims about such a key the newest counts, whoever made it, and a signer that says
//! something new does not contradict itself. A node that has an answer still asks whether there is a newer one, for as
//! long as a `GLANCE`.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use potluck_keys::pair::Signer;
use potluck_keys::policy::Policy;
use potluck_keys::signed::Signed;
use potluck_protocol::action::{ActionId, Recipe};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{BlobOutput, Entry, Output, claim_digest};
use potluck_protocol::piece::PIECE_BYTES;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::sync::OwnedSemaphorePermit;

use super::{Engine, Known, News, want};
use crate::buffers::{self, Lent};
use crate::cache::{CacheError, Publication, Question};
use crate::content::Durability;
use crate::fetch::event::Space;
use crate::gc::protect::Hold;
use crate::index::collect::EntryName;
use crate::index::{MAX_INLINE_BYTES, View};
use crate::observe::{clock, span};
use crate::store::{StoreError, Writing};

/// The Recipes whose keys keep something that changes.
const CHANGING: &[&str] = &["ccache@1"];

/// Which part of what a tool would wait for an answer it waits for news of something that it could have at once.
const GLANCE: u32 = 5;

/// Most values that come into memory at a time though they are large.
pub(super) const COMING: usize = 8;

/// Most Entries of one signer about one key; then all but the newest go, which replaces them.
const MOST_OF_ONE: usize = 4;

/// Whether the newest claim counts under keys of this Recipe.
pub(super) fn counts(recipe: &Recipe) -> bool {
    CHANGING.contains(&recipe.as_str())
}

impl Engine {
    /// What claims about a key amount to of which the newest counts. One that lacks Blobs stands in the way of older
    /// ones: what it lacks is looked for.
    pub(super) fn judge_newest(
        &self,
        (view, policy): (&View<'_>, &dyn Fn() -> Arc<Policy>),
        (space, action): (&Space, &ActionId),
        entries: &[Signed<Entry>],
    ) -> Result<Known, StoreError> {
        let (now, want) = (clock::now(), want(space, action));
        let own = |entry: &Signed<Entry>| entry.signers().all(|signer| Some(signer) == self.signer());
        if entries.iter().all(own) {
            // What was made here needs nobody's permission, and the owner's could add nothing to it.
            let good = entries.iter().filter_map(|entry| self.own.policy().judge(entry, &want, now).ok());
            let good: Vec<_> = good.map(|found| found.signed()).collect();
            if !good.is_empty() {
                return self.newest_of(view, &good);
            }
        }
        let policy = &policy();
        let mut good = Vec::with_capacity(entries.len());
        for entry in entries {
            // A rule that takes several to agree accepts none alone, see below.
            for policy in [self.own.policy(), policy] {
                good.extend(policy.judge(entry, &want, now).map(|found| found.signed()));
            }
        }
        good.extend(policy.choose(entries, &want, now).outcome.map(|found| found.signed()));
        self.newest_of(view, &good)
    }

    /// What the newest of some acceptable claims amounts to.
    fn newest_of(&self, view: &View<'_>, good: &[&Signed<Entry>]) -> Result<Known, StoreError> {
        let newest = good.iter().filter_map(|entry| entry.authentic().ok());
        // Of two at the same instant all nodes choose the same.
        let Some(newest) = newest.max_by_key(|entry| (entry.issued, Reverse(*entry.output.digest()))) else {
            return Ok(Known::Refused);
        };
        let blobs = self.lacks(view, &newest.output, Some(Hold::Promise))?;
        let output = newest.output.clone();
        if blobs.is_empty() {
            return Ok(Known::Here(output));
        }
        let cost = Duration::from_millis(newest.labels.cost_ms.unwrap_or(0));
        Ok(Known::Lacks { output, blobs, cost })
    }

    /// What is known under one key of which the newest claim counts, after a glance at whether others have news. The
    /// answer that the caller has already is not counted again. Nothing when there is no news that could be had.
    pub async fn newest(self: &Arc<Self>, question: &Question) -> Option<Output> {
        let Question { project, recipe, keys, deadline } = question;
        let space = Space { project: project.clone(), recipe: recipe.clone() };
        let action = ActionId::derive(project, recipe, keys.first()?, None).ok()?;
        let topics = self.followed().probe(project, &action);
        let seeker = self.seeker.get().filter(|_| !topics.is_empty())?;
        seeker.seek(space.clone(), vec![(action, topics)], *deadline / GLANCE).await;
        match self.all_known(&space, &[action], None).await.pop()? {
            Ok(Known::Here(output)) => Some(output),
            _ => None,
        }
    }

    /// Claims that a key gave an output, whatever was claimed before: for tools that say so only when they mean it. What
    /// is claimed already is not claimed again.
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn publish_over(self: &Arc<Self>, publication: Publication) -> Result<Digest, CacheError> {
        let engine = Arc::clone(self);
        span::blocking(move || engine.publish_over_now(publication)).await
    }

    /// The same. Blocks.
    fn publish_over_now(&self, publication: Publication) -> Result<Digest, CacheError> {
        let Publication { project, recipe, key, .. } = &publication;
        let action = ActionId::derive(project, recipe, key, None).ok();
        // Where there was nothing before, nothing can be let go.
        let action = action.filter(|action| self.store.index().maybe(action));
        let claimed = self.publish_as(publication, true)?;
        if let (Some(action), Some(own)) = (action, self.signer()) {
            self.thin(&action, |signer| signer == own)?;
        }
        Ok(claimed)
    }

    /// Takes a value of at most so many bytes that comes: into memory if that is no more than `together`, or no more than
    /// a piece when it may be lost and few others come, else into the store.
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn take(
        self: &Arc<Self>,
        (mut from, most): (impl AsyncRead + Send + Unpin, u64),
        (together, durability): (usize, Durability),
    ) -> Result<Taken, CacheError> {
        let whole = durability == Durability::Fast && most > together as u64 && most <= PIECE_BYTES as u64;
        let place = whole.then(|| self.coming.try_acquire()).and_then(Result::ok);
        let together = if place.is_some() { PIECE_BYTES } else { together.min(PIECE_BYTES) };
        let Some(most) = usize::try_from(most).ok().filter(|most| *most <= together) else {
            let (writing, last) = self.begin(from, Some(most)).await?;
            return Ok(Taken::Begun(Box::new(writing), last));
        };
        // It has room for more than may come, so that the end is found without growing.
        let mut bytes = buffers::room(most);
        while from.read_buf(&mut *bytes).await.map_err(CacheError::Source)? > 0 {
            if bytes.len() > most {
                return Err(CacheError::Source(io::ErrorKind::InvalidData.into()));
            }
        }
        Ok(Taken::Here(bytes))
    }

    /// Claims that a key gave such a value, over whatever was claimed before; it is stored first, all on one thread. What
    /// may be lost is not waited for: who asks about it meanwhile waits.
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn publish_taken(
        self: &Arc<Self>,
        (space, key): (&Space, &[u8]),
        taken: Taken,
        publication: impl FnOnce(Output) -> Publication + Send + 'static,
    ) -> Result<(), CacheError> {
        let action = ActionId::derive(&space.project, &space.recipe, key, None);
        let action = action.map_err(|error| CacheError::Usage(error.to_string()))?;
        // What was sent last is to be claimed last.
        self.claiming.ended(&[action], Duration::MAX).await;
        let (engine, claiming) = (Arc::clone(self), self.claiming.begin(action));
        let bytes = taken.bytes();
        let claim = move || {
            let _claiming = claiming;
            let blob = engine.keep_taken(taken)?;
            engine.publish_over_now(publication(Output::Blob(blob)))?;
            engine.make_room_soon();
            Ok(())
        };
        if self.durability(&space.recipe) == Durability::Durable {
            return span::blocking(claim).await;
        }
        // A full disk is told to whoever can still hear it.
        self.store.take_room(0)?;
        self.behind.add(bytes, claim).await;
        Ok(())
    }

    /// Stores what is not stored of a value. Blocks.
    fn keep_taken(&self, taken: Taken) -> Result<BlobOutput, CacheError> {
        let (digest, size) = match taken {
            Taken::Stored(blob) => return Ok(blob),
            Taken::Here(bytes) => (self.store.keep(&bytes, Durability::Fast)?, bytes.len() as u64),
            Taken::Begun(mut writing, last) => {
                writing.write(&last)?;
                writing.finish(Durability::Fast)?
            }
        };
        Ok(BlobOutput { digest, size })
    }

    /// Lets go of Entries that newer ones of the same signer replace, when there are many about one key.
    pub(super) fn thin(&self, action: &ActionId, of: impl Fn(Signer) -> bool) -> Result<(), StoreError> {
        let mut by_signer: BTreeMap<Signer, Vec<_>> = BTreeMap::new();
        for entry in self.store.index().entries(action)? {
            let Ok(issued) = entry.authentic().map(|claim| claim.issued) else { continue };
            for signer in entry.signers().filter(|signer| of(*signer)) {
                let name = EntryName { action: *action, signer, claim: claim_digest(&entry) };
                by_signer.entry(signer).or_default().push((issued, name));
            }
        }
        let many = by_signer.into_values().filter(|entries| entries.len() > MOST_OF_ONE);
        let old = many.flat_map(|mut entries| {
            entries.sort_unstable();
            entries.pop();
            entries
        });
        let old: Vec<_> = old.map(|(_, name)| name).collect();
        if !old.is_empty() {
            self.store.index().forget_entries(old, self.signer())?;
        }
        Ok(())
    }

    /// Forgets what is known under a key here, and takes back what this node claimed about it. Others keep what they
    /// have. Gives whether there was anything.
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn withdraw(self: &Arc<Self>, space: &Space, key: &[u8]) -> Result<bool, CacheError> {
        let action = ActionId::derive(&space.project, &space.recipe, key, None);
        let action = action.map_err(|error| CacheError::Usage(error.to_string()))?;
        self.claiming.ended(&[action], Duration::MAX).await;
        if !self.store.index().maybe(&action) {
            return Ok(false);
        }
        let engine = Arc::clone(self);
        let withdrawn = span::blocking(move || {
            let entries = engine.store.index().entries(&action)?;
            let name = |entry: &Signed<Entry>| {
                let claim = claim_digest(entry);
                entry.signers().map(move |signer| EntryName { action, signer, claim }).collect::<Vec<_>>()
            };
            let names: Vec<_> = entries.iter().flat_map(name).collect();
            let forgotten = engine.store.index().forget_entries(names, engine.signer())?;
            for project in forgotten.projects {
                engine.tell(News::Published(project));
            }
            Ok::<_, StoreError>(forgotten.entries > 0)
        });
        Ok(withdrawn.await?)
    }

    /// All of a Blob of so many bytes, if it is one that takes no longer than a look at the index.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn small(&self, digest: &Digest, size: u64) -> Result<Option<Vec<u8>>, CacheError> {
        if size > MAX_INLINE_BYTES as u64 {
            return Ok(None);
        }
        Ok(self.store.bytes(digest, size)?)
    }

    /// All of a Blob of so many bytes, if that is at most a piece; nothing as well when many are read at the moment.
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn whole(&self, digest: Digest, size: u64) -> Result<Option<Bytes>, CacheError> {
        if size <= MAX_INLINE_BYTES as u64 {
            return Ok(self.small(&digest, size)?.map(Bytes::from));
        }
        let Some(place) = self.store.ahead().filter(|_| size <= PIECE_BYTES as u64) else { return Ok(None) };
        let Some(blob) = self.store.blob(&digest)?.filter(|blob| blob.pieces().count() == 1) else {
            return Ok(None);
        };
        // What need not be fetched from a disk is read and hashed here, some hundred microseconds at most: to go to another
        // thread and back takes some seventy more.
        let bytes = match self.store.lend_piece_at_once(&blob, 0) {
            Some(bytes) => bytes,
            None => {
                let store = self.store.clone();
                span::blocking(move || store.lend_piece(&blob, 0)).await?
            }
        };
        // It keeps its place until it was sent.
        Ok(Some(Bytes::from_owner(Placed { bytes, _place: place })))
    }
}

/// A value that came.
pub enum Taken {
    /// It is in memory.
    Here(Lent),
    /// It is in the store but for its last bytes, and has no name yet.
    Begun(Box<Writing>, Lent),
    /// It is in the store.
    Stored(BlobOutput),
}

impl Taken {
    /// How many bytes of it are in memory.
    fn bytes(&self) -> usize {
        match self {
            Self::Here(bytes) | Self::Begun(_, bytes) => bytes.len(),
            Self::Stored(_) => 0,
        }
    }
}

/// Bytes that take a place of those that may be read ahead.
struct Placed {
    bytes: Bytes,
    _place: OwnedSemaphorePermit,
}

impl AsRef<[u8]> for Placed {
    fn as_ref(&self) -> &[u8] {
        &self.bytes
    }
}
