// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck put` and `potluck get`: files and folders by hand, as a build tool would do it.

mod bar;
mod get;
mod put;

use std::path::Path;

use clap::Args as ClapArgs;
use potluck_node::materialise::RestoreError;
use potluck_node::materialise::gather::GatherError;
use potluck_protocol::action::{Project, Recipe};
use potluck_protocol::tree::TreeError;

pub(crate) use self::get::Get;
pub(crate) use self::put::Put;
use crate::exit::Exit;
use crate::failure::Failure;

/// The path that means standard input or output.
const STREAM: &str = "-";

fn is_stream(path: &Path) -> bool {
    path.as_os_str() == STREAM
}

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

impl Which {
    pub(super) fn read(&self) -> Result<(Project, Recipe, Vec<u8>), Failure> {
        read(&self.project, &self.recipe, &self.key)
    }
}

/// A key of a tool, as it is named on the command line.
pub(super) fn read(project: &str, recipe: &str, key: &str) -> Result<(Project, Recipe, Vec<u8>), Failure> {
    let project = Project::new(project).map_err(|error| Failure::usage(error.to_string()))?;
    let recipe = Recipe::new(recipe).map_err(|error| Failure::usage(error.to_string()))?;
    let digits = key.as_bytes();
    let byte = |pair: &[u8]| {
        let text = std::str::from_utf8(pair).ok()?;
        u8::from_str_radix(text, 16).ok().filter(|_| !text.starts_with('+'))
    };
    let key: Option<Vec<u8>> = digits.chunks(2).map(byte).collect();
    let key = key.filter(|_| digits.len().is_multiple_of(2) && !digits.is_empty());
    let key = key.ok_or_else(|| Failure::usage("the key must be pairs of hexadecimal digits"))?;
    Ok((project, recipe, key))
}

fn cannot(what: &str, path: &Path, error: &std::io::Error) -> Failure {
    Failure::failed(format!("cannot {what} {}: {error}", path.display()))
}

impl From<RestoreError> for Failure {
    fn from(error: RestoreError) -> Self {
        let message = error.to_string();
        match error {
            RestoreError::Unnamed(_) => {
                Self::usage(message).hint("name a file or folder that need not be there yet")
            }
            RestoreError::NotEmpty(_) => {
                Self::failed(message).hint("name another folder, or replace all that is in it with --replace")
            }
            RestoreError::NoSwap(_) => Self::failed(message).hint("remove the folder first"),
            RestoreError::Clash { .. } => {
                Self::failed(message).hint("name a folder on a file system that tells them apart")
            }
            RestoreError::Source { source, .. } => Self { message, ..source.into() },
            _ => Self::failed(message),
        }
    }
}

impl From<GatherError> for Failure {
    fn from(error: GatherError) -> Self {
        let message = error.to_string();
        match error {
            GatherError::Tree(TreeError::Member { .. }) => Self::failed(message).hint(
                "a link must be relative, stay in the folder, and go up only at its start: \
                 put what it leads to in its place, or leave it out",
            ),
            GatherError::Special(_) | GatherError::Name(_) => {
                Self::failed(message).hint("leave it out, or give it another name")
            }
            GatherError::Changed(_) => {
                Self::failed(message).hint("nothing was claimed; try again when nothing writes there")
            }
            GatherError::Door(error) => error.into(),
            _ => Self::failed(message),
        }
    }
}

pub(super) fn missed(why: potluck_node::cache::Miss) -> Failure {
    use potluck_node::cache::Miss;
    use potluck_node::engine::count::word;
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
