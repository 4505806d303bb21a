// SPDX-License-Identifier: MIT OR Apache-2.0
//! Announcements over days, restarts and random worlds.

use potluck_keys::pair::Signer;
use potluck_protocol::action::Project;

use super::*;

fn at(ms: u64) -> Moment {
    Moment::after_start(Duration::from_millis(ms))
}

fn topic(number: u8) -> Topic {
    Topic { signer: Signer::from_bytes([number; 32]), project: Project::default() }
}

fn heads(number: u8) -> What {
    What::Heads(topic(number))
}

fn blob(number: u64) -> What {
    What::Blob(Digest::of(&number.to_le_bytes()))
}

fn net() -> String {
    "office".to_owned()
}

fn said(what: &What, well: bool) -> Event {
    Event::Said { network: net(), what: what.clone(), well }
}

fn plan() -> Announce {
    Announce::new(7)
}

/// All that is to be said now, and what is to be kept and withdrawn.
fn all(plan: &mut Announce, now: Moment) -> (Vec<What>, Vec<Do>) {
    let (mut says, mut others) = (Vec::new(), Vec::new());
    while let Some(action) = plan.take(now) {
        match action {
            Do::Say(_, what) => says.push(what),
            other => others.push(other),
        }
    }
    assert!(plan.wake_at().is_none_or(|at| at > now));
    (says, others)
}

fn says(plan: &mut Announce, now: Moment) -> Vec<What> {
    all(plan, now).0
}

#[test]
fn what_failed_is_said_again_and_what_changed_at_once() {
    let mut plan = plan();
    plan.feed(at(0), Event::Say(net(), heads(1)));
    assert_eq!(says(&mut plan, at(0)), [heads(1)]);
    plan.feed(at(10), said(&heads(1), false));
    let again = plan.wake_at().unwrap();
    assert!(again >= at(760) && again <= at(1_010), "{again:?}");
    plan.feed(at(20), Event::Joined(net()));
    assert_eq!(says(&mut plan, at(20)), [heads(1)]);
    plan.feed(at(30), Event::Say(net(), heads(1)));
    plan.feed(at(40), said(&heads(1), true));
    assert_eq!(says(&mut plan, at(40)), [], "not again at once");
    let hour = at(40).plus(CHANGED_AFTER).plus(CHANGED_SLACK);
    assert_eq!(says(&mut plan, hour), [heads(1)], "it changed while it was being said");
    let later = |ms| hour.plus(Duration::from_millis(ms));
    plan.feed(later(10), said(&heads(1), true));
    assert!(plan.wake_at().is_none_or(|at| at > hour.plus(HEADS_EVERY / 3)));
    plan.feed(later(60), Event::Joined(net()));
    plan.feed(later(60), Event::Stand(net(), heads(1)));
    assert_eq!(says(&mut plan, later(60)), [], "there is nothing to repeat");
    plan.feed(later(70), Event::Unsay(net(), heads(1)));
    let withdraw = Do::Withdraw(net(), heads(1));
    assert_eq!(all(&mut plan, later(70)).1, [Do::Keep(net(), heads(1), None), withdraw]);
    assert_eq!(plan.wake_at(), None);
}

#[test]
fn heads_that_change_all_day_stay_within_the_budget_and_are_not_silent_for_long() {
    let mut plan = plan();
    let (mut requests, mut log, mut second) = (0, Vec::new(), 0);
    plan.feed(at(0), Event::Stand(net(), What::Holds(topic(1))));
    while second < 86_400 {
        let now = Moment::default().plus(Duration::from_secs(second));
        // Somebody builds, and is published from, without a pause.
        plan.feed(now, Event::Say(net(), heads(1)));
        while let Some(action) = plan.take(now) {
            if let Do::Say(_, what) = action {
                requests += what.cost();
                if what == heads(1) {
                    log.push(now);
                }
                plan.feed(now, said(&what, true));
            }
        }
        second += 1;
    }
    assert_eq!(log[0], at(0), "what is new does not wait");
    assert!(requests <= plan.a_day() + AT_THE_START + 2 * heads(1).cost(), "{requests}");
    assert!(requests >= plan.a_day() / 10 * 9, "{requests}: what may be said is");
    let longest = log.windows(2).map(|pair| pair[1].since(pair[0])).max().unwrap();
    assert!(longest <= CHANGED_AFTER + CHANGED_SLACK, "{longest:?}");
}

#[test]
fn only_so_much_is_said_at_a_time() {
    let mut plan = plan();
    for number in 0..20 {
        plan.feed(at(0), Event::Say(net(), heads(number)));
    }
    assert_eq!(says(&mut plan, at(0)).len(), MAX_RUNNING);
    plan.feed(at(1), Event::Unsay(net(), heads(0)));
    plan.feed(at(1), said(&heads(0), true));
    assert_eq!(says(&mut plan, at(1)).len(), 1);
}

#[test]
fn what_was_taken_back_on_its_way_is_taken_back_once_it_is_there() {
    let mut plan = plan();
    plan.feed(at(0), Event::Say(net(), blob(1)));
    plan.feed(at(0), Event::Keys(1_000_000));
    assert_eq!(says(&mut plan, at(60_000)), [blob(1)]);
    plan.feed(at(60_001), Event::Unsay(net(), blob(1)));
    let _ = all(&mut plan, at(60_001));
    plan.feed(at(60_002), said(&blob(1), true));
    assert_eq!(all(&mut plan, at(60_002)).1, [Do::Withdraw(net(), blob(1))]);
}

#[test]
fn no_blob_is_said_to_be_where_something_is_shared_no_more() {
    let mut plan = plan();
    let stood = BTreeMap::from([(blob(1), at(1_000_000)), (heads(1), at(1_000_000))]);
    plan.feed(at(0), Event::Stood(net(), stood));
    plan.feed(at(0), Event::Say(net(), blob(2)));
    plan.feed(at(0), Event::Say("elsewhere".to_owned(), blob(3)));
    plan.feed(at(0), Event::Keys(1_000_000));
    for (network, number) in [(net(), 2), ("elsewhere".to_owned(), 3)] {
        let _ = all(&mut plan, at(60_000));
        plan.feed(at(60_000), Event::Said { network, what: blob(number), well: true });
    }
    let _ = all(&mut plan, at(60_001));
    plan.feed(at(60_002), Event::UnsayBlobs(net()));
    let done = all(&mut plan, at(60_002)).1;
    for number in [1, 2] {
        assert!(done.contains(&Do::Withdraw(net(), blob(number))), "{number}: {done:?}");
    }
    assert_eq!(done.iter().filter(|done| matches!(done, Do::Withdraw(..))).count(), 2, "{done:?}");
}

/// Lets days pass; gives when each thing was said, and how it stands in the end.
fn days(plan: &mut Announce, from: Moment, days: u64) -> (Vec<(Moment, What)>, BTreeMap<Key, Moment>) {
    let (end, mut now) = (from.plus(Duration::from_secs(days * 86_400)), from);
    let (mut log, mut kept) = (Vec::new(), BTreeMap::new());
    loop {
        while let Some(action) = plan.take(now) {
            match action {
                Do::Say(network, what) => {
                    log.push((now, what.clone()));
                    plan.feed(now, Event::Said { network, what, well: true });
                }
                Do::Keep(network, what, Some(due)) => drop(kept.insert((network, what), due)),
                Do::Keep(network, what, None) => drop(kept.remove(&(network, what))),
                Do::Withdraw(..) => {}
            }
        }
        match plan.wake_at() {
            Some(wake) if wake < end => now = wake,
            _ => return (log, kept),
        }
    }
}

#[test]
fn a_restart_says_nothing_that_stands() {
    let mut first = plan();
    for number in 0..50 {
        first.feed(at(0), Event::Stand(net(), What::Holds(topic(number))));
    }
    let (log, kept) = days(&mut first, at(0), 1);
    assert!(log.len() >= 100 && kept.len() == 50, "{}", log.len());
    // The next run begins its time anew, half an hour later.
    let day = at(86_400_000 + 1_800_000);
    let before: BTreeMap<_, _> =
        kept.into_iter().map(|((_, what), due)| (what, Moment::default().plus(due.since(day)))).collect();
    let mut second = Announce::new(8);
    second.feed(at(0), Event::Stood(net(), before.clone()));
    for number in 0..49 {
        second.feed(at(0), Event::Stand(net(), What::Holds(topic(number))));
    }
    second.feed(at(0), Event::Stand(net(), heads(1)));
    let now = says(&mut second, at(0));
    let due = before.values().filter(|due| **due == at(0)).count();
    assert!(now.len() <= due + 1 && now.contains(&heads(1)), "{} of {due}", now.len());
    // What nobody wants any more is taken back in the end.
    let gone = What::Holds(topic(49));
    let later = all(&mut second, Moment::default().plus(SETTLED)).1;
    assert!(later.contains(&Do::Withdraw(net(), gone)), "{later:?}");
    // A change is said all the same.
    let mut third = Announce::new(9);
    third.feed(at(0), Event::Stood(net(), before));
    third.feed(at(0), Event::Say(net(), What::Holds(topic(1))));
    assert_eq!(says(&mut third, at(0)), [What::Holds(topic(1))]);
}

#[test]
fn what_was_said_together_is_said_again_at_different_times() {
    let mut plan = plan();
    plan.feed(at(0), Event::Keys(1_000_000));
    for number in 0..100 {
        plan.feed(at(0), Event::Stand(net(), What::Holds(topic(number))));
    }
    let (log, _) = days(&mut plan, at(0), 4);
    // In no quarter of an hour after the first is much more said than on average.
    let mut quarters = BTreeMap::<u64, usize>::new();
    for (at, _) in &log {
        *quarters.entry(at.since(Moment::default()).as_secs() / 900).or_default() += 1;
    }
    let (average, most) =
        (log.len() / quarters.len(), quarters.iter().skip(1).map(|(_, count)| *count).max());
    assert!(most.unwrap() <= 10 + 3 * average, "{most:?} of {average}");
    // The DHT forgets after 48 hours, and nothing was silent for as long as that.
    for number in 0..100 {
        let of = What::Holds(topic(number));
        let times: Vec<_> = log.iter().filter(|(_, what)| *what == of).map(|(at, _)| *at).collect();
        assert!(times.windows(2).all(|pair| pair[1].since(pair[0]) <= HOLDS_EVERY), "{number}");
        assert!(times.len() >= 5);
    }
}

#[test]
fn a_million_keys_cost_little() {
    const KEYS: u64 = 1_000_000;
    const DAYS: u64 = 7;
    for (topics, blobs) in [(1, 0), (20, 0), (20, 10_000), (200, 10_000)] {
        let mut plan = plan();
        plan.feed(at(0), Event::Keys(KEYS));
        for number in 0..topics {
            plan.feed(at(0), Event::Stand(net(), What::Holds(topic(number))));
            plan.feed(at(0), Event::Stand(net(), heads(number)));
        }
        let mut requests = 0;
        let mut last = BTreeMap::<What, (Moment, Duration)>::new();
        for day in 0..DAYS {
            // All day long others ask for other Blobs.
            for hour in 0..24 {
                let now = at((day * 24 + hour) * 3_600_000);
                for number in 0..blobs / 24 {
                    plan.feed(now, Event::Stand(net(), blob(hour * 1_000_000 + number)));
                }
                let mut now = now;
                let end = at((day * 24 + hour + 1) * 3_600_000);
                while now < end {
                    while let Some(action) = plan.take(now) {
                        if let Do::Say(network, what) = action {
                            requests += what.cost();
                            if !matches!(what, What::Blob(_)) {
                                let (at, longest) = last.entry(what.clone()).or_insert((now, Duration::ZERO));
                                *longest = now.since(*at).max(*longest);
                                *at = now;
                            }
                            plan.feed(now, Event::Said { network, what, well: true });
                        }
                    }
                    now = plan.wake_at().unwrap_or(end).min(end);
                }
            }
        }
        let each = requests as f64 / (KEYS * DAYS) as f64;
        println!("{topics} topics, {blobs} blobs in demand a day: {each:.4} requests a key and day");
        assert!(each <= 0.05, "{each}");
        assert!(blobs == 0 || each > 0.02, "blobs are said as far as there is room for them");
        let slowest = last.values().map(|(_, longest)| *longest).max().unwrap_or_default();
        assert!(slowest < Duration::from_secs(48 * 3600), "{slowest:?}");
    }
}

#[test]
fn blobs_wait_their_turn_and_end_with_the_demand() {
    let mut plan = plan();
    assert!(says(&mut plan, at(0)).is_empty());
    for number in 0..20 {
        plan.feed(at(0), Event::Stand(net(), blob(1_000_000 + number)));
    }
    let first = says(&mut plan, at(0));
    assert_eq!(first.len() as u64, AT_THE_START.div_ceil(COST), "what a start has is for the first of them");
    first.iter().for_each(|what| plan.feed(at(0), said(what, true)));
    for number in 0..2 * MAX_BLOBS as u64 {
        plan.feed(at(number), Event::Stand(net(), blob(number)));
    }
    assert_eq!(plan.blobs.len(), MAX_BLOBS);
    // Topics pass those that cannot be paid.
    plan.feed(at(3000), Event::Stand(net(), heads(1)));
    let now = says(&mut plan, at(3000));
    assert!(now.contains(&heads(1)) && now.len() < MAX_RUNNING, "{now:?}");
    let later = at(3000).plus(BLOB_FOR);
    let (_, others) = all(&mut plan, later);
    let gone = others.iter().filter(|done| matches!(done, Do::Withdraw(..))).count();
    assert_eq!(gone, MAX_BLOBS);
    assert!(plan.blobs.is_empty() && plan.all.len() == 1);
}

#[test]
fn blobs_that_many_ask_for_and_large_ones_are_announced() {
    let mut plan = plan();
    plan.feed(at(0), Event::Keys(1_000_000));
    let asked =
        |digest, size, peer: u64| Event::Asked { network: net(), digest, size, peer: peer.to_string() };
    let (hot, cold) = (Digest::of(b"hot"), Digest::of(b"cold"));
    for peer in 0..20 {
        plan.feed(at(600_000), asked(hot, 100, peer));
        plan.feed(at(600_000), asked(cold, 100, peer % 3));
    }
    plan.feed(at(600_000), asked(Digest::of(b"large"), 8 << 20, 1));
    let (now, expected) = (says(&mut plan, at(600_000)), [hot, Digest::of(b"large")].map(What::Blob));
    assert_eq!(now.iter().collect::<BTreeSet<_>>(), expected.iter().collect());
}

#[test]
fn what_fails_again_and_again_costs_no_more_than_there_is() {
    let mut plan = plan();
    for number in 0..100 {
        plan.feed(at(0), Event::Stand(net(), heads(number)));
    }
    let (mut now, mut requests) = (at(0), 0);
    while now < at(86_400_000) {
        while let Some(action) = plan.take(now) {
            if let Do::Say(network, what) = action {
                requests += what.cost();
                plan.feed(now, Event::Said { network, what, well: false });
            }
        }
        now = plan.wake_at().unwrap();
    }
    let first = u64::from(FAILURES) * 100 * heads(1).cost();
    assert!(requests <= plan.a_day() + first + 1000, "{requests}");
}

/// One random world: attempts end once each, well or not, whenever chance has it.
fn world(seed: u64) -> Vec<String> {
    let mut chance = fastrand::Rng::with_seed(seed);
    let (mut now, mut log) = (0, Vec::new());
    let before = (0..5).map(|number| (heads(number), at(chance.u64(..5000)))).collect();
    let mut plan = Announce::new(seed);
    plan.feed(at(0), Event::Stood(net(), before));
    let mut running = Vec::<Key>::new();
    // What should stand but was not said well since it was last to be said.
    let mut owed = BTreeSet::new();
    for step in 0..600 {
        let last = step >= 300;
        let what = if chance.bool() { heads(chance.u8(..30)) } else { blob(chance.u64(..10)) };
        let event = match chance.u8(..9) {
            0 | 1 if !last => {
                if matches!(what, What::Heads(_)) {
                    owed.insert(what.clone());
                }
                Event::Say(net(), what)
            }
            2 if !last => Event::Stand(net(), what),
            3 if !last => {
                owed.remove(&what);
                Event::Unsay(net(), what)
            }
            4 => Event::Joined(net()),
            5 => Event::Keys(chance.u64(..10_000_000)),
            _ if !running.is_empty() => {
                let (network, what) = running.swap_remove(chance.usize(..running.len()));
                Event::Said { network, what, well: last || chance.bool() }
            }
            _ => Event::Said { network: net(), what: heads(99), well: false },
        };
        log.push(format!("{now} {event:?}"));
        plan.feed(at(now), event);
        while let Some(action) = plan.take(at(now)) {
            log.push(format!("{now} {action:?}"));
            if let Do::Say(network, what) = action {
                let key = (network, what);
                assert!(!running.contains(&key) && running.len() < MAX_RUNNING);
                owed.remove(&key.1);
                running.push(key);
            }
        }
        assert!(plan.wake_at().is_none_or(|wake| wake > at(now)));
        assert!(plan.due.len() + plan.running.len() >= plan.all.len());
        now += chance.u64(..if last { 100_000 } else { 1000 });
    }
    assert!(owed.is_empty(), "{owed:?} was never said");
    log
}

#[test]
fn in_any_world_everything_is_said_once_at_a_time() {
    for seed in 0..300 {
        let run = std::panic::catch_unwind(|| world(seed)).unwrap_or_else(|_| panic!("seed {seed}"));
        assert!(seed > 20 || run == world(seed), "seed {seed} is told differently");
    }
}
