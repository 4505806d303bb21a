// SPDX-License-Identifier: MIT OR Apache-2.0
//! What came of a bundle, as it is shown.

use std::collections::BTreeMap;

use potluck_keys::pair::{PublicKey, Signer};
use potluck_keys::policy::{Policy, Reason};
use serde::Serialize;

/// Most different refusals that are told apart, and most Projects.
const MAX_TOLD: usize = 256;

/// What came of a bundle.
#[derive(Debug, Default, Serialize)]
pub struct Imported {
    /// Its Entries.
    pub entries: Entries,
    /// Why Entries were refused; the first few hundred different reasons.
    pub refused: Vec<Refused>,
    /// Entries that were taken, by Project; the first few hundred Projects.
    pub projects: BTreeMap<String, u64>,
    /// Blobs that were taken.
    pub blobs: u64,
    /// Their bytes, unpacked.
    pub bytes: u64,
    /// Blobs that were wanted and had other bytes than their names say.
    pub damaged: u64,
    /// Blobs that whoever made the bundle could not read.
    pub void: u64,
    /// Bytes of the bundle that were read.
    pub read: u64,
    /// How it ended.
    pub ended: Ended,
}

/// What became of Entries.
#[derive(Debug, Default, PartialEq, Eq, Serialize)]
pub struct Entries {
    /// They are here now, with all that they name.
    pub taken: u64,
    /// They were here before.
    pub known: u64,
    /// The policy has no use for them.
    pub refused: u64,
    /// Not all that they name came.
    pub incomplete: u64,
}

/// Entries that were refused for one reason.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Refused {
    /// Why, in one word; see [`Reason::code`].
    pub reason: &'static str,
    /// Whose they are: the owner's name for the signer, or its fingerprint.
    pub who: String,
    /// How many.
    pub count: u64,
    /// Why the first of them was refused, as a sentence.
    pub why: String,
    /// What to do about it.
    pub hint: String,
}

/// How the reading of a bundle ended.
#[derive(Debug, PartialEq, Eq, Serialize)]
pub struct Ended {
    /// `whole`, or one word for what was wrong; see [`super::super::BundleError::code`].
    pub how: &'static str,
    /// The same as a sentence.
    pub why: Option<String>,
}

impl Ended {
    pub(super) fn whole() -> Self {
        Self { how: "whole", why: None }
    }
}

impl Default for Ended {
    fn default() -> Self {
        Self { how: "reading", why: None }
    }
}

impl Imported {
    pub(super) fn taken(&mut self, project: &str) {
        self.entries.taken += 1;
        if let Some(count) = self.projects.get_mut(project) {
            *count += 1;
        } else if self.projects.len() < MAX_TOLD {
            self.projects.insert(project.to_owned(), 1);
        }
    }

    pub(super) fn refused(
        &mut self,
        signer: Option<Signer>,
        project: Option<&str>,
        (policy, reason): (&Policy, &Reason),
    ) {
        self.entries.refused += 1;
        let who = signer.map_or_else(|| "nobody".to_owned(), |signer| policy.name_of(&signer));
        let code = reason.code();
        if let Some(refused) =
            self.refused.iter_mut().find(|refused| refused.reason == code && refused.who == who)
        {
            refused.count += 1;
        } else if self.refused.len() < MAX_TOLD {
            let hint = hint(signer, project, (policy, reason));
            let why = reason.explain(policy);
            self.refused.push(Refused { reason: code, who, count: 1, why, hint });
        }
    }
}

/// What to do about a refusal. For keys that no rule names it is the very line that would accept them.
fn hint(signer: Option<Signer>, project: Option<&str>, (policy, reason): (&Policy, &Reason)) -> String {
    let unnamed =
        matches!(reason, Reason::UnknownSigner { .. } | Reason::NoRule { .. } | Reason::NotAccepted);
    let key = signer.and_then(|signer| PublicKey::from_signer(&signer).ok());
    match (key, project) {
        (Some(key), Some(project)) if unnamed => format!(
            "if you know that this is the key of somebody you believe: potluck trust add NAME \"{}\" --project {project}",
            key.to_openssh("").trim()
        ),
        _ => reason.hint(policy),
    }
}
