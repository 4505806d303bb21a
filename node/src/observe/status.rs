// SPDX-License-Identifier: MIT OR Apache-2.0
//! What is going on, as one struct that the command line and later the dashboard show.

use std::collections::BTreeMap;

use serde::Serialize;

use crate::engine::count::{Numbers, ProjectRow};
use crate::gc::report::{Cause, End};

/// The state of a node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The daemon's process.
    pub pid: u32,
    /// How long it has been running, in seconds.
    pub up_s: u64,
    /// Its Networks, by name.
    pub networks: BTreeMap<String, InNetwork>,
    /// Members of Networks that are connected.
    pub peers: Vec<String>,
    /// The Catalogs that are followed, and the own ones.
    pub catalogs: Vec<CatalogRow>,
    /// What is counted since the start.
    #[serde(flatten)]
    pub numbers: Numbers,
    /// What was counted for each Project and Recipe, ever since the index was made.
    pub projects: Vec<ProjectRow>,
    /// How often a signer was seen to give two outputs for one action.
    pub contradictions: u64,
    /// The store.
    pub store: StoreRow,
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

/// A Catalog.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CatalogRow {
    /// The owner's name for the signer, or its fingerprint; `me` for the own one.
    pub signer: String,
    /// The Project.
    pub project: String,
    /// How many keys it lists.
    pub keys: u64,
    /// How old its newest Head is, in seconds; absent when none was seen yet.
    pub age_s: Option<u64>,
    /// Whether it is this node's own.
    pub own: bool,
}

/// The store.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct StoreRow {
    /// Bytes that Blobs take.
    pub bytes: u64,
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
