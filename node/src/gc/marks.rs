// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which Blobs are still wanted, in a bounded amount of memory.
//!
//! A Bloom filter: whatever was marked is found, and a little of what was not. That errs on the right side, since a
//! Blob that is found by chance is only kept until the next round, which draws other places. A set of exact names
//! would grow with the store.

use potluck_protocol::digest::Digest;

/// Fewest and most bits; the latter are 16 MiB, with which ten million Blobs are told apart all but 0.3 percent.
const BITS: (u64, u64) = (1 << 16, 1 << 27);
/// Bits per Blob that are aimed at, which one in 100,000 slips through.
const BITS_PER_BLOB: u64 = 24;
/// Places a Blob.
const PLACES: u64 = 7;

/// The marks.
#[derive(Debug)]
pub struct Marks {
    bits: Vec<u64>,
    mask: u64,
    seed: u64,
}

impl Marks {
    /// No marks, with room for about `blobs`. `seed` should differ from round to round.
    pub fn new(blobs: u64, seed: u64) -> Self {
        let bits = blobs.saturating_mul(BITS_PER_BLOB).clamp(BITS.0, BITS.1).next_power_of_two();
        let words = usize::try_from(bits / 64).expect("at most two million");
        Self { bits: vec![0; words], mask: bits - 1, seed }
    }

    /// The bits of a Blob. Digests are as good as random, so two of their parts make all places.
    fn places(&self, digest: &Digest) -> impl Iterator<Item = (usize, u64)> + use<> {
        let part = |at: usize| {
            let bytes = digest.as_bytes()[at..at + 8].try_into().expect("a digest has 32 bytes");
            u64::from_le_bytes(bytes)
        };
        let (start, step, mask) = (part(8) ^ self.seed, part(16).wrapping_add(self.seed) | 1, self.mask);
        (0..PLACES).map(move |n| {
            let bit = start.wrapping_add(n.wrapping_mul(step)) & mask;
            (usize::try_from(bit / 64).expect("at most two million"), 1 << (bit % 64))
        })
    }

    /// Marks a Blob.
    pub fn mark(&mut self, digest: &Digest) {
        for (word, bit) in self.places(digest) {
            self.bits[word] |= bit;
        }
    }

    /// Whether a Blob is marked, or seems to be.
    pub fn has(&self, digest: &Digest) -> bool {
        self.places(digest).all(|(word, bit)| self.bits[word] & bit != 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(number: u32) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    #[test]
    fn what_was_marked_is_found_and_hardly_anything_else() {
        let mut marks = Marks::new(20_000, 1);
        (0..20_000).for_each(|number| marks.mark(&digest(number)));
        assert!((0..20_000).all(|number| marks.has(&digest(number))));
        let chance = (20_000..120_000).filter(|number| marks.has(&digest(*number))).count();
        assert!(chance < 20, "{chance} of 100,000");
    }

    #[test]
    fn its_memory_is_bounded_and_then_it_keeps_too_much_but_never_too_little() {
        assert_eq!(Marks::new(u64::MAX, 0).bits.len() * 8, 16 << 20);
        let mut marks = Marks::new(0, 7);
        (0..100_000).for_each(|number| marks.mark(&digest(number)));
        assert!((0..100_000).all(|number| marks.has(&digest(number))));
    }

    #[test]
    fn another_round_draws_other_places() {
        let found = |seed| {
            let mut marks = Marks::new(0, seed);
            (0..6_000).for_each(|number| marks.mark(&digest(number)));
            (6_000..40_000).filter(|number| marks.has(&digest(*number))).collect::<Vec<_>>()
        };
        let (one, two) = (found(1), found(0xdead_beef_1234_5678));
        assert!(!one.is_empty() && one.iter().filter(|number| two.contains(number)).count() < one.len() / 2);
    }
}
