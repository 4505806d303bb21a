// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers one go: a thread reads what it says, answers what is at hand and writes the files that it puts; tasks look for
//! what else it gets, and for what it is likely to get next; and what was put is published meanwhile.

use std::collections::HashMap;
use std::fs::{self, File};
use std::io::{self, BufReader, Read, Write};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use potluck_protocol::action::Project;
use potluck_protocol::digest::{Digest, Sha256};
use potluck_protocol::entry::BlobOutput;
use tokio::sync::{Notify, Semaphore, mpsc};
use tokio::task::JoinSet;

use super::allowance::{Allowance, LEAST};
use super::expected::Expected;
use super::folder::{Folder, Growing, Shown};
use super::line::{Answer, BodyError, Command, GREETING, MAX_BODY_BYTES, body, next_line, parse};
use super::map;
use crate::cache::{Cache, CacheError};
use crate::front::patience::{Patience, Waited, patiently};
use crate::observe::{clock, span};
use crate::plan::Moment;

/// What is read from go at a time, in bytes.
const READ_BYTES: usize = 256 * 1024;
/// Most gets that are looked for at a time; the next ones wait.
const MAX_GETS: usize = 256;
/// Most lines that wait for each other.
const QUEUE: usize = 1024;
/// Most puts that wait to be published. What comes beyond is not shared.
const MAX_UNPUBLISHED: usize = 16 * 1024;
/// Most that are published at a time.
const PUBLISHERS: usize = 16;
/// Most actions that are remembered.
const MAX_REMEMBERED: usize = 1 << 18;
/// A body of at least this size is sent to the daemon only if it is not there.
const WORTH_ASKING: u64 = 64 * 1024;

/// A file up to this size is looked at where it is asked for: that takes less time than another thread does to wake up.
const SMALL: u64 = 256 * 1024;

/// What the daemon gets on top of the deadline before it is asked whether it is alive, and for the answer to that.
const GRACE: Duration = Duration::from_millis(250);
/// How long to wait for the next stretch of a Blob that is on this machine.
const READING: Patience = Patience { first: GRACE, grace: GRACE, longest: Duration::from_secs(5) };
/// How long one publication may take.
const PUBLISHING: Patience = Patience {
    first: Duration::from_secs(1),
    grace: Duration::from_secs(1),
    longest: Duration::from_secs(30),
};
/// How long go may be held up at its end by what is not published yet.
const LAST: Duration = Duration::from_secs(20);

/// What a helper needs to know.
#[derive(Debug)]
pub struct Setup {
    /// The Project.
    pub project: Project,
    /// Where the files lie.
    pub folder: Folder,
    /// How long a look-up may take until it is known who has it.
    pub deadline: Duration,
    /// Where go was started: there it asks for much the same each time.
    pub at: PathBuf,
}

impl Setup {
    /// The name of the list of what it asks for.
    fn list(&self) -> Digest {
        let at = self.at.as_os_str().as_encoded_bytes();
        Digest::of(&[self.project.as_str().as_bytes(), b"\n", at].concat())
    }
}

/// Why a helper cannot serve.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// go cannot be heard.
    #[error("cannot read what go says: {0}")]
    Read(io::Error),
    /// There is no thread for it.
    #[error("cannot start a thread: {0}")]
    Thread(io::Error),
}

/// Serves go until it has had enough. Without a door, or once it is lost, it is as if nobody had ever built anything.
///
/// # Errors
/// [`ServeError`].
pub async fn serve<C: Cache + Clone + 'static>(
    door: impl Future<Output = Option<C>>,
    setup: Setup,
    input: impl Read + Send + 'static,
    output: impl Write + Send + 'static,
) -> Result<(), ServeError> {
    let said = Saying(Arc::new(Mutex::new(output)));
    // go waits for it before anything else.
    said.say(GREETING);
    let (asks, mut asked) = mpsc::channel(QUEUE);
    let (puts, unpublished) = mpsc::channel(MAX_UNPUBLISHED);
    let list = setup.list();
    let books = Arc::new(Books::new(setup.folder, &list));
    let hearing = Hearing { books: Arc::clone(&books), said: said.clone(), asks, puts };
    let (ended, end) = tokio::sync::oneshot::channel();
    span::thread("go", move || {
        let _ = ended.send(hearing.run(BufReader::with_capacity(READ_BYTES, input)));
    })
    .map_err(ServeError::Thread)?;
    let door = door.await.map(|door| Door {
        door,
        project: setup.project,
        allowance: Mutex::new(Allowance::new(setup.deadline)),
        lost: AtomicBool::new(false),
    });
    let door = door.map(Arc::new);
    let publishing = span::spawn("publish", publish(door.clone(), Arc::clone(&books), unpublished));
    let ahead = door.clone().map(|door| span::spawn("ahead", ask_ahead(door, Arc::clone(&books))));
    let places = Arc::new(Semaphore::new(MAX_GETS));
    while let Some((id, action)) = asked.recv().await {
        let place = Arc::clone(&places).acquire_owned().await.expect("the semaphore is never closed");
        let (door, books, said) = (door.clone(), Arc::clone(&books), said.clone());
        span::spawn("get", async move {
            // A fault of this program must not become one of the build.
            let getting = span::spawn("look-up", async move { get(door.as_deref(), &books, action).await });
            let answer = getting.await.unwrap_or(Answer::Miss);
            said.say(&answer.line(id));
            drop(place);
        });
    }
    // go has no questions any more, and those that it had are answered.
    let _ = places.acquire_many(u32::try_from(MAX_GETS).expect("there are few")).await;
    if let Some(ahead) = ahead {
        ahead.abort();
        let _ = ahead.await;
    }
    let _ = tokio::time::timeout(LAST, publishing).await;
    let close = end.await.unwrap_or(Ok(None)).map_err(ServeError::Read)?;
    if let Some(id) = close {
        said.say(&Answer::Closed.line(id));
    }
    // Now go may end; what is left to do here is of no use to it.
    drop(said);
    if let Some(asked) = books.expected().list() {
        books.folder.keep_list(&list, &asked);
    }
    books.folder.keep_checked();
    if let Ok(books) = Arc::try_unwrap(books) {
        span::blocking(move || books.folder.trim()).await;
    }
    Ok(())
}

/// The way to go. Whoever has an answer says it: to wake a thread for that takes longer. go reads at any time, also
/// while it waits to be read.
#[derive(Clone)]
struct Saying(Arc<Mutex<dyn Write + Send>>);

impl Saying {
    fn say(&self, line: &[u8]) {
        let mut output = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        // Whoever does not listen any more needs no answers.
        let _ = output.write_all(line).and_then(|()| output.flush());
    }
}

/// What is known of this go's actions, and where its files are.
struct Books {
    folder: Folder,
    /// Where files go when the folder has no room.
    spare: OnceLock<Option<Folder>>,
    actions: Mutex<HashMap<Vec<u8>, Known>>,
    expected: Mutex<Expected>,
    /// There may be more to ask for ahead.
    further: Notify,
}

/// What is known of an action.
enum Known {
    /// It was sought in vain since then.
    Missed(Moment),
    /// This file was shown.
    Got(String),
    /// This was put.
    Put(Shown),
}

/// Something to be published.
struct Put {
    action: Vec<u8>,
    shown: Shown,
    digest: Digest,
    cost: Option<Duration>,
}

impl Books {
    fn new(folder: Folder, list: &Digest) -> Self {
        let expected = Mutex::new(Expected::new(&folder.list(list)));
        let (spare, actions, further) = (OnceLock::new(), Mutex::default(), Notify::new());
        Self { folder, spare, actions, expected, further }
    }

    fn expected(&self) -> MutexGuard<'_, Expected> {
        self.expected.lock().expect("nobody panics while holding it")
    }

    /// What go has put, or what was made ready for it, if it is still there: go may have taken it away.
    fn at_hand(&self, action: &[u8]) -> Option<Shown> {
        let (ready, wants) = {
            let mut expected = self.expected();
            (expected.take(action, clock::moment()), expected.wants())
        };
        if wants {
            self.further.notify_one();
        }
        let put = match self.actions().get(action) {
            Some(Known::Put(shown)) => Some(shown.clone()),
            _ => None,
        };
        let was_put = put.is_some();
        let there = |shown: &Shown| {
            fs::metadata(&shown.path).is_ok_and(|file| file.is_file() && file.len() == shown.size)
        };
        let shown = put.or(ready).filter(there)?;
        self.expected().note(action);
        if !was_put {
            self.remember(action, Known::Got(shown.path.clone()));
        }
        Some(shown)
    }

    fn actions(&self) -> MutexGuard<'_, HashMap<Vec<u8>, Known>> {
        self.actions.lock().expect("nobody panics while holding them")
    }

    fn remember(&self, action: &[u8], known: Known) {
        let mut actions = self.actions();
        if actions.len() < MAX_REMEMBERED {
            actions.insert(action.to_vec(), known);
        }
    }

    fn spare(&self) -> io::Result<&Folder> {
        let spare = self.spare.get_or_init(|| Folder::open(None).ok());
        spare.as_ref().ok_or_else(|| io::ErrorKind::StorageFull.into())
    }

    fn begin(&self) -> io::Result<Growing> {
        self.folder.begin().or_else(|_| self.spare()?.begin())
    }

    /// Notes a put; gives what it cost as far as that can be told.
    fn put(&self, action: &[u8], shown: &Shown) -> Option<Duration> {
        let before = self.actions().remove(action);
        let cost = match before {
            Some(Known::Missed(since)) => Some(clock::moment().since(since)),
            // It was found, but go wanted it anew: what was found was made before the user said so. Since the first
            // answer stands, it will be found again.
            Some(Known::Got(path)) if path != shown.path => {
                self.folder.renew(&path);
                None
            }
            _ => None,
        };
        self.remember(action, Known::Put(shown.clone()));
        self.expected().given(action);
        cost
    }
}

/// The thread that listens to go.
struct Hearing {
    books: Arc<Books>,
    said: Saying,
    asks: mpsc::Sender<(i64, Vec<u8>)>,
    puts: mpsc::Sender<Put>,
}

impl Hearing {
    /// Listens until go closes; gives the id of that, if it said so.
    fn run(self, mut from: impl io::BufRead) -> io::Result<Option<i64>> {
        while let Some(line) = next_line(&mut from)? {
            let Some(request) = parse(&line) else {
                tracing::debug!("go said something that is not understood");
                continue;
            };
            let answer = match request.command {
                Command::Get { action } => {
                    if let Some(shown) = self.books.at_hand(&action) {
                        self.said.say(&Answer::from(shown).line(request.id));
                        continue;
                    }
                    if self.asks.blocking_send((request.id, action)).is_err() {
                        return Ok(None);
                    }
                    continue;
                }
                Command::Put { action, output, size } => match self.put(&mut from, action, (output, size)) {
                    Ok(path) => Answer::Put { path },
                    Err(BodyError::CutOff) => return Ok(None),
                    Err(BodyError::Read(error)) => return Err(error),
                    Err(error) => Answer::Failed(error.to_string()),
                },
                Command::Close => return Ok(Some(request.id)),
                Command::Nonsense(why) => Answer::Failed(why.to_owned()),
            };
            self.said.say(&answer.line(request.id));
        }
        Ok(None)
    }

    /// Takes a body; gives where it is.
    fn put(
        &self,
        from: &mut impl io::BufRead,
        action: Vec<u8>,
        (output, size): (Sha256, u64),
    ) -> Result<String, BodyError> {
        let books = &self.books;
        let mut growing = if size > MAX_BODY_BYTES {
            Err(io::Error::other("it is larger than any that is kept"))
        } else {
            books.begin()
        };
        let keep = |bytes: &[u8]| match &mut growing {
            Ok(growing) => growing.write(bytes).or_else(|_| {
                growing.move_to(books.spare()?)?;
                growing.write(bytes)
            }),
            Err(error) => Err(io::Error::new(error.kind(), error.to_string())),
        };
        if size > 0 {
            body(from, size, keep)?;
        }
        let whole = growing.map_err(BodyError::Keep)?.end();
        let (digest, sha256) = (whole.digest, whole.sha256);
        let shown = books.folder.keep(whole).map_err(BodyError::Keep)?;
        if sha256 != output {
            // go may have it back from where it is, but others would get something else than was meant.
            tracing::warn!(%output, %sha256, "go put something under another name");
            return Ok(shown.path);
        }
        let cost = books.put(&action, &shown);
        let path = shown.path.clone();
        if self.puts.try_send(Put { action, shown, digest, cost }).is_err() {
            tracing::debug!("too much waits to be published");
        }
        Ok(path)
    }
}

/// The door, as long as there is one.
struct Door<C> {
    door: C,
    project: Project,
    allowance: Mutex<Allowance>,
    lost: AtomicBool,
}

/// Why a get is a miss.
#[derive(Debug, thiserror::Error)]
enum Missed {
    /// There is no daemon, or none any more.
    #[error("there is no daemon")]
    NoDoor,
    /// The daemon does not answer any more.
    #[error("the daemon did not answer in time")]
    Hangs,
    /// It took longer than it is worth.
    #[error("it took too long")]
    TooLong,
    /// The daemon does not do its work.
    #[error(transparent)]
    Door(#[from] CacheError),
    /// There is nothing.
    #[error(transparent)]
    NotFound(#[from] map::NotFound),
    /// What came is not what was claimed.
    #[error("it is not what was claimed")]
    Other,
    /// It cannot be written.
    #[error("cannot write it: {0}")]
    Write(#[from] io::Error),
}

impl From<Waited> for Missed {
    fn from(waited: Waited) -> Self {
        match waited {
            Waited::Silent => Self::Hangs,
            Waited::Late => Self::TooLong,
        }
    }
}

async fn get<C: Cache>(door: Option<&Door<C>>, books: &Arc<Books>, action: Vec<u8>) -> Answer {
    let began = clock::moment();
    let found = match door {
        Some(door) => door.get(books, &action).await,
        None => Err(Missed::NoDoor),
    };
    match found {
        Ok(shown) => {
            if !matches!(books.actions().get(&action), Some(Known::Put(_))) {
                books.remember(&action, Known::Got(shown.path.clone()));
            }
            books.expected().note(&action);
            shown.into()
        }
        Err(missed) => {
            tracing::debug!(%missed, "nothing for go");
            books.remember(&action, Known::Missed(began));
            Answer::Miss
        }
    }
}

impl From<Shown> for Answer {
    fn from(Shown { path, sha256: output, size, time }: Shown) -> Self {
        Self::Hit { output, size, time, path }
    }
}

/// Asks for what go is likely to ask for, and has the files checked that it would be shown. What it does not find here it
/// leaves to go.
async fn ask_ahead<C: Cache>(door: Arc<Door<C>>, books: Arc<Books>) {
    loop {
        let next = books.expected().further();
        let Some(actions) = next else {
            books.further.notified().await;
            continue;
        };
        let at = clock::moment();
        let question = map::questions(&door.project, actions.clone(), LEAST);
        let Ok(Ok(answers)) = patiently(&door.door, READING, door.door.lookup(question)).await else {
            return;
        };
        let books = Arc::clone(&books);
        let check = move || {
            for (action, answer) in actions.into_iter().zip(answers) {
                let Ok(blob) = map::found(&[answer]) else { continue };
                if let Some(shown) = books.folder.find(&blob.digest, blob.size) {
                    books.expected().ready(action, at, shown);
                }
            }
        };
        span::blocking(check).await;
    }
}

impl<C: Cache> Door<C> {
    async fn get(&self, books: &Arc<Books>, action: &[u8]) -> Result<Shown, Missed> {
        if self.lost.load(Ordering::Relaxed) {
            return Err(Missed::NoDoor);
        }
        let began = clock::moment();
        let got = self.bring(books, action).await;
        let took = clock::moment().since(began);
        if let Err(Missed::Hangs | Missed::Door(CacheError::Unreachable(_))) = got {
            self.lost.store(true, Ordering::Relaxed);
        }
        let mut allowance = self.allowance();
        if got.is_ok() {
            allowance.won(took);
        } else {
            allowance.lost(took);
        }
        got
    }

    fn allowance(&self) -> MutexGuard<'_, Allowance> {
        self.allowance.lock().expect("nobody panics while holding it")
    }

    async fn bring(&self, books: &Arc<Books>, action: &[u8]) -> Result<Shown, Missed> {
        let (deadline, longest) = {
            let allowance = self.allowance();
            (allowance.deadline(), allowance.longest())
        };
        let question = map::question(&self.project, action, deadline);
        let patience = Patience { first: longest.min(deadline + GRACE), grace: GRACE, longest };
        let answers = patiently(&self.door, patience, self.door.lookup(question)).await;
        let blob = map::found(&answers??)?;
        let there = if blob.size <= SMALL {
            books.folder.find(&blob.digest, blob.size)
        } else {
            let (books, blob) = (Arc::clone(books), blob.clone());
            span::blocking(move || books.folder.find(&blob.digest, blob.size)).await
        };
        match there {
            Some(shown) => Ok(shown),
            None => self.fetch(books, &blob).await,
        }
    }

    /// Brings what is on this machine into the folder.
    async fn fetch(&self, books: &Arc<Books>, blob: &BlobOutput) -> Result<Shown, Missed> {
        let read = patiently(&self.door, READING, self.door.read(blob.digest, None)).await;
        let mut stretches = read??;
        let mut growing = books.begin()?;
        let mut size = 0;
        while let Some(stretch) = patiently(&self.door, READING, stretches.recv()).await? {
            let stretch = stretch?;
            size += stretch.len() as u64;
            if size > blob.size {
                return Err(Missed::Other);
            }
            growing.write(&stretch)?;
        }
        let whole = growing.end();
        if (whole.digest, whole.size) != (blob.digest, blob.size) {
            return Err(Missed::Other);
        }
        Ok(books.folder.keep(whole)?)
    }

    async fn publish(&self, put: Put) -> Result<(), CacheError> {
        let Put { action, shown, digest, cost } = put;
        let send = shown.size < WORTH_ASKING || !self.door.missing(vec![digest]).await?.is_empty();
        if send {
            let file = File::open(&shown.path).map_err(CacheError::Source)?;
            let written = self.door.write(tokio::fs::File::from_std(file)).await?;
            if written != (digest, shown.size) {
                return Err(CacheError::Usage("it has changed since go put it".to_owned()));
            }
        }
        let publication = map::publication(&self.project, action, (digest, shown.size), cost);
        self.door.publish(publication).await.map(drop)
    }
}

/// Publishes what is put, several at a time, until nothing more comes.
async fn publish<C: Cache + 'static>(
    door: Option<Arc<Door<C>>>,
    books: Arc<Books>,
    mut puts: mpsc::Receiver<Put>,
) {
    let mut publishing = JoinSet::new();
    while let Some(put) = puts.recv().await {
        let Some(door) = door.clone().filter(|door| !door.lost.load(Ordering::Relaxed)) else { continue };
        while publishing.len() >= PUBLISHERS {
            publishing.join_next().await;
        }
        publishing.spawn(async move {
            match patiently(&door.door, PUBLISHING, door.publish(put)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => {
                    if let CacheError::Unreachable(_) = error {
                        door.lost.store(true, Ordering::Relaxed);
                    }
                    tracing::debug!(%error, "not published");
                }
                Err(_) => door.lost.store(true, Ordering::Relaxed),
            }
        });
    }
    while publishing.join_next().await.is_some() {}
    // The files must be there until then.
    drop(books);
}
