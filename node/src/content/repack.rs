// SPDX-License-Identifier: MIT OR Apache-2.0
//! Packing a Blob that was stored raw because somebody was waiting.

use std::sync::Arc;

use potluck_protocol::peer::Packing;

use crate::content::form::{Form, Place};
use crate::content::opened::Opened;
use crate::content::staging::Growing;
use crate::content::{ContentError, Draft, Kept, Repacked};

/// Writes the Blob anew, packing what waits, and lets the result take its place. Every piece is checked on the way, so
/// that no damage is sealed in. Memory: one piece as it is and one packed.
pub(super) fn repack<K: Kept, D: Draft>(
    opened: &Opened<K>,
    draft: impl FnOnce() -> Result<D, ContentError>,
    level: i32,
    go: &mut dyn FnMut() -> bool,
) -> Result<Repacked, ContentError> {
    let before = opened.stored_bytes();
    if !opened.waits() {
        return Ok(Repacked::Done { before, after: before });
    }
    let mut growing = Growing::new(draft()?);
    let pieces = opened.pieces();
    let (mut plain, mut places) = (Vec::new(), Vec::new());
    for index in 0..pieces.count() {
        if !go() {
            return Ok(Repacked::Stopped);
        }
        opened.read_into(index, &mut plain)?;
        places.push(copy(opened, index, &plain, (&mut growing, level))?);
    }
    let replaced = growing.replace(pieces, &places)?;
    Ok(replaced.map_or(Repacked::Gone, |after| Repacked::Done { before, after }))
}

/// Appends one piece, packed if it waits for that and as it is stored if not.
fn copy<K: Kept, D: Draft>(
    opened: &Opened<K>,
    index: u64,
    plain: &[u8],
    (growing, level): (&mut Growing<D>, i32),
) -> Result<Place, ContentError> {
    let place = opened.place(index)?;
    if place.form == Form::Zstd {
        let mut packed = vec![0; place.len as usize];
        opened.read_at(index, place, &mut packed)?;
        return growing.append(place.form, &packed);
    }
    if place.form == Form::Raw {
        return growing.append(place.form, plain);
    }
    Arc::clone(opened.packers()).with(|packer| match packer.pack(plain, level) {
        (Packing::Zstd, packed) => growing.append(Form::Zstd, packed),
        (Packing::Raw, plain) => growing.append(Form::Raw, plain),
    })
}
