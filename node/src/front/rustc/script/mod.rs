// SPDX-License-Identifier: MIT OR Apache-2.0
//! Runs of build scripts: what they say and what they leave in OUT_DIR is kept like the outputs of a compiler.
//!
//! cargo runs the file that was compiled, so what lies there is a [`launcher`], which comes here. What a script reads is
//! known only when it has run once: it is watched ([`super::watch`]), and its reads are published as a list, without
//! what they held. The key of what it made is over the list and over what the names on it hold here ([`key`]). A script
//! that was not watched, that asked others or the network, or that wrote elsewhere, is run each time.
//!
//! * [`key`] and `texts` are pure; `flags` are for compilers of C; `output` is OUT_DIR as a Tree.
//!
//! A watched script that fails is run again as if there were no cache, and what it said the first time is forgotten: so
//! nothing that watching may forbid, such as a program that changes its user, makes a build fail.

mod flags;
pub mod key;
pub mod launcher;
mod output;
mod texts;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs;
use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use potluck_protocol::action::Recipe;
use potluck_protocol::codec::Text;
use potluck_protocol::digest::Digest;
use potluck_protocol::entry::{Labels, Output, TreeOutput};

use self::key::{Inputs, RECIPE};
pub(super) use self::launcher::KEPT;
pub(super) use self::output::tokenised;
pub(super) use self::texts::Texts;
use super::compile::{self, How, Ran, Said, Watched};
use super::environ;
use super::log::Line;
use super::place::Place;
use super::publish::{LIST, Part, Unpublished, hand_over, marks, offered, scan, write_tree};
use super::reads::{Needs, Scope, Unfit, is_volatile};
use super::restore::Restored;
use super::shim::{Missed, answer, caught, is_builder, read_list, say, spelled, whole};
use super::toolchain::{Toolchain, processor};
use super::verify::{self, Verdict};
use super::{Call, Reason, notice};
use crate::cache::{Cache, Publication};
use crate::observe::clock;
use crate::plan::Moment;

/// A run that is understood.
struct Run<'a> {
    call: &'a Call,
    out_dir: PathBuf,
    place: Place,
    toolchain: Toolchain,
    scope: Scope<'a>,
    first: [u8; 32],
    /// Variables for compilers of C.
    set: BTreeMap<String, String>,
}

/// Runs a build script, or restores what it made. `call` names the script itself; without a door it is run as ever.
pub async fn script<C: Cache>(door: Option<C>, call: Call) -> ExitCode {
    let started = clock::moment();
    let name = call.var("CARGO_PKG_NAME").unwrap_or_default().to_owned();
    let mut line = Line::named(&call, &name, "build-script-run", "passed");
    let Some(door) = door else {
        line.0.reason = Some(Reason::NoDoor.to_string());
        line.write(&call, started);
        return plainly(&call);
    };
    let run = match caught(async { Run::understand(&call) }).await.unwrap_or(Err(Reason::Fault)) {
        Ok(run) => run,
        Err(reason) => {
            line.0.reason = Some(reason.to_string());
            line.write(&call, started);
            return plainly(&call);
        }
    };
    (line.0.key, line.0.recipe) = (Some(spelled(run.first)), Some(RECIPE.to_owned()));
    let _ = caught(run.tell(&door, "list", run.first)).await;
    if verify::is_asked(&call)
        && let Some((Ok((key, tree)), _)) = caught(run.look(&door)).await
        && verify::is_wanted(&call, &spelled(key))
    {
        line.0.key = Some(spelled(key));
        return run.check(&door, &tree, (line, started)).await;
    }
    let asked =
        if is_builder(&call) { (Err(Missed::Builder), None) } else { whole(&call, run.ask(&door)).await };
    let (missed, list) = match asked {
        (Ok((key, restored)), _) => {
            (line.0.outcome, line.0.bytes) = ("restored".to_owned(), restored.bytes);
            line.0.key = Some(spelled(key));
            line.write(&call, started);
            say(&restored);
            return ExitCode::SUCCESS;
        }
        (Err(missed), list) => (missed, list),
    };
    line.0.reason = Some(missed.to_string());
    let waited = matches!(missed, Missed::Waited(_));
    let Some(ran) = run.watch().await else {
        line.0.reason = Some("it failed while it was watched, or said too much".to_owned());
        line.write(&call, started);
        return run.once_more();
    };
    "compiled".clone_into(&mut line.0.outcome);
    line.0.cost_ms = u64::try_from(ran.cost.as_millis()).ok();
    say(&told(&ran));
    if !waited {
        match caught(run.publish(&door, &ran, list)).await.unwrap_or(Err(Unpublished::Fault)) {
            Ok((key, bytes)) => {
                (line.0.published, line.0.bytes, line.0.key) = (true, bytes, Some(spelled(key)));
            }
            Err(error) => line.0.reason = Some(error.to_string()),
        }
    }
    line.write(&call, started);
    compile::end_as(ran.status)
}

/// What a script said that ran here.
fn told(ran: &Ran) -> Restored {
    let said = |text: &Option<Vec<u8>>| text.clone().unwrap_or_default();
    Restored { stdout: said(&ran.stdout), stderr: said(&ran.stderr), bytes: 0 }
}

/// Becomes the script. Comes back only when that is not possible.
pub fn plainly(call: &Call) -> ExitCode {
    let error = compile::exec_itself(call);
    let _ = writeln!(io::stderr(), "potluck-rustc: cannot run {}: {error}", call.args[0].display());
    ExitCode::from(126)
}

impl<'a> Run<'a> {
    fn understand(call: &'a Call) -> Result<Self, Reason> {
        let real = PathBuf::from(&call.args[0]);
        let var = |name: &'static str| call.var(name).ok_or(Reason::Variable(name));
        let out_dir = PathBuf::from(var("OUT_DIR")?);
        // What an earlier run left there may be read, and none of it could be told from what this one makes.
        if !fs::read_dir(&out_dir).is_ok_and(|mut entries| entries.next().is_none()) {
            return Err(Reason::Again);
        }
        let place = Place::of_run(call, &out_dir, launcher::workspace(&real))?;
        let rustc = Call { args: vec![var("RUSTC")?.into()], ..call.clone() };
        let toolchain = Toolchain::of(&rustc, Some(var("TARGET")?)).map_err(Reason::Toolchain)?;
        let mut scope = Scope::new(call, &place);
        scope.apart.extend([out_dir.clone(), toolchain.sysroot.clone(), real.clone()]);
        scope.apart.extend(call.home.clone());
        // The system tells real paths where a program goes by its working folder.
        scope.apart.extend(fs::canonicalize(&out_dir));
        let program = fs::read(&real).map_err(Reason::Program)?;
        let compiles = memchr::memmem::find(&program, flags::MARK).is_some();
        let flags = if compiles { flags::flags(&place.roots) } else { Vec::new() };
        let text = |text: &'_ OsStr| text.to_str().map(str::to_owned).ok_or(super::map::Refusal::NotUtf8);
        let args = call.args[1..].iter().map(|arg| text(arg)).collect::<Result<_, _>>()?;
        let env = call.env.iter().filter_map(|(name, value)| Some((name.to_str()?, value.to_str()?)));
        let texts = Texts::of(program.as_slice());
        let every = environ::is_gone_through(program.as_slice());
        let env =
            key::variables(env, var("TARGET")?, |name| (every && !is_volatile(name)) || texts.hold(name));
        let env: BTreeMap<_, _> = env.into_iter().map(|(name, value)| (name, scope.encode(&value))).collect();
        let values = env.values().map(String::as_bytes);
        let native = values.chain([program.as_slice()]).any(is_for_this_processor);
        let processor =
            native.then(|| processor(&rustc, &toolchain)).transpose().map_err(Reason::Toolchain)?;
        let inputs = Inputs {
            program: Some(Digest::of(&program)),
            args,
            toolchain: toolchain.identity.clone().into_bytes(),
            folder: scope.encode(call.cwd.to_str().ok_or(super::map::Refusal::NotUtf8)?),
            env,
            processor,
            flags: flags.iter().map(|flag| place.roots.encode_str(flag)).collect(),
        };
        let set = if compiles { flags::variables(|name| call.var(name), &flags) } else { BTreeMap::new() };
        Ok(Self { call, out_dir, place, toolchain, scope, first: key::first(&inputs), set })
    }

    /// Says what of it a build asks for.
    async fn tell<C: Cache>(&self, door: &C, what: &str, key: [u8; 32]) {
        let name = self.call.var("CARGO_PKG_NAME").unwrap_or_default();
        let version = self.call.var("CARGO_PKG_VERSION").unwrap_or_default();
        notice::tell_of(door, self.call, &format!("{name} {version} {what}"), (recipe(), key)).await;
    }

    /// Asks, and restores what was found; gives its key as well.
    async fn ask<C: Cache>(&self, door: &C) -> (Result<([u8; 32], Restored), Missed>, Option<Needs>) {
        let (found, list) = self.look(door).await;
        let restored = match found {
            Ok((key, tree)) => {
                let restored = output::restore(door, &self.out_dir, &self.place, &tree).await;
                restored.map(|restored| (key, restored)).map_err(Missed::from)
            }
            Err(missed) => Err(missed),
        };
        (restored, list)
    }

    /// Asks for the list, and then for what was made where the names on it held what they hold here.
    async fn look<C: Cache>(&self, door: &C) -> (Result<([u8; 32], TreeOutput), Missed>, Option<Needs>) {
        let list = async { read_list(door, &answer(door, self.call, recipe(), self.first).await?).await };
        let list = match list.await {
            Ok(list) => list,
            Err(missed) => return (Err(missed), None),
        };
        let found = async {
            let state = self.scope.state(&list).map_err(|error| Missed::Miss(error.to_string()))?;
            let key = key::second(self.first, &state);
            self.tell(door, "run", key).await;
            match answer(door, self.call, recipe(), key).await? {
                Output::Tree(tree) => Ok((key, tree)),
                Output::Blob(_) => Err(Missed::Miss("it is no tree".to_owned())),
            }
        };
        let found = found.await;
        (found, Some(list))
    }

    /// Runs what the cache holds, and says whether it makes the same.
    async fn check<C: Cache>(
        &self,
        door: &C,
        held: &TreeOutput,
        (mut line, started): (Line, Moment),
    ) -> ExitCode {
        let Some(ran) = self.watch().await else { return self.once_more() };
        say(&told(&ran));
        let verdict = match self.parts(&ran) {
            Ok(parts) => caught(verify::compare_run(door, &parts, held)).await,
            Err(error) => Some(Verdict::Unknown(error.to_string())),
        };
        let (outcome, reason) = verdict.unwrap_or_else(|| Verdict::Unknown(Reason::Fault.to_string())).told();
        outcome.clone_into(&mut line.0.outcome);
        (line.0.reason, line.0.output) = (reason, Some(held.digest.to_string()));
        line.write(self.call, started);
        compile::end_as(ran.status)
    }

    /// What it said and left, as it is published.
    fn parts(&self, ran: &Ran) -> Result<Vec<Part>, Unpublished> {
        let said = [("stdout", &ran.stdout), ("stderr", &ran.stderr)];
        let said = said.map(|(name, text)| (name, text.as_deref().unwrap_or_default()));
        output::gather(&self.out_dir, &self.place, said)
    }

    /// Becomes the script, which has been run already: OUT_DIR is empty again, as it was then, or what it finds there may
    /// have it fail where it would not, or say something else of why it does.
    fn once_more(&self) -> ExitCode {
        let emptied = fs::remove_dir_all(&self.out_dir).and_then(|()| fs::create_dir(&self.out_dir));
        if let Err(error) = emptied {
            tracing::debug!(%error, folder = %self.out_dir.display(), "what is left of the first run stays");
        }
        plainly(self.call)
    }

    /// Runs it, watched. Nothing when it has to be run once more.
    async fn watch(&self) -> Option<Ran> {
        let mut call = self.call.clone();
        call.env.extend(self.set.iter().map(|(name, value)| (name.into(), value.into())));
        let how = How { flags: &[], watched: Watched::All, said: Said::Kept };
        let ran = compile::run(&call, &self.place, how).await.ok()?;
        (ran.status.success() && ran.stdout.is_some() && ran.stderr.is_some()).then_some(ran)
    }

    /// Publishes what it made, and before that what it read, together with what others have found that it reads.
    async fn publish<C: Cache>(
        &self,
        door: &C,
        ran: &Ran,
        known: Option<Needs>,
    ) -> Result<([u8; 32], u64), Unpublished> {
        let seen = ran.seen.as_ref().ok_or(Unfit::Unwatched)?;
        let mut needs = self.scope.needs(seen, |_, _| false)?;
        let had = known.clone();
        if let Some(known) = known {
            needs.names.extend(known.names);
            needs.variables |= known.variables;
        }
        let state = self.scope.state(&needs)?;
        let parts = self.parts(ran)?;
        scan(&parts, &marks(self.call, &self.place, &self.toolchain.sysroot))?;
        if let Some(file) = output::copied(&parts, seen, &self.place)? {
            return Err(Unpublished::Copied(file));
        }
        let list = vec![Part::text(LIST, needs.text())];
        scan(&list, &marks(self.call, &self.place, Path::new("")))?;
        let work = async {
            if had.as_ref() != Some(&needs) {
                self.claim(door, (self.first, None), list).await?;
            }
            let cost = u64::try_from(ran.cost.as_millis()).ok();
            let key = key::second(self.first, &state);
            // Before the last thing that is waited for: what is said at the very end may not be heard.
            self.tell(door, "run", key).await;
            Ok((key, self.claim(door, (key, cost), parts).await?))
        };
        offered(door, self.call, work).await
    }

    async fn claim<C: Cache>(
        &self,
        door: &C,
        (key, cost_ms): ([u8; 32], Option<u64>),
        parts: Vec<Part>,
    ) -> Result<u64, Unpublished> {
        let output = write_tree(door, parts).await?;
        let total = output.total;
        let labels = Labels {
            tool: Text::new("build-script"),
            toolchain: Text::new(self.toolchain.release()),
            platform: Text::new(self.call.var("TARGET").unwrap_or_default()),
            cost_ms,
        };
        let (key, output) = (key.to_vec(), Output::Tree(output));
        let project = self.call.project.clone();
        let taints = Vec::new();
        let publication = Publication { project, recipe: recipe(), key, output, labels, taints };
        hand_over(door, self.call, publication).await?;
        Ok(total)
    }
}

/// Whether a text tells a compiler to ask which processor this is: what it makes then is of no use to others. No system
/// call shows that it does.
fn is_for_this_processor(text: &[u8]) -> bool {
    ["march=native", "mcpu=native", "mtune=native", "target-cpu=native"]
        .iter()
        .any(|flag| memchr::memmem::find(text, flag.as_bytes()).is_some())
}

fn recipe() -> Recipe {
    Recipe::new(RECIPE).expect("it is a valid name")
}
