// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reading: every length and count is checked before anything is allocated, and only the shortest form is taken.

use cbor4ii::core::dec::{self, Decode as _};
use cbor4ii::core::types;

use super::{CodecError, Fault, MAX_DEPTH, SHARED_BYTES, Wire};

/// Reads canonical items from a slice.
pub struct Reader<'a> {
    bytes: &'a [u8],
    /// The same, if others may share it.
    whole: Option<&'a bytes::Bytes>,
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
        Self { bytes, whole: None, at: 0, depth: 0 }
    }

    /// Reads from the start of bytes that others may share.
    pub fn shared(bytes: &'a bytes::Bytes) -> Self {
        Self { whole: Some(bytes), ..Self::new(bytes) }
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

    /// The same as something that can be kept: with a copy, unless it is long and most of what is read from, so that
    /// nothing small keeps much in memory.
    ///
    /// # Errors
    /// As [`Reader::bytes`].
    pub fn kept(&mut self, max: usize) -> Result<bytes::Bytes, CodecError> {
        let bytes = self.bytes(max)?;
        let long = bytes.len() >= SHARED_BYTES && bytes.len() >= self.bytes.len() / 2;
        Ok(match self.whole.filter(|_| long) {
            Some(whole) => whole.slice_ref(bytes),
            None => bytes::Bytes::copy_from_slice(bytes),
        })
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
