// SPDX-License-Identifier: MIT OR Apache-2.0
//! The one door through which tools come: look-up, missing, read, write, publish.
//!
//! In the daemon the door is the [`crate::engine`]; in a process of its own, such as a compiler wrapper, it is the
//! [`crate::control::client`], which passes everything on to the daemon. A Front cannot tell which.

use std::fmt;
use std::fs::File;
use std::future::poll_fn;
use std::ops::Range;
use std::path::Path;
use std::task::{Context, Poll};
use std::time::Duration;

use bytes::Bytes;
use potluck_protocol::action::{Project, Recipe};
pub use potluck_protocol::control::{Answer, Miss, Note};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Labels, Output, Taint};
use tokio::io::{AsyncRead, AsyncWriteExt as _};
use tokio::sync::mpsc;

/// Most stretches of a Blob that wait for a slow reader.
pub const STRETCHES: usize = 4;

/// A Blob as it is read: stretches of at most [`potluck_protocol::control::MAX_DATA_BYTES`] bytes, in order. An error is
/// the last of them. The bytes were checked against the Digest that was asked for.
pub struct Stretches(Box<dyn FnMut(&mut Context<'_>) -> Next + Send>);

/// What polling for a stretch gives.
type Next = Poll<Option<Result<Bytes, CacheError>>>;

impl Stretches {
    /// Those that `poll` gives, until it gives none.
    pub fn new(poll: impl FnMut(&mut Context<'_>) -> Next + Send + 'static) -> Self {
        Self(Box::new(poll))
    }

    /// The next one, none at the end.
    pub async fn recv(&mut self) -> Option<Result<Bytes, CacheError>> {
        poll_fn(|context| self.poll_recv(context)).await
    }

    /// The same, for those who poll.
    pub fn poll_recv(&mut self, context: &mut Context<'_>) -> Next {
        (self.0)(context)
    }
}

impl From<mpsc::Receiver<Result<Bytes, CacheError>>> for Stretches {
    fn from(mut from: mpsc::Receiver<Result<Bytes, CacheError>>) -> Self {
        Self::new(move |context| from.poll_recv(context))
    }
}

impl fmt::Debug for Stretches {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Stretches").finish_non_exhaustive()
    }
}

/// Some keys of one tool.
#[derive(Debug, Clone)]
pub struct Question {
    /// The Project of all of them.
    pub project: Project,
    /// The Recipe of all of them.
    pub recipe: Recipe,
    /// The tool's own keys, each at most [`potluck_protocol::control::MAX_KEY_BYTES`] long; at most
    /// [`potluck_protocol::control::MAX_KEYS`] of them.
    pub keys: Vec<Vec<u8>>,
    /// How long the tool waits until it has been found out who has the answer. Transfers may go on for as long as
    /// making the output again would take.
    pub deadline: Duration,
}

/// "This key gave this output." All Blobs that the output names must have been written.
#[derive(Debug, Clone)]
pub struct Publication {
    /// The Project.
    pub project: Project,
    /// The Recipe.
    pub recipe: Recipe,
    /// The tool's own key.
    pub key: Vec<u8>,
    /// What it gave.
    pub output: Output,
    /// For people and for collection.
    pub labels: Labels,
    /// What must be admitted about it, in ascending order.
    pub taints: Vec<Taint>,
}

/// Why the door did not do what was asked. A miss is not an error.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum CacheError {
    /// The daemon cannot be reached, or went away.
    #[error("the daemon cannot be reached: {0}")]
    Unreachable(std::io::Error),
    /// The daemon did not answer in time.
    #[error("the daemon did not answer in time")]
    Late,
    /// The daemon speaks another language.
    #[error("the daemon and this program do not understand each other: {0}")]
    Protocol(String),
    /// There is no such Blob here.
    #[error("blob {0} is not here")]
    NotHere(Digest),
    /// The Blob is damaged.
    #[error("blob {0} is damaged")]
    Damaged(Digest),
    /// The request makes no sense.
    #[error("{0}")]
    Usage(String),
    /// Nobody can sign here.
    #[error("there is no key to sign with; `potluck init` makes one")]
    NoKey,
    /// The store does not work.
    #[error("{0}")]
    Store(String),
    /// What the tool wanted to store cannot be read.
    #[error("cannot read what is to be stored: {0}")]
    Source(std::io::Error),
    /// What the tool wanted to have cannot be written.
    #[error("cannot write what was found: {0}")]
    Sink(std::io::Error),
}

/// The door. Every method may be dropped at any await; what it had begun leaves nothing half-done that can be seen.
pub trait Cache: Send + Sync {
    /// Says what a build is about to ask for. Most doors have no use for it.
    fn note(&self, note: Note) -> impl Future<Output = ()> + Send {
        drop(note);
        std::future::ready(())
    }

    /// What is known under these keys: an answer each, in the same order.
    fn lookup(&self, question: Question) -> impl Future<Output = Result<Vec<Answer>, CacheError>> + Send;

    /// Which of these Blobs are not here.
    fn missing(&self, digests: Vec<Digest>) -> impl Future<Output = Result<Vec<Digest>, CacheError>> + Send;

    /// These bytes of a Blob, or all of them.
    fn read(
        &self,
        digest: Digest,
        range: Option<Range<u64>>,
    ) -> impl Future<Output = Result<Stretches, CacheError>> + Send;

    /// Stores a Blob; gives its name and size.
    fn write(
        &self,
        from: impl AsyncRead + Send + Unpin,
    ) -> impl Future<Output = Result<(Digest, u64), CacheError>> + Send;

    /// Stores the content of a file that is open here at its beginning and lies at `path`; gives its name and size. A door
    /// in another process has it read there, so that the bytes need not pass between the two.
    fn write_file(
        &self,
        file: File,
        path: &Path,
    ) -> impl Future<Output = Result<(Digest, u64), CacheError>> + Send {
        let _ = path;
        self.write(tokio::fs::File::from_std(file))
    }

    /// Writes a Blob to a file that is open here, empty, and lies at `path`; gives its size. The file is of no use when
    /// that fails. A door in another process has it written there.
    fn read_file(
        &self,
        digest: Digest,
        file: File,
        path: &Path,
    ) -> impl Future<Output = Result<u64, CacheError>> + Send {
        let _ = path;
        async move { pour(self.read(digest, None).await?, file).await }
    }

    /// Claims that a key gave an output; gives the Digest of the Entry that now stands.
    fn publish(&self, publication: Publication) -> impl Future<Output = Result<Digest, CacheError>> + Send;

    /// Has a key's output claimed, whoever asks for it being gone by then or not. A door in another process waits until it
    /// is being done, and hears of what goes wrong only if that happens at once.
    fn hand_over(&self, publication: Publication) -> impl Future<Output = Result<(), CacheError>> + Send {
        async move { self.publish(publication).await.map(drop) }
    }
}

/// Writes stretches to a file; gives how many bytes they were.
///
/// # Errors
/// [`CacheError`].
pub async fn pour(mut stretches: Stretches, file: File) -> Result<u64, CacheError> {
    let (mut file, mut size) = (tokio::fs::File::from_std(file), 0);
    while let Some(stretch) = stretches.recv().await.transpose()? {
        size += stretch.len() as u64;
        file.write_all(&stretch).await.map_err(CacheError::Sink)?;
    }
    file.flush().await.map_err(CacheError::Sink)?;
    Ok(size)
}
