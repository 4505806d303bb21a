// SPDX-License-Identifier: MIT OR Apache-2.0
//! The next state of an own Catalog: what was published becomes a Segment in front, and small Segments are merged.

use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::catalog::{
    Catalog, Filter, FilterError, MAX_ROWS, Row, RowKind, Segment, SegmentError, SegmentRef, merge,
    next_merge,
};
use potluck_protocol::codec;
use potluck_protocol::digest::Digest;

/// Most Entries that one flush lists.
pub const MAX_FLUSH: usize = MAX_ROWS / 4;

/// Why an own Catalog could not be written.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum OwnError<E> {
    /// A Segment could not be made, or an older one is damaged.
    #[error("a segment of the own catalog: {0}")]
    Segment(#[from] SegmentError),
    /// A filter could not be made.
    #[error("a filter of the own catalog: {0}")]
    Filter(#[from] FilterError),
    /// An older Segment could not be loaded.
    #[error(transparent)]
    Load(E),
}

/// A Catalog and the Blobs that it brings with it: Segments, filters, and its own encoding last.
#[derive(Debug)]
pub struct Next {
    /// The Catalog.
    pub catalog: Catalog,
    /// Blobs that are new.
    pub blobs: Vec<Vec<u8>>,
}

/// In place of an Entry's name: it is no longer claimed.
const WITHDRAWN: Digest = Digest::from_bytes([0; 32]);

/// Lists `entries` in front of what a Catalog lists already, or hides what it lists where the name is all zero. `load` gives the Segment of a Digest.
///
/// # Errors
/// [`OwnError`].
pub fn next<E>(
    project: &Project,
    before: Option<Catalog>,
    entries: &[(ActionId, Digest)],
    mut load: impl FnMut(&SegmentRef) -> Result<Segment, E>,
) -> Result<Next, OwnError<E>> {
    let mut catalog = before.unwrap_or_else(|| Catalog { project: project.clone(), segments: Vec::new() });
    let mut made: Vec<(SegmentRef, Segment, Filter)> = Vec::new();
    if !entries.is_empty() {
        let row = |(action, claim): &(ActionId, Digest)| Row {
            action: *action,
            claim: *claim,
            kind: if *claim == WITHDRAWN { RowKind::Withdrawn } else { RowKind::Entry },
        };
        let segment = Segment::new(entries.iter().map(row).collect())?;
        let filter = segment.filter()?;
        let reference = SegmentRef::of(&segment, &filter, 0);
        catalog.segments.insert(0, reference.clone());
        made.push((reference, segment, filter));
    }
    while let Some(run) = next_merge(&catalog) {
        let bottom = run.end == catalog.segments.len();
        let tier = catalog.segments[run.start].tier + 1;
        let mut sources = Vec::with_capacity(run.len());
        for reference in &catalog.segments[run.clone()] {
            let known = made.iter().find(|(made, ..)| made.digest == reference.digest);
            sources.push(match known {
                Some((_, segment, _)) => segment.clone(),
                None => load(reference).map_err(OwnError::Load)?,
            });
        }
        let merged = merge(&sources.iter().collect::<Vec<_>>(), bottom)?;
        let merged = merged.map(|segment| {
            let filter = segment.filter()?;
            Ok::<_, SegmentError>((SegmentRef::of(&segment, &filter, tier), segment, filter))
        });
        let merged = merged.transpose()?;
        let reference = merged.as_ref().map(|(reference, ..)| reference.clone());
        catalog.segments.splice(run, reference);
        made.extend(merged);
    }
    // What was made and merged again at once need not be kept.
    made.retain(|(reference, ..)| catalog.segments.iter().any(|kept| kept.digest == reference.digest));
    let mut blobs = Vec::with_capacity(2 * made.len() + 1);
    for (_, segment, filter) in made {
        blobs.push(segment.bytes().to_vec());
        blobs.push(filter.encode());
    }
    blobs.push(codec::encode(&catalog));
    Ok(Next { catalog, blobs })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn a_thousand_flushes_lie_in_few_segments_and_nothing_is_lost() {
        let project = Project::default();
        let mut kept: BTreeMap<Digest, Vec<u8>> = BTreeMap::new();
        let mut catalog = None;
        let id = |number: u32| ActionId::from_bytes(*Digest::of(&number.to_le_bytes()).as_bytes());
        for number in 0..1000_u32 {
            // Every tenth replaces an earlier one.
            let action = id(if number % 10 == 9 { number / 2 } else { number });
            let entries = [(action, Digest::of(&[1, number.to_le_bytes()[0]]))];
            let load = |reference: &SegmentRef| {
                Ok::<_, Infallible>(Segment::decode(kept[&reference.digest].clone()).unwrap())
            };
            let next = next(&project, catalog, &entries, load).unwrap();
            kept.extend(next.blobs.into_iter().map(|blob| (Digest::of(&blob), blob)));
            catalog = Some(next.catalog);
        }
        let catalog = catalog.unwrap();
        assert!(catalog.segments.len() <= 18, "{}", catalog.segments.len());
        let segments: Vec<_> = catalog
            .segments
            .iter()
            .map(|reference| Segment::decode(kept[&reference.digest].clone()).unwrap())
            .collect();
        let find = |action| segments.iter().find_map(|segment| segment.get(&action));
        for number in (0..1000).filter(|number| number % 10 != 9) {
            assert!(find(id(number)).is_some(), "{number}");
        }
        assert_eq!(find(id(4)).unwrap().claim, Digest::of(&[1, 9]));
        for reference in &catalog.segments {
            let filter = Filter::decode(&kept[&reference.filter]).unwrap();
            assert_eq!(filter.keys(), reference.rows);
        }
    }
}
