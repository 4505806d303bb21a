// SPDX-License-Identifier: MIT OR Apache-2.0
//! What peers say to each other: one message type a stream purpose, each with its bounds.
//!
//! Nothing here is trusted. Signed claims travel as the exact bytes that were signed; Blobs are checked against
//! Digests that a trusted signer signed. Questions carry an id chosen by the asker, and each is answered on the same
//! stream, in any order.

use potluck_keys::pair::Signer;
use potluck_keys::signed::Signed;

use crate::action::{ActionId, Project};
use crate::codec::{Bytes, Text};
use crate::digest::{Digest, MAX_BLOB_BYTES};
use crate::entry::Entry;
use crate::frame::Message;
use crate::head::{Head, Instance, MAX_CATALOG_HEAD_BYTES, MAX_INSTANCES};
use crate::piece::{MAX_PIECES, PIECE_BYTES, piece_count};
use crate::{choice, code, record};

/// Most topics in one [`Hello`] or [`Pull`].
pub const MAX_TOPICS: usize = 256;
/// Most Heads in one message.
pub const MAX_HEADS: usize = 256;
/// Most actions in one [`Question`].
pub const MAX_ACTIONS: usize = 1024;
/// Largest question on the streams of look-ups and of Blobs, in bytes: whoever answers takes no more of one into memory.
/// Only answers are larger.
pub const MAX_QUESTION_BYTES: usize = 40 * 1024;
/// Most claims of one kind in answer to one action: that many signers may have made the same action.
pub const MAX_CLAIMS: usize = 16;
/// Most Blobs that come with one answer, or are asked for together.
pub const MAX_INLINE: usize = 256;
/// Largest Blob that comes with an answer, in bytes as sent.
pub const MAX_INLINE_BYTES: usize = 64 * 1024;
/// Most ranges of pieces in one [`Want`].
pub const MAX_RANGES: usize = 64;
/// Most chaining values in one [`Values`], in bytes: those of 32 GiB.
pub const MAX_VALUES_BYTES: usize = 1 << 20;
/// Largest bitmap in bytes: one bit a piece of the largest Blob.
pub const MAX_BITMAP_BYTES: usize = (MAX_BLOB_BYTES / PIECE_BYTES as u64 / 8) as usize;

record! {
    /// What one signer claims in one Project.
    #[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
    pub struct Topic {
        /// Whose claims.
        1 => one signer: Signer,
        /// In which Project.
        2 => one project: Project,
    }
}

record! {
    /// The first message each way, and again whenever it changes: the later one replaces the earlier.
    ///
    /// A node says here only what its owner shared on this Network.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Hello {
        /// The program and its version, for people.
        1 => opt agent: Text<64>,
        /// Topics of which it holds Entries, all or some, and can deliver the Blobs.
        2 => many(MAX_TOPICS) holds: Topic,
        /// Topics whose news it wants pushed.
        3 => many(MAX_TOPICS) follows: Topic,
    }
}

impl Message for Hello {
    const MAX_BYTES: usize = 2 * MAX_TOPICS * 160 + 128;
}

record! {
    /// How far somebody is with one instance of a topic.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Known {
        /// The instance.
        1 => one instance: Instance,
        /// The last sequence seen.
        2 => one sequence: u64,
    }
}

record! {
    /// How far somebody is with one topic.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TopicState {
        /// The topic.
        1 => one topic: Topic,
        /// Instances that he knows.
        2 => many(MAX_INSTANCES) known: Known,
    }
}

/// A signed Head of a Catalog, as bytes.
pub type HeadBytes = Bytes<MAX_CATALOG_HEAD_BYTES>;

record! {
    /// Catalog Heads that are new, unasked.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Push {
        /// They.
        1 => many(MAX_HEADS) heads: HeadBytes,
    }
}

record! {
    /// "What is newer than this?"
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Pull {
        /// Chosen by the asker.
        1 => one id: u64,
        /// What he has.
        2 => many(MAX_TOPICS) topics: TopicState,
    }
}

record! {
    /// The answer to a [`Pull`].
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Given {
        /// The id of the question.
        1 => one id: u64,
        /// The newer Heads.
        2 => many(MAX_HEADS) heads: HeadBytes,
    }
}

choice! {
    /// The stream of Catalog Heads.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Heads {
        /// News.
        0 => Push(Push),
        /// A question.
        1 => Pull(Pull),
        /// Its answer.
        2 => Given(Given),
    }
}

impl Message for Heads {
    /// Room for the largest [`Pull`], which is larger than the largest list of Heads.
    const MAX_BYTES: usize = MAX_TOPICS * (160 + MAX_INSTANCES * 32) + 64;
}

record! {
    /// "What did these actions give?"
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Question {
        /// Chosen by the asker.
        1 => one id: u64,
        /// The Project of all of them.
        2 => one project: Project,
        /// The actions.
        3 => many(MAX_ACTIONS) actions: ActionId,
        /// How many bytes of Trees and Blobs the asker would take with the answer.
        4 => one inline: u64,
    }
}

code! {
    /// How bytes are packed.
    pub enum Packing {
        /// As they are.
        0 => Raw,
        /// One zstd frame (RFC 8878) without dictionary.
        1 => Zstd,
    }
}

record! {
    /// A whole Blob that comes with an answer, to be checked against its Digest.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Inline, check Inline::check {
        /// Its name.
        1 => one digest: Digest,
        /// Its size unpacked, in bytes; the reader stops unpacking there.
        2 => one size: u64,
        /// How it is packed.
        3 => one packing: Packing,
        /// It.
        4 => one bytes: Bytes<MAX_INLINE_BYTES>,
    }
}

impl Inline {
    fn check(&self) -> Result<(), &'static str> {
        check_packing(self.packing, self.size, self.bytes.len(), PIECE_BYTES)
    }
}

/// The bounds of a packed stretch: how large it may be unpacked, and no larger packed than unpacked.
fn check_packing(packing: Packing, size: u64, packed: usize, limit: usize) -> Result<(), &'static str> {
    if size > limit as u64 {
        return Err("it unpacks to more than a piece");
    }
    match packing {
        Packing::Raw if size != packed as u64 => Err("it says another size than it has"),
        Packing::Zstd if packed as u64 >= size => Err("it is packed although that makes it no smaller"),
        _ => Ok(()),
    }
}

record! {
    /// What is known about one action.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Found {
        /// The action.
        1 => one action: ActionId,
        /// Signed Entries.
        2 => many(MAX_CLAIMS) entries: Bytes<{ Signed::<Entry>::MAX_BYTES }>,
        /// Signed Heads, when the action is the name of something mutable.
        3 => many(MAX_CLAIMS) heads: Bytes<{ Signed::<Head>::MAX_BYTES }>,
        /// The Tree and small Blobs, as far as there was room for them.
        4 => many(MAX_INLINE) blobs: Inline,
    }
}

record! {
    /// The answer to a [`Question`], or a part of it. Actions that no part names are unknown here.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Answer {
        /// The id of the question.
        1 => one id: u64,
        /// What was found.
        2 => many(MAX_ACTIONS) found: Found,
        /// Whether this is the last part.
        3 => one last: bool,
    }
}

choice! {
    /// The stream of look-ups.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Ask {
        /// A question.
        0 => Question(Question),
        /// Its answer.
        1 => Answer(Answer),
    }
}

impl Message for Ask {
    const MAX_BYTES: usize = 1 << 20;
}

record! {
    /// A run of neighbouring pieces.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Run, check Run::check {
        /// The first, counted from 0.
        1 => one first: u64,
        /// How many.
        2 => one count: u64,
    }
}

impl Run {
    fn check(&self) -> Result<(), &'static str> {
        match self.first.checked_add(self.count) {
            Some(end) if end <= MAX_PIECES && self.count > 0 => Ok(()),
            _ => Err("it is empty or reaches beyond the largest Blob"),
        }
    }
}

record! {
    /// "Send me this."
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Want {
        /// Chosen by the asker.
        1 => one id: u64,
        /// The Blob.
        2 => one digest: Digest,
        /// Whether its chaining values are wanted, which come first.
        3 => one values: bool,
        /// Its pieces that are wanted; none to learn only what the other side has. If that is a part, it says so again
        /// whenever it has more, until it has all or is told to stop.
        4 => many(MAX_RANGES) pieces: Run,
    }
}

record! {
    /// "Send me these small Blobs." Each is whole in at most [`MAX_INLINE_BYTES`]; of those that are, the asked side sends
    /// what it has, in any order, as many to a message as it likes.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Several {
        /// Chosen by the asker.
        1 => one id: u64,
        /// They.
        2 => many(MAX_INLINE) digests: Digest,
    }
}

record! {
    /// Some of them.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Small {
        /// The id of the question.
        1 => one id: u64,
        /// They.
        2 => many(MAX_INLINE) blobs: Inline,
    }
}

record! {
    /// What the asked side has of a Blob: the first answer to a [`Want`], and to one of no pieces further ones as well,
    /// each in place of the one before. Of the pieces that are wanted it sends those that it has; if it lacks some, it
    /// ends with [`No::NotHere`].
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Have, check Have::check {
        /// The id of the question.
        1 => one id: u64,
        /// The Blob's size in bytes, as far as the other side knows.
        2 => one size: u64,
        /// One bit a piece, the first piece in the least significant bit of the first byte, as many bytes as that
        /// takes; absent when it has all.
        3 => opt bitmap: Bytes<MAX_BITMAP_BYTES>,
    }
}

impl Have {
    fn check(&self) -> Result<(), &'static str> {
        if self.size > MAX_BLOB_BYTES {
            return Err("the size is beyond 1 TiB");
        }
        let bytes = piece_count(self.size).div_ceil(8);
        match &self.bitmap {
            Some(bitmap) if bitmap.len() as u64 != bytes => Err("the bitmap has not a bit a piece"),
            _ => Ok(()),
        }
    }
}

record! {
    /// Chaining values of a Blob's pieces. See [`crate::piece::PieceList`].
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Values, check Values::check {
        /// The id of the question.
        1 => one id: u64,
        /// The piece that the first value belongs to.
        2 => one first: u64,
        /// Values of 32 bytes each, at least one.
        3 => one values: Bytes<MAX_VALUES_BYTES>,
    }
}

impl Values {
    fn check(&self) -> Result<(), &'static str> {
        let count = self.values.len() as u64 / 32;
        if count == 0 || !self.values.len().is_multiple_of(32) {
            return Err("it holds no values, or a part of one");
        }
        match self.first.checked_add(count) {
            Some(end) if end <= MAX_PIECES => Ok(()),
            _ => Err("it reaches beyond the largest Blob"),
        }
    }
}

record! {
    /// One piece of a Blob, packed as it was stored.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Piece, check Piece::check {
        /// The id of the question.
        1 => one id: u64,
        /// Which piece, counted from 0.
        2 => one index: u64,
        /// Its size unpacked, in bytes; the reader stops unpacking there.
        3 => one size: u64,
        /// How it is packed.
        4 => one packing: Packing,
        /// It.
        5 => one bytes: Bytes<PIECE_BYTES>,
    }
}

impl Piece {
    fn check(&self) -> Result<(), &'static str> {
        check_packing(self.packing, self.size, self.bytes.len(), PIECE_BYTES)
    }
}

code! {
    /// Why a peer does not send what was wanted.
    pub enum No {
        /// It has not got it, or not for this asker: the two look the same.
        0 => NotHere,
        /// It is sending as much as it wants to; ask again later.
        1 => Busy,
        /// The asker was told to stop, or asked to.
        2 => Stopped,
    }
}

record! {
    /// The end of an answer to a [`Want`] or to [`Several`].
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct End {
        /// The id of the question.
        1 => one id: u64,
        /// Why less was sent than wanted; absent when all was sent.
        2 => opt no: No,
    }
}

record! {
    /// "Send no more of this."
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Stop {
        /// The id of the question.
        1 => one id: u64,
    }
}

choice! {
    /// The stream of Blobs.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Blobs {
        /// A question.
        0 => Want(Want),
        /// What the other side has.
        1 => Have(Have),
        /// Chaining values.
        2 => Values(Values),
        /// A piece.
        3 => Piece(Piece),
        /// The end of an answer.
        4 => End(End),
        /// The asker has had enough.
        5 => Stop(Stop),
        /// A question about small ones.
        6 => Several(Several),
        /// Small ones.
        7 => Small(Small),
    }
}

impl Message for Blobs {
    const MAX_BYTES: usize = PIECE_BYTES + 64;
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};
    use crate::frame::frame;

    fn topic() -> Topic {
        Topic { signer: Signer::from_bytes([1; 32]), project: Project::new(&"p".repeat(96)).unwrap() }
    }

    #[test]
    fn the_largest_messages_fit_their_frames() {
        let topics = vec![topic(); MAX_TOPICS];
        let hello = Hello { agent: Text::new("a".repeat(64)), holds: topics.clone(), follows: topics };
        assert!(frame(&hello).is_ok());
        let known =
            vec![Known { instance: Instance::from_bytes([1; 16]), sequence: u64::MAX }; MAX_INSTANCES];
        let state = TopicState { topic: topic(), known };
        let pull = Heads::Pull(Pull { id: u64::MAX, topics: vec![state; MAX_TOPICS] });
        assert!(frame(&pull).is_ok());
        let heads = vec![Bytes::new(vec![0; MAX_CATALOG_HEAD_BYTES]).unwrap(); MAX_HEADS];
        assert!(frame(&Heads::Given(Given { id: u64::MAX, heads })).is_ok());
        let actions = vec![ActionId::from_bytes([1; 32]); MAX_ACTIONS];
        let question = Question { id: u64::MAX, project: topic().project, actions, inline: u64::MAX };
        let fits = |begin: usize| begin <= MAX_QUESTION_BYTES;
        assert!(frame(&Ask::Question(question)).is_ok_and(|frame| fits(frame.begin.len() + frame.end.len())));
        let runs = vec![Run { first: MAX_PIECES - 1, count: 1 }; MAX_RANGES];
        let want = Want { id: u64::MAX, digest: Digest::of(b""), values: true, pieces: runs };
        assert!(frame(&Blobs::Want(want)).is_ok_and(|frame| fits(frame.begin.len() + frame.end.len())));
        let several = Several { id: u64::MAX, digests: vec![Digest::of(b""); MAX_INLINE] };
        assert!(frame(&Blobs::Several(several)).is_ok_and(|frame| fits(frame.begin.len() + frame.end.len())));
        let bytes = Bytes::new(vec![0; PIECE_BYTES]).unwrap();
        let size = PIECE_BYTES as u64;
        let piece = Piece { id: u64::MAX, index: u64::MAX, size, packing: Packing::Raw, bytes };
        assert!(frame(&Blobs::Piece(piece)).is_ok());
        let bitmap = Bytes::new(vec![0; MAX_BITMAP_BYTES]);
        assert!(frame(&Blobs::Have(Have { id: u64::MAX, size: MAX_BLOB_BYTES, bitmap })).is_ok());
        let values = Bytes::new(vec![0; MAX_VALUES_BYTES]).unwrap();
        assert!(frame(&Blobs::Values(Values { id: u64::MAX, first: u64::MAX, values })).is_ok());
    }

    #[test]
    fn one_more_than_a_bound_is_refused() {
        let refused = |message: &Ask| decode::<Ask>(&encode(message), usize::MAX).is_err();
        let question = |count| {
            let actions = vec![ActionId::from_bytes([1; 32]); count];
            Ask::Question(Question { id: 1, project: Project::default(), actions, inline: 0 })
        };
        assert!(!refused(&question(MAX_ACTIONS)));
        assert!(refused(&question(MAX_ACTIONS + 1)));
        let hello = Hello { agent: None, holds: vec![topic(); MAX_TOPICS + 1], follows: Vec::new() };
        assert!(decode::<Hello>(&encode(&hello), usize::MAX).is_err());
    }

    #[test]
    fn sizes_and_packings_must_make_sense() {
        let piece = |size, packing, len| {
            let bytes = Bytes::new(vec![0; len]).unwrap();
            let piece = Blobs::Piece(Piece { id: 1, index: 0, size, packing, bytes });
            decode::<Blobs>(&encode(&piece), usize::MAX).is_ok()
        };
        assert!(piece(10, Packing::Raw, 10) && piece(10, Packing::Zstd, 9) && piece(0, Packing::Raw, 0));
        assert!(!piece(10, Packing::Raw, 9) && !piece(10, Packing::Zstd, 10));
        assert!(!piece(PIECE_BYTES as u64 + 1, Packing::Zstd, 9));
        let have = |size, bytes: Option<usize>| {
            let bitmap = bytes.map(|bytes| Bytes::new(vec![0; bytes]).unwrap());
            decode::<Have>(&encode(&Have { id: 1, size, bitmap }), usize::MAX).is_ok()
        };
        assert!(have(MAX_BLOB_BYTES, None) && have(0, Some(1)) && have(8 << 20, Some(1)));
        assert!(have((8 << 20) + 1, Some(2)) && have(MAX_BLOB_BYTES, Some(MAX_BITMAP_BYTES)));
        assert!(!have(MAX_BLOB_BYTES + 1, None) && !have(8 << 20, Some(2)) && !have(0, Some(0)));
        let values = |first, bytes: usize| {
            let values = Bytes::new(vec![0; bytes]).unwrap();
            decode::<Values>(&encode(&Values { id: 1, first, values }), usize::MAX).is_ok()
        };
        assert!(values(0, 32) && values(MAX_PIECES - 1, 32));
        assert!(!values(0, 0) && !values(0, 33) && !values(MAX_PIECES, 32) && !values(u64::MAX, 32));
        let run = |first, count| decode::<Run>(&encode(&Run { first, count }), usize::MAX).is_ok();
        assert!(run(0, 1) && run((1 << 20) - 1, 1));
        assert!(!run(0, 0) && !run(1 << 20, 1) && !run(u64::MAX, 2));
    }
}
