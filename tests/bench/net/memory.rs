// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a daemon has in memory that has a million Entries of its own and follows fifty Catalogs of a hundred thousand
//! keys: in a process of its own, at rest and after it was asked.

use std::path::Path;
use std::process::Command;

use potluck_node::content::Durability;
use potluck_node::observe::clock;
use potluck_protocol::action::ActionId;
use potluck_protocol::entry::{BlobOutput, Entry, Labels, Output};

use crate::door;
use crate::material::noise;
use crate::measure::Figure;
use crate::miss;
use crate::party::{Party, network};
use crate::scratch::{Report, scaled, threads};

/// By this the process knows that it is the one that is measured.
pub(crate) const CHILD: &str = "--a-large-node";

/// Writers at a time.
const WRITERS: usize = 4;
/// Entries that are committed durably together.
const BATCH: usize = 10_000;
/// Actions that are learnt at a time.
const LEARN: usize = 4096;
const MB: f64 = 1e6;

fn own() -> usize {
    scaled(1_000_000, 10_000)
}

fn key(n: usize) -> Vec<u8> {
    format!("own {n}").into_bytes()
}

pub(crate) fn part(report: &Report) {
    let home = report.path("home");
    miss::fill(&home);
    publish(&home);
    let this = std::env::current_exe().expect("a benchmark knows where it is");
    let ran = Command::new(this).arg(CHILD).arg(&home).output().expect("it can be started");
    let said = String::from_utf8_lossy(&ran.stdout).into_owned();
    assert!(ran.status.success(), "{said}{}", String::from_utf8_lossy(&ran.stderr));
    let object: serde_json::Value = serde_json::from_str(said.trim()).expect("it says numbers");
    let number = |name: &str| object[name].as_f64().expect("a number");
    report.note(&format!("{} Entries of its own, {} keys of others", own(), miss::all_keys()));
    for name in ["resident at rest", "resident after look-ups"] {
        report.figure(&Figure::new(format!("memory: {name}"), (number(name), "MB"), 1).at_most(400.0));
    }
    report.figure(&Figure::new("memory: most at any time", (number("peak"), "MB"), 1));
}

/// A home that has made so many Entries, with a Catalog that lists them.
fn publish(folder: &Path) {
    let engine = door::engine(folder);
    let pair =
        door::home(folder).ring().expect("there are keys").load("me", || None).expect("it is not locked");
    let (store, issued) = (engine.store(), clock::now());
    let blob = noise(200, 1);
    let output =
        BlobOutput { digest: store.keep(&blob, Durability::Durable).expect("it is kept"), size: 200 };
    threads(WRITERS, |thread| {
        for n in (0..own()).skip(thread).step_by(WRITERS) {
            let (project, recipe) = (door::project(), door::recipe());
            let action = ActionId::derive(&project, &recipe, &key(n), None).expect("the key is short");
            let entry = Entry {
                project,
                recipe,
                action,
                output: Output::Blob(output.clone()),
                labels: Labels::default(),
                not_after: issued.plus(std::time::Duration::from_secs(86_400)),
                issued,
                taints: Vec::new(),
                replaces: None,
            };
            let entry = potluck_keys::signed::Signed::sign(&entry, &[&pair]).expect("an entry fits");
            let index = store.index();
            index.publish(&entry, &[output.digest], Durability::Fast).expect("it can be kept");
            if n % BATCH == BATCH - 1 {
                index.settle().expect("the index can be written");
            }
        }
    });
    while engine.flush(&door::project()).expect("the catalog can be written").rest {}
    while engine.merge(&door::project()).expect("the catalog can be merged").more {}
    engine.settle(true).expect("the index can be written");
}

/// The process that is measured: HOME.
#[expect(clippy::print_stdout, reason = "the answer of a benchmark")]
pub(crate) fn child(args: &[String]) {
    let [folder] = args else { panic!("a home, not {args:?}") };
    let object = door::runtime().block_on(async {
        let node = Party::start(Path::new(folder), &network(), &[]).await;
        node.follows(miss::all_keys()).await;
        let engine = std::sync::Arc::clone(node.engine());
        while !engine.store().index().learn(LEARN).expect("the index can be read") {}
        let rest = memory("VmRSS:");
        for n in (0..own()).step_by(50) {
            assert!(node.finds(&key(n)).await.is_some(), "its own it has");
            assert!(node.finds(&key(own() + n)).await.is_none(), "and others not");
        }
        let (after, peak) = (memory("VmRSS:"), memory("VmHWM:"));
        drop(engine);
        node.stop().await;
        serde_json::json!({ "resident at rest": rest, "resident after look-ups": after, "peak": peak })
    });
    println!("{object}");
}

/// What this process has in memory by a line of its status, in megabytes.
fn memory(name: &str) -> f64 {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kib = line.and_then(|line| line.split_whitespace().next()?.parse::<f64>().ok());
    kib.unwrap_or(f64::NAN) * 1024.0 / MB
}
