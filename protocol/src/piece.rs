// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pieces: aligned stretches of 1 MiB of a Blob, each checkable alone and in any order against the Blob's Digest.
//!
//! BLAKE3 hashes a tree. The chaining values of all 1 MiB subtrees are sent first and merged to the Digest; after
//! that each piece is checked by computing its own chaining value. No outboard is stored and nothing is hashed twice:
//! plain BLAKE3 of the Blob and the chaining values come out of one pass. See the BLAKE3 paper, section 2.1, and
//! `blake3::hazmat`.

use std::ops::Range;

use blake3::Hasher;
use blake3::hazmat::{ChainingValue, HasherExt as _, Mode, merge_subtrees_non_root, merge_subtrees_root};

use crate::codec::{Bytes, CodecError, Fault, Reader, Wire, Writer};
use crate::digest::{Digest, MAX_BLOB_BYTES};
use crate::record;

/// Bytes of every piece but a Blob's last one.
pub const PIECE_BYTES: usize = 1 << 20;

/// Most pieces of one Blob.
pub const MAX_PIECES: u64 = MAX_BLOB_BYTES / PIECE_BYTES as u64;

/// Largest encoded [`PieceList`] in bytes.
pub const MAX_PIECE_LIST_BYTES: usize = MAX_VALUES_BYTES + 32;

const VALUE_BYTES: usize = 32;
const MAX_VALUES_BYTES: usize = 32 << 20;
const _: () = assert!(MAX_PIECES * VALUE_BYTES as u64 == MAX_VALUES_BYTES as u64);

/// How many pieces a Blob of `size` bytes has; the empty Blob has one, which is empty.
pub const fn piece_count(size: u64) -> u64 {
    let count = size.div_ceil(PIECE_BYTES as u64);
    if count == 0 { 1 } else { count }
}

/// Which bytes of a Blob of `size` bytes piece `index` covers, or nothing when there is no such piece.
pub fn piece_range(size: u64, index: u64) -> Option<Range<u64>> {
    if index >= piece_count(size) {
        return None;
    }
    let start = index * PIECE_BYTES as u64;
    Some(start..size.min(start + PIECE_BYTES as u64))
}

/// Why pieces were refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum PieceError {
    /// The chaining values do not make up the Digest.
    #[error("the list of pieces does not belong to {0}")]
    WrongList(Digest),
    /// There are not as many chaining values as the size demands.
    #[error("a blob of {size} bytes has not {values} chaining values")]
    WrongCount {
        /// The size that was declared.
        size: u64,
        /// How many values there are.
        values: usize,
    },
    /// The declared size is beyond the largest Blob.
    #[error("a blob of {0} bytes is beyond 1 TiB")]
    TooLarge(u64),
    /// There is no such piece.
    #[error("there is no piece {index}, the blob has {count}")]
    NoSuchPiece {
        /// The one asked for.
        index: u64,
        /// How many there are.
        count: u64,
    },
    /// The piece has another length than its place demands.
    #[error("piece {index} has {got} bytes or more, its place demands {want}")]
    WrongLength {
        /// The piece.
        index: u64,
        /// The length found so far.
        got: u64,
        /// The length demanded.
        want: u64,
    },
    /// The bytes are not the ones that were hashed.
    #[error("piece {index} is not what the digest names")]
    WrongBytes {
        /// The piece.
        index: u64,
    },
}

/// The chaining values of a Blob's pieces, as received: not to be used before [`PieceList::verify`].
///
/// A Blob of at most one piece has none, since its Digest is the check.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PieceList {
    /// The Blob's size in bytes.
    pub size: u64,
    /// One chaining value a piece, or none for a single piece.
    pub values: Vec<ChainingValue>,
}

impl PieceList {
    fn check_count(size: u64, values: usize) -> Result<(), PieceError> {
        if size > MAX_BLOB_BYTES {
            return Err(PieceError::TooLarge(size));
        }
        let count = piece_count(size);
        let want = if count == 1 { 0 } else { count };
        if values as u64 == want { Ok(()) } else { Err(PieceError::WrongCount { size, values }) }
    }

    /// Merges the values and compares the result with `digest`.
    ///
    /// This proves that the values are nodes of the Blob's tree. It does not prove the size: a list with a false size
    /// of as many pieces passes, and so may one that passes off nodes from higher or lower in the tree as values of
    /// fewer or more pieces. No false bytes get through for that, since a chaining value binds the length of its
    /// subtree and its place in the Blob; but the pieces of a false list are refused, at the latest the last one,
    /// whose value always ends where the Blob ends. Whoever must be sure of the size checks the last piece first.
    ///
    /// # Errors
    /// [`PieceError::WrongList`], [`PieceError::WrongCount`] or [`PieceError::TooLarge`].
    pub fn verify(self, digest: &Digest) -> Result<Pieces, PieceError> {
        Self::check_count(self.size, self.values.len())?;
        if !self.values.is_empty() && merge_root(&self.values) != *digest {
            return Err(PieceError::WrongList(*digest));
        }
        Ok(Pieces { digest: *digest, list: self })
    }
}

/// The chaining value of the subtree over these pieces.
fn merge(values: &[ChainingValue]) -> ChainingValue {
    match values {
        [only] => *only,
        _ => {
            let (left, right) = split(values);
            merge_subtrees_non_root(&merge(left), &merge(right), Mode::Hash)
        }
    }
}

fn merge_root(values: &[ChainingValue]) -> Digest {
    let (left, right) = split(values);
    merge_subtrees_root(&merge(left), &merge(right), Mode::Hash).into()
}

/// Two subtrees: the left one holds the largest power of two of pieces that leaves some for the right one.
fn split(values: &[ChainingValue]) -> (&[ChainingValue], &[ChainingValue]) {
    values.split_at(values.len().next_power_of_two() / 2)
}

record! {
    /// The form in which a [`PieceList`] travels.
    struct Listed {
        1 => one size: u64,
        2 => opt values: Bytes<MAX_VALUES_BYTES>,
    }
}

impl Wire for PieceList {
    fn write(&self, to: &mut Writer) {
        to.map(1 + usize::from(!self.values.is_empty()));
        to.uint(1);
        to.uint(self.size);
        if !self.values.is_empty() {
            to.uint(2);
            to.bytes(self.values.as_flattened());
        }
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let listed = Listed::read(from)?;
        let bytes = listed.values.map(Bytes::into_inner);
        if bytes.as_ref().is_some_and(Vec::is_empty) {
            return Err(from.fault(Fault::NotCanonical { why: "an empty list is left out" }));
        }
        let bytes = bytes.unwrap_or_default();
        let (values, []) = bytes.as_chunks::<VALUE_BYTES>() else {
            return Err(from.invalid("the list of pieces", "a chaining value has 32 bytes"));
        };
        Self::check_count(listed.size, values.len())
            .map_err(|_| from.invalid("the list of pieces", "its length does not fit the size"))?;
        Ok(Self { size: listed.size, values: values.to_vec() })
    }
}

/// The pieces of a Blob, by a list that makes up its Digest.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pieces {
    digest: Digest,
    list: PieceList,
}

impl Pieces {
    /// The Blob's name.
    pub fn digest(&self) -> &Digest {
        &self.digest
    }

    /// The Blob's size in bytes, proven as far as [`PieceList::verify`] says.
    pub fn size(&self) -> u64 {
        self.list.size
    }

    /// How many pieces there are, at least one.
    pub fn count(&self) -> u64 {
        piece_count(self.list.size)
    }

    /// Which bytes of the Blob a piece covers, or nothing when there is no such piece.
    pub fn range(&self, index: u64) -> Option<Range<u64>> {
        piece_range(self.list.size, index)
    }

    /// The list, for sending it on.
    pub fn list(&self) -> &PieceList {
        &self.list
    }

    /// Checks the bytes of one piece.
    ///
    /// # Errors
    /// [`PieceError`] when they are not exactly the ones at that place of the Blob.
    pub fn check(&self, index: u64, bytes: &[u8]) -> Result<(), PieceError> {
        let mut check = self.checker(index)?;
        check.update(bytes)?;
        check.finish()
    }

    /// Checks one piece while it streams.
    ///
    /// # Errors
    /// [`PieceError::NoSuchPiece`].
    pub fn checker(&self, index: u64) -> Result<PieceCheck, PieceError> {
        let range = self.range(index).ok_or(PieceError::NoSuchPiece { index, count: self.count() })?;
        let at = usize::try_from(index).expect("an index below the count of values in memory");
        let want = self.list.values.get(at).map_or(Want::Digest(self.digest), |value| Want::Value(*value));
        let mut hasher = Hasher::new();
        hasher.set_input_offset(range.start);
        Ok(PieceCheck { hasher, index, want, len: range.end - range.start })
    }
}

#[derive(Debug, Clone, Copy)]
enum Want {
    /// The only piece: its hash is the Digest.
    Digest(Digest),
    /// One of several.
    Value(ChainingValue),
}

/// The check of one piece whose bytes come in stretches.
#[derive(Debug, Clone)]
pub struct PieceCheck {
    hasher: Hasher,
    index: u64,
    want: Want,
    len: u64,
}

impl PieceCheck {
    /// Takes the next bytes.
    ///
    /// # Errors
    /// [`PieceError::WrongLength`] as soon as they are too many; they are not hashed then.
    pub fn update(&mut self, bytes: &[u8]) -> Result<(), PieceError> {
        let got = self.hasher.count() + bytes.len() as u64;
        if got > self.len {
            return Err(PieceError::WrongLength { index: self.index, got, want: self.len });
        }
        self.hasher.update(bytes);
        Ok(())
    }

    /// Ends the piece.
    ///
    /// # Errors
    /// [`PieceError`] when it was too short or the bytes are not the right ones.
    pub fn finish(self) -> Result<(), PieceError> {
        let got = self.hasher.count();
        if got != self.len {
            return Err(PieceError::WrongLength { index: self.index, got, want: self.len });
        }
        let right = match self.want {
            Want::Digest(digest) => Digest::from(self.hasher.finalize()) == digest,
            Want::Value(value) => self.hasher.finalize_non_root() == value,
        };
        if right { Ok(()) } else { Err(PieceError::WrongBytes { index: self.index }) }
    }
}

/// One of several pieces that is not the last, hashed alone: several threads can so hash one Blob, see
/// [`PieceHasher::append`].
#[derive(Debug, Clone)]
pub struct WholePiece {
    hasher: Hasher,
    index: u64,
}

impl WholePiece {
    /// Piece `index`, below [`MAX_PIECES`], of which nothing has come.
    pub fn new(index: u64) -> Self {
        let mut hasher = Hasher::new();
        hasher.set_input_offset(index * PIECE_BYTES as u64);
        Self { hasher, index }
    }

    /// Takes the next bytes of the piece.
    ///
    /// # Panics
    /// When they are more than a piece has.
    pub fn update(&mut self, bytes: &[u8]) {
        assert!(
            self.hasher.count() + bytes.len() as u64 <= PIECE_BYTES as u64,
            "a piece ends with its last byte"
        );
        self.hasher.update(bytes);
    }

    /// Which bytes of the Blob it covers.
    pub fn range(&self) -> Range<u64> {
        let start = self.index * PIECE_BYTES as u64;
        start..start + PIECE_BYTES as u64
    }

    /// Ends the piece.
    ///
    /// # Panics
    /// When not all of it has come.
    pub fn finish(&self) -> PieceValue {
        assert_eq!(self.hasher.count(), PIECE_BYTES as u64, "only the last piece is shorter");
        PieceValue { index: self.index, value: self.hasher.finalize_non_root() }
    }
}

/// What became of a [`WholePiece`].
#[derive(Debug, Clone, Copy)]
pub struct PieceValue {
    index: u64,
    value: ChainingValue,
}

impl PieceValue {
    /// Which piece it is.
    pub fn index(&self) -> u64 {
        self.index
    }
}

/// Hashes a stream of unknown length once, for its Digest and its pieces.
#[derive(Debug, Clone)]
pub struct PieceHasher {
    /// Of the piece that is being filled. The last piece stays here until more bytes come, since a Blob of one piece
    /// ends in the root of the tree, and one of several does not.
    hasher: Hasher,
    size: u64,
    values: Vec<ChainingValue>,
}

impl Default for PieceHasher {
    fn default() -> Self {
        Self::new()
    }
}

impl PieceHasher {
    /// Starts with the first byte of a Blob.
    pub fn new() -> Self {
        Self { hasher: Hasher::new(), size: 0, values: Vec::new() }
    }

    /// Takes the next bytes. Memory grows by one chaining value a piece, also beyond [`MAX_BLOB_BYTES`], which only
    /// [`PieceHasher::finish`] refuses: whoever reads from a stranger stops by [`PieceHasher::size`].
    pub fn update(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let filled = usize::try_from(self.hasher.count()).expect("at most the length of a piece");
            if filled == PIECE_BYTES {
                self.values.push(self.hasher.finalize_non_root());
                self.hasher = Hasher::new();
                self.hasher.set_input_offset(self.size);
                continue;
            }
            let (now, rest) = bytes.split_at(bytes.len().min(PIECE_BYTES - filled));
            self.hasher.update(now);
            self.size += now.len() as u64;
            bytes = rest;
        }
    }

    /// Takes the next piece, which was hashed alone. More bytes have to follow.
    ///
    /// # Panics
    /// When it is another one.
    pub fn append(&mut self, piece: &PieceValue) {
        assert_eq!(piece.index * PIECE_BYTES as u64, self.size, "pieces come in order");
        if self.hasher.count() > 0 {
            self.values.push(self.hasher.finalize_non_root());
            self.hasher = Hasher::new();
        }
        self.values.push(piece.value);
        self.size += PIECE_BYTES as u64;
        self.hasher.set_input_offset(self.size);
    }

    /// Bytes taken so far.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Ends the Blob.
    ///
    /// # Errors
    /// [`PieceError::TooLarge`] beyond [`MAX_BLOB_BYTES`].
    pub fn finish(mut self) -> Result<Pieces, PieceError> {
        if self.size > MAX_BLOB_BYTES {
            return Err(PieceError::TooLarge(self.size));
        }
        let digest = if self.values.is_empty() {
            self.hasher.finalize().into()
        } else {
            self.values.push(self.hasher.finalize_non_root());
            merge_root(&self.values)
        };
        Ok(Pieces { digest, list: PieceList { size: self.size, values: self.values } })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::codec::{decode, encode};

    const PIECE: usize = PIECE_BYTES;

    /// Bytes that differ everywhere.
    fn bytes(len: usize) -> Vec<u8> {
        let mut out = vec![0; len];
        let mut reader = Hasher::new().update(b"test bytes").finalize_xof();
        reader.fill(&mut out);
        out
    }

    fn pieces(data: &[u8]) -> Pieces {
        let mut hasher = PieceHasher::new();
        hasher.update(data);
        hasher.finish().unwrap()
    }

    fn piece(data: &[u8], index: u64) -> &[u8] {
        let range = piece_range(data.len() as u64, index).unwrap();
        &data[usize::try_from(range.start).unwrap()..usize::try_from(range.end).unwrap()]
    }

    #[test]
    fn one_pass_gives_the_plain_hash_for_every_length_near_every_boundary() {
        let data = bytes(9 * PIECE + 2);
        let mut lengths: Vec<usize> = (0..=2050).collect();
        for pieces in 1..=9 {
            for boundary in [pieces * PIECE, pieces * PIECE - PIECE / 2] {
                lengths.extend([0, 1, 2, 1023, 1024, 1025].map(|less| boundary - less));
                lengths.extend([1, 2].map(|more| boundary + more));
            }
        }
        for len in lengths {
            assert_eq!(*pieces(&data[..len]).digest(), Digest::of(&data[..len]), "{len}");
        }
    }

    #[test]
    fn stretches_of_any_length_give_the_same() {
        let data = bytes(3 * PIECE + 77);
        for stretch in [1000, 1024, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 5] {
            let mut hasher = PieceHasher::new();
            data.chunks(stretch).for_each(|stretch| hasher.update(stretch));
            assert_eq!(hasher.finish().unwrap(), pieces(&data), "{stretch}");
        }
    }

    #[test]
    fn pieces_that_were_hashed_alone_give_the_same() {
        let data = bytes(5 * PIECE + 77);
        for (before, alone) in [(0, 1), (0, 5), (1, 3), (2, 2)] {
            let mut hasher = PieceHasher::new();
            hasher.update(&data[..before * PIECE]);
            for index in before..before + alone {
                let mut piece = WholePiece::new(index as u64);
                data[index * PIECE..][..PIECE].chunks(100_000).for_each(|stretch| piece.update(stretch));
                hasher.append(&piece.finish());
            }
            hasher.update(&data[(before + alone) * PIECE..]);
            assert_eq!(hasher.finish().unwrap(), pieces(&data), "{before} {alone}");
        }
    }

    #[test]
    fn pieces_check_alone_in_any_order_and_streaming() {
        for len in [0, 1, PIECE, PIECE + 1, 5 * PIECE - 1, 7 * PIECE + 1024] {
            let data = bytes(len);
            let made = pieces(&data);
            let received: PieceList = decode(&encode(made.list()), MAX_PIECE_LIST_BYTES).unwrap();
            let proven = received.verify(&Digest::of(&data)).unwrap();
            for index in (0..proven.count()).rev() {
                proven.check(index, piece(&data, index)).unwrap();
                let mut check = proven.checker(index).unwrap();
                piece(&data, index).chunks(100_000).for_each(|part| check.update(part).unwrap());
                check.finish().unwrap();
            }
            assert!(matches!(proven.check(proven.count(), b""), Err(PieceError::NoSuchPiece { .. })));
        }
    }

    #[test]
    fn wrong_bytes_places_and_lengths_are_refused() {
        let data = bytes(3 * PIECE + 10);
        let proven = pieces(&data);
        for index in 0..4 {
            let mut wrong = piece(&data, index).to_vec();
            let at = wrong.len() / 2;
            wrong[at] ^= 1;
            assert_eq!(proven.check(index, &wrong), Err(PieceError::WrongBytes { index }));
        }
        assert_eq!(proven.check(0, piece(&data, 1)), Err(PieceError::WrongBytes { index: 0 }));
        for len in [9, 11] {
            let error = proven.check(3, &data[..len]).unwrap_err();
            assert!(matches!(error, PieceError::WrongLength { index: 3, want: 10, .. }));
        }
        let mut check = proven.checker(0).unwrap();
        assert!(check.update(&bytes(PIECE + 1)).is_err(), "refused before it is hashed");
        let single = pieces(b"one piece");
        assert_eq!(single.check(0, b"one pieCe"), Err(PieceError::WrongBytes { index: 0 }));
    }

    #[test]
    fn equal_content_at_other_places_has_other_values() {
        let proven = pieces(&vec![7; 2 * PIECE]);
        assert_ne!(proven.list.values[0], proven.list.values[1]);
    }

    #[test]
    fn lists_that_do_not_make_up_the_digest_are_refused() {
        let data = bytes(4 * PIECE);
        let good = pieces(&data);
        for value in 0..4 {
            let mut list = good.list().clone();
            list.values[value][5] ^= 1;
            assert_eq!(list.verify(good.digest()), Err(PieceError::WrongList(*good.digest())));
        }
        for (size, values) in [(4 * PIECE + 1, 4), (4 * PIECE, 3), (PIECE, 1), (0, 1), (PIECE + 1, 0)] {
            let list = PieceList { size: size as u64, values: good.list.values[..values].to_vec() };
            assert!(
                matches!(list.clone().verify(good.digest()), Err(PieceError::WrongCount { .. })),
                "{size}"
            );
            assert!(decode::<PieceList>(&encode(&list), MAX_PIECE_LIST_BYTES).is_err(), "{size}");
        }
        let list = PieceList { size: MAX_BLOB_BYTES + 1, values: Vec::new() };
        assert!(matches!(list.clone().verify(good.digest()), Err(PieceError::TooLarge(_))));
        assert!(decode::<PieceList>(&encode(&list), MAX_PIECE_LIST_BYTES).is_err());
    }

    #[test]
    fn a_false_size_of_as_many_pieces_is_caught_by_the_last_piece() {
        let data = bytes(2 * PIECE + 100);
        let mut list = pieces(&data).list().clone();
        list.size += 1;
        let proven = list.verify(&Digest::of(&data)).unwrap();
        proven.check(0, piece(&data, 0)).unwrap();
        assert!(matches!(proven.check(2, &data[2 * PIECE..]), Err(PieceError::WrongLength { .. })));
        let mut longer = data[2 * PIECE..].to_vec();
        longer.push(0);
        assert_eq!(proven.check(2, &longer), Err(PieceError::WrongBytes { index: 2 }));
    }

    #[test]
    fn inner_nodes_passed_off_as_pieces_fit_no_bytes() {
        let data = bytes(4 * PIECE);
        let good = pieces(&data);
        let values = good.list.values.chunks(2).map(merge).collect();
        let list = PieceList { size: 2 * PIECE as u64, values };
        let proven = list.verify(good.digest()).unwrap();
        for index in 0..2 {
            for other in 0..4 {
                assert_eq!(proven.check(index, piece(&data, other)), Err(PieceError::WrongBytes { index }));
            }
        }
    }

    #[test]
    fn halves_passed_off_as_pieces_fit_no_bytes() {
        const HALF: usize = PIECE / 2;
        for halves in 2..=4 {
            let data = bytes(halves * HALF);
            let value = |at: usize| {
                let mut hasher = Hasher::new();
                hasher.set_input_offset((at * HALF) as u64);
                hasher.update(&data[at * HALF..][..HALF]).finalize_non_root()
            };
            let values: Vec<_> = (0..halves).map(value).collect();
            for size in [(halves - 1) * PIECE + HALF, halves * PIECE] {
                let list = PieceList { size: size as u64, values: values.clone() };
                let proven = list.verify(&Digest::of(&data)).unwrap();
                for index in 0..proven.count() {
                    let range = proven.range(index).unwrap();
                    let len = usize::try_from(range.end - range.start).unwrap();
                    for at in (0..=data.len() - len).step_by(HALF) {
                        let refused = proven.check(index, &data[at..at + len]);
                        assert_eq!(refused, Err(PieceError::WrongBytes { index }), "{halves} {size} {at}");
                    }
                }
            }
        }
    }

    #[test]
    fn lists_of_other_shapes_are_refused() {
        let read = |head: &[u8], values: usize| {
            let mut encoded = head.to_vec();
            encoded.resize(head.len() + values, 7);
            decode::<PieceList>(&encoded, MAX_PIECE_LIST_BYTES)
        };
        // {1: 1 MiB + 1, 2: 64 bytes}
        assert!(read(b"\xa2\x01\x1a\x00\x10\x00\x01\x02\x58\x40", 64).is_ok());
        // Not whole values, one value too many, none although there are pieces, an empty string of values.
        assert!(read(b"\xa2\x01\x1a\x00\x10\x00\x01\x02\x58\x41", 65).is_err());
        assert!(read(b"\xa2\x01\x1a\x00\x10\x00\x01\x02\x58\x60", 96).is_err());
        assert!(read(b"\xa1\x01\x1a\x00\x10\x00\x01", 0).is_err());
        assert!(read(b"\xa2\x01\x01\x02\x40", 0).is_err());
        // The size in a longer form than needed, and bytes after the end.
        assert!(read(b"\xa1\x01\x01", 0).is_ok());
        assert!(read(b"\xa1\x01\x18\x01", 0).is_err());
        assert!(read(b"\xa1\x01\x01", 1).is_err());
    }

    #[test]
    fn the_largest_list_fits_its_cap() {
        let values = vec![[1; VALUE_BYTES]; usize::try_from(MAX_PIECES).unwrap()];
        let list = PieceList { size: MAX_BLOB_BYTES, values };
        let encoded = encode(&list);
        assert!(encoded.len() <= MAX_PIECE_LIST_BYTES);
        assert_eq!(decode(&encoded, MAX_PIECE_LIST_BYTES), Ok(list));
    }

    proptest! {
        #[test]
        fn lists_read_back_and_every_prefix_is_refused(size in 0..6 * PIECE as u64, seed: u8) {
            let count = if piece_count(size) == 1 { 0 } else { piece_count(size) };
            let values = (0..count).map(|n| [seed ^ u8::try_from(n).unwrap(); 32]).collect();
            let list = PieceList { size, values };
            let encoded = encode(&list);
            prop_assert_eq!(decode::<PieceList>(&encoded, MAX_PIECE_LIST_BYTES), Ok(list));
            for len in 0..encoded.len() {
                prop_assert!(decode::<PieceList>(&encoded[..len], MAX_PIECE_LIST_BYTES).is_err());
            }
        }
    }
}
