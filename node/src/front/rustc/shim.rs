// SPDX-License-Identifier: MIT OR Apache-2.0
//! The wrapper's course: gather, ask, restore or compile, publish.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::PathBuf;
use std::pin::pin;
use std::process::ExitCode;
use std::time::Duration;

use potluck_protocol::action::Recipe;
use potluck_protocol::control::Answer;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::Output;

use super::compile::{self, Said, Watched};
use super::externs;
use super::fields::{Fields, Memory};
use super::key::{Inputs, RECIPE, traced};
use super::linker;
use super::log::{self, Line};
use super::macros::{self, list_key, second_key};
use super::publish::{Compiled, LIST, Published, Unpublished, recipe};
use super::reads::Needs;
use super::restore::{RestoreError, Restored, fetch_text, fetch_tree, file, restore};
use super::script::launcher;
use super::sources::Sources;
use super::toolchain::{self, Toolchain, driver, processor};
use super::unit::Unit;
use super::verify::{self, Verdict};
use super::{Call, Decision, Placed, Reason, notice};
use crate::cache::{Cache, CacheError, Question};
use crate::front::patience::{Patience, Waited, patiently};
use crate::observe::clock;
use crate::plan::Moment;

/// What the daemon gets on top of the deadline before it is asked whether it is alive, and for the answer to that.
const GRACE: Duration = Duration::from_millis(250);
/// Largest Tree with a list in it.
const MAX_LIST_TREE: u64 = 4096;
/// What the shell answers for a program that cannot be run.
const CANNOT_RUN: u8 = 126;

/// The variable by which somebody makes everything himself, to vouch for it: nothing is asked for, and all is published.
const BUILDER: &str = "POTLUCK_BUILDER";

/// All that the key was made of.
pub(super) struct Gathered {
    pub(super) toolchain: Toolchain,
    pub(super) sources: Sources,
    pub(super) key: [u8; 32],
    /// Whether the linker is in the key.
    pub(super) knows_linker: bool,
    /// Whether macros may run.
    pub(super) macros: bool,
    /// The libraries whose content is in the key, all links followed.
    pub(super) libraries: BTreeSet<PathBuf>,
    fields: Fields,
}

impl Gathered {
    /// Whether more may be read while it is compiled than the compiler tells of: by macros, by a linker, or by what
    /// stands in the compiler's place.
    pub(super) fn is_watched(&self, unit: &Unit) -> bool {
        self.macros || unit.links() || unit.driver.is_some()
    }

    /// What the key was made of, and with it what was read beside that.
    fn fields(&self, reads: Option<&State>) -> Fields {
        let mut fields = self.fields.clone();
        if let Some(reads) = reads {
            fields.note_reads(reads);
        }
        fields
    }

    /// The key of the list of what was read, where there is one.
    fn list(&self, reads: Option<&State>) -> Option<String> {
        reads.map(|_| spelled(list_key(self.key)))
    }

    /// The first field in which this differs from the most similar unit before.
    fn differs(&self, memory: &Memory, reads: Option<&State>) -> Option<String> {
        let key = reads.map_or(self.key, |reads| second_key(self.key, reads));
        memory.difference(&spelled(key), &self.fields(reads))
    }
}

/// What the names of a list hold here.
pub(super) type State = BTreeMap<String, Vec<u8>>;

/// What others have found that a unit reads beside what its key holds.
#[derive(Default)]
struct Known {
    list: Option<Needs>,
    state: Option<State>,
}

/// Becomes the real compiler. Comes back only when it cannot be run, with the code that a shell would give.
pub fn pass(call: &Call, decision: &Decision) -> ExitCode {
    let started = clock::moment();
    match decision {
        Decision::PassThrough(reason) => as_called(call, None, reason, started),
        Decision::Cacheable(placed) => as_called(call, Some(placed), &Reason::NoDoor, started),
    }
}

fn as_called(call: &Call, placed: Option<&Placed>, reason: &Reason, started: Moment) -> ExitCode {
    let mut line = Line::new(call, placed.map(|placed| &placed.unit), "passed");
    line.0.reason = Some(reason.to_string());
    line.write(call, started);
    // What people get is the same whether there is a cache or not. Should the flags make the arguments too long for the
    // system, it goes without.
    if let Some(placed) = placed.filter(|placed| placed.unit.kind.is_final()) {
        let _ = compile::exec(call, &placed.place.flags());
    }
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
        Err(reason @ (Reason::Sources(_) | Reason::Externs(_))) => {
            return unkeyed(&call, &placed, &reason, started).await;
        }
        Err(reason) => return as_called(&call, Some(&placed), &reason, started),
    };
    let mut line = Line::new(&call, Some(&placed.unit), "restored");
    (line.0.key, line.0.recipe) = (Some(spelled(gathered.key)), Some(RECIPE.to_owned()));
    let memory = caught(async { log::memory(&call, &placed.unit) }).await.flatten();
    // Of what is linked, the list is asked for first.
    let first = if placed.unit.links() { list_key(gathered.key) } else { gathered.key };
    let told = notice::tell(&door, &call, (&placed, &gathered.toolchain.identity), &first);
    let _ = caught(told).await;
    if verify::is_asked(&call)
        && let Some((Ok((key, output)), _)) = caught(look(&door, &call, &placed, &gathered)).await
        && verify::is_wanted(&call, &spelled(key))
    {
        line.0.key = Some(spelled(key));
        return check(&door, (&call, &placed, &gathered), &output, (line, started)).await;
    }
    let asked = if is_builder(&call) {
        (Err(Missed::Builder), Known::default())
    } else {
        whole(&call, ask(&door, &call, &placed, &gathered)).await
    };
    let (asked, known) = asked;
    let waited = matches!(asked, Err(Missed::Waited(_)));
    match asked {
        Ok((key, restored)) => {
            (line.0.key, line.0.bytes) = (Some(spelled(key)), restored.bytes);
            line.0.list = gathered.list(known.state.as_ref());
            launch(&call, &placed);
            say(&restored);
            // cargo has heard of it by now, and goes on with others.
            line.write(&call, started);
            if let Some(memory) = memory {
                memory.remember(&spelled(key), &gathered.fields(known.state.as_ref()));
            }
            return ExitCode::SUCCESS;
        }
        Err(missed) => line.0.reason = Some(missed.to_string()),
    }
    let differs = async { gathered.differs(memory.as_ref()?, known.state.as_ref()) };
    line.0.differs = caught(differs).await.flatten();
    let ran = match make(&call, &placed, &gathered).await {
        Ok(ran) => ran,
        Err(error) => return as_called(&call, Some(&placed), &Reason::Spawn(error), started),
    };
    "compiled".clone_into(&mut line.0.outcome);
    line.0.cost_ms = u64::try_from(ran.cost.as_millis()).ok();
    let status = ran.status;
    // A unit waits in vain only once.
    if status.success() && !waited {
        let compiled = Compiled { call: &call, placed: &placed, gathered: &gathered, known: known.list, ran };
        match caught(compiled.publish(&door)).await.unwrap_or(Err(Unpublished::Fault)) {
            Ok(Published { key, bytes, state }) => {
                (line.0.key, line.0.published, line.0.bytes) = (Some(spelled(key)), true, bytes);
                line.0.list = gathered.list(state.as_ref());
                if let Some(memory) = memory {
                    memory.remember(&spelled(key), &gathered.fields(state.as_ref()));
                }
            }
            Err(error) => {
                tracing::debug!(%error, crate_name = placed.unit.crate_name, "not published");
                line.0.reason = Some(error.to_string());
            }
        }
    }
    line.write(&call, started);
    if status.success() && !waited {
        launch(&call, &placed);
    }
    compile::end_as(status)
}

/// Compiles a unit that has no key. Its folders are called what they are called in all others: else those that are built
/// on it would name them, and none of these could be shared either.
async fn unkeyed(call: &Call, placed: &Placed, reason: &Reason, started: Moment) -> ExitCode {
    let flags = placed.place.flags();
    let how = compile::How { flags: &flags, watched: Watched::Nobody, said: Said::PassedOn };
    let ran = match compile::run(call, &placed.place, how).await {
        Ok(ran) => ran,
        Err(error) => return as_called(call, Some(placed), &Reason::Spawn(error), started),
    };
    let mut line = Line::new(call, Some(&placed.unit), "passed");
    line.0.reason = Some(reason.to_string());
    line.write(call, started);
    compile::end_as(ran.status)
}

/// Compiles a unit.
async fn make(call: &Call, placed: &Placed, gathered: &Gathered) -> std::io::Result<compile::Ran> {
    let flags = placed.place.flags();
    let watched = match &placed.unit {
        unit if linker::reads_alone(unit, gathered) => Watched::Linker,
        unit if gathered.is_watched(unit) => Watched::All,
        _ => Watched::Nobody,
    };
    let said = if watched == Watched::Nobody { Said::PassedOn } else { Said::UntilLinking };
    let how = compile::How { flags: &flags, watched, said };
    let ran = compile::run(call, &placed.place, how).await?;
    let Some(waits) = &ran.waits else { return Ok(ran) };
    // There may be linkers that cannot be watched.
    if let Some(said) = ran.stderr.as_ref().filter(|_| !ran.status.success()) {
        let shown = &said[..said.len().saturating_sub(waits.len())];
        let how = compile::How { watched: Watched::Nobody, said: Said::Without(shown), ..how };
        return compile::run(call, &placed.place, how).await;
    }
    let _ = std::io::stderr().write_all(waits);
    Ok(ran)
}

/// A key as it is written down.
pub(super) fn spelled(key: [u8; 32]) -> String {
    Digest::from_bytes(key).to_string()
}

/// Whether a build is there to make everything itself.
pub(super) fn is_builder(call: &Call) -> bool {
    call.var(BUILDER).is_some_and(|on| on == "1")
}

/// Has a build script run by way of this program. Where that is not possible, it runs by itself.
fn launch(call: &Call, placed: &Placed) {
    if let Err(error) = launcher::put(call, placed) {
        tracing::debug!(%error, "no launcher");
    }
}

/// A fault of this program must not become one of the build: nothing comes back where the work panics.
pub(super) async fn caught<T>(work: impl Future<Output = T>) -> Option<T> {
    let mut work = pin!(work);
    std::future::poll_fn(|context| {
        let polled = catch_unwind(AssertUnwindSafe(|| work.as_mut().poll(context)));
        polled.map_or(std::task::Poll::Ready(None), |polled| polled.map(Some))
    })
    .await
}

/// All questions about one unit, and what is done with the answers. Others are told when that is waited for in vain.
pub(super) async fn whole<T, K: Default>(
    call: &Call,
    asking: impl Future<Output = (Result<T, Missed>, K)>,
) -> (Result<T, Missed>, K) {
    let late = (Err(Waited::Late.into()), K::default());
    let asked = caught(tokio::time::timeout(call.limits().whole, asking)).await;
    let asked = asked.map_or((Err(Missed::Fault), K::default()), |asked| asked.unwrap_or(late));
    if let (Err(Missed::Waited(waited)), _) = &asked {
        call.note_stall(*waited);
    }
    asked
}

fn gather(call: &Call, placed: &Placed) -> Result<Gathered, Reason> {
    let Placed { unit, place } = placed;
    let toolchain = Toolchain::identify(call, unit).map_err(Reason::Toolchain)?;
    let mut inputs = Inputs {
        toolchain: toolchain.identity.clone().into_bytes(),
        host: toolchain.host().to_owned(),
        ..Inputs::default()
    };
    if unit.driver.is_some() {
        inputs.driver = Some(driver(call, &toolchain).map_err(Reason::Toolchain)?);
    }
    if unit.is_native() {
        inputs.processor = Some(processor(call, &toolchain).map_err(Reason::Toolchain)?);
    }
    if unit.links() {
        // Another one is known by what is read.
        inputs.linker = toolchain::linker(call, unit, toolchain.host()).ok();
    }
    let knows_linker = inputs.linker.is_some();
    let macros = externs::macros(call, placed).map_err(Reason::Externs)?;
    inputs.handed = !macros.is_empty() && !unit.loads_macros();
    let sources = Sources::gather(call, placed, &macros)?;
    let libraries = externs::gather(call, placed, &sources, &mut inputs).map_err(Reason::Externs)?;
    inputs.sources.clone_from(&sources.files);
    inputs.generated.clone_from(&sources.generated);
    inputs.env.clone_from(&sources.env);
    let (key, fields) = traced(unit, &inputs, &place.roots);
    let macros = !macros.is_empty();
    Ok(Gathered { toolchain, sources, key, knows_linker, macros, libraries, fields })
}

/// Why the compiler has to run.
#[derive(Debug, thiserror::Error)]
pub(super) enum Missed {
    /// Nobody has it.
    #[error("{0}")]
    Miss(String),
    /// Nobody asked.
    #[error("everything is made here")]
    Builder,
    /// The daemon was waited for in vain.
    #[error(transparent)]
    Waited(#[from] Waited),
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
    let flags = placed.place.flags();
    let how = compile::How { flags: &flags, watched: Watched::Nobody, said: Said::PassedOn };
    let ran = match compile::run(call, &placed.place, how).await {
        Ok(ran) => ran,
        Err(error) => return as_called(call, Some(placed), &Reason::Spawn(error), started),
    };
    let status = ran.status;
    "compiled".clone_into(&mut line.0.outcome);
    line.0.output = Some(output.digest().to_string());
    if status.success() {
        let compiled = Compiled { call, placed, gathered, known: None, ran };
        let verdict = caught(verify::compare(door, &compiled, output)).await;
        let verdict = verdict.unwrap_or_else(|| Verdict::Unknown(Reason::Fault.to_string()));
        let (outcome, reason) = verdict.told();
        outcome.clone_into(&mut line.0.outcome);
        line.0.reason = reason;
    }
    line.write(call, started);
    if status.success() {
        launch(call, placed);
    }
    compile::end_as(status)
}

impl From<RestoreError> for Missed {
    fn from(error: RestoreError) -> Self {
        match error {
            RestoreError::Waited(waited) => waited.into(),
            error => Self::Restore(error),
        }
    }
}

/// Asks, and restores a hit.
async fn ask<C: Cache>(
    door: &C,
    call: &Call,
    placed: &Placed,
    gathered: &Gathered,
) -> (Result<([u8; 32], Restored), Missed>, Known) {
    let (found, known) = look(door, call, placed, gathered).await;
    let restored = match found {
        Ok((key, found)) => {
            restore(door, call, placed, &found).await.map(|restored| (key, restored)).map_err(Missed::from)
        }
        Err(missed) => Err(missed),
    };
    (restored, known)
}

/// What is known under the unit's key, or where macros or a linker read more than that holds, under the second one, and
/// under which; and the list of what they read, where there is one.
async fn look<C: Cache>(
    door: &C,
    call: &Call,
    placed: &Placed,
    gathered: &Gathered,
) -> (Result<([u8; 32], Output), Missed>, Known) {
    let mut known = Known::default();
    let (key, unit) = (gathered.key, &placed.unit);
    let found = async {
        let own = async || answer(door, call, recipe(), key).await.map(|found| (key, found));
        // Most macros read nothing, so that mostly there is no list; and there always is where a linker was watched.
        let mut missed = None;
        if !unit.links() {
            match own().await {
                Err(why @ Missed::Miss(_)) if gathered.is_watched(unit) => missed = Some(why),
                found => return found,
            }
            notice::tell_more(door, (call, unit), "reads", list_key(key)).await;
        }
        let found = match (answer(door, call, recipe(), list_key(key)).await, missed) {
            (Ok(found), _) => found,
            (Err(Missed::Miss(_)), Some(missed)) => return Err(missed),
            (Err(Missed::Miss(_)), None) if macros::is_known_unseen(unit, gathered.knows_linker) => {
                return own().await;
            }
            (Err(missed), _) => return Err(missed),
        };
        let needs = known.list.insert(read_list(door, &found).await?);
        let scope = macros::scope(call, placed, &gathered.toolchain.sysroot);
        let state = scope.state(needs).map_err(|error| Missed::Miss(error.to_string()))?;
        let second = second_key(key, known.state.insert(state));
        notice::tell_more(door, (call, unit), "made", second).await;
        answer(door, call, recipe(), second).await.map(|found| (second, found))
    };
    let found = found.await;
    (found, known)
}

/// A list of what is read, as it is published.
pub(super) async fn read_list<C: Cache>(door: &C, found: &Output) -> Result<Needs, Missed> {
    let none = || Missed::Miss("the list of what it reads is malformed".to_owned());
    let Output::Tree(tree) = found else { return Err(none()) };
    let tree = fetch_tree(door, tree, MAX_LIST_TREE).await?;
    let text = fetch_text(door, &file(&tree, LIST).ok_or_else(none)?).await?;
    Needs::parse(&text).ok_or_else(none)
}

/// What is known under a key.
pub(super) async fn answer<C: Cache>(
    door: &C,
    call: &Call,
    recipe: Recipe,
    key: [u8; 32],
) -> Result<Output, Missed> {
    let (project, keys) = (call.project.clone(), vec![key.to_vec()]);
    let question = Question { project, recipe, keys, deadline: call.deadline };
    let patience = Patience { first: call.deadline + GRACE, grace: GRACE, longest: call.limits().answer };
    let answers = patiently(door, patience, door.lookup(question)).await??;
    match <[Answer; 1]>::try_from(answers) {
        Ok([Answer::Hit(output)]) => Ok(output),
        Ok([Answer::Miss(miss)]) => Err(Missed::Miss(format!("{miss:?}").to_lowercase())),
        Err(_) => Err(CacheError::Protocol("it gave another number of answers".to_owned()).into()),
    }
}

/// Says what the compiler had said. The files are there by now, so that cargo may start those who wait for them.
pub(super) fn say(restored: &Restored) {
    let _ = std::io::stdout().write_all(&restored.stdout).and_then(|()| std::io::stdout().flush());
    let _ = std::io::stderr().write_all(&restored.stderr);
}
