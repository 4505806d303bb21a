// SPDX-License-Identifier: MIT OR Apache-2.0
//! What the libraries of a real build take in the store, beside each of them packed as a whole.

use std::path::PathBuf;

use potluck_tests::program::Person;

use crate::door;
use crate::material::{libraries, zstd_sizes};
use crate::measure::{Figure, seconds};
use crate::scratch::{Report, length, on_disk, scaled, until_quiet};

const MB: f64 = 1e6;

pub(crate) fn part(report: &Report) {
    let files = libraries(scaled(400_000_000, 12_000_000) as u64);
    let plain: u64 = files.iter().filter_map(|path| path.metadata().ok()).map(|file| file.len()).sum();
    report.note(&format!("{} files, {:.0} MB", files.len(), plain as f64 / MB));
    let person = Person::at_home_in(report.folder());
    let _daemon = person.daemon();
    let took = seconds(|| store(&person, &files));
    let store = person.home().join("store");
    let early = on_disk(&store);
    let packing = seconds_until(&store);
    if packing.is_none() {
        report.note("background work had not ended when the patience did");
    }
    report.note(&format!(
        "written and published in {took:.1} s, then {:.0} MB on disk; quiet {:.0} s later",
        early as f64 / MB,
        packing.unwrap_or_default()
    ));
    let (one, one_blocks) = zstd_sizes(&files, 1);
    let (three, three_blocks) = zstd_sizes(&files, 3);
    let figure = |name: &str, value| Figure::new(format!("size: {name}"), value, 1);
    let megabytes = |bytes: u64| (bytes as f64 / MB, "MB");
    report.figure(&figure("not packed", megabytes(plain)));
    report.figure(&figure("in the store, on disk", megabytes(on_disk(&store))));
    report.figure(&figure("in the store, length of its files", megabytes(length(&store))));
    report.figure(&figure("each packed by zstd -1, on disk", megabytes(one_blocks)));
    report.figure(&figure("each packed by zstd -3, on disk", megabytes(three_blocks)));
    let share = |ours: u64, other: u64| (ours as f64 / other as f64, "x");
    report.figure(&figure("store / zstd -1, on disk", share(on_disk(&store), one_blocks)));
    report.figure(&figure("store / zstd -3, on disk", share(on_disk(&store), three_blocks)).at_most(1.08));
    report.figure(&figure("store / zstd -3, length of files", share(length(&store), three)));
    report.figure(&figure("zstd -1 / zstd -3, length of files", share(one, three)));
}

/// How long it takes until nothing changes any more.
fn seconds_until(store: &std::path::Path) -> Option<f64> {
    let mut quiet = false;
    let took = seconds(|| quiet = until_quiet(store));
    quiet.then_some(took)
}

/// Stores the files, as a Tree that names them all, so that collection has a reason to keep them.
fn store(person: &Person, files: &[PathBuf]) {
    door::runtime().block_on(async {
        let client = door::connect(&person.home()).await;
        let mut members = Vec::new();
        for (n, path) in files.iter().enumerate() {
            let bytes = std::fs::read(path).expect("a file can be read");
            members.push(door::member(&format!("{n}"), &door::write(&client, &bytes).await));
        }
        let (_, output) = door::write_tree(&client, members).await;
        door::publish(&client, b"size", output).await;
    });
}
