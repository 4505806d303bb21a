// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs that somebody counts on although no Entry names them yet, or none any more.
//!
//! A tool writes Blobs and publishes the Entry that names them a moment later; another one was told that a Blob is
//! here, or got a hit, and will read it a moment later. Such Blobs are protected from removal for a while. The set
//! has two generations of Digests' first eight bytes, so that forgetting costs nothing; when one is full, everything is
//! protected until it is forgotten.
//!
//! Removal and use of one Blob are told apart under one lock. What is being removed counts as absent for whoever
//! looks for it, and whoever writes it anew waits for the moment that the removal takes: the Blob that is then written
//! stays.

use std::collections::{HashMap, HashSet};
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use potluck_protocol::digest::Digest;

use crate::observe::clock;
use crate::plan::Moment;

/// How long a Blob is protected, at least; at most twice as long.
pub const SPAN: Duration = Duration::from_secs(60);
/// Most Blobs in one generation.
pub const MAX_PROTECTED: usize = 1 << 20;

/// Why somebody counts on a Blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Hold {
    /// It was written, or is being published: once an Entry names it, that is protection enough.
    Publish,
    /// It was said to be here.
    Promise,
}

#[derive(Debug, Default)]
struct Generation {
    /// Whether it was promised.
    held: HashMap<u64, bool>,
    full: bool,
}

#[derive(Debug)]
struct State {
    young: Generation,
    old: Generation,
    turned: Moment,
    /// Rounds of collection that are under way: nothing is forgotten meanwhile.
    rounds: u32,
    going: HashSet<u64>,
}

/// The set.
#[derive(Debug)]
pub struct Protected {
    state: Mutex<State>,
    gone: Condvar,
    span: Duration,
    most: usize,
}

/// Which of some Blobs may be removed.
#[derive(Debug, Default, PartialEq, Eq)]
pub struct Verdict {
    /// These may.
    pub free: Vec<Digest>,
    /// These may not.
    pub held: Vec<Digest>,
    /// So much is protected that nobody knows what: none may.
    pub crowded: bool,
}

impl Default for Protected {
    fn default() -> Self {
        Self::new(SPAN, MAX_PROTECTED)
    }
}

fn short(digest: &Digest) -> u64 {
    let bytes = digest.as_bytes()[..8].try_into().expect("a digest has 32 bytes");
    u64::from_le_bytes(bytes)
}

impl Protected {
    /// Nothing is protected; what will be is so for `span`, at most `most` Blobs in that time.
    pub fn new(span: Duration, most: usize) -> Self {
        let state = State {
            young: Generation::default(),
            old: Generation::default(),
            turned: clock::moment(),
            rounds: 0,
            going: HashSet::new(),
        };
        Self { state: Mutex::new(state), gone: Condvar::new(), span, most }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No step between two changes can panic, so what a poisoned lock guards is whole.
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let now = clock::moment();
        if state.rounds == 0 && now.since(state.turned) >= self.span {
            state.turned = now;
            state.old = std::mem::take(&mut state.young);
        }
        state
    }

    fn note(&self, state: &mut State, digest: &Digest, hold: Hold) {
        let (promised, full) = (hold == Hold::Promise, state.young.held.len() >= self.most);
        if let Some(known) = state.young.held.get_mut(&short(digest)) {
            *known |= promised;
        } else if full {
            state.young.full = true;
        } else {
            state.young.held.insert(short(digest), promised);
        }
    }

    /// Protects a Blob that may be here. Gives false when it is being removed at this moment, and hence is not here.
    pub fn enter(&self, digest: &Digest, hold: Hold) -> bool {
        let mut state = self.lock();
        let stays = !state.going.contains(&short(digest));
        if stays {
            self.note(&mut state, digest, hold);
        }
        stays
    }

    /// The same for several; gives whether none of them is being removed.
    pub fn enter_all<'d>(&self, digests: impl IntoIterator<Item = &'d Digest>, hold: Hold) -> bool {
        let mut state = self.lock();
        let mut stay = true;
        for digest in digests {
            if state.going.contains(&short(digest)) {
                stay = false;
            } else {
                self.note(&mut state, digest, hold);
            }
        }
        stay
    }

    /// Protects a Blob that is about to be written, after having waited for its removal if one is under way.
    pub fn write(&self, digest: &Digest) {
        let mut state = self.lock();
        while state.going.contains(&short(digest)) {
            state = self.gone.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        self.note(&mut state, digest, Hold::Publish);
    }

    /// An Entry names these Blobs now. Those that were only held for it are protected by it from here on; not so when
    /// a round is under way, which may have passed that Entry's place already.
    pub fn published(&self, digests: &[Digest]) {
        let mut state = self.lock();
        if state.rounds > 0 {
            return;
        }
        let State { young, old, .. } = &mut *state;
        for short in digests.iter().map(short) {
            for held in [&mut young.held, &mut old.held] {
                if held.get(&short) == Some(&false) {
                    held.remove(&short);
                }
            }
        }
    }

    /// A round begins: from here on nothing is forgotten, until as many have ended as have begun.
    pub fn begin_round(&self) {
        self.lock().rounds += 1;
    }

    /// A round has ended.
    pub fn end_round(&self) {
        let mut state = self.lock();
        state.rounds = state.rounds.saturating_sub(1);
    }

    /// Which of these may be removed. With `take` they count as absent until [`Self::gone`] is told of them.
    pub fn may_go(&self, digests: &[Digest], take: bool) -> Verdict {
        let mut state = self.lock();
        if state.young.full || state.old.full {
            return Verdict { crowded: true, ..Verdict::default() };
        }
        let mut verdict = Verdict::default();
        for digest in digests {
            let short = short(digest);
            if state.young.held.contains_key(&short) || state.old.held.contains_key(&short) {
                verdict.held.push(*digest);
            } else if !take || state.going.insert(short) {
                verdict.free.push(*digest);
            }
        }
        verdict
    }

    /// These have been removed, or could not be.
    pub fn gone(&self, digests: &[Digest]) {
        let mut state = self.lock();
        for digest in digests {
            state.going.remove(&short(digest));
        }
        self.gone.notify_all();
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn digest(number: u8) -> Digest {
        Digest::of(&[number])
    }

    fn free(set: &Protected, number: u8) -> bool {
        let verdict = set.may_go(&[digest(number)], true);
        set.gone(&verdict.free);
        !verdict.free.is_empty()
    }

    #[test]
    fn what_is_counted_on_stays() {
        let set = Protected::default();
        assert!(set.enter(&digest(1), Hold::Promise));
        set.write(&digest(2));
        assert!(!free(&set, 1) && !free(&set, 2) && free(&set, 3));
        set.published(&[digest(1), digest(2)]);
        assert!(!free(&set, 1), "somebody was told that it is here");
        assert!(free(&set, 2), "an entry names it");
        set.write(&digest(4));
        assert!(set.enter(&digest(4), Hold::Promise) && set.enter(&digest(4), Hold::Publish));
        set.published(&[digest(4)]);
        assert!(!free(&set, 4));
    }

    #[test]
    fn it_is_forgotten_but_not_during_a_round() {
        let set = Protected::new(Duration::ZERO, 10);
        set.write(&digest(1));
        // Each look turns the generations.
        assert!(!free(&set, 9) || free(&set, 1));
        let set = Protected::new(Duration::ZERO, 10);
        set.begin_round();
        set.write(&digest(1));
        set.published(&[digest(1)]);
        for _ in 0..5 {
            assert!(!free(&set, 1));
        }
        set.end_round();
        set.end_round();
        assert!((0..3).any(|_| free(&set, 1)));
    }

    #[test]
    fn beyond_its_bound_everything_is_protected() {
        let set = Protected::new(Duration::from_secs(3600), 3);
        (0..3).for_each(|number| set.write(&digest(number)));
        assert!(free(&set, 9));
        set.write(&digest(2));
        assert!(free(&set, 9), "it was known");
        set.write(&digest(3));
        assert_eq!(set.may_go(&[digest(9)], true), Verdict { crowded: true, ..Verdict::default() });
    }

    #[test]
    fn what_is_going_is_absent_and_whoever_writes_it_waits() {
        let set = Arc::new(Protected::default());
        assert_eq!(set.may_go(&[digest(1)], false).free, [digest(1)]);
        assert_eq!(set.may_go(&[digest(1)], true).free, [digest(1)]);
        assert!(!set.enter(&digest(1), Hold::Promise));
        assert!(set.may_go(&[digest(1)], true).free.is_empty(), "it is going already");
        let (to, from) = std::sync::mpsc::channel();
        let writer = {
            let set = Arc::clone(&set);
            std::thread::spawn(move || {
                set.write(&digest(1));
                to.send(()).unwrap();
            })
        };
        assert!(from.try_recv().is_err());
        set.gone(&[digest(1)]);
        from.recv().unwrap();
        writer.join().unwrap();
        assert!(!free(&set, 1));
    }
}
