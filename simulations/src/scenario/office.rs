// SPDX-License-Identifier: MIT OR Apache-2.0
//! An office: one machine has built everything, and its colleagues build the same one after another, each from a few
//! keys that nobody knows as well. One of them goes home in the middle.
//!
//! Every decision is that of the fetch Plan and of the Catalog's filter. What must hold: what is listed is a hit, what
//! is not costs no packet, and no byte comes twice.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use potluck_keys::pair::Signer;
use potluck_keys::time::Time;
use potluck_node::fetch::bits::Bits;
use potluck_node::fetch::event::{Action, Brought, Event, Has, Need, Opened, Space, Verdict};
use potluck_node::fetch::plan::Fetch;
use potluck_node::peer::Peer;
use potluck_node::plan::{Moment, Plan as _};
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::catalog::Filter;
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::{MAX_INLINE_BYTES, Topic};
use potluck_protocol::piece::{piece_count, piece_range};
use serde_json::{Value, json};

use crate::world::{Link, World, round_up};

const PEERS: usize = 6;
const BUILT: u64 = 300;
const UNKNOWN: u64 = 60;
/// How many actions a build has under way at a time.
const JOBS: usize = 8;
/// Who goes home, and when.
const LEAVER: (usize, Duration) = (2, Duration::from_millis(7_000));
/// How long after one build the next one begins.
const APART_MS: u64 = 2_000;
const START: Time = Time::from_millis(1_800_000_000_000);
const DEADLINE: Duration = Duration::from_millis(100);
/// How long it takes to build what is a miss.
const BUILDING: Duration = Duration::from_millis(300);
const LINK: Link = Link { delay_ms: (1, 3), lost_percent: 0, twice_percent: 0 };
/// What a machine can send.
const BYTES_PER_MS: u64 = 110_000;

#[derive(Debug, Clone)]
enum Message {
    /// A job of this build is free.
    Next,
    Question {
        from: usize,
        question: u64,
        actions: Vec<ActionId>,
    },
    Answer {
        question: u64,
        known: Option<Vec<ActionId>>,
    },
    Want {
        from: usize,
        transfer: u64,
        need: Need,
        pieces: Vec<u64>,
    },
    Blob {
        transfer: u64,
        need: Need,
        pieces: Vec<u64>,
        outcome: Brought,
    },
    Found(Vec<usize>),
    Holds(usize),
    Leaves(usize),
}

struct Node {
    plan: Fetch,
    claims: BTreeSet<ActionId>,
    store: BTreeSet<Digest>,
    /// What came of Blobs of several pieces.
    parts: BTreeMap<Digest, Bits>,
    todo: Vec<ActionId>,
    looks: BTreeMap<u64, Time>,
    /// When all that it has to send is sent.
    sent_at: Time,
    holds: bool,
    here: bool,
}

#[derive(Default)]
struct Count {
    listed: u64,
    hits: u64,
    misses: u64,
    packets_for_misses: u64,
    questions: u64,
    moved: u64,
    needed: u64,
    slowest: Duration,
}

struct Office {
    world: World<Message>,
    nodes: Vec<Node>,
    built: BTreeMap<ActionId, Vec<Need>>,
    filter: Filter,
    count: Count,
    next: u64,
}

fn topic() -> Topic {
    Topic { signer: Signer::from_bytes([1; 32]), project: Project::default() }
}

fn space() -> Space {
    Space { project: Project::default(), recipe: Recipe::new("rustc@1").expect("it is a recipe") }
}

fn peer(number: usize) -> Peer {
    Peer::new("office", &format!("{number}"))
}

fn number(peer: &Peer) -> usize {
    peer.id.parse().expect("peers are numbered")
}

fn action(number: u64) -> ActionId {
    ActionId::from_bytes(*Digest::of(&number.to_le_bytes()).as_bytes())
}

fn piece_bytes(need: &Need, index: u64) -> u64 {
    piece_range(need.size, index).map_or(0, |range| range.end - range.start)
}

impl Office {
    fn new(seed: u64) -> Self {
        let mut world = World::new(seed, START, LINK);
        let mut built = BTreeMap::new();
        for number in 0..BUILT {
            let blobs = (0..world.chance().u64(1..6)).map(|part| {
                let digest = Digest::of(&[number.to_le_bytes(), part.to_le_bytes()].concat());
                Need { digest, size: 1 << world.chance().u32(8..23) }
            });
            built.insert(action(number), blobs.collect::<Vec<_>>());
        }
        let filter = Filter::build(built.keys().copied()).expect("they are few");
        let nodes = (0..PEERS).map(|number| {
            let mut todo: Vec<_> = (0..BUILT + UNKNOWN).map(action).collect();
            world.chance().shuffle(&mut todo);
            let (claims, store, parts, looks) = Default::default();
            let holds = number == 0;
            let plan = Fetch::new(number as u64);
            Node { plan, claims, store, parts, todo, looks, sent_at: START, holds, here: true }
        });
        let mut nodes: Vec<_> = nodes.collect();
        nodes[0].claims = built.keys().copied().collect();
        nodes[0].store = built.values().flatten().map(|need| need.digest).collect();
        for number in 1..PEERS {
            for _ in 0..JOBS {
                world.after(Duration::from_millis(APART_MS * number as u64), number, Message::Next);
            }
            world.send(number, &Message::Holds(0));
            world.after(LEAVER.1, number, Message::Leaves(LEAVER.0));
        }
        Self { world, nodes, built, filter, count: Count::default(), next: 0 }
    }

    fn moment(&self) -> Moment {
        Moment::after_start(self.world.now().since(START))
    }

    fn feed(&mut self, at: usize, event: Event) {
        let now = self.moment();
        self.nodes[at].plan.feed(now, event);
        self.take(at);
    }

    fn take(&mut self, at: usize) {
        let now = self.moment();
        while let Some(action) = self.nodes[at].plan.take(now) {
            self.perform(at, action);
        }
    }

    fn perform(&mut self, from: usize, action: Action) {
        match action {
            Action::Ask { question, peer, actions, .. } => {
                self.count.questions += 1;
                let unknown = actions.iter().any(|action| !self.built.contains_key(action));
                self.count.packets_for_misses += u64::from(unknown);
                self.world.send(number(&peer), &Message::Question { from, question, actions });
            }
            Action::Open { need, .. } => {
                let here = self.nodes[from].store.contains(&need.digest);
                let part = self.nodes[from].parts.entry(need.digest);
                let part = part.or_insert_with(|| Bits::none(piece_count(need.size))).clone();
                let opened = Some(if here { Opened::Here } else { Opened::Part(part) });
                self.feed(from, Event::Opened { need, opened });
            }
            Action::Fetch { transfer, peer, need, pieces } => {
                self.world.send(number(&peer), &Message::Want { from, transfer, need, pieces });
            }
            // What was asked for comes all the same.
            Action::Stop(_) | Action::Close(_) => {}
            Action::Find(_) => {
                let holds = |number: &usize| self.nodes[*number].holds && self.nodes[*number].here;
                let found = (0..PEERS).filter(holds).collect();
                self.world.after(Duration::from_millis(50), from, Message::Found(found));
            }
            Action::Review(_, action) => {
                let verdict = self.verdict(from, &action);
                self.feed(from, Event::Reviewed { action, verdict });
            }
            Action::Settle { look, miss, .. } => {
                let began = self.nodes[from].looks.remove(&look).expect("each look is settled once");
                if !self.nodes[from].here {
                    return;
                }
                self.count.listed += 1;
                self.count.slowest = self.count.slowest.max(self.world.now().since(began));
                self.count.hits += u64::from(miss.is_none());
                let then = if miss.is_none() { Duration::ZERO } else { BUILDING };
                self.world.after(then, from, Message::Next);
                if miss.is_none() && !self.nodes[from].holds {
                    self.nodes[from].holds = true;
                    (0..PEERS)
                        .filter(|to| *to != from)
                        .for_each(|to| self.world.send(to, &Message::Holds(from)));
                }
            }
            Action::Delivered { .. } | Action::Drop(_) | Action::Remember(_) => {
                unreachable!("nothing is brought, nobody lies, and there is no next run")
            }
        }
    }

    fn verdict(&self, at: usize, action: &ActionId) -> Verdict {
        let Some(blobs) = self.built.get(action).filter(|_| self.nodes[at].claims.contains(action)) else {
            return Verdict::Nothing;
        };
        let missing = blobs.iter().filter(|need| !self.nodes[at].store.contains(&need.digest));
        let blobs: Vec<_> = missing.copied().collect();
        if blobs.is_empty() { Verdict::Here } else { Verdict::Needs { blobs, cost: BUILDING } }
    }

    fn hear(&mut self, at: usize, message: Message) {
        let here = self.nodes[at].here;
        match message {
            Message::Next => self.look(at),
            Message::Question { from, question, actions } => {
                let knows = |action: &ActionId| self.nodes[at].claims.contains(action);
                let known = here.then(|| actions.into_iter().filter(knows).collect());
                self.world.send(from, &Message::Answer { question, known });
            }
            Message::Answer { question, known } => {
                for action in known.iter().flatten() {
                    let small = |need: &&Need| need.size <= MAX_INLINE_BYTES as u64;
                    for need in self.built[action].clone().iter().filter(small) {
                        self.count.moved += need.size;
                        self.keep(at, need);
                    }
                    self.nodes[at].claims.insert(*action);
                }
                let judge = |action: ActionId| (action, self.verdict(at, &action));
                let verdicts = known.map(|known| known.into_iter().map(judge).collect());
                self.feed(at, Event::Answered { question, verdicts });
            }
            Message::Want { from, transfer, need, pieces } => {
                let has = here && self.nodes[at].store.contains(&need.digest);
                let outcome = if has { Brought::Part } else { Brought::NotThere };
                let begins = self.nodes[at].sent_at.max(self.world.now());
                let bytes: u64 = pieces.iter().map(|index| piece_bytes(&need, *index)).sum();
                let takes =
                    if has { Duration::from_millis(1 + bytes / BYTES_PER_MS) } else { Duration::ZERO };
                self.nodes[at].sent_at = begins.plus(takes);
                let delay = begins.plus(takes).since(self.world.now());
                self.world.after(delay, from, Message::Blob { transfer, need, pieces, outcome });
            }
            Message::Blob { transfer, need, pieces, outcome } => {
                let outcome = if outcome == Brought::Part {
                    self.take_pieces(at, (transfer, &need), pieces)
                } else {
                    outcome
                };
                self.feed(at, Event::Brought { transfer, outcome });
            }
            Message::Found(peers) => {
                let peers = peers.into_iter().filter(|number| *number != at).map(peer).collect();
                self.feed(at, Event::Holders { topic: topic(), peers, sought: true });
            }
            Message::Holds(who) => {
                self.feed(at, Event::Holders { topic: topic(), peers: vec![peer(who)], sought: false });
            }
            Message::Leaves(who) => {
                self.nodes[who].here = false;
                self.feed(at, Event::Gone(peer(who)));
            }
        }
    }

    /// Pieces came; gives how that transfer ended.
    fn take_pieces(&mut self, at: usize, (transfer, need): (u64, &Need), pieces: Vec<u64>) -> Brought {
        self.count.moved += pieces.iter().map(|index| piece_bytes(need, *index)).sum::<u64>();
        if piece_count(need.size) == 1 {
            self.keep(at, need);
            return Brought::Done;
        }
        self.feed(at, Event::Has { transfer, has: Has::All });
        for index in pieces {
            let Some(bits) = self.nodes[at].parts.get_mut(&need.digest) else { return Brought::Part };
            let whole = bits.set(index) && bits.is_full();
            self.feed(at, Event::Piece { transfer, index });
            if whole {
                self.keep(at, need);
                return Brought::Done;
            }
        }
        Brought::Part
    }

    fn keep(&mut self, at: usize, need: &Need) {
        if self.nodes[at].store.insert(need.digest) {
            self.count.needed += need.size;
        }
    }

    /// The next action of a build.
    fn look(&mut self, at: usize) {
        let Some(action) = self.nodes[at].todo.pop().filter(|_| self.nodes[at].here) else { return };
        if !self.filter.contains(&action) {
            self.count.misses += 1;
            return self.world.after(BUILDING, at, Message::Next);
        }
        self.next += 1;
        self.nodes[at].looks.insert(self.next, self.world.now());
        let until = self.moment().plus(DEADLINE);
        let actions = vec![(action, vec![topic()])];
        self.feed(at, Event::Look { look: self.next, space: space(), actions, until });
    }

    fn run(mut self) -> (Self, Duration) {
        loop {
            let wakes = self.nodes.iter().filter_map(|node| node.plan.wake_at()).min();
            let span = wakes.map_or(Duration::from_secs(3600), |at| round_up(at.since(Moment::default())));
            match self.world.next(START.plus(span)) {
                Some((to, message)) => self.hear(to, message),
                None if wakes.is_none() => break,
                None => (0..PEERS).for_each(|at| self.take(at)),
            }
        }
        let took = self.nodes.iter().map(|node| node.sent_at).max().unwrap_or(START).since(START);
        (self, took)
    }
}

/// One morning.
pub(crate) fn run(seed: u64) -> Value {
    let (office, took) = Office::new(seed).run();
    let count = office.count;
    let per = |part: u64, whole: u64| if whole == 0 { 0.0 } else { part as f64 / whole as f64 };
    json!({
        "v": 1, "scenario": "office", "seed": seed, "peers": PEERS, "took_ms": took.as_millis(),
        "listed": count.listed, "hits": count.hits, "hit_rate": per(count.hits, count.listed),
        "misses": count.misses, "packets_per_miss": per(count.packets_for_misses, count.misses),
        "questions_per_hit": per(count.questions, count.hits), "slowest_ms": count.slowest.as_millis(),
        "bytes_moved": count.moved, "bytes_needed": count.needed,
        "moved_per_needed": per(count.moved, count.needed),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_listed_is_a_hit_and_what_is_not_costs_nothing() {
        for seed in 0..3 {
            let report = run(seed);
            assert_eq!(report["hit_rate"], 1.0, "{report}");
            assert_eq!(report["packets_per_miss"], 0.0, "{report}");
            assert!(report["misses"].as_u64() > Some(0), "{report}");
            assert!(report["moved_per_needed"].as_f64() < Some(1.25), "{report}");
            assert_eq!(report, run(seed));
        }
    }
}
