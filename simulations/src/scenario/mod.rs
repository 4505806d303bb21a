// SPDX-License-Identifier: MIT OR Apache-2.0
//! The worlds that can be run.

mod fleet;
mod office;
mod share;

use serde_json::Value;

/// A name, and what runs a world from a seed and reports.
type Scenario = (&'static str, fn(u64) -> Value);

/// Every scenario.
pub(crate) const ALL: &[Scenario] = &[("fleet", fleet::run), ("office", office::run), ("share", share::run)];
