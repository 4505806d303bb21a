// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the tests share.

mod archives;
pub mod cargo;
pub mod circle;
pub mod decoders;
mod gocache;
pub mod hosts;
pub mod program;
pub mod samples;
mod small;
pub mod tools;
