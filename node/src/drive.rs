// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one loop that runs a Plan: feeds it what happens, carries out what it says, wakes it when it asked to be.

use tokio::sync::mpsc;

use crate::observe::clock;
use crate::plan::Plan;

/// Most events that a Plan hears before it is asked what is to be done.
const TOGETHER: usize = 64;

/// Runs `plan` until nobody can send events any more. `perform` must not wait: what takes time is started there and
/// sends its outcome as an event.
pub async fn drive<P: Plan>(
    mut plan: P,
    mut events: mpsc::Receiver<P::Event>,
    mut perform: impl FnMut(P::Action),
) {
    loop {
        while let Some(action) = plan.take(clock::moment()) {
            perform(action);
        }
        let now = clock::moment();
        let event = match plan.wake_at() {
            None => events.recv().await,
            Some(at) => match tokio::time::timeout(at.since(now), events.recv()).await {
                Ok(event) => event,
                Err(_) => continue,
            },
        };
        let Some(event) = event else { return };
        plan.feed(clock::moment(), event);
        // What happened meanwhile is taken together: what is to be done about all of it is found out once.
        for _ in 1..TOGETHER {
            let Ok(event) = events.try_recv() else { break };
            plan.feed(clock::moment(), event);
        }
    }
}
