// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this node tells the DHT. [`plan`] decides what and when.

#[cfg(feature = "net")]
pub mod driver;
pub mod plan;
