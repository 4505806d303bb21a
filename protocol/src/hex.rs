// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names that are bytes: one definition of their text form (lower-case hexadecimal) and of their encoding.

/// Text that is not the right number of lower-case hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("not the right number of lower-case hexadecimal digits")]
pub struct NotHex;

/// Reads exactly `N` bytes from `2 N` lower-case hexadecimal digits; upper case is refused so that each value has one
/// text form.
pub(crate) fn from_hex<const N: usize>(text: &str) -> Result<[u8; N], NotHex> {
    let digits = text.as_bytes();
    if digits.len() != 2 * N {
        return Err(NotHex);
    }
    let value = |digit: u8| match digit {
        b'0'..=b'9' => Ok(digit - b'0'),
        b'a'..=b'f' => Ok(digit - b'a' + 10),
        _ => Err(NotHex),
    };
    let mut bytes = [0; N];
    for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
        *byte = value(pair[0])? << 4 | value(pair[1])?;
    }
    Ok(bytes)
}

/// Writes bytes as lower-case hexadecimal digits, of which there must be room for twice as many. Formatting them one by
/// one takes ten times as long, and names are written for every answer.
pub(crate) fn to_hex<'t>(bytes: &[u8], digits: &'t mut [u8]) -> &'t str {
    let digit = |value: u8| if value < 10 { b'0' + value } else { b'a' - 10 + value };
    for (pair, byte) in digits.chunks_exact_mut(2).zip(bytes) {
        pair.copy_from_slice(&[digit(byte >> 4), digit(byte & 0xf)]);
    }
    std::str::from_utf8(digits).expect("digits are ASCII")
}

/// Declares a name of so many bytes, with its text form and its encoding as a byte string.
macro_rules! hex_name {
    ($(#[$meta:meta])* $name:ident, $len:literal) => {
        $(#[$meta])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name([u8; $len]);

        impl $name {
            /// Length in bytes.
            pub const LEN: usize = $len;

            /// Takes bytes that were made elsewhere.
            pub const fn from_bytes(bytes: [u8; $len]) -> Self {
                Self(bytes)
            }

            /// The bytes.
            pub const fn as_bytes(&self) -> &[u8; $len] {
                &self.0
            }
        }

        impl ::std::str::FromStr for $name {
            type Err = $crate::hex::NotHex;

            fn from_str(text: &str) -> ::std::result::Result<Self, Self::Err> {
                $crate::hex::from_hex(text).map(Self)
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                let mut digits = [0; 2 * Self::LEN];
                f.write_str($crate::hex::to_hex(&self.0, &mut digits))
            }
        }

        /// The first six bytes: enough to tell names apart in a log.
        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                self.0[..6].iter().try_for_each(|byte| write!(f, "{byte:02x}"))
            }
        }

        impl $crate::codec::Wire for $name {
            fn write(&self, to: &mut $crate::codec::Writer) {
                to.bytes(&self.0);
            }

            fn read(
                from: &mut $crate::codec::Reader<'_>,
            ) -> ::std::result::Result<Self, $crate::codec::CodecError> {
                from.fixed().map(Self)
            }
        }
    };
}

pub(crate) use hex_name;
