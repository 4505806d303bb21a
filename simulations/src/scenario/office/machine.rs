// SPDX-License-Identifier: MIT OR Apache-2.0
//! One machine of the office: its Plans, and what they act upon.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use potluck_keys::pair::Signer;
use potluck_keys::time::Time;
use potluck_node::announce::plan::{Announce, What};
use potluck_node::catalog::followed::Followed;
use potluck_node::catalog::plan::{Catalogs, Source};
use potluck_node::fetch::bits::Bits;
use potluck_node::fetch::event::Need;
use potluck_node::fetch::plan::Fetch;
use potluck_node::peer::Peer;
use potluck_node::plan::{Moment, Plan as _};
use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::catalog::Catalog;
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Topic;

use super::START;
use super::day::{BUILDER, NODES, project, projects_of};

pub(super) const NETWORK: &str = "office";

/// Which Plan.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Which {
    Fetch,
    Catalogs,
    Announce,
}

/// A Catalog as its Head tells of it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Version {
    pub(super) sequence: u64,
    pub(super) root: Need,
    pub(super) issued: Time,
}

/// A Catalog that is being taken.
#[derive(Debug, Clone)]
pub(super) struct Taking {
    pub(super) topic: Topic,
    pub(super) source: Source,
    pub(super) version: Version,
    /// Whether anybody says so who should know.
    pub(super) told: bool,
    /// Who offered it, when asked.
    pub(super) from: Option<usize>,
}

/// What this machine publishes in a Project.
#[derive(Debug, Default)]
pub(super) struct Own {
    pub(super) catalog: Option<Catalog>,
    pub(super) outbox: BTreeMap<ActionId, Digest>,
}

pub(super) struct Machine {
    /// How often it was switched on: what is on its way to an earlier run arrives nowhere.
    pub(super) run: u64,
    pub(super) here: bool,
    pub(super) since: Time,
    pub(super) fetch: Fetch,
    pub(super) catalogs: Catalogs,
    pub(super) announce: Announce,
    /// What is left on its disk, and outlives a run.
    pub(super) entries: BTreeMap<ActionId, BTreeSet<usize>>,
    pub(super) store: BTreeSet<Digest>,
    pub(super) parts: BTreeMap<Digest, Bits>,
    pub(super) heads: BTreeMap<Topic, Version>,
    pub(super) own: BTreeMap<Project, Own>,
    pub(super) stood: BTreeMap<What, Moment>,
    /// What is in its memory.
    pub(super) followed: Followed,
    pub(super) holds: BTreeSet<Topic>,
    pub(super) pushed: BTreeMap<Topic, Version>,
    pub(super) takings: BTreeMap<u64, Taking>,
    pub(super) looks: BTreeMap<u64, (usize, ActionId, bool)>,
    pub(super) todo: VecDeque<(usize, ActionId)>,
    pub(super) busy: usize,
    /// When all that it has to send is sent.
    pub(super) sent_at: Time,
    /// When each of its Plans is to be woken.
    pub(super) wakes: [Option<Moment>; 3],
    /// Requests that announcing took.
    pub(super) requests: u64,
}

pub(super) fn topic(node: usize, project: Project) -> Topic {
    let number = u8::try_from(node).expect("there are few");
    Topic { signer: Signer::from_bytes([number; 32]), project }
}

pub(super) fn signer_of(topic: &Topic) -> usize {
    usize::from(topic.signer.as_bytes()[0])
}

pub(super) fn peer(node: usize) -> Peer {
    Peer::new(NETWORK, &format!("{node}"))
}

pub(super) fn number(peer: &Peer) -> usize {
    peer.id.parse().expect("peers are numbered")
}

/// Whom a machine believes: all who work on the same projects, and the builder nobody.
pub(super) fn topics_of(node: usize) -> BTreeSet<Topic> {
    let projects = if node == BUILDER { Vec::new() } else { projects_of(node) };
    let with = |number: usize| {
        let others = (0..NODES).filter(move |other| *other != node && projects_of(*other).contains(&number));
        others.map(move |other| topic(other, project(number)))
    };
    projects.into_iter().flat_map(with).collect()
}

impl Machine {
    pub(super) fn new() -> Self {
        let (entries, store, parts, heads, own, stood) = Default::default();
        let (followed, holds, pushed, takings, looks, todo) = Default::default();
        Self {
            run: 0,
            here: false,
            since: START,
            fetch: Fetch::default(),
            catalogs: Catalogs::new(0),
            announce: Announce::new(0),
            entries,
            store,
            parts,
            heads,
            own,
            stood,
            followed,
            holds,
            pushed,
            takings,
            looks,
            todo,
            busy: 0,
            sent_at: START,
            wakes: [None; 3],
            requests: 0,
        }
    }

    /// Starts anew, with what is on the disk.
    pub(super) fn start(&mut self, seed: u64, now: Time) {
        (self.run, self.here, self.since) = (self.run + 1, true, now);
        self.fetch = Fetch::new(seed);
        self.catalogs = Catalogs::new(seed);
        self.announce = Announce::new(seed);
        self.followed = Followed::default();
    }

    /// Ends, and forgets all but what is on the disk.
    pub(super) fn stop(&mut self) {
        self.run += 1;
        (self.here, self.busy, self.wakes) = (false, 0, [None; 3]);
        (self.pushed, self.takings, self.looks, self.todo) = Default::default();
    }

    /// Whether the output of an action is here, by a claim that is believed.
    pub(super) fn missing(&self, action: &ActionId, blobs: &[Need]) -> Option<Vec<Need>> {
        self.entries.get(action)?;
        Some(blobs.iter().filter(|need| !self.store.contains(&need.digest)).copied().collect())
    }

    /// How many keys it can answer for.
    pub(super) fn keys(&self) -> u64 {
        let own = self.own.values().filter_map(|own| own.catalog.as_ref());
        let followed: u64 = self.followed.summaries().iter().map(|summary| summary.keys).sum();
        followed + own.map(Catalog::rows).sum::<u64>()
    }

    pub(super) fn wake_of(&self, which: Which) -> Option<Moment> {
        match which {
            Which::Fetch => self.fetch.wake_at(),
            Which::Catalogs => self.catalogs.wake_at(),
            Which::Announce => self.announce.wake_at(),
        }
    }
}
