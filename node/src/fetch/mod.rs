// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bringing what others have: [`plan`] decides whom to ask, with `peers` who may have it, [`standing`] how that went
//! before, `search` one action that is looked for, and `transfers` whom to fetch Blobs from, which for one of several
//! pieces [`spread`] says piece by piece; `sources` finds others when those cannot give one.

mod alarm;
pub mod bits;
#[cfg(feature = "net")]
pub mod download;
#[cfg(feature = "net")]
pub mod driver;
pub mod event;
mod load;
pub mod peers;
pub mod plan;
pub mod remembered;
mod search;
#[cfg(feature = "net")]
mod small;
mod sources;
pub mod spread;
mod spreading;
pub mod standing;
#[cfg(test)]
mod tests;
pub mod transfers;
pub mod uplink;
