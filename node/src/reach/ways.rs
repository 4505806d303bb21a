// SPDX-License-Identifier: MIT OR Apache-2.0
//! By which of two ways Blobs come from a peer, where there are two: TCP or QUIC, whichever was measured to be faster.
//!
//! A socket of its own (TCP, see `swarm/bulk.rs`) moves three times as much as QUIC where the processor is the bound, so
//! it is taken first. It is not the faster one everywhere: some routers slow down the one or the other. So once Blobs
//! have come slowly for a while, all that is asked for next comes by the other way for a few seconds, and the faster one
//! stays. Nothing is fetched that nobody needs, and each trial is after a longer time than the last.

use std::time::Duration;

use serde::Serialize;

use crate::plan::{Backoff, Moment};

/// Faster than this, in bytes a second, no other way is tried: there the processor is what there is to be saved.
const FAST: u64 = 32 << 20;
/// How long bytes come by one way before the other is tried, at first and at last.
const WAIT: (Duration, Duration) = (Duration::from_secs(10), Duration::from_secs(600));
/// How long a trial takes, and how long of that is not measured: what was asked for before still comes the old way, and
/// the new one only begins to find out how much it may send.
const TRIAL: (Duration, Duration) = (Duration::from_secs(4), Duration::from_secs(1));
/// What came within less time than this says nothing.
const MEASURED: Duration = Duration::from_secs(2);
/// After how long without a piece nothing comes any more, and what comes next begins anew.
const PAUSE: Duration = Duration::from_secs(3);
/// How soon a way is asked for again that was not to be had.
const AGAIN: Duration = Duration::from_secs(60);
/// How far back counts: twice that at most.
const RECENT: Duration = Duration::from_secs(10);

/// One of two ways.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Way {
    /// A socket that carries Blobs alone, over TCP.
    #[default]
    Socket,
    /// The connection that stands, beside everything else.
    Connection,
}

impl Way {
    const fn other(self) -> Self {
        match self {
            Self::Socket => Self::Connection,
            Self::Connection => Self::Socket,
        }
    }
}

/// What came while anything came.
#[derive(Debug, Clone, Copy, Default)]
struct Flow {
    time: Duration,
    bytes: u64,
    last: Option<Moment>,
}

impl Flow {
    /// So many bytes came; gives how long they took.
    fn count(&mut self, now: Moment, bytes: u64) -> Duration {
        let before = self.last.replace(now);
        // What comes first was under way before that, and is not counted.
        let Some(took) = before.map(|last| now.since(last)).filter(|took| *took <= PAUSE) else {
            return Duration::ZERO;
        };
        (self.time, self.bytes) = (self.time + took, self.bytes.saturating_add(bytes));
        if self.time >= 2 * RECENT {
            (self.time, self.bytes) = (self.time / 2, self.bytes / 2);
        }
        took
    }

    /// Bytes a second, if it says anything.
    fn rate(&self) -> Option<u64> {
        let millis = u64::try_from(self.time.as_millis()).unwrap_or(u64::MAX);
        (self.time >= MEASURED).then(|| self.bytes.saturating_mul(1000) / millis)
    }
}

/// The ways to one peer.
#[derive(Debug, Clone, Copy)]
pub struct Ways {
    /// The one that is used.
    settled: Way,
    /// What came by it lately.
    flow: Flow,
    /// How long anything came by it since the last trial, and how long it has to before the next.
    since: (Duration, Duration),
    wait: Backoff,
    /// When the other one was wanted last that was not there.
    wanted: Option<Moment>,
    /// When the other one began to be tried, and what came by that.
    trial: Option<(Moment, Flow)>,
}

impl Default for Ways {
    fn default() -> Self {
        let mut wait = Backoff::new(WAIT.0, WAIT.1);
        let since = (Duration::ZERO, wait.step());
        Self { settled: Way::default(), flow: Flow::default(), since, wait, wanted: None, trial: None }
    }
}

impl Ways {
    /// By which way to ask for what is asked for now. A socket, where there are not `both`, or it is not known whether the
    /// connection is another way than that.
    pub fn way(&mut self, now: Moment, both: bool) -> Way {
        if !both {
            self.trial = None;
            if self.settled == Way::Connection {
                self.settle(Way::Socket, Flow::default());
            }
            return Way::Socket;
        }
        if let Some((begun, tried)) = self.trial
            && now.since(begun) >= TRIAL.0
        {
            self.judge(tried);
        }
        if self.trial.is_none() && self.is_due() {
            self.trial = Some((now, Flow::default()));
        }
        if self.trial.is_some() { self.settled.other() } else { self.settled }
    }

    fn is_due(&self) -> bool {
        self.since.0 >= self.since.1 && self.flow.rate().is_some_and(|rate| rate < FAST)
    }

    /// Whether the other way is to be made, as it would be tried if it were there. Not true once more for a while: it may
    /// be that it cannot be had.
    pub fn wants_other(&mut self, now: Moment) -> bool {
        let lately = self.wanted.is_some_and(|wanted| now.since(wanted) < AGAIN);
        let wants = self.trial.is_none() && self.is_due() && !lately;
        if wants {
            self.wanted = Some(now);
        }
        wants
    }

    /// So many bytes of a large Blob came. Small ones come as fast as they are asked for, and say nothing about a way.
    pub fn came(&mut self, now: Moment, way: Way, bytes: u64) {
        match &mut self.trial {
            Some((begun, tried)) if way != self.settled && now.since(*begun) >= TRIAL.1 => {
                tried.count(now, bytes);
            }
            None if way == self.settled => self.since.0 += self.flow.count(now, bytes),
            // What comes late by the old way shares the link with the trial.
            _ => {}
        }
    }

    /// Nothing came by a way that should have.
    pub fn failed(&mut self, way: Way) {
        if self.trial.is_some() && way != self.settled {
            self.judge(Flow::default());
        } else if way == Way::Connection && way == self.settled {
            self.settle(Way::Socket, Flow::default());
        }
    }

    /// Ends a trial. Who costs more has to be faster for that.
    fn judge(&mut self, tried: Flow) {
        let better = tried.rate().zip(self.flow.rate()).is_some_and(|(new, old)| match self.settled {
            Way::Socket => new / 5 > old / 4,
            Way::Connection => new >= old,
        });
        let (way, flow) = if better { (self.settled.other(), tried) } else { (self.settled, self.flow) };
        self.settle(way, flow);
    }

    fn settle(&mut self, way: Way, flow: Flow) {
        (self.settled, self.flow, self.trial) = (way, flow, None);
        self.since = (Duration::ZERO, self.wait.step());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const TICK: Duration = Duration::from_millis(20);

    /// Two ways of these speeds, in bytes a second, and somebody who never stops fetching.
    struct World {
        ways: Ways,
        speeds: [u64; 2],
        now: Moment,
        /// How long each was used.
        used: [Duration; 2],
    }

    impl World {
        fn new(socket: u64, connection: u64) -> Self {
            let (now, used) = (Moment::default(), [Duration::ZERO; 2]);
            Self { ways: Ways::default(), speeds: [socket, connection], now, used }
        }

        /// Fetches so long; gives the share of that in which the connection was used.
        fn run(&mut self, seconds: u64) -> f64 {
            self.used = [Duration::ZERO; 2];
            let end = self.now.plus(Duration::from_secs(seconds));
            while self.now < end {
                let way = self.ways.way(self.now, true);
                self.now = self.now.plus(TICK);
                let of = usize::from(way == Way::Connection);
                self.used[of] += TICK;
                self.ways.came(self.now, way, self.speeds[of] / 50);
            }
            self.used[1].as_secs_f64() / (self.used[0] + self.used[1]).as_secs_f64()
        }
    }

    #[test]
    fn the_faster_way_is_found_and_kept() {
        let mut world = World::new(2 << 20, 10 << 20);
        assert!(world.run(10) < 0.01, "it is not tried at once");
        assert!(world.run(60) > 0.9);
        // Each trial of the slow way is rarer than the last.
        assert!(world.run(3600) > 0.98);
        world.speeds = [10 << 20, 2 << 20];
        world.run(700);
        assert!(world.run(3600) < 0.02);
    }

    #[test]
    fn of_two_that_are_as_fast_the_cheaper_one_is_kept() {
        let mut world = World::new(10 << 20, 11 << 20);
        assert!((0.001..0.1).contains(&world.run(600)), "it was tried");
        world.ways.settle(Way::Connection, world.ways.flow);
        world.speeds = [10 << 20; 2];
        world.run(700);
        assert!(world.run(600) < 0.1);
    }

    #[test]
    fn nothing_is_tried_where_there_is_nothing_to_be_won() {
        let mut fast = World::new(FAST + (1 << 20), 10 * FAST);
        assert!(fast.run(600) == 0.0);
        let (mut ways, mut wanted) = (Ways::default(), 0);
        for tick in 0..100_000 {
            let now = Moment::after_start(TICK * tick);
            assert_eq!(ways.way(now, false), Way::Socket);
            wanted += u32::from(ways.wants_other(now));
            ways.came(now, Way::Socket, 100_000);
        }
        assert_eq!(wanted, 34, "2,000 s, in which it is made once a minute and never there");
        // A little now and then says nothing.
        let mut seldom = Ways::default();
        for minute in 0..10_000 {
            let now = Moment::after_start(Duration::from_secs(60 * minute));
            assert_eq!(seldom.way(now, true), Way::Socket);
            seldom.came(now, Way::Socket, 1000);
        }
    }

    #[test]
    fn a_way_that_fails_is_left_at_once_and_one_by_which_nothing_comes_in_time() {
        let mut world = World::new(2 << 20, 0);
        world.run(9);
        let after = |seconds| Moment::after_start(Duration::from_secs(seconds));
        let due = (9..20).find(|at| {
            world.ways.came(after(*at).plus(TICK), Way::Socket, 1 << 20);
            world.run(1);
            world.ways.trial.is_some()
        });
        assert!(due.is_some());
        world.ways.failed(Way::Socket);
        assert!(world.ways.trial.is_some(), "that one was not tried");
        world.ways.failed(Way::Connection);
        assert_eq!(world.ways.way(world.now, true), Way::Socket);
        assert!(world.run(3600) < 0.02, "a trial of a way that is dead takes four seconds of ever more");
        world.ways.settle(Way::Connection, Flow::default());
        world.ways.failed(Way::Connection);
        assert_eq!(world.ways.way(world.now, true), Way::Socket);
        // When the connection is not what it was, nothing is known of it any more.
        world.ways.trial = Some((world.now, Flow::default()));
        assert_eq!(world.ways.way(world.now, false), Way::Socket);
        assert!(world.ways.trial.is_none());
        world.ways.settle(Way::Connection, Flow::default());
        assert_eq!([false, true].map(|both| world.ways.way(world.now, both)), [Way::Socket; 2]);
    }
}
