// SPDX-License-Identifier: MIT OR Apache-2.0
//! Many small Blobs, durable, by sixteen writers; beside a file and an fsync for each, and redb with a commit for each.

use std::fs::{self, File};
use std::io::Write as _;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use potluck_node::content::Durability;
use potluck_node::observe::span;
use potluck_node::store::Store;
use redb::{Database, TableDefinition};

use crate::door;
use crate::material::noise;
use crate::measure::{Figure, median, ratio, rounds, seconds};
use crate::scratch::{Report, remove, scaled, threads};

const BLOB_BYTES: usize = 4096;
const WRITERS: usize = 16;
/// Blobs of one publication.
const TOGETHER: usize = 16;
const ROUNDS: usize = 3;
/// Most bytes that are written by one call.
const CALL_BYTES: usize = 128 * 1024;

const TABLE: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("blobs");

type Blobs = Vec<Vec<u8>>;

pub(crate) fn part(report: &Report) {
    // A fifth of them is enough to know the rate of those that wait for the disk each time.
    let (many, few) = (scaled(10_000, 320), scaled(2_000, 80));
    let blobs: Blobs = (0..many).map(|n| noise(BLOB_BYTES, n as u64)).collect();
    let runtime = door::runtime();
    let at = |name: &str| report.path(name);
    let each = |count: usize, seconds: f64| seconds / count as f64;
    let times = rounds(
        ROUNDS,
        [
            &mut || each(many, alone(&at("store"), &blobs)),
            &mut || each(many, published(&at("home"), &blobs, &runtime)),
            &mut || each(few, files(&at("files"), &blobs[..few], 1)),
            &mut || each(many, files(&at("files"), &blobs, WRITERS)),
            &mut || each(few, commits(&at("redb"), &blobs[..few])),
        ],
    );
    report.note("Blobs of 4 KiB; a file each is written, synced, renamed, and its folder synced");
    let names = [
        "16 writers, each Blob waited for",
        "16 writers, publications of 16 Blobs",
        "a file each, 1 writer",
        "a file each, 16 writers",
        "redb, a commit each",
    ];
    for (name, times) in names.into_iter().zip(&times) {
        let rate = 1.0 / median(times.clone());
        report.figure(&Figure::new(format!("small-writes: {name}"), (rate, "/s"), ROUNDS));
    }
    let [alone, published, file, ..] = &times;
    let figure = |name: &str, ours: &[f64]| {
        let name = format!("small-writes: {name} / a file each, 1 writer");
        report.figure(&Figure::new(name, (ratio(file, ours), "x"), ROUNDS).at_least(20.0));
    };
    figure("each Blob waited for", alone);
    figure("publications of 16 Blobs", published);
}

/// Hands out the Blobs to several writers.
fn share(count: usize, writers: usize, write: impl Fn(usize) + Sync) {
    let next = AtomicUsize::new(0);
    threads(writers, |_| {
        loop {
            let n = next.fetch_add(1, Ordering::Relaxed);
            if n >= count {
                return;
            }
            write(n);
        }
    });
}

fn alone(folder: &Path, blobs: &Blobs) -> f64 {
    let store = Store::open(folder).expect("the store can be opened").0;
    let keep = |n: usize| {
        store.keep(&blobs[n], Durability::Durable).expect("a blob can be kept");
    };
    let took = seconds(|| share(blobs.len(), WRITERS, keep));
    drop(store);
    remove(folder);
    took
}

/// Each writer writes the Blobs of a publication, and then waits until it is durable.
fn published(folder: &Path, blobs: &Blobs, runtime: &tokio::runtime::Runtime) -> f64 {
    let engine = door::engine(folder);
    let groups: Vec<Vec<Vec<u8>>> = blobs.chunks(TOGETHER).map(<[_]>::to_vec).collect();
    let mut writers: Vec<Vec<_>> = (0..WRITERS).map(|_| Vec::new()).collect();
    for (n, group) in groups.into_iter().enumerate() {
        writers[n % WRITERS].push((n, group));
    }
    let took = seconds(|| {
        runtime.block_on(async {
            let writer = |groups: Vec<(usize, Vec<Vec<u8>>)>| {
                let engine = std::sync::Arc::clone(&engine);
                span::spawn("bench", async move {
                    for (n, group) in groups {
                        publish_group(&engine, n, &group).await;
                    }
                })
            };
            let writers: Vec<_> = writers.into_iter().map(writer).collect();
            for writer in writers {
                writer.await.expect("a writer ends");
            }
        });
    });
    drop(engine);
    remove(folder);
    took
}

async fn publish_group(engine: &std::sync::Arc<potluck_node::engine::Engine>, n: usize, group: &[Vec<u8>]) {
    let mut members = Vec::new();
    for (at, blob) in group.iter().enumerate() {
        members.push(door::member(&format!("{at}"), &door::write(engine, blob).await));
    }
    let (_, output) = door::write_tree(engine, members).await;
    door::publish(engine, &n.to_le_bytes(), output).await;
}

fn files(folder: &Path, blobs: &[Vec<u8>], writers: usize) -> f64 {
    fs::create_dir_all(folder).expect("a folder can be made");
    let took = seconds(|| share(blobs.len(), writers, |n| durable_file(folder, &format!("{n}"), &blobs[n])));
    remove(folder);
    took
}

/// Writes a file so that it is whole or not there, whatever happens.
pub(crate) fn durable_file(folder: &Path, name: &str, bytes: &[u8]) {
    let written = || {
        let staged = folder.join(format!("{name}.staged"));
        let mut file = File::create(&staged)?;
        // By calls as large as the store's; one call for all of it is slower on a virtual machine.
        bytes.chunks(CALL_BYTES).try_for_each(|stretch| file.write_all(stretch))?;
        file.sync_all()?;
        fs::rename(&staged, folder.join(name))?;
        File::open(folder)?.sync_all()
    };
    written().expect("a file can be written");
}

fn commits(path: &Path, blobs: &[Vec<u8>]) -> f64 {
    let db = Database::create(path).expect("redb makes its file");
    let commit = |blob: &Vec<u8>| -> Result<(), redb::Error> {
        let change = db.begin_write()?;
        change.open_table(TABLE)?.insert(blake3::hash(blob).as_bytes(), blob.as_slice())?;
        Ok(change.commit()?)
    };
    let took = seconds(|| blobs.iter().for_each(|blob| commit(blob).expect("redb writes")));
    drop(db);
    remove(path);
    took
}
