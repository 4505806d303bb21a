// SPDX-License-Identifier: MIT OR Apache-2.0
//! People who share through one Network on loopback, knowing nothing at first but a bootstrap peer.

use serde_json::Value;

use crate::program::{Person, Up};

const LISTEN: &str = "/ip4/127.0.0.1/tcp/0";

/// A bootstrap peer, which shares nothing, and the line by which others join its Network.
pub struct Circle {
    boot: Person,
    line: Vec<String>,
}

impl Default for Circle {
    fn default() -> Self {
        Self::new()
    }
}

impl Circle {
    /// A new Network.
    pub fn new() -> Self {
        let boot = Person::at_home();
        boot.run(["network", "create", "lab"]).ok();
        let line = boot.run(["network", "invite", "lab"]).ok();
        Self { line: line.split_whitespace().map(str::to_owned).collect(), boot }
    }

    /// Starts the bootstrap peer.
    pub fn up(&self) -> Up<'_> {
        self.boot.up(&["--http", "off", "--listen", LISTEN])
    }

    /// Somebody who shares the default Project there, and believes `trusted`.
    ///
    /// # Panics
    /// When she cannot join.
    pub fn member(&self, trusted: Option<&Person>) -> Person {
        let person = Person::at_home();
        let join = ["network", "join"].into_iter().chain(self.line.iter().map(String::as_str));
        person.run(join).ok();
        person.run(["share", "default", "--network", "lab"]).ok();
        if let Some(trusted) = trusted {
            let key = trusted.run(["key", "show", "me"]).ok();
            let key = key.lines().next().expect("a key is one line");
            person.run(["trust", "add", "ann", key, "--project", "*"]).ok();
        }
        person
    }
}

/// Starts a daemon that knows the bootstrap peer only, and waits until it has met it.
pub fn up<'a>(person: &'a Person, boot: &Up<'_>) -> Up<'a> {
    let up = person.up(&["--http", "127.0.0.1:0", "--listen", LISTEN, "--peer", &boot.at("lab").0]);
    person.until("the bootstrap peer", |status| !list(&status["peers"]).is_empty());
    up
}

/// A list in a status.
pub fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Waits until somebody follows the whole Catalog of the person whom she calls ann.
///
/// # Panics
/// When that takes too long.
#[track_caller]
pub fn followed(person: &Person, ann: &Person) {
    follows(person, ann, |own, status| {
        own["project"] == "default" && own["keys"].as_u64() >= status["published"].as_u64()
    });
}

/// Waits until somebody follows the Catalog of the person whom she calls ann in which all is listed and that is as it
/// should be, by its row in ann's own status and by that status.
///
/// # Panics
/// When that takes too long.
#[track_caller]
pub fn follows(person: &Person, ann: &Person, is: impl Fn(&Value, &Value) -> bool) {
    // What was published may still wait for its Catalog. A key that was claimed anew counts twice for a while, so that
    // their number alone says nothing about the last claims.
    let own = |row: &Value, status: &Value| {
        row["own"] == true && row["unlisted"] == 0 && row["keys"].as_u64() > Some(0) && is(row, status)
    };
    let find = |status: &Value| list(&status["catalogs"]).iter().find(|row| own(row, status)).cloned();
    let status = ann.until("her own catalog", |status| find(status).is_some());
    let row = find(&status).expect("it was there");
    let same = |theirs: &Value| {
        theirs["signer"] == "ann"
            && theirs["project"] == row["project"]
            && theirs["sequence"].as_u64() >= row["sequence"].as_u64()
    };
    person.until("ann's catalog", |status| list(&status["catalogs"]).iter().any(same));
}

/// Somebody's daemon has looked for something and has neither found anything nor fetched a byte.
///
/// # Panics
/// When it has.
#[track_caller]
pub fn assert_nothing_taken(person: &Person, before: &Value) {
    let status = person.status();
    assert!(status["misses"].as_u64() > before["misses"].as_u64(), "nothing was looked for: {status:#}");
    assert_eq!(status["bytes_fetched"], before["bytes_fetched"], "not a byte of a blob: {status:#}");
}
