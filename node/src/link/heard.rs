// SPDX-License-Identifier: MIT OR Apache-2.0
//! When anything last came on a stream: one whose answer waits behind others is not silent.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use tokio::io::{AsyncRead, ReadBuf};
use tokio::time::Instant;

/// When anything last came.
#[derive(Debug, Clone)]
pub(super) struct LastHeard {
    began: Instant,
    /// How long after that, in microseconds.
    after: Arc<AtomicU64>,
}

impl LastHeard {
    /// The stream begins now.
    pub(super) fn new() -> Self {
        Self { began: Instant::now(), after: Arc::default() }
    }

    pub(super) fn at(&self) -> Instant {
        self.began + Duration::from_micros(self.after.load(Ordering::Relaxed))
    }

    fn now(&self) {
        let after = self.began.elapsed().as_micros();
        self.after.store(u64::try_from(after).unwrap_or(u64::MAX), Ordering::Relaxed);
    }
}

/// A stream that notes when anything came.
pub(super) struct Heard<R> {
    pub(super) from: R,
    pub(super) last: LastHeard,
}

impl<R: AsyncRead + Unpin> AsyncRead for Heard<R> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(Pin::new(&mut self.from).poll_read(context, to))?;
        self.last.now();
        Poll::Ready(Ok(()))
    }
}
