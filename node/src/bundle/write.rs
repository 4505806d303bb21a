// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writes the archive of a bundle, member after member. In which order is up to the caller.

use std::io::{self, Write};

use potluck_keys::signed::Signed;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Entry, claim_digest};

use super::{Name, Sums, TITLE, VERSION};

/// Members begin at multiples of this many bytes.
const BLOCK: u64 = 512;
static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];

/// An archive that is being written.
pub struct Writer<W> {
    to: W,
    sums: Sums,
}

impl<W: Write> Writer<W> {
    /// Begins an archive.
    ///
    /// # Errors
    /// What `to` says.
    pub fn new(to: W) -> io::Result<Self> {
        let mut this = Self { to, sums: Sums::default() };
        this.member(Name::Bundle, format!("{TITLE}{VERSION}\n").as_bytes())?;
        Ok(this)
    }

    /// Adds an Entry.
    ///
    /// # Errors
    /// What the writer below says.
    pub fn entry(&mut self, entry: &Signed<Entry>) -> io::Result<()> {
        self.sums.entries += 1;
        self.member(Name::Entry(claim_digest(entry)), entry.bytes())
    }

    /// Adds a Blob that is in memory.
    ///
    /// # Errors
    /// What the writer below says.
    pub fn blob(&mut self, name: Name, bytes: &[u8]) -> io::Result<()> {
        self.begin(name, bytes.len() as u64)?.write(bytes)?.finish()
    }

    /// Begins a Blob of which not all is in memory.
    ///
    /// # Errors
    /// What the writer below says.
    pub fn begin(&mut self, name: Name, size: u64) -> io::Result<Growing<'_, W>> {
        self.sums.blobs += 1;
        self.sums.bytes += size;
        self.to.write_all(name.header(size).as_bytes())?;
        Ok(Growing { writer: self, size, left: size })
    }

    /// Ends the archive.
    ///
    /// # Errors
    /// What the writer below says.
    pub fn finish(mut self) -> io::Result<W> {
        self.member(Name::End, self.sums.to_string().as_bytes())?;
        self.zeros(2 * BLOCK)?;
        Ok(self.to)
    }

    fn member(&mut self, name: Name, bytes: &[u8]) -> io::Result<()> {
        let size = bytes.len() as u64;
        self.to.write_all(name.header(size).as_bytes())?;
        self.to.write_all(bytes)?;
        self.fill(size)
    }

    /// Zeros up to the next block.
    fn fill(&mut self, size: u64) -> io::Result<()> {
        self.zeros(size.next_multiple_of(BLOCK) - size)
    }

    fn zeros(&mut self, mut count: u64) -> io::Result<()> {
        while count > 0 {
            let now = usize::try_from(count).unwrap_or(usize::MAX).min(ZEROS.len());
            self.to.write_all(&ZEROS[..now])?;
            count -= now as u64;
        }
        Ok(())
    }
}

/// A Blob whose size is written, and whose bytes are not yet.
#[must_use = "the archive has a hole until it is finished or given up"]
pub struct Growing<'a, W> {
    writer: &'a mut Writer<W>,
    size: u64,
    left: u64,
}

impl<W: Write> Growing<'_, W> {
    /// The next bytes.
    ///
    /// # Errors
    /// What the writer below says, or that there are more of them than was said.
    pub fn write(mut self, bytes: &[u8]) -> io::Result<Self> {
        let left = self.left.checked_sub(bytes.len() as u64);
        self.left = left.ok_or_else(|| io::Error::other("a blob is longer than it said"))?;
        self.writer.to.write_all(bytes)?;
        Ok(self)
    }

    /// Ends the Blob.
    ///
    /// # Errors
    /// What the writer below says, or that there were fewer bytes than was said.
    pub fn finish(self) -> io::Result<()> {
        if self.left > 0 {
            return Err(io::Error::other("a blob is shorter than it said"));
        }
        self.writer.fill(self.size)
    }

    /// Ends it though its bytes cannot be had: they are made up by zeros, which pack to nothing, and the next member
    /// says that they mean nothing.
    ///
    /// # Errors
    /// What the writer below says.
    pub fn give_up(self, digest: &Digest) -> io::Result<()> {
        self.writer.zeros(self.left)?;
        self.writer.fill(self.size)?;
        self.writer.sums.void += 1;
        self.writer.member(Name::Void(*digest), &[])
    }
}
