// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hot paths of `keys` and `protocol`. `cargo bench -p potluck-tests` prints the medians, and at the end the ratio
//! of checking pieces to plain BLAKE3, measured in turns within this run.

use std::hint::black_box;
use std::path::Path;
use std::time::Instant;

use criterion::{BatchSize, Criterion, Throughput};
use potluck_keys::pair::Pair;
use potluck_keys::policy::{Policy, Scoped as _, Want};
use potluck_keys::rules::{Layer, Rules};
use potluck_keys::signed::Signed;
use potluck_keys::standing::Revocation;
use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::catalog::Filter;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::Entry;
use potluck_protocol::piece::{PIECE_BYTES, PieceHasher, Pieces};
use potluck_protocol::tree::{Kind, Member, Tree, TreePath};
use potluck_tests::samples::{NOW, entry, pair};

const BLOB_BYTES: usize = 64 << 20;
const SIGNERS: u8 = 20;
const CLAIMS: u32 = 1024;

/// Twenty signers, each with a rule of its own; the one that counts comes last.
fn policy() -> Policy {
    let mut text = String::new();
    for seed in 1..=SIGNERS {
        let line = pair(seed).public().to_openssh("bench");
        text += &format!("[signer.s{seed}]\nkey = \"{line}\"\n");
        text +=
            &format!("[[rule]]\nproject = \"acme{seed}/*\"\nrecipe = \"rustc@*\"\naccept = [\"s{seed}\"]\n");
    }
    Policy::new(Rules::read(&[Layer::new(Path::new("trust.toml"), text)]).expect("the rules are sound"))
}

fn entries() -> Vec<Entry> {
    let project = Project::new(&format!("acme{SIGNERS}/web")).expect("a project");
    let entry = Entry { project, taints: Vec::new(), ..entry() };
    (0..CLAIMS).map(|n| Entry { action: action(u64::from(n)), ..entry.clone() }).collect()
}

fn action(n: u64) -> ActionId {
    ActionId::from_bytes(*Digest::of(&n.to_le_bytes()).as_bytes())
}

fn signed(key: &Pair) -> Vec<Signed<Entry>> {
    entries().iter().map(|entry| Signed::sign(entry, &[key]).expect("an entry fits")).collect()
}

fn fresh(claims: &[Signed<Entry>]) -> Vec<Signed<Entry>> {
    claims.iter().map(|claim| Signed::decode(claim.bytes()).expect("what was signed, decodes")).collect()
}

fn judging(c: &mut Criterion) {
    let (key, mut policy, entries) = (pair(SIGNERS), policy(), entries());
    let claims = signed(&key);
    let mut group = c.benchmark_group("claim");
    group.bench_function("sign", |b| b.iter(|| Signed::sign(black_box(&entries[0]), &[&key])));
    group.bench_function("decode the envelope", |b| {
        b.iter(|| Signed::<Entry>::decode(black_box(claims[0].bytes())));
    });
    let judge = |claim: &Signed<Entry>| {
        let scope = entries[0].scope();
        policy.judge(claim, &Want::of(&scope), NOW).is_ok()
    };
    assert!(judge(&fresh(&claims)[0]), "the claim is acceptable");
    group.bench_function("judge, fresh", |b| {
        let one = &claims[..1];
        b.iter_batched(|| fresh(one), |claim| assert!(judge(&claim[0])), BatchSize::SmallInput);
    });
    group.bench_function("judge, verified before", |b| b.iter(|| assert!(judge(black_box(&claims[0])))));
    group.throughput(Throughput::Elements(u64::from(CLAIMS)));
    group.sample_size(20);
    group.bench_function("verify 1024 together", |b| {
        b.iter_batched(|| fresh(&claims), |claims| policy.verify(&claims), BatchSize::LargeInput);
    });
    group.finish();
    // The claim that was verified before is refused from the moment its key is revoked.
    let revocation = Revocation { key: key.signer(), at: NOW, issued: NOW, reason: None };
    let revocation = Signed::sign(&revocation, &[&key]).expect("a revocation fits");
    policy.heed_revocation(&revocation).expect("it is genuine");
    let scope = entries[0].scope();
    assert!(policy.judge(&claims[0], &Want::of(&scope), NOW).is_err());
}

fn blob() -> (Vec<u8>, Pieces) {
    let blob = vec![7; BLOB_BYTES];
    let mut hasher = PieceHasher::new();
    hasher.update(&blob);
    (blob, hasher.finish().expect("a small blob"))
}

fn check(blob: &[u8], pieces: &Pieces) {
    for (index, piece) in (0..).zip(blob.chunks(PIECE_BYTES)) {
        pieces.check(index, piece).expect("the pieces are right");
    }
}

fn hash(blob: &[u8]) -> Pieces {
    let mut hasher = PieceHasher::new();
    blob.chunks(256 * 1024).for_each(|part| hasher.update(part));
    hasher.finish().expect("a small blob")
}

fn pieces(c: &mut Criterion) {
    let (blob, pieces) = blob();
    let mut group = c.benchmark_group("64 MiB");
    group.throughput(Throughput::Bytes(BLOB_BYTES as u64)).sample_size(20);
    group.bench_function("plain BLAKE3", |b| b.iter(|| blake3::hash(black_box(&blob))));
    group.bench_function("check pieces", |b| b.iter(|| check(black_box(&blob), &pieces)));
    group.bench_function("hash into pieces", |b| b.iter(|| hash(black_box(&blob))));
    group.finish();
}

fn trees(c: &mut Criterion) {
    let member = |n: u64| {
        let path = TreePath::new(&format!("target/debug/deps/lib{:x}-{n:08}.rlib", n * 7919 % 100_000));
        Member {
            path: path.expect("a path"),
            kind: Kind::File { digest: Digest::of(b""), size: n, executable: false },
        }
    };
    let tree = Tree::new((0..100_000).map(member).collect()).expect("a tree");
    let bytes = tree.encode();
    let mut group = c.benchmark_group("tree of 100,000");
    group.sample_size(20);
    group.bench_function("encode", |b| b.iter(|| black_box(&tree).encode()));
    group.bench_function("decode", |b| b.iter(|| Tree::decode(black_box(&bytes))));
    group.finish();
}

fn filters(c: &mut Criterion) {
    let build = |range: std::ops::Range<u64>| Filter::build(range.map(action)).expect("a filter");
    let filters: Vec<_> = (0..50).map(|n| build(n * 100_000..(n + 1) * 100_000)).collect();
    let strangers: Vec<_> = (1 << 40..(1 << 40) + 100_000_u64).map(action).collect();
    let members: Vec<_> = (0..1_000_000).map(action).collect();
    let mut group = c.benchmark_group("filter");
    group.bench_function("probe 50 of 100,000 for a stranger", |b| {
        let mut next = strangers.iter().cycle();
        b.iter(|| {
            let stranger = next.next().expect("a cycle does not end");
            filters.iter().filter(|filter| filter.contains(stranger)).count()
        });
    });
    group.sample_size(10);
    group.bench_function("build of 1,000,000", |b| b.iter(|| Filter::build(members.iter().copied())));
    group.finish();
}

/// Seconds that `work` takes.
fn seconds(work: impl FnOnce()) -> f64 {
    #[expect(clippy::disallowed_methods, reason = "a measurement reads the clock")]
    let start = Instant::now();
    work();
    start.elapsed().as_secs_f64()
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}

/// Speed relative to plain BLAKE3, in turns, so that whatever else the machine does falls on all three.
#[expect(clippy::print_stdout, reason = "the answer of a benchmark")]
fn ratios() {
    let (blob, pieces) = blob();
    let (mut checked, mut hashed) = (Vec::new(), Vec::new());
    for _ in 0..15 {
        let plain = seconds(|| {
            black_box(blake3::hash(&blob));
        });
        checked.push(plain / seconds(|| check(&blob, &pieces)));
        hashed.push(plain / seconds(|| drop(black_box(hash(&blob)))));
    }
    println!("check pieces / plain BLAKE3: {:.2} (wanted: at least 0.90)", median(checked));
    println!("hash into pieces / plain BLAKE3: {:.2}", median(hashed));
}

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    judging(&mut criterion);
    pieces(&mut criterion);
    trees(&mut criterion);
    filters(&mut criterion);
    criterion.final_summary();
    // `cargo test --benches` only wants to see that everything runs.
    if std::env::args().any(|arg| arg == "--bench") {
        ratios();
    }
}
