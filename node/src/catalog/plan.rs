// SPDX-License-Identifier: MIT OR Apache-2.0
//! When to write what was published into a Catalog, and when to look for news of those that are followed.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use potluck_protocol::action::Project;
use potluck_protocol::peer::Topic;

use crate::plan::{Backoff, Moment, Plan};

/// How long after a publication the Catalog is written: what is published meanwhile goes with it.
pub const FLUSH_AFTER: Duration = Duration::from_millis(300);
/// How often a Catalog is looked for when nobody pushes its news.
pub const POLL_EVERY: Duration = Duration::from_secs(60);
/// How soon a look that found nothing is repeated, at first.
pub const RETRY_FIRST: Duration = Duration::from_millis(500);
/// How long a topic is left alone after a look, whatever anybody says of it.
pub const POLL_GAP: Duration = Duration::from_millis(100);
/// Most looks for news at a time: each may walk the DHT.
pub const MAX_POLLS: usize = 16;

/// What can happen.
#[derive(Debug)]
pub enum Event {
    /// These Projects are shared, and hence have Catalogs; the set replaces the one before.
    Share(BTreeSet<Project>),
    /// An own Entry was stored.
    Published(Project),
    /// A flush ended; `rest` says whether there is more to write.
    Flushed {
        /// The Project.
        project: Project,
        /// Whether anything is left, because there was too much or it went wrong.
        rest: bool,
    },
    /// These topics are to be followed; the set replaces the one before.
    Follow(BTreeSet<Topic>),
    /// There may be news of a topic: somebody says so, or somebody who may know came.
    Hint(Topic),
    /// A look for news ended; `found` says whether any Head of the topic is known now.
    Polled {
        /// The topic.
        topic: Topic,
        /// Whether all is well.
        found: bool,
    },
}

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write what was published in a Project into its Catalog.
    Flush(Project),
    /// Look for news of a topic.
    Poll(Topic),
    /// A topic is no longer followed.
    Forget(Topic),
}

#[derive(Debug, Default)]
struct Own {
    due: Option<Moment>,
    flushing: bool,
    again: bool,
}

#[derive(Debug)]
struct Followed {
    due: Moment,
    /// Not before this, whatever anybody says.
    rests_until: Moment,
    /// Whether the look that runs may have come too early.
    again: bool,
    backoff: Backoff,
}

/// The Plan.
#[derive(Debug, Default)]
pub struct Catalogs {
    own: BTreeMap<Project, Own>,
    shared: BTreeSet<Project>,
    followed: BTreeMap<Topic, Followed>,
    /// Looks for news that have not ended, even if the topic is not followed any more.
    polling: BTreeSet<Topic>,
    actions: VecDeque<Action>,
}

impl Catalogs {
    /// Nothing shared, nobody followed.
    pub fn new() -> Self {
        Self::default()
    }

    fn published(&mut self, now: Moment, project: Project) {
        let own = self.own.entry(project).or_default();
        if own.flushing {
            own.again = true;
        } else if own.due.is_none() {
            own.due = Some(now.plus(FLUSH_AFTER));
        }
    }

    fn follow(&mut self, now: Moment, topics: BTreeSet<Topic>) {
        let gone: Vec<_> = self.followed.keys().filter(|topic| !topics.contains(*topic)).cloned().collect();
        for topic in gone {
            self.followed.remove(&topic);
            self.actions.push_back(Action::Forget(topic));
        }
        for topic in topics {
            let backoff = Backoff::new(RETRY_FIRST, POLL_EVERY);
            let again = self.polling.contains(&topic);
            self.followed.entry(topic).or_insert(Followed { due: now, rests_until: now, again, backoff });
        }
    }

    fn polled(&mut self, now: Moment, topic: &Topic, found: bool) {
        self.polling.remove(topic);
        let Some(followed) = self.followed.get_mut(topic) else { return };
        let again = std::mem::take(&mut followed.again);
        followed.rests_until = now.plus(POLL_GAP);
        followed.due = match (again, found) {
            (true, _) => followed.rests_until,
            (false, true) => {
                followed.backoff.reset();
                now.plus(POLL_EVERY)
            }
            (false, false) => now.plus(followed.backoff.step()),
        };
    }
}

impl Plan for Catalogs {
    type Event = Event;
    type Action = Action;

    fn feed(&mut self, now: Moment, event: Event) {
        match event {
            Event::Share(projects) => self.shared = projects,
            Event::Published(project) => self.published(now, project),
            Event::Flushed { project, rest } => {
                let own = self.own.entry(project).or_default();
                own.flushing = false;
                let again = std::mem::take(&mut own.again) || rest;
                own.due = again.then(|| now.plus(FLUSH_AFTER));
            }
            Event::Follow(topics) => self.follow(now, topics),
            Event::Hint(topic) => {
                if let Some(followed) = self.followed.get_mut(&topic) {
                    // A hint that comes during a look may be about what that look has passed already.
                    if self.polling.contains(&topic) {
                        followed.again = true;
                    } else {
                        followed.due = followed.due.min(now.max(followed.rests_until));
                    }
                }
            }
            Event::Polled { topic, found } => self.polled(now, &topic, found),
        }
    }

    fn take(&mut self, now: Moment) -> Option<Action> {
        if let Some(action) = self.actions.pop_front() {
            return Some(action);
        }
        let due = |own: &Own| own.due.is_some_and(|due| due <= now);
        for (project, own) in &mut self.own {
            if due(own) && self.shared.contains(project) {
                own.due = None;
                own.flushing = true;
                return Some(Action::Flush(project.clone()));
            }
        }
        if self.polling.len() >= MAX_POLLS {
            return None;
        }
        let idle = self.followed.iter().filter(|(topic, _)| !self.polling.contains(*topic));
        let (topic, _) = idle.filter(|(_, followed)| followed.due <= now).min_by_key(|(_, one)| one.due)?;
        let topic = topic.clone();
        self.polling.insert(topic.clone());
        Some(Action::Poll(topic))
    }

    fn wake_at(&self) -> Option<Moment> {
        let own = self.own.iter().filter(|(project, _)| self.shared.contains(*project));
        let flushes = own.filter_map(|(_, own)| own.due);
        // One that waits for a place is looked at when another one ends.
        let room = self.polling.len() < MAX_POLLS;
        let idle = self.followed.iter().filter(|(topic, _)| room && !self.polling.contains(*topic));
        flushes.chain(idle.map(|(_, followed)| followed.due)).min()
    }
}

#[cfg(test)]
mod tests {
    use potluck_keys::pair::Signer;

    use super::*;

    fn at(ms: u64) -> Moment {
        Moment::after_start(Duration::from_millis(ms))
    }

    fn project(name: &str) -> Project {
        Project::new(name).unwrap()
    }

    fn all(plan: &mut Catalogs, now: Moment) -> Vec<Action> {
        let actions = std::iter::from_fn(|| plan.take(now)).collect();
        assert!(plan.wake_at().is_none_or(|at| at > now));
        actions
    }

    #[test]
    fn publications_are_written_together_and_none_is_left() {
        let mut plan = Catalogs::new();
        let p = project("p");
        plan.feed(at(0), Event::Published(p.clone()));
        assert_eq!(all(&mut plan, at(10_000)), [], "it is not shared");
        plan.feed(at(10_000), Event::Share([p.clone()].into()));
        assert_eq!(all(&mut plan, at(10_000)), [Action::Flush(p.clone())]);
        plan.feed(at(10_001), Event::Published(p.clone()));
        plan.feed(at(10_002), Event::Published(p.clone()));
        assert_eq!(all(&mut plan, at(20_000)), [], "it is being written");
        plan.feed(at(20_000), Event::Flushed { project: p.clone(), rest: false });
        assert_eq!(plan.wake_at(), Some(at(20_300)));
        assert_eq!(all(&mut plan, at(20_300)), [Action::Flush(p.clone())]);
        plan.feed(at(20_400), Event::Flushed { project: p, rest: false });
        assert_eq!(plan.wake_at(), None);
    }

    #[test]
    fn news_are_looked_for_more_and_more_rarely_until_some_come() {
        let mut plan = Catalogs::new();
        let topic = Topic { signer: Signer::from_bytes([1; 32]), project: project("p") };
        let poll = [Action::Poll(topic.clone())];
        plan.feed(at(0), Event::Follow([topic.clone()].into()));
        assert_eq!(all(&mut plan, at(0)), poll);
        let polled = |found| Event::Polled { topic: topic.clone(), found };
        plan.feed(at(100), polled(false));
        assert_eq!(plan.wake_at(), Some(at(600)));
        assert_eq!(all(&mut plan, at(600)), poll);
        plan.feed(at(600), polled(false));
        assert_eq!(plan.wake_at(), Some(at(1_600)));
        plan.feed(at(700), Event::Hint(topic.clone()));
        assert_eq!(all(&mut plan, at(700)), poll);
        plan.feed(at(800), Event::Hint(topic.clone()));
        plan.feed(at(900), polled(true));
        assert_eq!(all(&mut plan, at(999)), [], "not even hints make it restless");
        assert_eq!(all(&mut plan, at(1_000)), poll, "the hint may have come too late for that look");
        plan.feed(at(1_000), polled(true));
        assert_eq!(plan.wake_at(), Some(at(1_000).plus(POLL_EVERY)));
        plan.feed(at(1_000), Event::Follow(BTreeSet::new()));
        assert_eq!(all(&mut plan, at(1_000)), [Action::Forget(topic.clone())]);
        plan.feed(at(1_000), Event::Hint(topic));
        assert_eq!(plan.wake_at(), None);
    }

    #[test]
    fn a_topic_that_is_followed_again_is_looked_at_once_at_a_time() {
        let mut plan = Catalogs::new();
        let topic = Topic { signer: Signer::from_bytes([1; 32]), project: project("p") };
        let poll = [Action::Poll(topic.clone())];
        plan.feed(at(0), Event::Follow([topic.clone()].into()));
        assert_eq!(all(&mut plan, at(0)), poll);
        plan.feed(at(1), Event::Follow(BTreeSet::new()));
        plan.feed(at(2), Event::Follow([topic.clone()].into()));
        assert_eq!(all(&mut plan, at(2)), [Action::Forget(topic.clone())]);
        plan.feed(at(3), Event::Polled { topic, found: true });
        assert_eq!(all(&mut plan, at(103)), poll, "that look was for another follower");
    }

    /// One random world: flushes and looks for news end once each, whenever chance has it.
    fn world(seed: u64) -> Vec<String> {
        let mut chance = fastrand::Rng::with_seed(seed);
        let topics: Vec<_> = (0..40)
            .map(|number| Topic { signer: Signer::from_bytes([number; 32]), project: project("p") })
            .collect();
        let projects = ["a", "b", "c"].map(project);
        let some = |chance: &mut fastrand::Rng| topics.iter().filter(|_| chance.bool()).cloned().collect();
        let (mut plan, mut now, mut log) = (Catalogs::new(), 0, Vec::new());
        let (mut polls, mut flushes) = (Vec::<Topic>::new(), Vec::<Project>::new());
        let (mut shared, mut unwritten) = (BTreeSet::new(), BTreeSet::new());
        for step in 0..400 {
            let last = step >= 300;
            let event = match chance.u8(..9) {
                0 if !last => Event::Follow(some(&mut chance)),
                1 if !last => {
                    shared = projects.iter().filter(|_| chance.bool()).cloned().collect();
                    Event::Share(shared.clone())
                }
                2 if !last => {
                    let project = projects[chance.usize(..3)].clone();
                    unwritten.insert(project.clone());
                    Event::Published(project)
                }
                3 | 4 if !flushes.is_empty() => {
                    let project = flushes.swap_remove(chance.usize(..flushes.len()));
                    Event::Flushed { project, rest: !last && chance.u8(..5) == 0 }
                }
                5..7 if !polls.is_empty() => {
                    let topic = polls.swap_remove(chance.usize(..polls.len()));
                    Event::Polled { topic, found: chance.bool() }
                }
                _ => Event::Hint(topics[chance.usize(..topics.len())].clone()),
            };
            log.push(format!("{now} {event:?}"));
            plan.feed(at(now), event);
            for action in all(&mut plan, at(now)) {
                log.push(format!("{now} {action:?}"));
                match action {
                    Action::Flush(project) => {
                        assert!(shared.contains(&project) && !flushes.contains(&project));
                        unwritten.remove(&project);
                        flushes.push(project);
                    }
                    Action::Poll(topic) => {
                        assert!(!polls.contains(&topic) && polls.len() < MAX_POLLS);
                        polls.push(topic);
                    }
                    Action::Forget(_) => {}
                }
            }
            now += chance.u64(..200);
        }
        let left: Vec<_> = unwritten.intersection(&shared).filter(|one| !flushes.contains(*one)).collect();
        assert!(left.is_empty(), "{left:?} is not written");
        log
    }

    #[test]
    fn in_any_world_everything_is_written_and_looked_for_once_at_a_time() {
        for seed in 0..300 {
            let run = std::panic::catch_unwind(|| world(seed)).unwrap_or_else(|_| panic!("seed {seed}"));
            assert!(seed > 20 || run == world(seed), "seed {seed} is told differently");
        }
    }
}
