// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who claims what about an action, and where signers disagree with others or with themselves.

use std::collections::BTreeMap;

use potluck_keys::policy::Want;
use potluck_keys::rules::Pattern;
use potluck_keys::signed::Signed;
use potluck_protocol::action::ActionId;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Entry, claim_digest};
use serde::Serialize;

use super::doubt::doubted;
use super::{Engine, output_bytes};
use crate::cache::CacheError;
use crate::fetch::event::Space;
use crate::observe::clock;
use crate::store::StoreError;

/// Entries that are read in one step.
const PAGE: usize = 1024;
/// Most actions that an audit lists; the others are counted.
pub const MAX_LISTED: usize = 250;

/// What is claimed about an action.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ActionRow {
    /// The action.
    pub action: String,
    /// The claims.
    pub claims: Vec<Claim>,
}

/// One claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Claim {
    /// Its name.
    pub entry: String,
    /// The owner's names for who signed it; `me` for this node.
    pub signers: Vec<String>,
    /// The Digest of its output.
    pub output: String,
    /// How many bytes that has.
    pub bytes: u64,
    /// What making it cost, in milliseconds.
    pub cost_ms: Option<u64>,
    /// When it was made, in milliseconds since 1970.
    pub issued_ms: u64,
    /// The claim that it replaces.
    pub replaces: Option<String>,
    /// `own`, `accepted`, `refused` or `doubted`.
    pub verdict: &'static str,
}

/// What an audit found.
#[derive(Debug, Default, Serialize)]
pub struct Audit {
    /// How many actions there are claims about.
    pub actions: u64,
    /// How many claims there are.
    pub claims: u64,
    /// Of actions that several signers claim: how many they agree about.
    pub agreed: u64,
    /// And how many not.
    pub disputed: u64,
    /// How many actions there are about which a signer contradicts himself.
    pub equivocations: u64,
    /// How many claims are not believed because something else came of making it here.
    pub doubted: u64,
    /// For each pair of signers: agreed and disputed.
    pub pairs: BTreeMap<String, (u64, u64)>,
    /// What is disputed, contradicted or doubted; not more than so many.
    pub listed: Vec<Disputed>,
}

/// Something that signers do not agree about.
#[derive(Debug, Serialize)]
pub struct Disputed {
    /// `disputed`, `equivocation` or `doubted`.
    pub what: &'static str,
    /// The Project.
    pub project: String,
    /// The Recipe.
    pub recipe: String,
    /// What is claimed.
    #[serde(flatten)]
    pub row: ActionRow,
}

impl Engine {
    /// What is claimed about an action, as far as it is known here. Blocks.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn claims(&self, action: &ActionId) -> Result<ActionRow, StoreError> {
        let entries = self.store.index().entries(action)?;
        self.trusting.now().verify(&entries);
        Ok(self.action_row(action, &entries))
    }

    fn action_row(&self, action: &ActionId, entries: &[Signed<Entry>]) -> ActionRow {
        ActionRow {
            action: action.to_string(),
            claims: entries.iter().filter_map(|entry| self.claim(action, entry)).collect(),
        }
    }

    fn claim(&self, action: &ActionId, entry: &Signed<Entry>) -> Option<Claim> {
        let (policy, claim, now) = (self.trusting.now(), entry.authentic().ok()?, clock::now());
        let recipe = Some(claim.recipe.as_str());
        let want = Want { project: claim.project.as_str(), recipe, subject: action.as_bytes() };
        let verdict = if self.doubts.holds(entry) {
            "doubted"
        } else if self.own.policy().judge(entry, &want, now).is_ok() {
            "own"
        } else if policy.judge(entry, &want, now).is_ok() {
            "accepted"
        } else {
            "refused"
        };
        let signer =
            |signer| if Some(signer) == self.signer() { "me".to_owned() } else { policy.name_of(&signer) };
        Some(Claim {
            entry: claim_digest(entry).to_string(),
            signers: entry.signers().map(signer).collect(),
            output: claim.output.digest().to_string(),
            bytes: output_bytes(&claim.output),
            cost_ms: claim.labels.cost_ms,
            issued_ms: claim.issued.as_millis(),
            replaces: claim.replaces.map(|replaced| replaced.to_string()),
            verdict,
        })
    }

    /// What is claimed about these keys; gives them in the same order. Blocks.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn claims_of(&self, space: &Space, keys: &[Vec<u8>]) -> Result<Vec<ActionRow>, CacheError> {
        let row = |key: &Vec<u8>| {
            let action = ActionId::derive(&space.project, &space.recipe, key, None);
            let action = action.map_err(|error| CacheError::Usage(error.to_string()))?;
            Ok(self.claims(&action)?)
        };
        keys.iter().map(row).collect()
    }

    /// Does not believe a claim any more, for this reason; or without one, believes it again. Gives who signed it.
    /// Blocks.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn doubt(
        &self,
        (entry, action): (&Digest, &ActionId),
        reason: Option<String>,
    ) -> Result<Vec<String>, CacheError> {
        let failed = |error: super::DoubtError| CacheError::Store(error.to_string());
        let name = entry.to_string();
        let row = self.claims(action)?;
        let claim = row.claims.into_iter().find(|claim| claim.entry == name);
        let Some(reason) = reason else {
            self.doubts.withdraw(entry).map_err(failed)?;
            return Ok(claim.map(|claim| claim.signers).unwrap_or_default());
        };
        let claim = claim.ok_or_else(|| CacheError::Usage(format!("no claim {name} about it is here")))?;
        let at = clock::now().as_millis();
        self.doubts.add(entry, doubted((action, reason), claim.signers.clone(), at)).map_err(failed)?;
        tracing::warn!(%action, signers = ?claim.signers, "a claim is not believed any more");
        Ok(claim.signers)
    }

    /// Goes through all claims. Blocks.
    ///
    /// # Errors
    /// [`CacheError`].
    pub fn audit(&self, project: Option<&Pattern>) -> Result<Audit, CacheError> {
        let (mut audit, mut after) = (Audit::default(), None);
        let mut group: Vec<Signed<Entry>> = Vec::new();
        let covers = |entry: &Signed<Entry>| {
            entry
                .authentic()
                .is_ok_and(|claim| project.is_none_or(|pattern| pattern.covers(claim.project.as_str())))
        };
        loop {
            let page = self.store.index().all_entries(after.as_ref(), PAGE).map_err(StoreError::from)?;
            let Some((last, _)) = page.last() else { break };
            after = Some(*last);
            let entries: Vec<_> = page.into_iter().filter_map(|(_, entry)| entry.ok()).collect();
            self.trusting.now().verify(&entries);
            for entry in entries.into_iter().filter(&covers) {
                let of = |entry: &Signed<Entry>| entry.authentic().ok().map(|claim| claim.action);
                if group.last().is_some_and(|last| of(last) != of(&entry)) {
                    self.count_group(&mut audit, &std::mem::take(&mut group));
                }
                group.push(entry);
            }
        }
        self.count_group(&mut audit, &group);
        Ok(audit)
    }

    /// Counts what is claimed about one action.
    fn count_group(&self, audit: &mut Audit, entries: &[Signed<Entry>]) {
        let Some(first) = entries.first().and_then(|entry| entry.authentic().ok()) else { return };
        let row = self.action_row(&first.action, entries);
        audit.actions += 1;
        audit.claims += row.claims.len() as u64;
        let doubted = row.claims.iter().filter(|claim| claim.verdict == "doubted").count() as u64;
        audit.doubted += doubted;
        let standing = standing(&row.claims);
        let mut equivocates = false;
        let mut disputed = false;
        for (at, (one, outputs)) in standing.iter().enumerate() {
            equivocates |= outputs.len() > 1;
            for (other, others) in standing.iter().skip(at + 1) {
                let agree = outputs.iter().any(|output| others.contains(output));
                let pair = audit.pairs.entry(format!("{one}, {other}")).or_default();
                if agree {
                    pair.0 += 1;
                } else {
                    pair.1 += 1;
                }
                disputed |= !agree;
            }
        }
        audit.equivocations += u64::from(equivocates);
        audit.disputed += u64::from(disputed);
        audit.agreed += u64::from(standing.len() > 1 && !disputed);
        let what = match (equivocates, disputed, doubted > 0) {
            (true, ..) => "equivocation",
            (_, true, _) => "disputed",
            (.., true) => "doubted",
            _ => return,
        };
        if audit.listed.len() < MAX_LISTED {
            let (project, recipe) = (first.project.to_string(), first.recipe.to_string());
            audit.listed.push(Disputed { what, project, recipe, row });
        }
    }
}

/// What each signer says now: outputs of claims that none of his own replaces.
fn standing(claims: &[Claim]) -> BTreeMap<&str, Vec<&str>> {
    let mut standing: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    for claim in claims {
        for signer in &claim.signers {
            let his = |other: &&Claim| other.signers.contains(signer);
            if claims.iter().filter(his).any(|other| other.replaces.as_ref() == Some(&claim.entry)) {
                continue;
            }
            let outputs = standing.entry(signer).or_default();
            if !outputs.contains(&claim.output.as_str()) {
                outputs.push(&claim.output);
            }
        }
    }
    standing
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(entry: &str, signer: &str, output: &str, replaces: Option<&str>) -> Claim {
        Claim {
            entry: entry.to_owned(),
            signers: vec![signer.to_owned()],
            output: output.to_owned(),
            bytes: 1,
            cost_ms: None,
            issued_ms: 0,
            replaces: replaces.map(str::to_owned),
            verdict: "accepted",
        }
    }

    #[test]
    fn what_a_signer_says_now_is_what_none_of_his_own_replaces() {
        let claims = [
            claim("1", "ann", "a", None),
            claim("2", "ann", "b", Some("1")),
            claim("3", "bob", "a", None),
            // Nobody replaces what another one says.
            claim("4", "cat", "c", Some("3")),
            claim("5", "dan", "a", None),
            claim("6", "dan", "b", None),
        ];
        let said = standing(&claims);
        assert_eq!((&said["ann"], &said["bob"]), (&vec!["b"], &vec!["a"]));
        assert_eq!(said["dan"], ["a", "b"], "he contradicts himself");
    }
}
