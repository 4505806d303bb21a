// SPDX-License-Identifier: MIT OR Apache-2.0
//! How the other parts reach what they measure: through the door, in process or over the control socket.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use potluck_node::cache::{Answer, Cache, Publication, Question};
use potluck_node::control::client::{Client, HELLO};
use potluck_node::engine::Engine;
use potluck_node::home::Home;
use potluck_protocol::action::{Project, Recipe};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{BlobOutput, Labels, Output, TreeOutput};
use potluck_protocol::tree::{Kind, Member, Tree, TreePath};
use tokio::runtime::Runtime;

use crate::scratch::walk;

pub(crate) const PROJECT: &str = "bench";
pub(crate) const RECIPE: &str = "bench@1";

/// Both cores, as the daemon has them.
pub(crate) fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_multi_thread();
    builder.worker_threads(2).enable_all().build().expect("a runtime can be made")
}

/// A home in a folder, which is made when it is not there.
pub(crate) fn home(folder: &Path) -> Home {
    let home = Home::locate(Some(folder.to_owned())).expect("it was named");
    home.init("bench").expect("a home can be made");
    home
}

/// The engine of a home.
pub(crate) fn engine(folder: &Path) -> Arc<Engine> {
    Arc::new(Engine::open(&home(folder)).expect("the engine can be opened"))
}

/// A connection to the daemon of a home.
pub(crate) async fn connect(folder: &Path) -> Client {
    let socket = potluck_node::daemon::socket(&home(folder));
    Client::connect(&socket, "bench", HELLO).await.expect("the daemon is there")
}

pub(crate) fn project() -> Project {
    Project::new(PROJECT).expect("it is a project")
}

pub(crate) fn recipe() -> Recipe {
    Recipe::new(RECIPE).expect("it is a recipe")
}

/// What is known under a key, asked alone.
pub(crate) async fn lookup(cache: &impl Cache, key: Vec<u8>) -> Answer {
    let deadline = Duration::from_secs(1);
    let question = Question { project: project(), recipe: recipe(), keys: vec![key], deadline };
    cache.lookup(question).await.expect("the door answers").pop().expect("there is an answer a key")
}

/// Stores a Blob.
pub(crate) async fn write(cache: &impl Cache, bytes: &[u8]) -> BlobOutput {
    let (digest, size) = cache.write(bytes).await.expect("a blob can be written");
    BlobOutput { digest, size }
}

/// Claims what a key gave, durably.
pub(crate) async fn publish(cache: &impl Cache, key: &[u8], output: Output) {
    let (key, labels, taints) = (key.to_vec(), Labels::default(), Vec::new());
    let publication = Publication { project: project(), recipe: recipe(), key, output, labels, taints };
    cache.publish(publication).await.expect("an output can be published");
}

/// Reads a Blob and throws it away; gives how many bytes came.
pub(crate) async fn read(cache: &impl Cache, digest: Digest) -> usize {
    let mut stretches = cache.read(digest, None).await.expect("the blob is here");
    let mut len = 0;
    while let Some(stretch) = stretches.recv().await {
        len += stretch.expect("the blob is sound").len();
    }
    len
}

/// A member of a Tree that is a file.
pub(crate) fn member(path: &str, blob: &BlobOutput) -> Member {
    let path = TreePath::new(path).expect("it is a path");
    Member { path, kind: Kind::File { digest: blob.digest, size: blob.size, executable: false } }
}

/// Stores a Tree of Blobs that are here.
pub(crate) async fn write_tree(cache: &impl Cache, members: Vec<Member>) -> (Tree, Output) {
    let tree = Tree::new(members).expect("the members make a tree");
    let blob = write(cache, &tree.encode()).await;
    let (members, total) = (tree.members().len() as u64, tree.total());
    (tree, Output::Tree(TreeOutput { digest: blob.digest, size: blob.size, members, total }))
}

/// Stores all files of a folder, and claims that a key gave it.
pub(crate) async fn publish_folder(cache: &impl Cache, folder: &Path, key: &[u8]) -> Tree {
    let mut members = Vec::new();
    for path in walk(folder) {
        let bytes = std::fs::read(&path).expect("a file can be read");
        let name = path.strip_prefix(folder).expect("it was found there");
        members.push(member(name.to_str().expect("our paths are UTF-8"), &write(cache, &bytes).await));
    }
    let (tree, output) = write_tree(cache, members).await;
    publish(cache, key, output).await;
    tree
}
