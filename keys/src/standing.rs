// SPDX-License-Identifier: MIT OR Apache-2.0
//! What becomes of a key: claims that it is revoked, and claims that another follows it.
//!
//! Both are ordinary signed claims, so that they can be carried by anybody. What they mean is for
//! [`Policy`](crate::policy::Policy) to say, rule by rule.

use crate::codec::Text;
use crate::pair::Signer;
use crate::record;
use crate::signed::Claim;
use crate::time::Time;

record! {
    /// "This key is not to be believed": from an instant on, and, unless a rule says `after-revocation = "keep-older"`,
    /// before it as well, since whoever stole a key can date claims as he likes.
    ///
    /// Counts when signed by the key itself, or by a key that a rule names as `authority`.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Revocation {
        /// The key that is revoked.
        1 => one key: Signer,
        /// Since when it is not to be believed.
        2 => one at: Time,
        /// When this was said.
        3 => one issued: Time,
        /// Why, for people.
        4 => opt reason: Text<200>,
    }
}

impl Claim for Revocation {
    const CONTEXT: &'static str = "potluck/revocation/1";
    const MAX_BYTES: usize = 320;
}

record! {
    /// "This key takes the place of that one." Counts when signed by both, under rules with `rotate = true`: from the
    /// time of issue on the new key is believed where the old one was, and the old one no longer.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Succession, check Succession::check {
        /// The key that goes.
        1 => one old: Signer,
        /// The key that comes.
        2 => one new: Signer,
        /// When this was said, and from when it holds.
        3 => one issued: Time,
    }
}

impl Succession {
    fn check(&self) -> Result<(), &'static str> {
        if self.old == self.new { Err("a key cannot follow itself") } else { Ok(()) }
    }
}

impl Claim for Succession {
    const CONTEXT: &'static str = "potluck/succession/1";
    const MAX_BYTES: usize = 128;
}
