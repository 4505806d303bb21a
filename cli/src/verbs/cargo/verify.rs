// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck cargo verify`: makes a sample of what came from the cache once more, and compares.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use clap::Args as ClapArgs;
use potluck_node::front::rustc::diary::{self, Build, Row};
use potluck_node::home::Home;
use potluck_protocol::codec::Text;
use potluck_protocol::control::{Doubt, Job};
use serde_json::{Value, json};

use super::{Which, claims, title, unit};
use crate::connect::{daemon, wait};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::{Say, counted};

/// Most bytes of the log of such a build.
const MAX_LOG: u64 = 64 << 20;

/// Compile a sample of what the last build took from the cache, and compare
///
/// Builds the same once more in a temporary target folder, where the sample is compiled and all else restored. What
/// differs, and is the same when it is made here twice, is not believed any more, whoever signed it: `potluck why` and
/// `potluck audit` show it. For example: `potluck cargo verify --sample 20`
#[derive(Debug, ClapArgs)]
pub(super) struct Verify {
    #[command(flatten)]
    which: Which,
    /// How many units are compiled
    #[arg(long, value_name = "N", default_value_t = 10)]
    sample: usize,
    /// Only report what differs: go on believing it
    #[arg(long)]
    keep: bool,
}

impl Verify {
    pub(super) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let build = self.which.read(home)?;
        let sample = sample(&build, self.sample);
        if sample.is_empty() {
            return Err(Failure::new(Exit::NotFound, "nothing of that build came from the cache"));
        }
        say.note(&format!(
            "verifying {} of {}",
            counted(sample.len() as u64, "unit", "units"),
            title(&build)
        ));
        let rows = again(home, &build, &sample)?;
        let checked: Vec<_> =
            rows.iter().filter(|row| row.key.as_ref().is_some_and(|key| sample.contains(key))).collect();
        let of =
            |outcome: &str| checked.iter().filter(|row| row.outcome == outcome).copied().collect::<Vec<_>>();
        let wrong = of("mismatch");
        let named = if wrong.is_empty() { Vec::new() } else { wait(doubt(home, &wrong, self.keep))? };
        let (same, differing, unknown) = (of("verified").len(), of("irreproducible"), of("unverified"));
        let missed = sample.len() - same - differing.len() - unknown.len() - wrong.len();
        let mut text = format!("{same} of {} are what is made here", sample.len());
        let mut list = |what: &str, rows: &[&Row]| {
            for row in rows {
                text += &format!("\n{what}: {}: {}", unit(row), row.reason.as_deref().unwrap_or_default());
            }
        };
        list("differs each time it is made", &differing);
        list("cannot be compared", &unknown);
        list("WRONG", &wrong);
        for claim in &named {
            let what = if self.keep { "is still believed" } else { "is not believed any more" };
            text +=
                &format!("\n  the claim {} of {} {what}", word(&claim["entry"]), names(&claim["signers"]));
        }
        if missed > 0 {
            text += &format!("\n{missed} were not reached: their keys are others now");
        }
        let units = |rows: &[&Row]| {
            rows.iter()
                .map(|row| json!({ "unit": unit(row), "key": row.key, "reason": row.reason }))
                .collect::<Vec<_>>()
        };
        let object = json!({
            "sample": sample.len(), "verified": same, "irreproducible": units(&differing),
            "unverified": units(&unknown), "mismatches": units(&wrong), "doubted": named, "not_reached": missed,
        });
        say.answer(&text, object)?;
        Ok(if wrong.is_empty() { Exit::Done } else { Exit::Failed })
    }
}

/// The keys of some units that came from the cache, evenly spread over the build.
fn sample(build: &Build, wanted: usize) -> Vec<String> {
    let hits = build.rows.iter().filter(|row| row.outcome == "restored");
    let keys: Vec<_> = hits.filter_map(|row| row.key.clone()).collect();
    let wanted = wanted.min(keys.len());
    // Not the same each time: which one comes first is told by when the build began.
    let turn = usize::try_from(build.header.at_ms).unwrap_or(0) % keys.len().max(1);
    (0..wanted).map(|at| keys[(turn + at * keys.len() / wanted) % keys.len()].clone()).collect()
}

/// Builds the same in another target folder, with these keys compiled.
fn again(home: &Home, build: &Build, keys: &[String]) -> Result<Vec<Row>, Failure> {
    let temporary =
        tempfile::tempdir().map_err(|error| Failure::failed(format!("no temporary folder: {error}")))?;
    let mut cargo = command(build)?;
    cargo.env("CARGO_TARGET_DIR", temporary.path().join("target")).env("POTLUCK_VERIFY", named(keys));
    run(home, cargo, &temporary.path().join("log"))
}

/// These keys for the wrapper: sixteen digits are enough, and an environment has only so much room.
pub(super) fn named(keys: &[String]) -> String {
    keys.iter().map(|key| key.get(..16).unwrap_or(key)).collect::<Vec<_>>().join(",")
}

/// Runs a build through the wrapper; gives what became of its units.
pub(super) fn run(home: &Home, mut cargo: Command, log: &Path) -> Result<Vec<Row>, Failure> {
    cargo.env("RUSTC_WRAPPER", wrapper()?).env("POTLUCK_HOME", home.root()).env("POTLUCK_RUSTC_LOG", log);
    cargo.env_remove("POTLUCK_OFF").stdin(Stdio::null()).stdout(Stdio::null());
    let ran = cargo.output().map_err(|error| Failure::failed(format!("cannot run cargo: {error}")))?;
    if !ran.status.success() {
        let said = String::from_utf8_lossy(&ran.stderr);
        let last = said.lines().rev().take(8).collect::<Vec<_>>();
        let last = last.into_iter().rev().collect::<Vec<_>>().join("\n");
        return Err(Failure::failed(format!("the build failed:\n{last}")));
    }
    let failed = |error: std::io::Error| Failure::failed(format!("the wrapper has kept no log: {error}"));
    if std::fs::metadata(log).map_err(failed)?.len() > MAX_LOG {
        return Err(Failure::failed("the log of the build is too long"));
    }
    let mut text = b"{}\n".to_vec();
    text.extend(std::fs::read(log).map_err(failed)?);
    Ok(diary::parse("", &text).rows)
}

/// The wrapper, which lies beside this program.
pub(super) fn wrapper() -> Result<PathBuf, Failure> {
    let this = std::env::current_exe().map_err(|error| Failure::failed(error.to_string()))?;
    let wrapper = this.with_file_name("potluck-rustc");
    if wrapper.is_file() {
        Ok(wrapper)
    } else {
        Err(Failure::failed(format!("{} is not there", wrapper.display())))
    }
}

/// What cargo was called with, without running anything.
fn command(build: &Build) -> Result<Command, Failure> {
    let (program, args) = build
        .header
        .command
        .split_first()
        .ok_or_else(|| Failure::failed("it is not known what cargo was called with"))?;
    let args = arguments(args).ok_or_else(|| {
        Failure::failed(format!(
            "cargo was called with {:?}, which builds nothing that is known",
            args.join(" ")
        ))
    })?;
    let mut command =
        if Path::new(program).is_file() { Command::new(program) } else { Command::new("cargo") };
    command.args(args).current_dir(&build.header.folder);
    if let Some(toolchain) = &build.header.toolchain {
        command.env("RUSTUP_TOOLCHAIN", toolchain);
    }
    Ok(command)
}

/// The same arguments for a build of the same units.
fn arguments(args: &[String]) -> Option<Vec<String>> {
    let own = args.iter().take_while(|arg| *arg != "--");
    let mut own: Vec<_> = own.filter(|arg| !arg.starts_with('+')).cloned().collect();
    if let Some(at) = own.iter().position(|arg| arg == "--target-dir") {
        own.drain(at..(at + 2).min(own.len()));
    }
    own.retain(|arg| !arg.starts_with("--target-dir="));
    let at = own.iter().position(|arg| !arg.starts_with('-'))?;
    match own[at].as_str() {
        "build" | "b" | "check" | "c" | "clippy" | "rustc" => {}
        "run" | "r" => "build".clone_into(&mut own[at]),
        "test" | "t" | "bench" => own.push("--no-run".to_owned()),
        _ => return None,
    }
    Some(own)
}

/// Has the daemon doubt the claims that the cache went by; gives them.
async fn doubt(home: &Home, rows: &[&Row], keep: bool) -> Result<Vec<Value>, Failure> {
    let claimed = claims(home, rows, false).await?;
    let client = daemon(home).await?;
    let mut named = Vec::new();
    for row in rows {
        let file = row.reason.as_deref().unwrap_or_default();
        let reason = format!("{file} of {} came out differently here", unit(row));
        let reason: String = reason.chars().take(200).collect();
        let reason = Text::new(&reason).or_else(|| Text::new("it came out differently here"));
        let claims = row.key.as_ref().and_then(|key| claimed.get(key)).into_iter().flatten();
        for claim in claims.filter(|claim| claim["output"].as_str() == row.output.as_deref()) {
            let (entry, action) = (word(&claim["entry"]).parse(), word(&claim["action"]).parse());
            if let (Ok(entry), Ok(action), false) = (entry, action, keep) {
                client.work(Job::Doubt(Doubt { entry, action, reason: reason.clone() }), |_| ()).await?;
            }
            named.push(claim.clone());
        }
    }
    Ok(named)
}

fn word(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}

fn names(value: &Value) -> String {
    value.as_array().into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().join(", ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_run_becomes_what_is_built() {
        let of = |line: &str| {
            let words: Vec<_> = line.split(' ').map(str::to_owned).collect();
            arguments(&words).map(|args| args.join(" "))
        };
        for (line, expected) in [
            ("build --release", Some("build --release")),
            ("+nightly run --target-dir x -p app -- --flag", Some("build -p app")),
            ("test --workspace --target-dir=y", Some("test --workspace --no-run")),
            ("install ripgrep", None),
            ("--list", None),
        ] {
            assert_eq!(of(line).as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn a_sample_is_spread_over_the_build_and_holds_nothing_twice() {
        let row = |number: usize| Row {
            key: Some(number.to_string()),
            outcome: if number.is_multiple_of(2) { "restored" } else { "compiled" }.to_owned(),
            ..Row::default()
        };
        let build = Build {
            name: String::new(),
            header: Default::default(),
            rows: (0..100).map(row).collect(),
            unreadable: 0,
        };
        for wanted in [1, 7, 50, 200] {
            let keys = sample(&build, wanted);
            let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
            assert_eq!((keys.len(), distinct.len()), (wanted.min(50), wanted.min(50)));
            assert!(keys.iter().all(|key| key.parse::<usize>().unwrap().is_multiple_of(2)));
        }
    }
}
