// SPDX-License-Identifier: MIT OR Apache-2.0
//! What peers ask and are told, and what they tell and is believed.

use std::collections::BTreeSet;
use std::sync::Arc;

use potluck_keys::policy::{Reason, Refusal};
use potluck_keys::signed::Signed;
use potluck_protocol::action::ActionId;
use potluck_protocol::codec::Bytes;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Entry, Output};
use potluck_protocol::peer::{self, Found, Inline, MAX_CLAIMS, MAX_INLINE, MAX_INLINE_BYTES, Topic};
use potluck_protocol::tree::Tree;

use super::trace::Refused;
use super::{Engine, Known, News, SOON_ENTRIES, files, is_soon, newest, output_bytes, want};
use crate::content::Durability;
use crate::fetch::event::{Space, Verdict};
use crate::gc::protect::Hold;
use crate::index;
use crate::observe::{clock, span};
use crate::store::{StoreError, unpack};

/// Most bytes of Blobs that go along with one answer, whatever the asker would take.
const MAX_INLINE_TOTAL: u64 = 512 * 1024;

/// Most actions of one question, or one answer, that are looked at without going to a thread that may block.
const SOON_ACTIONS: usize = 4;
/// Most bytes of outputs that are read or kept there. What is larger lies in files of its own.
const SOON_BYTES: u64 = 4 * index::MAX_INLINE_BYTES as u64;

/// An action, and the Entries about it.
type Present<'q> = (&'q ActionId, Vec<Signed<Entry>>);

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
        let present = self.present(question)?;
        self.found(question, &present)
    }

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
        let present = match self.present(question) {
            Ok(present) => present,
            Err(error) => return Some(Err(error)),
        };
        let mut bytes = 0;
        let soon = present.iter().all(|(_, entries)| {
            bytes += entries.iter().map(claimed_bytes).sum::<u64>();
            entries.len() <= SOON_ENTRIES && entries.iter().all(is_soon)
        });
        (soon && bytes <= SOON_BYTES).then(|| self.found(question, &present))
    }

    /// The Entries about what a peer asks.
    fn present<'q>(&self, question: &'q peer::Question) -> Result<Vec<Present<'q>>, StoreError> {
        // What is absent is known from memory, and one view of the index serves all the others.
        let mut present =
            question.actions.iter().filter(|action| self.store.index().maybe(action)).peekable();
        if present.peek().is_none() {
            return Ok(Vec::new());
        }
        let view = self.store.index().view()?;
        let entries = |action| Ok((action, view.entries(action)?));
        present.map(entries).collect()
    }

    fn found(&self, question: &peer::Question, present: &[Present<'_>]) -> Result<Vec<Found>, StoreError> {
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
                    self.inline(&entry.output, &mut room, &mut blobs)?;
                }
            }
            let bytes = |entry: &&Signed<Entry>| Bytes::new(entry.bytes().to_vec());
            let entries = entries.iter().filter_map(bytes).collect();
            all.push(Found { action: **action, entries, heads: Vec::new(), blobs });
        }
        Ok(all)
    }

    /// Adds the Tree of an output, and its small files, as far as there is room.
    fn inline(&self, output: &Output, room: &mut u64, blobs: &mut Vec<Inline>) -> Result<(), StoreError> {
        let mut wanted = vec![*output.digest()];
        if let Output::Tree(tree) = output
            && let Some(tree) = self.tree(&tree.digest)?
        {
            wanted.extend(
                files(&tree).filter(|need| need.size <= MAX_INLINE_BYTES as u64).map(|need| need.digest),
            );
        }
        for digest in wanted {
            let known = blobs.iter().any(|inline| inline.digest == digest);
            let Some(blob) = self.store.blob(&digest)?.filter(|_| !known && blobs.len() < MAX_INLINE) else {
                continue;
            };
            if blob.pieces().count() != 1 || blob.pieces().size() > *room {
                continue;
            }
            let (packing, bytes) = blob.packed(0)?;
            let size = blob.pieces().size();
            if let Some(bytes) = Bytes::new(bytes) {
                *room -= bytes.len() as u64;
                blobs.push(Inline { digest, size, packing, bytes });
            }
        }
        Ok(())
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
            return self.told_all(space, &found, claims);
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
            let mut blobs = self.take_inline(&output, found)?;
            // Whatever came is of this Project, and may be passed on where it is shared.
            blobs.push(*output.digest());
            for entry in &fresh {
                self.store.index().keep_entry(entry, &blobs, Durability::Fast)?;
                if newest::counts(&space.recipe) {
                    self.thin(&found.action, |_| true)?;
                }
                for signer in entry.signers() {
                    self.tell(News::Holds(Topic { signer, project: space.project.clone() }));
                }
            }
            let view = self.store.index().view()?;
            verdict = self.judge_by((&view, &|| self.trusting.seen()), (space, &found.action), &all)?;
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
        let mut all = self.store.index().entries(action)?;
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
        let verdict =
            self.judge_by((&self.store.index().view()?, &|| Arc::clone(&policy)), (space, action), &all)?;
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
    fn take_inline(&self, output: &Output, found: &Found) -> Result<Vec<Digest>, StoreError> {
        let mut kept = Vec::new();
        let mut take = |digest: &Digest| -> Result<Option<Vec<u8>>, StoreError> {
            let Some(inline) = found.blobs.iter().find(|inline| inline.digest == *digest) else {
                return Ok(None);
            };
            let Ok(bytes) = unpack(inline.packing, &inline.bytes, inline.size) else { return Ok(None) };
            if Digest::of(&bytes) != *digest {
                return Ok(None);
            }
            let view = self.store.index().view()?;
            if !self.store.holds_sized(&view, (digest, inline.size), Hold::Promise)? {
                self.counts.fetched(inline.bytes.len() as u64);
                self.store.keep(&bytes, Durability::Fast)?;
            }
            kept.push(*digest);
            Ok(Some(bytes))
        };
        let tree = take(output.digest())?;
        if let (Output::Tree(_), Some(tree)) = (output, tree)
            && let Ok(tree) = Tree::decode(&tree)
        {
            for need in files(&tree) {
                take(&need.digest)?;
            }
        }
        Ok(kept)
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
