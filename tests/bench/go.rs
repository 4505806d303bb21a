// SPDX-License-Identifier: MIT OR Apache-2.0
//! A warm `go build std` through `potluck gocacheprog`, beside go's own cache on the disk.
//!
//!     cargo bench -p potluck-tests --bench go [-- --json]

// It has verdicts that this benchmark does not need.
#[expect(dead_code, reason = "other benchmarks need the rest of it")]
mod measure;

use std::path::Path;
use std::process::{Command, Stdio};

use measure::{Figure, median, ratio, rounds, seconds};
use potluck_tests::program::{Person, potluck};
use potluck_tests::tools;

/// Rounds that count; one more comes first, which warms memory and caches.
const ROUNDS: usize = 9;

/// `go build std`, with its own cache or through potluck; it has to go well, and to compile nothing once all is there.
fn build(person: &Person, folder: &Path, through: bool) {
    let mut go = Command::new(tools::go().expect("go is installed"));
    go.args(["build", "std"]).env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    go.env("HOME", person.path("")).env("POTLUCK_HOME", person.home()).env("GOTOOLCHAIN", "local");
    go.env("GOCACHE", folder).env("CGO_ENABLED", "0").current_dir(person.path("")).stdin(Stdio::null());
    if through {
        go.env("GOCACHEPROG", format!("{} gocacheprog", potluck().display()));
    }
    assert!(go.status().expect("go runs").success(), "go build std");
}

fn main() {
    let json = std::env::args().any(|arg| arg == "--json");
    let person = Person::at_home();
    let up = person.up(&["--http", "off"]);
    let (own, other) = (person.path("own"), person.path("other"));
    // Once cold, so that everything is there.
    build(&person, &own, false);
    build(&person, &other, true);
    let [disk, through] = rounds(
        ROUNDS,
        [&mut || seconds(|| build(&person, &own, false)), &mut || seconds(|| build(&person, &other, true))],
    );
    drop(up);
    let slower = Figure::new("gocacheprog / its own cache", (ratio(&through, &disk), "x"), ROUNDS);
    let times = |name, seconds| Figure::new(name, (median(seconds) * 1e3, "ms"), ROUNDS);
    for figure in [
        times("go build std, warm, its own cache", disk),
        times("go build std, warm, gocacheprog", through),
        slower.at_most(1.3),
    ] {
        figure.print(json);
    }
}
