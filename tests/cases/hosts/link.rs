// SPDX-License-Identifier: MIT OR Apache-2.0
//! Links of a known speed, and links that are cut. What it took is printed and never judged here.

use std::process::Stdio;

use potluck_tests::hosts::{Host, Lab, Port};
use potluck_tests::program::Person;

use super::{Office, compare, expect, follows, get, getting, in_full, meets, noise, put, seconds};

const MEGABITS: u32 = 100;

/// Hosts on one switch.
fn plugged(lab: &mut Lab, count: usize) -> Vec<(Host, Port)> {
    let switch = lab.switch("switch");
    let plug = |number| {
        let host = lab.host(&format!("host{number}"));
        let port = lab.plug(&host, &switch, &format!("10.77.0.{number}/24"));
        (host, port)
    };
    (1..=count).map(plug).collect()
}

/// The same, each with a link of that speed.
fn limited(lab: &mut Lab, count: usize, megabits: u32) -> Vec<(Host, Port)> {
    let hosts = plugged(lab, count);
    hosts.iter().for_each(|(_, port)| port.limit(megabits));
    hosts
}

/// How much of a link of `MEGABITS` was used by so many bytes in so many seconds.
#[expect(clippy::cast_precision_loss, reason = "it is printed with two digits")]
fn share_of_link(bytes: usize, seconds: f64) -> f64 {
    bytes as f64 * 8.0 / seconds / f64::from(MEGABITS) / 1e6
}

/// The second one gets from the first, of two, something of so many bytes, or of more in earnest; gives how many they
/// were, and how many seconds it took.
fn gets_one(office: &Office, quick: usize) -> (usize, f64) {
    let [ann, ben] = &office.people[..] else { unreachable!() };
    let bytes = if in_full() { 256 << 20 } else { quick };
    let output = noise(bytes, 1);
    put(ann, "01", &output);
    follows(ben, 1);
    let took = seconds(|| drop(get(ben, "01").ok()));
    compare(ben, &output);
    (bytes, took)
}

/// One large fetch over a link, by sockets of its own or, where nobody listens for TCP, over QUIC.
fn one_large_fetch(quic: bool) {
    let Some(mut lab) = Lab::new() else { return };
    let hosts: Vec<_> = limited(&mut lab, 2, MEGABITS).into_iter().map(|(host, _)| host).collect();
    let office = Office::on(&hosts);
    for person in office.people.iter().filter(|_| quic) {
        let file = person.home().join("networks").join(super::NETWORK).join("network.toml");
        let text = std::fs::read_to_string(&file).unwrap();
        let others = text.lines().filter(|line| !line.starts_with("listen"));
        let own = "listen = [\"/ip4/0.0.0.0/udp/0/quic-v1\"]";
        let lines: Vec<_> = std::iter::once(own).chain(others).collect();
        std::fs::write(&file, lines.join("\n")).unwrap();
    }
    let _up: Vec<_> = office.people.iter().map(|person| person.up(&[])).collect();
    let (bytes, took) = gets_one(&office, 24 << 20);
    let ben = &office.people[1];
    let sockets = ben.status()["networks"][super::NETWORK]["bulk"].as_u64();
    assert_eq!(sockets == Some(0), quic, "{sockets:?}");
    let (way, share) = (if quic { "QUIC" } else { "TCP" }, share_of_link(bytes, took));
    println!("{} MiB over {way} in {took:.2} s: {share:.2} of {MEGABITS} Mbit/s", bytes >> 20);
}

#[test]
fn one_large_fetch_uses_the_link() {
    one_large_fetch(false);
}

#[test]
fn one_large_fetch_uses_the_link_without_tcp() {
    one_large_fetch(true);
}

#[test]
fn where_tcp_is_slowed_down_what_is_large_comes_by_quic() {
    let Some(mut lab) = Lab::new() else { return };
    let hosts = plugged(&mut lab, 2);
    hosts.iter().for_each(|(_, port)| port.limit_tcp(MEGABITS, MEGABITS / 10));
    let office = Office::on(&hosts.into_iter().map(|(host, _)| host).collect::<Vec<_>>());
    let _up: Vec<_> = office.people.iter().map(|person| person.up(&[])).collect();
    let (bytes, took) = gets_one(&office, 32 << 20);
    let peer = &office.people[1].status()["peers"][0];
    assert_eq!(peer["way"], "connection", "{peer}");
    let share = share_of_link(bytes, took);
    println!("{} MiB in {took:.2} s: {share:.2} of {MEGABITS} Mbit/s, of which TCP may use 0.1", bytes >> 20);
}

#[test]
fn many_fetch_from_one_at_once() {
    let Some(mut lab) = Lab::new() else { return };
    let count = if in_full() { 8 } else { 4 };
    let hosts = limited(&mut lab, 1 + count, MEGABITS);
    let hosts: Vec<_> = hosts.into_iter().map(|(host, _)| host).collect();
    let office = Office::on(&hosts);
    let _up: Vec<_> = office.people.iter().map(|person| person.up(&[])).collect();
    let (seed, fetchers) = office.people.split_first().unwrap();
    let bytes = if in_full() { 128 << 20 } else { 8 << 20 };
    let (first, second) = (noise(bytes, 1), noise(bytes, 2));
    put(seed, "01", &first);
    put(seed, "02", &second);
    for fetcher in fetchers {
        meets(fetcher, count);
        follows(fetcher, 2);
    }
    let alone = seconds(|| expect(&fetchers[0], "01", &first));
    let served = |person: &Person| person.status()["bytes_served"].as_u64().unwrap();
    let before: Vec<_> = office.people.iter().map(served).collect();
    let together = seconds(|| {
        let started: Vec<_> = fetchers
            .iter()
            .map(|person| getting(person, "02").stdout(Stdio::null()).spawn().unwrap())
            .collect();
        for mut child in started {
            assert!(child.wait().unwrap().success());
        }
    });
    for fetcher in fetchers {
        compare(fetcher, &second);
    }
    let sent = office.people.iter().zip(before).map(|(person, before)| (served(person) - before) >> 20);
    println!(
        "{} MiB: one alone {alone:.2} s, {count} at once {together:.2} s, {:.2} times as long; MiB sent: {:?}",
        bytes >> 20,
        together / alone,
        sent.collect::<Vec<_>>()
    );
}

#[test]
fn the_links_of_all_who_have_it_are_used() {
    let Some(mut lab) = Lab::new() else { return };
    let hosts = plugged(&mut lab, 5);
    hosts[..4].iter().for_each(|(_, port)| port.limit(MEGABITS));
    let office = Office::on(&hosts.into_iter().map(|(host, _)| host).collect::<Vec<_>>());
    let _up: Vec<_> = office.people.iter().map(|person| person.up(&[])).collect();
    let (eve, holders) = office.people.split_last().unwrap();
    let bytes = if in_full() { 512 << 20 } else { 32 << 20 };
    let output = noise(bytes, 1);
    put(&holders[0], "01", &output);
    for other in &office.people[1..] {
        meets(other, 4);
        follows(other, 1);
    }
    holders[1..].iter().for_each(|holder| expect(holder, "01", &output));
    let served = |person: &Person| person.status()["bytes_served"].as_u64().unwrap();
    let before: Vec<_> = holders.iter().map(served).collect();
    let mut fetching = getting(eve, "01").stdout(Stdio::null()).spawn().unwrap();
    // Not until it was copied to where it is wanted: that has nothing to do with links.
    let took = seconds(|| came(eve, bytes as u64));
    assert!(fetching.wait().unwrap().success());
    compare(eve, &output);
    let parts: Vec<_> = holders.iter().zip(before).map(|(holder, before)| served(holder) - before).collect();
    assert!(parts.iter().all(|part| *part > 0), "{parts:?}");
    let share = share_of_link(bytes, took) / 4.0;
    println!("{} MiB from four in {took:.2} s: {share:.2} of 4 x {MEGABITS} Mbit/s, {parts:?}", bytes >> 20);
}

/// Waits until so many bytes of Blobs came.
fn came(person: &Person, bytes: u64) {
    person.until("some bytes", |status| status["bytes_fetched"].as_u64() >= Some(bytes));
}

/// Waits until no more come.
fn stalls(person: &Person) {
    let last = std::cell::Cell::new((0, 0));
    person.until("the end of it", |status| {
        let now = status["bytes_fetched"].as_u64().unwrap();
        let (before, times) = last.get();
        last.set(if now == before { (now, times + 1) } else { (now, 0) });
        last.get().1 > 20
    });
}

#[test]
fn who_is_cut_off_in_mid_fetch_comes_back_and_finishes() {
    let Some(mut lab) = Lab::new() else { return };
    let hosts = limited(&mut lab, 2, 40);
    let cable = hosts[1].1.clone();
    let office = Office::on(&hosts.into_iter().map(|(host, _)| host).collect::<Vec<_>>());
    let _up: Vec<_> = office.people.iter().map(|person| person.up(&[])).collect();
    let [ann, ben] = &office.people[..] else { unreachable!() };
    let output = noise(24 << 20, 1);
    put(ann, "01", &output);
    follows(ben, 1);
    let mut fetching = getting(ben, "01").stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    came(ben, 4 << 20);
    cable.out();
    stalls(ben);
    assert!(ben.status()["bytes_fetched"].as_u64() < Some(24 << 20), "it was over before the cut");
    cable.back_in();
    // Whether the one who waited still does is his own affair; the next one is served.
    let _ = fetching.wait().unwrap();
    meets(ben, 1);
    expect(ben, "01", &output);
}
