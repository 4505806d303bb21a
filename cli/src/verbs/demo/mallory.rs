// SPDX-License-Identifier: MIT OR Apache-2.0
//! What mallory does: she takes what ann has made, alters it, and claims her own version under the same keys.

use potluck_node::cache::{Answer, Cache as _, Publication, Question};
use potluck_node::control::client::Client;
use potluck_protocol::action::{Project, Recipe};
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Labels, Output, TreeOutput};
use potluck_protocol::tree::{Kind, Member, Tree};

use super::PROJECT;
use super::build::Unit;
use crate::failure::Failure;

/// How long she looks for ann's version.
const DEADLINE: std::time::Duration = std::time::Duration::from_secs(10);
/// Largest file that she alters, in bytes: one bad byte is enough.
const MAX_ALTERED: u64 = 64 << 20;

/// Alters the outputs of these units and claims the result; gives how many.
pub(super) async fn poison(door: &Client, units: &[Unit]) -> Result<usize, Failure> {
    let project = Project::new(PROJECT).map_err(|error| Failure::failed(error.to_string()))?;
    let recipe = Recipe::new(potluck_node::front::rustc::key::RECIPE)
        .map_err(|error| Failure::failed(error.to_string()))?;
    let keys: Vec<_> =
        units.iter().filter(|unit| unit.published).filter_map(|unit| unit.key.as_ref()).collect();
    let mut claimed = 0;
    for key in keys {
        let key: Digest = key.parse().map_err(|_| Failure::failed("a key in the log is none"))?;
        let key = key.as_bytes().to_vec();
        let question = Question {
            project: project.clone(),
            recipe: recipe.clone(),
            keys: vec![key.clone()],
            deadline: DEADLINE,
        };
        let Some(Answer::Hit(Output::Tree(output))) = door.lookup(question).await?.pop() else { continue };
        let Some(tree) = altered(door, &output).await? else { continue };
        let (digest, size) = door.write(tree.encode().as_slice()).await?;
        let (members, total) = (tree.members().len() as u64, tree.total());
        let publication = Publication {
            project: project.clone(),
            recipe: recipe.clone(),
            key,
            output: Output::Tree(TreeOutput { digest, size, members, total }),
            labels: Labels::default(),
            taints: Vec::new(),
        };
        door.publish(publication).await?;
        claimed += 1;
    }
    Ok(claimed)
}

/// The Tree with one byte of one of its files changed.
async fn altered(door: &Client, output: &TreeOutput) -> Result<Option<Tree>, Failure> {
    let tree = read(door, output.digest).await?;
    let tree = Tree::decode(&tree).map_err(|error| Failure::failed(error.to_string()))?;
    let mut members: Vec<Member> = tree.members().to_vec();
    let code = |member: &&mut Member| {
        let code = !member.path.as_str().ends_with(".d") && member.path.as_str().starts_with("out/");
        matches!(member.kind, Kind::File { size, .. } if code && (1..=MAX_ALTERED).contains(&size))
    };
    let smallest = members.iter_mut().filter(code).min_by_key(|member| match member.kind {
        Kind::File { size, .. } => size,
        _ => u64::MAX,
    });
    let Some(member) = smallest else { return Ok(None) };
    let Kind::File { digest, executable, .. } = member.kind else { return Ok(None) };
    let mut bytes = read(door, digest).await?;
    if let Some(last) = bytes.last_mut() {
        *last ^= 1;
    }
    let (digest, size) = door.write(bytes.as_slice()).await?;
    member.kind = Kind::File { digest, size, executable };
    Tree::new(members).map(Some).map_err(|error| Failure::failed(error.to_string()))
}

async fn read(door: &Client, digest: Digest) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let mut stretches = door.read(digest, None).await?;
    while let Some(stretch) = stretches.recv().await {
        bytes.extend(stretch?);
    }
    Ok(bytes)
}
