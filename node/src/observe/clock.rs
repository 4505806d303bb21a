// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only reader of the clock.

use std::time::SystemTime;

use potluck_keys::time::Time;

/// The present, by this machine's clock.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads a clock")]
pub fn now() -> Time {
    SystemTime::now().into()
}
