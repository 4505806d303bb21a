// SPDX-License-Identifier: MIT OR Apache-2.0
//! Look-ups through the engine of an index with a million Entries, in a process that has just been started.

use std::path::Path;
use std::process::Command;

use potluck_keys::pair::Pair;
use potluck_keys::signed::Signed;
use potluck_keys::time::Time;
use potluck_node::cache::Answer;
use potluck_node::content::Durability;
use potluck_node::engine::Engine;
use potluck_node::observe::{clock, span};
use potluck_node::store::Store;
use potluck_node::trust::{self, Addition};
use potluck_protocol::action::ActionId;
use potluck_protocol::entry::{BlobOutput, Entry, Labels, Output};
use potluck_tests::samples;
use serde_json::{Value, json};

use crate::door;
use crate::measure::{self, Figure};
use crate::scratch::{Report, on_disk, scaled, threads};

/// The first argument of the process that looks up.
pub(crate) const CHILD: &str = "look-up";

/// Different Blobs that Entries name.
const BLOBS: u64 = 10_000;
/// Entries between two commits that are durable.
const BATCH: u64 = 2_000;
/// Threads that sign and keep: as many as may share a commit.
const WRITERS: usize = 16;
const MB: f64 = 1e6;

fn entries() -> u64 {
    scaled(1_000_000, 10_000) as u64
}

pub(crate) fn part(report: &Report) {
    let folder = report.path("home");
    let building = measure::seconds(|| fill(&folder));
    let stored = on_disk(&folder.join("store")) as f64 / MB;
    report.note(&format!(
        "{} entries of a signer whom the owner trusts: made in {building:.0} s, {stored:.0} MB on disk",
        entries()
    ));
    let this = std::env::current_exe().expect("a program knows where it is");
    let asked = scaled(200_000, 5_000).to_string();
    let mut child = Command::new(this);
    let output = child.arg(CHILD).arg(&folder).args([entries().to_string(), asked]).output();
    let output = output.expect("this program can be started");
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    let found: Value = serde_json::from_slice(&output.stdout).expect("it prints one object");
    let asked = usize::try_from(found["asked"].as_u64().expect("it counts")).expect("it is small");
    let number = |name: &str| found[name].as_f64().expect("it is a number");
    let figure = |name: &str, unit| Figure::new(format!("lookup: {name}"), (number(name), unit), asked);
    report.figure(&figure("present p50", "us").at_most(20.0));
    report.figure(&figure("present p99", "us"));
    report.figure(&figure("absent p50", "us").at_most(5.0));
    report.figure(&figure("absent p99", "us"));
    report.figure(&Figure::new("lookup: open the engine", (number("open"), "ms"), 1));
    report.figure(&Figure::new("lookup: resident when opened", (number("resident opened"), "MB"), 1));
    let resident = Figure::new("lookup: resident in the end", (number("resident"), "MB"), 1);
    report.figure(&resident.at_most(200.0));
}

/// Actions that are learnt at a time.
const LEARN: usize = 4096;

fn key(n: u64) -> Vec<u8> {
    n.to_le_bytes().to_vec()
}

fn blob(n: u64) -> Vec<u8> {
    crate::material::noise(200, n)
}

/// A home whose owner trusts somebody, and the index full of what that one claims.
fn fill(folder: &Path) {
    let signer = samples::pair(7);
    let home = door::home(folder);
    let addition = Addition {
        name: "ci".to_owned(),
        key: signer.public(),
        comment: String::new(),
        project: door::PROJECT.to_owned(),
        recipe: None,
    };
    trust::add(&home, &addition).expect("the rule can be written");
    let engine = Engine::open(&home).expect("the engine can be opened");
    let blobs: Vec<_> = (0..BLOBS.min(entries())).map(|n| keep_blob(engine.store(), n)).collect();
    engine.store().index().settle().expect("the index can be written");
    let now = clock::now();
    threads(WRITERS, |thread| {
        for n in (0..entries()).skip(thread).step_by(WRITERS) {
            let blob = &blobs[usize::try_from(n % BLOBS).expect("it is small") % blobs.len()];
            keep_claim(engine.store(), n, &claim(n, (blob.clone(), now), &signer));
        }
    });
    engine.store().index().settle().expect("the index can be written");
}

/// Keeps a claim. Commits are durable now and then, since pages of the others cannot be used again until then.
fn keep_claim(store: &Store, n: u64, entry: &Signed<Entry>) {
    let index = store.index();
    let blob = *entry.authentic().expect("it was signed here").output.digest();
    index.keep_entry(entry, &[blob], Durability::Fast).expect("an entry can be kept");
    if n % BATCH == BATCH - 1 {
        index.settle().expect("the index can be written");
    }
}

fn keep_blob(store: &Store, n: u64) -> BlobOutput {
    let bytes = blob(n);
    let digest = store.keep(&bytes, Durability::Fast).expect("a blob can be kept");
    BlobOutput { digest, size: bytes.len() as u64 }
}

fn claim(n: u64, (blob, issued): (BlobOutput, Time), signer: &Pair) -> Signed<Entry> {
    let (project, recipe) = (door::project(), door::recipe());
    let action = ActionId::derive(&project, &recipe, &key(n), None).expect("the key is short");
    let entry = Entry {
        project,
        recipe,
        action,
        output: Output::Blob(blob),
        labels: Labels::default(),
        not_after: issued.plus(std::time::Duration::from_secs(86_400)),
        issued,
        taints: Vec::new(),
        replaces: None,
    };
    Signed::sign(&entry, &[signer]).expect("an entry fits")
}

/// The process that looks up: HOME ENTRIES ASKED.
#[expect(clippy::print_stdout, reason = "the answer of a benchmark")]
pub(crate) fn child(args: &[String]) {
    let [folder, entries, asked] = args else { panic!("a home and two numbers, not {args:?}") };
    let (entries, asked): (u64, u64) = (entries.parse().expect("a number"), asked.parse().expect("a number"));
    let opening = measure::clock();
    let engine = door::engine(Path::new(folder));
    let open = opening() * 1e3;
    let opened = resident();
    // As the daemon does beside everything else, once it has started.
    while !engine.store().index().learn(LEARN).expect("the index can be read") {}
    let runtime = door::runtime();
    // In a task, as the daemon answers.
    let times = runtime.block_on(async {
        span::spawn("bench", async move {
            let mut times = (Vec::new(), Vec::new());
            for n in 0..asked {
                // Steps of a prime go through all of them without any order.
                let present = n.wrapping_mul(7_919_317) % entries;
                times.0.push(ask(&engine, present, true).await);
                times.1.push(ask(&engine, entries + n, false).await);
            }
            times
        })
        .await
    });
    let (present, absent) = times.expect("the task ends");
    let (present, absent) = (Times::of(present), Times::of(absent));
    let object = json!({
        "asked": asked,
        "open": open,
        "present p50": present.at(0.5),
        "present p99": present.at(0.99),
        "absent p50": absent.at(0.5),
        "absent p99": absent.at(0.99),
        "resident opened": opened,
        "resident": resident(),
    });
    println!("{object}");
}

/// How long a look-up takes, in microseconds.
async fn ask(engine: &std::sync::Arc<Engine>, n: u64, is_there: bool) -> f64 {
    let key = key(n);
    let clock = measure::clock();
    let answer = door::lookup(engine, key).await;
    let took = clock() * 1e6;
    assert_eq!(matches!(answer, Answer::Hit(_)), is_there, "entry {n}");
    took
}

/// Times in ascending order.
struct Times(Vec<f64>);

impl Times {
    fn of(mut times: Vec<f64>) -> Self {
        times.sort_by(f64::total_cmp);
        Self(times)
    }

    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "a place in the list")]
    fn at(&self, share: f64) -> f64 {
        self.0[((self.0.len() as f64 * share) as usize).min(self.0.len() - 1)]
    }
}

/// What this process has in memory, in megabytes.
fn resident() -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix("VmRSS:"));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) * 1024.0 / MB
}
