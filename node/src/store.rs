// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs wherever they lie: small ones in the index, larger ones as files of pieces. Everything here blocks.
//!
//! Whoever writes waits for hashing and writing only. Packing is left to [`crate::packing`], which is told what waits
//! for it; and reaching the disk to [`Store::sync`], which whoever publishes calls for all Blobs at once.

mod arriving;
mod durable;
mod reading;
mod small;
mod writing;

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::thread;
use std::time::Duration;

use bytes::Bytes;
use potluck_keys::ring::{self, RingError};
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Packing;
use potluck_protocol::piece::{PIECE_BYTES, PieceError, PieceList, Pieces};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use crate::content::files::Files;
use crate::content::pack::REST_LEVEL;
use crate::content::room::Room;
use crate::content::syncing::Syncing;
use crate::content::{
    Content as _, ContentError, DiskContent, Durability, Kept, Opened, Repacked, Space, Swept, disk,
};
use crate::gc::budget::Floor;
use crate::gc::protect::{Hold, Protected};
use crate::index::{Index, IndexError, MAX_INLINE_BYTES, Shrunk, View, WORTH};
use crate::observe::{clock, span};
use crate::packing::plan::Event;

/// Most pieces that all readers together have read ahead of those who take them.
pub const MAX_AHEAD: usize = 32;
/// Threads that unpack one Blob.
const READ_THREADS: usize = 4;
/// How often it is told that the store is in use.
const STIR_EVERY: Duration = Duration::from_millis(200);

pub use arriving::Arriving;
pub(crate) use small::is_small;
pub use writing::{PourError, Receiving, Writing, unpack};

/// Why the store did not do what was asked. That a Blob is absent is not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// A file of content.
    #[error(transparent)]
    Content(#[from] ContentError),
    /// The index.
    #[error(transparent)]
    Index(#[from] IndexError),
    /// A folder of the store.
    #[error(transparent)]
    Folder(#[from] RingError),
    /// A small Blob is not what its name says.
    #[error("blob {0} is damaged in the index")]
    Damaged(Digest),
    /// A Blob that came does not have the name or the pieces it should have.
    #[error("it is not the blob that was asked for: {0}")]
    Piece(#[from] PieceError),
}

impl StoreError {
    /// Whether a Blob was damaged, and is put aside.
    pub fn is_damage(&self) -> bool {
        matches!(self, Self::Damaged(_) | Self::Content(ContentError::Damaged { .. }))
    }

    /// Whether the fault is in what was handed in, and not here.
    pub fn is_refusal(&self) -> bool {
        matches!(self, Self::Content(ContentError::Refused { .. }) | Self::Piece(_))
    }
}

/// The store of a home.
#[derive(Clone)]
pub struct Store {
    content: DiskContent,
    index: Arc<Index>,
    protected: Arc<Protected>,
    known: Arc<Known>,
}

/// What is known of a store as long as it is open.
struct Known {
    room: Room,
    syncing: Syncing,
    /// Blobs whose pieces come just now.
    arriving: Mutex<BTreeMap<Digest, std::sync::Weak<arriving::Inner>>>,
    /// Bytes of small Blobs, once they have been counted.
    small: Mutex<Option<u64>>,
    ahead: Arc<Semaphore>,
    watch: OnceLock<mpsc::Sender<Event>>,
    /// When it was last told that the store is in use, in milliseconds; 0 before.
    stirred: AtomicU64,
}

impl Known {
    fn small(&self) -> MutexGuard<'_, Option<u64>> {
        self.small.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A Blob that is here.
pub enum Blob {
    /// A small one, checked.
    Small(Pieces, Vec<u8>),
    /// A larger one, whose pieces are checked as they are read.
    Large(Opened<disk::DiskKept>),
}

impl Store {
    /// Opens or makes the store below `folder`, and removes what an interrupted run left behind.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open(folder: &Path) -> Result<(Self, Swept), StoreError> {
        Self::open_with(folder, Floor::default(), Protected::default())
    }

    /// The same, with what is to stay free on the disk, and what is protected from collection.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open_with(folder: &Path, floor: Floor, protected: Protected) -> Result<(Self, Swept), StoreError> {
        Self::open_by(folder, (floor, protected), &Files::default())
    }

    /// The same by a way to the file system that may be watched.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn open_by(
        folder: &Path,
        (floor, protected): (Floor, Protected),
        files: &Files,
    ) -> Result<(Self, Swept), StoreError> {
        match files.make_folder(folder) {
            // Even the folder around it has to be made.
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                return Err(ContentError::io("make", folder, error).into());
            }
            _ => ring::make_folder(folder)?,
        }
        if let Some(around) = folder.parent() {
            let sync = files.sync_folder(around);
            sync.map_err(|error| ContentError::io("sync", around, error))?;
        }
        let protected = Arc::new(protected);
        let content = DiskContent::open_by(folder, files.clone())?.guarded(Arc::clone(&protected));
        let swept = content.sweep()?;
        let index = Arc::new(Index::open_by(&folder.join("index.redb"), files)?);
        let known = Arc::new(Known {
            room: Room::new(folder, floor),
            syncing: Syncing::default(),
            arriving: Mutex::default(),
            small: Mutex::default(),
            ahead: Arc::new(Semaphore::new(MAX_AHEAD)),
            watch: OnceLock::new(),
            stirred: AtomicU64::new(0),
        });
        Ok((Self { content, index, protected, known }, swept))
    }

    /// The index.
    pub fn index(&self) -> &Arc<Index> {
        &self.index
    }

    /// The Blobs that are files.
    pub fn content(&self) -> &DiskContent {
        &self.content
    }

    /// What somebody counts on.
    pub fn protected(&self) -> &Protected {
        &self.protected
    }

    /// Whether a Blob is here. If it is, it stays for a while.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn has(&self, digest: &Digest) -> Result<bool, StoreError> {
        self.holds(digest, Hold::Promise)
    }

    /// The same, and why it has to stay.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn holds(&self, digest: &Digest, hold: Hold) -> Result<bool, StoreError> {
        self.holds_in(&self.index.view()?, digest, hold)
    }

    /// The same, for those who ask about several: small ones as the index stood when the view was made.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn holds_in(&self, view: &View<'_>, digest: &Digest, hold: Hold) -> Result<bool, StoreError> {
        if !self.protected.enter(digest, hold) {
            return Ok(false);
        }
        // What is about to be claimed has to be here after it was entered, since collection may just have been at it.
        let small = match hold {
            Hold::Publish => self.index.view()?.has_small(digest)?,
            _ => view.has_small(digest)?,
        };
        Ok(small || self.content.has(digest))
    }

    /// Whether a Blob is here, for those who do not count on it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn has_in(&self, view: &View<'_>, digest: &Digest) -> Result<bool, StoreError> {
        Ok(view.has_small(digest)? || self.content.has(digest))
    }

    /// The same of a Blob of so many bytes: where it lies is known by that, as a rule.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn has_sized(&self, view: &View<'_>, (digest, size): (&Digest, u64)) -> Result<bool, StoreError> {
        let large = size > MAX_INLINE_BYTES as u64 && self.content.has(digest);
        Ok(large || self.has_in(view, digest)?)
    }

    /// A Blob, which stays for a while. One that is damaged is put aside and is not here any more.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn blob(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        if self.protected.enter(digest, Hold::Promise) { self.peek(digest) } else { Ok(None) }
    }

    /// The same, but nobody counts on it.
    fn peek(&self, digest: &Digest) -> Result<Option<Blob>, StoreError> {
        self.stir();
        if let Some(bytes) = self.index.small(digest)? {
            if Digest::of(&bytes) != *digest {
                if self.index.forget_small(digest)? {
                    self.tally_small(|small| small.saturating_sub(bytes.len() as u64));
                }
                return Err(StoreError::Damaged(*digest));
            }
            let list = PieceList { size: bytes.len() as u64, values: Vec::new() };
            return Ok(Some(Blob::Small(list.verify(digest)?, bytes)));
        }
        match self.content.open(digest) {
            Ok(opened) => Ok(opened.map(Blob::Large)),
            Err(error) => Err(self.aside(digest, error)),
        }
    }

    /// All bytes of a Blob of at most `limit` bytes.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn bytes(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        if self.protected.enter(digest, Hold::Promise) { self.peek_bytes(digest, limit) } else { Ok(None) }
    }

    /// The same for collection: that it looked is no use.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn peek_bytes(&self, digest: &Digest, limit: u64) -> Result<Option<Vec<u8>>, StoreError> {
        let Some(blob) = self.peek(digest)?.filter(|blob| blob.pieces().size() <= limit) else {
            return Ok(None);
        };
        match blob {
            // It was checked when it was looked up.
            Blob::Small(_, bytes) => Ok(Some(bytes)),
            Blob::Large(opened) => whole(&opened).map(Some).map_err(|error| self.aside(digest, error)),
        }
    }

    /// Leave to read one more piece ahead of whoever takes it, as long as not too many are: to be held until it is
    /// taken.
    pub fn ahead(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.known.ahead).try_acquire_owned().ok()
    }

    /// Puts a damaged Blob aside, so that it is never read again.
    fn aside(&self, digest: &Digest, error: ContentError) -> StoreError {
        if let ContentError::Damaged { .. } = error {
            tracing::warn!(blob = %digest, %error, "put aside");
            self.known.syncing.forget(digest);
            if let Err(error) = self.content.quarantine(digest) {
                tracing::warn!(blob = %digest, %error, "cannot be put aside");
            }
        }
        error.into()
    }

    /// Starts to write a Blob of unknown length.
    pub fn begin(&self) -> Writing {
        Writing { store: self.clone(), head: Vec::new(), staging: None }
    }

    /// Stores a Blob that is in memory.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn keep(&self, bytes: &[u8], durability: Durability) -> Result<Digest, StoreError> {
        let mut writing = self.begin();
        writing.write(bytes)?;
        Ok(writing.finish(durability)?.0)
    }

    /// Whether so many bytes more may be written.
    ///
    /// # Errors
    /// [`StoreError`].
    pub(crate) fn take_room(&self, bytes: u64) -> Result<(), StoreError> {
        Ok(self.known.room.take(bytes)?)
    }

    /// Stores a small Blob that is in memory, if that takes no longer than a look at the index; nothing when it does.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn keep_at_once(&self, bytes: &[u8]) -> Result<Option<Digest>, StoreError> {
        if bytes.len() > MAX_INLINE_BYTES || self.index.is_full() {
            return Ok(None);
        }
        self.stir();
        let digest = Digest::of(bytes);
        self.keep_small(&digest, bytes, Durability::Fast)?;
        Ok(Some(digest))
    }

    /// Makes everything durable that was written [`Durability::Fast`]: one wait for the file system, however many Blobs
    /// there were, and then one for the index, which must not name what is not there.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn settle(&self) -> Result<(), StoreError> {
        self.content.settle()?;
        Ok(self.index.settle()?)
    }

    /// Every Blob that is a file, with the bytes that it takes. The others are listed by the index.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn larges(&self) -> Result<Vec<(Digest, u64)>, StoreError> {
        let mut all = Vec::new();
        self.content.each(&mut |digest, stored| all.push((digest, stored)))?;
        Ok(all)
    }

    /// How many bytes all Blobs take as they are stored. Looks at each file: not for every look-up.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn total(&self) -> Result<u64, StoreError> {
        let mut bytes = self.index.small_bytes()?;
        self.content.each(&mut |_, stored| bytes += stored)?;
        Ok(bytes)
    }

    /// The same, without looking, or nothing as long as [`Store::count`] has not ended.
    pub fn used(&self) -> Option<u64> {
        Some(self.content.used()? + (*self.known.small())?)
    }

    /// Counts once what [`Store::used`] gives; each change after that is added. Small Blobs that are written while they
    /// are being counted may count twice.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn count(&self) -> Result<(), StoreError> {
        self.content.count()?;
        *self.known.small() = Some(0);
        let before = self.index.small_bytes()?;
        self.tally_small(|since| since + before);
        Ok(())
    }

    fn tally_small(&self, change: impl FnOnce(u64) -> u64) {
        let mut small = self.known.small();
        *small = small.map(change);
    }

    fn keep_small(&self, digest: &Digest, bytes: &[u8], durability: Durability) -> Result<(), StoreError> {
        self.known.room.take(bytes.len() as u64)?;
        self.protected.write(digest);
        if self.index.keep_small(digest, bytes, durability)? {
            self.tally_small(|small| small + bytes.len() as u64);
        }
        Ok(())
    }

    /// What the disk of the store has.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn room(&self) -> Result<Space, StoreError> {
        Ok(self.known.room.space()?)
    }

    /// Removes Blobs, and to which Projects they belonged. Those who have them open read on, and packing does not bring
    /// them back.
    ///
    /// # Errors
    /// [`StoreError`]; some may be gone then.
    pub fn remove_all(&self, digests: &[Digest]) -> Result<(), StoreError> {
        for digest in digests {
            self.known.syncing.forget(digest);
            self.content.remove(digest)?;
            // Somebody may have synced it in between.
            self.known.syncing.forget(digest);
        }
        let bytes = self.index.forget_blobs(digests)?;
        self.tally_small(|small| small.saturating_sub(bytes));
        if let Some(watch) = self.known.watch.get() {
            // It is looked again at the next start.
            let _ = watch.try_send(Event::Freed);
        }
        Ok(())
    }

    /// Has packing told of what it has to know: which Blobs wait for it, and that somebody uses the store. Only the
    /// first call counts.
    pub(crate) fn watch(&self, watch: mpsc::Sender<Event>) {
        let _ = self.known.watch.set(watch);
    }

    /// Somebody uses the store: what is done when nobody does has to wait.
    pub(crate) fn stir(&self) {
        let Some(watch) = self.known.watch.get() else { return };
        let now = u64::try_from(clock::moment().since(crate::plan::Moment::default()).as_millis());
        let (now, stirred) = (now.unwrap_or(u64::MAX), &self.known.stirred);
        let last = stirred.load(Ordering::Relaxed);
        if last == 0 || u128::from(now.saturating_sub(last)) >= STIR_EVERY.as_millis() {
            stirred.store(now, Ordering::Relaxed);
            // Where it cannot be told, so much is going on that it is known.
            let _ = watch.try_send(Event::Stirred);
        }
    }

    /// A file of this Blob was written.
    fn written(&self, digest: Digest, durability: Durability, waits: bool) {
        match durability {
            Durability::Durable => self.known.syncing.know(digest),
            Durability::Fast => self.known.syncing.written(digest),
        }
        if let Some(watch) = self.known.watch.get().filter(|_| waits) {
            // It is found again at the next start.
            let _ = watch.try_send(Event::Waits(digest));
        }
    }

    /// Shows Blobs that wait to be packed, until `visit` says that it is enough. Reads the end of each file.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn each_waiting(&self, visit: &mut dyn FnMut(Digest) -> bool) -> Result<(), StoreError> {
        let mut go = true;
        self.content.each(&mut |digest, _| {
            // One that cannot be read tells so when it is.
            go = go && (!self.content.waits(&digest).unwrap_or(false) || visit(digest));
        })?;
        Ok(())
    }

    /// Packs what waits of a Blob. `go` is asked before each piece whether to go on, and may wait. A Blob that is
    /// removed meanwhile stays so.
    ///
    /// # Errors
    /// [`StoreError`]; the Blob is as it was then, or put aside when it is damaged.
    pub fn pack(&self, digest: &Digest, go: &mut dyn FnMut() -> bool) -> Result<Repacked, StoreError> {
        let Some(opened) = self.content.open(digest).map_err(|error| self.aside(digest, error))? else {
            return Ok(Repacked::Gone);
        };
        self.known.room.lend(opened.stored_bytes())?;
        drop(opened);
        self.content.pack(digest, REST_LEVEL, go).map_err(|error| self.aside(digest, error))
    }

    /// Makes the file of the index smaller once much of it is free. `go` is asked now and then whether to go on; it must
    /// say no rather than wait.
    ///
    /// # Errors
    /// [`StoreError`]; the index is as it was then.
    pub fn shrink(&self, go: &mut dyn FnMut() -> bool) -> Result<Shrunk, StoreError> {
        self.index.shrink(WORTH, |bytes| Ok(self.known.room.lend(bytes)?), go)
    }
}

/// All bytes of a Blob, unpacked and checked by several threads.
fn whole<K: Kept>(opened: &Opened<K>) -> Result<Vec<u8>, ContentError> {
    let size = usize::try_from(opened.pieces().size()).unwrap_or(usize::MAX);
    let mut bytes = vec![0; size];
    let threads = span::cores().min(READ_THREADS);
    let left = Mutex::new(bytes.chunks_mut(PIECE_BYTES).zip(0..));
    let read = || {
        loop {
            let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some((piece, index)) = next else { return Ok(()) };
            opened.read_to(index, piece)?;
        }
    };
    let helpers = (threads as u64).min(opened.pieces().count()).saturating_sub(1);
    thread::scope(|scope| {
        let helpers: Vec<_> = (0..helpers).map(|_| scope.spawn(read)).collect();
        let mut outcome = read();
        for helper in helpers {
            let helped = helper.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic));
            outcome = outcome.and(helped);
        }
        outcome
    })?;
    Ok(bytes)
}

impl Blob {
    /// Its pieces.
    pub fn pieces(&self) -> &Pieces {
        match self {
            Self::Small(pieces, _) => pieces,
            Self::Large(opened) => opened.pieces(),
        }
    }

    /// A file that begins with all bytes of the Blob, if they are stored as they are. They are **not** checked.
    pub fn as_it_is(&self) -> Option<&File> {
        match self {
            Self::Large(opened) if opened.is_as_it_is() => Some(opened.kept().file()),
            Self::Small(..) | Self::Large(_) => None,
        }
    }

    /// One piece as it is stored. It is **not** checked: whoever it is sent to checks it.
    ///
    /// # Errors
    /// [`StoreError`].
    pub fn packed(&self, index: u64) -> Result<(Packing, Bytes), StoreError> {
        match self {
            Self::Small(_, bytes) => Ok((Packing::Raw, bytes.clone().into())),
            Self::Large(opened) => Ok(opened.packed(index)?),
        }
    }
}

#[cfg(test)]
mod crash;
#[cfg(test)]
mod tests;
