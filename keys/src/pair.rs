// SPDX-License-Identifier: MIT OR Apache-2.0
//! Key pairs: ed25519 (RFC 8032) in OpenSSH's own text and file formats, and strict verification.
//!
//! People already know how to make, protect, move and publish such keys; whitelisting a colleague is pasting one
//! `ssh-ed25519 AAAA… comment` line. The formats are read and written by the `ssh-key` crate, the arithmetic is
//! `ed25519-dalek`'s.

use std::fmt;

use ed25519_dalek::{Signature, Signer as _, SigningKey, Verifier as _, VerifyingKey};
use ssh_key::private::{Ed25519Keypair, Ed25519PrivateKey, KeypairData};
use ssh_key::public::{Ed25519PublicKey, KeyData};
use ssh_key::{Cipher, HashAlg, Kdf, LineEnding, PrivateKey};
use zeroize::Zeroizing;

use crate::codec::{CodecError, Reader, Wire, Writer};

/// Largest key file that is read, in bytes. OpenSSH's ed25519 files have about 400.
pub const MAX_KEY_FILE_BYTES: usize = 16 * 1024;

/// Work factor of the passphrase's derivation (bcrypt-pbkdf), the one that `ssh-keygen` uses.
const KDF_ROUNDS: u32 = 16;

/// Most work that a file may ask of us before its passphrase is tried: about five seconds.
const MAX_KDF_ROUNDS: u32 = 1024;

/// The neutral element as it is encoded.
const NEUTRAL: [u8; 32] = {
    let mut bytes = [0; 32];
    bytes[0] = 1;
    bytes
};

/// The 32 bytes of a public key as a claim names them. Whether they are a usable key, and whose, is for
/// [`PublicKey`] and the policy to say. Shown as OpenSSH's `SHA256:…` fingerprint.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Signer([u8; 32]);

impl Signer {
    /// Takes the bytes of a public key.
    pub const fn from_bytes(bytes: [u8; 32]) -> Self {
        Self(bytes)
    }

    /// The bytes of the public key.
    pub const fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

impl fmt::Display for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        KeyData::Ed25519(Ed25519PublicKey(self.0)).fingerprint(HashAlg::Sha256).fmt(f)
    }
}

impl fmt::Debug for Signer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Wire for Signer {
    fn write(&self, to: &mut Writer) {
        to.bytes(&self.0);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        from.fixed().map(Self)
    }
}

/// Why a key was refused.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum KeyError {
    /// The text is no OpenSSH key.
    #[error("this is not an OpenSSH key: {0}")]
    NotAKey(String),
    /// A key of another algorithm.
    #[error("this is an {0} key; only ed25519 keys can sign for potluck")]
    WrongAlgorithm(String),
    /// The 32 bytes are not a point of the curve in its one accepted encoding.
    #[error("the key is not a canonical point of the curve")]
    NotCanonical,
    /// A key of small or mixed order: a signature under it proves nothing.
    #[error("the key is weak: it has not the prime order that a real key has")]
    Weak,
    /// The file is protected and no passphrase was given.
    #[error("the key is protected by a passphrase")]
    Encrypted,
    /// The passphrase does not open the file.
    #[error("the passphrase is wrong")]
    WrongPassphrase,
    /// The file demands unreasonable work before its passphrase can be tried.
    #[error("the key file asks for {rounds} rounds of key derivation, at most {max} are accepted")]
    TooManyRounds {
        /// Asked for.
        rounds: u32,
        /// Accepted.
        max: u32,
    },
    /// The public half in the file does not belong to the private one.
    #[error("the public and the private half of the key do not belong together")]
    Mismatch,
    /// The system gave no random numbers.
    #[error("the system's random number generator failed")]
    NoRandomness,
}

impl From<ssh_key::Error> for KeyError {
    fn from(error: ssh_key::Error) -> Self {
        Self::NotAKey(error.to_string())
    }
}

/// A public key fit for verification: on the curve, canonically encoded, of prime order.
#[derive(Clone, PartialEq, Eq)]
pub struct PublicKey(VerifyingKey);

impl PublicKey {
    /// Checks and takes 32 bytes.
    ///
    /// Keys outside the prime-order subgroup are refused altogether, so that a lone verification and a batch agree
    /// on everything that does not depend on the signature's own nonce point (see [`crate::signed::verify_batch`]).
    ///
    /// # Errors
    /// [`KeyError::NotCanonical`] or [`KeyError::Weak`].
    pub fn from_signer(signer: &Signer) -> Result<Self, KeyError> {
        let key = VerifyingKey::from_bytes(&signer.0).map_err(|_| KeyError::NotCanonical)?;
        let point = key.to_edwards();
        if point.compress().to_bytes() != signer.0 {
            return Err(KeyError::NotCanonical);
        }
        if key.is_weak() || !point.is_torsion_free() {
            return Err(KeyError::Weak);
        }
        Ok(Self(key))
    }

    /// Reads one OpenSSH line, `ssh-ed25519 AAAA… comment`; gives the comment as well.
    ///
    /// # Errors
    /// [`KeyError`] when it is no such line or not an ed25519 key.
    pub fn from_openssh(line: &str) -> Result<(Self, String), KeyError> {
        let key = ssh_key::PublicKey::from_openssh(line.trim())?;
        let KeyData::Ed25519(bytes) = key.key_data() else {
            return Err(KeyError::WrongAlgorithm(key.algorithm().to_string()));
        };
        Ok((Self::from_signer(&Signer(bytes.0))?, key.comment().to_owned()))
    }

    /// The OpenSSH line with this comment, without a line end.
    pub fn to_openssh(&self, comment: &str) -> String {
        let key = ssh_key::PublicKey::new(KeyData::Ed25519(Ed25519PublicKey(self.signer().0)), comment);
        key.to_openssh().expect("an ed25519 key always has a text form")
    }

    /// The name of this key in claims.
    pub fn signer(&self) -> Signer {
        Signer(self.0.to_bytes())
    }

    /// Whether `signature` is this key's over `message`, by the strict rule: the scalar reduced, no component of
    /// small order, the equation without cofactor. Nobody but the key's holder can alter such a signature.
    ///
    /// That is what `VerifyingKey::verify_strict` says of a key of prime order, as all of these are, and takes three
    /// quarters of its time: `verify` recomputes the nonce point as a sum of multiples of the key and of the base point, so in the subgroup of
    /// prime order, and compares its encoding byte by byte. Of the points of small order only the neutral one lies there.
    pub(crate) fn verify(&self, message: &[u8], signature: &Signature) -> bool {
        *signature.r_bytes() != NEUTRAL && self.0.verify(message, signature).is_ok()
    }

    pub(crate) fn raw(&self) -> &VerifyingKey {
        &self.0
    }
}

impl fmt::Debug for PublicKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&self.signer(), f)
    }
}

/// What a private key file tells without its passphrase.
#[derive(Debug, Clone)]
pub struct Outline {
    /// The public half.
    pub public: PublicKey,
    /// The comment; empty when the file is protected, since it is encrypted with the key.
    pub comment: String,
    /// Whether a passphrase is needed.
    pub encrypted: bool,
}

impl Outline {
    /// Reads an OpenSSH private key file as far as anybody can.
    ///
    /// # Errors
    /// [`KeyError`] when it is no such file or not of an ed25519 key.
    pub fn from_openssh(text: &[u8]) -> Result<Self, KeyError> {
        let key = PrivateKey::from_openssh(text)?;
        let KeyData::Ed25519(bytes) = key.public_key().key_data() else {
            return Err(KeyError::WrongAlgorithm(key.algorithm().to_string()));
        };
        let public = PublicKey::from_signer(&Signer(bytes.0))?;
        Ok(Self { public, comment: key.comment().to_owned(), encrypted: key.is_encrypted() })
    }
}

/// A key pair that can sign. Its secret half is wiped from memory when dropped and never shown.
#[derive(Clone)]
pub struct Pair {
    key: SigningKey,
    comment: String,
}

impl fmt::Debug for Pair {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Pair({})", self.signer())
    }
}

impl Pair {
    /// Makes a new pair from the system's random numbers.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`].
    pub fn generate(comment: &str) -> Result<Self, KeyError> {
        let mut seed = Zeroizing::new([0; 32]);
        getrandom::fill(seed.as_mut()).map_err(|_| KeyError::NoRandomness)?;
        Ok(Self::from_seed(&seed, comment))
    }

    /// The pair that grows from a seed (RFC 8032 section 5.1.5); equal seeds give equal pairs.
    pub fn from_seed(seed: &[u8; 32], comment: &str) -> Self {
        Self { key: SigningKey::from_bytes(seed), comment: comment.to_owned() }
    }

    /// Reads an OpenSSH private key file. `passphrase` is asked for only when the file needs one.
    ///
    /// # Errors
    /// [`KeyError`]; [`KeyError::Encrypted`] when the file needs a passphrase and `passphrase` gives none.
    pub fn from_openssh(
        text: &[u8],
        passphrase: impl FnOnce() -> Option<Zeroizing<String>>,
    ) -> Result<Self, KeyError> {
        let mut key = PrivateKey::from_openssh(text)?;
        if key.is_encrypted() {
            if let Kdf::Bcrypt { rounds, .. } = key.kdf()
                && *rounds > MAX_KDF_ROUNDS
            {
                return Err(KeyError::TooManyRounds { rounds: *rounds, max: MAX_KDF_ROUNDS });
            }
            let passphrase = passphrase().ok_or(KeyError::Encrypted)?;
            key = key.decrypt(passphrase.as_bytes()).map_err(|_| KeyError::WrongPassphrase)?;
        }
        let KeypairData::Ed25519(pair) = key.key_data() else {
            return Err(KeyError::WrongAlgorithm(key.algorithm().to_string()));
        };
        let seed = Zeroizing::new(pair.private.to_bytes());
        let made = Self::from_seed(&seed, key.comment());
        if made.key.verifying_key().as_bytes() != &pair.public.0 {
            return Err(KeyError::Mismatch);
        }
        Ok(made)
    }

    /// The OpenSSH private key file, protected when a passphrase is given (AES-256 in counter mode under
    /// bcrypt-pbkdf, `ssh-keygen`'s own choice).
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`].
    pub fn to_openssh(&self, passphrase: Option<&str>) -> Result<Zeroizing<String>, KeyError> {
        let mut key = PrivateKey::new(KeypairData::Ed25519(self.keypair()), &self.comment)?;
        if let Some(passphrase) = passphrase {
            let mut random = [0; 20];
            getrandom::fill(&mut random).map_err(|_| KeyError::NoRandomness)?;
            let (salt, check) = random.split_at(16);
            let kdf = Kdf::Bcrypt { salt: salt.to_vec(), rounds: KDF_ROUNDS };
            let check = u32::from_be_bytes(check.try_into().expect("twenty less sixteen are four"));
            key = key.encrypt_with(Cipher::Aes256Ctr, kdf, check, passphrase.as_bytes())?;
        }
        Ok(key.to_openssh(LineEnding::LF)?)
    }

    fn keypair(&self) -> Ed25519Keypair {
        Ed25519Keypair {
            public: Ed25519PublicKey(self.signer().0),
            private: Ed25519PrivateKey::from_bytes(self.key.as_bytes()),
        }
    }

    /// The comment that travels with the key, for people.
    pub fn comment(&self) -> &str {
        &self.comment
    }

    /// The same pair with another comment.
    #[must_use]
    pub fn with_comment(mut self, comment: &str) -> Self {
        comment.clone_into(&mut self.comment);
        self
    }

    /// The public half.
    pub fn public(&self) -> PublicKey {
        PublicKey(self.key.verifying_key())
    }

    /// The name of this key in claims.
    pub fn signer(&self) -> Signer {
        Signer(self.key.verifying_key().to_bytes())
    }

    pub(crate) fn sign(&self, message: &[u8]) -> [u8; 64] {
        self.key.sign(message).to_bytes()
    }
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::{ED25519_BASEPOINT_POINT, EIGHT_TORSION};
    use curve25519_dalek::{EdwardsPoint, Scalar};
    use sha2::{Digest as _, Sha512};

    use super::*;

    #[test]
    fn a_pair_survives_both_file_forms() {
        let pair = Pair::generate("alice@example").unwrap();
        for passphrase in [None, Some("correct horse")] {
            let text = pair.to_openssh(passphrase).unwrap();
            let ask = || passphrase.map(|text| Zeroizing::new(text.to_owned()));
            let read = Pair::from_openssh(text.as_bytes(), ask).unwrap();
            assert_eq!(read.signer(), pair.signer());
            assert_eq!(read.comment(), "alice@example");
        }
        let (public, comment) = PublicKey::from_openssh(&pair.public().to_openssh("alice@example")).unwrap();
        assert_eq!((public, comment.as_str()), (pair.public(), "alice@example"));
    }

    #[test]
    fn a_protected_file_needs_its_passphrase() {
        let text = Pair::generate("a").unwrap().to_openssh(Some("right")).unwrap();
        assert_eq!(Pair::from_openssh(text.as_bytes(), || None).unwrap_err(), KeyError::Encrypted);
        let wrong = || Some(Zeroizing::new("wrong".to_owned()));
        assert_eq!(Pair::from_openssh(text.as_bytes(), wrong).unwrap_err(), KeyError::WrongPassphrase);
    }

    #[test]
    fn a_file_cannot_ask_for_unbounded_work() {
        let key =
            PrivateKey::new(KeypairData::Ed25519(Pair::from_seed(&[1; 32], "").keypair()), "a").unwrap();
        let kdf = Kdf::Bcrypt { salt: vec![7; 16], rounds: 17 };
        let key = key.encrypt_with(Cipher::Aes256Ctr, kdf, 1, b"p").unwrap();
        // The rounds stand in clear in the file: raise them there.
        let mut raw = key.to_bytes().unwrap().to_vec();
        let at = raw.windows(4).position(|bytes| bytes == 17_u32.to_be_bytes()).unwrap();
        raw[at..at + 4].copy_from_slice(&(MAX_KDF_ROUNDS + 1).to_be_bytes());
        let text = PrivateKey::from_bytes(&raw).unwrap().to_openssh(LineEnding::LF).unwrap();
        let ask = || panic!("asked although the file is refused");
        let error = Pair::from_openssh(text.as_bytes(), ask).unwrap_err();
        assert_eq!(error, KeyError::TooManyRounds { rounds: MAX_KDF_ROUNDS + 1, max: MAX_KDF_ROUNDS });
    }

    #[test]
    fn weak_and_non_canonical_keys_are_refused() {
        for point in EIGHT_TORSION {
            let signer = Signer(point.compress().to_bytes());
            assert_eq!(PublicKey::from_signer(&signer), Err(KeyError::Weak));
        }
        let mixed = ED25519_BASEPOINT_POINT + EIGHT_TORSION[1];
        assert_eq!(PublicKey::from_signer(&Signer(mixed.compress().to_bytes())), Err(KeyError::Weak));
        // y = p + 1 is the neutral element written a second way; y = 2^255 - 1 is past every reduced value.
        let mut beyond = [0xff; 32];
        beyond[31] = 0x7f;
        assert_eq!(PublicKey::from_signer(&Signer(beyond)), Err(KeyError::NotCanonical));
        beyond[0] = 0xee;
        assert_eq!(PublicKey::from_signer(&Signer(beyond)), Err(KeyError::NotCanonical));
    }

    /// By whoever holds the key: nonce point `nonce * B + extra`, with the scalar that fits when `extra` is nothing.
    fn forged(pair: &Pair, nonce: u64, extra: EdwardsPoint) -> Signature {
        let nonce = Scalar::from(nonce);
        let point = (ED25519_BASEPOINT_POINT * nonce + extra).compress();
        let hash = Sha512::new().chain_update(point.as_bytes()).chain_update(pair.signer().as_bytes());
        let hash = Scalar::from_bytes_mod_order_wide(&hash.chain_update(b"message").finalize().into());
        Signature::from_components(point.to_bytes(), (nonce + hash * pair.key.to_scalar()).to_bytes())
    }

    #[test]
    fn a_lone_verification_is_the_strict_one() {
        let pair = Pair::from_seed(&[3; 32], "");
        let key = pair.public();
        let mut taken = 0;
        for nonce in [0, 1, 7] {
            for extra in EIGHT_TORSION {
                let signature = forged(&pair, nonce, extra);
                let (scalar, mut reduced_not) = (signature.s_bytes(), *signature.s_bytes());
                reduced_not[31] |= 0x10;
                for scalar in [scalar, &reduced_not, &[0; 32]] {
                    let signature = Signature::from_components(*signature.r_bytes(), *scalar);
                    let strict = key.raw().verify_strict(b"message", &signature).is_ok();
                    assert_eq!(key.verify(b"message", &signature), strict, "{nonce} {extra:?} {scalar:?}");
                    taken += u32::from(strict);
                }
            }
        }
        // Both of a proper nonce, none of the neutral one.
        assert_eq!(taken, 2);
        // The rule makes a difference: without it, this would pass.
        assert!(key.raw().verify(b"message", &forged(&pair, 0, EIGHT_TORSION[0])).is_ok());
        let other = Signature::from_bytes(&pair.sign(b"another message"));
        assert!(!key.verify(b"message", &other));
    }

    #[test]
    fn other_algorithms_and_noise_are_refused() {
        let ecdsa = "ecdsa-sha2-nistp256 AAAAE2VjZHNhLXNoYTItbmlzdHAyNTYAAAAIbmlzdHAyNTYAAABBBHwf2HMM5TRXvo2SQJjsNkiDD5KqiiNjrGVv3UUh+mMT5RHxiRtOnlqvjhQtBq0VpmpCV/PwUdhOig4vkbqAcEc= x";
        assert!(PublicKey::from_openssh(ecdsa).is_err());
        for noise in ["", "ssh-ed25519", "ssh-ed25519 AAAA", "hello world"] {
            assert!(matches!(PublicKey::from_openssh(noise), Err(KeyError::NotAKey(_))), "{noise}");
        }
        assert!(matches!(Pair::from_openssh(b"not a key", || None), Err(KeyError::NotAKey(_))));
    }
}
