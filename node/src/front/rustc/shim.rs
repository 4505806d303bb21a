// SPDX-License-Identifier: MIT OR Apache-2.0
//! The wrapper's course: gather, ask, restore or compile, publish.

use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use potluck_protocol::control::Answer;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::Output;

use super::compile;
use super::externs;
use super::fields::Fields;
use super::key::{Inputs, RECIPE, traced};
use super::log::{self, Line};
use super::publish::{Compiled, Unpublished, recipe};
use super::restore::{RestoreError, Restored, restore};
use super::sources::Sources;
use super::toolchain::{Toolchain, linker};
use super::verify::{self, Verdict};
use super::{Call, Decision, Placed, Reason, notice};
use crate::cache::{Cache, CacheError, Question};
use crate::front::patience::{Patience, patiently};
use crate::observe::clock;
use crate::plan::Moment;

/// What the daemon gets on top of the deadline before it is asked whether it is alive, and for the answer to that.
const GRACE: Duration = Duration::from_millis(250);
/// The longest that a daemon which is alive may take: it answers when what it found has been fetched, or when
/// fetching takes longer than compiling would.
const LONGEST: Duration = Duration::from_secs(60);
/// What the shell answers for a program that cannot be run.
const CANNOT_RUN: u8 = 126;

/// The variable by which somebody makes everything himself, to vouch for it: nothing is asked for, and all is published.
const BUILDER: &str = "POTLUCK_BUILDER";

/// All that the key was made of.
struct Gathered {
    toolchain: Toolchain,
    sources: Sources,
    key: [u8; 32],
    fields: Fields,
}

/// Becomes the real compiler. Comes back only when it cannot be run, with the code that a shell would give.
pub fn pass(call: &Call, decision: &Decision) -> ExitCode {
    let started = clock::moment();
    match decision {
        Decision::PassThrough(reason) => as_called(call, None, reason, started),
        Decision::Cacheable(placed) => as_called(call, Some(placed), &Reason::NoDoor, started),
        Decision::Remapped(placed) => {
            let mut line = Line::new(call, Some(&placed.unit), "remapped");
            line.0.reason = Some(Reason::NotCached.to_string());
            line.write(call, started);
            // Should the flags make the arguments too long for the system, it goes without.
            let _ = compile::exec(call, &placed.place.flags());
            become_compiler(call)
        }
    }
}

fn as_called(call: &Call, placed: Option<&Placed>, reason: &Reason, started: Moment) -> ExitCode {
    let mut line = Line::new(call, placed.map(|placed| &placed.unit), "passed");
    line.0.reason = Some(reason.to_string());
    line.write(call, started);
    become_compiler(call)
}

fn become_compiler(call: &Call) -> ExitCode {
    if call.args.is_empty() {
        return ExitCode::from(2);
    }
    let error = compile::exec(call, &[]);
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
    let gathered = match caught(async { gather(&call, &placed) }).await.unwrap_or(Err(Reason::Fault)) {
        Ok(gathered) => gathered,
        Err(reason) => return as_called(&call, Some(&placed), &reason, started),
    };
    let hex = Digest::from_bytes(gathered.key).to_string();
    let mut line = Line::new(&call, Some(&placed.unit), "restored");
    (line.0.key, line.0.recipe) = (Some(hex.clone()), Some(RECIPE.to_owned()));
    let memory = caught(async { log::memory(&call, &placed.unit) }).await.flatten();
    let told = notice::tell(&door, &call, (&placed, &gathered.toolchain.identity), &gathered.key);
    let _ = caught(told).await;
    if verify::is_wanted(&call, &hex)
        && let Some(Ok(output)) = caught(look(&door, &call, &gathered)).await
    {
        return check(&door, (&call, &placed, &gathered), &output, (line, started)).await;
    }
    let asked = if call.var(BUILDER).is_some_and(|on| on == "1") {
        Some(Err(Missed::Builder))
    } else {
        caught(ask(&door, &call, &placed, &gathered)).await
    };
    let hangs = matches!(asked, Some(Err(Missed::Hangs)));
    match asked.unwrap_or(Err(Missed::Fault)) {
        Ok(restored) => {
            line.0.bytes = restored.bytes;
            say(&restored);
            // cargo has heard of it by now, and goes on with others.
            line.write(&call, started);
            if let Some(memory) = memory {
                memory.remember(&hex, &gathered.fields);
            }
            return ExitCode::SUCCESS;
        }
        Err(missed) => line.0.reason = Some(missed.to_string()),
    }
    let differs = async { memory.as_ref()?.difference(&hex, &gathered.fields) };
    line.0.differs = caught(differs).await.flatten();
    let ran = match compile::run(&call, &placed.place).await {
        Ok(ran) => ran,
        Err(error) => return as_called(&call, Some(&placed), &Reason::Spawn(error), started),
    };
    "compiled".clone_into(&mut line.0.outcome);
    line.0.cost_ms = u64::try_from(ran.cost.as_millis()).ok();
    let status = ran.status;
    if hangs {
        note_stall(&call);
    }
    // A unit waits for a daemon that hangs only once.
    if status.success() && !hangs {
        let Gathered { toolchain, sources, key, fields } = &gathered;
        let compiled = Compiled { call: &call, placed: &placed, sources, toolchain, key: *key, ran };
        match caught(compiled.publish(&door)).await.unwrap_or(Err(Unpublished::Fault)) {
            Ok(bytes) => {
                (line.0.published, line.0.bytes) = (true, bytes);
                if let Some(memory) = memory {
                    memory.remember(&hex, fields);
                }
            }
            Err(error) => {
                if matches!(error, Unpublished::Late) {
                    note_stall(&call);
                }
                tracing::debug!(%error, crate_name = placed.unit.crate_name, "not published");
                line.0.reason = Some(error.to_string());
            }
        }
    }
    line.write(&call, started);
    compile::end_as(status)
}

/// A fault of this program must not become one of the build: nothing comes back where the work panics.
async fn caught<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        polled.map_or(std::task::Poll::Ready(None), |polled| polled.map(Some))
    })
    .await
}

/// Lets others know that the daemon is not to be waited for. Where that is not possible, each finds out for itself.
fn note_stall(call: &Call) {
    if let Some(path) = &call.stalled {
        let _ = std::fs::write(path, "");
    }
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
    let sources = Sources::gather(call, place)?;
    externs::gather(call, placed, sources.links, &mut inputs).map_err(Reason::Externs)?;
    inputs.sources.clone_from(&sources.files);
    inputs.generated.clone_from(&sources.generated);
    inputs.env.clone_from(&sources.env);
    let (key, fields) = traced(unit, &inputs, &place.roots);
    Ok(Gathered { toolchain, sources, key, fields })
}

/// Why the compiler has to run.
#[derive(Debug, thiserror::Error)]
enum Missed {
    /// Nobody has it.
    #[error("{0}")]
    Miss(String),
    /// Nobody asked.
    #[error("everything is made here")]
    Builder,
    /// The daemon does not answer any more.
    #[error("the daemon did not answer in time")]
    Hangs,
    /// The daemon does not do its work.
    #[error(transparent)]
    Door(#[from] CacheError),
    /// What was found cannot be used.
    #[error(transparent)]
    Restore(RestoreError),
    /// This program has a fault.
    #[error("the wrapper failed")]
    Fault,
}

/// Compiles what the cache holds, and says whether it is the same.
async fn check<C: Cache>(
    door: &C,
    (call, placed, gathered): (&Call, &Placed, &Gathered),
    output: &Output,
    (mut line, started): (Line, Moment),
) -> ExitCode {
    let ran = match compile::run(call, &placed.place).await {
        Ok(ran) => ran,
        Err(error) => return as_called(call, Some(placed), &Reason::Spawn(error), started),
    };
    let status = ran.status;
    "compiled".clone_into(&mut line.0.outcome);
    line.0.output = Some(output.digest().to_string());
    if status.success() {
        let Gathered { toolchain, sources, key, .. } = gathered;
        let compiled = Compiled { call, placed, sources, toolchain, key: *key, ran };
        let verdict = caught(verify::compare(door, &compiled, output)).await;
        let verdict = verdict.unwrap_or_else(|| Verdict::Unknown(Reason::Fault.to_string()));
        let (outcome, reason) = verdict.told();
        outcome.clone_into(&mut line.0.outcome);
        line.0.reason = reason;
    }
    line.write(call, started);
    compile::end_as(status)
}

/// Asks, and restores a hit.
async fn ask<C: Cache>(
    door: &C,
    call: &Call,
    placed: &Placed,
    gathered: &Gathered,
) -> Result<Restored, Missed> {
    let output = look(door, call, gathered).await?;
    restore(door, call, placed, &output).await.map_err(|error| match error {
        RestoreError::Stalled => Missed::Hangs,
        error => Missed::Restore(error),
    })
}

/// Asks.
async fn look<C: Cache>(door: &C, call: &Call, gathered: &Gathered) -> Result<Output, Missed> {
    let question = Question {
        project: call.project.clone(),
        recipe: recipe(),
        keys: vec![gathered.key.to_vec()],
        deadline: call.deadline,
    };
    let patience = Patience { first: call.deadline + GRACE, grace: GRACE, longest: LONGEST };
    let answers = patiently(door, patience, door.lookup(question)).await.ok_or(Missed::Hangs)??;
    match answers.as_slice() {
        [Answer::Hit(output)] => Ok(output.clone()),
        [Answer::Miss(miss)] => Err(Missed::Miss(format!("{miss:?}").to_lowercase())),
        _ => Err(CacheError::Protocol("it gave another number of answers".to_owned()).into()),
    }
}

/// Says what the compiler had said. The files are there by now, so that cargo may start those who wait for them.
fn say(restored: &Restored) {
    let _ = std::io::stdout().write_all(&restored.stdout).and_then(|()| std::io::stdout().flush());
    let _ = std::io::stderr().write_all(&restored.stderr);
}
