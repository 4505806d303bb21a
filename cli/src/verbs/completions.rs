// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck completions`: what a shell needs to complete potluck's command line.

use std::io::{self, Write as _};

use clap::{Args as ClapArgs, CommandFactory as _};
use clap_complete::Shell;

use crate::args::Args;
use crate::exit::Exit;
use crate::failure::Failure;

/// Print completions for a shell
#[derive(Debug, ClapArgs)]
#[command(
    after_help = "For bash: potluck completions bash > ~/.local/share/bash-completion/completions/potluck"
)]
pub(crate) struct Completions {
    /// Which shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self) -> Result<Exit, Failure> {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Args::command(), "potluck", &mut script);
        io::stdout().lock().write_all(&script)?;
        Ok(Exit::Done)
    }
}
