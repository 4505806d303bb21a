// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck put` and `potluck get`: one file by hand, as a build tool would do it.

use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args as ClapArgs;
use potluck_node::cache::{Answer, Cache as _, Publication, Question};
use potluck_node::engine::count::word;
use potluck_node::home::Home;
use potluck_protocol::action::{Project, Recipe};
use potluck_protocol::entry::{BlobOutput, Labels, Output};
use serde_json::json;
use tokio::io::AsyncWriteExt as _;

use crate::connect::{daemon, wait};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;

/// Which key of which tool.
#[derive(Debug, ClapArgs)]
pub(super) struct Which {
    /// The Project
    #[arg(long, default_value = Project::DEFAULT)]
    project: String,
    /// Whose key derivation made the key, with its version, e.g. rustc@1
    #[arg(long)]
    recipe: String,
    /// The tool's own key, in hexadecimal digits
    #[arg(long, value_name = "HEX")]
    key: String,
}

/// Store a file, and claim that it is what a key gave
#[derive(Debug, ClapArgs)]
pub(crate) struct Put {
    #[command(flatten)]
    which: Which,
    /// The file
    path: PathBuf,
}

/// Bring the file that a key gave, from here or from whom you trust
#[derive(Debug, ClapArgs)]
pub(crate) struct Get {
    #[command(flatten)]
    which: Which,
    /// Where to write it
    path: PathBuf,
    /// How long to look for somebody who has it, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 5000)]
    deadline: u64,
}

impl Which {
    pub(super) fn read(&self) -> Result<(Project, Recipe, Vec<u8>), Failure> {
        let project = Project::new(&self.project).map_err(|error| Failure::usage(error.to_string()))?;
        let recipe = Recipe::new(&self.recipe).map_err(|error| Failure::usage(error.to_string()))?;
        let digits = self.key.as_bytes();
        let byte = |pair: &[u8]| {
            let text = std::str::from_utf8(pair).ok()?;
            u8::from_str_radix(text, 16).ok().filter(|_| !text.starts_with('+'))
        };
        let key: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
        let key = key.filter(|_| digits.len().is_multiple_of(2) && !digits.is_empty());
        let key = key.ok_or_else(|| Failure::usage("the key must be pairs of hexadecimal digits"))?;
        Ok((project, recipe, key))
    }
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot {what} {}: {error}", path.display()))
}

impl Put {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let (project, recipe, key) = self.which.read()?;
        wait(async {
            let client = daemon(home).await?;
            let file = tokio::fs::File::open(&self.path).await;
            let file = file.map_err(|error| cannot("read", &self.path, &error))?;
            let (digest, size) = client.write(file).await?;
            let output = Output::Blob(BlobOutput { digest, size });
            let labels = Labels::default();
            let taints = Vec::new();
            let publication = Publication { project, recipe, key, output, labels, taints };
            let entry = client.publish(publication).await?;
            let object = json!({ "entry": entry.to_string(), "blob": digest.to_string(), "size": size });
            say.answer(&format!("{digest}, {size} bytes"), object)?;
            Ok(Exit::Done)
        })
    }
}

impl Get {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let (project, recipe, key) = self.which.read()?;
        let deadline = Duration::from_millis(self.deadline);
        wait(async {
            let client = daemon(home).await?;
            let question = Question { project, recipe, keys: vec![key], deadline };
            let output = match client.lookup(question).await?.pop() {
                Some(Answer::Hit(Output::Blob(blob))) => blob,
                Some(Answer::Hit(Output::Tree(_))) => {
                    return Err(Failure::failed(
                        "that key gave a folder, and only files can be brought so far",
                    ));
                }
                Some(Answer::Miss(why)) => return Err(missed(why)),
                None => return Err(Failure::failed("the daemon gave no answer")),
            };
            self.write(&client, &output).await?;
            let object = json!({ "blob": output.digest.to_string(), "size": output.size });
            say.answer(&format!("{}, {} bytes", output.digest, output.size), object)?;
            Ok(Exit::Done)
        })
    }

    /// Writes the Blob beside its place, and puts it there when it is complete.
    async fn write(
        &self,
        client: &potluck_node::control::client::Client,
        blob: &BlobOutput,
    ) -> Result<(), Failure> {
        let fail = |error: &std::io::Error| cannot("write", &self.path, error);
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        let file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")));
        let (file, place) = file.map_err(|error| fail(&error))?.into_parts();
        let mut file = tokio::fs::File::from_std(file);
        let mut stretches = client.read(blob.digest, None).await?;
        let mut size = 0;
        while let Some(stretch) = stretches.recv().await {
            let stretch = stretch?;
            size += stretch.len() as u64;
            file.write_all(&stretch).await.map_err(|error| fail(&error))?;
        }
        file.flush().await.map_err(|error| fail(&error))?;
        if size != blob.size {
            return Err(Failure::failed(format!("only {size} of {} bytes came", blob.size)));
        }
        place.persist(&self.path).map_err(|error| fail(&error.error))?;
        Ok(())
    }
}

pub(super) fn missed(why: potluck_node::cache::Miss) -> Failure {
    use potluck_node::cache::Miss;
    let (exit, message, hint) = match why {
        Miss::Unclaimed => (
            Exit::NotFound,
            "nobody whom you believe claims that key",
            "`potluck trust list` shows whom you believe",
        ),
        Miss::Refused => (
            Exit::Refused,
            "there are claims about that key, and your policy refuses them",
            "`potluck status` counts what was refused, and why",
        ),
        Miss::Undeliverable => {
            (Exit::NotFound, "it is claimed, and nobody has it any more", "ask its signer to run potluck")
        }
        Miss::Late => (
            Exit::NotFound,
            "nobody answered in time; the search goes on",
            "try again, or with a longer --deadline",
        ),
        Miss::NotWorthIt => (Exit::NotFound, "fetching it would take longer than making it", "make it"),
        Miss::Broken => (Exit::Failed, "the store does not work", "see daemon.log in the home"),
    };
    Failure::new(exit, format!("{message} ({})", word(why))).hint(hint)
}
