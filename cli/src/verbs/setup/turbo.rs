// SPDX-License-Identifier: MIT OR Apache-2.0
//! turbo: `apiUrl` in the person's own settings, with a token and a team where there are none: without them turbo asks no
//! cache.

use std::path::PathBuf;

use serde_json::{Map, Value};

use super::edit::{self, Edit};
use super::{Leads, Plan, Surroundings, Tool, served};
use crate::failure::Failure;

pub(super) const TOOL: Tool =
    Tool { name: "turbo", about: "outputs of tasks of Turborepo, by HTTP", plan, leads: Some(leads) };

/// What is said of the cache in settings; older ones have no upper case.
const URL: [&str; 2] = ["apiUrl", "apiurl"];
/// The variable that wins over all settings.
const API: &str = "TURBO_API";

fn plan(around: &Surroundings) -> Result<Plan, Failure> {
    let url = served::url(around, "turbo")?;
    let path = file(around);
    let before = around.read(&path)?;
    let after = wired(before.as_deref().unwrap_or_default(), &url)
        .map_err(|why| Failure::failed(format!("{}: {why}", path.display())).hint("nothing was changed"))?;
    let mut notes = vec![
        "a workspace may name another cache in its .turbo/config.json, and CI best sets TURBO_API, TURBO_TOKEN and \
         TURBO_TEAM instead; those of one team share"
            .to_owned(),
    ];
    if around.env.get(API).is_some_and(|set| *set != url) {
        notes.push(format!("{API} is set here, and wins over the settings: unset it"));
    }
    Ok(Plan { edits: vec![Edit { path, before, after }], notes })
}

/// The file that turbo reads for every workspace.
fn file(around: &Surroundings) -> PathBuf {
    let named = |name: &str| around.env.get(name).filter(|value| !value.is_empty()).map(PathBuf::from);
    if let Some(folder) = named("TURBO_CONFIG_DIR_PATH") {
        return folder.join("turborepo/config.json");
    }
    let settings = match named("XDG_CONFIG_HOME") {
        Some(settings) => settings,
        None if cfg!(target_os = "macos") => around.user.join("Library/Application Support"),
        None => around.user.join(".config"),
    };
    settings.join("turborepo/config.json")
}

fn settings(text: &str) -> Result<Map<String, Value>, String> {
    if text.trim().is_empty() {
        return Ok(Map::new());
    }
    serde_json::from_str(text).map_err(|error| format!("it is not understood: {error}"))
}

fn url_of(settings: &Map<String, Value>) -> Option<&str> {
    URL.iter().find_map(|name| settings.get(*name)?.as_str())
}

/// The settings with our address.
fn wired(text: &str, url: &str) -> Result<String, String> {
    let mut settings = settings(text)?;
    match url_of(&settings) {
        Some(found) if found == url => return Ok(text.to_owned()),
        Some(other) => return Err(format!("apiUrl is {other:?} already")),
        None => {}
    }
    let has =
        |settings: &Map<String, Value>, names: &[&str]| names.iter().any(|name| settings.contains_key(*name));
    settings.insert(URL[0].to_owned(), url.into());
    for (name, others) in
        [("token", &["token"][..]), ("teamSlug", &["teamSlug", "teamslug", "teamId", "teamid"])]
    {
        if !has(&settings, others) {
            settings.insert(name.to_owned(), "potluck".into());
        }
    }
    let text = serde_json::to_string_pretty(&settings).map_err(|error| error.to_string())?;
    Ok(text + "\n")
}

fn leads(around: &Surroundings) -> Result<Leads, Failure> {
    if let Some(leads) = Leads::variable(around, API) {
        return Ok(leads);
    }
    let own = file(around);
    let near = Surroundings::nearest(".turbo/config.json")?;
    let of_person = edit::read(&own)?.map(|text| (own.clone(), text));
    for (path, text) in [near, of_person].into_iter().flatten() {
        let settings =
            settings(&text).map_err(|why| Failure::failed(format!("{}: {why}", path.display())))?;
        if let Some(url) = url_of(&settings) {
            return Ok(Leads::file(&path, Some(url)));
        }
    }
    Ok(Leads::file(&own, None::<String>))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OURS: &str = "http://127.0.0.1:7117/turbo";

    #[test]
    fn settings_gain_an_address_once() {
        let fresh = wired("", OURS).unwrap();
        let settings: Value = serde_json::from_str(&fresh).unwrap();
        assert_eq!(
            settings,
            serde_json::json!({ "apiUrl": OURS, "token": "potluck", "teamSlug": "potluck" })
        );
        assert_eq!(wired(&fresh, OURS).unwrap(), fresh, "twice is once");
        let kept = wired("{\"token\":\"t\",\"teamid\":\"team_1\"}", OURS).unwrap();
        let settings: Value = serde_json::from_str(&kept).unwrap();
        assert_eq!(settings, serde_json::json!({ "token": "t", "teamid": "team_1", "apiUrl": OURS }));
    }

    #[test]
    fn what_is_set_otherwise_is_left_alone() {
        for text in ["{\"apiUrl\":\"https://other\"}", "{\"apiurl\":\"https://other\"}", "{", "[]"] {
            assert!(wired(text, OURS).is_err(), "{text}");
        }
    }
}
