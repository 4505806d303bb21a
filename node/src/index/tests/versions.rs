// SPDX-License-Identifier: MIT OR Apache-2.0
//! Stores as earlier versions left them.

use std::path::{Path, PathBuf};

use bytes::Bytes;
use potluck_keys::signed::SealKey;
use potluck_keys::time::Time;
use potluck_protocol::action::{ActionId, Recipe};
use potluck_protocol::digest::{Digest, Sha256};
use redb::ReadableTableMetadata as _;

use super::super::{Contradiction, Index, Tally, rows};
use super::project;
use crate::content::Durability;

#[test]
fn a_store_of_the_first_version_is_opened_and_written_to() {
    opens_and_takes_more(&unpacked(1));
}

#[test]
fn a_store_of_the_third_version_is_opened_and_written_to() {
    let folder = made_once(3, make_third);
    {
        let store = crate::store::Store::open(&folder.path().join("store")).unwrap().0;
        let index = store.index();
        assert_eq!(index.of_sha256(&Sha256::from_bytes([3; 32])).unwrap(), Some(Digest::of(b"by ann")));
        assert_eq!(index.contradictions().unwrap(), 1);
        assert_eq!(index.tallies().unwrap()[0].1.hits, 3);
        let key = SealKey::generate().unwrap();
        let first = index.actions(None, 1).unwrap()[0];
        assert!(index.entries(&first).unwrap()[0].seal(&key).is_some(), "its seal is taken");
        let mut waiting = 0;
        store
            .each_waiting(&mut |_| {
                waiting += 1;
                true
            })
            .unwrap();
        assert_eq!(waiting, 1, "one is stored as it came");
    }
    opens_and_takes_more(&folder);
}

#[test]
fn a_store_of_the_fourth_version_is_opened_and_written_to() {
    let folder = made_once(4, make_fourth);
    {
        let index = Index::open(&folder.path().join("store/index.redb")).unwrap();
        let slabs = index.db.begin_read().unwrap().open_table(rows::SLABS).unwrap();
        assert_eq!(slabs.len().unwrap(), 1);
        for (digest, bytes) in together() {
            assert_eq!(index.small(&digest).unwrap().as_deref(), Some(&bytes[..]));
        }
        let gone: Vec<_> = together()[..15].iter().map(|one| one.0).collect();
        index.forget_blobs(&gone).unwrap();
        for (number, (digest, bytes)) in together().into_iter().enumerate() {
            assert_eq!(index.small(&digest).unwrap(), (number >= 15).then(|| bytes.to_vec()));
        }
    }
    opens_and_takes_more(&folder);
}

/// The store of a version, which is made once, when that is asked for.
fn made_once(version: u32, make: fn(&Path)) -> tempfile::TempDir {
    let packed = fixture(version);
    if std::env::var_os("POTLUCK_BLESS").is_some() && !packed.exists() {
        make(&packed);
    }
    unpacked(version)
}

fn fixture(version: u32) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(format!("../tests/fixtures/store-{version}/store.tar.zst"))
}

fn unpacked(version: u32) -> tempfile::TempDir {
    let unpacked = zstd::decode_all(std::fs::File::open(fixture(version)).unwrap()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    tar::Archive::new(unpacked.as_slice()).unpack(folder.path()).unwrap();
    folder
}

/// The first one as it is after this version has been at it, with a row of each table that came since. Made once.
fn make_third(to: &Path) {
    let folder = unpacked(1);
    let at = folder.path().join("store");
    let store = crate::store::Store::open(&at).unwrap().0;
    let index = store.index();
    let contradiction =
        Contradiction { earlier: Digest::of(b"1"), later: Digest::of(b"2"), seen: Time::from_millis(3) };
    for action in index.actions(None, 100).unwrap() {
        for entry in index.entries(&action).unwrap() {
            entry.authentic().unwrap();
            index.keep_entry(&entry, &[], Durability::Durable).unwrap();
            let who = (entry.signers().next().unwrap(), action);
            index
                .note(
                    &[],
                    &[(who, contradiction.clone())][..usize::from(index.contradictions().unwrap() == 0)],
                )
                .unwrap();
        }
    }
    let name = ("acme/app".to_owned(), "demo@1".to_owned());
    index.note(&[(name, Tally { hits: 3, ..Tally::default() })], &[]).unwrap();
    let alias = (Digest::of(b"by ann"), Sha256::from_bytes([3; 32]));
    index.keep_aliases(&[alias], Durability::Durable).unwrap();
    for (nth, file) in walk(&at.join("blobs")).into_iter().enumerate() {
        let digest: Digest = file.file_name().unwrap().to_str().unwrap().parse().unwrap();
        if nth == 0 {
            let bytes = store.bytes(&digest, u64::MAX).unwrap().unwrap();
            store.remove_all(&[digest]).unwrap();
            store.keep(&bytes, Durability::Durable).unwrap();
            index.belong(&[digest], &project("acme/app"), Durability::Durable).unwrap();
        }
    }
    drop(store);
    pack(&at, to);
}

/// The third one as it is after this version has been at it, with small Blobs in slabs. Made once.
fn make_fourth(to: &Path) {
    let folder = unpacked(3);
    let at = folder.path().join("store");
    let store = crate::store::Store::open(&at).unwrap().0;
    store.index().keep_smalls(&together()).unwrap();
    store.index().settle().unwrap();
    drop(store);
    pack(&at, to);
}

/// Small Blobs that lie together.
fn together() -> Vec<(Digest, Bytes)> {
    (0..20)
        .map(|number| vec![number; 1000 + usize::from(number)])
        .map(|bytes| (Digest::of(&bytes), bytes.into()))
        .collect()
}

fn pack(at: &Path, to: &Path) {
    std::fs::create_dir_all(to.parent().unwrap()).unwrap();
    let packer = zstd::Encoder::new(std::fs::File::create(to).unwrap(), 19).unwrap();
    let mut archive = tar::Builder::new(packer);
    archive.append_dir_all("store", at).unwrap();
    archive.into_inner().unwrap().finish().unwrap();
}

fn opens_and_takes_more(folder: &tempfile::TempDir) {
    let store = folder.path().join("store");
    let xs = vec![b'x'; 9000];
    let acme = project("acme/app");
    for turn in 0..3 {
        let store = crate::store::Store::open(&store).unwrap().0;
        let index = store.index();
        while !index.learn(2).unwrap() {}
        for bytes in [&b"small and here"[..], &xs, b"by ann"] {
            assert_eq!(store.bytes(&Digest::of(bytes), 9000).unwrap().as_deref(), Some(bytes));
        }
        let outbox = index.outbox(&project("private"), 10).unwrap();
        assert_eq!((outbox.len(), index.outbox(&acme, 10).unwrap().len()), (1, 0));
        let recipe = Recipe::new("demo@1").unwrap();
        let private = ActionId::derive(&project("private"), &recipe, &[1], None).unwrap();
        assert_eq!(outbox[0].0, private);
        for key in [1, 2, 3, 4, 5, 0xaa, 0xab] {
            let action = ActionId::derive(&acme, &recipe, &[key], None).unwrap();
            let entries = index.entries(&action).unwrap();
            assert_eq!(entries.len(), 1, "key {key:02x}");
            let entry = entries[0].authentic().unwrap();
            assert_eq!((&entry.project, &entry.recipe), (&acme, &recipe));
            assert!(index.belongs(entry.output.digest(), |name| name == "acme/app").unwrap());
            // Read in the first form, and kept in the second from now on.
            index.keep_entry(&entries[0], &[], Durability::Fast).unwrap();
        }
        assert!(index.entries(&ActionId::from_bytes([0; 32])).unwrap().is_empty());
        assert!(index.own_catalog(&acme).unwrap().is_some());
        assert_eq!(index.heads().unwrap().len(), 1);
        let mut large = 0;
        for file in walk(&folder.path().join("store/blobs")) {
            let digest: Digest = file.file_name().unwrap().to_str().unwrap().parse().unwrap();
            assert_eq!(Digest::of(&store.bytes(&digest, u64::MAX).unwrap().unwrap()), digest);
            large += 1;
        }
        assert_eq!(large, 3);
        let mine = format!("written in turn {turn}");
        store.keep(mine.as_bytes(), Durability::Durable).unwrap();
        for before in 0..=turn {
            assert!(store.has(&Digest::of(format!("written in turn {before}").as_bytes())).unwrap());
        }
    }
}

fn walk(folder: &Path) -> Vec<PathBuf> {
    let parts = std::fs::read_dir(folder).unwrap();
    let files = parts.flat_map(|part| std::fs::read_dir(part.unwrap().path()).unwrap());
    files.map(|file| file.unwrap().path()).collect()
}
