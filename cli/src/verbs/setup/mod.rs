// SPDX-License-Identifier: MIT OR Apache-2.0
//! `potluck setup TOOL`: wires a tool up, and takes that back exactly.
//!
//! A tool is one file here and one line in [`TOOLS`]: a function that reads the tool's own files by way of
//! [`Surroundings::read`] and says what they should be, as a [`Plan`]. Showing, writing, remembering and taking back are
//! the same for all of them. A plan is always made from the files as they are *without* potluck, so that setting up
//! twice comes to the same as once.

mod bazel;
mod cargo;
mod ccache;
mod edit;
mod go;
mod gradle;
mod nix;
mod record;
mod sccache;
mod served;
mod turbo;
mod workspace;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use clap::Args as ClapArgs;
use potluck_node::home::Home;
use serde_json::{Value, json};

use self::edit::Edit;
use self::record::Record;
use crate::exit::Exit;
use crate::failure::Failure;
use crate::say::Say;

/// Largest file of a tool that is read, in bytes.
const MAX_FILE: u64 = 1 << 20;

/// What can be wired up.
pub(super) const TOOLS: &[Tool] = &[
    cargo::TOOL,
    ccache::TOOL,
    sccache::TOOL,
    bazel::TOOL,
    gradle::TOOL,
    workspace::NX,
    workspace::MOON,
    turbo::TOOL,
    nix::TOOL,
    go::TOOL,
];

/// A tool that can be wired up.
pub(super) struct Tool {
    /// Its name on the command line.
    pub(super) name: &'static str,
    /// What it gains, for people.
    about: &'static str,
    /// What its files should be.
    plan: fn(&Surroundings) -> Result<Plan, Failure>,
    /// Where it looks for its cache as things are; none for cargo, which has a doctor of its own.
    pub(super) leads: Option<LooksUp>,
}

/// Where a tool looks for its cache.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Leads {
    /// What says so, or would: a variable or a file.
    pub(super) by: String,
    /// The URL, or the command; none when nothing is said.
    pub(super) to: Option<String>,
}

impl Leads {
    /// A variable that wins over all files, if it is set.
    fn variable(around: &Surroundings, name: &str) -> Option<Self> {
        let to = around.env.get(name).filter(|value| !value.is_empty())?.clone();
        Some(Self { by: name.to_owned(), to: Some(to) })
    }

    fn file(path: &Path, to: Option<impl Into<String>>) -> Self {
        Self { by: path.display().to_string(), to: to.map(Into::into) }
    }
}

/// Finds out where a tool looks for its cache.
pub(super) type LooksUp = fn(&Surroundings) -> Result<Leads, Failure>;

/// What is to be done for a tool.
#[derive(Debug, Default)]
struct Plan {
    /// What its files should be, whether or not they are so already.
    edits: Vec<Edit>,
    /// What the person should know: what else counts, and what potluck cannot do for her.
    notes: Vec<String>,
}

/// Where the person and the programs are.
pub(super) struct Surroundings {
    /// The node's home.
    pub(super) home: PathBuf,
    /// The person's own folder.
    user: PathBuf,
    /// The folder of the program that runs.
    programs: PathBuf,
    /// Variables that are text.
    env: BTreeMap<String, String>,
    /// What was done here before.
    record: Record,
}

impl Surroundings {
    pub(super) fn find(home: &Home, tool: &Tool) -> Result<Self, Failure> {
        let env: BTreeMap<_, _> = std::env::vars_os()
            .filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
            .collect();
        let user = env.get("HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
        let user = user.ok_or_else(|| Failure::failed("HOME is not set, so your settings are not found"))?;
        let this = std::env::current_exe()
            .map_err(|error| Failure::failed(format!("cannot tell where potluck itself lies: {error}")))?;
        let programs = this.parent().unwrap_or(Path::new("/")).to_owned();
        let record = Record::read(home.root(), tool.name)?;
        Ok(Self { home: home.root().to_owned(), user, programs, env, record })
    }

    /// The nearest file of this name here or in a folder above, with its text.
    fn nearest(name: &str) -> Result<Option<(PathBuf, String)>, Failure> {
        let here = std::env::current_dir().unwrap_or_default();
        for folder in here.ancestors() {
            let path = folder.join(name);
            if let Some(text) = edit::read(&path)? {
                return Ok(Some((path, text)));
            }
        }
        Ok(None)
    }

    /// The text of a file as it would be had potluck never changed it; nothing when there is none.
    fn read(&self, path: &Path) -> Result<Option<String>, Failure> {
        let now = edit::read(path)?;
        let Some(was) = self.record.edit(path) else { return Ok(now) };
        Ok(was.taken_back(now.as_deref()).unwrap_or(now))
    }
}

/// Wire a tool up so that it uses this node, or take that back
///
/// Changes the tool's own settings in your folder, shows what it changes, and remembers how they were: `--undo` puts
/// them back byte for byte. Setting up twice changes nothing more. For example: `potluck setup cargo --print`
#[derive(Debug, ClapArgs)]
pub(crate) struct Setup {
    /// The tool; all that are known are listed when none is named
    #[arg(value_parser = clap::builder::PossibleValuesParser::new(TOOLS.iter().map(|tool| tool.name)))]
    tool: Option<String>,
    /// Take it back: the settings are then as they were found
    #[arg(long, requires = "tool")]
    undo: bool,
    /// Only show what would be changed
    #[arg(long, requires = "tool")]
    print: bool,
}

impl Setup {
    pub(crate) fn run(&self, home: &Home, say: &mut Say) -> Result<Exit, Failure> {
        let Some(name) = &self.tool else { return list(home, say) };
        let tool = TOOLS.iter().find(|tool| tool.name == name);
        let tool = tool.ok_or_else(|| Failure::usage(format!("{name} is not known here")))?;
        let mut around = Surroundings::find(home, tool)?;
        if self.undo { self.take_back(tool, &mut around, say) } else { self.wire(tool, &mut around, say) }
    }

    fn wire(&self, tool: &Tool, around: &mut Surroundings, say: &mut Say) -> Result<Exit, Failure> {
        let Plan { edits, notes } = (tool.plan)(around)?;
        let mut changes = Vec::new();
        for edit in &edits {
            let now = edit::read(&edit.path)?;
            if now.as_deref() != Some(edit.after.as_str()) {
                changes.push(Change { path: edit.path.clone(), from: now, to: Some(edit.after.clone()) });
            }
        }
        let edits: Vec<_> = edits.into_iter().filter(Edit::changes_anything).collect();
        if !self.print && !changes.is_empty() {
            // First what was, so that a run that ends here can be taken back.
            around.record.remember(edits)?;
            carry_out(&changes)?;
        }
        let done = format!("{} uses this node", tool.name);
        self.tell((tool.name, &done), (&changes, &notes), say)
    }

    /// Takes back what was done where the tool looks here and now: in another workspace, or for another user folder of the
    /// tool's, it stays.
    fn take_back(&self, tool: &Tool, around: &mut Surroundings, say: &mut Say) -> Result<Exit, Failure> {
        let folder = |edit: &Edit| edit.path.parent().map(Path::to_owned);
        // When it cannot be told where that is, everywhere.
        let here = (tool.plan)(around).ok().map(|plan| plan.edits.iter().map(folder).collect::<Vec<_>>());
        let is_here = |edit: &Edit| here.as_ref().is_none_or(|here| here.contains(&folder(edit)));
        let (own, others): (Vec<_>, Vec<_>) = around.record.edits().iter().partition(|edit| is_here(edit));
        let mut changes = Vec::new();
        for edit in &own {
            let now = edit::read(&edit.path)?;
            let to = edit.taken_back(now.as_deref()).ok_or_else(|| {
                let path = edit.path.display();
                Failure::failed(format!("{path} was changed since, where potluck had changed it"))
                    .hint(format!("mend it by hand; this is what potluck wrote:\n{}", edit.lines()))
            })?;
            if to != now {
                changes.push(Change { path: edit.path.clone(), from: now, to });
            }
        }
        let still = |edit: &&Edit| format!("it is set up in {} as well, which stays so", edit.path.display());
        let notes: Vec<_> = others.iter().map(still).collect();
        let own: Vec<_> = own.iter().map(|edit| edit.path.clone()).collect();
        if !self.print {
            carry_out(&changes)?;
            around.record.forget(&own)?;
        }
        let done = format!("{} is as it was before", tool.name);
        self.tell((tool.name, &done), (&changes, &notes), say)
    }

    fn tell(
        &self,
        (tool, done): (&str, &str),
        (changes, notes): (&[Change], &[String]),
        say: &mut Say,
    ) -> Result<Exit, Failure> {
        let mut text: String = changes.iter().map(Change::text).collect();
        text += match (self.print, changes.is_empty()) {
            (_, true) => "nothing is to be changed",
            (true, false) => "nothing was changed: this is what would be",
            (false, false) => done,
        };
        for note in notes {
            text += &format!("\nnote: {note}");
        }
        let changes: Vec<_> = changes.iter().map(Change::json).collect();
        let changed = !self.print && !changes.is_empty();
        let object = json!({
            "tool": tool, "undo": self.undo, "changed": changed, "changes": changes, "notes": notes,
        });
        say.answer(&text, object)?;
        Ok(Exit::Done)
    }
}

/// One file that is to be other than it is.
struct Change {
    path: PathBuf,
    from: Option<String>,
    /// None when it is to go.
    to: Option<String>,
}

impl Change {
    fn text(&self) -> String {
        let (from, to) = (self.from.as_deref().unwrap_or_default(), self.to.as_deref().unwrap_or_default());
        let title = match (&self.from, &self.to) {
            (None, _) => "new file ",
            (_, None) => "no more ",
            _ => "",
        };
        let hunk = edit::Hunk::between(from, to);
        let lines = |sign: char, lines: &[&str]| {
            lines.iter().map(|line| format!("  {sign} {}\n", line.trim_end())).collect::<String>()
        };
        format!("{title}{}\n{}{}", self.path.display(), lines('-', &hunk.old), lines('+', &hunk.new))
    }

    fn json(&self) -> Value {
        json!({ "path": self.path.display().to_string(), "from": self.from, "to": self.to })
    }
}

fn carry_out(changes: &[Change]) -> Result<(), Failure> {
    changes.iter().try_for_each(|change| match &change.to {
        Some(text) => edit::write(&change.path, text),
        None => edit::remove(&change.path),
    })
}

fn list(home: &Home, say: &mut Say) -> Result<Exit, Failure> {
    let (mut text, mut rows) = (String::new(), Vec::new());
    for tool in TOOLS {
        let wired = !Record::read(home.root(), tool.name)?.edits().is_empty();
        let state = if wired { "set up" } else { "" };
        text += &format!("{:<12}{:<8}{}\n", tool.name, state, tool.about);
        rows.push(json!({ "tool": tool.name, "set_up": wired, "about": tool.about }));
    }
    say.answer(text.trim_end(), json!({ "tools": rows }))?;
    Ok(Exit::Done)
}
