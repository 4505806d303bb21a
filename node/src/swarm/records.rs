// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pure: whether something that a peer puts on the DHT is kept, and what it makes of what stands there already.

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
}
