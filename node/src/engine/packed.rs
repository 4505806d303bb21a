// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs as they are stored, for tools that unpack by themselves: one zstd stream (RFC 8878), made of the pieces' own
//! frames without packing anything again. Pieces that are stored as they are become frames of raw blocks.

use std::sync::Arc;

use bytes::Bytes;
use potluck_protocol::control::MAX_DATA_BYTES;
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Packing;
use tokio::sync::mpsc;

use super::Engine;
use crate::cache::{CacheError, STRETCHES, Stretches};
use crate::observe::span;
use crate::store::{Blob, Store, StoreError, unpack};

/// What a frame begins with (RFC 8878, 3.1.1).
const MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The content's size is said in four bytes, and the window is as large (3.1.1.1.1).
const SIZED: u8 = 0b1010_0000;
/// Largest block (3.1.1.2.4), a power of two that a piece is a multiple of.
const MAX_BLOCK: usize = 128 * 1024;

/// A frame of these bytes, at most a piece, as they are.
fn raw_frame(bytes: &[u8]) -> Vec<u8> {
    let blocks = bytes.len().div_ceil(MAX_BLOCK).max(1);
    let mut frame = Vec::with_capacity(bytes.len() + 9 + 3 * blocks);
    frame.extend(MAGIC);
    frame.push(SIZED);
    frame.extend(u32::try_from(bytes.len()).expect("a piece is small").to_le_bytes());
    for block in 0..blocks {
        let part = &bytes[block * MAX_BLOCK..bytes.len().min((block + 1) * MAX_BLOCK)];
        // Whether it is the last one, that it is raw (0), and its size.
        let header =
            u32::from(block + 1 == blocks) | u32::try_from(part.len()).expect("a block is small") << 3;
        frame.extend(&header.to_le_bytes()[..3]);
        frame.extend(part);
    }
    frame
}

/// One piece as a frame, after the bytes in it were checked. Blocks.
fn frame(store: &Store, blob: &Blob, index: u64) -> Result<Bytes, StoreError> {
    let (packing, packed) = blob.packed(index)?;
    let size = blob.pieces().range(index).map_or(0, |range| range.end - range.start);
    let checked = unpack(packing, &packed, size).and_then(|bytes| {
        blob.pieces().check(index, &bytes)?;
        Ok(bytes)
    });
    match (checked, packing) {
        (Ok(_), Packing::Zstd) => Ok(packed),
        (Ok(bytes), Packing::Raw) => Ok(raw_frame(&bytes).into()),
        // Read in the usual way it is found out, and put aside.
        (Err(error), _) => store.piece(blob, index).and(Err(error)),
    }
}

impl Engine {
    /// All of a Blob as one zstd stream, if it is stored packed.
    ///
    /// # Errors
    /// [`CacheError`].
    pub async fn read_packed(self: &Arc<Self>, digest: Digest) -> Result<Option<Stretches>, CacheError> {
        let store = self.store.clone();
        let packed = move || {
            let Some(blob) = store.blob(&digest)? else { return Ok(None) };
            // The first piece tells: mixed ones are those of a Blob that is being packed just now.
            let packed = matches!(blob, Blob::Large(_)) && matches!(blob.packed(0)?.0, Packing::Zstd);
            Ok::<_, StoreError>(packed.then_some((store, blob)))
        };
        let Some((store, blob)) = span::blocking(packed).await? else { return Ok(None) };
        let (to, from) = mpsc::channel(STRETCHES);
        span::spawn("read packed", pour(store, Arc::new(blob), to));
        Ok(Some(from.into()))
    }
}

/// Reads a Blob frame by frame until nobody listens any more; a thread is taken for each.
async fn pour(store: Store, blob: Arc<Blob>, to: mpsc::Sender<Result<Bytes, CacheError>>) {
    for index in 0..blob.pieces().count() {
        let (store, blob) = (store.clone(), Arc::clone(&blob));
        let mut rest = match span::blocking(move || frame(&store, &blob, index)).await {
            Ok(frame) => frame,
            Err(error) => {
                let _ = to.send(Err(error.into())).await;
                return;
            }
        };
        while !rest.is_empty() {
            let stretch = rest.split_to(rest.len().min(MAX_DATA_BYTES));
            if to.send(Ok(stretch)).await.is_err() {
                return;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn raw_frames_are_read_by_zstd_and_follow_each_other() {
        let bytes: Vec<u8> = (0..1_u32 << 18).flat_map(u32::to_le_bytes).collect();
        for size in [0, 1, 255, MAX_BLOCK - 1, MAX_BLOCK, MAX_BLOCK + 1, 1 << 20] {
            let frame = raw_frame(&bytes[..size]);
            assert_eq!(zstd::decode_all(frame.as_slice()).unwrap(), &bytes[..size], "{size}");
        }
        let both =
            [raw_frame(b"one"), zstd::encode_all(&b"two"[..], 1).unwrap(), raw_frame(b"three")].concat();
        assert_eq!(zstd::decode_all(both.as_slice()).unwrap(), b"onetwothree");
    }
}
