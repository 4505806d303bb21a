// SPDX-License-Identifier: MIT OR Apache-2.0
//! Cases that need more than one crate, or the built program.

mod cli;
mod tidy;
