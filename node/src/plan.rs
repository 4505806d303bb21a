// SPDX-License-Identifier: MIT OR Apache-2.0
//! Plans: whatever decides about peers, time and queues, without touching any of them.
//!
//! A Plan takes what happened and says what to do. It has no clock, no randomness but a seed given at birth, and no
//! I/O, so that the simulator runs the very code that ships. A [`crate::drive`] loop carries out what it says.

use std::time::Duration;

/// A point in time as Plans know it: how long after the start of the run. It never goes back.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default)]
pub struct Moment(Duration);

impl Moment {
    /// The moment this long after the start.
    pub const fn after_start(span: Duration) -> Self {
        Self(span)
    }

    /// The moment `span` later; the last one there is when that is beyond it.
    #[must_use]
    pub fn plus(self, span: Duration) -> Self {
        Self(self.0.saturating_add(span))
    }

    /// How long after `earlier`; nothing when it is not.
    pub fn since(self, earlier: Self) -> Duration {
        self.0.saturating_sub(earlier.0)
    }
}

/// A decision-maker. Once [`Plan::take`] gives nothing, [`Plan::wake_at`] lies after the present.
pub trait Plan {
    /// What can happen.
    type Event;
    /// What can be done about it.
    type Action;

    /// Takes what happened.
    fn feed(&mut self, now: Moment, event: Self::Event);

    /// The next thing to do; to be called until there is none, after every [`Plan::feed`] and at [`Plan::wake_at`].
    fn take(&mut self, now: Moment) -> Option<Self::Action>;

    /// When to call [`Plan::take`] again even if nothing happens.
    fn wake_at(&self) -> Option<Moment>;
}

/// Waiting times that double from `first` to `last`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    first: Duration,
    last: Duration,
    next: Duration,
}

impl Backoff {
    /// Starts with `first`.
    pub const fn new(first: Duration, last: Duration) -> Self {
        Self { first, last, next: first }
    }

    /// How long to wait this time.
    pub fn step(&mut self) -> Duration {
        let now = self.next;
        self.next = (now * 2).min(self.last);
        now
    }

    /// Something worked: the next failure starts over.
    pub fn reset(&mut self) {
        self.next = self.first;
    }
}
