// SPDX-License-Identifier: MIT OR Apache-2.0
//! Bundles: part of a store as one file, for machines that no network reaches.
//!
//! A bundle is a tar archive within one zstd stream, read and written in one pass; `FORMATS.md` describes it member by
//! member. It is a sequence of parts. A part holds signed Entries first and then every Blob that they name, so that
//! its reader knows what the policy lets in before the first byte of it comes, and need not keep anything on
//! suspicion. Nothing in it is believed because it came in a bundle: claims are judged, Blobs are hashed.
//!
//! * this file: what a member looks like, and what can be wrong with a bundle;
//! * [`mod@write`] and [`read`] are the format alone, without a store;
//! * [`export`] and [`import`] join it with the engine.

pub mod export;
pub mod import;
pub mod read;
#[cfg(test)]
mod tests;
pub mod write;

use std::fmt;
use std::io;

use potluck_protocol::digest::Digest;

use crate::content::ContentError;
use crate::index::IndexError;
use crate::store::StoreError;

/// The version of the format.
pub const VERSION: u64 = 1;
/// What the first member says before the version.
const TITLE: &str = "potluck bundle ";
/// Most bytes of the first and of the last member.
const MAX_TEXT_BYTES: u64 = 256;
/// Most Entries in one part.
pub const MAX_ENTRIES: usize = 1024;
/// Most Blobs that may be missing for the Entries of one part.
pub const MAX_WANTED: usize = 1 << 19;
/// How many Blobs end a part, for a writer. A single Tree may have more.
const PART_BLOBS: usize = 16 * 1024;

/// What a member is, which is also its name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Name {
    /// What the file is, and its version.
    Bundle,
    /// A signed Entry, by the Digest of its payload.
    Entry(Digest),
    /// The own Blob of a Tree.
    Tree(Digest),
    /// Any other Blob.
    Blob(Digest),
    /// The Blob just before it could not be read to its end, and the rest of its bytes mean nothing.
    Void(Digest),
    /// Nothing follows, and how much there was.
    End,
}

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Bundle => f.write_str("potluck-bundle"),
            Self::Entry(name) => write!(f, "entry/{name}"),
            Self::Tree(name) => write!(f, "tree/{name}"),
            Self::Blob(name) => write!(f, "blob/{name}"),
            Self::Void(name) => write!(f, "void/{name}"),
            Self::End => f.write_str("potluck-end"),
        }
    }
}

impl Name {
    fn parse(text: &[u8]) -> Option<Self> {
        let text = std::str::from_utf8(text).ok()?;
        let Some((kind, name)) = text.split_once('/') else {
            return [Self::Bundle, Self::End].into_iter().find(|name| name.to_string() == text);
        };
        let name = name.parse().ok()?;
        Some(match kind {
            "entry" => Self::Entry(name),
            "tree" => Self::Tree(name),
            "blob" => Self::Blob(name),
            "void" => Self::Void(name),
            _ => return None,
        })
    }

    /// The only header that a member of this name and size may have.
    fn header(self, size: u64) -> tar::Header {
        let mut header = tar::Header::new_gnu();
        header.set_path(self.to_string()).expect("our names are short");
        header.set_entry_type(tar::EntryType::Regular);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(size);
        header.set_cksum();
        header
    }
}

/// How much there is in a bundle, as its last member says it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Sums {
    /// Entries.
    pub entries: u64,
    /// Blobs, those of Trees among them.
    pub blobs: u64,
    /// Bytes of all Blobs.
    pub bytes: u64,
    /// Blobs that are void.
    pub void: u64,
}

impl fmt::Display for Sums {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { entries, blobs, bytes, void } = self;
        write!(f, "entries {entries}\nblobs {blobs}\nbytes {bytes}\nvoid {void}\n")
    }
}

/// Why a bundle was not read to its end. What had come before is sound.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum BundleError {
    /// It is something else.
    #[error("it is not a bundle of potluck")]
    Foreign,
    /// A later version wrote it.
    #[error("it was made by a later version of potluck (bundle {0})")]
    Later(u64),
    /// It ends in the middle.
    #[error("it is cut off")]
    CutOff,
    /// Its bytes are not those that were written.
    #[error("it is damaged: {0}")]
    Damaged(io::Error),
    /// Nothing that this program writes looks like that.
    #[error("its member {member} is none that a bundle may have there: {what}")]
    Malformed {
        /// Which member, counted from 0.
        member: u64,
        /// What is wrong with it.
        what: &'static str,
    },
    /// It unpacks to far more than what it weighs, and nobody here wants that.
    #[error("it unpacks to too much that nobody here wants")]
    Bomb,
    /// The store has no room.
    #[error("there is no room for a blob of {0} bytes")]
    Full(u64),
    /// The store does not work.
    #[error(transparent)]
    Store(#[from] StoreError),
}

impl BundleError {
    /// One word, for scripts; stable.
    pub fn code(&self) -> &'static str {
        match self {
            Self::Foreign => "foreign",
            Self::Later(_) => "later-version",
            Self::CutOff => "cut-off",
            Self::Damaged(_) => "damaged",
            Self::Malformed { .. } => "malformed",
            Self::Bomb => "bomb",
            Self::Full(_) | Self::Store(StoreError::Content(ContentError::Full { .. })) => "full",
            Self::Store(_) => "store",
        }
    }

    /// What reading the file came to.
    fn read(error: io::Error) -> Self {
        if error.kind() == io::ErrorKind::UnexpectedEof { Self::CutOff } else { Self::Damaged(error) }
    }
}

impl From<IndexError> for BundleError {
    fn from(error: IndexError) -> Self {
        Self::Store(error.into())
    }
}

/// Whether a Blob turned out to be damaged, in which case it has been put aside, rather than the store not to work.
fn is_damage(error: &StoreError) -> bool {
    matches!(
        error,
        StoreError::Damaged(_) | StoreError::Piece(_) | StoreError::Content(ContentError::Damaged { .. })
    )
}
