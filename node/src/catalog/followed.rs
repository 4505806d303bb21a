// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Catalogs of others, as far as they are held in memory: their filters. A key that no filter knows is a miss, and
//! costs no packet.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use potluck_keys::pair::Signer;
use potluck_keys::time::Time;
use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::catalog::{Catalog, Filter};
use potluck_protocol::head::{Instance, MAX_INSTANCES};
use potluck_protocol::peer::Topic;

use super::plan::Source;

/// Most bytes of filters that are held in memory, of all Catalogs together: some fifty million keys.
pub const MAX_HELD_BYTES: u64 = 128 << 20;

/// One machine's Catalog of a topic.
#[derive(Debug)]
pub struct Listing {
    /// The Catalog.
    pub catalog: Catalog,
    /// The filter of each of its Segments, in the same order.
    pub filters: Vec<Arc<Filter>>,
    /// The number of its Head.
    pub sequence: u64,
    /// When its Head was made, by its signer's clock.
    pub issued: Time,
    /// Until when it holds.
    pub not_after: Time,
    /// How it came.
    pub source: Source,
}

impl Listing {
    /// Bytes that its filters take.
    fn held(&self) -> u64 {
        self.catalog.segments.iter().map(|segment| segment.filter_size).sum()
    }
}

/// A topic as it is shown to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The topic.
    pub topic: Topic,
    /// How many keys its Catalogs list.
    pub keys: u64,
    /// What is known of the machine that was heard of last; nothing when none was.
    pub newest: Option<Freshness>,
    /// When a look for news last ended well.
    pub looked: Option<Time>,
}

/// How fresh a Catalog is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Freshness {
    /// When its Head was made, by its signer's clock.
    pub issued: Time,
    /// Until when it holds.
    pub not_after: Time,
    /// The number of its Head.
    pub sequence: u64,
    /// How it came.
    pub source: Source,
}

/// Why a Catalog was not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NotTaken {
    /// Its topic is not followed, or not any more.
    Stranger,
    /// A newer one of the same machine is known.
    Older,
    /// There is no room for its filters.
    TooLarge,
}

/// What is known of one topic.
#[derive(Debug, Default)]
struct Known {
    listings: BTreeMap<Instance, Listing>,
    looked: Option<Time>,
}

/// All that is followed.
#[derive(Debug, Default)]
pub struct Followed {
    topics: BTreeMap<Project, BTreeMap<Signer, Known>>,
    held: u64,
}

impl Followed {
    /// Follows exactly these; what is known of others is forgotten.
    pub fn follow(&mut self, topics: &BTreeSet<Topic>) {
        for (project, signers) in &mut self.topics {
            signers.retain(|signer, _| topics.contains(&Topic { signer: *signer, project: project.clone() }));
        }
        self.topics.retain(|_, signers| !signers.is_empty());
        for Topic { signer, project } in topics {
            self.topics.entry(project.clone()).or_default().entry(*signer).or_default();
        }
        self.held = self.listings().map(Listing::held).sum();
    }

    /// The topics.
    pub fn topics(&self) -> impl Iterator<Item = Topic> {
        self.all().map(|(signer, project, _)| Topic { signer: *signer, project: project.clone() })
    }

    /// The Projects in which somebody is followed.
    pub fn projects(&self) -> impl Iterator<Item = &Project> {
        self.topics.keys()
    }

    /// How many topics are followed in a Project.
    pub fn count(&self, project: &Project) -> usize {
        self.topics.get(project).map_or(0, BTreeMap::len)
    }

    fn all(&self) -> impl Iterator<Item = (&Signer, &Project, &Known)> {
        let of_project = |(project, signers)| {
            let signers: &BTreeMap<Signer, Known> = signers;
            signers.iter().map(move |(signer, known)| (signer, project, known))
        };
        self.topics.iter().flat_map(of_project)
    }

    fn known(&self, topic: &Topic) -> Option<&Known> {
        self.topics.get(&topic.project)?.get(&topic.signer)
    }

    fn known_mut(&mut self, topic: &Topic) -> Option<&mut Known> {
        self.topics.get_mut(&topic.project)?.get_mut(&topic.signer)
    }

    /// Takes a newer Catalog. When a topic has too many machines, the one whose Head ends first is forgotten.
    ///
    /// # Errors
    /// [`NotTaken`].
    pub fn take(&mut self, topic: &Topic, instance: Instance, listing: Listing) -> Result<(), NotTaken> {
        let held = self.held;
        let known = self.known_mut(topic).ok_or(NotTaken::Stranger)?;
        let before = known.listings.get(&instance);
        // Two looks may end in another order than they found what they found.
        if before.is_some_and(|before| before.sequence > listing.sequence) {
            return Err(NotTaken::Older);
        }
        let mut held = held - before.map_or(0, Listing::held) + listing.held();
        if held > MAX_HELD_BYTES {
            return Err(NotTaken::TooLarge);
        }
        if before.is_none() && known.listings.len() >= MAX_INSTANCES {
            let first = known.listings.iter().min_by_key(|(_, listing)| listing.not_after);
            if let Some(first) = first.map(|(instance, _)| *instance) {
                held -= known.listings.remove(&first).map_or(0, |listing| listing.held());
            }
        }
        known.listings.insert(instance, listing);
        self.held = held;
        Ok(())
    }

    /// A look for news of a topic ended well.
    pub fn looked(&mut self, topic: &Topic, now: Time) {
        if let Some(known) = self.known_mut(topic) {
            known.looked = Some(now);
        }
    }

    /// What is known of one machine's Catalog.
    pub fn listing(&self, topic: &Topic, instance: &Instance) -> Option<&Listing> {
        self.known(topic)?.listings.get(instance)
    }

    /// All Catalogs that are known.
    pub fn listings(&self) -> impl Iterator<Item = &Listing> {
        self.all().flat_map(|(_, _, known)| known.listings.values())
    }

    /// Whether anything is known of a topic.
    pub fn knows(&self, topic: &Topic) -> bool {
        self.known(topic).is_some_and(|known| !known.listings.is_empty())
    }

    /// Whether a machine of a signer seems to be no more: nothing of it is known that holds at `now`, and something of
    /// another one is.
    pub fn is_over(&self, topic: &Topic, machine: &Instance, now: Time) -> bool {
        let Some(known) = self.known(topic) else { return false };
        let mut living = known.listings.iter().filter(|(_, listing)| listing.not_after > now).peekable();
        living.peek().is_some() && !living.any(|(instance, _)| instance == machine)
    }

    /// Bytes of filters that are held in memory.
    pub fn held(&self) -> u64 {
        self.held
    }

    /// The topics of a Project whose Catalogs list an action, or seem to. Catalogs past their time are still looked
    /// at: the claims they lead to are judged by themselves.
    pub fn probe(&self, project: &Project, action: &ActionId) -> Vec<Topic> {
        let lists = |known: &Known| {
            let mut filters = known.listings.values().flat_map(|listing| &listing.filters);
            filters.any(|filter| filter.contains(action))
        };
        let signers = self.topics.get(project).into_iter().flatten();
        let listed = signers.filter(|(_, known)| lists(known));
        listed.map(|(signer, _)| Topic { signer: *signer, project: project.clone() }).collect()
    }

    /// Each topic, for people.
    pub fn summaries(&self) -> Vec<Summary> {
        let fresh = |listing: &Listing| {
            let Listing { issued, not_after, sequence, source, .. } = *listing;
            Freshness { issued, not_after, sequence, source }
        };
        let summary = |(signer, project, known): (&Signer, &Project, &Known)| Summary {
            topic: Topic { signer: *signer, project: project.clone() },
            keys: known.listings.values().map(|listing| listing.catalog.rows()).sum(),
            newest: known.listings.values().max_by_key(|listing| listing.issued).map(fresh),
            looked: known.looked,
        };
        self.all().map(summary).collect()
    }
}

#[cfg(test)]
mod tests {
    use potluck_keys::pair::Signer;
    use potluck_protocol::catalog::SegmentRef;
    use potluck_protocol::catalog::{Row, RowKind, Segment};
    use potluck_protocol::digest::Digest;

    use super::*;

    #[test]
    fn only_what_is_followed_is_probed() {
        let topic = |number, name: &str| Topic {
            signer: Signer::from_bytes([number; 32]),
            project: Project::new(name).unwrap(),
        };
        let (ann, ben, other) = (topic(1, "p"), topic(2, "p"), topic(1, "q"));
        let id = |number| ActionId::from_bytes(*Digest::of(&[number]).as_bytes());
        let listing = |number| {
            let row = Row { action: id(number), claim: Digest::of(b""), kind: RowKind::Entry };
            let segment = Segment::new(vec![row]).unwrap();
            let filter = segment.filter().unwrap();
            let catalog = Catalog {
                project: ann.project.clone(),
                segments: vec![SegmentRef::of(&segment, &filter, 0)],
            };
            let (sequence, issued, not_after) = (5, Time::from_millis(1), Time::MAX);
            let (filters, source) = (vec![Arc::new(filter)], Source::Push);
            Listing { catalog, filters, sequence, issued, not_after, source }
        };
        let instance = Instance::from_bytes([7; 16]);
        let mut followed = Followed::default();
        assert_eq!(followed.take(&ann, instance, listing(1)), Err(NotTaken::Stranger));
        followed.follow(&[ann.clone(), ben.clone(), other.clone()].into());
        followed.take(&ann, instance, listing(1)).unwrap();
        followed.take(&other, instance, listing(2)).unwrap();
        assert_eq!(followed.probe(&ann.project, &id(1)), std::slice::from_ref(&ann));
        assert_eq!(followed.probe(&ann.project, &id(2)), []);
        assert_eq!(followed.probe(&other.project, &id(2)), std::slice::from_ref(&other));
        assert!(followed.knows(&ann) && !followed.knows(&ben));
        followed.follow(&[other].into());
        assert_eq!(followed.probe(&ann.project, &id(1)), []);
    }

    #[test]
    fn neither_old_catalogs_nor_many_machines_nor_huge_ones_are_held() {
        let topic = Topic { signer: Signer::from_bytes([1; 32]), project: Project::default() };
        let listing = |sequence: u64, filter_size: u64, not_after: u64| {
            let digest = Digest::of(&sequence.to_le_bytes());
            let segment = SegmentRef { digest, size: 100, rows: 1, filter: digest, filter_size, tier: 0 };
            let catalog = Catalog { project: Project::default(), segments: vec![segment] };
            let (issued, not_after) = (Time::from_millis(sequence), Time::from_millis(not_after));
            Listing { catalog, filters: Vec::new(), sequence, issued, not_after, source: Source::Poll }
        };
        let machine = |number: u8| Instance::from_bytes([number; 16]);
        let mut followed = Followed::default();
        followed.follow(&[topic.clone()].into());
        followed.take(&topic, machine(0), listing(5, 100, 9)).unwrap();
        assert_eq!(followed.take(&topic, machine(0), listing(4, 100, 9)), Err(NotTaken::Older));
        let huge = listing(6, MAX_HELD_BYTES + 1, 9);
        assert_eq!(followed.take(&topic, machine(0), huge), Err(NotTaken::TooLarge));
        followed.take(&topic, machine(0), listing(6, MAX_HELD_BYTES, 9)).unwrap();
        assert_eq!(followed.take(&topic, machine(1), listing(1, 1, 9)), Err(NotTaken::TooLarge));
        followed.take(&topic, machine(0), listing(7, 50, 9)).unwrap();
        for number in (1..).take(MAX_INSTANCES) {
            followed.take(&topic, machine(number), listing(1, 10, 10 + u64::from(number))).unwrap();
        }
        assert!(followed.listing(&topic, &machine(0)).is_none(), "it ended first");
        let over = |number, now| followed.is_over(&topic, &machine(number), Time::from_millis(now));
        assert!(over(1, 11) && over(0, 11) && !over(2, 11), "the first ends at 11");
        assert!(!over(1, 1000), "nothing of any holds");
        assert_eq!(followed.listings().count(), MAX_INSTANCES);
        assert_eq!(followed.held(), 10 * MAX_INSTANCES as u64);
        followed.looked(&topic, Time::from_millis(77));
        assert_eq!(followed.summaries()[0].looked, Some(Time::from_millis(77)));
        followed.follow(&BTreeSet::new());
        assert_eq!((followed.held(), followed.topics().count()), (0, 0));
    }
}
