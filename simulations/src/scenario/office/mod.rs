// SPDX-License-Identifier: MIT OR Apache-2.0
//! An office and its day: twenty machines, eight projects of which everybody works on two, a machine that builds what
//! was committed, laptops that come and go, and somebody who was away in the morning.
//!
//! Every decision about peers, Catalogs and the DHT is that of the Plans that ship, and what a key costs is said by real
//! filters and real Catalogs. What must hold: what somebody published is a hit for everybody else, what nobody lists
//! costs no packet, hardly a byte comes twice, and announcing stays within its budget.

mod building;
mod day;
mod fetching;
mod following;
mod machine;
mod saying;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use potluck_keys::time::Time;
use potluck_node::announce::plan::{self as announce, What};
use potluck_node::catalog::plan::{self as catalogs, Source};
use potluck_node::fetch::event::{self as fetch, Brought, Need};
use potluck_node::plan::{Moment, Plan as _};
use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Topic;
use serde_json::{Value, json};

use self::day::{NODES, PROJECTS, Sources, Step, project, projects_of};
use self::machine::{Machine, NETWORK, Version, Which, peer, topics_of};
use crate::world::{Link, World, round_up};

const START: Time = Time::from_millis(1_800_000_000_000);
const LINK: Link = Link { delay_ms: (1, 3), lost_percent: 0, twice_percent: 0 };
/// Hours of the day.
const HOURS: u64 = 24;
/// Shortest and longest time that a walk through the DHT takes, in milliseconds.
const WALK_MS: (u64, u64) = (100, 900);
/// How long it takes to notice that nobody is there.
const UNREACHABLE: Duration = Duration::from_secs(1);

/// A machine that asked for something, and in which of its runs.
#[derive(Debug, Clone, Copy)]
struct Asker {
    node: usize,
    run: u64,
}

#[derive(Debug, Clone)]
enum Message {
    Day(Step),
    Question { from: Asker, question: u64, actions: Vec<ActionId> },
    Answer { question: u64, known: Option<Vec<(ActionId, BTreeSet<usize>)>> },
    Want { from: Asker, transfer: u64, need: Need, pieces: Vec<u64> },
    Blob { transfer: u64, need: Need, pieces: Vec<u64>, outcome: Brought },
    Found { topic: Topic, peers: Vec<usize> },
    Sources { need: Need, peers: Vec<usize> },
    Built { project: usize, action: ActionId },
    Flushed(Project),
    Merged(Project),
    Looked { topic: Topic, source: Source, asked: BTreeMap<usize, bool> },
    Push { topic: Topic, version: Version, from: usize },
    Holds { who: usize, topic: Topic },
    Gone(usize),
    Said(What),
}

/// A message, and to which run of a machine; the day happens to any.
type Sent = (Option<u64>, Message);

/// What stands on the DHT.
#[derive(Default)]
struct Dht {
    heads: BTreeMap<Topic, Version>,
    holders: BTreeMap<Topic, BTreeSet<usize>>,
    blobs: BTreeMap<Digest, BTreeSet<usize>>,
}

#[derive(Default)]
struct Count {
    builds: u64,
    here: u64,
    hits: u64,
    misses: u64,
    packets_for_misses: u64,
    false_alarms: u64,
    before: u64,
    before_hits: u64,
    questions: u64,
    moved: u64,
    needed: u64,
    catalog_bytes: u64,
    flushes: u64,
    pushes: u64,
    pulls: u64,
    dht_looks: u64,
    published: u64,
}

struct Office {
    world: World<Sent>,
    machines: Vec<Machine>,
    sources: Vec<Sources>,
    /// When an action was published first, and by whom at all.
    published: BTreeMap<ActionId, (Time, BTreeSet<usize>)>,
    /// Of which project an action is.
    projects: BTreeMap<ActionId, usize>,
    /// All parts of Catalogs there ever were.
    parts: BTreeMap<Digest, Vec<u8>>,
    dht: Dht,
    wakes: BTreeSet<(Moment, usize, Which)>,
    count: Count,
    next: u64,
    seed: u64,
}

impl Office {
    fn new(seed: u64, hours: u64) -> Self {
        let mut world = World::new(seed, START, LINK);
        let sources = (0..PROJECTS).map(|number| Sources::new(number, world.chance())).collect();
        for (after, node, step) in day::plan(world.chance(), hours) {
            world.after(after, node, (None, Message::Day(step)));
        }
        let machines = (0..NODES).map(|_| Machine::new()).collect();
        let (published, projects, parts, dht, wakes, count) = Default::default();
        Self { world, machines, sources, published, projects, parts, dht, wakes, count, next: 0, seed }
    }

    fn moment(&self) -> Moment {
        Moment::after_start(self.world.now().since(START))
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    fn asker(&self, node: usize) -> Asker {
        Asker { node, run: self.machines[node].run }
    }

    /// Over the link, to a machine as it runs now.
    fn send(&mut self, to: usize, message: Message) {
        let run = self.machines[to].run;
        self.world.send(to, &(Some(run), message));
    }

    /// Over the link, to whoever asked.
    fn answer(&mut self, to: Asker, message: Message) {
        self.world.send(to.node, &(Some(to.run), message));
    }

    /// At the machine itself, or where the way was reckoned.
    fn after(&mut self, delay: Duration, to: Asker, message: Message) {
        self.world.after(delay, to.node, (Some(to.run), message));
    }

    /// How long a walk through the DHT takes this time.
    fn walk(&mut self) -> Duration {
        Duration::from_millis(self.world.chance().u64(WALK_MS.0..=WALK_MS.1))
    }

    /// The others that are there.
    fn others(&self, node: usize) -> Vec<usize> {
        (0..NODES).filter(|other| *other != node && self.machines[*other].here).collect()
    }

    fn fetch(&mut self, at: usize, event: fetch::Event) {
        let now = self.moment();
        self.machines[at].fetch.feed(now, event);
        self.take(at, Which::Fetch);
    }

    fn catalogs(&mut self, at: usize, event: catalogs::Event) {
        let now = self.moment();
        self.machines[at].catalogs.feed(now, event);
        self.take(at, Which::Catalogs);
    }

    fn announce(&mut self, at: usize, event: announce::Event) {
        let now = self.moment();
        self.machines[at].announce.feed(now, event);
        self.take(at, Which::Announce);
    }

    /// Does all that a Plan says, and notes when it is to be woken.
    fn take(&mut self, at: usize, which: Which) {
        let now = self.moment();
        match which {
            Which::Fetch => {
                while let Some(action) = self.machines[at].fetch.take(now) {
                    self.perform_fetch(at, action);
                }
            }
            Which::Catalogs => {
                while let Some(action) = self.machines[at].catalogs.take(now) {
                    self.perform_catalogs(at, action);
                }
            }
            Which::Announce => {
                while let Some(action) = self.machines[at].announce.take(now) {
                    self.perform_announce(at, action);
                }
            }
        }
        let machine = &mut self.machines[at];
        let wake = machine.wake_of(which);
        let before = std::mem::replace(&mut machine.wakes[which as usize], wake);
        if before != wake {
            before.map(|before| self.wakes.remove(&(before, at, which)));
            wake.map(|wake| self.wakes.insert((wake, at, which)));
        }
    }

    fn hear(&mut self, at: usize, message: Message) {
        match message {
            Message::Day(step) => self.step(at, step),
            Message::Question { from, question, actions } => {
                let entries = &self.machines[at].entries;
                let known = |action: ActionId| Some((action, entries.get(&action)?.clone()));
                let known = Some(actions.into_iter().filter_map(known).collect());
                self.answer(from, Message::Answer { question, known });
            }
            Message::Answer { question, known } => self.answered(at, question, known),
            Message::Want { from, transfer, need, pieces } => self.wanted(at, from, (transfer, need, pieces)),
            Message::Blob { transfer, need, pieces, outcome } => {
                let outcome = match outcome {
                    Brought::Part => self.take_pieces(at, (transfer, &need), pieces),
                    other => other,
                };
                self.fetch(at, fetch::Event::Brought { transfer, outcome });
            }
            Message::Found { topic, peers } => {
                let peers = peers.into_iter().map(peer).collect();
                self.fetch(at, fetch::Event::Holders { topic, peers, sought: true });
            }
            Message::Sources { need, peers } => {
                let peers = peers.into_iter().map(peer).collect();
                self.fetch(at, fetch::Event::Sources { need, peers });
            }
            Message::Built { project, action } => self.built(at, project, action),
            Message::Flushed(project) => self.flushed(at, project),
            Message::Merged(project) => self.merged(at, project),
            Message::Looked { topic, source, asked } => self.looked(at, (topic, source), &asked),
            Message::Push { topic, version, from } => self.push_came(at, (topic, version), from),
            Message::Holds { who, topic } => self.holds(at, who, topic),
            Message::Gone(who) => self.fetch(at, fetch::Event::Gone(peer(who))),
            Message::Said(what) => self.said(at, what),
        }
    }

    fn step(&mut self, at: usize, step: Step) {
        match step {
            Step::Comes => self.comes(at),
            Step::Goes => self.goes(at),
            Step::Builds { project, edit } if self.machines[at].here => self.builds(at, project, edit),
            Step::Builds { .. } => {}
            Step::Commits { project, edit } => {
                self.sources[project].edit(edit);
                let soon = Duration::from_secs(60);
                let builds = Step::Builds { project, edit: None };
                self.world.after(soon, day::BUILDER, (None, Message::Day(builds)));
            }
        }
    }

    /// A machine is switched on: it knows what is on its disk, and meets all that are there.
    fn comes(&mut self, at: usize) {
        let (seed, now) = (self.seed.wrapping_mul(1000).wrapping_add(self.number()), self.world.now());
        let machine = &mut self.machines[at];
        machine.start(seed, now);
        let (follows, stood, holds) = (topics_of(at), machine.stood.clone(), machine.holds.clone());
        machine.followed.follow(&follows);
        self.announce(at, announce::Event::Stood(NETWORK.to_owned(), stood));
        for topic in &holds {
            self.stand(at, topic);
        }
        let shared = projects_of(at).into_iter().map(project).collect();
        self.catalogs(at, catalogs::Event::Share(shared));
        self.catalogs(at, catalogs::Event::Follow(follows));
        let keys = self.machines[at].keys();
        self.announce(at, announce::Event::Keys(keys));
        self.announce(at, announce::Event::Joined(NETWORK.to_owned()));
        for other in self.others(at) {
            for topic in self.machines[other].holds.clone() {
                self.send(at, Message::Holds { who: other, topic });
            }
            for topic in &holds {
                self.send(other, Message::Holds { who: at, topic: topic.clone() });
            }
        }
    }

    fn goes(&mut self, at: usize) {
        self.machines[at].stop();
        self.wakes.retain(|(_, node, _)| *node != at);
        for other in self.others(at) {
            self.send(other, Message::Gone(at));
        }
    }

    fn run(mut self, hours: u64) -> Self {
        let end = START.plus(Duration::from_secs(hours * 3600));
        loop {
            let wake = self.wakes.first().copied();
            let at = wake.map_or(end, |(at, ..)| START.plus(round_up(at.since(Moment::default()))));
            match (self.world.next(at.min(end)), wake) {
                (Some((to, (run, message))), _) => {
                    if run.is_none_or(|run| run == self.machines[to].run && self.machines[to].here) {
                        self.hear(to, message);
                    } else {
                        self.nobody_there(&message);
                    }
                }
                (None, Some((_, node, which))) if at < end => self.take(node, which),
                (None, _) => return self,
            }
        }
    }

    /// What was to go to a machine that is not there: whoever waits for an answer notices.
    fn nobody_there(&mut self, message: &Message) {
        match *message {
            Message::Question { from, question, .. } => {
                self.after(UNREACHABLE, from, Message::Answer { question, known: None });
            }
            Message::Want { from, transfer, need, .. } => {
                let (pieces, outcome) = (Vec::new(), Brought::Failed);
                self.after(UNREACHABLE, from, Message::Blob { transfer, need, pieces, outcome });
            }
            _ => {}
        }
    }

    fn report(&self, seed: u64, hours: u64) -> Value {
        let Count { builds, here, hits, misses, before, before_hits, .. } = self.count;
        let count = &self.count;
        let per = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
        let requests: u64 = self.machines.iter().map(|machine| machine.requests).sum();
        let most = self.machines.iter().map(|machine| machine.requests).max();
        let budget = self.machines.iter().map(|machine| machine.announce.a_day()).max();
        let keys: u64 = self.machines.iter().map(Machine::keys).sum();
        json!({
            "v": 2, "scenario": "office", "seed": seed, "peers": NODES, "hours": hours, "builds": builds,
            "here": here, "hits": hits, "misses": misses, "hit_rate": per(hits, hits + misses),
            "published_before": before, "published_before_hit_rate": per(before_hits, before),
            "packets_per_miss": per(count.packets_for_misses, misses), "false_alarms": count.false_alarms,
            "questions_per_hit": per(count.questions, hits),
            "bytes_moved": count.moved, "bytes_needed": count.needed,
            "moved_per_needed": per(count.moved, count.needed), "catalog_bytes": count.catalog_bytes,
            "published": count.published, "flushes": count.flushes, "pushes": count.pushes,
            "pulls": count.pulls, "dht_looks": count.dht_looks, "keys": keys,
            "announce_requests": requests, "announce_per_key_and_day": per(requests, keys) * 24.0 / hours as f64,
            "announce_most_of_one": most, "announce_budget_of_one_a_day": budget,
        })
    }
}

fn simulate(seed: u64, hours: u64) -> Value {
    Office::new(seed, hours).run(hours).report(seed, hours)
}

/// One day.
pub(crate) fn run(seed: u64) -> Value {
    simulate(seed, HOURS)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_published_is_a_hit_and_what_was_not_costs_nothing() {
        let report = run(1);
        let number = |name: &str| report[name].as_f64().unwrap();
        assert!(number("builds") > 200.0 && number("published_before") > 1000.0, "{report}");
        assert_eq!(number("published_before_hit_rate"), 1.0, "{report}");
        assert!(number("misses") > 300.0, "{report}");
        // A filter is wrong about one key in 65,536, and a look-up asks some dozens of them.
        assert!(number("false_alarms") <= 10.0, "{report}");
        assert_eq!(number("packets_per_miss"), 0.0, "{report}");
        assert!(number("moved_per_needed") < 1.1, "{report}");
        assert!(number("announce_most_of_one") <= number("announce_budget_of_one_a_day"), "{report}");
    }

    #[test]
    fn one_seed_gives_one_day() {
        let report = simulate(7, 3);
        assert!(report["hits"].as_u64() > Some(0), "{report}");
        assert_eq!(report.to_string(), simulate(7, 3).to_string());
        assert_ne!(report, simulate(8, 3));
    }
}
