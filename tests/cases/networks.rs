// SPDX-License-Identifier: MIT OR Apache-2.0
//! Networks that come and go while the daemon runs, and why look-ups were answered as they were, by the program alone.

use std::fs;
use std::net::TcpListener;

use potluck_tests::circle::{self, Circle};
use potluck_tests::program::{Person, Ran};
use serde_json::Value;

const LISTEN: [&str; 2] = ["--listen", "/ip4/127.0.0.1/tcp/0"];

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Runs a verb, some of whose words are in one line.
fn run(person: &Person, words: &[&str], more: &[&str]) -> Ran {
    person.run(words.iter().flat_map(|words| words.split_whitespace()).chain(more.iter().copied()))
}

/// A file under a key of the default Project.
fn put(person: &Person, key: &str, content: &str) {
    fs::write(person.path("file"), content).unwrap();
    run(person, &["put --recipe ccache@1 --key", key, "file"], &[]).ok();
}

fn get(person: &Person, key: &str) -> i32 {
    let _ = fs::remove_file(person.path("got"));
    run(person, &["get --recipe ccache@1 --key", key, "got"], &[]).code
}

/// Waits until a key is found.
#[track_caller]
fn finds(person: &Person, key: &str, content: &str) {
    person.until(&format!("what {key} gave"), |_| get(person, key) == 0);
    assert_eq!(fs::read_to_string(person.path("got")).unwrap(), content);
}

fn trusts(person: &Person, name: &str, other: &Person) {
    let key = other.run(["key", "show", "me"]).ok();
    person.run(["trust", "add", name, key.lines().next().unwrap(), "--project", "*"]).ok();
}

fn why(person: &Person, more: &[&str]) -> Value {
    serde_json::from_str(&run(person, &["--json why"], more).ok()).unwrap()
}

fn met(status: &Value) -> bool {
    !list(&status["peers"]).is_empty()
}

#[test]
fn what_is_damaged_is_fetched_again_from_whoever_has_it() {
    let circle = Circle::new();
    let boot = circle.up();
    let ann = circle.member(None);
    let ben = circle.member(Some(&ann));
    let (_ann, _ben) = (circle::up(&ann, &boot), circle::up(&ben, &boot));
    let content: String = (0..20_000).map(|number| format!("{number} ")).collect();
    put(&ann, "01", &content);
    finds(&ben, "01", &content);
    let name = blake3::hash(content.as_bytes()).to_hex();
    let path = ben.home().join("store/blobs").join(&name[..2]).join(&*name);
    let mut stored = fs::read(&path).unwrap();
    let middle = stored.len() / 2;
    stored[middle] ^= 1;
    fs::write(&path, stored).unwrap();
    let verified: Value = serde_json::from_str(&run(&ben, &["--json verify"], &[]).ok()).unwrap();
    assert_eq!(
        (&verified["damaged"], &verified["repaired"], &verified["lost"]),
        (&1.into(), &1.into(), &0.into())
    );
    assert_eq!(get(&ben, "01"), 0);
    assert_eq!(fs::read_to_string(ben.path("got")).unwrap(), content);
}

#[test]
fn networks_come_and_go_while_the_daemon_runs() {
    let (ann, ben) = (Person::at_home(), Person::at_home());
    trusts(&ben, "ann", &ann);
    let (ann_up, ben_up) = (ann.up(&[]), ben.up(&[]));
    assert_eq!(ann_up.sockets(), Vec::<String>::new());
    run(&ann, &["network create lab"], &LISTEN).ok();
    let here = ann.status()["networks"]["lab"]["listen"][0].as_str().unwrap().to_owned();
    assert!(!ann_up.sockets().is_empty());
    let line = ann.run(["network", "invite", "lab"]).ok();
    assert!(line.lines().count() == 1 && line.contains(&here), "{line} {here}");
    run(&ben, &["network join", &line], &LISTEN).ok();
    ben.until("ann", met);
    ann.until("ben", met);
    for person in [&ann, &ben] {
        person.run(["share", "default", "--network", "lab"]).ok();
        assert_eq!(person.status()["networks"]["lab"]["share"][0], "default");
    }
    put(&ann, "01", "one");
    finds(&ben, "01", "one");
    // What is shared no longer goes nowhere, though all are connected still.
    ann.run(["unshare", "default", "--network", "lab"]).ok();
    put(&ann, "02", "two");
    assert_eq!(get(&ben, "02"), 3);
    ann.run(["share", "default", "--network", "lab"]).ok();
    finds(&ben, "02", "two");

    ann.run(["network", "leave", "lab"]).ok();
    assert_eq!(ann.status()["networks"], serde_json::json!({}));
    ann.until("all sockets are closed", |_| ann_up.sockets().is_empty());
    ben.until("ann is gone", |status| !met(status));
    assert!(!met(&ann.status()));
    // Whoever comes back is somebody new there, and is found all the same.
    let line = ben.run(["network", "invite", "lab"]).ok();
    run(&ann, &["network join", &line], &LISTEN).ok();
    ann.run(["share", "default", "--network", "lab"]).ok();
    put(&ann, "03", "three");
    finds(&ben, "03", "three");
    drop((ann_up, ben_up));
}

#[test]
fn a_network_that_cannot_be_entered_is_named_and_the_others_go_on() {
    let ann = Person::at_home();
    let up = ann.up(&[]);
    run(&ann, &["network create lab"], &LISTEN).ok();
    // Nobody here has that address.
    let said = run(&ann, &["network create other --listen /ip4/192.0.2.1/tcp/4001"], &[]);
    assert!(said.code == 0 && said.stderr.contains("cannot enter other"), "{said:?}");
    let names = |status: &Value| status["networks"].as_object().unwrap().keys().cloned().collect::<Vec<_>>();
    assert_eq!(names(&ann.status()), ["lab"]);
    // An edit by hand counts as well.
    let file = ann.home().join("networks/other/network.toml");
    fs::write(&file, fs::read_to_string(&file).unwrap().replace("192.0.2.1/tcp/4001", "127.0.0.1/tcp/0"))
        .unwrap();
    ann.until("the other one is entered", |status| names(status) == ["lab", "other"]);
    ann.run(["network", "leave", "lab"]).ok();
    assert_eq!(names(&ann.status()), ["other"]);
    drop(up);
}

/// The addresses are its own again, and what it remembers is, when it comes back.
#[test]
fn a_network_that_gets_other_settings_is_entered_again_at_the_same_addresses() {
    let ann = Person::at_home();
    let port = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    let listen = [format!("/ip4/127.0.0.1/tcp/{port}"), format!("/ip4/127.0.0.1/udp/{port}/quic-v1")];
    run(&ann, &["network create lab"], &["--listen", &listen[0], "--listen", &listen[1]]).ok();
    let _up = ann.up(&[]);
    let file = ann.home().join("networks/lab/network.toml");
    let log = || fs::read_to_string(ann.home().join("daemon.log")).unwrap();
    let settings = fs::read_to_string(&file).unwrap();
    for round in 1..4 {
        let peer = format!("peers = [\"/ip4/127.0.0.1/tcp/{round}\"]");
        let other = settings.lines().map(|line| if line.starts_with("peers") { &peer } else { line });
        let other = other.collect::<Vec<_>>().join("\n");
        assert!(other.contains(&peer), "{settings}");
        fs::write(&file, other).unwrap();
        let entered = |status: &Value| {
            log().matches(" entered ").count() == round + 1 && !status["networks"]["lab"].is_null()
        };
        let status = ann.until("it is entered again", entered);
        let here = status["networks"]["lab"]["listen"].as_array().unwrap();
        assert!(here.len() == 2 && here[0].as_str().unwrap().starts_with(&listen[0]), "{status:#}");
    }
    assert!(!log().contains("cannot be kept"), "{}", log());
}

/// Who has a rate set sends small files at that rate, however long others wait behind them.
#[test]
fn a_holder_with_a_slow_line_is_waited_for() {
    let (ann, ben) = (Person::at_home(), Person::at_home());
    trusts(&ben, "ann", &ann);
    run(&ann, &["network create lab"], &LISTEN).ok();
    let config = ann.home().join("config.toml");
    let settings = fs::read_to_string(&config).unwrap();
    fs::write(&config, settings + "\n[network.lab]\nupload = \"1MiB\"\n").unwrap();
    run(&ann, &["share default --network lab"], &[]).ok();
    let _ann_up = ann.up(&[]);
    let line = ann.run(["network", "invite", "lab"]).ok();
    run(&ben, &["network join", &line], &LISTEN).ok();
    run(&ben, &["share default --network lab"], &[]).ok();
    let _ben_up = ben.up(&[]);
    // Four seconds of that rate, in files that each are one piece, and would be sixty if each were counted as a whole one.
    fs::create_dir(ann.path("many")).unwrap();
    let mut state = 1u64;
    for file in 0..40 {
        let mut noise = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_le_bytes()[7]
        };
        let bytes: Vec<u8> = std::iter::repeat_with(&mut noise).take(110_000).collect();
        fs::write(ann.path(&format!("many/{file}")), bytes).unwrap();
    }
    run(&ann, &["put --recipe ccache@1 --key 01 many"], &[]).ok();
    ben.until("ann's claims", |status| {
        list(&status["catalogs"]).iter().any(|row| row["keys"].as_u64() == Some(1) && row["own"] != true)
    });
    let got = run(&ben, &["get --recipe ccache@1 --key 01 --deadline 60000 got"], &[]);
    assert_eq!(got.code, 0, "{got:?}");
    assert!(fs::read(ann.path("many/7")).unwrap() == fs::read(ben.path("got/7")).unwrap());
}

#[test]
fn look_ups_are_explained() {
    let (ann, ben) = (Person::at_home(), Person::at_home());
    ann.run(["network", "create", "lab", LISTEN[0], LISTEN[1]]).ok();
    ann.run(["share", "default", "--network", "lab"]).ok();
    let ann_up = ann.up(&[]);
    let line = ann.run(["network", "invite", "lab"]).ok();
    run(&ben, &["network join", &line], &LISTEN).ok();
    ben.run(["share", "default", "--network", "lab"]).ok();
    trusts(&ben, "ann", &ann);
    assert_eq!(run(&ben, &["why --last"], &[]).code, 5, "no daemon runs");
    let ben_up = ben.up(&[]);
    assert_eq!(run(&ben, &["why --last"], &[]).code, 3, "nothing was looked for");
    put(&ann, "01", "one");
    finds(&ben, "01", "one");
    let last = why(&ben, &["--last"]);
    let action = last["action"].as_str().unwrap().to_owned();
    assert_eq!((&last["project"], &last["recipe"]), (&"default".into(), &"ccache@1".into()), "{last:#}");
    let (_, peer) = ann_up.at("lab");
    // The look-up after it may have been asked before the first was answered, and found everything here.
    let looked = &last["looked"];
    assert!(["hit", "fetched"].contains(&looked["answer"].as_str().unwrap()), "{last:#}");
    if looked["answer"] == "fetched" {
        let asked = |step: &Value| step["step"] == "asked" && step["peer"] == format!("lab/{peer}");
        assert!(list(&looked["steps"]).iter().any(asked), "{last:#}");
        assert_eq!(looked["listed_by"][0], "ann", "{last:#}");
    }
    let claim = &last["now"]["claims"][0];
    assert_eq!((&claim["verdict"], &claim["signers"][0]), (&"accepted".into(), &"ann".into()), "{last:#}");
    assert!(claim["rule"].as_str().unwrap().contains("trust.toml:"), "{last:#}");

    // What nobody lists is not asked for.
    assert_eq!(get(&ben, "ff"), 3);
    let absent = why(&ben, &[]);
    assert_eq!(absent["looked"]["answer"], "unclaimed", "{absent:#}");
    assert_eq!((&absent["looked"]["followed"], list(&absent["looked"]["steps"]).len()), (&1.into(), 0));
    let text = run(&ben, &["why --last"], &[]).ok();
    assert!(text.contains("none lists it, so nobody was asked"), "{text}");

    // The rule that says no is named, in what is known now and after a restart.
    let (path, accept) = (ben.home().join("trust.toml"), "accept = [\"ann\"]");
    let rules = fs::read_to_string(&path).unwrap();
    // The last one: the file explains itself by others.
    let at = rules.rfind(accept).unwrap();
    let (before, after) = (&rules[..at], &rules[at + accept.len()..]);
    let both = "agree = 2\naccept = [\"ann\", \"bob\"]";
    fs::write(&path, format!("{before}{both}{after}{}", other_signer())).unwrap();
    assert_eq!(get(&ben, "01"), 4);
    drop(ben_up);
    let _ben_up = ben.up(&[]);
    let known = why(&ben, &[&action]);
    assert!(known["looked"].is_null(), "{known:#}");
    let claim = &known["now"]["claims"][0];
    assert_eq!((&claim["verdict"], &claim["reason"]), (&"refused".into(), &"too-few".into()), "{known:#}");
    assert!(claim["rule"].as_str().unwrap().contains("trust.toml:"), "{known:#}");
    let text = run(&ben, &["why", &action], &[]).ok();
    assert!(text.contains("not looked for since the daemon started") && text.contains("(rule at "), "{text}");
    assert_eq!(why(&ben, &["--recipe", "ccache@1", "--key", "01"])["action"], action.as_str());
    // What nothing is known of, and what is no action.
    assert_eq!(run(&ben, &["why"], &[&"0".repeat(64)]).code, 3);
    assert_eq!(run(&ben, &["why nonsense"], &[]).code, 2);
}

/// A signer of whom nothing comes.
fn other_signer() -> String {
    let bob = Person::at_home();
    let key = bob.run(["key", "show", "me"]).ok();
    format!("\n[signer.bob]\nkey = \"{}\"\n", key.lines().next().unwrap())
}
