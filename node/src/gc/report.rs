// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a collection did, or would do, as one object that the command line and status show.

use std::collections::BTreeMap;

use potluck_keys::time::Time;
use serde::Serialize;

use super::plan::Row;

/// Most groups that are told apart; the rest are one.
pub const MAX_GROUPS: usize = 256;
/// Most Entries that are told one by one.
pub const MAX_SINGLES: usize = 200;
/// Most toolchains that are told apart.
pub const MAX_TOOLCHAINS: usize = 64;

/// Why room was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Cause {
    /// Somebody asked for it.
    Asked,
    /// The store took more than its budget.
    Budget,
    /// The disk had less room left than it should.
    Floor,
    /// It was time to look for what has expired and for what nobody names.
    Tidying,
}

/// Why it ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum End {
    /// All was done that was to be done.
    Done,
    /// There was nothing left that may go.
    NothingLeft,
    /// So much is in use that nobody knows what: it has to wait.
    Crowded,
    /// Something could not be read, so that nothing more was removed.
    Failed,
}

/// Entries that go together in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Group {
    /// The Project; absent for the rest of too many.
    pub project: Option<String>,
    /// The toolchain, where it is known.
    pub toolchain: Option<String>,
    /// How many Entries.
    pub entries: u64,
    /// What they name, in bytes, uncompressed. Several may name the same.
    pub bytes: u64,
    /// The oldest last use among them, in milliseconds since 1970.
    pub oldest_use_ms: u64,
    /// Why that one goes.
    pub why: String,
}

/// One Entry in a report.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Single {
    /// The action.
    pub action: String,
    /// The Project.
    pub project: String,
    /// The toolchain, where it is known.
    pub toolchain: Option<String>,
    /// What it names, in bytes, uncompressed.
    pub bytes: u64,
    /// Its last use, in milliseconds since 1970.
    pub last_use_ms: u64,
    /// Why it goes.
    pub why: String,
}

/// What Entries made here with one toolchain name.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct OfToolchain {
    /// The tool, e.g. `rustc`.
    pub tool: Option<String>,
    /// The toolchain.
    pub toolchain: String,
    /// How many Entries.
    pub entries: u64,
    /// What they name, in bytes, uncompressed.
    pub bytes: u64,
}

/// What a collection did.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Report {
    /// When it ended, in milliseconds since 1970, by the clock of its first round; zero if it never got there.
    pub at_ms: u64,
    /// Why it was made.
    pub cause: Cause,
    /// Whether nothing was removed.
    pub dry: bool,
    /// Why it ended.
    pub end: End,
    /// What went wrong, if something did.
    pub failure: Option<String>,
    /// Bytes that may stay.
    pub goal: Option<u64>,
    /// Bytes that Blobs took before.
    pub before: u64,
    /// Bytes that they take afterwards, or would.
    pub after: u64,
    /// Bytes that were freed, or would be.
    pub freed: u64,
    /// Bytes that nobody names any more but somebody uses just now: they go later.
    pub in_use: u64,
    /// How many times everything was looked at.
    pub rounds: u32,
    /// How many Entries went, or would go.
    pub entries: u64,
    /// What they named, in bytes, uncompressed.
    pub entry_bytes: u64,
    /// They, by Project and toolchain.
    pub groups: Vec<Group>,
    /// Some of them one by one.
    pub singles: Vec<Single>,
    /// What stays of that which was made here, by toolchain.
    pub toolchains: Vec<OfToolchain>,
}

/// A report that is being made.
#[derive(Debug)]
pub struct Draft {
    report: Report,
    groups: BTreeMap<(Option<String>, Option<String>), Group>,
    toolchains: BTreeMap<(Option<String>, String), OfToolchain>,
}

impl Draft {
    /// Nothing was done yet.
    pub fn new(cause: Cause, dry: bool, before: u64) -> Self {
        let report = Report {
            at_ms: 0,
            cause,
            dry,
            end: End::Done,
            failure: None,
            goal: None,
            before,
            after: before,
            freed: 0,
            in_use: 0,
            rounds: 0,
            entries: 0,
            entry_bytes: 0,
            groups: Vec::new(),
            singles: Vec::new(),
            toolchains: Vec::new(),
        };
        Self { report, groups: BTreeMap::new(), toolchains: BTreeMap::new() }
    }

    /// The numbers so far.
    pub fn report(&mut self) -> &mut Report {
        &mut self.report
    }

    /// A round begins. One that removes nothing tells all over again what would go.
    pub fn round(&mut self) {
        self.report.rounds += 1;
        self.toolchains.clear();
        if self.report.dry {
            (self.report.entries, self.report.entry_bytes, self.report.freed) = (0, 0, 0);
            self.report.singles.clear();
            self.groups.clear();
        }
    }

    /// An Entry goes.
    pub fn goes(&mut self, row: &Row, why: &str) {
        let Self { report, groups, .. } = self;
        report.entries += 1;
        report.entry_bytes = report.entry_bytes.saturating_add(row.subject.bytes);
        let (project, last) = (row.project.to_string(), row.subject.last.as_millis());
        if report.singles.len() < MAX_SINGLES {
            report.singles.push(Single {
                action: row.name.action.to_string(),
                project: project.clone(),
                toolchain: row.toolchain.clone(),
                bytes: row.subject.bytes,
                last_use_ms: last,
                why: why.to_owned(),
            });
        }
        let mut key = (Some(project), row.toolchain.clone());
        if groups.len() >= MAX_GROUPS && !groups.contains_key(&key) {
            key = (None, None);
        }
        let new = || Group {
            project: key.0.clone(),
            toolchain: key.1.clone(),
            entries: 0,
            bytes: 0,
            oldest_use_ms: u64::MAX,
            why: String::new(),
        };
        let group = groups.entry(key.clone()).or_insert_with(new);
        group.entries += 1;
        group.bytes = group.bytes.saturating_add(row.subject.bytes);
        if last < group.oldest_use_ms {
            group.oldest_use_ms = last;
            why.clone_into(&mut group.why);
        }
    }

    /// An Entry stays.
    pub fn stays(&mut self, row: &Row) {
        let Some(toolchain) = row.toolchain.as_ref().filter(|_| row.own) else { return };
        let key = (row.tool.clone(), toolchain.clone());
        if self.toolchains.len() >= MAX_TOOLCHAINS && !self.toolchains.contains_key(&key) {
            return;
        }
        let of = self.toolchains.entry(key).or_insert_with(|| OfToolchain {
            tool: row.tool.clone(),
            toolchain: toolchain.clone(),
            entries: 0,
            bytes: 0,
        });
        of.entries += 1;
        of.bytes = of.bytes.saturating_add(row.subject.bytes);
    }

    /// The report.
    pub fn finish(self, end: End, at: Option<Time>) -> Report {
        let mut report = self.report;
        report.end = end;
        report.at_ms = at.map_or(0, Time::as_millis);
        report.groups = self.groups.into_values().collect();
        report.groups.sort_by_key(|group| std::cmp::Reverse(group.bytes));
        report.toolchains = self.toolchains.into_values().collect();
        report
    }
}
