// SPDX-License-Identifier: MIT OR Apache-2.0
//! go, by way of `GOCACHEPROG`: a child process of each go that answers on its standard streams.
//!
//! * [`mod@line`] is what go and the helper say, [`map`] what that means to the door, [`allowance`] how long it may take,
//!   [`expected`] what go is likely to ask for, [`checked`] which files need not be read again: all pure.
//! * [`folder`] holds the files that go is shown.
//! * [`serve`] answers.
//!
//! go has no guard of its own: it waits for as long as it takes, and fails when the helper ends. So a get is a miss
//! whatever goes wrong, a put is answered as soon as its file is written, and nothing but the disk can fail it.

pub mod allowance;
pub mod checked;
pub mod expected;
pub mod folder;
pub mod line;
pub mod map;
mod serve;
#[cfg(test)]
mod tests;

pub use self::serve::{ServeError, Setup, serve};
