// SPDX-License-Identifier: MIT OR Apache-2.0
//! Merging Segments, and deciding when: tiers as in a log-structured merge tree (O'Neil et al., 1996), of four.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::iter::Peekable;
use std::ops::Range;

use super::Catalog;
use super::segment::{MAX_ROWS, Row, RowKind, Segment, SegmentError};
use crate::action::ActionId;

/// How many Segments of one tier are merged into one of the next.
pub const FAN_OUT: usize = 4;

/// Merges neighbouring Segments, the newest first: of several rows of one action the newest stays. With `bottom`, when
/// nothing older lies below, withdrawn rows have nothing left to hide and go.
///
/// Gives nothing when no row is left.
///
/// # Errors
/// [`SegmentError::Count`] when the result would have more rows than a Segment may.
pub fn merge(newest_first: &[&Segment], bottom: bool) -> Result<Option<Segment>, SegmentError> {
    let mut sources: Vec<Peekable<_>> =
        newest_first.iter().map(|segment| segment.rows().peekable()).collect();
    let mut heads: BinaryHeap<Reverse<(ActionId, usize)>> = sources
        .iter_mut()
        .enumerate()
        .filter_map(|(age, source)| Some(Reverse((source.peek()?.action, age))))
        .collect();
    let mut merged: Vec<Row> = Vec::with_capacity(newest_first.iter().map(|segment| segment.len()).sum());
    let mut last = None;
    while let Some(Reverse((action, age))) = heads.pop() {
        let row = sources[age].next().expect("a source in the heap has a row");
        if let Some(next) = sources[age].peek() {
            heads.push(Reverse((next.action, age)));
        }
        // Equal actions come out newest first.
        if last.replace(action) != Some(action) && !(bottom && row.kind == RowKind::Withdrawn) {
            merged.push(row);
        }
    }
    if merged.is_empty() { Ok(None) } else { Segment::new(merged).map(Some) }
}

/// Which run of neighbouring Segments should be merged next, as indices into [`Catalog::segments`]; the result goes
/// one tier up. Called until it gives nothing, it leaves at most three Segments a tier, so that `n` rows lie in at
/// most `3 (1 + log4 n)` Segments, and each row is rewritten at most `log4 n` times. Runs that would make too large a
/// Segment are left alone.
pub fn next_merge(catalog: &Catalog) -> Option<Range<usize>> {
    let mut start = 0;
    for run in catalog.segments.chunk_by(|one, other| one.tier == other.tier) {
        let rows: u64 = run.iter().map(|segment| segment.rows).sum();
        if run.len() >= FAN_OUT && rows <= MAX_ROWS as u64 {
            return Some(start..start + run.len());
        }
        start += run.len();
    }
    None
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::action::Project;
    use crate::catalog::SegmentRef;
    use crate::digest::Digest;

    fn row(action: u8, version: u64) -> Row {
        let action = ActionId::from_bytes([action; 32]);
        if version.is_multiple_of(5) {
            return Row::withdrawn(action);
        }
        Row { action, claim: Digest::of(&version.to_le_bytes()), kind: RowKind::Entry }
    }

    /// A Catalog with its Segments at hand.
    struct Shelf {
        catalog: Catalog,
        segments: Vec<Segment>,
    }

    impl Shelf {
        fn describe(&mut self, tiers: &[u32]) {
            let refs = self
                .segments
                .iter()
                .zip(tiers)
                .map(|(segment, tier)| SegmentRef::of(segment, &segment.filter().unwrap(), *tier));
            self.catalog.segments = refs.collect();
        }

        fn append(&mut self, rows: Vec<Row>) {
            let mut tiers: Vec<u32> = self.catalog.segments.iter().map(|segment| segment.tier).collect();
            self.segments.insert(0, Segment::new(rows).unwrap());
            tiers.insert(0, 0);
            self.describe(&tiers);
            while let Some(run) = next_merge(&self.catalog) {
                let bottom = run.end == self.segments.len();
                let merged = merge(&self.segments[run.clone()].iter().collect::<Vec<_>>(), bottom).unwrap();
                let tier = tiers[run.start] + 1;
                self.segments.splice(run.clone(), merged.clone());
                tiers.splice(run, merged.map(|_| tier));
                self.describe(&tiers);
            }
        }

        fn get(&self, action: &ActionId) -> Option<Row> {
            let found = self.segments.iter().find_map(|segment| segment.get(action))?;
            (found.kind != RowKind::Withdrawn).then_some(found)
        }
    }

    proptest! {
        #[test]
        fn a_catalog_says_what_a_map_would(
            batches in proptest::collection::vec(
                proptest::collection::btree_map(0..40_u8, 1..1000_u64, 1..8), 1..60)
        ) {
            let catalog = Catalog { project: Project::default(), segments: Vec::new() };
            let mut shelf = Shelf { catalog, segments: Vec::new() };
            let mut model = BTreeMap::new();
            for batch in batches {
                let rows: Vec<_> = batch.iter().map(|(action, version)| row(*action, *version)).collect();
                for row in &rows {
                    model.insert(row.action, *row);
                }
                shelf.append(rows);
                prop_assert!(shelf.segments.len() <= 9, "{} segments", shelf.segments.len());
                prop_assert!(shelf.catalog.segments.is_sorted_by_key(|segment| segment.tier));
            }
            for (action, row) in &model {
                let want = (row.kind != RowKind::Withdrawn).then_some(*row);
                prop_assert_eq!(shelf.get(action), want);
            }
        }
    }

    #[test]
    fn withdrawn_rows_stay_until_nothing_older_lies_below() {
        let (new, old) = (Segment::new(vec![row(1, 5)]).unwrap(), Segment::new(vec![row(1, 1)]).unwrap());
        let kept = merge(&[&new, &old], false).unwrap().unwrap();
        assert_eq!(kept.rows().collect::<Vec<_>>(), [row(1, 5)]);
        assert_eq!(merge(&[&new, &old], true).unwrap(), None);
    }

    #[test]
    fn the_order_of_age_decides() {
        let (one, two) = (Segment::new(vec![row(1, 1)]).unwrap(), Segment::new(vec![row(1, 2)]).unwrap());
        assert_eq!(merge(&[&one, &two], true).unwrap(), Some(one.clone()));
        assert_eq!(merge(&[&two, &one], true).unwrap(), Some(two));
    }
}
