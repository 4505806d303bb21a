// SPDX-License-Identifier: MIT OR Apache-2.0
//! Takes of a bundle what the policy accepts, and nothing else.
//!
//! The Entries of a part are judged together before the first Blob comes, by the same code as claims from peers. A
//! Blob is kept only if an accepted Entry names it and its bytes have that Digest, an Entry only once all its Blobs are
//! here. All is made durable at the end at once.

mod part;
mod report;

use std::collections::BTreeMap;
use std::io::{self, Read};
use std::mem;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use potluck_keys::signed::Signed;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::Entry;
use potluck_protocol::peer::Topic;
use potluck_protocol::tree::Tree;

use super::read::{Body, Taker, read};
use super::{BundleError, Name};
use crate::content::Durability;
use crate::engine::{Engine, files};
use crate::index::MAX_INLINE_BYTES;
use part::{Arrived, Part};
pub use report::{Ended, Imported, Refused};

/// Bytes of small Blobs that are written to the index at a time.
const BATCH_BYTES: usize = 4 << 20;
/// Bytes of a large Blob in memory.
const STRETCH_BYTES: usize = 256 * 1024;
/// Bytes of Blobs between two reports on how far it is.
const REPORT_BYTES: u64 = 16 << 20;

/// Where Blobs go, and how much of them may.
pub struct Import<'a> {
    /// Who judges and keeps.
    pub engine: &'a Engine,
    /// Bytes for which there is room; asked anew before each Blob.
    pub room: &'a dyn Fn() -> u64,
    /// Told how far it is, now and then.
    pub progress: &'a mut dyn FnMut(&Imported),
}

/// Takes a bundle. What is wrong with the bundle is in the answer, since what came before is kept. Blocks.
///
/// # Errors
/// [`BundleError::Store`] when what was taken could not be made durable.
pub fn import(from: impl Read, import: Import<'_>) -> Result<Imported, BundleError> {
    let count = Arc::new(AtomicU64::new(0));
    let mut taking = Taking::new(import, Arc::clone(&count));
    let ended = read(from, &count, &mut taking);
    if ended.is_err() {
        // What is complete of a part that was broken off is kept as well. When it is the store that failed, this fails
        // likewise, and the first reason is the better one.
        let _ = taking.part();
    }
    taking.import.engine.store().settle()?;
    Ok(taking.done(ended))
}

struct Taking<'a> {
    import: Import<'a>,
    count: Arc<AtomicU64>,
    told: Vec<Signed<Entry>>,
    part: Part,
    /// Small Blobs and Entries that are complete with them, not written yet.
    small: BTreeMap<Digest, bytes::Bytes>,
    small_bytes: usize,
    entries: Vec<(Signed<Entry>, Vec<Digest>)>,
    report: Imported,
    /// Bytes of Blobs at the last report.
    reported: u64,
}

impl Taker for Taking<'_> {
    fn entry(&mut self, entry: Signed<Entry>) -> Result<(), BundleError> {
        self.told.push(entry);
        Ok(())
    }

    fn blob(&mut self, name: Name, body: &mut Body<'_>) -> Result<bool, BundleError> {
        self.judge()?;
        let (Name::Tree(digest) | Name::Blob(digest)) = name else { return Ok(false) };
        let size = body.left();
        let Some(is_tree) = self.part.wants(&digest, size) else { return Ok(false) };
        if size > (self.import.room)() {
            return Err(BundleError::Full(size));
        }
        let (sound, tree) = match usize::try_from(size) {
            // A Tree that is wanted is small enough for memory.
            Ok(size) if is_tree || size <= MAX_INLINE_BYTES => {
                let mut bytes = Vec::with_capacity(size);
                body.read_to_end(&mut bytes).map_err(BundleError::read)?;
                let sound = Digest::of(&bytes) == digest;
                let tree = (sound && is_tree).then(|| Tree::decode(&bytes).ok()).flatten();
                if sound {
                    self.small(digest, bytes)?;
                }
                (sound, tree)
            }
            _ => (self.large(&digest, body)?, None),
        };
        if !sound {
            self.report.damaged += 1;
            return Ok(true);
        }
        self.report.blobs += 1;
        self.report.bytes += size;
        self.arrived(&digest, tree.as_ref())?;
        self.tell();
        Ok(true)
    }

    fn void(&mut self) {
        // Its bytes were seen to be wrong, if it was wanted; here is why.
        self.report.void += 1;
    }

    fn part(&mut self) -> Result<(), BundleError> {
        self.judge()?;
        let part = mem::take(&mut self.part);
        self.report.entries.incomplete += part.incomplete();
        self.flush()?;
        self.tell();
        Ok(())
    }
}

impl<'a> Taking<'a> {
    fn new(import: Import<'a>, count: Arc<AtomicU64>) -> Self {
        Self {
            import,
            count,
            told: Vec::new(),
            part: Part::default(),
            small: BTreeMap::new(),
            small_bytes: 0,
            entries: Vec::new(),
            report: Imported::default(),
            reported: 0,
        }
    }

    /// Judges the Entries that came, and notes which Blobs are wanted for them.
    fn judge(&mut self) -> Result<(), BundleError> {
        let told = mem::take(&mut self.told);
        if told.is_empty() {
            return Ok(());
        }
        let complete = self.part.judge(self.import.engine, told, &mut self.report)?;
        self.complete(complete);
        Ok(())
    }

    fn small(&mut self, digest: Digest, bytes: Vec<u8>) -> Result<(), BundleError> {
        if bytes.len() > MAX_INLINE_BYTES {
            self.import.engine.store().keep(&bytes, Durability::Fast)?;
            return Ok(());
        }
        self.small_bytes += bytes.len();
        self.small.insert(digest, bytes.into());
        if self.small_bytes > BATCH_BYTES {
            self.flush()?;
        }
        Ok(())
    }

    /// Takes a Blob that is not to be in memory as a whole; gives whether it was the right one. The store would keep it
    /// under whatever name it has, so that name is found out before it may.
    fn large(&mut self, digest: &Digest, body: &mut Body<'_>) -> Result<bool, BundleError> {
        let mut writing = self.import.engine.store().begin();
        let mut hasher = blake3::Hasher::new();
        let mut stretch = vec![0; STRETCH_BYTES];
        loop {
            let got = fill(body, &mut stretch).map_err(BundleError::read)?;
            if got == 0 {
                break;
            }
            hasher.update(&stretch[..got]);
            writing.write(&stretch[..got])?;
        }
        if Digest::from_bytes(*hasher.finalize().as_bytes()) != *digest {
            return Ok(false);
        }
        writing.finish(Durability::Fast)?;
        Ok(true)
    }

    /// Goes on with what waited for a Blob.
    fn arrived(&mut self, digest: &Digest, tree: Option<&Tree>) -> Result<(), BundleError> {
        let Some(tree) = tree else {
            let complete = self.part.arrived(digest, None);
            self.complete(complete);
            return Ok(());
        };
        let mut absent = Vec::new();
        for need in files(tree) {
            let coming = self.small.contains_key(&need.digest);
            if !coming && !self.import.engine.store().has(&need.digest)? {
                absent.push(need);
            }
        }
        let all = files(tree).map(|need| need.digest).collect();
        let complete = self.part.arrived(digest, Some(&Arrived { all, absent }));
        self.complete(complete);
        Ok(())
    }

    fn complete(&mut self, entries: Vec<(Signed<Entry>, Vec<Digest>)>) {
        self.entries.extend(entries);
    }

    /// Writes what is complete.
    fn flush(&mut self) -> Result<(), BundleError> {
        let (small, entries) = (mem::take(&mut self.small), mem::take(&mut self.entries));
        self.small_bytes = 0;
        if small.is_empty() && entries.is_empty() {
            return Ok(());
        }
        self.import.engine.store().index().keep_all(&small, &entries)?;
        for (entry, _) in &entries {
            let Ok(claim) = entry.authentic() else { continue };
            self.report.taken(claim.project.as_str());
            for signer in entry.signers() {
                self.import.engine.tell_held(Topic { signer, project: claim.project.clone() });
            }
        }
        Ok(())
    }

    fn tell(&mut self) {
        if self.report.bytes - self.reported >= REPORT_BYTES || self.reported == 0 {
            self.reported = self.report.bytes;
            self.report.read = self.count.load(Ordering::Relaxed);
            (self.import.progress)(&self.report);
        }
    }

    fn done(mut self, ended: Result<super::Sums, BundleError>) -> Imported {
        self.report.read = self.count.load(Ordering::Relaxed);
        self.report.ended = match ended {
            Ok(_) => Ended::whole(),
            Err(error) => Ended { how: error.code(), why: Some(error.to_string()) },
        };
        self.report
    }
}

/// As many bytes as there are, up to a whole stretch.
fn fill(from: &mut impl Read, to: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < to.len() {
        match from.read(&mut to[filled..])? {
            0 => break,
            got => filled += got,
        }
    }
    Ok(filled)
}
