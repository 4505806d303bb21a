// SPDX-License-Identifier: MIT OR Apache-2.0
//! Turborepo's remote cache: `TURBO_API=http://127.0.0.1:7117/turbo`.
//!
//! [`map`] says what a request means and what is answered; `serve` does it.
//!
//! turbo without signatures unpacks whatever it gets, so nothing leaves before it was checked; and it takes its time
//! where a server says that it has failed, so whatever fails here is a miss.

pub mod map;
#[cfg(feature = "net")]
mod serve;

#[cfg(feature = "net")]
use super::listen::Front;

/// Turborepo.
#[cfg(feature = "net")]
pub const FRONT: Front =
    Front { name: "turbo", serve: |door, asked, upload| Box::pin(serve::serve(door, asked, upload)) };
