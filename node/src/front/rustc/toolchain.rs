// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which compiler, standard library and linker a unit is built with, by content.
//!
//! Half a gigabyte is hashed once and remembered under a stamp of all files (inode, times, size), so that a later call
//! only looks at about a hundred of them. The compiler is never asked anything on the way: cargo calls it by its real
//! path, and its sysroot is the folder above. Only when it is called through rustup's proxy, whose choice depends on
//! settings that we do not know all of, it is asked each time.
//!
//! Any other program in place of the compiler or the linker, such as a script, may add what it likes to the
//! arguments: it is not known what it makes.

use std::ffi::OsStr;
use std::fs::{self, File, Metadata};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use potluck_protocol::digest::Digest;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tempfile::NamedTempFile;

use super::Call;
use super::unit::Unit;
use super::walk::Stamp;
use crate::observe::clock;

/// Most files of a toolchain; more is no toolchain but a system's `/usr/lib`.
const MAX_FILES: usize = 20_000;
/// What the linker takes from the system for every program.
const LINKED: &[&str] = &[
    "crt1.o",
    "Scrt1.o",
    "crti.o",
    "crtn.o",
    "crtbegin.o",
    "crtbeginS.o",
    "crtend.o",
    "crtendS.o",
    "libc.so.6",
    "libc.so",
    "libgcc_s.so.1",
    "libgcc.a",
    "libm.so.6",
];
/// Variables that the linker reads; some of them end up in what it makes.
pub(super) const LINKER_ENV: [&str; 5] =
    ["COMPILER_PATH", "LIBRARY_PATH", "GCC_EXEC_PREFIX", "LD_RUN_PATH", "LDEMULATION"];
/// Most bytes of what is remembered of one thing: so much room must be there before half a gigabyte is hashed for it.
const ROOM: usize = 4096;

/// Most that is read of what the system says about its processors: some kilobytes for the first.
const MAX_PROCESSOR: u64 = 32 * 1024;
/// Files of fewer bytes are hashed as fast as what is remembered of them is read.
const LARGE: u64 = 1 << 17;

/// A compiler with its standard library.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Toolchain {
    /// What `rustc -vV` says.
    pub version: String,
    /// The hash of all its files, and of `version`.
    pub identity: String,
    /// Where it lies.
    pub sysroot: PathBuf,
}

impl Toolchain {
    /// A line of `rustc -vV`.
    fn line(&self, name: &str) -> &str {
        let value = |line: &'_ str| line.strip_prefix(name).is_some_and(|rest| rest.starts_with(": "));
        self.version.lines().find(|line| value(line)).map_or("", |line| &line[name.len() + 2..])
    }

    /// Its own triple.
    pub fn host(&self) -> &str {
        self.line("host")
    }

    /// Its version, e.g. `1.95.0`.
    pub fn release(&self) -> &str {
        self.line("release")
    }

    /// Finds out which one a call is for.
    ///
    /// # Errors
    /// When files cannot be read, the compiler does not answer, or its folder is not laid out as rustup does it.
    pub fn identify(call: &Call, unit: &Unit) -> io::Result<Self> {
        Self::of(call, unit.target.as_deref())
    }

    /// The same, for a target.
    ///
    /// # Errors
    /// As [`Self::identify`].
    pub fn of(call: &Call, target: Option<&str>) -> io::Result<Self> {
        let compiler = resolve(call, call.compiler())?;
        let sysroot = sysroot(call, &compiler)?;
        let target = target.unwrap_or_default();
        let name = format!("{}\n{target}", sysroot.display());
        let memory = Memory { folder: &call.toolchains, name: format!("rustc-{}", short(&name)) };
        if let Some(known) = memory.recall::<Known<Self>>()
            && known.stamp == stamp(&files(&sysroot, known.value.host(), target)?)
        {
            return Ok(known.value);
        }
        let room = memory.make_room()?;
        // Not by way of the proxy, which would tell of itself when it is called by its real name.
        let version = ask(call, &sysroot.join("bin/rustc"), &["-vV"])?;
        let mut toolchain = Self { version, identity: String::new(), sysroot };
        if toolchain.host().is_empty() {
            return Err(io::Error::other("the compiler does not say for what it was built"));
        }
        let files = files(&toolchain.sysroot, toolchain.host(), target)?;
        let mut hasher = blake3::Hasher::new();
        hasher.update(toolchain.version.as_bytes());
        for file in &files {
            hasher.update(file.name.as_bytes()).update(b"\0");
            hasher.update(digest(&file.path)?.as_bytes());
        }
        toolchain.identity = hasher.finalize().to_string();
        memory.keep(room, &Known { stamp: stamp(&files), value: toolchain.clone() });
        Ok(toolchain)
    }
}

/// The identity of what stands in the compiler's place.
///
/// # Errors
/// When it is not the one that comes with this compiler, or cannot be read.
pub fn driver(call: &Call, toolchain: &Toolchain) -> io::Result<Digest> {
    let path = resolve(call, call.parts().0.first().and_then(|path| path.to_str()).unwrap_or_default())?;
    if path.parent() != Some(&toolchain.sysroot.join("bin")) {
        return Err(io::Error::other("what stands in the compiler's place does not come with it"));
    }
    known_digest(call, &path, &fs::metadata(&path)?)
}

/// What a compiler takes this machine's processor for, and what the processor says of itself.
///
/// # Errors
/// When the system does not tell, or the compiler does not answer.
pub fn processor(call: &Call, toolchain: &Toolchain) -> io::Result<String> {
    let mut told = String::new();
    // Those of one machine are alike, and there may be hundreds.
    File::open("/proc/cpuinfo")?.take(MAX_PROCESSOR).read_to_string(&mut told)?;
    let told =
        model(&told).ok_or_else(|| io::Error::other("the system does not say which processor it is"))?;
    let name = format!("{}\n{told}", toolchain.identity);
    let memory = Memory { folder: &call.toolchains, name: format!("processor-{}", short(&name)) };
    if let Some(known) = memory.recall::<Known<String>>()
        && known.stamp == told
    {
        return Ok(known.value);
    }
    let room = memory.make_room()?;
    let rustc = toolchain.sysroot.join("bin/rustc");
    let features = ask(call, &rustc, &["--print", "cfg", "-C", "target-cpu=native"])?;
    let names = ask(call, &rustc, &["--print", "target-cpus"])?;
    // `native - Select the CPU of the current host (currently znver3).`
    let named = names.lines().find(|line| line.trim_start().starts_with("native")).unwrap_or_default();
    let value = blake3::hash(format!("{features}\0{named}\0{told}").as_bytes()).to_string();
    memory.keep(room, &Known { stamp: told, value: value.clone() });
    Ok(value)
}

/// The lines that tell one kind of processor from another: of x86 and of ARM, as Linux names them.
fn model(told: &str) -> Option<String> {
    const LINES: &[&str] = &[
        "vendor_id",
        "cpu family",
        "model",
        "stepping",
        "flags",
        "CPU implementer",
        "CPU architecture",
        "CPU variant",
        "CPU part",
        "Features",
    ];
    let first = told.split("\n\n").next()?;
    let lines = first.lines().filter_map(|line| line.split_once(':'));
    let lines = lines.filter(|(name, _)| LINES.contains(&name.trim()));
    let lines: Vec<_> = lines.map(|(name, value)| format!("{}:{}", name.trim(), value.trim())).collect();
    let features = |line: &&String| line.starts_with("flags:") || line.starts_with("Features:");
    lines.iter().any(|line| features(&line)).then(|| lines.join("\n"))
}

/// The identity of the linker of a unit, and of what it adds to every program.
///
/// # Errors
/// When it is not known: another system than Linux, another target than the compiler's own, or no answer.
pub fn linker(call: &Call, unit: &Unit, host: &str) -> io::Result<Digest> {
    if !cfg!(target_os = "linux") || unit.target.as_deref().is_some_and(|target| target != host) {
        return Err(io::Error::other("what the linker takes from the system is not known"));
    }
    let linker = resolve(call, unit.codegen_value("linker").unwrap_or("cc"))?;
    let mut opening = Vec::new();
    File::open(&linker)?.take(2).read_to_end(&mut opening)?;
    if opening == b"#!" {
        return Err(io::Error::other("the linker is a script"));
    }
    let env = LINKER_ENV.map(|name| format!("{name}={:?}", call.env.get(OsStr::new(name)))).join("\n");
    let name = format!("{}\n{:?}\n{env}", linker.display(), call.var("PATH"));
    let memory = Memory { folder: &call.toolchains, name: format!("linker-{}", short(&name)) };
    if let Some(known) = memory.recall::<Known<LinkerParts>>() {
        let files = known
            .value
            .paths
            .iter()
            .map(|path| Listed::new(path.clone(), path))
            .collect::<Result<Vec<_>, _>>();
        if files.is_ok_and(|files| stamp(&files) == known.stamp) {
            return known.value.identity.parse().map_err(io::Error::other);
        }
    }
    let room = memory.make_room()?;
    let mut paths = vec![linker.display().to_string()];
    paths.push(resolve(call, ask(call, &linker, &["-print-prog-name=ld"])?.trim())?.display().to_string());
    for part in LINKED {
        let answer = ask(call, &linker, &[&format!("-print-file-name={part}")])?;
        // A part that it does not have is answered by its bare name.
        if answer.trim().starts_with('/') {
            paths.push(answer.trim().to_owned());
        }
    }
    let mut hasher = blake3::Hasher::new();
    hasher.update(env.as_bytes()).update(b"\0");
    for path in &paths {
        let name = Path::new(path).file_name().unwrap_or_default();
        hasher.update(name.as_encoded_bytes()).update(b"\0").update(digest(Path::new(path))?.as_bytes());
    }
    let identity = Digest::from(hasher.finalize());
    let files = paths.iter().map(|path| Listed::new(path.clone(), path)).collect::<Result<Vec<_>, _>>()?;
    let value = LinkerParts { paths, identity: identity.to_string() };
    memory.keep(room, &Known { stamp: stamp(&files), value });
    Ok(identity)
}

#[derive(Serialize, Deserialize)]
struct LinkerParts {
    paths: Vec<String>,
    identity: String,
}

/// Something remembered, and what it was true of.
#[derive(Serialize, Deserialize)]
struct Known<T> {
    stamp: String,
    value: T,
}

/// A remembered file. What is damaged is as good as forgotten.
pub(super) struct Memory<'a> {
    pub(super) folder: &'a Path,
    pub(super) name: String,
}

impl Memory<'_> {
    pub(super) fn recall<T: DeserializeOwned>(&self) -> Option<T> {
        let text = fs::read_to_string(self.folder.join(&self.name)).ok()?;
        let (sum, json) = text.split_once('\n')?;
        (blake3::hash(json.as_bytes()).to_string() == sum).then(|| serde_json::from_str(json).ok())?
    }

    /// A file that what is found out will be put into. Where that cannot be made, nothing can be remembered, and
    /// finding it out for each unit anew would take longer than compiling.
    pub(super) fn make_room(&self) -> io::Result<NamedTempFile> {
        fs::create_dir_all(self.folder)?;
        let mut file = NamedTempFile::new_in(self.folder)?;
        file.write_all(&[b'\n'; ROOM])?;
        Ok(file)
    }

    /// Failing to remember costs time, nothing else.
    pub(super) fn keep<T: Serialize>(&self, mut room: NamedTempFile, value: &T) {
        let keep = || -> io::Result<()> {
            let json = serde_json::to_string(value)?;
            let text = format!("{}\n{json}", blake3::hash(json.as_bytes()));
            room.rewind()?;
            room.write_all(text.as_bytes())?;
            room.as_file().set_len(text.len() as u64)?;
            room.persist(self.folder.join(&self.name))?;
            Ok(())
        };
        if let Err(error) = keep() {
            tracing::debug!(%error, name = self.name, "cannot remember");
        }
    }
}

fn short(name: &str) -> String {
    blake3::hash(name.as_bytes()).to_hex()[..32].to_owned()
}

/// A program as the system would find it, all links followed.
pub(super) fn resolve(call: &Call, program: &str) -> io::Result<PathBuf> {
    if program.contains('/') {
        return fs::canonicalize(call.cwd.join(program));
    }
    let path = call.var("PATH").unwrap_or_default();
    let runs = |file: &PathBuf| {
        fs::metadata(file).is_ok_and(|metadata| metadata.is_file() && metadata.mode() & 0o111 != 0)
    };
    let found = path.split(':').map(|folder| call.cwd.join(folder).join(program)).find(runs);
    fs::canonicalize(found.ok_or_else(|| io::Error::other(format!("there is no '{program}' in PATH")))?)
}

fn sysroot(call: &Call, compiler: &Path) -> io::Result<PathBuf> {
    let above = compiler.parent().and_then(Path::parent);
    if let Some(above) = above
        && compiler.ends_with("bin/rustc")
        && above.join("lib/rustlib").is_dir()
    {
        return Ok(above.to_path_buf());
    }
    if !is_proxy(compiler) {
        return Err(io::Error::other("another program stands in place of the compiler"));
    }
    fs::canonicalize(ask(call, Path::new(call.compiler()), &["--print", "sysroot"])?.trim())
}

/// Whether it is rustup, to which the names of all tools are links, symbolic or not.
fn is_proxy(compiler: &Path) -> bool {
    let node = |path: &Path| fs::metadata(path).map(|metadata| (metadata.dev(), metadata.ino()));
    let rustup = compiler.with_file_name("rustup");
    node(&rustup).is_ok_and(|rustup| node(compiler).is_ok_and(|compiler| compiler == rustup))
}

fn ask(call: &Call, program: &Path, args: &[&str]) -> io::Result<String> {
    let mut command = Command::new(program);
    command.args(args).current_dir(&call.cwd).env_clear().envs(&call.env).stdin(Stdio::null());
    let output = command.output()?;
    if !output.status.success() {
        return Err(io::Error::other(format!("{} {}: {}", program.display(), args.join(" "), output.status)));
    }
    String::from_utf8(output.stdout).map_err(io::Error::other)
}

struct Listed {
    name: String,
    path: PathBuf,
    metadata: Metadata,
}

impl Listed {
    fn new(name: String, path: impl Into<PathBuf>) -> io::Result<Self> {
        let path = path.into();
        let metadata = fs::metadata(&path)?;
        Ok(Self { name, path, metadata })
    }
}

/// The files of a toolchain that can have an effect: the compiler, its libraries, and the standard libraries of host
/// and target. Manifests, documentation and other targets differ between people who have the same compiler.
fn files(sysroot: &Path, host: &str, target: &str) -> io::Result<Vec<Listed>> {
    let mut files = vec![Listed::new("bin/rustc".into(), sysroot.join("bin/rustc"))?];
    for entry in fs::read_dir(sysroot.join("lib"))? {
        let entry = entry?;
        let file = Listed::new(format!("lib/{}", entry.file_name().display()), entry.path());
        files.extend(file.ok().filter(|file| file.metadata.is_file()));
        if files.len() > MAX_FILES {
            return Err(io::Error::other("there are too many files for a toolchain"));
        }
    }
    if !files.iter().any(|file| file.name.starts_with("lib/librustc_driver")) {
        return Err(io::Error::other("the compiler's library is not where rustup puts it"));
    }
    // With the sources of the standard library there, diagnostics show them and paths in outputs may be others.
    let sources = sysroot.join("lib/rustlib/src/rust/library/std/src/lib.rs");
    files.extend(Listed::new("lib/rustlib/src".into(), sources).ok());
    for part in [host, target, "etc"] {
        if !part.is_empty() && (part == host || part != target || target != host) {
            walk(&sysroot.join("lib/rustlib").join(part), &format!("lib/rustlib/{part}"), &mut files)?;
        }
    }
    files.sort_by(|one, other| one.name.cmp(&other.name));
    files.dedup_by(|one, other| one.name == other.name);
    Ok(files)
}

fn walk(folder: &Path, name: &str, files: &mut Vec<Listed>) -> io::Result<()> {
    let entries = match fs::read_dir(folder) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let file = Listed::new(format!("{name}/{}", entry.file_name().display()), entry.path())?;
        if files.len() > MAX_FILES {
            return Err(io::Error::other("there are too many files for a toolchain"));
        }
        if file.metadata.is_dir() {
            walk(&file.path, &file.name, files)?;
        } else {
            files.push(file);
        }
    }
    Ok(())
}

fn stamp(files: &[Listed]) -> String {
    let mut hasher = blake3::Hasher::new();
    for Listed { name, metadata, .. } in files {
        let times = (metadata.mtime(), metadata.mtime_nsec(), metadata.ctime(), metadata.ctime_nsec());
        let row = (name, metadata.dev(), metadata.ino(), metadata.len(), times);
        hasher.update(format!("{row:?}\n").as_bytes());
    }
    hasher.finalize().to_string()
}

/// The Digest of a file's content; that of a large one is remembered under its stamp.
pub(super) fn known_digest(call: &Call, path: &Path, metadata: &Metadata) -> io::Result<Digest> {
    if metadata.len() < LARGE {
        return digest(path);
    }
    let memory =
        Memory { folder: &call.toolchains, name: format!("file-{}", short(&path.display().to_string())) };
    let listed = || Listed::new(String::new(), path).map(|file| stamp(&[file]));
    let before = listed()?;
    if let Some(known) = memory.recall::<Known<String>>()
        && known.stamp == before
    {
        return known.value.parse().map_err(io::Error::other);
    }
    let digest = digest(path)?;
    // Somebody may have written to it meanwhile, or write to it again before the clock goes on.
    if let Ok(room) = memory.make_room()
        && listed()? == before
        && !Stamp::of(metadata).is_young(clock::now())
    {
        memory.keep(room, &Known { stamp: before, value: digest.to_string() });
    }
    Ok(digest)
}

/// The Digest of a file's content.
pub fn digest(path: &Path) -> io::Result<Digest> {
    let mut hasher = blake3::Hasher::new();
    hasher.update_reader(File::open(path)?)?;
    Ok(hasher.finalize().into())
}
