// SPDX-License-Identifier: MIT OR Apache-2.0
//! The name of bytes: their BLAKE3 hash. Everything larger than a field is referred to by its [`Digest`].

use crate::hex::hex_name;

/// The largest Blob that may be described, in bytes: 1 TiB.
pub const MAX_BLOB_BYTES: u64 = 1 << 40;

hex_name! {
    /// The 32-byte BLAKE3 hash of some bytes. Its text form is 64 lower-case hexadecimal digits.
    Digest, 32
}

hex_name! {
    /// The 32-byte SHA-256 hash of some bytes, by which many tools know them (FIPS 180-4). Beside their Digest it
    /// certifies nothing here, but it names the same bytes.
    Sha256, 32
}

impl Digest {
    /// The Digest of `bytes`.
    pub fn of(bytes: &[u8]) -> Self {
        blake3::hash(bytes).into()
    }
}

impl From<blake3::Hash> for Digest {
    fn from(hash: blake3::Hash) -> Self {
        Self(*hash.as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::hex::NotHex;

    #[test]
    fn text_form_is_lower_case_hex_and_reads_back() {
        let digest = Digest::of(b"");
        let text = digest.to_string();
        assert_eq!(text, "af1349b9f5f9a1a6a0404dea36dcc9499bcb25c9adc112b7cc9a93cae41f3262");
        assert_eq!(text.parse(), Ok(digest));
        for wrong in ["", &text[1..], &text.to_uppercase(), &text.replace('a', "g"), &format!("{text}0")] {
            assert_eq!(wrong.parse::<Digest>(), Err(NotHex), "{wrong}");
        }
    }
}
