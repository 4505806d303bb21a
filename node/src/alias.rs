// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs by their SHA-256, as Bazel, Nix and Go name them. It is computed here, from bytes that were checked against their
//! Digest; nobody's word is taken for it.

use std::sync::Arc;

use potluck_protocol::digest::{Digest, Sha256};
use serde_json::{Value, json};
use sha2::Digest as _;

use crate::cache::CacheError;
use crate::content::Durability;
use crate::engine::Engine;
use crate::observe::span;
use crate::store::{Store, StoreError};

/// The SHA-256 of a Blob that is here: from the index, or by reading it.
///
/// # Errors
/// [`StoreError`].
fn sha256(store: &Store, digest: &Digest) -> Result<Option<Sha256>, StoreError> {
    let Some(blob) = store.blob(digest)? else { return Ok(None) };
    if let Some(known) = store.index().sha256_of(digest)? {
        return Ok(Some(known));
    }
    let mut hasher = sha2::Sha256::new();
    let mut piece = Vec::new();
    for index in 0..blob.pieces().count() {
        store.piece_into(&blob, index, &mut piece)?;
        hasher.update(&piece);
    }
    Ok(Some(Sha256::from_bytes(hasher.finalize().into())))
}

/// Lets Blobs be found by their SHA-256; gives that of each.
///
/// # Errors
/// [`CacheError`], also when one is not here.
pub async fn add(engine: &Arc<Engine>, digests: Vec<Digest>) -> Result<Value, CacheError> {
    let store = engine.store().clone();
    span::blocking(move || {
        let mut aliases = Vec::with_capacity(digests.len());
        for digest in digests {
            let sha256 = sha256(&store, &digest)?.ok_or(CacheError::NotHere(digest))?;
            aliases.push((digest, sha256));
        }
        store.index().keep_aliases(&aliases, Durability::Fast).map_err(StoreError::from)?;
        let names: Vec<_> = aliases.iter().map(|(_, sha256)| sha256.to_string()).collect();
        Ok(json!({ "sha256": names }))
    })
    .await
}

/// The Blob of a SHA-256, if it is here and has been given that name.
///
/// # Errors
/// [`CacheError`].
pub async fn find(engine: &Arc<Engine>, sha256: Sha256) -> Result<Value, CacheError> {
    let store = engine.store().clone();
    span::blocking(move || {
        let digest = store.index().of_sha256(&sha256).map_err(StoreError::from)?;
        let here = match &digest {
            Some(digest) => store.has(digest)?,
            None => false,
        };
        Ok(json!({ "blob": digest.filter(|_| here).map(|digest| digest.to_string()) }))
    })
    .await
}
