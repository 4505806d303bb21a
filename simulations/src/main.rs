// SPDX-License-Identifier: MIT OR Apache-2.0
//! Worlds in virtual time in which the code that ships makes its decisions: no sockets, no files, no clock.
//!
//! `potluck-simulations [SCENARIO] [SEED]` runs one world, or each of them, and prints one JSON object a run.

mod scenario;
mod world;

use std::io::{self, Write as _};
use std::process::ExitCode;

fn main() -> ExitCode {
    let mut args = std::env::args().skip(1);
    let (name, seed) = (args.next(), args.next());
    let seed = seed.map_or(Ok(1), |seed| seed.parse());
    let chosen: Vec<_> =
        scenario::ALL.iter().filter(|(known, _)| name.as_ref().is_none_or(|name| name == known)).collect();
    let (Ok(seed), false) = (seed, chosen.is_empty()) else {
        let names: Vec<_> = scenario::ALL.iter().map(|(name, _)| *name).collect();
        let _ = writeln!(io::stderr(), "usage: potluck-simulations [{}] [SEED]", names.join("|"));
        return ExitCode::from(2);
    };
    for (_, run) in chosen {
        if writeln!(io::stdout(), "{}", run(seed)).is_err() {
            return ExitCode::FAILURE;
        }
    }
    ExitCode::SUCCESS
}
