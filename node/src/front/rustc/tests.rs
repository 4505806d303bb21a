// SPDX-License-Identifier: MIT OR Apache-2.0
//! The whole course with the real compiler, and a door in memory.

mod faults;
mod inputs;

use std::collections::HashMap;
use std::ffi::OsStr;
use std::fs;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use potluck_protocol::action::Project;
use potluck_protocol::control::{Answer, Miss};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::Output;
use tokio::io::{AsyncRead, AsyncReadExt as _};

use super::stall::{Limits, Stall};
use super::{Call, Decision, Placed, plan, shim};
use crate::cache::{Cache, CacheError, Publication, Question, Stretches};

/// What a door in memory holds.
#[derive(Default)]
struct Held {
    blobs: HashMap<Digest, Vec<u8>>,
    entries: HashMap<Vec<u8>, Output>,
    hits: usize,
    /// Done at each look-up.
    meanwhile: Option<Box<dyn Fn() + Send>>,
    fault: Fault,
    calls: Vec<&'static str>,
    deadlines: Vec<Duration>,
}

/// What a door does instead of its work.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
enum Fault {
    #[default]
    None,
    /// It never answers this, nor whether it is alive from then on.
    Hangs(&'static str),
    /// It never answers this, and is alive.
    Dawdles(&'static str),
    /// It panics at this.
    Panics(&'static str),
    /// It is gone from this on.
    Gone(&'static str),
}

#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Held>>);

impl Memory {
    async fn enter(&self, call: &'static str) -> Result<(), CacheError> {
        let fault = {
            let mut held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
            held.calls.push(call);
            held.fault
        };
        match fault {
            Fault::Hangs(at) if at == call || (call == "missing" && self.called(at) > 0) => {
                std::future::pending().await
            }
            Fault::Dawdles(at) if at == call => std::future::pending().await,
            Fault::Gone(at) if self.called(at) > 0 => {
                Err(CacheError::Unreachable(std::io::ErrorKind::ConnectionReset.into()))
            }
            Fault::Panics(at) => {
                assert_ne!(at, call, "as it was told to");
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn called(&self, call: &str) -> usize {
        let held = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        held.calls.iter().filter(|own| **own == call).count()
    }

    fn set(&self, fault: Fault) {
        let mut held = self.0.lock().unwrap();
        held.fault = fault;
        held.calls.clear();
        held.deadlines.clear();
    }
}

impl Cache for Memory {
    async fn lookup(&self, question: Question) -> Result<Vec<Answer>, CacheError> {
        self.enter("lookup").await?;
        let mut held = self.0.lock().unwrap();
        let found = held.entries.get(&question.keys[0]).cloned();
        held.hits += usize::from(found.is_some());
        held.deadlines.push(question.deadline);
        if let Some(meanwhile) = &held.meanwhile {
            meanwhile();
        }
        Ok(vec![found.map_or(Answer::Miss(Miss::Unclaimed), Answer::Hit)])
    }

    async fn missing(&self, _: Vec<Digest>) -> Result<Vec<Digest>, CacheError> {
        self.enter("missing").await?;
        Ok(Vec::new())
    }

    async fn read(&self, digest: Digest, _: Option<Range<u64>>) -> Result<Stretches, CacheError> {
        self.enter("read").await?;
        let bytes = self.0.lock().unwrap().blobs.get(&digest).cloned().ok_or(CacheError::NotHere(digest))?;
        let (to, stretches) = tokio::sync::mpsc::channel(1);
        to.try_send(Ok(bytes.into())).expect("there is room for one");
        Ok(stretches.into())
    }

    async fn write(&self, mut from: impl AsyncRead + Send + Unpin) -> Result<(Digest, u64), CacheError> {
        self.enter("write").await?;
        let mut bytes = Vec::new();
        from.read_to_end(&mut bytes).await.map_err(CacheError::Source)?;
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        self.0.lock().unwrap().blobs.insert(digest, bytes);
        Ok((digest, size))
    }

    async fn publish(&self, publication: Publication) -> Result<Digest, CacheError> {
        self.enter("publish").await?;
        self.0.lock().unwrap().entries.insert(publication.key, publication.output);
        Ok(Digest::of(b"entry"))
    }
}

/// A workspace with one library, built as cargo would.
struct Checkout {
    folder: PathBuf,
    toolchains: PathBuf,
    /// Variables; nothing takes one away.
    env: Vec<(&'static str, Option<String>)>,
    /// More arguments.
    args: Vec<String>,
    source: String,
    limits: [Limits; 2],
}

impl Checkout {
    fn new(folder: &Path, text: &str) -> Self {
        fs::create_dir_all(folder.join("src")).unwrap();
        fs::create_dir_all(folder.join("target/debug/deps")).unwrap();
        fs::write(folder.join("target/CACHEDIR.TAG"), "").unwrap();
        fs::write(folder.join("Cargo.toml"), "").unwrap();
        fs::write(folder.join("src/lib.rs"), text).unwrap();
        // One for all, so that the compiler is hashed once.
        let toolchains = Path::new(env!("CARGO_MANIFEST_DIR")).join("../target/toolchains");
        let (env, args, source) = (Vec::new(), Vec::new(), "src/lib.rs".to_owned());
        let limits = [Limits::USUAL, Limits::TIRED];
        Self { folder: folder.to_path_buf(), toolchains, env, args, source, limits }
    }

    fn call(&self) -> Call {
        let out_dir = self.folder.join("target/debug/deps").display().to_string();
        let rustc = std::env::var("RUSTC").unwrap_or_else(|_| "rustc".to_owned());
        let source = &self.source;
        let args = format!(
            "{rustc} --crate-name app --edition=2021 {source} --error-format=json --json=artifacts --crate-type lib \
             --emit=dep-info,metadata,link -C debuginfo=2 -C metadata=1 -C extra-filename=-1 --out-dir {out_dir} \
             -L dependency={out_dir}"
        );
        let args = args.split_whitespace().map(str::to_owned).chain(self.args.iter().cloned());
        let mut env: std::collections::BTreeMap<_, _> = std::env::vars_os().collect();
        env.insert("CARGO_MANIFEST_DIR".into(), self.folder.clone().into());
        env.remove(OsStr::new("OUT_DIR"));
        for (name, value) in &self.env {
            match value {
                Some(value) => drop(env.insert((*name).into(), value.into())),
                None => drop(env.remove(OsStr::new(name))),
            }
        }
        let mark = self.folder.join("target/stalled");
        let stalled = Stall::of(mark, Some("1-a".to_owned()), self.limits);
        Call {
            args: args.map(Into::into).collect(),
            cwd: fs::canonicalize(&self.folder).unwrap(),
            env,
            project: Project::new("default").unwrap(),
            deadline: stalled.deadline(Duration::from_millis(50)),
            toolchains: self.toolchains.clone(),
            stalled: Some(stalled),
            log: Some(self.folder.join("target/log")),
            home: None,
            this: None,
        }
    }

    async fn build(&self, door: &Memory) -> serde_json::Value {
        let call = self.call();
        let code = shim(Some(door.clone()), call.clone(), placed(&call)).await;
        assert_eq!(code, std::process::ExitCode::SUCCESS);
        let log = fs::read_to_string(self.folder.join("target/log")).unwrap();
        serde_json::from_str(log.lines().last().unwrap()).unwrap()
    }

    fn write(&self, name: &str, text: impl AsRef<[u8]>) {
        let path = self.folder.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    fn output(&self, name: &str) -> PathBuf {
        self.folder.join("target/debug/deps").join(name)
    }

    fn read(&self, name: &str) -> Vec<u8> {
        fs::read(self.output(name)).unwrap()
    }

    /// The names of all that lies in the output folder.
    fn outputs(&self) -> Vec<String> {
        let entries = fs::read_dir(self.output("")).unwrap();
        let mut names: Vec<_> =
            entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }
}

fn placed(call: &Call) -> Placed {
    match plan(call) {
        Decision::Cacheable(placed) => *placed,
        other => panic!("{other:?}"),
    }
}

const CODE: &str = "pub fn hello() -> &'static str { panic!(\"{}\", file!()) }\nfn unused() {}\n";

#[tokio::test]
async fn what_one_checkout_compiled_another_restores() {
    let folder = tempfile::tempdir().unwrap();
    let door = Memory::default();
    let here = Checkout::new(&folder.path().join("a"), CODE);
    let there = Checkout::new(&folder.path().join("deeper/by/far"), CODE);
    let compiled = here.build(&door).await;
    assert_eq!(
        (&compiled["outcome"], &compiled["published"]),
        (&"compiled".into(), &true.into()),
        "{compiled}"
    );
    let restored = there.build(&door).await;
    assert_eq!(restored["outcome"], "restored", "{restored}");
    assert_eq!(restored["key"], compiled["key"]);
    assert_eq!(door.0.lock().unwrap().hits, 1);
    for name in ["libapp-1.rlib", "libapp-1.rmeta"] {
        assert_eq!(here.read(name), there.read(name), "{name}");
    }
    let moved = String::from_utf8(here.read("app-1.d")).unwrap();
    let moved = moved.replace(here.folder.to_str().unwrap(), there.folder.to_str().unwrap());
    assert_eq!(String::from_utf8(there.read("app-1.d")).unwrap(), moved);
    // What a compiler makes there by itself is the same.
    let fresh = Checkout::new(&folder.path().join("z"), CODE);
    fresh.build(&Memory::default()).await;
    assert_eq!(fresh.read("libapp-1.rlib"), here.read("libapp-1.rlib"));
}

#[tokio::test]
async fn what_names_a_folder_or_reads_beyond_the_key_is_not_published() {
    let folder = tempfile::tempdir().unwrap();
    let door = Memory::default();
    let leak = format!("pub const X: &str = {:?};", folder.path().join("leak"));
    for (name, code, reason) in [
        ("leak", leak.as_str(), "the workspace folder is named in"),
        (
            "env",
            "macro_rules! read { ($name:literal) => { option_env!($name) } } pub const X: Option<&str> = read!(\"ELSE\");",
            "it read the variable ELSE",
        ),
        (
            "file",
            "pub const X: &str = include_str!(concat!(\"..\", \"/../outside\"));",
            "it read src/../../outside",
        ),
    ] {
        let checkout = Checkout::new(&folder.path().join(name), code);
        fs::write(folder.path().join("outside"), "x").unwrap();
        let line = checkout.build(&door).await;
        assert_eq!(line["published"], false, "{name}");
        assert!(line["reason"].as_str().unwrap().contains(reason), "{name}: {line}");
    }
    let inside =
        Checkout::new(&folder.path().join("named"), "pub const X: &str = include_str!(\"../../outside\");");
    assert_eq!(inside.build(&door).await["published"], true);
    fs::write(folder.path().join("outside"), "y").unwrap();
    assert_eq!(inside.build(&door).await["outcome"], "compiled", "the file outside is in the key");
}

#[tokio::test]
async fn a_planted_link_is_replaced_and_not_followed() {
    let folder = tempfile::tempdir().unwrap();
    let door = Memory::default();
    Checkout::new(&folder.path().join("a"), CODE).build(&door).await;
    let there = Checkout::new(&folder.path().join("b"), CODE);
    let victim = folder.path().join("victim");
    fs::write(&victim, "mine").unwrap();
    std::os::unix::fs::symlink(&victim, there.output("libapp-1.rlib")).unwrap();
    assert_eq!(there.build(&door).await["outcome"], "restored");
    assert_eq!(fs::read_to_string(&victim).unwrap(), "mine");
    assert!(there.output("libapp-1.rlib").symlink_metadata().unwrap().is_file());
}

#[tokio::test]
async fn a_damaged_or_foreign_hit_is_compiled_after_all() {
    let folder = tempfile::tempdir().unwrap();
    let door = Memory::default();
    let here = Checkout::new(&folder.path().join("a"), CODE);
    here.build(&door).await;
    let there = Checkout::new(&folder.path().join("b"), CODE);
    door.0.lock().unwrap().blobs.values_mut().for_each(|blob| blob.truncate(blob.len() - 1));
    let line = there.build(&door).await;
    assert_eq!(line["outcome"], "compiled", "{line}");
    assert_eq!(there.read("libapp-1.rlib"), here.read("libapp-1.rlib"));
    let left = there.outputs();
    assert_eq!(left.len(), 3, "{left:?}");
}

#[test]
fn what_is_not_rustc_or_not_cargo_s_is_passed_through() {
    let folder = tempfile::tempdir().unwrap();
    let checkout = Checkout::new(folder.path(), CODE);
    let refused = |change: &dyn Fn(&mut Call)| {
        let mut call = checkout.call();
        change(&mut call);
        matches!(plan(&call), Decision::PassThrough(_))
    };
    assert!(!refused(&|_| {}));
    assert!(refused(&|call| call.args[0] = "/bin/clippy-driver".into()));
    assert!(refused(&|call| call.args.clear()));
    assert!(refused(&|call| drop(call.env.remove(OsStr::new("CARGO_MANIFEST_DIR")))));
    assert!(refused(&|call| drop(call.env.insert("RUST_TARGET_PATH".into(), "x".into()))));
    fs::remove_file(folder.path().join("target/CACHEDIR.TAG")).unwrap();
    assert!(refused(&|_| {}));
}
