// SPDX-License-Identifier: MIT OR Apache-2.0
//! How much room the disk has left, and when writing stops so that others have some too.

use std::fmt;
use std::io;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::content::ContentError;
use crate::gc::budget::Floor;
use crate::observe::clock;
use crate::plan::Moment;

/// How often the system is asked at most, while there is room by what it said.
const EVERY: Duration = Duration::from_millis(250);
/// The same where there is none: somebody may just have made some.
const EVERY_REFUSAL: Duration = Duration::from_millis(10);

/// What a disk has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Space {
    /// Bytes that may still be written.
    pub free: u64,
    /// Bytes in all.
    pub total: u64,
}

impl Space {
    /// What the disk of this folder has.
    ///
    /// # Errors
    /// When the system does not say.
    pub fn of(path: &Path) -> io::Result<Self> {
        let found = rustix::fs::statvfs(path)?;
        let bytes = |blocks: u64| blocks.saturating_mul(found.f_frsize);
        Ok(Self { free: bytes(found.f_bavail), total: bytes(found.f_blocks) })
    }
}

type Probe = Box<dyn Fn(&Path) -> io::Result<Space> + Send + Sync>;

/// The room of one folder. What was let in since the system was last asked counts as taken.
pub(crate) struct Room {
    path: PathBuf,
    floor: Floor,
    probe: Probe,
    seen: Mutex<Option<(Moment, Space)>>,
}

impl fmt::Debug for Room {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Room").field("path", &self.path).field("floor", &self.floor).finish_non_exhaustive()
    }
}

impl Room {
    /// The room below `path`, of which `floor` is kept free.
    pub(crate) fn new(path: &Path, floor: Floor) -> Self {
        Self::with(path, floor, Box::new(Space::of))
    }

    fn with(path: &Path, floor: Floor, probe: Probe) -> Self {
        Self { path: path.to_owned(), floor, probe, seen: Mutex::default() }
    }

    /// What there is, as of a moment ago.
    pub(crate) fn space(&self) -> Result<Space, ContentError> {
        self.look(clock::moment(), 0, EVERY)
    }

    /// Takes room for so many bytes.
    ///
    /// # Errors
    /// [`ContentError::Floor`].
    pub(crate) fn take(&self, bytes: u64) -> Result<(), ContentError> {
        self.take_at(clock::moment(), bytes)
    }

    /// Whether so many bytes may be written for a while to make something smaller: down to half of what is kept free.
    ///
    /// # Errors
    /// [`ContentError::Floor`].
    pub(crate) fn lend(&self, bytes: u64) -> Result<(), ContentError> {
        let Ok(space) = self.space() else { return Ok(()) };
        let floor = self.floor.of(space.total) / 2;
        if space.free.saturating_sub(bytes) >= floor {
            return Ok(());
        }
        Err(ContentError::Floor { path: self.path.clone(), free: space.free, floor })
    }

    fn take_at(&self, now: Moment, bytes: u64) -> Result<(), ContentError> {
        // Where the system does not say what there is, writing will tell.
        let look = |every| self.look(now, 0, every).map(|space| (space.free, self.floor.of(space.total)));
        let refused = |(free, floor): &(u64, u64)| free.saturating_sub(bytes) < *floor;
        let Ok(mut room) = look(EVERY) else { return Ok(()) };
        if refused(&room) {
            room = look(EVERY_REFUSAL).unwrap_or(room);
        }
        if refused(&room) {
            let (free, floor) = room;
            return Err(ContentError::Floor { path: self.path.clone(), free, floor });
        }
        self.look(now, bytes, EVERY).map(drop)
    }

    fn look(&self, now: Moment, taken: u64, every: Duration) -> Result<Space, ContentError> {
        let mut seen = self.seen.lock().unwrap_or_else(PoisonError::into_inner);
        let (at, mut space) = match *seen {
            Some((at, space)) if now.since(at) < every => (at, space),
            _ => {
                let space = (self.probe)(&self.path);
                (now, space.map_err(|error| ContentError::io("ask for room below", &self.path, error))?)
            }
        };
        space.free = space.free.saturating_sub(taken);
        *seen = Some((at, space));
        Ok(space)
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};

    use super::*;
    use crate::gc::budget::Amount;

    fn at(millis: u64) -> Moment {
        Moment::after_start(Duration::from_millis(millis))
    }

    /// A disk of 1,000,000 bytes with so many free, and how often it was asked.
    fn disk(floor: Floor) -> (Room, Arc<AtomicU64>, Arc<AtomicUsize>) {
        let (free, asked) = (Arc::new(AtomicU64::new(100_000)), Arc::new(AtomicUsize::new(0)));
        let (has, count) = (Arc::clone(&free), Arc::clone(&asked));
        let probe = move |_: &Path| {
            count.fetch_add(1, Ordering::SeqCst);
            Ok(Space { free: has.load(Ordering::SeqCst), total: 1_000_000 })
        };
        (Room::with(Path::new("there"), floor, Box::new(probe)), free, asked)
    }

    #[test]
    fn writing_ends_at_the_floor_and_goes_on_above_it() {
        for floor in [Amount::Bytes(50_000), Amount::Share(5_000)] {
            let (room, free, asked) = disk(Floor(Some(floor)));
            room.take_at(at(0), 50_000).unwrap();
            let error = room.take_at(at(1), 1).unwrap_err();
            let ContentError::Floor { free: 50_000, floor: 50_000, .. } = error else { panic!("{error}") };
            let said = "no room to write below there: 50000 bytes are free, and 50000 are to stay so";
            assert_eq!(error.to_string(), said);
            room.take_at(at(2), 0).unwrap();
            assert_eq!(asked.load(Ordering::SeqCst), 1, "what was let in is taken off without asking again");
            free.store(60_000, Ordering::SeqCst);
            assert!(room.take_at(at(9), 1).is_err());
            room.take_at(at(10), 5_000).unwrap();
            room.take_at(at(11), 5_000).unwrap();
            assert!(room.take_at(at(12), 1).is_err());
            assert_eq!(asked.load(Ordering::SeqCst), 2);
            room.take_at(at(260), 0).unwrap();
            assert_eq!(asked.load(Ordering::SeqCst), 3);
        }
    }

    #[test]
    fn the_usual_floor_is_the_smaller_one() {
        let (room, ..) = disk(Floor::default());
        assert_eq!(room.floor.of(1_000_000), 20_000);
        assert_eq!(room.floor.of(1 << 40), 1 << 30);
        assert!(room.take_at(at(0), 80_001).is_err());
        room.lend(90_000).unwrap();
        assert!(room.lend(90_001).is_err());
        room.take_at(at(0), 80_000).unwrap();
    }

    #[test]
    fn a_disk_that_does_not_say_is_written_to() {
        let probe = |_: &Path| Err(io::ErrorKind::Unsupported.into());
        let room = Room::with(Path::new("x"), Floor::default(), Box::new(probe));
        room.take_at(at(0), u64::MAX).unwrap();
        assert!(matches!(room.space(), Err(ContentError::Io { .. })));
        let here = Space::of(&std::env::temp_dir()).unwrap();
        assert!(here.free <= here.total && here.total > 0);
    }
}
