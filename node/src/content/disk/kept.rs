// SPDX-License-Identifier: MIT OR Apache-2.0
//! A file of a Blob that is being read.

use std::fs::File;
#[cfg(target_os = "linux")]
use std::io::IoSliceMut;
use std::os::unix::fs::FileExt as _;
use std::path::PathBuf;

#[cfg(target_os = "linux")]
use rustix::io::{ReadWriteFlags, preadv2};

use crate::content::{ContentError, Kept};

/// A Blob that is being read.
#[derive(Debug)]
pub struct DiskKept {
    pub(super) file: File,
    pub(super) len: u64,
    pub(super) path: PathBuf,
}

impl DiskKept {
    /// The file itself.
    pub(crate) fn file(&self) -> &File {
        &self.file
    }
}

impl Kept for DiskKept {
    fn stored_bytes(&self) -> u64 {
        self.len
    }

    fn read_at(&self, offset: u64, bytes: &mut [u8]) -> Result<(), ContentError> {
        let read = self.file.read_exact_at(bytes, offset);
        read.map_err(|error| ContentError::io("read", &self.path, error))
    }

    #[cfg(target_os = "linux")]
    fn read_at_once(&self, offset: u64, bytes: &mut [u8]) -> bool {
        let (all, into) = (bytes.len(), &mut [IoSliceMut::new(bytes)]);
        preadv2(&self.file, into, offset, ReadWriteFlags::NOWAIT).is_ok_and(|read| read == all)
    }

    #[cfg(not(target_os = "linux"))]
    fn read_at_once(&self, _: u64, _: &mut [u8]) -> bool {
        false
    }
}
