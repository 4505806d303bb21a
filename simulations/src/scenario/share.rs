// SPDX-License-Identifier: MIT OR Apache-2.0
//! One machine has a large Blob, and eight want it at once, each with 100 Mbit/s in each direction. It is also fetched by
//! one alone, for comparison.
//!
//! Every decision on both sides is that of the Plans that ship. What must hold: that there are eight costs three tenths
//! more at most, since they give each other what they have.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use potluck_keys::pair::Signer;
use potluck_keys::time::Time;
use potluck_node::fetch::bits::Bits;
use potluck_node::fetch::event::{Action, Brought, Event, Has, Need, Opened};
use potluck_node::fetch::plan::Fetch;
use potluck_node::fetch::uplink::{self, Uplink};
use potluck_node::peer::Peer;
use potluck_node::plan::{Moment, Plan as _};
use potluck_protocol::action::Project;
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Topic;
use potluck_protocol::piece::{PIECE_BYTES, piece_count};
use serde_json::{Value, json};

use crate::world::{Link, World, round_up};

const FETCHERS: usize = 8;
const PIECES: u64 = 128;
const START: Time = Time::from_millis(1_800_000_000_000);
const LINK: Link = Link { delay_ms: (1, 3), lost_percent: 0, twice_percent: 0 };
/// 100 Mbit/s.
const BYTES_PER_S: u64 = 12_500_000;
/// How often a peer hears what more there is.
const NEWS: Duration = Duration::from_millis(100);
/// How long apart they begin, in milliseconds.
const APART_MS: u64 = 50;

#[derive(Debug, Clone)]
enum Message {
    Begin,
    Holds(usize),
    Want {
        from: usize,
        transfer: u64,
        pieces: Vec<u64>,
    },
    Stop {
        from: usize,
        transfer: u64,
    },
    Has {
        transfer: u64,
        has: Has,
    },
    Piece {
        transfer: u64,
        index: u64,
    },
    End {
        transfer: u64,
        outcome: Brought,
    },
    /// The line is free for the next piece.
    Free,
    News,
    Wake,
}

/// What a machine sends to one that asked.
struct Job {
    to: usize,
    transfer: u64,
    pieces: VecDeque<u64>,
    lacks: bool,
}

struct Machine {
    plan: Fetch,
    have: Bits,
    begun: bool,
    uplink: Uplink,
    jobs: BTreeMap<u64, Job>,
    watches: Vec<(usize, u64, u64)>,
    /// Which job's turn it is, by the number of the turn, which is that of the job.
    turns: VecDeque<u64>,
    sending: bool,
    next: u64,
    /// When all that is on its way here has come.
    down_at: Time,
    sent: u64,
    got: u64,
    done: Option<Time>,
    /// When it is woken next.
    wakes: Option<Moment>,
}

struct Share {
    world: World<Message>,
    machines: Vec<Machine>,
}

fn need() -> Need {
    Need { digest: Digest::of(b"large"), size: PIECES * PIECE_BYTES as u64 }
}

fn topic() -> Topic {
    Topic { signer: Signer::from_bytes([1; 32]), project: Project::default() }
}

fn peer(number: usize) -> Peer {
    Peer::new("office", &format!("{number}"))
}

fn number(peer: &Peer) -> usize {
    peer.id.parse().expect("peers are numbered")
}

impl Share {
    fn new(seed: u64, fetchers: usize) -> Self {
        let mut world = World::new(seed, START, LINK);
        let count = piece_count(need().size);
        let machine = |number: usize| {
            let mut have = Bits::none(count);
            if number == 0 {
                (0..count).for_each(|index| assert!(have.set(index)));
            }
            let plan = Fetch::new(seed.wrapping_mul(1000) + number as u64);
            let (jobs, watches, turns) = Default::default();
            let (uplink, begun, sending) = (Uplink::new(None), number == 0, false);
            let (next, down_at, sent, got) = (0, START, 0, 0);
            let (done, wakes) = Default::default();
            Machine {
                plan,
                have,
                begun,
                uplink,
                jobs,
                watches,
                turns,
                sending,
                next,
                down_at,
                sent,
                got,
                done,
                wakes,
            }
        };
        let machines: Vec<_> = (0..=fetchers).map(machine).collect();
        for number in 1..=fetchers {
            let begin = Duration::from_millis(world.chance().u64(0..=APART_MS));
            world.after(begin, number, Message::Begin);
        }
        Self { world, machines }
    }

    fn moment(&self) -> Moment {
        Moment::after_start(self.world.now().since(START))
    }

    fn feed(&mut self, at: usize, event: Event) {
        let now = self.moment();
        self.machines[at].plan.feed(now, event);
        self.take(at);
    }

    fn take(&mut self, at: usize) {
        let now = self.moment();
        while let Some(action) = self.machines[at].plan.take(now) {
            self.perform(at, action);
        }
        let machine = &mut self.machines[at];
        let Some(wake) = machine.plan.wake_at() else { return };
        if machine.wakes.is_none_or(|before| wake < before || before <= now) {
            machine.wakes = Some(wake);
            self.world.after(round_up(wake.since(now)), at, Message::Wake);
        }
    }

    fn perform(&mut self, from: usize, action: Action) {
        match action {
            Action::Open { open, need, .. } => {
                self.machines[from].begun = true;
                let opened = Some(Opened::Part(self.machines[from].have.clone()));
                self.feed(from, Event::Opened { open, need, opened, own: vec![peer(from)] });
            }
            Action::Fetch { transfer, peer, pieces, .. } => {
                self.world.send(number(&peer), &Message::Want { from, transfer, pieces });
            }
            Action::Stop(transfer) => {
                for to in 0..self.machines.len() {
                    self.world.send(to, &Message::Stop { from, transfer });
                }
                let outcome = Brought::Part;
                self.world.send(from, &Message::End { transfer, outcome });
            }
            Action::Delivered { all, .. } => {
                assert!(all, "all can be had");
                self.machines[from].done = Some(self.world.now());
            }
            Action::Find(topic) => {
                self.feed(from, Event::Holders { topic, peers: vec![peer(0)], sought: true });
            }
            // There is no record of it: all who have it hold the topic.
            Action::FindBlob { need, .. } => self.feed(from, Event::Sources { need, peers: Vec::new() }),
            Action::Close(_) => {}
            other => unreachable!("nobody asked for {other:?}"),
        }
    }

    fn hear(&mut self, at: usize, message: Message) {
        match message {
            Message::Begin => {
                let (topic, blobs) = (topic(), vec![need()]);
                let until = self.moment().plus(Duration::from_secs(3600));
                self.feed(at, Event::Holders { topic: topic.clone(), peers: vec![peer(0)], sought: false });
                self.feed(at, Event::Bring { bring: at as u64, topic, blobs, among: Vec::new(), until });
                // Whoever has begun says that it holds something of the topic.
                for to in (1..self.machines.len()).filter(|to| *to != at) {
                    self.world.send(to, &Message::Holds(at));
                }
            }
            Message::Holds(who) => {
                self.feed(at, Event::Holders { topic: topic(), peers: vec![peer(who)], sought: false });
            }
            Message::Want { from, transfer, pieces } => self.want(at, from, (transfer, pieces)),
            Message::Stop { from, transfer } => {
                let machine = &mut self.machines[at];
                machine.watches.retain(|(to, number, _)| (*to, *number) != (from, transfer));
                machine.jobs.retain(|_, job| (job.to, job.transfer) != (from, transfer));
            }
            Message::Has { transfer, has } => self.feed(at, Event::Has { transfer, has }),
            Message::Piece { transfer, index } => {
                let machine = &mut self.machines[at];
                machine.got += 1;
                let whole = machine.have.set(index) && machine.have.is_full();
                self.feed(at, Event::Piece { transfer, index });
                if whole {
                    self.feed(at, Event::Brought { transfer, outcome: Brought::Done });
                }
            }
            Message::End { transfer, outcome } => self.feed(at, Event::Brought { transfer, outcome }),
            Message::Free => {
                self.machines[at].sending = false;
                self.send_next(at);
            }
            Message::News => self.news(at),
            Message::Wake => self.take(at),
        }
    }

    fn want(&mut self, at: usize, to: usize, (transfer, pieces): (u64, Vec<u64>)) {
        let machine = &mut self.machines[at];
        if !machine.begun {
            return self.world.send(to, &Message::End { transfer, outcome: Brought::NotThere });
        }
        let whole = machine.have.is_full();
        let has = if whole { Has::All } else { Has::Some(machine.have.clone()) };
        if pieces.is_empty() && !whole {
            machine.watches.push((to, transfer, machine.have.ones()));
            self.world.after(NEWS, at, Message::News);
            return self.world.send(to, &Message::Has { transfer, has });
        }
        machine.next += 1;
        let number = machine.next;
        machine.jobs.insert(number, Job { to, transfer, pieces: pieces.into(), lacks: false });
        self.world.send(to, &Message::Has { transfer, has });
        self.ask_turn(at, number);
    }

    fn ask_turn(&mut self, at: usize, job: u64) {
        let now = self.moment();
        let machine = &mut self.machines[at];
        let Some(to) = machine.jobs.get(&job).map(|job| job.to) else { return };
        let event = uplink::Event::Ask { turn: job, peer: peer(to), bytes: PIECE_BYTES as u64 };
        machine.uplink.feed(now, event);
        self.take_turns(at);
        self.send_next(at);
    }

    fn take_turns(&mut self, at: usize) {
        let now = self.moment();
        let machine = &mut self.machines[at];
        while let Some(action) = machine.uplink.take(now) {
            match action {
                uplink::Action::Go(turn) => machine.turns.push_back(turn),
                other => unreachable!("there are few: {other:?}"),
            }
        }
    }

    /// Sends a piece of whatever has its turn, if the line is free.
    fn send_next(&mut self, at: usize) {
        while !self.machines[at].sending {
            let now = self.moment();
            let machine = &mut self.machines[at];
            let Some(turn) = machine.turns.pop_front() else { return };
            let next = machine.jobs.get(&turn).and_then(|job| job.pieces.front());
            let there = next.is_some_and(|index| machine.have.has(*index));
            let sent = if there { PIECE_BYTES as u64 } else { 0 };
            machine.uplink.feed(now, uplink::Event::Over { turn, sent });
            let Some(job) = machine.jobs.get_mut(&turn) else {
                self.take_turns(at);
                continue;
            };
            let (to, transfer) = (job.to, job.transfer);
            match job.pieces.pop_front() {
                None => {
                    let outcome = if job.lacks { Brought::NotThere } else { Brought::Part };
                    machine.jobs.remove(&turn);
                    // Behind the last piece on the same stream.
                    let delay = self.machines[to].down_at.since(self.world.now());
                    self.world.after(
                        delay + Duration::from_millis(3),
                        to,
                        Message::End { transfer, outcome },
                    );
                }
                Some(index) if machine.have.has(index) => {
                    (machine.sending, machine.sent) = (true, machine.sent + 1);
                    let takes = Duration::from_micros(PIECE_BYTES as u64 * 1_000_000 / BYTES_PER_S);
                    self.world.after(takes, at, Message::Free);
                    let free = self.machines[to].down_at.max(self.world.now());
                    self.machines[to].down_at = free.plus(takes);
                    let arrives = free.plus(takes).since(self.world.now()) + Duration::from_millis(2);
                    self.world.after(arrives, to, Message::Piece { transfer, index });
                    self.ask_turn(at, turn);
                }
                Some(_) => {
                    job.lacks = true;
                    self.ask_turn(at, turn);
                }
            }
            self.take_turns(at);
        }
    }

    fn news(&mut self, at: usize) {
        let machine = &mut self.machines[at];
        let (ones, whole) = (machine.have.ones(), machine.have.is_full());
        let has = if whole { Has::All } else { Has::Some(machine.have.clone()) };
        for (to, transfer, told) in &mut machine.watches {
            if ones > *told {
                *told = ones;
                self.world.send(*to, &Message::Has { transfer: *transfer, has: has.clone() });
            }
        }
        if whole {
            for (to, transfer, _) in std::mem::take(&mut machine.watches) {
                self.world.after(
                    Duration::from_millis(9),
                    to,
                    Message::End { transfer, outcome: Brought::Part },
                );
            }
        } else if !machine.watches.is_empty() {
            self.world.after(NEWS, at, Message::News);
        }
    }

    /// How long until the last one has it.
    fn run(mut self) -> (Duration, Vec<Machine>) {
        let end = START.plus(Duration::from_secs(600));
        while self.machines[1..].iter().any(|machine| machine.done.is_none()) {
            let Some((to, message)) = self.world.next(end) else { break };
            self.hear(to, message);
        }
        let last = self.machines[1..].iter().map(|machine| machine.done.unwrap_or(end)).max();
        (last.unwrap_or(end).since(START), self.machines)
    }
}

/// Once alone, and once all together.
pub(crate) fn run(seed: u64) -> Value {
    let (alone, _) = Share::new(seed, 1).run();
    let (together, machines) = Share::new(seed, FETCHERS).run();
    let got: u64 = machines[1..].iter().map(|machine| machine.got).sum();
    json!({
        "v": 1, "scenario": "share", "seed": seed, "fetchers": FETCHERS,
        "alone_ms": alone.as_millis(), "together_ms": together.as_millis(),
        "ratio": together.as_secs_f64() / alone.as_secs_f64(),
        "seed_sent_per_blob": machines[0].sent as f64 / PIECES as f64,
        "moved_per_needed": got as f64 / (PIECES * FETCHERS as u64) as f64,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn eight_who_share_need_half_as_long_again_as_one_at_most() {
        for seed in 0..3 {
            let report = run(seed);
            assert!(report["ratio"].as_f64() < Some(1.3), "{report}");
            assert!(report["moved_per_needed"].as_f64() < Some(1.1), "{report}");
            assert_eq!(report, run(seed));
        }
    }
}
