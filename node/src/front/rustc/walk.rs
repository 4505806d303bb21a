// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which files of a folder count, and how to tell afterwards that they are still the same.

use std::collections::BTreeMap;
use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

use potluck_keys::time::Time;

use super::place::Place;
use super::sources::SourceError;

/// Most files of one unit.
const MAX_FILES: usize = 50_000;
/// Most bytes of all of them.
const MAX_BYTES: u64 = 1 << 30;
/// File systems tell times this exactly, at worst: what was changed so short a time ago may be changed once more
/// without another time.
const COARSE: Duration = Duration::from_secs(2);

/// Endings of object files and dep-info.
pub(super) const OBJECTS: &[&str] = &["o", "obj", "d"];
/// With them, that of the metadata of a crate.
pub(super) const BYPRODUCTS: &[&str] = &["o", "obj", "d", "rmeta"];

/// Which file it was, how large, and when it and what is known of it were changed. The second time cannot be set back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Stamp {
    node: (u64, u64),
    size: u64,
    modified: (i64, i64),
    changed: (i64, i64),
}

impl Stamp {
    pub(super) fn of(metadata: &Metadata) -> Self {
        Self {
            node: (metadata.dev(), metadata.ino()),
            size: metadata.len(),
            modified: (metadata.mtime(), metadata.mtime_nsec()),
            changed: (metadata.ctime(), metadata.ctime_nsec()),
        }
    }

    /// Whether the file may have been changed at `at` or later without getting another stamp.
    pub(super) fn is_young(&self, at: Time) -> bool {
        let seconds = u64::try_from(self.changed.0).unwrap_or_default();
        at.since((UNIX_EPOCH + Duration::from_secs(seconds)).into()) < COARSE
    }
}

/// What kind of thing was found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) is_link: bool,
    stamp: Stamp,
}

/// Which part of a folder counts.
#[derive(Debug, Clone)]
pub(super) struct Walk {
    pub(super) top: PathBuf,
    /// Whether packages inside of the package count, as in what nobody edits.
    pub(super) nested: bool,
    /// Endings of files that do not count.
    pub(super) without: &'static [&'static str],
}

impl Walk {
    /// That of a unit's own package.
    pub(super) fn package(place: &Place) -> Self {
        Self { top: place.package.clone(), nested: place.immutable, without: &[] }
    }

    /// The files and links, by their path from the top. Nothing is opened, so that a folder with too much in it is
    /// given up before time was spent on it. Pipes and sockets are left out: opening one might take forever.
    pub(super) fn list(&self) -> Result<BTreeMap<String, Found>, SourceError> {
        let too_much = || SourceError::TooMuch(self.top.clone());
        let (mut found, mut bytes) = (BTreeMap::new(), 0u64);
        let mut folders = vec![self.top.clone()];
        while let Some(folder) = folders.pop() {
            let failed = |error| SourceError::Read(folder.clone(), error);
            for entry in fs::read_dir(&folder).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
                if kind.is_dir() {
                    folders.extend(self.enters(&path).then_some(path));
                    continue;
                }
                let name = path.strip_prefix(&self.top).expect("it was found below").to_str();
                let name = name.ok_or_else(|| SourceError::Name(path.clone()))?.to_owned();
                if !self.takes(&name) || !(kind.is_file() || kind.is_symlink()) {
                    continue;
                }
                let metadata = entry.metadata().map_err(failed)?;
                bytes = bytes.saturating_add(metadata.len());
                found.insert(name, Found { is_link: kind.is_symlink(), stamp: Stamp::of(&metadata) });
                if found.len() > MAX_FILES || bytes > MAX_BYTES {
                    return Err(too_much());
                }
            }
        }
        Ok(found)
    }

    /// Whether that there is a folder at this path follows from `found`: only files are listed.
    pub(super) fn is_there(&self, folder: &Path, found: &BTreeMap<String, Found>) -> bool {
        let Ok(below) = folder.strip_prefix(&self.top) else { return false };
        let in_it = |name: &String| Path::new(name).starts_with(below);
        // In their order, those within a folder follow its own name.
        let first =
            below.to_str().and_then(|below| found.range(below.to_owned()..).find(|(name, _)| in_it(name)));
        self.covers(folder) && first.is_some()
    }

    /// Whether something at this path would be among what [`Self::list`] lists, or is a folder that it enters.
    pub(super) fn covers(&self, path: &Path) -> bool {
        let Ok(below) = path.strip_prefix(&self.top) else { return false };
        let mut folder = self.top.clone();
        let mut parts = below.iter().peekable();
        while let Some(part) = parts.next() {
            folder.push(part);
            if part == ".." {
                return false;
            }
            // The last one may be a file; what it would be called if it were a folder counts all the same.
            let last = parts.peek().is_none();
            if !self.enters(&folder) || (last && !self.takes(&part.to_string_lossy())) {
                return false;
            }
        }
        true
    }

    /// cargo's own folders, git's, and other packages are none of the package's. A source in one of them would fail
    /// the check afterwards.
    fn enters(&self, folder: &Path) -> bool {
        !self.is_made(folder) && (self.nested || !is_package(folder))
    }

    fn is_made(&self, folder: &Path) -> bool {
        let named = |name: &str| folder.file_name().is_some_and(|own| own == name);
        named(".git")
            || (named("target") && folder.parent() == Some(&self.top))
            || folder.join("CACHEDIR.TAG").is_file()
    }

    /// Whether a path is one of another package's below this one, which is not listed.
    pub(super) fn is_of_another(&self, path: &Path) -> bool {
        let Ok(below) = path.strip_prefix(&self.top) else { return false };
        let mut folder = self.top.clone();
        for part in below {
            folder.push(part);
            if self.is_made(&folder) {
                return false;
            }
            if is_package(&folder) {
                return !self.nested;
            }
        }
        false
    }

    fn takes(&self, name: &str) -> bool {
        let left_out =
            || Path::new(name).extension().is_some_and(|ext| self.without.iter().any(|own| ext == *own));
        !matches!(name, ".cargo-ok" | ".cargo-lock") && !left_out()
    }
}

fn is_package(folder: &Path) -> bool {
    folder.join("Cargo.toml").is_file()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_folder_is_what_belongs_to_the_package() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        };
        for name in [
            "src/lib.rs",
            "a.o",
            "b.d",
            "c.rmeta",
            ".cargo-ok",
            "target/x",
            ".git/x",
            "t/CACHEDIR.TAG",
            "inner/Cargo.toml",
        ] {
            write(name);
        }
        std::os::unix::fs::symlink("lib.rs", folder.path().join("src/link.rs")).unwrap();
        // Opening a pipe that nobody writes to would take forever; a socket cannot be opened at all.
        let fifo = std::process::Command::new("mkfifo").arg(folder.path().join("src/pipe.rs")).status();
        assert!(fifo.unwrap().success());
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket")).unwrap();
        let names = |nested, without| {
            let walk = Walk { top: folder.path().to_path_buf(), nested, without };
            walk.list().unwrap().into_keys().collect::<Vec<_>>()
        };
        assert_eq!(names(false, &[]), ["a.o", "b.d", "c.rmeta", "src/lib.rs", "src/link.rs"]);
        let walk = Walk { top: folder.path().to_path_buf(), nested: false, without: &[] };
        for (name, expected) in [
            ("inner/x", true),
            ("inner", true),
            ("src/lib.rs", false),
            ("t/inner/x", false),
            ("", false),
            ("../x", false),
        ] {
            assert_eq!(walk.is_of_another(&folder.path().join(name)), expected, "{name}");
        }
        for (name, expected) in [
            ("", true),
            ("src", true),
            ("src/none.rs", true),
            (".git/HEAD", false),
            ("target/x", false),
            ("inner/x", false),
            ("../x", false),
        ] {
            let path = if name.is_empty() { folder.path().to_path_buf() } else { folder.path().join(name) };
            assert_eq!(walk.covers(&path), expected && !name.contains(".."), "{name}");
        }
        assert_eq!(names(true, OBJECTS), ["c.rmeta", "inner/Cargo.toml", "src/lib.rs", "src/link.rs"]);
        assert_eq!(names(true, BYPRODUCTS), ["inner/Cargo.toml", "src/lib.rs", "src/link.rs"]);
        fs::File::create(folder.path().join("src/huge")).unwrap().set_len(MAX_BYTES + 1).unwrap();
        let walk = Walk { top: folder.path().to_path_buf(), nested: false, without: &[] };
        assert!(matches!(walk.list(), Err(SourceError::TooMuch(_))), "a huge file is not even opened");
    }

    #[test]
    fn a_time_that_is_set_back_does_not_hide_a_change() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("x");
        fs::write(&path, "one").unwrap();
        let then = fs::metadata(&path).unwrap();
        let stamp = Stamp::of(&then);
        assert!(stamp.is_young(crate::observe::clock::now()));
        assert!(!stamp.is_young(crate::observe::clock::now().plus(2 * COARSE)));
        // Another change counts as young until the clock has left the file's time behind, so there is no race here.
        while Stamp::of(&fs::metadata(&path).unwrap()).changed == stamp.changed {
            fs::write(&path, "two").unwrap();
            fs::File::options()
                .write(true)
                .open(&path)
                .unwrap()
                .set_modified(then.modified().unwrap())
                .unwrap();
        }
        let now = Stamp::of(&fs::metadata(&path).unwrap());
        assert_eq!((now.modified, now.size), (stamp.modified, stamp.size));
        assert_ne!(now, stamp);
    }
}
