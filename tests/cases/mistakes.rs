// SPDX-License-Identifier: MIT OR Apache-2.0
//! What people get wrong, and what is in their way: each is said in a sentence and with what to do, and costs nothing.

use std::ffi::OsStr;
use std::fs;
use std::net::TcpListener;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use potluck_tests::program::{Person, Ran};
use serde_json::Value;

/// An object that a run printed.
fn object(ran: &Ran) -> Value {
    serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{ran:?}"))
}

/// A check of the doctor's: how it is, and what is said of it.
fn check(person: &Person, what: &str) -> (String, String) {
    let said = object(&person.run(["--json", "doctor"]));
    let check = said["checks"].as_array().unwrap().iter().find(|check| check["what"] == what);
    let check = check.unwrap_or_else(|| panic!("{what}: {said:#}"));
    (check["health"].as_str().unwrap().to_owned(), format!("{} {}", check["text"], check["hint"]))
}

#[test]
fn who_puts_something_else_under_a_key_is_told_that_it_stands_for_another() {
    let person = Person::at_home();
    let _up = person.up(&[]);
    for (name, text) in [("one", "one"), ("two", "two"), ("d/f", "one"), ("e/f", "two")] {
        fs::create_dir_all(person.path(name).parent().unwrap()).unwrap();
        fs::write(person.path(name), text).unwrap();
    }
    for (key, one, two) in [("01", "one", "two"), ("02", "d", "e")] {
        let put = |what: &str| person.run(["put", "--recipe", "demo@1", "--key", key, what]);
        put(one).ok();
        put(one).ok();
        let refused = put(two);
        assert_eq!(refused.code, 1, "{refused:?}");
        assert!(refused.stderr.contains("the key gives another output already: "), "{refused:?}");
        assert!(refused.stderr.contains("take another key"), "{refused:?}");
        person.run(["get", "--recipe", "demo@1", "--key", key, &format!("got-{key}")]).ok();
    }
    let read = |name: &str| fs::read_to_string(person.path(name)).unwrap();
    assert_eq!((read("got-01"), read("got-02/f")), ("one".to_owned(), "one".to_owned()));
}

#[test]
fn without_a_key_nothing_is_put_and_it_is_said_how_to_make_one() {
    let person = Person::at_home();
    fs::remove_file(person.home().join("keys/me")).unwrap();
    let _up = person.up(&[]);
    fs::write(person.path("one"), "one").unwrap();
    let refused = person.run(["put", "--recipe", "demo@1", "--key", "01", "one"]);
    assert!(refused.code == 1 && refused.stderr.contains("`potluck init` makes one"), "{refused:?}");
    let (health, said) = check(&person, "key");
    assert!(health == "fair" && said.contains("nothing is published"), "{said}");
}

#[test]
fn an_address_that_somebody_else_has_is_told_at_the_start_and_by_the_doctor() {
    let person = Person::at_home();
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = other.local_addr().unwrap().to_string();
    let why = format!("cannot listen on {taken}");
    // Wanted for this run.
    let refused = person.run(["up", "--http", &taken]);
    assert!(refused.code == 1 && refused.stderr.contains(&why), "{refused:?}");
    assert!(refused.stderr.contains("port 0 takes any"), "{refused:?}");
    // As the settings have it: all others are served.
    person.set_http(&taken);
    let started = person.run(["up"]);
    assert!(started.code == 0 && started.stderr.contains(&why), "{started:?}");
    let (health, said) = check(&person, "http");
    assert!(health == "bad" && said.contains(&why) && said.contains("config.toml"), "{said}");
    person.run(["down"]).ok();
    drop(other);
    let up = person.up(&[]);
    assert_eq!((up.http(), &up.ready["http_failure"]), (taken, &Value::Null));
    assert_eq!(check(&person, "http").0, "good");
}

#[test]
fn settings_that_keep_the_daemon_from_starting_are_told_with_what_to_do() {
    let config =
        |text: &'static str| move |person: &Person| fs::write(person.home().join("config.toml"), text);
    let mode = |name: &'static str, mode| {
        move |person: &Person| fs::set_permissions(person.home().join(name), fs::Permissions::from_mode(mode))
    };
    type Harm<'a> = &'a dyn Fn(&Person) -> std::io::Result<()>;
    let cases: [(Harm<'_>, &str, &str, &str); 6] = [
        (&config("[store]\nbudget = no\n"), "settings", "config.toml:2", "mend the line"),
        (
            &config("[http]\nlisten = \"nonsense\"\n"),
            "settings",
            "\"nonsense\" is no address",
            "port 0 takes any",
        ),
        (&config("[http]\nlisten = \"0.0.0.0:0\"\n"), "settings", "a token is needed", "set http.token"),
        (&mode("keys/me", 0o644), "key", "keys/me", "chmod 600"),
        (&mode("keys", 0o755), "key", "keys", "chmod 700"),
        (&|person| fs::write(person.home().join("trust.toml"), "[signer"), "trust", "trust.toml", "hint"),
    ];
    for (harm, what, why, how) in cases {
        let person = Person::at_home();
        harm(&person).unwrap();
        let refused = person.run(["up"]);
        assert_eq!(refused.code, 1, "{why}: {refused:?}");
        assert!(refused.stderr.contains(why) && refused.stderr.contains(how), "{why}: {refused:?}");
        let (health, said) = check(&person, what);
        assert!(health == "bad" && said.replace("\\\"", "\"").contains(why), "{why}: {said}");
    }
    let person = Person::at_home();
    fs::write(person.home().join("instance"), "x").unwrap();
    let refused = person.run(["up"]);
    assert!(refused.code == 1 && refused.stderr.contains("if nothing was published with it"), "{refused:?}");
}

#[test]
fn a_second_daemon_leaves_the_log_of_the_first_where_it_is() {
    let person = Person::at_home();
    let _up = person.up(&[]);
    let log = || fs::read_to_string(person.home().join("daemon.log")).unwrap();
    let before = log();
    let refused = person.run(["up"]);
    assert!(refused.code == 1 && refused.stderr.contains("running already"), "{refused:?}");
    assert!(log().starts_with(&before) && !person.home().join("daemon.log.1").exists());
}

#[test]
fn an_address_for_peers_that_is_none_or_taken_is_refused_with_the_reason() {
    let person = Person::at_home();
    let refused = person.run(["network", "create", "lab", "--listen", "localhost:4001"]);
    assert!(refused.code == 2 && refused.stderr.contains("write it as /ip4/"), "{refused:?}");
    assert!(!person.home().join("networks/lab").exists());
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let taken = format!("/ip4/127.0.0.1/tcp/{}", other.local_addr().unwrap().port());
    person.run(["network", "create", "lab", "--listen", &taken]).ok();
    let refused = person.run(["up"]);
    let why = "Address already in use";
    assert!(
        refused.code == 1 && refused.stderr.contains(&taken) && refused.stderr.contains(why),
        "{refused:?}"
    );
}

#[test]
fn a_word_that_would_not_count_is_refused() {
    let person = Person::at_home();
    let refused = person.run(["why", "--project", "p"]);
    assert!(refused.code == 2 && refused.stderr.contains("--key"), "{refused:?}");
    for (verb, usage) in [
        (
            &["pin", "add"][..],
            ["pin add [OPTIONS] <DIGEST>", "pin add [OPTIONS] --recipe <RECIPE> --key <HEX>"],
        ),
        (&["get"], ["get [OPTIONS] --digest <HEX> <PATH>", "get [OPTIONS] --sha256 <HEX> <PATH>"]),
    ] {
        let help = person.run(verb.iter().copied().chain(["--help"])).ok();
        assert!(usage.iter().all(|line| help.contains(line)), "{help}");
    }
    let elsewhere = person.run(["--home", "other", "status"]);
    assert!(elsewhere.stderr.contains("`potluck --home [HERE]/other init` makes one"), "{elsewhere:?}");
}

#[test]
fn a_home_may_have_any_name_and_be_named_from_anywhere() {
    let person = Person::new();
    let odd = person.path("").join(OsStr::from_bytes(b"caf\xe9"));
    for verb in [&["--json", "init"][..], &["--json", "key", "new", "ann"], &["--json", "init"]] {
        let ran = person.ran(person.command(verb).env("POTLUCK_HOME", &odd));
        assert!(ran.code == 0 && object(&ran).is_object(), "{ran:?}");
    }
    assert!(odd.join("keys/ann").is_file());
    // What is written into the settings of a tool counts in all folders.
    person.run(["--home", "there", "init"]).ok();
    person.run(["--home", "there", "setup", "cargo"]).ok();
    let settings = fs::read_to_string(person.path(".cargo/config.toml")).unwrap();
    let home = person.path("there").display().to_string();
    assert!(settings.contains(&format!("POTLUCK_HOME = \"{home}\"")), "{settings}");
}

#[test]
fn a_tool_is_let_go_only_where_that_was_wanted() {
    let person = Person::at_home();
    let setup = |cargo: &str, more: &[&str]| {
        let mut command = person.command(["setup", "cargo"].iter().chain(more));
        person.ran(command.env("CARGO_HOME", person.path(cargo))).ok()
    };
    let wired = |cargo: &str| person.path(cargo).join("config.toml").is_file();
    setup("a", &[]);
    setup("b", &[]);
    let said = setup("b", &["--undo"]);
    assert!(said.contains("[HERE]/a/config.toml as well"), "{said}");
    assert!(wired("a") && !wired("b"));
    // One that was edited by hand is in nobody else's way.
    setup("b", &[]);
    fs::write(person.path("b/config.toml"), "[build]\n").unwrap();
    setup("a", &["--undo"]);
    assert!(!wired("a") && Path::new(&person.home()).join("setup/cargo.json").is_file());
}
