// SPDX-License-Identifier: MIT OR Apache-2.0
//! What peers ask and are told, and what they tell and is believed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use potluck_keys::policy::{Reason, Refusal};
use potluck_keys::signed::Signed;
use potluck_protocol::action::ActionId;
use potluck_protocol::codec::Bytes;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Entry, Output};
use potluck_protocol::peer::{self, Found, Inline, MAX_CLAIMS, MAX_INLINE, MAX_INLINE_BYTES, Packing, Topic};
use potluck_protocol::tree::Tree;

#[cfg(feature = "net")]
use super::output_bytes;
use super::trace::Refused;
use super::{Engine, Known, News, SOON_ENTRIES, files, is_soon, newest, want};
use crate::content::Durability;
use crate::fetch::event::{Need, Space, Verdict};
use crate::gc::protect::Hold;
use crate::index::{self, View};
use crate::observe::{clock, span};
use crate::store::{StoreError, is_small as is_small_blob, unpack};

/// Most bytes of Blobs that go along with one answer, whatever the asker would take.
const MAX_INLINE_TOTAL: u64 = 512 * 1024;

/// Most actions of one question, or one answer, that are looked at without going to a thread that may block.
const SOON_ACTIONS: usize = 4;
/// Most bytes of outputs that are read or kept there. What is larger lies in files of its own.
const SOON_BYTES: u64 = 4 * index::MAX_INLINE_BYTES as u64;

/// An action, and the Entries about it.
type Present<'q> = (&'q ActionId, Vec<Signed<Entry>>);

#[cfg(feature = "net")]
/// How many bytes the output of a claim has, as that says.
fn claimed_bytes(entry: &Signed<Entry>) -> u64 {
    entry.authentic().map_or(0, |entry| output_bytes(&entry.output))
}

/// Whether what a peer told is so little that it is better looked at on the spot.
fn is_small(found: &[Found]) -> bool {
    let inline = || found.iter().flat_map(|found| &found.blobs);
    found.len() <= SOON_ACTIONS
        // Each may carry several signatures, which are looked at here.
        && found.iter().map(|found| found.entries.len()).sum::<usize>() <= SOON_ENTRIES
        && inline().all(|blob| blob.size <= index::MAX_INLINE_BYTES as u64)
        && inline().map(|blob| blob.size).sum::<u64>() <= SOON_BYTES
}

/// What came of an output with an answer.
struct Taken {
    /// These Blobs, each as it should be.
    blobs: Vec<Digest>,
    /// Whether those are all that it names.
    all: bool,
}

/// The Blobs that came with an answer.
fn named(found: &Found) -> BTreeMap<Digest, &Inline> {
    found.blobs.iter().map(|inline| (inline.digest, inline)).collect()
}

/// One of them, if it is what its name says; with how many bytes were sent of it.
fn inlined(came: &BTreeMap<Digest, &Inline>, digest: &Digest) -> Option<(Vec<u8>, u64)> {
    let inline = came.get(digest)?;
    let bytes = unpack(inline.packing, &inline.bytes, inline.size).ok()?;
    (Digest::of(&bytes) == *digest).then_some((bytes, inline.bytes.len() as u64))
}

/// What claims that came from elsewhere amount to.
pub(crate) struct Weighed {
    /// They and those that are known, without what is refused.
    pub(crate) all: Vec<Signed<Entry>>,
    /// Those that the policy has a use for and that are not known yet.
    pub(crate) fresh: Vec<Signed<Entry>>,
    /// How many of them are known.
    pub(crate) known: u64,
    /// Those that it has no use for, and why.
    pub(crate) refused: Vec<(Signed<Entry>, Reason)>,
    /// What is known with them.
    pub(crate) verdict: Known,
    /// Why there is no output, when the claims are not enough for one.
    pub(crate) refusal: Option<Refusal>,
}

impl Engine {
    /// What is known here about what a peer asks. Claims of signers whom this node does not believe are given as
    /// well: the asker has a policy of its own. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn tell_peer(&self, question: &peer::Question) -> Result<Vec<Found>, StoreError> {
        let Some(view) = self.view_of(question)? else { return Ok(Vec::new()) };
        self.found(question, (&view, &self.present(&view, question)?))
    }

    #[cfg(feature = "net")]
    /// The same where it may not block, or nothing when it might take longer than going to a thread that may; see
    /// [`Self::known_at_once`].
    pub(crate) fn tell_peer_at_once(
        &self,
        question: &peer::Question,
    ) -> Option<Result<Vec<Found>, StoreError>> {
        let maybe = question.actions.iter().filter(|action| self.store.index().maybe(action));
        if maybe.take(SOON_ACTIONS + 1).count() > SOON_ACTIONS {
            return None;
        }
        let told = || {
            let Some(view) = self.view_of(question)? else { return Ok(Some(Vec::new())) };
            let present = self.present(&view, question)?;
            let mut bytes = 0;
            let soon = present.iter().all(|(_, entries)| {
                bytes += entries.iter().map(claimed_bytes).sum::<u64>();
                entries.len() <= SOON_ENTRIES && entries.iter().all(is_soon)
            });
            if !soon || bytes > SOON_BYTES {
                return Ok(None);
            }
            self.found(question, (&view, &present)).map(Some)
        };
        told().transpose()
    }

    /// The index as it stands now, which serves all of a question; nothing where it is known from memory that nothing
    /// is there.
    fn view_of(&self, question: &peer::Question) -> Result<Option<View<'_>>, StoreError> {
        let index = self.store.index();
        let any = question.actions.iter().any(|action| index.maybe(action));
        Ok(if any { Some(index.view()?) } else { None })
    }

    /// The Entries about what a peer asks.
    fn present<'q>(
        &self,
        view: &View<'_>,
        question: &'q peer::Question,
    ) -> Result<Vec<Present<'q>>, StoreError> {
        let present = question.actions.iter().filter(|action| self.store.index().maybe(action));
        present.map(|action| Ok((action, view.entries(action)?))).collect()
    }

    fn found(
        &self,
        question: &peer::Question,
        (view, present): (&View<'_>, &[Present<'_>]),
    ) -> Result<Vec<Found>, StoreError> {
        let mut room = question.inline.min(MAX_INLINE_TOTAL);
        let mut all = Vec::new();
        for (action, entries) in present {
            let entries: Vec<_> = entries
                .iter()
                .filter(|entry| entry.authentic().is_ok_and(|entry| entry.project == question.project))
                .filter(|entry| !self.doubts.holds(entry))
                .take(MAX_CLAIMS)
                .collect();
            if entries.is_empty() {
                continue;
            }
            self.uses.touch(action, clock::now());
            let mut blobs = Vec::new();
            for entry in &entries {
                if let Ok(entry) = entry.authentic() {
                    self.inline(view, &entry.output, (&mut room, &mut blobs))?;
                }
            }
            let bytes = |entry: &&Signed<Entry>| Bytes::new(entry.bytes().to_vec());
            let entries = entries.iter().filter_map(bytes).collect();
            all.push(Found { action: **action, entries, heads: Vec::new(), blobs });
        }
        Ok(all)
    }

    /// Adds the Tree of an output, and its small files, as far as there is room; none of them without the Tree, which says
    /// what they are for.
    fn inline(
        &self,
        view: &View<'_>,
        output: &Output,
        (room, blobs): (&mut u64, &mut Vec<Inline>),
    ) -> Result<(), StoreError> {
        let own = *output.digest();
        let size = match output {
            Output::Blob(blob) => blob.size,
            Output::Tree(tree) => tree.size,
        };
        if !self.inline_one(view, &Need { digest: own, size }, (room, blobs))? {
            return Ok(());
        }
        let Output::Tree(_) = output else { return Ok(()) };
        let along = blobs.iter().find(|inline| inline.digest == own && inline.packing == Packing::Raw);
        let tree = match along {
            Some(inline) if Digest::of(&inline.bytes) == own => Tree::decode(&inline.bytes).ok(),
            _ => self.tree_in(view, &own)?,
        };
        for need in tree.iter().flat_map(files).filter(|need| need.size <= MAX_INLINE_BYTES as u64) {
            if blobs.len() >= MAX_INLINE {
                break;
            }
            self.inline_one(view, &need, (room, blobs))?;
        }
        Ok(())
    }

    /// Adds a Blob as it is stored, since whoever gets it checks it, if it is small and here and there is room; gives
    /// whether it goes along. What there is no room for is not read: a Tree may name thousands.
    fn inline_one(
        &self,
        view: &View<'_>,
        &Need { digest, size }: &Need,
        (room, blobs): (&mut u64, &mut Vec<Inline>),
    ) -> Result<bool, StoreError> {
        let full = blobs.len() >= MAX_INLINE || size > *room;
        let along = blobs.iter().any(|inline| inline.digest == digest);
        if full || along {
            return Ok(along);
        }
        let small = if is_small_blob(size) { self.store.small_as_it_is(view, &digest)? } else { None };
        let (size, packing, bytes) = match small {
            Some(bytes) => (bytes.len() as u64, Packing::Raw, bytes.into()),
            None => {
                let Some(blob) = self.store.blob(&digest)? else { return Ok(false) };
                if blob.pieces().count() != 1 {
                    return Ok(false);
                }
                let (packing, bytes) = blob.packed(0)?;
                (blob.pieces().size(), packing, bytes)
            }
        };
        let Some(bytes) = Bytes::new(bytes).filter(|bytes| bytes.len() as u64 <= *room) else {
            return Ok(false);
        };
        *room -= bytes.len() as u64;
        blobs.push(Inline { digest, size, packing, bytes });
        Ok(true)
    }

    /// Takes what a peer told about actions of a space: keeps what the policy accepts, counts what it refuses, and
    /// says what is known now. A small answer is looked at on the spot: what came of it waits in memory for the next
    /// change of the index, and nobody waits for that.
    ///
    /// # Errors
    /// [`StoreError`].
    pub async fn told_by_peer(
        self: &Arc<Self>,
        space: &Space,
        found: Vec<Found>,
    ) -> Result<Vec<(ActionId, Verdict)>, StoreError> {
        let few = is_small(&found) && !self.store.index().is_full() && !newest::counts(&space.recipe);
        if !few {
            let (engine, space) = (Arc::clone(self), space.clone());
            return span::blocking(move || {
                let claims = engine.told_claims(&found);
                engine.told_all(&space, &found, claims)
            })
            .await;
        }
        let claims = self.told_claims(&found);
        if claims.iter().flatten().all(is_soon) {
            let told = self.told_all(space, &found, claims);
            self.make_room_soon();
            return told;
        }
        let (engine, space) = (Arc::clone(self), space.clone());
        span::blocking(move || engine.told_all(&space, &found, claims)).await
    }

    /// The claims of an answer, their signatures looked at.
    fn told_claims(&self, found: &[Found]) -> Vec<Vec<Signed<Entry>>> {
        // By this policy all of the answer is judged.
        let policy = self.trusting.now();
        let claims = found.iter().map(|found| {
            let told: Vec<Signed<Entry>> =
                found.entries.iter().filter_map(|bytes| Signed::decode(bytes).ok()).collect();
            policy.verify(&told);
            told
        });
        claims.collect()
    }

    fn told_all(
        &self,
        space: &Space,
        found: &[Found],
        claims: Vec<Vec<Signed<Entry>>>,
    ) -> Result<Vec<(ActionId, Verdict)>, StoreError> {
        let told = |(found, told): (&Found, _)| Ok((found.action, self.told(space, found, told)?));
        found.iter().zip(claims).map(told).collect()
    }

    fn told(&self, space: &Space, found: &Found, told: Vec<Signed<Entry>>) -> Result<Verdict, StoreError> {
        let Weighed { all, fresh, refused, mut verdict, .. } = self.weigh(space, &found.action, told)?;
        if let Known::Here(output) | Known::Lacks { output, .. } = &verdict {
            let output = output.clone();
            let Taken { mut blobs, all: whole } = self.take_inline(&output, found)?;
            // Whatever came is of this Project, and may be passed on where it is shared.
            blobs.push(*output.digest());
            for entry in &fresh {
                self.store.index().keep_entry(entry, &blobs, Durability::Fast)?;
                if newest::counts(&space.recipe) {
                    self.thin(&found.action, |_| true)?;
                }
                for signer in entry.signers() {
                    self.tell_held(Topic { signer, project: space.project.clone() });
                }
            }
            let view = self.store.index().view()?;
            verdict = match (verdict, all.as_slice()) {
                // What was just judged is not judged differently now; only what it lacks has come.
                (Known::Lacks { output, cost, .. }, [_]) => {
                    match self.lacks(&view, &output, Some(Hold::Promise))? {
                        blobs if blobs.is_empty() => Known::Here(output),
                        blobs => Known::Lacks { output, blobs, cost },
                    }
                }
                _ => self.judge_by((&view, &|| self.trusting.seen()), (space, &found.action), &all)?,
            };
            // Otherwise it is noted that they belong to the Project.
            if whole && !fresh.is_empty() && matches!(verdict, Known::Here(_)) {
                return Ok(Verdict::Here);
            }
        }
        // What only lacks the agreement of others waits for it.
        if let Known::Refused = verdict {
            for entry in &fresh {
                self.store.index().keep_entry(entry, &[], Durability::Fast)?;
            }
        }
        // What is refused is not kept, but whoever asked is to know that it was there.
        if !refused.is_empty() && matches!(verdict, Known::Nothing) {
            return Ok(Verdict::Refused);
        }
        self.verdict_of(space, verdict)
    }

    /// Tells that Entries of a topic are held, where that is not known yet: whoever listens would be woken by each hit.
    pub(crate) fn tell_held(&self, topic: Topic) {
        let mut held = self.held.lock().expect("nobody panics while holding the topics");
        if let Some(to) = self.news.get().filter(|_| !held.contains(&topic))
            && to.try_send(News::Holds(topic.clone())).is_ok()
        {
            held.insert(topic);
        }
    }

    /// Judges claims about an action that came from elsewhere, beside those that are known, by the policy that was looked
    /// at last. Nothing is kept. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn weigh(
        &self,
        space: &Space,
        action: &ActionId,
        told: Vec<Signed<Entry>>,
    ) -> Result<Weighed, StoreError> {
        let view = self.store.index().view()?;
        let mut all = view.entries(action)?;
        let mut names: BTreeSet<Vec<u8>> = all.iter().map(|entry| entry.bytes().to_vec()).collect();
        let (mut fresh, mut refused, mut known) = (Vec::new(), Vec::new(), 0);
        for entry in told {
            if !names.insert(entry.bytes().to_vec()) {
                known += 1;
                continue;
            }
            match self.refusal(space, action, &entry) {
                None => fresh.push(entry),
                Some(reason) => refused.push((entry, reason)),
            }
        }
        all.extend(fresh.iter().cloned());
        let policy = self.trusting.seen();
        let verdict = self.judge_by((&view, &|| Arc::clone(&policy)), (space, action), &all)?;
        let choice = || policy.choose(&all, &want(space, action), clock::now()).outcome.err();
        let refusal = if let Known::Refused = verdict { choice() } else { None };
        Ok(Weighed { all, fresh, known, refused, verdict, refusal })
    }

    /// Why the policy has no use for a claim, if it has none. One that it refuses is counted and not kept, so that
    /// strangers cannot fill the index; one that only needs the agreement of others is kept until they come.
    fn refusal(&self, space: &Space, action: &ActionId, entry: &Signed<Entry>) -> Option<Reason> {
        let policy = self.trusting.seen();
        let refusal = policy.judge(entry, &want(space, action), clock::now()).err()?;
        if let Reason::TooFew { .. } = refusal.reason {
            return None;
        }
        let own = |signer| Some(signer) == self.own.signer();
        for signer in entry.signers().filter(|signer| !own(*signer)) {
            let name = policy.name_of(&signer);
            self.counts.refused(refusal.reason.code(), &name);
            let (reason, text) = (refusal.reason.code(), refusal.reason.explain(&policy));
            let rule = refusal.rule.as_ref().map(ToString::to_string);
            self.traces.refused(action, Refused { signer: name, reason, text, rule });
            tracing::info!(%action, %signer, reason = %refusal.reason, "a claim was refused");
        }
        Some(refusal.reason)
    }

    /// Keeps the Blobs of an accepted output that came with the answer, and nothing else.
    fn take_inline(&self, output: &Output, found: &Found) -> Result<Taken, StoreError> {
        let mut taken = Taken { blobs: Vec::new(), all: true };
        let came = named(found);
        let own = inlined(&came, output.digest());
        let tree = match (output, &own) {
            (Output::Tree(_), Some((bytes, _))) => Tree::decode(bytes).ok(),
            _ => None,
        };
        let files = tree.iter().flat_map(files).map(|need| (need.digest, None));
        // Small ones are kept together, each once: an answer has few, however often a Tree names them.
        let (mut seen, mut small) = (BTreeSet::new(), Vec::new());
        for (digest, known) in std::iter::once((*output.digest(), own)).chain(files) {
            if !seen.insert(digest) {
                continue;
            }
            let Some((bytes, sent)) = known.or_else(|| inlined(&came, &digest)) else {
                taken.all = false;
                continue;
            };
            taken.blobs.push(digest);
            if is_small_blob(bytes.len() as u64) {
                small.push((digest, bytes.into()));
            } else if !self.store.holds(&digest, Hold::Promise)? {
                self.counts.fetched(sent);
                self.store.keep(&bytes, Durability::Fast)?;
            }
        }
        // There is no need to look first which of them are here: that is seen when they are kept.
        self.counts.fetched(self.store.keep_checked(&small)?);
        Ok(taken)
    }

    /// What is known about an action, as the fetch Plan wants to hear it. Blobs that are now complete are noted as
    /// belonging to the Project. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn verdict(&self, space: &Space, action: &ActionId) -> Result<Verdict, StoreError> {
        let known = self.known(space, action)?;
        self.verdict_of(space, known)
    }

    fn verdict_of(&self, space: &Space, known: Known) -> Result<Verdict, StoreError> {
        Ok(match known {
            Known::Here(output) => {
                let blobs = self.blobs(&output)?;
                self.store.index().belong(&blobs, &space.project, Durability::Fast)?;
                Verdict::Here
            }
            Known::Lacks { blobs, cost, .. } => Verdict::Needs { blobs, cost },
            Known::Refused => Verdict::Refused,
            Known::Nothing => Verdict::Nothing,
        })
    }

    /// The Blob that a peer wants, if it belongs to a Project that `shared` picks. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn blob_for_peer(
        &self,
        digest: &Digest,
        shared: impl Fn(&str) -> bool,
    ) -> Result<Option<crate::store::Blob>, StoreError> {
        if !self.store.index().belongs(digest, shared)? {
            return Ok(None);
        }
        self.store.blob(digest)
    }
}
