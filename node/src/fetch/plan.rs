// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whom to ask for an action, when to fetch what it names, and when to give up.
//!
//! A tool asks about actions that some followed Catalog lists; there is no other way to get here, so every question
//! that leaves has a good chance. Two holders are asked at once: the one that answers first with something acceptable
//! wins, and claims of several signers meet. When those asked take long, a further one is asked, so that a slow or
//! silent one delays nobody for long. Several tools that look for one action share one search, and several searches
//! that need one Blob share one transfer.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use potluck_protocol::action::ActionId;
use potluck_protocol::control::Miss;
use potluck_protocol::peer::{MAX_ACTIONS, Topic};

use super::alarm::Alarms;
use super::event::{Action, Event, Space, Verdict};
use super::peers::{Peers, Topics};
use super::search::{Look, Nothing, Parts, Search};
use super::spreading::MAX_SOURCES;
use super::standing::{Record, Standing};
use super::transfers::{Ended, For, Transfers};
use crate::peer::Peer;
use crate::plan::{Moment, Plan};

/// How many holders are asked about one action at the same time.
pub const ASK_WIDTH: usize = 2;
/// When those asked have not answered for so long, one more is asked.
pub const HEDGE_AFTER: Duration = Duration::from_millis(200);
/// Most questions at a time to one peer; what is to be asked meanwhile goes together in the next one.
pub const MAX_QUESTIONS_PER_PEER: usize = 16;
/// Least time that is granted to the transfers of an Entry, however cheap it was to make.
pub const MIN_TRANSFER: Duration = Duration::from_secs(2);
/// Most time that is granted to them: what an Entry says of its cost is only what somebody says.
pub const MAX_TRANSFER: Duration = Duration::from_secs(600);
/// Of so many Entries that would take longer to fetch than to make, one is fetched all the same: what was measured of
/// peers may be true no longer.
pub const TRY_AGAIN: u32 = 16;
/// A search that nobody waits for any more goes on so long, for the next who asks.
pub const AFTERLIFE: Duration = Duration::from_secs(30);
/// How long it is remembered that nobody had an answer.
pub const NOTHING_FOR: Duration = Duration::from_secs(5);
/// Most searches at a time; a further one is a miss.
pub const MAX_SEARCHES: usize = 8192;
/// Most tools that wait at a time, each counted once for each action; a further one is told at once that it is late.
pub const MAX_LOOKS: usize = 65_536;

/// How often it is said what the next run should know about peers, if there is news.
pub const REMEMBER_EVERY: Duration = Duration::from_secs(10);

/// Blobs that are wanted for themselves.
struct Bring {
    parts: Parts,
    topics: Topics,
    /// Who may have them beside those who hold the topics.
    among: BTreeSet<Peer>,
}

/// What one peer was asked.
struct Question {
    peer: Peer,
    /// The actions, each with the number of the search it is for.
    actions: BTreeMap<ActionId, u64>,
    /// Whether an answer is expected.
    open: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    Search(ActionId),
    Bring(u64),
}

/// The Plan.
#[derive(Default)]
pub struct Fetch {
    searches: BTreeMap<ActionId, Search>,
    /// How many tools wait for them.
    looks: usize,
    brings: BTreeMap<u64, Bring>,
    transfers: Transfers,
    /// What is to be asked, each action with the number of the search it is for.
    to_ask: BTreeMap<(Peer, Space), BTreeMap<ActionId, u64>>,
    questions: BTreeMap<u64, Question>,
    /// How many of them each peer has, that are open.
    asking: BTreeMap<Peer, usize>,
    peers: Peers,
    /// How many Entries were not worth fetching.
    unworthy: u32,
    nothing: Nothing,
    alarms: Alarms<Alarm>,
    actions: VecDeque<Action>,
    next: u64,
    /// When to say what is known about peers, if it is to be said.
    remember_at: Option<Moment>,
}

impl Fetch {
    /// Nobody known, nothing wanted. The salt makes nodes that fetch one Blob begin at different places.
    pub fn new(salt: u64) -> Self {
        Self { transfers: Transfers::new(salt), ..Self::default() }
    }

    /// The same with what an earlier run remembered about peers. This one says from time to time what the next one should.
    #[must_use]
    pub fn remembering(mut self, records: Vec<(Peer, Record)>) -> Self {
        self.peers.standing.recall(records);
        self.remember_at = Some(Moment::default().plus(REMEMBER_EVERY));
        self
    }

    fn remember(&mut self, now: Moment) {
        if self.remember_at.is_some_and(|at| at <= now) {
            self.remember_at = Some(now.plus(REMEMBER_EVERY));
            self.actions.extend(self.peers.standing.changed().map(Action::Remember));
        }
    }

    /// What is remembered about peers.
    pub fn standing(&self) -> &Standing {
        &self.peers.standing
    }

    fn number(&mut self) -> u64 {
        self.next += 1;
        self.next
    }

    /// A tool waits for an action, whether or not it is being looked for already.
    fn look(&mut self, now: Moment, wait: Wait, space: &Space) {
        let Wait { look, action, topics, mut until } = wait;
        let known = self.searches.contains_key(&action);
        let full = self.looks >= MAX_LOOKS || !known && self.searches.len() >= MAX_SEARCHES;
        if let Some(miss) = self.nothing.of(now, &action, &topics).or(full.then_some(Miss::Late)) {
            return self.actions.push_back(Action::Settle { look, action, miss: Some(miss) });
        }
        let number = self.number();
        let new = || Search::new(number, space.clone(), until);
        let search = self.searches.entry(action).or_insert_with(new);
        let wider = search.widen(topics);
        if let Some(grant) = search.grant {
            until = until.max(now.plus(grant));
        }
        search.looks.push(Look { look, until });
        search.ends = search.ends.max(until.plus(AFTERLIFE));
        self.looks += 1;
        if wider {
            // Their holders may have what is being fetched already.
            let (topics, needs) = (Arc::clone(&search.topics), search.parts.in_line().clone());
            let nobody = BTreeSet::new();
            for need in needs {
                self.transfers.want(now, (need, For::Action(action)), (&topics, &nobody, &mut self.peers));
            }
        }
        self.advance(now, action);
    }

    /// Asks whoever should be asked next about an action, and ends the search when nobody is left.
    fn advance(&mut self, now: Moment, action: ActionId) {
        let Some(search) = self.searches.get_mut(&action) else { return };
        self.alarms.set(Alarm::Search(action), Some(search.wake_at()));
        if search.reviewing || !search.parts.is_idle() {
            return;
        }
        while search.open < ASK_WIDTH + search.hedges {
            let Some(peer) = self.peers.best(&search.topics, &search.asked) else { break };
            search.asked.insert(peer.clone());
            search.open += 1;
            search.hedge_at = Some(now.plus(HEDGE_AFTER));
            self.to_ask.entry((peer, search.space.clone())).or_default().insert(action, search.id);
        }
        self.alarms.set(Alarm::Search(action), Some(search.wake_at()));
        let all_asked = search.open < ASK_WIDTH + search.hedges;
        let more = search.open == 0 || search.hedges > 0 && all_asked;
        // Who is found later is asked later, as long as a tool waits.
        let finding = more && self.peers.find(now, &search.topics);
        if search.open > 0 || finding {
            return;
        }
        // Answers that came at the same time were judged without each other, and it may take several claims.
        if search.refused > 1 && !std::mem::replace(&mut search.reconsidered, true) {
            self.review(action);
        } else {
            self.fail(now, action);
        }
    }

    /// Nobody can give this action: all who wait are told.
    fn fail(&mut self, now: Moment, action: ActionId) {
        let Some(search) = self.searches.get(&action) else { return };
        let (miss, topics) = (search.miss(), Arc::clone(&search.topics));
        self.nothing.note(now, (action, topics), (now.plus(NOTHING_FOR), miss));
        self.settle(action, Some(miss));
    }

    /// A search ends.
    fn settle(&mut self, action: ActionId, miss: Option<Miss>) {
        let Some(search) = self.searches.remove(&action) else { return };
        for peer in search.asked.iter().filter(|_| search.open > 0) {
            let key = (peer.clone(), search.space.clone());
            if let Some(line) = self.to_ask.get_mut(&key) {
                line.remove(&action);
                if line.is_empty() {
                    self.to_ask.remove(&key);
                }
            }
        }
        self.looks -= search.looks.len();
        let settle = |Look { look, .. }| Action::Settle { look, action, miss };
        self.actions.extend(search.looks.into_iter().map(settle));
        for need in search.parts.in_line() {
            self.transfers.unwant(*need, For::Action(action));
        }
        self.alarms.set(Alarm::Search(action), None);
    }

    /// Nobody waits for these any more.
    fn leave(&mut self, look: u64) {
        let (mut left, mut ended) = (0, Vec::new());
        for (action, search) in &mut self.searches {
            let before = search.looks.len();
            search.looks.retain(|one| one.look != look);
            left += before - search.looks.len();
            if before > search.looks.len() && search.looks.is_empty() {
                ended.push(*action);
            }
        }
        self.looks -= left;
        for action in ended {
            self.settle(action, None);
        }
    }

    /// What is now known about an action: by an answer of a peer, or by a look at the store itself, which is newer
    /// than any answer that was judged before.
    fn judged(&mut self, now: Moment, (action, reviewed): (ActionId, bool), verdict: Verdict) {
        let Some(search) = self.searches.get_mut(&action) else { return };
        match verdict {
            Verdict::Here => self.settle(action, None),
            // What is being fetched or looked at goes on.
            Verdict::Needs { .. } if search.reviewing || !search.parts.is_idle() => {}
            Verdict::Needs { blobs, .. } if blobs.is_empty() || search.parts.came(&blobs) => {
                if reviewed {
                    search.undeliverable = true;
                    self.fail(now, action);
                } else {
                    self.review(action);
                }
            }
            // Other peers may know of something else.
            Verdict::Needs { blobs, .. } if search.parts.lost(&blobs) => search.undeliverable = true,
            Verdict::Needs { blobs, cost } => {
                // Fetching may take as long as building would: the tool loses nothing by waiting.
                let granted = cost.clamp(MIN_TRANSFER, MAX_TRANSFER);
                let bytes = blobs.iter().map(|need| need.size).fold(0, u64::saturating_add);
                if !cost.is_zero()
                    && self.peers.at_best(&search.topics, bytes).is_some_and(|best| best > granted)
                {
                    self.unworthy = self.unworthy.wrapping_add(1);
                    if !self.unworthy.is_multiple_of(TRY_AGAIN) {
                        return self.settle(action, Some(Miss::NotWorthIt));
                    }
                }
                search.grant(now, granted);
                search.parts.renew(blobs);
                self.fetch_more(now, For::Action(action));
            }
            Verdict::Refused => search.refused += 1,
            Verdict::Nothing => {}
        }
    }

    fn review(&mut self, action: ActionId) {
        if let Some(search) = self.searches.get_mut(&action) {
            search.reviewing = true;
            self.actions.push_back(Action::Review(search.space.clone(), action));
        }
    }

    /// Puts in line what may be, and says so when all is here.
    fn fetch_more(&mut self, now: Moment, wanted: For) {
        let nobody = BTreeSet::new();
        let (parts, topics, among) = match wanted {
            For::Action(action) => {
                let Some(search) = self.searches.get_mut(&action) else { return };
                (&mut search.parts, &search.topics, &nobody)
            }
            For::Bring(bring) => {
                let Some(bring) = self.brings.get_mut(&bring) else { return };
                (&mut bring.parts, &bring.topics, &bring.among)
            }
        };
        while let Some(need) = parts.next() {
            self.transfers.want(now, (need, wanted), (topics, among, &mut self.peers));
        }
        if parts.is_idle() {
            match wanted {
                For::Action(action) => self.review(action),
                For::Bring(bring) => self.delivered(bring, true),
            }
        }
    }

    fn delivered(&mut self, bring: u64, all: bool) {
        let Some(ended) = self.brings.remove(&bring) else { return };
        self.actions.push_back(Action::Delivered { bring, all });
        for need in ended.parts.in_line() {
            self.transfers.unwant(*need, For::Bring(bring));
        }
        self.alarms.set(Alarm::Bring(bring), None);
    }

    /// Tells those who need them what became of Blobs.
    fn follow_up(&mut self, now: Moment) {
        while let Some(Ended { need, wanted, here }) = self.transfers.ended() {
            let parts = match wanted {
                For::Action(action) => self.searches.get_mut(&action).map(|search| &mut search.parts),
                For::Bring(bring) => self.brings.get_mut(&bring).map(|bring| &mut bring.parts),
            };
            let Some(parts) = parts.filter(|parts| parts.in_line().contains(&need)) else { continue };
            if here {
                parts.arrive(&need);
                self.fetch_more(now, wanted);
                continue;
            }
            for other in parts.lose(&need) {
                self.transfers.unwant(other, wanted);
            }
            match wanted {
                For::Bring(bring) => self.delivered(bring, false),
                For::Action(action) => {
                    if let Some(search) = self.searches.get_mut(&action) {
                        search.undeliverable = true;
                    }
                    // Somebody who was not asked yet may claim something that can be had.
                    self.advance(now, action);
                }
            }
        }
    }

    /// Tells those whose time has come, and drops what nobody waited for long enough.
    fn expire(&mut self, now: Moment) {
        while let Some(alarm) = self.alarms.due(now) {
            match alarm {
                Alarm::Bring(bring) => self.delivered(bring, false),
                Alarm::Search(action) => self.awake(now, action),
            }
        }
        self.transfers.expire(now, &mut self.peers);
        self.follow_up(now);
    }

    fn awake(&mut self, now: Moment, action: ActionId) {
        let Some(search) = self.searches.get_mut(&action) else { return };
        let late = search.late(now);
        self.looks -= late.len();
        let settle = |Look { look, .. }| Action::Settle { look, action, miss: Some(Miss::Late) };
        self.actions.extend(late.into_iter().map(settle));
        if search.looks.is_empty() && search.ends <= now {
            return self.settle(action, None);
        }
        if search.hedge_at.is_some_and(|at| at <= now) {
            search.hedge_at = None;
            search.hedges += usize::from(!search.looks.is_empty() && search.open > 0);
        }
        self.advance(now, action);
    }

    /// One question of those that are to be asked: what there is for one peer in one Project goes together.
    fn question(&mut self) -> Option<Action> {
        let asking = |peer: &Peer| self.asking.get(peer).copied().unwrap_or(0);
        let free = |(peer, _): &&(Peer, Space)| asking(peer) < MAX_QUESTIONS_PER_PEER;
        let key = self.to_ask.keys().find(free)?.clone();
        let mut actions = self.to_ask.remove(&key)?;
        let (peer, space) = key;
        if let Some(first_left) = actions.keys().nth(MAX_ACTIONS).copied() {
            let left = actions.split_off(&first_left);
            self.to_ask.insert((peer.clone(), space.clone()), left);
        }
        *self.asking.entry(peer.clone()).or_default() += 1;
        let question = self.number();
        // In the order in which they were wanted: what is found is fetched in the order in which it is told.
        let mut asked: Vec<_> = actions.keys().copied().collect();
        asked.sort_by_key(|action| actions[action]);
        self.questions.insert(question, Question { peer: peer.clone(), actions, open: true });
        Some(Action::Ask { question, peer, space, actions: asked })
    }

    fn answered(&mut self, now: Moment, question: u64, verdicts: Option<Vec<(ActionId, Verdict)>>) {
        let Some(Question { peer, actions, open }) = self.questions.remove(&question) else { return };
        let useful = |(action, verdict): &(ActionId, Verdict)| {
            actions.contains_key(action) && matches!(verdict, Verdict::Here | Verdict::Needs { .. })
        };
        match &verdicts {
            None if !open => {}
            None => self.peers.standing.silent(&peer),
            Some(verdicts) if verdicts.iter().any(useful) => self.peers.standing.knew(&peer),
            Some(_) => self.peers.standing.empty(&peer),
        }
        if open {
            self.release((&peer, 1), &actions);
        }
        for (action, verdict) in verdicts.into_iter().flatten() {
            if actions.contains_key(&action) {
                self.judged(now, (action, false), verdict);
            }
        }
        self.follow_up(now);
        for action in actions.into_keys() {
            self.advance(now, action);
        }
    }

    /// A peer is no longer expected to answer so many questions, which are about these.
    fn release(&mut self, (peer, questions): (&Peer, usize), actions: &BTreeMap<ActionId, u64>) {
        if let Some(asking) = self.asking.get_mut(peer) {
            *asking -= questions;
            if *asking == 0 {
                self.asking.remove(peer);
            }
        }
        for (action, id) in actions {
            if let Some(search) = self.searches.get_mut(action).filter(|search| search.id == *id) {
                search.open -= 1;
            }
        }
    }

    fn met(&mut self, now: Moment, (topic, sought): (&Topic, bool), peers: Vec<Peer>) {
        let fresh: BTreeSet<_> = peers.into_iter().filter(|peer| self.peers.met(topic, peer)).collect();
        if sought {
            self.peers.found(now, topic, !fresh.is_empty());
        }
        if !fresh.is_empty() {
            self.nothing.forget(topic);
            self.transfers.met(now, (topic, &fresh), &mut self.peers);
        } else if sought {
            self.transfers.revise(now, &mut self.peers);
        } else {
            return;
        }
        self.follow_up(now);
        let concerned = self.searches.iter_mut().filter(|(_, search)| search.topics.contains(topic));
        let mut waiting = Vec::new();
        for (action, search) in concerned {
            // Who comes back may know what could not be asked before.
            search.asked.retain(|peer| !fresh.contains(peer));
            waiting.push(*action);
        }
        for action in waiting {
            self.advance(now, action);
        }
    }

    /// A peer went away, or is to be treated so. Its answers count if they still come, but nobody waits for them.
    fn gone(&mut self, now: Moment, peer: &Peer) {
        let topics = Arc::new(self.peers.gone(peer));
        let keys: Vec<_> = self.to_ask.keys().filter(|(whom, _)| whom == peer).cloned().collect();
        let mut released = Vec::new();
        for key in keys {
            released.extend(self.to_ask.remove(&key).map(|actions| (0, actions)));
        }
        for question in self.questions.values_mut().filter(|question| question.peer == *peer) {
            if std::mem::take(&mut question.open) {
                released.push((1, question.actions.clone()));
            }
        }
        self.transfers.gone(now, (peer, &topics), &mut self.peers);
        for (questions, actions) in &released {
            self.release((peer, *questions), actions);
        }
        self.follow_up(now);
        for action in released.into_iter().flat_map(|(_, actions)| actions.into_keys()) {
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
            Event::Leave { look } => self.leave(look),
            Event::Bring { bring, topic, blobs, among, until } => {
                let topics = Arc::new(BTreeSet::from([topic]));
                let among = among.into_iter().take(MAX_SOURCES).collect();
                self.brings.insert(bring, Bring { parts: Parts::new(blobs), topics, among });
                self.alarms.set(Alarm::Bring(bring), Some(until));
                self.fetch_more(now, For::Bring(bring));
            }
            Event::Holders { topic, peers, sought } => self.met(now, (&topic, sought), peers),
            Event::Sources { need, peers } => self.transfers.sources(now, (need, peers), &mut self.peers),
            Event::Gone(peer) => self.gone(now, &peer),
            Event::Answered { question, verdicts } => self.answered(now, question, verdicts),
            Event::Reviewed { action, verdict } => {
                if let Some(search) = self.searches.get_mut(&action) {
                    search.reviewing = false;
                }
                self.judged(now, (action, true), verdict);
                self.advance(now, action);
            }
            Event::Opened { open, need, opened, own } => {
                self.transfers.opened((now, &mut self.peers), (open, need), (opened, own));
            }
            Event::Has { transfer, has } => self.transfers.has(now, (transfer, has), &mut self.peers),
            Event::Piece { transfer, index } => {
                self.transfers.piece(now, (transfer, index), &mut self.peers);
            }
            Event::Brought { transfer, outcome } => {
                if let Some(liar) = self.transfers.brought(now, (transfer, outcome), &mut self.peers) {
                    self.actions.push_back(Action::Drop(liar.clone()));
                    self.gone(now, &liar);
                }
            }
            Event::Moved(topic) => self.nothing.forget(&topic),
        }
        self.follow_up(now);
    }

    fn take(&mut self, now: Moment) -> Option<Action> {
        self.expire(now);
        self.transfers.start(now, &mut self.peers);
        // To start may end something, and what was to be stopped stands before what is to begin.
        self.follow_up(now);
        self.actions.append(&mut self.transfers.actions);
        self.remember(now);
        while let Some(topic) = self.peers.next_find() {
            self.actions.push_back(Action::Find(topic));
        }
        while let Some((need, projects)) = self.peers.next_blob_find() {
            self.actions.push_back(Action::FindBlob { need, projects });
        }
        self.actions.pop_front().or_else(|| self.question())
    }

    fn wake_at(&self) -> Option<Moment> {
        self.alarms.next().into_iter().chain(self.transfers.wake_at()).chain(self.remember_at).min()
    }
}

#[cfg(test)]
impl Fetch {
    /// What is kept in memory of looks, Brings and what they led to; and that the sums agree.
    pub(super) fn len(&self) -> usize {
        assert_eq!(self.looks, self.searches.values().map(|search| search.looks.len()).sum::<usize>());
        assert_eq!(self.alarms.len(), self.searches.len() + self.brings.len());
        let open = self.questions.values().filter(|question| question.open).count();
        assert_eq!(self.asking.values().sum::<usize>(), open);
        assert!(self.actions.is_empty() && self.nothing.len() <= Nothing::MAX);
        self.searches.len()
            + self.brings.len()
            + self.transfers.len()
            + self.questions.len()
            + self.to_ask.len()
    }
}
