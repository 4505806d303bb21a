// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was promised about the network, beside what its transports can do at best and beside iroh-blobs and nginx.
//!
//!     cargo build --release --manifest-path tests/bench/iroh/Cargo.toml
//!     cargo bench -p potluck-tests --bench net [-- [--json] [PART…]]
//!
//! Each part can be picked by its name. Whole nodes run in this process and speak over loopback; what they are compared
//! with does the same work in turns with them. A figure is the median of its rounds, a ratio the median of the rounds'
//! ratios. Processor time is that of the whole process, so that of both sides. A missed target is printed and fails
//! nothing, and what cannot be measured here says why.
//!
//! Everything lies in one folder on a real disk, `target/tmp` or `$POTLUCK_BENCH_DIR`, and is removed part by part: at
//! most 5 GiB at a time. `POTLUCK_BENCH_SCALE=small` shrinks all of it, to see that it works.

#[expect(dead_code, reason = "the benchmark of the store uses the rest")]
#[path = "../store/door.rs"]
mod door;
mod fresh;
mod hit;
#[path = "../store/http.rs"]
mod http;
mod iroh;
mod large;
#[expect(dead_code, reason = "the benchmark of the store uses the rest")]
#[path = "../store/material.rs"]
mod material;
#[path = "../measure.rs"]
mod measure;
mod memory;
mod miss;
mod party;
#[expect(dead_code, reason = "the benchmark of the store uses the rest")]
#[path = "../store/scratch.rs"]
mod scratch;
mod small;
#[expect(dead_code, reason = "the benchmark of the store uses the rest")]
#[path = "../store/web.rs"]
mod web;
mod wire;

use scratch::Report;

/// A part, by its name.
type Part = (&'static str, fn(&Report));

const PARTS: &[Part] = &[
    ("large", large::noise),
    ("build-output", large::build_output),
    ("four-peers", large::four_peers),
    ("small-blobs", small::part),
    ("small-hit", hit::part),
    ("miss", miss::part),
    ("memory", memory::part),
    ("publish", fresh::part),
];

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    if args.first().is_some_and(|arg| arg == memory::CHILD) {
        return memory::child(&args[1..]);
    }
    // `cargo test --benches` only wants to see that it builds.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let wanted: Vec<_> = args.iter().filter(|arg| !arg.starts_with("--")).cloned().collect();
    let known: Vec<_> = PARTS.iter().map(|(name, _)| *name).collect();
    let strange = wanted.iter().find(|want| !known.contains(&want.as_str()));
    assert!(strange.is_none(), "there is no part {strange:?}, only {known:?}");
    let json = args.iter().any(|arg| arg == "--json");
    for (name, part) in PARTS {
        if wanted.is_empty() || wanted.iter().any(|want| want == name) {
            part(&Report::new(name, json));
        }
    }
}
