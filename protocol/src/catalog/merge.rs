// SPDX-License-Identifier: MIT OR Apache-2.0
//! Merging Segments, and deciding when: tiers as in a log-structured merge tree (O'Neil et al., 1996), of four.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::iter::Peekable;
use std::ops::Range;

use super::segment::{MAX_ROWS, Row, RowKind, Segment, SegmentError};
use super::{Catalog, MAX_TIER, SegmentRef};
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
/// one tier up, to where the run stood. A run of one only changes its tier: merging it gives the same bytes, unless
/// withdrawn rows go with it.
///
/// Called until it gives nothing, it leaves at most three Segments a tier. As long as everything fits into one
/// Segment, `n` appends hence lie in at most `3 (1 + log4 n)` of them, and each row is rewritten at most `log4 n`
/// times. When a tier has grown beyond what one Segment may hold, as many of its oldest Segments go up as fit, so that
/// large ones climb out of the way of the small: otherwise one full Segment would stop everything newer from merging.
pub fn next_merge(catalog: &Catalog) -> Option<Range<usize>> {
    let mut start = 0;
    for run in catalog.segments.chunk_by(|one, other| one.tier == other.tier) {
        let end = start + run.len();
        if run.len() >= FAN_OUT && run[0].tier < MAX_TIER {
            return Some(end - oldest_that_fit(run)..end);
        }
        start = end;
    }
    None
}

/// How many of the oldest of `run` fit into one Segment together; at least one, since each fits alone.
fn oldest_that_fit(run: &[SegmentRef]) -> usize {
    let mut rows = 0_u64;
    run.iter()
        .rev()
        .take_while(|segment| {
            rows = rows.saturating_add(segment.rows);
            rows <= MAX_ROWS as u64
        })
        .count()
        .max(1)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::action::Project;
    use crate::catalog::{MAX_CATALOG_BYTES, MAX_SEGMENTS};
    use crate::codec::{decode, encode};
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

    /// Appends to a Catalog of bare references until `appends` were made; gives the most Segments there ever were.
    fn append(catalog: &mut Catalog, appends: u64, rows: u64) -> usize {
        let mut most = 0;
        for n in 0..appends {
            let describe = |rows: u64, tier: u32| {
                let digest = Digest::of(format!("{n} {rows} {tier}").as_bytes());
                SegmentRef { digest, size: rows * 65 + 16, rows, filter: digest, filter_size: 88, tier }
            };
            catalog.segments.insert(0, describe(rows, 0));
            while let Some(run) = next_merge(catalog) {
                let merged = &catalog.segments[run.clone()];
                let (rows, tier) = (merged.iter().map(|segment| segment.rows).sum(), merged[0].tier + 1);
                assert!(rows <= MAX_ROWS as u64);
                catalog.segments.splice(run, [describe(rows, tier)]);
            }
            assert!(catalog.segments.is_sorted_by_key(|segment| segment.tier));
            most = most.max(catalog.segments.len());
        }
        most
    }

    #[test]
    fn one_full_segment_does_not_stop_small_ones_from_merging() {
        let mut catalog = Catalog { project: Project::default(), segments: Vec::new() };
        append(&mut catalog, 1, MAX_ROWS as u64);
        assert!(append(&mut catalog, 20_000, 1) <= 25);
        append(&mut catalog, 5, MAX_ROWS as u64);
        assert!(append(&mut catalog, 20_000, 1) <= 40);
        assert!(decode::<Catalog>(&encode(&catalog), MAX_CATALOG_BYTES).is_ok());
    }

    #[test]
    fn ten_million_rows_fit_however_they_come() {
        for rows in [50, 100, 1000, 70_000, 262_145, 300_000, 524_289, MAX_ROWS as u64] {
            let mut catalog = Catalog { project: Project::default(), segments: Vec::new() };
            let most = append(&mut catalog, 10_000_000 / rows, rows);
            assert!(most <= MAX_SEGMENTS, "{most} segments of batches of {rows}");
        }
    }

    #[test]
    fn too_many_rows_are_refused_as_such() {
        let half = |first: u8| {
            let rows = (0..=MAX_ROWS as u64 / 2).map(|n| {
                let mut action = [first; 32];
                action[1..9].copy_from_slice(&n.to_be_bytes());
                Row { action: ActionId::from_bytes(action), ..row(1, 1) }
            });
            Segment::new(rows.collect()).unwrap()
        };
        let error = merge(&[&half(1), &half(2)], true).unwrap_err();
        assert_eq!(error, SegmentError::Count(MAX_ROWS + 2));
    }

    #[test]
    fn the_order_of_age_decides() {
        let (one, two) = (Segment::new(vec![row(1, 1)]).unwrap(), Segment::new(vec![row(1, 2)]).unwrap());
        assert_eq!(merge(&[&one, &two], true).unwrap(), Some(one.clone()));
        assert_eq!(merge(&[&two, &one], true).unwrap(), Some(two));
    }
}
