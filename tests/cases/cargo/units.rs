// SPDX-License-Identifier: MIT OR Apache-2.0
//! What else cargo is asked for than a build: checks, clippy, documentation, releases, other targets and processors. Each
//! has entries of its own, comes to what it comes to without a cache, and says what it says without one.

use std::fs;
use std::process::{Command, Output};

use potluck_tests::program::{Person, toolchain};

use super::workspace::{Workspace, count, log};

/// What cargo said, but for how long it took and where.
fn said(workspace: &Workspace, command: &mut Command) -> Vec<String> {
    let path = format!("{}:{}", toolchain().join("bin").display(), std::env::var("PATH").unwrap());
    let Output { status, stderr, stdout } = command.env("PATH", path).output().unwrap();
    let text = String::from_utf8([stderr, stdout].concat()).unwrap();
    assert!(status.success(), "{text}");
    let here = workspace.folder().display().to_string();
    let lines = text.lines().filter(|line| !line.contains("Finished") && !line.contains("finished in"));
    let mut lines: Vec<_> = lines.map(|line| line.replace(&here, "[WORKSPACE]")).collect();
    // What does not depend on each other comes in any order.
    lines.sort();
    lines
}

/// Runs a command in three checkouts, one of them without a cache; gives what became of the units of the other two.
fn thrice(person: &Person, name: &str, line: &str, make: &dyn Fn(&Workspace)) -> [Vec<(String, String)>; 2] {
    let workspace = |place: &str| {
        let workspace = Workspace::new(person.path(&format!("{place}/{name}")));
        make(&workspace);
        workspace
    };
    let plain = workspace("plain");
    let plain = said(&plain, plain.cargo(person, line).env_remove("RUSTC_WRAPPER"));
    ["a", "deeper/by/far/b"].map(|place| {
        let workspace = workspace(place);
        assert_eq!(said(&workspace, &mut workspace.cargo(person, line)), plain, "{name} {place}");
        let rows = log(person);
        // Documentation is always made anew; all else is fresh, and says again what it had to say.
        let again = said(&workspace, &mut workspace.cargo(person, line));
        let talk =
            |line: &&String| !["Compiling", "Checking", "Documenting"].iter().any(|word| line.contains(word));
        assert!(plain.iter().filter(talk).all(|line| again.contains(line)), "{name} {place}: {again:?}");
        let left = fs::read_to_string(person.path("log")).unwrap_or_default();
        assert!(left.is_empty() || log(person).is_empty(), "{name} {place}: nothing is to be done: {left}");
        rows
    })
}

/// The target that is built for where nobody names one.
fn host() -> String {
    let told = Command::new(toolchain().join("bin/rustc")).arg("-vV").output().unwrap().stdout;
    let told = String::from_utf8(told).unwrap();
    told.lines().find_map(|line| line.strip_prefix("host: ")).unwrap().to_owned()
}

const NOTHING: &dyn Fn(&Workspace) = &|_| {};

#[test]
fn checks_builds_tests_releases_and_documentation_have_entries_of_their_own() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    for (name, line, units, own) in [
        ("build", "build --offline -j1", 5, true),
        ("check", "check --offline -j1", 6, true),
        ("release", "build --offline -j1 --release", 6, true),
        // For tests of a macro cargo gives it, and all that is built on it, another name.
        ("test", "test --offline -j1 --workspace", 7, true),
        // Documentation is made by what was checked.
        ("doc", "doc --offline -j1 --no-deps", 4, false),
    ] {
        let [first, second] = thrice(&person, name, line, NOTHING);
        assert_eq!(first.len(), units, "{name}: {first:?}");
        assert_eq!(
            count(&first, "restored") + count(&first, "compiled: unclaimed"),
            units,
            "{name}: {first:?}"
        );
        // Of the library itself: a test of it is another unit of that name.
        let dish = first.iter().find(|(unit, _)| unit == "dish").unwrap();
        assert_eq!(dish.1 == "compiled: unclaimed", own, "{name}: {first:?}");
        assert_eq!((second.len(), count(&second, "restored")), (units, units), "{name}: {second:?}");
    }
}

const CLIPPY: &str = "clippy --offline -j1 --workspace";

/// Something that clippy has something to say about; nothing where there is no clippy.
fn clippy() -> Option<impl Fn(&Workspace)> {
    if !toolchain().join("bin/cargo-clippy").is_file() {
        eprintln!("skipped: this toolchain has no clippy");
        return None;
    }
    Some(|workspace: &Workspace| {
        workspace.write(
            "dish/src/lib.rs",
            "include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\"));\n\
             pub fn serve() -> String { if MADE.is_empty() == true { return format!(\"x\"); } \
             format!(\"{MADE} with {}\", spice::spice!()) }\n\
             #[allow(dead_code)] fn many(_: u8, _: u8, _: u8) {}\n",
        );
    })
}

fn dish(rows: &[(String, String)]) -> &str {
    rows.iter().find(|(unit, _)| unit == "dish").map_or("", |(_, outcome)| outcome)
}

#[test]
fn clippy_says_what_it_says_without_a_cache() {
    let Some(make) = clippy() else { return };
    let person = Person::at_home();
    let _daemon = person.daemon();
    let [first, second] = thrice(&person, "plain", CLIPPY, &make);
    assert_eq!((first.len(), count(&first, "compiled: unclaimed")), (6, 6), "{first:?}");
    assert_eq!((second.len(), count(&second, "restored")), (6, 6), "{second:?}");
    let [first, _] = thrice(&person, "check", "check --offline -j1 --workspace", &make);
    assert_eq!(dish(&first), "compiled: unclaimed", "what clippy made is no check");
}

#[test]
fn what_clippy_is_told_counts_wherever_it_stands() {
    let Some(make) = clippy() else { return };
    let person = Person::at_home();
    let _daemon = person.daemon();
    let built = |place: &str, setting: Option<&str>, line: &str| {
        let workspace = Workspace::new(person.path(place));
        make(&workspace);
        if let Some(name) = setting {
            workspace.write(name, "too-many-arguments-threshold = 2\n");
        }
        let said = said(&workspace, &mut workspace.cargo(&person, line));
        (dish(&log(&person)).to_owned(), said.iter().any(|line| line.contains("too many arguments")))
    };
    let pedantic = format!("{CLIPPY} -- -W clippy::pedantic");
    for (name, setting, line, finds) in [
        ("plain", None, CLIPPY, false),
        ("of-the-package", Some("dish/clippy.toml"), CLIPPY, true),
        ("of-the-workspace", Some(".clippy.toml"), CLIPPY, true),
        ("arguments", None, &pedantic, false),
    ] {
        let [first, second] = ["a", "deeper/b"].map(|place| built(&format!("{place}/{name}"), setting, line));
        assert_eq!(first, ("compiled: unclaimed".to_owned(), finds), "{name}");
        assert_eq!(second, ("restored: ".to_owned(), finds), "{name}");
    }
    // Settings above the workspace are nobody's who has it elsewhere.
    fs::write(person.path("clippy.toml"), "too-many-arguments-threshold = 2\n").unwrap();
    let (outcome, finds) = built("beneath", None, CLIPPY);
    assert!(outcome.contains("clippy.toml, which the key does not hold") && finds, "{outcome}");
}

#[test]
fn a_processor_that_is_to_be_found_out_and_a_named_target_count() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    let host = host();
    let [first, second] = thrice(&person, "target", &format!("build --offline -j1 --target {host}"), NOTHING);
    assert_eq!((first.len(), count(&first, "compiled: unclaimed")), (5, 5), "{first:?}");
    assert_eq!((second.len(), count(&second, "restored")), (5, 5), "{second:?}");
    for (flags, expected) in [("-Ctarget-cpu=native", 5), ("-Ctarget-cpu=generic", 5)] {
        let name = flags.rsplit_once('=').unwrap().1;
        let make = |workspace: &Workspace| {
            workspace.write(".cargo/config.toml", &format!("[build]\nrustflags = [{flags:?}]\n"));
        };
        let [first, second] = thrice(&person, name, "build --offline -j1", &make);
        assert_eq!(count(&first, "compiled: unclaimed"), expected, "{name}: {first:?}");
        assert_eq!(count(&second, "restored"), expected, "{name}: {second:?}");
    }
}

/// Libraries for a target of another kind, where its standard library is installed.
#[test]
fn libraries_for_another_target_are_restored() {
    let person = Person::at_home();
    let host = host();
    let installed = fs::read_dir(toolchain().join("lib/rustlib")).unwrap().map(Result::unwrap);
    let other = installed
        .filter(|entry| entry.path().join("lib").is_dir())
        .map(|entry| entry.file_name().into_string().unwrap());
    let Some(other) = other.into_iter().find(|name| *name != host && name.contains('-')) else {
        eprintln!("skipped: this toolchain has the standard library of no other target");
        return;
    };
    let _daemon = person.daemon();
    let [first, second] =
        thrice(&person, "other", &format!("build --offline -j1 -p dish --target {other}"), NOTHING);
    assert_eq!((first.len(), count(&first, "compiled: unclaimed")), (4, 4), "{first:?}");
    assert_eq!((second.len(), count(&second, "restored")), (4, 4), "{second:?}");
}

/// Only what cargo runs to build something is run by way of this program, however another one and its folder are called.
#[test]
fn a_program_that_is_called_like_a_build_script_is_left_as_it_is() {
    let person = Person::at_home();
    let _daemon = person.daemon();
    for place in ["a", "b"] {
        let workspace = Workspace::new(person.path(place));
        let app = "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
                   [[bin]]\nname = \"build-script-tool\"\npath = \"src/main.rs\"\n\
                   [[example]]\nname = \"build_script_example\"\npath = \"src/main.rs\"\n\
                   [dependencies]\ndish = { path = \"../dish\" }\n";
        workspace.write("app/Cargo.toml", app);
        let mut build = workspace.cargo(&person, "build --all-targets");
        said(&workspace, build.env("CARGO_TARGET_DIR", "build"));
        for name in ["build-script-tool", "examples/build_script_example"] {
            let built = workspace.folder().join("build/debug").join(name);
            assert!(!built.with_extension("real").exists() && !built.with_extension("place").exists());
            assert_eq!(Command::new(&built).output().unwrap().stdout, b"stew with salt\n", "{place}: {name}");
        }
        let folder = workspace.folder().join("build/debug");
        for folder in [folder.join("deps"), folder.join("examples")] {
            let names = fs::read_dir(&folder).unwrap().map(|entry| entry.unwrap().file_name());
            let names: Vec<_> = names.map(|name| name.into_string().unwrap()).collect();
            assert!(!names.iter().any(|name| name.ends_with(".real")), "{names:?}");
        }
        assert!(count(&log(&person), "restored") > 0 || place == "a");
    }
}
