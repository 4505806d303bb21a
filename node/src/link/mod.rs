// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kept streams: messages in frames, and many questions at once on one stream, each with its own answers.
//!
//! The same code runs between peers and between a local process and the daemon.

mod frames;
mod pending;

use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

pub use frames::{FrameError, Frames, read_message, read_message_within, write_message};
pub use pending::Pending;
use potluck_protocol::frame::{Message, frame};
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _, BufReader};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

/// Most questions that wait for their answers on one stream.
pub const MAX_OPEN: usize = 256;

/// Most answers to one question that wait for a slow asker; the stream waits with them.
const ANSWERS: usize = 8;

/// How many bytes are said at once at most, but for a message that is larger by itself.
const TOGETHER: usize = 16 * 1024;

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
    asks: mpsc::Sender<Ask<Out, In>>,
    places: Arc<Semaphore>,
}

impl<Out, In> Clone for Link<Out, In> {
    fn clone(&self) -> Self {
        Self { asks: self.asks.clone(), places: Arc::clone(&self.places) }
    }
}

enum Ask<Out, In> {
    /// Opens a question: the message is made once its id is known.
    Open(Box<dyn FnOnce(u64) -> Out + Send>, mpsc::Sender<In>, mpsc::Sender<u64>),
    /// Says something more.
    Say(Out),
}

/// The answers to one question. Dropping it means that no more are wanted.
pub struct Answers<In> {
    /// The id that the question got, for saying more about it.
    pub id: u64,
    from: mpsc::Receiver<In>,
    /// Its place among the open questions.
    _place: OwnedSemaphorePermit,
}

impl<In> Answers<In> {
    /// The next answer; none after the last one or when the stream broke.
    pub async fn next(&mut self) -> Option<In> {
        self.from.recv().await
    }
}

impl<Out, In> Link<Out, In>
where
    Out: Message + Send + Sync + 'static,
    In: Message + Addressed + Send + 'static,
{
    /// Runs a stream until it breaks or nobody asks any more.
    pub fn start(stream: impl AsyncRead + AsyncWrite + Send + 'static) -> Self {
        let (asks, from) = mpsc::channel(MAX_OPEN);
        crate::observe::span::spawn("link", run(stream, from));
        Self { asks, places: Arc::new(Semaphore::new(MAX_OPEN)) }
    }

    /// Whether the stream has broken.
    pub fn is_closed(&self) -> bool {
        self.asks.is_closed()
    }

    /// Asks a question, once there is a place for it; nothing when the stream has broken.
    pub async fn ask(&self, message: impl FnOnce(u64) -> Out + Send + 'static) -> Option<Answers<In>> {
        let place = Arc::clone(&self.places).acquire_owned().await.ok()?;
        let (to, from) = mpsc::channel(ANSWERS);
        let (id_to, mut id_from) = mpsc::channel(1);
        self.asks.send(Ask::Open(Box::new(message), to, id_to)).await.ok()?;
        Some(Answers { id: id_from.recv().await?, from, _place: place })
    }

    /// Says something that needs no answer of its own; gives whether the stream still stood.
    pub async fn say(&self, message: Out) -> bool {
        self.asks.send(Ask::Say(message)).await.is_ok()
    }
}

/// What is open on a stream, as both of its halves see it.
struct Open<In>(Mutex<Pending<mpsc::Sender<In>>>);

impl<In> Open<In> {
    /// What is to be said; nothing when whoever asked has gone already, or too many questions are open.
    fn message<Out>(&self, ask: Ask<Out, In>) -> Option<Out> {
        let (make, to, id_to) = match ask {
            Ask::Say(message) => return Some(message),
            Ask::Open(make, to, id_to) => (make, to, id_to),
        };
        let mut pending = self.lock();
        if pending.len() >= MAX_OPEN {
            // Those who went away without an answer, which may never come.
            pending.purge(mpsc::Sender::is_closed);
        }
        let id = pending.open(to)?;
        if id_to.try_send(id).is_err() {
            pending.close(id);
            return None;
        }
        drop(pending);
        Some(make(id))
    }

    fn lock(&self) -> MutexGuard<'_, Pending<mpsc::Sender<In>>> {
        self.0.lock().expect("nobody panics while holding the open questions")
    }
}

/// Both halves at once: while one waits for the other side to read, what that side says must still be heard, or two
/// that talk to each other would wait for each other.
async fn run<Out: Message + Send + Sync + 'static, In: Message + Addressed + Send + 'static>(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    mut asks: mpsc::Receiver<Ask<Out, In>>,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let open = Open(Mutex::new(Pending::new(MAX_OPEN)));
    let hearing = hear(&mut reader, &open);
    tokio::pin!(hearing);
    tokio::select! {
        () = &mut hearing => return,
        well = speak(&mut writer, &mut asks, &open) => if !well { return },
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

/// Says what is asked, until nobody asks any more; gives whether the stream still stands then. What waits at the same
/// time is said at once: on a stream without a multiplexer each write costs a packet.
async fn speak<Out: Message, In>(
    writer: &mut (impl AsyncWrite + Unpin),
    asks: &mut mpsc::Receiver<Ask<Out, In>>,
    open: &Open<In>,
) -> bool {
    while let Some(ask) = asks.recv().await {
        let (mut bytes, mut next) = (Vec::new(), Some(ask));
        while let Some(ask) = next {
            if let Some(message) = open.message(ask) {
                let Ok(frame) = frame(&message) else { return false };
                bytes.extend(frame);
            }
            next = if bytes.len() < TOGETHER { asks.try_recv().ok() } else { None };
        }
        let saying = async {
            writer.write_all(&bytes).await?;
            writer.flush().await
        };
        if !matches!(tokio::time::timeout(STALL, saying).await, Ok(Ok(()))) {
            return false;
        }
    }
    true
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
