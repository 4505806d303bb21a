// SPDX-License-Identifier: MIT OR Apache-2.0
//! The fetch Plan in single cases. Random worlds are in [`worlds`].

mod crowd;
mod pieces;
mod sources;
mod worlds;
mod worth;

use std::collections::BTreeSet;
use std::time::Duration;

use potluck_keys::pair::Signer;
use potluck_protocol::action::{ActionId, Project, Recipe};
use potluck_protocol::control::Miss;
use potluck_protocol::digest::Digest;
use potluck_protocol::peer::Topic;

use super::event::{Action, Brought, Event, Need, Space, Verdict};
use super::plan::{AFTERLIFE, Fetch, HEDGE_AFTER, MIN_TRANSFER, NOTHING_FOR};
use super::transfers::{MAX_TRANSFERS, MAX_TRANSFERS_PER_PEER, PATIENCE, SMALL_ONES};

/// Most small Blobs at a time, from all peers and from one.
const MOST: usize = MAX_TRANSFERS * SMALL_ONES;
const MOST_OF_ONE: usize = MAX_TRANSFERS_PER_PEER * SMALL_ONES;
use crate::peer::Peer;
use crate::plan::{Moment, Plan as _};

fn at(ms: u64) -> Moment {
    Moment::after_start(Duration::from_millis(ms))
}

fn ms(span: Duration) -> u64 {
    span.as_millis().try_into().unwrap()
}

fn topic(number: u8) -> Topic {
    Topic { signer: Signer::from_bytes([number; 32]), project: Project::default() }
}

fn action(number: u8) -> ActionId {
    ActionId::from_bytes([number; 32])
}

fn need(number: u64) -> Need {
    Need { digest: Digest::of(&number.to_le_bytes()), size: 100 }
}

fn space() -> Space {
    Space { project: Project::default(), recipe: Recipe::new("rustc@1").unwrap() }
}

fn peer(name: &str) -> Peer {
    Peer::new("office", name)
}

fn needs(blobs: impl IntoIterator<Item = u64>, cost_ms: u64) -> Verdict {
    Verdict::Needs { blobs: blobs.into_iter().map(need).collect(), cost: Duration::from_millis(cost_ms) }
}

/// A Plan with a clock that only goes forward, and short words for what happens.
struct Case {
    plan: Fetch,
    now: Moment,
}

impl Case {
    /// These hold topic 0.
    fn with(holders: &[&str]) -> Self {
        let mut case = Self { plan: Fetch::new(1), now: at(0) };
        for name in holders {
            assert_eq!(case.met(name), []);
        }
        case
    }

    fn feed(&mut self, event: Event) -> Vec<Action> {
        self.plan.feed(self.now, event);
        self.take()
    }

    fn take(&mut self) -> Vec<Action> {
        let actions = std::iter::from_fn(|| self.plan.take(self.now)).collect();
        assert!(self.plan.wake_at().is_none_or(|at| at > self.now));
        self.plan.len();
        actions
    }

    /// Lets time pass, waking the Plan whenever it wants.
    fn pass(&mut self, until: u64) -> Vec<Action> {
        let mut actions = Vec::new();
        while let Some(next) = self.plan.wake_at().filter(|next| *next <= at(until)) {
            self.now = next;
            actions.extend(self.take());
        }
        self.now = at(until);
        actions
    }

    fn look(&mut self, look: u64, number: u8, until: u64) -> Vec<Action> {
        let actions = vec![(action(number), vec![topic(0)])];
        self.feed(Event::Look { look, space: space(), actions, until: at(until) })
    }

    fn met(&mut self, name: &str) -> Vec<Action> {
        self.feed(Event::Holders { topic: topic(0), peers: vec![peer(name)], sought: false })
    }

    fn found(&mut self, names: &[&str]) -> Vec<Action> {
        let peers = names.iter().map(|name| peer(name)).collect();
        self.feed(Event::Holders { topic: topic(0), peers, sought: true })
    }

    /// The DHT names these as having a Blob.
    fn sources(&mut self, need: Need, names: &[&str]) -> Vec<Action> {
        let peers = names.iter().map(|name| peer(name)).collect();
        self.feed(Event::Sources { need, peers })
    }

    fn answer(&mut self, question: u64, number: u8, verdict: Verdict) -> Vec<Action> {
        self.feed(Event::Answered { question, verdicts: Some(vec![(action(number), verdict)]) })
    }

    fn knows_nothing(&mut self, question: u64) -> Vec<Action> {
        self.feed(Event::Answered { question, verdicts: Some(Vec::new()) })
    }

    fn silent(&mut self, question: u64) -> Vec<Action> {
        self.feed(Event::Answered { question, verdicts: None })
    }

    fn brought(&mut self, transfer: u64, outcome: Brought) -> Vec<Action> {
        self.feed(Event::Brought { transfer, outcome })
    }

    fn reviewed(&mut self, number: u8, verdict: Verdict) -> Vec<Action> {
        self.feed(Event::Reviewed { action: action(number), verdict })
    }
}

/// The DHT is to be asked who has a Blob.
fn find_blob(need: Need) -> Action {
    Action::FindBlob { need, projects: BTreeSet::from([Project::default()]) }
}

/// The questions among these: number and peer.
fn asked(actions: &[Action]) -> Vec<(u64, &str)> {
    let asked = |action| match action {
        &Action::Ask { question, ref peer, .. } => Some((question, &*peer.id)),
        _ => None,
    };
    actions.iter().filter_map(asked).collect()
}

/// The transfers among these: number, peer and Blob.
fn fetched(actions: &[Action]) -> Vec<(u64, &str, Need)> {
    let fetched = |action| match action {
        &Action::Fetch { transfer, ref peer, need, .. } => Some((transfer, &*peer.id, need)),
        _ => None,
    };
    actions.iter().filter_map(fetched).collect()
}

/// The only question among these.
#[track_caller]
fn question(actions: &[Action]) -> u64 {
    let [(question, _)] = asked(actions)[..] else { panic!("not one question: {actions:?}") };
    question
}

/// The only transfer among these.
#[track_caller]
fn transfer(actions: &[Action]) -> u64 {
    let [(transfer, ..)] = fetched(actions)[..] else { panic!("not one transfer: {actions:?}") };
    transfer
}

fn settle(look: u64, number: u8, miss: Option<Miss>) -> Action {
    Action::Settle { look, action: action(number), miss }
}

#[test]
fn what_is_wanted_first_is_asked_for_first_and_fetched_first() {
    let mut case = Case::with(&["a"]);
    let actions = [9, 3, 7].map(|number| (action(number), vec![topic(0)])).to_vec();
    let asked = case.feed(Event::Look { look: 1, space: space(), actions, until: at(100) });
    let [Action::Ask { question, actions, .. }] = &asked[..] else { panic!("{asked:?}") };
    assert_eq!(*actions, [9, 3, 7].map(action));
    let verdicts = actions.iter().zip([2, 1, 3]).map(|(action, blob)| (*action, needs([blob], 10)));
    let fetched = case.feed(Event::Answered { question: *question, verdicts: Some(verdicts.collect()) });
    let blobs = fetched.iter().filter_map(|action| match action {
        Action::Fetch { need, .. } => Some(*need),
        _ => None,
    });
    assert_eq!(blobs.collect::<Vec<_>>(), [2, 1, 3].map(need));
}

#[test]
fn whoever_leaves_ends_what_was_for_him_alone() {
    let mut case = Case::with(&["a"]);
    let look = |look, numbers: &[u8]| {
        let actions = numbers.iter().map(|number| (action(*number), vec![topic(0)])).collect();
        Event::Look { look, space: space(), actions, until: at(100) }
    };
    let asked = case.feed(look(1, &[1, 2]));
    let [Action::Ask { question, .. }] = asked[..] else { panic!("{asked:?}") };
    case.feed(look(2, &[2]));
    case.feed(Event::Answered {
        question,
        verdicts: Some(vec![(action(1), needs([1], 10)), (action(2), needs([2], 10))]),
    });
    assert_eq!(case.feed(Event::Leave { look: 1 }), [], "nobody is told");
    assert_eq!(case.feed(Event::Leave { look: 1 }), []);
    let again = case.feed(look(3, &[1, 2]));
    let [Action::Ask { actions, .. }] = &again[..] else { panic!("{again:?}") };
    assert_eq!(*actions, [action(1)], "the other one is still looked for");
}

#[test]
fn a_hit_with_all_that_it_names_settles_at_once() {
    let mut case = Case::with(&["ann"]);
    let ask = question(&case.look(1, 1, 100));
    assert_eq!(case.answer(ask, 1, Verdict::Here), [settle(1, 1, None)]);
    assert_eq!((case.plan.len(), case.plan.wake_at()), (0, None));
}

#[test]
fn blobs_are_fetched_and_then_the_store_is_asked_again() {
    let mut case = Case::with(&["ann"]);
    let ask = question(&case.look(1, 1, 100));
    let fetch = transfer(&case.answer(ask, 1, needs([1], 0)));
    assert_eq!(case.brought(fetch, Brought::Done), [Action::Review(space(), action(1))]);
    // It was a Tree, and lists another one.
    let fetch = transfer(&case.reviewed(1, needs([2], 0)));
    assert_eq!(case.brought(fetch, Brought::Done), [Action::Review(space(), action(1))]);
    assert_eq!(case.reviewed(1, Verdict::Here), [settle(1, 1, None)]);
    assert_eq!(case.plan.len(), 0);
}

#[test]
fn what_came_and_is_missing_again_ends_the_search() {
    let mut case = Case::with(&["ann"]);
    let ask = question(&case.look(1, 1, 100));
    let fetch = transfer(&case.answer(ask, 1, needs([1], 0)));
    case.brought(fetch, Brought::Done);
    assert_eq!(case.reviewed(1, needs([1], 0)), [settle(1, 1, Some(Miss::Undeliverable))]);
}

#[test]
fn an_answer_that_was_judged_before_a_blob_came_does_no_harm() {
    let mut case = Case::with(&["ann", "ben"]);
    let looked = case.look(1, 1, 100);
    let [(ann, _), (ben, _)] = asked(&looked)[..] else { panic!("{looked:?}") };
    let fetch = transfer(&case.answer(ann, 1, needs([1], 0)));
    case.brought(fetch, Brought::Done);
    assert_eq!(case.answer(ben, 1, needs([1], 0)), [], "the store is being looked at");
    assert_eq!(case.reviewed(1, Verdict::Here), [settle(1, 1, None)]);
}

#[test]
fn nobody_knows_it_and_nobody_else_is_found() {
    let mut case = Case::with(&["ann"]);
    let ask = question(&case.look(1, 1, 5000));
    assert_eq!(case.knows_nothing(ask), [Action::Find(topic(0))]);
    assert_eq!(case.found(&["ann"]), [settle(1, 1, Some(Miss::Unclaimed))]);
    assert_eq!(case.look(2, 1, 5000), [settle(2, 1, Some(Miss::Unclaimed))], "that is remembered");
    let ask = question(&case.look(3, 2, 5000));
    assert_eq!(case.knows_nothing(ask), [settle(3, 2, Some(Miss::Unclaimed))], "the DHT was just asked");
}

#[test]
fn refused_claims_are_told_from_none_and_remembered_as_such() {
    let mut case = Case::with(&["ann"]);
    let ask = question(&case.look(1, 1, 5000));
    case.answer(ask, 1, Verdict::Refused);
    assert_eq!(case.found(&[]), [settle(1, 1, Some(Miss::Refused))]);
    assert_eq!(case.look(2, 1, 5000), [settle(2, 1, Some(Miss::Refused))]);
}

#[test]
fn claims_that_came_together_are_judged_together_before_they_come_to_nothing() {
    for (verdict, miss) in [(Verdict::Here, None), (Verdict::Refused, Some(Miss::Refused))] {
        let mut case = Case::with(&["ann", "ben"]);
        let looked = case.look(1, 1, 5000);
        let asks = asked(&looked);
        assert_eq!(asks.len(), 2);
        for (ask, _) in asks {
            case.answer(ask, 1, Verdict::Refused);
        }
        assert_eq!(case.found(&[]), [Action::Review(space(), action(1))]);
        assert_eq!(case.reviewed(1, verdict), [settle(1, 1, miss)]);
    }
}

#[test]
fn a_tool_is_told_at_its_deadline_and_the_search_goes_on_for_the_next() {
    let mut case = Case::with(&["ann"]);
    let ask = question(&case.look(1, 1, 100));
    assert_eq!(case.pass(99), []);
    assert_eq!(case.pass(100), [settle(1, 1, Some(Miss::Late))]);
    assert_eq!(case.look(2, 1, 10_000), [], "it was asked already");
    assert_eq!(case.answer(ask, 1, Verdict::Here), [settle(2, 1, None)]);
}

#[test]
fn the_afterlife_of_a_search_ends() {
    let mut case = Case::with(&["ann"]);
    let ask = question(&case.look(1, 1, 100));
    let fetch = transfer(&case.answer(ask, 1, needs([1, 2, 3, 4, 5], 0)).split_off(4));
    case.pass(ms(MIN_TRANSFER));
    assert_eq!(case.plan.wake_at(), Some(at(100).plus(AFTERLIFE)).min(Some(at(0).plus(PATIENCE))));
    case.pass(60_000);
    assert_eq!(case.plan.len(), 10, "five transfers run, and nobody wants them any more");
    case.brought(fetch, Brought::Failed);
    assert_eq!(case.plan.len(), 8);
}

#[test]
fn the_deadline_is_extended_once_to_what_building_would_take() {
    let mut case = Case::with(&["ann"]);
    let ask = question(&case.look(1, 1, 100));
    let fetch = transfer(&case.answer(ask, 1, needs([1], 60_000)));
    assert_eq!(case.pass(50_000), []);
    assert_eq!(case.look(2, 1, 50_100), [], "the second tool loses nothing by waiting either");
    case.brought(fetch, Brought::Done);
    transfer(&case.reviewed(1, needs([2], 60_000)));
    assert_eq!(case.pass(60_000), [settle(1, 1, Some(Miss::Late))]);
    assert_eq!(case.pass(109_999), []);
    assert_eq!(case.pass(110_000), [settle(2, 1, Some(Miss::Late))]);
}

#[test]
fn two_are_asked_and_a_third_when_they_take_long() {
    let mut case = Case::with(&["ann", "ben", "cem"]);
    let first = case.look(1, 1, 1000);
    assert_eq!(asked(&first).len(), 2);
    let hedge = ms(HEDGE_AFTER);
    assert_eq!(case.pass(hedge - 1), []);
    let second = case.pass(hedge);
    assert_eq!(asked(&second)[0].1, "cem");
    assert_eq!(case.answer(question(&second), 1, Verdict::Here), [settle(1, 1, None)]);
    for (question, _) in asked(&first) {
        assert_eq!(case.silent(question), []);
    }
    let next: Vec<_> = asked(&case.look(2, 2, 5000)).iter().map(|(_, whom)| whom.to_string()).collect();
    assert!(next.contains(&"cem".to_owned()), "who answers is asked: {next:?}");
}

#[test]
fn an_answer_for_a_search_that_ended_does_not_disturb_the_next_one() {
    let mut case = Case::with(&["ann", "ben"]);
    let first = case.look(1, 1, 100);
    let [(ann, _), (ben, _)] = asked(&first)[..] else { panic!("{first:?}") };
    let fetch = transfer(&case.answer(ann, 1, needs([1], 0)));
    assert_eq!(case.brought(fetch, Brought::NoRoom), [], "ben may know of something else");
    assert_eq!(case.pass(2100), [Action::Find(topic(0)), settle(1, 1, Some(Miss::Late))]);
    case.pass(60_000);
    assert_eq!(case.plan.len(), 1, "only ben's question is left");
    let second: Vec<_> = asked(&case.look(2, 1, 70_000)).iter().map(|(question, _)| *question).collect();
    assert_eq!(case.silent(ben), []);
    assert_eq!(case.knows_nothing(second[0]), [], "one more is to answer");
    assert_eq!(case.knows_nothing(second[1]), []);
    assert_eq!(case.found(&[]), [settle(2, 1, Some(Miss::Unclaimed))]);
}

#[test]
fn the_second_holder_is_tried_after_the_first() {
    let mut case = Case::with(&["ann", "ben"]);
    let first = case.look(1, 1, 100);
    let (ask, whom) = asked(&first)[0];
    let started = case.answer(ask, 1, needs([1], 0));
    assert_eq!(fetched(&started)[0].1, whom, "who knew comes first");
    let next = case.brought(transfer(&started), Brought::Failed);
    assert_ne!(fetched(&next)[0].1, whom);
    assert_eq!(case.brought(transfer(&next), Brought::Done), [Action::Review(space(), action(1))]);
}

#[test]
fn a_bad_piece_sends_to_another_holder_and_three_make_an_outcast() {
    let mut case = Case::with(&["liar"]);
    let ask = question(&case.look(1, 1, 100));
    let started = case.answer(ask, 1, needs([1, 2, 3, 4], 0));
    let all: Vec<_> = fetched(&started).iter().map(|(transfer, ..)| *transfer).collect();
    assert_eq!(all.len(), 4);
    case.met("ann");
    assert_eq!(fetched(&case.brought(all[0], Brought::Bad))[0].1, "ann");
    assert_eq!(fetched(&case.brought(all[1], Brought::Bad))[0].1, "ann");
    let dropped = case.brought(all[2], Brought::Bad);
    assert!(dropped.contains(&Action::Drop(peer("liar"))));
    assert_eq!(fetched(&dropped).len(), 2, "and the fourth is not waited for: {dropped:?}");
    assert_eq!(case.met("liar"), []);
    assert_eq!(asked(&case.look(2, 2, 100)).iter().map(|(_, whom)| *whom).collect::<Vec<_>>(), ["ann"]);
    assert_eq!(case.brought(all[3], Brought::Bad), []);
}

#[test]
fn holders_are_found_when_none_is_known() {
    let mut case = Case::with(&[]);
    assert_eq!(case.look(1, 1, 1000), [Action::Find(topic(0))]);
    assert_eq!(case.look(2, 2, 1000), [], "it is being asked");
    let asks = case.found(&["ann"]);
    let [Action::Ask { question, actions, .. }] = &asks[..] else { panic!("{asks:?}") };
    assert_eq!(*actions, [action(1), action(2)], "what goes to one peer goes together");
    let settled = [settle(1, 1, None), settle(2, 2, Some(Miss::Unclaimed))];
    assert_eq!(case.answer(*question, 1, Verdict::Here), settled);
}

#[test]
fn the_dht_is_asked_more_and_more_rarely() {
    let mut case = Case::with(&[]);
    let mut finds = 0;
    for second in 0..600 {
        case.pass(second * 1000);
        let actions = case.look(second, (second % 200) as u8, second * 1000 + 100);
        if actions.contains(&Action::Find(topic(0))) {
            finds += 1;
            case.found(&[]);
        }
    }
    assert!((10..=14).contains(&finds), "{finds}");
}

#[test]
fn every_topic_is_sought_at_the_same_time() {
    let mut case = Case::with(&[]);
    let actions = vec![(action(1), vec![topic(0), topic(1)])];
    let finds = case.feed(Event::Look { look: 1, space: space(), actions, until: at(1000) });
    assert!(finds.len() == 2 && [0, 1].iter().all(|number| finds.contains(&Action::Find(topic(*number)))));
    assert_eq!(case.found(&[]), [], "the other one may be found");
}

#[test]
fn tools_share_a_search_and_searches_share_a_transfer() {
    let mut case = Case::with(&["ann"]);
    let one = question(&case.look(1, 1, 1000));
    assert_eq!(case.look(2, 1, 1000), []);
    let two = question(&case.look(3, 2, 1000));
    let fetch = transfer(&case.answer(one, 1, needs([1], 0)));
    assert_eq!(case.answer(two, 2, needs([1], 0)), []);
    let mut reviews = case.brought(fetch, Brought::Done);
    reviews.sort_by_key(|action| format!("{action:?}"));
    assert_eq!(reviews, [1, 2].map(|number| Action::Review(space(), action(number))));
    assert_eq!(case.reviewed(1, Verdict::Here), [settle(1, 1, None), settle(2, 1, None)]);
    assert_eq!(case.reviewed(2, Verdict::Here), [settle(3, 2, None)]);
}

#[test]
fn one_wrong_size_does_not_spoil_the_right_one() {
    let mut case = Case::with(&["ann"]);
    let one = question(&case.look(1, 1, 1000));
    let two = question(&case.look(2, 2, 1000));
    let wrong = Need { size: 7, ..need(1) };
    let blobs = vec![wrong];
    let first = transfer(&case.answer(one, 1, Verdict::Needs { blobs, cost: Duration::ZERO }));
    let second = case.answer(two, 2, needs([1], 0));
    assert_eq!(fetched(&second)[0].2, need(1));
    case.brought(first, Brought::Failed);
    assert_eq!(case.brought(transfer(&second), Brought::Done), [Action::Review(space(), action(2))]);
}

#[test]
fn that_there_was_nothing_is_forgotten_with_news_and_with_time() {
    let mut case = Case::with(&["ann"]);
    case.look(1, 1, 0);
    let mut look = 1;
    let mut is_sought = |case: &mut Case| {
        look += 1;
        let now = ms(case.now.since(at(0)));
        asked(&case.look(look, 1, now + 1000)).first().map(|(question, _)| *question)
    };
    case.knows_nothing(1 + 1);
    case.found(&[]);
    assert_eq!(is_sought(&mut case), None);
    case.feed(Event::Moved(topic(9)));
    assert_eq!(is_sought(&mut case), None, "that is news of something else");
    case.feed(Event::Moved(topic(0)));
    let ask = is_sought(&mut case).unwrap();
    case.knows_nothing(ask);
    assert_eq!(is_sought(&mut case), None);
    case.met("ben");
    let ask = is_sought(&mut case).unwrap();
    case.knows_nothing(ask);
    case.knows_nothing(ask + 1);
    assert_eq!(is_sought(&mut case), None);
    case.pass(ms(NOTHING_FOR));
    assert!(is_sought(&mut case).is_some());
}

#[test]
fn whoever_goes_away_is_not_waited_for_and_is_asked_again_on_return() {
    let mut case = Case::with(&["ann"]);
    let ask = question(&case.look(1, 1, 20_000));
    assert_eq!(case.feed(Event::Gone(peer("ann"))), [Action::Find(topic(0))]);
    let again = question(&case.met("ann"));
    assert_eq!(case.silent(ask), []);
    let fetch = transfer(&case.answer(again, 1, needs([1, 2, 3, 4, 5], 20_000)).split_off(4));
    assert_eq!(case.feed(Event::Gone(peer("ann"))), []);
    assert_eq!(fetched(&case.met("ann")).len(), 5);
    assert_eq!(case.brought(fetch, Brought::Failed), [], "that was before it went away");
    assert_eq!(case.plan.standing().of(&peer("ann")).failures, 0);
}

#[test]
fn a_transfer_whose_only_source_left_waits_a_moment() {
    let mut case = Case::with(&["ann"]);
    let ask = question(&case.look(1, 1, 20_000));
    let fetch = transfer(&case.answer(ask, 1, needs([1], 0)));
    case.feed(Event::Gone(peer("ann")));
    assert_eq!(case.brought(fetch, Brought::Failed), [Action::Find(topic(0))]);
    assert_eq!(case.found(&[]), [find_blob(need(1))]);
    assert_eq!(case.sources(need(1), &[]), []);
    assert_eq!(case.pass(999), []);
    let fetch = transfer(&case.met("ann"));
    case.feed(Event::Gone(peer("ann")));
    assert_eq!(case.brought(fetch, Brought::Failed), []);
    assert_eq!(case.pass(1998), []);
    assert_eq!(case.pass(1999), [settle(1, 1, Some(Miss::Undeliverable))]);
}

#[test]
fn slow_transfers_do_not_block_others() {
    let mut case = Case::with(&["a", "b"]);
    let blobs = (0..MOST as u64).map(need).collect();
    let started =
        case.feed(Event::Bring { bring: 1, topic: topic(0), blobs, among: Vec::new(), until: at(90_000) });
    assert_eq!(fetched(&started).len(), MOST);
    assert_eq!(case.met("honest"), [], "there is no place");
    let again = case.pass(ms(PATIENCE) + 100);
    let from: Vec<_> = fetched(&again).iter().map(|(_, whom, _)| *whom).collect();
    assert_eq!(from, ["honest"; MOST_OF_ONE]);
    let mut todo: Vec<_> = fetched(&again).iter().map(|(transfer, ..)| *transfer).collect();
    let mut delivered = Vec::new();
    while let Some(fetch) = todo.pop() {
        delivered = case.brought(fetch, Brought::Done);
        todo.extend(fetched(&delivered).iter().map(|(transfer, ..)| *transfer));
    }
    assert!(delivered.contains(&Action::Delivered { bring: 1, all: true }), "{delivered:?}");
    for (fetch, ..) in fetched(&started) {
        assert_eq!(case.brought(fetch, Brought::Failed), []);
    }
    assert_eq!(case.plan.len(), 0);
}

#[test]
fn a_slow_transfer_that_ends_at_last_makes_room() {
    let mut case = Case::with(&["ann"]);
    let blobs = (0..=MOST_OF_ONE as u64).map(need).collect();
    let started =
        case.feed(Event::Bring { bring: 1, topic: topic(0), blobs, among: Vec::new(), until: at(90_000) });
    assert_eq!(case.pass(20_000), [], "ann has no place for the last one");
    assert_eq!(fetched(&case.brought(fetched(&started)[0].0, Brought::Done)).len(), 1);
}

#[test]
fn a_claim_that_cannot_be_had_is_not_the_end_while_others_may_know_another() {
    let mut case = Case::with(&["ann", "ben"]);
    let first = case.look(1, 1, 5000);
    let [(ann, _), (ben, _)] = asked(&first)[..] else { panic!("{first:?}") };
    let fetch = transfer(&case.answer(ann, 1, needs([1], 0)));
    let fetch = transfer(&case.brought(fetch, Brought::Failed));
    case.brought(fetch, Brought::Failed);
    assert_eq!(case.found(&[]), [find_blob(need(1))]);
    assert_eq!(case.answer(ben, 1, Verdict::Here), [settle(1, 1, None)]);
}

#[test]
fn brings_end_once_whether_or_not_all_came() {
    let mut case = Case::with(&["ann"]);
    let bring = |case: &mut Case, bring, blobs: &[u64]| {
        let blobs = blobs.iter().copied().map(need).collect();
        case.feed(Event::Bring { bring, topic: topic(0), blobs, among: Vec::new(), until: at(5000) })
    };
    assert_eq!(bring(&mut case, 1, &[]), [Action::Delivered { bring: 1, all: true }]);
    let fetch = transfer(&bring(&mut case, 2, &[1]));
    assert_eq!(case.brought(fetch, Brought::Done), [Action::Delivered { bring: 2, all: true }]);
    let fetch = transfer(&bring(&mut case, 3, &[2]));
    assert_eq!(case.brought(fetch, Brought::NoRoom), [Action::Delivered { bring: 3, all: false }]);
    let fetch = transfer(&bring(&mut case, 5, &[4]));
    assert_eq!(case.brought(fetch, Brought::Failed), [Action::Find(topic(0))]);
    assert_eq!(case.found(&[]), [find_blob(need(4))]);
    assert_eq!(case.sources(need(4), &[]), [Action::Delivered { bring: 5, all: false }]);
    let fetch = transfer(&bring(&mut case, 4, &[3]));
    assert_eq!(case.pass(5000), [Action::Delivered { bring: 4, all: false }]);
    assert_eq!(case.brought(fetch, Brought::Done), []);
    assert_eq!(case.plan.len(), 0);
}

#[test]
fn what_is_numbered_wrongly_is_ignored() {
    let mut case = Case::with(&["ann"]);
    assert_eq!(case.brought(99, Brought::Done), []);
    assert_eq!(case.silent(99), []);
    assert_eq!(case.reviewed(9, needs([1], 0)), []);
    let ask = question(&case.look(1, 1, 1000));
    assert_eq!(case.answer(ask, 2, Verdict::Here), [Action::Find(topic(0))], "that was not the question");
}
