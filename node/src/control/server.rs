// SPDX-License-Identifier: MIT OR Apache-2.0
//! The daemon's side of the socket: whatever comes through it goes through the door.

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use potluck_protocol::action::ActionId;
use potluck_protocol::codec::{Bytes, Text};
use potluck_protocol::control::{
    self, Answers, Data, Export, Failed, Failure, Give, Job, Missing, Note, Plain, Published, Read, Reply,
    Report, Request, VERSION, Welcome, Written,
};
use potluck_protocol::frame::frame;
use tokio::io::{AsyncRead, BufReader, ReadBuf};
use tokio::net::{UnixListener, UnixStream};
use tokio::sync::{Semaphore, mpsc, oneshot, watch};
use tokio::task::JoinSet;

use super::files::{self, Use};
use super::id_of;
use crate::cache::{Cache, CacheError, Publication, Question, Stretches};
use crate::link::{read_message, write_frame, write_message};
use crate::observe::span;

/// Most local processes at a time.
pub const MAX_CONNECTIONS: usize = 512;
/// Most requests of one process that are worked on at a time.
pub const MAX_REQUESTS: usize = crate::link::MAX_OPEN;
/// How long a process may take to say hello.
const HELLO: Duration = Duration::from_secs(5);
/// The look-up deadline of a process that names none.
const DEADLINE: Duration = Duration::from_millis(1000);
/// How long answers that are ready may take to leave when the daemon ends.
const FAREWELL: Duration = Duration::from_millis(500);
/// How long nothing is accepted when that has failed.
const AGAIN: Duration = Duration::from_millis(50);
/// Replies, and stretches of a write, that wait.
const QUEUE: usize = 8;
/// How much is read at a time, and how much is at least said at once when it is ready, in bytes.
const READ_BYTES: usize = 16 * 1024;

/// What the socket shows beside the door.
pub trait Daemon: Cache + 'static {
    /// One JSON object.
    fn status(&self) -> impl Future<Output = Vec<u8>> + Send;
    /// Asks the daemon to end.
    fn stop(&self);
    /// Looks at the files of the home now, and enters and leaves Networks as they say; gives one JSON object.
    fn refresh(&self) -> impl Future<Output = Vec<u8>> + Send;
    /// Hears of a unit of a build. Must not wait.
    fn hear(&self, note: Note);
    /// Why the last look-up of an action, or of any, was answered as it was; gives one JSON object.
    fn why(&self, action: Option<ActionId>) -> impl Future<Output = Result<Vec<u8>, CacheError>> + Send;
    /// Does something that takes long; gives one JSON object, and on the way says how far it is by others.
    fn work(&self, job: Job, progress: Progress) -> impl Future<Output = Result<Vec<u8>, CacheError>> + Send;
    /// A bundle of what is wanted, and one JSON object about it once it has ended well.
    fn export(&self, what: Export) -> impl Future<Output = Result<(Stretches, Reported), CacheError>> + Send;
    /// Takes a bundle; gives one JSON object, and on the way says how far it is by others.
    fn import(
        &self,
        from: impl AsyncRead + Send + Unpin + 'static,
        progress: Progress,
    ) -> impl Future<Output = Result<Vec<u8>, CacheError>> + Send;
}

/// Where work says how far it is, as JSON objects. Whoever works need not wait until somebody has read them.
pub type Progress = mpsc::Sender<Vec<u8>>;

/// Where work that answers by something else says what came of it, as one JSON object.
pub type Reported = oneshot::Receiver<Vec<u8>>;

/// The socket could not be made.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on {path}: {source}", path = path.display())]
pub struct BindError {
    /// The socket.
    pub path: PathBuf,
    /// Why.
    pub source: io::Error,
}

/// Makes the socket, in place of one that a dead daemon left behind: the caller holds the lock of the home, so nobody
/// else listens there. Only the user may connect.
///
/// # Errors
/// [`BindError`].
pub fn bind(path: &Path) -> Result<UnixListener, BindError> {
    use std::os::unix::fs::PermissionsExt as _;
    let fail = |source| BindError { path: path.to_owned(), source };
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(fail(error)),
        _ => {}
    }
    // The home is closed to others, so nobody can connect before the mode is set.
    let listener = UnixListener::bind(path).map_err(fail)?;
    std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(fail)?;
    Ok(listener)
}

/// The next connection. One that cannot be taken, for want of file descriptors most likely, is tried again after a while:
/// others will end meanwhile, and the system does not say when.
pub async fn accept(listener: &UnixListener) -> UnixStream {
    sure(|| listener.accept()).await.0
}

/// What comes of accepting in the end; see [`accept`]. May be dropped at any time.
pub(crate) async fn sure<T, F: Future<Output = io::Result<T>>>(accept: impl Fn() -> F) -> T {
    loop {
        match accept().await {
            Ok(accepted) => return accepted,
            Err(error) => tracing::debug!(%error, "a connection cannot be taken"),
        }
        tokio::time::sleep(AGAIN).await;
    }
}

/// Serves the socket until `stop` turns true.
pub async fn serve<D: Daemon>(daemon: Arc<D>, listener: UnixListener, mut stop: watch::Receiver<bool>) {
    let places = Arc::new(Semaphore::new(MAX_CONNECTIONS));
    let (mut connections, stops) = (JoinSet::new(), stop.clone());
    loop {
        // While all places are taken the daemon must still be able to end.
        let accept = async {
            let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
            (place, accept(&listener).await)
        };
        tokio::select! {
            () = ended(&mut stop) => break,
            (place, stream) = accept => {
                let (daemon, stop) = (Arc::clone(&daemon), stops.clone());
                connections.spawn(async move {
                    connection(daemon, stream, stop).await;
                    drop(place);
                });
            }
        }
        while connections.try_join_next().is_some() {}
    }
    // Answers that are ready still leave.
    let _ = tokio::time::timeout(FAREWELL, all(&mut connections)).await;
}

/// Waits until the daemon is told to end.
async fn ended(stop: &mut watch::Receiver<bool>) {
    let _ = stop.wait_for(|stop| *stop).await;
}

async fn connection<D: Daemon>(daemon: Arc<D>, mut stream: UnixStream, mut stop: watch::Receiver<bool>) {
    let hello = tokio::time::timeout(HELLO, read_message::<Request>(&mut stream)).await;
    let Ok(Ok(Some(Request::Greeting(greeting)))) = hello else { return };
    let answer = if greeting.version == VERSION {
        Reply::Welcome(Welcome { version: VERSION, pid: std::process::id().into() })
    } else {
        let (kind, hint) = (Failure::Usage, text("run the same version of potluck on both sides"));
        let message = text("the daemon is of another version");
        Reply::Failed(Failed { id: 0, kind, message, hint: Some(hint) })
    };
    let welcome = matches!(answer, Reply::Welcome(_));
    let said = tokio::time::timeout(HELLO, write_message(&mut stream, &answer)).await;
    if !matches!(said, Ok(Ok(()))) || !welcome {
        return;
    }
    let (reader, mut writer) = tokio::io::split(stream);
    let mut reader = BufReader::with_capacity(READ_BYTES, reader);
    let (replies, mut queue) = mpsc::channel::<Reply>(QUEUE);
    let mut writing = Box::pin(async move {
        while let Some(reply) = queue.recv().await {
            // What is ready leaves together: whoever asked for much at once is woken once.
            let Ok(mut ready) = frame(&reply) else { return };
            while ready.begin.len() < READ_BYTES
                && ready.end.is_empty()
                && let Ok(reply) = queue.try_recv()
            {
                let Ok(more) = frame(&reply) else { return };
                ready.begin.extend(more.begin);
                ready.end = more.end;
            }
            if write_frame(&mut writer, &ready).await.is_err() {
                return;
            }
        }
    });
    let (tasks, claims, open) = Default::default();
    let mut session = Session { daemon, replies, tasks, claims, open, newest: 0 };
    let reading = async {
        while let Ok(Some(request)) = read_message::<Request>(&mut reader).await {
            session.take(request).await;
        }
    };
    let gone = tokio::select! {
        () = &mut writing => true,
        () = reading => true,
        () = ended(&mut stop) => false,
    };
    let Session { mut tasks, mut claims, replies, .. } = session;
    drop(replies);
    if gone {
        // With the process on the other side end its tasks, but for those that it need not wait for. Nobody hears answers.
        drop((tasks, writing));
        all(&mut claims).await;
    } else {
        tokio::join!(all(&mut tasks), all(&mut claims), writing);
    }
}

async fn all(tasks: &mut JoinSet<()>) {
    while tasks.join_next().await.is_some() {}
}

/// What one process has under way.
struct Session<D> {
    daemon: Arc<D>,
    replies: mpsc::Sender<Reply>,
    tasks: JoinSet<()>,
    /// Publications: whoever has asked for one has said all that it takes, and may go.
    claims: JoinSet<()>,
    open: BTreeMap<u64, Open>,
    /// The highest id so far: clients count up.
    newest: u64,
}

/// A request that is being worked on.
struct Open {
    abort: tokio::task::AbortHandle,
    /// Where further stretches go, for a write.
    more: Option<mpsc::Sender<Data>>,
}

impl<D: Daemon> Session<D> {
    async fn take(&mut self, request: Request) {
        self.open.retain(|_, open| !open.abort.is_finished());
        if let Request::Note(note) = request {
            self.daemon.hear(note);
            return;
        }
        let Some(id) = id_of(&request) else { return };
        match request {
            Request::Forget(_) => {
                if let Some(open) = self.open.remove(&id) {
                    open.abort.abort();
                }
            }
            Request::Write(data) | Request::Import(data)
                if self.open.get(&id).is_some_and(|open| open.more.is_some()) =>
            {
                let more = self.open.get(&id).and_then(|open| open.more.clone());
                // When the write has failed, what still comes is of no use.
                if let Some(more) = more {
                    let _ = more.send(data).await;
                }
            }
            _ if self.open.contains_key(&id) || self.open.len() >= MAX_REQUESTS => {
                self.newest = self.newest.max(id);
                let (kind, message) =
                    (Failure::Usage, text("the id is in use, or too many requests are open"));
                let _ = self.replies.send(Reply::Failed(Failed { id, kind, message, hint: None })).await;
            }
            // The rest of a write that has failed already.
            Request::Write(_) | Request::Import(_) if id <= self.newest => {}
            request => self.begin(id, request).await,
        }
    }

    async fn begin(&mut self, id: u64, request: Request) {
        self.newest = self.newest.max(id);
        let (daemon, replies) = (Arc::clone(&self.daemon), self.replies.clone());
        let mut more = None;
        let abort = match request {
            Request::Write(first) => {
                let (to, from) = mpsc::channel(QUEUE);
                if !first.last {
                    more = Some(to);
                }
                self.tasks.spawn(answer(replies, id, write(daemon, id, Incoming::new(first, from))))
            }
            Request::Import(first) => {
                let (to, from) = mpsc::channel(QUEUE);
                if !first.last {
                    more = Some(to);
                }
                let from = Incoming::new(first, from);
                let work = async move |progress| daemon.import(from, progress).await;
                self.tasks.spawn(answer(replies.clone(), id, working(replies, id, work)))
            }
            Request::Work(control::Work { job, .. }) => {
                let work = async move |progress| daemon.work(job, progress).await;
                self.tasks.spawn(answer(replies.clone(), id, working(replies, id, work)))
            }
            Request::Read(want) => self.tasks.spawn(async move {
                let Read { digest, offset, len, .. } = want;
                let end = len.map_or(u64::MAX, |len| offset.saturating_add(len));
                let range = (offset > 0 || len.is_some()).then_some(offset..end);
                pour(id, &replies, daemon.read(digest, range).await).await;
            }),
            Request::Export(want) => self.tasks.spawn(async move {
                let work = bundle(id, replies.clone(), daemon.export(want));
                answer(replies, id, work).await;
            }),
            request @ (Request::Lookup(_) | Request::Publish(_)) => {
                // Most look-ups are answered from memory, and need no task of their own. A publication is begun before
                // anything else that comes, so that whoever hears the answer to that may go.
                let tasks =
                    if let Request::Publish(_) = request { &mut self.claims } else { &mut self.tasks };
                let mut work = Box::pin(answer(replies, id, reply(daemon, id, request)));
                if std::future::poll_fn(|context| Poll::Ready(work.as_mut().poll(context))).await.is_ready() {
                    return;
                }
                tasks.spawn(work)
            }
            request => self.tasks.spawn(answer(replies, id, reply(daemon, id, request))),
        };
        self.open.insert(id, Open { abort, more });
        while self.tasks.try_join_next().is_some() {}
        while self.claims.try_join_next().is_some() {}
    }
}

async fn answer(
    replies: mpsc::Sender<Reply>,
    id: u64,
    work: impl Future<Output = Result<Reply, CacheError>>,
) {
    let reply = work.await.unwrap_or_else(|error| failed(id, &error));
    if let Err(mpsc::error::SendError(Reply::Failed(failed))) = replies.send(reply).await {
        tracing::warn!(message = %failed.message, "what nobody waits for any more has failed");
    }
}

async fn reply<D: Daemon>(daemon: Arc<D>, id: u64, request: Request) -> Result<Reply, CacheError> {
    Ok(match request {
        Request::Status(_) => report(id, daemon.status().await)?,
        Request::Refresh(_) => report(id, daemon.refresh().await)?,
        Request::Why(why) => report(id, daemon.why(why.action).await?)?,
        Request::Stop(_) => {
            daemon.stop();
            Reply::Stopping(Plain { id })
        }
        Request::Lookup(lookup) => {
            let control::Lookup { project, recipe, keys, deadline_ms, .. } = lookup;
            let keys = keys.into_iter().map(Bytes::into_inner).collect();
            let deadline = deadline_ms.map_or(DEADLINE, |ms| Duration::from_millis(ms.into()));
            let answers = daemon.lookup(Question { project, recipe, keys, deadline }).await?;
            Reply::Answers(Answers { id, answers })
        }
        Request::Missing(missing) => {
            Reply::Missing(Missing { id, digests: daemon.missing(missing.digests).await? })
        }
        Request::Publish(publish) => {
            let control::Publish { project, recipe, key, output, labels, taints, .. } = publish;
            let key = key.into_inner();
            let publication = Publication { project, recipe, key, output, labels, taints };
            Reply::Published(Published { id, entry: daemon.publish(publication).await? })
        }
        Request::Take(take) => {
            let (file, path) = span::blocking(move || files::open(&take.file, Use::Read)).await?;
            let (digest, size) = daemon.write_file(file, &path).await?;
            Reply::Written(Written { id, digest, size })
        }
        Request::Give(Give { digest, file, .. }) => {
            let (file, path) = span::blocking(move || files::open(&file, Use::Write)).await?;
            let size = daemon.read_file(digest, file, &path).await?;
            Reply::Written(Written { id, digest, size })
        }
        Request::Greeting(_)
        | Request::Read(_)
        | Request::Write(_)
        | Request::Forget(_)
        | Request::Work(_)
        | Request::Export(_)
        | Request::Note(_)
        | Request::Import(_) => {
            return Err(CacheError::Usage("this is not the place for that request".to_owned()));
        }
    })
}

fn report(id: u64, json: Vec<u8>) -> Result<Reply, CacheError> {
    let json = Bytes::new(json).ok_or_else(|| CacheError::Store("the report is too long".to_owned()))?;
    Ok(Reply::Report(Report { id, json }))
}

/// Sends stretches until they end.
async fn pour(id: u64, replies: &mpsc::Sender<Reply>, from: Result<Stretches, CacheError>) {
    let poured = async {
        let mut stretches = from?;
        // One stretch is held back, since the last one is marked as such.
        let mut held = bytes::Bytes::new();
        loop {
            let next = stretches.recv().await.transpose()?;
            let last = next.is_none();
            let bytes = std::mem::replace(&mut held, next.unwrap_or_default());
            if last || !bytes.is_empty() {
                let bytes = Bytes::new(bytes).expect("stretches have the bound of messages");
                if replies.send(Reply::Data(Data { id, bytes, last })).await.is_err() || last {
                    return Ok::<_, CacheError>(());
                }
            }
        }
    };
    if let Err(error) = poured.await {
        let _ = replies.send(failed(id, &error)).await;
    }
}

/// Sends a bundle, and then what is in it.
async fn bundle(
    id: u64,
    replies: mpsc::Sender<Reply>,
    export: impl Future<Output = Result<(Stretches, Reported), CacheError>>,
) -> Result<Reply, CacheError> {
    let (mut stretches, report) = export.await?;
    while let Some(stretch) = stretches.recv().await.transpose()? {
        let bytes = Bytes::new(stretch).expect("stretches have the bound of messages");
        if replies.send(Reply::Data(Data { id, bytes, last: false })).await.is_err() {
            break;
        }
    }
    let ended = || CacheError::Store("the bundle was not finished".to_owned());
    let json = Bytes::new(report.await.map_err(|_| ended())?).ok_or_else(ended)?;
    Ok(Reply::Report(Report { id, json }))
}

/// Does something, and passes on how far it is. What cannot be told at once is not told: the next is newer.
async fn working<W>(
    replies: mpsc::Sender<Reply>,
    id: u64,
    work: impl FnOnce(Progress) -> W,
) -> Result<Reply, CacheError>
where
    W: Future<Output = Result<Vec<u8>, CacheError>>,
{
    let (to, mut from) = mpsc::channel(QUEUE);
    let far = |json| Some(Report { id, json: Bytes::new(json)? });
    let telling = async {
        while let Some(report) = from.recv().await.map(far) {
            if let Some(report) = report {
                let _ = replies.send(Reply::Progress(report)).await;
            }
        }
    };
    let (done, ()) = tokio::join!(work(to), telling);
    report(id, done?)
}

async fn write<D: Daemon>(daemon: Arc<D>, id: u64, from: Incoming) -> Result<Reply, CacheError> {
    let (digest, size) = daemon.write(from).await?;
    Ok(Reply::Written(Written { id, digest, size }))
}

/// The stretches of a write, as something to read from. An end without a last stretch is an error.
struct Incoming {
    now: bytes::Bytes,
    last: bool,
    more: mpsc::Receiver<Data>,
}

impl Incoming {
    fn new(first: Data, more: mpsc::Receiver<Data>) -> Self {
        Self { now: first.bytes.into_shared(), last: first.last, more }
    }
}

impl AsyncRead for Incoming {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        to: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        while self.now.is_empty() {
            if self.last {
                return Poll::Ready(Ok(()));
            }
            match std::task::ready!(self.more.poll_recv(context)) {
                None => return Poll::Ready(Err(io::ErrorKind::UnexpectedEof.into())),
                Some(data) => {
                    self.last = data.last;
                    self.now = data.bytes.into_shared();
                }
            }
        }
        let len = to.remaining().min(self.now.len());
        to.put_slice(&self.now.split_to(len));
        Poll::Ready(Ok(()))
    }
}

fn failed(id: u64, error: &CacheError) -> Reply {
    let kind = match error {
        CacheError::NotHere(_) => Failure::NotFound,
        CacheError::Usage(_) => Failure::Usage,
        _ => Failure::Failed,
    };
    Reply::Failed(Failed { id, kind, message: text(&error.to_string()), hint: None })
}

/// As much of `text` as a message takes, without what a message may not hold.
fn text<const MAX: usize>(text: &str) -> Text<MAX> {
    let mut fit = String::new();
    for letter in text.chars().filter(|letter| !letter.is_control()) {
        if fit.len() + letter.len_utf8() > MAX {
            break;
        }
        fit.push(letter);
    }
    Text::new(fit).unwrap_or_else(|| Text::new("(not printable)").expect("these letters are allowed"))
}
