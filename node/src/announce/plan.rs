// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands on the DHT by this node's doing, and when it is said again.
//!
//! Two kinds of thing, both a few per Project and never one per key: the Catalog Heads of an own topic, and "I hold
//! Entries of this topic".

use std::collections::BTreeMap;
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
    running: bool,
    again: bool,
    backoff: Backoff,
}

/// The Plan.
#[derive(Debug, Default)]
pub struct Announce {
    all: BTreeMap<(String, What), State>,
    running: usize,
}

impl Announce {
    /// Nothing to say yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn say(&mut self, now: Moment, network: String, what: What) {
        let new = || State {
            due: now,
            running: false,
            again: false,
            backoff: Backoff::new(RETRY_FIRST, RETRY_LAST),
        };
        let state = self.all.entry((network, what)).or_insert_with(new);
        if state.running {
            state.again = true;
        } else {
            state.due = now;
        }
    }

    fn said(&mut self, now: Moment, key: &(String, What), well: bool) {
        self.running = self.running.saturating_sub(1);
        let Some(state) = self.all.get_mut(key) else { return };
        state.running = false;
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
                for ((on, _), state) in &mut self.all {
                    // What was said well waits for long; what failed for at most this.
                    if *on == network && !state.running && state.due <= now.plus(RETRY_LAST) {
                        state.due = now;
                    }
                }
            }
        }
    }

    fn take(&mut self, now: Moment) -> Option<Say> {
        if self.running >= MAX_RUNNING {
            return None;
        }
        let ((network, what), state) =
            self.all.iter_mut().find(|(_, state)| !state.running && state.due <= now)?;
        state.running = true;
        self.running += 1;
        Some(Say { network: network.clone(), what: what.clone() })
    }

    fn wake_at(&self) -> Option<Moment> {
        if self.running >= MAX_RUNNING {
            return None;
        }
        self.all.values().filter(|state| !state.running).map(|state| state.due).min()
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
}
