// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is signed, what is not, and claims of several signers.

use super::*;

crate::record! {
    /// A claim of no consequence.
    #[derive(Debug, Clone, PartialEq, Eq)]
    struct Note {
        1 => one number: u64,
    }
}

impl Claim for Note {
    const CONTEXT: &'static str = "potluck/test-note/1";
    const MAX_BYTES: usize = 64;
}

#[derive(Debug, Clone, PartialEq, Eq)]
struct Other(Note);

impl Wire for Other {
    fn write(&self, to: &mut Writer) {
        self.0.write(to);
    }

    fn read(from: &mut Reader<'_>) -> Result<Self, CodecError> {
        Note::read(from).map(Self)
    }
}

impl Claim for Other {
    const CONTEXT: &'static str = "potluck/test-other/1";
    const MAX_BYTES: usize = 64;
}

fn pair(seed: u8) -> Pair {
    Pair::from_seed(&[seed; 32], "test")
}

/// A signed claim as whoever receives it has it: nothing of it is verified.
fn arrived(note: &Note, pairs: &[&Pair]) -> Signed<Note> {
    Signed::decode(Signed::sign(note, pairs).unwrap().bytes()).unwrap()
}

#[test]
fn a_signed_claim_reads_back_with_any_number_of_signatures() {
    let pairs: Vec<_> = (0..16).map(pair).collect();
    for count in 1..=MAX_SIGNATURES {
        let pairs: Vec<_> = pairs[..count].iter().collect();
        let signed = arrived(&Note { number: 7 }, &pairs);
        let read = Signed::<Note>::decode(signed.bytes()).unwrap();
        assert_eq!(read.authentic().unwrap(), &Note { number: 7 });
        assert_eq!(read.signers().len(), count);
    }
}

#[test]
fn signatures_made_apart_join_to_the_same_bytes() {
    let (a, b) = (pair(1), pair(2));
    let note = Note { number: 7 };
    let both = arrived(&note, &[&a, &b]);
    let (one, two) = (arrived(&note, &[&a]), arrived(&note, &[&b]));
    assert_eq!(one.join(&two).unwrap(), both);
    assert_eq!(two.join(&one).unwrap(), both);
    assert_eq!(both.join(&one).unwrap(), both);
    let other = arrived(&Note { number: 8 }, &[&b]);
    assert_eq!(one.join(&other).unwrap_err(), ClaimError::OtherClaim);
}

#[test]
fn too_many_signatures_none_and_one_key_twice_are_refused() {
    let pairs: Vec<_> = (0..17).map(pair).collect();
    let all: Vec<_> = pairs.iter().collect();
    let note = Note { number: 7 };
    assert_eq!(Signed::sign(&note, &all).unwrap_err(), ClaimError::Signatures);
    assert_eq!(Signed::sign(&note, &[]).unwrap_err(), ClaimError::Signatures);
    assert_eq!(Signed::sign(&note, &[all[0], all[0]]).unwrap_err(), ClaimError::Signatures);
}

#[test]
fn a_forged_repetition_of_one_key_is_refused() {
    let signed = arrived(&Note { number: 7 }, &[&pair(1)]);
    let signature = signed.signatures[0].clone();
    let mut to = Writer::new();
    to.tag(COSE_SIGN1_TAG);
    to.array(4);
    to.bytes(&protected::<Note>(&signature.signer));
    to.map(1);
    to.negative(FURTHER);
    to.array(1);
    to.array(4);
    to.bytes(&protected::<Note>(&signature.signer));
    to.map(0);
    to.null();
    to.bytes(&signature.bytes);
    to.bytes(signed.payload());
    to.bytes(&signature.bytes);
    let error = Signed::<Note>::decode(&to.into_bytes()).unwrap_err();
    assert!(matches!(error, ClaimError::Envelope(CodecError { fault: Fault::NotCanonical { .. }, .. })));
}

#[test]
fn every_flip_of_a_bit_and_every_prefix_is_refused() {
    let signed = arrived(&Note { number: 7 }, &[&pair(1), &pair(2)]);
    let good = signed.bytes();
    for at in 0..good.len() {
        for bit in 0..8 {
            let mut bad = good.to_vec();
            bad[at] ^= 1 << bit;
            let refused = Signed::<Note>::decode(&bad).and_then(|signed| signed.authentic().cloned());
            assert!(refused.is_err(), "bit {bit} of byte {at}");
        }
        assert!(Signed::<Note>::decode(&good[..at]).is_err(), "prefix of {at}");
    }
    let mut longer = good.to_vec();
    longer.push(0);
    assert!(Signed::<Note>::decode(&longer).is_err());
}

#[test]
fn a_claim_of_one_kind_is_none_of_another() {
    let signed = arrived(&Note { number: 7 }, &[&pair(1)]);
    let error = Signed::<Other>::decode(signed.bytes()).unwrap_err();
    assert!(matches!(error, ClaimError::WrongContext { .. }), "{error}");
    // Rewriting the kind without the key breaks the signature.
    let forged = Signed::<Other>::assemble(signed.payload(), signed.signatures.clone()).unwrap();
    assert_eq!(forged.authentic().unwrap_err(), ClaimError::BadSignature(pair(1).signer()));
}

#[test]
fn a_signature_with_an_unreduced_scalar_is_refused() {
    // The order of the base point, little-endian (RFC 8032 section 5.1): s and s + L satisfy the same equation.
    const ORDER: [u8; 32] = [
        0xed, 0xd3, 0xf5, 0x5c, 0x1a, 0x63, 0x12, 0x58, 0xd6, 0x9c, 0xf7, 0xa2, 0xde, 0xf9, 0xde, 0x14, 0, 0,
        0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0x10,
    ];
    let signed = arrived(&Note { number: 7 }, &[&pair(1)]);
    let mut signature = signed.signatures[0].clone();
    let mut carry = 0;
    for (byte, add) in signature.bytes[32..].iter_mut().zip(ORDER) {
        let sum = u16::from(*byte) + u16::from(add) + carry;
        *byte = u8::try_from(sum & 0xff).unwrap();
        carry = sum >> 8;
    }
    let forged = Signed::<Note>::assemble(signed.payload(), vec![signature]).unwrap();
    assert!(forged.authentic().is_err());
    let key = pair(1).public();
    let again = Signed::<Note>::decode(forged.bytes()).unwrap();
    verify_batch(&[&again, &signed], |_| Some(&key));
    assert!(!again.is_verified(0), "the batch must hold to the same rule");
    assert!(signed.is_verified(0), "and still find the good one");
}

#[test]
fn a_batch_finds_just_the_bad_ones() {
    let pairs: Vec<_> = (0..8).map(pair).collect();
    let keys: Vec<_> = pairs.iter().map(Pair::public).collect();
    let mut claims: Vec<_> = (0..70_u64)
        .map(|number| arrived(&Note { number }, &[&pairs[usize::try_from(number % 8).unwrap()]]))
        .collect();
    for bad in [3, 44] {
        let signatures = claims[bad + 8].signatures.clone();
        claims[bad] = Signed::assemble(claims[bad].payload(), signatures).unwrap();
    }
    let all: Vec<_> = claims.iter().collect();
    verify_batch(&all, |signer| keys.iter().find(|key| key.signer() == *signer));
    let bad: Vec<_> = (0..claims.len()).filter(|at| !claims[*at].is_verified(0)).collect();
    assert_eq!(bad, [3, 44]);
    assert!(claims[0].authentic().is_ok());
    assert!(claims[3].authentic().is_err());
}

#[test]
fn a_seal_spares_verifying_and_vouches_for_nothing_else() {
    let (ann, ben) = (pair(1), pair(2));
    let key = SealKey::generate().unwrap();
    let signed = Signed::sign(&Note { number: 7 }, &[&ann, &ben]).unwrap();
    assert!(signed.seal(&key).is_some(), "whoever signs knows");
    let signed = Signed::<Note>::decode(signed.bytes()).unwrap();
    assert_eq!(signed.seal(&key), None, "nothing was verified yet");
    signed.verify(0, &PublicKey::from_signer(&signed.signatures[0].signer).unwrap()).unwrap();
    assert_eq!(signed.seal(&key), None, "one of two");
    signed.authentic().unwrap();
    let seal = signed.seal(&key).unwrap();
    let verified = |bytes: &[u8], seal: &[u8; SEAL_BYTES], key: &SealKey| {
        let read = Signed::<Note>::decode_sealed(bytes, seal, key).unwrap();
        (0..2).filter(|index| read.is_verified(*index)).count()
    };
    assert_eq!(verified(signed.bytes(), &seal, &key), 2);
    assert_eq!(verified(signed.bytes(), &seal, &SealKey::from_bytes(key.expose())), 2);
    assert_eq!(verified(signed.bytes(), &seal, &SealKey::generate().unwrap()), 0);
    for bit in 0..8 * SEAL_BYTES {
        let mut other = seal;
        other[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(verified(signed.bytes(), &other, &key), 0, "bit {bit}");
    }
    // A sealed claim with another signature in its place is looked at as any other, and refused.
    let mut forged = signed.signatures.clone();
    forged[1].bytes[0] ^= 1;
    let forged = Signed::<Note>::assemble(signed.payload(), forged).unwrap();
    let read = Signed::<Note>::decode_sealed(forged.bytes(), &seal, &key).unwrap();
    assert!(read.authentic().is_err());
    // The seal of one kind is none of another, even on the same bytes.
    assert_ne!(key.mark(Note::CONTEXT, b"x"), key.mark(Other::CONTEXT, b"x"));
    assert_eq!(format!("{key:?}"), "SealKey(..)");
}

#[test]
fn what_is_signed_must_be_well_formed() {
    let pair = pair(1);
    let payload = [0xa0];
    let bytes = pair.sign(&to_be_signed(&protected::<Note>(&pair.signer()), &payload));
    let signature = Signature { signer: pair.signer(), bytes };
    let signed = Signed::<Note>::assemble(&payload, vec![signature]).unwrap();
    assert!(matches!(signed.authentic(), Err(ClaimError::Payload { .. })));
}
