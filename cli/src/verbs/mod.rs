// SPDX-License-Identifier: MIT OR Apache-2.0
//! The verbs, one file each.

mod audit;
mod bundle;
mod cargo;
mod completions;
mod demo;
mod doctor;
mod down;
mod gc;
mod gocacheprog;
mod init;
mod key;
mod man;
mod network;
mod nx;
mod pin;
mod setup;
mod share;
mod status;
mod store;
mod trust;
mod up;
mod verify;
mod why;

use std::process::ExitCode;

use clap::Subcommand;
use potluck_node::home::Home;

use crate::args::Args;
use crate::failure::Failure;
use crate::say::Say;

/// What can be done.
#[derive(Debug, Subcommand)]
pub(crate) enum Verb {
    Demo(demo::Demo),
    Init(init::Init),
    Up(up::Up),
    Down(down::Down),
    Status(status::Status),
    Why(why::Why),
    Put(store::Put),
    Get(store::Get),
    Export(bundle::Export),
    Import(bundle::Import),
    Gc(gc::Gc),
    Pin(pin::Pin),
    Verify(verify::Verify),
    Setup(setup::Setup),
    Doctor(doctor::Doctor),
    Cargo(cargo::Cargo),
    Audit(audit::Audit),
    Network(network::Network),
    Share(share::Share),
    Unshare(share::Unshare),
    Key(key::Key),
    Trust(trust::Trust),
    Completions(completions::Completions),
    Man(man::Man),
    Gocacheprog(gocacheprog::Gocacheprog),
    Nx(nx::Nx),
}

/// Does it.
pub(crate) fn run(args: Args, say: &mut Say) -> Result<ExitCode, Failure> {
    let home = || Home::locate(args.global.home);
    let exit = match args.verb {
        Verb::Demo(verb) => verb.run(say),
        Verb::Init(verb) => verb.run(&home()?, say),
        Verb::Up(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Down(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Status(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Why(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Put(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Get(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Export(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Import(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Gc(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Pin(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Verify(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Doctor(verb) => verb.run(&home()?, say),
        Verb::Cargo(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Audit(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Setup(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Network(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Share(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Unshare(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Key(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Trust(verb) => verb.run(home()?.must_exist()?, say),
        Verb::Completions(verb) => verb.run(),
        Verb::Man(verb) => verb.run(say),
        Verb::Gocacheprog(verb) => verb.run(home().ok()),
        Verb::Nx(verb) => return verb.run(home().ok()),
    };
    exit.map(ExitCode::from)
}
