// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who may claim what.
#![deny(missing_docs)]
pub mod codec;
pub mod pair;
pub mod policy;
pub mod rules;
pub mod signed;
pub mod standing;
pub mod time;
