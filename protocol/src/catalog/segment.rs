// SPDX-License-Identifier: MIT OR Apache-2.0
//! Segments: immutable runs of a Catalog's rows, sorted, in columns, searched where they lie.

use std::cmp::Ordering;
use std::fmt;

use super::filter::{Filter, FilterError};
use crate::action::ActionId;
use crate::code;
use crate::codec::{CodecError, Reader, Writer};
use crate::digest::Digest;

/// Most rows of one Segment.
pub const MAX_ROWS: usize = 1 << 20;

/// Largest encoding in bytes.
pub const MAX_SEGMENT_BYTES: usize = MAX_ROWS * (ActionId::LEN + Digest::LEN + 1) + 64;

code! {
    /// What a signer says about an action.
    pub enum RowKind {
        /// The claim is an Entry.
        0 => Entry,
        /// The claim is a Head.
        1 => Head,
        /// There is no longer a claim: hides what older Segments say. Its Digest is all zero.
        2 => Withdrawn,
    }
}

impl RowKind {
    fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.get(usize::from(byte)).copied()
    }
}

/// What a signer's newest claim about an action is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Row {
    /// The action.
    pub action: ActionId,
    /// The Digest of the claim's payload; see [`crate::entry::claim_digest`].
    pub claim: Digest,
    /// What kind of claim.
    pub kind: RowKind,
}

impl Row {
    /// The row that hides what older Segments say about `action`.
    pub fn withdrawn(action: ActionId) -> Self {
        Self { action, claim: NO_CLAIM, kind: RowKind::Withdrawn }
    }
}

const NO_CLAIM: Digest = Digest::from_bytes([0; Digest::LEN]);

/// Why a Segment could not be made or was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum SegmentError {
    /// Not the encoding of a Segment.
    #[error("the segment is malformed: {0}")]
    Codec(#[from] CodecError),
    /// The columns differ in length.
    #[error("the columns of the segment differ in length")]
    Columns,
    /// There are no rows, or more than [`MAX_ROWS`].
    #[error("a segment has from 1 to {MAX_ROWS} rows, not {0}")]
    Count(usize),
    /// Rows are out of order, or an action stands twice.
    #[error("the rows of the segment are out of order, or an action stands twice, at {0}")]
    Order(ActionId),
    /// A row of an unknown kind, or one that is withdrawn and yet names a claim.
    #[error("the row of {0} makes no sense")]
    Row(ActionId),
    /// The filter could not be made.
    #[error("{0}")]
    Filter(#[from] FilterError),
}

/// A checked Segment, held as it is encoded.
#[derive(Clone, PartialEq, Eq)]
pub struct Segment {
    bytes: Vec<u8>,
    rows: usize,
    /// Where the columns start.
    actions: usize,
    claims: usize,
    kinds: usize,
}

impl fmt::Debug for Segment {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Segment({} rows)", self.rows)
    }
}

impl Segment {
    /// Sorts and checks rows.
    ///
    /// # Errors
    /// [`SegmentError`].
    pub fn new(mut rows: Vec<Row>) -> Result<Self, SegmentError> {
        if rows.is_empty() || rows.len() > MAX_ROWS {
            return Err(SegmentError::Count(rows.len()));
        }
        rows.sort_unstable_by_key(|row| row.action);
        let column =
            |of: fn(&Row) -> &[u8; 32]| -> Vec<u8> { rows.iter().flat_map(|row| *of(row)).collect() };
        let mut to = Writer::with_capacity(rows.len() * 65 + 64);
        to.map(3);
        to.uint(1);
        to.bytes(&column(|row| row.action.as_bytes()));
        to.uint(2);
        to.bytes(&column(|row| row.claim.as_bytes()));
        to.uint(3);
        to.bytes(&rows.iter().map(|row| row.kind as u8).collect::<Vec<_>>());
        Self::decode(to.into_bytes())
    }

    /// Takes the encoding of a Segment: a map of three byte strings, 1 the actions (32 bytes each, strictly
    /// ascending), 2 the claims (32 bytes each), 3 the kinds (one byte each, see [`RowKind`]).
    ///
    /// # Errors
    /// [`SegmentError`].
    pub fn decode(bytes: Vec<u8>) -> Result<Self, SegmentError> {
        let (columns, ends) = Self::columns(&bytes)?;
        let [actions, claims, kinds] = columns;
        let rows = kinds.len();
        if actions.len() != 32 * rows || claims.len() != 32 * rows {
            return Err(SegmentError::Columns);
        }
        if rows == 0 || rows > MAX_ROWS {
            return Err(SegmentError::Count(rows));
        }
        let [actions, claims, kinds] = [ends[0] - 32 * rows, ends[1] - 32 * rows, ends[2] - rows];
        let segment = Self { bytes, rows, actions, claims, kinds };
        segment.check()?;
        Ok(segment)
    }

    /// The three columns, and where each ends.
    fn columns(bytes: &[u8]) -> Result<([&[u8]; 3], [usize; 3]), CodecError> {
        let mut from = Reader::new(bytes);
        if from.map(3)? != 3 {
            return Err(from.invalid("a segment", "it has three columns"));
        }
        let mut columns = [(); 3].map(|()| &bytes[..0]);
        let mut ends = [0; 3];
        for (index, (column, end)) in columns.iter_mut().zip(&mut ends).enumerate() {
            if from.uint()? != index as u64 + 1 {
                return Err(from.invalid("a segment", "its columns are numbered 1, 2, 3"));
            }
            *column = from.bytes(MAX_ROWS * if index == 2 { 1 } else { 32 })?;
            *end = from.at();
        }
        from.end()?;
        Ok((columns, ends))
    }

    fn check(&self) -> Result<(), SegmentError> {
        for index in 0..self.rows {
            let action = self.action(index);
            if index > 0 && self.action(index - 1) >= action {
                return Err(SegmentError::Order(action));
            }
            let withdrawn = match RowKind::from_byte(self.bytes[self.kinds + index]) {
                Some(kind) => kind == RowKind::Withdrawn,
                None => return Err(SegmentError::Row(action)),
            };
            if withdrawn != (self.claim(index) == NO_CLAIM) {
                return Err(SegmentError::Row(action));
            }
        }
        Ok(())
    }

    fn cell(&self, column: usize, index: usize) -> [u8; 32] {
        *self.bytes[column + 32 * index..].first_chunk().expect("the columns were measured")
    }

    fn action(&self, index: usize) -> ActionId {
        ActionId::from_bytes(self.cell(self.actions, index))
    }

    fn claim(&self, index: usize) -> Digest {
        Digest::from_bytes(self.cell(self.claims, index))
    }

    fn row(&self, index: usize) -> Row {
        let kind = RowKind::from_byte(self.bytes[self.kinds + index]).expect("the kinds were checked");
        Row { action: self.action(index), claim: self.claim(index), kind }
    }

    /// The encoding.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many rows there are, at least one.
    #[expect(clippy::len_without_is_empty, reason = "a segment is never empty")]
    pub fn len(&self) -> usize {
        self.rows
    }

    /// The row of an action.
    pub fn get(&self, action: &ActionId) -> Option<Row> {
        let (mut low, mut high) = (0, self.rows);
        while low < high {
            let middle = low.midpoint(high);
            match self.action(middle).cmp(action) {
                Ordering::Less => low = middle + 1,
                Ordering::Greater => high = middle,
                Ordering::Equal => return Some(self.row(middle)),
            }
        }
        None
    }

    /// All rows, in ascending order of actions.
    pub fn rows(&self) -> impl ExactSizeIterator<Item = Row> {
        (0..self.rows).map(|index| self.row(index))
    }

    /// The filter of the actions. Withdrawn ones are members as well: the row must be found to hide what is older.
    ///
    /// # Errors
    /// [`SegmentError::Filter`].
    pub fn filter(&self) -> Result<Filter, SegmentError> {
        Ok(Filter::build((0..self.rows).map(|index| self.action(index)))?)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(n: u64) -> Row {
        let hash = |text: &str| *blake3::hash(format!("{text}{n}").as_bytes()).as_bytes();
        let kind = if n.is_multiple_of(3) { RowKind::Head } else { RowKind::Entry };
        Row { action: ActionId::from_bytes(hash("a")), claim: Digest::from_bytes(hash("c")), kind }
    }

    fn encode(columns: [&[u8]; 3]) -> Vec<u8> {
        let mut to = Writer::new();
        to.map(3);
        for (number, column) in columns.iter().enumerate() {
            to.uint(number as u64 + 1);
            to.bytes(column);
        }
        to.into_bytes()
    }

    #[test]
    fn rows_are_sorted_and_found() {
        let rows: Vec<_> = (0..1000).map(row).collect();
        let segment = Segment::new(rows.clone()).unwrap();
        assert_eq!(Segment::decode(segment.bytes().to_vec()).unwrap(), segment);
        assert!(rows.iter().all(|row| segment.get(&row.action) == Some(*row)));
        assert!((1000..1100).all(|n| segment.get(&row(n).action).is_none()));
        assert!(segment.rows().is_sorted_by_key(|row| row.action));
        let filter = segment.filter().unwrap();
        assert!(rows.iter().all(|row| filter.contains(&row.action)));
    }

    #[test]
    fn malformed_segments_are_refused() {
        assert!(matches!(Segment::new(Vec::new()), Err(SegmentError::Count(0))));
        assert!(matches!(Segment::new(vec![row(1), row(1)]), Err(SegmentError::Order(_))));
        let (low, high) = ([1_u8; 32], [2_u8; 32]);
        let two = |a: [u8; 32], b: [u8; 32], kinds: &[u8]| {
            Segment::decode(encode([&[a, b].concat(), &[[9; 32], [9; 32]].concat(), kinds]))
        };
        assert!(two(low, high, &[0, 1]).is_ok());
        assert!(matches!(two(high, low, &[0, 1]), Err(SegmentError::Order(_))));
        assert!(matches!(two(low, low, &[0, 1]), Err(SegmentError::Order(_))));
        assert!(matches!(two(low, high, &[0, 3]), Err(SegmentError::Row(_))));
        assert!(matches!(two(low, high, &[0, 2]), Err(SegmentError::Row(_))), "withdrawn, yet a claim");
        assert!(matches!(two(low, high, &[0]), Err(SegmentError::Columns)));
        assert!(
            matches!(Segment::decode(encode([&low, &[0; 32], &[0]])), Err(SegmentError::Row(_))),
            "no claim"
        );
        assert!(Segment::decode(encode([&low, &[0; 32], &[2]])).is_ok());
        let good = Segment::new(vec![row(1), row(2)]).unwrap().bytes().to_vec();
        for len in 0..good.len() {
            assert!(Segment::decode(good[..len].to_vec()).is_err(), "{len}");
        }
    }

    #[test]
    fn the_number_of_rows_is_bounded() {
        let mut rows = Vec::with_capacity(MAX_ROWS + 1);
        for n in 0..=MAX_ROWS as u64 {
            let mut action = [0; 32];
            action[..8].copy_from_slice(&n.to_be_bytes());
            rows.push(Row { action: ActionId::from_bytes(action), ..row(1) });
        }
        assert_eq!(Segment::new(rows.clone()).unwrap_err(), SegmentError::Count(MAX_ROWS + 1));
        rows.pop();
        let full = Segment::new(rows).unwrap();
        assert!(full.bytes().len() <= MAX_SEGMENT_BYTES);
    }
}
