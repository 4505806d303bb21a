// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs the Plan of collection, and is where others ask for room.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::sync::{mpsc, oneshot, watch};
use tokio::task::JoinHandle;

use super::plan::{Action, Collection, Event, Shelf, Wish};
use super::report::Report;
use super::steps::{Limits, Steps};
use crate::cache::CacheError;
use crate::config::Store as Settings;
use crate::control::server::Progress;
use crate::drive::drive;
use crate::engine::Engine;
use crate::observe::span;
use crate::observe::status::{CollectedRow, StoreRow};

/// Most events that wait.
const QUEUE: usize = 64;

#[derive(Default)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, oneshot::Sender<Report>>,
    last: Option<Report>,
}

/// Where to ask for room, and what came of the last collection.
pub struct Collector {
    events: mpsc::Sender<Event>,
    limits: Limits,
    state: Mutex<State>,
    /// How far the collection that runs is.
    far: watch::Sender<Value>,
}

impl Collector {
    /// One with its queue.
    fn new(limits: Limits) -> (Arc<Self>, mpsc::Receiver<Event>) {
        let (events, from) = mpsc::channel(QUEUE);
        let (state, far) = (Mutex::default(), watch::Sender::default());
        (Arc::new(Self { events, limits, state, far }), from)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // No step between two changes can panic, so what a poisoned lock guards is whole.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What the last collection did that removed anything or failed.
    fn last(&self) -> Option<Report> {
        self.lock().last.clone()
    }

    /// Makes room, or says what would go. Cancel-safe: what was asked for is done all the same.
    ///
    /// # Errors
    /// [`CacheError::Store`] when nobody makes room any more, or something could not be read.
    pub async fn ask(&self, wish: Wish, progress: Progress) -> Result<Report, CacheError> {
        let ended = || CacheError::Store("the daemon is ending".to_owned());
        let (to, mut from) = oneshot::channel();
        let number = {
            let mut state = self.lock();
            // Of those who do not wait any more nobody else would know.
            state.waiting.retain(|_, to| !to.is_closed());
            state.next += 1;
            let number = state.next;
            state.waiting.insert(number, to);
            number
        };
        self.events.send(Event::Ask(number, wish)).await.map_err(|_| ended())?;
        let mut far = self.far.subscribe();
        loop {
            tokio::select! {
                report = &mut from => return report.map_err(|_| ended()),
                changed = far.changed() => {
                    changed.map_err(|_| ended())?;
                    let now = serde_json::to_vec(&*far.borrow_and_update()).unwrap_or_default();
                    // Whoever asked may be slow to read, and the next one tells more.
                    let _ = progress.try_send(now);
                }
            }
        }
    }

    fn report(&self, ask: Option<u64>, report: Report) {
        let mut state = self.lock();
        if let Some(failure) = &report.failure {
            tracing::warn!(failure, "no room could be made");
        } else if report.entries > 0 || report.freed > 0 {
            let Report { freed, entries, dry, cause, .. } = &report;
            tracing::info!(freed, entries, dry, ?cause, "made room");
        }
        if !report.dry && (report.freed > 0 || report.entries > 0 || report.failure.is_some()) {
            state.last = Some(Report { singles: Vec::new(), ..report.clone() });
        }
        if let Some(to) = ask.and_then(|ask| state.waiting.remove(&ask)) {
            let _ = to.send(report);
        }
    }

    fn tell(&self, action: &Action) {
        let far = match action {
            Action::Page(after) => {
                let first = after.map_or(0, |name| name.action.as_bytes()[0]);
                json!({ "step": "marking", "done": first, "of": 256 })
            }
            Action::List(Shelf::Files(shard)) => json!({ "step": "sweeping", "done": shard, "of": 256 }),
            _ => return,
        };
        self.far.send_replace(far);
    }
}

/// Starts to keep the budget of a home, until the task is ended.
pub fn start(engine: &Arc<Engine>, settings: Settings) -> JoinHandle<()> {
    let Settings { budget, free_floor: floor, .. } = settings;
    let (collector, events) = Collector::new(Limits { budget, floor });
    engine.collect_by(Arc::clone(&collector));
    span::spawn("collection plan", run(Arc::clone(engine), collector, events))
}

/// How full the store is, for people, when its Blobs take so many bytes, and what came of others so many.
pub fn row(engine: &Engine, (blobs, parts): (u64, u64)) -> StoreRow {
    let collector = engine.collector();
    let room = collector.and_then(|collector| collector.limits.room(engine.store(), (blobs, parts)).ok());
    let collected = collector.and_then(|collector| collector.last()).map(|last| CollectedRow {
        at_ms: last.at_ms,
        cause: last.cause,
        end: last.end,
        failure: last.failure,
        freed: last.freed,
        entries: last.entries,
        in_use: last.in_use,
    });
    StoreRow { bytes: blobs.saturating_add(parts), parts, budget: room.map(|room| room.budget), collected }
}

/// Runs the Plan until its task is ended.
async fn run(engine: Arc<Engine>, collector: Arc<Collector>, events: mpsc::Receiver<Event>) {
    let steps = Arc::new(Mutex::new(Steps::new(engine, collector.limits.clone())));
    drive(Collection::new(), events, |action| perform(&steps, &collector, action)).await;
}

fn perform(steps: &Arc<Mutex<Steps>>, collector: &Arc<Collector>, action: Action) {
    let (steps, collector) = (Arc::clone(steps), Arc::clone(collector));
    collector.tell(&action);
    match action {
        Action::Report(ask, report) => collector.report(ask, *report),
        // It has to be over before the next one begins, and takes no time.
        Action::End => {
            steps.lock().unwrap_or_else(PoisonError::into_inner).perform(action);
        }
        action => {
            span::spawn("collection", async move {
                let work = move || steps.lock().unwrap_or_else(PoisonError::into_inner).perform(action);
                if let Some(event) = span::blocking(work).await {
                    let _ = collector.events.send(event).await;
                }
            });
        }
    }
}
