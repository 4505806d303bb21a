// SPDX-License-Identifier: MIT OR Apache-2.0
//! House rules that neither the compiler nor clippy knows. (Lengths of functions and numbers of parameters are in
//! `clippy.toml`.) Each rule is a function from text to complaints, and is shown to complain.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use potluck_tests::program::repository;

const SPDX: &str = "// SPDX-License-Identifier: MIT OR Apache-2.0";
const LONGEST_FILE: usize = 600;

/// A file of the repository: its path from the root, and its text.
struct Source {
    path: String,
    text: String,
}

/// Every text file that git knows or would add.
fn sources() -> Vec<Source> {
    let list = ["ls-files", "-z", "--cached", "--others", "--exclude-standard"];
    let output = Command::new("git").args(list).current_dir(repository()).output().expect("git runs");
    assert!(output.status.success(), "the repository is one of git");
    let paths = String::from_utf8(output.stdout).expect("our paths are UTF-8");
    let read = |path: &str| {
        let text = fs::read_to_string(repository().join(path)).ok()?;
        Some(Source { path: path.to_owned(), text })
    };
    let sources: Vec<_> = paths.split('\0').filter(|path| !path.is_empty()).filter_map(read).collect();
    assert!(sources.iter().any(|source| source.path == "Cargo.toml"), "the list is the repository's");
    sources
}

fn is_rust(source: &Source) -> bool {
    Path::new(&source.path).extension().is_some_and(|ext| ext == "rs")
}

/// Runs a rule over the files that `of` picks and fails with all complaints.
#[track_caller]
fn enforce(of: impl Fn(&Source) -> bool, rule: impl Fn(&Source) -> Vec<String>) {
    let complaints: Vec<_> = sources().iter().filter(|source| of(source)).flat_map(rule).collect();
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
}

/// The lines before the inline tests.
fn product(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines().enumerate().map(|(at, line)| (at + 1, line)).take_while(|(_, line)| *line != "#[cfg(test)]")
}

fn opening(source: &Source) -> Vec<String> {
    let mut lines = source.text.lines();
    let mut complaints = Vec::new();
    if lines.next() != Some(SPDX) {
        complaints.push(format!("{}:1: the first line must be `{SPDX}`", source.path));
    }
    if !lines.next().is_some_and(|line| line.starts_with("//! ") || line.starts_with("#![no_main]")) {
        complaints.push(format!("{}:2: say what the file is for, in a `//!` comment", source.path));
    }
    complaints
}

fn length(source: &Source) -> Vec<String> {
    match product(&source.text).count() {
        lines if lines > LONGEST_FILE => {
            vec![format!(
                "{}: {lines} lines before its tests; split it, {LONGEST_FILE} is the limit",
                source.path
            )]
        }
        _ => Vec::new(),
    }
}

/// Files that decide, and hence may not touch the world.
fn is_pure(source: &Source) -> bool {
    let Source { path, .. } = source;
    let by_place =
        path.starts_with("protocol/src/") || path.starts_with("keys/src/") && path != "keys/src/ring.rs";
    let by_name = ["plan.rs", "map.rs"].iter().any(|name| path.ends_with(&format!("/{name}")));
    is_rust(source) && (by_place || by_name)
}

fn purity(source: &Source) -> Vec<String> {
    const WORLDLY: &[&str] = &[
        "tokio",
        "std::fs",
        "std::net",
        "std::io",
        "std::env",
        "std::thread",
        "Instant::now",
        "SystemTime::now",
    ];
    let worldly = |line: &str| {
        let code = line.split("//").next().unwrap_or_default();
        WORLDLY.iter().find(|word| code.contains(**word)).copied()
    };
    let complaint = |(at, line)| {
        worldly(line)
            .map(|word| format!("{}:{at}: `{word}` in a pure file: move it to a driver", source.path))
    };
    product(&source.text).filter_map(complaint).collect()
}

fn module_name(source: &Source) -> Vec<String> {
    let path = Path::new(&source.path);
    let parts = path.iter().filter_map(|part| part.to_str()).map(|part| part.trim_end_matches(".rs"));
    let bad = ["util", "utils", "common", "helper", "helpers", "manager", "misc"];
    parts
        .filter(|part| bad.contains(part))
        .map(|part| format!("{}: `{part}` says nothing; name it after what it holds", source.path))
        .collect()
}

fn machine_path(source: &Source) -> Vec<String> {
    // Put together here, so that this file does not accuse itself.
    let bad = ["root", "work", "home"].map(|folder| format!("/{folder}/"));
    let home = |line: &str| {
        bad.iter().find(|path| {
            line.match_indices(path.as_str()).any(|(at, _)| {
                let before = line[..at].chars().next_back();
                before.is_none_or(|before| !before.is_alphanumeric() && !"/]}_-.*".contains(before))
            })
        })
    };
    let lines = source.text.lines().enumerate();
    lines
        .filter_map(|(at, line)| {
            home(line).map(|path| format!("{}:{}: `{path}` is a path of some machine", source.path, at + 1))
        })
        .collect()
}

#[test]
fn every_source_opens_with_its_licence_and_purpose() {
    enforce(is_rust, opening);
    let bad = Source { path: "x.rs".into(), text: "use std::fs;\n".into() };
    assert_eq!(opening(&bad).len(), 2);
}

#[test]
fn no_source_is_too_long_to_find_one_s_way() {
    enforce(is_rust, length);
    let bad = Source { path: "x.rs".into(), text: "\n".repeat(LONGEST_FILE + 1) };
    assert_eq!(length(&bad).len(), 1);
    let tests =
        Source { path: "x.rs".into(), text: format!("#[cfg(test)]\n{}", "\n".repeat(LONGEST_FILE + 1)) };
    assert!(length(&tests).is_empty());
}

#[test]
fn what_decides_does_not_touch_the_world() {
    enforce(is_pure, purity);
    let bad = Source { path: "node/src/fetch/plan.rs".into(), text: "// std::fs\nuse std::fs;\n".into() };
    assert!(is_pure(&bad));
    assert_eq!(purity(&bad), ["node/src/fetch/plan.rs:2: `std::fs` in a pure file: move it to a driver"]);
}

#[test]
fn modules_have_names_that_mean_something() {
    enforce(is_rust, module_name);
    assert_eq!(module_name(&Source { path: "node/src/utils.rs".into(), text: String::new() }).len(), 1);
    assert_eq!(module_name(&Source { path: "node/src/common/x.rs".into(), text: String::new() }).len(), 1);
}

#[test]
fn nothing_names_a_machine_s_own_folders() {
    enforce(|_| true, machine_path);
    let folder = format!("/{}/", "root");
    let bad = |line: &str| machine_path(&Source { path: "x".into(), text: line.into() }).len();
    assert_eq!(bad(&format!("see {folder}x")), 1);
    assert_eq!(bad(&format!("\"{folder}x\"")), 1);
    assert_eq!(bad(&format!("the{folder}of it")), 0);
}

#[test]
fn the_top_level_holds_what_it_should() {
    let allowed = ["cli", "docs", "keys", "node", "protocol", "simulations", "tests"];
    let sources = sources();
    let folders = sources.iter().filter_map(|source| Some(source.path.split_once('/')?.0));
    let folders: BTreeSet<_> = folders.filter(|folder| !folder.starts_with('.')).collect();
    let strangers: Vec<_> = folders.iter().filter(|folder| !allowed.contains(folder)).collect();
    assert!(strangers.is_empty(), "{strangers:?} stand at the top level; put them below one of {allowed:?}");
}

/// The links of a document to tests, as (test, file).
fn tests_named(text: &str) -> Vec<(&str, &str)> {
    let link = |part: &'_ str| -> Option<(usize, usize, usize)> {
        let (name, rest) = part.split_once("`](")?;
        let (path, _) = rest.split_once(')')?;
        Some((name.len(), name.len() + 3, name.len() + 3 + path.len()))
    };
    let parts = text.split("[`").skip(1);
    parts.filter_map(|part| link(part).map(|(end, from, to)| (&part[..end], &part[from..to]))).collect()
}

/// Whether a file has a test of that name.
fn has_test(file: &str, name: &str) -> bool {
    let lines: Vec<_> = file.lines().map(str::trim_start).collect();
    let begins = |line: &str| {
        let line = line.strip_prefix("async ").unwrap_or(line);
        line.strip_prefix("fn ")
            .and_then(|line| line.strip_prefix(name))
            .is_some_and(|rest| rest.starts_with('('))
    };
    let at = lines.iter().position(|line| begins(line));
    at.is_some_and(|at| {
        let above = lines[..at].iter().rev().take_while(|line| line.starts_with("#["));
        above.clone().any(|line| line.starts_with("#[test]") || line.starts_with("#[tokio::test"))
    })
}

/// Complaints about a threat model: lines that name no test, and tests that are not there.
fn unproven(text: &str, read: impl Fn(&str) -> Option<String>) -> Vec<String> {
    let (claims, _) = text.split_once("\n## What is not protected from").unwrap_or((text, ""));
    let bare = claims.split("\n* ").skip(1).map(|item| item.split("\n\n").next().unwrap_or(item));
    let bare = bare.filter(|item| tests_named(item).is_empty()).map(|item| format!("`{item}` names no test"));
    let missing = tests_named(text)
        .into_iter()
        .filter(|(name, path)| !read(path).is_some_and(|file| has_test(&file, name)));
    bare.chain(missing.map(|(name, path)| format!("there is no test `{name}` in {path}"))).collect()
}

#[test]
fn every_line_of_the_threat_model_names_a_test_that_exists() {
    let docs = repository().join("docs");
    let text = fs::read_to_string(docs.join("threat-model.md")).expect("there is a threat model");
    let complaints = unproven(&text, |path| fs::read_to_string(docs.join(path)).ok());
    assert!(complaints.is_empty(), "\n{}", complaints.join("\n"));
    assert!(tests_named(&text).len() > 50, "the links are found");
    let bad = "x\n* one [`a`](x.rs)\n* two\n* three [`b`](x.rs)\n\n## What is not protected from\n* four\n";
    let file = "#[test]\nfn a() {}\nfn b() {}\n";
    assert_eq!(
        unproven(bad, |_| Some(file.to_owned())),
        ["`two` names no test", "there is no test `b` in x.rs"]
    );
}

fn manifest(package: &str) -> toml::Table {
    let path: PathBuf = repository().join(package).join("Cargo.toml");
    fs::read_to_string(path).expect("each package has a manifest").parse().expect("and it is TOML")
}

fn dependencies<'a>(manifest: &'a toml::Table, table: &str) -> Vec<(&'a str, &'a toml::Value)> {
    let table = manifest.get(table).and_then(toml::Value::as_table);
    table.into_iter().flatten().map(|(name, value)| (name.as_str(), value)).collect()
}

#[test]
fn no_crate_depends_upward() {
    let below: &[(&str, &[&str])] = &[
        ("keys", &[]),
        ("protocol", &["potluck-keys"]),
        ("node", &["potluck-keys", "potluck-protocol"]),
        ("simulations", &["potluck-keys", "potluck-protocol", "potluck-node"]),
        ("cli", &["potluck-keys", "potluck-protocol", "potluck-node"]),
    ];
    for (package, allowed) in below {
        let manifest = manifest(package);
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, _) in dependencies(&manifest, table) {
                let stranger = name.starts_with("potluck") && !allowed.contains(&name);
                assert!(!stranger, "{package}/Cargo.toml: {package} may not depend on {name}");
            }
        }
    }
}

#[test]
fn versions_stand_in_one_place() {
    for package in ["keys", "protocol", "node", "cli", "simulations", "tests"] {
        let manifest = manifest(package);
        for table in ["dependencies", "dev-dependencies", "build-dependencies"] {
            for (name, value) in dependencies(&manifest, table) {
                let shared = value.get("workspace").and_then(toml::Value::as_bool) == Some(true);
                assert!(
                    shared,
                    "{package}/Cargo.toml: write `{name}.workspace = true`, and its version at the root"
                );
            }
        }
    }
}
