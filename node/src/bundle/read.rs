// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reads the archive of a bundle, which may be anybody's: every name, size and order is checked before anything is
//! taken into memory, and what nobody wants may not be much more than what the file weighs.
//!
//! A member's header must be the very one that this program would write. Links, devices, folders, long names, sparse
//! files and whatever else tar can say are hence refused in one comparison, and no name is ever used as a path.

use std::io::{self, BufReader, Read};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use potluck_keys::signed::Signed;
use potluck_protocol::digest::{Digest, MAX_BLOB_BYTES};
use potluck_protocol::entry::{Entry, claim_digest};

use super::{BundleError, MAX_ENTRIES, MAX_TEXT_BYTES, Name, Sums, TITLE, VERSION};

/// How many bytes that nobody wants a bundle may unpack to in any case.
pub const SPARE_BYTES: u64 = 64 << 20;
/// How many more such bytes there may be for each one that was read.
pub const SPARE_RATIO: u64 = 256;
/// Largest window of zstd that is granted, as a power of two: what `zstd -19` takes.
const WINDOW_LOG: u32 = 23;
/// Bytes that may follow the last member: tar fills its last record with zeros.
const TAIL_BYTES: u64 = 64 * 1024;
const BUFFER_BYTES: usize = 256 * 1024;

/// Who takes what is read.
pub trait Taker {
    /// An Entry of the part that is being read. It is no more than well formed.
    ///
    /// # Errors
    /// [`BundleError`], which ends the reading.
    fn entry(&mut self, entry: Signed<Entry>) -> Result<(), BundleError>;

    /// A Blob of this part, of this size; gives whether it was wanted. What of it is left unread is passed over.
    ///
    /// # Errors
    /// [`BundleError`], which ends the reading.
    fn blob(&mut self, name: Name, body: &mut Body<'_>) -> Result<bool, BundleError>;

    /// The Blob that came last is void, as whoever wrote it knows.
    fn void(&mut self);

    /// The part is over.
    ///
    /// # Errors
    /// [`BundleError`], which ends the reading.
    fn part(&mut self) -> Result<(), BundleError>;
}

/// The bytes of a Blob. That they end too early is an error.
pub struct Body<'a> {
    from: &'a mut dyn Read,
    left: u64,
}

impl Body<'_> {
    /// How many bytes are left.
    pub fn left(&self) -> u64 {
        self.left
    }
}

impl Read for Body<'_> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(to)?;
        if got == 0 && !to.is_empty() && self.left > 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= got as u64;
        Ok(got)
    }
}

/// Counts what passes.
struct Counted<R> {
    from: R,
    count: Arc<AtomicU64>,
}

impl<R: Read> Read for Counted<R> {
    fn read(&mut self, to: &mut [u8]) -> io::Result<usize> {
        let got = self.from.read(to)?;
        self.count.fetch_add(got as u64, Ordering::Relaxed);
        Ok(got)
    }
}

/// Reads a bundle; `count` is how many bytes of the file were read.
///
/// # Errors
/// [`BundleError`]. What was taken before that is sound.
pub fn read(from: impl Read, count: &Arc<AtomicU64>, taker: &mut impl Taker) -> Result<Sums, BundleError> {
    let from = Counted { from, count: Arc::clone(count) };
    let decoder = zstd::Decoder::with_buffer(BufReader::with_capacity(BUFFER_BYTES, from));
    let mut decoder = decoder.map_err(BundleError::Damaged)?;
    decoder.window_log_max(WINDOW_LOG).map_err(BundleError::Damaged)?;
    // The archive reads headers and small members in small bites.
    read_archive(BufReader::with_capacity(BUFFER_BYTES, decoder), &|| count.load(Ordering::Relaxed), taker)
}

/// Reads the archive within a bundle; `weight` is how many bytes of the file were read so far.
///
/// # Errors
/// As [`read`].
pub fn read_archive(
    from: impl Read,
    weight: &dyn Fn() -> u64,
    taker: &mut impl Taker,
) -> Result<Sums, BundleError> {
    let mut archive = tar::Archive::new(from);
    let mut members = archive.entries().map_err(BundleError::read)?.raw(true);
    let mut reading =
        Reading { taker, weight, member: 0, last: None, in_part: 0, spare: 0, sums: Sums::default() };
    while reading.last != Some(Name::End) {
        match members.next() {
            Some(Ok(mut member)) => reading.member(&mut member)?,
            Some(Err(error)) => {
                return Err(match BundleError::read(error) {
                    BundleError::Damaged(_) if reading.member == 0 => BundleError::Foreign,
                    error => error,
                });
            }
            None if reading.member == 0 => return Err(BundleError::Foreign),
            None => return Err(BundleError::CutOff),
        }
        reading.member += 1;
    }
    let Reading { member, sums, .. } = reading;
    // To the very end, where zstd has its checksum.
    let mut tail = archive.into_inner().take(TAIL_BYTES);
    let rest = io::copy(&mut tail, &mut io::sink()).map_err(BundleError::read)?;
    if rest == TAIL_BYTES {
        return Err(BundleError::Malformed { member, what: "something follows its end" });
    }
    Ok(sums)
}

/// How far the reading is.
struct Reading<'a, T> {
    taker: &'a mut T,
    weight: &'a dyn Fn() -> u64,
    /// Which member, counted from 0.
    member: u64,
    /// The one before it.
    last: Option<Name>,
    /// Entries in this part.
    in_part: usize,
    /// Bytes so far that nobody wanted.
    spare: u64,
    sums: Sums,
}

impl<T: Taker> Reading<'_, T> {
    fn wrong(&self, what: &'static str) -> BundleError {
        BundleError::Malformed { member: self.member, what }
    }

    fn spare(&mut self, bytes: u64) -> Result<(), BundleError> {
        self.spare = self.spare.saturating_add(bytes);
        let granted = SPARE_BYTES.saturating_add((self.weight)().saturating_mul(SPARE_RATIO));
        if self.spare > granted { Err(BundleError::Bomb) } else { Ok(()) }
    }

    fn member<R: Read>(&mut self, member: &mut tar::Entry<'_, R>) -> Result<(), BundleError> {
        let foreign = |this: &Self, what| match this.member {
            0 => BundleError::Foreign,
            _ => this.wrong(what),
        };
        let header = member.header();
        let name = Name::parse(&header.path_bytes()).ok_or_else(|| foreign(self, "its name"))?;
        let size = header.entry_size().map_err(|_| foreign(self, "its size"))?;
        if name.header(size).as_bytes() != header.as_bytes() {
            return Err(foreign(self, "its header"));
        }
        let max = match name {
            Name::Bundle | Name::End => MAX_TEXT_BYTES,
            Name::Entry(_) => Signed::<Entry>::MAX_BYTES as u64,
            Name::Tree(_) | Name::Blob(_) => MAX_BLOB_BYTES,
            Name::Void(_) => 0,
        };
        if size > max {
            return Err(self.wrong("it is too large"));
        }
        self.spare(512)?;
        let mut body = Body { from: member, left: size };
        let text = |body: &mut Body<'_>| {
            let mut bytes = Vec::new();
            body.read_to_end(&mut bytes).map_err(BundleError::read).map(|_| bytes)
        };
        match (self.last, name) {
            (None, Name::Bundle) => title(&text(&mut body)?)?,
            (None, _) => return Err(BundleError::Foreign),
            (Some(_), Name::Bundle) => return Err(self.wrong("it begins again")),
            (Some(last), Name::Entry(digest)) => {
                self.spare(size)?;
                self.entry(last, &digest, &text(&mut body)?)?;
            }
            (Some(last), Name::Tree(_) | Name::Blob(_)) => {
                self.blob(last, name, &mut body)?;
            }
            (Some(Name::Tree(last) | Name::Blob(last)), Name::Void(digest)) if last == digest => {
                self.sums.void += 1;
                self.taker.void();
            }
            (Some(_), Name::Void(_)) => return Err(self.wrong("it voids another blob than the last")),
            (Some(_), Name::End) => {
                if text(&mut body)? != self.sums.to_string().as_bytes() {
                    return Err(self.wrong("it counts something else than what came"));
                }
                self.taker.part()?;
            }
        }
        self.last = Some(name);
        Ok(())
    }

    fn entry(&mut self, last: Name, digest: &Digest, bytes: &[u8]) -> Result<(), BundleError> {
        if !matches!(last, Name::Bundle | Name::Entry(_)) {
            self.taker.part()?;
            self.in_part = 0;
        }
        self.in_part += 1;
        if self.in_part > MAX_ENTRIES {
            return Err(self.wrong("there are too many entries at once"));
        }
        let entry = Signed::decode(bytes).map_err(|_| self.wrong("it is no signed entry"))?;
        if claim_digest(&entry) != *digest {
            return Err(self.wrong("it is another entry than its name says"));
        }
        self.sums.entries += 1;
        self.taker.entry(entry)
    }

    fn blob(&mut self, last: Name, name: Name, body: &mut Body<'_>) -> Result<(), BundleError> {
        if matches!(last, Name::Bundle) {
            return Err(self.wrong("no entry comes before it"));
        }
        let size = body.left();
        self.sums.blobs += 1;
        self.sums.bytes = self.sums.bytes.saturating_add(size);
        if self.taker.blob(name, body)? {
            return Ok(());
        }
        // In bites: a bomb must end long before its member does.
        let mut bite = [0; 16 * 1024];
        while body.left() > 0 {
            let got = body.read(&mut bite).map_err(BundleError::read)?;
            self.spare(got as u64)?;
        }
        Ok(())
    }
}

fn title(text: &[u8]) -> Result<(), BundleError> {
    let version = std::str::from_utf8(text).ok().and_then(|text| {
        let version = text.strip_prefix(TITLE)?.strip_suffix('\n')?;
        version.parse::<u64>().ok().filter(|number| number.to_string() == version)
    });
    match version {
        Some(VERSION) => Ok(()),
        Some(later) if later > VERSION => Err(BundleError::Later(later)),
        _ => Err(BundleError::Foreign),
    }
}
