// SPDX-License-Identifier: MIT OR Apache-2.0
//! The judge. [`Policy::judge`] and [`Policy::choose`] are the only makers of [`Trusted`], and nothing reaches a
//! build that is not [`Trusted`].
//!
//! A policy is rules, the revocations and successions that it was told of, and nothing else: no clock, no files, no
//! memory of what it judged before. Claims are judged when they are used, so that a revocation holds from the moment
//! it is heeded; what is remembered, in the claim itself, is only that a signature was verified.
//!
//! Rules are tried in order. The first that covers the Project and the Recipe and can accept, does; when none can,
//! the refusal that came closest to acceptance is given.

mod ballot;
mod lineage;
mod refusal;

use std::collections::HashMap;
use std::ops::Deref;
use std::time::Duration;

pub use ballot::{Choice, Equivocation};
pub use refusal::{Misfit, Reason, Refusal};

use crate::pair::{PublicKey, Signer};
use crate::rules::Rules;
use crate::signed::{Claim, ClaimError, Signed, verify_batch};
use crate::standing::{Revocation, Succession};
use crate::time::Time;

/// How far ahead of ours another machine's clock may be: a claim issued further in the future is refused. There is
/// no such allowance for expiry, which is honoured to the millisecond.
pub const CLOCK_SKEW: Duration = Duration::from_secs(5 * 60);

/// How many times in a row a key may have been succeeded.
pub const MAX_SUCCESSIONS: usize = 8;

/// A claim that answers a question.
pub trait Scoped: Claim {
    /// Whether a later claim of a signer silently takes the place of an earlier one, as with Heads, which count up.
    /// Otherwise it must say what it replaces, else the signer contradicts itself.
    const LATER_WINS: bool;

    /// What it answers, how, and for how long.
    fn scope(&self) -> Scope<'_>;

    /// The name by which another claim says that it replaces this one: a hash of the payload.
    fn name(payload: &[u8]) -> [u8; 32];
}

/// What a claim answers, how, and for how long.
#[derive(Debug, Clone, Copy)]
pub struct Scope<'a> {
    /// The Project it belongs to.
    pub project: &'a str,
    /// The Recipe it belongs to, if any.
    pub recipe: Option<&'a str>,
    /// The question, unique within Project and kind of claim.
    pub subject: &'a [u8],
    /// The answer. Two signers agree when these are equal.
    pub output: &'a [u8],
    /// What the publisher admits about it.
    pub taints: &'a [crate::codec::Text<MAX_TAINT_BYTES>],
    /// When it was made, by its signer's clock.
    pub issued: Time,
    /// Until when it holds.
    pub not_after: Time,
    /// The claim that it replaces, by [`Scoped::name`].
    pub replaces: Option<[u8; 32]>,
}

/// Longest name of a taint in bytes.
pub const MAX_TAINT_BYTES: usize = 64;

/// The question that was asked. A claim that answers another one is refused, however trusted its signer: who may
/// speak for one Project must not answer for another.
#[derive(Debug, Clone, Copy)]
pub struct Want<'a> {
    /// The Project.
    pub project: &'a str,
    /// The Recipe, if the question has one.
    pub recipe: Option<&'a str>,
    /// The question itself.
    pub subject: &'a [u8],
}

impl<'a> Want<'a> {
    /// The question that a claim says it answers, to ask what a policy would make of it.
    pub fn of(scope: &Scope<'a>) -> Self {
        Self { project: scope.project, recipe: scope.recipe, subject: scope.subject }
    }
}

/// A claim that the policy let through, for the question and the instant at which it was judged.
#[derive(Debug)]
pub struct Trusted<'a, T> {
    signed: &'a Signed<T>,
    claim: &'a T,
    rule: usize,
    signers: Vec<Signer>,
}

impl<'a, T> Trusted<'a, T> {
    /// The claim as it was signed.
    pub fn signed(&self) -> &'a Signed<T> {
        self.signed
    }

    /// Which rule let it through, counted from 0 in the order of trial.
    pub fn rule(&self) -> usize {
        self.rule
    }

    /// The accepted signers that agree on it, by the keys that the rule names.
    pub fn signers(&self) -> &[Signer] {
        &self.signers
    }
}

impl<T> Deref for Trusted<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.claim
    }
}

/// A key that the policy may need for verifying.
struct Known {
    key: PublicKey,
    /// Who revoked this key, and since when: the key itself, or authorities of some rule. One instant each, the
    /// earliest, so that the list is bounded by the rules.
    revoked: Vec<(Signer, Time)>,
    /// Keys that this one followed, and when. More than one is in order: two keys may be merged into one.
    follows: Vec<(Signer, Time)>,
    /// Keys that follow this one, and when. Two are a contradiction, and none counts; further ones are not kept.
    followed_by: Vec<(Signer, Time)>,
}

impl Known {
    fn new(key: PublicKey) -> Self {
        Self { key, revoked: Vec::new(), follows: Vec::new(), followed_by: Vec::new() }
    }
}

/// The owner's rules, with what was heard about keys.
pub struct Policy {
    rules: Rules,
    known: HashMap<Signer, Known>,
}

impl Policy {
    /// A policy of these rules that has heard nothing yet. Without rules it accepts nothing.
    pub fn new(rules: Rules) -> Self {
        let known = |key: &PublicKey| (key.signer(), Known::new(key.clone()));
        let known = rules.signers.values().map(|named| known(&named.key)).collect();
        Self { rules, known }
    }

    /// The rules.
    pub fn rules(&self) -> &Rules {
        &self.rules
    }

    /// The owner's name for a signer, or its fingerprint.
    pub fn name_of(&self, signer: &Signer) -> String {
        self.rules.name_of(signer).map_or_else(|| signer.to_string(), str::to_owned)
    }

    /// Takes note of a revocation; gives whether it was news. There is no way back.
    ///
    /// Revocations of keys that no rule and no succession leads to are not kept, since nothing of theirs is accepted
    /// anyway; successions must therefore be heeded first.
    ///
    /// # Errors
    /// [`ClaimError`] when it is not genuine.
    pub fn heed_revocation(&mut self, claim: &Signed<Revocation>) -> Result<bool, ClaimError> {
        let Revocation { key, at, .. } = claim.authentic()?;
        let rules = &self.rules.rules;
        let Some(known) = self.known.get_mut(key) else { return Ok(false) };
        let mut news = false;
        for by in claim.signers() {
            if by != *key && !rules.iter().any(|rule| rule.authority.contains(&by)) {
                continue;
            }
            match known.revoked.iter_mut().find(|(before, _)| *before == by) {
                Some((_, since)) => {
                    news |= at < since;
                    *since = (*since).min(*at);
                }
                None => {
                    known.revoked.push((by, *at));
                    news = true;
                }
            }
        }
        Ok(news)
    }

    /// Takes note of a succession; gives whether it was news.
    ///
    /// # Errors
    /// [`ClaimError`] when it is not genuine, or not signed by both keys.
    pub fn heed_succession(&mut self, claim: &Signed<Succession>) -> Result<bool, ClaimError> {
        let succession = claim.authentic()?.clone();
        for signer in [succession.old, succession.new] {
            if claim.signers().all(|other| other != signer) {
                return Err(ClaimError::BadSignature(signer));
            }
        }
        let key =
            PublicKey::from_signer(&succession.new).map_err(|_| ClaimError::BadSignature(succession.new))?;
        let Some(old) = self.known.get_mut(&succession.old) else { return Ok(false) };
        if let Some(before) = old.followed_by.iter_mut().find(|(new, _)| *new == succession.new) {
            // Said twice: the earlier instant counts, in whatever order the two arrive.
            let news = succession.issued < before.1;
            before.1 = before.1.min(succession.issued);
            return Ok(news);
        }
        if old.followed_by.len() > 1 {
            return Ok(false);
        }
        old.followed_by.push((succession.new, succession.issued));
        let new = self.known.entry(succession.new).or_insert_with(|| Known::new(key));
        new.follows.push((succession.old, succession.issued));
        Ok(true)
    }

    /// Judges one claim as the answer to `want`, at the instant `now`.
    ///
    /// # Errors
    /// The [`Refusal`], with its reason.
    pub fn judge<'a, T: Scoped>(
        &self,
        claim: &'a Signed<T>,
        want: &Want<'_>,
        now: Time,
    ) -> Result<Trusted<'a, T>, Refusal> {
        self.choose(std::slice::from_ref(claim), want, now).outcome
    }

    /// Judges all that is known in answer to `want`, at the instant `now`: by rule, by agreement, and with an eye on
    /// signers that contradict themselves. The order of `claims` does not matter.
    ///
    /// Signatures that were not verified yet are verified together.
    pub fn choose<'a, T: Scoped>(
        &self,
        claims: &'a [Signed<T>],
        want: &Want<'_>,
        now: Time,
    ) -> Choice<'a, T> {
        self.verify(claims);
        ballot::Ballot::new(self, claims, want, now).count()
    }

    /// Verifies together what is still unverified of many claims, so that judging them one by one is cheap: for
    /// answers and imports that bring many at once. What signers outside the policy have signed is left alone.
    pub fn verify<T: Claim>(&self, claims: &[Signed<T>]) {
        if let [claim] = claims {
            // Whoever asks for the claim itself would have to find out first whether its key is one.
            for (index, signer) in claim.signers().enumerate() {
                if let Some(known) = self.known.get(&signer) {
                    // One that does not fit is refused, with its reason, by whoever asks.
                    let _ = claim.verify(index, &known.key);
                }
            }
        } else if claims.len() > 1 {
            let claims: Vec<_> = claims.iter().collect();
            verify_batch(&claims, |signer| self.known.get(signer).map(|known| &known.key));
        }
    }
}
