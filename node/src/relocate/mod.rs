// SPDX-License-Identifier: MIT OR Apache-2.0
//! Absolute paths in build outputs: to tokens and back.
