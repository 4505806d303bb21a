// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck cargo stats`: what came from the cache, what did not and why, and what that saved.

use std::collections::BTreeMap;

use clap::Args as ClapArgs;
use potluck_node::front::rustc::diary::{Build, Row};
use potluck_node::home::Home;
use serde_json::{Value, json};

use super::{Which, claims, is_believed, seconds, title, unit};
use crate::connect::wait;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::{Say, counted};
use crate::verbs::status::{bytes, table};

/// Show what became of the units of the last build
///
/// Hits, misses with the first field of the key that differs from the most similar unit before, what was passed through
/// and why, and what all that saved. For example: `potluck cargo stats --slowest 20`
#[derive(Debug, ClapArgs)]
pub(super) struct Stats {
    #[command(flatten)]
    which: Which,
    /// How many of the units that took longest are shown
    #[arg(long, value_name = "N", default_value_t = 5)]
    slowest: usize,
}

impl Stats {
    pub(super) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let build = self.which.read(home)?;
        let hits: Vec<_> = build.rows.iter().filter(|row| row.outcome == "restored").collect();
        let costs = match wait(claims(home, &hits, false)) {
            Ok(claims) => {
                claims.into_iter().filter_map(|(key, claims)| Some((key, cost(&claims)?))).collect()
            }
            Err(failure) => {
                say.warning(&format!("what hits had cost is not known: {}", failure.message));
                BTreeMap::new()
            }
        };
        let summary = summary(&build, &costs, self.slowest);
        say.answer(&text(&summary), summary)?;
        Ok(Exit::Done)
    }
}

/// What it cost whom one believes to make something.
fn cost(claims: &[Value]) -> Option<u64> {
    claims.iter().filter(|claim| is_believed(claim)).filter_map(|claim| claim["cost_ms"].as_u64()).max()
}

/// All of it, for scripts.
fn summary(build: &Build, costs: &BTreeMap<String, u64>, slowest: usize) -> Value {
    let of = |outcome: &'static str| build.rows.iter().filter(move |row| row.outcome == outcome);
    let sum = |rows: &mut dyn Iterator<Item = &Row>| rows.map(|row| row.bytes).sum::<u64>();
    let cost = |row: &Row| row.key.as_ref().and_then(|key| costs.get(key)).copied();
    let known: Vec<_> = of("restored").filter_map(|row| Some((cost(row)?, row.ms))).collect();
    let had_cost: u64 = known.iter().map(|(cost, _)| cost).sum();
    let took: f64 = known.iter().map(|(_, took)| took).sum();
    let misses: Vec<_> = of("compiled")
        .map(|row| {
            json!({
                "unit": unit(row), "crate": row.crate_name, "kind": row.kind, "differs": row.differs,
                "reason": row.reason, "published": row.published, "ms": row.ms, "cost_ms": row.cost_ms,
                "key": row.key,
            })
        })
        .collect();
    let mut passed: BTreeMap<(&str, &str), u64> = BTreeMap::new();
    for row in of("passed").chain(of("remapped")) {
        *passed.entry((&row.kind, row.reason.as_deref().unwrap_or_default())).or_default() += 1;
    }
    let passed: Vec<_> = passed
        .into_iter()
        .map(|((kind, reason), count)| json!({ "kind": kind, "reason": reason, "units": count }))
        .collect();
    let mut slow: Vec<_> = build.rows.iter().collect();
    slow.sort_by(|one, other| other.ms.total_cmp(&one.ms));
    let slow: Vec<_> = slow
        .into_iter()
        .take(slowest)
        .map(|row| json!({ "unit": unit(row), "outcome": row.outcome, "ms": row.ms }))
        .collect();
    json!({
        "build": build.name, "title": title(build), "at_ms": build.header.at_ms, "folder": build.header.folder,
        "command": build.header.command, "units": build.rows.len(), "hits": of("restored").count(),
        "misses": misses.len(), "missed": misses, "passed": passed, "bytes_restored": sum(&mut of("restored")),
        "bytes_published": sum(&mut of("compiled").filter(|row| row.published)),
        "published": of("compiled").filter(|row| row.published).count(),
        "hits_cost_ms": had_cost, "hits_took_ms": took, "hits_of_known_cost": known.len(),
        "saved_ms": had_cost as f64 - took, "slowest": slow, "unreadable": build.unreadable,
    })
}

fn text(summary: &Value) -> String {
    let number = |name: &str| summary[name].as_u64().unwrap_or(0);
    let float = |name: &str| summary[name].as_f64().unwrap_or(0.0);
    let mut text = format!("{}\n", word(&summary["title"]));
    text += &format!(
        "{} restored ({}), {} compiled ({} of them published, {})\n",
        number("hits"),
        bytes(number("bytes_restored")),
        number("misses"),
        number("published"),
        bytes(number("bytes_published")),
    );
    if number("hits_of_known_cost") > 0 {
        text += &format!(
            "saved {}: what was restored cost {} to make, and {} to restore\n",
            seconds(float("saved_ms")),
            seconds(float("hits_cost_ms")),
            seconds(float("hits_took_ms")),
        );
    }
    table(&mut text, ["compiled", "differs first in", "and then", "took"], &summary["missed"], |row| {
        let differs = row["differs"].as_str().unwrap_or("nothing like it was known").to_owned();
        let then = match (row["published"] == true, row["reason"].as_str()) {
            (true, _) => "published".to_owned(),
            (false, reason) => reason.unwrap_or("not published").to_owned(),
        };
        [word(&row["unit"]), differs, then, seconds(row["ms"].as_f64().unwrap_or(0.0))]
    });
    for row in summary["passed"].as_array().into_iter().flatten() {
        let (kind, reason) = (word(&row["kind"]), word(&row["reason"]));
        let units = counted(row["units"].as_u64().unwrap_or(0), "unit", "units");
        text += &format!("not cached: {units} ({kind}): {reason}\n");
    }
    table(&mut text, ["slowest", "", "took"], &summary["slowest"], |row| {
        [word(&row["unit"]), word(&row["outcome"]), seconds(row["ms"].as_f64().unwrap_or(0.0))]
    });
    if number("unreadable") > 0 {
        text += &format!("{} lines of the log make no sense\n", number("unreadable"));
    }
    text.trim_end().to_owned()
}

fn word(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_saved_is_what_hits_had_cost_less_what_they_took() {
        let row = |outcome: &str, key: &str, ms: f64| Row {
            outcome: outcome.to_owned(),
            key: Some(key.to_owned()),
            ms,
            bytes: 10,
            ..Row::default()
        };
        let rows = vec![row("restored", "a", 5.0), row("restored", "b", 7.0), row("compiled", "c", 900.0)];
        let build = Build { name: "1".to_owned(), header: Default::default(), rows, unreadable: 0 };
        let summary = summary(&build, &BTreeMap::from([("a".to_owned(), 1000)]), 1);
        assert_eq!((&summary["hits"], &summary["misses"]), (&2.into(), &1.into()));
        assert_eq!((&summary["saved_ms"], &summary["hits_of_known_cost"]), (&995.0.into(), &1.into()));
        assert_eq!(summary["bytes_restored"], 20);
        assert_eq!(summary["slowest"][0]["ms"], 900.0);
        assert!(text(&summary).contains("nothing like it was known"));
    }
}
