// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who may claim what: keys, signed claims, and the policy that judges them.
//!
//! This crate is the ground floor and knows nothing of builds, peers or files other than keys. A caller
//!
//! 1. reads the owner's rules ([`rules`]) and the keys on disk ([`ring`]),
//! 2. takes claims apart as they come, without believing them ([`signed::Signed::decode`]),
//! 3. asks [`policy::Policy`] what to make of them, and gets [`policy::Trusted`] or a [`policy::Refusal`].
//!
//! The deterministic encoding ([`codec`]) lives here, since the envelope of a claim needs it, and is passed on to the
//! crates above. Only [`ring`] does I/O, and nothing reads a clock.

#![deny(missing_docs)]

pub mod codec;
pub mod nix;
pub mod pair;
pub mod policy;
pub mod ring;
pub mod rules;
pub mod signed;
pub mod standing;
pub mod time;
