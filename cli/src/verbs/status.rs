// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck status`: what is going on.

use clap::Args as ClapArgs;
use comfy_table::{Table, presets};
use potluck_node::home::Home;
use serde_json::Value;

use crate::connect::{daemon, wait};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;

/// Show what the daemon does: networks, peers, catalogs, hits and misses, what was refused and why
#[derive(Debug, ClapArgs)]
pub(crate) struct Status {}

impl Status {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let json = wait(async { Ok(daemon(home).await?.status().await?) })?;
        let status: Value = serde_json::from_slice(&json)
            .map_err(|error| Failure::failed(format!("the daemon's answer makes no sense: {error}")))?;
        say.answer(&text(&status), status)?;
        Ok(Exit::Done)
    }
}

fn text(status: &Value) -> String {
    let number = |name: &str| status[name].as_u64().unwrap_or(0);
    let mut text = format!(
        "process {}, up {}\n{} hits ({} fetched), {} misses, {} published\n{} from peers, {} to peers, {}{} in the store\n",
        status["pid"],
        humantime(number("up_s")),
        number("hits"),
        number("remote_hits"),
        number("misses"),
        number("published"),
        bytes(number("bytes_fetched")),
        bytes(number("bytes_served")),
        bytes(status["store"]["bytes"].as_u64().unwrap_or(0)),
        status["store"]["budget"].as_u64().map(|budget| format!(" of {}", bytes(budget))).unwrap_or_default(),
    );
    if let Some(parts) = status["store"]["parts"].as_u64().filter(|parts| *parts > 0) {
        text += &format!("  {} of it has come in part, and will be taken up\n", bytes(parts));
    }
    match (status["http"]["listen"].as_str(), status["http"]["failure"].as_str()) {
        (Some(address), _) => text += &format!("http: {address}\n"),
        (None, Some(failure)) => text += &format!("http: {failure}\n"),
        (None, None) => {}
    }
    text += &collected(&status["store"]["collected"]);
    for (why, count) in status["misses_by_reason"].as_object().into_iter().flatten() {
        text += &format!("  missed, {why}: {count}\n");
    }
    for (name, network) in status["networks"].as_object().into_iter().flatten() {
        let share = list(&network["share"]);
        let share = if share.is_empty() { "nothing".to_owned() } else { share.join(", ") };
        text += &format!("network {name}: {share} is shared\n");
        for address in list(&network["listen"]) {
            text += &format!("  {address}\n");
        }
    }
    text += &format!("{} peers\n", status["peers"].as_array().map_or(0, Vec::len));
    for peer in status["peers"].as_array().into_iter().flatten() {
        text += &line_of(peer);
    }
    table(
        &mut text,
        ["catalog of", "project", "keys", "number", "age", "came by", "looked"],
        &status["catalogs"],
        |row| {
            let ago = |name: &str| row[name].as_u64().map_or_else(|| "-".to_owned(), humantime);
            let age = if row["frozen"] == true { format!("{}, ended", ago("age_s")) } else { ago("age_s") };
            let sequence =
                row["sequence"].as_u64().map_or_else(|| "-".to_owned(), |number| number.to_string());
            let (keys, came) = (row["keys"].to_string(), word(&row["source"]));
            [word(&row["signer"]), word(&row["project"]), keys, sequence, age, came, ago("looked_s")]
        },
    );
    table(&mut text, ["project", "recipe", "hits", "misses"], &status["projects"], |row| {
        [word(&row["project"]), word(&row["recipe"]), row["hits"].to_string(), row["misses"].to_string()]
    });
    match number("contradictions") {
        0 => {}
        count => text += &format!("signers contradicted themselves about {count} actions\n"),
    }
    match number("doubted") {
        0 => {}
        count => text += &format!("{count} claims came out differently here, and are not believed\n"),
    }
    table(&mut text, ["refused", "of or from", "times", ""], &status["refused"], |row| {
        [word(&row["reason"]), word(&row["who"]), row["count"].to_string(), String::new()]
    });
    for row in status["evidence"].as_array().into_iter().flatten() {
        text += &offence(row);
    }
    text.trim_end().to_owned()
}

/// A peer: who, where, how it is reached, how far and how fast, and what it holds.
fn line_of(peer: &Value) -> String {
    let mut line = format!("  {}/{} {}", word(&peer["network"]), word(&peer["peer"]), word(&peer["path"]));
    if let Some(rtt) = peer["rtt_us"].as_u64() {
        line += &format!(", {}.{} ms", rtt / 1000, rtt % 1000 / 100);
    }
    if let Some(rate) = peer["rate"].as_u64() {
        let way = match peer["way"].as_str() {
            Some("socket") => " by a socket of its own",
            Some("connection") => " by the connection",
            _ => "",
        };
        line += &format!(", {}/s{way}", bytes(rate));
    }
    line += &format!("\n    {}\n", word(&peer["address"]));
    for topic in peer["holds"].as_array().into_iter().flatten() {
        line += &format!("    holds {} of {}\n", word(&topic["project"]), word(&topic["signer"]));
    }
    line
}

/// A Head that was refused, beside the one seen before.
fn offence(row: &Value) -> String {
    let have =
        row["have_sequence"].as_u64().map(|have| format!(" when {have} was known")).unwrap_or_default();
    let what = match row["what"].as_str() {
        Some("fork") => "another catalog under the same number",
        Some("rollback") => "an older catalog",
        _ => "a catalog that has ended",
    };
    let from = row["from"].as_str().map(|peer| format!(" from {peer}")).unwrap_or_default();
    let (signer, project) = (word(&row["signer"]), word(&row["project"]));
    format!(
        "refused {what} of {signer} in {project}{from}: number {}{have}, {} times\n",
        row["got_sequence"], row["times"]
    )
}

/// What the last collection did, if there was one.
fn collected(last: &Value) -> String {
    let number = |name: &str| last[name].as_u64().unwrap_or(0);
    if last.is_null() {
        return String::new();
    }
    let when = potluck_keys::time::Time::from_millis(number("at_ms"));
    match last["failure"].as_str() {
        Some(failure) => format!("  no room could be made at {when}: {failure}\n"),
        None => format!(
            "  room was made at {when}: {} freed, {} entries gone ({})\n",
            bytes(number("freed")),
            number("entries"),
            word(&last["cause"])
        ),
    }
}

/// Adds a table with a row for each of `rows`, if there are any.
pub(super) fn table<const N: usize>(
    text: &mut String,
    head: [&str; N],
    rows: &Value,
    row: impl Fn(&Value) -> [String; N],
) {
    let rows = rows.as_array().map(Vec::as_slice).unwrap_or_default();
    if rows.is_empty() {
        return;
    }
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(head);
    table.add_rows(rows.iter().map(row));
    *text += &format!("{}\n", table.trim_fmt());
}

fn list(value: &Value) -> Vec<String> {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or("-").to_owned()
}

fn humantime(seconds: u64) -> String {
    indicatif::HumanDuration(std::time::Duration::from_secs(seconds)).to_string()
}

pub(super) fn bytes(bytes: u64) -> String {
    indicatif::HumanBytes(bytes).to_string()
}
