// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is remembered about each peer as a carrier of bytes, and who is asked first for it. It is kept for the next run,
//! and what is old of it counts less.

use std::cmp::Reverse;
use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use potluck_protocol::digest::Digest;

use crate::peer::Peer;

/// After so long without news, failures and merits count half.
pub const HALF_LIFE: Duration = Duration::from_secs(24 * 60 * 60);
/// Waits of one peer that are remembered before the older ones count half.
const MAX_WAITS: u32 = 128;
/// How few of them say nothing yet.
const FEW_WAITS: u32 = 8;
/// How many sizes of waits are told apart: up to a millisecond, and each up to twice as long as the one before.
pub const WAIT_SIZES: usize = 16;
/// What a peer that was never measured is taken to send, in bytes a second, when it is compared with others.
const UNKNOWN_RATE: u64 = 4 << 20;

/// How long one waited for something, counted by size; what is old counts less.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Waits(pub [u16; WAIT_SIZES]);

impl Waits {
    /// As they were counted; none when they are more than are ever counted.
    pub fn of(counts: [u16; WAIT_SIZES]) -> Self {
        Some(Self(counts)).filter(|waits| waits.total() < MAX_WAITS).unwrap_or_default()
    }

    fn total(&self) -> u32 {
        self.0.iter().map(|count| u32::from(*count)).sum()
    }

    /// One more.
    pub fn note(&mut self, waited: Duration) {
        let ms = u64::try_from(waited.as_millis()).unwrap_or(u64::MAX);
        let size = usize::try_from(u64::BITS - ms.leading_zeros()).unwrap_or(WAIT_SIZES);
        self.0[size.min(WAIT_SIZES - 1)] += 1;
        if self.total() >= MAX_WAITS {
            self.0.iter_mut().for_each(|count| *count /= 2);
        }
    }

    /// What nine of ten waits do not exceed, rounded up to a power of two in milliseconds; nothing when there were few.
    pub fn p90(&self) -> Option<Duration> {
        let total = self.total();
        if total < FEW_WAITS {
            return None;
        }
        let mut sum = 0;
        let reached = self.0.iter().position(|count| {
            sum += u32::from(*count);
            sum * 10 >= total * 9
        });
        reached.map(|size| Duration::from_millis(1 << size))
    }
}

/// Bad pieces after which a peer is not asked any more. A single one may come from a failing disk, and then what else
/// the peer has is as good as before.
pub const MAX_BAD: u32 = 3;

/// Most peers that are remembered.
pub const MAX_PEERS: usize = 4096;

/// Most Blobs of which it is remembered who sent something else in their place; the oldest is forgotten.
pub const MAX_LIES: usize = 1024;

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
    /// How much it sends of what it was asked for, in bytes a second once unpacked; 0 when that was never measured.
    pub rate: u64,
    /// How long its first word takes, in microseconds; 0 when that was never measured.
    pub rtt_us: u64,
    /// How long one waits for its next piece, or for a small Blob.
    pub waits: Waits,
}

impl Record {
    /// The record as it counts so long after it was last changed: what a peer did long ago is forgiven and forgotten,
    /// all but its lies, which take longer.
    #[must_use]
    pub fn after(mut self, span: Duration) -> Self {
        let halves = u32::try_from(span.as_secs() / HALF_LIFE.as_secs()).unwrap_or(u32::MAX);
        let fade = |count: u32| count.checked_shr(halves).unwrap_or(0);
        (self.failures, self.silent, self.empty) = (fade(self.failures), fade(self.silent), fade(self.empty));
        self.bad = self.bad.checked_shr(halves / 7).unwrap_or(0);
        self.good = self.good.checked_shr(halves).unwrap_or(0);
        self.waits.0.iter_mut().for_each(|count| *count = count.checked_shr(halves).unwrap_or(0));
        self
    }
}

/// What peers are sorted by: the least comes first.
pub(super) type Rank = (u32, u32, u32, Reverse<u32>, Reverse<u64>);

/// All peers' records.
#[derive(Debug, Default)]
pub struct Standing {
    records: BTreeMap<Peer, Record>,
    /// How long one waits for anybody.
    waits: Waits,
    /// Who sent something else in the place of a Blob: he is not asked for that one again, however often it is looked
    /// for. A single bad Blob would else count as three.
    lies: VecDeque<(Digest, Peer)>,
    /// Whether anything changed since it was last taken for the next run.
    changed: bool,
}

impl Standing {
    /// The record of a peer.
    pub fn of(&self, peer: &Peer) -> Record {
        self.records.get(peer).copied().unwrap_or_default()
    }

    /// Takes over what an earlier run remembered.
    pub fn recall(&mut self, records: impl IntoIterator<Item = (Peer, Record)>) {
        for (peer, record) in records.into_iter().take(MAX_PEERS) {
            self.records.entry(peer).or_insert(record);
        }
    }

    /// All records for the next run, if anything changed since the last time.
    pub fn changed(&mut self) -> Option<Vec<(Peer, Record)>> {
        let changed = std::mem::take(&mut self.changed);
        changed.then(|| self.records.iter().map(|(peer, record)| (peer.clone(), *record)).collect())
    }

    /// So many bytes came within so long.
    pub fn moved(&mut self, peer: &Peer, bytes: u64, within: Duration) {
        self.waited(peer, within);
        let micros = u64::try_from(within.as_micros()).unwrap_or(u64::MAX).max(1);
        let rate = bytes.saturating_mul(1_000_000) / micros;
        let record = self.record(peer);
        record.rate = if record.rate == 0 { rate } else { record.rate / 4 * 3 + rate / 4 }.max(1);
    }

    /// Something came after so long.
    pub fn waited(&mut self, peer: &Peer, within: Duration) {
        self.waits.note(within);
        self.record(peer).waits.note(within);
    }

    /// Its first word to a question took so long.
    pub fn heard(&mut self, peer: &Peer, within: Duration) {
        let now = u64::try_from(within.as_micros()).unwrap_or(u64::MAX).max(1);
        let record = self.record(peer);
        record.rtt_us = if record.rtt_us == 0 { now } else { record.rtt_us / 4 * 3 + now / 4 }.max(1);
    }

    /// What nine of ten waits for this peer, or else for any, did not exceed.
    pub fn p90(&self, peer: &Peer) -> Option<Duration> {
        self.of(peer).waits.p90().or_else(|| self.waits.p90())
    }

    /// How long so many bytes take from a peer, as far as is known.
    pub fn takes(&self, peer: &Peer, bytes: u64) -> Duration {
        let rate = self.of(peer).rate;
        let rate = if rate == 0 { UNKNOWN_RATE } else { rate };
        Duration::from_micros(bytes.saturating_mul(1_000_000) / rate)
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

    /// A piece of a Blob was bad; gives whether that was once too often.
    pub fn bad(&mut self, peer: &Peer, blob: &Digest) -> bool {
        if !self.liars(blob).any(|liar| liar == peer) {
            self.lies.truncate(MAX_LIES - 1);
            self.lies.push_front((*blob, peer.clone()));
        }
        let record = self.record(peer);
        record.bad = record.bad.saturating_add(1);
        record.bad == MAX_BAD
    }

    /// Who sent something else in the place of a Blob.
    pub fn liars(&self, blob: &Digest) -> impl Iterator<Item = &Peer> {
        self.lies.iter().filter(move |(of, _)| of == blob).map(|(_, liar)| liar)
    }

    /// Whether a peer may be asked at all.
    pub fn is_fit(&self, peer: &Peer) -> bool {
        self.of(peer).bad < MAX_BAD
    }

    /// What a peer is sorted by.
    pub(super) fn rank_of(&self, peer: &Peer) -> Rank {
        let Record { bad, failures, silent, empty, good, rate, .. } = self.of(peer);
        // Twice as fast is worth a thought, a little faster is not.
        let class = (if rate == 0 { UNKNOWN_RATE } else { rate }).ilog2() / 2;
        (bad, failures.saturating_add(silent), empty, Reverse(class), Reverse(good))
    }

    /// Sorts those who may be asked, best first, and leaves out the others.
    pub fn rank(&self, peers: impl IntoIterator<Item = Peer>) -> Vec<Peer> {
        let mut peers: Vec<_> = peers.into_iter().filter(|peer| self.is_fit(peer)).collect();
        peers.sort_by_cached_key(|peer| (self.rank_of(peer), peer.clone()));
        peers
    }

    fn record(&mut self, peer: &Peer) -> &mut Record {
        self.changed = true;
        if !self.records.contains_key(peer) && self.records.len() >= MAX_PEERS {
            // Whoever did nothing wrong loses little by being forgotten.
            self.records.retain(|_, record| record.bad > 0);
            while self.records.len() >= MAX_PEERS {
                // An identity costs nothing: a list of liars that is full must not protect the next one.
                self.records.pop_first();
            }
        }
        self.records.entry(peer.clone()).or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn name(number: usize) -> Digest {
        Digest::of(&number.to_le_bytes())
    }

    #[test]
    fn the_reliable_come_first_and_liars_not_at_all() {
        let [ann, ben, liar, odd] = ["ann", "ben", "liar", "odd"].map(|id| Peer::new("office", id));
        let (mut standing, blob) = (Standing::default(), name(7));
        standing.failed(&ann);
        standing.good(&ben);
        assert!(!standing.bad(&odd, &blob));
        assert_eq!([(); 3].map(|()| standing.bad(&liar, &blob)), [false, false, true]);
        let all = [liar.clone(), odd.clone(), ann.clone(), ben.clone()];
        assert_eq!(standing.rank(all), [ben, ann.clone(), odd.clone()]);
        standing.good(&ann);
        assert_eq!(standing.of(&ann).failures, 0);
        assert!(!standing.is_fit(&liar));
        assert!(standing.liars(&blob).eq([&liar, &odd]) && standing.liars(&name(8)).next().is_none());
    }

    #[test]
    fn a_list_full_of_liars_protects_no_further_one() {
        let mut standing = Standing::default();
        for number in 0..2 * MAX_PEERS {
            let liar = Peer::new("office", &number.to_string());
            assert_eq!([0; 3].map(|_| standing.bad(&liar, &name(number))), [false, false, true]);
            assert!(standing.liars(&name(number)).eq([&liar]) && standing.lies.len() <= MAX_LIES);
            assert!(!standing.is_fit(&liar) && standing.records.len() <= MAX_PEERS);
        }
    }

    #[test]
    fn waits_are_told_by_nine_of_ten() {
        let mut waits = Waits::default();
        (0..7).for_each(|_| waits.note(Duration::from_millis(3)));
        assert_eq!(waits.p90(), None, "they are few");
        (0..20).for_each(|_| waits.note(Duration::from_millis(3)));
        waits.note(Duration::from_secs(1 << 40));
        assert_eq!(waits.p90(), Some(Duration::from_millis(4)));
        (0..1000).for_each(|_| waits.note(Duration::from_millis(100)));
        assert_eq!(waits.p90(), Some(Duration::from_millis(128)), "what is old counts less");
        assert!(waits.total() <= MAX_WAITS);
    }

    #[test]
    fn what_is_old_counts_less_and_the_fast_come_first() {
        let [slow, fast] = ["a-slow", "fast"].map(|id| Peer::new("office", id));
        let mut standing = Standing::default();
        standing.moved(&slow, 1 << 20, Duration::from_secs(1));
        standing.moved(&fast, 1 << 20, Duration::from_millis(5));
        assert_eq!(standing.rank([slow.clone(), fast.clone()]), [fast.clone(), slow.clone()]);
        standing.bad(&fast, &name(1));
        standing.failed(&fast);
        let saved = standing.changed().unwrap();
        assert!(standing.changed().is_none());
        let mut next = Standing::default();
        next.recall(saved.into_iter().map(|(peer, record)| (peer, record.after(8 * HALF_LIFE))));
        let Record { bad, failures, rate, .. } = next.of(&fast);
        assert_eq!((bad, failures), (0, 0));
        assert!(rate > next.of(&slow).rate, "how fast it was is the best guess there is");
        let many = (0..2 * MAX_PEERS).map(|number| (Peer::new("x", &number.to_string()), Record::default()));
        next.recall(many);
        assert!(next.records.len() <= 2 * MAX_PEERS && next.records.len() > MAX_PEERS / 2);
    }
}
