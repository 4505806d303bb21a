// SPDX-License-Identifier: MIT OR Apache-2.0
//! The only place where tasks are started, so that each has a name in the log.

use std::future::Future;
use std::num::NonZero;
use std::sync::LazyLock;

use tokio::task::JoinHandle;
use tracing::Instrument as _;

/// Starts a task under a name. Whoever needs to know of its end keeps the handle.
#[expect(clippy::disallowed_methods, reason = "this is the one place that starts tasks")]
pub fn spawn<F>(name: &'static str, work: F) -> JoinHandle<F::Output>
where
    F: Future + Send + 'static,
    F::Output: Send + 'static,
{
    tokio::spawn(work.instrument(tracing::debug_span!("task", name)))
}

/// How many threads of this process can run at once; one where the system does not say. The system is asked once: it
/// reads files to answer, which takes longer than much of what is shared out by the answer.
pub fn cores() -> usize {
    static CORES: LazyLock<usize> =
        LazyLock::new(|| std::thread::available_parallelism().map_or(1, NonZero::get));
    *CORES
}

/// Runs work that waits for the disk where it holds up nobody.
///
/// # Panics
/// When the work does.
#[expect(clippy::disallowed_methods, reason = "this is the one place that starts tasks")]
pub async fn blocking<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> T {
    match tokio::task::spawn_blocking(work).await {
        Ok(done) => done,
        Err(error) => std::panic::resume_unwind(error.into_panic()),
    }
}

/// Starts a thread for work that goes on as long as the process, or nearly.
///
/// # Errors
/// When the system has no thread to give.
pub fn thread(name: &str, work: impl FnOnce() + Send + 'static) -> std::io::Result<()> {
    std::thread::Builder::new().name(name.to_owned()).spawn(work).map(drop)
}

/// Starts work that waits for the disk; its end is awaited by the handle.
#[expect(clippy::disallowed_methods, reason = "this is the one place that starts tasks")]
pub fn blocking_task<T: Send + 'static>(work: impl FnOnce() -> T + Send + 'static) -> JoinHandle<T> {
    tokio::task::spawn_blocking(work)
}
