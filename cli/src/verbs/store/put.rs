// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck put`.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::path::PathBuf;
use std::sync::Arc;

use clap::Args as ClapArgs;
use potluck_node::cache::{Cache as _, CacheError, Publication};
use potluck_node::control::client::Client;
use potluck_node::home::Home;
use potluck_node::materialise::Done;
use potluck_node::materialise::gather;
use potluck_node::observe::span;
use potluck_protocol::codec::Bytes;
use potluck_protocol::control::{Alias, Claims, Job, MAX_ALIASES};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{BlobOutput, Labels, Output, TreeOutput};
use potluck_protocol::tree::Kind;
use serde_json::{Value, json};

use super::bar::Bar;
use super::{Which, cannot, is_stream};
use crate::connect::{daemon, wait};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;

/// Store a file or a folder, and claim that it is what a key gave
#[derive(Debug, ClapArgs)]
pub(crate) struct Put {
    #[command(flatten)]
    which: Which,
    /// Let each file be found by its SHA-256 as well, with `get --sha256`
    #[arg(long)]
    sha256: bool,
    /// The file or folder, or - for standard input
    path: PathBuf,
}

impl Put {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let (project, recipe, key) = self.which.read()?;
        let publication = move |output| {
            let (project, recipe, key) = (project.clone(), recipe.clone(), key.clone());
            Publication { project, recipe, key, output, labels: Labels::default(), taints: Vec::new() }
        };
        wait(async {
            let client = daemon(home).await?;
            if !is_stream(&self.path) {
                let stat = std::fs::metadata(&self.path);
                let stat = stat.map_err(|error| cannot("read", &self.path, &error))?;
                if stat.is_dir() {
                    return self.folder(&client, publication, say).await;
                }
            }
            let (digest, size) = self.blob(&client).await?;
            let claim = publication(Output::Blob(BlobOutput { digest, size }));
            let entry = client.publish(claim.clone()).await?;
            stands(&client, (claim, &entry)).await?;
            let mut object = json!({ "entry": entry.to_string(), "blob": digest.to_string(), "size": size });
            let mut text = format!("{digest}, {size} bytes");
            if self.sha256 {
                let sha256 = alias(&client, &[digest]).await?.pop().unwrap_or_default();
                text = format!("{text}, SHA-256 {sha256}");
                object["sha256"] = sha256.into();
            }
            say.answer(&text, object)?;
            Ok(Exit::Done)
        })
    }

    /// Stores a file, if it is not here yet; what is no file, as it comes.
    async fn blob(&self, client: &Client) -> Result<(Digest, u64), Failure> {
        let fail = |error: std::io::Error| cannot("read", &self.path, &error);
        if is_stream(&self.path) {
            let input = std::io::stdin().as_fd().try_clone_to_owned().map_err(fail)?;
            return Ok(client.write(tokio::fs::File::from_std(File::from(input))).await?);
        }
        let file = File::open(&self.path).map_err(fail)?;
        if !file.metadata().map_err(fail)?.is_file() {
            return Ok(client.write(tokio::fs::File::from_std(file)).await?);
        }
        let path = self.path.clone();
        let is = span::blocking(move || gather::hash_file(&path)).await?;
        if !client.missing(vec![is.0]).await?.is_empty() {
            gather::send(client, &self.path, is).await?;
        }
        Ok(is)
    }

    async fn folder(
        &self,
        client: &Client,
        publication: impl Fn(Output) -> Publication,
        say: &mut Say,
    ) -> Result<Exit, Failure> {
        let bar = Arc::new(Bar::new(say, "hashing"));
        let (path, told) = (self.path.clone(), Arc::clone(&bar));
        let hash = move || {
            gather::hash(&path, &|done| {
                told.tell(done, None);
                true
            })
        };
        let tree = span::blocking(hash).await?;
        drop(bar);
        let bytes = tree.encode();
        let (digest, size) = (Digest::of(&bytes), bytes.len() as u64);
        let (members, total) = (tree.members().len() as u64, tree.total());
        let output = Output::Tree(TreeOutput { digest, size, members, total });
        // Whoever has the Tree has what it lists, as a rule: one question then does for all.
        let mut sent = Done::default();
        let mut entry = None;
        if client.missing(vec![digest]).await?.is_empty() {
            entry = match client.publish(publication(output.clone())).await {
                // Not all that it lists is there.
                Err(CacheError::Usage(_)) => None,
                published => Some(published?),
            };
        }
        let entry = match entry {
            Some(entry) => entry,
            None => {
                sent = gather::keep(client, &self.path, &tree).await?;
                client.publish(publication(output.clone())).await?
            }
        };
        stands(client, (publication(output), &entry)).await?;
        if self.sha256 {
            let files = tree.members().iter().filter_map(|member| match &member.kind {
                Kind::File { digest, .. } => Some(*digest),
                _ => None,
            });
            alias(client, &files.collect::<Vec<_>>()).await?;
        }
        let object = json!({
            "entry": entry.to_string(), "tree": digest.to_string(), "members": members, "size": total,
            "stored_files": sent.files, "stored_bytes": sent.bytes,
        });
        say.answer(&format!("{digest}, {members} members, {total} bytes"), object)?;
        Ok(Exit::Done)
    }
}

/// Sees to it that what was put is what the claim says that stands now: what a node has claimed of a key it claims for
/// good. Of a key that is longer than those of tools it cannot be asked.
async fn stands(client: &Client, (claim, entry): (Publication, &Digest)) -> Result<(), Failure> {
    let Publication { project, recipe, key, output, .. } = claim;
    let Some(key) = Bytes::new(key) else { return Ok(()) };
    let what = Claims { project, recipe, keys: vec![key], ask: false };
    let report = client.work(Job::Claims(what), |_| {}).await?;
    let report: Value = serde_json::from_slice(&report).unwrap_or_default();
    let claims = report["actions"][0]["claims"].as_array().into_iter().flatten();
    let stands = claims.filter(|claim| claim["entry"] == entry.to_string());
    match stands.filter_map(|claim| claim["output"].as_str()).next() {
        Some(other) if other != output.digest().to_string() => {
            let message = format!("the key gives another output already: {other}");
            Err(Failure::failed(message)
                .hint("take another key: who claims two outputs of one is not believed"))
        }
        _ => Ok(()),
    }
}

/// Lets Blobs be found by their SHA-256; gives that of each.
async fn alias(client: &Client, digests: &[Digest]) -> Result<Vec<String>, Failure> {
    let mut names = Vec::new();
    for some in digests.chunks(MAX_ALIASES) {
        let report = client.work(Job::Alias(Alias { digests: some.to_vec() }), |_| {}).await?;
        let report: Value = serde_json::from_slice(&report).unwrap_or_default();
        let more = report["sha256"].as_array().into_iter().flatten();
        names.extend(more.filter_map(Value::as_str).map(str::to_owned));
    }
    Ok(names)
}
