// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tools that are wired up and let go again, and what is said of builds when there were none.

use std::fs;
use std::path::PathBuf;

use potluck_tests::program::Person;
use serde_json::Value;
use snapbox::{assert_data_eq, str};

/// Somebody with these settings of cargo.
fn with(settings: &str) -> (Person, PathBuf) {
    let person = Person::at_home();
    let path = person.path(".cargo/config.toml");
    fs::create_dir(person.path(".cargo")).unwrap();
    fs::write(&path, settings).unwrap();
    (person, path)
}

fn setup(person: &Person, more: &[&str]) -> String {
    person.run(["setup", "cargo"].iter().chain(more)).ok()
}

const SETTINGS: &str =
    "# mine\n[build]\njobs = 2 # two\nrustc-wrapper = \"sccache\"\n\n[net]\noffline = true";

#[test]
fn cargo_is_wired_up_once_and_let_go_byte_for_byte() {
    let (person, path) = with(SETTINGS);
    assert_data_eq!(
        setup(&person, &["--print"]),
        str![[r#"
[HERE]/.cargo/config.toml
  - rustc-wrapper = "sccache"
  - 
  - [net]
  - offline = true
  + rustc-wrapper = "[..]/potluck-rustc"
  + 
  + [net]
  + offline = true
  + 
  + [env]
  + POTLUCK_RUSTC_BEHIND = "sccache"
  + POTLUCK_HOME = "[HERE]/home"
nothing was changed: this is what would be
note: your own packages are compiled incrementally in the dev profile, which no cache can hold: CARGO_INCREMENTAL=0 shares them as well

"#]]
    );
    assert_eq!(fs::read_to_string(&path).unwrap(), SETTINGS);
    setup(&person, &[]);
    let wired = fs::read_to_string(&path).unwrap();
    assert!(
        wired.contains("potluck-rustc") && wired.contains("# two") && wired.contains("sccache"),
        "{wired}"
    );
    assert!(setup(&person, &[]).starts_with("nothing is to be changed"));
    assert_eq!(fs::read_to_string(&path).unwrap(), wired);
    let list: Value = serde_json::from_str(&person.run(["--json", "setup"]).ok()).unwrap();
    let cargo = list["tools"].as_array().unwrap().iter().find(|row| row["tool"] == "cargo").unwrap();
    assert_eq!(cargo["set_up"], true);
    setup(&person, &["--undo"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), SETTINGS);
    // A file that was made for it goes again.
    fs::remove_file(&path).unwrap();
    setup(&person, &[]);
    assert!(path.is_file());
    setup(&person, &["--undo"]);
    assert!(!path.exists());
}

#[test]
fn what_was_added_since_stays_and_what_was_changed_is_left_to_the_person() {
    let (person, path) = with("[build]\njobs = 2\n");
    setup(&person, &[]);
    let wired = fs::read_to_string(&path).unwrap();
    fs::write(&path, format!("# new\n{wired}# more\n")).unwrap();
    setup(&person, &["--undo"]);
    assert_eq!(fs::read_to_string(&path).unwrap(), "# new\n[build]\njobs = 2\n# more\n");
    setup(&person, &[]);
    let changed = fs::read_to_string(&path).unwrap().replace("potluck-rustc", "else");
    fs::write(&path, &changed).unwrap();
    let refused = person.run(["setup", "cargo", "--undo"]);
    assert_eq!(refused.code, 1);
    assert!(refused.stderr.contains("was changed since"), "{}", refused.stderr);
    assert_eq!(fs::read_to_string(&path).unwrap(), changed);
}

#[test]
fn settings_that_are_not_understood_are_left_alone() {
    for settings in ["[build", "[build]\nrustc-wrapper = \"my-own\"\n"] {
        let (person, path) = with(settings);
        let refused = person.run(["setup", "cargo"]);
        assert_eq!(refused.code, 1, "{}", refused.stdout);
        assert_eq!(fs::read_to_string(&path).unwrap(), settings);
    }
    assert_eq!(Person::at_home().run(["setup", "vim"]).code, 2);
}

#[test]
fn without_a_build_or_a_daemon_it_is_said_what_to_do() {
    let person = Person::at_home();
    let stats = person.run(["cargo", "stats"]);
    assert_eq!(stats.code, 3);
    assert_data_eq!(
        stats.stderr,
        str![[r#"
error: no such build is remembered
hint: `potluck setup cargo` wires cargo up; then build something

"#]]
    );
    let doctor: Value = serde_json::from_str(&person.run(["--json", "doctor"]).stdout).unwrap();
    let daemon = doctor["checks"].as_array().unwrap().iter().find(|check| check["what"] == "daemon").unwrap();
    assert_eq!((&daemon["health"], &doctor["well"]), (&"bad".into(), &false.into()));
    assert_eq!(daemon["hint"], "`potluck up` starts it");
    let without = Person::new().run(["doctor"]);
    assert!(without.code == 1 && without.stdout.contains("`potluck init` makes one"), "{}", without.stdout);
    assert_eq!(person.run(["audit"]).code, 5);
}
