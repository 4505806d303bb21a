// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is noted for people: how often each Project and Recipe was asked for, and which signers contradicted
//! themselves. Both are bounded, and nothing is decided by them.

use potluck_keys::pair::Signer;
use potluck_protocol::action::ActionId;
use redb::{ReadableTable as _, ReadableTableMetadata as _};

use super::rows::{self, Contradiction, MAX_RECORD_BYTES, Tally};
use super::{Index, IndexError, redb};
use crate::content::Durability;

/// Most pairs of Project and Recipe that are counted apart. What comes later is counted together, under empty names.
pub const MAX_TALLIES: usize = 1024;

/// Most contradictions that are kept; those that came first stay.
pub const MAX_CONTRADICTIONS: usize = 4096;

impl Tally {
    /// Adds another one.
    pub fn add(&mut self, more: &Self) {
        self.hits = self.hits.saturating_add(more.hits);
        self.remote_hits = self.remote_hits.saturating_add(more.remote_hits);
        self.misses = self.misses.saturating_add(more.misses);
        self.published = self.published.saturating_add(more.published);
        self.bytes = self.bytes.saturating_add(more.bytes);
    }
}

/// A Project and a Recipe, and what was counted of them.
pub type KeptTally = ((String, String), Tally);

impl Index {
    /// Adds to what was counted, and keeps contradictions that are not known yet. All of it may be lost with the
    /// machine until the next change that may not.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn note(
        &self,
        tallies: &[((String, String), Tally)],
        contradictions: &[((Signer, ActionId), Contradiction)],
    ) -> Result<(), IndexError> {
        self.change(Durability::Fast, |change| {
            let mut table = redb!(self, change.open_table(rows::TALLIES))?;
            for ((project, recipe), more) in tallies {
                let mut key = (project.as_str(), recipe.as_str());
                let known = redb!(self, table.get(key))?.is_some();
                if !known && redb!(self, table.len())? >= MAX_TALLIES as u64 {
                    key = ("", "");
                }
                let mut tally = match redb!(self, table.get(key))? {
                    Some(row) => rows::value(row.value(), MAX_RECORD_BYTES)?,
                    None => Tally::default(),
                };
                tally.add(more);
                redb!(self, table.insert(key, rows::row(&tally).as_slice()))?;
            }
            let mut table = redb!(self, change.open_table(rows::CONTRADICTIONS))?;
            for ((signer, action), found) in contradictions {
                let key = (signer.as_bytes(), action.as_bytes());
                let known = redb!(self, table.get(key))?.is_some();
                if !known && redb!(self, table.len())? < MAX_CONTRADICTIONS as u64 {
                    redb!(self, table.insert(key, rows::row(found).as_slice()))?;
                }
            }
            Ok(())
        })
    }

    /// All that was counted: Project, Recipe, and how often what happened.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn tallies(&self) -> Result<Vec<KeptTally>, IndexError> {
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::TALLIES))?;
        let mut tallies = Vec::new();
        for row in redb!(self, table.iter())? {
            let (key, row) = redb!(self, row)?;
            let (project, recipe) = key.value();
            tallies
                .push(((project.to_owned(), recipe.to_owned()), rows::value(row.value(), MAX_RECORD_BYTES)?));
        }
        Ok(tallies)
    }

    /// How many contradictions are kept.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn contradictions(&self) -> Result<u64, IndexError> {
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::CONTRADICTIONS))?;
        redb!(self, table.len())
    }
}
