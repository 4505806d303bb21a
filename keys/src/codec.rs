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

use cbor4ii::core::dec::{self, Decode as _};
use cbor4ii::core::enc::Encode as _;
use cbor4ii::core::types;
use cbor4ii::core::utils::BufWriter;

/// How deep arrays and maps may nest in any format: the deepest that exists uses 7.
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
    if bytes.len() > max_bytes {
        return Err(CodecError {
            at: 0,
            fault: Fault::TooLong { limit: max_bytes, got: bytes.len() as u64 },
        });
    }
    let mut reader = Reader::new(bytes);
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

/// Appends canonical items to a buffer.
pub struct Writer(BufWriter);

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
        Self(BufWriter::new(Vec::with_capacity(bytes)))
    }

    /// What was written.
    pub fn into_bytes(self) -> Vec<u8> {
        self.0.into_inner()
    }

    /// An unsigned integer.
    pub fn uint(&mut self, value: u64) {
        value.encode(&mut self.0).expect(INFALLIBLE);
    }

    /// A byte string.
    pub fn bytes(&mut self, value: &[u8]) {
        types::Bytes(value).encode(&mut self.0).expect(INFALLIBLE);
    }

    /// A text string.
    pub fn text(&mut self, value: &str) {
        value.encode(&mut self.0).expect(INFALLIBLE);
    }

    /// The head of an array of `len` items, which must follow.
    pub fn array(&mut self, len: usize) {
        types::Array::bounded(len, &mut self.0).expect(INFALLIBLE);
    }

    /// The head of a map of `len` pairs, which must follow in ascending order of keys.
    pub fn map(&mut self, len: usize) {
        types::Map::bounded(len, &mut self.0).expect(INFALLIBLE);
    }

    /// True or false.
    pub fn boolean(&mut self, value: bool) {
        value.encode(&mut self.0).expect(INFALLIBLE);
    }

    /// Null.
    pub fn null(&mut self) {
        types::Null.encode(&mut self.0).expect(INFALLIBLE);
    }

    /// The negative integer -1 - `n`.
    pub(crate) fn negative(&mut self, n: u64) {
        types::Negative(n).encode(&mut self.0).expect(INFALLIBLE);
    }

    /// The head of a tag; its item must follow.
    pub(crate) fn tag(&mut self, tag: u64) {
        types::Tag(tag, types::Nothing).encode(&mut self.0).expect(INFALLIBLE);
    }
}

/// Reads canonical items from a slice.
pub struct Reader<'a> {
    bytes: &'a [u8],
    at: usize,
    depth: usize,
}

/// The slice as `cbor4ii` wants to see it.
struct Source<'r, 'a>(&'r mut Reader<'a>);

impl<'a> dec::Read<'a> for Source<'_, 'a> {
    type Error = std::convert::Infallible;

    fn fill<'s>(&'s mut self, want: usize) -> Result<dec::Reference<'a, 's>, Self::Error> {
        let rest = &self.0.bytes[self.0.at..];
        Ok(dec::Reference::Long(&rest[..want.min(rest.len())]))
    }

    fn advance(&mut self, n: usize) {
        self.0.at += n.min(self.0.bytes.len() - self.0.at);
    }
}

/// Length of the shortest head that can carry `value`.
fn head_len(value: u64) -> usize {
    match value {
        0..=0x17 => 1,
        0x18..=0xff => 2,
        0x100..=0xffff => 3,
        0x1_0000..=0xffff_ffff => 5,
        _ => 9,
    }
}

const LONG_HEAD: Fault = Fault::NotCanonical { why: "a number in a longer form than needed" };

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self { bytes, at: 0, depth: 0 }
    }

    /// Offset of the next unread byte.
    pub fn at(&self) -> usize {
        self.at
    }

    /// A fault at the current place.
    pub fn fault(&self, fault: Fault) -> CodecError {
        CodecError { at: self.at, fault }
    }

    /// A value of the right shape that breaks a rule of its type.
    pub fn invalid(&self, what: &'static str, why: &'static str) -> CodecError {
        self.fault(Fault::Invalid { what, why })
    }

    /// Ends the reading.
    ///
    /// # Errors
    /// [`Fault::Trailing`] when bytes are left.
    pub fn end(&self) -> Result<(), CodecError> {
        match self.bytes.len() - self.at {
            0 => Ok(()),
            extra => Err(self.fault(Fault::Trailing { extra })),
        }
    }

    /// Decodes one head that starts at the current place; `read` gives its number.
    fn head(
        &mut self,
        want: &'static str,
        read: impl FnOnce(&mut Source<'_, 'a>) -> Result<Option<u64>, dec::Error<std::convert::Infallible>>,
    ) -> Result<u64, CodecError> {
        let start = self.at;
        let result = read(&mut Source(self));
        let here = |fault| CodecError { at: start, fault };
        let value = match result {
            Ok(Some(value)) => value,
            Ok(None) => return Err(here(Fault::NotCanonical { why: "an indefinite length" })),
            Err(dec::Error::Eof { .. }) => return Err(here(Fault::Truncated)),
            Err(_) => return Err(here(Fault::WrongType { want })),
        };
        if self.at - start != head_len(value) {
            return Err(here(LONG_HEAD));
        }
        Ok(value)
    }

    /// An unsigned integer.
    ///
    /// # Errors
    /// When the next item is anything else.
    pub fn uint(&mut self) -> Result<u64, CodecError> {
        self.head("an unsigned integer", |source| u64::decode(source).map(Some))
    }

    /// An unsigned integer of at most `max`.
    ///
    /// # Errors
    /// When the next item is anything else.
    pub fn uint_up_to(&mut self, what: &'static str, max: u64) -> Result<u64, CodecError> {
        let value = self.uint()?;
        if value > max {
            return Err(self.invalid(what, "the number is too large"));
        }
        Ok(value)
    }

    /// The body of a string whose head said `len`.
    fn body(&mut self, len: u64, max: usize) -> Result<&'a [u8], CodecError> {
        let len = match usize::try_from(len) {
            Ok(len) if len <= max => len,
            _ => return Err(self.fault(Fault::TooLong { limit: max, got: len })),
        };
        let rest = &self.bytes[self.at..];
        if rest.len() < len {
            return Err(self.fault(Fault::Truncated));
        }
        self.at += len;
        Ok(&rest[..len])
    }

    /// The head of a string of major type `major` (2 bytes, 3 text): cbor4ii reads heads of strings only together
    /// with their bodies, so the type is checked here and the number is read as if it were an integer's.
    fn string_len(&mut self, major: u8, want: &'static str) -> Result<u64, CodecError> {
        let first = *self.bytes.get(self.at).ok_or_else(|| self.fault(Fault::Truncated))?;
        if first >> 5 != major {
            return Err(self.fault(Fault::WrongType { want }));
        }
        if first & 0x1f == 0x1f {
            return Err(self.fault(Fault::NotCanonical { why: "an indefinite length" }));
        }
        let mut head = [0; 9];
        let rest = &self.bytes[self.at..];
        let taken = rest.len().min(head.len());
        head[..taken].copy_from_slice(&rest[..taken]);
        head[0] &= 0x1f;
        let mut number = Reader::new(&head[..taken]);
        let value = number.uint().map_err(|error| CodecError { at: self.at, fault: error.fault })?;
        self.at += number.at;
        Ok(value)
    }

    /// A byte string of at most `max` bytes.
    ///
    /// # Errors
    /// When the next item is anything else; the length is checked before the bytes are looked at.
    pub fn bytes(&mut self, max: usize) -> Result<&'a [u8], CodecError> {
        let len = self.string_len(2, "a byte string")?;
        self.body(len, max)
    }

    /// A byte string of exactly `N` bytes.
    ///
    /// # Errors
    /// When the next item is anything else.
    pub fn fixed<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let bytes = self.bytes(N)?;
        bytes
            .try_into()
            .map_err(|_| self.invalid("a byte string", "it has not the length that its type demands"))
    }

    /// A text string of at most `max` bytes.
    ///
    /// # Errors
    /// When the next item is anything else.
    pub fn text(&mut self, max: usize) -> Result<&'a str, CodecError> {
        let len = self.string_len(3, "text")?;
        let bytes = self.body(len, max)?;
        std::str::from_utf8(bytes).map_err(|_| self.fault(Fault::NotText))
    }

    fn count(&self, value: u64, max: usize) -> Result<usize, CodecError> {
        match usize::try_from(value) {
            Ok(count) if count <= max => Ok(count),
            _ => Err(self.fault(Fault::TooMany { limit: max, got: value })),
        }
    }

    /// The head of an array of at most `max` items; gives their number.
    ///
    /// # Errors
    /// When the next item is anything else.
    pub fn array(&mut self, max: usize) -> Result<usize, CodecError> {
        let len = self.head("an array", |source| Ok(types::Array::len(source)?.map(|len| len as u64)))?;
        self.count(len, max)
    }

    /// The head of an array of exactly `len` items.
    ///
    /// # Errors
    /// When the next item is anything else.
    pub fn array_of(&mut self, len: usize) -> Result<(), CodecError> {
        match self.array(len)? {
            found if found == len => Ok(()),
            _ => Err(self.invalid("an array", "it has too few members")),
        }
    }

    /// The head of a map of at most `max` pairs; gives their number.
    ///
    /// # Errors
    /// When the next item is anything else.
    pub fn map(&mut self, max: usize) -> Result<usize, CodecError> {
        let len = self.head("a map", |source| Ok(types::Map::len(source)?.map(|len| len as u64)))?;
        self.count(len, max)
    }

    /// True or false.
    ///
    /// # Errors
    /// When the next item is anything else.
    pub fn boolean(&mut self) -> Result<bool, CodecError> {
        let start = self.at;
        bool::decode(&mut Source(self)).map_err(|error| CodecError {
            at: start,
            fault: match error {
                dec::Error::Eof { .. } => Fault::Truncated,
                _ => Fault::WrongType { want: "true or false" },
            },
        })
    }

    /// Null.
    ///
    /// # Errors
    /// When the next item is anything else.
    pub fn null(&mut self) -> Result<(), CodecError> {
        match self.bytes.get(self.at) {
            Some(0xf6) => {
                self.at += 1;
                Ok(())
            }
            Some(_) => Err(self.fault(Fault::WrongType { want: "null" })),
            None => Err(self.fault(Fault::Truncated)),
        }
    }

    /// Reads the members of an array or map whose head was just read, one level deeper.
    ///
    /// # Errors
    /// [`Fault::TooDeep`] beyond [`MAX_DEPTH`], else what `read` gives.
    pub fn nested<T>(
        &mut self,
        read: impl FnOnce(&mut Self) -> Result<T, CodecError>,
    ) -> Result<T, CodecError> {
        if self.depth == MAX_DEPTH {
            return Err(self.fault(Fault::TooDeep));
        }
        self.depth += 1;
        let result = read(self);
        self.depth -= 1;
        result
    }

    /// A list of at most `max` values. Space is taken as values arrive, never for a count that was only declared.
    ///
    /// # Errors
    /// When the next item is anything else.
    pub fn list<T: Wire>(&mut self, max: usize) -> Result<Vec<T>, CodecError> {
        let count = self.array(max)?;
        self.nested(|reader| {
            let mut values = Vec::with_capacity(count.min(64));
            for _ in 0..count {
                values.push(T::read(reader)?);
            }
            Ok(values)
        })
    }

    /// The negative integer -1 - n; gives n.
    pub(crate) fn negative(&mut self) -> Result<u64, CodecError> {
        self.head("a negative integer", |source| types::Negative::<u64>::decode(source).map(|n| Some(n.0)))
    }

    /// The head of a tag.
    pub(crate) fn tag(&mut self) -> Result<u64, CodecError> {
        self.head("a tag", |source| types::Tag::tag(source).map(Some))
    }
}

/// Walks the fields of a record in ascending order of their numbers. Made for [`record!`](crate::record).
#[doc(hidden)]
pub struct Fields {
    record: &'static str,
    left: usize,
    last: Option<u64>,
    next: Option<u64>,
}

impl Fields {
    #[doc(hidden)]
    pub fn new(from: &mut Reader<'_>, record: &'static str, max: usize) -> Result<Self, CodecError> {
        Ok(Self { record, left: from.map(max)?, last: None, next: None })
    }

    fn peek(&mut self, from: &mut Reader<'_>) -> Result<Option<u64>, CodecError> {
        if self.next.is_none() && self.left > 0 {
            let number = from.uint()?;
            if self.last.is_some_and(|last| number <= last) {
                return Err(from.fault(Fault::NotCanonical { why: "fields out of order or twice" }));
            }
            self.left -= 1;
            self.last = Some(number);
            self.next = Some(number);
        }
        Ok(self.next)
    }

    /// Whether the next field is `number`; a smaller one that nobody asked for is unknown.
    #[doc(hidden)]
    pub fn take(&mut self, from: &mut Reader<'_>, number: u64) -> Result<bool, CodecError> {
        match self.peek(from)? {
            Some(found) if found == number => {
                self.next = None;
                Ok(true)
            }
            Some(found) if found < number => Err(self.unknown(from, found)),
            _ => Ok(false),
        }
    }

    #[doc(hidden)]
    pub fn missing(&self, from: &Reader<'_>, field: &'static str) -> CodecError {
        from.fault(Fault::MissingField { record: self.record, field })
    }

    fn unknown(&self, from: &Reader<'_>, field: u64) -> CodecError {
        from.fault(Fault::UnknownField { record: self.record, field })
    }

    #[doc(hidden)]
    pub fn end(mut self, from: &mut Reader<'_>) -> Result<(), CodecError> {
        match self.peek(from)? {
            Some(found) => Err(self.unknown(from, found)),
            None => Ok(()),
        }
    }
}

/// Declares a struct and its encoding: a map from field numbers to values.
///
/// ```text
/// record! {
///     /// What it is.
///     pub struct Thing, check Thing::check {      // the check is optional
///         /// Always there.
///         1 => one size: u64,
///         /// Present or absent, never null.
///         2 => opt parent: Digest,
///         /// At most 16; an empty list is an absent field.
///         3 => many(16) taints: Taint,
///     }
/// }
/// ```
/// Numbers must ascend. `check` is called with the decoded value and names the rule that it breaks.
#[macro_export]
macro_rules! record {
    (
        $(#[$meta:meta])*
        $vis:vis struct $name:ident $(, check $check:path)? {
            $( $(#[$fmeta:meta])* $number:literal => $kind:ident $(($max:expr))? $field:ident : $ty:ty, )*
        }
    ) => {
        $(#[$meta])*
        $vis struct $name {
            $( $(#[$fmeta])* pub $field: $crate::record!(@type $kind $ty), )*
        }

        impl $crate::codec::Wire for $name {
            fn write(&self, to: &mut $crate::codec::Writer) {
                let present = [$( $crate::record!(@present $kind self.$field) ),*];
                let count: usize = present.iter().filter(|present: &&bool| **present).count();
                to.map(count);
                $( $crate::record!(@write $kind to, $number, self.$field); )*
            }

            fn read(from: &mut $crate::codec::Reader<'_>) -> ::std::result::Result<Self, $crate::codec::CodecError> {
                #[allow(unused_mut, clippy::allow_attributes, reason = "a record without fields reads none")]
                let mut fields = $crate::codec::Fields::new(
                    from, stringify!($name), <[u64]>::len(&[$($number),*]))?;
                let value = from.nested(|from| {
                    $( let $field = $crate::record!(@read $kind $(($max))? fields, from, $number, $field, $ty); )*
                    fields.end(from)?;
                    Ok($name { $($field),* })
                })?;
                $( $check(&value).map_err(|why| from.invalid(stringify!($name), why))?; )?
                Ok(value)
            }
        }
    };
    (@type one $ty:ty) => { $ty };
    (@type opt $ty:ty) => { ::std::option::Option<$ty> };
    (@type many $ty:ty) => { ::std::vec::Vec<$ty> };
    (@present one $place:expr) => { true };
    (@present opt $place:expr) => { $place.is_some() };
    (@present many $place:expr) => { !$place.is_empty() };
    (@write one $to:ident, $number:literal, $place:expr) => {
        $to.uint($number);
        $crate::codec::Wire::write(&$place, $to);
    };
    (@write opt $to:ident, $number:literal, $place:expr) => {
        if let Some(value) = &$place {
            $to.uint($number);
            $crate::codec::Wire::write(value, $to);
        }
    };
    (@write many $to:ident, $number:literal, $place:expr) => {
        if !$place.is_empty() {
            $to.uint($number);
            $to.array($place.len());
            for value in &$place {
                $crate::codec::Wire::write(value, $to);
            }
        }
    };
    (@read one $fields:ident, $from:ident, $number:literal, $field:ident, $ty:ty) => {
        if $fields.take($from, $number)? {
            <$ty as $crate::codec::Wire>::read($from)?
        } else {
            return Err($fields.missing($from, stringify!($field)));
        }
    };
    (@read opt $fields:ident, $from:ident, $number:literal, $field:ident, $ty:ty) => {
        if $fields.take($from, $number)? { Some(<$ty as $crate::codec::Wire>::read($from)?) } else { None }
    };
    (@read many ($max:expr) $fields:ident, $from:ident, $number:literal, $field:ident, $ty:ty) => {
        if $fields.take($from, $number)? {
            let values = $from.list::<$ty>($max)?;
            if values.is_empty() {
                return Err($from.fault($crate::codec::Fault::NotCanonical { why: "an empty list is left out" }));
            }
            values
        } else {
            ::std::vec::Vec::new()
        }
    };
}

/// Declares an enum of records and its encoding: an array of the variant's number and its body.
///
/// ```text
/// choice! {
///     /// What it is.
///     pub enum Output {
///         /// One Blob.
///         0 => Blob(BlobRef),
///         /// A Tree.
///         1 => Tree(TreeRef),
///     }
/// }
/// ```
#[macro_export]
macro_rules! choice {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $( $(#[$vmeta:meta])* $number:literal => $variant:ident($body:ty), )+
        }
    ) => {
        $(#[$meta])*
        $vis enum $name {
            $( $(#[$vmeta])* $variant($body), )+
        }

        impl $crate::codec::Wire for $name {
            fn write(&self, to: &mut $crate::codec::Writer) {
                to.array(2);
                match self {
                    $( $name::$variant(body) => {
                        to.uint($number);
                        $crate::codec::Wire::write(body, to);
                    } )+
                }
            }

            fn read(from: &mut $crate::codec::Reader<'_>) -> ::std::result::Result<Self, $crate::codec::CodecError> {
                from.array_of(2)?;
                from.nested(|from| match from.uint()? {
                    $( $number => Ok($name::$variant(<$body as $crate::codec::Wire>::read(from)?)), )+
                    variant => Err(from.fault($crate::codec::Fault::UnknownVariant {
                        choice: stringify!($name), variant,
                    })),
                })
            }
        }
    };
}

/// Declares an enum without bodies and its encoding: the variant's number.
#[macro_export]
macro_rules! code {
    (
        $(#[$meta:meta])*
        $vis:vis enum $name:ident {
            $( $(#[$vmeta:meta])* $number:literal => $variant:ident, )+
        }
    ) => {
        $(#[$meta])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        $vis enum $name {
            $( $(#[$vmeta])* $variant = $number, )+
        }

        impl $name {
            /// Every variant, in the order of their numbers.
            pub const ALL: &[Self] = &[$( Self::$variant, )+];
        }

        impl $crate::codec::Wire for $name {
            fn write(&self, to: &mut $crate::codec::Writer) {
                to.uint(match self { $( Self::$variant => $number, )+ });
            }

            fn read(from: &mut $crate::codec::Reader<'_>) -> ::std::result::Result<Self, $crate::codec::CodecError> {
                match from.uint()? {
                    $( $number => Ok(Self::$variant), )+
                    variant => Err(from.fault($crate::codec::Fault::UnknownVariant {
                        choice: stringify!($name), variant,
                    })),
                }
            }
        }
    };
}

impl Wire for u64 {
    fn write(&self, to: &mut Writer) {
        to.uint(*self);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        from.uint()
    }
}

impl Wire for u32 {
    fn write(&self, to: &mut Writer) {
        to.uint(u64::from(*self));
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let value = from.uint()?;
        Self::try_from(value).map_err(|_| from.invalid("a number", "it needs more than 32 bits"))
    }
}

impl Wire for bool {
    fn write(&self, to: &mut Writer) {
        to.boolean(*self);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        from.boolean()
    }
}

impl<const N: usize> Wire for [u8; N] {
    fn write(&self, to: &mut Writer) {
        to.bytes(self);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        from.fixed()
    }
}

/// A byte string of at most `MAX` bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Bytes<const MAX: usize>(Vec<u8>);

impl<const MAX: usize> Bytes<MAX> {
    /// Wraps `bytes`, or gives nothing when they are too many.
    pub fn new(bytes: Vec<u8>) -> Option<Self> {
        (bytes.len() <= MAX).then_some(Self(bytes))
    }

    /// The bytes themselves.
    pub fn into_inner(self) -> Vec<u8> {
        self.0
    }
}

impl<const MAX: usize> std::ops::Deref for Bytes<MAX> {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.0
    }
}

impl<const MAX: usize> std::fmt::Debug for Bytes<MAX> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} bytes", self.0.len())
    }
}

impl<const MAX: usize> Wire for Bytes<MAX> {
    fn write(&self, to: &mut Writer) {
        to.bytes(&self.0);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        from.bytes(MAX).map(|bytes| Self(bytes.to_vec()))
    }
}

/// A text string of at most `MAX` bytes without control characters, so that it can be shown on a terminal.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    /// Wraps `text`, or gives nothing when it is empty, too long or holds a control character.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let fits = !text.is_empty() && text.len() <= MAX && !text.chars().any(char::is_control);
        fits.then_some(Self(text))
    }
}

impl<const MAX: usize> std::ops::Deref for Text<MAX> {
    type Target = str;

    fn deref(&self) -> &str {
        &self.0
    }
}

impl<const MAX: usize> std::fmt::Display for Text<MAX> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl<const MAX: usize> Wire for Text<MAX> {
    fn write(&self, to: &mut Writer) {
        to.text(&self.0);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        let text = from.text(MAX)?;
        Self::new(text).ok_or_else(|| from.invalid("text", "it is empty or holds a control character"))
    }
}
