// SPDX-License-Identifier: MIT OR Apache-2.0
//! Counting: which of several claims in answer to one question is accepted, rule by rule.

use std::cmp::Reverse;

use super::lineage::Lineage;
use super::{CLOCK_SKEW, Misfit, Policy, Reason, Refusal, Scope, Scoped, Trusted, Want};
use crate::pair::Signer;
use crate::rules::{Rule, Taints};
use crate::signed::Signed;
use crate::time::Time;

/// What became of the claims in answer to one question.
#[derive(Debug)]
pub struct Choice<'a, T> {
    /// The accepted one, or why none was.
    pub outcome: Result<Trusted<'a, T>, Refusal>,
    /// Signers known to the policy that contradict themselves, whether or not it mattered.
    pub equivocations: Vec<Equivocation<'a, T>>,
    /// How many different outputs the claims of known signers name.
    pub outputs: usize,
}

/// Two claims of one signer for one question, with different outputs, of which neither says that it replaces the
/// other. Evidence that anyone can check: both carry the signature.
#[derive(Debug)]
pub struct Equivocation<'a, T> {
    /// Who signed both.
    pub signer: Signer,
    /// The claim issued earlier.
    pub earlier: &'a Signed<T>,
    /// The other one.
    pub later: &'a Signed<T>,
}

/// A genuine claim that answers the question.
struct Candidate<'a, T> {
    signed: &'a Signed<T>,
    claim: &'a T,
    scope: Scope<'a>,
    /// Signers of it that the policy knows, their signatures verified.
    signers: Vec<Signer>,
}

/// A vote of one accepted key for one candidate.
struct Vote {
    /// The key that the rule names.
    root: Signer,
    /// Its place in the rule: lower is preferred.
    place: usize,
    candidate: usize,
}

pub(super) struct Ballot<'p, 'w, 'a, T> {
    policy: &'p Policy,
    want: Want<'w>,
    now: Time,
    candidates: Vec<Candidate<'a, T>>,
    closest: Refusal,
}

impl<'p, 'w, 'a, T: Scoped> Ballot<'p, 'w, 'a, T> {
    pub(super) fn new(policy: &'p Policy, claims: &'a [Signed<T>], want: &Want<'w>, now: Time) -> Self {
        let closest = Refusal { reason: Reason::Nothing, rule: None };
        let mut ballot =
            Self { policy, want: *want, now, candidates: Vec::with_capacity(claims.len()), closest };
        for claim in claims {
            match ballot.candidate(claim) {
                Ok(candidate) => ballot.candidates.push(candidate),
                Err(reason) => ballot.note(reason, None),
            }
        }
        ballot
    }

    /// Keeps the reason that came closest.
    fn note(&mut self, reason: Reason, rule: Option<&Rule>) {
        let before = std::mem::replace(&mut self.closest.reason, Reason::Nothing);
        let kept = before.clone().closer(reason);
        if kept != before {
            self.closest.rule = rule.map(|rule| rule.origin.clone());
        }
        self.closest.reason = kept;
    }

    fn candidate(&self, signed: &'a Signed<T>) -> Result<Candidate<'a, T>, Reason> {
        let mut known = Vec::with_capacity(1);
        let mut first = None;
        for (index, signer) in signed.signers().enumerate() {
            if let Some(entry) = self.policy.known.get(&signer) {
                signed.verify(index, &entry.key).map_err(Reason::NotGenuine)?;
                known.push(signer);
                first = first.or(Some(index));
            }
        }
        let Some(first) = first else {
            return Err(Reason::UnknownSigner { signers: signed.signers().collect() });
        };
        let claim = signed.claim(first).map_err(Reason::NotGenuine)?;
        let scope = claim.scope();
        self.fits(&scope)?;
        Ok(Candidate { signed, claim, scope, signers: known })
    }

    fn fits(&self, scope: &Scope<'_>) -> Result<(), Reason> {
        let misfit = |part, found: &str| Err(Reason::Misfit { part, found: found.to_owned() });
        if scope.project != self.want.project {
            return misfit(Misfit::Project, scope.project);
        }
        if scope.recipe != self.want.recipe {
            return misfit(Misfit::Recipe, scope.recipe.unwrap_or("none"));
        }
        if scope.subject != self.want.subject {
            return misfit(Misfit::Subject, "");
        }
        Ok(())
    }

    pub(super) fn count(mut self) -> Choice<'a, T> {
        let outputs = self.outputs();
        let equivocations = self.equivocations();
        let mut covered = false;
        let mut accepted = None;
        let policy = self.policy;
        for (number, rule) in policy.rules.rules.iter().enumerate() {
            let covers = rule.project.covers(self.want.project)
                && self.want.recipe.is_none_or(|recipe| rule.recipe.covers(recipe));
            covered |= covers;
            if covers && !self.candidates.is_empty() {
                accepted = self.try_rule(number, rule);
                if accepted.is_some() {
                    break;
                }
            }
        }
        if !covered {
            let project = self.want.project.to_owned();
            let reason = Reason::NoRule { project, recipe: self.want.recipe.map(str::to_owned) };
            self.closest = Refusal { reason, rule: None };
        }
        Choice { outcome: accepted.ok_or(self.closest), equivocations, outputs }
    }

    fn outputs(&self) -> usize {
        let mut outputs: Vec<_> = self.candidates.iter().map(|candidate| candidate.scope.output).collect();
        outputs.sort_unstable();
        outputs.dedup();
        outputs.len()
    }

    /// What one rule makes of the candidates.
    fn try_rule(&mut self, number: usize, rule: &Rule) -> Option<Trusted<'a, T>> {
        let votes = self.votes(rule);
        // What has no Recipe is a signer's list of what he claims. Nobody else can say the same, and each claim in it is
        // judged by itself.
        let need = if self.want.recipe.is_some() { rule.agree } else { 1 };
        let mut best: Option<(usize, Vec<Signer>)> = None;
        let mut most = 0;
        for vote in &votes {
            let output = self.candidates[vote.candidate].scope.output;
            let agreeing: Vec<_> =
                votes.iter().filter(|vote| self.candidates[vote.candidate].scope.output == output).collect();
            most = most.max(agreeing.len());
            if agreeing.len() >= need {
                let signers = agreeing.iter().map(|vote| vote.root).collect();
                // Votes are in order of preference, so the first that suffices is the one.
                best = Some((vote.candidate, signers));
                break;
            }
        }
        if best.is_none() && most > 0 {
            self.note(Reason::TooFew { have: most, need }, Some(rule));
        }
        let (candidate, signers) = best?;
        let candidate = &self.candidates[candidate];
        Some(Trusted { signed: candidate.signed, claim: candidate.claim, rule: number, signers })
    }

    /// One vote for each key that the rule names, best first: by the order in which the rule names them, then the
    /// claim issued earlier, then the smaller payload, so that all who judge the same claims choose the same one.
    /// Where later claims win, the newest comes first, whoever made it.
    fn votes(&mut self, rule: &Rule) -> Vec<Vote> {
        let mut standing: Vec<(Signer, usize)> = Vec::with_capacity(self.candidates.len());
        let mut refused = Vec::new();
        let lineage = Lineage { policy: self.policy, rule, now: self.now };
        for (index, candidate) in self.candidates.iter().enumerate() {
            for signer in &candidate.signers {
                match lineage.stands_for(signer, candidate.scope.issued) {
                    Ok(root) => standing.push((root, index)),
                    Err(reason) => refused.push(reason),
                }
            }
        }
        standing.sort_unstable();
        standing.dedup();
        let mut votes = Vec::with_capacity(standing.len());
        for claims in standing.chunk_by(|(one, _), (other, _)| one == other) {
            let root = claims[0].0;
            match self.vote_of(rule, claims) {
                Ok(candidate) => {
                    let place = rule.accept.iter().position(|signer| *signer == root).unwrap_or(usize::MAX);
                    votes.push(Vote { root, place, candidate });
                }
                Err(reason) => refused.push(reason),
            }
        }
        for reason in refused {
            self.note(reason, Some(rule));
        }
        votes.sort_by_key(|vote| {
            let candidate = &self.candidates[vote.candidate];
            let newest = T::LATER_WINS.then_some(Reverse(candidate.scope.issued));
            (newest, vote.place, candidate.scope.issued, candidate.signed.payload())
        });
        votes
    }

    /// The one claim that a signer stands by under this rule, of all that it made on the question.
    fn vote_of(&self, rule: &Rule, claims: &[(Signer, usize)]) -> Result<usize, Reason> {
        let claims: Vec<usize> = claims.iter().map(|(_, candidate)| *candidate).collect();
        let mut tips = self.tips(&claims);
        if rule.strict && !T::LATER_WINS && self.differ(&tips) {
            let signer = self.candidates[tips[0]].signers[0];
            return Err(Reason::Equivocation { signer });
        }
        // The earlier one first, unless later ones win; of several with the same output the one that holds longest.
        tips.sort_by_key(|tip| {
            let Candidate { scope, signed, .. } = &self.candidates[*tip];
            let newest = T::LATER_WINS.then_some(Reverse(scope.issued));
            (newest, scope.issued, Reverse(scope.not_after), signed.payload())
        });
        let mut closest = Reason::Nothing;
        for tip in tips {
            match self.timely(rule, &self.candidates[tip].scope) {
                Ok(()) => return Ok(tip),
                Err(reason) => closest = closest.closer(reason),
            }
        }
        Err(closest)
    }

    /// The claims among these that no other one of them replaces.
    fn tips(&self, claims: &[usize]) -> Vec<usize> {
        if let [only] = claims {
            return vec![*only];
        }
        let replaced: Vec<_> =
            claims.iter().filter_map(|claim| self.candidates[*claim].scope.replaces).collect();
        let stands = |claim: &usize| !replaced.contains(&T::name(self.candidates[*claim].signed.payload()));
        claims.iter().copied().filter(stands).collect()
    }

    fn differ(&self, claims: &[usize]) -> bool {
        claims
            .windows(2)
            .any(|two| self.candidates[two[0]].scope.output != self.candidates[two[1]].scope.output)
    }

    /// Whether the rule accepts when the claim was made, how long it holds, and what taints it.
    fn timely(&self, rule: &Rule, scope: &Scope<'_>) -> Result<(), Reason> {
        if self.now > scope.not_after {
            return Err(Reason::Expired { not_after: scope.not_after });
        }
        if scope.issued > self.now.plus(CLOCK_SKEW) {
            return Err(Reason::NotYet { issued: scope.issued });
        }
        if let Some(max_age) = rule.max_age
            && self.now.since(scope.issued) > max_age
        {
            return Err(Reason::TooOld { issued: scope.issued, max_age });
        }
        let accepted = |taint: &str| match &rule.taints {
            Taints::Refuse => false,
            Taints::Accept(list) => list.iter().any(|accepted| accepted == taint),
        };
        match scope.taints.iter().find(|taint| !accepted(taint)) {
            Some(taint) => Err(Reason::Tainted { taint: taint.to_string() }),
            None => Ok(()),
        }
    }

    fn equivocations(&self) -> Vec<Equivocation<'a, T>> {
        if T::LATER_WINS || self.candidates.len() < 2 {
            return Vec::new();
        }
        let mut signers: Vec<_> =
            self.candidates.iter().flat_map(|candidate| candidate.signers.iter().copied()).collect();
        signers.sort_unstable();
        signers.dedup();
        signers.into_iter().filter_map(|signer| self.equivocation_of(signer)).collect()
    }

    fn equivocation_of(&self, signer: Signer) -> Option<Equivocation<'a, T>> {
        let by = |index: &usize| self.candidates[*index].signers.contains(&signer);
        let mut tips = self.tips(&(0..self.candidates.len()).filter(by).collect::<Vec<_>>());
        tips.sort_by_key(|tip| (self.candidates[*tip].scope.issued, self.candidates[*tip].signed.payload()));
        let (earlier, rest) = tips.split_first()?;
        let earlier = &self.candidates[*earlier];
        let later = rest.iter().map(|tip| &self.candidates[*tip]);
        let later = later.into_iter().find(|other| other.scope.output != earlier.scope.output)?;
        Some(Equivocation { signer, earlier: earlier.signed, later: later.signed })
    }
}
