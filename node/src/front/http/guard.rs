// SPDX-License-Identifier: MIT OR Apache-2.0
//! What stands between Nx and the daemon: a process of its own that lives as long as a run of Nx does.
//!
//! Nx fails a run when its server cannot be reached, ends a connection before the head of an answer or in the middle of a
//! body, or answers anything but what it expects; so no daemon can end without failing the runs that use it. Here it asks
//! somebody who does not end before it does: what it gets has come from the daemon to its end before the answer begins,
//! what it puts is taken whatever becomes of it, and without a daemon it is as if nobody had ever built anything.

use std::io::{self, Seek as _};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode, header};
use hyper::body::Incoming;
use potluck_protocol::action::Project;
use potluck_protocol::entry::{BlobOutput, Output};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;
use tokio::sync::{Semaphore, mpsc, watch};
use tokio::task::JoinSet;

use super::keep::Slot;
use super::map::Operation;
use super::map::nx::DIALECT;
use crate::cache::{Answer as Known, Cache, CacheError, STRETCHES};
use crate::config::Config;
use crate::front::listen::asked::Access;
use crate::front::listen::body::{Arriving, Body, Stream, Upload, due};
use crate::front::listen::{Answer, plain, serve};
use crate::front::patience::{Patience, Waited, patiently};
use crate::observe::span;

/// Most connections at a time; further ones wait until one ends.
const MAX_CONNECTIONS: usize = 512;
/// Most of a value that is in memory; what is larger waits in a file.
const MEMORY_BYTES: usize = 256 * 1024;
/// What the daemon gets on top of the deadline before it is asked whether it is alive, and for the answer to that.
const GRACE: Duration = Duration::from_millis(500);
/// How long to wait for the next stretch of a Blob that is on this machine.
const READING: Patience = Patience { first: GRACE, grace: GRACE, longest: Duration::from_secs(5) };
/// How long a claim may take.
const CLAIMING: Patience = Patience { first: GRACE, grace: GRACE, longest: Duration::from_secs(20) };

/// Where a run of Nx is served.
#[derive(Debug)]
pub struct Guard {
    listener: TcpListener,
    token: String,
    deadline: Duration,
}

impl Guard {
    /// Listens where only this machine can ask, and only who knows the token.
    ///
    /// # Errors
    /// When the system has no port or no random numbers to give.
    pub async fn open(config: &Config) -> io::Result<Self> {
        let mut token = [0; 16];
        getrandom::fill(&mut token).map_err(|error| io::Error::other(error.to_string()))?;
        let token = blake3::hash(&token).to_hex().to_string();
        let listener = TcpListener::bind("127.0.0.1:0").await?;
        Ok(Self { listener, token, deadline: config.deadline(DIALECT.tool, DIALECT.deadline) })
    }

    /// What tells Nx where that is.
    ///
    /// # Errors
    /// When the system does not say at which port it listens.
    pub fn variables(&self, project: &Project) -> io::Result<[(&'static str, String); 2]> {
        let (at, project) = (self.listener.local_addr()?, project.as_str().replace('/', "~"));
        Ok([
            ("NX_SELF_HOSTED_REMOTE_CACHE_SERVER", format!("http://{at}/{}/@{project}", DIALECT.tool)),
            ("NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN", self.token.clone()),
        ])
    }

    /// Serves until `stop` turns true.
    pub async fn serve<C: Cache + 'static>(self, door: Option<C>, mut stop: watch::Receiver<bool>) {
        let door = door.map(|door| Door { door, deadline: self.deadline, lost: AtomicBool::new(false) });
        let (door, access) = (Arc::new(door), Arc::new(Access::new(&self.token, &[])));
        let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        let mut connections = JoinSet::new();
        loop {
            let next = async {
                let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
                (place, crate::control::server::sure(|| self.listener.accept()).await.0)
            };
            let (place, stream) = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => return,
                next = next => next,
            };
            let _ = stream.set_nodelay(true);
            let (door, access, stop) = (Arc::clone(&door), Arc::clone(&access), stop.clone());
            connections.spawn(async move {
                serve::connection(stream, |request| answer(door.as_ref().as_ref(), &access, request), stop)
                    .await;
                drop(place);
            });
            while connections.try_join_next().is_some() {}
        }
    }
}

/// The door, as long as there is one.
struct Door<C> {
    door: C,
    deadline: Duration,
    lost: AtomicBool,
}

/// Why nothing came of a request.
#[derive(Debug, thiserror::Error)]
enum Missed {
    #[error("there is no daemon")]
    NoDoor,
    #[error(transparent)]
    Waited(#[from] Waited),
    #[error(transparent)]
    Door(#[from] CacheError),
    #[error("there is nothing")]
    NotFound,
    #[error("it is not what was claimed")]
    Other,
    #[error("it has no place here: {0}")]
    Spool(#[from] io::Error),
}

/// Answers a request by nothing that fails a run, if it is one of Nx's.
async fn answer<C: Cache>(door: Option<&Door<C>>, access: &Access, request: Request<Incoming>) -> Answer {
    let (asked, upload) = match serve::asked(request, access) {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    if asked.front() != DIALECT.tool {
        return plain(StatusCode::NOT_FOUND);
    }
    let slot = |key: String| Slot::new(&DIALECT, &asked, key);
    match (DIALECT.map)(&asked) {
        Ok(Operation::Get { key, head: false }) => get(door, &slot(key)).await.unwrap_or_else(|missed| {
            tracing::debug!(%missed, "nothing for Nx");
            plain(StatusCode::NOT_FOUND)
        }),
        Ok(Operation::Put { key }) => {
            put(door, &slot(key), upload).await;
            plain(StatusCode::OK)
        }
        _ => plain(StatusCode::NOT_FOUND),
    }
}

async fn get<C: Cache>(door: Option<&Door<C>>, slot: &Slot) -> Result<Answer, Missed> {
    let door = door.filter(|door| !door.lost.load(Ordering::Relaxed)).ok_or(Missed::NoDoor)?;
    let spool = door.heard(door.bring(slot).await)?;
    let size = spool.size;
    let mut answer = plain(StatusCode::OK);
    *answer.body_mut() = spool.body().await?;
    let headers = answer.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
    headers.insert(header::CONTENT_LENGTH, HeaderValue::from(size));
    Ok(answer)
}

/// Takes what is put to its end, whatever becomes of it.
async fn put<C: Cache>(door: Option<&Door<C>>, slot: &Slot, upload: Upload) {
    let length = upload.length();
    let mut from = upload.read();
    if let Some(door) = door.filter(|door| length <= DIALECT.most && !door.lost.load(Ordering::Relaxed))
        && let Err(missed) = door.heard(door.keep(slot, (&mut from, length)).await)
    {
        tracing::debug!(%missed, "not kept for Nx");
    }
    let _ = tokio::io::copy(&mut from, &mut tokio::io::sink()).await;
}

impl<C: Cache> Door<C> {
    /// Notes when the daemon is gone, so that nobody waits for it again.
    fn heard<T>(&self, came: Result<T, Missed>) -> Result<T, Missed> {
        if let Err(Missed::Waited(Waited::Silent) | Missed::Door(CacheError::Unreachable(_))) = came {
            self.lost.store(true, Ordering::Relaxed);
        }
        came
    }

    /// Brings all of a value.
    async fn bring(&self, slot: &Slot) -> Result<Spool, Missed> {
        let patience =
            Patience { first: self.deadline + GRACE, grace: GRACE, longest: slot.dialect.patience };
        let asking = self.door.lookup(slot.question(self.deadline));
        let known = patiently(&self.door, patience, asking).await??.pop();
        let Some(Known::Hit(Output::Blob(blob))) = known else { return Err(Missed::NotFound) };
        let read = patiently(&self.door, READING, self.door.read(blob.digest, None)).await;
        let mut stretches = read??;
        let mut spool = Spool::default();
        while let Some(stretch) = patiently(&self.door, READING, stretches.recv()).await? {
            spool.add(&stretch?).await?;
        }
        if spool.size == blob.size { Ok(spool) } else { Err(Missed::Other) }
    }

    /// Hands a value on, and has it claimed.
    async fn keep(&self, slot: &Slot, (from, length): (&mut Arriving, u64)) -> Result<(), Missed> {
        let writing = Patience { longest: due(length), ..CLAIMING };
        let (digest, size) = patiently(&self.door, writing, self.door.write(from)).await??;
        if size != length {
            return Err(Missed::Other);
        }
        let claim = slot.publication(Output::Blob(BlobOutput { digest, size }));
        patiently(&self.door, CLAIMING, self.door.publish(claim)).await??;
        Ok(())
    }
}

/// A value that comes: in memory as long as it is small, and then in a file without a name.
#[derive(Default)]
struct Spool {
    memory: Vec<u8>,
    file: Option<tokio::fs::File>,
    size: u64,
}

impl Spool {
    async fn add(&mut self, stretch: &[u8]) -> io::Result<()> {
        self.size += stretch.len() as u64;
        if let Some(file) = &mut self.file {
            return file.write_all(stretch).await;
        }
        self.memory.extend_from_slice(stretch);
        if self.memory.len() > MEMORY_BYTES {
            let mut file = tokio::fs::File::from_std(span::blocking(tempfile::tempfile).await?);
            file.write_all(&std::mem::take(&mut self.memory)).await?;
            self.file = Some(file);
        }
        Ok(())
    }

    /// All of it.
    async fn body(self) -> io::Result<Body> {
        let Some(mut file) = self.file else { return Ok(Body::Whole(self.memory.into())) };
        file.flush().await?;
        let file = file.into_std().await;
        let mut file =
            span::blocking(move || (&file).rewind().map(|()| file)).await.map(tokio::fs::File::from_std)?;
        let first = stretch(&mut file).await?;
        let (to, rest) = mpsc::channel(STRETCHES);
        span::spawn("spool", async move {
            loop {
                let next = stretch(&mut file).await.map_err(CacheError::Source);
                if next.as_ref().is_ok_and(Bytes::is_empty) {
                    return;
                }
                let last = next.is_err();
                if to.send(next).await.is_err() || last {
                    return;
                }
            }
        });
        Ok(Body::Stream(Stream::new(first, rest.into(), Some(self.size))))
    }
}

/// The next bytes of a file, none at its end.
async fn stretch(file: &mut tokio::fs::File) -> io::Result<Bytes> {
    let mut bytes = Vec::with_capacity(MEMORY_BYTES);
    file.take(MEMORY_BYTES as u64).read_to_end(&mut bytes).await?;
    Ok(bytes.into())
}
