// SPDX-License-Identifier: MIT OR Apache-2.0
//! What both benchmarks measure: a policy with claims to judge, a Blob, a Tree, filters.

use std::path::Path;

use potluck_keys::pair::Pair;
use potluck_keys::policy::Policy;
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

pub(crate) const BLOB_BYTES: usize = 64 << 20;
pub(crate) const SIGNERS: u8 = 20;
pub(crate) const CLAIMS: u32 = 1024;
/// Keys of a large filter.
pub(crate) const MANY: u64 = 1_000_000;

/// Twenty signers, each with a rule of its own; the one that counts comes last.
pub(crate) fn policy() -> Policy {
    let mut text = String::new();
    for seed in 1..=SIGNERS {
        let line = pair(seed).public().to_openssh("bench");
        text += &format!("[signer.s{seed}]\nkey = \"{line}\"\n");
        text +=
            &format!("[[rule]]\nproject = \"acme{seed}/*\"\nrecipe = \"rustc@*\"\naccept = [\"s{seed}\"]\n");
    }
    Policy::new(Rules::read(&[Layer::new(Path::new("trust.toml"), text)]).expect("the rules are sound"))
}

pub(crate) fn entries() -> Vec<Entry> {
    let project = Project::new(&format!("acme{SIGNERS}/web")).expect("a project");
    let entry = Entry { project, taints: Vec::new(), ..entry() };
    (0..CLAIMS).map(|n| Entry { action: action(u64::from(n)), ..entry.clone() }).collect()
}

pub(crate) fn action(n: u64) -> ActionId {
    ActionId::from_bytes(*Digest::of(&n.to_le_bytes()).as_bytes())
}

pub(crate) fn signed(entries: &[Entry], key: &Pair) -> Vec<Signed<Entry>> {
    entries.iter().map(|entry| Signed::sign(entry, &[key]).expect("an entry fits")).collect()
}

pub(crate) fn fresh(claims: &[Signed<Entry>]) -> Vec<Signed<Entry>> {
    claims.iter().map(|claim| Signed::decode(claim.bytes()).expect("what was signed, decodes")).collect()
}

pub(crate) fn revocation(key: &Pair) -> Signed<Revocation> {
    let revocation = Revocation { key: key.signer(), at: NOW, issued: NOW, reason: None };
    Signed::sign(&revocation, &[key]).expect("a revocation fits")
}

pub(crate) fn blob() -> (Vec<u8>, Pieces) {
    let blob = vec![7; BLOB_BYTES];
    let mut hasher = PieceHasher::new();
    hasher.update(&blob);
    (blob, hasher.finish().expect("a small blob"))
}

pub(crate) fn check(blob: &[u8], pieces: &Pieces) {
    for (index, piece) in (0..).zip(blob.chunks(PIECE_BYTES)) {
        pieces.check(index, piece).expect("the pieces are right");
    }
}

pub(crate) fn hash(blob: &[u8]) -> Pieces {
    let mut hasher = PieceHasher::new();
    blob.chunks(256 * 1024).for_each(|part| hasher.update(part));
    hasher.finish().expect("a small blob")
}

pub(crate) fn tree() -> Tree {
    let member = |n: u64| {
        let path = TreePath::new(&format!("target/debug/deps/lib{:x}-{n:08}.rlib", n * 7919 % 100_000));
        Member {
            path: path.expect("a path"),
            kind: Kind::File { digest: Digest::of(b""), size: n, executable: false },
        }
    };
    Tree::new((0..100_000).map(member).collect()).expect("a tree")
}

/// Fifty filters of 100,000 keys each: those of a large Catalog, or of many small ones.
pub(crate) fn filters() -> Vec<Filter> {
    let build = |range: std::ops::Range<u64>| Filter::build(range.map(action)).expect("a filter");
    (0..50).map(|n| build(n * 100_000..(n + 1) * 100_000)).collect()
}

/// Ids that are in none of them.
pub(crate) fn strangers() -> Vec<ActionId> {
    (1 << 40..(1 << 40) + 100_000_u64).map(action).collect()
}
