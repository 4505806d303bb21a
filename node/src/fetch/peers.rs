// SPDX-License-Identifier: MIT OR Apache-2.0
//! Who says that they hold what, and when somebody else is to be looked for.
//!
//! Anybody may say that they hold anything, as often as they like. What is remembered of that is bounded in total, for
//! each topic and for each peer, and gives way in such an order that whoever says too much harms only themselves.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use potluck_protocol::action::Project;
use potluck_protocol::peer::{MAX_TOPICS, Topic};

use super::event::Need;
use super::standing::Standing;
use crate::peer::Peer;
use crate::plan::{Backoff, Moment};

/// Most holders that are remembered of one topic.
pub const MAX_HOLDERS: usize = 64;
/// Most pairs of a holder and a topic that are remembered.
pub const MAX_PAIRS: usize = 32 * 1024;
/// When there are so many pairs, a peer that has this many gets no more.
const FAIR_SHARE: usize = 32;
/// How long the DHT is not asked again for the holders of a topic, at first.
pub const FIND_AGAIN: Duration = Duration::from_secs(5);
/// The same, after it found nobody new again and again.
pub const FIND_LAST: Duration = Duration::from_secs(60);
/// After so long a search on the DHT has failed, whether or not that was said.
const FIND_WITHIN: Duration = Duration::from_secs(60);
/// Most topics of which it is remembered when the DHT was asked.
const MAX_SOUGHT: usize = 4096;
/// Most Blobs for whose holders the DHT is asked at a time: each may be a walk, and an Entry may name very many.
pub const MAX_BLOB_FINDS: usize = 8;

/// How many pieces a peer may send side by side, each at the rate that was measured of single ones.
const SIDE_BY_SIDE: u64 = 4;

/// The topics that a search or a transfer goes by.
pub(super) type Topics = Arc<BTreeSet<Topic>>;

/// The holders of topics, and peers that are named beside them.
pub(super) type From<'a> = (&'a BTreeSet<Topic>, &'a BTreeSet<Peer>);

/// When the DHT was asked for something.
#[derive(Debug)]
struct Sought {
    /// Not before this.
    again: Moment,
    running: bool,
    backoff: Backoff,
}

impl Sought {
    fn begin(now: Moment) -> Self {
        Self { again: now, running: false, backoff: Backoff::new(FIND_AGAIN, FIND_LAST) }
    }

    fn end(&mut self, now: Moment, news: bool) {
        self.running = false;
        if news {
            self.backoff.reset();
        }
        self.again = now.plus(self.backoff.step());
    }
}

/// Makes room for one more; gives whether there is any.
fn room<K: Ord>(sought: &mut BTreeMap<K, Sought>, now: Moment) -> bool {
    if sought.len() >= MAX_SOUGHT {
        sought.retain(|_, sought| sought.again > now);
    }
    sought.len() < MAX_SOUGHT
}

/// All peers that are known to hold anything.
#[derive(Debug, Default)]
pub struct Peers {
    holders: BTreeMap<Topic, BTreeSet<Peer>>,
    topics: BTreeMap<Peer, BTreeSet<Topic>>,
    pairs: usize,
    sought: BTreeMap<Topic, Sought>,
    /// Topics for which the DHT is to be asked.
    finds: Vec<Topic>,
    sought_blobs: BTreeMap<Need, Sought>,
    /// Blobs for which the DHT is to be asked, and in which Projects they are needed.
    blob_finds: Vec<(Need, BTreeSet<Project>)>,
    pub(super) standing: Standing,
}

impl Peers {
    fn of(&self, topics: &BTreeSet<Topic>) -> impl Iterator<Item = &Peer> {
        topics.iter().filter_map(|topic| self.holders.get(topic)).flatten()
    }

    /// Whether anybody at all holds any of these.
    pub(super) fn any(&self, topics: &BTreeSet<Topic>) -> bool {
        self.of(topics).next().is_some()
    }

    /// Whether anybody holds any of these, or is among those named, who was not tried.
    pub(super) fn any_but(&self, (topics, more): From<'_>, tried: &BTreeSet<Peer>) -> bool {
        self.of(topics).chain(more).any(|peer| !tried.contains(peer))
    }

    /// The best holder of any of these that is not among `but`.
    pub(super) fn best(&self, topics: &BTreeSet<Topic>, but: &BTreeSet<Peer>) -> Option<Peer> {
        let left = self.of(topics).filter(|peer| !but.contains(*peer));
        left.min_by_key(|peer| (self.standing.rank_of(peer), *peer)).cloned()
    }

    /// The least that so many bytes can take if all holders of these send them together; nothing when one of them was
    /// never measured, or nobody holds them.
    pub(super) fn at_best(&self, topics: &BTreeSet<Topic>, bytes: u64) -> Option<Duration> {
        let holders: BTreeSet<_> = self.of(topics).collect();
        let mut rates = 0_u64;
        for peer in holders {
            let rate = self.standing.of(peer).rate;
            if rate == 0 {
                return None;
            }
            rates = rates.saturating_add(rate.saturating_mul(SIDE_BY_SIDE));
        }
        let micros = u128::from(bytes) * 1_000_000 / u128::from(rates.max(1));
        (rates > 0).then(|| Duration::from_micros(u64::try_from(micros).unwrap_or(u64::MAX)))
    }

    /// All holders of any of these, and those named, that are among `some`, the best first.
    pub(super) fn ranked(&self, (topics, more): From<'_>, some: impl Fn(&Peer) -> bool) -> Vec<Peer> {
        let some: BTreeSet<_> = self.of(topics).chain(more).filter(|peer| some(peer)).cloned().collect();
        self.standing.rank(some)
    }

    /// A peer says, or somebody says of it, that it holds a topic; gives whether that is news and is remembered.
    pub(super) fn met(&mut self, topic: &Topic, peer: &Peer) -> bool {
        let known = self.holders.get(topic);
        if !self.standing.is_fit(peer) || known.is_some_and(|known| known.contains(peer)) {
            return false;
        }
        if let Some(known) = known.filter(|known| known.len() >= MAX_HOLDERS) {
            // Those who are known stay, except for one that proved to be of less use than a stranger may be.
            let worst = known.iter().max_by_key(|peer| self.standing.rank_of(peer)).cloned();
            match worst.filter(|worst| self.standing.rank_of(worst) > self.standing.rank_of(peer)) {
                Some(worst) => self.forget(&worst, topic),
                None => return false,
            }
        }
        let claims = self.topics.get(peer).map_or(0, BTreeSet::len);
        if self.pairs >= MAX_PAIRS {
            if claims >= FAIR_SHARE {
                return false;
            }
            self.forget_one_of_the_greediest();
        }
        if claims >= MAX_TOPICS {
            // It cannot say so many at once: this one is newer than some other.
            self.forget_one_of(peer);
        }
        self.pairs += 1;
        self.topics.entry(peer.clone()).or_default().insert(topic.clone());
        self.holders.entry(topic.clone()).or_default().insert(peer.clone())
    }

    fn forget_one_of_the_greediest(&mut self) {
        let greediest = self.topics.iter().max_by_key(|(_, topics)| topics.len());
        if let Some(peer) = greediest.map(|(peer, _)| peer.clone()) {
            self.forget_one_of(&peer);
        }
    }

    fn forget_one_of(&mut self, peer: &Peer) {
        if let Some(topic) = self.topics.get(peer).and_then(BTreeSet::first).cloned() {
            self.forget(peer, &topic);
        }
    }

    fn forget(&mut self, peer: &Peer, topic: &Topic) {
        if let Some(topics) = self.topics.get_mut(peer)
            && topics.remove(topic)
        {
            self.pairs -= 1;
            if topics.is_empty() {
                self.topics.remove(peer);
            }
        }
        if let Some(known) = self.holders.get_mut(topic) {
            known.remove(peer);
            if known.is_empty() {
                self.holders.remove(topic);
            }
        }
    }

    /// A peer went away, and holds nothing any more; gives what it held.
    pub(super) fn gone(&mut self, peer: &Peer) -> BTreeSet<Topic> {
        let topics = self.topics.get(peer).cloned().unwrap_or_default();
        for topic in &topics {
            self.forget(peer, topic);
        }
        topics
    }

    /// Has the DHT asked for holders, of each topic unless that was done not long ago; gives whether news may come.
    pub(super) fn find(&mut self, now: Moment, topics: &BTreeSet<Topic>) -> bool {
        let mut any = false;
        for topic in topics {
            any |= self.find_one(now, topic);
        }
        any
    }

    fn find_one(&mut self, now: Moment, topic: &Topic) -> bool {
        if let Some(sought) = self.sought.get(topic).filter(|sought| sought.again > now) {
            return sought.running;
        }
        if !self.sought.contains_key(topic) && !room(&mut self.sought, now) {
            return false;
        }
        let sought = self.sought.entry(topic.clone()).or_insert_with(|| Sought::begin(now));
        sought.running = true;
        sought.again = now.plus(FIND_WITHIN);
        self.finds.push(topic.clone());
        true
    }

    /// The DHT was asked for a topic; `news` says whether it named anybody who was not known.
    pub(super) fn found(&mut self, now: Moment, topic: &Topic, news: bool) {
        if let Some(sought) = self.sought.get_mut(topic).filter(|sought| sought.running) {
            sought.end(now, news);
        }
    }

    /// Has the DHT asked who has a Blob, unless that was done not long ago or is done for many; gives whether news may
    /// come.
    pub(super) fn find_blob(&mut self, now: Moment, need: &Need, topics: &BTreeSet<Topic>) -> bool {
        if let Some(sought) = self.sought_blobs.get(need).filter(|sought| sought.again > now) {
            return sought.running;
        }
        let running = self.sought_blobs.values().filter(|sought| sought.running && sought.again > now);
        let known = self.sought_blobs.contains_key(need);
        if running.count() >= MAX_BLOB_FINDS || !known && !room(&mut self.sought_blobs, now) {
            return false;
        }
        let sought = self.sought_blobs.entry(*need).or_insert_with(|| Sought::begin(now));
        (sought.running, sought.again) = (true, now.plus(FIND_WITHIN));
        let projects = topics.iter().map(|topic| topic.project.clone()).collect();
        self.blob_finds.push((*need, projects));
        true
    }

    /// The DHT was asked for a Blob; gives whether that was waited for.
    pub(super) fn found_blob(&mut self, now: Moment, need: &Need, news: bool) -> bool {
        let sought = self.sought_blobs.get_mut(need).filter(|sought| sought.running);
        sought.map(|sought| sought.end(now, news)).is_some()
    }

    /// A Blob for which the DHT is to be asked.
    pub(super) fn next_blob_find(&mut self) -> Option<(Need, BTreeSet<Project>)> {
        self.blob_finds.pop()
    }

    /// A topic for which the DHT is to be asked.
    pub(super) fn next_find(&mut self) -> Option<Topic> {
        self.finds.pop()
    }
}

#[cfg(test)]
mod tests {
    use potluck_keys::pair::Signer;
    use potluck_protocol::action::Project;

    use super::*;

    fn topic(number: usize) -> Topic {
        let mut bytes = [0; 32];
        bytes[..8].copy_from_slice(&number.to_be_bytes());
        Topic { signer: Signer::from_bytes(bytes), project: Project::default() }
    }

    fn peer(number: usize) -> Peer {
        Peer::new("office", &format!("{number:06}"))
    }

    fn sound(peers: &Peers) {
        assert_eq!(peers.pairs, peers.holders.values().map(BTreeSet::len).sum::<usize>());
        assert_eq!(peers.pairs, peers.topics.values().map(BTreeSet::len).sum::<usize>());
        assert!(peers.pairs <= MAX_PAIRS && peers.holders.values().all(|known| known.len() <= MAX_HOLDERS));
    }

    #[test]
    fn who_boasts_without_end_crowds_out_nobody_else() {
        let mut peers = Peers::default();
        assert!(peers.met(&topic(0), &peer(0)));
        for number in 0..1000 * 300 {
            peers.met(&topic(1 + number), &peer(1 + number % 1000));
        }
        sound(&peers);
        assert!(peers.any(&[topic(0)].into()));
        assert!(peers.met(&topic(1 << 30), &peer(0)));
        assert!(peers.any(&[topic(1 << 30)].into()));
        sound(&peers);
    }

    #[test]
    fn a_full_topic_takes_strangers_for_those_who_were_of_no_use() {
        let mut peers = Peers::default();
        for number in 0..MAX_HOLDERS {
            assert!(peers.met(&topic(0), &peer(number)));
        }
        let stranger = peer(MAX_HOLDERS);
        assert!(!peers.met(&topic(0), &stranger));
        peers.standing.empty(&peer(0));
        assert!(peers.met(&topic(0), &stranger));
        assert!(!peers.met(&topic(0), &peer(0)), "it is known already as the one that was of no use");
        assert_eq!(peers.gone(&stranger), [topic(0)].into());
        sound(&peers);
    }
}
