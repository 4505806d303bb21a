// SPDX-License-Identifier: MIT OR Apache-2.0
//! Folders by hand: one brought back that a build has left, and one put that has not changed.

use std::path::Path;
use std::process::Command;

use potluck_tests::program::Person;

use crate::door;
use crate::material::{build_folder, many_files};
use crate::measure::{Figure, median, ratio, rounds, seconds};
use crate::scratch::{Report, both, length, remove, scaled, walk};

const RESTORES: usize = 9;
const PUTS: usize = 5;

/// The key under which the folder stands, and how the program writes it.
const KEY: [u8; 2] = [0xbe, 0xc4];
const HEX: &str = "bec4";

fn milliseconds(seconds: &[f64]) -> (f64, &'static str) {
    (median(seconds.to_vec()) * 1e3, "ms")
}

/// Runs a verb; gives what it said when it failed.
fn verb(person: &Person, verb: &str, path: &Path) -> Result<(), String> {
    let which = [verb, "--project", door::PROJECT, "--recipe", door::RECIPE, "--key", HEX];
    let mut command = person.command(which);
    let output = command.arg(path).output().expect("the program can be started");
    if output.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&output.stderr);
    Err(said.lines().next().unwrap_or_default().replace(&path.display().to_string(), "PATH"))
}

pub(crate) fn restore(report: &Report) {
    let from = report.path("from");
    let bytes = build_folder(&from, scaled_folder());
    let files = walk(&from).len();
    report.note(&format!("{files} files of a target folder, {} MB", bytes / 1_000_000));
    let person = Person::at_home_in(report.folder());
    let _daemon = person.daemon();
    door::runtime().block_on(async {
        let client = door::connect(&person.home()).await;
        door::publish_folder(&client, &from, &KEY).await;
    });
    let to = report.path("to");
    let copied = || {
        let took = seconds(|| {
            let copied = Command::new("cp").arg("-r").args([&from, &to]).status().expect("cp runs");
            assert!(copied.success());
        });
        remove(&to);
        took
    };
    let figure = |name: &str, value| Figure::new(format!("restore: {name}"), value, RESTORES);
    let first = verb(&person, "get", &to);
    if first.is_ok() {
        assert_eq!((walk(&to).len(), length(&to)), (files, bytes), "everything is brought");
        remove(&to);
        let mut got = || {
            let took = seconds(|| verb(&person, "get", &to).expect("it worked a moment ago"));
            remove(&to);
            took
        };
        let [ours, copying] = &rounds(RESTORES, [&mut got, &mut { copied }]);
        report.figure(&figure("potluck get", milliseconds(ours)));
        report.figure(&figure("cp -r beside it", milliseconds(copying)));
        report.figure(&figure("potluck get / cp -r", (ratio(ours, copying), "x")).at_most(1.3));
    }
    if let Err(why) = first {
        report.note(&format!("no `potluck get` of a folder: {why}"));
    }
    // Two engines on one store there must never be.
}

fn scaled_folder() -> (usize, u64) {
    (scaled(1_000, 50), scaled(90_000_000, 4_000_000) as u64)
}

pub(crate) fn put_unchanged(report: &Report) {
    let folder = report.path("from");
    let count = scaled(10_000, 200);
    many_files(&folder, count);
    report.note(&format!("{count} files, {} MB", length(&folder) / 1_000_000));
    let person = Person::at_home_in(report.folder());
    let _daemon = person.daemon();
    let figure = |name: &str, value| Figure::new(format!("put-unchanged: {name}"), value, PUTS);
    let hashed = || seconds(|| hash(&folder));
    let first = seconds(|| verb(&person, "put", &folder));
    if let Err(why) = verb(&person, "put", &folder) {
        report.note(&format!("no `potluck put` of a folder: {why}"));
        let [hashing] = &rounds(PUTS, [&mut { hashed }]);
        report.figure(&figure("BLAKE3 of all files on both cores", milliseconds(hashing)));
        return;
    }
    let mut put = || seconds(|| verb(&person, "put", &folder).expect("it worked a moment ago"));
    let [ours, hashing] = &rounds(PUTS, [&mut put, &mut { hashed }]);
    report.figure(&Figure::new("put-unchanged: the first put", (first * 1e3, "ms"), 1));
    report.figure(&figure("potluck put", milliseconds(ours)));
    report.figure(&figure("BLAKE3 of all files on both cores", milliseconds(hashing)));
    report.figure(&figure("potluck put / BLAKE3", (ratio(ours, hashing), "x")).at_most(1.2));
}

/// Finds, reads and hashes all files.
fn hash(folder: &Path) {
    both(&walk(folder), |_, path| {
        std::hint::black_box(blake3::hash(&std::fs::read(path).expect("a file can be read")));
    });
}
