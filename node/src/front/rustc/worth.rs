// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whether what was linked is kept: pure.
//!
//! Libraries always are, since all that is built on them waits for them. An executable is large, is made anew after each
//! edit, and nothing waits for it; so it is kept only where making it again would take longer than bringing it.

use std::time::Duration;

/// The variable that says from how many milliseconds of a processor for each MiB on something is kept.
pub(super) const VARIABLE: &str = "POTLUCK_LINK_MS_PER_MIB";
/// The same where nobody says: what a local network of one gigabit takes for a MiB.
const USUAL: u64 = 10;

/// The threshold that a variable names.
pub(super) fn threshold(set: Option<&str>) -> u64 {
    set.and_then(|set| set.parse().ok()).unwrap_or(USUAL)
}

/// Whether something of so many bytes that cost this to make is kept.
pub(super) fn is_worth(cost: Duration, bytes: u64, threshold: u64) -> bool {
    cost.as_millis() << 20 >= u128::from(bytes) * u128::from(threshold)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_linked_faster_than_it_is_brought_is_not_kept() {
        const MIB: u64 = 1 << 20;
        for (ms, bytes, threshold, expected) in [
            (50, 400 * MIB, 10, false),
            (60_000, 12 * MIB, 10, true),
            (100, 10 * MIB, 10, true),
            (99, 10 * MIB, 10, false),
            (0, 1, 10, false),
            (0, u64::MAX, 0, true),
            (u64::MAX, u64::MAX, u64::MAX, false),
        ] {
            assert_eq!(is_worth(Duration::from_millis(ms), bytes, threshold), expected, "{ms} {bytes}");
        }
    }

    #[test]
    fn what_is_no_number_is_no_setting() {
        assert_eq!([None, Some("x"), Some("-1"), Some("0"), Some("25")].map(threshold), [10, 10, 10, 0, 25]);
    }
}
