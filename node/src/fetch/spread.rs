// SPDX-License-Identifier: MIT OR Apache-2.0
//! One Blob of several pieces that comes from several peers: what is here, what is under way, and which pieces to ask
//! whom for next.
//!
//! Every node that fetches a Blob begins at another place, so that several who fetch it at once soon have what the
//! others lack. When peers have only parts, what the fewest have goes first. What none of them has is shared out: all
//! who fetch give each piece to the same one of them, by chance that depends on their names alone (rendezvous hashing,
//! Thaler and Ravishankar 1998), so that who has all of it sends each piece once and not to each. Whoever has had his
//! share takes what another one will come to last, and what that one comes to next at last of all. When all pieces are under way, the tail of the slowest is asked for
//! once more, from whoever would have it sooner.

use std::collections::BTreeMap;
use std::time::Duration;

use super::bits::Bits;
use super::event::Has;
use crate::peer::Peer;
use crate::plan::Moment;

/// Most pieces in one question: as many ranges as it may have.
pub const MAX_RUN: usize = potluck_protocol::peer::MAX_RANGES;
/// How many peers a piece is asked for at most at a time.
const MAX_ASKED: usize = 2;
/// When no more pieces than this are under way, they are asked for twice, though the other one may be little faster.
const END_GAME: usize = 4;
/// But not more than one of so many: what is sent twice is not to be much of the whole.
const END_SHARE: u64 = 16;
/// Whoever fetches the Blob as well has so many pieces of his share under way, or soon.
const NEXT: usize = 4;
/// He gets on as long as he has more than so long ago.
const LIVELY: Duration = Duration::from_secs(1);
/// How many pieces are compared to find those that the fewest have.
const COMPARED: usize = 1024;

/// A peer that has the Blob, or a part of it.
#[derive(Debug, Default)]
pub(super) struct Source {
    /// What it said that it has; nothing before.
    pub(super) has: Option<Has>,
    /// The transfer by which it says what more it has.
    pub(super) watch: Option<u64>,
    /// When it said last that it has more.
    pub(super) grew: Moment,
    /// It is not asked before this.
    pub(super) again: Moment,
    /// How often in a row it did not have what was asked for, or failed.
    pub(super) failures: u32,
    /// Whether it failed the last time, so that it may have it all the same.
    pub(super) failed: bool,
}

impl Source {
    /// Whether it has a piece, as far as is known: who said nothing yet is asked.
    fn may_have(&self, index: u64) -> bool {
        match &self.has {
            Some(Has::Some(bits)) => bits.has(index),
            Some(Has::All) | None => true,
        }
    }

    /// Whether it said that it has only a part.
    pub(super) fn is_part(&self) -> bool {
        matches!(&self.has, Some(Has::Some(_)))
    }
}

/// A Blob of which pieces come.
#[derive(Debug)]
pub(super) struct Spread {
    here: Bits,
    /// By which transfers pieces are to come.
    asked: BTreeMap<u64, Vec<u64>>,
    pub(super) sources: BTreeMap<Peer, Source>,
    /// Where this node begins.
    from: u64,
    salt: u64,
    /// How others know this node.
    own: Vec<Peer>,
}

/// A number that looks like chance, from two.
pub(super) fn mix(one: u64, other: u64) -> u64 {
    // The finalizer of splitmix64.
    let mut mixed = one ^ other.wrapping_mul(0x9e37_79b9_7f4a_7c15);
    mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

/// The number of a name, the same on every node.
fn token(id: &str) -> u64 {
    id.bytes().fold(0, |token, byte| mix(token, u64::from(byte)))
}

impl Spread {
    /// These pieces are here; the salt makes this node begin elsewhere than others.
    pub(super) fn new(here: Bits, salt: u64) -> Self {
        let from = mix(salt, here.count()) % here.count().max(1);
        Self { here, asked: BTreeMap::new(), sources: BTreeMap::new(), from, salt, own: Vec::new() }
    }

    /// The same of a node that others know by these names.
    pub(super) fn known_as(self, own: Vec<Peer>) -> Self {
        Self { own, ..self }
    }

    /// How many pieces are not here.
    pub(super) fn missing(&self) -> u64 {
        self.here.count() - self.here.ones()
    }

    /// How many pieces are under way.
    #[cfg(test)]
    pub(super) fn asked(&self) -> usize {
        self.asked.len()
    }

    /// New pieces to ask a peer for, at most `most`.
    pub(super) fn choose(&self, now: Moment, peer: &Peer, most: usize) -> Vec<u64> {
        let source = self.sources.get(peer);
        let may_have = |index: &u64| source.is_none_or(|source| source.may_have(*index));
        let free = self.here.missing(self.from).filter(|index| !self.asked.contains_key(index));
        let parts: Vec<_> = self.sources.values().filter(|source| source.is_part()).collect();
        if parts.len() < 2 && !source.is_some_and(Source::is_part) {
            // What somebody with a part lacks is to be had here only.
            let rare = |index: &u64| !parts.iter().any(|part| part.may_have(*index));
            let (mut first, rest): (Vec<_>, Vec<_>) =
                free.filter(may_have).take(COMPARED.max(most)).partition(rare);
            first.extend(rest);
            first.truncate(most);
            return first;
        }
        let known = |index: u64| parts.iter().filter(|part| part.may_have(index)).count();
        let candidates = free.filter(may_have).take(COMPARED).map(|index| (known(index), index));
        let (new, old): (Vec<_>, Vec<_>) = candidates.partition(|(known, _)| *known == 0);
        let (mut some, next) = self.in_turn(now, &peer.network, new.into_iter().map(|(_, index)| index));
        let by_rarity = |(known, index)| (known, mix(self.salt, index), index);
        let mut old: Vec<_> = old.into_iter().map(by_rarity).collect();
        old.sort_unstable();
        // Nothing is withheld: whoever has room for more is asked, however slow those are who have parts.
        some.extend(old.into_iter().map(|(_, _, index)| index).chain(next));
        some.truncate(most);
        some
    }

    /// Pieces that nobody has who fetches them in a Network, in the order in which this node is to ask for them: its own
    /// share, and then that of others; and apart from these what they come to next.
    fn in_turn(&self, now: Moment, network: &str, pieces: impl Iterator<Item = u64>) -> (Vec<u64>, Vec<u64>) {
        let own = self.own.iter().find(|own| *own.network == *network).map(|own| token(&own.id));
        let chance = own.unwrap_or(self.salt);
        let parts =
            self.sources.iter().filter(|(peer, source)| source.is_part() && *peer.network == *network);
        let lively = |source: &Source| now.since(source.grew) < LIVELY;
        // Whoever does not know his name shares nothing out.
        let parts = parts.filter(|_| own.is_some());
        let others: Vec<_> = parts.map(|(peer, source)| (token(&peer.id), lively(source))).collect();
        let mut mine = Vec::new();
        let mut theirs = vec![Vec::new(); others.len()];
        for index in pieces {
            let chances = others.iter().enumerate().map(|(at, (other, _))| (mix(*other, index), at));
            match (mix(chance, index), chances.max()) {
                (own, Some((other, at))) if other > own => theirs[at].push((other, own, index)),
                (own, _) => mine.push((own, index)),
            }
        }
        let (mut later, mut left) = (Vec::new(), Vec::new());
        for (mut its, (_, lively)) in theirs.into_iter().zip(&others) {
            its.sort_unstable();
            let next = if *lively { NEXT.min(its.len()) } else { 0 };
            left.extend(its.drain(its.len() - next..).map(|(_, _, index)| index));
            // In an order of his own, or all who have had their share would take the same.
            later.extend(its.into_iter().map(|(_, own, index)| (own, index)));
        }
        let mut order = Vec::with_capacity(mine.len() + later.len());
        for mut some in [mine, later] {
            some.sort_unstable_by(|one, other| other.cmp(one));
            order.extend(some.into_iter().map(|(_, index)| index));
        }
        (order, left)
    }

    /// Pieces that are under way from others, to ask a peer for as well: `left` is how long one will take yet by a
    /// transfer, or nothing if that is not to be disturbed; `mine` how long the peer would take for so many.
    pub(super) fn steal(
        &self,
        (peer, most): (&Peer, usize),
        left: impl Fn(u64, u64) -> Option<Duration>,
        mine: impl Fn(usize) -> Duration,
    ) -> Vec<u64> {
        let source = self.sources.get(peer);
        let mut some: Vec<(Duration, u64)> = Vec::new();
        for (index, by) in &self.asked {
            let &[only] = &by[..] else { continue };
            if source.is_none_or(|source| source.may_have(*index))
                && let Some(left) = left(only, *index)
            {
                some.push((left, *index));
            }
        }
        some.sort_unstable_by(|one, other| other.cmp(one));
        let last = self.asked.len() <= END_GAME && self.asked.len() as u64 * END_SHARE <= self.here.count();
        let worth = |number: usize, left: Duration| {
            let mine = mine(number + 1);
            if last { mine < left } else { mine.saturating_mul(2) < left }
        };
        let some = some.into_iter().take(most).enumerate();
        some.take_while(|(number, (left, _))| worth(*number, *left)).map(|(_, (_, index))| index).collect()
    }

    /// Pieces are to come by a transfer.
    pub(super) fn ask(&mut self, transfer: u64, pieces: &[u64]) {
        for index in pieces {
            let by = self.asked.entry(*index).or_default();
            debug_assert!(by.len() < MAX_ASKED && !self.here.has(*index));
            by.push(transfer);
        }
    }

    /// They will not.
    pub(super) fn unask(&mut self, transfer: u64, pieces: &[u64]) {
        for index in pieces {
            if let Some(by) = self.asked.get_mut(index) {
                by.retain(|one| *one != transfer);
                if by.is_empty() {
                    self.asked.remove(index);
                }
            }
        }
    }

    /// A piece is here; gives the transfers by which it was to come.
    pub(super) fn came(&mut self, index: u64) -> Vec<u64> {
        self.here.set(index);
        self.asked.remove(&index).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn peer(name: &str) -> Peer {
        Peer::new("office", name)
    }

    fn at(seconds: u64) -> Moment {
        Moment::default().plus(Duration::from_secs(seconds))
    }

    fn bits(count: u64, some: impl IntoIterator<Item = u64>) -> Bits {
        let mut bits = Bits::none(count);
        some.into_iter().for_each(|index| assert!(bits.set(index)));
        bits
    }

    fn has(spread: &mut Spread, name: &str, has: Has) {
        spread.sources.entry(peer(name)).or_default().has = Some(has);
    }

    #[test]
    fn one_who_has_all_is_asked_for_all_in_order_from_somewhere() {
        let starts: std::collections::BTreeSet<_> = (0..20)
            .map(|salt| {
                let mut spread = Spread::new(bits(100, [5]), salt);
                has(&mut spread, "ann", Has::All);
                let first = spread.choose(at(0), &peer("ann"), 30);
                spread.ask(1, &first);
                let rest = spread.choose(at(0), &peer("ann"), 100);
                let all: std::collections::BTreeSet<_> = first.iter().chain(&rest).collect();
                assert_eq!((first.len(), all.len()), (30, 99));
                first[0]
            })
            .collect();
        assert!(starts.len() > 10, "nodes begin at different places");
    }

    #[test]
    fn what_the_fewest_have_goes_first() {
        let mut spread = Spread::new(bits(10, []), 1);
        has(&mut spread, "seed", Has::All);
        has(&mut spread, "ann", Has::Some(bits(10, 0..5)));
        has(&mut spread, "ben", Has::Some(bits(10, 3..9)));
        assert_eq!(spread.choose(at(0), &peer("seed"), 1), [9]);
        let ann = spread.choose(at(0), &peer("ann"), 3);
        assert!(ann.iter().all(|index| *index < 3), "{ann:?}");
        spread.ask(1, &ann);
        assert!(spread.choose(at(0), &peer("ann"), 9).iter().all(|index| (3..5).contains(index)));
    }

    #[test]
    fn what_nobody_has_is_shared_out_among_those_who_fetch() {
        const PIECES: u64 = 90;
        const ALL: usize = 90;
        let names = ["ann", "ben", "cay"];
        let mut spreads = names.map(|own| {
            let mut spread = Spread::new(bits(PIECES, []), 1).known_as(vec![peer(own)]);
            has(&mut spread, "seed", Has::All);
            for other in names.iter().filter(|other| **other != own) {
                has(&mut spread, other, Has::Some(bits(PIECES, [])));
            }
            spread
        });
        let all = spreads.each_ref().map(|spread| spread.choose(at(0), &peer("seed"), ALL));
        // In turns, as from one who sends to all of them alike: nothing is sent twice before the end of it.
        let mut sent = std::collections::BTreeSet::new();
        for turn in 0..15 {
            for own in &all {
                assert!(sent.insert(own[turn]), "{turn}");
            }
        }
        // What another one comes to next is what one asks for last as long as he gets on; nothing is withheld.
        let of_seed = |spread: &Spread, now| spread.choose(now, &peer("seed"), ALL);
        has(&mut spreads[0], "ben", Has::Some(bits(PIECES, [7])));
        for (spread, mine) in spreads.iter().zip(&all) {
            let (first, last) = mine.split_at(ALL - 2 * NEXT);
            let others = all.iter().filter(|order| *order != mine);
            assert!(others.flat_map(|order| &order[..NEXT]).all(|next| last.contains(next)));
            let late = of_seed(spread, at(0).plus(LIVELY));
            assert_eq!((first[0], mine.len(), late.len()), (late[0], ALL, ALL));
        }
        assert_eq!(of_seed(&spreads[0], at(0).plus(LIVELY)).last(), Some(&7));
        // Elsewhere nobody knows it by that name.
        spreads[0].own = vec![Peer::new("street", "ann")];
        assert_eq!(of_seed(&spreads[0], at(0)).len(), ALL);
    }

    #[test]
    fn a_tail_is_stolen_where_that_is_faster_and_only_once() {
        let mut spread = Spread::new(bits(20, 0..10), 1);
        assert_eq!(spread.missing(), 10);
        spread.ask(1, &(10..20).collect::<Vec<_>>());
        let left = |_, index| Some(Duration::from_secs(index));
        let mine = |count: usize| Duration::from_secs(4 * count as u64);
        let stolen = spread.steal((&peer("ben"), 9), left, mine);
        assert_eq!(stolen, [19, 18], "the third would take 12 s, and comes in 17");
        spread.ask(2, &stolen);
        assert_eq!(
            spread.steal((&peer("cay"), 9), left, |_| Duration::ZERO),
            [17, 16, 15, 14, 13, 12, 11, 10]
        );
        assert_eq!(spread.came(19), [1, 2]);
        spread.unask(2, &[18, 19]);
        assert_eq!(spread.came(18), [1]);
        assert_eq!(spread.asked(), 8);
    }
}
