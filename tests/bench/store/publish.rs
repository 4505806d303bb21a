// SPDX-License-Identifier: MIT OR Apache-2.0
//! How long a compiler's wrapper waits for a library of five megabytes, which lies there as a file, to be stored and
//! claimed, durably; beside writing it as a file.

use potluck_node::cache::Cache;
use potluck_protocol::entry::{BlobOutput, Output};
use potluck_tests::program::Person;
use tokio::runtime::Runtime;

use crate::door;
use crate::material::build_bytes;
use crate::measure::{Figure, median, ratio, rounds, seconds};
use crate::scratch::{Report, remove, scaled, warm};
use crate::small::durable_file;

const LEN: usize = 5_000_000;

pub(crate) fn part(report: &Report) {
    let count = scaled(60, 5);
    let person = Person::at_home_in(report.folder());
    let daemon = person.daemon();
    let runtime = door::runtime();
    let client = runtime.block_on(door::connect(&person.home()));
    measure(report, ("over the control socket", count), &client, &runtime);
    drop((client, daemon));
    let engine = door::engine(&report.path("home"));
    measure(report, ("in process", count), &engine, &runtime);
}

fn measure(report: &Report, (what, count): (&str, usize), cache: &impl Cache, runtime: &Runtime) {
    let real = build_bytes(2 * LEN);
    let folder = report.path("files");
    std::fs::create_dir_all(&folder).expect("a folder can be made");
    let mut round = 0_usize;
    // Another library each time, of the same kind.
    let library = |n: usize| [&n.to_le_bytes()[..], &real[n * 4099 % LEN..][..LEN]].concat();
    let mut published = || {
        round += 1;
        let made = folder.join("made");
        std::fs::write(&made, library(round)).expect("a file can be written");
        warm(4 * LEN);
        seconds(|| {
            runtime.block_on(async {
                let file = std::fs::File::open(&made).expect("it is there");
                let (digest, size) = cache.write_file(file, &made).await.expect("it is stored");
                let blob = BlobOutput { digest, size };
                door::publish(cache, &round.to_le_bytes(), Output::Blob(blob)).await;
            });
        })
    };
    let mut other = 0;
    // They stay, as what is stored does: whoever removes a file first gives the next one its memory.
    let mut file = || {
        other += 1;
        let (name, bytes) = (format!("library-{other}"), library(other));
        warm(4 * LEN);
        seconds(|| durable_file(&folder, &name, &bytes))
    };
    let [ours, files] = &rounds(count, [&mut published, &mut file]);
    remove(&folder);
    let figure = |name: String, value| Figure::new(format!("publish: {name}"), value, count);
    let milliseconds = |seconds: &[f64]| (median(seconds.to_vec()) * 1e3, "ms");
    report.figure(&figure(format!("5 MB {what}, p50"), milliseconds(ours)));
    report.figure(&figure(format!("a file beside {what}, p50"), milliseconds(files)));
    let slower = (ratio(ours, files), "x");
    report.figure(&figure(format!("5 MB {what} / a file"), slower).at_most(1.2));
}
