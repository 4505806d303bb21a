// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bodies both ways, as they come and go: no more of them is in memory than one stretch or two.

use std::io;
use std::pin::Pin;
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf as _, Bytes};
use http_body::{Body as _, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::io::{AsyncRead, AsyncReadExt as _, ReadBuf};
use tokio::time::Sleep;

use crate::cache::{CacheError, Stretches};
use crate::observe::clock;
use crate::plan::Moment;

/// How long a body may take whatever its size.
const FIRST: Duration = Duration::from_secs(20);
/// How slowly it may come beyond that, in bytes a second.
const SLOWEST: u64 = 16 * 1024;

/// By when so many bytes of a body must have come: whoever sends less is holding a place that others want.
pub fn due(bytes: u64) -> Duration {
    FIRST.saturating_add(Duration::from_millis(bytes.saturating_mul(1000) / SLOWEST))
}

/// What is answered.
#[derive(Debug, Default)]
pub enum Body {
    /// Nothing.
    #[default]
    Empty,
    /// Bytes in memory.
    Whole(Bytes),
    /// A Blob, or part of one, as it is read.
    Stream(Stream),
}

/// Bytes that come stretch by stretch.
#[derive(Debug)]
pub struct Stream {
    first: Option<Bytes>,
    rest: Stretches,
    left: Option<u64>,
}

impl Stream {
    /// The first stretch has been read already, so that a Blob that cannot be read at all is not begun. `size` is that of
    /// all of it, if it is known.
    pub fn new(first: Bytes, rest: Stretches, size: Option<u64>) -> Self {
        Self { first: Some(first), rest, left: size }
    }
}

impl From<&'static str> for Body {
    fn from(text: &'static str) -> Self {
        Self::Whole(Bytes::from_static(text.as_bytes()))
    }
}

impl From<Bytes> for Body {
    fn from(bytes: Bytes) -> Self {
        Self::Whole(bytes)
    }
}

impl http_body::Body for Body {
    type Data = Bytes;
    type Error = CacheError;

    fn poll_frame(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, CacheError>>> {
        let this = self.get_mut();
        let stream = match this {
            Self::Empty => return Poll::Ready(None),
            Self::Whole(_) => {
                let Self::Whole(bytes) = std::mem::take(this) else { return Poll::Ready(None) };
                return Poll::Ready((!bytes.is_empty()).then(|| Ok(Frame::data(bytes))));
            }
            Self::Stream(stream) => stream,
        };
        let next = match stream.first.take() {
            Some(first) => Some(Ok(first)),
            None => ready!(stream.rest.poll_recv(context)),
        };
        let Some(next) = next else { return Poll::Ready(None) };
        if let (Ok(bytes), Some(left)) = (&next, &mut stream.left) {
            *left = left.saturating_sub(bytes.len() as u64);
        }
        // An error ends the connection, so that nobody takes half of a Blob for all of it.
        Poll::Ready(Some(next.map(Frame::data)))
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Whole(bytes) => bytes.is_empty(),
            Self::Stream(stream) => stream.left == Some(0),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Whole(bytes) => SizeHint::with_exact(bytes.len() as u64),
            Self::Stream(Stream { left: Some(left), .. }) => SizeHint::with_exact(*left),
            Self::Stream(_) => SizeHint::default(),
        }
    }
}

/// The body of a request. Whoever asks for it to be sent is told to go on when it is read for the first time, so that
/// what is refused is not sent at all.
pub struct Upload {
    from: Incoming,
    length: u64,
}

/// A body was not taken.
#[derive(Debug, thiserror::Error)]
pub enum UploadError {
    /// It is larger than what it could be.
    #[error("the body is larger than {0} bytes")]
    TooLarge(u64),
    /// It did not come, or not all of it.
    #[error("the body did not come: {0}")]
    Broken(#[from] io::Error),
}

impl Upload {
    pub(super) const fn new(from: Incoming, length: u64) -> Self {
        Self { from, length }
    }

    /// How many bytes it has.
    pub const fn length(&self) -> u64 {
        self.length
    }

    /// The bytes as they come: exactly [`Upload::length`] of them, or an error.
    pub fn read(self) -> Arriving {
        let (rest, left, begun) = (Bytes::new(), self.length, clock::moment());
        Arriving { from: self.from, rest, left, came: 0, begun, late: None }
    }

    /// All of them, if they are at most `limit`.
    ///
    /// # Errors
    /// [`UploadError`].
    pub async fn bytes(self, limit: u64) -> Result<Bytes, UploadError> {
        if self.length > limit {
            return Err(UploadError::TooLarge(limit));
        }
        let mut bytes = Vec::new();
        self.read().read_to_end(&mut bytes).await?;
        Ok(bytes.into())
    }
}

/// A body as it comes.
pub struct Arriving {
    from: Incoming,
    rest: Bytes,
    left: u64,
    came: u64,
    begun: Moment,
    late: Option<Pin<Box<Sleep>>>,
}

impl Arriving {
    /// The next bytes, none at the end.
    fn poll_next(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Bytes>> {
        loop {
            let Poll::Ready(frame) = Pin::new(&mut self.from).poll_frame(context) else {
                ready!(self.poll_late(context));
                return Poll::Ready(Err(io::ErrorKind::TimedOut.into()));
            };
            let Some(frame) = frame else {
                let whole = self.left == 0;
                let end = if whole { Ok(Bytes::new()) } else { Err(io::ErrorKind::UnexpectedEof.into()) };
                return Poll::Ready(end);
            };
            let frame = frame.map_err(io::Error::other)?;
            let Ok(bytes) = frame.into_data() else { continue };
            self.came += bytes.len() as u64;
            let left = self.left.checked_sub(bytes.len() as u64);
            self.left = left.ok_or_else(|| io::Error::from(io::ErrorKind::InvalidData))?;
            if !bytes.is_empty() {
                return Poll::Ready(Ok(bytes));
            }
        }
    }
}

impl Arriving {
    /// Ready when the body is too slow. Most are here before anybody has waited for them, so that no clock is set.
    fn poll_late(&mut self, context: &mut Context<'_>) -> Poll<()> {
        loop {
            if let Some(late) = &mut self.late {
                ready!(late.as_mut().poll(context));
            }
            // More may have come since that was set.
            let left = due(self.came).saturating_sub(clock::moment().since(self.begun));
            if left.is_zero() {
                return Poll::Ready(());
            }
            self.late = Some(Box::pin(tokio::time::sleep(left)));
        }
    }
}

impl AsyncRead for Arriving {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        if this.rest.is_empty() {
            this.rest = ready!(this.poll_next(context))?;
        }
        let most = this.rest.len().min(into.remaining());
        into.put_slice(&this.rest[..most]);
        this.rest.advance(most);
        Poll::Ready(Ok(()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_body_may_be_slow_but_not_for_ever() {
        assert_eq!(due(0), FIRST);
        assert_eq!(due(SLOWEST), FIRST + Duration::from_secs(1));
        assert!(due(u64::MAX) > Duration::from_secs(1 << 20), "no bytes are too many to say");
    }

    #[tokio::test]
    async fn a_stream_ends_where_it_was_said_to() {
        let (to, rest) = tokio::sync::mpsc::channel(1);
        to.send(Ok(Bytes::from_static(b"two"))).await.unwrap();
        drop(to);
        let mut body = Body::Stream(Stream::new(Bytes::from_static(b"one"), rest.into(), Some(6)));
        assert_eq!(body.size_hint().exact(), Some(6));
        let mut all = Vec::new();
        while let Some(frame) = std::future::poll_fn(|context| Pin::new(&mut body).poll_frame(context)).await
        {
            all.extend_from_slice(&frame.unwrap().into_data().unwrap());
        }
        assert_eq!(all, b"onetwo");
        assert!(body.is_end_stream());
    }
}
