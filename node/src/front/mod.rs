// SPDX-License-Identifier: MIT OR Apache-2.0
//! One folder a tool: its protocol, translated to the door.

pub mod gocache;
mod patience;
pub mod rustc;
