// SPDX-License-Identifier: MIT OR Apache-2.0
//! From a folder to the store: a Tree is made by hashing every file, by several threads and in the order in which the
//! folder is walked; then only what the store lacks is sent. A file that is sent is read twice, which costs little
//! beside storing it; that of an unchanged folder once.

use std::fs::File;
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::sync::{Mutex, PoisonError};

use potluck_protocol::control::{MAX_DATA_BYTES, MAX_KEYS};
use potluck_protocol::digest::Digest;
use potluck_protocol::tree::{Kind, MAX_MEMBERS, Member, Tree, TreeError, TreePath};
use rustix::fd::OwnedFd;
use rustix::fs::{Mode, OFlags, Stat};
use tokio::task::JoinSet;

use super::{Done, Told};
use crate::cache::{Cache, CacheError};
use crate::observe::span;

/// Paths that are handed to a thread at a time.
const BATCH: usize = 64;
/// Such batches that wait.
const QUEUE: usize = 16;
/// How much of a file is read at a time, in bytes: it stays in the processor's cache until it is hashed.
const ROOM: usize = 256 * 1024;
/// Files that are sent at a time.
const SENT: usize = 8;

/// Why something was not stored.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum GatherError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}", path = path.display())]
    Read {
        /// What.
        path: PathBuf,
        /// Why not.
        source: io::Error,
    },
    /// It is neither a file, nor a folder, nor a link.
    #[error("{path} is neither a file, nor a folder, nor a symbolic link", path = .0.display())]
    Special(PathBuf),
    /// Its name or target is not UTF-8.
    #[error("{path} or what it leads to is not named in UTF-8", path = .0.display())]
    Name(PathBuf),
    /// A Tree cannot hold it.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// It changed while it was read.
    #[error("{path} changed while it was read", path = .0.display())]
    Changed(PathBuf),
    /// The door.
    #[error(transparent)]
    Door(#[from] CacheError),
    /// Nobody wants it any more.
    #[error("it is no longer wanted")]
    Stopped,
}

fn unread(path: &Path) -> impl FnOnce(io::Error) -> GatherError {
    move |source| GatherError::Read { path: path.to_owned(), source }
}

/// Makes a Tree of a folder. Nothing is stored yet.
///
/// # Errors
/// [`GatherError`].
pub fn hash(folder: &Path, told: Told<'_>) -> Result<Tree, GatherError> {
    let root = open_folder(folder)?;
    let threads = span::cores();
    let (to, from) = sync_channel(QUEUE);
    let (from, done) = (Mutex::new(from), Mutex::new(Done::default()));
    let hasher = Hashers { root: &root, folder, from, done, told };
    let mut members = std::thread::scope(|scope| {
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(|| hasher.run())).collect();
        let walked = walk(folder, to);
        let mut members = Vec::new();
        let mut failure = None;
        for thread in threads {
            match thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)) {
                Ok(hashed) => members.extend(hashed),
                Err(error) => failure = Some(error),
            }
        }
        // When hashing failed, the walk ended early, and why is what counts.
        failure.map_or(Ok(()), Err)?;
        members.extend(walked?);
        Ok::<_, GatherError>(members)
    })?;
    members.shrink_to_fit();
    Ok(Tree::new(members)?)
}

/// The Digest and the size of one file.
///
/// # Errors
/// [`GatherError`].
pub fn hash_file(path: &Path) -> Result<(Digest, u64), GatherError> {
    let file = File::open(path).map_err(unread(path))?;
    let (digest, size, _) = digest(&file, path, &mut vec![0; ROOM])?;
    Ok((digest, size))
}

fn open_folder(path: &Path) -> Result<OwnedFd, GatherError> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let open = rustix::fs::open(path, flags, Mode::empty());
    open.map_err(|error| unread(path)(error.into()))
}

/// Finds all there is below a folder; hands files on, and gives the rest.
fn walk(folder: &Path, to: SyncSender<Vec<TreePath>>) -> Result<Vec<Member>, GatherError> {
    let (mut rest, mut found) = (Vec::new(), 0);
    let mut batch = Vec::with_capacity(BATCH);
    let mut open = vec![(folder.to_owned(), String::new())];
    while let Some((folder, within)) = open.pop() {
        let mut empty = true;
        for entry in std::fs::read_dir(&folder).map_err(unread(&folder))? {
            let entry = entry.map_err(unread(&folder))?;
            empty = false;
            let path = entry.path();
            let name = entry.file_name();
            let name = name.to_str().ok_or_else(|| GatherError::Name(path.clone()))?;
            let within = if within.is_empty() { name.to_owned() } else { format!("{within}/{name}") };
            let kind = entry.file_type().map_err(unread(&path))?;
            if kind.is_dir() {
                open.push((path, within));
                continue;
            }
            found += 1;
            if found > MAX_MEMBERS {
                return Err(TreeError::TooMany(found).into());
            }
            let within = TreePath::new(&within)?;
            if kind.is_file() {
                batch.push(within);
                if batch.len() == BATCH && to.send(std::mem::take(&mut batch)).is_err() {
                    return Ok(rest);
                }
            } else if kind.is_symlink() {
                let target = std::fs::read_link(&path).map_err(unread(&path))?;
                let target = target.to_str().ok_or(GatherError::Name(path))?.to_owned();
                let link = Member { path: within, kind: Kind::Symlink { target } };
                // Said before anything large is read for nothing.
                link.check()?;
                rest.push(link);
            } else {
                return Err(GatherError::Special(path));
            }
        }
        if empty && !within.is_empty() {
            found += 1;
            rest.push(Member { path: TreePath::new(&within)?, kind: Kind::Directory });
        }
    }
    // Nobody listens any more only after an error, which is told elsewhere.
    let _ = to.send(batch);
    drop(to);
    Ok(rest)
}

/// What the threads that hash share.
struct Hashers<'a> {
    root: &'a OwnedFd,
    folder: &'a Path,
    from: Mutex<Receiver<Vec<TreePath>>>,
    done: Mutex<Done>,
    told: Told<'a>,
}

impl Hashers<'_> {
    fn run(&self) -> Result<Vec<Member>, GatherError> {
        let hashed = self.hash();
        if hashed.is_err() {
            // The walk and the other threads end, since what they would hand on or take is gone.
            let from = std::mem::replace(&mut *lock(&self.from), sync_channel(0).1);
            drop(from);
        }
        hashed
    }

    fn hash(&self) -> Result<Vec<Member>, GatherError> {
        let (mut room, mut members) = (vec![0; ROOM], Vec::new());
        loop {
            let Ok(batch) = lock(&self.from).recv() else { return Ok(members) };
            let mut done = Done::default();
            for path in batch {
                let at = || self.folder.join(path.as_str());
                let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
                let open = rustix::fs::openat(self.root, path.as_str(), flags, Mode::empty());
                let file = File::from(open.map_err(|error| unread(&at())(error.into()))?);
                let (digest, size, executable) =
                    digest(&file, path.as_str(), &mut room).map_err(|error| within(self.folder, error))?;
                done.files += 1;
                done.bytes += size;
                members.push(Member { path, kind: Kind::File { digest, size, executable } });
            }
            let mut all = lock(&self.done);
            all.files += done.files;
            all.bytes += done.bytes;
            if !(self.told)(*all) {
                return Err(GatherError::Stopped);
            }
        }
    }
}

fn lock<T>(what: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    what.lock().unwrap_or_else(PoisonError::into_inner)
}

/// An error about a path as one about that path in a folder.
fn within(folder: &Path, error: GatherError) -> GatherError {
    match error {
        GatherError::Read { path, source } => GatherError::Read { path: folder.join(path), source },
        GatherError::Changed(path) => GatherError::Changed(folder.join(path)),
        error => error,
    }
}

/// Reads a file to its end; gives what it is called, its size in bytes, and whether it may be run.
fn digest(
    mut file: &File,
    path: impl AsRef<Path>,
    room: &mut [u8],
) -> Result<(Digest, u64, bool), GatherError> {
    let path = path.as_ref();
    let stat = |file: &File| rustix::fs::fstat(file).map_err(|error| unread(path)(error.into()));
    let before = stat(file)?;
    let size = u64::try_from(before.st_size).unwrap_or(0);
    let mut read = file.read(room).map_err(unread(path))?;
    let (digest, len) = if read as u64 == size && read < room.len() {
        (Digest::of(&room[..read]), size)
    } else {
        let (mut hasher, mut len) = (blake3::Hasher::new(), 0);
        while read > 0 {
            hasher.update(&room[..read]);
            len += read as u64;
            read = file.read(room).map_err(unread(path))?;
        }
        (Digest::from_bytes(*hasher.finalize().as_bytes()), len)
    };
    let time = |stat: &Stat| (stat.st_size, stat.st_mtime, stat.st_mtime_nsec);
    if len != size || time(&before) != time(&stat(file)?) {
        return Err(GatherError::Changed(path.to_owned()));
    }
    Ok((digest, size, before.st_mode & 0o111 != 0))
}

/// Stores what is not here yet of a Tree that [`hash`] made of a folder, and the Tree; gives how much that was.
///
/// # Errors
/// [`GatherError`]; what was stored before it stays, and is collected when nothing needs it.
pub async fn keep<C>(door: &C, folder: &Path, tree: &Tree) -> Result<Done, GatherError>
where
    C: Cache + Clone + 'static,
{
    let mut files = Vec::new();
    for member in tree.members() {
        if let Kind::File { digest, size, .. } = member.kind {
            files.push((digest, size, member.path.as_str()));
        }
    }
    // Each Blob once.
    files.sort_unstable();
    files.dedup_by_key(|(digest, ..)| *digest);
    let (mut sending, mut done) = (JoinSet::new(), Done::default());
    for some in files.chunks(MAX_KEYS) {
        let missing = door.missing(some.iter().map(|(digest, ..)| *digest).collect()).await?;
        for digest in missing {
            let Ok(at) = some.binary_search_by_key(&digest, |(digest, ..)| *digest) else { continue };
            let (digest, size, path) = some[at];
            if sending.len() == SENT {
                sent(&mut sending).await?;
            }
            let (door, path) = (door.clone(), folder.join(path));
            sending.spawn(async move { send(&door, &path, (digest, size)).await });
            done.files += 1;
            done.bytes += size;
        }
    }
    while !sending.is_empty() {
        sent(&mut sending).await?;
    }
    let bytes = tree.encode();
    if !door.missing(vec![Digest::of(&bytes)]).await?.is_empty() {
        door.write(&bytes[..]).await?;
    }
    Ok(done)
}

async fn sent(sending: &mut JoinSet<Result<(), GatherError>>) -> Result<(), GatherError> {
    match sending.join_next().await {
        Some(Ok(sent)) => sent,
        Some(Err(error)) => std::panic::resume_unwind(error.into_panic()),
        None => Ok(()),
    }
}

/// Stores one file, which has to be what it was when it was hashed.
///
/// # Errors
/// [`GatherError`].
pub async fn send<C: Cache>(door: &C, path: &Path, was: (Digest, u64)) -> Result<(), GatherError> {
    let is = if was.1 < MAX_DATA_BYTES as u64 {
        let from = path.to_owned();
        let bytes = span::blocking(move || std::fs::read(&from)).await.map_err(unread(path))?;
        door.write(&bytes[..]).await?
    } else {
        let from = path.to_owned();
        let file = span::blocking(move || File::open(&from)).await.map_err(unread(path))?;
        door.write_file(file, path).await?
    };
    if is == was { Ok(()) } else { Err(GatherError::Changed(path.to_owned())) }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;
    use std::ffi::OsStr;
    use std::fs;
    use std::ops::Range;
    use std::os::unix::ffi::OsStrExt as _;
    use std::sync::Arc;

    use potluck_protocol::control::Answer;
    use tokio::io::{AsyncRead, AsyncReadExt as _};

    use super::*;
    use crate::cache::{Publication, Question, Stretches};

    /// A door that keeps what is written, and remembers how it was asked.
    #[derive(Clone, Default)]
    struct Shelf(Arc<Mutex<Kept>>);

    #[derive(Default)]
    struct Kept {
        blobs: BTreeMap<Digest, Vec<u8>>,
        asked: Vec<usize>,
        written: usize,
    }

    impl Cache for Shelf {
        async fn lookup(&self, _: Question) -> Result<Vec<Answer>, CacheError> {
            Err(CacheError::Late)
        }

        async fn missing(&self, digests: Vec<Digest>) -> Result<Vec<Digest>, CacheError> {
            let mut kept = lock(&self.0);
            kept.asked.push(digests.len());
            Ok(digests.into_iter().filter(|digest| !kept.blobs.contains_key(digest)).collect())
        }

        async fn read(&self, digest: Digest, _: Option<Range<u64>>) -> Result<Stretches, CacheError> {
            Err(CacheError::NotHere(digest))
        }

        async fn write(&self, mut from: impl AsyncRead + Send + Unpin) -> Result<(Digest, u64), CacheError> {
            let mut bytes = Vec::new();
            from.read_to_end(&mut bytes).await.map_err(CacheError::Source)?;
            let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
            let mut kept = lock(&self.0);
            kept.written += 1;
            kept.blobs.insert(digest, bytes);
            Ok((digest, size))
        }

        async fn publish(&self, _: Publication) -> Result<Digest, CacheError> {
            Err(CacheError::Late)
        }
    }

    #[tokio::test]
    async fn only_what_is_missing_is_sent_and_each_blob_once() {
        let folder = tempfile::tempdir().unwrap();
        for n in 0..=MAX_KEYS {
            fs::write(folder.path().join(n.to_string()), n.to_string()).unwrap();
        }
        fs::write(folder.path().join("again"), "7").unwrap();
        fs::write(folder.path().join("large"), vec![1; 3 * MAX_DATA_BYTES]).unwrap();
        let shelf = Shelf::default();
        let tree = hash(folder.path(), &|_| true).unwrap();
        let done = keep(&shelf, folder.path(), &tree).await.unwrap();
        assert_eq!(done.files, MAX_KEYS as u64 + 2);
        assert_eq!(lock(&shelf.0).asked, [MAX_KEYS, 2, 1], "a message takes no more than it may");
        assert_eq!(lock(&shelf.0).written, MAX_KEYS + 3, "with the tree's own");
        assert!(lock(&shelf.0).blobs.contains_key(&Digest::from(&tree)));
        assert_eq!(keep(&shelf, folder.path(), &tree).await.unwrap(), Done::default());
        fs::write(folder.path().join("large"), "smaller").unwrap();
        let tree = hash(folder.path(), &|_| true).unwrap();
        assert_eq!(keep(&shelf, folder.path(), &tree).await.unwrap(), Done { files: 1, bytes: 7 });
    }

    #[tokio::test]
    async fn what_changes_between_hashing_and_sending_is_found() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for size in [4, 2 * MAX_DATA_BYTES] {
            fs::write(&path, vec![1; size]).unwrap();
            let tree = hash(folder.path(), &|_| true).unwrap();
            fs::write(&path, vec![2; size]).unwrap();
            let changed = keep(&Shelf::default(), folder.path(), &tree).await.unwrap_err();
            assert!(matches!(&changed, GatherError::Changed(at) if *at == path), "{changed}");
        }
    }

    #[test]
    fn a_file_of_another_length_than_it_says_has_changed() {
        // It says that it is empty, and is not.
        let changed = hash_file(Path::new("/proc/self/status")).unwrap_err();
        assert!(matches!(changed, GatherError::Changed(_)), "{changed}");
    }

    #[test]
    fn files_of_every_length_are_hashed_as_a_whole() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        for size in [0, 1, ROOM - 1, ROOM, ROOM + 1, 3 * ROOM] {
            let bytes = vec![3; size];
            fs::write(&path, &bytes).unwrap();
            assert_eq!(hash_file(&path).unwrap(), (Digest::of(&bytes), size as u64));
        }
    }

    #[test]
    fn what_a_tree_cannot_hold_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let hash = || hash(folder.path(), &|_| true);
        let odd = folder.path().join(OsStr::from_bytes(b"\xff"));
        fs::write(&odd, "").unwrap();
        assert!(matches!(hash(), Err(GatherError::Name(path)) if path == odd));
        fs::remove_file(&odd).unwrap();
        for target in ["/etc", "../x", "a/../../x"] {
            let link = folder.path().join("link");
            std::os::unix::fs::symlink(target, &link).unwrap();
            assert!(matches!(hash(), Err(GatherError::Tree(TreeError::Member { .. }))), "{target}");
            fs::remove_file(&link).unwrap();
        }
        let socket = folder.path().join("socket");
        let _bound = std::os::unix::net::UnixListener::bind(&socket).unwrap();
        assert!(matches!(hash(), Err(GatherError::Special(path)) if path == socket));
        let none = folder.path().join("none");
        assert!(matches!(super::hash(&none, &|_| true), Err(GatherError::Read { path, .. }) if path == none));
    }

    #[test]
    fn what_a_tree_cannot_hold_is_said_before_folders_below_are_read() {
        let folder = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc", folder.path().join("link")).unwrap();
        fs::create_dir(folder.path().join("below")).unwrap();
        for n in 0..2 * BATCH {
            fs::write(folder.path().join("below").join(n.to_string()), "").unwrap();
        }
        let read = std::sync::atomic::AtomicU64::new(0);
        let told = |done: Done| {
            read.store(done.files, std::sync::atomic::Ordering::Relaxed);
            true
        };
        assert!(matches!(hash(folder.path(), &told), Err(GatherError::Tree(TreeError::Member { .. }))));
        assert_eq!(read.into_inner(), 0);
    }

    #[test]
    fn the_walk_ends_when_hashing_does() {
        let folder = tempfile::tempdir().unwrap();
        // More than fit between the two.
        for n in 0..3 * BATCH * QUEUE {
            fs::write(folder.path().join(n.to_string()), "").unwrap();
        }
        assert!(matches!(hash(folder.path(), &|_| false), Err(GatherError::Stopped)));
    }
}
