// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said.
#![deny(missing_docs)]
pub mod action;
pub mod control;
pub mod digest;
pub mod entry;
pub mod frame;
pub mod head;
pub mod names;
pub mod peer;
pub mod piece;
pub mod tree;
pub use potluck_keys::codec;
pub use potluck_keys::{choice, code, record};
