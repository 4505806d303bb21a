// SPDX-License-Identifier: MIT OR Apache-2.0
//! Reaches the daemon of a home.

use std::process::Stdio;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use potluck_node::cache::CacheError;
use potluck_node::control::client::{Client, HELLO};
use potluck_node::home::Home;
use potluck_protocol::control::Job;
use serde_json::Value;
use tokio::io::AsyncReadExt as _;

use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;

/// Nobody wants to be told how far something is that is done at once.
const MOMENT: Duration = Duration::from_millis(250);

/// Where the daemon listens: `potluck.sock` in the home.
pub(crate) async fn daemon(home: &Home) -> Result<Client, Failure> {
    Ok(Client::connect(&potluck_node::daemon::socket(home), "potluck", HELLO).await?)
}

/// Runs something that waits, on this thread.
pub(crate) fn wait<T>(work: impl Future<Output = Result<T, Failure>>) -> Result<T, Failure> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("cannot start: {error}")))?;
    let done = runtime.block_on(work);
    // A thread may still wait for a standard input that says nothing more.
    runtime.shutdown_background();
    done
}

/// Most bytes of what a program says that are read.
const MAX_SAID: u64 = 64 * 1024;
/// How long a program may take to say something about itself.
const SAYS_WITHIN: Duration = Duration::from_secs(10);

/// What a program says of itself on standard output, if it is there, and ends well and in time.
pub(crate) fn says(program: &str, args: &[&str]) -> Option<String> {
    let mut command = tokio::process::Command::new(program);
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::null()).kill_on_drop(true);
    let said = async {
        let failed = |error: std::io::Error| Failure::failed(format!("{program}: {error}"));
        let mut child = command.spawn().map_err(failed)?;
        let mut text = String::new();
        if let Some(said) = child.stdout.take() {
            said.take(MAX_SAID).read_to_string(&mut text).await.map_err(failed)?;
        }
        Ok(child.wait().await.map_err(failed)?.success().then_some(text))
    };
    wait(async { tokio::time::timeout(SAYS_WITHIN, said).await.unwrap_or(Ok(None)) }).ok().flatten()
}

/// Has a running daemon take over what was changed in the files of its Networks, before the command returns. Without
/// one, the next that starts does.
pub(crate) fn refresh(home: &Home, say: &mut Say) -> Result<(), Failure> {
    let refreshed = wait(async { Ok(daemon(home).await?.refresh().await?) });
    let json = match refreshed {
        Ok(json) => json,
        Err(failure) if failure.exit == Exit::Unreachable => return Ok(()),
        Err(failure) => return Err(failure),
    };
    let report: Value = serde_json::from_slice(&json).unwrap_or_default();
    for (name, why) in report["failed"].as_object().into_iter().flatten() {
        say.warning(&format!("the daemon cannot enter {name}: {}", why.as_str().unwrap_or_default()));
    }
    Ok(())
}

impl From<CacheError> for Failure {
    fn from(error: CacheError) -> Self {
        let message = error.to_string();
        match error {
            CacheError::Unreachable(_) | CacheError::Late => {
                Self::new(Exit::Unreachable, message).hint("`potluck up` starts it")
            }
            CacheError::Protocol(_) => {
                Self::new(Exit::Unreachable, message).hint("`potluck down` and `potluck up` after an update")
            }
            CacheError::NotHere(_) => Self::new(Exit::NotFound, message),
            CacheError::Usage(_) => Self::usage(message),
            _ => Self::failed(message),
        }
    }
}

/// Has the daemon do a job that may take long, and shows how far it is to whoever waits longer than a moment.
pub(crate) async fn work(home: &Home, job: Job, say: &Say, what: &'static str) -> Result<Value, Failure> {
    let client = daemon(home).await?;
    let mut bar: Option<ProgressBar> = None;
    let (told, mut far) = tokio::sync::mpsc::channel(1);
    let done = client.work(job, move |json| {
        // The next one tells more.
        let _ = told.try_send(json);
    });
    let mut done = std::pin::pin!(done);
    let mut patient = std::pin::pin!(tokio::time::sleep(MOMENT));
    let report = loop {
        tokio::select! {
            report = &mut done => break report,
            () = &mut patient, if bar.is_none() && say.is_talkative() => bar = Some(progress(what)),
            Some(json) = far.recv() => if let Some(bar) = &bar {
                let now: Value = serde_json::from_slice(&json).unwrap_or_default();
                bar.set_length(now["of"].as_u64().unwrap_or(0));
                bar.set_position(now["done"].as_u64().unwrap_or(0));
                bar.set_message(now["step"].as_str().unwrap_or_default().to_owned());
            },
        }
    };
    if let Some(bar) = bar {
        bar.finish_and_clear();
    }
    serde_json::from_slice(&report?)
        .map_err(|error| Failure::failed(format!("the daemon's answer makes no sense: {error}")))
}

fn progress(what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("  {spinner} {prefix}  {pos}/{len} {wide_msg:.dim}");
    let style = style.unwrap_or_else(|_| ProgressStyle::default_spinner());
    ProgressBar::new(0).with_style(style).with_prefix(what)
}
