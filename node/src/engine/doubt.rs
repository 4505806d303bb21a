// SPDX-License-Identifier: MIT OR Apache-2.0
//! Claims that this node does not believe, whoever signed them: somebody made the same here and got something else. They
//! stay in the index as evidence, and are neither used nor passed on. The list is a file of the home.

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard, PoisonError};

use potluck_keys::ring;
use potluck_keys::signed::Signed;
use potluck_protocol::action::ActionId;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Entry, claim_digest};
use serde::{Deserialize, Serialize};

/// Most claims that are doubted at a time.
pub const MAX_DOUBTS: usize = 4096;
/// Largest file that is read, in bytes.
const MAX_FILE: usize = 4 << 20;

/// Why the list could not be read or changed.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum DoubtError {
    /// The file cannot be read or written.
    #[error("cannot keep {path}: {source}", path = path.display())]
    Io {
        /// The file.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// The file makes no sense: what it said would be believed again.
    #[error("{path} is not understood", path = .0.display())]
    Malformed(PathBuf),
    /// There are too many.
    #[error("there are {MAX_DOUBTS} claims in doubt already")]
    Full,
}

/// One claim that is not believed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Doubted {
    /// What it is about, in hexadecimal digits.
    pub action: String,
    /// Who signed it, as the owner calls them.
    pub signers: Vec<String>,
    /// Why it is not believed.
    pub reason: String,
    /// Since when, in milliseconds since 1970.
    pub at_ms: u64,
}

/// All of them.
#[derive(Debug)]
pub struct Doubts {
    path: PathBuf,
    known: Mutex<BTreeMap<String, Doubted>>,
}

impl Doubts {
    /// Those of a home.
    ///
    /// # Errors
    /// [`DoubtError`].
    pub fn of(home: &Path) -> Result<Self, DoubtError> {
        let path = home.join("doubted.json");
        let known = if path.exists() {
            let bytes = ring::read(&path, MAX_FILE).map_err(|_| DoubtError::Malformed(path.clone()))?;
            serde_json::from_slice(&bytes).map_err(|_| DoubtError::Malformed(path.clone()))?
        } else {
            BTreeMap::new()
        };
        Ok(Self { path, known: Mutex::new(known) })
    }

    fn known(&self) -> MutexGuard<'_, BTreeMap<String, Doubted>> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How many there are.
    pub fn count(&self) -> usize {
        self.known().len()
    }

    /// Why a claim of this name is not believed.
    pub fn reason(&self, name: &Digest) -> Option<Doubted> {
        self.known().get(&name.to_string()).cloned()
    }

    /// Whether a claim of this name is not believed.
    pub fn names(&self, name: &Digest) -> bool {
        let known = self.known();
        !known.is_empty() && known.contains_key(&name.to_string())
    }

    /// Whether this claim is not believed.
    pub(super) fn holds(&self, entry: &Signed<Entry>) -> bool {
        self.count() > 0 && self.names(&claim_digest(entry))
    }

    /// These without those that are not believed; nothing when all may be.
    pub(super) fn without(&self, entries: &[Signed<Entry>]) -> Option<Vec<Signed<Entry>>> {
        if self.count() == 0 || !entries.iter().any(|entry| self.holds(entry)) {
            return None;
        }
        Some(entries.iter().filter(|entry| !self.holds(entry)).cloned().collect())
    }

    /// A claim is not believed from now on.
    ///
    /// # Errors
    /// [`DoubtError`]; nothing has changed then.
    pub fn add(&self, name: &Digest, doubted: Doubted) -> Result<(), DoubtError> {
        let mut known = self.known();
        if known.len() >= MAX_DOUBTS && !known.contains_key(&name.to_string()) {
            return Err(DoubtError::Full);
        }
        let mut changed = known.clone();
        changed.insert(name.to_string(), doubted);
        self.keep(&changed)?;
        *known = changed;
        Ok(())
    }

    /// A claim is judged as any other from now on; gives whether it was not.
    ///
    /// # Errors
    /// [`DoubtError`]; nothing has changed then.
    pub fn withdraw(&self, name: &Digest) -> Result<bool, DoubtError> {
        let mut known = self.known();
        let mut changed = known.clone();
        if changed.remove(&name.to_string()).is_none() {
            return Ok(false);
        }
        self.keep(&changed)?;
        *known = changed;
        Ok(true)
    }

    fn keep(&self, known: &BTreeMap<String, Doubted>) -> Result<(), DoubtError> {
        let keep = || {
            let folder = self.path.parent().unwrap_or(Path::new("."));
            let mut file = tempfile::NamedTempFile::new_in(folder)?;
            file.write_all(&serde_json::to_vec(known)?)?;
            file.as_file().sync_all()?;
            file.persist(&self.path).map(drop).map_err(|error| error.error)
        };
        keep().map_err(|source| DoubtError::Io { path: self.path.clone(), source })
    }
}

/// A claim about an action, to be doubted.
pub(super) fn doubted((action, reason): (&ActionId, String), signers: Vec<String>, at_ms: u64) -> Doubted {
    Doubted { action: action.to_string(), signers, reason, at_ms }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_doubted_is_remembered_until_it_is_withdrawn() {
        let home = tempfile::tempdir().unwrap();
        let doubts = Doubts::of(home.path()).unwrap();
        let (name, action) = (Digest::of(b"claim"), ActionId::from_bytes([1; 32]));
        let doubt = doubted((&action, "differs".to_owned()), vec!["ann".to_owned()], 7);
        doubts.add(&name, doubt.clone()).unwrap();
        let again = Doubts::of(home.path()).unwrap();
        assert_eq!(again.reason(&name), Some(doubt));
        assert!(again.names(&name) && !again.names(&Digest::of(b"other")));
        assert!(again.withdraw(&name).unwrap() && !again.withdraw(&name).unwrap());
        assert_eq!(Doubts::of(home.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_list_that_makes_no_sense_is_not_taken_for_an_empty_one_and_it_is_bounded() {
        let home = tempfile::tempdir().unwrap();
        std::fs::write(home.path().join("doubted.json"), "nonsense").unwrap();
        assert!(matches!(Doubts::of(home.path()), Err(DoubtError::Malformed(_))));
        std::fs::write(home.path().join("doubted.json"), vec![b' '; MAX_FILE + 1]).unwrap();
        assert!(matches!(Doubts::of(home.path()), Err(DoubtError::Malformed(_))));
        let doubt = || doubted((&ActionId::from_bytes([1; 32]), String::new()), Vec::new(), 7);
        let full = (0..MAX_DOUBTS).map(|number| (number.to_string(), doubt())).collect();
        let doubts = Doubts { path: home.path().join("doubted.json"), known: Mutex::new(full) };
        assert!(matches!(doubts.add(&Digest::of(b"x"), doubt()), Err(DoubtError::Full)));
    }
}
