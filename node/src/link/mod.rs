// SPDX-License-Identifier: MIT OR Apache-2.0
//! Kept streams: messages in frames, and many questions at once on one stream, each with its own answers.
//!
//! The same code runs between peers and between a local process and the daemon.

mod frames;
mod pending;

use std::time::Duration;

pub use frames::{FrameError, read_message, write_message};
pub use pending::Pending;
use potluck_protocol::frame::Message;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::sync::mpsc;
use tokio::task::JoinSet;

/// Most questions that wait for their answers on one stream.
pub const MAX_OPEN: usize = 256;

/// Most answers to one question that wait for a slow asker; the stream waits with them.
const ANSWERS: usize = 8;

/// How long the other side may take to read one message.
const WRITE_STALL: Duration = Duration::from_secs(15);

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
}

impl<Out, In> Clone for Link<Out, In> {
    fn clone(&self) -> Self {
        Self { asks: self.asks.clone() }
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
        Self { asks }
    }

    /// Whether the stream has broken.
    pub fn is_closed(&self) -> bool {
        self.asks.is_closed()
    }

    /// Asks a question; nothing when the stream has broken.
    pub async fn ask(&self, message: impl FnOnce(u64) -> Out + Send + 'static) -> Option<Answers<In>> {
        let (to, from) = mpsc::channel(ANSWERS);
        let (id_to, mut id_from) = mpsc::channel(1);
        self.asks.send(Ask::Open(Box::new(message), to, id_to)).await.ok()?;
        Some(Answers { id: id_from.recv().await?, from })
    }

    /// Says something that needs no answer of its own; gives whether the stream still stood.
    pub async fn say(&self, message: Out) -> bool {
        self.asks.send(Ask::Say(message)).await.is_ok()
    }
}

async fn run<Out: Message + Send + Sync + 'static, In: Message + Addressed + Send + 'static>(
    stream: impl AsyncRead + AsyncWrite + Send + 'static,
    mut asks: mpsc::Receiver<Ask<Out, In>>,
) {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (answer_to, mut answer_from) = mpsc::channel::<In>(ANSWERS);
    // Reading is a task of its own: a message that has begun must be read to its end, whatever else happens.
    let mut tasks = JoinSet::new();
    tasks.spawn(async move {
        while let Ok(Some(message)) = read_message::<In>(&mut reader).await {
            if answer_to.send(message).await.is_err() {
                return;
            }
        }
    });
    let mut pending = Pending::new(MAX_OPEN);
    let mut asking = true;
    // What was asked is answered even if nobody asks any more.
    while asking || !pending.is_empty() {
        tokio::select! {
            ask = asks.recv(), if asking => {
                let message = match ask {
                    None => {
                        asking = false;
                        continue;
                    }
                    Some(Ask::Say(message)) => message,
                    Some(Ask::Open(make, to, id_to)) => {
                        let Some(id) = pending.open(to) else { continue };
                        if id_to.send(id).await.is_err() {
                            pending.close(id);
                            continue;
                        }
                        make(id)
                    }
                };
                let sent = tokio::time::timeout(WRITE_STALL, write_message(&mut writer, &message)).await;
                if !matches!(sent, Ok(Ok(()))) {
                    return;
                }
            }
            answer = answer_from.recv() => {
                let Some(answer) = answer else { return };
                let Some(id) = answer.id() else { continue };
                let last = answer.is_last();
                let Some(to) = pending.get(id).cloned() else { continue };
                // An asker that has gone away is forgotten; one that is slow holds up this stream, which bounds memory.
                if to.send(answer).await.is_err() || last {
                    pending.close(id);
                }
            }
        }
    }
}
