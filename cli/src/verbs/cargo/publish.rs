// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck cargo publish`: the builder. It makes everything itself, twice and in different folders, publishes what it
//! made, and says unit by unit whether it came out the same, and whether other builders got the same.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args as ClapArgs;
use potluck_node::front::rustc::diary::Row;
use potluck_node::home::Home;
use serde_json::{Value, json};

use super::{claims, unit, verify};
use crate::connect::wait;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::{Say, counted};

/// Deepest folder of a project that is copied.
const MAX_DEPTH: usize = 64;

/// Build projects for others: without the network, twice, signed, with a report of what came out the same
///
/// Fetches what each lock file names, then builds in a network namespace of its own, from nothing but its sources, and
/// publishes every unit; builds once more in another folder, and compares. Asks those who are trusted what they claim
/// about the same units. For example: `potluck cargo publish --lock app/Cargo.lock -- --release`
#[derive(Debug, ClapArgs)]
pub(super) struct Publish {
    /// Lock files, each beside the Cargo.toml of a project
    #[arg(long = "lock", value_name = "FILE", required = true, num_args = 1..)]
    locks: Vec<PathBuf>,
    /// Build with the network at hand where no namespaces are to be had
    #[arg(long)]
    no_sandbox: bool,
    /// More arguments for `cargo build`
    #[arg(last = true)]
    args: Vec<String>,
}

impl Publish {
    pub(super) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let sandbox = !self.no_sandbox;
        if sandbox && !has_namespaces() {
            return Err(Failure::failed(
                "this machine allows no network namespaces, so a build could ask the network",
            )
            .hint("--no-sandbox builds all the same, and says so in the report"));
        }
        let mut worst = Exit::Done;
        for lock in &self.locks {
            say.note(&format!("building {}", lock.display()));
            let report = self.project(home, lock, sandbox)?;
            if report["failed"].as_u64() != Some(0) {
                worst = Exit::Failed;
            }
            say.answer(&text(&report), report)?;
        }
        Ok(worst)
    }

    fn project(&self, home: &Home, lock: &Path, sandbox: bool) -> Result<Value, Failure> {
        let folder = lock.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
        if !lock.is_file() || !folder.join("Cargo.toml").is_file() {
            let hint = "name the Cargo.lock of a project, beside its Cargo.toml";
            return Err(
                Failure::usage(format!("{} is not the lock file of a project", lock.display())).hint(hint)
            );
        }
        let io =
            |error: std::io::Error| Failure::failed(format!("cannot copy {}: {error}", folder.display()));
        let temporary = tempfile::tempdir().map_err(io)?;
        let places = ["one", "another/place"].map(|name| temporary.path().join(name));
        for place in &places {
            copy(folder, place, MAX_DEPTH).map_err(io)?;
        }
        fetch(&places[0])?;
        let first = self.build(home, (&places[0], None), sandbox)?;
        let keys: Vec<_> =
            first.iter().filter(|row| row.published).filter_map(|row| row.key.clone()).collect();
        let second = self.build(home, (&places[1], Some(&keys)), sandbox)?;
        let units: Vec<_> = first.iter().filter(|row| row.key.is_some()).collect();
        let claimed = wait(claims(home, &units, true))?;
        Ok(report(lock, sandbox, (&first, &second), &claimed))
    }

    /// The first build makes and publishes everything; the second makes the same keys again, and compares.
    fn build(
        &self,
        home: &Home,
        (place, again): (&Path, Option<&Vec<String>>),
        sandbox: bool,
    ) -> Result<Vec<Row>, Failure> {
        let mut cargo = if sandbox {
            let mut unshare = Command::new("unshare");
            unshare.args(["--map-root-user", "--net", "--", "cargo"]);
            unshare
        } else {
            Command::new("cargo")
        };
        cargo.args(["build", "--locked", "--offline"]).args(&self.args).current_dir(place);
        cargo.env("CARGO_TARGET_DIR", place.join("target")).env("CARGO_INCREMENTAL", "0");
        match again {
            None => cargo.env("POTLUCK_BUILDER", "1"),
            Some(keys) => cargo.env("POTLUCK_VERIFY", verify::named(keys)),
        };
        let log = place.with_extension("units");
        verify::run(home, cargo, &log)
    }
}

/// Whether a process may have a network of its own.
fn has_namespaces() -> bool {
    let mut probe = Command::new("unshare");
    probe.args(["--map-root-user", "--net", "--", "true"]).stdin(Stdio::null()).stderr(Stdio::null());
    probe.status().is_ok_and(|status| status.success())
}

/// Brings what a lock file names; only here the network is used.
fn fetch(place: &Path) -> Result<(), Failure> {
    let mut cargo = Command::new("cargo");
    cargo.args(["fetch", "--locked"]).current_dir(place).stdin(Stdio::null());
    let ran = cargo.output().map_err(|error| Failure::failed(format!("cannot run cargo: {error}")))?;
    if ran.status.success() {
        return Ok(());
    }
    let said = String::from_utf8_lossy(&ran.stderr).trim().to_owned();
    Err(Failure::failed(format!("what the lock file names cannot be fetched: {said}")))
}

/// Copies a project without what was built and without its history.
fn copy(from: &Path, to: &Path, depth: usize) -> std::io::Result<()> {
    if depth == 0 {
        return Err(std::io::Error::other("its folders are too deep"));
    }
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&path)?, &target)?;
        } else if kind.is_dir() {
            // What cargo has built is marked as such.
            if entry.file_name() != ".git" && !path.join("CACHEDIR.TAG").exists() {
                copy(&path, &target, depth - 1)?;
            }
        } else if kind.is_file() {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}

/// What others say about a unit, beside what is made here.
fn agreement(claims: &[Value]) -> (&'static str, Vec<String>) {
    let is_own = |claim: &&Value| claim["verdict"] == "own";
    let replaced = |claim: &&Value| claims.iter().any(|other| other["replaces"] == claim["entry"]);
    let own = claims.iter().filter(is_own).find(|claim| !replaced(claim));
    let others: Vec<_> = claims.iter().filter(|claim| !is_own(claim) && !replaced(claim)).collect();
    let who = |claims: &[&Value]| {
        let names = claims.iter().flat_map(|claim| claim["signers"].as_array().into_iter().flatten());
        names.filter_map(Value::as_str).map(str::to_owned).collect::<Vec<_>>()
    };
    let Some(own) = own else {
        return (if others.is_empty() { "nobody" } else { "only theirs" }, who(&others));
    };
    let (same, different): (Vec<_>, Vec<_>) =
        others.into_iter().partition(|claim| claim["output"] == own["output"]);
    match (same.is_empty(), different.is_empty()) {
        (true, true) => ("only mine", Vec::new()),
        (false, true) => ("agreed", who(&same)),
        (_, false) => ("disputed", who(&different)),
    }
}

fn report(
    lock: &Path,
    sandbox: bool,
    (first, second): (&[Row], &[Row]),
    claimed: &BTreeMap<String, Vec<Value>>,
) -> Value {
    let again: BTreeMap<_, _> = second.iter().filter_map(|row| Some((row.key.as_deref()?, row))).collect();
    let (mut units, mut counts) = (Vec::new(), BTreeMap::<&str, u64>::new());
    for row in first.iter().filter(|row| row.outcome != "passed" || !row.stem.is_empty()) {
        let second = row.key.as_deref().and_then(|key| again.get(key));
        let reproduced = match second.map(|row| row.outcome.as_str()) {
            Some("verified") => "same",
            Some("mismatch" | "irreproducible") => "differs",
            _ if !row.published => "not published",
            // Its key holds something that is not the same the second time: most likely the output of another unit.
            None => "other key",
            Some(_) => "not compared",
        };
        let claims = row.key.as_ref().and_then(|key| claimed.get(key)).map(Vec::as_slice).unwrap_or_default();
        let (agreement, who) = agreement(claims);
        *counts.entry(reproduced).or_default() += 1;
        if row.key.is_some() {
            *counts.entry(agreement).or_default() += 1;
        }
        let reason = second
            .and_then(|row| row.reason.clone())
            .or_else(|| row.reason.clone().filter(|_| !row.published));
        units.push(json!({
            "unit": unit(row), "crate": row.crate_name, "kind": row.kind, "key": row.key,
            "published": row.published, "reproduced": reproduced, "reason": reason,
            "agreement": agreement, "with": who,
        }));
    }
    let failed = counts.get("differs").copied().unwrap_or(0);
    json!({
        "lock": lock.display().to_string(), "sandbox": sandbox, "counts": counts, "failed": failed, "units": units,
    })
}

fn text(report: &Value) -> String {
    let mut text = report["lock"].as_str().unwrap_or_default().to_owned();
    if report["sandbox"] != true {
        text += " (with the network at hand)";
    }
    let count = |name: &str| report["counts"][name].as_u64().unwrap_or(0);
    let published =
        report["units"].as_array().into_iter().flatten().filter(|unit| unit["published"] == true).count();
    text += &format!(
        "\n{} published: {} came out the same twice, {} did not\n",
        counted(published as u64, "unit", "units"),
        count("same"),
        count("differs") + count("other key"),
    );
    text += &format!(
        "{} agreed with others, {} disputed, {} only mine, {} only theirs",
        count("agreed"),
        count("disputed"),
        count("only mine"),
        count("only theirs"),
    );
    for unit in report["units"].as_array().into_iter().flatten() {
        let word = |name: &str| unit[name].as_str().unwrap_or_default().to_owned();
        if word("reproduced") != "same" {
            text += &format!("\n  {}: {}: {}", word("unit"), word("reproduced"), word("reason"));
        }
        if word("agreement") == "disputed" {
            let with = unit["with"].as_array().into_iter().flatten().filter_map(Value::as_str);
            text += &format!("\n  {}: disputed by {}", word("unit"), with.collect::<Vec<_>>().join(", "));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claim(entry: &str, who: &str, output: &str, replaces: Option<&str>) -> Value {
        let verdict = if who == "me" { "own" } else { "accepted" };
        json!({ "entry": entry, "signers": [who], "output": output, "verdict": verdict, "replaces": replaces })
    }

    #[test]
    fn what_others_say_is_told_from_what_they_said_before() {
        let (mine, ann) = (claim("1", "me", "a", None), claim("2", "ann", "a", None));
        let bob = claim("3", "bob", "b", None);
        let later = claim("4", "bob", "a", Some("3"));
        let of =
            |claims: &[&Value]| agreement(&claims.iter().map(|claim| (*claim).clone()).collect::<Vec<_>>()).0;
        assert_eq!(of(&[&mine]), "only mine");
        assert_eq!(of(&[&ann]), "only theirs");
        assert_eq!(of(&[&mine, &ann]), "agreed");
        assert_eq!(of(&[&mine, &ann, &bob]), "disputed");
        assert_eq!(of(&[&mine, &ann, &bob, &later]), "agreed");
        assert_eq!(of(&[]), "nobody");
    }

    #[test]
    fn each_unit_is_told_whether_it_came_out_the_same() {
        let row = |name: &str, outcome: &str, published| Row {
            crate_name: name.to_owned(),
            stem: name.to_owned(),
            outcome: outcome.to_owned(),
            key: Some(name.to_owned()),
            published,
            ..Row::default()
        };
        let first = [
            row("a", "compiled", true),
            row("b", "compiled", true),
            row("c", "compiled", false),
            row("d", "compiled", true),
        ];
        let second = [row("a", "verified", false), row("b", "irreproducible", false)];
        let report = report(Path::new("Cargo.lock"), true, (&first, &second), &BTreeMap::new());
        let told: Vec<_> = report["units"]
            .as_array()
            .unwrap()
            .iter()
            .map(|unit| unit["reproduced"].as_str().unwrap())
            .collect();
        assert_eq!(told, ["same", "differs", "not published", "other key"]);
        assert_eq!(report["failed"], 1);
        assert!(text(&report).contains("1 came out the same twice, 2 did not"));
    }

    #[test]
    fn a_project_is_copied_without_what_was_built() {
        let folder = tempfile::tempdir().unwrap();
        let (from, to) = (folder.path().join("from"), folder.path().join("to"));
        for made in ["src", "target", ".git"] {
            fs::create_dir_all(from.join(made)).unwrap();
            fs::write(from.join(made).join("file"), "").unwrap();
        }
        fs::write(from.join("target/CACHEDIR.TAG"), "").unwrap();
        copy(&from, &to, 3).unwrap();
        let mut names: Vec<_> = fs::read_dir(&to).unwrap().map(|entry| entry.unwrap().file_name()).collect();
        names.sort();
        assert_eq!(names, ["src"]);
        assert!(copy(&from, &folder.path().join("deep"), 1).is_err());
    }
}
