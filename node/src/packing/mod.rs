// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packing at rest: what builds wrote raw, because they were waiting, is packed when they are not.
//!
//! [`plan`] decides which Blob is next and when; [`driver`] does it on one thread of low priority.

pub mod driver;
pub mod plan;
