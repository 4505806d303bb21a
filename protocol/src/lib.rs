// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said.
#![deny(missing_docs)]
pub mod action;
pub mod digest;
pub use potluck_keys::codec;
pub use potluck_keys::{choice, record};
