// SPDX-License-Identifier: MIT OR Apache-2.0
//! Why a claim was refused, in words that a person can act on.

use std::fmt;
use std::time::Duration;

use super::Policy;
use crate::pair::Signer;
use crate::rules::Origin;
use crate::signed::ClaimError;
use crate::time::Time;

/// A refusal: the reason that came closest to acceptance, and the rule that gave it, when it was one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{reason}{}", .rule.as_ref().map(|rule| format!(" (rule at {rule})")).unwrap_or_default())]
pub struct Refusal {
    /// Why.
    pub reason: Reason,
    /// The rule that says so.
    pub rule: Option<Origin>,
}

/// Which part of a claim does not fit the question.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Misfit {
    /// It belongs to another Project.
    Project,
    /// It belongs to another Recipe.
    Recipe,
    /// It answers another question.
    Subject,
}

/// Why a claim was refused. Later variants are closer to acceptance.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Reason {
    /// There was nothing to judge.
    Nothing,
    /// No rule covers the Project and Recipe.
    NoRule {
        /// The Project.
        project: String,
        /// The Recipe, if any.
        recipe: Option<String>,
    },
    /// Signed by keys that the policy has never heard of.
    UnknownSigner {
        /// They.
        signers: Vec<Signer>,
    },
    /// A signature is bad, or what was signed is malformed.
    NotGenuine(ClaimError),
    /// It answers another question than the one asked.
    Misfit {
        /// Which part does not fit.
        part: Misfit,
        /// What the claim says.
        found: String,
    },
    /// No rule for this Project accepts its signer.
    NotAccepted,
    /// The signer named two successors, so neither is believed.
    DisputedSuccession {
        /// Who did.
        signer: Signer,
    },
    /// The key was revoked.
    Revoked {
        /// The key.
        signer: Signer,
        /// Since when.
        at: Time,
        /// By whom.
        by: Signer,
    },
    /// The key had been succeeded by another when the claim was made.
    Superseded {
        /// The key.
        signer: Signer,
        /// Since when.
        since: Time,
    },
    /// It no longer holds.
    Expired {
        /// Until when it held.
        not_after: Time,
    },
    /// It is older than the rule accepts.
    TooOld {
        /// When it was made.
        issued: Time,
        /// How old it may be.
        max_age: Duration,
    },
    /// It comes from the future, by more than clocks may differ.
    NotYet {
        /// When it says it was made.
        issued: Time,
    },
    /// It carries a taint that the rule does not accept.
    Tainted {
        /// Which.
        taint: String,
    },
    /// Its signer also claims something else in answer to the same question, and the rule is strict about that.
    Equivocation {
        /// Who.
        signer: Signer,
    },
    /// Too few accepted signers name the same output.
    TooFew {
        /// How many do.
        have: usize,
        /// How many must.
        need: usize,
    },
}

impl Reason {
    fn rank(&self) -> u8 {
        match self {
            Self::Nothing => 0,
            Self::NoRule { .. } => 1,
            Self::UnknownSigner { .. } => 2,
            Self::NotGenuine(_) => 3,
            Self::Misfit { .. } => 4,
            Self::NotAccepted => 5,
            Self::DisputedSuccession { .. } => 6,
            Self::Revoked { .. } => 7,
            Self::Superseded { .. } => 8,
            Self::Expired { .. } => 9,
            Self::TooOld { .. } => 10,
            Self::NotYet { .. } => 11,
            Self::Tainted { .. } => 12,
            Self::Equivocation { .. } => 13,
            Self::TooFew { .. } => 14,
        }
    }

    /// The one of two reasons that is closer to acceptance; the first when they are of one kind.
    pub(super) fn closer(self, other: Self) -> Self {
        if other.rank() > self.rank() { other } else { self }
    }

    /// One word for counting and for scripts; stable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::NoRule { .. } => "no-rule",
            Self::UnknownSigner { .. } => "unknown-signer",
            Self::NotGenuine(_) => "not-genuine",
            Self::Misfit { part: Misfit::Project, .. } => "wrong-project",
            Self::Misfit { part: Misfit::Recipe, .. } => "wrong-recipe",
            Self::Misfit { part: Misfit::Subject, .. } => "wrong-subject",
            Self::NotAccepted => "not-accepted",
            Self::DisputedSuccession { .. } => "disputed-succession",
            Self::Revoked { .. } => "revoked",
            Self::Superseded { .. } => "superseded",
            Self::Expired { .. } => "expired",
            Self::TooOld { .. } => "too-old",
            Self::NotYet { .. } => "not-yet",
            Self::Tainted { .. } => "tainted",
            Self::Equivocation { .. } => "equivocation",
            Self::TooFew { .. } => "too-few",
        }
    }

    /// What a person can do about it.
    pub fn hint(&self, policy: &Policy) -> String {
        match self {
            Self::Nothing => "nobody has claimed this yet".to_owned(),
            Self::NoRule { project, .. } => {
                format!(
                    "to believe somebody there: potluck trust add NAME \"ssh-ed25519 …\" --project {project}"
                )
            }
            Self::UnknownSigner { .. } => {
                "to believe them: potluck trust add NAME \"ssh-ed25519 …\" --project GLOB".to_owned()
            }
            Self::NotGenuine(_) => {
                "the copy is damaged or forged; it can be fetched from elsewhere".to_owned()
            }
            Self::Misfit { .. } => {
                "whoever sent it answered another question; nothing needs doing".to_owned()
            }
            Self::NotAccepted => {
                "add the signer to the `accept` of a rule that covers the project".to_owned()
            }
            Self::DisputedSuccession { signer } => {
                format!("ask {} which key is right, and add that one", policy.name_of(signer))
            }
            Self::Revoked { signer, .. } => format!(
                "ask {} for a new key; `after-revocation = \"keep-older\"` in the rule accepts what was made before",
                policy.name_of(signer)
            ),
            Self::Superseded { .. } => "its owner should sign with the new key".to_owned(),
            Self::Expired { .. } | Self::TooOld { .. } => "build it again, or ask the signer to".to_owned(),
            Self::NotYet { .. } => "check the clocks: the signer's is ahead of this machine's".to_owned(),
            Self::Tainted { taint } => format!("to accept it: taints = [\"{taint}\"] in the rule"),
            Self::Equivocation { .. } => "`strict = false` in the rule serves the earlier claim".to_owned(),
            Self::TooFew { .. } => {
                "more of the accepted signers must build it, or `agree` be lower".to_owned()
            }
        }
    }

    /// As [`Display`](fmt::Display), with the owner's names for signers.
    pub fn explain(&self, policy: &Policy) -> String {
        let name = |signer: &Signer| policy.name_of(signer);
        match self {
            Self::UnknownSigner { signers } => {
                let signers: Vec<_> = signers.iter().map(ToString::to_string).collect();
                format!("signed by {}, of whom no rule has heard", signers.join(", "))
            }
            Self::DisputedSuccession { signer } => {
                format!("{} named two successors, so neither is believed", name(signer))
            }
            Self::Revoked { signer, at, by } => {
                format!("the key of {} was revoked as of {at} by {}", name(signer), name(by))
            }
            Self::Superseded { signer, since } => {
                format!("the key of {} has had a successor since {since}", name(signer))
            }
            Self::Equivocation { signer } => {
                format!("{} has claimed two different outputs for this action", name(signer))
            }
            Self::NotGenuine(ClaimError::BadSignature(signer)) => {
                format!("the signature of {} does not fit the claim", name(signer))
            }
            other => other.to_string(),
        }
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Nothing => write!(f, "there is no claim to judge"),
            Self::NoRule { project, recipe: None } => write!(f, "no rule covers the project {project}"),
            Self::NoRule { project, recipe: Some(recipe) } => {
                write!(f, "no rule covers the project {project} and the recipe {recipe}")
            }
            Self::UnknownSigner { signers } => write!(f, "signed by unknown keys: {signers:?}"),
            Self::NotGenuine(error) => write!(f, "{error}"),
            Self::Misfit { part: Misfit::Project, found } => {
                write!(f, "the claim belongs to the project {found}")
            }
            Self::Misfit { part: Misfit::Recipe, found } => {
                write!(f, "the claim belongs to the recipe {found}")
            }
            Self::Misfit { part: Misfit::Subject, .. } => write!(f, "the claim answers another question"),
            Self::NotAccepted => write!(f, "no rule for this project accepts its signer"),
            Self::DisputedSuccession { signer } => write!(f, "{signer} named two successors"),
            Self::Revoked { signer, at, .. } => write!(f, "the key {signer} was revoked as of {at}"),
            Self::Superseded { signer, since } => {
                write!(f, "the key {signer} has had a successor since {since}")
            }
            Self::Expired { not_after } => write!(f, "it expired at {not_after}"),
            Self::TooOld { issued, max_age } => {
                let age = humantime::format_duration(*max_age);
                write!(f, "it was made at {issued}, longer ago than {age}")
            }
            Self::NotYet { issued } => {
                write!(f, "it says that it was made at {issued}, which lies in the future")
            }
            Self::Tainted { taint } => write!(f, "it is tainted: {taint:?}"),
            Self::Equivocation { signer } => {
                write!(f, "{signer} has claimed two different outputs for this action")
            }
            Self::TooFew { have, need } => {
                write!(f, "{have} of the accepted signers name this output, {need} must")
            }
        }
    }
}
