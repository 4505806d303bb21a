// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is noted of a Blob while its pieces come, so that a later run can take it up. Version 1; all numbers are
//! little-endian.
//!
//! | bytes | what |
//! |---|---|
//! | 8 | `ptl-part` |
//! | 4 | version |
//! | 8 | the Blob's size |
//! | 32 each | the chaining values of its pieces, whose number the size determines |
//!
//! Then a row for each piece that came, in the order in which they came:
//!
//! | bytes | what |
//! |---|---|
//! | 8 | where it starts in the file of packed pieces |
//! | 4 | its packed length |
//! | 4 | which piece |
//! | 1 | 0: raw, 1: one zstd frame |
//!
//! None of it is believed: the values are merged to the Digest, and each piece is checked by them when it is taken up.
//! So it does not matter what a crash leaves of the last rows, or of the pieces.

use potluck_protocol::digest::{Digest, MAX_BLOB_BYTES};
use potluck_protocol::peer::Packing;
use potluck_protocol::piece::{PIECE_BYTES, PieceList, Pieces, piece_count};

use crate::content::form::{Form, Place};

const MAGIC: [u8; 8] = *b"ptl-part";
const VERSION: u32 = 1;
const VALUE_BYTES: usize = 32;
const HEAD_BYTES: usize = 8 + 4 + 8;
const ROW_BYTES: usize = 8 + 4 + 4 + 1;

/// A Blob is taken up only so often that its notes still fit: each time, those of pieces that were damaged are written
/// once more.
const MAX_ROWS_PER_PIECE: u64 = 2;

/// Most bytes of notes of a Blob of `size` bytes that are read.
pub(crate) fn max_bytes(size: u64) -> u64 {
    HEAD_BYTES as u64 + piece_count(size) * (VALUE_BYTES as u64 + MAX_ROWS_PER_PIECE * ROW_BYTES as u64)
}

/// How the notes of a Blob begin.
pub(crate) fn head(pieces: &Pieces) -> Vec<u8> {
    let list = pieces.list();
    let mut out = Vec::with_capacity(HEAD_BYTES + list.values.len() * VALUE_BYTES);
    out.extend(MAGIC);
    out.extend(VERSION.to_le_bytes());
    out.extend(list.size.to_le_bytes());
    out.extend(list.values.as_flattened());
    out
}

/// The row of a piece, which is raw or packed and waits for nothing.
pub(crate) fn row(index: u64, place: &Place) -> [u8; ROW_BYTES] {
    let mut out = [0; ROW_BYTES];
    out[..8].copy_from_slice(&place.offset.to_le_bytes());
    out[8..12].copy_from_slice(&place.len.to_le_bytes());
    out[12..16].copy_from_slice(&u32::try_from(index).unwrap_or(u32::MAX).to_le_bytes());
    out[16] = u8::from(place.form.packing() == Packing::Zstd);
    out
}

/// Reads notes about a Blob: its pieces, and where some of them may be. Nothing when they are none, or about a Blob of
/// another size.
pub(crate) fn read(notes: &[u8], digest: &Digest, size: u64) -> Option<(Pieces, Vec<(u64, Place)>)> {
    let rest = notes.strip_prefix(&MAGIC)?.strip_prefix(&VERSION.to_le_bytes())?;
    let (noted, rest) = rest.split_first_chunk()?;
    if u64::from_le_bytes(*noted) != size || size > MAX_BLOB_BYTES {
        return None;
    }
    let count = usize::try_from(piece_count(size)).ok()?;
    let (values, rows) = rest.split_at_checked(count.checked_mul(VALUE_BYTES)?)?;
    let list = PieceList { size, values: values.as_chunks().0.to_vec() };
    let pieces = list.verify(digest).ok()?;
    let (rows, _) = rows.as_chunks::<ROW_BYTES>();
    Some((pieces, rows.iter().filter_map(read_row).collect()))
}

fn read_row(row: &[u8; ROW_BYTES]) -> Option<(u64, Place)> {
    let (offset, row) = row.split_first_chunk()?;
    let (len, row) = row.split_first_chunk()?;
    let (index, row) = row.split_first_chunk()?;
    let form = match row {
        [0] => Form::Raw,
        [1] => Form::Zstd,
        _ => return None,
    };
    let (offset, len) = (u64::from_le_bytes(*offset), u32::from_le_bytes(*len));
    let fits = len as usize <= PIECE_BYTES && offset.checked_add(u64::from(len)).is_some();
    fits.then(|| (u64::from(u32::from_le_bytes(*index)), Place { offset, len, form }))
}

#[cfg(test)]
mod tests {
    use potluck_protocol::piece::PieceHasher;

    use super::*;
    use crate::content::contract::text;

    #[test]
    fn what_was_noted_is_read_and_nonsense_is_not() {
        let data = text(3 * PIECE_BYTES);
        let mut hasher = PieceHasher::new();
        hasher.update(&data);
        let pieces = hasher.finish().unwrap();
        let (digest, size) = (*pieces.digest(), pieces.size());
        let place = Place { offset: 7, len: 1000, form: Form::Zstd };
        let mut notes = head(&pieces);
        notes.extend(row(2, &place));
        assert!(notes.len() as u64 <= max_bytes(size));
        assert_eq!(read(&notes, &digest, size), Some((pieces.clone(), vec![(2, place)])));
        // Of a row that was torn nothing is left.
        assert_eq!(read(&notes[..notes.len() - 1], &digest, size), Some((pieces, vec![])));
        assert_eq!(read(&notes[..HEAD_BYTES + 5], &digest, size), None);
        assert_eq!(read(&notes, &digest, size + 1), None);
        assert_eq!(read(&notes, &Digest::of(b"another"), size), None);
        for at in [0, 8, 30] {
            let mut other = notes.clone();
            other[at] ^= 1;
            assert_eq!(read(&other, &digest, size), None, "{at}");
        }
        let long = Place { len: (1 << 20) + 1, ..place };
        let far = Place { offset: u64::MAX, ..place };
        for place in [long, far] {
            notes.truncate(notes.len() - ROW_BYTES);
            notes.extend(row(2, &place));
            assert!(read(&notes, &digest, size).unwrap().1.is_empty());
        }
    }
}
