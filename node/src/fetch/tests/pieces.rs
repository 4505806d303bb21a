// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs of several pieces, in single cases.

use std::collections::BTreeSet;

use potluck_protocol::piece::PIECE_BYTES;

use super::super::bits::Bits;
use super::super::event::{Has, Opened};
use super::super::load::BUSY;
use super::super::plan::REMEMBER_EVERY;
use super::super::standing::Record;
use super::*;

pub(super) const COUNT: u64 = 16;

pub(super) fn large() -> Need {
    Need { digest: Digest::of(b"large"), size: COUNT * PIECE_BYTES as u64 }
}

/// What was asked of whom: number, peer, pieces.
pub(super) fn asked_pieces(actions: &[Action]) -> Vec<(u64, String, Vec<u64>)> {
    let asked = |action: &Action| match action {
        Action::Fetch { transfer, peer, pieces, .. } => {
            Some((*transfer, peer.id.to_string(), pieces.clone()))
        }
        _ => None,
    };
    actions.iter().filter_map(asked).collect()
}

fn stopped(actions: &[Action]) -> Vec<u64> {
    let stopped = |action: &Action| if let Action::Stop(number) = action { Some(*number) } else { None };
    actions.iter().filter_map(stopped).collect()
}

/// Somebody wants the Blob, and these pieces are here.
pub(super) fn begun(holders: &[&str], here: &[u64]) -> (Case, Vec<Action>) {
    let mut case = Case::with(holders);
    let until = at(90_000);
    let opens =
        case.feed(Event::Bring { bring: 1, topic: topic(0), blobs: vec![large()], among: Vec::new(), until });
    let projects = BTreeSet::from([Project::default()]);
    assert_eq!(opens, [Action::Open { open: 1, need: large(), projects }]);
    let mut bits = Bits::none(COUNT);
    here.iter().for_each(|index| assert!(bits.set(*index)));
    let opened = Some(Opened::Part(bits));
    let actions = case.feed(Event::Opened { open: 1, need: large(), opened, own: Vec::new() });
    (case, actions)
}

/// A transfer brings pieces; gives what follows.
pub(super) fn comes(case: &mut Case, transfer: u64, pieces: &[u64]) -> Vec<Action> {
    pieces.iter().flat_map(|index| case.feed(Event::Piece { transfer, index: *index })).collect()
}

#[test]
fn pieces_come_from_all_who_have_them_and_none_is_asked_for_twice_before_the_end() {
    let (mut case, mut actions) = begun(&["ann", "ben", "cem"], &[3]);
    let (mut seen, mut last) = (BTreeSet::from([3]), 0);
    let peers: BTreeSet<_> = asked_pieces(&actions).into_iter().map(|(_, peer, _)| peer).collect();
    assert_eq!(peers.len(), 3);
    let mut todo = std::collections::VecDeque::new();
    loop {
        for (number, _, pieces) in asked_pieces(&actions) {
            // Twice only when all the others are under way.
            let twice = pieces.iter().filter(|index| !seen.insert(**index)).count();
            assert!(twice == 0 || seen.len() as u64 == COUNT, "{twice} of {pieces:?}");
            todo.push_back((number, pieces));
        }
        let Some((number, pieces)) = todo.pop_front() else { break };
        actions = case.feed(Event::Has { transfer: number, has: Has::All });
        actions.extend(comes(&mut case, number, &pieces));
        last = number;
        if (seen.len() as u64) < COUNT || !todo.is_empty() {
            actions.extend(case.brought(number, Brought::Part));
        }
    }
    assert_eq!(seen.len() as u64, COUNT);
    let done = case.brought(last, Brought::Done);
    assert!(done.contains(&Action::Delivered { bring: 1, all: true }), "{done:?}");
    assert!(done.contains(&Action::Close(large())), "{done:?}");
    assert_eq!(case.plan.len(), 0);
}

/// The disk may take long to say what is here, and who wanted it may have gone meanwhile and come back.
#[test]
fn what_an_earlier_opening_found_is_not_taken_for_what_the_present_one_does() {
    let mut case = Case::with(&["ann"]);
    let bring = |bring| Event::Bring {
        bring,
        topic: topic(0),
        blobs: vec![large()],
        among: Vec::new(),
        until: at(100),
    };
    let projects = || BTreeSet::from([Project::default()]);
    assert_eq!(case.feed(bring(1)), [Action::Open { open: 1, need: large(), projects: projects() }]);
    let given_up = case.pass(100_000);
    assert!(given_up.contains(&Action::Close(large())), "{given_up:?}");
    let until = at(200_000);
    let again =
        case.feed(Event::Bring { bring: 2, topic: topic(0), blobs: vec![large()], among: Vec::new(), until });
    assert_eq!(again, [Action::Open { open: 2, need: large(), projects: projects() }]);
    let opened = |open| {
        let opened = Some(Opened::Part(Bits::none(COUNT)));
        Event::Opened { open, need: large(), opened, own: Vec::new() }
    };
    assert_eq!(case.feed(opened(1)), []);
    let asked = case.feed(opened(2));
    assert!(!asked_pieces(&asked).is_empty(), "{asked:?}");
    assert_eq!(case.feed(opened(1)), [], "nor is the one closed that is under way");
}

#[test]
fn the_only_holder_whose_stream_broke_is_asked_again() {
    let (mut case, mut actions) = begun(&["ann"], &[]);
    for round in 1..3 {
        let asked = asked_pieces(&actions);
        assert!(asked.iter().all(|(_, peer, _)| peer == "ann") && !asked.is_empty(), "{round}: {actions:?}");
        let ended: Vec<_> =
            asked.iter().flat_map(|(number, ..)| case.brought(*number, Brought::Failed)).collect();
        // Others are looked for meanwhile, and there are none.
        for action in &ended {
            match action {
                Action::Find(topic) => {
                    let event =
                        Event::Holders { topic: topic.clone(), peers: vec![peer("ann")], sought: true };
                    case.feed(event);
                }
                Action::FindBlob { need, .. } => {
                    case.feed(Event::Sources { need: *need, peers: Vec::new() });
                }
                _ => {}
            }
        }
        assert!(!ended.iter().any(|action| matches!(action, Action::Delivered { .. })), "{round}: {ended:?}");
        actions = case.pass(round * 2_000);
    }
    let number = asked_pieces(&actions)[0].0;
    case.brought(number, Brought::Failed);
    case.feed(Event::Gone(peer("ann")));
    case.pass(20_000);
    assert_eq!(case.plan.len(), 0, "nobody is left");
}

#[test]
fn what_came_whole_without_anybody_saying_so_is_looked_at_again() {
    // As when two brought the last piece: who was first is stopped while he ends the Blob, as he has nothing more to bring
    // once the second one's has come.
    let (mut case, actions) = begun(&["ann", "ben"], &(0..COUNT - 1).collect::<Vec<_>>());
    let (number, _, pieces) = asked_pieces(&actions).swap_remove(0);
    let mut after = case.feed(Event::Has { transfer: number, has: Has::All });
    after.extend(comes(&mut case, number, &pieces));
    assert!(!after.iter().any(|action| matches!(action, Action::Open { .. })), "he may yet say so");
    let opens = case.brought(number, Brought::Part);
    let projects = BTreeSet::from([Project::default()]);
    assert_eq!(opens, [Action::Open { open: 2, need: large(), projects }]);
    let done =
        case.feed(Event::Opened { open: 2, need: large(), opened: Some(Opened::Here), own: Vec::new() });
    assert!(done.contains(&Action::Delivered { bring: 1, all: true }), "{done:?}");
    assert!(done.contains(&Action::Close(large())), "{done:?}");
    assert_eq!(case.plan.len(), 0);
}

#[test]
fn what_is_late_is_asked_of_another_and_the_loser_is_stopped() {
    let (mut case, actions) = begun(&["ann", "ben"], &(0..COUNT - 4).collect::<Vec<_>>());
    // Both have their share; of one nothing comes.
    let (slow, whom, late) = asked_pieces(&actions).swap_remove(0);
    case.feed(Event::Has { transfer: slow, has: Has::All });
    let mut todo: std::collections::VecDeque<_> = asked_pieces(&actions).split_off(1).into();
    let (mut stops, mut came) = (Vec::new(), BTreeSet::new());
    let mut now = 0;
    while came.len() < 4 {
        let Some((number, other, again)) = todo.pop_front() else {
            now += 1000;
            assert!(now < 60_000, "another is asked");
            todo.extend(asked_pieces(&case.pass(now)));
            continue;
        };
        assert_ne!(other, whom);
        let mut after = case.feed(Event::Has { transfer: number, has: Has::All });
        after.extend(comes(&mut case, number, &again));
        came.extend(again);
        let whole = came.len() == 4;
        after.extend(case.brought(number, if whole { Brought::Done } else { Brought::Part }));
        assert_eq!(after.contains(&Action::Delivered { bring: 1, all: true }), whole);
        todo.extend(asked_pieces(&after));
        stops.extend(stopped(&after));
    }
    assert!(late.iter().all(|index| came.contains(index)));
    assert_eq!(stops, [slow]);
    assert_eq!(case.brought(slow, Brought::Part), []);
}

#[test]
fn another_size_is_no_lie_and_a_bad_piece_is_one() {
    let (mut case, actions) = begun(&["ann", "ben"], &[]);
    let asked = asked_pieces(&actions);
    let after = case.brought(asked[0].0, Brought::OtherSize);
    assert_eq!(case.plan.standing().of(&peer(&asked[0].1)).bad, 0);
    assert!(asked_pieces(&after).iter().all(|(_, whom, _)| *whom != asked[0].1));
    case.brought(asked[1].0, Brought::Bad);
    assert_eq!(case.plan.standing().of(&peer(&asked[1].1)).bad, 1);
    assert_eq!(case.found(&[]), [find_blob(large())]);
    let end = [Action::Delivered { bring: 1, all: false }, Action::Close(large())];
    assert_eq!(case.sources(large(), &[]), end);
}

#[test]
fn the_busy_are_asked_again_later_and_are_not_to_blame() {
    let (mut case, actions) = begun(&["ann"], &[]);
    assert_eq!(case.brought(asked_pieces(&actions)[0].0, Brought::Busy), [Action::Find(topic(0))]);
    let (first, _) = BUSY;
    assert_eq!(asked_pieces(&case.pass(ms(first) - 1)), []);
    assert_eq!(asked_pieces(&case.pass(ms(first))).len(), 1);
    assert_eq!(case.plan.standing().of(&peer("ann")).failures, 0);
}

#[test]
fn who_has_a_part_is_asked_for_that_and_then_for_what_it_has_more() {
    let (mut case, actions) = begun(&["ann"], &[]);
    let [(first, ..)] = &asked_pieces(&actions)[..] else { panic!("{actions:?}") };
    let mut bits = Bits::none(COUNT);
    bits.set(7);
    let has = Has::Some(bits.clone());
    let next = asked_pieces(&case.feed(Event::Has { transfer: *first, has }));
    let [(watch, _, none)] = &next[..] else { panic!("{next:?}") };
    assert!(none.is_empty(), "what more there is");
    let after = asked_pieces(&case.brought(*first, Brought::NotThere));
    let [(second, _, pieces)] = &after[..] else { panic!("{after:?}") };
    assert_eq!(*pieces, [7]);
    comes(&mut case, *second, &[7]);
    assert_eq!(case.brought(*second, Brought::Part), []);
    bits.set(9);
    let more = asked_pieces(&case.feed(Event::Has { transfer: *watch, has: Has::Some(bits) }));
    assert!(more.iter().any(|(_, _, pieces)| *pieces == [9]), "{more:?}");
}

#[test]
fn what_is_known_about_peers_is_said_for_the_next_run() {
    let known = (peer("ann"), Record { rate: 5, good: 3, ..Record::default() });
    let mut case = Case { plan: Fetch::new(1).remembering(vec![known.clone()]), now: at(0) };
    assert_eq!(case.plan.standing().of(&known.0), known.1);
    assert_eq!(case.pass(3 * ms(REMEMBER_EVERY)), [], "nothing is new");
    assert_eq!(case.met("ann"), []);
    let ask = question(&case.look(1, 1, 60_000));
    case.answer(ask, 1, Verdict::Here);
    let said = case.pass(5 * ms(REMEMBER_EVERY));
    let [Action::Remember(records)] = &said[..] else { panic!("{said:?}") };
    assert_eq!(records[0].1.good, 4);
}
