// SPDX-License-Identifier: MIT OR Apache-2.0
//! A line of JSON for each call, for whoever wants to know what became of the units of a build: in the node's home, where
//! the last builds are remembered, and in a file that the user names.

use std::fs::OpenOptions;
use std::io::{self, Write as _};
use std::path::Path;

use super::diary::{self, Row};
use super::unit::Unit;
use super::{Call, fields, verify};
use crate::ahead::run::Run;
use crate::observe::clock;
use crate::plan::Moment;

/// What became of a call.
#[derive(Debug)]
pub(super) struct Line(pub(super) Row);

impl Line {
    /// A line about a call of which only its arguments may be known.
    pub(super) fn new(call: &Call, unit: Option<&Unit>, outcome: &str) -> Self {
        let named = call.args.iter().position(|arg| arg == "--crate-name");
        let crate_name = named.and_then(|at| call.args.get(at + 1)?.to_str()).unwrap_or_default();
        let stem = |path: &String| {
            let stem = Path::new(path).file_stem()?.to_str()?;
            Some(stem.strip_prefix("lib").unwrap_or(stem).to_owned())
        };
        let externs = unit.into_iter().flat_map(|unit| &unit.externs);
        Self(Row {
            crate_name: crate_name.to_owned(),
            package: ["CARGO_PKG_NAME", "CARGO_PKG_VERSION"]
                .map(|name| call.var(name).unwrap_or_default())
                .join(" "),
            kind: unit.map_or("other", |unit| unit.kind.name()).to_owned(),
            outcome: outcome.to_owned(),
            project: call.project.to_string(),
            stem: unit.map(Unit::stem).unwrap_or_default(),
            externs: externs.filter_map(|one| stem(one.path.as_ref()?)).collect(),
            ..Row::default()
        })
    }

    /// Whether it is about a unit, and not about what cargo or a build script wants to know of the compiler.
    fn is_unit(&self) -> bool {
        !self.0.crate_name.is_empty() && self.0.crate_name != "___"
    }

    /// A line about something of a package.
    pub(super) fn named(call: &Call, crate_name: &str, kind: &str, outcome: &str) -> Self {
        let mut line = Self::new(call, None, outcome);
        (line.0.crate_name, line.0.kind) = (crate_name.to_owned(), kind.to_owned());
        line
    }

    /// Writes it at once, so that lines of several processes do not mix.
    pub(super) fn write(mut self, call: &Call, started: Moment) {
        self.0.ms = (clock::moment().since(started).as_secs_f64() * 1e5).round() / 100.0;
        if let Some(home) = &call.home
            && self.is_unit()
            && !verify::is_asked(call)
            && let Some(run) = Run::of_this_process()
        {
            note(diary::append(&diary::folder(home), &run, &self.0));
        }
        if let Some(path) = &call.log {
            note(self.append(path));
        }
    }

    fn append(&self, path: &Path) -> io::Result<()> {
        let mut line = serde_json::to_vec(&self.0)?;
        line.push(b'\n');
        OpenOptions::new().append(true).create(true).open(path)?.write_all(&line)
    }
}

fn note(written: io::Result<()>) {
    if let Err(error) = written {
        tracing::debug!(%error, "cannot write the log of units");
    }
}

/// What is remembered of units like this one.
pub(super) fn memory(call: &Call, unit: &Unit) -> Option<fields::Memory> {
    let home = call.home.as_ref()?;
    // All build scripts have one crate name.
    let package = call.var("CARGO_PKG_NAME").unwrap_or_default();
    let name = format!("{package}-{}", unit.crate_name);
    Some(fields::Memory::of(&home.join("units"), &name, unit.kind.name()))
}
