// SPDX-License-Identifier: MIT OR Apache-2.0
//! Virtual time, chance from a seed, and links that delay, lose, repeat and reorder what is sent over them.

use std::cmp::Reverse;
use std::collections::BinaryHeap;
use std::time::Duration;

use fastrand::Rng;
use potluck_keys::time::Time;

/// How a link treats messages.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Link {
    /// Shortest and longest time on the way, in milliseconds.
    pub(crate) delay_ms: (u64, u64),
    /// How many of a hundred are lost.
    pub(crate) lost_percent: u32,
    /// How many of a hundred arrive twice.
    pub(crate) twice_percent: u32,
}

/// A span rounded up to what the world's clock can tell apart: who is woken before his time would be so for ever.
pub(crate) fn round_up(span: Duration) -> Duration {
    Duration::from_millis(u64::try_from(span.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX))
}

/// A message that will arrive.
struct Arrival<M> {
    at: Time,
    /// Keeps messages of one instant in the order in which they were sent.
    number: u64,
    to: usize,
    message: M,
}

impl<M> PartialEq for Arrival<M> {
    fn eq(&self, other: &Self) -> bool {
        self.number == other.number
    }
}

impl<M> Eq for Arrival<M> {}

impl<M> PartialOrd for Arrival<M> {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl<M> Ord for Arrival<M> {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        (self.at, self.number).cmp(&(other.at, other.number))
    }
}

/// A world: what time it is, what is on its way, and what chance will bring.
pub(crate) struct World<M> {
    now: Time,
    link: Link,
    /// Numbers whatever happens.
    number: u64,
    sent: u64,
    lost: u64,
    on_the_way: BinaryHeap<Reverse<Arrival<M>>>,
    chance: Rng,
}

impl<M: Clone> World<M> {
    pub(crate) fn new(seed: u64, start: Time, link: Link) -> Self {
        let chance = Rng::with_seed(seed);
        Self { now: start, link, number: 0, sent: 0, lost: 0, on_the_way: BinaryHeap::new(), chance }
    }

    pub(crate) fn now(&self) -> Time {
        self.now
    }

    /// How many messages were sent, and how many of them were lost.
    pub(crate) fn traffic(&self) -> (u64, u64) {
        (self.sent, self.lost)
    }

    pub(crate) fn chance(&mut self) -> &mut Rng {
        &mut self.chance
    }

    /// Sends a message over the link.
    pub(crate) fn send(&mut self, to: usize, message: &M) {
        let copies = 1 + u32::from(self.chance.u32(..100) < self.link.twice_percent);
        for _ in 0..copies {
            self.sent += 1;
            if self.chance.u32(..100) < self.link.lost_percent {
                self.lost += 1;
                continue;
            }
            let (least, most) = self.link.delay_ms;
            let delay = Duration::from_millis(self.chance.u64(least..=most));
            self.after(delay, to, message.clone());
        }
    }

    /// Lets something happen at `to` after a while, on no link: a timer, or a long transfer whose time was reckoned.
    pub(crate) fn after(&mut self, delay: Duration, to: usize, message: M) {
        self.number += 1;
        let arrival = Arrival { at: self.now.plus(delay), number: self.number, to, message };
        self.on_the_way.push(Reverse(arrival));
    }

    /// The next message that arrives no later than `until`; time passes to it, or else to `until`.
    pub(crate) fn next(&mut self, until: Time) -> Option<(usize, M)> {
        if self.on_the_way.peek().is_none_or(|Reverse(next)| next.at > until) {
            self.now = self.now.max(until);
            return None;
        }
        let Reverse(next) = self.on_the_way.pop()?;
        self.now = next.at;
        Some((next.to, next.message))
    }
}
