// SPDX-License-Identifier: MIT OR Apache-2.0
//! Values that fields hold: numbers, byte strings and text, each with its bound.

use super::{CodecError, Reader, Wire, Writer};

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
pub struct Bytes<const MAX: usize>(bytes::Bytes);

impl<const MAX: usize> Bytes<MAX> {
    /// Wraps `bytes`, or gives nothing when they are too many.
    pub fn new(bytes: impl Into<bytes::Bytes>) -> Option<Self> {
        let bytes = bytes.into();
        (bytes.len() <= MAX).then_some(Self(bytes))
    }

    /// The bytes themselves.
    pub fn into_inner(self) -> Vec<u8> {
        self.0.into()
    }

    /// The same without a copy, whoever else has them.
    pub fn into_shared(self) -> bytes::Bytes {
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
        to.shared(&self.0);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        from.kept(MAX).map(Self)
    }
}

/// Whether a character could make a text look like another one: control characters (Unicode category Cc), marks that
/// are not seen, and marks that turn the direction of the text, as in CVE-2021-42574.
fn deceives(c: char) -> bool {
    let unseen = matches!(c, '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2060}'..='\u{206f}');
    c.is_control() || unseen || matches!(c, '\u{ad}' | '\u{61c}' | '\u{feff}')
}

/// A text string of 1 to `MAX` bytes that can be shown on a terminal as it is: no control characters, and none that
/// are invisible or turn the direction of what is shown.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Text<const MAX: usize>(String);

impl<const MAX: usize> Text<MAX> {
    /// Wraps `text`, or gives nothing when it is empty, too long or holds a character that it must not.
    pub fn new(text: impl Into<String>) -> Option<Self> {
        let text = text.into();
        let fits = !text.is_empty() && text.len() <= MAX && !text.chars().any(deceives);
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
        Self::new(text)
            .ok_or_else(|| from.invalid("text", "it is empty or holds a character that is not seen"))
    }
}
