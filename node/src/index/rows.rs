// SPDX-License-Identifier: MIT OR Apache-2.0
//! The tables of `index.redb`, all of them, and the rows in them.
//!
//! Every row starts with a byte that names the version of its form, followed by deterministic CBOR. A form that changes
//! gets a new number, and the reader of the old one stays. Entries have two forms: 1 is followed by the signed claim, 2
//! by a seal and the claim. Small Blobs have two: 1 is followed by the bytes, 2 by where in a slab they lie, which has
//! a head that names what is in it, and then the bytes one after another.
//!
//! | schema | what it brought |
//! |---|---|
//! | 1 | everything but the following |
//! | 2 | Entries of form 2, contradictions, tallies; the table `counts 1`, which nothing filled, stays unread |
//! | 3 | SHA-256 aliases |
//! | 4 | slabs, and small Blobs of form 2 |

use potluck_keys::signed::SEAL_BYTES;
use potluck_keys::time::Time;
use potluck_protocol::catalog::{Catalog, MAX_CATALOG_BYTES};
use potluck_protocol::codec::{self, Bytes, CodecError, Text, Wire};
use potluck_protocol::control::MAX_REASON_BYTES;
use potluck_protocol::digest::Digest;
use potluck_protocol::head::Head;
use potluck_protocol::record;
use redb::TableDefinition;

/// Largest Blob that lies in the index itself, in bytes; larger ones are files.
pub const MAX_INLINE_BYTES: usize = 16 * 1024;

/// The version of the set of tables.
pub(super) const SCHEMA: u64 = 4;

/// `"schema"` to [`SCHEMA`].
pub(super) const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// A small Blob's Digest to its bytes, or where they lie.
pub(super) const SMALL: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("small blobs 1");
/// A slab's number to the small Blobs in it.
pub(super) const SLABS: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("slabs 1");
/// A slab's number to how many bytes of the Blobs in it are still to be found by their rows.
pub(super) const NAMED: TableDefinition<'_, u64, u64> = TableDefinition::new("slabs named 1");
/// Digest and Project.
pub(super) type BelongsKey = (&'static [u8; 32], &'static str);
/// This Blob belongs to that Project, and may go where the Project is shared.
pub(super) const BELONGS: TableDefinition<'_, BelongsKey, ()> = TableDefinition::new("blob projects 1");
/// ActionId, Signer and payload's Digest.
pub(super) type EntryKey = (&'static [u8; 32], &'static [u8; 32], &'static [u8; 32]);
/// Signer, Project and instance.
type HeadKey = (&'static [u8; 32], &'static str, &'static [u8; 16]);

/// To the signed Entry, as it came.
pub(super) const ENTRIES: TableDefinition<'_, EntryKey, &[u8]> = TableDefinition::new("entries 1");
/// Project and ActionId to the Digest of an own Entry that no Catalog lists yet.
pub(super) const OUTBOX: TableDefinition<'_, (&str, &[u8; 32]), &[u8; 32]> = TableDefinition::new("outbox 1");
/// Project to the [`OwnCatalog`].
pub(super) const CATALOGS: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("own catalogs 1");
/// To the newest signed Catalog Head that was accepted.
pub(super) const HEADS: TableDefinition<'_, HeadKey, &[u8]> = TableDefinition::new("followed heads 1");
/// Signer and ActionId to the [`Contradiction`].
pub(super) const CONTRADICTIONS: TableDefinition<'_, (&[u8; 32], &[u8; 32]), &[u8]> =
    TableDefinition::new("contradictions 1");
/// Project and Recipe to the [`Tally`]; both empty for all that found no room.
pub(super) const TALLIES: TableDefinition<'_, (&str, &str), &[u8]> = TableDefinition::new("tallies 1");

/// ActionId to when its Entries were last used, in milliseconds since 1970.
pub(super) const USES: TableDefinition<'_, &[u8; 32], u64> = TableDefinition::new("uses 1");
/// A Digest to the [`PinRow`].
pub(super) const PINS: TableDefinition<'_, &[u8; 32], &[u8]> = TableDefinition::new("pins 1");
/// ActionId to the name of an own Entry that is no longer here, though others may remember it, and until when they can
/// use it, in milliseconds since 1970.
pub(super) const WITHDRAWN: TableDefinition<'_, &[u8; 32], (&[u8; 32], u64)> =
    TableDefinition::new("withdrawn 1");

/// A Blob's SHA-256 to its Digest, and the other way: two tables, so that whichever goes takes the other along.
pub(super) const ALIASES: TableDefinition<'_, &[u8; 32], &[u8; 32]> =
    TableDefinition::new("sha-256 aliases 1");
/// A Blob's Digest to its SHA-256.
pub(super) const ALIASED: TableDefinition<'_, &[u8; 32], &[u8; 32]> =
    TableDefinition::new("sha-256 aliased 1");

record! {
    /// Why a Blob is kept whatever the budget.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct PinRow {
        /// Why, for people.
        1 => one reason: Text<MAX_REASON_BYTES>,
        /// Since when.
        2 => one since: Time,
        /// Whether it is a Tree, whose files are kept as well.
        3 => one tree: bool,
    }
}

/// Largest [`PinRow`] in bytes.
pub(super) const MAX_PIN_BYTES: usize = MAX_REASON_BYTES + 64;

record! {
    /// What this node claims in a Project, as of its last Head.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct OwnCatalog {
        /// The list of Segments.
        1 => one catalog: Catalog,
        /// The signed Head that points to it.
        2 => one head: Bytes<{ potluck_keys::signed::Signed::<Head>::MAX_BYTES }>,
    }
}

record! {
    /// Evidence that a signer gave two outputs for one action, of which neither replaces the other. Both Entries carry
    /// its signature and are kept among the others.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Contradiction {
        /// The name of the Entry issued earlier.
        1 => one earlier: Digest,
        /// The name of the other one.
        2 => one later: Digest,
        /// When this node saw both for the first time, by its own clock.
        3 => one seen: Time,
    }
}

record! {
    /// What was counted for a Project and a Recipe, ever since the index was made.
    #[derive(Debug, Clone, Default, PartialEq, Eq)]
    pub struct Tally {
        /// Look-ups that gave an output.
        1 => one hits: u64,
        /// Those of them for which something had to be fetched.
        2 => one remote_hits: u64,
        /// Look-ups that gave none.
        3 => one misses: u64,
        /// Own Entries made.
        4 => one published: u64,
        /// Bytes of the outputs that were given, unpacked.
        5 => one bytes: u64,
    }
}

/// Largest [`Contradiction`] or [`Tally`] in bytes.
pub(super) const MAX_RECORD_BYTES: usize = 256;

/// Largest [`OwnCatalog`] in bytes.
pub(super) const MAX_OWN_CATALOG_BYTES: usize = MAX_CATALOG_BYTES + 4096;

/// The form of all rows but sealed ones.
pub(super) const FORM: u8 = 1;
/// The form of an Entry behind its seal.
const SEALED: u8 = 2;

/// The row of a value.
pub(super) fn row<T: Wire>(value: &T) -> Vec<u8> {
    let mut row = vec![FORM];
    row.extend(codec::encode(value));
    row
}

/// The value of a row of at most `max` bytes.
pub(super) fn value<T: Wire>(row: &[u8], max: usize) -> Result<T, RowError> {
    codec::decode(bytes(row)?, max).map_err(RowError::Codec)
}

/// The row of bytes that have a form of their own.
pub(super) fn plain(bytes: &[u8]) -> Vec<u8> {
    let mut row = Vec::with_capacity(1 + bytes.len());
    row.push(FORM);
    row.extend_from_slice(bytes);
    row
}

/// Writes the row of bytes that have a form of their own where there is room for it: one byte more than theirs.
pub(super) fn put_plain(row: &mut [u8], bytes: &[u8]) {
    row[0] = FORM;
    row[1..].copy_from_slice(bytes);
}

/// The row of an Entry, with its seal if it has one.
pub(super) fn entry(seal: Option<[u8; SEAL_BYTES]>, bytes: &[u8]) -> Vec<u8> {
    let Some(seal) = seal else { return plain(bytes) };
    let mut row = Vec::with_capacity(1 + SEAL_BYTES + bytes.len());
    row.push(SEALED);
    row.extend_from_slice(&seal);
    row.extend_from_slice(bytes);
    row
}

/// The seal in the row of an Entry, and the Entry.
pub(super) fn sealed(row: &[u8]) -> Result<(Option<&[u8; SEAL_BYTES]>, &[u8]), RowError> {
    match row.split_first() {
        Some((&SEALED, rest)) => {
            let (seal, bytes) = rest.split_first_chunk().ok_or(RowError::Empty)?;
            Ok((Some(seal), bytes))
        }
        _ => Ok((None, bytes(row)?)),
    }
}

/// What follows the version of a row.
pub(super) fn bytes(row: &[u8]) -> Result<&[u8], RowError> {
    match row.split_first() {
        Some((&FORM, rest)) => Ok(rest),
        Some((form, _)) => Err(RowError::Form(*form)),
        None => Err(RowError::Empty),
    }
}

/// A row that cannot be read.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum RowError {
    /// It was written by a later version.
    #[error("it has form {0}, which this version does not know")]
    Form(u8),
    /// There is nothing in it.
    #[error("it is empty")]
    Empty,
    /// It is shorter or longer than it can be.
    #[error("it has the wrong length")]
    Length,
    /// It is damaged.
    #[error(transparent)]
    Codec(CodecError),
}
