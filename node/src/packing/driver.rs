// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out what the Plan says, on one thread of low priority.

use std::sync::mpsc as jobs;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use potluck_protocol::digest::Digest;
use tokio::sync::mpsc;

use super::plan::{Action, Event, Outcome, Packing};
use crate::content::ContentError;
use crate::drive::drive;
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
            let _ = begin.try_send(digest);
        }
        Action::Pause => gate.set(|state| state.paused = true),
        Action::Resume => gate.set(|state| state.paused = false),
    })
    .await;
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
    fn work(&self, begun: &jobs::Receiver<Digest>) {
        // Only this thread is meant, and is on Linux. Elsewhere nothing is lost but courtesy.
        #[cfg(target_os = "linux")]
        let _ = rustix::process::nice(NICE);
        if let Err(error) = self.look_around() {
            tracing::warn!(%error, "what the store holds cannot be counted");
        }
        while let Ok(digest) = begun.recv() {
            let outcome = self.pack(&digest);
            if self.to.blocking_send(Event::Ended(outcome)).is_err() {
                return;
            }
        }
    }

    /// Counts what is stored, and finds what waits.
    fn look_around(&self) -> Result<(), StoreError> {
        self.store.count()?;
        self.store.each_waiting(&mut |digest| {
            self.gate.pass() && self.to.blocking_send(Event::Waits(digest)).is_ok()
        })
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
