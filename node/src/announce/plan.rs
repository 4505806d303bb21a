// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands on the DHT by this node's doing, when it is said again, and when no more.
//!
//! A few things a Project and never one a key: the Catalog Heads of a topic, "I hold Entries of this topic", and "I hold
//! this Blob" for those that are large or much in demand. What a node may say of its own accord grows with the keys that
//! it has; Blobs wait when that is used up, new topics do not. Heads that changed wait as well, for a while: whoever is
//! connected is told of them at once in another way, and somebody who builds all day changes them every second.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Topic;

use super::demand::Demand;
use crate::plan::{Backoff, Moment, Plan};

/// How often own Heads are put again: they live on holders that come and go, and expire there after 48 hours.
pub const HEADS_EVERY: Duration = Duration::from_secs(8 * 60 * 60);
/// How often it is said again what this node holds; the DHT forgets after 48 hours.
pub const HOLDS_EVERY: Duration = Duration::from_secs(16 * 60 * 60);
/// How much later at most something that stands is said again when there is much to say: before the 48 hours are over.
pub const SLACK: Duration = Duration::from_secs(24 * 60 * 60);
/// How soon after Heads were said those that changed since are said: nobody asks the DHT more often than twice as rarely.
pub const CHANGED_AFTER: Duration = Duration::from_secs(30);
/// How much later than that at most they are said when there is much to say.
pub const CHANGED_SLACK: Duration = Duration::from_secs(60 * 60);
/// How long a Blob stands after it was in demand, unless it is again.
pub const BLOB_FOR: Duration = Duration::from_secs(60 * 60);
/// How soon something is tried again that did not work.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// How rarely it is tried at last.
pub const RETRY_LAST: Duration = Duration::from_secs(300);
/// Most things that are being said at a time.
pub const MAX_RUNNING: usize = 8;
/// After how many failures something waits like a Blob.
pub const FAILURES: u32 = 4;
/// How long after the start of a run what stood before and nobody wants any more is taken back.
pub const SETTLED: Duration = Duration::from_secs(600);
/// Most Blobs that stand at a time; the one that was in demand longest ago makes room.
pub const MAX_BLOBS: usize = 1024;
/// What saying something once costs, in requests: a walk to the twenty peers nearest to a key, and one more to each of
/// them, as measured with libp2p.
pub const COST: u64 = 73;
/// What finding out first what stands there costs in addition.
pub const COST_OF_LOOKING: u64 = 50;
/// Requests a day for each thousand keys that a node has; 50 were promised.
pub const A_DAY_FOR_1000_KEYS: u64 = 45;
/// Requests that a node may make at once when it starts: for its topics, and for the first Blobs that others ask for.
pub const AT_THE_START: u64 = 500;
/// Requests a day that a node may make however few keys it has.
pub const A_DAY_AT_LEAST: u64 = 20_000;

/// Something that stands on the DHT of a Network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// The Catalog Heads of a topic.
    Heads(Topic),
    /// That this node holds Entries of a topic.
    Holds(Topic),
    /// That this node holds a Blob.
    Blob(Digest),
}

impl What {
    fn every(&self) -> Duration {
        match self {
            Self::Heads(_) => HEADS_EVERY,
            Self::Holds(_) => HOLDS_EVERY,
            Self::Blob(_) => BLOB_FOR,
        }
    }

    /// What it costs to say it.
    pub fn cost(&self) -> u64 {
        match self {
            Self::Heads(_) => COST + COST_OF_LOOKING,
            Self::Holds(_) | Self::Blob(_) => COST,
        }
    }
}

/// What can happen.
#[derive(Debug)]
pub enum Event {
    /// This stood on a Network when it was last left, and is to be said again at these moments.
    Stood(String, BTreeMap<What, Moment>),
    /// This should stand on that Network from now on; if it does, nothing about it is new.
    Stand(String, What),
    /// This should stand on that Network from now on; if it does, it has changed, and must be said anew.
    Say(String, What),
    /// This should no longer be said.
    Unsay(String, What),
    /// Something is shared on that Network no more: no Blob is said to be here until somebody asks for it again.
    UnsayBlobs(String),
    /// An attempt ended.
    Said {
        /// The Network.
        network: String,
        /// What was said.
        what: What,
        /// Whether anybody took it.
        well: bool,
    },
    /// The Network can be reached now: what had failed is tried at once.
    Joined(String),
    /// A peer was given a Blob; if it is large or hot, others should find it here.
    Asked {
        /// The Network of the peer.
        network: String,
        /// The Blob.
        digest: Digest,
        /// How large it is, in bytes.
        size: u64,
        /// Who asked.
        peer: String,
    },
    /// So many keys are held here.
    Keys(u64),
}

/// What is to be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Do {
    /// Say this on that Network, and tell when it is done.
    Say(String, What),
    /// Take it back there.
    Withdraw(String, What),
    /// Remember that it stands until this moment, when it is to be said again; with nothing, that it does not.
    Keep(String, What, Option<Moment>),
}

#[derive(Debug)]
struct State {
    due: Moment,
    /// Whether it has to be said anew once the attempt that runs has ended.
    again: bool,
    /// Whether it was said well, and has not changed since.
    stands: bool,
    /// When it was said well last, in this run or before it.
    said: Option<Moment>,
    /// When a Blob was last in demand.
    wanted: Moment,
    backoff: Backoff,
    failures: u32,
}

type Key = (String, What);

/// The Plan.
#[derive(Debug)]
pub struct Announce {
    all: BTreeMap<Key, State>,
    /// The same by when it is due, without what is being said.
    due: BTreeSet<(Moment, Key)>,
    /// The Blobs by when they were last in demand.
    blobs: BTreeSet<(Moment, Key)>,
    /// What stood when the last run ended, was not asked for in this one, and when it was to be said again.
    before: BTreeMap<Key, Moment>,
    /// Attempts that have not ended, even of what is not to be said any more.
    running: BTreeSet<Key>,
    todo: VecDeque<Do>,
    purse: Purse,
    demand: Demand,
    chance: fastrand::Rng,
    /// When what stood before and nobody wants any more is taken back.
    tidy: Moment,
}

/// Requests that may be made: they come in evenly over the day, and a quarter of a day's can be saved.
#[derive(Debug)]
struct Purse {
    keys: u64,
    /// A request is as many as a day has milliseconds, so that nothing is lost by rounding. Less than nothing after what
    /// could not wait.
    left: i128,
    at: Moment,
}

/// A request in the purse.
const REQUEST: i128 = 86_400_000;

impl Purse {
    fn a_day(&self) -> u64 {
        (self.keys * A_DAY_FOR_1000_KEYS / 1000).max(A_DAY_AT_LEAST)
    }

    fn fill(&mut self, now: Moment) {
        let day = i128::from(self.a_day());
        let came = i128::try_from(now.since(self.at).as_millis()).unwrap_or(0) * day;
        self.at = now;
        self.left = (self.left + came).min(day * REQUEST / 4);
    }

    fn spend(&mut self, cost: u64) {
        self.left -= i128::from(cost) * REQUEST;
    }

    /// When there is something in it again.
    fn enough_at(&self, now: Moment) -> Moment {
        let wait = u64::try_from(-self.left / i128::from(self.a_day())).unwrap_or(0);
        now.plus(Duration::from_millis(wait + 1))
    }
}

/// Between `percent` and all of a span, so that things do not happen at once.
fn share(chance: &mut fastrand::Rng, span: Duration, percent: u32) -> Duration {
    span / 100 * chance.u32(percent..=100)
}

impl Announce {
    /// Nothing to say yet.
    pub fn new(seed: u64) -> Self {
        Self {
            all: BTreeMap::new(),
            due: BTreeSet::new(),
            blobs: BTreeSet::new(),
            before: BTreeMap::new(),
            running: BTreeSet::new(),
            todo: VecDeque::new(),
            demand: Demand::default(),
            purse: Purse { keys: 0, left: i128::from(AT_THE_START) * REQUEST, at: Moment::default() },
            chance: fastrand::Rng::with_seed(seed),
            tidy: Moment::default().plus(SETTLED),
        }
    }

    /// How many requests a day it may make of its own accord.
    pub fn a_day(&self) -> u64 {
        self.purse.a_day()
    }

    fn stood(&mut self, now: Moment, network: &str, stood: BTreeMap<What, Moment>) {
        let new = stood.into_iter().map(|(what, due)| ((network.to_owned(), what), due));
        self.before.extend(new.filter(|(key, _)| !self.all.contains_key(key)));
        self.tidy = now.plus(SETTLED);
    }

    fn set_due(&mut self, key: &Key, due: Moment) {
        if let Some(state) = self.all.get_mut(key) {
            self.due.remove(&(state.due, key.clone()));
            state.due = due;
            if !self.running.contains(key) {
                self.due.insert((due, key.clone()));
            }
        }
    }

    fn want(&mut self, now: Moment, key: &Key) {
        if let (What::Blob(_), Some(state)) = (&key.1, self.all.get_mut(key)) {
            self.blobs.remove(&(state.wanted, key.clone()));
            state.wanted = now;
            self.blobs.insert((now, key.clone()));
        }
    }

    fn say(&mut self, now: Moment, key: &Key, new: bool) {
        let running = self.running.contains(key);
        if self.all.contains_key(key) {
            self.want(now, key);
            if new {
                self.changed(now, key, running);
            }
            return;
        }
        if matches!(key.1, What::Blob(_))
            && self.blobs.len() >= MAX_BLOBS
            && let Some((_, oldest)) = self.blobs.first().cloned()
        {
            self.unsay(oldest);
        }
        let before = self.before.remove(key).filter(|_| !new);
        let due = before.unwrap_or(now);
        let backoff = Backoff::new(RETRY_FIRST, RETRY_LAST);
        let (stands, said) = (before.is_some(), before.map(|_| Moment::default()));
        let state = State { due, again: running, stands, said, wanted: now, backoff, failures: 0 };
        self.all.insert(key.clone(), state);
        self.set_due(key, due);
        self.want(now, key);
    }

    fn changed(&mut self, now: Moment, key: &Key, running: bool) {
        let Some(state) = self.all.get_mut(key) else { return };
        state.again = running;
        if std::mem::take(&mut state.stands) {
            // Should this run end before it is said, the next one has to.
            self.todo.push_back(Do::Keep(key.0.clone(), key.1.clone(), None));
        }
        let after = state.said.filter(|_| matches!(key.1, What::Heads(_)));
        let due = after.map_or(now, |said| now.max(said.plus(CHANGED_AFTER)));
        if !running {
            self.set_due(key, due);
        }
    }

    fn unsay(&mut self, key: Key) {
        let known = self.before.remove(&key).is_some();
        let state = self.all.remove(&key);
        if let Some(state) = &state {
            self.due.remove(&(state.due, key.clone()));
            self.blobs.remove(&(state.wanted, key.clone()));
        }
        // If it is being said just now, its end is still to come, and is counted then.
        if known || state.is_some() {
            self.taken_back(key);
        }
    }

    fn taken_back(&mut self, (network, what): Key) {
        self.todo.push_back(Do::Keep(network.clone(), what.clone(), None));
        self.todo.push_back(Do::Withdraw(network, what));
    }

    fn said(&mut self, now: Moment, key: &Key, well: bool) {
        if !self.running.remove(key) {
            return;
        }
        let Some(state) = self.all.get_mut(key) else {
            if well {
                // It was taken back while it was on its way.
                self.todo.push_back(Do::Withdraw(key.0.clone(), key.1.clone()));
            }
            return;
        };
        if well {
            state.said = Some(now);
        }
        let due = match (std::mem::take(&mut state.again), well) {
            (true, true) if matches!(key.1, What::Heads(_)) => now.plus(CHANGED_AFTER),
            (true, _) => now,
            (false, true) => {
                state.backoff.reset();
                state.failures = 0;
                // What was said together for the first time is spread over the interval, and stays so.
                let least = if std::mem::replace(&mut state.stands, true) { 85 } else { 40 };
                now.plus(share(&mut self.chance, key.1.every(), least))
            }
            (false, false) => {
                state.failures += 1;
                let wait = state.backoff.step();
                now.plus(share(&mut self.chance, wait, 75))
            }
        };
        let stands = self.all.get(key).is_some_and(|state| state.stands);
        self.set_due(key, due);
        if well && stands {
            self.todo.push_back(Do::Keep(key.0.clone(), key.1.clone(), Some(due)));
        }
    }

    fn joined(&mut self, now: Moment, network: &str) {
        // What was said well waits for long; what failed for at most this.
        let until = now.plus(RETRY_LAST);
        let soon = self.due.iter().take_while(|(due, _)| *due <= until);
        let failed = soon.filter(|(_, key)| key.0 == network).map(|(_, key)| key.clone());
        let failed: Vec<_> =
            failed.filter(|key| self.all.get(key).is_some_and(|state| !state.stands)).collect();
        for key in failed {
            self.set_due(&key, now);
        }
    }

    /// Blobs for which nobody has asked for long are taken back.
    fn forget_blobs(&mut self, now: Moment) {
        while let Some((wanted, key)) = self.blobs.first().cloned()
            && now.since(wanted) >= BLOB_FOR
        {
            self.unsay(key);
        }
    }

    /// When something that is due can be said. With nothing in the purse, Blobs wait, and what has failed again and
    /// again, and for a while what stands anyway.
    fn ready_at(&self, due: Moment, key: &Key) -> Moment {
        if self.purse.left > 0 {
            return due;
        }
        let payable = self.purse.enough_at(self.purse.at).max(due);
        match self.all.get(key) {
            _ if matches!(key.1, What::Blob(_)) => payable,
            Some(state) if state.failures >= FAILURES => payable,
            Some(state) if state.stands => payable.min(due.plus(SLACK)),
            Some(state) if state.said.is_some() && matches!(key.1, What::Heads(_)) => {
                payable.min(due.plus(CHANGED_SLACK))
            }
            _ => due,
        }
    }

    /// The first that is due and can be paid. Whoever has waited longest comes first: what fails again and again must
    /// not keep out the rest.
    fn next(&self, now: Moment) -> Option<Key> {
        let due = self.due.iter().take_while(|(due, _)| *due <= now);
        let mut ready = due.filter(|(due, key)| self.ready_at(*due, key) <= now);
        ready.next().map(|(_, key)| key.clone())
    }
}

impl Plan for Announce {
    type Event = Event;
    type Action = Do;

    fn feed(&mut self, now: Moment, event: Event) {
        match event {
            Event::Stood(network, stood) => self.stood(now, &network, stood),
            Event::Stand(network, what) => self.say(now, &(network, what), false),
            Event::Say(network, what) => self.say(now, &(network, what), true),
            Event::Unsay(network, what) => self.unsay((network, what)),
            Event::UnsayBlobs(network) => {
                let of = |(on, what): &&Key| *on == network && matches!(what, What::Blob(_));
                let known = self.before.keys().chain(self.all.keys()).filter(of);
                let known: BTreeSet<_> = known.cloned().collect();
                known.into_iter().for_each(|key| self.unsay(key));
            }
            Event::Said { network, what, well } => self.said(now, &(network, what), well),
            Event::Joined(network) => self.joined(now, &network),
            Event::Asked { network, digest, size, peer } => {
                if self.demand.asked(now, (network.clone(), digest), (size, &peer)) {
                    self.say(now, &(network, What::Blob(digest)), false);
                }
            }
            Event::Keys(keys) => {
                self.purse.fill(now);
                self.purse.keys = keys;
            }
        }
    }

    fn take(&mut self, now: Moment) -> Option<Do> {
        self.forget_blobs(now);
        if now >= self.tidy {
            for key in std::mem::take(&mut self.before).into_keys() {
                self.taken_back(key);
            }
        }
        if let Some(todo) = self.todo.pop_front() {
            return Some(todo);
        }
        if self.running.len() >= MAX_RUNNING {
            return None;
        }
        self.purse.fill(now);
        let key = self.next(now)?;
        self.purse.spend(key.1.cost());
        if let Some(state) = self.all.get(&key) {
            self.due.remove(&(state.due, key.clone()));
        }
        self.running.insert(key.clone());
        let (network, what) = key;
        Some(Do::Say(network, what))
    }

    fn wake_at(&self) -> Option<Moment> {
        let blobs = self.blobs.first().map(|(wanted, _)| wanted.plus(BLOB_FOR));
        let tidy = (!self.before.is_empty()).then_some(self.tidy);
        if self.running.len() >= MAX_RUNNING {
            return blobs.into_iter().chain(tidy).min();
        }
        let mut first: Option<Moment> = None;
        for (due, key) in &self.due {
            // Those after it are due later still.
            if first.is_some_and(|first| first <= *due) {
                break;
            }
            let at = self.ready_at(*due, key);
            first = Some(first.map_or(at, |first| first.min(at)));
        }
        first.into_iter().chain(blobs).chain(tidy).min()
    }
}

#[cfg(test)]
mod tests;
