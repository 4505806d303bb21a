// SPDX-License-Identifier: MIT OR Apache-2.0
//! When to write what was published into a Catalog, when to merge its Segments, and when to look for news of those that
//! are followed.
//!
//! Looks for news have stages, from the cheapest: what earlier runs left on the disk, then what peers pushed, then the
//! peers that are connected and hold or follow the topic, and the DHT only when no holder could say anything, or now and
//! then.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use potluck_protocol::action::Project;
use potluck_protocol::peer::Topic;
use serde::Serialize;

use crate::plan::{Backoff, Moment, Plan};

/// How long after a publication the Catalog is written when nothing was written just before: what one tool publishes at
/// once goes together.
pub const FLUSH_SOON: Duration = Duration::from_millis(10);
/// How long at least lies between the beginnings of two writes; what is published meanwhile goes together.
pub const FLUSH_EVERY: Duration = Duration::from_millis(80);
/// Most time that a Catalog rests after a write that took long. Up to that it rests four times as long as the write took,
/// so that writing takes at most a fifth of the time, and on a slow disk more goes together.
pub const FLUSH_REST: Duration = Duration::from_millis(500);
/// How soon a write or a merge that failed is tried again, at first and at last.
pub const FLUSH_AGAIN: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(300));
/// How often peers are asked for news that nobody pushes, or somewhat more often; see [`JITTER`].
pub const POLL_EVERY: Duration = Duration::from_secs(60);
/// How often the DHT is asked although holders answer, or somewhat more often: all of them may be behind, or keep
/// something back.
pub const DHT_EVERY: Duration = Duration::from_secs(600);
/// How soon a look that found nothing is repeated, at first.
pub const RETRY_FIRST: Duration = Duration::from_millis(500);
/// How long a topic is left alone after a look, whatever anybody says of it. What was pushed does not wait.
pub const POLL_GAP: Duration = Duration::from_millis(100);
/// Most peers that are asked for news at a time.
pub const MAX_PULLED: usize = 4;
/// Most looks at a time at what is on the disk and at what peers say.
pub const MAX_POLLS: usize = 16;
/// Most walks of the DHT at a time, beside those: each takes seconds where somebody cannot be reached any more.
pub const MAX_WALKS: usize = 16;
/// Most looks at what was pushed at a time, beside those.
pub const MAX_TAKES: usize = 16;
/// How much earlier than planned a look may be made, in parts of a hundred: followers of one Catalog must not all ask at
/// once. Never later: the interval is what people are told.
pub const JITTER: u64 = 25;

/// Where news are looked for; shown to people as how a Catalog came.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Source {
    /// What earlier runs kept on the disk.
    Disk,
    /// What peers pushed.
    Push,
    /// Peers that are connected and hold or follow the topic.
    Poll,
    /// The DHT.
    Dht,
}

/// Who is asked for news of a topic, with whether they hold it: holders, and where those are few, some who follow it as
/// well. Those have its Catalog too, and may reach whom this node cannot. Others are asked the next `turn`.
pub fn whom<T: Ord + Clone>(holders: &[T], followers: &[T], turn: usize) -> BTreeMap<T, bool> {
    let turned = |peers: &[T]| {
        let first = turn % peers.len().max(1);
        peers.iter().cycle().skip(first).take(peers.len()).cloned().collect::<Vec<_>>()
    };
    let mut asked: BTreeMap<_, _> =
        turned(holders).into_iter().take(MAX_PULLED).map(|peer| (peer, true)).collect();
    for peer in turned(followers) {
        if asked.len() < MAX_PULLED {
            asked.entry(peer).or_insert(false);
        }
    }
    asked
}

/// What came of a write.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Wrote {
    /// All that was published is listed.
    All,
    /// As much as one write may list; there is more.
    Part,
    /// Nothing was written.
    Failed,
}

/// What came of a look for news.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Found {
    /// What is newest there is known here now.
    Well,
    /// Nobody could say anything who should know it.
    Nothing,
    /// Something was refused or could not be had.
    Failed,
}

/// What can happen.
#[derive(Debug)]
pub enum Event {
    /// These Projects are shared, and hence have Catalogs; the set replaces the one before.
    Share(BTreeSet<Project>),
    /// An own Entry was stored.
    Published(Project),
    /// A write ended.
    Flushed {
        /// The Project.
        project: Project,
        /// What came of it.
        wrote: Wrote,
        /// Whether Segments are waiting to be merged.
        merge: bool,
    },
    /// A merge ended.
    Merged {
        /// The Project.
        project: Project,
        /// Whether more Segments are waiting to be merged; nothing when it failed.
        more: Option<bool>,
    },
    /// These topics are to be followed; the set replaces the one before.
    Follow(BTreeSet<Topic>),
    /// There may be news of a topic: somebody says so, or somebody who may know came.
    Hint(Topic),
    /// A peer pushed a Head of a topic that is news.
    Pushed(Topic),
    /// A look for news ended.
    Looked {
        /// The topic.
        topic: Topic,
        /// Where news were looked for.
        source: Source,
        /// What came of it.
        found: Found,
    },
}

/// What can be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Write what was published in a Project into its Catalog.
    Flush(Project),
    /// Merge some Segments of a Project's Catalog, beside whatever is written.
    Merge(Project),
    /// Look for news of a topic.
    Look(Topic, Source),
    /// A topic is no longer followed.
    Forget(Topic),
}

#[derive(Debug)]
struct Own {
    due: Option<Moment>,
    /// No write begins before this.
    rests_until: Moment,
    /// When the write that runs began.
    flushing: Option<Moment>,
    again: bool,
    backoff: Backoff,
    merge: Option<Moment>,
    merging: bool,
    merge_backoff: Backoff,
}

impl Default for Own {
    fn default() -> Self {
        let backoff = Backoff::new(FLUSH_AGAIN.0, FLUSH_AGAIN.1);
        Self {
            due: None,
            rests_until: Moment::default(),
            flushing: None,
            again: false,
            backoff,
            merge: None,
            merging: false,
            merge_backoff: backoff,
        }
    }
}

impl Own {
    fn published(&mut self, now: Moment) {
        if self.flushing.is_some() {
            self.again = true;
        } else if self.due.is_none() {
            self.due = Some(now.plus(FLUSH_SOON).max(self.rests_until));
        }
    }

    fn flushed(&mut self, now: Moment, wrote: Wrote) {
        let Some(began) = self.flushing.take() else { return };
        let again = std::mem::take(&mut self.again);
        let took = now.since(began);
        self.rests_until = now.plus((took * 4).min(FLUSH_REST)).max(began.plus(FLUSH_EVERY));
        if wrote != Wrote::Failed {
            self.backoff.reset();
        }
        self.due = match wrote {
            Wrote::All => again.then_some(self.rests_until),
            Wrote::Part => Some(now.plus(took.min(FLUSH_REST))),
            // What is published meanwhile does not make a full disk any emptier.
            Wrote::Failed => {
                self.rests_until = now.plus(self.backoff.step());
                Some(self.rests_until)
            }
        };
    }

    fn merged(&mut self, now: Moment, more: Option<bool>) {
        self.merging = false;
        match more {
            Some(more) => {
                self.merge_backoff.reset();
                self.merge = if more { Some(now) } else { self.merge };
            }
            None => self.merge = Some(now.plus(self.merge_backoff.step())),
        }
    }
}

#[derive(Debug)]
struct Followed {
    /// When to look again; nothing while a look goes on that will say.
    due: Option<Moment>,
    /// Where to look then.
    source: Source,
    /// Not before this, whatever anybody says.
    rests_until: Moment,
    /// Whether the look at what peers say that runs may have come too early.
    again: bool,
    /// Whether anything was pushed that nobody looked at.
    pushed: bool,
    /// When the DHT is asked although peers answer.
    dht: Moment,
    backoff: Backoff,
}

/// The Plan.
#[derive(Debug)]
pub struct Catalogs {
    own: BTreeMap<Project, Own>,
    shared: BTreeSet<Project>,
    followed: BTreeMap<Topic, Followed>,
    /// Looks at the disk and at what peers say that have not ended, even if the topic is not followed any more.
    polling: BTreeSet<Topic>,
    /// Walks of the DHT that have not ended.
    walking: BTreeSet<Topic>,
    /// Looks at what was pushed that have not ended.
    taking: BTreeSet<Topic>,
    actions: VecDeque<Action>,
    chance: fastrand::Rng,
}

impl Catalogs {
    /// Nothing shared, nobody followed. Nodes with different seeds do not ask at the same times.
    pub fn new(seed: u64) -> Self {
        Self {
            own: BTreeMap::new(),
            shared: BTreeSet::new(),
            followed: BTreeMap::new(),
            polling: BTreeSet::new(),
            walking: BTreeSet::new(),
            taking: BTreeSet::new(),
            actions: VecDeque::new(),
            chance: fastrand::Rng::with_seed(seed),
        }
    }

    fn jitter(&mut self, span: Duration) -> Duration {
        let parts = self.chance.u64(100 - JITTER..=100);
        span.mul_f64(parts as f64 / 100.0)
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
            let (source, pushed) = (Source::Disk, false);
            let due = Some(now);
            let new = Followed { due, source, rests_until: now, again, pushed, dht: now, backoff };
            self.followed.entry(topic).or_insert(new);
        }
    }

    fn looked(&mut self, now: Moment, (topic, source): (&Topic, Source), found: Found) {
        if source == Source::Push {
            self.taking.remove(topic);
            // Whoever pushed it may have gone before its Catalog came; somebody else may have it.
            if found != Found::Well {
                self.hint(now, topic);
            }
            return;
        }
        let walked = source == Source::Dht;
        if walked { &mut self.walking } else { &mut self.polling }.remove(topic);
        let (every, dht) = (self.jitter(POLL_EVERY), self.jitter(DHT_EVERY));
        let (polling, walking) = (self.polling.contains(topic), self.walking.contains(topic));
        let Some(followed) = self.followed.get_mut(topic) else { return };
        followed.rests_until = now.plus(POLL_GAP);
        if walked {
            followed.dht = now.plus(dht);
        }
        if found == Found::Well && source != Source::Disk {
            followed.backoff.reset();
        }
        // What peers say is looked at beside a walk when there is a reason, and then goes by itself.
        if walked && (polling || followed.due.is_some()) {
            return;
        }
        let again = !walked && std::mem::take(&mut followed.again);
        (followed.due, followed.source) = match (source, found) {
            (Source::Disk, _) => (Some(now), Source::Poll),
            _ if again => (Some(followed.rests_until), Source::Poll),
            (Source::Poll, Found::Nothing | Found::Failed) if walking => (None, Source::Poll),
            (Source::Poll, Found::Nothing | Found::Failed) => (Some(now), Source::Dht),
            (Source::Poll, Found::Well) if followed.dht <= now && !walking => (Some(now), Source::Dht),
            (_, Found::Well) => (Some(now.plus(every)), Source::Poll),
            (_, Found::Nothing | Found::Failed) => (Some(now.plus(followed.backoff.step())), Source::Poll),
        };
    }

    /// There may be news. A walk of the DHT that goes on is not waited for, and none is begun before peers were asked.
    fn hint(&mut self, now: Moment, topic: &Topic) {
        let Some(followed) = self.followed.get_mut(topic) else { return };
        // A hint that comes during a look may be about what that look has passed already.
        if self.polling.contains(topic) {
            followed.again = true;
            return;
        }
        let soon = now.max(followed.rests_until);
        followed.due = Some(followed.due.map_or(soon, |due| due.min(soon)));
        if followed.source == Source::Dht {
            followed.source = Source::Poll;
        }
    }

    /// Whether a look at this source can be begun.
    fn may(&self, topic: &Topic, source: Source) -> bool {
        let (running, most) = match source {
            Source::Dht => (&self.walking, MAX_WALKS),
            _ => (&self.polling, MAX_POLLS),
        };
        running.len() < most && !running.contains(topic)
    }

    fn flush(&mut self, now: Moment) -> Option<Action> {
        let shared = &self.shared;
        let mut own = self.own.iter_mut().filter(|(project, _)| shared.contains(*project));
        let (project, own) = own.find(|(_, own)| own.due.is_some_and(|due| due <= now))?;
        own.due = None;
        own.flushing = Some(now);
        Some(Action::Flush(project.clone()))
    }

    /// One merge at a time: it reads and writes more than anything else here, and nobody waits for it.
    fn merge(&mut self, now: Moment) -> Option<Action> {
        if self.own.values().any(|own| own.merging) {
            return None;
        }
        let (project, own) = self.own.iter_mut().find(|(_, own)| own.merge.is_some_and(|due| due <= now))?;
        own.merge = None;
        own.merging = true;
        Some(Action::Merge(project.clone()))
    }

    fn look(&mut self, now: Moment) -> Option<Action> {
        if self.taking.len() < MAX_TAKES {
            let taking = &self.taking;
            let mut pushed =
                self.followed.iter_mut().filter(|(topic, one)| one.pushed && !taking.contains(*topic));
            if let Some((topic, one)) = pushed.next() {
                one.pushed = false;
                let topic = topic.clone();
                self.taking.insert(topic.clone());
                return Some(Action::Look(topic, Source::Push));
            }
        }
        let due = self.followed.iter().filter(|(_, one)| one.due.is_some_and(|due| due <= now));
        let first = due.filter(|(topic, one)| self.may(topic, one.source)).min_by_key(|(_, one)| one.due)?;
        let (topic, source) = (first.0.clone(), first.1.source);
        self.followed.get_mut(&topic)?.due = None;
        if source == Source::Dht { &mut self.walking } else { &mut self.polling }.insert(topic.clone());
        Some(Action::Look(topic, source))
    }
}

impl Plan for Catalogs {
    type Event = Event;
    type Action = Action;

    fn feed(&mut self, now: Moment, event: Event) {
        match event {
            Event::Share(projects) => {
                self.own.retain(|project, own| {
                    projects.contains(project) || own.due.is_some() || own.flushing.is_some() || own.merging
                });
                self.shared = projects;
            }
            Event::Published(project) => self.own.entry(project).or_default().published(now),
            Event::Flushed { project, wrote, merge } => {
                let own = self.own.entry(project).or_default();
                own.flushed(now, wrote);
                if merge && own.merge.is_none() {
                    own.merge = Some(now);
                }
            }
            Event::Merged { project, more } => self.own.entry(project).or_default().merged(now, more),
            Event::Follow(topics) => self.follow(now, topics),
            Event::Hint(topic) => self.hint(now, &topic),
            Event::Pushed(topic) => {
                if let Some(followed) = self.followed.get_mut(&topic) {
                    followed.pushed = true;
                }
            }
            Event::Looked { topic, source, found } => self.looked(now, (&topic, source), found),
        }
    }

    fn take(&mut self, now: Moment) -> Option<Action> {
        let waiting = self.actions.pop_front();
        waiting.or_else(|| self.flush(now)).or_else(|| self.merge(now)).or_else(|| self.look(now))
    }

    fn wake_at(&self) -> Option<Moment> {
        let own = self.own.iter().filter(|(project, _)| self.shared.contains(*project));
        let flushes = own.filter_map(|(_, own)| own.due);
        // What waits for a place is looked at when another one ends.
        let merging = self.own.values().any(|own| own.merging);
        let merges = self.own.values().filter_map(|own| own.merge.filter(|_| !merging));
        let idle = self.followed.iter().filter(|(topic, one)| self.may(topic, one.source));
        flushes.chain(merges).chain(idle.filter_map(|(_, followed)| followed.due)).min()
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

    fn topic() -> Topic {
        Topic { signer: Signer::from_bytes([1; 32]), project: project("p") }
    }

    fn all(plan: &mut Catalogs, now: Moment) -> Vec<Action> {
        let actions = std::iter::from_fn(|| plan.take(now)).collect();
        assert!(plan.wake_at().is_none_or(|at| at > now));
        actions
    }

    fn flushed(wrote: Wrote) -> Event {
        Event::Flushed { project: project("p"), wrote, merge: false }
    }

    #[test]
    fn the_first_publication_after_quiet_is_written_at_once_and_the_next_ones_together() {
        let mut plan = Catalogs::new(0);
        let p = project("p");
        let flush = [Action::Flush(p.clone())];
        plan.feed(at(0), Event::Published(p.clone()));
        assert_eq!(all(&mut plan, at(9_000)), [], "it is not shared");
        plan.feed(at(9_000), Event::Share([p.clone()].into()));
        assert_eq!(all(&mut plan, at(9_000)), flush);
        plan.feed(at(9_001), Event::Published(p.clone()));
        plan.feed(at(9_002), Event::Published(p.clone()));
        assert_eq!(all(&mut plan, at(9_020)), [], "it is being written");
        plan.feed(at(9_020), flushed(Wrote::All));
        assert_eq!(plan.wake_at(), Some(at(9_100)), "not more often than that");
        assert_eq!(all(&mut plan, at(9_100)), flush);
        plan.feed(at(9_110), flushed(Wrote::All));
        assert_eq!(plan.wake_at(), None);
        plan.feed(at(10_000), Event::Published(p.clone()));
        assert_eq!(plan.wake_at(), Some(at(10_010)), "it was quiet for a while");
        assert_eq!(all(&mut plan, at(10_010)), flush);
        plan.feed(at(20_000), Event::Published(p));
        plan.feed(at(20_010), flushed(Wrote::All));
        assert_eq!(
            plan.wake_at(),
            Some(at(20_510)),
            "after a write that took long it rests, and not for long"
        );
    }

    #[test]
    fn what_failed_is_tried_more_and_more_rarely_and_what_was_too_much_at_once() {
        let mut plan = Catalogs::new(0);
        let p = project("p");
        let flush = [Action::Flush(p.clone())];
        plan.feed(at(0), Event::Share([p.clone()].into()));
        plan.feed(at(0), Event::Published(p.clone()));
        assert_eq!(all(&mut plan, at(10)), flush);
        plan.feed(at(20), flushed(Wrote::Part));
        assert_eq!(all(&mut plan, at(30)), flush, "the rest does not wait");
        plan.feed(at(40), flushed(Wrote::Failed));
        assert_eq!(plan.wake_at(), Some(at(1_040)));
        plan.feed(at(50), Event::Published(p.clone()));
        assert_eq!(plan.wake_at(), Some(at(1_040)), "more to write does not make the disk emptier");
        assert_eq!(all(&mut plan, at(1_040)), flush);
        plan.feed(at(1_050), flushed(Wrote::Failed));
        assert_eq!(plan.wake_at(), Some(at(3_050)));
        assert_eq!(all(&mut plan, at(3_050)), flush);
        plan.feed(at(3_060), flushed(Wrote::All));
        assert_eq!(plan.wake_at(), None);
        plan.feed(at(4_000), Event::Published(p));
        assert_eq!(all(&mut plan, at(4_010)), flush, "all is well again");
    }

    #[test]
    fn segments_are_merged_beside_what_is_written_one_catalog_at_a_time() {
        let mut plan = Catalogs::new(0);
        let (p, q) = (project("p"), project("q"));
        plan.feed(at(0), Event::Share([p.clone(), q.clone()].into()));
        for one in [&p, &q] {
            plan.feed(at(0), Event::Published(one.clone()));
        }
        assert_eq!(all(&mut plan, at(10)), [Action::Flush(p.clone()), Action::Flush(q.clone())]);
        for one in [&p, &q] {
            plan.feed(at(20), Event::Flushed { project: one.clone(), wrote: Wrote::All, merge: true });
        }
        assert_eq!(all(&mut plan, at(20)), [Action::Merge(p.clone())]);
        plan.feed(at(400), Event::Published(p.clone()));
        assert_eq!(all(&mut plan, at(410)), [Action::Flush(p.clone())], "nobody waits for a merge");
        plan.feed(at(500), Event::Merged { project: p.clone(), more: None });
        assert_eq!(all(&mut plan, at(500)), [Action::Merge(q.clone())]);
        plan.feed(at(600), Event::Merged { project: q.clone(), more: Some(true) });
        assert_eq!(all(&mut plan, at(600)), [Action::Merge(q.clone())]);
        plan.feed(at(700), Event::Merged { project: q, more: Some(false) });
        assert_eq!(plan.wake_at(), Some(at(1_500)), "what failed is tried again later");
        assert_eq!(all(&mut plan, at(1_500)), [Action::Merge(p)]);
    }

    #[test]
    fn news_are_looked_for_where_that_is_cheapest_and_more_and_more_rarely() {
        let mut plan = Catalogs::new(0);
        let topic = topic();
        let look = |source| [Action::Look(topic.clone(), source)];
        let looked = |source, found| Event::Looked { topic: topic.clone(), source, found };
        plan.feed(at(0), Event::Follow([topic.clone()].into()));
        assert_eq!(all(&mut plan, at(0)), look(Source::Disk), "no packet for what is here");
        plan.feed(at(1), looked(Source::Disk, Found::Nothing));
        assert_eq!(all(&mut plan, at(1)), look(Source::Poll));
        plan.feed(at(2), looked(Source::Poll, Found::Nothing));
        assert_eq!(all(&mut plan, at(2)), look(Source::Dht), "nobody is connected who could say");
        plan.feed(at(100), looked(Source::Dht, Found::Nothing));
        assert_eq!(plan.wake_at(), Some(at(600)));
        assert_eq!(all(&mut plan, at(600)), look(Source::Poll));
        plan.feed(at(600), looked(Source::Poll, Found::Well));
        let due = plan.wake_at().unwrap();
        assert!(due >= at(600 + 45_000) && due <= at(600 + 60_000), "{due:?}");
        plan.feed(at(700), Event::Hint(topic.clone()));
        assert_eq!(all(&mut plan, at(700)), look(Source::Poll));
        plan.feed(at(800), Event::Hint(topic.clone()));
        plan.feed(at(900), looked(Source::Poll, Found::Well));
        assert_eq!(all(&mut plan, at(999)), [], "not even hints make it restless");
        assert_eq!(
            all(&mut plan, at(1_000)),
            look(Source::Poll),
            "the hint may have come too late for that look"
        );
        plan.feed(at(900_000), looked(Source::Poll, Found::Well));
        assert_eq!(all(&mut plan, at(900_000)), look(Source::Dht), "now and then, whatever the peers say");
        plan.feed(at(900_001), looked(Source::Dht, Found::Well));
        plan.feed(at(900_002), Event::Follow(BTreeSet::new()));
        assert_eq!(all(&mut plan, at(900_002)), [Action::Forget(topic.clone())]);
        plan.feed(at(900_003), Event::Hint(topic.clone()));
        plan.feed(at(900_003), Event::Pushed(topic));
        assert_eq!(all(&mut plan, at(999_999)), []);
        assert_eq!(plan.wake_at(), None);
    }

    #[test]
    fn who_says_that_there_is_news_waits_for_no_walk() {
        let mut plan = Catalogs::new(0);
        let topic = topic();
        let look = |source| [Action::Look(topic.clone(), source)];
        let looked = |source, found| Event::Looked { topic: topic.clone(), source, found };
        plan.feed(at(0), Event::Follow([topic.clone()].into()));
        assert_eq!(all(&mut plan, at(0)), look(Source::Disk));
        plan.feed(at(1), looked(Source::Disk, Found::Nothing));
        assert_eq!(all(&mut plan, at(1)), look(Source::Poll));
        // The hint comes after that look ended, and before the next one begins.
        plan.feed(at(2), looked(Source::Poll, Found::Nothing));
        plan.feed(at(2), Event::Hint(topic.clone()));
        assert_eq!(all(&mut plan, at(2)), look(Source::Poll), "peers are asked before the DHT is");
        plan.feed(at(200), looked(Source::Poll, Found::Nothing));
        assert_eq!(all(&mut plan, at(200)), look(Source::Dht));
        assert_eq!(plan.wake_at(), None);
        plan.feed(at(400), Event::Hint(topic.clone()));
        assert_eq!(all(&mut plan, at(400)), look(Source::Poll), "beside the walk");
        plan.feed(at(500), looked(Source::Poll, Found::Nothing));
        assert_eq!(plan.wake_at(), None, "the walk goes on");
        plan.feed(at(600), Event::Hint(topic.clone()));
        assert_eq!(all(&mut plan, at(600)), look(Source::Poll));
        plan.feed(at(601), looked(Source::Dht, Found::Nothing));
        assert_eq!(plan.wake_at(), None, "that look says when the next one is");
        plan.feed(at(700), looked(Source::Poll, Found::Well));
        let due = plan.wake_at().unwrap();
        assert!(due >= at(700 + 45_000) && due <= at(700 + 60_000), "{due:?}");
    }

    #[test]
    fn what_is_pushed_waits_for_no_other_look() {
        let mut plan = Catalogs::new(0);
        let topic = topic();
        plan.feed(at(0), Event::Follow([topic.clone()].into()));
        assert_eq!(all(&mut plan, at(0)).len(), 1);
        plan.feed(at(1), Event::Pushed(topic.clone()));
        assert_eq!(all(&mut plan, at(1)), [Action::Look(topic.clone(), Source::Push)]);
        plan.feed(at(2), Event::Pushed(topic.clone()));
        assert_eq!(all(&mut plan, at(2)), [], "one at a time");
        let looked = |source, found| Event::Looked { topic: topic.clone(), source, found };
        plan.feed(at(3), looked(Source::Push, Found::Well));
        assert_eq!(all(&mut plan, at(3)), [Action::Look(topic.clone(), Source::Push)]);
        plan.feed(at(4), looked(Source::Disk, Found::Well));
        assert_eq!(all(&mut plan, at(4)), [Action::Look(topic.clone(), Source::Poll)]);
        plan.feed(at(5), looked(Source::Push, Found::Failed));
        plan.feed(at(6), looked(Source::Poll, Found::Well));
        assert_eq!(plan.wake_at(), Some(at(106)), "somebody else may have what the pusher had not");
    }

    #[test]
    fn a_topic_that_is_followed_again_is_looked_at_once_at_a_time() {
        let mut plan = Catalogs::new(0);
        let topic = topic();
        plan.feed(at(0), Event::Follow([topic.clone()].into()));
        assert_eq!(all(&mut plan, at(0)), [Action::Look(topic.clone(), Source::Disk)]);
        plan.feed(at(1), Event::Follow(BTreeSet::new()));
        plan.feed(at(2), Event::Follow([topic.clone()].into()));
        assert_eq!(all(&mut plan, at(2)), [Action::Forget(topic.clone())]);
        plan.feed(at(3), Event::Looked { topic: topic.clone(), source: Source::Poll, found: Found::Well });
        assert_eq!(
            all(&mut plan, at(103)),
            [Action::Look(topic, Source::Poll)],
            "that look was for another follower"
        );
    }

    #[test]
    fn those_who_follow_are_asked_where_holders_are_few() {
        let asked = |holders: &[u8], followers: &[u8], turn| whom(holders, followers, turn);
        assert_eq!(asked(&[], &[], 7), BTreeMap::new());
        assert_eq!(asked(&[], &[1], 7), [(1, false)].into());
        assert_eq!(asked(&[1, 2], &[1, 2, 3], 7), [(1, true), (2, true), (3, false)].into());
        assert_eq!(asked(&[1, 2, 3, 4, 5], &[6], 3), [(1, true), (2, true), (4, true), (5, true)].into());
        let all: BTreeSet<_> = (0..9).flat_map(|turn| asked(&[0], &[1, 2, 3, 4, 5, 6, 7, 8], turn)).collect();
        assert_eq!(all.len(), 9, "everybody in turn");
    }

    #[test]
    fn nodes_do_not_ask_all_at_the_same_time() {
        let due = |seed| {
            let mut plan = Catalogs::new(seed);
            plan.feed(at(0), Event::Follow([topic()].into()));
            for source in [Source::Disk, Source::Poll, Source::Dht] {
                assert_eq!(all(&mut plan, at(0)), [Action::Look(topic(), source)]);
                plan.feed(at(0), Event::Looked { topic: topic(), source, found: Found::Well });
            }
            plan.wake_at().unwrap()
        };
        let dues: BTreeSet<_> = (0..100).map(due).collect();
        assert!(dues.len() > 20, "{}", dues.len());
        assert!(dues.iter().all(|due| *due <= at(60_000)), "nobody is asked later than people are told");
    }

    /// Looks of one kind are made once at a time for each topic, and so many of them for all.
    fn kind(source: Source) -> (u8, usize) {
        match source {
            Source::Push => (0, MAX_TAKES),
            Source::Disk | Source::Poll => (1, MAX_POLLS),
            Source::Dht => (2, MAX_WALKS),
        }
    }

    /// One random world: writes, merges and looks for news end once each, whenever chance has it.
    fn world(seed: u64) -> Vec<String> {
        let mut chance = fastrand::Rng::with_seed(seed);
        let topics: Vec<_> = (0..40)
            .map(|number| Topic { signer: Signer::from_bytes([number; 32]), project: project("p") })
            .collect();
        let projects = ["a", "b", "c"].map(project);
        let some = |chance: &mut fastrand::Rng| topics.iter().filter(|_| chance.bool()).cloned().collect();
        let (mut plan, mut now, mut log) = (Catalogs::new(seed), 0, Vec::new());
        let (mut looks, mut flushes) = (Vec::<(Topic, Source)>::new(), Vec::<Project>::new());
        let mut merges = Vec::<Project>::new();
        let (mut shared, mut unwritten) = (BTreeSet::new(), BTreeSet::new());
        for step in 0..400 {
            let last = step >= 300;
            let event = match chance.u8(..11) {
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
                    let wrote = match chance.u8(..5) {
                        0 if !last => Wrote::Part,
                        1 if !last => Wrote::Failed,
                        _ => Wrote::All,
                    };
                    if wrote != Wrote::All {
                        unwritten.insert(project.clone());
                    }
                    Event::Flushed { project, wrote, merge: chance.bool() }
                }
                5..7 if !looks.is_empty() => {
                    let (topic, source) = looks.swap_remove(chance.usize(..looks.len()));
                    let found = [Found::Well, Found::Nothing, Found::Failed][chance.usize(..3)];
                    Event::Looked { topic, source, found }
                }
                7 if !merges.is_empty() => Event::Merged {
                    project: merges.pop().unwrap(),
                    more: [None, Some(true), Some(false)][chance.usize(..3)],
                },
                8 => Event::Pushed(topics[chance.usize(..topics.len())].clone()),
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
                    Action::Merge(project) => {
                        assert!(merges.is_empty());
                        merges.push(project);
                    }
                    Action::Look(topic, source) => {
                        let same = |look: &&(Topic, Source)| kind(look.1) == kind(source);
                        assert!(!looks.iter().filter(same).any(|(other, _)| *other == topic));
                        assert!(looks.iter().filter(same).count() < kind(source).1);
                        looks.push((topic, source));
                    }
                    Action::Forget(_) => {}
                }
            }
            let looked_at =
                |topic: &Topic| looks.iter().any(|(other, source)| other == topic && *source != Source::Push);
            let forgotten = plan.followed.iter().find(|(topic, one)| one.due.is_none() && !looked_at(topic));
            assert!(forgotten.is_none(), "{forgotten:?}");
            now += if last { chance.u64(..2_000) } else { chance.u64(..200) };
        }
        let left: Vec<_> = unwritten.intersection(&shared).filter(|one| !flushes.contains(*one)).collect();
        assert!(left.iter().all(|one| plan.own[*one].due.is_some()), "{left:?} is forgotten");
        assert!(plan.own.len() <= projects.len() && plan.actions.is_empty());
        log
    }

    #[test]
    fn in_any_world_everything_is_written_and_looked_for_once_at_a_time() {
        for seed in 0..150 {
            let run = std::panic::catch_unwind(|| world(seed)).unwrap_or_else(|_| panic!("seed {seed}"));
            assert!(seed > 10 || run == world(seed), "seed {seed} is told differently");
        }
    }
}
