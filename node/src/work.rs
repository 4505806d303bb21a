// SPDX-License-Identifier: MIT OR Apache-2.0
//! What people ask of a running daemon and what takes long: each job is handed to the module that does it, and what
//! came of it is one JSON object.

use std::io::{self, Write};
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use potluck_keys::rules::Pattern;
use potluck_protocol::action::ActionId;
use potluck_protocol::control::{
    Claims, Collect, Doubt, Export, Job, MAX_DATA_BYTES, MAX_PATTERN_BYTES, Pin,
};
use serde_json::Value;
use tokio::io::AsyncRead;
use tokio::sync::{Semaphore, SemaphorePermit, mpsc, oneshot};
use tokio_util::io::SyncIoBridge;

use crate::alias;
use crate::bundle;
use crate::bundle::export::Selection;
use crate::bundle::import::{Import, Imported};
use crate::cache::{CacheError, STRETCHES, Stretches};
use crate::control::server::{Progress, Reported};
use crate::engine::Engine;
use crate::fetch::event::Space;
use crate::gc::pins;
use crate::gc::plan::Wish;
use crate::materialise::job;
use crate::observe::span;
use crate::verify::verify;

/// Most bundles that are written or read at a time; further ones wait.
const MAX_BUNDLES: usize = 4;

/// Does a job.
///
/// # Errors
/// [`CacheError`].
pub async fn run(engine: &Arc<Engine>, job: Job, progress: Progress) -> Result<Value, CacheError> {
    match job {
        Job::Collect(collect) => self::collect(engine, collect, progress).await,
        Job::Verify(what) => verify(engine, what, progress).await,
        Job::Pin(Pin { digest, reason }) => pins::add(engine, digest, reason).await,
        Job::Unpin(unpin) => pins::remove(engine, unpin.digest).await,
        Job::Pins(which) => pins::list(engine, which.digest).await,
        Job::Alias(what) => alias::add(engine, what.digests).await,
        Job::Find(what) => alias::find(engine, what.sha256).await,
        Job::Claims(what) => claims(engine, what).await,
        Job::Doubt(Doubt { entry, action, reason }) => {
            let engine = Arc::clone(engine);
            let reason = reason.map(|reason| reason.to_string());
            let signers = span::blocking(move || engine.doubt((&entry, &action), reason)).await?;
            Ok(serde_json::json!({ "entry": entry.to_string(), "signers": signers }))
        }
        Job::Audit(what) => audit(engine, what.project).await,
        Job::Restore(want) => job::restore(engine.store().clone(), want, progress).await,
    }
}

/// How long those may take who are asked for their claims.
const ASKING: Duration = Duration::from_secs(10);

/// Who claims what.
async fn claims(engine: &Arc<Engine>, what: Claims) -> Result<Value, CacheError> {
    let Claims { project, recipe, keys, ask } = what;
    let space = Space { project, recipe };
    let keys: Vec<_> = keys.into_iter().map(potluck_protocol::codec::Bytes::into_inner).collect();
    if ask {
        let action = |key: &Vec<u8>| ActionId::derive(&space.project, &space.recipe, key, None);
        let actions = keys.iter().map(action).collect::<Result<Vec<_>, _>>();
        let actions = actions.map_err(|error| CacheError::Usage(error.to_string()))?;
        engine.ask_claims(&space, &actions, ASKING).await;
    }
    let engine = Arc::clone(engine);
    let rows = span::blocking(move || engine.claims_of(&space, &keys)).await?;
    Ok(serde_json::json!({ "actions": rows }))
}

/// Who disagrees.
async fn audit(
    engine: &Arc<Engine>,
    project: Option<potluck_protocol::codec::Text<MAX_PATTERN_BYTES>>,
) -> Result<Value, CacheError> {
    let usage = |error: String| CacheError::Usage(format!("the pattern of projects: {error}"));
    let project = project.map(|pattern| Pattern::new(&pattern).map_err(usage)).transpose()?;
    let engine = Arc::clone(engine);
    let audit = span::blocking(move || engine.audit(project.as_ref())).await?;
    serde_json::to_value(audit).map_err(|error| CacheError::Store(error.to_string()))
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

/// Stretches of a bundle, on their way to whoever asked.
struct Pouring {
    to: mpsc::Sender<Result<Bytes, CacheError>>,
    stretch: Vec<u8>,
}

impl Write for Pouring {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let room = MAX_DATA_BYTES - self.stretch.len();
        let taken = &bytes[..bytes.len().min(room)];
        self.stretch.extend_from_slice(taken);
        if self.stretch.len() == MAX_DATA_BYTES {
            self.flush()?;
        }
        Ok(taken.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        let stretch = std::mem::take(&mut self.stretch);
        if stretch.is_empty() {
            return Ok(());
        }
        self.to.blocking_send(Ok(stretch.into())).map_err(|_| io::ErrorKind::BrokenPipe.into())
    }
}

/// A bundle of what is wanted, and what went into it.
///
/// # Errors
/// [`CacheError`].
pub async fn export(engine: &Arc<Engine>, what: Export) -> Result<(Stretches, Reported), CacheError> {
    let usage = |error: String| CacheError::Usage(format!("the projects to export: {error}"));
    let project = what.project.map(|pattern| Pattern::new(&pattern).map_err(usage)).transpose()?;
    let what = Selection { project, toolchain: what.toolchain.map(|prefix| prefix.to_string()) };
    let place = bundles().await;
    let (to, from) = mpsc::channel(STRETCHES);
    let (report_to, report) = oneshot::channel();
    let engine = Arc::clone(engine);
    span::spawn("export", async move {
        let pouring = Pouring { to: to.clone(), stretch: Vec::with_capacity(MAX_DATA_BYTES) };
        match span::blocking(move || bundle::export::export(&engine, &what, pouring)).await {
            Ok(exported) => {
                let json = serde_json::to_vec(&exported).expect("a report is plain data");
                let _ = report_to.send(json);
            }
            // Nobody hears it when it was they who broke it off.
            Err(error) => drop(to.send(Err(CacheError::Store(error.to_string()))).await),
        }
        drop(place);
    });
    Ok((from.into(), report))
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
    let place = bundles().await;
    let engine = Arc::clone(engine);
    // Whoever sends is heard until he goes away, which ends the reading, so this thread is given back.
    let from = SyncIoBridge::new(from);
    let imported = span::blocking(move || {
        let mut tell = |so_far: &Imported| {
            let _ = serde_json::to_vec(so_far).map(|json| progress.try_send(json));
        };
        // The disk itself says when it is full; then what came before stays.
        let import = Import { engine: &engine, room: &|| u64::MAX, progress: &mut tell };
        let imported = bundle::import::import(from, import);
        drop(place);
        imported
    });
    let imported = imported.await.map_err(|error| CacheError::Store(error.to_string()))?;
    serde_json::to_value(&imported).map_err(|error| CacheError::Store(error.to_string()))
}

/// A place among the bundles under way: each keeps a thread for as long as it takes.
async fn bundles() -> SemaphorePermit<'static> {
    static PLACES: Semaphore = Semaphore::const_new(MAX_BUNDLES);
    PLACES.acquire().await.expect("it is never closed")
}
