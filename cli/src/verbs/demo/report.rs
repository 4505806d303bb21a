// SPDX-License-Identifier: MIT OR Apache-2.0
//! What came of the demonstration: a table for people, an object for scripts.

use std::time::Duration;

use comfy_table::{Cell, CellAlignment, Table, presets};
use indicatif::HumanBytes;
use serde_json::{Value, json};

use super::build::Unit;

/// The units of one build.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct Units {
    pub(super) restored: usize,
    pub(super) compiled: usize,
}

impl Units {
    pub(super) fn of(units: &[Unit]) -> Self {
        let count = |outcome: &str| units.iter().filter(|unit| unit.outcome == outcome).count();
        Self { restored: count("restored"), compiled: count("compiled") }
    }

    fn cacheable(self) -> usize {
        self.restored + self.compiled
    }
}

/// Something that was refused, how often, and whose it was.
#[derive(Debug, Clone)]
pub(super) struct Refused {
    pub(super) reason: String,
    pub(super) who: String,
    pub(super) count: u64,
}

/// How the programs of the two compare.
#[derive(Debug, Clone, Default)]
pub(super) struct Programs {
    pub(super) count: usize,
    pub(super) bytes: u64,
    pub(super) identical: bool,
    /// Whether they printed the same; nothing when none was run.
    pub(super) same_text: Option<bool>,
}

/// All that came of it.
#[derive(Debug)]
pub(super) struct Outcome {
    pub(super) plain: Duration,
    pub(super) ann: (Duration, Units),
    pub(super) ben: (Duration, Units),
    pub(super) fetched: u64,
    pub(super) poisoned: usize,
    pub(super) refused: Vec<Refused>,
    pub(super) programs: Programs,
}

/// Why a unit that could have been cached was not published, and how many of those.
pub(super) fn unpublished(units: &[Unit]) -> Vec<String> {
    let held_back = units.iter().filter(|unit| unit.outcome == "compiled" && !unit.published);
    held_back
        .map(|unit| format!("{}: {}", unit.name, unit.reason.as_deref().unwrap_or("no reason given")))
        .collect()
}

impl Outcome {
    /// What part of the units that a cache can hold ben restored.
    pub(super) fn share(&self) -> f64 {
        let units = self.ben.1;
        if units.cacheable() == 0 { 0.0 } else { ratio(units.restored, units.cacheable()) }
    }

    /// The table.
    pub(super) fn table(&self) -> String {
        let mut table = Table::new();
        table.load_style(presets::NOTHING);
        table.set_header(["", "plain cargo", "ann, cold", "ben, from ann"]);
        for column in 1..4 {
            if let Some(column) = table.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        let seconds = |took: Duration| format!("{:.1} s", took.as_secs_f64());
        let of_plain =
            |took: Duration| format!("{:.0} %", 100.0 * took.as_secs_f64() / self.plain.as_secs_f64());
        let (ann, ben) = (self.ann.1, self.ben.1);
        table.add_row(["time", &seconds(self.plain), &seconds(self.ann.0), &seconds(self.ben.0)]);
        table.add_row(["of plain", "", &of_plain(self.ann.0), &of_plain(self.ben.0)]);
        table.add_row(["units restored", "", &ann.restored.to_string(), &ben.restored.to_string()]);
        table.add_row(["units compiled", "", &ann.compiled.to_string(), &ben.compiled.to_string()]);
        table.add_row(["bytes fetched", "", "", &HumanBytes(self.fetched).to_string()]);
        for refused in &self.refused {
            let label = format!("refused: {} {}", refused.who, refused.reason);
            table.add_row([Cell::new(label), Cell::new(""), Cell::new(""), Cell::new(refused.count)]);
        }
        let text = table.trim_fmt();
        // A line below the header, as wide as the widest row.
        let width = text.lines().map(|line| line.chars().count()).max().unwrap_or(0);
        let (head, rows) = text.split_once('\n').unwrap_or((&text, ""));
        format!("{head}\n {}\n{rows}{}", "─".repeat(width.saturating_sub(1)), self.programs_in_words())
    }

    fn programs_in_words(&self) -> String {
        let Programs { count, bytes, identical, same_text } = self.programs;
        if count == 0 {
            return String::new();
        }
        let mut words = match identical {
            true => format!("\n\n ann's and ben's programs are identical, {}", HumanBytes(bytes)),
            false => "\n\n ann's and ben's programs are not identical".to_owned(),
        };
        match same_text {
            Some(true) => words += ", and print the same",
            Some(false) => words += ", and PRINT OTHER TEXT",
            None => {}
        }
        words
    }

    /// The object.
    pub(super) fn json(&self) -> Value {
        let units = |(took, units): (Duration, Units)| {
            json!({
                "seconds": round(took.as_secs_f64()),
                "of_plain": round(took.as_secs_f64() / self.plain.as_secs_f64()),
                "restored": units.restored,
                "compiled": units.compiled,
            })
        };
        let refused: Vec<_> = self
            .refused
            .iter()
            .map(|refused| json!({ "reason": refused.reason, "who": refused.who, "count": refused.count }))
            .collect();
        json!({
            "plain": { "seconds": round(self.plain.as_secs_f64()) },
            "ann": units(self.ann),
            "ben": units(self.ben),
            "restored_share": round(self.share()),
            "bytes_fetched": self.fetched,
            "poisoned": self.poisoned,
            "refused": refused,
            "programs": {
                "count": self.programs.count,
                "bytes": self.programs.bytes,
                "identical": self.programs.identical,
                "same_text": self.programs.same_text,
            },
        })
    }
}

fn round(value: f64) -> f64 {
    (value * 1000.0).round() / 1000.0
}

fn ratio(part: usize, whole: usize) -> f64 {
    let float = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    float(part) / float(whole)
}
