// SPDX-License-Identifier: MIT OR Apache-2.0
//! A hit, written where the compiler would have written it.
//!
//! Everything is fetched into files beside their places before the first one is moved, so that whatever goes wrong
//! leaves nothing behind and the compiler can still run. Only SIGKILL and the like can leave such a file, which begins
//! with [`UNFINISHED`], is of no interest to cargo, and is removed when something is published from there later. Moving replaces what stands in a place, and never follows it.

use std::io::Write as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Output, TreeOutput};
use potluck_protocol::tree::{Kind, Member, Tree};
use tempfile::NamedTempFile;

use super::said::MAX_SAID;
use super::stall::Limits;
use super::{Call, Placed};
use crate::cache::{Cache, CacheError};
use crate::front::patience::{Patience, Waited, patiently};
use crate::relocate::depinfo::DepInfo;
use crate::relocate::token::{Spelling, TokenError};

/// How long to wait for the next stretch of a Blob.
const PATIENCE: Patience = Patience {
    first: Duration::from_secs(1),
    grace: Duration::from_millis(500),
    longest: Duration::from_secs(5),
};
/// The same for a whole file, which the daemon writes: what a unit may take as a whole is bounded anyway.
const FILE: Patience = Patience { longest: Limits::USUAL.whole, ..PATIENCE };
/// How the names of files begin that are not whole yet.
pub(super) const UNFINISHED: &str = ".potluck-";
/// Largest Tree of one unit: a handful of members.
pub(super) const MAX_TREE: u64 = 64 * 1024;
/// Largest text that is brought back from tokens.
const MAX_TEXT: u64 = 4 * MAX_SAID as u64;
/// Largest output of one unit.
pub(super) const MAX_OUTPUT: u64 = 4 << 30;

/// Why a hit was not used.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub(super) enum RestoreError {
    /// The door did not deliver.
    #[error(transparent)]
    Door(#[from] CacheError),
    /// Nothing came for too long.
    #[error(transparent)]
    Waited(#[from] Waited),
    /// It is not what this unit makes.
    #[error("the entry is not of this unit: {0}")]
    Foreign(&'static str),
    /// A path cannot be brought back.
    #[error(transparent)]
    Token(#[from] TokenError),
    /// It cannot be written.
    #[error("cannot write the outputs: {0}")]
    Write(#[from] std::io::Error),
}

/// What a restored unit said, and how large it was.
#[derive(Debug, Default)]
pub(super) struct Restored {
    /// To be said on stdout.
    pub(super) stdout: Vec<u8>,
    /// To be said on stderr.
    pub(super) stderr: Vec<u8>,
    /// Size of all outputs.
    pub(super) bytes: u64,
}

/// Fetches and writes an output.
pub(super) async fn restore<C: Cache>(
    door: &C,
    call: &Call,
    placed: &Placed,
    output: &Output,
) -> Result<Restored, RestoreError> {
    let Output::Tree(output) = output else { return Err(RestoreError::Foreign("it is no tree")) };
    let tree = fetch_tree(door, output, MAX_TREE).await?;
    let names = placed.unit.outputs();
    check(&tree, &names)?;
    let out_dir = call.cwd.join(&placed.unit.out_dir);
    let mut files = Vec::new();
    for name in &names {
        let member =
            file(&tree, &format!("out/{name}")).ok_or(RestoreError::Foreign("an output is missing"))?;
        files.push((fetch_file(door, placed, &member, &out_dir).await?, out_dir.join(name)));
    }
    let said = |bytes: Vec<u8>, spelling| placed.place.roots.decode(&bytes, spelling);
    let mut restored = Restored { bytes: tree.total(), ..Restored::default() };
    if let Some(member) = file(&tree, "stdout") {
        restored.stdout = said(fetch_text(door, &member).await?, Spelling::Plain)?;
    }
    if let Some(member) = file(&tree, "stderr") {
        restored.stderr = said(fetch_text(door, &member).await?, Spelling::Json)?;
    }
    put(files)?;
    Ok(restored)
}

/// A file of a Tree.
pub(super) struct Wanted {
    pub(super) name: String,
    pub(super) digest: Digest,
    pub(super) size: u64,
    pub(super) executable: bool,
}

/// The file of that path.
pub(super) fn file(tree: &Tree, path: &str) -> Option<Wanted> {
    let is = |member: &&Member| member.path.as_str() == path;
    match tree.members().iter().find(is)?.kind {
        Kind::File { digest, size, executable } => {
            Some(Wanted { name: path.to_owned(), digest, size, executable })
        }
        Kind::Symlink { .. } | Kind::Directory => None,
    }
}

/// The Tree of an output, of at most so many bytes.
pub(super) async fn fetch_tree<C: Cache>(
    door: &C,
    output: &TreeOutput,
    most: u64,
) -> Result<Tree, RestoreError> {
    let name = "tree".to_owned();
    let wanted = Wanted { name, digest: output.digest, size: output.size, executable: false };
    if wanted.size > most {
        return Err(RestoreError::Foreign("its tree is too large"));
    }
    let mut bytes = Vec::new();
    fetch(door, &wanted, |stretch| {
        bytes.extend_from_slice(stretch);
        Ok(())
    })
    .await?;
    Tree::decode(&bytes).map_err(|_| RestoreError::Foreign("its tree is malformed"))
}

/// Exactly the files that this unit makes, and nothing else, whoever signed it.
fn check(tree: &Tree, names: &[String]) -> Result<(), RestoreError> {
    let expected = |member: &Member| {
        let path = member.path.as_str();
        let output = path.strip_prefix("out/").is_some_and(|name| names.iter().any(|own| own == name));
        matches!(member.kind, Kind::File { .. }) && (output || path == "stdout" || path == "stderr")
    };
    if !tree.members().iter().all(expected) {
        return Err(RestoreError::Foreign("it has a member that the unit does not make"));
    }
    if tree.total() > MAX_OUTPUT {
        return Err(RestoreError::Foreign("it is too large"));
    }
    Ok(())
}

/// A file beside its place that is to be filled, with the rights that the program that made it would give.
pub(super) fn beside(folder: &Path, executable: bool) -> std::io::Result<NamedTempFile> {
    // What the umask leaves of this.
    let permissions = std::fs::Permissions::from_mode(if executable { 0o777 } else { 0o666 });
    tempfile::Builder::new().prefix(UNFINISHED).permissions(permissions).tempfile_in(folder)
}

async fn fetch_file<C: Cache>(
    door: &C,
    placed: &Placed,
    wanted: &Wanted,
    folder: &Path,
) -> Result<NamedTempFile, RestoreError> {
    let mut file = beside(folder, wanted.executable)?;
    if Path::new(&wanted.name).extension().is_some_and(|ext| ext == "d") {
        let text = fetch_text(door, wanted).await?;
        let text = String::from_utf8(text).ok().and_then(|text| DepInfo::parse(&text));
        let info = text.ok_or(RestoreError::Foreign("its dep-info is malformed"))?;
        file.write_all(info.decode(&placed.place.roots)?.emit().as_bytes())?;
    } else {
        let to = file.as_file().try_clone()?;
        let written = patiently(door, FILE, door.read_file(wanted.digest, to, file.path())).await;
        if written?? != wanted.size {
            return Err(RestoreError::Foreign("a size is not as it was claimed"));
        }
    }
    Ok(file)
}

/// A text of a Tree.
pub(super) async fn fetch_text<C: Cache>(door: &C, wanted: &Wanted) -> Result<Vec<u8>, RestoreError> {
    if wanted.size > MAX_TEXT {
        return Err(RestoreError::Foreign("a text is too large"));
    }
    let mut text = Vec::new();
    fetch(door, wanted, |bytes| {
        text.extend_from_slice(bytes);
        Ok(())
    })
    .await?;
    Ok(text)
}

/// A Blob, stretch by stretch; an error when its size is not as it was claimed.
pub(super) async fn fetch<C: Cache>(
    door: &C,
    wanted: &Wanted,
    mut take: impl FnMut(&[u8]) -> std::io::Result<()>,
) -> Result<(), RestoreError> {
    let read = patiently(door, PATIENCE, door.read(wanted.digest, None)).await;
    let mut stretches = read??;
    let mut size = 0;
    while let Some(stretch) = patiently(door, PATIENCE, stretches.recv()).await? {
        let stretch = stretch?;
        size += stretch.len() as u64;
        if size > wanted.size {
            break;
        }
        take(&stretch)?;
    }
    if size == wanted.size { Ok(()) } else { Err(RestoreError::Foreign("a size is not as it was claimed")) }
}

/// Moves all of them to their places, or none.
pub(super) fn put(files: Vec<(NamedTempFile, PathBuf)>) -> Result<(), RestoreError> {
    let mut done = Vec::new();
    for (file, place) in files {
        if let Err(error) = file.persist(&place) {
            for place in done {
                let _ = std::fs::remove_file(place);
            }
            return Err(error.error.into());
        }
        done.push(place);
    }
    Ok(())
}
