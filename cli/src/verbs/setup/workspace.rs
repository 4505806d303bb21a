// SPDX-License-Identifier: MIT OR Apache-2.0
//! Nx and moon: their settings belong to each workspace or to the environment, which are not potluck's to change. They are
//! told what to write there.

use super::{Leads, Plan, Surroundings, Tool, served};
use crate::failure::Failure;

pub(super) const NX: Tool =
    Tool { name: "nx", about: "outputs of targets, by HTTP", plan: nx, leads: Some(nx_leads) };
pub(super) const MOON: Tool =
    Tool { name: "moon", about: "outputs of tasks, by HTTP", plan: moon, leads: Some(moon_leads) };

fn nx(around: &Surroundings) -> Result<Plan, Failure> {
    let url = served::url(around, "nx")?;
    let notes = vec![
        "Nx has no settings of a person. Put potluck before the command, and no run fails because of it:\n  \
         potluck nx npx nx run-many -t build"
            .to_owned(),
        format!(
            "Or put this where your shell reads it:\n  \
             export NX_SELF_HOSTED_REMOTE_CACHE_SERVER={url} NX_SELF_HOSTED_REMOTE_CACHE_ACCESS_TOKEN=potluck\n\
             Nx then fails a run when the daemon does not answer: unset it when that is not to run"
        ),
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

/// What names the server for Nx.
const NX_SERVER: &str = "NX_SELF_HOSTED_REMOTE_CACHE_SERVER";

#[expect(clippy::unnecessary_wraps, reason = "other tools' files may be unreadable")]
fn nx_leads(around: &Surroundings) -> Result<Leads, Failure> {
    Ok(Leads::variable(around, NX_SERVER).unwrap_or_else(|| Leads { by: NX_SERVER.to_owned(), to: None }))
}

fn moon_leads(around: &Surroundings) -> Result<Leads, Failure> {
    const FILE: &str = ".moon/workspace.yml";
    if let Some(leads) = Leads::variable(around, "MOON_REMOTE_HOST") {
        return Ok(leads);
    }
    let Some((path, text)) = Surroundings::nearest(FILE)? else {
        return Ok(Leads { by: format!("{FILE} of a workspace"), to: None });
    };
    let host = text.lines().find_map(|line| line.trim().strip_prefix("host:"));
    Ok(Leads::file(&path, host.map(|host| host.trim().trim_matches(['\'', '"']))))
}
