// SPDX-License-Identifier: MIT OR Apache-2.0
//! The table of exit codes. Scripts rely on it; `--help`, the man page and the README show it.

use std::process::ExitCode;

/// How a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// It was done.
    Done = 0,
    /// It failed.
    Failed = 1,
    /// The command line makes no sense. Also what the parser of the command line uses.
    Usage = 2,
    /// What was asked for is not there.
    NotFound = 3,
    /// The policy says no.
    Refused = 4,
    /// The daemon cannot be reached.
    Unreachable = 5,
}

impl Exit {
    /// The whole table, code by code.
    pub(crate) const TABLE: &[(u8, &str, &str)] = &[
        (0, "done", "done"),
        (1, "failed", "failed"),
        (2, "usage", "the command line makes no sense"),
        (3, "not-found", "what was asked for is not there: a miss"),
        (4, "refused", "refused by the policy"),
        (5, "unreachable", "the daemon cannot be reached"),
    ];

    /// The word for this code in JSON.
    pub(crate) fn word(self) -> &'static str {
        Self::TABLE[self as usize].1
    }

    /// The table as it is printed.
    pub(crate) fn help() -> String {
        let rows = Self::TABLE.iter().map(|(code, _, meaning)| format!("  {code}  {meaning}\n"));
        format!("Exit codes:\n{}", rows.collect::<String>())
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}
