// SPDX-License-Identifier: MIT OR Apache-2.0
//! Compiles a unit that the cache holds, and compares: for those who want to know whether what they were given is what
//! they would have made.

use std::collections::BTreeMap;
use std::process::Stdio;

use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Output, TreeOutput};
use potluck_protocol::tree::{Kind, Tree};

use super::publish::{Compiled, Content, Part};
use super::restore::{MAX_TREE, RestoreError, fetch_tree};
use super::{Call, Placed, compile};
use crate::cache::Cache;

/// The variable that names keys which are to be verified, by their beginnings, separated by commas.
const VERIFY: &str = "POTLUCK_VERIFY";

/// So many digits of a key tell it from all others of a build.
const SHORTEST: usize = 16;

/// What came of it.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Verdict {
    /// What was made here is what the cache holds.
    Same,
    /// This file differs, and was the same when it was made here a second time.
    Other(String),
    /// This file differs, and differs each time it is made here.
    Irreproducible(String),
    /// It cannot be compared.
    Unknown(String),
}

impl Verdict {
    /// The outcome for the log, and its reason.
    pub(super) fn told(self) -> (&'static str, Option<String>) {
        match self {
            Self::Same => ("verified", None),
            Self::Other(file) => ("mismatch", Some(file)),
            Self::Irreproducible(file) => ("irreproducible", Some(file)),
            Self::Unknown(why) => ("unverified", Some(why)),
        }
    }
}

/// Whether a build is there to verify something, and not for what it makes.
pub(super) fn is_asked(call: &Call) -> bool {
    call.var(VERIFY).is_some()
}

/// Whether a key is to be verified.
pub(super) fn is_wanted(call: &Call, key: &str) -> bool {
    call.var(VERIFY)
        .is_some_and(|keys| keys.split(',').any(|wanted| wanted.len() >= SHORTEST && key.starts_with(wanted)))
}

/// Compares what a build script made with what the cache holds. It cannot be run a second time where it ran: what differs
/// is nobody's fault yet.
pub(super) async fn compare_run<C: Cache>(door: &C, parts: &[Part], output: &TreeOutput) -> Verdict {
    let compared = async {
        let tree = fetch_tree(door, output, MAX_TREE).await.map_err(|error| error.to_string())?;
        let made = digests(parts).map_err(|error| error.to_string())?;
        Ok::<_, String>(difference(&held(&tree), &made))
    };
    match compared.await {
        Ok(None) => Verdict::Same,
        Ok(Some(file)) => Verdict::Irreproducible(file),
        Err(why) => Verdict::Unknown(why),
    }
}

/// Compares what was compiled with what the cache holds.
pub(super) async fn compare<C: Cache>(door: &C, compiled: &Compiled<'_>, output: &Output) -> Verdict {
    let tree = match output {
        Output::Tree(tree) => fetch_tree(door, tree, MAX_TREE).await,
        Output::Blob(_) => Err(RestoreError::Foreign("it is no tree")),
    };
    let (tree, parts) = match (tree, compiled.parts()) {
        (Ok(tree), Ok(parts)) => (tree, parts),
        (Err(error), _) => return Verdict::Unknown(error.to_string()),
        (_, Err(error)) => return Verdict::Unknown(error.to_string()),
    };
    let made = match digests(&parts) {
        Ok(made) => made,
        Err(error) => return Verdict::Unknown(error.to_string()),
    };
    let Some(file) = difference(&held(&tree), &made) else { return Verdict::Same };
    match again(compiled) {
        Ok(again) if again.iter().all(|(name, digest)| made.get(name) == Some(digest)) => {
            Verdict::Other(file)
        }
        Ok(_) => Verdict::Irreproducible(file),
        Err(error) => Verdict::Unknown(format!("{file} differs, and it cannot be made again: {error}")),
    }
}

type Digests = BTreeMap<String, Digest>;

fn digests(parts: &[Part]) -> std::io::Result<Digests> {
    let digest = |content: &Content| match content {
        Content::Bytes(bytes) => Ok(Some(Digest::of(bytes))),
        Content::File(path) => std::fs::read(path).map(|bytes| Some(Digest::of(&bytes))),
        Content::Folder => Ok(None),
    };
    let parts = parts.iter().map(|part| Ok((part.path.clone(), digest(&part.content)?)));
    parts.filter_map(|part| part.map(|(name, digest)| Some((name, digest?))).transpose()).collect()
}

fn held(tree: &Tree) -> Digests {
    let file = |kind: &Kind| match kind {
        Kind::File { digest, .. } => Some(*digest),
        _ => None,
    };
    tree.members()
        .iter()
        .filter_map(|member| Some((member.path.as_str().to_owned(), file(&member.kind)?)))
        .collect()
}

/// The first file that is not the same in both, or only in one. What the compiler said is no output.
fn difference(held: &Digests, made: &Digests) -> Option<String> {
    let is_output = |name: &&String| name.starts_with("out/") || name.starts_with("text/");
    let names = held.keys().chain(made.keys()).filter(is_output);
    let mut differing: Vec<_> = names.filter(|name| held.get(*name) != made.get(*name)).collect();
    differing.sort_unstable();
    differing.first().map(|name| name.split_once('/').map_or(name.as_str(), |(_, name)| name).to_owned())
}

/// Makes the files a second time, in a folder of their own beside the first. Dep-info names that folder, and is left out.
fn again(compiled: &Compiled<'_>) -> std::io::Result<Digests> {
    let Compiled { call, placed, .. } = compiled;
    let out_dir = call.cwd.join(&placed.unit.out_dir);
    let folder = tempfile::Builder::new().prefix(".potluck-verify-").tempdir_in(&out_dir)?;
    let mut args = call.args.clone();
    let at = args.iter().position(|arg| arg == "--out-dir").and_then(|at| args.get_mut(at + 1));
    let at = at.ok_or_else(|| std::io::Error::other("it has no --out-dir"))?;
    *at = folder.path().into();
    let call = Call { args, ..(*call).clone() };
    let mut command = compile::command(&call, &placed.place.flags(), None);
    let status = command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).status()?;
    if !status.success() {
        return Err(std::io::Error::other(status.to_string()));
    }
    outputs(placed, folder.path())
}

fn outputs(placed: &Placed, folder: &std::path::Path) -> std::io::Result<Digests> {
    let names = placed.unit.outputs().into_iter().filter(|name| !name.ends_with(".d"));
    names.map(|name| Ok((format!("out/{name}"), Digest::of(&std::fs::read(folder.join(&name))?)))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_first_file_that_differs_is_named_and_talk_is_no_file() {
        let files = |files: &[(&str, &str)]| -> Digests {
            files.iter().map(|(name, text)| ((*name).to_owned(), Digest::of(text.as_bytes()))).collect()
        };
        let held = files(&[("out/a.d", "1"), ("out/liba.rlib", "2"), ("stderr", "3")]);
        assert_eq!(difference(&held, &held), None);
        assert_eq!(difference(&held, &files(&[("out/a.d", "1"), ("out/liba.rlib", "2")])), None);
        let other = files(&[("out/a.d", "1"), ("out/liba.rlib", "x")]);
        assert_eq!(difference(&held, &other).unwrap(), "liba.rlib");
        assert_eq!(difference(&held, &files(&[("out/a.d", "1")])).unwrap(), "liba.rlib");
    }
}
