// SPDX-License-Identifier: MIT OR Apache-2.0
//! From what was seen of a program to what has to be the same for it to do the same again.
//!
//! A [`Needs`] is the list: names with tokens, without what they held, so that it is true in every checkout. [`state`]
//! says what they hold here. A list is known only after a program ran once somewhere; the key of what it made is over its
//! state, so whoever has the list and another state has another key.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use potluck_protocol::digest::Digest;
use serde::{Deserialize, Serialize};

use super::Call;
use super::place::Place;
use super::toolchain::{known_digest, resolve};
use super::watch::seen::{Seen, Touched};
use crate::relocate::token::{Root, Roots, Spelling};

/// Most names of one list.
const MAX_NEEDS: usize = 20_000;
/// Most bytes of one file whose content is to count.
const MAX_FILE: u64 = 1 << 30;
/// What lies here is the system's, and is called the same on every machine.
pub(super) const SYSTEM: &[&str] =
    &["/bin", "/etc", "/lib", "/lib32", "/lib64", "/nix", "/opt", "/proc", "/sbin", "/sys", "/usr"];
/// What is read by nearly every program and says nothing that one could depend on, or only how busy a machine is.
const IDLE: &[&str] = &[
    "/dev/fd",
    "/dev/full",
    "/dev/null",
    "/dev/ptmx",
    "/dev/pts",
    "/dev/random",
    "/dev/shm",
    "/dev/stderr",
    "/dev/stdin",
    "/dev/stdout",
    "/dev/tty",
    "/dev/urandom",
    "/dev/zero",
    "/etc/ld.so.cache",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/mounts",
    "/proc/self",
    "/proc/stat",
    "/proc/sys/vm",
    "/proc/thread-self",
    "/sys/devices/system/cpu",
    "/sys/fs/cgroup",
    "/sys/kernel/mm",
    "/usr/lib/locale",
    "/usr/share/locale",
    "/usr/share/locale-langpack",
];
/// Programs whose variables are known: the others may heed any.
const COMPILERS: &[&str] = &[
    "ar",
    "as",
    "c++",
    "cc",
    "cc1",
    "cc1plus",
    "clang",
    "clang++",
    "collect2",
    "cpp",
    "g++",
    "gcc",
    "gcc-ar",
    "gcc-nm",
    "gcc-ranlib",
    "gold",
    "ld",
    "lld",
    "llvm-ar",
    "lto-wrapper",
    "lto1",
    "nm",
    "objcopy",
    "objdump",
    "ranlib",
    "rustc",
    "rust-lld",
    "strip",
];

/// What counts of a name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum What {
    /// The content of a file, or that it is a folder, or that there is none.
    Content,
    /// The names in a folder.
    Names,
    /// Which program it is, as a search along `PATH` finds it.
    Program,
}

/// What has to be the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Names with tokens, or of programs.
    pub names: BTreeMap<String, What>,
    /// Whether any variable may have had an effect, and not only those whose names the program holds.
    pub variables: bool,
}

/// Why a program's reads make no list that others could use.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Unfit {
    /// It could not be watched.
    #[error("it could not be watched")]
    Unwatched,
    /// Something was not seen.
    #[error("not all that it read is known: {0}")]
    Missed(String),
    /// It left something behind.
    #[error("it wrote {0}")]
    Wrote(String),
    /// It took something away.
    #[error("it removed {0}")]
    Removed(String),
    /// What it read is no more what it was.
    #[error("{0} was changed while it ran")]
    Changed(String),
    /// It read what lies elsewhere on every machine.
    #[error("it read {0}, which only this machine has")]
    Elsewhere(String),
    /// There is more than is worth it.
    #[error("it read too much")]
    TooMuch,
}

/// What is known of the surroundings of a program.
pub struct Scope<'a> {
    call: &'a Call,
    roots: Roots,
    /// Below these, nothing counts: what the program makes, and what is in the key by another way.
    pub apart: Vec<PathBuf>,
    folders: Vec<PathBuf>,
    temporary: Vec<PathBuf>,
}

impl<'a> Scope<'a> {
    /// Of a call at a place.
    pub fn new(call: &'a Call, place: &Place) -> Self {
        let folder = |name: &'static str, variable: &str, beneath: &str| {
            let home = || Some(PathBuf::from(call.var("HOME")?).join(beneath));
            let path = call.var(variable).map(PathBuf::from).or_else(home)?;
            let mut spellings = vec![path.to_str()?.trim_end_matches('/').to_owned()];
            spellings.extend(fs::canonicalize(&path).ok().and_then(|real| Some(real.to_str()?.to_owned())));
            spellings.dedup();
            Some(Root { name, spellings })
        };
        let mut roots: Vec<_> = place.roots.iter().cloned().collect();
        roots.extend(folder("cargo-home", "CARGO_HOME", ".cargo"));
        let rustup = folder("rustup", "RUSTUP_HOME", ".rustup");
        let rustup_folders = rustup.into_iter().flat_map(|root| root.spellings).map(PathBuf::from);
        // This program itself, and by what name cargo knows it.
        let apart: Vec<_> = rustup_folders
            .chain(call.this.clone())
            .chain(call.var("RUSTC_WRAPPER").map(PathBuf::from))
            .collect();
        roots.extend(place.home.as_ref().and_then(|_| folder("home", "HOME", "")));
        let path = call.var("PATH").unwrap_or_default();
        let folders = path.split(':').filter(|folder| folder.starts_with('/')).map(PathBuf::from).collect();
        let temporary = ["TMPDIR", "TMP", "TEMP"].iter().filter_map(|name| call.var(name)).map(PathBuf::from);
        let temporary = temporary.chain(["/tmp", "/var/tmp", "/usr/tmp"].map(PathBuf::from)).collect();
        Self { call, roots: Roots::new(roots), apart, folders, temporary }
    }

    /// With tokens for all folders that are known.
    pub fn encode(&self, text: &str) -> String {
        self.roots.encode_str(text)
    }

    /// Whether a search for a program would find this.
    pub fn is_program(&self, path: &Path) -> bool {
        path.parent().is_some_and(|parent| self.folders.iter().any(|own| own == parent))
    }

    /// Whether it was run, and is none of the programs that compilers call.
    pub fn is_strange(&self, path: &Path, touched: &Touched) -> bool {
        let program = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        touched.ran && touched.stamp.is_some() && !is_compiler(program)
    }

    /// Folders that everybody passes through on the way to what is known.
    fn is_on_the_way(&self, path: &Path) -> bool {
        let known = self.roots.iter().flat_map(|root| &root.spellings).map(Path::new);
        known.chain(self.apart.iter().map(PathBuf::as_path)).any(|own| own.starts_with(path))
            || self.temporary.iter().any(|own| own.starts_with(path))
    }

    fn is_idle(&self, path: &Path) -> bool {
        let process = || {
            let number = path.strip_prefix("/proc").ok().and_then(|rest| rest.iter().next()?.to_str());
            number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
        };
        IDLE.iter().any(|idle| path.starts_with(idle))
            || self.apart.iter().any(|own| path.starts_with(own))
            || process()
    }

    /// The list of what was seen, without what `covered` says is in the key.
    ///
    /// # Errors
    /// [`Unfit`].
    pub fn needs(&self, seen: &Seen, covered: impl Fn(&Path, &Touched) -> bool) -> Result<Needs, Unfit> {
        if let Some(missed) = &seen.missed {
            return Err(Unfit::Missed(missed.clone()));
        }
        let mut needs = Needs::default();
        for (name, touched) in &seen.names {
            let path = Path::new(name);
            if self.is_idle(path) {
                continue;
            }
            self.is_harmless(path, touched)?;
            if !touched.read || covered(path, touched) {
                continue;
            }
            if now(path) != touched.stamp {
                return Err(Unfit::Changed(name.clone()));
            }
            let program = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            needs.variables |= self.is_strange(path, touched);
            if self.is_program(path) && !touched.listed {
                needs.names.insert(program.to_owned(), What::Program);
                continue;
            }
            if !touched.listed && self.is_on_the_way(path) {
                continue;
            }
            let token = self.roots.encode_str(name);
            if token == *name && !SYSTEM.iter().any(|system| path.starts_with(system)) {
                return Err(Unfit::Elsewhere(name.clone()));
            }
            needs.names.insert(token, if touched.listed { What::Names } else { What::Content });
            if needs.names.len() > MAX_NEEDS {
                return Err(Unfit::TooMuch);
            }
        }
        Ok(needs)
    }

    fn is_harmless(&self, path: &Path, touched: &Touched) -> Result<(), Unfit> {
        let name = || path.display().to_string();
        if touched.removed {
            return Err(Unfit::Removed(name()));
        }
        if touched.made && (touched.read && touched.stamp.is_some()) {
            return Err(Unfit::Changed(name()));
        }
        if touched.made && fs::symlink_metadata(path).is_ok() {
            return Err(Unfit::Wrote(name()));
        }
        Ok(())
    }

    /// What the names of a list hold here: each with its state.
    ///
    /// # Errors
    /// When one cannot be read, or a token stands for nothing here.
    pub fn state(&self, needs: &Needs) -> io::Result<BTreeMap<String, Vec<u8>>> {
        if needs.names.len() > MAX_NEEDS {
            return Err(io::Error::other("the list is too long"));
        }
        let mut state = BTreeMap::new();
        for (name, what) in &needs.names {
            let held = match what {
                What::Program => self.program(name)?,
                What::Content => self.content(&self.decode(name)?)?,
                What::Names => names(&self.decode(name)?)?,
            };
            state.insert(format!("{what:?} {name}"), held);
        }
        if needs.variables {
            for (name, value) in &self.call.env {
                let (Some(name), Some(value)) = (name.to_str(), value.to_str()) else {
                    return Err(io::Error::other("a variable is not UTF-8"));
                };
                if !is_volatile(name) {
                    state.insert(format!("Variable {name}"), self.encode(value).into_bytes());
                }
            }
        }
        Ok(state)
    }

    fn decode(&self, name: &str) -> io::Result<PathBuf> {
        let decoded = self.roots.decode(name.as_bytes(), Spelling::Plain).map_err(io::Error::other)?;
        let path = PathBuf::from(String::from_utf8(decoded).map_err(io::Error::other)?);
        // Whoever made the list is trusted to have run a program, not to have anything read that nobody asked for.
        if path.is_absolute() { Ok(path) } else { Err(io::Error::other("a name that leads nowhere")) }
    }

    fn program(&self, name: &str) -> io::Result<Vec<u8>> {
        if name.contains('/') {
            return Err(io::Error::other("a program with a folder"));
        }
        let Ok(path) = resolve(self.call, name) else { return Ok(b"none".to_vec()) };
        Ok([self.encode(&path.display().to_string()).into_bytes(), self.content(&path)?].concat())
    }

    fn content(&self, path: &Path) -> io::Result<Vec<u8>> {
        let metadata = match fs::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
                return Ok(b"none".to_vec());
            }
            Err(error) => return Err(error),
        };
        if metadata.is_dir() {
            return Ok(b"folder".to_vec());
        }
        if !metadata.is_file() || metadata.len() > MAX_FILE {
            return Err(io::Error::other(format!("{} is no file, or too large", path.display())));
        }
        let digest: Digest = known_digest(self.call, path, &metadata)?;
        let runs = if metadata.permissions().mode() & 0o111 == 0 { b"-" } else { b"x" };
        Ok([runs.as_slice(), digest.as_bytes()].concat())
    }
}

/// Variables that say where somebody sits and not what is to be done; what is found by way of them is seen.
const VOLATILE: &[&str] = &[
    "_",
    "CARGO",
    "CARGO_BUILD_*",
    "CARGO_HOME",
    "CARGO_INCREMENTAL",
    "CARGO_MAKEFLAGS",
    "CARGO_NET_*",
    "CARGO_TARGET_DIR",
    "CARGO_TERM_*",
    "COLORTERM",
    "COLUMNS",
    "DBUS_*",
    "DISPLAY",
    "HOME",
    "HOSTNAME",
    "INVOCATION_ID",
    "JOURNAL_STREAM",
    "LD_LIBRARY_PATH",
    "LINES",
    "LOGNAME",
    "LS_COLORS",
    "MAIL",
    "MAKEFLAGS",
    "MFLAGS",
    "NUM_JOBS",
    "OLDPWD",
    "OUT_DIR",
    "PATH",
    "POTLUCK_*",
    "PWD",
    "RUSTC",
    "RUSTC_WORKSPACE_WRAPPER",
    "RUSTC_WRAPPER",
    "RUSTDOC",
    "RUSTUP_*",
    "RUST_RECURSION_COUNT",
    "SHELL",
    "SHLVL",
    "SSH_*",
    "TERM",
    "TERM_*",
    "TMPDIR",
    "USER",
    "WAYLAND_DISPLAY",
    "WINDOWID",
    "XDG_*",
];

/// Whether a variable says only where somebody sits.
pub fn is_volatile(name: &str) -> bool {
    VOLATILE.iter().any(|own| name == *own || own.strip_suffix('*').is_some_and(|own| name.starts_with(own)))
}

/// `x86_64-linux-gnu-gcc-12` is `gcc`.
fn is_compiler(program: &str) -> bool {
    let plain = program.trim_end_matches(|letter: char| letter.is_ascii_digit() || letter == '.');
    let plain = plain.strip_suffix('-').unwrap_or(plain);
    let is = |name: &str| COMPILERS.contains(&name) || name.strip_prefix("ld.").is_some();
    is(program) || is(plain) || plain.match_indices('-').any(|(at, _)| is(&plain[at + 1..]))
}

fn now(path: &Path) -> Option<String> {
    super::watch::stamp(path)
}

fn names(folder: &Path) -> io::Result<Vec<u8>> {
    let entries = match fs::read_dir(folder) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Ok(b"none".to_vec());
        }
        entries => entries?,
    };
    let mut found = BTreeSet::new();
    for entry in entries {
        found.insert(entry?.file_name());
        if found.len() > MAX_NEEDS {
            return Err(io::Error::other("there is too much in a folder"));
        }
    }
    let mut hasher = blake3::Hasher::new();
    for name in found {
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_encoded_bytes());
    }
    Ok(hasher.finalize().as_bytes().to_vec())
}
