// SPDX-License-Identifier: MIT OR Apache-2.0
//! Messages on a stream, by the rules of [`potluck_protocol::frame`].

use std::io;
use std::time::Duration;

use bytes::Bytes;
use potluck_protocol::codec::{CodecError, Fault, SHARED_BYTES};
use potluck_protocol::frame::{Frame, HEADER_BYTES, Message, body_len, frame, read_body, read_shared_body};
use tokio::io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _};

use crate::buffers;

/// Why a message could not be read or written. The stream is of no more use.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrameError {
    /// The stream broke.
    #[error(transparent)]
    Io(#[from] io::Error),
    /// Nothing came for too long.
    #[error("nothing came for too long")]
    Stalled,
    /// The message is none.
    #[error("not a message: {0}")]
    Codec(CodecError),
}

/// Memory that a length alone is given, in bytes, unless there is some that nobody uses. The rest is taken once so many
/// have come.
const ON_CREDIT: usize = 64 * 1024;

/// Reads message after message from one stream, in the same memory.
pub struct Frames<R> {
    from: R,
    body: Vec<u8>,
}

impl<R: AsyncRead + Unpin> Frames<R> {
    /// Nothing is read yet.
    pub fn new(from: R) -> Self {
        Self { from, body: Vec::new() }
    }

    /// As [`read_message_within`], without a bound on how long the stream may be silent.
    ///
    /// # Errors
    /// [`FrameError`].
    pub async fn next<M: Message>(&mut self, stall: Duration) -> Result<Option<M>, FrameError> {
        next(&mut self.from, &mut self.body, (None, stall), M::MAX_BYTES).await
    }
}

/// The next message; none at the end of the stream. A length alone costs little memory: most of it is taken when
/// enough bytes have come. Not to be dropped in the middle, unless the stream goes as well.
///
/// # Errors
/// [`FrameError`]; an end in the middle of a message is one.
pub async fn read_message<M: Message>(from: &mut (impl AsyncRead + Unpin)) -> Result<Option<M>, FrameError> {
    match from.read_u8().await {
        Ok(first) => rest(from, first, &mut Vec::new(), M::MAX_BYTES).await.map(Some),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// The same from somebody who may be up to no good: the message must begin within `idle`, when that is given, and be
/// whole `stall` after it began. Without the latter one byte now and then would hold a stream for ever.
///
/// # Errors
/// [`FrameError`].
pub async fn read_message_within<M: Message>(
    from: &mut (impl AsyncRead + Unpin),
    idle: Option<Duration>,
    stall: Duration,
) -> Result<Option<M>, FrameError> {
    next(from, &mut Vec::new(), (idle, stall), M::MAX_BYTES).await
}

/// The same where less may be said than on the way back: at most so many bytes.
///
/// # Errors
/// [`FrameError`].
pub async fn read_question_within<M: Message>(
    from: &mut (impl AsyncRead + Unpin),
    times: (Option<Duration>, Duration),
    most: usize,
) -> Result<Option<M>, FrameError> {
    next(from, &mut Vec::new(), times, most).await
}

async fn next<M: Message>(
    from: &mut (impl AsyncRead + Unpin),
    body: &mut Vec<u8>,
    (idle, stall): (Option<Duration>, Duration),
    most: usize,
) -> Result<Option<M>, FrameError> {
    let first = match idle {
        Some(idle) => tokio::time::timeout(idle, from.read_u8()).await.map_err(|_| FrameError::Stalled)?,
        None => from.read_u8().await,
    };
    match first {
        Ok(first) => {
            let whole = tokio::time::timeout(stall, rest(from, first, body, most)).await;
            whole.map_err(|_| FrameError::Stalled)?.map(Some)
        }
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(None),
        Err(error) => Err(error.into()),
    }
}

/// What follows the first byte of a message. `body` is room for it, which may be used again.
async fn rest<M: Message>(
    from: &mut (impl AsyncRead + Unpin),
    first: u8,
    body: &mut Vec<u8>,
    most: usize,
) -> Result<M, FrameError> {
    let mut header = [first; HEADER_BYTES];
    from.read_exact(&mut header[1..]).await?;
    let len = body_len::<M>(header).map_err(FrameError::Codec)?;
    if len > most {
        return Err(FrameError::Codec(CodecError {
            at: 0,
            fault: Fault::TooLong { limit: most, got: len as u64 },
        }));
    }
    if len >= SHARED_BYTES {
        let body = long(from, len).await?;
        return read_shared_body(&body).map_err(FrameError::Codec);
    }
    // Into memory that holds something already: streams of libp2p would clear what is left of it with each read.
    if body.len() < len {
        body.resize(len, 0);
    }
    from.read_exact(&mut body[..len]).await?;
    read_body(&body[..len]).map_err(FrameError::Codec)
}

/// A long body, in memory that what is in it keeps.
async fn long(from: &mut (impl AsyncRead + Unpin), len: usize) -> Result<Bytes, FrameError> {
    let (mut body, mut have) = (buffers::lend(), 0);
    while have < len {
        let room = if have == 0 { len.min(body.len().max(ON_CREDIT)) } else { len };
        body.fill(room);
        from.read_exact(&mut body[have..room]).await?;
        have = room;
    }
    Ok(body.first(len))
}

/// Writes a message, and makes sure that it leaves.
///
/// # Errors
/// [`FrameError`]; a message beyond its bound is not sent.
pub async fn write_message<M: Message>(
    to: &mut (impl AsyncWrite + Unpin),
    message: &M,
) -> Result<(), FrameError> {
    write_frame(to, &frame(message).map_err(FrameError::Codec)?).await?;
    to.flush().await?;
    Ok(())
}

/// Writes a message that is ready to be sent.
///
/// # Errors
/// What the stream says.
pub async fn write_frame(to: &mut (impl AsyncWrite + Unpin), Frame { begin, end }: &Frame) -> io::Result<()> {
    to.write_all(begin).await?;
    to.write_all(end).await
}

#[cfg(test)]
mod tests {
    use potluck_protocol::codec::Bytes;
    use potluck_protocol::control::{Data, Plain, Request};

    use super::*;

    #[tokio::test]
    async fn messages_follow_each_other_until_the_end() {
        let (mut one, mut other) = tokio::io::duplex(64);
        let data = Request::Write(Data { id: 1, bytes: Bytes::new(vec![7; 100_000]).unwrap(), last: true });
        let sent = [Request::Status(Plain { id: 2 }), data];
        let copy = sent.clone();
        let writer = async move {
            for message in &copy {
                write_message(&mut one, message).await.unwrap();
            }
        };
        let reader = async {
            let mut got = Vec::new();
            while let Some(message) = read_message::<Request>(&mut other).await.unwrap() {
                got.push(message);
            }
            got
        };
        let ((), got) = tokio::join!(writer, reader);
        assert_eq!(got, sent);
    }

    #[tokio::test(start_paused = true)]
    async fn whoever_stalls_is_given_up() {
        let (mut one, mut other) = tokio::io::duplex(64);
        let (idle, stall) = (Duration::from_secs(60), Duration::from_secs(5));
        let silent = read_message_within::<Request>(&mut other, Some(idle), stall).await;
        assert!(matches!(silent, Err(FrameError::Stalled)));
        one.write_all(&[0, 0]).await.unwrap();
        let slow = read_message_within::<Request>(&mut other, None, stall).await;
        assert!(matches!(slow, Err(FrameError::Stalled)));
    }

    #[tokio::test]
    async fn of_a_question_no_more_is_read_than_one_may_have() {
        let data = |len| Request::Write(Data { id: 1, bytes: Bytes::new(vec![7; len]).unwrap(), last: true });
        let read = async |len: usize, most: usize| {
            let frame = frame(&data(len)).unwrap();
            let bytes = [frame.begin.as_slice(), &frame.end].concat();
            let times = (None, Duration::from_secs(5));
            (read_question_within::<Request>(&mut &bytes[..], times, most).await, bytes.len() - HEADER_BYTES)
        };
        let (_, size) = read(1000, 0).await;
        assert_eq!(read(1000, size).await.0.unwrap(), Some(data(1000)));
        let fault = Fault::TooLong { limit: size - 1, got: size as u64 };
        let refused = read(1000, size - 1).await.0;
        assert!(matches!(refused, Err(FrameError::Codec(error)) if error.fault == fault));
    }

    #[tokio::test]
    async fn too_long_and_cut_short_are_errors() {
        let too_long = [0xff; 4];
        assert!(matches!(read_message::<Request>(&mut &too_long[..]).await, Err(FrameError::Codec(_))));
        let frame = frame(&Request::Stop(Plain { id: 3 })).unwrap().begin;
        for len in 1..frame.len() {
            assert!(matches!(read_message::<Request>(&mut &frame[..len]).await, Err(FrameError::Io(_))));
        }
    }
}
