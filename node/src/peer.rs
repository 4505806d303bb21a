// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the rest of the node names a peer, without knowing libp2p.

use std::fmt;
use std::sync::Arc;

/// A peer in one Network: who carries bytes. Two Networks know one machine under two names.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Peer {
    /// The Network, by its local name.
    pub network: Arc<str>,
    /// Its identity there, as text.
    pub id: Arc<str>,
}

impl Peer {
    /// The peer `id` in `network`.
    pub fn new(network: &str, id: &str) -> Self {
        Self { network: network.into(), id: id.into() }
    }
}

impl fmt::Display for Peer {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(out, "{}/{}", self.network, self.id)
    }
}
