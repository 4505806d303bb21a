// SPDX-License-Identifier: MIT OR Apache-2.0
//! How fast bytes come from a peer: those of the last stretch of time in which any came.

use std::time::Duration;

use crate::plan::Moment;

/// How long a stretch is at least.
const STRETCH: Duration = Duration::from_secs(1);
/// After how long without a byte a stretch is over, and what comes begins another.
const PAUSE: Duration = Duration::from_millis(500);

/// Counts what comes from one peer.
#[derive(Debug, Clone, Copy, Default)]
pub struct Meter {
    stretch: Option<Stretch>,
    rate: Option<u64>,
}

/// A stretch of time, and what came in it.
#[derive(Debug, Clone, Copy)]
struct Stretch {
    begun: Moment,
    last: Moment,
    bytes: u64,
}

impl Stretch {
    /// Bytes a second, if it says anything yet.
    fn rate(&self) -> Option<u64> {
        let millis = u64::try_from(self.last.since(self.begun).as_millis()).unwrap_or(u64::MAX);
        (self.bytes > 0).then(|| self.bytes.saturating_mul(1000).checked_div(millis)).flatten()
    }
}

impl Meter {
    /// So many bytes came.
    pub fn count(&mut self, now: Moment, bytes: u64) {
        // What begins a stretch was under way before it, and is not counted.
        let new = Stretch { begun: now, last: now, bytes: 0 };
        let Some(stretch) = self.stretch.as_mut().filter(|stretch| now.since(stretch.last) <= PAUSE) else {
            self.rate = self.rate();
            self.stretch = Some(new);
            return;
        };
        (stretch.bytes, stretch.last) = (stretch.bytes.saturating_add(bytes), now);
        if now.since(stretch.begun) >= STRETCH {
            self.rate = stretch.rate();
            self.stretch = Some(new);
        }
    }

    /// Bytes a second, of the last stretch that was long enough, or of the present one when there was none before.
    pub fn rate(&self) -> Option<u64> {
        self.rate.or_else(|| self.stretch.and_then(|stretch| stretch.rate()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> Moment {
        Moment::after_start(Duration::from_millis(millis))
    }

    #[test]
    fn it_measures_while_bytes_come_and_not_the_pauses() {
        let mut meter = Meter::default();
        assert_eq!(meter.rate(), None);
        for tick in 0..=30 {
            meter.count(at(tick * 100), 1000);
        }
        assert_eq!(meter.rate(), Some(10_000));
        // An hour later, twice as fast.
        for tick in 0..=30 {
            meter.count(at(3_600_000 + tick * 50), 1000);
        }
        assert_eq!(meter.rate(), Some(20_000));
        // A single byte says nothing.
        meter.count(at(9_000_000), 1);
        assert_eq!(meter.rate(), Some(20_000));
    }
}
