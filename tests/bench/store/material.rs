// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is stored: what a real build has left, repeated with variation where there is too little, and noise.

use std::fs;
use std::path::{Path, PathBuf};

use crate::scratch::{both, walk};

/// Bytes that no packer shrinks, another for each seed.
pub(crate) fn noise(len: usize, seed: u64) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Libraries and objects of the build that made this program, in an order that has nothing to do with what they are,
/// but is always the same: up to `limit` bytes.
pub(crate) fn libraries(limit: u64) -> Vec<PathBuf> {
    let this = std::env::current_exe().expect("a program knows where it is");
    let deps = this.parent().expect("it lies in a folder");
    let is_library = |path: &PathBuf| {
        let ext = path.extension().and_then(|ext| ext.to_str()).unwrap_or_default();
        ["rlib", "rmeta", "so", "a"].contains(&ext)
    };
    take(shuffled(walk(deps).into_iter().filter(is_library).collect()), limit)
}

/// Files by a hash of their names.
fn shuffled(mut files: Vec<PathBuf>) -> Vec<PathBuf> {
    files.sort_by_cached_key(|path| {
        *blake3::hash(path.file_name().unwrap_or_default().as_encoded_bytes()).as_bytes()
    });
    files
}

fn take(files: Vec<PathBuf>, limit: u64) -> Vec<PathBuf> {
    let mut left = limit;
    let fits = |path: &PathBuf| {
        let len = path.metadata().map_or(u64::MAX, |metadata| metadata.len());
        let fits = len <= left;
        left -= if fits { len } else { 0 };
        fits
    };
    files.into_iter().filter(fits).collect()
}

/// This many bytes of real libraries. When they are used up they begin again at other places, so that no stretch of a
/// megabyte comes twice.
pub(crate) fn build_bytes(len: usize) -> Vec<u8> {
    let mut real = Vec::new();
    for path in libraries(len as u64) {
        real.extend(fs::read(&path).expect("a library of this build can be read"));
    }
    assert!(!real.is_empty(), "this program was built from libraries");
    let mut bytes = Vec::with_capacity(len);
    let mut skip = 0;
    while bytes.len() < len {
        let part = &real[skip % real.len()..];
        bytes.extend_from_slice(&part[..part.len().min(len - bytes.len())]);
        skip += 4099;
    }
    bytes
}

/// A folder like a target folder: up to `count` files of what cargo has left here, at most `limit` bytes together.
pub(crate) fn build_folder(to: &Path, (count, limit): (usize, u64)) -> u64 {
    let this = std::env::current_exe().expect("a program knows where it is");
    let target = this.ancestors().nth(2).expect("it lies in the target folder");
    // Programs of half a hundred megabytes would leave no room for anything else.
    let most = limit / 16;
    let small = |path: &PathBuf| path.metadata().is_ok_and(|metadata| metadata.len() <= most);
    let mut files: Vec<_> = walk(target).into_iter().filter(small).collect();
    files = shuffled(files);
    let mut left = limit;
    let mut kept = 0;
    for path in files {
        let len = path.metadata().map_or(u64::MAX, |metadata| metadata.len());
        // Each file may take its share of what is left, and a few times that.
        let share = left / (count - kept) as u64 * 16;
        if len > share.min(left) {
            continue;
        }
        let place = to.join(path.strip_prefix(target).expect("it was found there"));
        fs::create_dir_all(place.parent().expect("it lies in a folder")).expect("a folder can be made");
        fs::copy(&path, &place).expect("a file can be copied");
        left -= len;
        kept += 1;
        if kept == count {
            break;
        }
    }
    limit - left
}

/// A folder of `count` files in folders of a hundred, cut out of real libraries; most are small, as in a source tree.
pub(crate) fn many_files(to: &Path, count: usize) {
    let real = build_bytes(64 << 20);
    for n in 0..count {
        let chance = noise(16, n as u64);
        let word = u64::from_le_bytes(*chance.first_chunk().expect("there are sixteen bytes"));
        // Half of them have less than 8 KiB, one in sixteen more than 64 KiB.
        let len = 256_usize << (word % 10).min(word / 16 % 10);
        let len = len + usize::try_from(word >> 32).expect("it has 32 bits") % len;
        let start = usize::try_from(word >> 24).expect("there are 40 bits") % (real.len() - len);
        let folder = to.join(format!("{:03}", n / 100));
        fs::create_dir_all(&folder).expect("a folder can be made");
        // The number makes each file another.
        let bytes = [&(n as u64).to_le_bytes()[..], &real[start..start + len]].concat();
        fs::write(folder.join(format!("file-{n:05}.o")), bytes).expect("a file can be written");
    }
}

/// What several Blobs take when zstd packs each as a whole: in bytes, and in bytes as whole blocks of a disk.
pub(crate) fn zstd_sizes(files: &[PathBuf], level: i32) -> (u64, u64) {
    let sizes = std::sync::Mutex::new((0, 0));
    both(files, |_, path| {
        let bytes = fs::read(path).expect("a file can be read");
        let packed = zstd::bulk::compress(&bytes, level).expect("zstd packs anything").len() as u64;
        let mut sizes = sizes.lock().expect("nobody panics while adding");
        sizes.0 += packed;
        sizes.1 += packed.next_multiple_of(4096);
    });
    sizes.into_inner().expect("nobody panics while adding")
}
