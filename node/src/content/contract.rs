// SPDX-License-Identifier: MIT OR Apache-2.0
//! What every backend has to do, as one suite for all of them.

use std::thread;

use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Packing;
use potluck_protocol::piece::{PIECE_BYTES, PieceList, Pieces};

use super::*;

const PIECE: usize = PIECE_BYTES;

/// Bytes that do not shrink.
pub(crate) fn random(len: usize) -> Vec<u8> {
    let mut out = vec![0; len];
    blake3::Hasher::new().update(b"random").finalize_xof().fill(&mut out);
    out
}

/// Bytes that shrink, and differ everywhere.
pub(super) fn text(len: usize) -> Vec<u8> {
    let mut out: Vec<u8> = (0..=len / 16).flat_map(|n| format!("line {n:010}\n").into_bytes()).collect();
    out.truncate(len);
    out
}

/// Writes a Blob.
pub(super) fn store(content: &impl Content, data: &[u8]) -> Stored {
    let mut staging = content.begin().unwrap();
    staging.write(data).unwrap();
    staging.finish(Durability::Fast).unwrap()
}

/// Reads a Blob.
fn load(content: &impl Content, digest: &Digest) -> Vec<u8> {
    let opened = content.open(digest).unwrap().unwrap();
    (0..opened.pieces().count()).flat_map(|index| opened.read(index).unwrap()).collect()
}

fn all(content: &impl Content) -> Vec<(Digest, u64)> {
    let mut all = Vec::new();
    content.each(&mut |digest, bytes| all.push((digest, bytes))).unwrap();
    all.sort();
    all
}

/// Starts a Blob as a node does that got the list of its pieces from a peer.
fn expect<C: Content>(content: &C, pieces: &Pieces) -> Incoming<C::Draft> {
    let list: PieceList = pieces.list().clone();
    content.begin_known(list.verify(pieces.digest()).unwrap()).unwrap()
}

fn samples() -> Vec<Vec<u8>> {
    let lengths = [0, 1, 16 << 10, PIECE - 1, PIECE, PIECE + 1, 3 * PIECE + PIECE / 2];
    lengths.iter().flat_map(|len| [random(*len), text(*len)]).collect()
}

/// Runs the suite; `make` gives an empty backend each time.
pub(super) fn contract<C: Content>(make: impl Fn() -> C) {
    what_is_written_is_read(&make());
    stretches_of_any_length_give_the_same(&make());
    pieces_go_from_store_to_store(&make(), &MemoryContent::default());
    pieces_go_from_store_to_store(&MemoryContent::default(), &make());
    wrong_pieces_are_refused(&make());
    what_is_dropped_leaves_nothing(&make());
    many_write_one_blob(&make());
    what_is_removed_is_gone(&make());
    what_waits_is_packed(&make());
    what_is_gone_does_not_come_back(&make());
    packing_and_removing_race(&make());
    the_count_is_kept_up(&make());
    what_is_quarantined_is_not_served(&make());
}

fn what_is_written_is_read<C: Content>(content: &C) {
    let mut expected = Vec::new();
    for data in samples() {
        for durability in [Durability::Durable, Durability::Fast] {
            let digest = Digest::of(&data);
            let known = content.has(&digest);
            assert_eq!(content.open(&digest).unwrap().is_some(), known);
            let mut staging = content.begin().unwrap();
            staging.write(&data).unwrap();
            assert_eq!(staging.size(), data.len() as u64);
            let stored = staging.finish(durability).unwrap();
            assert_eq!((stored.digest, stored.size, stored.new), (digest, data.len() as u64, !known));
            if !known {
                expected.push((digest, stored.stored_bytes));
            }
            assert!(content.has(&digest));
            assert_eq!(load(content, &digest), data);
            let opened = content.open(&digest).unwrap().unwrap();
            assert_eq!((opened.pieces().size(), opened.stored_bytes()), (stored.size, stored.stored_bytes));
            let count = opened.pieces().count();
            for read in [opened.read(count).map(drop), opened.packed(u64::MAX).map(drop)] {
                assert!(matches!(read, Err(ContentError::NoSuchPiece { .. })));
            }
        }
    }
    expected.sort();
    assert_eq!(all(content), expected);
}

fn stretches_of_any_length_give_the_same<C: Content>(content: &C) {
    let data = text(3 * PIECE + 77);
    for stretch in [999, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE + 5] {
        let mut staging = content.begin().unwrap();
        data.chunks(stretch).for_each(|stretch| staging.write(stretch).unwrap());
        let stored = staging.finish(Durability::Fast).unwrap();
        assert_eq!(stored.digest, Digest::of(&data), "{stretch}");
        assert_eq!(load(content, &stored.digest), data, "{stretch}");
        assert!(content.remove(&stored.digest).unwrap());
    }
}

fn pieces_go_from_store_to_store(from: &impl Content, to: &impl Content) {
    for data in samples() {
        let digest = store(from, &data).digest;
        let opened = from.open(&digest).unwrap().unwrap();
        let mut incoming = expect(to, opened.pieces());
        for (index, left) in (0..opened.pieces().count()).rev().zip(1..) {
            let (packing, packed) = opened.packed(index).unwrap();
            assert!(!incoming.has(index));
            assert!(incoming.put(index, packing, &packed).unwrap());
            assert!(!incoming.put(index, packing, &packed).unwrap(), "it is there");
            assert!(incoming.has(index));
            assert_eq!(incoming.missing(), opened.pieces().count() - left);
        }
        let stored = incoming.finish(Durability::Durable).unwrap();
        assert_eq!((stored.digest, stored.size), (digest, data.len() as u64));
        assert!(stored.stored_bytes <= opened.stored_bytes(), "what waited was packed for the way");
        assert!(!to.waits(&digest).unwrap(), "and has not to be again");
        assert_eq!(load(to, &digest), data);
    }
}

fn wrong_pieces_are_refused<C: Content>(content: &C) {
    let data = text(3 * PIECE + 1000);
    let source = MemoryContent::default();
    let opened = source.open(&store(&source, &data).digest).unwrap().unwrap();
    let packed: Vec<_> = (0..4).map(|index| opened.packed(index).unwrap()).collect();
    let mut incoming = expect(content, opened.pieces());
    let mut refused = |index, packing, bytes: &[u8]| {
        let error = incoming.put(index, packing, bytes).unwrap_err();
        assert!(matches!(error, ContentError::Refused { index: at, .. } if at == index), "{error}");
        assert!(!incoming.has(index));
    };
    let plain = |index: usize| &data[index * PIECE..data.len().min((index + 1) * PIECE)];
    // Another piece of the Blob, and its bytes changed, packed and raw.
    refused(0, Packing::Zstd, &packed[1].1);
    refused(2, Packing::Raw, plain(1));
    let mut changed = plain(2).to_vec();
    changed[500] ^= 1;
    refused(2, Packing::Raw, &changed);
    refused(2, Packing::Zstd, &zstd::bulk::compress(&changed, 1).unwrap());
    let mut broken = packed[2].1.to_vec();
    broken[100] ^= 1;
    refused(2, Packing::Zstd, &broken);
    // Taken for packed when it is raw, and the reverse; and packed to no less.
    refused(2, Packing::Raw, &packed[2].1);
    refused(3, Packing::Zstd, plain(3));
    refused(3, Packing::Zstd, &[&packed[3].1[..], &[0; 1000]].concat());
    // Too long, too short, nothing.
    refused(3, Packing::Raw, &text(1001));
    refused(3, Packing::Raw, &plain(3)[1..]);
    refused(3, Packing::Raw, b"");
    refused(3, Packing::Zstd, b"");
    // More than the piece: by one, by far.
    refused(0, Packing::Zstd, &zstd::bulk::compress(&data[..=PIECE], 1).unwrap());
    refused(0, Packing::Zstd, &zstd::bulk::compress(&vec![0; 256 << 20], 1).unwrap());
    let missing = incoming.put(4, Packing::Raw, b"").unwrap_err();
    assert!(matches!(missing, ContentError::NoSuchPiece { index: 4, count: 4, .. }));
    // The right ones are still taken; as long as one is missing the Blob is not kept.
    for ((packing, bytes), index) in packed[..3].iter().zip(0..) {
        incoming.put(index, *packing, bytes).unwrap();
    }
    let error = incoming.finish(Durability::Fast).unwrap_err();
    assert!(matches!(error, ContentError::Missing { missing: 1, .. }), "{error}");
    assert_eq!(all(content), []);
}

fn what_is_dropped_leaves_nothing<C: Content>(content: &C) {
    let mut staging = content.begin().unwrap();
    staging.write(&random(2 * PIECE)).unwrap();
    drop(staging);
    let source = MemoryContent::default();
    let opened = source.open(&store(&source, b"x").digest).unwrap().unwrap();
    let mut incoming = expect(content, opened.pieces());
    incoming.put(0, Packing::Raw, b"x").unwrap();
    drop(incoming);
    assert_eq!(all(content), []);
    assert_eq!(content.sweep().unwrap(), Swept::default());
}

fn many_write_one_blob<C: Content>(content: &C) {
    let data = text(2 * PIECE + PIECE / 2);
    for _ in 0..4 {
        let write = |durability| {
            let mut staging = content.begin().unwrap();
            staging.write(&data).unwrap();
            staging.finish(durability).unwrap()
        };
        let stored: Vec<Stored> = thread::scope(|scope| {
            let start = |n: usize| {
                let durability = [Durability::Durable, Durability::Fast][n % 2];
                scope.spawn(move || write(durability))
            };
            let writers: Vec<_> = (0..8).map(start).collect();
            writers.into_iter().map(|writer| writer.join().unwrap()).collect()
        });
        assert_eq!(stored.iter().filter(|stored| stored.new).count(), 1);
        assert!(stored.iter().all(|one| one.stored_bytes == stored[0].stored_bytes));
        assert_eq!(load(content, &stored[0].digest), data);
        assert_eq!(all(content).len(), 1);
        assert!(content.remove(&stored[0].digest).unwrap());
    }
}

/// Packs a Blob.
fn pack(content: &impl Content, digest: &Digest) -> Repacked {
    content.pack(digest, pack::REST_LEVEL, &mut || true).unwrap()
}

fn what_waits_is_packed<C: Content>(content: &C) {
    for data in samples() {
        let stored = store(content, &data);
        let digest = stored.digest;
        assert_eq!(content.waits(&digest).unwrap(), !data.is_empty());
        assert!(stored.stored_bytes >= data.len() as u64, "nobody waits for packing");
        let before = content.open(&digest).unwrap().unwrap();
        let Repacked::Done { before: was, after } = pack(content, &digest) else { panic!("it is there") };
        assert_eq!(was, stored.stored_bytes);
        assert!(after <= was, "{after} of {was}");
        let shrinks = data == text(data.len()) && data.len() > PIECE / 2;
        assert!(!shrinks || after < was / 2, "{after} of {was}");
        assert_eq!(all(content).iter().find(|(found, _)| *found == digest), Some(&(digest, after)));
        assert!(!content.waits(&digest).unwrap());
        assert_eq!(load(content, &digest), data);
        assert_eq!(pack(content, &digest), Repacked::Done { before: after, after }, "once is enough");
        let read: Vec<u8> =
            (0..before.pieces().count()).flat_map(|index| before.read(index).unwrap()).collect();
        assert_eq!(read, data, "whoever has it open reads on");
        assert!(!store(content, &data).new);
        assert!(!content.waits(&digest).unwrap(), "a second writer does not undo it");
    }
    assert_eq!(content.sweep().unwrap(), Swept::default(), "no draft is left");
}

fn what_is_gone_does_not_come_back<C: Content>(content: &C) {
    let data = text(3 * PIECE);
    let digest = store(content, &data).digest;
    let mut asked = 0;
    let mut go = || {
        asked += 1;
        // Between any two pieces, and after the last was begun.
        asked < 3 || content.remove(&digest).unwrap()
    };
    assert_eq!(content.pack(&digest, 1, &mut go).unwrap(), Repacked::Gone);
    assert_eq!(asked, 3);
    assert!(!content.has(&digest) && all(content).is_empty());
    assert_eq!(pack(content, &digest), Repacked::Gone);
    assert!(!content.waits(&digest).unwrap());
    assert_eq!(store(content, &data).digest, digest);
    assert_eq!(content.pack(&digest, 1, &mut || false).unwrap(), Repacked::Stopped);
    assert!(content.waits(&digest).unwrap());
    assert_eq!(content.sweep().unwrap(), Swept::default(), "no draft is left");
}

fn packing_and_removing_race<C: Content>(content: &C) {
    let data = text(PIECE / 4);
    for _ in 0..16 {
        let digest = store(content, &data).digest;
        thread::scope(|scope| {
            let packing = scope.spawn(|| pack(content, &digest));
            assert!(content.remove(&digest).unwrap());
            packing.join().unwrap();
        });
        assert!(!content.has(&digest) && all(content).is_empty());
    }
}

fn the_count_is_kept_up<C: Content>(content: &C) {
    let first = store(content, &text(PIECE)).digest;
    content.count().unwrap();
    let agrees = || {
        let bytes = all(content).iter().map(|(_, bytes)| bytes).sum::<u64>();
        assert_eq!(content.used(), Some(bytes));
        bytes
    };
    let one = agrees();
    let second = store(content, &random(2 * PIECE)).digest;
    store(content, &random(2 * PIECE));
    assert!(agrees() >= one + 2 * PIECE as u64);
    pack(content, &first);
    assert!(agrees() < 3 * PIECE as u64);
    assert!(content.quarantine(&second).unwrap());
    agrees();
    assert!(content.remove(&first).unwrap());
    assert_eq!(agrees(), 0);
    content.count().unwrap();
    assert_eq!(agrees(), 0);
}

fn what_is_removed_is_gone<C: Content>(content: &C) {
    let data = random(PIECE + 1);
    let digest = store(content, &data).digest;
    let opened = content.open(&digest).unwrap().unwrap();
    assert!(content.remove(&digest).unwrap());
    assert!(!content.remove(&digest).unwrap());
    assert!(!content.has(&digest) && content.open(&digest).unwrap().is_none());
    assert_eq!(all(content), []);
    assert_eq!(opened.read(1).unwrap(), data[PIECE..], "whoever has it open reads on");
    assert!(store(content, &data).new);
}

fn what_is_quarantined_is_not_served<C: Content>(content: &C) {
    let stored = store(content, b"bad");
    assert!(content.quarantine(&stored.digest).unwrap());
    assert!(!content.quarantine(&stored.digest).unwrap());
    assert!(!content.has(&stored.digest) && content.open(&stored.digest).unwrap().is_none());
    assert_eq!(all(content), []);
    let swept = content.sweep().unwrap();
    assert_eq!((swept.quarantined, swept.quarantined_bytes), (1, stored.stored_bytes));
    assert!(store(content, b"bad").new, "it can be fetched again");
}
