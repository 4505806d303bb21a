// SPDX-License-Identifier: MIT OR Apache-2.0
//! First light: real cargo builds that share what they made, through real daemons on loopback that know nothing but a
//! bootstrap peer.

use std::fs;
use std::path::{Path, PathBuf};

use potluck_tests::cargo::{Checkout, count, sample};
use potluck_tests::circle::{Circle, up};
use potluck_tests::program::Person;
use serde_json::Value;

/// Units of the sample that are linked: two procedural macros, five build scripts, the program.
const LINKED: usize = 8;
/// With them, seven libraries.
const COMPILED: usize = LINKED + 7;
/// With them, the runs of the build scripts.
const UNITS: usize = COMPILED + 5;
/// Claims about all of that: of what is linked and of each run there are two, one of which says what was read for it.
const CLAIMS: usize = UNITS + LINKED + 5;
/// With them, what a build of this kind asks for, which is learned when the first one has ended.
const LISTED: usize = CLAIMS + 1;
/// That of units which are compiled.
const RECIPE: &str = "rustc@4";
const LISTEN: &str = "/ip4/127.0.0.1/tcp/0";

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Waits until somebody follows ann's whole Catalog.
fn followed(person: &Person) {
    let whole = |row: &Value| row["signer"] == "ann" && row["keys"].as_u64() >= Some(LISTED as u64);
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
    let lab = Circle::new();
    let boot = lab.up();
    let ann = lab.member(None);
    let ann_up = up(&ann, &boot);
    let hers = Checkout::new(&ann, &sample(), "src");
    let units = hers.build(&ann);
    assert_eq!(count(&units, "compiled"), UNITS, "{units:?}");
    assert!(ann.status()["published"].as_u64() >= Some(CLAIMS as u64));

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
    let lab = Circle::new();
    let boot = lab.up();
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
fn without_a_network_no_socket_is_opened_but_for_tools_of_this_machine() {
    let person = Person::at_home();
    let up = person.up(&[]);
    let checkout = Checkout::new(&person, &sample(), "src");
    assert_eq!(count(&checkout.build(&person), "compiled"), UNITS);
    checkout.clean();
    assert_eq!(count(&checkout.build(&person), "restored"), UNITS);
    assert_eq!(up.sockets(), Vec::<String>::new());
}

/// Whether everything under this key is here.
fn is_here(person: &Person, (recipe, key): &(String, String)) -> bool {
    let ran = person.run(["--json", "why", "--recipe", recipe, "--key", key]);
    let why: Value = serde_json::from_str(&ran.stdout).unwrap_or_default();
    list(&why["now"]["claims"]).iter().any(|claim| claim["missing"] == 0 && claim["verdict"] == "accepted")
}

#[test]
fn what_a_build_will_ask_for_is_here_before_it_does() {
    let lab = Circle::new();
    let boot = lab.up();
    let ann = lab.member(None);
    let _ann_up = up(&ann, &boot);
    let hers = Checkout::new(&ann, &sample(), "src");
    hers.build(&ann);
    // A wrapper waits for a busy daemon only so long; what it then did not publish is made once more.
    for left in (0..3).map(|_| hers.unpublished()).take_while(|left| !left.is_empty()) {
        eprintln!("not published: {left:?}");
        hers.clean();
        hers.build(&ann);
    }
    let keys = hers.recipes_and_keys();
    assert_eq!(keys.len(), UNITS);
    let listed = |row: &Value| row["recipe"] == "cargo-plan@1";
    let learned = |status: &Value| status["published"].as_u64() == Some(LISTED as u64);
    ann.until("what her build asked for", |status| {
        learned(status) && list(&status["projects"]).iter().any(listed)
    });

    let carol = lab.member(Some(&ann));
    let _carol_up = up(&carol, &boot);
    let whole = |row: &Value| row["signer"] == "ann" && row["keys"] == LISTED;
    carol.until("ann's catalog", |status| list(&status["catalogs"]).iter().any(whole));
    let theirs = Checkout::new(&carol, &sample(), "deep/down");
    // All units but the first wait until they are told to go on.
    let (first, go) = (carol.path("first"), carol.path("go"));
    let script = format!(
        "#!/bin/sh\ncase \"$*\" in *--out-dir*) if ! mkdir '{}' 2>/dev/null; then \
         while [ ! -e '{}' ]; do sleep 0.05; done; fi;; esac\nexec '{}' \"$@\"\n",
        first.display(),
        go.display(),
        potluck_tests::program::potluck_rustc().display(),
    );
    let wrapper = carol.path("wrapper");
    fs::write(&wrapper, script).unwrap();
    fs::set_permissions(&wrapper, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    let mut build = theirs.cargo(&carol);
    let mut build = build.env("RUSTC_WRAPPER", &wrapper).spawn().unwrap();
    // Not a measurement: as often as a slow machine may need.
    let here = |_: &usize| {
        std::thread::sleep(std::time::Duration::from_millis(50));
        keys.iter().all(|key| is_here(&carol, key))
    };
    let all = (0..1000).find(here);
    let before = carol.status();
    // All that she had not asked for yet went into one question to ann for each recipe.
    let compiled = keys.iter().filter(|(recipe, _)| recipe.starts_with("rustc@"));
    let together = |(recipe, key): &&(String, String)| {
        let why = carol.run(["--json", "why", "--recipe", recipe, "--key", key]).stdout;
        let why: Value = serde_json::from_str(&why).unwrap_or_default();
        let asked = list(&why["looked"]["steps"]).iter().filter(|step| step["step"] == "asked");
        asked.filter_map(|step| step["together"].as_u64()).max().unwrap_or(0)
    };
    let one_question = compiled.filter(|key| together(key) >= COMPILED as u64 - 1).count();
    fs::write(&go, "").unwrap();
    assert!(build.wait().unwrap().success());
    let lacks: Vec<_> = keys.iter().filter(|key| !is_here(&carol, key)).collect();
    assert!(all.is_some(), "not all of it came: {lacks:?} {before:#}");
    assert!(one_question >= COMPILED - 1, "{one_question} of {COMPILED} were asked for together");
    // This wrapper is none that build scripts would be run by.
    assert_eq!(count(&theirs.units(), "restored"), COMPILED);
    // Only the first unit, with the list of what it reads, and the list of all were asked for while they were not here.
    let fetched = carol.status()["remote_hits"].as_u64().unwrap();
    assert!(fetched <= 3, "{fetched} were fetched when they were asked for");
    assert!(theirs.program("small-app") == hers.program("small-app"));
}

/// Runs a verb with the toolchain and the downloads of whoever runs the tests.
fn at_work(person: &Person, args: &[&str]) -> Value {
    let mut command = person.command(args);
    let ours = |name: &str| name.starts_with("RUSTUP_") || ["CARGO_HOME", "HOME"].contains(&name);
    command.envs(std::env::vars().filter(|(name, _)| ours(name))).env("CARGO_NET_OFFLINE", "true");
    let ran = person.ran(&mut command);
    serde_json::from_str(&ran.ok()).unwrap()
}

#[test]
fn two_builders_agree_and_who_wants_both_takes_what_they_agree_about() {
    let lab = Circle::new();
    let boot = lab.up();
    let (ann, bob) = (lab.member(None), lab.member(None));
    for (one, other, name) in [(&ann, &bob, "bob"), (&bob, &ann, "ann")] {
        let key = other.run(["key", "show", "me"]).ok();
        one.run(["trust", "add", name, key.lines().next().unwrap(), "--project", "*"]).ok();
    }
    let _ups = [up(&ann, &boot), up(&bob, &boot)];
    let lock = sample().join("Cargo.lock").display().to_string();
    let mut publish = vec!["--json", "cargo", "publish", "--lock", &lock];
    let namespaces = std::process::Command::new("unshare").args(["-rn", "true"]).status();
    if !namespaces.is_ok_and(|status| status.success()) {
        publish.push("--no-sandbox");
    }
    let hers = at_work(&ann, &publish);
    assert_eq!((&hers["counts"]["same"], &hers["failed"]), (&UNITS.into(), &0.into()), "{hers:#}");
    assert_eq!(hers["counts"]["only mine"], UNITS, "{hers:#}");
    // All of them, and the list of what her build asked for.
    let listed = |row: &Value| row["signer"] == "ann" && row["keys"].as_u64() >= Some(LISTED as u64);
    bob.until("ann's catalog", |status| list(&status["catalogs"]).iter().any(listed));
    let his = at_work(&bob, &publish);
    assert_eq!((&his["counts"]["same"], &his["counts"]["agreed"]), (&UNITS.into(), &UNITS.into()), "{his:#}");
    let audit: Value = serde_json::from_str(&bob.run(["--json", "audit"]).ok()).unwrap();
    // What was read for a unit he asks for nowhere; he knows of it as far as it came with the list of her build.
    let (agreed, disputed) = (&audit["pairs"]["ann, me"][0], &audit["pairs"]["ann, me"][1]);
    assert!(agreed.as_u64() >= Some(UNITS as u64) && *disputed == 0, "{audit:#}");

    let carol = lab.member(Some(&ann));
    let key = bob.run(["key", "show", "me"]).ok();
    carol.run(["trust", "add", "bob", key.lines().next().unwrap(), "--project", "other/*"]).ok();
    let path = carol.home().join("trust.toml");
    let rules = fs::read_to_string(&path).unwrap();
    let accept = "accept = [\"ann\"]";
    let at = rules.rfind(accept).unwrap();
    let both =
        format!("{}agree = 2\naccept = [\"ann\", \"bob\"]{}", &rules[..at], &rules[at + accept.len()..]);
    fs::write(&path, both).unwrap();
    let _carol_up = up(&carol, &boot);
    let follows = |status: &Value, name: &str| {
        let whole = |row: &Value| row["signer"] == name && row["keys"].as_u64() >= Some(CLAIMS as u64);
        list(&status["catalogs"]).iter().any(whole)
    };
    carol.until("both catalogs", |status| follows(status, "ann") && follows(status, "bob"));
    let theirs = Checkout::new(&carol, &sample(), "c");
    let units = theirs.build(&carol);
    let why = carol.run(["--json", "cargo", "stats"]).stdout;
    assert_eq!(count(&units, "restored"), UNITS, "{units:?} {why}");
}

#[test]
fn what_comes_out_differently_here_is_not_believed_any_more() {
    let lab = Circle::new();
    let boot = lab.up();
    let ann = lab.member(None);
    let mallory = lab.member(None);
    let hers = Checkout::new(&ann, &sample(), "src");
    {
        let _ann_up = ann.up(&["--listen", LISTEN]);
        hers.build(&ann);
        // A build script that does the same, and is another one.
        let key = hers.key_of("build-script").unwrap();
        let folder = mallory.path("it").display().to_string();
        ann.run(["get", "--recipe", RECIPE, "--key", &key, &folder]).ok();
        let out = fs::read_dir(mallory.path("it/out")).unwrap().map(|file| file.unwrap().path());
        let program = out.into_iter().find(|path| path.extension().is_none()).unwrap();
        let mut bytes = fs::read(&program).unwrap();
        bytes.extend(b"and something more");
        fs::write(&program, bytes).unwrap();
        // What is read for it is as it was.
        let (read, folder) =
            (hers.list_of("build-script").unwrap(), mallory.path("list").display().to_string());
        ann.run(["get", "--recipe", RECIPE, "--key", &read, &folder]).ok();
    }
    let _mallory_up = up(&mallory, &boot);
    let key = hers.key_of("build-script").unwrap();
    let folder = mallory.path("it").display().to_string();
    mallory.run(["put", "--recipe", RECIPE, "--key", &key, &folder]).ok();
    let (read, folder) = (hers.list_of("build-script").unwrap(), mallory.path("list").display().to_string());
    mallory.run(["put", "--recipe", RECIPE, "--key", &read, &folder]).ok();

    let ben = lab.member(Some(&mallory));
    let _ben_up = up(&ben, &boot);
    let listed = |row: &Value| row["signer"] == "ann" && row["keys"] == 2;
    ben.until("the liar's catalog", |status| list(&status["catalogs"]).iter().any(listed));
    let his = Checkout::new(&ben, &sample(), "ben");
    let units = his.build(&ben);
    assert_eq!((count(&units, "restored"), count(&units, "compiled")), (1, UNITS - 1), "{units:?}");
    let mut verify = ben.command(["--json", "cargo", "verify"]);
    let ours = |name: &str| name.starts_with("RUSTUP_") || name == "HOME";
    verify.envs(std::env::vars().filter(|(name, _)| ours(name))).env("CARGO_HOME", ben.path("cargo"));
    verify.env("CARGO_INCREMENTAL", "0");
    let ran = ben.ran(&mut verify);
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    let found: Value = serde_json::from_str(&ran.stdout).unwrap();
    assert_eq!(list(&found["mismatches"]).len(), 1, "{found:#}");
    assert_eq!(found["doubted"][0]["signers"][0], "ann", "the signer is named: {found:#}");
    assert_eq!(ben.status()["doubted"], 1);
    let why = ben.run(["--json", "why", "--recipe", RECIPE, "--key", &key]).ok();
    let why: Value = serde_json::from_str(&why).unwrap();
    assert_eq!(why["now"]["claims"][0]["verdict"], "doubted", "{why:#}");
    let audit = ben.run(["--json", "audit"]);
    let told: Value = serde_json::from_str(&audit.stdout).unwrap();
    assert_eq!((audit.code, &told["listed"][0]["what"]), (1, &"doubted".into()), "{told:#}");
    // It is not used any more, though nothing else is to be had; and what is made instead has run when it was verified.
    his.clean();
    let units = his.build(&ben);
    assert_eq!((count(&units, "restored"), count(&units, "compiled")), (UNITS - 1, 1), "{units:?}");
    let (entry, action) = (&told["listed"][0]["claims"][0]["entry"], &told["listed"][0]["action"]);
    ben.run(["audit", "--believe", entry.as_str().unwrap(), action.as_str().unwrap()]).ok();
    assert_eq!(ben.status()["doubted"], 0);
}
