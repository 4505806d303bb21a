// SPDX-License-Identifier: MIT OR Apache-2.0
//! Filters: a set of ActionIds in 18 bits a member that never says no to a member, and yes to one stranger in 65,536.
//!
//! A 3-wise binary fuse filter with fingerprints of 16 bits (Graf and Lemire, "Binary Fuse Filters: Fast and Smaller
//! Than Xor Filters", ACM JEA 27, 2022). Making and probing are the `xorf` crate's; the encoding is our own, so that
//! it stays as it is whatever becomes of the crate.
//!
//! # Probing
//! All arithmetic is on unsigned integers and wraps. `k` is the first eight bytes of the ActionId, little-endian.
//! 1. `h = k + seed`, then the finaliser of MurmurHash3: `h ^= h >> 33`, `h *= 0xff51afd7ed558ccd`,
//!    `h ^= h >> 33`, `h *= 0xc4ceb9fe1a85ec53`, `h ^= h >> 33`.
//! 2. `p0 = (h * segment_count_length) >> 64` (a 128-bit product), `p1 = p0 + segment_length`,
//!    `p2 = p1 + segment_length`; then `p1 ^= (h >> 18) & (segment_length - 1)`, `p2 ^= h & (segment_length - 1)`.
//! 3. The id may be a member when `(h ^ h >> 32) mod 2^16 = f[p0] ^ f[p1] ^ f[p2]`. A filter of no keys has no
//!    members.

use std::fmt;

use xorf::{BinaryFuse16, Descriptor, Filter as _};

use crate::action::ActionId;

/// Most keys of one filter.
pub const MAX_KEYS: usize = 1 << 24;

/// Largest encoding in bytes.
pub const MAX_FILTER_BYTES: usize = 64 << 20;

/// What every filter starts with: a name and the version of the encoding.
pub const MAGIC: [u8; 8] = *b"potfuse\x01";

const HEADER_BYTES: usize = 32;
const CHECKSUM_BYTES: usize = 32;
/// The shortest and the longest segment that the construction makes.
const MIN_SEGMENT_LENGTH: u32 = 4;
const MAX_SEGMENT_LENGTH: u32 = 1 << 18;

/// A set of ActionIds, approximately.
#[derive(Clone)]
pub struct Filter {
    keys: u64,
    inner: BinaryFuse16,
}

impl fmt::Debug for Filter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Filter({} keys)", self.keys)
    }
}

/// Why a filter could not be made or was refused.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum FilterError {
    /// More than [`MAX_KEYS`].
    #[error("a filter holds at most {MAX_KEYS} keys, not {0}")]
    TooManyKeys(usize),
    /// No seed led to a filter, which happens to none of very many sets.
    #[error("no filter could be made of these keys")]
    NoSeed,
    /// Too short, too long, or not as long as its header says.
    #[error("the filter has not the length that it says")]
    Length,
    /// Not a filter, or one of another version.
    #[error("this is not a filter of a known version")]
    Magic,
    /// Damaged on the way.
    #[error("the checksum of the filter is wrong")]
    Checksum,
    /// Its parameters are not those of a filter; probing it could go astray.
    #[error("the parameters of the filter make no sense")]
    Parameters,
}

/// The part of an ActionId that filters look at. Ids are hashes, so any part is as good as another.
fn key(action: &ActionId) -> u64 {
    let first = action.as_bytes().first_chunk().expect("thirty-two bytes start with eight");
    u64::from_le_bytes(*first)
}

impl Filter {
    /// Makes the filter of a set. Equal sets give equal filters.
    ///
    /// # Errors
    /// [`FilterError::TooManyKeys`] or [`FilterError::NoSeed`].
    pub fn build(actions: impl IntoIterator<Item = ActionId>) -> Result<Self, FilterError> {
        let mut keys: Vec<u64> = actions.into_iter().map(|action| key(&action)).collect();
        if keys.len() > MAX_KEYS {
            return Err(FilterError::TooManyKeys(keys.len()));
        }
        // The construction demands distinct keys, and sorted ones make equal sets give equal filters.
        keys.sort_unstable();
        keys.dedup();
        let inner = BinaryFuse16::try_from(&keys).map_err(|_| FilterError::NoSeed)?;
        Ok(Self { keys: keys.len() as u64, inner })
    }

    /// Whether `action` may be a member: always yes for a member, almost never for a stranger.
    pub fn contains(&self, action: &ActionId) -> bool {
        self.keys != 0 && self.inner.contains(&key(action))
    }

    /// How many keys it was made of.
    pub fn keys(&self) -> u64 {
        self.keys
    }

    /// The stable encoding. All numbers are little-endian: [`MAGIC`], keys (8 bytes), seed (8), segment length (4),
    /// segment count length (4), the fingerprints (2 each; segment count length + 2 segment lengths of them), and the
    /// BLAKE3 hash of all that.
    pub fn encode(&self) -> Vec<u8> {
        let Descriptor { seed, segment_length, segment_count_length, .. } = self.inner.descriptor;
        let len = HEADER_BYTES + 2 * self.inner.fingerprints.len() + CHECKSUM_BYTES;
        let mut bytes = Vec::with_capacity(len);
        bytes.extend_from_slice(&MAGIC);
        bytes.extend_from_slice(&self.keys.to_le_bytes());
        bytes.extend_from_slice(&seed.to_le_bytes());
        bytes.extend_from_slice(&segment_length.to_le_bytes());
        bytes.extend_from_slice(&segment_count_length.to_le_bytes());
        for fingerprint in &self.inner.fingerprints {
            bytes.extend_from_slice(&fingerprint.to_le_bytes());
        }
        let checksum = blake3::hash(&bytes);
        bytes.extend_from_slice(checksum.as_bytes());
        bytes
    }

    /// Reads the stable encoding, and makes sure that no probe can go astray.
    ///
    /// # Errors
    /// [`FilterError`].
    pub fn decode(bytes: &[u8]) -> Result<Self, FilterError> {
        if bytes.len() > MAX_FILTER_BYTES {
            return Err(FilterError::Length);
        }
        let (content, checksum) = bytes.split_last_chunk::<CHECKSUM_BYTES>().ok_or(FilterError::Length)?;
        let (header, fingerprints) =
            content.split_first_chunk::<HEADER_BYTES>().ok_or(FilterError::Length)?;
        if header[..8] != MAGIC {
            return Err(FilterError::Magic);
        }
        if blake3::hash(content) != *checksum {
            return Err(FilterError::Checksum);
        }
        let long = |at: usize| u64::from_le_bytes(*header[at..].first_chunk().expect("within the header"));
        let short = |at: usize| u32::from_le_bytes(*header[at..].first_chunk().expect("within the header"));
        let (keys, segment_length, segment_count_length) = (long(8), short(24), short(28));
        let (fingerprints, []) = fingerprints.as_chunks::<2>() else { return Err(FilterError::Length) };
        check_parameters(keys, segment_length, segment_count_length)?;
        let slots = u64::from(segment_count_length) + 2 * u64::from(segment_length);
        if fingerprints.len() as u64 != slots {
            return Err(FilterError::Length);
        }
        let descriptor = Descriptor {
            seed: long(16),
            segment_length,
            segment_length_mask: segment_length - 1,
            segment_count_length,
        };
        let fingerprints = fingerprints.iter().map(|bytes| u16::from_le_bytes(*bytes)).collect();
        Ok(Self { keys, inner: BinaryFuse16 { descriptor, fingerprints } })
    }
}

/// Most fingerprints that a filter of so many keys may have; the construction stays below it for every count.
const fn max_slots(keys: u64) -> u64 {
    2 * keys + 64
}

/// Largest encoding in bytes of a filter of at most `keys` keys: what a follower may be made to hold for them.
pub(super) const fn max_bytes(keys: u64) -> u64 {
    (HEADER_BYTES + CHECKSUM_BYTES) as u64 + 2 * max_slots(keys)
}

/// With these relations every position of a probe lies within the fingerprints: the first is below the segment count
/// length, each further one at most in the next segment, since segments are aligned and the mask moves within one.
fn check_parameters(keys: u64, segment_length: u32, segment_count_length: u32) -> Result<(), FilterError> {
    let slots = u64::from(segment_count_length) + 2 * u64::from(segment_length);
    let sound = segment_length.is_power_of_two()
        && (MIN_SEGMENT_LENGTH..=MAX_SEGMENT_LENGTH).contains(&segment_length)
        && segment_count_length >= segment_length
        && segment_count_length.is_multiple_of(segment_length)
        && keys <= MAX_KEYS as u64
        // A filter has a slot a key and some more; a tiny one has a few dozen in any case.
        && keys <= slots
        && slots <= max_slots(keys);
    if sound { Ok(()) } else { Err(FilterError::Parameters) }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ids(from: u64, to: u64) -> impl Iterator<Item = ActionId> {
        (from..to).map(|n| ActionId::from_bytes(*blake3::hash(&n.to_le_bytes()).as_bytes()))
    }

    #[test]
    fn members_are_found_and_strangers_hardly_ever() {
        for size in [0, 1, 2, 3, 4, 5, 10, 100, 10_000] {
            let filter = Filter::build(ids(0, size)).unwrap();
            let filter = Filter::decode(&filter.encode()).unwrap();
            assert!(ids(0, size).all(|id| filter.contains(&id)), "{size}");
            let strangers = ids(1_000_000, 1_100_000).filter(|id| filter.contains(id)).count();
            assert!(strangers < 10, "{strangers} of 100,000 strangers taken for one of {size} members");
        }
    }

    #[test]
    fn every_small_set_makes_a_filter_that_is_accepted() {
        for size in 0..600 {
            let filter = Filter::build(ids(0, size)).unwrap();
            assert!(Filter::decode(&filter.encode()).is_ok(), "{size}");
        }
    }

    #[test]
    fn equal_sets_make_equal_filters() {
        let all: Vec<_> = ids(0, 1000).collect();
        let twice = all.iter().rev().chain(&all).copied();
        assert_eq!(
            Filter::build(twice).unwrap().encode(),
            Filter::build(all.iter().copied()).unwrap().encode()
        );
    }

    #[test]
    fn ids_that_share_their_first_bytes_are_one_key() {
        let mut one = [7; 32];
        let first = ActionId::from_bytes(one);
        one[31] = 8;
        let filter = Filter::build([first, ActionId::from_bytes(one)]).unwrap();
        assert_eq!(filter.keys(), 1);
        assert!(filter.contains(&first));
    }

    #[test]
    fn every_flip_cut_and_extension_is_refused() {
        let good = Filter::build(ids(0, 20)).unwrap().encode();
        for at in 0..good.len() {
            let mut bad = good.clone();
            bad[at] ^= 0x10;
            assert!(Filter::decode(&bad).is_err(), "flip at {at}");
            assert!(Filter::decode(&good[..at]).is_err(), "cut to {at}");
        }
        let mut long = good;
        long.push(0);
        assert!(Filter::decode(&long).is_err());
        assert_eq!(Filter::decode(&vec![0; MAX_FILTER_BYTES + 1]).unwrap_err(), FilterError::Length);
    }

    #[test]
    fn forged_parameters_with_a_right_checksum_are_refused() {
        let good = Filter::build(ids(0, 20)).unwrap().encode();
        let forge = |at: usize, value: &[u8]| {
            let mut bad = good[..good.len() - CHECKSUM_BYTES].to_vec();
            bad[at..at + value.len()].copy_from_slice(value);
            let checksum = blake3::hash(&bad);
            bad.extend_from_slice(checksum.as_bytes());
            Filter::decode(&bad).err()
        };
        assert_eq!(forge(0, b"potfuse\x02"), Some(FilterError::Magic));
        assert_eq!(forge(8, &u64::MAX.to_le_bytes()), Some(FilterError::Parameters));
        for length in [0_u32, 1, 2, 3, 1 << 19, u32::MAX] {
            assert_eq!(forge(24, &length.to_le_bytes()), Some(FilterError::Parameters), "{length}");
        }
        for length in [0_u32, 7, u32::MAX, 1 << 31] {
            let error = forge(28, &length.to_le_bytes());
            assert_eq!(error, Some(FilterError::Parameters), "{length}");
        }
        // A seed is free; what it finds is nonsense, but it finds it within bounds.
        assert_eq!(forge(16, &u64::MAX.to_le_bytes()), None);
    }

    #[test]
    fn the_smallest_and_largest_probes_stay_within_bounds() {
        let filter = Filter::build(ids(0, 5000)).unwrap();
        for key in [0, u64::MAX, 1 << 63, u64::MAX >> 1] {
            for seed in [0, u64::MAX, 42] {
                let mut filter = filter.clone();
                filter.inner.descriptor.seed = seed;
                let mut id = [0xff; 32];
                id[..8].copy_from_slice(&u64::to_le_bytes(key));
                filter.contains(&ActionId::from_bytes(id));
            }
        }
    }
}
