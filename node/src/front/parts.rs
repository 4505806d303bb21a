// SPDX-License-Identifier: MIT OR Apache-2.0
//! Outputs of a few named parts, for Fronts whose tools keep more than one thing under a key: a Tree that brings all of
//! them with one hit.

use std::sync::Arc;

use bytes::Bytes;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Output, TreeOutput};
use potluck_protocol::tree::{Kind, Member, Tree, TreeError, TreePath};

use super::listen::body::{Body, Stream};
use crate::cache::{Cache as _, CacheError};
use crate::engine::Engine;

/// Largest Tree of such an output, in bytes: a handful of members.
const MAX_TREE_BYTES: u64 = 64 * 1024;

/// A part that was written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Part {
    /// Its Blob.
    pub(super) digest: Digest,
    /// Its size in bytes.
    pub(super) size: u64,
}

/// Why parts could not be put together.
#[derive(Debug, thiserror::Error)]
pub(super) enum PartsError {
    /// The door.
    #[error(transparent)]
    Door(#[from] CacheError),
    /// They make no Tree.
    #[error(transparent)]
    Tree(#[from] TreeError),
}

/// Writes the Tree of these parts.
pub(super) async fn output(engine: &Arc<Engine>, parts: &[(&str, Part)]) -> Result<Output, PartsError> {
    let member = |(name, part): &(&str, Part)| {
        let kind = Kind::File { digest: part.digest, size: part.size, executable: false };
        Ok(Member { path: TreePath::new(name)?, kind })
    };
    let tree = Tree::new(parts.iter().map(member).collect::<Result<_, TreeError>>()?)?;
    let (digest, size) = engine.write(tree.encode().as_slice()).await?;
    Ok(Output::Tree(TreeOutput { digest, size, members: tree.members().len() as u64, total: tree.total() }))
}

/// The Tree of an output; nothing when it has none that is small and can be read.
pub(super) async fn tree(engine: &Arc<Engine>, output: &Output) -> Option<Tree> {
    let Output::Tree(output) = output else { return None };
    if output.size > MAX_TREE_BYTES {
        return None;
    }
    let bytes = whole(engine, Part { digest: output.digest, size: output.size }, MAX_TREE_BYTES).await?;
    Tree::decode(&bytes).ok()
}

/// A part of a Tree.
pub(super) fn part(tree: &Tree, name: &str) -> Option<Part> {
    match tree.get(&TreePath::new(name).ok()?)?.kind {
        Kind::File { digest, size, .. } => Some(Part { digest, size }),
        Kind::Symlink { .. } | Kind::Directory => None,
    }
}

/// All bytes of a part that has at most `most`; nothing when it is larger or cannot be read.
pub(super) async fn whole(engine: &Arc<Engine>, part: Part, most: u64) -> Option<Bytes> {
    if part.size > most {
        return None;
    }
    if let Some(bytes) = engine.small(&part.digest, part.size).ok()? {
        return Some(bytes.into());
    }
    let mut stretches = engine.read(part.digest, None).await.ok()?;
    let mut bytes = Vec::new();
    while let Some(stretch) = stretches.recv().await {
        bytes.extend_from_slice(&stretch.ok()?);
        if bytes.len() as u64 > part.size {
            return None;
        }
    }
    (bytes.len() as u64 == part.size).then(|| bytes.into())
}

/// A part as a body, of which the beginning has been read and checked; nothing when it cannot be read, which is a miss.
pub(super) async fn body(engine: &Arc<Engine>, part: Part) -> Option<Body> {
    if let Some(bytes) = engine.small(&part.digest, part.size).ok()? {
        return Some(Body::Whole(bytes.into()));
    }
    let mut rest = engine.read(part.digest, None).await.ok()?;
    match rest.recv().await {
        Some(Ok(first)) => Some(Body::Stream(Stream::new(first, rest, Some(part.size)))),
        Some(Err(_)) => None,
        None => (part.size == 0).then_some(Body::Empty),
    }
}
