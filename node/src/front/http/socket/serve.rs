// SPDX-License-Identifier: MIT OR Apache-2.0
//! The socket in the home by which ccache comes in, and others for Projects that the settings name.

use std::io;
use std::path::PathBuf;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use potluck_protocol::action::Project;
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, BufReader, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, watch};
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::{Ask, FAILED, GREETING, Head, MAX_HEAD_BYTES, NOT_DONE, OK, head, key_of, text};
use crate::config::{Config, Http};
use crate::control::server;
use crate::engine::Engine;
use crate::front::http::keep::{self, Found, Slot};
use crate::front::http::map::Stored;
use crate::front::http::map::ccache::DIALECT;
use crate::front::listen::Door;
use crate::front::listen::body::due;
use crate::home::Home;

/// Most connections at a time; further ones wait until one ends. Each call of ccache has one.
const MAX_CONNECTIONS: usize = 512;
/// How long a connection may be silent between two requests: as long as a compilation.
const IDLE: Duration = Duration::from_secs(3600);
/// How long a request may take to come once it has begun, and an answer to be taken a stretch further.
const WITHIN: Duration = Duration::from_secs(10);
/// Most bytes that were read and are not used yet.
const BUFFER: usize = 64 * 1024;
/// The socket for the default Project.
pub const SOCKET: &str = "ccache.sock";

/// The sockets, each for a Project.
pub struct Sockets(Vec<(UnixListener, Project)>);

/// Where ccache is served for a Project.
pub fn path(home: &Home, project: &Project) -> PathBuf {
    if *project == Project::default() {
        return home.root().join(SOCKET);
    }
    home.root().join(format!("ccache-{}.sock", project.as_str().replace('/', "~")))
}

/// The Projects for which these settings want a socket: none where tools are not to be served.
pub fn projects(config: &Config) -> Vec<Project> {
    if config.http.listen == Http::OFF {
        return Vec::new();
    }
    let named =
        config.front.get(DIALECT.tool).map(|front| front.projects.iter().map(|named| named.0.clone()));
    let mut all: Vec<_> = std::iter::once(Project::default()).chain(named.into_iter().flatten()).collect();
    all.sort();
    all.dedup();
    all
}

/// Opens the sockets. One that cannot be had is done without.
pub fn open(home: &Home, config: &Config) -> Sockets {
    let open = |project: Project| match server::bind(&path(home, &project)) {
        Ok(listener) => Some((listener, project)),
        Err(error) => {
            tracing::warn!(%error, "ccache is served by HTTP alone");
            None
        }
    };
    Sockets(projects(config).into_iter().filter_map(open).collect())
}

/// Serves until `stop` turns true.
pub async fn run(engine: Arc<Engine>, config: Config, sockets: Sockets, stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let config = Arc::new(config);
    let mut all = JoinSet::new();
    for (listener, project) in sockets.0 {
        let door = Door::new(Arc::clone(&engine), Arc::clone(&config), DIALECT.tool);
        all.spawn(accept((listener, project), door, Arc::clone(&places), stop.clone()));
    }
    while all.join_next().await.is_some() {}
}

async fn accept(
    (listener, project): (UnixListener, Project),
    door: Door,
    places: Arc<Semaphore>,
    mut stop: watch::Receiver<bool>,
) {
    let mut connections = JoinSet::new();
    loop {
        let next = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            (place, server::accept(&listener).await)
        };
        let (place, stream) = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            next = next => next,
        };
        let (door, project) = (door.clone(), project.clone());
        connections.spawn(async move {
            if let Err(error) = connection(&door, &project, stream).await {
                tracing::debug!(%error, "a connection of ccache ended");
            }
            drop(place);
        });
        while connections.try_join_next().is_some() {}
    }
}

/// Answers one request after the other.
async fn connection(door: &Door, project: &Project, stream: UnixStream) -> io::Result<()> {
    let (from, mut to) = stream.into_split();
    let mut from = BufReader::with_capacity(BUFFER, from);
    send(&mut to, GREETING).await?;
    while let Some(ask) = next(&mut from).await? {
        let slot = |key: Vec<u8>| Slot { dialect: &DIALECT, project: project.clone(), key: key_of(&key) };
        match ask {
            Ask::Get(key) => get(door, &slot(key), &mut to).await?,
            Ask::Put { key, over, length } => {
                let stored = put(door, &slot(key), (&mut from, length), over).await?;
                send(&mut to, &stored).await?;
            }
            Ask::Remove(key) => {
                let removed = keep::withdraw(door, &slot(key)).await;
                send(&mut to, &[if removed { OK } else { NOT_DONE }]).await?;
            }
            Ask::Exists(key) => {
                let there = keep::known(door, &slot(key)).await.is_some();
                send(&mut to, &[if there { OK } else { NOT_DONE }]).await?;
            }
            Ask::Info => {
                let who = concat!("potluck ", env!("CARGO_PKG_VERSION"));
                send(&mut to, &[&text(who)[..], &[0]].concat()).await?;
            }
            Ask::Stop => return send(&mut to, &[OK]).await,
        }
    }
    Ok(())
}

/// The next request; none when there are no more.
async fn next(from: &mut (impl AsyncRead + Unpin)) -> io::Result<Option<Ask>> {
    let mut bytes = Vec::with_capacity(MAX_HEAD_BYTES);
    match timeout(IDLE, from.read_u8()).await? {
        Ok(first) => bytes.push(first),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    let rest = async {
        loop {
            match head(&bytes) {
                Head::Is(ask, _) => return Ok(Some(ask)),
                Head::Unknown => return Err(io::ErrorKind::InvalidData.into()),
                // No more than belongs to it; it is read from memory, mostly.
                Head::Short => bytes.push(from.read_u8().await?),
            }
        }
    };
    timeout(WITHIN, rest).await?
}

async fn send(to: &mut (impl AsyncWrite + Unpin), bytes: &[u8]) -> io::Result<()> {
    timeout(WITHIN, to.write_all(bytes)).await?
}

/// The value of a key, or that there is none: whatever goes wrong here is one as well.
async fn get(door: &Door, slot: &Slot, to: &mut (impl AsyncWrite + Unpin)) -> io::Result<()> {
    let found = keep::in_time(slot, keep::find(door, slot)).await.flatten();
    let Some(Found { blob, first, mut rest }) = found else { return send(to, &[NOT_DONE]).await };
    send(to, &[&[OK][..], &blob.size.to_ne_bytes()].concat()).await?;
    let mut next = Some(first);
    while let Some(stretch) = next {
        send(to, &stretch).await?;
        next = match &mut rest {
            // The end of the connection, so that nobody takes half of a value for all of it.
            Some(rest) => rest.recv().await.transpose().map_err(io::Error::other)?,
            None => None,
        };
    }
    Ok(())
}

/// Takes a value; gives what is answered. The connection is of no use any more when not all of it came.
async fn put(
    door: &Door,
    slot: &Slot,
    (from, length): (&mut (impl AsyncRead + Send + Unpin), u64),
    over: bool,
) -> io::Result<Vec<u8>> {
    if length > DIALECT.most {
        return Err(io::ErrorKind::FileTooLarge.into());
    }
    let mut value = from.take(length);
    let taking = async {
        if !over && keep::known(door, slot).await.is_some() {
            tokio::io::copy(&mut value, &mut tokio::io::sink()).await?;
            return Ok::<_, io::Error>(None);
        }
        let whole = Whole { from: &mut value };
        Ok(Some(keep::put(door, slot, (whole, length)).await))
    };
    let stored = timeout(due(length), taking).await??;
    if value.limit() > 0 {
        return Err(io::ErrorKind::UnexpectedEof.into());
    }
    Ok(match stored {
        Some(Stored::Done) => vec![OK],
        None => vec![NOT_DONE],
        Some(Stored::TooLarge | Stored::NotKept | Stored::Broken) => {
            [&[FAILED][..], &text("it was not kept")].concat()
        }
    })
}

/// So many bytes, or an error: less of a value is none.
struct Whole<'a, R> {
    from: &'a mut tokio::io::Take<R>,
}

impl<R: AsyncRead + Unpin> AsyncRead for Whole<'_, R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        ready!(Pin::new(&mut *this.from).poll_read(context, into))?;
        let ended = into.filled().len() == before && into.remaining() > 0;
        let short = ended && this.from.limit() > 0;
        Poll::Ready(if short { Err(io::ErrorKind::UnexpectedEof.into()) } else { Ok(()) })
    }
}
