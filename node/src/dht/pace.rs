// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pure: how long an answer of the DHT is waited for, by how long earlier ones took.
//!
//! libp2p gives every peer of a query the same time, whoever it is. A query as a whole can be ended, though: on a local
//! network one that has met a dead peer need not wait as long as across an ocean.

use std::time::Duration;

/// How long the last answers took: a smoothed mean, and how far they are from it.
#[derive(Debug, Clone, Copy, Default)]
pub struct Pace {
    seen: Option<(Duration, Duration)>,
}

impl Pace {
    /// An answer took so long.
    pub fn took(&mut self, time: Duration) {
        self.seen = Some(match self.seen {
            None => (time, time / 2),
            // As TCP does it (RFC 6298).
            Some((mean, off)) => ((mean * 7 + time) / 8, (off * 3 + mean.abs_diff(time)) / 4),
        });
    }

    /// How long to wait, between two bounds; as long as allowed when nothing is known.
    pub fn patience(&self, least: Duration, most: Duration) -> Duration {
        self.seen.map_or(most, |(mean, off)| (mean * 4 + off * 4).clamp(least, most))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(millis: u64) -> Duration {
        Duration::from_millis(millis)
    }

    #[test]
    fn patience_follows_what_was_seen_within_bounds() {
        let mut pace = Pace::default();
        assert_eq!(pace.patience(ms(500), ms(10_000)), ms(10_000));
        for _ in 0..100 {
            pace.took(ms(5));
        }
        assert_eq!(pace.patience(ms(500), ms(10_000)), ms(500));
        for _ in 0..100 {
            pace.took(ms(400));
        }
        let far = pace.patience(ms(500), ms(10_000));
        assert!(far > ms(1500) && far < ms(3000), "{far:?}");
        pace.took(ms(100_000));
        assert_eq!(pace.patience(ms(500), ms(10_000)), ms(10_000));
    }
}
