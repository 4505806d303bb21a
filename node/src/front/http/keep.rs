// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers for values under keys that mean nothing to anybody but their tool: a key is a claim of one Blob.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use potluck_protocol::action::{Project, Recipe};
use potluck_protocol::codec::Text;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{BlobOutput, Labels, Output};
use tokio::io::AsyncRead;
use tokio::time::error::Elapsed;
use tokio::time::timeout;

use super::archive;
use super::map::{Dialect, Operation, Part, Stored, etag, packed_etag, part, wants_zstd, webdav};
use crate::cache::{Answer as Known, Cache as _, CacheError, Publication, Question, Stretches};
use crate::engine::Engine;
use crate::fetch::event::Space;
use crate::front::listen::asked::Asked;
use crate::front::listen::body::{Body, Stream, Upload};
use crate::front::listen::{Answer, Door, plain, said};
use crate::index::MAX_INLINE_BYTES;

/// Largest body that is taken and forgotten.
const MAX_DROPPED_BYTES: u64 = 64 * 1024;
/// Longest time that a value which was sent may take to be claimed, once all of it is here.
const CLAIM_WITHIN: Duration = Duration::from_secs(20);

/// Answers one request of a tool.
pub(super) async fn serve(door: Door, dialect: &'static Dialect, asked: Asked, upload: Upload) -> Answer {
    match (dialect.map)(&asked) {
        Err(status) => plain(status),
        Ok(Operation::Get { key, head }) => {
            get(&door, &Slot::new(dialect, &asked, key), (&asked, head)).await
        }
        Ok(Operation::Put { key }) => {
            let length = upload.length();
            let stored = put(&door, &Slot::new(dialect, &asked, key), (upload.read(), length)).await;
            plain((dialect.stored)(stored))
        }
        Ok(Operation::Folder) => properties(asked.path(), None),
        Ok(Operation::Look { key }) => match known(&door, &Slot::new(dialect, &asked, key)).await {
            Some(output) => properties(asked.path(), Some(output.total())),
            None => plain(StatusCode::NOT_FOUND),
        },
        Ok(Operation::Drop) => match upload.bytes(MAX_DROPPED_BYTES).await {
            Ok(_) => plain(StatusCode::CREATED),
            Err(_) => plain(StatusCode::BAD_REQUEST),
        },
        Ok(Operation::Delete { key }) => {
            let withdrawn = withdraw(&door, &Slot::new(dialect, &asked, key)).await;
            plain(if withdrawn { StatusCode::NO_CONTENT } else { StatusCode::NOT_FOUND })
        }
    }
}

/// What is said about a path to those who take this for a file system.
fn properties(path: &str, size: Option<u64>) -> Answer {
    let mut answer = said(StatusCode::MULTI_STATUS, webdav::properties(path, size));
    answer
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("application/xml; charset=utf-8"));
    answer
}

/// A key of a tool in a Project.
#[derive(Clone)]
pub(super) struct Slot {
    pub(super) dialect: &'static Dialect,
    pub(super) project: Project,
    pub(super) key: String,
}

impl Slot {
    pub(super) fn new(dialect: &'static Dialect, asked: &Asked, key: String) -> Self {
        Self { dialect, project: asked.project().clone(), key }
    }

    fn space(&self) -> Space {
        let recipe = Recipe::new(self.dialect.recipe).expect("each dialect names a recipe");
        Space { project: self.project.clone(), recipe }
    }

    pub(super) fn publication(&self, output: Output) -> Publication {
        let Space { project, recipe } = self.space();
        let labels = Labels { tool: Text::new(self.dialect.tool), ..Labels::default() };
        let key = self.key.clone().into_bytes();
        Publication { project, recipe, key, output, labels, taints: Vec::new() }
    }

    pub(super) fn question(&self, deadline: Duration) -> Question {
        let Space { project, recipe } = self.space();
        Question { project, recipe, keys: vec![self.key.clone().into_bytes()], deadline }
    }
}

/// The value of a key, or a miss: whatever goes wrong here is one as well.
async fn get(door: &Door, slot: &Slot, (asked, head): (&Asked, bool)) -> Answer {
    let given = async {
        match find(door, slot).await {
            Some(found) => give(door.engine(), slot.dialect, asked, (found, head)).await,
            None => plain(StatusCode::NOT_FOUND),
        }
    };
    in_time(slot, given).await.unwrap_or_else(|| plain(StatusCode::NOT_FOUND))
}

/// What comes of some work, if it comes before the tool has lost its patience.
pub(super) async fn in_time<T>(slot: &Slot, work: impl Future<Output = T>) -> Option<T> {
    let Dialect { patience, tool, .. } = slot.dialect;
    let done = timeout(*patience, work).await.ok();
    if done.is_none() {
        tracing::warn!(tool, "nothing could be answered in time");
    }
    done
}

/// What is asked about a key, for as long as the settings say.
fn question(door: &Door, slot: &Slot) -> Question {
    slot.question(door.deadline(slot.dialect.deadline))
}

/// What is known under a key.
pub(super) async fn known(door: &Door, slot: &Slot) -> Option<Output> {
    let asking = door.engine().lookup(question(door, slot));
    match timeout(slot.dialect.patience, asking).await.ok()?.ok()?.pop()? {
        Known::Hit(output) => Some(output),
        Known::Miss(_) => None,
    }
}

/// Forgets a key; gives whether there was anything.
pub(super) async fn withdraw(door: &Door, slot: &Slot) -> bool {
    door.engine().withdraw(&slot.space(), slot.key.as_bytes()).await.unwrap_or(false)
}

/// A value that is here, and the beginning of it, which was read and checked.
pub(super) struct Found {
    pub(super) blob: BlobOutput,
    pub(super) first: Bytes,
    /// The rest, unless that was all.
    pub(super) rest: Option<Stretches>,
}

/// The value of a key; of one that changes, the newest.
pub(super) async fn find(door: &Door, slot: &Slot) -> Option<Found> {
    let engine = door.engine();
    let Output::Blob(blob) = known(door, slot).await? else { return None };
    let found = open(engine, blob).await?;
    if !(slot.dialect.changes)(&found.first) {
        return Some(found);
    }
    match engine.newest(&question(door, slot)).await {
        Some(Output::Blob(blob)) if blob != found.blob => open(engine, blob).await.or(Some(found)),
        _ => Some(found),
    }
}

/// Begins to read a Blob; nothing when it cannot be read, which is a miss.
pub(super) async fn open(engine: &Arc<Engine>, blob: BlobOutput) -> Option<Found> {
    let read = async {
        if let Some(whole) = engine.whole(blob.digest, blob.size).await? {
            return Ok(Some((whole, None)));
        }
        let mut rest = engine.read(blob.digest, None).await?;
        match rest.recv().await.transpose()? {
            Some(first) => Ok(Some((first, Some(rest)))),
            None => Ok::<_, CacheError>(None),
        }
    };
    match read.await {
        Ok(read) => read.map(|(first, rest)| Found { blob, first, rest }),
        Err(error) => {
            tracing::warn!(%error, "a value cannot be read");
            None
        }
    }
}

/// The answer that gives a value, or what of it was asked for.
pub(super) async fn give(
    engine: &Arc<Engine>,
    dialect: &Dialect,
    asked: &Asked,
    (found, head): (Found, bool),
) -> Answer {
    let Found { blob: BlobOutput { digest, size }, first, rest } = found;
    if dialect.gullible && rest.is_some() && !is_whole(engine, digest).await {
        return plain(StatusCode::NOT_FOUND);
    }
    let (status, range) = match part(asked.headers(), &digest, size) {
        Part::All => (StatusCode::OK, None),
        Part::Range(range) => (StatusCode::PARTIAL_CONTENT, Some(range)),
        Part::Beyond => (StatusCode::RANGE_NOT_SATISFIABLE, None),
        Part::Unchanged => (StatusCode::NOT_MODIFIED, None),
    };
    let mut answer = plain(status);
    let headers = answer.headers_mut();
    headers.insert(header::ETAG, etag(&digest));
    headers.insert(header::ACCEPT_RANGES, HeaderValue::from_static("bytes"));
    if status == StatusCode::NOT_MODIFIED {
        return answer;
    }
    if status == StatusCode::RANGE_NOT_SATISFIABLE {
        let all = HeaderValue::try_from(format!("bytes */{size}")).expect("digits");
        headers.insert(header::CONTENT_RANGE, all);
        return answer;
    }
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    if size > MAX_INLINE_BYTES as u64
        && range.is_none()
        && !head
        && wants_zstd(asked.headers())
        && let Some(body) = packed(engine, digest).await
    {
        headers.insert(header::ETAG, packed_etag(&digest));
        headers.insert(header::CONTENT_ENCODING, HeaderValue::from_static("zstd"));
        headers.insert(header::VARY, HeaderValue::from_static("accept-encoding"));
        *answer.body_mut() = body;
        return answer;
    }
    let length = range.as_ref().map_or(size, |range| range.end - range.start);
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    if let Some(range) = &range {
        let which = format!("bytes {}-{}/{size}", range.start, range.end - 1);
        headers.insert(header::CONTENT_RANGE, HeaderValue::try_from(which).expect("digits"));
    }
    if head {
        return answer;
    }
    *answer.body_mut() = match (rest, range) {
        (None, None) => Body::Whole(first),
        (None, Some(range)) => {
            let within = |at: u64| usize::try_from(at).unwrap_or(usize::MAX).min(first.len());
            Body::Whole(first.slice(within(range.start)..within(range.end)))
        }
        (Some(rest), None) => Body::Stream(Stream::new(first, rest, Some(size))),
        (Some(_), Some(range)) => {
            let Ok(mut rest) = engine.read(digest, Some(range)).await else {
                return plain(StatusCode::NOT_FOUND);
            };
            let Some(Ok(first)) = rest.recv().await else { return plain(StatusCode::NOT_FOUND) };
            Body::Stream(Stream::new(first, rest, Some(length)))
        }
    };
    answer
}

/// A value as it is stored, if that is packed and can be read.
async fn packed(engine: &Arc<Engine>, digest: Digest) -> Option<Body> {
    let mut rest = engine.read_packed(digest).await.ok()??;
    let first = rest.recv().await?.ok()?;
    Some(Body::Stream(Stream::new(first, rest, None)))
}

/// Reads all of a Blob to see whether it can be.
async fn is_whole(engine: &Arc<Engine>, digest: Digest) -> bool {
    let Ok(mut all) = engine.read(digest, None).await else { return false };
    while let Some(stretch) = all.recv().await {
        if stretch.is_err() {
            return false;
        }
    }
    true
}

/// Takes a value of so many bytes and claims it.
pub(super) async fn put(
    door: &Door,
    slot: &Slot,
    (from, length): (impl AsyncRead + Send + Unpin, u64),
) -> Stored {
    let dialect = slot.dialect;
    if length > dialect.most {
        return Stored::TooLarge;
    }
    let (space, key) = (slot.space(), slot.key.as_bytes());
    let how = (dialect.archive, door.engine().durability(&space.recipe));
    let taken = match archive::take(door.engine(), how, (from, length)).await {
        Ok(taken) => taken,
        Err(error) => return failed(dialect, &error),
    };
    let owned = slot.clone();
    let publication = move |output| owned.publication(output);
    let claim = door.engine().publish_taken((&space, key), taken, publication);
    claimed(dialect, timeout(CLAIM_WITHIN, claim).await)
}

/// Claims that a key gave an output.
pub(super) async fn claim(door: &Door, slot: &Slot, output: Output) -> Stored {
    let publication = slot.publication(output);
    let claim = timeout(CLAIM_WITHIN, door.engine().publish_over(publication)).await;
    claimed(slot.dialect, claim.map(|claim| claim.map(drop)))
}

/// What a tool is told of a claim.
fn claimed(dialect: &Dialect, claim: Result<Result<(), CacheError>, Elapsed>) -> Stored {
    match claim {
        Ok(Ok(())) => Stored::Done,
        Ok(Err(error)) => failed(dialect, &error),
        Err(_) => Stored::NotKept,
    }
}

/// What a tool is told of a value that was not taken.
pub(super) fn failed(dialect: &Dialect, error: &CacheError) -> Stored {
    match error {
        CacheError::Source(error) => {
            tracing::info!(tool = dialect.tool, %error, "a value did not come");
            Stored::Broken
        }
        error => {
            tracing::warn!(tool = dialect.tool, %error, "a value was not kept");
            Stored::NotKept
        }
    }
}
