// SPDX-License-Identifier: MIT OR Apache-2.0
//! Two builders of a project of which some units never come out the same: the reports say which, and who wants both to
//! agree takes exactly the others.

use std::fs;

use potluck_tests::cargo::Checkout;
use potluck_tests::circle::{Circle, list, up};
use potluck_tests::program::Person;
use serde_json::Value;

use super::workspace::Workspace;

/// A number that is another one each time.
const CHANCE: &str = "std::hash::BuildHasher::hash_one(&std::collections::hash_map::RandomState::new(), 7)";

/// The usual workspace, with a macro and a build script that give what chance gives.
fn project(person: &Person) -> Workspace {
    let workspace = Workspace::new(person.path("project"));
    workspace.write(
        "Cargo.toml",
        "[workspace]\nmembers = [\"app\", \"dish\", \"spice\", \"soup\"]\nresolver = \"2\"\n",
    );
    workspace.write(
        "spice/src/lib.rs",
        &format!(
            "#[proc_macro]\npub fn spice(_: proc_macro::TokenStream) -> proc_macro::TokenStream {{\n\
             format!(\"{{}}u64\", {CHANCE}).parse().unwrap() }}\n"
        ),
    );
    workspace
        .write("soup/Cargo.toml", "[package]\nname = \"soup\"\nversion = \"0.1.0\"\nedition = \"2021\"\n");
    workspace.write(
        "soup/build.rs",
        &format!(
            "fn main() {{\nlet out = std::path::Path::new(&std::env::var_os(\"OUT_DIR\").unwrap()).join(\"made.rs\");\n\
             std::fs::write(out, format!(\"pub const SOUP: u64 = {{}};\", {CHANCE})).unwrap();\n}}\n"
        ),
    );
    workspace.write("soup/src/lib.rs", "include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\"));\n");
    let lock = person.cargo(workspace.folder(), ["generate-lockfile", "--offline"]).output().unwrap();
    assert!(lock.status.success(), "{}", String::from_utf8_lossy(&lock.stderr));
    workspace
}

/// Publishes it; gives the report. That some of it is not reproducible is a failure.
fn publish(person: &Person, project: &Workspace) -> Value {
    let lock = project.folder().join("Cargo.lock").display().to_string();
    let mut words = vec!["--json", "cargo", "publish", "--lock", &lock];
    let namespaces = std::process::Command::new("unshare").args(["-rn", "true"]).status();
    if !namespaces.is_ok_and(|status| status.success()) {
        words.push("--no-sandbox");
    }
    let mut command = person.command(words);
    let ours = |name: &str| name.starts_with("RUSTUP_") || ["CARGO_HOME", "HOME"].contains(&name);
    command.envs(std::env::vars().filter(|(name, _)| ours(name))).env("CARGO_NET_OFFLINE", "true");
    let ran = person.ran(&mut command);
    assert_eq!(ran.code, 1, "{}{}", ran.stdout, ran.stderr);
    serde_json::from_str(&ran.stdout).unwrap()
}

/// One word about each unit of a report, by its name.
fn word(report: &Value, name: &str) -> Vec<(String, String)> {
    let unit = |row: &Value| {
        let text = |name: &str| row[name].as_str().unwrap_or_default().to_owned();
        // All build scripts have one crate name.
        let which = text("unit").split_whitespace().next().unwrap_or_default().to_owned();
        (format!("{which} {}", text("kind")), text(name))
    };
    let mut words: Vec<_> = list(&report["units"])
        .iter()
        .filter(|row| !row["key"].is_null() && row["crate"] != "app")
        .map(unit)
        .collect();
    words.sort();
    words
}

fn words(pairs: [(&str, &str); 7]) -> Vec<(String, String)> {
    let mut words = pairs.map(|(unit, word)| (unit.to_owned(), word.to_owned())).to_vec();
    words.sort();
    words
}

#[test]
fn what_two_builders_do_not_agree_about_is_told_and_not_taken() {
    let lab = Circle::new();
    let boot = lab.up();
    let (ann, bob) = (lab.member(None), lab.member(None));
    for (one, other, name) in [(&ann, &bob, "bob"), (&bob, &ann, "ann")] {
        let key = other.run(["key", "show", "me"]).ok();
        one.run(["trust", "add", name, key.lines().next().unwrap(), "--project", "*"]).ok();
    }
    let _ups = [up(&ann, &boot), up(&bob, &boot)];
    let source = project(&ann);
    let hers = publish(&ann, &source);
    let came = |unit: &'static str, how: &'static str| (unit, how);
    assert_eq!(
        word(&hers, "reproduced"),
        words([
            came("dish build-script", "same"),
            came("dish build-script-run", "same"),
            came("dish lib", "differs"),
            came("soup build-script", "same"),
            came("soup build-script-run", "differs"),
            // Its key holds what the script made.
            came("soup lib", "other key"),
            came("spice proc-macro", "same"),
        ]),
        "{hers:#}"
    );
    potluck_tests::circle::followed(&bob, &ann);
    let his = publish(&bob, &source);
    assert_eq!(
        word(&his, "agreement"),
        words([
            came("dish build-script", "agreed"),
            came("dish build-script-run", "agreed"),
            came("dish lib", "disputed"),
            came("soup build-script", "agreed"),
            came("soup build-script-run", "disputed"),
            came("soup lib", "only mine"),
            came("spice proc-macro", "agreed"),
        ]),
        "{his:#}"
    );
    let disputed: Vec<_> = list(&his["units"]).iter().filter(|row| row["agreement"] == "disputed").collect();
    assert!(disputed.iter().all(|row| row["with"][0] == "ann"), "{disputed:#?}");

    let carol = lab.member(Some(&ann));
    let key = bob.run(["key", "show", "me"]).ok();
    carol.run(["trust", "add", "bob", key.lines().next().unwrap(), "--project", "other/*"]).ok();
    let path = carol.home().join("trust.toml");
    let rules = fs::read_to_string(&path).unwrap();
    let (before, after) = rules.rsplit_once("accept = [\"ann\"]").unwrap();
    fs::write(&path, format!("{before}agree = 2\naccept = [\"ann\", \"bob\"]{after}")).unwrap();
    let _carol_up = up(&carol, &boot);
    let published = |person: &Person| person.status()["published"].as_u64().unwrap();
    let all = [("ann", published(&ann)), ("bob", published(&bob))];
    let follows = |status: &Value, (name, keys): (&str, u64)| {
        let whole = |row: &Value| row["signer"] == name && row["keys"].as_u64() >= Some(keys);
        list(&status["catalogs"]).iter().any(whole)
    };
    carol.until("both catalogs", |status| all.iter().all(|one| follows(status, *one)));
    let theirs = Checkout::new(&carol, source.folder(), "c");
    // However busy the machine is, what is there is found.
    let built = theirs.cargo(&carol).env("POTLUCK_DEADLINE_MS", "60000").output().unwrap();
    assert!(built.status.success(), "{}", String::from_utf8_lossy(&built.stderr));
    let mut units = theirs.units();
    units.retain(|(name, _)| name != "app");
    units.sort();
    let outcome = |name: &str, outcome: &str| (name.to_owned(), outcome.to_owned());
    let mut expected = vec![
        outcome("build_script_build", "restored"),
        outcome("build_script_build", "restored"),
        outcome("dish", "restored"),
        outcome("dish", "compiled"),
        outcome("soup", "compiled"),
        outcome("soup", "compiled"),
        outcome("spice", "restored"),
    ];
    expected.sort();
    assert_eq!(units, expected, "{}", carol.run(["--json", "cargo", "stats"]).stdout);
}
