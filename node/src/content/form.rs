// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a Blob looks like at rest, byte by byte. Versions 1 and 2; all numbers are little-endian.
//!
//! First the packed pieces one after another, in the order in which they came. Then the table, one row a piece in the
//! order of the Blob:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | where the piece starts, counted from the start of the file |
//! | 4 | its packed length |
//! | 1 | 0: raw, as long as the piece, since packing it does not help; 1: one zstd frame, shorter than the piece; 2, in version 2 only: raw for now, nobody has tried to pack it |
//! | 32 | its chaining value; zeros in a Blob of one piece, whose check is the Digest |
//!
//! Then the trailer, with which the file ends:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `ptl-blob` |
//! | 4 | version |
//! | 4 | how many pieces, which the size determines |
//! | 8 | the Blob's size |
//! | 32 | its Digest |
//! | 32 | BLAKE3 of the table and of the trailer up to here |
//!
//! Version 2 differs from version 1 by code 2 alone, and is written only where a piece has that code. So a Blob that is
//! as small as it gets can be read by programs that know no other version, and the version in the trailer tells which
//! Blobs are waiting to be packed without a look at their tables.
//!
//! The check tells damage apart at once. It is no defence against whoever can write files here: for that, chaining
//! values are merged to the Digest and each piece is checked when it is read. A false size passes only where the
//! pieces then fail, see [`PieceList::verify`].

use blake3::Hasher;
use potluck_protocol::digest::{Digest, MAX_BLOB_BYTES};
use potluck_protocol::peer::Packing;
use potluck_protocol::piece::{MAX_PIECES, PieceList, Pieces, piece_count};

use crate::content::pack::{check_length, piece_bytes};
use crate::content::{ContentError, Damage, Kept};

/// The version of a Blob none of whose pieces waits to be packed.
pub const SETTLED: u32 = 1;
/// The version of a Blob that has pieces which nobody has tried to pack.
pub const WAITING: u32 = 2;

const MAGIC: [u8; 8] = *b"ptl-blob";
const ROW_BYTES: usize = 8 + 4 + 1 + 32;
const CHECK_BYTES: usize = 32;
const CHECKED_BYTES: usize = 8 + 4 + 4 + 8 + Digest::LEN;
const TRAILER_BYTES: usize = CHECKED_BYTES + CHECK_BYTES;

/// How much of the end is read at once: enough for table and trailer of a Blob of up to 89 MiB.
const TAIL_BYTES: usize = 4096;

const _: () = assert!(MAX_PIECES <= u32::MAX as u64);

/// How a piece is kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Form {
    /// As it is, since packing saves too little.
    Raw,
    /// As one zstd frame.
    Zstd,
    /// As it is, since nobody has tried yet to pack it.
    Waiting,
}

impl Form {
    /// How its bytes are to be understood.
    pub(crate) const fn packing(self) -> Packing {
        match self {
            Self::Raw | Self::Waiting => Packing::Raw,
            Self::Zstd => Packing::Zstd,
        }
    }

    const fn code(self) -> u8 {
        match self {
            Self::Raw => 0,
            Self::Zstd => 1,
            Self::Waiting => 2,
        }
    }

    const fn of(code: u8, version: u32) -> Option<Self> {
        match code {
            0 => Some(Self::Raw),
            1 => Some(Self::Zstd),
            2 if version == WAITING => Some(Self::Waiting),
            _ => None,
        }
    }
}

impl From<Packing> for Form {
    fn from(packing: Packing) -> Self {
        match packing {
            Packing::Raw => Self::Raw,
            Packing::Zstd => Self::Zstd,
        }
    }
}

/// Where a packed piece is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Place {
    /// Bytes before it.
    pub(crate) offset: u64,
    /// Its packed length in bytes, at most that of the piece.
    pub(crate) len: u32,
    /// How it is kept.
    pub(crate) form: Form,
}

/// Table and trailer of a Blob whose pieces are at `places`, one a piece.
pub(crate) fn ending(pieces: &Pieces, places: &[Place]) -> Vec<u8> {
    let list = pieces.list();
    let count = u32::try_from(places.len()).expect("pieces were counted against the largest Blob");
    let mut out = Vec::with_capacity(places.len() * ROW_BYTES + TRAILER_BYTES);
    for (at, place) in places.iter().enumerate() {
        out.extend(place.offset.to_le_bytes());
        out.extend(place.len.to_le_bytes());
        out.push(place.form.code());
        out.extend(list.values.get(at).copied().unwrap_or_default());
    }
    out.extend(MAGIC);
    let waits = places.iter().any(|place| place.form == Form::Waiting);
    out.extend(if waits { WAITING } else { SETTLED }.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(list.size.to_le_bytes());
    out.extend(pieces.digest().as_bytes());
    let check = blake3::hash(&out);
    out.extend(check.as_bytes());
    out
}

/// What the trailer says, as far as it can be checked without the table.
struct Trailer {
    version: u32,
    size: u64,
    count: u32,
    check: [u8; CHECK_BYTES],
}

/// Takes the next bytes of something whose length was checked.
fn take<const N: usize>(from: &mut &[u8]) -> [u8; N] {
    let (taken, rest) = from.split_first_chunk().expect("the length was checked");
    *from = rest;
    *taken
}

fn read_trailer(mut from: &[u8], digest: &Digest) -> Result<Trailer, Damage> {
    if take(&mut from) != MAGIC {
        return Err(Damage::Magic);
    }
    let version = u32::from_le_bytes(take(&mut from));
    if version != SETTLED && version != WAITING {
        return Err(Damage::Version(version));
    }
    let count = u32::from_le_bytes(take(&mut from));
    let size = u64::from_le_bytes(take(&mut from));
    let held = Digest::from_bytes(take(&mut from));
    if held != *digest {
        return Err(Damage::OtherBlob(held));
    }
    if size > MAX_BLOB_BYTES || piece_count(size) != u64::from(count) {
        return Err(Damage::Count { size, count });
    }
    Ok(Trailer { version, size, count, check: take(&mut from) })
}

/// Whether the trailer says that pieces wait to be packed. Nothing but the trailer is read, nor checked: whoever then
/// opens the Blob finds out what is wrong with it.
///
/// # Errors
/// What the backend says.
pub(crate) fn waits<K: Kept>(kept: &K, digest: &Digest) -> Result<bool, ContentError> {
    let Some(start) = kept.stored_bytes().checked_sub(TRAILER_BYTES as u64) else { return Ok(false) };
    let mut trailer = [0; TRAILER_BYTES];
    kept.read_at(start, &mut trailer)?;
    Ok(read_trailer(&trailer, digest).is_ok_and(|trailer| trailer.version == WAITING))
}

/// Reads table and trailer and checks all that can be without reading pieces.
///
/// # Errors
/// [`ContentError::Damaged`], or what the backend says.
pub(crate) fn read_ending<K: Kept>(kept: &K, digest: &Digest) -> Result<(Pieces, Vec<Place>), ContentError> {
    let damaged = |source| ContentError::Damaged { digest: *digest, source };
    let stored = kept.stored_bytes();
    let tail_bytes = usize::try_from(stored).unwrap_or(usize::MAX).min(TAIL_BYTES);
    let mut tail = vec![0; tail_bytes];
    kept.read_at(stored - tail_bytes as u64, &mut tail)?;
    let (Some(before), true) = (tail_bytes.checked_sub(TRAILER_BYTES), tail_bytes > 0) else {
        return Err(damaged(Damage::Short(stored)));
    };
    let (before, trailer) = tail.split_at(before);
    let read = read_trailer(trailer, digest).map_err(damaged)?;

    // The file has to hold the table before room is made for it.
    let table_bytes = read.count as usize * ROW_BYTES;
    let Some(table_at) = stored.checked_sub((table_bytes + TRAILER_BYTES) as u64) else {
        return Err(damaged(Damage::Short(stored)));
    };
    let long;
    let table = match before.len().checked_sub(table_bytes) {
        Some(start) => &before[start..],
        None => {
            let mut bytes = vec![0; table_bytes];
            kept.read_at(table_at, &mut bytes)?;
            long = bytes;
            &long
        }
    };
    let check = Hasher::new().update(table).update(&trailer[..CHECKED_BYTES]).finalize();
    if *check.as_bytes() != read.check {
        return Err(damaged(Damage::Check));
    }
    read_table(table, &read, table_at, digest).map_err(damaged)
}

/// Reads the rows of a table that starts at `end`, where the last piece has to end.
fn read_table(
    table: &[u8],
    trailer: &Trailer,
    end: u64,
    digest: &Digest,
) -> Result<(Pieces, Vec<Place>), Damage> {
    let (rows, _) = table.as_chunks::<ROW_BYTES>();
    let mut values = Vec::with_capacity(if rows.len() == 1 { 0 } else { rows.len() });
    let mut places = Vec::with_capacity(rows.len());
    for (row, index) in rows.iter().zip(0..) {
        let mut row = &row[..];
        let offset = u64::from_le_bytes(take(&mut row));
        let len = u32::from_le_bytes(take(&mut row));
        let form = Form::of(row[0], trailer.version).ok_or(Damage::Place(index))?;
        row = &row[1..];
        if rows.len() > 1 {
            values.push(take(&mut row));
        }
        if offset.checked_add(u64::from(len)).is_none_or(|past| past > end) {
            return Err(Damage::Place(index));
        }
        places.push(Place { offset, len, form });
    }
    let pieces = PieceList { size: trailer.size, values }.verify(digest).map_err(Damage::Values)?;
    for (place, index) in places.iter().zip(0..) {
        let size = piece_bytes(&pieces, index).expect("as many pieces as rows");
        check_length(place.form.packing(), place.len as usize, size).map_err(|_| Damage::Place(index))?;
    }
    Ok((pieces, places))
}

#[cfg(test)]
mod tests {
    use potluck_protocol::piece::{PIECE_BYTES, PieceHasher};

    use super::*;
    use crate::content::contract::{random, store, text};
    use crate::content::memory::MemoryKept;
    use crate::content::pack::REST_LEVEL;
    use crate::content::{Content as _, MemoryContent};

    fn pieces(data: &[u8]) -> Pieces {
        let mut hasher = PieceHasher::new();
        hasher.update(data);
        hasher.finish().unwrap()
    }

    /// The form in which these bytes are stored at first, and that in which they are at last.
    fn forms(data: &[u8]) -> [Vec<u8>; 2] {
        let content = MemoryContent::default();
        let digest = store(&content, data).digest;
        let load = || {
            let kept = content.kept(&digest).unwrap().unwrap();
            let mut form = vec![0; usize::try_from(kept.stored_bytes()).unwrap()];
            kept.read_at(0, &mut form).unwrap();
            form
        };
        let waiting = load();
        content.pack(&digest, REST_LEVEL, &mut || true).unwrap();
        [waiting, load()]
    }

    /// The last form.
    fn form(data: &[u8]) -> Vec<u8> {
        let [_, settled] = forms(data);
        settled
    }

    fn read(form: Vec<u8>, data: &[u8]) -> Result<Vec<Place>, Damage> {
        let digest = Digest::of(data);
        match read_ending(&MemoryKept::new(form), &digest) {
            Ok((pieces, places)) => {
                assert_eq!(*pieces.digest(), digest);
                Ok(places)
            }
            Err(ContentError::Damaged { source, .. }) => Err(source),
            Err(error) => panic!("{error}"),
        }
    }

    /// Changes the trailer, counted from its start, and makes the check fit again.
    fn forged(mut form: Vec<u8>, at: usize, bytes: &[u8], rows: usize) -> Vec<u8> {
        let trailer = form.len() - TRAILER_BYTES;
        form[trailer + at..trailer + at + bytes.len()].copy_from_slice(bytes);
        let check = form.len() - CHECK_BYTES;
        let hash = blake3::hash(&form[trailer - rows * ROW_BYTES..check]);
        form[check..].copy_from_slice(hash.as_bytes());
        form
    }

    #[test]
    fn version_1_stays_as_it_is() {
        // Bytes that do not shrink, since how zstd packs may change.
        let data = random(PIECE_BYTES + 5);
        let mut want = data.clone();
        let pieces = pieces(&data);
        let values = &pieces.list().values;
        want.extend(b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00\x00");
        want.extend(values[0]);
        want.extend(b"\x00\x00\x10\x00\x00\x00\x00\x00\x05\x00\x00\x00\x00");
        want.extend(values[1]);
        want.extend(b"ptl-blob\x01\x00\x00\x00\x02\x00\x00\x00\x05\x00\x10\x00\x00\x00\x00\x00");
        want.extend(blake3::hash(&data).as_bytes());
        want.extend(blake3::hash(&want[data.len()..]).as_bytes());
        assert!(form(&data) == want);
        let text = form(&text(3000));
        let row = text.len() - TRAILER_BYTES - ROW_BYTES;
        assert_eq!(text[row + 12], 1, "packed");
        assert_eq!(text[row + 13..row + ROW_BYTES], [0; 32], "its check is the Digest");
        let fixed = "fee9aa87cf861868a8aff71442c1c35f22e4f2b81563f4aaf02860c1006b4522";
        assert_eq!(Digest::of(&form(b"")).to_string(), fixed);
    }

    #[test]
    fn version_2_stays_as_it_is() {
        let data = text(PIECE_BYTES + 5);
        let [waiting, settled] = forms(&data);
        let mut want = data.clone();
        let values = &pieces(&data).list().values.clone();
        want.extend(b"\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x10\x00\x02");
        want.extend(values[0]);
        want.extend(b"\x00\x00\x10\x00\x00\x00\x00\x00\x05\x00\x00\x00\x02");
        want.extend(values[1]);
        want.extend(b"ptl-blob\x02\x00\x00\x00\x02\x00\x00\x00\x05\x00\x10\x00\x00\x00\x00\x00");
        want.extend(blake3::hash(&data).as_bytes());
        want.extend(blake3::hash(&want[data.len()..]).as_bytes());
        assert!(waiting == want);
        // The trailer alone tells that it waits, and no longer does once it was packed.
        let digest = Digest::of(&data);
        assert!(waits(&MemoryKept::new(waiting.clone()), &digest).unwrap());
        assert!(!waits(&MemoryKept::new(settled), &digest).unwrap());
        assert!(
            !waits(&MemoryKept::new(waiting[waiting.len() - TRAILER_BYTES + 1..].to_vec()), &digest).unwrap()
        );
        // A version that does not know of waiting cannot have it.
        assert!(matches!(read(forged(waiting, 8, &[1], 2), &data), Err(Damage::Place(0))));
    }

    #[test]
    fn every_changed_byte_of_the_ending_is_found() {
        let all = [text(3000), random(2 * PIECE_BYTES + 1)];
        for (data, form) in all.iter().flat_map(|data| forms(data).map(|form| (data, form))) {
            let places = read(form.clone(), data).unwrap();
            let rows = places.len();
            for at in form.len() - TRAILER_BYTES - rows * ROW_BYTES..form.len() {
                let mut changed = form.clone();
                changed[at] ^= 1;
                assert!(read(changed, data).is_err(), "{at}");
            }
        }
    }

    #[test]
    fn every_shorter_file_is_damaged() {
        let data = text(3000);
        let form = form(&data);
        for len in 0..form.len() {
            assert!(read(form[..len].to_vec(), &data).is_err(), "{len}");
        }
        assert!(matches!(read(Vec::new(), &data), Err(Damage::Short(0))));
    }

    #[test]
    fn a_table_longer_than_the_first_read_is_read() {
        let data = vec![0; 100 * PIECE_BYTES];
        let form = form(&data);
        const { assert!(100 * ROW_BYTES > TAIL_BYTES) };
        let places = read(form.clone(), &data).unwrap();
        assert_eq!(places.len(), 100);
        let mut changed = form.clone();
        let start = form.len() - TRAILER_BYTES - 100 * ROW_BYTES;
        changed[start] ^= 1;
        assert!(matches!(read(changed, &data), Err(Damage::Check)));
    }

    #[test]
    fn a_trailer_with_a_false_claim_is_refused_although_its_check_fits() {
        let data = text(3000);
        let form = form(&data);
        let read = |at, bytes: &[u8]| read(forged(form.clone(), at, bytes, 1), &data);
        assert!(read(0, b"ptl-blob").is_ok());
        assert!(matches!(read(0, b"ptl-bloc"), Err(Damage::Magic)));
        assert!(read(8, &[2]).is_ok(), "waiting for nothing is no harm");
        assert!(matches!(read(8, &[3]), Err(Damage::Version(3))));
        assert!(matches!(read(8, &[0]), Err(Damage::Version(0))));
        assert!(matches!(read(12, &[2]), Err(Damage::Count { count: 2, .. })));
        // More pieces than the file has room for: refused before room is made for them.
        let claim = |count: u64| [&count.to_le_bytes()[..4], &(count << 20).to_le_bytes()].concat();
        assert!(matches!(read(12, &claim(MAX_PIECES)), Err(Damage::Short(_))));
        assert!(matches!(read(12, &claim(MAX_PIECES + 1)), Err(Damage::Count { .. })));
        let one_more = (MAX_BLOB_BYTES + 1).to_le_bytes();
        assert!(matches!(read(16, &one_more), Err(Damage::Count { .. })));
        assert!(matches!(read(24, &[0; 32]), Err(Damage::OtherBlob(_))));
    }

    #[test]
    fn a_table_with_a_false_claim_is_refused_although_its_check_fits() {
        let data = random(2 * PIECE_BYTES);
        let sound = pieces(&data);
        let place = |offset, len, packing: Packing| Place { offset, len, form: packing.into() };
        let piece = u32::try_from(PIECE_BYTES).unwrap();
        let first = place(0, piece, Packing::Raw);
        let with = |second: Place| {
            let mut form = data.clone();
            form.extend(ending(&sound, &[first, second]));
            read(form, &data)
        };
        let start = PIECE_BYTES as u64;
        assert!(with(place(start, piece, Packing::Raw)).is_ok());
        assert!(with(place(start, piece - 1, Packing::Zstd)).is_ok());
        for wrong in [
            // Into the table, past the file, past what a number holds.
            place(start + 1, piece, Packing::Raw),
            place(1 << 40, piece, Packing::Raw),
            place(u64::MAX, piece, Packing::Raw),
            // Longer or shorter than the piece, and packed to no less.
            place(0, piece + 1, Packing::Raw),
            place(0, piece - 1, Packing::Raw),
            place(0, piece, Packing::Zstd),
            place(0, u32::MAX, Packing::Zstd),
        ] {
            assert!(matches!(with(wrong), Err(Damage::Place(1))), "{wrong:?}");
        }
        let mut form = form(&data);
        let row = form.len() - TRAILER_BYTES - 2 * ROW_BYTES;
        form[row + 12] = 3;
        assert!(matches!(read(forged(form.clone(), 0, &[], 2), &data), Err(Damage::Place(0))));
        form[row + 12] = 0;
        form[row + 13] ^= 1;
        assert!(matches!(read(forged(form, 0, &[], 2), &data), Err(Damage::Values(_))));
    }
}
