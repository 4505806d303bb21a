// SPDX-License-Identifier: MIT OR Apache-2.0
//! Which Blob is fetched from whom, and when. Whoever needs the same Blob shares one transfer.
//!
//! A Blob that somebody needs is in one of five states: under way; waiting, as there is somebody who may have it but not
//! room for one more; spread, when it has several pieces, which `spreading` fetches from several peers; parked, as
//! nobody is left and somebody may yet be found; or lost, which ends it. A transfer that takes longer than most do is
//! begun a second time elsewhere. One that takes far longer than it should frees its place for others: who is slow on
//! purpose shall block nobody.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use potluck_protocol::action::ActionId;
use potluck_protocol::peer::Topic;
use potluck_protocol::piece::piece_count;

use super::alarm::Alarms;
use super::event::{Action, Brought, Need};
use super::load::{Load, Running, places};
use super::peers::{From, Peers, Topics};
use super::sources::{find_others, fresh};
use super::spread::Spread;
use crate::peer::Peer;
use crate::plan::Moment;

/// Most Blobs of one piece under way at a time, from all peers.
pub const MAX_TRANSFERS: usize = 64;
/// Most transfers at a time from one peer, half of what it lets wait: they share one stream.
pub const MAX_TRANSFERS_PER_PEER: usize = 32;
/// So many of the smallest Blobs count as one transfer: they go together in one message.
pub const SMALL_ONES: usize = 16;
/// Most Blobs of several pieces that come at a time.
pub const MAX_SPREADS: usize = 8;
/// How long a transfer of no bytes may take before another source is tried as well.
pub const PATIENCE: Duration = Duration::from_secs(3);
/// How many bytes a second more are waited for.
pub const SLOWEST: u64 = 256 * 1024;
/// How long somebody who went away may take to come back, when there is nobody else.
pub const GRACE: Duration = Duration::from_secs(1);
/// Nobody is late so soon.
pub const LEAST_LATE: Duration = Duration::from_millis(50);
/// How many of those that wait for the same holders are looked at when one could start.
const LOOKAHEAD: usize = MAX_TRANSFERS * SMALL_ONES;

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

/// How far a Blob of several pieces is.
#[derive(Debug)]
pub(super) enum Phase {
    /// It has one piece, or was not begun.
    Still,
    /// It is looked at what is here of it, by the opening of this number.
    Opening(u64),
    /// Pieces come.
    Open(Box<Spread>),
}

/// The transfer of one Blob.
pub(super) struct Transfer {
    /// Its place in the line.
    number: u64,
    pub(super) topics: Topics,
    /// Who said on the DHT that he has this Blob, or may have it for another reason, whatever he holds.
    pub(super) sources: BTreeSet<Peer>,
    pub(super) tried: BTreeSet<Peer>,
    /// Those under way.
    pub(super) running: BTreeSet<u64>,
    /// Until when somebody who went away is waited for.
    grace: Option<Moment>,
    pub(super) wanted: BTreeSet<For>,
    pub(super) phase: Phase,
}

#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Alarm {
    /// A transfer takes longer than most do.
    Late(u64),
    /// It takes longer than it should.
    Slow(u64),
    Grace(Need),
    /// A peer is not busy any more, or may be asked again for something that it had not.
    Again(Peer),
}

/// All transfers.
#[derive(Default)]
pub(super) struct Transfers {
    pub(super) all: BTreeMap<Need, Transfer>,
    /// Those that wait for a place, by who may have them, in the order in which they were wanted.
    waiting: BTreeMap<Topics, BTreeSet<(u64, Need)>>,
    /// Those of them that somebody has of whom only that is known. They stand in no line: each has its own holders.
    sourced: BTreeSet<(u64, Need)>,
    parked: BTreeSet<Need>,
    /// Those of several pieces that were begun.
    pub(super) spreads: BTreeSet<Need>,
    /// How often it was asked what is here of one of them.
    pub(super) opens: u64,
    pub(super) running: BTreeMap<u64, Running>,
    /// How many places those of one piece take that are prompt; see [`places`].
    prompt: usize,
    pub(super) load: BTreeMap<Peer, Load>,
    pub(super) alarms: Alarms<Alarm>,
    ended: VecDeque<Ended>,
    pub(super) actions: VecDeque<Action>,
    /// Whether there may be anything to start.
    pub(super) stirred: bool,
    next: u64,
    /// Makes this node begin elsewhere than others.
    pub(super) salt: u64,
}

impl Transfers {
    pub(super) fn new(salt: u64) -> Self {
        Self { salt, ..Self::default() }
    }

    /// Somebody needs a Blob that these topics' holders may have, or these peers.
    pub(super) fn want(
        &mut self,
        now: Moment,
        (need, wanted): (Need, For),
        (topics, among, peers): (&Topics, &BTreeSet<Peer>, &mut Peers),
    ) {
        self.next += 1;
        let mut new = Transfer::new(self.next, topics);
        new.tried.extend(peers.standing.liars(&need.digest).cloned());
        // Out of the line first, in which it stands by its topics.
        self.displace(&need);
        let transfer = self.all.entry(need).or_insert(new);
        transfer.wanted.insert(wanted);
        let fresh = fresh(&transfer.sources, among, peers);
        transfer.sources.extend(fresh);
        if !topics.is_subset(&transfer.topics) {
            Arc::make_mut(&mut transfer.topics).extend(topics.iter().cloned());
        }
        self.place(now, need, peers);
    }

    /// Somebody no longer needs a Blob. The transfer of a small one that runs is let run: it is paid for already.
    pub(super) fn unwant(&mut self, need: Need, wanted: For) {
        let Some(transfer) = self.all.get_mut(&need) else { return };
        transfer.wanted.remove(&wanted);
        if transfer.wanted.is_empty() {
            self.displace(&need);
            if self.spreads.contains(&need) {
                self.end(need, false);
            } else {
                self.drop_if_idle(&need);
            }
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
    pub(super) fn displace(&mut self, need: &Need) {
        self.parked.remove(need);
        self.alarms.set(Alarm::Grace(*need), None);
        let Some(transfer) = self.all.get(need) else { return };
        self.sourced.remove(&(transfer.number, *need));
        if let Some(line) = self.waiting.get_mut(&transfer.topics) {
            line.remove(&(transfer.number, *need));
            if line.is_empty() {
                self.waiting.remove(&transfer.topics);
            }
        }
    }

    /// Puts a transfer of which something changed where it belongs.
    pub(super) fn place(&mut self, now: Moment, need: Need, peers: &mut Peers) {
        self.displace(&need);
        self.drop_if_idle(&need);
        let Some(transfer) = self.all.get_mut(&need) else { return };
        let running = &self.running;
        let well = |number: &u64| running[number].prompt && !running[number].late;
        let mut tried = transfer.tried.clone();
        let busy_with_it = transfer.running.iter().map(|number| &running[number]).filter(|one| !one.gone);
        tried.extend(busy_with_it.map(|one| one.peer.clone()));
        if transfer.wanted.is_empty() {
            return;
        }
        let begun = match transfer.phase {
            Phase::Still if transfer.running.iter().any(well) => return,
            Phase::Still => false,
            Phase::Opening(_) => return,
            Phase::Open(_) => {
                self.stirred = true;
                if self.has_source(now, &need, peers) {
                    return;
                }
                true
            }
        };
        let Some(transfer) = self.all.get_mut(&need) else { return };
        if !begun && peers.any_but(transfer.from(), &tried) {
            transfer.grace = None;
            let ready = |peer: &Peer| {
                !tried.contains(peer) && self.load.get(peer).is_none_or(|load| load.not_before <= now)
            };
            if peers.ranked(transfer.from(), ready).is_empty() {
                // Those who are busy may be so for long: there may be others.
                find_others(now, (&need, &transfer.topics), peers);
            }
            if transfer.sources.is_empty() {
                let line = self.waiting.entry(Arc::clone(&transfer.topics)).or_default();
                line.insert((transfer.number, need));
            } else {
                self.sourced.insert((transfer.number, need));
            }
            self.stirred = true;
        } else if !begun && !transfer.running.is_empty() {
            // It may be slow, but it is all there is.
        } else if find_others(now, (&need, &transfer.topics), peers) {
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
    pub(super) fn end(&mut self, need: Need, here: bool) {
        self.displace(&need);
        let Some(transfer) = self.all.remove(&need) else { return };
        self.ended.extend(transfer.wanted.into_iter().map(|wanted| Ended { need, wanted, here }));
        for number in transfer.running {
            self.stop(number);
        }
        if self.spreads.remove(&need) {
            self.actions.push_back(Action::Close(need));
            self.stirred = true;
        }
    }

    /// Nobody waits for what is left of a transfer.
    pub(super) fn stop(&mut self, number: u64) {
        let Some(running) = self.running.get_mut(&number) else { return };
        if !std::mem::replace(&mut running.stopped, true) {
            self.actions.push_back(Action::Stop(number));
        }
        self.slow(number);
    }

    /// Starts what there is room for.
    pub(super) fn start(&mut self, now: Moment, peers: &mut Peers) {
        if !std::mem::take(&mut self.stirred) {
            return;
        }
        // What was begun is to be ended.
        for need in self.spreads.clone() {
            self.start_pieces(now, need, peers);
        }
        // Whoever has waited longest comes first.
        let mut lines: Vec<_> = self.waiting.iter().map(|(of, line)| (line.first().copied(), of)).collect();
        lines.sort_unstable();
        let lines: Vec<_> = lines.into_iter().map(|(_, topics)| Arc::clone(topics)).collect();
        for topics in lines {
            let nobody = BTreeSet::new();
            let mut free = peers.ranked((&topics, &nobody), |peer| self.is_free((peer, None), (now, peers)));
            let line = self.waiting.get(&topics).into_iter().flatten();
            let front: Vec<_> = line.take(LOOKAHEAD).map(|(_, need)| *need).collect();
            self.start_line(now, (front, &mut free), peers);
        }
        let front: Vec<_> = self.sourced.iter().take(LOOKAHEAD).map(|(_, need)| *need).collect();
        for need in front {
            let free = |peer: &Peer| self.is_free((peer, None), (now, peers));
            let mut free = peers.ranked(self.all[&need].from(), free);
            self.start_line(now, (vec![need], &mut free), peers);
        }
    }

    /// Starts of these what there is room for with those who are free.
    fn start_line(&mut self, now: Moment, (front, free): (Vec<Need>, &mut Vec<Peer>), peers: &Peers) {
        for need in front {
            if free.is_empty() {
                return;
            }
            let transfer = &self.all[&need];
            let running = || transfer.running.iter().map(|number| &self.running[number]);
            let busy_with_it = |peer: &Peer| running().any(|one| !one.gone && one.peer == *peer);
            let fit = |peer: &&Peer| !transfer.tried.contains(*peer) && !busy_with_it(peer);
            let Some(peer) = free.iter().find(fit).cloned() else { continue };
            if piece_count(need.size) > 1 {
                if self.spreads.len() < MAX_SPREADS {
                    self.open(need);
                }
                continue;
            }
            let room = MAX_TRANSFERS * SMALL_ONES;
            if self.prompt + places(&need) > room || !self.is_free((&peer, Some(&need)), (now, peers)) {
                continue;
            }
            self.displace(&need);
            self.launch((now, peers), (need, peer.clone()), vec![0]);
            if !self.is_free((&peer, None), (now, peers)) {
                free.retain(|one| *one != peer);
            }
        }
    }

    /// Begins a transfer of these pieces; gives its number.
    pub(super) fn launch(
        &mut self,
        (now, peers): (Moment, &Peers),
        (need, peer): (Need, Peer),
        pieces: Vec<u64>,
    ) -> u64 {
        self.next += 1;
        let number = self.next;
        self.all.get_mut(&need).expect("it is needed").running.insert(number);
        let fetch = Action::Fetch { transfer: number, peer: peer.clone(), need, pieces: pieces.clone() };
        self.actions.push_back(fetch);
        let ([heard, late, gone, stopped], watch) = ([false; 4], pieces.is_empty());
        let running =
            Running { need, peer, pieces, watch, asked: now, heard, prompt: true, late, gone, stopped };
        if !watch {
            let load = self.load.entry(running.peer.clone()).or_default();
            if load.places == 0 {
                load.last = now;
            }
            load.places += places(&need);
            load.bytes += running.bytes();
        }
        self.prompt += if piece_count(need.size) == 1 { places(&need) } else { 0 };
        self.running.insert(number, running);
        self.watch_over(number, (now, peers));
        number
    }

    /// Sets when a transfer is late and when it is slow, unless something comes before.
    pub(super) fn watch_over(&mut self, number: u64, (now, peers): (Moment, &Peers)) {
        let Some(running) = self.running.get(&number).filter(|running| running.prompt) else { return };
        // Behind what else is under way from that peer.
        let load = self.load.get(&running.peer).map_or(0, |load| load.bytes);
        let before = if running.watch { Duration::ZERO } else { peers.standing.takes(&running.peer, load) };
        let patience = PATIENCE.saturating_add(Duration::from_secs(load.max(running.bytes()) / SLOWEST));
        self.alarms.set(Alarm::Slow(number), Some(now.plus(patience)));
        let late = peers.standing.p90(&running.peer).filter(|_| !running.watch && !running.late);
        let late = late.map(|late| now.plus(late.max(LEAST_LATE).saturating_add(before).min(patience)));
        self.alarms.set(Alarm::Late(number), late);
    }

    /// A transfer ended; gives the peer if it lied once too often.
    pub(super) fn brought(
        &mut self,
        now: Moment,
        (number, outcome): (u64, Brought),
        peers: &mut Peers,
    ) -> Option<Peer> {
        self.slow(number);
        self.unload(number);
        let running = self.running.remove(&number)?;
        self.stirred = true;
        let need = running.need;
        if let Some(transfer) = self.all.get_mut(&need) {
            transfer.running.remove(&number);
        }
        if outcome == Brought::Busy && !running.gone {
            let load = self.load.entry(running.peer.clone()).or_default();
            load.not_before = now.plus(load.busy.step());
            self.alarms.set(Alarm::Again(running.peer.clone()), Some(load.not_before));
        } else if let Some(load) = self.load.get_mut(&running.peer) {
            load.busy.reset();
            self.forget_load(&running.peer);
        }
        let mut drop = None;
        let peer = &running.peer;
        match outcome {
            Brought::Done => {
                peers.standing.good(peer);
                if piece_count(need.size) == 1 && !running.gone {
                    let load = self.load.get(peer).map_or(running.asked, |load| load.last);
                    peers.standing.waited(peer, now.since(running.asked.max(load)));
                }
                self.end(need, true);
            }
            Brought::NoRoom => self.end(need, false),
            Brought::Bad => drop = peers.standing.bad(peer, &need.digest).then(|| peer.clone()),
            // What was stopped, or is of somebody who went away, says nothing.
            _ if running.gone || running.stopped => {}
            Brought::Part => peers.standing.good(peer),
            Brought::Busy => {}
            Brought::NotThere if running.watch || self.spreads.contains(&need) => {}
            Brought::NotThere | Brought::Failed | Brought::OtherSize => peers.standing.failed(peer),
        }
        self.came_to(now, (&running, number), outcome);
        self.place(now, need, peers);
        drop
    }

    /// What a transfer that ended means for whom the Blob is fetched from next.
    fn came_to(&mut self, now: Moment, (running, number): (&Running, u64), outcome: Brought) {
        let Some(transfer) = self.all.get_mut(&running.need) else { return };
        if let Phase::Open(spread) = &mut transfer.phase {
            spread.unask(number, &running.pieces);
            return self.source_ended(now, (running, number), outcome);
        }
        if !running.gone && !running.stopped && outcome != Brought::Busy {
            transfer.tried.insert(running.peer.clone());
        }
    }

    /// A transfer counts no longer as one that goes well; gives what it is of.
    fn slow(&mut self, number: u64) -> Option<(Need, Peer)> {
        let running = self.running.get_mut(&number)?;
        if std::mem::take(&mut running.prompt) {
            self.prompt -= if piece_count(running.need.size) == 1 { places(&running.need) } else { 0 };
            self.stirred = true;
        }
        self.alarms.set(Alarm::Slow(number), None);
        self.alarms.set(Alarm::Late(number), None);
        Some((running.need, running.peer.clone()))
    }

    /// Whatever has come to its time.
    pub(super) fn expire(&mut self, now: Moment, peers: &mut Peers) {
        while let Some(alarm) = self.alarms.due(now) {
            let need = match alarm {
                Alarm::Grace(need) => need,
                Alarm::Again(peer) => {
                    self.forget_load(&peer);
                    self.stirred = true;
                    self.again(now, &peer, peers);
                    continue;
                }
                Alarm::Late(number) => {
                    let Some(running) = self.running.get_mut(&number) else { continue };
                    (running.late, self.stirred) = (true, true);
                    running.need
                }
                Alarm::Slow(number) => {
                    let Some((need, peer)) = self.slow(number) else { continue };
                    if self.spreads.contains(&need) {
                        self.pieces_slow(now, number, peers);
                    } else {
                        peers.standing.failed(&peer);
                        if let Some(transfer) = self.all.get_mut(&need) {
                            transfer.tried.insert(peer);
                        }
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
        for transfer in self.all.values_mut() {
            transfer.sources.remove(peer);
        }
        let from = self.running.iter().filter(|(_, running)| running.peer == *peer && !running.gone);
        let from: Vec<_> = from.map(|(number, running)| (*number, running.need)).collect();
        for (number, need) in from {
            self.slow(number);
            self.unload(number);
            self.running.get_mut(&number).expect("it was there a moment ago").gone = true;
            self.source_gone(&need, number);
            self.place(now, need, peers);
        }
        self.forget_load(peer);
        let lines = self.waiting.iter().filter(|(of, _)| !of.is_disjoint(topics));
        let mut concerned: Vec<_> = lines.flat_map(|(_, line)| line).map(|(_, need)| *need).collect();
        concerned.extend(self.sourced.iter().map(|(_, need)| *need));
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
                let lied = |one: &Peer| peers.standing.liars(&need.digest).any(|liar| liar == one);
                transfer.tried.retain(|peer| !fresh.contains(peer) || lied(peer));
                concerned.push(*need);
            }
        }
        for need in &concerned {
            self.sources_back(need, fresh);
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
            self.prompt <= MAX_TRANSFERS * SMALL_ONES
                && self.load.values().all(|load| load.places <= MAX_TRANSFERS_PER_PEER * SMALL_ONES)
        );
        let runs: Vec<_> = self.running.values().filter(|one| !one.gone && !one.watch).collect();
        let taken: usize = runs.iter().map(|one| places(&one.need)).sum();
        assert_eq!(self.load.values().map(|load| load.places).sum::<usize>(), taken);
        assert_eq!(
            self.load.values().map(|load| load.bytes).sum::<u64>(),
            runs.iter().map(|one| one.bytes()).sum::<u64>()
        );
        let waiting = waiting + self.sourced.len();
        assert!(waiting + self.parked.len() <= self.all.len() && self.ended.is_empty());
        assert!(self.all.values().all(|one| one.sources.len() <= super::spreading::MAX_SOURCES));
        assert!(self.spreads.len() <= MAX_SPREADS && self.actions.is_empty());
        self.check_pieces();
        self.all.len() + self.running.len() + self.spreads.len()
    }
}

impl Transfer {
    fn new(number: u64, topics: &Topics) -> Self {
        let (sources, tried, running, wanted) = Default::default();
        let (topics, grace, phase) = (Arc::clone(topics), None, Phase::Still);
        Self { number, topics, sources, tried, running, grace, wanted, phase }
    }

    /// Who may have it.
    pub(super) fn from(&self) -> From<'_> {
        (&self.topics, &self.sources)
    }
}
