// SPDX-License-Identifier: MIT OR Apache-2.0
//! Whole nodes in one process, on loopback, with real swarms and real sockets.

mod admission;
mod apart;
mod bulk;
mod carrier;
mod dht;
mod flood;
mod following;
mod honest;
mod pieces;
mod socket;
mod sources;

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt as _;
use libp2p::PeerId;
use potluck_keys::pair::PublicKey;
use potluck_node::cache::{Answer, Cache as _, Publication, Question};
use potluck_node::control::client::{Client, HELLO};
use potluck_node::daemon::{Daemon, Options, socket};
use potluck_node::home::Home;
use potluck_node::network::{Network, Networks};
use potluck_node::observe::span;
use potluck_node::swarm::{self, Handle, NetEvent};
use potluck_node::trust::{self, Addition};
use potluck_protocol::action::{Project, Recipe};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{BlobOutput, Labels, Output};
use potluck_protocol::names::Purpose;
use potluck_protocol::peer::Topic;
use tempfile::TempDir;
use tokio::sync::mpsc;
use tokio_util::compat::FuturesAsyncReadCompatExt as _;

/// How long anything may take before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(20);

fn project() -> Project {
    Project::new("acme/web").unwrap()
}

fn recipe() -> Recipe {
    Recipe::new("ccache@1").unwrap()
}

/// Bytes that do not compress, different for each number.
fn bytes(number: u64, len: usize) -> Vec<u8> {
    let mut bytes = vec![0; len];
    blake3::Hasher::new().update(&number.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Waits until `done` gives something.
async fn until<T, F: Future<Output = Option<T>>>(what: &str, mut done: impl FnMut() -> F) -> T {
    let found = async {
        loop {
            if let Some(found) = done().await {
                return found;
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, found).await.unwrap_or_else(|_| panic!("in vain: {what}"))
}

fn network() -> Network {
    Network { listen: vec!["/ip4/127.0.0.1/tcp/0".to_owned()], ..Network::new("office", false).unwrap() }
}

/// Somebody's home, a member of `network` that shares the Project there if `share`.
struct Place {
    home: Home,
    _folder: TempDir,
}

impl Place {
    fn new(network: &Network, share: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let home = Home::locate(Some(folder.path().join("home"))).unwrap();
        home.init("test").unwrap();
        let share = if share { BTreeSet::from([project().to_string()]) } else { BTreeSet::new() };
        Networks::of(&home).add(&Network { share, ..network.clone() }).unwrap();
        Self { home, _folder: folder }
    }

    fn key(&self) -> PublicKey {
        self.home.ring().unwrap().show("me").unwrap().public
    }

    fn trusts(&self, name: &str, other: &Self, recipe: Option<&str>) {
        let (key, recipe) = (other.key(), recipe.map(str::to_owned));
        let (name, project) = (name.to_owned(), "acme/*".to_owned());
        trust::add(&self.home, &Addition { name, key, comment: String::new(), project, recipe }).unwrap();
    }

    fn shares(&self, share: bool) {
        let networks = Networks::of(&self.home);
        let share = if share { BTreeSet::from([project().to_string()]) } else { BTreeSet::new() };
        networks.change(&Network { share, ..networks.get("office").unwrap() }).unwrap();
    }

    fn topic(&self) -> Topic {
        Topic { signer: self.key().signer(), project: project() }
    }
}

/// A running daemon, and a connection to it.
struct Node {
    client: Client,
    address: String,
    peer: PeerId,
    serving: tokio::task::JoinHandle<()>,
}

impl Node {
    async fn start(place: &Place, peers: &[&str]) -> Self {
        let peers = peers.iter().map(|peer| ("office".to_owned(), (*peer).to_owned())).collect();
        let options = Options { peers, ..Options::default() };
        let daemon = Daemon::start(&place.home, &options).await.unwrap();
        let listener = daemon.listen(&place.home).unwrap();
        let reached = daemon.reached().remove("office").unwrap();
        let (home, running) = (place.home.clone(), Arc::clone(&daemon));
        let serving = span::spawn("daemon", async move { running.serve(&home, listener).await });
        let client = Client::connect(&socket(&place.home), "test", HELLO).await.unwrap();
        Self { client, address: reached.listen[0].clone(), peer: reached.peer.parse().unwrap(), serving }
    }

    async fn stop(self) {
        self.client.stop().await.unwrap();
        tokio::time::timeout(PATIENCE, self.serving).await.expect("it ends").unwrap();
    }

    async fn publish(&self, key: &str, content: &[u8]) -> Digest {
        let (digest, size) = self.client.write(content).await.unwrap();
        let output = Output::Blob(BlobOutput { digest, size });
        let (project, recipe, key) = (project(), recipe(), key.as_bytes().to_vec());
        let labels = Labels::default();
        let publication = Publication { project, recipe, key, output, labels, taints: Vec::new() };
        self.client.publish(publication).await.unwrap();
        digest
    }

    async fn lookup(&self, key: &str) -> Answer {
        let (project, recipe, keys) = (project(), recipe(), vec![key.as_bytes().to_vec()]);
        let deadline = Duration::from_secs(1);
        let answers = self.client.lookup(Question { project, recipe, keys, deadline });
        tokio::time::timeout(PATIENCE, answers).await.expect("an answer").unwrap().remove(0)
    }

    async fn finds(&self, key: &str) -> Output {
        until(&format!("{key} is found"), || async {
            match self.lookup(key).await {
                Answer::Hit(output) => Some(output),
                Answer::Miss(_) => None,
            }
        })
        .await
    }

    async fn read(&self, digest: Digest) -> Vec<u8> {
        let mut stretches = self.client.read(digest, None).await.unwrap();
        let mut all = Vec::new();
        while let Some(stretch) = stretches.recv().await {
            all.extend(stretch.unwrap());
        }
        all
    }

    async fn status(&self) -> serde_json::Value {
        serde_json::from_slice(&self.client.status().await.unwrap()).unwrap()
    }

    /// How many keys its Catalogs of others list.
    async fn follows(&self, keys: u64) {
        until(&format!("{keys} keys are followed"), || async {
            let status = self.status().await;
            let rows = status["catalogs"].as_array().unwrap().clone();
            let listed: u64 =
                rows.iter().filter(|row| row["own"] == false).map(|row| row["keys"].as_u64().unwrap()).sum();
            (listed == keys).then_some(())
        })
        .await;
    }

    async fn refused(&self, reason: &str) -> bool {
        let status = self.status().await;
        status["refused"].as_array().unwrap().iter().any(|row| row["reason"] == reason)
    }
}

/// A program that speaks the protocols and does with them as it likes.
struct Stranger {
    handle: Handle,
    _folder: TempDir,
    _events: mpsc::Receiver<NetEvent>,
}

type Stream = tokio_util::compat::Compat<libp2p::Stream>;

impl Stranger {
    async fn enter(network: &Network, known: &[&Node]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let identity = swarm::identity(&identity_path(folder.path())).unwrap();
        let peers = known.iter().map(|node| node.address.clone()).chain(network.peers.clone()).collect();
        let network = Network { peers, ..network.clone() };
        let (handle, events) = swarm::enter(&network, &identity).await.unwrap();
        let stranger = Self { handle, _folder: folder, _events: events };
        for node in known {
            until("the stranger is connected", || async {
                stranger.handle.members().await.contains(&node.peer).then_some(())
            })
            .await;
        }
        stranger
    }

    /// Serves every stream that peers open for a purpose.
    fn serves<F: Future<Output = ()> + Send>(
        &self,
        purpose: Purpose,
        serve: impl Fn(Stream) -> F + Send + 'static,
    ) {
        let mut incoming = self.handle.accept(purpose);
        span::spawn("stranger", async move {
            while let Some((_, stream)) = incoming.next().await {
                serve(stream.compat()).await;
            }
        });
    }
}

fn identity_path(folder: &Path) -> std::path::PathBuf {
    folder.join("peer")
}
