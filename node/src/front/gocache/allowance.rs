// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long gets may take. go asks for thousands of outputs and sets no limit of its own, so what is bounded here is
//! each get, and what all misses of one go together may cost.

use std::time::Duration;

/// The longest that a look-up may take, with the transfer of what was found.
pub const LONGEST: Duration = Duration::from_secs(10);
/// The same when everything else is used up: enough for a busy daemon that has it.
const SHORTEST: Duration = Duration::from_millis(200);
/// How long others may be asked when everything else is used up. Misses that are faster use up nothing.
pub const LEAST: Duration = Duration::from_millis(20);
/// What all misses together may cost.
const TOGETHER: Duration = Duration::from_secs(15);

/// What is left to wait for.
#[derive(Debug, Clone, Copy)]
pub struct Allowance {
    /// How long a look-up may take.
    full: Duration,
    left: Duration,
}

impl Allowance {
    /// Nothing used yet; a look-up may take `full`.
    pub fn new(full: Duration) -> Self {
        Self { full, left: TOGETHER }
    }

    /// How long the next look-up may take until it is known who has it.
    pub fn deadline(&self) -> Duration {
        self.full.min(self.left.max(LEAST))
    }

    /// How long the next get may take in all.
    pub fn longest(&self) -> Duration {
        LONGEST.min(self.left.max(SHORTEST))
    }

    /// A get took that long and brought nothing.
    pub fn lost(&mut self, waited: Duration) {
        self.left = self.left.saturating_sub(waited.saturating_sub(LEAST));
    }

    /// A get brought something: waiting pays.
    pub fn won(&mut self, waited: Duration) {
        self.left = TOGETHER.min(self.left + waited);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stalled_network_costs_a_build_a_bounded_time() {
        let mut allowance = Allowance::new(Duration::from_secs(1));
        let mut waited = Duration::ZERO;
        for _ in 0..1000 {
            assert!(allowance.deadline() <= allowance.longest() && allowance.longest() <= LONGEST);
            waited += allowance.deadline();
            allowance.lost(allowance.deadline());
        }
        assert!(allowance.deadline() == LEAST && allowance.longest() == SHORTEST);
        assert!(waited <= TOGETHER + 1001 * LEAST, "{waited:?}");
        // Once something comes in time again, more is waited for.
        for _ in 0..1000 {
            allowance.won(Duration::from_millis(10));
        }
        assert_eq!(allowance.deadline(), Duration::from_secs(1));
    }
}
