// SPDX-License-Identifier: MIT OR Apache-2.0
//! go: `GOCACHEPROG` in the file that `go env -w` writes.

use std::path::{Path, PathBuf};

use potluck_node::home::Home;

use super::edit::Edit;
use super::{Leads, Plan, Surroundings, Tool};
use crate::failure::Failure;

pub(super) const TOOL: Tool = Tool {
    name: "go",
    about: "what go 1.24 or newer builds, and results of its tests",
    plan,
    leads: Some(leads),
};

/// What names the helper.
const NAME: &str = "GOCACHEPROG";

fn plan(around: &Surroundings) -> Result<Plan, Failure> {
    let path = file(around)?;
    let usual = Home::locate(None)?;
    let home = (around.home != usual.root()).then_some(around.home.as_path());
    let failed =
        |why: &str| Failure::failed(format!("{}: {why}", path.display())).hint("nothing was changed");
    let helper = helper(&around.programs.join("potluck"), home).map_err(failed)?;
    let before = around.read(&path)?;
    let text = before.as_deref().unwrap_or_default();
    let mut notes = vec![
        "builds in different folders share only what does not name them: `go build -trimpath`, or \
         `go env -w GOFLAGS=-trimpath`"
            .to_owned(),
    ];
    if let Some(other) = value(text).filter(|other| *other != helper) {
        notes.push(format!("{NAME} was {other:?}, which go does not use until `potluck setup go --undo`"));
    }
    if around.env.get(NAME).is_some_and(|set| *set != helper) {
        notes.push(format!("{NAME} is set in your environment, and wins over the settings: unset it"));
    }
    let after = wired(text, &helper);
    Ok(Plan { edits: vec![Edit { path, before, after }], notes })
}

fn leads(around: &Surroundings) -> Result<Leads, Failure> {
    if let Some(leads) = Leads::variable(around, NAME) {
        return Ok(leads);
    }
    let path = file(around)?;
    let text = super::edit::read(&path)?.unwrap_or_default();
    Ok(Leads::file(&path, value(&text)))
}

/// The file that go reads.
fn file(around: &Surroundings) -> Result<PathBuf, Failure> {
    let var = |name: &str| around.env.get(name).filter(|value| !value.is_empty());
    match var("GOENV") {
        Some(off) if off == "off" => Err(Failure::failed("GOENV=off: go reads no settings from a file")
            .hint("unset GOENV, or set GOCACHEPROG in your environment to what `potluck setup go --print` shows")),
        Some(path) => Ok(PathBuf::from(path)),
        None if cfg!(target_os = "macos") => Ok(around.user.join("Library/Application Support/go/env")),
        None => {
            let config = var("XDG_CONFIG_HOME").map_or_else(|| around.user.join(".config"), PathBuf::from);
            Ok(config.join("go/env"))
        }
    }
}

/// The command, as go splits it into words.
fn helper(program: &Path, home: Option<&Path>) -> Result<String, &'static str> {
    let word = |path: &Path| {
        let text = path.to_str().ok_or("a path is not UTF-8")?;
        match (text.contains(char::is_whitespace) || text.contains('"'), text.contains('\'')) {
            _ if text.contains('\n') => Err("a path holds the end of a line"),
            (false, false) => Ok(text.to_owned()),
            (_, false) => Ok(format!("'{text}'")),
            (_, true) if !text.contains('"') => Ok(format!("\"{text}\"")),
            _ => Err("a path holds both kinds of quotes"),
        }
    };
    let home = home.map(|home| word(home).map(|home| format!(" --home {home}"))).transpose()?;
    Ok(format!("{}{} gocacheprog", word(program)?, home.unwrap_or_default()))
}

/// What the settings say so far; of several the last counts.
fn value(text: &str) -> Option<&str> {
    text.lines().filter_map(|line| line.trim().strip_prefix(NAME)?.strip_prefix('=')).next_back()
}

/// The settings with the helper in them.
fn wired(text: &str, helper: &str) -> String {
    let line = format!("{NAME}={helper}\n");
    let old = |text: &str| value(text).is_some();
    let mut lines: Vec<_> = text.split_inclusive('\n').filter(|line| !old(line)).collect();
    let whole = lines.last().is_none_or(|last| last.ends_with('\n'));
    // Where it stood, or else at the end.
    let place = text.split_inclusive('\n').position(old);
    match place {
        Some(place) => lines.insert(place, &line),
        None if whole => lines.push(&line),
        None => lines.extend(["\n", line.as_str()]),
    }
    lines.concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_line_of_the_helper_is_another_one() {
        assert_eq!(wired("", "p g"), "GOCACHEPROG=p g\n");
        assert_eq!(wired("GOFLAGS=-x", "p g"), "GOFLAGS=-x\nGOCACHEPROG=p g\n");
        let text = "# mine\nGOCACHEPROG=other one\nGOFLAGS=-x\nGOCACHEPROG=again\n";
        assert_eq!(value(text), Some("again"));
        assert_eq!(wired(text, "p g"), "# mine\nGOCACHEPROG=p g\nGOFLAGS=-x\n");
        assert_eq!(wired("GOCACHEPROG=other", "p g"), "GOCACHEPROG=p g\n");
        assert_eq!(value("# GOCACHEPROG=x\nGOCACHEPROGS=y\n"), None);
    }

    #[test]
    fn the_command_is_split_as_it_was_meant() {
        let of = |program: &str, home: Option<&str>| helper(Path::new(program), home.map(Path::new));
        assert_eq!(of("/p/potluck", None).unwrap(), "/p/potluck gocacheprog");
        assert_eq!(of("/a b/potluck", Some("/h'h")).unwrap(), "'/a b/potluck' --home \"/h'h\" gocacheprog");
        assert!(of("/a'\"b", None).is_err() && of("/a\nb", None).is_err());
    }
}
