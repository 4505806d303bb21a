// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Heads of Catalogs that are followed, as far as later runs want to know them.

use potluck_keys::pair::Signer;
use potluck_keys::signed::Signed;
use potluck_protocol::action::Project;
use potluck_protocol::head::{Head, MAX_INSTANCES};
use redb::ReadableTable;

use super::{Durability, Index, IndexError, redb, rows};

/// Most Heads of one signer in one Project. Those beyond what is followed at a time are of machines that there were.
const MOST: usize = 4 * MAX_INSTANCES;

type Key = (&'static [u8; 32], &'static str, &'static [u8; 16]);

impl Index {
    /// Remembers a Catalog Head of somebody who is followed, so that an older one can never be passed off as new. Of too
    /// many machines, those go whose Heads end first.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn keep_head(&self, signer: &Signer, head: &Signed<Head>) -> Result<(), IndexError> {
        let claim = head.authentic()?;
        self.change(Durability::Durable, |change| {
            let mut table = redb!(self, change.open_table(rows::HEADS))?;
            let key = (signer.as_bytes(), claim.project.as_str(), claim.instance.as_bytes());
            redb!(self, table.insert(key, rows::plain(head.bytes()).as_slice()))?;
            let mut all = Vec::new();
            for head in self.range(&table, (signer, &claim.project))? {
                let claim = head.authentic()?;
                all.push((claim.not_after, claim.instance));
            }
            all.sort_unstable();
            for (_, instance) in all.iter().take(all.len().saturating_sub(MOST)) {
                let key = (signer.as_bytes(), claim.project.as_str(), instance.as_bytes());
                redb!(self, table.remove(key))?;
            }
            Ok(())
        })
    }

    /// The Heads of one Catalog that were remembered, machine by machine.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn heads_of(&self, signer: &Signer, project: &Project) -> Result<Vec<Signed<Head>>, IndexError> {
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::HEADS))?;
        self.range(&table, (signer, project))
    }

    fn range(
        &self,
        table: &impl ReadableTable<Key, &'static [u8]>,
        (signer, project): (&Signer, &Project),
    ) -> Result<Vec<Signed<Head>>, IndexError> {
        let (signer, project) = (signer.as_bytes(), project.as_str());
        let range = (signer, project, &[0; 16])..=(signer, project, &[0xff; 16]);
        let mut heads = Vec::new();
        for row in redb!(self, table.range(range))? {
            let (_, row) = redb!(self, row)?;
            heads.push(Signed::decode(rows::bytes(row.value())?)?);
        }
        Ok(heads)
    }

    /// All Catalog Heads that were remembered, with those whose they are.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn heads(&self) -> Result<Vec<(Signer, Signed<Head>)>, IndexError> {
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::HEADS))?;
        let mut heads = Vec::new();
        for row in redb!(self, table.iter())? {
            let (key, row) = redb!(self, row)?;
            let signer = Signer::from_bytes(*key.value().0);
            heads.push((signer, Signed::decode(rows::bytes(row.value())?)?));
        }
        Ok(heads)
    }
}
