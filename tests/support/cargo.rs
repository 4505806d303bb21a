// SPDX-License-Identifier: MIT OR Apache-2.0
//! cargo, as somebody runs it who has potluck as her compiler's wrapper.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use serde_json::Value;

use crate::program::{Person, potluck, repository};

/// The small workspace of the end-to-end tests.
pub fn sample() -> PathBuf {
    repository().join("tests/sample")
}

/// A checkout of a workspace, with a cargo folder and a target folder of its own.
pub struct Checkout {
    sources: PathBuf,
    cargo_home: PathBuf,
    target: PathBuf,
    log: PathBuf,
}

/// What became of one unit: its crate, and the outcome.
pub type Unit = (String, String);

impl Checkout {
    /// Copies the workspace at `from` to `to` in somebody's folder.
    ///
    /// # Panics
    /// When that does not work.
    pub fn new(person: &Person, from: &Path, to: &str) -> Self {
        let sources = person.path(to);
        copy(from, &sources);
        let checkout = Self {
            sources,
            cargo_home: person.path("cargo"),
            target: person.path(&format!("target of {}", to.replace('/', " "))),
            log: person.path(&format!("{}.units", to.replace('/', "-"))),
        };
        checkout.furnish();
        checkout
    }

    /// A cargo folder that shares the downloads with that of whoever runs the tests, and nothing else.
    fn furnish(&self) {
        let users = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let users = users.unwrap_or_else(|| {
            PathBuf::from(std::env::var_os("HOME").expect("whoever runs the tests has a home")).join(".cargo")
        });
        if self.cargo_home.exists() {
            return;
        }
        fs::create_dir_all(self.cargo_home.join("registry")).expect("the folder can be made");
        for shared in ["registry/cache", "registry/index"] {
            std::os::unix::fs::symlink(users.join(shared), self.cargo_home.join(shared)).expect("a link");
        }
        if users.join("config.toml").is_file() {
            fs::copy(users.join("config.toml"), self.cargo_home.join("config.toml")).expect("a copy");
        }
    }

    /// `cargo build` through somebody's cache; gives what became of each unit that a cache can hold.
    ///
    /// # Panics
    /// When the build fails.
    pub fn build(&self, person: &Person) -> Vec<Unit> {
        let _ = fs::remove_file(&self.log);
        let output = self.cargo(person).output().expect("cargo runs");
        assert!(output.status.success(), "{}", text(&output));
        self.units()
    }

    /// The command that builds.
    pub fn cargo(&self, person: &Person) -> Command {
        let mut cargo = Command::new("cargo");
        cargo.args(["build", "--locked", "--offline", "--quiet"]).current_dir(&self.sources);
        // RUSTUP_TOOLCHAIN stays: without it, rustup would heed the rust-toolchain.toml of every package it compiles.
        for (name, _) in std::env::vars_os() {
            // What the cargo that runs the tests says about them is not meant for this one.
            if name.to_string_lossy().starts_with("CARGO") || name == "RUSTC_WORKSPACE_WRAPPER" {
                cargo.env_remove(name);
            }
        }
        cargo.env("CARGO_HOME", &self.cargo_home).env("CARGO_TARGET_DIR", &self.target);
        cargo
            .env("CARGO_INCREMENTAL", "0")
            .env("POTLUCK_LINK_MS_PER_MIB", "0")
            .env("RUSTC_WRAPPER", potluck())
            .env("POTLUCK_HOME", person.home());
        cargo.env("POTLUCK_RUSTC_LOG", &self.log).stdin(Stdio::null());
        cargo
    }

    /// The keys of the units of the last build that a cache can hold.
    ///
    /// # Panics
    /// When there was none.
    pub fn keys(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).expect("the wrapper has kept a log");
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
        lines.filter_map(|line| line["key"].as_str().map(str::to_owned)).collect()
    }

    /// The Recipe and the key of each unit that has any, of all builds.
    ///
    /// # Panics
    /// When there was no build.
    pub fn recipes_and_keys(&self) -> Vec<(String, String)> {
        let log = fs::read_to_string(&self.log).expect("the wrapper has kept a log");
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
        let text = |line: &Value, name: &str| line[name].as_str().map(str::to_owned);
        lines.filter_map(|line| Some((text(&line, "recipe")?, text(&line, "key")?))).collect()
    }

    /// What the last build compiled and did not publish, each with its reason.
    ///
    /// # Panics
    /// When there was no build.
    pub fn unpublished(&self) -> Vec<String> {
        let log = fs::read_to_string(&self.log).expect("the wrapper has kept a log");
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
        let left = |line: &Value| {
            let kept = line["published"] == true || line["outcome"] != "compiled" || line["key"].is_null();
            (!kept).then(|| format!("{} {}: {}", line["package"], line["kind"], line["reason"]))
        };
        lines.filter_map(|line| left(&line)).collect()
    }

    /// The key of the first unit of a kind.
    ///
    /// # Panics
    /// When there was no build.
    pub fn key_of(&self, kind: &str) -> Option<String> {
        self.of(kind, "key")
    }

    /// The key of the list of what the first unit of a kind has read.
    ///
    /// # Panics
    /// When there was no build.
    pub fn list_of(&self, kind: &str) -> Option<String> {
        self.of(kind, "list")
    }

    fn of(&self, kind: &str, what: &str) -> Option<String> {
        let log = fs::read_to_string(&self.log).expect("the wrapper has kept a log");
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
        let mut of = lines.filter(|line| line["kind"] == kind);
        of.find_map(|line| line[what].as_str().map(str::to_owned))
    }

    /// What became of each unit of the last build that a cache can hold.
    ///
    /// # Panics
    /// When there was none.
    pub fn units(&self) -> Vec<Unit> {
        let log = fs::read_to_string(&self.log).expect("the wrapper has kept a log");
        let lines = log.lines().map(|line| serde_json::from_str::<Value>(line).expect("each line is JSON"));
        let unit = |line: Value| {
            let word = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
            (word("crate"), word("outcome"))
        };
        lines.map(unit).filter(|(_, outcome)| outcome == "restored" || outcome == "compiled").collect()
    }

    /// Forgets everything that was built here, if anything was.
    ///
    /// # Panics
    /// When the folder cannot be removed.
    pub fn clean(&self) {
        if !self.target.exists() {
            return;
        }
        fs::remove_dir_all(&self.target).expect("the target folder can be removed");
    }

    /// The bytes of a program that was built.
    ///
    /// # Panics
    /// When there is none of that name.
    pub fn program(&self, name: &str) -> Vec<u8> {
        fs::read(self.target.join("debug").join(name)).expect("it was built")
    }

    /// What a program that was built prints.
    ///
    /// # Panics
    /// When it does not run.
    pub fn run(&self, name: &str) -> String {
        let output = Command::new(self.target.join("debug").join(name)).output().expect("it runs");
        assert!(output.status.success(), "{}", text(&output));
        String::from_utf8(output.stdout).expect("it prints text")
    }
}

/// How many of these units had that outcome.
pub fn count(units: &[Unit], outcome: &str) -> usize {
    units.iter().filter(|(_, other)| other == outcome).count()
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&output.stderr).into_owned()
}

fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("the folder can be made");
    for entry in fs::read_dir(from).expect("the folder can be read") {
        let entry = entry.expect("the folder can be read");
        let target = to.join(entry.file_name());
        if entry.path().is_dir() {
            if entry.file_name() != "target" {
                copy(&entry.path(), &target);
            }
        } else {
            fs::copy(entry.path(), target).expect("the file can be copied");
        }
    }
}
