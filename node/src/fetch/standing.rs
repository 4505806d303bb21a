// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is remembered about each peer as a carrier of bytes, and who is asked first for it.

use std::cmp::Reverse;
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
    /// Transfers in a row that came to nothing, through no lie of the peer.
    pub failures: u32,
    /// Questions in a row that were not answered. A peer that answers well need not be one that delivers.
    pub silent: u32,
    /// Questions in a row to which it knew nothing.
    pub empty: u32,
    /// Answers and transfers that were of use.
    pub good: u64,
}

/// What peers are sorted by: the least comes first.
pub(super) type Rank = (u32, u32, u32, Reverse<u64>);

/// All peers' records.
#[derive(Debug, Default)]
pub struct Standing(BTreeMap<Peer, Record>);

impl Standing {
    /// The record of a peer.
    pub fn of(&self, peer: &Peer) -> Record {
        self.0.get(peer).copied().unwrap_or_default()
    }

    /// A transfer went well.
    pub fn good(&mut self, peer: &Peer) {
        let record = self.record(peer);
        record.good += 1;
        record.failures = 0;
    }

    /// A transfer came to nothing.
    pub fn failed(&mut self, peer: &Peer) {
        let record = self.record(peer);
        record.failures = record.failures.saturating_add(1);
    }

    /// A question was answered with something that is of use.
    pub fn knew(&mut self, peer: &Peer) {
        let record = self.record(peer);
        record.good += 1;
        (record.silent, record.empty) = (0, 0);
    }

    /// A question was answered with nothing that is of use, though a Catalog lists it.
    pub fn empty(&mut self, peer: &Peer) {
        let record = self.record(peer);
        record.empty = record.empty.saturating_add(1);
        record.silent = 0;
    }

    /// A question was not answered.
    pub fn silent(&mut self, peer: &Peer) {
        let record = self.record(peer);
        record.silent = record.silent.saturating_add(1);
    }

    /// A piece was bad; gives whether that was once too often.
    pub fn bad(&mut self, peer: &Peer) -> bool {
        let record = self.record(peer);
        record.bad = record.bad.saturating_add(1);
        record.bad == MAX_BAD
    }

    /// Whether a peer may be asked at all.
    pub fn is_fit(&self, peer: &Peer) -> bool {
        self.of(peer).bad < MAX_BAD
    }

    /// What a peer is sorted by.
    pub(super) fn rank_of(&self, peer: &Peer) -> Rank {
        let Record { bad, failures, silent, empty, good } = self.of(peer);
        (bad, failures.saturating_add(silent), empty, Reverse(good))
    }

    /// Sorts those who may be asked, best first, and leaves out the others.
    pub fn rank(&self, peers: impl IntoIterator<Item = Peer>) -> Vec<Peer> {
        let mut peers: Vec<_> = peers.into_iter().filter(|peer| self.is_fit(peer)).collect();
        peers.sort_by_cached_key(|peer| (self.rank_of(peer), peer.clone()));
        peers
    }

    fn record(&mut self, peer: &Peer) -> &mut Record {
        if !self.0.contains_key(peer) && self.0.len() >= MAX_PEERS {
            // Whoever did nothing wrong loses little by being forgotten.
            self.0.retain(|_, record| record.bad > 0);
            while self.0.len() >= MAX_PEERS {
                // An identity costs nothing: a list of liars that is full must not protect the next one.
                self.0.pop_first();
            }
        }
        self.0.entry(peer.clone()).or_default()
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

    #[test]
    fn a_list_full_of_liars_protects_no_further_one() {
        let mut standing = Standing::default();
        for number in 0..2 * MAX_PEERS {
            let liar = Peer::new("office", &number.to_string());
            assert_eq!([0; 3].map(|_| standing.bad(&liar)), [false, false, true]);
            assert!(!standing.is_fit(&liar) && standing.0.len() <= MAX_PEERS);
        }
    }
}
