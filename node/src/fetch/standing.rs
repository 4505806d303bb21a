// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is remembered about each peer as a carrier of bytes, and who is asked first for it.

use std::collections::BTreeMap;

use crate::peer::Peer;

/// Bad pieces after which a peer is not asked any more. A single one may come from a failing disk, and then what else
/// the peer has is as good as before.
pub const MAX_BAD: u32 = 3;

/// Most peers that are remembered.
const MAX_PEERS: usize = 4096;

/// One peer's record.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Record {
    /// Pieces that were not what their Digest names.
    pub bad: u32,
    /// Questions and transfers in a row that came to nothing, through no lie of the peer.
    pub failures: u32,
    /// Transfers that went well.
    pub good: u64,
}

/// All peers' records.
#[derive(Debug, Default)]
pub struct Standing(BTreeMap<Peer, Record>);

impl Standing {
    /// The record of a peer.
    pub fn of(&self, peer: &Peer) -> Record {
        self.0.get(peer).copied().unwrap_or_default()
    }

    /// Something went well.
    pub fn good(&mut self, peer: &Peer) {
        if let Some(record) = self.record(peer) {
            record.good += 1;
            record.failures = 0;
        }
    }

    /// Something came to nothing.
    pub fn failed(&mut self, peer: &Peer) {
        if let Some(record) = self.record(peer) {
            record.failures += 1;
        }
    }

    /// A piece was bad; gives whether that was once too often.
    pub fn bad(&mut self, peer: &Peer) -> bool {
        self.record(peer).is_some_and(|record| {
            record.bad += 1;
            record.bad == MAX_BAD
        })
    }

    /// Whether a peer may be asked at all.
    pub fn is_fit(&self, peer: &Peer) -> bool {
        self.of(peer).bad < MAX_BAD
    }

    /// Sorts those who may be asked, best first, and leaves out the others.
    pub fn rank(&self, peers: impl IntoIterator<Item = Peer>) -> Vec<Peer> {
        let mut peers: Vec<_> = peers.into_iter().filter(|peer| self.is_fit(peer)).collect();
        peers.sort_by_cached_key(|peer| {
            let Record { bad, failures, good } = self.of(peer);
            (bad, failures, std::cmp::Reverse(good), peer.clone())
        });
        peers
    }

    fn record(&mut self, peer: &Peer) -> Option<&mut Record> {
        if !self.0.contains_key(peer) && self.0.len() >= MAX_PEERS {
            // Whoever did nothing wrong loses nothing by being forgotten.
            self.0.retain(|_, record| record.bad > 0);
            if self.0.len() >= MAX_PEERS {
                return None;
            }
        }
        Some(self.0.entry(peer.clone()).or_default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_reliable_come_first_and_liars_not_at_all() {
        let [ann, ben, liar, odd] = ["ann", "ben", "liar", "odd"].map(|id| Peer::new("office", id));
        let mut standing = Standing::default();
        standing.failed(&ann);
        standing.good(&ben);
        assert!(!standing.bad(&odd));
        assert_eq!([standing.bad(&liar), standing.bad(&liar), standing.bad(&liar)], [false, false, true]);
        let all = [liar.clone(), odd.clone(), ann.clone(), ben.clone()];
        assert_eq!(standing.rank(all), [ben, ann.clone(), odd]);
        standing.good(&ann);
        assert_eq!(standing.of(&ann).failures, 0);
        assert!(!standing.is_fit(&liar));
    }
}
