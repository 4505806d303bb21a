// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck doctor`: is everything as it should be, and if not, what to do about it.
//!
//! What is looked at is a list of [`Check`]s. cargo has a file of its own here; each tool that `potluck setup` knows is
//! looked at by [`tools`], where it adds a round trip.

mod cargo;
mod http;
mod node;
mod socket;
mod tools;

use clap::Args as ClapArgs;
use potluck_node::home::Home;
use serde_json::json;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;
use crate::verbs::setup::TOOLS;

/// Say whether the node, or a tool with it, works as it should; and if not, what to do
///
/// With a tool, it is used: `potluck doctor cargo` compiles a tiny crate twice, in two temporary folders, with your own
/// settings; the second time it has to come from the cache. Of other tools it is found out where they look for their
/// cache, and a few bytes are put and got there as the tool itself would, for a Project that nobody shares.
#[derive(Debug, ClapArgs)]
pub(crate) struct Doctor {
    /// The tool; the node itself when none is named
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TOOLS.iter().map(|tool| tool.name)))]
    tool: Option<String>,
}

/// How something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Health {
    Good,
    /// It works, though not as well as it could.
    Fair,
    Bad,
}

impl Health {
    fn word(self) -> &'static str {
        match self {
            Self::Good => "good",
            Self::Fair => "fair",
            Self::Bad => "bad",
        }
    }
}

/// One thing that was looked at.
#[derive(Debug)]
struct Check {
    what: &'static str,
    health: Health,
    text: String,
    hint: Option<String>,
}

impl Check {
    fn good(what: &'static str, text: impl Into<String>) -> Self {
        Self { what, health: Health::Good, text: text.into(), hint: None }
    }

    fn fair(what: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what, health: Health::Fair, text: text.into(), hint: Some(hint.into()) }
    }

    fn bad(what: &'static str, text: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { what, health: Health::Bad, text: text.into(), hint: Some(hint.into()) }
    }

    /// What a verb's failure says.
    fn failed(what: &'static str, failure: &Failure) -> Self {
        Self::bad(what, failure.message.clone(), failure.hints.join("; "))
    }
}

impl Doctor {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let tool = self.tool.as_ref().and_then(|name| TOOLS.iter().find(|tool| tool.name == name));
        let checks = match tool {
            None => node::look(home),
            Some(tool) => {
                tool.leads.map_or_else(|| cargo::look(home), |leads| tools::look(home, tool, leads))
            }
        };
        let mut text = String::new();
        for Check { what, health, text: said, hint } in &checks {
            text += &format!("{:<5}{what:<12}{said}\n", health.word());
            if let Some(hint) = hint.as_ref().filter(|hint| !hint.is_empty()) {
                text += &format!("{:17}hint: {hint}\n", "");
            }
        }
        let rows: Vec<_> = checks
            .iter()
            .map(|check| {
                let Check { what, health, text, hint } = check;
                json!({ "what": what, "health": health.word(), "text": text, "hint": hint })
            })
            .collect();
        let well = checks.iter().all(|check| check.health != Health::Bad);
        let object = json!({ "tool": self.tool, "well": well, "checks": rows });
        say.answer(text.trim_end(), object)?;
        Ok(if well { Exit::Done } else { Exit::Failed })
    }
}
