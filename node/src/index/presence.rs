// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which actions may have Entries: a set in memory, so that a miss never touches the disk.
//!
//! It holds the first eight bytes of each ActionId, in sets of the standard library that do not hash again what is a
//! hash already: 9 bytes a slot, hence 10 to 21 bytes a key, about 19 MB for a million. A sorted list would take 8, and
//! move half of itself for each insertion; a filter would take 2, and could not grow. That two of a million ActionIds
//! share eight bytes has odds of one in ten million, and costs one look into the index.
//!
//! The set is divided, so that nobody waits for long while a part of it grows.

use std::collections::HashSet;
use std::hash::{BuildHasherDefault, Hasher};
use std::sync::RwLock;
use std::sync::atomic::{AtomicBool, Ordering};

use potluck_protocol::action::ActionId;

/// Most keys that are kept in memory: some 150 MB. With more, each look-up asks the index.
pub(super) const MAX_KEYS: usize = 8 << 20;

const PARTS: usize = 64;

/// Takes the bytes for their own hash.
#[derive(Default)]
struct Plain(u64);

impl Hasher for Plain {
    fn finish(&self) -> u64 {
        self.0
    }

    fn write(&mut self, bytes: &[u8]) {
        for byte in bytes {
            self.0 = self.0.rotate_left(8) ^ u64::from(*byte);
        }
    }

    fn write_u64(&mut self, value: u64) {
        self.0 = value;
    }
}

type Part = RwLock<HashSet<u64, BuildHasherDefault<Plain>>>;

/// The set.
pub(super) struct Presence {
    parts: Vec<Part>,
    most_in_part: usize,
    /// Whether every key that the index had when it was opened is in.
    complete: AtomicBool,
    /// Whether there were more keys than there is room for.
    given_up: AtomicBool,
}

impl Presence {
    /// A set of at most about `most` keys that knows nothing yet.
    pub(super) fn new(most: usize) -> Self {
        Self {
            parts: (0..PARTS).map(|_| Part::default()).collect(),
            most_in_part: most / PARTS,
            complete: AtomicBool::new(false),
            given_up: AtomicBool::new(false),
        }
    }

    /// Whether there may be Entries about an action. "No" is certain.
    pub(super) fn maybe(&self, action: &ActionId) -> bool {
        if !self.complete.load(Ordering::Acquire) || self.given_up.load(Ordering::Acquire) {
            return true;
        }
        let (part, key) = self.place(action);
        part.read().expect("nobody panics while holding a part").contains(&key)
    }

    /// Notes that there are Entries about an action, or will be in a moment: before they are committed, so that nobody
    /// finds them missing afterwards.
    pub(super) fn insert(&self, action: &ActionId) {
        if self.given_up.load(Ordering::Acquire) {
            return;
        }
        let (part, key) = self.place(action);
        let mut part = part.write().expect("nobody panics while holding a part");
        part.insert(key);
        if part.len() > self.most_in_part {
            drop(part);
            self.give_up();
        }
    }

    /// Every key of the index is in.
    pub(super) fn complete(&self) {
        self.complete.store(true, Ordering::Release);
    }

    /// Whether there is nothing more to be learnt.
    pub(super) fn is_settled(&self) -> bool {
        self.complete.load(Ordering::Acquire) || self.given_up.load(Ordering::Acquire)
    }

    fn give_up(&self) {
        self.given_up.store(true, Ordering::Release);
        for part in &self.parts {
            *part.write().expect("nobody panics while holding a part") = HashSet::default();
        }
    }

    fn place(&self, action: &ActionId) -> (&Part, u64) {
        let (first, rest) = action.as_bytes().split_first_chunk().expect("an action has 32 bytes");
        (&self.parts[usize::from(rest[0]) % PARTS], u64::from_be_bytes(*first))
    }
}

#[cfg(test)]
mod tests {
    use potluck_protocol::digest::Digest;

    use super::*;

    fn action(number: u32) -> ActionId {
        ActionId::from_bytes(*Digest::of(&number.to_be_bytes()).as_bytes())
    }

    #[test]
    fn everything_may_be_there_until_all_is_known() {
        let presence = Presence::new(MAX_KEYS);
        presence.insert(&action(1));
        assert!(presence.maybe(&action(1)) && presence.maybe(&action(2)));
        presence.complete();
        assert!(presence.maybe(&action(1)) && !presence.maybe(&action(2)));
        presence.insert(&action(2));
        assert!(presence.maybe(&action(2)));
    }

    #[test]
    fn more_keys_than_there_is_room_for_make_it_ask_the_index() {
        let presence = Presence::new(64 * 4);
        presence.complete();
        for number in 0..64 * 4 + 1 {
            presence.insert(&action(number));
        }
        assert!(presence.is_settled() && presence.maybe(&action(1_000_000)));
        assert!((0..64 * 4 + 1).all(|number| presence.maybe(&action(number))));
        assert!(
            presence.parts.iter().all(|part| part.read().unwrap().is_empty()),
            "and gives its memory back"
        );
        presence.insert(&action(7));
        assert!(presence.parts.iter().all(|part| part.read().unwrap().is_empty()));
    }
}
