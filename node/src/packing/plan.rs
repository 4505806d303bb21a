// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which Blob is packed next, and when: the oldest first, one at a time, while nobody builds. When there is none, and
//! something was removed, the index may become smaller.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

use potluck_protocol::digest::Digest;

use crate::plan::{Backoff, Moment, Plan};

/// How long nobody may have used the store before packing begins. One that builds may compile for seconds without asking
/// for anything, and has better use for the processor.
pub const QUIET: Duration = Duration::from_secs(8);
/// How long nobody may have used the store before the index becomes smaller: what is done of that is lost when somebody
/// comes.
pub const REST: Duration = Duration::from_secs(30);
/// How long a Blob waits for that: on a machine that never rests it is packed nevertheless.
pub const PATIENCE: Duration = Duration::from_secs(600);
/// Most Blobs that wait; those beyond are found again at the next start.
pub const MAX_WAITING: usize = 65_536;
/// How often a Blob is tried that cannot be packed.
pub const MAX_TRIES: u8 = 3;
/// How long nothing is packed after a failure, at first: the disk may be full.
pub const RETRY_FIRST: Duration = Duration::from_secs(10);
/// The same, at last.
pub const RETRY_LAST: Duration = Duration::from_secs(600);
/// How long the index stays as it is when it could not become smaller, at first: it may be changed all the time.
pub const SHRINK_FIRST: Duration = Duration::from_secs(60);
/// The same, at last.
pub const SHRINK_LAST: Duration = Duration::from_secs(3600);

/// What can happen.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Event {
    /// Somebody uses the store.
    Stirred,
    /// A Blob was written that waits to be packed, or was found to.
    Waits(Digest),
    /// The one that was being packed is done with.
    Ended(Outcome),
    /// Something was removed from the index, or may have been by an earlier process.
    Freed,
    /// The index is as small as it can be, or was given up.
    Shrunk(Outcome),
}

/// What became of a Blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Outcome {
    /// It is packed, or not there any more, or damaged and put aside.
    Settled,
    /// It could not be packed; it may be tried again.
    Failed,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// Pack this Blob, and tell the end of it.
    Pack(Digest),
    /// Hold on after the piece that is at hand.
    Pause,
    /// Go on with it.
    Resume,
    /// Make the index smaller, and tell the end of it; a pause ends it.
    Shrink,
}

#[derive(Debug, Clone, Copy)]
struct Job {
    digest: Digest,
    since: Moment,
    tries: u8,
}

impl Job {
    fn overdue_at(&self) -> Moment {
        self.since.plus(PATIENCE)
    }
}

/// The Plan.
#[derive(Debug)]
pub struct Packing {
    queue: VecDeque<Job>,
    /// The Blobs in the queue and the one at hand.
    known: BTreeSet<Digest>,
    running: Option<Job>,
    paused: bool,
    /// When the store will have been quiet for long enough, if nothing happens until then.
    quiet_at: Moment,
    /// Until when nothing is begun after a failure.
    retry_at: Moment,
    backoff: Backoff,
    /// Whether there may be something to win in the index, whether that is under way, and when it may begin.
    sparse: bool,
    shrinking: bool,
    shrink_at: Moment,
    shrink_backoff: Backoff,
}

impl Default for Packing {
    fn default() -> Self {
        Self {
            queue: VecDeque::new(),
            known: BTreeSet::new(),
            running: None,
            paused: false,
            quiet_at: Moment::default(),
            retry_at: Moment::default(),
            backoff: Backoff::new(RETRY_FIRST, RETRY_LAST),
            sparse: false,
            shrinking: false,
            shrink_at: Moment::default(),
            shrink_backoff: Backoff::new(SHRINK_FIRST, SHRINK_LAST),
        }
    }
}

impl Packing {
    /// When this one may go on, whatever happened.
    fn due(&self, job: &Job) -> Moment {
        self.quiet_at.min(job.overdue_at())
    }

    /// When the index may become smaller, once nothing waits to be packed.
    fn rest_at(&self) -> Moment {
        self.quiet_at.plus(REST.saturating_sub(QUIET)).max(self.shrink_at)
    }

    fn shrunk(&mut self, now: Moment, outcome: Outcome) {
        self.shrinking = false;
        self.paused = false;
        match outcome {
            Outcome::Settled => self.shrink_backoff.reset(),
            Outcome::Failed => {
                self.sparse = true;
                self.shrink_at = now.plus(self.shrink_backoff.step());
            }
        }
    }

    fn add(&mut self, job: Job) {
        if self.known.len() < MAX_WAITING && self.known.insert(job.digest) {
            self.queue.push_back(job);
        }
    }

    fn ended(&mut self, now: Moment, outcome: Outcome) {
        let Some(job) = self.running.take() else { return };
        self.paused = false;
        self.known.remove(&job.digest);
        match outcome {
            Outcome::Settled => self.backoff.reset(),
            Outcome::Failed => {
                self.retry_at = now.plus(self.backoff.step());
                if job.tries + 1 < MAX_TRIES {
                    self.add(Job { tries: job.tries + 1, since: now, ..job });
                }
            }
        }
    }
}

impl Plan for Packing {
    type Event = Event;
    type Action = Action;

    fn feed(&mut self, now: Moment, event: Event) {
        match event {
            Event::Stirred => self.quiet_at = now.plus(QUIET),
            Event::Waits(digest) => self.add(Job { digest, since: now, tries: 0 }),
            Event::Ended(outcome) => self.ended(now, outcome),
            Event::Freed => self.sparse = true,
            Event::Shrunk(outcome) => self.shrunk(now, outcome),
        }
    }

    fn take(&mut self, now: Moment) -> Option<Action> {
        if let Some(job) = &self.running {
            let pause = now < self.due(job);
            if pause == self.paused {
                return None;
            }
            self.paused = pause;
            return Some(if pause { Action::Pause } else { Action::Resume });
        }
        if self.shrinking {
            let pause = !self.paused && now < self.quiet_at;
            self.paused |= pause;
            return pause.then_some(Action::Pause);
        }
        let Some(next) = self.queue.front() else {
            self.shrinking = self.sparse && now >= self.rest_at();
            self.sparse &= !self.shrinking;
            return self.shrinking.then_some(Action::Shrink);
        };
        if now < self.retry_at || now < self.due(next) {
            return None;
        }
        self.running = self.queue.pop_front();
        self.running.map(|job| Action::Pack(job.digest))
    }

    fn wake_at(&self) -> Option<Moment> {
        match &self.running {
            Some(job) => self.paused.then(|| self.due(job)),
            None if self.shrinking => None,
            None => match self.queue.front() {
                Some(next) => Some(self.due(next).max(self.retry_at)),
                None => self.sparse.then(|| self.rest_at()),
            },
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(n: u64) -> Digest {
        Digest::of(&n.to_le_bytes())
    }

    fn at(secs: u64) -> Moment {
        Moment::after_start(Duration::from_secs(secs))
    }

    fn fed(events: impl IntoIterator<Item = (u64, Event)>) -> Packing {
        let mut plan = Packing::default();
        events.into_iter().for_each(|(secs, event)| plan.feed(at(secs), event));
        plan
    }

    #[test]
    fn the_oldest_is_packed_once_it_is_quiet() {
        let waits = |n| Event::Waits(digest(n));
        let mut plan = fed([(10, Event::Stirred), (10, waits(1)), (10, waits(2)), (10, waits(1))]);
        let quiet = |since: u64| at(since).plus(QUIET);
        assert_eq!((plan.take(at(10)), plan.wake_at()), (None, Some(quiet(10))));
        plan.feed(at(11), Event::Stirred);
        assert_eq!((plan.take(quiet(10)), plan.wake_at()), (None, Some(quiet(11))));
        assert_eq!(plan.take(quiet(11)), Some(Action::Pack(digest(1))));
        assert_eq!((plan.take(quiet(11)), plan.wake_at()), (None, None));
        plan.feed(quiet(12), Event::Ended(Outcome::Settled));
        assert_eq!(plan.take(quiet(12)), Some(Action::Pack(digest(2))));
        plan.feed(quiet(13), Event::Ended(Outcome::Settled));
        assert_eq!((plan.take(quiet(13)), plan.wake_at()), (None, None));
    }

    #[test]
    fn whoever_builds_comes_first() {
        let mut plan = fed([(0, Event::Waits(digest(1)))]);
        assert_eq!(plan.take(at(0)), Some(Action::Pack(digest(1))));
        plan.feed(at(5), Event::Stirred);
        assert_eq!(plan.take(at(5)), Some(Action::Pause));
        let quiet = at(5).plus(QUIET);
        assert_eq!((plan.take(at(5)), plan.wake_at()), (None, Some(quiet)));
        assert_eq!(plan.take(quiet), Some(Action::Resume));
        assert_eq!((plan.take(quiet), plan.wake_at()), (None, None));
    }

    #[test]
    fn on_a_machine_that_never_rests_it_is_packed_nevertheless() {
        let mut plan = fed([(0, Event::Stirred), (0, Event::Waits(digest(1)))]);
        for secs in 0..PATIENCE.as_secs() {
            plan.feed(at(secs), Event::Stirred);
            assert_eq!(plan.take(at(secs)), None);
        }
        let late = PATIENCE.as_secs();
        plan.feed(at(late), Event::Stirred);
        assert_eq!(plan.take(at(late)), Some(Action::Pack(digest(1))));
        plan.feed(at(late + 1), Event::Stirred);
        assert_eq!(plan.take(at(late + 1)), None, "nor is it paused");
    }

    #[test]
    fn what_fails_is_tried_again_but_not_for_ever() {
        let mut plan = fed([(0, Event::Waits(digest(1)))]);
        let mut now = at(0);
        for _ in 0..MAX_TRIES {
            assert_eq!(plan.take(now), Some(Action::Pack(digest(1))));
            plan.feed(now, Event::Ended(Outcome::Failed));
            assert_eq!(plan.take(now), None);
            now = plan.wake_at().unwrap_or(now);
        }
        assert_eq!((plan.take(now), plan.wake_at()), (None, None));
        // What ended without having begun is nothing.
        plan.feed(now, Event::Ended(Outcome::Failed));
        assert_eq!(plan.wake_at(), None);
    }

    #[test]
    fn the_index_becomes_smaller_when_nothing_else_is_to_be_done() {
        let mut plan = fed([(100, Event::Stirred), (100, Event::Freed), (100, Event::Waits(digest(1)))]);
        let quiet = at(100).plus(QUIET);
        assert_eq!(plan.take(quiet), Some(Action::Pack(digest(1))));
        plan.feed(quiet, Event::Ended(Outcome::Settled));
        let rest = 100 + REST.as_secs();
        assert_eq!((plan.take(at(rest - 1)), plan.wake_at()), (None, Some(at(rest))));
        assert_eq!((plan.take(at(rest)), plan.wake_at()), (Some(Action::Shrink), None));
        // Somebody comes, and all that was done is lost.
        plan.feed(at(rest + 1), Event::Stirred);
        assert_eq!(plan.take(at(rest + 1)), Some(Action::Pause));
        assert_eq!((plan.take(at(rest + 9)), plan.wake_at()), (None, None));
        plan.feed(at(rest + 9), Event::Shrunk(Outcome::Failed));
        let next = plan.wake_at().unwrap();
        assert_eq!(next, at(rest + 9).plus(SHRINK_FIRST));
        assert_eq!((plan.take(next), plan.wake_at()), (Some(Action::Shrink), None));
        // What waits meanwhile is packed afterwards.
        plan.feed(next, Event::Waits(digest(2)));
        assert_eq!(plan.take(next), None);
        plan.feed(next, Event::Shrunk(Outcome::Settled));
        assert_eq!(plan.take(next), Some(Action::Pack(digest(2))));
        plan.feed(next, Event::Ended(Outcome::Settled));
        assert_eq!((plan.take(next), plan.wake_at()), (None, None), "nothing was removed since");
    }

    #[test]
    fn the_queue_is_bounded() {
        let many = MAX_WAITING as u64 + 10;
        let mut plan = fed((0..many).map(|n| (0, Event::Waits(digest(n)))));
        let mut packed = 0;
        while let Some(Action::Pack(_)) = plan.take(at(9)) {
            packed += 1;
            plan.feed(at(9), Event::Ended(Outcome::Settled));
        }
        assert_eq!(packed, MAX_WAITING);
    }

    #[test]
    fn in_any_world_every_blob_is_settled_and_sleep_ends_later() {
        for seed in 0..200 {
            let mut dice = fastrand::Rng::with_seed(seed);
            let mut plan = Packing::default();
            let (mut now, mut running, mut paused, mut shrinking) = (0, None, false, false);
            let (mut waiting, mut settled) = (BTreeSet::new(), BTreeSet::new());
            for step in 0..4000 {
                now += dice.u64(0..3);
                if step < 2000 {
                    match dice.u8(0..8) {
                        0 => plan.feed(at(now), Event::Stirred),
                        1 | 2 => {
                            let digest = digest(dice.u64(0..50));
                            waiting.insert(digest);
                            plan.feed(at(now), Event::Waits(digest));
                        }
                        3 => plan.feed(at(now), Event::Freed),
                        _ => {}
                    }
                }
                if let Some(digest) = running.filter(|_| !paused && dice.bool()) {
                    running = None;
                    settled.insert(digest);
                    plan.feed(at(now), Event::Ended(Outcome::Settled));
                }
                if shrinking && (paused || dice.bool()) {
                    let outcome = if paused { Outcome::Failed } else { Outcome::Settled };
                    (shrinking, paused) = (false, false);
                    plan.feed(at(now), Event::Shrunk(outcome));
                }
                while let Some(action) = plan.take(at(now)) {
                    match action {
                        Action::Shrink => {
                            assert!(running.is_none() && !std::mem::replace(&mut shrinking, true));
                        }
                        Action::Pause if shrinking => paused = true,
                        Action::Pack(digest) => assert_eq!(running.replace(digest), None, "one at a time"),
                        Action::Pause => assert!(!std::mem::replace(&mut paused, true) && running.is_some()),
                        Action::Resume => assert!(std::mem::replace(&mut paused, false)),
                    }
                }
                assert!(plan.wake_at().is_none_or(|wake| wake > at(now)));
            }
            assert_eq!(waiting, settled, "seed {seed}");
        }
    }
}
