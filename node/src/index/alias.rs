// SPDX-License-Identifier: MIT OR Apache-2.0
//! Other names of Blobs: tools such as Bazel, Nix and Go know bytes by their SHA-256. An alias is arithmetic, made by
//! this node alone from bytes that it had, and goes when the Blob does.

use potluck_protocol::digest::{Digest, Sha256};
use redb::WriteTransaction;

use super::{Index, IndexError, redb, rows};
use crate::content::Durability;

impl Index {
    /// Notes by which SHA-256 Blobs are known as well.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn keep_aliases(
        &self,
        aliases: &[(Digest, Sha256)],
        durability: Durability,
    ) -> Result<(), IndexError> {
        self.change(durability, |change| {
            let mut names = redb!(self, change.open_table(rows::ALIASES))?;
            let mut named = redb!(self, change.open_table(rows::ALIASED))?;
            for (digest, sha256) in aliases {
                redb!(self, names.insert(sha256.as_bytes(), digest.as_bytes()))?;
                redb!(self, named.insert(digest.as_bytes(), sha256.as_bytes()))?;
            }
            Ok(())
        })
    }

    /// The Blob of this SHA-256, if it was noted. It need not be here any more.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn of_sha256(&self, sha256: &Sha256) -> Result<Option<Digest>, IndexError> {
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::ALIASES))?;
        let row = redb!(self, table.get(sha256.as_bytes()))?;
        Ok(row.map(|row| Digest::from_bytes(*row.value())))
    }

    /// The SHA-256 of a Blob, if it was noted.
    ///
    /// # Errors
    /// [`IndexError`].
    pub fn sha256_of(&self, digest: &Digest) -> Result<Option<Sha256>, IndexError> {
        let read = redb!(self, self.db.begin_read())?;
        let table = redb!(self, read.open_table(rows::ALIASED))?;
        let row = redb!(self, table.get(digest.as_bytes()))?;
        Ok(row.map(|row| Sha256::from_bytes(*row.value())))
    }

    /// Forgets the aliases of Blobs that go.
    pub(super) fn forget_aliases(
        &self,
        change: &WriteTransaction,
        digests: &[Digest],
    ) -> Result<(), IndexError> {
        let mut names = redb!(self, change.open_table(rows::ALIASES))?;
        let mut named = redb!(self, change.open_table(rows::ALIASED))?;
        for digest in digests {
            if let Some(sha256) = redb!(self, named.remove(digest.as_bytes()))? {
                redb!(self, names.remove(sha256.value()))?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn aliases_go_with_their_blobs() {
        let index = Index::in_memory().unwrap();
        let (one, two) = (Digest::of(b"one"), Digest::of(b"two"));
        let aliases = [(one, Sha256::from_bytes([1; 32])), (two, Sha256::from_bytes([2; 32]))];
        index.keep_aliases(&aliases, Durability::Fast).unwrap();
        assert_eq!(index.of_sha256(&aliases[0].1).unwrap(), Some(one));
        assert_eq!(index.sha256_of(&two).unwrap(), Some(aliases[1].1));
        index.forget_blobs(&[one, Digest::of(b"three")]).unwrap();
        assert_eq!(index.of_sha256(&aliases[0].1).unwrap(), None);
        assert_eq!(index.sha256_of(&one).unwrap(), None);
        assert_eq!(index.of_sha256(&aliases[1].1).unwrap(), Some(two));
    }
}
