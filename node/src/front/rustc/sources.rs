// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a unit's own code is: every file of the package, what a build script has generated, and the variables that the
//! code may read.
//!
//! The whole package is hashed, not only what dep-info would list: procedural macros read files that it never lists,
//! and asking the compiler first costs a tenth of the build. Names of variables and of files outside of the package are
//! found by looking at the text, which can miss some. That is sound because of the check afterwards ([`covers`]): what
//! the compiler says it has read must all have been in the key, or else nothing is published; and a unit whose key
//! covered what it read reads the same again whenever the key is the same.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Component, Path, PathBuf};

use memchr::memmem;
use potluck_protocol::digest::Digest;

use super::Call;
use super::place::Place;
use crate::relocate::depinfo::DepInfo;

/// Most files of one unit.
const MAX_FILES: usize = 50_000;
/// Most bytes of all of them.
const MAX_BYTES: u64 = 1 << 30;
/// Variables that procedural macros of wide use read without the compiler being told.
const MACRO_ENV: &[&str] = &["DATABASE_URL", "DEFMT_LOG", "SQLX_OFFLINE", "SQLX_OFFLINE_DIR"];
/// Variables that always count: what cargo says about the package, and what changes the compiler itself.
const ALWAYS_ENV: &[&str] = &[
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_PRIMARY_PACKAGE",
    "OUT_DIR",
    "RUSTC_BOOTSTRAP",
    "RUSTC_FORCE_RUSTC_VERSION",
    "RUSTC_OVERRIDE_VERSION_STRING",
    "SOURCE_DATE_EPOCH",
];

/// Why a unit's own code is not known.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum SourceError {
    /// It cannot be read.
    #[error("cannot read {0}: {1}")]
    Read(PathBuf, io::Error),
    /// There is more of it than is worth hashing.
    #[error("there are too many or too large files in {0}")]
    TooMuch(PathBuf),
    /// A link leads out of its folder.
    #[error("the link {0} leads out of its folder")]
    Link(PathBuf),
    /// A file's name is not UTF-8.
    #[error("the name {0} is not UTF-8")]
    Name(PathBuf),
}

/// When and how large a file was.
type Stamp = (u64, u64, i64, i64);

/// A unit's own code.
#[derive(Debug, Default)]
pub struct Sources {
    /// Path with tokens, and content.
    pub files: BTreeMap<String, Digest>,
    /// Of OUT_DIR: relative path and content.
    pub generated: BTreeMap<String, Digest>,
    /// Variables: value with tokens.
    pub env: BTreeMap<String, Option<String>>,
    /// Each file that was hashed, all links followed.
    stamps: BTreeMap<PathBuf, Stamp>,
    names: BTreeSet<String>,
    outside: BTreeSet<PathBuf>,
    bytes: u64,
}

/// What dep-info lists and the key did not cover.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Uncovered {
    /// A variable was read.
    #[error("it read the variable {0}, which the key does not hold")]
    Env(String),
    /// A file was read.
    #[error("it read {0}, which the key does not hold")]
    File(String),
    /// A file was changed meanwhile.
    #[error("{0} was changed while it was compiled")]
    Changed(String),
}

impl Sources {
    /// Reads everything.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn gather(call: &Call, place: &Place) -> Result<Self, SourceError> {
        let mut sources = Self::default();
        let package = Walk { top: &place.package, nested: place.immutable, objects: true };
        let files = sources.folder(&package)?;
        let prefix = place.roots.encode_str(&place.package.display().to_string());
        sources.files =
            files.into_iter().map(|(path, digest)| (format!("{prefix}/{path}"), digest)).collect();
        sources.beyond(place)?;
        if let Some(out_dir) = call.var("OUT_DIR") {
            // Objects are left out: their names and contents vary with the folder. The linker gets them in an archive
            // that is hashed, and a source that includes one fails the check afterwards.
            sources.generated =
                sources.folder(&Walk { top: Path::new(out_dir), nested: true, objects: false })?;
        }
        sources.read_env(call, place);
        Ok(sources)
    }

    fn read_env(&mut self, call: &Call, place: &Place) {
        let always = ALWAYS_ENV.iter().chain(MACRO_ENV).map(|name| (*name).to_owned());
        let set = call.env.keys().filter_map(|name| name.to_str());
        let package = set.filter(|name| name.starts_with("CARGO_PKG_")).map(str::to_owned);
        let names = std::mem::take(&mut self.names).into_iter().chain(always).chain(package);
        let value = |name: &str| call.var(name).map(|value| place.roots.encode_str(value));
        self.env = names.map(|name| (name.clone(), value(&name))).collect();
    }

    /// Files outside of the package that its text names.
    fn beyond(&mut self, place: &Place) -> Result<(), SourceError> {
        let mut seen = BTreeSet::new();
        while let Some(path) = self.outside.pop_first() {
            if !seen.insert(path.clone()) || !path.is_file() {
                continue;
            }
            let name = place.roots.encode_str(path.to_str().ok_or_else(|| SourceError::Name(path.clone()))?);
            let digest = self.file(&path, &place.package)?;
            self.files.insert(name, digest);
        }
        Ok(())
    }

    fn folder(&mut self, walk: &Walk<'_>) -> Result<BTreeMap<String, Digest>, SourceError> {
        let mut found = BTreeMap::new();
        let mut folders = vec![walk.top.to_path_buf()];
        while let Some(folder) = folders.pop() {
            let failed = |error| SourceError::Read(folder.clone(), error);
            for entry in fs::read_dir(&folder).map_err(failed)? {
                let entry = entry.map_err(failed)?;
                let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
                if kind.is_dir() {
                    folders.extend(walk.enters(&path).then_some(path));
                    continue;
                }
                let name = path.strip_prefix(walk.top).expect("it was found below").to_str();
                let name = name.ok_or_else(|| SourceError::Name(path.clone()))?.to_owned();
                if !walk.takes(&name) {
                    continue;
                }
                let digest =
                    if kind.is_symlink() { link(&path, walk.top)? } else { self.file(&path, walk.top)? };
                found.insert(name, digest);
                if found.len() > MAX_FILES {
                    return Err(SourceError::TooMuch(walk.top.to_path_buf()));
                }
            }
        }
        Ok(found)
    }

    fn file(&mut self, path: &Path, top: &Path) -> Result<Digest, SourceError> {
        let failed = |error| SourceError::Read(path.to_path_buf(), error);
        let mut file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        self.bytes += metadata.len();
        if self.bytes > MAX_BYTES || !metadata.is_file() {
            return Err(SourceError::TooMuch(top.to_path_buf()));
        }
        let mut text = Vec::new();
        file.read_to_end(&mut text).map_err(failed)?;
        env_names(&text, &mut self.names);
        if path.extension().is_some_and(|ext| ext == "rs") {
            included(&text, path, top, &mut self.outside);
        }
        self.stamps.insert(fs::canonicalize(path).map_err(failed)?, stamp(&metadata));
        Ok(Digest::of(&text))
    }

    /// Whether the key held everything that dep-info lists, and nothing of it has changed since.
    ///
    /// # Errors
    /// [`Uncovered`].
    pub fn covers(&self, read: &DepInfo, call: &Call) -> Result<(), Uncovered> {
        if let Some((name, _)) = read.env().find(|(name, _)| !self.env.contains_key(*name)) {
            return Err(Uncovered::Env(name.to_owned()));
        }
        for source in read.sources() {
            let uncovered = || Uncovered::File(source.to_owned());
            let path = fs::canonicalize(call.cwd.join(source)).map_err(|_| uncovered())?;
            let then = self.stamps.get(&path).ok_or_else(uncovered)?;
            let now = fs::metadata(&path).map_err(|_| uncovered())?;
            if stamp(&now) != *then {
                return Err(Uncovered::Changed(source.to_owned()));
            }
        }
        Ok(())
    }
}

fn stamp(metadata: &fs::Metadata) -> Stamp {
    (metadata.ino(), metadata.len(), metadata.mtime(), metadata.mtime_nsec())
}

/// Which part of a folder counts.
struct Walk<'a> {
    top: &'a Path,
    /// Whether packages inside of the package count, as in what nobody edits.
    nested: bool,
    /// Whether object files count.
    objects: bool,
}

impl Walk<'_> {
    /// cargo's own folders, git's, and other packages are none of the package's. A source in one of them would fail
    /// the check afterwards.
    fn enters(&self, folder: &Path) -> bool {
        let named = |name: &str| folder.file_name().is_some_and(|own| own == name);
        if named(".git")
            || (named("target") && folder.parent() == Some(self.top))
            || folder.join("CACHEDIR.TAG").is_file()
        {
            return false;
        }
        self.nested || !folder.join("Cargo.toml").is_file()
    }

    fn takes(&self, name: &str) -> bool {
        let object = || Path::new(name).extension().is_some_and(|ext| ext == "o" || ext == "obj");
        !matches!(name, ".cargo-ok" | ".cargo-lock") && (self.objects || !object())
    }
}

/// A link counts by where it leads; what it leads to is hashed where it lies.
fn link(path: &Path, top: &Path) -> Result<Digest, SourceError> {
    let failed = |error| SourceError::Read(path.to_path_buf(), error);
    let target = fs::read_link(path).map_err(failed)?;
    let (real, real_top) = (fs::canonicalize(path).map_err(failed)?, fs::canonicalize(top).map_err(failed)?);
    if target.is_absolute() || !real.starts_with(real_top) {
        return Err(SourceError::Link(path.to_path_buf()));
    }
    Ok(Digest::of(&[b"link\0", target.as_os_str().as_encoded_bytes()].concat()))
}

/// The names in `env!("NAME")` and `option_env!("NAME")`.
fn env_names(text: &[u8], names: &mut BTreeSet<String>) {
    for at in memmem::find_iter(text, "env!") {
        names.extend(literal(&text[at + 4..], b"([{"));
    }
}

/// The files outside of the package that are included by a path relative to the file.
fn included(text: &[u8], file: &Path, top: &Path, outside: &mut BTreeSet<PathBuf>) {
    let folder = file.parent().unwrap_or(top);
    for (word, opening) in
        [("include_str!", b"([{"), ("include_bytes!", b"([{"), ("include!", b"([{"), ("path", b"===")]
    {
        for at in memmem::find_iter(text, word) {
            let Some(path) = literal(&text[at + word.len()..], opening) else { continue };
            let path = plain(&folder.join(path));
            if path.is_absolute() && !path.starts_with(top) {
                outside.insert(path);
            }
        }
    }
}

/// The string literal that follows one of `opening`, white space around it left out.
fn literal(text: &[u8], opening: &[u8]) -> Option<String> {
    let text = text.trim_ascii_start();
    let text =
        text.strip_prefix(&[*text.first().filter(|first| opening.contains(first))?])?.trim_ascii_start();
    let text = text.strip_prefix(b"\"")?;
    let text = &text[..memchr::memchr(b'"', text)?];
    String::from_utf8(text.to_vec())
        .ok()
        .filter(|text| !text.is_empty() && text.len() < 4096 && !text.contains('\\'))
}

/// The path without `.` and `..`.
fn plain(path: &Path) -> PathBuf {
    path.components().fold(PathBuf::new(), |mut plain, component| {
        match component {
            Component::ParentDir => drop(plain.pop()),
            Component::CurDir => {}
            other => plain.push(other),
        }
        plain
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_variables_are_found_in_text() {
        let mut names = BTreeSet::new();
        let text = br#"env!("A"); option_env! ( "B" , "x"); env!{"C"} env!(concat!("D")) env!(stringify) "env!" env!("#;
        env_names(text, &mut names);
        assert_eq!(names.into_iter().collect::<Vec<_>>(), ["A", "B", "C"]);
    }

    #[test]
    fn files_outside_of_the_package_are_found_in_text() {
        let text = br#"include_str!("../README.md"); include_str!("../../README.md") #[path = "../../x.rs"] include!("/abs/y")"#;
        let mut outside = BTreeSet::new();
        included(text, Path::new("/w/p/src/lib.rs"), Path::new("/w/p"), &mut outside);
        let outside: Vec<_> = outside.iter().map(|path| path.to_str().unwrap()).collect();
        assert_eq!(outside, ["/abs/y", "/w/README.md", "/w/x.rs"]);
    }

    #[test]
    fn a_folder_is_what_belongs_to_the_package() {
        let folder = tempfile::tempdir().unwrap();
        let write = |name: &str| {
            let path = folder.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, name).unwrap();
        };
        for name in
            ["src/lib.rs", "a.o", ".cargo-ok", "target/x", ".git/x", "t/CACHEDIR.TAG", "inner/Cargo.toml"]
        {
            write(name);
        }
        std::os::unix::fs::symlink("lib.rs", folder.path().join("src/link.rs")).unwrap();
        let names = |nested, objects| {
            let walk = Walk { top: folder.path(), nested, objects };
            Sources::default().folder(&walk).map(|files| files.into_keys().collect::<Vec<_>>())
        };
        assert_eq!(names(false, true).unwrap(), ["a.o", "src/lib.rs", "src/link.rs"]);
        assert_eq!(names(true, false).unwrap(), ["inner/Cargo.toml", "src/lib.rs", "src/link.rs"]);
        std::os::unix::fs::symlink("../../..", folder.path().join("src/up")).unwrap();
        assert!(matches!(names(false, true), Err(SourceError::Link(_))));
    }
}
