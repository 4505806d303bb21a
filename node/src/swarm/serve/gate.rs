// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out what the uplink Plan says. The Plan is asked on the spot, so that a turn that is free costs nothing; a
//! task wakes it when it asked to be.

use std::collections::HashMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, oneshot};

use crate::fetch::uplink::{Action, Event, Uplink};
use crate::observe::{clock, span};
use crate::peer::Peer;
use crate::plan::Plan as _;

/// Gives turns.
pub(super) struct Gate {
    state: Mutex<State>,
    changed: Notify,
}

struct State {
    plan: Uplink,
    next: u64,
    /// Whoever waits, for whether he may go.
    waiting: HashMap<u64, oneshot::Sender<bool>>,
    /// What is told to those who have a turn when it is over.
    cuts: HashMap<u64, Arc<Notify>>,
}

/// Leave to send something, until it is dropped.
pub(super) struct Turn {
    gate: Arc<Gate>,
    number: u64,
    cut: Arc<Notify>,
    sent: AtomicU64,
}

impl Gate {
    /// Sends at most so many bytes a second.
    pub(super) fn new(rate: Option<u64>) -> Arc<Self> {
        let (waiting, cuts) = Default::default();
        let state = Mutex::new(State { plan: Uplink::new(rate), next: 0, waiting, cuts });
        let gate = Arc::new(Self { state, changed: Notify::new() });
        span::spawn("uplink", wake(Arc::downgrade(&gate)));
        gate
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn feed(&self, event: Option<Event>) {
        let mut state = self.lock();
        let now = clock::moment();
        let before = state.plan.wake_at();
        if let Some(event) = event {
            state.plan.feed(now, event);
        }
        while let Some(action) = state.plan.take(now) {
            match action {
                Action::Go(turn) => state.answer(turn, true),
                Action::Refuse(turn) => state.answer(turn, false),
                Action::Cut(turn) => {
                    if let Some(cut) = state.cuts.get(&turn) {
                        cut.notify_one();
                    }
                }
            }
        }
        if state.plan.wake_at().is_some_and(|at| before.is_none_or(|before| at < before)) {
            self.changed.notify_one();
        }
    }

    /// Waits for a turn; nothing when too many do.
    pub(super) async fn turn(self: &Arc<Self>, peer: &Peer, bytes: u64) -> Option<Turn> {
        let (to, from) = oneshot::channel();
        let cut = Arc::new(Notify::new());
        let number = {
            let mut state = self.lock();
            state.next += 1;
            let number = state.next;
            state.waiting.insert(number, to);
            state.cuts.insert(number, Arc::clone(&cut));
            number
        };
        // From here on it is given back, whatever becomes of whoever waits.
        let turn = Turn { gate: Arc::clone(self), number, cut, sent: AtomicU64::new(0) };
        self.feed(Some(Event::Ask { turn: number, peer: peer.clone(), bytes }));
        from.await.unwrap_or(false).then_some(turn)
    }
}

impl State {
    fn answer(&mut self, turn: u64, go: bool) {
        if let Some(waits) = self.waiting.remove(&turn) {
            let _ = waits.send(go);
        }
    }
}

impl Turn {
    /// So many bytes are sent, of those that were asked for; none, unless that is said.
    pub(super) fn sends(&self, bytes: usize) {
        self.sent.store(bytes as u64, Ordering::Relaxed);
    }

    /// Waits until it has lasted too long.
    pub(super) async fn cut(&self) {
        self.cut.notified().await;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        {
            let mut state = self.gate.lock();
            state.waiting.remove(&self.number);
            state.cuts.remove(&self.number);
        }
        let sent = self.sent.load(Ordering::Relaxed);
        self.gate.feed(Some(Event::Over { turn: self.number, sent }));
    }
}

/// Wakes the Plan as long as somebody has the gate.
async fn wake(gate: Weak<Gate>) {
    loop {
        let Some(now) = gate.upgrade() else { return };
        now.feed(None);
        let at = now.lock().plan.wake_at();
        let longest = std::time::Duration::from_secs(1);
        let span = at.map_or(longest, |at| at.since(clock::moment()).min(longest));
        // It is let go from time to time, so that it can end.
        let _ = tokio::time::timeout(span, now.changed.notified()).await;
    }
}
