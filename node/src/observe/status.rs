// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is going on, as one struct that the command line and later the dashboard show.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::catalog::evidence::Offence;
use crate::catalog::plan::Source;
use crate::engine::count::{Numbers, ProjectRow};
use crate::gc::report::{Cause, End};
use crate::reach::ways::Way;

/// The state of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The daemon's process.
    pub pid: u32,
    /// How long it has been running, in seconds.
    pub up_s: u64,
    /// Where tools that speak HTTP are served.
    pub http: Listening,
    /// Its Networks, by name.
    pub networks: BTreeMap<String, InNetwork>,
    /// Members of Networks that are connected.
    pub peers: Vec<PeerRow>,
    /// The Catalogs that are followed, and the own ones.
    pub catalogs: Vec<CatalogRow>,
    /// Heads that were refused because they go back, contradict what was seen, or have ended.
    pub evidence: Vec<EvidenceRow>,
    /// What is counted since the start.
    #[serde(flatten)]
    pub numbers: Numbers,
    /// What was counted for each Project and Recipe, ever since the index was made.
    pub projects: Vec<ProjectRow>,
    /// How often a signer was seen to give two outputs for one action.
    pub contradictions: u64,
    /// How many claims are not believed because something else came of making it here.
    pub doubted: usize,
    /// The store.
    pub store: StoreRow,
}

/// Where tools that speak HTTP are served.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Listening {
    /// The address, when it could be had.
    pub listen: Option<String>,
    /// Why it could not.
    pub failure: Option<String>,
}

/// A Network that the node is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct InNetwork {
    /// This node's identity there.
    pub peer: String,
    /// Where it listens.
    pub listen: Vec<String>,
    /// Sockets to and from its members that carry Blobs alone.
    pub bulk: usize,
    /// Projects that are shared there.
    pub share: Vec<String>,
}

/// A member that is connected.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct PeerRow {
    /// The Network, by its local name.
    pub network: String,
    /// The peer's identity there.
    pub peer: String,
    /// The address at its end.
    pub address: String,
    /// How it is reached.
    pub path: Path,
    /// How long a message takes there and back, in microseconds, once that was tried.
    pub rtt_us: Option<u64>,
    /// How many bytes of Blobs a second came from it when any came last.
    pub rate: Option<u64>,
    /// By which way they came.
    pub way: Option<Way>,
    /// The topics of which it says that it holds Entries.
    pub holds: Vec<TopicRow>,
}

/// How a peer is reached.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Path {
    /// By a connection of its own.
    Direct,
    /// By way of a third one, which cannot read what it carries.
    Relayed,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct TopicRow {
    /// The owner's name for the signer, or its fingerprint.
    pub signer: String,
    /// The Project.
    pub project: String,
}

/// A Catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CatalogRow {
    /// The owner's name for the signer, or its fingerprint; `me` for the own one.
    pub signer: String,
    /// The Project.
    pub project: String,
    /// How many keys it lists; one that was claimed anew may count twice until its Segments are merged.
    pub keys: u64,
    /// How many own claims it does not list yet, of those that are listed next; none for others'.
    pub unlisted: usize,
    /// How old its newest Head is, in seconds; absent when none was seen yet.
    pub age_s: Option<u64>,
    /// The number of that Head.
    pub sequence: Option<u64>,
    /// How it came; absent for the own one.
    pub source: Option<Source>,
    /// How long ago a look for news last ended well, in seconds.
    pub looked_s: Option<u64>,
    /// Whether that Head has ended: its signer is silent, or is kept from being heard.
    pub frozen: bool,
    /// Whether it is this node's own.
    pub own: bool,
}

/// A Head that was refused, beside the one that was seen before.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct EvidenceRow {
    /// What is wrong with it.
    pub what: Offence,
    /// The owner's name for its signer, or its fingerprint.
    pub signer: String,
    /// The Project.
    pub project: String,
    /// Which of the signer's machines speaks in it.
    pub instance: String,
    /// The number of the one seen before.
    pub have_sequence: Option<u64>,
    /// Where that points.
    pub have_root: Option<String>,
    /// Its own number.
    pub got_sequence: u64,
    /// Where it points.
    pub got_root: String,
    /// Its name: the Digest of what was signed.
    pub head: String,
    /// The peer that offered it; absent when it stood on the DHT or on the disk.
    pub from: Option<String>,
    /// When that was first, in milliseconds since 1970.
    pub at_ms: u64,
    /// How often there was one like it.
    pub times: u64,
}

/// The store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreRow {
    /// Bytes that Blobs take, and parts of Blobs.
    pub bytes: u64,
    /// How many of them those take that have come in part, and can be taken up.
    pub parts: u64,
    /// Bytes that they may take; absent when the disk does not say how large it is and the budget is a share of it.
    pub budget: Option<u64>,
    /// What the last collection did that removed anything or failed, since the start.
    pub collected: Option<CollectedRow>,
}

/// A collection.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CollectedRow {
    /// When it began, in milliseconds since 1970.
    pub at_ms: u64,
    /// Why it was made.
    pub cause: Cause,
    /// Why it ended.
    pub end: End,
    /// What went wrong, if something did.
    pub failure: Option<String>,
    /// Bytes that were freed.
    pub freed: u64,
    /// How many Entries went.
    pub entries: u64,
    /// Bytes that nobody names any more but somebody used just then.
    pub in_use: u64,
}
