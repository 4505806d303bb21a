// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which key of a rule stands behind a signer: itself, or the one that it followed; and whether it still may.

use super::{CLOCK_SKEW, MAX_SUCCESSIONS, Policy, Reason};
use crate::pair::Signer;
use crate::rules::Rule;
use crate::time::Time;

/// The keys of the policy as one rule sees them at one instant.
pub(super) struct Lineage<'p> {
    pub(super) policy: &'p Policy,
    pub(super) rule: &'p Rule,
    pub(super) now: Time,
}

impl Lineage<'_> {
    /// Which of the keys that the rule accepts stands behind a claim that `signer` issued at `issued`.
    pub(super) fn stands_for(&self, signer: &Signer, issued: Time) -> Result<Signer, Reason> {
        let known = self.policy.known.get(signer).ok_or(Reason::NotAccepted)?;
        // Found before anything is said of revocation: a stranger's key is refused as a stranger's.
        let root = self.root(signer, MAX_SUCCESSIONS)?;
        self.not_revoked(signer, issued)?;
        if self.rule.rotate
            && let [(_, since)] = known.followed_by[..]
            && issued > since
        {
            return Err(Reason::Superseded { signer: *signer, since });
        }
        Ok(root)
    }

    /// Follows successions back to a key that the rule accepts.
    fn root(&self, signer: &Signer, steps: usize) -> Result<Signer, Reason> {
        if self.rule.accept.contains(signer) {
            return Ok(*signer);
        }
        let known = self.policy.known.get(signer).filter(|_| self.rule.rotate && steps > 0);
        let mut closest = Reason::NotAccepted;
        for (old, since) in known.map_or(&[][..], |known| &known.follows) {
            match self.followed(old, *since).and_then(|()| self.root(old, steps - 1)) {
                Ok(root) => return Ok(root),
                Err(reason) => closest = closest.closer(reason),
            }
        }
        Err(closest)
    }

    /// Whether what `old` said about its successor at `since` counts.
    fn followed(&self, old: &Signer, since: Time) -> Result<(), Reason> {
        let undisputed = self.policy.known.get(old).is_some_and(|old| old.followed_by.len() == 1);
        if undisputed {
            self.not_revoked(old, since)
        } else {
            Err(Reason::DisputedSuccession { signer: *old })
        }
    }

    /// Whether a claim of `issued` stands although its signer may have been revoked.
    ///
    /// A revocation dated ahead counts once its instant has come, clocks' difference granted.
    fn not_revoked(&self, signer: &Signer, issued: Time) -> Result<(), Reason> {
        let Some(known) = self.policy.known.get(signer) else { return Ok(()) };
        for (by, at) in &known.revoked {
            let counts = by == signer || self.rule.authority.contains(by);
            let kept = self.rule.keep_older && issued < *at;
            if counts && *at <= self.now.plus(CLOCK_SKEW) && !kept {
                return Err(Reason::Revoked { signer: *signer, at: *at, by: *by });
            }
        }
        Ok(())
    }
}
