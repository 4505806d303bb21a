// SPDX-License-Identifier: MIT OR Apache-2.0
//! The door as a process outside the daemon sees it: everything is passed on over the socket.

use std::fs::File;
use std::ops::Range;
use std::path::Path;
use std::time::Duration;

use potluck_protocol::action::ActionId;
use potluck_protocol::codec::{Bytes, Text};
use potluck_protocol::control::{
    Data, Export, Failed, Failure, Give, Greeting, Job, Lookup, MAX_DATA_BYTES, MAX_PATTERN_BYTES, Missing,
    Note, Plain, Publish, Read, Reply, Request, Take, VERSION, Why, Work,
};
use potluck_protocol::digest::Digest;
use tokio::io::{AsyncRead, AsyncReadExt as _};
use tokio::net::UnixStream;
use tokio::sync::{mpsc, oneshot};

use super::files;
use crate::cache::{self, Answer, Cache, CacheError, Publication, Question, STRETCHES, Stretches};
use crate::link::{Answers, Link, read_message, write_message};
use crate::observe::span;

/// How long the daemon may take to say hello to somebody who has time.
pub const HELLO: Duration = Duration::from_secs(2);

/// A connection to the daemon.
#[derive(Clone)]
pub struct Client {
    link: Link<Request, Reply>,
    pid: u64,
}

impl Client {
    /// Connects to the daemon whose socket is at `path`; `who` is for its log. It says hello at once, or something is
    /// wrong with it.
    ///
    /// # Errors
    /// [`CacheError::Unreachable`] when nobody listens there, [`CacheError::Late`] when nobody answers.
    pub async fn connect(path: &Path, who: &str, within: Duration) -> Result<Self, CacheError> {
        let hello = async {
            let mut stream = UnixStream::connect(path).await.map_err(CacheError::Unreachable)?;
            let client = Text::new(who).ok_or_else(|| CacheError::Usage(format!("{who:?} is no name")))?;
            let greeting = Request::Greeting(Greeting { version: VERSION, client });
            write_message(&mut stream, &greeting).await.map_err(protocol)?;
            match read_message::<Reply>(&mut stream).await.map_err(protocol)? {
                Some(Reply::Welcome(welcome)) if welcome.version == VERSION => Ok((stream, welcome.pid)),
                Some(Reply::Failed(failed)) => Err(failure(&failed)),
                _ => Err(CacheError::Protocol("it did not say hello".to_owned())),
            }
        };
        let (stream, pid) = tokio::time::timeout(within, hello).await.map_err(|_| CacheError::Late)??;
        Ok(Self { link: Link::start(stream), pid })
    }

    /// The daemon's process.
    pub fn pid(&self) -> u64 {
        self.pid
    }

    /// What is going on, as one JSON object.
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn status(&self) -> Result<Vec<u8>, CacheError> {
        self.told(|id| Request::Status(Plain { id })).await
    }

    /// Has the daemon look at the files of its home now, and enter and leave Networks as they say; gives the Networks
    /// that it is in and those that it cannot enter, as one JSON object.
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn refresh(&self) -> Result<Vec<u8>, CacheError> {
        self.told(|id| Request::Refresh(Plain { id })).await
    }

    /// Why the last look-up of an action, or the last of all, was answered as it was, as one JSON object.
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn why(&self, action: Option<ActionId>) -> Result<Vec<u8>, CacheError> {
        self.told(move |id| Request::Why(Why { id, action })).await
    }

    async fn told(&self, make: impl FnOnce(u64) -> Request + Send + 'static) -> Result<Vec<u8>, CacheError> {
        match self.one(make).await? {
            Reply::Report(report) => Ok(report.json.into_inner()),
            other => Err(unexpected(other)),
        }
    }

    /// Asks the daemon to end; it does so after answering.
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn stop(&self) -> Result<(), CacheError> {
        match self.one(|id| Request::Stop(Plain { id })).await? {
            Reply::Stopping(_) => Ok(()),
            other => Err(unexpected(other)),
        }
    }

    /// Has a job done; gives the report, and passes on how far it is.
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn work(&self, job: Job, progress: impl FnMut(Vec<u8>)) -> Result<Vec<u8>, CacheError> {
        let about = match &job {
            Job::Verify(verify) => verify.digest,
            _ => None,
        };
        let fail = |failed: &Failed| about.map_or_else(|| failure(failed), |digest| of_blob(failed, digest));
        let answers = self.ask(move |id| Request::Work(Work { id, job })).await?;
        report(answers, progress, fail).await
    }

    /// A bundle of what is wanted, and once it has ended well, what went into it.
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn export(
        &self,
        project: Option<Text<MAX_PATTERN_BYTES>>,
        toolchain: Option<Text<64>>,
    ) -> Result<(Stretches, oneshot::Receiver<Vec<u8>>), CacheError> {
        let answers = self.ask(move |id| Request::Export(Export { id, project, toolchain })).await?;
        let (to, report) = oneshot::channel();
        Ok((self.stretches(answers, failure, Some(to)), report))
    }

    /// Hands over a bundle; gives the report, and passes on how far it is. The daemon may have had enough before all
    /// was read.
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn import(
        &self,
        mut from: impl AsyncRead + Send + Unpin,
        progress: impl FnMut(Vec<u8>),
    ) -> Result<Vec<u8>, CacheError> {
        let (answers, last) = self.open(&mut from, Request::Import).await?;
        let id = answers.id;
        let reporting = report(answers, progress, failure);
        tokio::pin!(reporting);
        tokio::select! {
            report = &mut reporting => report,
            sent = self.rest(from, (id, last), Request::Import) => {
                sent?;
                reporting.await
            }
        }
    }

    /// Waits until the daemon has closed the connection, which it does when it ends.
    pub async fn gone(&self) {
        while !self.link.is_closed() {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    async fn ask(
        &self,
        make: impl FnOnce(u64) -> Request + Send + 'static,
    ) -> Result<Answers<Reply>, CacheError> {
        self.link.ask(make).await.ok_or_else(broken)
    }

    /// Sends the first stretch of something; gives where it is answered, and whether that was all.
    async fn open(
        &self,
        from: &mut (impl AsyncRead + Send + Unpin),
        make: fn(Data) -> Request,
    ) -> Result<(Answers<Reply>, bool), CacheError> {
        let (bytes, last) = stretch(from).await?;
        Ok((self.ask(move |id| make(Data { id, bytes, last })).await?, last))
    }

    /// Sends the rest of it, stretch by stretch.
    async fn rest(
        &self,
        mut from: impl AsyncRead + Send + Unpin,
        (id, mut last): (u64, bool),
        make: fn(Data) -> Request,
    ) -> Result<(), CacheError> {
        while !last {
            let bytes;
            (bytes, last) = match stretch(&mut from).await {
                Ok(stretch) => stretch,
                Err(error) => {
                    self.link.say(Request::Forget(Plain { id })).await;
                    return Err(error);
                }
            };
            if !self.link.say(make(Data { id, bytes, last })).await {
                return Err(broken());
            }
        }
        Ok(())
    }

    /// Answers that are stretches, as a channel of them. What is said about them at the end goes to `report`.
    fn stretches(
        &self,
        mut answers: Answers<Reply>,
        fail: impl Fn(&Failed) -> CacheError + Send + 'static,
        mut report: Option<oneshot::Sender<Vec<u8>>>,
    ) -> Stretches {
        let (to, from) = mpsc::channel(STRETCHES);
        // The link must outlive the answers.
        let link = self.link.clone();
        span::spawn("read", async move {
            loop {
                let (stretch, last) = match answers.next().await {
                    Some(Reply::Data(data)) => (Ok(data.bytes.into_shared()), data.last),
                    Some(Reply::Report(said)) if report.is_some() => {
                        let _ = report.take().map(|report| report.send(said.json.into_inner()));
                        return;
                    }
                    Some(Reply::Failed(failed)) => (Err(fail(&failed)), true),
                    Some(other) => (Err(unexpected(other)), true),
                    None => (Err(broken()), true),
                };
                if to.send(stretch).await.is_err() {
                    link.say(Request::Forget(Plain { id: answers.id })).await;
                    return;
                }
                if last {
                    return;
                }
            }
        });
        from.into()
    }

    async fn claim(&self, publication: Publication) -> Result<Answers<Reply>, CacheError> {
        let Publication { project, recipe, key, output, labels, taints } = publication;
        let key = Bytes::new(key).ok_or_else(|| CacheError::Usage("the key is too long".to_owned()))?;
        self.ask(move |id| Request::Publish(Publish { id, project, recipe, key, output, labels, taints }))
            .await
    }

    async fn one(&self, make: impl FnOnce(u64) -> Request + Send + 'static) -> Result<Reply, CacheError> {
        self.ask(make).await?.next().await.ok_or_else(broken)
    }
}

impl Cache for Client {
    async fn note(&self, note: Note) {
        // Nobody waits for an answer, and one that was not heard does no harm.
        self.link.say(Request::Note(note)).await;
    }

    async fn lookup(&self, question: Question) -> Result<Vec<Answer>, CacheError> {
        let Question { project, recipe, keys, deadline } = question;
        let keys: Option<Vec<_>> = keys.into_iter().map(Bytes::new).collect();
        let keys = keys.ok_or_else(|| CacheError::Usage("a key is too long".to_owned()))?;
        let wanted = keys.len();
        let deadline_ms = u32::try_from(deadline.as_millis()).unwrap_or(u32::MAX);
        let make =
            move |id| Request::Lookup(Lookup { id, project, recipe, keys, deadline_ms: Some(deadline_ms) });
        match self.one(make).await? {
            Reply::Answers(answers) if answers.answers.len() == wanted => Ok(answers.answers),
            other => Err(unexpected(other)),
        }
    }

    async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, CacheError> {
        match self.one(|id| Request::Missing(Missing { id, digests })).await? {
            Reply::Missing(missing) => Ok(missing.digests),
            other => Err(unexpected(other)),
        }
    }

    async fn read(&self, digest: Digest, range: Option<Range<u64>>) -> Result<Stretches, CacheError> {
        let (offset, len) =
            range.map_or((0, None), |range| (range.start, Some(range.end.saturating_sub(range.start))));
        let answers = self.ask(move |id| Request::Read(Read { id, digest, offset, len })).await?;
        Ok(self.stretches(answers, move |failed| of_blob(failed, digest), None))
    }

    async fn write(&self, mut from: impl AsyncRead + Send + Unpin) -> Result<(Digest, u64), CacheError> {
        let (mut answers, last) = self.open(&mut from, Request::Write).await?;
        self.rest(from, (answers.id, last), Request::Write).await?;
        match answers.next().await.ok_or_else(broken)? {
            Reply::Written(written) => Ok((written.digest, written.size)),
            other => Err(unexpected(other)),
        }
    }

    async fn write_file(&self, file: File, path: &Path) -> Result<(Digest, u64), CacheError> {
        if let Some(at) = files::describe(&file, path) {
            match self.one(|id| Request::Take(Take { id, file: at })).await? {
                Reply::Written(written) => return Ok((written.digest, written.size)),
                Reply::Failed(Failed { kind: Failure::Usage, message, .. }) => {
                    tracing::debug!(%message, "the bytes are sent instead");
                }
                other => return Err(unexpected(other)),
            }
        }
        self.write(tokio::fs::File::from_std(file)).await
    }

    async fn read_file(&self, digest: Digest, file: File, path: &Path) -> Result<u64, CacheError> {
        if let Some(at) = files::describe(&file, path) {
            match self.one(move |id| Request::Give(Give { id, digest, file: at })).await? {
                Reply::Written(written) => return Ok(written.size),
                Reply::Failed(Failed { kind: Failure::Usage, message, .. }) => {
                    tracing::debug!(%message, "the bytes are asked for instead");
                }
                Reply::Failed(failed) => return Err(of_blob(&failed, digest)),
                other => return Err(unexpected(other)),
            }
        }
        cache::pour(self.read(digest, None).await?, file).await
    }

    async fn publish(&self, publication: Publication) -> Result<Digest, CacheError> {
        published(self.claim(publication).await?.next().await)
    }

    async fn hand_over(&self, publication: Publication) -> Result<(), CacheError> {
        let mut answers = self.claim(publication).await?;
        // Publications are begun in the order in which they come: whoever hears the answer to a later request was heard.
        tokio::select! {
            biased;
            answer = answers.next() => published(answer).map(drop),
            heard = self.missing(Vec::new()) => heard.map(drop),
        }
    }
}

fn published(answer: Option<Reply>) -> Result<Digest, CacheError> {
    match answer.ok_or_else(broken)? {
        Reply::Published(published) => Ok(published.entry),
        other => Err(unexpected(other)),
    }
}

/// The report on a job, once it is done.
async fn report(
    mut answers: Answers<Reply>,
    mut progress: impl FnMut(Vec<u8>),
    fail: impl Fn(&Failed) -> CacheError,
) -> Result<Vec<u8>, CacheError> {
    loop {
        match answers.next().await.ok_or_else(broken)? {
            Reply::Progress(report) => progress(report.json.into_inner()),
            Reply::Report(report) => return Ok(report.json.into_inner()),
            Reply::Failed(failed) => return Err(fail(&failed)),
            other => return Err(unexpected(other)),
        }
    }
}

/// The next bytes to be written, and whether they are the last.
async fn stretch(from: &mut (impl AsyncRead + Unpin)) -> Result<(Bytes<MAX_DATA_BYTES>, bool), CacheError> {
    let mut bytes = Vec::with_capacity(MAX_DATA_BYTES);
    from.take(MAX_DATA_BYTES as u64).read_to_end(&mut bytes).await.map_err(CacheError::Source)?;
    // A full stretch may be the last as well: an empty one follows then.
    let last = bytes.len() < MAX_DATA_BYTES;
    Ok((Bytes::new(bytes).expect("no more was read than fits"), last))
}

fn broken() -> CacheError {
    CacheError::Unreachable(std::io::ErrorKind::ConnectionReset.into())
}

fn protocol(error: crate::link::FrameError) -> CacheError {
    match error {
        crate::link::FrameError::Io(error) => CacheError::Unreachable(error),
        crate::link::FrameError::Stalled => CacheError::Late,
        crate::link::FrameError::Codec(error) => CacheError::Protocol(error.to_string()),
    }
}

fn unexpected(reply: Reply) -> CacheError {
    match reply {
        Reply::Failed(failed) => failure(&failed),
        _ => CacheError::Protocol("it answered something else".to_owned()),
    }
}

fn failure(failed: &Failed) -> CacheError {
    let message = failed.message.to_string();
    match failed.kind {
        Failure::Usage => CacheError::Usage(message),
        _ => CacheError::Store(message),
    }
}

fn of_blob(failed: &Failed, digest: Digest) -> CacheError {
    match failed.kind {
        Failure::NotFound => CacheError::NotHere(digest),
        _ => failure(failed),
    }
}
