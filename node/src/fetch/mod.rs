// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bringing what others have: [`plan`] decides whom to ask, with `peers` who may have it, [`standing`] how that went
//! before, `search` one action that is looked for, and `transfers` whom to fetch Blobs from.

mod alarm;
#[cfg(feature = "net")]
pub mod driver;
pub mod event;
pub mod peers;
pub mod plan;
mod search;
pub mod standing;
#[cfg(test)]
mod tests;
pub mod transfers;
