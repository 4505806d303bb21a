// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a unit's own code is: every file of the package, what a build script has generated, and the variables that the
//! code may read.
//!
//! The whole package is hashed, not only what dep-info would list: procedural macros read files that it never lists,
//! and asking the compiler first costs a tenth of the build. Names of variables and of files outside of the package are
//! found by looking at the text, which can miss some. That is sound because of the check afterwards
//! ([`Sources::covers`]): what the compiler says it has read must all have been in the key, or else nothing is
//! published; and a unit whose key covered what it read reads the same again whenever the key is the same. What a
//! procedural macro reads outside of the package without telling is beyond that check; the usual places are in the key.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Read as _};
use std::path::{Path, PathBuf};

use memchr::memmem;
use object::ReadCache;
use potluck_keys::time::Time;
use potluck_protocol::digest::Digest;

use super::environ;
use super::place::Place;
use super::reads::{SYSTEM, is_everywhere, is_volatile};
use super::script::{Texts, tokenised};
use super::text;
use super::toolchain::{LINKER_ENV, digest};
use super::walk::{BYPRODUCTS, Found, OBJECTS, Stamp, Walk};
use super::watch::seen::{FOLDER, Touched};
use super::{Call, Placed};
use crate::observe::clock;
use crate::relocate::depinfo::DepInfo;
use crate::relocate::scan;

/// Files that are larger are hashed without being looked through for names.
const MAX_TEXT: u64 = 8 << 20;
/// Variables that procedural macros of wide use read without the compiler being told.
const MACRO_ENV: &[&str] = &["DATABASE_URL", "DEFMT_LOG", "SQLX_OFFLINE", "SQLX_OFFLINE_DIR"];
/// Files and folders of a workspace that procedural macros of wide use read without the compiler being told: what its
/// dependencies are called, and what its database looks like.
const MACRO_FILES: &[&str] = &["Cargo.toml", ".env", ".sqlx", "sqlx-data.json"];
/// What clippy's settings are called.
const DRIVER_FILES: &[&str] = &["clippy.toml", ".clippy.toml"];
/// How the variables begin that linkers, and compilers that call them, heed beside those.
const LINKERS: &[&str] = &["CCC_", "COLLECT_", "GCC_", "LLD_", "MOLD_", "WILD_"];
/// Variables that always count: what cargo says about the package, and what changes the compiler itself.
const ALWAYS_ENV: &[&str] = &[
    "CARGO_BIN_NAME",
    "CARGO_CRATE_NAME",
    "CARGO_MANIFEST_DIR",
    "CARGO_MANIFEST_PATH",
    "CARGO_PRIMARY_PACKAGE",
    "IPHONEOS_DEPLOYMENT_TARGET",
    "MACOSX_DEPLOYMENT_TARGET",
    "OUT_DIR",
    "RUSTC_BOOTSTRAP",
    "RUSTC_FORCE_RUSTC_VERSION",
    "RUSTC_OVERRIDE_VERSION_STRING",
    "SDKROOT",
    "SOURCE_DATE_EPOCH",
    "TVOS_DEPLOYMENT_TARGET",
    "VISIONOS_DEPLOYMENT_TARGET",
    "WATCHOS_DEPLOYMENT_TARGET",
    "XROS_DEPLOYMENT_TARGET",
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
    /// It may depend on what is in a database.
    #[error("a macro may ask a database")]
    Database,
}

/// A unit's own code.
#[derive(Debug)]
pub struct Sources {
    /// Path with tokens, and content.
    pub files: BTreeMap<String, Digest>,
    /// Of OUT_DIR: relative path and content.
    pub generated: BTreeMap<String, Digest>,
    /// Variables: value with tokens.
    pub env: BTreeMap<String, Option<String>>,
    /// Whether the code may bind native libraries that no argument names.
    pub links: bool,
    /// The content of the macros, which were looked through.
    pub macros: BTreeMap<PathBuf, Digest>,
    /// When reading began.
    began: Time,
    /// Each file that was hashed, all links followed.
    seen: BTreeMap<PathBuf, (Stamp, Digest)>,
    /// What the folders held.
    walks: Vec<(Walk, BTreeMap<String, Found>)>,
    names: BTreeSet<String>,
    /// Variables that are set, where a macro may ask for any of them.
    wanted: BTreeSet<String>,
    /// The same, of those that stand by chance in much: what is short, and what says where somebody sits. A macro has
    /// them among its data, or is given them in quotes.
    rare: BTreeSet<String>,
    outside: BTreeSet<PathBuf>,
    /// All that was ever in `outside`.
    sought: BTreeSet<PathBuf>,
    /// Texts of OUT_DIR that name a folder of this machine, which is not in the key.
    moved: BTreeSet<PathBuf>,
    database: Database,
}

/// What tells that a macro may ask a database.
#[derive(Debug, Default)]
struct Database {
    asked: bool,
    configured: bool,
}

/// Hashes what is read.
struct Hashed<'a> {
    from: File,
    hasher: &'a mut blake3::Hasher,
}

impl io::Read for Hashed<'_> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(into)?;
        self.hasher.update(&into[..read]);
        Ok(read)
    }
}

/// What the key did not cover.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Uncovered {
    /// A variable was read.
    #[error("it read the variable {0}, which the key does not hold")]
    Env(String),
    /// A variable with a path was read, and not only to find a file.
    #[error("it may depend on the value of {0}, which names a folder of this machine")]
    Value(String),
    /// A file was read.
    #[error("it read {0}, which the key does not hold")]
    File(String),
    /// A file was changed meanwhile.
    #[error("{0} was changed while it was compiled")]
    Changed(String),
}

impl Sources {
    /// Reads everything. `macros` may run while it is compiled.
    ///
    /// # Errors
    /// [`SourceError`].
    pub fn gather(
        call: &Call,
        Placed { unit, place }: &Placed,
        macros: &[PathBuf],
    ) -> Result<Self, SourceError> {
        let mut sources = Self::new();
        if !macros.is_empty() {
            sources.watch_variables(call, macros)?;
        }
        sources.files = sources.named(Walk::package(place), place)?;
        if !place.immutable {
            sources.outside.extend(MACRO_FILES.iter().map(|name| call.cwd.join(name)));
        }
        if unit.driver.is_some() {
            sources.driven(call, place);
        }
        if unit.links() {
            sources.names.extend(LINKER_ENV.map(str::to_owned));
            let own = |name: &&str| LINKERS.iter().any(|linker| name.starts_with(linker));
            sources
                .names
                .extend(call.env.keys().filter_map(|name| name.to_str()).filter(own).map(str::to_owned));
        }
        sources.beyond(place)?;
        if let Some(out_dir) = call.var("OUT_DIR") {
            // Objects and dep-info are left out: their names and contents vary with the folder. The linker gets objects
            // in an archive that is hashed, and a source that includes one or the other fails the check afterwards. It is
            // the same with metadata of crates, unless crates are looked for there.
            let real = |path: &Path| fs::canonicalize(path).unwrap_or_else(|_| path.to_path_buf());
            let made = real(Path::new(out_dir));
            let looked_for = |(kind, path): &(String, String)| {
                kind != "native" && real(&call.cwd.join(path)).starts_with(&made)
            };
            let without = if unit.search.iter().any(looked_for) { OBJECTS } else { BYPRODUCTS };
            sources.generated = sources.folder(Walk { top: out_dir.into(), nested: true, without }, place)?;
            sources.tokenise(Path::new(out_dir), place)?;
        }
        sources.read_env(call, place);
        let Database { asked, configured } = sources.database;
        let online = configured || call.var("DATABASE_URL").is_some();
        if asked
            && online
            && !call.var("SQLX_OFFLINE").is_some_and(|offline| ["1", "true"].contains(&offline))
        {
            return Err(SourceError::Database);
        }
        Ok(sources)
    }

    /// What clippy is told: by variables, and by settings that it looks for in the package and above it.
    fn driven(&mut self, call: &Call, place: &Place) {
        let set = call.env.keys().filter_map(|name| name.to_str());
        self.names.extend(set.filter(|name| name.starts_with("CLIPPY_")).map(str::to_owned));
        self.names.extend(["CLIPPY_ARGS", "CLIPPY_CONF_DIR", "SYSROOT"].map(str::to_owned));
        let tops: Vec<_> = place.roots.iter().flat_map(|root| &root.spellings).map(PathBuf::from).collect();
        let within = |folder: &&Path| tops.iter().any(|top| folder.starts_with(top));
        let folders = place.package.ancestors().take_while(within).map(Path::to_path_buf);
        for folder in folders.chain(call.var("CLIPPY_CONF_DIR").map(|folder| call.cwd.join(folder))) {
            self.outside.extend(DRIVER_FILES.iter().map(|name| folder.join(name)));
        }
    }

    /// Macros read variables without telling, and no system call shows it; but their names have to stand somewhere: in the
    /// macro, or in what it is given. All count for a macro that goes through all of them.
    fn watch_variables(&mut self, call: &Call, macros: &[PathBuf]) -> Result<(), SourceError> {
        let set = call.env.keys().filter_map(|name| name.to_str());
        let counts = set.filter(|name| !is_everywhere(name)).map(str::to_owned);
        (self.rare, self.wanted) = counts.partition(|name| name.len() < 3 || is_volatile(name));
        for path in macros {
            let unread = |error| SourceError::Read(path.clone(), error);
            let program = ReadCache::new(File::open(path).map_err(unread)?);
            if environ::is_gone_through(&program) {
                self.names
                    .extend(self.wanted.iter().chain(&self.rare).filter(|name| !is_volatile(name)).cloned());
            }
            let texts = Texts::of(&program);
            self.names.extend(self.rare.iter().filter(|name| texts.hold(name)).cloned());
            let mut hasher = blake3::Hasher::new();
            File::open(path)
                .and_then(|program| {
                    let program = Hashed { from: program, hasher: &mut hasher };
                    text::mentions_in(program, &self.wanted, &mut self.names)
                })
                .map_err(unread)?;
            self.macros.insert(path.clone(), hasher.finalize().into());
        }
        Ok(())
    }

    /// What a build script has generated counts with tokens, so that it is the same in every checkout.
    fn tokenise(&mut self, folder: &Path, place: &Place) -> Result<(), SourceError> {
        for (name, digest) in &mut self.generated {
            let path = folder.join(name);
            let failed = |error| SourceError::Read(path.clone(), error);
            let metadata = fs::symlink_metadata(&path).map_err(failed)?;
            if !metadata.is_file() || metadata.len() > MAX_TEXT {
                continue;
            }
            if let Some(text) = tokenised(&fs::read(&path).map_err(failed)?, &place.roots) {
                *digest = Digest::of(&text);
                self.moved.extend(fs::canonicalize(&path));
            }
        }
        Ok(())
    }

    fn new() -> Self {
        Self {
            files: BTreeMap::new(),
            generated: BTreeMap::new(),
            env: BTreeMap::new(),
            links: false,
            macros: BTreeMap::new(),
            began: clock::now(),
            seen: BTreeMap::new(),
            walks: Vec::new(),
            names: BTreeSet::new(),
            wanted: BTreeSet::new(),
            rare: BTreeSet::new(),
            outside: BTreeSet::new(),
            sought: BTreeSet::new(),
            moved: BTreeSet::new(),
            database: Database::default(),
        }
    }

    fn read_env(&mut self, call: &Call, place: &Place) {
        let always = ALWAYS_ENV.iter().chain(MACRO_ENV).map(|name| (*name).to_owned());
        let set = call.env.keys().filter_map(|name| name.to_str());
        let package = set.filter(|name| name.starts_with("CARGO_PKG_")).map(str::to_owned);
        let names = std::mem::take(&mut self.names).into_iter().chain(always).chain(package);
        let value = |name: &str| call.var(name).map(|value| place.roots.encode_str(value));
        self.env = names.map(|name| (name.clone(), value(&name))).collect();
    }

    /// Files outside of the package that its text names, and all of the folders.
    fn beyond(&mut self, place: &Place) -> Result<(), SourceError> {
        while let Some(path) = self.outside.pop_first() {
            if !self.sought.insert(path.clone()) {
                continue;
            }
            if path.is_file() {
                let text = path.to_str().ok_or_else(|| SourceError::Name(path.clone()))?;
                let real = fs::canonicalize(&path).map_err(|error| SourceError::Read(path.clone(), error))?;
                let digest = self.file(&path, real, place)?;
                self.files.insert(place.roots.encode_str(text), digest);
            } else if path.is_dir() {
                let files = self.named(Walk { top: path, nested: false, without: &[] }, place)?;
                self.files.extend(files);
            }
        }
        Ok(())
    }

    /// The files of a folder under their whole names.
    fn named(&mut self, walk: Walk, place: &Place) -> Result<BTreeMap<String, Digest>, SourceError> {
        let prefix = place.roots.encode_str(&walk.top.display().to_string());
        let files = self.folder(walk, place)?;
        Ok(files.into_iter().map(|(path, digest)| (format!("{prefix}/{path}"), digest)).collect())
    }

    fn folder(&mut self, walk: Walk, place: &Place) -> Result<BTreeMap<String, Digest>, SourceError> {
        let listed = walk.list()?;
        let mut files = BTreeMap::new();
        // No link was followed on the way down, so that asking for each file is not needed.
        let real = fs::canonicalize(&walk.top).map_err(|error| SourceError::Read(walk.top.clone(), error))?;
        for (name, found) in &listed {
            let path = walk.top.join(name);
            let digest = if found.is_link {
                link(&path, &walk.top)?
            } else {
                self.file(&path, real.join(name), place)?
            };
            files.insert(name.clone(), digest);
        }
        self.walks.push((walk, listed));
        Ok(files)
    }

    /// A file, and where it is with all links followed.
    fn file(&mut self, path: &Path, real: PathBuf, place: &Place) -> Result<Digest, SourceError> {
        let failed = |error| SourceError::Read(path.to_path_buf(), error);
        let mut file = File::open(path).map_err(failed)?;
        let metadata = file.metadata().map_err(failed)?;
        let is_code = path.extension().is_some_and(|ext| ext == "rs");
        let digest = if metadata.len() > MAX_TEXT && !is_code {
            digest(path).map_err(failed)?
        } else {
            let mut text = Vec::new();
            file.read_to_end(&mut text).map_err(failed)?;
            self.look_through(&text, path, place);
            Digest::of(&text)
        };
        self.seen.insert(real, (Stamp::of(&metadata), digest));
        Ok(digest)
    }

    fn look_through(&mut self, text: &[u8], path: &Path, place: &Place) {
        text::env_names(text, &mut self.names);
        if !self.wanted.is_empty() {
            text::mentions(text, &self.wanted, &mut self.names);
        }
        let given = |name: &&String| memmem::find(text, format!("\"{name}\"").as_bytes()).is_some();
        self.names.extend(self.rare.iter().filter(given).cloned());
        if path.file_name().is_some_and(|name| name == ".env") {
            self.database.configured |= memmem::find(text, b"DATABASE_URL").is_some();
        }
        if path.extension().is_some_and(|ext| ext == "rs") {
            self.links |= text::links(text);
            let mut found = BTreeSet::new();
            text::included(text, path, &mut found);
            // A folder is never included: what names one is a route of a server, such as `path = "/"`.
            found.retain(|path| !path.is_dir());
            // What nobody edits does not reach into its neighbours.
            if !place.immutable {
                self.database.asked |= memmem::find(text, b"sqlx").is_some();
                text::upward(text, path, &place.package, &mut found);
            }
            let package = Walk::package(place);
            let is_outside = |path: &PathBuf| !path.starts_with(&package.top) || package.is_of_another(path);
            self.outside.extend(found.into_iter().filter(is_outside));
        }
    }

    /// Whether the key holds what was looked at: a file's content, or that there is nothing where it would have been seen.
    pub(super) fn holds(&self, path: &Path, touched: &Touched) -> bool {
        if touched.stamp.as_deref().is_some_and(|stamp| stamp != FOLDER) {
            return fs::canonicalize(path).is_ok_and(|real| self.seen.contains_key(&real));
        }
        // What else may be put into a folder, such as an empty one, is in no key.
        if touched.listed {
            return false;
        }
        // What may be named outside of the packages was looked for by name.
        let absent = touched.stamp.is_none();
        let known = |walk: &Walk, found| if absent { walk.covers(path) } else { walk.is_there(path, found) };
        (absent && self.sought.contains(path)) || self.walks.iter().any(|(walk, found)| known(walk, found))
    }

    /// Whether a folder is named in a file that was hashed.
    pub(super) fn mention(&self, folder: &str) -> bool {
        let names = |path: &PathBuf| fs::read(path).is_ok_and(|text| scan::find(&text, folder).is_some());
        self.seen.keys().any(names)
    }

    /// Whether the key held everything that dep-info lists, and all that the key held is still the same.
    ///
    /// # Errors
    /// [`Uncovered`].
    pub fn covers(&self, read: &DepInfo, call: &Call, place: &Place) -> Result<(), Uncovered> {
        if let Some((name, _)) = read.env().find(|(name, _)| !self.env.contains_key(*name)) {
            return Err(Uncovered::Env(name.to_owned()));
        }
        for source in read.sources() {
            let path = fs::canonicalize(call.cwd.join(source)).ok();
            let Some(path) = path.filter(|path| self.seen.contains_key(path)) else {
                return Err(Uncovered::File(source.to_owned()));
            };
            if self.moved.contains(&path) && !only_includes(&path, place) {
                return Err(Uncovered::Value(source.to_owned()));
            }
        }
        let is_path = |value: &str| place.roots.encode_str(value) != value;
        for (name, value) in read.env().filter_map(|(name, value)| Some((name, value?))) {
            if is_path(value) && !only_finds_files(read, call, (name, value)) {
                return Err(Uncovered::Value(name.to_owned()));
            }
        }
        self.is_settled()
    }

    /// What a procedural macro has read is not listed anywhere, so everything counts.
    fn is_settled(&self) -> Result<(), Uncovered> {
        let changed = |path: &Path| Uncovered::Changed(path.display().to_string());
        for (walk, listed) in &self.walks {
            if walk.list().ok().as_ref() != Some(listed) {
                return Err(changed(&walk.top));
            }
        }
        for (path, (stamp, content)) in &self.seen {
            let now = fs::metadata(path).map_err(|_| changed(path))?;
            let same = || digest(path).is_ok_and(|now| now == *content);
            if Stamp::of(&now) != *stamp || (stamp.is_young(self.began) && !same()) {
                return Err(changed(path));
            }
        }
        Ok(())
    }
}

/// Whether a folder's path was only read to find files that are included: their content is in the key, the path itself
/// is not. Where a macro of another crate has read it, the text does not tell; it is fine if a file was found by it.
fn only_finds_files(read: &DepInfo, call: &Call, (name, value): (&str, &str)) -> bool {
    let sources: Vec<_> = read.sources().into_iter().map(|source| call.cwd.join(source)).collect();
    let (mut times, mut all) = (0, true);
    for source in &sources {
        let Ok(text) = fs::read(source) else { return false };
        let (here, fine) = text::includes_by(&text, name);
        (times, all) = (times + here, all && fine);
    }
    if times > 0 { all } else { sources.iter().any(|source| source.starts_with(value)) }
}

/// Whether folders of this machine stand in a text only where files are included by them.
fn only_includes(path: &Path, place: &Place) -> bool {
    let Ok(text) = fs::read(path) else { return false };
    let spellings = place.roots.iter().flat_map(|root| &root.spellings);
    path.extension().is_some_and(|ext| ext == "rs")
        && spellings.into_iter().all(|folder| text::only_includes(&text, folder))
}

/// Whether a path is of the system, and not of somebody's work.
pub(super) fn is_system(path: &Path) -> bool {
    SYSTEM.iter().any(|system| path.starts_with(system))
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_link_counts_by_where_it_leads_and_must_stay_inside() {
        let folder = tempfile::tempdir().unwrap();
        fs::write(folder.path().join("x"), "").unwrap();
        let linked = |to: &str| {
            let path = folder.path().join("link");
            let _ = fs::remove_file(&path);
            std::os::unix::fs::symlink(to, &path).unwrap();
            link(&path, folder.path())
        };
        assert_ne!(linked("x").unwrap(), linked("./x").unwrap());
        assert!(matches!(linked("../../.."), Err(SourceError::Link(_))));
        assert!(matches!(linked("nowhere"), Err(SourceError::Read(..))));
    }
}
