// SPDX-License-Identifier: MIT OR Apache-2.0
//! Tools that are wired up and let go again, and what is said of builds when there were none.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;
use std::path::PathBuf;

use potluck_tests::program::{Person, potluck};
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

/// Somebody who has a program of this name that prints this.
fn with_program(person: &Person, name: &str, says: &str) -> PathBuf {
    let folder = person.path("programs");
    fs::create_dir_all(&folder).unwrap();
    let program = folder.join(name);
    fs::write(&program, format!("#!/bin/sh\necho '{says}'\n")).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    folder
}

#[test]
fn ccache_is_told_the_socket_where_it_knows_that_and_the_address_where_not() {
    let person = Person::new();
    person.run(["init"]).ok();
    let path = person.path(".config/ccache/ccache.conf");
    let wire = |version: &str| {
        let folder = with_program(&person, "ccache", &format!("ccache version {version}"));
        let path = format!("{}:{}", folder.display(), std::env::var("PATH").unwrap());
        person.ran(person.command(["setup", "ccache"]).env("PATH", path)).ok();
    };
    wire("4.14.2");
    let socket = person.home().join("ccache.sock");
    assert_eq!(fs::read_to_string(&path).unwrap(), format!("remote_storage = crsh:{}\n", socket.display()));
    // An older one came instead.
    wire("4.7.5");
    assert_eq!(fs::read_to_string(&path).unwrap(), "remote_storage = http://127.0.0.1:7117/ccache\n");
    person.run(["setup", "ccache", "--undo"]).ok();
    assert!(!path.exists());
}

#[test]
fn turbo_and_nix_are_wired_up_and_let_go_byte_for_byte() {
    let person = Person::new();
    person.run(["init"]).ok();
    for (tool, file, before, wired) in [
        ("turbo", ".config/turborepo/config.json", "{\"token\":  \"mine\"}", "http://127.0.0.1:7117/turbo"),
        ("nix", ".config/nix/nix.conf", "sandbox = true # mine", "http://127.0.0.1:7117/nix"),
    ] {
        let path = person.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(&path, before).unwrap();
        let shown = person.run(["setup", tool, "--print"]).ok();
        assert!(shown.contains(wired), "{shown}");
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
        person.run(["setup", tool]).ok();
        let after = fs::read_to_string(&path).unwrap();
        assert!(after.contains(wired) && after.contains("mine"), "{after}");
        assert!(person.run(["setup", tool]).ok().starts_with("nothing is to be changed"));
        person.run(["setup", tool, "--undo"]).ok();
        assert_eq!(fs::read_to_string(&path).unwrap(), before);
    }
    // Where the node signs, its key is named as well.
    let config = person.home().join("config.toml");
    let text = fs::read_to_string(&config).unwrap();
    fs::write(&config, format!("{text}\n[front.nix]\nsign = true\n")).unwrap();
    let key = person.run(["key", "show", "me", "--nix"]).ok();
    assert!(person.run(["setup", "nix", "--print"]).ok().contains(key.trim()));
}

/// What a doctor says of a tool with these variables: whether all is well, and each check's health.
fn doctor(person: &Person, tool: &str, env: &[(&str, &str)]) -> (bool, Vec<(String, String)>, String) {
    let mut command = person.command(["--json", "doctor", tool]);
    let ran = person.ran(command.envs(env.iter().copied()));
    let said: Value = serde_json::from_str(&ran.stdout).unwrap_or_else(|_| panic!("{}", ran.stderr));
    let text = |value: &Value| value.as_str().unwrap().to_owned();
    let checks = said["checks"].as_array().unwrap().iter();
    let checks = checks.map(|check| (text(&check["what"]), text(&check["health"]))).collect();
    assert_eq!(ran.code == 0, said["well"] == true, "{said:#}");
    (said["well"] == true, checks, format!("{said:#}"))
}

#[test]
fn a_doctor_proves_each_tool_by_a_round_trip_where_its_settings_lead() {
    let person = Person::at_home();
    let dead = "http://127.0.0.1:9";
    let tools = ["ccache", "sccache", "bazel", "gradle", "nx", "moon", "turbo", "nix", "go"];
    for tool in tools {
        let (well, checks, said) = doctor(&person, tool, &[]);
        assert!(!well && checks == [("daemon".to_owned(), "bad".to_owned())], "{said}");
    }
    let up = person.up(&[]);
    let http = up.http();
    let socket = format!("crsh:{}", person.home().join("ccache.sock").display());
    let helper = format!("{} --home {} gocacheprog", potluck().display(), person.home().display());
    let url = |front: &str| format!("http://{http}/{front}");
    for (tool, name, value) in [
        ("ccache", "CCACHE_REMOTE_STORAGE", url("ccache") + "|layout=flat"),
        ("ccache", "CCACHE_REMOTE_STORAGE", url("ccache/@acme~web")),
        ("ccache", "CCACHE_REMOTE_STORAGE", socket),
        ("sccache", "SCCACHE_WEBDAV_ENDPOINT", url("webdav")),
        ("nx", "NX_SELF_HOSTED_REMOTE_CACHE_SERVER", url("nx")),
        ("moon", "MOON_REMOTE_HOST", url("bazel")),
        ("turbo", "TURBO_API", url("turbo")),
        ("go", "GOCACHEPROG", helper),
    ] {
        let (well, checks, said) = doctor(&person, tool, &[(name, &value)]);
        assert!(well && checks.last().unwrap().0 == "round trip", "{tool}: {said}");
    }
    let (well, checks, said) = doctor(&person, "nx", &[]);
    assert!(well && checks.last().unwrap().0 == "round trip" && said.contains("`potluck nx`"), "{said}");
    fs::create_dir_all(person.path(".gradle")).unwrap();
    let (_, _, said) = doctor(&person, "gradle", &[]);
    assert!(said.contains("gradle.properties names no cache"), "{said}");
    fs::write(person.path(".gradle/gradle.properties"), "org.gradle.caching=true\n").unwrap();
    for (tool, file, text) in [
        ("ccache", ".config/ccache/ccache.conf", format!("remote_storage = {}\n", url("ccache"))),
        ("sccache", ".config/sccache/config", format!("[cache.webdav]\nendpoint = \"{}\"\n", url("webdav"))),
        ("bazel", ".bazelrc", format!("build --remote_cache={}\n", url("bazel"))),
        ("gradle", ".gradle/init.d/potluck.gradle", format!("        url = '{}/'\n", url("gradle"))),
        ("moon", ".moon/workspace.yml", format!("remote:\n  host: '{}'\n", url("bazel"))),
        ("turbo", ".config/turborepo/config.json", format!("{{\"apiUrl\":\"{}\"}}", url("turbo"))),
        ("nix", ".config/nix/nix.conf", format!("extra-substituters = {}\n", url("nix"))),
        (
            "go",
            ".config/go/env",
            format!("GOCACHEPROG={} --home {} gocacheprog\n", potluck().display(), person.home().display()),
        ),
    ] {
        let (well, _, said) = doctor(&person, tool, &[]);
        assert!(!well && said.contains(&format!("potluck setup {tool}")), "{tool}: {said}");
        let path = person.path(file);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
        let (well, checks, said) = doctor(&person, tool, &[]);
        assert!(well && checks.last().unwrap().0 == "round trip", "{tool}: {said}");
    }
    // Nothing of it is shared, or left where somebody could take it for something that was built.
    let status = person.status();
    assert_eq!(status["catalogs"].as_array().unwrap().len(), 0, "{status:#}");
    // What leads elsewhere is no proof of anything.
    for (tool, name, value) in [
        ("ccache", "CCACHE_REMOTE_STORAGE", "redis://127.0.0.1".to_owned()),
        ("ccache", "CCACHE_REMOTE_STORAGE", "crsh:/nonexistent/ccache.sock".to_owned()),
        ("sccache", "SCCACHE_WEBDAV_ENDPOINT", format!("{dead}/webdav")),
        ("nx", "NX_SELF_HOSTED_REMOTE_CACHE_SERVER", url("gradle")),
        ("go", "GOCACHEPROG", "/bin/other cacheprog".to_owned()),
    ] {
        let (well, checks, said) = doctor(&person, tool, &[(name, &value)]);
        assert!(!well && checks.last().unwrap().0 == "settings", "{tool}: {said}");
        assert!(said.contains(name), "{said}");
    }
}
