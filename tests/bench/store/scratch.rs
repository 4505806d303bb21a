// SPDX-License-Identifier: MIT OR Apache-2.0
//! Where a part works, what it says, and how much of everything it takes.

use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;
use std::time::Duration;

use tempfile::TempDir;

use crate::measure::Figure;

/// How long nothing may change until background work counts as done.
const QUIET: u32 = 15;
/// How long background work is waited for at most, in seconds.
const PATIENCE: u32 = 300;

/// One part's folder, and its answer.
pub(crate) struct Report {
    folder: TempDir,
    name: &'static str,
    json: bool,
}

impl Report {
    /// Makes the folder, and the heading.
    pub(crate) fn new(name: &'static str, json: bool) -> Self {
        let parent = match std::env::var_os("POTLUCK_BENCH_DIR") {
            Some(folder) => PathBuf::from(folder),
            None => PathBuf::from(env!("CARGO_TARGET_TMPDIR")),
        };
        std::fs::create_dir_all(&parent).expect("the folder for benchmarks can be made");
        let folder = tempfile::Builder::new().prefix("b").tempdir_in(parent);
        let folder = folder.expect("a temporary folder can be made");
        let this = Self { folder, name, json };
        if !json {
            this.say(&format!("\n{name}"));
        }
        this
    }

    /// A path in the part's folder.
    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The part's folder.
    pub(crate) fn folder(&self) -> &Path {
        self.folder.path()
    }

    #[expect(clippy::print_stdout, reason = "the answer of a benchmark")]
    #[expect(clippy::unused_self, reason = "only a report prints")]
    fn say(&self, line: &str) {
        println!("{line}");
    }

    /// Says a figure.
    pub(crate) fn figure(&self, figure: &Figure) {
        figure.print(self.json);
    }

    /// Says under which conditions something was measured, or why it was not.
    pub(crate) fn note(&self, note: &str) {
        if self.json {
            self.say(&serde_json::json!({ "v": 1, "part": self.name, "note": note }).to_string());
        } else {
            self.say(&format!("  ({note})"));
        }
    }
}

/// Takes that much memory, uses it and gives it back. A virtual machine may have to ask its host for memory that it has
/// not used for some seconds, at ten times what writing to it costs otherwise; whoever writes next does not, then.
pub(crate) fn warm(bytes: usize) {
    const PAGE_BYTES: usize = 4096;
    let mut room = vec![0_u8; bytes];
    room.iter_mut().step_by(PAGE_BYTES).for_each(|byte| *byte = 1);
    std::hint::black_box(room);
}

/// `whole`, or a small fraction of it when only that it works is to be seen.
pub(crate) fn scaled(whole: usize, small: usize) -> usize {
    static SMALL: OnceLock<bool> = OnceLock::new();
    let is_small =
        SMALL.get_or_init(|| std::env::var_os("POTLUCK_BENCH_SCALE").is_some_and(|it| it == "small"));
    if *is_small { small } else { whole }
}

/// Every file below a folder, in order.
pub(crate) fn walk(folder: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![folder.to_owned()];
    while let Some(folder) = folders.pop() {
        let Ok(entries) = std::fs::read_dir(&folder) else { continue };
        for entry in entries.flatten() {
            match entry.file_type() {
                Ok(kind) if kind.is_dir() => folders.push(entry.path()),
                Ok(kind) if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    files
}

/// What a file, or the files below a folder, take of the disk, in bytes.
pub(crate) fn on_disk(path: &Path) -> u64 {
    let blocks = |path: &PathBuf| path.metadata().map_or(0, |metadata| metadata.blocks());
    let files = if path.is_file() { vec![path.to_owned()] } else { walk(path) };
    files.iter().map(blocks).sum::<u64>() * 512
}

/// Their length, in bytes.
pub(crate) fn length(folder: &Path) -> u64 {
    walk(folder).iter().filter_map(|path| path.metadata().ok()).map(|metadata| metadata.len()).sum()
}

/// Waits until nothing below a folder has changed its size for a while: whatever a daemon does in the background is
/// done then, however it does it. Gives whether it came to that.
pub(crate) fn until_quiet(folder: &Path) -> bool {
    let (mut before, mut quiet) = ((0, 0), 0);
    for _ in 0..PATIENCE {
        let now = (on_disk(folder), walk(folder).len());
        quiet = if now == before { quiet + 1 } else { 0 };
        if quiet == QUIET {
            return true;
        }
        before = now;
        std::thread::sleep(Duration::from_secs(1));
    }
    false
}

/// Removes a file or folder, if it is there.
pub(crate) fn remove(path: &Path) {
    if path.is_dir() {
        std::fs::remove_dir_all(path).expect("a folder of the benchmark's can be removed");
    } else if path.exists() {
        std::fs::remove_file(path).expect("a file of the benchmark's can be removed");
    }
}

/// Does `work` on both halves at once, on two threads.
pub(crate) fn both<T: Sync>(items: &[T], work: impl Fn(usize, &T) + Sync) {
    threads(2, |thread| {
        for (at, item) in items.iter().enumerate().filter(|(at, _)| at % 2 == thread) {
            work(at, item);
        }
    });
}

/// Does `work` on several threads at once.
pub(crate) fn threads(count: usize, work: impl Fn(usize) + Sync) {
    std::thread::scope(|scope| {
        for thread in 0..count {
            let work = &work;
            scope.spawn(move || work(thread));
        }
    });
}

/// Whether the program is somewhere in PATH.
pub(crate) fn has_program(name: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    name.contains('/') && Path::new(name).is_file()
        || std::env::split_paths(&path).any(|folder| folder.join(name).is_file())
}
