// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which Blob is fetched from whom, and when. Whoever needs the same Blob shares one transfer.
//!
//! A transfer that somebody needs is in one of four states: under way; waiting, as there is somebody who may have it
//! but not room for one more; parked, as nobody is left and somebody may yet be found; or lost, which ends it. One that
//! takes far longer than it should frees its place for others, and is fetched from a second source as well if there is
//! one: who is slow on purpose shall block nobody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use potluck_protocol::action::ActionId;
use potluck_protocol::peer::Topic;

use super::alarm::Alarms;
use super::event::{Action, Brought, Need};
use super::peers::{Peers, Topics};
use crate::peer::Peer;
use crate::plan::Moment;

/// Most transfers at a time, from all peers.
pub const MAX_TRANSFERS: usize = 16;
/// Most transfers at a time from one peer: they share one stream.
pub const MAX_TRANSFERS_PER_PEER: usize = 4;
/// How long a transfer of no bytes may take before another source is tried as well.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How many bytes a second more are waited for.
pub const SLOWEST: u64 = 256 * 1024;
/// How long somebody who went away may take to come back, when there is nobody else.
pub const GRACE: Duration = Duration::from_secs(1);
/// How many of those that wait for the same holders are looked at when one could start.
const LOOKAHEAD: usize = 64;

/// Who needs a Blob.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum For {
    /// The search for an action.
    Action(ActionId),
    /// Who wants it for itself.
    Bring(u64),
}

/// What became of a Blob that somebody needs.
#[derive(Debug, Clone, Copy)]
pub(super) struct Ended {
    pub(super) need: Need,
    pub(super) wanted: For,
    /// Whether it is here now.
    pub(super) here: bool,
}

/// The transfer of one Blob.
struct Transfer {
    /// Its place in the line.
    number: u64,
    topics: Topics,
    tried: BTreeSet<Peer>,
    /// Those under way; at most one of them is prompt.
    running: BTreeSet<u64>,
    /// Until when somebody who went away is waited for.
    grace: Option<Moment>,
    wanted: BTreeSet<For>,
}

/// One that is under way.
struct Running {
    need: Need,
    peer: Peer,
    /// Whether it takes no longer than it should.
    prompt: bool,
    /// Whether the peer went away since: how it ends says nothing of the peer, should that be back.
    gone: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Alarm {
    Slow(u64),
    Grace(Need),
}

/// All transfers.
#[derive(Default)]
pub(super) struct Transfers {
    all: BTreeMap<Need, Transfer>,
    /// Those that wait for a place, by who may have them, in the order in which they were wanted.
    waiting: BTreeMap<Topics, BTreeSet<(u64, Need)>>,
    parked: BTreeSet<Need>,
    running: BTreeMap<u64, Running>,
    /// How many of them are prompt.
    prompt: usize,
    /// How many of them are from each peer.
    load: BTreeMap<Peer, usize>,
    alarms: Alarms<Alarm>,
    ended: VecDeque<Ended>,
    /// Whether there may be anything to start.
    stirred: bool,
    next: u64,
}

impl Transfers {
    /// Somebody needs a Blob that these topics' holders may have.
    pub(super) fn want(&mut self, now: Moment, (need, wanted): (Need, For), of: (&Topics, &mut Peers)) {
        let (topics, peers) = of;
        self.next += 1;
        let new = Transfer::new(self.next, topics);
        // Out of the line first, in which it stands by its topics.
        self.displace(&need);
        let transfer = self.all.entry(need).or_insert(new);
        transfer.wanted.insert(wanted);
        if !topics.is_subset(&transfer.topics) {
            Arc::make_mut(&mut transfer.topics).extend(topics.iter().cloned());
        }
        self.place(now, need, peers);
    }

    /// Somebody no longer needs a Blob. A transfer that runs is let run: it is paid for already.
    pub(super) fn unwant(&mut self, need: Need, wanted: For) {
        let Some(transfer) = self.all.get_mut(&need) else { return };
        transfer.wanted.remove(&wanted);
        if transfer.wanted.is_empty() {
            self.displace(&need);
            self.drop_if_idle(&need);
        }
    }

    fn drop_if_idle(&mut self, need: &Need) {
        if self.all.get(need).is_some_and(|one| one.wanted.is_empty() && one.running.is_empty()) {
            self.all.remove(need);
        }
    }

    /// What became of one Blob.
    pub(super) fn ended(&mut self) -> Option<Ended> {
        self.ended.pop_front()
    }

    /// Takes a transfer out of wherever it waits.
    fn displace(&mut self, need: &Need) {
        self.parked.remove(need);
        self.alarms.set(Alarm::Grace(*need), None);
        let Some(transfer) = self.all.get(need) else { return };
        if let Some(line) = self.waiting.get_mut(&transfer.topics) {
            line.remove(&(transfer.number, *need));
            if line.is_empty() {
                self.waiting.remove(&transfer.topics);
            }
        }
    }

    /// Puts a transfer of which something changed where it belongs.
    fn place(&mut self, now: Moment, need: Need, peers: &mut Peers) {
        self.displace(&need);
        self.drop_if_idle(&need);
        let Some(transfer) = self.all.get_mut(&need) else { return };
        if transfer.wanted.is_empty() || transfer.running.iter().any(|number| self.running[number].prompt) {
            return;
        }
        if peers.any_but(&transfer.topics, &transfer.tried) {
            transfer.grace = None;
            let line = self.waiting.entry(Arc::clone(&transfer.topics)).or_default();
            line.insert((transfer.number, need));
            self.stirred = true;
        } else if !transfer.running.is_empty() {
            // It may be slow, but it is all there is.
        } else if peers.find(now, &transfer.topics) {
            self.parked.insert(need);
        } else if !peers.any(&transfer.topics) && transfer.grace.is_none_or(|until| until > now) {
            let until = *transfer.grace.get_or_insert(now.plus(GRACE));
            self.parked.insert(need);
            self.alarms.set(Alarm::Grace(need), Some(until));
        } else {
            self.end(need, false);
        }
    }

    /// A Blob is here, or will not come.
    fn end(&mut self, need: Need, here: bool) {
        self.displace(&need);
        let Some(transfer) = self.all.remove(&need) else { return };
        self.ended.extend(transfer.wanted.into_iter().map(|wanted| Ended { need, wanted, here }));
    }

    /// Starts what there is room for.
    pub(super) fn start(&mut self, now: Moment, peers: &Peers) -> Vec<Action> {
        let mut actions = Vec::new();
        if !std::mem::take(&mut self.stirred) {
            return actions;
        }
        // Whoever has waited longest comes first.
        let mut lines: Vec<_> = self.waiting.iter().map(|(of, line)| (line.first().copied(), of)).collect();
        lines.sort_unstable();
        let lines: Vec<_> = lines.into_iter().map(|(_, topics)| Arc::clone(topics)).collect();
        for topics in lines {
            if self.prompt >= MAX_TRANSFERS {
                break;
            }
            self.start_line(now, (&topics, peers), &mut actions);
        }
        actions
    }

    fn start_line(&mut self, now: Moment, (topics, peers): (&Topics, &Peers), actions: &mut Vec<Action>) {
        let load = |load: &BTreeMap<Peer, usize>, peer: &Peer| load.get(peer).copied().unwrap_or(0);
        let mut free = peers.ranked(topics, |peer| load(&self.load, peer) < MAX_TRANSFERS_PER_PEER);
        let line = self.waiting.get(topics).into_iter().flatten();
        let front: Vec<_> = line.take(LOOKAHEAD).map(|(_, need)| *need).collect();
        for need in front {
            if self.prompt >= MAX_TRANSFERS || free.is_empty() {
                return;
            }
            let tried = &self.all[&need].tried;
            let Some(at) = free.iter().position(|peer| !tried.contains(peer)) else { continue };
            let peer = free[at].clone();
            actions.push(self.launch(now, need, peer.clone()));
            if load(&self.load, &peer) >= MAX_TRANSFERS_PER_PEER {
                free.remove(at);
            }
        }
    }

    fn launch(&mut self, now: Moment, need: Need, peer: Peer) -> Action {
        self.displace(&need);
        self.next += 1;
        let number = self.next;
        self.all.get_mut(&need).expect("it waited a moment ago").running.insert(number);
        self.running.insert(number, Running { need, peer: peer.clone(), prompt: true, gone: false });
        self.prompt += 1;
        *self.load.entry(peer.clone()).or_default() += 1;
        let within = PATIENCE.saturating_add(Duration::from_secs(need.size / SLOWEST));
        self.alarms.set(Alarm::Slow(number), Some(now.plus(within)));
        Action::Fetch { transfer: number, peer, need }
    }

    /// A transfer ended; gives the peer if it lied once too often.
    pub(super) fn brought(
        &mut self,
        now: Moment,
        (number, outcome): (u64, Brought),
        peers: &mut Peers,
    ) -> Option<Peer> {
        self.slow(number);
        let Running { need, peer, gone, .. } = self.running.remove(&number)?;
        self.stirred = true;
        if !gone {
            self.unload(&peer);
        }
        if let Some(transfer) = self.all.get_mut(&need) {
            transfer.running.remove(&number);
            if !gone {
                transfer.tried.insert(peer.clone());
            }
        }
        let mut drop = None;
        match outcome {
            Brought::Done => {
                peers.standing.good(&peer);
                self.end(need, true);
            }
            Brought::Failed if gone => {}
            Brought::Failed => peers.standing.failed(&peer),
            Brought::Bad => drop = peers.standing.bad(&peer).then_some(peer),
            Brought::NoRoom => self.end(need, false),
        }
        self.place(now, need, peers);
        drop
    }

    fn unload(&mut self, peer: &Peer) {
        if let Some(load) = self.load.get_mut(peer) {
            *load -= 1;
            if *load == 0 {
                self.load.remove(peer);
            }
        }
    }

    /// A transfer counts no longer as one that goes well; gives what it is of.
    fn slow(&mut self, number: u64) -> Option<(Need, Peer)> {
        let running = self.running.get_mut(&number)?;
        if std::mem::take(&mut running.prompt) {
            self.prompt -= 1;
            self.stirred = true;
        }
        self.alarms.set(Alarm::Slow(number), None);
        Some((running.need, running.peer.clone()))
    }

    /// Whatever has come to its time.
    pub(super) fn expire(&mut self, now: Moment, peers: &mut Peers) {
        while let Some(alarm) = self.alarms.due(now) {
            let need = match alarm {
                Alarm::Grace(need) => need,
                Alarm::Slow(number) => {
                    let Some((need, peer)) = self.slow(number) else { continue };
                    peers.standing.failed(&peer);
                    if let Some(transfer) = self.all.get_mut(&need) {
                        transfer.tried.insert(peer);
                    }
                    need
                }
            };
            self.place(now, need, peers);
        }
    }

    /// When something comes to its time.
    pub(super) fn wake_at(&self) -> Option<Moment> {
        self.alarms.next()
    }

    /// A peer went away, that held `topics`. What ran will end by itself, but is not waited for.
    pub(super) fn gone(&mut self, now: Moment, (peer, topics): (&Peer, &Topics), peers: &mut Peers) {
        let from = self.running.iter().filter(|(_, running)| running.peer == *peer && !running.gone);
        let from: Vec<_> = from.map(|(number, running)| (*number, running.need)).collect();
        for (number, need) in from {
            self.slow(number);
            self.unload(peer);
            self.running.get_mut(&number).expect("it was there a moment ago").gone = true;
            self.place(now, need, peers);
        }
        let lines = self.waiting.iter().filter(|(of, _)| !of.is_disjoint(topics));
        let concerned: Vec<_> = lines.flat_map(|(_, line)| line).map(|(_, need)| *need).collect();
        for need in concerned {
            self.place(now, need, peers);
        }
    }

    /// These peers hold a topic as of now.
    pub(super) fn met(&mut self, now: Moment, (topic, fresh): (&Topic, &BTreeSet<Peer>), peers: &mut Peers) {
        let mut concerned = Vec::new();
        for (need, transfer) in &mut self.all {
            if transfer.topics.contains(topic) {
                // Who comes back may be able to do what could not be done before.
                transfer.tried.retain(|peer| !fresh.contains(peer));
                concerned.push(*need);
            }
        }
        self.stirred = true;
        for need in concerned {
            self.place(now, need, peers);
        }
    }

    /// The search for holders of a topic ended: nothing of it is waited for any more.
    pub(super) fn revise(&mut self, now: Moment, peers: &mut Peers) {
        for need in self.parked.clone() {
            self.place(now, need, peers);
        }
    }

    /// What is kept in memory of transfers.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        let waiting: usize = self.waiting.values().map(BTreeSet::len).sum();
        assert!(
            self.prompt <= MAX_TRANSFERS && self.load.values().all(|load| *load <= MAX_TRANSFERS_PER_PEER)
        );
        assert_eq!(self.load.values().sum::<usize>(), self.running.values().filter(|one| !one.gone).count());
        assert!(waiting + self.parked.len() <= self.all.len() && self.ended.is_empty());
        assert!(self.alarms.len() <= self.running.len() + self.parked.len());
        self.all.len() + self.running.len()
    }
}

impl Transfer {
    fn new(number: u64, topics: &Topics) -> Self {
        let (tried, running, wanted) = Default::default();
        Self { number, topics: Arc::clone(topics), tried, running, grace: None, wanted }
    }
}
