// SPDX-License-Identifier: MIT OR Apache-2.0
//! Very many of everything.

use super::*;

#[test]
fn an_entry_of_very_many_blobs_leaves_room_for_others() {
    let mut case = Case::with(&["ann"]);
    let one = question(&case.look(1, 1, 1000));
    let two = question(&case.look(2, 2, 1000));
    let mut todo: std::collections::VecDeque<_> =
        fetched(&case.answer(one, 1, needs(0..10_000, 60_000))).iter().map(|(n, ..)| *n).collect();
    assert_eq!(case.answer(two, 2, needs([1_000_000], 60_000)), []);
    let mut turns = 0;
    let mut second = None;
    while let Some(fetch) = todo.pop_front() {
        turns += 1;
        let actions = case.brought(fetch, Brought::Done);
        todo.extend(fetched(&actions).iter().map(|(n, ..)| *n));
        if actions.contains(&Action::Review(space(), action(2))) {
            second = Some(turns);
        }
    }
    assert_eq!(turns, 10_001);
    assert!(second.unwrap() < MOST + 100, "{second:?}");
    assert_eq!(case.reviewed(1, Verdict::Here), [settle(1, 1, None)]);
}

#[test]
fn a_thousand_searches_are_no_burden() {
    let mut case = Case::with(&[]);
    let holders = (0..60).map(|number| peer(&number.to_string())).collect();
    case.feed(Event::Holders { topic: topic(0), peers: holders, sought: false });
    let id = |number: u64| ActionId::from_bytes(*Digest::of(&number.to_le_bytes()).as_bytes());
    let mut questions = 0;
    for number in 0..8000 {
        let actions = vec![(id(number), vec![topic(0)])];
        case.plan.feed(at(0), Event::Look { look: number, space: space(), actions, until: at(100) });
        questions += std::iter::from_fn(|| case.plan.take(at(0))).count();
    }
    assert!(questions < 1000, "{questions}: what must wait goes together");
    assert_eq!(case.pass(100).len(), 8000);
}
