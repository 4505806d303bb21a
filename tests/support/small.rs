// SPDX-License-Identifier: MIT OR Apache-2.0
//! How small Blobs lie in the index, for [`crate::decoders`].

use bytes::Bytes;
use potluck_node::index::laid::{self, HEAD_BYTES, Lies, MEMBER_BYTES};
use potluck_protocol::digest::Digest;

/// The row of a small Blob, or that of a slab.
pub(crate) fn rows(bytes: &[u8]) {
    match laid::lies(bytes) {
        Ok(Lies::At(place)) => {
            assert_eq!(place.row(), bytes, "two forms of one place");
            assert!(place.range(bytes).is_none_or(|range| range.len() == place.count()));
        }
        Ok(here) => assert!(here.count() < bytes.len()),
        Err(_) => {}
    }
    let Ok(members) = laid::members(7, bytes) else { return };
    let bytes_of = |place: &laid::Place| place.range(bytes).expect("it ends within the row");
    let blobs: Vec<_> = (members.iter())
        .map(|(digest, place)| (*digest, Bytes::copy_from_slice(&bytes[bytes_of(place)])))
        .collect();
    let mut again = vec![0; bytes.len()];
    let places = laid::write(&mut again, 7, &blobs);
    assert_eq!(again, bytes, "two forms of one slab");
    assert!(places.iter().eq(members.iter().map(|(_, place)| place)));
}

/// Rows as they are.
pub(crate) fn samples() -> Vec<(&'static str, Vec<u8>)> {
    let blobs = [&b"one"[..], b"", b"another"].map(|bytes| (Digest::of(bytes), Bytes::from_static(bytes)));
    let len = blobs.iter().map(|(_, bytes)| MEMBER_BYTES + bytes.len()).sum::<usize>();
    let mut slab = vec![0; HEAD_BYTES + len];
    let places = laid::write(&mut slab, 7, &blobs);
    vec![("small_rows", slab), ("small_rows", places[2].row().to_vec())]
}
