// SPDX-License-Identifier: MIT OR Apache-2.0
//! What this node tells the DHT. [`plan`] decides what and when.

pub mod plan;
