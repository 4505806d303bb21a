// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this node tells the DHT. [`plan`] decides what and when, and [`demand`] which Blobs are worth it.

pub mod demand;
#[cfg(feature = "net")]
pub mod driver;
pub mod plan;
