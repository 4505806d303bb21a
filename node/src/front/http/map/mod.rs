// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a request of each tool means, and by which status it wants to hear what came of it. Pure.

pub mod bazel;
pub mod ccache;
pub mod gradle;
pub mod nx;
pub mod result;
pub mod webdav;

use std::time::Duration;

use http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use potluck_protocol::digest::Digest;

pub use super::alike::Archive;
use crate::front::listen::asked::Asked;

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Operation {
    /// Give the value of this key, or all but the value.
    Get {
        /// The key.
        key: String,
        /// Whether the value itself is left out.
        head: bool,
    },
    /// Take the body as the value of this key.
    Put {
        /// The key.
        key: String,
    },
    /// Forget this key.
    Delete {
        /// The key.
        key: String,
    },
    /// Say that this folder is there, as all are.
    Folder,
    /// Say whether there is a value of this key, as if it were a file.
    Look {
        /// The key.
        key: String,
    },
    /// Take the body and forget it.
    Drop,
}

/// How one tool speaks.
#[derive(Debug, Clone, Copy)]
pub struct Dialect {
    /// The Recipe of its keys.
    pub recipe: &'static str,
    /// Its name, as a label.
    pub tool: &'static str,
    /// How long it waits until somebody is found who has what it asks for, unless the settings say otherwise.
    pub deadline: Duration,
    /// How long it waits for an answer in all. What is not here by then still comes, for whoever asks next.
    pub patience: Duration,
    /// Largest value.
    pub most: u64,
    /// Whether it would take half of a value for all of it, so that all of it is read before it is begun.
    pub gullible: bool,
    /// Whether values of keys change, so that a newer one of somebody else counts more than an older one of one's own.
    /// Told by the first bytes of the value that is here.
    pub changes: fn(&[u8]) -> bool,
    /// What its values are.
    pub archive: Archive,
    /// What a request means.
    pub map: fn(&Asked) -> Result<Operation, StatusCode>,
    /// How it hears what came of a value that it sent.
    pub stored: fn(Stored) -> StatusCode,
}

/// What came of a value that was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stored {
    /// It is kept.
    Done,
    /// It is larger than the tool's values are.
    TooLarge,
    /// It cannot be kept: the disk is full, or there is no key to sign with.
    NotKept,
    /// It did not come, or not all of it.
    Broken,
}

/// The usual answers.
pub const fn stored(outcome: Stored) -> StatusCode {
    match outcome {
        Stored::Done => StatusCode::CREATED,
        Stored::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
        Stored::NotKept => StatusCode::INSUFFICIENT_STORAGE,
        Stored::Broken => StatusCode::BAD_REQUEST,
    }
}

/// What most methods mean for a key.
///
/// # Errors
/// The status, for a method that means nothing.
pub fn by_method(asked: &Asked, key: String) -> Result<Operation, StatusCode> {
    match *asked.method() {
        Method::GET => Ok(Operation::Get { key, head: false }),
        Method::HEAD => Ok(Operation::Get { key, head: true }),
        Method::PUT => Ok(Operation::Put { key }),
        Method::DELETE => Ok(Operation::Delete { key }),
        _ => Err(StatusCode::METHOD_NOT_ALLOWED),
    }
}

/// Which part of a value is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Part {
    /// All of it.
    All,
    /// These bytes, which are some.
    Range(std::ops::Range<u64>),
    /// Bytes that it has not got (RFC 9110, 15.5.17).
    Beyond,
    /// None: who asks has it already (RFC 9110, 13.1.2).
    Unchanged,
}

/// The name of a value, which is its Digest (RFC 9110, 8.8.3).
pub fn etag(digest: &Digest) -> HeaderValue {
    HeaderValue::try_from(format!("\"{digest}\"")).expect("hexadecimal digits and quotes")
}

/// What tells the name of a value as zstd packs it from that of the value.
const PACKED: &str = "-zstd";

/// The name of a value as zstd packs it: its bytes are others, and so is its name (RFC 9110, 8.8.3.3).
pub fn packed_etag(digest: &Digest) -> HeaderValue {
    HeaderValue::try_from(format!("\"{digest}{PACKED}\"")).expect("hexadecimal digits, letters and quotes")
}

/// Whether these headers ask for a value as zstd packs it rather than as it is (RFC 9110, 12.5.3; RFC 8878, 7.2).
pub fn wants_zstd(headers: &HeaderMap) -> bool {
    let all = headers.get_all(header::ACCEPT_ENCODING).iter().filter_map(|value| value.to_str().ok());
    all.flat_map(|value| value.split(',')).any(|coding| {
        let (name, weight) = coding.split_once(';').unwrap_or((coding, ""));
        let weight = weight.trim().strip_prefix("q=").map_or(Ok(1.0), str::parse::<f32>);
        name.trim().eq_ignore_ascii_case("zstd") && weight.is_ok_and(|weight| weight > 0.0)
    })
}

/// Which part of a value of `size` bytes these headers ask for. Whatever is not understood asks for all of it, as does
/// more than one range.
pub fn part(headers: &HeaderMap, digest: &Digest, size: u64) -> Part {
    let text = |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok());
    let is_it = |tag: &str| {
        let tag = tag.trim().strip_prefix("W/").unwrap_or(tag.trim()).trim_matches('"');
        tag == "*" || tag.strip_suffix(PACKED).unwrap_or(tag) == digest.to_string()
    };
    if text(header::IF_NONE_MATCH).is_some_and(|tags| tags.split(',').any(is_it)) {
        return Part::Unchanged;
    }
    if text(header::IF_RANGE).is_some_and(|tag| tag.starts_with("W/") || !is_it(tag)) {
        return Part::All;
    }
    let range = text(header::RANGE).and_then(|range| range.strip_prefix("bytes="));
    let Some((from, to)) = range.and_then(|range| range.trim().split_once('-')) else { return Part::All };
    let range = match (from.parse::<u64>(), to.parse::<u64>()) {
        (Ok(from), Ok(to)) if from <= to => from..to.saturating_add(1).min(size),
        (Ok(from), Err(_)) if to.is_empty() => from..size,
        (Err(_), Ok(last)) if from.is_empty() => size.saturating_sub(last)..size,
        _ => return Part::All,
    };
    if range.start < range.end { Part::Range(range) } else { Part::Beyond }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headers_ask_for_zstd() {
        let with = |value: &'static str| {
            wants_zstd(&HeaderMap::from_iter([(header::ACCEPT_ENCODING, HeaderValue::from_static(value))]))
        };
        assert!(with("zstd,gzip") && with("gzip, ZSTD;q=0.5") && with("zstd"));
        assert!(!with("gzip") && !with("zstd;q=0") && !with("") && !with("zstd;q=x") && !with("*"));
    }

    #[test]
    fn headers_ask_for_parts() {
        let digest = Digest::of(b"value");
        let with = |lines: &[(&'static str, String)]| {
            let headers = lines.iter().map(|(name, value)| {
                (header::HeaderName::from_static(name), HeaderValue::try_from(value).unwrap())
            });
            part(&headers.collect(), &digest, 100)
        };
        let range = |text: &str| with(&[("range", text.to_owned())]);
        assert_eq!(with(&[]), Part::All);
        assert_eq!(range("bytes=0-0"), Part::Range(0..1));
        assert_eq!(range("bytes=10-"), Part::Range(10..100));
        assert_eq!(range("bytes=-10"), Part::Range(90..100));
        assert_eq!(range("bytes=-1000"), Part::Range(0..100));
        assert_eq!(range("bytes=99-18446744073709551615"), Part::Range(99..100));
        assert_eq!(range("bytes=100-"), Part::Beyond);
        assert_eq!(range("bytes=-0"), Part::Beyond);
        for odd in ["bytes=5-4", "bytes=a-b", "bytes=0-1,3-4", "lines=0-1", "bytes=", "bytes=-"] {
            assert_eq!(range(odd), Part::All, "{odd}");
        }
        let tag = etag(&digest).to_str().unwrap().to_owned();
        assert_eq!(with(&[("if-none-match", tag.clone())]), Part::Unchanged);
        assert_eq!(with(&[("if-none-match", format!("\"x\", W/{tag}"))]), Part::Unchanged);
        assert_eq!(with(&[("if-none-match", "\"x\"".to_owned())]), Part::All);
        let packed = packed_etag(&digest).to_str().unwrap().to_owned();
        assert!(packed != tag && with(&[("if-none-match", packed)]) == Part::Unchanged);
        let both = |tag: &str| with(&[("if-range", tag.to_owned()), ("range", "bytes=1-2".to_owned())]);
        assert_eq!(both(&tag), Part::Range(1..3));
        assert_eq!(both("\"x\""), Part::All);
    }
}
