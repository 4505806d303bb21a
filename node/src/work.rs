// SPDX-License-Identifier: MIT OR Apache-2.0
//! What people ask of a running daemon and what takes long: each job is handed to the module that does it, and what
//! came of it is one JSON object.

use std::sync::Arc;

use potluck_protocol::control::{Export, Job};
use serde_json::Value;
use tokio::io::AsyncRead;

use crate::cache::{CacheError, Stretches};
use crate::control::server::Progress;
use crate::engine::Engine;
use crate::verify::verify;

/// Does a job.
///
/// # Errors
/// [`CacheError`].
pub async fn run(engine: &Arc<Engine>, job: Job, progress: Progress) -> Result<Value, CacheError> {
    match job {
        Job::Collect(_) => later("collect"),
        Job::Verify(what) => verify(engine, what, progress).await,
        Job::Pin(_) => later("pin"),
        Job::Unpin(_) => later("unpin"),
        Job::Pins(_) => later("pins"),
        Job::Restore(_) => later("restore"),
    }
}

fn later(what: &str) -> Result<Value, CacheError> {
    Err(CacheError::Usage(format!("this daemon cannot {what} yet")))
}

/// A bundle of what is wanted.
///
/// # Errors
/// [`CacheError`].
pub async fn export(engine: &Arc<Engine>, what: Export) -> Result<Stretches, CacheError> {
    let _ = (engine, what);
    Err(CacheError::Usage("this daemon cannot export yet".to_owned()))
}

/// Takes a bundle.
///
/// # Errors
/// [`CacheError`].
pub async fn import(
    engine: &Arc<Engine>,
    from: impl AsyncRead + Send + Unpin + 'static,
    progress: Progress,
) -> Result<Value, CacheError> {
    let _ = (engine, from, progress);
    later("import")
}
