// SPDX-License-Identifier: MIT OR Apache-2.0
//! Answers Bazel and moon: Blobs by their SHA-256, and results that bring all Blobs which they name.
//!
//! A result is published as a Tree of `result`, which is the body as it came, and of `cas/` with each Blob under its
//! SHA-256. So whoever has the Entry gets all of it, and a hit is only answered when all of it is here. Names in such a
//! Tree are somebody's word, and are compared with the bytes before they count.

use std::collections::BTreeSet;
use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use potluck_protocol::digest::{Digest, Sha256};
use potluck_protocol::entry::{BlobOutput, Output, TreeOutput};
use potluck_protocol::tree::{Kind, Member, Tree, TreePath};
use tokio::time::timeout;

use super::keep::{self, Found, Slot};
use super::map::bazel::{About, Ask, DIALECT, ask};
use super::map::result::{EMPTY, MAX_FOLDER_BYTES, MAX_NAMED, MAX_RESULT_BYTES, Named, ResultError, named};
use super::map::{Operation, Stored};
use crate::alias;
use crate::cache::{Cache as _, CacheError};
use crate::engine::Engine;
use crate::front::listen::asked::Asked;
use crate::front::listen::body::{Upload, UploadError};
use crate::front::listen::{Answer, Door, plain, said};

/// Where the body of a result lies in its Tree.
const RESULT: &str = "result";
/// Where the Blobs lie that it names.
const BLOBS: &str = "cas/";

/// Answers one request.
pub(super) async fn serve(door: Door, asked: Asked, upload: Upload) -> Answer {
    match ask(&asked) {
        Err(status) => plain(status),
        Ok(Ask::Alive) => said(StatusCode::OK, "potluck\n"),
        Ok(Ask::Blob { name, what: About::Put }) => plain(take_blob(&door, name, upload).await),
        Ok(Ask::Blob { name, what }) => blob(&door, &asked, name, what == About::Head).await,
        Ok(Ask::Result(Operation::Get { key, head })) => result(&door, &asked, (key, head)).await,
        Ok(Ask::Result(Operation::Put { key })) => {
            let stored = take_result(&door, (&asked, key), upload).await;
            plain((DIALECT.stored)(stored))
        }
        Ok(Ask::Result(_)) => keep::serve(door, &DIALECT, asked, upload).await,
    }
}

/// A Blob, or a miss.
async fn blob(door: &Door, asked: &Asked, name: Sha256, head: bool) -> Answer {
    let found = async {
        if *name.as_bytes() == EMPTY {
            let blob = BlobOutput { digest: Digest::of(b""), size: 0 };
            return Some(Found { blob, first: Bytes::new(), rest: None });
        }
        let (digest, size) = alias::locate(door.engine(), name).await.ok().flatten()?;
        keep::open(door.engine(), BlobOutput { digest, size }).await
    };
    match timeout(DIALECT.patience, found).await {
        Ok(Some(found)) => keep::give(door.engine(), &DIALECT, asked, (found, head)).await,
        _ => plain(StatusCode::NOT_FOUND),
    }
}

/// Takes a Blob that has to have this SHA-256.
async fn take_blob(door: &Door, name: Sha256, upload: Upload) -> StatusCode {
    match alias::write(door.engine(), upload.read(), name).await {
        Ok(Some(_)) => StatusCode::OK,
        Ok(None) => StatusCode::BAD_REQUEST,
        Err(error) => (DIALECT.stored)(keep::failed(&DIALECT, &error)),
    }
}

/// A result that is here with all that it names, or a miss.
async fn result(door: &Door, asked: &Asked, (key, head): (String, bool)) -> Answer {
    let engine = door.engine();
    let found = async {
        match keep::known(door, &Slot::new(&DIALECT, asked, key)).await? {
            Output::Blob(blob) => keep::open(engine, blob).await,
            Output::Tree(tree) => {
                let blob = unpack(engine, &tree).await?;
                keep::open(engine, blob).await
            }
        }
    };
    let Ok(Some(found)) = timeout(DIALECT.patience, found).await else { return plain(StatusCode::NOT_FOUND) };
    let json = found.first.first() == Some(&b'{');
    let mut answer = keep::give(engine, &DIALECT, asked, (found, head)).await;
    if json && answer.headers().contains_key(header::CONTENT_TYPE) {
        // moon asks for it, and sent it as such.
        answer.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    }
    answer
}

/// The body of a result, once every Blob beside it can be found by the name that the result has for it.
async fn unpack(engine: &Arc<Engine>, output: &TreeOutput) -> Option<BlobOutput> {
    let tree = Tree::decode(&whole(engine, output.digest, output.size).await?).ok()?;
    let (mut body, mut claimed) = (None, Vec::new());
    for member in tree.members() {
        let Kind::File { digest, size, .. } = member.kind else { continue };
        match member.path.as_str() {
            RESULT => body = Some(BlobOutput { digest, size }),
            path => claimed.push((digest, path.strip_prefix(BLOBS)?.parse().ok()?)),
        }
    }
    match alias::vouch(engine, claimed).await {
        Ok(true) => body,
        Ok(false) => {
            tracing::warn!("a result names blobs by a SHA-256 that is not theirs: it is not used");
            None
        }
        Err(error) => {
            tracing::warn!(%error, "a result cannot be read");
            None
        }
    }
}

/// All of a Blob.
async fn whole(engine: &Arc<Engine>, digest: Digest, size: u64) -> Option<Vec<u8>> {
    let mut stretches = engine.read(digest, None).await.ok()?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).ok()?);
    while let Some(stretch) = stretches.recv().await {
        bytes.extend_from_slice(&stretch.ok()?);
    }
    Some(bytes)
}

/// Why a result was not published.
#[derive(Debug, thiserror::Error)]
enum Unpublished {
    #[error(transparent)]
    Result(#[from] ResultError),
    #[error("it names the blob {0}, which was not sent")]
    NotSent(Sha256),
    #[error("it names a folder with a list of {0} bytes")]
    Folder(u64),
    #[error(transparent)]
    Door(#[from] CacheError),
}

/// Takes a result and claims it, with all that it names.
async fn take_result(door: &Door, (asked, key): (&Asked, String), upload: Upload) -> Stored {
    let body = match upload.bytes(MAX_RESULT_BYTES).await {
        Ok(body) => body,
        Err(UploadError::TooLarge(_)) => return Stored::TooLarge,
        Err(UploadError::Broken(error)) => return keep::failed(&DIALECT, &CacheError::Source(error)),
    };
    match pack(door.engine(), &body).await {
        Ok(output) => keep::claim(door, &Slot::new(&DIALECT, asked, key), output).await,
        Err(Unpublished::Door(error)) => keep::failed(&DIALECT, &error),
        // Whoever sent it has done nothing wrong, and cannot do anything about it.
        Err(error) => {
            tracing::info!(%error, "a result was not kept");
            Stored::Done
        }
    }
}

/// The output that a result is published as.
async fn pack(engine: &Arc<Engine>, body: &[u8]) -> Result<Output, Unpublished> {
    let (digest, size) = engine.write(body).await?;
    let Some(named) = named(body)? else { return Ok(Output::Blob(BlobOutput { digest, size })) };
    let named = open_folders(engine, named).await?;
    if named.blobs.is_empty() {
        return Ok(Output::Blob(BlobOutput { digest, size }));
    }
    let mut files = vec![(RESULT.to_owned(), digest, size)];
    for name in named.blobs.into_keys() {
        let (digest, size) = alias::locate(engine, name).await?.ok_or(Unpublished::NotSent(name))?;
        files.push((format!("{BLOBS}{name}"), digest, size));
    }
    let member = |(path, digest, size): (String, Digest, u64)| {
        let path = TreePath::new(&path).expect("hexadecimal digits below a short name");
        Member { path, kind: Kind::File { digest, size, executable: false } }
    };
    let tree = Tree::new(files.into_iter().map(member).collect()).expect("each path is there once");
    let (digest, size) = engine.write(tree.encode().as_slice()).await?;
    let (members, total) = (tree.members().len() as u64, tree.total());
    Ok(Output::Tree(TreeOutput { digest, size, members, total }))
}

/// Adds what is in the folders that a result names.
async fn open_folders(engine: &Arc<Engine>, mut named: Named) -> Result<Named, Unpublished> {
    let folders: BTreeSet<_> = named.folders.iter().copied().collect();
    debug_assert!(folders.len() <= MAX_NAMED, "each is a blob as well");
    for name in folders {
        let (digest, size) = alias::locate(engine, name).await?.ok_or(Unpublished::NotSent(name))?;
        if size > MAX_FOLDER_BYTES {
            return Err(Unpublished::Folder(size));
        }
        let list = whole(engine, digest, size).await.ok_or(CacheError::NotHere(digest))?;
        named.add_folder(&list)?;
    }
    Ok(named)
}
