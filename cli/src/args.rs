// SPDX-License-Identifier: MIT OR Apache-2.0
//! The command line: flags that every verb knows, and the groups in which `--help` shows the verbs.

use std::path::PathBuf;

use clap::{Args as ClapArgs, Command, Parser};

use crate::exit::Exit;
use crate::verbs::Verb;

/// A peer-to-peer build cache: everyone brings what they have already built; everyone eats only what cooks they trust
/// have made.
#[derive(Debug, Parser)]
#[command(name = "potluck", version, about, max_term_width = 100, disable_help_subcommand = true)]
pub(crate) struct Args {
    #[command(flatten)]
    pub(crate) global: Global,

    #[command(subcommand)]
    pub(crate) verb: Verb,
}

/// What every verb knows.
#[derive(Debug, Clone, ClapArgs)]
pub(crate) struct Global {
    /// The node's folder [default: the platform's data folder]
    #[arg(long, value_name = "DIR", env = "POTLUCK_HOME", hide_env_values = true, global = true)]
    pub(crate) home: Option<PathBuf>,

    /// Print one JSON object a line, for scripts
    #[arg(long, global = true)]
    pub(crate) json: bool,

    /// Say less
    #[arg(long, short, global = true)]
    pub(crate) quiet: bool,
}

/// The verbs as a newcomer meets them. Every verb stands in one group; a test makes sure.
const GROUPS: &[(&str, &[&str])] = &[
    ("Start here", &["demo", "init", "up", "down", "status", "why"]),
    ("Whom to believe", &["trust", "key", "audit"]),
    ("Whom to share with", &["network", "share", "unshare"]),
    ("By hand", &["put", "get", "export", "import"]),
    ("What is kept", &["gc", "pin", "verify"]),
    ("Your tools", &["setup", "doctor", "cargo", "gocacheprog", "nx"]),
    ("For your shell", &["completions", "man"]),
];

const FIRST_STEPS: &str = "\
First steps:
  potluck demo                                     see it work, on this machine alone
  potluck init                                     make this node's folder and its key
  potluck up                                       start the daemon
  potluck setup cargo                              have cargo build through it, here and elsewhere
  potluck trust add ann \"ssh-ed25519 AAAA… ann\" --project 'acme/*'";

/// The same command with its verbs in groups, and the exit codes, in `--help`.
pub(crate) fn with_groups(command: Command) -> Command {
    let mut verbs = String::new();
    for (title, names) in GROUPS {
        verbs += &format!("{title}:\n");
        for name in *names {
            let about = command.find_subcommand(name).and_then(Command::get_about);
            let about = about.map(ToString::to_string).unwrap_or_default();
            verbs += &format!("  {name:<14}{about}\n");
        }
        verbs.push('\n');
    }
    let exits = Exit::help();
    let template = format!(
        "{{about}}\n\n{{usage-heading}} {{usage}}\n\n{FIRST_STEPS}\n\n{verbs}Options:\n{{options}}\n\n{exits}"
    );
    command.help_template(template)
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_sound() {
        with_groups(Args::command()).debug_assert();
    }

    #[test]
    fn every_verb_stands_in_one_group() {
        let command = Args::command();
        let mut verbs: Vec<_> = command.get_subcommands().map(Command::get_name).collect();
        let mut grouped: Vec<_> = GROUPS.iter().flat_map(|(_, names)| names.iter().copied()).collect();
        verbs.sort_unstable();
        grouped.sort_unstable();
        assert_eq!(grouped, verbs);
    }
}
