// SPDX-License-Identifier: MIT OR Apache-2.0
//! One part of a bundle: which Entries of it are accepted, and what they still wait for.

use std::collections::{BTreeMap, HashMap};
use std::mem;

use potluck_keys::policy::Reason;
use potluck_keys::signed::Signed;
use potluck_protocol::action::ActionId;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Entry, Output};

use super::super::{BundleError, MAX_WANTED};
use super::Imported;
use crate::engine::answer::Weighed;
use crate::engine::{Engine, Known, MAX_TREE_BYTES};
use crate::fetch::event::{Need, Space};

/// What the accepted Entries of a part wait for.
#[derive(Default)]
pub(super) struct Part {
    waiting: Vec<Waiting>,
    wanted: HashMap<Digest, Wanted>,
}

/// Entries about one action that are kept once its output is here.
struct Waiting {
    entries: Vec<Signed<Entry>>,
    blobs: Vec<Digest>,
    /// Whether the first Blob is a Tree that has not come.
    for_tree: bool,
    left: usize,
}

struct Wanted {
    size: u64,
    is_tree: bool,
    /// Who waits for it: places in `waiting`, ascending.
    by: Vec<usize>,
}

/// What a Tree that has come brings about.
pub(super) struct Arrived {
    /// All files that it lists.
    pub(super) all: Vec<Digest>,
    /// Those of them that are not here.
    pub(super) absent: Vec<Need>,
}

/// Entries with the Blobs that belong to their Project.
pub(super) type Complete = Vec<(Signed<Entry>, Vec<Digest>)>;

impl Part {
    /// Whether a Blob of this size is wanted, and if so, whether as a Tree.
    pub(super) fn wants(&self, digest: &Digest, size: u64) -> Option<bool> {
        self.wanted.get(digest).filter(|wanted| wanted.size == size).map(|wanted| wanted.is_tree)
    }

    /// How many Entries did not become complete.
    pub(super) fn incomplete(&self) -> u64 {
        let waiting = self.waiting.iter().filter(|waiting| waiting.left > 0);
        waiting.map(|waiting| waiting.entries.len() as u64).sum()
    }

    /// Judges all Entries of the part; gives those that need nothing more.
    pub(super) fn judge(
        &mut self,
        engine: &Engine,
        told: Vec<Signed<Entry>>,
        report: &mut Imported,
    ) -> Result<Complete, BundleError> {
        let policy = engine.trusting().now();
        policy.verify(&told);
        engine.own().policy().verify(&told);
        let mut actions: BTreeMap<(Space, ActionId), Vec<Signed<Entry>>> = BTreeMap::new();
        for entry in told {
            match entry.authentic() {
                Ok(claim) => {
                    let (project, recipe) = (claim.project.clone(), claim.recipe.clone());
                    let action = (Space { project, recipe }, claim.action);
                    actions.entry(action).or_default().push(entry);
                }
                Err(error) => {
                    let reason = Reason::NotGenuine(error);
                    report.refused(entry.signers().next(), None, (&policy, &reason));
                }
            }
        }
        let mut complete = Vec::new();
        for ((space, action), told) in actions {
            let Weighed { fresh, known, refused, verdict, refusal, .. } =
                engine.weigh(&space, &action, told)?;
            report.entries.known += known;
            let project = space.project.as_str();
            for (entry, reason) in &refused {
                report.refused(entry.signers().next(), Some(project), (&policy, reason));
            }
            match verdict {
                Known::Here(output) if !fresh.is_empty() => {
                    let blobs = engine.blobs(&output)?;
                    complete.extend(fresh.into_iter().map(|entry| (entry, blobs.clone())));
                }
                Known::Lacks { output, blobs, .. } if !fresh.is_empty() => {
                    self.wait(engine, fresh, (&output, blobs))?;
                }
                Known::Here(_) | Known::Lacks { .. } => {}
                Known::Refused | Known::Nothing => {
                    let reason = refusal.map_or(Reason::Nothing, |refusal| refusal.reason);
                    for entry in &fresh {
                        report.refused(entry.signers().next(), Some(project), (&policy, &reason));
                    }
                }
            }
        }
        Ok(complete)
    }

    /// Has Entries wait for what their output lacks.
    fn wait(
        &mut self,
        engine: &Engine,
        entries: Vec<Signed<Entry>>,
        (output, lacks): (&Output, Vec<Need>),
    ) -> Result<(), BundleError> {
        let own = *output.digest();
        let tree_lacks = lacks.iter().any(|need| need.digest == own) && matches!(output, Output::Tree(_));
        let blobs = if tree_lacks { vec![own] } else { engine.blobs(output)? };
        let place = self.waiting.len();
        self.waiting.push(Waiting { entries, blobs, for_tree: tree_lacks, left: 0 });
        for need in lacks {
            let is_tree = tree_lacks && need.digest == own;
            self.want(place, &need, is_tree);
        }
        Ok(())
    }

    fn want(&mut self, place: usize, need: &Need, is_tree: bool) {
        let waiting = &mut self.waiting[place];
        let too_many = self.wanted.len() >= MAX_WANTED && !self.wanted.contains_key(&need.digest);
        let wanted = Wanted { size: need.size, is_tree, by: Vec::new() };
        // Counted in any case: what cannot be wanted never comes.
        waiting.left += 1;
        if too_many || is_tree && need.size > MAX_TREE_BYTES {
            return;
        }
        let wanted = self.wanted.entry(need.digest).or_insert(wanted);
        // Of two sizes one is wrong, and what is a Tree for one Entry may be a file for another.
        if wanted.size == need.size && wanted.by.last() != Some(&place) {
            wanted.is_tree |= is_tree;
            wanted.by.push(place);
        } else if wanted.size == need.size {
            waiting.left -= 1;
        }
    }

    /// A Blob has come, which may be a Tree; gives the Entries that were waiting for nothing else.
    pub(super) fn arrived(&mut self, digest: &Digest, tree: Option<&Arrived>) -> Complete {
        let Some(Wanted { by, .. }) = self.wanted.remove(digest) else { return Vec::new() };
        let mut complete = Vec::new();
        for place in by {
            if mem::take(&mut self.waiting[place].for_tree) {
                // What was to be a Tree and is none never becomes one.
                let Some(Arrived { all, absent }) = tree else { continue };
                self.waiting[place].blobs.extend(all);
                for need in absent {
                    self.want(place, need, false);
                }
            }
            let waiting = &mut self.waiting[place];
            waiting.left -= 1;
            if waiting.left == 0 {
                let (entries, blobs) = (mem::take(&mut waiting.entries), mem::take(&mut waiting.blobs));
                complete.extend(entries.into_iter().map(|entry| (entry, blobs.clone())));
            }
        }
        complete
    }
}
