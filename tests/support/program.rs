// SPDX-License-Identifier: MIT OR Apache-2.0
//! The built program, run as a person would, in a home of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use tempfile::TempDir;

/// The root of the repository.
pub fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().expect("the tests are a folder of the repository")
}

/// The program, built from the sources as they are now.
///
/// # Panics
/// When it does not build.
pub fn potluck() -> &'static Path {
    static BUILT: OnceLock<PathBuf> = OnceLock::new();
    BUILT.get_or_init(|| {
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.args(["build", "--quiet", "--locked", "--package", "potluck"]).current_dir(repository());
        assert!(build.status().expect("cargo runs").success(), "the program does not build");
        // The tests' own program lies in `target/PROFILE/deps`.
        let this = std::env::current_exe().expect("a test knows where it is");
        let profile = this.ancestors().nth(2).expect("a test lies in the target folder");
        profile.join("potluck")
    })
}

/// An empty folder for one person: what she runs knows nothing of the machine's user.
pub struct Person {
    folder: TempDir,
}

impl Default for Person {
    fn default() -> Self {
        Self::new()
    }
}

impl Person {
    /// Somebody without a home yet.
    ///
    /// # Panics
    /// When no temporary folder can be made.
    pub fn new() -> Self {
        Self { folder: tempfile::tempdir().expect("a temporary folder can be made") }
    }

    /// Somebody who has run `potluck init`.
    pub fn at_home() -> Self {
        let person = Self::new();
        person.run(["init", "--comment", "test"]).ok();
        person
    }

    /// A path in her folder.
    pub fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// The node's home.
    pub fn home(&self) -> PathBuf {
        self.path("home")
    }

    /// A command of the program, in her folder, with nothing but what it needs of the environment.
    pub fn command<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Command {
        let mut command = Command::new(potluck());
        command.args(args).env_clear().env("POTLUCK_HOME", self.home()).env("HOME", self.folder.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.current_dir(self.folder.path()).stdin(std::process::Stdio::null());
        command
    }

    /// Runs it.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn run<S: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = S>) -> Ran {
        self.ran(&mut self.command(args))
    }

    /// Runs a command that was prepared with more than arguments.
    ///
    /// # Panics
    /// When it cannot be started.
    pub fn ran(&self, command: &mut Command) -> Ran {
        let Output { status, stdout, stderr } = command.output().expect("the program can be started");
        let code = status.code().expect("the program ends by itself");
        let folder = self.folder.path().display().to_string();
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).replace(&folder, "[HERE]");
        Ran { code, stdout: text(&stdout), stderr: text(&stderr) }
    }
}

/// What a run printed, with the person's folder written as `[HERE]`.
#[derive(Debug)]
pub struct Ran {
    /// The exit code.
    pub code: i32,
    /// The answer.
    pub stdout: String,
    /// The talk.
    pub stderr: String,
}

impl Ran {
    /// The answer, if the run went well.
    ///
    /// # Panics
    /// When it did not.
    #[track_caller]
    pub fn ok(self) -> String {
        assert_eq!(self.code, 0, "{}{}", self.stdout, self.stderr);
        self.stdout
    }
}
