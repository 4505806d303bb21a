// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck-rustc`, for RUSTC_WRAPPER.

mod rustc;

use std::process::ExitCode;

fn main() -> ExitCode {
    rustc::run()
}
