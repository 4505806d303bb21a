// SPDX-License-Identifier: MIT OR Apache-2.0
//! Absolute paths in build outputs: to tokens and back.
//!
//! * [`token`] names the folders that differ between checkouts ([`token::Roots`]) and swaps them for tokens in text.
//! * [`scan`] looks for roots that were left in bytes which cannot be rewritten.
//! * [`depinfo`] reads and writes the `.d` files of rustc.
//!
//! All of it is pure; whoever calls finds the folders and reads the files.

pub mod depinfo;
pub mod scan;
pub mod token;
