// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs of several pieces, from several peers at once: who is asked for which of them, and what follows from what they
//! say. Part of [`Transfers`].

use std::collections::BTreeSet;
use std::time::Duration;

use potluck_protocol::piece::{PIECE_BYTES, piece_count};

use super::event::{Action, Brought, Has, Need, Opened};
use super::load::{Running, places};
use super::peers::Peers;
use super::sources::find_others;
use super::spread::{MAX_RUN, Source, Spread, mix};
use super::transfers::{Alarm, LEAST_LATE, Phase, Transfer, Transfers};
use crate::peer::Peer;
use crate::plan::Moment;

/// Most peers that one Blob is fetched from at a time.
pub(super) const MAX_SOURCES: usize = 12;
/// How many pieces a peer is asked for that has said nothing yet.
const FIRST_RUN: usize = 4;
/// How long a peer that had not what was asked for is left alone, at first and at last: it may be fetching it itself.
const NOT_THERE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(16));
/// After so many failures in a row a peer is not asked for a Blob any more.
const MAX_FAILURES: u32 = 3;

impl Transfers {
    /// Begins a Blob of several pieces.
    pub(super) fn open(&mut self, need: Need) {
        let Some(transfer) = self.all.get_mut(&need) else { return };
        self.opens += 1;
        let open = self.opens;
        transfer.phase = Phase::Opening(open);
        let projects = transfer.topics.iter().map(|topic| topic.project.clone()).collect();
        self.displace(&need);
        self.spreads.insert(need);
        self.actions.push_back(Action::Open { open, need, projects });
    }

    /// It is known what is here of one. Who was closed meanwhile, and perhaps opened anew, is not meant.
    pub(super) fn opened(
        &mut self,
        (now, peers): (Moment, &mut Peers),
        (open, need): (u64, Need),
        (opened, own): (Option<Opened>, Vec<Peer>),
    ) {
        let salt = u64::from_le_bytes(*need.digest.as_bytes().first_chunk().expect("a Digest is longer"));
        let meant = |one: &&mut Transfer| matches!(one.phase, Phase::Opening(meant) if meant == open);
        let Some(transfer) = self.all.get_mut(&need).filter(meant) else { return };
        match opened {
            Some(Opened::Part(bits)) if bits.count() == piece_count(need.size) => {
                transfer.phase = Phase::Open(Box::new(Spread::new(bits, mix(self.salt, salt)).known_as(own)));
                self.place(now, need, peers);
            }
            Some(Opened::Here) => self.end(need, true),
            _ => self.end(need, false),
        }
    }

    fn spread(&mut self, need: &Need) -> Option<&mut Spread> {
        match &mut self.all.get_mut(need)?.phase {
            Phase::Open(spread) => Some(spread),
            _ => None,
        }
    }

    /// Whether anybody can still bring pieces: somebody does, or says what he has, or will be asked.
    pub(super) fn has_source(&self, now: Moment, need: &Need, peers: &mut Peers) -> bool {
        let Some(transfer) = self.all.get(need) else { return false };
        let Phase::Open(spread) = &transfer.phase else { return false };
        if transfer.running.iter().any(|number| self.running[number].prompt) {
            return true;
        }
        let usable = |peer: &Peer| {
            let again = spread.sources.get(peer).is_none_or(|source| source.again <= now);
            !transfer.tried.contains(peer) && again
        };
        // Nobody else: whoever is slow may still bring it.
        let slow = |number: &u64| !self.running[number].gone && !self.running[number].stopped;
        // Whose stream broke is asked once more.
        let later = |peer: &Peer| {
            let source = spread.sources.get(peer).filter(|_| !transfer.tried.contains(peer));
            source.is_some_and(|source| source.failed && source.again > now)
        };
        let waits = !peers.ranked(transfer.from(), later).is_empty();
        let usable = peers.ranked(transfer.from(), usable);
        let busy = |peer: &Peer| self.load.get(peer).is_some_and(|load| load.not_before > now);
        if usable.iter().all(busy) {
            // Those who are busy may be so for long: there may be others.
            find_others(now, (need, &transfer.topics), peers);
        }
        !usable.is_empty() || waits || transfer.running.iter().any(slow)
    }

    /// Who was put off may be asked again, for whatever he was put off.
    pub(super) fn again(&mut self, now: Moment, peer: &Peer, peers: &mut Peers) {
        let mut next = None::<Moment>;
        for need in self.spreads.clone() {
            let source = self.spread(&need).and_then(|spread| spread.sources.get(peer));
            match source.map(|source| source.again) {
                Some(again) if again > now => next = Some(next.map_or(again, |next| next.min(again))),
                Some(_) => self.place(now, need, peers),
                None => {}
            }
        }
        if let Some(next) = next {
            self.alarms.set_first(Alarm::Again(peer.clone()), next);
        }
    }

    /// Asks for what there is room for.
    pub(super) fn start_pieces(&mut self, now: Moment, need: Need, peers: &Peers) {
        let Some(transfer) = self.all.get(&need) else { return };
        let Phase::Open(spread) = &transfer.phase else { return };
        if spread.missing() == 0 && transfer.running.is_empty() {
            // All pieces came, and nobody has said that it is whole: he was stopped while he made it so, since another
            // one had brought the same piece.
            return self.open(need);
        }
        let usable = |peer: &Peer| {
            !transfer.tried.contains(peer)
                && spread.sources.get(peer).is_none_or(|source| source.again <= now)
        };
        let mut all = peers.ranked(transfer.from(), usable);
        all.truncate(MAX_SOURCES);
        if let Some(spread) = self.spread(&need) {
            for peer in &all {
                spread.sources.entry(peer.clone()).or_default();
            }
        }
        for peer in all {
            let Some(spread) = self.spread(&need) else { return };
            let source = spread.sources.entry(peer.clone()).or_default();
            if source.is_part() && source.watch.is_none() {
                let watch = self.launch((now, peers), (need, peer.clone()), Vec::new());
                if let Some(spread) = self.spread(&need) {
                    spread.sources.entry(peer.clone()).or_default().watch = Some(watch);
                }
            }
            let pieces = self.pieces_for(now, (&need, &peer), peers);
            if !pieces.is_empty() {
                let number = self.launch((now, peers), (need, peer), pieces.clone());
                if let Some(spread) = self.spread(&need) {
                    spread.ask(number, &pieces);
                }
            }
        }
    }

    /// The pieces to ask a peer for now.
    fn pieces_for(&self, now: Moment, (need, peer): (&Need, &Peer), peers: &Peers) -> Vec<u64> {
        let Some(transfer) = self.all.get(need) else { return Vec::new() };
        let Phase::Open(spread) = &transfer.phase else { return Vec::new() };
        let own = transfer.running.iter().map(|number| &self.running[number]).filter(|one| one.peer == *peer);
        let under_way: usize = own.map(|one| one.pieces.len()).sum();
        let (free, most) = self.free_pieces(peer, (now, peers));
        let heard = spread.sources.get(peer).is_some_and(|source| source.has.is_some());
        // One question for many pieces, and not one for each.
        if under_way > 0 && (!heard || free * 2 < most) {
            return Vec::new();
        }
        // What is left is shared out among those who may be asked.
        let sources = u64::try_from(spread.sources.len().max(1)).unwrap_or(u64::MAX);
        let share = usize::try_from(spread.missing().div_ceil(sources)).unwrap_or(usize::MAX);
        let free = free.min(if heard { MAX_RUN } else { FIRST_RUN }).min(share.max(1));
        let pieces = spread.choose(now, peer, free);
        if !pieces.is_empty() || under_way > 0 {
            return pieces;
        }
        let rtt = Duration::from_micros(peers.standing.of(peer).rtt_us);
        let mine =
            |count: usize| rtt.saturating_add(peers.standing.takes(peer, (count * PIECE_BYTES) as u64));
        spread.steal((peer, free), |number, index| self.left((number, index), (now, peers)), mine)
    }

    /// How long a piece will take yet, as it seems, that is to come by a transfer.
    fn left(&self, (number, index): (u64, u64), (now, peers): (Moment, &Peers)) -> Option<Duration> {
        let running = self.running.get(&number)?;
        if running.late || !running.prompt {
            return Some(Duration::MAX);
        }
        // Of one that has hardly begun, or was never measured, nobody knows.
        let measured = peers.standing.of(&running.peer).rate > 0;
        if !measured || now.since(running.asked) < LEAST_LATE {
            return None;
        }
        let before = running.pieces.iter().position(|piece| *piece == index)?;
        let each = peers.standing.takes(&running.peer, PIECE_BYTES as u64);
        let last = self.load.get(&running.peer).map_or(running.asked, |load| load.last.max(running.asked));
        let count = u32::try_from(before + 1).unwrap_or(u32::MAX);
        Some(each.saturating_mul(count).saturating_sub(now.since(last).min(each)))
    }

    /// A peer says what it has.
    pub(super) fn has(&mut self, now: Moment, (number, has): (u64, Has), peers: &mut Peers) {
        let Some(running) = self.running.get_mut(&number).filter(|running| !running.gone) else { return };
        let (need, peer, first) =
            (running.need, running.peer.clone(), !std::mem::replace(&mut running.heard, true));
        if first && !running.watch && self.load.get(&peer).is_some_and(|load| load.places == places(&need)) {
            peers.standing.heard(&peer, now.since(running.asked));
        }
        let watch = running.watch;
        let fits = match &has {
            Has::All => true,
            Has::Some(bits) => bits.count() == piece_count(need.size),
        };
        if let Some(spread) = self.spread(&need)
            && let Some(source) = spread.sources.get_mut(&peer)
            && fits
        {
            let grew = match (&source.has, &has) {
                (Some(Has::Some(before)), Has::Some(now)) => now.ones() > before.ones(),
                _ => true,
            };
            if grew {
                source.grew = now;
            }
            source.has = Some(has);
            // Who says the same over and over says nothing.
            if watch && grew {
                self.watch_over(number, (now, peers));
            }
        }
        self.stirred = true;
    }

    /// A piece came.
    pub(super) fn piece(&mut self, now: Moment, (number, index): (u64, u64), peers: &mut Peers) {
        let Some(running) = self.running.get_mut(&number) else { return };
        let need = running.need;
        if !running.gone {
            let load = self.load.entry(running.peer.clone()).or_default();
            let within = now.since(load.last.max(running.asked));
            load.last = now;
            peers.standing.moved(&running.peer, PIECE_BYTES as u64, within);
        }
        running.late = false;
        self.take_piece(number, index);
        self.watch_over(number, (now, peers));
        let Some(spread) = self.spread(&need) else { return };
        for other in spread.came(index) {
            self.take_piece(other, index);
            if other != number && self.running.get(&other).is_some_and(|other| other.pieces.is_empty()) {
                self.stop(other);
            }
        }
        self.stirred = true;
    }

    /// A piece is not to come by a transfer any more.
    fn take_piece(&mut self, number: u64, index: u64) {
        let Some(running) = self.running.get_mut(&number) else { return };
        let before = running.pieces.len();
        running.pieces.retain(|piece| *piece != index);
        if running.pieces.len() < before
            && !running.gone
            && let Some(load) = self.load.get_mut(&running.peer)
        {
            load.bytes = load.bytes.saturating_sub(PIECE_BYTES as u64);
        }
    }

    /// Nothing came for long, by a transfer that is not prompt any more.
    pub(super) fn pieces_slow(&mut self, now: Moment, number: u64, peers: &mut Peers) {
        let Some(running) = self.running.get(&number) else { return };
        let (need, peer, watch) = (running.need, running.peer.clone(), running.watch);
        let pieces = running.pieces.clone();
        if watch {
            // It has no more than before: whether it ever will have is not to be waited for.
            self.stop(number);
        } else {
            peers.standing.failed(&peer);
        }
        let Some(spread) = self.spread(&need) else { return };
        spread.unask(number, &pieces);
        let source = spread.sources.entry(peer.clone()).or_default();
        if watch {
            (source.watch, source.has) = (None, None);
        }
        self.put_off(now, (&need, &peer));
    }

    /// A peer is not asked for a Blob for a while, and after some times not at all.
    fn put_off(&mut self, now: Moment, (need, peer): (&Need, &Peer)) {
        let Some(source) = self.spread(need).and_then(|spread| spread.sources.get_mut(peer)) else { return };
        let (first, last) = NOT_THERE;
        source.again = now.plus(first.saturating_mul(1 << source.failures.min(8)).min(last));
        source.failures = source.failures.saturating_add(1);
        let again = source.again;
        self.alarms.set_first(Alarm::Again(peer.clone()), again);
    }

    /// A transfer of pieces ended.
    pub(super) fn source_ended(&mut self, now: Moment, (running, number): (&Running, u64), outcome: Brought) {
        let (need, peer) = (running.need, &running.peer);
        let Some(source) = self.spread(&need).and_then(|spread| spread.sources.get_mut(peer)) else { return };
        if source.watch == Some(number) {
            source.watch = None;
        }
        if running.gone || running.stopped {
            return;
        }
        source.failed = outcome == Brought::Failed;
        match outcome {
            Brought::Done | Brought::NoRoom | Brought::Busy => {}
            Brought::Part if running.pieces.is_empty() => source.failures = 0,
            // It was asked before it had said that it has only a part.
            Brought::NotThere if source.is_part() && !running.watch && source.failures == 0 => {
                source.failures = 1;
            }
            Brought::NotThere | Brought::Part => {
                source.has = None;
                self.put_off(now, (&need, peer));
            }
            Brought::Failed => {
                self.put_off(now, (&need, peer));
                let failures = self.spread(&need).and_then(|spread| spread.sources.get(peer));
                if failures.is_some_and(|source| source.failures >= MAX_FAILURES) {
                    self.give_up(&need, peer);
                }
            }
            Brought::OtherSize | Brought::Bad => self.give_up(&need, peer),
        }
    }

    /// A peer is not asked for a Blob any more.
    fn give_up(&mut self, need: &Need, peer: &Peer) {
        let Some(transfer) = self.all.get_mut(need) else { return };
        transfer.tried.insert(peer.clone());
        let of = |number: &&u64| self.running[*number].peer == *peer;
        let its: Vec<_> = transfer.running.iter().filter(of).copied().collect();
        for number in its {
            self.stop(number);
            let pieces = self.running.get(&number).map(|one| one.pieces.clone()).unwrap_or_default();
            if let Some(spread) = self.spread(need) {
                spread.unask(number, &pieces);
            }
        }
        if let Some(spread) = self.spread(need) {
            spread.sources.remove(peer);
        }
    }

    /// Who was to bring pieces by a transfer went away.
    pub(super) fn source_gone(&mut self, need: &Need, number: u64) {
        let Some(running) = self.running.get(&number) else { return };
        let (peer, pieces) = (running.peer.clone(), running.pieces.clone());
        if let Some(spread) = self.spread(need) {
            spread.unask(number, &pieces);
            spread.sources.remove(&peer);
            self.stop(number);
        }
    }

    /// These peers came back, and may have what they had not.
    pub(super) fn sources_back(&mut self, need: &Need, fresh: &BTreeSet<Peer>) {
        if let Some(spread) = self.spread(need) {
            for source in
                spread.sources.iter_mut().filter(|(peer, _)| fresh.contains(*peer)).map(|(_, one)| one)
            {
                let watch = source.watch;
                *source = Source { watch, ..Source::default() };
            }
        }
    }

    /// What the pieces under way amount to, and that the sums agree.
    #[cfg(test)]
    pub(super) fn check_pieces(&self) {
        for (need, transfer) in &self.all {
            if let Phase::Open(spread) = &transfer.phase {
                assert!(self.spreads.contains(need));
                let live = transfer.running.iter().map(|number| &self.running[number]);
                let pieces: BTreeSet<_> = live.flat_map(|one| one.pieces.iter()).collect();
                assert!(spread.asked() <= pieces.len(), "what is asked for is to come by something");
            }
        }
    }
}
