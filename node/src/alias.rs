// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs by their SHA-256, as Bazel, Nix and Go name them. It is computed here, from bytes that were checked against their
//! Digest; nobody's word is taken for it.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use potluck_protocol::digest::{Digest, Sha256};
use serde_json::{Value, json};
use sha2::Digest as _;
use tokio::io::{AsyncRead, ReadBuf};

use crate::cache::{Cache as _, CacheError};
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

/// Bytes that are hashed on their way.
struct Hashed<R> {
    from: R,
    hasher: sha2::Sha256,
}

impl<R: AsyncRead + Unpin> AsyncRead for Hashed<R> {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        into: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = into.filled().len();
        ready!(Pin::new(&mut this.from).poll_read(context, into))?;
        this.hasher.update(&into.filled()[before..]);
        Poll::Ready(Ok(()))
    }
}

/// Stores a Blob, and lets it be found by its SHA-256 if that is the one expected. Gives its Digest and size, or nothing
/// when it has another SHA-256.
///
/// # Errors
/// [`CacheError`].
pub async fn write(
    engine: &Arc<Engine>,
    from: impl AsyncRead + Send + Unpin,
    expected: Sha256,
) -> Result<Option<(Digest, u64)>, CacheError> {
    let mut hashed = Hashed { from, hasher: sha2::Sha256::new() };
    let (digest, size) = engine.write(&mut hashed).await?;
    if Sha256::from_bytes(hashed.hasher.finalize().into()) != expected {
        return Ok(None);
    }
    let store = engine.store().clone();
    span::blocking(move || store.index().keep_aliases(&[(digest, expected)], Durability::Fast))
        .await
        .map_err(StoreError::from)?;
    Ok(Some((digest, size)))
}

/// The Blob of a SHA-256 and its size, if it is here and has been given that name. If it is, it stays for a while.
///
/// # Errors
/// [`CacheError`].
pub async fn locate(engine: &Arc<Engine>, sha256: Sha256) -> Result<Option<(Digest, u64)>, CacheError> {
    let Some(digest) = engine.store().index().of_sha256(&sha256).map_err(StoreError::from)? else {
        return Ok(None);
    };
    let store = engine.store().clone();
    let blob = span::blocking(move || store.blob(&digest)).await?;
    Ok(blob.map(|blob| (digest, blob.pieces().size())))
}

/// Whether Blobs that are here have the SHA-256 that somebody says they have. Those that do can be found by it from then
/// on. Each is read once in its life here.
///
/// # Errors
/// [`CacheError`].
pub async fn vouch(engine: &Arc<Engine>, claimed: Vec<(Digest, Sha256)>) -> Result<bool, CacheError> {
    let store = engine.store().clone();
    span::blocking(move || {
        let mut fresh = Vec::new();
        for (digest, sha256) in claimed {
            if store.index().of_sha256(&sha256).map_err(StoreError::from)? == Some(digest) {
                continue;
            }
            if self::sha256(&store, &digest)? != Some(sha256) {
                return Ok(false);
            }
            fresh.push((digest, sha256));
        }
        if !fresh.is_empty() {
            store.index().keep_aliases(&fresh, Durability::Fast).map_err(StoreError::from)?;
        }
        Ok(true)
    })
    .await
}
