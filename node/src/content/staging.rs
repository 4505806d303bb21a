// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing a Blob: as a stream whose name turns out at its end, or piece by piece for a name that is known.

use std::mem;
use std::sync::Arc;

use bytes::Bytes;
use potluck_protocol::digest::{Digest, MAX_BLOB_BYTES};
use potluck_protocol::peer::Packing;
use potluck_protocol::piece::{PIECE_BYTES, PieceError, PieceHasher, PieceValue, Pieces};

use crate::buffers;
use crate::content::files::WRITE_BYTES;
use crate::content::form::{Form, Place, ending};
use crate::content::pack::{Flaw, Packers};
use crate::content::{Arrival, ContentError, Draft, Durability, Stored, part};

/// A draft and how far it is written.
#[derive(Debug)]
pub(crate) struct Growing<D> {
    draft: D,
    end: u64,
}

impl<D: Draft> Growing<D> {
    pub(crate) fn new(draft: D) -> Self {
        Self { draft, end: 0 }
    }

    pub(crate) fn append(&mut self, form: Form, packed: &[u8]) -> Result<Place, ContentError> {
        let len = u32::try_from(packed.len()).expect("a piece has at most 1 MiB");
        self.draft.write_at(self.end, packed)?;
        let place = Place { offset: self.end, len, form };
        self.end += u64::from(len);
        Ok(place)
    }

    /// Ends the draft and puts it in the place of the Blob that is there, unless there is none any more. Gives its
    /// length then.
    pub(crate) fn replace(mut self, pieces: &Pieces, places: &[Place]) -> Result<Option<u64>, ContentError> {
        let ending = ending(pieces, places);
        self.draft.write_at(self.end, &ending)?;
        let stored_bytes = self.end + ending.len() as u64;
        Ok(self.draft.replace(pieces.digest())?.then_some(stored_bytes))
    }

    /// Appends to the piece that was appended last, as it is.
    fn extend(&mut self, last: &mut Place, bytes: &[u8]) -> Result<(), ContentError> {
        let more = self.append(last.form, bytes)?;
        last.len += more.len;
        Ok(())
    }

    fn keep(
        mut self,
        pieces: &Pieces,
        places: &[Place],
        durability: Durability,
    ) -> Result<Stored, ContentError> {
        let ending = ending(pieces, places);
        self.draft.write_at(self.end, &ending)?;
        let (new, stored_bytes) = match self.draft.keep(pieces.digest(), durability)? {
            Arrival::New => (true, self.end + ending.len() as u64),
            Arrival::Known { stored_bytes } => (false, stored_bytes),
        };
        Ok(Stored { digest: *pieces.digest(), size: pieces.size(), stored_bytes, new })
    }
}

/// A Blob that streams in and is hashed and written on the way, raw, since whoever writes is waiting: at most 128 KiB of
/// it are in memory, besides 48 bytes for each piece that is written. Dropped before its end, it leaves nothing.
#[derive(Debug)]
pub struct Staging<D> {
    growing: Growing<D>,
    hasher: PieceHasher,
    places: Vec<Place>,
    /// What came last, too little to be worth a call of its own.
    plain: Vec<u8>,
    failed: bool,
    /// Most bytes that it takes.
    limit: u64,
}

impl<D: Draft> Staging<D> {
    pub(crate) fn new(draft: D) -> Self {
        Self {
            growing: Growing::new(draft),
            hasher: PieceHasher::new(),
            places: Vec::new(),
            plain: Vec::new(),
            failed: false,
            limit: MAX_BLOB_BYTES,
        }
    }

    /// Bytes taken so far.
    pub fn size(&self) -> u64 {
        self.hasher.size() + self.plain.len() as u64
    }

    /// Takes the next bytes, any number.
    ///
    /// # Errors
    /// [`ContentError::TooLarge`] beyond the largest Blob; what the backend says when it cannot write; and after
    /// either of them always [`ContentError::Abandoned`].
    pub fn write(&mut self, bytes: &[u8]) -> Result<(), ContentError> {
        if mem::replace(&mut self.failed, true) {
            return Err(ContentError::Abandoned);
        }
        self.take(bytes)?;
        self.failed = false;
        Ok(())
    }

    fn take(&mut self, mut bytes: &[u8]) -> Result<(), ContentError> {
        if self.size().saturating_add(bytes.len() as u64) > self.limit {
            return Err(ContentError::TooLarge);
        }
        if !self.plain.is_empty() {
            let (now, rest) = bytes.split_at(bytes.len().min(WRITE_BYTES - self.plain.len()));
            self.plain.extend_from_slice(now);
            bytes = rest;
            if self.plain.len() < WRITE_BYTES {
                return Ok(());
            }
            self.flush()?;
        }
        let (now, rest) = bytes.split_at(bytes.len() - bytes.len() % WRITE_BYTES);
        // What was just hashed is still in the processor's own cache when it is written.
        now.chunks(WRITE_BYTES).try_for_each(|stretch| self.append(stretch))?;
        self.plain.extend_from_slice(rest);
        Ok(())
    }

    fn flush(&mut self) -> Result<(), ContentError> {
        let mut plain = mem::take(&mut self.plain);
        self.append(&plain)?;
        plain.clear();
        self.plain = plain;
        Ok(())
    }

    /// Hashes and writes the next bytes.
    fn append(&mut self, mut bytes: &[u8]) -> Result<(), ContentError> {
        self.hasher.update(bytes);
        while !bytes.is_empty() {
            let open = self.places.last_mut().filter(|last| (last.len as usize) < PIECE_BYTES);
            let room = PIECE_BYTES - open.as_ref().map_or(0, |last| last.len as usize);
            let (now, rest) = bytes.split_at(bytes.len().min(room));
            match open {
                Some(last) => self.growing.extend(last, now)?,
                None => self.places.push(self.growing.append(Form::Waiting, now)?),
            }
            bytes = rest;
        }
        Ok(())
    }

    /// Takes the first `count` pieces as `bring` wrote them to the draft, each in its place.
    ///
    /// # Errors
    /// [`ContentError`] as [`Staging::write`] has it, and what `bring` says; nothing more can be written then.
    pub(crate) fn adopt<E: From<ContentError>>(
        &mut self,
        count: u64,
        bring: impl FnOnce(&mut D) -> Result<Vec<PieceValue>, E>,
    ) -> Result<(), E> {
        assert!(self.size() == 0 && !self.failed, "nothing was written before");
        self.failed = true;
        let end = count * PIECE_BYTES as u64;
        if end > self.limit {
            return Err(ContentError::TooLarge.into());
        }
        let mut pieces = bring(&mut self.growing.draft)?;
        pieces.sort_unstable_by_key(PieceValue::index);
        let len = u32::try_from(PIECE_BYTES).expect("a piece has 1 MiB");
        for piece in &pieces {
            self.hasher.append(piece);
            let offset = piece.index() * PIECE_BYTES as u64;
            self.places.push(Place { offset, len, form: Form::Waiting });
        }
        assert_eq!(self.hasher.size(), end, "all of them were brought");
        self.growing.end = end;
        self.failed = false;
        Ok(())
    }

    /// Ends the Blob and keeps it.
    ///
    /// # Errors
    /// [`ContentError::Abandoned`] after a write that failed, or what the backend says. Nothing is left of it then.
    pub fn finish(mut self, durability: Durability) -> Result<Stored, ContentError> {
        if self.failed {
            return Err(ContentError::Abandoned);
        }
        self.flush()?;
        if self.places.is_empty() {
            // The empty Blob has one piece, which is empty, and of nothing there is nothing to pack.
            self.places.push(self.growing.append(Form::Raw, &[])?);
        }
        let pieces = self.hasher.finish().map_err(|_| ContentError::TooLarge)?;
        self.growing.keep(&pieces, &self.places, durability)
    }
}

/// A Blob whose pieces come from others, packed and in any order. Each is checked before it is kept, so a Blob that is
/// finished is whole and true. Dropped before its end, it leaves nothing but what its draft does.
#[derive(Debug)]
pub struct Incoming<D> {
    growing: Growing<D>,
    pieces: Pieces,
    /// One a piece.
    places: Vec<Option<Place>>,
    missing: u64,
    packers: Arc<Packers>,
}

impl<D: Draft> Incoming<D> {
    pub(crate) fn new(draft: D, pieces: Pieces, packers: Arc<Packers>) -> Self {
        let missing = pieces.count();
        // No more than what the list itself takes in memory, except for the one piece that needs no list.
        let places = vec![None; usize::try_from(missing).expect("as many as values in memory, or one")];
        Self { growing: Growing::new(draft), pieces, places, missing, packers }
    }

    /// The same, and notes what it is, so that it can be taken up.
    pub(crate) fn begin(draft: D, pieces: Pieces, packers: Arc<Packers>) -> Result<Self, ContentError> {
        let mut new = Self::new(draft, pieces, packers);
        new.growing.draft.cut(0)?;
        new.growing.draft.note(&part::head(&new.pieces))?;
        Ok(new)
    }

    /// Takes up what was noted of a Blob of that name and size: each piece that is there is read and checked. Nothing
    /// when the notes are not about it.
    pub(crate) fn take_up(
        draft: D,
        (notes, digest, size): (&[u8], &Digest, u64),
        packers: Arc<Packers>,
    ) -> Result<Option<Self>, ContentError> {
        let Some((pieces, rows)) = part::read(notes, digest, size) else { return Ok(None) };
        let mut taken = Self::new(draft, pieces, packers);
        let mut packed = Vec::new();
        for (index, place) in rows {
            packed.resize(place.len as usize, 0);
            // What cannot be read has not reached the disk.
            let read = !taken.has(index) && taken.growing.draft.read_at(place.offset, &mut packed).is_ok();
            let (pieces, piece) = (&taken.pieces, (place.form.packing(), &packed[..]));
            if read && taken.packers.with(|packer| packer.check(pieces, index, piece)).is_ok() {
                taken.growing.end = taken.growing.end.max(place.offset + u64::from(place.len));
                taken.places[usize::try_from(index).expect("the check found such a piece")] = Some(place);
                taken.missing -= 1;
            }
        }
        if taken.missing == taken.pieces.count() {
            return Ok(None);
        }
        taken.growing.draft.cut(taken.growing.end)?;
        Ok(Some(taken))
    }

    /// What checks pieces, for those who do that where it holds up nobody else; see [`Incoming::take`].
    pub(crate) fn packers(&self) -> &Arc<Packers> {
        &self.packers
    }

    /// A piece that came, as it is packed; nothing when it did not. Not checked again: whoever receives it does that.
    ///
    /// # Errors
    /// What the backend says when it cannot read.
    pub fn packed(&self, index: u64) -> Result<Option<(Packing, Bytes)>, ContentError> {
        let place = usize::try_from(index).ok().and_then(|at| self.places.get(at)).copied().flatten();
        let Some(place) = place else { return Ok(None) };
        let len = place.len as usize;
        let mut lent = buffers::filled(len);
        self.growing.draft.read_at(place.offset, &mut lent[..len])?;
        Ok(Some((place.form.packing(), lent.first(len))))
    }

    /// The Blob's name, size and chaining values.
    pub fn pieces(&self) -> &Pieces {
        &self.pieces
    }

    /// How many pieces have not come yet.
    pub fn missing(&self) -> u64 {
        self.missing
    }

    /// Whether a piece is there.
    pub fn has(&self, index: u64) -> bool {
        usize::try_from(index).is_ok_and(|at| self.places.get(at).is_some_and(Option::is_some))
    }

    /// Takes a piece as it is packed, checks what it unpacks to and keeps it as it came. Says whether it was missing;
    /// if not, it is not looked at. However it is packed, no more is unpacked than the piece has bytes.
    ///
    /// # Errors
    /// [`ContentError::Refused`] when it is not that piece; [`ContentError::NoSuchPiece`]; or what the backend says
    /// when it cannot write. After each of them the right piece can still come.
    pub fn put(&mut self, index: u64, packing: Packing, packed: &[u8]) -> Result<bool, ContentError> {
        if self.has(index) {
            return Ok(false);
        }
        check(&self.packers, &self.pieces, (index, packing, packed))?;
        self.take(index, packing, packed)
    }

    /// The same for a piece that [`check`] found to be right.
    pub(crate) fn take(&mut self, index: u64, packing: Packing, packed: &[u8]) -> Result<bool, ContentError> {
        if self.has(index) {
            return Ok(false);
        }
        let place = self.growing.append(packing.into(), packed)?;
        self.growing.draft.note(&part::row(index, &place))?;
        self.places[usize::try_from(index).expect("the check found such a piece")] = Some(place);
        self.missing -= 1;
        Ok(true)
    }

    /// Ends the Blob, all of whose pieces have come, and keeps it.
    ///
    /// # Errors
    /// [`ContentError::Missing`] when they have not, or what the backend says. Nothing is left of it then.
    pub fn finish(self, durability: Durability) -> Result<Stored, ContentError> {
        let Some(places) = self.places.into_iter().collect::<Option<Vec<_>>>() else {
            return Err(ContentError::Missing { digest: *self.pieces.digest(), missing: self.missing });
        };
        self.growing.keep(&self.pieces, &places, durability)
    }
}

/// Whether this is a piece of a Blob, as it is packed. However it is packed, no more is unpacked than the piece has
/// bytes.
///
/// # Errors
/// [`ContentError::Refused`] when it is not that piece, or [`ContentError::NoSuchPiece`].
pub(crate) fn check(
    packers: &Packers,
    pieces: &Pieces,
    (index, packing, packed): (u64, Packing, &[u8]),
) -> Result<(), ContentError> {
    let digest = *pieces.digest();
    packers.with(|packer| packer.check(pieces, index, (packing, packed))).map_err(|flaw| match flaw {
        Flaw::Piece(PieceError::NoSuchPiece { index, count }) => {
            ContentError::NoSuchPiece { digest, index, count }
        }
        source => ContentError::Refused { digest, index, source },
    })
}

#[cfg(test)]
mod tests {
    use std::io;
    use std::path::Path;

    use super::*;
    use crate::content::contract::random;

    /// Has room for so many bytes.
    struct Small(u64);

    impl Draft for Small {
        fn write_at(&mut self, offset: u64, bytes: &[u8]) -> Result<(), ContentError> {
            if offset + bytes.len() as u64 <= self.0 {
                return Ok(());
            }
            Err(ContentError::io("write", Path::new("x"), io::ErrorKind::StorageFull.into()))
        }

        fn read_at(&self, _: u64, _: &mut [u8]) -> Result<(), ContentError> {
            Ok(())
        }

        fn cut(&mut self, _: u64) -> Result<(), ContentError> {
            Ok(())
        }

        fn keep(self, _: &Digest, _: Durability) -> Result<Arrival, ContentError> {
            Ok(Arrival::New)
        }

        fn replace(self, _: &Digest) -> Result<bool, ContentError> {
            Ok(false)
        }
    }

    #[test]
    fn a_stream_with_a_gap_is_never_finished() {
        let mut staging = Staging::new(Small(PIECE_BYTES as u64));
        staging.write(&random(PIECE_BYTES)).unwrap();
        assert!(matches!(staging.write(&random(PIECE_BYTES)), Err(ContentError::Full { .. })));
        assert!(matches!(staging.write(b""), Err(ContentError::Abandoned)));
        assert!(matches!(staging.finish(Durability::Fast), Err(ContentError::Abandoned)));
        // The last piece, and the table.
        for room in [0, 5] {
            let mut staging = Staging::new(Small(room));
            staging.write(b"hello").unwrap();
            assert!(matches!(staging.finish(Durability::Fast), Err(ContentError::Full { .. })));
        }
    }

    #[test]
    fn a_piece_that_found_no_room_can_come_again() {
        let data = random(2 * PIECE_BYTES);
        let mut hasher = PieceHasher::new();
        hasher.update(&data);
        let packers = Arc::<Packers>::default();
        let mut incoming = Incoming::new(Small(PIECE_BYTES as u64), hasher.finish().unwrap(), packers);
        let (first, second) = data.split_at(PIECE_BYTES);
        incoming.put(1, Packing::Raw, second).unwrap();
        assert!(matches!(incoming.put(0, Packing::Raw, first), Err(ContentError::Full { .. })));
        assert_eq!((incoming.missing(), incoming.has(0)), (1, false));
        incoming.growing.draft.0 *= 3;
        assert!(incoming.put(0, Packing::Raw, first).unwrap());
        assert!(incoming.finish(Durability::Fast).unwrap().new);
    }

    #[test]
    fn no_stream_is_longer_than_the_largest_blob() {
        let mut staging = Staging::new(Small(u64::MAX));
        // A terabyte takes too long; what counts is only the sum.
        staging.limit = 10;
        staging.write(&[0; 10]).unwrap();
        assert!(matches!(staging.write(&[0]), Err(ContentError::TooLarge)));
        assert!(matches!(staging.finish(Durability::Fast), Err(ContentError::Abandoned)));
    }
}
