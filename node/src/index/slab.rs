// SPDX-License-Identifier: MIT OR Apache-2.0
//! Small Blobs lie together in slabs, in the order in which they came, and the row of each says where. A row of four
//! KiB takes a page of eight and a place of its own in the tree of its table; a slab has room for many, is written as
//! one, and is read as one by whoever wants its neighbours next, which are of the same output mostly.
//!
//! The smallest lie in their rows, of which a page holds several anyway, and so does one that comes alone.
//!
//! A slab goes with the last Blob in it. One of which less than half is left is given up, and what is left in it goes
//! into a new one, in the same transaction: so whatever is removed, slabs are half full.

use std::collections::BTreeSet;

use bytes::Bytes;
use potluck_protocol::digest::Digest;
use redb::{ReadableTable, Table, WriteTransaction};

use super::laid::{self, Lies};
use super::rows;

/// Largest row of a slab in bytes. redb gives a row of its own a page of a power of two, of which it needs a little.
const MAX_BYTES: usize = 32 * 1024 - 64;
/// Smaller Blobs lie in their rows, in bytes.
pub(super) const LEAST_BYTES: usize = 512;

/// The small Blobs, to be changed.
pub(super) struct Smalls<'t> {
    rows: Table<'t, &'static [u8; 32], &'static [u8]>,
    slabs: Table<'t, u64, &'static [u8]>,
    /// How many bytes of the Blobs in a slab are still to be found by their rows.
    named: Table<'t, u64, u64>,
    /// Those that go into the next slab.
    together: Vec<(Digest, Bytes)>,
    /// How many bytes its row has by now.
    len: usize,
    /// Slabs of which something went.
    thinned: BTreeSet<u64>,
}

impl<'t> Smalls<'t> {
    /// Those that a transaction changes.
    pub(super) fn open(change: &'t WriteTransaction) -> Result<Self, redb::Error> {
        Ok(Self {
            rows: change.open_table(rows::SMALL)?,
            slabs: change.open_table(rows::SLABS)?,
            named: change.open_table(rows::NAMED)?,
            together: Vec::new(),
            len: laid::HEAD_BYTES,
            thinned: BTreeSet::new(),
        })
    }

    /// Keeps Blobs, near each other those that follow each other.
    pub(super) fn keep<'b>(
        &mut self,
        blobs: impl IntoIterator<Item = (&'b Digest, &'b Bytes)>,
    ) -> Result<(), redb::Error> {
        for (digest, bytes) in blobs {
            let row = self.rows.get(digest.as_bytes())?;
            // A Blob cannot change, and writing it again would cost its pages twice.
            // One that cannot be read is none.
            let same = match row.as_ref().and_then(|row| laid::lies(row.value()).ok()) {
                Some(lies) => with(lies, &self.slabs, |known| known == bytes)?,
                None => None,
            };
            let wrong = row.is_some();
            drop(row);
            if same == Some(true) {
                continue;
            }
            if wrong {
                self.remove(digest)?;
            }
            self.add(*digest, bytes.clone())?;
        }
        self.lay()
    }

    fn add(&mut self, digest: Digest, bytes: Bytes) -> Result<(), redb::Error> {
        if bytes.len() < LEAST_BYTES {
            return self.lay_alone(&digest, &bytes);
        }
        let len = laid::MEMBER_BYTES + bytes.len();
        if self.len + len > MAX_BYTES {
            self.lay()?;
        }
        self.len += len;
        self.together.push((digest, bytes));
        Ok(())
    }

    fn lay_alone(&mut self, digest: &Digest, bytes: &[u8]) -> Result<(), redb::Error> {
        let mut row = self.rows.insert_reserve(digest.as_bytes(), 1 + bytes.len())?;
        rows::put_plain(row.as_mut(), bytes);
        Ok(())
    }

    /// Writes the slab that is to be next.
    fn lay(&mut self) -> Result<(), redb::Error> {
        let (together, len) = (std::mem::take(&mut self.together), self.len);
        self.len = laid::HEAD_BYTES;
        if let [(digest, bytes)] = together.as_slice() {
            return self.lay_alone(digest, bytes);
        }
        if together.is_empty() {
            return Ok(());
        }
        let slab = self.slabs.last()?.map_or(0, |(last, _)| last.value() + 1);
        let mut row = self.slabs.insert_reserve(slab, len)?;
        let places = laid::write(row.as_mut(), slab, &together);
        drop(row);
        let mut named = 0;
        for ((digest, _), place) in together.iter().zip(places) {
            named += place.count() as u64;
            self.rows.insert(digest.as_bytes(), place.row().as_slice())?;
        }
        self.named.insert(slab, named)?;
        Ok(())
    }

    /// Removes one; gives how many bytes it had.
    pub(super) fn remove(&mut self, digest: &Digest) -> Result<Option<usize>, redb::Error> {
        let Some(row) = self.rows.remove(digest.as_bytes())? else { return Ok(None) };
        let (len, place) = match laid::lies(row.value()) {
            Ok(Lies::At(place)) => (place.count(), place),
            Ok(Lies::Here(bytes)) => return Ok(Some(bytes.len())),
            // Nobody could read it.
            Err(_) => return Ok(Some(0)),
        };
        let named = self.named.get(place.slab)?.map_or(0, |row| row.value());
        let left = named.saturating_sub(len as u64);
        if left == 0 {
            self.slabs.remove(place.slab)?;
            self.named.remove(place.slab)?;
            self.thinned.remove(&place.slab);
        } else {
            self.named.insert(place.slab, left)?;
            self.thinned.insert(place.slab);
        }
        Ok(Some(len))
    }

    /// Gives up the slabs of which less than half is left now. To be called after the last removal.
    pub(super) fn tidy(&mut self) -> Result<(), redb::Error> {
        for slab in std::mem::take(&mut self.thinned) {
            let named = self.named.get(slab)?.map_or(0, |row| row.value());
            let thin = |row: &[u8]| named * 2 < row.len() as u64;
            let row = self.slabs.get(slab)?.filter(|row| thin(row.value()));
            let Some(row) = row.map(|row| Bytes::copy_from_slice(row.value())) else { continue };
            // What one that is damaged has is found by the rows for as long as they lead there.
            let Ok(members) = laid::members(slab, &row) else { continue };
            for (digest, place) in members {
                let lies = self.rows.get(digest.as_bytes())?.is_some_and(|row| row.value() == place.row());
                if lies && let Some(bytes) = place.range(&row) {
                    self.add(digest, row.slice(bytes))?;
                }
            }
            self.slabs.remove(slab)?;
            self.named.remove(slab)?;
        }
        self.lay()
    }
}

/// Does something with the bytes of a small Blob; nothing when they are not where they should lie.
pub(super) fn with<T>(
    lies: Lies<'_>,
    slabs: &impl ReadableTable<u64, &'static [u8]>,
    take: impl FnOnce(&[u8]) -> T,
) -> Result<Option<T>, redb::Error> {
    let place = match lies {
        Lies::Here(bytes) => return Ok(Some(take(bytes))),
        Lies::At(place) => place,
    };
    let Some(slab) = slabs.get(place.slab)? else { return Ok(None) };
    let slab = slab.value();
    Ok(place.range(slab).map(|range| take(&slab[range])))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use redb::ReadableTableMetadata as _;

    use super::*;
    use crate::content::Durability;
    use crate::index::{Index, MAX_INLINE_BYTES};

    fn blob(number: u64, len: usize) -> (Digest, Bytes) {
        let mut bytes = number.to_le_bytes().repeat(len / 8 + 1);
        bytes.truncate(len);
        (Digest::of(&bytes), bytes.into())
    }

    /// What the tables say of each other: each row leads to its bytes, each slab knows how many of its bytes are named,
    /// and at least half of them are.
    fn agrees(index: &Index, want: &BTreeMap<Digest, Bytes>) {
        let read = index.db.begin_read().unwrap();
        let small = read.open_table(rows::SMALL).unwrap();
        let slabs = read.open_table(rows::SLABS).unwrap();
        let named = read.open_table(rows::NAMED).unwrap();
        let mut counted = BTreeMap::<u64, u64>::new();
        for row in small.iter().unwrap() {
            let (digest, row) = row.unwrap();
            let digest = Digest::from_bytes(*digest.value());
            let found = with(laid::lies(row.value()).unwrap(), &slabs, Bytes::copy_from_slice).unwrap();
            assert_eq!(found.as_ref(), want.get(&digest));
            if let Lies::At(place) = laid::lies(row.value()).unwrap() {
                *counted.entry(place.slab).or_default() += place.count() as u64;
            }
        }
        assert_eq!(small.len().unwrap(), want.len() as u64);
        let said = named.iter().unwrap().map(|row| row.unwrap());
        assert_eq!(said.map(|(slab, row)| (slab.value(), row.value())).collect::<BTreeMap<_, _>>(), counted);
        for row in slabs.iter().unwrap() {
            let (slab, row) = row.unwrap();
            let len = row.value().len();
            assert!(len <= MAX_BYTES && counted[&slab.value()] * 2 >= len as u64, "{len}");
        }
        assert_eq!(slabs.len().unwrap(), counted.len() as u64);
    }

    fn keep(index: &Index, blobs: &[(Digest, Bytes)]) {
        index.keep_smalls(blobs).unwrap();
        index.settle().unwrap();
    }

    fn slabs(index: &Index) -> u64 {
        index.db.begin_read().unwrap().open_table(rows::SLABS).unwrap().len().unwrap()
    }

    #[test]
    fn those_that_come_together_lie_together() {
        let index = Index::in_memory().unwrap();
        let blobs: Vec<_> = (0..100).map(|number| blob(number, 4096)).collect();
        keep(&index, &blobs);
        let each = (MAX_BYTES - laid::HEAD_BYTES) / (laid::MEMBER_BYTES + 4096);
        assert_eq!(slabs(&index), blobs.len().div_ceil(each) as u64);
        // In the order in which they came.
        let read = index.db.begin_read().unwrap();
        let table = read.open_table(rows::SLABS).unwrap();
        let first = laid::members(0, table.get(0).unwrap().unwrap().value()).unwrap();
        assert_eq!(
            first[..].iter().map(|one| one.0).collect::<Vec<_>>(),
            blobs[..each].iter().map(|one| one.0).collect::<Vec<_>>()
        );
        agrees(&index, &blobs.into_iter().collect());
    }

    #[test]
    fn the_smallest_and_one_that_comes_alone_lie_in_their_rows() {
        let index = Index::in_memory().unwrap();
        let mut blobs: Vec<_> = (0..100).map(|number| blob(number, LEAST_BYTES - 1)).collect();
        blobs.push(blob(1000, MAX_INLINE_BYTES));
        blobs.push(blob(0, 0));
        keep(&index, &blobs);
        assert_eq!(slabs(&index), 0);
        agrees(&index, &blobs.into_iter().collect());
    }

    #[test]
    fn what_is_left_of_a_slab_goes_into_another_one() {
        let index = Index::in_memory().unwrap();
        let mut left: BTreeMap<_, _> = (0..1000).map(|number| blob(number, 2000)).collect();
        keep(&index, &left.iter().map(|(digest, bytes)| (*digest, bytes.clone())).collect::<Vec<_>>());
        let before = slabs(&index);
        let gone: Vec<_> =
            (0..1000).filter(|number| number % 10 != 0).map(|number| blob(number, 2000).0).collect();
        for (at, some) in gone.chunks(70).enumerate() {
            if at % 2 == 0 {
                assert_eq!(index.forget_blobs(some).unwrap(), some.len() as u64 * 2000);
            } else {
                assert!(some.iter().all(|digest| index.forget_small(digest).unwrap()));
            }
            left.retain(|digest, _| !some.contains(digest));
            agrees(&index, &left);
        }
        assert!(slabs(&index) * 4 < before, "{before} to {}", slabs(&index));
        index.forget_blobs(&left.keys().copied().collect::<Vec<_>>()).unwrap();
        agrees(&index, &BTreeMap::new());
        assert_eq!(index.small_bytes().unwrap(), 0);
    }

    #[test]
    fn whatever_comes_and_goes_the_tables_agree() {
        let (index, mut random) = (Index::in_memory().unwrap(), fastrand::Rng::with_seed(7));
        let mut left = BTreeMap::new();
        for round in 0..60 {
            let count = random.usize(..30);
            let some: Vec<_> = (0..count)
                .map(|_| blob(random.u64(..200), random.usize(..2) * 300 + random.usize(..6) * 3000))
                .collect();
            left.extend(some.iter().cloned());
            let some: BTreeMap<_, _> = some.into_iter().collect();
            if round % 2 == 0 {
                keep(&index, &some.into_iter().collect::<Vec<_>>());
            } else {
                index.keep_all(&some, &[]).unwrap();
            }
            let gone: Vec<_> = left.keys().filter(|_| random.u8(..) < 80).copied().collect();
            index.forget_blobs(&gone).unwrap();
            left.retain(|digest, _| !gone.contains(digest));
            agrees(&index, &left);
        }
        assert!(!left.is_empty() && slabs(&index) > 0);
    }

    #[test]
    fn bytes_that_are_wrong_or_not_there_are_replaced() {
        let index = Index::in_memory().unwrap();
        let blobs: Vec<_> = (0..10).map(|number| blob(number, 2000)).collect();
        let mut wrong = blobs.clone();
        wrong[3].1 = Bytes::from_static(&[9; 700]);
        keep(&index, &wrong);
        assert_eq!(index.small(&blobs[3].0).unwrap().unwrap(), [9; 700]);
        keep(&index, &blobs[3..4]);
        agrees(&index, &blobs.iter().cloned().collect());
        // As after an error of ours, or of the disk.
        index
            .change(Durability::Fast, |change| {
                change.open_table(rows::SLABS).unwrap().retain(|_, _| false).unwrap();
                change.open_table(rows::NAMED).unwrap().retain(|_, _| false).unwrap();
                Ok(())
            })
            .unwrap();
        assert_eq!(index.small(&blobs[0].0).unwrap(), None);
        keep(&index, &blobs);
        agrees(&index, &blobs.into_iter().collect());
    }

    #[test]
    fn what_is_damaged_is_in_nobodys_way() {
        let index = Index::in_memory().unwrap();
        let blobs: Vec<_> = (0..20).map(|number| blob(number, 1500)).collect();
        keep(&index, &blobs);
        index
            .change(Durability::Fast, |change| {
                let mut small = change.open_table(rows::SMALL).unwrap();
                small.insert(blobs[0].0.as_bytes(), [77].as_slice()).unwrap();
                small.insert(blobs[1].0.as_bytes(), [2, 0].as_slice()).unwrap();
                let mut slabs = change.open_table(rows::SLABS).unwrap();
                let mut bad = slabs.get(0).unwrap().unwrap().value().to_vec();
                bad[1..5].fill(0xff);
                slabs.insert(0, bad.as_slice()).unwrap();
                Ok(())
            })
            .unwrap();
        assert!(index.small(&blobs[0].0).is_err() && index.small(&blobs[1].0).is_err());
        // Others come and go, as they do.
        let more: Vec<_> = (20..40).map(|number| blob(number, 1500)).collect();
        keep(&index, &more);
        let gone: Vec<_> = blobs[5..].iter().map(|one| one.0).collect();
        index.forget_blobs(&gone).unwrap();
        assert!(index.forget_small(&blobs[1].0).unwrap());
        for (digest, bytes) in blobs[2..5].iter().chain(&more) {
            assert_eq!(index.small(digest).unwrap().as_deref(), Some(&bytes[..]));
        }
        index.keep_all(&blobs[..2].iter().cloned().collect(), &[]).unwrap();
        assert_eq!(index.small(&blobs[0].0).unwrap().as_deref(), Some(&blobs[0].1[..]));
    }
}
