// SPDX-License-Identifier: MIT OR Apache-2.0
//! Files of Blobs, and what may be wrong with them.

use std::os::unix::fs::PermissionsExt as _;

use potluck_protocol::piece::PIECE_BYTES;

use super::*;
use crate::content::Damage;
use crate::content::contract::{contract, random, store, text};

fn files(path: &Path) -> Vec<PathBuf> {
    let mut files = Vec::new();
    list(path, |entry, _| files.push(entry.path())).unwrap();
    files
}

fn fresh() -> (tempfile::TempDir, DiskContent) {
    let folder = tempfile::tempdir().unwrap();
    let content = DiskContent::open(&folder.path().join("a/content")).unwrap();
    (folder, content)
}

/// Changes one byte of a stored Blob, counted from its end when `at` is negative.
fn flip(content: &DiskContent, digest: &Digest, at: i64) {
    let path = content.folders.path(digest);
    let mut bytes = fs::read(&path).unwrap();
    let at = if at < 0 { bytes.len() - usize::try_from(-at).unwrap() } else { usize::try_from(at).unwrap() };
    bytes[at] ^= 0x10;
    fs::write(&path, bytes).unwrap();
}

#[test]
fn keeps_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let made = std::cell::Cell::new(0);
    contract(|| {
        made.set(made.get() + 1);
        DiskContent::open(&folder.path().join(made.get().to_string())).unwrap()
    });
}

#[test]
fn files_are_the_owner_s_and_lie_where_they_should() {
    let (_folder, content) = fresh();
    let digest = store(&content, b"hello").digest;
    let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
    let Folders { blobs, staging, quarantine, .. } = &*content.folders;
    let shard = blobs.join(&digest.to_string()[..2]);
    for folder in [blobs, staging, quarantine, &shard, &blobs.join("..")] {
        assert_eq!(mode(folder), 0o700, "{folder:?}");
    }
    assert_eq!(files(&shard), [shard.join(digest.to_string())]);
    assert_eq!(mode(&files(&shard)[0]), 0o600);
}

#[test]
fn what_is_dropped_leaves_no_file() {
    let (_folder, content) = fresh();
    let mut staging = content.begin().unwrap();
    staging.write(&random(3 * PIECE_BYTES)).unwrap();
    assert_eq!(files(&content.folders.staging).len(), 1);
    drop(staging);
    assert!(files(&content.folders.staging).is_empty());
    // Nor does what turns out to be there already.
    store(&content, b"twice");
    store(&content, b"twice");
    assert!(files(&content.folders.staging).is_empty());
}

#[test]
fn sweeping_removes_leftovers_and_says_so() {
    let (_folder, content) = fresh();
    let digest = store(&content, b"stays").digest;
    let lost = store(&content, b"lost").digest;
    assert!(content.quarantine(&lost).unwrap());
    let mut staging = content.begin().unwrap();
    staging.write(&random(PIECE_BYTES)).unwrap();
    // As a process that dies leaves it.
    std::mem::forget(staging);
    let swept = content.sweep().unwrap();
    assert_eq!((swept.removed, swept.removed_bytes, swept.quarantined), (1, PIECE_BYTES as u64, 1));
    assert!(swept.quarantined_bytes > 4);
    assert_eq!(content.sweep().unwrap(), Swept { removed: 0, removed_bytes: 0, ..swept });
    assert!(content.has(&digest));
}

#[test]
fn a_flipped_byte_is_found_wherever_it_is() {
    for data in [random(3 * PIECE_BYTES + 9), text(3 * PIECE_BYTES + 9)] {
        let (_folder, content) = fresh();
        let digest = store(&content, &data).digest;
        flip(&content, &digest, 1000);
        let opened = content.open(&digest).unwrap().unwrap();
        let error = opened.read(0).map(drop).unwrap_err();
        assert!(
            matches!(error, ContentError::Damaged { source: Damage::Piece { index: 0, .. }, .. }),
            "{error}"
        );
        assert!(opened.packed(0).is_ok(), "the receiver finds it out");
        assert_eq!(opened.read(1).unwrap(), data[PIECE_BYTES..2 * PIECE_BYTES]);
        flip(&content, &digest, 1000);
        assert!(content.open(&digest).unwrap().unwrap().read(0).is_ok());
        // Trailer: check, Digest, size, count, version, magic. Table: last value, first offset.
        for at in [-1, -33, -65, -73, -77, -81, -89, -88 - 4 * 45] {
            flip(&content, &digest, at);
            let error = content.open(&digest).unwrap_err();
            assert!(matches!(error, ContentError::Damaged { .. }), "{at}: {error}");
            flip(&content, &digest, at);
        }
    }
}

#[test]
fn a_damaged_blob_makes_way_for_a_sound_one() {
    let (_folder, content) = fresh();
    let digest = store(&content, b"sound").digest;
    for spoil in [|bytes: &[u8]| bytes[..bytes.len() - 1].to_vec(), |_: &[u8]| Vec::new()] {
        let path = content.folders.path(&digest);
        fs::write(&path, spoil(&fs::read(&path).unwrap())).unwrap();
        assert!(matches!(content.open(&digest), Err(ContentError::Damaged { .. })));
        assert!(store(&content, b"sound").new);
        assert_eq!(content.open(&digest).unwrap().unwrap().read(0).unwrap(), b"sound");
    }
    assert_eq!(content.sweep().unwrap().quarantined, 1, "the name is the same");
}

#[test]
fn a_file_cut_off_while_it_is_open_is_damaged() {
    let (_folder, content) = fresh();
    let digest = store(&content, &random(2 * PIECE_BYTES)).digest;
    let opened = content.open(&digest).unwrap().unwrap();
    File::options().write(true).open(content.folders.path(&digest)).unwrap().set_len(9).unwrap();
    assert!(matches!(opened.read(1), Err(ContentError::Damaged { .. })));
    assert!(matches!(opened.packed(1), Err(ContentError::Damaged { .. })));
}

#[test]
fn quarantine_is_bounded() {
    let (_folder, content) = fresh();
    for n in 0..=MAX_QUARANTINED {
        let digest = store(&content, n.to_string().as_bytes()).digest;
        assert!(content.quarantine(&digest).unwrap());
        assert!(!content.has(&digest));
    }
    assert_eq!(content.sweep().unwrap().quarantined, MAX_QUARANTINED as u64);
}

#[test]
fn folders_that_vanish_come_back() {
    let (_folder, content) = fresh();
    store(&content, b"one");
    for durability in [Durability::Durable, Durability::Fast] {
        for folder in ["blobs", "staging", "quarantine"] {
            fs::remove_dir_all(content.folders.blobs.with_file_name(folder)).unwrap();
        }
        assert!(!content.has(&Digest::of(b"one")));
        assert_eq!(content.sweep().unwrap(), Swept::default());
        content.each(&mut |_, _| panic!("nothing is left")).unwrap();
        let mut staging = content.begin().unwrap();
        staging.write(b"one").unwrap();
        assert!(staging.finish(durability).unwrap().new);
        assert!(content.quarantine(&Digest::of(b"one")).unwrap());
        store(&content, b"one");
    }
}

#[test]
fn what_cannot_be_written_names_the_place() {
    let (folder, content) = fresh();
    let staging = &content.folders.staging;
    fs::remove_dir(staging).unwrap();
    fs::write(staging, "").unwrap();
    let error = content.begin().unwrap_err();
    assert!(matches!(&error, ContentError::Io { path, .. } if path == staging), "{error}");
    fs::remove_file(staging).unwrap();
    // A Blob whose staging file is gone cannot be kept; that is an error and no endless loop.
    let mut lost = content.begin().unwrap();
    lost.write(b"x").unwrap();
    fs::remove_dir_all(staging).unwrap();
    assert!(matches!(lost.finish(Durability::Fast), Err(ContentError::Io { .. })));
    // The folder that holds all is not made again: it may be a disk that is not there.
    fs::remove_dir_all(folder.path().join("a")).unwrap();
    assert!(matches!(content.begin(), Err(ContentError::Io { .. })));
    assert!(DiskContent::open(&folder.path().join("a")).is_ok());
    fs::write(folder.path().join("file"), "").unwrap();
    assert!(DiskContent::open(&folder.path().join("file/x")).is_err());
}

#[test]
fn files_of_others_are_not_listed() {
    let (_folder, content) = fresh();
    let digest = store(&content, b"ours").digest;
    let shard = content.folders.shard(&digest);
    fs::write(shard.join("notes.txt"), "x").unwrap();
    let wrong = Digest::from_bytes([!digest.as_bytes()[0]; 32]);
    fs::write(shard.join(wrong.to_string()), "x").unwrap();
    let mut listed = Vec::new();
    content.each(&mut |digest, _| listed.push(digest)).unwrap();
    assert_eq!(listed, [digest]);
}
