// SPDX-License-Identifier: MIT OR Apache-2.0
//! Roots that were left in bytes which cannot be rewritten: archives, metadata, executables.
//!
//! Missing one would let a path of one machine reach another, so doubt counts as a find: it costs a hit, no more.

use memchr::memmem;

use super::token::goes_on;

/// Where `path` stands in `bytes`, if it does.
///
/// Texts stand side by side in binaries, without an end that could be seen, so a path of several components counts
/// wherever it is found. One of a single component, such as `/src`, would be found in the middle of everybody's
/// paths; it counts where its component ends, and where no longer path is being spelled.
pub fn find(bytes: &[u8], path: &str) -> Option<usize> {
    let long = path.bytes().filter(|byte| *byte == b'/').count() > 1;
    let counts = |at: &usize| long || is_whole(&bytes[..*at], &bytes[*at + path.len()..]);
    memmem::find_iter(bytes, path).find(counts)
}

fn is_whole(before: &[u8], after: &[u8]) -> bool {
    if after.first().is_some_and(|byte| goes_on(*byte)) {
        return false;
    }
    // A length that happens to be a letter may stand before the path; another slash means that it is the middle.
    let outside = before.iter().rev().find(|byte| !goes_on(**byte));
    outside != Some(&b'/')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn long_paths_count_everywhere_and_short_ones_where_they_are_whole() {
        for (bytes, path, found) in [
            ("xx/w/app/src", "/w/app", Some(2)),
            ("xx/w/apphello", "/w/app", Some(2)),
            ("/w/ap", "/w/app", None),
            ("0/src/lib.rs", "/src", Some(1)),
            ("\0/src\0", "/src", Some(1)),
            ("/src", "/src", Some(0)),
            ("/potluck/registry/a-1.0/src/lib.rs", "/src", None),
            ("a/src/lib.rs\0/src/x", "/src", Some(1)),
            ("/b/src/lib.rs\0/src/x", "/src", Some(14)),
            ("/srcs", "/src", None),
            ("", "/src", None),
        ] {
            assert_eq!(find(bytes.as_bytes(), path), found, "{bytes:?}");
        }
    }
}
