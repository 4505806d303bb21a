// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pure: members of a Network that were good once, so that it is found again when those to begin with are gone.

use std::collections::{BTreeMap, BTreeSet};

use potluck_keys::time::Time;

use super::group::Group;
use super::{MAX_PEER_BYTES, bounded};

/// Most members that are remembered of a Network.
pub const MAX_KNOWN: usize = 256;
/// Most of them from one IP group.
pub const MAX_KNOWN_IN_GROUP: usize = 16;

/// What is remembered of a member.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Member {
    /// When it was last connected.
    pub seen: Time,
    /// Where it was connected.
    pub group: Option<Group>,
    /// Where it can be reached; the one that worked is the first.
    pub addresses: Vec<Vec<u8>>,
}

/// All of them, by their identities as bytes.
#[derive(Debug, Default)]
pub struct Known {
    all: BTreeMap<Vec<u8>, Member>,
    changed: BTreeSet<Vec<u8>>,
}

impl Known {
    /// Notes a member that is connected. Those that were not seen for longest make room, and those of its own group
    /// before others.
    pub fn note(&mut self, peer: &[u8], mut member: Member) {
        member.addresses = bounded(member.addresses);
        if peer.is_empty() || peer.len() > MAX_PEER_BYTES || member.addresses.is_empty() {
            return;
        }
        self.forget(peer);
        let group = member.group;
        let fellows = self.all.values().filter(|known| group.is_some() && known.group == group).count();
        if fellows >= MAX_KNOWN_IN_GROUP {
            self.forget_oldest(|known| known.group == group);
        } else if self.all.len() >= MAX_KNOWN {
            self.forget_oldest(|_| true);
        }
        self.all.insert(peer.to_vec(), member);
        self.changed.insert(peer.to_vec());
    }

    fn forget_oldest(&mut self, of: impl Fn(&Member) -> bool) {
        let oldest = self.all.iter().filter(|(_, known)| of(known)).min_by_key(|(_, known)| known.seen);
        if let Some(peer) = oldest.map(|(peer, _)| peer.clone()) {
            self.forget(&peer);
        }
    }

    /// Has nothing more to do with a member.
    pub fn forget(&mut self, peer: &[u8]) {
        if self.all.remove(peer).is_some() {
            self.changed.insert(peer.to_vec());
        }
    }

    /// Whether nobody is remembered.
    pub fn is_empty(&self) -> bool {
        self.all.is_empty()
    }

    /// Who was seen last comes first.
    pub fn latest(&self) -> Vec<(&[u8], &Member)> {
        let mut all: Vec<_> = self.all.iter().map(|(peer, member)| (peer.as_slice(), member)).collect();
        all.sort_by_key(|(_, member)| std::cmp::Reverse(member.seen));
        all
    }

    /// What changed since the last time; nothing for those who are forgotten.
    pub fn changes(&mut self) -> Vec<(Vec<u8>, Option<Member>)> {
        let changed = std::mem::take(&mut self.changed);
        let row = |peer: Vec<u8>| (peer.clone(), self.all.get(&peer).cloned());
        changed.into_iter().map(row).collect()
    }

    /// Puts back what a file holds, within the same bounds.
    pub fn restore(&mut self, members: impl IntoIterator<Item = (Vec<u8>, Member)>) {
        for (peer, member) in members {
            self.note(&peer, member);
        }
        self.changed.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn member(seen: u64, group: Option<u8>) -> Member {
        let group = group.map(|group| Group::V4([group; 3]));
        Member { seen: Time::from_millis(seen), group, addresses: vec![vec![1]] }
    }

    #[test]
    fn the_latest_are_remembered_and_of_one_group_only_some() {
        let mut known = Known::default();
        for number in 0..100_u64 {
            known.note(&number.to_be_bytes(), member(number, Some(7)));
        }
        assert_eq!(known.latest().len(), MAX_KNOWN_IN_GROUP);
        assert_eq!(known.latest()[0].1.seen, Time::from_millis(99));
        for number in 1000..2000_u64 {
            known.note(&number.to_be_bytes(), member(number, None));
        }
        assert_eq!(known.latest().len(), MAX_KNOWN);
        assert_eq!(known.latest()[0].1.seen, Time::from_millis(1999));
    }

    #[test]
    fn what_is_too_long_is_not_remembered_and_what_changed_is_told_once() {
        let mut known = Known::default();
        known.note(&[1; MAX_PEER_BYTES + 1], member(1, None));
        known.note(&[1], Member { addresses: vec![vec![0; 1000]], ..member(1, None) });
        assert!(known.latest().is_empty(), "whoever cannot be reached is no use");
        known.note(&[1], Member { addresses: vec![vec![0]; 100], ..member(1, None) });
        assert_eq!(known.latest()[0].1.addresses.len(), super::super::MAX_ADDRESSES);
        known.note(&[2], member(2, None));
        known.forget(&[2]);
        let changes = known.changes();
        assert_eq!(changes.len(), 2);
        assert_eq!(changes[1], (vec![2], None));
        assert!(known.changes().is_empty());
        let mut again = Known::default();
        again.restore(changes.into_iter().filter_map(|(peer, member)| Some((peer, member?))));
        assert_eq!(again.latest(), known.latest());
        assert!(again.changes().is_empty());
    }
}
