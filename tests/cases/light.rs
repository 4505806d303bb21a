// SPDX-License-Identifier: MIT OR Apache-2.0
//! First light: real cargo builds that share what they made, through real daemons on loopback that know nothing but a
//! bootstrap peer.

use std::fs;
use std::path::{Path, PathBuf};

use potluck_tests::cargo::{Checkout, count, sample};
use potluck_tests::program::{Person, Up, sockets};
use serde_json::Value;

/// Units of the sample that a compiler makes and a cache can hold: seven libraries, two procedural macros, five build
/// scripts.
const COMPILED: usize = 14;
/// With them, the runs of the build scripts.
const UNITS: usize = COMPILED + 5;
/// Claims about all of that: of each run there are two, one of which says what the script reads.
const CLAIMS: usize = UNITS + 5;
const LISTEN: &str = "/ip4/127.0.0.1/tcp/0";

/// A bootstrap peer, which shares nothing, and the line by which others join its Network.
struct Lab {
    boot: Person,
    line: Vec<String>,
}

impl Lab {
    fn new() -> Self {
        let boot = Person::at_home();
        boot.run(["network", "create", "lab"]).ok();
        let line = boot.run(["network", "invite", "lab"]).ok();
        Self { line: line.split_whitespace().map(str::to_owned).collect(), boot }
    }

    /// Somebody who shares the default Project there, and believes `trusted`.
    fn member(&self, trusted: Option<&Person>) -> Person {
        let person = Person::at_home();
        let join = ["network", "join"].into_iter().chain(self.line.iter().map(String::as_str));
        person.run(join).ok();
        person.run(["share", "default", "--network", "lab"]).ok();
        if let Some(trusted) = trusted {
            let key = trusted.run(["key", "show", "me"]).ok();
            person.run(["trust", "add", "ann", key.lines().next().unwrap(), "--project", "*"]).ok();
        }
        person
    }
}

/// Starts a daemon that knows the bootstrap peer only, and waits until it has met it.
fn up<'a>(person: &'a Person, boot: &Up<'_>) -> Up<'a> {
    let up = person.up(&["--listen", LISTEN, "--peer", &boot.at("lab").0]);
    person.until("the bootstrap peer", |status| !list(&status["peers"]).is_empty());
    up
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Waits until somebody follows ann's whole Catalog.
fn followed(person: &Person) {
    let whole = |row: &Value| row["signer"] == "ann" && row["keys"] == CLAIMS;
    person.until("ann's catalog", |status| list(&status["catalogs"]).iter().any(whole));
}

/// Everything that ann's checkout gave was restored, and the program is the same.
#[track_caller]
fn assert_restored(checkout: &Checkout, person: &Person, from: &Checkout) {
    let units = checkout.build(person);
    assert_eq!(count(&units, "restored"), UNITS, "{units:?}");
    assert!(checkout.program("small-app") == from.program("small-app"), "the programs differ");
    assert_eq!(checkout.run("small-app"), "Menu: soup, bread\n");
}

#[test]
fn what_one_has_built_others_restore_also_when_she_is_gone() {
    let lab = Lab::new();
    let boot = lab.boot.up(&["--listen", LISTEN]);
    let ann = lab.member(None);
    let ann_up = up(&ann, &boot);
    let hers = Checkout::new(&ann, &sample(), "src");
    let units = hers.build(&ann);
    assert_eq!(count(&units, "compiled"), UNITS, "{units:?}");
    assert_eq!(ann.status()["published"], CLAIMS);

    let carol = lab.member(Some(&ann));
    let _carol_up = up(&carol, &boot);
    followed(&carol);
    assert_restored(&Checkout::new(&carol, &sample(), "deep/down/in/it"), &carol, &hers);

    ann_up.kill();
    let ben = lab.member(Some(&ann));
    let _ben_up = up(&ben, &boot);
    followed(&ben);
    let his = Checkout::new(&ben, &sample(), "other/place");
    assert_restored(&his, &ben, &hers);
    let status = ben.status();
    assert!(status["bytes_fetched"].as_u64().unwrap() > 1_000_000, "{status:#}");
    assert_eq!(list(&status["refused"]).len(), 0, "{status:#}");

    // And with everybody else gone, from what he has fetched.
    his.clean();
    assert_restored(&his, &ben, &hers);
}

#[test]
fn nothing_is_taken_from_whom_one_does_not_trust_nor_what_is_damaged() {
    let lab = Lab::new();
    let boot = lab.boot.up(&["--listen", LISTEN]);
    let ann = lab.member(None);
    let ann_up = up(&ann, &boot);
    let hers = Checkout::new(&ann, &sample(), "src");
    hers.build(&ann);

    let dave = lab.member(Some(&ann));
    let _dave_up = up(&dave, &boot);
    followed(&dave);
    dave.run(["trust", "remove", "ann"]).ok();
    dave.until("the end of following", |status| list(&status["catalogs"]).is_empty());
    let before = dave.status()["bytes_fetched"].clone();
    let units = Checkout::new(&dave, &sample(), "a/b").build(&dave);
    assert_eq!((count(&units, "restored"), count(&units, "compiled")), (0, UNITS), "{units:?}");
    assert_eq!(dave.status()["bytes_fetched"], before, "not a byte of a blob");

    flip(&largest(&ann.home().join("store/blobs")));
    let erin = lab.member(Some(&ann));
    // dave has built the same by now, and nobody believes him.
    let _erin_up = up(&erin, &boot);
    followed(&erin);
    let theirs = Checkout::new(&erin, &sample(), "e");
    let units = theirs.build(&erin);
    assert_eq!((count(&units, "restored"), count(&units, "compiled")), (UNITS - 1, 1), "{units:?}");
    assert_eq!(theirs.run("small-app"), "Menu: soup, bread\n");
    let status = erin.status();
    let (_, peer) = ann_up.at("lab");
    let named = |row: &Value| row["reason"] == "bad-piece" && row["who"] == peer.as_str();
    // ann may have found it out by herself: her node packs when nobody waits, and reads what it packs.
    let aside = fs::read_dir(ann.home().join("store/quarantine")).is_ok_and(|mut all| all.next().is_some());
    assert!(aside || list(&status["refused"]).iter().any(named), "{status:#}");
}

/// The largest file below a folder.
fn largest(folder: &Path) -> PathBuf {
    let mut folders = vec![folder.to_owned()];
    let mut found = (0, PathBuf::new());
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(folder).unwrap().map(Result::unwrap) {
            let (path, metadata) = (entry.path(), entry.metadata().unwrap());
            if metadata.is_dir() {
                folders.push(path);
            } else if metadata.len() > found.0 {
                found = (metadata.len(), path);
            }
        }
    }
    found.1
}

/// Changes one bit in the middle of the first piece.
fn flip(path: &Path) {
    let mut bytes = fs::read(path).unwrap();
    bytes[1000] ^= 1;
    fs::write(path, bytes).unwrap();
}

#[test]
fn the_demonstration_shows_all_of_it_and_leaves_nothing_behind() {
    let person = Person::new();
    let temporary = person.path("tmp");
    fs::create_dir(&temporary).unwrap();
    let mut demo = person.command(["--json", "demo"]);
    demo.arg(sample()).env("TMPDIR", &temporary);
    // The person has a home of her own, and the toolchain and the downloads of whoever runs the tests.
    let ours = |name: &str| name.starts_with("RUSTUP_") || ["CARGO_HOME", "HOME"].contains(&name);
    demo.envs(std::env::vars().filter(|(name, _)| ours(name)));
    let ran = person.ran(&mut demo);
    let outcome: Value = serde_json::from_str(&ran.ok()).unwrap();
    assert_eq!(outcome["ann"]["compiled"], UNITS, "{outcome:#}");
    assert_eq!((&outcome["ben"]["restored"], &outcome["ben"]["compiled"]), (&UNITS.into(), &0.into()));
    assert_eq!(outcome["poisoned"], COMPILED, "{outcome:#}");
    let refused = |row: &Value| row["who"] == "mallory" && row["reason"] == "unknown-signer";
    assert!(list(&outcome["refused"]).iter().any(refused), "{outcome:#}");
    assert_eq!(outcome["programs"]["identical"], true, "{outcome:#}");
    assert_eq!(fs::read_dir(&temporary).unwrap().count(), 0, "it has left something behind");
}

#[test]
fn without_a_network_no_socket_is_opened_but_the_node_s_own() {
    let person = Person::at_home();
    let up = person.up(&[]);
    let checkout = Checkout::new(&person, &sample(), "src");
    assert_eq!(count(&checkout.build(&person), "compiled"), UNITS);
    checkout.clean();
    assert_eq!(count(&checkout.build(&person), "restored"), UNITS);
    let pid = up.ready["pid"].as_u64().unwrap();
    assert_eq!(sockets(pid), Vec::<String>::new());
}
