// SPDX-License-Identifier: MIT OR Apache-2.0
//! The people of the demonstration: each has a home and a daemon of her own, in a process of its own.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use potluck_keys::pair::PublicKey;
use potluck_node::control::client::{Client, HELLO};
use potluck_node::daemon::socket;
use potluck_node::home::{Home, SIGNER};
use potluck_node::network::{Network, Networks};
use potluck_node::trust::{self, Addition};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, BufReader};
use tokio::process::Command;

use super::PROJECT;
use super::process::Running;
use crate::failure::Failure;

/// How long anything among the processes of one machine may take.
const PATIENCE: Duration = Duration::from_secs(30);

/// Somebody.
pub(super) struct Person {
    pub(super) name: &'static str,
    pub(super) home: Home,
    pub(super) key: PublicKey,
    daemon: Option<Running>,
    peer: String,
    address: String,
}

impl Person {
    /// Somebody with a new home in `folder`, a member of `network`.
    pub(super) fn new(name: &'static str, folder: &Path, network: &Network) -> Result<Self, Failure> {
        let home = Home::locate(Some(folder.join(name).join("home")))?;
        home.init(name)?;
        Networks::of(&home).add(network)?;
        let key = home.ring()?.show(SIGNER)?.public;
        Ok(Self { name, home, key, daemon: None, peer: String::new(), address: String::new() })
    }

    /// Believes what another one claims.
    pub(super) fn trusts(&self, other: &Self) -> Result<(), Failure> {
        let addition = Addition {
            name: other.name.to_owned(),
            key: other.key.clone(),
            comment: other.name.to_owned(),
            project: PROJECT.to_owned(),
            recipe: None,
        };
        trust::add(&self.home, &addition)?;
        Ok(())
    }

    /// Starts her daemon on loopback; it knows nobody but `bootstrap`.
    pub(super) async fn up(&mut self, bootstrap: Option<&str>) -> Result<(), Failure> {
        let cannot = |error: &dyn std::fmt::Display| {
            Failure::failed(format!("cannot start the daemon of {}: {error}", self.name))
        };
        let program = std::env::current_exe().map_err(|error| cannot(&error))?;
        let log =
            std::fs::File::create(self.home.root().join("daemon.log")).map_err(|error| cannot(&error))?;
        let mut command = Command::new(program);
        command.arg("--home").arg(self.home.root()).args(["--json", "up", "--foreground"]);
        command.args(["--listen", "/ip4/127.0.0.1/tcp/0"]);
        if let Some(address) = bootstrap {
            command.args(["--peer", address]);
        }
        command.stdout(Stdio::piped()).stderr(log);
        let mut daemon = Running::start(&mut command).map_err(|error| cannot(&error))?;
        let mut lines = BufReader::new(daemon.stdout().expect("it was piped")).lines();
        let line = tokio::time::timeout(PATIENCE, lines.next_line()).await;
        let line = line.ok().and_then(Result::ok).flatten().unwrap_or_default();
        let ready: Value = serde_json::from_str(&line).unwrap_or_default();
        if ready["ready"] != true {
            let why = ready["error"]["message"].as_str().unwrap_or("it ended before it was ready");
            return Err(cannot(&why));
        }
        let network = &ready["networks"][super::NETWORK];
        self.peer = network["peer"].as_str().unwrap_or_default().to_owned();
        self.address = network["listen"][0].as_str().unwrap_or_default().to_owned();
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Where her daemon listens.
    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Whether a name in a report is hers: her daemon's as a peer, or her key's.
    pub(super) fn is_called(&self, name: &str) -> bool {
        name == self.peer || name == self.key.signer().to_string() || name == self.name
    }

    /// The door of her cache.
    pub(super) async fn door(&self) -> Result<Client, Failure> {
        Ok(Client::connect(&socket(&self.home), "potluck demo", HELLO).await?)
    }

    /// What her daemon says is going on.
    pub(super) async fn status(&self) -> Result<Value, Failure> {
        let json = self.door().await?.status().await?;
        serde_json::from_slice(&json)
            .map_err(|error| Failure::failed(format!("the daemon's answer makes no sense: {error}")))
    }

    /// Waits until her daemon's status is as it should be.
    pub(super) async fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Result<Value, Failure> {
        let wait = async {
            loop {
                let status = self.status().await?;
                if is(&status) {
                    return Ok(status);
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        let late = || {
            Failure::failed(format!("{} waited in vain for {what}", self.name))
                .hint(format!("see {} after --keep", self.home.root().join("daemon.log").display()))
        };
        tokio::time::timeout(PATIENCE, wait).await.unwrap_or_else(|_| Err(late()))
    }

    /// Ends her daemon.
    pub(super) async fn down(&mut self) {
        if let Some(daemon) = self.daemon.take() {
            daemon.end().await;
        }
    }
}

/// A folder of somebody.
pub(super) fn folder(of: &Path, name: &str, path: &str) -> PathBuf {
    of.join(name).join(path)
}
