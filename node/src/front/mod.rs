// SPDX-License-Identifier: MIT OR Apache-2.0
//! One folder a tool: its protocol, translated to the door.

pub mod gocache;
pub mod http;
pub mod listen;
pub mod nix;
#[cfg(feature = "net")]
mod parts;
mod patience;
pub mod rustc;
pub mod turborepo;

/// The Fronts that are reached by HTTP, by the first part of the path.
#[cfg(feature = "net")]
pub const FRONTS: &[listen::Front] =
    &[http::BAZEL, http::CCACHE, http::GRADLE, http::NX, http::WEBDAV, nix::FRONT, turborepo::FRONT];
