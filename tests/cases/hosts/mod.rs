// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nodes on hosts of their own, on real links: found, reached, cut off and come back. Where no network namespaces can
//! be made each case says so and is skipped.
//!
//! The quick forms run with all other tests; `POTLUCK_HOSTS=full` makes what is fetched as large as in earnest and
//! prints what it took.

mod lan;
mod link;
mod readme;
mod routed;

use std::fs;
use std::process::Command;
use std::time::Instant;

use potluck_tests::hosts::Host;
use potluck_tests::program::{Person, Ran};
use serde_json::Value;

/// The Network and the Project of all cases.
const NETWORK: &str = "office";
const PROJECT: &str = "acme/web";

/// People in one private Network, of whom the first is believed by all others.
struct Office {
    people: Vec<Person>,
}

impl Office {
    /// One on each host. They know the Network's key, and no address.
    fn on(hosts: &[Host]) -> Self {
        let first = hosts[0].person();
        first.run(["network", "create", NETWORK]).ok();
        let line = invitation(&first);
        Self::of(std::iter::once(first).chain(hosts[1..].iter().map(Host::person)).collect(), &line)
    }

    /// One on each host, who were invited by this line.
    fn invited(hosts: &[Host], line: &str) -> Self {
        Self::of(hosts.iter().map(Host::person).collect(), line)
    }

    fn of(people: Vec<Person>, line: &str) -> Self {
        let key = people[0].run(["key", "show", "me"]).ok();
        for person in &people {
            if !person.home().join("networks").join(NETWORK).exists() {
                join(person, line);
            }
        }
        for person in &people[1..] {
            person.run(["trust", "add", "ann", key.trim(), "--project", "acme/*"]).ok();
        }
        for person in &people {
            person.run(["share", PROJECT, "--network", NETWORK]).ok();
        }
        Self { people }
    }
}

/// The line by which others join somebody's Network.
fn invitation(person: &Person) -> String {
    person.run(["network", "invite", NETWORK]).ok()
}

fn join(person: &Person, line: &str) {
    person.run(["network", "join"].into_iter().chain(line.split_whitespace())).ok();
}

/// A node that shares nothing and is where others begin, with what it has to know in its settings.
fn bootstrap(host: &Host, settings: &str) -> Person {
    let boot = host.person();
    boot.run(["network", "create", NETWORK]).ok();
    fs::write(boot.home().join("config.toml"), settings).unwrap();
    boot
}

/// Bytes that nothing can pack, the same for the same number.
fn noise(bytes: usize, number: u64) -> Vec<u8> {
    let mut output = vec![0; bytes];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut output);
    output
}

/// What `put` and `get` need to know about an output.
fn of(key: &str) -> Vec<&str> {
    vec!["--project", PROJECT, "--recipe", "test@1", "--key", key]
}

fn put(person: &Person, key: &str, bytes: &[u8]) {
    fs::write(person.path("out"), bytes).unwrap();
    person.run(["put"].into_iter().chain(of(key)).chain(["out"])).ok();
}

fn get(person: &Person, key: &str) -> Ran {
    person.ran(&mut getting(person, key))
}

fn getting(person: &Person, key: &str) -> Command {
    let _ = fs::remove_file(person.path("back"));
    // Long enough for a slow link: whoever waits is a test.
    person.command(["get"].into_iter().chain(of(key)).chain(["--deadline", "120000", "back"]))
}

/// Compares what was gotten.
#[track_caller]
fn compare(person: &Person, bytes: &[u8]) {
    assert!(fs::read(person.path("back")).unwrap() == bytes, "other bytes came back");
}

/// Whether to fetch as much as in earnest.
fn in_full() -> bool {
    std::env::var("POTLUCK_HOSTS").is_ok_and(|how| how == "full")
}

/// How long something takes, in seconds.
#[expect(clippy::disallowed_methods, reason = "what is printed here is time")]
fn seconds(work: impl FnOnce()) -> f64 {
    let begun = Instant::now();
    work();
    begun.elapsed().as_secs_f64()
}

/// Gets an output that is published already, and compares it.
#[track_caller]
fn expect(person: &Person, key: &str, bytes: &[u8]) {
    get(person, key).ok();
    compare(person, bytes);
}

/// Waits until somebody has heard of so many keys of ann's.
fn follows(person: &Person, keys: u64) {
    person.until("ann's catalog", |status| self::keys(status) == keys);
}

/// How many keys of ann's somebody has heard of.
fn keys(status: &Value) -> u64 {
    let ann = rows(&status["catalogs"]).iter().find(|row| row["signer"] == "ann");
    ann.and_then(|row| row["keys"].as_u64()).unwrap_or_default()
}

/// Waits until somebody is connected to so many members.
fn meets(person: &Person, count: usize) {
    person.until("the others", |status| rows(&status["peers"]).len() == count);
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}
