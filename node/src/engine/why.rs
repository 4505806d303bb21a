// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a look-up was answered as it was, and what is known about its action now, as one report for people and scripts.

use std::time::Duration;

use potluck_keys::policy::{Policy, Want};
use potluck_keys::signed::Signed;
use potluck_protocol::action::ActionId;
use potluck_protocol::entry::{Entry, Output, claim_digest};
use potluck_protocol::peer::Topic;
use serde::Serialize;

use super::count::word;
use super::trace::{Ended, Heard, Here, Refused, Step, Trace, What};
use super::{Engine, output_bytes};
use crate::fetch::event::{Brought, Space, Verdict};
use crate::observe::clock;
use crate::store::StoreError;

/// All that is known about an action.
#[derive(Debug, Serialize)]
pub struct Why {
    /// The action.
    pub action: String,
    /// Its Project; absent when nothing is known of it.
    pub project: Option<String>,
    /// Its Recipe.
    pub recipe: Option<String>,
    /// The last time it was looked for; absent when that was not since the daemon started, or too many others were
    /// looked for since.
    pub looked: Option<Looked>,
    /// What is known now.
    pub now: Now,
}

/// A look-up.
#[derive(Debug, Serialize)]
pub struct Looked {
    /// When, in milliseconds since 1970.
    at_ms: u64,
    /// `hit`, `fetched`, or the word for a miss; absent while it goes on.
    answer: Option<&'static str>,
    /// How long that took, in microseconds.
    took_us: Option<u64>,
    /// What the store had: `all`, `part`, `refused`, `nothing` or `broken`.
    here: &'static str,
    /// How many Catalogs were followed.
    followed: usize,
    /// Whose Catalogs list it, or seem to.
    listed_by: Vec<String>,
    /// What was done about that, in the order of beginning.
    steps: Vec<StepRow>,
    /// How many further steps there were.
    left_out: u64,
}

/// A step.
#[derive(Debug, Serialize)]
pub struct StepRow {
    /// How long after the beginning of the look-up it began, in microseconds.
    after_us: u64,
    /// How long it took, in microseconds; absent while it goes on.
    took_us: Option<u64>,
    /// What was done.
    #[serde(flatten)]
    what: WhatRow,
}

/// What was done in a step.
#[derive(Debug, Serialize)]
#[serde(tag = "step", rename_all = "lowercase")]
enum WhatRow {
    /// Holders were looked for on the DHT.
    Sought { signer: String, found: Option<usize> },
    /// A peer was asked.
    Asked {
        peer: String,
        together: usize,
        answer: Option<&'static str>,
        blobs: Option<usize>,
        bytes: Option<u64>,
    },
    /// A claim was refused.
    Refused(RefusedRow),
    /// A Blob was fetched.
    Fetched { peer: String, blob: String, bytes: u64, outcome: Option<&'static str> },
}

/// Why a claim was refused.
#[derive(Debug, Serialize)]
struct RefusedRow {
    signer: String,
    reason: &'static str,
    text: String,
    rule: Option<String>,
}

impl From<Refused> for RefusedRow {
    fn from(refused: Refused) -> Self {
        let Refused { signer, reason, text, rule } = refused;
        Self { signer, reason, text, rule }
    }
}

/// What is known now.
#[derive(Debug, Serialize)]
pub struct Now {
    /// Claims that are here.
    pub claims: Vec<ClaimRow>,
    /// Whose Catalogs list it, or seem to.
    pub listed_by: Vec<String>,
}

/// A claim that is here.
#[derive(Debug, Serialize)]
pub struct ClaimRow {
    /// The owner's names for its signers; `me` for this node.
    signers: Vec<String>,
    /// When it was made, in milliseconds since 1970.
    issued_ms: u64,
    /// Until when it holds.
    not_after_ms: u64,
    /// The Digest of its output.
    output: String,
    /// How many bytes that has.
    bytes: u64,
    /// How many of its Blobs are missing, or at least how many.
    missing: usize,
    /// `own` when this node believes itself, `accepted` or `refused`.
    pub verdict: &'static str,
    /// The rule by which, as file and line.
    rule: Option<String>,
    /// Why it is refused, in one word.
    reason: Option<&'static str>,
    /// The same in a sentence.
    text: Option<String>,
    /// What a person can do about it.
    hint: Option<String>,
}

impl Why {
    /// Whether there is anything to say.
    pub fn is_empty(&self) -> bool {
        self.looked.is_none() && self.now.claims.is_empty() && self.now.listed_by.is_empty()
    }
}

fn micros(span: Duration) -> u64 {
    u64::try_from(span.as_micros()).unwrap_or(u64::MAX)
}

fn brought(outcome: Brought) -> &'static str {
    match outcome {
        Brought::Done => "done",
        Brought::Part => "part",
        Brought::NotThere => "not-there",
        Brought::Busy => "busy",
        Brought::OtherSize => "other-size",
        Brought::Failed => "failed",
        Brought::Bad => "bad-piece",
        Brought::NoRoom => "no-room",
    }
}

impl Engine {
    /// Explains the last look-up of an action, or the last of all, and what is known of it now; nothing when there was
    /// no look-up at all. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn why(&self, action: Option<ActionId>) -> Result<Option<Why>, StoreError> {
        let trace = self.traces().last(action.as_ref());
        let Some(action) = action.or_else(|| trace.as_ref().map(|trace| trace.action)) else {
            return Ok(None);
        };
        let entries = self.store.index().entries(&action)?;
        let claimed = entries.iter().find_map(|entry| entry.authentic().ok());
        let claimed = claimed.map(|entry| (entry.project.clone(), entry.recipe.clone()));
        let space = trace.as_ref().map(|trace| Space::clone(&trace.space));
        let space = space.or_else(|| claimed.map(|(project, recipe)| Space { project, recipe }));
        let policy = self.trusting.now();
        let mut claims = Vec::with_capacity(entries.len());
        for entry in &entries {
            claims.extend(self.claim_row(&policy, (space.as_ref(), &action), entry)?);
        }
        let name = |topic: &Topic| policy.name_of(&topic.signer);
        let listed_by = {
            let followed = self.followed();
            let projects = match &space {
                Some(space) => vec![space.project.clone()],
                None => followed.projects().cloned().collect(),
            };
            let listed = projects.iter().flat_map(|project| followed.probe(project, &action));
            listed.map(|topic| name(&topic)).collect()
        };
        let looked = trace.map(|trace| looked(&policy, trace));
        let (project, recipe) =
            space.map(|space| (space.project.to_string(), space.recipe.to_string())).unzip();
        Ok(Some(Why { action: action.to_string(), project, recipe, looked, now: Now { claims, listed_by } }))
    }

    /// One claim, judged as a look-up would: nothing when it is not genuine.
    fn claim_row(
        &self,
        policy: &Policy,
        (space, action): (Option<&Space>, &ActionId),
        entry: &Signed<Entry>,
    ) -> Result<Option<ClaimRow>, StoreError> {
        let Ok(claim) = entry.authentic() else { return Ok(None) };
        let (project, recipe) =
            space.map_or((&claim.project, &claim.recipe), |space| (&space.project, &space.recipe));
        let recipe = Some(recipe.as_str());
        let want = Want { project: project.as_str(), recipe, subject: action.as_bytes() };
        let now = clock::now();
        let missing = self.lacks(&self.store.index().view()?, &claim.output, None)?.len();
        let own = self.own.policy().judge(entry, &want, now).is_ok();
        let judged = policy.judge(entry, &want, now);
        let doubt = self.doubts.reason(&claim_digest(entry));
        let (verdict, rule) = match &judged {
            _ if doubt.is_some() => ("doubted", None),
            _ if own => ("own", None),
            Ok(trusted) => {
                let rule = policy.rules().rules.get(trusted.rule());
                ("accepted", rule.map(|rule| rule.origin.to_string()))
            }
            Err(refusal) => ("refused", refusal.rule.as_ref().map(ToString::to_string)),
        };
        let reason = judged.err().filter(|_| !own).map(|refusal| refusal.reason);
        let signer =
            |signer| if Some(signer) == self.signer() { "me".to_owned() } else { policy.name_of(&signer) };
        let output: &Output = &claim.output;
        Ok(Some(ClaimRow {
            signers: entry.signers().map(signer).collect(),
            issued_ms: claim.issued.as_millis(),
            not_after_ms: claim.not_after.as_millis(),
            output: output.digest().to_string(),
            bytes: output_bytes(output),
            missing,
            verdict,
            rule,
            reason: reason.as_ref().map(potluck_keys::policy::Reason::code),
            text: match doubt {
                Some(doubt) => Some(doubt.reason),
                None => reason.as_ref().map(|reason| reason.explain(policy)),
            },
            hint: reason.as_ref().map(|reason| reason.hint(policy)),
        }))
    }
}

fn looked(policy: &Policy, trace: Trace) -> Looked {
    let Trace { at, here, followed, listed, steps, left_out, ended, .. } = trace;
    let answer = |ended| match ended {
        Ended::Hit { fetched: false } => "hit",
        Ended::Hit { fetched: true } => "fetched",
        Ended::Miss(miss) => word(miss),
    };
    let here = match here {
        Here::All => "all",
        Here::Part(_) => "part",
        Here::Refused => "refused",
        Here::Nothing => "nothing",
        Here::Broken => "broken",
    };
    Looked {
        at_ms: at.as_millis(),
        answer: ended.map(|(_, ended)| answer(ended)),
        took_us: ended.map(|(took, _)| micros(took)),
        here,
        followed,
        listed_by: listed.iter().map(|topic| policy.name_of(&topic.signer)).collect(),
        steps: steps.into_iter().map(|step| step_row(policy, step)).collect(),
        left_out,
    }
}

fn step_row(policy: &Policy, Step { after, took, what }: Step) -> StepRow {
    let what = match what {
        What::Sought(topic, found) => WhatRow::Sought { signer: policy.name_of(&topic.signer), found },
        What::Asked(peer, together, heard) => {
            let (answer, needs) = match heard {
                None => (None, None),
                Some(Heard::Silence) => (Some("silence"), None),
                Some(Heard::Unknown | Heard::Claims(Verdict::Nothing)) => (Some("unknown"), None),
                Some(Heard::Claims(Verdict::Refused)) => (Some("refused"), None),
                Some(Heard::Claims(Verdict::Here)) => (Some("all"), None),
                Some(Heard::Claims(Verdict::Needs { blobs, .. })) => (Some("claimed"), Some(blobs)),
            };
            let bytes = needs.as_ref().map(|needs| needs.iter().map(|need| need.size).sum());
            let blobs = needs.map(|needs| needs.len());
            WhatRow::Asked { peer: peer.to_string(), together, answer, blobs, bytes }
        }
        What::Refused(refused) => WhatRow::Refused(refused.into()),
        What::Fetched(peer, need, outcome) => WhatRow::Fetched {
            peer: peer.to_string(),
            blob: need.digest.to_string(),
            bytes: need.size,
            outcome: outcome.map(brought),
        },
    };
    StepRow { after_us: micros(after), took_us: took.map(micros), what }
}
