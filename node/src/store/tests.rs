// SPDX-License-Identifier: MIT OR Apache-2.0
//! The store as those use it who read and write.

use super::*;
use crate::gc::budget::Amount;
use crate::index::MAX_INLINE_BYTES;
use crate::observe::span;

fn store() -> (tempfile::TempDir, Store) {
    let folder = tempfile::tempdir().unwrap();
    let store = Store::open(&folder.path().join("store")).unwrap().0;
    (folder, store)
}

/// Removes a Blob and says whether it was here.
fn removed(store: &Store, digest: &Digest) -> bool {
    let was = store.peek_bytes(digest, u64::MAX).is_ok_and(|bytes| bytes.is_some());
    store.remove_all(&[*digest]).unwrap();
    was
}

#[test]
fn small_and_large_are_read_alike() {
    let (_folder, store) = store();
    for size in [0, 1, MAX_INLINE_BYTES, MAX_INLINE_BYTES + 1, PIECE_BYTES, PIECE_BYTES + 1] {
        let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
        let digest = store.keep(&bytes, Durability::Fast).unwrap();
        assert_eq!(digest, Digest::of(&bytes));
        assert!(store.has(&digest).unwrap());
        assert_eq!(store.bytes(&digest, size as u64).unwrap().unwrap(), bytes);
        assert!(size == 0 || store.bytes(&digest, size as u64 - 1).unwrap().is_none());
    }
    assert!(!store.has(&Digest::of(b"absent")).unwrap());
    assert!(store.blob(&Digest::of(b"absent")).unwrap().is_none());
    assert!(store.total().unwrap() > 0);
}

#[test]
fn what_is_sent_packed_is_taken_piece_by_piece() {
    let ((_a, from), (_b, to)) = (store(), store());
    for size in [1, 5000, 3 * PIECE_BYTES + 7] {
        let bytes: Vec<u8> = (0..=250).cycle().take(size).collect();
        let digest = from.keep(&bytes, Durability::Fast).unwrap();
        let blob = from.blob(&digest).unwrap().unwrap();
        let mut receiving = to.receive(blob.pieces().clone()).unwrap();
        let mut wrong = blob.packed(0).unwrap().1.to_vec();
        wrong[0] ^= 1;
        assert!(receiving.put(0, Packing::Raw, &wrong).unwrap_err().is_refusal());
        for index in 0..blob.pieces().count() {
            let (packing, packed) = blob.packed(index).unwrap();
            receiving.put(index, packing, &packed).unwrap();
        }
        receiving.finish().unwrap();
        assert_eq!(to.bytes(&digest, u64::MAX).unwrap().unwrap(), bytes);
    }
}

/// Whether a Blob waits to be packed.
fn waits(store: &Store, digest: &Digest) -> bool {
    let mut found = false;
    store
        .each_waiting(&mut |other| {
            found |= other == *digest;
            true
        })
        .unwrap();
    found
}

#[tokio::test]
async fn what_an_earlier_run_left_is_packed_and_the_thread_ends_with_the_driver() {
    let (folder, store) = store();
    let bytes: Vec<u8> = (0..=250).cycle().take(3 * PIECE_BYTES).collect();
    let digest = store.keep(&bytes, Durability::Fast).unwrap();
    assert!(waits(&store, &digest));
    drop(store);
    let store = Store::open(&folder.path().join("store")).unwrap().0;
    assert_eq!(store.used(), None);
    let running = span::spawn("packing", crate::packing::driver::run(store.clone()));
    while waits(&store, &digest) {
        tokio::task::yield_now().await;
    }
    assert!(store.used().unwrap() < PIECE_BYTES as u64);
    assert_eq!(store.used().unwrap(), store.total().unwrap());
    assert_eq!(store.bytes(&digest, u64::MAX).unwrap().unwrap(), bytes);
    running.abort();
    assert!(running.await.unwrap_err().is_cancelled());
    while Arc::strong_count(store.index()) > 1 {
        tokio::task::yield_now().await;
    }
}

#[test]
fn packing_is_told_what_waits_and_that_the_store_is_in_use() {
    let (_folder, store) = store();
    let (to, mut told) = mpsc::channel(2);
    store.watch(to);
    let digest = store.keep(&[7; MAX_INLINE_BYTES + 1], Durability::Fast).unwrap();
    assert_eq!(told.try_recv(), Ok(Event::Stirred));
    assert_eq!(told.try_recv(), Ok(Event::Waits(digest)));
    // The same once more, and what is too small for a file, wait for nothing; and a full queue holds up nobody.
    for bytes in [&[7; MAX_INLINE_BYTES + 1][..], b"small"] {
        store.keep(bytes, Durability::Fast).unwrap();
    }
    assert!(!matches!(told.try_recv(), Ok(Event::Waits(_))));
    for n in 0..9 {
        store.keep(&[n; MAX_INLINE_BYTES + 1], Durability::Fast).unwrap();
    }
}

#[test]
fn a_removed_blob_stays_away_however_far_packing_is() {
    let (_folder, store) = store();
    let bytes: Vec<u8> = (0..=250).cycle().take(3 * PIECE_BYTES).collect();
    let digest = store.keep(&bytes, Durability::Fast).unwrap();
    store.count().unwrap();
    let mut left = 3;
    let mut go = || {
        left -= 1;
        left > 0 || removed(&store, &digest)
    };
    assert_eq!(store.pack(&digest, &mut go).unwrap(), Repacked::Gone);
    assert!(!store.has(&digest).unwrap() && !removed(&store, &digest));
    assert_eq!(store.used(), Some(0));
}

#[test]
fn the_running_total_is_the_total() {
    let (_folder, store) = store();
    let small = store.keep(b"small", Durability::Fast).unwrap();
    assert_eq!(store.used(), None);
    store.count().unwrap();
    let agrees = |store: &Store| assert_eq!(store.used().unwrap(), store.total().unwrap());
    agrees(&store);
    let large = store.keep(&[1; 2 * PIECE_BYTES], Durability::Durable).unwrap();
    store.keep(b"small", Durability::Fast).unwrap();
    store.keep(b"another", Durability::Fast).unwrap();
    agrees(&store);
    assert!(store.used().unwrap() > 2 * PIECE_BYTES as u64);
    store.pack(&large, &mut || true).unwrap();
    agrees(&store);
    assert!(store.used().unwrap() < PIECE_BYTES as u64);
    assert!(removed(&store, &small) && removed(&store, &large));
    assert_eq!(store.used(), Some(b"another".len() as u64));
    agrees(&store);
}

#[test]
fn below_the_floor_nothing_is_taken_and_everything_is_given() {
    let (folder, store) = store();
    let digest = store.keep(&[1; PIECE_BYTES], Durability::Fast).unwrap();
    let pieces = store.blob(&digest).unwrap().unwrap().pieces().clone();
    drop(store);
    let root = folder.path().join("store");
    let store = Store::open_with(&root, Floor(Some(Amount::Share(100_000))), Protected::default()).unwrap().0;
    let floor = |outcome: Result<Digest, StoreError>| {
        let error = outcome.unwrap_err();
        assert!(matches!(error, StoreError::Content(ContentError::Floor { .. })), "{error}");
    };
    floor(store.keep(b"small", Durability::Fast));
    floor(store.keep(&[2; PIECE_BYTES], Durability::Fast));
    floor(store.receive(pieces).map(|_| digest));
    assert!(store.pack(&digest, &mut || true).is_err(), "nor is there room to pack in");
    assert_eq!(store.bytes(&digest, u64::MAX).unwrap().unwrap(), [1; PIECE_BYTES]);
    assert!(store.room().unwrap().free < store.room().unwrap().total);
    assert_eq!(std::fs::read_dir(root.join("staging")).unwrap().count(), 0);
    assert!(removed(&store, &digest), "room can be made");
}

#[test]
fn what_is_synced_is_known_until_it_is_written_anew() {
    let (_folder, store) = store();
    let digests: Vec<_> =
        (0..20).map(|n| store.keep(&[n; MAX_INLINE_BYTES + 1], Durability::Fast).unwrap()).collect();
    assert!(digests.iter().all(|digest| !store.is_synced(digest)));
    store.sync(&[&digests[..], &[Digest::of(b"absent")]].concat()).unwrap();
    assert!(digests.iter().all(|digest| store.is_synced(digest)));
    assert!(removed(&store, &digests[0]) && !store.is_synced(&digests[0]));
    store.keep(&[0; MAX_INLINE_BYTES + 1], Durability::Fast).unwrap();
    assert!(!store.is_synced(&digests[0]));
    store.keep(&[99; MAX_INLINE_BYTES + 1], Durability::Durable).unwrap();
    assert!(store.is_synced(&Digest::of(&[99; MAX_INLINE_BYTES + 1])));
}

#[test]
fn what_a_power_cut_has_torn_is_not_claimed() {
    let (folder, store) = store();
    let bytes = vec![7; 2 * PIECE_BYTES];
    let digest = store.keep(&bytes, Durability::Fast).unwrap();
    drop(store);
    let name = digest.to_string();
    let path = folder.path().join("store/blobs").join(&name[..2]).join(&name);
    let whole = std::fs::read(&path).unwrap();
    let end = whole.len() - 5;
    for torn in [&whole[..end], &[&[0; 4096], &whole[4096..]].concat()] {
        std::fs::write(&path, torn).unwrap();
        let store = Store::open(&folder.path().join("store")).unwrap().0;
        assert!(store.has(&digest).unwrap(), "nobody has looked");
        assert!(store.sync(&[digest]).unwrap_err().is_damage());
        assert!(!store.has(&digest).unwrap(), "it was put aside");
        assert_eq!(store.keep(&bytes, Durability::Fast).unwrap(), digest);
        store.sync(&[digest]).unwrap();
    }
}

#[test]
fn a_bad_piece_in_the_middle_is_found_by_whichever_thread_reads_it() {
    let (folder, store) = store();
    let bytes: Vec<u8> = (0..=250).cycle().take(9 * PIECE_BYTES).collect();
    let digest = store.keep(&bytes, Durability::Fast).unwrap();
    let name = digest.to_string();
    let path = folder.path().join("store/blobs").join(&name[..2]).join(&name);
    let mut stored = std::fs::read(&path).unwrap();
    stored[5 * PIECE_BYTES + 7] ^= 1;
    std::fs::write(&path, stored).unwrap();
    assert!(store.bytes(&digest, u64::MAX).is_err());
    assert!(!store.has(&digest).unwrap(), "it was put aside");
}

#[test]
fn what_is_read_at_once_is_checked_as_well() {
    let (folder, store) = store();
    let bytes: Vec<u8> = (0..=250).cycle().take(PIECE_BYTES - 5).collect();
    let digest = store.keep(&bytes, Durability::Fast).unwrap();
    let blob = store.blob(&digest).unwrap().unwrap();
    // Whether a file that was just written is in memory is up to the system.
    assert!(store.lend_piece_at_once(&blob, 0).is_none_or(|read| read == bytes));
    let name = digest.to_string();
    let path = folder.path().join("store/blobs").join(&name[..2]).join(&name);
    let mut stored = std::fs::read(&path).unwrap();
    stored[PIECE_BYTES / 2] ^= 1;
    std::fs::write(&path, stored).unwrap();
    assert!(store.lend_piece_at_once(&blob, 0).is_none());
    assert!(store.lend_piece(&blob, 0).unwrap_err().is_damage());
    assert!(!store.has(&digest).unwrap(), "it was put aside");
}

#[test]
fn no_more_is_read_ahead_than_allowed() {
    let (_folder, store) = store();
    let held: Vec<_> = std::iter::from_fn(|| store.ahead()).take(MAX_AHEAD + 1).collect();
    assert_eq!(held.len(), MAX_AHEAD);
    drop(held);
    assert!(store.ahead().is_some());
}

#[test]
fn bombs_end_early() {
    let bomb = zstd::bulk::compress(&vec![0; PIECE_BYTES + 1], 1).unwrap();
    assert!(unpack(Packing::Zstd, &bomb, 100).is_err());
    assert!(unpack(Packing::Zstd, &bomb, PIECE_BYTES as u64).is_err());
    assert!(unpack(Packing::Zstd, &bomb, PIECE_BYTES as u64 + 1).is_err(), "beyond a piece");
    assert!(unpack(Packing::Zstd, b"no frame", 100).is_err());
    assert!(unpack(Packing::Raw, b"four", 3).is_err() && unpack(Packing::Raw, b"four", 5).is_err());
}
