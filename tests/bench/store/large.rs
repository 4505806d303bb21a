// SPDX-License-Identifier: MIT OR Apache-2.0
//! One large Blob, written as it streams in and read with every byte checked.

use std::fs::{self, File};
use std::path::Path;

use potluck_node::content::Durability;
use potluck_node::store::Store;
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Packing;
use potluck_protocol::piece::{PIECE_BYTES, PieceHasher, Pieces};

use crate::door;
use crate::material::{build_bytes, noise};
use crate::measure::{Figure, median, ratio, rounds, seconds};
use crate::scratch::{Report, both, remove, scaled, warm};

/// What comes at once, as from a socket.
const STRETCH: usize = 256 * 1024;
/// What pieces are packed with when there is time.
const LEVEL: i32 = 3;
const ROUNDS: usize = 3;
const GIB: f64 = 1_073_741_824.0;

fn len() -> usize {
    scaled(1 << 30, 16 << 20)
}

fn speed(seconds: &[f64]) -> (f64, &'static str) {
    (len() as f64 / GIB / median(seconds.to_vec()), "GiB/s")
}

pub(crate) fn write(report: &Report) {
    write_one(report, "incompressible", noise(len(), 1));
    write_one(report, "compressible", build_bytes(len()));
}

#[expect(clippy::needless_pass_by_value, reason = "a gibibyte is freed before the next one is made")]
fn write_one(report: &Report, what: &str, bytes: Vec<u8>) {
    let packed = pack(&bytes);
    let packed_len: usize = packed.iter().map(|(_, piece)| piece.len()).sum();
    drop(packed);
    let factor = bytes.len() as f64 / packed_len as f64;
    report.note(&format!("{what}: {} MiB, zstd -{LEVEL} makes it {factor:.2} times smaller", len() >> 20));
    let (store, from, to) = (report.path("store"), report.path("from"), report.path("to"));
    fs::write(&from, &bytes[..packed_len]).expect("a file can be written");
    let times = rounds(
        ROUNDS,
        [&mut || stream_in(&store, &bytes), &mut || seconds(|| blake3::hash(&bytes)), &mut || {
            copy(&from, &to)
        }],
    );
    remove(&from);
    let [ours, hashing, copying] = &times;
    let figure = |name: &str, value| Figure::new(format!("large-write: {what}, {name}"), value, ROUNDS);
    report.figure(&figure("durable", speed(ours)));
    report.figure(&figure("plain BLAKE3", speed(hashing)));
    report.figure(&figure("cp + fsync of its size packed", speed(copying)));
    let slower: Vec<_> = hashing.iter().zip(copying).map(|(hash, copy)| hash.max(*copy)).collect();
    report.figure(&figure("ours / the slower of them", (ratio(&slower, ours), "x")).at_least(0.8));
}

fn stream_in(folder: &Path, bytes: &[u8]) -> f64 {
    let store = Store::open(folder).expect("the store can be opened").0;
    warm(2 * len());
    let took = seconds(|| {
        let mut writing = store.begin();
        for stretch in bytes.chunks(STRETCH) {
            writing.write(stretch).expect("there is room");
        }
        writing.finish(Durability::Durable).expect("it can be kept")
    });
    drop(store);
    remove(folder);
    took
}

fn copy(from: &Path, to: &Path) -> f64 {
    warm(2 * len());
    let took = seconds(|| {
        fs::copy(from, to)?;
        File::open(to)?.sync_all()
    });
    remove(to);
    took
}

type Packed = Vec<(Packing, Vec<u8>)>;

/// The pieces as they are packed when there is time: raw where that does not help.
fn pack(bytes: &[u8]) -> Packed {
    let pieces: Vec<_> = bytes.chunks(PIECE_BYTES).collect();
    let packed = std::sync::Mutex::new(vec![(Packing::Raw, Vec::new()); pieces.len()]);
    both(&pieces, |at, piece| {
        let frame = zstd::bulk::compress(piece, LEVEL).expect("zstd packs anything");
        let piece = if frame.len() < piece.len() - piece.len() / 32 {
            (Packing::Zstd, frame)
        } else {
            (Packing::Raw, piece.to_vec())
        };
        packed.lock().expect("nobody panics while packing")[at] = piece;
    });
    packed.into_inner().expect("nobody panics while packing")
}

fn pieces(bytes: &[u8]) -> Pieces {
    let mut hasher = PieceHasher::new();
    hasher.update(bytes);
    hasher.finish().expect("it is not larger than a blob may be")
}

pub(crate) fn read(report: &Report) {
    let bytes = build_bytes(len());
    let packed = pack(&bytes);
    let home = report.path("home");
    let engine = door::engine(&home);
    let digest = receive(engine.store(), pieces(&bytes), &packed);
    let runtime = door::runtime();
    let times = rounds(
        ROUNDS,
        [
            &mut || seconds(|| assert_eq!(runtime.block_on(door::read(&engine, digest)), bytes.len())),
            &mut || seconds(|| unpack(&packed, 2)),
            &mut || seconds(|| unpack(&packed, 1)),
            &mut || seconds(|| blake3::hash(&bytes)),
        ],
    );
    let [ours, unpacking, alone, hashing] = &times;
    let figure = |name: &str, value| Figure::new(format!("large-read: {name}"), value, ROUNDS);
    report.note(&format!("{} MiB of a build, each piece packed with zstd -{LEVEL}, one reader", len() >> 20));
    report.figure(&figure("through the door, verified", speed(ours)));
    report.figure(&figure("zstd unpacks the same pieces on both cores", speed(unpacking)));
    report.figure(&figure("zstd unpacks the same pieces on one core", speed(alone)));
    report.figure(&figure("plain BLAKE3 on one core", speed(hashing)));
    let to_unpack = ratio(unpacking, ours);
    report.figure(&figure("ours / zstd on both cores", (to_unpack, "x")).at_least(0.7));
    report.figure(&figure("ours / plain BLAKE3 on one core", (ratio(hashing, ours), "x")));
}

/// Stores a Blob packed as it is, which is how one lies there when background work is done.
fn receive(store: &Store, pieces: Pieces, packed: &Packed) -> Digest {
    let digest = *pieces.digest();
    let mut receiving = store.receive(pieces).expect("a blob can be taken");
    for (index, (packing, piece)) in (0..).zip(packed) {
        receiving.put(index, *packing, piece).expect("it is the right piece");
    }
    receiving.finish().expect("all pieces have come");
    digest
}

fn unpack(packed: &Packed, threads: usize) {
    crate::scratch::threads(threads, |thread| {
        let mut decompressor = zstd::bulk::Decompressor::new().expect("it needs no dictionary");
        let mut plain = vec![0; PIECE_BYTES];
        for (packing, piece) in packed.iter().skip(thread).step_by(threads) {
            match packing {
                Packing::Raw => plain[..piece.len()].copy_from_slice(piece),
                Packing::Zstd => {
                    let len = decompressor.decompress_to_buffer(piece, &mut plain[..]);
                    assert!(len.is_ok_and(|len| len > 0));
                }
            }
        }
    });
}
