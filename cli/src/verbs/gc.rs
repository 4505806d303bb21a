// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck gc`: makes room, or says what would go and why.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::process::Command;

use bytesize::ByteSize;
use clap::Args as ClapArgs;
use comfy_table::{Table, presets};
use potluck_keys::time::Time;
use potluck_node::home::Home;
use potluck_protocol::codec::Text;
use potluck_protocol::control::{Collect, Job};
use serde_json::Value;

use super::status::bytes;
use crate::connect::{wait, work};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::{Say, counted};

/// Most toolchains that are asked for their version.
const MAX_TOOLCHAINS: usize = 32;

/// Make room in the store: what was not used for longest goes first, the sooner the faster it is made again
#[derive(Debug, ClapArgs)]
pub(crate) struct Gc {
    /// Only show what would go, and why
    #[arg(long)]
    dry_run: bool,
    /// How much may stay, e.g. 5GiB [default: the budget in config.toml]
    #[arg(long, value_name = "SIZE", conflicts_with_all = ["toolchain", "project"])]
    keep: Option<ByteSize>,
    /// Remove all that this toolchain made, e.g. 1.94, and nothing else
    #[arg(long, value_name = "VERSION")]
    toolchain: Option<String>,
    /// Remove all of these Projects, e.g. 'acme/*', and nothing else
    #[arg(long, value_name = "GLOB")]
    project: Option<String>,
    /// Show entries one by one as well
    #[arg(long, short)]
    verbose: bool,
}

impl Gc {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let long = |what| move || Failure::usage(format!("the {what} is too long"));
        let toolchain = self.toolchain.as_ref().map(|text| Text::new(text).ok_or_else(long("toolchain")));
        let project = self.project.as_ref().map(|text| Text::new(text).ok_or_else(long("pattern")));
        let collect = Collect {
            keep: self.keep.map(|size| size.as_u64()),
            toolchain: toolchain.transpose()?,
            project: project.transpose()?,
            dry: self.dry_run,
        };
        let mut report = wait(work(home, Job::Collect(collect), say, "making room"))?;
        if let Some(failure) = report["failure"].as_str() {
            return Err(Failure::failed(format!("no room could be made: {failure}"))
                .hint("see daemon.log in the home"));
        }
        let hints = hints(&report["toolchains"]);
        report["hints"] = hints.clone().into();
        if !self.verbose
            && let Some(report) = report.as_object_mut()
        {
            report.shift_remove("singles");
        }
        say.answer(&self.text(&report), report)?;
        for hint in hints {
            say.note(&format!("hint: {hint}"));
        }
        Ok(Exit::Done)
    }

    fn text(&self, report: &Value) -> String {
        let number = |name: &str| report[name].as_u64().unwrap_or(0);
        let mut text = String::new();
        let oldest = |row: &Value, name: &str| {
            row[name].as_u64().map_or_else(|| "-".to_owned(), |ms| Time::from_millis(ms).to_string())
        };
        let groups = rows(&report["groups"]);
        if !groups.is_empty() {
            let mut table = Table::new();
            let head = ["project", "toolchain", "entries", "unpacked", "oldest use", "why"];
            table.load_style(presets::NOTHING).set_header(head);
            table.add_rows(groups.iter().map(|row| {
                let size = bytes(row["bytes"].as_u64().unwrap_or(0));
                let (entries, why) = (row["entries"].to_string(), word(&row["why"], "-"));
                let oldest = oldest(row, "oldest_use_ms");
                [word(&row["project"], "(others)"), word(&row["toolchain"], "-"), entries, size, oldest, why]
            }));
            text += &format!("{}\n", table.trim_fmt());
        }
        let singles = rows(&report["singles"]);
        if self.verbose && !singles.is_empty() {
            let mut table = Table::new();
            table.load_style(presets::NOTHING).set_header(["action", "project", "unpacked", "why"]);
            table.add_rows(singles.iter().map(|row| {
                let size = bytes(row["bytes"].as_u64().unwrap_or(0));
                [word(&row["action"], "-"), word(&row["project"], "-"), size, word(&row["why"], "-")]
            }));
            text += &format!("{}\n", table.trim_fmt());
            let more = number("entries").saturating_sub(singles.len() as u64);
            if more > 0 {
                text += &format!("and {more} more\n");
            }
        }
        let (went, free) = if self.dry_run { ("would go", "would free") } else { ("went", "freed") };
        let (entries, freed) = (counted(number("entries"), "entry", "entries"), bytes(number("freed")));
        let (before, after) = (bytes(number("before")), bytes(number("after")));
        text += &format!("{entries} {went}, which {free} {freed}: from {before} to {after}");
        if number("in_use") > 0 {
            text += &format!("\n{} more are in use just now, and go later", bytes(number("in_use")));
        }
        match report["end"].as_str() {
            Some("nothing-left") => {
                text += "\nnothing else may go: the rest is pinned, in use, or lists of what there is";
            }
            Some("crowded") => text += "\nso much is in use that it has to wait",
            _ => {}
        }
        text
    }
}

fn rows(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

fn word(value: &Value, absent: &str) -> String {
    value.as_str().unwrap_or(absent).to_owned()
}

/// Toolchains that made what is kept, and that rustup no longer has.
fn hints(toolchains: &Value) -> Vec<String> {
    let made = rows(toolchains).iter().filter(|row| row["tool"] == "rustc");
    let made: Vec<_> = made.filter_map(|row| Some((row["toolchain"].as_str()?, row))).collect();
    if made.is_empty() {
        return Vec::new();
    }
    // Without rustup nobody knows what there is.
    let Some(installed) = installed() else { return Vec::new() };
    let gone = made.into_iter().filter(|(version, _)| !installed.contains(*version));
    let hint = |(version, row): (&str, &Value)| {
        let size = bytes(row["bytes"].as_u64().unwrap_or(0));
        format!(
            "{version} is no longer installed: `potluck gc --toolchain {version}` would free up to {size}"
        )
    };
    gone.map(hint).collect()
}

/// The releases of all toolchains that rustup has, or nothing when one of them does not say.
fn installed() -> Option<BTreeSet<String>> {
    let home = std::env::var_os("RUSTUP_HOME").map(PathBuf::from);
    let home = home.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".rustup")))?;
    let mut releases = BTreeSet::new();
    for (count, folder) in std::fs::read_dir(home.join("toolchains")).ok()?.enumerate() {
        if count >= MAX_TOOLCHAINS {
            return None;
        }
        // The name says `stable` as often as it says a version.
        let said = Command::new(folder.ok()?.path().join("bin/rustc")).arg("-vV").output().ok()?;
        let said = String::from_utf8(said.stdout).ok()?;
        releases.insert(said.lines().find_map(|line| line.strip_prefix("release: "))?.to_owned());
    }
    Some(releases)
}
