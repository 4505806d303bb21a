// SPDX-License-Identifier: MIT OR Apache-2.0
//! Making room as people see it: `gc`, `pin`, and a budget that is kept by itself.

use std::fs;

use potluck_node::cache::{Cache as _, Publication};
use potluck_node::control::client::{Client, HELLO};
use potluck_protocol::action::{Project, Recipe};
use potluck_protocol::codec::Text;
use potluck_protocol::entry::{BlobOutput, Labels, Output};
use potluck_tests::program::{Person, Ran};
use serde_json::Value;

/// Somebody with these settings.
fn person(settings: &str) -> Person {
    let person = Person::at_home();
    fs::write(person.home().join("config.toml"), settings).unwrap();
    person
}

/// Puts a file that does not pack under a key; gives its Digest.
fn put(person: &Person, key: u8, len: usize) -> String {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&[key]).finalize_xof().fill(&mut bytes);
    fs::write(person.path("file"), bytes).unwrap();
    let key = format!("{key:02x}");
    let put = ["--json", "put", "--recipe", "r@1", "--project", "acme/web", "--key", &key, "file"];
    let put: Value = serde_json::from_str(&person.run(put).ok()).unwrap();
    put["blob"].as_str().unwrap().to_owned()
}

fn get(person: &Person, key: u8) -> Ran {
    let key = format!("{key:02x}");
    person.run(["get", "--recipe", "r@1", "--project", "acme/web", "--key", &key, "back"])
}

fn json(person: &Person, args: &[&str]) -> Value {
    let args = ["--json"].into_iter().chain(args.iter().copied());
    serde_json::from_str(&person.run(args).ok()).unwrap()
}

#[test]
fn what_would_go_is_shown_and_then_goes() {
    let person = person("");
    let up = person.up(&[]);
    (0..4).for_each(|key| drop(put(&person, key, 100_000)));
    let dry = json(&person, &["gc", "--dry-run", "--keep", "250kB", "-v"]);
    assert_eq!((&dry["entries"], &dry["dry"], &dry["v"]), (&2.into(), &true.into(), &1.into()), "{dry}");
    assert_eq!(dry["singles"].as_array().unwrap().len(), 2);
    assert_eq!(dry["groups"][0]["project"], "acme/web");
    let shown = person.run(["gc", "--dry-run", "--keep", "250kB", "-v"]).ok();
    assert!(
        shown.contains("2 entries would go, which would free ") && shown.contains("not used for "),
        "{shown}"
    );
    assert_eq!(get(&person, 0).code, 0, "nothing has gone, and this one is used now");
    let done = json(&person, &["gc", "--keep", "250kB"]);
    assert_eq!((&done["entries"], &done["end"]), (&dry["entries"], &"done".into()), "{done}");
    assert!(done.get("singles").is_none() && done["after"].as_u64().unwrap() <= 250_000);
    assert_eq!((get(&person, 1).code, get(&person, 0).code), (3, 0), "the one that was used stays");
    let status = person.status();
    assert_eq!(status["store"]["collected"]["freed"], done["freed"]);
    assert!(person.run(["status"]).ok().contains("entries gone (asked)"));
    let filtered = json(&person, &["gc", "--project", "other/*"]);
    assert_eq!(filtered["entries"], 0);
    assert_eq!(json(&person, &["gc", "--project", "acme/*"])["entries"], 2);
    drop(up);
}

#[test]
fn a_budget_is_kept_by_itself_and_pins_stay() {
    let person = person("[store]\nbudget = \"300kB\"\nfree-floor = \"0\"\n");
    let up = person.up(&[]);
    let pinned = put(&person, 1, 100_000);
    let pin =
        ["pin", "add", "--recipe", "r@1", "--project", "acme/web", "--key", "01", "--reason", "release"];
    assert_eq!(person.run(pin).ok(), format!("{pinned} will be kept\n"));
    (2..8).for_each(|key| drop(put(&person, key, 100_000)));
    let status = person.until("room", |status| status["store"]["bytes"].as_u64().unwrap() <= 300_000);
    assert_eq!(status["store"]["budget"], 300_000);
    let status = person.until("the report", |status| !status["store"]["collected"].is_null());
    assert_eq!(status["store"]["collected"]["cause"], "budget");
    person.run(["gc", "--keep", "0"]).ok();
    assert_eq!(get(&person, 1).code, 0, "what is pinned is found as well");
    assert_eq!(json(&person, &["pin", "list"])["pins"][0]["blob"], pinned.as_str());
    let listed = person.run(["pin", "list"]).ok();
    assert!(listed.contains(&pinned) && listed.contains("release"), "{listed}");
    assert!(person.status()["store"]["bytes"].as_u64().unwrap() >= 100_000);
    assert_eq!(person.run(["pin", "add", &"0".repeat(64)]).code, 3);
    assert_eq!(person.run(["pin", "add", "short"]).code, 2);
    assert_eq!(person.run(["pin", "add"]).code, 2);
    person.run(["pin", "remove", &pinned]).ok();
    assert_eq!(person.run(["pin", "remove", &pinned]).code, 3);
    assert_eq!(person.run(["pin", "list"]).ok(), "nothing is pinned\n");
    drop(up);
}

#[test]
fn what_makes_no_sense_is_a_usage_error() {
    let person = person("");
    for args in [&["gc", "--keep", "much"][..], &["gc", "--keep", "1GB", "--project", "x"]] {
        assert_eq!(person.run(args).code, 2, "{args:?}");
    }
    let up = person.up(&[]);
    let ran = person.run(["gc", "--project", "NO SUCH"]);
    assert!(ran.code == 2 && ran.stderr.contains("the pattern of projects"), "{}", ran.stderr);
    drop(up);
}

/// Publishes a small Blob as a tool would.
fn publish_as(person: &Person, tool: &str, toolchain: &str) {
    let labels = Labels { tool: Text::new(tool), toolchain: Text::new(toolchain), ..Labels::default() };
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    runtime.block_on(async {
        let socket = person.home().join("potluck.sock");
        let client = Client::connect(&socket, "test", HELLO).await.unwrap();
        let (digest, size) = client.write(&b"made"[..]).await.unwrap();
        let (project, recipe) = (Project::default(), Recipe::new("rustc@1").unwrap());
        let output = Output::Blob(BlobOutput { digest, size });
        let publication = Publication { project, recipe, key: vec![1], output, labels, taints: Vec::new() };
        client.publish(publication).await.unwrap();
    });
}

#[test]
fn toolchains_that_are_gone_are_told_of() {
    let person = person("");
    let rustup = person.path("rustup");
    let bin = rustup.join("toolchains/stable/bin");
    fs::create_dir_all(&bin).unwrap();
    let up = person.up(&[]);
    let report = |release: &str| {
        use std::os::unix::fs::PermissionsExt as _;
        let rustc = bin.join("rustc");
        fs::write(&rustc, format!("#!/bin/sh\necho 'release: {release}'\n")).unwrap();
        fs::set_permissions(&rustc, fs::Permissions::from_mode(0o755)).unwrap();
        let mut gc = person.command(["gc", "--dry-run"]);
        person.ran(gc.env("RUSTUP_HOME", &rustup)).stderr
    };
    publish_as(&person, "rustc", "1.94.0");
    assert!(report("1.94.0").is_empty());
    let told = report("1.95.0");
    assert!(told.contains("1.94.0 is no longer installed: `potluck gc --toolchain 1.94.0`"), "{told}");
    drop(up);
}
