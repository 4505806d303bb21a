// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tools that speak HTTP, as they are, against real daemons: what one has built others get, from whom they trust and from
//! nobody else, and no build fails whatever becomes of the daemon.

mod bazel;
mod ccache;
mod gradle;
mod hostile;
mod moon;
mod nx;
mod parts;
mod sccache;
mod socket;
mod wire;

use std::ffi::OsStr;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use potluck_tests::circle::{Circle, follows, list, up};
use potluck_tests::program::{Person, Up};
use serde_json::Value;

/// What came of a build, as the tool says itself.
#[derive(Debug)]
struct Built {
    /// What came from the cache.
    hits: usize,
    /// What was made.
    made: usize,
    /// All outputs, by the hashes of their bytes.
    outputs: Vec<(String, blake3::Hash)>,
}

/// A tool, and a small project that it builds.
trait Tool {
    /// How many keys the project has.
    const KEYS: u64;
    /// How many parts of it can come from the cache.
    const PARTS: usize;

    /// Writes the project into a folder, whose build ends the daemon of process `ends` halfway if there is one.
    fn lay(&self, folder: &Path, ends: Option<&str>);

    /// Builds it in a folder where it was laid, with the cache at an address, and nothing from earlier builds.
    fn build(&self, person: &Person, http: &str, folder: &Path) -> Built;
}

/// Lays and builds the project somewhere in somebody's folder.
#[track_caller]
fn build<T: Tool>(tool: &T, person: &Person, up: &Up<'_>, folder: &str) -> Built {
    let folder = person.path(folder);
    fs::create_dir_all(&folder).unwrap();
    tool.lay(&folder, None);
    tool.build(person, &up.http(), &folder)
}

/// What one has built another gets, in another folder by way of another daemon; who does not trust her gets nothing, and
/// builds.
fn share<T: Tool>(tool: &T) {
    let circle = Circle::new();
    let boot = circle.up();
    let ann = circle.member(None);
    let ann_up = up(&ann, &boot);
    let hers = build(tool, &ann, &ann_up, "src");
    assert_eq!((hers.hits, hers.made), (0, T::PARTS), "{hers:?}");

    let ben = circle.member(Some(&ann));
    patient(&ben);
    let ben_up = up(&ben, &boot);
    listed(&ben, &ann, T::KEYS);
    let his = build(tool, &ben, &ben_up, "some/where/else");
    assert_eq!((his.hits, his.made), (T::PARTS, 0), "{his:?}");
    assert!(his.outputs == hers.outputs, "the outputs differ");
    let status = ben.status();
    assert!(
        status["remote_hits"].as_u64() > Some(0) && status["bytes_fetched"].as_u64() > Some(0),
        "{status:#}"
    );

    // In the same Network, and believes nobody.
    let carol = circle.member(None);
    let carol_up = up(&carol, &boot);
    let before = carol.status()["bytes_fetched"].clone();
    let theirs = build(tool, &carol, &carol_up, "src");
    assert_eq!((theirs.hits, theirs.made), (0, T::PARTS), "{theirs:?}");
    assert_eq!(carol.status()["bytes_fetched"], before, "not a byte of a blob");

    // Followed her, and stopped believing her.
    ben.run(["trust", "remove", "ann"]).ok();
    ben.until("the end of following", |status| {
        list(&status["catalogs"]).iter().all(|row| row["own"] == true)
    });
    let theirs = build(tool, &ben, &ben_up, "once/more");
    assert_eq!((theirs.hits, theirs.made), (0, T::PARTS), "what she made is not used any more: {theirs:?}");
}

/// Waits for others as long as a machine that is busy may need.
fn patient(person: &Person) {
    let config = person.home().join("config.toml");
    let mut text = fs::read_to_string(&config).unwrap();
    for front in ["bazel", "ccache", "gradle", "nx", "webdav"] {
        text += &format!("\n[front.{front}]\ndeadline = \"30s\"\n");
    }
    fs::write(&config, text).unwrap();
}

/// Somebody who wants two builders to agree takes what both have built, each for himself; and is told that they agree.
fn agree<T: Tool>(tool: &T) {
    let circle = Circle::new();
    let boot = circle.up();
    let builders = [circle.member(None), circle.member(None)];
    let _ups = builders.each_ref().map(|builder| {
        let up = up(builder, &boot);
        let built = build(tool, builder, &up, "src");
        assert_eq!((built.hits, built.made), (0, T::PARTS), "{built:?}");
        up
    });
    let carol = circle.member(Some(&builders[0]));
    let key = builders[1].run(["key", "show", "me"]).ok();
    carol.run(["trust", "add", "bob", key.lines().next().unwrap(), "--project", "other/*"]).ok();
    let path = carol.home().join("trust.toml");
    let rules = fs::read_to_string(&path).unwrap();
    let accept = "accept = [\"ann\"]";
    let (before, after) = rules.split_at(rules.rfind(accept).unwrap());
    let both = format!("{before}agree = 2\naccept = [\"ann\", \"bob\"]{}", &after[accept.len()..]);
    fs::write(&path, both).unwrap();
    // It takes two to agree, and she would rather wait for both than make it herself.
    patient(&carol);
    let carol_up = up(&carol, &boot);
    carol.until("both catalogs, and whom to ask about each", |status| {
        ["ann", "bob"].iter().all(|name| {
            let of = |row: &Value| row["signer"] == *name;
            let whole = |row: &Value| of(row) && row["keys"].as_u64() >= Some(T::KEYS);
            let holds = |peer: &Value| list(&peer["holds"]).iter().any(of);
            list(&status["catalogs"]).iter().any(whole) && list(&status["peers"]).iter().any(holds)
        })
    });
    let hers = build(tool, &carol, &carol_up, "some/where/else");
    assert_eq!((hers.hits, hers.made), (T::PARTS, 0), "{hers:?} {:#}", carol.status());
    let audit: Value = serde_json::from_str(&carol.run(["--json", "audit"]).ok()).unwrap();
    assert_eq!((&audit["agreed"], &audit["disputed"]), (&T::KEYS.into(), &0.into()), "{audit:#}");
}

/// A peer that has everything took a question and stands still: who asked builds, and neither waits for it nor fails.
fn stalled<T: Tool>(tool: &T) {
    let circle = Circle::new();
    let boot = circle.up();
    let ann = circle.member(None);
    let ann_up = up(&ann, &boot);
    build(tool, &ann, &ann_up, "src");
    let ben = circle.member(Some(&ann));
    let ben_up = up(&ben, &boot);
    listed(&ben, &ann, T::KEYS);
    // Her Catalog is what he has of hers.
    let before = ben.status()["bytes_fetched"].clone();
    let still = ann_up.still();
    let his = build(tool, &ben, &ben_up, "some/where/else");
    assert!(still.is_still(), "it was all the time");
    assert_eq!((his.hits, his.made), (0, T::PARTS), "{his:?}");
    let status = ben.status();
    assert!(status["misses"].as_u64() >= Some(T::PARTS as u64), "{status:#}");
    assert_eq!(status["bytes_fetched"], before, "{status:#}");
    drop(still);
}

/// A build goes on when the daemon is killed in the middle of it, and another one without any daemon works as well.
fn outlive<T: Tool>(tool: &T) {
    let person = Person::at_home();
    let up = person.up(&[]);
    let (http, pid) = (up.http(), up.ready["pid"].to_string());
    let folder = person.path("src");
    fs::create_dir_all(&folder).unwrap();
    tool.lay(&folder, Some(&pid));
    let built = tool.build(&person, &http, &folder);
    assert_eq!(built.hits, 0, "{built:?}");
    assert!(!built.outputs.is_empty());
    assert!(!Path::new(&format!("/proc/{pid}/exe")).exists(), "the daemon was not ended");
    std::mem::forget(up);
}

/// Waits until somebody follows all that ann has published, under so many keys.
#[track_caller]
fn listed(person: &Person, ann: &Person, keys: u64) {
    follows(person, ann, |own, _| own["keys"].as_u64() >= Some(keys));
}

/// A program, which knows nothing of the machine's user but where programs are.
fn program(person: &Person, program: impl AsRef<OsStr>, folder: &Path) -> Command {
    let mut command = Command::new(program);
    command
        .env_clear()
        .env("HOME", person.path(""))
        .env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.current_dir(folder).stdin(Stdio::null());
    command
}

/// What a run that has to go well says.
#[track_caller]
fn said(command: &mut Command) -> String {
    let Output { status, stdout, stderr } = command.output().unwrap();
    let said = [stdout, stderr].concat();
    let said = String::from_utf8_lossy(&said).into_owned();
    assert!(status.success(), "{command:?}: {said}");
    said
}

/// The hashes of these files of a folder.
#[track_caller]
fn files(folder: &Path, names: impl IntoIterator<Item = impl AsRef<Path>>) -> Vec<(String, blake3::Hash)> {
    let read = |name: &Path| {
        let path: PathBuf = folder.join(name);
        let bytes = fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        (name.display().to_string(), blake3::hash(&bytes))
    };
    names.into_iter().map(|name| read(name.as_ref())).collect()
}
