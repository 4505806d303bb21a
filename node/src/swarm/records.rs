// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pure: whether something that a peer puts on the DHT is kept, and what it makes of what stands there already.

use std::collections::BTreeMap;
use std::time::Instant;

use potluck_keys::time::Time;
use potluck_protocol::head::HeadSet;
use potluck_protocol::names::DhtKey;

/// The value to keep under `key` after somebody put `put` where `standing` stands; nothing when that changes nothing
/// or is not to be kept. Never overwrites blindly: for each instance the higher sequence wins.
pub(super) fn merge(key: &DhtKey, standing: Option<&[u8]>, put: &[u8], now: Time) -> Option<Vec<u8>> {
    let mut put = HeadSet::receive(put, key).ok()?;
    put.expire(now);
    let (signer, project) = (*put.signer(), put.project().clone());
    let before = standing.and_then(|bytes| HeadSet::decode(bytes, signer, project.clone()).ok());
    let mut set = before.unwrap_or_else(|| HeadSet::new(signer, project));
    set.expire(now);
    for head in put.heads() {
        set.add(head.clone()).ok()?;
    }
    let bytes = set.encode();
    (set.heads().len() > 0 && Some(bytes.as_slice()) != standing).then_some(bytes)
}

/// What others have put here, by whom, and until when. A quota a source keeps one peer from crowding out the others; it
/// gets its room back when what it put expires.
#[derive(Debug)]
pub(super) struct Guests<P> {
    until: BTreeMap<Guest<P>, Instant>,
    counts: BTreeMap<P, usize>,
    most: usize,
    quota: usize,
}

/// One of them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Guest<P> {
    /// A value under a key, which the peer was the first to put there.
    Value(DhtKey, P),
    /// That the peer provides a key.
    Provider(DhtKey, P),
}

impl<P: Ord + Copy> Guest<P> {
    fn peer(&self) -> P {
        let (Self::Value(_, peer) | Self::Provider(_, peer)) = self;
        *peer
    }
}

impl<P: Ord + Copy> Guests<P> {
    /// None yet; at most so many, and so many of one peer.
    pub(super) fn new(most: usize, quota: usize) -> Self {
        Self { until: BTreeMap::new(), counts: BTreeMap::new(), most, quota }
    }

    /// Whether there is room for one, or it is here already.
    pub(super) fn fits(&self, guest: &Guest<P>) -> bool {
        let count = self.counts.get(&guest.peer()).copied().unwrap_or(0);
        self.until.contains_key(guest) || (self.until.len() < self.most && count < self.quota)
    }

    /// Takes one, or keeps it for longer.
    pub(super) fn take(&mut self, guest: Guest<P>, until: Instant) {
        let peer = guest.peer();
        if self.until.insert(guest, until).is_none() {
            *self.counts.entry(peer).or_default() += 1;
        }
    }

    /// Removes those whose time has come.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Guest<P>> {
        let over: Vec<_> =
            self.until.extract_if(.., |_, until| *until <= now).map(|(guest, _)| guest).collect();
        for guest in &over {
            if let Some(count) = self.counts.get_mut(&guest.peer()) {
                *count -= 1;
                if *count == 0 {
                    self.counts.remove(&guest.peer());
                }
            }
        }
        over
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use potluck_keys::pair::Pair;
    use potluck_keys::signed::Signed;
    use potluck_protocol::action::Project;
    use potluck_protocol::codec::Text;
    use potluck_protocol::digest::Digest;
    use potluck_protocol::head::{CATALOG, Head, Instance};

    use super::*;

    fn set(pair: &Pair, instance: u8, sequence: u64) -> HeadSet {
        let issued = Time::from_millis(1_000_000);
        let head = Head {
            project: Project::default(),
            name: Text::new(CATALOG).unwrap(),
            recipe: None,
            instance: Instance::from_bytes([instance; 16]),
            sequence,
            root: Digest::of(&[instance]),
            size: 1,
            issued,
            not_after: issued.plus(Duration::from_secs(60)),
        };
        let mut set = HeadSet::new(pair.signer(), Project::default());
        set.add(Signed::sign(&head, &[pair]).unwrap()).unwrap();
        set
    }

    #[test]
    fn what_is_put_is_merged_and_never_goes_back() {
        let ann = Pair::from_seed(&[1; 32], "");
        let key = DhtKey::catalog(&ann.signer(), &Project::default());
        let now = Time::from_millis(1_001_000);
        let one = merge(&key, None, &set(&ann, 1, 5).encode(), now).unwrap();
        assert_eq!(merge(&key, Some(&one), &set(&ann, 1, 4).encode(), now), None);
        assert_eq!(merge(&key, Some(&one), &set(&ann, 1, 5).encode(), now), None);
        let two = merge(&key, Some(&one), &set(&ann, 2, 1).encode(), now).unwrap();
        assert_eq!(HeadSet::receive(&two, &key).unwrap().heads().len(), 2);
        let late = now.plus(Duration::from_secs(3600));
        assert_eq!(merge(&key, None, &two, late), None);
    }

    #[test]
    fn what_belongs_to_another_or_is_nonsense_is_not_kept() {
        let (ann, ben) = (Pair::from_seed(&[1; 32], ""), Pair::from_seed(&[2; 32], ""));
        let key = DhtKey::catalog(&ann.signer(), &Project::default());
        let now = Time::from_millis(1_001_000);
        assert_eq!(merge(&key, None, &set(&ben, 1, 1).encode(), now), None);
        assert_eq!(merge(&key, None, b"nonsense", now), None);
        let good = merge(&key, Some(b"nonsense"), &set(&ann, 1, 1).encode(), now);
        assert!(good.is_some(), "damage is replaced");
    }

    #[test]
    fn ten_thousand_keys_of_one_peer_take_no_more_than_its_share() {
        let until = tokio::time::Instant::now().into_std();
        let most = crate::swarm::limits::MAX_DHT_KEYS_PER_PEER;
        let mut guests = Guests::new(2 * most, most);
        let key = |number: u32| DhtKey::from_bytes(*Digest::of(&number.to_le_bytes()).as_bytes());
        for number in 0..10_000 {
            let guest = Guest::Provider(key(number), 'a');
            if guests.fits(&guest) {
                guests.take(guest, until);
            }
        }
        assert_eq!(guests.until.len(), most);
        assert!(guests.fits(&Guest::Provider(key(1), 'b')));
        assert_eq!(guests.expire(until).len(), most);
        assert!(guests.fits(&Guest::Provider(key(1), 'a')) && guests.counts.is_empty());
    }

    #[test]
    fn a_quota_is_a_quota_and_shrinks_again() {
        let now = tokio::time::Instant::now().into_std();
        let soon = now + Duration::from_secs(60);
        let value = |number, peer| Guest::Value(DhtKey::from_bytes([number; 32]), peer);
        let mut guests = Guests::new(3, 2);
        for number in [1, 2] {
            assert!(guests.fits(&value(number, 'a')));
            guests.take(value(number, 'a'), soon);
        }
        assert!(guests.fits(&value(1, 'a')), "it is here already");
        assert!(!guests.fits(&value(3, 'a')), "a has its share");
        assert!(guests.fits(&value(1, 'b')));
        guests.take(Guest::Provider(DhtKey::from_bytes([1; 32]), 'b'), now);
        assert!(!guests.fits(&value(1, 'c')), "there is no room at all");
        guests.take(value(1, 'a'), now);
        assert_eq!(guests.expire(now).len(), 2);
        assert!(guests.fits(&value(3, 'a')) && guests.fits(&value(1, 'c')));
    }
}
