// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out what the Plan says, on one thread of low priority.

use std::sync::mpsc as jobs;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use potluck_protocol::digest::Digest;
use tokio::sync::mpsc;

use super::plan::{Action, Event, Outcome, Packing};
use crate::content::ContentError;
use crate::drive::drive;
use crate::index::Shrunk;
use crate::observe::span;
use crate::store::{Store, StoreError};

/// Events that wait for the Plan; what is told beyond that is lost, and found again at the next start.
const QUEUE: usize = 4096;
/// How far the thread steps back behind builds: as far as it can.
const NICE: i32 = 19;

/// Packs what waits and what will be written, until it is dropped. First it looks for what an earlier run left.
pub async fn run(store: Store) {
    let (to, events) = mpsc::channel(QUEUE);
    store.watch(to.clone());
    // Whoever has started is about to be asked for something.
    let _ = to.try_send(Event::Stirred);
    let gate = Arc::<Gate>::default();
    let _stop = Stop(Arc::clone(&gate));
    let (begin, begun) = jobs::sync_channel(1);
    let worker = Worker { store, gate: Arc::clone(&gate), to };
    if let Err(error) = span::thread("pack", move || worker.work(&begun)) {
        tracing::warn!(%error, "there is no thread to pack with: blobs stay as they were written");
        return;
    }
    drive(Packing::default(), events, |action| match action {
        Action::Pack(digest) => {
            // A pause may still stand that was meant for the one before, which had ended.
            gate.set(|state| state.paused = false);
            // There is room, since the Plan gives one at a time. A thread that ended took everything with it.
            let _ = begin.try_send(Job::Pack(digest));
        }
        Action::Shrink => {
            gate.set(|state| state.paused = false);
            let _ = begin.try_send(Job::Shrink);
        }
        Action::Pause => gate.set(|state| state.paused = true),
        Action::Resume => gate.set(|state| state.paused = false),
    })
    .await;
}

/// What the thread does next.
enum Job {
    Pack(Digest),
    Shrink,
}

#[derive(Debug, Default)]
struct State {
    paused: bool,
    stopped: bool,
}

/// Where the thread waits between two pieces while others are at work.
#[derive(Debug, Default)]
struct Gate {
    state: Mutex<State>,
    changed: Condvar,
}

impl Gate {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, change: impl FnOnce(&mut State)) {
        change(&mut self.state());
        self.changed.notify_all();
    }

    /// Whether it may go on without waiting.
    fn is_open(&self) -> bool {
        let state = self.state();
        !state.paused && !state.stopped
    }

    /// Waits until it may go on; says whether it should at all.
    fn pass(&self) -> bool {
        let mut state = self.state();
        while state.paused && !state.stopped {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        !state.stopped
    }
}

/// Ends the thread, which may be in the middle of a Blob, with the driver.
struct Stop(Arc<Gate>);

impl Drop for Stop {
    fn drop(&mut self) {
        self.0.set(|state| state.stopped = true);
    }
}

struct Worker {
    store: Store,
    gate: Arc<Gate>,
    to: mpsc::Sender<Event>,
}

impl Worker {
    fn work(&self, begun: &jobs::Receiver<Job>) {
        // Only this thread is meant, and is on Linux. Elsewhere nothing is lost but courtesy.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::nice(NICE);
        if let Err(error) = self.look_around() {
            tracing::warn!(%error, "what the store holds cannot be counted");
        }
        // Where it could not be counted, something may be free all the same.
        let mut told = self.to.blocking_send(Event::Freed);
        while let (Ok(()), Ok(job)) = (told, begun.recv()) {
            told = self.to.blocking_send(match job {
                Job::Pack(digest) => Event::Ended(self.pack(&digest)),
                Job::Shrink => Event::Shrunk(self.shrink()),
            });
        }
    }

    /// Counts what is stored, and finds what waits.
    fn look_around(&self) -> Result<(), StoreError> {
        self.store.count()?;
        self.store.each_waiting(&mut |digest| {
            self.gate.pass() && self.to.blocking_send(Event::Waits(digest)).is_ok()
        })
    }

    fn shrink(&self) -> Outcome {
        match self.store.shrink(&mut || self.gate.is_open()) {
            Ok(Shrunk::Spoilt) => Outcome::Failed,
            Ok(Shrunk::Done { before, after }) => {
                tracing::info!(before, after, "the index became smaller");
                Outcome::Settled
            }
            Ok(Shrunk::Tight) => Outcome::Settled,
            Err(error) => {
                tracing::warn!(%error, "the index cannot become smaller");
                Outcome::Failed
            }
        }
    }

    fn pack(&self, digest: &Digest) -> Outcome {
        match self.store.pack(digest, &mut || self.gate.pass()) {
            Ok(_) | Err(StoreError::Content(ContentError::Damaged { .. })) => Outcome::Settled,
            Err(error) => {
                tracing::warn!(blob = %digest, %error, "a blob cannot be packed");
                Outcome::Failed
            }
        }
    }
}
