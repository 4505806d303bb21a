// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kept streams: messages in frames, and many questions at once on one stream, each with its own answers.
//!
//! The same code runs between peers and between a local process and the daemon.

mod frames;
mod heard;
mod mouth;
mod pending;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub use frames::{
    FrameError, Frames, read_message, read_message_within, read_question_within, write_frame, write_message,
};
use heard::{Heard, LastHeard};
use mouth::{Mouth, TOGETHER};
pub use pending::Pending;
use potluck_protocol::frame::Message;
use tokio::io::{AsyncRead, AsyncWrite, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};
use tokio::time::Instant;

use crate::observe::span;

/// Most questions that wait for their answers on one stream.
pub const MAX_OPEN: usize = 256;

/// Most answers to one question that wait for a slow asker; the stream waits with them.
const ANSWERS: usize = 8;

/// How long the other side may take to read one message, or to send the rest of one that it began.
const STALL: Duration = Duration::from_secs(15);

/// How long an asker may take to make room for his next answer. Less than the other side grants this one to read it:
/// somebody who has stopped listening must not cost the others their stream.
const ASKER_STALL: Duration = Duration::from_secs(10);

/// Most messages in a row that answer nothing that is still open. Some always come after a question was given up.
const MAX_STRAY: usize = 1024;

/// A message that belongs to a question.
pub trait Addressed {
    /// The id of the question.
    fn id(&self) -> Option<u64>;
    /// Whether no further answer to that question follows.
    fn is_last(&self) -> bool;
}

/// The asking end of a kept stream. Clones share it; when the last one goes, it closes.
pub struct Link<Out, In> {
    says: mpsc::Sender<Out>,
    mouth: Arc<Mouth>,
    open: Arc<Open<In>>,
    places: Arc<Semaphore>,
    heard: LastHeard,
}

impl<Out, In> Clone for Link<Out, In> {
    fn clone(&self) -> Self {
        let (says, mouth, heard) = (self.says.clone(), Arc::clone(&self.mouth), self.heard.clone());
        Self { says, mouth, open: Arc::clone(&self.open), places: Arc::clone(&self.places), heard }
    }
}

/// The answers to one question. Dropping it means that no more are wanted.
pub struct Answers<In> {
    /// The id that the question got, for saying more about it.
    pub id: u64,
    from: mpsc::Receiver<In>,
    heard: LastHeard,
    /// Its place among the open questions.
    _place: OwnedSemaphorePermit,
}

impl<In> Answers<In> {
    /// The next answer; none after the last one or when the stream broke.
    pub async fn next(&mut self) -> Option<In> {
        self.from.recv().await
    }

    /// The same, and none either when nothing at all came on the stream for `silent`, or not this in `whole`: the other
    /// side may have much to say to others before.
    pub async fn next_within(&mut self, silent: Duration, whole: Duration) -> Option<In> {
        let began = Instant::now();
        loop {
            let until = (self.heard.at().max(began) + silent).min(began + whole);
            match tokio::time::timeout_at(until, self.from.recv()).await {
                Ok(next) => return next,
                Err(_) if self.heard.at() + silent <= until || until >= began + whole => return None,
                Err(_) => {}
            }
        }
    }
}

impl<Out, In> Link<Out, In>
where
    Out: Message + Send + Sync + 'static,
    In: Message + Addressed + Send + 'static,
{
    /// Runs a stream until it breaks or nobody asks any more.
    pub fn start(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (says, from) = mpsc::channel(MAX_OPEN);
        let open = Arc::new(Open(Mutex::new(Pending::new(MAX_OPEN))));
        let (reader, writer) = tokio::io::split(stream);
        let (mouth, heard) = (Arc::new(Mouth::new(writer)), LastHeard::new());
        let reader = Heard { from: reader, last: heard.clone() };
        span::spawn("link", run(reader, (from, Arc::clone(&mouth)), Arc::clone(&open)));
        Self { says, mouth, open, places: Arc::new(Semaphore::new(MAX_OPEN)), heard }
    }

    /// Whether the stream has broken.
    pub fn is_closed(&self) -> bool {
        self.says.is_closed()
    }

    /// Whether nothing came for so long.
    pub fn is_silent(&self, span: Duration) -> bool {
        self.heard.at().elapsed() >= span
    }

    /// Whether it is the same stream.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.open, &other.open)
    }

    /// Asks a question, once there is a place for it; nothing when the stream has broken.
    pub async fn ask(&self, message: impl FnOnce(u64) -> Out + Send) -> Option<Answers<In>> {
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        let (to, from) = mpsc::channel(ANSWERS);
        let id = self.open.open(to)?;
        let Ok(queue) = self.says.reserve().await else {
            // It broke, and nobody is left who would forget it.
            self.open.lock().close(id);
            return None;
        };
        // Many questions at a time had better go together.
        if self.open.lock().len() == 1 {
            self.mouth.say(message(id), queue);
        } else {
            self.mouth.queue(message(id), queue);
        }
        Some(Answers { id, from, heard: self.heard.clone(), _place: place })
    }

    /// Says something that needs no answer of its own; gives whether the stream still stood.
    pub async fn say(&self, message: Out) -> bool {
        let Ok(place) = self.says.reserve().await else { return false };
        self.mouth.queue(message, place);
        true
    }
}

/// What is open on a stream, as both of its halves see it.
struct Open<In>(Mutex<Pending<mpsc::Sender<In>>>);

impl<In> Open<In> {
    /// Opens a question; nothing when too many are open.
    fn open(&self, to: mpsc::Sender<In>) -> Option<u64> {
        let mut pending = self.lock();
        if pending.len() >= MAX_OPEN {
            // Those who went away without an answer, which may never come.
            pending.purge(mpsc::Sender::is_closed);
        }
        pending.open(to)
    }

    fn lock(&self) -> MutexGuard<'_, Pending<mpsc::Sender<In>>> {
        self.0.lock().expect("nobody panics while holding the open questions")
    }
}

/// The end of a stream, however it comes about: nothing is said any more, and nobody waits for an answer.
struct Ended<In>(Arc<Mouth>, Arc<Open<In>>);

impl<In> Drop for Ended<In> {
    fn drop(&mut self) {
        self.0.close();
        self.1.lock().purge(|_| true);
    }
}

/// Both halves at once: while one waits for the other side to read, what that side says must still be heard, or two
/// that talk to each other would wait for each other.
async fn run<Out: Message + Send + Sync + 'static, In: Message + Addressed + Send + 'static>(
    mut reader: impl AsyncRead + Send + Unpin + 'static,
    (says, mouth): (mpsc::Receiver<Out>, Arc<Mouth>),
    open: Arc<Open<In>>,
) {
    let _ended = Ended(Arc::clone(&mouth), Arc::clone(&open));
    // Dropped before that one: what is said from then on is refused, and what was said before is forgotten.
    let mut says = says;
    let hearing = hear(&mut reader, &open);
    tokio::pin!(hearing);
    tokio::select! {
        () = &mut hearing => return,
        well = mouth.speak(&mut says) => if !well { return },
    }
    // Nobody asks any more. What was asked is still answered, as long as somebody waits for it.
    loop {
        let Some((id, to)) = open.lock().any().map(|(id, to)| (id, to.clone())) else { return };
        tokio::select! {
            () = &mut hearing => return,
            () = to.closed() => drop(open.lock().close(id)),
        }
    }
}

/// Hands answers to those who asked, until the stream breaks or says what nobody asked for.
async fn hear<In: Message + Addressed>(reader: &mut (impl AsyncRead + Unpin), open: &Open<In>) {
    let mut stray = 0;
    let mut reader = Frames::new(BufReader::with_capacity(TOGETHER, reader));
    while let Ok(Some(answer)) = reader.next::<In>(STALL).await {
        let Some(id) = answer.id() else { return };
        let (to, known) = {
            let pending = open.lock();
            (pending.get(id).cloned(), pending.was_opened(id))
        };
        let last = answer.is_last();
        let Some(to) = to else {
            stray += 1;
            if !known || stray > MAX_STRAY {
                return;
            }
            continue;
        };
        stray = 0;
        // An asker that has gone away is forgotten. One that is slow holds up this stream, which bounds memory; one
        // that does not listen at all loses the rest of his answers.
        let heard = tokio::time::timeout(ASKER_STALL, to.send(answer)).await;
        if last || !matches!(heard, Ok(Ok(()))) {
            open.lock().close(id);
        }
    }
}

#[cfg(test)]
mod tests;
