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
    polling: bool,
    again: bool,
    backoff: Backoff,
}

/// The Plan.
#[derive(Debug, Default)]
pub struct Catalogs {
    own: BTreeMap<Project, Own>,
    shared: BTreeSet<Project>,
    followed: BTreeMap<Topic, Followed>,
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
            self.followed.entry(topic).or_insert(Followed {
                due: now,
                polling: false,
                again: false,
                backoff,
            });
        }
    }

    fn polled(&mut self, now: Moment, topic: &Topic, found: bool) {
        let Some(followed) = self.followed.get_mut(topic) else { return };
        followed.polling = false;
        let again = std::mem::take(&mut followed.again);
        followed.due = match (again, found) {
            (true, _) => now,
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
                    if followed.polling {
                        followed.again = true;
                    } else {
                        followed.due = now;
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
        let (topic, followed) =
            self.followed.iter_mut().find(|(_, followed)| !followed.polling && followed.due <= now)?;
        followed.polling = true;
        Some(Action::Poll(topic.clone()))
    }

    fn wake_at(&self) -> Option<Moment> {
        let own = self.own.iter().filter(|(project, _)| self.shared.contains(*project));
        let flushes = own.filter_map(|(_, own)| own.due);
        let idle = self.followed.values().filter(|followed| !followed.polling);
        flushes.chain(idle.map(|followed| followed.due)).min()
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
        assert_eq!(all(&mut plan, at(900)), poll, "the hint may have come too late for that look");
        plan.feed(at(1_000), polled(true));
        assert_eq!(plan.wake_at(), Some(at(1_000).plus(POLL_EVERY)));
        plan.feed(at(1_000), Event::Follow(BTreeSet::new()));
        assert_eq!(all(&mut plan, at(1_000)), [Action::Forget(topic.clone())]);
        plan.feed(at(1_000), Event::Hint(topic));
        assert_eq!(plan.wake_at(), None);
    }
}
