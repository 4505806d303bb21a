// SPDX-License-Identifier: MIT OR Apache-2.0
//! The search for one action, and what is remembered of searches that came to nothing.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use potluck_protocol::action::ActionId;
use potluck_protocol::control::Miss;
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Topic;

use super::event::{Need, Space};
use super::load::places;
use super::peers::Topics;
use super::transfers::SMALL_ONES;
use crate::peer::Peer;
use crate::plan::Moment;

/// How many Blobs of one search or Bring are in line for a transfer at a time, small ones by the place that they take. An
/// Entry may name very many, and others want to have a turn as well.
pub(super) const WINDOW: usize = 64 * SMALL_ONES;

/// Blobs that somebody waits for.
#[derive(Default)]
pub(super) struct Parts {
    /// Those that are not in line for a transfer yet; the next one is the last.
    left: Vec<Need>,
    /// Those that are.
    needs: BTreeSet<Need>,
    /// The places that those take.
    places: usize,
    /// What came: when that is missing again, something is wrong here and not with the peers.
    came: BTreeSet<Digest>,
    /// What will not come.
    lost: BTreeSet<Digest>,
}

impl Parts {
    /// These are wanted.
    pub(super) fn new(mut blobs: Vec<Need>) -> Self {
        blobs.reverse();
        Self { left: blobs, ..Self::default() }
    }

    /// Starts over with these, and remembers what became of the ones before.
    pub(super) fn renew(&mut self, blobs: Vec<Need>) {
        let Self { left, needs, places, .. } = Self::new(blobs);
        (self.left, self.needs, self.places) = (left, needs, places);
    }

    /// Whether nothing is waited for.
    pub(super) fn is_idle(&self) -> bool {
        self.needs.is_empty() && self.left.is_empty()
    }

    /// Whether any of these came already.
    pub(super) fn came(&self, blobs: &[Need]) -> bool {
        blobs.iter().any(|need| self.came.contains(&need.digest))
    }

    /// Whether any of these will not come.
    pub(super) fn lost(&self, blobs: &[Need]) -> bool {
        blobs.iter().any(|need| self.lost.contains(&need.digest))
    }

    /// The next one to stand in line, if one may.
    pub(super) fn next(&mut self) -> Option<Need> {
        while self.places < WINDOW {
            let need = self.left.pop()?;
            if !self.came.contains(&need.digest) && self.needs.insert(need) {
                self.places += places(&need);
                return Some(need);
            }
        }
        None
    }

    /// Those in line.
    pub(super) fn in_line(&self) -> &BTreeSet<Need> {
        &self.needs
    }

    /// One came; gives whether it was in line.
    pub(super) fn arrive(&mut self, need: &Need) -> bool {
        self.came.insert(need.digest);
        let was = self.needs.remove(need);
        self.places -= if was { places(need) } else { 0 };
        was
    }

    /// One will not come, and the others are of no use without it; gives those that were in line.
    pub(super) fn lose(&mut self, need: &Need) -> BTreeSet<Need> {
        self.lost.insert(need.digest);
        self.left.clear();
        self.places = 0;
        std::mem::take(&mut self.needs)
    }
}

/// A tool that waits for an action.
#[derive(Debug, Clone, Copy)]
pub(super) struct Look {
    pub(super) look: u64,
    pub(super) until: Moment,
}

/// The search for one action.
pub(super) struct Search {
    /// Tells it from another search for the same action, before or after.
    pub(super) id: u64,
    pub(super) space: Space,
    pub(super) topics: Topics,
    pub(super) looks: Vec<Look>,
    pub(super) asked: BTreeSet<Peer>,
    /// How many of those asked are expected to answer.
    pub(super) open: usize,
    /// How many more than usual may be, as some take long.
    pub(super) hedges: usize,
    pub(super) hedge_at: Option<Moment>,
    pub(super) parts: Parts,
    pub(super) reviewing: bool,
    /// How often claims were refused.
    pub(super) refused: usize,
    /// Whether all of them were looked at together since.
    pub(super) reconsidered: bool,
    pub(super) undeliverable: bool,
    /// How long a tool waits for the Blobs, once it is known which.
    pub(super) grant: Option<Duration>,
    pub(super) ends: Moment,
}

impl Search {
    pub(super) fn new(id: u64, space: Space, ends: Moment) -> Self {
        let (topics, looks, asked, parts) = Default::default();
        Self {
            id,
            space,
            topics,
            looks,
            asked,
            open: 0,
            hedges: 0,
            hedge_at: None,
            parts,
            reviewing: false,
            refused: 0,
            reconsidered: false,
            undeliverable: false,
            grant: None,
            ends,
        }
    }

    /// Takes over further topics; gives whether there are any.
    pub(super) fn widen(&mut self, topics: Vec<Topic>) -> bool {
        let before = self.topics.len();
        if topics.iter().any(|topic| !self.topics.contains(topic)) {
            Arc::make_mut(&mut self.topics).extend(topics);
        }
        self.topics.len() > before
    }

    /// Lets whoever waits do so for as long as the Blobs may take, each tool once.
    pub(super) fn grant(&mut self, now: Moment, span: Duration) {
        if self.grant.is_none() {
            self.grant = Some(span);
            for look in &mut self.looks {
                look.until = look.until.max(now.plus(span));
            }
            self.ends = self.ends.max(now.plus(span));
        }
    }

    /// Takes those who have waited long enough.
    pub(super) fn late(&mut self, now: Moment) -> Vec<Look> {
        self.looks.extract_if(.., |look| look.until <= now).collect()
    }

    /// When to look at it again.
    pub(super) fn wake_at(&self) -> Moment {
        let first = self.looks.iter().map(|look| look.until).min();
        // Who is late is worked around only as long as somebody waits.
        first.map_or(self.ends, |first| self.hedge_at.map_or(first, |hedge| hedge.min(first)))
    }

    /// Why it comes to nothing, if it does.
    pub(super) fn miss(&self) -> Miss {
        match (self.undeliverable, self.refused > 0) {
            (true, _) => Miss::Undeliverable,
            (false, true) => Miss::Refused,
            (false, false) => Miss::Unclaimed,
        }
    }
}

/// For what there was nothing a moment ago, and why.
#[derive(Default)]
pub(super) struct Nothing {
    known: BTreeMap<ActionId, (Moment, Miss, Topics)>,
    /// The same, the oldest first.
    order: VecDeque<(Moment, ActionId)>,
}

impl Nothing {
    /// Most that are remembered.
    pub(super) const MAX: usize = 8192;

    /// Why there was nothing a moment ago, if all of these topics were looked at then.
    pub(super) fn of(&self, now: Moment, action: &ActionId, topics: &[Topic]) -> Option<Miss> {
        let (until, miss, looked) = self.known.get(action)?;
        (*until > now && topics.iter().all(|topic| looked.contains(topic))).then_some(*miss)
    }

    /// Nobody who holds these topics has it.
    pub(super) fn note(
        &mut self,
        now: Moment,
        (action, topics): (ActionId, Topics),
        (until, miss): (Moment, Miss),
    ) {
        while let Some((ends, oldest)) = self.order.front().copied()
            && (ends <= now || self.order.len() >= Self::MAX)
        {
            self.order.pop_front();
            if self.known.get(&oldest).is_some_and(|(until, ..)| *until == ends) {
                self.known.remove(&oldest);
            }
        }
        self.known.insert(action, (until, miss, topics));
        self.order.push_back((until, action));
    }

    /// There is news of a topic: whatever nobody had of it may be there now.
    pub(super) fn forget(&mut self, topic: &Topic) {
        self.known.retain(|_, (_, _, topics)| !topics.contains(topic));
        let known = &self.known;
        self.order.retain(|(ends, action)| known.get(action).is_some_and(|(until, ..)| until == ends));
    }

    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        assert!(self.known.len() <= self.order.len());
        self.order.len()
    }
}
