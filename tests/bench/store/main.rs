// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was promised about the store, beside what this machine can do at best and beside other caches.
//!
//!     cargo bench -p potluck-tests --bench store [-- [--json] [PART…]]
//!
//! Each part can be picked by its name; all of them take several minutes. What is compared is measured in turns, a
//! figure is the median of its rounds, and a ratio the median of the rounds' ratios. A missed target is printed and
//! fails nothing, and what cannot be measured here says why.
//!
//! Everything lies in one folder on a real disk, `target/tmp` or `$POTLUCK_BENCH_DIR`, and is removed part by part:
//! at most 5 GiB at a time. `POTLUCK_BENCH_SCALE=small` shrinks all of it, to see that it works.

mod ccache;
mod compilers;
mod door;
mod folders;
mod front;
mod http;
mod large;
mod lookup;
mod material;
#[path = "../measure.rs"]
mod measure;
mod publish;
mod scratch;
mod size;
mod small;
mod web;

use scratch::Report;

/// A part, by its name.
type Part = (&'static str, fn(&Report));

const PARTS: &[Part] = &[
    ("lookup", lookup::part),
    ("small-writes", small::part),
    ("large-write", large::write),
    ("large-read", large::read),
    ("restore", folders::restore),
    ("put-unchanged", folders::put_unchanged),
    ("size", size::part),
    ("publish", publish::part),
    ("web", web::part),
    ("http", front::part),
    ("ccache", ccache::part),
    ("rustc", compilers::rustc),
];

/// The names that stand for several parts.
const GROUPS: &[(&str, &[&str])] = &[("peers", &["web", "http", "ccache", "rustc"])];

fn picked(name: &str, wanted: &[String]) -> bool {
    let in_group =
        |want: &String| GROUPS.iter().any(|(group, parts)| *group == want.as_str() && parts.contains(&name));
    wanted.is_empty() || wanted.iter().any(|want| want == name || in_group(want))
}

fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    match args.first().map(String::as_str) {
        // This program is also what it measures in a process of its own.
        Some(lookup::CHILD) => return lookup::child(&args[1..]),
        Some(compilers::CHILD) => compilers::child(&args[1..]),
        _ => {}
    }
    // `cargo test --benches` only wants to see that it builds.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let wanted: Vec<_> = args.iter().filter(|arg| !arg.starts_with("--")).cloned().collect();
    let known: Vec<_> =
        PARTS.iter().map(|(name, _)| *name).chain(GROUPS.iter().map(|(name, _)| *name)).collect();
    let strange = wanted.iter().find(|want| !known.contains(&want.as_str()));
    assert!(strange.is_none(), "there is no part {strange:?}, only {known:?}");
    let json = args.iter().any(|arg| arg == "--json");
    for (name, part) in PARTS.iter().filter(|(name, _)| picked(name, &wanted)) {
        part(&Report::new(name, json));
    }
}
