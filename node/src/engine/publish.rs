// SPDX-License-Identifier: MIT OR Apache-2.0
//! Own claims: Entries as tools publish them, and the Catalogs that list them.

use std::sync::{Arc, PoisonError};
use std::time::Duration;

use potluck_keys::pair::Pair;
use potluck_keys::policy::CLOCK_SKEW;
use potluck_keys::signed::Signed;
use potluck_keys::time::Time;
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::catalog::{Catalog, Segment, SegmentRef};
use potluck_protocol::codec::{Bytes, Text};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Entry, Output, claim_digest};
use potluck_protocol::head::{CATALOG, Head};
use potluck_protocol::peer::Topic;

use super::{Engine, News, files};
use crate::cache::{CacheError, Publication};
use crate::catalog::own;
use crate::content::Durability;
use crate::index::{IndexError, OwnCatalog};
use crate::observe::{clock, span};
use crate::store::StoreError;

/// How long an own Entry holds.
pub const ENTRY_LIFE: Duration = Duration::from_secs(180 * 86_400);
/// How long an own Catalog Head holds: whoever sees nothing newer by then is being kept in the dark.
pub const HEAD_LIFE: Duration = Duration::from_secs(7 * 86_400);

/// Why an own Catalog was not written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FlushError {
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The Catalog.
    #[error(transparent)]
    Own(#[from] own::OwnError<StoreError>),
    /// The Head could not be signed.
    #[error("the catalog's head: {0}")]
    Claim(#[from] potluck_keys::signed::ClaimError),
    /// Nobody can sign here.
    #[error("there is no key to sign with")]
    NoKey,
}

impl From<IndexError> for FlushError {
    fn from(error: IndexError) -> Self {
        Self::Store(error.into())
    }
}

/// What came of a flush.
#[derive(Debug)]
pub struct Flushed {
    /// The new Head, when there was anything to write.
    pub head: Option<Signed<Head>>,
    /// Whether more is waiting than went into it.
    pub rest: bool,
    /// Whether Segments are waiting to be merged.
    pub merge: bool,
}

/// What came of a merge.
#[derive(Debug)]
pub struct MergedCatalog {
    /// The new Head, when there was anything to merge.
    pub head: Option<Signed<Head>>,
    /// Whether more Segments are waiting.
    pub more: bool,
}

/// Whether an own claim is dated so far ahead that nobody believes it, this node included: its clock was set back.
fn is_ahead(issued: Time) -> bool {
    issued > clock::now().plus(CLOCK_SKEW)
}

impl Engine {
    /// Claims that a key gave an output. First wins: what is claimed already and can be delivered stays. Blocks.
    pub(super) fn publish_now(&self, publication: Publication) -> Result<Digest, CacheError> {
        self.publish_as(publication, false)
    }

    /// The same, or `over` another output that this node has claimed already. Blocks.
    pub(crate) fn publish_as(&self, publication: Publication, over: bool) -> Result<Digest, CacheError> {
        let pair = self.own.pair().ok_or(CacheError::NoKey)?;
        self.store.stir();
        let Publication { project, recipe, key, output, labels, taints } = publication;
        let action = ActionId::derive(&project, &recipe, &key, None);
        let action = action.map_err(|error| CacheError::Usage(error.to_string()))?;
        if self.incomplete(&output)? {
            return Err(CacheError::Usage("not all blobs of the output have been written".to_owned()));
        }
        let durability = self.durability(&recipe);
        let before = self.standing(pair, &action)?;
        let same = before.as_ref().filter(|(_, standing)| standing.output == output);
        if let Some((name, _)) = same.filter(|(name, _)| self.doubts.names(name)) {
            // It was made a second time, so it was right.
            self.doubts.withdraw(name).map_err(|error| CacheError::Store(error.to_string()))?;
        }
        if let Some((name, standing)) = &before
            && !is_ahead(standing.issued)
            && (same.is_some() || !over && !self.doubts.names(name) && !self.incomplete(&standing.output)?)
        {
            // Its Blobs may have been lost and written anew since.
            self.secure(&standing.output, durability)?;
            return Ok(*name);
        }
        let issued = clock::now();
        // Others may still know an earlier one that made room here.
        let replaces = match before {
            Some((name, _)) => Some(name),
            None => self.store.index().withdrawn(&action).map_err(StoreError::from)?,
        };
        let not_after = issued.plus(ENTRY_LIFE);
        let entry = Entry { project, recipe, action, output, labels, taints, issued, not_after, replaces };
        let signed = Signed::sign(&entry, &[pair]).map_err(|error| CacheError::Usage(error.to_string()))?;
        let blobs = self.secure(&entry.output, durability)?;
        self.store.index().publish(&signed, &blobs, durability).map_err(StoreError::from)?;
        self.uses.touch(&action, issued);
        self.store.protected().published(&blobs);
        self.counts.published(&entry.project, &entry.recipe);
        self.tell_published(entry.project);
        Ok(claim_digest(&signed))
    }

    /// Says that a Catalog has to be written, once for all that goes into it: whoever listens has to be woken for it.
    fn tell_published(&self, project: Project) {
        let mut unlisted = self.unlisted.lock().unwrap_or_else(PoisonError::into_inner);
        if !unlisted.contains(&project)
            && let Some(to) = self.news.get()
            && to.try_send(News::Published(project.clone())).is_ok()
        {
            unlisted.insert(project);
        }
    }

    /// Has what waits in memory put into the index once there is much of it, so that whoever keeps more need not wait
    /// for that.
    pub(crate) fn make_room_soon(&self) {
        let index = self.store.index();
        if index.wants_room() {
            let index = Arc::clone(index);
            drop(span::blocking_task(move || {
                if let Err(error) = index.make_room() {
                    tracing::warn!(%error, "what waits for the index cannot be put there");
                }
            }));
        }
    }

    /// Sees to it that all Blobs of an output are as durable as a claim about it has to be, and gives them.
    fn secure(&self, output: &Output, durability: Durability) -> Result<Vec<Digest>, StoreError> {
        let blobs = self.blobs(output)?;
        if durability == Durability::Durable {
            self.store.sync(&blobs)?;
        }
        Ok(blobs)
    }

    /// What a publication has to have survived when it is answered: its Front has the name of its Recipe.
    pub(crate) fn durability(&self, recipe: &Recipe) -> Durability {
        let front = recipe.as_str().split('@').next().unwrap_or_default();
        self.config.durability(front)
    }

    /// The own Entry about an action that no other one replaces.
    fn standing(&self, pair: &Pair, action: &ActionId) -> Result<Option<(Digest, Entry)>, StoreError> {
        let own = self.store.index().entries(action)?;
        let own = own.iter().filter(|entry| entry.signers().any(|signer| signer == pair.signer()));
        let own: Vec<_> =
            own.filter_map(|entry| Some((claim_digest(entry), entry.authentic().ok()?.clone()))).collect();
        let replaced = |name: &Digest| own.iter().any(|(_, entry)| entry.replaces.as_ref() == Some(name));
        let standing = own.iter().filter(|(name, _)| !replaced(name));
        Ok(standing.max_by_key(|(name, entry)| (entry.issued, *name)).cloned())
    }

    /// All Blobs of an output that is here.
    pub(crate) fn blobs(&self, output: &Output) -> Result<Vec<Digest>, StoreError> {
        let mut blobs = vec![*output.digest()];
        if let Output::Tree(tree) = output
            && let Some(tree) = self.tree(&tree.digest)?
        {
            blobs.extend(files(&tree).map(|need| need.digest));
        }
        Ok(blobs)
    }

    /// Writes what was published in a Project into its Catalog. Blocks.
    ///
    /// # Errors
    /// [`FlushError`]; nothing is lost then.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn flush(&self, project: &Project) -> Result<Flushed, FlushError> {
        let _alone = self.catalogs.lock().expect("nobody panics while writing a catalog");
        // What is published after this is told again, and what was published before is listed now.
        self.unlisted.lock().unwrap_or_else(PoisonError::into_inner).remove(project);
        let listed = self.store.index().outbox(project, own::MAX_FLUSH)?;
        let before = self.store.index().own_catalog(project)?;
        if listed.is_empty() {
            let merge = before.is_some_and(|own| own::waits(&own.catalog));
            return Ok(Flushed { head: None, rest: false, merge });
        }
        let catalog = before.as_ref().map(|own| own.catalog.clone());
        let next = own::next(project, catalog, &listed, |reference| self.segment(reference))?;
        let merge = own::waits(&next.catalog);
        let head = self.replace(before.as_ref(), next, &listed)?;
        Ok(Flushed { head: Some(head), rest: listed.len() == own::MAX_FLUSH, merge })
    }

    /// Merges some large Segments of a Project's Catalog, while it may be written as well. Blocks.
    ///
    /// # Errors
    /// [`FlushError`]; nothing is lost then.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn merge(&self, project: &Project) -> Result<MergedCatalog, FlushError> {
        let index = self.store.index();
        let before = index.own_catalog(project)?.map(|own| own.catalog);
        let merge = before.map(|catalog| own::Merge::of(&catalog, |reference| self.segment(reference)));
        let Some(merge) = merge.transpose()?.flatten() else {
            return Ok(MergedCatalog { head: None, more: false });
        };
        let _alone = self.catalogs.lock().expect("nobody panics while writing a catalog");
        let before = index.own_catalog(project)?;
        let now = before.as_ref().and_then(|own| merge.adopt(own.catalog.clone()));
        let Some(next) = now else { return Ok(MergedCatalog { head: None, more: true }) };
        let more = own::waits(&next.catalog);
        Ok(MergedCatalog { head: Some(self.replace(before.as_ref(), next, &[])?), more })
    }

    /// Puts the next state of an own Catalog in place of the one before. Whoever calls this holds the lock.
    fn replace(
        &self,
        before: Option<&OwnCatalog>,
        next: own::Next,
        listed: &[(ActionId, Digest)],
    ) -> Result<Signed<Head>, FlushError> {
        let pair = self.own.pair().ok_or(FlushError::NoKey)?;
        let last: Option<Signed<Head>> = before.map(|own| Signed::decode(&own.head)).transpose()?;
        let sequence = last.as_ref().map(|head| head.authentic().map(|head| head.sequence)).transpose()?;
        let mut blobs = Vec::with_capacity(next.blobs.len());
        for blob in &next.blobs {
            blobs.push(self.store.keep(blob, Durability::Durable)?);
        }
        let root = *blobs.last().expect("the catalog's own encoding is the last blob");
        let size = next.blobs.last().map_or(0, |blob| blob.len() as u64);
        let project = next.catalog.project.clone();
        let head = self.head(&project, sequence.unwrap_or(0) + 1, (root, size))?;
        let bytes = Bytes::new(head.bytes().to_vec()).expect("a signed head has its bound");
        let own = OwnCatalog { catalog: next.catalog, head: bytes };
        self.store.index().flush(&own, listed, &blobs)?;
        self.tell_held(Topic { signer: pair.signer(), project });
        Ok(head)
    }

    fn head(&self, project: &Project, sequence: u64, at: (Digest, u64)) -> Result<Signed<Head>, FlushError> {
        let pair = self.own.pair().ok_or(FlushError::NoKey)?;
        let ((root, size), issued) = (at, clock::now());
        let head = Head {
            project: project.clone(),
            name: Text::new(CATALOG).expect("the name is a short word"),
            recipe: None,
            instance: self.instance,
            sequence,
            root,
            size,
            issued,
            not_after: issued.plus(HEAD_LIFE),
        };
        Ok(Signed::sign(&head, &[pair])?)
    }

    fn segment(&self, reference: &SegmentRef) -> Result<Segment, StoreError> {
        let damaged = StoreError::Damaged(reference.digest);
        match self.store.bytes(&reference.digest, reference.size)? {
            Some(bytes) => Segment::decode(bytes).map_err(|_| damaged),
            None => Err(damaged),
        }
    }

    /// The newest own Head of a Project's Catalog, signed anew when half of its life is over, so that followers can
    /// tell silence from suppression. Blocks.
    ///
    /// # Errors
    /// [`FlushError`].
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn own_head(&self, project: &Project) -> Result<Option<Signed<Head>>, FlushError> {
        // Two Heads of one number, one renewed and one written, would look like a fork.
        let _alone = self.catalogs.lock().expect("nobody panics while writing a catalog");
        let Some(own) = self.store.index().own_catalog(project)? else { return Ok(None) };
        let signed: Signed<Head> = Signed::decode(&own.head)?;
        let head = signed.authentic()?.clone();
        let fresh = clock::now().since(head.issued) < HEAD_LIFE / 2 && !is_ahead(head.issued);
        if self.own.pair().is_none() || fresh {
            return Ok(Some(signed));
        }
        let fresh = self.head(project, head.sequence + 1, (head.root, head.size))?;
        let bytes = Bytes::new(fresh.bytes().to_vec()).expect("a signed head has its bound");
        let renewed = OwnCatalog { catalog: own.catalog, head: bytes };
        self.store.index().flush(&renewed, &[], &[])?;
        Ok(Some(fresh))
    }

    /// How many own claims of a Project the next flush will list.
    ///
    /// # Errors
    /// [`FlushError`].
    pub fn unlisted(&self, project: &Project) -> Result<usize, FlushError> {
        Ok(self.store.index().outbox(project, own::MAX_FLUSH)?.len())
    }

    /// The own Catalog of a Project and its Head, for showing.
    ///
    /// # Errors
    /// [`FlushError`].
    pub fn own_catalog(&self, project: &Project) -> Result<Option<(Catalog, Signed<Head>)>, FlushError> {
        let own = self.store.index().own_catalog(project)?;
        own.map(|own| Ok((own.catalog, Signed::decode(&own.head)?))).transpose()
    }
}
