// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bringing what others have: [`plan`] decides whom to ask and whom to fetch from, [`standing`] remembers how that
//! went.

#[cfg(feature = "net")]
pub mod driver;
pub mod event;
pub mod plan;
pub mod standing;
