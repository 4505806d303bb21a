// SPDX-License-Identifier: MIT OR Apache-2.0
//! A binary cache for Nix: `http://127.0.0.1:7117/nix` as a substituter, and as what `nix copy --to` copies to.
//!
//! * [`map`] says what a request means, [`narinfo`] reads what Nix says of a path: both pure.
//! * `serve` does it.
//!
//! Nix' own signatures are kept beside ours and come back as they were put, except those in the name of a key which is
//! known here that did not make them. Where the settings say so, this node adds its own, so that a Nix which trusts the
//! node's key believes what the node believes.

pub mod map;
pub mod narinfo;
#[cfg(feature = "net")]
mod serve;

#[cfg(feature = "net")]
use super::listen::Front;

/// Nix.
#[cfg(feature = "net")]
pub const FRONT: Front =
    Front { name: "nix", serve: |door, asked, upload| Box::pin(serve::serve(door, asked, upload)) };
