// SPDX-License-Identifier: MIT OR Apache-2.0
//! One node: its home on disk, its settings, and the policy it goes by.
//!
//! * [`home`] is the folder that holds all of it; [`config`] its settings, with the defaults as documentation.
//! * [`trust`] reads, judges with and edits `trust.toml`.
//! * [`observe`] holds the only clock.

pub mod config;
pub mod home;
pub mod observe;
pub mod trust;
