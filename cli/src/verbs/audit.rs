// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck audit`: who contradicts himself, who contradicts whom, and what is not believed any more.

use clap::Args as ClapArgs;
use potluck_node::home::Home;
use potluck_protocol::codec::Text;
use potluck_protocol::control::{self, Job};
use potluck_protocol::digest::Digest;
use serde_json::Value;

use crate::connect::{daemon, wait, work};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::{Say, counted};

/// Go through all claims: who contradicts himself, who contradicts others, and what is doubted
///
/// A signer that gives two outputs for one action, of which neither replaces the other, contradicts himself. Different
/// signers may well get different outputs. What came out differently here (`potluck cargo verify`) is doubted. For
/// example: `potluck audit --project 'acme/*'`
#[derive(Debug, ClapArgs)]
pub(crate) struct Audit {
    /// Only Projects that this covers
    #[arg(long, value_name = "GLOB")]
    project: Option<String>,
    /// Believe a claim again that was doubted: its name, as this command shows it, and its action
    #[arg(long, value_names = ["ENTRY", "ACTION"], num_args = 2, conflicts_with = "project")]
    believe: Vec<String>,
}

impl Audit {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        if let [entry, action] = self.believe.as_slice() {
            return believe(home, (entry, action), say);
        }
        let long = || Failure::usage("the pattern is too long");
        let project = self.project.as_ref().map(|text| Text::new(text).ok_or_else(long)).transpose()?;
        let audit = wait(work(home, Job::Audit(control::Audit { project }), say, "auditing"))?;
        let found =
            ["equivocations", "disputed", "doubted"].iter().any(|name| audit[*name].as_u64() != Some(0));
        say.answer(&text(&audit), audit)?;
        Ok(if found { Exit::Failed } else { Exit::Done })
    }
}

fn believe(home: &Home, (entry, action): (&str, &str), say: &mut Say) -> Result<Exit, Failure> {
    let entry: Digest = entry.parse().map_err(|_| Failure::usage(format!("{entry:?} is no claim's name")))?;
    let action = action.parse().map_err(|_| Failure::usage(format!("{action:?} is no action")))?;
    let job = Job::Doubt(control::Doubt { entry, action, reason: None });
    let json = wait(async { Ok(daemon(home).await?.work(job, |_| ()).await?) })?;
    let report: Value = serde_json::from_slice(&json).unwrap_or_default();
    say.answer(&format!("{entry} is judged as any other claim again"), report)?;
    Ok(Exit::Done)
}

fn text(audit: &Value) -> String {
    let number = |name: &str| audit[name].as_u64().unwrap_or(0);
    let mut text = format!(
        "{} about {}: {} agreed by several signers, {} disputed, {} equivocations, {} doubted",
        counted(number("claims"), "claim", "claims"),
        counted(number("actions"), "action", "actions"),
        number("agreed"),
        number("disputed"),
        number("equivocations"),
        number("doubted"),
    );
    for (pair, counts) in audit["pairs"].as_object().into_iter().flatten() {
        text += &format!("\n  {pair}: {} agreed, {} not", counts[0], counts[1]);
    }
    for row in audit["listed"].as_array().into_iter().flatten() {
        let word = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        text += &format!(
            "\n{}: action {}\n  {} of {}",
            word(&row["what"]),
            word(&row["action"]),
            word(&row["recipe"]),
            word(&row["project"])
        );
        for claim in row["claims"].as_array().into_iter().flatten() {
            let signers = claim["signers"].as_array().into_iter().flatten().filter_map(Value::as_str);
            let signers = signers.collect::<Vec<_>>().join(", ");
            let (entry, output, verdict) =
                (word(&claim["entry"]), word(&claim["output"]), word(&claim["verdict"]));
            text += &format!("\n  {signers} ({verdict}): output {output}\n    claim {entry}");
        }
    }
    text
}
