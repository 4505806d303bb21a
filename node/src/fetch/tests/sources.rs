// SPDX-License-Identifier: MIT OR Apache-2.0
//! Blobs that the holders of their topics cannot give, and that the DHT is asked for one by one.

use std::collections::BTreeSet;

use super::super::event::Has;
use super::super::peers::{FIND_AGAIN, MAX_BLOB_FINDS};
use super::super::spreading::MAX_SOURCES;
use super::pieces::{COUNT, asked_pieces, begun, comes, large};
use super::*;

fn bring(case: &mut Case, bring: u64, blobs: &[u64]) -> Vec<Action> {
    let blobs = blobs.iter().copied().map(need).collect();
    case.feed(Event::Bring { bring, topic: topic(0), blobs, among: Vec::new(), until: at(90_000) })
}

/// Ann, who holds the topic, lacks Blob 1, and nobody else holds the topic.
fn lacking() -> Case {
    let mut case = Case::with(&["ann"]);
    let fetch = transfer(&bring(&mut case, 1, &[1]));
    assert_eq!(case.brought(fetch, Brought::NotThere), [Action::Find(topic(0))]);
    assert_eq!(case.found(&["ann"]), [find_blob(need(1))]);
    case
}

#[test]
fn what_no_holder_has_comes_from_whom_the_dht_names_and_nothing_else_does() {
    let mut case = lacking();
    let fetch = case.sources(need(1), &["ann", "cem"]);
    let [(number, "cem", blob)] = fetched(&fetch)[..] else { panic!("{fetch:?}") };
    assert_eq!(blob, need(1));
    let fetch = bring(&mut case, 2, &[2]);
    let [(other, "ann", _)] = fetched(&fetch)[..] else {
        panic!("of another Blob nothing is known: {fetch:?}")
    };
    assert_eq!(case.brought(number, Brought::Done), [Action::Delivered { bring: 1, all: true }]);
    assert_eq!(asked(&case.look(1, 1, 90_000)).iter().map(|(_, who)| *who).collect::<Vec<_>>(), ["ann"]);
    case.brought(other, Brought::Done);
}

#[test]
fn nobody_is_found_and_the_dht_is_left_alone_for_a_while() {
    let mut case = lacking();
    assert_eq!(case.sources(need(1), &[]), [Action::Delivered { bring: 1, all: false }]);
    let fetch = transfer(&bring(&mut case, 2, &[1]));
    assert_eq!(case.brought(fetch, Brought::NotThere), [Action::Delivered { bring: 2, all: false }]);
    case.pass(ms(FIND_AGAIN) + 1);
    let fetch = transfer(&bring(&mut case, 3, &[1]));
    assert_eq!(case.brought(fetch, Brought::NotThere), [Action::Find(topic(0))]);
    assert_eq!(case.found(&[]), [find_blob(need(1))]);
    // Who came meanwhile need not be waited for.
    let fetch = transfer(&case.met("ben"));
    assert_eq!(case.brought(fetch, Brought::Done), [Action::Delivered { bring: 3, all: true }]);
    assert_eq!(case.sources(need(1), &["cem"]), [], "nobody needs it any more");
    assert_eq!(case.plan.len(), 0);
}

#[test]
fn who_is_named_and_goes_or_lies_is_not_asked_again() {
    let mut case = lacking();
    let fetch = transfer(&case.sources(need(1), &["cem", "dan"]));
    let next = transfer(&case.feed(Event::Gone(peer("cem"))));
    assert_eq!(case.brought(fetch, Brought::Failed), []);
    assert_eq!(case.brought(next, Brought::Bad), [Action::Delivered { bring: 1, all: false }]);
    assert_eq!(case.plan.standing().of(&peer("dan")).bad, 1);
    // What nobody asked for is not believed.
    assert_eq!(case.sources(need(1), &["eve"]), []);
    assert_eq!(case.plan.len(), 0);
}

#[test]
fn only_so_many_are_asked_for_at_a_time_and_only_so_many_are_believed() {
    let mut case = Case::with(&["ann"]);
    let mut finds = BTreeSet::new();
    for number in 0..3 * MAX_BLOB_FINDS as u64 {
        let fetch = transfer(&bring(&mut case, number, &[number]));
        let mut after = case.brought(fetch, Brought::NotThere);
        if number == 0 {
            after = case.found(&[]);
        }
        finds.extend(after.into_iter().filter_map(|action| match action {
            Action::FindBlob { need, .. } => Some(need),
            Action::Delivered { all: false, .. } => None,
            other => panic!("{other:?}"),
        }));
    }
    assert_eq!(finds.len(), MAX_BLOB_FINDS);
    let names: Vec<_> = (0..3 * MAX_SOURCES).map(|number| format!("peer-{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut tried = 0;
    let mut next = case.sources(need(0), &names);
    while let [(fetch, ..)] = fetched(&next)[..] {
        tried += 1;
        next = case.brought(fetch, Brought::NotThere);
    }
    assert_eq!((tried, next), (MAX_SOURCES, vec![Action::Delivered { bring: 0, all: false }]));
}

#[test]
fn what_is_brought_comes_from_those_named_with_it_where_nobody_holds_the_topic() {
    let mut case = Case::with(&[]);
    let named = |case: &mut Case, bring, blob, names: &[&str]| {
        let among = names.iter().map(|name| peer(name)).collect();
        let blobs = vec![need(blob)];
        case.feed(Event::Bring { bring, topic: topic(0), blobs, among, until: at(90_000) })
    };
    let fetch = named(&mut case, 1, 1, &["cem"]);
    let [(number, "cem", blob)] = fetched(&fetch)[..] else { panic!("{fetch:?}") };
    assert_eq!(blob, need(1));
    assert_eq!(case.brought(number, Brought::Done), [Action::Delivered { bring: 1, all: true }]);
    assert_eq!(bring(&mut case, 2, &[2]), [Action::Find(topic(0))], "he is no holder for that");
    let names: Vec<_> = (0..3 * MAX_SOURCES).map(|number| format!("peer-{number}")).collect();
    let names: Vec<_> = names.iter().map(String::as_str).collect();
    let mut tried = 0;
    let mut next = named(&mut case, 3, 3, &names);
    while let [(fetch, ..)] = fetched(&next)[..] {
        tried += 1;
        next = case.brought(fetch, Brought::NotThere);
    }
    assert_eq!(tried, MAX_SOURCES);
}

#[test]
fn pieces_come_from_whom_the_dht_names_beside_the_holders() {
    let (mut case, actions) = begun(&["ann"], &[]);
    let [(ann, ..)] = asked_pieces(&actions)[..] else { panic!("{actions:?}") };
    assert_eq!(case.brought(ann, Brought::Busy), [Action::Find(topic(0))]);
    assert_eq!(case.found(&[]), []);
    // She is busy still, and no other holder is known.
    let again = case.pass(300);
    let [(ann, ..)] = asked_pieces(&again)[..] else { panic!("{again:?}") };
    assert_eq!(case.brought(ann, Brought::Busy), [find_blob(large())]);
    let mut actions = case.sources(large(), &["cem"]);
    let mut came = 0;
    let mut todo = std::collections::VecDeque::new();
    loop {
        todo.extend(asked_pieces(&actions));
        let Some((number, who, pieces)) = todo.pop_front() else { break };
        assert_eq!(who, "cem");
        actions = case.feed(Event::Has { transfer: number, has: Has::All });
        came += pieces.len() as u64;
        actions.extend(comes(&mut case, number, &pieces));
        let outcome = if came < COUNT { Brought::Part } else { Brought::Done };
        actions.extend(case.brought(number, outcome));
    }
    assert!(actions.contains(&Action::Delivered { bring: 1, all: true }), "{actions:?}");
}
