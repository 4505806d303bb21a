// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many small Blobs at a time: what each of them would ask of the index and of others is asked once.

use bytes::Bytes;
use potluck_protocol::digest::Digest;

use super::{Store, StoreError};
use crate::gc::protect::Hold;
use crate::index::{MAX_INLINE_BYTES, View};

/// Whether a Blob of so many bytes lies in the index, if it is here. There is no file to be looked for then.
pub(crate) fn is_small(size: u64) -> bool {
    size <= MAX_INLINE_BYTES as u64
}

impl Store {
    /// Keeps small Blobs that are what their names say; gives how many bytes are new. What can be fetched again need not
    /// be durable at once.
    ///
    /// # Errors
    /// [`StoreError`]; some may have been kept then.
    pub(crate) fn keep_checked(&self, blobs: &[(Digest, Bytes)]) -> Result<u64, StoreError> {
        self.stir();
        self.known.room.take(blobs.iter().map(|(_, bytes)| bytes.len() as u64).sum())?;
        for (digest, _) in blobs {
            self.protected.write(digest);
        }
        let new = self.index.keep_smalls(blobs)?;
        self.tally_small(|small| small + new);
        Ok(new)
    }

    /// The bytes of a small Blob as it lies in the index, which stays for a while. They are **not** checked: whoever
    /// they are sent to checks them.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn small_as_it_is(
        &self,
        view: &View<'_>,
        digest: &Digest,
    ) -> Result<Option<Vec<u8>>, StoreError> {
        if self.protected.enter(digest, Hold::Promise) { Ok(view.small(digest)?) } else { Ok(None) }
    }

    /// As [`Store::holds_in`], of a Blob whose size is known: no file is looked for where there is none.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn holds_sized(
        &self,
        view: &View<'_>,
        (digest, size): (&Digest, u64),
        hold: Hold,
    ) -> Result<bool, StoreError> {
        if hold == Hold::Publish || !is_small(size) {
            return self.holds_in(view, digest, hold);
        }
        Ok(self.protected.enter(digest, hold) && view.has_small(digest)?)
    }
}
