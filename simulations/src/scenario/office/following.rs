// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out what the catalogs' Plan says: writes own Catalogs as the engine does, pushes their Heads, and takes those
//! of others, of which only what is new is fetched.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use potluck_keys::time::Time;
use potluck_node::announce::plan::{Event as Announce, What};
use potluck_node::catalog::followed::{Listing, NotTaken};
use potluck_node::catalog::own;
use potluck_node::catalog::plan::{Action, Event, Found, Source, Wrote, whom};
use potluck_node::fetch::event::{Event as Fetch, Need};
use potluck_protocol::action::Project;
use potluck_protocol::catalog::{Catalog, Filter, MAX_CATALOG_BYTES, Segment, SegmentRef};
use potluck_protocol::codec;
use potluck_protocol::digest::Digest;
use potluck_protocol::head::Instance;
use potluck_protocol::peer::Topic;

use super::machine::{NETWORK, Own, Taking, Version, peer, topic, topics_of};
use super::{Message, Office};

/// Everybody has one machine.
const INSTANCE: Instance = Instance::from_bytes([1; 16]);
/// How long it takes to write a Catalog, or to merge Segments of one.
const WRITING: Duration = Duration::from_millis(5);
/// How long the parts of a Catalog may take to come.
const BRING_WITHIN: Duration = Duration::from_secs(30);

impl Office {
    pub(super) fn perform_catalogs(&mut self, at: usize, action: Action) {
        let from = self.asker(at);
        match action {
            Action::Flush(project) => self.after(WRITING, from, Message::Flushed(project)),
            Action::Merge(project) => self.after(WRITING, from, Message::Merged(project)),
            Action::Look(topic, source) => self.look(at, topic, source),
            Action::Forget(topic) => unreachable!("nobody gives up {topic:?}"),
        }
    }

    fn look(&mut self, at: usize, topic: Topic, source: Source) {
        let mut asked = BTreeMap::new();
        let delay = match source {
            Source::Disk | Source::Push => Duration::from_millis(1),
            Source::Poll => {
                let (holders, followers) = self.who_has(at, &topic);
                asked = whom(&holders, &followers, self.world.chance().usize(..));
                self.count.pulls += asked.len() as u64;
                Duration::from_millis(self.world.chance().u64(2..=6))
            }
            Source::Dht => {
                self.count.dht_looks += 1;
                self.walk()
            }
        };
        self.after(delay, self.asker(at), Message::Looked { topic, source, asked });
    }

    /// Who is there and holds a topic, and who follows it.
    fn who_has(&self, at: usize, topic: &Topic) -> (Vec<usize>, Vec<usize>) {
        let others = self.others(at);
        let holds = |other: &usize| self.machines[*other].holds.contains(topic);
        let holders = others.iter().copied().filter(holds).collect();
        (holders, others.into_iter().filter(|other| topics_of(*other).contains(topic)).collect())
    }

    /// What a look for news found.
    pub(super) fn looked(
        &mut self,
        at: usize,
        (topic, source): (Topic, Source),
        asked: &BTreeMap<usize, bool>,
    ) {
        let machine = &mut self.machines[at];
        let known = machine.heads.get(&topic).map_or(0, |version| version.sequence);
        let (mut told, mut from) = (true, None);
        let found = match source {
            Source::Disk => machine.heads.get(&topic).copied(),
            Source::Push => machine.pushed.remove(&topic),
            Source::Poll => {
                let head = |(other, holds): (&usize, &bool)| {
                    Some((*self.machines[*other].heads.get(&topic)?, (*other, *holds)))
                };
                // They give what is not older than what they are told.
                let given = asked.iter().filter_map(head).filter(|(version, _)| version.sequence >= known);
                let given: Vec<_> = given.collect();
                told = given.iter().any(|(_, (_, holds))| *holds);
                let newest = given.into_iter().max_by_key(|(version, _)| version.sequence);
                from = newest.map(|(_, (other, _))| other);
                newest.map(|(version, _)| version)
            }
            Source::Dht => self.dht.heads.get(&topic).copied(),
        };
        match found {
            None => self.catalogs(at, Event::Looked { topic, source, found: Found::Nothing }),
            Some(version) if version.sequence < known => {
                self.catalogs(at, Event::Looked { topic, source, found: Found::Failed });
            }
            Some(version) => self.load(at, Taking { topic, source, version, told, from }),
        }
    }

    /// Takes a Catalog as far as it is here, and has the rest brought.
    fn load(&mut self, at: usize, taking: Taking) {
        let Taking { topic, source, version, told, .. } = taking.clone();
        // What those say who only follow is no reason not to look further.
        let well = if told { Found::Well } else { Found::Nothing };
        let listing = self.machines[at].followed.listing(&topic, &INSTANCE);
        if listing.is_some_and(|listing| listing.sequence >= version.sequence) {
            return self.catalogs(at, Event::Looked { topic, source, found: well });
        }
        let known = |digest: &Digest| {
            let listing = listing?;
            let place = listing.catalog.segments.iter().position(|segment| segment.filter == *digest)?;
            listing.filters.get(place).cloned()
        };
        let Some(bytes) = self.part(at, &version.root.digest) else {
            return self.bring(at, taking, vec![version.root]);
        };
        let catalog: Catalog = codec::decode(bytes, MAX_CATALOG_BYTES).expect("it was made by our own code");
        let (mut filters, mut missing) = (Vec::new(), Vec::new());
        for segment in &catalog.segments {
            match (known(&segment.filter), self.part(at, &segment.filter)) {
                (Some(filter), _) => filters.push(filter),
                (None, Some(bytes)) => {
                    filters.push(Arc::new(Filter::decode(bytes).expect("it was made well")));
                }
                (None, None) => missing.push(Need { digest: segment.filter, size: segment.filter_size }),
            }
        }
        if !missing.is_empty() {
            return self.bring(at, taking, missing);
        }
        let Version { sequence, issued, .. } = version;
        let listing = Listing { catalog, filters, sequence, issued, not_after: Time::MAX, source };
        let taken = self.machines[at].followed.take(&topic, INSTANCE, listing);
        assert!(!matches!(taken, Err(NotTaken::Stranger | NotTaken::TooLarge)), "{taken:?}");
        self.machines[at].heads.insert(topic.clone(), version);
        self.fetch(at, Fetch::Moved(topic.clone()));
        self.catalogs(at, Event::Looked { topic, source, found: well });
    }

    fn bring(&mut self, at: usize, taking: Taking, blobs: Vec<Need>) {
        let (bring, topic) = (self.number(), taking.topic.clone());
        if taking.source == Source::Disk {
            let Taking { topic, source, .. } = taking;
            return self.catalogs(at, Event::Looked { topic, source, found: Found::Failed });
        }
        let (holders, followers) = self.who_has(at, &topic);
        let followers = if holders.is_empty() { followers } else { Vec::new() };
        let among = taking.from.into_iter().chain(followers).filter(|other| !holders.contains(other));
        let among = among.map(peer).collect();
        self.machines[at].takings.insert(bring, taking);
        let until = self.moment().plus(BRING_WITHIN);
        self.fetch(at, Fetch::Bring { bring, topic, blobs, among, until });
    }

    pub(super) fn delivered(&mut self, at: usize, bring: u64, all: bool) {
        let Some(taking) = self.machines[at].takings.remove(&bring) else { return };
        if all {
            return self.load(at, taking);
        }
        let Taking { topic, source, .. } = taking;
        self.catalogs(at, Event::Looked { topic, source, found: Found::Failed });
    }

    /// What was published is written into the Catalog.
    pub(super) fn flushed(&mut self, at: usize, project: Project) {
        let own = self.machines[at].own.entry(project.clone()).or_default();
        let (entries, before) = (std::mem::take(&mut own.outbox), own.catalog.clone());
        let entries: Vec<_> = entries.into_iter().collect();
        let parts = &self.parts;
        let load = |reference: &SegmentRef| Segment::decode(parts[&reference.digest].clone());
        let next = own::next(&project, before, &entries, load).expect("its own Segments are whole");
        let merge = own::waits(&next.catalog);
        self.count.flushes += 1;
        self.replace(at, &project, next);
        self.catalogs(at, Event::Flushed { project, wrote: Wrote::All, merge });
    }

    pub(super) fn merged(&mut self, at: usize, project: Project) {
        let catalog = self.machines[at].own.get(&project).and_then(|own| own.catalog.clone());
        let parts = &self.parts;
        let load = |reference: &SegmentRef| Segment::decode(parts[&reference.digest].clone());
        let merge = catalog.map(|catalog| {
            let merge = own::Merge::of(&catalog, load).expect("its own Segments are whole");
            merge.and_then(|merge| merge.adopt(catalog))
        });
        let more = merge.flatten().map(|next| {
            let more = own::waits(&next.catalog);
            self.replace(at, &project, next);
            more
        });
        self.catalogs(at, Event::Merged { project, more: Some(more.unwrap_or(false)) });
    }

    /// The next state of an own Catalog is in place: those who listen are told, and the DHT is.
    fn replace(&mut self, at: usize, project: &Project, next: own::Next) {
        let topic = topic(at, project.clone());
        let sequence = self.machines[at].heads.get(&topic).map_or(1, |version| version.sequence + 1);
        let last = next.blobs.last().expect("the catalog's own encoding is the last blob");
        let root = Need { digest: Digest::of(last), size: last.len() as u64 };
        let version = Version { sequence, root, issued: self.world.now() };
        for blob in next.blobs {
            let digest = Digest::of(&blob);
            self.machines[at].store.insert(digest);
            self.parts.insert(digest, blob);
        }
        let own: &mut Own = self.machines[at].own.entry(project.clone()).or_default();
        own.catalog = Some(next.catalog);
        self.machines[at].heads.insert(topic.clone(), version);
        self.hold(at, &topic);
        for to in self.others(at) {
            if topics_of(to).contains(&topic) {
                self.count.pushes += 1;
                self.send(to, Message::Push { topic: topic.clone(), version, from: at });
            }
        }
        self.announce(at, Announce::Say(NETWORK.to_owned(), What::Heads(topic)));
    }

    pub(super) fn push_came(&mut self, at: usize, (topic, version): (Topic, Version), from: usize) {
        let machine = &mut self.machines[at];
        let newest = machine.heads.get(&topic).into_iter().chain(machine.pushed.get(&topic));
        if newest.map(|known| known.sequence).max().is_some_and(|known| known >= version.sequence) {
            return;
        }
        machine.pushed.insert(topic.clone(), version);
        let peers = vec![peer(from)];
        self.fetch(at, Fetch::Holders { topic: topic.clone(), peers, sought: false });
        self.catalogs(at, Event::Pushed(topic));
    }

    /// Somebody says that it holds a topic.
    pub(super) fn holds(&mut self, at: usize, who: usize, topic: Topic) {
        if topics_of(at).contains(&topic) {
            let peers = vec![peer(who)];
            self.fetch(at, Fetch::Holders { topic: topic.clone(), peers, sought: false });
            self.catalogs(at, Event::Hint(topic));
        }
    }

    /// Entries of a topic are held here from now on: all are told that did not know.
    pub(super) fn hold(&mut self, at: usize, topic: &Topic) {
        if !self.machines[at].holds.insert(topic.clone()) {
            return;
        }
        self.stand(at, topic);
        for to in self.others(at) {
            self.send(to, Message::Holds { who: at, topic: topic.clone() });
        }
    }
}
