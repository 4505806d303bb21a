// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands on the DHT by this node's doing, and when it is said again.
//!
//! Two kinds of thing, both a few per Project and never one per key: the Catalog Heads of an own topic, and "I hold
//! Entries of this topic".

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use potluck_protocol::peer::Topic;

use crate::plan::{Backoff, Moment, Plan};

/// How often Heads are put again: they live on holders that come and go.
pub const HEADS_EVERY: Duration = Duration::from_secs(60 * 60);
/// How often it is said again what this node holds; the DHT forgets after 48 hours.
pub const HOLDS_EVERY: Duration = Duration::from_secs(12 * 60 * 60);
/// How soon something is tried again that did not work.
pub const RETRY_FIRST: Duration = Duration::from_secs(1);
/// How rarely it is tried at last.
pub const RETRY_LAST: Duration = Duration::from_secs(300);
/// Most things that are being said at a time.
pub const MAX_RUNNING: usize = 8;

/// Something that stands on the DHT of a Network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum What {
    /// The Catalog Heads of a topic.
    Heads(Topic),
    /// That this node holds Entries of a topic.
    Holds(Topic),
}

/// What can happen.
#[derive(Debug)]
pub enum Event {
    /// This should stand on that Network from now on; or it has changed, and must be said anew.
    Say(String, What),
    /// This should no longer be said.
    Unsay(String, What),
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
}

/// "Say this on that Network."
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Say {
    /// The Network.
    pub network: String,
    /// What to say.
    pub what: What,
}

#[derive(Debug)]
struct State {
    due: Moment,
    /// Whether it has to be said anew once the attempt that runs has ended.
    again: bool,
    backoff: Backoff,
}

/// The Plan.
#[derive(Debug, Default)]
pub struct Announce {
    all: BTreeMap<(String, What), State>,
    /// Attempts that have not ended, even of what is not to be said any more.
    running: BTreeSet<(String, What)>,
}

impl Announce {
    /// Nothing to say yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn say(&mut self, now: Moment, network: String, what: What) {
        let key = (network, what);
        let again = self.running.contains(&key);
        let new = || State { due: now, again, backoff: Backoff::new(RETRY_FIRST, RETRY_LAST) };
        let state = self.all.entry(key).or_insert_with(new);
        if again {
            state.again = true;
        } else {
            state.due = now;
        }
    }

    fn said(&mut self, now: Moment, key: &(String, What), well: bool) {
        if !self.running.remove(key) {
            return;
        }
        let Some(state) = self.all.get_mut(key) else { return };
        let every = match key.1 {
            What::Heads(_) => HEADS_EVERY,
            What::Holds(_) => HOLDS_EVERY,
        };
        state.due = match (std::mem::take(&mut state.again), well) {
            (true, _) => now,
            (false, true) => {
                state.backoff.reset();
                now.plus(every)
            }
            (false, false) => now.plus(state.backoff.step()),
        };
    }
}

impl Plan for Announce {
    type Event = Event;
    type Action = Say;

    fn feed(&mut self, now: Moment, event: Event) {
        match event {
            Event::Say(network, what) => self.say(now, network, what),
            Event::Unsay(network, what) => {
                // If it is being said just now, its end is still to come, and is counted then.
                self.all.remove(&(network, what));
            }
            Event::Said { network, what, well } => self.said(now, &(network, what), well),
            Event::Joined(network) => {
                for (key, state) in &mut self.all {
                    // What was said well waits for long; what failed for at most this.
                    if key.0 == network && !self.running.contains(key) && state.due <= now.plus(RETRY_LAST) {
                        state.due = now;
                    }
                }
            }
        }
    }

    fn take(&mut self, now: Moment) -> Option<Say> {
        if self.running.len() >= MAX_RUNNING {
            return None;
        }
        let idle = self.all.iter().filter(|(key, state)| state.due <= now && !self.running.contains(*key));
        // Whoever has waited longest comes first: what fails again and again must not keep out the rest.
        let (key, _) = idle.min_by_key(|(_, state)| state.due)?;
        let (network, what) = key.clone();
        self.running.insert(key.clone());
        Some(Say { network, what })
    }

    fn wake_at(&self) -> Option<Moment> {
        if self.running.len() >= MAX_RUNNING {
            return None;
        }
        self.all.iter().filter(|(key, _)| !self.running.contains(*key)).map(|(_, state)| state.due).min()
    }
}

#[cfg(test)]
mod tests {
    use potluck_keys::pair::Signer;
    use potluck_protocol::action::Project;

    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::after_start(Duration::from_millis(ms))
    }

    fn heads(number: u8) -> What {
        What::Heads(Topic { signer: Signer::from_bytes([number; 32]), project: Project::default() })
    }

    fn all(plan: &mut Announce, now: Moment) -> Vec<What> {
        let actions = std::iter::from_fn(|| plan.take(now)).map(|say| say.what).collect();
        assert!(plan.wake_at().is_none_or(|at| at > now));
        actions
    }

    #[test]
    fn what_failed_is_said_again_and_what_changed_at_once() {
        let mut plan = Announce::new();
        let net = || "office".to_owned();
        let said = |well| Event::Said { network: net(), what: heads(1), well };
        plan.feed(at(0), Event::Say(net(), heads(1)));
        assert_eq!(all(&mut plan, at(0)), [heads(1)]);
        plan.feed(at(10), said(false));
        assert_eq!(plan.wake_at(), Some(at(1_010)));
        plan.feed(at(20), Event::Joined(net()));
        assert_eq!(all(&mut plan, at(20)), [heads(1)]);
        plan.feed(at(30), Event::Say(net(), heads(1)));
        plan.feed(at(40), said(true));
        assert_eq!(all(&mut plan, at(40)), [heads(1)], "it changed while it was being said");
        plan.feed(at(50), said(true));
        assert_eq!(plan.wake_at(), Some(at(50).plus(HEADS_EVERY)));
        plan.feed(at(60), Event::Joined(net()));
        assert_eq!(all(&mut plan, at(60)), [], "there is nothing to repeat");
        plan.feed(at(70), Event::Unsay(net(), heads(1)));
        assert_eq!(plan.wake_at(), None);
    }

    #[test]
    fn only_so_much_is_said_at_a_time() {
        let mut plan = Announce::new();
        for number in 0..20 {
            plan.feed(at(0), Event::Say("office".into(), heads(number)));
        }
        assert_eq!(all(&mut plan, at(0)).len(), MAX_RUNNING);
        plan.feed(at(1), Event::Unsay("office".into(), heads(0)));
        plan.feed(at(1), Event::Said { network: "office".into(), what: heads(0), well: true });
        assert_eq!(all(&mut plan, at(1)).len(), 1);
    }

    #[test]
    fn what_is_said_again_after_all_is_said_once_at_a_time() {
        let mut plan = Announce::new();
        let net = || "office".to_owned();
        let said = || Event::Said { network: net(), what: heads(1), well: true };
        plan.feed(at(0), Event::Say(net(), heads(1)));
        assert_eq!(all(&mut plan, at(0)), [heads(1)]);
        plan.feed(at(1), Event::Unsay(net(), heads(1)));
        plan.feed(at(2), Event::Say(net(), heads(1)));
        assert_eq!(all(&mut plan, at(2)), []);
        plan.feed(at(3), said());
        assert_eq!(all(&mut plan, at(3)), [heads(1)]);
        plan.feed(at(4), said());
        plan.feed(at(5), said());
        assert_eq!(plan.wake_at(), Some(at(4).plus(HEADS_EVERY)), "nobody asked for the last one");
    }

    /// One random world: attempts end once each, well or not, whenever chance has it.
    fn world(seed: u64) -> Vec<String> {
        let mut chance = fastrand::Rng::with_seed(seed);
        let (mut plan, mut now, mut log) = (Announce::new(), 0, Vec::new());
        let mut running = Vec::<Say>::new();
        // What should stand but was not said well since it was last to be said.
        let mut owed = BTreeSet::new();
        for step in 0..600 {
            let last = step >= 300;
            let network = || "office".to_owned();
            let what = heads(chance.u8(..30));
            let event = match chance.u8(..8) {
                0 | 1 if !last => {
                    owed.insert(what.clone());
                    Event::Say(network(), what)
                }
                2 if !last => {
                    owed.remove(&what);
                    Event::Unsay(network(), what)
                }
                3 => Event::Joined(network()),
                _ if !running.is_empty() => {
                    let Say { network, what } = running.swap_remove(chance.usize(..running.len()));
                    Event::Said { network, what, well: last || chance.bool() }
                }
                _ => Event::Said { network: network(), what: heads(99), well: false },
            };
            log.push(format!("{now} {event:?}"));
            plan.feed(at(now), event);
            while let Some(say) = plan.take(at(now)) {
                log.push(format!("{now} {say:?}"));
                assert!(!running.contains(&say) && running.len() < MAX_RUNNING);
                owed.remove(&say.what);
                running.push(say);
            }
            assert!(plan.wake_at().is_none_or(|wake| wake > at(now)));
            now += chance.u64(..1000);
        }
        assert!(owed.is_empty(), "{owed:?} was never said");
        log
    }

    #[test]
    fn in_any_world_everything_is_said_once_at_a_time() {
        for seed in 0..300 {
            let run = std::panic::catch_unwind(|| world(seed)).unwrap_or_else(|_| panic!("seed {seed}"));
            assert!(seed > 20 || run == world(seed), "seed {seed} is told differently");
        }
    }
}
