// SPDX-License-Identifier: MIT OR Apache-2.0
//! The listener by which build tools that speak HTTP come in: a loopback address and a socket in the home.
//!
//! A request is looked at by [`asked`] (who may ask, which Front, which Project), and then handed to the Front that the
//! first part of its path names in `FRONTS`. The Front answers by the door and knows nothing of sockets.
//!
//! A Front is a folder beside this one with a pure map (a request to what is to be done, or to a status; what came of it
//! to a status and headers), and a thin function that does it; see `given`.

pub mod asked;
#[cfg(feature = "net")]
pub mod body;
#[cfg(feature = "net")]
mod given;
#[cfg(feature = "net")]
pub mod serve;

#[cfg(feature = "net")]
pub use given::{Answer, Door, Front, Serving, plain, said};
