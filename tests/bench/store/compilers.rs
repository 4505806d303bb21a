// SPDX-License-Identifier: MIT OR Apache-2.0
//! What a hit takes a compiler: ccache with C, and with Rust our wrapper beside sccache and its local disk cache.

use std::fs::{self, OpenOptions};
use std::io::Write as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use potluck_tests::cargo::{Checkout, sample};
use potluck_tests::program::{Person, potluck_rustc};
use serde_json::Value;

use crate::measure::{self, Figure, median, ratio, rounds, seconds};
use crate::scratch::{Report, has_program, length, on_disk, remove, scaled};

/// The first argument of the process that runs a compiler and notes how long it took.
pub(crate) const CHILD: &str = "compile";

const ROUNDS: usize = 5;
/// Rounds of whole builds.
const BUILDS: usize = 3;
const KB: f64 = 1e3;

pub(crate) fn ccache(report: &Report) {
    if let Some(missing) = ["ccache", "cc"].into_iter().find(|name| !has_program(name)) {
        report.note(&format!("{missing} is not here"));
        return;
    }
    let count = scaled(60, 6);
    let sources = report.path("c");
    let cache = report.path("cache");
    fs::create_dir_all(&sources).expect("a folder can be made");
    (0..count).for_each(|n| {
        fs::write(sources.join(format!("unit{n}.c")), c_source(n)).expect("a file can be written");
    });
    let compile = |with: &[&str]| {
        seconds(|| {
            for n in 0..count {
                let mut words = with.iter().chain(&["cc"]);
                let mut command = Command::new(words.next().expect("there is a compiler"));
                command.args(words).args([
                    "-O2",
                    "-g",
                    "-c",
                    &format!("unit{n}.c"),
                    "-o",
                    &format!("unit{n}.o"),
                ]);
                // Settings of whoever measures must not count.
                command.env("CCACHE_DIR", &cache).env("CCACHE_CONFIGPATH", cache.join("none"));
                command.env_remove("CCACHE_DISABLE").env_remove("CCACHE_READONLY").current_dir(&sources);
                assert!(command.status().expect("the compiler runs").success());
            }
        }) / count as f64
    };
    let times = rounds(ROUNDS, [&mut || compile(&["ccache"]), &mut || compile(&[])]);
    let [hits, plain] = &times;
    report.note(&format!(
        "{count} generated C files, one after another; our front for ccache does not exist yet"
    ));
    let figure = |name: &str, value| Figure::new(format!("ccache: {name}"), value, ROUNDS);
    let milliseconds = |seconds: &[f64]| (median(seconds.to_vec()) * 1e3, "ms");
    report.figure(&figure("a hit", milliseconds(hits)));
    report.figure(&figure("compiling", milliseconds(plain)));
    report.figure(&figure("cache, on disk", (on_disk(&cache) as f64 / KB, "kB")));
    let is_object = |path: &PathBuf| path.extension().is_some_and(|ext| ext == "o");
    let objects: u64 = crate::scratch::walk(&sources)
        .iter()
        .filter(|path| is_object(path))
        .filter_map(|path| path.metadata().ok())
        .map(|file| file.len())
        .sum();
    report.figure(&figure("its objects, length", (objects as f64 / KB, "kB")));
}

/// A file with some functions, none of which another file has.
fn c_source(n: usize) -> String {
    let mut text = "#include <stdio.h>\n#include <stdlib.h>\n#include <string.h>\n".to_owned();
    for function in 0..40 {
        text += &format!(
            "int f{n}_{function}(const char *s, int k) {{\n  int sum = {function};\n  for (size_t i = 0; i < strlen(s); i++)\n    \
             sum = sum * {} + s[i] % (k + {});\n  if (sum < 0) printf(\"%d in {n}\\n\", sum);\n  return abs(sum);\n}}\n",
            n + 31,
            function + 1
        );
    }
    text
}

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
    /// Starts it on a port of its own, if it is here.
    fn start(folder: &Path) -> Option<Self> {
        let program = std::env::var_os("SCCACHE").map_or_else(|| PathBuf::from("sccache"), PathBuf::from);
        if !has_program(&program.to_string_lossy()) {
            return None;
        }
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
        report.note("sccache is not here, or does not start: set SCCACHE to its program");
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
