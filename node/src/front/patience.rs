// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long to wait for the daemon: as long as it is alive, which it must show from time to time. One that hangs must
//! not stall a build, and one that is busy must not be given up.

use std::time::Duration;

use tokio::time::timeout;

use crate::cache::Cache;
use crate::observe::clock;

/// How long to wait for one thing.
#[derive(Debug, Clone, Copy)]
pub(super) struct Patience {
    /// How long it may take before the daemon is asked whether it is alive.
    pub(super) first: Duration,
    /// How long the answer to that may take, and how soon it is asked again.
    pub(super) grace: Duration,
    /// The longest that a daemon which is alive may take.
    pub(super) longest: Duration,
}

/// Nothing when the daemon is not alive, or takes too long.
pub(super) async fn patiently<C: Cache, T>(
    door: &C,
    patience: Patience,
    work: impl Future<Output = T>,
) -> Option<T> {
    let started = clock::moment();
    let mut work = std::pin::pin!(work);
    let mut wait = patience.first;
    loop {
        if let Ok(done) = timeout(wait, &mut work).await {
            return Some(done);
        }
        let alive = timeout(patience.grace, door.missing(Vec::new()));
        // The work must go on meanwhile: on one connection, its bytes may be what the answer waits behind.
        let alive = tokio::select! {
            biased;
            done = &mut work => return Some(done),
            alive = alive => matches!(alive, Ok(Ok(_))),
        };
        if !alive || clock::moment().since(started) > patience.longest {
            return None;
        }
        wait = patience.grace;
    }
}
