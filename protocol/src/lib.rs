// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is said: the formats that are signed, stored and sent. Pure; nothing here does I/O or reads a clock.
//!
//! * [`digest`], [`piece`], [`tree`]: the names of bytes, and how they are checked.
//! * [`action`], [`entry`], [`head`], [`catalog`]: questions, claims in answer to them, and lists of claims.
//! * [`names`], [`admission`], [`frame`], [`peer`], [`control`]: what peers, and local processes, say to each other.
//!
//! `FORMATS.md` beside this crate describes every format byte by byte; `vectors/` holds examples, good and bad, that
//! are also checked by independent libraries. Encodings are declared with the macros of [`codec`].

#![deny(missing_docs)]

pub mod action;
pub mod admission;
pub mod catalog;
pub mod control;
pub mod digest;
pub mod entry;
pub mod frame;
pub mod head;
pub mod hex;
pub mod names;
pub mod peer;
pub mod piece;
pub mod tree;

pub use potluck_keys::codec;
pub use potluck_keys::{choice, code, record};
