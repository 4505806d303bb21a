// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a program and all that it starts asks of the file system, as the system itself tells.
//!
//! Three processes take part. Whoever wants to know starts a *watcher* (`command`); that starts the program by way of a
//! *doorstep*, which puts a filter (`filter`) on itself before it becomes the program: each system call that names
//! a file stops it, and the watcher is told by ptrace. The watcher is a process of its own so that a server which the
//! program leaves behind, such as that of another compiler cache, goes on to be served when the program has ended: with
//! the filter and without a watcher every one of its calls would fail.
//!
//! * [`seen`] is what was seen: pure.
//! * `filter` is the program for the system's filter.
//! * `tracer` is watcher and doorstep; `near` keeps the two of a stop on one processor.
//!
//! Where the system does not let anybody watch, the watcher says so, and the program is run as ever. Reading the clock,
//! random numbers, and what a processor says of itself are not seen.

#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod filter;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod near;
pub mod seen;
#[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
mod tracer;

use std::ffi::OsString;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixListener;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use tempfile::TempDir;

/// The first word of the watcher's call.
pub const WATCHER: &str = "--potluck-watcher";
/// The first word of the doorstep's call.
pub const DOORSTEP: &str = "--potluck-doorstep";
/// The same for a linker, which is not stopped where it asks where a link leads: what it reads there is seen when it
/// opens it, and what a link says becomes no part of what it makes. More than a third of what would stop it is this, of
/// the folders above its inputs.
pub const OF_LINKER: [&str; 2] = ["--potluck-watcher-of-linker", "--potluck-doorstep-of-linker"];
/// Most bytes of a report: some ten thousand names.
pub(super) const MAX_REPORT: u64 = 32 << 20;

/// Which file it is, how large, and when it was changed. A folder changes when anything is made in it; what is in it
/// counts elsewhere.
pub(super) fn stamp(name: &Path) -> Option<String> {
    let metadata = std::fs::metadata(name).ok()?;
    let times = (metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec());
    Some(match metadata.is_dir() {
        true => seen::FOLDER.to_owned(),
        false => format!("{} {} {} {times:?}", metadata.dev(), metadata.ino(), metadata.len()),
    })
}

/// Where a report will arrive.
pub(super) struct Post {
    folder: TempDir,
    pub(super) listener: UnixListener,
}

impl Post {
    /// A socket that only this user can reach.
    pub(super) fn new() -> io::Result<Self> {
        let folder = tempfile::Builder::new().prefix("potluck-watch-").tempdir()?;
        let listener = UnixListener::bind(folder.path().join("s"))?;
        Ok(Self { folder, listener })
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("s")
    }
}

/// Whether anything can be watched on this system at all.
pub(super) const fn is_possible() -> bool {
    cfg!(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))
}

/// The call of a watcher, by its word, that runs `program`. It keeps out of the terminal's signals, which its program gets.
pub(super) fn command(
    (this, word): (&Path, &str),
    post: &Post,
    program: &std::ffi::OsStr,
    args: impl IntoIterator<Item = OsString>,
) -> Command {
    let group = rustix::process::getpgrp().as_raw_nonzero().to_string();
    let mut command = Command::new(this);
    command.arg(word).arg(post.socket()).arg(group).arg(program).args(args).process_group(0);
    command
}

/// Runs as one of them, when the arguments say so.
pub fn run(args: &[OsString]) -> Option<ExitCode> {
    let (word, rest) = args.split_first()?;
    let of_linker = OF_LINKER.iter().any(|own| word == own);
    if word != WATCHER && word != DOORSTEP && !of_linker {
        return None;
    }
    #[cfg(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64")))]
    return Some(if word == WATCHER || word == OF_LINKER[0] {
        tracer::watch(of_linker, rest)
    } else {
        tracer::doorstep(of_linker, rest)
    });
    #[cfg(not(all(target_os = "linux", any(target_arch = "x86_64", target_arch = "aarch64"))))]
    return Some(ExitCode::from(u8::try_from(rest.len().min(1)).unwrap_or(1)));
}
