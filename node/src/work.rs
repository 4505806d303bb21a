// SPDX-License-Identifier: MIT OR Apache-2.0
//! What people ask of a running daemon and what takes long: each job is handed to the module that does it, and what
//! came of it is one JSON object.

use std::sync::Arc;

use potluck_keys::rules::Pattern;
use potluck_protocol::control::{Collect, Export, Job, Pin};
use serde_json::Value;
use tokio::io::AsyncRead;

use crate::cache::{CacheError, Stretches};
use crate::control::server::Progress;
use crate::engine::Engine;
use crate::gc::pins;
use crate::gc::plan::Wish;

/// Does a job.
///
/// # Errors
/// [`CacheError`].
pub async fn run(engine: &Arc<Engine>, job: Job, progress: Progress) -> Result<Value, CacheError> {
    match job {
        Job::Collect(collect) => self::collect(engine, collect, progress).await,
        Job::Verify(_) => later("verify"),
        Job::Pin(Pin { digest, reason }) => pins::add(engine, digest, reason).await,
        Job::Unpin(unpin) => pins::remove(engine, unpin.digest).await,
        Job::Pins(which) => pins::list(engine, which.digest).await,
        Job::Restore(_) => later("restore"),
    }
}

/// Makes room, or says what would go.
async fn collect(engine: &Arc<Engine>, collect: Collect, progress: Progress) -> Result<Value, CacheError> {
    let Collect { keep, toolchain, project, dry } = collect;
    if keep.is_some() && (toolchain.is_some() || project.is_some()) {
        let message = "either what is named goes, or as much as must, not both".to_owned();
        return Err(CacheError::Usage(message));
    }
    let project = project.map(|pattern| Pattern::new(&pattern)).transpose();
    let project = project.map_err(|error| CacheError::Usage(format!("the pattern of projects: {error}")))?;
    let wish = Wish { keep, toolchain: toolchain.map(|text| text.to_string()), project, dry };
    let collector =
        engine.collector().ok_or_else(|| CacheError::Store("nobody makes room here".to_owned()))?;
    let report = collector.ask(wish, progress).await?;
    serde_json::to_value(report).map_err(|error| CacheError::Store(error.to_string()))
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
