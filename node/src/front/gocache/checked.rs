// SPDX-License-Identifier: MIT OR Apache-2.0
//! What files were found to hold, for the processes that come after: to read and hash all that one go is shown takes
//! longer than all else that its helper does, and go itself reads little of it.
//!
//! A file counts as checked for an hour, as long as the system says the same of it as it did before it was read: which
//! file, how long, and when it and its bytes were last changed. Nobody but the system can say when a file was changed. A
//! file that was changed just before it was read may have been changed again at what looks like the same moment, and is
//! not remembered. Nor does anything count after the system was started anew: what was read before may have been in
//! memory alone. What is left is a disk that gives other bytes than it was given, within that hour, for what was let go
//! from memory; go, who reads the file later than anybody could check it, would meet that as well.

use std::collections::HashMap;
use std::time::Duration;

use potluck_keys::time::Time;
use potluck_protocol::digest::{Digest, Sha256};

/// How long a check counts.
const COUNTS: Duration = Duration::from_secs(3600);
/// How long before it was read a file must have been changed last: more than the finest difference between two moments
/// that any file system makes.
const SETTLED: Duration = Duration::from_secs(3);
/// How a record begins.
const FORM: &[u8] = b"potluck gocache checked 1\n";
/// Bytes of the name of a start of the system.
pub const START_BYTES: usize = 36;
/// Numbers that tell one state of a file from another.
const NUMBERS: usize = 7;
/// Bytes of a row: both names, the state, and when it was checked.
const ROW_BYTES: usize = 32 + 32 + 8 * NUMBERS + 8;
/// Most rows.
const MAX_ROWS: usize = 1 << 15;
/// Longest record in bytes.
pub const MAX_RECORD_BYTES: usize = FORM.len() + START_BYTES + MAX_ROWS * ROW_BYTES + 32;

/// What the system says of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// The device and the number of the file there.
    pub file: (u64, u64),
    /// Its length in bytes.
    pub size: u64,
    /// When its bytes were changed last: seconds and nanoseconds.
    pub modified: (i64, i64),
    /// When anything of it was.
    pub changed: (i64, i64),
}

impl State {
    /// Whether only what is said about the file has changed, and not its bytes.
    pub fn has_bytes_of(&self, other: &Self) -> bool {
        Self { changed: other.changed, ..*self } == *other
    }

    /// Whether the file was changed for the last time well before this moment.
    fn is_settled(&self, now: Time) -> bool {
        let last = self.modified.max(self.changed);
        let millis = last.0.saturating_mul(1000).saturating_add(last.1 / 1_000_000);
        u64::try_from(millis).is_ok_and(|millis| now.since(Time::from_millis(millis)) > SETTLED)
    }

    fn numbers(&self) -> [u64; NUMBERS] {
        let Self { file, size, modified, changed } = *self;
        let [modified, changed] = [modified, changed].map(|(s, ns)| (s.cast_unsigned(), ns.cast_unsigned()));
        [file.0, file.1, size, modified.0, modified.1, changed.0, changed.1]
    }

    fn from_numbers(numbers: [u64; NUMBERS]) -> Self {
        let [device, inode, size, numbers @ ..] = numbers;
        let [modified, modified_ns, changed, changed_ns] = numbers.map(u64::cast_signed);
        Self {
            file: (device, inode),
            size,
            modified: (modified, modified_ns),
            changed: (changed, changed_ns),
        }
    }
}

/// A file that was read and found to be right.
#[derive(Debug, Clone, Copy)]
struct Check {
    sha256: Sha256,
    state: State,
    at: Time,
}

/// See the file.
#[derive(Debug, Default)]
pub struct Checked {
    rows: HashMap<Digest, Check>,
    /// Whether there is something that the record lacks.
    news: bool,
}

impl Checked {
    /// What of a record counts at this moment; nothing if it makes no sense, or is of another start of the system.
    pub fn new(record: &[u8], start: &[u8; START_BYTES], now: Time) -> Self {
        let rows = || {
            let (said, digest) = record.split_last_chunk::<32>()?;
            let rows = said.strip_prefix(FORM)?.strip_prefix(start)?;
            (Digest::of(said).as_bytes() == digest).then_some(rows)
        };
        let rows = rows().unwrap_or_default().chunks_exact(ROW_BYTES).take(MAX_ROWS).filter_map(row);
        Self { rows: rows.filter(|(_, check)| counts(check.at, now)).collect(), news: false }
    }

    /// What a file is called by go, and how it was when it was checked, if that counts at this moment.
    pub fn find(&self, digest: &Digest, now: Time) -> Option<(Sha256, State)> {
        let Check { sha256, state, at } = self.rows.get(digest)?;
        counts(*at, now).then_some((*sha256, *state))
    }

    /// A file was in this state before it was read, at this moment, and found to be right.
    pub fn note(&mut self, digest: Digest, (sha256, state): (Sha256, State), at: Time) {
        if state.is_settled(at) && self.rows.len() < MAX_ROWS {
            self.rows.insert(digest, Check { sha256, state, at });
            self.news = true;
        }
    }

    /// What is said about a file was changed by this process, and not its bytes.
    pub fn told(&mut self, digest: &Digest, state: State) {
        if let Some(check) = self.rows.get_mut(digest).filter(|check| state.has_bytes_of(&check.state)) {
            check.state = state;
            self.news = true;
        }
    }

    /// The record for the next process, unless the one that there is will do.
    pub fn record(&self, start: &[u8; START_BYTES], now: Time) -> Option<Vec<u8>> {
        if !self.news {
            return None;
        }
        let mut record = [FORM, start].concat();
        for (digest, check) in self.rows.iter().filter(|(_, check)| counts(check.at, now)) {
            record.extend_from_slice(digest.as_bytes());
            record.extend_from_slice(check.sha256.as_bytes());
            let numbers = check.state.numbers().into_iter().chain([check.at.as_millis()]);
            numbers.for_each(|number| record.extend_from_slice(&number.to_le_bytes()));
        }
        let digest = Digest::of(&record);
        record.extend_from_slice(digest.as_bytes());
        Some(record)
    }
}

/// Whether a check of that time counts at this moment; not if the clock was set back in between.
fn counts(at: Time, now: Time) -> bool {
    at <= now && now.since(at) < COUNTS
}

fn row(row: &[u8]) -> Option<(Digest, Check)> {
    let (digest, row) = row.split_first_chunk()?;
    let (sha256, row) = row.split_first_chunk()?;
    let (numbers, _) = row.as_chunks::<8>();
    let (state, at) = numbers.split_first_chunk::<NUMBERS>()?;
    let state = State::from_numbers(state.map(u64::from_le_bytes));
    let at = Time::from_millis(u64::from_le_bytes(*at.first()?));
    Some((Digest::from_bytes(*digest), Check { sha256: Sha256::from_bytes(*sha256), state, at }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: [u8; START_BYTES] = [b'a'; START_BYTES];

    fn at(seconds: u64) -> Time {
        Time::from_millis(seconds * 1000)
    }

    fn state(changed: i64) -> State {
        State { file: (1, 2), size: 3, modified: (-4, 5), changed: (changed, 6) }
    }

    #[test]
    fn a_check_counts_for_a_while_and_until_the_system_is_started_anew() {
        let (digest, sha256) = (Digest::of(b"x"), Sha256::from_bytes([7; 32]));
        let mut checked = Checked::default();
        assert_eq!(checked.record(&START, at(0)), None, "there is nothing new");
        checked.note(digest, (sha256, state(100)), at(1000));
        let record = checked.record(&START, at(1001)).unwrap();
        assert!(record.len() <= MAX_RECORD_BYTES);
        let again = Checked::new(&record, &START, at(1001));
        assert_eq!(again.record(&START, at(1001)), None);
        assert_eq!(again.find(&digest, at(1001)), Some((sha256, state(100))));
        assert_eq!(again.find(&digest, at(999)), None, "the clock was set back");
        let late = at(1000).plus(COUNTS);
        assert_eq!(again.find(&digest, late), None);
        assert!(Checked::new(&record, &START, late).rows.is_empty(), "old ones take no room from others");
        assert_eq!(checked.record(&START, late).unwrap().len(), record.len() - ROW_BYTES);
        assert_eq!(Checked::new(&record, &[b'b'; START_BYTES], at(1001)).find(&digest, at(1001)), None);
        for wrong in 0..record.len() {
            let mut damaged = record.clone();
            damaged[wrong] ^= 1;
            for wrong in [&damaged[..], &record[..wrong]] {
                assert_eq!(Checked::new(wrong, &START, at(1001)).find(&digest, at(1001)), None);
            }
        }
    }

    #[test]
    fn what_was_changed_just_now_is_not_remembered() {
        let (digest, sha256) = (Digest::of(b"x"), Sha256::from_bytes([7; 32]));
        let mut checked = Checked::default();
        checked.note(digest, (sha256, state(1000)), at(1000));
        checked.note(digest, (sha256, state(1000)), at(1002));
        checked.note(digest, (sha256, state(2000)), at(1000));
        assert_eq!(checked.find(&digest, at(2001)), None);
        checked.note(digest, (sha256, state(1000)), at(1010));
        // Whoever notes when it was shown changes nothing of what it holds; whoever writes does.
        checked.told(&digest, State { modified: (1020, 0), ..state(1020) });
        assert_eq!(checked.find(&digest, at(1020)), Some((sha256, state(1000))));
        checked.told(&digest, state(1020));
        assert_eq!(checked.find(&digest, at(1020)), Some((sha256, state(1020))));
    }
}
