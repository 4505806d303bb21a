// SPDX-License-Identifier: MIT OR Apache-2.0
//! One local network, without any configuration: mDNS.

use potluck_tests::hosts::Lab;
use potluck_tests::program::Person;

use super::{Office, expect, follows, in_full, keys, meets, noise, put, seconds};

#[test]
fn five_hosts_on_a_bridge_find_each_other_and_share() {
    let Some(mut lab) = Lab::new() else { return };
    let switch = lab.switch("switch");
    let mut hosts = Vec::new();
    for number in 1..=5 {
        let host = lab.host(&format!("host{number}"));
        lab.plug(&host, &switch, &format!("10.77.0.{number}/24"));
        hosts.push(host);
    }
    let office = Office::on(&hosts);
    let _up: Vec<_> = office.people.iter().map(|person| person.up(&[])).collect();
    for person in &office.people {
        meets(person, 4);
    }
    let (ann, others) = office.people.split_first().unwrap();
    let output = noise(3 << 20, 1);
    put(ann, "01", &output);
    for person in others {
        follows(person, 1);
        expect(person, "01", &output);
    }
}

#[test]
fn an_interface_that_comes_up_later_is_used() {
    let Some(mut lab) = Lab::new() else { return };
    let switch = lab.switch("switch");
    let (here, late) = (lab.host("here"), lab.host("late"));
    lab.plug(&here, &switch, "10.77.0.1/24");
    let office = Office::on(&[here, late.clone()]);
    let _up: Vec<_> = office.people.iter().map(|person| person.up(&[])).collect();
    let listens = |person: &Person| {
        let status = person.status();
        super::rows(&status["networks"][super::NETWORK]["listen"])
            .iter()
            .any(|address| address.as_str().unwrap().starts_with("/ip4/10.77.0.2/"))
    };
    let [ann, ben] = &office.people[..] else { unreachable!() };
    assert!(!listens(ben), "it has no such address yet");
    lab.plug(&late, &switch, "10.77.0.2/24");
    meets(ben, 1);
    ben.until("the new address", |_| listens(ben));
    let output = noise(3 << 20, 1);
    put(ann, "01", &output);
    follows(ben, 1);
    expect(ben, "01", &output);
}

#[test]
fn who_cannot_reach_the_signer_hears_by_asking_those_who_hold_what_she_made() {
    beyond(|[_, ben, cat], output| {
        expect(ben, "01", output);
        follows(cat, 1);
        expect(cat, "01", output);
    });
}

#[test]
fn who_cannot_reach_the_signer_hears_by_asking_those_who_only_follow_her() {
    beyond(|[ann, _, cat], output| {
        follows(cat, 1);
        // What comes just after she asked waits longest: for a whole interval, which is a minute at most.
        for number in 2..if in_full() { 6 } else { 2 } {
            put(ann, &format!("{number:02}"), output);
            let took = seconds(|| {
                // Some ten milliseconds each: longer than other tests wait.
                let mut statuses = std::iter::repeat_with(|| cat.status()).take(12_000);
                statuses.find(|status| keys(status) == number).expect("she hears of it");
            });
            eprintln!("key {number} was heard of after {took:.1} s");
        }
    });
}

/// Ann and cat are on two local networks, and only ben is on both. What ann made is listed in her Catalog, and ben
/// knows that; then `hears` is run with them.
fn beyond(hears: impl FnOnce([&Person; 3], &[u8])) {
    let Some(mut lab) = Lab::new() else { return };
    let [left, right] = ["left", "right"].map(|name| lab.switch(name));
    let [ann, ben, cat] = ["ann", "ben", "cat"].map(|name| lab.host(name));
    lab.plug(&ann, &left, "10.77.0.1/24");
    lab.plug(&ben, &left, "10.77.0.2/24");
    lab.plug(&ben, &right, "10.78.0.2/24");
    lab.plug(&cat, &right, "10.78.0.3/24");
    let office = Office::on(&[ann, ben, cat]);
    let _up: Vec<_> = office.people.iter().map(|person| person.up(&[])).collect();
    let [ann, ben, cat] = &office.people[..] else { unreachable!() };
    meets(ben, 2);
    let output = noise(3 << 20, 1);
    put(ann, "01", &output);
    follows(ben, 1);
    hears([ann, ben, cat], &output);
    let status = cat.status();
    assert_eq!(super::rows(&status["peers"]).len(), 1, "she is connected to ben alone: {status:#}");
    let catalog = super::rows(&status["catalogs"]).iter().find(|row| row["signer"] == "ann").unwrap();
    assert_ne!(catalog["source"], "push", "nobody pushes it to her: {catalog}");
}
