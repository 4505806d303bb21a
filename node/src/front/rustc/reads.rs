// SPDX-License-Identifier: MIT OR Apache-2.0
//! From what was seen of a program to what has to be the same for it to do the same again.
//!
//! A [`Needs`] is the list: names with tokens, without what they held, so that it is true in every checkout. [`Scope::state`]
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
use super::watch::seen::{FOLDER, Seen, Touched};
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
    "/etc/ld.so.preload",
    "/etc/malloc.conf",
    "/proc/filesystems",
    "/proc/loadavg",
    "/proc/meminfo",
    "/proc/mounts",
    "/proc/self",
    "/proc/stat",
    "/proc/sys/vm",
    "/proc/thread-self",
    // What the standard library's own sources are called in every compiler.
    "/rustc",
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
    "mold",
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
    /// Which library it is, as a search along `LD_LIBRARY_PATH` finds it; mostly none.
    Library,
    /// That no folder above those that are known has anything of this name: what is looked for upward, as git looks for
    /// the top of a work tree, must be as absent here.
    Above,
}

/// What has to be the same.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Needs {
    /// Names with tokens, or of programs.
    pub names: BTreeMap<String, What>,
    /// Whether any variable may have had an effect, and not only those whose names the program holds.
    pub variables: bool,
}

impl Needs {
    /// The list as it is published.
    pub fn text(&self) -> Vec<u8> {
        serde_json::to_vec(self).expect("names and words are JSON")
    }

    /// Reads one; nothing that [`Self::text`] would not have written, and no longer list than is worth it.
    pub fn parse(text: &[u8]) -> Option<Self> {
        let needs: Self = serde_json::from_slice(text).ok()?;
        (needs.names.len() <= MAX_NEEDS && needs.text() == text).then_some(needs)
    }
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
    /// It read something of this build that its key does not hold.
    #[error("it read {0}, which its key does not hold")]
    Unknown(String),
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
    /// Those of `LD_LIBRARY_PATH`, which cargo and its like fill with folders of their own.
    libraries: Vec<PathBuf>,
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
        let libraries = call.var("LD_LIBRARY_PATH").unwrap_or_default().split(':');
        let libraries = libraries.filter(|folder| folder.starts_with('/')).map(PathBuf::from).collect();
        let temporary = ["TMPDIR", "TMP", "TEMP"].iter().filter_map(|name| call.var(name)).map(PathBuf::from);
        let temporary = temporary.chain(["/tmp", "/var/tmp", "/usr/tmp"].map(PathBuf::from)).collect();
        Self { call, roots: Roots::new(roots), apart, folders, libraries, temporary }
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
        is_idle(path) || self.apart.iter().any(|own| path.starts_with(own))
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
            if is_environment(path) {
                needs.variables = true;
                continue;
            }
            if self.is_idle(path) {
                continue;
            }
            self.is_harmless(path, touched)?;
            // What it made where there was nothing, and took away again, was its own; and so was all that it looked for in
            // a folder that it had made.
            if !touched.read || touched.made || is_in_own(seen, path) || covered(path, touched) {
                continue;
            }
            if now(path) != touched.stamp {
                return Err(Unfit::Changed(name.clone()));
            }
            let program = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            needs.variables |= self.is_strange(path, touched);
            let folder = touched.stamp.as_deref() == Some(FOLDER);
            if !touched.listed && self.libraries.iter().any(|own| path.starts_with(own)) {
                if touched.stamp.is_none() && program.contains(".so") {
                    needs.names.insert(program.to_owned(), What::Library);
                }
                if touched.stamp.is_none() || folder {
                    continue;
                }
            }
            if self.is_program(path) && !touched.listed {
                needs.names.insert(program.to_owned(), What::Program);
                continue;
            }
            if !touched.listed && self.is_on_the_way(path) {
                continue;
            }
            let token = self.roots.encode_str(name);
            if token == *name
                && touched.stamp.is_none()
                && let Some(above) = self.above_all(path)
            {
                needs.names.insert(above, What::Above);
                continue;
            }
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
                What::Above => self.above(name)?,
                What::Library => self.library(name)?,
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

    /// What is looked for, when that is in a folder above those that are known, as `.git/HEAD` is.
    fn above_all(&self, path: &Path) -> Option<String> {
        let there = path.ancestors().skip(1).find(|folder| folder.is_dir())?;
        let name = path.strip_prefix(there).ok()?.to_str()?;
        self.is_on_the_way(there).then(|| name.to_owned())
    }

    fn library(&self, name: &str) -> io::Result<Vec<u8>> {
        if name.contains('/') {
            return Err(io::Error::other("a library in a folder"));
        }
        let found = self.libraries.iter().map(|folder| folder.join(name)).find(|path| path.is_file());
        // One of the toolchain's own is found without that search as well.
        let found = found.filter(|path| !self.apart.iter().any(|apart| path.starts_with(apart)));
        found.map_or_else(|| Ok(b"none".to_vec()), |path| self.content(&path))
    }

    fn above(&self, name: &str) -> io::Result<Vec<u8>> {
        let folders = self.roots.iter().flat_map(|root| &root.spellings);
        let above: BTreeSet<_> = folders.flat_map(|root| Path::new(root).ancestors().skip(1)).collect();
        match above.iter().any(|folder| fs::symlink_metadata(folder.join(name)).is_ok()) {
            true => Err(io::Error::other(format!("there is a {name} above the folders that are known"))),
            false => Ok(b"none".to_vec()),
        }
    }

    fn program(&self, name: &str) -> io::Result<Vec<u8>> {
        if name.contains('/') {
            return Err(io::Error::other("a program in a folder"));
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
        // Who was seen may have asked where a link leads. Those of the system lead elsewhere on each.
        if !SYSTEM.iter().any(|system| path.starts_with(system))
            && let Ok(target) = fs::read_link(path)
        {
            let target = target.to_str().ok_or_else(|| io::Error::other("a link is not UTF-8"))?;
            let held = if metadata.is_dir() { b"folder".to_vec() } else { self.file(path, &metadata)? };
            return Ok([b"link ", self.encode(target).as_bytes(), b"\0", &held].concat());
        }
        if metadata.is_dir() {
            return Ok(b"folder".to_vec());
        }
        self.file(path, &metadata)
    }

    fn file(&self, path: &Path, metadata: &fs::Metadata) -> io::Result<Vec<u8>> {
        if !metadata.is_file() || metadata.len() > MAX_FILE {
            return Err(io::Error::other(format!("{} is no file, or too large", path.display())));
        }
        let digest: Digest = known_digest(self.call, path, metadata)?;
        let runs = if metadata.permissions().mode() & 0o111 == 0 { b"-" } else { b"x" };
        Ok([runs.as_slice(), digest.as_bytes()].concat())
    }
}

/// Whether all variables of a process stand there (proc_pid_environ(5)), this one's or another's.
fn is_environment(path: &Path) -> bool {
    path.starts_with("/proc") && path.ends_with("environ")
}

/// Variables that say where somebody sits and not what is to be done; what is found by way of them is seen. Every program
/// in Rust holds the names of some, which say what is told of its own faults.
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
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
    "RUST_MIN_STACK",
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

/// Of those, the ones that nearly every program asks for, or whose value says where something lies, which is looked for
/// in all that is made. They never count, and the others do where a program has their very name.
const EVERYWHERE: &[&str] = &[
    "_",
    "CARGO",
    "CARGO_HOME",
    "CARGO_INCREMENTAL",
    "CARGO_MAKEFLAGS",
    "CARGO_TARGET_DIR",
    "CARGO_TERM_*",
    "COLORTERM",
    "COLUMNS",
    "HOME",
    "LD_LIBRARY_PATH",
    "LINES",
    "LS_COLORS",
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
    "RUST_BACKTRACE",
    "RUST_LIB_BACKTRACE",
    "RUST_MIN_STACK",
    "RUST_RECURSION_COUNT",
    "SHLVL",
    "TERM",
    "TERM_*",
    "TMPDIR",
];

/// Whether a variable never counts, though a program has its name.
pub fn is_everywhere(name: &str) -> bool {
    is_of(EVERYWHERE, name)
}

/// Whether a variable says only where somebody sits.
pub fn is_volatile(name: &str) -> bool {
    is_of(VOLATILE, name)
}

/// Whether a list has a name, or what it begins with before a star.
fn is_of(list: &[&str], name: &str) -> bool {
    list.iter().any(|own| name == *own || own.strip_suffix('*').is_some_and(|own| name.starts_with(own)))
}

/// Whether what lies there says nothing that one could depend on.
pub(super) fn is_idle(path: &Path) -> bool {
    let process = || {
        let number = path.strip_prefix("/proc").ok().and_then(|rest| rest.iter().next()?.to_str());
        number.is_some_and(|number| number.bytes().all(|byte| byte.is_ascii_digit()))
    };
    // To compare texts is faster than to take paths apart, and there are thousands.
    let begins = |idle: &str| path.as_os_str().as_encoded_bytes().starts_with(idle.as_bytes());
    IDLE.iter().any(|idle| begins(idle) && path.starts_with(idle)) || process()
}

/// Whether a path is in a folder that the program made where there was nothing.
fn is_in_own(seen: &Seen, path: &Path) -> bool {
    let own = |folder: &Path| {
        let touched = folder.to_str().and_then(|folder| seen.names.get(folder));
        touched.is_some_and(|touched| touched.made && touched.stamp.is_none())
    };
    path.ancestors().skip(1).any(own)
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
    let mut found = BTreeMap::new();
    for entry in entries {
        let entry = entry?;
        // Who lists a folder is told the kind of each as well.
        let kind = entry.file_type()?;
        let kind = if kind.is_dir() {
            b'd'
        } else if kind.is_symlink() {
            b'l'
        } else {
            b'f'
        };
        found.insert(entry.file_name(), kind);
        if found.len() > MAX_NEEDS {
            return Err(io::Error::other("there is too much in a folder"));
        }
    }
    let mut hasher = blake3::Hasher::new();
    for (name, kind) in found {
        hasher.update(&(name.len() as u64).to_le_bytes()).update(name.as_encoded_bytes()).update(&[kind]);
    }
    Ok(hasher.finalize().as_bytes().to_vec())
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use potluck_protocol::action::Project;

    use super::super::watch::seen::Use;
    use super::*;

    fn call(top: &Path) -> Call {
        let env =
            [("HOME", top.join("me")), ("PATH", top.join("bin")), ("LANG", "C".into()), ("TERM", "x".into())];
        Call {
            args: vec!["x".into()],
            cwd: top.join("w/p"),
            env: env.map(|(name, value)| (name.into(), value.into())).into(),
            project: Project::new("default").unwrap(),
            deadline: Duration::ZERO,
            toolchains: top.join("toolchains"),
            stalled: None,
            log: None,
            home: None,
            this: None,
        }
    }

    fn place(top: &Path) -> Place {
        let root = Root { name: "workspace", spellings: vec![top.join("w").display().to_string()] };
        let home = Some(top.join("me").display().to_string());
        Place { roots: Roots::new(vec![root]), package: top.join("w/p"), immutable: false, home }
    }

    /// A folder with a workspace in it, outside of the temporary ones, which nobody's work lies in.
    fn top() -> tempfile::TempDir {
        let top = tempfile::tempdir().unwrap();
        for folder in ["w/p", "me", "bin"] {
            fs::create_dir_all(top.path().join(folder)).unwrap();
        }
        for (file, text) in [("w/p/x", "one"), ("bin/cc", "cc"), ("bin/sh", "sh"), ("else", "x")] {
            fs::write(top.path().join(file), text).unwrap();
        }
        top
    }

    fn seen(uses: &[(PathBuf, Use)]) -> Seen {
        let mut seen = Seen::default();
        uses.iter().for_each(|(path, how)| seen.note(path, *how, || now(path)));
        seen
    }

    #[test]
    fn a_list_is_true_in_every_checkout_and_its_state_is_not() {
        let (here, there) = (top(), top());
        let list = |top: &Path| {
            let uses = [
                (top.join("w/p/x"), Use::List),
                (top.join("w/p"), Use::List),
                (top.join("w/none"), Use::Read),
                (top.join("bin/cc"), Use::Run),
                (top.join(".git"), Use::Read),
                (top.join(".git/HEAD"), Use::Read),
                (top.to_path_buf(), Use::Read),
                ("/dev/null".into(), Use::List),
                ("/rustc/1/x.rs".into(), Use::Read),
                (format!("/proc/{}/status", std::process::id()).into(), Use::List),
            ];
            let (call, place) = (call(top), place(top));
            let scope = Scope::new(&call, &place);
            let needs = scope.needs(&seen(&uses), |_, _| false).unwrap();
            let state = scope.state(&needs).map_err(|error| error.to_string());
            (needs, state)
        };
        let (needs, state) = list(here.path());
        let expected = [
            (".git", What::Above),
            (".git/HEAD", What::Above),
            ("@potluck:workspace@/none", What::Content),
            ("@potluck:workspace@/p", What::Names),
            ("@potluck:workspace@/p/x", What::Content),
            ("cc", What::Program),
        ];
        assert_eq!(needs.names, expected.map(|(name, what)| (name.to_owned(), what)).into());
        assert!(!needs.variables);
        let program = |state: &BTreeMap<String, Vec<u8>>| {
            state.clone().into_iter().filter(|(name, _)| name != "Program cc").collect::<Vec<_>>()
        };
        let state = program(&state.unwrap());
        let (same, again) = list(there.path());
        assert_eq!((&same, program(&again.unwrap())), (&needs, state.clone()));
        for (file, text) in [("w/p/x", "two"), ("w/none", ""), ("w/p/new", "")] {
            let path = there.path().join(file);
            let before = fs::read(&path).ok();
            fs::write(&path, text).unwrap();
            assert_ne!(program(&list(there.path()).1.unwrap_or_default()), state, "{file}");
            match before {
                Some(before) => fs::write(&path, before).unwrap(),
                None => fs::remove_file(&path).unwrap(),
            }
        }
        fs::write(there.path().join(".git"), "").unwrap();
        let (call, place) = (call(there.path()), place(there.path()));
        assert!(Scope::new(&call, &place).state(&needs).is_err(), "there is one above");
    }

    #[test]
    fn what_others_could_not_follow_is_refused() {
        let top = top();
        let at = |name: &str| top.path().join(name);
        let (call, place) = (call(top.path()), place(top.path()));
        let scope = Scope::new(&call, &place);
        let refused = |uses: &[(PathBuf, Use)]| scope.needs(&seen(uses), |_, _| false).unwrap_err();
        let name = |name: &str| at(name).display().to_string();
        assert_eq!(refused(&[(at("else"), Use::List)]), Unfit::Elsewhere(name("else")));
        assert_eq!(refused(&[(at("w/p/x"), Use::Make)]), Unfit::Wrote(name("w/p/x")));
        assert_eq!(refused(&[(at("w/p/x"), Use::Change)]), Unfit::Changed(name("w/p/x")));
        assert_eq!(refused(&[(at("w/p/x"), Use::Remove)]), Unfit::Removed(name("w/p/x")));
        assert_eq!(
            scope.needs(&seen(&[(at("w/temporary"), Use::Make)]), |_, _| false).unwrap(),
            Needs::default()
        );
        let changed = seen(&[(at("w/p/x"), Use::List)]);
        fs::write(at("w/p/x"), "longer").unwrap();
        assert_eq!(scope.needs(&changed, |_, _| false), Err(Unfit::Changed(name("w/p/x"))));
        assert_eq!(scope.needs(&changed, |_, _| true).unwrap(), Needs::default());
        let mut missed = Seen::default();
        missed.miss("something");
        assert_eq!(scope.needs(&missed, |_, _| true), Err(Unfit::Missed("something".into())));
        let many = (0..=MAX_NEEDS).map(|at| (format!("@potluck:workspace@/{at}"), What::Content)).collect();
        let many = Needs { names: many, variables: false };
        assert!(scope.state(&many).is_err());
        assert_eq!(Needs::parse(&many.text()), None);
        for (bad, what) in [
            ("@potluck:else@/x", What::Content),
            ("x/y", What::Program),
            ("x/y.so", What::Library),
            ("relative", What::Names),
        ] {
            let names = [(bad.to_owned(), what)].into();
            assert!(scope.state(&Needs { names, variables: false }).is_err(), "{bad}");
        }
    }

    #[test]
    fn programs_that_heed_any_variable_bring_all_of_them() {
        let top = top();
        let (call, place) = (call(top.path()), place(top.path()));
        let scope = Scope::new(&call, &place);
        let of = |program: &str| {
            scope.needs(&seen(&[(top.path().join(program), Use::Run)]), |_, _| false).unwrap()
        };
        assert!(!of("bin/cc").variables && of("bin/sh").variables && !of("bin/none").variables);
        let state = scope.state(&of("bin/sh")).unwrap();
        assert!(state.contains_key("Variable LANG") && !state.contains_key("Variable TERM"));
        for (name, expected) in [
            ("x86_64-linux-gnu-gcc-12", true),
            ("clang-15", true),
            ("ld.bfd", true),
            ("potluck-rustc", true),
            ("make", false),
            ("sh", false),
        ] {
            assert_eq!(is_compiler(name), expected, "{name}");
        }
    }
}
