// SPDX-License-Identifier: MIT OR Apache-2.0
//! See `potluck_tests::decoders`.
#![no_main]

libfuzzer_sys::fuzz_target!(|bytes: &[u8]| potluck_tests::decoders::decoder("small_rows")(bytes));
