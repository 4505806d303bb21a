// SPDX-License-Identifier: MIT OR Apache-2.0
//! cargo, as the people of the demonstration run it.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use potluck_node::observe::clock;
use serde::Deserialize;
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::process::Running;
use crate::failure::Failure;

/// A place to build in: sources, cargo's folder, target folder.
#[derive(Debug, Clone)]
pub(super) struct Bench {
    /// Whose cache the build goes through; plain cargo has none.
    pub(super) who: Option<&'static str>,
    pub(super) sources: PathBuf,
    pub(super) cargo_home: PathBuf,
    pub(super) target: PathBuf,
}

/// The cache that a build goes through.
#[derive(Debug, Clone)]
pub(super) struct Through {
    pub(super) wrapper: PathBuf,
    pub(super) home: PathBuf,
    pub(super) project: &'static str,
    pub(super) log: PathBuf,
}

/// What a build gave.
#[derive(Debug)]
pub(super) struct Built {
    pub(super) took: Duration,
    pub(super) executables: Vec<PathBuf>,
    pub(super) artifacts: u64,
}

/// A line of the log of units.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Unit {
    pub(super) kind: String,
    pub(super) outcome: String,
    pub(super) published: bool,
    pub(super) key: Option<String>,
    #[serde(rename = "crate")]
    pub(super) name: String,
    pub(super) reason: Option<String>,
}

fn cannot(what: &str, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot {what}: {error}"))
}

/// cargo, without what another cargo that runs this program has set.
fn cargo() -> Command {
    // Not the one that CARGO names: that one is behind rustup's back, and rustup would then heed the
    // rust-toolchain.toml of every package that is compiled.
    let mut command = Command::new("cargo");
    for (name, _) in std::env::vars_os() {
        let own = ["CARGO_PKG_", "CARGO_MANIFEST_", "CARGO_BIN_", "CARGO_CFG_", "POTLUCK_"];
        let exact = ["CARGO_CRATE_NAME", "CARGO_PRIMARY_PACKAGE", "CARGO_MAKEFLAGS", "MAKEFLAGS"];
        let text = name.to_string_lossy();
        if own.iter().any(|start| text.starts_with(start)) || exact.contains(&text.as_ref()) {
            command.env_remove(&name);
        }
    }
    command.env_remove("RUSTC_WORKSPACE_WRAPPER").env("RUSTC_WRAPPER", "");
    command
}

/// The folder that cargo uses for the user of this program.
fn users_cargo_home() -> Result<PathBuf, Failure> {
    if let Some(home) = std::env::var_os("CARGO_HOME").filter(|home| !home.is_empty()) {
        return Ok(home.into());
    }
    let home = std::env::var_os("HOME").ok_or_else(|| Failure::failed("HOME is not set"))?;
    Ok(PathBuf::from(home).join(".cargo"))
}

/// Runs cargo for something that is not measured.
async fn quietly(command: &mut Command, what: &str) -> Result<Vec<u8>, Failure> {
    let output = command.kill_on_drop(true).stdin(Stdio::null()).output().await;
    let output =
        output.map_err(|error| cannot("run cargo", &error).hint("install Rust: https://rustup.rs"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last: Vec<_> = said.trim().lines().rev().take(8).collect();
        let last: Vec<_> = last.into_iter().rev().collect();
        return Err(Failure::failed(format!("cargo cannot {what}:\n{}", last.join("\n"))));
    }
    Ok(output.stdout)
}

/// The root of the workspace that a folder belongs to.
pub(super) async fn workspace(folder: &Path) -> Result<PathBuf, Failure> {
    let mut command = cargo();
    command.args(["metadata", "--no-deps", "--format-version", "1"]).current_dir(folder);
    let json = quietly(&mut command, "read the project").await?;
    let metadata: Value =
        serde_json::from_slice(&json).map_err(|error| Failure::failed(format!("cargo metadata: {error}")))?;
    let root = metadata["workspace_root"].as_str().map(PathBuf::from);
    root.ok_or_else(|| Failure::failed("cargo metadata names no workspace"))
}

/// Downloads whatever a workspace needs, into the user's own cargo folder.
pub(super) async fn download(sources: &Path) -> Result<(), Failure> {
    quietly(cargo().arg("fetch").current_dir(sources), "download the packages").await.map(drop)
}

impl Bench {
    /// Gives the bench a cargo folder of its own, which shares only the downloads with the user's.
    pub(super) async fn furnish(&self) -> Result<(), Failure> {
        let users = users_cargo_home()?;
        let furnish = || -> io::Result<()> {
            for folder in ["registry", "git"] {
                fs::create_dir_all(self.cargo_home.join(folder))?;
            }
            for shared in ["registry/cache", "registry/index", "git/db"] {
                let from = users.join(shared);
                if from.exists() {
                    std::os::unix::fs::symlink(from, self.cargo_home.join(shared))?;
                }
            }
            for name in ["config.toml", "config"] {
                if users.join(name).is_file() {
                    fs::copy(users.join(name), self.cargo_home.join(name))?;
                }
            }
            Ok(())
        };
        furnish().map_err(|error| cannot("make a cargo folder", &error))?;
        let mut command = cargo();
        command.args(["fetch", "--locked", "--offline"]);
        command.current_dir(&self.sources).env("CARGO_HOME", &self.cargo_home);
        quietly(&mut command, "unpack the packages").await.map(drop)
    }

    /// Builds; `seen` hears of every artifact. Incremental compilation has a cache of its own, so all builds are
    /// without.
    pub(super) async fn build(
        &self,
        through: Option<&Through>,
        mut seen: impl FnMut(u64, &str),
    ) -> Result<Built, Failure> {
        let mut command = cargo();
        command.args(["build", "--locked", "--offline", "--message-format=json-render-diagnostics"]);
        command.current_dir(&self.sources).stdout(Stdio::piped()).stderr(Stdio::piped());
        command.env("CARGO_HOME", &self.cargo_home).env("CARGO_TARGET_DIR", &self.target);
        command.env("CARGO_INCREMENTAL", "0");
        // All of it is shown, however fast this machine links.
        command.env("POTLUCK_LINK_MS_PER_MIB", "0");
        if let Some(Through { wrapper, home, project, log }) = through {
            command.env("RUSTC_WRAPPER", wrapper).env("POTLUCK_HOME", home);
            command.env("POTLUCK_PROJECT", project).env("POTLUCK_RUSTC_LOG", log);
        }
        let started = clock::moment();
        let mut running = Running::start(&mut command).map_err(|error| cannot("run cargo", &error))?;
        let stderr = running.stderr();
        let said = async {
            let mut said = Vec::new();
            let mut lines = BufReader::new(stderr?).lines();
            while let Ok(Some(line)) = lines.next_line().await {
                said.push(line);
                if said.len() > 100 {
                    said.remove(0);
                }
            }
            Some(said)
        };
        let (mut executables, mut artifacts) = (Vec::new(), 0);
        let mut lines = BufReader::new(running.stdout().expect("it was piped")).lines();
        let told = async {
            while let Ok(Some(line)) = lines.next_line().await {
                let Ok(message) = serde_json::from_str::<Value>(&line) else { continue };
                if message["reason"] == "compiler-artifact" {
                    artifacts += 1;
                    seen(artifacts, message["target"]["name"].as_str().unwrap_or_default());
                    executables.extend(message["executable"].as_str().map(PathBuf::from));
                }
            }
        };
        let (said, ()) = tokio::join!(said, told);
        let status = running.ended().await.map_err(|error| cannot("run cargo", &error))?;
        let took = clock::moment().since(started);
        if !status.success() {
            let said = said.unwrap_or_default().join("\n");
            return Err(Failure::failed(format!("cargo build failed:\n{said}")));
        }
        Ok(Built { took, executables, artifacts })
    }
}

/// The units of a build, by the wrapper's log.
pub(super) fn units(log: &Path) -> Result<Vec<Unit>, Failure> {
    let text = fs::read_to_string(log).map_err(|error| cannot("read the log of units", &error))?;
    text.lines()
        .map(|line| {
            serde_json::from_str(line).map_err(|error| Failure::failed(format!("the log of units: {error}")))
        })
        .collect()
}

/// Copies a workspace, without what is built or kept by git.
pub(super) fn copy(from: &Path, to: &Path) -> io::Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type()?;
        if kind.is_dir() {
            let built = path.join("CACHEDIR.TAG").exists() || entry.file_name() == ".git";
            if !built {
                copy(&path, &target)?;
            }
        } else if kind.is_symlink() {
            std::os::unix::fs::symlink(fs::read_link(&path)?, &target)?;
        } else if kind.is_file() {
            fs::copy(&path, &target)?;
        }
    }
    Ok(())
}
