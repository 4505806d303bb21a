// SPDX-License-Identifier: MIT OR Apache-2.0
//! The claim "this action gave this output", and how two such claims of one signer relate.

use std::time::Duration;

use potluck_keys::policy::{MAX_TAINT_BYTES, Scope, Scoped};
use potluck_keys::signed::{Claim, Signed};
use potluck_keys::time::Time;

use crate::action::{ActionId, Project, Recipe};
use crate::codec::Text;
use crate::digest::{Digest, MAX_BLOB_BYTES};
use crate::tree::MAX_MEMBERS;
use crate::{choice, record};

/// Most taints on one Entry.
pub const MAX_TAINTS: usize = 16;

/// Longest life of a claim: after two years its signer must say it again.
pub const MAX_LIFE: Duration = Duration::from_secs(2 * 366 * 86_400);

/// A mark by which the publisher admits that an output depends on more than its key says, e.g. `network`.
pub type Taint = Text<MAX_TAINT_BYTES>;

record! {
    /// One Blob as an output.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct BlobOutput, check BlobOutput::check {
        /// Its name.
        1 => one digest: Digest,
        /// Its size in bytes, uncompressed.
        2 => one size: u64,
    }
}

impl BlobOutput {
    fn check(&self) -> Result<(), &'static str> {
        if self.size > MAX_BLOB_BYTES { Err("the size is beyond 1 TiB") } else { Ok(()) }
    }
}

record! {
    /// A Tree as an output.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct TreeOutput, check TreeOutput::check {
        /// The name of the Tree's own Blob.
        1 => one digest: Digest,
        /// The size of the Tree's own Blob in bytes.
        2 => one size: u64,
        /// How many members it has.
        3 => one members: u64,
        /// The size of all its files in bytes, uncompressed.
        4 => one total: u64,
    }
}

impl TreeOutput {
    fn check(&self) -> Result<(), &'static str> {
        if self.size > MAX_BLOB_BYTES || self.total > MAX_BLOB_BYTES {
            return Err("a size is beyond 1 TiB");
        }
        if self.members > MAX_MEMBERS as u64 { Err("it has more members than any Tree") } else { Ok(()) }
    }
}

choice! {
    /// What an action gave.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Output {
        /// One Blob.
        0 => Blob(BlobOutput),
        /// A Tree of files.
        1 => Tree(TreeOutput),
    }
}

impl Output {
    /// The name of the Blob, or of the Tree's own Blob.
    pub fn digest(&self) -> &Digest {
        match self {
            Self::Blob(blob) => &blob.digest,
            Self::Tree(tree) => &tree.digest,
        }
    }

    /// All bytes that must be fetched when nothing is there yet, uncompressed.
    pub fn total(&self) -> u64 {
        match self {
            Self::Blob(blob) => blob.size,
            Self::Tree(tree) => tree.size.saturating_add(tree.total),
        }
    }
}

record! {
    /// What helps people and collection to tell Entries apart; no decision of trust rests on it.
    #[derive(Debug, Clone, PartialEq, Eq, Default)]
    pub struct Labels {
        /// The tool, e.g. `rustc`.
        1 => opt tool: Text<64>,
        /// The toolchain, e.g. `1.95.0`.
        2 => opt toolchain: Text<64>,
        /// The platform, e.g. `x86_64-unknown-linux-gnu`.
        3 => opt platform: Text<64>,
        /// What the action cost the publisher, in milliseconds of processor time.
        4 => opt cost_ms: u64,
    }
}

record! {
    /// "This action gave this output." Immutable: to claim another output for the same action, a signer makes a new
    /// Entry that names the one it replaces.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Entry, check Entry::check {
        /// The Project it belongs to.
        1 => one project: Project,
        /// The Recipe of its key.
        2 => one recipe: Recipe,
        /// The action.
        3 => one action: ActionId,
        /// What it gave.
        4 => one output: Output,
        /// For people and for collection.
        5 => one labels: Labels,
        /// What the publisher admits, in ascending order.
        6 => many(MAX_TAINTS) taints: Taint,
        /// When it was made, by the signer's clock.
        7 => one issued: Time,
        /// Until when it holds; at most [`MAX_LIFE`] after `issued`.
        8 => one not_after: Time,
        /// The Entry of the same signer for the same action that this one replaces: the Digest of its payload.
        9 => opt replaces: Digest,
    }
}

impl Entry {
    fn check(&self) -> Result<(), &'static str> {
        check_taints(&self.taints)?;
        check_life(self.issued, self.not_after)
    }
}

/// Taints are a set, and hence have one order.
pub(crate) fn check_taints(taints: &[Taint]) -> Result<(), &'static str> {
    match taints.windows(2).any(|two| two[0] >= two[1]) {
        true => Err("the taints are not in ascending order"),
        false => Ok(()),
    }
}

/// The rule that Entries and Heads share.
pub(crate) fn check_life(issued: Time, not_after: Time) -> Result<(), &'static str> {
    if not_after <= issued {
        return Err("it ends before it begins");
    }
    if not_after.since(issued) > MAX_LIFE { Err("it holds for more than two years") } else { Ok(()) }
}

impl Claim for Entry {
    const CONTEXT: &'static str = "potluck/entry/1";
    const MAX_BYTES: usize = 2048;
}

impl Scoped for Entry {
    const LATER_WINS: bool = false;

    fn scope(&self) -> Scope<'_> {
        Scope {
            project: self.project.as_str(),
            recipe: Some(self.recipe.as_str()),
            subject: self.action.as_bytes(),
            output: self.output.digest().as_bytes(),
            taints: &self.taints,
            issued: self.issued,
            not_after: self.not_after,
            replaces: self.replaces.map(|digest| *digest.as_bytes()),
        }
    }

    fn name(payload: &[u8]) -> [u8; 32] {
        *Digest::of(payload).as_bytes()
    }
}

/// The name of a claim: the Digest of its payload. Signatures may be added without changing it; Catalogs list it, and
/// [`Entry::replaces`] refers to it.
pub fn claim_digest<T>(claim: &Signed<T>) -> Digest {
    Digest::of(claim.payload())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::{decode, encode};

    fn entry() -> Entry {
        Entry {
            project: Project::new(&"p".repeat(96)).unwrap(),
            recipe: Recipe::new(&format!("{}@4294967295", "r".repeat(37))).unwrap(),
            action: ActionId::from_bytes([1; 32]),
            output: Output::Tree(TreeOutput { digest: Digest::of(b"t"), size: 9, members: 2, total: 7 }),
            labels: Labels {
                tool: Text::new("t".repeat(64)),
                toolchain: Text::new("c".repeat(64)),
                platform: Text::new("p".repeat(64)),
                cost_ms: Some(u64::MAX),
            },
            taints: (0..16).map(|n| Text::new(format!("{n:064}")).unwrap()).collect(),
            issued: Time::from_millis(1_000),
            not_after: Time::from_millis(2_000),
            replaces: Some(Digest::of(b"r")),
        }
    }

    #[test]
    fn the_largest_entry_fits_its_bound() {
        let bytes = encode(&entry());
        assert!(bytes.len() <= Entry::MAX_BYTES, "{}", bytes.len());
        assert_eq!(decode::<Entry>(&bytes, Entry::MAX_BYTES).unwrap(), entry());
        assert!(decode::<Entry>(&vec![0; Entry::MAX_BYTES + 1], Entry::MAX_BYTES).is_err());
    }

    #[test]
    fn each_rule_of_an_entry_is_kept() {
        let refused = |change: &dyn Fn(&mut Entry)| {
            let mut entry = entry();
            change(&mut entry);
            assert!(decode::<Entry>(&encode(&entry), usize::MAX).is_err(), "{entry:?}");
        };
        refused(&|entry| entry.taints.reverse());
        refused(&|entry| entry.taints[1] = entry.taints[0].clone());
        refused(&|entry| entry.taints.push(Text::new("z").unwrap()));
        refused(&|entry| entry.not_after = entry.issued);
        refused(&|entry| entry.not_after = entry.issued.plus(MAX_LIFE + Duration::from_millis(1)));
        let digest = Digest::of(b"");
        let blob = |size| Output::Blob(BlobOutput { digest, size });
        let tree = |size, members, total| Output::Tree(TreeOutput { digest, size, members, total });
        for output in [
            blob(MAX_BLOB_BYTES + 1),
            tree(MAX_BLOB_BYTES + 1, 0, 0),
            tree(1, MAX_MEMBERS as u64 + 1, 0),
            tree(1, 0, MAX_BLOB_BYTES + 1),
        ] {
            refused(&|entry| entry.output = output.clone());
        }
        let mut longest = entry();
        longest.not_after = longest.issued.plus(MAX_LIFE);
        longest.output = tree(MAX_BLOB_BYTES, MAX_MEMBERS as u64, MAX_BLOB_BYTES);
        assert!(decode::<Entry>(&encode(&longest), Entry::MAX_BYTES).is_ok());
    }
}
