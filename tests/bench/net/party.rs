// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole nodes in this process: one that has something, and others that trust it and fetch that.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use potluck_node::cache::{Answer, Cache as _, Question};
use potluck_node::control::client::Client;
use potluck_node::daemon::{Daemon, Options};
use potluck_node::engine::Engine;
use potluck_node::home::Home;
use potluck_node::network::{Network, Networks};
use potluck_node::observe::span;
use potluck_node::trust::{self, Addition};
use potluck_protocol::entry::Output;
use tokio::task::JoinHandle;

use crate::door;

/// What the Network of all of them is called.
const NETWORK: &str = "office";
/// How long anything may take that is not measured.
const PATIENCE: Duration = Duration::from_secs(120);

/// A private Network on loopback.
pub(crate) fn network() -> Network {
    let listen = vec!["/ip4/127.0.0.1/tcp/0".to_owned()];
    Network { listen, ..Network::new(NETWORK, false).expect("a network can be made") }
}

/// Seconds of processor time that this process has used, in all its threads.
pub(crate) fn cpu() -> f64 {
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap_or_default();
    // The name of the program, which comes second, may hold anything but ends with the last parenthesis.
    let fields: Vec<_> = stat.rsplit(')').next().unwrap_or_default().split_whitespace().collect();
    let ticks = |at: usize| fields.get(at).and_then(|text| text.parse::<f64>().ok()).unwrap_or(f64::NAN);
    // In user mode and in the kernel, in hundredths of a second.
    (ticks(11) + ticks(12)) / 100.0
}

/// A node that runs.
pub(crate) struct Party {
    home: Home,
    daemon: Arc<Daemon>,
    client: Client,
    serving: JoinHandle<()>,
}

impl Party {
    /// Starts a node in a folder, which trusts `others`, follows them and knows where they are.
    pub(crate) async fn start(folder: &Path, network: &Network, others: &[&Self]) -> Self {
        let home = door::home(folder);
        let share = BTreeSet::from([door::PROJECT.to_owned()]);
        Networks::of(&home).add(&Network { share, ..network.clone() }).expect("it joins");
        for (at, other) in others.iter().enumerate() {
            let key = other.home.ring().expect("there are keys").show("me").expect("there is one").public;
            let project = door::PROJECT.to_owned();
            let addition =
                Addition { name: format!("other{at}"), key, comment: String::new(), project, recipe: None };
            trust::add(&home, &addition).expect("the rule can be written");
        }
        let peers = others.iter().map(|other| (NETWORK.to_owned(), other.address())).collect();
        Self::run(home, Options { peers, ..Options::default() }).await
    }

    async fn run(home: Home, options: Options) -> Self {
        let daemon = Daemon::start(&home, &options).await.expect("a daemon can be started");
        let listener = daemon.listen(&home).expect("it has a socket");
        let (running, at) = (Arc::clone(&daemon), home.clone());
        let serving = span::spawn("bench", async move { running.serve(&at, listener).await });
        let client = door::connect(home.root()).await;
        Self { home, daemon, client, serving }
    }

    pub(crate) async fn stop(self) {
        let Self { daemon, client, serving, .. } = self;
        daemon.stop();
        drop((daemon, client));
        serving.await.expect("a daemon ends");
    }

    /// The Network that it is in.
    pub(crate) fn network(&self) -> Network {
        Networks::of(&self.home).get(NETWORK).expect("it is there")
    }

    fn address(&self) -> String {
        self.daemon.reached()[NETWORK].listen[0].clone()
    }

    /// How many sockets carry Blobs alone.
    pub(crate) fn bulk(&self) -> usize {
        self.daemon.reached()[NETWORK].bulk
    }

    pub(crate) fn engine(&self) -> &Arc<Engine> {
        self.daemon.engine()
    }

    /// Waits until the Catalogs of others list so many keys.
    pub(crate) async fn follows(&self, keys: u64) {
        for _ in 0..PATIENCE.as_millis() / 5 {
            let status = self.client.status().await.expect("the daemon answers");
            let status: serde_json::Value = serde_json::from_slice(&status).expect("it is JSON");
            let rows = status["catalogs"].as_array().cloned().unwrap_or_default();
            let others = rows.iter().filter(|row| row["own"] == false);
            if others.filter_map(|row| row["keys"].as_u64()).sum::<u64>() >= keys {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        panic!("{keys} keys are followed in vain");
    }

    /// What a key gave, brought here.
    pub(crate) async fn finds(&self, key: &[u8]) -> Option<Output> {
        found(self.engine(), key).await
    }
}

/// What a key gave, as this node finds it.
pub(crate) async fn found(engine: &Arc<Engine>, key: &[u8]) -> Option<Output> {
    let keys = vec![key.to_vec()];
    let deadline = Duration::from_secs(5);
    let question = Question { project: door::project(), recipe: door::recipe(), keys, deadline };
    match engine.lookup(question).await.expect("the door answers").pop() {
        Some(Answer::Hit(output)) => Some(output),
        _ => None,
    }
}
