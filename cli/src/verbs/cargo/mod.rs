// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck cargo`: what became of the units of a build, and what it is worth.

mod publish;
mod report;
mod stats;
mod verify;

use std::collections::BTreeMap;

use clap::{Args as ClapArgs, Subcommand};
use potluck_node::front::rustc::diary::{self, Build, Row};
use potluck_node::home::Home;
use potluck_protocol::codec::Bytes;
use potluck_protocol::control::{Claims, Job, MAX_CLAIMS_KEYS};
use serde_json::Value;

use crate::connect::daemon;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;
use crate::verbs::store::read;

/// See what became of the last build, what spoils sharing, and whether it is right; build for others
#[derive(Debug, ClapArgs)]
pub(crate) struct Cargo {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Debug, Subcommand)]
enum Verb {
    Stats(stats::Stats),
    Report(report::Report),
    Verify(verify::Verify),
    Publish(publish::Publish),
}

impl Cargo {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        match &self.verb {
            Verb::Stats(verb) => verb.run(home, say),
            Verb::Report(verb) => verb.run(home, say),
            Verb::Verify(verb) => verb.run(home, say),
            Verb::Publish(verb) => verb.run(home, say),
        }
    }
}

/// Which build is meant.
#[derive(Debug, ClapArgs)]
struct Which {
    /// Not the last build but the one so many before it
    #[arg(long, value_name = "N", default_value_t = 0)]
    back: usize,
}

impl Which {
    fn read(&self, home: &Home) -> Result<Build, Failure> {
        let failed = |error: std::io::Error| Failure::failed(format!("cannot read what builds did: {error}"));
        let names = diary::names(home.root()).map_err(failed)?;
        let name = names.get(self.back).ok_or_else(|| {
            Failure::new(Exit::NotFound, "no such build is remembered")
                .hint("`potluck setup cargo` wires cargo up; then build something")
        })?;
        diary::read(home.root(), name).map_err(failed)
    }
}

/// What a build is called for people: what cargo was told, and where.
fn title(build: &Build) -> String {
    let command = build.header.command.iter().skip(1).map(String::as_str).collect::<Vec<_>>().join(" ");
    let at = potluck_keys::time::Time::from_millis(build.header.at_ms);
    format!("cargo {command} in {}, {at}", build.header.folder)
}

/// A unit for people.
fn unit(row: &Row) -> String {
    let name = if row.package.trim().is_empty() { &row.crate_name } else { &row.package };
    if row.kind == "lib" { name.clone() } else { format!("{name} ({})", row.kind) }
}

/// What is claimed about the keys of these units, by key.
async fn claims(home: &Home, rows: &[&Row], ask: bool) -> Result<BTreeMap<String, Vec<Value>>, Failure> {
    let mut spaces: BTreeMap<(&str, &str), Vec<&str>> = BTreeMap::new();
    for row in rows {
        if let (Some(recipe), Some(key)) = (&row.recipe, &row.key) {
            spaces.entry((&row.project, recipe)).or_default().push(key);
        }
    }
    let client = daemon(home).await?;
    let mut all = BTreeMap::new();
    for ((project, recipe), keys) in spaces {
        for some in keys.chunks(MAX_CLAIMS_KEYS) {
            let read = some.iter().map(|key| read(project, recipe, key)).collect::<Result<Vec<_>, _>>()?;
            let Some((project, recipe, _)) = read.first().cloned() else { continue };
            let keys: Option<Vec<_>> = read.into_iter().map(|(_, _, key)| Bytes::new(key)).collect();
            let keys = keys.ok_or_else(|| Failure::failed("a key is longer than such keys are"))?;
            let what = Claims { project, recipe, keys, ask };
            let json = client.work(Job::Claims(what), |_| ()).await?;
            let mut report: Value = serde_json::from_slice(&json).unwrap_or_default();
            let rows = report["actions"].as_array_mut().map(std::mem::take).unwrap_or_default();
            for (key, mut row) in some.iter().zip(rows) {
                let action = row["action"].take();
                let mut claims = row["claims"].as_array_mut().map(std::mem::take).unwrap_or_default();
                claims.iter_mut().for_each(|claim| claim["action"] = action.clone());
                all.insert((*key).to_owned(), claims);
            }
        }
    }
    Ok(all)
}

/// Whether the policy of now believes a claim.
fn is_believed(claim: &Value) -> bool {
    ["own", "accepted"].iter().any(|verdict| claim["verdict"] == *verdict)
}

/// Milliseconds for people.
fn seconds(ms: f64) -> String {
    if ms < 10_000.0 { format!("{:.2} s", ms / 1000.0) } else { format!("{:.0} s", ms / 1000.0) }
}
