// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck pin`: reasons to keep a Blob whatever the budget.

use std::time::Duration;

use clap::{Args as ClapArgs, Subcommand};
use comfy_table::{Table, presets};
use potluck_node::cache::{Answer, Cache as _, CacheError, Question};
use potluck_node::home::Home;
use potluck_protocol::codec::Text;
use potluck_protocol::control::{self, Job, MAX_REASON_BYTES};
use potluck_protocol::digest::Digest;

use super::store::{Which, missed};
use crate::connect::{daemon, wait, work};
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;

/// How long the holder of what a key gave is looked for.
const DEADLINE: Duration = Duration::from_secs(5);

/// Keep something however full the store is: a file or a folder with all that is in it
#[derive(Debug, ClapArgs)]
pub(crate) struct Pin {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Keep a blob, or what a key gave
    Add(Add),
    /// Let it go when its time comes
    Remove {
        /// Its digest, as `pin list` shows it
        digest: String,
    },
    /// Show what is kept, and why
    List,
}

#[derive(Debug, ClapArgs)]
#[command(
    override_usage = "potluck pin add [OPTIONS] <DIGEST>\n       potluck pin add [OPTIONS] --recipe <RECIPE> --key <HEX>"
)]
struct Add {
    /// Its digest, as `put` and `get` print it
    #[arg(required_unless_present = "key", conflicts_with_all = ["key", "recipe"])]
    digest: Option<String>,
    #[command(flatten)]
    which: Option<Which>,
    /// Why, for whoever wonders later
    #[arg(long, value_name = "TEXT", default_value = "by hand")]
    reason: String,
}

fn read(text: &str) -> Result<Digest, Failure> {
    text.parse().map_err(|_| Failure::usage(format!("{text:?} is no digest: it has 64 hexadecimal digits")))
}

impl Pin {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        match &self.what {
            What::Add(add) => add.run(home, say),
            What::Remove { digest } => remove(home, read(digest)?, say),
            What::List => list(home, say),
        }
    }
}

impl Add {
    fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let reason = Text::new(&self.reason)
            .ok_or_else(|| Failure::usage(format!("a reason has from 1 to {MAX_REASON_BYTES} bytes")))?;
        let given = self.digest.as_deref().map(read).transpose()?;
        let done = wait(async {
            let digest = match (given, &self.which) {
                (Some(digest), _) if daemon(home).await?.missing(vec![digest]).await?.is_empty() => digest,
                (Some(digest), _) => return Err(CacheError::NotHere(digest).into()),
                (None, Some(which)) => find(home, which).await?,
                (None, None) => return Err(Failure::usage("name a digest, or a recipe and a key")),
            };
            work(home, Job::Pin(control::Pin { digest, reason }), say, "pinning").await
        })?;
        let digest = done["blob"].as_str().unwrap_or_default();
        let files = match done["tree"].as_bool() {
            Some(true) => format!(" and its {} files", done["files"]),
            _ => String::new(),
        };
        let text = format!("{digest}{files} will be kept");
        if done["missing"].as_u64().unwrap_or(0) > 0 {
            say.warning(&format!("{} of its files are not here", done["missing"]));
        }
        say.answer(&text, done)?;
        Ok(Exit::Done)
    }
}

/// What a key gave.
async fn find(home: &Home, which: &Which) -> Result<Digest, Failure> {
    let (project, recipe, key) = which.read()?;
    let question = Question { project, recipe, keys: vec![key], deadline: DEADLINE };
    match daemon(home).await?.lookup(question).await?.pop() {
        Some(Answer::Hit(output)) => Ok(*output.digest()),
        Some(Answer::Miss(why)) => Err(missed(why)),
        None => Err(Failure::failed("the daemon gave no answer")),
    }
}

fn remove(home: &Home, digest: Digest, say: &mut Say) -> Result<Exit, Failure> {
    let done = wait(work(home, Job::Unpin(control::Unpin { digest }), say, "unpinning"))?;
    if done["removed"].as_bool() != Some(true) {
        return Err(Failure::new(Exit::NotFound, format!("{digest} is not pinned"))
            .hint("`potluck pin list` shows what is"));
    }
    say.answer(&format!("{digest} is no longer pinned"), done)?;
    Ok(Exit::Done)
}

fn list(home: &Home, say: &mut Say) -> Result<Exit, Failure> {
    let done = wait(work(home, Job::Pins(control::Pins { digest: None }), say, "listing"))?;
    let pins = done["pins"].as_array().map(Vec::as_slice).unwrap_or_default();
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(["blob", "since", "reason"]);
    let cell = |pin: &serde_json::Value, name: &str| pin[name].as_str().unwrap_or_default().to_owned();
    table.add_rows(pins.iter().map(|pin| [cell(pin, "blob"), cell(pin, "since"), cell(pin, "reason")]));
    let text = if pins.is_empty() { "nothing is pinned".to_owned() } else { table.trim_fmt() };
    say.answer(&text, done)?;
    Ok(Exit::Done)
}
