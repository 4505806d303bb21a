// SPDX-License-Identifier: MIT OR Apache-2.0
//! The `potluck` program: reads the command line, runs one verb, and turns what comes of it into text and an exit code.

mod args;
mod connect;
mod exit;
mod failure;
mod rustc;
mod say;
mod signal;
mod verbs;

use std::process::ExitCode;

use clap::{CommandFactory as _, FromArgMatches as _};

use potluck_node::front::rustc::linker;
use potluck_node::front::rustc::script::launcher::SCRIPT;
use potluck_node::front::rustc::watch::{DOORSTEP, OF_LINKER, WATCHER};

use crate::args::Args;
use crate::exit::Exit;
use crate::say::Say;

fn main() -> ExitCode {
    // As RUSTC_WRAPPER, under its other name or this one: cargo gives the compiler as the first argument.
    let mut words = std::env::args_os();
    let name = words.next();
    let word = words.next();
    // What it starts of itself, and what is left in the place of a build script, say so in their first word; what stands in
    // a linker's place is known by its name.
    let own =
        [SCRIPT, WATCHER, DOORSTEP].iter().chain(&OF_LINKER).any(|own| word.as_deref() == Some(own.as_ref()));
    let own = own || linker::is_called(name.as_deref()).is_some();
    if own || is_named(name, "potluck-rustc") || is_named(word, "rustc") {
        return rustc::run();
    }
    let matches = args::with_groups(Args::command()).get_matches();
    let args = match Args::from_arg_matches(&matches) {
        Ok(args) => args,
        Err(error) => error.exit(),
    };
    let mut say = Say::new(&args.global);
    match verbs::run(args, &mut say) {
        Ok(exit) => exit,
        Err(failure) => {
            say.failure(&failure);
            failure.exit.into()
        }
    }
}

/// Whether a word is a program of that name.
fn is_named(word: Option<std::ffi::OsString>, name: &str) -> bool {
    word.is_some_and(|word| std::path::Path::new(&word).file_stem().is_some_and(|stem| stem == name))
}

/// A reader that went away, as in `potluck … | head`, has had enough; that is no failure.
impl From<std::io::Error> for failure::Failure {
    fn from(error: std::io::Error) -> Self {
        let exit = if error.kind() == std::io::ErrorKind::BrokenPipe { Exit::Done } else { Exit::Failed };
        Self::new(exit, format!("cannot write the answer: {error}"))
    }
}
