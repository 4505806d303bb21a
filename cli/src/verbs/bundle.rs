// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck export` and `potluck import`: part of a store as one file, for machines that no network reaches.

use std::fmt::Write as _;
use std::io::{self, IsTerminal as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::Args as ClapArgs;
use indicatif::{HumanBytes, ProgressBar, ProgressDrawTarget, ProgressStyle};
use potluck_node::cache::CacheError;
use potluck_node::home::Home;
use potluck_node::observe::clock;
use potluck_protocol::codec::Text;
use serde_json::Value;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};

use crate::connect::{daemon, wait};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::{Say, counted};

/// How long something may take before a person sees how far it is.
const PATIENCE: Duration = Duration::from_millis(250);
/// How many Projects, and reasons for refusals, people are shown.
const SHOWN: usize = 8;

/// Write what you believe, and have, into one file, for machines that no network reaches
#[derive(Debug, ClapArgs)]
pub(crate) struct Export {
    /// Only what belongs to Projects that this covers, e.g. 'acme/*'
    #[arg(long, value_name = "GLOB")]
    project: Option<String>,
    /// Only what a toolchain made whose name begins like this, e.g. 1.95
    #[arg(long, value_name = "PREFIX")]
    toolchain: Option<String>,
    /// The file; - for the standard output
    #[arg(default_value = "-")]
    file: PathBuf,
}

/// Take what you believe from a file that `export` made; everything else in it is left alone
#[derive(Debug, ClapArgs)]
pub(crate) struct Import {
    /// The file; - for the standard input
    #[arg(default_value = "-")]
    file: PathBuf,
}

fn is_stream(file: &Path) -> bool {
    file == Path::new("-")
}

fn cannot(what: &str, path: &Path, error: &io::Error) -> Failure {
    Failure::failed(format!("cannot {what} {}: {error}", path.display()))
}

fn short<const MAX: usize>(what: &str, text: Option<&String>) -> Result<Option<Text<MAX>>, Failure> {
    let short = text.map(|text| Text::new(text.as_str()).ok_or(text)).transpose();
    short.map_err(|text| Failure::usage(format!("{text:?} is no {what}")))
}

/// How many bytes have passed, for a person who waits. It keeps quiet at first.
fn bar(say: &Say, total: Option<u64>) -> ProgressBar {
    if !say.is_talkative() {
        return ProgressBar::hidden();
    }
    let bar = ProgressBar::with_draw_target(total, ProgressDrawTarget::hidden());
    let template = match total {
        Some(_) => "{bar:30} {bytes} of {total_bytes}, {bytes_per_sec}, {eta} left",
        None => "{spinner} {bytes}, {bytes_per_sec}",
    };
    bar.with_style(ProgressStyle::with_template(template).expect("the template is sound"))
}

/// Shows the bar once it has taken long enough to be worth it.
async fn show_late(bar: &ProgressBar, say: &Say) {
    tokio::time::sleep(PATIENCE).await;
    if say.is_talkative() {
        bar.set_draw_target(ProgressDrawTarget::stderr());
    }
    std::future::pending::<()>().await;
}

/// Does `work` while the bar waits for its time.
async fn watched<T>(bar: &ProgressBar, say: &Say, work: impl Future<Output = T>) -> T {
    let done = tokio::select! {
        done = work => done,
        () = show_late(bar, say) => unreachable!("it waits for ever"),
    };
    bar.finish_and_clear();
    done
}

impl Export {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        if is_stream(&self.file) && io::stdout().is_terminal() {
            return Err(Failure::usage("a bundle is not for a terminal").hint("name a file"));
        }
        let (report, took) = wait(async {
            let start = clock::moment();
            let report = match is_stream(&self.file) {
                true => self.pour(home, &mut tokio::io::stdout(), say).await?,
                false => self.to_file(home, say).await?,
            };
            Ok((report, clock::moment().since(start)))
        })?;
        let text = exported(&report, took);
        let report = timed(report, took);
        let empty = report["entries"] == 0;
        match is_stream(&self.file) {
            // The standard output is the bundle's.
            true => say.aside(&text, report)?,
            false if !empty => say.answer(&text, report)?,
            false => {}
        }
        if empty {
            let failure = Failure::new(Exit::NotFound, "there is nothing to export");
            return Err(
                failure.hint("`potluck status` shows what is here, `potluck trust list` whom you believe")
            );
        }
        Ok(Exit::Done)
    }

    /// Writes the bundle beside its place, and puts it there when it is whole and on the disk.
    async fn to_file(&self, home: &Home, say: &Say) -> Result<Value, Failure> {
        let fail = |error: &io::Error| cannot("write", &self.file, error);
        let folder = self.file.parent().filter(|folder| !folder.as_os_str().is_empty());
        let file = tempfile::NamedTempFile::new_in(folder.unwrap_or(Path::new(".")));
        let (file, place) = file.map_err(|error| fail(&error))?.into_parts();
        let mut file = tokio::fs::File::from_std(file);
        let report = self.pour(home, &mut file, say).await?;
        file.sync_all().await.map_err(|error| fail(&error))?;
        if report["entries"] != 0 {
            place.persist(&self.file).map_err(|error| fail(&error.error))?;
        }
        Ok(report)
    }

    async fn pour(
        &self,
        home: &Home,
        to: &mut (impl AsyncWrite + Unpin),
        say: &Say,
    ) -> Result<Value, Failure> {
        let project = short("pattern of projects", self.project.as_ref())?;
        let toolchain = short("name of a toolchain", self.toolchain.as_ref())?;
        let client = daemon(home).await?;
        let (mut stretches, report) = client.export(project, toolchain).await?;
        let bar = bar(say, None);
        let pouring = async {
            while let Some(stretch) = stretches.recv().await {
                let stretch = stretch?;
                to.write_all(&stretch).await.map_err(|error| cannot("write", &self.file, &error))?;
                bar.inc(stretch.len() as u64);
            }
            to.flush().await.map_err(|error| cannot("write", &self.file, &error))
        };
        watched(&bar, say, pouring).await?;
        let report = report.await.map_err(|_| Failure::failed("the daemon did not finish the bundle"))?;
        read(&report)
    }
}

impl Import {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let stream = is_stream(&self.file);
        if stream && io::stdin().is_terminal() {
            return Err(Failure::usage("a bundle does not come from a terminal").hint("name a file"));
        }
        let (report, took) = wait(async {
            let start = clock::moment();
            let report = match stream {
                true => take(home, (tokio::io::stdin(), None), say).await?,
                false => {
                    let fail = |error: &io::Error| cannot("read", &self.file, error);
                    let file = tokio::fs::File::open(&self.file).await.map_err(|error| fail(&error))?;
                    let metadata = file.metadata().await.map_err(|error| fail(&error))?;
                    let total = metadata.is_file().then_some(metadata.len());
                    take(home, (file, total), say).await?
                }
            };
            Ok((report, clock::moment().since(start)))
        })?;
        say.answer(&imported(&report, took), timed(report.clone(), took))?;
        judged(&report)
    }
}

async fn take(
    home: &Home,
    (from, total): (impl AsyncRead + Send + Unpin, Option<u64>),
    say: &Say,
) -> Result<Value, Failure> {
    let client = daemon(home).await?;
    let bar = bar(say, total);
    let progress = |json: Vec<u8>| {
        if let Ok(report) = read(&json) {
            bar.set_position(number(&report["read"]));
        }
    };
    let report = watched(&bar, say, client.import(from, progress)).await?;
    read(&report)
}

fn read(json: &[u8]) -> Result<Value, Failure> {
    let report = serde_json::from_slice(json);
    report.map_err(|error| CacheError::Protocol(error.to_string()).into())
}

fn number(value: &Value) -> u64 {
    value.as_u64().unwrap_or(0)
}

fn timed(mut report: Value, took: Duration) -> Value {
    report["milliseconds"] = u64::try_from(took.as_millis()).unwrap_or(u64::MAX).into();
    report
}

/// Bytes, and how many of them a second.
fn amount(report: &Value, took: Duration) -> String {
    let (blobs, bytes) = (number(&report["blobs"]), number(&report["bytes"]));
    // What took no time that can be measured has no rate.
    let rate = u128::from(bytes).saturating_mul(1000).checked_div(took.as_millis());
    let rate = rate.and_then(|rate| u64::try_from(rate).ok()).map(HumanBytes);
    let rate = rate.map(|rate| format!(", {rate} a second")).unwrap_or_default();
    format!("{}, {}{rate}", counted(blobs, "blob", "blobs"), HumanBytes(bytes))
}

fn projects(report: &Value) -> String {
    let Some(projects) = report["projects"].as_object() else { return String::new() };
    let mut text = String::new();
    for (project, count) in projects.iter().take(SHOWN) {
        let _ = write!(text, "\n  {project}: {count}");
    }
    if projects.len() > SHOWN {
        let _ = write!(text, "\n  and {} more projects", projects.len() - SHOWN);
    }
    text
}

fn exported(report: &Value, took: Duration) -> String {
    let mut text =
        format!("{}, {}", counted(number(&report["entries"]), "entry", "entries"), amount(report, took));
    text += &projects(report);
    let left = [
        ("refused", "refused by your policy"),
        ("incomplete", "without all of their blobs here"),
        ("damaged", "damaged here; `potluck verify` tells more"),
    ];
    for (name, what) in left.into_iter().filter(|(name, _)| number(&report[*name]) > 0) {
        let _ = write!(text, "\nLeft out: {} {what}", report[name]);
    }
    text
}

fn imported(report: &Value, took: Duration) -> String {
    let entries = &report["entries"];
    let (taken, known) = (&entries["taken"], &entries["known"]);
    let mut text = format!(
        "{} taken, {known} known already, {}",
        counted(number(taken), "entry", "entries"),
        amount(report, took)
    );
    text += &projects(report);
    let refused = report["refused"].as_array().map(Vec::as_slice).unwrap_or_default();
    for refused in refused.iter().take(SHOWN) {
        let word = |name: &str| refused[name].as_str().unwrap_or_default().to_owned();
        let (count, who) = (&refused["count"], word("who"));
        let _ = write!(text, "\nRefused: {count} of {who}: {}\n  {}", word("why"), word("hint"));
    }
    if refused.len() > SHOWN {
        let _ = write!(text, "\nand more, {} refused in all", entries["refused"]);
    }
    if number(&entries["incomplete"]) > 0 {
        let _ = write!(text, "\nIncomplete: {}, of which not all blobs came", entries["incomplete"]);
    }
    if number(&report["damaged"]) > 0 {
        let _ = write!(text, "\nDamaged: {} blobs were not what their names say", report["damaged"]);
    }
    text
}

/// The exit code, by what came of it.
fn judged(report: &Value) -> Result<Exit, Failure> {
    let entries = &report["entries"];
    let ended = &report["ended"];
    if ended["how"] != "whole" {
        let why = ended["why"].as_str().unwrap_or("it did not end");
        let failure = Failure::failed(format!("the bundle was not read to its end: {why}"));
        return Err(failure.hint("what had come before is kept; another copy brings the rest"));
    }
    match (number(&entries["taken"]) + number(&entries["known"]), number(&entries["refused"])) {
        (0, 1..) => Err(Failure::new(Exit::Refused, "your policy refuses everything in the bundle")),
        (0, 0) if number(&entries["incomplete"]) > 0 => {
            Err(Failure::failed("nothing in the bundle is complete"))
        }
        _ => Ok(Exit::Done),
    }
}
