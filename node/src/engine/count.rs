// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is counted for people, since the start of the daemon.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use potluck_protocol::control::Miss;
use serde::Serialize;

/// Most different refusals that are told apart.
const MAX_REFUSALS: usize = 1024;

/// Numbers that only grow.
#[derive(Debug, Default)]
pub struct Counts {
    hits: AtomicU64,
    remote_hits: AtomicU64,
    misses: Mutex<BTreeMap<&'static str, u64>>,
    published: AtomicU64,
    fetched: AtomicU64,
    served: AtomicU64,
    refused: Mutex<BTreeMap<Refused, u64>>,
}

/// Something that was refused.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Refused {
    /// Why, in one word; see [`potluck_keys::policy::Reason::code`]. `bad-piece` is about bytes, all others are about
    /// claims.
    pub reason: String,
    /// Whose claim it was, or who sent the bytes.
    pub who: String,
}

/// How often that happened.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct RefusedOften {
    /// What.
    #[serde(flatten)]
    pub refused: Refused,
    /// How often.
    pub count: u64,
}

impl Counts {
    /// A look-up was answered with an output, that had to be fetched or not.
    pub fn hit(&self, fetched: bool) {
        self.hits.fetch_add(1, Ordering::Relaxed);
        self.remote_hits.fetch_add(u64::from(fetched), Ordering::Relaxed);
    }

    /// A look-up was not.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn miss(&self, why: Miss) {
        let mut misses = self.misses.lock().expect("nobody panics while counting");
        *misses.entry(word(why)).or_default() += 1;
    }

    /// An own Entry was made.
    pub fn published(&self) {
        self.published.fetch_add(1, Ordering::Relaxed);
    }

    /// Bytes of Blobs came from peers, as they were sent.
    pub fn fetched(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of Blobs went to peers.
    pub fn served(&self, bytes: u64) {
        self.served.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Something was refused.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn refused(&self, reason: &str, who: &str) {
        let mut refused = self.refused.lock().expect("nobody panics while counting");
        let what = Refused { reason: reason.to_owned(), who: who.to_owned() };
        if refused.len() < MAX_REFUSALS || refused.contains_key(&what) {
            *refused.entry(what).or_default() += 1;
        }
    }

    /// All of it.
    ///
    /// # Panics
    /// Never: nobody panics while holding the locks.
    pub fn now(&self) -> Numbers {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        let misses = self.misses.lock().expect("nobody panics while counting").clone();
        let refused = self.refused.lock().expect("nobody panics while counting");
        let often = |(what, count): (&Refused, &u64)| RefusedOften { refused: what.clone(), count: *count };
        Numbers {
            hits: read(&self.hits),
            remote_hits: read(&self.remote_hits),
            misses: misses.values().sum(),
            misses_by_reason: misses,
            published: read(&self.published),
            bytes_fetched: read(&self.fetched),
            bytes_served: read(&self.served),
            refused: refused.iter().map(often).collect(),
        }
    }
}

/// The numbers as they are shown.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Numbers {
    /// Look-ups that gave an output.
    pub hits: u64,
    /// Those of them for which something had to be fetched.
    pub remote_hits: u64,
    /// Look-ups that gave none.
    pub misses: u64,
    /// The same, by reason.
    pub misses_by_reason: BTreeMap<&'static str, u64>,
    /// Own Entries made.
    pub published: u64,
    /// Bytes of Blobs from peers, as they were sent.
    pub bytes_fetched: u64,
    /// Bytes of Blobs to peers.
    pub bytes_served: u64,
    /// What was refused.
    pub refused: Vec<RefusedOften>,
}

/// The word for a miss in scripts; stable.
pub fn word(miss: Miss) -> &'static str {
    match miss {
        Miss::Unclaimed => "unclaimed",
        Miss::Refused => "refused",
        Miss::Undeliverable => "undeliverable",
        Miss::Late => "late",
        Miss::NotWorthIt => "not-worth-it",
        Miss::Broken => "broken",
    }
}
