// SPDX-License-Identifier: MIT OR Apache-2.0
//! How fast blobs go in and out, beside what the machine can do; printed, never asserted.
//!
//!     cargo test --release -p potluck-node --lib figures -- --ignored --nocapture --test-threads 1

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use potluck_protocol::action::{Project, Recipe};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{BlobOutput, Labels, Output};
use potluck_protocol::piece::PIECE_BYTES;

use super::Engine;
use crate::cache::{Cache as _, Publication};
use crate::content::Durability;
use crate::home::Home;
use crate::observe::clock;

const ROUNDS: usize = 5;
const GIB: usize = 1 << 30;

/// Bytes as they come out of a compiler: this program itself, over and over, each time a little different.
fn compressible(size: usize) -> Vec<u8> {
    let own = fs::read(std::env::current_exe().unwrap()).unwrap();
    let mut out: Vec<u8> = own.iter().copied().cycle().take(size).collect();
    out.chunks_mut(4096).zip(0_u64..).for_each(|(page, n)| {
        let len = page.len().min(8);
        page[..len].copy_from_slice(&n.wrapping_mul(0x9e37_79b9_7f4a_7c15).to_le_bytes()[..len]);
    });
    out
}

fn random(size: usize) -> Vec<u8> {
    let mut out = vec![0; size];
    blake3::Hasher::new().update(b"figures").finalize_xof().fill(&mut out);
    out
}

fn timed<T>(work: impl FnOnce() -> T) -> (f64, T) {
    let began = clock::moment();
    let done = work();
    (clock::moment().since(began).as_secs_f64(), done)
}

fn median(mut all: Vec<f64>) -> f64 {
    all.sort_by(f64::total_cmp);
    all[all.len() / 2]
}

struct Bench {
    folder: tempfile::TempDir,
    engine: Arc<Engine>,
    runtime: tokio::runtime::Runtime,
}

impl Bench {
    fn new() -> Self {
        let folder = tempfile::tempdir_in(std::env::temp_dir()).unwrap();
        let home = Home::locate(Some(folder.path().join("home"))).unwrap();
        home.init("").unwrap();
        let engine = Arc::new(Engine::open(&home).unwrap());
        let runtime = tokio::runtime::Runtime::new().unwrap();
        Self { folder, engine, runtime }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    fn write(&self, bytes: &[u8]) -> Digest {
        self.runtime.block_on(self.engine.write(bytes)).unwrap().0
    }

    fn read(&self, digest: Digest) -> usize {
        self.runtime.block_on(async {
            let mut from = self.engine.read(digest, None).await.unwrap();
            let mut size = 0;
            while let Some(stretch) = from.recv().await {
                size += stretch.unwrap().len();
            }
            size
        })
    }

    fn publish(&self, key: &[u8], digest: Digest, size: usize) {
        let publication = Publication {
            project: Project::new("p").unwrap(),
            recipe: Recipe::new("rustc@1").unwrap(),
            key: key.to_vec(),
            output: Output::Blob(BlobOutput { digest, size: size as u64 }),
            labels: Labels::default(),
            taints: Vec::new(),
        };
        self.runtime.block_on(self.engine.publish(publication)).unwrap();
    }
}

fn plain_write(path: &Path, bytes: &[u8]) {
    let mut file = File::create(path).unwrap();
    file.write_all(bytes).unwrap();
    file.sync_all().unwrap();
}

/// What `cp` does, and a sync.
fn copy(from: &Path, to: &Path) {
    let (mut from, mut to) = (File::open(from).unwrap(), File::create(to).unwrap());
    let mut buffer = vec![0; 256 << 10];
    loop {
        match from.read(&mut buffer).unwrap() {
            0 => break,
            len => to.write_all(&buffer[..len]).unwrap(),
        }
    }
    to.sync_all().unwrap();
}

/// Lets what an earlier step left behind reach the disk, so that nobody else pays for it.
fn calm(path: &Path) {
    let _ = rustix::fs::syncfs(File::open(path).unwrap());
}

#[test]
#[ignore = "measures, for minutes"]
fn writing_a_gibibyte() {
    for (name, data) in [("random", random(GIB)), ("compressible", compressible(GIB))] {
        let mut rows = [const { Vec::new() }; 5];
        for _ in 0..ROUNDS {
            let bench = Bench::new();
            let (hash, _) = timed(|| blake3::hash(&data));
            calm(bench.folder.path());
            let (write, digest) = timed(|| bench.write(&data));
            let (sync, ()) = timed(|| bench.engine.store().sync(&[digest]).unwrap());
            bench.engine.store().pack(&digest, &mut || true).unwrap();
            let packed = usize::try_from(bench.engine.store().total().unwrap()).unwrap();
            let (source, target) = (bench.path("source"), bench.path("target"));
            plain_write(&source, &data[..packed.min(GIB)]);
            calm(bench.folder.path());
            let (cp, ()) = timed(|| copy(&source, &target));
            let limit = hash.max(cp);
            for (row, value) in rows.iter_mut().zip([hash, cp, write, sync, limit / write]) {
                row.push(value);
            }
            println!(
                "  {name}: packed {packed}, hash {hash:.3}, cp {cp:.3}, write {write:.3}, sync {sync:.3}"
            );
        }
        let [hash, cp, write, sync, ratio] = rows.map(median);
        println!(
            "write 1 GiB {name}: hash {hash:.3} s, cp+fsync of the packed size {cp:.3} s, write {write:.3} s \
             (then sync {sync:.3} s), limit/write {ratio:.2} (>= 0.8)"
        );
    }
}

#[test]
#[ignore = "measures, for a minute"]
fn publishing_a_library() {
    const SIZE: usize = 5 << 20;
    let bench = Bench::new();
    let data = compressible(SIZE);
    let (mut plain, mut ours, mut writes, mut ratios) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for round in 0..60_u64 {
        let mut data = data.clone();
        data[..8].copy_from_slice(&round.to_le_bytes());
        let plainly = || timed(|| plain_write(&bench.path(&format!("plain{round}")), &data)).0;
        let ourselves = || {
            timed(|| {
                let (write, digest) = timed(|| bench.write(&data));
                bench.publish(&round.to_le_bytes(), digest, SIZE);
                write
            })
        };
        let (one, (two, write)) = if round % 2 == 0 {
            let one = plainly();
            (one, ourselves())
        } else {
            let two = ourselves();
            (plainly(), two)
        };
        plain.push(one * 1e3);
        ours.push(two * 1e3);
        writes.push(write * 1e3);
        ratios.push(two / one);
    }
    let [plain, ours, writes, ratio] = [plain, ours, writes, ratios].map(median);
    println!(
        "publish 5 MiB: plain {plain:.2} ms, ours {ours:.2} ms (of that write {writes:.2}), ratio {ratio:.2} (<= 1.2)"
    );
}

#[test]
#[ignore = "measures, for a minute"]
fn reading_a_gibibyte() {
    let bench = Bench::new();
    let data = compressible(GIB);
    let digest = bench.write(&data);
    bench.engine.store().pack(&digest, &mut || true).unwrap();
    let packed: Vec<_> =
        data.chunks(PIECE_BYTES).map(|piece| zstd::bulk::compress(piece, 3).unwrap()).collect();
    let unpack = |some: &[Vec<u8>]| {
        let mut decompressor = zstd::bulk::Decompressor::new().unwrap();
        let mut buffer = vec![0; PIECE_BYTES];
        for frame in some {
            decompressor.decompress_to_buffer(frame, &mut buffer).unwrap();
        }
    };
    let (mut limits, mut ours, mut ratios) = (Vec::new(), Vec::new(), Vec::new());
    let mut at_once = Vec::new();
    for _ in 0..=ROUNDS {
        let (limit, ()) = timed(|| {
            std::thread::scope(|scope| {
                let threads = std::thread::available_parallelism().unwrap().get();
                for some in packed.chunks(packed.len().div_ceil(threads)) {
                    scope.spawn(|| unpack(some));
                }
            });
        });
        let (read, size) = timed(|| bench.read(digest));
        let (whole, bytes) = timed(|| bench.engine.store().bytes(&digest, u64::MAX).unwrap().unwrap());
        assert!(size == GIB && bytes == data);
        println!("  unpack {limit:.3}, read {read:.3}, at once {whole:.3}");
        limits.push(limit);
        ours.push(read);
        at_once.push(limit / whole);
        ratios.push(limit / read);
    }
    let [limit, ours, ratio, at_once] = [limits, ours, ratios, at_once].map(median);
    println!(
        "read 1 GiB: limit {limit:.3} s, ours {ours:.3} s, ratio {ratio:.2} (>= 0.7), into memory at once {at_once:.2}"
    );
}

#[test]
#[ignore = "needs a folder of build outputs in POTLUCK_OUTPUTS"]
fn size_of_build_outputs() {
    let folder = std::env::var_os("POTLUCK_OUTPUTS").expect("POTLUCK_OUTPUTS names a folder");
    let bench = Bench::new();
    let (mut plain, mut whole, mut files, mut packing) = (0_u64, 0_u64, 0, Duration::ZERO);
    let mut ours = 0;
    let mut entries: Vec<_> = fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().path()).collect();
    entries.sort();
    for path in entries {
        let wanted = path
            .extension()
            .is_some_and(|ext| ["rlib", "rmeta", "so", "d"].iter().any(|known| ext == *known));
        if !wanted || !path.is_file() || plain > 600 << 20 {
            continue;
        }
        let bytes = fs::read(&path).unwrap();
        plain += bytes.len() as u64;
        whole += zstd::encode_all(&bytes[..], 3).unwrap().len() as u64;
        files += 1;
        let digest = bench.engine.store().keep(&bytes, Durability::Fast).unwrap();
        let began = clock::moment();
        bench.engine.store().pack(&digest, &mut || true).unwrap();
        packing += clock::moment().since(began);
        ours = bench.engine.store().total().unwrap();
    }
    let ratio = |bytes: u64| bytes as f64 / whole as f64;
    println!(
        "{files} files, {plain} bytes, zstd -3 whole {whole}, ours {ours} ({:.3}, <= 1.08), packing took {packing:?}",
        ratio(ours)
    );
}
