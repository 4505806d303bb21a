// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which pieces of a Blob somebody has: one bit a piece, as it travels in [`potluck_protocol::peer::Have`].

/// A bit for each piece of a Blob, the first one in the least significant bit of the first byte.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bits {
    bytes: Vec<u8>,
    count: u64,
    ones: u64,
}

fn place(index: u64) -> (usize, u8) {
    (usize::try_from(index / 8).unwrap_or(usize::MAX), 1 << (index % 8))
}

impl Bits {
    /// None of `count` pieces.
    pub fn none(count: u64) -> Self {
        let len =
            usize::try_from(count.div_ceil(8)).expect("a Blob has not more pieces than memory has bytes");
        Self { bytes: vec![0; len], count, ones: 0 }
    }

    /// As they travelled, if they are as many as there are pieces and none is set beyond the last piece.
    pub fn read(bytes: &[u8], count: u64) -> Option<Self> {
        if bytes.len() as u64 != count.div_ceil(8) {
            return None;
        }
        let beyond = bytes.last().is_some_and(|last| !count.is_multiple_of(8) && last >> (count % 8) != 0);
        let ones = bytes.iter().map(|byte| u64::from(byte.count_ones())).sum();
        (!beyond).then(|| Self { bytes: bytes.to_vec(), count, ones })
    }

    /// As they travel.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// How many pieces the Blob has.
    pub fn count(&self) -> u64 {
        self.count
    }

    /// How many of them are there.
    pub fn ones(&self) -> u64 {
        self.ones
    }

    /// Whether all are.
    pub fn is_full(&self) -> bool {
        self.ones == self.count
    }

    /// Whether a piece is there.
    pub fn has(&self, index: u64) -> bool {
        let (byte, bit) = place(index);
        self.bytes.get(byte).is_some_and(|byte| byte & bit != 0)
    }

    /// A piece is there from now on; gives whether it was not. One beyond the last is not.
    pub fn set(&mut self, index: u64) -> bool {
        if index >= self.count || self.has(index) {
            return false;
        }
        let (byte, bit) = place(index);
        self.bytes[byte] |= bit;
        self.ones += 1;
        true
    }

    /// The pieces that are not there, from `from` on and around to it.
    pub fn missing(&self, from: u64) -> impl Iterator<Item = u64> {
        let from = if from < self.count { from } else { 0 };
        // Whole bytes of what is there are passed over at once.
        let mut next = 0;
        std::iter::from_fn(move || {
            while next < self.count {
                let index = (from + next) % self.count;
                let (byte, bit) = place(index);
                if bit == 1
                    && self.bytes[byte] == u8::MAX
                    && self.count - index >= 8
                    && self.count - next >= 8
                {
                    next += 8;
                    continue;
                }
                next += 1;
                if self.bytes[byte] & bit == 0 {
                    return Some(index);
                }
            }
            None
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_set_is_there_and_the_rest_is_missing() {
        for count in [1, 7, 8, 9, 64, 100] {
            let mut bits = Bits::none(count);
            for index in (0..count).filter(|index| index % 3 == 0) {
                assert!(bits.set(index) && !bits.set(index) && bits.has(index));
            }
            assert!(!bits.set(count) && !bits.has(count) && !bits.has(u64::MAX));
            for from in [0, 1, 5, count - 1, count] {
                let start = from % count;
                let expected = (start..count).chain(0..start).filter(|index| index % 3 != 0);
                assert!(bits.missing(from).eq(expected), "{count} from {from}");
            }
            assert_eq!(Bits::read(bits.bytes(), count), Some(bits.clone()));
            let missing: Vec<_> = bits.missing(0).collect();
            missing.into_iter().for_each(|index| assert!(bits.set(index)));
            assert!(bits.is_full() && bits.missing(0).next().is_none());
        }
    }

    #[test]
    fn what_does_not_fit_the_count_is_refused() {
        assert_eq!(Bits::read(&[0xff], 9), None);
        assert_eq!(Bits::read(&[0xff, 0x01, 0x00], 9), None);
        assert_eq!(Bits::read(&[0xff, 0x03], 9), None, "there is no tenth piece");
        assert!(Bits::read(&[0xff, 0x01], 9).is_some_and(|bits| bits.is_full()));
    }
}
