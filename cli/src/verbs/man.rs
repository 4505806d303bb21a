// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck man`: the manual pages, made from the same definitions as `--help`.

use std::fs;
use std::io::{self, Write as _};
use std::path::PathBuf;

use clap::{Args as ClapArgs, CommandFactory as _};
use serde_json::json;

use crate::args::{self, Args};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;

/// Print the manual page, or write one for each verb
#[derive(Debug, ClapArgs)]
pub(crate) struct Man {
    /// Write the pages of all verbs into this folder
    #[arg(long, value_name = "DIR")]
    dir: Option<PathBuf>,
}

impl Man {
    pub(crate) fn run(&self, say: &mut Say) -> Result<Exit, Failure> {
        let command = args::with_groups(Args::command()).after_help(Exit::help());
        let Some(dir) = &self.dir else {
            let mut page = Vec::new();
            clap_mangen::Man::new(command).render(&mut page)?;
            io::stdout().lock().write_all(&page)?;
            return Ok(Exit::Done);
        };
        let failed =
            |error: io::Error| Failure::failed(format!("cannot write into {}: {error}", dir.display()));
        fs::create_dir_all(dir).map_err(failed)?;
        clap_mangen::generate_to(command, dir).map_err(failed)?;
        say.answer(
            &format!("The pages are in {}", dir.display()),
            json!({ "man": dir.display().to_string() }),
        )?;
        Ok(Exit::Done)
    }
}
