// SPDX-License-Identifier: MIT OR Apache-2.0
//! A line of JSON for each call, for whoever wants to know what became of the units of a build.

use std::fs::OpenOptions;
use std::io::Write as _;

use serde::Serialize;

use super::Call;
use crate::observe::clock;
use crate::plan::Moment;

/// What became of a call.
#[derive(Debug, Serialize)]
pub(super) struct Line<'a> {
    #[serde(rename = "crate")]
    crate_name: &'a str,
    kind: &'a str,
    pub(super) outcome: &'a str,
    pub(super) reason: Option<String>,
    pub(super) published: bool,
    pub(super) key: Option<String>,
    ms: f64,
    pub(super) bytes: u64,
}

impl<'a> Line<'a> {
    /// A line about a call of which only its arguments may be known.
    pub(super) fn new(call: &'a Call, kind: Option<&'a str>, outcome: &'a str) -> Self {
        let named = call.args.iter().position(|arg| arg == "--crate-name");
        let crate_name = named.and_then(|at| call.args.get(at + 1)?.to_str()).unwrap_or_default();
        let kind = kind.unwrap_or("other");
        Self { crate_name, kind, outcome, reason: None, published: false, key: None, ms: 0.0, bytes: 0 }
    }

    /// A line about something of a package.
    pub(super) fn named(crate_name: &'a str, kind: &'a str, outcome: &'a str) -> Self {
        Self { crate_name, kind, outcome, reason: None, published: false, key: None, ms: 0.0, bytes: 0 }
    }

    /// Writes it at once, so that lines of several processes do not mix.
    pub(super) fn write(mut self, call: &Call, started: Moment) {
        let Some(path) = &call.log else { return };
        self.ms = (clock::moment().since(started).as_secs_f64() * 1e5).round() / 100.0;
        let Ok(mut line) = serde_json::to_vec(&self) else { return };
        line.push(b'\n');
        let file = OpenOptions::new().append(true).create(true).open(path);
        if let Err(error) = file.and_then(|mut file| file.write_all(&line)) {
            tracing::debug!(%error, "cannot write the log of units");
        }
    }
}
