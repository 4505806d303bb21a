// SPDX-License-Identifier: MIT OR Apache-2.0
//! The hot paths of `keys` and `protocol`, one by one and at length: for comparing one state of the code with another.
//! Whether they are fast enough, `figures` says in less time.

mod stage;

use std::hint::black_box;

use criterion::{BatchSize, Criterion, Throughput};
use potluck_keys::policy::{Scoped as _, Want};
use potluck_keys::signed::Signed;
use potluck_protocol::catalog::Filter;
use potluck_protocol::entry::Entry;
use potluck_protocol::tree::Tree;
use potluck_tests::samples::{NOW, pair};
use stage::{
    BLOB_BYTES, CLAIMS, MANY, SIGNERS, action, blob, check, entries, filters, fresh, hash, policy,
    revocation, signed, strangers, tree,
};

fn judging(c: &mut Criterion) {
    let (key, mut policy, entries) = (pair(SIGNERS), policy(), entries());
    let claims = signed(&entries, &key);
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
    policy.heed_revocation(&revocation(&key)).expect("it is genuine");
    let scope = entries[0].scope();
    assert!(policy.judge(&claims[0], &Want::of(&scope), NOW).is_err());
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
    let tree = tree();
    let bytes = tree.encode();
    let mut group = c.benchmark_group("tree of 100,000");
    group.sample_size(20);
    group.bench_function("encode", |b| b.iter(|| black_box(&tree).encode()));
    group.bench_function("decode", |b| b.iter(|| Tree::decode(black_box(&bytes))));
    group.finish();
}

fn probing(c: &mut Criterion) {
    let (filters, strangers) = (filters(), strangers());
    let members: Vec<_> = (0..MANY).map(action).collect();
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

fn main() {
    let mut criterion = Criterion::default().configure_from_args();
    judging(&mut criterion);
    pieces(&mut criterion);
    trees(&mut criterion);
    probing(&mut criterion);
    criterion.final_summary();
}
