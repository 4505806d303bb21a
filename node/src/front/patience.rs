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

/// Why it was waited for in vain.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(super) enum Waited {
    /// The daemon says nothing at all.
    #[error("the daemon did not answer in time")]
    Silent,
    /// It is alive, and took too long.
    #[error("the daemon took too long")]
    Late,
}

/// What the work gives, unless the daemon is not alive or takes too long.
pub(super) async fn patiently<C: Cache, T>(
    door: &C,
    patience: Patience,
    work: impl Future<Output = T>,
) -> Result<T, Waited> {
    let started = clock::moment();
    let left = || patience.longest.saturating_sub(clock::moment().since(started));
    let mut work = std::pin::pin!(work);
    let mut wait = patience.first;
    loop {
        if let Ok(done) = timeout(wait.min(left()), &mut work).await {
            return Ok(done);
        }
        let alive = timeout(patience.grace, door.missing(Vec::new()));
        // The work must go on meanwhile: on one connection, its bytes may be what the answer waits behind.
        let alive = tokio::select! {
            biased;
            done = &mut work => return Ok(done),
            alive = alive => matches!(alive, Ok(Ok(_))),
        };
        if !alive {
            return Err(Waited::Silent);
        }
        if left().is_zero() {
            return Err(Waited::Late);
        }
        wait = patience.grace;
    }
}

#[cfg(test)]
mod tests {
    use std::ops::Range;

    use potluck_protocol::control::Answer;
    use potluck_protocol::digest::Digest;
    use tokio::io::AsyncRead;

    use super::*;
    use crate::cache::{CacheError, Publication, Question, Stretches};

    /// A door that answers whether it is alive so many times, and nothing else.
    struct Door(std::sync::atomic::AtomicUsize);

    impl Cache for Door {
        async fn missing(&self, _: Vec<Digest>) -> Result<Vec<Digest>, CacheError> {
            let less = |left: usize| left.checked_sub(1);
            let order = std::sync::atomic::Ordering::Relaxed;
            if self.0.fetch_update(order, order, less).is_err() {
                std::future::pending::<()>().await;
            }
            Ok(Vec::new())
        }

        async fn lookup(&self, _: Question) -> Result<Vec<Answer>, CacheError> {
            std::future::pending().await
        }

        async fn read(&self, _: Digest, _: Option<Range<u64>>) -> Result<Stretches, CacheError> {
            std::future::pending().await
        }

        async fn write(&self, _: impl AsyncRead + Send + Unpin) -> Result<(Digest, u64), CacheError> {
            std::future::pending().await
        }

        async fn publish(&self, _: Publication) -> Result<Digest, CacheError> {
            std::future::pending().await
        }
    }

    #[tokio::test]
    async fn who_is_alive_is_waited_for_to_a_bound_and_who_is_not_no_further() {
        let millis = Duration::from_millis;
        let patience = Patience { first: millis(5), grace: millis(5), longest: millis(40) };
        let waited = async |alive: usize, patience| {
            let door = Door(alive.into());
            let never = std::future::pending::<()>();
            (patiently(&door, patience, never).await, door.0.into_inner())
        };
        assert_eq!(waited(0, patience).await, (Err(Waited::Silent), 0));
        assert_eq!(waited(2, patience).await, (Err(Waited::Silent), 0));
        let (ended, left) = waited(1000, patience).await;
        assert_eq!(ended, Err(Waited::Late));
        assert!(left >= 1000 - 40 / 5 - 1, "{left}");
        // The bound counts, should the first wait be longer.
        let hasty = Patience { first: Duration::from_secs(3600), ..patience };
        assert_eq!(waited(1000, hasty).await, (Err(Waited::Late), 999));
        assert_eq!(patiently(&Door(0.into()), patience, async { 7 }).await, Ok(7));
    }
}
