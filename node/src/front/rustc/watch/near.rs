// SPDX-License-Identifier: MIT OR Apache-2.0
//! A program and its watcher on one processor, while one stops for the other again and again.
//!
//! A stop is two changes of hands. Where the other hand is on another processor that has gone to sleep meanwhile, waking
//! it takes several times as long as all else that a stop costs. So while stops follow each other closely, both are held
//! to where the watcher is, and let go as soon as they do not: neither computes beside others that way for longer than
//! [`LOOK`]. A program that asks on how many processors it may run is let go before it is told.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use nix::sched::{CpuSet, sched_getaffinity, sched_getcpu, sched_setaffinity};
use nix::unistd::{Pid, gettid};

use crate::observe::span;
use crate::plan::Moment;

/// Stops that are no further apart follow each other closely.
const CLOSE: Duration = Duration::from_micros(250);
/// So many of them in a row are the beginning of many.
const ROW: u32 = 3;
/// How often it is looked whether they still do.
const LOOK: Duration = Duration::from_millis(1);
/// So many stops within that time are close enough.
const STILL: u64 = 4;

/// Whether stops follow each other closely. Pure.
#[derive(Debug, Default)]
struct Pace {
    last: Option<Moment>,
    row: u32,
}

impl Pace {
    /// There is a stop now.
    fn is_close(&mut self, now: Moment) -> bool {
        let close = self.last.is_some_and(|last| now.since(last) <= CLOSE);
        self.row = if close { self.row.saturating_add(1) } else { 0 };
        self.last = Some(now);
        self.row >= ROW
    }
}

/// Who is held, and where all may run when they are not.
struct Held {
    all: CpuSet,
    threads: BTreeSet<i32>,
}

impl Held {
    fn let_go(&mut self) {
        for thread in std::mem::take(&mut self.threads) {
            // It may have ended.
            let _ = sched_setaffinity(Pid::from_raw(thread), &self.all);
        }
    }
}

struct Shared {
    held: Mutex<Held>,
    /// Somebody is held, or nobody any more.
    changed: Condvar,
    stops: AtomicU64,
}

impl Shared {
    fn held(&self) -> MutexGuard<'_, Held> {
        // Whatever is held is let go in the end.
        self.held.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets all go when there is nothing more to be gained, as often as they are held.
    fn look(&self) {
        loop {
            let mut held = self.held();
            while held.threads.is_empty() {
                held = self.changed.wait(held).unwrap_or_else(PoisonError::into_inner);
            }
            let before = self.stops.load(Ordering::Relaxed);
            // Ends at once when all were let go meanwhile.
            let waited = self.changed.wait_timeout_while(held, LOOK, |held| !held.threads.is_empty());
            let (mut held, _) = waited.unwrap_or_else(PoisonError::into_inner);
            if self.stops.load(Ordering::Relaxed) - before < STILL {
                held.let_go();
            }
        }
    }
}

/// Holds a watcher, whose thread this is used on, and what it watches.
pub(super) struct Near {
    shared: Option<Arc<Shared>>,
    own: i32,
    pace: Pace,
}

impl Near {
    /// Nobody is held yet; nobody ever where there is one processor, or the system does not let anybody be held.
    pub(super) fn new() -> Self {
        let all = sched_getaffinity(Pid::from_raw(0)).ok();
        let count =
            |all: &CpuSet| (0..CpuSet::count()).filter(|cpu| all.is_set(*cpu) == Ok(true)).take(2).count();
        let all = all.filter(|all| count(all) > 1);
        let shared = all.and_then(|all| {
            let held = Mutex::new(Held { all, threads: BTreeSet::new() });
            let shared = Arc::new(Shared { held, changed: Condvar::new(), stops: AtomicU64::new(0) });
            let looking = Arc::clone(&shared);
            span::thread("let-go", move || looking.look()).is_ok().then_some(shared)
        });
        Self { shared, own: gettid().as_raw(), pace: Pace::default() }
    }

    /// A thread has stopped.
    pub(super) fn stopped(&mut self, thread: i32, now: Moment) {
        let Some(shared) = &self.shared else { return };
        shared.stops.fetch_add(1, Ordering::Relaxed);
        if !self.pace.is_close(now) {
            return;
        }
        let mut held = shared.held();
        if held.threads.contains(&thread) {
            return;
        }
        // Once it is held itself, this is where it is.
        let mut here = CpuSet::new();
        if !sched_getcpu().is_ok_and(|cpu| here.set(cpu).is_ok()) {
            return;
        }
        for one in [self.own, thread] {
            if held.threads.insert(one) && sched_setaffinity(Pid::from_raw(one), &here).is_err() {
                held.threads.remove(&one);
            }
        }
        shared.changed.notify_one();
    }

    /// A thread has made another one, or a process, which begins where it is held; or it has become another program, under
    /// the number of another thread.
    pub(super) fn begins(&self, thread: i32) {
        if let Some(shared) = &self.shared {
            let mut held = shared.held();
            if !held.threads.is_empty() && sched_setaffinity(Pid::from_raw(thread), &held.all).is_ok() {
                held.threads.remove(&thread);
            }
        }
    }

    /// Lets all go.
    pub(super) fn let_go(&self) {
        if let Some(shared) = &self.shared {
            shared.held().let_go();
            shared.changed.notify_one();
        }
    }

    /// Lets all go, for good: the program says itself where it wants to run.
    pub(super) fn give_up(&mut self) {
        self.let_go();
        self.shared = None;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_stops_again_and_again_is_held() {
        let at = |micros: u64| Moment::after_start(Duration::from_micros(micros));
        let mut pace = Pace::default();
        let close: Vec<_> = [0, 10, 20, 30, 40, 290].map(|micros| pace.is_close(at(micros))).to_vec();
        assert_eq!(close, [false, false, false, true, true, true]);
        assert!(!pace.is_close(at(541)), "it has computed in between");
        let again: Vec<_> = [551, 561, 571].map(|micros| pace.is_close(at(micros))).to_vec();
        assert_eq!(again, [false, false, true]);
    }

    #[test]
    fn who_was_held_may_run_everywhere_again() {
        let mut near = Near::new();
        let mine = || sched_getaffinity(Pid::from_raw(0)).unwrap();
        let before = mine();
        let now = Moment::after_start(Duration::ZERO);
        let stop = |near: &mut Near| (0..=ROW).for_each(|_| near.stopped(gettid().as_raw(), now));
        stop(&mut near);
        near.let_go();
        assert_eq!(mine(), before);
        stop(&mut near);
        near.give_up();
        assert_eq!(mine(), before);
        stop(&mut near);
        assert_eq!(mine(), before, "it is not held any more");
        // One that is never let go, since nothing happens any more, is let go all the same.
        let mut near = Near::new();
        stop(&mut near);
        while mine() != before {
            std::thread::yield_now();
        }
    }
}
