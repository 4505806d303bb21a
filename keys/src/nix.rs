// SPDX-License-Identifier: MIT OR Apache-2.0
//! Keys and signatures as Nix writes them: `NAME:BASE64`. The keys are ed25519 as ours are, so one pair serves both.
//!
//! What Nix signs begins with `1;` and a path, and what we sign with an array of CBOR, so that neither can be taken for
//! the other.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::Signature;

use crate::pair::{KeyError, Pair, PublicKey, Signer};

/// Longest name of a key, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// The name that a key of ours goes by in Nix: it says which key it is, so that a signature under it can be checked by
/// whoever knows the key.
pub fn name_of(signer: &Signer) -> String {
    let hex: String = signer.as_bytes()[..8].iter().map(|byte| format!("{byte:02x}")).collect();
    format!("potluck-{hex}")
}

/// The line for `trusted-public-keys` in `nix.conf`.
pub fn public_line(key: &PublicKey) -> String {
    format!("{}:{}", name_of(&key.signer()), STANDARD.encode(key.signer().as_bytes()))
}

/// Text that is no key or signature of Nix.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum NixError {
    /// It is not `NAME:BASE64` with so many bytes.
    #[error("it is not NAME:BASE64 of {0} bytes")]
    Form(usize),
    /// It is no ed25519 key.
    #[error(transparent)]
    Key(#[from] KeyError),
}

fn parts<const N: usize>(text: &str) -> Result<(&str, [u8; N]), NixError> {
    let (name, raw) = text.split_once(':').ok_or(NixError::Form(N))?;
    let plain =
        !name.is_empty() && name.len() <= MAX_NAME_BYTES && name.bytes().all(|byte| byte.is_ascii_graphic());
    let raw = STANDARD.decode(raw).ok().and_then(|raw| raw.try_into().ok());
    raw.filter(|_| plain).map(|raw| (name, raw)).ok_or(NixError::Form(N))
}

/// A public key of Nix, as in `trusted-public-keys`; gives its name as well.
///
/// # Errors
/// [`NixError`].
pub fn public_key(line: &str) -> Result<(String, PublicKey), NixError> {
    let (name, raw) = parts(line)?;
    Ok((name.to_owned(), PublicKey::from_signer(&Signer::from_bytes(raw))?))
}

/// A signature as in the line `Sig` of a narinfo.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Sig {
    name: String,
    bytes: [u8; 64],
}

impl Sig {
    /// Signs a fingerprint.
    pub fn sign(pair: &Pair, fingerprint: &str) -> Self {
        Self { name: name_of(&pair.signer()), bytes: pair.sign(fingerprint.as_bytes()) }
    }

    /// The name of the key that is said to have made it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Whether this key made it, over this fingerprint.
    pub fn is_of(&self, key: &PublicKey, fingerprint: &str) -> bool {
        key.verify(fingerprint.as_bytes(), &Signature::from_bytes(&self.bytes))
    }
}

impl FromStr for Sig {
    type Err = NixError;

    fn from_str(text: &str) -> Result<Self, NixError> {
        let (name, bytes) = parts(text)?;
        Ok(Self { name: name.to_owned(), bytes })
    }
}

impl fmt::Display for Sig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.name, STANDARD.encode(self.bytes))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A key, a fingerprint and its signature by nix 2.8.0.
    const KEY: &str = include_str!("nix_sample.txt");

    #[test]
    fn what_nix_signed_is_checked() {
        let lines: Vec<_> = KEY.lines().collect();
        let [_, key, fingerprint, sig] = lines.as_slice() else { panic!("{lines:?}") };
        let (name, key) = public_key(key).unwrap();
        let sig: Sig = sig.parse().unwrap();
        assert_eq!(sig.name(), name);
        assert!(sig.is_of(&key, fingerprint));
        assert!(!sig.is_of(&key, &fingerprint.replace(";sha256:", ";sha256:1")));
        assert!(!sig.is_of(&Pair::from_seed(&[1; 32], "").public(), fingerprint));
    }

    #[test]
    fn keys_and_signatures_of_ours_have_a_form_in_nix() {
        let pair = Pair::from_seed(&[1; 32], "");
        let (name, key) = public_key(&public_line(&pair.public())).unwrap();
        assert!(name == name_of(&pair.signer()) && key == pair.public());
        let sig = Sig::sign(&pair, "1;x");
        let again: Sig = sig.to_string().parse().unwrap();
        assert!(again == sig && again.is_of(&key, "1;x") && again.name() == name);
    }

    #[test]
    fn what_has_another_form_is_refused() {
        let long = format!("{}:{}", "n".repeat(MAX_NAME_BYTES + 1), STANDARD.encode([0; 64]));
        let short = format!("n:{}", STANDARD.encode([0; 63]));
        let nameless = format!(":{}", STANDARD.encode([0; 64]));
        let spaced = format!("a b:{}", STANDARD.encode([0; 64]));
        for wrong in ["", "n", "n:", "n:!!", &long, &short, &nameless, &spaced] {
            assert!(wrong.parse::<Sig>().is_err() && public_key(wrong).is_err(), "{wrong}");
        }
    }
}
