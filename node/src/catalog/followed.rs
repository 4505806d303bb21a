// SPDX-License-Identifier: MIT OR Apache-2.0
//! The Catalogs of others, as far as they are held in memory: their filters. A key that no filter knows is a miss, and
//! costs no packet.

use std::collections::{BTreeMap, BTreeSet};

use potluck_keys::time::Time;
use potluck_protocol::action::{ActionId, Project};
use potluck_protocol::catalog::{Catalog, Filter};
use potluck_protocol::head::Instance;
use potluck_protocol::peer::Topic;

/// One machine's Catalog of a topic.
#[derive(Debug)]
pub struct Listing {
    /// The Catalog.
    pub catalog: Catalog,
    /// The filter of each of its Segments, in the same order.
    pub filters: Vec<Filter>,
    /// When its Head was made, by its signer's clock.
    pub issued: Time,
    /// Until when it holds.
    pub not_after: Time,
}

/// A topic as it is shown to people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The topic.
    pub topic: Topic,
    /// How many keys its Catalogs list.
    pub keys: u64,
    /// When its newest Head was made; nothing when none is known yet.
    pub issued: Option<Time>,
}

/// All that is followed.
#[derive(Debug, Default)]
pub struct Followed {
    topics: BTreeMap<Topic, BTreeMap<Instance, Listing>>,
}

impl Followed {
    /// Follows exactly these; what is known of others is forgotten.
    pub fn follow(&mut self, topics: &BTreeSet<Topic>) {
        self.topics.retain(|topic, _| topics.contains(topic));
        for topic in topics {
            self.topics.entry(topic.clone()).or_default();
        }
    }

    /// The topics.
    pub fn topics(&self) -> impl Iterator<Item = &Topic> {
        self.topics.keys()
    }

    /// Takes a newer Catalog; gives whether its topic is followed at all.
    pub fn take(&mut self, topic: &Topic, instance: Instance, listing: Listing) -> bool {
        match self.topics.get_mut(topic) {
            Some(listings) => {
                listings.insert(instance, listing);
                true
            }
            None => false,
        }
    }

    /// What is known of one machine's Catalog.
    pub fn listing(&self, topic: &Topic, instance: &Instance) -> Option<&Listing> {
        self.topics.get(topic)?.get(instance)
    }

    /// All Catalogs that are known.
    pub fn listings(&self) -> impl Iterator<Item = &Listing> {
        self.topics.values().flat_map(BTreeMap::values)
    }

    /// Whether anything is known of a topic.
    pub fn knows(&self, topic: &Topic) -> bool {
        self.topics.get(topic).is_some_and(|listings| !listings.is_empty())
    }

    /// The topics of a Project whose Catalogs list an action, or seem to. Catalogs past their time are still looked
    /// at: the claims they lead to are judged by themselves.
    pub fn probe(&self, project: &Project, action: &ActionId) -> Vec<Topic> {
        let lists = |listings: &BTreeMap<Instance, Listing>| {
            listings.values().any(|listing| listing.filters.iter().any(|filter| filter.contains(action)))
        };
        let of_project = self.topics.iter().filter(|(topic, _)| topic.project == *project);
        of_project.filter(|(_, listings)| lists(listings)).map(|(topic, _)| topic.clone()).collect()
    }

    /// Each topic, for people.
    pub fn summaries(&self) -> Vec<Summary> {
        let summary = |(topic, listings): (&Topic, &BTreeMap<Instance, Listing>)| Summary {
            topic: topic.clone(),
            keys: listings.values().map(|listing| listing.catalog.rows()).sum(),
            issued: listings.values().map(|listing| listing.issued).max(),
        };
        self.topics.iter().map(summary).collect()
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
            Listing { catalog, filters: vec![filter], issued: Time::from_millis(1), not_after: Time::MAX }
        };
        let instance = Instance::from_bytes([7; 16]);
        let mut followed = Followed::default();
        assert!(!followed.take(&ann, instance, listing(1)));
        followed.follow(&[ann.clone(), ben.clone(), other.clone()].into());
        assert!(followed.take(&ann, instance, listing(1)) && followed.take(&other, instance, listing(2)));
        assert_eq!(followed.probe(&ann.project, &id(1)), std::slice::from_ref(&ann));
        assert_eq!(followed.probe(&ann.project, &id(2)), []);
        assert_eq!(followed.probe(&other.project, &id(2)), std::slice::from_ref(&other));
        assert!(followed.knows(&ann) && !followed.knows(&ben));
        followed.follow(&[other].into());
        assert_eq!(followed.probe(&ann.project, &id(1)), []);
    }
}
