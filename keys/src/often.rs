// SPDX-License-Identifier: MIT OR Apache-2.0
//! Verification by a key that many signatures are verified with, one at a time: more than a third of a small hit from a
//! peer. For such a key its multiples are prepared once, as they are for the base point in any case, and the 256
//! doublings of a lone verification fall away.
//!
//! The rule is the strict one to the letter, which a test holds it to: the scalar is reduced, the key and the nonce point
//! have no small order, and the nonce point that the equation asks for is encoded by just the bytes that the signature has.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use curve25519_dalek::Scalar;
use curve25519_dalek::constants::ED25519_BASEPOINT_TABLE;
use curve25519_dalek::edwards::EdwardsBasepointTable;
use curve25519_dalek::traits::BasepointTable as _;
use ed25519_dalek::{Signature, VerifyingKey};
use sha2::{Digest as _, Sha512};

/// From which signature on it is worth it. Preparing takes as long as what it saves with so many, and 30 KiB.
const WORTH: u32 = 64;

/// What is known of a key that is used often.
#[derive(Default)]
pub(crate) struct Often {
    used: AtomicU32,
    multiples: OnceLock<Box<EdwardsBasepointTable>>,
}

impl Often {
    /// Whether `signature` is this key's over `message`, by the strict rule.
    pub(crate) fn verify(&self, key: &VerifyingKey, message: &[u8], signature: &Signature) -> bool {
        // It may be counted twice at a time, or beyond the last number and from the beginning: nothing depends on that.
        if self.multiples.get().is_none() && self.used.fetch_add(1, Ordering::Relaxed) < WORTH {
            return key.verify_strict(message, signature).is_ok();
        }
        let multiples =
            self.multiples.get_or_init(|| Box::new(EdwardsBasepointTable::create(&key.to_edwards())));
        by(multiples, (key, message), signature)
    }
}

fn by(
    multiples: &EdwardsBasepointTable,
    (key, message): (&VerifyingKey, &[u8]),
    signature: &Signature,
) -> bool {
    let Some(scalar) = Option::from(Scalar::from_canonical_bytes(*signature.s_bytes())) else { return false };
    let scalar: Scalar = scalar;
    let hash = Sha512::new().chain_update(signature.r_bytes()).chain_update(key.as_bytes());
    let challenge = Scalar::from_bytes_mod_order_wide(&hash.chain_update(message).finalize().into());
    let nonce = ED25519_BASEPOINT_TABLE * &scalar - multiples * &challenge;
    // Its encoding is the canonical one, so a signature with another is refused.
    !nonce.is_small_order() && !key.is_weak() && nonce.compress().as_bytes() == signature.r_bytes()
}

#[cfg(test)]
mod tests {
    use curve25519_dalek::constants::EIGHT_TORSION;
    use curve25519_dalek::edwards::CompressedEdwardsY;
    use ed25519_dalek::{Signer as _, SigningKey};

    use super::*;

    /// Whether both ways say this.
    fn says(key: &VerifyingKey, message: &[u8], signature: &[u8; 64]) -> bool {
        let (often, signature) = (Often::default(), Signature::from_bytes(signature));
        let strict = key.verify_strict(message, &signature).is_ok();
        let multiples = EdwardsBasepointTable::create(&key.to_edwards());
        assert_eq!(by(&multiples, (key, message), &signature), strict, "{signature:?}");
        assert_eq!(often.verify(key, message, &signature), strict);
        strict
    }

    /// Bytes that differ with each number.
    fn bytes(number: u32) -> [u8; 32] {
        *blake3::hash(&number.to_be_bytes()).as_bytes()
    }

    #[test]
    fn both_ways_take_the_same_signatures() {
        for number in 0..64 {
            let (pair, nonsense) = (SigningKey::from_bytes(&bytes(3 * number)), bytes(3 * number + 1));
            let message = &bytes(3 * number + 2).repeat(9)[..4 * number as usize];
            let (key, good) = (pair.verifying_key(), pair.sign(message).to_bytes());
            assert!(says(&key, message, &good));
            assert!(!says(&key, &[message, b"more"].concat(), &good));
            assert!(!says(&SigningKey::from_bytes(&nonsense).verifying_key(), message, &good));
            for bit in 0..8 {
                let (at, mut bad) = (8 * number as usize + bit, good);
                bad[at / 8] ^= 1 << (at % 8);
                assert!(!says(&key, message, &bad));
            }
            for half in 0..2 {
                let mut bad = good;
                bad[half * 32..][..32].copy_from_slice(&nonsense);
                assert!(!says(&key, message, &bad));
            }
        }
    }

    #[test]
    fn what_the_strict_rule_refuses_is_refused() {
        let pair = SigningKey::from_bytes(&[7; 32]);
        let (key, message) = (pair.verifying_key(), b"message");
        let good = pair.sign(message).to_bytes();
        // The scalar with the order of the group added is the same one and another encoding.
        let order: [u8; 32] = [
            0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14,
            0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
        ];
        let (mut more, mut carry) = (good, 0);
        for (byte, order) in more[32..].iter_mut().zip(order) {
            let sum = u16::from(*byte) + u16::from(order) + carry;
            (*byte, carry) = (sum.to_le_bytes()[0], sum >> 8);
        }
        assert!(!says(&key, message, &more));
        // Whoever has the key can make the equation hold for nonce points of small order, which are no nonces.
        let secret = pair.to_scalar();
        for torsion in EIGHT_TORSION {
            let nonce = torsion.compress();
            let hash = Sha512::new().chain_update(nonce.as_bytes()).chain_update(key.as_bytes());
            let challenge = Scalar::from_bytes_mod_order_wide(&hash.chain_update(message).finalize().into());
            let mut made = [0; 64];
            made[..32].copy_from_slice(nonce.as_bytes());
            made[32..].copy_from_slice((challenge * secret).as_bytes());
            assert!(!says(&key, message, &made));
        }
        // The identity, encoded as no point is.
        let mut strange = [0xff; 32];
        (strange[0], strange[31]) = (0xee, 0x7f);
        assert!(CompressedEdwardsY(strange).decompress().is_some());
        let mut made = good;
        made[..32].copy_from_slice(&strange);
        assert!(!says(&key, message, &made));
        // A key of small order signs anything.
        for torsion in EIGHT_TORSION {
            let weak = VerifyingKey::from_bytes(torsion.compress().as_bytes()).unwrap();
            for scalar in 0..8_u8 {
                let mut made = [0; 64];
                made[..32]
                    .copy_from_slice((ED25519_BASEPOINT_TABLE * &Scalar::from(scalar)).compress().as_bytes());
                made[32] = scalar;
                assert!(!says(&weak, message, &made));
            }
        }
    }

    #[test]
    fn a_key_that_is_used_often_is_prepared_once() {
        let pair = SigningKey::from_bytes(&[9; 32]);
        let (key, often, signature) = (pair.verifying_key(), Often::default(), pair.sign(b"message"));
        for used in 0..WORTH + 8 {
            assert_eq!(often.multiples.get().is_some(), used > WORTH, "{used}");
            assert!(often.verify(&key, b"message", &signature));
        }
        assert!(!often.verify(&key, b"other", &signature));
    }
}
