// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nx and moon: their settings belong to each workspace or to the environment, which are not potluck's to change. They are
//! told what to write there.

use super::{Plan, Surroundings, Tool, served};
use crate::failure::Failure;

pub(super) const NX: Tool = Tool { name: "nx", about: "outputs of targets, by HTTP", plan: nx };
pub(super) const MOON: Tool = Tool { name: "moon", about: "outputs of tasks, by HTTP", plan: moon };

fn nx(around: &Surroundings) -> Result<Plan, Failure> {
    let url = served::url(around, "nx")?;
    let notes = vec![
        format!(
            "Nx has no settings of a person. Put this where your shell reads it:\n  \
             export NX_SELF_HOSTED_REMOTE_CACHE_SERVER={url} NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN=potluck"
        ),
        "Nx fails a run when its server does not answer: unset it when the daemon is not to run".to_owned(),
    ];
    Ok(Plan { edits: Vec::new(), notes })
}

fn moon(around: &Surroundings) -> Result<Plan, Failure> {
    let url = served::url(around, "bazel")?;
    let notes = vec![format!(
        "moon has no settings of a person. Put this into .moon/workspace.yml:\n  remote:\n    api: 'http'\n    host: '{url}'"
    )];
    Ok(Plan { edits: Vec::new(), notes })
}
