// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where the bytes come from: the store itself, or the door when the store is another process's.

use std::fs::File;
use std::io;

use potluck_protocol::digest::Digest;
use tokio::runtime::Handle;

use crate::cache::{Cache, CacheError};
use crate::observe::span;
use crate::store::{Blob, Store, StoreError};

/// Files that are asked for at a time through the door, since each waits for the other process.
const LANES: usize = 8;

/// Where the bytes of one Blob go.
pub trait Sink {
    /// The next bytes, which were checked against the Digest.
    ///
    /// # Errors
    /// Whatever keeps them from being written.
    fn take(&mut self, bytes: &[u8]) -> io::Result<()>;

    /// All bytes at once by sharing those of a file that begins with them; `size` is how many. Gives `false` when they
    /// have to be taken one by one. They are checked afterwards, and an error then follows.
    ///
    /// # Errors
    /// Whatever keeps them from being written.
    fn share(&mut self, file: &File, size: u64) -> io::Result<bool>;
}

/// Why a Blob did not get to its place.
#[derive(Debug, thiserror::Error)]
pub enum Fault {
    /// It cannot be had.
    #[error(transparent)]
    Source(#[from] CacheError),
    /// It cannot be written.
    #[error(transparent)]
    Sink(#[from] io::Error),
}

impl From<StoreError> for Fault {
    fn from(error: StoreError) -> Self {
        Self::Source(error.into())
    }
}

/// Something that has Blobs. Used by several threads at once; all of it blocks.
pub trait Source: Sync {
    /// How many files are best written at a time.
    fn lanes(&self) -> usize;

    /// Hands over all bytes of a Blob in order, each checked against its Digest. `room` is for whatever the source
    /// likes, and is handed in again for the next Blob.
    ///
    /// # Errors
    /// [`Fault`]; the bytes before it may have been taken already.
    fn pour(&self, digest: &Digest, to: &mut dyn Sink, room: &mut Vec<u8>) -> Result<(), Fault>;
}

impl Source for Store {
    fn lanes(&self) -> usize {
        span::cores()
    }

    fn pour(&self, digest: &Digest, to: &mut dyn Sink, room: &mut Vec<u8>) -> Result<(), Fault> {
        let blob = self.blob(digest)?.ok_or(CacheError::NotHere(*digest))?;
        if let Blob::Small(_, bytes) = &blob {
            return Ok(to.take(bytes)?);
        }
        let shared = match blob.as_it_is() {
            Some(file) => to.share(file, blob.pieces().size())?,
            None => false,
        };
        for index in 0..blob.pieces().count() {
            self.piece_into(&blob, index, room)?;
            if !shared {
                to.take(room)?;
            }
        }
        Ok(())
    }
}

/// The door, for threads that may wait. Somebody else has to drive the runtime meanwhile.
pub struct Door<C> {
    /// The door.
    pub cache: C,
    /// The runtime in which it works.
    pub runtime: Handle,
}

impl<C: Cache> Source for Door<C> {
    fn lanes(&self) -> usize {
        LANES
    }

    fn pour(&self, digest: &Digest, to: &mut dyn Sink, _: &mut Vec<u8>) -> Result<(), Fault> {
        let mut stretches = self.runtime.block_on(self.cache.read(*digest, None))?;
        while let Some(stretch) = self.runtime.block_on(stretches.recv()) {
            to.take(&stretch?)?;
        }
        Ok(())
    }
}
