// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was promised about speed, and what this machine makes of it.
//!
//!     cargo bench -p potluck-tests --bench figures [-- --json]
//!
//! What is compared is measured in turns, so that whatever else the machine does falls on all alike; a figure is the
//! median of its rounds, a ratio the median of the rounds' ratios. A missed target is printed and fails nothing.

mod stage;

use std::hint::black_box;
use std::time::Instant;

use potluck_keys::policy::{Policy, Scoped as _, Want};
use potluck_keys::signed::Signed;
use potluck_protocol::catalog::Filter;
use potluck_protocol::entry::Entry;
use potluck_protocol::tree::Tree;
use potluck_tests::samples::{NOW, pair};
use stage::{
    BLOB_BYTES, CLAIMS, MANY, SIGNERS, action, blob, check, entries, filters, fresh, hash, policy,
    revocation, signed, strangers, tree,
};

/// Rounds that count; one more comes first, which warms memory and caches.
const ROUNDS: usize = 9;

/// What a figure should be.
#[derive(Clone, Copy)]
enum Target {
    AtMost(f64),
    AtLeast(f64),
    None,
}

/// One line of the table.
struct Figure {
    name: &'static str,
    value: f64,
    unit: &'static str,
    target: Target,
}

impl Figure {
    fn met(&self) -> Option<bool> {
        match self.target {
            Target::AtMost(most) => Some(self.value <= most),
            Target::AtLeast(least) => Some(self.value >= least),
            Target::None => None,
        }
    }

    fn line(&self) -> String {
        let target = match self.target {
            Target::AtMost(most) => format!("<= {most}"),
            Target::AtLeast(least) => format!(">= {least}"),
            Target::None => String::new(),
        };
        let verdict = self.met().map_or("", |met| if met { "met" } else { "MISSED" });
        format!("{:<48} {:>10.3} {:<6} {target:>8}  {verdict}", self.name, self.value, self.unit)
    }

    fn json(&self) -> String {
        let (at_most, at_least) = match self.target {
            Target::AtMost(most) => (Some(most), None),
            Target::AtLeast(least) => (None, Some(least)),
            Target::None => (None, None),
        };
        serde_json::json!({
            "v": 1,
            "figure": self.name,
            "median": self.value,
            "unit": self.unit,
            "rounds": ROUNDS,
            "at_most": at_most,
            "at_least": at_least,
            "met": self.met(),
        })
        .to_string()
    }
}

/// Seconds that `work` takes.
fn seconds<T>(work: impl FnOnce() -> T) -> f64 {
    #[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
    let start = Instant::now();
    black_box(work());
    start.elapsed().as_secs_f64()
}

/// The seconds of each round, for each of several things that are measured in turns.
fn rounds<const N: usize>(mut turns: [&mut dyn FnMut() -> f64; N]) -> [Vec<f64>; N] {
    let mut all = [(); N].map(|()| Vec::with_capacity(ROUNDS));
    for round in 0..=ROUNDS {
        for (turn, seconds) in turns.iter_mut().zip(&mut all) {
            let took = turn();
            if round > 0 {
                seconds.push(took);
            }
        }
    }
    all
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// How many times as fast as `slow` each round of `fast` was.
fn ratio(slow: &[f64], fast: &[f64]) -> f64 {
    median(slow.iter().zip(fast).map(|(slow, fast)| slow / fast).collect())
}

fn pieces() -> Vec<Figure> {
    // One Blob for all: the first touch of memory can cost more than hashing it.
    let (blob, pieces) = blob();
    let [plain, checked, hashed] = rounds([
        &mut || seconds(|| blake3::hash(&blob)),
        &mut || seconds(|| check(&blob, &pieces)),
        &mut || seconds(|| hash(&blob)),
    ]);
    let ratio = |name, other: &[f64]| Figure {
        name,
        value: ratio(&plain, other),
        unit: "x",
        target: Target::AtLeast(0.9),
    };
    let ratios = [
        ratio("check pieces of 64 MiB / plain BLAKE3", &checked),
        ratio("hash 64 MiB into pieces / plain BLAKE3", &hashed),
    ];
    let speed = |name, seconds| Figure {
        name,
        value: BLOB_BYTES as f64 / median(seconds) / f64::from(1 << 30),
        unit: "GiB/s",
        target: Target::None,
    };
    let speeds = [
        speed("plain BLAKE3 of 64 MiB", plain),
        speed("check pieces of 64 MiB", checked),
        speed("hash 64 MiB into pieces", hashed),
    ];
    speeds.into_iter().chain(ratios).collect()
}

/// Whether `policy` believes each of `claims` about the questions of `entries`.
fn believed(policy: &Policy, claims: &[Signed<Entry>], entries: &[Entry]) -> bool {
    claims.iter().zip(entries).all(|(claim, entry)| {
        let scope = entry.scope();
        policy.judge(black_box(claim), &Want::of(&scope), NOW).is_ok()
    })
}

fn claims() -> Vec<Figure> {
    let (key, mut policy, entries) = (pair(SIGNERS), policy(), entries());
    let claims = signed(&entries, &key);
    let known = fresh(&claims);
    policy.verify(&known);
    let judged = |claims: &[Signed<Entry>]| {
        let claims = fresh(claims);
        seconds(|| assert!(believed(&policy, &claims, &entries)))
    };
    let authentic = |claim: &Signed<Entry>| claim.authentic().is_ok();
    let [fresh_ones, known_ones, alone, together, decoding, signing] = rounds([
        &mut || judged(&claims),
        &mut || seconds(|| assert!(believed(&policy, &known, &entries))),
        &mut || {
            let claims = fresh(&claims);
            seconds(|| assert!(claims.iter().all(authentic)))
        },
        &mut || {
            let claims = fresh(&claims);
            seconds(|| policy.verify(&claims))
        },
        &mut || seconds(|| fresh(&claims)),
        &mut || seconds(|| signed(&entries, &key)),
    ]);
    // What was believed a moment ago is refused from the moment its key is revoked.
    policy.heed_revocation(&revocation(&key)).expect("it is genuine");
    for (claim, entry) in known.iter().zip(&entries) {
        assert!(!believed(&policy, std::slice::from_ref(claim), std::slice::from_ref(entry)));
    }
    let gain = Figure {
        name: "1024 claims together / one by one",
        value: ratio(&alone, &together),
        unit: "x",
        target: Target::None,
    };
    let each = |name, seconds, target| Figure {
        name,
        value: median(seconds) * 1e6 / f64::from(CLAIMS),
        unit: "us",
        target,
    };
    vec![
        each("judge a fresh claim, 20 rules", fresh_ones, Target::AtMost(50.0)),
        each("judge a verified claim, 20 rules", known_ones, Target::AtMost(1.0)),
        each("verify one of 1024 claims, alone", alone, Target::None),
        each("verify one of 1024 claims, together", together, Target::None),
        gain,
        each("decode the envelope of an Entry", decoding, Target::None),
        each("sign an Entry", signing, Target::None),
    ]
}

fn trees() -> Vec<Figure> {
    let tree = tree();
    let bytes = tree.encode();
    let [encoding, decoding] =
        rounds([&mut || seconds(|| tree.encode()), &mut || seconds(|| Tree::decode(&bytes))]);
    let whole = |name, seconds, target| Figure { name, value: median(seconds) * 1e3, unit: "ms", target };
    vec![
        whole("encode a Tree of 100,000 members", encoding, Target::AtMost(100.0)),
        whole("decode a Tree of 100,000 members", decoding, Target::None),
    ]
}

fn probing() -> Vec<Figure> {
    let (filters, strangers) = (filters(), strangers());
    let members: Vec<_> = (0..MANY).map(action).collect();
    let probe = || -> usize {
        strangers.iter().map(|id| filters.iter().filter(|filter| filter.contains(id)).count()).sum()
    };
    let [probing, building] =
        rounds([&mut || seconds(probe), &mut || seconds(|| Filter::build(members.iter().copied()))]);
    vec![
        Figure {
            name: "probe 50 filters of 100,000 for a stranger",
            value: median(probing) * 1e6 / strangers.len() as f64,
            unit: "us",
            target: Target::AtMost(1.0),
        },
        Figure {
            name: "build a filter of 1,000,000",
            value: median(building) * 1e3,
            unit: "ms",
            target: Target::AtMost(150.0),
        },
    ]
}

#[expect(clippy::print_stdout, reason = "the answer of a benchmark")]
fn main() {
    // `cargo test --benches` only wants to see that it builds.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let json = std::env::args().any(|arg| arg == "--json");
    for group in [pieces, claims, trees, probing] {
        for figure in group() {
            println!("{}", if json { figure.json() } else { figure.line() });
        }
    }
}
