// SPDX-License-Identifier: MIT OR Apache-2.0
//! The built program, run as a person would, in a home of its own.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::OnceLock;

use serde_json::Value;
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
        if let Some(filter) = std::env::var_os("POTLUCK_LOG") {
            command.env("POTLUCK_LOG", filter);
        }
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

/// A daemon in the background. Dropping it ends it.
pub struct Up<'a> {
    person: &'a Person,
    /// What `up` printed.
    pub ready: Value,
}

impl Person {
    /// Starts her daemon, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not start.
    pub fn up(&self, args: &[&str]) -> Up<'_> {
        let args: Vec<_> = ["--json", "up"].into_iter().chain(args.iter().copied()).collect();
        let ready = self.run(args).ok();
        Up { person: self, ready: serde_json::from_str(&ready).expect("it prints one object") }
    }

    /// What her daemon says is going on.
    ///
    /// # Panics
    /// When it says nothing.
    pub fn status(&self) -> Value {
        serde_json::from_str(&self.run(["--json", "status"]).ok()).expect("it prints one object")
    }

    /// Waits until her daemon's status is as it should be.
    ///
    /// # Panics
    /// When that takes too long.
    #[track_caller]
    pub fn until(&self, what: &str, is: impl Fn(&Value) -> bool) -> Value {
        let mut status = Value::Null;
        // Not a measurement: as often as a slow machine may need.
        for _ in 0..1500 {
            status = self.status();
            if is(&status) {
                return status;
            }
            std::thread::sleep(std::time::Duration::from_millis(20));
        }
        let log = std::fs::read_to_string(self.home().join("daemon.log")).unwrap_or_default();
        panic!("waited in vain for {what}: {status:#}\n{log}");
    }
}

impl Up<'_> {
    /// Where it listens in a Network, and its identity there.
    ///
    /// # Panics
    /// When it is not in it.
    pub fn at(&self, network: &str) -> (String, String) {
        let network = &self.ready["networks"][network];
        let text = |value: &Value| value.as_str().expect("it is in the network").to_owned();
        (text(&network["listen"][0]), text(&network["peer"]))
    }

    /// Ends it without giving it a chance.
    ///
    /// # Panics
    /// When it cannot be ended.
    pub fn kill(self) {
        let pid = self.ready["pid"].to_string();
        let killed = Command::new("kill").args(["-9", &pid]).status().expect("kill runs");
        assert!(killed.success());
        std::mem::forget(self);
    }
}

impl Drop for Up<'_> {
    fn drop(&mut self) {
        let _ = self.person.command(["down"]).output();
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
