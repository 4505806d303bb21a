// SPDX-License-Identifier: MIT OR Apache-2.0
//! How small Blobs lie in rows of the index: each in its own, or several in that of a slab, to which their own rows lead.
//!
//! The row of a slab is its form, how many Blobs there are (u32), the Digest and the length (u32) of each, and then the
//! bytes of one after the other; the row of a Blob that lies there is its form, the slab's number (u64), where its bytes
//! begin in the slab's row, and how many they are (u32 both). All numbers are little-endian.

use std::ops::Range;

use bytes::Bytes;
use potluck_protocol::digest::Digest;

use super::rows::{FORM, RowError, bytes};

/// The form of a small Blob that lies in a slab.
const LAID: u8 = 2;
/// Bytes of a slab's row before what it says of its members: the form, and how many there are.
pub const HEAD_BYTES: usize = 1 + 4;
/// Bytes that a slab says of a member: its Digest and its length.
pub const MEMBER_BYTES: usize = 32 + 4;
/// Bytes of the row of a small Blob that lies in a slab: the form, the slab's number, and which bytes of its row.
const PLACE_BYTES: usize = 1 + 8 + 4 + 4;

/// Where the bytes of a small Blob are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Lies<'r> {
    /// In its row.
    Here(&'r [u8]),
    /// In a slab.
    At(Place),
}

impl Lies<'_> {
    /// How many bytes there are.
    pub fn count(&self) -> usize {
        match self {
            Self::Here(bytes) => bytes.len(),
            Self::At(place) => place.count(),
        }
    }
}

/// Some bytes of a slab's row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Place {
    /// The slab's number.
    pub slab: u64,
    /// The first of them.
    from: u32,
    /// How many.
    len: u32,
}

impl Place {
    /// How many bytes there are.
    pub fn count(&self) -> usize {
        self.len as usize
    }

    /// Which bytes of the slab's row, if it has them.
    pub fn range(&self, slab: &[u8]) -> Option<Range<usize>> {
        let range = self.from as usize..(self.from as usize).checked_add(self.count())?;
        slab.get(range.clone()).map(|_| range)
    }

    /// The row that says so.
    pub fn row(&self) -> [u8; PLACE_BYTES] {
        let mut row = [LAID; PLACE_BYTES];
        row[1..9].copy_from_slice(&self.slab.to_le_bytes());
        row[9..13].copy_from_slice(&self.from.to_le_bytes());
        row[13..].copy_from_slice(&self.len.to_le_bytes());
        row
    }
}

/// Where the bytes of a small Blob are, by its row.
///
/// # Errors
/// [`RowError`].
pub fn lies(row: &[u8]) -> Result<Lies<'_>, RowError> {
    let Some((&LAID, mut rest)) = row.split_first() else { return bytes(row).map(Lies::Here) };
    let slab = u64::from_le_bytes(take(&mut rest)?);
    let (from, len) = (u32::from_le_bytes(take(&mut rest)?), u32::from_le_bytes(take(&mut rest)?));
    if rest.is_empty() { Ok(Lies::At(Place { slab, from, len })) } else { Err(RowError::Length) }
}

fn take<const N: usize>(from: &mut &[u8]) -> Result<[u8; N], RowError> {
    let (first, rest) = from.split_first_chunk().ok_or(RowError::Length)?;
    *from = rest;
    Ok(*first)
}

/// A number of a row, which is no longer than a slab.
fn short(number: usize) -> u32 {
    u32::try_from(number).expect("a slab is short")
}

/// Writes small Blobs as the row of a slab, which is as long as it has to be; gives where each of them lies.
///
/// # Panics
/// When it is shorter or longer than that.
pub fn write(row: &mut [u8], slab: u64, members: &[(Digest, Bytes)]) -> Vec<Place> {
    let (head, mut rest) = row.split_at_mut(HEAD_BYTES + members.len() * MEMBER_BYTES);
    let (form, said) = head.split_at_mut(HEAD_BYTES);
    form[0] = FORM;
    form[1..].copy_from_slice(&short(members.len()).to_le_bytes());
    let mut from = HEAD_BYTES + said.len();
    let mut places = Vec::with_capacity(members.len());
    for ((digest, bytes), said) in members.iter().zip(said.chunks_exact_mut(MEMBER_BYTES)) {
        said[..32].copy_from_slice(digest.as_bytes());
        said[32..].copy_from_slice(&short(bytes.len()).to_le_bytes());
        let (room, left) = rest.split_at_mut(bytes.len());
        room.copy_from_slice(bytes);
        rest = left;
        places.push(Place { slab, from: short(from), len: short(bytes.len()) });
        from += bytes.len();
    }
    assert!(rest.is_empty(), "it has room for them and no more");
    places
}

/// What lay in a slab when it was written, and where.
///
/// # Errors
/// [`RowError`], also when the row does not end with the last of them.
pub fn members(slab: u64, row: &[u8]) -> Result<Vec<(Digest, Place)>, RowError> {
    let mut rest = bytes(row)?;
    let count = u32::from_le_bytes(take(&mut rest)?) as usize;
    let said = count.checked_mul(MEMBER_BYTES).and_then(|len| rest.get(..len)).ok_or(RowError::Length)?;
    let mut from = u32::try_from(HEAD_BYTES + said.len()).map_err(|_| RowError::Length)?;
    let member = |mut said: &[u8]| {
        let digest = Digest::from_bytes(take(&mut said)?);
        let len = u32::from_le_bytes(take(&mut said)?);
        let place = Place { slab, from, len };
        from = from.checked_add(len).ok_or(RowError::Length)?;
        Ok((digest, place))
    };
    let members = said.chunks_exact(MEMBER_BYTES).map(member).collect::<Result<Vec<_>, _>>()?;
    if from as usize == row.len() { Ok(members) } else { Err(RowError::Length) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slab_says_what_lies_in_it_and_where() {
        let blobs =
            [&b"one"[..], b"", b"another"].map(|bytes| (Digest::of(bytes), Bytes::from_static(bytes)));
        let mut row = vec![0; HEAD_BYTES + 3 * MEMBER_BYTES + 10];
        let places = write(&mut row, 7, &blobs);
        for ((_, bytes), place) in blobs.iter().zip(&places) {
            assert_eq!(lies(&place.row()), Ok(Lies::At(*place)));
            assert_eq!((&row[place.range(&row).unwrap()], place.count()), (&bytes[..], bytes.len()));
        }
        let named: Vec<_> = blobs.iter().zip(places).map(|((digest, _), place)| (*digest, place)).collect();
        assert_eq!(members(7, &row), Ok(named));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let place = Place { slab: 1, from: 10, len: 20 };
        let row = place.row();
        assert_eq!(lies(&row[..16]), Err(RowError::Length));
        assert_eq!(lies(&[&row[..], &[0]].concat()), Err(RowError::Length));
        assert_eq!(lies(&[]), Err(RowError::Empty));
        assert_eq!(lies(&[9, 1]), Err(RowError::Form(9)));
        assert_eq!((place.range(&[0; 29]), place.range(&[0; 30])), (None, Some(10..30)));
        let beyond = Place { slab: 1, from: u32::MAX, len: u32::MAX };
        assert_eq!(beyond.range(&[0; 30]), None);
        let many = [&[FORM][..], &u32::MAX.to_le_bytes(), &[0; 64]].concat();
        assert_eq!(members(1, &many), Err(RowError::Length));
        assert_eq!(members(1, &[&[FORM][..], &0_u32.to_le_bytes(), &[0]].concat()), Err(RowError::Length));
        let long = [&[FORM][..], &2_u32.to_le_bytes(), &[0xff; 72]].concat();
        assert_eq!(members(1, &long), Err(RowError::Length), "they end beyond what can be");
    }
}
