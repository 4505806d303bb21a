// SPDX-License-Identifier: MIT OR Apache-2.0
//! Names on the wire: Networks, stream protocols, keys of the DHT. They stand here and nowhere else.

use potluck_keys::pair::Signer;

use crate::action::Project;
use crate::codec::{Wire as _, Writer};
use crate::digest::Digest;
use crate::hex::hex_name;

/// BLAKE3 derive-key context of a private Network's id.
pub const PRIVATE_NETWORK_CONTEXT: &str = "potluck 2026-11 private network id v1";
/// BLAKE3 derive-key context of a public Network's id.
pub const PUBLIC_NETWORK_CONTEXT: &str = "potluck 2026-11 public network id v1";
/// BLAKE3 derive-key context of the key by which members of a private Network know each other.
pub const ADMISSION_CONTEXT: &str = "potluck 2026-11 private network admission v1";
/// BLAKE3 derive-key context of the DHT key of Catalog Heads.
pub const CATALOG_KEY_CONTEXT: &str = "potluck 2026-11 dht catalog heads v1";
/// BLAKE3 derive-key context of the DHT key of those who hold a signer's Entries.
pub const HOLDERS_KEY_CONTEXT: &str = "potluck 2026-11 dht entry holders v1";
/// BLAKE3 derive-key context of the DHT key of those who hold a Blob.
pub const BLOB_KEY_CONTEXT: &str = "potluck 2026-11 dht blob holders v1";

hex_name! {
    /// The name of a swarm on the wire, 16 bytes. A private Network's is made from its key, so that it tells strangers
    /// nothing; a public one's from its name, so that everyone finds it.
    NetworkId, 16
}

impl NetworkId {
    /// The id of the private Network with this pre-shared key.
    pub fn private(key: &[u8; 32]) -> Self {
        Self::cut(blake3::derive_key(PRIVATE_NETWORK_CONTEXT, key))
    }

    /// The id of the public Network of this name.
    pub fn public(name: &str) -> Self {
        Self::cut(blake3::derive_key(PUBLIC_NETWORK_CONTEXT, name.as_bytes()))
    }

    fn cut(hash: [u8; 32]) -> Self {
        Self(hash[..16].try_into().expect("half of thirty-two are sixteen"))
    }
}

/// What a stream between two peers is for. Each peer keeps one stream of each purpose to each other peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Purpose {
    /// The DHT; its messages are libp2p's own.
    Kademlia,
    /// [`crate::peer::Hello`].
    Hello,
    /// [`crate::peer::Heads`].
    Heads,
    /// [`crate::peer::Ask`].
    Ask,
    /// [`crate::peer::Blobs`].
    Blob,
}

impl Purpose {
    /// Every purpose.
    pub const ALL: [Self; 5] = [Self::Kademlia, Self::Hello, Self::Heads, Self::Ask, Self::Blob];

    /// The protocol string of libp2p's multistream negotiation, with the version of its messages at the end.
    pub fn protocol(self, network: &NetworkId) -> String {
        let name = match self {
            Self::Kademlia => "kad/1",
            Self::Hello => "hello/1",
            Self::Heads => "heads/1",
            Self::Ask => "ask/1",
            Self::Blob => "blob/1",
        };
        format!("/potluck/{network}/{name}")
    }
}

hex_name! {
    /// A key of the DHT.
    DhtKey, 32
}

impl DhtKey {
    /// Where the Catalog Heads of a signer in a Project stand, a [`crate::head::HeadSet`].
    pub fn catalog(signer: &Signer, project: &Project) -> Self {
        Self::derive(CATALOG_KEY_CONTEXT, signer, project, None)
    }

    /// Where those are listed who hold Entries of a signer in a Project, all or some. When there are many, `group` is one
    /// of equal shares of the space of ActionIds; group 0 lists those who hold Entries of any share.
    pub fn holders(signer: &Signer, project: &Project, group: u32) -> Self {
        Self::derive(HOLDERS_KEY_CONTEXT, signer, project, Some(group))
    }

    /// Where those are listed who hold a Blob.
    pub fn blob(digest: &Digest) -> Self {
        Self(blake3::derive_key(BLOB_KEY_CONTEXT, digest.as_bytes()))
    }

    fn derive(context: &str, signer: &Signer, project: &Project, group: Option<u32>) -> Self {
        let mut material = Writer::new();
        material.array(2 + usize::from(group.is_some()));
        signer.write(&mut material);
        project.write(&mut material);
        if let Some(group) = group {
            group.write(&mut material);
        }
        Self(blake3::derive_key(context, &material.into_bytes()))
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn names_differ_wherever_anything_differs() {
        let (one, other) = (Signer::from_bytes([1; 32]), Signer::from_bytes([2; 32]));
        let (a, b) = (Project::new("a").unwrap(), Project::new("b").unwrap());
        let keys = [
            DhtKey::catalog(&one, &a),
            DhtKey::catalog(&one, &b),
            DhtKey::catalog(&other, &a),
            DhtKey::holders(&one, &a, 0),
            DhtKey::holders(&one, &a, 1),
            DhtKey::holders(&one, &b, 0),
            DhtKey::blob(&Digest::from_bytes([1; 32])),
        ];
        assert_eq!(keys.iter().collect::<BTreeSet<_>>().len(), keys.len());
        let networks =
            [NetworkId::private(&[1; 32]), NetworkId::private(&[2; 32]), NetworkId::public("office")];
        let strings = networks.iter().flat_map(|id| Purpose::ALL.map(|purpose| purpose.protocol(id)));
        assert_eq!(strings.collect::<BTreeSet<_>>().len(), networks.len() * Purpose::ALL.len());
    }

    #[test]
    fn protocol_strings_name_network_and_version() {
        let id = NetworkId::public("public");
        assert_eq!(Purpose::Ask.protocol(&id), format!("/potluck/{id}/ask/1"));
        assert_eq!(id.to_string().parse(), Ok(id));
    }
}
