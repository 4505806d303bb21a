// SPDX-License-Identifier: MIT OR Apache-2.0
//! How two members of a private Network show each other that they have its key, right after they have shown who they
//! are and before anything else is said. Whoever has not sees random numbers, and no name or count of anything.
//!
//! Both send a nonce. Then the dialler proves itself, and only to a dialler that did the listener answers with its own
//! proof: a BLAKE3 keyed hash over both nonces and both authenticated peers, so that a proof is of no use on another
//! connection, to another peer, or in the other direction.

use std::fmt;

use crate::names::ADMISSION_CONTEXT;

/// Bytes of a nonce, and of a proof.
pub const LEN: usize = 32;

/// The key by which members prove that they are, made from that of the Network.
#[derive(Clone)]
pub struct AdmissionKey([u8; 32]);

impl fmt::Debug for AdmissionKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("AdmissionKey(…)")
    }
}

/// Who proves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Side {
    /// The one who opened the connection.
    Dialler,
    /// The one who accepted it.
    Listener,
}

/// What both sides know of a connection.
#[derive(Debug, Clone, Copy)]
pub struct Meeting<'a> {
    /// The dialler's authenticated identity, as bytes.
    pub dialler: &'a [u8],
    /// The listener's.
    pub listener: &'a [u8],
    /// The dialler's nonce.
    pub from_dialler: &'a [u8; LEN],
    /// The listener's nonce.
    pub from_listener: &'a [u8; LEN],
}

impl AdmissionKey {
    /// The key of the private Network with this pre-shared key.
    pub fn of(network: &[u8; 32]) -> Self {
        Self(blake3::derive_key(ADMISSION_CONTEXT, network))
    }

    /// The proof that `side` has the key. Compare it as a [`blake3::Hash`], which takes the same time for all.
    pub fn proof(&self, side: Side, meeting: &Meeting<'_>) -> blake3::Hash {
        let mut hasher = blake3::Hasher::new_keyed(&self.0);
        hasher.update(match side {
            Side::Dialler => &[0],
            Side::Listener => &[1],
        });
        hasher.update(meeting.from_dialler).update(meeting.from_listener);
        for peer in [meeting.dialler, meeting.listener] {
            hasher.update(&(peer.len() as u64).to_le_bytes()).update(peer);
        }
        hasher.finalize()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_proof_is_for_one_key_side_and_meeting() {
        let key = AdmissionKey::of(&[1; 32]);
        let (one, other) = ([1; LEN], [2; LEN]);
        let meeting =
            Meeting { dialler: b"ann", listener: b"ben", from_dialler: &one, from_listener: &other };
        let proofs = [
            key.proof(Side::Dialler, &meeting),
            key.proof(Side::Listener, &meeting),
            AdmissionKey::of(&[2; 32]).proof(Side::Dialler, &meeting),
            key.proof(Side::Dialler, &Meeting { from_listener: &one, ..meeting }),
            key.proof(Side::Dialler, &Meeting { from_dialler: &other, ..meeting }),
            key.proof(Side::Dialler, &Meeting { dialler: b"annb", listener: b"en", ..meeting }),
            key.proof(Side::Dialler, &Meeting { dialler: b"ben", listener: b"ann", ..meeting }),
        ];
        for (at, proof) in proofs.iter().enumerate() {
            assert!(proofs[at + 1..].iter().all(|other| other != proof), "{at}");
        }
        assert_eq!(key.proof(Side::Dialler, &meeting), proofs[0]);
    }
}
