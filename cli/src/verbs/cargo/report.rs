// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck cargo report`: which crates keep the most from being shared.

use std::collections::{BTreeMap, BTreeSet};

use clap::Args as ClapArgs;
use comfy_table::{Table, presets};
use potluck_node::front::rustc::diary::{Build, Row};
use potluck_node::home::Home;
use serde_json::{Value, json};

use super::{Which, seconds, title, unit};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;

/// Rank the crates that keep most of a build from being shared
///
/// A crate that was compiled and could not be published costs everybody its own time, and that of all that is compiled
/// anew because it differs. What is no unit for the cache, such as an executable, is listed with its reason. For
/// example: `potluck cargo report --back 1`
#[derive(Debug, ClapArgs)]
pub(super) struct Report {
    #[command(flatten)]
    which: Which,
}

impl Report {
    pub(super) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let build = self.which.read(home)?;
        let ranked = ranked(&build);
        let json: Vec<_> = ranked.iter().map(Poison::json).collect();
        let mut text = format!("{}\n", title(&build));
        if ranked.is_empty() {
            text += "all that was compiled can be shared";
        } else {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_header([
                "not shared",
                "because",
                "itself",
                "and after it",
            ]);
            table.add_rows(ranked.iter().map(Poison::cells));
            text += &table.trim_fmt();
        }
        say.answer(&text, json!({ "build": build.name, "title": title(&build), "ranked": json }))?;
        Ok(Exit::Done)
    }
}

/// A unit that is not shared.
#[derive(Debug)]
struct Poison<'a> {
    row: &'a Row,
    /// What it took, if that is known: of what was passed through it is not.
    own_ms: Option<f64>,
    /// Others that were compiled because it was different.
    after: Vec<&'a Row>,
}

impl Poison<'_> {
    fn after_ms(&self) -> f64 {
        self.after.iter().map(|row| row.ms).sum()
    }

    fn reason(&self) -> &str {
        self.row.reason.as_deref().unwrap_or("not published")
    }

    fn cells(&self) -> [String; 4] {
        let after = match self.after.len() {
            0 => String::new(),
            units => format!("{units} units, {}", seconds(self.after_ms())),
        };
        let own = self.own_ms.map_or_else(|| "-".to_owned(), seconds);
        [unit(self.row), self.reason().to_owned(), own, after]
    }

    fn json(&self) -> Value {
        let after: Vec<_> = self.after.iter().map(|row| unit(row)).collect();
        json!({
            "unit": unit(self.row), "crate": self.row.crate_name, "kind": self.row.kind,
            "outcome": self.row.outcome, "reason": self.reason(), "own_ms": self.own_ms,
            "after_ms": self.after_ms(), "after": after,
        })
    }
}

/// The units that are not shared, those first that cost most.
fn ranked(build: &Build) -> Vec<Poison<'_>> {
    let is_poison = |row: &&Row| {
        row.outcome == "passed" || row.outcome == "remapped" || row.outcome == "compiled" && !row.published
    };
    let mut ranked: Vec<_> = build
        .rows
        .iter()
        .filter(is_poison)
        .map(|row| Poison {
            row,
            own_ms: (row.outcome == "compiled").then_some(row.ms),
            after: after(build, row),
        })
        .collect();
    let weight = |poison: &Poison<'_>| poison.own_ms.unwrap_or(0.0) + poison.after_ms();
    ranked.sort_by(|one, other| weight(other).total_cmp(&weight(one)));
    ranked
}

/// Units that were compiled because this one was different: their keys differ first in it, or in one of those.
fn after<'a>(build: &'a Build, source: &Row) -> Vec<&'a Row> {
    let by_stem: BTreeMap<&str, &Row> = build.rows.iter().map(|row| (row.stem.as_str(), row)).collect();
    let mut guilty = BTreeSet::from([source.crate_name.as_str()]);
    let mut found: Vec<&Row> = Vec::new();
    // The rows stand in the order in which they ended, but pipelining mixes that a little: until there is nothing new.
    loop {
        let before = found.len();
        for row in build.rows.iter().filter(|row| row.outcome == "compiled" && row.stem != source.stem) {
            let differs = row.differs.as_deref().and_then(|differs| differs.strip_prefix("externs: "));
            let Some(name) = differs.and_then(|differs| differs.split(' ').next()) else { continue };
            let uses = |stem: &String| by_stem.get(stem.as_str()).is_some_and(|used| used.crate_name == name);
            if guilty.contains(name)
                && row.externs.iter().any(uses)
                && !found.iter().any(|one| std::ptr::eq(*one, row))
            {
                found.push(row);
                guilty.insert(&row.crate_name);
            }
        }
        if found.len() == before {
            return found;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(name: &str, outcome: &str, differs: Option<&str>, externs: &[&str]) -> Row {
        Row {
            crate_name: name.to_owned(),
            outcome: outcome.to_owned(),
            published: outcome == "compiled" && differs.is_some(),
            differs: differs.map(str::to_owned),
            stem: format!("{name}-1"),
            externs: externs.iter().map(|name| format!("{name}-1")).collect(),
            ms: 100.0,
            ..Row::default()
        }
    }

    #[test]
    fn what_makes_others_be_compiled_comes_first() {
        let rows = vec![
            row("alone", "compiled", None, &[]),
            row("leak", "compiled", None, &[]),
            row("user", "compiled", Some("externs: leak"), &["leak"]),
            row("top", "compiled", Some("externs: user"), &["user"]),
            row("edited", "compiled", Some("sources: x"), &["leak"]),
            row("hit", "restored", None, &["leak"]),
            row("app", "remapped", None, &["top"]),
        ];
        let build = Build { name: "1".to_owned(), header: Default::default(), rows, unreadable: 0 };
        let ranked = ranked(&build);
        let names: Vec<_> = ranked.iter().map(|poison| poison.row.crate_name.as_str()).collect();
        assert_eq!(names, ["leak", "alone", "app"]);
        let after: Vec<_> = ranked[0].after.iter().map(|row| row.crate_name.as_str()).collect();
        assert_eq!(after, ["user", "top"]);
        assert_eq!((ranked[0].after_ms(), ranked[2].own_ms), (200.0, None));
    }
}
