// SPDX-License-Identifier: MIT OR Apache-2.0
//! cargo's compilations, by way of `RUSTC_WRAPPER`.
//!
//! [`plan`] says what is to become of a call, without a runtime and in well under a millisecond; [`pass`] becomes the
//! real compiler; [`shim`] asks the cache first and publishes afterwards.
//!
//! * [`map`] reads the arguments into a [`mod@unit`], [`key`] makes the key: all pure.
//! * [`place`] finds the folders that differ between checkouts; [`toolchain`], [`sources`] and [`externs`] gather what
//!   goes into the key.
//! * `walk` lists folders, `text` finds names in sources.
//! * [`watch`] sees what is read without being told; [`linker`] has only the linker watched where nobody else does that,
//!   and `habit` knows what it will read when it is called as it was before.
//! * `worth` decides whether what was linked is kept.
//! * `restore` writes a hit, `compile` runs a miss, `publish` offers it; [`stall`] says what of that may be waited for.
//! * `notice` tells the daemon what a build asks for; `verify` makes what is known once more, and compares.
//! * `log` tells of each unit: [`diary`] keeps that of the last builds, [`fields`] what keys were made of.
//!
//! Whatever goes wrong before the compiler ran, it is run exactly as it was called.

mod compile;
pub mod diary;
mod environ;
pub mod externs;
pub mod fields;
mod habit;
pub mod key;
pub mod linker;
mod log;
mod macros;
pub mod map;
mod notice;
pub mod place;
mod publish;
pub mod reads;
mod restore;
mod said;
pub mod script;
mod shim;
pub mod sources;
pub mod stall;
#[cfg(test)]
mod tests;
mod text;
pub mod toolchain;
pub mod unit;
mod verify;
mod walk;
pub mod watch;
mod worth;

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::time::Duration;

use potluck_protocol::action::Project;

pub use self::shim::{pass, shim};

/// One call of the wrapper, as the process found it.
#[derive(Debug, Clone)]
pub struct Call {
    /// The real compiler and its arguments.
    pub args: Vec<OsString>,
    /// The working folder.
    pub cwd: PathBuf,
    /// All of the environment.
    pub env: BTreeMap<OsString, OsString>,
    /// The Project.
    pub project: Project,
    /// How long a look-up may take.
    pub deadline: Duration,
    /// A folder in which identities of toolchains are remembered.
    pub toolchains: PathBuf,
    /// The mark of a daemon that was waited for in vain, so that others need not find that out for themselves.
    pub stalled: Option<stall::Stall>,
    /// A file that gets a line for each call.
    pub log: Option<PathBuf>,
    /// The node's home, where the last builds are remembered. What this program reads there concerns nobody.
    pub home: Option<PathBuf>,
    /// This program, which can be called as [`watch`] says. Without it nothing is watched.
    pub this: Option<PathBuf>,
}

impl Call {
    /// The value of a variable, when it is text.
    pub fn var(&self, name: &str) -> Option<&str> {
        self.env.get(std::ffi::OsStr::new(name)).and_then(|value| value.to_str())
    }

    /// What is called, and its arguments: cargo names the compiler after what it has run in its place.
    fn parts(&self) -> (&[OsString], &[OsString]) {
        let instead = |program: &OsString| Path::new(program).file_name().is_some_and(|name| name == DRIVER);
        let both = matches!(self.args.as_slice(), [driver, rustc, ..] if instead(driver) && is_rustc(rustc));
        self.args.split_at(if both { 2 } else { self.args.len().min(1) })
    }

    /// The compiler itself.
    fn compiler(&self) -> &str {
        self.parts().0.last().and_then(|path| path.to_str()).unwrap_or_default()
    }
}

/// What `cargo clippy` has run in the compiler's place.
const DRIVER: &str = "clippy-driver";

fn is_rustc(program: &OsString) -> bool {
    Path::new(program).file_name().is_some_and(|name| name == "rustc" || name == "rustc.exe")
}

/// A unit that is understood, and where it lies.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Placed {
    /// What the arguments say.
    pub unit: unit::Unit,
    /// Where it lies.
    pub place: place::Place,
}

/// Why a call is passed through.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Reason {
    /// The user wants no cache.
    #[error("POTLUCK_OFF is set")]
    Off,
    /// The arguments say so.
    #[error(transparent)]
    Refused(#[from] map::Refusal),
    /// It is not known where the unit lies.
    #[error(transparent)]
    Place(#[from] place::PlaceError),
    /// There is no daemon.
    #[error("the daemon is not reachable")]
    NoDoor,
    /// The toolchain or the linker could not be identified.
    #[error("the toolchain is not known: {0}")]
    Toolchain(std::io::Error),
    /// The sources could not be read.
    #[error(transparent)]
    Sources(#[from] sources::SourceError),
    /// The libraries could not be read.
    #[error("the libraries are not known: {0}")]
    Externs(std::io::Error),
    /// The compiler could not be started beside this process.
    #[error("cannot start the compiler: {0}")]
    Spawn(std::io::Error),
    /// A variable that cargo always sets is not there.
    #[error("{0} is not set")]
    Variable(&'static str),
    /// A build script has been run before, and what it left is there.
    #[error("its output folder is not empty")]
    Again,
    /// A build script cannot be read.
    #[error("the program cannot be read: {0}")]
    Program(std::io::Error),
    /// This program has a fault.
    #[error("the wrapper failed")]
    Fault,
}

/// What is to become of a call.
#[derive(Debug)]
pub enum Decision {
    /// The real compiler runs as it was called.
    PassThrough(Reason),
    /// The cache is asked first.
    Cacheable(Box<Placed>),
}

/// Decides from arguments, environment and the folders' marks.
pub fn plan(call: &Call) -> Decision {
    match understand(call) {
        Ok(placed) => Decision::Cacheable(Box::new(placed)),
        Err(reason) => Decision::PassThrough(reason),
    }
}

fn understand(call: &Call) -> Result<Placed, Reason> {
    let (programs, args) = call.parts();
    let compiler = programs.last().ok_or(map::Refusal::NoCompiler)?;
    if !is_rustc(compiler) {
        let name = Path::new(compiler).file_name().unwrap_or_default();
        return Err(map::Refusal::NotRustc(name.display().to_string()).into());
    }
    let args: Option<Vec<_>> = args.iter().map(|arg| arg.to_str()).collect();
    let mut unit = map::parse(&args.ok_or(map::Refusal::NotUtf8)?)?;
    unit.driver = (programs.len() > 1).then(|| DRIVER.to_owned());
    let place = place::Place::find(&unit, call)?;
    Ok(Placed { unit, place })
}
