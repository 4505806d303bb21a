// SPDX-License-Identifier: MIT OR Apache-2.0
//! One folder a tool: its protocol, translated to the door.

pub mod gocache;
#[cfg(feature = "net")]
pub mod http;
#[cfg(feature = "net")]
pub mod listen;
#[cfg(feature = "net")]
mod parts;
mod patience;
pub mod rustc;
#[cfg(feature = "net")]
pub mod turborepo;

/// The Fronts that are reached by HTTP, by the first part of the path.
#[cfg(feature = "net")]
pub const FRONTS: &[listen::Front] = &[http::CCACHE, turborepo::FRONT];
