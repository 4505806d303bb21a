// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a node keeps for the DHT of a Network, and what it remembers of that Network.
//!
//! * [`shelf`] holds what others and this node put there, within bounds, in memory.
//! * [`known`] remembers members that were good, for when those to begin with are gone.
//! * [`pace`] says how long to wait for an answer, by how long others took.
//! * [`group`] says which addresses are likely one person's.
//! * [`file`](mod@file) keeps all of it across restarts. It is a cache: whatever is wrong with it costs time and nothing else.
//!
//! No libp2p here: peers and their addresses are bytes.

pub mod file;
pub mod group;
pub mod known;
pub mod pace;
pub mod shelf;

use std::collections::BTreeMap;
use std::sync::Arc;

use potluck_keys::time::Time;

/// How much is kept for the DHT.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Records, own and others'.
    pub records: usize,
    /// What those of others count for, in bytes.
    pub bytes: usize,
}

/// What an earlier run left.
#[derive(Debug)]
pub struct Remembered {
    /// Where more is written.
    pub file: Arc<file::File>,
    /// What was said, by the names that were given to it, and when it is to be said again.
    pub said: BTreeMap<Vec<u8>, Time>,
}

/// Longest identity of a peer in bytes; libp2p's own is 38.
pub const MAX_PEER_BYTES: usize = 64;
/// Most addresses that are kept of one peer.
pub const MAX_ADDRESSES: usize = 8;
/// The longest address that is kept, in bytes: a relayed one with two identities has some 110.
pub const MAX_ADDRESS_BYTES: usize = 160;

/// Those of the addresses that are kept.
pub fn bounded(addresses: impl IntoIterator<Item = Vec<u8>>) -> Vec<Vec<u8>> {
    let short = addresses.into_iter().filter(|address| address.len() <= MAX_ADDRESS_BYTES);
    short.take(MAX_ADDRESSES).collect()
}
