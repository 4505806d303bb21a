// SPDX-License-Identifier: MIT OR Apache-2.0
//! ccache 4 with `remote_storage = http://127.0.0.1:7117/ccache`, in any of its layouts.
//!
//! A key is 20 bytes in text that differs between versions (40 hexadecimal digits, or 4 of them and 29 of base32). The
//! layout `subdirs` puts a slash after the second digit, `flat` none, and `bazel` puts `ac/` before it and its first 24
//! digits once more after it; one key is one key in all of them.
//!
//! A value is a result or a manifest: a list of what the results depend on, which grows as more is known. Both begin with
//! the bytes `cc ac`, the version of the format, and 0 for a result or 1 for a manifest.

use std::time::Duration;

use http::StatusCode;

use super::{Archive, Dialect, Operation, by_method, stored};
use crate::front::listen::asked::Asked;

/// How ccache speaks: any failure is a miss to it, and it gives up after ten seconds by itself.
pub const DIALECT: Dialect = Dialect {
    recipe: "ccache@1",
    tool: "ccache",
    deadline: Duration::from_millis(100),
    patience: Duration::from_secs(5),
    most: 4 << 30,
    gullible: false,
    changes: is_manifest,
    archive: Archive::Ccache,
    map,
    stored,
};

/// How values begin.
const MAGIC: [u8; 2] = [0xcc, 0xac];
/// What follows the version in those that are manifests.
const MANIFEST: u8 = 1;

fn is_manifest(value: &[u8]) -> bool {
    value.starts_with(&MAGIC) && value.get(3) == Some(&MANIFEST)
}

/// What a request means.
///
/// # Errors
/// The status that refuses it.
pub fn map(asked: &Asked) -> Result<Operation, StatusCode> {
    by_method(asked, key(asked.rest()).ok_or(StatusCode::NOT_FOUND)?)
}

/// The key of a path.
fn key(path: &str) -> Option<String> {
    let plain = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_alphanumeric());
    match path.split_once('/') {
        Some(("ac", twice)) if plain(twice) => match twice.split_at_checked(40) {
            Some((key, again)) if key.starts_with(again) && again.len() == 24 => Some(key.to_owned()),
            _ => Some(twice.to_owned()),
        },
        Some((first, rest)) => {
            (first.len() == 2 && plain(first) && plain(rest)).then(|| format!("{first}{rest}"))
        }
        None => plain(path).then(|| path.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const KEY: &str = "6c93d09cd65e8c0a6a2ffd0b6ddbb3e60b1f8ca4";

    #[test]
    fn a_key_is_the_same_in_every_layout() {
        let subdirs = format!("{}/{}", &KEY[..2], &KEY[2..]);
        let bazel = format!("ac/{KEY}{}", &KEY[..24]);
        for path in [KEY, &subdirs, &bazel] {
            assert_eq!(key(path).as_deref(), Some(KEY), "{path}");
        }
        let older = "7c/b3p0v83ibgpnh6tn6mjsvq6a2b2mkfm";
        assert_eq!(key(older).as_deref(), Some("7cb3p0v83ibgpnh6tn6mjsvq6a2b2mkfm"));
        let other = "a".repeat(64);
        assert_eq!(key(&format!("ac/{}b", &other[1..])).unwrap().len(), 64);
        for path in ["", "ab/", "/ab", "abc/def", "ab/c/d", "ac/", "a.b", "é"] {
            assert_eq!(key(path), None, "{path}");
        }
    }

    #[test]
    fn manifests_are_told_from_results() {
        assert!(is_manifest(&[0xcc, 0xac, 1, 1, 0, 0]));
        assert!(!is_manifest(&[0xcc, 0xac, 1, 0, 0, 0]));
        assert!(!is_manifest(&[0xcc, 0xac, 1]));
        assert!(!is_manifest(b"xx\x01\x01"));
    }
}
