// SPDX-License-Identifier: MIT OR Apache-2.0
//! What takes the daemon long, and how far it is of which it tells meanwhile.

use super::{
    MAX_ALIASES, MAX_CLAIMS_KEYS, MAX_PATH_BYTES, MAX_PATTERN_BYTES, MAX_REASON_BYTES, MAX_UNIT_KEY_BYTES,
};
use crate::action::{ActionId, Project, Recipe};
use crate::codec::{Bytes, Text};
use crate::digest::{Digest, Sha256};
use crate::tree::MAX_COMPONENT_BYTES;
use crate::{choice, record};

record! {
    /// "Make room", or "what would go?"
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Collect {
        /// How many bytes may stay; the budget of the settings when absent.
        1 => opt keep: u64,
        /// Only what this toolchain made, as in [`Labels`].
        2 => opt toolchain: Text<64>,
        /// Only what belongs to Projects that this pattern covers.
        3 => opt project: Text<MAX_PATTERN_BYTES>,
        /// Whether nothing is to be removed.
        4 => one dry: bool,
    }
}

record! {
    /// "Is everything as it was written?"
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Verify {
        /// Only this Blob, and what it lists if it is a Tree.
        1 => opt digest: Digest,
        /// Whether what is damaged is to be fetched again from peers.
        2 => one repair: bool,
    }
}

record! {
    /// "Keep this Blob, and what it lists if it is a Tree, whatever the budget."
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Pin {
        /// The Blob.
        1 => one digest: Digest,
        /// Why, for people.
        2 => one reason: Text<MAX_REASON_BYTES>,
    }
}

record! {
    /// "That may go."
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Unpin {
        /// The Blob.
        1 => one digest: Digest,
    }
}

record! {
    /// "What is pinned, and why?"
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Pins {
        /// Only this one.
        1 => opt digest: Digest,
    }
}

record! {
    /// "Let these Blobs be found by their SHA-256 as well." The report lists them, in the same order.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Alias {
        /// The Blobs.
        1 => many(MAX_ALIASES) digests: Digest,
    }
}

record! {
    /// "Which Blob has this SHA-256?"
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Find {
        /// It.
        1 => one sha256: Sha256,
    }
}

record! {
    /// "Put this Tree there." The daemon writes the files itself, which saves sending them through the socket. Where it
    /// cannot do it as the client would, it reports so and has done nothing: see `device` and `umask`.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Restore {
        /// The Tree.
        1 => one digest: Digest,
        /// An absolute path of a folder that is there, and in which the Tree is to appear.
        2 => one folder: Bytes<MAX_PATH_BYTES>,
        /// Its name in that folder.
        3 => one name: Bytes<MAX_COMPONENT_BYTES>,
        /// The folder's device and inode as the client sees it. Where they differ, the daemon is in another container,
        /// say.
        4 => one device: u64,
        /// See `device`.
        5 => one inode: u64,
        /// What the client takes from the mode of the files it makes, if it knows. The daemon's may differ.
        6 => opt umask: u32,
        /// Whether a folder that is there already is to be replaced, with all that is in it.
        7 => one replace: bool,
        /// The time of last change that everything gets, in milliseconds since 1970; that of writing when absent.
        8 => opt modified_ms: u64,
    }
}

record! {
    /// "What is claimed about these, and by whom?" The report lists them, in the same order.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Claims {
        /// The Project of all of them.
        1 => one project: Project,
        /// The Recipe of all of them.
        2 => one recipe: Recipe,
        /// The tool's own keys.
        3 => many(MAX_CLAIMS_KEYS) keys: Bytes<MAX_UNIT_KEY_BYTES>,
        /// Whether those are to be asked whose Catalogs list them, even where something is known here.
        4 => one ask: bool,
    }
}

record! {
    /// "Do not believe this claim, whoever signed it", or "believe it again".
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Doubt {
        /// The name of the claim.
        1 => one entry: Digest,
        /// What it is about.
        2 => one action: ActionId,
        /// Why it is not to be believed, for people; it is to be believed again when absent.
        3 => opt reason: Text<MAX_REASON_BYTES>,
    }
}

record! {
    /// "Who contradicts himself, and who contradicts whom?"
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub struct Audit {
        /// Only about Projects that this pattern covers.
        1 => opt project: Text<MAX_PATTERN_BYTES>,
    }
}

choice! {
    /// Something that takes long, and of which the daemon tells how far it is.
    #[derive(Debug, Clone, PartialEq, Eq)]
    pub enum Job {
        /// Collection.
        0 => Collect(Collect),
        /// Verification.
        1 => Verify(Verify),
        /// Keeping something.
        2 => Pin(Pin),
        /// No longer keeping it.
        3 => Unpin(Unpin),
        /// What is kept.
        4 => Pins(Pins),
        /// Writing a Tree to a folder.
        5 => Restore(Restore),
        /// Giving Blobs another name.
        6 => Alias(Alias),
        /// Looking for one by that name.
        7 => Find(Find),
        /// Who claims what.
        8 => Claims(Claims),
        /// Not believing a claim, or believing it again.
        9 => Doubt(Doubt),
        /// Who disagrees.
        10 => Audit(Audit),
    }
}
