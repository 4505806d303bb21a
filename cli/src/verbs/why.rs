// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck why`: where something was looked for, what was found, and what was refused by which rule.

use std::time::Duration;

use clap::Args as ClapArgs;
use potluck_node::home::Home;
use potluck_protocol::action::{ActionId, Project};
use serde_json::Value;

use super::status::bytes;
use super::store::read;
use crate::connect::{daemon, wait};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;

/// Explain a look-up: where it was looked for, who was asked, what was refused and by which rule
///
/// Look-ups are remembered as long as the daemon runs, some two thousand of them. What is here, and what the policy
/// says about it now, is told in any case.
#[derive(Debug, ClapArgs)]
pub(crate) struct Why {
    /// The action, as `why --last` names it; the last one when nothing is named
    #[arg(conflicts_with_all = ["last", "key", "recipe"])]
    action: Option<String>,
    /// The last look-up of all
    #[arg(long, conflicts_with_all = ["key", "recipe"])]
    last: bool,
    /// The Project of the key [default: default]
    #[arg(long, requires = "key")]
    project: Option<String>,
    /// Whose key derivation made the key, with its version, e.g. rustc@1
    #[arg(long, requires = "key")]
    recipe: Option<String>,
    /// The tool's own key, in hexadecimal digits
    #[arg(long, value_name = "HEX", requires = "recipe")]
    key: Option<String>,
}

impl Why {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let action = self.action()?;
        let json = wait(async { Ok(daemon(home).await?.why(action).await?) })?;
        let why: Value = serde_json::from_slice(&json)
            .map_err(|error| Failure::failed(format!("the daemon's answer makes no sense: {error}")))?;
        let empty = why["looked"].is_null()
            && list(&why["now"]["claims"]).is_empty()
            && list(&why["now"]["listed_by"]).is_empty();
        match action {
            None if why.is_null() => {
                Err(Failure::new(Exit::NotFound, "nothing was looked for since the daemon started")
                    .hint("build something through it, or name an action"))
            }
            Some(action) if empty => Err(Failure::new(
                Exit::NotFound,
                format!("{action} was not looked for since the daemon started, and nothing is known of it"),
            )
            .hint("`potluck why --last` explains what was looked for last")),
            _ => {
                say.answer(&text(&why), why)?;
                Ok(Exit::Done)
            }
        }
    }

    fn action(&self) -> Result<Option<ActionId>, Failure> {
        if let (Some(recipe), Some(key)) = (&self.recipe, &self.key) {
            let (project, recipe, key) =
                read(self.project.as_deref().unwrap_or(Project::DEFAULT), recipe, key)?;
            let action = ActionId::derive(&project, &recipe, &key, None);
            return action.map(Some).map_err(|error| Failure::usage(error.to_string()));
        }
        let action = self.action.as_deref().map(|text| {
            text.parse()
                .map_err(|_| Failure::usage(format!("{text:?} is no action: it has 64 hexadecimal digits")))
        });
        action.transpose()
    }
}

fn text(why: &Value) -> String {
    let mut text = format!("action {}", word(&why["action"]));
    if !why["project"].is_null() {
        text += &format!("\n  {} of the project {}", word(&why["recipe"]), word(&why["project"]));
    }
    text.push('\n');
    match &why["looked"] {
        Value::Null => text += "not looked for since the daemon started\n",
        looked => text += &look(looked),
    }
    let claims = list(&why["now"]["claims"]);
    text += match claims.len() {
        0 => "now: no claim is here\n",
        _ => "now:\n",
    };
    for row in claims {
        text += &claim(row);
    }
    let listed = names(&why["now"]["listed_by"]);
    text += &match listed.is_empty() {
        true => "  no catalog that is followed lists it".to_owned(),
        false => format!("  listed by {listed}"),
    };
    text
}

/// One look-up, step by step.
fn look(looked: &Value) -> String {
    let at = potluck_keys::time::Time::from_millis(number(&looked["at_ms"]));
    let mut text = match looked["answer"].as_str() {
        None => format!("looked for at {at}, and not answered yet\n"),
        Some(answer) => {
            let answer = match answer {
                "hit" => "a hit, from the store".to_owned(),
                "fetched" => "a hit, fetched".to_owned(),
                miss => format!("a miss ({miss})"),
            };
            format!("looked for at {at}: {answer}, after {}\n", span(&looked["took_us"]))
        }
    };
    let here = match word(&looked["here"]).as_str() {
        "all" => "everything is here",
        "part" => "a claim, and not all that it names",
        "refused" => "claims, all refused",
        "nothing" => "nothing",
        _ => "it does not work",
    };
    text += &format!("  the store: {here}\n");
    let (followed, listed) = (number(&looked["followed"]), names(&looked["listed_by"]));
    text += &match (word(&looked["here"]).as_str(), listed.is_empty()) {
        ("all", _) => String::new(),
        (_, true) => format!("  the catalogs of {followed} signers: none lists it, so nobody was asked\n"),
        (_, false) => format!("  the catalogs of {followed} signers: listed by {listed}\n"),
    };
    for row in list(&looked["steps"]) {
        text += &format!("  {:>9}  {}\n", format!("+{}", span(&row["after_us"])), step(row));
    }
    match number(&looked["left_out"]) {
        0 => {}
        more => text += &format!("  and {more} steps more\n"),
    }
    text
}

fn step(row: &Value) -> String {
    let took = match &row["took_us"] {
        Value::Null => "not ended yet".to_owned(),
        took => span(took),
    };
    match word(&row["step"]).as_str() {
        "sought" => {
            let found = row["found"].as_u64().map(|found| format!(": {found} found")).unwrap_or_default();
            format!("looked on the DHT for holders of {}{found} ({took})", word(&row["signer"]))
        }
        "asked" => {
            let answer = match row["answer"].as_str() {
                None => String::new(),
                Some("silence") => ": no answer".to_owned(),
                Some("unknown") => ": it knows nothing of it".to_owned(),
                Some("refused") => ": its claims were refused".to_owned(),
                Some("all") => ": a claim, and all that it names".to_owned(),
                Some(_) => {
                    format!(": a claim; {} blobs to fetch, {}", row["blobs"], bytes(number(&row["bytes"])))
                }
            };
            format!("asked {}{answer} ({took})", word(&row["peer"]))
        }
        "refused" => format!("refused {}: {}{}", word(&row["signer"]), word(&row["text"]), rule(row)),
        "fetched" => {
            let outcome = row["outcome"].as_str().unwrap_or("under way");
            let (blob, size) = (word(&row["blob"]), bytes(number(&row["bytes"])));
            format!(
                "fetched {} ({size}) from {}: {outcome} ({took})",
                &blob[..blob.len().min(12)],
                word(&row["peer"])
            )
        }
        other => other.to_owned(),
    }
}

/// A claim that is here, as the policy judges it now.
fn claim(row: &Value) -> String {
    let issued = potluck_keys::time::Time::from_millis(number(&row["issued_ms"]));
    let mut text = format!("  claimed by {} at {issued}: ", names(&row["signers"]));
    text += &match word(&row["verdict"]).as_str() {
        "own" => "believed, as this node made it".to_owned(),
        "accepted" => format!("accepted{}", rule(row)),
        "doubted" => format!("not believed: {}", word(&row["text"])),
        _ => format!("refused, {}{}", word(&row["text"]), rule(row)),
    };
    text += &match number(&row["missing"]) {
        0 => "; all of it is here\n".to_owned(),
        missing => format!("; {missing} of its blobs are not here\n"),
    };
    if let Some(hint) = row["hint"].as_str() {
        text += &format!("    {hint}\n");
    }
    text
}

fn rule(row: &Value) -> String {
    row["rule"].as_str().map(|rule| format!(" (rule at {rule})")).unwrap_or_default()
}

fn span(micros: &Value) -> String {
    let span = Duration::from_micros(number(micros));
    match span.as_millis() {
        0..10 => format!("{:.1} ms", span.as_secs_f64() * 1e3),
        10..10_000 => format!("{} ms", span.as_millis()),
        _ => format!("{} s", span.as_secs()),
    }
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn names(value: &Value) -> String {
    list(value).iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
