// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a hit takes a compiler of Rust: our wrapper beside sccache and its local disk cache.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use potluck_tests::cargo::{Checkout, sample};
use potluck_tests::program::{Person, potluck_rustc};
use potluck_tests::tools;
use serde_json::Value;

use crate::measure::{self, Figure, median, ratio, rounds};
use crate::scratch::{Report, length, on_disk, remove, scaled};

/// The first argument of the process that runs a compiler and notes how long it took.
pub(crate) const CHILD: &str = "compile";

/// Rounds of whole builds.
const BUILDS: usize = 3;
const KB: f64 = 1e3;

/// One way to build the sample.
struct Way {
    name: &'static str,
    checkout: Checkout,
    /// The compiler's wrapper that notes how long another one took.
    timer: PathBuf,
    /// What it noted.
    log: PathBuf,
    env: Vec<(&'static str, PathBuf)>,
}

impl Way {
    fn new(person: &Person, (name, wrapper): (&'static str, Option<&Path>)) -> Self {
        let checkout = Checkout::new(person, &sample(), name);
        let log = person.path(&format!("{name}.times"));
        let timer = person.path(&format!("{name}.timer"));
        let this = std::env::current_exe().expect("a program knows where it is");
        let wrapper = wrapper.map_or_else(String::new, |path| format!("'{}'", path.display()));
        let script =
            format!("#!/bin/sh\nexec '{}' {CHILD} '{}' {wrapper} \"$@\"\n", this.display(), log.display());
        fs::write(&timer, script).expect("a file can be written");
        fs::set_permissions(&timer, fs::Permissions::from_mode(0o755)).expect("it is ours");
        Self { name, checkout, timer, log, env: Vec::new() }
    }

    /// Builds anew; gives how long a library's unit took, as the mean of all in the build.
    fn build(&self, person: &Person) -> f64 {
        remove(&self.log);
        self.checkout.clean();
        let mut cargo = self.checkout.cargo(person);
        cargo
            .arg("--jobs=1")
            .env("RUSTC_WRAPPER", &self.timer)
            .env("POTLUCK_RUSTC_LOG", self.outcomes(person));
        remove(&self.outcomes(person));
        for (name, value) in &self.env {
            cargo.env(name, value);
        }
        let output = cargo.output().expect("cargo runs");
        assert!(output.status.success(), "{}: {}", self.name, String::from_utf8_lossy(&output.stderr));
        let log = fs::read_to_string(&self.log).expect("each call is noted");
        let times: Vec<f64> = log.lines().filter_map(|line| line.parse().ok()).collect();
        times.iter().sum::<f64>() / times.len() as f64
    }

    fn outcomes(&self, person: &Person) -> PathBuf {
        person.path(&format!("{}.outcomes", self.name))
    }
}

/// The server of sccache, which ends with the part.
struct Sccache {
    program: PathBuf,
    cache: PathBuf,
    env: Vec<(&'static str, PathBuf)>,
}

impl Sccache {
    /// Starts it on a port of its own, if it is to be had: `$SCCACHE`, or the one of the tests.
    fn start(folder: &Path) -> Option<Self> {
        let program = std::env::var_os("SCCACHE").map(PathBuf::from).or_else(tools::sccache)?;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let port = free.expect("a port is free").port().to_string();
        let settings = folder.join("sccache.toml");
        fs::write(&settings, "").expect("a file can be written");
        let cache = folder.join("sccache");
        let env = vec![
            ("SCCACHE_SERVER_PORT", PathBuf::from(port)),
            ("SCCACHE_DIR", cache.clone()),
            ("SCCACHE_CONF", settings),
        ];
        let this = Self { program, cache, env };
        let started = this.run("--start-server", &[]);
        started.is_some().then_some(this)
    }

    fn run(&self, verb: &str, args: &[&str]) -> Option<Vec<u8>> {
        let mut command = Command::new(&self.program);
        command.arg(verb).args(args).stdin(Stdio::null()).envs(self.env.iter().cloned());
        let output = command.output().ok()?;
        output.status.success().then_some(output.stdout)
    }

    /// How many hits and misses it has had.
    fn counts(&self) -> (u64, u64) {
        let stats = self.run("--show-stats", &["--stats-format=json"]).unwrap_or_default();
        let stats: Value = serde_json::from_slice(&stats).unwrap_or_default();
        let sum = |what: &str| {
            let counts = stats["stats"][what]["counts"].as_object();
            counts.map_or(0, |counts| counts.values().filter_map(Value::as_u64).sum())
        };
        (sum("cache_hits"), sum("cache_misses"))
    }
}

impl Drop for Sccache {
    fn drop(&mut self) {
        self.run("--stop-server", &[]);
    }
}

pub(crate) fn rustc(report: &Report) {
    let person = Person::at_home_in(report.folder());
    let _daemon = person.daemon();
    let ours = Way::new(&person, ("ours", Some(&potluck_rustc())));
    let plain = Way::new(&person, ("plain", None));
    let sccache = Sccache::start(report.folder());
    let theirs = sccache.as_ref().map(|sccache| {
        let way = Way::new(&person, ("sccache", Some(&sccache.program)));
        Way { env: sccache.env.clone(), ..way }
    });
    let count = scaled(BUILDS, 1);
    let times = rounds(
        count,
        [&mut || ours.build(&person), &mut || plain.build(&person), &mut || {
            theirs.as_ref().map_or(0.0, |way| way.build(&person))
        }],
    );
    let [hits, compiling, others] = &times;
    let figure = |name: &str, value| Figure::new(format!("rustc: {name}"), value, count);
    let milliseconds = |seconds: &[f64]| (median(seconds.to_vec()) * 1e3, "ms");
    report.note(
        "the sample workspace, one unit at a time; a unit's time is the mean over all libraries of a build",
    );
    let outcomes = fs::read_to_string(ours.outcomes(&person)).unwrap_or_default();
    let restored = outcomes.matches("\"outcome\":\"restored\"").count();
    report
        .note(&format!("ours: {restored} of {} units restored in the last build", outcomes.lines().count()));
    report.figure(&figure("a unit's hit, potluck-rustc", milliseconds(hits)));
    report.figure(&figure("a unit compiled", milliseconds(compiling)));
    let kilobytes = |bytes: u64| (bytes as f64 / KB, "kB");
    let store = person.home().join("store");
    report.note("what lies on the disk is of all units that each of them keeps, which are not the same ones");
    report.figure(&figure("our store, on disk", kilobytes(on_disk(&store))));
    report.figure(&figure("our store, its index on disk", kilobytes(on_disk(&store.join("index.redb")))));
    report.figure(&figure("our store, length of its files", kilobytes(length(&store))));
    let Some(sccache) = &sccache else {
        report.note("sccache is not to be had, or does not start: set SCCACHE to its program");
        return;
    };
    let (hit, missed) = sccache.counts();
    report.note(&format!("sccache: {hit} hits, {missed} misses in {} builds", count + 1));
    report.figure(&figure("a unit's hit, sccache", milliseconds(others)));
    report.figure(&figure("potluck-rustc / sccache", (ratio(hits, others), "x")));
    report.figure(&figure("sccache, on disk", kilobytes(on_disk(&sccache.cache))));
    report.figure(&figure("sccache, length of its files", kilobytes(length(&sccache.cache))));
}

/// The process that runs a compiler: LOG COMMAND ARGUMENTS. Notes the seconds when it was a library.
pub(crate) fn child(args: &[String]) -> ! {
    let [log, program, args @ ..] = args else { panic!("a log and a command, not {args:?}") };
    let clock = measure::clock();
    let status = Command::new(program).args(args).status().expect("the compiler can be started");
    let took = clock();
    let kinds = args.windows(2).filter(|pair| pair[0] == "--crate-type");
    let is_library = kinds.into_iter().any(|pair| ["lib", "rlib"].contains(&pair[1].as_str()));
    if is_library {
        let file = OpenOptions::new().append(true).create(true).open(log);
        file.and_then(|mut file| writeln!(file, "{took}")).expect("the log can be written");
    }
    std::process::exit(status.code().unwrap_or(1))
}
