// SPDX-License-Identifier: MIT OR Apache-2.0
//! Roots that were left in bytes which cannot be rewritten: archives, metadata, executables.
//!
//! Missing one would let a path of one machine reach another, so doubt counts as a find: it costs a hit, no more.

use std::io::{self, Read};

use memchr::memmem;

use super::token::goes_on;

/// How much is looked through at once: what a processor has at hand when it is looked through for the next path.
const STRETCH: u64 = 1 << 17;
/// Longest path, in bytes (PATH_MAX).
const MAX_PATH: usize = 4096;

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

/// The first of `paths` that stands in what is read, which is never held as a whole.
///
/// # Errors
/// When it cannot be read.
pub fn find_in<'a>(mut from: impl Read, paths: &[&'a str]) -> io::Result<Option<&'a str>> {
    let longest = paths.iter().map(|path| path.len()).max().unwrap_or_default();
    // What stands before a find counts too, as far back as a path may reach.
    let keep = longest + MAX_PATH;
    let mut held = Vec::new();
    loop {
        let before = held.len();
        let read = from.by_ref().take(STRETCH).read_to_end(&mut held)?;
        let last = (read as u64) < STRETCH;
        for path in paths {
            // One at the very end is found again with what stands behind it.
            let found = find(&held, path);
            if found.is_some_and(|at| last || at + path.len() < held.len()) {
                return Ok(Some(path));
            }
        }
        if last {
            return Ok(None);
        }
        let gone = (before + read).saturating_sub(keep);
        held.drain(..gone);
    }
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
    fn what_stands_across_stretches_is_found() {
        let stretch = usize::try_from(STRETCH).unwrap();
        for at in [0, stretch - 3, stretch - 6, stretch, 2 * stretch - 1, 3 * stretch] {
            let mut bytes = vec![0; 3 * stretch + 100];
            bytes[at..at + 6].copy_from_slice(b"/w/app");
            assert_eq!(find_in(bytes.as_slice(), &["/else", "/w/app"]).unwrap(), Some("/w/app"), "{at}");
            bytes[at + 1] = b'x';
            assert_eq!(find_in(bytes.as_slice(), &["/else", "/w/app"]).unwrap(), None, "{at}");
        }
        let mut longer = vec![0; stretch + 10];
        longer[stretch - 4..stretch + 1].copy_from_slice(b"/srcs");
        assert_eq!(find_in(longer.as_slice(), &["/src"]).unwrap(), None, "its end is in the next stretch");
    }

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
