// SPDX-License-Identifier: MIT OR Apache-2.0
//! Carries out what the fetch Plan says: questions, answers, and Blobs over links of a known rate.

use std::collections::BTreeSet;
use std::time::Duration;

use potluck_node::announce::plan as announce;
use potluck_node::fetch::bits::Bits;
use potluck_node::fetch::event::{Action, Brought, Event, Has, Need, Opened, Verdict};
use potluck_protocol::action::ActionId;
use potluck_protocol::digest::Digest;
use potluck_protocol::piece::{piece_count, piece_range};

use super::day::{outcome, project};
use super::machine::{NETWORK, number, peer, topic};
use super::{Asker, Message, Office};

/// What a machine can send.
const BYTES_PER_MS: u64 = 110_000;

fn bytes_of(need: &Need, pieces: &[u64]) -> u64 {
    let bytes = |index: &u64| piece_range(need.size, *index).map_or(0, |range| range.end - range.start);
    pieces.iter().map(bytes).sum()
}

impl Office {
    pub(super) fn perform_fetch(&mut self, at: usize, action: Action) {
        let from = self.asker(at);
        match action {
            Action::Ask { question, peer, actions, .. } => {
                self.count.questions += 1;
                let unknown = actions.iter().any(|action| !self.published.contains_key(action));
                self.count.packets_for_misses += u64::from(unknown);
                self.send(number(&peer), Message::Question { from, question, actions });
            }
            Action::Open { open, need, .. } => {
                let machine = &mut self.machines[at];
                let part = machine.parts.entry(need.digest);
                let part = part.or_insert_with(|| Bits::none(piece_count(need.size))).clone();
                let here = machine.store.contains(&need.digest);
                let opened = Some(if here { Opened::Here } else { Opened::Part(part) });
                self.fetch(at, Event::Opened { open, need, opened, own: vec![peer(at)] });
            }
            Action::Fetch { transfer, peer, need, pieces } => {
                self.send(number(&peer), Message::Want { from, transfer, need, pieces });
            }
            // What was asked for comes all the same.
            Action::Stop(_) | Action::Close(_) => {}
            Action::Find(topic) => {
                let peers = self.dht.holders.get(&topic).into_iter().flatten().filter(|peer| **peer != at);
                let peers = peers.copied().collect();
                let walk = self.walk();
                self.after(walk, from, Message::Found { topic, peers });
            }
            Action::FindBlob { need, .. } => {
                let peers = self.dht.blobs.get(&need.digest).into_iter().flatten();
                let peers = peers.copied().filter(|peer| *peer != at).collect();
                let walk = self.walk();
                self.after(walk, from, Message::Sources { need, peers });
            }
            Action::Review(_, action) => {
                let verdict = self.verdict(at, &action);
                self.fetch(at, Event::Reviewed { action, verdict });
            }
            Action::Settle { look, miss, .. } => self.settled(at, look, miss.is_none()),
            Action::Delivered { bring, all } => self.delivered(at, bring, all),
            Action::Drop(peer) => unreachable!("nobody lies, not even {peer}"),
            Action::Remember(_) => unreachable!("nothing is brought from an earlier run"),
        }
    }

    fn verdict(&self, at: usize, action: &ActionId) -> Verdict {
        let (blobs, cost) = outcome(action);
        match self.machines[at].missing(action, &blobs) {
            None => Verdict::Nothing,
            Some(missing) if missing.is_empty() => Verdict::Here,
            Some(blobs) => Verdict::Needs { blobs, cost },
        }
    }

    /// An answer came, with the Entries and what is small of their outputs.
    pub(super) fn answered(
        &mut self,
        at: usize,
        question: u64,
        known: Option<Vec<(ActionId, BTreeSet<usize>)>>,
    ) {
        let mut verdicts = known.is_some().then(Vec::new);
        for (action, signers) in known.into_iter().flatten() {
            let small = outcome(&action).0.into_iter().filter(Need::is_small);
            for need in small {
                self.count.moved += need.size;
                self.keep(at, &need);
            }
            self.machines[at].entries.entry(action).or_default().extend(&signers);
            self.holds_of(at, &action, &signers);
            let verdict = self.verdict(at, &action);
            verdicts.iter_mut().for_each(|all| all.push((action, verdict.clone())));
        }
        self.fetch(at, Event::Answered { question, verdicts });
    }

    /// Who has an Entry of a topic is a holder of it.
    fn holds_of(&mut self, at: usize, action: &ActionId, signers: &BTreeSet<usize>) {
        let of = self.projects[action];
        for signer in signers {
            self.hold(at, &topic(*signer, project(of)));
        }
    }

    pub(super) fn wanted(&mut self, at: usize, from: Asker, (transfer, need, pieces): (u64, Need, Vec<u64>)) {
        if !self.machines[at].store.contains(&need.digest) {
            let (pieces, outcome) = (Vec::new(), Brought::NotThere);
            return self.answer(from, Message::Blob { transfer, need, pieces, outcome });
        }
        let (network, peer) = (NETWORK.to_owned(), peer(from.node).id.to_string());
        let (digest, size) = (need.digest, need.size);
        self.announce(at, announce::Event::Asked { network, digest, size, peer });
        let (now, bytes) = (self.world.now(), bytes_of(&need, &pieces));
        let begins = self.machines[at].sent_at.max(now);
        let ends = begins.plus(Duration::from_millis(1 + bytes / BYTES_PER_MS));
        self.machines[at].sent_at = ends;
        self.after(ends.since(now), from, Message::Blob { transfer, need, pieces, outcome: Brought::Part });
    }

    /// Pieces came; gives how that transfer ended.
    pub(super) fn take_pieces(
        &mut self,
        at: usize,
        (transfer, need): (u64, &Need),
        pieces: Vec<u64>,
    ) -> Brought {
        let bytes = bytes_of(need, &pieces);
        if self.parts.contains_key(&need.digest) {
            self.count.catalog_bytes += bytes;
        } else {
            self.count.moved += bytes;
        }
        if piece_count(need.size) == 1 {
            self.keep(at, need);
            return Brought::Done;
        }
        self.fetch(at, Event::Has { transfer, has: Has::All });
        for index in pieces {
            let Some(bits) = self.machines[at].parts.get_mut(&need.digest) else { return Brought::Part };
            let whole = bits.set(index) && bits.is_full();
            self.fetch(at, Event::Piece { transfer, index });
            if whole {
                self.keep(at, need);
                return Brought::Done;
            }
        }
        Brought::Part
    }

    fn keep(&mut self, at: usize, need: &Need) {
        let new = self.machines[at].store.insert(need.digest);
        if new && !self.parts.contains_key(&need.digest) {
            self.count.needed += need.size;
        }
    }

    /// The bytes of a part of a Catalog that is here.
    pub(super) fn part(&self, at: usize, digest: &Digest) -> Option<&Vec<u8>> {
        self.parts.get(digest).filter(|_| self.machines[at].store.contains(digest))
    }
}
