// SPDX-License-Identifier: MIT OR Apache-2.0
//! Several threads that bring a file into a draft, each of them some of its pieces: what one thread reads, hashes and
//! writes by stretches stays in its processor's cache on the way. To hand pieces from one thread to another costs more
//! than it gains: publishing 5 MB on two cores took 4.7 ms in that way, and 4.3 by one thread alone.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt as _;
use std::panic::resume_unwind;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;

use potluck_protocol::piece::{PIECE_BYTES, PieceValue, WholePiece};

use crate::content::ContentError;
use crate::content::disk::DiskDraft;
use crate::content::files::WRITE_BYTES;
use crate::content::staging::Staging;

/// Most threads for one file, whose writes the file system takes one after the other.
pub(crate) const MAX_LANES: usize = 4;

/// Why a file did not come into a draft.
#[derive(Debug)]
pub(crate) enum LaneError {
    /// It cannot be read, or has become shorter.
    Source(io::Error),
    /// It cannot be written.
    Content(ContentError),
}

impl From<ContentError> for LaneError {
    fn from(error: ContentError) -> Self {
        Self::Content(error)
    }
}

impl Staging<DiskDraft> {
    /// Takes the first `count` pieces of a file, which must not be all of it, as the first ones of the Blob. There is a
    /// thread for each of the rooms, which have [`WRITE_BYTES`] each; `leave` is asked before so many bytes are written.
    ///
    /// # Errors
    /// [`LaneError`]; nothing more can be written then.
    ///
    /// # Panics
    /// When something was written before.
    pub(crate) fn take_pieces(
        &mut self,
        (from, count): (&File, u64),
        rooms: &mut [&mut [u8]],
        leave: &(dyn Fn(u64) -> Result<(), ContentError> + Sync),
    ) -> Result<(), LaneError> {
        let next = AtomicU64::new(0);
        self.adopt(count, |draft| {
            let shared = &*draft;
            let lane = |room: &mut [u8]| -> Result<Vec<PieceValue>, LaneError> {
                let mut done = Vec::new();
                loop {
                    let index = next.fetch_add(1, Ordering::Relaxed);
                    if index >= count {
                        return Ok(done);
                    }
                    let piece = take(shared, (from, index), room, leave);
                    // The others need not go on with what is given up.
                    done.push(piece.inspect_err(|_| next.store(count, Ordering::Relaxed))?);
                }
            };
            let lane = &lane;
            let done: Result<Vec<_>, _> = thread::scope(|scope| {
                let (first, others) = rooms.split_first_mut().expect("there is a room at least");
                let others: Vec<_> = others.iter_mut().map(|room| scope.spawn(move || lane(room))).collect();
                let first = lane(first);
                let others =
                    others.into_iter().map(|other| other.join().unwrap_or_else(|panic| resume_unwind(panic)));
                std::iter::once(first).chain(others.collect::<Vec<_>>()).collect()
            });
            let done = done?.concat();
            draft.brought(count * PIECE_BYTES as u64);
            Ok(done)
        })
    }
}

/// Brings one piece into its place.
fn take(
    draft: &DiskDraft,
    (from, index): (&File, u64),
    room: &mut [u8],
    leave: &(dyn Fn(u64) -> Result<(), ContentError> + Sync),
) -> Result<PieceValue, LaneError> {
    let mut piece = WholePiece::new(index);
    for at in piece.range().step_by(WRITE_BYTES) {
        from.read_exact_at(room, at).map_err(LaneError::Source)?;
        leave(WRITE_BYTES as u64)?;
        piece.update(room);
        draft.write_beside(at, room)?;
    }
    draft.begin_to_bring(piece.range());
    Ok(piece.finish())
}

const _: () = assert!(PIECE_BYTES.is_multiple_of(WRITE_BYTES));

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;
    use crate::content::contract::random;
    use crate::content::disk::DiskContent;
    use crate::content::{Content as _, Durability};
    use potluck_protocol::digest::Digest;

    fn file(data: &[u8]) -> File {
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(data).unwrap();
        file
    }

    #[test]
    fn what_lanes_bring_is_what_is_written() {
        let folder = tempfile::tempdir().unwrap();
        let content = DiskContent::open(folder.path()).unwrap();
        for (count, more) in [(1, 1), (2, PIECE_BYTES), (9, 5)] {
            let data = random(count * PIECE_BYTES + more);
            let mut rooms = [[0; WRITE_BYTES], [1; WRITE_BYTES], [2; WRITE_BYTES]];
            let mut rooms: Vec<_> = rooms.iter_mut().map(<[u8; WRITE_BYTES]>::as_mut_slice).collect();
            let mut staging = content.begin().unwrap();
            staging.take_pieces((&file(&data), count as u64), &mut rooms, &|_| Ok(())).unwrap();
            assert_eq!(staging.size(), (count * PIECE_BYTES) as u64);
            staging.write(&data[count * PIECE_BYTES..]).unwrap();
            let digest = staging.finish(Durability::Durable).unwrap().digest;
            assert_eq!(digest, Digest::of(&data));
            let opened = content.open(&digest).unwrap().unwrap();
            assert!(opened.is_as_it_is() && opened.waits());
            let read: Vec<_> =
                (0..opened.pieces().count()).flat_map(|index| opened.read(index).unwrap()).collect();
            assert!(read == data, "{count}");
        }
    }

    #[test]
    fn what_could_not_be_brought_is_never_finished() {
        let folder = tempfile::tempdir().unwrap();
        let content = DiskContent::open(folder.path()).unwrap();
        let file = file(&random(3 * PIECE_BYTES));
        let mut rooms = [vec![0; WRITE_BYTES], vec![0; WRITE_BYTES]];
        let full = |bytes: u64| {
            assert_eq!(bytes, WRITE_BYTES as u64);
            Err(ContentError::Abandoned)
        };
        let leaves: [&(dyn Fn(u64) -> Result<(), ContentError> + Sync); 2] = [&|_| Ok(()), &full];
        // The file is shorter than it was said to be; and there is no room.
        for (count, leave) in [5, 3].into_iter().zip(leaves) {
            let mut staging = content.begin().unwrap();
            let mut rooms: Vec<_> = rooms.iter_mut().map(Vec::as_mut_slice).collect();
            let taken = staging.take_pieces((&file, count), &mut rooms, leave);
            match taken.unwrap_err() {
                LaneError::Source(error) => {
                    assert_eq!((count, error.kind()), (5, io::ErrorKind::UnexpectedEof));
                }
                LaneError::Content(error) => assert!(count == 3 && matches!(error, ContentError::Abandoned)),
            }
            assert!(matches!(staging.write(b"x"), Err(ContentError::Abandoned)));
            assert!(matches!(staging.finish(Durability::Fast), Err(ContentError::Abandoned)));
        }
        let left = walk(folder.path());
        assert_eq!(left, 0, "nothing is left of what was given up");
    }

    fn walk(folder: &std::path::Path) -> usize {
        let entries = std::fs::read_dir(folder).unwrap().map(Result::unwrap);
        entries.map(|entry| if entry.file_type().unwrap().is_dir() { walk(&entry.path()) } else { 1 }).sum()
    }
}
