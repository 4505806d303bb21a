// SPDX-License-Identifier: MIT OR Apache-2.0
//! A small workspace without dependencies: an app, a library with a build script, and a macro that it uses.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use potluck_tests::program::{Person, toolchain};
use serde_json::Value;

const FILES: &[(&str, &str)] = &[
    ("Cargo.toml", "[workspace]\nmembers = [\"app\", \"dish\", \"spice\"]\nresolver = \"2\"\n"),
    (
        "app/Cargo.toml",
        "[package]\nname = \"app\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
         [dependencies]\ndish = { path = \"../dish\" }\n",
    ),
    ("app/src/main.rs", "fn main() { println!(\"{}\", dish::serve()); }\n"),
    (
        "dish/Cargo.toml",
        "[package]\nname = \"dish\"\nversion = \"0.1.0\"\nedition = \"2021\"\n\
         [dependencies]\nspice = { path = \"../spice\" }\n",
    ),
    (
        "dish/src/lib.rs",
        "include!(concat!(env!(\"OUT_DIR\"), \"/made.rs\"));\n\
         pub fn serve() -> String { format!(\"{MADE} with {}\", spice::spice!()) }\nfn forgotten() {}\n",
    ),
    // In the middle of the build, something may happen to the daemon.
    (
        "dish/build.rs",
        "fn main() {\n\
         println!(\"cargo:rerun-if-changed=build.rs\");\n\
         if let Ok(blow) = std::env::var(\"TEST_BLOW\") {\n\
         assert!(std::process::Command::new(\"sh\").args([\"-c\", &blow]).status().unwrap().success());\n\
         }\n\
         let out = std::path::Path::new(&std::env::var_os(\"OUT_DIR\").unwrap()).join(\"made.rs\");\n\
         std::fs::write(out, \"const MADE: &str = \\\"stew\\\";\").unwrap();\n}\n",
    ),
    (
        "spice/Cargo.toml",
        "[package]\nname = \"spice\"\nversion = \"0.1.0\"\nedition = \"2021\"\n[lib]\nproc-macro = true\n",
    ),
    (
        "spice/src/lib.rs",
        "use proc_macro::TokenStream;\n#[proc_macro]\n\
         pub fn spice(_: TokenStream) -> TokenStream { \"\\\"salt\\\"\".parse().unwrap() }\n",
    ),
];

/// How many units the wrapper is called for; where there is a cache, the run of a build script goes by way of it as well.
pub(super) const UNITS: usize = 4;

/// A checkout of it.
pub(super) struct Workspace(PathBuf);

impl Workspace {
    pub(super) fn new(folder: PathBuf) -> Self {
        for (name, text) in FILES {
            let path = folder.join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
        Self(folder)
    }

    pub(super) fn folder(&self) -> &Path {
        &self.0
    }

    pub(super) fn write(&self, name: &str, text: &str) {
        let path = self.0.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        fs::write(path, text).unwrap();
    }

    /// What a build comes to, the real one if there is no wrapper. One unit at a time, so that what happens when is
    /// known.
    pub(super) fn command(&self, person: &Person) -> Command {
        person.cargo(&self.0, ["build", "--offline", "-j1"])
    }

    /// Another command of cargo's.
    pub(super) fn cargo(&self, person: &Person, line: &str) -> Command {
        let mut command = person.cargo(&self.0, line.split_whitespace());
        command.env("RUSTDOC", toolchain().join("bin/rustdoc"));
        command
    }

    pub(super) fn build(&self, person: &Person) -> Built {
        self.built(&mut self.command(person))
    }

    pub(super) fn plainly(&self, person: &Person) -> Built {
        self.built(self.command(person).env_remove("RUSTC_WRAPPER"))
    }

    pub(super) fn built(&self, command: &mut Command) -> Built {
        let Output { status, stderr, .. } = command.output().unwrap();
        let stderr = String::from_utf8(stderr).unwrap();
        assert!(status.success(), "{stderr}");
        let ran = Command::new(self.0.join("target/debug/app")).output().unwrap();
        assert!(ran.status.success());
        let mut files = Vec::new();
        for folder in ["target/debug", "target/debug/deps"] {
            let entries = fs::read_dir(self.0.join(folder)).unwrap();
            files.extend(entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()));
        }
        files.sort();
        let here = self.0.display().to_string();
        // How long it took is the only line that may differ.
        let said = stderr.lines().filter(|line| !line.contains("Finished"));
        let said = said.map(|line| line.replace(&here, "[WORKSPACE]")).collect();
        Built { printed: String::from_utf8(ran.stdout).unwrap(), files, said }
    }
}

/// What a build came to.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Built {
    /// What the app says.
    pub(super) printed: String,
    /// Everything in the output folders.
    pub(super) files: Vec<String>,
    /// What cargo and the compiler said.
    pub(super) said: Vec<String>,
}

/// What became of each unit since this was last asked: its name, and `outcome: reason`.
pub(super) fn log(person: &Person) -> Vec<(String, String)> {
    let text = fs::read_to_string(person.path("log")).unwrap();
    let _ = fs::remove_file(person.path("log"));
    let lines = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap());
    let row = |line: Value| {
        let text = |name: &str| line[name].as_str().unwrap_or_default().to_owned();
        let run = if text("kind") == "build-script-run" { " run" } else { "" };
        (format!("{}{run}", text("crate")), format!("{}: {}", text("outcome"), text("reason")))
    };
    // Questions to the compiler are none.
    lines.map(row).filter(|(name, _)| !name.is_empty() && name != "___").collect()
}

/// What became of one unit since this was last asked: `outcome: reason`, and in what its key differs from others.
#[track_caller]
pub(super) fn became(person: &Person, unit: &str, kind: &str) -> (String, String) {
    let text = fs::read_to_string(person.path("log")).unwrap();
    let _ = fs::remove_file(person.path("log"));
    let lines: Vec<_> = text.lines().map(|line| serde_json::from_str::<Value>(line).unwrap()).collect();
    let row = lines.iter().find(|line| line["crate"] == unit && line["kind"] == kind);
    let row = row.unwrap_or_else(|| panic!("{unit}: {text}"));
    let word = |name: &str| row[name].as_str().unwrap_or_default();
    (format!("{}: {}", word("outcome"), word("reason")), word("differs").to_owned())
}

pub(super) fn count(log: &[(String, String)], what: &str) -> usize {
    log.iter().filter(|(_, row)| row.contains(what)).count()
}
