// SPDX-License-Identifier: MIT OR Apache-2.0
//! cargo's compilations, by way of `RUSTC_WRAPPER`.
