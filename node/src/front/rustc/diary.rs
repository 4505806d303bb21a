// SPDX-License-Identifier: MIT OR Apache-2.0
//! What became of the last builds, unit by unit: a file for each run of cargo in the node's home. Each call of the wrapper
//! appends one line to the file of the cargo that called it; there are only so many files, each only so long, and
//! nothing that goes wrong with them is of any account to a build.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use crate::ahead::run::Run;
use crate::observe::clock;

/// How many builds are remembered.
const MAX_BUILDS: usize = 32;
/// Most bytes that are kept of one build: some three thousand units.
const MAX_FILE: u64 = 4 << 20;
/// Most bytes of one line.
const MAX_LINE: usize = 64 * 1024;
/// Most bytes that are read of what cargo was called with.
const MAX_COMMAND: u64 = 16 * 1024;
/// How the names of these files end.
const ENDING: &str = "jsonl";

/// The first line of a build.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Header {
    /// When it began, in milliseconds since 1970.
    pub at_ms: u64,
    /// What cargo was called with, its own name first.
    pub command: Vec<String>,
    /// The folder in which it was called.
    pub folder: String,
    /// The toolchain that rustup was told to use.
    pub toolchain: Option<String>,
}

impl Header {
    /// Of a cargo that runs.
    pub(super) fn of(run: &Run) -> Self {
        let mut command = Vec::new();
        let file = File::open(format!("/proc/{}/cmdline", run.pid));
        let _ = file.and_then(|file| file.take(MAX_COMMAND).read_to_end(&mut command));
        let command = command.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned());
        let mut command: Vec<_> = command.collect();
        // Each word ends with a zero.
        command.pop();
        let folder = fs::read_link(format!("/proc/{}/cwd", run.pid)).unwrap_or_default();
        Self {
            at_ms: clock::now().as_millis(),
            command,
            folder: folder.to_str().unwrap_or_default().to_owned(),
            toolchain: std::env::var("RUSTUP_TOOLCHAIN").ok(),
        }
    }
}

/// What became of one unit.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Row {
    /// The crate, with `_`.
    #[serde(rename = "crate")]
    pub crate_name: String,
    /// The package and its version.
    pub package: String,
    /// What it makes.
    pub kind: String,
    /// `restored`, `compiled`, `remapped` or `passed`.
    pub outcome: String,
    /// Why it was not restored, or not published.
    pub reason: Option<String>,
    /// Of a unit that was not found: the first field of its key that differs from the most similar one before.
    pub differs: Option<String>,
    /// Whether the cache has heard of what was compiled, and had no objection.
    pub published: bool,
    /// Its key, in hexadecimal digits.
    pub key: Option<String>,
    /// The key of the list of what was read beside what the unit's own key holds, where there is one.
    pub list: Option<String>,
    /// The key's Recipe.
    pub recipe: Option<String>,
    /// The Project.
    pub project: String,
    /// How long the wrapper took, all in all.
    pub ms: f64,
    /// What compiling it cost, in milliseconds of a processor.
    pub cost_ms: Option<u64>,
    /// Bytes of its outputs.
    pub bytes: u64,
    /// The Digest of the output that the cache holds.
    pub output: Option<String>,
    /// What the names of its files have in common.
    pub stem: String,
    /// The same of the libraries that it uses.
    pub externs: Vec<String>,
}

/// A build that is remembered.
#[derive(Debug, Clone)]
pub struct Build {
    /// The run's name.
    pub name: String,
    /// How it began.
    pub header: Header,
    /// Its units, in the order in which they ended.
    pub rows: Vec<Row>,
    /// Lines that make no sense.
    pub unreadable: usize,
}

/// Where builds are remembered: a folder of a home that exists.
pub fn folder(home: &Path) -> PathBuf {
    home.join("builds")
}

/// Says that a build begins; gives whether nobody has said so before.
pub(super) fn begins(folder: &Path, run: &Run) -> bool {
    let mark = folder.join(format!("{}.begun", run.name));
    let make = || OpenOptions::new().write(true).create_new(true).open(&mark);
    match make() {
        Ok(_) => true,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir(folder).and_then(|()| make()).is_ok()
        }
        Err(_) => false,
    }
}

/// Appends what became of a unit, at once, so that lines of several processes do not mix.
pub(super) fn append(folder: &Path, run: &Run, row: &Row) -> io::Result<()> {
    let path = folder.join(format!("{}.{ENDING}", run.name));
    let mut line = serde_json::to_vec(row)?;
    line.push(b'\n');
    if line.len() > MAX_LINE {
        return Ok(());
    }
    let mut file = match OpenOptions::new().append(true).open(&path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return first(folder, (run, &path), &line),
        file => file?,
    };
    if file.metadata()?.len() > MAX_FILE {
        return Ok(());
    }
    file.write_all(&line)
}

/// The first line of a build, for which others make room.
fn first(folder: &Path, (run, path): (&Run, &Path), line: &[u8]) -> io::Result<()> {
    // Not the folders above: without a home there is nothing to remember it in.
    if let Err(error) = fs::create_dir(folder)
        && error.kind() != io::ErrorKind::AlreadyExists
    {
        return Err(error);
    }
    let mut text = serde_json::to_vec(&Header::of(run))?;
    text.push(b'\n');
    text.extend_from_slice(line);
    let mut options = OpenOptions::new();
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    let mut file = match options.append(true).create_new(true).open(path) {
        Ok(file) => file,
        // Somebody else was first.
        Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {
            return OpenOptions::new().append(true).open(path)?.write_all(line);
        }
        Err(error) => return Err(error),
    };
    file.write_all(&text)?;
    prune(folder)
}

/// Removes the oldest builds when there are too many.
fn prune(folder: &Path) -> io::Result<()> {
    let mut files: Vec<_> =
        fs::read_dir(folder)?.filter_map(Result::ok).filter(|file| file.path().is_file()).collect();
    if files.len() <= 2 * MAX_BUILDS {
        return Ok(());
    }
    files.sort_by_cached_key(|file| file.metadata().and_then(|metadata| metadata.modified()).ok());
    let surplus = files.len() - 2 * MAX_BUILDS;
    files.iter().take(surplus).try_for_each(|file| fs::remove_file(file.path()))
}

/// The names of the builds that are remembered, the last one first.
///
/// # Errors
/// When the folder cannot be read; one that is not there holds none.
pub fn names(home: &Path) -> io::Result<Vec<String>> {
    let files = match fs::read_dir(folder(home)) {
        Ok(files) => files,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
        Err(error) => return Err(error),
    };
    let mut files: Vec<_> = files
        .filter_map(Result::ok)
        .filter(|file| file.path().extension().is_some_and(|ending| ending == ENDING))
        .collect();
    files.sort_by_cached_key(|file| {
        std::cmp::Reverse(file.metadata().and_then(|metadata| metadata.modified()).ok())
    });
    let name = |file: fs::DirEntry| Some(file.path().file_stem()?.to_str()?.to_owned());
    Ok(files.into_iter().filter_map(name).collect())
}

/// A build that is remembered.
///
/// # Errors
/// When its file cannot be read.
pub fn read(home: &Path, name: &str) -> io::Result<Build> {
    let mut text = Vec::new();
    let file = File::open(folder(home).join(format!("{name}.{ENDING}")))?;
    // What several appended at its end may reach beyond the bound.
    file.take(2 * MAX_FILE).read_to_end(&mut text)?;
    Ok(parse(name, &text))
}

/// What the text of a file says.
pub fn parse(name: &str, text: &[u8]) -> Build {
    let mut lines = text.split(|byte| *byte == b'\n').filter(|line| !line.is_empty());
    let header = lines.next().and_then(|line| serde_json::from_slice(line).ok()).unwrap_or_default();
    let (mut rows, mut unreadable) = (Vec::new(), 0);
    for line in lines {
        match serde_json::from_slice(line) {
            Ok(row) => rows.push(row),
            Err(_) => unreadable += 1,
        }
    }
    Build { name: name.to_owned(), header, rows, unreadable }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn run(name: &str) -> Run {
        Run { name: name.to_owned(), pid: std::process::id() }
    }

    fn row(name: &str) -> Row {
        Row { crate_name: name.to_owned(), ..Row::default() }
    }

    #[test]
    fn what_became_of_units_is_told_again_and_nonsense_is_counted() {
        let home = tempfile::tempdir().unwrap();
        let folder = folder(home.path());
        assert_eq!(names(home.path()).unwrap(), Vec::<String>::new());
        append(&folder, &run("one"), &row("a")).unwrap();
        append(&folder, &run("one"), &row("b")).unwrap();
        OpenOptions::new().append(true).open(folder.join("one.jsonl")).unwrap().write_all(b"x\n").unwrap();
        append(&folder, &run("one"), &row("c")).unwrap();
        let build = read(home.path(), "one").unwrap();
        assert_eq!(build.rows, [row("a"), row("b"), row("c")]);
        assert_eq!(build.unreadable, 1);
        assert!(
            build.header.at_ms > 0 && !build.header.command.is_empty() && !build.header.folder.is_empty()
        );
        let mode = fs::metadata(folder.join("one.jsonl")).unwrap().permissions();
        assert_eq!(std::os::unix::fs::PermissionsExt::mode(&mode) & 0o077, 0);
    }

    #[test]
    fn what_is_kept_is_bounded_and_needs_a_home() {
        let home = tempfile::tempdir().unwrap();
        let folder = folder(home.path());
        append(&folder, &run("long"), &row("a")).unwrap();
        let path = folder.join("long.jsonl");
        File::options().write(true).open(&path).unwrap().set_len(MAX_FILE + 1).unwrap();
        append(&folder, &run("long"), &row("b")).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), MAX_FILE + 1);
        let long = Row { externs: vec!["x".repeat(MAX_LINE)], ..row("c") };
        append(&folder, &run("short"), &row("a")).unwrap();
        append(&folder, &run("short"), &long).unwrap();
        assert_eq!(read(home.path(), "short").unwrap().rows, [row("a")]);
        for number in 0..3 * MAX_BUILDS {
            append(&folder, &run(&number.to_string()), &row("a")).unwrap();
        }
        assert_eq!(fs::read_dir(&folder).unwrap().count(), 2 * MAX_BUILDS);
        let nowhere = home.path().join("no/builds");
        assert!(append(&nowhere, &run("x"), &row("a")).is_err());
        assert!(!nowhere.parent().unwrap().exists());
    }

    #[test]
    fn only_one_begins_a_build() {
        let home = tempfile::tempdir().unwrap();
        let folder = folder(home.path());
        assert!(begins(&folder, &run("one")));
        assert!(!begins(&folder, &run("one")));
        assert!(begins(&folder, &run("two")));
        assert!(!begins(&home.path().join("no/builds"), &run("one")));
    }
}
