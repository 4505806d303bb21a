// SPDX-License-Identifier: MIT OR Apache-2.0
//! Deterministic CBOR (RFC 8949 section 4.2.1), the one encoding of everything that is signed, stored or sent.
//!
//! Encoding and decoding of single items is `cbor4ii`'s. This module adds what a hostile world needs: a [`Reader`]
//! that refuses every encoding but the one a [`Writer`] would have made, checks each length and count against a cap
//! *before* anything is allocated, and bounds nesting. Two peers that hold equal values hence hold equal bytes, and
//! no byte of an encoding is free for an attacker to change.
//!
//! Of CBOR only unsigned integers, byte strings, text, arrays, maps with unsigned keys, booleans and null are used;
//! floats, indefinite lengths and tags are refused. (The envelope of a signed claim needs a tag and one negative
//! integer; it reads those through the hooks at the end of [`Reader`].)
//!
//! Records, choices of records and bare codes are declared with [`record!`](crate::record),
//! [`choice!`](crate::choice) and [`code!`](crate::code), which write both directions from one definition, so that they cannot disagree.

mod reader;
mod record;
mod value;

use cbor4ii::core::enc::{Encode as _, Write as _};
use cbor4ii::core::types;
use cbor4ii::core::utils::BufWriter;

pub use reader::Reader;
#[doc(hidden)]
pub use record::Fields;
pub use value::{Bytes, Text};

/// How deep arrays and maps may nest in any format: the deepest that exists uses 6.
pub const MAX_DEPTH: usize = 12;

/// A type with exactly one CBOR encoding.
pub trait Wire: Sized {
    /// Appends the encoding of `self`.
    fn write(&self, to: &mut Writer);

    /// Reads one value and refuses any encoding that [`Wire::write`] would not have made.
    ///
    /// # Errors
    /// The first [`CodecError`] met.
    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError>;
}

/// The encoding of `value`.
pub fn encode<T: Wire>(value: &T) -> Vec<u8> {
    let mut writer = Writer::new();
    value.write(&mut writer);
    writer.into_bytes()
}

/// Decodes all of `bytes`, which may be at most `max_bytes` long.
///
/// # Errors
/// [`CodecError`] when the input is over-long, truncated, not canonical, of another shape, or followed by more bytes.
pub fn decode<T: Wire>(bytes: &[u8], max_bytes: usize) -> Result<T, CodecError> {
    bounded(bytes, max_bytes)?;
    whole(Reader::new(bytes))
}

/// As [`decode`], of bytes that nobody changes: long byte strings which are most of them are not copied, but share
/// their memory.
///
/// # Errors
/// As [`decode`].
pub fn decode_shared<T: Wire>(bytes: &bytes::Bytes, max_bytes: usize) -> Result<T, CodecError> {
    bounded(bytes, max_bytes)?;
    whole(Reader::shared(bytes))
}

fn bounded(bytes: &[u8], max_bytes: usize) -> Result<(), CodecError> {
    if bytes.len() > max_bytes {
        let fault = Fault::TooLong { limit: max_bytes, got: bytes.len() as u64 };
        return Err(CodecError { at: 0, fault });
    }
    Ok(())
}

fn whole<T: Wire>(mut reader: Reader<'_>) -> Result<T, CodecError> {
    let value = T::read(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// Why an encoding was refused, and where.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{fault} (at byte {at})")]
pub struct CodecError {
    /// Offset in bytes from the start of the input.
    pub at: usize,
    /// What is wrong there.
    pub fault: Fault,
}

/// What is wrong with an encoding.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Fault {
    /// The input ends inside a value.
    #[error("the data ends too early")]
    Truncated,
    /// Bytes follow the value.
    #[error("{extra} bytes follow the end of the data")]
    Trailing {
        /// How many.
        extra: usize,
    },
    /// Another type of item was expected.
    #[error("expected {want}")]
    WrongType {
        /// The type expected.
        want: &'static str,
    },
    /// The value has a shorter or differently ordered encoding, which alone is accepted.
    #[error("not the canonical encoding: {why}")]
    NotCanonical {
        /// What makes it so.
        why: &'static str,
    },
    /// A string is longer than its cap.
    #[error("{got} bytes, at most {limit} are accepted")]
    TooLong {
        /// The cap in bytes.
        limit: usize,
        /// The length found or declared.
        got: u64,
    },
    /// An array or map has more members than its cap.
    #[error("{got} members, at most {limit} are accepted")]
    TooMany {
        /// The cap.
        limit: usize,
        /// The count declared.
        got: u64,
    },
    /// Nested deeper than [`MAX_DEPTH`].
    #[error("nested too deeply")]
    TooDeep,
    /// Text that is not UTF-8.
    #[error("text that is not UTF-8")]
    NotText,
    /// A record holds a field that this version does not know.
    #[error("{record} has no field {field}")]
    UnknownField {
        /// The record.
        record: &'static str,
        /// The field's number.
        field: u64,
    },
    /// A record lacks a required field.
    #[error("{record} lacks its field {field}")]
    MissingField {
        /// The record.
        record: &'static str,
        /// The field's name.
        field: &'static str,
    },
    /// A choice has a number that this version does not know.
    #[error("{choice} has no variant {variant}")]
    UnknownVariant {
        /// The choice.
        choice: &'static str,
        /// The number found.
        variant: u64,
    },
    /// Well-formed, but not a value of the type.
    #[error("{what} is not acceptable: {why}")]
    Invalid {
        /// The type or field.
        what: &'static str,
        /// The rule it breaks.
        why: &'static str,
    },
}

/// Byte strings of so many bytes are not copied where that can be helped: a piece of a Blob is copied for a tenth of
/// what fetching it costs.
pub const SHARED_BYTES: usize = 64 * 1024;

/// Appends canonical items to a buffer.
pub struct Writer {
    begin: BufWriter,
    /// What comes after that, as long as nothing comes after this.
    end: bytes::Bytes,
}

impl Default for Writer {
    fn default() -> Self {
        Self::new()
    }
}

/// Writing to memory fails only when memory is exhausted, which ends the process anyway.
const INFALLIBLE: &str = "appending to a vector cannot fail";

impl Writer {
    /// An empty buffer.
    pub fn new() -> Self {
        Self::with_capacity(256)
    }

    /// An empty buffer with room for `bytes`.
    pub fn with_capacity(bytes: usize) -> Self {
        Self::after(Vec::with_capacity(bytes))
    }

    /// A buffer that goes on where `bytes` end.
    pub fn after(bytes: Vec<u8>) -> Self {
        Self { begin: BufWriter::new(bytes), end: bytes::Bytes::new() }
    }

    /// What was written.
    pub fn into_bytes(mut self) -> Vec<u8> {
        self.joined();
        self.begin.into_inner()
    }

    /// What was written, in two parts that follow each other: the second is a byte string of [`SHARED_BYTES`] or more
    /// that was written last, or is empty.
    pub fn into_parts(self) -> (Vec<u8>, bytes::Bytes) {
        (self.begin.into_inner(), self.end)
    }

    /// Where more can be appended.
    fn joined(&mut self) -> &mut BufWriter {
        if !self.end.is_empty() {
            let end = std::mem::take(&mut self.end);
            self.begin.push(&end).expect(INFALLIBLE);
        }
        &mut self.begin
    }

    /// A byte string that others have as well.
    pub fn shared(&mut self, value: &bytes::Bytes) {
        if value.len() < SHARED_BYTES {
            return self.bytes(value);
        }
        // cbor4ii writes heads of strings only together with their bodies: it is that of a number but for its type.
        let mut head = BufWriter::new(Vec::with_capacity(9));
        (value.len() as u64).encode(&mut head).expect(INFALLIBLE);
        let mut head = head.into_inner();
        head[0] |= 2 << 5;
        self.joined().push(&head).expect(INFALLIBLE);
        self.end = value.clone();
    }

    /// An unsigned integer.
    pub fn uint(&mut self, value: u64) {
        value.encode(self.joined()).expect(INFALLIBLE);
    }

    /// A byte string.
    pub fn bytes(&mut self, value: &[u8]) {
        types::Bytes(value).encode(self.joined()).expect(INFALLIBLE);
    }

    /// A text string.
    pub fn text(&mut self, value: &str) {
        value.encode(self.joined()).expect(INFALLIBLE);
    }

    /// The head of an array of `len` items, which must follow.
    pub fn array(&mut self, len: usize) {
        types::Array::bounded(len, self.joined()).expect(INFALLIBLE);
    }

    /// The head of a map of `len` pairs, which must follow in ascending order of keys.
    pub fn map(&mut self, len: usize) {
        types::Map::bounded(len, self.joined()).expect(INFALLIBLE);
    }

    /// True or false.
    pub fn boolean(&mut self, value: bool) {
        value.encode(self.joined()).expect(INFALLIBLE);
    }

    /// Null.
    pub fn null(&mut self) {
        types::Null.encode(self.joined()).expect(INFALLIBLE);
    }

    /// The negative integer -1 - `n`.
    pub(crate) fn negative(&mut self, n: u64) {
        types::Negative(n).encode(self.joined()).expect(INFALLIBLE);
    }

    /// The head of a tag; its item must follow.
    pub(crate) fn tag(&mut self, tag: u64) {
        types::Tag(tag, types::Nothing).encode(self.joined()).expect(INFALLIBLE);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    crate::record! {
        /// A record with a field of each sort.
        #[derive(Debug, Clone, PartialEq, Eq)]
        struct Thing, check Thing::check {
            1 => one number: u64,
            4 => opt name: Text<5>,
            9 => many(2) parts: Bytes<3>,
        }
    }

    impl Thing {
        fn check(&self) -> Result<(), &'static str> {
            if self.number == 13 { Err("it brings bad luck") } else { Ok(()) }
        }
    }

    crate::code! {
        /// One of two.
        enum Side {
            0 => Left,
            7 => Right,
        }
    }

    fn thing(hex: &str) -> Result<Thing, Fault> {
        let bytes: Vec<_> =
            (0..hex.len()).step_by(2).map(|at| u8::from_str_radix(&hex[at..at + 2], 16).unwrap()).collect();
        decode(&bytes, 100).map_err(|error| error.fault)
    }

    #[test]
    fn a_record_has_one_encoding() {
        let full =
            Thing { number: 500, name: Text::new("name"), parts: vec![Bytes::new(vec![1]).unwrap(); 2] };
        assert_eq!(encode(&full), b"\xa3\x01\x19\x01\xf4\x04\x64name\x09\x82\x41\x01\x41\x01");
        assert_eq!(decode(&encode(&full), 100), Ok(full));
        let least = Thing { number: 0, name: None, parts: Vec::new() };
        assert_eq!(encode(&least), [0xa1, 0x01, 0x00]);
        assert_eq!(thing("a10100"), Ok(least));
    }

    #[test]
    fn every_other_encoding_of_a_record_is_refused() {
        use Fault::{
            Invalid, MissingField, NotCanonical, NotText, TooLong, TooMany, Trailing, Truncated,
            UnknownField, WrongType,
        };
        let refused = |hex: &str, is: fn(&Fault) -> bool| {
            let fault = thing(hex).unwrap_err();
            assert!(is(&fault), "{hex}: {fault}");
        };
        refused("", |fault| *fault == Truncated);
        refused("a101", |fault| *fault == Truncated);
        refused("a1010000", |fault| matches!(fault, Trailing { extra: 1 }));
        refused("a1011800", |fault| matches!(fault, NotCanonical { .. }));
        refused("a1011b0000000000000001", |fault| matches!(fault, NotCanonical { .. }));
        refused("b80101ff", |fault| matches!(fault, NotCanonical { .. }));
        refused("bf0100ff", |fault| matches!(fault, NotCanonical { .. }));
        refused("a201000100", |fault| matches!(fault, NotCanonical { .. }));
        refused("a204616101 00".replace(' ', "").as_str(), |fault| {
            matches!(fault, MissingField { field: "number", .. })
        });
        refused("a0", |fault| matches!(fault, MissingField { field: "number", .. }));
        refused("a201000200", |fault| matches!(fault, UnknownField { field: 2, .. }));
        refused("a201001900ff00", |fault| matches!(fault, UnknownField { .. } | NotCanonical { .. }));
        refused("a4010002000300 0400".replace(' ', "").as_str(), |fault| {
            matches!(fault, TooMany { limit: 3, got: 4 })
        });
        refused("a10120", |fault| matches!(fault, WrongType { .. }));
        refused("a101f5", |fault| matches!(fault, WrongType { .. }));
        refused("a101c100", |fault| matches!(fault, WrongType { .. }));
        refused("a101f97e00", |fault| matches!(fault, WrongType { .. }));
        refused("8100", |fault| matches!(fault, WrongType { .. }));
        refused("a20100044161", |fault| matches!(fault, WrongType { .. }));
        refused("a201000466616161616161", |fault| matches!(fault, TooLong { limit: 5, got: 6 }));
        refused("a20100047bffffffffffffffff", |fault| matches!(fault, TooLong { limit: 5, got: u64::MAX }));
        refused("a201000461ff", |fault| *fault == NotText);
        refused("a20100046107", |fault| matches!(fault, Invalid { .. }));
        refused("a201000460", |fault| matches!(fault, Invalid { .. }));
        refused("a201000f00", |fault| matches!(fault, UnknownField { field: 15, .. }));
        refused("a201000980", |fault| matches!(fault, NotCanonical { .. }));
        refused("a2010009834101 41014101".replace(' ', "").as_str(), |fault| {
            matches!(fault, TooMany { limit: 2, got: 3 })
        });
        refused("a20100099bffffffffffffffff", |fault| matches!(fault, TooMany { limit: 2, .. }));
        refused("a10100f6", |fault| matches!(fault, Trailing { .. }));
        refused("a1010d", |fault| matches!(fault, Invalid { why: "it brings bad luck", .. }));
    }

    #[test]
    fn codes_are_their_numbers() {
        assert_eq!(encode(&Side::Right), [7]);
        assert_eq!(decode(&[7], 1), Ok(Side::Right));
        assert_eq!(Side::ALL, [Side::Left, Side::Right]);
        assert!(matches!(
            decode::<Side>(&[1], 1).unwrap_err().fault,
            Fault::UnknownVariant { variant: 1, .. }
        ));
    }

    #[test]
    fn nothing_larger_than_allowed_is_looked_at() {
        assert!(matches!(decode::<u64>(&[0, 0], 1).unwrap_err().fault, Fault::TooLong { limit: 1, got: 2 }));
    }

    #[test]
    fn nesting_is_bounded() {
        fn dive(from: &mut Reader<'_>) -> Result<(), CodecError> {
            from.array_of(1)?;
            from.nested(dive)
        }
        let deep = vec![0x81; 100_000];
        assert_eq!(dive(&mut Reader::new(&deep)).unwrap_err().fault, Fault::TooDeep);
    }
}
