// SPDX-License-Identifier: MIT OR Apache-2.0
//! What was promised about cargo, beside plain cargo and beside sccache, in one run on one project.
//!
//!     cargo bench -p potluck-tests --bench cargo [-- [--json] [--project DIR] [--rounds N] [PART…]]
//!
//! The parts are `passing`, `watching`, `cold` (a build where nothing is known beside plain cargo, and no more) and `builds`
//! (all builds, the cold one among them); without a name it is all but `cold`.
//!
//! What is compared is built in turns; a figure is the median of its rounds, a ratio the median of the rounds' ratios.
//! Processor time is that of cargo with all that it starts, and of the daemon meanwhile. A missed target is printed and
//! fails nothing. Everything lies where temporary files do (`TMPDIR`), and is removed.
//!
//! The project is `tests/sample` unless another one is named, which must have a lock file whose packages have been
//! downloaded. sccache is installed for it; `$SCCACHE` names another one.

// It has verdicts that this benchmark does not need.
#[expect(dead_code, reason = "other benchmarks need the rest of it")]
mod measure;

use std::fs;
use std::io::Read as _;
use std::net::{Ipv4Addr, TcpListener};
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use measure::{Figure, median, ratio, rounds, seconds};
use potluck_node::front::rustc::watch::WATCHER;
use potluck_tests::cargo::sample;
use potluck_tests::circle::{Circle, followed, up};
use potluck_tests::program::{Person, Up, potluck, potluck_rustc, repository, toolchain};
use potluck_tests::tools;
use serde_json::Value;

/// Rounds that count, unless others are asked for; one more comes first.
const ROUNDS: usize = 5;
/// How often a call of the wrapper is measured that does nothing but pass through.
const CALLS: usize = 200;
/// How often something that is watched is measured.
const WATCHED: usize = 15;

/// What one build took.
#[derive(Clone, Copy, Default)]
struct Took {
    wall: f64,
    cpu: f64,
}

/// Seconds of processor time of all children of this process that have ended: proc(5), fields 16 and 17 of stat; or of a
/// process itself, with its own children, fields 14 to 17. The kernel counts in hundredths of a second.
fn spent(process: &str, fields: std::ops::Range<usize>) -> f64 {
    let stat = fs::read_to_string(format!("/proc/{process}/stat")).unwrap_or_default();
    let rest = stat.rsplit_once(')').map_or("", |(_, rest)| rest);
    let numbers: Vec<f64> = rest.split_whitespace().filter_map(|field| field.parse().ok()).collect();
    // The third field is a letter, which is no number.
    fields.filter_map(|field| numbers.get(field - 4)).sum::<f64>() / 100.0
}

/// A checkout of the project, with a cargo home and a target folder of its own.
struct Place {
    sources: PathBuf,
    cargo_home: PathBuf,
    target: PathBuf,
}

impl Place {
    /// Everything that is downloaded is unpacked before anything is measured.
    fn new(top: &Path, name: &str, project: &Path) -> Self {
        let place = Self {
            sources: top.join(name).join("src"),
            // Without spaces, which no flag for a compiler of C can have in it.
            cargo_home: top.join(format!("cargo-of-{}", name.replace('/', "-"))),
            target: top.join(name).join("target"),
        };
        copy(project, &place.sources);
        fs::create_dir_all(place.cargo_home.join("registry")).expect("a folder can be made");
        let users = std::env::var_os("CARGO_HOME").map(PathBuf::from);
        let users = users.or_else(|| Some(PathBuf::from(std::env::var_os("HOME")?).join(".cargo")));
        let users = users.expect("whoever measures has a home");
        for shared in ["registry/cache", "registry/index"] {
            symlink(users.join(shared), place.cargo_home.join(shared)).expect("links can be made");
        }
        let fetched = place.cargo("fetch").output().expect("cargo runs");
        assert!(fetched.status.success(), "{}", String::from_utf8_lossy(&fetched.stderr));
        place
    }

    fn cargo(&self, verb: &str) -> Command {
        let mut cargo = Command::new("cargo");
        cargo.args([verb, "--locked", "--offline", "--quiet"]).current_dir(&self.sources);
        for (name, _) in std::env::vars_os() {
            let name = name.to_string_lossy().into_owned();
            if ["CARGO", "POTLUCK", "SCCACHE", "RUSTC"].iter().any(|own| name.starts_with(own)) {
                cargo.env_remove(name);
            }
        }
        cargo.env("CARGO_HOME", &self.cargo_home).env("CARGO_TARGET_DIR", &self.target);
        cargo.env("CARGO_INCREMENTAL", "0").stdin(Stdio::null());
        cargo
    }

    /// Builds all of it anew.
    fn build(&self, by: &Wrapper<'_>) -> Took {
        if self.target.exists() {
            fs::remove_dir_all(&self.target).expect("it is ours");
        }
        let mut cargo = self.cargo("build");
        let daemon = by.prepare(&mut cargo);
        let all = || {
            let daemon = daemon.as_ref().map_or(0.0, |pid| spent(pid, 14..18));
            spent("self", 16..18) + daemon
        };
        let before = all();
        let mut output = None;
        let wall = seconds(|| output = Some(cargo.output().expect("cargo runs")));
        let output = output.expect("it was run");
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
        Took { wall, cpu: all() - before }
    }
}

/// What stands between cargo and the compiler.
enum Wrapper<'a> {
    Nothing,
    Ours(&'a Person, &'a Up<'a>),
    Sccache(&'a Sccache),
}

impl Wrapper<'_> {
    /// Sets it up; gives the process of a daemon of ours.
    fn prepare(&self, cargo: &mut Command) -> Option<String> {
        match self {
            Self::Nothing => None,
            Self::Ours(person, up) => {
                let _ = fs::remove_file(person.path("units"));
                cargo.env("RUSTC_WRAPPER", potluck_rustc()).env("POTLUCK_HOME", person.home());
                cargo.env("POTLUCK_RUSTC_LOG", person.path("units"));
                Some(up.ready["pid"].to_string())
            }
            Self::Sccache(sccache) => {
                cargo.env("RUSTC_WRAPPER", &sccache.program).envs(sccache.env.iter().cloned());
                None
            }
        }
    }
}

/// The server of sccache.
struct Sccache {
    program: PathBuf,
    env: Vec<(&'static str, PathBuf)>,
}

impl Sccache {
    /// Starts it on a port of its own, if it is to be had.
    fn start(folder: &Path) -> Option<Self> {
        let program = std::env::var_os("SCCACHE").map(PathBuf::from).or_else(tools::sccache)?;
        let free = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).and_then(|listener| listener.local_addr());
        let port = free.expect("a port is free").port().to_string();
        fs::create_dir_all(folder).expect("a folder can be made");
        fs::write(folder.join("settings.toml"), "").expect("a file can be written");
        let env = vec![
            ("SCCACHE_SERVER_PORT", PathBuf::from(port)),
            ("SCCACHE_DIR", folder.join("cache")),
            ("SCCACHE_CONF", folder.join("settings.toml")),
        ];
        let this = Self { program, env };
        this.run(&["--start-server"]).is_some().then_some(this)
    }

    fn run(&self, args: &[&str]) -> Option<Vec<u8>> {
        let mut command = Command::new(&self.program);
        let output = command.args(args).stdin(Stdio::null()).envs(self.env.iter().cloned()).output().ok()?;
        output.status.success().then_some(output.stdout)
    }

    /// How many hits and misses it has had since this was last asked.
    fn counts(&self) -> (u64, u64) {
        let stats = self.run(&["--show-stats", "--stats-format=json"]).unwrap_or_default();
        self.run(&["--zero-stats"]);
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
        self.run(&["--stop-server"]);
    }
}

/// The toolchain's identity is found out once a machine, not once a build.
fn knows_the_toolchain(person: Person) -> Person {
    let shared = potluck().with_file_name("toolchains");
    fs::create_dir_all(&shared).expect("a folder can be made beside the program");
    symlink(shared, person.home().join("toolchains")).expect("links can be made");
    person
}

/// The units of somebody's last build that a cache can hold: how many were restored, and how many were not; and how long
/// the wrapper of each restored one took, in milliseconds.
fn outcomes(person: &Person) -> (usize, usize, Vec<f64>) {
    let text = fs::read_to_string(person.path("units")).unwrap_or_default();
    let rows: Vec<Value> = text.lines().filter_map(|line| serde_json::from_str(line).ok()).collect();
    let of = |outcome: &str| rows.iter().filter(|row| row["outcome"] == outcome).collect::<Vec<_>>();
    let restored = of("restored");
    let took = restored.iter().filter_map(|row| row["ms"].as_f64()).collect();
    (restored.len(), of("compiled").len(), took)
}

/// All builds of one round.
#[derive(Default)]
struct Round {
    plain: Took,
    cold: Took,
    local: Took,
    peer: Took,
    /// sccache: the same folder again, and another checkout.
    same: Option<Took>,
    other: Option<Took>,
    hits: Vec<f64>,
}

/// What stays from round to round.
struct Stage<'a> {
    project: &'a Path,
    top: &'a Path,
    plain: Place,
    cold: Place,
    local: Place,
    peer: Place,
    same: Place,
    ann: &'a Person,
    circle: &'a Circle,
    boot: &'a Up<'a>,
    sccache: Option<Sccache>,
}

impl Stage<'_> {
    fn round(&self, number: usize, say: &impl Fn(&str)) -> Round {
        let mut round = Round { plain: self.plain.build(&Wrapper::Nothing), ..Round::default() };
        {
            let person = knows_the_toolchain(Person::at_home());
            let daemon = person.up(&["--http", "off"]);
            let ours = Wrapper::Ours(&person, &daemon);
            round.cold = self.cold.build(&ours);
            let (restored, compiled, _) = outcomes(&person);
            round.local = self.local.build(&ours);
            let (hits, misses, took) = outcomes(&person);
            round.hits = took;
            say(&format!(
                "round {number}: cold {compiled} compiled and {restored} restored, second checkout {misses} and {hits}"
            ));
        }
        {
            let ben = knows_the_toolchain(self.circle.member(Some(self.ann)));
            let daemon = up(&ben, self.boot);
            followed(&ben, self.ann);
            round.peer = self.peer.build(&Wrapper::Ours(&ben, &daemon));
            let (hits, misses, _) = outcomes(&ben);
            say(&format!("round {number}: from a peer {misses} compiled and {hits} restored"));
        }
        if let Some(sccache) = &self.sccache {
            let theirs = Wrapper::Sccache(sccache);
            sccache.counts();
            round.same = Some(self.same.build(&theirs));
            let same = sccache.counts();
            let place = Place::new(self.top, &format!("deeper/by/far/{number}"), self.project);
            round.other = Some(place.build(&theirs));
            let other = sccache.counts();
            fs::remove_dir_all(self.top.join("deeper/by/far")).expect("it is ours");
            say(&format!(
                "round {number}: sccache, same folder {} misses and {} hits, second checkout {} and {}",
                same.1, same.0, other.1, other.0
            ));
        }
        round
    }
}

/// A build where nothing is known, beside plain cargo. Which of the two comes first changes from round to round.
fn cold(project: &Path, count: usize, say: &impl Fn(&str)) -> Vec<Figure> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let place = |name: &str| Place::new(folder.path(), name, project);
    let (plain, cold) = (place("plain"), place("cold"));
    let with = || {
        let person = knows_the_toolchain(Person::at_home());
        let daemon = person.up(&["--http", "off"]);
        let took = cold.build(&Wrapper::Ours(&person, &daemon));
        (took, outcomes(&person).1)
    };
    let mut all = Vec::new();
    for number in 0..=count {
        let first = (number % 2 == 0).then(|| plain.build(&Wrapper::Nothing));
        let (cold, compiled) = with();
        let plain = first.unwrap_or_else(|| plain.build(&Wrapper::Nothing));
        say(&format!(
            "round {number}: {compiled} compiled, {:.2} s beside {:.2} s, processor {:.2} s beside {:.2} s",
            cold.wall, plain.wall, cold.cpu, plain.cpu
        ));
        all.push(Round { plain, cold, ..Round::default() });
    }
    // The first one warms memory and caches.
    all.remove(0);
    of_cold(&all)
}

/// What of the figures is about the cold build.
fn of_cold(all: &[Round]) -> Vec<Figure> {
    let of = |took: fn(&Round) -> f64| all.iter().map(took).collect::<Vec<_>>();
    let (plain, plain_cpu) = (of(|round| round.plain.wall), of(|round| round.plain.cpu));
    let (cold, cold_cpu) = (of(|round| round.cold.wall), of(|round| round.cold.cpu));
    let figure = |name: &str, value, unit| Figure::new(name, (value, unit), all.len());
    let time = |name: &str, seconds: &[f64]| figure(name, median(seconds.to_vec()), "s");
    let share = |name: &str, part: &[f64], of: &[f64]| figure(name, ratio(part, of), "x").at_most(1.02);
    vec![
        time("plain cargo, cold", &plain),
        time("plain cargo, cold, processor", &plain_cpu),
        time("potluck, cold", &cold),
        time("potluck, cold, processor with the daemon's", &cold_cpu),
        share("potluck, cold / plain", &cold, &plain),
        share("potluck, cold / plain, processor", &cold_cpu, &plain_cpu),
    ]
}

fn builds(project: &Path, count: usize, say: &impl Fn(&str)) -> Vec<Figure> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let circle = Circle::new();
    let boot = circle.up();
    let ann = knows_the_toolchain(circle.member(None));
    let hers = up(&ann, &boot);
    let place = |name: &str| Place::new(folder.path(), name, project);
    // She has built before anything is measured.
    place("ann/s").build(&Wrapper::Ours(&ann, &hers));
    let stage = Stage {
        project,
        top: folder.path(),
        plain: place("plain"),
        cold: place("cold"),
        local: place("some/where/deep/down"),
        peer: place("home/of/ben"),
        same: place("same"),
        ann: &ann,
        circle: &circle,
        boot: &boot,
        sccache: Sccache::start(&folder.path().join("sccache")),
    };
    match &stage.sccache {
        Some(sccache) => drop(stage.same.build(&Wrapper::Sccache(sccache))),
        None => say("sccache is not here, or does not start: set SCCACHE to its program"),
    }
    let mut all: Vec<_> = (0..=count).map(|number| stage.round(number, say)).collect();
    // The first one warms memory and caches.
    all.remove(0);
    figures(&all)
}

fn figures(all: &[Round]) -> Vec<Figure> {
    let count = all.len();
    let of = |took: fn(&Round) -> f64| all.iter().map(took).collect::<Vec<_>>();
    let plain = of(|round| round.plain.wall);
    let (local, peer) = (of(|round| round.local.wall), of(|round| round.peer.wall));
    let figure = |name: &str, value, unit| Figure::new(name, (value, unit), count);
    let time = |name: &str, seconds: &[f64]| figure(name, median(seconds.to_vec()), "s");
    // How many times as long as `of` it took.
    let share = |name: &str, part: &[f64], of: &[f64]| figure(name, ratio(part, of), "x");
    let mut hits: Vec<f64> = all.iter().flat_map(|round| round.hits.clone()).collect();
    hits.sort_by(f64::total_cmp);
    let at = |percent: usize| hits.get(hits.len() * percent / 100).copied().unwrap_or(f64::NAN);
    let mut figures = of_cold(all);
    figures.extend([
        time("second checkout, from the local store", &local),
        share("second checkout, from the local store / plain", &local, &plain),
        time("second checkout, from a peer", &peer),
        share("second checkout, from a peer / plain", &peer, &plain).at_most(0.25),
        figure("wrapper of a local hit, p50", at(50), "ms"),
        figure("wrapper of a local hit, p90", at(90), "ms"),
    ]);
    let theirs = |took: fn(&Round) -> Option<Took>| -> Option<Vec<f64>> {
        all.iter().map(|round| Some(took(round)?.wall)).collect()
    };
    if let Some((same, other)) = theirs(|round| round.same).zip(theirs(|round| round.other)) {
        figures.extend([
            time("sccache, same folder, its best case", &same),
            share("sccache, same folder / plain", &same, &plain),
            time("sccache, second checkout", &other),
            share("sccache, second checkout / plain", &other, &plain),
            share("second checkout: local store / sccache's best", &local, &same).at_most(0.7),
            share("second checkout: peer / sccache's best", &peer, &same).at_most(0.7),
        ]);
    }
    figures
}

/// What the wrapper costs where it is of no use, beside calling a compiler that does nothing.
fn passing() -> Vec<Figure> {
    let person = Person::at_home();
    let folder = person.path("unit");
    fs::create_dir_all(folder.join("target/debug/deps")).expect("a folder can be made");
    fs::create_dir_all(folder.join("src")).expect("a folder can be made");
    for (name, text) in [("target/CACHEDIR.TAG", ""), ("Cargo.toml", ""), ("src/lib.rs", "")] {
        fs::write(folder.join(name), text).expect("a file can be written");
    }
    let rustc = person.path("rustc");
    fs::copy("/bin/true", &rustc).expect("the system has a program that does nothing");
    let out = folder.join("target/debug/deps");
    let call = |wrapper: Option<&Path>, more: &[&str]| {
        let mut command = Command::new(wrapper.unwrap_or(&rustc));
        if wrapper.is_some() {
            command.arg(&rustc);
        }
        command.args(
            "--crate-name app --edition=2021 src/lib.rs --error-format=json --crate-type lib".split(' '),
        );
        command.args("--emit=dep-info,metadata,link -C metadata=1 -C extra-filename=-1".split(' '));
        command.arg("--out-dir").arg(&out).args(more).current_dir(&folder).stdin(Stdio::null());
        command.env("POTLUCK_HOME", person.home()).env("CARGO_MANIFEST_DIR", &folder);
        assert!(command.status().expect("it runs").success());
    };
    let wrapper = potluck_rustc();
    let incremental = format!("incremental={}", folder.join("target/debug/incremental").display());
    let [plain, not_cached, no_daemon] = rounds(
        CALLS,
        [
            &mut || seconds(|| call(None, &[])),
            &mut || seconds(|| call(Some(&wrapper), &["-C", &incremental])),
            &mut || seconds(|| call(Some(&wrapper), &[])),
        ],
    );
    let more = |name: &str, with: &[f64]| {
        let more = with.iter().zip(&plain).map(|(with, plain)| (with - plain) * 1e3);
        Figure::new(name, (median(more.collect()), "ms"), CALLS).at_most(3.0)
    };
    vec![
        more("passing through a unit that is not cached", &not_cached),
        more("passing through where no daemon is", &no_daemon),
    ]
}

/// What watching costs: a compilation, and a program that does nothing but ask the file system.
fn watching() -> Vec<Figure> {
    let folder = tempfile::tempdir().expect("a temporary folder can be made");
    let source = folder.path().join("lib.rs");
    let functions = (0..400).map(|n| format!("pub fn f{n}(x: u64) -> String {{ format!(\"{{x}} {n}\") }}\n"));
    fs::write(&source, functions.collect::<String>()).expect("a file can be written");
    let rustc = toolchain().join("bin/rustc").display().to_string();
    let compile = [&rustc, "--crate-type=lib", "--out-dir", &folder.path().display().to_string()];
    let compile: Vec<String> =
        compile.iter().map(|word| (*word).to_owned()).chain([source.display().to_string()]).collect();
    let ask: Vec<String> = ["/bin/sh", "-c", "i=0; while [ $i -lt 2000 ]; do [ -e /x$i ]; i=$((i+1)); done"]
        .map(str::to_owned)
        .to_vec();
    let plainly = |words: &[String]| {
        let status = Command::new(&words[0]).args(&words[1..]).stdin(Stdio::null()).status();
        assert!(status.expect("it runs").success());
    };
    let [compiled, compiled_watched, asked, asked_watched] = rounds(
        WATCHED,
        [
            &mut || seconds(|| plainly(&compile)),
            &mut || seconds(|| watched(folder.path(), &compile)),
            &mut || seconds(|| plainly(&ask)),
            &mut || seconds(|| watched(folder.path(), &ask)),
        ],
    );
    let share =
        |name: &str, with: &[f64], plain: &[f64]| Figure::new(name, (ratio(with, plain), "x"), WATCHED);
    let added: Vec<f64> =
        asked_watched.iter().zip(&asked).map(|(with, plain)| (with - plain) * 1e6 / 2000.0).collect();
    vec![
        share("a compilation, watched / not", &compiled_watched, &compiled),
        Figure::new("one question to the file system, watched, more", (median(added), "us"), WATCHED),
    ]
}

/// Runs something as the wrapper runs build scripts and macros, and reads what was seen.
fn watched(folder: &Path, words: &[String]) {
    let socket = folder.join("socket");
    let _ = fs::remove_file(&socket);
    let listener = UnixListener::bind(&socket).expect("a socket can be made");
    let mut watcher = Command::new(potluck_rustc());
    watcher.arg(WATCHER).arg(&socket).arg("0").args(words).stdin(Stdio::null());
    let mut child = watcher.spawn().expect("the watcher can be started");
    let (mut stream, _) = listener.accept().expect("the watcher reports");
    let mut report = Vec::new();
    stream.read_to_end(&mut report).expect("the report can be read");
    assert!(!report.is_empty(), "nothing was seen");
    child.wait().expect("it ends");
}

/// Without what was built.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).expect("a folder can be made");
    for entry in fs::read_dir(from).expect("the project can be read") {
        let entry = entry.expect("the project can be read");
        let (path, target) = (entry.path(), to.join(entry.file_name()));
        let kind = entry.file_type().expect("the project can be read");
        if kind.is_dir() {
            if entry.file_name() != ".git" && !path.join("CACHEDIR.TAG").exists() {
                copy(&path, &target);
            }
        } else if kind.is_file() {
            fs::copy(&path, &target).expect("a file can be copied");
        }
    }
}

/// The word after this one.
fn option(args: &[String], name: &str) -> Option<String> {
    let at = args.iter().position(|arg| arg == name)?;
    Some(args.get(at + 1).unwrap_or_else(|| panic!("{name} wants a value")).clone())
}

#[expect(clippy::print_stdout, reason = "the answer of a benchmark")]
fn main() {
    let args: Vec<String> = std::env::args().skip(1).collect();
    // `cargo test --benches` only wants to see that it builds.
    if !args.iter().any(|arg| arg == "--bench") {
        return;
    }
    let json = args.iter().any(|arg| arg == "--json");
    let project = option(&args, "--project").map_or_else(sample, |folder| repository().join(folder));
    assert!(project.join("Cargo.lock").is_file(), "{} has no Cargo.lock", project.display());
    let count = option(&args, "--rounds").map_or(ROUNDS, |count| count.parse().expect("a number of rounds"));
    let say = |line: &str| {
        if json {
            println!("{}", serde_json::json!({ "v": 1, "note": line }));
        } else {
            println!("# {line}");
        }
    };
    say(&format!("{}, {count} rounds", project.display()));
    let parts = ["passing", "watching", "cold", "builds"];
    let named: Vec<_> = parts.into_iter().filter(|part| args.iter().any(|arg| arg == part)).collect();
    let wanted = if named.is_empty() { vec!["passing", "watching", "builds"] } else { named };
    for part in wanted {
        let figures = match part {
            "passing" => passing(),
            "watching" => watching(),
            "cold" => cold(&project, count, &say),
            _ => builds(&project, count, &say),
        };
        figures.iter().for_each(|figure| figure.print(json));
    }
}
