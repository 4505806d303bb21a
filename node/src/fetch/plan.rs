// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whom to ask for an action, whom to fetch Blobs from, and when to give up.
//!
//! A tool asks about actions that some followed Catalog lists; there is no other way to get here, so every question
//! that leaves has a good chance. Two holders are asked at once: the one that answers first with something acceptable
//! wins, a slow or silent one delays nobody, and claims of several signers meet. Several tools that look for one action
//! share one search, and several searches that need one Blob share one transfer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::time::Duration;

use potluck_protocol::action::ActionId;
use potluck_protocol::control::Miss;
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::{MAX_ACTIONS, Topic};

use super::event::{Action, Brought, Event, Need, Space, Verdict};
use super::standing::Standing;
use crate::peer::Peer;
use crate::plan::{Moment, Plan};

/// How many holders are asked about one action at the same time.
pub const ASK_WIDTH: usize = 2;
/// Most transfers at a time, from all peers and from one.
pub const MAX_TRANSFERS: usize = 16;
/// Most transfers at a time from one peer: they share one stream.
pub const MAX_TRANSFERS_PER_PEER: usize = 4;
/// Least time that is granted to the transfers of an Entry, however cheap it was to make.
pub const MIN_TRANSFER: Duration = Duration::from_secs(2);
/// A search that nobody waits for any more goes on so long, for the next who asks.
pub const AFTERLIFE: Duration = Duration::from_secs(30);
/// How long it is remembered that nobody had an answer.
pub const NOTHING_FOR: Duration = Duration::from_secs(5);
/// How long the DHT is not asked again for the holders of a topic.
pub const FIND_AGAIN: Duration = Duration::from_secs(5);
/// Most searches at a time; a further one is a miss.
pub const MAX_SEARCHES: usize = 8192;
/// Most holders that are remembered of one topic.
pub const MAX_HOLDERS: usize = 64;

/// Who needs a Blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum For {
    Action(ActionId),
    Bring(u64),
}

/// The search for one action.
struct Search {
    space: Space,
    topics: BTreeSet<Topic>,
    /// Tools that wait, and until when.
    looks: Vec<(u64, Moment)>,
    asked: BTreeSet<Peer>,
    open: usize,
    needs: BTreeSet<Digest>,
    /// What came for it: when that is missing again, something is wrong here and not with the peers.
    came: BTreeSet<Digest>,
    reviewing: bool,
    refused: bool,
    undeliverable: bool,
    ends: Moment,
}

/// Blobs that are wanted for themselves.
struct Bring {
    needs: BTreeSet<Digest>,
    until: Moment,
}

/// The transfer of one Blob, under way or waiting for its turn.
struct Transfer {
    size: u64,
    topics: BTreeSet<Topic>,
    tried: BTreeSet<Peer>,
    /// Its number and its source, while it runs.
    running: Option<(u64, Peer)>,
    wanted: BTreeSet<For>,
}

/// The Plan.
#[derive(Default)]
pub struct Fetch {
    searches: BTreeMap<ActionId, Search>,
    brings: BTreeMap<u64, Bring>,
    transfers: BTreeMap<Digest, Transfer>,
    running: BTreeMap<u64, Digest>,
    to_ask: BTreeMap<(Peer, Space), Vec<ActionId>>,
    questions: BTreeMap<u64, (Peer, Vec<ActionId>)>,
    holders: BTreeMap<Topic, BTreeSet<Peer>>,
    /// When the DHT was last asked for a topic's holders, plus the time until it may be again.
    sought: BTreeMap<Topic, Moment>,
    /// Topics for which it is being asked.
    finding: BTreeSet<Topic>,
    nothing: BTreeMap<ActionId, Moment>,
    standing: Standing,
    actions: VecDeque<Action>,
    next: u64,
}

impl Fetch {
    /// Nobody known, nothing wanted.
    pub fn new() -> Self {
        Self::default()
    }

    /// What is remembered about peers.
    pub fn standing(&self) -> &Standing {
        &self.standing
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A tool waits for an action, whether or not it is being looked for already.
    fn look(&mut self, now: Moment, wait: Wait, space: &Space) {
        let Wait { look, action, topics, until } = wait;
        let miss = |miss| Action::Settle { look, action, miss: Some(miss) };
        if self.nothing.get(&action).is_some_and(|until| *until > now) {
            return self.actions.push_back(miss(Miss::Unclaimed));
        }
        if !self.searches.contains_key(&action) && self.searches.len() >= MAX_SEARCHES {
            return self.actions.push_back(miss(Miss::Late));
        }
        let search = self.searches.entry(action).or_insert_with(|| Search::new(space.clone(), until));
        search.topics.extend(topics);
        search.looks.push((look, until));
        search.ends = search.ends.max(until.plus(AFTERLIFE));
        self.advance(now, action);
    }

    /// Asks whoever should be asked next about an action, and ends the search when nobody is left.
    fn advance(&mut self, now: Moment, action: ActionId) {
        let Some(search) = self.searches.get(&action) else { return };
        if search.reviewing || !search.needs.is_empty() {
            return;
        }
        let topics = search.topics.clone();
        let known: BTreeSet<_> =
            topics.iter().filter_map(|topic| self.holders.get(topic)).flatten().cloned().collect();
        let fresh = known.iter().filter(|peer| !search.asked.contains(*peer)).cloned();
        let fresh = self.standing.rank(fresh);
        let room = ASK_WIDTH.saturating_sub(search.open);
        let search = self.searches.get_mut(&action).expect("it was there a moment ago");
        for peer in fresh.into_iter().take(room) {
            search.asked.insert(peer.clone());
            search.open += 1;
            self.to_ask.entry((peer, search.space.clone())).or_default().push(action);
        }
        if search.open > 0 {
            return;
        }
        let finding = topics.iter().any(|topic| self.find(now, topic));
        // Who is found later is asked later, as long as a tool waits.
        if !finding || !known.is_empty() {
            self.fail(now, action);
        }
    }

    /// Has the DHT asked for the holders of a topic, unless that was done a moment ago; gives whether news may come.
    fn find(&mut self, now: Moment, topic: &Topic) -> bool {
        match self.sought.get(topic) {
            Some(again) if *again > now => self.finding.contains(topic),
            _ => {
                self.sought.insert(topic.clone(), now.plus(FIND_AGAIN));
                self.finding.insert(topic.clone());
                self.actions.push_back(Action::Find(topic.clone()));
                true
            }
        }
    }

    /// Nobody can give this action: all who wait are told.
    fn fail(&mut self, now: Moment, action: ActionId) {
        let Some(search) = self.searches.remove(&action) else { return };
        let miss = match (search.undeliverable, search.refused) {
            (true, _) => Miss::Undeliverable,
            (false, true) => Miss::Refused,
            (false, false) => Miss::Unclaimed,
        };
        if self.nothing.len() < MAX_SEARCHES {
            self.nothing.insert(action, now.plus(NOTHING_FOR));
        }
        self.settle(action, &search, Some(miss));
    }

    fn settle(&mut self, action: ActionId, search: &Search, miss: Option<Miss>) {
        let settle = |(look, _): &(u64, Moment)| Action::Settle { look: *look, action, miss };
        self.actions.extend(search.looks.iter().map(settle));
        self.unwant(For::Action(action));
    }

    /// What is now known about an action.
    fn judged(&mut self, now: Moment, action: ActionId, verdict: Verdict) {
        let Some(search) = self.searches.get_mut(&action) else { return };
        match verdict {
            Verdict::Here => {
                let search = self.searches.remove(&action).expect("it was there a moment ago");
                self.settle(action, &search, None);
            }
            // What is already being fetched goes on.
            Verdict::Needs { .. } if !search.needs.is_empty() => {}
            Verdict::Needs { blobs, .. } if blobs.iter().any(|need| search.came.contains(&need.digest)) => {
                search.undeliverable = true;
                self.fail(now, action);
            }
            Verdict::Needs { blobs, cost } => {
                // Fetching may take as long as building would: the tool loses nothing by waiting.
                let until = now.plus(cost.max(MIN_TRANSFER));
                for (_, waits) in &mut search.looks {
                    *waits = (*waits).max(until);
                }
                search.ends = search.ends.max(until);
                search.needs = blobs.iter().map(|need| need.digest).collect();
                let topics = search.topics.clone();
                for need in blobs {
                    self.want(need, &topics, For::Action(action));
                }
            }
            Verdict::Refused => search.refused = true,
            Verdict::Nothing => {}
        }
    }

    fn want(&mut self, need: Need, topics: &BTreeSet<Topic>, wanted: For) {
        let transfer = self.transfers.entry(need.digest).or_insert_with(|| Transfer::new(need.size));
        transfer.topics.extend(topics.iter().cloned());
        transfer.wanted.insert(wanted);
    }

    /// Somebody no longer needs anything. A transfer that runs is let run: it is paid for already.
    fn unwant(&mut self, wanted: For) {
        self.transfers.retain(|_, transfer| {
            transfer.wanted.remove(&wanted);
            !transfer.wanted.is_empty() || transfer.running.is_some()
        });
    }

    /// Starts transfers while there is room, and gives up those that nobody can make.
    fn start(&mut self, now: Moment) {
        let mut hopeless = Vec::new();
        let waiting: Vec<_> = self
            .transfers
            .iter()
            .filter(|(_, transfer)| transfer.running.is_none())
            .map(|(digest, _)| *digest)
            .collect();
        for digest in waiting {
            if self.running.len() >= MAX_TRANSFERS {
                break;
            }
            let transfer = &self.transfers[&digest];
            let holders = transfer.topics.iter().filter_map(|topic| self.holders.get(topic)).flatten();
            let left: BTreeSet<_> = holders.filter(|peer| !transfer.tried.contains(*peer)).cloned().collect();
            let ranked = self.standing.rank(left);
            if ranked.is_empty() {
                hopeless.push(digest);
                continue;
            }
            let busy = |peer: &Peer| self.running_from(peer) >= MAX_TRANSFERS_PER_PEER;
            let Some(peer) = ranked.into_iter().find(|peer| !busy(peer)) else { continue };
            let transfer = self.number();
            let entry = self.transfers.get_mut(&digest).expect("it was there a moment ago");
            entry.running = Some((transfer, peer.clone()));
            self.running.insert(transfer, digest);
            let need = Need { digest, size: entry.size };
            self.actions.push_back(Action::Fetch { transfer, peer, need });
        }
        for digest in hopeless {
            let topics = self.transfers[&digest].topics.clone();
            // Somebody new may have it. A tool that waits is told at its deadline at the latest.
            let finding = topics.iter().any(|topic| self.find(now, topic));
            if !finding || !self.transfers[&digest].tried.is_empty() {
                self.undeliverable(now, digest);
            }
        }
    }

    fn running_from(&self, peer: &Peer) -> usize {
        let from = |digest: &Digest| self.transfers.get(digest)?.running.as_ref().map(|(_, peer)| peer);
        self.running.values().filter(|digest| from(digest) == Some(peer)).count()
    }

    /// A Blob will not come: whoever needs it does without.
    fn undeliverable(&mut self, now: Moment, digest: Digest) {
        let Some(transfer) = self.transfers.remove(&digest) else { return };
        for wanted in transfer.wanted {
            match wanted {
                For::Action(action) => {
                    if let Some(search) = self.searches.get_mut(&action) {
                        search.undeliverable = true;
                        self.fail(now, action);
                    }
                }
                For::Bring(bring) => self.delivered(bring, false),
            }
        }
    }

    fn delivered(&mut self, bring: u64, all: bool) {
        if self.brings.remove(&bring).is_some() {
            self.actions.push_back(Action::Delivered { bring, all });
            self.unwant(For::Bring(bring));
        }
    }

    /// A transfer ended.
    fn brought(&mut self, now: Moment, number: u64, outcome: Brought) {
        let Some(digest) = self.running.remove(&number) else { return };
        let Some(transfer) = self.transfers.get_mut(&digest) else { return };
        let Some((_, peer)) = transfer.running.take() else { return };
        transfer.tried.insert(peer.clone());
        match outcome {
            Brought::Done => {
                self.standing.good(&peer);
                self.here(digest);
                return;
            }
            Brought::Failed => self.standing.failed(&peer),
            Brought::Bad => {
                if self.standing.bad(&peer) {
                    self.actions.push_back(Action::Drop(peer));
                }
            }
            Brought::NoRoom => return self.undeliverable(now, digest),
        }
        if self.transfers[&digest].wanted.is_empty() {
            self.transfers.remove(&digest);
        }
    }

    /// A Blob is here.
    fn here(&mut self, digest: Digest) {
        let Some(transfer) = self.transfers.remove(&digest) else { return };
        for wanted in transfer.wanted {
            match wanted {
                For::Action(action) => {
                    let Some(search) = self.searches.get_mut(&action) else { continue };
                    search.needs.remove(&digest);
                    search.came.insert(digest);
                    if search.needs.is_empty() {
                        search.reviewing = true;
                        self.actions.push_back(Action::Review(search.space.clone(), action));
                    }
                }
                For::Bring(bring) => {
                    let Some(found) = self.brings.get_mut(&bring) else { continue };
                    found.needs.remove(&digest);
                    if found.needs.is_empty() {
                        self.delivered(bring, true);
                    }
                }
            }
        }
    }

    /// Tells those whose time has come, and drops what nobody waited for long enough.
    fn expire(&mut self, now: Moment) {
        for (action, search) in &mut self.searches {
            let (late, waiting) = search.looks.iter().partition(|(_, until)| *until <= now);
            search.looks = waiting;
            let late: Vec<(u64, Moment)> = late;
            let settle = |(look, _)| Action::Settle { look, action: *action, miss: Some(Miss::Late) };
            self.actions.extend(late.into_iter().map(settle));
        }
        let over = |search: &Search| search.looks.is_empty() && search.ends <= now;
        let ended: Vec<_> =
            self.searches.iter().filter(|(_, search)| over(search)).map(|(id, _)| *id).collect();
        for action in ended {
            self.searches.remove(&action);
            self.unwant(For::Action(action));
        }
        let late: Vec<_> =
            self.brings.iter().filter(|(_, bring)| bring.until <= now).map(|(id, _)| *id).collect();
        for bring in late {
            self.delivered(bring, false);
        }
        self.nothing.retain(|_, until| *until > now);
    }

    /// One question of those that are to be asked: what there is for one peer in one Project goes together.
    fn question(&mut self) -> Option<Action> {
        let mut entry = self.to_ask.first_entry()?;
        let (peer, space) = entry.key().clone();
        let all = entry.get_mut();
        let actions: Vec<_> = all.drain(..all.len().min(MAX_ACTIONS)).collect();
        if all.is_empty() {
            entry.remove();
        }
        let question = self.number();
        self.questions.insert(question, (peer.clone(), actions.clone()));
        Some(Action::Ask { question, peer, space, actions })
    }

    fn answered(&mut self, now: Moment, question: u64, verdicts: Option<Vec<(ActionId, Verdict)>>) {
        let Some((peer, actions)) = self.questions.remove(&question) else { return };
        if verdicts.is_none() {
            self.standing.failed(&peer);
        }
        for action in &actions {
            if let Some(search) = self.searches.get_mut(action) {
                search.open -= 1;
            }
        }
        for (action, verdict) in verdicts.into_iter().flatten() {
            if actions.contains(&action) {
                self.judged(now, action, verdict);
            }
        }
        for action in actions {
            self.advance(now, action);
        }
    }

    fn met(&mut self, now: Moment, topic: &Topic, peers: Vec<Peer>) {
        let known = self.holders.entry(topic.clone()).or_default();
        let before = known.len();
        known.extend(peers);
        if known.len() > MAX_HOLDERS {
            // Names can be chosen: strangers are not to push out those who have served well.
            let ranked = self.standing.rank(known.iter().cloned());
            *known = ranked.into_iter().take(MAX_HOLDERS).collect();
        }
        if known.len() > before {
            self.nothing.clear();
        }
        let concerned = |search: &Search| search.topics.contains(topic);
        let waiting: Vec<_> =
            self.searches.iter().filter(|(_, search)| concerned(search)).map(|(id, _)| *id).collect();
        for action in waiting {
            self.advance(now, action);
        }
    }
}

/// One tool that waits for one action.
struct Wait {
    look: u64,
    action: ActionId,
    topics: Vec<Topic>,
    until: Moment,
}

impl Search {
    fn new(space: Space, ends: Moment) -> Self {
        let (topics, looks, asked, needs, came) = Default::default();
        Self {
            space,
            topics,
            looks,
            asked,
            open: 0,
            needs,
            came,
            reviewing: false,
            refused: false,
            undeliverable: false,
            ends,
        }
    }
}

impl Transfer {
    fn new(size: u64) -> Self {
        let (topics, tried, wanted) = Default::default();
        Self { size, topics, tried, running: None, wanted }
    }
}

impl Plan for Fetch {
    type Event = Event;
    type Action = Action;

    fn feed(&mut self, now: Moment, event: Event) {
        match event {
            Event::Look { look, space, actions, until } => {
                for (action, topics) in actions {
                    self.look(now, Wait { look, action, topics, until }, &space);
                }
            }
            Event::Bring { bring, topic, blobs, until } => {
                let needs = blobs.iter().map(|need| need.digest).collect();
                let topics = BTreeSet::from([topic.clone()]);
                self.brings.insert(bring, Bring { needs, until });
                if blobs.is_empty() {
                    self.delivered(bring, true);
                }
                for need in blobs {
                    self.want(need, &topics, For::Bring(bring));
                }
            }
            Event::Holders { topic, peers, sought } => {
                if sought {
                    self.finding.remove(&topic);
                }
                self.met(now, &topic, peers);
            }
            Event::Gone(peer) => {
                for known in self.holders.values_mut() {
                    known.remove(&peer);
                }
            }
            Event::Answered { question, verdicts } => self.answered(now, question, verdicts),
            Event::Reviewed { action, verdict } => {
                if let Some(search) = self.searches.get_mut(&action) {
                    search.reviewing = false;
                }
                self.judged(now, action, verdict);
                self.advance(now, action);
            }
            Event::Brought { transfer, outcome } => self.brought(now, transfer, outcome),
            Event::Moved => self.nothing.clear(),
        }
    }

    fn take(&mut self, now: Moment) -> Option<Action> {
        self.expire(now);
        self.start(now);
        self.actions.pop_front().or_else(|| self.question())
    }

    fn wake_at(&self) -> Option<Moment> {
        let looks = self.searches.values().flat_map(|search| search.looks.iter().map(|(_, until)| *until));
        let ends = self.searches.values().filter(|search| search.looks.is_empty()).map(|search| search.ends);
        looks.chain(ends).chain(self.brings.values().map(|bring| bring.until)).min()
    }
}
