// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which Blobs a result names: Bazel's `ActionResult` (Remote Execution API v2, `remote_execution.proto`), and the same as
//! JSON, as moon writes it. Only the fields that name Blobs are declared; all others are skipped.

use std::collections::BTreeMap;

use potluck_protocol::digest::Sha256;
use prost::Message;
use serde::Deserialize;

/// Largest result that is taken, in bytes.
pub const MAX_RESULT_BYTES: u64 = 4 << 20;
/// Largest list of a folder that is looked into, in bytes.
pub const MAX_FOLDER_BYTES: u64 = 16 << 20;
/// Most Blobs that one result may name.
pub const MAX_NAMED: usize = 100_000;

/// The SHA-256 of no bytes at all: a Blob that nobody ever sends and everybody has.
pub const EMPTY: [u8; 32] = [
    0xe3, 0xb0, 0xc4, 0x42, 0x98, 0xfc, 0x1c, 0x14, 0x9a, 0xfb, 0xf4, 0xc8, 0x99, 0x6f, 0xb9, 0x24, 0x27,
    0xae, 0x41, 0xe4, 0x64, 0x9b, 0x93, 0x4c, 0xa4, 0x95, 0x99, 0x1b, 0x78, 0x52, 0xb8, 0x55,
];

/// What a result names.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Named {
    /// Blobs, each with its size, without the empty one.
    pub blobs: BTreeMap<Sha256, u64>,
    /// Those of them that are lists of folders, which name further ones.
    pub folders: Vec<Sha256>,
}

/// Why a result cannot be offered to others.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// It names something by a hash that is no SHA-256.
    #[error("it names a blob by what is no SHA-256")]
    Hash,
    /// It names too much.
    #[error("it names too many blobs")]
    TooMany,
    /// It names a folder in a way that is not followed.
    #[error("it names a folder without a list of all that is in it")]
    Folder,
    /// What it names as the list of a folder is none.
    #[error("a list of a folder makes no sense")]
    List,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct Digest {
    #[prost(string, tag = "1")]
    hash: String,
    #[prost(int64, tag = "2")]
    #[serde(alias = "size_bytes", alias = "size", deserialize_with = "number")]
    size_bytes: i64,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OutputFile {
    #[prost(message, optional, tag = "2")]
    digest: Option<Digest>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct OutputDirectory {
    #[prost(message, optional, tag = "3")]
    #[serde(alias = "tree_digest")]
    tree_digest: Option<Digest>,
    #[prost(message, optional, tag = "5")]
    #[serde(alias = "root_directory_digest")]
    root_directory_digest: Option<Digest>,
}

#[derive(Clone, PartialEq, Message, Deserialize)]
#[serde(default, rename_all = "camelCase")]
struct ActionResult {
    #[prost(message, repeated, tag = "2")]
    #[serde(alias = "output_files")]
    output_files: Vec<OutputFile>,
    #[prost(message, repeated, tag = "3")]
    #[serde(alias = "output_directories")]
    output_directories: Vec<OutputDirectory>,
    #[prost(message, optional, tag = "6")]
    #[serde(alias = "stdout_digest")]
    stdout_digest: Option<Digest>,
    #[prost(message, optional, tag = "8")]
    #[serde(alias = "stderr_digest")]
    stderr_digest: Option<Digest>,
}

#[derive(Clone, PartialEq, Message)]
struct Directory {
    /// `FileNode` has its digest where `OutputFile` has it.
    #[prost(message, repeated, tag = "1")]
    files: Vec<OutputFile>,
}

#[derive(Clone, PartialEq, Message)]
struct Tree {
    #[prost(message, optional, tag = "1")]
    root: Option<Directory>,
    #[prost(message, repeated, tag = "2")]
    children: Vec<Directory>,
}

/// A 64-bit number in JSON is text, or a number after all.
fn number<'de, D: serde::Deserializer<'de>>(from: D) -> Result<i64, D::Error> {
    #[derive(Deserialize)]
    #[serde(untagged)]
    enum Either {
        Number(i64),
        Text(String),
    }
    match Either::deserialize(from)? {
        Either::Number(number) => Ok(number),
        Either::Text(text) => text.parse().map_err(serde::de::Error::custom),
    }
}

impl Named {
    fn add(&mut self, digest: &Digest) -> Result<Option<Sha256>, ResultError> {
        let name: Sha256 = digest.hash.parse().map_err(|_| ResultError::Hash)?;
        let size = u64::try_from(digest.size_bytes).map_err(|_| ResultError::Hash)?;
        if *name.as_bytes() == EMPTY {
            return Ok(None);
        }
        self.blobs.insert(name, size);
        if self.blobs.len() > MAX_NAMED { Err(ResultError::TooMany) } else { Ok(Some(name)) }
    }

    fn add_all<'a>(&mut self, digests: impl IntoIterator<Item = &'a Digest>) -> Result<(), ResultError> {
        digests.into_iter().try_for_each(|digest| self.add(digest).map(drop))
    }

    /// Adds what a list of a folder names.
    ///
    /// # Errors
    /// [`ResultError`].
    pub fn add_folder(&mut self, list: &[u8]) -> Result<(), ResultError> {
        let tree = Tree::decode(list).map_err(|_| ResultError::List)?;
        let folders = tree.root.iter().chain(&tree.children);
        self.add_all(folders.flat_map(|folder| &folder.files).filter_map(|file| file.digest.as_ref()))
    }
}

/// What a result names, or nothing when it is neither an `ActionResult` nor the JSON of one: what else it is means
/// something to its tool alone.
///
/// # Errors
/// [`ResultError`].
pub fn named(body: &[u8]) -> Result<Option<Named>, ResultError> {
    let result = match body.first() {
        Some(b'{') => serde_json::from_slice(body).ok(),
        Some(_) => ActionResult::decode(body).ok(),
        None => None,
    };
    let Some(ActionResult { output_files, output_directories, stdout_digest, stderr_digest }) = result else {
        return Ok(None);
    };
    let mut named = Named::default();
    named.add_all(output_files.iter().filter_map(|file| file.digest.as_ref()))?;
    named
        .add_all([stdout_digest, stderr_digest].iter().flatten().filter(|digest| !digest.hash.is_empty()))?;
    for folder in &output_directories {
        match (&folder.tree_digest, &folder.root_directory_digest) {
            (Some(tree), _) => {
                let list = named.add(tree)?;
                named.folders.extend(list);
            }
            (None, Some(_)) => return Err(ResultError::Folder),
            (None, None) => {}
        }
    }
    Ok(Some(named))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn digest(byte: u8) -> Digest {
        Digest { hash: Sha256::from_bytes([byte; 32]).to_string(), size_bytes: byte.into() }
    }

    fn file(byte: u8) -> OutputFile {
        OutputFile { digest: Some(digest(byte)) }
    }

    fn names(named: &Named) -> Vec<(u8, u64)> {
        named.blobs.iter().map(|(name, size)| (name.as_bytes()[0], *size)).collect()
    }

    #[test]
    fn a_result_names_files_folders_and_what_was_said() {
        let folder = OutputDirectory { tree_digest: Some(digest(3)), root_directory_digest: None };
        let result = ActionResult {
            output_files: vec![file(1), file(2), file(1)],
            output_directories: vec![folder],
            stdout_digest: Some(digest(4)),
            stderr_digest: Some(Digest { hash: Sha256::from_bytes(EMPTY).to_string(), size_bytes: 0 }),
        };
        let mut found = named(&result.encode_to_vec()).unwrap().unwrap();
        assert_eq!(names(&found), [(1, 1), (2, 2), (3, 3), (4, 4)]);
        assert_eq!(found.folders, [Sha256::from_bytes([3; 32])]);
        let (root, child) = (Directory { files: vec![file(5)] }, Directory { files: vec![file(6), file(1)] });
        found.add_folder(&Tree { root: Some(root), children: vec![child] }.encode_to_vec()).unwrap();
        assert_eq!(names(&found), [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5), (6, 6)]);
        assert_eq!(found.add_folder(b"\x0a\xff"), Err(ResultError::List));
    }

    #[test]
    fn json_names_the_same() {
        let hash = |byte: u8| Sha256::from_bytes([byte; 32]).to_string();
        for (files, size, stdout) in
            [("outputFiles", "\"1\"", "stdoutDigest"), ("output_files", "1", "stdout_digest")]
        {
            let body = format!(
                "{{\"{files}\":[{{\"path\":\"a\",\"digest\":{{\"hash\":\"{}\",\"sizeBytes\":{size}}}}}],\
                 \"{stdout}\":{{\"hash\":\"{}\",\"sizeBytes\":{size}}},\"exitCode\":0}}",
                hash(1),
                hash(2)
            );
            assert_eq!(names(&named(body.as_bytes()).unwrap().unwrap()), [(1, 1), (2, 1)]);
        }
        assert_eq!(named(b"{\"outputFiles\":7}"), Ok(None));
    }

    #[test]
    fn what_is_no_result_means_nothing_here() {
        // A value of ccache, in its layout for Bazel's servers.
        assert_eq!(named(b"\xcc\xac\x01\x00\x01\x01"), Ok(None));
        assert_eq!(named(b""), Ok(None));
    }

    #[test]
    fn a_result_that_cannot_be_offered_is_named() {
        let with = |hash: &str, size_bytes| {
            let digest = Some(Digest { hash: hash.to_owned(), size_bytes });
            named(
                &ActionResult { output_files: vec![OutputFile { digest }], ..Default::default() }
                    .encode_to_vec(),
            )
        };
        assert_eq!(with("abc", 1), Err(ResultError::Hash));
        assert_eq!(with(&digest(1).hash, -1), Err(ResultError::Hash));
        let folder = OutputDirectory { tree_digest: None, root_directory_digest: Some(digest(1)) };
        let result = ActionResult { output_directories: vec![folder], ..Default::default() };
        assert_eq!(named(&result.encode_to_vec()), Err(ResultError::Folder));
        let mut many = Named::default();
        let mut name = [1; 32];
        for number in 0..=MAX_NAMED as u64 {
            name[..8].copy_from_slice(&number.to_be_bytes());
            let hash = Sha256::from_bytes(name).to_string();
            let added = many.add(&Digest { hash, size_bytes: 1 });
            assert_eq!(added.is_ok(), number < MAX_NAMED as u64, "{number}");
        }
    }
}
