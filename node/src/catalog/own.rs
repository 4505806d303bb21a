// SPDX-License-Identifier: MIT OR Apache-2.0
//! The next state of an own Catalog: what was published becomes a Segment in front, and Segments are merged, small ones
//! at once and large ones beside.

use std::collections::BTreeSet;
use std::ops::Range;

use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::catalog::{
    Catalog, Filter, FilterError, MAX_ROWS, MAX_SEGMENTS, Row, RowKind, Segment, SegmentError, SegmentRef,
    merge, next_merge,
};
use potluck_protocol::codec;
use potluck_protocol::digest::Digest;

/// Most Entries that one flush lists.
pub const MAX_FLUSH: usize = MAX_ROWS / 4;
/// Most rows that are merged while somebody waits for a Catalog to be written: a matter of milliseconds.
pub const MERGE_AT_ONCE: u64 = 4096;

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

/// A Segment with what is said of it.
#[derive(Debug)]
struct Made {
    reference: SegmentRef,
    segment: Segment,
    filter: Filter,
}

impl Made {
    fn of<E>(segment: Segment, tier: u32) -> Result<Self, OwnError<E>> {
        let filter = segment.filter()?;
        Ok(Self { reference: SegmentRef::of(&segment, &filter, tier), segment, filter })
    }
}

/// Lists `entries` in front of what a Catalog lists already, or hides what it lists where the name is all zero. Small
/// Segments are merged at once; see [`waits`] for the others. `load` gives the Segment of a Digest.
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
    let mut made: Vec<Made> = Vec::new();
    if !entries.is_empty() {
        let row = |(action, claim): &(ActionId, Digest)| Row {
            action: *action,
            claim: *claim,
            kind: if *claim == WITHDRAWN { RowKind::Withdrawn } else { RowKind::Entry },
        };
        let new = Made::of(Segment::new(entries.iter().map(row).collect())?, 0)?;
        catalog.segments.insert(0, new.reference.clone());
        made.push(new);
        each_once(&mut catalog);
    }
    while let Some(run) = next_merge(&catalog).filter(|run| is_small(&catalog, run)) {
        let tier = catalog.segments[run.start].tier + 1;
        let merged = merged(&catalog, &run, |reference| {
            let known = made.iter().find(|made| made.reference.digest == reference.digest);
            known.map_or_else(|| load(reference), |made| Ok(made.segment.clone()))
        })?;
        let merged = merged.map(|segment| Made::of(segment, tier)).transpose()?;
        catalog.segments.splice(run, merged.as_ref().map(|made| made.reference.clone()));
        made.extend(merged);
        each_once(&mut catalog);
    }
    Ok(with_blobs(catalog, made))
}

/// Takes out the older of two Segments with the same rows: what was withdrawn, claimed and withdrawn again makes two. The
/// newer one hides all that the older says, and no Catalog may list a Segment twice.
fn each_once(catalog: &mut Catalog) {
    let mut seen = BTreeSet::new();
    catalog.segments.retain(|segment| seen.insert(segment.digest));
}

fn merged<E>(
    catalog: &Catalog,
    run: &Range<usize>,
    load: impl FnMut(&SegmentRef) -> Result<Segment, E>,
) -> Result<Option<Segment>, OwnError<E>> {
    let bottom = run.end == catalog.segments.len();
    let sources = catalog.segments[run.clone()].iter().map(load);
    let sources = sources.collect::<Result<Vec<_>, _>>().map_err(OwnError::Load)?;
    Ok(merge(&sources.iter().collect::<Vec<_>>(), bottom)?)
}

fn with_blobs(catalog: Catalog, mut made: Vec<Made>) -> Next {
    // What was made and merged again at once need not be kept.
    made.retain(|made| catalog.segments.iter().any(|kept| kept.digest == made.reference.digest));
    let mut blobs = Vec::with_capacity(2 * made.len() + 1);
    for Made { segment, filter, .. } in made {
        blobs.push(segment.bytes().to_vec());
        blobs.push(filter.encode());
    }
    blobs.push(codec::encode(&catalog));
    Next { catalog, blobs }
}

/// Whether a run may be merged while somebody waits: it is a matter of milliseconds, or there is no more room.
fn is_small(catalog: &Catalog, run: &Range<usize>) -> bool {
    let rows: u64 = catalog.segments[run.clone()].iter().map(|segment| segment.rows).sum();
    rows <= MERGE_AT_ONCE || catalog.segments.len() >= MAX_SEGMENTS
}

/// Whether Segments of a Catalog wait to be merged by [`Merge::of`].
pub fn waits(catalog: &Catalog) -> bool {
    next_merge(catalog).is_some()
}

/// One merge of large Segments, made beside whatever is written meanwhile, which only ever comes in front of them.
#[derive(Debug)]
pub struct Merge {
    /// What was merged, as it stood there.
    of: Vec<SegmentRef>,
    /// Whether nothing older lay below, so that withdrawn rows are gone.
    bottom: bool,
    /// What it became; nothing when no row is left.
    made: Option<Made>,
}

impl Merge {
    /// Makes the next one that is due, if any.
    ///
    /// # Errors
    /// [`OwnError`].
    pub fn of<E>(
        catalog: &Catalog,
        load: impl FnMut(&SegmentRef) -> Result<Segment, E>,
    ) -> Result<Option<Self>, OwnError<E>> {
        let Some(run) = next_merge(catalog) else { return Ok(None) };
        let tier = catalog.segments[run.start].tier + 1;
        let made = merged(catalog, &run, load)?.map(|segment| Made::of(segment, tier)).transpose()?;
        let bottom = run.end == catalog.segments.len();
        Ok(Some(Self { of: catalog.segments[run].to_vec(), bottom, made }))
    }

    /// Puts it in place, in the Catalog as it is by now; nothing when what was merged does not stand there any more.
    pub fn adopt(self, mut catalog: Catalog) -> Option<Next> {
        let first = self.of.first()?.digest;
        let start = catalog.segments.iter().position(|segment| segment.digest == first)?;
        let run = start..start + self.of.len();
        if catalog.segments.get(run.clone())? != self.of || self.bottom && run.end != catalog.segments.len() {
            return None;
        }
        catalog.segments.splice(run, self.made.as_ref().map(|made| made.reference.clone()));
        each_once(&mut catalog);
        // Small ones may have been merged into the tier in front of it meanwhile.
        catalog
            .segments
            .is_sorted_by_key(|segment| segment.tier)
            .then(|| with_blobs(catalog, self.made.into_iter().collect()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::convert::Infallible;

    use super::*;

    #[test]
    fn what_is_withdrawn_again_makes_no_segment_twice() {
        let action = ActionId::from_bytes([1; 32]);
        let other = |number| ActionId::from_bytes([number; 32]);
        let (mut kept, mut catalog) = (BTreeMap::<Digest, Vec<u8>>::new(), None);
        let claim = Digest::of(b"claim");
        // Something else lies below, or what is withdrawn would be gone.
        let steps = [(other(9), claim), (action, claim), (action, WITHDRAWN), (action, claim)];
        for entry in steps.into_iter().chain([(action, WITHDRAWN), (action, claim), (action, claim)]) {
            let load = |reference: &SegmentRef| {
                Ok::<_, Infallible>(Segment::decode(kept[&reference.digest].clone()).unwrap())
            };
            let next = next(&Project::default(), catalog, &[entry], load).unwrap();
            kept.extend(next.blobs.iter().map(|blob| (Digest::of(blob), blob.clone())));
            let bytes = next.blobs.last().unwrap();
            let read: Catalog = codec::decode(bytes, 16 << 10).expect("followers can read it");
            let newest = read
                .segments
                .iter()
                .find_map(|segment| Segment::decode(kept[&segment.digest].clone()).unwrap().get(&entry.0));
            assert_eq!(newest.unwrap().claim, entry.1);
            catalog = Some(read);
        }
    }

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

    fn id(number: u64) -> ActionId {
        ActionId::from_bytes(*Digest::of(&number.to_le_bytes()).as_bytes())
    }

    /// A Catalog with all that was ever written of it.
    #[derive(Default)]
    struct Shelf {
        kept: BTreeMap<Digest, Vec<u8>>,
        catalog: Option<Catalog>,
        /// Bytes of Segments that were written.
        written: u64,
    }

    impl Shelf {
        fn load(&self, reference: &SegmentRef) -> Segment {
            Segment::decode(self.kept[&reference.digest].clone()).unwrap()
        }

        fn keep(&mut self, next: Next) {
            self.written += next.blobs.iter().map(|blob| blob.len() as u64).sum::<u64>();
            self.kept.extend(next.blobs.into_iter().map(|blob| (Digest::of(&blob), blob)));
            self.catalog = Some(next.catalog);
        }

        fn append(&mut self, from: u64, count: u64, withdrawn: bool) {
            let claim = if withdrawn { WITHDRAWN } else { Digest::of(b"claim") };
            let entries: Vec<_> = (from..from + count).map(|number| (id(number), claim)).collect();
            let catalog = self.catalog.clone();
            let load = |reference: &SegmentRef| Ok::<_, Infallible>(self.load(reference));
            let new = next(&Project::default(), catalog, &entries, load).unwrap();
            self.keep(new);
        }

        fn begin(&self) -> Option<Merge> {
            let load = |reference: &SegmentRef| Ok::<_, Infallible>(self.load(reference));
            Merge::of(self.catalog.as_ref()?, load).unwrap()
        }

        fn adopt(&mut self, merge: Merge) -> bool {
            let next = merge.adopt(self.catalog.clone().unwrap());
            let adopted = next.is_some();
            next.into_iter().for_each(|next| self.keep(next));
            adopted
        }

        fn says(&self, number: u64) -> Option<RowKind> {
            let mut segments = self.catalog.as_ref()?.segments.iter();
            segments.find_map(|reference| Some(self.load(reference).get(&id(number))?.kind))
        }
    }

    #[test]
    fn large_segments_are_merged_beside_what_is_written_meanwhile() {
        let mut shelf = Shelf::default();
        let batch = MERGE_AT_ONCE / 2;
        for number in 0..4 {
            shelf.append(number * batch, batch, false);
        }
        assert_eq!(
            shelf.catalog.as_ref().unwrap().segments.len(),
            4,
            "they are too large to be merged at once"
        );
        assert!(waits(shelf.catalog.as_ref().unwrap()));
        let merge = shelf.begin().unwrap();
        // Meanwhile something new comes, and something old is withdrawn.
        shelf.append(4 * batch, 3, false);
        shelf.append(7, 1, true);
        assert!(shelf.adopt(merge));
        let tiers: Vec<_> = shelf.catalog.as_ref().unwrap().segments.iter().map(|one| one.tier).collect();
        assert_eq!(tiers, [0, 0, 1]);
        assert!(!waits(shelf.catalog.as_ref().unwrap()) && shelf.begin().is_none());
        assert_eq!(shelf.says(7), Some(RowKind::Withdrawn));
        assert!(
            (0..4 * batch + 3)
                .filter(|number| *number != 7)
                .step_by(97)
                .all(|number| shelf.says(number).is_some())
        );
    }

    #[test]
    fn a_merge_of_what_is_no_longer_there_comes_to_nothing() {
        let mut shelf = Shelf::default();
        for number in 0..4 {
            shelf.append(number * MERGE_AT_ONCE, MERGE_AT_ONCE, false);
        }
        let (one, two) = (shelf.begin().unwrap(), shelf.begin().unwrap());
        assert!(shelf.adopt(one));
        let before = shelf.catalog.clone();
        assert!(!shelf.adopt(two));
        assert_eq!(shelf.catalog, before);
    }

    #[test]
    fn in_any_world_nothing_is_lost_and_each_row_is_written_a_few_times() {
        for seed in 0..4 {
            let mut chance = fastrand::Rng::with_seed(seed);
            let mut shelf = Shelf::default();
            let (mut model, mut rows, mut merge) = (BTreeMap::new(), 0, None);
            for _ in 0..25 {
                if chance.u8(..3) > 0 {
                    let (from, count) = (chance.u64(..9000), chance.u64(1..2500));
                    let withdrawn = chance.u8(..6) == 0;
                    shelf.append(from, count, withdrawn);
                    rows += count;
                    model.extend((from..from + count).map(|number| (number, withdrawn)));
                }
                match merge.take() {
                    None => merge = shelf.begin(),
                    Some(done) if chance.bool() => assert!(shelf.adopt(done), "seed {seed}"),
                    later => merge = later,
                }
            }
            for (number, withdrawn) in model.iter().step_by(13) {
                let says = shelf.says(*number).is_some_and(|kind| kind == RowKind::Entry);
                assert_eq!(says, !withdrawn, "seed {seed}: {number}");
            }
            // Sixty-five bytes a row and two and a quarter for its filter, once for each tier of five.
            assert!(shelf.written < 5 * 70 * rows + 25 * 20_000, "seed {seed}: {} for {rows}", shelf.written);
        }
    }
}
