// SPDX-License-Identifier: MIT OR Apache-2.0
//! Opens the sockets, and serves connections until the daemon ends.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, header};
use hyper::body::{Body as _, Incoming};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::task::JoinSet;

use super::asked::{Access, Asked};
use super::body::Upload;
use super::{Answer, Door, plain, said};
use crate::config::{Config, Http};
use crate::control::server;
use crate::engine::Engine;
use crate::front::FRONTS;
use crate::home::Home;
pub use crate::observe::status::Listening;

/// The socket in the home by which its owner's tools come in.
pub const HTTP_SOCKET: &str = "http.sock";

/// Most connections at a time; further ones wait until one ends.
const MAX_CONNECTIONS: usize = 512;
/// Most headers of a request.
const MAX_HEADERS: usize = 64;
/// Longest head of a request, in bytes.
const MAX_HEAD_BYTES: usize = 16 * 1024;
/// Most bytes of a connection that were read and are not used yet.
const BUFFER_BYTES: usize = 256 * 1024;
/// How long a connection may be silent before or in the middle of a head.
const HEAD_WITHIN: Duration = Duration::from_secs(75);
/// How long answers that are under way may take when the daemon ends.
const FAREWELL: Duration = Duration::from_millis(500);

/// The owner wants something that is not safe.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum HttpError {
    /// It is no address.
    #[error("{0:?} is no address to listen on: write it as 127.0.0.1:7117, or \"off\"")]
    NoAddress(String),
    /// Others could ask.
    #[error("other machines can reach {0}, so that a token is needed")]
    NoToken(SocketAddr),
    /// It is wanted for this run, and cannot be had.
    #[error("{0}")]
    Taken(String),
}

impl HttpError {
    /// What to do about it.
    #[must_use]
    pub fn hint(&self) -> &'static str {
        match self {
            Self::NoAddress(_) => "port 0 takes any that is free",
            Self::NoToken(_) => "set http.token in config.toml, which its tools then have to say",
            Self::Taken(_) => "name another address; port 0 takes any that is free",
        }
    }
}

/// The sockets by which tools come in.
#[derive(Debug)]
pub struct Listener {
    tcp: Option<TcpListener>,
    socket: Option<UnixListener>,
    access: Access,
    /// What was opened.
    pub listening: Listening,
}

/// The address of these settings, if there is to be one.
///
/// # Errors
/// [`HttpError`].
pub fn address(settings: &Http) -> Result<Option<SocketAddr>, HttpError> {
    if settings.listen == Http::OFF {
        return Ok(None);
    }
    let text = settings.listen.replace("localhost:", "127.0.0.1:");
    let address: SocketAddr = text.parse().map_err(|_| HttpError::NoAddress(settings.listen.clone()))?;
    let loopback = match address.ip() {
        IpAddr::V4(ip) => ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback(),
    };
    if loopback || !settings.token.is_empty() { Ok(Some(address)) } else { Err(HttpError::NoToken(address)) }
}

/// Opens the sockets. One that cannot be had is done without: the daemon serves everybody else.
///
/// # Errors
/// [`HttpError`], when what is wanted would let others in.
pub async fn open(home: &Home, settings: &Http) -> Result<Listener, HttpError> {
    let access = Access::new(&settings.token, &settings.hosts);
    let mut listening = Listening::default();
    let Some(address) = address(settings)? else {
        return Ok(Listener { tcp: None, socket: None, access, listening });
    };
    let tcp = match TcpListener::bind(address).await {
        Ok(tcp) => Some(tcp),
        Err(error) => {
            let failure = format!("cannot listen on {address}: {error}");
            tracing::warn!("{failure}: tools that speak HTTP are served by the socket in the home alone");
            listening.failure = Some(failure);
            None
        }
    };
    let bound = tcp.as_ref().and_then(|tcp| tcp.local_addr().ok());
    listening.listen = bound.map(|address| address.to_string());
    let socket = server::bind(&home.root().join(HTTP_SOCKET));
    let socket = socket.inspect_err(|error| tracing::warn!(%error, "tools are not served there")).ok();
    Ok(Listener { tcp, socket, access, listening })
}

/// What all connections share.
struct Shared {
    engine: Arc<Engine>,
    config: Arc<Config>,
    open: Access,
    private: Access,
}

/// Somebody who came in.
enum Guest {
    Tcp(TcpStream),
    Local(UnixStream),
}

impl Listener {
    /// The next connection, on whichever socket.
    async fn accept(&self) -> Guest {
        let tcp = async {
            match &self.tcp {
                Some(tcp) => Guest::Tcp(server::sure(|| tcp.accept()).await.0),
                None => std::future::pending().await,
            }
        };
        let local = async {
            match &self.socket {
                Some(socket) => Guest::Local(server::accept(socket).await),
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            guest = tcp => guest,
            guest = local => guest,
        }
    }
}

/// Serves until `stop` turns true.
pub async fn run(engine: Arc<Engine>, config: Config, listener: Listener, stop: watch::Receiver<bool>) {
    let shared = Arc::new(Shared {
        engine,
        config: Arc::new(config),
        open: listener.access.clone(),
        private: Access::private(),
    });
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (mut connections, mut ended) = (JoinSet::new(), stop.clone());
    loop {
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            (place, listener.accept().await)
        };
        tokio::select! {
            () = told_to_end(&mut ended) => break,
            (place, guest) = accept => {
                connections.spawn(welcome(Arc::clone(&shared), guest, place, stop.clone()));
            }
        }
        while connections.try_join_next().is_some() {}
    }
    let _ = tokio::time::timeout(FAREWELL, async { while connections.join_next().await.is_some() {} }).await;
}

async fn told_to_end(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn welcome(
    shared: Arc<Shared>,
    guest: Guest,
    place: OwnedSemaphorePermit,
    stop: watch::Receiver<bool>,
) {
    match guest {
        Guest::Tcp(stream) => {
            // Small answers leave at once.
            let _ = stream.set_nodelay(true);
            let awaited = Arc::new(AtomicBool::new(false));
            let answer = |request: Request<Incoming>| {
                awaited.store(!request.body().is_end_stream(), Ordering::Relaxed);
                answer(&shared, request, false)
            };
            connection(Receipted { stream, awaited: Arc::clone(&awaited) }, answer, stop).await;
        }
        Guest::Local(stream) => connection(stream, |request| answer(&shared, request, true), stop).await,
    }
    drop(place);
}

/// Tells a client at once what has come when more of it is awaited. ccache writes a head and then a body, and its system
/// sends the second only when the first was acknowledged (RFC 896), for which this system waits 40 ms when it has nothing
/// to say (RFC 1122 section 4.2.3.2): so long took each value that was put.
struct Receipted {
    stream: TcpStream,
    /// A head has come whose body has not.
    awaited: Arc<AtomicBool>,
}

impl AsyncRead for Receipted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let read = Pin::new(&mut self.stream).poll_read(context, into);
        if read.is_pending() && self.awaited.swap(false, Ordering::Relaxed) {
            #[cfg(target_os = "linux")]
            let _ = rustix::net::sockopt::set_tcp_quickack(&self.stream, true);
        }
        read
    }
}

impl AsyncWrite for Receipted {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        self.awaited.store(false, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.awaited.store(false, Ordering::Relaxed);
        Pin::new(&mut self.stream).poll_write_vectored(context, bytes)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }
}

/// Answers the requests of a connection, within bounds, until it ends or `stop` turns true.
pub(in crate::front) async fn connection<S, A>(
    stream: S,
    answer: impl Fn(Request<Incoming>) -> A,
    mut stop: watch::Receiver<bool>,
) where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Future<Output = Answer>,
{
    let service = service_fn(|request| {
        let answering = answer(request);
        async { Ok::<_, std::convert::Infallible>(answering.await) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(HEAD_WITHIN);
    builder.max_headers(MAX_HEADERS).max_header_size(MAX_HEAD_BYTES).max_buf_size(BUFFER_BYTES);
    let mut connection = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = told_to_end(&mut stop) => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "a connection of a tool ended");
    }
}

/// A request with its body, if it may be answered here; or else its refusal.
pub(in crate::front) fn asked(
    request: Request<Incoming>,
    access: &Access,
) -> Result<(Asked, Upload), Box<Answer>> {
    let (parts, body) = request.into_parts();
    let asked = Asked::new(parts, access).map_err(|unserved| {
        tracing::info!(reason = %unserved, "a request was refused");
        let mut refusal = said(unserved.status(), format!("{unserved}\n"));
        let headers = refusal.headers_mut();
        if unserved.status() == http::StatusCode::UNAUTHORIZED {
            // Tools that keep a password send it only when they are asked for it.
            headers.insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Basic realm=\"potluck\""));
        }
        // What follows on this connection may be part of the trick.
        headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        Box::new(refusal)
    })?;
    let upload = Upload::new(body, asked.length());
    Ok((asked, upload))
}

async fn answer(shared: &Arc<Shared>, request: Request<Incoming>, private: bool) -> Answer {
    let (asked, upload) = match asked(request, if private { &shared.private } else { &shared.open }) {
        Ok(asked) => asked,
        Err(refusal) => return *refusal,
    };
    let Some(front) = FRONTS.iter().find(|front| front.name == asked.front()) else {
        return plain(http::StatusCode::NOT_FOUND);
    };
    let (engine, config) = (Arc::clone(&shared.engine), Arc::clone(&shared.config));
    let door = Door { engine, config, name: front.name };
    (front.serve)(door, asked, upload).await
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(listen: &str, token: &str) -> Http {
        Http { listen: listen.to_owned(), token: token.to_owned(), hosts: Vec::new() }
    }

    #[test]
    fn only_this_machine_may_ask_without_a_token() {
        let at = |listen: &str, token: &str| address(&settings(listen, token));
        for listen in ["127.0.0.1:0", "localhost:7117", "[::1]:7117", "127.9.9.9:1"] {
            assert!(at(listen, "").unwrap().is_some(), "{listen}");
        }
        for listen in ["0.0.0.0:7117", "[::]:7117", "192.0.2.1:7117"] {
            assert!(matches!(at(listen, ""), Err(HttpError::NoToken(_))), "{listen}");
            assert!(at(listen, "sesame").unwrap().is_some(), "{listen}");
        }
        assert!(at("off", "").unwrap().is_none());
        for listen in ["", "7117", "example.org:80", "127.0.0.1"] {
            assert!(matches!(at(listen, "sesame"), Err(HttpError::NoAddress(_))), "{listen}");
        }
    }
}
