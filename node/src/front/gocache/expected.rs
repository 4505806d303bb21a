// SPDX-License-Identifier: MIT OR Apache-2.0
//! What go is likely to ask for: what it asked for the last time in the same folder, in that order. Somebody asks the
//! door for it before go does, many at once, and has the files checked; go is then answered by the thread that hears it.
//! A warm build of the standard library has 1,129 gets, and the helper alone changed threads four times for each.
//!
//! Nothing is believed for longer than an answer may be on its way anyway: what the door said counts for a moment, and
//! then the door is asked as if nobody had. Nobody runs further ahead than go has followed before.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use super::folder::Shown;
use crate::plan::Moment;

/// Bytes of an ActionID as go makes them; no other is remembered.
const ACTION_BYTES: usize = 32;
/// How a list begins.
const FORM: &[u8] = b"potluck gocache list 1\n";
/// Most actions of a list.
const MAX_LISTED: usize = 1 << 14;
/// Longest list in bytes.
pub const MAX_LIST_BYTES: usize = FORM.len() + MAX_LISTED * ACTION_BYTES;
/// How many are asked for at once.
const TOGETHER: usize = 128;
/// How far ahead of go it is asked at first; then further by as many as go did ask for.
const FIRST: usize = 256;
/// The furthest.
const FURTHEST: usize = 2048;
/// How long what the door said counts. A single answer may take as long to reach go.
const FRESH: Duration = Duration::from_secs(1);
/// Which part of what go was given may be missing in a list that is kept.
const STALE: usize = 8;

/// See the file.
#[derive(Debug, Default)]
pub struct Expected {
    list: Vec<Vec<u8>>,
    /// The same, and whether go has asked for it.
    listed: HashMap<Vec<u8>, bool>,
    /// How far in the list the door was asked.
    asked: usize,
    /// How many of the list go has asked for.
    followed: usize,
    /// How often go asked for what was ready.
    right: usize,
    /// What may be shown, and when the door was asked for it.
    ready: HashMap<Vec<u8>, (Moment, Shown)>,
    /// What this go was given or has put, in its order.
    given: Vec<Vec<u8>>,
    known: HashSet<Vec<u8>>,
}

impl Expected {
    /// What a list says; nothing is expected by one that makes no sense.
    pub fn new(list: &[u8]) -> Self {
        let rows = list.strip_prefix(FORM).unwrap_or_default().chunks_exact(ACTION_BYTES).take(MAX_LISTED);
        let list: Vec<_> = rows.map(<[u8]>::to_vec).collect();
        let listed = list.iter().map(|action| (action.clone(), false)).collect();
        Self { list, listed, ..Self::default() }
    }

    /// Whether the door is to be asked for more; not as long as go has not come further.
    pub fn wants(&self) -> bool {
        let all = self.list.len();
        self.asked < all && self.end().min(all) >= all.min(self.asked + TOGETHER)
    }

    /// How far in the list the door may be asked.
    fn end(&self) -> usize {
        self.followed + FURTHEST.min(FIRST + self.right)
    }

    /// What the door is to be asked for now, if anything.
    pub fn further(&mut self) -> Option<Vec<Vec<u8>>> {
        while self.wants() {
            let end = self.list.len().min(self.asked + TOGETHER);
            let begin = std::mem::replace(&mut self.asked, end);
            // go may have been faster.
            let left = self.list[begin..end].iter().filter(|action| self.listed.get(*action) == Some(&false));
            let left: Vec<_> = left.cloned().collect();
            if !left.is_empty() {
                return Some(left);
            }
        }
        None
    }

    /// The file of an action may be shown, by what the door said when it was asked at this moment.
    pub fn ready(&mut self, action: Vec<u8>, at: Moment, shown: Shown) {
        self.ready.insert(action, (at, shown));
    }

    /// go asks for an action: its file if it is ready and still counts.
    pub fn take(&mut self, action: &[u8], now: Moment) -> Option<Shown> {
        if let Some(came) = self.listed.get_mut(action).filter(|came| !**came) {
            *came = true;
            self.followed += 1;
        }
        let (at, shown) = self.ready.remove(action)?;
        if now.since(at) > FRESH {
            return None;
        }
        self.right += 1;
        // go may ask again; the moment stays what it was.
        self.ready.insert(action.to_vec(), (at, shown.clone()));
        Some(shown)
    }

    /// go has put something else for an action, or was given what was fetched.
    pub fn given(&mut self, action: &[u8]) {
        self.ready.remove(action);
        self.note(action);
    }

    /// go was given something for an action.
    pub fn note(&mut self, action: &[u8]) {
        let fits = action.len() == ACTION_BYTES && self.given.len() < MAX_LISTED;
        if fits && self.known.insert(action.to_vec()) {
            self.given.push(action.to_vec());
        }
    }

    /// The list for the next go, unless the one that there is will do.
    pub fn list(&self) -> Option<Vec<u8>> {
        let new = self.given.iter().filter(|action| !self.listed.contains_key(*action)).count();
        let stale = new * STALE > self.given.len();
        stale.then(|| [FORM, &self.given.concat()].concat())
    }
}

#[cfg(test)]
mod tests {
    use potluck_keys::time::Time;
    use potluck_protocol::digest::Sha256;

    use super::*;

    fn action(number: usize) -> Vec<u8> {
        let mut action = vec![7; ACTION_BYTES];
        action[..8].copy_from_slice(&number.to_le_bytes());
        action
    }

    fn shown() -> Shown {
        let (path, sha256) = ("/x".to_owned(), Sha256::from_bytes([1; 32]));
        Shown { path, sha256, size: 1, time: Time::from_millis(5) }
    }

    fn at(millis: u64) -> Moment {
        Moment::after_start(Duration::from_millis(millis))
    }

    fn list(numbers: std::ops::Range<usize>) -> Vec<u8> {
        let mut first = Expected::default();
        numbers.for_each(|number| first.note(&action(number)));
        first.list().unwrap()
    }

    #[test]
    fn nobody_runs_further_ahead_than_go_follows() {
        let mut expected = Expected::new(&list(0..5000));
        let ask = |expected: &mut Expected| std::iter::from_fn(|| expected.further()).flatten().count();
        assert_eq!(ask(&mut expected), FIRST);
        assert_eq!(ask(&mut expected), 0);
        // What go asks for is not what was expected.
        assert_eq!(expected.take(&action(9000), at(0)), None);
        assert_eq!(ask(&mut expected), 0);
        let mut asked = FIRST;
        for number in 0..5000 {
            expected.ready(action(number), at(0), shown());
            assert_eq!(expected.take(&action(number), at(1)), Some(shown()));
            asked += ask(&mut expected);
            assert!(asked > number && asked <= number + 1 + FURTHEST);
        }
        assert_eq!(asked, 5000, "the end is asked for however few are left");
    }

    #[test]
    fn what_the_door_said_counts_for_a_moment() {
        let mut expected = Expected::new(&list(0..3));
        for number in 0..3 {
            expected.ready(action(number), at(10), shown());
        }
        let fresh = u64::try_from(FRESH.as_millis()).unwrap();
        assert!(expected.take(&action(0), at(10 + fresh)).is_some());
        assert!(expected.take(&action(0), at(10 + fresh)).is_some(), "and again");
        assert_eq!(expected.take(&action(0), at(11 + fresh)), None);
        assert_eq!(expected.take(&action(1), at(11 + fresh)), None);
        // What go has put is not what was found.
        expected.given(&action(2));
        assert_eq!(expected.take(&action(2), at(10)), None);
    }

    #[test]
    fn a_list_is_kept_as_long_as_it_is_mostly_right() {
        let before = list(0..80);
        let go = |numbers: std::ops::Range<usize>| {
            let mut expected = Expected::new(&before);
            numbers.for_each(|number| expected.given(&action(number)));
            expected.list()
        };
        assert_eq!((go(0..80), go(0..10), go(10..90), go(0..0)), (None, None, None, None));
        assert_eq!(go(11..91), Some(list(11..91)));
        // One that is cut off or of another form does no harm.
        assert_eq!(Expected::new(&before[..before.len() - 1]).list.len(), 79);
        assert_eq!(Expected::new(b"another form").list.len(), 0);
        let mut odd = Expected::default();
        odd.note(b"no action of go");
        assert_eq!(odd.list(), None);
        assert!(list(0..MAX_LISTED + 9).len() <= MAX_LIST_BYTES);
    }
}
