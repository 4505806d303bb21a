// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a build script left in OUT_DIR: as members of a Tree, and back.
//!
//! A text that names a folder of this checkout is kept with tokens, below `text/`; everything else as it is, below
//! `out/`. A library that names such a folder is not published at all. Metadata of a crate is what is left of asking the
//! compiler whether it understands something, and is not kept, unless crates are to be looked for there.

use std::fs;
use std::io::{self, Read as _, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use memchr::memmem;
use potluck_protocol::entry::TreeOutput;
use potluck_protocol::tree::{Kind, Tree};

use super::super::place::Place;
use super::super::publish::{Content, Part, Unpublished};
use super::super::restore::{
    MAX_OUTPUT, RestoreError, Restored, Wanted, beside, fetch, fetch_text, fetch_tree, put,
};
use super::super::watch::seen::{FOLDER, Seen};
use crate::cache::Cache;
use crate::relocate::scan;
use crate::relocate::token::{OPENING, Roots, Spelling};

/// Most files of one run.
const MAX_FILES: usize = 20_000;
/// Largest Tree of one run.
const MAX_TREE: u64 = 4 << 20;
/// Most bytes of what a script has read that are looked through.
const MAX_READ: u64 = 64 << 20;
/// Larger texts are kept as they are.
pub(super) const MAX_TEXT: u64 = 4 << 20;

/// How a script says where crates are to be looked for.
const SEARCHED: &[&[u8]] = &[b"rustc-link-search", b"rustc-flags"];

/// The members of a run.
pub(super) fn gather(
    folder: &Path,
    place: &Place,
    said: [(&str, &[u8]); 2],
) -> Result<Vec<Part>, Unpublished> {
    let mut parts = Vec::new();
    let (mut folders, mut bytes) = (vec![folder.to_path_buf()], 0u64);
    let searched =
        said.iter().any(|(_, text)| SEARCHED.iter().any(|word| memmem::find(text, word).is_some()));
    while let Some(inner) = folders.pop() {
        let mut empty = true;
        for entry in fs::read_dir(&inner)? {
            let (path, metadata) = entry.and_then(|entry| Ok((entry.path(), entry.metadata()?)))?;
            if !searched && metadata.is_file() && path.extension().is_some_and(|ext| ext == "rmeta") {
                continue;
            }
            empty = false;
            if metadata.is_dir() {
                folders.push(path);
                continue;
            }
            let name = path.strip_prefix(folder).unwrap_or(&path);
            let name =
                name.to_str().ok_or_else(|| Unpublished::Outputs(name.display().to_string()))?.to_owned();
            if !metadata.is_file() {
                return Err(Unpublished::Outputs(name));
            }
            bytes = bytes.saturating_add(metadata.len());
            if bytes > MAX_OUTPUT || parts.len() >= MAX_FILES {
                return Err(Unpublished::TooLarge);
            }
            let executable = metadata.permissions().mode() & 0o100 != 0;
            parts.push(match moved(&path, metadata.len(), &place.roots)? {
                Some(text) => {
                    Part { path: format!("text/{name}"), content: Content::Bytes(text), executable }
                }
                None => Part { path: format!("out/{name}"), content: Content::File(path), executable },
            });
        }
        if empty && inner != folder {
            let name = inner.strip_prefix(folder).unwrap_or(&inner);
            let name = name.to_str().ok_or_else(|| Unpublished::Outputs(name.display().to_string()))?;
            parts.push(Part { path: format!("out/{name}"), content: Content::Folder, executable: false });
        }
    }
    for (name, text) in said.into_iter().filter(|(_, text)| !text.is_empty()) {
        parts.push(Part::text(name, place.roots.encode(text, Spelling::Plain)));
    }
    Ok(parts)
}

/// A file that a run has read and in which a folder of this checkout stands, when what the run made names that folder as
/// well: nobody can tell then whether the folder is meant, which is another elsewhere, or a text that the file happened to
/// hold, such as the route `/app/login` in a checkout at `/app`.
pub(super) fn copied(parts: &[Part], seen: &Seen, place: &Place) -> io::Result<Option<String>> {
    let has_tokens = |part: &Part| match &part.content {
        Content::Bytes(text) => memmem::find(text, OPENING).is_some(),
        Content::File(_) | Content::Folder => false,
    };
    if !parts.iter().any(has_tokens) {
        return Ok(None);
    }
    let folders: Vec<_> = place.roots.iter().flat_map(|root| &root.spellings).map(String::as_str).collect();
    for (name, touched) in &seen.names {
        let file = touched.stamp.as_deref().is_some_and(|stamp| stamp != FOLDER);
        let path = Path::new(name);
        let read = touched.read && !touched.made && !touched.ran;
        if read && file && folders.iter().any(|folder| path.starts_with(folder)) {
            // One that is gone by now was not read for what it said.
            let Ok(file) = fs::File::open(path) else { continue };
            if scan::find_in(file.take(MAX_READ), &folders)?.is_some() {
                return Ok(Some(name.clone()));
            }
        }
    }
    Ok(None)
}

/// The text with tokens, if it is one that names a root.
fn moved(path: &Path, size: u64, roots: &Roots) -> Result<Option<Vec<u8>>, Unpublished> {
    if size > MAX_TEXT {
        return Ok(None);
    }
    let mut bytes = Vec::new();
    fs::File::open(path)?.take(MAX_TEXT).read_to_end(&mut bytes)?;
    Ok(tokenised(&bytes, roots))
}

/// A text in which a root is named, with tokens. Nothing where it would not come back as it was.
pub(in super::super) fn tokenised(bytes: &[u8], roots: &Roots) -> Option<Vec<u8>> {
    if bytes.contains(&0) || str::from_utf8(bytes).is_err() {
        return None;
    }
    let encoded = roots.encode(bytes, Spelling::Plain);
    let back = || roots.decode(&encoded, Spelling::Plain).is_ok_and(|decoded| decoded == bytes);
    (encoded != bytes && back()).then_some(encoded)
}

/// Fetches all of a run, then puts it in place.
pub(super) async fn restore<C: Cache>(
    door: &C,
    folder: &Path,
    place: &Place,
    output: &TreeOutput,
) -> Result<Restored, RestoreError> {
    let tree = fetch_tree(door, output, MAX_TREE).await?;
    check(&tree)?;
    let mut restored = Restored { bytes: tree.total(), ..Restored::default() };
    let mut files = Vec::new();
    // Whatever is not used is removed with it.
    let aside = tempfile::Builder::new().prefix(".potluck-").tempdir_in(folder.parent().unwrap_or(folder))?;
    for member in tree.members() {
        let path = member.path.as_str();
        let Kind::File { digest, size, executable } = member.kind else {
            fs::create_dir_all(inside(folder, path)?)?;
            continue;
        };
        let wanted = Wanted { name: path.to_owned(), digest, size, executable };
        if path == "stdout" || path == "stderr" {
            let text = place.roots.decode(&fetch_text(door, &wanted).await?, Spelling::Plain)?;
            *(if path == "stdout" { &mut restored.stdout } else { &mut restored.stderr }) = text;
            continue;
        }
        let mut file = beside(aside.path(), executable)?;
        if path.starts_with("text/") {
            let text = fetch_text(door, &wanted).await?;
            file.write_all(&place.roots.decode(&text, Spelling::Plain)?)?;
        } else {
            fetch(door, &wanted, |bytes| file.write_all(bytes)).await?;
        }
        files.push((file, inside(folder, path)?));
    }
    for (_, path) in &files {
        fs::create_dir_all(path.parent().unwrap_or(folder))?;
    }
    put(files)?;
    Ok(restored)
}

/// Where a member belongs. No path of a Tree leads out of it, and OUT_DIR was empty: there is no link in it.
fn inside(folder: &Path, path: &str) -> Result<PathBuf, RestoreError> {
    let name = path.split_once('/').filter(|(kind, _)| ["out", "text"].contains(kind));
    let (_, name) = name.ok_or(RestoreError::Foreign("it has a member that no run makes"))?;
    Ok(folder.join(name))
}

fn check(tree: &Tree) -> Result<(), RestoreError> {
    for member in tree.members() {
        let path = member.path.as_str();
        let known = match member.kind {
            Kind::File { .. } => ["out/", "text/"].iter().any(|own| path.starts_with(own)),
            Kind::Directory => path.starts_with("out/"),
            Kind::Symlink { .. } => false,
        };
        let said = ["stdout", "stderr"].contains(&path) && matches!(member.kind, Kind::File { .. });
        if !known && !said {
            return Err(RestoreError::Foreign("it has a member that no run makes"));
        }
    }
    if tree.total() > MAX_OUTPUT || tree.members().len() > 2 * MAX_FILES {
        return Err(RestoreError::Foreign("it is too large"));
    }
    Ok(())
}
