// SPDX-License-Identifier: MIT OR Apache-2.0
//! Writing the members of a Tree below an open folder: folders first, then files by several threads, links at the end,
//! so that nothing could pass through one of them.

use std::fs::File;
use std::io::{self, Write as _};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use potluck_protocol::digest::Digest;
use potluck_protocol::tree::{Kind, Tree};
use rustix::fs::{AtFlags, Timestamps};
use rustix::io::Errno;

use super::beneath::Beneath;
use super::{Done, Fault, RestoreError, Sink, Source, Told};
use crate::content::files::WRITE_BYTES;

/// Below this many bytes it costs less to copy than to share blocks, and shared ones would waste the rest of a block.
const WORTH_SHARING: u64 = 1 << 20;

/// Where a Tree goes.
pub(super) struct Into<'a> {
    /// The folder.
    pub(super) beneath: &'a Beneath,
    /// How people call it.
    pub(super) path: &'a Path,
    /// The times that everything gets.
    pub(super) times: Option<Timestamps>,
}

/// A file of a Tree.
struct Wanted<'a> {
    path: &'a str,
    digest: &'a Digest,
    size: u64,
    run: bool,
}

/// A Tree in the order in which it is written.
#[derive(Default)]
struct Layout<'a> {
    /// Each after the one it lies in.
    folders: Vec<&'a str>,
    /// The largest first, so that none of them comes last.
    files: Vec<Wanted<'a>>,
    links: Vec<(&'a str, &'a str)>,
}

impl<'a> Layout<'a> {
    fn new(tree: &'a Tree) -> Self {
        let mut layout = Self::default();
        let mut before = "";
        for member in tree.members() {
            let path = member.path.as_str();
            let folder = match &member.kind {
                Kind::Directory => path,
                Kind::File { .. } | Kind::Symlink { .. } => {
                    path.rsplit_once('/').map_or("", |(folder, _)| folder)
                }
            };
            // All below a folder is listed without a gap: what the last member does not lie in is not made yet.
            let ends = folder.match_indices('/').map(|(at, _)| at).chain([folder.len()]);
            let lies_in = |prefix: &str| {
                before.strip_prefix(prefix).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
            };
            let fresh =
                ends.map(|end| &folder[..end]).filter(|prefix| !prefix.is_empty() && !lies_in(prefix));
            layout.folders.extend(fresh);
            before = folder;
            match &member.kind {
                Kind::File { digest, size, executable } => {
                    layout.files.push(Wanted { path, digest, size: *size, run: *executable });
                }
                Kind::Symlink { target } => layout.links.push((path, target)),
                Kind::Directory => {}
            }
        }
        layout.files.sort_by_key(|file| std::cmp::Reverse(file.size));
        layout
    }
}

/// What the threads share.
struct Work<'a, S> {
    source: &'a S,
    into: &'a Into<'a>,
    files: &'a [Wanted<'a>],
    next: AtomicUsize,
    stop: AtomicBool,
    failure: Mutex<Option<RestoreError>>,
    count: Count<'a>,
}

/// Writes a Tree to an empty folder.
pub(super) fn write<S: Source>(
    source: &S,
    tree: &Tree,
    into: &Into<'_>,
    told: Told<'_>,
) -> Result<Done, RestoreError> {
    let layout = Layout::new(tree);
    let Into { beneath, path: place, times } = into;
    let fail = |path: &str, error: Errno| RestoreError::write("make", &place.join(path), error);
    for path in &layout.folders {
        beneath.folder(path).map_err(|error| fail(path, error))?;
    }
    let count = Count { files: AtomicU64::new(0), bytes: AtomicU64::new(0), told };
    let (next, stop, failure) = (AtomicUsize::new(0), AtomicBool::new(false), Mutex::new(None));
    let work = Work { source, into, files: &layout.files, next, stop, failure, count };
    let lanes = source.lanes().clamp(1, layout.files.len().max(1));
    std::thread::scope(|scope| {
        for _ in 1..lanes {
            scope.spawn(|| work.run());
        }
        work.run();
    });
    let Work { failure, count, .. } = work;
    if let Some(error) = failure.into_inner().unwrap_or_else(PoisonError::into_inner) {
        return Err(error);
    }
    for (path, target) in &layout.links {
        beneath.link(path, target).map_err(|error| fail(path, error))?;
    }
    if let Some(times) = times {
        let links = layout.links.iter().map(|(path, _)| *path);
        for path in links.chain(layout.folders.iter().copied()) {
            beneath.times(path, times).map_err(|error| fail(path, error))?;
        }
        rustix::fs::futimens(beneath.root(), times).map_err(|error| fail("", error))?;
    }
    Ok(count.done())
}

impl<S: Source> Work<'_, S> {
    /// Writes files until none is left or one of them fails.
    fn run(&self) {
        let mut room = Vec::new();
        while !self.stop.load(Ordering::Relaxed) {
            let Some(file) = self.files.get(self.next.fetch_add(1, Ordering::Relaxed)) else { return };
            if let Err(error) = self.file(file, &mut room) {
                self.stop.store(true, Ordering::Relaxed);
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            }
        }
    }

    fn file(&self, wanted: &Wanted<'_>, room: &mut Vec<u8>) -> Result<(), RestoreError> {
        let fail = |error: Errno| RestoreError::write("make", &self.into.path.join(wanted.path), error);
        let file = self.into.beneath.file(wanted.path, wanted.run).map_err(fail)?;
        let mut to = Writing { file, left: Some(wanted.size), count: &self.count, why: None };
        let poured = self.source.pour(wanted.digest, &mut to, room);
        to.end(poured).map_err(|why| why.at(&self.into.path.join(wanted.path), wanted.size))?;
        if let Some(times) = &self.into.times {
            rustix::fs::futimens(&to.file, times).map_err(fail)?;
        }
        self.count.add(1, 0).then_some(()).ok_or(RestoreError::Stopped)
    }
}

/// Writes one Blob to an open file; gives its size.
pub(super) fn one<S: Source>(
    source: &S,
    (digest, size, path): (&Digest, Option<u64>, &Path),
    file: File,
    told: Told<'_>,
) -> Result<u64, RestoreError> {
    let count = Count { files: AtomicU64::new(0), bytes: AtomicU64::new(0), told };
    let mut to = Writing { file, left: size, count: &count, why: None };
    let poured = source.pour(digest, &mut to, &mut Vec::new());
    to.end(poured).map_err(|why| why.at(path, size.unwrap_or(0)))?;
    Ok(count.done().bytes)
}

/// What was written, by all threads.
struct Count<'a> {
    files: AtomicU64,
    bytes: AtomicU64,
    told: Told<'a>,
}

impl Count<'_> {
    fn add(&self, files: u64, bytes: u64) -> bool {
        self.files.fetch_add(files, Ordering::Relaxed);
        self.bytes.fetch_add(bytes, Ordering::Relaxed);
        (self.told)(self.done())
    }

    fn done(&self) -> Done {
        Done { files: self.files.load(Ordering::Relaxed), bytes: self.bytes.load(Ordering::Relaxed) }
    }
}

/// Why a file was not written.
enum Why {
    Fault(Fault),
    Size,
    Stopped,
}

impl Why {
    fn at(self, path: &Path, size: u64) -> RestoreError {
        let path = path.to_owned();
        match self {
            Self::Fault(Fault::Source(source)) => RestoreError::Source { path, source },
            Self::Fault(Fault::Sink(source)) => RestoreError::Write { what: "write", path, source },
            Self::Size => RestoreError::Size { path, size },
            Self::Stopped => RestoreError::Stopped,
        }
    }
}

/// A file that is being written.
struct Writing<'a> {
    file: File,
    /// How many bytes are to come, if that is known.
    left: Option<u64>,
    count: &'a Count<'a>,
    /// Why it refused what came, when it is not the file system that did.
    why: Option<Why>,
}

impl Writing<'_> {
    fn refuse(&mut self, why: Why) -> io::Error {
        self.why = Some(why);
        io::ErrorKind::InvalidData.into()
    }

    fn took(&mut self, bytes: u64) -> io::Result<()> {
        self.left = self.left.map(|left| left - bytes);
        if self.count.add(0, bytes) { Ok(()) } else { Err(self.refuse(Why::Stopped)) }
    }

    fn end(&mut self, poured: Result<(), Fault>) -> Result<(), Why> {
        match (self.why.take(), poured) {
            (Some(why), _) => Err(why),
            (None, Err(fault)) => Err(Why::Fault(fault)),
            (None, Ok(())) if self.left.is_some_and(|left| left > 0) => Err(Why::Size),
            (None, Ok(())) => Ok(()),
        }
    }
}

impl Sink for Writing<'_> {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.left.is_some_and(|left| bytes.len() as u64 > left) {
            return Err(self.refuse(Why::Size));
        }
        bytes.chunks(WRITE_BYTES).try_for_each(|stretch| self.file.write_all(stretch))?;
        self.took(bytes.len() as u64)
    }

    fn share(&mut self, file: &File, size: u64) -> io::Result<bool> {
        if self.left.is_some_and(|left| size != left) {
            return Err(self.refuse(Why::Size));
        }
        if size < WORTH_SHARING || !share(&self.file, file)? {
            return Ok(false);
        }
        self.file.set_len(size)?;
        self.took(size)?;
        Ok(true)
    }
}

/// Makes one file share the blocks of another, where the file system does such a thing.
#[cfg(target_os = "linux")]
fn share(to: &File, from: &File) -> io::Result<bool> {
    match rustix::fs::ioctl_ficlone(to, from) {
        Ok(()) => Ok(true),
        Err(error @ (Errno::NOSPC | Errno::DQUOT | Errno::IO)) => Err(error.into()),
        // Other file systems, or one and the same that cannot: each has its own word for it.
        Err(_) => Ok(false),
    }
}

#[cfg(not(target_os = "linux"))]
fn share(_: &File, _: &File) -> io::Result<bool> {
    Ok(false)
}

/// Whether a file system takes upper for lower case, or composed for decomposed letters. It is tried out in the folder
/// itself, since there are file systems that do so by folder.
pub(super) fn folds_case(beneath: &Beneath) -> rustix::io::Result<bool> {
    const PROBES: [(&str, &str); 2] = [("potluck", "POTLUCK"), ("potluck-\u{e9}", "potluck-e\u{301}")];
    let root = beneath.root();
    for (name, other) in PROBES {
        match beneath.file(name, false) {
            Ok(_) => {}
            // It does not take such letters at all; then the files that have them fail one by one.
            Err(Errno::INVAL | Errno::ILSEQ) => continue,
            Err(error) => return Err(error),
        }
        let seen = rustix::fs::statat(root, other, AtFlags::SYMLINK_NOFOLLOW);
        rustix::fs::unlinkat(root, name, AtFlags::empty())?;
        if seen.is_ok() {
            return Ok(true);
        }
    }
    Ok(false)
}
