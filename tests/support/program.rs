// SPDX-License-Identifier: MIT OR Apache-2.0
//! The built program, run as a person would, in a home of its own.

use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
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
        // What cargo says about this package would look to build scripts like a change of their surroundings, so that
        // half of the dependencies would be built anew, and once more by whoever builds next.
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["CARGO_MANIFEST_", "CARGO_PKG_"].iter().any(|own| name.starts_with(own)) {
                build.env_remove(name);
            }
        }
        // The tests' own program lies in `target/PROFILE/deps`.
        let this = std::env::current_exe().expect("a test knows where it is");
        let profile = this.ancestors().nth(2).expect("a test lies in the target folder");
        // Benchmarks have a profile of their own, which shares the folder of `release`.
        if profile.ends_with("release") {
            build.args(["--profile", "bench"]);
        }
        assert!(build.status().expect("cargo runs").success(), "the program does not build");
        profile.join("potluck")
    })
}

/// The wrapper of rustc, which is built together with the program.
///
/// # Panics
/// When it does not build.
pub fn potluck_rustc() -> PathBuf {
    potluck().with_file_name("potluck-rustc")
}

/// The folder of the toolchain that these tests are compiled with, so that no proxy needs its user's home.
///
/// # Panics
/// When there is none.
pub fn toolchain() -> &'static Path {
    static FOUND: OnceLock<PathBuf> = OnceLock::new();
    FOUND.get_or_init(|| {
        let rustc = std::env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
        let sysroot = Command::new(rustc).args(["--print", "sysroot"]).output().expect("rustc runs");
        PathBuf::from(String::from_utf8(sysroot.stdout).expect("our paths are UTF-8").trim())
    })
}

/// An empty folder for one person: what she runs knows nothing of the machine's user.
pub struct Person {
    folder: TempDir,
    /// The network namespace in which her programs run, if it is not the test's own.
    space: Option<String>,
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
        Self { folder: tempfile::tempdir().expect("a temporary folder can be made"), space: None }
    }

    /// The same, with everything of hers in a network namespace.
    #[must_use]
    pub fn inside(self, space: &str) -> Self {
        Self { space: Some(space.to_owned()), ..self }
    }

    /// Somebody whose folder is in this one, and who has run `potluck init`.
    ///
    /// # Panics
    /// When her folder cannot be made.
    pub fn at_home_in(folder: &Path) -> Self {
        let folder = tempfile::Builder::new().prefix("p").tempdir_in(folder);
        let person = Self { folder: folder.expect("a folder can be made there"), space: None };
        person.run(["init", "--comment", "bench"]).ok();
        person.serve_anywhere();
        person
    }

    /// Somebody who has run `potluck init`.
    pub fn at_home() -> Self {
        let person = Self::new();
        person.run(["init", "--comment", "test"]).ok();
        person.serve_anywhere();
        person
    }

    /// Has her daemon serve tools at any port that is free: many daemons run on a machine that runs tests.
    fn serve_anywhere(&self) {
        self.set("listen = \"127.0.0.1:7117\"", "listen = \"127.0.0.1:0\"");
    }

    /// Has her daemon serve tools at this address.
    ///
    /// # Panics
    /// When her settings are not those of [`Person::at_home`].
    pub fn set_http(&self, address: &str) {
        let path = self.home().join("config.toml");
        let config = std::fs::read_to_string(&path).expect("it has settings");
        let changed = config.replacen("listen = \"127.0.0.1:0\"", &format!("listen = \"{address}\""), 1);
        assert_ne!(changed, config, "the settings have an address");
        std::fs::write(&path, changed).expect("they can be changed");
    }

    /// Puts a setting in the place of a default, which is given as it stands in `config.toml`.
    ///
    /// # Panics
    /// When it does not stand there.
    pub fn set(&self, default: &str, setting: &str) {
        let path = self.home().join("config.toml");
        let config = std::fs::read_to_string(&path).expect("it has settings");
        let changed = config.replacen(&format!("\n# {default}\n"), &format!("\n{setting}\n"), 1);
        assert_ne!(changed, config, "the settings have {default}");
        std::fs::write(&path, changed).expect("they can be changed");
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
        let mut command = self.program(potluck());
        command.args(args);
        self.prepare(&mut command);
        command
    }

    /// A line for the shell, in the same surroundings.
    pub fn shell(&self, line: &str) -> Command {
        let mut command = self.program(Path::new("sh"));
        command.args(["-c", line]);
        self.prepare(&mut command);
        command
    }

    /// Gives a command her folder and nothing but what it needs of the environment.
    fn prepare(&self, command: &mut Command) {
        command.env_clear().env("POTLUCK_HOME", self.home()).env("HOME", self.folder.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        if let Some(filter) = std::env::var_os("POTLUCK_LOG") {
            command.env("POTLUCK_LOG", filter);
        }
        command.current_dir(self.folder.path()).stdin(Stdio::null());
    }

    /// A program where hers run.
    fn program(&self, program: &Path) -> Command {
        let Some(space) = &self.space else { return Command::new(program) };
        let mut command = Command::new("ip");
        command.args(["netns", "exec", space]).arg(program);
        command
    }

    /// cargo, in a folder of hers and with the wrapper, without the network and with what the wrapper did in `log`.
    ///
    /// # Panics
    /// When the compiler's identity cannot be shared with other persons.
    pub fn cargo<S: AsRef<OsStr>>(&self, folder: &Path, args: impl IntoIterator<Item = S>) -> Command {
        let bin = toolchain().join("bin");
        let mut command = Command::new(bin.join("cargo"));
        command.args(args).env_clear().env("POTLUCK_HOME", self.home()).env("HOME", self.folder.path());
        command.env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.env("RUSTC", bin.join("rustc")).env("CARGO_HOME", self.path("cargo"));
        command.env("RUSTC_WRAPPER", potluck_rustc()).env("POTLUCK_RUSTC_LOG", self.path("log"));
        command.env("CARGO_NET_OFFLINE", "true").env("CARGO_INCREMENTAL", "0");
        // Whether something is worth keeping must not depend on how busy this machine is.
        command.env("POTLUCK_LINK_MS_PER_MIB", "0");
        command.current_dir(folder).stdin(Stdio::null());
        // Hashing half a gigabyte for each person would be most of the time of many tests.
        if self.home().is_dir() && !self.home().join("toolchains").exists() {
            let shared = potluck().with_file_name("toolchains");
            std::fs::create_dir_all(&shared).expect("a folder can be made beside the program");
            std::os::unix::fs::symlink(shared, self.home().join("toolchains")).expect("links can be made");
        }
        command
    }

    /// Starts her daemon, and waits until it is ready.
    ///
    /// # Panics
    /// When it does not become ready.
    pub fn daemon(&self) -> Daemon {
        let mut command = self.command(["--json", "up", "--foreground"]);
        let log = std::fs::File::create(self.path("daemon.log")).expect("a file can be made");
        let mut child = command.stdout(Stdio::piped()).stderr(log).spawn().expect("it can be started");
        let mut line = String::new();
        let stdout = child.stdout.take().expect("it was piped");
        BufReader::new(stdout).read_line(&mut line).expect("it can be read");
        assert!(line.contains("\"ready\":true"), "{line}");
        Daemon(child)
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

/// A process that stands still until this is dropped.
pub struct Still(String);

impl Still {
    /// Stops a process.
    ///
    /// # Panics
    /// When there is none.
    pub fn new(pid: String) -> Self {
        let told = Command::new("kill").args(["-STOP", &pid]).status();
        assert!(told.is_ok_and(|told| told.success()), "{pid} is not there");
        let still = Self(pid);
        // Each of its threads stops on its own.
        while !still.is_still() {
            std::thread::yield_now();
        }
        still
    }

    /// Whether it stands still, as it should.
    ///
    /// # Panics
    /// When it is not there any more.
    pub fn is_still(&self) -> bool {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.0)).expect("the process is there");
        stat.rsplit_once(") ").is_some_and(|(_, rest)| rest.starts_with('T'))
    }
}

impl Drop for Still {
    fn drop(&mut self) {
        let _ = Command::new("kill").args(["-CONT", &self.0]).status();
    }
}

impl Up<'_> {
    /// Has it stand still.
    ///
    /// # Panics
    /// When it does not run any more.
    pub fn still(&self) -> Still {
        Still::new(self.ready["pid"].to_string())
    }

    /// Where it listens in a Network, and its identity there.
    ///
    /// # Panics
    /// When it is not in it.
    pub fn at(&self, network: &str) -> (String, String) {
        let network = &self.ready["networks"][network];
        let text = |value: &Value| value.as_str().expect("it is in the network").to_owned();
        (text(&network["listen"][0]), text(&network["peer"]))
    }

    /// Where it serves tools that speak HTTP.
    ///
    /// # Panics
    /// When it does not.
    pub fn http(&self) -> String {
        self.ready["http"].as_str().expect("it serves tools").to_owned()
    }

    /// The sockets by which anybody but the tools of this machine could reach it or be reached, as the kernel lists them:
    /// all but that of [`Up::http`], which is on loopback.
    ///
    /// # Panics
    /// When it does not run any more, or serves tools at an address that others can reach.
    pub fn sockets(&self) -> Vec<String> {
        let pid = &self.ready["pid"];
        let open = std::fs::read_dir(format!("/proc/{pid}/fd")).expect("the process runs");
        let inode = |entry: std::io::Result<std::fs::DirEntry>| {
            let target = std::fs::read_link(entry.ok()?.path()).ok()?.display().to_string();
            Some(target.strip_prefix("socket:[")?.strip_suffix(']')?.to_owned())
        };
        let own: Vec<_> = open.filter_map(inode).collect();
        assert!(!own.is_empty(), "its own in the home, at least");
        let port = self.http().strip_prefix("127.0.0.1:").map(|port| port.parse::<u16>().expect("a port"));
        // As the kernel writes it.
        let tools = format!("0100007F:{:04X}", port.expect("it is on loopback"));
        let mut found = Vec::new();
        for protocol in ["tcp", "tcp6", "udp", "udp6", "raw", "raw6"] {
            let table = std::fs::read_to_string(format!("/proc/{pid}/net/{protocol}")).unwrap_or_default();
            let its = |line: &&str| {
                let fields: Vec<_> = line.split_whitespace().collect();
                own.iter().any(|own| fields.get(9) == Some(&own.as_str()))
                    && fields.get(1) != Some(&tools.as_str())
            };
            found.extend(table.lines().skip(1).filter(its).map(|line| format!("{protocol}: {line}")));
        }
        found
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
        let down = self.person.command(["down"]).output();
        // One that stands still does not hear that. Whoever has its number now has another home.
        let pid = self.ready["pid"].to_string();
        let its = std::fs::read(format!("/proc/{pid}/cmdline")).unwrap_or_default();
        let home = self.person.home();
        let here = its.split(|byte| *byte == 0).any(|word| word == home.as_os_str().as_encoded_bytes());
        if here && !down.is_ok_and(|down| down.status.success()) {
            let _ = Command::new("kill").args(["-9", &pid]).status();
        }
    }
}

/// A daemon, which ends with the test.
pub struct Daemon(Child);

impl Daemon {
    /// Its process.
    pub fn pid(&self) -> u32 {
        self.0.id()
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let _ = self.0.kill().and_then(|()| self.0.wait());
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
