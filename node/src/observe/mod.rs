// SPDX-License-Identifier: MIT OR Apache-2.0
//! What looks at the world from outside the logic. Everything else is told the time.

pub mod clock;
pub mod span;
pub mod status;
