// SPDX-License-Identifier: MIT OR Apache-2.0
//! [`Signed<T>`]: the exact bytes of a claim and the signatures on them, as a `COSE_Sign1` (RFC 9052 section 4.2).
//!
//! A `Signed<T>` that was only decoded shows nothing of what it claims. The claim is decoded after a signature on its
//! raw bytes has been verified, and it is handed out by [`Policy::judge`](crate::policy::Policy::judge), to those who
//! want to use it, or by [`Signed::authentic`], to those who only carry or list it.
//!
//! Types are kept apart by the `typ` parameter (RFC 9596) of the protected header, which must be [`Claim::CONTEXT`]:
//! a signature on one kind of claim is never one on another.
//!
//! A claim may carry up to [`MAX_SIGNATURES`] signatures. The first is the `COSE_Sign1` itself, so that any COSE
//! library can check it; the others are `COSE_Sign1` structures with detached payload under the private unprotected
//! parameter [`FURTHER`]. They stand in ascending order of keys, each key at most once: there is one encoding of a
//! claim with a given set of signatures, and no key can count twice.

use std::fmt;
use std::marker::PhantomData;
use std::ops::Range;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU16, Ordering};

use zeroize::Zeroizing;

use crate::codec::{CodecError, Fault, Reader, Wire, Writer, decode, encode};
use crate::pair::{KeyError, Pair, PublicKey, Signer};

/// Length of a seal in bytes: nobody guesses 128 bits, and a flipped bit is found.
pub const SEAL_BYTES: usize = 16;

/// Most signatures on one claim.
pub const MAX_SIGNATURES: usize = 16;

/// The unprotected header parameter of further signatures, from RFC 9052's range for private use.
/// It is the integer -65537; what is stored here is `n` of -1 - n.
pub const FURTHER: u64 = 65_536;

/// Longest [`Claim::CONTEXT`] in bytes.
pub const MAX_CONTEXT_BYTES: usize = 32;

/// Room for everything of a claim but its payload, in bytes.
pub const MAX_ENVELOPE_BYTES: usize = 64 + MAX_SIGNATURES * 160;

/// CBOR tag of a `COSE_Sign1`.
const COSE_SIGN1_TAG: u64 = 18;
/// COSE algorithm -8, EdDSA, as n of -1 - n.
const EDDSA: u64 = 7;
const HEADER_ALGORITHM: u64 = 1;
const HEADER_KEY_ID: u64 = 4;
const HEADER_TYPE: u64 = 16;

/// Something that can be signed.
pub trait Claim: Wire {
    /// Name and version of this kind of claim, e.g. `potluck/entry/1`; at most [`MAX_CONTEXT_BYTES`] long. A change of
    /// the encoding is a change of this string.
    const CONTEXT: &'static str;

    /// Largest encoding in bytes, checked before decoding.
    const MAX_BYTES: usize;
}

/// Why a signed claim was refused before any question of trust.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ClaimError {
    /// The envelope is not what it should be.
    #[error("the signed claim is malformed: {0}")]
    Envelope(CodecError),
    /// A claim of another kind.
    #[error("this is a claim of kind {found:?}, wanted was {want:?}")]
    WrongContext {
        /// The kind wanted.
        want: &'static str,
        /// The kind found.
        found: String,
    },
    /// A signature does not fit the claim and the key that it names.
    #[error("the signature of {0} does not fit the claim")]
    BadSignature(Signer),
    /// The signature fits, but what was signed is not a claim of its kind.
    #[error("{signer} signed something malformed: {error}")]
    Payload {
        /// Who signed.
        signer: Signer,
        /// What is wrong.
        error: CodecError,
    },
    /// Two sets of signatures belong to different payloads.
    #[error("the signatures belong to different claims")]
    OtherClaim,
    /// More than [`MAX_SIGNATURES`] signatures, or none.
    #[error("a claim has from 1 to {MAX_SIGNATURES} signatures")]
    Signatures,
    /// The claim is larger than its kind allows.
    #[error("the claim has {got} bytes, its kind allows {limit}")]
    TooLarge {
        /// Its encoded size.
        got: usize,
        /// [`Claim::MAX_BYTES`].
        limit: usize,
    },
}

impl From<CodecError> for ClaimError {
    fn from(error: CodecError) -> Self {
        Self::Envelope(error)
    }
}

#[derive(Clone, PartialEq, Eq)]
struct Signature {
    signer: Signer,
    bytes: [u8; 64],
}

/// With this a node seals claims whose signatures it has verified, so that it need not verify them again when it reads
/// them from its own disk: that costs a hash of a few hundred bytes instead of arithmetic on a curve.
///
/// The key lies in the same folder of mode 0700 as the sealed rows and is told to nobody. A seal hence guards against
/// damage, and against rows that were put there by somebody who can write the rows and cannot read the key. Whoever can
/// read the key can as well edit the owner's rules. What is sealed is the arithmetic (the signatures fit the bytes)
/// and never a verdict of trust, which is made anew at each use.
#[derive(Clone)]
pub struct SealKey(Zeroizing<[u8; 32]>);

impl SealKey {
    /// A new key.
    ///
    /// # Errors
    /// [`KeyError::NoRandomness`].
    pub fn generate() -> Result<Self, KeyError> {
        let mut bytes = Zeroizing::new([0; 32]);
        getrandom::fill(bytes.as_mut_slice()).map_err(|_| KeyError::NoRandomness)?;
        Ok(Self(bytes))
    }

    /// The key of these bytes, as they were kept.
    pub fn from_bytes(bytes: &[u8; 32]) -> Self {
        Self(Zeroizing::new(*bytes))
    }

    /// The bytes, for keeping them in a file that only the owner can read.
    pub fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    /// The seal on a claim of a kind. The kind ends with a byte that cannot be in it, so that no two pairs of kind and
    /// bytes run into one.
    fn mark(&self, context: &str, bytes: &[u8]) -> [u8; SEAL_BYTES] {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(context.as_bytes()).update(&[0xff]).update(bytes);
        let mut mark = [0; SEAL_BYTES];
        hasher.finalize_xof().fill(&mut mark);
        mark
    }
}

impl fmt::Debug for SealKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SealKey(..)")
    }
}

/// Compares two seals in a time that does not depend on them. [`blake3::Hash`] does so, over its 32 bytes.
fn same_seal(one: &[u8; SEAL_BYTES], other: &[u8; SEAL_BYTES]) -> bool {
    let wide = |seal: &[u8; SEAL_BYTES]| {
        let mut wide = [0; 32];
        wide[..SEAL_BYTES].copy_from_slice(seal);
        blake3::Hash::from_bytes(wide)
    };
    wide(one) == wide(other)
}

/// A claim as received, with one or more signatures.
pub struct Signed<T> {
    bytes: Box<[u8]>,
    payload: Range<usize>,
    signatures: Vec<Signature>,
    /// One bit a signature, set when it was verified. A verdict of arithmetic, never of trust: it cannot grow stale.
    verified: AtomicU16,
    claim: OnceLock<T>,
    kind: PhantomData<T>,
}

impl<T: Claim> Signed<T> {
    /// Largest encoding in bytes.
    pub const MAX_BYTES: usize = T::MAX_BYTES + MAX_ENVELOPE_BYTES;

    /// Signs `claim` with every pair given.
    ///
    /// # Errors
    /// [`ClaimError::Signatures`] when there are none, too many, or one twice; [`ClaimError::TooLarge`].
    pub fn sign(claim: &T, pairs: &[&Pair]) -> Result<Self, ClaimError> {
        let payload = encode(claim);
        if payload.len() > T::MAX_BYTES {
            return Err(ClaimError::TooLarge { got: payload.len(), limit: T::MAX_BYTES });
        }
        let signatures = pairs.iter().map(|pair| {
            let signer = pair.signer();
            let bytes = pair.sign(&to_be_signed(&protected::<T>(&signer), &payload));
            Signature { signer, bytes }
        });
        let signed = Self::assemble(&payload, signatures.collect())?;
        // Whoever has just signed it need not do the arithmetic backwards to know.
        (0..signed.signatures.len()).for_each(|index| signed.mark_verified(index));
        Ok(signed)
    }

    /// Adds the signatures of `other`, which must be on the same payload.
    ///
    /// # Errors
    /// [`ClaimError::OtherClaim`] or [`ClaimError::Signatures`].
    pub fn join(&self, other: &Self) -> Result<Self, ClaimError> {
        if self.payload() != other.payload() {
            return Err(ClaimError::OtherClaim);
        }
        let known = |theirs: &&Signature| self.signatures.iter().all(|ours| ours.signer != theirs.signer);
        let added = other.signatures.iter().filter(known).cloned();
        Self::assemble(self.payload(), self.signatures.iter().cloned().chain(added).collect())
    }

    fn assemble(payload: &[u8], mut signatures: Vec<Signature>) -> Result<Self, ClaimError> {
        signatures.sort_by_key(|signature| signature.signer);
        let twice = signatures.windows(2).any(|pair| pair[0].signer == pair[1].signer);
        let Some((first, further)) = signatures.split_first() else { return Err(ClaimError::Signatures) };
        if twice || signatures.len() > MAX_SIGNATURES {
            return Err(ClaimError::Signatures);
        }
        let mut to = Writer::with_capacity(payload.len() + MAX_ENVELOPE_BYTES);
        to.tag(COSE_SIGN1_TAG);
        to.array(4);
        to.bytes(&protected::<T>(&first.signer));
        if further.is_empty() {
            to.map(0);
        } else {
            to.map(1);
            to.negative(FURTHER);
            to.array(further.len());
            for signature in further {
                to.array(4);
                to.bytes(&protected::<T>(&signature.signer));
                to.map(0);
                to.null();
                to.bytes(&signature.bytes);
            }
        }
        to.bytes(payload);
        to.bytes(&first.bytes);
        Self::decode(&to.into_bytes())
    }

    /// Takes a claim apart without believing any of it.
    ///
    /// # Errors
    /// [`ClaimError`] when the envelope is not in its one canonical form, or when it is of another kind.
    pub fn decode(bytes: &[u8]) -> Result<Self, ClaimError> {
        if bytes.len() > Self::MAX_BYTES {
            return Err(ClaimError::TooLarge { got: bytes.len(), limit: Self::MAX_BYTES });
        }
        let mut from = Reader::new(bytes);
        if from.tag()? != COSE_SIGN1_TAG {
            return Err(from.invalid("the envelope", "it is not tagged as a COSE_Sign1").into());
        }
        from.array_of(4)?;
        let first = read_protected::<T>(&mut from)?;
        let further = read_further::<T>(&mut from)?;
        let payload = from.bytes(T::MAX_BYTES)?;
        let payload = from.at() - payload.len()..from.at();
        let mut signatures = vec![Signature { signer: first, bytes: from.fixed()? }];
        signatures.extend(further);
        from.end()?;
        if signatures.windows(2).any(|pair| pair[0].signer >= pair[1].signer) {
            let why = "signatures out of order of their keys, or one key twice";
            return Err(from.fault(Fault::NotCanonical { why }).into());
        }
        Ok(Self {
            bytes: bytes.into(),
            payload,
            signatures,
            verified: AtomicU16::new(0),
            claim: OnceLock::new(),
            kind: PhantomData,
        })
    }

    /// The seal of this claim, if every signature on it was verified.
    pub fn seal(&self, key: &SealKey) -> Option<[u8; SEAL_BYTES]> {
        let whole = (0..self.signatures.len()).all(|index| self.is_verified(index));
        whole.then(|| key.mark(T::CONTEXT, &self.bytes))
    }

    /// Takes a claim apart that was kept with its seal. When the seal fits, its signatures count as verified;
    /// otherwise it is what [`Signed::decode`] gives.
    ///
    /// # Errors
    /// As [`Signed::decode`].
    pub fn decode_sealed(bytes: &[u8], seal: &[u8; SEAL_BYTES], key: &SealKey) -> Result<Self, ClaimError> {
        let signed = Self::decode(bytes)?;
        if same_seal(&key.mark(T::CONTEXT, bytes), seal) {
            for index in 0..signed.signatures.len() {
                signed.mark_verified(index);
            }
        }
        Ok(signed)
    }

    /// The claim, if every signature on it is genuine: made by whom it says, which is no reason to trust it.
    /// For those who carry, list or explain claims. What was verified once is not verified again.
    ///
    /// # Errors
    /// [`ClaimError::BadSignature`] or [`ClaimError::Payload`].
    pub fn authentic(&self) -> Result<&T, ClaimError> {
        for (index, signature) in self.signatures.iter().enumerate() {
            if !self.is_verified(index) {
                let key = PublicKey::from_signer(&signature.signer)
                    .map_err(|_| ClaimError::BadSignature(signature.signer))?;
                self.verify(index, &key)?;
            }
        }
        self.claim(0)
    }

    /// The claim, for callers that have seen signature `index` verified.
    pub(crate) fn claim(&self, index: usize) -> Result<&T, ClaimError> {
        debug_assert!(
            self.is_verified(index),
            "a claim is decoded only after a signature on it was verified"
        );
        if let Some(claim) = self.claim.get() {
            return Ok(claim);
        }
        let claim = decode(self.payload(), T::MAX_BYTES)
            .map_err(|error| ClaimError::Payload { signer: self.signatures[index].signer, error })?;
        Ok(self.claim.get_or_init(|| claim))
    }

    /// Verifies signature `index` with the key that it names, once.
    pub(crate) fn verify(&self, index: usize, key: &PublicKey) -> Result<(), ClaimError> {
        if self.is_verified(index) {
            return Ok(());
        }
        let signature = &self.signatures[index];
        debug_assert_eq!(
            signature.signer,
            key.signer(),
            "a signature is verified with the key that it names"
        );
        let raw = ed25519_dalek::Signature::from_bytes(&signature.bytes);
        if !key.verify(&self.message(index), &raw) {
            return Err(ClaimError::BadSignature(signature.signer));
        }
        self.mark_verified(index);
        Ok(())
    }

    /// The bytes that signature `index` signs.
    fn message(&self, index: usize) -> Vec<u8> {
        to_be_signed(&protected::<T>(&self.signatures[index].signer), self.payload())
    }
}

impl<T> Signed<T> {
    /// The exact bytes, for storing and sending.
    pub fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// The exact bytes that were signed, unverified and undecoded; their hash names the claim.
    pub fn payload(&self) -> &[u8] {
        &self.bytes[self.payload.clone()]
    }

    /// Who is said to have signed, in ascending order.
    pub fn signers(&self) -> impl ExactSizeIterator<Item = Signer> {
        self.signatures.iter().map(|signature| signature.signer)
    }

    fn is_verified(&self, index: usize) -> bool {
        self.verified.load(Ordering::Acquire) & 1 << index != 0
    }

    fn mark_verified(&self, index: usize) {
        self.verified.fetch_or(1 << index, Ordering::Release);
    }
}

/// Two claims are equal when their bytes are.
impl<T> PartialEq for Signed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.bytes == other.bytes
    }
}

impl<T> Eq for Signed<T> {}

impl<T: Clone> Clone for Signed<T> {
    fn clone(&self) -> Self {
        Self {
            bytes: self.bytes.clone(),
            payload: self.payload.clone(),
            signatures: self.signatures.clone(),
            verified: AtomicU16::new(self.verified.load(Ordering::Acquire)),
            claim: self.claim.clone(),
            kind: PhantomData,
        }
    }
}

impl<T> fmt::Debug for Signed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let signers: Vec<_> = self.signers().collect();
        write!(f, "Signed({} bytes by {signers:?})", self.bytes.len())
    }
}

/// Verifies many signatures together, about three times as fast as one by one. `key_of` gives the prepared key of a
/// signer, or nothing to leave its signatures alone. Signatures that fit are remembered; those that do not are left
/// unverified, to be found when they are judged.
///
/// A batch holds every signature to the strict rule but for one thing: whether the nonce point `R` has a component of
/// small order is tested only for points that consist of nothing else. To make a signature that a batch takes and a
/// lone check refuses, one must hold the secret key, and whoever holds it can as well sign properly; nobody else gains
/// a second valid signature on anything. Keys cannot differ, since [`PublicKey`] admits only those of prime order.
pub fn verify_batch<'k, T: Claim>(claims: &[&Signed<T>], key_of: impl Fn(&Signer) -> Option<&'k PublicKey>) {
    /// Beyond this many the equation gains nothing and its tables leave the cache.
    const LARGEST: usize = 256;
    let mut open = Vec::with_capacity(claims.len());
    for &claim in claims {
        for (index, signature) in claim.signatures.iter().enumerate() {
            if let Some(key) = key_of(&signature.signer)
                && !claim.is_verified(index)
            {
                open.push((claim, index, key));
            }
        }
    }
    if open.len() > 1 {
        // A lone one is held to the whole rule anyway.
        open.retain(|(claim, index, _)| !has_small_order_nonce(&claim.signatures[*index].bytes));
    }
    for part in open.chunks(LARGEST) {
        verify_part(part);
    }
}

/// One batch; halved until the bad signatures stand alone, since one bad one fails all.
fn verify_part<T: Claim>(part: &[(&Signed<T>, usize, &PublicKey)]) {
    if let [(claim, index, key)] = part {
        // Left unverified when it does not fit: the judge will name it.
        let _ = claim.verify(*index, key);
        return;
    }
    let messages: Vec<_> = part.iter().map(|(claim, index, _)| claim.message(*index)).collect();
    let messages: Vec<_> = messages.iter().map(Vec::as_slice).collect();
    let signatures: Vec<_> = part
        .iter()
        .map(|(claim, index, _)| ed25519_dalek::Signature::from_bytes(&claim.signatures[*index].bytes))
        .collect();
    let keys: Vec<_> = part.iter().map(|(_, _, key)| *key.raw()).collect();
    if ed25519_dalek::verify_batch(&messages, &signatures, &keys).is_ok() {
        for (claim, index, _) in part {
            claim.mark_verified(*index);
        }
    } else {
        let (left, right) = part.split_at(part.len() / 2);
        verify_part(left);
        verify_part(right);
    }
}

fn has_small_order_nonce(signature: &[u8; 64]) -> bool {
    let nonce = curve25519_dalek::edwards::CompressedEdwardsY(
        signature[..32].try_into().expect("half of sixty-four are thirty-two"),
    );
    nonce.decompress().is_none_or(|point| point.is_small_order())
}

/// The protected header: algorithm, key and kind.
fn protected<T: Claim>(signer: &Signer) -> Vec<u8> {
    const { assert!(T::CONTEXT.len() <= MAX_CONTEXT_BYTES, "a context has at most 32 bytes") };
    let mut to = Writer::with_capacity(80);
    to.map(3);
    to.uint(HEADER_ALGORITHM);
    to.negative(EDDSA);
    to.uint(HEADER_KEY_ID);
    to.bytes(signer.as_bytes());
    to.uint(HEADER_TYPE);
    to.text(T::CONTEXT);
    to.into_bytes()
}

fn read_protected<T: Claim>(from: &mut Reader<'_>) -> Result<Signer, ClaimError> {
    const SHAPE: &str = "it does not name algorithm, key and kind";
    let bytes = from.bytes(64 + MAX_CONTEXT_BYTES)?;
    let mut header = Reader::new(bytes);
    if header.map(3)? != 3 || header.uint()? != HEADER_ALGORITHM {
        return Err(from.invalid("the protected header", SHAPE).into());
    }
    if header.negative()? != EDDSA {
        return Err(from.invalid("the protected header", "its algorithm is not EdDSA").into());
    }
    if header.uint()? != HEADER_KEY_ID {
        return Err(from.invalid("the protected header", SHAPE).into());
    }
    let signer = Signer::read(&mut header)?;
    if header.uint()? != HEADER_TYPE {
        return Err(from.invalid("the protected header", SHAPE).into());
    }
    let context = header.text(MAX_CONTEXT_BYTES)?;
    header.end()?;
    if context != T::CONTEXT {
        return Err(ClaimError::WrongContext { want: T::CONTEXT, found: context.to_owned() });
    }
    Ok(signer)
}

fn read_further<T: Claim>(from: &mut Reader<'_>) -> Result<Vec<Signature>, ClaimError> {
    if from.map(1)? == 0 {
        return Ok(Vec::new());
    }
    if from.negative()? != FURTHER {
        return Err(from.invalid("the unprotected header", "it holds an unknown parameter").into());
    }
    let count = from.array(MAX_SIGNATURES - 1)?;
    if count == 0 {
        return Err(from.fault(Fault::NotCanonical { why: "an empty list is left out" }).into());
    }
    let mut further = Vec::with_capacity(count);
    for _ in 0..count {
        from.array_of(4)?;
        let signer = read_protected::<T>(from)?;
        from.map(0)?;
        from.null()?;
        further.push(Signature { signer, bytes: from.fixed()? });
    }
    Ok(further)
}

/// The `Sig_structure` of RFC 9052 section 4.4, with empty external data.
fn to_be_signed(protected: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut to = Writer::with_capacity(protected.len() + payload.len() + 32);
    to.array(4);
    to.text("Signature1");
    to.bytes(protected);
    to.bytes(&[]);
    to.bytes(payload);
    to.into_bytes()
}

#[cfg(test)]
mod tests;
