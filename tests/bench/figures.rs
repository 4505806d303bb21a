// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was promised about speed, and what this machine makes of it.
//!
//!     cargo bench -p potluck-tests --bench figures [-- --json]
//!
//! What is compared is measured in turns, so that whatever else the machine does falls on all alike; a figure is the
//! median of its rounds, a ratio the median of the rounds' ratios. A missed target is printed and fails nothing.

mod measure;
mod stage;

use std::hint::black_box;

use measure::{Figure, median, ratio, rounds, seconds};
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

fn pieces() -> Vec<Figure> {
    // One Blob for all: the first touch of memory can cost more than hashing it.
    let (blob, pieces) = blob();
    let [plain, checked, hashed] = rounds(
        ROUNDS,
        [&mut || seconds(|| blake3::hash(&blob)), &mut || seconds(|| check(&blob, &pieces)), &mut || {
            seconds(|| hash(&blob))
        }],
    );
    let ratio = |name, other: &[f64]| Figure::new(name, (ratio(&plain, other), "x"), ROUNDS).at_least(0.9);
    let ratios = [
        ratio("check pieces of 64 MiB / plain BLAKE3", &checked),
        ratio("hash 64 MiB into pieces / plain BLAKE3", &hashed),
    ];
    let speed = |name, seconds| {
        let value = BLOB_BYTES as f64 / median(seconds) / f64::from(1 << 30);
        Figure::new(name, (value, "GiB/s"), ROUNDS)
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
    let [fresh_ones, known_ones, alone, together, decoding, signing] = rounds(
        ROUNDS,
        [
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
        ],
    );
    // What was believed a moment ago is refused from the moment its key is revoked.
    policy.heed_revocation(&revocation(&key)).expect("it is genuine");
    for (claim, entry) in known.iter().zip(&entries) {
        assert!(!believed(&policy, std::slice::from_ref(claim), std::slice::from_ref(entry)));
    }
    let gain = Figure::new("1024 claims together / one by one", (ratio(&alone, &together), "x"), ROUNDS);
    let each = |name, seconds| Figure::new(name, (median(seconds) * 1e6 / f64::from(CLAIMS), "us"), ROUNDS);
    vec![
        each("judge a fresh claim, 20 rules", fresh_ones).at_most(50.0),
        each("judge a verified claim, 20 rules", known_ones).at_most(1.0),
        each("verify one of 1024 claims, alone", alone),
        each("verify one of 1024 claims, together", together),
        gain,
        each("decode the envelope of an Entry", decoding),
        each("sign an Entry", signing),
    ]
}

fn trees() -> Vec<Figure> {
    let tree = tree();
    let bytes = tree.encode();
    let [encoding, decoding] =
        rounds(ROUNDS, [&mut || seconds(|| tree.encode()), &mut || seconds(|| Tree::decode(&bytes))]);
    let whole = |name, seconds| Figure::new(name, (median(seconds) * 1e3, "ms"), ROUNDS);
    vec![
        whole("encode a Tree of 100,000 members", encoding).at_most(100.0),
        whole("decode a Tree of 100,000 members", decoding),
    ]
}

fn probing() -> Vec<Figure> {
    let (filters, strangers) = (filters(), strangers());
    let members: Vec<_> = (0..MANY).map(action).collect();
    let probe = || -> usize {
        strangers.iter().map(|id| filters.iter().filter(|filter| filter.contains(id)).count()).sum()
    };
    let [probing, building] =
        rounds(ROUNDS, [&mut || seconds(probe), &mut || seconds(|| Filter::build(members.iter().copied()))]);
    let each = median(probing) * 1e6 / strangers.len() as f64;
    let building = median(building) * 1e3;
    vec![
        Figure::new("probe 50 filters of 100,000 for a stranger", (each, "us"), ROUNDS).at_most(1.0),
        Figure::new("build a filter of 1,000,000", (building, "ms"), ROUNDS).at_most(150.0),
    ]
}

fn main() {
    // `cargo test --benches` only wants to see that it builds.
    if !std::env::args().any(|arg| arg == "--bench") {
        return;
    }
    let json = std::env::args().any(|arg| arg == "--json");
    for group in [pieces, claims, trees, probing] {
        for figure in group() {
            figure.print(json);
        }
    }
}
