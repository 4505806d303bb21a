// SPDX-License-Identifier: MIT OR Apache-2.0
//! How messages follow each other on a stream: four bytes of length, most significant first, then the encoding.

use crate::codec::{CodecError, Fault, Wire, Writer, decode};

/// Bytes of the length before each message.
pub const HEADER_BYTES: usize = 4;

/// Room that a message is given at first, which is enough for most.
const FIRST_BYTES: usize = 4096;

/// What is said on one kind of stream, with the bound that a reader sets before it takes a message into memory.
pub trait Message: Wire {
    /// Largest encoding in bytes.
    const MAX_BYTES: usize;
}

/// The message with its length before it, ready to be sent.
///
/// # Errors
/// [`Fault::TooLong`] when it is larger than its kind may be: it would be refused by every reader.
pub fn frame<M: Message>(message: &M) -> Result<Vec<u8>, CodecError> {
    // In one buffer: copying a piece costs a tenth of what sending it does.
    let mut begun = Vec::with_capacity(FIRST_BYTES);
    begun.resize(HEADER_BYTES, 0);
    let mut writer = Writer::after(begun);
    message.write(&mut writer);
    let mut frame = writer.into_bytes();
    let (header, body) = frame.split_at_mut(HEADER_BYTES);
    let len = u32::try_from(check::<M>(body.len() as u64)?).map_err(|_| too_long::<M>(body.len() as u64))?;
    header.copy_from_slice(&len.to_be_bytes());
    Ok(frame)
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

fn check<M: Message>(len: u64) -> Result<usize, CodecError> {
    usize::try_from(len).ok().filter(|len| *len <= M::MAX_BYTES).ok_or_else(|| too_long::<M>(len))
}

fn too_long<M: Message>(got: u64) -> CodecError {
    CodecError { at: 0, fault: Fault::TooLong { limit: M::MAX_BYTES, got } }
}

#[cfg(test)]
mod tests {
    use super::*;

    impl Message for u64 {
        const MAX_BYTES: usize = 5;
    }

    #[test]
    fn a_frame_is_its_length_and_its_body() {
        let frame = frame(&256_u64).unwrap();
        assert_eq!(frame, [0, 0, 0, 3, 0x19, 1, 0]);
        assert_eq!(body_len::<u64>([0, 0, 0, 3]), Ok(3));
        assert_eq!(read_body::<u64>(&frame[4..]), Ok(256));
    }

    #[test]
    fn nothing_larger_than_its_kind_is_sent_or_read() {
        assert!(frame(&u64::MAX).is_err());
        assert_eq!(body_len::<u64>([0, 0, 0, 5]), Ok(5));
        assert!(body_len::<u64>([0, 0, 0, 6]).is_err());
        assert!(body_len::<u64>([0xff; 4]).is_err());
    }
}
