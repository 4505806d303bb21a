// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packing one piece and unpacking it again, whoever it came from.

use std::fmt;
use std::io;
use std::sync::{Mutex, PoisonError};

use potluck_protocol::peer::Packing;
use potluck_protocol::piece::{PIECE_BYTES, PieceError, Pieces};
use zstd::bulk::{Compressor, Decompressor};
use zstd::zstd_safe::{ResetDirective, find_frame_compressed_size};

/// The level on the way out to a peer, of pieces that nobody has packed yet: whoever asked is waiting.
pub const LINE_LEVEL: i32 = 1;
/// The level at rest, by a background duty.
pub const REST_LEVEL: i32 = 3;

/// The largest window that a frame may ask for, in bytes: what zstd itself asks for up to its default level. Here a
/// frame is unpacked in one go, which needs no window; but a piece is handed on as it came, and the next reader might.
pub const MAX_WINDOW_BYTES: u64 = 2 << 20;

/// A piece stays raw unless packing saves one byte in so many. Reading a raw one is several times faster.
const LEAST_SAVING: usize = 32;

/// Most idle packers that are kept for the next caller; one has about 3 MiB.
const MAX_IDLE: usize = 16;

/// What is wrong with a packed piece.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Flaw {
    /// Raw bytes of another length than the piece's, or packed ones that are no fewer.
    #[error("{packed} bytes cannot be a piece of {size}")]
    Length {
        /// How many there are.
        packed: usize,
        /// The piece's length unpacked, in bytes.
        size: usize,
    },
    /// There is something before, behind or instead of one zstd frame, or it is cut off.
    #[error("it is not one zstd frame")]
    Frame,
    /// Unpacking in a stream would take more memory than it should.
    #[error("its window has {0} bytes, at most {MAX_WINDOW_BYTES} are allowed")]
    Window(u64),
    /// It does not unpack, or not within the piece's length.
    #[error("it does not unpack: {0}")]
    Zstd(#[source] io::Error),
    /// Unpacked it is not the piece.
    #[error(transparent)]
    Piece(PieceError),
}

/// Contexts and buffers for one piece at a time.
pub(crate) struct Packer {
    compressor: Compressor<'static>,
    decompressor: Decompressor<'static>,
    packed: Vec<u8>,
    plain: Vec<u8>,
}

impl Packer {
    fn new() -> Self {
        Self {
            compressor: Compressor::new(LINE_LEVEL).expect("zstd has that level"),
            decompressor: Decompressor::new().expect("without dictionary there is nothing to refuse"),
            packed: Vec::new(),
            plain: Vec::new(),
        }
    }

    /// Packs a piece, or leaves it as it is where that saves too little.
    pub(crate) fn pack<'a>(&'a mut self, plain: &'a [u8], level: i32) -> (Packing, &'a [u8]) {
        // A piece that did not fit its room has left the last frame unfinished.
        let begin = self.compressor.context_mut().reset(ResetDirective::SessionOnly);
        begin.expect("a session can always be given up");
        self.compressor.set_compression_level(level).expect("zstd has that level");
        let room = plain.len().saturating_sub(plain.len() / LEAST_SAVING + 1);
        // zstd stops when the room is used up, so bytes that do not shrink are found out on the way.
        match self.compressor.compress_to_buffer(plain, stretch(&mut self.packed, room)) {
            Ok(len) if room > 0 => (Packing::Zstd, &self.packed[..len]),
            _ => (Packing::Raw, plain),
        }
    }

    /// Whether this is piece `index`, as it is packed.
    pub(crate) fn check(&mut self, pieces: &Pieces, index: u64, piece: (Packing, &[u8])) -> Result<(), Flaw> {
        let size = piece_bytes(pieces, index)?;
        let (packing, packed) = piece;
        check_length(packing, packed.len(), size)?;
        if packing == Packing::Raw {
            return pieces.check(index, packed).map_err(Flaw::Piece);
        }
        let plain = stretch(&mut self.plain, size);
        unzstd(&mut self.decompressor, packed, plain)?;
        pieces.check(index, plain).map_err(Flaw::Piece)
    }

    /// Room for a packed piece of `len` bytes, at most [`PIECE_BYTES`].
    pub(crate) fn room(&mut self, len: usize) -> &mut [u8] {
        stretch(&mut self.packed, len)
    }

    /// Unpacks what was put into [`Packer::room`] so that it fills `plain` exactly.
    pub(crate) fn unzstd(&mut self, len: usize, plain: &mut [u8]) -> Result<(), Flaw> {
        unzstd(&mut self.decompressor, &self.packed[..len], plain)
    }
}

/// The length of piece `index` unpacked, in bytes.
pub(crate) fn piece_bytes(pieces: &Pieces, index: u64) -> Result<usize, Flaw> {
    let none = PieceError::NoSuchPiece { index, count: pieces.count() };
    let range = pieces.range(index).ok_or(Flaw::Piece(none))?;
    Ok(usize::try_from(range.end - range.start).expect("a piece has at most 1 MiB"))
}

/// The bounds of a packed piece of `size` bytes: raw ones have their length, packed ones are smaller.
pub(crate) fn check_length(packing: Packing, packed: usize, size: usize) -> Result<(), Flaw> {
    let fits = match packing {
        Packing::Raw => packed == size,
        Packing::Zstd => packed < size,
    };
    if fits { Ok(()) } else { Err(Flaw::Length { packed, size }) }
}

/// Unpacks one frame that fills `plain` exactly; whatever does not end there is refused as soon as it goes on.
fn unzstd(decompressor: &mut Decompressor<'_>, frame: &[u8], plain: &mut [u8]) -> Result<(), Flaw> {
    if find_frame_compressed_size(frame) != Ok(frame.len()) {
        return Err(Flaw::Frame);
    }
    let window = window_bytes(frame).ok_or(Flaw::Frame)?;
    if window > MAX_WINDOW_BYTES {
        return Err(Flaw::Window(window));
    }
    let got = decompressor.decompress_to_buffer(frame, plain).map_err(Flaw::Zstd)?;
    if got == plain.len() { Ok(()) } else { Err(Flaw::Zstd(io::ErrorKind::UnexpectedEof.into())) }
}

/// The window that a frame's header asks for, in bytes (RFC 8878, section 3.1.1.1.2); 0 for a single segment, whose
/// window is its content. Nothing for what is not a frame, among that a skippable one.
fn window_bytes(frame: &[u8]) -> Option<u64> {
    const MAGIC: [u8; 4] = 0xfd2f_b528_u32.to_le_bytes();
    const SINGLE_SEGMENT: u8 = 1 << 5;
    let header = frame.strip_prefix(&MAGIC)?;
    if header.first()? & SINGLE_SEGMENT != 0 {
        return Some(0);
    }
    let window = header.get(1)?;
    let base = 1_u64 << (10 + (window >> 3));
    Some(base + base / 8 * u64::from(window & 7))
}

/// The first `len` bytes of a buffer that only ever grows, so that it is cleared once.
fn stretch(buffer: &mut Vec<u8>, len: usize) -> &mut [u8] {
    if buffer.len() < len {
        buffer.resize(len, 0);
    }
    &mut buffer[..len]
}

/// Packers that go from caller to caller. One is taken for the time of one piece, so there are never more at work than
/// threads, however many Blobs are being written and stalled.
#[derive(Default)]
pub struct Packers {
    idle: Mutex<Vec<Packer>>,
}

impl fmt::Debug for Packers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Packers").finish_non_exhaustive()
    }
}

impl Packers {
    pub(crate) fn with<T>(&self, work: impl FnOnce(&mut Packer) -> T) -> T {
        let idle = || self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let taken = idle().pop();
        let mut packer = taken.unwrap_or_else(Packer::new);
        let made = work(&mut packer);
        let mut idle = idle();
        if idle.len() < MAX_IDLE {
            idle.push(packer);
        }
        made
    }
}

const _: () = assert!(MAX_WINDOW_BYTES >= PIECE_BYTES as u64);

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use potluck_protocol::piece::PieceHasher;

    use super::*;
    use crate::content::contract::{random, text};

    fn pieces(data: &[u8]) -> Pieces {
        let mut hasher = PieceHasher::new();
        hasher.update(data);
        hasher.finish().unwrap()
    }

    /// A frame made in a stream of unknown length, which therefore asks for a window.
    fn streamed(data: &[u8], window_log: u32) -> Vec<u8> {
        let mut encoder = zstd::Encoder::new(Vec::new(), LINE_LEVEL).unwrap();
        encoder.window_log(window_log).unwrap();
        encoder.write_all(data).unwrap();
        encoder.finish().unwrap()
    }

    fn zstd(data: &[u8]) -> Vec<u8> {
        zstd::bulk::compress(data, LINE_LEVEL).unwrap()
    }

    #[test]
    fn only_what_shrinks_is_packed() {
        let mut packer = Packer::new();
        for len in [0, 1, 31, 33, 1000, PIECE_BYTES] {
            assert_eq!(packer.pack(&random(len), REST_LEVEL), (Packing::Raw, &random(len)[..]), "{len}");
        }
        for len in [1000, PIECE_BYTES - 1, PIECE_BYTES] {
            let data = text(len);
            let (packing, packed) = packer.pack(&data, REST_LEVEL);
            assert_eq!(packing, Packing::Zstd);
            let packed = packed.to_vec();
            packer.check(&pieces(&data), 0, (Packing::Zstd, &packed)).unwrap();
        }
    }

    #[test]
    fn what_unpacks_to_more_than_the_piece_is_refused() {
        let mut packer = Packer::new();
        let data = text(5000);
        let mut check = |packed: &[u8]| packer.check(&pieces(&data), 0, (Packing::Zstd, packed));
        check(&zstd(&data)).unwrap();
        assert!(matches!(check(&zstd(&text(5001))), Err(Flaw::Zstd(_))));
        assert!(matches!(check(&zstd(&text(4999))), Err(Flaw::Zstd(_))));
        let bomb = zstd(&vec![0; 256 << 20]);
        assert!(bomb.len() > 5000, "packed it is longer than the piece");
        assert!(matches!(check(&bomb), Err(Flaw::Length { .. })));
        assert!(matches!(check(&zstd(&vec![0; 8 << 20])), Err(Flaw::Zstd(_))));
        assert!(matches!(check(&streamed(&vec![0; 8 << 20], 20)), Err(Flaw::Zstd(_))));
    }

    #[test]
    fn a_window_is_bounded() {
        let mut packer = Packer::new();
        let data = text(PIECE_BYTES);
        let mut check = |packed: &[u8]| packer.check(&pieces(&data), 0, (Packing::Zstd, packed));
        check(&streamed(&data, MAX_WINDOW_BYTES.ilog2())).unwrap();
        let wide = streamed(&data, MAX_WINDOW_BYTES.ilog2() + 1);
        assert!(matches!(check(&wide), Err(Flaw::Window(bytes)) if bytes == 2 * MAX_WINDOW_BYTES));
    }

    #[test]
    fn a_piece_is_one_whole_frame() {
        let mut packer = Packer::new();
        let data = text(5000);
        let mut check = |packed: &[u8]| packer.check(&pieces(&data), 0, (Packing::Zstd, packed));
        let frame = zstd(&data);
        let skippable = [&[0x50, 0x2a, 0x4d, 0x18, 1, 0, 0, 0, 7][..], &frame].concat();
        let two = [zstd(&data[..2000]), zstd(&data[2000..])].concat();
        let longer = [&frame[..], &[0]].concat();
        for wrong in [&skippable[..], &skippable[..9], &two, &longer, &frame[..frame.len() - 1], b"", b"no"] {
            assert!(matches!(check(wrong), Err(Flaw::Frame)), "{} bytes", wrong.len());
        }
        for len in 0..frame.len() {
            assert!(check(&frame[..len]).is_err(), "{len}");
        }
    }

    #[test]
    fn no_more_are_kept_than_allowed() {
        let packers = Packers::default();
        fn nest(packers: &Packers, depth: usize) {
            packers.with(|_| {
                if depth > 0 {
                    nest(packers, depth - 1);
                }
            });
        }
        nest(&packers, MAX_IDLE + 4);
        assert_eq!(packers.idle.lock().unwrap().len(), MAX_IDLE);
    }
}
