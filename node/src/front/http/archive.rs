// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stores what a tool sends in the form that [`alike`](super::alike) gives it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use futures::Stream;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::BlobOutput;
use potluck_protocol::piece::PIECE_BYTES;
use tokio::io::{AsyncRead, ReadBuf};
use tokio_util::io::StreamReader;

use super::alike::sccache::{self, END_BYTES, Stretch};
use super::alike::{Archive, ccache};
use crate::cache::{Cache as _, CacheError, Stretches};
use crate::content::Durability;
use crate::engine::Engine;
use crate::engine::newest::Taken;

/// A value of more bytes than this is hashed and written while the rest of it comes.
const STREAMED: usize = 256 * 1024;
/// Bytes of an entry of ccache that are looked at together.
const STRETCH: usize = 64 * 1024;

/// Takes a value of so many bytes, in the form in which it is kept.
///
/// # Errors
/// [`CacheError`].
pub(super) async fn take(
    engine: &Arc<Engine>,
    (archive, durability): (Archive, Durability),
    (from, length): (impl AsyncRead + Send + Unpin, u64),
) -> Result<Taken, CacheError> {
    match archive {
        Archive::Opaque => engine.take((from, length), (STREAMED, durability)).await,
        // The new header is never longer than the one that came.
        Archive::Ccache => engine.take((Rewritten::new(from), length), (STREAMED, durability)).await,
        // What cannot be arranged is kept as it came.
        Archive::Sccache if length > PIECE_BYTES as u64 => {
            let came = engine.write(from).await?;
            let arranged = arrange(engine, came).await.unwrap_or_else(|error| {
                tracing::debug!(%error, "an archive is kept as it came");
                None
            });
            let (digest, size) = arranged.unwrap_or(came);
            Ok(Taken::Stored(BlobOutput { digest, size }))
        }
        Archive::Sccache => {
            let mut taken = engine.take((from, length), (PIECE_BYTES, durability)).await?;
            if let Taken::Here(came) = &mut taken
                && let Some(arranged) = sccache::whole(came)
            {
                **came = arranged;
            }
            Ok(taken)
        }
    }
}

/// A stored archive of sccache, arranged; nothing when it stays as it is. Which output comes first is told by its end, so
/// that it is written a second time; what came goes with what nobody names.
async fn arrange(
    engine: &Arc<Engine>,
    (digest, size): (Digest, u64),
) -> Result<Option<(Digest, u64)>, CacheError> {
    let Some(end) = size.checked_sub(END_BYTES as u64) else { return Ok(None) };
    let end = all(engine.read(digest, Some(end..size)).await?).await?;
    let directory = end.first_chunk().and_then(|end| sccache::directory(size, end));
    let Some(directory) = directory else { return Ok(None) };
    let list = all(engine.read(digest, Some(directory.clone())).await?).await?;
    let Some(stretches) = sccache::arranged(&list, &directory) else { return Ok(None) };
    let arranged = StreamReader::new(Box::pin(joined(Arc::clone(engine), digest, stretches)));
    engine.write(arranged).await.map(Some)
}

/// Bytes that are known to be few.
async fn all(mut from: Stretches) -> Result<Vec<u8>, CacheError> {
    let mut bytes = Vec::new();
    while let Some(stretch) = from.recv().await.transpose()? {
        bytes.extend_from_slice(&stretch);
    }
    Ok(bytes)
}

/// Stretches of a Blob and what is put between them, one after the other.
fn joined(
    engine: Arc<Engine>,
    digest: Digest,
    stretches: Vec<Stretch>,
) -> impl Stream<Item = io::Result<Bytes>> + Send {
    let begin = (engine, stretches.into_iter(), None::<Stretches>);
    futures::stream::unfold(begin, move |(engine, mut stretches, mut open)| async move {
        loop {
            if let Some(next) = match &mut open {
                Some(open) => open.recv().await,
                None => None,
            } {
                return Some((next.map_err(io::Error::other), (engine, stretches, open)));
            }
            open = match stretches.next()? {
                Stretch::Bytes(bytes) => return Some((Ok(bytes.into()), (engine, stretches, None))),
                Stretch::Of(range) => match engine.read(digest, Some(range)).await {
                    Ok(open) => Some(open),
                    Err(error) => return Some((Err(io::Error::other(error)), (engine, stretches, None))),
                },
            };
        }
    })
}

/// An entry of ccache on its way in.
struct Rewritten<R> {
    from: R,
    /// Nothing once all of it has come.
    rewriting: Option<ccache::Rewriting>,
    room: Vec<u8>,
    /// What goes on, and how much of it has gone.
    out: Vec<u8>,
    gone: usize,
}

impl<R> Rewritten<R> {
    fn new(from: R) -> Self {
        Self {
            from,
            rewriting: Some(ccache::Rewriting::default()),
            room: Vec::new(),
            out: Vec::new(),
            gone: 0,
        }
    }
}

impl<R: AsyncRead + Unpin> AsyncRead for Rewritten<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        while this.gone == this.out.len() {
            (this.gone, _) = (0, this.out.clear());
            let Some(rewriting) = &mut this.rewriting else { return Poll::Ready(Ok(())) };
            this.room.resize(STRETCH, 0);
            let mut room = ReadBuf::new(&mut this.room);
            ready!(Pin::new(&mut this.from).poll_read(context, &mut room))?;
            match room.filled() {
                [] => {
                    if let Some(rewriting) = this.rewriting.take() {
                        rewriting.end(&mut this.out);
                    }
                }
                came => rewriting.take(came, &mut this.out),
            }
        }
        let most = into.remaining().min(this.out.len() - this.gone);
        into.put_slice(&this.out[this.gone..this.gone + most]);
        this.gone += most;
        Poll::Ready(Ok(()))
    }
}
