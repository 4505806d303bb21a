// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck demo`: the whole of it, on one machine, in a minute. ann builds and publishes; ben, elsewhere, builds from
//! what she made; mallory's claims about the same keys are refused. All of them are processes with homes of their own,
//! and ben knows nothing but a bootstrap peer.

mod build;
mod mallory;
mod person;
mod process;
mod report;
mod sample;

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args as ClapArgs;
use indicatif::{ProgressBar, ProgressStyle};
use potluck_node::network::Network;
use serde_json::Value;
use tempfile::TempDir;

use self::build::{Bench, Built, Through, Unit, units};
use self::person::{Person, folder};
use self::report::{Outcome, Programs, Refused, Units};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;
use crate::signal::stopped;

/// The Network of the demonstration.
const NETWORK: &str = "demo";
/// Its Project.
const PROJECT: &str = "demo";
/// Longest run of a program that was built.
const RUN: Duration = Duration::from_secs(20);

/// See it work: one developer builds, another one builds from what she made, a third one is refused
///
/// Builds a small workspace of about eighty packages, or the one at PATH, three times in temporary folders: by plain
/// cargo; as ann, who publishes; and as ben, in another folder with another cargo home, who trusts ann and has never
/// heard her address. Nothing leaves this machine, and nothing stays on it.
#[derive(Debug, ClapArgs)]
pub(crate) struct Demo {
    /// A cargo project of your own
    path: Option<PathBuf>,

    /// Keep the folders, and say where they are
    #[arg(long)]
    keep: bool,
}

impl Demo {
    pub(crate) fn run(&self, say: &mut Say) -> Result<Exit, Failure> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
        let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
        let place = tempfile::Builder::new().prefix("potluck-demo-").tempdir();
        let mut place = place.map_err(|error| Failure::failed(format!("cannot make a folder: {error}")))?;
        place.disable_cleanup(self.keep);
        if self.keep {
            say.note(&format!("The folders are in {}", place.path().display()));
        }
        // Whatever ends first, all that was started ends with it: processes when their owners are dropped, and the
        // folder afterwards.
        let outcome = runtime.block_on(async {
            tokio::select! {
                outcome = Stage::play(self.path.as_deref(), &place, say) => outcome,
                () = stopped() => Err(Failure::failed("stopped; everything that was started has ended")),
            }
        });
        drop(runtime);
        drop(place);
        let outcome = outcome?;
        say.answer(&outcome.table(), outcome.json())?;
        self.verdict(&outcome)
    }

    /// Whether it went as promised.
    fn verdict(&self, outcome: &Outcome) -> Result<Exit, Failure> {
        if outcome.programs.same_text == Some(false) {
            return Err(Failure::failed("ben's program prints something else than ann's"));
        }
        if outcome.ben.1.restored == 0 {
            return Err(Failure::failed("ben restored nothing"));
        }
        if outcome.poisoned > 0 && !outcome.refused.iter().any(|refused| refused.who == "mallory") {
            return Err(Failure::failed("mallory's claims were not met, so nothing was shown about them"));
        }
        if self.path.is_none() && (outcome.share() < 0.9 || !outcome.programs.identical) {
            return Err(Failure::failed("this machine builds the sample in a way that is not expected")
                .hint("`potluck demo --keep` keeps what each of the three has built"));
        }
        Ok(Exit::Done)
    }
}

/// Where it is played, and by whom.
struct Stage<'a> {
    folder: &'a Path,
    say: &'a mut Say,
    boot: Person,
    ann: Person,
    ben: Person,
    mallory: Person,
}

impl<'a> Stage<'a> {
    /// Plays all of it.
    async fn play(path: Option<&Path>, place: &'a TempDir, say: &'a mut Say) -> Result<Outcome, Failure> {
        let folder = place.path();
        let benches = furnish(path, folder, say).await?;
        let mut stage = Self::set(folder, say)?;
        let plain = stage.built("plain cargo", &benches.plain, None).await?;
        stage.up().await?;
        let expect = Some(plain.artifacts);
        let ann = stage.built("ann builds and publishes", &benches.ann, expect).await?;
        let ann_units = units(&log(folder, "ann"))?;
        for line in report::unpublished(&ann_units) {
            stage.say.note(&format!("    not published: {line}"));
        }
        let poisoned = stage.poison(&ann_units).await?;
        stage.follow(&ann_units).await?;
        let ben = stage.built("ben builds from ann", &benches.ben, expect).await?;
        let status = stage.ben.status().await?;
        let outcome = Outcome {
            plain: plain.took,
            ann: (ann.took, Units::of(&ann_units)),
            ben: (ben.took, Units::of(&units(&log(folder, "ben"))?)),
            fetched: status["bytes_fetched"].as_u64().unwrap_or(0),
            poisoned,
            refused: stage.refused(&status),
            programs: compare(&ann, &ben, if path.is_none() { &[] } else { &["--help"] }).await?,
        };
        for person in [&mut stage.ben, &mut stage.mallory, &mut stage.ann, &mut stage.boot] {
            person.down().await;
        }
        Ok(outcome)
    }

    /// Makes the homes, the Network, and the trust: ben and mallory believe ann, and nobody believes mallory.
    fn set(folder: &'a Path, say: &'a mut Say) -> Result<Self, Failure> {
        let mut network = Network::new(NETWORK, false)?;
        let boot = Person::new("boot", folder, &network)?;
        network.share.insert(PROJECT.to_owned());
        let ann = Person::new("ann", folder, &network)?;
        let ben = Person::new("ben", folder, &network)?;
        let mallory = Person::new("mallory", folder, &network)?;
        ben.trusts(&ann)?;
        mallory.trusts(&ann)?;
        Ok(Self { folder, say, boot, ann, ben, mallory })
    }

    /// Starts the daemons.
    async fn up(&mut self) -> Result<(), Failure> {
        self.boot.up(None).await?;
        let address = self.boot.address().to_owned();
        for person in [&mut self.ann, &mut self.ben, &mut self.mallory] {
            person.up(Some(&address)).await?;
        }
        for person in [&self.ann, &self.ben, &self.mallory] {
            person.until("the bootstrap peer", |status| !list(&status["peers"]).is_empty()).await?;
        }
        self.done("four nodes are up: a bootstrap peer, ann, ben, mallory", None);
        Ok(())
    }

    /// Builds on a bench, through somebody's cache or through none.
    async fn built(&mut self, what: &str, bench: &Bench, expect: Option<u64>) -> Result<Built, Failure> {
        let person = [&self.ann, &self.ben].into_iter().find(|person| Some(person.name) == bench.who);
        let through = match person {
            None => None,
            Some(person) => {
                let home = person.home.root().to_owned();
                let wrapper = std::env::current_exe();
                let wrapper =
                    wrapper.map_err(|error| Failure::failed(format!("cannot find this program: {error}")))?;
                Some(Through { wrapper, home, project: PROJECT, log: log(self.folder, person.name) })
            }
        };
        let bar = self.bar(what, expect);
        let built = bench.build(through.as_ref(), |count, name| {
            bar.set_position(count);
            bar.set_message(name.to_owned());
        });
        let built = built.await;
        bar.finish_and_clear();
        let built = built?;
        self.done(what, Some(built.took));
        Ok(built)
    }

    /// Has mallory claim altered outputs under ann's keys.
    async fn poison(&mut self, units: &[Unit]) -> Result<usize, Failure> {
        let published = published(units);
        let bar = self.bar("mallory alters what ann has made", None);
        self.mallory.until("ann's catalog", |status| lists(status, "ann", published)).await?;
        let claimed = mallory::poison(&self.mallory.door().await?, units).await?;
        bar.finish_and_clear();
        self.done(&format!("mallory claims altered outputs under {claimed} of ann's keys"), None);
        Ok(claimed)
    }

    /// Waits until ben has found ann's Catalog by the DHT, and mallory as one who says that she has what ann made.
    async fn follow(&mut self, units: &[Unit]) -> Result<(), Failure> {
        let published = published(units);
        let bar = self.bar("ben looks for ann's catalog", None);
        self.ben.until("ann's catalog", |status| lists(status, "ann", published)).await?;
        bar.finish_and_clear();
        self.done("ben has found ann's catalog by the DHT", None);
        Ok(())
    }

    /// What ben refused, with the names of the play instead of keys.
    fn refused(&self, status: &Value) -> Vec<Refused> {
        let people = [&self.ann, &self.ben, &self.mallory, &self.boot];
        let rows = status["refused"].as_array().map(Vec::as_slice).unwrap_or_default();
        rows.iter()
            .map(|row| {
                let who = row["who"].as_str().unwrap_or_default();
                let person = people.iter().find(|person| person.is_called(who));
                Refused {
                    reason: row["reason"].as_str().unwrap_or_default().to_owned(),
                    who: person.map_or_else(|| who.to_owned(), |person| person.name.to_owned()),
                    count: row["count"].as_u64().unwrap_or(0),
                }
            })
            .collect()
    }

    fn bar(&self, what: &str, expect: Option<u64>) -> ProgressBar {
        bar(self.say, what, expect)
    }

    fn done(&mut self, what: &str, took: Option<Duration>) {
        let took = took.map_or_else(String::new, |took| format!("  {:.1} s", took.as_secs_f64()));
        self.say.note(&format!("  ✓ {what}{took}"));
    }
}

/// A line that shows that something is going on, on a terminal.
fn bar(say: &Say, what: &str, expect: Option<u64>) -> ProgressBar {
    if !say.is_talkative() {
        return ProgressBar::hidden();
    }
    let (bar, form) = match expect {
        Some(count) => (ProgressBar::new(count), "  {spinner} {prefix}  {pos}/{len} {wide_msg:.dim}"),
        None => (ProgressBar::new_spinner(), "  {spinner} {prefix}  {wide_msg:.dim}"),
    };
    let style = ProgressStyle::with_template(form).unwrap_or_else(|_| ProgressStyle::default_spinner());
    bar.set_style(style);
    bar.set_prefix(what.to_owned());
    bar.enable_steady_tick(Duration::from_millis(100));
    bar
}

/// Where the three builds happen.
struct Benches {
    plain: Bench,
    ann: Bench,
    ben: Bench,
}

/// Puts the sources into three places, and downloads what they need, before anything is measured.
async fn furnish(path: Option<&Path>, at: &Path, say: &mut Say) -> Result<Benches, Failure> {
    let bar = bar(say, "packages are downloaded and unpacked", None);
    let cannot = |error: std::io::Error| Failure::failed(format!("cannot copy the project: {error}"));
    let sources = folder(at, "plain", "work");
    match path {
        None => sample::write(&sources).map_err(cannot)?,
        Some(path) => {
            let root = build::workspace(path).await?;
            let to = sources.clone();
            potluck_node::observe::span::blocking(move || build::copy(&root, &to)).await.map_err(cannot)?;
        }
    }
    build::download(&sources).await?;
    let bench = |name: &'static str, sources: &str, target: &str| Bench {
        who: (name != "plain").then_some(name),
        sources: folder(at, name, sources),
        cargo_home: folder(at, name, "cargo"),
        target: folder(at, name, target),
    };
    let benches = Benches {
        plain: bench("plain", "work", "work/target"),
        ann: bench("ann", "src/project", "src/project/target"),
        ben: bench("ben", "some/other/place/far/down", "elsewhere"),
    };
    for other in [&benches.ann, &benches.ben] {
        build::copy(&sources, &other.sources).map_err(cannot)?;
    }
    for bench in [&benches.plain, &benches.ann, &benches.ben] {
        bench.furnish().await?;
    }
    bar.finish_and_clear();
    say.note("  ✓ packages are downloaded and unpacked");
    Ok(benches)
}

fn log(at: &Path, name: &str) -> PathBuf {
    folder(at, name, "units.jsonl")
}

/// How many claims there are at least: a run of a build script makes two, one of which says what it reads.
fn published(units: &[Unit]) -> u64 {
    let claims = |unit: &Unit| if unit.kind == "build-script-run" { 2 } else { 1 };
    units.iter().filter(|unit| unit.published).map(claims).sum()
}

fn list(value: &Value) -> &[Value] {
    value.as_array().map(Vec::as_slice).unwrap_or_default()
}

/// Whether a status shows a followed Catalog of so many keys.
fn lists(status: &Value, signer: &str, keys: u64) -> bool {
    let full = |row: &Value| row["signer"] == signer && row["keys"].as_u64() >= Some(keys);
    list(&status["catalogs"]).iter().any(full)
}

/// Compares what ann's and ben's builds gave, byte for byte, and runs both.
///
/// What a stranger's program does when it is run nobody knows, so that is only asked for help.
async fn compare(ann: &Built, ben: &Built, args: &[&str]) -> Result<Programs, Failure> {
    let mut programs = Programs { identical: true, ..Programs::default() };
    let cannot = |error: std::io::Error| Failure::failed(format!("cannot compare the programs: {error}"));
    for hers in &ann.executables {
        let his = ben.executables.iter().find(|his| his.file_name() == hers.file_name());
        let his = his.ok_or_else(|| Failure::failed(format!("ben has not built {}", hers.display())))?;
        let (a, b) = (fs::read(hers).map_err(cannot)?, fs::read(his).map_err(cannot)?);
        programs.count += 1;
        programs.bytes += a.len() as u64;
        programs.identical &= a == b;
        let (a, b) = (output(hers, args).await, output(his, args).await);
        if let (Some(a), Some(b)) = (a, b) {
            programs.same_text = Some(programs.same_text.unwrap_or(true) && a == b);
        }
    }
    Ok(programs)
}

/// What a program prints; nothing when it does not end.
async fn output(program: &Path, args: &[&str]) -> Option<(Option<i32>, Vec<u8>)> {
    let mut command = tokio::process::Command::new(program);
    command.args(args).kill_on_drop(true).stdin(std::process::Stdio::null());
    let output = tokio::time::timeout(RUN, command.output()).await.ok()?.ok()?;
    Some((output.status.code(), output.stdout))
}
