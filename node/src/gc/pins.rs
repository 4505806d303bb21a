// SPDX-License-Identifier: MIT OR Apache-2.0
//! Pins: people's reasons to keep a Blob whatever the budget.

use std::sync::Arc;

use potluck_protocol::codec::Text;
use potluck_protocol::control::MAX_REASON_BYTES;
use potluck_protocol::digest::Digest;
use potluck_protocol::tree::{Kind, Tree};
use serde_json::{Value, json};

use crate::cache::CacheError;
use crate::engine::{Engine, MAX_TREE_BYTES};
use crate::index::PinRow;
use crate::observe::{clock, span};
use crate::store::StoreError;

/// Most pins.
pub const MAX_PINS: u64 = 4096;

/// Pins a Blob, and what it lists if it is a Tree; or gives the pin another reason.
///
/// # Errors
/// [`CacheError`], also when the Blob is not here or there are [`MAX_PINS`] already.
pub async fn add(
    engine: &Arc<Engine>,
    digest: Digest,
    reason: Text<MAX_REASON_BYTES>,
) -> Result<Value, CacheError> {
    let engine = Arc::clone(engine);
    span::blocking(move || {
        let store = engine.store();
        // Whatever is looked for stays at least until the next round, which sees the pin.
        if !store.has(&digest)? {
            return Err(CacheError::NotHere(digest));
        }
        let tree = store.bytes(&digest, MAX_TREE_BYTES)?.and_then(|bytes| Tree::decode(&bytes).ok());
        let (mut files, mut missing) = (0_u64, 0_u64);
        for member in tree.iter().flat_map(Tree::members) {
            if let Kind::File { digest, .. } = &member.kind {
                files += 1;
                missing += u64::from(!store.has(digest)?);
            }
        }
        let pin = PinRow { reason, since: clock::now(), tree: tree.is_some() };
        if !store.index().pin(digest, &pin, MAX_PINS).map_err(StoreError::from)? {
            return Err(CacheError::Usage(format!("there are {MAX_PINS} pins already")));
        }
        Ok(json!({ "blob": digest.to_string(), "tree": pin.tree, "files": files, "missing": missing }))
    })
    .await
}

/// Removes a pin.
///
/// # Errors
/// [`CacheError`].
pub async fn remove(engine: &Arc<Engine>, digest: Digest) -> Result<Value, CacheError> {
    let engine = Arc::clone(engine);
    span::blocking(move || {
        let was = engine.store().index().unpin(digest).map_err(StoreError::from)?;
        Ok(json!({ "blob": digest.to_string(), "removed": was }))
    })
    .await
}

/// What is pinned, or whether one Blob is.
///
/// # Errors
/// [`CacheError`].
pub async fn list(engine: &Arc<Engine>, only: Option<Digest>) -> Result<Value, CacheError> {
    let engine = Arc::clone(engine);
    span::blocking(move || {
        let pins = engine.store().index().pins().map_err(StoreError::from)?;
        let shown = pins.into_iter().filter(|(digest, _)| only.is_none_or(|only| only == *digest));
        let row = |(digest, pin): (Digest, PinRow)| {
            let (reason, since) = (pin.reason.to_string(), pin.since.to_string());
            json!({ "blob": digest.to_string(), "reason": reason, "since": since, "tree": pin.tree })
        };
        Ok(json!({ "pins": shown.map(row).collect::<Vec<_>>() }))
    })
    .await
}
