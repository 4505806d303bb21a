// SPDX-License-Identifier: MIT OR Apache-2.0
//! How messages follow each other on a stream: four bytes of length, most significant first, then the encoding.

use bytes::Bytes;

use crate::codec::{CodecError, Fault, Wire, Writer, decode, decode_shared};

/// Bytes of the length before each message.
pub const HEADER_BYTES: usize = 4;

/// Room that a message is given at first, which is enough for most.
const FIRST_BYTES: usize = 4096;

/// What is said on one kind of stream, with the bound that a reader sets before it takes a message into memory.
pub trait Message: Wire {
    /// Largest encoding in bytes.
    const MAX_BYTES: usize;
}

/// So much of [`Frame::end`] goes along with what comes before it, so that no packet, and no record of TLS, is made for
/// a few bytes.
const ALONG: usize = 16 * 1024;

/// A message with its length before it, ready to be sent: two stretches that follow each other.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Frame {
    /// All of it, for most messages.
    pub begin: Vec<u8>,
    /// The rest of a long byte string with which the message ends, which was not copied.
    pub end: Bytes,
}

/// Makes a message ready to be sent.
///
/// # Errors
/// [`Fault::TooLong`] when it is larger than its kind may be: it would be refused by every reader.
pub fn frame<M: Message>(message: &M) -> Result<Frame, CodecError> {
    let mut begun = Vec::with_capacity(FIRST_BYTES);
    begun.resize(HEADER_BYTES, 0);
    let mut writer = Writer::after(begun);
    message.write(&mut writer);
    let (mut begin, mut end) = writer.into_parts();
    let (header, body) = begin.split_at_mut(HEADER_BYTES);
    let len = (body.len() + end.len()) as u64;
    let len = u32::try_from(check::<M>(len)?).map_err(|_| too_long::<M>(len))?;
    header.copy_from_slice(&len.to_be_bytes());
    let along = ALONG.saturating_sub(begin.len()).min(end.len());
    begin.extend_from_slice(&end.split_to(along));
    Ok(Frame { begin, end })
}

/// How many bytes of message follow a header.
///
/// # Errors
/// [`Fault::TooLong`] when they are more than this kind of message may have; nothing of them should be read then.
pub fn body_len<M: Message>(header: [u8; HEADER_BYTES]) -> Result<usize, CodecError> {
    check::<M>(u64::from(u32::from_be_bytes(header)))
}

/// Reads the body of a frame.
///
/// # Errors
/// [`CodecError`].
pub fn read_body<M: Message>(body: &[u8]) -> Result<M, CodecError> {
    decode(body, M::MAX_BYTES)
}

/// Reads the body of a frame that nobody changes; what it holds may share its memory.
///
/// # Errors
/// [`CodecError`].
pub fn read_shared_body<M: Message>(body: &Bytes) -> Result<M, CodecError> {
    decode_shared(body, M::MAX_BYTES)
}

fn check<M: Message>(len: u64) -> Result<usize, CodecError> {
    usize::try_from(len).ok().filter(|len| *len <= M::MAX_BYTES).ok_or_else(|| too_long::<M>(len))
}

fn too_long<M: Message>(got: u64) -> CodecError {
    CodecError { at: 0, fault: Fault::TooLong { limit: M::MAX_BYTES, got } }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::peer::{Blobs, Packing, Piece};
    use crate::piece::PIECE_BYTES;

    impl Message for u64 {
        const MAX_BYTES: usize = 5;
    }

    #[test]
    fn a_frame_is_its_length_and_its_body() {
        let frame = frame(&256_u64).unwrap();
        assert_eq!((&frame.begin[..], frame.end.len()), (&[0, 0, 0, 3, 0x19, 1, 0][..], 0));
        assert_eq!(body_len::<u64>([0, 0, 0, 3]), Ok(3));
        assert_eq!(read_body::<u64>(&frame.begin[4..]), Ok(256));
    }

    #[test]
    fn what_is_long_and_comes_last_is_not_copied() {
        let bytes = Bytes::from(vec![7; PIECE_BYTES]);
        let value = crate::codec::Bytes::new(bytes.clone()).unwrap();
        let (packing, size) = (Packing::Raw, PIECE_BYTES as u64);
        let message = Blobs::Piece(Piece { id: 1, index: 2, size, packing, bytes: value });
        let Frame { begin, end } = frame(&message).unwrap();
        assert_eq!((begin.len(), end.as_ptr_range().end), (ALONG, bytes.as_ptr_range().end));
        let whole = Bytes::from([&begin[..], &end].concat());
        let body = whole.slice(HEADER_BYTES..);
        assert_eq!(body_len::<Blobs>(*whole.first_chunk().unwrap()), Ok(body.len()));
        let read = read_shared_body::<Blobs>(&body).unwrap();
        assert_eq!((&read, &read_body::<Blobs>(&body).unwrap()), (&message, &message));
        let Blobs::Piece(piece) = read else { panic!("another message") };
        assert_eq!(piece.bytes.into_shared().as_ptr_range().end, whole.as_ptr_range().end);
        // A hostile length is refused before anything is done with it.
        for cut in [5, 20, body.len() - 1] {
            assert!(read_shared_body::<Blobs>(&body.slice(..cut)).is_err());
        }
    }

    #[test]
    fn nothing_larger_than_its_kind_is_sent_or_read() {
        assert!(frame(&u64::MAX).is_err());
        assert_eq!(body_len::<u64>([0, 0, 0, 5]), Ok(5));
        assert!(body_len::<u64>([0, 0, 0, 6]).is_err());
        assert!(body_len::<u64>([0xff; 4]).is_err());
    }
}
