// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only reader of the clocks.

use std::sync::OnceLock;
use std::time::{Instant, SystemTime};

use potluck_keys::time::Time;

use crate::plan::Moment;

/// The present, by this machine's clock.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads a clock")]
pub fn now() -> Time {
    SystemTime::now().into()
}

/// The present, by a clock that nobody sets: how long after the first call in this process.
#[expect(clippy::disallowed_methods, reason = "this is the one place that reads a clock")]
pub fn moment() -> Moment {
    static START: OnceLock<Instant> = OnceLock::new();
    Moment::after_start(START.get_or_init(Instant::now).elapsed())
}
