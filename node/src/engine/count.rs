// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is counted for people: most of it since the start of the daemon; for each Project and Recipe, ever since there
//! is an index, to which it goes from time to time.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use potluck_keys::pair::Signer;
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::control::Miss;
use serde::Serialize;

use crate::fetch::event::Space;
use crate::index::{Contradiction, MAX_TALLIES, Tally};

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
    sent: AtomicU64,
    refused: Mutex<BTreeMap<Refused, u64>>,
    tallies: Mutex<BTreeMap<(String, String), Tally>>,
    contradictions: Mutex<BTreeMap<(Signer, ActionId), Contradiction>>,
}

/// What waits to be kept about Projects and Recipes.
pub type Tallies = Vec<((String, String), Tally)>;
/// What waits to be kept about signers that contradict themselves.
pub type Contradictions = Vec<((Signer, ActionId), Contradiction)>;

/// Most contradictions that wait to be kept. Further ones are seen again with the next look-up.
const MAX_WAITING: usize = 256;

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
    /// A look-up was answered with an output of so many bytes, that had to be fetched or not.
    pub fn hit(&self, space: &Space, bytes: u64, fetched: bool) {
        let remote_hits = u64::from(fetched);
        self.tally(&space.project, &space.recipe, &Tally { hits: 1, remote_hits, bytes, ..Tally::default() });
        self.hits.fetch_add(1, Ordering::Relaxed);
        self.remote_hits.fetch_add(u64::from(fetched), Ordering::Relaxed);
    }

    /// A look-up was not.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn miss(&self, space: &Space, why: Miss) {
        self.tally(&space.project, &space.recipe, &Tally { misses: 1, ..Tally::default() });
        let mut misses = self.misses.lock().expect("nobody panics while counting");
        *misses.entry(word(why)).or_default() += 1;
    }

    /// An own Entry was made.
    pub fn published(&self, project: &Project, recipe: &Recipe) {
        self.tally(project, recipe, &Tally { published: 1, ..Tally::default() });
        self.published.fetch_add(1, Ordering::Relaxed);
    }

    fn tally(&self, project: &Project, recipe: &Recipe, more: &Tally) {
        let mut tallies = self.tallies.lock().expect("nobody panics while counting");
        let mut key = (project.to_string(), recipe.to_string());
        if tallies.len() >= MAX_TALLIES && !tallies.contains_key(&key) {
            key = <(String, String)>::default();
        }
        tallies.entry(key).or_default().add(more);
    }

    /// A signer gave two outputs for an action.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn contradicted(&self, of: (Signer, ActionId), how: Contradiction) {
        let mut waiting = self.contradictions.lock().expect("nobody panics while counting");
        if waiting.len() < MAX_WAITING {
            waiting.entry(of).or_insert(how);
        }
    }

    /// What is to be kept in the index; it is not here any more then.
    ///
    /// # Panics
    /// Never: nobody panics while holding the locks.
    pub fn take(&self) -> (Tallies, Contradictions) {
        let tallies = std::mem::take(&mut *self.tallies.lock().expect("nobody panics while counting"));
        let waiting = std::mem::take(&mut *self.contradictions.lock().expect("nobody panics while counting"));
        (tallies.into_iter().collect(), waiting.into_iter().collect())
    }

    /// What could not be kept, for the next time.
    ///
    /// # Panics
    /// Never: nobody panics while holding the locks.
    pub fn put_back(&self, tallies: Tallies, contradictions: Contradictions) {
        let mut now = self.tallies.lock().expect("nobody panics while counting");
        for (key, tally) in tallies {
            now.entry(key).or_default().add(&tally);
        }
        drop(now);
        for (of, how) in contradictions {
            self.contradicted(of, how);
        }
    }

    /// What the index keeps, with what is not there yet; in the order of names.
    ///
    /// # Panics
    /// Never: nobody panics while holding the lock.
    pub fn with_kept(&self, kept: Tallies) -> Vec<ProjectRow> {
        let mut all: BTreeMap<_, _> = kept.into_iter().collect();
        for (key, more) in self.tallies.lock().expect("nobody panics while counting").iter() {
            all.entry(key.clone()).or_default().add(more);
        }
        let row = |((project, recipe), tally): (_, Tally)| {
            let Tally { hits, remote_hits, misses, published, bytes } = tally;
            ProjectRow { project, recipe, hits, remote_hits, misses, published, bytes }
        };
        all.into_iter().map(row).collect()
    }

    /// Bytes of Blobs came from peers, as they were sent.
    pub fn fetched(&self, bytes: u64) {
        self.fetched.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Bytes of Blobs went to peers.
    pub fn served(&self, bytes: u64) {
        self.served.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Something was sent for a look-up: a question or a request for a Blob to a peer, or a search on a DHT.
    pub fn sent(&self) {
        self.sent.fetch_add(1, Ordering::Relaxed);
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
            sent: read(&self.sent),
            refused: refused.iter().map(often).collect(),
        }
    }
}

/// What was counted for a Project and a Recipe, ever since the index was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ProjectRow {
    /// The Project; empty, as is the Recipe, for all that are not counted apart.
    pub project: String,
    /// The Recipe.
    pub recipe: String,
    /// Look-ups that gave an output.
    pub hits: u64,
    /// Those of them for which something had to be fetched.
    pub remote_hits: u64,
    /// Look-ups that gave none.
    pub misses: u64,
    /// Own Entries made.
    pub published: u64,
    /// Bytes of the outputs that were given, unpacked.
    pub bytes: u64,
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
    /// Questions and requests for Blobs to peers, and searches on DHTs, for look-ups and Catalogs.
    pub sent: u64,
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
