// SPDX-License-Identifier: MIT OR Apache-2.0
//! Gradle: a script of its own in the person's `init.d`, which gives each build a remote cache that has none.

use std::path::PathBuf;

use super::edit::{self, Edit};
use super::{Leads, Plan, Surroundings, Tool, served};
use crate::failure::Failure;

pub(super) const TOOL: Tool =
    Tool { name: "gradle", about: "outputs of tasks, by HTTP", plan, leads: Some(leads) };

fn plan(around: &Surroundings) -> Result<Plan, Failure> {
    let url = served::url(around, "gradle")?;
    let [script, properties] = files(around);
    let (before, set) = (around.read(&script)?, around.read(&properties)?);
    let on = wired(set.as_deref().unwrap_or_default()).map_err(|why| {
        Failure::failed(format!("{}: {why}", properties.display())).hint("nothing was changed")
    })?;
    let edits = vec![
        Edit { path: script, before, after: text(&url) },
        Edit { path: properties, before: set, after: on },
    ];
    Ok(Plan { edits, notes: vec!["with --offline Gradle asks no cache".to_owned()] })
}

/// Our script, and the person's settings.
fn files(around: &Surroundings) -> [PathBuf; 2] {
    let home = around.env.get("GRADLE_USER_HOME").filter(|home| !home.is_empty()).map(PathBuf::from);
    let home = home.unwrap_or_else(|| around.user.join(".gradle"));
    [home.join("init.d/potluck.gradle"), home.join("gradle.properties")]
}

fn leads(around: &Surroundings) -> Result<Leads, Failure> {
    let [script, properties] = files(around);
    let set = edit::read(&properties)?.unwrap_or_default();
    if caching(&set) != Some("true") {
        // Whatever caches there are, none is asked.
        return Ok(Leads::file(&properties, None::<String>));
    }
    let text = edit::read(&script)?.unwrap_or_default();
    let url = text.lines().find_map(|line| line.trim().strip_prefix("url = '")?.strip_suffix('\''));
    Ok(Leads::file(&script, url))
}

/// The script. Older versions of Gradle have no word for a server without TLS, and need none.
fn text(url: &str) -> String {
    format!(
        "// Written by `potluck setup gradle`; `potluck setup gradle --undo` takes it back.\n\
         gradle.settingsEvaluated {{ settings ->\n  settings.buildCache {{\n    if (remote == null) {{\n      \
         remote(HttpBuildCache) {{\n        url = '{url}/'\n        push = true\n        \
         if (it.hasProperty('allowInsecureProtocol')) {{ allowInsecureProtocol = true }}\n      }}\n    }}\n  }}\n}}\n"
    )
}

/// What the settings say of caching.
fn caching(properties: &str) -> Option<&str> {
    properties.lines().find_map(|line| {
        let (name, value) = line.split_once('=')?;
        (name.trim() == "org.gradle.caching").then(|| value.trim())
    })
}

/// The settings with caching turned on.
fn wired(properties: &str) -> Result<String, String> {
    match caching(properties) {
        Some("true") => Ok(properties.to_owned()),
        Some(other) => Err(format!("org.gradle.caching is {other:?}: set it to true")),
        None => {
            let gap = if properties.is_empty() || properties.ends_with('\n') { "" } else { "\n" };
            Ok(format!("{properties}{gap}org.gradle.caching=true\n"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn caching_is_turned_on_once() {
        assert_eq!(wired("").unwrap(), "org.gradle.caching=true\n");
        assert_eq!(wired("a=b").unwrap(), "a=b\norg.gradle.caching=true\n");
        assert_eq!(wired("org.gradle.caching = true\n").unwrap(), "org.gradle.caching = true\n");
        assert!(wired("org.gradle.caching=false\n").is_err());
    }
}
