// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tells the daemon of each unit that a build asks for, so that it learns what builds of this kind ask for and can fetch
//! it ahead; see [`crate::ahead`].

use std::fs::File;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use potluck_protocol::action::Recipe;
use potluck_protocol::codec::{Bytes, Text};
use potluck_protocol::control::Note;
use potluck_protocol::digest::Digest;

use super::diary::{self, Header};
use super::publish::recipe;
use super::unit::Unit;
use super::{Call, Placed, verify};
use crate::ahead::run::Run;
use crate::cache::Cache;

/// Largest lock file that is read, in bytes.
const MAX_LOCK: u64 = 8 << 20;
const CONTEXT: &str = "potluck 2026 cargo-plan@1 key of a build";
/// Options of cargo that do not change what is compiled: how much is said, how much at a time, and where things lie.
const IDLE: &[&str] = &[
    "-q",
    "--quiet",
    "-v",
    "-vv",
    "--verbose",
    "--offline",
    "--locked",
    "--frozen",
    "--keep-going",
    "-k",
    "--no-fail-fast",
    "--timings",
    "--future-incompat-report",
    "--ignore-rust-version",
];
/// The same with a value of their own.
const IDLE_WITH_VALUE: &[&str] = &[
    "-j",
    "--jobs",
    "--color",
    "--message-format",
    "--manifest-path",
    "--target-dir",
    "--artifact-dir",
    "-C",
];
/// Variables that change what all units are.
const ENV: &[&str] = &["RUSTFLAGS", "CARGO_ENCODED_RUSTFLAGS", "CARGO_BUILD_TARGET", "CARGO_INCREMENTAL"];

/// Tells of a unit; of the first one of a build, what the build is as well.
pub(super) async fn tell<C: Cache>(
    door: &C,
    call: &Call,
    (placed, toolchain): (&Placed, &str),
    key: &[u8; 32],
) {
    let home = call.home.as_ref().filter(|_| !verify::is_asked(call));
    let Some((home, run)) = home.zip(Run::of_this_process()) else { return };
    let first = diary::begins(&diary::folder(home), &run);
    let plan = first.then(|| kind(call, &Header::of(&run), toolchain)).flatten();
    let note = || {
        Some(Note {
            build: Text::new(&run.name)?,
            pid: run.pid.into(),
            project: call.project.clone(),
            unit: Text::new(name(&placed.unit, ""))?,
            recipe: recipe(),
            key: Bytes::new(key.to_vec())?,
            plan: plan.and_then(|plan| Bytes::new(plan.to_vec())),
        })
    };
    if let Some(note) = note() {
        door.note(note).await;
    }
}

/// Tells of something more that a unit asks for.
pub(super) async fn tell_more<C: Cache>(door: &C, (call, unit): (&Call, &Unit), what: &str, key: [u8; 32]) {
    tell_of(door, call, &name(unit, what), (recipe(), key)).await;
}

/// Tells of something else that a build asks for.
pub(super) async fn tell_of<C: Cache>(door: &C, call: &Call, unit: &str, (recipe, key): (Recipe, [u8; 32])) {
    let home = call.home.as_ref().filter(|_| !verify::is_asked(call));
    let Some((_, run)) = home.zip(Run::of_this_process()) else { return };
    let note = || {
        let (build, unit) = (Text::new(&run.name)?, Text::new(unit)?);
        let key = Bytes::new(key.to_vec())?;
        Some(Note {
            build,
            pid: run.pid.into(),
            project: call.project.clone(),
            unit,
            recipe,
            key,
            plan: None,
        })
    };
    if let Some(note) = note() {
        door.note(note).await;
    }
}

/// A unit's name: `cargo check` and `cargo build` make two of one. What is long is told apart by its hash.
fn name(unit: &Unit, what: &str) -> String {
    let name = format!("{} {} {:?}{what}", unit.stem(), unit.kind.name(), unit.emit);
    if name.len() <= 128 { name } else { Digest::of(name.as_bytes()).to_string() }
}

/// What builds have in common that ask for the same units, as long as nobody edits anything: lock file, compiler, and
/// what cargo was told to build, in which of the workspace's folders.
fn kind(call: &Call, header: &Header, toolchain: &str) -> Option<[u8; 32]> {
    let folder = PathBuf::from(&header.folder);
    let start = match value_of(&header.command, "--manifest-path") {
        Some(manifest) => folder.join(manifest).parent()?.to_owned(),
        None => folder,
    };
    let (top, lock) = start.ancestors().find_map(|top| Some((top, lock(&top.join("Cargo.lock"))?)))?;
    let within = start.strip_prefix(top).ok()?.to_str()?.to_owned();
    let mut fields = vec![lock.to_string(), toolchain.to_owned(), within];
    fields.extend(essential(&header.command).into_iter().map(str::to_owned));
    for name in ENV {
        fields.push(format!("{name}={}", call.var(name).unwrap_or("\0")));
    }
    let mut hasher = blake3::Hasher::new_derive_key(CONTEXT);
    for field in &fields {
        hasher.update(&(field.len() as u64).to_le_bytes());
        hasher.update(field.as_bytes());
    }
    Some(*hasher.finalize().as_bytes())
}

fn lock(path: &Path) -> Option<Digest> {
    let mut bytes = Vec::new();
    File::open(path).ok()?.take(MAX_LOCK + 1).read_to_end(&mut bytes).ok()?;
    (bytes.len() as u64 <= MAX_LOCK).then(|| Digest::of(&bytes))
}

fn value_of<'a>(command: &'a [String], option: &str) -> Option<&'a str> {
    let mut words = command.iter();
    words
        .find_map(|word| match word.strip_prefix(option)? {
            "" => None,
            rest => rest.strip_prefix('='),
        })
        .or_else(|| {
            let at = command.iter().position(|word| word == option)?;
            command.get(at + 1).map(String::as_str)
        })
}

/// What of cargo's arguments changes what is compiled.
fn essential(command: &[String]) -> Vec<&str> {
    let mut words = command.iter().skip(1).map(String::as_str);
    let mut essential = Vec::new();
    while let Some(word) = words.next() {
        // What follows is for the program that is run.
        if word == "--" {
            break;
        }
        if word.starts_with('+') || IDLE.contains(&word) {
            continue;
        }
        if IDLE_WITH_VALUE.contains(&word) {
            words.next();
            continue;
        }
        let with_value = |option: &str| {
            let rest = word.strip_prefix(option);
            rest.is_some_and(|rest| rest.starts_with('=') || (option.len() == 2 && !rest.is_empty()))
        };
        if !IDLE_WITH_VALUE.iter().any(|option| with_value(option)) {
            essential.push(word);
        }
    }
    essential
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(line: &str) -> Vec<String> {
        line.split_whitespace().map(str::to_owned).collect()
    }

    #[test]
    fn what_only_changes_how_cargo_works_makes_no_other_build() {
        for (line, expected) in [
            ("cargo build", "build"),
            ("cargo +nightly build -q --locked -j 4 --jobs=2 -j8 --release", "build --release"),
            (
                "cargo build --target-dir /x --features a,b -p app --color=never",
                "build --features a,b -p app",
            ),
            ("cargo run --release -- --features no", "run --release"),
            ("cargo test --workspace --message-format json", "test --workspace"),
        ] {
            assert_eq!(essential(&words(line)).join(" "), expected, "{line}");
        }
        assert_eq!(
            value_of(&words("cargo build --manifest-path a/Cargo.toml"), "--manifest-path"),
            Some("a/Cargo.toml")
        );
        assert_eq!(value_of(&words("cargo build --manifest-path=b"), "--manifest-path"), Some("b"));
        assert_eq!(value_of(&words("cargo build"), "--manifest-path"), None);
    }

    #[test]
    fn builds_are_of_one_kind_wherever_they_lie_and_of_another_for_another_lock_file() {
        let call = |flags: Option<&str>| Call {
            args: Vec::new(),
            cwd: "/".into(),
            env: flags.map(|flags| ("RUSTFLAGS".into(), flags.into())).into_iter().collect(),
            project: potluck_protocol::action::Project::default(),
            deadline: std::time::Duration::ZERO,
            toolchains: "/".into(),
            stalled: None,
            log: None,
            home: None,
            this: None,
        };
        let (one, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
        for folder in [&one, &other] {
            std::fs::create_dir(folder.path().join("member")).unwrap();
            std::fs::write(folder.path().join("Cargo.lock"), "lock").unwrap();
        }
        let of = |folder: &Path, line: &str, toolchain: &str, flags: Option<&str>| {
            let folder = folder.to_str().unwrap().to_owned();
            let header = Header { command: words(line), folder, ..Header::default() };
            kind(&call(flags), &header, toolchain)
        };
        let usual = of(one.path(), "cargo build", "t", None).unwrap();
        assert_eq!(of(other.path(), "cargo build -q", "t", None), Some(usual));
        let manifest = format!("cargo build --manifest-path {}/Cargo.toml", one.path().display());
        assert_eq!(of(Path::new("/"), &manifest, "t", None), Some(usual));
        for different in [
            of(one.path(), "cargo build --release", "t", None),
            of(one.path(), "cargo build", "u", None),
            of(one.path(), "cargo build", "t", Some("-Cx")),
            of(&one.path().join("member"), "cargo build", "t", None),
        ] {
            assert!(different.is_some_and(|different| different != usual));
        }
        std::fs::write(other.path().join("Cargo.lock"), "another").unwrap();
        assert_ne!(of(other.path(), "cargo build", "t", None), Some(usual));
        let large = File::create(other.path().join("Cargo.lock")).unwrap();
        large.set_len(MAX_LOCK + 1).unwrap();
        assert_eq!(of(other.path(), "cargo build", "t", None), None);
    }
}
