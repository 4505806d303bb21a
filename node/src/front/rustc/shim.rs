// SPDX-License-Identifier: MIT OR Apache-2.0
//! The wrapper's course: gather, ask, restore or compile, publish.

use std::io::Write as _;
use std::process::ExitCode;
use std::time::Duration;

use potluck_protocol::control::Answer;
use potluck_protocol::digest::Digest;
use tokio::time::timeout;

use super::compile;
use super::externs;
use super::key::{Inputs, key};
use super::log::Line;
use super::publish::{Compiled, recipe};
use super::restore::{Restored, restore};
use super::sources::Sources;
use super::toolchain::{Toolchain, linker};
use super::{Call, Decision, Placed, Reason};
use crate::cache::{Cache, Question};
use crate::observe::clock;
use crate::plan::Moment;

/// What the daemon gets on top of the deadline before it is asked whether it is alive, and for the answer to that.
const GRACE: Duration = Duration::from_millis(250);
/// The longest that a daemon which is alive may take: it answers when what it found has been fetched, or when
/// fetching takes longer than compiling would.
const LONGEST: Duration = Duration::from_secs(60);
/// What the shell answers for a program that cannot be run.
const CANNOT_RUN: u8 = 126;

/// All that the key was made of.
struct Gathered {
    toolchain: Toolchain,
    sources: Sources,
    key: [u8; 32],
}

/// Becomes the real compiler. Comes back only when it cannot be run, with the code that a shell would give.
pub fn pass(call: &Call, decision: &Decision) -> ExitCode {
    let started = clock::moment();
    match decision {
        Decision::PassThrough(reason) => as_called(call, None, reason, started),
        Decision::Cacheable(placed) => as_called(call, Some(placed), &Reason::NoDoor, started),
        Decision::Remapped(placed) => {
            let mut line = Line::new(call, Some(placed.unit.kind.name()), "remapped");
            line.reason = Some(Reason::NotCached.to_string());
            line.write(call, started);
            become_compiler(call, &placed.place.flags())
        }
    }
}

fn as_called(call: &Call, placed: Option<&Placed>, reason: &Reason, started: Moment) -> ExitCode {
    let mut line = Line::new(call, placed.map(|placed| placed.unit.kind.name()), "passed");
    line.reason = Some(reason.to_string());
    line.write(call, started);
    become_compiler(call, &[])
}

fn become_compiler(call: &Call, flags: &[String]) -> ExitCode {
    if call.args.is_empty() {
        return ExitCode::from(2);
    }
    let error = compile::exec(call, flags);
    // cargo shows this to the user, as it would have shown its own error.
    let _ = writeln!(std::io::stderr(), "potluck-rustc: cannot run {}: {error}", call.args[0].display());
    ExitCode::from(CANNOT_RUN)
}

/// Runs a cacheable unit; without a door, as if there were no cache.
///
/// It ends by becoming the compiler when anything fails before the compiler ran; so the door must not be needed by
/// anyone else in this process.
pub async fn shim<C: Cache>(door: Option<C>, call: Call, placed: Placed) -> ExitCode {
    let started = clock::moment();
    let Some(door) = door else { return as_called(&call, Some(&placed), &Reason::NoDoor, started) };
    let gathered = match gather(&call, &placed) {
        Ok(gathered) => gathered,
        Err(reason) => return as_called(&call, Some(&placed), &reason, started),
    };
    let hex = Digest::from_bytes(gathered.key).to_string();
    let mut line = Line::new(&call, Some(placed.unit.kind.name()), "restored");
    line.key = Some(hex);
    match ask(&door, &call, &placed, &gathered).await {
        Ok(restored) => {
            line.bytes = restored.bytes;
            line.write(&call, started);
            say(&restored);
            return ExitCode::SUCCESS;
        }
        Err(miss) => line.reason = Some(miss),
    }
    let flags = placed.place.flags();
    let ran = match compile::run(&call, &flags) {
        Ok(ran) => ran,
        Err(error) => return as_called(&call, Some(&placed), &Reason::Spawn(error), started),
    };
    line.outcome = "compiled";
    let status = ran.status;
    if status.success() {
        let Gathered { toolchain, sources, key } = &gathered;
        let compiled = Compiled { call: &call, placed: &placed, sources, toolchain, key: *key, ran };
        match compiled.publish(&door).await {
            Ok(bytes) => (line.published, line.bytes) = (true, bytes),
            Err(error) => {
                tracing::debug!(%error, crate_name = placed.unit.crate_name, "not published");
                line.reason = Some(error.to_string());
            }
        }
    }
    line.write(&call, started);
    compile::end_as(status)
}

fn gather(call: &Call, placed: &Placed) -> Result<Gathered, Reason> {
    let Placed { unit, place } = placed;
    let toolchain = Toolchain::identify(call, unit).map_err(Reason::Toolchain)?;
    let mut inputs = Inputs {
        toolchain: toolchain.identity.clone().into_bytes(),
        host: toolchain.host().to_owned(),
        ..Inputs::default()
    };
    if unit.kind.links() {
        inputs.linker = Some(linker(call, unit, toolchain.host()).map_err(Reason::Toolchain)?);
    }
    externs::gather(call, unit, place, &mut inputs).map_err(Reason::Externs)?;
    let sources = Sources::gather(call, place)?;
    inputs.sources.clone_from(&sources.files);
    inputs.generated.clone_from(&sources.generated);
    inputs.env.clone_from(&sources.env);
    let key = key(unit, &inputs, &place.roots);
    Ok(Gathered { toolchain, sources, key })
}

/// Asks, and restores a hit; gives the reason when the compiler has to run.
async fn ask<C: Cache>(
    door: &C,
    call: &Call,
    placed: &Placed,
    gathered: &Gathered,
) -> Result<Restored, String> {
    let question = Question {
        project: call.project.clone(),
        recipe: recipe(),
        keys: vec![gathered.key.to_vec()],
        deadline: call.deadline,
    };
    let answers = patiently(door, call.deadline, door.lookup(question)).await;
    let answers = answers.ok_or_else(|| "the daemon did not answer in time".to_owned())?;
    match answers.map_err(|error| error.to_string())?.as_slice() {
        [Answer::Hit(output)] => restore(door, call, placed, output).await.map_err(|error| error.to_string()),
        [Answer::Miss(miss)] => Err(format!("{miss:?}").to_lowercase()),
        _ => Err("the daemon gave another number of answers".to_owned()),
    }
}

/// Waits for an answer as long as the daemon is alive, which it must show from time to time: a dead one must not stall
/// a build, and a busy one must not be given up.
async fn patiently<C: Cache, T>(door: &C, deadline: Duration, work: impl Future<Output = T>) -> Option<T> {
    let started = clock::moment();
    let mut work = std::pin::pin!(work);
    let mut wait = deadline + GRACE;
    loop {
        if let Ok(done) = timeout(wait, &mut work).await {
            return Some(done);
        }
        let alive = matches!(timeout(GRACE, door.missing(Vec::new())).await, Ok(Ok(_)));
        if !alive || clock::moment().since(started) > LONGEST {
            return None;
        }
        wait = GRACE;
    }
}

/// Says what the compiler had said. The files are there by now, so that cargo may start those who wait for them.
fn say(restored: &Restored) {
    let _ = std::io::stdout().write_all(&restored.stdout).and_then(|()| std::io::stdout().flush());
    let _ = std::io::stderr().write_all(&restored.stderr);
}
