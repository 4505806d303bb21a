// SPDX-License-Identifier: MIT OR Apache-2.0
//! What can happen to a collection, and what can be done about it.

use potluck_keys::time::Time;
use potluck_protocol::digest::Digest;

use super::plan::{Row, Wish};
use super::report::Report;
use crate::index::EntryName;

/// Some of the Blobs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shelf {
    /// Those that are files, and whose Digests begin with this byte.
    Files(u8),
    /// Small ones after this one, or from the first one on.
    Small(Option<Digest>),
}

/// The room there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Room {
    /// Bytes that Blobs take, and parts of Blobs.
    pub used: u64,
    /// How many of them those parts take.
    pub parts: u64,
    /// Bytes that they may take.
    pub budget: u64,
    /// Bytes that are left on the disk.
    pub free: u64,
    /// Bytes that should be left there.
    pub floor: u64,
}

/// What can happen.
#[derive(Debug)]
pub enum Event {
    /// Somebody asks for room; the report goes to this number.
    Ask(u64, Wish),
    /// The room there is.
    Room(Room),
    /// Parts of Blobs were removed, or would be.
    Parts {
        /// Bytes that they took.
        freed: u64,
        /// Bytes of those that are left.
        left: u64,
    },
    /// What is wanted beside what Entries name, at the beginning of a round.
    Roots {
        /// The present.
        now: Time,
        /// Blobs.
        blobs: Vec<Digest>,
        /// Trees, whose files are wanted as well.
        trees: Vec<Digest>,
        /// About how many Blobs there are.
        about: u64,
        /// Any number, another one each time.
        seed: u64,
    },
    /// Some Entries.
    Page {
        /// They.
        rows: Vec<Row>,
        /// Whether there are no more.
        last: bool,
    },
    /// Entries were removed, but not these, which had come to be used.
    Doomed(Vec<EntryName>),
    /// Trees were read.
    Read {
        /// What they list.
        files: Vec<Digest>,
        /// Those that there was no time for.
        unread: Vec<Digest>,
    },
    /// What lies on a shelf.
    Listed {
        /// Each with the bytes that it takes.
        blobs: Vec<(Digest, u64)>,
        /// The next shelf, if there is one.
        next: Option<Shelf>,
    },
    /// Blobs were removed, or would be.
    Removed {
        /// Bytes that they took.
        freed: u64,
        /// Bytes of those that somebody uses.
        held: u64,
        /// Whether so much is in use that nobody knows what.
        crowded: bool,
    },
    /// What was to be done could not be done.
    Failed(String),
}

/// What can be done. Each but the last two is answered by one event before the next.
#[derive(Debug, PartialEq, Eq)]
pub enum Action {
    /// Find out how much room there is.
    Look,
    /// Remove parts of Blobs that are not whole yet and that nobody is busy with, the oldest first, until so many bytes
    /// are free: nobody can use them now, and what came of them can come again.
    Parts {
        /// How many.
        bytes: u64,
        /// Whether nothing is to be removed.
        dry: bool,
    },
    /// A round begins, unless that fails: nothing that comes to be used from here on may be removed. Gather what is
    /// wanted.
    Begin,
    /// Read the Entries after this one.
    Page(Option<EntryName>),
    /// Remove these Entries for good, but with `spare` not those that were used since the round began.
    Doom {
        /// They.
        names: Vec<EntryName>,
        /// Whether use saves them.
        spare: bool,
    },
    /// Read these Trees.
    Read(Vec<Digest>),
    /// See what lies on a shelf.
    List(Shelf),
    /// Remove these Blobs unless they are in use; with `dry`, only say what that would free.
    Remove {
        /// Each with the bytes that it takes.
        blobs: Vec<(Digest, u64)>,
        /// Whether nothing is to be removed.
        dry: bool,
    },
    /// The round that began is over.
    End,
    /// This came of it; with a number, for whoever asked.
    Report(Option<u64>, Box<Report>),
}
