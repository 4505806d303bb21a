// SPDX-License-Identifier: MIT OR Apache-2.0
//! Catalogs: everything that one signer claims in one Project.
//!
//! A signed [`Head`](crate::head::Head) of the name [`CATALOG`](crate::head::CATALOG) points to a [`Catalog`], which
//! lists immutable [`Segment`]s, newest first, each with its [`Filter`]. Whoever follows the signer holds the filters:
//! what is in none of them is a miss, and costs no packet.

mod filter;
mod merge;
mod segment;

pub use filter::{Filter, FilterError, MAGIC, MAX_FILTER_BYTES, MAX_KEYS};
pub use merge::{FAN_OUT, merge, next_merge};
pub use segment::{MAX_ROWS, MAX_SEGMENT_BYTES, Row, RowKind, Segment, SegmentError};

use crate::action::Project;
use crate::digest::Digest;
use crate::record;

/// Most Segments of one Catalog.
pub const MAX_SEGMENTS: usize = 64;

/// Largest encoding of a Catalog in bytes.
pub const MAX_CATALOG_BYTES: usize = 16 * 1024;

/// Bytes of one row in a Segment, and most bytes beside the rows.
const ROW_BYTES: u64 = 65;
const SEGMENT_OVERHEAD: u64 = 64;

/// Highest tier.
pub const MAX_TIER: u32 = 31;

record! {
    /// Where a Segment and its filter are found.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct SegmentRef, check SegmentRef::check {
        /// The Segment.
        1 => one digest: Digest,
        /// Its size in bytes.
        2 => one size: u64,
        /// How many rows it has.
        3 => one rows: u64,
        /// Its filter.
        4 => one filter: Digest,
        /// The filter's size in bytes.
        5 => one filter_size: u64,
        /// How often its rows have been merged, about.
        6 => one tier: u32,
    }
}

impl SegmentRef {
    /// Describes a Segment with its filter.
    pub fn of(segment: &Segment, filter: &Filter, tier: u32) -> Self {
        let filter = filter.encode();
        Self {
            digest: Digest::of(segment.bytes()),
            size: segment.bytes().len() as u64,
            rows: segment.len() as u64,
            filter: Digest::of(&filter),
            filter_size: filter.len() as u64,
            tier,
        }
    }

    fn check(&self) -> Result<(), &'static str> {
        if self.size > MAX_SEGMENT_BYTES as u64 || self.filter_size > MAX_FILTER_BYTES as u64 {
            return Err("a size is beyond its bound");
        }
        if self.rows == 0 || self.rows > MAX_ROWS as u64 {
            return Err("it has no rows, or more than a segment may");
        }
        // Otherwise a list of few rows could make a follower fetch and hold gigabytes.
        if self.size > SEGMENT_OVERHEAD + ROW_BYTES * self.rows
            || self.filter_size > filter::max_bytes(self.rows)
        {
            return Err("a size is too large for so few rows");
        }
        if self.tier > MAX_TIER { Err("its tier is beyond 31") } else { Ok(()) }
    }
}

record! {
    /// The list of a signer's Segments in a Project.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Catalog, check Catalog::check {
        /// The Project, so that a Catalog cannot be passed off as another Project's.
        1 => one project: Project,
        /// The Segments, newest first; tiers never descend.
        2 => many(MAX_SEGMENTS) segments: SegmentRef,
    }
}

impl Catalog {
    fn check(&self) -> Result<(), &'static str> {
        if !self.segments.is_sorted_by_key(|segment| segment.tier) {
            return Err("a newer segment has a higher tier than an older one");
        }
        let mut digests: Vec<_> = self.segments.iter().map(|segment| segment.digest).collect();
        digests.sort_unstable();
        if digests.windows(2).any(|two| two[0] == two[1]) { Err("a segment is listed twice") } else { Ok(()) }
    }

    /// The Segments that are not in an older Catalog: what a follower has to fetch.
    pub fn news<'a>(&'a self, known: &'a Self) -> impl Iterator<Item = &'a SegmentRef> {
        self.segments.iter().filter(|new| known.segments.iter().all(|old| old.digest != new.digest))
    }

    /// How many rows all Segments have; an action may stand in several.
    pub fn rows(&self) -> u64 {
        self.segments.iter().map(|segment| segment.rows).sum()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};

    fn segment(n: u64, tier: u32) -> SegmentRef {
        let digest = Digest::of(&n.to_le_bytes());
        SegmentRef { digest, size: 7 * 65 + 64, rows: 7, filter: digest, filter_size: 9, tier }
    }

    fn catalog(segments: Vec<SegmentRef>) -> Catalog {
        Catalog { project: Project::new(&"p".repeat(96)).unwrap(), segments }
    }

    fn accepted(segments: Vec<SegmentRef>) -> bool {
        decode::<Catalog>(&encode(&catalog(segments)), MAX_CATALOG_BYTES).is_ok()
    }

    #[test]
    fn the_largest_catalog_fits_its_bound() {
        assert!(accepted((0..MAX_SEGMENTS as u64).map(|n| segment(n, MAX_TIER)).collect()));
        assert!(!accepted((0..=MAX_SEGMENTS as u64).map(|n| segment(n, MAX_TIER)).collect()));
    }

    #[test]
    fn each_rule_of_a_catalog_is_kept() {
        assert!(accepted(vec![]) && accepted(vec![segment(1, 0), segment(2, 0), segment(3, 2)]));
        assert!(!accepted(vec![segment(1, 1), segment(2, 0)]));
        assert!(!accepted(vec![segment(1, 0), segment(2, 0), segment(1, 0)]));
        assert!(!accepted(vec![segment(1, MAX_TIER + 1)]));
        assert!(!accepted(vec![SegmentRef { rows: 0, ..segment(1, 0) }]));
        assert!(!accepted(vec![SegmentRef { rows: MAX_ROWS as u64 + 1, ..segment(1, 0) }]));
        assert!(!accepted(vec![SegmentRef { size: 7 * 65 + 65, ..segment(1, 0) }]));
        assert!(!accepted(vec![SegmentRef { filter_size: filter::max_bytes(7) + 1, ..segment(1, 0) }]));
        assert!(accepted(vec![SegmentRef { filter_size: filter::max_bytes(7), ..segment(1, 0) }]));
        assert!(!accepted(vec![SegmentRef { size: MAX_SEGMENT_BYTES as u64 + 1, ..segment(1, 0) }]));
        assert!(!accepted(vec![SegmentRef { filter_size: MAX_FILTER_BYTES as u64 + 1, ..segment(1, 0) }]));
    }

    #[test]
    fn only_new_segments_are_news() {
        let old = catalog(vec![segment(1, 0), segment(2, 1)]);
        let new = catalog(vec![segment(3, 0), segment(2, 1)]);
        assert_eq!(new.news(&old).collect::<Vec<_>>(), [&segment(3, 0)]);
        assert_eq!(new.rows(), 14);
    }
}
