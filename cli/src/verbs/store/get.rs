// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck get`.

use std::fs::File;
use std::io::{self, Write as _};
use std::os::unix::ffi::OsStrExt as _;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use clap::Args as ClapArgs;
use potluck_node::cache::{Answer, Cache as _, Question};
use potluck_node::control::client::Client;
use potluck_node::home::Home;
use potluck_node::materialise::{self, Done, Door, Fault, Manner, Place, RestoreError, Sink, Source as _};
use potluck_node::observe::span;
use potluck_protocol::action::Project;
use potluck_protocol::codec::Bytes;
use potluck_protocol::control::{Find, Job, Restore};
use potluck_protocol::digest::{Digest, Sha256};
use potluck_protocol::entry::Output;
use potluck_protocol::tree::{MAX_TREE_BYTES, Tree};
use serde_json::{Value, json};
use tokio::runtime::Handle;

use super::bar::Bar;
use super::{cannot, is_stream, missed, read};
use crate::connect::{daemon, wait};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;

/// Bring the file or folder that a key gave, from here or from whom you trust
#[derive(Debug, ClapArgs)]
#[command(override_usage = "potluck get [OPTIONS] --recipe <RECIPE> --key <HEX> <PATH>\n       \
                            potluck get [OPTIONS] --digest <HEX> <PATH>\n       \
                            potluck get [OPTIONS] --sha256 <HEX> <PATH>")]
pub(crate) struct Get {
    /// The Project
    #[arg(long, default_value = Project::DEFAULT)]
    project: String,
    /// Whose key derivation made the key, with its version, e.g. rustc@1
    #[arg(long, required_unless_present_any = ["digest", "sha256"])]
    recipe: Option<String>,
    /// The tool's own key, in hexadecimal digits
    #[arg(long, value_name = "HEX", required_unless_present_any = ["digest", "sha256"])]
    key: Option<String>,
    /// Instead of a key: the name of something that is here already, as `put` printed it
    #[arg(long, value_name = "HEX", conflicts_with_all = ["recipe", "key"])]
    digest: Option<Digest>,
    /// Instead of a key: the SHA-256 of something that is here already, and was put with --sha256
    #[arg(long, value_name = "HEX", conflicts_with_all = ["recipe", "key", "digest"])]
    sha256: Option<Sha256>,
    /// That name is a folder's
    #[arg(long, requires = "digest")]
    tree: bool,
    /// Replace the folder that is there, with all that is in it
    #[arg(long)]
    replace: bool,
    /// Where to write it, or - for standard output
    path: PathBuf,
    /// How long to look for somebody who has it, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    deadline: u64,
}

/// What is to be brought.
enum Wanted {
    Blob { digest: Digest, size: Option<u64> },
    Tree(Digest),
}

impl Get {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        if is_stream(&self.path) && say.is_json() {
            return Err(Failure::usage("standard output cannot take both the file and what --json prints")
                .hint("name a file"));
        }
        let key = match (self.digest, &self.recipe, &self.key) {
            (None, Some(recipe), Some(key)) => Some(read(&self.project, recipe, key)?),
            _ => None,
        };
        wait(async {
            let client = daemon(home).await?;
            let wanted = match (key, self.digest) {
                (Some((project, recipe, key)), _) => {
                    let deadline = Duration::from_millis(self.deadline);
                    found(&client, Question { project, recipe, keys: vec![key], deadline }).await?
                }
                (None, Some(digest)) if self.tree => Wanted::Tree(digest),
                (None, Some(digest)) => Wanted::Blob { digest, size: None },
                (None, None) => {
                    let sha256 =
                        self.sha256.ok_or_else(|| Failure::usage("either a key or a digest is needed"))?;
                    Wanted::Blob { digest: known_as(&client, sha256).await?, size: None }
                }
            };
            match wanted {
                Wanted::Blob { digest, size } if is_stream(&self.path) => {
                    stream(client, digest, size).await?;
                }
                Wanted::Tree(_) if is_stream(&self.path) => {
                    return Err(Failure::failed("that is a folder, which standard output cannot take")
                        .hint("name a folder that need not be there yet"));
                }
                Wanted::Blob { digest, size } => self.blob(client, (digest, size), say).await?,
                Wanted::Tree(digest) => self.tree(client, digest, say).await?,
            }
            Ok(Exit::Done)
        })
    }

    async fn blob(
        &self,
        client: Client,
        (digest, size): (Digest, Option<u64>),
        say: &mut Say,
    ) -> Result<(), Failure> {
        let place = Place::new(&self.path)?;
        let bar = Bar::new(say, "writing");
        let source = Door { cache: client, runtime: Handle::current() };
        let of = size.map(|bytes| Done { files: 1, bytes });
        let bytes = span::blocking(move || {
            let told = |done| {
                bar.tell(done, of);
                true
            };
            materialise::file(&source, (&digest, size), &place, &told)
        })
        .await?;
        let object = json!({ "blob": digest.to_string(), "size": bytes });
        Ok(say.answer(&format!("{digest}, {bytes} bytes"), object)?)
    }

    async fn tree(&self, client: Client, digest: Digest, say: &mut Say) -> Result<(), Failure> {
        // The folder that somebody stands in is not swapped under his feet.
        if self.path.file_name().is_none() {
            return Err(RestoreError::Unnamed(self.path.clone()).into());
        }
        // The daemon stands elsewhere.
        let path = std::path::absolute(&self.path).map_err(|error| cannot("find", &self.path, &error))?;
        let place = Place::new(&path)?;
        place.is_free(self.replace)?;
        let bar = Arc::new(Bar::new(say, "writing"));
        let (done, leftover) = match self.by_daemon(&client, (digest, &place), &bar).await? {
            Some(done) => done,
            None => self.by_door(client, (digest, place), bar).await?,
        };
        if let Some(leftover) = leftover {
            say.warning(&format!("what was there is at {leftover} and cannot be removed"));
        }
        let Done { files, bytes } = done;
        let object = json!({ "tree": digest.to_string(), "files": files, "size": bytes });
        Ok(say.answer(&format!("{digest}, {files} files, {bytes} bytes"), object)?)
    }

    /// Has the daemon write it, which sends no byte through the socket. Gives nothing when the daemon would write
    /// elsewhere, or otherwise, and has done nothing.
    async fn by_daemon(
        &self,
        client: &Client,
        (digest, place): (Digest, &Place),
        bar: &Bar,
    ) -> Result<Option<(Done, Option<String>)>, Failure> {
        let (device, inode) = place.folder_id()?;
        let path = place.path();
        let (Some(folder), Some(name)) = (path.parent(), path.file_name()) else { return Ok(None) };
        let folder = Bytes::new(folder.as_os_str().as_bytes().to_vec());
        let (Some(folder), Some(name)) = (folder, Bytes::new(name.as_bytes().to_vec())) else {
            return Ok(None);
        };
        let (umask, replace) = (materialise::umask(), self.replace);
        let want = Restore { digest, folder, name, device, inode, umask, replace, modified_ms: None };
        let told = |json: Vec<u8>| {
            let Ok(far) = serde_json::from_slice::<Value>(&json) else { return };
            let number = |name| far[name].as_u64().unwrap_or(0);
            let of = Done { files: number("of_files"), bytes: number("of_bytes") };
            bar.tell(Done { files: number("files"), bytes: number("bytes") }, Some(of));
        };
        let report = client.work(Job::Restore(want), told).await?;
        let report: Value = serde_json::from_slice(&report).unwrap_or_default();
        if report["restored"] != true {
            tracing::debug!(why = %report["why"], "the daemon leaves it to its client");
            return Ok(None);
        }
        let number = |name| report[name].as_u64().unwrap_or(0);
        let leftover = report["leftover"].as_str().map(str::to_owned);
        Ok(Some((Done { files: number("files"), bytes: number("bytes") }, leftover)))
    }

    async fn by_door(
        &self,
        client: Client,
        (digest, place): (Digest, Place),
        bar: Arc<Bar>,
    ) -> Result<(Done, Option<String>), Failure> {
        let source = Door { cache: client, runtime: Handle::current() };
        let manner = Manner { replace: self.replace, modified: None };
        let restored = span::blocking(move || {
            let mut bytes = Collected(Vec::new());
            source.pour(&digest, &mut bytes, &mut Vec::new()).map_err(|fault| of(fault, &place))?;
            let tree = Tree::decode(&bytes.0);
            let tree =
                tree.map_err(|error| Failure::failed(format!("blob {digest} is no folder: {error}")))?;
            let of = Done { files: tree.files(), bytes: tree.total() };
            let told = |done| {
                bar.tell(done, Some(of));
                true
            };
            Ok::<_, Failure>(materialise::tree(&source, &tree, (&place, manner), &told)?)
        });
        let restored = restored.await?;
        Ok((restored.done, restored.leftover.map(|path| path.display().to_string())))
    }
}

/// What a key gave.
async fn found(client: &Client, question: Question) -> Result<Wanted, Failure> {
    match client.lookup(question).await?.pop() {
        Some(Answer::Hit(Output::Blob(blob))) => {
            Ok(Wanted::Blob { digest: blob.digest, size: Some(blob.size) })
        }
        Some(Answer::Hit(Output::Tree(tree))) => Ok(Wanted::Tree(tree.digest)),
        Some(Answer::Miss(why)) => Err(missed(why)),
        None => Err(Failure::failed("the daemon gave no answer")),
    }
}

/// The Blob of a SHA-256.
async fn known_as(client: &Client, sha256: Sha256) -> Result<Digest, Failure> {
    let report = client.work(Job::Find(Find { sha256 }), |_| {}).await?;
    let report: Value = serde_json::from_slice(&report).unwrap_or_default();
    report["blob"].as_str().and_then(|digest| digest.parse().ok()).ok_or_else(|| {
        Failure::new(Exit::NotFound, format!("nothing here is known by the SHA-256 {sha256}"))
            .hint("`potluck put --sha256` lets what it stores be found like that")
    })
}

/// Writes a Blob to standard output.
async fn stream(client: Client, digest: Digest, size: Option<u64>) -> Result<(), Failure> {
    let mut stretches = client.read(digest, None).await?;
    let mut out = io::stdout().lock();
    let mut came = 0;
    while let Some(stretch) = stretches.recv().await {
        let stretch = stretch?;
        came += stretch.len() as u64;
        out.write_all(&stretch)?;
    }
    out.flush()?;
    match size {
        Some(size) if size != came => Err(Failure::failed(format!("{came} of {size} bytes came"))),
        _ => Ok(()),
    }
}

fn of(fault: Fault, place: &Place) -> Failure {
    match fault {
        Fault::Source(source) => RestoreError::Source { path: place.path().to_owned(), source }.into(),
        Fault::Sink(_) => Failure::failed("it is too large for a list of files"),
    }
}

/// The Blob of a Tree.
struct Collected(Vec<u8>);

impl Sink for Collected {
    fn take(&mut self, bytes: &[u8]) -> io::Result<()> {
        if self.0.len() + bytes.len() > MAX_TREE_BYTES {
            return Err(io::ErrorKind::FileTooLarge.into());
        }
        self.0.extend_from_slice(bytes);
        Ok(())
    }

    fn share(&mut self, _: &File, _: u64) -> io::Result<bool> {
        Ok(false)
    }
}
