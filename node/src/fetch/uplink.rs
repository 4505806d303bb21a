// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whose turn it is to be sent something: the other side of fetching.
//!
//! Everybody who wants something stands in a line of his own, and the one goes next who was sent least. So one who asks
//! for everything at once, on many streams, gets no more than one who asks for a little. There are only so many turns
//! at a time, as each holds a piece in memory, and who was seen to be slow has one: he holds up himself. Where a rate is
//! set, turns wait for it.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use crate::peer::Peer;
use crate::plan::{Moment, Plan};

/// Most turns at a time, of all peers.
pub const MAX_TURNS: usize = 64;
/// Most turns at a time of one peer that takes what it is sent.
pub const MAX_TURNS_PER_PEER: usize = 4;
/// Most that wait; a further one is refused.
pub const MAX_WAITING: usize = 4096;
/// Who takes so long for one turn is slow.
pub const SLOW: Duration = Duration::from_millis(500);
/// When all turns are taken, and others wait, one that has lasted so long is ended.
pub const CUT_AFTER: Duration = Duration::from_secs(1);
/// How much may be sent at once where a rate is set, as a span of it.
const BURST: Duration = Duration::from_millis(100);
/// Most peers of which it is remembered what they were sent.
const MAX_PEERS: usize = 1024;

/// What can happen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Event {
    /// A peer is to be sent so many bytes.
    Ask {
        /// Chosen by the driver.
        turn: u64,
        /// Who.
        peer: Peer,
        /// At most so many bytes.
        bytes: u64,
    },
    /// A turn is over, or is not wanted any more.
    Over {
        /// Which.
        turn: u64,
        /// How many bytes were sent in it.
        sent: u64,
    },
}

/// What can be done.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It is this one's turn.
    Go(u64),
    /// So many wait that this one is refused.
    Refuse(u64),
    /// Others wait, and this one has taken too long: end it, and its stream.
    Cut(u64),
}

#[derive(Debug, Default)]
struct Line {
    waiting: VecDeque<(u64, u64)>,
    /// How much it was sent, beyond what those were who were always sent least.
    sent: u64,
    turns: usize,
    slow: bool,
}

#[derive(Debug)]
struct Turn {
    peer: Peer,
    /// How many were asked for.
    bytes: u64,
    since: Moment,
    cut: bool,
}

/// The Plan.
#[derive(Debug, Default)]
pub struct Uplink {
    lines: BTreeMap<Peer, Line>,
    turns: BTreeMap<u64, Turn>,
    /// Those who wait, by the numbers of their turns.
    waiting: BTreeMap<u64, Peer>,
    /// What the one was sent whose turn came last: whoever comes anew begins there.
    level: u64,
    /// Bytes a second, if there is a bound.
    rate: Option<u64>,
    /// When the line is free again.
    free_at: Moment,
    actions: VecDeque<Action>,
}

impl Uplink {
    /// Sends at most so many bytes a second.
    pub fn new(rate: Option<u64>) -> Self {
        Self { rate: rate.filter(|rate| *rate > 0), ..Self::default() }
    }

    fn ask(&mut self, (turn, peer, bytes): (u64, Peer, u64)) {
        if self.waiting.len() >= MAX_WAITING {
            return self.actions.push_back(Action::Refuse(turn));
        }
        self.waiting.insert(turn, peer.clone());
        if self.lines.len() >= MAX_PEERS {
            self.lines.retain(|_, line| !line.waiting.is_empty() || line.turns > 0);
        }
        let line = self.lines.entry(peer).or_default();
        if line.waiting.is_empty() && line.turns == 0 {
            // What it was not sent while it wanted nothing is not made up for.
            line.sent = line.sent.max(self.level);
        }
        line.waiting.push_back((turn, bytes));
    }

    fn over(&mut self, now: Moment, (number, sent): (u64, u64)) {
        let Some(turn) = self.turns.remove(&number) else {
            let line = self.waiting.remove(&number).and_then(|peer| self.lines.get_mut(&peer));
            if let Some(line) = line {
                line.waiting.retain(|(waiting, _)| *waiting != number);
            }
            return;
        };
        // What was asked for and not sent is nobody's.
        let rest = turn.bytes.saturating_sub(sent);
        if let Some(line) = self.lines.get_mut(&turn.peer) {
            line.turns -= 1;
            line.slow = turn.cut || now.since(turn.since) >= SLOW;
            line.sent = line.sent.saturating_sub(rest);
        }
        let takes = self.takes(rest);
        self.free_at = Moment::after_start(self.free_at.since(Moment::after_start(takes)));
    }

    /// How long so many bytes take, where a rate is set.
    fn takes(&self, bytes: u64) -> Duration {
        let micros = self.rate.map(|rate| bytes.saturating_mul(1_000_000) / rate);
        Duration::from_micros(micros.unwrap_or_default())
    }

    fn go(&mut self, now: Moment) -> Option<Action> {
        if self.turns.len() >= MAX_TURNS || self.rate.is_some() && self.free_at > now.plus(BURST) {
            return None;
        }
        let may = |line: &Line| {
            !line.waiting.is_empty() && line.turns < if line.slow { 1 } else { MAX_TURNS_PER_PEER }
        };
        let next = self.lines.iter().filter(|(_, line)| may(line)).min_by_key(|(_, line)| line.sent);
        let peer = next.map(|(peer, _)| peer.clone())?;
        let line = self.lines.get_mut(&peer)?;
        let (number, bytes) = line.waiting.pop_front()?;
        self.level = self.level.max(line.sent);
        (line.sent, line.turns) = (line.sent.saturating_add(bytes), line.turns + 1);
        self.waiting.remove(&number);
        if self.rate.is_some() {
            self.free_at = self.free_at.max(now).plus(self.takes(bytes));
        }
        self.turns.insert(number, Turn { peer, bytes, since: now, cut: false });
        Some(Action::Go(number))
    }

    /// The turn that is to end, if one is.
    fn oldest(&self) -> Option<(Moment, u64)> {
        if self.turns.len() < MAX_TURNS || self.waiting.is_empty() {
            return None;
        }
        let uncut = self.turns.iter().filter(|(_, turn)| !turn.cut);
        uncut.map(|(number, turn)| (turn.since.plus(CUT_AFTER), *number)).min()
    }
}

impl Plan for Uplink {
    type Event = Event;
    type Action = Action;

    fn feed(&mut self, now: Moment, event: Event) {
        match event {
            Event::Ask { turn, peer, bytes } => self.ask((turn, peer, bytes)),
            Event::Over { turn, sent } => self.over(now, (turn, sent)),
        }
    }

    fn take(&mut self, now: Moment) -> Option<Action> {
        if let Some(action) = self.actions.pop_front().or_else(|| self.go(now)) {
            return Some(action);
        }
        let (_, number) = self.oldest().filter(|(at, _)| *at <= now)?;
        self.turns.get_mut(&number)?.cut = true;
        Some(Action::Cut(number))
    }

    fn wake_at(&self) -> Option<Moment> {
        // One instant later than the bound, at which it still holds.
        let waits = self.rate.is_some() && !self.waiting.is_empty() && self.turns.len() < MAX_TURNS;
        let free = Moment::after_start(self.free_at.since(Moment::after_start(BURST)));
        let free = waits.then(|| free.plus(Duration::from_micros(1)));
        self.oldest().map(|(at, _)| at).into_iter().chain(free).min()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PIECE: u64 = 1 << 20;

    fn at(ms: u64) -> Moment {
        Moment::after_start(Duration::from_millis(ms))
    }

    fn peer(name: &str) -> Peer {
        Peer::new("office", name)
    }

    fn ask(plan: &mut Uplink, now: Moment, turn: u64, name: &str) {
        plan.feed(now, Event::Ask { turn, peer: peer(name), bytes: PIECE });
    }

    fn take(plan: &mut Uplink, now: Moment) -> Vec<Action> {
        std::iter::from_fn(|| plan.take(now)).collect()
    }

    #[test]
    fn one_who_wants_everything_gets_no_more_than_one_who_wants_a_little() {
        let mut plan = Uplink::new(Some(10 * PIECE));
        for turn in 0..100 {
            ask(&mut plan, at(0), turn, "greedy");
        }
        let (mut modest, mut last) = (0, 0);
        ask(&mut plan, at(0), 1000, "modest");
        for ms in 0..5000 {
            for action in take(&mut plan, at(ms)) {
                let Action::Go(turn) = action else { panic!("{action:?}") };
                plan.feed(at(ms), Event::Over { turn, sent: PIECE });
                if turn >= 1000 {
                    (modest, last) = (modest + 1, ms);
                    ask(&mut plan, at(ms), 1000 + modest, "modest");
                }
            }
            assert!(plan.wake_at().is_none_or(|wake| wake > at(ms)), "{ms}");
        }
        assert!((24..=27).contains(&modest) && last > 4700, "{modest}: half of fifty");
    }

    /// How much is asked for is known before what is sent is.
    #[test]
    fn what_is_asked_for_and_not_sent_costs_nothing() {
        let mut plan = Uplink::new(Some(PIECE));
        let (mut went, mut turn) = (0, 0);
        ask(&mut plan, at(0), 0, "small");
        for ms in 0..2000 {
            for _ in take(&mut plan, at(ms)) {
                // A piece of a sixteenth, as small files have.
                plan.feed(at(ms), Event::Over { turn, sent: PIECE / 16 });
                (went, turn) = (went + 1, turn + 1);
                ask(&mut plan, at(ms), turn, "small");
            }
            assert!(plan.wake_at().is_none_or(|wake| wake > at(ms)), "{ms}");
        }
        assert!((32..=35).contains(&went), "{went}: two seconds of sixteen each, and a little at once");
        ask(&mut plan, at(2000), 1000, "large");
        assert_eq!(plan.lines[&peer("small")].sent, went * PIECE / 16);
    }

    #[test]
    fn the_dead_slow_hold_up_themselves() {
        let mut plan = Uplink::new(None);
        let mut turn = 0;
        for number in 0..MAX_TURNS {
            for _ in 0..4 {
                turn += 1;
                ask(&mut plan, at(0), turn, &format!("slow{number}"));
            }
        }
        assert_eq!(take(&mut plan, at(0)).len(), MAX_TURNS);
        ask(&mut plan, at(10), 100_000, "honest");
        assert_eq!(take(&mut plan, at(10)), []);
        let wake = plan.wake_at().unwrap();
        assert_eq!(wake, at(0).plus(CUT_AFTER));
        let cut = take(&mut plan, wake);
        let Action::Cut(first) = cut[0] else { panic!("{cut:?}") };
        plan.feed(wake, Event::Over { turn: first, sent: PIECE });
        let mut now = wake;
        let mut waited = 0;
        // Those who are cut once have one turn each from then on, and whoever was sent less goes first.
        while !take(&mut plan, now).contains(&Action::Go(100_000)) {
            waited += 1;
            let oldest = *plan.turns.first_key_value().unwrap().0;
            now = now.plus(Duration::from_millis(1));
            plan.feed(now, Event::Over { turn: oldest, sent: PIECE });
            assert!(waited < 2 * MAX_TURNS);
        }
    }

    #[test]
    fn nobody_waits_without_bound_and_nothing_is_left_behind() {
        let mut plan = Uplink::new(None);
        for turn in 0..MAX_WAITING as u64 + 100 {
            ask(&mut plan, at(0), turn, &format!("{}", turn % 3000));
        }
        let refused = plan.actions.iter().filter(|action| matches!(action, Action::Refuse(_))).count();
        assert_eq!(refused, 100);
        take(&mut plan, at(0));
        (0..MAX_WAITING as u64 + 100).for_each(|turn| plan.feed(at(1), Event::Over { turn, sent: 0 }));
        assert_eq!((plan.waiting.len(), plan.turns.len()), (0, 0));
        assert!(take(&mut plan, at(1)).is_empty() && plan.wake_at().is_none());
        ask(&mut plan, at(2), 9999, "one more");
        assert!(plan.lines.len() <= MAX_PEERS);
        assert_eq!(take(&mut plan, at(2)), [Action::Go(9999)]);
    }
}
